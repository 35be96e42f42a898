//! What every kind of machine offers to the host daemon.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Longest id: it becomes the name of directories and control groups.
const ID_MAX_BYTES: usize = 64;

/// The identity of a machine on its host, for ever: two machines that have had the same name have different ids.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MachineId(String);

/// An id that could not be a name in a file system.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a machine's id: up to 64 letters, digits and '-', the first not '-'")]
pub struct MachineIdError(String);

impl MachineId {
    /// Checks an id.
    ///
    /// # Errors
    /// [`MachineIdError`].
    pub fn new(id: impl Into<String>) -> Result<MachineId, MachineIdError> {
        let id = id.into();
        let good = !id.is_empty()
            && id.len() <= ID_MAX_BYTES
            && !id.starts_with('-')
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if good { Ok(MachineId(id)) } else { Err(MachineIdError(id)) }
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for MachineId {
    type Error = MachineIdError;
    fn try_from(id: String) -> Result<MachineId, MachineIdError> {
        MachineId::new(id)
    }
}

impl From<MachineId> for String {
    fn from(id: MachineId) -> String {
        id.0
    }
}

impl fmt::Display for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The program that a machine runs: started when the machine starts, and again whenever it ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Its path inside the machine, and its arguments.
    pub args: Vec<String>,
    /// Its environment.
    pub env: BTreeMap<String, String>,
}

/// A directory or file of the host that the machine sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where it is on the host.
    pub source: PathBuf,
    /// Where the machine sees it; absolute.
    pub target: PathBuf,
    /// Whether the machine may write there.
    pub writable: bool,
}

/// What a machine is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineSpec {
    /// Its identity.
    pub id: MachineId,
    /// What it calls itself: the name of its node.
    pub hostname: String,
    /// Thousandths of a CPU that it may use.
    pub cpu_millis: u64,
    /// Memory that it may use, caches included.
    pub memory_bytes: u64,
    /// Disk that it may use, in a file system of its own; `None` for what the host has.
    #[serde(default)]
    pub disk_bytes: Option<u64>,
    /// Most processes and threads at once.
    pub pids_max: u64,
    /// What it runs.
    pub program: Program,
    /// What it sees of the host. Whoever makes the machine answers for these.
    pub mounts: Vec<Mount>,
}

/// The steps in which a machine is made, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Step {
    /// What it is to be is written down: from here on it is known after a crash.
    Record,
    /// Its private files.
    Root,
    /// Its share of the host.
    Limits,
    /// Its network, still without a way out.
    Network,
    /// Its first process.
    Start,
}

impl Step {
    /// All of them.
    pub const ALL: [Step; 5] = [Step::Record, Step::Root, Step::Limits, Step::Network, Step::Start];
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::Record => "record",
            Step::Root => "root",
            Step::Limits => "limits",
            Step::Network => "network",
            Step::Start => "start",
        })
    }
}

/// How a machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Some of its steps are not done, or it has stopped.
    Stopped,
    /// Its first process runs.
    Running {
        /// That process, as the host sees it.
        pid: i32,
    },
    /// Its removal has begun, and has to be brought to its end.
    Removing,
}

/// A machine that was found on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its identity.
    pub id: MachineId,
    /// What it was made to be; `None` if so little is left that nobody knows. Such remains can be removed.
    pub spec: Option<MachineSpec>,
    /// How it is.
    pub phase: Phase,
}

/// A kind of machine. Every call says what is to be and may be repeated: what is so already stays as it is.
pub trait Driver: Send + Sync {
    /// The isolation that its machines have, as objects name it.
    fn isolation(&self) -> &'static str;

    /// Whether this host can run such machines, found out by trying.
    ///
    /// # Errors
    /// [`Error::Unsupported`], with what is missing.
    fn probe(&self) -> Result<(), Error>;

    /// Everything that is there, remains included.
    ///
    /// # Errors
    /// When the host cannot be looked at.
    fn list(&self) -> Result<Vec<Found>, Error>;

    /// How a machine is; `None` when nothing of it is there.
    ///
    /// # Errors
    /// When the host cannot be looked at.
    fn inspect(&self, id: &MachineId) -> Result<Option<Found>, Error>;

    /// Does whatever steps are still to do before the machine is started.
    ///
    /// # Errors
    /// [`Error::Step`]; the steps before it stay done.
    fn prepare(&self, spec: &MachineSpec) -> Result<(), Error>;

    /// Starts a prepared machine that does not run.
    ///
    /// # Errors
    /// [`Error::Step`].
    fn start(&self, id: &MachineId) -> Result<(), Error>;

    /// Has the machine's program ended and started again, so that it reads anew what it is told. What else runs in the
    /// machine goes on. Nothing happens to a machine that does not run.
    ///
    /// # Errors
    /// When the host cannot be looked at.
    fn reload(&self, id: &MachineId) -> Result<(), Error>;

    /// Ends everything that runs in it: politely, and after the grace period in any case. Its files are what is left on the host; to be
    /// started again it must be prepared again.
    ///
    /// # Errors
    /// [`Error::Unkillable`], or when the host cannot be looked at.
    fn stop(&self, id: &MachineId, grace: Duration) -> Result<(), Error>;

    /// Stops it and removes everything of it, its files included.
    ///
    /// # Errors
    /// What stands in the way; the removal goes on with the next call.
    fn remove(&self, id: &MachineId) -> Result<(), Error>;

    /// A directory of the host that the machine sees as [`CONTROL_DIR`](crate::process::CONTROL_DIR), read-only.
    fn control_dir(&self, id: &MachineId) -> PathBuf;

    /// A directory of the host that the machine sees as [`IMAGES_DIR`](crate::process::IMAGES_DIR), read-only. What appears in it appears in
    /// the machine at once. It goes with the machine.
    fn images_dir(&self, id: &MachineId) -> PathBuf;

    /// Puts a process of the host under the machine's limits, because it works for this machine. It ends with the machine.
    ///
    /// # Errors
    /// When the machine has no limits yet.
    fn adopt(&self, id: &MachineId, pid: u32) -> Result<(), Error>;

    /// The file that holds the machine's network namespace, for whoever connects it.
    fn network(&self, id: &MachineId) -> PathBuf;
}
