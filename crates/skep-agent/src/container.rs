//! From a container of a pod to what the runtime is told: pure, apart from reading a seccomp profile.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use skep_runtime::spec::{
    Access, ContainerSpec, Devices, Ids, LogSpec, Mount, MountSource, ProcessSpec, Propagation, Resources,
    Rootfs,
};

use crate::env::{Env, expand};
use crate::resources::{self, CgroupLimits};
use crate::security::{Policy, security};
use crate::spec;
use crate::state::Instance;
use crate::volume::{Layout, Volumes};

/// What an image says about its containers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageDefaults {
    /// Its digest, as statuses show it.
    pub id: String,
    /// Unpacked layers, lowest first.
    pub layers: Vec<PathBuf>,
    /// The program.
    pub entrypoint: Vec<String>,
    /// Its arguments.
    pub command: Vec<String>,
    /// Its environment, `NAME=value`.
    pub env: Vec<String>,
    /// Its working directory.
    pub working_dir: String,
    /// Its user.
    pub user: String,
    /// The signal that asks it to end.
    pub stop_signal: Option<String>,
}

/// Everything that a container is made from.
pub struct Inputs<'a> {
    /// Its pod.
    pub pod: &'a Pod,
    /// Itself.
    pub container: &'a Container,
    /// Which list of the pod it stands in.
    pub kind: spec::ContainerKind,
    /// The id that it gets.
    pub id: &'a str,
    /// How many runs there were before.
    pub restart_count: u32,
    /// How many sandboxes there were before.
    pub sandbox_attempt: u32,
    /// Its image.
    pub image: &'a ImageDefaults,
    /// The image's layers as its pod sees them, and whose ids own what they hold.
    pub layers: (Vec<PathBuf>, Ids),
    /// Its environment, complete.
    pub env: &'a Env,
    /// The pod's volumes.
    pub volumes: &'a Volumes,
    /// Those of them that are images, by the volume's name: layers, and whose ids they show.
    pub image_volumes: &'a ImageVolumes,
    /// Where things lie.
    pub layout: &'a Layout,
    /// What is allowed.
    pub policy: &'a Policy,
    /// The machine's memory, for the OOM score.
    pub memory_capacity_bytes: i64,
    /// The file that takes its last words.
    pub termination_log: &'a Path,
    /// Most processes in the container; negative for no limit.
    pub pids_limit: i64,
}

/// Layers of images that are volumes, by the volume's name.
pub type ImageVolumes = BTreeMap<String, (Vec<PathBuf>, Ids)>;

/// The labels under which the agent finds its containers again.
pub mod labels {
    /// The container's name in the pod.
    pub const CONTAINER: &str = "container";
    /// How many runs there were before.
    pub const RESTART_COUNT: &str = "restartCount";
    /// The image as the pod names it.
    pub const IMAGE: &str = "image";
    /// The image's digest.
    pub const IMAGE_ID: &str = "imageID";
    /// What it was made from.
    pub const HASH: &str = "hash";
    /// Which sandbox it is in.
    pub const SANDBOX_ATTEMPT: &str = "sandboxAttempt";
    /// The file that takes its last words.
    pub const TERMINATION_LOG: &str = "terminationLog";
    /// Whether its log stands in for them.
    pub const FALLBACK_TO_LOGS: &str = "fallbackToLogs";
    /// Where its log is.
    pub const LOG: &str = "log";
    /// The signal that asks it to end.
    pub const STOP_SIGNAL: &str = "stopSignal";
    /// The first process, in JSON: what is executed later is like it.
    pub const PROCESS: &str = "process";
    /// The pod's uid.
    pub const POD_UID: &str = "podUID";
    /// The pod's name.
    pub const POD_NAME: &str = "podName";
    /// The pod's namespace.
    pub const POD_NAMESPACE: &str = "podNamespace";
    /// The pod's grace period.
    pub const GRACE_SECONDS: &str = "graceSeconds";
}

/// What must not change while a container runs: as upstream, its image.
#[must_use]
pub fn spec_hash(c: &Container) -> String {
    format!("{}\n{}", c.name, c.image.as_deref().unwrap_or_default())
}

/// Where the container finds the file that takes its last words.
#[must_use]
pub fn termination_message_path(c: &Container) -> &str {
    c.termination_message_path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/dev/termination-log")
}

/// What the runtime is told.
///
/// # Errors
/// A sentence for the container's status, whose reason is `CreateContainerConfigError`.
pub fn container_spec(i: &Inputs<'_>) -> Result<ContainerSpec, String> {
    let (pod, c) = (i.pod, i.container);
    let s = security(pod, c, &i.image.user, i.policy)?;
    let lookup = |name: &str| i.env.get(name).cloned();
    let expanded = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter().flatten().map(|text| expand(text, lookup)).collect()
    };
    let (command, arguments) = (expanded(&c.command), expanded(&c.args));
    // A command of one's own sets the image's arguments aside too.
    let mut args = if command.is_empty() { i.image.entrypoint.clone() } else { command.clone() };
    if !arguments.is_empty() {
        args.extend(arguments);
    } else if command.is_empty() {
        args.extend(i.image.command.iter().cloned());
    }
    if args.is_empty() {
        return Err("no command specified".to_owned());
    }
    let mut env: BTreeMap<String, String> = i
        .image
        .env
        .iter()
        .map(|pair| match pair.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => (pair.clone(), String::new()),
        })
        .collect();
    env.extend(i.env.iter().map(|(k, v)| (k.clone(), v.clone())));
    if !env.contains_key("HOSTNAME")
        && let Ok(host) = crate::files::host_name(pod, "")
    {
        env.insert("HOSTNAME".to_owned(), host.name);
    }
    let working_dir = c.working_dir.as_deref().map(|d| expand(d, lookup)).filter(|d| !d.is_empty());
    let cwd = working_dir.unwrap_or_else(|| i.image.working_dir.clone());
    let tty = c.tty == Some(true);
    let process = ProcessSpec {
        args,
        env: env.into_iter().collect(),
        cwd: if cwd.is_empty() { PathBuf::from("/") } else { cwd.into() },
        user: s.user,
        capabilities: s.capabilities,
        seccomp: s.seccomp,
        apparmor: s.apparmor,
        no_new_privileges: s.no_new_privileges,
        rlimits: Vec::new(),
        oom_score_adj: Some(resources::oom_score_adj(pod, c, i.memory_capacity_bytes)),
        tty,
        tty_size: None,
    };
    let mut labels = container_labels(i);
    let text = serde_json::to_string(&process).map_err(|e| e.to_string())?;
    labels.insert(self::labels::PROCESS.to_owned(), text);
    Ok(ContainerSpec {
        id: i.id.to_owned(),
        rootfs: Rootfs { layers: i.layers.0.clone(), ids: i.layers.1, upper: None },
        mounts: mounts(i)?,
        process,
        processes_of: None,
        read_only_root: s.read_only_root,
        masked_paths: s.masked_paths,
        read_only_paths: s.read_only_paths,
        devices: if s.privileged { Devices::All } else { Devices::Usual },
        writable_sys: s.privileged,
        resources: runtime_resources(&resources::container_limits(pod, c), i.pids_limit),
        stdin: c.stdin == Some(true),
        stdin_once: c.stdin_once == Some(true),
        log: Some(LogSpec {
            path: i.layout.log(pod, &c.name, i.restart_count),
            max_bytes: LOG_MAX_BYTES,
            max_files: LOG_MAX_FILES,
        }),
        labels,
    })
}

/// A log is rotated at this size, and this many files are kept: upstream's defaults.
const LOG_MAX_BYTES: u64 = 10 << 20;
const LOG_MAX_FILES: u32 = 5;

fn container_labels(i: &Inputs<'_>) -> BTreeMap<String, String> {
    let c = i.container;
    let fallback = c.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
    let stop =
        c.lifecycle.as_ref().and_then(|l| l.stop_signal.clone()).or_else(|| i.image.stop_signal.clone());
    let mut all = BTreeMap::from([
        (labels::CONTAINER, c.name.clone()),
        (labels::RESTART_COUNT, i.restart_count.to_string()),
        (labels::IMAGE, c.image.clone().unwrap_or_default()),
        (labels::IMAGE_ID, i.image.id.clone()),
        (labels::HASH, spec_hash(c)),
        (labels::SANDBOX_ATTEMPT, i.sandbox_attempt.to_string()),
        (labels::TERMINATION_LOG, i.termination_log.display().to_string()),
        (labels::FALLBACK_TO_LOGS, fallback.to_string()),
        (labels::LOG, i.layout.log(i.pod, &c.name, i.restart_count).display().to_string()),
    ]);
    if let Some(stop) = stop {
        all.insert(labels::STOP_SIGNAL, stop);
    }
    all.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
}

/// A control group's figures in the runtime's terms.
#[must_use]
pub fn runtime_resources(limits: &CgroupLimits, pids_limit: i64) -> Resources {
    Resources {
        cpu_shares: limits.cpu_shares,
        cpu_quota_us: limits.cpu_quota_us,
        cpu_period_us: limits.cpu_quota_us.and(limits.cpu_period_us),
        memory_limit_bytes: limits.memory_bytes,
        pids_limit: (pids_limit > 0).then_some(pids_limit),
        hugepages_bytes: limits
            .hugepages_bytes
            .iter()
            .filter_map(|(size, bytes)| Some((page_size_name(*size), u64::try_from(*bytes).ok()?)))
            .collect(),
        ..Resources::default()
    }
}

/// A page's size as the kernel's files name it: `2MB`.
fn page_size_name(bytes: i64) -> String {
    const UNITS: [&str; 4] = ["B", "KB", "MB", "GB"];
    let (mut size, mut unit) = (bytes, 0);
    while size >= 1024 && size % 1024 == 0 && unit + 1 < UNITS.len() {
        size /= 1024;
        unit += 1;
    }
    format!("{size}{}", UNITS.get(unit).unwrap_or(&"B"))
}

fn mounts(i: &Inputs<'_>) -> Result<Vec<Mount>, String> {
    let list = i.container.volume_mounts.as_deref().unwrap_or_default();
    let mut mounts = list.iter().map(|m| volume_mount(i, m)).collect::<Result<Vec<_>, _>>()?;
    let pod_dir = i.layout.pod(spec::uid(i.pod));
    let own_files = [
        (PathBuf::from("/etc/hosts"), pod_dir.join("etc-hosts")),
        (PathBuf::from("/etc/resolv.conf"), pod_dir.join("resolv.conf")),
        (PathBuf::from("/etc/hostname"), pod_dir.join("hostname")),
        (PathBuf::from(termination_message_path(i.container)), i.termination_log.to_owned()),
    ];
    for (target, path) in own_files {
        // A volume that the container mounts there itself wins.
        if !mounts.iter().any(|m| m.target == target) {
            mounts.push(Mount {
                target,
                source: MountSource::Bind { path, sub_path: None },
                access: Access::Write,
                propagation: Propagation::Private,
                ids: Ids::Pod,
            });
        }
    }
    Ok(mounts)
}

fn volume_mount(i: &Inputs<'_>, m: &VolumeMount) -> Result<Mount, String> {
    let sub_path = match m.sub_path_expr.as_deref().filter(|e| !e.is_empty()) {
        Some(text) => expand_strictly(text, i.env)?,
        None => m.sub_path.clone().unwrap_or_default(),
    };
    if sub_path.starts_with('/') {
        return Err(format!("error SubPath `{sub_path}` must not be an absolute path"));
    }
    if Path::new(&sub_path).components().any(|c| c == Component::ParentDir) {
        return Err(format!("unable to provision SubPath `{sub_path}`: must not contain '..'"));
    }
    let target = PathBuf::from(&m.mount_path);
    let target = if target.is_absolute() { target } else { Path::new("/").join(target) };
    if let Some((layers, ids)) = i.image_volumes.get(&m.name) {
        return Ok(Mount {
            target,
            source: MountSource::Image {
                layers: layers.clone(),
                sub_path: (!sub_path.is_empty()).then(|| sub_path.into()),
            },
            ids: *ids,
            access: Access::ReadOnly,
            propagation: Propagation::Private,
        });
    }
    let volume = i.volumes.get(&m.name).ok_or_else(|| {
        format!("cannot find volume {:?} to mount into container {:?}", m.name, i.container.name)
    })?;
    let mut below = volume.below.clone().unwrap_or_default();
    if !sub_path.is_empty() {
        below.push(&sub_path);
    }
    let read_only = m.read_only == Some(true) || volume.read_only;
    let recursive = matches!(m.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible"));
    Ok(Mount {
        target,
        source: MountSource::Bind {
            path: volume.path.clone(),
            sub_path: (!below.as_os_str().is_empty()).then_some(below),
        },
        // All but what is the machine's own was made for the pod.
        ids: if volume.of_machine { Ids::Machine } else { Ids::Pod },
        access: match (read_only, recursive) {
            (false, _) => Access::Write,
            (true, false) => Access::ReadOnly,
            (true, true) => Access::RecursiveReadOnly,
        },
        propagation: match m.mount_propagation.as_deref() {
            None | Some("None") => Propagation::Private,
            Some("HostToContainer") => Propagation::HostToContainer,
            Some("Bidirectional") if i.policy.allow_privileged => Propagation::Bidirectional,
            Some("Bidirectional") => {
                return Err(format!(
                    "volume mount {:?}: Bidirectional mount propagation is available only to privileged containers, which this node does not allow",
                    m.name
                ));
            }
            Some(other) => return Err(format!("invalid MountPropagation mode: {other:?}")),
        },
    })
}

/// Sub-paths must not contain unknown variables.
fn expand_strictly(text: &str, env: &Env) -> Result<String, String> {
    let missing = std::cell::RefCell::new(Vec::new());
    let expanded = expand(text, |name| {
        let value = env.get(name).cloned();
        if value.is_none() {
            missing.borrow_mut().push(name.to_owned());
        }
        value
    });
    let missing = missing.into_inner();
    if missing.is_empty() { Ok(expanded) } else { Err(format!("missing value for {missing:?}")) }
}

/// The log of a run, as its labels remember it.
#[must_use]
pub fn log_of(labels: &BTreeMap<String, String>) -> Option<PathBuf> {
    labels.get(labels::LOG).map(PathBuf::from)
}

/// Whether a run's log stands in for its last words: it failed, and left none.
#[must_use]
pub fn falls_back_to_logs(labels: &BTreeMap<String, String>, run: &Instance) -> bool {
    labels.get(labels::FALLBACK_TO_LOGS).is_some_and(|v| v == "true")
        && run.exit_code().is_some_and(|code| code != 0)
}
