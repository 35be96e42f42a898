//! What the node, its pods and their containers use, read from control groups and the kernel's tables, and said in the forms that the world
//! knows: `/metrics/resource`, `/metrics/cadvisor`, `/stats/summary`.
//!
//! Only processor time is read regularly, for a rate needs two readings; everything else when somebody asks.

pub mod rate;
mod summary;
mod text;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};
use skep_net::Namespace;
use skep_runtime::cgroup::{GroupStats, GroupUsage, Tree};
use skep_runtime::stats::{DiskUsage, NetworkStats, disk_usage, network_here};
use skep_stream::{ContainerUsage, NodeUsage, PodUsage, Refusal, Span, USAGE_PATH, Usage};

use crate::context::Node;
use crate::pods::PodsHandle;
use crate::spec;
use crate::streams::Live;
use rate::{Point, Track};

/// How often processor time is read. Three files for each container: with 100 pods about 10 ms.
const INTERVAL: Duration = Duration::from_secs(15);
/// So long what was counted on disk is still told: counting costs as much as there are files.
const DISK_FRESH: Duration = Duration::from_secs(60);
/// The machine among the containers.
const MACHINE: &str = "";

/// See the module.
#[derive(Clone)]
pub struct Stats {
    shared: Arc<Shared>,
}

struct Shared {
    node: Arc<Node>,
    pods: PodsHandle,
    begun: Instant,
    tracks: Mutex<HashMap<String, Track>>,
    disks: Mutex<HashMap<String, (Instant, Arc<PodDisk>)>>,
}

/// A container that runs.
pub(crate) struct ContainerStats {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) image: String,
    pub(crate) started: Option<Timestamp>,
    pub(crate) usage: GroupStats,
    pub(crate) nanocores: Option<u64>,
}

/// A pod that runs.
pub(crate) struct PodStats {
    pub(crate) live: Live,
    pub(crate) usage: GroupStats,
    pub(crate) containers: Vec<ContainerStats>,
    /// Nothing where it is the machine's.
    pub(crate) network: Option<NetworkStats>,
}

/// What a pod keeps on disk.
#[derive(Default)]
pub(crate) struct PodDisk {
    /// By container: writable layer, and logs.
    pub(crate) containers: BTreeMap<String, (DiskUsage, DiskUsage)>,
    /// By volume: those that are the pod's own.
    pub(crate) volumes: BTreeMap<String, DiskUsage>,
}

/// The machine.
pub(crate) struct MachineStats {
    pub(crate) usage: GroupStats,
    pub(crate) nanocores: Option<u64>,
    pub(crate) network: NetworkStats,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the machine has used: its own control group, or, where that is the whole computer's and version 2 keeps none, what the kernel says.
fn machine_usage(tree: &Tree) -> GroupUsage {
    let mut usage = tree.usage(Path::new("")).unwrap_or_default();
    if usage.cpu_ns == 0 {
        usage.cpu_ns = processor_time_ns(&std::fs::read_to_string("/proc/stat").unwrap_or_default());
    }
    if usage.memory_working_set_bytes == 0 {
        let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        usage.memory_working_set_bytes = working_set_bytes(&text);
    }
    usage
}

/// All but idle time and waiting for disks, from `/proc/stat`.
fn processor_time_ns(stat: &str) -> u64 {
    /// `USER_HZ` is 100 on every architecture that matters.
    const TICK_NS: u64 = 10_000_000;
    let line = stat.lines().find_map(|l| l.strip_prefix("cpu ")).unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().filter_map(|w| w.parse().ok()).collect();
    let busy = [0, 1, 2, 5, 6, 7].into_iter().filter_map(|i| ticks.get(i)).sum::<u64>();
    busy.saturating_mul(TICK_NS)
}

/// Memory that is neither free nor a cache that nobody uses, from `/proc/meminfo`.
fn working_set_bytes(meminfo: &str) -> u64 {
    let kib = |key: &str| -> u64 {
        let line = meminfo.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'));
        line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    kib("MemTotal").saturating_sub(kib("MemFree")).saturating_sub(kib("Inactive(file)")) * 1024
}

fn statuses(status: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses]
        .into_iter()
        .flatten()
        .flatten()
}

fn started(live: &Live, container: &str) -> Option<Timestamp> {
    let status = statuses(&live.status).find(|s| s.name == container)?;
    Some(status.state.as_ref()?.running.as_ref()?.started_at.as_ref()?.0)
}

impl Stats {
    /// For the pods of a node.
    #[must_use]
    pub fn new(node: Arc<Node>, pods: PodsHandle) -> Stats {
        let shared =
            Shared { node, pods, begun: Instant::now(), tracks: Mutex::default(), disks: Mutex::default() };
        Stats { shared: Arc::new(shared) }
    }

    /// Reads processor time regularly. Never ends.
    pub async fn run(self) {
        loop {
            let own = self.clone();
            let _ = tokio::task::spawn_blocking(move || own.shared.sample(Timestamp::now())).await;
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// A document of the node.
    ///
    /// # Errors
    /// 404 for one that it has not.
    pub async fn document(&self, path: &str) -> Result<(String, Bytes), Refusal> {
        let (name, query) = path.split_once('?').unwrap_or((path, ""));
        let name = name.trim_matches('/').to_owned();
        let brief =
            query.split('&').any(|p| matches!(p, "only_cpu_and_memory=true" | "only_cpu_and_memory=1"));
        let own = self.clone();
        let made = tokio::task::spawn_blocking(move || own.shared.make(&name, brief, Timestamp::now())).await;
        made.map_err(|e| Refusal::new(500, format!("the document could not be made: {e}")))?
    }
}

impl Shared {
    fn make(&self, name: &str, brief: bool, now: Timestamp) -> Result<(String, Bytes), Refusal> {
        const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
        match name {
            name if name == USAGE_PATH.trim_matches('/') => json(&self.usage(now)),
            "metrics/resource" => {
                let text = text::resource(&self.machine(), &self.pods(false), self.node.started, now);
                Ok((TEXT.to_owned(), text.into()))
            }
            "metrics/cadvisor" => {
                let text = text::cadvisor(&self.node, &self.machine(), &self.pods(true), now);
                Ok((TEXT.to_owned(), text.into()))
            }
            "stats/summary" => {
                let pods = self.pods(!brief);
                let disks: Vec<Option<Arc<PodDisk>>> =
                    pods.iter().map(|p| (!brief).then(|| self.disk(&p.live))).collect();
                json(&summary::summary(&self.node, &self.machine(), &pods, &disks, brief, now))
            }
            "healthz" => Ok(("text/plain; charset=utf-8".to_owned(), "ok".into())),
            other => Err(Refusal::new(404, format!("this node has no document {other:?}"))),
        }
    }

    fn clock_ms(&self) -> u64 {
        // Far from 0, so that what began before the agent has a place on it.
        const ZERO_MS: u64 = 1 << 40;
        ZERO_MS + u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(0)
    }

    fn running(&self) -> Vec<Live> {
        let cells = self.pods.live();
        let all = cells.iter().map(|cell| lock(cell).clone());
        all.filter(|live| live.sandbox.is_some() && !live.running.is_empty()).collect()
    }

    /// When something began, on this clock.
    fn began(&self, at: Option<Timestamp>, now: Timestamp) -> Option<u64> {
        let age = now.as_millisecond().checked_sub(at?.as_millisecond())?;
        self.clock_ms().checked_sub(u64::try_from(age).ok()?)
    }

    /// Reads processor time, and keeps it.
    fn sample(&self, now: Timestamp) {
        let mut found = vec![(MACHINE.to_owned(), machine_usage(self.node.runtime.tree()).cpu_ns, None)];
        for live in self.running() {
            let Some(sandbox) = &live.sandbox else { continue };
            for (name, id) in &live.running {
                if let Ok(usage) = sandbox.usage(id) {
                    found.push((id.clone(), usage.cpu_ns, self.began(started(&live, name), now)));
                }
            }
        }
        let at_ms = self.clock_ms();
        let mut tracks = lock(&self.tracks);
        let mut kept = HashMap::with_capacity(found.len());
        for (id, cpu_ns, began) in found {
            let point = Point { at_ms, cpu_ns };
            let track = match tracks.remove(&id) {
                Some(mut track) => {
                    track.push(point);
                    track
                }
                None => Track::new(point, began),
            };
            kept.insert(id, track);
        }
        *tracks = kept;
        drop(tracks);
        lock(&self.disks).retain(|_, (at, _)| at.elapsed() < DISK_FRESH);
    }

    fn rate(&self, id: &str, cpu_ns: u64, began: impl FnOnce() -> Option<u64>) -> Option<rate::Rate> {
        let point = Point { at_ms: self.clock_ms(), cpu_ns };
        let mut tracks = lock(&self.tracks);
        let track = tracks.entry(id.to_owned()).or_insert_with(|| Track::new(point, began()));
        track.rate(point)
    }

    /// What `metrics.k8s.io` needs.
    fn usage(&self, now: Timestamp) -> NodeUsage {
        let at_ms = now.as_millisecond();
        let machine = machine_usage(self.node.runtime.tree());
        let node = self.rate(MACHINE, machine.cpu_ns, || None).map(|rate| {
            let memory_bytes = machine.memory_working_set_bytes;
            (Span { at_ms, window_ms: rate.window_ms }, Usage { cpu_nanocores: rate.nanocores, memory_bytes })
        });
        let pods = self.running().iter().filter_map(|live| self.pod_usage(live, now)).collect();
        NodeUsage { node, pods }
    }

    fn pod_usage(&self, live: &Live, now: Timestamp) -> Option<PodUsage> {
        let sandbox = live.sandbox.as_ref()?;
        let mut containers = Vec::with_capacity(live.running.len());
        let mut window_ms = u64::MAX;
        for (name, id) in &live.running {
            let used = sandbox.usage(id).ok()?;
            let rate = self.rate(id, used.cpu_ns, || self.began(started(live, name), now))?;
            window_ms = window_ms.min(rate.window_ms);
            let memory_bytes = used.memory_working_set_bytes;
            let usage = Usage { cpu_nanocores: rate.nanocores, memory_bytes };
            containers.push(ContainerUsage { name: name.clone(), usage });
        }
        Some(PodUsage {
            namespace: spec::namespace(&live.pod).to_owned(),
            name: spec::name(&live.pod).to_owned(),
            uid: spec::uid(&live.pod).to_owned(),
            span: Span { at_ms: now.as_millisecond(), window_ms },
            containers,
        })
    }

    fn machine(&self) -> MachineStats {
        let tree = self.node.runtime.tree();
        let mut usage = tree.stats(Path::new("")).unwrap_or_default();
        let lean = machine_usage(tree);
        usage.cpu_usage_ns = lean.cpu_ns;
        usage.memory_working_set_bytes = lean.memory_working_set_bytes;
        let nanocores = self.rate(MACHINE, lean.cpu_ns, || None).map(|r| r.nanocores);
        MachineStats { usage, nanocores, network: network_here().unwrap_or_default() }
    }

    fn pods(&self, with_network: bool) -> Vec<PodStats> {
        let now = Timestamp::now();
        let mut all = Vec::new();
        for live in self.running() {
            let Some(sandbox) = live.sandbox.clone() else { continue };
            let mut containers = Vec::new();
            for (name, id) in &live.running {
                let Ok(usage) = sandbox.stats(id) else { continue };
                let rate = self.rate(id, usage.cpu_usage_ns, || self.began(started(&live, name), now));
                let image = statuses(&live.status).find(|s| s.name == *name).map(|s| s.image.clone());
                containers.push(ContainerStats {
                    name: name.clone(),
                    id: id.clone(),
                    image: image.unwrap_or_default(),
                    started: started(&live, name),
                    usage,
                    nanocores: rate.map(|r| r.nanocores),
                });
            }
            let network = (with_network && !spec::host_network(&live.pod)).then(|| {
                let path = crate::worker::netns(&self.node.layout, spec::uid(&live.pod));
                Namespace::open(&path).and_then(|n| n.run(network_here)).ok()?.ok()
            });
            let usage = sandbox.pod_stats().unwrap_or_default();
            all.push(PodStats { live, usage, containers, network: network.flatten() });
        }
        all
    }

    /// What a pod keeps on disk, as counted not long ago.
    fn disk(&self, live: &Live) -> Arc<PodDisk> {
        let uid = spec::uid(&live.pod);
        if let Some((at, disk)) = lock(&self.disks).get(uid)
            && at.elapsed() < DISK_FRESH
        {
            return disk.clone();
        }
        let counted = Arc::new(self.count_disk(live));
        lock(&self.disks).insert(uid.to_owned(), (Instant::now(), counted.clone()));
        counted
    }

    fn count_disk(&self, live: &Live) -> PodDisk {
        let layout = &self.node.layout;
        let logs = layout.logs(&live.pod);
        let mut disk = PodDisk::default();
        for (name, id) in &live.running {
            let layer = live.sandbox.as_ref().and_then(|s| disk_usage(&s.writable_layer(id)).ok());
            let logs = disk_usage(&logs.join(name)).unwrap_or_default();
            disk.containers.insert(name.clone(), (layer.unwrap_or_default(), logs));
        }
        for volume in live.pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default() {
            // What belongs to the machine, or to somebody else, is not this pod's use.
            if volume.host_path.is_none()
                && let Ok(usage) = disk_usage(&layout.volume(spec::uid(&live.pod), volume))
            {
                disk.volumes.insert(volume.name.clone(), usage);
            }
        }
        disk
    }
}

fn json(value: &impl serde::Serialize) -> Result<(String, Bytes), Refusal> {
    let made = serde_json::to_vec(value);
    let bytes = made.map_err(|e| Refusal::new(500, format!("the document has no JSON form: {e}")))?;
    Ok(("application/json".to_owned(), bytes.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_by_the_kernels_own_words() {
        let stat = "cpu  10 2 3 1000 50 4 5 6 99 0\ncpu0 10 2 3 1000 50 4 5 6 99 0\n";
        assert_eq!(processor_time_ns(stat), 30 * 10_000_000);
        assert_eq!(processor_time_ns(""), 0);
        let memory = "MemTotal:  1000 kB\nMemFree:  300 kB\nInactive:  5 kB\nInactive(file):  200 kB\n";
        assert_eq!(working_set_bytes(memory), 500 * 1024);
    }
}
