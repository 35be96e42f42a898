//! The pods of one machine: starting their shims, finding them again, cleaning up after them.

use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, UnmountFlags, open_tree};
use rustix::process::{Pid, Signal, kill_process};

use crate::cgroup::Tree;
use crate::client::Sandbox;
use crate::error::{AtPath, Error, ErrorKind, Result, write_atomically};
use crate::spec::{ContainerStatus, Network, SandboxSpec, valid_id};
use crate::sys;

/// Pods' directories below the state directory.
const PODS: &str = "pods";
/// Containers' directories below a pod's.
pub(crate) const CONTAINERS: &str = "containers";
/// What a pod was made from.
pub(crate) const SANDBOX_FILE: &str = "sandbox.json";
/// The shim's process and when it began, so that another process with its number is never taken for it.
pub(crate) const PID_FILE: &str = "shim.pid";
/// What is known of a container.
pub(crate) const STATUS_FILE: &str = "status.json";
/// Where each container mounts its root, below the state directory: in a mount namespace of its own, so one place serves all.
pub(crate) const ROOTFS: &str = "rootfs";
/// Layers with mount points, there too.
pub(crate) const MOUNT_POINTS: &str = "mountpoints";
/// Where the pod's shared memory is mounted.
pub(crate) const SHM: &str = "shm";

/// How long a shim may take to come up. It takes milliseconds; a machine that swaps takes longer.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a shim may take to end its pod, which includes waiting for killed processes.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(15);

/// Where things are.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    /// A directory for pods: state, writable layers, sockets. On a disk that can carry an overlay's upper layer.
    pub state_directory: PathBuf,
    /// The command of a shim, to which options are added: `["/proc/self/exe", "shim"]` in `skep`.
    pub shim: Vec<OsString>,
    /// The control groups that pods go into.
    pub tree: Tree,
}

/// The pods of one machine. Has no state but what is on disk: any number of these may exist.
#[derive(Debug, Clone)]
pub struct Runtime {
    config: RuntimeConfig,
}

/// A pod that is found after a restart.
#[derive(Debug)]
pub enum Found {
    /// Its shim lives, and containers go on.
    Running(Sandbox),
    /// Its shim is gone, and with it the knowledge of how containers ended. [`Runtime::remove`] cleans it up.
    Dead(Box<DeadPod>),
}

/// What is left of a pod whose shim is gone.
#[derive(Debug, Clone)]
pub struct DeadPod {
    /// Its id.
    pub id: String,
    /// What it was made from, unless even this is lost.
    pub spec: Option<SandboxSpec>,
    /// What was last known of its containers. Those that were running have ended without anybody seeing how.
    pub containers: Vec<ContainerStatus>,
}

impl Runtime {
    /// Makes the state directory when it is missing.
    pub fn open(config: RuntimeConfig) -> Result<Runtime> {
        let pods = config.state_directory.join(PODS);
        let rootfs = config.state_directory.join(ROOTFS);
        for folder in [&pods, &rootfs] {
            fs::create_dir_all(folder).at("make", folder)?;
        }
        use std::os::unix::fs::PermissionsExt;
        // Writable layers hold set-user-id programs of containers: nobody else may reach them.
        let private = fs::Permissions::from_mode(0o700);
        fs::set_permissions(&config.state_directory, private).at("protect", &config.state_directory)?;
        Ok(Runtime { config })
    }

    /// The control groups.
    pub fn tree(&self) -> &Tree {
        &self.config.tree
    }

    /// Where a pod's things are.
    pub fn pod_directory(&self, id: &str) -> PathBuf {
        self.config.state_directory.join(PODS).join(id)
    }

    /// Makes a pod: its control group, namespaces and shim. Leaves nothing behind when it fails.
    pub async fn create(&self, spec: SandboxSpec) -> Result<Sandbox> {
        let id = spec.id.clone();
        if !valid_id(&id) {
            return Err(Error::invalid(format!(
                "{id:?} is no id of a pod: use letters, digits, '-', '_' and '.', at most {} of them",
                crate::spec::MAX_ID_LENGTH
            )));
        }
        let directory = self.pod_directory(&id);
        match fs::create_dir(&directory) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(Error::new(ErrorKind::AlreadyExists, format!("pod {id} exists already")));
            }
            result => result.at("make", &directory)?,
        }
        let made = self.start_shim(&directory, &spec).await;
        match made {
            Ok(sandbox) => Ok(sandbox),
            Err(error) => {
                // Best effort: what is left is found by `pods` and removed by its caller.
                let _ = self.remove(&id).await;
                Err(error)
            }
        }
    }

    async fn start_shim(&self, directory: &Path, spec: &SandboxSpec) -> Result<Sandbox> {
        let text = serde_json::to_vec(spec).map_err(|e| Error::invalid(e.to_string()))?;
        write_atomically(&directory.join(SANDBOX_FILE), &text)?;
        self.config.tree.create(&spec.cgroup, &spec.resources)?;
        let (program, arguments) = self
            .config
            .shim
            .split_first()
            .ok_or_else(|| Error::invalid("the runtime's configuration names no program for shims"))?;
        let executable = read_only(Path::new(program))?;
        let mut command = tokio::process::Command::new(format!("/proc/self/fd/{}", executable.as_raw_fd()));
        command.arg0(program).args(arguments).arg("--directory").arg(directory);
        for group in self.config.tree.to_arguments() {
            command.arg("--cgroup").arg(group);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        command.env_clear().current_dir("/");
        let child = command.spawn().map_err(|e| {
            Error::io(format!("cannot start {}, the shim of pod {}", program.display(), spec.id), e)
        })?;
        // It goes into the background when it is ready, and says why if it cannot get there.
        let output = tokio::time::timeout(START_TIMEOUT, child.wait_with_output()).await;
        let failed =
            |why: String| Error::new(ErrorKind::Failed, format!("cannot make pod {}: {why}", spec.id));
        match output {
            Ok(Ok(output)) if output.status.success() => {}
            Ok(Ok(output)) => return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
            Ok(Err(e)) => return Err(failed(e.to_string())),
            Err(_) => return Err(failed(format!("its shim was not ready after {START_TIMEOUT:?}"))),
        }
        Sandbox::connect(directory, spec.clone(), self.config.tree.clone()).await
    }

    /// All pods of this machine, found again.
    pub async fn pods(&self) -> Result<Vec<Found>> {
        let folder = self.config.state_directory.join(PODS);
        let mut found = Vec::new();
        for entry in fs::read_dir(&folder).at("read", &folder)? {
            let entry = entry.at("read", &folder)?;
            let Some(id) = entry.file_name().to_str().filter(|id| valid_id(id)).map(str::to_owned) else {
                continue;
            };
            found.push(self.find(&id).await);
        }
        Ok(found)
    }

    /// One pod, found again: after a lost connection too.
    pub async fn find(&self, id: &str) -> Found {
        let directory = self.pod_directory(id);
        let spec = read_spec(&directory);
        if let Some(spec) = &spec
            && let Ok(sandbox) = Sandbox::connect(&directory, spec.clone(), self.config.tree.clone()).await
        {
            return Found::Running(sandbox);
        }
        Found::Dead(Box::new(DeadPod { id: id.to_owned(), spec, containers: read_statuses(&directory) }))
    }

    /// Ends a pod and removes everything of it: processes, mounts, control groups, namespaces, files. Works whatever state
    /// it is in, and may be repeated; a pod that does not exist is fine.
    pub async fn remove(&self, id: &str) -> Result<()> {
        if !valid_id(id) {
            return Err(Error::invalid(format!("{id:?} is no id of a pod")));
        }
        let directory = self.pod_directory(id);
        if !directory.exists() {
            return Ok(());
        }
        if let Found::Running(sandbox) = self.find(id).await {
            let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, sandbox.shutdown()).await;
        }
        let tree = self.config.tree.clone();
        let id = id.to_owned();
        tokio::task::spawn_blocking(move || clean_up(&tree, &directory))
            .await
            .map_err(|e| Error::new(ErrorKind::Failed, format!("removing pod {id} was interrupted: {e}")))?
    }
}

/// The program through a mount that nobody can write to. A container can reach the file of whatever executes in it, by
/// `/proc/PID/exe`, and would otherwise write itself into the machine's own program.
fn read_only(program: &Path) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = open_tree(CWD, program, flags).at("open", program)?;
    let attributes = sys::MountAttributes { set: sys::MOUNT_ATTR_RDONLY, ..Default::default() };
    sys::mount_setattr(&mount, false, &attributes).at("protect", program)?;
    Ok(mount)
}

/// The state directory, of a pod's.
pub(crate) fn state_of(pod: &Path) -> &Path {
    pod.parent().and_then(Path::parent).unwrap_or(pod)
}

fn read_spec(directory: &Path) -> Option<SandboxSpec> {
    serde_json::from_slice(&fs::read(directory.join(SANDBOX_FILE)).ok()?).ok()
}

fn read_statuses(directory: &Path) -> Vec<ContainerStatus> {
    let Ok(entries) = fs::read_dir(directory.join(CONTAINERS)) else { return Vec::new() };
    let mut all: Vec<ContainerStatus> = entries
        .flatten()
        .filter_map(|e| serde_json::from_slice(&fs::read(e.path().join(STATUS_FILE)).ok()?).ok())
        .collect();
    all.sort_by(|a, b| (a.created_at_ns, &a.id).cmp(&(b.created_at_ns, &b.id)));
    all
}

/// When a process began, in the kernel's ticks: with its number, this names it for ever.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may contain anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Removes whatever is left of a pod. Needs no shim.
pub(crate) fn clean_up(tree: &Tree, directory: &Path) -> Result<()> {
    kill_shim(directory);
    if let Some(spec) = read_spec(directory) {
        tree.kill(&spec.cgroup)?;
        tree.remove(&spec.cgroup)?;
        if let Network::New { pin: Some(pin) } = &spec.network {
            let _ = rustix::mount::unmount(pin, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
            let _ = fs::remove_file(pin);
        }
    }
    let shm = directory.join(SHM);
    while rustix::mount::unmount(&shm, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_ok() {}
    match fs::remove_dir_all(directory) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result.at("remove", directory),
    }
}

/// Kills the shim if it is still there, and waits until it is gone.
fn kill_shim(directory: &Path) {
    let Ok(text) = fs::read_to_string(directory.join(PID_FILE)) else { return };
    let mut words = text.split_whitespace();
    let (pid, began) = (words.next().and_then(|w| w.parse().ok()), words.next().and_then(|w| w.parse().ok()));
    let (Some(pid), Some(began)) = (pid, began) else { return };
    for _ in 0..KILL_TRIES {
        if start_time(pid) != Some(began) {
            return;
        }
        if let Some(pid) = Pid::from_raw(pid as i32) {
            let _ = kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Times 2 ms: a zombie that nobody reaps still has its start time, and must not hold us up for long.
const KILL_TRIES: usize = 100;
