//! Copies of the config maps and secrets that this node's pods name, each kept current by a watch of its own: a node
//! may not read others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use skep_client::{Client, Informer, ObjectKey, Resource, Selection, Tenants};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::env::{Objects, references};
use crate::spec;

/// How long a pod waits for an object before it says what it waits for.
const SYNC_TIMEOUT: Duration = Duration::from_secs(10);

type Wakes = Arc<Mutex<Vec<Weak<Notify>>>>;

/// One object that is watched for as long as somebody holds this.
pub struct Watched<V: Send + Sync + 'static> {
    informer: Informer<V>,
    key: ObjectKey,
    wakes: Wakes,
    task: JoinHandle<()>,
}

impl<V: Send + Sync + 'static> Drop for Watched<V> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half done under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<V: skep_client::View + Clone> Watched<V> {
    fn start(client: &Client, resource: Resource, namespace: &str, name: &str) -> Arc<Watched<V>> {
        let selection = Selection::all(resource, Tenants::Own)
            .namespace(namespace)
            .fields(&format!("metadata.name={name}"));
        let informer = Informer::<V>::builder(client, selection).build();
        let wakes = Wakes::default();
        let told = wakes.clone();
        informer.on_event(move |_| {
            lock(&told).retain(|wake| match wake.upgrade() {
                Some(wake) => {
                    wake.notify_one();
                    true
                }
                None => false,
            });
        });
        let running = informer.clone();
        let task = tokio::spawn(async move { running.run().await });
        let key = ObjectKey { tenant: client.home().clone(), namespace: namespace.into(), name: name.into() };
        Arc::new(Watched { informer, key, wakes, task })
    }

    fn get(&self) -> Option<Arc<V>> {
        let mut found = self.informer.get(&self.key);
        if found.is_none() {
            // The tenant of the credential may be called otherwise than the client thinks: there is one object at most.
            self.informer.for_each(|o| found = Some(o.clone()));
        }
        found.map(|o| Arc::new(o.view.clone()))
    }
}

type Map<V> = Mutex<HashMap<(String, String), Weak<Watched<V>>>>;

/// See the module.
pub struct ObjectCache {
    client: Client,
    config_maps: Map<ConfigMap>,
    secrets: Map<Secret>,
}

/// The objects of one pod, watched for as long as this is held.
#[derive(Default)]
pub struct Held {
    config_maps: Vec<(String, Arc<Watched<ConfigMap>>)>,
    secrets: Vec<(String, Arc<Watched<Secret>>)>,
}

fn hold<V: skep_client::View + Clone>(
    map: &Map<V>,
    client: &Client,
    resource: &Resource,
    namespace: &str,
    names: Vec<String>,
    wake: &Arc<Notify>,
) -> Vec<(String, Arc<Watched<V>>)> {
    let mut map = lock(map);
    map.retain(|_, weak| weak.strong_count() > 0);
    names
        .into_iter()
        .map(|name| {
            let key = (namespace.to_owned(), name.clone());
            let watched = map.get(&key).and_then(Weak::upgrade).unwrap_or_else(|| {
                let watched = Watched::start(client, resource.clone(), namespace, &name);
                map.insert(key, Arc::downgrade(&watched));
                watched
            });
            lock(&watched.wakes).push(Arc::downgrade(wake));
            (name, watched)
        })
        .collect()
}

impl ObjectCache {
    /// An empty one.
    #[must_use]
    pub fn new(client: Client) -> ObjectCache {
        ObjectCache { client, config_maps: Map::default(), secrets: Map::default() }
    }

    /// Watches what a pod names; `wake` is told of changes.
    #[must_use]
    pub fn hold(&self, pod: &Pod, wake: &Arc<Notify>) -> Held {
        let (maps, secrets) = references(pod);
        let namespace = spec::namespace(pod);
        Held {
            config_maps: hold(
                &self.config_maps,
                &self.client,
                &Resource::of::<ConfigMap>(),
                namespace,
                maps,
                wake,
            ),
            secrets: hold(&self.secrets, &self.client, &Resource::of::<Secret>(), namespace, secrets, wake),
        }
    }
}

impl Held {
    /// The objects as they are, once all are known.
    ///
    /// # Errors
    /// What is not known in time: the server cannot be reached, or refuses.
    pub async fn objects(&self) -> Result<Objects, String> {
        let mut objects = Objects::default();
        for (name, watched) in &self.config_maps {
            known(watched, "configmap", name).await?;
            objects.config_maps.insert(name.clone(), watched.get());
        }
        for (name, watched) in &self.secrets {
            known(watched, "secret", name).await?;
            objects.secrets.insert(name.clone(), watched.get());
        }
        Ok(objects)
    }
}

async fn known<V: skep_client::View>(watched: &Watched<V>, what: &str, name: &str) -> Result<(), String> {
    tokio::time::timeout(SYNC_TIMEOUT, watched.informer.synced())
        .await
        .map_err(|_| format!("failed to sync {what} cache: timed out waiting for {what} {name:?}"))
}
