//! Takes back what pods were told about their disruption when nothing came of it: somebody announced that a pod would be
//! deleted (an eviction, a preemption), and then did not.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use skep_client::{Event, Informer, Level, Object, ObjectKey, Patch};

use crate::views::Pod;
use crate::{Controller, Kind, Next, Setup, SyncError};

/// As upstream's part of its disruption controller.
const NAME: &str = "stale-disruption";
const CONDITION: &str = "DisruptionTarget";
/// What the node's agent says of pods that it ends itself, which may take as long as it takes.
const BY_KUBELET: &str = "TerminationByKubelet";
/// How long the deletion may take to follow, as upstream.
const PATIENCE: SignedDuration = SignedDuration::from_mins(2);

struct StaleDisruption {
    pods: Informer<Pod>,
}

/// Makes the controller.
pub(crate) fn new(setup: &mut Setup) -> Arc<dyn Controller> {
    let pods = setup.informer::<Pod>();
    let enqueue = setup.enqueue(NAME);
    pods.on_event(move |event| {
        let (Event::Added(pod) | Event::Changed { new: pod, .. }) = event else { return };
        if announced(pod).is_some() {
            enqueue.add(&pod.key, Level::Update);
        }
    });
    Arc::new(StaleDisruption { pods })
}

/// Since when a pod that is as alive as ever is said to be about to be deleted.
fn announced(pod: &Pod) -> Option<Timestamp> {
    let condition = pod.disruption.as_ref().filter(|c| c.status == "True" && c.reason != BY_KUBELET)?;
    let lives = !pod.is_deleting() && !pod.is_over();
    lives.then(|| condition.last_transition_time.unwrap_or(Timestamp::MIN))
}

impl StaleDisruption {
    async fn look(&self, key: &ObjectKey) -> Result<Next, SyncError> {
        let Some(pod) = self.pods.get(key) else { return Ok(Next::Wait) };
        let now = Timestamp::now();
        let Some(since) = announced(&pod) else { return Ok(Next::Wait) };
        if let Some(wait) = left(since, now) {
            return Ok(Next::After(wait));
        }
        self.take_back(&pod, now).await
    }

    async fn take_back(&self, pod: &Object<Pod>, now: Timestamp) -> Result<Next, SyncError> {
        let key = &pod.key;
        let at = <Pod as Kind>::RESOURCE.at(&key.tenant).namespace(&key.namespace).name(&key.name);
        let condition = json!({"type": CONDITION, "status": "False", "reason": null, "message": null,
            "lastTransitionTime": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()});
        // On condition: the deletion may be on its way.
        let patch = json!({"metadata": {"uid": &*pod.uid, "resourceVersion": pod.revision.to_string()},
            "status": {"conditions": [condition]}});
        match self.pods.patch(&at.subresource("status"), &Patch::Strategic(patch)).await {
            Err(error) if error.is_not_found() => {}
            result => drop(result?),
        }
        Ok(Next::Wait)
    }
}

/// How long there is still to wait.
fn left(since: Timestamp, now: Timestamp) -> Option<Duration> {
    let passed = now.duration_since(since);
    Duration::try_from(PATIENCE.saturating_sub(passed)).ok().filter(|d| !d.is_zero())
}

impl Controller for StaleDisruption {
    fn name(&self) -> &'static str {
        NAME
    }

    fn sync<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Next, SyncError>> {
        Box::pin(self.look(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(phase: &str, deleting: bool, status: &str, reason: &str) -> Pod {
        let mut object = json!({"status": {"phase": phase, "conditions": [{"type": CONDITION, "status": status,
            "reason": reason, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        if deleting {
            object["metadata"] = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        }
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn only_the_living_who_were_told_so_by_others() {
        for (phase, deleting, status, reason, stale) in [
            ("Running", false, "True", "EvictionByEvictionAPI", true),
            ("Pending", false, "True", "PreemptionByScheduler", true),
            ("Running", true, "True", "EvictionByEvictionAPI", false),
            ("Failed", false, "True", "EvictionByEvictionAPI", false),
            ("Running", false, "False", "", false),
            ("Running", false, "True", BY_KUBELET, false),
        ] {
            let is = announced(&pod(phase, deleting, status, reason)).is_some();
            assert_eq!(is, stale, "{phase} {deleting} {status} {reason}");
        }
    }

    #[test]
    fn it_waits_two_minutes() {
        let since: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(left(since, since), Some(Duration::from_secs(120)));
        assert_eq!(left(since, since + SignedDuration::from_secs(119)), Some(Duration::from_secs(1)));
        assert_eq!(left(since, since + SignedDuration::from_secs(120)), None);
        assert_eq!(left(Timestamp::MIN, since), None);
    }
}
