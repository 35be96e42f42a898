use super::*;
use crate::kinds::tables::{
    check_create, check_update, create_errors, defaulted, object, patched, row, with_context,
};
use serde_json::{Value, json};

fn good() -> Value {
    json!({
        "apiVersion": "tenancy.skep.io/v1", "kind": "Tenant",
        "metadata": {"name": "acme", "creationTimestamp": "1970-01-01T00:00:00Z"},
        "spec": {
            "displayName": "Acme Inc.", "weight": 200, "suspended": false,
            "quota": {
                "requests.cpu": "0.5", "requests.memory": "1024Mi", "limits.cpu": "1", "limits.memory": "2Gi",
                "pods": "100", "count/objects": "1000", "requests.storage": "1Ti", "public.addresses": "2",
                "bandwidth": "1G", "machines": "10", "machines.cpu": "20", "machines.memory": "40Gi",
            },
        },
    })
}

#[test]
fn creation() {
    let quota = |key: &str, amount: &str| json!({"spec": {"quota": {key: amount}}});
    check_create::<Tenant>(
        &good(),
        &[
            (json!({"spec": null}), ""),
            (
                json!({"metadata": {"name": "system"}}),
                r#"metadata.name: Invalid value: "system": is the name of the operator's own tenant"#,
            ),
            (
                json!({"spec": {"displayName": "x".repeat(257)}}),
                "spec.displayName: Too long: may not be more than 256 bytes",
            ),
            (
                json!({"spec": {"displayName": "a\nb"}}),
                r#"spec.displayName: Invalid value: "a\nb": must not contain control characters"#,
            ),
            (
                json!({"spec": {"weight": 0}}),
                "spec.weight: Invalid value: 0: must be between 1 and 1000, inclusive",
            ),
            (json!({"spec": {"weight": 1}}), ""),
            (json!({"spec": {"weight": 1000}}), ""),
            (
                json!({"spec": {"weight": 1001}}),
                "spec.weight: Invalid value: 1001: must be between 1 and 1000, inclusive",
            ),
            (
                quota("cpu", "1"),
                r#"spec.quota[cpu]: Unsupported value: "cpu": supported values: "bandwidth", "count/objects", "limits.cpu", "limits.memory", "machines", "machines.cpu", "machines.memory", "pods", "public.addresses", "requests.cpu", "requests.memory", "requests.storage""#,
            ),
            (
                quota("pods", "-1"),
                r#"spec.quota[pods]: Invalid value: "-1": must be greater than or equal to 0"#,
            ),
            (quota("pods", "500m"), r#"spec.quota[pods]: Invalid value: "500m": must be an integer"#),
            (quota("pods", "many"), r#"spec.quota[pods]: Invalid value: "many": quantities must match"#),
            (quota("pods", "0"), ""),
        ],
    );
}

#[test]
fn writes_to_the_status() {
    let used = |key: &str, amount: &str| json!({"status": {"used": {key: amount}}});
    check_update::<Tenant>(
        &good(),
        "status",
        &[
            (used("pods", "3"), ""),
            (used("x", "3"), r#"status.used[x]: Unsupported value: "x""#),
            (used("pods", "-3"), r#"status.used[pods]: Invalid value: "-3": must be greater"#),
            (
                json!({"status": {"phase": "Terminating"}}),
                r#"status.phase: Invalid value: "Terminating": may be 'Terminating' only if"#,
            ),
            (
                json!({"status": {"conditions": [
                    {"type": "A", "status": "X", "reason": "R", "message": "", "lastTransitionTime": "2020-01-01T00:00:00Z"},
                ]}}),
                r#"status.conditions[0].status: Unsupported value: "X""#,
            ),
        ],
    );
    let ending = patched(
        &good(),
        &json!({"metadata": {"deletionTimestamp": "2020-01-01T00:00:00Z"}, "status": {"phase": "Terminating"}}),
    );
    check_update::<Tenant>(
        &ending,
        "status",
        &[(
            json!({"status": {"phase": "Active"}}),
            r#"status.phase: Invalid value: "Active": may not be 'Active' again"#,
        )],
    );
    check_update::<Tenant>(
        &good(),
        "",
        &[
            (json!({"spec": {"weight": 0}}), "spec.weight: Invalid"),
            (json!({"spec": {"suspended": true}}), ""),
        ],
    );
}

#[test]
fn strategy() {
    let tenant: Tenant = object(&patched(&good(), &json!({"status": {"used": {"pods": "5"}}})));
    with_context("", |cx| {
        let mut created = tenant.clone();
        created.prepare_create(cx);
        created.prepare_create(cx);
        assert_eq!(created.metadata.finalizers, Some(vec![CONTENTS_FINALIZER.to_owned()]));
        assert_eq!(created.phase(), TenantPhase::Active);
        assert_eq!(created.status.unwrap().used, None);
        let old: Tenant = object(&good());
        let mut updated = Tenant { spec: TenantSpec::default(), ..tenant.clone() };
        updated.prepare_update(&old, cx);
        assert_eq!((&updated.spec, &updated.status), (&TenantSpec::default(), &old.status));
        assert_eq!(updated.generation_changed(Some(&old)), Some(true));
    });
    with_context("status", |cx| {
        let old: Tenant = object(&good());
        let mut written = Tenant { spec: TenantSpec::default(), ..tenant.clone() };
        written.prepare_update(&old, cx);
        assert_eq!((&written.spec, &written.status), (&old.spec, &tenant.status));
        assert_eq!(written.generation_changed(Some(&old)), Some(false));
    });
}

#[test]
fn defaults_limits_and_row() {
    assert_eq!(defaulted::<Tenant>(&json!({"metadata": {"name": "a"}}))["spec"], json!({"weight": 100}));
    let quota = &defaulted::<Tenant>(&good())["spec"]["quota"];
    assert_eq!((&quota["requests.cpu"], &quota["requests.memory"]), (&json!("500m"), &json!("1Gi")));
    let tenant: Tenant = object(&good());
    let limits: BTreeMap<_, _> = tenant.limits().collect();
    assert_eq!(limits.len(), TenantResource::ALL.len());
    assert_eq!(limits[&TenantResource::RequestsCpu].milli_value(), 500);
    assert_eq!(tenant.tenant_name().unwrap().as_str(), "acme");
    assert_eq!(row::<Tenant>(&good()), json!(["acme", "Active", "0/100", "60s", "Acme Inc.", 200]));
    let busy = json!({"spec": {"quota": null, "suspended": true}, "status": {"used": {"pods": "3"}}});
    assert_eq!(
        row::<Tenant>(&patched(&good(), &busy)),
        json!(["acme", "Suspended", "3", "60s", "Acme Inc.", 200])
    );
    assert!(TenantResource::ALL.map(TenantResource::as_str).is_sorted());
}

#[test]
fn stored_form_and_names() {
    let tenant: Tenant = object(&good());
    let encoded = crate::Object::encode(&tenant).unwrap();
    assert!(encoded.body.starts_with(br#"{"kind":"Tenant","apiVersion":"tenancy.skep.io/v1","metadata":{"#));
    let back: Tenant = serde_json::from_slice(&encoded.body).unwrap();
    let expected = ObjectMeta { resource_version: Some(String::new()), ..tenant.metadata.clone() };
    assert_eq!(back, Tenant { metadata: expected, ..tenant.clone() });
    assert_eq!(serde_json::from_value::<Tenant>(serde_json::to_value(&tenant).unwrap()).unwrap(), tenant);
    let wrong = patched(&good(), &json!({"kind": "Pod"}));
    let error = serde_json::from_value::<Tenant>(wrong).unwrap_err().to_string();
    assert_eq!(error, r#"invalid value: string "Pod", expected Tenant"#);
    assert_eq!(create_errors::<Tenant>(&json!({})), "");
    let mut unknown = Vec::new();
    let json = patched(&good(), &json!({"spec": {"colour": "red"}})).to_string();
    crate::codec::decode::<Tenant>(json.as_bytes(), &mut |path| unknown.push(path.to_string())).unwrap();
    assert_eq!(unknown, ["spec.colour"]);
}

#[test]
fn schema_describes_the_fields() {
    let mut generator = SchemaGenerator::default();
    let schema = serde_json::to_value(Tenant::json_schema(&mut generator)).unwrap();
    for field in ["apiVersion", "kind", "metadata", "spec", "status"] {
        assert!(schema["properties"][field].is_object(), "{schema:#}");
    }
    let definitions = serde_json::to_value(generator.definitions()).unwrap();
    assert!(definitions["io.skep.tenancy.v1.TenantSpec"]["properties"]["quota"].is_object());
}
