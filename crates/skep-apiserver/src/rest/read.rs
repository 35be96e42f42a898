//! Get and list.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Response;
use serde::{Deserialize, Serialize};
use skep_base::{Key, Revision, Scope};
use skep_store::ListOptions;

use crate::app::App;
use crate::body::Body;
use crate::output::{Item, ListMeta};
use crate::request::Match;
use crate::rest::Call;
use crate::rest::select::Selection;
use crate::status::ApiError;

/// A field that agents select on all the time: the store keeps an index of it.
pub const NODE_FIELD: &str = "spec.nodeName";
/// The selectable fields that the store keeps an index of: of pods, and of machines.
const INDEXED_FIELDS: [&str; 2] = [NODE_FIELD, "spec.hostName"];

/// The indexed field that a selection fixes, and its value.
#[must_use]
pub fn index_of(selection: &Selection) -> Option<(&'static str, &str)> {
    let fixed = |field| Some((field, selection.exact(field).filter(|v| !v.is_empty())?));
    INDEXED_FIELDS.into_iter().find_map(fixed)
}

/// One object.
///
/// # Errors
/// 404 when it does not exist.
pub fn get(call: &Call) -> Result<Response<Body>, ApiError> {
    let wanted = revision(&call.options.resource_version)?;
    fresh_enough(&call.app, wanted)?;
    let key = call.key(&call.path.name)?;
    let value = call.app.objects.get(&key).ok_or_else(|| ApiError::not_found(call.about()))?;
    let output = call.output()?;
    let body = output.one(&Item { tenant: key.tenant, value })?;
    call.respond(200, output.content_type(), Body::Full(body))
}

/// Reads a `resourceVersion`; empty is 0.
///
/// # Errors
/// 400 when it is not a number.
pub fn revision(text: &str) -> Result<Revision, ApiError> {
    if text.is_empty() {
        return Ok(Revision::ZERO);
    }
    Revision::parse(text).ok_or_else(|| {
        ApiError::bad_request(format!(
            "invalid resource version {text:?}: it must be a number that this server gave out"
        ))
    })
}

/// Refuses a revision from the future, which a client can only have from another server.
///
/// # Errors
/// 504, as upstream, with the cause that clients look for.
pub fn fresh_enough(app: &App, wanted: Revision) -> Result<(), ApiError> {
    let current = app.objects.revision();
    if wanted <= current {
        return Ok(());
    }
    let message = format!("Too large resource version: {wanted}, current: {current}");
    let mut e = ApiError::new(504, "Timeout", format!("Timeout: {message}")).with_cause(
        "ResourceVersionTooLarge",
        "Too large resource version",
        "",
    );
    if let Some(details) = &mut e.details {
        details.retry_after_seconds = Some(1);
    }
    Err(e)
}

/// What a `continue` token holds. It names no tenant unless the view crosses tenants: whatever a client
/// writes into it, it stays inside its own view.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Continue {
    /// The revision of the first page.
    rv: u64,
    /// The last object sent.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    tenant: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    namespace: String,
    name: String,
}

impl Continue {
    #[cfg(test)]
    pub(crate) fn example() -> Continue {
        Continue { rv: 7, tenant: "t".to_owned(), namespace: "n".to_owned(), name: "a".to_owned() }
    }

    pub(crate) fn parse(text: &str) -> Result<Continue, ApiError> {
        let bad =
            || ApiError::bad_request("continue key is not valid: it must be one that this server gave out");
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|_| bad())?;
        let token: Continue = serde_json::from_slice(&bytes).map_err(|_| bad())?;
        let clean = |s: &str| !s.contains(['\0', '/']);
        if token.name.is_empty()
            || ![&token.tenant, &token.namespace, &token.name].into_iter().all(|s| clean(s))
        {
            return Err(bad());
        }
        Ok(token)
    }

    pub(crate) fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }
}

/// The collection at the path.
///
/// # Errors
/// 400 for bad selectors and versions, 410 for pages of a list that is too old.
pub fn list(call: &Call) -> Result<Response<Body>, ApiError> {
    let selection = Selection::of(call)?;
    let o = &call.options;
    let mut at = None;
    let mut after: Option<Key> = None;
    if o.continue_token.is_empty() {
        let wanted = revision(&o.resource_version)?;
        fresh_enough(&call.app, wanted)?;
        match (o.version_match, o.resource_version.as_str()) {
            (Some(_), "") => {
                return Err(ApiError::new(
                    422,
                    "Invalid",
                    "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
                ));
            }
            (Some(Match::Exact), "0") => {
                return Err(ApiError::new(
                    422,
                    "Invalid",
                    "resourceVersionMatch: Forbidden: resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"",
                ));
            }
            (Some(Match::Exact), _) => at = Some(wanted),
            // With a limit and nothing else said, upstream reads exactly at the version.
            (None, v) if o.limit > 0 && !v.is_empty() && v != "0" => at = Some(wanted),
            _ => {}
        }
    } else {
        if !o.resource_version.is_empty() && o.resource_version != "0" {
            return Err(ApiError::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let token = Continue::parse(&o.continue_token)?;
        let tenant = match &call.tenant {
            Some(t) => t.clone(),
            None => skep_base::TenantName::new(&token.tenant)
                .map_err(|_| ApiError::bad_request("continue key is not valid: it names no tenant"))?,
        };
        after = Some(Key::new(call.kind.resource().clone(), tenant, &token.namespace, &token.name));
        at = Some(Revision(token.rv));
    }
    let page = collect(call, &selection, at, after, o.limit).map_err(|Gone| {
        ApiError::expired(
            "The provided continue parameter is too old to display a consistent list result. You must start a new list without the continue parameter.",
        )
    })?;
    let mut meta = ListMeta { revision: page.revision, ..ListMeta::default() };
    if let (true, Some(last)) = (page.more, &page.last) {
        let tenant = if call.tenant.is_none() { last.tenant.to_string() } else { String::new() };
        let token = Continue {
            rv: page.revision.0,
            tenant,
            namespace: last.namespace.to_string(),
            name: last.name.to_string(),
        };
        meta.continue_token = Some(token.encode());
        if selection.is_everything() {
            meta.remaining = page.remaining;
        }
    }
    let output = call.output()?;
    let body = output.list(page.items, &meta)?;
    call.respond(200, output.content_type(), body)
}

/// The revision asked for is no longer held.
pub struct Gone;

/// A page of a collection.
pub struct Page {
    /// The objects.
    pub items: Vec<Item>,
    /// The revision at which they are exact.
    pub revision: Revision,
    /// Whether more follow.
    pub more: bool,
    /// How many more, where it is known.
    pub remaining: Option<usize>,
    /// The last object read.
    pub last: Option<Key>,
}

/// How many objects are read at once while looking for selected ones.
const SCAN_CHUNK: usize = 1024;

/// Reads the selected objects of the call's collection.
///
/// # Errors
/// [`Gone`] when `at` is too old.
pub fn collect(
    call: &Call,
    selection: &Selection,
    mut at: Option<Revision>,
    mut after: Option<Key>,
    limit: usize,
) -> Result<Page, Gone> {
    let mut scope = call.scope();
    // A selection by name is a look-up, not a scan.
    if let (Some(name), Some(tenant)) = (selection.name(), &call.tenant) {
        let namespace = if call.kind.info().namespaced { call.path.namespace.as_str() } else { "" };
        if !call.kind.info().namespaced || !namespace.is_empty() {
            scope = Scope::Object(Key::new(call.kind.resource().clone(), tenant.clone(), namespace, name));
        }
    }
    let index = index_of(selection);
    let everything = selection.is_everything();
    // What most lists are: all there is, of one tenant.
    if let (true, Some(tenant)) = (everything, &call.tenant) {
        let options = ListOptions { after: after.clone(), limit: (limit > 0).then_some(limit), at, index };
        if let Some(values) = call.app.objects.values(&scope, &options) {
            let values = values.map_err(|_| Gone)?;
            let last = values.items.last().and_then(|v| v.key(call.kind.resource()));
            let item = |value| Item { tenant: tenant.clone(), value };
            return Ok(Page {
                items: values.items.into_iter().map(item).collect(),
                revision: values.revision,
                more: values.more,
                remaining: values.remaining,
                last,
            });
        }
    }
    let mut page =
        Page { items: Vec::new(), revision: Revision::ZERO, more: false, remaining: None, last: None };
    loop {
        let chunk = match (everything, limit) {
            (true, 0) => None,
            (true, n) => Some(n - page.items.len()),
            (false, _) => Some(SCAN_CHUNK),
        };
        let listing = call
            .app
            .objects
            .list(&scope, &ListOptions { after: after.clone(), limit: chunk, at, index })
            .map_err(|_| Gone)?;
        page.revision = listing.revision;
        at = Some(listing.revision);
        page.more = listing.more;
        page.remaining = listing.remaining;
        for (key, value) in listing.items {
            if everything || selection.matches(&key, &value) {
                if limit > 0 && page.items.len() == limit {
                    page.more = true;
                    return Ok(page);
                }
                page.items.push(Item { tenant: key.tenant.clone(), value });
                page.last = Some(key.clone());
            }
            after = Some(key);
        }
        if !page.more || (everything && limit > 0 && page.items.len() >= limit) {
            return Ok(page);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continue_tokens_survive_and_forgeries_are_refused() {
        let token = Continue { rv: 7, tenant: String::new(), namespace: "a".into(), name: "b".into() };
        let back = Continue::parse(&token.encode()).unwrap();
        assert_eq!((back.rv, back.namespace.as_str(), back.name.as_str()), (7, "a", "b"));
        for bad in [
            "",
            "x",
            "e30",
            &URL_SAFE_NO_PAD.encode(r#"{"rv":1,"name":"a\u0000b"}"#),
            &URL_SAFE_NO_PAD.encode(r#"{"rv":-1,"name":"a"}"#),
        ] {
            assert_eq!(Continue::parse(bad).unwrap_err().code, 400, "{bad}");
        }
    }
}
