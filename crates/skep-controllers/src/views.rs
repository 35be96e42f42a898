//! Views that several system controllers share: one informer each.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::{Arc, Weak};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{NodeCondition, Taint};
use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHasher};
use serde::{Deserialize, Deserializer, Serialize};
use skep_base::SharedStr;
use skep_client::informer::Builder;
use skep_client::{Object, ObjectKey, Resource};
use skep_plan::{Labels, Time, raw};

use crate::Kind;
use crate::machines::{self, Waiting};

/// `null` counts as absent.
pub(crate) fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    d: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

/// Where the objects of a namespace are found: an index of that name exists for all views here.
pub(crate) const BY_NAMESPACE: &str = "namespace";
/// Pods by their node.
pub(crate) const BY_NODE: &str = "node";
/// Pods by the uids of all their owners; those that nobody manages under [`orphans_of`] their namespace.
pub(crate) const BY_OWNER: &str = "owner";
/// Pods that wait for a node, under the value [`YES`].
pub(crate) const WAITING: &str = "waiting";
pub(crate) const YES: &str = "yes";

/// Where objects of a namespace that nobody manages are found. No uid contains a slash.
pub(crate) fn orphans_of(namespace: &str) -> String {
    format!("{namespace}/")
}

/// A pod: all that any controller reads of it, read once and held once.
#[derive(Debug)]
pub(crate) struct Pod {
    /// What planners of workloads read, and most others.
    pub(crate) plan: skep_plan::Pod,
    /// What garbage collection reads.
    pub(crate) meta: crate::gc::Meta,
    pub(crate) hostname: SharedStr,
    pub(crate) subdomain: SharedStr,
    /// What its node has given it.
    pub(crate) ips: Box<[IpAddr]>,
    pub(crate) start_time: Option<Time>,
    pub(crate) disruption: Option<Box<Condition>>,
    /// Whether it has a condition `Ready`.
    pub(crate) has_ready: bool,
    /// Whether its condition `Ready` is false, and not merely unknown.
    pub(crate) unready: bool,
    /// Whether it would have to run elsewhere if its node went: not what has ended, nor what comes with every node.
    pub(crate) counts: bool,
    /// What it waits with, if no node has room for it.
    pub(crate) waiting: Option<Box<Waiting>>,
    /// The rest.
    pub(crate) template: Arc<PodTemplate>,
}

/// An owner of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Owner {
    pub(crate) api_version: SharedStr,
    pub(crate) kind: SharedStr,
    pub(crate) name: SharedStr,
    pub(crate) uid: SharedStr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) controller: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) block_owner_deletion: Option<bool>,
}

impl Owner {
    /// Whether it is the one that manages the object.
    pub(crate) fn controls(&self) -> bool {
        self.controller == Some(true)
    }

    fn of(raw: &raw::Owner<'_>) -> Owner {
        Owner {
            api_version: SharedStr::new(&raw.api_version),
            kind: SharedStr::new(&raw.kind),
            name: SharedStr::new(&raw.name),
            uid: SharedStr::new(&raw.uid),
            controller: raw.controller,
            block_owner_deletion: raw.block_owner_deletion,
        }
    }
}

/// What pods of one owner have in common: held once for all pods that have the same.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct PodTemplate {
    pub(crate) tolerations: Box<[raw::Toleration]>,
    pub(crate) containers: Box<[Container]>,
    pub(crate) init_containers: Box<[Container]>,
    /// What is asked for by the pod as a whole.
    pub(crate) requests: Labels,
    /// Its volumes that are claims: their names.
    pub(crate) claims: Box<[SharedStr]>,
}

impl<'de> Deserialize<'de> for Pod {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pod, D::Error> {
        raw::Pod::deserialize(deserializer).map(Pod::of)
    }
}

impl Pod {
    fn of(raw: raw::Pod<'_>) -> Pod {
        let plan = skep_plan::Pod::of(&raw);
        let waiting = Waiting::of(&raw).map(Box::new);
        let counts = !plan.is_over() && !machines::comes_with_every_node(&raw);
        let raw::Pod { metadata, spec, status } = raw;
        let condition = |kind: &'static str| status.conditions.iter().find(|c| &*c.kind == kind);
        let ips = status.pod_ips.iter().filter_map(|a| a.ip.parse().ok());
        let mut ips: Box<[IpAddr]> = ips.collect();
        if ips.is_empty() {
            ips = status.pod_ip.parse().into_iter().collect();
        }
        Pod {
            plan,
            meta: crate::gc::Meta::new(
                metadata.owner_references.iter().map(Owner::of).collect(),
                metadata.finalizers.0,
                metadata.deletion_timestamp.is_some(),
            ),
            hostname: SharedStr::new(&spec.hostname),
            subdomain: SharedStr::new(&spec.subdomain),
            ips,
            start_time: status.start_time,
            disruption: condition("DisruptionTarget").map(|c| Box::new(Condition::of(c))),
            has_ready: condition("Ready").is_some(),
            unready: condition("Ready").is_some_and(|c| &*c.status == "False"),
            counts,
            waiting,
            template: shared(PodTemplate::of(spec)),
        }
    }
}

impl PodTemplate {
    fn of(spec: raw::Spec<'_>) -> PodTemplate {
        let claim =
            |v: &raw::Volume<'_>| v.persistent_volume_claim.as_ref().map(|c| SharedStr::new(&c.claim_name));
        PodTemplate {
            tolerations: spec.tolerations.0.into(),
            containers: spec.containers.0.into_iter().map(Container::of).collect(),
            init_containers: spec.init_containers.0.into_iter().map(Container::of).collect(),
            requests: spec.resources.map(|r| r.requests).unwrap_or_default(),
            claims: spec.volumes.iter().filter_map(claim).collect(),
        }
    }
}

/// Templates in use, by their hash.
type Templates = FxHashMap<u64, Vec<Weak<PodTemplate>>>;

/// Entries below which the table of templates is not looked through for those that nobody uses any more.
const FEW_TEMPLATES: usize = 1024;

/// The one template that is equal to this.
fn shared(template: PodTemplate) -> Arc<PodTemplate> {
    static TEMPLATES: Mutex<(Option<Templates>, usize)> = Mutex::new((None, FEW_TEMPLATES));
    let hash = template.hash();
    let mut guard = TEMPLATES.lock();
    let (table, prune_at) = &mut *guard;
    let table = table.get_or_insert_default();
    if table.len() >= *prune_at {
        table.retain(|_, all| {
            all.retain(|t| t.strong_count() > 0);
            !all.is_empty()
        });
        *prune_at = (table.len() * 2).max(FEW_TEMPLATES);
    }
    let same = table.entry(hash).or_default();
    if let Some(known) = same.iter().filter_map(Weak::upgrade).find(|t| **t == template) {
        return known;
    }
    let new = Arc::new(template);
    same.retain(|t| t.strong_count() > 0);
    same.push(Arc::downgrade(&new));
    new
}

impl PodTemplate {
    /// Equal templates have equal hashes; which is all that is asked of it, so it leaves out what seldom tells two apart.
    fn hash(&self) -> u64 {
        let mut hasher = FxHasher::default();
        self.tolerations.hash(&mut hasher);
        for c in self.containers.iter().chain(&self.init_containers) {
            (&c.name, &c.requests, c.ports.len()).hash(&mut hasher);
        }
        self.claims.hash(&mut hasher);
        hasher.finish()
    }

    /// The containers that run as long as the pod does.
    pub(crate) fn running(&self) -> impl Iterator<Item = &Container> {
        let sidecars = self.init_containers.iter().filter(|c| c.restart_policy.as_deref() == Some("Always"));
        self.containers.iter().chain(sidecars)
    }
}

#[derive(Debug, Default, PartialEq)]
pub(crate) struct Container {
    pub(crate) name: SharedStr,
    pub(crate) restart_policy: Option<SharedStr>,
    pub(crate) ports: Box<[raw::Port]>,
    pub(crate) requests: Labels,
}

impl Container {
    fn of(raw: raw::Container<'_>) -> Container {
        Container {
            name: SharedStr::new(&raw.name),
            restart_policy: raw.restart_policy.map(|p| SharedStr::new(&p)),
            ports: raw.ports.0.into(),
            requests: raw.resources.map(|r| r.requests).unwrap_or_default(),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Condition {
    pub(crate) r#type: SharedStr,
    pub(crate) status: SharedStr,
    pub(crate) reason: SharedStr,
    pub(crate) last_transition_time: Option<Timestamp>,
}

impl Condition {
    fn of(raw: &raw::Condition<'_>) -> Condition {
        Condition {
            r#type: SharedStr::new(&raw.kind),
            status: SharedStr::new(&raw.status),
            reason: SharedStr::new(&raw.reason),
            last_transition_time: raw.last_transition_time.map(Time::timestamp),
        }
    }
}

impl Pod {
    pub(crate) fn is_ready(&self) -> bool {
        self.plan.ready
    }

    /// Since when its condition `Ready` is what it is.
    pub(crate) fn ready_changed(&self) -> Option<Timestamp> {
        self.plan.ready_changed.map(Time::timestamp)
    }

    /// All containers have ended for good.
    pub(crate) fn is_over(&self) -> bool {
        self.plan.is_over()
    }

    pub(crate) fn is_deleting(&self) -> bool {
        self.plan.deleted.is_some()
    }

    /// Its labels.
    pub(crate) fn labels(&self) -> &Labels {
        &self.plan.labels
    }

    /// Where it runs; empty when it has no node yet.
    pub(crate) fn node(&self) -> &str {
        &self.plan.node
    }

    /// The owner that manages it.
    pub(crate) fn controller(&self) -> Option<&Owner> {
        self.meta.owner_references.iter().find(|o| o.controls())
    }
}

impl Kind for Pod {
    const RESOURCE: Resource = Resource::of::<k8s_openapi::api::core::v1::Pod>();
    fn indexes(builder: Builder<Pod>) -> Builder<Pod> {
        builder
            .index(BY_NAMESPACE, |o, emit| emit(&o.key.namespace))
            .index(BY_NODE, |o, emit| {
                if !o.node().is_empty() {
                    emit(o.node());
                }
            })
            .index(BY_OWNER, |o, emit| {
                o.meta.owner_references.iter().for_each(|owner| emit(&owner.uid));
                if o.plan.controller.is_none() {
                    emit(&orphans_of(&o.key.namespace));
                }
            })
            .index(WAITING, |o, emit| {
                if o.waiting.is_some() {
                    emit(YES);
                }
            })
    }
}

/// A node.
#[derive(Debug, Deserialize)]
pub(crate) struct Node {
    #[serde(default)]
    pub(crate) metadata: NodeMeta,
    #[serde(default)]
    pub(crate) spec: NodeSpec,
    #[serde(default)]
    pub(crate) status: NodeStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NodeMeta {
    #[serde(deserialize_with = "or_default")]
    pub(crate) labels: Labels,
    pub(crate) creation_timestamp: Option<Timestamp>,
    pub(crate) deletion_timestamp: Option<Timestamp>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NodeSpec {
    #[serde(deserialize_with = "or_default")]
    pub(crate) taints: Vec<Taint>,
    pub(crate) unschedulable: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NodeStatus {
    #[serde(deserialize_with = "or_default")]
    pub(crate) conditions: Vec<NodeCondition>,
}

impl Kind for Node {
    const RESOURCE: Resource = Resource::of::<k8s_openapi::api::core::v1::Node>();
}

/// A service.
#[derive(Debug, Deserialize)]
pub(crate) struct Service {
    #[serde(default)]
    pub(crate) metadata: ServiceMeta,
    #[serde(default)]
    pub(crate) spec: ServiceSpec,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ServiceMeta {
    #[serde(deserialize_with = "or_default")]
    pub(crate) labels: Labels,
    pub(crate) creation_timestamp: Option<Timestamp>,
    pub(crate) deletion_timestamp: Option<Timestamp>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ServiceSpec {
    pub(crate) selector: Option<Labels>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) ports: Box<[ServicePort]>,
    #[serde(rename = "clusterIP")]
    pub(crate) cluster_ip: Option<Box<str>>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) ip_families: Box<[SharedStr]>,
    pub(crate) r#type: SharedStr,
    pub(crate) publish_not_ready_addresses: bool,
    pub(crate) traffic_distribution: Option<SharedStr>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ServicePort {
    pub(crate) name: SharedStr,
    pub(crate) protocol: SharedStr,
    pub(crate) port: i32,
    pub(crate) target_port: TargetPort,
    pub(crate) app_protocol: Option<SharedStr>,
}

/// A port of a pod, by number or by its name.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub(crate) enum TargetPort {
    Number(i32),
    Name(SharedStr),
}

impl Default for TargetPort {
    fn default() -> TargetPort {
        TargetPort::Number(0)
    }
}

impl Service {
    pub(crate) fn is_headless(&self) -> bool {
        self.spec.cluster_ip.as_deref() == Some("None")
    }

    /// Whether it has an address of its own.
    pub(crate) fn has_ip(&self) -> bool {
        self.spec.cluster_ip.as_deref().is_some_and(|ip| !ip.is_empty() && ip != "None")
    }

    /// Whether it is one whose endpoints are made from pods.
    pub(crate) fn selects_pods(&self) -> bool {
        self.spec.selector.is_some() && self.spec.r#type != "ExternalName"
    }

    pub(crate) fn selects(&self, labels: &Labels) -> bool {
        self.selects_pods() && self.spec.selector.as_ref().is_some_and(|s| labels.contains_all(s))
    }
}

impl Kind for Service {
    const RESOURCE: Resource = Resource::of::<k8s_openapi::api::core::v1::Service>();
    fn indexes(builder: Builder<Service>) -> Builder<Service> {
        builder.index(BY_NAMESPACE, |o, emit| emit(&o.key.namespace))
    }
}

/// What an event is about, for the recorder.
pub(crate) fn regarding<V>(
    object: &Object<V>,
    api_version: &str,
    kind: &str,
) -> skep_client::record::Regarding {
    about(&object.key, &object.uid, api_version, kind)
}

pub(crate) fn about(
    key: &ObjectKey,
    uid: &str,
    api_version: &str,
    kind: &str,
) -> skep_client::record::Regarding {
    skep_client::record::Regarding {
        whose: (&key.tenant).into(),
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        uid: uid.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn equal_pods_share_what_they_have_in_common() {
        let pod = |name: &str, cpu: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"nodeName": name,
                "tolerations": [{"key": "k", "operator": "Exists"}],
                "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "shared-by-equal-pods"}}, {"name": "e"}],
                "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]},
                "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Initialized", "status": "True"}]}}))
            .unwrap()
        };
        let (a, b, c) = (pod("a", "1"), pod("b", "1"), pod("c", "2"));
        assert!(Arc::ptr_eq(&a.template, &b.template));
        assert!(!Arc::ptr_eq(&a.template, &c.template));
        assert_eq!((a.node(), b.node()), ("a", "b"));
        assert_eq!(a.template.claims.len(), 1);
        assert!(a.is_ready() && a.has_ready && !a.unready);
    }
}
