//! What a request asks for, read off its method, path and query.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use skep_base::TenantName;

use crate::status::ApiError;

/// Whose objects a path addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum View {
    /// `/…`: the tenant of the credential.
    Own,
    /// `/tenants/NAME/…`.
    Tenant(TenantName),
    /// `/tenants/*/…`: every tenant's, for system roles.
    All,
}

/// What is to be done, in the words of RBAC rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Action {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

impl Action {
    /// As rules name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Get => "get",
            Action::List => "list",
            Action::Watch => "watch",
            Action::Create => "create",
            Action::Update => "update",
            Action::Patch => "patch",
            Action::Delete => "delete",
            Action::DeleteCollection => "deletecollection",
        }
    }

    /// Whether it only reads.
    #[must_use]
    pub fn is_read(self) -> bool {
        matches!(self, Action::Get | Action::List | Action::Watch)
    }
}

/// A resource, or one of its objects or subresources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourcePath {
    /// API group; empty for core.
    pub group: String,
    /// Version.
    pub version: String,
    /// Plural resource name.
    pub resource: String,
    /// Namespace; empty when none is named.
    pub namespace: String,
    /// Object; empty for the collection.
    pub name: String,
    /// Subresource; empty for the object itself.
    pub subresource: String,
    /// What follows a `proxy` subresource.
    pub rest: String,
    /// What is to be done.
    pub action: Action,
}

/// The target of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Objects.
    Resource(ResourcePath),
    /// `/version`, `/apis`, `/openapi/v3`, …: the path below the view, beginning with `/`.
    NonResource(String),
}

/// A path taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Whose objects.
    pub view: View,
    /// Which.
    pub target: Target,
}

/// Longest path that is taken apart: the parts of a valid one (tenant, group, version, namespace, name,
/// subresource) fit easily; a longer one is somebody's trick.
pub const MAX_PATH_BYTES: usize = 4096;

impl Route {
    /// Takes a request's method and path apart. `watch`: whether the query asks for a watch.
    ///
    /// # Errors
    /// 400 for paths with bad escapes, empty or dot segments or NULs; 404 for a malformed tenant.
    pub fn parse(method: &http::Method, path: &str, watch: bool) -> Result<Route, ApiError> {
        if path.len() > MAX_PATH_BYTES {
            return Err(ApiError::new(
                414,
                "RequestURITooLong",
                format!("the path is longer than {MAX_PATH_BYTES} bytes"),
            ));
        }
        let mut segments = split(path)?;
        let view = match segments.as_slice() {
            [first, tenant, ..] if first == "tenants" => {
                let view = if tenant == "*" {
                    View::All
                } else {
                    // A name that no tenant can have is a tenant that does not exist.
                    View::Tenant(TenantName::new(tenant).map_err(|_| ApiError::no_such_path())?)
                };
                segments.drain(..2);
                view
            }
            _ => View::Own,
        };
        let target = match resource_path(method, &segments, watch)? {
            Some(resource) => Target::Resource(resource),
            None => Target::NonResource(format!("/{}", segments.join("/"))),
        };
        Ok(Route { view, target })
    }
}

fn split(path: &str) -> Result<Vec<Cow<'_, str>>, ApiError> {
    let mut segments = Vec::with_capacity(8);
    // One trailing slash is tolerated, as upstream does for discovery paths.
    let trimmed = path.strip_prefix('/').unwrap_or(path);
    let trimmed = trimmed.strip_suffix('/').unwrap_or(trimmed);
    if trimmed.is_empty() {
        return Ok(segments);
    }
    for raw in trimmed.split('/') {
        let segment = percent_decode_str(raw)
            .decode_utf8()
            .map_err(|_| ApiError::bad_request("the path is not valid UTF-8"))?;
        let bad = segment.is_empty() || segment == "." || segment == ".." || segment.contains(['/', '\0']);
        if bad {
            return Err(ApiError::bad_request(format!("the path has an invalid segment {segment:?}")));
        }
        segments.push(segment);
    }
    Ok(segments)
}

fn resource_path(
    method: &http::Method,
    segments: &[Cow<'_, str>],
    watch: bool,
) -> Result<Option<ResourcePath>, ApiError> {
    let (group, version, mut rest) = match segments {
        [api, version, rest @ ..] if api == "api" && !rest.is_empty() => ("", version, rest),
        [apis, group, version, rest @ ..] if apis == "apis" && !rest.is_empty() => {
            (group.as_ref(), version, rest)
        }
        _ => return Ok(None),
    };
    // The old form `…/v1/watch/pods` still appears in the wild.
    let mut watch = watch;
    if rest.len() > 1 && rest[0] == "watch" {
        watch = true;
        rest = &rest[1..];
    }
    let mut namespace = "";
    if rest.len() > 1 && rest[0] == "namespaces" {
        namespace = rest[1].as_ref();
        // `namespaces/x`, `namespaces/x/status` and `namespaces/x/finalize` are the namespace itself.
        if rest.len() > 2 && !(rest.len() == 3 && matches!(rest[2].as_ref(), "status" | "finalize")) {
            rest = &rest[2..];
        }
    }
    let text = |i: usize| rest.get(i).map(|s| s.to_string()).unwrap_or_default();
    let (resource, name, subresource) = (text(0), text(1), text(2));
    let below = if rest.len() > 3 { rest[3..].join("/") } else { String::new() };
    if !below.is_empty() && subresource != "proxy" {
        return Err(ApiError::no_such_path());
    }
    let named = !name.is_empty();
    let action = match method.as_str() {
        "GET" | "HEAD" if watch => Action::Watch,
        "GET" | "HEAD" if named => Action::Get,
        "GET" | "HEAD" => Action::List,
        "POST" => Action::Create,
        "PUT" => Action::Update,
        "PATCH" => Action::Patch,
        "DELETE" if named => Action::Delete,
        "DELETE" => Action::DeleteCollection,
        _ => return Err(ApiError::method_not_allowed()),
    };
    Ok(Some(ResourcePath {
        group: group.to_owned(),
        version: version.to_string(),
        resource,
        namespace: namespace.to_owned(),
        name,
        subresource,
        rest: below,
        action,
    }))
}

/// How unknown and duplicate fields are treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

/// How a list reads `resourceVersion`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Match {
    Exact,
    NotOlderThan,
}

/// The query parameters of all verbs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `labelSelector`, as sent.
    pub label_selector: String,
    /// `fieldSelector`, as sent.
    pub field_selector: String,
    /// `watch`.
    pub watch: bool,
    /// `allowWatchBookmarks`.
    pub bookmarks: bool,
    /// `sendInitialEvents`.
    pub send_initial_events: Option<bool>,
    /// `resourceVersion`, as sent.
    pub resource_version: String,
    /// `resourceVersionMatch`.
    pub version_match: Option<Match>,
    /// `limit`; 0 is none.
    pub limit: usize,
    /// `continue`.
    pub continue_token: String,
    /// `timeoutSeconds`.
    pub timeout_s: Option<u64>,
    /// `dryRun=All`.
    pub dry_run: bool,
    /// `fieldValidation`.
    pub field_validation: FieldValidation,
    /// `fieldManager`.
    pub field_manager: String,
    /// `force`, of server-side apply.
    pub force: bool,
    /// `pretty`.
    pub pretty: bool,
    /// `gracePeriodSeconds`, of a deletion.
    pub grace_period_s: Option<i64>,
    /// `propagationPolicy`, of a deletion.
    pub propagation: Option<String>,
    /// `orphanDependents`, its deprecated form.
    pub orphan_dependents: Option<bool>,
    /// `includeObject`, of Table output.
    pub include_object: String,
    /// Everything else, for `log`, `exec`, `attach`, `portforward`, `proxy`.
    pub other: Vec<(String, String)>,
}

/// Longest `fieldManager`, as upstream.
const MAX_FIELD_MANAGER_BYTES: usize = 128;

impl Options {
    /// Reads a query string.
    ///
    /// # Errors
    /// 400 for bad escapes and values of the wrong type, 422 for values that are not allowed.
    pub fn parse(query: &str) -> Result<Options, ApiError> {
        let mut o = Options::default();
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (key, value) = (unescape(key)?, unescape(value)?);
            match key.as_ref() {
                "labelSelector" => o.label_selector = value.into_owned(),
                "fieldSelector" => o.field_selector = value.into_owned(),
                "watch" => o.watch = boolean(&key, &value)?,
                "allowWatchBookmarks" => o.bookmarks = boolean(&key, &value)?,
                "sendInitialEvents" => o.send_initial_events = Some(boolean(&key, &value)?),
                "resourceVersion" => o.resource_version = value.into_owned(),
                "resourceVersionMatch" => {
                    o.version_match = match value.as_ref() {
                        "" => None,
                        "Exact" => Some(Match::Exact),
                        "NotOlderThan" => Some(Match::NotOlderThan),
                        other => {
                            return Err(invalid_option(
                                "ListOptions",
                                &format!(
                                    "resourceVersionMatch: Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\", \"\""
                                ),
                            ));
                        }
                    }
                }
                "limit" => {
                    let limit: i64 = number(&key, &value)?;
                    // Upstream takes a negative limit as none.
                    o.limit = usize::try_from(limit).unwrap_or(0);
                }
                "continue" => o.continue_token = value.into_owned(),
                "timeoutSeconds" => o.timeout_s = Some(u64::try_from(number(&key, &value)?).unwrap_or(0)),
                "dryRun" => match value.as_ref() {
                    "All" => o.dry_run = true,
                    other => {
                        return Err(invalid_option(
                            "Options",
                            &format!("dryRun: Unsupported value: {other:?}: supported values: \"All\""),
                        ));
                    }
                },
                "fieldValidation" => {
                    o.field_validation = match value.as_ref() {
                        "" | "Warn" => FieldValidation::Warn,
                        "Ignore" => FieldValidation::Ignore,
                        "Strict" => FieldValidation::Strict,
                        other => {
                            return Err(invalid_option(
                                "Options",
                                &format!(
                                    "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Warn\", \"Strict\""
                                ),
                            ));
                        }
                    }
                }
                "fieldManager" => {
                    if value.len() > MAX_FIELD_MANAGER_BYTES {
                        return Err(invalid_option(
                            "Options",
                            &format!(
                                "fieldManager: Too long: may not be more than {MAX_FIELD_MANAGER_BYTES} bytes"
                            ),
                        ));
                    }
                    if value.chars().any(char::is_control) {
                        return Err(invalid_option(
                            "Options",
                            &format!(
                                "fieldManager: Invalid value: {value:?}: should only contain printable characters"
                            ),
                        ));
                    }
                    o.field_manager = value.into_owned();
                }
                "force" => o.force = boolean(&key, &value)?,
                "pretty" => o.pretty = boolean(&key, &value)?,
                "gracePeriodSeconds" => o.grace_period_s = Some(number(&key, &value)?),
                "propagationPolicy" => o.propagation = Some(value.into_owned()),
                "orphanDependents" => o.orphan_dependents = Some(boolean(&key, &value)?),
                "includeObject" => o.include_object = value.into_owned(),
                _ => o.other.push((key.into_owned(), value.into_owned())),
            }
        }
        Ok(o)
    }
}

fn invalid_option(kind: &str, text: &str) -> ApiError {
    ApiError::new(422, "Invalid", format!("{kind}.meta.k8s.io \"\" is invalid: {text}"))
}

fn unescape(text: &str) -> Result<Cow<'_, str>, ApiError> {
    let bad = |_| ApiError::bad_request("the query is not valid UTF-8");
    if text.contains('+') {
        let spaced = text.replace('+', " ");
        Ok(Cow::Owned(percent_decode_str(&spaced).decode_utf8().map_err(bad)?.into_owned()))
    } else {
        percent_decode_str(text).decode_utf8().map_err(bad)
    }
}

fn boolean(key: &str, value: &str) -> Result<bool, ApiError> {
    // Go's query conversion: an empty value means true, anything but false and 0 too.
    match value {
        "false" | "0" | "False" | "FALSE" | "f" | "F" => Ok(false),
        "" | "true" | "1" | "True" | "TRUE" | "t" | "T" => Ok(true),
        other => Err(ApiError::bad_request(format!("{key}: {other:?} is not a boolean: use true or false"))),
    }
}

fn number(key: &str, value: &str) -> Result<i64, ApiError> {
    value.parse().map_err(|_| ApiError::bad_request(format!("{key}: {value:?} is not a whole number")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn resource(method: &str, path: &str) -> ResourcePath {
        let method = http::Method::from_bytes(method.as_bytes()).unwrap();
        match Route::parse(&method, path, false).unwrap().target {
            Target::Resource(r) => r,
            Target::NonResource(p) => panic!("{path} is no resource but {p}"),
        }
    }

    #[test]
    fn resources() {
        // method, path, group, version, resource, namespace, name, subresource, action
        let table = [
            ("GET", "/api/v1/pods", "", "v1", "pods", "", "", "", Action::List),
            ("GET", "/api/v1/namespaces", "", "v1", "namespaces", "", "", "", Action::List),
            ("GET", "/api/v1/namespaces/a", "", "v1", "namespaces", "a", "a", "", Action::Get),
            (
                "PUT",
                "/api/v1/namespaces/a/finalize",
                "",
                "v1",
                "namespaces",
                "a",
                "a",
                "finalize",
                Action::Update,
            ),
            (
                "PUT",
                "/api/v1/namespaces/a/status",
                "",
                "v1",
                "namespaces",
                "a",
                "a",
                "status",
                Action::Update,
            ),
            ("GET", "/api/v1/namespaces/a/pods", "", "v1", "pods", "a", "", "", Action::List),
            ("DELETE", "/api/v1/namespaces/a/pods", "", "v1", "pods", "a", "", "", Action::DeleteCollection),
            ("DELETE", "/api/v1/namespaces/a/pods/p", "", "v1", "pods", "a", "p", "", Action::Delete),
            (
                "POST",
                "/api/v1/namespaces/a/pods/p/eviction",
                "",
                "v1",
                "pods",
                "a",
                "p",
                "eviction",
                Action::Create,
            ),
            (
                "GET",
                "/apis/apps/v1/namespaces/a/deployments/d/scale",
                "apps",
                "v1",
                "deployments",
                "a",
                "d",
                "scale",
                Action::Get,
            ),
            (
                "GET",
                "/apis/apps/v1/watch/deployments",
                "apps",
                "v1",
                "deployments",
                "",
                "",
                "",
                Action::Watch,
            ),
        ];
        for (method, path, group, version, res, ns, name, sub, action) in table {
            let r = resource(method, path);
            assert_eq!(
                (
                    r.group.as_str(),
                    r.version.as_str(),
                    r.resource.as_str(),
                    r.namespace.as_str(),
                    r.name.as_str(),
                    r.subresource.as_str(),
                    r.action
                ),
                (group, version, res, ns, name, sub, action),
                "{path}"
            );
        }
    }

    #[test]
    fn views() {
        let get = http::Method::GET;
        let view = |p: &str| Route::parse(&get, p, false).map(|r| r.view);
        assert_eq!(view("/api/v1/pods").unwrap(), View::Own);
        assert_eq!(
            view("/tenants/shop/api/v1/pods").unwrap(),
            View::Tenant(TenantName::new("shop").unwrap())
        );
        assert_eq!(view("/tenants/*/api/v1/pods").unwrap(), View::All);
        assert_eq!(view("/tenants/Shop/api/v1/pods").unwrap_err().code, 404);
        let root = Route::parse(&get, "/tenants/shop/apis", false).unwrap();
        assert_eq!(root.target, Target::NonResource("/apis".into()));
    }

    #[test]
    fn tricks_are_refused() {
        let get = http::Method::GET;
        for path in [
            "/api/v1/namespaces/../pods",
            "/api/v1/namespaces/a%2fb/pods",
            "/api/v1/namespaces/a/pods/%00",
            "/api/v1//pods",
            "/api/v1/namespaces/%2e%2e/pods",
            "/tenants/a/../b/api/v1/pods",
            "/api/v1/pods/%ff",
        ] {
            assert_eq!(Route::parse(&get, path, false).unwrap_err().code, 400, "{path}");
        }
    }

    #[test]
    fn options() {
        let o = Options::parse("labelSelector=a%3Db%2Cc+in+%28d%29&limit=5&watch=1&dryRun=All&container=x")
            .unwrap();
        assert_eq!(o.label_selector, "a=b,c in (d)");
        assert_eq!((o.limit, o.watch, o.dry_run), (5, true, true));
        assert_eq!(o.other, [("container".to_owned(), "x".to_owned())]);
        for bad in ["limit=x", "watch=maybe", "dryRun=Some", "fieldValidation=strict", "labelSelector=%ff"] {
            assert!(Options::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(path in "[ -~]{0,60}", query in "[ -~]{0,60}") {
            let _ = Route::parse(&http::Method::GET, &path, false);
            let _ = Options::parse(&query);
        }
    }
}
