//! What may change in a pod, and through which subresource.
#![allow(clippy::disallowed_methods, reason = "tests measure time and read files")]

use serde_json::{Value, json};

use super::tests::valid;
use super::*;
use crate::kinds::core::testing::{created, defaulted, in_context, update_errors, updated, with};

const RULE: &str = "spec: Forbidden: pod updates may not change fields other than \
                    `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
                    `spec.tolerations` (only additions to existing tolerations),\
                    `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n";

fn changes(pointer: &str, value: Value) -> Vec<String> {
    update_errors::<Pod>(&valid(), &with(&valid(), pointer, value), "")
}

#[test]
fn what_may_change() {
    let longer = json!({"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60});
    let more = json!([longer, {"key": "more", "operator": "Exists"}]);
    for (pointer, value) in [
        ("/metadata/labels", json!({"new": "label"})),
        ("/spec/containers/0/image", json!("registry.example/web:v2")),
        ("/spec/initContainers/0/image", json!("busybox:latest")),
        ("/spec/activeDeadlineSeconds", json!(10)),
        ("/spec/tolerations", more),
        // Leaving out, or saying, what is a default changes nothing.
        ("/spec/hostNetwork", json!(false)),
        ("/spec/restartPolicy", json!("Always")),
        ("/spec/imagePullSecrets", json!([])),
    ] {
        assert_eq!(changes(pointer, value), [] as [String; 0], "{pointer}");
    }
}

#[test]
fn what_may_not_change() {
    let added = "pod updates may not add or remove containers";
    let table = [
        ("/spec/initContainers", Value::Null, format!("spec.initContainers: Forbidden: {added}")),
        ("/spec/tolerations", Value::Null,
         "spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds".into()),
        ("/spec/schedulingGates", json!([{"name": "g"}]),
         "spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'g'".into()),
        ("/metadata/annotations", json!({"container.apparmor.security.beta.kubernetes.io/main": "unconfined"}),
         "metadata.annotations[container.apparmor.security.beta.kubernetes.io/main]: Forbidden: may not add AppArmor annotations".into()),
    ];
    for (pointer, value, expected) in table {
        assert_eq!(changes(pointer, value), [expected], "{pointer}");
    }
    for (pointer, value) in [
        ("/spec/containers/0/env/0/value", json!("2")),
        ("/spec/nodeName", json!("n1")),
        ("/spec/nodeSelector", json!({"disk": "ssd", "more": "x"})),
        ("/spec/terminationGracePeriodSeconds", json!(20)),
        ("/spec/containers/0/resources/requests/cpu", json!("400m")),
    ] {
        let errors = changes(pointer, value);
        assert_eq!(errors.len(), 1, "{pointer}: {errors:?}");
        assert!(errors[0].starts_with(RULE), "{pointer}: {errors:?}");
    }
    let diff = &changes("/spec/containers/0/env/0/value", json!("2"))[0][RULE.len()..];
    assert!(diff.contains("\n-          \"value\": \"1\"\n+          \"value\": \"2\"\n"), "{diff}");
}

#[test]
fn deadlines_only_come_nearer() {
    let old = with(&valid(), "/spec/activeDeadlineSeconds", json!(10));
    let to = |value| update_errors::<Pod>(&old, &with(&old, "/spec/activeDeadlineSeconds", value), "");
    assert_eq!(to(json!(9)), [] as [String; 0]);
    assert_eq!(
        to(json!(11)),
        ["spec.activeDeadlineSeconds: Invalid value: 11: must be less than or equal to previous value",]
    );
    assert_eq!(
        to(Value::Null),
        [
            "spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer to nil value",
        ]
    );
}

#[test]
fn a_gated_pod_becomes_more_particular() {
    let old = with(&valid(), "/spec/schedulingGates", json!([{"name": "a"}, {"name": "b"}]));
    let to = |pointer: &str, value| update_errors::<Pod>(&old, &with(&old, pointer, value), "");
    let terms =
        "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    let zone = json!({"key": "zone", "operator": "In", "values": ["a"]});
    let more = json!([{"matchExpressions": [zone, {"key": "ssd", "operator": "Exists"}]}]);
    assert_eq!(to("/spec/schedulingGates", json!([{"name": "b"}])), [] as [String; 0]);
    assert_eq!(to("/spec/nodeSelector", json!({"disk": "ssd", "gpu": "yes"})), [] as [String; 0]);
    assert_eq!(to(terms, more), [] as [String; 0]);
    assert_eq!(
        to("/spec/nodeSelector", json!({"disk": "hdd"})),
        [
            r#"spec.nodeSelector: Invalid value: {"disk":"hdd"}: only additions to spec.nodeSelector are allowed (no mutations or deletions)"#,
        ]
    );
    let errors = to(terms, json!([{"matchExpressions": [{"key": "ssd", "operator": "Exists"}]}]));
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].ends_with("only additions are allowed (no mutations or deletions)"), "{errors:?}");
}

#[test]
fn each_subresource_keeps_the_rest() {
    let old: Pod = {
        let mut old: Pod = created(&valid());
        old.status.as_mut().unwrap().observed_generation = Some(3);
        old
    };
    let changed = with(&valid(), "/spec/containers/0/image", json!("other:1"));
    let changed = with(&changed, "/metadata/labels", json!({"app": "other"}));
    let changed = with(&changed, "/status", json!({"phase": "Running", "podIP": "10.0.0.1"}));

    let main = updated(&old, &changed, "");
    assert_eq!(main.status, old.status);
    assert_eq!(main.generation_changed(Some(&old)), Some(true));

    let status = updated(&old, &changed, "status");
    assert_eq!(status.spec, old.spec);
    let new = status.status.unwrap();
    assert_eq!(new.phase.as_deref(), Some("Running"));
    assert_eq!(new.qos_class.as_deref(), Some("Burstable"));
    assert_eq!(new.observed_generation, Some(3));
    assert_eq!(new.pod_ips.unwrap()[0].ip, "10.0.0.1");

    for subresource in ["resize", "ephemeralcontainers"] {
        let kept = updated(&old, &changed, subresource);
        assert_eq!((&kept.spec, &kept.status), (&old.spec, &old.status), "{subresource}");
        assert_eq!(kept.metadata.labels, old.metadata.labels, "{subresource}");
    }
}

#[test]
fn ephemeral_containers() {
    let debug = json!({"name": "debug", "image": "busybox", "targetContainerName": "main"});
    let errors = |old: Value, new: Value| {
        let at = |list| with(&valid(), "/spec/ephemeralContainers", list);
        update_errors::<Pod>(&at(old), &at(new), "ephemeralcontainers")
    };
    assert_eq!(errors(Value::Null, json!([debug])), [] as [String; 0]);
    assert_eq!(errors(json!([debug]), json!([debug])), [] as [String; 0]);
    assert_eq!(
        errors(json!([debug]), Value::Null),
        ["spec.ephemeralContainers: Forbidden: existing ephemeral containers \"debug\" may not be removed\n",]
    );
    let other = json!([{"name": "debug", "image": "alpine", "targetContainerName": "main"}]);
    let changed = errors(json!([debug]), other);
    assert!(changed[0].starts_with(
        "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"debug\" may not be changed\n"
    ), "{changed:?}");
    let wrong = json!([
        {"name": "main", "image": "busybox", "ports": [{"containerPort": 1}]},
        {"name": "x", "image": "busybox", "targetContainerName": "nope"}
    ]);
    assert_eq!(
        errors(Value::Null, wrong),
        [
            r#"spec.ephemeralContainers[0].name: Duplicate value: "main""#,
            "spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container",
            r#"spec.ephemeralContainers[1].targetContainerName: Not found: "nope""#,
        ]
    );
}

#[test]
fn resizing() {
    let to = |pointer: &str, value| update_errors::<Pod>(&valid(), &with(&valid(), pointer, value), "resize");
    let resources = "/spec/containers/0/resources";
    let bigger = json!({"limits": {"cpu": "2", "memory": "2Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}});
    assert_eq!(to(resources, bigger), [] as [String; 0]);
    // Everything but resources is kept from the old pod.
    assert_eq!(to("/spec/containers/0/image", json!("other:1")), [] as [String; 0]);
    assert_eq!(
        to(resources, json!({})),
        [
            r#"spec: Invalid value: "": Pod QOS Class may not change as a result of resizing"#,
            "spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed",
            "spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed",
        ]
    );
    assert_eq!(
        to(&format!("{resources}/limits/ephemeral-storage"), json!("1Gi")),
        ["spec: Forbidden: only cpu and memory resources are mutable",]
    );
    assert_eq!(
        to("/spec/containers/0/name", json!("renamed")),
        ["spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize",]
    );
    let running = with(
        &valid(),
        "/status",
        json!({"containerStatuses": [
            {"name": "main", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}}
        ]}),
    );
    assert_eq!(
        update_errors::<Pod>(&running, &running, "resize"),
        ["spec: Forbidden: Pod running on node without support for resize",]
    );
}

fn status_errors(old: Value, new: Value) -> Vec<String> {
    let at = |status| with(&valid(), "/status", status);
    update_errors::<Pod>(&at(old), &at(new), "status")
}

#[test]
fn statuses() {
    let table: &[(Value, &[&str])] = &[
        (
            json!({"phase": "Running", "podIP": "10.0.0.1", "hostIP": "10.0.0.2", "hostIPs": [{"ip": "10.0.0.2"}]}),
            &[],
        ),
        (json!({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}), &[]),
        (
            json!({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]}),
            &[
                r#"status.podIPs: Invalid value: [{"ip":"10.0.0.1"},{"ip":"10.0.0.2"}]: may specify no more than one IP for each IP family"#,
            ],
        ),
        (
            json!({"podIPs": [{"ip": "x"}]}),
            &[
                r#"status.podIPs[0]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"#,
            ],
        ),
        (
            json!({"hostIPs": [{"ip": "10.0.0.2"}]}),
            &[r#"status.hostIPs[0].ip: Invalid value: "10.0.0.2": must be equal to `hostIP`"#],
        ),
        (
            json!({"observedGeneration": -1}),
            &["status.observedGeneration: Invalid value: -1: must be a non-negative integer"],
        ),
        (
            json!({"qosClass": "Guaranteed"}),
            &[r#"status.qosClass: Invalid value: "Guaranteed": field is immutable"#],
        ),
        (
            json!({"resourceClaimStatuses": [{"name": "c"}]}),
            &[
                r#"status.resourceClaimStatuses[0].name: Invalid value: "c": must match the name of an entry in `spec.resourceClaims`"#,
            ],
        ),
    ];
    for (new, expected) in table {
        assert_eq!(status_errors(json!({"qosClass": "Burstable"}), new.clone()), *expected, "{new}");
    }
}

#[test]
fn containers_that_ended_stay_ended_unless_they_restart() {
    let status = |name: &str, state: Value| {
        json!({"qosClass": "Burstable", "containerStatuses": [
            {"name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}
        ]})
    };
    let ended = |code: i32| status("main", json!({"terminated": {"exitCode": code}}));
    let again = status("main", json!({"running": {}}));
    let refused =
        "status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state";
    for (policy, code, allowed) in
        [("Always", 0, true), ("OnFailure", 0, false), ("OnFailure", 1, true), ("Never", 1, false)]
    {
        let pod = with(&valid(), "/spec/restartPolicy", json!(policy));
        let errors = update_errors::<Pod>(
            &with(&pod, "/status", ended(code)),
            &with(&pod, "/status", again.clone()),
            "status",
        );
        let expected: &[&str] = if allowed { &[] } else { &[refused] };
        assert_eq!(errors, expected, "{policy} {code}");
    }
}

#[test]
fn deletion_takes_as_long_as_it_is_given() {
    let mut pod: Pod = defaulted(&valid());
    assert_eq!(deletion_grace_s(&pod, Some(5)), 0, "a pod without a node is just gone");
    pod.spec.as_mut().unwrap().node_name = Some("n".into());
    assert_eq!(deletion_grace_s(&pod, None), 30);
    assert_eq!(deletion_grace_s(&pod, Some(5)), 5);
    assert_eq!(deletion_grace_s(&pod, Some(-5)), 1);
    pod.status = Some(PodStatus { phase: Some("Succeeded".into()), ..Default::default() });
    assert_eq!(deletion_grace_s(&pod, None), 0);
}

#[test]
fn fields_that_are_selected_on() {
    let pod: Pod = defaulted(&with(&valid(), "/spec/nodeName", json!("n1")));
    let mut fields = Fields::default();
    pod.fields(&mut fields);
    let of = |name: &str| fields.values.iter().find(|(n, _, _)| *n == name).map(|(_, v, i)| (v.as_str(), *i));
    assert_eq!(of("spec.nodeName"), Some(("n1", true)));
    assert_eq!(of("spec.hostNetwork"), Some(("false", false)));
    assert_eq!(of("spec.serviceAccountName"), Some(("runner", false)));
}

/// How long a typical pod takes; run by hand: `cargo test --release -p skep-api -- --ignored --nocapture pod`.
#[test]
#[ignore = "a measurement"]
fn time_to_default_and_validate() {
    const ROUNDS: u32 = 20_000;
    let simple = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": [{
        "name": "c", "image": "nginx:1", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
        "ports": [{"containerPort": 80}]
    }]}});
    for (name, json) in [("simple", simple), ("rich", valid())] {
        let given: Pod = serde_json::from_value(json).unwrap();
        let mut pods = vec![given; ROUNDS as usize];
        let start = std::time::Instant::now();
        pods.iter_mut().for_each(Kind::set_defaults);
        let defaulted = start.elapsed() / ROUNDS;
        let start = std::time::Instant::now();
        in_context("", |cx| {
            for pod in &pods {
                let mut errors = Errors::new();
                pod.validate(cx, &mut errors);
                assert!(errors.is_empty());
            }
        });
        println!("{name}: defaults {defaulted:?}, validation {:?}", start.elapsed() / ROUNDS);
    }
}
