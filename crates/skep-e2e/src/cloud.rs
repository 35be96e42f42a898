//! The whole cloud on this computer: `skep up` with data of its own, taken down with all its machines at the end.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use skep_client::{Client, ObjectPath, Tenants};

/// How long anything may take on a busy computer.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// The whole cloud with data of its own. Taken down when dropped, machines included.
pub struct Cloud {
    /// Of its data and whatever else the test needs.
    pub directory: tempfile::TempDir,
    /// Its address.
    pub listen: String,
}

/// What a program said.
#[must_use]
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Whether machines can be made here.
#[must_use]
pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
}

impl Cloud {
    /// One that is not up yet.
    #[must_use]
    pub fn new() -> Cloud {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Cloud { directory: tempfile::tempdir().unwrap(), listen: format!("127.0.0.1:{port}") }
    }

    /// Its data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Runs `skep` as its operator.
    #[must_use]
    pub fn skep(&self, args: &[&str]) -> Output {
        self.operate(crate::command(), args)
    }

    /// The same without root's rights: as nobody, in a user namespace that maps nobody.
    #[must_use]
    pub fn skep_without_rights(&self, args: &[&str]) -> Output {
        let mut command = crate::command();
        let program = command.get_program().to_owned();
        let mut unshare = std::process::Command::new("unshare");
        unshare.arg("--user").arg(program);
        for (name, value) in command.get_envs().filter_map(|(n, v)| Some((n, v?))) {
            unshare.env(name, value);
        }
        command = unshare;
        self.operate(command, args)
    }

    fn operate(&self, mut command: std::process::Command, args: &[&str]) -> Output {
        command
            .args(args)
            .env("SKEP_DATA", self.data())
            .env("SKEP_REGISTRY_LISTEN", "127.0.0.1:0")
            .env("KUBECONFIG", self.data().join("admin.kubeconfig"));
        command.output().unwrap()
    }

    /// Starts it; gives what was said.
    pub fn up(&self) -> String {
        let output = self.skep(&["up", "--listen", &self.listen]);
        assert!(output.status.success(), "{}\n{}", text(&output), self.log());
        text(&output)
    }

    /// Stops it; gives what was said.
    pub fn down(&self, args: &[&str]) -> String {
        let mut all = vec!["down"];
        all.extend(args);
        let output = self.skep(&all);
        assert!(output.status.success(), "{}", text(&output));
        text(&output)
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.data().join("skep.log")).unwrap_or_default()
    }

    /// As its operator.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::from_kubeconfig(&self.data().join("admin.kubeconfig")).unwrap()
    }

    /// Makes a tenant.
    #[must_use]
    pub fn tenant(&self, name: &str) -> Tenants {
        let output = self.skep(&["tenant", "create", name]);
        assert!(output.status.success(), "{}", text(&output));
        Tenants::One(skep_base::TenantName::new(name).unwrap())
    }

    /// The processes of this cloud's machines: those in its control groups.
    pub fn processes(&self) -> Vec<i32> {
        let Ok(id) = fs::read_to_string(self.data().join("host-id")) else { return Vec::new() };
        let group = format!("skep-{}", id.trim());
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
            let read = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
            if read("cgroup").contains(&group) && !read("stat").contains(") Z ") {
                found.push(pid);
            }
        }
        found
    }

    /// What machines have left on this computer.
    pub fn leftovers(&self) -> Vec<String> {
        let mut found: Vec<String> = self.processes().iter().map(|p| format!("process {p}")).collect();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let data = self.data().display().to_string();
        found.extend(mounts.lines().filter(|l| l.contains(&data)).map(|l| format!("mount {l}")));
        if let Ok(entries) = fs::read_dir(self.data().join("machines")) {
            found.extend(entries.flatten().map(|e| format!("file {}", e.path().display())));
        }
        found
    }

    /// The first process of a machine.
    pub fn init(&self, uid: &str) -> i32 {
        let path = self.data().join("machines").join(uid).join("init.json");
        let record: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        i32::try_from(record["pid"].as_i64().unwrap()).unwrap()
    }

    /// The host daemon.
    pub fn daemon(&self) -> i32 {
        let marker = self.data().join("host.kubeconfig").display().to_string();
        wait_for("the host daemon", || {
            fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
                let pid = entry.file_name().to_string_lossy().parse::<i32>().ok()?;
                let line = fs::read(entry.path().join("cmdline")).ok()?;
                let line = String::from_utf8_lossy(&line).into_owned();
                (line.contains("\0host\0") && line.contains(&marker)).then_some(pid)
            })
        })
    }
}

impl Default for Cloud {
    fn default() -> Cloud {
        Cloud::new()
    }
}

/// Lines of its log that a test which fails shows. All of them bury what the next test says.
const LOG_SHOWN: usize = 40;

impl Drop for Cloud {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", crate::end_of(&self.log(), LOG_SHOWN));
        }
        let output = self.skep(&["down"]);
        if !output.status.success() {
            eprintln!("{}", text(&output));
        }
        // Machines of a test that failed are stopped by now, but not removed.
        if let Ok(id) = fs::read_to_string(self.data().join("host-id")) {
            remove_groups_named(&format!("skep-{}", id.trim()));
        }
        // What is still below the directory would keep it from being removed.
        for line in fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines() {
            let target = line.split(' ').nth(4).unwrap_or_default();
            if Path::new(target).starts_with(self.directory.path()) {
                let _ = Command::new("umount").arg("-l").arg(target).status();
            }
        }
    }
}

/// Removes the control groups of a name at the top of every hierarchy, with what still runs in them.
pub(crate) fn remove_groups_named(name: &str) {
    let top = Path::new("/sys/fs/cgroup");
    let mounts = fs::read_dir(top).into_iter().flatten().flatten();
    for dir in mounts.map(|m| m.path()).chain([top.to_owned()]) {
        remove_groups(&dir.join(name));
    }
}

/// Removes a control group and those below it; what is not there is fine.
fn remove_groups(dir: &Path) {
    for child in fs::read_dir(dir).into_iter().flatten().flatten() {
        if child.path().is_dir() {
            remove_groups(&child.path());
        }
    }
    // Who was killed needs a moment to be gone.
    for _ in 0..100 {
        for pid in fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default().lines() {
            let _ = Command::new("kill").args(["-9", pid]).stderr(Stdio::null()).status();
        }
        match fs::remove_dir(dir) {
            Err(e) if e.kind() == std::io::ErrorKind::ResourceBusy => {
                std::thread::sleep(Duration::from_millis(20));
            }
            _ => return,
        }
    }
}

/// `kubectl` as a tenant's administrator.
pub struct Tenant {
    kubeconfig: PathBuf,
    /// Its name.
    pub name: String,
}

impl Cloud {
    /// Makes a tenant, and gives its administrator.
    #[must_use]
    pub fn administrator(&self, name: &str) -> Tenant {
        let _ = self.tenant(name);
        let kubeconfig = self.directory.path().join(format!("{name}.kubeconfig"));
        fs::write(&kubeconfig, self.skep(&["tenant", "kubeconfig", name]).stdout).unwrap();
        Tenant { kubeconfig, name: name.to_owned() }
    }

    /// Loads `NAME`, a busybox with a word in a file, for a tenant or for all.
    pub fn load(&self, name: &str, word: &str, tenant: Option<&str>) {
        let folder = tempfile::tempdir_in(self.directory.path()).unwrap();
        let archive = crate::agent::busybox(folder.path(), name, word);
        let mut args = vec!["image", "load", archive.to_str().unwrap()];
        if let Some(tenant) = tenant {
            args.extend(["--tenant", tenant]);
        }
        let output = self.skep(&args);
        assert!(output.status.success(), "{}", text(&output));
    }
}

impl Tenant {
    /// A command of kubectl, not started.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(crate::tool("kubectl"));
        command.env("KUBECONFIG", &self.kubeconfig).args(args);
        command
    }

    /// What kubectl says, and whether it has gone well.
    #[must_use]
    pub fn try_run(&self, args: &[&str]) -> (bool, String) {
        let output = self.command(args).output().unwrap();
        (output.status.success(), text(&output))
    }

    /// What kubectl says; it must go well.
    pub fn run(&self, args: &[&str]) -> String {
        let (good, said) = self.try_run(args);
        assert!(good, "kubectl {args:?}: {said}");
        said
    }

    /// Applies an object.
    pub fn apply(&self, object: &Value) {
        use std::io::Write;
        let mut child = self
            .command(&["apply", "--validate=false", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(object.to_string().as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{object:#}");
    }

    /// Waits until a pod is in a phase.
    pub fn phase(&self, pod: &str, phase: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            let (_, said) = self.try_run(&["get", "pod", pod, "-o", "jsonpath={.status.phase}"]);
            if said == phase {
                return;
            }
            if Instant::now() > end {
                let described = self.try_run(&["describe", "pod", pod]).1;
                panic!("{pod}: not {phase} within {} s: {described}", PATIENCE.as_secs());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Looks until there is something.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what}: not within {} s", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until an object is as wanted.
pub async fn until(client: &Client, at: &ObjectPath, what: &str, good: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + PATIENCE;
    let mut last = Value::Null;
    loop {
        if let Ok(object) = client.read::<Value>(at).await {
            if good(&object) {
                return object;
            }
            last = object;
        }
        assert!(Instant::now() < end, "{what}: not within {} s: {last:#}", PATIENCE.as_secs());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until an object is gone.
pub async fn until_gone(client: &Client, at: &ObjectPath) {
    let end = Instant::now() + PATIENCE;
    while let Ok(object) = client.read::<Value>(at).await {
        assert!(Instant::now() < end, "not gone within {} s: {object:#}", PATIENCE.as_secs());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// kill -9.
pub fn kill(pid: i32) {
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
}
