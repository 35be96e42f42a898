use serde_json::json;

use super::*;
use crate::time::Time;

fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

fn deployment(replicas: i32, surge: Value, unavailable: Value, image: &str) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "ns", "uid": "d", "generation": 1, "annotations": {"note": "x"}},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}},
            "progressDeadlineSeconds": 600, "revisionHistoryLimit": 10,
            "template": template(image),
        },
    }))
    .unwrap()
}

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

/// A replica set of the Deployment: its name, image, size, available pods; `age` in seconds.
fn set(d: &Deployment, name: &str, image: &str, replicas: i32, available: i32, age: i64) -> ReplicaSet {
    let most = d.replicas + scale::max_surge(d);
    let mut set: ReplicaSet = serde_json::from_value(json!({
        "metadata": {"name": name, "uid": name, "resourceVersion": "1", "labels": {"app": "web"}, "generation": 1,
            "creationTimestamp": Time::of(now()).plus_seconds(-age),
            "annotations": {"note": "x", REVISION: "1", DESIRED_REPLICAS: d.replicas.to_string(), MAX_REPLICAS: most.to_string()},
            "ownerReferences": [d.meta.controller_ref(OwnerKind::Deployment)]},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template(image)},
        "status": {"replicas": replicas, "readyReplicas": available, "availableReplicas": available,
            "observedGeneration": 1, "terminatingReplicas": 0},
    }))
    .unwrap();
    set.template.labels = set.template.labels.with("pod-template-hash", name);
    set
}

fn run(d: &Deployment, sets: &[ReplicaSet]) -> Plan {
    plan(now(), d, &sets.iter().collect::<Vec<_>>(), &|_| false)
}

/// New sizes, by name, in order.
fn sizes(plan: &Plan) -> Vec<(String, i64)> {
    let size = |step: &Step| match step {
        Step::Patch { name, body, .. } => Some((name.clone(), body["spec"]["replicas"].as_i64()?)),
        _ => None,
    };
    plan.steps.iter().filter_map(size).collect()
}

fn condition<'a>(plan: &'a Plan, kind: &str) -> &'a Condition {
    crate::condition::find(&plan.status.as_ref().unwrap().status.conditions, kind).unwrap()
}

#[test]
fn the_first_revision_is_created() {
    let d = deployment(3, json!("25%"), json!("25%"), "a");
    let plan = run(&d, &[]);
    let [Step::Create { name, body, event }] = plan.steps.as_slice() else { panic!("{plan:?}") };
    let hash = d.template.hash(None);
    assert_eq!(*name, format!("web-{hash}"));
    assert_eq!(event.as_ref().unwrap().message, format!("Scaled up replica set web-{hash} from 0 to 3"));
    assert_eq!(body["metadata"]["labels"], json!({"app": "web", "pod-template-hash": hash}));
    assert_eq!(body["spec"]["selector"]["matchLabels"], json!({"app": "web", "pod-template-hash": hash}));
    assert_eq!(body["spec"]["template"]["metadata"]["labels"], body["metadata"]["labels"]);
    assert_eq!(
        body["metadata"]["annotations"],
        json!({"note": "x", REVISION: "1", DESIRED_REPLICAS: "3", MAX_REPLICAS: "4"})
    );
    let change = plan.status.as_ref().unwrap();
    assert_eq!(change.revision.as_deref(), Some("1"));
    assert_eq!(change.patch()["status"]["unavailableReplicas"], 3);
    let progressing = condition(&plan, "Progressing");
    assert_eq!((&*progressing.status, &*progressing.reason), ("True", "NewReplicaSetCreated"));
    assert_eq!(progressing.message, format!("Created new replica set \"web-{hash}\""));
    assert_eq!(condition(&plan, "Available").reason, "MinimumReplicasUnavailable");
    // What was created is recognised.
    let mut created: ReplicaSet = serde_json::from_value(body.clone()).unwrap();
    created.meta.uid = Uid::new("new");
    assert!(created.template.same_pods(&d.template));
    assert_eq!(collided(&d, &created), Collision::Ours);
    assert!(run(&d, &[created]).steps.is_empty());
}

#[test]
fn a_taken_name_is_counted_and_changes_the_name() {
    let d = deployment(1, json!(1), json!(0), "a");
    let foreign = set(&deployment(1, json!(1), json!(0), "b"), "x", "b", 0, 0, 1);
    let Collision::Bump(change) = collided(&d, &foreign) else { panic!() };
    assert_eq!(change.status.collision_count, Some(1));
    let again = Deployment { status: change.status, ..d.clone() };
    assert_ne!(again.template.hash(again.status.collision_count), d.template.hash(None));
}

#[test]
fn a_failed_create_shows() {
    let d = deployment(1, json!(1), json!(0), "a");
    let (change, event) = create_failed(now(), &d, "web-x", "no");
    assert_eq!(
        event,
        Event::warning("ReplicaSetCreateError", "Failed to create new replica set \"web-x\": no")
    );
    let condition = &change.unwrap().status.conditions[0];
    assert_eq!((&*condition.status, &*condition.reason), ("False", "ReplicaSetCreateError"));
}

/// Upstream's `TestDeploymentController_reconcileNewReplicaSet`: replicas, surge, old, new → new.
#[test]
fn the_new_set_grows_as_far_as_the_surge_allows() {
    let table = [
        (10, 0, 10, 0, None),
        (10, 2, 10, 0, Some(2)),
        (10, 2, 5, 0, Some(7)),
        (10, 2, 10, 2, None),
        (10, 2, 2, 11, Some(10)),
    ];
    for (replicas, surge, old, new, want) in table {
        let d = deployment(replicas, json!(surge), json!(0), "b");
        let sets = [set(&d, "old", "a", old, 0, 10), set(&d, "new", "b", new, 0, 5)];
        let plan = run(&d, &sets);
        let got = sizes(&plan).into_iter().find(|(n, _)| n == "new").map(|(_, s)| s);
        assert_eq!(got, want, "{replicas} {surge} {old} {new}");
    }
}

/// Upstream's `TestDeploymentController_reconcileOldReplicaSets`: replicas, unavailable, old, new, ready of each → old.
#[test]
fn old_sets_shrink_as_far_as_availability_allows() {
    let table = [
        (10, 0, 10, 0, 10, 0, Some(9)),
        (10, 2, 10, 0, 10, 0, Some(8)),
        (10, 2, 10, 0, 8, 0, Some(8)),
        (10, 2, 10, 0, 9, 0, Some(8)),
        (10, 2, 8, 2, 8, 0, None),
    ];
    for (replicas, unavailable, old, new, old_ready, new_ready, want) in table {
        let d = deployment(replicas, json!(0), json!(unavailable), "b");
        let mut planner_sets =
            [set(&d, "old", "a", old, old_ready, 10), set(&d, "new", "b", new, new_ready, 5)];
        planner_sets[1].meta.annotations.insert(REVISION.to_owned(), "2".to_owned());
        let plan = run(&d, &planner_sets);
        let got = sizes(&plan).into_iter().find(|(n, _)| n == "old").map(|(_, s)| s);
        assert_eq!(got, want, "{replicas} {unavailable} {old} {new} {old_ready} {new_ready}");
    }
}

/// Upstream's `TestScale`: how a change of size is shared out in the middle of a rollout.
#[test]
fn sizes_are_shared_out() {
    // (from, to, surge, sets before (newest last), sets after)
    type Row = (i32, i32, i32, &'static [i32], &'static [i32]);
    let table: &[Row] = &[
        (10, 12, 0, &[10], &[12]),
        (10, 5, 0, &[10], &[5]),
        (5, 10, 0, &[3, 2], &[6, 4]),
        (5, 3, 0, &[3, 2], &[2, 1]),
        (9, 4, 0, &[1, 8], &[0, 4]),
        (7, 10, 0, &[2, 3, 2], &[3, 4, 3]),
        (13, 8, 0, &[3, 8, 2], &[2, 5, 1]),
        (3, 4, 0, &[1, 1, 1], &[1, 1, 2]),
        (3, 2, 0, &[1, 1, 1], &[0, 1, 1]),
        (6, 0, 0, &[1, 2, 3], &[0, 0, 0]),
        (0, 6, 0, &[0, 0, 0], &[0, 0, 6]),
    ];
    for (from, to, surge, before, after) in table {
        let old = deployment(*from, json!(surge), json!(1), "z");
        let count = before.len();
        let sets: Vec<ReplicaSet> = before
            .iter()
            .enumerate()
            .map(|(i, n)| {
                let image = if i + 1 == count { "z".to_owned() } else { format!("old{i}") };
                let age = i64::try_from(count - i).unwrap();
                set(&old, &format!("s{i}"), &image, *n, 0, age)
            })
            .collect();
        let mut d = deployment(*to, json!(surge), json!(1), "z");
        d.status.replicas = *from;
        let plan = run(&d, &sets);
        let new: Vec<i64> = (0..count)
            .map(|i| {
                let name = format!("s{i}");
                sizes(&plan).into_iter().find(|(n, _)| *n == name).map_or(i64::from(before[i]), |(_, s)| s)
            })
            .collect();
        let want: Vec<i64> = after.iter().map(|n| i64::from(*n)).collect();
        assert_eq!(new, want, "{from} to {to}, {before:?}");
    }
}

#[test]
fn surge_and_gap_are_never_both_nothing() {
    // Upstream's TestResolveFenceposts.
    let table = [
        (json!("0%"), json!("0%"), 0, (0, 1)),
        (json!("39%"), json!("39%"), 10, (4, 3)),
        (json!(1), json!("39%"), 10, (1, 3)),
        (json!("1%"), json!("0%"), 1, (1, 0)),
    ];
    for (surge, unavailable, replicas, want) in table {
        let d = deployment(replicas, surge, unavailable, "a");
        let got = (scale::max_surge(&d), if replicas == 0 { 1 } else { scale::max_unavailable(&d) });
        assert_eq!(got, want);
    }
}

#[test]
fn undo_makes_an_old_set_the_newest_again() {
    let d = deployment(1, json!(1), json!(0), "a");
    let mut first = set(&d, "first", "a", 0, 0, 10);
    let mut second = set(&d, "second", "b", 1, 1, 5);
    first.meta.annotations.insert(REVISION.to_owned(), "1".to_owned());
    second.meta.annotations.insert(REVISION.to_owned(), "2".to_owned());
    let plan = run(&d, &[first, second]);
    let [Step::Patch { name, body, events }] = plan.steps.as_slice() else { panic!("{plan:?}") };
    assert_eq!((name.as_str(), &body["spec"]["replicas"]), ("first", &json!(1)));
    assert_eq!(body["metadata"]["annotations"], json!({REVISION: "3", REVISION_HISTORY: "1"}));
    assert_eq!(body["metadata"]["resourceVersion"], "1");
    assert_eq!(events[0].message, "Scaled up replica set first from 0 to 1");
    assert_eq!(plan.status.unwrap().revision.as_deref(), Some("3"));
}

#[test]
fn paused_ones_are_resized_but_not_rolled() {
    let mut d = deployment(4, json!(1), json!(0), "b");
    d.paused = true;
    let sets = [set(&deployment(2, json!(1), json!(0), "b"), "old", "a", 2, 2, 5)];
    let plan = run(&d, &sets);
    assert_eq!(sizes(&plan), [("old".to_owned(), 4)]);
    let paused = condition(&plan, "Progressing");
    assert_eq!(
        (&*paused.status, &*paused.reason, &*paused.message),
        ("Unknown", "DeploymentPaused", "Deployment is paused")
    );
    d.status = plan.status.unwrap().status;
    d.paused = false;
    assert_eq!(condition(&run(&d, &sets), "Progressing").reason, "DeploymentResumed");
}

#[test]
fn lack_of_progress_shows_after_the_deadline() {
    let mut d = deployment(1, json!(1), json!(0), "a");
    let sets = [set(&d, "s", "a", 1, 0, 100)];
    let known = |ago: i64| {
        let time = Time::of(now()).plus_seconds(-ago);
        vec![Condition {
            kind: "Progressing".to_owned(),
            status: "True".to_owned(),
            reason: "ReplicaSetUpdated".to_owned(),
            message: "m".to_owned(),
            last_update_time: Some(time),
            last_transition_time: Some(time),
            last_probe_time: None,
        }]
    };
    d.status = Status { replicas: 1, updated_replicas: 1, conditions: known(590), ..Status::default() };
    let early = run(&d, &sets);
    assert_eq!(early.requeue_after, Some(Duration::from_secs(11)));
    d.status.conditions = known(601);
    let late = run(&d, &sets);
    let c = condition(&late, "Progressing");
    assert_eq!(
        (&*c.status, &*c.reason, &*c.message),
        ("False", "ProgressDeadlineExceeded", "ReplicaSet \"s\" has timed out progressing.")
    );
    assert_eq!(late.requeue_after, None);
}

#[test]
fn completion_shows_and_cleans_up() {
    let mut d = deployment(1, json!(1), json!(0), "z");
    d.revision_history_limit = Some(1);
    let mut sets: Vec<ReplicaSet> = (0..4)
        .map(|i| {
            let mut s = set(&d, &format!("s{i}"), &format!("old{i}"), 0, 0, 100 - i);
            s.meta.annotations.insert(REVISION.to_owned(), (i + 1).to_string());
            s
        })
        .collect();
    sets[1].meta.generation = 2;
    let mut newest = set(&d, "new", "z", 1, 1, 1);
    newest.meta.annotations.insert(REVISION.to_owned(), "9".to_owned());
    sets.push(newest);
    let first = run(&d, &sets);
    assert_eq!(condition(&first, "Progressing").message, "ReplicaSet \"new\" has successfully progressed.");
    assert!(first.steps.is_empty(), "only a status that was complete before cleans up");
    d.status = first.status.unwrap().status;
    let deleted: Vec<String> = run(&d, &sets)
        .steps
        .into_iter()
        .map(|s| match s {
            Step::Delete { name, .. } => name,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(deleted, ["s0", "s2"], "s1's controller has not seen its last change");
}

#[test]
fn recreate_waits_for_the_last_old_pod() {
    let mut d = deployment(2, json!(0), json!(0), "b");
    d.strategy = Strategy::Recreate;
    let down = run(&d, &[set(&d, "old", "a", 2, 2, 5)]);
    assert_eq!(sizes(&down), [("old".to_owned(), 0)]);
    let empty = set(&d, "old", "a", 0, 0, 5);
    let waits = plan(now(), &d, &[&empty], &|_| true);
    assert!(waits.steps.is_empty());
    let goes = plan(now(), &d, &[&empty], &|_| false);
    let [Step::Create { body, .. }] = goes.steps.as_slice() else { panic!("{goes:?}") };
    assert_eq!(body["spec"]["replicas"], 2);
}

#[test]
fn a_replica_sets_failure_is_the_deployments() {
    let d = deployment(1, json!(1), json!(0), "a");
    let mut s = set(&d, "s", "a", 1, 0, 5);
    s.status.conditions.push(Condition {
        kind: "ReplicaFailure".to_owned(),
        status: "True".to_owned(),
        reason: "FailedCreate".to_owned(),
        message: "quota".to_owned(),
        last_transition_time: Some(Time(5)),
        ..Condition::default()
    });
    let plan = run(&d, &[s]);
    let c = condition(&plan, "ReplicaFailure");
    assert_eq!((&*c.message, c.last_update_time), ("quota", Some(Time(5))));
}

#[test]
fn selecting_everything_is_refused() {
    let mut d = deployment(1, json!(1), json!(0), "a");
    d.selector = Selector::default();
    let plan = run(&d, &[]);
    assert_eq!((plan.events[0].reason, plan.steps.len()), ("SelectingAll", 0));
    assert_eq!(plan.status.unwrap().status.observed_generation, 1);
}
