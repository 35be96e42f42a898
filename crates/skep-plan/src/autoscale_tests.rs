#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use jiff::SignedDuration;

use super::*;
use crate::pod::Phase;

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

fn autoscaler(spec: Value) -> Autoscaler {
    serde_json::from_value(json!({"metadata": {"name": "h", "namespace": "ns", "uid": "u"}, "spec": spec}))
        .unwrap()
}

fn cpu(target: i32) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": target}}})
}

fn members(n: usize) -> Vec<Member> {
    let long_ago = now() - SignedDuration::from_hours(2);
    (0..n)
        .map(|i| Member {
            name: format!("p{i}"),
            deleting: false,
            phase: Phase::Running,
            ready: Some(Readiness { yes: true, no: false, since: long_ago + SignedDuration::from_secs(10) }),
            started: Some(long_ago),
            request: Ok(1000),
        })
        .collect()
}

fn uses(milli: &[i64]) -> Result<Found, String> {
    let sample = |milli| Sample { at: now(), window: SignedDuration::from_secs(60), milli };
    let samples: BTreeMap<String, Sample> =
        milli.iter().enumerate().map(|(i, m)| (format!("p{i}"), sample(*m))).collect();
    Ok(Found::Pods(samples))
}

fn decide(a: &Autoscaler, replicas: i32, found: &[Result<Found, String>], history: &mut History) -> Plan {
    let all = members(replicas as usize);
    let measured = Measured { selector: Ok(()), members: &|_, _| all.clone(), found };
    plan(now(), a, Scale { wanted: replicas, there: replicas }, &measured, history)
}

fn condition<'a>(plan: &'a Plan, kind: &str) -> (&'a str, &'a str) {
    let c = crate::condition::find(&plan.status.conditions, kind).unwrap();
    (&c.status, &c.reason)
}

#[test]
fn the_highest_metric_decides() {
    let a = autoscaler(json!({"maxReplicas": 10, "scaleTargetRef": {}, "metrics": [cpu(50),
        {"type": "External", "external": {"metric": {"name": "queue", "selector": {"matchLabels": {"q": "a"}}},
            "target": {"type": "AverageValue", "averageValue": "10"}}}]}));
    let plan = decide(&a, 3, &[uses(&[500, 500, 500]), Ok(Found::Value(45_000))], &mut History::default());
    assert_eq!(plan.rescale, Some(5));
    assert_eq!(plan.reason, r#"external metric queue({"matchLabels":{"q":"a"}}) above target"#);
    assert_eq!(condition(&plan, "ScalingActive"), ("True", "ValidMetricFound"));
    assert_eq!(condition(&plan, "ScalingLimited"), ("False", "DesiredWithinRange"));
    assert_eq!(
        plan.status.current_metrics[0],
        json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 50, "averageValue": "500m"}}})
    );
    assert_eq!(plan.status.current_metrics[1]["external"]["current"]["averageValue"], "15");
    assert_eq!((plan.status.current_replicas, plan.status.desired_replicas), (3, 5));
}

#[test]
fn a_metric_that_fails_keeps_from_shrinking_but_not_from_growing() {
    let a = autoscaler(json!({"maxReplicas": 10, "scaleTargetRef": {}, "metrics": [cpu(50), cpu(50)]}));
    let broken = || Err("unable to fetch metrics from resource metrics API: no".to_owned());
    let up = decide(&a, 2, &[broken(), uses(&[1000, 1000])], &mut History::default());
    assert_eq!(up.rescale, Some(4));
    assert_eq!(condition(&up, "ScalingActive"), ("True", "ValidMetricFound"));
    let down = decide(&a, 2, &[broken(), uses(&[100, 100])], &mut History::default());
    assert_eq!(
        (down.rescale, condition(&down, "ScalingActive")),
        (None, ("False", "FailedGetResourceMetric"))
    );
    let none = decide(&a, 2, &[broken(), broken()], &mut History::default());
    assert_eq!(none.rescale, None);
    let c = crate::condition::find(&none.status.conditions, "ScalingActive").unwrap();
    assert_eq!(
        c.message,
        "the HPA was unable to compute the replica count: failed to get cpu utilization: unable to get metrics for resource cpu: unable to fetch metrics from resource metrics API: no"
    );
    assert_eq!(none.events.last().unwrap().reason, "FailedComputeMetricsReplicas");
    assert!(none.events.last().unwrap().message.starts_with(
        "invalid metrics (2 invalid out of 2), first error is: failed to get cpu resource metric value: "
    ));
}

#[test]
fn bounds_go_before_metrics_and_zero_means_off() {
    let a =
        autoscaler(json!({"minReplicas": 2, "maxReplicas": 5, "scaleTargetRef": {}, "metrics": [cpu(50)]}));
    assert_eq!(decide(&a, 9, &[], &mut History::default()).rescale, Some(5));
    assert_eq!(decide(&a, 1, &[], &mut History::default()).rescale, Some(2));
    let off = decide(&a, 0, &[], &mut History::default());
    assert_eq!((off.rescale, condition(&off, "ScalingActive")), (None, ("False", "ScalingDisabled")));
    for (size, needed) in [(0, false), (1, false), (2, true), (5, true), (6, false)] {
        assert_eq!(needs_metrics(&a.spec, Scale { wanted: size, there: size }), needed, "{size}");
    }
}

#[test]
fn what_comes_of_rescaling_is_told() {
    let a = autoscaler(json!({"maxReplicas": 10, "scaleTargetRef": {}, "metrics": [cpu(50)]}));
    let mut history = History::default();
    let mut done = decide(&a, 2, &[uses(&[1000, 1000])], &mut history);
    rescaled(now(), &mut done, 2, 4, Ok(()), &mut history);
    assert_eq!(condition(&done, "AbleToScale"), ("True", "SucceededRescale"));
    assert_eq!(done.status.last_scale_time, Some(Time::of(now())));
    assert_eq!(
        done.events[0].message,
        "New size: 4; reason: cpu resource utilization (percentage of request) above target"
    );
    let mut failed = decide(&a, 2, &[uses(&[1000, 1000])], &mut history);
    rescaled(now(), &mut failed, 2, 4, Err("no".into()), &mut history);
    assert_eq!(
        (condition(&failed, "AbleToScale"), failed.status.desired_replicas),
        (("False", "FailedUpdateScale"), 2)
    );
    let none = without_scale(now(), &a, "not found");
    assert_eq!(condition(&none, "AbleToScale"), ("False", "FailedGetScale"));
}

#[test]
fn a_condition_keeps_its_time_while_its_status_stays() {
    let mut a = autoscaler(json!({"maxReplicas": 10, "scaleTargetRef": {}, "metrics": [cpu(50)]}));
    let first = decide(&a, 2, &[uses(&[500, 500])], &mut History::default());
    a.status = serde_json::from_value(first.status.patch()["status"].clone()).unwrap();
    assert_eq!(a.status, first.status, "what is written is what is read");
    let all = members(2);
    let found = [uses(&[500, 500])];
    let measured = Measured { selector: Ok(()), members: &|_, _| all.clone(), found: &found };
    let later = now() + SignedDuration::from_secs(60);
    let second = plan(later, &a, Scale { wanted: 2, there: 2 }, &measured, &mut History::default());
    assert_eq!(second.status, first.status, "nothing to write");
}

#[test]
fn objects_go_by_the_type_of_their_target() {
    let a = autoscaler(
        json!({"maxReplicas": 10, "scaleTargetRef": {}, "metrics": [{"type": "Object", "object": {
        "describedObject": {"kind": "Ingress", "name": "i", "apiVersion": "networking.k8s.io/v1"},
        "metric": {"name": "hits"}, "target": {"type": "Value", "value": "2k"}}}]}),
    );
    let plan = decide(&a, 2, &[Ok(Found::Value(4_000_000))], &mut History::default());
    assert_eq!((plan.rescale, &*plan.reason), (Some(4), "Ingress metric hits above target"));
    assert_eq!(plan.status.current_metrics[0]["object"]["current"]["value"], "4k");
    let selector = Identifier { name: "m".into(), selector: Some(json!({"matchLabels": {"a": "b"}})) };
    assert_eq!(selector.selector_text().unwrap(), "a=b");
    assert_eq!(Identifier::default().selector_text().unwrap(), "");
}
