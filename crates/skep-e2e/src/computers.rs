//! The whole cloud as `skep up` starts it, on one computer or on several: each further one is a network namespace with an
//! address of its own, on a wire that joins them.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use skep_client::{Access, Client};
use skep_net::underlay::Underlay;

use crate::{Kubectl, skep, succeed, tool};

/// How long anything may take on a busy computer.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// The image that [`Cloud`] loads: busybox, curl, kubectl, iperf3 where the computer has them.
pub const IMAGE: &str = "tools:test";

/// A cloud with data of its own. Taken down when dropped, with everything that it made.
pub struct Cloud {
    directory: tempfile::TempDir,
    listen: String,
    hosts: Vec<Computer>,
    wire: Option<Underlay>,
    /// Names of further computers end so.
    number: u32,
}

/// A further computer.
struct Computer {
    name: String,
    address: String,
    child: Option<Child>,
}

/// A number that no other cloud of this computer has at the same time: tests may share a process, or have one each.
fn unique() -> u32 {
    static CLOUDS: AtomicU32 = AtomicU32::new(0);
    // Far from the numbers of other processes.
    std::process::id().wrapping_add(CLOUDS.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x1_0007)) & 0xf_ffff
}

fn quietly(command: &mut Command) {
    let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
}

/// Whether tests with real machines can run here, and these programs are there; says why not.
#[must_use]
pub fn possible(programs: &[&str]) -> bool {
    let there = |program: &&&str| {
        let folders = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&folders).any(|folder| folder.join(program).exists())
    };
    let missing = programs.iter().find(|p| !there(p));
    let why =
        crate::agent::impossible().or(missing.map(|p| format!("there is no {p}; `make tools` installs it")));
    if let Some(why) = &why {
        eprintln!("SKIPPED: {why}");
    }
    why.is_none()
}

impl Cloud {
    /// `skep up`, which runs machines on this computer, with an image to run.
    #[must_use]
    pub fn up() -> Cloud {
        Cloud::up_with(&[])
    }

    /// The same with more options: `--hosts`.
    #[must_use]
    pub fn up_with(more: &[&str]) -> Cloud {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let directory = tempfile::tempdir().unwrap();
        let listen = format!("127.0.0.1:{port}");
        let cloud = Cloud { directory, listen, hosts: Vec::new(), wire: None, number: 0 };
        cloud.start(more);
        make_image(cloud.directory.path(), &cloud.data());
        cloud
    }

    /// A control plane by itself, and so many other computers, each with a host daemon.
    #[must_use]
    pub fn with_hosts(count: u8) -> Cloud {
        let n = unique();
        let subnet = format!("10.{}.{}.0/24", 210 + n % 40, n / 40 % 250).parse().unwrap();
        let wire = Underlay { bridge: format!("skt{n:x}"), subnet };
        wire.set_up().unwrap();
        let gateway = wire.gateway();
        let port = TcpListener::bind((gateway, 0)).unwrap().local_addr().unwrap().port();
        let directory = tempfile::tempdir().unwrap();
        let mut cloud = Cloud {
            directory,
            listen: format!("{gateway}:{port}"),
            hosts: Vec::new(),
            wire: Some(wire),
            number: n,
        };
        cloud.start(&["--no-host"]);
        make_image(cloud.directory.path(), &cloud.data());
        for _ in 0..count {
            cloud.add_host();
        }
        cloud
    }

    /// Another computer, with a host daemon; its number.
    pub fn add_host(&mut self) -> usize {
        let wire = self.wire.as_ref().unwrap();
        let index = self.hosts.len();
        let number = u8::try_from(index).unwrap() + 1;
        let name = format!("h{number}-{:x}", self.number);
        wire.plug(number, &Path::new("/run/netns").join(&name)).unwrap();
        let address = wire.address(number).to_string();
        self.hosts.push(Computer { name, address, child: None });
        self.start_host(index);
        index
    }

    /// The further computer that has a file of a machine or a network.
    #[must_use]
    pub fn host_with(&self, file: &Path) -> usize {
        (0..self.hosts.len()).find(|i| file.starts_with(self.host_data(*i))).unwrap()
    }

    /// How many further computers there are.
    #[must_use]
    pub fn hosts(&self) -> usize {
        self.hosts.len()
    }

    fn start(&self, more: &[&str]) {
        let mut arguments = vec!["up", "--listen", &self.listen];
        arguments.extend(more);
        let output = self.try_skep(&arguments);
        assert!(output.status.success(), "{}\n{}", text(&output), self.log());
    }

    /// Stops everything; machines stay where `keep_machines` says so.
    pub fn down(&self, keep_machines: bool) -> String {
        let arguments: &[&str] = if keep_machines { &["down", "--keep-machines"] } else { &["down"] };
        let output = self.try_skep(arguments);
        assert!(output.status.success(), "{}", text(&output));
        text(&output)
    }

    /// Starts what [`Cloud::down`] stopped, on this computer.
    pub fn restart(&self) {
        assert!(self.wire.is_none(), "only with machines on this computer");
        self.start(&[]);
    }

    /// Starts the daemon of a computer.
    pub fn start_host(&mut self, index: usize) {
        let name = self.hosts[index].name.clone();
        let data = self.host_data(index);
        fs::create_dir_all(&data).unwrap();
        if !data.join("images").exists() {
            symlink(self.data().join("images"), data.join("images")).unwrap();
        }
        let kubeconfig = data.join("host.kubeconfig");
        let user = format!("system:host:{name}");
        fs::write(
            &kubeconfig,
            self.skep(&["tenant", "kubeconfig", "system", "--user", &user, "--group", "system:hosts"]),
        )
        .unwrap();
        let log = fs::File::options().create(true).append(true).open(data.join("host.log")).unwrap();
        let child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{name}"))
            .arg(skep())
            .args(["host", "--cpu-percent", "400", "--name", &name, "--address", &self.hosts[index].address])
            .arg("--kubeconfig")
            .arg(&kubeconfig)
            .arg("--data")
            .arg(&data)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.hosts[index].child = Some(child);
    }

    /// kill -9 of a computer's daemon; its machines go on.
    pub fn kill_host(&mut self, index: usize) {
        if let Some(mut child) = self.hosts[index].child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// The name of a further computer, also of its namespace.
    #[must_use]
    pub fn host_name(&self, index: usize) -> String {
        self.hosts[index].name.clone()
    }

    /// The address of a further computer.
    #[must_use]
    pub fn host_address(&self, index: usize) -> String {
        self.hosts[index].address.clone()
    }

    /// The address of this computer on the wire, which is outside for all of them.
    #[must_use]
    pub fn outside(&self) -> &str {
        self.listen.split(':').next().unwrap()
    }

    /// Takes a further computer off the wire, or puts it back.
    pub fn plug(&self, index: usize, in_: bool) {
        let wire = self.wire.as_ref().unwrap();
        wire.connect(u8::try_from(index).unwrap() + 1, in_).unwrap();
    }

    /// The data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The data directory of a further computer.
    #[must_use]
    pub fn host_data(&self, index: usize) -> PathBuf {
        self.directory.path().join(format!("host-{index}"))
    }

    /// Runs `skep` as the operator; what it says, and whether it succeeded.
    #[must_use]
    pub fn says(&self, arguments: &[&str]) -> (bool, String) {
        let output = self.try_skep(arguments);
        (output.status.success(), text(&output))
    }

    fn try_skep(&self, arguments: &[&str]) -> Output {
        let mut command = crate::command();
        command.args(arguments).env("SKEP_DATA", self.data());
        command.env("SKEP_LOG", "info,skep::access=warn,skep_hostnet=debug");
        command.env("KUBECONFIG", self.data().join("admin.kubeconfig")).output().unwrap()
    }

    /// Runs `skep` as the operator; it must succeed. Returns what it prints.
    pub fn skep(&self, arguments: &[&str]) -> String {
        let output = self.try_skep(arguments);
        assert!(output.status.success(), "skep {arguments:?}: {}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What everything on this computer has logged.
    #[must_use]
    pub fn log(&self) -> String {
        let mut all = fs::read_to_string(self.data().join("skep.log")).unwrap_or_default();
        for index in 0..self.hosts.len() {
            all += &format!("--- host {index}\n");
            all += &fs::read_to_string(self.host_data(index).join("host.log")).unwrap_or_default();
        }
        for data in self.folders() {
            for machine in fs::read_dir(data.join("machines")).into_iter().flatten().flatten() {
                all += &format!("--- machine {}\n", machine.path().display());
                all += &fs::read_to_string(machine.path().join("console.log")).unwrap_or_default();
            }
        }
        all
    }

    /// The operator.
    #[must_use]
    pub fn operator(&self) -> Client {
        Client::new(Access::load(&self.data().join("admin.kubeconfig")).unwrap()).unwrap()
    }

    /// Makes a tenant; gives its administrator's kubectl.
    #[must_use]
    pub fn tenant(&self, name: &str) -> Kubectl {
        self.skep(&["tenant", "create", name]);
        let path = self.directory.path().join(format!("{name}.kubeconfig"));
        fs::write(&path, self.skep(&["tenant", "kubeconfig", name])).unwrap();
        Kubectl::new(&path)
    }

    fn folders(&self) -> Vec<PathBuf> {
        let mut all = vec![self.data()];
        all.extend((0..self.hosts.len()).map(|i| self.host_data(i)));
        // Those of `skep up --hosts`.
        let several = fs::read_dir(self.data().join("hosts")).into_iter().flatten().flatten();
        all.extend(several.map(|e| e.path()));
        all
    }

    /// The files of the network namespaces of machines, by the machine's uid.
    #[must_use]
    pub fn machine_namespace(&self, uid: &str) -> PathBuf {
        let all = self.folders().into_iter().map(|d| d.join("machines").join(uid).join("net"));
        all.into_iter().find(|p| p.exists()).unwrap_or_else(|| panic!("the machine {uid} is on no computer"))
    }

    /// The namespaces of networks' switches, of all computers.
    #[must_use]
    pub fn switches(&self) -> Vec<PathBuf> {
        let folders = self.folders().into_iter().map(|d| d.join("networks"));
        folders.flat_map(|d| fs::read_dir(d).into_iter().flatten().flatten().map(|e| e.path())).collect()
    }

    /// What machines and networks have left on this computer.
    #[must_use]
    pub fn leftovers(&self) -> Vec<String> {
        let here = self.directory.path().display().to_string();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mut found: Vec<String> =
            mounts.lines().filter(|l| l.contains(&here)).map(str::to_owned).collect();
        found.extend(self.switches().iter().map(|p| p.display().to_string()));
        for data in self.folders() {
            for entry in fs::read_dir(data.join("machines")).into_iter().flatten().flatten() {
                found.push(entry.path().display().to_string());
            }
        }
        found
    }
}

/// What a process said.
fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs `ip` with some words; it must succeed.
pub fn ip(words: &str) {
    succeed(Command::new("ip").args(words.split(' ')));
}

/// Runs a program in the network namespace at a path; gives what it says, and whether it succeeded.
#[must_use]
pub fn inside(namespace: &Path, words: &[&str]) -> (bool, String) {
    let output =
        Command::new("nsenter").arg(format!("--net={}", namespace.display())).args(words).output().unwrap();
    (output.status.success(), text(&output))
}

/// Asks until there is an answer, or the last complaint is told.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(why) => assert!(Instant::now() < end, "this does not happen: {what}: {why}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl Kubectl {
    /// Runs it; what it says either way.
    ///
    /// # Errors
    /// What it says when it fails.
    pub fn attempt(&self, arguments: &[&str]) -> Result<String, String> {
        let output = self.command(arguments).output().unwrap();
        if output.status.success() { Ok(text(&output)) } else { Err(text(&output)) }
    }

    /// An object as JSON.
    #[must_use]
    pub fn object(&self, arguments: &[&str]) -> Value {
        let mut all = vec!["get", "-o", "json"];
        all.extend(arguments);
        serde_json::from_str(&self.run(&all)).unwrap()
    }

    /// Makes objects.
    pub fn apply(&self, objects: &[Value]) {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        self.pipe(&["apply"], &list.to_string());
    }

    /// Runs a shell's words in a pod.
    ///
    /// # Errors
    /// What they say when they fail.
    pub fn sh(&self, pod: &str, words: &str) -> Result<String, String> {
        self.attempt(&["exec", pod, "--", "sh", "-c", words])
    }

    /// What a pod hears from a URL.
    ///
    /// # Errors
    /// What curl says when it hears nothing.
    pub fn curl(&self, pod: &str, url: &str) -> Result<String, String> {
        self.attempt(&["exec", pod, "--", "curl", "-sS", "-m", "3", url])
    }

    /// Waits until pods are ready.
    pub fn ready(&self, pods: &[&str]) {
        for pod in pods {
            eventually(&format!("{pod} is ready"), || {
                let found = self.attempt(&["get", "pod", pod, "-o", "json"])?;
                let found: Value = serde_json::from_str(&found).map_err(|e| e.to_string())?;
                if crate::agent::condition(&found, "Ready") == "True" {
                    return Ok(());
                }
                Err(format!("{:#}\n{}", found["status"], self.attempt(&["get", "events"])?))
            });
        }
    }

    /// A pod's address.
    #[must_use]
    pub fn pod_ip(&self, pod: &str) -> String {
        self.run(&["get", "pod", pod, "-o", "jsonpath={.status.podIP}"])
    }
}

/// Lines of the logs that a test which fails shows.
const LOG_SHOWN: usize = 60;

impl Drop for Cloud {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", crate::end_of(&self.log(), LOG_SHOWN));
        }
        for index in 0..self.hosts.len() {
            if let Some(mut child) = self.hosts[index].child.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
            // A computer is stopped as the one here is.
            quietly(crate::command().arg("down").env("SKEP_DATA", self.host_data(index)));
        }
        quietly(crate::command().arg("down").env("SKEP_DATA", self.data()));
        for computer in &self.hosts {
            quietly(Command::new("ip").args(["netns", "delete", &computer.name]));
        }
        if let Some(wire) = &self.wire {
            let _ = wire.remove();
        }
        for folder in self.folders() {
            if let Ok(id) = fs::read_to_string(folder.join("host-id")) {
                let name = format!("skep-{}", id.trim());
                let mounts = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
                for dir in mounts.map(|m| m.path().join(&name)) {
                    remove_groups(&dir);
                }
                remove_groups(&Path::new("/sys/fs/cgroup").join(&name));
            }
        }
        for line in fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines().rev() {
            let target = line.split(' ').nth(4).unwrap_or_default();
            if Path::new(target).starts_with(self.directory.path()) {
                quietly(Command::new("umount").args(["-l", target]));
            }
        }
    }
}

/// Removes a control group and those below it; what is not there is fine.
fn remove_groups(dir: &Path) {
    for child in fs::read_dir(dir).into_iter().flatten().flatten() {
        if child.path().is_dir() {
            remove_groups(&child.path());
        }
    }
    let _ = fs::remove_dir(dir);
}

/// An image with clients of the network, with the libraries that they need.
fn make_image(folder: &Path, data: &Path) {
    let root = folder.join("rootfs");
    for name in ["bin", "tmp", "etc", "dev", "proc", "sys", "var", "w"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    fs::copy(tool("busybox"), root.join("bin/busybox")).unwrap();
    let applets = succeed(Command::new(tool("busybox")).arg("--list"));
    for applet in applets.lines().filter(|a| *a != "busybox") {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::copy(fs::canonicalize(tool("kubectl")).unwrap(), root.join("bin/kubectl")).unwrap();
    for program in ["/usr/bin/curl", "/usr/bin/iperf3"] {
        if Path::new(program).exists() {
            copy_with_libraries(Path::new(program), &root);
        }
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n").unwrap();
    let tar = |archive: &str, of: &Path, names: &[&str]| {
        succeed(Command::new("tar").arg("cf").arg(folder.join(archive)).arg("-C").arg(of).args(names));
    };
    tar("layer.tar", &root, &["."]);
    let digest = succeed(Command::new("sha256sum").arg(folder.join("layer.tar")));
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = json!({"architecture": architecture, "os": "linux",
        "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", digest.split(' ').next().unwrap())]}});
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let manifest = json!([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]);
    fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
    tar("image.tar", folder, &["manifest.json", "config.json", "layer.tar"]);
    let archive = folder.join("image.tar");
    succeed(crate::command().args(["image", "load", "--data"]).arg(data).arg(&archive));
    for name in ["layer.tar", "image.tar"] {
        fs::remove_file(folder.join(name)).unwrap();
    }
    fs::remove_dir_all(&root).unwrap();
}

fn copy_with_libraries(program: &Path, root: &Path) {
    let name = program.file_name().unwrap();
    fs::copy(program, root.join("bin").join(name)).unwrap();
    // Lines are `NAME => PATH (ADDRESS)`, or `PATH (ADDRESS)` for the loader.
    for line in succeed(Command::new("ldd").arg(program)).lines() {
        let Some(path) = line.split_whitespace().find(|w| w.starts_with('/')) else { continue };
        let to = root.join(path.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(path, to).unwrap();
    }
}
