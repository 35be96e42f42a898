//! Jobs that have ended are deleted after their time to live.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use skep_client::{DeleteParams, Informer, ObjectKey, Propagation, Resource};

use crate::views::{Condition, or_default};
use crate::{Controller, Kind, Next, Setup, SyncError};

const NAME: &str = "ttl-after-finished-controller";

/// A Job, as far as its end goes.
#[derive(Debug, Deserialize)]
struct Job {
    #[serde(default)]
    metadata: Meta,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Meta {
    deletion_timestamp: Option<Timestamp>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    ttl_seconds_after_finished: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    #[serde(deserialize_with = "or_default")]
    conditions: Box<[Condition]>,
}

impl Kind for Job {
    const RESOURCE: Resource = Resource::of::<k8s_openapi::api::batch::v1::Job>();
}

impl Job {
    /// When it is to go; `None` when it is not known to have to.
    fn expires(&self) -> Option<Timestamp> {
        if self.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let ttl = self.spec.ttl_seconds_after_finished?;
        let end = self
            .status
            .conditions
            .iter()
            .find(|c| matches!(&*c.r#type, "Complete" | "Failed") && c.status == "True")?;
        end.last_transition_time?.checked_add(SignedDuration::from_secs(ttl)).ok()
    }
}

struct Ttl {
    jobs: Informer<Job>,
    client: skep_client::Client,
}

/// Makes the controller.
pub(crate) fn new(setup: &mut Setup) -> Arc<dyn Controller> {
    let jobs = setup.informer::<Job>();
    let enqueue = setup.enqueue(NAME);
    jobs.on_event(move |event| {
        if !matches!(event, skep_client::Event::Deleted(_)) && event.object().expires().is_some() {
            enqueue.event(event);
        }
    });
    Arc::new(Ttl { jobs, client: setup.client().clone() })
}

impl Ttl {
    async fn look(&self, key: &ObjectKey) -> Result<Next, SyncError> {
        let Some(job) = self.jobs.get(key) else { return Ok(Next::Wait) };
        let Some(expires) = job.expires() else { return Ok(Next::Wait) };
        let now = Timestamp::now();
        if expires > now {
            return Ok(Next::After(Duration::try_from(expires.duration_since(now)).unwrap_or_default()));
        }
        // The time to live may have been raised a moment ago.
        let at = Job::RESOURCE.at(&key.tenant).namespace(&key.namespace).name(&key.name);
        let latest: Job = match self.client.read(&at).await {
            Ok(latest) => latest,
            Err(e) if e.is_not_found() => return Ok(Next::Wait),
            Err(e) => return Err(e.into()),
        };
        if latest.expires().is_some_and(|at| at <= now) {
            let params = DeleteParams::default().propagation(Propagation::Foreground);
            self.jobs.remove(&job, &params).await?;
        }
        Ok(Next::Wait)
    }
}

impl Controller for Ttl {
    fn name(&self) -> &'static str {
        NAME
    }

    fn sync<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Next, SyncError>> {
        Box::pin(self.look(key))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_ended_jobs_with_a_time_to_live_expire() {
        let job = |ttl: Option<i64>, kind: &str, status: &str| -> Job {
            serde_json::from_value(json!({
                "spec": {"ttlSecondsAfterFinished": ttl},
                "status": {"conditions": [{"type": kind, "status": status, "lastTransitionTime": "1970-01-01T00:01:40Z"}]},
            }))
            .unwrap()
        };
        let at = |s| Some(Timestamp::from_second(s).unwrap());
        assert_eq!(job(Some(20), "Complete", "True").expires(), at(120));
        assert_eq!(job(Some(0), "Failed", "True").expires(), at(100));
        assert_eq!(job(None, "Complete", "True").expires(), None);
        assert_eq!(job(Some(1), "Complete", "False").expires(), None);
        assert_eq!(job(Some(1), "Suspended", "True").expires(), None);
    }
}
