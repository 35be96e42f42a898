use serde_json::{Value as Json, json};

use crate::facts::Facts;
use crate::{MAGIC, ProtoError, decode};

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// A field of bytes, a string or a message.
fn b(number: u64, value: impl AsRef<[u8]>) -> Vec<u8> {
    let value = value.as_ref();
    [varint(number << 3 | 2), varint(value.len() as u64), value.to_vec()].concat()
}

/// A field with a number.
fn n(number: u64, value: i64) -> Vec<u8> {
    [varint(number << 3), varint(value.cast_unsigned())].concat()
}

/// A field of eight bytes.
fn d(number: u64, value: f64) -> Vec<u8> {
    [varint(number << 3 | 1), value.to_bits().to_le_bytes().to_vec()].concat()
}

fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let type_meta = [b(1, api_version), b(2, kind)].concat();
    [MAGIC.to_vec(), b(1, type_meta), b(2, raw), b(3, ""), b(4, "")].concat()
}

fn read(api_version: &str, kind: &str, raw: &[u8]) -> Result<Json, ProtoError> {
    let decoded = decode(&body(api_version, kind, raw))?;
    assert_eq!((decoded.api_version.as_str(), decoded.kind.as_str()), (api_version, kind));
    let mut json: Json = serde_json::from_slice(&decoded.json).unwrap();
    let fields = json.as_object_mut().unwrap();
    assert_eq!(fields.remove("kind").unwrap(), kind);
    assert_eq!(fields.remove("apiVersion").unwrap(), api_version);
    Ok(json)
}

/// Metadata as a Go client sends it: every plain field, mostly zero.
fn metadata(name: &str) -> Vec<u8> {
    [b(1, name), b(2, ""), b(3, ""), b(4, ""), b(5, ""), b(6, ""), n(7, 0), b(8, "")].concat()
}

#[test]
fn a_config_map_as_kubectl_sends_it() {
    let raw = [
        b(1, metadata("settings")),
        b(2, [b(1, "b"), b(2, "line\n\"quoted\"\\\u{1}")].concat()),
        b(2, [b(1, "a"), b(2, "1")].concat()),
        b(3, [b(1, "blob"), b(2, [0u8, 255, 1])].concat()),
        n(4, 0),
    ]
    .concat();
    assert_eq!(
        read("v1", "ConfigMap", &raw).unwrap(),
        json!({
            "metadata": {"name": "settings"},
            "data": {"a": "1", "b": "line\n\"quoted\"\\\u{1}"},
            "binaryData": {"blob": "AP8B"},
            // A pointer in Go: false is something else than nothing.
            "immutable": false,
        })
    );
}

#[test]
fn an_entry_without_a_value_or_said_twice() {
    let raw = [
        b(2, b(1, "empty")),
        b(2, [b(1, "k"), b(2, "old")].concat()),
        b(2, [b(1, "k"), b(2, "new")].concat()),
    ];
    assert_eq!(read("v1", "ConfigMap", &raw.concat()).unwrap(), json!({"data": {"empty": "", "k": "new"}}));
}

#[test]
fn a_message_said_twice_is_merged() {
    let raw = [b(1, b(1, "name")), b(2, b(1, "k")), b(1, b(3, "space"))].concat();
    assert_eq!(
        read("v1", "ConfigMap", &raw).unwrap(),
        json!({"metadata": {"name": "name", "namespace": "space"}, "data": {"k": ""}})
    );
}

#[test]
fn a_deployment() {
    let port = [b(1, "http"), n(2, 0), n(3, 8080), b(4, "TCP"), b(5, "")].concat();
    let limits = b(1, [b(1, "cpu"), b(2, b(1, "250m"))].concat());
    let int_port = [n(1, 0), n(2, 8080), b(3, "")].concat();
    let named_port = [n(1, 1), n(2, 0), b(3, "http")].concat();
    let probe = |port: &[u8]| {
        let handler = b(2, [b(1, "/ready"), b(2, port), b(3, ""), b(4, "")].concat());
        [b(1, handler), n(2, 0), n(3, 5), n(4, 0), n(5, 0), n(6, 0)].concat()
    };
    let container = [
        b(1, "main"),
        b(2, "nginx"),
        b(5, ""),
        b(6, port),
        b(7, [b(1, "A"), b(2, "")].concat()),
        b(8, limits),
        b(10, probe(&int_port)),
        b(11, probe(&named_port)),
        b(19, [b(2, [b(1, b(1, "conf")), n(2, 0)].concat())].concat()),
    ]
    .concat();
    let volume = [b(1, "v"), b(2, b(2, [b(1, ""), b(2, b(1, "1Gi"))].concat()))].concat();
    let pod_spec = [b(1, volume), b(2, container), b(3, "Always"), n(4, 30), n(11, 0)].concat();
    let template = [b(1, metadata("")), b(2, pod_spec)].concat();
    let spec = [
        n(1, 3),
        b(2, b(1, [b(1, "app"), b(2, "x")].concat())),
        b(3, template),
        b(4, [b(1, "RollingUpdate"), b(2, b(1, [n(1, 1), b(3, "25%")].concat()))].concat()),
        n(5, 0),
        n(7, 0),
    ]
    .concat();
    let status = [n(1, 0), n(2, 0)].concat();
    let raw = [b(1, metadata("d")), b(2, spec), b(3, status)].concat();
    let json = read("apps/v1", "Deployment", &raw).unwrap();
    assert_eq!(
        json,
        json!({
            "metadata": {"name": "d"},
            "spec": {
                "replicas": 3,
                "selector": {"matchLabels": {"app": "x"}},
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%"}},
                "template": {
                    "metadata": {},
                    "spec": {
                        "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}],
                        "containers": [{
                            "name": "main",
                            "image": "nginx",
                            "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
                            "env": [{"name": "A"}],
                            "resources": {"limits": {"cpu": "250m"}},
                            "livenessProbe": {"httpGet": {"path": "/ready", "port": 8080}, "timeoutSeconds": 5},
                            "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}, "timeoutSeconds": 5},
                            "envFrom": [{"configMapRef": {"name": "conf", "optional": false}}],
                        }],
                        "restartPolicy": "Always",
                        "terminationGracePeriodSeconds": 30,
                    },
                },
            },
            "status": {},
        })
    );
    // The generated type, which the server decodes into, agrees.
    serde_json::from_value::<k8s_openapi::api::apps::v1::DeploymentSpec>(json["spec"].clone()).unwrap();
}

#[test]
fn zero_values_stay_where_gos_json_keeps_them() {
    // A secret key reference's key has no omitempty, and a service port's number neither.
    let port = [b(1, ""), b(2, ""), n(3, 0), b(4, [n(1, 0), n(2, 0), b(3, "")].concat()), n(5, 0)].concat();
    let raw = b(2, b(1, port));
    assert_eq!(read("v1", "Service", &raw).unwrap(), json!({"spec": {"ports": [{"port": 0}]}}));
}

#[test]
fn times() {
    let lease = [
        b(1, b(8, [n(1, 1_700_000_000), n(2, 999)].concat())),
        b(2, [b(1, "me"), b(3, [n(1, 1_700_000_000), n(2, 123_456_789)].concat()), b(4, "")].concat()),
    ]
    .concat();
    assert_eq!(
        read("coordination.k8s.io/v1", "Lease", &lease).unwrap(),
        json!({
            "metadata": {"creationTimestamp": "2023-11-14T22:13:20Z"},
            "spec": {"holderIdentity": "me", "acquireTime": "2023-11-14T22:13:20.123456Z"},
        })
    );
    let at = |seconds| read("v1", "Pod", &b(1, b(8, n(1, seconds))));
    assert_eq!(at(0).unwrap(), json!({"metadata": {"creationTimestamp": "1970-01-01T00:00:00Z"}}));
    assert_eq!(at(-62_135_596_800).unwrap(), json!({"metadata": {}}));
    assert_eq!(at(-62_135_596_801).unwrap_err(), ProtoError::OutOfRange { field: "creationTimestamp" });
    assert_eq!(at(i64::MAX).unwrap_err(), ProtoError::OutOfRange { field: "creationTimestamp" });
}

#[test]
fn durations_as_go_prints_them() {
    for (nanoseconds, text) in [
        (0, "0s"),
        (1, "1ns"),
        (1_100, "1.1µs"),
        (2_000_000, "2ms"),
        (1_500_000_000, "1.5s"),
        (60_000_000_000, "1m0s"),
        (3_600_000_000_001, "1h0m0.000000001s"),
        (-90_000_000_000, "-1m30s"),
        (i64::MIN, "-2562047h47m16.854775808s"),
    ] {
        let mut out = Vec::new();
        crate::text::duration(&mut out, nanoseconds);
        assert_eq!(String::from_utf8(out).unwrap(), format!("\"{text}\""));
    }
}

#[test]
fn schemas_and_raw_json() {
    let string = b(5, "string");
    let property = b(29, [b(1, "p"), b(2, &string)].concat());
    let schema = [
        b(5, "object"),
        b(8, b(1, "{\"a\": [1]}")),
        d(9, 100.0),
        d(11, 0.5),
        b(24, b(1, &string)),
        property,
        b(30, n(1, 1)),
        b(32, [b(1, "d"), b(2, [b(2, "x"), b(2, "y")].concat())].concat()),
    ]
    .concat();
    let version = [b(1, "v1"), n(2, 1), n(3, 1), b(4, b(1, schema))].concat();
    let raw = b(2, [b(1, "example.com"), b(7, version)].concat());
    assert_eq!(
        read("apiextensions.k8s.io/v1", "CustomResourceDefinition", &raw).unwrap(),
        json!({"spec": {"group": "example.com", "versions": [{
            "name": "v1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": {
                "type": "object",
                "default": {"a": [1]},
                "maximum": 100,
                "minimum": 0.5,
                "items": {"type": "string"},
                "properties": {"p": {"type": "string"}},
                "additionalProperties": true,
                "dependencies": {"d": ["x", "y"]},
            }},
        }]}})
    );
    let revision = |data: &[u8]| read("apps/v1", "ControllerRevision", &[b(2, b(1, data)), n(3, 1)].concat());
    assert_eq!(revision(b"{\"x\":1}").unwrap(), json!({"data": {"x": 1}, "revision": 1}));
    assert_eq!(revision(b"{,").unwrap_err(), ProtoError::NotJson { field: "data" });
    let nested = body("v1", "Namespace", &b(1, b(1, "n")));
    assert_eq!(
        revision(&nested).unwrap()["data"],
        json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "n"}})
    );
}

#[test]
fn rules_reviews_and_options() {
    let role = b(2, [b(1, "get"), b(1, "list"), b(2, ""), b(3, "pods")].concat());
    assert_eq!(
        read("rbac.authorization.k8s.io/v1", "Role", &role).unwrap(),
        json!({"rules": [{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}]})
    );
    let extra = b(5, [b(1, "scopes"), b(2, [b(1, "a"), b(1, "b")].concat())].concat());
    let review = b(2, [b(3, "jane"), extra].concat());
    assert_eq!(
        read("authorization.k8s.io/v1", "SubjectAccessReview", &review).unwrap(),
        json!({"spec": {"user": "jane", "extra": {"scopes": ["a", "b"]}}})
    );
    let options = [n(1, 0), b(2, b(1, "uid")), b(4, "Foreground")].concat();
    for version in ["v1", "apps/v1", "example.com/v1alpha1"] {
        assert_eq!(
            read(version, "DeleteOptions", &options).unwrap(),
            json!({"gracePeriodSeconds": 0, "preconditions": {"uid": "uid"}, "propagationPolicy": "Foreground"})
        );
    }
}

#[test]
fn ingress_rules_stand_in_their_parent() {
    let backend = b(4, [b(1, "svc"), b(2, [b(1, ""), n(2, 80)].concat())].concat());
    let path = [b(1, "/"), b(3, "Prefix"), b(2, backend)].concat();
    let rule = [b(1, "host"), b(2, b(1, b(1, path)))].concat();
    assert_eq!(
        read("networking.k8s.io/v1", "Ingress", &b(2, b(3, rule))).unwrap(),
        json!({"spec": {"rules": [{"host": "host", "http": {"paths": [
            {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "svc", "port": {"number": 80}}}},
        ]}}]}})
    );
}

#[test]
fn unknown_fields_are_passed_over() {
    let group = [varint(70 << 3 | 3), b(1, "x"), varint(3 << 3 | 3), varint(3 << 3 | 4), varint(70 << 3 | 4)]
        .concat();
    let raw = [
        n(60, 1),
        d(61, 1.0),
        b(62, "x"),
        group,
        vec![63 << 3 & 0x7f | 0x80 | 5, 3, 0, 0, 0, 0],
        b(1, b(1, "n")),
    ];
    assert_eq!(read("v1", "Namespace", &raw.concat()).unwrap(), json!({"metadata": {"name": "n"}}));
}

#[test]
fn what_is_not_an_object() {
    let broken = |raw: &[u8]| read("v1", "ConfigMap", raw).unwrap_err();
    assert_eq!(decode(b"").unwrap_err(), ProtoError::NoMagic);
    assert_eq!(decode(b"{}").unwrap_err(), ProtoError::NoMagic);
    assert_eq!(decode(MAGIC).unwrap_err(), ProtoError::NoKind);
    assert!(matches!(read("v1", "Secrets", &[]).unwrap_err(), ProtoError::UnknownKind { .. }));
    assert_eq!(broken(&[0x0a]), ProtoError::Truncated);
    assert_eq!(broken(&[0x0a, 5, 0]), ProtoError::Truncated);
    assert_eq!(broken(&[0x80]), ProtoError::Truncated);
    assert_eq!(broken(&[0x0a, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1]), ProtoError::Truncated);
    assert_eq!(broken(&[255; 11]), ProtoError::Overflow);
    assert_eq!(broken(&[0x02, 0]), ProtoError::BadTag);
    assert_eq!(broken(&[0x0c]), ProtoError::BadTag);
    assert_eq!(broken(&[0x0e, 0]), ProtoError::BadTag);
    assert_eq!(broken(&n(1, 1)), ProtoError::WrongWireType { field: "metadata" });
    assert_eq!(broken(&b(4, "x")), ProtoError::WrongWireType { field: "immutable" });
    assert_eq!(broken(&b(1, b(1, [255]))), ProtoError::NotUtf8 { field: "name" });
    let gzip = [MAGIC.to_vec(), b(3, "gzip")].concat();
    assert!(matches!(decode(&gzip).unwrap_err(), ProtoError::UnknownContent { .. }));
}

#[test]
fn depth_is_bounded() {
    // JSONSchemaProps.not is field 28.
    let deep = |levels: usize| {
        let mut schema = Vec::new();
        for _ in 0..levels {
            schema = b(28, &schema);
        }
        b(2, b(7, b(4, b(1, schema))))
    };
    let crd = |levels| read("apiextensions.k8s.io/v1", "CustomResourceDefinition", &deep(levels));
    crd(crate::MAX_DEPTH - 10).unwrap();
    assert_eq!(crd(crate::MAX_DEPTH).unwrap_err(), ProtoError::TooDeep);
    let mut envelope = b"{}".to_vec();
    for _ in 0..=crate::MAX_DEPTH {
        envelope = body("apps/v1", "ControllerRevision", &b(2, b(1, &envelope)));
    }
    assert_eq!(decode(&envelope).map(|_| "decoded"), Err(ProtoError::TooDeep));
}

#[test]
fn the_table_is_whole() {
    let facts = Facts::get().unwrap();
    let mut known = 0;
    for (version, kind, id) in facts.kinds() {
        known += 1;
        let fields = facts.fields(id);
        assert!(fields.is_sorted_by(|a, b| a.number < b.number), "{version} {kind} has a number twice");
        let mut names: Vec<_> = fields.iter().map(|f| f.name).filter(|&n| n != ".").collect();
        names.sort_unstable();
        names.dedup();
        let inline = fields.iter().filter(|f| f.name == ".").count();
        assert_eq!(names.len() + inline, fields.len(), "{version} {kind} has a name twice");
    }
    assert!(known > 600, "{known}");
    for (version, kind) in [
        ("v1", "Pod"),
        ("v1", "Secret"),
        ("batch/v1", "CronJob"),
        ("autoscaling/v1", "Scale"),
        ("autoscaling/v2", "HorizontalPodAutoscaler"),
        ("policy/v1", "Eviction"),
        ("networking.k8s.io/v1", "NetworkPolicy"),
        ("discovery.k8s.io/v1", "EndpointSlice"),
        ("storage.k8s.io/v1", "StorageClass"),
        ("scheduling.k8s.io/v1", "PriorityClass"),
        ("node.k8s.io/v1", "RuntimeClass"),
        ("events.k8s.io/v1", "Event"),
        ("certificates.k8s.io/v1", "CertificateSigningRequest"),
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy"),
        ("authentication.k8s.io/v1", "TokenRequest"),
        ("flowcontrol.apiserver.k8s.io/v1", "FlowSchema"),
    ] {
        assert!(facts.kind(version, kind).is_some(), "{version} {kind}");
    }
}

mod properties {
    use proptest::prelude::*;

    use super::*;
    use crate::facts::{Form, MessageId, Shape};

    /// The most bytes of JSON that come from one byte of protobuf: a short field has a long name.
    const MAX_GROWTH: usize = 64;

    fn kinds() -> Vec<(&'static str, &'static str, MessageId)> {
        let mut kinds: Vec<_> = Facts::get().unwrap().kinds().collect();
        kinds.sort_unstable_by_key(|k| (k.0, k.1));
        kinds
    }

    fn check(body: &[u8]) {
        if let Ok(decoded) = decode(body) {
            let json = std::str::from_utf8(&decoded.json).unwrap();
            serde_json::from_str::<serde::de::IgnoredAny>(json).unwrap();
            assert!(json.len() <= 64 + body.len() * MAX_GROWTH, "{} from {}", json.len(), body.len());
        }
    }

    /// A message with fields that exist, filled from a stream of choices; sometimes with the wrong type.
    fn message(id: MessageId, choices: &mut impl Iterator<Item = u8>, depth: usize) -> Vec<u8> {
        let facts = Facts::get().unwrap();
        let fields = facts.fields(id);
        let mut out = Vec::new();
        if fields.is_empty() {
            return out;
        }
        for _ in 0..choices.next().unwrap_or(0) % 6 {
            let field = fields[usize::from(choices.next().unwrap_or(0)) % fields.len()];
            let small = choices.next().unwrap_or(0);
            let value = match field.form {
                _ if small == 255 => n(9, 1),
                Form::String => format!("s{small}").into_bytes(),
                Form::Bytes => vec![small],
                Form::Message(inner) | Form::SchemaOrArray(inner) if depth > 0 => {
                    let inner = message(inner, choices, depth - 1);
                    if matches!(field.form, Form::Message(_)) { inner } else { b(1, inner) }
                }
                Form::Time | Form::MicroTime | Form::Duration => n(1, i64::from(small)),
                Form::Quantity => b(1, small.to_string()),
                Form::Raw => b(1, "{}"),
                Form::IntOrString => n(1, i64::from(small % 2)),
                Form::Double => {
                    out.extend(d(u64::from(field.number), f64::from(small)));
                    continue;
                }
                Form::Int32 | Form::Int64 | Form::Uint32 | Form::Uint64 | Form::Bool => {
                    out.extend(n(u64::from(field.number), i64::from(small)));
                    continue;
                }
                _ => Vec::new(),
            };
            let value = match field.shape {
                Shape::Map => [b(1, format!("k{small}")), b(2, value)].concat(),
                _ => value,
            };
            out.extend(b(u64::from(field.number), value));
        }
        out
    }

    proptest! {
        #[test]
        fn noise_never_panics(kind: proptest::sample::Index, raw: Vec<u8>, whole: bool) {
            let kinds = kinds();
            let (version, kind, _) = kinds[kind.index(kinds.len())];
            check(&if whole { [MAGIC.to_vec(), raw].concat() } else { body(version, kind, &raw) });
        }

        #[test]
        fn objects_decode_and_survive_damage(
            kind: proptest::sample::Index,
            choices in proptest::collection::vec(0u8..255, 0..300),
            at: proptest::sample::Index,
            flip in 1u8..,
        ) {
            let kinds = kinds();
            let (version, kind, id) = kinds[kind.index(kinds.len())];
            let raw = message(id, &mut choices.into_iter(), 12);
            let mut bytes = body(version, kind, &raw);
            prop_assert!(decode(&bytes).is_ok(), "{version} {kind}: {:?}", decode(&bytes));
            check(&bytes);
            check(&bytes[..at.index(bytes.len())]);
            let place = at.index(bytes.len());
            bytes[place] ^= flip;
            check(&bytes);
        }
    }
}
