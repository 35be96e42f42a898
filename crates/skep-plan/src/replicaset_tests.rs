use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::pod::Phase;
use crate::{Labels, Time, Uid};

fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

fn set(replicas: i32) -> ReplicaSet {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "ns", "uid": "rs", "generation": 1},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
                 "template": {"metadata": {"labels": {"app": "web", "v": "1"}}, "spec": {"containers": []}}},
    }))
    .unwrap()
}

fn pod(i: usize, phase: Phase) -> Pod {
    Pod {
        name: format!("p{i}").into(),
        uid: Uid::new(&format!("u{i}")),
        labels: [("app", "web"), ("v", "1")].into_iter().collect(),
        controller: Some(crate::ControllerRef {
            kind: OwnerKind::ReplicaSet,
            name: "web".into(),
            uid: Uid::new("rs"),
        }),
        phase,
        ..Pod::default()
    }
}

fn run<'a>(rs: &ReplicaSet, pods: &[&'a Pod]) -> Plan<'a> {
    let all = pods.to_vec();
    plan(now(), rs, pods, || pods_per_node(all))
}

fn names(pods: &[&Pod]) -> Vec<String> {
    pods.iter().map(|p| p.name.to_string()).collect()
}

#[test]
fn makes_what_is_missing_and_does_not_count_what_is_over() {
    let mut going = pod(3, Phase::Running);
    going.deleted = Some(Time(1));
    let pods = [pod(0, Phase::Running), pod(1, Phase::Failed), pod(2, Phase::Succeeded), going];
    let plan = run(&set(3), &pods.iter().collect::<Vec<_>>());
    assert_eq!((plan.create, plan.delete.len()), (2, 0));
    assert_eq!((plan.counts.active, plan.counts.terminating), (1, 1));
    assert_eq!(run(&set(5000), &[]).create, BURST);
}

#[test]
fn deletes_those_that_started_least() {
    let mut ready = pod(0, Phase::Running);
    ready.node = "n".into();
    ready.ready = true;
    let mut pending = pod(1, Phase::Pending);
    pending.node = "n".into();
    let unplaced = pod(2, Phase::Pending);
    let pods = [&ready, &pending, &unplaced];
    assert_eq!(names(&run(&set(2), &pods).delete), ["p2"]);
    assert_eq!(names(&run(&set(1), &pods).delete), ["p2", "p1"]);
    assert_eq!(run(&set(0), &pods).delete.len(), 3);
}

#[test]
fn deletes_where_sister_sets_crowd_a_node() {
    let on = |i: usize, node: &str| {
        let mut p = pod(i, Phase::Running);
        p.node = node.into();
        p.ready = true;
        p
    };
    let (a, b, sister) = (on(0, "n1"), on(1, "n2"), on(2, "n2"));
    let plan = plan(now(), &set(1), &[&a, &b], || pods_per_node([&a, &b, &sister]));
    assert_eq!(names(&plan.delete), ["p1"]);
}

#[test]
fn takes_orphans_and_lets_strangers_go() {
    let mut orphan = pod(0, Phase::Running);
    orphan.controller = None;
    let mut stranger = pod(1, Phase::Running);
    stranger.labels = [("app", "other")].into_iter().collect();
    let mut foreign = pod(2, Phase::Running);
    foreign.controller.as_mut().unwrap().uid = Uid::new("someone");
    let pods = [&orphan, &stranger, &foreign];
    let plan = run(&set(1), &pods);
    assert_eq!((names(&plan.adopt), names(&plan.release)), (vec!["p0".to_owned()], vec!["p1".to_owned()]));
    assert_eq!((plan.create, plan.counts.active), (0, 1));
    let mut dying = set(1);
    dying.meta.deleted = Some(Time(1));
    let plan = run(&dying, &pods);
    assert!(plan.adopt.is_empty() && plan.release.is_empty() && plan.create == 0 && plan.delete.is_empty());
}

#[test]
fn status_counts_and_tells_when_to_look_again() {
    let mut rs = set(3);
    rs.min_ready_seconds = 10;
    let ready = |i: usize, ago: i64| {
        let mut p = pod(i, Phase::Running);
        p.ready = true;
        p.ready_changed = Some(Time::of(now()).plus_seconds(-ago));
        p
    };
    let mut unlabeled = ready(2, 4);
    unlabeled.labels = unlabeled.labels.without("v");
    let pods = [ready(0, 10), ready(1, 3), unlabeled];
    let plan = run(&rs, &pods.iter().collect::<Vec<_>>());
    assert_eq!(plan.requeue_after, Some(Duration::from_secs(6)));
    let new = status(now(), &rs, OwnerKind::ReplicaSet, plan.counts, None).unwrap();
    assert_eq!(
        new.patch(),
        json!({"status": {"replicas": 3, "fullyLabeledReplicas": 2, "readyReplicas": 3, "availableReplicas": 1,
            "terminatingReplicas": 0, "observedGeneration": 1, "conditions": null}})
    );
    rs.status = new;
    assert_eq!(status(now(), &rs, OwnerKind::ReplicaSet, plan.counts, None), None);
}

#[test]
fn failures_come_and_go() {
    let mut rs = set(2);
    let counts = Counts::default();
    let failed = status(now(), &rs, OwnerKind::ReplicaSet, counts, Some("quota")).unwrap();
    let c = &failed.conditions[0];
    assert_eq!(
        (&*c.kind, &*c.status, &*c.reason, &*c.message),
        ("ReplicaFailure", "True", "FailedCreate", "quota")
    );
    rs.status = failed;
    assert_eq!(
        status(now(), &rs, OwnerKind::ReplicaSet, counts, Some("again")),
        None,
        "the first message stays"
    );
    assert!(status(now(), &rs, OwnerKind::ReplicaSet, counts, None).unwrap().conditions.is_empty());
    let many = Counts { active: 3, ..counts };
    rs.status = Status::default();
    assert_eq!(
        status(now(), &rs, OwnerKind::ReplicaSet, many, Some("x")).unwrap().conditions[0].reason,
        "FailedDelete"
    );
}

#[test]
fn replication_controllers_select_by_a_map_and_tell_nothing_of_terminating_pods() {
    let rc: ReplicationController = serde_json::from_value(json!({
        "metadata": {"name": "web", "uid": "rs"},
        "spec": {"replicas": 1, "selector": {"app": "web"}, "template": {"metadata": {"labels": {"app": "web"}}}},
    }))
    .unwrap();
    let p = pod(0, Phase::Running);
    let plan = run(&rc.0, &[&p]);
    assert_eq!((plan.create, plan.counts.active), (0, 1));
    let new = status(now(), &rc.0, OwnerKind::ReplicationController, plan.counts, None).unwrap();
    assert_eq!(new.terminating_replicas, None);
}

#[test]
fn batches_double() {
    assert_eq!(slow_start(20).collect::<Vec<_>>(), [1, 2, 4, 8, 5]);
    assert_eq!(slow_start(0).count(), 0);
}

proptest! {
    /// From any pods: doing what the plan says leaves nothing to do, and never overshoots.
    #[test]
    fn one_plan_is_enough(
        replicas in 0..20i32,
        states in proptest::collection::vec((0..5u8, 0..4u8, any::<bool>(), any::<bool>()), 0..25),
    ) {
        let rs = set(replicas);
        let pods: Vec<Pod> = states.iter().enumerate().map(|(i, (phase, owner, going, ready))| {
            let phase = [Phase::Pending, Phase::Running, Phase::Succeeded, Phase::Failed, Phase::Unknown][usize::from(*phase)];
            let mut p = pod(i, phase);
            p.deleted = going.then_some(Time(1));
            p.ready = *ready;
            match owner {
                0 => p.controller = None,
                1 => p.labels = Labels::default(),
                2 => p.controller.as_mut().unwrap().uid = Uid::new("other"),
                _ => {}
            }
            p
        }).collect();
        let plan = run(&rs, &pods.iter().collect::<Vec<_>>());
        prop_assert!(plan.create == 0 || plan.delete.is_empty());
        let deleted: Vec<_> = plan.delete.iter().map(|p| p.uid.clone()).collect();
        let adopted: Vec<_> = plan.adopt.iter().map(|p| p.uid.clone()).collect();
        let released: Vec<_> = plan.release.iter().map(|p| p.uid.clone()).collect();
        let create = plan.create;
        let mut after = pods.clone();
        after.retain(|p| !deleted.contains(&p.uid));
        for p in &mut after {
            if adopted.contains(&p.uid) { p.controller = pod(0, Phase::Running).controller; }
            if released.contains(&p.uid) { p.controller = None; }
        }
        after.extend((0..create).map(|i| pod(100 + i, Phase::Pending)));
        let again = run(&rs, &after.iter().collect::<Vec<_>>());
        prop_assert_eq!(again.create, 0);
        prop_assert!(again.delete.is_empty() && again.adopt.is_empty() && again.release.is_empty());
        prop_assert_eq!(again.counts.active, replicas);
    }
}
