//! What a pod asks for and what a node gives, as plain integers.

use skep_base::Quantity;
use smallvec::SmallVec;

use crate::views::{ContainerStatusView, ContainerView, PodView, ResourceList};

/// What a container that asks for no cpu is taken to use when nodes are scored: so that such pods spread.
pub const DEFAULT_CPU_MILLI: i64 = 100;
/// What a container that asks for no memory is taken to use when nodes are scored.
pub const DEFAULT_MEMORY_BYTES: i64 = 200 << 20;

/// Amounts are cut at this, so that scores (times 100, sums of many pods) cannot overflow. Two exabytes: nobody
/// has a node where the cut shows.
const MOST: i64 = i64::MAX >> 8;

/// Amounts of the resources that are scheduled by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Resources {
    /// Thousandths of a core.
    pub cpu_milli: i64,
    /// Bytes.
    pub memory_bytes: i64,
    /// Bytes.
    pub ephemeral_bytes: i64,
    /// Everything else that is counted, sorted by name: huge pages, devices.
    pub scalars: SmallVec<[(Box<str>, i64); 1]>,
}

impl Resources {
    /// Reads a resource list; what is not scheduled by is left out.
    #[must_use]
    pub fn from_list(list: &ResourceList) -> Resources {
        let mut found = Resources::default();
        for (name, amount) in list.iter() {
            match name {
                "cpu" => found.cpu_milli = amount.milli_value().min(MOST),
                "memory" => found.memory_bytes = whole(amount),
                "ephemeral-storage" => found.ephemeral_bytes = whole(amount),
                _ if is_scalar(name) => found.scalars.push((name.into(), whole(amount))),
                _ => {}
            }
        }
        found
    }

    /// The amount of a scalar resource.
    #[must_use]
    pub fn scalar(&self, name: &str) -> i64 {
        self.scalars.iter().find(|(n, _)| &**n == name).map_or(0, |(_, amount)| *amount)
    }

    /// Adds `times` another's amounts (-1 takes them away).
    pub fn add(&mut self, other: &Resources, times: i64) {
        self.cpu_milli += times * other.cpu_milli;
        self.memory_bytes += times * other.memory_bytes;
        self.ephemeral_bytes += times * other.ephemeral_bytes;
        for (name, amount) in &other.scalars {
            match self.scalars.iter().position(|(n, _)| n >= name) {
                Some(at) if self.scalars[at].0 == *name => self.scalars[at].1 += times * amount,
                Some(at) => self.scalars.insert(at, (name.clone(), times * amount)),
                None => self.scalars.push((name.clone(), times * amount)),
            }
        }
    }

    /// Whether nothing at all is asked for, so that only the number of pods counts.
    #[must_use]
    pub fn asks_nothing(&self) -> bool {
        self.cpu_milli == 0 && self.memory_bytes == 0 && self.ephemeral_bytes == 0 && self.scalars.is_empty()
    }
}

fn whole(amount: Quantity) -> i64 {
    amount.value().min(MOST)
}

/// Whether a resource other than cpu, memory and ephemeral storage is counted on nodes.
fn is_scalar(name: &str) -> bool {
    name.contains('/') || name.starts_with("hugepages-") || name.starts_with("attachable-volumes-")
}

/// How many pods a node takes.
#[must_use]
pub fn allowed_pods(allocatable: &ResourceList) -> i64 {
    allocatable.get("pods").map_or(0, Quantity::value)
}

/// What a pod takes, seen from the places that ask.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PodRequests {
    /// What must fit.
    pub requests: Resources,
    /// Cpu that it counts for in the scores of later pods, once on a node.
    pub nonzero_cpu_milli: i64,
    /// Memory that it counts for in the scores of later pods, once on a node.
    pub nonzero_memory_bytes: i64,
    /// Cpu that it counts for when nodes are scored for itself.
    pub score_cpu_milli: i64,
    /// Memory that it counts for when nodes are scored for itself.
    pub score_memory_bytes: i64,
}

impl PodRequests {
    /// Computes all of them.
    #[must_use]
    pub fn of(pod: &PodView) -> PodRequests {
        let (cpu, memory) =
            (Quantity::from_milli(DEFAULT_CPU_MILLI), Quantity::new(DEFAULT_MEMORY_BYTES, BINARY));
        let plain = pod_requests(pod, &ResourceList::default());
        let missing: ResourceList = [("cpu", cpu), ("memory", memory)].into_iter().collect();
        let scored = pod_requests(pod, &missing);
        // With requests of the pod as a whole only what neither it nor its containers name is filled in.
        let on_node = if has_pod_requests(pod) {
            let missing: ResourceList = [("cpu", cpu), ("memory", memory)]
                .into_iter()
                .filter(|(name, _)| plain.get(name).is_none())
                .collect();
            pod_requests(pod, &missing)
        } else {
            scored.clone()
        };
        let cpu_of = |list: &ResourceList| list.get("cpu").map_or(0, Quantity::milli_value).min(MOST);
        let memory_of = |list: &ResourceList| list.get("memory").map_or(0, whole);
        PodRequests {
            requests: Resources::from_list(&plain),
            nonzero_cpu_milli: cpu_of(&on_node),
            nonzero_memory_bytes: memory_of(&on_node),
            score_cpu_milli: cpu_of(&scored),
            score_memory_bytes: memory_of(&scored),
        }
    }
}

const BINARY: skep_base::quantity::Format = skep_base::quantity::Format::BinarySi;

fn for_whole_pod(name: &str) -> bool {
    name == "cpu" || name == "memory" || name.starts_with("hugepages-")
}

fn has_pod_requests(pod: &PodView) -> bool {
    pod.spec.resources.as_ref().is_some_and(|r| r.requests.iter().any(|(name, _)| for_whole_pod(name)))
}

fn is_sidecar(container: &ContainerView) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The pod's requests: the larger of what its containers ask together and what its init containers ask one after
/// another beside the sidecars started so far; replaced by requests of the pod as a whole; plus overhead.
fn pod_requests(pod: &PodView, missing: &ResourceList) -> ResourceList {
    let infeasible = pod
        .status
        .conditions
        .iter()
        .find(|c| &*c.r#type == "PodResizePending")
        .is_some_and(|c| &*c.reason == "Infeasible");
    let of_container = |container: &ContainerView, statuses: &[ContainerStatusView]| {
        let mut asked = match statuses.iter().find(|s| s.name == container.name) {
            Some(ContainerStatusView { resources: Some(actual), allocated_resources, .. }) => {
                effective(infeasible, &container.resources.requests, &actual.requests, allocated_resources)
            }
            _ => container.resources.requests.clone(),
        };
        for (name, amount) in missing.iter() {
            if asked.get(name).is_none() {
                asked.set(name, amount);
            }
        }
        asked
    };
    let mut total = ResourceList::default();
    for container in &pod.spec.containers {
        total.add(&of_container(container, &pod.status.container_statuses));
    }
    let mut sidecars = ResourceList::default();
    let mut init = ResourceList::default();
    for container in &pod.spec.init_containers {
        if is_sidecar(container) {
            let asked = of_container(container, &pod.status.init_container_statuses);
            total.add(&asked);
            sidecars.add(&asked);
            init.max(&sidecars);
        } else {
            let mut asked = of_container(container, &[]);
            asked.add(&sidecars);
            init.max(&asked);
        }
    }
    total.max(&init);
    if let Some(whole) = pod.spec.resources.as_ref().filter(|_| has_pod_requests(pod)) {
        let in_force = pod.status.resources.as_ref().map(|actual| {
            effective(infeasible, &whole.requests, &actual.requests, &pod.status.allocated_resources)
        });
        for (name, amount) in whole.requests.iter().filter(|(name, _)| for_whole_pod(name)) {
            let amount = match &in_force {
                Some(list) => list.get(name).unwrap_or(Quantity::ZERO),
                None => amount,
            };
            total.set(name, amount);
        }
    }
    total.add(&pod.spec.overhead);
    total
}

/// What a container holds while a resize is under way: the most of what it wants, has and was granted.
fn effective(
    infeasible: bool,
    wanted: &ResourceList,
    actual: &ResourceList,
    granted: &ResourceList,
) -> ResourceList {
    let mut most = actual.clone();
    most.max(granted);
    if !infeasible {
        most.max(wanted);
    }
    most
}

/// A port of the node that a pod takes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// Address; `0.0.0.0` for all.
    pub ip: Box<str>,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: Box<str>,
    /// Number.
    pub port: i32,
}

impl HostPort {
    /// Whether both cannot be taken on one node.
    #[must_use]
    pub fn conflicts(&self, other: &HostPort) -> bool {
        let overlap = self.ip == other.ip || &*self.ip == ANY_ADDRESS || &*other.ip == ANY_ADDRESS;
        self.port == other.port && self.protocol == other.protocol && overlap
    }
}

const ANY_ADDRESS: &str = "0.0.0.0";

/// The ports of the node that a pod takes for as long as it runs.
#[must_use]
pub fn host_ports(pod: &PodView) -> Box<[HostPort]> {
    let sidecars = pod.spec.init_containers.iter().filter(|c| is_sidecar(c));
    let or = |text: &str, default: &str| if text.is_empty() { default.into() } else { text.into() };
    sidecars
        .chain(&pod.spec.containers)
        .flat_map(|c| &c.ports)
        .filter_map(|p| {
            let port = p.host_port.filter(|port| *port > 0)?;
            Some(HostPort { ip: or(&p.host_ip, ANY_ADDRESS), protocol: or(&p.protocol, "TCP"), port })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: serde_json::Value) -> PodView {
        serde_json::from_value(spec).unwrap()
    }

    fn asked(spec: serde_json::Value) -> (i64, i64) {
        let requests = PodRequests::of(&pod(spec)).requests;
        (requests.cpu_milli, requests.memory_bytes)
    }

    fn container(cpu: &str, memory: &str) -> serde_json::Value {
        serde_json::json!({"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}})
    }

    #[test]
    fn containers_add_up_and_init_containers_count_by_the_largest() {
        let spec = serde_json::json!({"spec": {
            "containers": [container("2", "1G"), container("1", "1G")],
            "initContainers": [container("2", "1G"), container("2", "3G")],
        }});
        assert_eq!(asked(spec), (3000, 3_000_000_000));
    }

    #[test]
    fn sidecars_run_beside_everything_that_follows() {
        let mut sidecar = container("1", "1G");
        sidecar["restartPolicy"] = "Always".into();
        // First alone: 5; then with the sidecar: 3+1; running: 2+1.
        let spec = serde_json::json!({"spec": {
            "containers": [container("2", "1G")],
            "initContainers": [container("3", "1G"), sidecar, container("3", "4G")],
        }});
        assert_eq!(asked(spec), (4000, 5_000_000_000));
    }

    #[test]
    fn the_pod_as_a_whole_replaces_its_containers_and_overhead_comes_on_top() {
        let spec = serde_json::json!({"spec": {
            "containers": [container("2", "1G")],
            "resources": {"requests": {"cpu": "500m"}},
            "overhead": {"cpu": "250m", "memory": "1G"},
        }});
        assert_eq!(asked(spec), (750, 2_000_000_000));
    }

    #[test]
    fn a_resize_counts_the_most_of_wanted_granted_and_actual_unless_it_cannot_be() {
        let mut spec = serde_json::json!({
            "spec": {"containers": [container("1", "1G")]},
            "status": {"containerStatuses": [{"name": "c",
                "allocatedResources": {"cpu": "2", "memory": "1G"},
                "resources": {"requests": {"cpu": "1500m", "memory": "2G"}}}]},
        });
        assert_eq!(asked(spec.clone()), (2000, 2_000_000_000));
        spec["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "8".into();
        assert_eq!(asked(spec.clone()), (8000, 2_000_000_000));
        spec["status"]["conditions"] =
            serde_json::json!([{"type": "PodResizePending", "reason": "Infeasible"}]);
        assert_eq!(asked(spec), (2000, 2_000_000_000));
    }

    #[test]
    fn what_asks_for_nothing_counts_a_little_in_scores_only() {
        let found = PodRequests::of(&pod(serde_json::json!({"spec": {
            "containers": [{"name": "a"}, {"name": "b", "resources": {"requests": {"cpu": "0"}}}]}})));
        assert!(found.requests.asks_nothing());
        // An explicit zero is not missing.
        assert_eq!(found.nonzero_cpu_milli, DEFAULT_CPU_MILLI);
        assert_eq!(found.nonzero_memory_bytes, 2 * DEFAULT_MEMORY_BYTES);
        assert_eq!(found.score_cpu_milli, DEFAULT_CPU_MILLI);
    }

    #[test]
    fn ports_conflict_by_number_protocol_and_address() {
        let port =
            |ip: &str, protocol: &str, port| HostPort { ip: ip.into(), protocol: protocol.into(), port };
        assert!(port("0.0.0.0", "TCP", 80).conflicts(&port("10.0.0.1", "TCP", 80)));
        assert!(!port("10.0.0.2", "TCP", 80).conflicts(&port("10.0.0.1", "TCP", 80)));
        assert!(!port("0.0.0.0", "UDP", 80).conflicts(&port("0.0.0.0", "TCP", 80)));
        let ports = host_ports(&pod(serde_json::json!({"spec": {"containers": [
            {"name": "a", "ports": [{"hostPort": 80}, {"containerPort": 1}]}],
            "initContainers": [{"name": "i", "ports": [{"hostPort": 81}]},
                {"name": "s", "restartPolicy": "Always", "ports": [{"hostPort": 82, "protocol": "UDP"}]}]}})));
        assert_eq!(ports.iter().map(|p| p.port).collect::<Vec<_>>(), [82, 80]);
        assert_eq!(&*ports[1].protocol, "TCP");
    }
}
