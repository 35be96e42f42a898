use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use serde_json::{Value, json};

use crate::kind::{Fields, Kind};
use crate::kinds::testing::{
    check_create, create_errors, created, object, row, update_errors, with, with_context,
};

/// A request of `CN=ann,O=devs`, signed by its own key, which nobody has any more.
const REQUEST: &str = "-----BEGIN CERTIFICATE REQUEST-----
MIHXMH8CAQAwHTEMMAoGA1UEAwwDYW5uMQ0wCwYDVQQKDARkZXZzMFkwEwYHKoZI
zj0CAQYIKoZIzj0DAQcDQgAEPxzlEhknoAQxktGw48pOV/aD+vZjjTea7WjuJMtB
A9OWKANa4i1L1Lqfi23H/O2QlHjHXn+w8BHMItw2oOfOw6AAMAoGCCqGSM49BAMC
A0gAMEUCIDGl58vGbnteY2gsIqHGuLDQYgXTU7ybOvsFxamp1NMaAiEAgGu4UI7F
ZxOHxAdrM5gvYZkaFSbWA3anQwd4GFwiwmE=
-----END CERTIFICATE REQUEST-----
";

const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----
MIIBcDCCARegAwIBAgIUNcEtUk1JOeS6jJEivC90wx1y8zowCgYIKoZIzj0EAwIw
DTELMAkGA1UEAwwCY2EwIBcNMjYxMTIzMDA0MDIxWhgPMjEyNjEwMzAwMDQwMjFa
MA0xCzAJBgNVBAMMAmNhMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEPxzlEhkn
oAQxktGw48pOV/aD+vZjjTea7WjuJMtBA9OWKANa4i1L1Lqfi23H/O2QlHjHXn+w
8BHMItw2oOfOw6NTMFEwHQYDVR0OBBYEFKx4Ff6gDQOPcWwwtMllyHX7T1LQMB8G
A1UdIwQYMBaAFKx4Ff6gDQOPcWwwtMllyHX7T1LQMA8GA1UdEwEB/wQFMAMBAf8w
CgYIKoZIzj0EAwIDRwAwRAIgV0knnaDcaXTxdbiK9UBxdhDzVTmlCOTW8aOfIl+6
p4gCIAFb9tc4KZvh98CDf2bGUFBHp0sFBzJGC+Y3zIivf+AC
-----END CERTIFICATE-----
";

fn encoded(text: &str) -> Value {
    STANDARD.encode(text).into()
}

fn csr() -> Value {
    json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"name": "ann"},
        "spec": {
            "request": encoded(REQUEST), "signerName": "example.com/signer",
            "usages": ["client auth", "digital signature"],
            // What the user says about herself counts for nothing.
            "username": "root", "groups": ["system:masters"],
        },
    })
}

#[test]
fn the_server_says_who_asks() {
    let made = serde_json::to_value(created::<CertificateSigningRequest>(&csr())).unwrap();
    assert_eq!(made["spec"]["username"], "ann");
    assert_eq!(made["spec"]["uid"], "u-1");
    assert_eq!(made["spec"]["groups"], json!(["devs", "system:authenticated"]));
    assert_eq!(made["spec"]["extra"], json!({"scope": ["x"]}));
    let approved = with(&csr(), &[("/status/conditions", json!([{"type": "Approved", "status": "True"}]))]);
    let made: CertificateSigningRequest = created(&approved);
    assert_eq!(made.status, Some(Default::default()), "nobody creates an approved request");
}

#[test]
fn create() {
    let no_request = format!(
        "spec.request: Invalid value: {}: PEM block type must be CERTIFICATE REQUEST",
        encoded(CERTIFICATE)
    );
    // The last character of the signature differs.
    let forged_text = REQUEST.replace("FwiwmE=", "FwiwmI=");
    let forged =
        format!("spec.request: Invalid value: {}: x509: ECDSA verification failure", encoded(&forged_text));
    check_create::<CertificateSigningRequest>(
        &csr(),
        &[
            (&[("/spec/request", encoded(CERTIFICATE))], &[&no_request]),
            (&[("/spec/request", encoded(&forged_text))], &[&forged]),
            (&[("/spec/usages", Value::Null)], &["spec.usages: Required value"]),
            (
                &[("/spec/usages", json!(["any", "odd", "any"]))],
                &[
                    r#"spec.usages[1]: Unsupported value: "odd": supported values: "any", "cert sign", "client auth", "code signing", "content commitment", "crl sign", "data encipherment", "decipher only", "digital signature", "email protection", "encipher only", "ipsec end system", "ipsec tunnel", "ipsec user", "key agreement", "key encipherment", "microsoft sgc", "netscape sgc", "ocsp signing", "s/mime", "server auth", "signing", "timestamping""#,
                    r#"spec.usages[2]: Duplicate value: "any""#,
                ],
            ),
            (
                &[("/spec/expirationSeconds", json!(599))],
                &[
                    "spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 600 seconds (10 minutes)",
                ],
            ),
            (&[("/spec/signerName", json!(""))], &["spec.signerName: Required value"]),
            (
                &[("/spec/signerName", json!("signer"))],
                &[
                    r#"spec.signerName: Invalid value: "signer": must be a fully qualified domain and path of the form 'example.com/signer-name'"#,
                ],
            ),
            (
                &[("/spec/signerName", json!("example/signer"))],
                &[
                    r#"spec.signerName: Invalid value: "example": should be a domain with at least two segments separated by dots"#,
                ],
            ),
            (
                &[("/spec/signerName", json!("a.-b/signer"))],
                &[
                    r#"spec.signerName: Invalid value: "a.-b": validating label "-b": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"#,
                ],
            ),
            (
                &[("/spec/signerName", json!("kubernetes.io/legacy-unknown"))],
                &[
                    r#"spec.signerName: Invalid value: "kubernetes.io/legacy-unknown": the legacy signerName is not allowed via this API version"#,
                ],
            ),
        ],
    );
}

fn stored(conditions: Value) -> CertificateSigningRequest {
    let mut made = serde_json::to_value(created::<CertificateSigningRequest>(&csr())).unwrap();
    made["status"]["conditions"] = conditions;
    object(&made)
}

fn condition(type_: &str) -> Value {
    json!({"type": type_, "status": "True", "reason": "r"})
}

fn changed(old: &CertificateSigningRequest, status: Value) -> Value {
    with(&serde_json::to_value(old).unwrap(), &[("/status", status)])
}

#[test]
fn only_approvers_approve_and_only_signers_sign() {
    let old = stored(json!([]));
    let approve = changed(&old, json!({"conditions": [condition("Approved")]}));
    assert_eq!(update_errors(&old, &approve, "approval"), Vec::<String>::new());
    assert_eq!(update_errors(&old, &approve, ""), Vec::<String>::new(), "the status is not its business");
    assert_eq!(
        update_errors(&old, &approve, "status"),
        [r#"status.conditions: Forbidden: updates may not add a condition of type "Approved""#]
    );
    let sign = changed(&old, json!({"certificate": encoded(CERTIFICATE)}));
    assert_eq!(update_errors(&old, &sign, "status"), Vec::<String>::new());
    let mut by_approval: CertificateSigningRequest = object(&sign);
    with_context("approval", |cx| by_approval.prepare_update(&old, cx));
    assert_eq!(by_approval.status.unwrap().certificate, None);
    let no_certificate = changed(&old, json!({"certificate": encoded(REQUEST)}));
    assert_eq!(
        update_errors(&old, &no_certificate, "status"),
        [
            r#"status.certificate: Invalid value: "<certificate data>": only CERTIFICATE PEM blocks are allowed, found "CERTIFICATE REQUEST""#
        ]
    );
    let text = changed(&old, json!({"certificate": encoded("hello")}));
    assert_eq!(
        update_errors(&old, &text, "status"),
        [
            r#"status.certificate: Invalid value: "<certificate data>": must contain at least one CERTIFICATE PEM block"#
        ]
    );
    let headers = CERTIFICATE.replace("-----\nMIIB", "-----\nA: b\n\nMIIB");
    let headers = changed(&old, json!({"certificate": encoded(&headers)}));
    assert_eq!(
        update_errors(&old, &headers, "status"),
        [r#"status.certificate: Invalid value: "<certificate data>": no PEM block headers are permitted"#]
    );
    let signed: CertificateSigningRequest = object(&sign);
    let again = changed(&old, json!({"certificate": encoded(&format!("{CERTIFICATE}{CERTIFICATE}"))}));
    assert_eq!(
        update_errors(&signed, &again, "status"),
        ["status.certificate: Forbidden: updates may not modify existing certificate content"]
    );
}

#[test]
fn decisions_stand() {
    let approved = stored(json!([condition("Approved")]));
    assert_eq!(
        update_errors(&approved, &changed(&approved, json!({"conditions": []})), "approval"),
        [r#"status.conditions: Forbidden: updates may not remove a condition of type "Approved""#]
    );
    let both = json!({"conditions": [condition("Approved"), condition("Denied")]});
    assert_eq!(
        update_errors(&approved, &changed(&approved, both), "approval"),
        [
            r#"status.conditions: Invalid value: "Denied": Approved and Denied conditions are mutually exclusive"#
        ]
    );
    let wrong = json!({"conditions": [condition("Approved"), {"type": "Failed", "status": "False"}, {"type": "", "status": ""}]});
    assert_eq!(
        update_errors(&approved, &changed(&approved, wrong), "approval"),
        [
            r#"status.conditions[1].status: Unsupported value: "False": supported values: "True""#,
            "status.conditions[2].type: Required value",
            "status.conditions[2].status: Required value",
        ]
    );
    let twice = json!({"conditions": [condition("Approved"), condition("Approved")]});
    assert_eq!(
        update_errors(&approved, &changed(&approved, twice), "approval"),
        [r#"status.conditions[1].type: Duplicate value: "Approved""#]
    );
    // A signer that writes the status cannot change why a request was approved.
    let mut other: CertificateSigningRequest = object(&changed(
        &approved,
        json!({"conditions": [{"type": "Approved", "status": "True", "reason": "other"}]}),
    ));
    with_context("status", |cx| other.prepare_update(&approved, cx));
    let kept = &other.status.as_ref().unwrap().conditions.as_ref().unwrap()[0];
    assert_eq!(kept.reason.as_deref(), Some("r"));
}

#[test]
fn conditions_get_their_times() {
    let old = stored(json!([]));
    let mut new: CertificateSigningRequest =
        object(&changed(&old, json!({"conditions": [condition("Approved")]})));
    with_context("approval", |cx| new.prepare_update(&old, cx));
    let set = new.status.as_ref().unwrap().conditions.as_ref().unwrap()[0].clone();
    assert_eq!(set.last_update_time.unwrap().0, jiff::Timestamp::UNIX_EPOCH);
    assert_eq!(set.last_transition_time.unwrap().0, jiff::Timestamp::UNIX_EPOCH);
}

#[test]
fn rows_and_fields() {
    let tree = with(
        &csr(),
        &[
            ("/spec/expirationSeconds", json!(3600)),
            (
                "/status",
                json!({"conditions": [condition("Approved"), condition("Failed")], "certificate": encoded(CERTIFICATE)}),
            ),
        ],
    );
    assert_eq!(
        row::<CertificateSigningRequest>(&tree)[1..],
        [
            ("Age", json!("90s")),
            ("SignerName", json!("example.com/signer")),
            ("Requestor", json!("root")),
            ("RequestedDuration", json!("60m")),
            ("Condition", json!("Approved,Failed,Issued")),
        ]
    );
    assert_eq!(row::<CertificateSigningRequest>(&csr())[5].1, json!("Pending"));
    let mut fields = Fields::default();
    object::<CertificateSigningRequest>(&csr()).fields(&mut fields);
    assert_eq!(fields.values, [("spec.signerName", "example.com/signer".to_owned(), false)]);
    assert!(create_errors::<CertificateSigningRequest>(&csr()).is_empty());
}
