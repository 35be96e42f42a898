//! What a caller asks for: pods (sandboxes), containers, processes. Plain data, JSON between agent and shim.
//!
//! Everything is resolved before it arrives here: no templates, no names of API objects. The exceptions are user
//! and group *names*, which only the image's own `/etc/passwd` and `/etc/group` can say, and volume sub-paths, which
//! must be opened at the moment of mounting or somebody could swap them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use crate::caps::Capability;
pub use crate::seccomp::Profile as SeccompProfile;

/// A pod: the namespaces that its containers share, and the control group that holds them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Unique on this machine, and a file name: see [`valid_id`].
    pub id: String,
    /// The host name inside, unless `host_uts`.
    #[serde(default)]
    pub hostname: String,
    /// The pod's network.
    pub network: Network,
    /// Whose processes its containers see.
    #[serde(default)]
    pub pid: PidNamespace,
    /// The machine's System V and POSIX IPC instead of the pod's own.
    #[serde(default)]
    pub host_ipc: bool,
    /// The machine's host name instead of the pod's own.
    #[serde(default)]
    pub host_uts: bool,
    /// A user namespace for all its containers.
    #[serde(default)]
    pub user_namespace: Option<UserNamespace>,
    /// Kernel parameters of the pod's own network and IPC namespaces, by dotted name.
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    /// The pod's control group, relative to the tree's base (see [`crate::cgroup::Tree`]); made when missing.
    /// Containers get groups below it, named by their ids.
    pub cgroup: PathBuf,
    /// Limits of the pod as a whole.
    #[serde(default)]
    pub resources: Resources,
    /// Size of the `/dev/shm` that the containers share.
    #[serde(default = "default_shm_size_bytes")]
    pub shm_size_bytes: u64,
    /// The caller's own notes, kept with the pod and given back after a restart.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// What containerd gives, and what programs that use shared memory are tested with.
pub const DEFAULT_SHM_SIZE_BYTES: u64 = 64 << 20;

fn default_shm_size_bytes() -> u64 {
    DEFAULT_SHM_SIZE_BYTES
}

/// A pod's network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Network {
    /// The namespace of whoever starts the shim.
    Host,
    /// A namespace that somebody made already (`/run/netns/…`, `/proc/PID/ns/net`).
    Path(PathBuf),
    /// A new one, with only a loopback device, that is up. When `pin` is given it is bound to that file, so that
    /// others can set it up and find it; the pin goes away with the pod. This is what a pod with a user namespace
    /// needs: its network then belongs to that user namespace.
    New {
        /// Where to bind it.
        pin: Option<PathBuf>,
    },
}

/// Whose processes a container sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PidNamespace {
    /// Its own only.
    #[default]
    Container,
    /// The pod's: all its containers see each other, and process 1 is a reaper.
    Pod,
    /// The machine's.
    Host,
}

/// Which ids of the machine a pod's ids are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespace {
    /// User ids.
    pub uids: Vec<IdMap>,
    /// Group ids.
    pub gids: Vec<IdMap>,
}

impl UserNamespace {
    /// The ids that root of the pod has outside.
    #[must_use]
    pub fn root(&self) -> (u32, u32) {
        let of = |maps: &[IdMap]| maps.iter().find(|m| m.inside == 0).map_or(0, |m| m.outside);
        (of(&self.uids), of(&self.gids))
    }
}

/// One range of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    /// The first id inside.
    pub inside: u32,
    /// The first id outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// Limits of a control group. `None` leaves a value as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Relative weight, 2 to 262144, as on cgroup v1; converted on v2.
    pub cpu_shares: Option<u64>,
    /// Time per period; negative for no limit.
    pub cpu_quota_us: Option<i64>,
    /// Length of a period, 1,000 to 1,000,000.
    pub cpu_period_us: Option<u64>,
    /// Processors, as `0-2,7`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes.
    pub cpuset_mems: Option<String>,
    /// Hard limit; negative for none.
    pub memory_limit_bytes: Option<i64>,
    /// Memory that is not reclaimed (v2 only; ignored on v1).
    pub memory_min_bytes: Option<u64>,
    /// Throttling begins here (v2 only; ignored on v1).
    pub memory_high_bytes: Option<u64>,
    /// Number of tasks; negative for no limit.
    pub pids_limit: Option<i64>,
    /// Limits by page size as the kernel writes it (`2MB`, `1GB`).
    pub hugepages_bytes: BTreeMap<String, u64>,
    /// When memory runs out, all processes of the group are killed together (v2 only).
    pub oom_kill_group: Option<bool>,
}

/// A container of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Unique in its pod, and a file name: see [`valid_id`].
    pub id: String,
    /// Its root filesystem.
    pub rootfs: Rootfs,
    /// What runs in it.
    pub process: ProcessSpec,
    /// A running container whose processes it sees and is one of, where the pod's containers have their processes each for itself.
    #[serde(default)]
    pub processes_of: Option<String>,
    /// Volumes and files, besides the usual `/proc`, `/sys`, `/dev`. Sorted by depth before mounting, so `/a` comes
    /// before `/a/b` whatever the order here.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// The root filesystem is read-only; volumes are as they say.
    #[serde(default)]
    pub read_only_root: bool,
    /// Paths of `/proc` and `/sys` that are hidden. See [`default_masked_paths`].
    #[serde(default = "default_masked_paths")]
    pub masked_paths: Vec<PathBuf>,
    /// Paths of `/proc` that are read-only. See [`default_read_only_paths`].
    #[serde(default = "default_read_only_paths")]
    pub read_only_paths: Vec<PathBuf>,
    /// Devices besides the usual ones (`null`, `zero`, `full`, `random`, `urandom`, `tty`).
    #[serde(default)]
    pub devices: Devices,
    /// `/sys` and the control groups are writable, as for privileged containers.
    #[serde(default)]
    pub writable_sys: bool,
    /// Its limits.
    #[serde(default)]
    pub resources: Resources,
    /// Keeps a way to write to the first process's input.
    #[serde(default)]
    pub stdin: bool,
    /// The input ends when the first attached writer goes away.
    #[serde(default)]
    pub stdin_once: bool,
    /// Where output goes. Without it, output is only seen by those attached.
    #[serde(default)]
    pub log: Option<LogSpec>,
    /// The caller's own notes, kept with the container and given back after a restart.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// The layers of a root filesystem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rootfs {
    /// Unpacked layers, lowest first: [`crate::images::Image::layers`].
    pub layers: Vec<PathBuf>,
    /// Whose ids own what the layers hold, for a pod with a user namespace.
    #[serde(default)]
    pub ids: Ids,
    /// A directory for the writable layer, on a filesystem that can be an overlay's upper one; it survives the
    /// container. Without it, the layer lies in the container's own directory and goes with it.
    #[serde(default)]
    pub upper: Option<PathBuf>,
}

/// A process: a container's first one, or one that is executed in it later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// Program and arguments. A program without a slash is looked for in the `PATH` of `env`.
    pub args: Vec<String>,
    /// Environment, in order. `HOME` is added from the image's `/etc/passwd` when missing, and `PATH` a usual one.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// Working directory, made when missing (first process only).
    #[serde(default = "root")]
    pub cwd: PathBuf,
    /// Who it is.
    #[serde(default)]
    pub user: User,
    /// The bounding set, and what a process of user 0 has.
    #[serde(default = "crate::caps::default_set")]
    pub capabilities: BTreeSet<Capability>,
    /// System call filter.
    #[serde(default)]
    pub seccomp: Seccomp,
    /// Name of a loaded AppArmor profile. Refused where the kernel has no AppArmor.
    #[serde(default)]
    pub apparmor: Option<String>,
    /// No program can gain privileges by being executed.
    #[serde(default)]
    pub no_new_privileges: bool,
    /// Resource limits of processes.
    #[serde(default)]
    pub rlimits: Vec<Rlimit>,
    /// Likelihood of being killed when the machine's memory runs out, -1000 to 1000.
    #[serde(default)]
    pub oom_score_adj: Option<i32>,
    /// A terminal.
    #[serde(default)]
    pub tty: bool,
    /// The terminal's first size.
    #[serde(default)]
    pub tty_size: Option<TtySize>,
}

fn root() -> PathBuf {
    "/".into()
}

impl ProcessSpec {
    /// A process of user 0 with the default capabilities and filter.
    pub fn new(args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        ProcessSpec {
            args: args.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            cwd: root(),
            user: User::default(),
            capabilities: crate::caps::default_set(),
            seccomp: Seccomp::default(),
            apparmor: None,
            no_new_privileges: false,
            rlimits: Vec::new(),
            oom_score_adj: None,
            tty: false,
            tty_size: None,
        }
    }
}

/// Columns and rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TtySize {
    /// Width.
    pub columns: u16,
    /// Height.
    pub rows: u16,
}

/// User and groups of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct User {
    /// As in an image's configuration: empty (root), `user`, `uid`, `user:group`, `uid:gid`. Names are looked up in the
    /// container's own `/etc/passwd` and `/etc/group`.
    pub user: String,
    /// Overrides the primary group.
    pub gid: Option<u32>,
    /// Added to the supplementary groups.
    pub additional_gids: Vec<u32>,
    /// Supplementary groups are only `additional_gids`: those of the image's `/etc/group` do not count.
    pub strict_groups: bool,
}

impl User {
    /// A user by number.
    pub fn id(uid: u32) -> Self {
        User { user: uid.to_string(), ..User::default() }
    }
}

/// The system call filter of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Seccomp {
    /// None.
    Unconfined,
    /// The profile that containerd calls default: see [`crate::seccomp`].
    #[default]
    RuntimeDefault,
    /// One of the caller's.
    Profile(Box<SeccompProfile>),
}

/// Devices besides the usual ones.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Devices {
    /// None.
    #[default]
    Usual,
    /// These.
    Some(Vec<Device>),
    /// All that the machine has.
    All,
}

/// A device node of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Where it is now.
    pub source: PathBuf,
    /// Where the container finds it.
    pub target: PathBuf,
    /// `r`, `w`, `m` (make nodes).
    pub access: String,
}

/// A limit of `setrlimit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// As `RLIMIT_NOFILE`.
    pub kind: String,
    /// The soft limit.
    pub soft: u64,
    /// The hard limit.
    pub hard: u64,
}

/// Something mounted into a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where, in the container. Links in it are followed inside the container's root and never out of it.
    pub target: PathBuf,
    /// What.
    pub source: MountSource,
    /// May it be written?
    #[serde(default)]
    pub access: Access,
    /// Do mounts made later travel?
    #[serde(default)]
    pub propagation: Propagation,
    /// Whose ids own what is mounted, for a pod with a user namespace.
    #[serde(default)]
    pub ids: Ids,
}

/// Whose ids own files that a pod with a user namespace gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Ids {
    /// The machine's: the mount maps them, so that the machine's root is the pod's in it.
    #[default]
    Machine,
    /// The pod's own already: they are shown as they are.
    Pod,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MountSource {
    /// A file or directory, with everything mounted below it.
    Bind {
        /// Where it is.
        path: PathBuf,
        /// A relative path below `path`: links in it may not lead out, whatever else changes meanwhile. A missing
        /// one becomes a directory.
        #[serde(default)]
        sub_path: Option<PathBuf>,
    },
    /// What an image holds, for reading only and not for executing.
    Image {
        /// Unpacked layers, lowest first: [`crate::images::Image::layers`].
        layers: Vec<PathBuf>,
        /// A relative path below the image's root, which must be there; links in it may not lead out.
        #[serde(default)]
        sub_path: Option<PathBuf>,
    },
    /// Memory.
    Tmpfs {
        /// Its limit.
        size_bytes: Option<u64>,
        /// Mode of its root.
        mode: u32,
    },
}

/// May a mount be written?
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Access {
    /// Yes.
    #[default]
    Write,
    /// No, but mounts below it stay as they are.
    ReadOnly,
    /// Neither it nor anything below it.
    RecursiveReadOnly,
}

/// Do mounts made later travel between a container and the machine?
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Propagation {
    /// No.
    #[default]
    Private,
    /// Into the container.
    HostToContainer,
    /// Both ways. The source must lie on a shared mount.
    Bidirectional,
}

/// A container's log file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSpec {
    /// The file; directories above it exist. Rotated files get a time stamp behind their name.
    pub path: PathBuf,
    /// It is rotated when it reaches this size.
    #[serde(default = "default_log_max_bytes")]
    pub max_bytes: u64,
    /// How many are kept, the current one included.
    #[serde(default = "default_log_max_files")]
    pub max_files: u32,
}

fn default_log_max_bytes() -> u64 {
    10 << 20
}

fn default_log_max_files() -> u32 {
    5
}

/// The paths of `/proc` and `/sys` that tell or change what belongs to the machine. The usual list of runtimes.
pub fn default_masked_paths() -> Vec<PathBuf> {
    [
        "/proc/asound",
        "/proc/acpi",
        "/proc/interrupts",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/sys/firmware",
        "/sys/devices/virtual/powercap",
    ]
    .map(PathBuf::from)
    .to_vec()
}

/// The paths of `/proc` that change the machine when written.
pub fn default_read_only_paths() -> Vec<PathBuf> {
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"].map(PathBuf::from).to_vec()
}

/// Longest id: it becomes a directory, and a control group below others.
pub const MAX_ID_LENGTH: usize = 128;

/// Is this an id: letters, digits, `-`, `_`, `.`, not beginning with a dot, and not too long?
pub fn valid_id(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= MAX_ID_LENGTH
        && !id.starts_with('.')
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// What is known of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// Its id.
    pub id: String,
    /// What it does.
    pub state: ContainerState,
    /// Its first process, as the machine numbers it.
    pub pid: Option<u32>,
    /// Nanoseconds since 1970.
    pub created_at_ns: u64,
    /// Nanoseconds since 1970.
    pub started_at_ns: Option<u64>,
    /// Nanoseconds since 1970.
    pub finished_at_ns: Option<u64>,
    /// How it ended.
    pub exit: Option<Exit>,
    /// What the caller noted in its spec.
    pub labels: BTreeMap<String, String>,
}

/// What a container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ContainerState {
    /// It waits to be started.
    Created,
    /// It is being started.
    Starting,
    /// Its first process runs.
    Running,
    /// Its first process has ended, or could not be started.
    Exited,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// What it returned; 128 and the signal's number when it was killed; 128 when it could not be started.
    pub code: i32,
    /// The signal that killed it.
    pub signal: Option<i32>,
    /// The kernel killed a process of the container because its memory limit was reached.
    pub oom_killed: bool,
    /// Why it could not be started.
    pub error: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_file_names() {
        for good in ["a", "0f-9_x.y", &"a".repeat(128)] {
            assert!(valid_id(good), "{good}");
        }
        for bad in ["", ".", "..", ".a", "a/b", "a b", "ä", "a\0", &"a".repeat(129)] {
            assert!(!valid_id(bad), "{bad}");
        }
    }

    #[test]
    fn a_spec_needs_only_what_has_no_default() {
        let spec: ContainerSpec = serde_json::from_str(
            r#"{"id":"c","rootfs":{"layers":["/l"]},"process":{"args":["sh"]},
               "mounts":[{"target":"/d","source":{"bind":{"path":"/x"}}}]}"#,
        )
        .unwrap();
        assert_eq!(spec.masked_paths, default_masked_paths());
        assert_eq!(spec.process.seccomp, Seccomp::RuntimeDefault);
        assert!(spec.process.capabilities.contains(&Capability::NetBindService));
        assert!(!spec.process.capabilities.contains(&Capability::SysAdmin));
        assert_eq!(spec.mounts[0].access, Access::Write);
        let again: ContainerSpec = serde_json::from_str(&serde_json::to_string(&spec).unwrap()).unwrap();
        assert_eq!(again, spec);
    }
}
