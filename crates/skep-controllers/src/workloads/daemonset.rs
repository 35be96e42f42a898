//! DaemonSet.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use skep_client::{Event, Informer, Level, Object, ObjectKey};
use skep_plan::daemonset::{self, DaemonSet, Node, Plan, PodMaker, Status};
use skep_plan::revision::Revision;
use skep_plan::{OwnerKind, Pod};

use super::pace::Pace;
use super::pods::Pods;
use super::revisions::{Revisions, Written, taken};
use super::{BY_NAMESPACE, regarding, status_patch, tell};
use crate::views::Pod as HeldPod;
use crate::{Controller, Kind, Next, Setup, SyncError, Writes};

const NAME: &str = "daemonset";

/// How long the failed pod of a node waits for the first replacement; twice as long each time.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest such wait.
const LONGEST_RETRY: Duration = Duration::from_secs(15 * 60);
/// After so long without a failure all is forgiven.
const FORGIVEN_AFTER: Duration = Duration::from_secs(30 * 60);

/// Failed pods by set and node. Lost with the process, which costs a shorter wait.
type Failures = FxHashMap<(Box<str>, Box<str>), (Instant, Duration)>;

struct Loop {
    sets: Informer<DaemonSet>,
    pods: Pods,
    nodes: Informer<Node>,
    revisions: Revisions,
    writes: Writes,
    pace: Pace,
    failures: Mutex<Failures>,
}

/// The controller of DaemonSets.
pub(super) fn new(setup: &mut Setup) -> Arc<dyn Controller> {
    let sets = setup.informer::<DaemonSet>();
    let pods = Pods::new(setup.informer::<HeldPod>(), setup.client());
    let nodes = setup.informer::<Node>();
    let revisions = Revisions::new(setup, OwnerKind::DaemonSet);
    let enqueue = setup.enqueue(NAME);
    setup.resync(NAME, &sets);
    let on_set = enqueue.clone();
    sets.on_event(move |event| on_set.event(event));
    let known = sets.clone();
    pods.follow(OwnerKind::DaemonSet, &enqueue, move |pod, labels| {
        let sets = known.by_index(BY_NAMESPACE, &pod.tenant, &pod.namespace);
        sets.iter().filter(|s| s.selector.matches(labels)).map(|s| s.key.clone()).collect()
    });
    revisions.follow(&enqueue);
    let known = sets.clone();
    nodes.on_event(move |event| {
        let news = match event {
            Event::Changed { old, new } => old.labels != new.labels || old.taints != new.taints,
            Event::Added(_) | Event::Deleted(_) => true,
        };
        if news {
            for set in known.of_tenant(&event.object().key.tenant) {
                enqueue.add(&set.key, Level::Update);
            }
        }
    });
    let writes = setup.writes("daemonset-controller");
    Arc::new(Loop { sets, pods, nodes, revisions, writes, pace: Pace::default(), failures: Mutex::default() })
}

impl Loop {
    async fn look(&self, key: &ObjectKey) -> Result<Next, SyncError> {
        let Some(object) = self.sets.get(key) else { return Ok(Next::Wait) };
        let set: &DaemonSet = &object.view;
        let about = regarding(&object, OwnerKind::DaemonSet);
        let nodes = self.nodes.of_tenant(&key.tenant);
        let pods = self.pods.of(key, &object.uid);
        let revisions = self.revisions.of(key, &object.uid);
        let node_views: Vec<&Node> = nodes.iter().map(|n| &n.view).collect();
        let pod_views: Vec<&Pod> = pods.iter().map(|p| &p.plan).collect();
        let revision_views: Vec<&Revision> = revisions.iter().map(|r| &r.view).collect();
        let mut may_retry = |node: &str| self.may_retry(&object.uid, node);
        let plan =
            daemonset::plan(Timestamp::now(), set, &node_views, &pod_views, &revision_views, &mut may_retry);
        plan.events.iter().for_each(|event| tell(&self.writes, &about, event));
        let result = self.apply(&object, &plan).await;
        let mut again = plan.requeue_after;
        if let Some(status) = &plan.status {
            let settled = status.number_ready == status.desired_number_scheduled
                || status.observed_generation != set.status.observed_generation;
            match self.pace.may_write(&object.uid, status.desired_number_scheduled, settled) {
                Ok(()) => self.write_status(&object, status).await?,
                Err(wait) => again = Some(again.map_or(wait, |known| known.min(wait))),
            }
        }
        result?;
        self.revisions.remove(&revisions, &plan.delete_revisions).await?;
        Ok(again.map_or(Next::Wait, Next::After))
    }

    /// Whether the failed pod of a node may be replaced now; it counts as done then.
    fn may_retry(&self, uid: &str, node: &str) -> Result<(), Duration> {
        let now = Instant::now();
        let mut failures = self.failures.lock();
        failures.retain(|_, (last, _)| now.duration_since(*last) < FORGIVEN_AFTER);
        let key = (uid.into(), node.into());
        let next = match failures.get(&key) {
            Some((last, wait)) => {
                let passed = now.duration_since(*last);
                if passed < *wait {
                    return Err(*wait - passed);
                }
                (*wait * 2).min(LONGEST_RETRY)
            }
            None => FIRST_RETRY,
        };
        failures.insert(key, (now, next));
        Ok(())
    }

    async fn apply(&self, object: &Object<DaemonSet>, plan: &Plan<'_>) -> Result<(), SyncError> {
        let set = &object.view;
        let key = &object.key;
        let about = regarding(object, OwnerKind::DaemonSet);
        self.revisions.adopt(&self.writes, object, &set.meta, &plan.adopt_revisions).await?;
        let claims = (plan.adopt.as_slice(), plan.release.as_slice());
        self.pods.claim(&self.writes, object, &set.meta, OwnerKind::DaemonSet, None, claims).await?;
        match self.revisions.write(&self.writes, key, plan.newest.as_ref()).await? {
            Written::Done => {}
            Written::Unseen => return Err(taken(key)),
            Written::Taken => {
                self.write_status(object, &daemonset::revision_taken(set)).await?;
                return Err(taken(key));
            }
        }
        if !plan.create.is_empty() {
            let maker = PodMaker::new(set, &plan.hash);
            let bodies = plan.create.iter().map(|node| Bytes::from(maker.body(node))).collect();
            self.pods.create_all(&self.writes, key, &about, bodies).await?;
        }
        Ok(self.pods.delete_all(&self.writes, key, &about, &plan.delete).await?)
    }

    async fn write_status(&self, object: &Object<DaemonSet>, status: &Status) -> Result<(), SyncError> {
        let key = &object.key;
        let at = DaemonSet::RESOURCE.at(&key.tenant).namespace(&key.namespace).name(&key.name);
        let patch = status_patch(&object.meta.uid, status.patch());
        match self.sets.patch(&at.subresource("status"), &patch).await {
            Err(error) if error.is_not_found() => Ok(()),
            result => Ok(result.map(drop)?),
        }
    }
}

impl Controller for Loop {
    fn name(&self) -> &'static str {
        NAME
    }

    fn sync<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Next, SyncError>> {
        self.look(key).boxed()
    }
}
