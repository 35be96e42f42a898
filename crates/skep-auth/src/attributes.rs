//! What a request wants to do, as the authorizers see it.

use skep_api::UserInfo;
pub use skep_base::selector::FieldRequirement;

/// What is asked for, and by whom. Borrowed, so that a request can be judged without copying anything.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// Who asks.
    pub user: &'a UserInfo,
    /// `get`, `list`, `create`, …; for paths the HTTP method in lower case.
    pub verb: &'a str,
    /// Whether this is about a resource; else it is about `path`.
    pub resource_request: bool,
    /// The API group; empty for core.
    pub group: &'a str,
    /// The version; `*` where it does not matter.
    pub version: &'a str,
    /// The plural resource name.
    pub resource: &'a str,
    /// The subresource; empty for the object itself.
    pub subresource: &'a str,
    /// The namespace; empty for cluster-scoped resources and for requests across namespaces.
    pub namespace: &'a str,
    /// The object's name; empty when the request is not about a single one.
    pub name: &'a str,
    /// The path of a request that is not about a resource.
    pub path: &'a str,
    /// The field selector of a list, watch or deletecollection.
    pub field_selector: &'a [FieldRequirement],
}

impl<'a> Attributes<'a> {
    /// A request about a resource; set the other fields with struct update.
    #[must_use]
    pub fn resource(user: &'a UserInfo, verb: &'a str, group: &'a str, resource: &'a str) -> Attributes<'a> {
        Attributes {
            user,
            verb,
            resource_request: true,
            group,
            version: "*",
            resource,
            subresource: "",
            namespace: "",
            name: "",
            path: "",
            field_selector: &[],
        }
    }

    /// A request about a path.
    #[must_use]
    pub fn path(user: &'a UserInfo, verb: &'a str, path: &'a str) -> Attributes<'a> {
        Attributes { resource_request: false, path, ..Attributes::resource(user, verb, "", "") }
    }

    /// In this namespace.
    #[must_use]
    pub fn in_namespace(self, namespace: &'a str) -> Attributes<'a> {
        Attributes { namespace, ..self }
    }

    /// About the object of this name.
    #[must_use]
    pub fn named(self, name: &'a str) -> Attributes<'a> {
        Attributes { name, ..self }
    }

    /// About this subresource.
    #[must_use]
    pub fn subresource(self, subresource: &'a str) -> Attributes<'a> {
        Attributes { subresource, ..self }
    }
}

/// A text in double quotes, escaped as Go's `%q` does, which is how messages show names.
#[must_use]
pub fn quoted(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || c == '\u{7f}' => {
                // Writing to a String does not fail.
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A list of texts as Go's `%q` shows one: `["a" "b"]`.
pub(crate) fn quoted_list<S: AsRef<str>>(list: &[S]) -> String {
    let items: Vec<String> = list.iter().map(|s| quoted(s.as_ref())).collect();
    format!("[{}]", items.join(" "))
}

/// What a denied request is told, in upstream's words, without the `… is forbidden:` that the API server
/// puts in front: `User "x" cannot list resource "pods" in API group "" in the namespace "ns"`. `reason` is
/// the authorizers' text; it may be empty.
#[must_use]
pub fn forbidden_message(a: &Attributes<'_>, reason: &str) -> String {
    let user = quoted(&a.user.name);
    let mut message = if !a.resource_request {
        format!("User {user} cannot {} path {}", a.verb, quoted(a.path))
    } else {
        let resource = if a.subresource.is_empty() {
            quoted(a.resource)
        } else {
            quoted(&format!("{}/{}", a.resource, a.subresource))
        };
        let scope = if a.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {}", quoted(a.namespace))
        };
        format!("User {user} cannot {} resource {resource} in API group {} {scope}", a.verb, quoted(a.group))
    };
    // What the client sent must not come back as markup.
    message = message.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    if !reason.is_empty() {
        message.push_str(": ");
        message.push_str(reason);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_upstreams() {
        let user = UserInfo { name: "jane".to_owned(), ..UserInfo::default() };
        let a = Attributes::resource(&user, "list", "", "pods");
        assert_eq!(
            forbidden_message(&a.in_namespace("ns"), ""),
            r#"User "jane" cannot list resource "pods" in API group "" in the namespace "ns""#
        );
        assert_eq!(
            forbidden_message(&Attributes { group: "apps", subresource: "scale", ..a }, "why"),
            r#"User "jane" cannot list resource "pods/scale" in API group "apps" at the cluster scope: why"#
        );
        assert_eq!(
            forbidden_message(&Attributes::path(&user, "get", "/<x>"), ""),
            r#"User "jane" cannot get path "/&lt;x&gt;""#
        );
    }

    #[test]
    fn quotes_like_go() {
        assert_eq!(quoted("a\"b\\c\n\u{1}ä"), r#""a\"b\\c\n\x01ä""#);
        assert_eq!(quoted_list(&["a", "b"]), r#"["a" "b"]"#);
    }
}
