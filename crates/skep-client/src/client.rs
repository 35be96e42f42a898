//! The verbs.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use skep_base::{Revision, TenantName};

use crate::error::{self, Error};
use crate::kubeconfig::Access;
use crate::network::{Network, Route};
use crate::path::ObjectPath;
use crate::transport::{Request, Response, Transport};
use crate::watch::Watch;

/// How long any request but a watch may take. Longer than the server's own limits, so that its answer and not this
/// is what callers see; too short, and a busy server's work is thrown away and asked for again.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Connections of a role: one for watches, and two between which the work of several cores is spread.
pub const ROLE_CONNECTIONS: usize = 3;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A client of one API server with one credential. Clones share everything.
#[derive(Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
    home: TenantName,
}

/// Which objects of a collection, and how.
#[derive(Clone, Debug, Default)]
pub struct ListParams {
    /// A label selector; empty for all.
    pub labels: String,
    /// A field selector; empty for all.
    pub fields: String,
    /// Largest page; 0 for everything at once.
    pub limit: u32,
    /// Where the page before ended.
    pub continue_token: String,
    /// `resourceVersion`; empty for the newest.
    pub resource_version: String,
}

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// With all objects as they are now, then a bookmark that says so, then changes: a list in small pieces.
    InitialEvents,
    /// With the changes after a revision.
    Revision(Revision),
}

/// Which changes.
#[derive(Clone, Debug)]
pub struct WatchParams {
    /// A label selector; empty for all.
    pub labels: String,
    /// A field selector; empty for all.
    pub fields: String,
    /// From where on.
    pub from: From,
    /// After how long the server ends it; `None` for its own default.
    pub timeout_s: Option<u32>,
}

/// A page of a collection.
#[derive(Clone, Debug, Deserialize)]
pub struct List<T> {
    /// The list's own metadata.
    pub metadata: ListMeta,
    /// The objects.
    #[serde(default = "Vec::new")]
    pub items: Vec<T>,
}

/// A list's metadata.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListMeta {
    /// At which revision the list is exact.
    pub resource_version: String,
    /// How to get the next page; empty on the last.
    #[serde(rename = "continue")]
    pub continue_token: String,
}

/// How an object is changed.
#[derive(Clone, Debug)]
pub enum Patch {
    /// RFC 7386.
    Merge(serde_json::Value),
    /// Kubernetes' own: lists merge by key. Not for custom resources.
    Strategic(serde_json::Value),
    /// RFC 6902.
    Json(serde_json::Value),
    /// Server-side apply.
    Apply {
        /// The object as the manager wants it.
        object: serde_json::Value,
        /// Who applies.
        manager: String,
        /// Whether to take fields from other managers.
        force: bool,
    },
}

/// What becomes of dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Propagation {
    /// They go after it.
    Background,
    /// They go before it.
    Foreground,
    /// They stay.
    Orphan,
}

/// Conditions and manner of a deletion.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeleteParams {
    /// Seconds that the object may take to end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_period_seconds: Option<i64>,
    /// What becomes of dependents; `None` for the kind's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub propagation_policy: Option<Propagation>,
    /// Only this very object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preconditions: Option<Preconditions>,
}

/// What must hold for a deletion to happen; else the answer is a conflict.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Preconditions {
    /// Its uid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Its revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
}

impl DeleteParams {
    /// Only the object with this uid: what a controller that decided on a cached object should always say.
    #[must_use]
    pub fn uid(uid: &str) -> DeleteParams {
        let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() }
    }

    /// With a grace period.
    #[must_use]
    pub fn grace_s(mut self, seconds: i64) -> DeleteParams {
        self.grace_period_seconds = Some(seconds);
        self
    }

    /// With a propagation policy.
    #[must_use]
    pub fn propagation(mut self, propagation: Propagation) -> DeleteParams {
        self.propagation_policy = Some(propagation);
        self
    }

    /// Only at this revision.
    #[must_use]
    pub fn resource_version(mut self, version: &str) -> DeleteParams {
        self.preconditions.get_or_insert_default().resource_version = Some(version.to_owned());
        self
    }
}

/// The tenant in a kubeconfig's server address, `https://HOST:PORT/tenants/NAME`.
fn home_of(server: &str) -> TenantName {
    server
        .rsplit_once("/tenants/")
        .and_then(|(_, name)| TenantName::new(name).ok())
        .unwrap_or_else(TenantName::system)
}

impl Client {
    /// A client for what a kubeconfig says, over one connection.
    ///
    /// # Errors
    /// When its certificates cannot be used.
    pub fn new(access: Access) -> Result<Client, Error> {
        Client::connect(access, Route::Tcp, 1)
    }

    /// A client of a role that runs from a kubeconfig file.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub fn from_kubeconfig(path: &Path) -> Result<Client, Error> {
        Client::connect(Access::load(path)?, Route::Tcp, ROLE_CONNECTIONS)
    }

    /// A client that reaches the server in a certain way, over so many connections.
    ///
    /// # Errors
    /// When the certificates cannot be used.
    pub fn connect(access: Access, route: Route, connections: usize) -> Result<Client, Error> {
        let home = home_of(&access.server);
        Ok(Client::over(Arc::new(Network::new(access, route, connections)?), home))
    }

    /// A client over any transport. `home` is the tenant of the transport's credential: objects that do not say
    /// whose they are, are its.
    #[must_use]
    pub fn over(transport: Arc<dyn Transport>, home: TenantName) -> Client {
        Client { transport, home }
    }

    /// The same client; objects of [`crate::Tenants::Own`] count as this tenant's.
    #[must_use]
    pub fn with_home(mut self, home: TenantName) -> Client {
        self.home = home;
        self
    }

    /// The tenant of the credential.
    #[must_use]
    pub fn home(&self) -> &TenantName {
        &self.home
    }

    /// The server's address, as the kubeconfig has it.
    #[must_use]
    pub fn server(&self) -> &str {
        self.transport.server()
    }

    /// Sends a request as it is. Answers with an error status become errors.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn send(&self, request: Request) -> Result<Response, Error> {
        let response = self.transport.send(request).await?;
        if response.status.is_success() {
            return Ok(response);
        }
        let (status, headers) = (response.status, response.headers.clone());
        let body = response.bytes().await?;
        Err(error::of_answer(status, &headers, &body))
    }

    async fn exchange(
        &self,
        method: Method,
        path: String,
        content_type: HeaderValue,
        accept: HeaderValue,
        body: Bytes,
    ) -> Result<Bytes, Error> {
        let mut headers = HeaderMap::with_capacity(4);
        headers.insert(ACCEPT, accept);
        if !body.is_empty() {
            headers.insert(CONTENT_TYPE, content_type);
        }
        let what = format!("{method} {path}");
        let request = Request { method, path, headers, body, endless: false };
        let answer = async { self.send(request).await?.bytes().await };
        tokio::time::timeout(REQUEST_TIMEOUT, answer).await.map_err(|_| Error::Timeout {
            server: self.server().to_owned(),
            what,
            after_s: REQUEST_TIMEOUT.as_secs(),
        })?
    }

    /// Sends a request and returns the answer's body.
    ///
    /// # Errors
    /// [`Error`]: answers of 400 and above are [`Error::Status`].
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
    ) -> Result<Bytes, Error> {
        let content_type = HeaderValue::from_str(content_type).map_err(|e| Error::Answer(e.to_string()))?;
        self.exchange(method, path.to_owned(), content_type, JSON, body.into()).await
    }

    /// Reads what is at a path.
    ///
    /// # Errors
    /// As for [`Client::request`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        parse(&self.exchange(Method::GET, path.to_owned(), JSON, JSON, Bytes::new()).await?)
    }

    /// Reads what is at a path in the form of an `Accept` header.
    ///
    /// # Errors
    /// As for [`Client::request`].
    pub async fn get_as<T: DeserializeOwned>(&self, path: &str, accept: &'static str) -> Result<T, Error> {
        let accept = HeaderValue::from_static(accept);
        parse(&self.exchange(Method::GET, path.to_owned(), JSON, accept, Bytes::new()).await?)
    }

    /// Posts to a path.
    ///
    /// # Errors
    /// As for [`Client::request`].
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &serde_json::Value) -> Result<T, Error> {
        parse(&self.exchange(Method::POST, path.to_owned(), JSON, JSON, encode(body)?).await?)
    }

    /// Deletes what is at a path.
    ///
    /// # Errors
    /// As for [`Client::request`].
    pub async fn delete(&self, path: &str) -> Result<(), Error> {
        self.exchange(Method::DELETE, path.to_owned(), JSON, JSON, Bytes::new()).await.map(|_| ())
    }

    /// Reads an object.
    ///
    /// # Errors
    /// As for [`Client::request`].
    pub async fn read<T: DeserializeOwned>(&self, at: &ObjectPath) -> Result<T, Error> {
        parse(&self.read_bytes(at).await?)
    }

    /// Reads an object as it was sent.
    ///
    /// # Errors
    /// As for [`Client::request`].
    pub async fn read_bytes(&self, at: &ObjectPath) -> Result<Bytes, Error> {
        self.exchange(Method::GET, at.to_string(), JSON, JSON, Bytes::new()).await
    }

    /// Reads an object's metadata only, as a `PartialObjectMetadata`.
    ///
    /// # Errors
    /// As for [`Client::request`].
    pub async fn read_metadata<T: DeserializeOwned>(&self, at: &ObjectPath) -> Result<T, Error> {
        parse(&self.read_metadata_bytes(at).await?)
    }

    /// As [`Client::read_metadata`], as it was sent.
    ///
    /// # Errors
    /// As for [`Client::request`].
    pub async fn read_metadata_bytes(&self, at: &ObjectPath) -> Result<Bytes, Error> {
        self.exchange(Method::GET, at.to_string(), JSON, METADATA, Bytes::new()).await
    }

    /// Reads one page of a collection.
    ///
    /// # Errors
    /// As for [`Client::request`].
    pub async fn list<T: DeserializeOwned>(
        &self,
        at: &ObjectPath,
        params: &ListParams,
    ) -> Result<List<T>, Error> {
        parse(&self.list_bytes(at, params, false).await?)
    }

    /// Reads one page of a collection as it was sent; of each object its metadata only, if wanted.
    ///
    /// # Errors
    /// As for [`Client::request`].
    pub async fn list_bytes(
        &self,
        at: &ObjectPath,
        params: &ListParams,
        metadata_only: bool,
    ) -> Result<Bytes, Error> {
        let limit = if params.limit == 0 { Cow::default() } else { params.limit.to_string().into() };
        let path = at.with_query([
            ("labelSelector", params.labels.as_str().into()),
            ("fieldSelector", params.fields.as_str().into()),
            ("limit", limit),
            ("continue", params.continue_token.as_str().into()),
            ("resourceVersion", params.resource_version.as_str().into()),
        ]);
        let accept = if metadata_only { METADATA_LIST } else { JSON };
        self.exchange(Method::GET, path, JSON, accept, Bytes::new()).await
    }

    /// Reads a whole collection, page by page; all pages are of one revision.
    ///
    /// # Errors
    /// As for [`Client::request`]; [`crate::ErrorKind::Gone`] when it took so long that the revision is forgotten.
    pub async fn list_all<T: DeserializeOwned>(
        &self,
        at: &ObjectPath,
        mut params: ListParams,
    ) -> Result<List<T>, Error> {
        let mut all = self.list(at, &params).await?;
        while !all.metadata.continue_token.is_empty() {
            params.continue_token = std::mem::take(&mut all.metadata.continue_token);
            let page: List<T> = self.list(at, &params).await?;
            all.items.extend(page.items);
            all.metadata = page.metadata;
        }
        Ok(all)
    }

    /// Creates an object in the collection at a path, or posts to a subresource.
    ///
    /// # Errors
    /// As for [`Client::request`].
    pub async fn create<T: DeserializeOwned>(
        &self,
        at: &ObjectPath,
        object: &impl Serialize,
    ) -> Result<T, Error> {
        parse(&self.create_bytes(at, encode(object)?).await?)
    }

    /// As [`Client::create`], with bodies as they are.
    ///
    /// # Errors
    /// As for [`Client::request`].
    pub async fn create_bytes(&self, at: &ObjectPath, object: Bytes) -> Result<Bytes, Error> {
        self.exchange(Method::POST, at.to_string(), JSON, JSON, object).await
    }

    /// Replaces an object. With a `resourceVersion` in it, only that version.
    ///
    /// # Errors
    /// As for [`Client::request`].
    pub async fn update<T: DeserializeOwned>(
        &self,
        at: &ObjectPath,
        object: &impl Serialize,
    ) -> Result<T, Error> {
        parse(&self.update_bytes(at, encode(object)?).await?)
    }

    /// As [`Client::update`], with bodies as they are.
    ///
    /// # Errors
    /// As for [`Client::request`].
    pub async fn update_bytes(&self, at: &ObjectPath, object: Bytes) -> Result<Bytes, Error> {
        self.exchange(Method::PUT, at.to_string(), JSON, JSON, object).await
    }

    /// Changes an object.
    ///
    /// # Errors
    /// As for [`Client::request`].
    pub async fn patch<T: DeserializeOwned>(&self, at: &ObjectPath, patch: &Patch) -> Result<T, Error> {
        parse(&self.patch_bytes(at, patch).await?)
    }

    /// As [`Client::patch`], with the answer as it is.
    ///
    /// # Errors
    /// As for [`Client::request`].
    pub async fn patch_bytes(&self, at: &ObjectPath, patch: &Patch) -> Result<Bytes, Error> {
        let (content_type, body) = match patch {
            Patch::Merge(body) => ("application/merge-patch+json", body),
            Patch::Strategic(body) => ("application/strategic-merge-patch+json", body),
            Patch::Json(body) => ("application/json-patch+json", body),
            Patch::Apply { object, .. } => ("application/apply-patch+yaml", object),
        };
        let path = match patch {
            Patch::Apply { manager, force, .. } => {
                let force = if *force { "true" } else { "" };
                at.with_query([("fieldManager", manager.as_str().into()), ("force", force.into())])
            }
            _ => at.to_string(),
        };
        self.exchange(Method::PATCH, path, HeaderValue::from_static(content_type), JSON, encode(body)?).await
    }

    /// Deletes an object. The answer is either the object on its way out or a `Status`: see [`Removed`].
    ///
    /// # Errors
    /// As for [`Client::request`].
    pub async fn remove(&self, at: &ObjectPath, params: &DeleteParams) -> Result<Removed, Error> {
        let body = encode(params)?;
        let answer = self.exchange(Method::DELETE, at.to_string(), JSON, JSON, body).await?;
        Ok(Removed { answer })
    }

    /// Opens a watch.
    ///
    /// # Errors
    /// As for [`Client::request`]. A revision that is too old may be told here or by the watch's first event.
    pub async fn watch(
        &self,
        at: &ObjectPath,
        params: &WatchParams,
        metadata_only: bool,
    ) -> Result<Watch, Error> {
        let (initial, matching, revision) = match params.from {
            From::InitialEvents => ("true", "NotOlderThan", Cow::default()),
            From::Revision(revision) => ("", "", revision.to_string().into()),
        };
        let timeout = params.timeout_s.map_or(Cow::default(), |s| s.to_string().into());
        let path = at.with_query([
            ("watch", "true".into()),
            ("allowWatchBookmarks", "true".into()),
            ("labelSelector", params.labels.as_str().into()),
            ("fieldSelector", params.fields.as_str().into()),
            ("sendInitialEvents", initial.into()),
            ("resourceVersionMatch", matching.into()),
            ("resourceVersion", revision),
            ("timeoutSeconds", timeout),
        ]);
        let mut headers = HeaderMap::with_capacity(2);
        headers.insert(ACCEPT, if metadata_only { METADATA } else { JSON });
        let what = format!("WATCH {path}");
        let request = Request { method: Method::GET, path, headers, body: Bytes::new(), endless: true };
        let response = tokio::time::timeout(REQUEST_TIMEOUT, self.send(request)).await.map_err(|_| {
            Error::Timeout { server: self.server().to_owned(), what, after_s: REQUEST_TIMEOUT.as_secs() }
        })??;
        Ok(Watch::new(response.body))
    }
}

/// Asks for an object's metadata only.
const METADATA: HeaderValue =
    HeaderValue::from_static("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1");
/// Asks for the metadata of a list's objects only.
const METADATA_LIST: HeaderValue =
    HeaderValue::from_static("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1");

/// What a deletion answered.
#[derive(Clone, Debug)]
pub struct Removed {
    answer: Bytes,
}

impl Removed {
    /// The object, if it is still there (it has finalizers, or a grace period) and the server showed it.
    #[must_use]
    pub fn pending(&self) -> Option<&Bytes> {
        #[derive(Deserialize)]
        struct Probe {
            kind: String,
            metadata: Meta,
        }
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        struct Meta {
            deletion_timestamp: Option<serde::de::IgnoredAny>,
        }
        let probe: Probe = serde_json::from_slice(&self.answer).ok()?;
        (probe.kind != "Status" && probe.metadata.deletion_timestamp.is_some()).then_some(&self.answer)
    }

    /// The answer as it was sent.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.answer
    }
}

pub(crate) fn encode(object: &impl Serialize) -> Result<Bytes, Error> {
    serde_json::to_vec(object)
        .map(Bytes::from)
        .map_err(|e| Error::Answer(format!("the request cannot be encoded: {e}")))
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|e| Error::Answer(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes() {
        assert_eq!(home_of("https://x:1/tenants/shop").as_str(), "shop");
        assert_eq!(home_of("https://x:1").as_str(), "system");
    }

    #[test]
    fn deletions_that_wait_are_told_from_those_that_are_done() {
        let of =
            |text: &'static str| Removed { answer: Bytes::from_static(text.as_bytes()) }.pending().is_some();
        assert!(of(r#"{"kind":"Pod","metadata":{"deletionTimestamp":"2026-01-01T00:00:00Z"}}"#));
        assert!(!of(r#"{"kind":"Pod","metadata":{"name":"x"}}"#));
        assert!(!of(r#"{"kind":"Status","metadata":{},"status":"Success"}"#));
    }
}
