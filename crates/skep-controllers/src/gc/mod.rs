//! Garbage collection: what becomes of objects whose owners go, and of owners that wait for their dependents.
//!
//! One informer per kind holds the metadata of all objects of all tenants (of pods it is the one that all controllers share); an index leads from an owner's uid to its
//! dependents. The copies only raise the question: before anything is deleted or changed, the object and its owners are
//! read from the API server. Before an owner that waits for its dependents, or leaves them behind, is let go, kinds whose
//! copies are older than its deletion are asked whether they have dependents that the copies do not show. An owner is looked for in the dependent's own tenant and namespace (or cluster-wide),
//! nowhere else.
//!
//! Kinds are found by discovery, again and again, so that those that come later are collected too.

mod plan;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::BoxFuture;
use parking_lot::RwLock;
use rustc_hash::{FxHashMap, FxHashSet};
use serde::Deserialize;
use serde_json::json;
use skep_base::{Revision, TenantName};
use skep_client::{
    Client, DeleteParams, Error, Event, Informer, Level, List, ListParams, Object, ObjectKey, ObjectPath,
    Patch, Resource, Selection, Tenants, View,
};
use tokio::task::JoinSet;

pub(crate) use self::plan::Meta;
use self::plan::{Dependent, ORPHAN, Owner, Plan};
use crate::discovery::{self, Served};
use crate::views::{BY_OWNER, Owner as OwnerRef, Pod};
use crate::{Controller, Enqueue, Kind, Next, Setup, SyncError};

/// As upstream's.
const NAME: &str = "garbage-collector-controller";

/// How often kinds are looked for, as upstream.
const DISCOVERY_PERIOD: Duration = Duration::from_secs(30);
/// At the start, and when the API server could not be asked.
const DISCOVERY_RETRY: Duration = Duration::from_secs(1);

/// A kind whose informer is not complete holds up all collection, for a dependent might be among its objects; but
/// not forever, as upstream.
const SYNC_PATIENCE: Duration = Duration::from_secs(30);

/// Dependents that are made orphans at once.
const ORPHANS_AT_ONCE: usize = 32;

/// Kinds that are asked at once for dependents that the copies do not show.
const KINDS_AT_ONCE: usize = 8;
/// Objects that such a question takes at a time.
const PAGE: u32 = 500;
/// When an owner is looked at again whose dependents are on their way into the copies: they are there in a moment.
const UNSEEN_RETRY: Duration = Duration::from_millis(20);

/// Kinds that are never collected: they own nothing, are owned by nothing, and change all the time.
const IGNORED: [(&str, &str); 2] = [("", "events"), ("events.k8s.io", "events")];

/// Kinds of which every tenant has some from its beginning, or many, and which hardly ever own anything: of those without
/// owners nothing is held, so that an idle tenant costs next to nothing here. If one does own something, its dependents
/// are checked by reading it.
const OWNERLESS: [(&str, &str); 11] = [
    ("rbac.authorization.k8s.io", "*"),
    ("flowcontrol.apiserver.k8s.io", "*"),
    ("scheduling.k8s.io", "*"),
    ("", "namespaces"),
    ("", "serviceaccounts"),
    ("", "configmaps"),
    ("", "secrets"),
    ("", "services"),
    ("", "endpoints"),
    ("discovery.k8s.io", "endpointslices"),
    ("", "persistentvolumeclaims"),
];

#[derive(Debug, Deserialize)]
struct Item {
    metadata: Meta,
}

/// An object as it is now, read for certainty.
struct Live {
    uid: String,
    resource_version: String,
    meta: Meta,
}

/// What garbage collection reads of an object, in whatever view it is held.
trait Held: View {
    fn meta(&self) -> &Meta;
}

impl Held for Item {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl Held for Pod {
    fn meta(&self) -> &Meta {
        &self.meta
    }
}

/// An object in some copy.
trait Known: Send + Sync {
    fn key(&self) -> &ObjectKey;
    fn uid(&self) -> &str;
    fn revision(&self) -> Revision;
    fn meta(&self) -> &Meta;
}

impl<V: Held> Known for Object<V> {
    fn key(&self) -> &ObjectKey {
        &self.key
    }
    fn uid(&self) -> &str {
        &self.uid
    }
    fn revision(&self) -> Revision {
        self.revision
    }
    fn meta(&self) -> &Meta {
        self.view.meta()
    }
}

/// The copies of one kind: an informer of its own, or of pods the one that all controllers share.
trait Copies: Send + Sync {
    fn has_synced(&self) -> bool;
    fn position(&self) -> Revision;
    fn get(&self, key: &ObjectKey) -> Option<Arc<dyn Known>>;
    /// Those that refer to an owner.
    fn owned_by(&self, tenant: &TenantName, uid: &str) -> Vec<Arc<dyn Known>>;
}

impl<V: Held> Copies for Informer<V> {
    fn has_synced(&self) -> bool {
        Informer::has_synced(self)
    }
    fn position(&self) -> Revision {
        Informer::position(self)
    }
    fn get(&self, key: &ObjectKey) -> Option<Arc<dyn Known>> {
        Informer::get(self, key).map(|o| -> Arc<dyn Known> { o })
    }
    fn owned_by(&self, tenant: &TenantName, uid: &str) -> Vec<Arc<dyn Known>> {
        self.by_index(BY_OWNER, tenant, uid).into_iter().map(|o| -> Arc<dyn Known> { o }).collect()
    }
}

struct Monitor {
    served: Served,
    copies: Box<dyn Copies>,
    since: Instant,
}

impl Monitor {
    fn is_settled(&self) -> bool {
        self.copies.has_synced() || self.since.elapsed() > SYNC_PATIENCE
    }
}

#[derive(Default)]
struct Monitors {
    by_resource: FxHashMap<Resource, Arc<Monitor>>,
    /// By group and kind.
    by_kind: FxHashMap<(String, String), Arc<Monitor>>,
    complete: bool,
}

/// See the module.
pub(crate) struct GarbageCollector {
    client: Client,
    enqueue: Enqueue,
    /// The manager runs it.
    pods: Informer<Pod>,
    monitors: RwLock<Monitors>,
}

/// A key that says of which resource the object is: `PLURAL.GROUP/NAME` in the place of the name.
fn work_key(resource: &Resource, key: &ObjectKey) -> ObjectKey {
    let name = format!("{}.{}/{}", resource.plural, resource.group, key.name);
    ObjectKey { name: name.into(), ..key.clone() }
}

fn split_key(key: &ObjectKey) -> Option<(&str, &str, ObjectKey)> {
    let (resource, name) = key.name.split_once('/')?;
    let (plural, group) = resource.split_once('.')?;
    Some((plural, group, ObjectKey { name: name.into(), ..key.clone() }))
}

impl GarbageCollector {
    /// Makes it.
    pub(crate) fn make(setup: &mut Setup) -> Arc<dyn Controller> {
        let gc = Arc::new(GarbageCollector {
            client: setup.client().clone(),
            enqueue: setup.enqueue(NAME),
            pods: setup.informer::<Pod>(),
            monitors: RwLock::default(),
        });
        setup.background(gc.clone().discover());
        gc
    }

    /// Looks for kinds, and runs an informer for each.
    async fn discover(self: Arc<Self>) {
        let mut running = JoinSet::new();
        loop {
            let wait = match discovery::served(&self.client).await {
                Ok(all) => {
                    for served in all {
                        self.monitor(served, &mut running);
                    }
                    self.monitors.write().complete = true;
                    DISCOVERY_PERIOD
                }
                Err(error) => {
                    tracing::warn!(%error, "kinds cannot be discovered");
                    DISCOVERY_RETRY
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    fn monitor(self: &Arc<Self>, served: Served, running: &mut JoinSet<()>) {
        let resource = served.resource.clone();
        let ignored = IGNORED.contains(&(&*resource.group, &*resource.plural));
        if ignored
            || !served.can(&["get", "list", "watch", "delete"])
            || self.monitors.read().by_resource.contains_key(&resource)
        {
            return;
        }
        let copies: Box<dyn Copies> = if resource == Pod::RESOURCE {
            self.follow(&self.pods, &resource);
            Box::new(self.pods.clone())
        } else {
            let informer = self.informer(&resource);
            self.follow(&informer, &resource);
            let runs = informer.clone();
            running.spawn(async move { runs.run().await });
            Box::new(informer)
        };
        let kind = (resource.group.to_string(), served.kind.clone());
        let monitor = Arc::new(Monitor { served, copies, since: Instant::now() });
        let mut monitors = self.monitors.write();
        monitors.by_kind.insert(kind, monitor.clone());
        monitors.by_resource.insert(resource, monitor);
    }

    /// An informer of a kind's metadata.
    fn informer(&self, resource: &Resource) -> Informer<Item> {
        let selection = Selection::all(resource.clone(), Tenants::All).metadata_only();
        let sparse = OWNERLESS.iter().any(|(group, plural)| {
            *group == resource.group && (*plural == "*" || *plural == resource.plural)
        });
        Informer::<Item>::builder(&self.client, selection)
            .keep(move |o| !sparse || !o.metadata.owner_references.is_empty() || o.metadata.is_deleting())
            .index(BY_OWNER, |o, emit| o.metadata.owner_references.iter().for_each(|r| emit(&r.uid)))
            .build()
    }

    fn follow<V: Held>(self: &Arc<Self>, informer: &Informer<V>, resource: &Resource) {
        let (gc, of) = (Arc::downgrade(self), resource.clone());
        informer.on_event(move |event| {
            if let Some(gc) = gc.upgrade() {
                gc.observe(&of, event);
            }
        });
    }

    /// Reads an object's metadata; `None` when it is not there.
    async fn live(&self, at: &ObjectPath) -> Result<Option<Live>, Error> {
        #[derive(Deserialize)]
        struct Identified {
            metadata: Identity,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Identity {
            uid: String,
            resource_version: String,
        }
        let bytes = match self.client.read_metadata_bytes(at).await {
            Ok(bytes) => bytes,
            Err(e) if e.is_not_found() => return Ok(None),
            Err(e) => return Err(e),
        };
        let bad = |e: serde_json::Error| Error::Answer(format!("the metadata of {at}: {e}"));
        // Twice: what is held of every object should not grow by what only this needs.
        let identity = serde_json::from_slice::<Identified>(&bytes).map_err(bad)?.metadata;
        let meta = serde_json::from_slice::<Item>(&bytes).map_err(bad)?.metadata;
        Ok(Some(Live { uid: identity.uid, resource_version: identity.resource_version, meta }))
    }

    fn add(&self, resource: &Resource, key: &ObjectKey, level: Level) {
        self.enqueue.add(&work_key(resource, key), level);
    }

    /// Decides what an event raises questions about.
    fn observe<V: Held>(&self, resource: &Resource, event: &Event<V>) {
        match event {
            Event::Added(new) => {
                if new.meta().is_deleting() || !self.owners_are_known(&**new) {
                    self.add(resource, &new.key, Level::Update);
                }
            }
            Event::Changed { old, new } => {
                let (before, now) = (old.view.meta(), new.view.meta());
                let began = now.is_deleting() && !before.is_deleting();
                let finalizers = now.is_deleting() && now.finalizers != before.finalizers;
                let references = now.owner_references != before.owner_references;
                if began || finalizers || (references && !self.owners_are_known(&**new)) {
                    self.add(resource, &new.key, Level::Delete);
                }
                if references {
                    // An owner that waited for this one may wait no longer.
                    self.ask_owners(&old.key, before);
                }
            }
            Event::Deleted(old) => {
                for (of, dependent) in self.dependents(&old.key, &old.uid) {
                    self.add(&of, dependent.key(), Level::Delete);
                }
                self.ask_owners(&old.key, old.view.meta());
            }
        }
    }

    /// Has those owners looked at that wait for their dependents.
    fn ask_owners(&self, key: &ObjectKey, meta: &Meta) {
        for reference in &meta.owner_references {
            if let Some((monitor, owner)) = self.known_owner(key, reference)
                && owner.meta().waits_for_dependents()
            {
                self.add(&monitor.served.resource, owner.key(), Level::Delete);
            }
        }
    }

    /// Whether all owners are in the copies, and none of them is on its way out.
    fn owners_are_known(&self, object: &dyn Known) -> bool {
        object.meta().owner_references.iter().all(|reference| {
            self.known_owner(object.key(), reference)
                .is_some_and(|(_, owner)| !owner.meta().waits_for_dependents())
        })
    }

    fn monitor_of(&self, reference: &OwnerRef) -> Option<Arc<Monitor>> {
        let group = reference.api_version.split_once('/').map_or("", |(group, _)| group);
        self.monitors.read().by_kind.get(&(group.to_owned(), reference.kind.to_string())).cloned()
    }

    fn known_owner(&self, of: &ObjectKey, reference: &OwnerRef) -> Option<(Arc<Monitor>, Arc<dyn Known>)> {
        let monitor = self.monitor_of(reference)?;
        let namespace = if monitor.served.namespaced { &*of.namespace } else { "" };
        let owner = monitor.copies.get(&ObjectKey::new(&of.tenant, namespace, &reference.name))?;
        (*owner.uid() == *reference.uid).then_some((monitor, owner))
    }

    /// All objects that refer to an owner, of all kinds, in the owner's reach.
    fn dependents(&self, owner: &ObjectKey, uid: &str) -> Vec<(Resource, Arc<dyn Known>)> {
        let mut found = Vec::new();
        for (resource, monitor) in &self.monitors.read().by_resource {
            for object in monitor.copies.owned_by(&owner.tenant, uid) {
                // A namespaced owner owns nothing outside its namespace, whatever references say.
                if owner.namespace.is_empty() || owner.namespace == object.key().namespace {
                    found.push((resource.clone(), object));
                }
            }
        }
        found
    }

    async fn look(&self, key: &ObjectKey) -> Result<Next, SyncError> {
        let Some((plural, group, key)) = split_key(key) else { return Ok(Next::Wait) };
        let monitor = {
            let monitors = self.monitors.read();
            let settled = monitors.complete && monitors.by_resource.values().all(|m| m.is_settled());
            if !settled {
                return Err(SyncError::NotYet("not all kinds are known yet".to_owned()));
            }
            let of = |m: &&Arc<Monitor>| {
                *m.served.resource.plural == *plural && *m.served.resource.group == *group
            };
            monitors.by_resource.values().find(of).cloned()
        };
        let Some(monitor) = monitor else { return Ok(Next::Wait) };
        let Some(object) = monitor.copies.get(&key) else { return Ok(Next::Wait) };
        let resource = &monitor.served.resource;
        let at = resource.at(&key.tenant).namespace(&key.namespace).name(&key.name);
        let dependents = self.dependents(&key, object.uid());
        if let Some(plan) = plan::leaving(object.meta(), &as_seen(object.uid(), &dependents)) {
            return self.let_leave(&*object, &at, &dependents, plan).await;
        }
        if object.meta().owner_references.is_empty() || self.owners_are_known(&*object) {
            return Ok(Next::Wait);
        }
        // The copies say that an owner is missing: now it must be known for certain.
        let Some(live) = self.live(&at).await? else { return Ok(Next::Wait) };
        if *live.uid != *object.uid() || live.meta.is_deleting() {
            // News of it are on their way.
            return Ok(Next::Wait);
        }
        let meta = &live.meta;
        let mut owners = Vec::with_capacity(meta.owner_references.len());
        for reference in &meta.owner_references {
            let Some(owner) = self.owner(&key, reference).await? else { return Ok(Next::Wait) };
            owners.push(owner);
        }
        let plan = plan::staying(meta, &owners, &as_seen(object.uid(), &dependents));
        self.act(&at, &live, plan).await?;
        Ok(Next::Wait)
    }

    /// What an owner's state is now; `None` for a reference that can never be right: from a cluster-scoped object to one in a
    /// namespace.
    async fn owner(&self, of: &ObjectKey, reference: &OwnerRef) -> Result<Option<Owner>, SyncError> {
        let monitor = self.monitor_of(reference).ok_or_else(|| {
            SyncError::NotYet(format!(
                "the kind {} of {} is not served",
                reference.kind, reference.api_version
            ))
        })?;
        if monitor.served.namespaced && of.namespace.is_empty() {
            tracing::debug!(object = %of, owner = %reference.name, "a cluster-scoped object refers to one in a namespace");
            return Ok(None);
        }
        let namespace = if monitor.served.namespaced { &*of.namespace } else { "" };
        let at = monitor.served.resource.at(&of.tenant).namespace(namespace).name(&reference.name);
        Ok(Some(match self.live(&at).await? {
            Some(owner) if *owner.uid != *reference.uid => Owner::Absent,
            Some(owner) if owner.meta.waits_for_dependents() => Owner::Waiting,
            Some(_) => Owner::Solid,
            None => Owner::Absent,
        }))
    }

    /// Does what is to be done about an object that is not on its way out.
    async fn act(&self, at: &ObjectPath, live: &Live, plan: Plan) -> Result<(), SyncError> {
        match plan {
            Plan::Refer(references) => {
                self.refer(at, live, &references).await?;
            }
            Plan::Delete(propagation, unblocked) => {
                let mut version = live.resource_version.clone();
                if let Some(references) = unblocked {
                    version = self.refer(at, live, &references).await?;
                }
                let params = DeleteParams::uid(&live.uid).resource_version(&version).propagation(propagation);
                match self.client.remove(at, &params).await {
                    Ok(_) => tracing::debug!(object = %at, ?propagation, "collected"),
                    Err(e) if e.is_not_found() => {}
                    Err(e) => return Err(e.into()),
                }
            }
            Plan::Keep | Plan::Wait | Plan::Release(_) | Plan::Orphan => {}
        }
        Ok(())
    }

    /// Does what is to be done about an object that is on its way out.
    async fn let_leave(
        &self,
        object: &dyn Known,
        at: &ObjectPath,
        dependents: &[(Resource, Arc<dyn Known>)],
        plan: Plan,
    ) -> Result<Next, SyncError> {
        if matches!(plan, Plan::Release(_) | Plan::Orphan) && self.has_unseen(object).await? {
            return Ok(Next::After(UNSEEN_RETRY));
        }
        match plan {
            Plan::Wait => {
                for (resource, dependent) in dependents {
                    if !dependent.meta().is_deleting() {
                        self.add(resource, dependent.key(), Level::Delete);
                    }
                }
            }
            // Those that do not block go too, in the background: the event of the owner's end has them looked at.
            Plan::Release(finalizer) => self.release(at, object.uid(), finalizer).await?,
            Plan::Orphan => {
                self.orphan(object.uid(), dependents).await?;
                self.release(at, object.uid(), ORPHAN).await?;
            }
            Plan::Keep | Plan::Refer(_) | Plan::Delete(..) => {}
        }
        Ok(Next::Wait)
    }

    /// Whether an owner has dependents that the copies do not show yet. A copy that has come as far as the owner's deletion
    /// shows all that were made before; the others, most of which are merely quiet, are not trusted but asked.
    async fn has_unseen(&self, owner: &dyn Known) -> Result<bool, SyncError> {
        let behind: Vec<Arc<Monitor>> = {
            let monitors = self.monitors.read();
            let in_reach = |m: &&Arc<Monitor>| owner.key().namespace.is_empty() || m.served.namespaced;
            let behind = |m: &&Arc<Monitor>| m.copies.position() < owner.revision();
            monitors.by_resource.values().filter(in_reach).filter(behind).cloned().collect()
        };
        let each: Vec<BoxFuture<'_, Result<bool, Error>>> = behind
            .iter()
            .map(|monitor| -> BoxFuture<'_, _> { Box::pin(self.has_unseen_in(monitor, owner)) })
            .collect();
        let mut answers = futures::stream::iter(each).buffer_unordered(KINDS_AT_ONCE);
        while let Some(answer) = answers.next().await {
            if answer? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn has_unseen_in(&self, monitor: &Monitor, owner: &dyn Known) -> Result<bool, Error> {
        #[derive(Deserialize)]
        struct Found {
            metadata: FoundMeta,
        }
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        struct FoundMeta {
            uid: Box<str>,
            owner_references: Vec<OwnerRef>,
        }
        let at = monitor.served.resource.at(&owner.key().tenant).namespace(&owner.key().namespace);
        let mut params = ListParams { limit: PAGE, ..ListParams::default() };
        let known = monitor.copies.owned_by(&owner.key().tenant, owner.uid());
        let known: FxHashSet<&str> = known.iter().map(|k| k.uid()).collect();
        loop {
            let bytes = match self.client.list_bytes(&at, &params, true).await {
                Ok(bytes) => bytes,
                // The kind has gone, and its objects with it.
                Err(e) if e.is_not_found() => return Ok(false),
                Err(e) => return Err(e),
            };
            let page: List<Found> = serde_json::from_slice(&bytes)
                .map_err(|e| Error::Answer(format!("the metadata of all at {at}: {e}")))?;
            let unseen = |found: &Found| {
                found.metadata.owner_references.iter().any(|r| *r.uid == *owner.uid())
                    && !known.contains(&*found.metadata.uid)
            };
            if page.items.iter().any(unseen) {
                return Ok(true);
            }
            params.continue_token = page.metadata.continue_token;
            if params.continue_token.is_empty() {
                return Ok(false);
            }
        }
    }

    /// Writes an object's owner references, at the version that was read; returns the new version.
    async fn refer(&self, at: &ObjectPath, live: &Live, references: &[OwnerRef]) -> Result<String, Error> {
        #[derive(Deserialize)]
        struct Written {
            metadata: WrittenMeta,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct WrittenMeta {
            resource_version: String,
        }
        let patch = json!({"metadata": {
            "uid": live.uid, "resourceVersion": live.resource_version, "ownerReferences": references,
        }});
        let written: Written = self.client.patch(at, &Patch::Merge(patch)).await?;
        Ok(written.metadata.resource_version)
    }

    /// Takes a finalizer off an object.
    async fn release(&self, at: &ObjectPath, uid: &str, finalizer: &str) -> Result<(), SyncError> {
        let Some(live) = self.live(at).await? else { return Ok(()) };
        if *live.uid != *uid || !live.meta.has_finalizer(finalizer) {
            return Ok(());
        }
        let left: Vec<_> = live.meta.finalizers.iter().filter(|f| ***f != *finalizer).collect();
        let patch = json!({"metadata": {
            "uid": live.uid, "resourceVersion": live.resource_version, "finalizers": left,
        }});
        match self.client.patch_bytes(at, &Patch::Merge(patch)).await {
            Ok(_) => Ok(()),
            Err(e) if e.is_not_found() => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Has one dependent let go of an owner.
    async fn let_go(&self, owner: &str, resource: &Resource, dependent: &dyn Known) -> Result<(), Error> {
        let key = dependent.key();
        let at = resource.at(&key.tenant).namespace(&key.namespace).name(&key.name);
        let Some(live) = self.live(&at).await? else { return Ok(()) };
        if *live.uid != *dependent.uid() {
            return Ok(());
        }
        let all = &live.meta.owner_references;
        let left: Vec<OwnerRef> = all.iter().filter(|r| *r.uid != *owner).cloned().collect();
        if left.len() == all.len() {
            return Ok(());
        }
        match self.refer(&at, &live, &left).await {
            Ok(_) => Ok(()),
            Err(e) if e.is_not_found() => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Has all dependents let go of an owner.
    async fn orphan(&self, owner: &str, dependents: &[(Resource, Arc<dyn Known>)]) -> Result<(), SyncError> {
        let each: Vec<BoxFuture<'_, Result<(), Error>>> = dependents
            .iter()
            .map(|(resource, dependent)| -> BoxFuture<'_, _> {
                Box::pin(self.let_go(owner, resource, &**dependent))
            })
            .collect();
        let mut results = futures::stream::iter(each).buffer_unordered(ORPHANS_AT_ONCE);
        while let Some(result) = results.next().await {
            result?;
        }
        Ok(())
    }
}

fn as_seen(owner: &str, dependents: &[(Resource, Arc<dyn Known>)]) -> Vec<Dependent> {
    let blocks = |m: &Meta| {
        m.owner_references.iter().any(|r| *r.uid == *owner && r.block_owner_deletion == Some(true))
    };
    dependents
        .iter()
        .map(|(_, d)| Dependent { blocks: blocks(d.meta()), waits: d.meta().waits_for_dependents() })
        .collect()
}

impl Controller for GarbageCollector {
    fn name(&self) -> &'static str {
        NAME
    }

    fn sync<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Next, SyncError>> {
        Box::pin(self.look(key))
    }
}
