//! One request, and the lines that tell of it.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};
use skep_api::UserInfo;

use super::AuditLog;
use super::policy::{Attributes, Level, Resource, Verdict};
use crate::auth::Caller;
use crate::negotiate::json_body;
use crate::request::{Route, Target, View};

/// The annotation that says whose objects a request was about.
const TENANT: &str = "tenancy.skep.io/tenant";
/// The largest answer that is looked into for the name of an object that was just created.
const MAX_NAMED_BYTES: usize = 64 * 1024;

/// When in a request's life an event is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Stage {
    /// Who asks for what is known, nothing has been done.
    RequestReceived,
    /// The head of an answer is sent whose body goes on: watches.
    ResponseStarted,
    /// The answer is complete.
    ResponseComplete,
    /// The server failed.
    Panic,
}

/// What is known of a request.
#[derive(Clone, Debug)]
pub struct Record {
    /// What the policy says.
    pub verdict: Verdict,
    /// The same in all events of a request, and in the answer's `Audit-Id`.
    pub id: uuid::Uuid,
    /// Path and query.
    pub uri: String,
    /// What is done.
    pub verb: &'static str,
    /// Who asks.
    pub user: Arc<UserInfo>,
    /// As whom, when that is somebody else.
    pub impersonated: Option<Arc<UserInfo>>,
    /// From where.
    pub source: Option<IpAddr>,
    /// By which program.
    pub user_agent: String,
    /// Whose objects; `*` across all tenants.
    pub tenant: String,
    /// The object, for requests about resources.
    pub object: Option<Object>,
    /// When the request came.
    pub received: Timestamp,
    /// When this event happened.
    pub now: Timestamp,
    /// The answer's code; 0 before there is one.
    pub code: u16,
    /// What went wrong: reason and message.
    pub failure: Option<(&'static str, String)>,
    /// The body of the request, in JSON, when it is recorded.
    pub request: Option<Bytes>,
    /// The body of the answer, when it is recorded or tells a new object's name.
    pub response: Option<Bytes>,
}

/// What a request is about.
#[derive(Clone, Debug, Default)]
pub struct Object {
    /// API group.
    pub group: String,
    /// Version.
    pub version: String,
    /// Plural name.
    pub resource: String,
    /// Empty for the object itself.
    pub subresource: String,
    /// Empty when none is named.
    pub namespace: String,
    /// Empty for a collection.
    pub name: String,
}

impl Record {
    /// What is known of a request once somebody is known to ask, or once nobody is (`None`). `None` when
    /// nothing is to be recorded.
    #[must_use]
    pub fn of(
        log: &AuditLog,
        id: uuid::Uuid,
        parts: &http::request::Parts,
        route: &Route,
        caller: Option<&Caller>,
        now: Timestamp,
    ) -> Option<Record> {
        let nobody = Arc::new(UserInfo::default());
        let user = caller.map_or(&nobody, |c| &c.user);
        let (verb, path, object) = match &route.target {
            Target::NonResource(path) => (method_verb(&parts.method), path.as_str(), None),
            Target::Resource(of) => (
                of.action.as_str(),
                "",
                Some(Object {
                    group: of.group.clone(),
                    version: of.version.clone(),
                    resource: of.resource.clone(),
                    subresource: of.subresource.clone(),
                    namespace: of.namespace.clone(),
                    name: of.name.clone(),
                }),
            ),
        };
        let resource = object.as_ref().map(|o| Resource {
            group: &o.group,
            resource: &o.resource,
            subresource: &o.subresource,
            namespace: &o.namespace,
            name: &o.name,
        });
        let verdict =
            log.verdict(&Attributes { user: &user.name, groups: &user.groups, verb, resource, path });
        if verdict.level == Level::None {
            return None;
        }
        let header = |name| parts.headers.get(name).and_then(|v: &http::HeaderValue| v.to_str().ok());
        let tenant = match &route.view {
            View::Own => caller.map(|c| c.home().to_string()).unwrap_or_default(),
            View::Tenant(name) => name.to_string(),
            View::All => "*".to_owned(),
        };
        Some(Record {
            verdict,
            id,
            uri: parts.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
            verb,
            user: user.clone(),
            impersonated: None,
            source: parts.extensions.get::<crate::server::Peer>().map(|p| p.0),
            user_agent: header(http::header::USER_AGENT).unwrap_or_default().to_owned(),
            tenant,
            object,
            received: now,
            now,
            code: 0,
            failure: None,
            request: None,
            response: None,
        })
    }

    /// Keeps the body of the request if it is to be recorded, as JSON.
    pub fn note_request(&mut self, headers: &http::HeaderMap, body: &Bytes) {
        if self.verdict.level < Level::Request || body.is_empty() {
            return;
        }
        self.request = Some(match json_body(headers, body) {
            Ok(Cow::Owned(json)) => json.into(),
            // JSON already; a patch, which has a type of its own; or not readable, which the answer says.
            Ok(Cow::Borrowed(_)) | Err(_) => body.clone(),
        });
    }

    /// The bytes that bodies keep in memory.
    #[must_use]
    pub fn body_bytes(&self) -> usize {
        self.request.as_ref().map_or(0, Bytes::len) + self.response.as_ref().map_or(0, Bytes::len)
    }

    /// Whether the answer's body is of interest.
    #[must_use]
    pub fn wants_response(&self, bytes: usize) -> bool {
        self.verdict.level == Level::RequestResponse || (self.creates() && bytes <= MAX_NAMED_BYTES)
    }

    fn creates(&self) -> bool {
        self.verb == "create" && self.object.as_ref().is_some_and(|o| o.name.is_empty())
    }
}

/// Records the end of a stream, whenever that comes.
pub struct Ending {
    log: Arc<AuditLog>,
    record: Option<Record>,
}

impl Ending {
    /// For a stream that has begun.
    #[must_use]
    pub fn new(log: Arc<AuditLog>, record: Record) -> Ending {
        Ending { log, record: Some(record) }
    }

    /// Called by the stream for every piece, so that it owns this.
    pub fn alive(&self) {}
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(record) = self.record.take() {
            let record = Record { now: Timestamp::now(), ..record };
            self.log.record(record, Stage::ResponseComplete);
        }
    }
}

/// The verb of a request that is about no resource.
fn method_verb(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "get",
        "HEAD" => "head",
        "POST" => "post",
        "PUT" => "put",
        "PATCH" => "patch",
        "DELETE" => "delete",
        "OPTIONS" => "options",
        _ => "other",
    }
}

fn user(user: &UserInfo) -> Json {
    let mut json = Map::new();
    for (key, value) in [("username", &user.name), ("uid", &user.uid)] {
        if !value.is_empty() {
            json.insert(key.to_owned(), value.as_str().into());
        }
    }
    if !user.groups.is_empty() {
        json.insert("groups".to_owned(), user.groups.clone().into());
    }
    if !user.extra.is_empty() {
        json.insert("extra".to_owned(), json!(user.extra));
    }
    Json::Object(json)
}

/// Microseconds, as `MicroTime` has them.
fn micro_time(time: Timestamp) -> Json {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string().into()
}

/// A body as a tree; what is no JSON is left out.
fn body(bytes: &Bytes, verdict: &Verdict) -> Option<Json> {
    let mut tree: Json = serde_json::from_slice(bytes).ok()?;
    if verdict.omit_managed_fields {
        let forget = |object: &mut Json| {
            if let Some(meta) = object.get_mut("metadata").and_then(Json::as_object_mut) {
                meta.remove("managedFields");
            }
        };
        forget(&mut tree);
        tree.get_mut("items").and_then(Json::as_array_mut).into_iter().flatten().for_each(forget);
    }
    Some(tree)
}

/// Where a newly made object says what it is called.
#[derive(Default, Deserialize)]
struct Created {
    #[serde(default)]
    metadata: CreatedMeta,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct CreatedMeta {
    name: String,
    uid: String,
    resource_version: String,
}

fn object_ref(record: &Record) -> Option<Json> {
    let object = record.object.as_ref()?;
    let mut created = CreatedMeta::default();
    if record.creates()
        && let Some(bytes) = &record.response
    {
        // What is no object (a Status) names nothing.
        created = serde_json::from_slice::<Created>(bytes).unwrap_or_default().metadata;
    }
    let name = if object.name.is_empty() { &created.name } else { &object.name };
    let mut json = Map::new();
    for (key, value) in [
        ("resource", &object.resource),
        ("namespace", &object.namespace),
        ("name", name),
        ("uid", &created.uid),
        ("apiGroup", &object.group),
        ("apiVersion", &object.version),
        ("resourceVersion", &created.resource_version),
        ("subresource", &object.subresource),
    ] {
        if !value.is_empty() {
            json.insert(key.to_owned(), value.as_str().into());
        }
    }
    Some(Json::Object(json))
}

/// The event as one line, with its end.
pub(super) fn line(record: Record, stage: Stage) -> Vec<u8> {
    let level = record.verdict.level;
    let mut json = Map::new();
    let mut put = |key: &str, value: Json| {
        json.insert(key.to_owned(), value);
    };
    put("kind", "Event".into());
    put("apiVersion", "audit.k8s.io/v1".into());
    put("level", format!("{level:?}").into());
    put("auditID", record.id.to_string().into());
    put("stage", format!("{stage:?}").into());
    put("requestURI", record.uri.as_str().into());
    put("verb", record.verb.into());
    put("user", user(&record.user));
    if let Some(impersonated) = &record.impersonated {
        put("impersonatedUser", user(impersonated));
    }
    if let Some(source) = record.source {
        put("sourceIPs", json!([source.to_string()]));
    }
    if !record.user_agent.is_empty() {
        put("userAgent", record.user_agent.as_str().into());
    }
    if let Some(object) = object_ref(&record) {
        put("objectRef", object);
    }
    if record.code != 0 {
        let mut status = Map::new();
        status.insert("metadata".to_owned(), json!({}));
        if let Some((reason, message)) = &record.failure {
            status.insert("status".to_owned(), "Failure".into());
            status.insert("message".to_owned(), message.as_str().into());
            if !reason.is_empty() {
                status.insert("reason".to_owned(), (*reason).into());
            }
        }
        status.insert("code".to_owned(), record.code.into());
        put("responseStatus", Json::Object(status));
    }
    if level >= Level::Request
        && stage != Stage::RequestReceived
        && let Some(tree) = record.request.as_ref().and_then(|b| body(b, &record.verdict))
    {
        put("requestObject", tree);
    }
    if level >= Level::RequestResponse
        && stage != Stage::RequestReceived
        && let Some(tree) = record.response.as_ref().and_then(|b| body(b, &record.verdict))
    {
        put("responseObject", tree);
    }
    put("requestReceivedTimestamp", micro_time(record.received));
    put("stageTimestamp", micro_time(record.now));
    let mut annotations = Map::new();
    annotations.insert(TENANT.to_owned(), record.tenant.as_str().into());
    if record.code != 0 {
        let decision = if matches!(record.code, 401 | 403) { "forbid" } else { "allow" };
        annotations.insert("authorization.k8s.io/decision".to_owned(), decision.into());
    }
    put("annotations", Json::Object(annotations));
    let mut line = Json::Object(json).to_string().into_bytes();
    line.push(b'\n');
    line
}
