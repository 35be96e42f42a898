//! How a webhook is reached, for the kinds that configure one.

use std::collections::BTreeSet;

use crate::field::{Errors, Path};
use crate::meta;

/// The port of a service when none is said.
pub(super) const DEFAULT_PORT: i32 = 443;

/// What all messages about URLs end with.
const FORM: &str = "; desired format: https://host[/path]";

/// A service that answers.
pub(super) struct Service<'a> {
    pub(super) name: &'a str,
    pub(super) namespace: &'a str,
    pub(super) path: Option<&'a str>,
    pub(super) port: i32,
}

/// Either a URL or a service.
pub(super) fn validate_client(
    url: Option<&str>,
    service: Option<Service<'_>>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    match (url, service) {
        (Some(url), None) => validate_url(url, &path.child("url"), errors),
        (None, Some(service)) => validate_service(&service, &path.child("service"), errors),
        _ => errors.required(path, "exactly one of url or service is required"),
    }
}

/// The parts of a URL that the rules are about, as text.
struct Url<'a> {
    scheme: &'a str,
    user: Option<&'a str>,
    host: &'a str,
    query: &'a str,
    fragment: &'a str,
}

/// Takes a URL apart as Go does; `Err` says what is wrong with it.
fn parse(text: &str) -> Result<Url<'_>, String> {
    let fail = |why: &str| Err(format!("parse {text:?}: {why}"));
    if text.bytes().any(|b| b < b' ' || b == 0x7f) {
        return fail("net/url: invalid control character in URL");
    }
    let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let scheme_len =
        rest.find(|c: char| !(c.is_ascii_alphanumeric() || "+-.".contains(c))).unwrap_or(rest.len());
    let (scheme, rest) = match rest[scheme_len..].strip_prefix(':') {
        Some(_) if scheme_len == 0 => return fail("missing protocol scheme"),
        Some(after) if rest.starts_with(|c: char| c.is_ascii_alphabetic()) => (&rest[..scheme_len], after),
        Some(_) => return fail("first path segment in URL cannot contain colon"),
        None => ("", rest),
    };
    let authority = rest.strip_prefix("//").unwrap_or_default();
    let authority = authority.split('/').next().unwrap_or_default();
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    let bracketed = host.rfind(']').map_or(0, |i| i + 1);
    if let Some((_, port)) = host[bracketed..].split_once(':')
        && !port.bytes().all(|b| b.is_ascii_digit())
    {
        return fail(&format!("invalid port {:?} after host", format!(":{port}")));
    }
    let mut escapes = rest.match_indices('%').map(|(i, _)| rest.get(i..i + 3).unwrap_or(&rest[i..]));
    let escaped = |e: &&str| e.len() == 3 && e[1..].bytes().all(|b| b.is_ascii_hexdigit());
    if let Some(bad) = escapes.find(|e| !escaped(e)) {
        return fail(&format!("invalid URL escape {bad:?}"));
    }
    Ok(Url { scheme, user, host, query, fragment })
}

fn validate_url(text: &str, path: &Path<'_>, errors: &mut Errors) {
    let url = match parse(text) {
        Ok(url) => url,
        Err(why) => {
            errors.required(path, &format!("url must be a valid URL: {why}{FORM}"));
            return;
        }
    };
    if !url.scheme.eq_ignore_ascii_case("https") {
        errors.invalid(path, url.scheme, &format!("'https' is the only allowed URL scheme{FORM}"));
    }
    if url.host.is_empty() {
        errors.invalid(path, url.host, &format!("host must be specified{FORM}"));
    }
    if let Some(user) = url.user {
        errors.invalid(path, user, "user information is not permitted in the URL");
    }
    if !url.fragment.is_empty() {
        errors.invalid(path, url.fragment, "fragments are not permitted in the URL");
    }
    if !url.query.is_empty() {
        errors.invalid(path, url.query, "query parameters are not permitted in the URL");
    }
}

fn validate_service(service: &Service<'_>, path: &Path<'_>, errors: &mut Errors) {
    // Upstream hands name and namespace over in the wrong order; the errors are about the right field only
    // because both are checked in the same way.
    if service.namespace.is_empty() {
        errors.required(&path.child("name"), "");
    }
    if service.name.is_empty() {
        errors.required(&path.child("namespace"), "");
    }
    let port = meta::port_num_errors(service.port.into());
    if !port.is_empty() {
        let detail = format!("port is not valid: {}", port.join(", "));
        errors.invalid(&path.child("port"), service.port, &detail);
    }
    let Some(url_path) = service.path.filter(|p| !matches!(*p, "" | "/")) else { return };
    let path = path.child("path");
    if url_path == "//" {
        errors.invalid(&path, url_path, "segment[0] may not be empty");
        return;
    }
    if !url_path.starts_with('/') {
        errors.invalid(&path, url_path, "must start with a '/'");
    }
    // The first character is the slash that must be there.
    let mut rest = url_path.chars();
    rest.next();
    let rest = rest.as_str();
    for (i, step) in rest.strip_suffix('/').unwrap_or(rest).split('/').enumerate() {
        if step.is_empty() {
            errors.invalid(&path, url_path, &format!("segment[{i}] may not be empty"));
            continue;
        }
        for message in meta::dns1123_subdomain_errors(step) {
            errors.invalid(&path, url_path, &format!("segment[{i}]: {message}"));
        }
    }
}

/// Checks a list of versions of a review; says whether one of `known` is among them.
pub(super) fn validate_versions(
    versions: &[String],
    known: &[&str],
    path: &Path<'_>,
    errors: &mut Errors,
) -> bool {
    let mut seen = BTreeSet::new();
    let mut found = false;
    for (i, version) in versions.iter().enumerate() {
        if !seen.insert(version) {
            errors.invalid(&path.index(i), version, "duplicate version");
            continue;
        }
        for message in meta::dns1035_label_errors(version) {
            errors.invalid(&path.index(i), version, &message);
        }
        found |= known.contains(&version.as_str());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(run: impl FnOnce(&Path<'_>, &mut Errors), want: &str) {
        let mut errors = Errors::new();
        run(&Path::root("c"), &mut errors);
        let text = if errors.is_empty() { String::new() } else { errors.to_string() };
        assert!(text.starts_with(want) && text.is_empty() == want.is_empty(), "got {text}, want {want}");
    }

    #[test]
    fn urls() {
        let table = [
            ("https://a.io", ""),
            ("https://[::1]:443/x%20y", ""),
            (
                "http://a.io",
                r#"c.url: Invalid value: "http": 'https' is the only allowed URL scheme; desired"#,
            ),
            ("https:///x", r#"c.url: Invalid value: "": host must be specified"#),
            ("a.io", r#"[c.url: Invalid value: "": 'https' is the only"#),
            ("https://u:p@a.io", r#"c.url: Invalid value: "u:p": user information is not permitted"#),
            ("https://a.io#f", r#"c.url: Invalid value: "f": fragments are not permitted"#),
            ("https://a.io?q", r#"c.url: Invalid value: "q": query parameters are not permitted"#),
            (
                "https://a.io:x",
                r#"c.url: Required value: url must be a valid URL: parse "https://a.io:x": invalid port ":x""#,
            ),
            (
                "https://a.io/%zz",
                r#"c.url: Required value: url must be a valid URL: parse "https://a.io/%zz": invalid URL escape "%zz""#,
            ),
            ("https://a.io/%é", "c.url: Required value"),
            ("::", "c.url: Required value: url must be a valid URL"),
        ];
        for (url, want) in table {
            check(|path, errors| validate_client(Some(url), None, path, errors), want);
        }
        check(
            |path, errors| validate_client(None, None, path, errors),
            "c: Required value: exactly one of url or service is required",
        );
    }

    #[test]
    fn services() {
        let table = [
            ("s", "n", None, 443, ""),
            ("s", "n", Some("/a/b/"), 443, ""),
            ("s", "", None, 443, "c.service.name: Required value"),
            ("", "n", None, 443, "c.service.namespace: Required value"),
            (
                "s",
                "n",
                None,
                0,
                "c.service.port: Invalid value: 0: port is not valid: must be between 1 and 65535",
            ),
            ("s", "n", Some("//"), 1, r#"c.service.path: Invalid value: "//": segment[0] may not be empty"#),
            ("s", "n", Some("x/y"), 1, r#"[c.service.path: Invalid value: "x/y": must start with a '/'"#),
            (
                "s",
                "n",
                Some("/a//b"),
                1,
                r#"c.service.path: Invalid value: "/a//b": segment[1] may not be empty"#,
            ),
            ("s", "n", Some("/A"), 1, r#"c.service.path: Invalid value: "/A": segment[0]: a lowercase"#),
        ];
        for (name, namespace, path, port, want) in table {
            let service = Service { name, namespace, path, port };
            check(|at, errors| validate_client(None, Some(service), at, errors), want);
        }
    }
}
