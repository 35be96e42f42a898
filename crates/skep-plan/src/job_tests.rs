use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::pod::JOB_TRACKING_FINALIZER;

fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

fn job(spec: Value) -> Job {
    let mut spec = spec;
    spec["selector"] = json!({"matchLabels": {"job": "j"}});
    if spec.get("template").is_none() {
        spec["template"] = json!({"metadata": {"labels": {"job": "j"}}, "spec": {"containers": [{"name": "c"}], "restartPolicy": "Never"}});
    }
    serde_json::from_value(json!({
        "metadata": {"name": "j", "namespace": "ns", "uid": "job", "resourceVersion": "1", "generation": 1}, "spec": spec,
    }))
    .unwrap()
}

/// A Job, its pods, and what its controller remembers. Pods are JSON, as the API server has them.
struct World {
    now: Timestamp,
    job: Job,
    pods: Vec<Value>,
    backoff: Backoff,
    made: usize,
    events: Vec<&'static str>,
}

impl World {
    fn new(job: Job) -> World {
        World { now: now(), job, pods: Vec::new(), backoff: Backoff::default(), made: 0, events: Vec::new() }
    }

    fn views(&self) -> Vec<Pod> {
        self.pods.iter().map(|p| serde_json::from_value(p.clone()).unwrap()).collect()
    }

    /// One step. `fail`: which of the three kinds of writes fails.
    fn step(&mut self, fail: Option<u8>) -> bool {
        let views = self.views();
        let plan = plan(self.now, &self.job, &views.iter().collect::<Vec<_>>(), self.backoff);
        if plan.is_empty() {
            return false;
        }
        let stamp = Time::of(self.now);
        if plan.changes_pods() {
            if fail == Some(0) {
                return true;
            }
            let maker = PodMaker::new(&self.job);
            for new in &plan.create {
                let mut pod: Value = serde_json::from_str(&maker.body(*new)).unwrap();
                let name = format!("{}{}", pod["metadata"]["generateName"].as_str().unwrap(), self.made);
                pod["metadata"]["name"] = json!(name);
                pod["metadata"]["uid"] = json!(format!("u{}", self.made));
                pod["metadata"]["creationTimestamp"] = json!(stamp);
                pod["status"] = json!({"phase": "Pending"});
                self.made += 1;
                self.pods.push(pod);
            }
            for removal in &plan.delete {
                let pod = self.pods.iter_mut().find(|p| p["metadata"]["name"] == *removal.pod.name).unwrap();
                if removal.uncounted {
                    pod["metadata"]["finalizers"] = json!([]);
                }
                pod["metadata"]["deletionTimestamp"] = json!(stamp);
            }
            return true;
        }
        if let Some(status) = &plan.status {
            if fail == Some(1) {
                return true;
            }
            // Through its own text, as the next controller will read it.
            self.job.status =
                serde_json::from_value(merge_nulls(status.patch(&self.job.meta)["status"].clone())).unwrap();
            self.backoff = plan.backoff;
            self.events.extend(plan.events.iter().map(|e| e.reason));
        }
        for (i, pod) in plan.release_finalizers.iter().enumerate() {
            if fail == Some(2) && i % 2 == 0 {
                continue;
            }
            let pod = self.pods.iter_mut().find(|p| p["metadata"]["name"] == *pod.name).unwrap();
            pod["metadata"]["finalizers"] = json!([]);
        }
        true
    }

    fn settle(&mut self) {
        for _ in 0..50 {
            if !self.step(None) {
                return;
            }
        }
        panic!("does not settle: {:#?}", self.job.status);
    }

    fn end(&mut self, name_part: &str, phase: &str, exit_code: i32) {
        let at = Time::of(self.now);
        let matches = |p: &&mut Value| {
            p["metadata"]["name"].as_str().unwrap().contains(name_part) && p["status"]["phase"] == "Pending"
        };
        let pod = self.pods.iter_mut().find(matches).unwrap();
        pod["status"] = json!({"phase": phase, "containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": exit_code, "finishedAt": at}}}]});
    }

    fn pending(&self) -> usize {
        self.views().iter().filter(|p| p.is_active()).count()
    }

    /// Pods that were deleted and that nothing holds any more disappear.
    fn kubelet(&mut self) {
        for p in &mut self.pods {
            if p["metadata"]["deletionTimestamp"].is_string() && p["status"]["phase"] == "Pending" {
                p["status"]["phase"] = json!("Failed");
            }
        }
        self.pods.retain(|p| {
            !(p["metadata"]["deletionTimestamp"].is_string() && p["metadata"]["finalizers"] == json!([]))
        });
    }

    fn wait(&mut self, seconds: i64) {
        self.now = Time::of(self.now).plus_seconds(seconds).timestamp();
    }

    fn conditions(&self) -> Vec<(&str, &str)> {
        self.job
            .status
            .conditions
            .iter()
            .filter(|c| c.status == "True")
            .map(|c| (&*c.kind, &*c.reason))
            .collect()
    }
}

fn merge_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => map
            .into_iter()
            .filter(|(_, v)| !v.is_null())
            .map(|(k, v)| (k, merge_nulls(v)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        other => other,
    }
}

#[test]
fn a_job_runs_so_many_pods_at_a_time_until_so_many_succeeded() {
    let mut w = World::new(job(json!({"parallelism": 2, "completions": 3})));
    w.settle();
    assert_eq!((w.pending(), w.job.status.active, w.job.status.start_time), (2, 2, Some(Time::of(now()))));
    assert_eq!(w.pods[0]["metadata"]["finalizers"], json!([JOB_TRACKING_FINALIZER]));
    w.end("", "Succeeded", 0);
    w.settle();
    assert_eq!((w.pending(), w.job.status.succeeded), (2, 1));
    w.end("", "Succeeded", 0);
    w.settle();
    assert_eq!(w.pending(), 1, "one is enough for the last completion");
    w.end("", "Succeeded", 0);
    w.settle();
    assert_eq!(
        w.conditions(),
        [("SuccessCriteriaMet", "CompletionsReached"), ("Complete", "CompletionsReached")]
    );
    assert_eq!(
        (w.job.status.succeeded, w.job.status.active, w.job.status.completion_time),
        (3, 0, Some(Time::of(now())))
    );
    assert_eq!(w.events, ["Completed"]);
    assert!(w.pods.iter().all(|p| p["metadata"]["finalizers"] == json!([])));
}

#[test]
fn without_completions_one_success_ends_the_work() {
    let mut w = World::new(job(json!({"parallelism": 3})));
    w.settle();
    w.end("", "Succeeded", 0);
    w.settle();
    assert_eq!((w.pending(), w.conditions()), (2, vec![]));
    w.end("", "Succeeded", 0);
    w.end("", "Succeeded", 0);
    w.settle();
    assert_eq!((w.job.status.succeeded, w.conditions()[1].0), (3, "Complete"));
}

#[test]
fn failures_are_retried_after_a_wait_and_not_for_ever() {
    let mut w = World::new(job(json!({"parallelism": 1, "completions": 1, "backoffLimit": 1})));
    w.settle();
    w.end("", "Failed", 1);
    w.settle();
    assert_eq!((w.pending(), w.job.status.failed), (0, 1));
    let views = w.views();
    let waits = plan(w.now, &w.job, &views.iter().collect::<Vec<_>>(), w.backoff);
    assert_eq!(waits.requeue_after, Some(Duration::from_secs(10)));
    w.wait(10);
    w.settle();
    assert_eq!(w.pending(), 1);
    w.end("", "Failed", 1);
    w.settle();
    assert_eq!(
        w.conditions(),
        [("FailureTarget", "BackoffLimitExceeded"), ("Failed", "BackoffLimitExceeded")]
    );
    assert_eq!((w.job.status.failed, w.events.as_slice()), (2, ["BackoffLimitExceeded"].as_slice()));
    assert_eq!(w.job.status.completion_time, None);
}

#[test]
fn a_failed_job_waits_for_its_last_pod() {
    let mut w = World::new(job(json!({"parallelism": 2, "completions": 2, "backoffLimit": 0})));
    w.settle();
    w.end("", "Failed", 1);
    w.settle();
    assert_eq!(w.conditions(), [("FailureTarget", "BackoffLimitExceeded")]);
    assert_eq!((w.job.status.active, w.job.status.terminating), (0, Some(1)));
    w.kubelet();
    w.settle();
    assert_eq!(w.conditions()[1], ("Failed", "BackoffLimitExceeded"));
    assert_eq!(w.job.status.failed, 2);
}

#[test]
fn indexes_are_each_done_once() {
    let mut w = World::new(job(json!({"parallelism": 2, "completions": 4, "completionMode": "Indexed"})));
    w.settle();
    let pod = &w.pods[1];
    assert_eq!(pod["metadata"]["annotations"], json!({"batch.kubernetes.io/job-completion-index": "1"}));
    assert_eq!(pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"], "1");
    assert_eq!((&pod["spec"]["hostname"], &pod["metadata"]["generateName"]), (&json!("j-1"), &json!("j-1-")));
    assert_eq!(
        pod["spec"]["containers"][0]["env"],
        json!([{"name": "JOB_COMPLETION_INDEX", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['batch.kubernetes.io/job-completion-index']"}}}])
    );
    w.end("j-1-", "Succeeded", 0);
    w.settle();
    assert_eq!((w.job.status.completed_indexes.as_str(), w.pending()), ("1", 2));
    w.end("j-2-", "Failed", 1);
    w.settle();
    w.wait(10);
    w.settle();
    for index in ["j-0-", "j-2-"] {
        w.end(index, "Succeeded", 0);
    }
    w.settle();
    w.end("j-3-", "Succeeded", 0);
    w.settle();
    assert_eq!((w.job.status.completed_indexes.as_str(), w.conditions()[1].0), ("0-3", "Complete"));
    assert_eq!((w.job.status.succeeded, w.job.status.failed), (4, 1));
}

#[test]
fn indexes_fail_on_their_own() {
    let mut w = World::new(job(
        json!({"parallelism": 2, "completions": 2, "completionMode": "Indexed", "backoffLimitPerIndex": 1}),
    ));
    w.settle();
    w.end("j-0-", "Failed", 1);
    w.settle();
    assert_eq!(w.job.status.failed_indexes.as_deref(), Some(""));
    assert_eq!(w.pending(), 1);
    w.wait(10);
    w.settle();
    let second =
        w.pods.iter().rfind(|p| p["metadata"]["name"].as_str().unwrap().starts_with("j-0-")).unwrap();
    assert_eq!(second["metadata"]["annotations"]["batch.kubernetes.io/job-index-failure-count"], "1");
    w.end("j-0-", "Failed", 1);
    w.settle();
    assert_eq!(w.job.status.failed_indexes.as_deref(), Some("0"));
    w.end("j-1-", "Succeeded", 0);
    w.settle();
    assert_eq!(w.conditions()[1], ("Failed", "FailedIndexes"));
    assert_eq!((w.job.status.completed_indexes.as_str(), w.job.status.failed), ("1", 2));
}

#[test]
fn too_many_failed_indexes_end_the_job() {
    let mut w = World::new(job(
        json!({"parallelism": 3, "completions": 3, "completionMode": "Indexed", "backoffLimitPerIndex": 0, "maxFailedIndexes": 1}),
    ));
    w.settle();
    w.end("j-0-", "Failed", 1);
    w.end("j-1-", "Failed", 1);
    w.settle();
    assert_eq!(w.conditions(), [("FailureTarget", "MaxFailedIndexesExceeded")]);
    w.kubelet();
    w.settle();
    assert_eq!(w.conditions()[1].0, "Failed");
    assert_eq!(w.job.status.failed_indexes.as_deref(), Some("0,1"));
}

#[test]
fn failure_policies_decide() {
    let policy = json!({"rules": [
        {"action": "FailJob", "onExitCodes": {"containerName": "c", "operator": "In", "values": [42]}},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "Count", "onExitCodes": {"operator": "NotIn", "values": [7]}},
    ]});
    let make = || {
        World::new(job(
            json!({"parallelism": 1, "completions": 1, "backoffLimit": 0, "podFailurePolicy": policy}),
        ))
    };
    let mut w = make();
    w.settle();
    w.end("", "Failed", 42);
    let name = w.pods[0]["metadata"]["name"].as_str().unwrap().to_owned();
    w.settle();
    let c = &w.job.status.conditions[1];
    assert_eq!((&*c.kind, &*c.reason), ("Failed", "PodFailurePolicy"));
    assert_eq!(
        c.message,
        format!("Container c for pod ns/{name} failed with exit code 42 matching FailJob rule at index 0")
    );

    let mut w = make();
    w.settle();
    w.end("", "Failed", 7);
    w.pods[0]["status"]["conditions"] = json!([{"type": "DisruptionTarget", "status": "True"}]);
    w.settle();
    assert_eq!((w.job.status.failed, w.conditions().len()), (0, 0));
    w.wait(10);
    w.settle();
    assert_eq!(w.pending(), 1, "an ignored failure is replaced");
}

#[test]
fn success_policies_end_early() {
    let mut w = World::new(job(json!({"parallelism": 3, "completions": 3, "completionMode": "Indexed",
        "successPolicy": {"rules": [{"succeededIndexes": "1-2", "succeededCount": 1}]}})));
    w.settle();
    w.end("j-0-", "Succeeded", 0);
    w.settle();
    assert!(w.conditions().is_empty());
    w.end("j-2-", "Succeeded", 0);
    w.settle();
    assert_eq!(w.conditions(), [("SuccessCriteriaMet", "SuccessPolicy")]);
    w.kubelet();
    w.settle();
    assert_eq!(w.conditions()[1], ("Complete", "SuccessPolicy"));
    assert_eq!(w.job.status.conditions[1].message, "Matched rules at index 0");
    assert_eq!(w.job.status.completed_indexes, "0,2");
}

#[test]
fn suspending_gives_up_pods_without_counting_them() {
    let mut w = World::new(job(json!({"parallelism": 2, "completions": 2})));
    w.settle();
    w.job.suspend = true;
    w.settle();
    w.kubelet();
    w.settle();
    assert_eq!(
        (w.pods.len(), w.job.status.failed, w.job.status.active, w.job.status.start_time),
        (0, 0, 0, None)
    );
    assert_eq!(w.conditions(), [("Suspended", "JobSuspended")]);
    w.wait(100);
    w.job.suspend = false;
    w.settle();
    assert_eq!((w.pending(), w.job.status.start_time), (2, Some(Time::of(w.now))));
    assert_eq!(w.events, ["Suspended", "Resumed"]);
    assert_eq!(w.job.status.conditions[0].reason, "JobResumed");
}

#[test]
fn deadlines_end_jobs() {
    let mut w = World::new(job(json!({"parallelism": 1, "completions": 1, "activeDeadlineSeconds": 30})));
    w.settle();
    let views = w.views();
    assert_eq!(
        plan(w.now, &w.job, &views.iter().collect::<Vec<_>>(), w.backoff).requeue_after,
        Some(Duration::from_secs(30))
    );
    w.wait(30);
    w.settle();
    assert_eq!(w.conditions(), [("FailureTarget", "DeadlineExceeded")]);
    w.kubelet();
    w.settle();
    assert_eq!(w.conditions()[1], ("Failed", "DeadlineExceeded"));
}

#[test]
fn a_leaving_pod_is_replaced_at_once_or_when_it_has_ended() {
    for (policy, want) in [("TerminatingOrFailed", 1), ("Failed", 0)] {
        let mut w =
            World::new(job(json!({"parallelism": 1, "completions": 1, "podReplacementPolicy": policy})));
        w.settle();
        w.pods[0]["metadata"]["deletionTimestamp"] = json!(Time::of(w.now));
        w.settle();
        w.wait(10);
        w.settle();
        assert_eq!(w.pending(), want, "{policy}");
        w.kubelet();
        w.settle();
        w.wait(10);
        w.settle();
        assert_eq!(w.pending(), 1, "{policy}");
        assert_eq!(w.job.status.failed, 1);
    }
}

#[test]
fn restarts_in_place_count_against_the_limit() {
    let mut w = World::new(job(json!({"parallelism": 1, "completions": 1, "backoffLimit": 2, "template": {
        "metadata": {"labels": {"job": "j"}}, "spec": {"containers": [{"name": "c"}], "restartPolicy": "OnFailure"}}})));
    w.settle();
    w.pods[0]["status"] =
        json!({"phase": "Running", "containerStatuses": [{"name": "c", "restartCount": 1}]});
    w.settle();
    assert!(w.conditions().is_empty());
    w.pods[0]["status"]["containerStatuses"][0]["restartCount"] = json!(2);
    w.settle();
    assert_eq!(w.conditions(), [("FailureTarget", "BackoffLimitExceeded")]);
}

#[test]
fn jobs_of_others_and_of_unknown_modes_are_left_alone() {
    let w = World::new(job(json!({"parallelism": 1, "managedBy": "example.com/x"})));
    assert!(plan(now(), &w.job, &[], Backoff::default()).is_empty());
    let w = World::new(job(json!({"parallelism": 1, "completionMode": "Odd"})));
    let p = plan(now(), &w.job, &[], Backoff::default());
    assert!(p.is_empty() && p.events[0].reason == "UnknownCompletionMode");
}

#[test]
fn parallelism_that_shrinks_gives_up_the_least_useful() {
    let mut w = World::new(job(json!({"parallelism": 3, "completions": 9})));
    w.settle();
    w.pods[1]["spec"]["nodeName"] = json!("n");
    w.pods[1]["status"]["phase"] = json!("Running");
    w.job.parallelism = 1;
    w.settle();
    w.kubelet();
    w.settle();
    assert_eq!(w.pods.len(), 1);
    assert_eq!((&w.pods[0]["status"]["phase"], w.job.status.failed), (&json!("Running"), 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    /// Whatever fails in between: each pod that ended is counted once, never more succeed than are asked for at a time,
    /// and in the end the Job is over with nothing left to count.
    #[test]
    fn every_end_is_counted_once(
        parallelism in 1..5i32,
        completions in 1..6i32,
        indexed in any::<bool>(),
        turns in proptest::collection::vec((any::<bool>(), proptest::option::weighted(0.4, 0..3u8)), 0..40),
    ) {
        let mode = if indexed { "Indexed" } else { "NonIndexed" };
        let mut w = World::new(job(json!({"parallelism": parallelism, "completions": completions, "completionMode": mode, "backoffLimit": 1000})));
        let (mut succeeded, mut failed) = (0, 0);
        for (good, fail) in turns {
            if w.pending() > 0 && !w.job.status.is_finished() {
                let phase = if good { "Succeeded" } else { "Failed" };
                w.end("", phase, i32::from(!good));
                if good { succeeded += 1 } else { failed += 1 }
            }
            w.step(fail);
            w.wait(700);
            prop_assert!(w.pending() <= usize::try_from(parallelism).unwrap());
        }
        for _ in 0..40 {
            w.settle();
            w.kubelet();
            if w.job.status.is_finished() && w.pods.iter().all(|p| p["metadata"]["finalizers"] == json!([])) { break; }
            w.wait(700);
            if w.pending() > 0 { w.end("", "Succeeded", 0); succeeded += 1; }
        }
        prop_assert!(w.job.status.is_complete(), "{:#?}", w.job.status);
        prop_assert_eq!(w.job.status.succeeded, succeeded);
        prop_assert_eq!(w.job.status.succeeded, completions);
        prop_assert_eq!(w.job.status.failed, failed);
        prop_assert!(plan(w.now, &w.job, &w.views().iter().collect::<Vec<_>>(), w.backoff).is_empty());
    }
}
