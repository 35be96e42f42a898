use super::*;
use crate::kinds::tables::{check_create, check_update, object, row};
use serde_json::{Value, json};

fn old_style() -> Value {
    json!({
        "metadata": {"name": "e", "namespace": "n"},
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "n", "fieldPath": "spec.x", "uid": "u"},
        "reason": "Killing", "message": " stopped \n", "type": "Normal", "count": 3,
        "source": {"component": "kubelet", "host": "node1"},
        "firstTimestamp": "1970-01-01T00:00:10Z", "lastTimestamp": "1970-01-01T00:00:30Z",
    })
}

fn new_style() -> Value {
    json!({
        "metadata": {"name": "e", "namespace": "n"},
        "regarding": {"kind": "Pod", "name": "p", "namespace": "n"},
        "reason": "Scheduled", "note": "done", "type": "Normal", "action": "Binding",
        "eventTime": "1970-01-01T00:00:20.000001Z",
        "reportingController": "default-scheduler", "reportingInstance": "host-1",
    })
}

#[test]
fn core_events() {
    let table = [
        (
            json!({"involvedObject": {"namespace": "other"}}),
            r#"involvedObject.namespace: Invalid value: "other": does not match event.namespace"#,
        ),
        (
            json!({"involvedObject": {"namespace": null}}),
            r#"involvedObject.namespace: Invalid value: "": does not match event.namespace"#,
        ),
        (json!({"involvedObject": {"namespace": null}, "metadata": {"namespace": "default"}}), ""),
        (
            json!({"involvedObject": {"namespace": "N"}, "metadata": {"namespace": "N"}}),
            r#"namespace: Invalid value: "N": a lowercase RFC 1123 subdomain"#,
        ),
        (json!({"type": "Strange", "reason": "x".repeat(500)}), ""),
    ];
    check_create::<Event>(&old_style(), &table);
    check_update::<Event>(&old_style(), "", &[(json!({"message": "changed", "count": 4}), "")]);
    // With an event time the new rules hold, under the old names.
    let timed = json!({
        "metadata": {"namespace": "n"}, "involvedObject": {"namespace": "n"}, "action": "a", "reason": "r",
        "eventTime": "1970-01-01T00:00:20.000001Z", "reportingComponent": "c", "reportingInstance": "i",
    });
    let long = "x".repeat(129);
    let table = [
        (json!({"reportingComponent": null}), "[reportingComponent: Required value"),
        (json!({"reportingComponent": "a b"}), r#"reportingComponent: Invalid value: "a b": name part"#),
        (json!({"reportingInstance": null}), "reportingInstance: Required value"),
        (
            json!({"reportingInstance": long}),
            r#"reportingInstance: Invalid value: "": can have at most 128 characters"#,
        ),
        (json!({"action": null}), "action: Required value"),
        (json!({"action": long}), r#"action: Invalid value: "": can have at most 128 characters"#),
        (json!({"reason": null}), "reason: Required value"),
        (json!({"reason": long}), r#"reason: Invalid value: "": can have at most 128 characters"#),
        (
            json!({"message": "x".repeat(1025)}),
            r#"message: Invalid value: "": can have at most 1024 characters"#,
        ),
        (
            json!({"involvedObject": {"namespace": null}}),
            r#"involvedObject.namespace: Invalid value: "": does not match event.namespace"#,
        ),
        (json!({"involvedObject": {"namespace": null}, "metadata": {"namespace": "kube-system"}}), ""),
    ];
    check_create::<Event>(&timed, &table);
}

#[test]
fn new_events() {
    let table = [
        (json!({"eventTime": null}), "eventTime: Required value"),
        (json!({"type": "Strange"}), r#"type: Invalid value: "": has invalid value: Strange"#),
        (json!({"reportingController": "a b"}), r#"reportingController: Invalid value: "a b": name part"#),
        (
            json!({"series": {"count": 1, "lastObservedTime": "1970-01-01T00:00:20.000000Z"}}),
            r#"series.count: Invalid value: "": should be at least 2"#,
        ),
        (
            json!({"deprecatedFirstTimestamp": "1970-01-01T00:00:20Z"}),
            r#"firstTimestamp: Invalid value: "": needs to be unset"#,
        ),
        (
            json!({"deprecatedLastTimestamp": "1970-01-01T00:00:20Z"}),
            r#"lastTimestamp: Invalid value: "": needs to be unset"#,
        ),
        (json!({"deprecatedCount": 1}), r#"count: Invalid value: "": needs to be unset"#),
        (json!({"deprecatedSource": {"host": "h"}}), r#"source: Invalid value: "": needs to be unset"#),
        (json!({"deprecatedSource": {}, "deprecatedCount": 0}), ""),
    ];
    check_create::<v1::Event>(&new_style(), &table);
    let table = [
        (json!({"series": {"count": 2, "lastObservedTime": "1970-01-01T00:00:20.000000Z"}}), ""),
        (
            json!({"series": {"count": 1, "lastObservedTime": "1970-01-01T00:00:20.000000Z"}}),
            r#"series.count: Invalid value: "": should be at least 2"#,
        ),
        (json!({"reason": "x"}), r#"reason: Invalid value: "x": field is immutable"#),
        (json!({"note": "x"}), r#"message: Invalid value: "x": field is immutable"#),
        (json!({"type": "Warning"}), r#"type: Invalid value: "Warning": field is immutable"#),
        (json!({"action": "x"}), r#"action: Invalid value: "x": field is immutable"#),
        (json!({"regarding": {"name": "x"}}), "involvedObject: Invalid value: {"),
        (json!({"related": {"name": "x"}}), r#"related: Invalid value: {"name":"x"}: field is immutable"#),
        (json!({"deprecatedCount": 1}), "count: Invalid value: 1: field is immutable"),
        (json!({"deprecatedSource": {"host": "h"}}), "source: Invalid value: {"),
        (
            json!({"deprecatedFirstTimestamp": "1970-01-01T00:00:20Z"}),
            r#"firstTimestamp: Invalid value: "1970-01-01T00:00:20Z": field is immutable"#,
        ),
        (
            json!({"deprecatedLastTimestamp": "1970-01-01T00:00:20Z"}),
            r#"lastTimestamp: Invalid value: "1970-01-01T00:00:20Z": field is immutable"#,
        ),
        (
            json!({"eventTime": "1970-01-01T00:00:20.000002Z"}),
            r#"eventTime: Invalid value: "1970-01-01T00:00:20.000002Z": field is immutable"#,
        ),
        (
            json!({"reportingController": "x"}),
            r#"reportingController: Invalid value: "x": field is immutable"#,
        ),
        (json!({"reportingInstance": "x"}), r#"reportingInstance: Invalid value: "x": field is immutable"#),
    ];
    check_update::<v1::Event>(&new_style(), "", &table);
}

#[test]
fn both_versions_are_one_object() {
    let event: v1::Event = object(&new_style());
    assert_eq!(v1::Event::from_stored(event.clone().into_stored()), event);
    let event: Event = object(&old_style());
    assert_eq!(v1::Event::from_stored(event.clone()).into_stored(), event);
    let series: Event = object(&json!({"series": {"count": 4}}));
    assert_eq!(v1::Event::from_stored(series).series.unwrap().count, 4);
    let bare = v1::Event::from_stored(Event::default());
    assert_eq!(bare, v1::Event::default());
}

#[test]
fn each_version_has_its_rules_and_names_when_served() {
    let registry = Registry::builtin();
    let core = registry.get("", "v1", "events").unwrap();
    let new = registry.get("events.k8s.io", "v1", "events").unwrap();
    assert_eq!(core.resource(), new.resource());
    assert_eq!(new.stored_as(), ("v1", "Event"));
    assert_eq!((core.info().ttl_s, new.info().ttl_s), (Some(3600), Some(3600)));
    let object = new.decode(new_style().to_string().as_bytes(), &mut |_| ()).unwrap();
    crate::kinds::tables::with_context("", |cx| {
        assert_eq!(new.validate(object.as_ref(), cx).to_string(), "[]");
        assert_eq!(core.validate(object.as_ref(), cx).to_string(), "[]");
        let old = core.decode(old_style().to_string().as_bytes(), &mut |_| ()).unwrap();
        assert!(core.validate(old.as_ref(), cx).is_empty());
        assert!(new.validate(old.as_ref(), cx).to_string().contains("eventTime: Required value"));
        assert!(core.validate_update(object.as_ref(), old.as_ref(), cx).is_empty());
        assert!(!new.validate_update(object.as_ref(), old.as_ref(), cx).is_empty());
    });
    let value = |fields: &Fields, name: &str| {
        fields.values.iter().find(|(n, _, _)| *n == name).map(|(_, v, _)| v.clone())
    };
    let fields = new.fields(object.as_ref());
    assert_eq!(value(&fields, "regarding.name").as_deref(), Some("p"));
    assert_eq!(value(&fields, "reportingController").as_deref(), Some("default-scheduler"));
    assert_eq!(value(&fields, "involvedObject.name"), None);
    let fields = core.fields(object.as_ref());
    assert_eq!(value(&fields, "involvedObject.name").as_deref(), Some("p"));
    assert_eq!(value(&fields, "source").as_deref(), Some("default-scheduler"));
}

#[test]
fn rows() {
    let want =
        json!(["30s", "Normal", "Killing", "pod/p", "spec.x", "kubelet, node1", "stopped", "50s", 3, "e"]);
    assert_eq!(row::<Event>(&old_style()), want);
    let want = json!([
        "39s",
        "Normal",
        "Scheduled",
        "pod/p",
        "",
        "default-scheduler, host-1",
        "done",
        "39s",
        1,
        "e"
    ]);
    assert_eq!(row::<v1::Event>(&new_style()), want);
    let series = json!({"series": {"count": 7, "lastObservedTime": "1970-01-01T00:00:50.000000Z"}});
    let cells = row::<v1::Event>(&crate::kinds::tables::patched(&new_style(), &series));
    assert_eq!((&cells[0], &cells[8]), (&json!("10s"), &json!(7)));
}
