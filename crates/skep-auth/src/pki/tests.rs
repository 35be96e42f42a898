//! The directory, the certificates, the signers.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rcgen::{CertificateParams, DnType, KeyPair, SanType, string::Ia5String};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;
use crate::authn::{CertificateError, identity_of_certificate};
use crate::identity::Credential;

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn after(days: i64) -> Timestamp {
    now() + SignedDuration::from_secs(days * DAY)
}

fn acme() -> TenantName {
    TenantName::new("acme").unwrap()
}

fn open(dir: &Path, at: Timestamp) -> Pki {
    Pki::open(dir, &["api.example.com".to_owned(), "10.1.2.3".to_owned()], at).unwrap()
}

fn der_of(pem: &str) -> Vec<u8> {
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
}

#[test]
fn the_first_start_makes_everything_and_the_next_finds_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pki");
    let first = open(&path, now());
    let files: Vec<_> = fs::read_dir(&path).unwrap().map(|f| f.unwrap().path()).collect();
    assert_eq!(files.len(), 9, "{files:?}");
    for f in files {
        assert_eq!(fs::metadata(&f).unwrap().permissions().mode() & 0o777, 0o600, "{f:?}");
    }
    let second = open(&path, after(1));
    assert_eq!(first.ca_pem(), second.ca_pem());
    assert_eq!(first.serving().certificate_pem(), second.serving().certificate_pem());
    assert_eq!(first.admin().key_pem(), second.admin().key_pem());
    assert_eq!(first.master_secret(), second.master_secret());
    assert_ne!(first.ca_pem(), first.client_ca().certificate_pem(), "serving and client CA are two");
}

#[test]
fn the_serving_certificate_has_the_names_and_is_renewed() {
    let dir = tempfile::tempdir().unwrap();
    let pki = open(dir.path(), now());
    let serving = pki.serving();
    let (_, cert) = X509Certificate::from_der(serving.certificate()).unwrap();
    let text = format!("{:?}", cert.subject_alternative_name().unwrap().unwrap().value);
    for name in ["localhost", "kubernetes.default.svc", "api.example.com"] {
        assert!(text.contains(name), "{name}: {text}");
    }
    assert!(
        serving.has_names(&[AltName::Ip("10.1.2.3".parse().unwrap()), AltName::Ip("::1".parse().unwrap())])
    );
    let (_, ca) = X509Certificate::from_der(pki.serving_ca.certificate()).unwrap();
    cert.verify_signature(Some(ca.public_key())).unwrap();

    assert!(pki.renew_serving(after(300)).unwrap().is_none());
    let renewed = pki.renew_serving(after(340)).unwrap().unwrap();
    assert_ne!(renewed.certificate_pem(), serving.certificate_pem());
    assert!(pki.renew_serving(after(340)).unwrap().is_none());
    assert_eq!(open(dir.path(), after(340)).serving().certificate_pem(), renewed.certificate_pem());
    // Another name, another certificate; fewer names, the same.
    let fewer = Pki::open(dir.path(), &[], after(340)).unwrap();
    assert_eq!(fewer.serving().certificate_pem(), renewed.certificate_pem());
    let more = Pki::open(dir.path(), &["new.example.com".to_owned()], after(340)).unwrap();
    assert_ne!(more.serving().certificate_pem(), renewed.certificate_pem());
    assert!(matches!(Pki::open(dir.path(), &["a b".to_owned()], now()), Err(PkiError::Name(_))));
}

#[test]
fn damage_is_named_and_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path(), now());
    let file = |n: &str| dir.path().join(n);
    let error = || Pki::open(dir.path(), &[], now()).unwrap_err();
    for name in ["ca.crt", "ca.key", "client-ca.crt", "apiserver.key", "admin.crt", "service-account.secret"]
    {
        let good = fs::read(file(name)).unwrap();
        fs::write(file(name), &good[..good.len() / 2]).unwrap();
        assert!(matches!(error(), PkiError::Damaged { .. }), "{name}");
        fs::write(file(name), &good).unwrap();
    }
    // A key that is another certificate's.
    let good = fs::read(file("ca.key")).unwrap();
    fs::copy(file("admin.key"), file("ca.key")).unwrap();
    assert!(matches!(error(), PkiError::Damaged { detail: "the key is not the certificate's", .. }));
    fs::remove_file(file("ca.key")).unwrap();
    assert!(matches!(error(), PkiError::KeyMissing { .. }));
    fs::write(file("ca.key"), good).unwrap();
    // An end-entity certificate in the place of an authority.
    let keep = [fs::read(file("ca.crt")).unwrap(), fs::read(file("ca.key")).unwrap()];
    fs::copy(file("admin.crt"), file("ca.crt")).unwrap();
    fs::copy(file("admin.key"), file("ca.key")).unwrap();
    assert!(matches!(error(), PkiError::Damaged { .. }));
    fs::write(file("ca.crt"), &keep[0]).unwrap();
    fs::write(file("ca.key"), &keep[1]).unwrap();
    open(dir.path(), now());
    assert!(matches!(Pki::open(dir.path(), &[], after(3700)), Err(PkiError::Expired { .. })));
}

#[test]
fn a_crash_between_key_and_certificate_is_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let before = open(dir.path(), now());
    fs::remove_file(dir.path().join("apiserver.crt")).unwrap();
    fs::write(dir.path().join("admin.crt.tmp"), "half").unwrap();
    let after = open(dir.path(), now());
    assert_eq!(before.ca_pem(), after.ca_pem());
    assert!(after.serving().issued_by(&after.serving_ca));
}

#[test]
fn certificates_name_user_groups_and_tenant() {
    let dir = tempfile::tempdir().unwrap();
    let pki = open(dir.path(), now());
    let admin = identity_of_certificate(pki.admin().certificate()).unwrap();
    assert!(admin.is_system_master());
    assert_eq!(admin.user.name, "skep-admin");
    assert_eq!(admin.credential, Credential::ClientCert);
    assert!(admin.user.extra["authentication.kubernetes.io/credential-id"][0].starts_with("X509SHA256="));

    let groups = ["system:masters".to_owned(), "dev".to_owned()];
    let validity = SignedDuration::from_hours(1);
    let pair = pki.issue_client(&acme(), "u-1", "jane", &groups, validity, now()).unwrap();
    let jane = identity_of_certificate(pair.certificate()).unwrap();
    assert_eq!((jane.tenant.as_str(), jane.tenant_uid.as_deref()), ("acme", Some("u-1")));
    assert_eq!(jane.user.groups, ["system:masters", "dev", "system:authenticated"]);
    assert!(jane.is_master() && !jane.is_system_master());
    assert_eq!(pair.not_after(), now() + validity);
    for bad in ["", "a/b", "ä", &"x".repeat(65)] {
        assert!(pki.issue_client(&acme(), bad, "jane", &[], validity, now()).is_err(), "{bad}");
    }
    let system = pki.issue_client(&TenantName::system(), "s", "op", &[], validity, now()).unwrap();
    let op = identity_of_certificate(system.certificate()).unwrap();
    assert!(op.tenant.is_system() && !op.is_master());
}

/// A self-signed certificate; identity_of_certificate does not look at the signature.
fn odd_certificate(common_name: Option<&str>, uris: &[&str]) -> Vec<u8> {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    if let Some(cn) = common_name {
        params.distinguished_name.push(DnType::CommonName, cn);
    }
    params.subject_alt_names = uris.iter().map(|u| SanType::URI(Ia5String::try_from(*u).unwrap())).collect();
    params.self_signed(&key).unwrap().der().to_vec()
}

#[test]
fn a_certificate_whose_tenant_is_not_in_order_is_nobodys() {
    let of = |uris: &[&str]| identity_of_certificate(&odd_certificate(Some("x"), uris));
    assert_eq!(of(&["skep://tenant/acme/u-1"]).unwrap().tenant, acme());
    assert!(of(&["https://example.com/", "spiffe://a/b"]).unwrap().tenant.is_system());
    for bad in [
        "skep://tenant/acme",
        "skep://tenant/acme/",
        "skep://tenant//u",
        "skep://tenant/acme/u/v",
        "skep://tenant/ACME/u",
        "skep://tenant/system/u",
        "skep://tenant/acme/u?x",
        "SKEP://tenant/acme/u",
        "skep:tenant/acme/u",
        "skep://other/acme/u",
    ] {
        assert_eq!(of(&[bad]).unwrap_err(), CertificateError::Tenant, "{bad}");
    }
    let twice = ["skep://tenant/acme/u", "skep://tenant/other/u"];
    assert_eq!(of(&twice).unwrap_err(), CertificateError::Tenant);
    assert_eq!(
        identity_of_certificate(&odd_certificate(None, &[])).unwrap_err(),
        CertificateError::CommonName
    );
    let good = odd_certificate(Some("x"), &[]);
    for cut in [0, 1, good.len() / 2, good.len() - 1] {
        assert_eq!(identity_of_certificate(&good[..cut]).unwrap_err(), CertificateError::Malformed);
    }
    let mut longer = good;
    longer.push(0);
    assert_eq!(identity_of_certificate(&longer).unwrap_err(), CertificateError::Malformed);
}

/// A request with an arbitrary subject, which rcgen cannot make (several organizations): its subject is
/// written here, its signature by ring.
fn csr(common_names: &[&str], organizations: &[&str], names: Vec<SanType>) -> String {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.subject_alt_names = names;
    let plain = params.serialize_request(&key).unwrap();
    let der = plain.der().to_vec();
    let (_, parsed) = x509_parser::certification_request::X509CertificationRequest::from_der(&der).unwrap();
    let info = parsed.certification_request_info.raw;
    // version (3 bytes), empty name (2 bytes), rest: put another name in.
    let (header, body) = info.split_at(if info[1] < 0x80 { 2 } else { 2 + usize::from(info[1] & 0x7f) });
    assert_eq!((header[0], &body[..3], &body[3..5]), (0x30, &[2, 1, 0][..], &[0x30, 0][..]));
    let subject = der::sequence(|w| {
        for (oid, list) in [(10, organizations), (3, common_names)] {
            for value in list {
                w.next().write_set(|w| {
                    w.next().write_sequence(|w| {
                        w.next().write_oid(&yasna::models::ObjectIdentifier::from_slice(&[2, 5, 4, oid]));
                        w.next().write_utf8_string(value);
                    });
                });
            }
        }
    });
    let info = yasna::construct_der(|w| {
        w.write_sequence(|w| {
            w.next().write_i8(0);
            w.next().write_der(&subject);
            let mut rest = &body[5..];
            while !rest.is_empty() {
                let (after, any) = x509_parser::der_parser::asn1_rs::Any::from_der(rest).unwrap();
                let _ = any;
                w.next().write_der(&rest[..rest.len() - after.len()]);
                rest = after;
            }
        });
    });
    let signature = rcgen::SigningKey::sign(&key, &info).unwrap();
    let der = der::sequence(|w| {
        w.next().write_der(&info);
        w.next().write_sequence(|w| {
            w.next().write_oid(&yasna::models::ObjectIdentifier::from_slice(&[1, 2, 840, 10045, 4, 3, 2]));
        });
        w.next().write_bitvec_bytes(&signature, signature.len() * 8);
    });
    ca::pem("CERTIFICATE REQUEST", &der)
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(Ia5String::try_from(name).unwrap())
}

fn uri(name: &str) -> SanType {
    SanType::URI(Ia5String::try_from(name).unwrap())
}

fn mail() -> SanType {
    SanType::Rfc822Name(Ia5String::try_from("a@b").unwrap())
}

fn usages(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

const CLIENT: [&str; 2] = ["digital signature", "client auth"];
const SERVER: [&str; 2] = ["digital signature", "server auth"];

#[test]
fn signed_requests_are_the_tenants_and_keep_their_subject() {
    let dir = tempfile::tempdir().unwrap();
    let pki = open(dir.path(), now());
    let request = csr(&["jane"], &["dev", "ops"], vec![uri("spiffe://x/y"), dns("jane.local")]);
    let uid = "u-1";
    let tenant = acme();
    let sign = |seconds: Option<i32>, tenant: Option<(&TenantName, &str)>| {
        let pem = pki
            .client_ca()
            .sign(request.as_bytes(), Signer::ApiServerClient, &usages(&CLIENT), seconds, tenant, now())
            .unwrap();
        der_of(&pem)
    };
    let der = sign(None, Some((&tenant, uid)));
    let jane = identity_of_certificate(&der).unwrap();
    assert_eq!((jane.tenant.as_str(), jane.tenant_uid.as_deref()), ("acme", Some("u-1")));
    assert_eq!(jane.user.groups, ["dev", "ops", "system:authenticated"]);
    let (_, cert) = X509Certificate::from_der(&der).unwrap();
    let (_, ca) = X509Certificate::from_der(pki.client_ca().certificate()).unwrap();
    cert.verify_signature(Some(ca.public_key())).unwrap();
    assert!(!cert.is_ca());
    let eku = cert.extended_key_usage().unwrap().unwrap().value;
    assert!(eku.client_auth && !eku.server_auth);
    assert!(cert.key_usage().unwrap().unwrap().value.digital_signature());
    assert!(!cert.key_usage().unwrap().unwrap().value.key_encipherment());

    let second = now().as_second();
    let validity = |der: &[u8]| {
        let (_, c) = X509Certificate::from_der(der).unwrap();
        (c.validity().not_before.timestamp() - second, c.validity().not_after.timestamp() - second)
    };
    // Backdated by 5 minutes at both ends, at the end only if it is long.
    assert_eq!(validity(&der), (-300, 365 * DAY - 300));
    for (asked, end) in
        [(1, 600), (600, 600), (3600, 3600), (86_400, 86_400 - 300), (i32::MAX, 365 * DAY - 300)]
    {
        assert_eq!(validity(&sign(Some(asked), None)), (-300, end), "{asked}");
    }
    assert!(identity_of_certificate(&sign(None, None)).unwrap().tenant.is_system());
}

#[test]
fn signers_apply_their_rules() {
    let dir = tempfile::tempdir().unwrap();
    let pki = open(dir.path(), now());
    let tenant = acme();
    let node = |names| csr(&["system:node:n1"], &["system:nodes"], names);
    let sign = |request: &str, signer: Signer, list: &[&str]| {
        pki.client_ca()
            .sign(request.as_bytes(), signer, &usages(list), None, Some((&tenant, "u-1")), now())
            .map(|_| ())
            .map_err(|e| e.to_string())
    };
    use Signer::{ApiServerClient, ApiServerClientKubelet, KubeletServing, LegacyUnknown};
    let full_client = ["digital signature", "key encipherment", "client auth"];
    let ok: &[(&str, Signer, &[&str])] = &[
        (&node(vec![]), ApiServerClientKubelet, &CLIENT),
        (&node(vec![]), ApiServerClientKubelet, &full_client),
        (&node(vec![dns("n1")]), KubeletServing, &SERVER),
        (&csr(&["x"], &[], vec![]), ApiServerClient, &["client auth"]),
        (&csr(&["x"], &["y"], vec![mail()]), LegacyUnknown, &["any", "cert sign", "netscape sgc"]),
    ];
    for (request, signer, list) in ok {
        assert_eq!(sign(request, *signer, list), Ok(()), "{signer:?} {list:?}");
    }
    let wrong_usages = "usages did not match [client auth digital signature key encipherment]";
    let bad: &[(&str, Signer, &[&str], &str)] = &[
        (
            &csr(&["x"], &["system:nodes"], vec![]),
            ApiServerClientKubelet,
            &CLIENT,
            "subject common name does not begin with system:node:",
        ),
        (
            &csr(&["system:node:x"], &["y"], vec![]),
            ApiServerClientKubelet,
            &CLIENT,
            "subject organization is not system:nodes",
        ),
        (
            &csr(&["system:node:x"], &["system:nodes", "y"], vec![]),
            ApiServerClientKubelet,
            &CLIENT,
            "subject organization is not system:nodes",
        ),
        (&node(vec![dns("a")]), ApiServerClientKubelet, &CLIENT, "DNS subjectAltNames are not allowed"),
        (&node(vec![mail()]), ApiServerClientKubelet, &CLIENT, "Email subjectAltNames are not allowed"),
        (
            &node(vec![SanType::IpAddress([10, 0, 0, 1].into())]),
            ApiServerClientKubelet,
            &CLIENT,
            "IP subjectAltNames are not allowed",
        ),
        (&node(vec![uri("a:b")]), ApiServerClientKubelet, &CLIENT, "URI subjectAltNames are not allowed"),
        (&node(vec![]), ApiServerClientKubelet, &["client auth"], wrong_usages),
        (&node(vec![]), KubeletServing, &SERVER, "DNS or IP subjectAltName is required"),
        (
            &node(vec![dns("n")]),
            KubeletServing,
            &CLIENT,
            "usages did not match [digital signature key encipherment server auth]",
        ),
        (
            &csr(&["x"], &[], vec![]),
            ApiServerClient,
            &SERVER,
            "invalid usage for client certificate: server auth",
        ),
        (
            &csr(&["x"], &[], vec![]),
            ApiServerClient,
            &["digital signature"],
            "missing required usage for client certificate: client auth",
        ),
        (
            &csr(&["x"], &["system:masters"], vec![]),
            ApiServerClient,
            &CLIENT,
            "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed",
        ),
        (
            &csr(&["x"], &[], vec![]),
            LegacyUnknown,
            &["juggling"],
            "unrecognized usage values: [\"juggling\"]",
        ),
        (
            &csr(&["x"], &[], vec![uri("skep://tenant/other/u")]),
            LegacyUnknown,
            &CLIENT,
            "URI subjectAltNames of the scheme \"skep\" are not allowed",
        ),
        (
            &csr(&["x"], &[], vec![uri("Skep://tenant/other/u")]),
            ApiServerClient,
            &CLIENT,
            "URI subjectAltNames of the scheme \"skep\" are not allowed",
        ),
        (
            &csr(&["x", "y"], &[], vec![]),
            LegacyUnknown,
            &CLIENT,
            "unable to parse certificate request: its subject is ambiguous",
        ),
        (
            &csr(&[], &[], vec![]),
            LegacyUnknown,
            &CLIENT,
            "unable to parse certificate request: its subject is ambiguous",
        ),
        ("junk", LegacyUnknown, &CLIENT, "PEM block type must be CERTIFICATE REQUEST"),
        (pki.ca_pem(), LegacyUnknown, &CLIENT, "PEM block type must be CERTIFICATE REQUEST"),
    ];
    for (request, signer, list, message) in bad {
        assert_eq!(sign(request, *signer, list), Err((*message).to_owned()));
    }
}

#[test]
fn a_request_must_be_signed_by_its_own_key() {
    let dir = tempfile::tempdir().unwrap();
    let pki = open(dir.path(), now());
    use rustls_pki_types::pem::PemObject;
    let request = csr(&["x"], &[], vec![]);
    let mut der =
        rustls_pki_types::CertificateSigningRequestDer::from_pem_slice(request.as_bytes()).unwrap().to_vec();
    let position = der.windows(1).position(|w| w == b"x").unwrap();
    der[position] = b'y';
    let forged = ca::pem("CERTIFICATE REQUEST", &der);
    let sign = |r: &str, at: Timestamp| {
        pki.client_ca().sign(r.as_bytes(), Signer::LegacyUnknown, &usages(&CLIENT), None, None, at)
    };
    assert_eq!(sign(&forged, now()).unwrap_err(), SignError::Signature);
    assert!(sign(&request, now()).is_ok());
    let late = sign(&request, after(3700)).unwrap_err();
    assert_eq!(late, SignError::Expired);
    assert!(!late.is_permanent() && SignError::Signature.is_permanent());
    // Nothing outlives the authority.
    let der = der_of(&sign(&request, after(3600)).unwrap());
    let (_, cert) = X509Certificate::from_der(&der).unwrap();
    assert_eq!(cert.validity().not_after.timestamp(), pki.client_ca().not_after().as_second());
    let huge = format!("{request}{}", " ".repeat(100_000));
    assert!(matches!(sign(&huge, now()), Err(SignError::Malformed(_))));
}

#[test]
fn kubeconfigs_are_what_kubectl_reads() {
    let dir = tempfile::tempdir().unwrap();
    let pki = open(dir.path(), now());
    let text = pki.admin_kubeconfig("https://127.0.0.1:6443").to_yaml().unwrap();
    let yaml: serde_yaml_ng::Value = serde_yaml_ng::from_str(&text).unwrap();
    assert_eq!(yaml["kind"], "Config");
    assert_eq!(yaml["current-context"], "skep");
    let decode = |v: &serde_yaml_ng::Value| STANDARD.decode(v.as_str().unwrap()).unwrap();
    let cluster = &yaml["clusters"][0]["cluster"];
    assert_eq!(cluster["server"], "https://127.0.0.1:6443");
    assert_eq!(decode(&cluster["certificate-authority-data"]), pki.ca_pem().as_bytes());
    let user = &yaml["users"][0]["user"];
    assert_eq!(decode(&user["client-certificate-data"]), pki.admin().certificate_pem().as_bytes());

    let tenant = acme();
    let config = pki
        .tenant_kubeconfig("https://h:1", (&tenant, "u-1"), "admin", &[], CERTIFICATE_VALIDITY, now())
        .unwrap();
    let yaml: serde_yaml_ng::Value = serde_yaml_ng::from_str(&config.to_yaml().unwrap()).unwrap();
    assert_eq!(yaml["current-context"], "acme");
    assert_eq!(yaml["contexts"][0]["name"], "acme");
    let pem = decode(&yaml["users"][0]["user"]["client-certificate-data"]);
    let identity = identity_of_certificate(&der_of(std::str::from_utf8(&pem).unwrap())).unwrap();
    assert_eq!(identity.tenant, tenant);

    let with_token = Kubeconfig::with_token("c", "https://h:1", "pem", "u", "tok").to_yaml().unwrap();
    let yaml: serde_yaml_ng::Value = serde_yaml_ng::from_str(&with_token).unwrap();
    assert_eq!(yaml["users"][0]["user"]["token"], "tok");
    let file = dir.path().join("x.kubeconfig");
    write_private(&file, &with_token).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn times_after_2049_are_generalized() {
    let late = Timestamp::from_second(2_600_000_000).unwrap();
    let pair = CertificateAuthority::make("x", CA_VALIDITY, late).unwrap();
    let (_, cert) = X509Certificate::from_der(pair.certificate()).unwrap();
    assert_eq!(cert.validity().not_after.timestamp(), 2_600_000_000 + 10 * 365 * DAY);
    assert!(cert.is_ca());
}
