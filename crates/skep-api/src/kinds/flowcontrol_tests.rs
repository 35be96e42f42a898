use super::*;
use crate::kinds::tables::{
    check_create, check_update, create_errors, defaulted, object, patched, row, with_context,
};
use serde_json::Value;

fn schema() -> Value {
    json!({
        "metadata": {"name": "s", "creationTimestamp": "1970-01-01T00:00:00Z"},
        "spec": {
            "matchingPrecedence": 500, "priorityLevelConfiguration": {"name": "p"},
            "distinguisherMethod": {"type": "ByUser"},
            "rules": [{
                "subjects": [
                    {"kind": "User", "user": {"name": "u"}}, {"kind": "Group", "group": {"name": "g"}},
                    {"kind": "ServiceAccount", "serviceAccount": {"name": "*", "namespace": "n"}},
                ],
                "resourceRules": [{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"], "namespaces": ["n"]}],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["/", "/healthz", "/metrics/*"]}],
            }],
        },
    })
}

fn rules(patch: &Value) -> Value {
    json!({"spec": {"rules": [patched(&schema()["spec"]["rules"][0], patch)]}})
}

fn resource_rule(patch: Value) -> Value {
    let rule = &schema()["spec"]["rules"][0]["resourceRules"][0];
    rules(&json!({"resourceRules": [patched(rule, &patch)]}))
}

fn url(url: &str) -> Value {
    rules(&json!({"nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": [url]}]}))
}

fn subject(subject: Value) -> Value {
    rules(&json!({"subjects": [subject]}))
}

#[test]
fn flow_schemas() {
    let table = [
        (
            json!({"spec": {"matchingPrecedence": -1}}),
            "spec.matchingPrecedence: Invalid value: -1: must be a positive value",
        ),
        (
            json!({"spec": {"matchingPrecedence": 10001}}),
            "spec.matchingPrecedence: Invalid value: 10001: must not be greater than 10000",
        ),
        (
            json!({"spec": {"matchingPrecedence": 1}}),
            "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1",
        ),
        (
            json!({"spec": {"distinguisherMethod": {"type": "x"}}}),
            r#"spec.distinguisherMethod.type: Unsupported value: {"Type":"x"}: supported values: "ByNamespace", "ByUser""#,
        ),
        (
            json!({"spec": {"priorityLevelConfiguration": {"name": ""}}}),
            "spec.priorityLevelConfiguration.name: Required value: must reference a priority level",
        ),
        (
            json!({"spec": {"priorityLevelConfiguration": {"name": "A"}}}),
            r#"spec.priorityLevelConfiguration.name: Invalid value: "A": a lowercase RFC 1123"#,
        ),
        (
            rules(&json!({"subjects": []})),
            "spec.rules[0].subjects: Required value: subjects must contain at least one value",
        ),
        (
            rules(&json!({"resourceRules": null, "nonResourceRules": null})),
            "spec.rules[0]: Required value: at least one of resourceRules and nonResourceRules has to be non-empty",
        ),
        (
            json!({"status": {"conditions": [{"type": "A"}, {"type": "A"}]}}),
            r#"status.conditions[1].type: Duplicate value: "A""#,
        ),
        (json!({"status": {"conditions": [{}]}}), "status.conditions[0].type: Required value"),
    ];
    check_create::<FlowSchema>(&schema(), &table);
    check_update::<FlowSchema>(&schema(), "", &table);
    // A write to the status answers for the status alone.
    let (last, first) = table.split_last().unwrap();
    check_update::<FlowSchema>(&schema(), "status", &[last.clone(), (first[0].0.clone(), "")]);
}

#[test]
fn subjects() {
    let s = "spec.rules[0].subjects[0]";
    let table = [
        (
            subject(json!({"kind": "X"})),
            format!(
                r#"{s}.kind: Unsupported value: "X": supported values: "Group", "ServiceAccount", "User""#
            ),
        ),
        (
            subject(json!({"kind": "User"})),
            format!("{s}.user: Required value: user is required when subject kind is 'User'"),
        ),
        (
            subject(json!({"kind": "Group"})),
            format!("{s}.group: Required value: group is required when subject kind is 'Group'"),
        ),
        (
            subject(json!({"kind": "ServiceAccount"})),
            format!(
                "{s}.serviceAccount: Required value: serviceAccount is required when subject kind is 'ServiceAccount'"
            ),
        ),
        (subject(json!({"kind": "User", "user": {"name": ""}})), format!("{s}.user.name: Required value")),
        (subject(json!({"kind": "Group", "group": {"name": ""}})), format!("{s}.group.name: Required value")),
        (
            subject(json!({"kind": "User", "user": {"name": "u"}, "group": {"name": "g"}})),
            format!("{s}.group: Forbidden: group is forbidden when subject kind is not 'Group'"),
        ),
        (
            subject(json!({"kind": "Group", "group": {"name": "g"}, "user": {"name": "u"}})),
            format!("{s}.user: Forbidden: user is forbidden when subject kind is not 'User'"),
        ),
        (
            subject(
                json!({"kind": "Group", "group": {"name": "g"}, "serviceAccount": {"name": "u", "namespace": "n"}}),
            ),
            format!(
                "{s}.serviceAccount: Forbidden: serviceAccount is forbidden when subject kind is not 'ServiceAccount'"
            ),
        ),
        (
            subject(json!({"kind": "ServiceAccount", "serviceAccount": {"name": "", "namespace": ""}})),
            format!(
                "[{s}.serviceAccount.name: Required value, {s}.serviceAccount.namespace: Required value: must specify namespace for service account]"
            ),
        ),
        (
            subject(json!({"kind": "ServiceAccount", "serviceAccount": {"name": "A", "namespace": "n"}})),
            format!(r#"{s}.serviceAccount.name: Invalid value: "A": a lowercase RFC 1123 subdomain"#),
        ),
        (
            subject(json!({"kind": "ServiceAccount", "serviceAccount": {"name": "a", "namespace": "a.b"}})),
            format!(r#"{s}.serviceAccount.namespace: Invalid value: "a.b": must not contain dots"#),
        ),
    ];
    let table: Vec<_> = table.iter().map(|(patch, want)| (patch.clone(), want.as_str())).collect();
    check_create::<FlowSchema>(&schema(), &table);
}

#[test]
fn policy_rules() {
    let r = "spec.rules[0].resourceRules[0]";
    let n = "spec.rules[0].nonResourceRules[0]";
    let table = [
        (
            resource_rule(json!({"verbs": []})),
            format!("{r}.verbs: Required value: verbs must contain at least one value"),
        ),
        (
            resource_rule(json!({"verbs": ["*", "get"]})),
            format!(
                r#"{r}.verbs: Invalid value: ["*","get"]: if '*' is present, must not specify other verbs"#
            ),
        ),
        (
            resource_rule(json!({"verbs": ["fly"]})),
            format!(
                r#"{r}.verbs: Unsupported value: ["fly"]: supported values: "create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch""#
            ),
        ),
        (
            resource_rule(json!({"apiGroups": []})),
            format!("{r}.apiGroups: Required value: resource rules must supply at least one api group"),
        ),
        (
            resource_rule(json!({"apiGroups": ["*", ""]})),
            format!(
                r#"{r}.apiGroups: Invalid value: ["*",""]: if '*' is present, must not specify other api groups"#
            ),
        ),
        (
            resource_rule(json!({"resources": []})),
            format!("{r}.resources: Required value: resource rules must supply at least one resource"),
        ),
        (
            resource_rule(json!({"resources": ["*", "a"]})),
            format!(
                r#"{r}.resources: Invalid value: ["*","a"]: if '*' is present, must not specify other resources"#
            ),
        ),
        (
            resource_rule(json!({"namespaces": null})),
            format!(
                "{r}.namespaces: Required value: resource rules that are not cluster scoped must supply at least one namespace"
            ),
        ),
        (resource_rule(json!({"namespaces": null, "clusterScope": true})), String::new()),
        (
            resource_rule(json!({"namespaces": ["*", "a"]})),
            format!(
                r#"{r}.namespaces: Invalid value: ["*","a"]: if '*' is present, must not specify other namespaces"#
            ),
        ),
        (
            resource_rule(json!({"namespaces": ["a", "A"]})),
            format!(
                r#"{r}.namespaces[1]: Invalid value: "A": each member of this list must be '*' or a DNS-1123 label; a lowercase RFC 1123 label"#
            ),
        ),
        (
            rules(&json!({"nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": []}]})),
            format!("{n}.nonResourceURLs: Required value: nonResourceURLs must contain at least one value"),
        ),
        (
            rules(&json!({"nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["*", "/"]}]})),
            format!(
                r#"{n}.nonResourceURLs: Invalid value: ["*","/"]: if '*' is present, must not specify other non-resource URLs"#
            ),
        ),
        (url(""), format!(r#"{n}.nonResourceURLs[0]: Invalid value: "": must not be empty"#)),
        (url("a"), format!(r#"{n}.nonResourceURLs[0]: Invalid value: "a": must start with slash"#)),
        (
            url("/a b"),
            format!(r#"{n}.nonResourceURLs[0]: Invalid value: "/a b": must not contain white-space"#),
        ),
        (
            url("/a//b"),
            format!(r#"{n}.nonResourceURLs[0]: Invalid value: "/a//b": must not contain double slash"#),
        ),
        (
            url("/a*"),
            format!(r#"{n}.nonResourceURLs[0]: Invalid value: "/a*": wildcard can only do suffix matching"#),
        ),
        (
            url("/*/*"),
            format!(r#"{n}.nonResourceURLs[0]: Invalid value: "/*/*": wildcard can only do suffix matching"#),
        ),
        (url("/*"), String::new()),
    ];
    let table: Vec<_> = table.iter().map(|(patch, want)| (patch.clone(), want.as_str())).collect();
    check_create::<FlowSchema>(&schema(), &table);
}

fn level() -> Value {
    json!({
        "metadata": {"name": "l", "creationTimestamp": "1970-01-01T00:00:00Z"},
        "spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {}}}},
    })
}

#[test]
fn priority_levels() {
    let limited = |patch: Value| json!({"spec": {"limited": patch}});
    let queuing = |patch: Value| json!({"spec": {"limited": {"limitResponse": {"queuing": patch}}}});
    let q = "spec.limited.limitResponse.queuing";
    let entropy = format!(
        "{q}.handSize: Invalid value: 11: required entropy bits of deckSize 64 and handSize 11 should not be greater than 60"
    );
    let table = [
        (json!({"spec": {"type": "X"}}), r#"spec.type: Unsupported value: "X": supported values: "Exempt", "Limited""#.to_owned()),
        (
            json!({"metadata": {"name": "exempt"}}),
            r#"[spec.type: Invalid value: "Limited": must be 'Exempt' if and only if `name` is 'exempt'"#.into(),
        ),
        (
            json!({"spec": {"type": "Exempt", "limited": null}}),
            r#"spec.type: Invalid value: "Exempt": must be 'Exempt' if and only if `name` is 'exempt'"#.into(),
        ),
        (
            json!({"metadata": {"annotations": {"flowcontrol.k8s.io/v1beta3-preserve-zero-concurrency-shares": ""}}}),
            "metadata.annotations: Forbidden: annotation 'flowcontrol.k8s.io/v1beta3-preserve-zero-concurrency-shares' is forbidden".into(),
        ),
        (json!({"spec": {"exempt": {}}}), "spec.exempt: Forbidden: must be nil if the type is Limited".into()),
        (json!({"spec": {"limited": null}}), "spec.limited: Required value: must not be empty when type is Limited".into()),
        (
            limited(json!({"nominalConcurrencyShares": -1})),
            "spec.limited.nominalConcurrencyShares: Invalid value: -1: must be a non-negative integer".into(),
        ),
        (limited(json!({"nominalConcurrencyShares": 0})), String::new()),
        (
            limited(json!({"lendablePercent": 101})),
            "spec.limited.lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive".into(),
        ),
        (
            limited(json!({"borrowingLimitPercent": -1})),
            "spec.limited.borrowingLimitPercent: Invalid value: -1: if specified, must be a non-negative integer".into(),
        ),
        (
            limited(json!({"limitResponse": {"type": "X"}})),
            r#"spec.limited.limitResponse.type: Unsupported value: "X": supported values: "Queue", "Reject""#.into(),
        ),
        (
            limited(json!({"limitResponse": {"type": "Reject"}})),
            format!("{q}: Forbidden: must be nil if limited.limitResponse.type is not Limited"),
        ),
        (limited(json!({"limitResponse": {"type": "Reject", "queuing": null}})), String::new()),
        (queuing(Value::Null), format!("{q}: Required value: must not be empty if limited.limitResponse.type is Limited")),
        (queuing(json!({"queueLengthLimit": -1})), format!("{q}.queueLengthLimit: Invalid value: -1: must be positive")),
        (queuing(json!({"queues": -1})), format!("[{q}.queues: Invalid value: -1: must be positive")),
        (
            queuing(json!({"queues": 10_000_001, "handSize": 1})),
            format!("{q}.queues: Invalid value: 10000001: must not be greater than 10000000"),
        ),
        (queuing(json!({"handSize": -1})), format!("{q}.handSize: Invalid value: -1: must be positive")),
        (
            queuing(json!({"handSize": 5, "queues": 4})),
            format!("{q}.handSize: Invalid value: 5: should not be greater than queues (4)"),
        ),
        (queuing(json!({"handSize": 10})), String::new()),
        (queuing(json!({"handSize": 11})), entropy),
        (json!({"status": {"conditions": [{}]}}), "status.conditions[0].type: Required value".into()),
        (
            json!({"status": {"conditions": [{"type": "A"}, {"type": "A"}]}}),
            r#"status.conditions[1].type: Duplicate value: "A""#.into(),
        ),
    ];
    let table: Vec<_> = table.iter().map(|(patch, want)| (patch.clone(), want.as_str())).collect();
    check_create::<PriorityLevelConfiguration>(&level(), &table);
    check_update::<PriorityLevelConfiguration>(&level(), "", &table);
    check_update::<PriorityLevelConfiguration>(
        &level(),
        "status",
        &[(limited(json!({"lendablePercent": 101})), "")],
    );
}

#[test]
fn mandatory_objects_are_fixed() {
    for schema in mandatory_flow_schemas() {
        let json = serde_json::to_value(&schema).unwrap();
        assert_eq!(create_errors::<FlowSchema>(&json), "");
        assert_eq!(defaulted::<FlowSchema>(&json), json, "a mandatory object is complete");
        let errors = create_errors::<FlowSchema>(&patched(&json, &json!({"spec": {"rules": null}})));
        let name = schema.metadata.name.unwrap();
        assert!(errors.ends_with(&format!("spec of '{name}' must equal the fixed value")), "{errors}");
    }
    for level in mandatory_priority_levels() {
        let json = serde_json::to_value(&level).unwrap();
        assert_eq!(create_errors::<PriorityLevelConfiguration>(&json), "");
        assert_eq!(defaulted::<PriorityLevelConfiguration>(&json), json, "a mandatory object is complete");
    }
    let [catch_all, exempt] = mandatory_priority_levels().try_into().unwrap();
    let changed = |level: &PriorityLevelConfiguration, patch: Value| {
        create_errors::<PriorityLevelConfiguration>(&patched(&serde_json::to_value(level).unwrap(), &patch))
    };
    let shares = json!({"spec": {"limited": {"nominalConcurrencyShares": 6}}});
    assert!(changed(&catch_all, shares).ends_with("spec of 'catch-all' must equal the fixed value"));
    let exempt_of = |patch: Value| changed(&exempt, json!({"spec": {"exempt": patch}}));
    assert_eq!(exempt_of(json!({"nominalConcurrencyShares": 9})), "");
    assert_eq!(
        exempt_of(json!({"nominalConcurrencyShares": -1})),
        "spec.exempt.nominalConcurrencyShares: Invalid value: -1: must be a non-negative integer"
    );
    assert_eq!(
        exempt_of(json!({"lendablePercent": -1})),
        "spec.exempt.lendablePercent: Invalid value: -1: must be between 0 and 100, inclusive"
    );
    let limited = changed(&exempt, json!({"spec": {"limited": {}}}));
    assert!(limited.contains("spec.limited: Forbidden: must be nil if the type is not Limited"), "{limited}");
    assert!(limited.contains("except the 'spec.exempt' field must equal the fixed value"), "{limited}");
}

#[test]
fn defaults_strategy_and_rows() {
    let bare = json!({"spec": {"priorityLevelConfiguration": {"name": "p"}}});
    assert_eq!(defaulted::<FlowSchema>(&bare)["spec"]["matchingPrecedence"], 1000);
    let limited = &defaulted::<PriorityLevelConfiguration>(&level())["spec"]["limited"];
    let want = json!({
        "lendablePercent": 0, "nominalConcurrencyShares": 30,
        "limitResponse": {"type": "Queue", "queuing": {"handSize": 8, "queues": 64, "queueLengthLimit": 50}},
    });
    assert_eq!(*limited, want);
    let exempt = json!({"spec": {"type": "Exempt", "exempt": {}}});
    let exempt = &defaulted::<PriorityLevelConfiguration>(&exempt)["spec"]["exempt"];
    assert_eq!(*exempt, json!({"lendablePercent": 0, "nominalConcurrencyShares": 0}));

    let status = json!({"status": {"conditions": [{"type": "Dangling", "status": "True"}]}});
    let old: FlowSchema = object(&schema());
    let new: FlowSchema = object(&patched(
        &patched(&schema(), &status),
        &json!({"spec": {"matchingPrecedence": 7}, "metadata": {"labels": {"a": "b"}}}),
    ));
    let mut main = new.clone();
    with_context("", |cx| main.prepare_update(&old, cx));
    assert_eq!((&main.spec, &main.status), (&new.spec, &old.status));
    assert_eq!(main.generation_changed(Some(&old)), Some(true));
    let mut written = new.clone();
    with_context("status", |cx| written.prepare_update(&old, cx));
    assert_eq!((&written.spec, &written.status, &written.metadata), (&old.spec, &new.status, &old.metadata));
    assert_eq!(written.generation_changed(Some(&old)), Some(false));
    let mut created = new;
    with_context("", |cx| created.prepare_create(cx));
    assert_eq!(created.status.unwrap().conditions, None);

    assert_eq!(row::<FlowSchema>(&schema()), json!(["s", "p", 500, "ByUser", "60s", "?"]));
    let dangling = patched(&patched(&schema(), &status), &json!({"spec": {"distinguisherMethod": null}}));
    assert_eq!(row::<FlowSchema>(&dangling), json!(["s", "p", 500, "<none>", "60s", "True"]));
    assert_eq!(row::<PriorityLevelConfiguration>(&level()), json!(["l", "Limited", 30, 64, 8, 50, "60s"]));
    let exempt = json!({"metadata": {"name": "exempt"}, "spec": {"type": "Exempt"}});
    assert_eq!(
        row::<PriorityLevelConfiguration>(&exempt),
        json!(["exempt", "Exempt", "<none>", "<none>", "<none>", "<none>", "<unknown>"])
    );
}
