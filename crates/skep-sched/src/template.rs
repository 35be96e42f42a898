//! What a pod means to placement, compiled once and shared by all pods that mean the same.

use skep_base::LabelSelector;
use skep_base::selector::{Operator, Requirement};

use crate::resources::{HostPort, PodRequests, host_ports};
use crate::views::{
    ExpressionView, Labels, NodeTermView, PodTermView, PodView, SelectorView, SpreadConstraintView, Taint,
    Toleration, VolumeView,
};

/// The label by which "every node for itself" is spread.
pub const HOSTNAME: &str = "kubernetes.io/hostname";
/// The label of a node's zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";

/// Everything about a pod that decides where it may go and what it does to others. Not its name, nor where it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Template {
    /// Namespace.
    pub namespace: Box<str>,
    /// Labels.
    pub labels: Labels,
    /// What it takes.
    pub requests: PodRequests,
    /// Ports of the node that it takes.
    pub ports: Box<[HostPort]>,
    /// Tolerated taints.
    pub tolerations: Box<[Toleration]>,
    /// Labels that a node must have.
    pub node_selector: Labels,
    /// Terms of which a node must match one, if there are any.
    pub node_required: Option<Box<[NodeTerm]>>,
    /// What is liked in a node, and how much.
    pub node_preferred: Box<[(i32, NodeTerm)]>,
    /// The only nodes that it can go to by name, if its terms say so.
    pub pinned: Option<Box<[Box<str>]>>,
    /// How to spread; empty for the defaults.
    pub spread: Box<[Spread]>,
    /// Pods to be near to.
    pub affinity: Box<[PodTerm]>,
    /// Pods to be away from.
    pub anti_affinity: Box<[PodTerm]>,
    /// Pods to be rather near to (positive) or away from (negative).
    pub preferred: Box<[(i32, PodTerm)]>,
    /// Its images with tags, one per container, and image volumes.
    pub images: Box<[Box<str>]>,
    /// How many containers it has, init containers included.
    pub containers: u32,
    /// Volumes that restrict where it may go.
    pub volumes: Box<[PodVolume]>,
    /// Priority.
    pub priority: i32,
    /// Whether it must not push others out.
    pub preempts_never: bool,
    /// Who makes pods like this, for the default way to spread.
    pub owner: Option<(OwnerKind, Box<str>)>,
}

/// A controller whose selector says which pods belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OwnerKind {
    /// `v1` `ReplicationController`.
    ReplicationController,
    /// `apps/v1` `ReplicaSet`.
    ReplicaSet,
    /// `apps/v1` `StatefulSet`.
    StatefulSet,
}

/// Requirements on a node that must all hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeTerm {
    labels: LabelSelector,
    names: Box<[(bool, Box<str>)]>,
    valid: bool,
}

impl NodeTerm {
    /// `None` for a term that says nothing: it matches no node.
    fn compile(view: &NodeTermView) -> Option<NodeTerm> {
        if view.match_expressions.is_empty() && view.match_fields.is_empty() {
            return None;
        }
        let mut valid = true;
        let mut requirements = Vec::new();
        for expression in &view.match_expressions {
            match requirement(expression) {
                Some(requirement) => requirements.push(requirement),
                None => valid = false,
            }
        }
        let mut names = Vec::new();
        for field in &view.match_fields {
            let wanted = match &*field.operator {
                "In" => true,
                "NotIn" => false,
                _ => {
                    valid = false;
                    continue;
                }
            };
            match (&*field.key, &*field.values) {
                ("metadata.name", [one]) => names.push((wanted, one.clone())),
                // A node has no other field to select by, so it is taken to be empty there.
                (_, [one]) => valid &= one.is_empty() == wanted,
                _ => valid = false,
            }
        }
        Some(NodeTerm { labels: LabelSelector::new(requirements), names: names.into(), valid })
    }

    /// Whether a node satisfies all of it.
    #[must_use]
    pub fn matches(&self, name: &str, labels: &Labels) -> bool {
        self.valid
            && self.names.iter().all(|(wanted, one)| (**one == *name) == *wanted)
            && self.labels.matches(|key| labels.get(key))
    }
}

/// Which pods, and the node label whose equal values make nodes near.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodTerm {
    namespaces: Box<[Box<str>]>,
    namespace_selector: LabelSelector,
    selector: LabelSelector,
    /// The node label.
    pub topology_key: Box<str>,
}

impl PodTerm {
    fn compile(view: &PodTermView, own_namespace: &str) -> PodTerm {
        let namespaces = if view.namespaces.is_empty() && view.namespace_selector.is_none() {
            [own_namespace.into()].into()
        } else {
            view.namespaces.clone()
        };
        PodTerm {
            namespaces,
            namespace_selector: selector(view.namespace_selector.as_ref()),
            selector: selector(view.label_selector.as_ref()),
            topology_key: view.topology_key.clone(),
        }
    }

    /// Whether the answer depends on the labels of namespaces.
    #[must_use]
    pub fn looks_at_namespaces(&self) -> bool {
        !self.namespace_selector.is_nothing() && !self.namespace_selector.is_everything()
    }

    /// Whether a pod is meant. `namespace_labels` finds a namespace's labels.
    pub fn matches<'a>(
        &self,
        namespace: &str,
        labels: &Labels,
        namespace_labels: impl FnOnce(&str) -> Option<&'a Labels>,
    ) -> bool {
        let here = self.namespaces.iter().any(|n| **n == *namespace)
            || self.namespace_selector.is_everything()
            || (self.looks_at_namespaces()
                && namespace_labels(namespace)
                    .is_some_and(|found| self.namespace_selector.matches(|key| found.get(key))));
        here && self.selector.matches(|key| labels.get(key))
    }
}

/// How to spread over a topology.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Spread {
    /// The node label.
    pub topology_key: Box<str>,
    /// Whether it must hold, or is only better.
    pub hard: bool,
    /// Largest difference.
    pub max_skew: i64,
    /// Below this many domains the least is taken to be nothing.
    pub min_domains: usize,
    /// Which pods of the namespace.
    pub selector: LabelSelector,
    /// Whether nodes that the pod does not select are left out.
    pub honor_affinity: bool,
    /// Whether nodes that the pod does not tolerate are left out.
    pub honor_taints: bool,
}

impl Spread {
    fn compile(view: &SpreadConstraintView, labels: &Labels) -> Spread {
        let mut selector = selector(view.label_selector.as_ref());
        let own: Vec<Requirement> = view
            .match_label_keys
            .iter()
            .filter_map(|key| Some((key, labels.get(key)?)))
            .filter_map(|(key, value)| Requirement::new(&**key, Operator::In, vec![value.to_owned()]).ok())
            .collect();
        if !own.is_empty() && !selector.is_nothing() {
            selector = LabelSelector::new(own.into_iter().chain(selector.requirements().to_vec()).collect());
        }
        Spread {
            topology_key: view.topology_key.clone(),
            hard: &*view.when_unsatisfiable == "DoNotSchedule",
            max_skew: i64::from(view.max_skew),
            min_domains: usize::try_from(view.min_domains.unwrap_or(1)).unwrap_or(1),
            selector,
            honor_affinity: view.node_affinity_policy.as_deref() != Some("Ignore"),
            honor_taints: view.node_taints_policy.as_deref() == Some("Honor"),
        }
    }

    /// The two constraints of a pod that names none, over the pods that `selector` finds.
    #[must_use]
    pub fn defaults(selector: &LabelSelector) -> [Spread; 2] {
        let soft = |key: &str, max_skew| Spread {
            topology_key: key.into(),
            hard: false,
            max_skew,
            min_domains: 1,
            selector: selector.clone(),
            honor_affinity: true,
            honor_taints: false,
        };
        [soft(HOSTNAME, 3), soft(ZONE, 5)]
    }

    /// Whether pods with these labels (of the same namespace) count. A selector that says nothing counts none.
    #[must_use]
    pub fn counts(&self, labels: &Labels) -> bool {
        !self.selector.is_everything() && self.selector.matches(|key| labels.get(key))
    }

    /// Whether the pod itself would count: here a selector that says nothing matches.
    #[must_use]
    pub fn matches_self(&self, labels: &Labels) -> bool {
        self.selector.matches(|key| labels.get(key))
    }
}

/// A volume that restricts where a pod may go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PodVolume {
    /// A claim in the pod's namespace; `for_pod` when it was made for just this pod.
    Claim {
        /// Its name.
        name: Box<str>,
        /// Made from a template in the pod.
        for_pod: bool,
    },
    /// A disk that cannot be shared freely.
    Disk(Box<VolumeView>),
}

impl PodVolume {
    /// Whether two pods with these cannot be on one node.
    #[must_use]
    pub fn conflicts(&self, other: &PodVolume) -> bool {
        let (PodVolume::Disk(a), PodVolume::Disk(b)) = (self, other) else { return false };
        if let (Some(a), Some(b)) = (&a.gce_persistent_disk, &b.gce_persistent_disk)
            && a.pd_name == b.pd_name
            && !(a.read_only && b.read_only)
        {
            return true;
        }
        if let (Some(a), Some(b)) = (&a.aws_elastic_block_store, &b.aws_elastic_block_store)
            && a == b
        {
            return true;
        }
        if let (Some(a), Some(b)) = (&a.iscsi, &b.iscsi)
            && a.iqn == b.iqn
            && !(a.read_only && b.read_only)
        {
            return true;
        }
        if let (Some(a), Some(b)) = (&a.rbd, &b.rbd)
            && a.monitors.iter().any(|m| b.monitors.contains(m))
            && a.pool == b.pool
            && a.image == b.image
            && !(a.read_only && b.read_only)
        {
            return true;
        }
        false
    }
}

impl Template {
    /// Compiles a pod.
    #[must_use]
    pub fn compile(pod: &PodView) -> Template {
        let spec = &pod.spec;
        let namespace = &pod.metadata.namespace;
        let affinity = spec.affinity.as_deref();
        let node_required = affinity.and_then(|a| a.node_affinity.required.as_ref());
        let pod_terms = |views: &[PodTermView]| -> Box<[PodTerm]> {
            views.iter().map(|v| PodTerm::compile(v, namespace)).collect()
        };
        let preferred = affinity.map_or_else(Box::default, |a| {
            let near = a.pod_affinity.preferred.iter().map(|t| (t.weight, &t.pod_affinity_term));
            let away = a.pod_anti_affinity.preferred.iter().map(|t| (-t.weight, &t.pod_affinity_term));
            near.chain(away).map(|(weight, term)| (weight, PodTerm::compile(term, namespace))).collect()
        });
        let containers = spec.init_containers.iter().chain(&spec.containers);
        let image_volumes = spec.volumes.iter().filter_map(|v| Some(&v.image.as_ref()?.reference));
        Template {
            namespace: namespace.clone(),
            labels: pod.metadata.labels.clone(),
            requests: PodRequests::of(pod),
            ports: host_ports(pod),
            tolerations: spec.tolerations.clone(),
            node_selector: spec.node_selector.clone(),
            node_required: node_required
                .map(|r| r.node_selector_terms.iter().filter_map(NodeTerm::compile).collect()),
            node_preferred: affinity.map_or_else(Box::default, |a| {
                let weighted = a.node_affinity.preferred.iter().filter(|t| t.weight != 0);
                weighted.filter_map(|t| Some((t.weight, NodeTerm::compile(&t.preference)?))).collect()
            }),
            pinned: node_required.and_then(|r| pinned(&r.node_selector_terms)),
            spread: spec
                .topology_spread_constraints
                .iter()
                .map(|c| Spread::compile(c, &pod.metadata.labels))
                .collect(),
            affinity: affinity.map_or_else(Box::default, |a| pod_terms(&a.pod_affinity.required)),
            anti_affinity: affinity.map_or_else(Box::default, |a| pod_terms(&a.pod_anti_affinity.required)),
            preferred,
            images: containers.map(|c| &c.image).chain(image_volumes).map(|i| tagged(i)).collect(),
            containers: u32::try_from(spec.containers.len() + spec.init_containers.len()).unwrap_or(u32::MAX),
            volumes: spec.volumes.iter().filter_map(|v| pod_volume(pod, v)).collect(),
            priority: spec.priority.unwrap_or(0),
            preempts_never: spec.preemption_policy.as_deref() == Some("Never"),
            owner: owner(pod),
        }
    }

    /// Whether other pods are affected by where such a pod is, beyond the room it takes.
    #[must_use]
    pub fn has_pod_terms(&self) -> bool {
        !self.affinity.is_empty() || !self.anti_affinity.is_empty() || !self.preferred.is_empty()
    }

    /// All that it says about other pods.
    pub(crate) fn pod_terms(&self) -> impl Iterator<Item = &PodTerm> {
        let required = self.affinity.iter().chain(&self.anti_affinity);
        required.chain(self.preferred.iter().map(|(_, term)| term))
    }

    /// Whether a node has the labels, fields and name that the pod asks for.
    #[must_use]
    pub fn selects_node(&self, name: &str, labels: &Labels) -> bool {
        self.node_selector.iter().all(|(k, v)| labels.get(k) == Some(v))
            && self.node_required.as_ref().is_none_or(|terms| terms.iter().any(|t| t.matches(name, labels)))
    }

    /// Whether no taint of a node keeps the pod away.
    #[must_use]
    pub fn tolerates_all(&self, taints: &[Taint]) -> bool {
        taints
            .iter()
            .filter(|t| matches!(&*t.effect, "NoSchedule" | "NoExecute"))
            .all(|taint| self.tolerations.iter().any(|t| tolerates(t, taint)))
    }

    /// How many taints a node has that the pod would rather avoid.
    #[must_use]
    pub fn disliked_taints(&self, taints: &[Taint]) -> usize {
        let tolerated = |taint: &Taint| {
            let soft = |t: &&Toleration| t.effect.is_empty() || &*t.effect == "PreferNoSchedule";
            self.tolerations.iter().filter(soft).any(|t| tolerates(t, taint))
        };
        taints.iter().filter(|t| &*t.effect == "PreferNoSchedule" && !tolerated(t)).count()
    }
}

/// Whether a toleration covers a taint.
#[must_use]
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    (toleration.effect.is_empty() || toleration.effect == taint.effect)
        && (toleration.key.is_empty() || toleration.key == taint.key)
        && match &*toleration.operator {
            "" | "Equal" => toleration.value == taint.value,
            "Exists" => true,
            _ => false,
        }
}

fn requirement(view: &ExpressionView) -> Option<Requirement> {
    let operator = match &*view.operator {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::GreaterThan,
        "Lt" => Operator::LessThan,
        _ => return None,
    };
    Requirement::new(&*view.key, operator, view.values.iter().map(|v| v.to_string()).collect()).ok()
}

/// A label selector in an object. Without one nothing is selected; neither is by one that is malformed.
#[must_use]
pub fn selector(view: Option<&SelectorView>) -> LabelSelector {
    let Some(view) = view else { return LabelSelector::nothing() };
    let expressions: Option<Vec<Requirement>> = view.match_expressions.iter().map(requirement).collect();
    let Some(mut requirements) = expressions else { return LabelSelector::nothing() };
    requirements.extend(LabelSelector::from_labels(view.match_labels.iter()).requirements().iter().cloned());
    LabelSelector::new(requirements)
}

fn pinned(terms: &[NodeTermView]) -> Option<Box<[Box<str>]>> {
    let mut all: Vec<Box<str>> = Vec::new();
    for term in terms {
        let mut names: Option<Vec<Box<str>>> = None;
        for field in &term.match_fields {
            if &*field.key == "metadata.name" && &*field.operator == "In" {
                let mut own = field.values.to_vec();
                own.retain(|name| names.as_ref().is_none_or(|before| before.contains(name)));
                names = Some(own);
            }
        }
        all.extend(names?);
    }
    if terms.is_empty() {
        return None;
    }
    all.sort();
    all.dedup();
    Some(all.into())
}

fn tagged(image: &str) -> Box<str> {
    let tag = image.rfind(':').map_or(-1, |at| at as i64);
    let slash = image.rfind('/').map_or(-1, |at| at as i64);
    if tag <= slash { format!("{image}:latest").into() } else { image.into() }
}

fn pod_volume(pod: &PodView, view: &VolumeView) -> Option<PodVolume> {
    if let Some(claim) = &view.persistent_volume_claim {
        return Some(PodVolume::Claim { name: claim.claim_name.clone(), for_pod: false });
    }
    if view.ephemeral.is_some() {
        let name = format!("{}-{}", pod.metadata.name, view.name).into();
        return Some(PodVolume::Claim { name, for_pod: true });
    }
    let is_disk = view.gce_persistent_disk.is_some()
        || view.aws_elastic_block_store.is_some()
        || view.iscsi.is_some()
        || view.rbd.is_some();
    is_disk.then(|| PodVolume::Disk(Box::new(VolumeView { name: Box::default(), ..view.clone() })))
}

fn owner(pod: &PodView) -> Option<(OwnerKind, Box<str>)> {
    let owner = pod.metadata.owner_references.iter().find(|o| o.controller == Some(true))?;
    let kind = match (&*owner.api_version, &*owner.kind) {
        ("v1", "ReplicationController") => OwnerKind::ReplicationController,
        ("apps/v1", "ReplicaSet") => OwnerKind::ReplicaSet,
        ("apps/v1", "StatefulSet") => OwnerKind::StatefulSet,
        _ => return None,
    };
    Some((kind, owner.name.clone()))
}
