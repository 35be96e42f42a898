//! Resizing a pod in place: what it may have now (*allocated*), what its user wants instead (the specification), and what the kernel has been
//! told (*actuated*). The rest of the agent sees pods with what is allocated to them.
//!
//! Deciding is pure; [`Worker`](crate::worker::Worker) does what is decided.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerStatus, Node, Pod, PodCondition, PodStatus, ResourceRequirements,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use skep_base::quantity::Quantity;

use crate::resources::Amounts;
use crate::{admission, spec, state};

/// The resources that can be changed.
const RESOURCES: [&str; 2] = ["cpu", "memory"];
/// The conditions that tell of it.
pub const PENDING: &str = "PodResizePending";
/// See [`PENDING`].
pub const IN_PROGRESS: &str = "PodResizeInProgress";
/// Where a pod's is written down, in its directory.
pub const FILE: &str = "resources.json";

/// What a container has.
type Own = Option<ResourceRequirements>;

/// What was said of a pod's resources, and done; written down, for it is nowhere else.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Allocation {
    /// The pod's own, above its containers'.
    #[serde(default)]
    pub pod: Own,
    /// By container.
    pub containers: BTreeMap<String, Own>,
    /// What the kernel was told, by the run's id.
    #[serde(default)]
    pub actuated: BTreeMap<String, Own>,
    /// A change is on its way: the generation that asked for it.
    #[serde(default)]
    pub since: Option<i64>,
}

/// What becomes of a wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is none.
    Same,
    /// It can be done.
    Fits,
    /// It cannot: the condition's reason and message.
    Pending(&'static str, String),
}

fn each(pod: &Pod) -> impl Iterator<Item = &Container> {
    spec::init_containers(pod).iter().chain(spec::containers(pod))
}

impl Allocation {
    /// All that a pod asks for.
    #[must_use]
    pub fn of(pod: &Pod) -> Allocation {
        Allocation {
            pod: pod.spec.as_ref().and_then(|s| s.resources.clone()),
            containers: each(pod).map(|c| (c.name.clone(), c.resources.clone())).collect(),
            ..Allocation::default()
        }
    }

    /// What a former agent has written down.
    #[must_use]
    pub fn load(folder: &Path) -> Option<Allocation> {
        serde_json::from_slice(&std::fs::read(folder.join(FILE)).ok()?).ok()
    }

    /// Writes it down.
    ///
    /// # Errors
    /// What the disk says.
    pub fn save(&self, folder: &Path) -> std::io::Result<()> {
        let new = folder.join("resources.json.new");
        std::fs::create_dir_all(folder)?;
        std::fs::write(&new, serde_json::to_vec(self)?)?;
        std::fs::rename(new, folder.join(FILE))
    }

    /// The pod with what is allocated to it.
    #[must_use]
    pub fn apply(&self, mut pod: Pod) -> Pod {
        let Some(spec) = &mut pod.spec else { return pod };
        spec.resources.clone_from(&self.pod);
        let all = spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten());
        for c in all {
            if let Some(own) = self.containers.get(&c.name) {
                c.resources.clone_from(own);
            }
        }
        pod
    }

    /// Whether the pod asks for just this.
    #[must_use]
    pub fn is_for(&self, pod: &Pod) -> bool {
        same(&self.pod, &pod.spec.as_ref().and_then(|s| s.resources.clone()))
            && each(pod).all(|c| self.containers.get(&c.name).is_none_or(|own| same(own, &c.resources)))
    }
}

fn amount(own: &Own, limits: bool, name: &str) -> Option<Quantity> {
    let own = own.as_ref()?;
    let list = if limits { own.limits.as_ref() } else { own.requests.as_ref() };
    list?.get(name)?.0.parse().ok()
}

/// The resources that differ.
fn differing<'a>(a: &'a Own, b: &'a Own) -> impl Iterator<Item = &'static str> + 'a {
    RESOURCES.into_iter().filter(|r| [false, true].iter().any(|l| amount(a, *l, r) != amount(b, *l, r)))
}

fn same(a: &Own, b: &Own) -> bool {
    differing(a, b).next().is_none()
}

/// What becomes of what a pod's specification asks for.
#[must_use]
pub fn decide(
    pod: &Pod,
    allocation: &Allocation,
    node: &Node,
    allocatable: &Amounts,
    others: &[&Pod],
    apparmor: bool,
) -> Verdict {
    if allocation.is_for(pod) {
        return Verdict::Same;
    }
    if spec::is_static(pod) {
        let message = "In-place resize of static-pods is not supported";
        return Verdict::Pending("Infeasible", message.to_owned());
    }
    match admission::admit(pod, node, allocatable, others, apparmor) {
        Ok(()) => Verdict::Fits,
        Err((_, message)) => Verdict::Pending("Deferred", message),
    }
}

/// What is to be done about a run whose container was resized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    None,
    /// The kernel is told.
    Update,
    /// It begins anew.
    Restart,
}

/// Compares what the kernel was told with what the container is to have.
#[must_use]
pub fn step(c: &Container, actuated: &Own) -> Step {
    let policies = c.resize_policy.as_deref().unwrap_or_default();
    let restarts = |name: &str| {
        policies.iter().any(|p| p.resource_name == name && p.restart_policy == "RestartContainer")
    };
    let mut step = Step::None;
    for name in differing(actuated, &c.resources) {
        if restarts(name) {
            return Step::Restart;
        }
        step = Step::Update;
    }
    step
}

/// Whether a memory limit goes down.
#[must_use]
pub fn lowers_memory(before: &Own, after: &Own) -> Option<i64> {
    let after = amount(after, true, "memory")?.value();
    amount(before, true, "memory").is_none_or(|b| after < b.value()).then_some(after)
}

/// What is told of a resize.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Why it waits: reason and message.
    pub pending: Option<(&'static str, String)>,
    /// It is being done.
    pub in_progress: bool,
    /// Why it cannot be done for now.
    pub error: Option<String>,
}

/// Puts into a status what containers have, and how their resizing fares.
pub fn show(
    status: &mut PodStatus,
    allocation: &Allocation,
    told: &Told,
    generation: Option<i64>,
    now: Timestamp,
) {
    let lists = [&mut status.container_statuses, &mut status.init_container_statuses];
    for s in lists.into_iter().flatten().flatten() {
        let id = bare(s);
        if let Some(actuated) = allocation.actuated.get(&id) {
            s.resources.clone_from(actuated);
        }
    }
    let conditions = status.conditions.get_or_insert_default();
    let mut put = |kind: &str, about: Option<(&str, &str, Option<i64>)>| match about {
        Some((reason, message, generation)) => {
            let condition = PodCondition {
                type_: kind.to_owned(),
                status: "True".to_owned(),
                reason: (!reason.is_empty()).then(|| reason.to_owned()),
                message: (!message.is_empty()).then(|| message.to_owned()),
                observed_generation: generation,
                ..PodCondition::default()
            };
            state::set_condition(conditions, condition, now);
        }
        None => conditions.retain(|c| c.type_ != kind),
    };
    put(PENDING, told.pending.as_ref().map(|(reason, message)| (*reason, message.as_str(), generation)));
    let error = told.error.as_deref();
    let about = (error.map_or("", |_| "Error"), error.unwrap_or(""), allocation.since);
    put(IN_PROGRESS, told.in_progress.then_some(about));
}

/// The id of the run that a status tells of.
fn bare(s: &ContainerStatus) -> String {
    let id = s.container_id.as_deref().unwrap_or_default();
    id.rsplit_once("//").map_or(id, |(_, id)| id).to_owned()
}

/// What events say: the resources of all containers, in JSON.
#[must_use]
pub fn summary(pod: &Pod, error: Option<&str>) -> String {
    let list = |all: &[Container]| -> Vec<serde_json::Value> {
        all.iter()
            .map(|c| json!({"name": c.name, "resources": c.resources.clone().unwrap_or_default()}))
            .collect()
    };
    let mut text = json!({"containers": list(spec::containers(pod)), "generation": pod.metadata.generation});
    if !spec::init_containers(pod).is_empty() {
        text["initContainers"] = list(spec::init_containers(pod)).into();
    }
    if let Some(error) = error {
        text["error"] = error.into();
    }
    text.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::pod;
    use serde_json::Value;

    fn sized(cpu: &str, memory: &str, policy: Value) -> Pod {
        pod(
            json!({"tolerations": [{"operator": "Exists"}], "containers": [{"name": "c", "resizePolicy": policy,
            "resources": {"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu, "memory": memory}}}]}),
        )
    }

    fn look(pod: &Pod, allocation: &Allocation) -> Verdict {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n"}})).unwrap();
        let allocatable = [("cpu", "2"), ("memory", "1Gi"), ("pods", "3")]
            .into_iter()
            .map(|(k, v)| (k.to_owned(), v.parse().unwrap()))
            .collect();
        decide(pod, allocation, &node, &allocatable, &[&sized("1", "512Mi", Value::Null)], false)
    }

    #[test]
    fn wishes_are_granted_as_far_as_there_is_room() {
        let before = Allocation::of(&sized("500m", "100Mi", Value::Null));
        assert_eq!(look(&sized("0.5", "102400Ki", Value::Null), &before), Verdict::Same, "the same amounts");
        assert_eq!(look(&sized("1", "100Mi", Value::Null), &before), Verdict::Fits);
        let message =
            "Node didn't have enough resource: cpu, requested: 1001, used: 1000, capacity: 2000".to_owned();
        assert_eq!(look(&sized("1001m", "1Mi", Value::Null), &before), Verdict::Pending("Deferred", message));
    }

    #[test]
    fn pods_have_what_is_allocated() {
        let (small, large) = (sized("1", "1Mi", Value::Null), sized("2", "2Mi", Value::Null));
        let allocation = Allocation::of(&small);
        let shown = allocation.apply(large.clone());
        assert_eq!(
            shown.spec.as_ref().unwrap().containers[0].resources,
            spec::containers(&small)[0].resources
        );
        assert_eq!(Allocation::of(&large).apply(shown), large);
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Allocation::load(folder.path()), None);
        allocation.save(folder.path()).unwrap();
        assert_eq!(Allocation::load(folder.path()), Some(allocation));
    }

    #[test]
    fn policies_say_what_a_change_takes() {
        let restart = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
        let before = spec::containers(&sized("1", "10Mi", Value::Null))[0].resources.clone();
        let of = |cpu, memory| step(&spec::containers(&sized(cpu, memory, restart.clone()))[0], &before);
        assert_eq!(of("1000m", "10240Ki"), Step::None);
        assert_eq!(of("2", "10Mi"), Step::Update);
        assert_eq!(of("2", "11Mi"), Step::Restart);
        let after = spec::containers(&sized("1", "9Mi", Value::Null))[0].resources.clone();
        assert_eq!(lowers_memory(&before, &after), Some(9 << 20));
        assert_eq!(lowers_memory(&after, &before), None);
        assert_eq!(lowers_memory(&None, &after), Some(9 << 20));
    }

    #[test]
    fn statuses_tell_of_it() {
        let mut status = PodStatus {
            container_statuses: Some(vec![ContainerStatus {
                container_id: Some("skep://abc".to_owned()),
                ..ContainerStatus::default()
            }]),
            ..PodStatus::default()
        };
        let own = spec::containers(&sized("1", "10Mi", Value::Null))[0].resources.clone();
        let mut allocation = Allocation { since: Some(4), ..Allocation::default() };
        allocation.actuated.insert("abc".to_owned(), own.clone());
        let told = Told {
            pending: Some(("Deferred", "no room".to_owned())),
            in_progress: true,
            error: Some("busy".to_owned()),
        };
        show(&mut status, &allocation, &told, Some(5), Timestamp::UNIX_EPOCH);
        assert_eq!(status.container_statuses.as_ref().unwrap()[0].resources, own);
        let told_of = |s: &PodStatus| -> Vec<String> {
            let all = s.conditions.iter().flatten();
            all.map(|c| format!("{} {:?} {:?} {:?}", c.type_, c.reason, c.message, c.observed_generation))
                .collect()
        };
        assert_eq!(
            told_of(&status),
            [
                r#"PodResizePending Some("Deferred") Some("no room") Some(5)"#,
                r#"PodResizeInProgress Some("Error") Some("busy") Some(4)"#
            ]
        );
        show(&mut status, &allocation, &Told::default(), Some(5), Timestamp::UNIX_EPOCH);
        assert!(told_of(&status).is_empty());
    }
}
