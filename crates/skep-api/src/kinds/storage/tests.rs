use k8s_openapi::api::storage::v1::{
    CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment, VolumeAttributesClass,
};
use serde_json::{Value, json};

use crate::kind::Kind;
use crate::kinds::testing::{
    check_create, check_update, create_errors, create_warnings, created, defaulted, object, row, with,
    with_context,
};

fn class() -> Value {
    json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "fast"},
        "provisioner": "example.com/Disk",
    })
}

#[test]
fn storage_classes() {
    let got = defaulted::<StorageClass>(&class());
    assert_eq!((&got["reclaimPolicy"], &got["volumeBindingMode"]), (&json!("Delete"), &json!("Immediate")));
    let zone = |values: Value| json!({"matchLabelExpressions": [{"key": "zone", "values": values}]});
    check_create::<StorageClass>(
        &class(),
        &[
            (&[("/provisioner", json!(""))], &["provisioner: Required value"]),
            (
                &[("/parameters", json!({"": "x"}))],
                &[r#"parameters: Invalid value: "": field can not be empty."#],
            ),
            (
                &[("/parameters", json!({"a": "x".repeat(256 * 1024)}))],
                &["parameters: Too long: may not be more than 262144 bytes"],
            ),
            (
                &[("/reclaimPolicy", json!("Recycle"))],
                &[r#"reclaimPolicy: Unsupported value: "Recycle": supported values: "Delete", "Retain""#],
            ),
            (
                &[("/volumeBindingMode", json!("Odd"))],
                &[
                    r#"volumeBindingMode: Unsupported value: "Odd": supported values: "Immediate", "WaitForFirstConsumer""#,
                ],
            ),
            (
                &[(
                    "/allowedTopologies",
                    json!([zone(json!(["a", "a"])), zone(json!([])), zone(json!(["b"])), zone(json!(["b"]))]),
                )],
                &[
                    r#"allowedTopologies[0].matchLabelExpressions[0].values[1]: Duplicate value: "a""#,
                    "allowedTopologies[1].matchLabelExpressions[0].values: Required value",
                    r#"allowedTopologies[3].matchLabelExpressions: Duplicate value: """#,
                ],
            ),
        ],
    );
    check_update::<StorageClass>(
        &class(),
        "",
        &[
            (&[], &[("/allowVolumeExpansion", json!(true))], &[]),
            (
                &[],
                &[
                    ("/parameters", json!({"a": "b"})),
                    ("/provisioner", json!("p")),
                    ("/reclaimPolicy", json!("Retain")),
                    ("/volumeBindingMode", json!("WaitForFirstConsumer")),
                ],
                &[
                    r#"parameters: Invalid value: {"a":"b"}: field is immutable"#,
                    r#"provisioner: Invalid value: "p": field is immutable"#,
                    r#"reclaimPolicy: Invalid value: "Retain": field is immutable"#,
                    r#"volumeBindingMode: Invalid value: "WaitForFirstConsumer": field is immutable"#,
                ],
            ),
        ],
    );
    let marked = with(
        &class(),
        &[("/metadata/annotations", json!({"storageclass.kubernetes.io/is-default-class": "true"}))],
    );
    assert_eq!(
        row::<StorageClass>(&marked)[..5],
        [
            ("Name", json!("fast (default)")),
            ("Provisioner", json!("example.com/Disk")),
            ("ReclaimPolicy", json!("Delete")),
            ("VolumeBindingMode", json!("Immediate")),
            ("AllowVolumeExpansion", json!(false)),
        ]
    );
    let old_label =
        json!([{"matchLabelExpressions": [{"key": "beta.kubernetes.io/os", "values": ["linux"]}]}]);
    assert_eq!(
        create_warnings::<StorageClass>(&with(&class(), &[("/allowedTopologies", old_label)])),
        [
            r#"allowedTopologies[0].matchLabelExpressions[0].key: deprecated since v1.14; use "kubernetes.io/os" instead"#
        ]
    );
}

#[test]
fn volume_attributes_classes() {
    let valid = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttributesClass", "metadata": {"name": "gold"},
        "driverName": "d.example.com", "parameters": {"iops": "9"},
    });
    check_create::<VolumeAttributesClass>(
        &valid,
        &[
            (&[("/driverName", json!(""))], &["driverName: Required value"]),
            (
                &[("/parameters", Value::Null)],
                &["parameters: Required value: must contain at least one key/value pair"],
            ),
        ],
    );
    check_update::<VolumeAttributesClass>(
        &valid,
        "",
        &[(
            &[],
            &[("/driverName", json!("e")), ("/parameters/iops", json!("8"))],
            &[
                "driverName: Forbidden: updates to driverName are forbidden.",
                "parameters: Forbidden: updates to parameters are forbidden.",
            ],
        )],
    );
    assert_eq!(row::<VolumeAttributesClass>(&valid)[1], ("DriverName", json!("d.example.com")));
}

#[test]
fn volume_attachments() {
    let valid = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment", "metadata": {"name": "va"},
        "spec": {"attacher": "D.example.com", "nodeName": "n1", "source": {"persistentVolumeName": "pv"}},
    });
    let long = "x".repeat(64);
    check_create::<VolumeAttachment>(
        &valid,
        &[
            (&[("/spec/attacher", json!(""))], &["spec.attacher: Required value"]),
            (&[("/spec/attacher", json!(long))], &["spec.attacher: Too long: may not be more than 63 bytes"]),
            (
                &[("/spec/source", json!({}))],
                &[
                    "spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName",
                ],
            ),
            (
                &[("/spec/source/inlineVolumeSpec", json!({}))],
                &[
                    "spec.source: Forbidden: must specify exactly one of inlineVolumeSpec and persistentVolumeName",
                ],
            ),
        ],
    );
    check_update::<VolumeAttachment>(
        &valid,
        "",
        &[(
            &[],
            &[("/spec/nodeName", json!("n2"))],
            &[
                r#"spec: Invalid value: {"Attacher":"D.example.com","Source":{"PersistentVolumeName":"pv","InlineVolumeSpec":null},"NodeName":"n2"}: field is immutable"#,
            ],
        )],
    );
    check_update::<VolumeAttachment>(
        &valid,
        "status",
        &[(
            &[],
            &[(
                "/status",
                json!({"attached": true, "attachError": {"errorCode": -1, "message": "m".repeat(1025)}}),
            )],
            &[
                "status.attachError.message: Too long: may not be more than 262144 bytes",
                "status.attachError.errorCode: Invalid value: -1: must be between 0 and 2147483647, inclusive",
            ],
        )],
    );
    let old: VolumeAttachment = created(&valid);
    let mut new: VolumeAttachment = object(&with(&valid, &[("/metadata/labels", json!({"a": "b"}))]));
    with_context("status", |cx| new.prepare_update(&old, cx));
    assert_eq!(new.metadata.labels, None, "a write to the status leaves labels alone");
    let attached = with(&valid, &[("/status/attached", json!(true))]);
    assert_eq!(
        row::<VolumeAttachment>(&attached)[1..5],
        [
            ("Attacher", json!("D.example.com")),
            ("PV", json!("pv")),
            ("Node", json!("n1")),
            ("Attached", json!(true)),
        ]
    );
}

fn driver() -> Value {
    json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": "d.example.com"}, "spec": {},
    })
}

#[test]
fn csi_drivers() {
    assert_eq!(
        defaulted::<CSIDriver>(&driver())["spec"],
        json!({
            "attachRequired": true, "podInfoOnMount": false, "storageCapacity": false,
            "fsGroupPolicy": "ReadWriteOnceWithFSType", "volumeLifecycleModes": ["Persistent"],
            "requiresRepublish": false, "seLinuxMount": false,
        })
    );
    check_create::<CSIDriver>(
        &driver(),
        &[
            (
                &[("/spec/fsGroupPolicy", json!("Odd"))],
                &[
                    r#"spec.fsGroupPolicy: Unsupported value: "Odd": supported values: "File", "None", "ReadWriteOnceWithFSType""#,
                ],
            ),
            (
                &[("/spec/volumeLifecycleModes", json!(["Odd"]))],
                &[
                    r#"spec.volumeLifecycleModes: Unsupported value: "Odd": supported values: "Persistent", "Ephemeral""#,
                ],
            ),
            (
                &[("/spec/nodeAllocatableUpdatePeriodSeconds", json!(9))],
                &[
                    "spec.nodeAllocatableUpdatePeriodSeconds: Invalid value: 9: must be greater than or equal to 10 seconds",
                ],
            ),
            (
                &[("/spec/serviceAccountTokenInSecrets", json!(true))],
                &[
                    "spec.serviceAccountTokenInSecrets: Invalid value: true: serviceAccountTokenInSecrets is set but no tokenRequests are specified",
                ],
            ),
            (
                &[(
                    "/spec/tokenRequests",
                    json!([
                        {"audience": "a", "expirationSeconds": 1},
                        {"audience": "a", "expirationSeconds": 1},
                        {"audience": "b", "expirationSeconds": 4_294_967_297i64},
                    ]),
                )],
                &[
                    "spec.tokenRequests[0].expirationSeconds: Invalid value: 1: may not specify a duration less than 10 minutes",
                    r#"spec.tokenRequests[1].audience: Duplicate value: "a""#,
                    "spec.tokenRequests[2].expirationSeconds: Invalid value: 4294967297: may not specify a duration larger than 2^32 seconds",
                ],
            ),
        ],
    );
    check_update::<CSIDriver>(
        &driver(),
        "",
        &[
            (&[], &[("/spec/podInfoOnMount", json!(true))], &[]),
            (
                &[],
                &[
                    ("/spec/attachRequired", json!(false)),
                    ("/spec/volumeLifecycleModes", json!(["Ephemeral"])),
                ],
                &[
                    "spec.attachedRequired: Invalid value: false: field is immutable",
                    r#"spec.volumeLifecycleModes: Invalid value: ["Ephemeral"]: field is immutable"#,
                ],
            ),
        ],
    );
    let tokens = with(&driver(), &[("/spec/tokenRequests", json!([{"audience": "a"}, {"audience": "b"}]))]);
    assert_eq!(create_warnings::<CSIDriver>(&tokens).len(), 1);
    assert_eq!(create_warnings::<CSIDriver>(&driver()), Vec::<String>::new());
    let row = row::<CSIDriver>(&tokens);
    assert_eq!((&row[4].1, &row[6].1), (&json!("a,b"), &json!("Persistent")));
    let (old, new): (CSIDriver, CSIDriver) = (object(&driver()), object(&tokens));
    assert_eq!((new.generation_changed(None), new.generation_changed(Some(&old))), (None, Some(true)));
}

#[test]
fn csi_nodes() {
    let valid = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "CSINode", "metadata": {"name": "n1"},
        "spec": {"drivers": [{"name": "d.example.com", "nodeID": "id", "topologyKeys": ["zone"], "allocatable": {"count": 3}}]},
    });
    let driver = "/spec/drivers/0";
    check_create::<CSINode>(
        &valid,
        &[
            (&[("/spec/drivers/0/nodeID", json!(""))], &["spec.drivers[0].nodeID: Required value"]),
            (
                &[("/spec/drivers/0/allocatable/count", json!(-1))],
                &["spec.drivers[0].allocatable.count: Invalid value: -1: must be greater than or equal to 0"],
            ),
            (
                &[("/spec/drivers/0/topologyKeys", json!(["zone", "zone"]))],
                &[r#"spec.drivers[0]: Duplicate value: "zone""#],
            ),
            (
                &[("/spec/drivers/-", json!({"name": "d.example.com", "nodeID": "x"}))],
                &[r#"spec.drivers[1].name: Duplicate value: "d.example.com""#],
            ),
        ],
    );
    check_update::<CSINode>(
        &valid,
        "",
        &[
            (&[], &[("/spec/drivers/0/allocatable/count", json!(9))], &[]),
            (&[], &[(driver, Value::Null)], &[]),
            (
                &[],
                &[("/spec/drivers/0/nodeID", json!("other"))],
                &[
                    r#"spec.drivers: Invalid value: {"Name":"d.example.com","NodeID":"other","TopologyKeys":["zone"],"Allocatable":null}: field is immutable"#,
                ],
            ),
        ],
    );
    assert_eq!(row::<CSINode>(&valid)[1], ("Drivers", json!(1)));
}

#[test]
fn csi_storage_capacities() {
    let valid = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "CSIStorageCapacity",
        "metadata": {"name": "c", "namespace": "default"},
        "storageClassName": "fast", "capacity": "1024Mi", "nodeTopology": {"matchLabels": {"zone": "a"}},
    });
    check_create::<CSIStorageCapacity>(
        &valid,
        &[(
            &[("/capacity", json!("-1"))],
            &[r#"capacity: Invalid value: "-1": must be greater than or equal to 0"#],
        )],
    );
    check_update::<CSIStorageCapacity>(
        &valid,
        "",
        &[
            (&[], &[("/capacity", json!("1"))], &[]),
            (
                &[],
                &[("/nodeTopology/matchLabels/zone", json!("b")), ("/storageClassName", json!("slow"))],
                &[
                    r#"nodeTopology: Invalid value: {"matchLabels":{"zone":"b"}}: field is immutable"#,
                    r#"storageClassName: Invalid value: "slow": field is immutable"#,
                ],
            ),
        ],
    );
    assert_eq!(
        row::<CSIStorageCapacity>(&valid)[1..],
        [("StorageClassName", json!("fast")), ("Capacity", json!("1Gi"))]
    );
    assert!(create_errors::<CSIStorageCapacity>(&valid).is_empty());
    let labels = json!({"matchLabels": {"node-role.kubernetes.io/master": ""}});
    assert_eq!(
        create_warnings::<CSIStorageCapacity>(&with(&valid, &[("/nodeTopology", labels)])),
        [
            r#"nodeTopology.matchLabels.node-role.kubernetes.io/master: use "node-role.kubernetes.io/control-plane" instead"#
        ]
    );
    assert!(!CSIStorageCapacity::info().unconditional_update);
}
