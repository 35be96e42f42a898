//! Who asks, and may they: the seam to `skep-auth`.

use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use jiff::Timestamp;
use skep_api::UserInfo;
use skep_auth::attributes::{Attributes, FieldRequirement, forbidden_message};
use skep_auth::authn::{LiveKind, Liveness, ObjectState, TenantDirectory};
use skep_auth::authorize::Target as AuthorizeIn;
use skep_auth::identity::Identity;
use skep_auth::impersonate::{ImpersonationError, impersonate, wanted_user};
use skep_auth::rbac::Decision;
use skep_base::selector::FieldSelector;
use skep_base::{GroupResource, Key, TenantName};

use crate::app::App;
use crate::request::{Action, ResourcePath, Route, Target, View};
use crate::status::{About, ApiError};

/// Who makes a request, and whose rights they use.
#[derive(Clone, Debug)]
pub struct Caller {
    /// What the credential says.
    pub identity: Arc<Identity>,
    /// As whom the request is made: the identity's own user, or the one impersonated.
    pub user: Arc<UserInfo>,
}

impl Caller {
    /// The tenant that the credential belongs to.
    #[must_use]
    pub fn home(&self) -> &TenantName {
        &self.identity.tenant
    }
}

impl TenantDirectory for App {
    fn tenant_uid(&self, tenant: &TenantName) -> Option<Arc<str>> {
        self.tenants.get(tenant).filter(|t| !t.closed).map(|t| t.uid_text.clone())
    }
}

impl Liveness for App {
    fn state(
        &self,
        tenant: &TenantName,
        kind: LiveKind,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> ObjectState {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Meta {
            uid: String,
            deletion_timestamp: Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>,
        }
        let resource = match kind {
            LiveKind::ServiceAccount => "serviceaccounts",
            LiveKind::Pod => "pods",
            LiveKind::Secret => "secrets",
            LiveKind::Node => "nodes",
        };
        let key = Key::new(GroupResource::new("", resource), tenant.clone(), namespace, name);
        let Some(value) = self.objects.get(&key) else { return ObjectState::Absent };
        match serde_json::from_slice::<Meta>(value.meta()) {
            Ok(meta) if meta.uid != uid => ObjectState::Replaced { uid: meta.uid },
            Ok(Meta { deletion_timestamp: Some(t), .. }) => ObjectState::Terminating { since: t.0 },
            Ok(_) => ObjectState::Alive,
            Err(_) => ObjectState::Absent,
        }
    }
}

/// Finds out who asks: a bearer token where there is one, else the connection's certificate, else nobody.
///
/// # Errors
/// 401 for credentials that are not good (any more).
pub fn authenticate(
    app: &App,
    headers: &HeaderMap,
    certificate: Option<&Result<Arc<Identity>, ApiError>>,
    route: &Route,
    now: Timestamp,
) -> Result<Caller, ApiError> {
    let identity = match bearer(headers)? {
        Some(token) => {
            app.authenticator
                .authenticate(token, &[], app, now)
                .map_err(|error| {
                    tracing::debug!(%error, "token refused");
                    ApiError::unauthorized()
                })?
                .identity
        }
        None => match certificate {
            Some(Ok(identity)) => identity.clone(),
            Some(Err(e)) => return Err(e.clone()),
            // Without a credential nothing is learned of tenants, not even which there are.
            None => anonymous(app, route).ok_or_else(ApiError::unauthorized)?,
        },
    };
    let record = app.tenants.get(&identity.tenant).filter(|t| !t.closed);
    let same = record.is_some_and(|r| identity.tenant_uid.as_deref().is_none_or(|uid| uid == &*r.uid_text));
    if !same {
        // The tenant is gone, and its credentials with it.
        return Err(ApiError::unauthorized());
    }
    let user = Arc::new(identity.user.clone());
    Ok(Caller { identity, user })
}

/// Nobody in particular. In a tenant they exist only where the tenant has said that anybody may read its token issuer's
/// configuration and keys (by binding `system:service-account-issuer-discovery`), so that what tenants there
/// are cannot be found out.
fn anonymous(app: &App, route: &Route) -> Option<Arc<Identity>> {
    let (tenant, path) = match (&route.view, &route.target) {
        (View::Own, _) => return Some(Identity::anonymous(TenantName::system())),
        (View::Tenant(tenant), Target::NonResource(path)) if ISSUER_DISCOVERY.contains(&path.as_str()) => {
            (tenant, path)
        }
        _ => return None,
    };
    app.tenants.get(tenant).filter(|t| !t.closed)?;
    let identity = Identity::anonymous(tenant.clone());
    let attributes = Attributes::path(&identity.user, "get", path);
    let decision = app.authorizer.authorize(tenant, AuthorizeIn::Tenant(tenant), &attributes);
    decision.is_allowed().then_some(identity)
}

/// What those read who check a tenant's tokens without asking the server.
const ISSUER_DISCOVERY: [&str; 2] = ["/.well-known/openid-configuration", "/openid/v1/jwks"];

fn bearer(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let Some(value) = headers.get(AUTHORIZATION) else { return Ok(None) };
    let text = value.to_str().map_err(|_| ApiError::unauthorized())?;
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(token.trim())),
        // Other schemes are not ours: as if nothing had been shown.
        _ => Ok(None),
    }
}

/// Whose objects a request is about.
///
/// # Errors
/// 404 for tenants that do not exist **and** for tenants that are not the caller's: the two look the same.
pub fn tenant_of(app: &App, caller: &Caller, view: &View) -> Result<Option<TenantName>, ApiError> {
    let home = caller.home();
    match view {
        View::Own => Ok(Some(home.clone())),
        View::All if home.is_system() => Ok(None),
        View::All => Err(ApiError::no_such_path()),
        View::Tenant(name) if name == home => Ok(Some(name.clone())),
        View::Tenant(name) if home.is_system() && app.tenants.get(name).is_some() => Ok(Some(name.clone())),
        View::Tenant(_) => Err(ApiError::no_such_path()),
    }
}

/// Whether the caller may do what a resource path says.
///
/// # Errors
/// 403 with upstream's sentence.
pub fn authorize(
    app: &App,
    caller: &Caller,
    tenant: Option<&TenantName>,
    path: &ResourcePath,
    field_selector: &str,
) -> Result<(), ApiError> {
    // A malformed selector is reported when the request is served; here it simply restricts nothing.
    let selector: FieldSelector = if path.action.is_read() || path.action == Action::DeleteCollection {
        field_selector.parse().unwrap_or_default()
    } else {
        FieldSelector::default()
    };
    let fields: Vec<FieldRequirement> = selector
        .requirements()
        .iter()
        .map(|r| FieldRequirement { field: r.field.clone(), negated: r.negated, value: r.value.clone() })
        .collect();
    let mut attributes = Attributes { field_selector: &fields, ..attributes_of(&caller.user, path) };
    // Who asks for a collection of one object by its name asks for that object: this is how a node follows what its
    // pods refer to.
    if attributes.name.is_empty()
        && let Some(name) = selector.exact("metadata.name")
    {
        attributes.name = name;
    }
    let decision = decide(app, caller, tenant, &attributes);
    if decision.is_allowed() {
        return Ok(());
    }
    let about = About { group: &path.group, resource: &path.resource, name: &path.name };
    Err(ApiError::forbidden(about, &forbidden_message(&attributes, &decision.reason().to_string())))
}

fn attributes_of<'a>(user: &'a UserInfo, path: &'a ResourcePath) -> Attributes<'a> {
    Attributes {
        version: &path.version,
        ..Attributes::resource(user, path.action.as_str(), &path.group, &path.resource)
            .subresource(&path.subresource)
            .in_namespace(&path.namespace)
            .named(&path.name)
    }
}

/// The caller as whoever the impersonation headers name, when there are any and the caller may.
///
/// # Errors
/// 403 when they may not, 400 for headers that make no sense.
pub fn impersonated(
    app: &App,
    caller: Caller,
    tenant: Option<&TenantName>,
    parts: &http::request::Parts,
    target: &Target,
) -> Result<Caller, ApiError> {
    if !parts.headers.keys().any(|k| k.as_str().starts_with("impersonate-")) {
        return Ok(caller);
    }
    let headers = parts.headers.iter().filter_map(|(k, v)| Some((k.as_str(), v.to_str().ok()?)));
    let bad = |e: ImpersonationError| match e {
        ImpersonationError::Forbidden { group, resource, name, message } => {
            ApiError::forbidden(About { group: &group, resource: &resource, name: &name }, &message)
        }
        other => ApiError::bad_request(other.to_string()),
    };
    let Some(wanted) = wanted_user(headers).map_err(bad)? else { return Ok(caller) };
    let verb = parts.method.as_str().to_ascii_lowercase();
    let request = match target {
        Target::Resource(path) => attributes_of(&caller.user, path),
        Target::NonResource(path) => Attributes::path(&caller.user, &verb, path),
    };
    let user = impersonate(&wanted, &request, |a| decide(app, &caller, tenant, a)).map_err(bad)?.user;
    let identity = Arc::new(Identity { user: user.clone(), ..(*caller.identity).clone() });
    Ok(Caller { identity, user: Arc::new(user) })
}

/// Whether the caller may do something, in a tenant or across all.
#[must_use]
pub fn decide(
    app: &App,
    caller: &Caller,
    tenant: Option<&TenantName>,
    attributes: &Attributes<'_>,
) -> Decision {
    let target = tenant.map_or(AuthorizeIn::AllTenants, AuthorizeIn::Tenant);
    app.authorizer.authorize(caller.home(), target, attributes)
}

/// Whether the caller may read a path that is not a resource's.
///
/// # Errors
/// 403.
pub fn authorize_path(
    app: &App,
    caller: &Caller,
    tenant: Option<&TenantName>,
    method: &http::Method,
    path: &str,
) -> Result<(), ApiError> {
    let verb = method.as_str().to_ascii_lowercase();
    let attributes = Attributes::path(&caller.user, &verb, path);
    let decision = decide(app, caller, tenant, &attributes);
    if decision.is_allowed() {
        return Ok(());
    }
    let about = About { group: "", resource: "", name: "" };
    Err(ApiError::forbidden(about, &forbidden_message(&attributes, &decision.reason().to_string())))
}
