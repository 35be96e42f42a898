//! What a pod asks for and may use: quality of service, sums, and the figures that the kernel is given.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use skep_base::quantity::Quantity;

use crate::spec;

/// Amounts by resource name.
pub type Amounts = BTreeMap<String, Quantity>;

/// How much a pod is protected when resources run short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum QosClass {
    /// Asks for nothing: goes first.
    BestEffort,
    /// In between.
    Burstable,
    /// Its limits are its requests: goes last.
    Guaranteed,
}

impl QosClass {
    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            QosClass::BestEffort => "BestEffort",
            QosClass::Burstable => "Burstable",
            QosClass::Guaranteed => "Guaranteed",
        }
    }
}

/// Parses amounts. What the server let through and cannot be read counts as absent.
#[must_use]
pub fn amounts(list: Option<&BTreeMap<String, ApiQuantity>>) -> Amounts {
    list.into_iter()
        .flatten()
        .filter_map(|(name, quantity)| Some((name.clone(), quantity.0.parse().ok()?)))
        .collect()
}

fn requests(r: Option<&ResourceRequirements>) -> Amounts {
    amounts(r.and_then(|r| r.requests.as_ref()))
}

fn limits(r: Option<&ResourceRequirements>) -> Amounts {
    amounts(r.and_then(|r| r.limits.as_ref()))
}

fn pod_level(pod: &Pod) -> Option<&ResourceRequirements> {
    pod.spec.as_ref()?.resources.as_ref().filter(|r| {
        r.requests.as_ref().is_some_and(|m| !m.is_empty()) || r.limits.as_ref().is_some_and(|m| !m.is_empty())
    })
}

/// The pod's class, from cpu and memory of all its containers.
#[must_use]
pub fn qos_class(pod: &Pod) -> QosClass {
    let counted = |m: Amounts| -> Amounts {
        m.into_iter().filter(|(n, q)| matches!(n.as_str(), "cpu" | "memory") && q.milli_value() > 0).collect()
    };
    let classify = |parts: &mut dyn Iterator<Item = Option<&ResourceRequirements>>| {
        let (mut requested, mut limited) = (Amounts::new(), Amounts::new());
        let mut all_limited = true;
        for part in parts {
            for (name, q) in counted(requests(part)) {
                add(&mut requested, &name, q);
            }
            let own = counted(limits(part));
            all_limited &= own.contains_key("cpu") && own.contains_key("memory");
            for (name, q) in own {
                add(&mut limited, &name, q);
            }
        }
        if requested.is_empty() && limited.is_empty() {
            QosClass::BestEffort
        } else if all_limited
            && requested.len() == limited.len()
            && requested.iter().all(|(n, q)| limited.get(n) == Some(q))
        {
            QosClass::Guaranteed
        } else {
            QosClass::Burstable
        }
    };
    if let Some(own) = pod_level(pod) {
        return classify(&mut std::iter::once(Some(own)));
    }
    classify(
        &mut spec::init_containers(pod).iter().chain(spec::containers(pod)).map(|c| c.resources.as_ref()),
    )
}

fn add(sum: &mut Amounts, name: &str, q: Quantity) {
    let total = sum.get(name).map_or(Some(q), |old| old.checked_add(q)).unwrap_or(q);
    sum.insert(name.to_owned(), total);
}

fn raise(to: &mut Amounts, other: &Amounts) {
    for (name, q) in other {
        if to.get(name).is_none_or(|old| old < q) {
            to.insert(name.clone(), *q);
        }
    }
}

fn add_all(sum: &mut Amounts, other: &Amounts) {
    for (name, q) in other {
        add(sum, name, *q);
    }
}

/// Sums what all containers need at the same time: regular ones and sidecars together, init containers one after
/// the other beside the sidecars before them.
fn total(pod: &Pod, of: impl Fn(Option<&ResourceRequirements>) -> Amounts) -> Amounts {
    let mut sum = Amounts::new();
    for c in spec::containers(pod) {
        add_all(&mut sum, &of(c.resources.as_ref()));
    }
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for c in spec::init_containers(pod) {
        let own = of(c.resources.as_ref());
        if spec::is_sidecar(c) {
            add_all(&mut sum, &own);
            add_all(&mut sidecars, &own);
            raise(&mut peak, &sidecars);
        } else {
            let mut beside = own;
            add_all(&mut beside, &sidecars);
            raise(&mut peak, &beside);
        }
    }
    raise(&mut sum, &peak);
    if let Some(own) = pod_level(pod) {
        // What is said for the pod as a whole replaces the sum.
        for (name, q) in of(Some(own)) {
            sum.insert(name, q);
        }
    }
    sum
}

/// What the pod asks for, with the overhead of its runtime class.
#[must_use]
pub fn pod_requests(pod: &Pod) -> Amounts {
    let mut sum = total(pod, requests);
    add_all(&mut sum, &amounts(pod.spec.as_ref().and_then(|s| s.overhead.as_ref())));
    sum
}

/// What the pod may use, where it is limited.
#[must_use]
pub fn pod_limits(pod: &Pod) -> Amounts {
    let mut sum = total(pod, limits);
    for (name, q) in amounts(pod.spec.as_ref().and_then(|s| s.overhead.as_ref())) {
        if sum.contains_key(&name) {
            add(&mut sum, &name, q);
        }
    }
    sum
}

/// The figures that the kernel is given for a control group. `None` leaves what the kernel has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupLimits {
    /// Share of the cpu where it is fought for.
    pub cpu_shares: Option<u64>,
    /// Microseconds of cpu per period; negative: no limit.
    pub cpu_quota_us: Option<i64>,
    /// The period.
    pub cpu_period_us: Option<u64>,
    /// Most memory.
    pub memory_bytes: Option<i64>,
    /// Bytes of huge pages, by page size in bytes.
    pub hugepages_bytes: BTreeMap<i64, i64>,
}

/// The kernel's smallest and largest shares.
const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;
/// The usual period: 100 ms.
const QUOTA_PERIOD_US: u64 = 100_000;
/// The kernel takes no smaller quota: 1 ms.
const MIN_QUOTA_US: i64 = 1_000;

/// Thousandths of a cpu as the kernel's shares.
#[must_use]
pub fn shares(milli_cpu: i64) -> u64 {
    let shares = u64::try_from(milli_cpu.max(0)).unwrap_or(0).saturating_mul(1024) / 1000;
    shares.clamp(MIN_SHARES, MAX_SHARES)
}

/// Thousandths of a cpu as microseconds per period; 0: no limit.
#[must_use]
pub fn quota_us(milli_cpu: i64) -> i64 {
    if milli_cpu == 0 {
        return 0;
    }
    (milli_cpu.saturating_mul(100_000) / 1000).max(MIN_QUOTA_US)
}

fn hugepages(list: &Amounts) -> BTreeMap<i64, i64> {
    let mut sizes = BTreeMap::new();
    for (name, q) in list {
        let size = name.strip_prefix("hugepages-").and_then(|s| s.parse::<Quantity>().ok());
        if let Some(size) = size {
            *sizes.entry(size.value()).or_insert(0) += q.value();
        }
    }
    sizes
}

fn milli(list: &Amounts, name: &str) -> i64 {
    list.get(name).map_or(0, |q| q.milli_value())
}

fn value(list: &Amounts, name: &str) -> i64 {
    list.get(name).map_or(0, |q| q.value())
}

/// The figures for one container.
#[must_use]
pub fn container_limits(pod: &Pod, c: &Container) -> CgroupLimits {
    let (asked, mut limited) = (requests(c.resources.as_ref()), limits(c.resources.as_ref()));
    if let Some(own) = pod_level(pod) {
        for (name, q) in limits(Some(own)) {
            if milli(&limited, &name) == 0 {
                limited.insert(name, q);
            }
        }
    }
    let cpu_request = if asked.contains_key("cpu") { milli(&asked, "cpu") } else { milli(&limited, "cpu") };
    let memory = value(&limited, "memory");
    let quota = quota_us(milli(&limited, "cpu"));
    CgroupLimits {
        cpu_shares: Some(shares(cpu_request)),
        cpu_quota_us: (quota != 0).then_some(quota),
        cpu_period_us: Some(QUOTA_PERIOD_US),
        memory_bytes: (memory != 0).then_some(memory),
        hugepages_bytes: hugepages(&limited),
    }
}

/// The figures for the pod's own control group, above its containers'.
#[must_use]
pub fn pod_cgroup_limits(pod: &Pod) -> CgroupLimits {
    let (asked, limited) = (pod_requests(pod), pod_limits(pod));
    let own = limits(pod_level(pod));
    let all_have = |name: &str| {
        milli(&own, name) > 0
            || spec::init_containers(pod)
                .iter()
                .chain(spec::containers(pod))
                .all(|c| milli(&limits(c.resources.as_ref()), name) > 0)
    };
    let quota = quota_us(milli(&limited, "cpu"));
    let mut result = CgroupLimits { hugepages_bytes: hugepages(&asked), ..CgroupLimits::default() };
    match qos_class(pod) {
        QosClass::BestEffort => result.cpu_shares = Some(MIN_SHARES),
        QosClass::Guaranteed | QosClass::Burstable => {
            result.cpu_shares = Some(shares(milli(&asked, "cpu")));
            if all_have("cpu") {
                result.cpu_quota_us = Some(quota);
                result.cpu_period_us = Some(QUOTA_PERIOD_US);
            }
            if all_have("memory") {
                result.memory_bytes = Some(value(&limited, "memory"));
            }
        }
    }
    result
}

/// Where the kernel's killer begins: −997 for guaranteed, 1000 for best effort, in between by the memory asked for.
#[must_use]
pub fn oom_score_adj(pod: &Pod, c: &Container, memory_capacity_bytes: i64) -> i32 {
    const GUARANTEED: i32 = -997;
    const BEST_EFFORT: i32 = 1000;
    if spec::is_node_critical(pod) {
        return GUARANTEED;
    }
    match qos_class(pod) {
        QosClass::Guaranteed => return GUARANTEED,
        QosClass::BestEffort => return BEST_EFFORT,
        QosClass::Burstable => {}
    }
    let memory = |c: &Container| value(&requests(c.resources.as_ref()), "memory");
    let capacity = i128::from(memory_capacity_bytes.max(1));
    let all: Vec<&Container> = spec::init_containers(pod)
        .iter()
        .filter(|c| spec::is_sidecar(c))
        .chain(spec::containers(pod))
        .collect();
    let spare = match pod_level(pod).filter(|r| r.requests.is_some()) {
        Some(own) => {
            let sum: i64 = all.iter().map(|c| memory(c)).sum();
            (value(&requests(Some(own)), "memory") - sum).max(0)
                / i64::try_from(all.len().max(1)).unwrap_or(1)
        }
        None => 0,
    };
    let score = |bytes: i64| 1000 - 1000 * i128::from(bytes + spare) / capacity;
    let mut adjusted = score(memory(c));
    let is_sidecar = spec::is_sidecar(c) && spec::init_containers(pod).iter().any(|i| i.name == c.name);
    if is_sidecar {
        // A sidecar is worth no less than the least of what it serves.
        let least = spec::containers(pod).iter().map(memory).min().unwrap_or(0);
        adjusted = adjusted.min(score(least));
    }
    // Never as safe as guaranteed, and never as unsafe as best effort.
    i32::try_from(adjusted.clamp(3, 999)).unwrap_or(999)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::pod;
    use serde_json::json;

    fn with(containers: serde_json::Value) -> Pod {
        pod(json!({"containers": containers}))
    }

    #[test]
    fn classes() {
        let cases = [
            (json!([{"name": "a"}]), QosClass::BestEffort),
            (json!([{"name": "a", "resources": {"requests": {"cpu": "1"}}}]), QosClass::Burstable),
            (
                json!([{"name": "a", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}}}]),
                QosClass::Guaranteed,
            ),
            (
                json!([{"name": "a", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}}}, {"name": "b"}]),
                QosClass::Burstable,
            ),
            (
                json!([{"name": "a", "resources": {"requests": {"ephemeral-storage": "1Gi"}}}]),
                QosClass::BestEffort,
            ),
        ];
        for (containers, expected) in cases {
            assert_eq!(qos_class(&with(containers.clone())), expected, "{containers}");
        }
    }

    #[test]
    fn figures_for_the_kernel() {
        for (milli, expected) in [(0, 2), (1, 2), (100, 102), (1000, 1024), (300_000, 262_144)] {
            assert_eq!(shares(milli), expected);
        }
        for (milli, expected) in [(0, 0), (1, 1_000), (9, 1_000), (20, 2_000), (1500, 150_000)] {
            assert_eq!(quota_us(milli), expected);
        }
        let p = with(
            json!([{"name": "a", "resources": {"limits": {"cpu": "500m", "memory": "64Mi", "hugepages-2Mi": "4Mi"}}}]),
        );
        let got = container_limits(&p, &spec::containers(&p)[0]);
        assert_eq!(got.cpu_shares, Some(512), "a limit without a request is the request");
        assert_eq!((got.cpu_quota_us, got.cpu_period_us), (Some(50_000), Some(100_000)));
        assert_eq!(got.memory_bytes, Some(64 << 20));
        assert_eq!(got.hugepages_bytes, BTreeMap::from([(2 << 20, 4 << 20)]));
    }

    #[test]
    fn init_containers_raise_and_sidecars_add() {
        let p = pod(json!({
            "initContainers": [
                {"name": "i1", "resources": {"requests": {"cpu": "2"}}},
                {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}},
                {"name": "i2", "resources": {"requests": {"cpu": "2"}}},
            ],
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "1500m"}}}],
        }));
        assert_eq!(milli(&pod_requests(&p), "cpu"), 3000, "i2 beside s is more than a beside s");
    }

    #[test]
    fn oom_scores() {
        const GIB: i64 = 1 << 30;
        let p = with(json!([{"name": "a"}]));
        assert_eq!(oom_score_adj(&p, &spec::containers(&p)[0], 8 * GIB), 1000);
        let p = with(json!([{"name": "a", "resources": {"requests": {"memory": "4Gi"}}}]));
        assert_eq!(oom_score_adj(&p, &spec::containers(&p)[0], 8 * GIB), 500);
        let p = with(json!([{"name": "a", "resources": {"requests": {"memory": "1"}}}]));
        assert_eq!(oom_score_adj(&p, &spec::containers(&p)[0], 8 * GIB), 999);
        let p = with(json!([{"name": "a", "resources": {"requests": {"memory": "9Gi"}}}]));
        assert_eq!(oom_score_adj(&p, &spec::containers(&p)[0], 8 * GIB), 3);
    }
}
