//! The server's own followers: what it must know of some objects on every request is kept current by
//! watching them like any client would.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, Pod};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use serde_json::value::RawValue;
use skep_auth::node::NodeChange;
use skep_auth::rbac::Change as PolicyChange;
use skep_base::{GroupResource, Key, Revision, Scope, TenantName};
use skep_store::{Change, ListOptions, Op, Store, Txn, Value};

use crate::app::App;
use crate::status::ApiError;
use crate::tenants::{self, TenantRecord};

/// Where `Tenant` objects are.
#[must_use]
pub fn tenants_resource() -> GroupResource {
    GroupResource::new("tenancy.skep.io", "tenants")
}

const POLICY: [&str; 4] = ["clusterroles", "clusterrolebindings", "roles", "rolebindings"];

/// Makes the operator's own tenant if the store is new, reads tenants and policy, and starts following them.
///
/// # Errors
/// When the store refuses.
pub async fn start(app: &Arc<App>) -> Result<(), ApiError> {
    make_system_tenant(app).await?;
    follow(app, tenants_resource(), apply_tenant);
    for resource in POLICY {
        follow(app, GroupResource::new("rbac.authorization.k8s.io", resource), apply_policy);
    }
    for (group, resource) in NODE_GRAPH {
        follow(app, GroupResource::new(group, resource), apply_node_graph);
    }
    Ok(())
}

/// What decides which objects a node may read.
const NODE_GRAPH: [(&str, &str); 3] =
    [("", "pods"), ("", "persistentvolumes"), ("storage.k8s.io", "volumeattachments")];

/// Whether two writes of a pod specify the same. What is stored was written by one encoder, so equal parts are equal bytes.
fn same_spec(a: &Value, b: &Value) -> bool {
    #[derive(serde::Deserialize)]
    struct Part<'a> {
        #[serde(borrow)]
        spec: &'a RawValue,
    }
    let spec = |v| serde_json::from_slice::<Part<'_>>(Value::json(v)).ok().map(|p| p.spec.get());
    spec(a).is_some_and(|a| spec(b) == Some(a))
}

fn apply_node_graph(app: &App, key: &Key, value: Option<&Value>, before: Option<&Value>) {
    let nodes = &app.authorizer.nodes;
    let (tenant, name) = (&key.tenant, &*key.name);
    match key.resource.resource() {
        "pods" => {
            // A pod that is nowhere yet matters to no node, and most writes are of such or leave again.
            let bound = value.filter(|v| v.attrs().field("spec.nodeName").is_some_and(|n| !n.is_empty()));
            // Nor does what nodes say of it: only what it refers to, which its specification says with the node's name.
            if let (Some(bound), Some(before)) = (bound, before)
                && same_spec(bound, before)
            {
                return;
            }
            let pod: Option<Pod> = bound.and_then(|v| serde_json::from_slice(v.json()).ok());
            nodes.apply(tenant, NodeChange::Pod(&key.namespace, name, pod.as_ref()));
        }
        "persistentvolumes" => {
            let volume: Option<PersistentVolume> = value.and_then(|v| serde_json::from_slice(v.json()).ok());
            nodes.apply(tenant, NodeChange::PersistentVolume(name, volume.as_ref()));
        }
        _ => {
            let attachment: Option<VolumeAttachment> =
                value.and_then(|v| serde_json::from_slice(v.json()).ok());
            nodes.apply(tenant, NodeChange::VolumeAttachment(name, attachment.as_ref()));
        }
    }
}

/// Takes over what an object has become; with what it was before, where that is known and was taken over.
type Apply = fn(&App, &Key, Option<&Value>, Option<&Value>);

/// Takes the current state over, then keeps it current in a task.
fn follow(app: &Arc<App>, resource: GroupResource, apply: Apply) {
    let scope = Scope::AllTenants(resource.clone());
    let (sender, receiver) = tokio::sync::watch::channel(Revision::ZERO);
    app.followed.add(resource, receiver);
    let revision = take_over(app, &scope, apply);
    sender.send_replace(revision);
    let app = app.clone();
    tokio::spawn(async move {
        let store = app.objects.store().clone();
        let mut from = revision;
        let mut down = app.shutdown.subscribe();
        loop {
            let Ok(mut watcher) = store.watch(scope.clone(), None, from) else {
                // Too slow for the ring: begin anew.
                from = take_over(&app, &scope, apply);
                sender.send_replace(from);
                continue;
            };
            loop {
                let batch: Vec<Arc<Change>> = tokio::select! {
                    () = crate::app::ended(&mut down) => return,
                    batch = watcher.next() => match batch { Ok(b) => b, Err(_) => break },
                };
                for change in &batch {
                    apply(&app, &change.key, change.value.as_deref(), change.prev.as_deref());
                }
                from = watcher.position();
                sender.send_replace(from);
            }
            from = take_over(&app, &scope, apply);
            sender.send_replace(from);
        }
    });
}

fn take_over(app: &App, scope: &Scope, apply: Apply) -> Revision {
    // A list at the newest revision cannot have expired.
    match app.objects.store().list(scope, &ListOptions::default()) {
        Ok(listing) => {
            for (key, value) in &listing.items {
                apply(app, key, Some(value), None);
            }
            listing.revision
        }
        Err(error) => {
            tracing::error!(%error, "the newest state cannot be listed");
            Revision::ZERO
        }
    }
}

#[derive(serde::Deserialize)]
struct TenantObject {
    metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
    #[serde(default)]
    spec: TenantSpec,
}

#[derive(Default, serde::Deserialize)]
struct TenantSpec {
    weight: Option<u32>,
    #[serde(default)]
    suspended: bool,
}

/// A tenant's share when its object says none.
const DEFAULT_WEIGHT: u32 = 100;

fn apply_tenant(app: &App, key: &Key, value: Option<&Value>, _: Option<&Value>) {
    let Ok(name) = TenantName::new(&key.name) else { return };
    let Some(value) = value else {
        app.tenants.remove(&name);
        app.authorizer.rbac.remove_tenant(&name);
        app.authorizer.nodes.remove_tenant(&name);
        return;
    };
    let object: TenantObject = match serde_json::from_slice(value.json()) {
        Ok(object) => object,
        Err(error) => {
            tracing::error!(tenant = %name, %error, "a stored tenant cannot be read");
            return;
        }
    };
    let uid_text = object.metadata.uid.unwrap_or_default();
    let Ok(uid) = uuid::Uuid::parse_str(&uid_text) else { return };
    let before = app.tenants.get(&name).filter(|t| t.uid == uid);
    app.tenants.set(TenantRecord {
        uid,
        uid_text: uid_text.into(),
        created: object.metadata.creation_timestamp.map_or(Timestamp::UNIX_EPOCH, |t| t.0),
        // The default objects keep the revision at which this process first saw the tenant.
        revision: before.map_or(value.revision(), |t| t.revision),
        weight: object.spec.weight.unwrap_or(DEFAULT_WEIGHT),
        closed: object.spec.suspended || object.metadata.deletion_timestamp.is_some(),
        name,
    });
}

fn apply_policy(app: &App, key: &Key, value: Option<&Value>, _: Option<&Value>) {
    fn read<T: serde::de::DeserializeOwned>(key: &Key, value: Option<&Value>) -> Option<T> {
        serde_json::from_slice(value?.json())
            .map_err(|error| tracing::debug!(%key, %error, "not a policy object: a deleted default"))
            .ok()
    }
    let (namespace, name) = (&*key.namespace, &*key.name);
    let rbac = &app.authorizer.rbac;
    match key.resource.resource() {
        "clusterroles" => {
            let object: Option<ClusterRole> =
                read(key, value).filter(|o: &ClusterRole| o.metadata.name.is_some());
            rbac.apply(&key.tenant, PolicyChange::ClusterRole(name, object.as_ref()));
        }
        "clusterrolebindings" => {
            let object: Option<ClusterRoleBinding> =
                read(key, value).filter(|o: &ClusterRoleBinding| o.metadata.name.is_some());
            rbac.apply(&key.tenant, PolicyChange::ClusterRoleBinding(name, object.as_ref()));
        }
        "roles" => {
            let object: Option<Role> = read(key, value).filter(|o: &Role| o.metadata.name.is_some());
            rbac.apply(&key.tenant, PolicyChange::Role(namespace, name, object.as_ref()));
        }
        _ => {
            let object: Option<RoleBinding> =
                read(key, value).filter(|o: &RoleBinding| o.metadata.name.is_some());
            rbac.apply(&key.tenant, PolicyChange::RoleBinding(namespace, name, object.as_ref()));
        }
    }
}

/// Whether an object is stored that differs from a new one in nothing but its identity.
fn says_the_same(store: &Store, op: &Op) -> bool {
    let Op::Put { key, value, .. } = op else { return false };
    let content = |json: &[u8]| -> Option<serde_json::Value> {
        let mut object: serde_json::Value = serde_json::from_slice(json).ok()?;
        object.as_object_mut()?.remove("metadata");
        Some(object)
    };
    store
        .get(key)
        .is_some_and(|old| content(old.json()) == content(Value::unstored(value, Revision::ZERO).json()))
}

/// The operator's tenant has no `Tenant` object: it is recognised by its own `kube-system` namespace, whose
/// uid is also its own.
async fn make_system_tenant(app: &App) -> Result<(), ApiError> {
    let system = TenantName::system();
    let store: &Store = app.objects.store();
    let key = Key::new(GroupResource::new("", "namespaces"), system.clone(), "", "kube-system");
    if store.get(&key).is_none() {
        let network = crate::alloc_network::first_network(&app.objects, &system)?;
        let mut ops = app.first_objects.writes(&app.registry, &system, network, Timestamp::now())?;
        ops.extend(tenants::operator_objects(&app.registry, Timestamp::now())?);
        // One transaction: a start that is cut off half-way leaves nothing.
        store.commit(ops.into_iter().collect::<Txn>()).await.map_err(ApiError::internal)?;
    }
    let mut policy = tenants::host_policy(&app.registry, Timestamp::now())?;
    policy.retain(|op| !says_the_same(store, op));
    if !policy.is_empty() {
        store.commit(policy.into_iter().collect::<Txn>()).await.map_err(ApiError::internal)?;
    }
    let value = store.get(&key).ok_or_else(|| ApiError::internal("the system tenant could not be made"))?;
    let object: TenantObject = serde_json::from_slice(value.json()).map_err(ApiError::internal)?;
    let uid_text = object.metadata.uid.unwrap_or_default();
    app.tenants.set(TenantRecord {
        uid: uuid::Uuid::parse_str(&uid_text).map_err(ApiError::internal)?,
        uid_text: uid_text.into(),
        created: object.metadata.creation_timestamp.map_or(Timestamp::UNIX_EPOCH, |t| t.0),
        revision: value.revision(),
        weight: DEFAULT_WEIGHT,
        closed: false,
        name: system,
    });
    Ok(())
}
