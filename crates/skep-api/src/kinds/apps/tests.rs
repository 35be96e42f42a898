use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use serde_json::{Value, json};

use crate::kind::Kind;
use crate::kinds::testing::{
    bumps_generation, check_create, check_update, create_errors, create_warnings, created, defaulted, object,
    row, update_errors, with, with_context,
};

fn template() -> Value {
    json!({
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [
            {"name": "a", "image": "img:1"},
            {"name": "b", "image": "img:2"},
        ]},
    })
}

fn workload(kind: &str) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template()},
    })
}

const MISMATCH: &str = "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`";

#[test]
fn deployment_defaults() {
    let got = defaulted::<Deployment>(&workload("Deployment"));
    assert_eq!(got["spec"]["replicas"], 1);
    assert_eq!(got["spec"]["revisionHistoryLimit"], 10);
    assert_eq!(got["spec"]["progressDeadlineSeconds"], 600);
    assert_eq!(
        got["spec"]["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
    );
    assert_eq!(got["spec"]["template"]["spec"]["restartPolicy"], "Always");
    let recreate = with(&workload("Deployment"), &[("/spec/strategy/type", json!("Recreate"))]);
    assert_eq!(defaulted::<Deployment>(&recreate)["spec"]["strategy"], json!({"type": "Recreate"}));
}

#[test]
fn deployment_create() {
    check_create::<Deployment>(
        &workload("Deployment"),
        &[
            (
                &[("/spec/replicas", json!(-1))],
                &["spec.replicas: Invalid value: -1: must be greater than or equal to 0"],
            ),
            (&[("/spec/selector", Value::Null)], &["spec.selector: Required value", MISMATCH]),
            (
                &[("/spec/selector", json!({"matchLabels": {}}))],
                &["spec.selector: Invalid value: {}: empty selector is invalid for deployment"],
            ),
            (&[("/spec/selector/matchLabels/app", json!("other"))], &[MISMATCH]),
            (
                &[(
                    "/spec/selector",
                    json!({"matchExpressions": [{"key": "app", "operator": "Exists", "values": ["x"]}]}),
                )],
                &[
                    "spec.selector.matchExpressions[0].values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                    r#"spec.selector: Invalid value: {"matchExpressions":[{"key":"app","operator":"Exists","values":["x"]}]}: invalid label selector"#,
                ],
            ),
            (
                &[("/spec/strategy/type", json!("Foo"))],
                &[
                    r#"spec.strategy: Unsupported value: {"Type":"Foo","RollingUpdate":null}: supported values: "Recreate", "RollingUpdate""#,
                ],
            ),
            (
                &[("/spec/strategy", json!({"type": "Recreate", "rollingUpdate": {}}))],
                &[
                    "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
                ],
            ),
            (
                &[("/spec/strategy/rollingUpdate", json!({"maxSurge": 0, "maxUnavailable": "0%"}))],
                &[
                    r#"spec.strategy.rollingUpdate.maxUnavailable: Invalid value: "0%": may not be 0 when `maxSurge` is 0"#,
                ],
            ),
            (
                &[("/spec/strategy/rollingUpdate", json!({"maxSurge": "-1%", "maxUnavailable": "101%"}))],
                &[
                    r#"spec.strategy.rollingUpdate.maxSurge: Invalid value: "-1%": a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')"#,
                    r#"spec.strategy.rollingUpdate.maxUnavailable: Invalid value: "101%": must not be greater than 100%"#,
                ],
            ),
            (
                &[("/spec/progressDeadlineSeconds", json!(5)), ("/spec/minReadySeconds", json!(5))],
                &["spec.progressDeadlineSeconds: Invalid value: 5: must be greater than minReadySeconds"],
            ),
            (
                &[("/spec/revisionHistoryLimit", json!(-1)), ("/spec/minReadySeconds", json!(-2))],
                &[
                    "spec.minReadySeconds: Invalid value: -2: must be greater than or equal to 0",
                    "spec.revisionHistoryLimit: Invalid value: -1: must be greater than or equal to 0",
                ],
            ),
            (
                &[("/spec/template/spec/restartPolicy", json!("Never"))],
                &[
                    r#"spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always""#,
                ],
            ),
            (
                &[("/spec/template/spec/activeDeadlineSeconds", json!(9))],
                &[
                    "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported",
                ],
            ),
        ],
    );
}

#[test]
fn deployment_updates() {
    let valid = workload("Deployment");
    check_update::<Deployment>(
        &valid,
        "",
        &[
            (
                &[],
                &[("/spec/replicas", json!(3)), ("/spec/template/spec/containers/0/image", json!("new"))],
                &[],
            ),
            (
                &[],
                &[
                    ("/spec/selector/matchLabels", json!({"a": "b"})),
                    ("/spec/template/metadata/labels", json!({"a": "b"})),
                ],
                &[r#"spec.selector: Invalid value: {"matchLabels":{"a":"b"}}: field is immutable"#],
            ),
        ],
    );
    check_update::<Deployment>(
        &valid,
        "status",
        &[
            (&[], &[("/status", json!({"replicas": 2, "readyReplicas": 2, "availableReplicas": 1}))], &[]),
            (
                &[],
                &[(
                    "/status",
                    json!({"replicas": 1, "readyReplicas": 2, "availableReplicas": 3, "updatedReplicas": 2}),
                )],
                &[
                    "status.updatedReplicas: Invalid value: 2: cannot be greater than status.replicas",
                    "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas",
                    "status.availableReplicas: Invalid value: 3: cannot be greater than status.replicas",
                    "status.availableReplicas: Invalid value: 3: cannot be greater than readyReplicas",
                ],
            ),
            (
                &[("/status", json!({"collisionCount": 2}))],
                &[("/status", json!({"collisionCount": 1}))],
                &["status.collisionCount: Invalid value: 1: cannot be decremented"],
            ),
            (
                &[("/status", json!({"collisionCount": 2}))],
                &[("/status", json!({}))],
                &["status.collisionCount: Invalid value: 0: cannot be decremented"],
            ),
            (
                &[],
                &[("/status", json!({"terminatingReplicas": -1, "observedGeneration": -1}))],
                &[
                    "status.observedGeneration: Invalid value: -1: must be greater than or equal to 0",
                    "status.terminatingReplicas: Invalid value: -1: must be greater than or equal to 0",
                ],
            ),
        ],
    );
}

#[test]
fn writes_to_spec_and_status_keep_to_themselves() {
    let tree = with(&workload("Deployment"), &[("/status", json!({"replicas": 9}))]);
    let old: Deployment = created(&tree);
    assert_eq!(old.status, Some(Default::default()), "a creator cannot set the status");

    let both = with(&tree, &[("/spec/replicas", json!(7)), ("/metadata/labels", json!({"x": "y"}))]);
    let mut to_spec: Deployment = object(&both);
    with_context("", |cx| to_spec.prepare_update(&old, cx));
    assert_eq!(to_spec.status, old.status);
    assert_eq!(to_spec.spec.as_ref().unwrap().replicas, Some(7));

    let mut to_status: Deployment = object(&both);
    with_context("status", |cx| to_status.prepare_update(&old, cx));
    assert_eq!(to_status.spec, old.spec);
    assert_eq!(to_status.metadata.labels, None);
    assert_eq!(to_status.status.as_ref().unwrap().replicas, Some(9));
}

#[test]
fn generations_follow_specs() {
    let old = workload("Deployment");
    let replicas = with(&old, &[("/spec/replicas", json!(2))]);
    let annotated = with(&old, &[("/metadata/annotations", json!({"a": "b"}))]);
    let labelled = with(&old, &[("/metadata/labels", json!({"a": "b"}))]);
    assert!(bumps_generation::<Deployment>(&old, &replicas));
    assert!(bumps_generation::<Deployment>(&old, &annotated));
    assert!(!bumps_generation::<Deployment>(&old, &labelled));
    assert!(!bumps_generation::<Deployment>(&old, &old));
    assert!(!bumps_generation::<ReplicaSet>(
        &old_of("ReplicaSet"),
        &with(&old_of("ReplicaSet"), &[("/metadata/annotations", json!({"a": "b"}))])
    ));
    assert_eq!(object::<Deployment>(&old).generation_changed(None), Some(true));
}

fn old_of(kind: &str) -> Value {
    workload(kind)
}

#[test]
fn deployment_row_and_scale() {
    let tree = with(
        &workload("Deployment"),
        &[
            ("/spec/replicas", json!(3)),
            (
                "/status",
                json!({"replicas": 4, "readyReplicas": 2, "updatedReplicas": 1, "availableReplicas": 2}),
            ),
        ],
    );
    assert_eq!(
        row::<Deployment>(&tree),
        [
            ("Name", json!("web")),
            ("Ready", json!("2/3")),
            ("Up-to-date", json!(1)),
            ("Available", json!(2)),
            ("Age", json!("90s")),
            ("Containers", json!("a,b")),
            ("Images", json!("img:1,img:2")),
            ("Selector", json!("app=web")),
        ]
    );
    let mut deployment: Deployment = object(&tree);
    let scale = deployment.scale().unwrap();
    assert_eq!((scale.spec_replicas, scale.status_replicas, scale.selector.as_str()), (3, 4, "app=web"));
    deployment.set_scale(8);
    assert_eq!(deployment.scale().unwrap().spec_replicas, 8);
}

#[test]
fn names_that_are_no_labels_are_warned_of() {
    let tree = with(&workload("Deployment"), &[("/metadata/name", json!("a.b"))]);
    assert_eq!(
        create_warnings::<Deployment>(&tree)[0],
        "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]"
    );
}

#[test]
fn replica_sets() {
    let valid = workload("ReplicaSet");
    check_create::<ReplicaSet>(
        &valid,
        &[
            (&[("/spec/selector/matchLabels/app", json!("other"))], &[MISMATCH]),
            (
                &[("/spec/minReadySeconds", json!(-1))],
                &["spec.minReadySeconds: Invalid value: -1: must be greater than or equal to 0"],
            ),
            (
                &[("/spec/selector", json!({"matchLabels": {}}))],
                &["spec.selector: Invalid value: {}: empty selector is invalid for deployment"],
            ),
        ],
    );
    check_update::<ReplicaSet>(
        &valid,
        "status",
        &[(
            &[],
            &[("/status", json!({"replicas": 1, "fullyLabeledReplicas": 2, "availableReplicas": 1}))],
            &[
                "status.fullyLabeledReplicas: Invalid value: 2: cannot be greater than status.replicas",
                "status.availableReplicas: Invalid value: 1: cannot be greater than readyReplicas",
            ],
        )],
    );
    let tree = with(&valid, &[("/status", json!({"replicas": 1, "readyReplicas": 1}))]);
    assert_eq!(
        row::<ReplicaSet>(&tree)[1..4],
        [("Desired", json!(1)), ("Current", json!(1)), ("Ready", json!(1))]
    );
}

#[test]
fn stateful_set_defaults() {
    let got = defaulted::<StatefulSet>(&workload("StatefulSet"));
    assert_eq!(got["spec"]["podManagementPolicy"], "OrderedReady");
    assert_eq!(
        got["spec"]["updateStrategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}})
    );
    assert_eq!(
        got["spec"]["persistentVolumeClaimRetentionPolicy"],
        json!({"whenDeleted": "Retain", "whenScaled": "Retain"})
    );
    assert_eq!((&got["spec"]["replicas"], &got["spec"]["revisionHistoryLimit"]), (&json!(1), &json!(10)));
    // A strategy that names its type keeps what it has.
    let typed = with(&workload("StatefulSet"), &[("/spec/updateStrategy/type", json!("RollingUpdate"))]);
    assert_eq!(defaulted::<StatefulSet>(&typed)["spec"]["updateStrategy"], json!({"type": "RollingUpdate"}));
}

#[test]
fn stateful_set_create() {
    check_create::<StatefulSet>(
        &workload("StatefulSet"),
        &[
            (
                &[("/spec/podManagementPolicy", json!("Odd"))],
                &[r#"spec.podManagementPolicy: Invalid value: "Odd": must be 'OrderedReady' or 'Parallel'"#],
            ),
            (
                &[("/spec/updateStrategy", json!({"type": "OnDelete", "rollingUpdate": {"partition": 2}}))],
                &[
                    r#"spec.updateStrategy.rollingUpdate: Invalid value: {"Partition":2,"MaxUnavailable":null}: only allowed for updateStrategy 'RollingUpdate'"#,
                ],
            ),
            (
                &[("/spec/updateStrategy/type", json!("Odd"))],
                &[
                    r#"spec.updateStrategy: Invalid value: {"Type":"Odd","RollingUpdate":null}: must be 'RollingUpdate' or 'OnDelete'"#,
                ],
            ),
            (
                &[(
                    "/spec/updateStrategy",
                    json!({"type": "RollingUpdate", "rollingUpdate": {"partition": -1}}),
                )],
                &[
                    "spec.updateStrategy.rollingUpdate.partition: Invalid value: -1: must be greater than or equal to 0",
                ],
            ),
            (
                &[("/spec/persistentVolumeClaimRetentionPolicy", json!({"whenDeleted": "Maybe"}))],
                &[
                    r#"spec.persistentVolumeClaimRetentionPolicy.whenDeleted: Unsupported value: "Maybe": supported values: "Retain", "Delete""#,
                ],
            ),
            (
                &[("/spec/ordinals/start", json!(-1))],
                &["spec.ordinals.start: Invalid value: -1: must be greater than or equal to 0"],
            ),
            (
                &[("/spec/serviceName", json!("a.b"))],
                &[r#"spec.serviceName: Invalid value: "a.b": must not contain dots"#],
            ),
            (&[("/spec/selector", Value::Null)], &["spec.selector: Required value", MISMATCH]),
            (
                &[("/spec/template/spec/restartPolicy", json!("OnFailure"))],
                &[
                    r#"spec.template.spec.restartPolicy: Unsupported value: "OnFailure": supported values: "Always""#,
                ],
            ),
        ],
    );
}

#[test]
fn stateful_set_updates() {
    let valid = workload("StatefulSet");
    const FORBIDDEN: &str = "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
    let claim = json!({"metadata": {"name": "data"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
    }});
    check_update::<StatefulSet>(
        &valid,
        "",
        &[
            (
                &[],
                &[
                    ("/spec/replicas", json!(3)),
                    ("/spec/ordinals/start", json!(1)),
                    ("/spec/minReadySeconds", json!(1)),
                    ("/spec/template/spec/containers/0/image", json!("new")),
                    ("/spec/persistentVolumeClaimRetentionPolicy/whenDeleted", json!("Delete")),
                ],
                &[],
            ),
            (&[], &[("/spec/podManagementPolicy", json!("Parallel"))], &[FORBIDDEN]),
            (&[], &[("/spec/serviceName", json!("svc"))], &[FORBIDDEN]),
            (&[], &[("/spec/volumeClaimTemplates", json!([claim]))], &[FORBIDDEN]),
            // A name that was accepted once stays acceptable.
            (&[("/spec/serviceName", json!("a.b"))], &[("/spec/replicas", json!(2))], &[]),
        ],
    );
    check_update::<StatefulSet>(
        &valid,
        "status",
        &[(
            &[],
            &[("/status", json!({"replicas": 1, "currentReplicas": 2, "availableReplicas": 1}))],
            &[
                "status.currentReplicas: Invalid value: 2: cannot be greater than status.replicas",
                "status.availableReplicas: Invalid value: 1: cannot be greater than status.readyReplicas",
            ],
        )],
    );
}

#[test]
fn stateful_sets_drop_max_unavailable_unless_in_use() {
    let field = "/spec/updateStrategy";
    let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0, "maxUnavailable": 2}});
    let tree = with(&workload("StatefulSet"), &[(field, rolling)]);
    let set: StatefulSet = created(&tree);
    let rolling = |s: &StatefulSet| {
        let strategy = s.spec.as_ref().unwrap().update_strategy.clone().unwrap();
        strategy.rolling_update.unwrap().max_unavailable
    };
    assert_eq!(rolling(&set), None);
    let in_use: StatefulSet = object(&tree);
    let mut new = in_use.clone();
    with_context("", |cx| new.prepare_update(&in_use, cx));
    assert!(rolling(&new).is_some());
}

#[test]
fn stateful_set_row() {
    let tree = with(
        &workload("StatefulSet"),
        &[("/spec/replicas", json!(3)), ("/status", json!({"replicas": 3, "readyReplicas": 2}))],
    );
    assert_eq!(row::<StatefulSet>(&tree)[1], ("Ready", json!("2/3")));
}

#[test]
fn daemon_sets() {
    let valid = workload("DaemonSet");
    let got = defaulted::<DaemonSet>(&valid);
    assert_eq!(
        got["spec"]["updateStrategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}})
    );
    check_create::<DaemonSet>(
        &valid,
        &[
            (&[("/spec/selector", Value::Null)], &[MISMATCH]),
            (
                &[("/spec/selector", json!({"matchLabels": {}}))],
                &["spec.selector: Invalid value: {}: empty selector is invalid for daemonset"],
            ),
            (
                &[("/spec/updateStrategy/rollingUpdate", json!({"maxSurge": 1, "maxUnavailable": 1}))],
                &[
                    "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero",
                ],
            ),
            (
                &[("/spec/updateStrategy/rollingUpdate", json!({"maxUnavailable": 0}))],
                &[
                    "spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0",
                ],
            ),
            (
                &[("/spec/updateStrategy/type", json!("Odd"))],
                &[
                    r#"spec.updateStrategy: Unsupported value: {"Type":"Odd","RollingUpdate":null}: supported values: "RollingUpdate", "OnDelete""#,
                ],
            ),
        ],
    );
    check_update::<DaemonSet>(
        &valid,
        "status",
        &[(
            &[("/status", json!({"collisionCount": 2}))],
            &[("/status", json!({"numberReady": -1, "collisionCount": 1}))],
            &[
                "status.numberReady: Invalid value: -1: must be greater than or equal to 0",
                "status.collisionCount: Invalid value: 1: cannot be decremented",
            ],
        )],
    );
}

#[test]
fn daemon_sets_count_their_templates() {
    const KEY: &str = "deprecated.daemonset.template.generation";
    let count = |set: &DaemonSet| set.metadata.annotations.as_ref().unwrap()[KEY].clone();
    let valid = workload("DaemonSet");
    let old: DaemonSet = created(&valid);
    assert_eq!(count(&old), "1");
    let mut new: DaemonSet =
        object(&with(&valid, &[("/spec/template/spec/containers/0/image", json!("new"))]));
    with_context("", |cx| new.prepare_update(&old, cx));
    assert_eq!(count(&new), "2");
    let mut same: DaemonSet = object(&with(&valid, &[("/metadata/annotations", json!({KEY: "9"}))]));
    with_context("", |cx| same.prepare_update(&new, cx));
    assert_eq!(count(&same), "3", "the template went back, which is a change");
    let mut again = same.clone();
    with_context("", |cx| again.prepare_update(&same, cx));
    assert_eq!(count(&again), "3");
}

#[test]
fn daemon_set_row() {
    let tree = with(
        &workload("DaemonSet"),
        &[
            (
                "/status",
                json!({"desiredNumberScheduled": 5, "currentNumberScheduled": 4, "numberReady": 3, "updatedNumberScheduled": 2, "numberAvailable": 1, "numberMisscheduled": 0}),
            ),
            ("/spec/template/spec/nodeSelector", json!({"b": "2", "a": "1"})),
        ],
    );
    let row = row::<DaemonSet>(&tree);
    let cells: Vec<&Value> = row.iter().map(|(_, cell)| cell).collect();
    assert_eq!(cells[1..7], [&json!(5), &json!(4), &json!(3), &json!(2), &json!(1), &json!("a=1,b=2")]);
}

#[test]
fn controller_revisions() {
    let valid = json!({
        "apiVersion": "apps/v1", "kind": "ControllerRevision",
        "metadata": {"name": "r", "namespace": "default", "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "1", "controller": true},
        ]},
        "data": {"spec": {}}, "revision": 3,
    });
    check_create::<ControllerRevision>(
        &valid,
        &[
            (
                &[("/revision", json!(-1))],
                &["revision: Invalid value: -1: must be greater than or equal to 0"],
            ),
            (&[("/data", Value::Null)], &["data: Required value: data is mandatory"]),
            (&[("/data", json!([1]))], &["data: Required value: data must be a valid JSON object"]),
        ],
    );
    let old: ControllerRevision = created(&valid);
    let changed = with(&valid, &[("/data/spec", json!({"a": 1})), ("/revision", json!(4))]);
    assert_eq!(
        update_errors(&old, &changed, ""),
        [r#"data: Invalid value: {"spec":{"a":1}}: field is immutable"#]
    );
    assert_eq!(
        row::<ControllerRevision>(&valid)[1..3],
        [("Controller", json!("statefulset.apps/web")), ("Revision", json!(3))]
    );
    assert!(create_errors::<ControllerRevision>(&valid).is_empty());
}
