//! The verbs on resources, the same for every kind.

pub mod admit;
pub mod delete;
mod machine;
mod metrics;
pub mod patch;
pub mod read;
pub mod review;
pub mod select;
pub mod stream;
pub mod sub;
pub mod watch;
pub mod write;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use jiff::Timestamp;
use parking_lot::Mutex;
use skep_api::{DynKind, UserInfo, Verb};
use skep_auth::identity::{Credential, Identity};
use skep_base::{Key, Scope, TenantName};

use crate::app::App;
use crate::auth::Caller;
use crate::body::Body;
use crate::fair::Place;
use crate::negotiate::Accept;
use crate::output::Output;
use crate::request::{Action, Options, ResourcePath};
use crate::status::{About, ApiError};

/// Everything about one authorised request on a resource.
pub struct Call {
    /// The server.
    pub app: Arc<App>,
    /// Who asks.
    pub caller: Caller,
    /// Whose objects; `None` across all tenants.
    pub tenant: Option<TenantName>,
    /// The path.
    pub path: ResourcePath,
    /// The kind at the path.
    pub kind: Arc<dyn DynKind>,
    /// The query.
    pub options: Options,
    /// The headers.
    pub headers: HeaderMap,
    /// The form of the answer.
    pub accept: Accept,
    /// The time of the request.
    pub now: Timestamp,
    /// The connection itself, if the client wants to make something else of it.
    pub upgrade: Mutex<Option<hyper::upgrade::OnUpgrade>>,
    /// Advice to be sent with the answer.
    pub warnings: Mutex<Vec<String>>,
    /// The request's place among those that are worked on.
    pub place: Mutex<Option<Place>>,
}

/// The most warnings that an answer carries, and their total size. The size is upstream's; the number is lower, for
/// many clients refuse answers with more than 100 headers.
const MAX_WARNINGS: usize = 64;
const MAX_WARNING_BYTES: usize = 4096;

impl Call {
    /// A call of the server's own, on behalf of a tenant, under the name of the upstream controller that does
    /// the same work.
    #[must_use]
    pub fn own(
        app: &Arc<App>,
        tenant: &TenantName,
        kind: &Arc<dyn DynKind>,
        user: &str,
        action: Action,
    ) -> Call {
        let info = kind.info();
        let user = UserInfo {
            name: user.to_owned(),
            groups: vec![skep_auth::groups::MASTERS.to_owned()],
            ..UserInfo::default()
        };
        let identity = Identity {
            tenant: tenant.clone(),
            tenant_uid: None,
            user: user.clone(),
            credential: Credential::ClientCert,
        };
        Call {
            app: app.clone(),
            caller: Caller { identity: Arc::new(identity), user: Arc::new(user) },
            tenant: Some(tenant.clone()),
            path: ResourcePath {
                group: info.group.to_string(),
                version: info.version.to_string(),
                resource: info.plural.to_string(),
                namespace: String::new(),
                name: String::new(),
                subresource: String::new(),
                rest: String::new(),
                action,
            },
            kind: kind.clone(),
            options: Options::default(),
            headers: HeaderMap::new(),
            accept: Accept::JSON,
            now: Timestamp::now(),
            upgrade: Mutex::default(),
            warnings: Mutex::default(),
            place: Mutex::default(),
        }
    }

    /// Gives the place back before a wait for somebody who is the tenant's own, an agent: it may take as long as it likes, and must not hold
    /// up others with that.
    pub(crate) fn wait_outside(&self) {
        drop(self.place.lock().take());
    }

    /// As whom the request is made.
    #[must_use]
    pub fn user(&self) -> &UserInfo {
        &self.caller.user
    }

    /// Names the object of the path, for errors.
    #[must_use]
    pub fn about(&self) -> About<'_> {
        About { group: &self.path.group, resource: &self.path.resource, name: &self.path.name }
    }

    /// The tenant written to.
    ///
    /// # Errors
    /// 405 in the cross-tenant view, which only reads.
    pub fn tenant(&self) -> Result<&TenantName, ApiError> {
        self.tenant.as_ref().ok_or_else(|| {
            ApiError::new(
                405,
                "MethodNotAllowed",
                "the view across tenants is read-only: name the tenant in the path, /tenants/NAME/…",
            )
        })
    }

    /// The key of an object of this kind.
    ///
    /// # Errors
    /// As for [`Call::tenant`].
    pub fn key(&self, name: &str) -> Result<Key, ApiError> {
        let namespace = if self.kind.info().namespaced { self.path.namespace.as_str() } else { "" };
        Ok(Key::new(self.kind.resource().clone(), self.tenant()?.clone(), namespace, name))
    }

    /// What the path's collection covers.
    #[must_use]
    pub fn scope(&self) -> Scope {
        let resource = self.kind.resource().clone();
        match &self.tenant {
            None => Scope::AllTenants(resource),
            Some(t) if self.kind.info().namespaced && !self.path.namespace.is_empty() => {
                Scope::Namespace(resource, t.clone(), self.path.namespace.as_str().into())
            }
            Some(t) => Scope::Tenant(resource, t.clone()),
        }
    }

    /// How answers look.
    ///
    /// # Errors
    /// 400 for bad options.
    pub fn output(&self) -> Result<Output, ApiError> {
        Output::new(&self.kind, self.accept, &self.options.include_object, self.now, self.tenant.is_none())
    }

    /// Advice for the client.
    pub fn warn(&self, text: impl Into<String>) {
        let mut warnings = self.warnings.lock();
        // What is not sent need not be kept, or compared with.
        if warnings.len() >= MAX_WARNINGS {
            return;
        }
        let text = text.into();
        if !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    /// The strategy's surroundings.
    #[must_use]
    pub fn context(&self) -> skep_api::Context<'_> {
        skep_api::Context { now: self.now, user: self.user(), subresource: &self.path.subresource }
    }

    /// An answer with this call's warnings.
    ///
    /// # Errors
    /// None in practice: the headers are made here.
    pub fn respond(
        &self,
        code: u16,
        content_type: &'static str,
        body: Body,
    ) -> Result<Response<Body>, ApiError> {
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::from_u16(code).map_err(ApiError::internal)?;
        response
            .headers_mut()
            .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
        let warnings = std::mem::take(&mut *self.warnings.lock());
        let mut total = 0;
        for text in warnings.iter().take(MAX_WARNINGS) {
            let quoted = format!(
                "299 - \"{}\"",
                text.replace('\\', "\\\\").replace('"', "\\\"").replace(['\r', '\n'], " ")
            );
            total += quoted.len();
            if total > MAX_WARNING_BYTES {
                break;
            }
            if let Ok(value) = http::HeaderValue::from_bytes(quoted.as_bytes()) {
                response.headers_mut().append(http::header::WARNING, value);
            }
        }
        Ok(response)
    }

    /// Whether the kind offers what is asked at all.
    fn offered(&self) -> Result<(), ApiError> {
        let info = self.kind.info();
        let wanted = match self.path.action {
            Action::Get => Verb::Get,
            Action::List => Verb::List,
            Action::Watch => Verb::Watch,
            Action::Create => Verb::Create,
            Action::Update => Verb::Update,
            Action::Patch => Verb::Patch,
            Action::Delete => Verb::Delete,
            Action::DeleteCollection => Verb::DeleteCollection,
        };
        let verbs = if self.path.subresource.is_empty() {
            info.verbs
        } else {
            let sub = info.subresource(&self.path.subresource).ok_or_else(ApiError::no_such_path)?;
            sub.verbs
        };
        if verbs.contains(&wanted) { Ok(()) } else { Err(ApiError::method_not_allowed()) }
    }
}

/// Serves one authorised request.
///
/// # Errors
/// What the client did wrong, or what went wrong here, as a `Status`.
pub async fn serve(call: Call, body: Bytes) -> Result<Response<Body>, ApiError> {
    call.offered()?;
    let info = call.kind.info();
    if !info.namespaced && !call.path.namespace.is_empty() && call.path.resource != "namespaces" {
        return Err(ApiError::no_such_path());
    }
    if info.namespaced && call.path.namespace.is_empty() && !call.path.name.is_empty() {
        return Err(ApiError::no_such_path());
    }
    if call.path.name.is_empty() && matches!(call.path.action, Action::Update | Action::Patch) {
        return Err(ApiError::method_not_allowed());
    }
    if !call.path.subresource.is_empty() {
        return Box::pin(sub::serve(call, body)).await;
    }
    if info.computed {
        return metrics::serve(&call).await;
    }
    if !info.stored() {
        return review::answer(&call, &body).await;
    }
    match call.path.action {
        Action::Get => read::get(&call),
        Action::List => read::list(&call),
        Action::Watch => watch::watch(call),
        Action::Create => write::create(&call, body).await,
        Action::Update => write::update(&call, body).await,
        // In boxes: the largest verb decides what every request costs.
        Action::Patch => Box::pin(patch::patch(&call, body)).await,
        Action::Delete => Box::pin(delete::delete(&call, &body)).await,
        Action::DeleteCollection => Box::pin(delete::delete_collection(&call, &body)).await,
    }
}
