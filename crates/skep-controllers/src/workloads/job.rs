//! Job.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use serde_json::json;
use skep_client::{Error, Event, Informer, Object, ObjectKey, Patch};
use skep_plan::job::{self, Backoff, Job, Plan, PodMaker};
use skep_plan::pod::JOB_TRACKING_FINALIZER;
use skep_plan::{OwnerKind, Pod};

use super::pods::{Pods, some_at_once};
use super::{BY_NAMESPACE, regarding, tell};
use crate::views::Pod as HeldPod;
use crate::{Controller, Kind, Next, Setup, SyncError, Writes};

const NAME: &str = "job";

/// The most steps of a Job in one look: from pods that ended to the end of the Job are five. More would be a defect, and
/// the next look goes on.
const MAX_STEPS: usize = 16;

struct Loop {
    jobs: Informer<Job>,
    pods: Pods,
    writes: Writes,
    /// By uid. Lost with the process, which costs a shorter wait.
    backoffs: Arc<Mutex<FxHashMap<Box<str>, Backoff>>>,
}

/// The controller of Jobs.
pub(super) fn new(setup: &mut Setup) -> Arc<dyn Controller> {
    let jobs = setup.informer::<Job>();
    let pods = Pods::new(setup.informer::<HeldPod>(), setup.client());
    let enqueue = setup.enqueue(NAME);
    setup.resync(NAME, &jobs);
    let backoffs: Arc<Mutex<FxHashMap<Box<str>, Backoff>>> = Arc::default();
    let (on_job, forget) = (enqueue.clone(), backoffs.clone());
    jobs.on_event(move |event| {
        if let Event::Deleted(job) = event {
            forget.lock().remove(&job.uid);
        }
        on_job.event(event);
    });
    let known = jobs.clone();
    pods.follow(OwnerKind::Job, &enqueue, move |pod, labels| {
        let jobs = known.by_index(BY_NAMESPACE, &pod.tenant, &pod.namespace);
        let takes = |j: &&Arc<Object<Job>>| !j.status.is_finished() && j.selector.matches(labels);
        jobs.iter().filter(takes).map(|j| j.key.clone()).collect()
    });
    Arc::new(Loop { jobs, pods, writes: setup.writes("job-controller"), backoffs })
}

impl Loop {
    async fn look(&self, key: &ObjectKey) -> Result<Next, SyncError> {
        let mut failed: Option<SyncError> = None;
        let mut again = None;
        for _ in 0..MAX_STEPS {
            let Some(object) = self.jobs.get(key) else {
                self.release_orphans(key).await?;
                return Ok(Next::Wait);
            };
            let known = self.backoffs.lock().get(&object.uid).copied().unwrap_or_default();
            let pods = self.pods.of(key, &object.uid);
            let views: Vec<&Pod> = pods.iter().map(|p| &p.plan).collect();
            let plan = job::plan(Timestamp::now(), &object.view, &views, known);
            again = plan.requeue_after;
            if plan.status.is_none() {
                let about = regarding(&object, OwnerKind::Job);
                plan.events.iter().for_each(|event| tell(&self.writes, &about, event));
            }
            if failed.is_none() && plan.changes_pods() {
                // The status is planned anew from what came of it.
                failed = self.change_pods(&object, &plan).await.err();
                continue;
            }
            if plan.status.is_none() && plan.release_finalizers.is_empty() {
                break;
            }
            self.write_status(&object, &plan).await?;
            self.release_finalizers(key, &plan.release_finalizers).await?;
            if object.status.is_finished() {
                self.backoffs.lock().remove(&object.uid);
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(again.map_or(Next::Wait, Next::After)),
        }
    }

    async fn change_pods(&self, object: &Object<Job>, plan: &Plan<'_>) -> Result<(), SyncError> {
        let job = &object.view;
        let key = &object.key;
        let about = regarding(object, OwnerKind::Job);
        let finalizer = Some(JOB_TRACKING_FINALIZER);
        let claims = (plan.adopt.as_slice(), plan.release.as_slice());
        self.pods.claim(&self.writes, object, &job.meta, OwnerKind::Job, finalizer, claims).await?;
        let uncounted: Vec<&Pod> = plan.delete.iter().filter(|r| r.uncounted).map(|r| r.pod).collect();
        self.release_finalizers(key, &uncounted).await?;
        let delete: Vec<&Pod> = plan.delete.iter().map(|r| r.pod).collect();
        self.pods.delete_all(&self.writes, key, &about, &delete).await?;
        if !plan.create.is_empty() {
            let maker = PodMaker::new(job);
            let bodies = if job.is_indexed() {
                plan.create.iter().map(|new| Bytes::from(maker.body(*new))).collect()
            } else {
                vec![Bytes::from(maker.body(job::NewPod::default())); plan.create.len()]
            };
            self.pods.create_all(&self.writes, key, &about, bodies).await?;
        }
        Ok(())
    }

    async fn write_status(&self, object: &Object<Job>, plan: &Plan<'_>) -> Result<(), SyncError> {
        let Some(status) = &plan.status else { return Ok(()) };
        let key = &object.key;
        let at = Job::RESOURCE.at(&key.tenant).namespace(&key.namespace).name(&key.name);
        let patch = Patch::Merge(status.patch(&object.meta));
        match self.jobs.patch(&at.subresource("status"), &patch).await {
            Err(e) if e.is_not_found() => return Ok(()),
            result => drop(result?),
        }
        self.backoffs.lock().insert(object.uid.clone(), plan.backoff);
        let about = regarding(object, OwnerKind::Job);
        plan.events.iter().for_each(|event| tell(&self.writes, &about, event));
        Ok(())
    }

    async fn release_finalizers(&self, key: &ObjectKey, pods: &[&Pod]) -> Result<(), Error> {
        let release = |pod: &Pod| {
            let meta =
                json!({ "$deleteFromPrimitiveList/finalizers": [JOB_TRACKING_FINALIZER], "uid": pod.uid });
            let patch = json!({ "metadata": meta });
            let name = pod.name.clone();
            let pod = Pod { name, uid: pod.uid.clone(), ..Pod::default() };
            async move { self.pods.patch(key, &pod, patch).await }
        };
        let tracked = pods.iter().filter(|p| p.more().tracked);
        some_at_once(tracked.map(|p| release(p)).collect()).await.into_iter().collect()
    }

    /// The Job is gone: nobody waits to count its pods.
    async fn release_orphans(&self, key: &ObjectKey) -> Result<(), SyncError> {
        let mut left = self.pods.informer.of_tenant(&key.tenant);
        left.retain(|p| {
            let owner = p.plan.controller.as_ref();
            p.key.namespace == key.namespace
                && owner.is_some_and(|c| c.kind == OwnerKind::Job && *c.name == *key.name)
                && p.plan.more().tracked
        });
        let views: Vec<&Pod> = left.iter().map(|p| &p.plan).collect();
        Ok(self.release_finalizers(key, &views).await?)
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
