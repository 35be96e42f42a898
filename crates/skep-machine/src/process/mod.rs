//! Machines of isolation `process`: namespaces and a control group on the host's own kernel.
//!
//! A machine has user, network, mount, PID, UTS, IPC and control group namespaces: its root is nobody on the host ([`ids`]), and some system calls
//! are not for anybody in it ([`filter`]). Its first process is this program again
//! ([`init`]): it starts the machine's program, starts it again when it ends, and reaps what is left behind. It is
//! nobody's child and knows nothing of the host daemon, so the daemon may die and come back. When the first process
//! dies the kernel kills everything in the PID namespace, so a machine cannot be half alive.
//!
//! On the host a machine is a directory, a control group, and two namespaces that are tied to files in that
//! directory:
//!
//! ```text
//! DIR/ID/machine.json   what it is to be, and whether it is being removed
//!        root/          its private files
//!        disk.img       the file system that those are in, if machines have disks of their own
//!        control/       what the host tells it (seen as /run/skep, read-only)
//!        images/        what it holds of the host's images (seen as /var/lib/skep-images, read-only)
//!        user, net      its user and network namespaces
//!        init.json      its first process
//!        console.log    what that and the program say before they have logs of their own
//! ```

pub mod boot;
mod cgroup;
mod disk;
mod elf;
mod filter;
mod ids;
pub mod init;
mod namespaces;
mod procfs;
mod root;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::driver::{Driver, Found, MachineId, MachineSpec, Phase, Step};
use crate::error::Error;
use crate::record::{self, InitRecord, Record};
use cgroup::Group;
pub use disk::IMAGE as DISK_FILE;

/// Where a machine sees what the host tells it.
pub const CONTROL_DIR: &str = "/run/skep";
/// Where a machine sees what it holds of the host's images.
pub const IMAGES_DIR: &str = "/var/lib/skep-images";
/// Where a machine sees the same images once more for each range of ids of its pods, in a directory by the range's number, from 1: there the
/// range's first id is their root.
pub const POD_IMAGES_DIR: &str = "/run/skep-pod-images";
/// Where a machine sees this program.
pub const PROGRAM: &str = "/usr/local/bin/skep";

const RECORD: &str = "machine.json";
const INIT: &str = "init.json";
const ROOT: &str = "root";
const CONTROL: &str = "control";
const IMAGES: &str = "images";
const NETWORK: &str = "net";
const USERS: &str = "user";
const CONSOLE: &str = "console.log";

/// How long the first process may take to be ready. It mounts a dozen file systems, so milliseconds are usual; a host
/// that takes longer than this has other worries, and the step is tried again.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How often is looked whether something has ended.
const POLL: Duration = Duration::from_millis(5);
/// A console that has grown beyond this is begun anew when the machine is started.
const CONSOLE_MAX_BYTES: u64 = 1024 * 1024;

/// The steps of a removal, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Removal {
    /// It is written down that this is not a machine any more.
    Mark,
    /// Everything in it is killed.
    Kill,
    /// Whatever is mounted below its directory is taken off, its network namespace with it.
    Unmount,
    /// Its control group goes.
    Limits,
    /// Its files go.
    Files,
    /// Its record and directory go.
    Record,
}

/// Where a test can make the driver fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Before a step of the creation.
    Before(Step),
    /// When it is done, and nobody has been told.
    After(Step),
    /// Before a step of the removal.
    Removal(Removal),
}

type Faults = Arc<dyn Fn(Point) -> bool + Send + Sync>;

/// See the module.
#[derive(Clone)]
pub struct ProcessDriver {
    directory: PathBuf,
    parent: String,
    launcher: Vec<OsString>,
    own_disks: bool,
    faults: Option<Faults>,
}

impl ProcessDriver {
    /// Machines below a directory, whose control groups are below a parent that must be this driver's alone: what is
    /// in it and belongs to no machine is taken for remains.
    ///
    /// `launcher` is a program and its first arguments that, given `boot` or `init` and more, calls [`boot::main`] or
    /// [`init::main`] with what follows, before it has started any thread.
    #[must_use]
    pub fn new(directory: PathBuf, parent: &str, launcher: Vec<OsString>) -> ProcessDriver {
        ProcessDriver { directory, parent: parent.to_owned(), launcher, own_disks: false, faults: None }
    }

    /// Machines must have disks of their own, of the size that they are to have: [`Driver::probe`] finds out whether they can.
    #[must_use]
    pub fn with_own_disks(self, own_disks: bool) -> ProcessDriver {
        ProcessDriver { own_disks, ..self }
    }

    /// For tests: fails wherever the function says so.
    #[must_use]
    pub fn with_faults(self, faults: impl Fn(Point) -> bool + Send + Sync + 'static) -> ProcessDriver {
        ProcessDriver { faults: Some(Arc::new(faults)), ..self }
    }

    fn pass(&self, point: Point) -> Result<(), Error> {
        match &self.faults {
            Some(fails) if fails(point) => Err(Error::Injected),
            _ => Ok(()),
        }
    }

    fn dir(&self, id: &MachineId) -> PathBuf {
        self.directory.join(id.as_str())
    }

    fn group(&self, id: &MachineId) -> Result<Group, Error> {
        Group::new(&self.parent, id.as_str())
    }

    /// Does a step, with its name on whatever goes wrong.
    fn step(
        &self,
        id: &MachineId,
        step: Step,
        work: impl FnOnce() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let run = || {
            self.pass(Point::Before(step))?;
            work()?;
            self.pass(Point::After(step))
        };
        run().map_err(|source| Error::Step { machine: id.to_string(), step, source: Box::new(source) })
    }

    fn init_pid(&self, id: &MachineId) -> Result<Option<i32>, Error> {
        let path = self.dir(id).join(INIT);
        let record: Option<InitRecord> = match record::read(&path) {
            Ok(record) => record,
            // Written by a start that was cut off by a power failure: whatever it was about is gone.
            Err(Error::Record { .. }) => None,
            Err(e) => return Err(e),
        };
        Ok(record.filter(procfs::is_alive).map(|r| r.pid))
    }

    fn boot(&self, id: &MachineId) -> Result<(), Error> {
        let dir = self.dir(id);
        let group = self.group(id)?;
        // A first process that was cut off before its record was written, and whatever it started.
        self.kill(id)?;
        let spec: Record = record::read(&dir.join(RECORD))?
            .ok_or_else(|| Error::Start { why: "it has not been prepared".to_owned() })?;
        group.create(&spec.spec, spec.first_id)?;
        let console = dir.join(CONSOLE);
        if fs::metadata(&console).is_ok_and(|m| m.len() > CONSOLE_MAX_BYTES) {
            fs::remove_file(&console).map_err(Error::io("remove", &console))?;
        }
        let log = fs::OpenOptions::new().create(true).append(true).open(&console);
        let log = log.map_err(Error::io("open", &console))?;
        let Some((program, first)) = self.launcher.split_first() else {
            return Err(Error::Start { why: "no program is set that starts machines".to_owned() });
        };
        let mut child = Command::new(program)
            .args(first)
            .arg("boot")
            .arg(&dir)
            .arg(&self.parent)
            .args(&self.launcher)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(Error::io("start", Path::new(program)))?;
        let end = Instant::now() + START_TIMEOUT;
        let status = loop {
            match child.try_wait().map_err(Error::io("wait for", Path::new(program)))? {
                Some(status) => break status,
                None if Instant::now() > end => {
                    // Both are asked to go; the error below is what counts.
                    let _ = child.kill();
                    let _ = child.wait();
                    self.kill(id)?;
                    let why = format!("it was not ready after {} s", START_TIMEOUT.as_secs());
                    return Err(Error::Start { why });
                }
                None => sleep(POLL),
            }
        };
        if status.success() {
            return Ok(());
        }
        let mut why = String::new();
        if let Some(mut out) = child.stdout.take() {
            // What cannot be read cannot be told.
            let _ = out.read_to_string(&mut why);
        }
        let why =
            if why.trim().is_empty() { format!("it ended with {status}") } else { why.trim().to_owned() };
        Err(Error::Start { why })
    }

    /// Kills everything in a machine.
    fn kill(&self, id: &MachineId) -> Result<(), Error> {
        if let Some(pid) = self.init_pid(id)? {
            // All in its PID namespace go with it, also those that are being born.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        match self.group(id)?.kill() {
            0 => Ok(()),
            left => Err(Error::Unkillable { machine: id.to_string(), left }),
        }
    }
}

impl Driver for ProcessDriver {
    fn isolation(&self) -> &'static str {
        "process"
    }

    fn probe(&self) -> Result<(), Error> {
        let unsupported = |why: &str| Error::Unsupported { isolation: "process", why: why.to_owned() };
        if !nix::unistd::geteuid().is_root() {
            return Err(unsupported(
                "it takes root to make namespaces and control groups; start skep as root",
            ));
        }
        let probe = MachineId::new("probe").map_err(|e| unsupported(&e.to_string()))?;
        if !self.group(&probe)?.can_limit() {
            return Err(unsupported(
                "no control groups for memory and CPU are mounted; mount them below /sys/fs/cgroup",
            ));
        }
        // By trying: containers and hardened hosts forbid namespaces in many ways.
        let dir = self.dir(&probe);
        fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        // Its ids are nobody's: nothing ever runs in it.
        let tried = namespaces::create(&dir, ids::IDS_PER_MACHINE).and_then(|()| root::try_mapping(&dir));
        let disk = if self.own_disks { disk::probe(&dir) } else { Ok(()) };
        self.remove(&probe)?;
        tried.map_err(|e| unsupported(&e.story()))?;
        disk.map_err(|e| {
            unsupported(&format!(
                "machines are to have disks of their own, and cannot: {}; install e2fsprogs and let loop devices be used, or have \
                 them share the host's disk without a limit (--machine-disks shared)",
                e.story()
            ))
        })
    }

    fn list(&self) -> Result<Vec<Found>, Error> {
        let mut ids: BTreeSet<MachineId> =
            cgroup::names(&self.parent)?.into_iter().filter_map(|n| MachineId::new(n).ok()).collect();
        match fs::read_dir(&self.directory) {
            Ok(entries) => {
                let names = entries.flatten().filter_map(|e| e.file_name().into_string().ok());
                ids.extend(names.filter_map(|n| MachineId::new(n).ok()));
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io("list", &self.directory)(e)),
        }
        ids.iter().filter_map(|id| self.inspect(id).transpose()).collect()
    }

    fn inspect(&self, id: &MachineId) -> Result<Option<Found>, Error> {
        let dir = self.dir(id);
        let record: Option<Record> = match record::read(&dir.join(RECORD)) {
            Ok(record) => record,
            // The first write of it was cut off: nothing can have been made yet.
            Err(Error::Record { .. }) => None,
            Err(e) => return Err(e),
        };
        if record.is_none() && !dir.exists() && !self.group(id)?.exists() {
            return Ok(None);
        }
        let phase = match &record {
            Some(Record { removing: false, .. }) => match self.init_pid(id)? {
                Some(pid) => Phase::Running { pid },
                None => Phase::Stopped,
            },
            Some(_) | None => Phase::Removing,
        };
        Ok(Some(Found { id: id.clone(), spec: record.map(|r| r.spec), phase }))
    }

    fn prepare(&self, spec: &MachineSpec) -> Result<(), Error> {
        let id = &spec.id;
        let dir = self.dir(id);
        let known = self.inspect(id)?;
        if known.as_ref().is_some_and(|f| f.phase == Phase::Removing) {
            self.remove(id)?;
        }
        let running = matches!(known, Some(Found { phase: Phase::Running { .. }, .. }));
        let mut first_id = 0;
        self.step(id, Step::Record, || {
            fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
            // What lies in it is between the machine and the host's root.
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))
                .map_err(Error::io("set the mode of", &dir))?;
            ids::choose(&self.directory, id, |chosen| {
                first_id = chosen;
                let record = Record { spec: spec.clone(), first_id, removing: false };
                record::write_whole(&dir.join(RECORD), &record)
            })
        })?;
        // What runs keeps what it was started with.
        if running {
            return Ok(());
        }
        self.step(id, Step::Root, || {
            for name in [CONTROL, IMAGES] {
                let path = dir.join(name);
                fs::create_dir_all(&path).map_err(Error::io("create", &path))?;
            }
            disk::attach(&dir, spec.disk_bytes)?;
            root::create(&dir.join(ROOT), spec, first_id)
        })?;
        self.step(id, Step::Limits, || {
            let group = self.group(id)?;
            self.kill(id)?;
            group.create(spec, first_id)
        })?;
        self.step(id, Step::Network, || namespaces::create(&dir, first_id))
    }

    fn start(&self, id: &MachineId) -> Result<(), Error> {
        if self.init_pid(id)?.is_some() {
            return Ok(());
        }
        self.step(id, Step::Start, || self.boot(id))
    }

    fn reload(&self, id: &MachineId) -> Result<(), Error> {
        if let Some(pid) = self.init_pid(id)? {
            // Gone meanwhile: it reads everything anew when it is started.
            let _ = kill(Pid::from_raw(pid), Signal::SIGHUP);
        }
        Ok(())
    }

    fn stop(&self, id: &MachineId, grace: Duration) -> Result<(), Error> {
        if let Some(pid) = self.init_pid(id)? {
            // Already gone is what is wanted.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            let end = Instant::now() + grace;
            while self.init_pid(id)?.is_some() && Instant::now() < end {
                sleep(POLL);
            }
        }
        self.kill(id)?;
        namespaces::unmount_below(&self.dir(id))
    }

    fn remove(&self, id: &MachineId) -> Result<(), Error> {
        let dir = self.dir(id);
        let path = dir.join(RECORD);
        self.pass(Point::Removal(Removal::Mark))?;
        match record::read::<Record>(&path) {
            Ok(Some(record)) if !record.removing => {
                record::write_whole(&path, &Record { removing: true, ..record })?;
            }
            Ok(_) | Err(Error::Record { .. }) => {}
            Err(e) => return Err(e),
        }
        self.pass(Point::Removal(Removal::Kill))?;
        self.kill(id)?;
        self.pass(Point::Removal(Removal::Unmount))?;
        namespaces::unmount_below(&dir)?;
        self.pass(Point::Removal(Removal::Limits))?;
        self.group(id)?.remove()?;
        self.pass(Point::Removal(Removal::Files))?;
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_name() == RECORD {
                continue;
            }
            let path = entry.path();
            let is_dir = entry.file_type().is_ok_and(|t| t.is_dir());
            let removed = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(Error::io("remove", &path))?;
        }
        self.pass(Point::Removal(Removal::Record))?;
        match fs::remove_dir_all(&dir) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io("remove", &dir)(e)),
        }
        cgroup::remove_parent(&self.parent)
    }

    fn control_dir(&self, id: &MachineId) -> PathBuf {
        self.dir(id).join(CONTROL)
    }

    fn images_dir(&self, id: &MachineId) -> PathBuf {
        self.dir(id).join(IMAGES)
    }

    fn adopt(&self, id: &MachineId, pid: u32) -> Result<(), Error> {
        self.group(id)?.adopt(pid)
    }

    fn network(&self, id: &MachineId) -> PathBuf {
        self.dir(id).join(NETWORK)
    }
}
