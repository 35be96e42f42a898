use super::*;
use crate::Kind;
use crate::kind::Fields;
use crate::kinds::tables::{
    check_create, check_update, create_errors, defaulted, object, row, update_errors, with_context,
};
use serde_json::{Value, json};

fn machine() -> Value {
    json!({
        "apiVersion": "compute.skep.io/v1", "kind": "Machine",
        "metadata": {"name": "m1", "creationTimestamp": "1970-01-01T00:00:00Z", "generation": 3},
        "spec": {
            "flavorName": "small", "isolation": "process", "nodePoolName": "default",
            "resources": {"cpu": "1", "memory": "1Gi"},
        },
    })
}

#[test]
fn machines_are_checked() {
    let resource = |key: &str, amount: &str| json!({"spec": {"resources": {key: amount}}});
    check_create::<Machine>(
        &machine(),
        &[
            (json!({"spec": {"flavorName": ""}}), "spec.flavorName: Required value"),
            (json!({"spec": {"flavorName": "A"}}), r#"spec.flavorName: Invalid value: "A": a lowercase"#),
            (json!({"spec": {"hostName": "h_1"}}), r#"spec.hostName: Invalid value: "h_1""#),
            (json!({"spec": {"hostName": "h1"}}), ""),
            (json!({"spec": {"resources": {"cpu": null}}}), "spec.resources[cpu]: Required value"),
            (resource("cpu", "0"), r#"spec.resources[cpu]: Invalid value: "0": must be greater than 0"#),
            (resource("gpu", "1"), r#"spec.resources[gpu]: Unsupported value: "gpu""#),
            (resource("ephemeral-storage", "0"), ""),
            (
                resource("ephemeral-storage", "-1"),
                r#"spec.resources[ephemeral-storage]: Invalid value: "-1": must be greater than or equal to 0"#,
            ),
            (json!({"spec": {"nodeLabels": {"a b": "c"}}}), r#"spec.nodeLabels: Invalid value: "a b""#),
        ],
    );
}

#[test]
fn a_machine_gets_a_host_once_and_stays_as_it_is() {
    let unplaced = machine();
    assert_eq!(defaulted::<Machine>(&unplaced)["spec"]["nodeName"], "m1");
    // One that got its name from the server was stored without a node's.
    let mut named = machine();
    named["spec"]["nodeName"] = "m1".into();
    assert_eq!(update_errors::<Machine>(&named, &unplaced, ""), "");
    let mut placed = machine();
    placed["spec"]["hostName"] = "h1".into();
    assert_eq!(update_errors::<Machine>(&placed, &unplaced, ""), "");
    check_update::<Machine>(
        &placed,
        "",
        &[
            (
                json!({"spec": {"hostName": "h2"}}),
                r#"spec.hostName: Invalid value: "h2": field is immutable"#,
            ),
            (json!({"spec": {"hostName": null}}), "spec.hostName: Invalid value: null: field is immutable"),
            (
                json!({"spec": {"nodeName": "n2"}}),
                r#"spec.nodeName: Invalid value: "n2": field is immutable"#,
            ),
            (json!({"spec": {"isolation": "vm"}}), r#"spec.isolation: Invalid value: "vm": field is imm"#),
            (json!({"spec": {"resources": {"cpu": "2"}}}), "spec.resources: Invalid value"),
            (json!({"spec": {"nodeLabels": {"a": "b"}}}), ""),
        ],
    );
}

#[test]
fn word_of_an_older_generation_is_refused() {
    let mut told = machine();
    told["status"] = json!({"phase": "Running", "observedGeneration": 2, "restarts": 1});
    check_update::<Machine>(
        &told,
        "status",
        &[
            (json!({"status": {"observedGeneration": 3}}), ""),
            (
                json!({"status": {"observedGeneration": 1}}),
                "status.observedGeneration: Invalid value: 1: must not be decremented",
            ),
            (
                json!({"status": {"observedGeneration": 4}}),
                "status.observedGeneration: Invalid value: 4: must not be greater than `metadata.generation`",
            ),
            (json!({"status": {"restarts": -1}}), "status.restarts: Invalid value: -1: must be greater"),
        ],
    );
    // A write to the status changes nothing else, and the other way round.
    let mut new: Machine = object(&told);
    let old: Machine = object(&told);
    new.spec.host_name = Some("h9".to_owned());
    new.metadata.finalizers = None;
    with_context("status", |cx| new.prepare_update(&old, cx));
    assert_eq!(new.spec, old.spec);
    assert_eq!(new.metadata, old.metadata);
    new.status = None;
    with_context("", |cx| new.prepare_update(&old, cx));
    assert_eq!(new.status, old.status);
}

#[test]
fn a_new_machine_waits_and_cannot_go_before_its_host_let_go() {
    let mut new: Machine = object(&machine());
    new.status = Some(MachineStatus { phase: Some(MachinePhase::Running), ..MachineStatus::default() });
    with_context("", |cx| new.prepare_create(cx));
    assert_eq!(new.phase(), MachinePhase::Pending);
    assert_eq!(new.metadata.finalizers.as_deref(), Some(&[HOST_FINALIZER.to_owned()][..]));
    with_context("", |cx| new.prepare_create(cx));
    assert_eq!(new.metadata.finalizers.as_ref().map(Vec::len), Some(1), "once");
    let mut fields = Fields::default();
    new.spec.host_name = Some("h1".to_owned());
    new.fields(&mut fields);
    assert!(fields.values.contains(&("spec.hostName", "h1".to_owned(), true)), "hosts watch by it");
    assert_eq!(
        row::<Machine>(&machine()),
        json!(["m1", "Pending", "small", "process", "", "60s", "m1", "1", "1Gi", "default"])
    );
}

#[test]
fn flavors_are_checked() {
    let good = json!({
        "metadata": {"name": "small", "creationTimestamp": "1970-01-01T00:00:00Z"},
        "spec": {"resources": {"cpu": "0.5", "memory": "512Mi"}, "price": 2, "isolations": ["vm"]},
    });
    check_create::<Flavor>(
        &good,
        &[
            (
                json!({"spec": {"resources": null}}),
                "[spec.resources[cpu]: Required value, spec.resources[memory]",
            ),
            (json!({"spec": {"price": -1}}), "spec.price: Invalid value: -1: must be greater than or equal"),
            (json!({"spec": {"isolations": ["vm", "vm"]}}), r#"spec.isolations[1]: Duplicate value: "vm""#),
            (json!({"spec": {"priceClass": "x".repeat(64)}}), "spec.priceClass: Too long"),
        ],
    );
    assert_eq!(row::<Flavor>(&good), json!(["small", "500m", "512Mi", "", "2", "vm", "60s"]));
    for flavor in default_flavors() {
        assert_eq!(create_errors::<Flavor>(&serde_json::to_value(&flavor).unwrap()), "");
    }
}

#[test]
fn pools_are_checked() {
    let good = json!({
        "metadata": {"name": "p", "creationTimestamp": "1970-01-01T00:00:00Z"},
        "spec": {"flavorNames": ["a", "b"], "minMachines": 1, "maxMachines": 3},
    });
    check_create::<NodePool>(
        &good,
        &[
            (json!({"spec": {"flavorNames": ["a", "a"]}}), r#"spec.flavorNames[1]: Duplicate value: "a""#),
            (json!({"spec": {"flavorNames": ["A"]}}), r#"spec.flavorNames[0]: Invalid value: "A""#),
            (json!({"spec": {"minMachines": -1}}), "spec.minMachines: Invalid value: -1: must be greater"),
            (
                json!({"spec": {"maxMachines": 0}}),
                "spec.maxMachines: Invalid value: 0: must be greater than or equal to `spec.minMachines`",
            ),
            (
                json!({"spec": {"emptyDelaySeconds": 86_401}}),
                "spec.emptyDelaySeconds: Invalid value: 86401: must be between 0 and 86400, inclusive",
            ),
            (json!({"spec": {"taints": [{"key": "a", "effect": "No"}]}}), "spec.taints[0].effect: Unsupp"),
            (json!({"status": {"machines": -1}}), "status.machines: Invalid value: -1"),
        ],
    );
    assert_eq!(row::<NodePool>(&good), json!(["p", 0, 0, 1, "3", "process", "60s", "a,b"]));
    let default = default_node_pool();
    assert_eq!(create_errors::<NodePool>(&serde_json::to_value(&default).unwrap()), "");
    assert_eq!((default.min_machines(), default.empty_delay_s()), (0, DEFAULT_EMPTY_DELAY_S));
}

#[test]
fn hosts_are_checked_and_shown() {
    let good = json!({
        "metadata": {"name": "h1", "creationTimestamp": "1970-01-01T00:00:00Z"},
        "spec": {"unschedulable": true},
        "status": {
            "capacity": {"cpu": "2", "memory": "8Gi"}, "allocatable": {"cpu": "1500m", "memory": "7Gi"},
            "isolations": ["process"], "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
            "conditions": [{
                "type": "Ready", "status": "True", "reason": "DaemonReady", "message": "",
                "lastTransitionTime": "1970-01-01T00:00:00Z",
            }],
        },
    });
    let address =
        |kind: &str, address: &str| json!({"status": {"addresses": [{"type": kind, "address": address}]}});
    check_update::<Host>(
        &good,
        "status",
        &[
            (address("InternalIP", "x"), r#"status.addresses[0].address: Invalid value: "x""#),
            (address("Hostname", "x"), ""),
            (address("MAC", "x"), "status.addresses[0].type: Unsupported value"),
            (json!({"status": {"allocatable": {"x": "1"}}}), "status.allocatable[x]: Unsupported value"),
        ],
    );
    assert_eq!(
        row::<Host>(&good),
        json!(["h1", "Ready,SchedulingDisabled", "1500m", "7Gi", "process", "60s", "10.0.0.1", ""])
    );
    let host: Host = object(&good);
    assert!(host.is_ready() && host.is_unschedulable());
    assert!(!Host::default().is_ready(), "nobody has said so");
}

#[test]
fn json_of_another_kind_is_refused() {
    let read = |json: Value| serde_json::from_value::<Host>(json).map(|_| ()).map_err(|e| e.to_string());
    assert_eq!(read(json!({"kind": "Host", "metadata": {"name": "a"}})), Ok(()));
    assert!(read(json!({"kind": "Machine"})).unwrap_err().contains("expected Host"));
    assert!(read(json!({"apiVersion": "v1"})).unwrap_err().contains("expected compute.skep.io/v1"));
    let text = serde_json::to_string(&default_node_pool()).unwrap();
    assert!(text.starts_with(r#"{"apiVersion":"compute.skep.io/v1","kind":"NodePool","metadata""#), "{text}");
}
