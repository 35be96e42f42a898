//! Tokens, friendly and hostile.

use std::collections::HashMap;
use std::sync::Mutex;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use jiff::SignedDuration;
use k8s_openapi::api::authentication::v1::{
    BoundObjectReference, TokenRequest, TokenRequestSpec, TokenReview, TokenReviewSpec,
};
use serde_json::{Value, json};

use super::*;
use crate::identity::{Credential, ObjectRef};

const BASE: &str = "https://skep.example:6443";
type ObjectKey = (String, LiveKind, String, String);

/// A world in which things exist until they are changed.
#[derive(Default)]
pub(crate) struct World {
    tenants: Mutex<HashMap<String, Arc<str>>>,
    objects: Mutex<HashMap<ObjectKey, ObjectState>>,
}

impl World {
    fn tenant(&self, name: &str, uid: Option<&str>) {
        let mut tenants = self.tenants.lock().unwrap();
        match uid {
            Some(uid) => tenants.insert(name.to_owned(), uid.into()),
            None => tenants.remove(name),
        };
    }
    fn object(&self, kind: LiveKind, namespace: &str, name: &str, state: ObjectState) {
        let key = ("acme".to_owned(), kind, namespace.to_owned(), name.to_owned());
        self.objects.lock().unwrap().insert(key, state);
    }
}

impl TenantDirectory for World {
    fn tenant_uid(&self, tenant: &TenantName) -> Option<Arc<str>> {
        self.tenants.lock().unwrap().get(tenant.as_str()).cloned()
    }
}

impl Liveness for World {
    fn state(&self, t: &TenantName, kind: LiveKind, ns: &str, name: &str, _uid: &str) -> ObjectState {
        let key = (t.to_string(), kind, ns.to_owned(), name.to_owned());
        self.objects.lock().unwrap().get(&key).cloned().unwrap_or(ObjectState::Absent)
    }
}

fn world() -> World {
    let w = World::default();
    w.tenant("acme", Some("uid-acme"));
    w.tenant("other", Some("uid-other"));
    w.tenant("system", Some("uid-system"));
    w.object(LiveKind::ServiceAccount, "ns", "bot", ObjectState::Alive);
    w.object(LiveKind::Pod, "ns", "pod-1", ObjectState::Alive);
    w.object(LiveKind::Secret, "ns", "sec", ObjectState::Alive);
    w.object(LiveKind::Node, "", "node-1", ObjectState::Alive);
    w
}

fn authenticator() -> Authenticator {
    Authenticator::new(&[42; 32], &[format!("{BASE}/"), "https://old:1".to_owned()])
}

fn acme() -> TenantName {
    TenantName::new("acme").unwrap()
}

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn after(seconds: i64) -> Timestamp {
    now() + SignedDuration::from_secs(seconds)
}

const BOT: ServiceAccountRef<'static> = ServiceAccountRef { namespace: "ns", name: "bot", uid: "sa-uid" };

fn request(seconds: Option<i64>, audiences: &[&str]) -> TokenRequest {
    TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: Some(audiences.iter().map(|a| (*a).to_owned()).collect()),
            bound_object_ref: None,
            expiration_seconds: seconds,
        }),
        ..TokenRequest::default()
    }
}

fn token(a: &Authenticator, seconds: i64, bound: &BoundObject) -> String {
    let (out, issued) =
        a.create_token(&acme(), "uid-acme", BOT, &request(Some(seconds), &[]), bound, now()).unwrap();
    assert_eq!(out.status.unwrap().token.unwrap(), issued.token);
    issued.token
}

fn object(name: &str, uid: &str) -> ObjectRef {
    ObjectRef { name: name.to_owned(), uid: uid.to_owned() }
}

fn pod_bound() -> BoundObject {
    BoundObject::Pod {
        pod: object("pod-1", "pod-uid"),
        service_account: "bot".to_owned(),
        node: Some(object("node-1", "node-uid")),
    }
}

fn claims_of(token: &str) -> Value {
    serde_json::from_slice(&B64.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

/// A token with this header and these claims, signed by the key of the tenant with this uid.
fn forge(a: &Authenticator, header: &Value, claims: &Value, uid: &str) -> String {
    let message = format!("{}.{}", B64.encode(header.to_string()), B64.encode(claims.to_string()));
    let signature = a.keys.key(uid).unwrap().sign(message.as_bytes(), a.keys.rng()).unwrap();
    format!("{message}.{}", B64.encode(signature))
}

#[test]
fn a_token_names_its_account_and_what_it_is_bound_to() {
    let (a, w) = (authenticator(), world());
    let t = token(&a, 3600, &pod_bound());
    for _ in 0..2 {
        // The second time from the cache.
        let ok = a.authenticate(&t, &[], &w, now()).unwrap();
        let id = &ok.identity;
        assert_eq!(id.tenant, acme());
        assert_eq!(id.tenant_uid.as_deref(), Some("uid-acme"));
        assert_eq!(id.user.name, "system:serviceaccount:ns:bot");
        assert_eq!(id.user.uid, "sa-uid");
        assert_eq!(
            id.user.groups,
            ["system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"]
        );
        let extra = |k: &str| id.user.extra[&format!("authentication.kubernetes.io/{k}")][0].as_str();
        assert_eq!((extra("pod-name"), extra("pod-uid")), ("pod-1", "pod-uid"));
        assert_eq!((extra("node-name"), extra("node-uid")), ("node-1", "node-uid"));
        assert!(extra("credential-id").starts_with("JTI="));
        let Credential::ServiceAccount(account) = &id.credential else { panic!("{id:?}") };
        assert_eq!(account.pod.as_ref().unwrap().uid, "pod-uid");
        assert_eq!(account.secret, None);
        assert!(!ok.stale);
    }
    assert_eq!(a.cache.len(), 1);
    let c = claims_of(&t);
    assert_eq!(c["iss"], format!("{BASE}/tenants/acme"));
    assert_eq!(c["aud"], json!([format!("{BASE}/tenants/acme")]));
    assert_eq!(c["exp"].as_i64().unwrap() - c["iat"].as_i64().unwrap(), 3600);
    assert_eq!(c["kubernetes.io"]["serviceaccount"], json!({"name": "bot", "uid": "sa-uid"}));
}

#[test]
fn time_is_checked_on_every_use() {
    let (a, w) = (authenticator(), world());
    let t = token(&a, 600, &BoundObject::None);
    let at = |s: i64| a.authenticate(&t, &[], &w, after(s)).map(|_| ());
    assert_eq!(at(-61), Err(TokenError::NotYetValid));
    assert_eq!(at(-60), Ok(()), "another server's clock may be a minute ahead");
    assert_eq!(at(599), Ok(()));
    assert_eq!(at(600), Err(TokenError::Expired));
    assert_eq!(a.cache.len(), 0, "an expired token leaves the cache");
    let future = json!({"iss": format!("{BASE}/tenants/acme"), "iat": after(100).as_second(),
        "exp": after(1000).as_second(), "sub": "", "kubernetes.io":
        {"namespace": "ns", "serviceaccount": {"name": "bot", "uid": "sa-uid"}}});
    let kid = a.keys.key("uid-acme").unwrap().kid().to_owned();
    let t = forge(&a, &json!({"alg": "ES256", "kid": kid}), &future, "uid-acme");
    assert_eq!(a.authenticate(&t, &[], &w, now()).unwrap_err(), TokenError::IssuedInFuture);
}

#[test]
fn what_a_token_depends_on_is_asked_every_time() {
    let (a, w) = (authenticator(), world());
    let node_bound = BoundObject::Node(object("node-1", "node-uid"));
    let secret_bound = BoundObject::Secret(object("sec", "sec-uid"));
    let cases = [
        (BoundObject::None, LiveKind::ServiceAccount, "ns", "bot"),
        (pod_bound(), LiveKind::Pod, "ns", "pod-1"),
        (pod_bound(), LiveKind::ServiceAccount, "ns", "bot"),
        (secret_bound, LiveKind::Secret, "ns", "sec"),
        (node_bound, LiveKind::Node, "", "node-1"),
    ];
    for (bound, kind, namespace, name) in cases {
        let t = token(&a, 3600, &bound);
        let check = || a.authenticate(&t, &[], &w, now()).map(|_| ());
        assert_eq!(check(), Ok(()));
        let set = |state| w.object(kind, namespace, name, state);
        for bad in [
            ObjectState::Absent,
            ObjectState::Replaced { uid: "x".to_owned() },
            ObjectState::Terminating { since: after(-61) },
        ] {
            set(bad.clone());
            assert!(
                matches!(check(), Err(TokenError::Invalidated { kind: k, .. }) if k == kind),
                "{bad:?} {kind}"
            );
        }
        for good in [ObjectState::Terminating { since: after(30) }, ObjectState::Alive] {
            set(good);
            assert_eq!(check(), Ok(()));
        }
    }
    // The node of a pod is a fact, not a condition.
    w.object(LiveKind::Node, "", "node-1", ObjectState::Absent);
    assert!(a.authenticate(&token(&a, 3600, &pod_bound()), &[], &w, now()).is_ok());
}

#[test]
fn a_deleted_or_remade_tenant_kills_its_tokens() {
    let (a, w) = (authenticator(), world());
    let t = token(&a, 3600, &BoundObject::None);
    let check = || a.authenticate(&t, &[], &w, now()).map(|_| ());
    assert_eq!(check(), Ok(()));
    w.tenant("acme", None);
    assert_eq!(check(), Err(TokenError::UnknownIssuer));
    w.tenant("acme", Some("uid-acme-2"));
    assert_eq!(check(), Err(TokenError::Signature), "the new tenant has another key");
    w.tenant("acme", Some("uid-acme"));
    assert_eq!(check(), Ok(()));
    w.tenant("acme", Some("uid-acme-2"));
    assert_eq!(check(), Err(TokenError::UnknownIssuer), "and the cache does not help");
}

#[test]
fn hostile_tokens_are_refused_and_leave_nothing_behind() {
    let (a, w) = (authenticator(), world());
    let good = token(&a, 3600, &BoundObject::None);
    let claims = claims_of(&good);
    let kid = a.keys.key("uid-acme").unwrap().kid().to_owned();
    let header = json!({"alg": "ES256", "kid": kid});
    let with = |key: &str, value: Value| {
        let mut c = claims.clone();
        c[key] = value;
        c
    };
    let [h, p, s] = <[&str; 3]>::try_from(good.split('.').collect::<Vec<_>>()).unwrap();
    let refused = |t: &str| match a.authenticate(t, &[], &w, now()) {
        Err(e) => e,
        Ok(_) => panic!("accepted: {t}"),
    };
    use TokenError::{Malformed, Signature, UnknownIssuer};

    // The forge itself is right, so that what follows fails for the reason it should.
    assert!(a.authenticate(&forge(&a, &header, &claims, "uid-acme"), &[], &w, now()).is_ok());
    let before = a.cache.len();

    for alg in ["none", "None", "", "HS256", "RS256", "ES384", "es256"] {
        let t = forge(&a, &json!({"alg": alg, "kid": kid}), &claims, "uid-acme");
        assert_eq!(refused(&t), Malformed, "{alg}");
    }
    let none = B64.encode(json!({"alg": "none"}).to_string());
    assert_eq!(refused(&format!("{none}.{p}.")), Malformed);
    assert_eq!(refused(&format!("{none}.{p}")), Malformed);
    // Keyed with the public key, as if that were a shared secret.
    let jwks = a.jwks("uid-acme").unwrap();
    let message = format!("{}.{p}", B64.encode(json!({"alg": "HS256", "kid": kid}).to_string()));
    let hmac_key =
        ring::hmac::Key::new(ring::hmac::HMAC_SHA256, jwks["keys"][0]["x"].as_str().unwrap().as_bytes());
    let tag = ring::hmac::sign(&hmac_key, message.as_bytes());
    assert_eq!(refused(&format!("{message}.{}", B64.encode(tag))), Malformed);
    // An own key in the header counts for nothing.
    let t = forge(&a, &json!({"alg": "ES256", "kid": kid, "jwk": {}}), &claims, "uid-other");
    assert_eq!(refused(&t), Signature);
    assert_eq!(refused(&forge(&a, &json!({"alg": "ES256"}), &claims, "uid-acme")), Malformed);
    let t = forge(&a, &json!({"alg": "ES256", "kid": kid, "crit": ["x"]}), &claims, "uid-acme");
    assert_eq!(refused(&t), Malformed);
    // Wrong key id; another tenant's key, with and without its key id.
    let other_kid = a.keys.key("uid-other").unwrap().kid().to_owned();
    let other = json!({"alg": "ES256", "kid": other_kid});
    assert_eq!(refused(&forge(&a, &other, &claims, "uid-acme")), Signature);
    assert_eq!(refused(&forge(&a, &other, &claims, "uid-other")), Signature);
    assert_eq!(refused(&forge(&a, &header, &claims, "uid-other")), Signature);
    // Another tenant's name under the own key.
    for iss in ["system", "other"] {
        let c = with("iss", json!(format!("{BASE}/tenants/{iss}")));
        assert_eq!(refused(&forge(&a, &header, &c, "uid-acme")), Signature, "{iss}");
    }
    for iss in [
        "https://evil/tenants/acme",
        "https://skep.example:6443/tenants/nobody",
        "https://skep.example:6443/tenants/acme/",
        "https://skep.example:6443/tenants/../acme",
        "https://skep.example:6443/acme",
        "",
    ] {
        let t = forge(&a, &header, &with("iss", json!(iss)), "uid-acme");
        assert_eq!(refused(&t), UnknownIssuer, "{iss}");
    }
    // Changed content, changed signature.
    let tampered = B64.encode(with("sub", json!("x")).to_string());
    assert_eq!(refused(&format!("{h}.{tampered}.{s}")), Signature);
    assert_eq!(refused(&format!("{h}.{p}.{}", B64.encode([0_u8; 64]))), Signature);
    assert_eq!(refused(&format!("{h}.{p}.{}", B64.encode([1_u8; 63]))), Malformed);
    assert_eq!(refused(&format!("{h}.{p}.{s}=")), Malformed);
    assert_eq!(refused(&format!("{h}.{p}.{s}.{s}")), Malformed);
    // A time that is no number, a namespace that is no text, an account twice.
    for (key, value) in [("exp", json!("soon")), ("exp", json!(1e300)), ("kubernetes.io", json!(1))] {
        assert_eq!(refused(&forge(&a, &header, &with(key, value), "uid-acme")), Malformed, "{key}");
    }
    // No end, and not a secret's.
    let mut endless = claims.clone();
    endless.as_object_mut().unwrap().remove("exp");
    assert_eq!(refused(&forge(&a, &header, &endless, "uid-acme")), Malformed);
    let twice = format!(r#"{{"iss":"x",{}"#, &claims.to_string()[1..]);
    let message = format!("{h}.{}", B64.encode(twice));
    assert_eq!(refused(&format!("{message}.{s}")), Malformed);
    // Junk.
    let huge = "a".repeat(MAX_TOKEN_BYTES + 1);
    let huge_parts = format!("{h}.{}.{s}", "a".repeat(MAX_TOKEN_BYTES));
    let not_utf8 = format!("{h}.{}.{s}", B64.encode([0x7b, 0xff, 0xfe]));
    let deep = format!("{h}.{}.{s}", B64.encode("[".repeat(5000)));
    for junk in ["", ".", "..", "...", "a.b.c", "ä.ö.ü", " ", huge.as_str(), &huge_parts, &not_utf8, &deep]
    {
        assert_eq!(refused(junk), Malformed);
    }
    assert_eq!(a.cache.len(), before, "only good tokens are kept");
}

#[test]
fn audiences_must_meet() {
    let (a, w) = (authenticator(), world());
    let issue = |audiences: &[&str]| {
        a.create_token(&acme(), "uid-acme", BOT, &request(None, audiences), &BoundObject::None, now())
            .unwrap()
            .1
            .token
    };
    let ask = |t: &str, audiences: &[&str]| {
        let audiences: Vec<String> = audiences.iter().map(|s| (*s).to_owned()).collect();
        a.authenticate(t, &audiences, &w, now()).map(|ok| ok.audiences)
    };
    let vault = issue(&["vault", "x"]);
    assert!(matches!(ask(&vault, &[]), Err(TokenError::Audience { .. })), "not for the API server");
    assert_eq!(ask(&vault, &["y", "vault"]).unwrap(), ["vault"]);
    assert!(ask(&vault, &["y"]).is_err());
    for for_server in [
        "https://kubernetes.default.svc",
        "https://kubernetes.default.svc.cluster.local",
        "https://skep.example:6443/tenants/acme",
        "https://old:1/tenants/acme",
    ] {
        assert!(ask(&issue(&["vault", for_server]), &[]).is_ok(), "{for_server}");
    }
    assert!(ask(&issue(&["https://skep.example:6443/tenants/other"]), &[]).is_err());
    // A token without audiences (of a token secret) is for the API server.
    let t = a.create_secret_token(&acme(), "uid-acme", BOT, object("sec", "s"), now()).unwrap().token;
    assert!(ask(&t, &[]).is_ok());
    assert!(ask(&t, &["vault"]).is_err());
    assert!(a.authenticate(&t, &[], &w, after(10_000_000_000)).is_ok(), "it has no end");
    w.object(LiveKind::Secret, "ns", "sec", ObjectState::Absent);
    assert!(ask(&t, &[]).is_err());
}

#[test]
fn token_requests_are_bounded() {
    let a = authenticator();
    let ask = |r: &TokenRequest, b: &BoundObject| a.create_token(&acme(), "uid-acme", BOT, r, b, now());
    let seconds = |s: i64| ask(&request(Some(s), &[]), &BoundObject::None);
    for (s, message) in [
        (599, "spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes"),
        (-1, "spec.expirationSeconds: Invalid value: -1: may not specify a duration less than 10 minutes"),
        (
            (1 << 32) + 1,
            "spec.expirationSeconds: Invalid value: 4294967297: may not specify a duration larger than 2^32 seconds",
        ),
    ] {
        assert_eq!(seconds(s).unwrap_err().to_string(), message);
    }
    assert!(seconds(600).is_ok() && seconds(1 << 32).is_ok());
    let (out, _) = ask(&TokenRequest::default(), &BoundObject::None).unwrap();
    assert_eq!(out.spec.as_ref().unwrap().expiration_seconds, Some(3600));
    assert_eq!(out.status.unwrap().expiration_timestamp.unwrap().0, after(3600));
    assert_eq!(out.metadata.name.as_deref(), Some("bot"));
    assert_eq!(out.metadata.uid.as_deref(), Some("sa-uid"));

    let mut r = request(None, &[]);
    r.metadata.name = Some("else".to_owned());
    let e = ask(&r, &BoundObject::None).unwrap_err().to_string();
    assert!(e.contains("must match the service account name"), "{e}");
    r.metadata.name = None;
    r.metadata.uid = Some("else".to_owned());
    assert!(matches!(ask(&r, &BoundObject::None), Err(TokenRequestError::UidConflict { .. })));

    let mut r = request(None, &[]);
    r.spec.as_mut().unwrap().bound_object_ref = Some(BoundObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: Some("pod-1".to_owned()),
        uid: Some("old".to_owned()),
    });
    assert_eq!(Authenticator::bound_object(&r).unwrap(), Some(("Pod", "pod-1")));
    assert!(matches!(ask(&r, &pod_bound()), Err(TokenRequestError::BoundUidConflict { .. })));
    let foreign =
        BoundObject::Pod { pod: object("pod-1", "old"), service_account: "someone".to_owned(), node: None };
    assert!(matches!(ask(&r, &foreign), Err(TokenRequestError::OtherAccountsPod(_))));
    r.spec.as_mut().unwrap().bound_object_ref.as_mut().unwrap().kind = Some("ConfigMap".to_owned());
    let e = Authenticator::bound_object(&r).unwrap_err();
    assert_eq!(e.to_string(), "cannot bind token to object of type /v1, Kind=ConfigMap");
}

#[test]
fn tokens_of_pods_that_never_reload_live_on_and_are_marked() {
    let (a, w) = (authenticator(), world());
    let t = token(&a, WARN_ONLY_EXPIRATION_SECONDS, &pod_bound());
    assert!(!a.authenticate(&t, &[], &w, after(3607)).unwrap().stale);
    assert!(a.authenticate(&t, &[], &w, after(3608)).unwrap().stale);
    assert!(a.authenticate(&t, &[], &w, after(365 * 24 * 3600)).is_err());
    // Not for one without a pod, nor for other audiences.
    let t = token(&a, WARN_ONLY_EXPIRATION_SECONDS, &BoundObject::None);
    assert_eq!(a.authenticate(&t, &[], &w, after(3607)).unwrap_err(), TokenError::Expired);
    let r = request(Some(WARN_ONLY_EXPIRATION_SECONDS), &["vault"]);
    let (_, issued) = a.create_token(&acme(), "uid-acme", BOT, &r, &pod_bound(), now()).unwrap();
    assert!(claims_of(&issued.token)["kubernetes.io"].get("warnafter").is_none());
}

#[test]
fn static_tokens_belong_to_a_living_tenant() {
    let (a, w) = (authenticator(), world());
    a.set_static_tokens(
        StaticTokens::parse("s3cret,jane,1,\"a,b\",acme\nroot,op,2,\"system:masters\"\n").unwrap(),
    );
    let ok = a.authenticate("s3cret", &[], &w, now()).unwrap();
    assert_eq!((ok.identity.user.name.as_str(), ok.identity.tenant.as_str()), ("jane", "acme"));
    assert!(a.authenticate("root", &[], &w, now()).unwrap().identity.is_system_master());
    w.tenant("acme", None);
    assert_eq!(a.authenticate("s3cret", &[], &w, now()).unwrap_err(), TokenError::UnknownIssuer);
    a.set_static_tokens(StaticTokens::default());
    assert!(a.authenticate("root", &[], &w, now()).is_err(), "a token that was taken out is dead");
}

#[test]
fn token_reviews_see_one_tenant() {
    let (a, w) = (authenticator(), world());
    let review = |tenant: &str, token: &str, audiences: &[&str]| {
        let r = TokenReview {
            spec: TokenReviewSpec {
                token: token.to_owned(),
                audiences: Some(audiences.iter().map(|s| (*s).to_owned()).collect()),
            },
            ..TokenReview::default()
        };
        a.review(&TenantName::new(tenant).unwrap(), &r, &w, now()).map(|r| r.status.unwrap())
    };
    let t = token(&a, 3600, &BoundObject::None);
    let ok = review("acme", &t, &[]).unwrap();
    assert_eq!(ok.authenticated, Some(true));
    assert_eq!(ok.audiences.unwrap(), [format!("{BASE}/tenants/acme")]);
    assert_eq!(ok.user.unwrap().username.as_deref(), Some("system:serviceaccount:ns:bot"));
    // Asked for an audience that the token and the other tenant might share.
    let shared = a
        .create_token(&acme(), "uid-acme", BOT, &request(None, &["shared"]), &BoundObject::None, now())
        .unwrap()
        .1
        .token;
    assert_eq!(review("acme", &shared, &["shared"]).unwrap().authenticated, Some(true));
    let foreign = review("other", &shared, &["shared"]).unwrap();
    let junk = review("other", "junk", &["shared"]).unwrap();
    assert_eq!(foreign, junk, "another tenant's token is no token");
    assert_ne!(foreign.authenticated, Some(true));
    assert!(foreign.user.is_none() && foreign.error.is_some());
    assert!(review("acme", "", &[]).is_none());
}

#[test]
fn the_cache_of_verified_tokens_is_bounded() {
    let (a, w) = (authenticator(), world());
    let t = token(&a, 3600, &BoundObject::None);
    a.authenticate(&t, &[], &w, now()).unwrap();
    let verified = a.cache.get(&static_tokens::sha256(&t)).unwrap();
    for i in 0..(TokenCache::CAPACITY + 1000) {
        a.cache.insert(static_tokens::sha256(&i.to_string()), verified.clone());
    }
    assert!(a.cache.len() <= TokenCache::CAPACITY, "{}", a.cache.len());
}

#[test]
fn discovery_documents_fit_the_tokens() {
    let a = authenticator();
    let doc = a.openid_configuration(&acme());
    assert_eq!(doc["issuer"], "https://skep.example:6443/tenants/acme");
    assert_eq!(doc["jwks_uri"], "https://skep.example:6443/tenants/acme/openid/v1/jwks");
    let key = a.jwks("uid-acme").unwrap()["keys"][0].clone();
    let t = token(&a, 3600, &BoundObject::None);
    let (message, signature) = t.rsplit_once('.').unwrap();
    let header: Value =
        serde_json::from_slice(&B64.decode(message.split('.').next().unwrap()).unwrap()).unwrap();
    assert_eq!(header["kid"], key["kid"]);
    // A relying party rebuilds the point from the document.
    let mut point = vec![4];
    for part in ["x", "y"] {
        point.extend(B64.decode(key[part].as_str().unwrap()).unwrap());
    }
    ring::signature::UnparsedPublicKey::new(&ring::signature::ECDSA_P256_SHA256_FIXED, point)
        .verify(message.as_bytes(), &B64.decode(signature).unwrap())
        .unwrap();
}
