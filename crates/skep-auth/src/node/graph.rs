//! Which objects the pods of which node refer to, per tenant.
//!
//! Objects and nodes have small numbers inside a tenant, so that a pod costs little more than its name:
//! there may be a million of them.

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashMap, HashSet};
use k8s_openapi::api::core::v1::{PersistentVolume, Pod};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use parking_lot::RwLock;
use skep_base::TenantName;
use smallvec::SmallVec;

use super::references::{of_pod, of_volume_object};

/// Tenants are spread over this many locks.
const SHARDS: usize = 64;

/// The kinds of objects in the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum ObjectKind {
    Secret,
    ConfigMap,
    Claim,
    Volume,
    ServiceAccount,
    ResourceClaim,
    Attachment,
    ResourceSlice,
    Pod,
}

/// An object was written (`Some`) or is gone (`None`).
#[derive(Clone, Copy, Debug)]
pub enum NodeChange<'a> {
    /// A pod: namespace, name.
    Pod(&'a str, &'a str, Option<&'a Pod>),
    /// A persistent volume.
    PersistentVolume(&'a str, Option<&'a PersistentVolume>),
    /// A volume attachment.
    VolumeAttachment(&'a str, Option<&'a VolumeAttachment>),
    /// A resource slice; its node's name.
    ResourceSlice(&'a str, Option<&'a str>),
}

type Id = u32;

/// `NAMESPACE/NAME`; neither part can hold the slash.
fn path(namespace: &str, name: &str) -> Arc<str> {
    let mut s = String::with_capacity(namespace.len() + name.len() + 1);
    s.push_str(namespace);
    s.push('/');
    s.push_str(name);
    s.into()
}

/// Numbers for names, given back when nobody uses them.
#[derive(Debug, Default)]
struct Names {
    ids: HashMap<Arc<str>, (Id, u32)>,
    free: Vec<Id>,
    next: Id,
}

impl Names {
    /// The number of a name, and the name as it is shared.
    fn acquire(&mut self, name: Arc<str>) -> (Id, Arc<str>) {
        if let Some((shared, (id, uses))) = self.ids.get_key_value_mut(&name) {
            *uses += 1;
            return (*id, shared.clone());
        }
        let id = self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next
        });
        self.ids.insert(name.clone(), (id, 1));
        (id, name)
    }

    fn release(&mut self, name: &str) {
        if let Some((id, uses)) = self.ids.get_mut(name) {
            *uses -= 1;
            if *uses == 0 {
                self.free.push(*id);
                self.ids.remove(name);
            }
        }
    }

    fn get(&self, name: &str) -> Option<Id> {
        self.ids.get(name).map(|e| e.0)
    }
}

/// The nodes whose pods refer to an object, in order, each with how many do.
#[derive(Debug, Default)]
struct Uses(SmallVec<[(Id, u32); 1]>);

impl Uses {
    fn add(&mut self, node: Id) {
        match self.0.binary_search_by_key(&node, |e| e.0) {
            Ok(i) => self.0[i].1 += 1,
            Err(i) => self.0.insert(i, (node, 1)),
        }
    }

    fn remove(&mut self, node: Id) {
        if let Ok(i) = self.0.binary_search_by_key(&node, |e| e.0) {
            self.0[i].1 -= 1;
            if self.0[i].1 == 0 {
                self.0.remove(i);
            }
        }
    }

    fn has(&self, node: Id) -> bool {
        self.0.binary_search_by_key(&node, |e| e.0).is_ok()
    }
}

/// The path is shared by all pods that refer to the object.
type ObjectId = (ObjectKind, Arc<str>);

#[derive(Debug, PartialEq, Eq)]
struct PodNode {
    node: Arc<str>,
    objects: Arc<[ObjectId]>,
}

#[derive(Debug)]
struct VolumeNode {
    claim: Arc<str>,
    secrets: Box<[Arc<str>]>,
}

/// The graph of one tenant.
#[derive(Debug, Default)]
struct Graph {
    nodes: Names,
    /// By path.
    pods: HashMap<Arc<str>, PodNode>,
    /// By kind and path: what pods refer to.
    objects: HashMap<ObjectId, Uses>,
    /// What pods refer to, all of it: those of one template, or of one service account, refer to the same.
    lists: HashSet<Arc<[ObjectId]>>,
    /// By name.
    volumes: HashMap<Box<str>, VolumeNode>,
    /// Names of the volumes that need a secret, by its path.
    volumes_of_secret: HashMap<Arc<str>, SmallVec<[Box<str>; 1]>>,
    /// Volume attachments and resource slices, which name their node themselves.
    owned: HashMap<ObjectId, Box<str>>,
}

impl Graph {
    fn set_pod(&mut self, namespace: &str, name: &str, pod: Option<&Pod>) {
        let key = path(namespace, name);
        let node = pod.and_then(|p| p.spec.as_ref()?.node_name.as_deref()).filter(|n| !n.is_empty());
        let new = pod.zip(node).map(|(pod, node)| {
            let mut objects: Vec<ObjectId> = Vec::new();
            of_pod(pod, |kind, name| {
                let path = path(namespace, name);
                if !objects.iter().any(|(k, p)| *k == kind && *p == path) {
                    objects.push((kind, path));
                }
            });
            PodNode { node: node.into(), objects: objects.into() }
        });
        // Most changes of a pod are to its status, and change nothing here.
        if self.pods.get(&key) == new.as_ref() {
            return;
        }
        if let Some(old) = self.pods.remove(&key) {
            if let Some(node) = self.nodes.get(&old.node) {
                for object in &*old.objects {
                    if let Some(uses) = self.objects.get_mut(object) {
                        uses.remove(node);
                        if uses.0.is_empty() {
                            self.objects.remove(object);
                        }
                    }
                }
            }
            self.nodes.release(&old.node);
            // The set's and this one.
            if Arc::strong_count(&old.objects) == 2 {
                self.lists.remove(&old.objects);
            }
        }
        if let Some(mut new) = new {
            let (node, shared) = self.nodes.acquire(new.node);
            new.node = shared;
            new.objects = self.shared(new.objects);
            for object in &*new.objects {
                match self.objects.get_mut(object) {
                    Some(uses) => uses.add(node),
                    None => self.objects.entry(object.clone()).or_default().add(node),
                }
            }
            self.pods.insert(key, new);
        }
    }

    /// The one list that is equal to this.
    fn shared(&mut self, list: Arc<[ObjectId]>) -> Arc<[ObjectId]> {
        if let Some(known) = self.lists.get(&list) {
            return known.clone();
        }
        let one = |object: &ObjectId| match self.objects.get_key_value(object) {
            Some((known, _)) => known.clone(),
            None => object.clone(),
        };
        let list: Arc<[ObjectId]> = list.iter().map(one).collect();
        self.lists.insert(list.clone());
        list
    }

    fn set_volume(&mut self, name: &str, volume: Option<&PersistentVolume>) {
        if let Some(old) = self.volumes.remove(name) {
            for secret in &old.secrets {
                if let Some(list) = self.volumes_of_secret.get_mut(secret) {
                    list.retain(|v| **v != *name);
                    if list.is_empty() {
                        self.volumes_of_secret.remove(secret);
                    }
                }
            }
        }
        let Some(references) = volume.and_then(of_volume_object) else { return };
        let mut secrets: Vec<Arc<str>> = references.secrets.iter().map(|(ns, n)| path(ns, n)).collect();
        secrets.sort_unstable();
        secrets.dedup();
        for secret in &secrets {
            self.volumes_of_secret.entry(secret.clone()).or_default().push(name.into());
        }
        let claim = path(&references.claim.0, &references.claim.1);
        self.volumes.insert(name.into(), VolumeNode { claim, secrets: secrets.into() });
    }

    fn set_owned(&mut self, kind: ObjectKind, name: &str, node: Option<&str>) {
        let key = (kind, name.into());
        match node.filter(|n| !n.is_empty()) {
            Some(node) => {
                self.owned.insert(key, node.into());
            }
            None => {
                self.owned.remove(&key);
            }
        }
    }

    fn is_related(&self, kind: ObjectKind, namespace: &str, name: &str, node: &str) -> bool {
        match kind {
            ObjectKind::Attachment | ObjectKind::ResourceSlice => {
                self.owned.get(&(kind, name.into())).is_some_and(|n| **n == *node)
            }
            ObjectKind::Pod => self.pods.get(&path(namespace, name)).is_some_and(|p| *p.node == *node),
            ObjectKind::Volume => self.has_volume(name, node),
            ObjectKind::Secret => {
                let path = path(namespace, name);
                let of_volume = self
                    .volumes_of_secret
                    .get(&path)
                    .is_some_and(|list| list.iter().any(|v| self.has_volume(v, node)));
                of_volume || self.uses(kind, path, node)
            }
            ObjectKind::ConfigMap
            | ObjectKind::Claim
            | ObjectKind::ServiceAccount
            | ObjectKind::ResourceClaim => self.uses(kind, path(namespace, name), node),
        }
    }

    fn uses(&self, kind: ObjectKind, path: Arc<str>, node: &str) -> bool {
        let Some(node) = self.nodes.get(node) else { return false };
        self.objects.get(&(kind, path)).is_some_and(|u| u.has(node))
    }

    fn has_volume(&self, name: &str, node: &str) -> bool {
        self.volumes.get(name).is_some_and(|v| self.uses(ObjectKind::Claim, v.claim.clone(), node))
    }

    /// Namespaces and names of what was applied of one kind.
    fn names(&self, of: ObjectKind) -> Vec<(&str, &str)> {
        match of {
            ObjectKind::Pod => self.pods.keys().filter_map(|path| path.split_once('/')).collect(),
            ObjectKind::Volume => self.volumes.keys().map(|name| ("", &**name)).collect(),
            _ => self.owned.keys().filter(|(kind, _)| *kind == of).map(|(_, name)| ("", &**name)).collect(),
        }
    }

    fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.volumes.is_empty() && self.owned.is_empty()
    }
}

/// The tenants of one lock.
type Shard = RwLock<HashMap<TenantName, Box<Graph>>>;

/// The graphs of all tenants. A tenant without bound pods, bound volumes and attachments costs nothing.
#[derive(Debug)]
pub struct NodeGraph {
    shards: Box<[Shard]>,
    hasher: DefaultHashBuilder,
}

impl Default for NodeGraph {
    fn default() -> Self {
        NodeGraph {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            hasher: DefaultHashBuilder::default(),
        }
    }
}

impl NodeGraph {
    fn shard(&self, tenant: &TenantName) -> &Shard {
        // The remainder is below SHARDS, so the cast back loses nothing.
        &self.shards[(self.hasher.hash_one(tenant) % SHARDS as u64) as usize]
    }

    /// Takes over one object change. Costs what the object costs.
    pub fn apply(&self, tenant: &TenantName, change: NodeChange<'_>) {
        let mut shard = self.shard(tenant).write();
        let graph = shard.entry(tenant.clone()).or_default();
        match change {
            NodeChange::Pod(namespace, name, pod) => graph.set_pod(namespace, name, pod),
            NodeChange::PersistentVolume(name, volume) => graph.set_volume(name, volume),
            NodeChange::VolumeAttachment(name, attachment) => {
                let node = attachment.map(|a| a.spec.node_name.as_str());
                graph.set_owned(ObjectKind::Attachment, name, node);
            }
            NodeChange::ResourceSlice(name, node) => {
                graph.set_owned(ObjectKind::ResourceSlice, name, node);
            }
        }
        if graph.is_empty() {
            shard.remove(tenant);
        }
    }

    /// Forgets a tenant.
    pub fn remove_tenant(&self, tenant: &TenantName) {
        self.shard(tenant).write().remove(tenant);
    }

    /// Tenant, namespace and name of every pod that was applied and makes a difference: for whoever has missed changes, to find what is no more.
    #[must_use]
    pub fn known_pods(&self) -> Vec<(TenantName, Box<str>, Box<str>)> {
        self.known(ObjectKind::Pod)
    }

    /// As [`NodeGraph::known_pods`], for persistent volumes, which have no namespace.
    #[must_use]
    pub fn known_volumes(&self) -> Vec<(TenantName, Box<str>, Box<str>)> {
        self.known(ObjectKind::Volume)
    }

    /// As [`NodeGraph::known_pods`], for volume attachments, which have no namespace.
    #[must_use]
    pub fn known_attachments(&self) -> Vec<(TenantName, Box<str>, Box<str>)> {
        self.known(ObjectKind::Attachment)
    }

    fn known(&self, of: ObjectKind) -> Vec<(TenantName, Box<str>, Box<str>)> {
        let mut known = Vec::new();
        for shard in &self.shards {
            for (tenant, graph) in shard.read().iter() {
                let names = graph.names(of).into_iter();
                known.extend(names.map(|(ns, name)| (tenant.clone(), ns.into(), name.into())));
            }
        }
        known
    }

    /// How many tenants have a graph.
    #[must_use]
    pub fn tenants(&self) -> usize {
        self.shards.iter().map(|s| s.read().len()).sum()
    }

    pub(super) fn is_related(
        &self,
        tenant: &TenantName,
        kind: ObjectKind,
        namespace: &str,
        name: &str,
        node: &str,
    ) -> bool {
        let shard = self.shard(tenant).read();
        shard.get(tenant).is_some_and(|g| g.is_related(kind, namespace, name, node))
    }

    /// What is kept for a tenant: pods, objects, node names, volumes, owned objects.
    #[cfg(test)]
    pub(super) fn sizes(&self, tenant: &TenantName) -> [usize; 5] {
        let shard = self.shard(tenant).read();
        shard.get(tenant).map_or([0; 5], |g| {
            [g.pods.len(), g.objects.len(), g.nodes.ids.len(), g.volumes.len(), g.owned.len()]
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(account: &str, secret: &str) -> Pod {
        serde_json::from_value(
            json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "serviceAccountName": account,
            "containers": [{"name": "c", "envFrom": [{"secretRef": {"name": secret}}]}]}}),
        )
        .unwrap()
    }

    #[test]
    fn equal_lists_are_held_once_and_as_long_as_they_are_used() {
        let mut graph = Graph::default();
        for name in ["a", "b"] {
            graph.set_pod("x", name, Some(&pod("default", "s")));
        }
        graph.set_pod("x", "c", Some(&pod("default", "t")));
        let (n, used) = (graph.nodes.get("n").unwrap(), |g: &Graph, secret: &str| {
            g.objects.get(&(ObjectKind::Secret, path("x", secret))).map(|u| u.0.to_vec())
        });
        assert_eq!((graph.lists.len(), used(&graph, "s")), (2, Some(vec![(n, 2)])));
        graph.set_pod("x", "a", None);
        graph.set_pod("x", "b", Some(&pod("default", "t")));
        assert_eq!((graph.lists.len(), used(&graph, "s"), used(&graph, "t")), (1, None, Some(vec![(n, 2)])));
        for name in ["b", "c"] {
            graph.set_pod("x", name, None);
        }
        assert!(graph.lists.is_empty() && graph.objects.is_empty() && graph.is_empty());
    }
}
