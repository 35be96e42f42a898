//! The harness of the whole-system tests.
//!
//! **Job.** Start the real binary on a data directory of its own, drive it with real clients, kill it.
//! **State.** A temporary directory and a child process per server. **Tasks.** None.
//! **Must not know.** The insides of any crate: only what a user can see.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a harness fails by panicking")]

pub mod agent;
pub mod cloud;
pub mod computers;
pub mod frames;
pub mod networks;
pub mod traffic;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use skep_client::{Access, Client};

pub mod wire;

/// How long a server may take to become ready on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The folder that holds the built binaries: the tests' own folder's parent.
fn build_folder() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    exe.ancestors().nth(2).unwrap().to_owned()
}

/// The `skep` binary, built if it is not there yet.
#[must_use]
pub fn skep() -> PathBuf {
    let path = build_folder().join("skep");
    if !path.exists() {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--package", "skep"]);
        if path.components().any(|c| c.as_os_str() == "release") {
            cargo.arg("--release");
        }
        assert!(cargo.status().unwrap().success(), "building skep failed");
    }
    path
}

/// The program, as tests run it: a computer whose disk is nearly full, as those of builders are, runs its pods all the same.
#[must_use]
pub fn command() -> Command {
    let mut command = Command::new(skep());
    command.env("SKEP_EVICTION_HARD", "nodefs.available<1%,nodefs.inodesFree<1%");
    command
}

/// A client that `scripts/test-tools.sh` installs; the test fails with that hint when it is missing.
#[must_use]
pub fn tool(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = root.join("target/tools").join(name);
    assert!(path.exists(), "{} is missing: run scripts/test-tools.sh, as `make test` does", path.display());
    path
}

/// A running API server with data of its own. Killed when dropped.
pub struct Server {
    directory: tempfile::TempDir,
    address: String,
    /// Further arguments, the same at every start.
    arguments: Vec<String>,
    child: Option<Child>,
    role: &'static str,
}

impl Server {
    /// Starts one on an empty directory.
    #[must_use]
    pub fn start() -> Server {
        Server::start_role("apiserver", |_| Vec::new())
    }

    /// Starts one with further arguments, which may name files in the folder handed over.
    #[must_use]
    pub fn start_with(arguments: impl FnOnce(&Path) -> Vec<String>) -> Server {
        Server::start_role("apiserver", arguments)
    }

    /// Starts an API server with all controllers beside it, on an empty directory.
    #[must_use]
    pub fn control_plane() -> Server {
        Server::start_role("control-plane", |_| Vec::new())
    }

    fn start_role(role: &'static str, arguments: impl FnOnce(&Path) -> Vec<String>) -> Server {
        // The port is free when asked for; another process could take it in between, which the start tells.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let directory = tempfile::tempdir().unwrap();
        let arguments = arguments(directory.path());
        let address = format!("127.0.0.1:{port}");
        let mut server = Server { directory, address, arguments, child: None, role };
        server.restart();
        server
    }

    /// Starts the server again on the same data.
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "it is running");
        let log = std::fs::File::options().create(true).append(true).open(self.log_path()).unwrap();
        let child = crate::command()
            .args([self.role, "--listen", &self.address, "--data"])
            .arg(self.directory.path().join("data"))
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let begun = Instant::now();
        while !self.is_ready() {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "the server ended at once: {}", self.log());
            assert!(begun.elapsed() < START_TIMEOUT, "the server does not become ready: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn is_ready(&self) -> bool {
        self.kubeconfig().exists() && std::net::TcpStream::connect(&self.address).is_ok()
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// What the server has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Lines of the log that tell of trouble.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        self.log()
            .lines()
            .filter(|l| l.contains("ERROR") || l.contains("panicked"))
            .map(str::to_owned)
            .collect()
    }

    /// The operator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("data/admin.kubeconfig")
    }

    /// `https://HOST:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// `HOST:PORT`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The memory that the process has in RAM.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// A folder for the test's own files.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.directory.path()
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// SIGTERM; the server must end well by itself.
    pub fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        let status = Command::new("kill").arg(child.id().to_string()).status().unwrap();
        assert!(status.success());
        let begun = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success(), "the server did not end well: {status}: {}", self.log());
                return;
            }
            assert!(begun.elapsed() < START_TIMEOUT, "the server does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// A client with the operator's credential.
    #[must_use]
    pub fn admin(&self) -> Client {
        Client::new(Access::load(&self.kubeconfig()).unwrap()).unwrap()
    }

    /// Runs `skep` with the operator's kubeconfig; it must succeed. Returns what it prints.
    pub fn skep(&self, arguments: &[&str]) -> String {
        let mut command = crate::command();
        command.args(arguments).env("KUBECONFIG", self.kubeconfig());
        succeed(&mut command)
    }

    /// Makes a tenant and returns the path of its administrator's kubeconfig.
    #[must_use]
    pub fn tenant(&self, name: &str) -> PathBuf {
        self.skep(&["tenant", "create", name]);
        self.tenant_kubeconfig(name)
    }

    /// A new kubeconfig for a tenant.
    #[must_use]
    pub fn tenant_kubeconfig(&self, name: &str) -> PathBuf {
        let path = self.directory.path().join(format!("{name}.kubeconfig"));
        std::fs::write(&path, self.skep(&["tenant", "kubeconfig", name])).unwrap();
        path
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("the server's log:\n{}", self.log());
        }
    }
}

/// How long controllers may take to bring something about on a busy machine.
const EVENTUALLY: Duration = Duration::from_secs(60);

/// Waits until a condition holds; fails with its last words if it does not in time.
pub async fn eventually<F: Future<Output = Result<(), String>>>(mut condition: impl FnMut() -> F) {
    let begun = Instant::now();
    loop {
        match condition().await {
            Ok(()) => return,
            Err(why) => assert!(begun.elapsed() < EVENTUALLY, "it does not come about: {why}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Runs a command that must succeed; returns what it prints.
pub fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?} failed: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The last lines of a text, none of them long: what went wrong is there.
pub fn end_of(text: &str, lines: usize) -> String {
    const LONGEST: usize = 300;
    let all: Vec<&str> = text.lines().collect();
    let end = all.iter().skip(all.len().saturating_sub(lines));
    end.map(|l| l.chars().take(LONGEST).collect::<String>()).collect::<Vec<_>>().join("\n")
}

/// kubectl with one kubeconfig.
pub struct Kubectl {
    kubeconfig: PathBuf,
    home: PathBuf,
}

impl Kubectl {
    /// For a kubeconfig; caches go beside it, so that tests do not share them.
    #[must_use]
    pub fn new(kubeconfig: &Path) -> Kubectl {
        Kubectl { kubeconfig: kubeconfig.to_owned(), home: kubeconfig.with_extension("home") }
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(tool("kubectl"));
        command
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", &self.home)
            .stdin(Stdio::null());
        command
    }

    /// Runs it; it must succeed. Returns what it prints.
    pub fn run(&self, arguments: &[&str]) -> String {
        succeed(&mut self.command(arguments))
    }

    /// Runs it; it must fail. Returns what it complains.
    pub fn fail(&self, arguments: &[&str]) -> String {
        let output: Output = self.command(arguments).output().unwrap();
        assert!(
            !output.status.success(),
            "kubectl {arguments:?} succeeded: {}",
            String::from_utf8_lossy(&output.stdout)
        );
        String::from_utf8(output.stderr).unwrap()
    }

    /// Runs it with a manifest on standard input.
    pub fn pipe(&self, arguments: &[&str], manifest: &str) -> String {
        let path = self.kubeconfig.with_extension("manifest.yaml");
        std::fs::write(&path, manifest).unwrap();
        let mut all = arguments.to_vec();
        let path = path.to_str().unwrap().to_owned();
        all.extend(["-f", &path]);
        self.run(&all)
    }
}
