//! What is read of public addresses and of services that have one.

use jiff::Timestamp;
use serde::Deserialize;
use skep_api::network::{PublicPool, PublicPort};
use skep_base::{SharedStr, TenantName};
use skep_client::informer::Builder;
use skep_client::{Resource, Selection, Tenants};
use skep_plan::Labels;

use crate::Kind;
use crate::views::{BY_NAMESPACE, or_default};

/// Public addresses by the service that they name, in its namespace.
pub(super) const BY_SERVICE: &str = "service";
/// What a service says whose address is to come from here, if it says any; upstream leaves such services to whoever has the name.
pub(super) const CLASS: &str = "network.skep.io/public-ip";
/// A service names the pool that its address is to come from with this.
pub(super) const POOL_ANNOTATION: &str = "network.skep.io/public-pool";
/// As upstream, for those who wrote it before there was a field.
const SOURCES_ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

/// A public address, without its counters, which are written all the time.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct PublicIp {
    pub(super) metadata: PublicMeta,
    pub(super) spec: PublicSpec,
    pub(super) status: PublicStatus,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PublicMeta {
    pub(super) deletion_timestamp: Option<Timestamp>,
    #[serde(deserialize_with = "or_default")]
    pub(super) owner_references: Box<[OwnerView]>,
}

/// Who made it, if it was not the tenant.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct OwnerView {
    pub(super) kind: SharedStr,
    pub(super) uid: SharedStr,
    pub(super) controller: bool,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PublicSpec {
    pub(super) address: String,
    pub(super) pool_name: String,
    pub(super) pod_name: Option<String>,
    pub(super) pod_selector: Option<Labels>,
    pub(super) service_name: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PublicStatus {
    pub(super) phase: Option<String>,
    pub(super) node_name: Option<String>,
    pub(super) pod_name: Option<String>,
    pub(super) pod_uid: Option<String>,
    pub(super) ports: Option<Vec<PublicPort>>,
    pub(super) source_ranges: Option<Vec<String>>,
    #[serde(deserialize_with = "or_default")]
    pub(super) conditions: Vec<ConditionView>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ConditionView {
    pub(super) r#type: String,
    pub(super) status: String,
    pub(super) reason: String,
    pub(super) message: String,
    pub(super) last_transition_time: Option<Timestamp>,
}

impl PublicIp {
    pub(super) fn is_deleting(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// Whether it was made for a service, and goes with it.
    pub(super) fn made_for(&self) -> Option<&str> {
        let owner = self.metadata.owner_references.iter().find(|o| o.controller && *o.kind == *"Service");
        owner.map(|o| &*o.uid)
    }
}

pub(super) fn by_service(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

impl Kind for PublicIp {
    const RESOURCE: Resource = Resource::new("network.skep.io", "v1", "publicips");
    fn indexes(builder: Builder<PublicIp>) -> Builder<PublicIp> {
        builder.index(BY_NAMESPACE, |o, emit| emit(&o.key.namespace)).index(BY_SERVICE, |o, emit| {
            if let Some(service) = &o.spec.service_name {
                emit(&by_service(&o.key.namespace, service));
            }
        })
    }
}

/// A service of the type LoadBalancer, or one that was.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Balancer {
    pub(super) metadata: BalancerMeta,
    pub(super) spec: BalancerSpec,
    pub(super) status: BalancerStatus,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct BalancerMeta {
    pub(super) deletion_timestamp: Option<Timestamp>,
    #[serde(deserialize_with = "or_default")]
    annotations: std::collections::BTreeMap<String, String>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct BalancerSpec {
    pub(super) r#type: SharedStr,
    #[serde(rename = "loadBalancerIP")]
    pub(super) load_balancer_ip: Option<String>,
    pub(super) load_balancer_class: Option<String>,
    #[serde(deserialize_with = "or_default")]
    load_balancer_source_ranges: Vec<String>,
    external_traffic_policy: Option<SharedStr>,
    #[serde(deserialize_with = "or_default")]
    pub(super) ports: Vec<BalancerPort>,
    #[serde(deserialize_with = "or_default")]
    pub(super) ip_families: Box<[SharedStr]>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct BalancerPort {
    pub(super) protocol: Option<SharedStr>,
    pub(super) port: i32,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct BalancerStatus {
    load_balancer: Ingresses,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Ingresses {
    #[serde(deserialize_with = "or_default")]
    ingress: Vec<Ingress>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Ingress {
    #[serde(deserialize_with = "or_default")]
    ip: String,
}

impl Balancer {
    /// Whether its address is for us to give.
    pub(super) fn is_ours(&self) -> bool {
        let class = self.spec.load_balancer_class.as_deref();
        *self.spec.r#type == *"LoadBalancer"
            && class.is_none_or(|c| c == CLASS)
            && self.metadata.deletion_timestamp.is_none()
    }

    /// Whether what its status says is for us to say: also that of a service that is no load balancer any more.
    pub(super) fn status_is_ours(&self) -> bool {
        self.spec.load_balancer_class.as_deref().is_none_or(|c| c == CLASS)
    }

    pub(super) fn is_local(&self) -> bool {
        self.spec.external_traffic_policy.as_deref() == Some("Local")
    }

    pub(super) fn pool(&self) -> Option<&str> {
        self.metadata.annotations.get(POOL_ANNOTATION).map(|p| p.trim()).filter(|p| !p.is_empty())
    }

    /// From where it may be reached; none means from everywhere.
    pub(super) fn sources(&self) -> Vec<String> {
        if !self.spec.load_balancer_source_ranges.is_empty() {
            return self.spec.load_balancer_source_ranges.iter().map(|r| r.trim().to_owned()).collect();
        }
        let text = self.metadata.annotations.get(SOURCES_ANNOTATION).map(String::as_str).unwrap_or_default();
        text.split(',').map(str::trim).filter(|r| !r.is_empty()).map(str::to_owned).collect()
    }

    /// The addresses that its status says it is reached at.
    pub(super) fn ingress(&self) -> impl Iterator<Item = &str> {
        self.status.load_balancer.ingress.iter().map(|i| i.ip.as_str())
    }
}

impl Kind for Balancer {
    // All of them: one that is of another type by now has an address to give back.
    const RESOURCE: Resource = Resource::of::<k8s_openapi::api::core::v1::Service>();
}

impl Kind for PublicPool {
    const RESOURCE: Resource = Resource::of::<PublicPool>();
    fn selection() -> Selection {
        Selection::all(<Self as Kind>::RESOURCE, Tenants::One(TenantName::system()))
    }
}
