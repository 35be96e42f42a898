//! Views that several system controllers share: one informer each.

use std::hash::{Hash, Hasher};
use std::sync::{Arc, Weak};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{NodeCondition, Taint, Toleration};
use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHasher};
use serde::{Deserialize, Deserializer};
use skep_base::SharedStr;
use skep_client::informer::Builder;
use skep_client::{Object, ObjectKey, Resource};
use skep_plan::Labels;

use crate::Kind;

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

/// A pod.
#[derive(Debug, Deserialize)]
pub(crate) struct Pod {
    #[serde(default)]
    pub(crate) metadata: PodMeta,
    #[serde(default)]
    pub(crate) spec: PodSpec,
    #[serde(default)]
    pub(crate) status: PodStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodMeta {
    #[serde(deserialize_with = "or_default")]
    pub(crate) labels: Labels,
    pub(crate) creation_timestamp: Option<Timestamp>,
    pub(crate) deletion_timestamp: Option<Timestamp>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) owner_references: Box<[Owner]>,
}

/// The owner that manages a pod.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Owner {
    pub(crate) api_version: SharedStr,
    pub(crate) kind: SharedStr,
    pub(crate) name: SharedStr,
    pub(crate) uid: SharedStr,
    pub(crate) controller: bool,
}

#[derive(Debug, Default)]
pub(crate) struct PodSpec {
    pub(crate) node_name: SharedStr,
    pub(crate) hostname: SharedStr,
    pub(crate) subdomain: SharedStr,
    /// The rest.
    pub(crate) template: Arc<PodTemplate>,
}

/// What pods of one owner have in common: held once for all pods that have the same.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodTemplate {
    #[serde(deserialize_with = "or_default")]
    pub(crate) tolerations: Box<[Toleration]>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) containers: Box<[Container]>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) init_containers: Box<[Container]>,
    /// Of the pod as a whole.
    #[serde(deserialize_with = "or_default")]
    pub(crate) resources: Resources,
    /// Those that are claims; the others are passed over.
    #[serde(deserialize_with = "claims")]
    pub(crate) volumes: Box<[Volume]>,
}

impl<'de> Deserialize<'de> for PodSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PodSpec, D::Error> {
        // Not flattened: that would copy the whole object first.
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        struct Raw {
            node_name: SharedStr,
            hostname: SharedStr,
            subdomain: SharedStr,
            #[serde(deserialize_with = "or_default")]
            tolerations: Box<[Toleration]>,
            #[serde(deserialize_with = "or_default")]
            containers: Box<[Container]>,
            #[serde(deserialize_with = "or_default")]
            init_containers: Box<[Container]>,
            #[serde(deserialize_with = "or_default")]
            resources: Resources,
            #[serde(deserialize_with = "claims")]
            volumes: Box<[Volume]>,
        }
        let raw = Raw::deserialize(deserializer)?;
        let template = PodTemplate {
            tolerations: raw.tolerations,
            containers: raw.containers,
            init_containers: raw.init_containers,
            resources: raw.resources,
            volumes: raw.volumes,
        };
        Ok(PodSpec {
            node_name: raw.node_name,
            hostname: raw.hostname,
            subdomain: raw.subdomain,
            template: shared(template),
        })
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
        for t in &self.tolerations {
            (&t.key, &t.operator, &t.value, &t.effect, t.toleration_seconds).hash(&mut hasher);
        }
        for c in self.containers.iter().chain(&self.init_containers) {
            (&c.name, &c.resources.requests, c.ports.len()).hash(&mut hasher);
        }
        for v in &self.volumes {
            v.claim().hash(&mut hasher);
        }
        hasher.finish()
    }
}

/// A volume of a pod.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Volume {
    persistent_volume_claim: Option<ClaimSource>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ClaimSource {
    claim_name: Box<str>,
}

impl Volume {
    /// The claim that it is, if it names one.
    pub(crate) fn claim(&self) -> Option<&str> {
        self.persistent_volume_claim.as_ref().map(|c| &*c.claim_name)
    }
}

fn claims<'de, D: Deserializer<'de>>(d: D) -> Result<Box<[Volume]>, D::Error> {
    let mut all: Vec<Volume> = or_default(d)?;
    all.retain(|v| v.persistent_volume_claim.is_some());
    Ok(all.into())
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Container {
    pub(crate) name: SharedStr,
    pub(crate) restart_policy: Option<SharedStr>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) ports: Box<[ContainerPort]>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) resources: Resources,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Resources {
    #[serde(deserialize_with = "or_default")]
    pub(crate) requests: Labels,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ContainerPort {
    pub(crate) name: SharedStr,
    pub(crate) container_port: i32,
    pub(crate) protocol: SharedStr,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodStatus {
    pub(crate) phase: SharedStr,
    #[serde(rename = "podIP")]
    pub(crate) pod_ip: Box<str>,
    #[serde(rename = "podIPs", deserialize_with = "or_default")]
    pub(crate) pod_ips: Box<[PodIp]>,
    /// Those that somebody here looks at.
    #[serde(deserialize_with = "conditions")]
    pub(crate) conditions: Box<[Condition]>,
    pub(crate) start_time: Option<Timestamp>,
}

/// Types of a pod's conditions that controllers look at: [`Pod::condition`] finds no others.
const CONDITIONS: [&str; 2] = ["Ready", "DisruptionTarget"];

fn conditions<'de, D: Deserializer<'de>>(d: D) -> Result<Box<[Condition]>, D::Error> {
    let mut all: Vec<Condition> = or_default(d)?;
    all.retain(|c| CONDITIONS.contains(&&*c.r#type));
    Ok(all.into())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PodIp {
    pub(crate) ip: Box<str>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Condition {
    pub(crate) r#type: SharedStr,
    pub(crate) status: SharedStr,
    pub(crate) reason: SharedStr,
    pub(crate) last_transition_time: Option<Timestamp>,
}

impl Pod {
    pub(crate) fn condition(&self, kind: &str) -> Option<&Condition> {
        debug_assert!(CONDITIONS.contains(&kind), "conditions of the type {kind} are not held");
        self.status.conditions.iter().find(|c| *c.r#type == *kind)
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.condition("Ready").is_some_and(|c| c.status == "True")
    }

    /// All containers have ended for good.
    pub(crate) fn is_over(&self) -> bool {
        matches!(&*self.status.phase, "Succeeded" | "Failed")
    }

    pub(crate) fn is_deleting(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// The owner that manages it.
    pub(crate) fn controller(&self) -> Option<&Owner> {
        self.metadata.owner_references.iter().find(|o| o.controller)
    }
}

impl Kind for Pod {
    const RESOURCE: Resource = Resource::of::<k8s_openapi::api::core::v1::Pod>();
    fn indexes(builder: Builder<Pod>) -> Builder<Pod> {
        builder.index(BY_NAMESPACE, |o, emit| emit(&o.key.namespace)).index(BY_NODE, |o, emit| {
            if !o.spec.node_name.is_empty() {
                emit(&o.spec.node_name);
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
        tenant: key.tenant.clone(),
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
        assert!(Arc::ptr_eq(&a.spec.template, &b.spec.template));
        assert!(!Arc::ptr_eq(&a.spec.template, &c.spec.template));
        assert_eq!((&*a.spec.node_name, &*b.spec.node_name), ("a", "b"));
        assert_eq!(a.spec.template.volumes.len(), 1);
        assert_eq!(a.status.conditions.len(), 1);
        assert!(a.is_ready());
    }
}
