use super::*;
use crate::kinds::core::testing::*;
use serde_json::{Value, json};

fn with_source(source: Value) -> Value {
    let mut json = json!({"metadata": {"name": "v", "resourceVersion": "1"},
        "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "10Gi"}}});
    for (key, value) in source.as_object().unwrap() {
        json["spec"][key] = value.clone();
    }
    json
}

fn valid() -> Value {
    with_source(json!({"csi": {"driver": "d.io", "volumeHandle": "h"}}))
}

#[test]
fn creation() {
    check_create_table::<PersistentVolume>(
        &valid(),
        &[
            ("/spec/accessModes", json!([]), &["spec.accessModes: Required value"]),
            (
                "/spec/accessModes",
                json!(["Any"]),
                &[
                    r#"spec.accessModes: Unsupported value: "Any": supported values: "ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod""#,
                ],
            ),
            (
                "/spec/accessModes",
                json!(["ReadWriteOnce", "ReadWriteOncePod"]),
                &["spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes"],
            ),
            (
                "/spec/capacity",
                json!({}),
                &[
                    "spec.capacity: Required value",
                    r#"spec.capacity: Unsupported value: null: supported values: "storage""#,
                ],
            ),
            (
                "/spec/capacity",
                json!({"storage": "1", "cpu": "1"}),
                &[
                    r#"spec.capacity: Unsupported value: {"cpu":"1","storage":"1"}: supported values: "storage""#,
                ],
            ),
            (
                "/spec/capacity/storage",
                json!("0"),
                &[r#"spec.capacity[storage]: Invalid value: "0": must be greater than zero"#],
            ),
            (
                "/spec/capacity/storage",
                json!("-5"),
                &[
                    "spec.capacity[storage]: Invalid value: -5: must be a valid resource quantity",
                    r#"spec.capacity[storage]: Invalid value: "-5": must be greater than zero"#,
                ],
            ),
            (
                "/spec/persistentVolumeReclaimPolicy",
                json!("Keep"),
                &[
                    r#"spec.persistentVolumeReclaimPolicy: Unsupported value: "Keep": supported values: "Delete", "Recycle", "Retain""#,
                ],
            ),
            (
                "/spec/nodeAffinity",
                json!({}),
                &["spec.nodeAffinity.required: Required value: must specify required node constraints"],
            ),
            (
                "/spec/nodeAffinity",
                json!({"required": {"nodeSelectorTerms": []}}),
                &[
                    "spec.nodeAffinity.required.nodeSelectorTerms: Required value: must have at least one node selector term",
                ],
            ),
            ("/spec/csi", json!(null), &["spec: Required value: must specify a volume type"]),
            (
                "/spec/hostPath",
                json!({"path": "/a"}),
                &["spec.csi: Forbidden: may not specify more than 1 volume type"],
            ),
            ("/spec/csi/driver", json!(""), &["spec.csi.driver: Required value"]),
            (
                "/spec/csi/nodePublishSecretRef",
                json!({"name": "a"}),
                &["spec.csi.nodePublishSecretRef.namespace: Required value"],
            ),
            (
                "/spec/volumeMode",
                json!("Tape"),
                &[r#"spec.volumeMode: Unsupported value: "Tape": supported values: "Block", "Filesystem""#],
            ),
            (
                "/spec/volumeAttributesClassName",
                json!(""),
                &["spec.volumeAttributesClassName: Required value: an empty string is disallowed"],
            ),
            (
                "/metadata/annotations",
                json!({MOUNT_OPTIONS_ANNOTATION: "ro"}),
                &[
                    "metadata.annotations.volume.beta.kubernetes.io/mount-options: Forbidden: may not specify mount options for this volume type",
                ],
            ),
        ],
    );
}

#[test]
fn sources() {
    let affinity = json!({"required": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["n"]}]}]}});
    let table: Vec<(Value, Vec<&str>)> = vec![
        (json!({"hostPath": {"path": "/a"}}), vec![]),
        (json!({"hostPath": {"path": ""}}), vec!["spec.hostPath.path: Required value"]),
        (
            json!({"hostPath": {"path": "/a/.."}, "persistentVolumeReclaimPolicy": "Recycle"}),
            vec![
                r#"spec.hostPath.path: Invalid value: "/a/..": must not contain '..'"#,
                "spec.persistentVolumeReclaimPolicy: Forbidden: may not be 'recycle' for a hostPath mount of '/'",
            ],
        ),
        (json!({"local": {"path": "/a"}, "nodeAffinity": affinity}), vec![]),
        (
            json!({"local": {"path": "/a"}}),
            vec!["spec.nodeAffinity: Required value: Local volume requires node affinity"],
        ),
        (json!({"local": {"path": ""}, "nodeAffinity": affinity}), vec!["spec.local.path: Required value"]),
        (json!({"nfs": {"server": "s", "path": "/a"}}), vec![]),
        (
            json!({"nfs": {"server": "", "path": "a"}}),
            vec![
                "spec.nfs.server: Required value",
                r#"spec.nfs.path: Invalid value: "a": must be an absolute path"#,
            ],
        ),
        (
            json!({"rbd": {"monitors": [], "image": ""}}),
            vec!["spec.rbd.monitors: Required value", "spec.rbd.image: Required value"],
        ),
        (json!({"gcePersistentDisk": {"pdName": ""}}), vec!["spec.persistentDisk.pdName: Required value"]),
        (
            json!({"iscsi": {"targetPortal": "p", "iqn": "iqn.2016-01.a:b", "lun": 0, "initiatorName": "x"}}),
            vec![r#"spec.iscsi.initiatorname: Invalid value: "x": must be valid format"#],
        ),
        (
            json!({"iscsi": {"targetPortal": "", "iqn": "", "lun": 256, "chapAuthSession": true}}),
            vec![
                "spec.iscsi.targetPortal: Required value",
                "spec.iscsi.iqn: Required value",
                "spec.iscsi.lun: Invalid value: 256: must be between 0 and 255, inclusive",
                "spec.iscsi.secretRef: Required value",
            ],
        ),
        (
            json!({"cinder": {"volumeID": "", "secretRef": {"name": "a"}}}),
            vec!["spec.cinder.volumeID: Required value", "spec.cinder.secretRef.namespace: Required value"],
        ),
        (
            json!({"storageos": {"volumeName": "a.b"}}),
            vec![r#"spec.storageos.volumeName: Invalid value: "a.b": must not contain dots"#],
        ),
        (
            json!({"flexVolume": {"driver": "d", "options": {"k8s.io/a": "b"}}}),
            vec![
                r#"spec.flexVolume.options[k8s.io/a]: Invalid value: "k8s.io/a": kubernetes.io and k8s.io namespaces are reserved"#,
            ],
        ),
        (
            json!({"azureFile": {"secretName": "", "shareName": "", "secretNamespace": ""}}),
            vec![
                "spec.azureFile.secretName: Required value",
                "spec.azureFile.shareName: Required value",
                "spec.azureFile.secretNamespace: Required value",
            ],
        ),
        (
            json!({"scaleIO": {"gateway": "", "system": "", "secretRef": {}}}),
            vec![
                "spec.scaleIO.gateway: Required value",
                "spec.scaleIO.system: Required value",
                "spec.scaleIO.volumeName: Required value",
            ],
        ),
    ];
    for (source, expected) in table {
        assert_eq!(create_errors::<PersistentVolume>(&with_source(source.clone())), expected, "{source}");
    }
}

#[test]
fn defaults() {
    let volume: PersistentVolume = defaulted(&with_source(json!({"hostPath": {"path": "/a"}})));
    let spec = volume.spec.unwrap();
    assert_eq!(spec.persistent_volume_reclaim_policy.as_deref(), Some("Retain"));
    assert_eq!(spec.volume_mode.as_deref(), Some("Filesystem"));
    assert_eq!(spec.host_path.unwrap().type_.as_deref(), Some(""));
    let volume: PersistentVolume = defaulted(&with_source(json!({"rbd": {"monitors": ["m"], "image": "i"}})));
    let rbd = volume.spec.unwrap().rbd.unwrap();
    assert_eq!((rbd.pool.as_deref(), rbd.user.as_deref()), (Some("rbd"), Some("admin")));
}

#[test]
fn changes() {
    let old = with(&valid(), "/spec/volumeAttributesClassName", json!("gold"));
    let selector = |key: &str| {
        json!({"required": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": key, "operator": "Exists"}]}]}})
    };
    let zoned = with(&valid(), "/spec/nodeAffinity", selector("failure-domain.beta.kubernetes.io/zone"));
    let table: Vec<(&Value, &str, Value, Vec<&str>)> = vec![
        (&old, "/spec/capacity/storage", json!("20Gi"), vec![]),
        (
            &old,
            "/spec/volumeMode",
            json!("Block"),
            vec![r#"volumeMode: Invalid value: "Block": field is immutable"#],
        ),
        (&old, "/spec/volumeAttributesClassName", json!("silver"), vec![]),
        (
            &old,
            "/spec/volumeAttributesClassName",
            json!(null),
            vec!["spec.volumeAttributesClassName: Forbidden: update from non-nil value to nil is forbidden"],
        ),
        // A secret for growing may be added, nothing else may change.
        (&old, "/spec/csi/controllerExpandSecretRef", json!({"name": "a", "namespace": "b"}), vec![]),
        (
            &old,
            "/spec/csi/volumeHandle",
            json!("other"),
            vec![
                "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation\n\
                 @@ -22,7 +22,7 @@\n  \"StorageOS\": null,\n  \"CSI\": {\n   \"Driver\": \"d.io\",\n\
                 -  \"VolumeHandle\": \"h\",\n+  \"VolumeHandle\": \"other\",\n   \"ReadOnly\": false,\n   \
                 \"FSType\": \"\",\n   \"VolumeAttributes\": null,\n",
            ],
        ),
        (&old, "/spec/nodeAffinity", selector("a"), vec![]),
        (&zoned, "/spec/nodeAffinity", selector("topology.kubernetes.io/zone"), vec![]),
        (
            &zoned,
            "/spec/nodeAffinity",
            selector("other"),
            vec![
                r#"nodeAffinity: Invalid value: {"Required":{"NodeSelectorTerms":[{"MatchExpressions":[{"Key":"other","Operator":"Exists","Values":null}],"MatchFields":null}]}}: field is immutable, except for updating from beta label to GA"#,
            ],
        ),
    ];
    for (old, pointer, value, expected) in table {
        let errors = update_errors::<PersistentVolume>(old, &with(old, pointer, value.clone()), "");
        assert_eq!(errors, expected, "{pointer} = {value}");
    }
    assert_eq!(
        update_errors::<PersistentVolume>(
            &old,
            &with(&old, "/metadata/resourceVersion", json!(null)),
            "status"
        ),
        ["resourceVersion: Required value"]
    );
}

#[test]
fn the_phase_has_a_time() {
    let new: PersistentVolume = created(&valid());
    let status = new.status.as_ref().unwrap();
    let now = in_context("", |cx| shared::seconds(cx.now));
    assert_eq!(
        (status.phase.as_deref(), &status.last_phase_transition_time),
        (Some("Pending"), &Some(now.clone()))
    );

    let early = json!("2020-01-01T00:00:00Z");
    let old = with(&valid(), "/status", json!({"phase": "Available", "lastPhaseTransitionTime": early}));
    let stored: PersistentVolume = defaulted(&old);
    let time =
        |json: &Value| updated(&stored, json, "status").status.unwrap().last_phase_transition_time.unwrap();
    let before = stored.status.as_ref().unwrap().last_phase_transition_time.clone().unwrap();
    assert_eq!(time(&with(&old, "/status/lastPhaseTransitionTime", json!(null))), before);
    assert_eq!(time(&with(&old, "/status/phase", json!("Bound"))), now);
    let own = with(
        &with(&old, "/status/phase", json!("Bound")),
        "/status/lastPhaseTransitionTime",
        json!("2021-01-01T00:00:00Z"),
    );
    assert_ne!(time(&own), now);
    // The spec stays as it was.
    assert_eq!(
        updated(&stored, &with(&old, "/spec/storageClassName", json!("x")), "status").spec,
        stored.spec
    );
}

#[test]
fn warnings() {
    let json = with_source(json!({"cephfs": {"monitors": ["m"]}, "persistentVolumeReclaimPolicy": "Recycle",
        "nodeAffinity": {"required": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "beta.kubernetes.io/os", "operator": "Exists"}]}]}}}));
    assert_eq!(
        create_warnings::<PersistentVolume>(&with(
            &json,
            "/metadata/annotations",
            json!({CLASS_ANNOTATION: "a"})
        )),
        [
            r#"metadata.annotations[volume.beta.kubernetes.io/storage-class]: deprecated since v1.8; use "storageClassName" attribute instead"#,
            "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.",
            r#"spec.nodeAffinity.required.nodeSelectorTerms[0].matchExpressions[0].key: beta.kubernetes.io/os is deprecated since v1.14; use "kubernetes.io/os" instead"#,
            "spec.cephfs: deprecated in v1.28, non-functional in v1.31+",
        ]
    );
}

#[test]
fn columns() {
    let mut json = with(&valid(), "/spec/claimRef", json!({"namespace": "n", "name": "c"}));
    json = with(&json, "/spec/accessModes", json!(["ReadWriteMany", "ReadWriteOnce"]));
    assert_eq!(
        row::<PersistentVolume>(&json),
        ["v", "10Gi", "RWO,RWX", "Retain", "Pending", "n/c", "", "<unset>", "", "<unknown>", "Filesystem"]
    );
    let gone = with(&json, "/metadata/deletionTimestamp", json!("2026-01-01T00:00:00Z"));
    assert_eq!(row::<PersistentVolume>(&gone)[4], "Terminating");
}
