//! Informers, and how what they bring gets to the tenants' workers.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{
    Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod as PodKind, ReplicationController, Service,
};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass};
use rustc_hash::FxHashSet;
use serde::Deserialize;
use skep_base::TenantName;
use skep_client::informer::AnyInformer;
use skep_client::{Client, Error, Event, Informer, ObjectKey, Resource, Selection, Tenants, View};
use skep_sched::Cluster;
use skep_sched::template::OwnerKind;
use skep_sched::views::{BudgetView, MapSelectorView, NamespaceView, NodeView, SetSelectorView};
use skep_sched::{CapacityView, ClaimView, CsiDriverView, CsiNodeView, StorageClassView, VolumeView};

use crate::queue::Hints;
use crate::view::Pod;

/// A change of something other than pods and nodes.
pub(crate) type Apply = Box<dyn FnOnce(&mut Cluster) -> Hints + Send>;

/// Something of which a cluster holds a view.
trait Source: Send + Sync {
    fn informer(&self) -> Box<dyn AnyInformer>;
    fn replay(&self, tenant: &TenantName, cluster: &mut Cluster);
    fn listen(&self, tell: Tell);
}

type Tell = Arc<dyn Fn(&TenantName, Apply) + Send + Sync>;
type Put<V> = fn(&mut Cluster, &ObjectKey, Option<&V>) -> Hints;

struct Fed<V> {
    informer: Informer<V>,
    put: Put<V>,
}

impl<V: View> Source for Fed<V> {
    fn informer(&self) -> Box<dyn AnyInformer> {
        Box::new(self.informer.clone())
    }

    fn replay(&self, tenant: &TenantName, cluster: &mut Cluster) {
        for object in self.informer.of_tenant(tenant) {
            (self.put)(cluster, &object.key, Some(&object.view));
        }
    }

    fn listen(&self, tell: Tell) {
        let put = self.put;
        self.informer.on_event(move |event| {
            let object = event.object().clone();
            let gone = matches!(event, Event::Deleted(_));
            let tenant = object.key.tenant.clone();
            tell(
                &tenant,
                Box::new(move |cluster| put(cluster, &object.key, (!gone).then_some(&object.view))),
            );
        });
    }
}

/// All that the scheduler looks at.
pub(crate) struct Feed {
    pub pods: Informer<Pod>,
    pub nodes: Informer<NodeView>,
    pub claims: Option<Informer<ClaimView>>,
    others: Vec<Box<dyn Source>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ResourceList {
    resources: Vec<ResourceName>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ResourceName {
    name: String,
}

/// Which of the resources that placement looks at a server has: others than Skep's have all of them, smaller ones not.
async fn served(client: &Client) -> Result<FxHashSet<String>, Error> {
    let mut found = FxHashSet::default();
    for group in ["/api/v1", "/apis/apps/v1", "/apis/policy/v1", "/apis/storage.k8s.io/v1"] {
        match client.get::<ResourceList>(group).await {
            Ok(list) => found.extend(list.resources.into_iter().map(|r| format!("{group}/{}", r.name))),
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e),
        }
    }
    Ok(found)
}

/// Whether the server has a view of all tenants that this credential may use.
async fn has_tenants(client: &Client) -> Result<bool, Error> {
    match client.get::<serde::de::IgnoredAny>("/tenants/*/api/v1/nodes?limit=1").await {
        Ok(_) => Ok(true),
        Err(e) if e.is_not_found() || e.kind() == skep_client::ErrorKind::Forbidden => Ok(false),
        Err(e) => Err(e),
    }
}

impl Feed {
    /// Makes the informers for what the server has. Whether they are of one tenant only.
    pub(crate) async fn new(client: &Client) -> Result<(Feed, bool), Error> {
        let own = !has_tenants(client).await?;
        let tenants = if own { Tenants::Own } else { Tenants::All };
        let served = served(client).await?;
        let mut feed = Feed {
            pods: Informer::builder(client, Selection::all(Resource::of::<PodKind>(), tenants.clone()))
                .build(),
            nodes: Informer::builder(client, Selection::all(Resource::of::<Node>(), tenants.clone())).build(),
            claims: None,
            others: Vec::new(),
        };
        let mut make = Make { client, tenants, served, others: &mut feed.others };
        make.add::<Namespace, NamespaceView>("namespaces", |cluster, key, view| {
            match view {
                Some(view) => cluster.upsert_namespace(view),
                None => cluster.remove_namespace(&key.name),
            }
            Hints::NAMESPACE
        });
        make.add::<Service, MapSelectorView>("services", |cluster, key, view| {
            cluster.set_service(&key.namespace, &key.name, view);
            Hints::default()
        });
        make.add::<ReplicationController, MapSelectorView>("replicationcontrollers", |cluster, key, view| {
            cluster.set_replication_controller(&key.namespace, &key.name, view);
            Hints::default()
        });
        make.add::<ReplicaSet, SetSelectorView>("replicasets", |cluster, key, view| {
            cluster.set_owner_selector(OwnerKind::ReplicaSet, &key.namespace, &key.name, view);
            Hints::default()
        });
        make.add::<StatefulSet, SetSelectorView>("statefulsets", |cluster, key, view| {
            cluster.set_owner_selector(OwnerKind::StatefulSet, &key.namespace, &key.name, view);
            Hints::default()
        });
        make.add::<PodDisruptionBudget, BudgetView>("poddisruptionbudgets", |cluster, key, view| {
            cluster.set_budget(&key.namespace, &key.name, view);
            Hints::default()
        });
        make.add::<PersistentVolume, VolumeView>("persistentvolumes", |cluster, key, view| {
            cluster.storage_mut().set_volume(&key.name, view.cloned());
            Hints::STORAGE
        });
        make.add::<StorageClass, StorageClassView>("storageclasses", |cluster, key, view| {
            cluster.storage_mut().set_class(&key.name, view.cloned());
            Hints::STORAGE
        });
        make.add::<CSINode, CsiNodeView>("csinodes", |cluster, key, view| {
            cluster.storage_mut().set_csi_node(&key.name, view.cloned());
            Hints::STORAGE
        });
        make.add::<CSIDriver, CsiDriverView>("csidrivers", |cluster, key, view| {
            cluster.storage_mut().set_csi_driver(&key.name, view.cloned());
            Hints::STORAGE
        });
        make.add::<CSIStorageCapacity, CapacityView>("csistoragecapacities", |cluster, key, view| {
            cluster.storage_mut().set_capacity(&key.namespace, &key.name, view.cloned());
            Hints::STORAGE
        });
        feed.claims =
            make.add::<PersistentVolumeClaim, ClaimView>("persistentvolumeclaims", |cluster, key, view| {
                cluster.storage_mut().set_claim(&key.namespace, &key.name, view.cloned());
                Hints::STORAGE
            });
        Ok((feed, own))
    }

    /// Has changes of everything but pods and nodes told.
    pub(crate) fn listen(&self, tell: &Tell) {
        self.others.iter().for_each(|source| source.listen(tell.clone()));
    }

    /// Puts all but pods into a new cluster.
    pub(crate) fn replay(&self, tenant: &TenantName, cluster: &mut Cluster) {
        for node in self.nodes.of_tenant(tenant) {
            cluster.upsert_node(&node.view);
        }
        self.others.iter().for_each(|source| source.replay(tenant, cluster));
    }

    /// All informers.
    pub(crate) fn informers(&self) -> Vec<Box<dyn AnyInformer>> {
        let others = self.others.iter().map(|s| s.informer());
        let first: [Box<dyn AnyInformer>; 2] = [Box::new(self.nodes.clone()), Box::new(self.pods.clone())];
        first.into_iter().chain(others).collect()
    }
}

struct Make<'a> {
    client: &'a Client,
    tenants: Tenants,
    served: FxHashSet<String>,
    others: &'a mut Vec<Box<dyn Source>>,
}

impl Make<'_> {
    fn add<K, V>(&mut self, plural: &str, put: Put<V>) -> Option<Informer<V>>
    where
        K: k8s_openapi::Resource,
        V: View,
    {
        let group =
            if K::GROUP.is_empty() { "/api/v1".to_owned() } else { format!("/apis/{}", K::API_VERSION) };
        if !self.served.contains(&format!("{group}/{plural}")) {
            tracing::debug!(resource = plural, "the server does not have it");
            return None;
        }
        let resource = Resource::dynamic(K::GROUP, K::VERSION, plural);
        let informer =
            Informer::<V>::builder(self.client, Selection::all(resource, self.tenants.clone())).build();
        self.others.push(Box::new(Fed { informer: informer.clone(), put }));
        Some(informer)
    }
}
