//! A machine for one test: its own directory, control groups, image; and proof that nothing of it is left.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use skep_runtime::cgroup::{Base, Tree};
use skep_runtime::spec::*;
use skep_runtime::{Exit, Runtime, RuntimeConfig, Sandbox};

static NEXT: AtomicU32 = AtomicU32::new(0);

pub(crate) struct Machine {
    pub(crate) runtime: Runtime,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) group: PathBuf,
}

fn busybox() -> Option<PathBuf> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/busybox");
    [tools, "/bin/busybox".into(), "/usr/bin/busybox".into()].into_iter().find(|p| p.exists())
}

impl Machine {
    /// `None`, and a word about it, where containers cannot run.
    pub(crate) fn new() -> Option<Machine> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: containers need root");
            return None;
        }
        let Some(busybox) = busybox() else {
            eprintln!("SKIPPED: no static busybox; run `make tools`");
            return None;
        };
        let folder = tempfile::Builder::new().prefix("skep-runtime-test-").tempdir().unwrap();
        let bin = folder.path().join("layer/bin");
        fs::create_dir_all(&bin).unwrap();
        fs::copy(busybox, bin.join("busybox")).unwrap();
        for name in [
            "sh", "echo", "cat", "sleep", "ls", "id", "mount", "hostname", "ps", "kill", "true", "false",
            "head", "mkdir", "touch", "mknod", "dd", "readlink", "stat", "chroot", "unshare", "ip", "wc",
            "yes", "stty", "nsenter", "pwd", "env", "ln", "grep", "tail", "od", "chmod", "umount", "seq",
            "df", "sysctl", "cut",
        ] {
            std::os::unix::fs::symlink("busybox", bin.join(name)).unwrap();
        }
        let etc = folder.path().join("layer/etc");
        fs::create_dir_all(&etc).unwrap();
        fs::write(etc.join("passwd"), "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/srv:/bin/sh\n")
            .unwrap();
        fs::write(etc.join("group"), "root:x:0:\nwww:x:34:\nlogs:x:50:web\n").unwrap();
        fs::create_dir_all(folder.path().join("layer/tmp")).unwrap();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let group = PathBuf::from(format!("skep-runtime-test-{}-{number}", std::process::id()));
        let runtime = Runtime::open(RuntimeConfig {
            state_directory: folder.path().join("state"),
            shim: vec![env!("CARGO_BIN_EXE_skep-shim").into()],
            tree: Tree::detect(Base::Own).unwrap(),
        })
        .unwrap();
        Some(Machine { runtime, folder, group })
    }

    pub(crate) fn sandbox_spec(&self, id: &str) -> SandboxSpec {
        SandboxSpec {
            id: id.to_owned(),
            hostname: format!("{id}-host"),
            network: Network::New { pin: None },
            pid: PidNamespace::Container,
            host_ipc: false,
            host_uts: false,
            user_namespace: None,
            sysctls: Default::default(),
            cgroup: self.group.join(id),
            resources: Resources::default(),
            shm_size_bytes: 1 << 20,
            labels: Default::default(),
        }
    }

    pub(crate) async fn pod(&self, id: &str) -> Sandbox {
        self.runtime.create(self.sandbox_spec(id)).await.unwrap()
    }

    pub(crate) fn container(&self, id: &str, args: &[&str]) -> ContainerSpec {
        ContainerSpec {
            processes_of: None,
            id: id.to_owned(),
            rootfs: Rootfs { layers: vec![self.folder.path().join("layer")], ids: Ids::Machine, upper: None },
            process: ProcessSpec::new(args.iter().copied()),
            mounts: Vec::new(),
            read_only_root: false,
            masked_paths: default_masked_paths(),
            read_only_paths: default_read_only_paths(),
            devices: Devices::Usual,
            writable_sys: false,
            resources: Resources::default(),
            stdin: false,
            stdin_once: false,
            log: Some(LogSpec { path: self.log(id), max_bytes: 10 << 20, max_files: 5 }),
            labels: Default::default(),
        }
    }

    pub(crate) fn sh(&self, id: &str, script: &str) -> ContainerSpec {
        self.container(id, &["sh", "-c", script])
    }

    pub(crate) fn log(&self, id: &str) -> PathBuf {
        self.folder.path().join(format!("{id}.log"))
    }

    /// What a container wrote, both outputs.
    pub(crate) fn output(&self, id: &str) -> String {
        let mut reader = skep_runtime::logs::LogReader::open(&self.log(id), Default::default()).unwrap();
        let mut out = Vec::new();
        while reader.read(&mut out).unwrap() == skep_runtime::logs::Progress::More {}
        String::from_utf8_lossy(&out).into_owned()
    }

    /// Runs a container to its end.
    pub(crate) async fn run(&self, pod: &Sandbox, spec: ContainerSpec) -> (Exit, String) {
        let id = spec.id.clone();
        pod.create(spec).await.unwrap();
        if let Err(error) = pod.start(&id).await {
            return (pod.wait(&id).await.unwrap(), error.full());
        }
        let exit =
            tokio::time::timeout(Duration::from_secs(30), pod.wait(&id)).await.expect("it ends").unwrap();
        (exit, self.output(&id))
    }

    /// Runs a script in a new pod with changes to its spec, and returns its exit code and output.
    pub(crate) async fn script(
        &self,
        name: &str,
        script: &str,
        change: impl FnOnce(&mut ContainerSpec),
    ) -> (i32, String) {
        let pod = self.pod(name).await;
        let mut spec = self.sh(name, script);
        change(&mut spec);
        let (exit, output) = self.run(&pod, spec).await;
        self.runtime.remove(name).await.unwrap();
        (exit.code, output)
    }

    /// Removes all pods and looks for what they left.
    pub(crate) async fn finish(self) {
        for pod in self.runtime.pods().await.unwrap() {
            let id = match &pod {
                skep_runtime::Found::Running(pod) => pod.id().to_owned(),
                skep_runtime::Found::Dead(pod) => pod.id.clone(),
            };
            drop(pod);
            self.runtime.remove(&id).await.unwrap();
        }
        self.assert_nothing_left();
    }

    pub(crate) fn assert_nothing_left(&self) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let folder = self.folder.path().to_str().unwrap();
        let left: Vec<&str> = mounts.lines().filter(|l| l.contains(folder)).collect();
        assert!(left.is_empty(), "mounts left: {left:#?}");
        let pods = self.folder.path().join("state/pods");
        let left: Vec<_> = fs::read_dir(&pods).unwrap().flatten().map(|e| e.path()).collect();
        assert!(left.is_empty(), "directories left: {left:?}");
        // A shim that was told to end may need a moment.
        eventually("processes to go", || self.processes().is_empty());
        let tree = self.runtime.tree();
        let groups: BTreeSet<String> = tree
            .directories(&self.group)
            .iter()
            .filter_map(|d| fs::read_dir(d).ok())
            .flatten()
            .flatten()
            .filter(|e| e.path().is_dir())
            .map(|e| e.path().display().to_string())
            .collect();
        assert!(groups.is_empty(), "control groups left: {groups:?}");
        tree.remove(&self.group).unwrap();
    }

    /// Shims and containers of this machine.
    pub(crate) fn processes(&self) -> Vec<String> {
        let folder = self.folder.path().to_str().unwrap().to_owned();
        let group = self.group.to_str().unwrap().to_owned();
        fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter(|e| e.file_name().to_str().unwrap().bytes().all(|b| b.is_ascii_digit()))
            .filter_map(|e| {
                let line = fs::read_to_string(e.path().join("cmdline")).ok()?.replace('\0', " ");
                let groups = fs::read_to_string(e.path().join("cgroup")).ok()?;
                let ours =
                    (line.contains(&folder) && line.contains("--directory")) || groups.contains(&group);
                ours.then(|| format!("{} {line}", e.file_name().to_str().unwrap()))
            })
            .collect()
    }
}

impl Drop for Machine {
    /// After a failure: nothing may be left on a machine that others use.
    fn drop(&mut self) {
        let tree = self.runtime.tree();
        for line in self.processes().iter().filter(|l| l.contains("--directory")) {
            if let Some(pid) =
                line.split(' ').next().and_then(|p| p.parse().ok()).and_then(rustix::process::Pid::from_raw)
            {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        if tree.exists(&self.group) {
            let _ = tree.kill(&self.group);
            let _ = tree.remove(&self.group);
        }
        for pod in fs::read_dir(self.folder.path().join("state/pods")).into_iter().flatten().flatten() {
            let _ = rustix::mount::unmount(pod.path().join("shm"), rustix::mount::UnmountFlags::DETACH);
        }
    }
}

pub(crate) fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
