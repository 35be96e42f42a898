//! Volumes: where bound ones can be reached, which unbound ones fit, how many a node takes.

use rustc_hash::{FxHashMap, FxHashSet};
use serde::Deserialize;
use skep_base::{LabelSelector, Quantity};

use crate::check::Supposed;
use crate::class::Class;
use crate::cluster::{Cluster, NodeIndex};
use crate::diagnosis::{Plugin, Rejection};
use crate::template::{PodVolume, Template, selector};
use crate::views::{Labels, NamedMeta, NodeSelectorView, ResourceList, ResourcesView, SelectorView};

/// The annotation that says on which node a volume is to be made.
pub(crate) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// Labels of nodes and volumes that name zones and regions, and the newer name of each.
const ZONE_LABELS: [(&str, &str); 4] = [
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("topology.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("topology.kubernetes.io/region", "topology.kubernetes.io/region"),
];

macro_rules! views {
    ($($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident : $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name { $($(#[$fdoc])* pub $field: $type,)* }
    )*};
}

views! {
    /// A persistent volume claim.
    ClaimView {
        /// Metadata.
        metadata: NamedMeta,
        /// What is wanted.
        spec: ClaimSpec,
        /// What is.
        status: PhaseView,
    }
    /// A claim's specification.
    ClaimSpec {
        /// How it is accessed.
        access_modes: Vec<Box<str>>,
        /// The volume it is bound to.
        volume_name: Box<str>,
        /// Its class.
        storage_class_name: Option<Box<str>>,
        /// `Filesystem` or `Block`.
        volume_mode: Option<Box<str>>,
        /// Which volumes may be bound.
        selector: Option<SelectorView>,
        /// How much is wanted.
        resources: ResourcesView,
        /// Attributes class.
        volume_attributes_class_name: Option<Box<str>>,
    }
    /// Holds a phase.
    PhaseView {
        /// The phase.
        phase: Box<str>,
    }
    /// A persistent volume.
    VolumeView {
        /// Metadata.
        metadata: NamedMeta,
        /// What is wanted.
        spec: VolumeSpec,
        /// What is.
        status: PhaseView,
    }
    /// A volume's specification.
    VolumeSpec {
        /// Its size.
        capacity: ResourceList,
        /// How it can be accessed.
        access_modes: Vec<Box<str>>,
        /// The claim that has it.
        claim_ref: Option<ClaimRef>,
        /// Its class.
        storage_class_name: Box<str>,
        /// From where it can be reached.
        node_affinity: Option<VolumeNodeAffinity>,
        /// `Filesystem` or `Block`.
        volume_mode: Option<Box<str>>,
        /// Its driver, if it has one.
        csi: Option<CsiSource>,
        /// Attributes class.
        volume_attributes_class_name: Option<Box<str>>,
    }
    /// Names a claim.
    ClaimRef {
        /// Namespace.
        namespace: Box<str>,
        /// Name.
        name: Box<str>,
        /// Identity.
        uid: Box<str>,
    }
    /// From where a volume can be reached.
    VolumeNodeAffinity {
        /// Which nodes.
        required: Option<NodeSelectorView>,
    }
    /// A volume of a driver.
    CsiSource {
        /// The driver.
        driver: Box<str>,
        /// Its name for the volume.
        volume_handle: Box<str>,
    }
    /// A storage class.
    StorageClassView {
        /// Metadata.
        metadata: NamedMeta,
        /// Who makes volumes.
        provisioner: Box<str>,
        /// `Immediate` or `WaitForFirstConsumer`.
        volume_binding_mode: Option<Box<str>>,
        /// Where volumes can be made.
        allowed_topologies: Vec<TopologyTerm>,
    }
    /// Labels that must all have one of some values.
    TopologyTerm {
        /// The labels.
        match_label_expressions: Vec<TopologyLabel>,
    }
    /// A label that must have one of some values.
    TopologyLabel {
        /// The label.
        key: Box<str>,
        /// The values.
        values: Vec<Box<str>>,
    }
    /// Which drivers a node has.
    CsiNodeView {
        /// Metadata.
        metadata: NamedMeta,
        /// The drivers.
        spec: CsiNodeSpec,
    }
    /// Which drivers a node has.
    CsiNodeSpec {
        /// The drivers.
        drivers: Vec<CsiNodeDriver>,
    }
    /// A driver on a node.
    CsiNodeDriver {
        /// Its name.
        name: Box<str>,
        /// How many volumes it attaches.
        allocatable: Option<CsiNodeLimit>,
    }
    /// How many volumes are attached at most.
    CsiNodeLimit {
        /// The number; none for no limit.
        count: Option<i64>,
    }
    /// A driver.
    CsiDriverView {
        /// Metadata.
        metadata: NamedMeta,
        /// What it does.
        spec: CsiDriverSpec,
    }
    /// What a driver does.
    CsiDriverSpec {
        /// Whether it tells how much room there is.
        storage_capacity: Option<bool>,
    }
    /// How much room there is for volumes.
    CapacityView {
        /// Metadata.
        metadata: NamedMeta,
        /// For volumes of this class.
        storage_class_name: Box<str>,
        /// Reachable from these nodes.
        node_topology: Option<SelectorView>,
        /// All of it.
        capacity: Option<Quantity>,
        /// The largest volume.
        maximum_volume_size: Option<Quantity>,
    }
}

/// Something to be done about a volume before the pod may be bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeStep {
    /// Bind this volume to the claim.
    Bind {
        /// The claim's namespace.
        namespace: String,
        /// The claim.
        claim: String,
        /// The volume.
        volume: String,
    },
    /// Have a volume made for the claim.
    Provision {
        /// The claim's namespace.
        namespace: String,
        /// The claim.
        claim: String,
        /// For a pod on this node.
        node: String,
    },
}

/// Claims, volumes, classes and drivers of a tenant.
#[derive(Debug, Default)]
pub struct Storage {
    claims: FxHashMap<Box<str>, ClaimView>,
    volumes: FxHashMap<Box<str>, VolumeView>,
    classes: FxHashMap<Box<str>, StorageClassView>,
    csi_nodes: FxHashMap<Box<str>, CsiNodeView>,
    csi_drivers: FxHashMap<Box<str>, CsiDriverView>,
    capacities: FxHashMap<Box<str>, CapacityView>,
    /// How many pods on nodes use each claim.
    users: FxHashMap<Box<str>, u32>,
}

fn set<V>(map: &mut FxHashMap<Box<str>, V>, key: &str, value: Option<V>) {
    match value {
        Some(value) => map.insert(key.into(), value),
        None => map.remove(key),
    };
}

fn claim_key(namespace: &str, name: &str) -> Box<str> {
    format!("{namespace}/{name}").into()
}

impl Storage {
    /// Takes over a claim; `None` when it is gone.
    pub fn set_claim(&mut self, namespace: &str, name: &str, view: Option<ClaimView>) {
        set(&mut self.claims, &claim_key(namespace, name), view);
    }

    /// Takes over a volume; `None` when it is gone.
    pub fn set_volume(&mut self, name: &str, view: Option<VolumeView>) {
        set(&mut self.volumes, name, view);
    }

    /// Takes over a storage class; `None` when it is gone.
    pub fn set_class(&mut self, name: &str, view: Option<StorageClassView>) {
        set(&mut self.classes, name, view);
    }

    /// Takes over a node's drivers; `None` when they are gone.
    pub fn set_csi_node(&mut self, name: &str, view: Option<CsiNodeView>) {
        set(&mut self.csi_nodes, name, view);
    }

    /// Takes over a driver; `None` when it is gone.
    pub fn set_csi_driver(&mut self, name: &str, view: Option<CsiDriverView>) {
        set(&mut self.csi_drivers, name, view);
    }

    /// Takes over a statement about room; `None` when it is gone.
    pub fn set_capacity(&mut self, namespace: &str, name: &str, view: Option<CapacityView>) {
        set(&mut self.capacities, &claim_key(namespace, name), view);
    }

    /// A claim.
    #[must_use]
    pub fn claim(&self, namespace: &str, name: &str) -> Option<&ClaimView> {
        self.claims.get(&claim_key(namespace, name))
    }

    /// A volume.
    #[must_use]
    pub fn volume(&self, name: &str) -> Option<&VolumeView> {
        self.volumes.get(name)
    }

    /// Takes what is about to be done for done, so that the next pod does not get the same volume.
    pub fn assume(&mut self, steps: &[VolumeStep]) {
        for step in steps {
            match step {
                VolumeStep::Bind { namespace, claim, volume } => {
                    let uid =
                        self.claim(namespace, claim).map(|c| c.metadata.uid.clone()).unwrap_or_default();
                    if let Some(volume) = self.volumes.get_mut(&**volume) {
                        volume.spec.claim_ref = Some(ClaimRef {
                            namespace: namespace.as_str().into(),
                            name: claim.as_str().into(),
                            uid,
                        });
                    }
                }
                VolumeStep::Provision { namespace, claim, node } => {
                    if let Some(claim) = self.claims.get_mut(&claim_key(namespace, claim)) {
                        let annotations = &mut claim.metadata.annotations;
                        let others = annotations.iter().filter(|(k, _)| *k != SELECTED_NODE);
                        *annotations = others.chain([(SELECTED_NODE, node.as_str())]).collect();
                    }
                }
            }
        }
    }

    /// Counts the claims of a pod that came (1) or went (-1). Whether it has any.
    pub(crate) fn use_claims(&mut self, template: &Template, times: i32) -> bool {
        let mut any = false;
        for volume in &template.volumes {
            if let PodVolume::Claim { name, .. } = volume {
                any = true;
                let key = claim_key(&template.namespace, name);
                let users = self.users.entry(key.clone()).or_default();
                *users = users.saturating_add_signed(times);
                if *users == 0 {
                    self.users.remove(&key);
                }
            }
        }
        any
    }

    fn waits_for_consumer(&self, claim: &ClaimView) -> bool {
        let class = self.classes.get(class_of(claim));
        class.is_some_and(|c| c.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"))
    }

    /// The driver of a claim's volume and a name for the volume, if volumes of it are counted.
    fn attachable(&self, namespace: &str, claim: &ClaimView) -> Option<(Box<str>, String)> {
        match self.volumes.get(&claim.spec.volume_name) {
            Some(volume) => {
                let csi = volume.spec.csi.as_ref()?;
                Some((csi.driver.clone(), format!("{}/{}", csi.driver, csi.volume_handle)))
            }
            None => {
                let driver = &self.classes.get(class_of(claim))?.provisioner;
                Some((driver.clone(), format!("{driver}/{namespace}/{}", claim.metadata.name)))
            }
        }
    }
}

fn class_of(claim: &ClaimView) -> &str {
    let annotated = claim.metadata.annotations.get(CLASS_ANNOTATION);
    annotated.or(claim.spec.storage_class_name.as_deref()).unwrap_or("")
}

fn class_of_volume(volume: &VolumeView) -> &str {
    volume.metadata.annotations.get(CLASS_ANNOTATION).unwrap_or(&volume.spec.storage_class_name)
}

fn wanted(claim: &ClaimView) -> Quantity {
    claim.spec.resources.requests.get("storage").unwrap_or(Quantity::ZERO)
}

fn is_bound_to(volume: &VolumeView, claim: &ClaimView) -> bool {
    volume.spec.claim_ref.as_ref().is_some_and(|r| {
        r.name == claim.metadata.name
            && r.namespace == claim.metadata.namespace
            && (r.uid.is_empty() || r.uid == claim.metadata.uid)
    })
}

fn reachable(volume: &VolumeView, labels: &Labels) -> bool {
    let required = volume.spec.node_affinity.as_ref().and_then(|a| a.required.as_ref());
    let Some(required) = required else { return true };
    // Only labels count here, not the node's name.
    required.node_selector_terms.iter().any(|term| {
        !(term.match_expressions.is_empty() && term.match_fields.is_empty()) && {
            let view = SelectorView {
                match_labels: Labels::default(),
                match_expressions: term.match_expressions.clone(),
            };
            selector(Some(&view)).matches(|key| labels.get(key))
        }
    })
}

/// What a pod's volumes ask of a node.
#[derive(Debug, Default)]
pub(crate) struct VolumePlan {
    namespace: Box<str>,
    /// Claims that only one pod may use.
    exclusive: Vec<Box<str>>,
    /// Claims that have their volumes.
    bound: Vec<Box<str>>,
    /// Claims that get one where the pod goes, the smallest first.
    unbound: Vec<Box<str>>,
    /// Labels of zones and regions, and the values that are good.
    zones: Vec<(&'static str, &'static str, FxHashSet<Box<str>>)>,
    /// Volumes that a node must attach, by driver.
    attachable: Vec<(Box<str>, String)>,
}

impl VolumePlan {
    /// What a template's volumes ask; `None` without volumes that matter.
    pub(crate) fn of(cluster: &Cluster, template: &Template) -> Option<Result<VolumePlan, (Plugin, String)>> {
        (!template.volumes.is_empty()).then(|| VolumePlan::make(&cluster.storage, template))
    }

    fn make(storage: &Storage, template: &Template) -> Result<VolumePlan, (Plugin, String)> {
        let mut plan = VolumePlan { namespace: template.namespace.clone(), ..VolumePlan::default() };
        let find = |name: &str| storage.claim(&template.namespace, name);
        let claims = || {
            template.volumes.iter().filter_map(|v| match v {
                PodVolume::Claim { name, for_pod } => Some((name, *for_pod)),
                PodVolume::Disk(_) => None,
            })
        };
        for (name, _) in claims().filter(|(_, for_pod)| !for_pod) {
            let Some(claim) = find(name) else {
                return Err((
                    Plugin::VolumeRestrictions,
                    format!("persistentvolumeclaim {name:?} not found"),
                ));
            };
            if claim.spec.access_modes.iter().any(|m| &**m == "ReadWriteOncePod") {
                plan.exclusive.push(claim_key(&template.namespace, name));
            }
        }
        let binding = |why: String| (Plugin::VolumeBinding, why);
        for (name, _) in claims() {
            let Some(claim) = find(name) else {
                return Err(binding(format!(
                    "waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}"
                )));
            };
            if &*claim.status.phase == "Lost" {
                let volume = &claim.spec.volume_name;
                return Err(binding(format!(
                    "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"
                )));
            }
            if claim.metadata.deletion_timestamp.is_some() {
                return Err(binding(format!("persistentvolumeclaim {name:?} is being deleted")));
            }
        }
        let mut immediate = false;
        for (name, _) in claims() {
            let Some(claim) = find(name) else { continue };
            let has_volume = !claim.spec.volume_name.is_empty();
            if has_volume && claim.metadata.annotations.get(BIND_COMPLETED).is_some() {
                plan.bound.push(name.clone());
            } else if !has_volume && storage.waits_for_consumer(claim) {
                plan.unbound.push(name.clone());
            } else {
                immediate = true;
            }
            plan.attachable.extend(storage.attachable(&template.namespace, claim));
        }
        if immediate {
            return Err(binding("pod has unbound immediate PersistentVolumeClaims".to_owned()));
        }
        for name in &plan.bound {
            let Some(claim) = find(name) else { continue };
            let Some(volume) = storage.volumes.get(&claim.spec.volume_name) else {
                let volume = &claim.spec.volume_name;
                return Err((Plugin::VolumeZone, format!("persistentvolume {volume:?} not found")));
            };
            for (label, newer) in ZONE_LABELS {
                if let Some(values) = volume.metadata.labels.get(label) {
                    plan.zones.push((label, newer, values.split("__").map(Into::into).collect()));
                }
            }
        }
        plan.unbound.sort_by_key(|name| find(name).map(wanted));
        Ok(plan)
    }

    /// What speaks against a node.
    pub(crate) fn check(
        &self,
        cluster: &Cluster,
        template: &Template,
        index: NodeIndex,
        supposed: Supposed<'_>,
    ) -> Option<Rejection> {
        let node = cluster.node(index);
        let storage = &cluster.storage;
        let left = || {
            let pods = node.pods.iter().filter(|p| !supposed.without.contains(p));
            pods.filter_map(|p| cluster.template_of(*p)).chain(supposed.with.iter().copied())
        };
        let disks = || template.volumes.iter().filter(|v| matches!(v, PodVolume::Disk(_)));
        if disks().next().is_some()
            && left().any(|t| t.volumes.iter().any(|theirs| disks().any(|own| own.conflicts(theirs))))
        {
            return Some(Rejection::resolvable(Plugin::VolumeRestrictions, "node(s) had no available disk"));
        }
        if self.is_used_by_others(cluster, supposed) {
            return Some(Rejection::resolvable(
                Plugin::VolumeRestrictions,
                "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod",
            ));
        }
        if self.exceeds_limits(storage, &node.name, left()) {
            return Some(Rejection::resolvable(Plugin::NodeVolumeLimits, "node(s) exceed max volume count"));
        }
        if let Err(reasons) = self.bindings(storage, &node.name, &node.labels) {
            return Some(Rejection {
                plugin: Plugin::VolumeBinding,
                resolvable: false,
                reasons: reasons.into_iter().map(Into::into).collect(),
            });
        }
        let has_zone = ZONE_LABELS.iter().any(|(label, _)| node.labels.get(label).is_some());
        let reaches = |(label, newer, values): &(&str, &str, FxHashSet<Box<str>>)| {
            let value = node.labels.get(label).or_else(|| node.labels.get(newer));
            value.is_some_and(|v| values.contains(v))
        };
        if has_zone && !self.zones.iter().all(reaches) {
            return Some(Rejection::lasting(Plugin::VolumeZone, "node(s) had no available volume zone"));
        }
        None
    }

    fn is_used_by_others(&self, cluster: &Cluster, supposed: Supposed<'_>) -> bool {
        let uses = |template: &Template, key: &str| {
            template.volumes.iter().any(|v| {
                matches!(v, PodVolume::Claim { name, .. } if *claim_key(&template.namespace, name) == *key)
            })
        };
        self.exclusive.iter().any(|key| {
            let users = cluster.storage.users.get(key).copied().unwrap_or(0) as usize;
            let gone = supposed.without.iter().filter_map(|p| cluster.template_of(*p));
            let gone = gone.filter(|t| uses(t, key)).count();
            users > gone || supposed.with.iter().any(|t| uses(t, key))
        })
    }

    fn exceeds_limits<'a>(
        &self,
        storage: &Storage,
        node: &str,
        pods: impl Iterator<Item = &'a Template>,
    ) -> bool {
        let Some(csi_node) = storage.csi_nodes.get(node).filter(|_| !self.attachable.is_empty()) else {
            return false;
        };
        let limit = |driver: &str| {
            let found = csi_node.spec.drivers.iter().find(|d| *d.name == *driver)?;
            usize::try_from(found.allocatable.as_ref()?.count?).ok()
        };
        let mut attached: FxHashSet<(Box<str>, String)> = FxHashSet::default();
        for pod in pods {
            for volume in &pod.volumes {
                if let PodVolume::Claim { name, .. } = volume
                    && let Some(claim) = storage.claim(&pod.namespace, name)
                {
                    attached.extend(storage.attachable(&pod.namespace, claim));
                }
            }
        }
        let new: FxHashSet<&(Box<str>, String)> =
            self.attachable.iter().filter(|v| !attached.contains(*v)).collect();
        new.iter().any(|(driver, _)| {
            let of_driver = |v: &(Box<str>, String)| v.0 == *driver;
            let count = new.iter().filter(|v| of_driver(v)).count()
                + attached.iter().filter(|v| of_driver(v)).count();
            limit(driver).is_some_and(|most| count > most)
        })
    }

    /// Which volumes would be bound or made on a node.
    fn bindings(
        &self,
        storage: &Storage,
        node: &str,
        labels: &Labels,
    ) -> Result<Vec<VolumeStep>, Vec<&'static str>> {
        let mut steps = Vec::new();
        let mut reasons = Vec::new();
        let find = |name: &str| storage.claim(&self.namespace, name);
        let unreachable = self.bound.iter().filter_map(|name| find(name)).any(|claim| {
            storage.volumes.get(&claim.spec.volume_name).is_some_and(|volume| !reachable(volume, labels))
        });
        if unreachable {
            reasons.push("node(s) didn't match PersistentVolume's node affinity");
        }
        let mut chosen: Vec<&str> = Vec::new();
        let mut no_match = false;
        let mut no_space = false;
        for name in &self.unbound {
            let Some(claim) = find(name) else { continue };
            let selected = claim.metadata.annotations.get(SELECTED_NODE);
            if selected.is_some_and(|selected| selected != node) {
                no_match = true;
                break;
            }
            let found = if selected.is_none() { find_volume(storage, claim, labels, &chosen) } else { None };
            if let Some(volume) = found {
                chosen.push(&volume.metadata.name);
                steps.push(VolumeStep::Bind {
                    namespace: self.namespace.to_string(),
                    claim: name.to_string(),
                    volume: volume.metadata.name.to_string(),
                });
                continue;
            }
            let class = storage.classes.get(class_of(claim));
            let makes = class.is_some_and(|class| {
                !class.provisioner.is_empty()
                    && &*class.provisioner != NO_PROVISIONER
                    && allows(&class.allowed_topologies, labels)
            });
            if !makes {
                no_match = true;
            } else if !class.is_some_and(|class| has_space(storage, class, claim, labels)) {
                no_space = true;
            } else {
                steps.push(VolumeStep::Provision {
                    namespace: self.namespace.to_string(),
                    claim: name.to_string(),
                    node: node.to_owned(),
                });
            }
        }
        if no_match {
            reasons.push("node(s) didn't find available persistent volumes to bind");
        } else if no_space {
            reasons.push("node(s) did not have enough free storage");
        }
        if reasons.is_empty() { Ok(steps) } else { Err(reasons) }
    }
}

impl Class {
    pub(crate) fn volume_steps(&self, cluster: &Cluster, index: NodeIndex) -> Vec<VolumeStep> {
        let node = cluster.node(index);
        let plan = self.volume_plan();
        plan.and_then(|p| p.bindings(&cluster.storage, &node.name, &node.labels).ok()).unwrap_or_default()
    }
}

fn allows(terms: &[TopologyTerm], labels: &Labels) -> bool {
    terms.is_empty()
        || terms.iter().any(|term| {
            !term.match_label_expressions.is_empty()
                && term
                    .match_label_expressions
                    .iter()
                    .all(|e| labels.get(&e.key).is_some_and(|own| e.values.iter().any(|v| **v == *own)))
        })
}

fn has_space(storage: &Storage, class: &StorageClassView, claim: &ClaimView, labels: &Labels) -> bool {
    let Some(size) = claim.spec.resources.requests.get("storage") else { return true };
    let tells = storage.csi_drivers.get(&class.provisioner).and_then(|d| d.spec.storage_capacity);
    if tells != Some(true) {
        return true;
    }
    storage.capacities.values().any(|c| {
        c.storage_class_name == class.metadata.name
            && c.maximum_volume_size.or(c.capacity).is_some_and(|most| most.value() >= size.value())
            && c.node_topology.as_ref().is_some_and(|t| selector(Some(t)).matches(|key| labels.get(key)))
    })
}

/// The smallest volume that suits, or the one that is meant for this very claim.
fn find_volume<'a>(
    storage: &'a Storage,
    claim: &ClaimView,
    labels: &Labels,
    chosen: &[&str],
) -> Option<&'a VolumeView> {
    let size = wanted(claim);
    let wanted_labels = claim.spec.selector.as_ref().map(|s| selector(Some(s)));
    let wanted_labels = wanted_labels.unwrap_or_else(LabelSelector::everything);
    let mode = |mode: &Option<Box<str>>| mode.clone().unwrap_or_else(|| "Filesystem".into());
    let mut smallest: Option<(Quantity, &VolumeView)> = None;
    for volume in storage.volumes.values() {
        let bound = is_bound_to(volume, claim);
        let capacity = volume.spec.capacity.get("storage").unwrap_or(Quantity::ZERO);
        if chosen.contains(&&*volume.metadata.name)
            || (volume.spec.claim_ref.is_some() && !bound)
            || capacity < size
            || mode(&volume.spec.volume_mode) != mode(&claim.spec.volume_mode)
            || volume.spec.volume_attributes_class_name.as_deref().unwrap_or("")
                != claim.spec.volume_attributes_class_name.as_deref().unwrap_or("")
            || volume.metadata.deletion_timestamp.is_some()
        {
            continue;
        }
        let reachable = reachable(volume, labels);
        if bound {
            return reachable.then_some(volume);
        }
        let suits = &*volume.status.phase == "Available"
            && wanted_labels.matches(|key| volume.metadata.labels.get(key))
            && class_of_volume(volume) == class_of(claim)
            && reachable
            && claim.spec.access_modes.iter().all(|m| volume.spec.access_modes.contains(m));
        let better = |(best, other): &(Quantity, &VolumeView)| {
            capacity < *best || (capacity == *best && volume.metadata.name < other.metadata.name)
        };
        if suits && smallest.as_ref().is_none_or(better) {
            smallest = Some((capacity, volume));
        }
    }
    smallest.map(|(_, volume)| volume)
}
