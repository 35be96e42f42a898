//! Creation: defaults, validation, what the server sets.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::field::Path;
use crate::kinds::core::testing::{
    check_create_table, create_errors, create_warnings, created, defaulted, in_context, with,
};

/// A pod with a bit of everything, and nothing wrong.
pub(super) fn valid() -> Value {
    json!({
        "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}},
        "spec": {
            "serviceAccountName": "runner",
            "volumes": [
                {"name": "data", "emptyDir": {"sizeLimit": "1Gi"}},
                {"name": "claim", "persistentVolumeClaim": {"claimName": "disk"}},
                {"name": "block", "persistentVolumeClaim": {"claimName": "raw"}},
                {"name": "secret", "secret": {"secretName": "s"}},
                {"name": "host", "hostPath": {"path": "/srv", "type": "Directory"}},
                {"name": "all", "projected": {"sources": [
                    {"serviceAccountToken": {"path": "token"}},
                    {"configMap": {"name": "ca", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                    {"downwardAPI": {"items": [
                        {"path": "ns", "fieldRef": {"fieldPath": "metadata.namespace"}}
                    ]}}
                ]}},
                {"name": "eph", "ephemeral": {"volumeClaimTemplate": {"spec": {
                    "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}
                }}}}
            ],
            "initContainers": [
                {"name": "prepare", "image": "busybox", "command": ["true"]},
                {"name": "proxy", "image": "envoy:v1", "restartPolicy": "Always",
                 "startupProbe": {"tcpSocket": {"port": "admin"}}}
            ],
            "containers": [{
                "name": "main",
                "image": "registry.example/web:v1",
                "ports": [{"name": "http", "containerPort": 80}, {"containerPort": 53, "protocol": "UDP"}],
                "env": [
                    {"name": "A", "value": "1"},
                    {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                    {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                    {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
                ],
                "envFrom": [{"configMapRef": {"name": "cfg"}, "prefix": "P_"}],
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}},
                "volumeMounts": [
                    {"name": "data", "mountPath": "/data"},
                    {"name": "host", "mountPath": "/host", "readOnly": true, "subPath": "a/b"}
                ],
                "volumeDevices": [{"name": "block", "devicePath": "/dev/xvda"}],
                "livenessProbe": {"httpGet": {"path": "/healthz", "port": "http"}},
                "readinessProbe": {"exec": {"command": ["true"]}},
                "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},
                "securityContext": {"runAsUser": 1000, "capabilities": {"drop": ["ALL"]}},
                "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "NotRequired"}]
            }],
            "affinity": {
                "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}
                ]}},
                "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                    {"weight": 1, "podAffinityTerm": {
                        "topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "web"}}
                    }}
                ]}
            },
            "tolerations": [
                {"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30}
            ],
            "topologySpreadConstraints": [{
                "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchLabels": {"app": "web"}}
            }],
            "nodeSelector": {"disk": "ssd"},
            "dnsConfig": {"nameservers": ["10.0.0.1"], "searches": ["svc.local.", "."]},
            "hostAliases": [{"ip": "10.0.0.2", "hostnames": ["db.local"]}],
            "readinessGates": [{"conditionType": "example.com/ready"}],
            "securityContext": {"fsGroup": 1, "sysctls": [{"name": "net.core.somaxconn", "value": "1"}]}
        }
    })
}

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and \
                     must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex \
                     used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' \
                         or '.', and must start and end with an alphanumeric character (e.g. 'example.com', \
                         regex used for validation is \
                         '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

#[test]
fn pod_level_fields() {
    let bad_account = format!("spec.serviceAccountName: Invalid value: \"A\": {SUBDOMAIN}");
    let bad_hostname = format!("spec.hostname: Invalid value: \"A\": {LABEL}");
    check_create_table::<Pod>(
        &valid(),
        &[
            (
                "/spec/restartPolicy",
                json!("Sometimes"),
                &[
                    r#"spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "OnFailure", "Never""#,
                ],
            ),
            (
                "/spec/dnsPolicy",
                json!("X"),
                &[
                    r#"spec.dnsPolicy: Unsupported value: "X": supported values: "ClusterFirstWithHostNet", "ClusterFirst", "Default", "None""#,
                ],
            ),
            ("/spec/containers", json!([]), &["spec.containers: Required value"]),
            ("/spec/serviceAccountName", json!("A"), &[&bad_account]),
            (
                "/spec/serviceAccountName",
                Value::Null,
                &[
                    "spec.volumes[5].projected.sources[0].serviceAccountToken: Forbidden: must not be specified when serviceAccountName is not set",
                ],
            ),
            ("/spec/hostname", json!("A"), &[&bad_hostname]),
            (
                "/spec/activeDeadlineSeconds",
                json!(0),
                &[
                    "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
                ],
            ),
            (
                "/spec/ephemeralContainers",
                json!([{"name": "d", "image": "busybox"}]),
                &["spec.ephemeralContainers: Forbidden: cannot be set on create"],
            ),
            (
                "/spec/preemptionPolicy",
                json!("Maybe"),
                &[
                    r#"spec.preemptionPolicy: Unsupported value: "Maybe": supported values: "PreemptLowerPriority", "Never""#,
                ],
            ),
            (
                "/spec/hostAliases/0/ip",
                json!("10.0.0.02"),
                &[r#"spec.hostAliases[0].ip: Invalid value: "10.0.0.02": must not have leading 0s"#],
            ),
            (
                "/spec/hostAliases/0/ip",
                json!("x"),
                &[
                    r#"spec.hostAliases[0].ip: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"#,
                ],
            ),
            (
                "/spec/dnsConfig/nameservers",
                json!(["1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4"]),
                &[
                    r#"spec.dnsConfig.nameservers: Invalid value: ["1.1.1.1","1.1.1.2","1.1.1.3","1.1.1.4"]: must not have more than 3 nameservers"#,
                ],
            ),
            (
                "/spec/dnsConfig/options",
                json!([{"value": "x"}]),
                &["spec.dnsConfig.options[0]: Required value: must not be empty"],
            ),
            (
                "/spec/nodeSelector",
                json!({"a b": "c"}),
                &[
                    "spec.nodeSelector: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                ],
            ),
            (
                "/spec/os",
                json!({"name": "plan9"}),
                &[r#"spec.os: Unsupported value: "plan9": supported values: "linux", "windows""#],
            ),
            (
                "/spec/resourceClaims",
                json!([{"name": "gpu"}]),
                &[
                    r#"spec.resourceClaims[0]: Invalid value: {"name":"gpu"}: must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"#,
                ],
            ),
            (
                "/spec/hostnameOverride",
                json!("UP"),
                &[&format!("spec.hostnameOverride: Invalid value: \"UP\": {SUBDOMAIN}")],
            ),
            (
                "/metadata/annotations",
                json!({"controller.kubernetes.io/pod-deletion-cost": "+10"}),
                &[
                    r#"metadata.annotations[controller.kubernetes.io/pod-deletion-cost]: Invalid value: "+10": must be a 32bit integer"#,
                ],
            ),
            (
                "/metadata/annotations",
                json!({"kubernetes.io/config.mirror": "x"}),
                &[
                    r#"metadata.annotations[kubernetes.io/config.mirror]: Invalid value: "x": must set spec.nodeName if mirror pod annotation is set"#,
                ],
            ),
        ],
    );
}

#[test]
fn gates_and_nodes_exclude_each_other() {
    let gated = with(&valid(), "/spec/schedulingGates", json!([{"name": "a"}, {"name": "a"}]));
    let gated = with(&gated, "/spec/nodeName", json!("n1"));
    assert_eq!(
        create_errors::<Pod>(&gated),
        [
            r#"spec.schedulingGates[1]: Duplicate value: "a""#,
            "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared",
        ]
    );
}

#[test]
fn containers() {
    let main = "/spec/containers/0";
    let at = |rest: &str| format!("{main}/{rest}");
    let rows: Vec<(String, Value, Vec<String>)> = vec![
        (at("name"), json!("Main"), vec![format!("spec.containers[0].name: Invalid value: \"Main\": {LABEL}")]),
        (at("name"), json!("a.b"), vec![
            r#"spec.containers[0].name: Invalid value: "a.b": must not contain dots"#.into(),
        ]),
        (at("name"), json!("prepare"), vec![
            r#"spec.initContainers[0].name: Duplicate value: "prepare""#.into(),
        ]),
        (at("image"), json!(""), vec!["spec.containers[0].image: Required value".into()]),
        (at("image"), json!(" x"), vec![
            r#"spec.containers[0].image: Invalid value: " x": must not have leading or trailing whitespace"#.into(),
        ]),
        (at("imagePullPolicy"), json!("Often"), vec![
            r#"spec.containers[0].imagePullPolicy: Unsupported value: "Often": supported values: "Always", "IfNotPresent", "Never""#.into(),
        ]),
        (at("terminationMessagePolicy"), json!("X"), vec![
            r#"spec.containers[0].terminationMessagePolicy: Unsupported value: "X": supported values: "File", "FallbackToLogsOnError""#.into(),
        ]),
        (at("ports/0/containerPort"), json!(0), vec![
            "spec.containers[0].ports[0].containerPort: Required value".into(),
        ]),
        (at("ports/0/containerPort"), json!(70000), vec![
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive".into(),
        ]),
        (at("ports/0/protocol"), json!("ICMP"), vec![
            r#"spec.containers[0].ports[0].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP""#.into(),
        ]),
        (at("ports/1/name"), json!("http"), vec![
            r#"spec.containers[0].ports[1].name: Duplicate value: "http""#.into(),
        ]),
        (at("ports"), json!([{"containerPort": 1, "hostPort": 9}, {"containerPort": 2, "hostPort": 9}]), vec![
            r#"spec.containers[0].ports[1].hostPort: Duplicate value: "TCP//9""#.into(),
        ]),
        (at("env/0/name"), json!("A=B"), vec![
            r#"spec.containers[0].env[0].name: Invalid value: "A=B": a valid environment variable name must consist only of printable ASCII characters other than '='"#.into(),
        ]),
        (at("env/1/value"), json!("x"), vec![
            r#"spec.containers[0].env[1].valueFrom: Invalid value: "": may not be specified when `value` is not empty"#.into(),
        ]),
        (at("env/1/valueFrom"), json!({}), vec![
            r#"spec.containers[0].env[1].valueFrom: Invalid value: "": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"#.into(),
        ]),
        (at("env/1/valueFrom/fieldRef/fieldPath"), json!("spec.nope"), vec![
            r#"spec.containers[0].env[1].valueFrom.fieldRef.fieldPath: Invalid value: "spec.nope": error converting fieldPath: field label not supported: spec.nope"#.into(),
        ]),
        (at("env/1/valueFrom/fieldRef/fieldPath"), json!("status.phase"), vec![
            r#"spec.containers[0].env[1].valueFrom.fieldRef.fieldPath: Unsupported value: "status.phase": supported values: "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs""#.into(),
        ]),
        (at("env/2/valueFrom/resourceFieldRef/divisor"), json!("3"), vec![
            r#"spec.containers[0].env[2].valueFrom.resourceFieldRef.divisor: Invalid value: "limits.cpu": only divisor's values 1m and 1 are supported with the cpu resource"#.into(),
        ]),
        (at("envFrom/0"), json!({}), vec![
            r#"spec.containers[0].envFrom: Invalid value: "": must specify one of: `configMapRef` or `secretRef`"#.into(),
        ]),
        (at("volumeMounts/0/name"), json!("nope"), vec![
            r#"spec.containers[0].volumeMounts[0].name: Not found: "nope""#.into(),
        ]),
        (at("volumeMounts/1/mountPath"), json!("/data"), vec![
            r#"spec.containers[0].volumeMounts[1].mountPath: Invalid value: "/data": must be unique"#.into(),
        ]),
        (at("volumeMounts/1/subPath"), json!("../x"), vec![
            r#"spec.containers[0].volumeMounts.subPath: Invalid value: "../x": must not contain '..'"#.into(),
        ]),
        (at("volumeMounts/0/mountPropagation"), json!("Bidirectional"), vec![
            "spec.containers[0].volumeMounts.mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers".into(),
        ]),
        (at("volumeMounts/0/recursiveReadOnly"), json!("Enabled"), vec![
            "spec.containers[0].volumeMounts.recursiveReadOnly: Forbidden: may only be specified when readOnly is true".into(),
        ]),
        (at("volumeDevices/0/name"), json!("data"), vec![
            r#"spec.containers[0].volumeMounts[0].name: Invalid value: "data": must not already exist in volumeDevices"#.into(),
            r#"spec.containers[0].volumeDevices[0].name: Invalid value: "data": can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode"#.into(),
            r#"spec.containers[0].volumeDevices[0].name: Invalid value: "data": must not already exist in volumeMounts"#.into(),
        ]),
        (at("livenessProbe/successThreshold"), json!(2), vec![
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1".into(),
        ]),
        (at("livenessProbe/tcpSocket"), json!({"port": 1}), vec![
            "spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type".into(),
        ]),
        (at("livenessProbe/httpGet/port"), json!("UP"), vec![
            r#"spec.containers[0].livenessProbe.httpGet.port: Invalid value: "UP": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"#.into(),
            r#"spec.containers[0].livenessProbe.httpGet.port: Invalid value: "UP": must contain at least one letter (a-z)"#.into(),
        ]),
        (at("readinessProbe"), json!({}), vec![
            "spec.containers[0].readinessProbe: Required value: must specify a handler type".into(),
        ]),
        (at("readinessProbe/periodSeconds"), json!(-1), vec![
            "spec.containers[0].readinessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0".into(),
        ]),
        (at("lifecycle/preStop/sleep/seconds"), json!(31), vec![
            "spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)".into(),
        ]),
        (at("restartPolicyRules"), json!([{"action": "Restart"}]), vec![
            "spec.containers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used".into(),
            "spec.containers[0].restartPolicyRules[0].exitCodes: Required value: must be specified".into(),
        ]),
        (at("resizePolicy/0/resourceName"), json!("disk"), vec![
            r#"spec.containers[0].resizePolicy: Unsupported value: "disk": supported values: "cpu", "memory""#.into(),
        ]),
        (at("resources/requests/cpu"), json!("2"), vec![
            r#"spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1"#.into(),
        ]),
        (at("resources/limits/memory"), json!("-1"), vec![
            r#"spec.containers[0].resources.limits[memory]: Invalid value: "-1": must be greater than or equal to 0"#.into(),
            r#"spec.containers[0].resources.requests[memory]: Invalid value: "-1": must be greater than or equal to 0"#.into(),
        ]),
        (at("resources/limits/gpu"), json!("1"), vec![
            r#"spec.containers[0].resources.limits[gpu]: Invalid value: "gpu": must be a standard resource type or fully qualified"#.into(),
            r#"spec.containers[0].resources.limits[gpu]: Invalid value: "gpu": must be a standard resource for containers"#.into(),
            r#"spec.containers[0].resources.requests[gpu]: Invalid value: "gpu": must be a standard resource type or fully qualified"#.into(),
            r#"spec.containers[0].resources.requests[gpu]: Invalid value: "gpu": must be a standard resource for containers"#.into(),
        ]),
        (at("resources/requests/example.com~1gpu"), json!("1"), vec![
            "spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources".into(),
        ]),
        (at("resources/limits/example.com~1gpu"), json!("500m"), vec![
            r#"spec.containers[0].resources.limits[example.com/gpu]: Invalid value: "500m": must be an integer"#.into(),
            r#"spec.containers[0].resources.requests[example.com/gpu]: Invalid value: "500m": must be an integer"#.into(),
        ]),
        (at("resources/claims"), json!([{"name": "gpu"}]), vec![
            r#"spec.containers[0].resources.claims[0]: Not found: "gpu": must be one of the names in pod.spec.resourceClaims which is empty"#.into(),
        ]),
        ("/spec/initContainers/0/livenessProbe".into(), json!({"exec": {"command": ["true"]}}), vec![
            "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always".into(),
        ]),
        ("/spec/initContainers/0/restartPolicy".into(), json!("Perhaps"), vec![
            r#"spec.initContainers[0].restartPolicy: Unsupported value: "Perhaps": supported values: "Always", "Never", "OnFailure""#.into(),
        ]),
    ];
    for (pointer, value, expected) in rows {
        let errors = create_errors::<Pod>(&with(&valid(), &pointer, value.clone()));
        assert_eq!(errors, expected, "{pointer} = {value}");
    }
}

#[test]
fn volumes() {
    check_create_table::<Pod>(
        &valid(),
        &[
            ("/spec/volumes/3/name", json!("data"), &[r#"spec.volumes[3].name: Duplicate value: "data""#]),
            (
                "/spec/volumes/3/secret/secretName",
                json!(""),
                &["spec.volumes[3].secret.secretName: Required value"],
            ),
            (
                "/spec/volumes/3/secret/defaultMode",
                json!(0o1000),
                &[
                    "spec.volumes[3].secret.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
                ],
            ),
            (
                "/spec/volumes/3/nfs",
                json!({"server": "s", "path": "/p"}),
                &["spec.volumes[3].nfs: Forbidden: may not specify more than 1 volume type"],
            ),
            (
                "/spec/volumes/3",
                json!({"name": "n", "nfs": {"server": "s", "path": "p"}}),
                &[r#"spec.volumes[3].nfs.path: Invalid value: "p": must be an absolute path"#],
            ),
            (
                "/spec/volumes/4/hostPath/path",
                json!("/a/../b"),
                &[
                    r#"spec.volumes[4].hostPath.path: Invalid value: "/a/../b": must not contain '..'"#,
                    r#"spec.containers[0].volumeMounts[1].name: Not found: "host""#,
                ],
            ),
            (
                "/spec/volumes/4/hostPath/type",
                json!("Pipe"),
                &[
                    r#"spec.volumes[4].hostPath.type: Unsupported value: "Pipe": supported values: "", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket""#,
                    r#"spec.containers[0].volumeMounts[1].name: Not found: "host""#,
                ],
            ),
            (
                "/spec/volumes/5/projected/sources/0/serviceAccountToken/expirationSeconds",
                json!(10),
                &[
                    "spec.volumes[5].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 10: may not specify a duration less than 10 minutes",
                ],
            ),
            (
                "/spec/volumes/5/projected/sources/1/configMap/items/0/path",
                json!("ns"),
                &[r#"spec.volumes[5].projected: Invalid value: "ns": conflicting duplicate paths"#],
            ),
            (
                "/spec/volumes/5/projected/sources/1/configMap/items/0/path",
                json!("..x"),
                &[
                    r#"spec.volumes[5].projected.sources[1].configMap.items[0].path: Invalid value: "..x": must not start with '..'"#,
                ],
            ),
            (
                "/spec/volumes/1/persistentVolumeClaim/claimName",
                json!("web-eph"),
                &[
                    r#"spec.volumes[1].persistentVolumeClaim.claimName: Invalid value: "web-eph": must not reference a PVC that gets created for an ephemeral volume"#,
                ],
            ),
            (
                "/spec/volumes/6/ephemeral/volumeClaimTemplate/spec/accessModes",
                json!(["Sometimes"]),
                &[
                    r#"spec.volumes[6].ephemeral.volumeClaimTemplate.spec.accessModes: Unsupported value: "Sometimes": supported values: "ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod""#,
                ],
            ),
            (
                "/spec/volumes/6/ephemeral/volumeClaimTemplate/metadata",
                json!({"name": "x"}),
                &["spec.volumes[6].ephemeral.volumeClaimTemplate.metadata.name: Forbidden: cannot be set"],
            ),
            (
                "/spec/volumes/1",
                json!({"name": "c", "csi": {"driver": "A_b"}}),
                &[&format!("spec.volumes[1].csi.driver: Invalid value: \"A_b\": {SUBDOMAIN}")],
            ),
            ("/spec/volumes/1", json!({"name": "c", "csi": {"driver": "Disk.Example.com"}}), &[]),
            (
                "/spec/volumes/1",
                json!({"name": "i", "iscsi": {
                    "targetPortal": "p", "iqn": "iqn.2001-04.com.example:storage", "lun": 0
                }}),
                &[],
            ),
            (
                "/spec/volumes/1",
                json!({"name": "i", "iscsi": {"targetPortal": "p", "iqn": "abc", "lun": 300}}),
                &[
                    r#"spec.volumes[1].iscsi.iqn: Invalid value: "abc": must be valid format starting with iqn, eui, or naa"#,
                    "spec.volumes[1].iscsi.lun: Invalid value: 300: must be between 0 and 255, inclusive",
                ],
            ),
            (
                "/spec/volumes/1",
                json!({"name": "f", "fc": {"lun": 1}}),
                &[
                    "spec.volumes[1].fc.targetWWNs: Required value: must specify either targetWWNs or wwids, but not both",
                ],
            ),
        ],
    );
}

#[test]
fn security() {
    check_create_table::<Pod>(
        &valid(),
        &[
            (
                "/spec/securityContext/fsGroup",
                json!(-1),
                &[
                    "spec.securityContext.fsGroup: Invalid value: -1: must be between 0 and 2147483647, inclusive",
                ],
            ),
            (
                "/spec/securityContext/sysctls/0/name",
                json!("A"),
                &[
                    r#"spec.securityContext.sysctls[0].name: Invalid value: "A": must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"#,
                ],
            ),
            (
                "/spec/securityContext/seccompProfile",
                json!({"type": "Localhost"}),
                &[
                    "spec.securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
                ],
            ),
            (
                "/spec/securityContext/seLinuxChangePolicy",
                json!("MountOption"),
                &[
                    r#"spec.securityContext.seLinuxChangePolicy: Unsupported value: "MountOption": supported values: "Recursive""#,
                ],
            ),
            (
                "/spec/containers/0/securityContext/procMount",
                json!("Unmasked"),
                &[
                    r#"spec.containers[0].securityContext.procMount: Invalid value: "Unmasked": `hostUsers` must be false to use `Unmasked`"#,
                ],
            ),
            (
                "/spec/containers/0/securityContext",
                json!({"allowPrivilegeEscalation": false, "privileged": true}),
                &[
                    r#"spec.containers[0].securityContext: Invalid value: {"allowPrivilegeEscalation":false,"privileged":true}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true"#,
                ],
            ),
            (
                "/spec/containers/0/securityContext/appArmorProfile",
                json!({"type": "Localhost"}),
                &[
                    "spec.containers[0].securityContext.appArmorProfile.localhostProfile: Required value: must be set when AppArmor type is Localhost",
                ],
            ),
            (
                "/spec/hostUsers",
                json!(false),
                &["spec.containers[0].volumeDevices: Forbidden: when `hostUsers` is false"],
            ),
            (
                "/spec/os",
                json!({"name": "windows"}),
                &[
                    "spec.securityContext.fsGroup: Forbidden: cannot be set for a windows pod",
                    "spec.securityContext.sysctls: Forbidden: cannot be set for a windows pod",
                    "spec.containers[0].securityContext.capabilities: Forbidden: cannot be set for a windows pod",
                    "spec.containers[0].securityContext.runAsUser: Forbidden: cannot be set for a windows pod",
                ],
            ),
            (
                "/metadata/annotations",
                json!({"container.apparmor.security.beta.kubernetes.io/nope": "x"}),
                &[
                    r#"metadata.annotations[container.apparmor.security.beta.kubernetes.io/nope]: Invalid value: "nope": container not found"#,
                    r#"metadata.annotations[container.apparmor.security.beta.kubernetes.io/nope]: Invalid value: "x": invalid AppArmor profile name: "x""#,
                ],
            ),
            (
                "/spec/hostNetwork",
                json!(true),
                &[
                    r#"spec.securityContext.sysctls[0].name: Invalid value: "net.core.somaxconn": may not be specified when 'hostNetwork' is true"#,
                ],
            ),
        ],
    );
}

#[test]
fn scheduling() {
    let anti = "/spec/affinity/podAntiAffinity/preferredDuringSchedulingIgnoredDuringExecution/0";
    let anti_path = "spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0]";
    let node = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    let node_path =
        "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    check_create_table::<Pod>(
        &valid(),
        &[
            (
                &format!("{anti}/weight"),
                json!(101),
                &[&format!("{anti_path}.weight: Invalid value: 101: must be in the range 1-100")],
            ),
            (
                &format!("{anti}/podAffinityTerm/topologyKey"),
                json!(""),
                &[
                    &format!("{anti_path}.podAffinityTerm.topologyKey: Required value: can not be empty"),
                    &format!(
                        "{anti_path}.podAffinityTerm.topologyKey: Invalid value: \"\": name part must be non-empty"
                    ),
                    &format!(
                        "{anti_path}.podAffinityTerm.topologyKey: Invalid value: \"\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
                    ),
                ],
            ),
            (
                node,
                json!([]),
                &[&format!("{node_path}: Required value: must have at least one node selector term")],
            ),
            (
                &format!("{node}/0/matchExpressions/0/operator"),
                json!("Near"),
                &[&format!(
                    "{node_path}[0].matchExpressions[0].operator: Invalid value: \"Near\": not a valid selector operator"
                )],
            ),
            (
                &format!("{node}/0/matchFields"),
                json!([{"key": "metadata.uid", "operator": "In", "values": ["x"]}]),
                &[&format!(
                    "{node_path}[0].matchFields[0].key: Invalid value: \"metadata.uid\": not a valid field selector key"
                )],
            ),
            (
                "/spec/tolerations/0/operator",
                json!("Lt"),
                &[
                    r#"spec.tolerations[0].operator: Unsupported value: "Lt": supported values: "Equal", "Exists", "Lt", "Gt""#,
                ],
            ),
            (
                "/spec/tolerations/0/effect",
                json!("NoSchedule"),
                &[
                    r#"spec.tolerations[0].effect: Invalid value: "NoSchedule": effect must be 'NoExecute' when `tolerationSeconds` is set"#,
                ],
            ),
            (
                "/spec/tolerations/0",
                json!({"value": "x"}),
                &[
                    r#"spec.tolerations[0].operator: Invalid value: "": operator must be Exists when `key` is empty, which means "match all values and all keys""#,
                ],
            ),
            (
                "/spec/topologySpreadConstraints/0/maxSkew",
                json!(0),
                &["spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero"],
            ),
            (
                "/spec/topologySpreadConstraints/0/whenUnsatisfiable",
                json!("Cry"),
                &[
                    r#"spec.topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: "Cry": supported values: "DoNotSchedule", "ScheduleAnyway""#,
                ],
            ),
            (
                "/spec/topologySpreadConstraints/0/nodeTaintsPolicy",
                json!("X"),
                &[
                    r#"spec.topologySpreadConstraints[0].nodeTaintsPolicy: Unsupported value: "X": supported values: "Honor", "Ignore""#,
                ],
            ),
            (
                "/spec/topologySpreadConstraints",
                json!([
                    {"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"},
                    {"maxSkew": 2, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"}
                ]),
                &[
                    r#"spec.topologySpreadConstraints[0].{topologyKey, whenUnsatisfiable}: Duplicate value: "{z, DoNotSchedule}""#,
                ],
            ),
            (
                "/spec/topologySpreadConstraints/0/minDomains",
                json!(0),
                &[
                    "spec.topologySpreadConstraints[0].minDomains: Invalid value: 0: must be greater than zero",
                ],
            ),
        ],
    );
}

#[test]
fn whole_pod_resources() {
    let pod = json!({"limits": {"cpu": "2", "memory": "2Gi"}});
    let object: Pod = defaulted(&with(&valid(), "/spec/resources", pod.clone()));
    let resources = object.spec.unwrap().resources.unwrap();
    let requests: Vec<_> = resources.requests.unwrap().into_iter().map(|(k, v)| (k, v.0)).collect();
    // What containers request is the request; nothing is requested beyond that.
    assert_eq!(requests, [("cpu".into(), "500m".into()), ("memory".to_owned(), "1Gi".to_owned())]);
    check_create_table::<Pod>(
        &with(&valid(), "/spec/resources", pod),
        &[
            (
                "/spec/resources/limits/example.com~1gpu",
                json!("1"),
                &[
                    r#"spec.resources.limits[example.com/gpu]: Unsupported value: "example.com/gpu": supported values: "cpu", "hugepages-", "memory""#,
                ],
            ),
            (
                "/spec/resources/requests",
                json!({"cpu": "100m"}),
                &[
                    r#"spec.resources.requests[cpu]: Invalid value: "100m": must be greater than or equal to aggregate container requests of 500m"#,
                ],
            ),
            (
                "/spec/resources/limits/cpu",
                json!("600m"),
                &[
                    r#"spec.resources.containers[0][cpu].limits: Invalid value: "1": must be less than or equal to pod limits of 600m"#,
                ],
            ),
        ],
    );
}

#[test]
fn defaults() {
    let object: Pod = defaulted(&json!({
        "metadata": {"name": "p", "namespace": "n"},
        "spec": {
            "hostNetwork": true,
            "serviceAccount": "old-name",
            "hostname": "",
            "hostPID": false,
            "volumes": [
                {"name": "e"},
                {"name": "c", "configMap": {"name": "m"}},
                {"name": "i", "image": {"reference": "data"}},
                {"name": "h", "hostPath": {"path": "/"}}
            ],
            "containers": [{
                "name": "c", "image": "nginx",
                "ports": [{"containerPort": 80, "name": ""}],
                "env": [{"name": "A", "value": "", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                "resources": {"limits": {"cpu": "0.5", "memory": "1024Mi"}, "requests": {"cpu": "0.0001"}},
                "livenessProbe": {"grpc": {"port": 1}},
                "readinessProbe": {"httpGet": {"port": 80}, "initialDelaySeconds": 0},
                "lifecycle": {"stopSignal": "SIGUSR1", "preStop": {"httpGet": {"port": 80}}}
            }]
        }
    }));
    let probe =
        json!({"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3});
    let mut liveness = probe.clone();
    liveness["grpc"] = json!({"port": 1, "service": ""});
    let mut readiness = probe;
    readiness["httpGet"] = json!({"path": "/", "port": 80, "scheme": "HTTP"});
    assert_eq!(
        serde_json::to_value(object.spec).unwrap(),
        json!({
            "hostNetwork": true,
            "serviceAccount": "old-name",
            "serviceAccountName": "old-name",
            "volumes": [
                {"name": "e", "emptyDir": {}},
                {"name": "c", "configMap": {"name": "m", "defaultMode": 420}},
                {"name": "i", "image": {"reference": "data", "pullPolicy": "Always"}},
                {"name": "h", "hostPath": {"path": "/", "type": ""}}
            ],
            "containers": [{
                "name": "c", "image": "nginx", "imagePullPolicy": "Always",
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                "ports": [{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}],
                "env": [{"name": "A", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}}],
                "resources": {
                    "limits": {"cpu": "500m", "memory": "1Gi"}, "requests": {"cpu": "1m", "memory": "1Gi"}
                },
                "livenessProbe": liveness,
                "readinessProbe": readiness,
                "lifecycle": {"preStop": {"httpGet": {"path": "/", "port": 80, "scheme": "HTTP"}}}
            }],
            "dnsPolicy": "ClusterFirst",
            "enableServiceLinks": true,
            "restartPolicy": "Always",
            "schedulerName": "default-scheduler",
            "securityContext": {},
            "terminationGracePeriodSeconds": 30
        })
    );
}

#[test]
fn templates_leave_requests_and_links_to_pods() {
    let mut template = serde_json::from_value(json!({"spec": {"hostNetwork": true, "containers": [
        {"name": "c", "image": "a:1", "ports": [{"containerPort": 80}], "resources": {"limits": {"cpu": 1}}}
    ]}}))
    .unwrap();
    default_pod_template(&mut template);
    let spec = template.spec.as_ref().unwrap();
    assert_eq!(spec.enable_service_links, None);
    assert_eq!(spec.containers[0].ports.as_ref().unwrap()[0].host_port, None);
    assert_eq!(spec.containers[0].resources.as_ref().unwrap().requests, None);
    let mut errors = Errors::new();
    let root = Path::root("spec");
    validate_pod_template_spec(&template, &root.child("template"), &mut errors);
    assert!(errors.is_empty(), "{errors}");
    template.spec.as_mut().unwrap().containers[0].image = None;
    template.spec.as_mut().unwrap().ephemeral_containers = Some(vec![Default::default()]);
    template.metadata.as_mut().unwrap().labels = Some([("a".to_owned(), "-".to_owned())].into());
    validate_pod_template_spec(&template, &root.child("template"), &mut errors);
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert!(
        texts[0].starts_with(r#"spec.template.labels: Invalid value: "-": a valid label must be"#),
        "{texts:?}"
    );
    assert!(
        texts.contains(&"spec.template.spec.containers[0].image: Required value".to_owned()),
        "{texts:?}"
    );
    assert_eq!(
        texts.last().unwrap(),
        "spec.template.spec.ephemeralContainers: Forbidden: ephemeral containers not allowed in pod template"
    );
}

#[test]
fn a_new_pod_is_pending_and_has_a_class() {
    let table = [
        (json!({}), "BestEffort"),
        (json!({"requests": {"cpu": "1"}}), "Burstable"),
        (json!({"limits": {"cpu": "1"}}), "Burstable"),
        (json!({"limits": {"cpu": "1", "memory": "1Gi"}}), "Guaranteed"),
        (json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "0.5"}}), "Burstable"),
        (json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m"}}), "Guaranteed"),
        (json!({"limits": {"cpu": "0", "memory": "0"}}), "BestEffort"),
    ];
    for (resources, class) in table {
        let object: Pod =
            created(&json!({"metadata": {"name": "p"}, "status": {"phase": "Running"}, "spec": {
                "containers": [{"name": "c", "image": "i", "resources": resources}]
            }}));
        let status = object.status.unwrap();
        assert_eq!(status.qos_class.as_deref(), Some(class), "{resources}");
        assert_eq!(status.phase.as_deref(), Some("Pending"));
        assert_eq!(status.conditions, None);
    }
    let gated: Pod = created(&with(&valid(), "/spec/schedulingGates", json!([{"name": "a"}])));
    let conditions = gated.status.unwrap().conditions.unwrap();
    assert_eq!(conditions[0].reason.as_deref(), Some("SchedulingGated"));
    assert_eq!(gated.spec.unwrap().node_name, None);
}

#[test]
fn label_keys_become_requirements() {
    let json = with(&valid(), "/spec/topologySpreadConstraints/0/matchLabelKeys", json!(["app", "absent"]));
    let object: Pod = created(&json);
    let constraint = &object.spec.as_ref().unwrap().topology_spread_constraints.as_ref().unwrap()[0];
    let expressions = constraint.label_selector.as_ref().unwrap().match_expressions.as_ref().unwrap();
    assert_eq!(expressions.len(), 1);
    assert_eq!((expressions[0].key.as_str(), expressions[0].operator.as_str()), ("app", "In"));
    // The user's own mention of the same key is refused.
    let both = with(
        &json,
        "/spec/topologySpreadConstraints/0/labelSelector",
        json!({"matchLabels": {"app": "web"}}),
    );
    assert_eq!(
        create_errors::<Pod>(&both),
        [
            r#"spec.topologySpreadConstraints[0][0]: Invalid value: "app": exists in both matchLabelKeys and labelSelector"#,
        ]
    );
}

#[test]
fn apparmor_annotations_become_fields() {
    let annotation = json!({"container.apparmor.security.beta.kubernetes.io/main": "localhost/strict"});
    let json = with(&valid(), "/metadata/annotations", annotation);
    let object: Pod = created(&json);
    let context = object.spec.unwrap().containers.remove(0).security_context.unwrap();
    let profile = context.app_armor_profile.unwrap();
    assert_eq!((profile.type_.as_str(), profile.localhost_profile.as_deref()), ("Localhost", Some("strict")));
    assert_eq!(
        create_warnings::<Pod>(&json),
        [
            r#"metadata.annotations[container.apparmor.security.beta.kubernetes.io/main]: deprecated since v1.30; use the "appArmorProfile" field instead"#,
        ]
    );
}

#[test]
fn warnings() {
    assert_eq!(create_warnings::<Pod>(&valid()), [] as [String; 0]);
    let table: &[(&str, Value, &str)] = &[
        (
            "/metadata/name",
            json!("a.b"),
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]",
        ),
        (
            "/spec/nodeSelector",
            json!({"beta.kubernetes.io/os": "linux"}),
            r#"spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use "kubernetes.io/os" instead"#,
        ),
        (
            "/spec/topologySpreadConstraints/0/labelSelector",
            Value::Null,
            "spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod",
        ),
        (
            "/spec/imagePullSecrets",
            json!([{"name": "a"}, {"name": "a"}]),
            r#"spec.imagePullSecrets[1].name: duplicate name "a""#,
        ),
        (
            "/spec/imagePullSecrets",
            json!([{"name": ""}]),
            r#"spec.imagePullSecrets[0].name: invalid empty name """#,
        ),
        (
            "/spec/containers/0/env/1/name",
            json!("A"),
            r#"spec.containers[0].env[1]: hides previous definition of "A", which may be dropped when using apply"#,
        ),
        (
            "/spec/containers/0/resources/requests/memory",
            json!("1.5"),
            r#"spec.containers[0].resources.requests[memory]: fractional byte value "1500m" is invalid, must be an integer"#,
        ),
        (
            "/spec/volumes/3",
            json!({"name": "g", "gitRepo": {"repository": "r"}}),
            "spec.volumes[3].gitRepo: deprecated in v1.11, and disabled by default in v1.33+",
        ),
        (
            "/spec/volumes/3/secret/items",
            json!([{"key": "a", "path": "p"}, {"key": "b", "path": "p/q"}]),
            r#"volume "secret" (Secret "s"): overlapping paths: "p/q" with "p""#,
        ),
        (
            "/spec/containers/0/ports",
            json!([{"containerPort": 80}, {"containerPort": 80}]),
            "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
        ),
        (
            "/spec/containers/0/ports",
            json!([{"containerPort": 80, "hostIP": "1.1.1.1"}]),
            "spec.containers[0].ports[0]: hostIP set without hostPort: {Name: HostPort:0 ContainerPort:80 Protocol:TCP HostIP:1.1.1.1}",
        ),
        (
            "/spec/hostAliases/0/ip",
            json!("2001:DB8::1"),
            r#"spec.hostAliases[0].ip: IPv6 address "2001:DB8::1" should be in RFC 5952 canonical format ("2001:db8::1")"#,
        ),
        (
            "/metadata/annotations",
            json!({"seccomp.security.alpha.kubernetes.io/pod": "runtime/default"}),
            r#"metadata.annotations[seccomp.security.alpha.kubernetes.io/pod]: non-functional in v1.27+; use the "seccompProfile" field instead"#,
        ),
    ];
    for (pointer, value, expected) in table {
        assert_eq!(create_warnings::<Pod>(&with(&valid(), pointer, value.clone())), [*expected], "{pointer}");
    }
}

#[test]
fn bindings() {
    let errors = create_errors::<Binding>(&json!({"metadata": {"name": "p"}, "target": {"kind": "Rack"}}));
    assert_eq!(
        errors,
        [
            r#"target.kind: Unsupported value: "Rack": supported values: "Node", "<empty>""#,
            "target.name: Required value",
        ]
    );
    let binding: Binding = defaulted(&json!({
        "metadata": {"name": "web", "labels": {"zone": "a"}, "annotations": {"by": "me"}},
        "target": {"kind": "Node", "name": "n1"}
    }));
    let mut object: Pod = created(&valid());
    object.status.as_mut().unwrap().nominated_node_name = Some("n0".into());
    bind(&mut object, &binding.0, Timestamp::UNIX_EPOCH).unwrap();
    assert_eq!(object.spec.as_ref().unwrap().node_name.as_deref(), Some("n1"));
    assert_eq!(object.metadata.labels.as_ref().unwrap()["zone"], "a");
    assert_eq!(object.metadata.annotations.as_ref().unwrap()["by"], "me");
    let status = object.status.as_ref().unwrap();
    assert_eq!(status.nominated_node_name, None);
    assert_eq!(status.conditions.as_ref().unwrap()[0].status, "True");
    let again = bind(&mut object, &binding.0, Timestamp::UNIX_EPOCH);
    assert_eq!(again.unwrap_err(), r#"pod web is already assigned to node "n1""#);
    let mut gated: Pod = created(&with(&valid(), "/spec/schedulingGates", json!([{"name": "a"}])));
    let refused = bind(&mut gated, &binding.0, Timestamp::UNIX_EPOCH);
    assert_eq!(refused.unwrap_err(), "pod web has non-empty .spec.schedulingGates");
}

/// Any of the fields that users leave out, left out.
fn some_pod() -> impl Strategy<Value = Value> {
    let pointers = [
        "/spec/volumes/0/emptyDir",
        "/spec/containers/0/livenessProbe",
        "/spec/containers/0/resources",
        "/spec/containers/0/resources/requests",
        "/spec/containers/0/ports",
        "/spec/containers/0/env",
        "/spec/containers/0/lifecycle",
        "/spec/containers/0/securityContext",
        "/spec/initContainers",
        "/spec/affinity",
        "/spec/tolerations",
        "/spec/topologySpreadConstraints",
        "/spec/dnsConfig",
        "/spec/hostAliases",
        "/spec/securityContext",
        "/spec/nodeSelector",
        "/metadata/labels",
    ];
    let image = prop_oneof![Just("nginx"), Just("nginx:latest"), Just("nginx:1"), Just("a/b@sha256:0")];
    let amount = "[1-9][0-9]{0,3}(\\.[0-9]{1,4})?(m|k|Mi|Gi)?";
    let kept = proptest::collection::vec(any::<bool>(), pointers.len());
    (kept, image, amount, any::<bool>()).prop_map(move |(kept, image, amount, host_network)| {
        let mut pod = with(&valid(), "/spec/containers/0/image", json!(image));
        pod = with(&pod, "/spec/containers/0/resources", json!({"limits": {"memory": amount}}));
        pod = with(&pod, "/spec/containers/0/resizePolicy", Value::Null);
        if host_network {
            pod = with(&pod, "/spec/hostNetwork", json!(true));
            pod = with(&pod, "/spec/securityContext", Value::Null);
        }
        for (pointer, kept) in pointers.iter().zip(kept) {
            if !kept {
                pod = with(&pod, pointer, Value::Null);
            }
        }
        pod
    })
}

proptest! {
    /// Defaulting twice is defaulting once, what is defaulted is valid, and an unchanged update is too.
    #[test]
    fn defaulted_pods_are_valid_and_stay_as_they_are(json in some_pod()) {
        let object: Pod = created(&json);
        let mut again = object.clone();
        again.set_defaults();
        prop_assert_eq!(&again, &object);
        let mut errors = Errors::new();
        in_context("", |cx| object.validate(cx, &mut errors));
        in_context("", |cx| object.validate(cx, &mut errors));
        for subresource in ["", "status", "resize", "ephemeralcontainers"] {
            in_context(subresource, |cx| {
                let mut update = object.clone();
                update.prepare_update(&object, cx);
                update.validate_update(&object, cx, &mut errors);
                assert_eq!(update.generation_changed(Some(&object)), Some(false), "{subresource}");
            });
        }
        prop_assert!(errors.is_empty(), "{}", errors);
    }
}
