//! Entry points for fuzzers: each takes arbitrary bytes, checks what must hold for any input, and returns.
//!
//! `fuzz/` at the root of the repository has a `cargo fuzz` target for each; the tests here run them for some
//! seconds on mutations of good input, from a seed that a failure prints.

use http::Method;
use jiff::Timestamp;
use skep_api::{Context, DynKind, Registry, UserInfo};
use skep_base::selector::{FieldSelector, LabelSelector};

use crate::request::{Options, Route, Target};
use crate::rest::read::Continue;
use crate::rest::write::{MAX_DEPTH, yaml_to_json};

/// A method, a space, and a path with a query. A path that is understood names nothing that could be taken for
/// another path.
pub fn path(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (method, rest) = text.split_once(' ').unwrap_or(("GET", &text));
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let options = Options::parse(query);
    let Ok(method) = Method::from_bytes(method.as_bytes()) else { return };
    let watch = options.is_ok_and(|o| o.watch);
    let Ok(route) = Route::parse(&method, path, watch) else { return };
    let Target::Resource(of) = route.target else { return };
    for part in [&of.group, &of.version, &of.resource, &of.namespace, &of.name, &of.subresource] {
        assert!(!part.contains(['/', '\0']), "{part:?} is not one segment");
        assert!(!matches!(part.as_str(), "." | ".."), "{part:?} leads elsewhere");
    }
    assert!(!of.resource.is_empty() && !of.version.is_empty());
}

/// A label selector and a field selector. What is understood is written so that it is understood again.
pub fn selectors(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(selector) = text.parse::<LabelSelector>() {
        let written = selector.to_string();
        let again = written.parse::<LabelSelector>();
        assert!(again.is_ok_and(|a| a.to_string() == written), "{written:?} is not read as it was written");
    }
    if let Ok(selector) = text.parse::<FieldSelector>() {
        let _ = selector.requirements().len();
    }
}

/// The token of a next page.
pub fn continue_token(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(token) = Continue::parse(text) {
        let again = Continue::parse(&token.encode());
        assert!(again.is_ok_and(|a| a.encode() == token.encode()), "a token is not read as it was written");
    }
}

fn kind_of<'a>(registry: &'a Registry, data: &[u8]) -> Option<&'a dyn DynKind> {
    let index = usize::from(*data.first()?);
    registry.iter().nth(index % registry.iter().len()).map(AsRef::as_ref)
}

/// A byte that chooses a kind, and an object in JSON. What is read, is defaulted once and for all, can be
/// checked whatever it says, and is read back from the store as it was.
pub fn json(registry: &Registry, data: &[u8]) {
    let Some(kind) = kind_of(registry, data) else { return };
    object(kind, &data[1..]);
}

fn object(kind: &dyn DynKind, json: &[u8]) {
    if skep_patch::strict::validate_depth(json, MAX_DEPTH).is_err() {
        return;
    }
    let mut unknown = Vec::new();
    let read = kind.decode(json, &mut |path| unknown.push(skep_patch::strict::FieldPath::from(path)));
    let _ = skep_patch::strict::strict_errors(json, &unknown);
    let Ok(mut object) = read else { return };
    let user = UserInfo::default();
    let cx = Context { now: Timestamp::UNIX_EPOCH, user: &user, subresource: "" };
    let old = object.clone_box();
    kind.set_defaults(object.as_mut());
    assert!(object.same(old.as_ref()), "{}: defaulting twice is not defaulting once", kind.info().kind);
    kind.prepare_create(object.as_mut(), &cx);
    let _ = kind.validate(object.as_ref(), &cx);
    let _ = kind.validate_update(object.as_ref(), old.as_ref(), &cx);
    let _ = kind.warnings(object.as_ref(), None, &cx);
    let _ = kind.fields(object.as_ref());
    if let Ok(encoded) = object.encode() {
        let stored = kind.decode_stored(&encoded.body);
        assert!(stored.is_ok(), "{}: what was written cannot be read", kind.info().kind);
        assert!(kind.row(&encoded.body, Timestamp::UNIX_EPOCH).is_ok());
        assert!(kind.convert(&encoded.body).is_ok());
    }
}

/// A byte that chooses a kind, and an object in YAML.
pub fn yaml(registry: &Registry, data: &[u8]) {
    let Some(kind) = kind_of(registry, data) else { return };
    if let Ok(json) = yaml_to_json(&data[1..]) {
        object(kind, &json);
    }
}

/// A byte that chooses a kind, and an object in protobuf. What comes out of it is JSON.
pub fn protobuf(registry: &Registry, data: &[u8]) {
    let Some(kind) = kind_of(registry, data) else { return };
    if let Ok(decoded) = skep_proto::decode(&data[1..]) {
        assert!(serde_json::from_slice::<serde_json::Value>(&decoded.json).is_ok(), "no JSON came out");
        object(kind, &decoded.json);
    }
}

#[cfg(test)]
mod tests;
