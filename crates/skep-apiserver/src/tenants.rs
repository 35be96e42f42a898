//! Which tenants there are, and what a new one is given.

use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::RwLock;
use rustc_hash::FxHashMap;
use serde_json::json;
use skep_api::Registry;
use skep_base::{Revision, TenantName};
use skep_store::{Expect, Op};

use crate::seed::{Seed, time_text};
use crate::status::ApiError;

/// What the server has to know of a tenant on every request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantRecord {
    /// Its name.
    pub name: TenantName,
    /// Its uid: a tenant made anew under an old name is another one.
    pub uid: uuid::Uuid,
    /// The uid as text, as credentials carry it.
    pub uid_text: Arc<str>,
    /// When it was made.
    pub created: Timestamp,
    /// At what revision.
    pub revision: Revision,
    /// Its share where tenants compete.
    pub weight: u32,
    /// It is being deleted, or suspended by the operator: its credentials do not work.
    pub closed: bool,
}

/// The tenants that exist, by name; kept current by the server's follower of `Tenant` objects.
#[derive(Debug, Default)]
pub struct Tenants {
    by_name: RwLock<FxHashMap<TenantName, Arc<TenantRecord>>>,
}

impl Tenants {
    /// A tenant.
    #[must_use]
    pub fn get(&self, name: &TenantName) -> Option<Arc<TenantRecord>> {
        self.by_name.read().get(name).cloned()
    }

    /// Adds or replaces one.
    pub fn set(&self, record: TenantRecord) {
        self.by_name.write().insert(record.name.clone(), Arc::new(record));
    }

    /// Forgets one.
    pub fn remove(&self, name: &TenantName) {
        self.by_name.write().remove(name);
    }

    /// The names of all, the operator's own included.
    #[must_use]
    pub fn names(&self) -> Vec<TenantName> {
        self.by_name.read().keys().cloned().collect()
    }

    /// How many there are, the operator's own included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_name.read().len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The namespaces that every tenant has from the start.
pub const DEFAULT_NAMESPACES: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];

/// The addresses of the `kubernetes` service, the same in every tenant: tenants' networks are apart.
#[derive(Clone, Debug)]
pub struct ServiceAddresses {
    /// The service's own address, the first of the service range.
    pub cluster_ip: String,
    /// Where the API server listens.
    pub endpoint_ip: String,
    /// On which port.
    pub endpoint_port: u16,
}

/// Makes objects that a tenant gets from the server.
struct Seeds<'a> {
    registry: &'a Registry,
    made: Vec<Seed>,
}

/// Group, version, resource.
type Place = (&'static str, &'static str, &'static str);

impl Seeds<'_> {
    fn add(
        &mut self,
        place: Place,
        namespace: &str,
        name: &str,
        object: &serde_json::Value,
    ) -> Result<(), ApiError> {
        self.made.push(Seed::of_json(self.registry, place, namespace, name, object)?);
        Ok(())
    }

    /// The service account that pods run as when they name none, and whom they may trust.
    fn namespace(&mut self, name: &str, ca_pem: &str) -> Result<(), ApiError> {
        self.add(("", "v1", "serviceaccounts"), name, "default", &json!({}))?;
        let description = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";
        let map = json!({
            "metadata": {"annotations": {"kubernetes.io/description": description}}, "data": {"ca.crt": ca_pem},
        });
        self.add(("", "v1", "configmaps"), name, "kube-root-ca.crt", &map)
    }

    fn writes(self, tenant: &TenantName, expect: Expect, now: Timestamp) -> Vec<Op> {
        let now = time_text(now);
        self.made.iter().map(|seed| seed.write(tenant, expect, &now)).collect()
    }
}

/// The writes that give a new namespace what every namespace has. They replace what an earlier namespace of
/// the name may have left.
///
/// # Errors
/// 500 when a kind is not registered, which is a defect.
pub fn first_in_namespace(
    registry: &Registry,
    tenant: &TenantName,
    namespace: &str,
    ca_pem: &str,
    now: Timestamp,
) -> Result<Vec<Op>, ApiError> {
    let mut seeds = Seeds { registry, made: Vec::new() };
    seeds.namespace(namespace, ca_pem)?;
    Ok(seeds.writes(tenant, Expect::Any, now))
}

/// What every new tenant is given, encoded once: tenants are made by the thousand.
pub struct FirstObjects {
    seeds: Vec<Seed>,
}

impl FirstObjects {
    /// Encodes them.
    ///
    /// # Errors
    /// 500 when a kind is not registered, which is a defect.
    pub fn new(
        registry: &Registry,
        ca_pem: &str,
        addresses: &ServiceAddresses,
    ) -> Result<FirstObjects, ApiError> {
        let mut seeds = Seeds { registry, made: Vec::new() };
        for namespace in DEFAULT_NAMESPACES {
            let labels = json!({"kubernetes.io/metadata.name": namespace});
            let object = json!({
                "metadata": {"labels": labels}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
            });
            seeds.add(("", "v1", "namespaces"), "", namespace, &object)?;
            seeds.namespace(namespace, ca_pem)?;
        }
        let labels = json!({"component": "apiserver", "provider": "kubernetes"});
        let service = json!({
            "metadata": {"labels": labels},
            "spec": {
                "type": "ClusterIP", "clusterIP": addresses.cluster_ip, "clusterIPs": [addresses.cluster_ip],
                "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster", "sessionAffinity": "None",
                "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": addresses.endpoint_port}],
            },
        });
        seeds.add(("", "v1", "services"), "default", "kubernetes", &service)?;
        let slices = ("discovery.k8s.io", "v1", "endpointslices");
        if registry.get(slices.0, slices.1, slices.2).is_some() {
            let family = if addresses.endpoint_ip.contains(':') { "IPv6" } else { "IPv4" };
            let slice = json!({
                "metadata": {"labels": {"kubernetes.io/service-name": "kubernetes"}},
                "addressType": family,
                "ports": [{"name": "https", "port": addresses.endpoint_port, "protocol": "TCP"}],
                "endpoints": [{"addresses": [addresses.endpoint_ip], "conditions": {"ready": true}}],
            });
            seeds.add(slices, "default", "kubernetes", &slice)?;
        }
        Ok(FirstObjects { seeds: seeds.made })
    }

    /// The writes that give a new tenant its first objects; the number of its network comes with the write that
    /// takes it.
    ///
    /// # Errors
    /// 500 when a kind is not registered, which is a defect.
    pub fn writes(
        &self,
        registry: &Registry,
        tenant: &TenantName,
        (vni, take_vni): (i64, Op),
        now: Timestamp,
    ) -> Result<Vec<Op>, ApiError> {
        // Its number is its own, so it cannot be encoded beforehand.
        let place = (skep_api::network::GROUP, "v1", "networks");
        let network = json!({"spec": {"vni": vni}});
        let network = Seed::of_json(registry, place, "", skep_api::network::DEFAULT_NETWORK, &network)?;
        let now = time_text(now);
        let seeds = self.seeds.iter().chain([&network]);
        Ok(seeds.map(|seed| seed.write(tenant, Expect::Absent, &now)).chain([take_vni]).collect())
    }
}

/// What the operator's own tenant has besides, when it is new: sizes of machines.
///
/// # Errors
/// 500 when a kind is not registered, which is a defect.
pub fn operator_objects(registry: &Registry, now: Timestamp) -> Result<Vec<Op>, ApiError> {
    const COMPUTE: &str = skep_api::compute::GROUP;
    let system = TenantName::system();
    let mut seeds = Seeds { registry, made: Vec::new() };
    for flavor in skep_api::compute::default_flavors() {
        let name = flavor.metadata.name.clone().unwrap_or_default();
        let json = serde_json::to_value(&flavor).map_err(ApiError::internal)?;
        seeds.add((COMPUTE, "v1", "flavors"), "", &name, &json)?;
    }
    Ok(seeds.writes(&system, Expect::Absent, now))
}

/// What host daemons may do. It belongs to this version of the server: an older server's is replaced at the start.
///
/// # Errors
/// 500 when a kind is not registered, which is a defect.
pub fn host_policy(registry: &Registry, now: Timestamp) -> Result<Vec<Op>, ApiError> {
    const RBAC: &str = "rbac.authorization.k8s.io";
    const COMPUTE: &str = skep_api::compute::GROUP;
    const NETWORK: &str = skep_api::network::GROUP;
    const READ: [&str; 3] = ["get", "list", "watch"];
    let system = TenantName::system();
    let mut seeds = Seeds { registry, made: Vec::new() };
    let rule = |verbs: &[&str], group: &str, resources: &[&str]| json!({"verbs": verbs, "apiGroups": [group], "resources": resources});
    // Which hosts and machines a daemon may write is narrowed further by admission.
    let role = json!({"rules": [
        rule(&["access"], "tenancy.skep.io", &["tenants"]),
        rule(&["get", "list", "watch", "create", "update", "patch"], COMPUTE, &["hosts", "hosts/status"]),
        rule(&READ, COMPUTE, &["flavors"]),
        rule(&["get", "list", "watch", "update", "patch"], COMPUTE, &["machines", "machines/status"]),
        rule(&["create"], COMPUTE, &["machines/credential"]),
        rule(&READ, NETWORK, &["networks", "subnets", "securitygroups", "qospolicies", "publicips"]),
        rule(&["get", "list", "watch", "create", "delete"], NETWORK, &["ports"]),
        rule(&["update", "patch"], NETWORK, &["ports/status", "publicips/status"]),
        rule(&READ, "networking.k8s.io", &["networkpolicies"]),
        rule(&READ, "", &["namespaces", "pods"]),
        rule(&["create", "patch", "update"], "", &["events"]),
    ]});
    seeds.add((RBAC, "v1", "clusterroles"), "", HOST_ROLE, &role)?;
    let binding = json!({
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": HOST_ROLE},
        "subjects": [{"apiGroup": RBAC, "kind": "Group", "name": "system:hosts"}],
    });
    seeds.add((RBAC, "v1", "clusterrolebindings"), "", HOST_ROLE, &binding)?;
    Ok(seeds.writes(&system, Expect::Any, now))
}

/// The role of host daemons, in the system tenant.
const HOST_ROLE: &str = "skep:host";
