//! When the node runs short, or a pod takes more disk than it may: who has to go. Choosing is pure; a loop looks.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use skep_base::quantity::Quantity;

use crate::context::Node;
use crate::events::Level;
use crate::node::{NodeObject, Pressure};
use crate::pods::PodsHandle;
use crate::store_images::StoreImages;
use crate::streams::Live;
use crate::{resources, spec};

/// How often is looked: upstream's.
const INTERVAL: Duration = Duration::from_secs(10);
/// Pressure is over when it has not been seen for so long: nodes must not flap.
const TRANSITION: Duration = Duration::from_secs(300);
/// The reason of an evicted pod's status.
pub const REASON: &str = "Evicted";

/// What a pod uses and asked for of the resource that is short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The pod's uid.
    pub uid: String,
    /// Its priority.
    pub priority: i32,
    /// What it uses.
    pub used: i64,
    /// What it asked for.
    pub requested: i64,
    /// It must not go: the node cannot do without it.
    pub critical: bool,
}

/// Whom to evict first: who uses more than asked for, then the less important, then the one that is furthest above.
#[must_use]
pub fn victim(pods: &[Usage]) -> Option<&Usage> {
    pods.iter().filter(|p| !p.critical).min_by_key(|p| {
        let within = p.used <= p.requested;
        (within, p.priority, std::cmp::Reverse(p.used - p.requested), p.uid.clone())
    })
}

/// The same, or nobody where all of them together have less than what is missing: what is short then is with somebody else (who is root in the machine,
/// a neighbour on the same disk), and pods would go one after the other for nothing.
fn worth_evicting(pods: &[Usage], missing: i64) -> Option<&Usage> {
    let could_go = pods.iter().filter(|p| !p.critical).map(|p| p.used);
    victim(pods).filter(|_| could_go.fold(0, i64::saturating_add) >= missing)
}

/// What is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shortage {
    Memory { available: i64, threshold: i64 },
    Disk { available: i64, threshold: i64 },
    Inodes { available: i64, threshold: i64 },
    Pids { available: i64, threshold: i64 },
}

impl Shortage {
    /// What is missing until nobody has to go.
    fn missing(self) -> i64 {
        let (Shortage::Memory { available, threshold }
        | Shortage::Disk { available, threshold }
        | Shortage::Inodes { available, threshold }
        | Shortage::Pids { available, threshold }) = self;
        threshold.saturating_sub(available)
    }

    fn message(self) -> String {
        let text = |resource: &str, threshold: i64, available: i64| {
            format!(
                "The node was low on resource: {resource}. Threshold quantity: {}, available: {}. ",
                kib(threshold),
                kib(available)
            )
        };
        match self {
            Shortage::Memory { available, threshold } => text("memory", threshold, available),
            Shortage::Disk { available, threshold } => text("ephemeral-storage", threshold, available),
            Shortage::Inodes { available, threshold } => {
                format!(
                    "The node was low on resource: inodes. Threshold quantity: {threshold}, available: {available}. "
                )
            }
            Shortage::Pids { available, threshold } => {
                format!(
                    "The node was low on resource: pids. Threshold quantity: {threshold}, available: {available}. "
                )
            }
        }
    }
}

fn kib(bytes: i64) -> String {
    format!("{}Ki", bytes / 1024)
}

fn available_memory(node: &Node, pods: &[Live]) -> i64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"));
    let kernel = line
        .and_then(|l| l.split_whitespace().next())
        .and_then(|n| n.parse::<i64>().ok())
        .map_or(i64::MAX, |kib| kib * 1024);
    // A machine that is a part of a larger one has its own limit.
    let used: i64 = pods.iter().map(memory_of).sum();
    kernel.min(node.memory_capacity_bytes - used)
}

fn memory_of(live: &Live) -> i64 {
    let stats = live.sandbox.as_ref().and_then(|s| s.pod_stats().ok());
    stats.map_or(0, |s| i64::try_from(s.memory_working_set_bytes).unwrap_or(i64::MAX))
}

fn shortage(node: &Node, pods: &[Live]) -> Vec<Shortage> {
    let mut found = Vec::new();
    let available = available_memory(node, pods);
    let threshold = node.thresholds.memory(node.memory_capacity_bytes);
    if available < threshold {
        found.push(Shortage::Memory { available, threshold });
    }
    if let Ok(disk) = rustix::fs::statvfs(&node.layout.data) {
        let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
        let available = i64::try_from(bytes(disk.f_bavail)).unwrap_or(i64::MAX);
        let threshold = node.thresholds.disk(bytes(disk.f_blocks));
        if available < threshold {
            found.push(Shortage::Disk { available, threshold });
        }
        let available = i64::try_from(disk.f_ffree).unwrap_or(i64::MAX);
        let threshold = node.thresholds.inodes(disk.f_files);
        // File systems without a table of inodes say 0 of 0.
        if available < threshold {
            found.push(Shortage::Inodes { available, threshold });
        }
    }
    // A machine that is a part of a larger one has a limit of its own, which is met long before the kernel's.
    if let Some((running, most)) = node.runtime.tree().tasks(Path::new("")) {
        let available = i64::try_from(most.saturating_sub(running)).unwrap_or(i64::MAX);
        let threshold = node.thresholds.pids(most);
        if available < threshold {
            found.push(Shortage::Pids { available, threshold });
            return found;
        }
    }
    let number = |path: &str| std::fs::read_to_string(path).ok().and_then(|t| t.trim().parse::<u64>().ok());
    let running = std::fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|t| t.split(['/', ' ']).nth(4).and_then(|n| n.parse::<i64>().ok()));
    if let (Some(most), Some(running)) = (number("/proc/sys/kernel/pid_max"), running) {
        let available = i64::try_from(most).unwrap_or(i64::MAX) - running;
        let threshold = node.thresholds.pids(most);
        if available < threshold {
            found.push(Shortage::Pids { available, threshold });
        }
    }
    found
}

/// Bytes below a directory, links not followed.
fn disk_usage(path: &Path) -> i64 {
    use std::os::unix::fs::MetadataExt;
    /// What `st_blocks` counts.
    const BLOCK: u64 = 512;
    let mut total = 0u64;
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            total = total.saturating_add(meta.blocks().saturating_mul(BLOCK));
            if meta.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    i64::try_from(total).unwrap_or(i64::MAX)
}

/// What a pod keeps on disk.
struct OnDisk {
    /// Each `emptyDir` on disk with a limit: name, limit, bytes.
    volumes: Vec<(String, String, i64)>,
    /// Each container with a limit: name, limit, bytes.
    containers: Vec<(String, String, i64)>,
    /// Everything.
    total: i64,
}

fn storage_limit(c: &k8s_openapi::api::core::v1::Container) -> Option<String> {
    let limits = c.resources.as_ref()?.limits.as_ref()?;
    limits.get("ephemeral-storage").map(|q| q.0.clone())
}

/// Whether anything of the pod's disk is limited: only then is it counted.
fn is_limited(pod: &Pod) -> bool {
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
    volumes.iter().any(|v| v.empty_dir.as_ref().is_some_and(|e| e.size_limit.is_some()))
        || spec::containers(pod).iter().any(|c| storage_limit(c).is_some())
}

fn count(node: &Node, live: &Live) -> OnDisk {
    let pod = &live.pod;
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
    let mut total = 0;
    let mut limited = Vec::new();
    for v in volumes {
        let Some(e) = v.empty_dir.as_ref().filter(|e| e.medium.as_deref().is_none_or(str::is_empty)) else {
            continue;
        };
        let bytes = disk_usage(&node.layout.volume(spec::uid(pod), v));
        total += bytes;
        if let Some(limit) = &e.size_limit {
            limited.push((v.name.clone(), limit.0.clone(), bytes));
        }
    }
    let mut containers = Vec::new();
    for c in spec::init_containers(pod).iter().chain(spec::containers(pod)) {
        let layer = live.sandbox.as_ref().zip(live.running.get(&c.name)).map(|(s, id)| s.writable_layer(id));
        let logs = disk_usage(&node.layout.logs(pod).join(&c.name));
        let bytes = logs + layer.map_or(0, |l| disk_usage(&l));
        total += bytes;
        if let Some(limit) = storage_limit(c) {
            containers.push((c.name.clone(), limit, bytes));
        }
    }
    OnDisk { volumes: limited, containers, total }
}

/// What a pod takes too much of; nothing when it keeps its limits.
fn excess(disk: &OnDisk, total_limit: Option<&Quantity>) -> Option<String> {
    let over =
        |limit: &str, bytes: i64| limit.parse::<Quantity>().is_ok_and(|q| q.value() > 0 && bytes > q.value());
    if let Some((name, limit, _)) = disk.volumes.iter().find(|(_, limit, bytes)| over(limit, *bytes)) {
        return Some(format!("Usage of EmptyDir volume {name:?} exceeds the limit {limit:?}. "));
    }
    if let Some(limit) = total_limit.filter(|l| disk.total > l.value()) {
        return Some(format!(
            "Pod ephemeral local storage usage exceeds the total limit of containers {limit}. "
        ));
    }
    let (name, limit, _) = disk.containers.iter().find(|(_, limit, bytes)| over(limit, *bytes))?;
    Some(format!("Container {name} exceeded its local ephemeral storage limit {limit:?}. "))
}

/// Looks after the node. Runs until the future is dropped.
pub async fn run(node: Arc<Node>, object: Arc<NodeObject>, pods: PodsHandle, images: Arc<StoreImages>) {
    let mut last_seen: [Option<std::time::Instant>; 3] = [None; 3];
    loop {
        tokio::time::sleep(INTERVAL).await;
        let all: Vec<Live> = pods
            .live()
            .iter()
            .map(|cell| cell.lock().unwrap_or_else(PoisonError::into_inner).clone())
            .filter(|live| live.sandbox.is_some())
            .collect();
        limits(&node, &pods, &all).await;
        let short = shortage(&node, &all);
        for s in &short {
            let slot = match s {
                Shortage::Memory { .. } => 0,
                Shortage::Disk { .. } | Shortage::Inodes { .. } => 1,
                Shortage::Pids { .. } => 2,
            };
            if let Some(seen) = last_seen.get_mut(slot) {
                *seen = Some(std::time::Instant::now());
            }
        }
        let [memory, disk, pid] = last_seen.map(|seen| seen.is_some_and(|at| at.elapsed() < TRANSITION));
        object.set_pressure(Pressure { memory, disk, pid });
        for s in short {
            // What nobody uses goes before what somebody does.
            if let Shortage::Disk { .. } = s
                && unused_images_were_enough(&images, s.missing()).await
            {
                continue;
            }
            // One at a time: what it frees may be enough.
            if evict_one(&node, &pods, &all, s).await {
                break;
            }
        }
    }
}

async fn unused_images_were_enough(images: &StoreImages, missing: i64) -> bool {
    let missing = u64::try_from(missing).unwrap_or(0);
    match images.free(missing, &BTreeSet::new()).await {
        Ok(freed) => freed >= missing,
        Err(error) => {
            tracing::warn!(%error, "unused images cannot be removed");
            false
        }
    }
}

async fn limits(node: &Arc<Node>, pods: &PodsHandle, all: &[Live]) {
    for live in all.iter().filter(|l| is_limited(&l.pod)) {
        let (node, owned) = (node.clone(), live.clone());
        let counted = tokio::task::spawn_blocking(move || {
            let limit = resources::pod_limits(&owned.pod).get("ephemeral-storage").copied();
            excess(&count(&node, &owned), limit.as_ref())
        });
        if let Ok(Some(message)) = counted.await {
            evict(pods, live, &message);
        }
    }
}

/// Whether somebody had to go.
async fn evict_one(node: &Arc<Node>, pods: &PodsHandle, all: &[Live], short: Shortage) -> bool {
    let (owned, shared) = (all.to_vec(), node.clone());
    let usages = tokio::task::spawn_blocking(move || {
        owned
            .iter()
            .map(|live| {
                let asked = resources::pod_requests(&live.pod);
                let requested = |name: &str| asked.get(name).map_or(0, |q| q.value());
                let (used, requested) = match short {
                    Shortage::Memory { .. } => (memory_of(live), requested("memory")),
                    Shortage::Disk { .. } | Shortage::Inodes { .. } => {
                        (count(&shared, live).total, requested("ephemeral-storage"))
                    }
                    Shortage::Pids { .. } => {
                        let stats = live.sandbox.as_ref().and_then(|s| s.pod_stats().ok());
                        (stats.map_or(0, |s| i64::try_from(s.pids).unwrap_or(i64::MAX)), 0)
                    }
                };
                Usage {
                    uid: spec::uid(&live.pod).to_owned(),
                    priority: spec::priority(&live.pod),
                    used,
                    requested,
                    critical: spec::is_critical(&live.pod),
                }
            })
            .collect::<Vec<_>>()
    });
    let usages = usages.await.unwrap_or_default();
    let Some(chosen) = worth_evicting(&usages, short.missing()) else {
        tracing::warn!(?short, "the node is short of what its pods have not got");
        return false;
    };
    let Some(live) = all.iter().find(|l| spec::uid(&l.pod) == chosen.uid) else { return false };
    let message = short.message();
    node.events.pod(&live.pod, Level::Warning, REASON, message.clone());
    evict(pods, live, &message);
    true
}

fn evict(pods: &PodsHandle, live: &Live, message: &str) {
    tracing::warn!(pod = %spec::format_pod(&live.pod), message, "a pod is evicted");
    pods.end(spec::uid(&live.pod), REASON, message, Some(0));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(uid: &str, priority: i32, used: i64, requested: i64) -> Usage {
        Usage { uid: uid.to_owned(), priority, used, requested, critical: false }
    }

    #[test]
    fn who_goes_first() {
        let chosen = |pods: &[Usage]| victim(pods).map(|u| u.uid.clone());
        assert_eq!(
            chosen(&[usage("within", 0, 5, 10), usage("above", 100, 11, 10)]).as_deref(),
            Some("above")
        );
        assert_eq!(chosen(&[usage("a", 10, 20, 10), usage("b", 5, 11, 10)]).as_deref(), Some("b"));
        assert_eq!(chosen(&[usage("a", 0, 20, 10), usage("b", 0, 50, 45)]).as_deref(), Some("a"));
        let critical = Usage { critical: true, ..usage("c", -1, 99, 0) };
        assert_eq!(chosen(&[critical.clone(), usage("a", 0, 1, 10)]).as_deref(), Some("a"));
        assert_eq!(chosen(&[critical]), None);
    }

    #[test]
    fn nobody_goes_for_what_others_took() {
        let pods =
            [usage("a", 0, 2, 0), usage("b", 0, 3, 0), Usage { critical: true, ..usage("c", 0, 99, 0) }];
        assert_eq!(worth_evicting(&pods, 5).map(|u| u.uid.as_str()), Some("b"));
        assert_eq!(worth_evicting(&pods, 6), None, "all of them together have not got so much");
        assert_eq!(worth_evicting(&[], 0), None);
        assert_eq!(Shortage::Pids { available: 10, threshold: 200 }.missing(), 190);
    }

    #[test]
    fn limits_of_disk() {
        let disk = |volume: i64, container: i64| OnDisk {
            volumes: vec![("v".to_owned(), "1Mi".to_owned(), volume)],
            containers: vec![("a".to_owned(), "2Mi".to_owned(), container)],
            total: volume + container,
        };
        let limit = "2Mi".parse().unwrap();
        assert_eq!(excess(&disk(1 << 20, 1 << 20), Some(&limit)), None);
        assert_eq!(
            excess(&disk((1 << 20) + 1, 0), Some(&limit)).unwrap(),
            "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". "
        );
        assert_eq!(
            excess(&disk(1 << 20, 2 << 20), Some(&limit)).unwrap(),
            "Pod ephemeral local storage usage exceeds the total limit of containers 2Mi. "
        );
        assert_eq!(
            excess(&disk(0, 3 << 20), None).unwrap(),
            "Container a exceeded its local ephemeral storage limit \"2Mi\". "
        );
    }

    #[test]
    fn usage_counts_files_and_not_what_links_show() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        std::fs::write(dir.path().join("d/f"), vec![1; 1 << 20]).unwrap();
        std::os::unix::fs::symlink("/usr", dir.path().join("link")).unwrap();
        let bytes = disk_usage(dir.path());
        assert!((1 << 20..2 << 20).contains(&bytes), "{bytes}");
    }
}
