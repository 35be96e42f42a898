//! What placement reads of Kubernetes' objects: lean, and deserialized straight from their JSON.
//!
//! Fields that no rule looks at are not here, so an update that changes only those (a node's heartbeat, a pod's
//! other conditions) leaves a view equal to the one before, and costs nothing downstream.

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use skep_base::Quantity;

/// String to string, sorted: labels, annotations, node selectors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels(Box<[(Box<str>, Box<str>)]>);

impl Labels {
    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        if self.0.len() <= 8 {
            return self.0.iter().find(|(k, _)| &**k == key).map(|(_, v)| &**v);
        }
        let at = self.0.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        Some(&self.0[at].1)
    }

    /// All pairs, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (&**k, &**v))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl<K: Into<Box<str>>, V: Into<Box<str>>> FromIterator<(K, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Labels {
        let mut pairs: Vec<(Box<str>, Box<str>)> =
            pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        pairs.sort();
        pairs.dedup_by(|later, earlier| later.0 == earlier.0);
        Labels(pairs.into())
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Labels, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Labels;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from string to string")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Labels, A::Error> {
                let mut pairs = Vec::with_capacity(map.size_hint().unwrap_or(4));
                while let Some(pair) = map.next_entry::<Box<str>, Box<str>>()? {
                    pairs.push(pair);
                }
                Ok(pairs.into_iter().collect())
            }
            fn visit_unit<E>(self) -> Result<Labels, E> {
                Ok(Labels::default())
            }
        }
        deserializer.deserialize_any(Pairs)
    }
}

/// Amounts by resource name, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ResourceList(Vec<(Box<str>, Quantity)>);

impl ResourceList {
    /// The amount of one resource.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Quantity> {
        self.0.iter().find(|(n, _)| &**n == name).map(|(_, q)| *q)
    }

    /// All of them, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Quantity)> {
        self.0.iter().map(|(n, q)| (&**n, *q))
    }

    /// Whether nothing is listed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Replaces or adds one amount.
    pub fn set(&mut self, name: &str, amount: Quantity) {
        match self.0.binary_search_by(|(n, _)| (**n).cmp(name)) {
            Ok(at) => self.0[at].1 = amount,
            Err(at) => self.0.insert(at, (name.into(), amount)),
        }
    }

    /// Adds every amount of another list.
    pub fn add(&mut self, other: &ResourceList) {
        for (name, amount) in other.iter() {
            // Beyond what can be counted exactly nothing fits anyway.
            let sum = self.get(name).map_or(Some(amount), |own| own.checked_add(amount));
            self.set(name, sum.unwrap_or(Quantity::new(i64::MAX, amount.format())));
        }
    }

    /// Takes the larger amount of each resource.
    pub fn max(&mut self, other: &ResourceList) {
        for (name, amount) in other.iter() {
            if self.get(name).is_none_or(|own| own < amount) {
                self.set(name, amount);
            }
        }
    }
}

impl<K: AsRef<str>> FromIterator<(K, Quantity)> for ResourceList {
    fn from_iter<I: IntoIterator<Item = (K, Quantity)>>(pairs: I) -> ResourceList {
        let mut list = ResourceList::default();
        for (name, amount) in pairs {
            list.set(name.as_ref(), amount);
        }
        list
    }
}

impl<'de> Deserialize<'de> for ResourceList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ResourceList, D::Error> {
        struct Amounts;
        impl<'de> Visitor<'de> for Amounts {
            type Value = ResourceList;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from resource name to quantity")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ResourceList, A::Error> {
                let mut list = ResourceList::default();
                while let Some((name, amount)) = map.next_entry::<Box<str>, Quantity>()? {
                    list.set(&name, amount);
                }
                Ok(list)
            }
            fn visit_unit<E>(self) -> Result<ResourceList, E> {
                Ok(ResourceList::default())
            }
        }
        deserializer.deserialize_any(Amounts)
    }
}

/// Declares view structs: every field optional in JSON, names in camelCase.
macro_rules! views {
    ($($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident : $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name { $($(#[$fdoc])* pub $field: $type,)* }
    )*};
}

views! {
    /// Metadata.
    Meta {
        /// Name.
        name: Box<str>,
        /// Namespace; empty for cluster-scoped objects.
        namespace: Box<str>,
        /// Identity of this very object.
        uid: Box<str>,
        /// The version that this view was made from.
        resource_version: Box<str>,
        /// Labels.
        labels: Labels,
        /// Set while it is being deleted.
        deletion_timestamp: Option<Box<str>>,
        /// When it was created.
        creation_timestamp: Option<Box<str>>,
        /// Who owns it.
        owner_references: Box<[OwnerReference]>,
    }
    /// An owner.
    OwnerReference {
        /// Group and version.
        api_version: Box<str>,
        /// Kind.
        kind: Box<str>,
        /// Name.
        name: Box<str>,
        /// Identity.
        uid: Box<str>,
        /// Whether it is the managing controller.
        controller: Option<bool>,
    }
    /// A pod.
    PodView {
        /// Metadata.
        metadata: Meta,
        /// What is wanted.
        spec: PodSpecView,
        /// What is.
        status: PodStatusView,
    }
    /// A pod's specification.
    PodSpecView {
        /// Where it was bound to.
        node_name: Box<str>,
        /// Who schedules it.
        scheduler_name: Box<str>,
        /// Its priority.
        priority: Option<i32>,
        /// `Never` or `PreemptLowerPriority`.
        preemption_policy: Option<Box<str>>,
        /// Labels that a node must have.
        node_selector: Labels,
        /// Affinities.
        affinity: Option<Box<AffinityView>>,
        /// Tolerated taints.
        tolerations: Box<[Toleration]>,
        /// How to spread.
        topology_spread_constraints: Box<[SpreadConstraintView]>,
        /// Containers.
        containers: Box<[ContainerView]>,
        /// Init containers, sidecars among them.
        init_containers: Box<[ContainerView]>,
        /// What running the pod costs beside its containers.
        overhead: ResourceList,
        /// Resources of the pod as a whole.
        resources: Option<ResourcesView>,
        /// Volumes.
        volumes: Box<[VolumeView]>,
        /// What must be taken away before it may be scheduled.
        scheduling_gates: Box<[GateView]>,
    }
    /// A scheduling gate.
    GateView {
        /// Its name.
        name: Box<str>,
    }
    /// A pod's status.
    PodStatusView {
        /// Phase.
        phase: Box<str>,
        /// Where preemption makes room for it.
        nominated_node_name: Box<str>,
        /// When it was first seen by its node.
        start_time: Option<Box<str>>,
        /// Conditions.
        conditions: Box<[ConditionView]>,
        /// Of containers.
        container_statuses: Box<[ContainerStatusView]>,
        /// Of init containers.
        init_container_statuses: Box<[ContainerStatusView]>,
        /// Resources in force of the pod as a whole.
        resources: Option<ResourcesView>,
        /// Resources granted to the pod as a whole.
        allocated_resources: ResourceList,
    }
    /// A condition.
    ConditionView {
        /// Type.
        r#type: Box<str>,
        /// `True`, `False` or `Unknown`.
        status: Box<str>,
        /// Reason.
        reason: Box<str>,
        /// Message.
        message: Box<str>,
    }
    /// Requests and limits.
    ResourcesView {
        /// Requests.
        requests: ResourceList,
        /// Limits.
        limits: ResourceList,
    }
    /// A container.
    ContainerView {
        /// Name.
        name: Box<str>,
        /// Image.
        image: Box<str>,
        /// Resources.
        resources: ResourcesView,
        /// Ports.
        ports: Box<[PortView]>,
        /// `Always` makes an init container a sidecar.
        restart_policy: Option<Box<str>>,
    }
    /// A container's port.
    PortView {
        /// Port of the node, if it takes one.
        host_port: Option<i32>,
        /// `TCP`, `UDP` or `SCTP`.
        protocol: Box<str>,
        /// Address of the node that it listens on.
        #[serde(rename = "hostIP")]
        host_ip: Box<str>,
    }
    /// A container's status.
    ContainerStatusView {
        /// The container.
        name: Box<str>,
        /// Resources in force.
        resources: Option<ResourcesView>,
        /// Resources granted.
        allocated_resources: ResourceList,
    }
    /// A toleration.
    Toleration {
        /// Key; empty for all.
        key: Box<str>,
        /// `Equal` or `Exists`.
        operator: Box<str>,
        /// Value.
        value: Box<str>,
        /// Effect; empty for all.
        effect: Box<str>,
    }
    /// A taint.
    Taint {
        /// Key.
        key: Box<str>,
        /// Value.
        value: Box<str>,
        /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
        effect: Box<str>,
    }
    /// All affinities of a pod.
    AffinityView {
        /// To nodes.
        node_affinity: NodeAffinityView,
        /// To pods.
        pod_affinity: PodAffinityView,
        /// Against pods.
        pod_anti_affinity: PodAffinityView,
    }
    /// Affinity to nodes.
    NodeAffinityView {
        /// Hard.
        #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
        required: Option<NodeSelectorView>,
        /// Soft.
        #[serde(rename = "preferredDuringSchedulingIgnoredDuringExecution")]
        preferred: Box<[PreferredNodeTerm]>,
    }
    /// Terms of which one must match.
    NodeSelectorView {
        /// The terms.
        node_selector_terms: Box<[NodeTermView]>,
    }
    /// Requirements that must all match.
    NodeTermView {
        /// On labels.
        match_expressions: Box<[ExpressionView]>,
        /// On fields.
        match_fields: Box<[ExpressionView]>,
    }
    /// One requirement.
    ExpressionView {
        /// Label or field.
        key: Box<str>,
        /// Operator.
        operator: Box<str>,
        /// Values.
        values: Box<[Box<str>]>,
    }
    /// A weighted term.
    PreferredNodeTerm {
        /// Weight.
        weight: i32,
        /// The term.
        preference: NodeTermView,
    }
    /// Affinity to, or against, pods.
    PodAffinityView {
        /// Hard.
        #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
        required: Box<[PodTermView]>,
        /// Soft.
        #[serde(rename = "preferredDuringSchedulingIgnoredDuringExecution")]
        preferred: Box<[WeightedPodTerm]>,
    }
    /// A weighted term.
    WeightedPodTerm {
        /// Weight.
        weight: i32,
        /// The term.
        pod_affinity_term: PodTermView,
    }
    /// Which pods, and what counts as near.
    PodTermView {
        /// Which pods; none without it.
        label_selector: Option<SelectorView>,
        /// In these namespaces.
        namespaces: Box<[Box<str>]>,
        /// And in these.
        namespace_selector: Option<SelectorView>,
        /// The node label whose equal values are near.
        topology_key: Box<str>,
    }
    /// A label selector.
    SelectorView {
        /// Equalities.
        match_labels: Labels,
        /// Others.
        match_expressions: Box<[ExpressionView]>,
    }
    /// How to spread over a topology.
    SpreadConstraintView {
        /// Largest difference.
        max_skew: i32,
        /// The node label.
        topology_key: Box<str>,
        /// `DoNotSchedule` or `ScheduleAnyway`.
        when_unsatisfiable: Box<str>,
        /// Which pods.
        label_selector: Option<SelectorView>,
        /// Fewest domains.
        min_domains: Option<i32>,
        /// `Honor` or `Ignore`.
        node_affinity_policy: Option<Box<str>>,
        /// `Honor` or `Ignore`.
        node_taints_policy: Option<Box<str>>,
        /// Labels whose values of this pod are added to the selector.
        match_label_keys: Box<[Box<str>]>,
    }
    /// A pod's volume.
    VolumeView {
        /// Name.
        name: Box<str>,
        /// A claim.
        persistent_volume_claim: Option<ClaimSource>,
        /// A claim made for this pod.
        ephemeral: Option<EphemeralSource>,
        /// An image.
        image: Option<ImageSource>,
        /// A GCE disk.
        gce_persistent_disk: Option<GceDisk>,
        /// An EBS disk.
        aws_elastic_block_store: Option<EbsDisk>,
        /// An iSCSI target.
        iscsi: Option<IscsiTarget>,
        /// A RADOS block device.
        rbd: Option<RbdImage>,
    }
    /// Names a claim.
    ClaimSource {
        /// Its name.
        claim_name: Box<str>,
    }
    /// A claim template; only its presence counts.
    EphemeralSource {
    }
    /// Names an image.
    ImageSource {
        /// Its reference.
        reference: Box<str>,
    }
    /// A GCE disk.
    GceDisk {
        /// Name.
        pd_name: Box<str>,
        /// Whether it is only read.
        read_only: bool,
    }
    /// An EBS disk.
    EbsDisk {
        /// Id.
        #[serde(rename = "volumeID")]
        volume_id: Box<str>,
    }
    /// An iSCSI target.
    IscsiTarget {
        /// Its qualified name.
        iqn: Box<str>,
        /// Whether it is only read.
        read_only: bool,
    }
    /// A RADOS block device.
    RbdImage {
        /// Monitors.
        monitors: Box<[Box<str>]>,
        /// Pool.
        pool: Box<str>,
        /// Image.
        image: Box<str>,
        /// Whether it is only read.
        read_only: bool,
    }
    /// A node.
    NodeView {
        /// Metadata.
        metadata: NodeMeta,
        /// What is wanted.
        spec: NodeSpecView,
        /// What is.
        status: NodeStatusView,
    }
    /// A node's metadata.
    NodeMeta {
        /// Name.
        name: Box<str>,
        /// Labels.
        labels: Labels,
        /// Set while it is being deleted.
        deletion_timestamp: Option<Box<str>>,
    }
    /// A node's specification.
    NodeSpecView {
        /// Cordoned.
        unschedulable: bool,
        /// Taints.
        taints: Box<[Taint]>,
    }
    /// A node's status.
    NodeStatusView {
        /// What pods may ask for.
        allocatable: ResourceList,
        /// Images that it has.
        images: Box<[NodeImage]>,
    }
    /// An image on a node.
    NodeImage {
        /// All its names.
        names: Box<[Box<str>]>,
        /// Its size.
        size_bytes: i64,
    }
    /// A namespace.
    NamespaceView {
        /// Metadata.
        metadata: NamedMeta,
    }
    /// Metadata where only name and labels count.
    NamedMeta {
        /// Name.
        name: Box<str>,
        /// Namespace; empty for cluster-scoped objects.
        namespace: Box<str>,
        /// Labels.
        labels: Labels,
        /// Annotations.
        annotations: Labels,
        /// Set while it is being deleted.
        deletion_timestamp: Option<Box<str>>,
        /// The version that this view was made from.
        resource_version: Box<str>,
        /// Identity.
        uid: Box<str>,
    }
    /// A service or a replication controller: whose pods spread by default.
    MapSelectorView {
        /// Metadata.
        metadata: NamedMeta,
        /// What is wanted.
        spec: MapSelectorSpec,
    }
    /// Holds a selector of equalities.
    MapSelectorSpec {
        /// The selector; none selects nothing.
        selector: Option<Labels>,
    }
    /// A replica set or stateful set: whose pods spread by default.
    SetSelectorView {
        /// Metadata.
        metadata: NamedMeta,
        /// What is wanted.
        spec: SetSelectorSpec,
    }
    /// Holds a label selector.
    SetSelectorSpec {
        /// The selector.
        selector: Option<SelectorView>,
    }
    /// A pod disruption budget.
    BudgetView {
        /// Metadata.
        metadata: NamedMeta,
        /// What is wanted.
        spec: SetSelectorSpec,
        /// What is.
        status: BudgetStatus,
    }
    /// A budget's status.
    BudgetStatus {
        /// How many more pods may go.
        disruptions_allowed: i32,
        /// Pods that are already going.
        disrupted_pods: Labels,
    }
}

impl PodView {
    /// Whether it has run to its end and takes no more room.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        matches!(&*self.status.phase, "Succeeded" | "Failed")
    }

    /// `namespace/name`.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}", self.metadata.namespace, self.metadata.name)
    }
}
