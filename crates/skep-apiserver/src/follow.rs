//! The server's own followers: what it must know of some objects on every request is kept current by
//! watching them like any client would.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, Pod};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use rustc_hash::FxHashSet;
use serde_json::value::RawValue;
use skep_auth::node::NodeChange;
use skep_auth::rbac::{Change as PolicyChange, Kind as PolicyKind};
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

/// What was applied of a resource, as far as it made a difference.
fn known(app: &App, resource: &GroupResource) -> Vec<Key> {
    let (rbac, nodes) = (&app.authorizer.rbac, &app.authorizer.nodes);
    let known = match resource.resource() {
        "pods" => nodes.known_pods(),
        "persistentvolumes" => nodes.known_volumes(),
        "volumeattachments" => nodes.known_attachments(),
        "clusterroles" => rbac.known(PolicyKind::ClusterRole),
        "clusterrolebindings" => rbac.known(PolicyKind::ClusterRoleBinding),
        "roles" => rbac.known(PolicyKind::Role),
        "rolebindings" => rbac.known(PolicyKind::RoleBinding),
        _ => {
            // The operator's own tenant has no object.
            let names = app.tenants.names().into_iter().filter(|name| !name.is_system());
            names.map(|name| (TenantName::system(), "".into(), name.as_str().into())).collect()
        }
    };
    known.into_iter().map(|(tenant, ns, name)| Key::new(resource.clone(), tenant, &ns, &name)).collect()
}

/// Takes over all there is. What was known and is no more goes: its deletion may be among the changes that were missed.
fn take_over(app: &App, scope: &Scope, apply: Apply) -> Revision {
    // A list at the newest revision cannot have expired.
    match app.objects.store().list(scope, &ListOptions::default()) {
        Ok(listing) => {
            let mut gone: FxHashSet<Key> = known(app, scope.resource()).into_iter().collect();
            for (key, value) in &listing.items {
                gone.remove(key);
                apply(app, key, Some(value), None);
            }
            for key in &gone {
                apply(app, key, None, None);
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
    if value.is_none() && app.tenants.get(&key.tenant).is_none() {
        // The last of a tenant's policy may go after the tenant itself. That its defaults are deleted must not be said of the next of its name.
        return rbac.remove_tenant(&key.tenant);
    }
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;
    use skep_client::Client;
    use skep_store::engine::memory::Memory;
    use skep_store::{Expect, StoreOptions};

    use super::*;
    use crate::in_process::system_client;

    async fn started(folder: &std::path::Path) -> Arc<App> {
        let store = Store::open(Box::new(Memory), StoreOptions::default()).unwrap();
        let pki = skep_auth::pki::Pki::open(folder, &[], Timestamp::now()).unwrap();
        let addresses = tenants::ServiceAddresses {
            cluster_ip: "10.96.0.1".to_owned(),
            endpoint_ip: "127.0.0.1".to_owned(),
            endpoint_port: 6443,
        };
        let config = crate::app::Config { base_url: "https://127.0.0.1:6443".to_owned(), addresses };
        App::start(store, Arc::new(pki), config).await.unwrap()
    }

    async fn make(client: &Client, path: &str, object: serde_json::Value) {
        client.post::<serde_json::Value>(path, &object).await.unwrap();
    }

    /// One object of each kind that is followed, under each of two names.
    async fn make_all(client: &Client) {
        for name in ["stays", "goes"] {
            let meta = json!({"name": name});
            make(client, "/apis/tenancy.skep.io/v1/tenants", json!({"metadata": meta})).await;
            let rbac = "/apis/rbac.authorization.k8s.io/v1";
            let within = format!("{rbac}/namespaces/default");
            let role = json!({"metadata": meta, "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]});
            make(client, &format!("{rbac}/clusterroles"), role.clone()).await;
            make(client, &format!("{within}/roles"), role).await;
            let subject = json!({"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "u"});
            let group = "rbac.authorization.k8s.io";
            let mut binding = json!({"metadata": meta, "subjects": [subject], "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name}});
            make(client, &format!("{rbac}/clusterrolebindings"), binding.clone()).await;
            binding["roleRef"]["kind"] = "Role".into();
            make(client, &format!("{within}/rolebindings"), binding).await;
            let pod = json!({"metadata": meta, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
            make(client, "/api/v1/namespaces/default/pods", pod).await;
            let volume = json!({"metadata": meta, "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
                "hostPath": {"path": "/x"}, "claimRef": {"namespace": "default", "name": name}}});
            make(client, "/api/v1/persistentvolumes", volume).await;
            let attachment = json!({"metadata": meta, "spec": {"attacher": "a", "nodeName": "n", "source": {"persistentVolumeName": name}}});
            make(client, "/apis/storage.k8s.io/v1/volumeattachments", attachment).await;
        }
    }

    /// A follower that was too slow begins anew with what there is, and must not keep what was deleted in between: a role that is no
    /// more would go on to give rights.
    #[tokio::test]
    async fn what_was_deleted_unseen_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let app = started(folder.path()).await;
        make_all(&system_client(&app, "admin")).await;
        let mut followed: Vec<(GroupResource, Apply)> = vec![(tenants_resource(), apply_tenant)];
        followed.extend(
            POLICY.map(|r| (GroupResource::new("rbac.authorization.k8s.io", r), apply_policy as Apply)),
        );
        followed.extend(NODE_GRAPH.map(|(g, r)| (GroupResource::new(g, r), apply_node_graph as Apply)));
        let ours = |resource: &GroupResource| {
            let mut names: Vec<String> = known(&app, resource).iter().map(|k| k.name.to_string()).collect();
            names.retain(|n| n == "stays" || n == "goes");
            names.sort();
            names
        };
        let store = app.objects.store();
        for (resource, _) in &followed {
            let listing = store.list(&Scope::AllTenants(resource.clone()), &ListOptions::default()).unwrap();
            let last = listing.items.iter().map(|(_, value)| value.revision()).max().unwrap();
            app.followed.caught_up(resource, last).await;
            assert_eq!(ours(resource), ["goes", "stays"], "{resource}");
        }
        // From now on nobody looks.
        app.shutdown.send_replace(true);
        while app.followed.by_resource.read().values().any(|r| r.has_changed().is_ok()) {
            tokio::task::yield_now().await;
        }
        for (resource, apply) in followed {
            let scope = Scope::AllTenants(resource.clone());
            let listing = store.list(&scope, &ListOptions::default()).unwrap();
            let (lost, _) = listing.items.iter().find(|(key, _)| &*key.name == "goes").unwrap();
            let deletion = Op::Delete { key: lost.clone(), expect: Expect::Any };
            store.commit([deletion].into_iter().collect::<Txn>()).await.unwrap();
            assert_eq!(ours(&resource), ["goes", "stays"], "{resource}: nobody has told");
            take_over(&app, &scope, apply);
            assert_eq!(ours(&resource), ["stays"], "{resource}");
        }
    }
}
