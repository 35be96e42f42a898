//! CronJob.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use skep_client::record::{EventType, Regarding};
use skep_client::{DeleteParams, Event, Informer, Level, Object, ObjectKey, Patch, Propagation};
use skep_plan::cronjob::{self, CronJob, NewJob, Plan, Reference};
use skep_plan::job::Job;
use skep_plan::{Meta, OwnerKind};

use super::{BY_CONTROLLER, owner_key, regarding, tell};
use crate::{Controller, Kind, Next, Setup, SyncError, Writes};

const NAME: &str = "cronjob";

struct Loop {
    crons: Informer<CronJob>,
    jobs: Informer<Job>,
    writes: Writes,
}

/// The controller of CronJobs.
pub(super) fn new(setup: &mut Setup) -> Arc<dyn Controller> {
    let crons = setup.informer::<CronJob>();
    let jobs = setup.informer::<Job>();
    let enqueue = setup.enqueue(NAME);
    setup.resync(NAME, &crons);
    let on_cron = enqueue.clone();
    crons.on_event(move |event| on_cron.event(event));
    jobs.on_event(move |event| {
        let job = event.object();
        let Some(owner) = owner_key(&job.key, job.meta.controller.as_ref(), OwnerKind::CronJob) else {
            return;
        };
        let news = match event {
            Event::Changed { old, new } => old.status.is_finished() != new.status.is_finished(),
            Event::Added(_) | Event::Deleted(_) => true,
        };
        if news {
            enqueue.add(&owner, Level::Update);
        }
    });
    Arc::new(Loop { crons, jobs, writes: setup.writes("cronjob-controller") })
}

impl Loop {
    async fn look(&self, key: &ObjectKey) -> Result<Next, SyncError> {
        let Some(object) = self.crons.get(key) else { return Ok(Next::Wait) };
        let cron: &CronJob = &object.view;
        let jobs = self.jobs.by_index(BY_CONTROLLER, &key.tenant, &object.uid);
        let views: Vec<&Job> = jobs.iter().map(|j| &j.view).collect();
        let mut plan = cronjob::plan(Timestamp::now(), cron, &views);
        let about = regarding(&object, OwnerKind::CronJob);
        plan.events.iter().for_each(|event| tell(&self.writes, &about, event));
        for job in &plan.delete {
            let name = &job.meta.name;
            if let Some(job) = jobs.iter().find(|j| j.meta.uid == job.meta.uid) {
                let params = DeleteParams::default().propagation(Propagation::Background);
                if let Err(error) = self.jobs.remove(job, &params).await {
                    let message = format!("Deleted job: {error}");
                    self.writes.recorder.event(&about, EventType::Warning, "FailedDelete", message);
                    return Err(error.into());
                }
                let message = format!("Deleted job {name}");
                self.writes.recorder.event(&about, EventType::Normal, "SuccessfulDelete", message);
            }
        }
        let mut failed = None;
        if let Some(new) = plan.create.take() {
            failed = self.create(&object, &about, new, &mut plan).await.err();
        }
        // What was deleted and created is noted also when the rest failed.
        if plan.status != cron.status {
            let at = CronJob::RESOURCE.at(&key.tenant).namespace(&key.namespace).name(&key.name);
            let patch = Patch::Merge(plan.status.patch(&cron.meta));
            match self.crons.patch(&at.subresource("status"), &patch).await {
                Err(e) if e.is_not_found() => {}
                result => drop(result?),
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(plan.requeue_after.map_or(Next::Wait, Next::After)),
        }
    }

    async fn create(
        &self,
        object: &Object<CronJob>,
        about: &Regarding,
        new: NewJob,
        plan: &mut Plan<'_>,
    ) -> Result<(), SyncError> {
        #[derive(serde::Deserialize)]
        struct Made {
            metadata: Meta,
        }
        let key = &object.key;
        let at = Job::RESOURCE.at(&key.tenant).namespace(&key.namespace);
        let made: Made = match self.writes.client.create_bytes(&at, Bytes::from(new.body)).await {
            Ok(answer) => {
                self.jobs.record(&key.tenant, &answer)?;
                let message = format!("Created job {}", new.name);
                self.writes.recorder.event(about, EventType::Normal, "SuccessfulCreate", message);
                serde_json::from_slice(&answer).map_err(|e| skep_client::Error::Answer(e.to_string()))?
            }
            Err(error) if error.is_already_exists() => {
                let existing: Made = self.writes.client.read(&at.name(&new.name)).await?;
                if !object.meta.controls(existing.metadata.controller.as_ref()) {
                    // Somebody else's: this time has no Job.
                    return Ok(());
                }
                existing
            }
            Err(error) => {
                let message = format!("Error creating job: {error}");
                self.writes.recorder.event(about, EventType::Warning, "FailedCreate", message);
                return Err(error.into());
            }
        };
        let resource_version = made.metadata.resource_version.to_string();
        plan.created(new.scheduled, Reference { name: new.name, uid: made.metadata.uid, resource_version });
        Ok(())
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
