//! Upstream's cases for what is to be done to a pod, and properties that hold for any pod.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::testing::{World, exited, running};
use super::{Instance, InstanceState, KillReason, Plan, ProbeResult, ProbeResults};
use crate::spec::{self, ContainerKind};

/// The containers of a plan by name.
fn starts(world: &World, plan: &Plan) -> Vec<String> {
    plan.start.iter().map(|s| spec::of_kind(&world.pod, s.kind)[s.index].name.clone()).collect()
}

fn kills(plan: &Plan) -> Vec<&str> {
    plan.kill.iter().map(|k| k.name.as_str()).collect()
}

fn two(policy: &str) -> World {
    World::new(json!({"restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}]}))
}

#[test]
fn a_new_pod_gets_a_sandbox_and_its_containers() {
    let mut w = two("Always");
    w.sandbox = Default::default();
    let plan = w.plan();
    assert_eq!((plan.kill_pod, plan.create_sandbox), (true, Some(0)));
    assert_eq!(starts(&w, &plan), ["a", "b"]);
}

#[test]
fn what_runs_is_left_alone() {
    let mut w = two("Always");
    w.run("a", running()).run("b", running());
    assert!(w.plan().is_empty());
}

#[test]
fn ended_containers_by_policy() {
    for (policy, code, expected) in [
        ("Always", 0, vec!["b"]),
        ("Always", 1, vec!["b"]),
        ("OnFailure", 0, vec![]),
        ("OnFailure", 1, vec!["b"]),
        ("Never", 1, vec![]),
    ] {
        let mut w = two(policy);
        w.run("a", running()).run("b", exited(code));
        let plan = w.plan();
        assert_eq!(starts(&w, &plan), expected, "{policy} {code}");
        assert!(!plan.kill_pod && plan.kill.is_empty());
    }
}

#[test]
fn a_pod_whose_work_is_done_is_killed() {
    for (policy, codes, kill) in [
        ("OnFailure", (0, 0), true),
        ("OnFailure", (0, 1), false),
        ("Never", (1, 0), true),
        ("Always", (0, 0), false),
    ] {
        let mut w = two(policy);
        w.run("a", exited(codes.0)).run("b", exited(codes.1));
        assert_eq!(w.plan().kill_pod, kill, "{policy} {codes:?}");
    }
}

#[test]
fn a_deleted_pod_starts_nothing() {
    let mut w = two("Always");
    w.pod.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(w.now));
    w.run("a", exited(1)).run("b", running());
    assert!(w.plan().start.is_empty());
}

#[test]
fn a_lost_sandbox_is_made_again_unless_the_pod_runs_once() {
    for (policy, again) in [("Always", true), ("OnFailure", true), ("Never", false)] {
        let mut w = two(policy);
        w.run("a", exited(137)).run("b", exited(137));
        w.sandbox.ready = false;
        let plan = w.plan();
        assert!(plan.kill_pod);
        assert_eq!(plan.create_sandbox, again.then_some(1), "{policy}");
    }
    let mut w = two("OnFailure");
    w.run("a", exited(0)).run("b", exited(1));
    w.sandbox.ready = false;
    assert_eq!(starts(&w, &w.plan()), ["b"], "what succeeded is not run again");
    w.instances.clear();
    w.run("a", exited(0)).run("b", exited(0));
    assert_eq!(w.plan().create_sandbox, None, "nothing is left to run");
}

#[test]
fn failed_probes_kill_and_restart_by_policy() {
    let failed = |startup: bool| ProbeResults {
        startup: startup.then_some(ProbeResult::Failure),
        liveness: (!startup).then_some(ProbeResult::Failure),
        readiness: None,
    };
    for (startup, reason, what) in [
        (false, KillReason::LivenessProbe, "failed liveness probe"),
        (true, KillReason::StartupProbe, "failed startup probe"),
    ] {
        for (policy, restarts) in [("Always", true), ("OnFailure", true), ("Never", false)] {
            let mut w = two(policy);
            w.run("a", running()).run("b", running()).probe("b-0", failed(startup));
            let plan = w.plan();
            assert_eq!(kills(&plan), ["b"]);
            assert_eq!(plan.kill[0].reason, reason);
            let tail = if restarts { ", will be restarted" } else { "" };
            assert_eq!(plan.kill[0].message, format!("Container b {what}{tail}"));
            assert_eq!(starts(&w, &plan), if restarts { vec!["b"] } else { vec![] });
        }
    }
    let mut w = two("Always");
    let unready = ProbeResults { readiness: Some(ProbeResult::Failure), ..Default::default() };
    w.run("a", running()).run("b", running()).probe("b-0", unready);
    assert!(w.plan().is_empty(), "readiness kills nobody");
}

#[test]
fn a_changed_image_restarts_whatever_the_policy() {
    let mut w = two("Never");
    w.run("a", running()).run("b", running());
    w.hashes = [("a".to_owned(), "h".to_owned()), ("b".to_owned(), "other".to_owned())].into();
    let plan = w.plan();
    assert_eq!(kills(&plan), ["b"]);
    assert_eq!(starts(&w, &plan), ["b"]);
    assert_eq!(plan.kill[0].message, "Container b definition changed, will be restarted");
}

#[test]
fn unknown_containers_are_killed_before_they_start_again() {
    let mut w = two("Always");
    w.run("a", running()).run("b", InstanceState::Unknown);
    let plan = w.plan();
    assert_eq!((kills(&plan), starts(&w, &plan)), (vec!["b"], vec!["b".to_owned()]));
}

fn three_inits(policy: &str) -> World {
    World::new(json!({"restartPolicy": policy, "containers": [{"name": "a"}],
        "initContainers": [{"name": "i1"}, {"name": "i2"}, {"name": "i3"}]}))
}

#[test]
fn init_containers_run_one_after_the_other() {
    let mut w = three_inits("Always");
    let mut seen = Vec::new();
    for expected in [vec!["i1"], vec!["i2"], vec!["i3"], vec!["a"]] {
        let plan = w.plan();
        assert_eq!(starts(&w, &plan), expected);
        let name = expected[0].to_owned();
        seen.push(name.clone());
        w.run(&name, running());
        assert!(w.plan().is_empty(), "while {name} runs nothing else is to be done");
        if name != "a" {
            w.instances.last_mut().unwrap().state = exited(0);
        }
    }
    w.instances.retain(|i| i.name == "a");
    assert!(w.plan().is_empty(), "forgotten init containers do not run again under a running container");
}

#[test]
fn a_failed_init_container() {
    for (policy, restarted) in [("Always", true), ("OnFailure", true), ("Never", false)] {
        let mut w = three_inits(policy);
        w.run("i1", exited(0)).run("i2", exited(1));
        let plan = w.plan();
        assert_eq!(plan.kill_pod, !restarted, "{policy}");
        assert_eq!(starts(&w, &plan), if restarted { vec!["i2"] } else { vec![] });
    }
}

fn sidecar() -> World {
    World::new(json!({"restartPolicy": "Never", "containers": [{"name": "a"}], "initContainers": [
        {"name": "s", "restartPolicy": "Always", "startupProbe": {"exec": {"command": ["true"]}}}, {"name": "i"}]}))
}

fn startup(result: ProbeResult) -> ProbeResults {
    ProbeResults { startup: Some(result), ..Default::default() }
}

#[test]
fn a_sidecar_is_waited_for_until_it_has_started() {
    let mut w = sidecar();
    assert_eq!(starts(&w, &w.plan()), ["s"]);
    w.run("s", running());
    assert!(w.plan().is_empty(), "its startup probe has not succeeded");
    w.probe("s-0", startup(ProbeResult::Unknown));
    assert!(w.plan().is_empty());
    w.probe("s-0", startup(ProbeResult::Success));
    assert_eq!(starts(&w, &w.plan()), ["i"]);
    w.run("i", exited(0));
    assert_eq!(starts(&w, &w.plan()), ["a"]);
    w.run("a", running());
    assert!(w.plan().is_empty());
    w.instances[0].state = exited(1);
    assert_eq!(
        starts(&w, &w.plan()),
        ["s"],
        "it is restarted beside the container, whatever the pod's policy"
    );
    w.instances.retain(|i| i.name != "s");
    assert_eq!(starts(&w, &w.plan()), ["s"], "also when the runtime forgot it");
}

#[test]
fn a_sidecar_does_not_keep_a_pod_alive() {
    let mut w = sidecar();
    w.run("s", running()).probe("s-0", startup(ProbeResult::Success)).run("i", exited(0)).run("a", exited(0));
    let plan = w.plan();
    assert!(plan.kill_pod && plan.start.is_empty());
    w.instances[0].state = exited(137);
    let plan = w.plan();
    assert!(plan.kill_pod && plan.start.is_empty(), "nor is it started again");
}

#[test]
fn a_sidecar_that_fails_its_probes_is_restarted() {
    let mut w = sidecar();
    w.run("s", running()).probe("s-0", startup(ProbeResult::Failure));
    let plan = w.plan();
    assert_eq!((kills(&plan), starts(&w, &plan)), (vec!["s"], vec!["s".to_owned()]));
    assert_eq!(plan.kill[0].message, "Init container s failed startup probe");
}

#[test]
fn ephemeral_containers_run_once_and_at_any_time() {
    let mut w = three_inits("Always");
    w.pod.spec.as_mut().unwrap().ephemeral_containers =
        Some(vec![serde_json::from_value(json!({"name": "e"})).unwrap()]);
    assert_eq!(starts(&w, &w.plan()), ["e", "i1"]);
    w.run("e", exited(1)).run("i1", running());
    assert!(w.plan().start.is_empty());
}

fn with_rules(policy: &str, rules: Value) -> World {
    World::new(json!({"restartPolicy": "Never", "containers": [
        {"name": "a", "restartPolicy": policy, "restartPolicyRules": rules}, {"name": "b"}]}))
}

#[test]
fn rules_of_a_container() {
    let rules = json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]);
    for (policy, code, expected) in [
        ("Never", 42, vec!["a"]),
        ("Never", 1, vec![]),
        ("OnFailure", 1, vec!["a"]),
        ("Always", 0, vec!["a"]),
    ] {
        let mut w = with_rules(policy, rules.clone());
        w.run("a", exited(code)).run("b", running());
        assert_eq!(starts(&w, &w.plan()), expected, "{policy} {code}");
    }
    let rules = json!([{"action": "Restart", "exitCodes": {"operator": "NotIn", "values": [0]}}]);
    let mut w = with_rules("Never", rules);
    w.run("a", exited(7)).run("b", running());
    assert_eq!(starts(&w, &w.plan()), ["a"]);
}

#[test]
fn one_container_may_reset_them_all() {
    let rules = json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]);
    let mut w = with_rules("Never", rules);
    w.run("a", exited(42)).run("b", running());
    let plan = w.plan();
    let order: Vec<&str> = plan.reset.iter().map(|k| k.id.as_str()).collect();
    assert_eq!(
        order,
        ["b-0", "a-0"],
        "the one that asked goes last, so that nothing is forgotten in between"
    );
    assert!(plan.start.is_empty() && plan.kill.is_empty());
    w.instances.clear();
    assert_eq!(starts(&w, &w.plan()), ["a", "b"]);
}

#[test]
fn init_failure_code_of_container_policy() {
    let mut w = World::new(json!({"restartPolicy": "Never", "containers": [{"name": "a"}],
        "initContainers": [{"name": "i", "restartPolicy": "OnFailure"}]}));
    w.run("i", exited(1));
    let plan = w.plan();
    assert!(!plan.kill_pod);
    assert_eq!(starts(&w, &plan), ["i"]);
}

/// A pod and a history that the agent could have brought about.
fn any_world() -> impl Strategy<Value = (Value, Vec<(u8, i8)>)> {
    let container = |prefix: &'static str| {
        (
            0usize..3,
            prop_oneof![Just(None), Just(Some("Always")), Just(Some("OnFailure")), Just(Some("Never"))],
        )
            .prop_map(move |(n, own)| {
                (0..n)
                    .map(|i| match own.filter(|o| prefix == "a" || *o == "Always") {
                        Some(own) => json!({"name": format!("{prefix}{i}"), "restartPolicy": own}),
                        None => json!({"name": format!("{prefix}{i}")}),
                    })
                    .collect::<Vec<_>>()
            })
    };
    let policy = prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")];
    (
        policy,
        container("i"),
        container("s"),
        container("a"),
        proptest::collection::vec((any::<u8>(), 0i8..3), 0..40),
    )
        .prop_map(|(policy, mut inits, sidecars, mut regular, history)| {
            inits.extend(sidecars);
            if regular.is_empty() {
                regular.push(json!({"name": "a0"}));
            }
            (json!({"restartPolicy": policy, "initContainers": inits, "containers": regular}), history)
        })
}

/// Applies a plan as the agent would.
fn apply(w: &mut World, plan: &Plan) {
    if plan.kill_pod {
        for i in w.instances.iter_mut().filter(|i| i.is_running()) {
            i.state = exited(137);
        }
        w.sandbox.ready = false;
    }
    for kill in &plan.kill {
        if let Some(i) = w.instances.iter_mut().find(|i| i.id == kill.id) {
            i.state = exited(137);
        }
    }
    if let Some(attempt) = plan.create_sandbox {
        w.sandbox.ready = true;
        w.sandbox.attempt = Some(attempt);
    }
    if w.sandbox.ready {
        for s in &plan.start {
            let name = spec::of_kind(&w.pod, s.kind)[s.index].name.clone();
            w.run(&name, running());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    /// Containers end at any time, in any way: never do two runs of a container live together, no regular container
    /// starts before all init containers are through, and a pod that is left alone settles.
    #[test]
    fn any_history_keeps_the_order_and_settles((spec_json, history) in any_world()) {
        let mut w = World::new(spec_json);
        w.sandbox = Default::default();
        w.sandbox.ips = vec!["10.0.0.2".to_owned()];
        for (pick, code) in history.into_iter().map(Some).chain(std::iter::repeat_n(None, 12)).map(|s| s.unwrap_or((0, -1))) {
            let plan = w.plan();
            if plan.kill_pod && plan.create_sandbox.is_none() {
                // The pod ends here: the agent plans no further.
                return Ok(());
            }
            for s in &plan.start {
                let c = &spec::of_kind(&w.pod, s.kind)[s.index];
                let killed = |i: &Instance| plan.kill_pod || plan.kill.iter().any(|k| k.id == i.id);
                prop_assert!(!w.instances.iter().any(|i| i.name == c.name && i.is_running() && !killed(i)));
                if s.kind == ContainerKind::Regular && !plan.kill_pod {
                    for init in spec::init_containers(&w.pod) {
                        let newest = w.observed().newest(&init.name).map(|i| i.state.clone());
                        prop_assert!(newest.is_some(), "{} has not run before {}", init.name, c.name);
                    }
                }
            }
            apply(&mut w, &plan);
            let alive: Vec<usize> = w.instances.iter().enumerate().filter(|(_, i)| i.is_running()).map(|(n, _)| n).collect();
            if code >= 0 && !alive.is_empty() {
                w.instances[alive[pick as usize % alive.len()]].state = exited(i32::from(code));
            } else if code < 0 {
                // Left alone: init containers do end, well.
                for i in w.instances.iter_mut().filter(|i| i.is_running()) {
                    let init = spec::init_containers(&w.pod).iter().find(|c| c.name == i.name);
                    if init.is_some_and(|c| !spec::is_sidecar(c)) {
                        i.state = exited(0);
                    }
                }
            }
        }
        let plan = w.plan();
        prop_assert!(plan.is_empty() || (plan.kill_pod && plan.start.is_empty() && plan.create_sandbox.is_none()),
            "it does not settle: {plan:?}");
    }
}
