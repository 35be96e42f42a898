//! Who is let in, and to what.
//!
//! [`ApiGate`] asks the API server, so that a registry knows nobody by itself:
//! - a client certificate names its tenant, as it does for the API server;
//! - a token (as `Bearer`, or as the password of `Basic` with any user name) is shown to the tenant's `TokenReview`. Which tenant's is read
//!   from the token's issuer, or from the user name or the repository where it has none; a wrong guess makes it nobody's;
//! - what somebody may do is a `SubjectAccessReview` in the tenant: `get`, `update` or `delete` of `repositories` in the group
//!   `registry.skep.io`, by the repository's name without the tenant. A tenant's administrators may do everything, as everywhere;
//! - a tenant's nodes may pull: pods say what they pull, and nodes run pods of their tenant only;
//! - the system tenant's masters may do everything.
//!
//! Answers are believed for [`BELIEVED`]: a layer is a request, and a push makes hundreds. But what is remembered of a tenant does not speak against a good
//! credential: it may be of an earlier tenant of that name, and so is asked again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use skep_auth::identity::Identity;
use skep_base::TenantName;
use skep_client::{Client, ErrorKind};

use crate::name::{RepositoryName, Space};
use crate::storage::TENANT_QUOTA_BYTES;

/// How long an answer of the API server's is believed. So long a credential goes on working after it was taken back.
pub const BELIEVED: Duration = Duration::from_secs(10);
/// Answers that are remembered; then all are forgotten. Each is a few hundred bytes.
const REMEMBERED_MAX: usize = 20_000;
/// The annotation of a `Tenant` with what it may store here, as an amount such as `50Gi`.
pub const QUOTA_ANNOTATION: &str = "registry.skep.io/quota";
/// The group of a tenant's nodes.
const NODES: &str = "system:nodes";
/// The group of those who may do everything.
const MASTERS: &str = "system:masters";

/// What a client shows.
#[derive(Clone, Debug)]
pub enum Credential {
    /// A verified client certificate.
    Certificate(Arc<Identity>),
    /// A name and a password, as `Basic` carries them.
    Password {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
    /// A token.
    Token(String),
}

/// Somebody who was let in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Caller {
    /// The tenant of the credential.
    pub tenant: TenantName,
    /// The uid of that tenant when the credential was looked at.
    pub tenant_uid: String,
    /// The user's name.
    pub user: String,
    /// The user's groups.
    pub groups: Vec<String>,
}

impl Caller {
    /// Whether it may do everything, everywhere.
    #[must_use]
    pub fn is_operator(&self) -> bool {
        self.tenant.is_system() && self.groups.iter().any(|g| g == MASTERS)
    }
}

/// What somebody wants to do with a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Read it.
    Pull,
    /// Add to it.
    Push,
    /// Take from it.
    Delete,
}

impl Verb {
    /// As RBAC calls it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Pull => "get",
            Verb::Push => "update",
            Verb::Delete => "delete",
        }
    }
}

/// A tenant, as far as a registry needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// Which one of this name.
    pub uid: String,
    /// What it may store.
    pub quota_bytes: u64,
}

/// The gate cannot be asked at the moment.
#[derive(Clone, Debug, thiserror::Error)]
#[error("who asks cannot be found out: {0}")]
pub struct GateError(pub String);

/// Who knows tenants and credentials.
pub trait Gate: Send + Sync + 'static {
    /// Whose credential this is; `None` for nobody's. `about` is the repository that the request names.
    fn authenticate<'a>(
        &'a self,
        credential: &'a Credential,
        about: Option<&'a RepositoryName>,
    ) -> BoxFuture<'a, Result<Option<Caller>, GateError>>;

    /// Whether somebody may do this. Never asked about a repository of another tenant, unless by an operator.
    fn authorize<'a>(
        &'a self,
        caller: &'a Caller,
        verb: Verb,
        repository: &'a RepositoryName,
    ) -> BoxFuture<'a, Result<bool, GateError>>;

    /// The tenant of this name.
    fn tenant<'a>(&'a self, name: &'a TenantName) -> BoxFuture<'a, Result<Option<Tenant>, GateError>>;

    /// All tenants, as name and uid.
    fn tenants(&self) -> BoxFuture<'_, Result<HashSet<(String, String)>, GateError>>;
}

/// Answers that are believed for a while.
#[derive(Debug)]
struct Remembered<K, V>(Mutex<HashMap<K, (V, Instant)>>);

impl<K: std::hash::Hash + Eq, V: Clone> Remembered<K, V> {
    fn new() -> Remembered<K, V> {
        Remembered(Mutex::default())
    }

    fn get(&self, key: &K) -> Option<V> {
        let map = self.0.lock();
        map.get(key).filter(|(_, since)| since.elapsed() < BELIEVED).map(|(value, _)| value.clone())
    }

    fn put(&self, key: K, value: V) {
        let mut map = self.0.lock();
        if map.len() >= REMEMBERED_MAX {
            map.clear();
        }
        map.insert(key, (value, Instant::now()));
    }
}

/// The API server as gate. Its client must be a master of the system tenant.
pub struct ApiGate {
    client: Client,
    callers: Remembered<[u8; 32], Option<Caller>>,
    rights: Remembered<(Caller, Verb, RepositoryName), bool>,
    tenants: Remembered<TenantName, Option<Tenant>>,
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    iss: String,
}

/// The tenant that a token says it is of. Nothing is verified here: that is the reviewer's.
fn claimed_tenant(token: &str) -> Option<TenantName> {
    let payload = token.split('.').nth(1)?;
    let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    TenantName::new(claims.iss.rsplit_once("/tenants/")?.1).ok()
}

fn quota(annotation: Option<&str>) -> u64 {
    annotation
        .and_then(|text| text.parse::<skep_base::Quantity>().ok())
        .and_then(|q| u64::try_from(q.value()).ok())
        .unwrap_or(TENANT_QUOTA_BYTES)
}

impl ApiGate {
    /// Asks this server.
    #[must_use]
    pub fn new(client: Client) -> ApiGate {
        ApiGate { client, callers: Remembered::new(), rights: Remembered::new(), tenants: Remembered::new() }
    }

    /// The tenant of this name now, whatever is remembered.
    async fn ask_tenant(&self, name: &TenantName) -> Result<Option<Tenant>, GateError> {
        if name.is_system() {
            // There is one, and always the same.
            return Ok(Some(Tenant { uid: TenantName::SYSTEM.to_owned(), quota_bytes: u64::MAX }));
        }
        let path = format!("/apis/tenancy.skep.io/v1/tenants/{name}");
        let found = match self.client.get::<Value>(&path).await {
            Ok(object) => object["metadata"]["uid"].as_str().map(|uid| Tenant {
                uid: uid.to_owned(),
                quota_bytes: quota(object["metadata"]["annotations"][QUOTA_ANNOTATION].as_str()),
            }),
            Err(e) if e.is_not_found() => None,
            Err(e) => return Err(GateError(e.to_string())),
        };
        self.tenants.put(name.clone(), found.clone());
        Ok(found)
    }

    async fn review(&self, token: &str, tenant: &TenantName) -> Result<Option<Caller>, GateError> {
        // What somebody pushes is kept under this uid, and goes with the tenant that has it.
        let Some(of) = self.ask_tenant(tenant).await? else { return Ok(None) };
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token},
        });
        let path = format!("/tenants/{tenant}/apis/authentication.k8s.io/v1/tokenreviews");
        let answer: Value = match self.client.post(&path, &review).await {
            Ok(answer) => answer,
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Invalid) => return Ok(None),
            Err(e) => return Err(GateError(e.to_string())),
        };
        if answer["status"]["authenticated"] != true {
            return Ok(None);
        }
        let user = &answer["status"]["user"];
        let groups = user["groups"].as_array().into_iter().flatten().filter_map(Value::as_str);
        Ok(Some(Caller {
            tenant: tenant.clone(),
            tenant_uid: of.uid,
            user: user["username"].as_str().unwrap_or_default().to_owned(),
            groups: groups.map(str::to_owned).collect(),
        }))
    }

    async fn by_token(
        &self,
        token: &str,
        user: Option<&str>,
        about: Option<&RepositoryName>,
    ) -> Result<Option<Caller>, GateError> {
        let mut candidates: Vec<TenantName> = claimed_tenant(token).into_iter().collect();
        if candidates.is_empty() {
            candidates.extend(user.and_then(|u| TenantName::new(u).ok()));
            if let Some(Space::Tenant(tenant)) = about.map(|r| &r.space) {
                candidates.push(tenant.clone());
            }
            candidates.push(TenantName::system());
        }
        candidates.dedup();
        let mut hash = Sha256::new();
        hash.update(token);
        for tenant in &candidates {
            hash.update([0]);
            hash.update(tenant.as_str());
        }
        let key: [u8; 32] = hash.finalize().into();
        if let Some(known) = self.callers.get(&key) {
            return Ok(known);
        }
        let mut found = None;
        for tenant in &candidates {
            found = self.review(token, tenant).await?;
            if found.is_some() {
                break;
            }
        }
        self.callers.put(key, found.clone());
        Ok(found)
    }
}

impl Gate for ApiGate {
    fn authenticate<'a>(
        &'a self,
        credential: &'a Credential,
        about: Option<&'a RepositoryName>,
    ) -> BoxFuture<'a, Result<Option<Caller>, GateError>> {
        Box::pin(async move {
            match credential {
                Credential::Token(token) => self.by_token(token, None, about).await,
                Credential::Password { user, password } => self.by_token(password, Some(user), about).await,
                Credential::Certificate(identity) => {
                    let is_its =
                        |tenant: &Tenant| identity.tenant_uid.as_ref().is_none_or(|uid| *uid == tenant.uid);
                    let tenant = match self.tenant(&identity.tenant).await?.filter(is_its) {
                        Some(tenant) => Some(tenant),
                        None => self.ask_tenant(&identity.tenant).await?.filter(is_its),
                    };
                    // Else it is of an earlier tenant of this name.
                    Ok(tenant.map(|tenant| Caller {
                        tenant: identity.tenant.clone(),
                        tenant_uid: tenant.uid,
                        user: identity.user.name.clone(),
                        groups: identity.user.groups.clone(),
                    }))
                }
            }
        })
    }

    fn authorize<'a>(
        &'a self,
        caller: &'a Caller,
        verb: Verb,
        repository: &'a RepositoryName,
    ) -> BoxFuture<'a, Result<bool, GateError>> {
        Box::pin(async move {
            if caller.is_operator()
                || (verb == Verb::Pull && caller.groups.iter().any(|g| g == NODES))
                || caller.groups.iter().any(|g| g == MASTERS)
            {
                return Ok(true);
            }
            let key = (caller.clone(), verb, repository.clone());
            if let Some(known) = self.rights.get(&key) {
                return Ok(known);
            }
            let review = json!({
                "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
                "spec": {
                    "user": caller.user, "groups": caller.groups,
                    "resourceAttributes": {
                        "group": "registry.skep.io", "version": "v1", "resource": "repositories",
                        "verb": verb.as_str(), "name": &*repository.path,
                    },
                },
            });
            let path =
                format!("/tenants/{}/apis/authorization.k8s.io/v1/subjectaccessreviews", caller.tenant);
            let answer: Value = match self.client.post(&path, &review).await {
                Ok(answer) => answer,
                Err(e) if e.is_not_found() => return Ok(false),
                Err(e) => return Err(GateError(e.to_string())),
            };
            let allowed = answer["status"]["allowed"] == true;
            self.rights.put(key, allowed);
            Ok(allowed)
        })
    }

    fn tenant<'a>(&'a self, name: &'a TenantName) -> BoxFuture<'a, Result<Option<Tenant>, GateError>> {
        Box::pin(async move {
            match self.tenants.get(name) {
                Some(known) => Ok(known),
                None => self.ask_tenant(name).await,
            }
        })
    }

    fn tenants(&self) -> BoxFuture<'_, Result<HashSet<(String, String)>, GateError>> {
        Box::pin(async move {
            let list: Value = self
                .client
                .get("/apis/tenancy.skep.io/v1/tenants")
                .await
                .map_err(|e| GateError(e.to_string()))?;
            // An answer without a list would make every tenant's images look like nobody's.
            let items =
                list["items"].as_array().ok_or_else(|| GateError("the answer holds no list".into()))?;
            let mut all: HashSet<_> = items
                .iter()
                .filter_map(|t| {
                    let text = |key: &str| t["metadata"][key].as_str().map(str::to_owned);
                    Some((text("name")?, text("uid")?))
                })
                .collect();
            all.insert((TenantName::SYSTEM.to_owned(), TenantName::SYSTEM.to_owned()));
            Ok(all)
        })
    }
}

/// A gate that knows a few users by name and password: for a registry that stands alone, and for tests.
#[derive(Debug, Default)]
pub struct UserGate {
    users: Vec<User>,
    quota_bytes: Option<u64>,
}

/// A user of a [`UserGate`].
#[derive(Clone, Debug)]
pub struct User {
    /// The name.
    pub name: String,
    /// SHA-256 of the password, in hexadecimal digits.
    pub password_sha256: String,
    /// The tenant whose repositories it may use; the system tenant for all.
    pub tenant: TenantName,
    /// Whether it may push and delete.
    pub writes: bool,
}

/// What is wrong with a file of users.
#[derive(Debug, thiserror::Error)]
#[error(
    "line {line}: write NAME,SHA256-OF-THE-PASSWORD,TENANT,pull or NAME,SHA256-OF-THE-PASSWORD,TENANT,push"
)]
pub struct UsersError {
    /// Which line.
    pub line: usize,
}

impl UserGate {
    /// Knows these.
    #[must_use]
    pub fn new(users: Vec<User>) -> UserGate {
        UserGate { users, quota_bytes: None }
    }

    /// Gives each tenant so much room.
    #[must_use]
    pub fn quota_bytes(mut self, quota_bytes: u64) -> UserGate {
        self.quota_bytes = Some(quota_bytes);
        self
    }

    /// Reads a file with a user a line; `#` begins a comment.
    ///
    /// # Errors
    /// [`UsersError`].
    pub fn parse(text: &str) -> Result<UserGate, UsersError> {
        let mut users = Vec::new();
        for (i, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let bad = || UsersError { line: i + 1 };
            let [name, hash, tenant, may] =
                <[&str; 4]>::try_from(line.split(',').map(str::trim).collect::<Vec<_>>())
                    .map_err(|_| bad())?;
            let good_hash = hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit());
            if name.is_empty() || !good_hash || !["pull", "push"].contains(&may) {
                return Err(bad());
            }
            users.push(User {
                name: name.to_owned(),
                password_sha256: hash.to_ascii_lowercase(),
                tenant: TenantName::new(tenant).map_err(|_| bad())?,
                writes: may == "push",
            });
        }
        Ok(UserGate::new(users))
    }
}

const WRITERS: &str = "writers";

impl Gate for UserGate {
    fn authenticate<'a>(
        &'a self,
        credential: &'a Credential,
        _: Option<&'a RepositoryName>,
    ) -> BoxFuture<'a, Result<Option<Caller>, GateError>> {
        Box::pin(async move {
            let Credential::Password { user, password } = credential else { return Ok(None) };
            let hash = format!("{:x}", Sha256::digest(password));
            let found = self.users.iter().find(|u| u.name == *user && u.password_sha256 == hash);
            Ok(found.map(|u| {
                let mut groups = Vec::new();
                if u.writes {
                    groups.push(WRITERS.to_owned());
                    if u.tenant.is_system() {
                        groups.push(MASTERS.to_owned());
                    }
                }
                Caller {
                    tenant: u.tenant.clone(),
                    tenant_uid: "local".to_owned(),
                    user: u.name.clone(),
                    groups,
                }
            }))
        })
    }

    fn authorize<'a>(
        &'a self,
        caller: &'a Caller,
        verb: Verb,
        _: &'a RepositoryName,
    ) -> BoxFuture<'a, Result<bool, GateError>> {
        let allowed = verb == Verb::Pull || caller.groups.iter().any(|g| g == WRITERS);
        Box::pin(async move { Ok(allowed) })
    }

    fn tenant<'a>(&'a self, name: &'a TenantName) -> BoxFuture<'a, Result<Option<Tenant>, GateError>> {
        let known = self.users.iter().any(|u| u.tenant == *name || u.tenant.is_system());
        let quota_bytes = self.quota_bytes.unwrap_or(TENANT_QUOTA_BYTES);
        Box::pin(async move { Ok(known.then(|| Tenant { uid: "local".to_owned(), quota_bytes })) })
    }

    /// Only whoever runs it can say; so nothing is removed for want of a user.
    fn tenants(&self) -> BoxFuture<'_, Result<HashSet<(String, String)>, GateError>> {
        Box::pin(async { Err(GateError("users in a file do not tell which tenants are gone".into())) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_its_tenant() {
        let token =
            |iss: &str| format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(json!({ "iss": iss }).to_string()));
        assert_eq!(claimed_tenant(&token("https://x:1/tenants/shop")).unwrap().as_str(), "shop");
        for bad in [token("https://x/tenants/a/b"), token("https://x"), "x".to_owned(), String::new()] {
            assert_eq!(claimed_tenant(&bad), None, "{bad}");
        }
    }

    #[test]
    fn quotas_are_amounts() {
        assert_eq!(quota(Some("2Gi")), 2 << 30);
        assert_eq!(quota(Some("much")), TENANT_QUOTA_BYTES);
        assert_eq!(quota(None), TENANT_QUOTA_BYTES);
    }

    #[test]
    fn files_of_users_are_read_strictly() {
        let hash = format!("{:x}", Sha256::digest("pw"));
        assert_eq!(UserGate::parse(&format!("# c\n\nann, {hash}, shop, push\n")).unwrap().users.len(), 1);
        for bad in
            ["ann", "ann,x,shop,push", &format!("ann,{hash},Shop,push"), &format!("ann,{hash},shop,all")]
        {
            assert_eq!(UserGate::parse(bad).unwrap_err().line, 1, "{bad}");
        }
    }
}
