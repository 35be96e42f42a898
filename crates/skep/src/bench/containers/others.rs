//! The same container by others: runc by itself, and containerd with runc below it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use skep_bench::Latencies;

use super::COMMAND;
use super::image::{Bundle, NAME};

/// How long containerd may take until it answers.
const UP_WITHIN: Duration = Duration::from_secs(30);

/// Somebody who runs containers.
pub(super) trait Way: Sync {
    fn name(&self) -> &'static str;

    /// Where complaints go. Not to a pipe: a container that is started holds on to what it is given.
    fn errors(&self) -> PathBuf;

    /// Gets ready for being measured. What it returns is kept until the end.
    fn prepare(&self) -> anyhow::Result<Option<Daemon>>;

    /// The command that starts one and comes back when it runs.
    fn start(&self, id: &str) -> Command;

    /// The commands that take one away.
    fn remove(&self, id: &str) -> Vec<Command>;
}

impl dyn Way + '_ {
    /// How long each took of those one after another, and how long all of those at once.
    pub(super) fn measure(&self, pods: u32, at_once: u32) -> anyhow::Result<(Latencies, Duration)> {
        let _daemon = self.prepare()?;
        let ids: Vec<String> =
            (0..pods.max(at_once)).map(|n| format!("skep-bench-{}-{n}", std::process::id())).collect();
        let measured = self.timed(&ids[..pods as usize], &ids[..at_once as usize]);
        // Also after a failure in the middle.
        for id in &ids {
            self.take_away(id);
        }
        measured
    }

    fn timed(&self, one: &[String], all: &[String]) -> anyhow::Result<(Latencies, Duration)> {
        let mut each = Latencies::default();
        for id in one {
            let begun = Instant::now();
            done(self.start(id), &self.errors())?;
            each.add(begun.elapsed());
            self.take_away(id);
        }
        let begun = Instant::now();
        let mut running = Vec::new();
        for id in all {
            running.push(quiet(self.start(id), &self.errors())?.spawn().context("starting many")?);
        }
        for mut child in running {
            if !child.wait().context("waiting for many")?.success() {
                bail!("one of many did not start: {}", complaint(&self.errors()));
            }
        }
        Ok((each, begun.elapsed()))
    }

    fn take_away(&self, id: &str) {
        for command in self.remove(id) {
            // What is not there need not go.
            let _ = done(command, &self.errors());
        }
    }
}

/// A process that ends when it is not needed any more.
pub(super) struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).unwrap_or(i32::MAX));
        // It takes its shims' sockets away when it is asked to end.
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

fn quiet(mut command: Command, errors: &Path) -> anyhow::Result<Command> {
    let file =
        File::options().create(true).append(true).open(errors).context("making a file for complaints")?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
    Ok(command)
}

/// What was said last.
fn complaint(errors: &Path) -> String {
    let text = std::fs::read_to_string(errors).unwrap_or_default();
    text.lines().last().unwrap_or_default().to_owned()
}

fn done(command: Command, errors: &Path) -> anyhow::Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = quiet(command, errors)?
        .status()
        .with_context(|| format!("{name} cannot be started; Debian's package {name} has it"))?;
    if !status.success() {
        bail!("{name}: {}", complaint(errors));
    }
    Ok(())
}

/// Those that are known.
pub(super) fn ways(bundle: &Bundle) -> Vec<Box<dyn Way>> {
    vec![
        Box::new(Runc { folder: bundle.folder().join("runc"), root: bundle.root() }),
        Box::new(Containerd { folder: bundle.folder().join("containerd"), image: bundle.file() }),
    ]
}

struct Runc {
    folder: PathBuf,
    root: PathBuf,
}

impl Runc {
    fn runc(&self, words: &[&str]) -> Command {
        let mut command = Command::new("runc");
        command.arg("--root").arg(self.folder.join("state")).args(words).current_dir(&self.folder);
        command
    }
}

impl Way for Runc {
    fn name(&self) -> &'static str {
        "runc"
    }

    fn errors(&self) -> PathBuf {
        self.folder.join("errors")
    }

    fn prepare(&self) -> anyhow::Result<Option<Daemon>> {
        std::fs::create_dir_all(&self.folder).context("making a folder")?;
        done(self.runc(&["spec"]), &self.errors())?;
        let file = self.folder.join("config.json");
        let text = std::fs::read(&file).context("reading runc's specification")?;
        let mut config: serde_json::Value =
            serde_json::from_slice(&text).context("reading runc's specification")?;
        config["root"] = serde_json::json!({"path": self.root, "readonly": true});
        config["process"]["terminal"] = false.into();
        config["process"]["args"] = serde_json::json!(COMMAND);
        std::fs::write(&file, config.to_string()).context("writing runc's specification")?;
        Ok(None)
    }

    fn start(&self, id: &str) -> Command {
        self.runc(&["run", "--detach", id])
    }

    fn remove(&self, id: &str) -> Vec<Command> {
        vec![self.runc(&["delete", "--force", id])]
    }
}

struct Containerd {
    folder: PathBuf,
    image: PathBuf,
}

impl Containerd {
    fn socket(&self) -> PathBuf {
        self.folder.join("socket")
    }

    fn ctr(&self, words: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.socket()).arg("--namespace").arg("skep-bench").args(words);
        command
    }
}

fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

impl Way for Containerd {
    fn name(&self) -> &'static str {
        "containerd"
    }

    fn errors(&self) -> PathBuf {
        self.folder.join("errors")
    }

    fn prepare(&self) -> anyhow::Result<Option<Daemon>> {
        std::fs::create_dir_all(&self.folder).context("making a folder")?;
        let config = self.folder.join("config.toml");
        std::fs::write(&config, "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n")
            .context("configuring containerd")?;
        let log = File::create(self.folder.join("log")).context("making a log")?;
        let child = Command::new("containerd")
            .arg("--config")
            .arg(&config)
            .arg("--address")
            .arg(self.socket())
            .arg("--root")
            .arg(self.folder.join("root"))
            .arg("--state")
            .arg(self.folder.join("state"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("containerd cannot be started; Debian's package containerd has it")?;
        let daemon = Daemon(child);
        let begun = Instant::now();
        while let Err(error) = done(self.ctr(&["version"]), &self.errors()) {
            if begun.elapsed() > UP_WITHIN {
                return Err(error.context(format!("it does not answer after {UP_WITHIN:?}")));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        done(self.ctr(&["images", "import", &path(&self.image)]), &self.errors())
            .context("giving it the image")?;
        Ok(Some(daemon))
    }

    fn start(&self, id: &str) -> Command {
        let mut command = self.ctr(&["run", "--detach", "--null-io", NAME, id]);
        command.args(COMMAND);
        command
    }

    fn remove(&self, id: &str) -> Vec<Command> {
        vec![
            self.ctr(&["tasks", "kill", "--signal", "SIGKILL", id]),
            self.ctr(&["tasks", "delete", "--force", id]),
            self.ctr(&["containers", "delete", id]),
        ]
    }
}
