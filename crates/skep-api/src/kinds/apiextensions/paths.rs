//! Paths to fields inside custom resources, as definitions name them.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrBool,
};

use crate::field::{Errors, Path};

/// A path in dot notation; whether the field exists is not asked.
pub(super) fn validate_simple(text: &str, path: &Path<'_>, errors: &mut Errors) {
    if text.is_empty() {
        errors.invalid(path, text, "must not be empty");
    } else if !text.starts_with('.') {
        errors.invalid(path, text, "must be a simple json path starting with .");
    }
}

/// The pieces between the delimiters `.`, `[`, `]`, and the delimiters themselves. A quoted piece may
/// contain delimiters.
fn tokens(text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let len = if matches!(first, '.' | '[' | ']') {
            1
        } else if first == '\'' {
            let bytes = rest.as_bytes();
            (1..bytes.len())
                .find(|&i| bytes[i] == b'\'' && bytes[i - 1] != b'\\')
                .map_or(rest.len(), |i| i + 1)
        } else {
            rest.find(['.', '[', ']']).unwrap_or(rest.len())
        };
        let (token, after) = rest.split_at(len);
        tokens.push(token);
        rest = after;
    }
    tokens
}

/// Follows a path through a schema. Gives the names on the way and the schema of the field.
///
/// # Errors
/// Why the path leads nowhere, as clients are told.
pub(super) fn follow<'s>(
    text: &str,
    schema: &'s JSONSchemaProps,
    brackets: bool,
) -> Result<(Vec<String>, &'s JSONSchemaProps), String> {
    const END: &str = "unexpected end of JSON path";
    let mut names = Vec::new();
    let mut schema = schema;
    let mut tokens = tokens(text).into_iter();
    while let Some(token) = tokens.next() {
        let name = match token {
            "[" if !brackets => return Err("array notation is not allowed".to_owned()),
            "[" => {
                let quoted = tokens.next().ok_or(END)?;
                let inner = quoted.strip_prefix('\'').and_then(|q| q.strip_suffix('\''));
                let Some(inner) = inner.filter(|_| quoted.len() >= 2) else {
                    return Err(format!("expected single quoted string but got {quoted}"));
                };
                let closing = tokens.next().ok_or(END)?;
                if closing != "]" {
                    return Err(format!("expected ] but got {closing}"));
                }
                inner.replace("\\'", "'").replace("\\\\", "\\")
            }
            "." => tokens.next().ok_or(END)?.to_owned(),
            other => return Err(format!("expected [ or . but got: {other}")),
        };
        const NOWHERE: &str = "does not refer to a valid field";
        schema = match (&schema.properties, &schema.additional_properties) {
            (Some(properties), _) if !properties.is_empty() => properties.get(&name).ok_or(NOWHERE)?,
            (_, Some(JSONSchemaPropsOrBool::Schema(schema))) => schema,
            _ => return Err(NOWHERE.to_owned()),
        };
        names.push(name);
    }
    Ok((names, schema))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_followed() {
        let schema: JSONSchemaProps = serde_json::from_value(serde_json::json!({
            "properties": {"spec": {"properties": {"a.b": {"type": "string"}, "c": {"additionalProperties": {"type": "integer"}}}}},
        }))
        .unwrap();
        let found = |path: &str, brackets| {
            follow(path, &schema, brackets)
                .map(|(names, schema)| (names.join("/"), schema.type_.clone().unwrap_or_default()))
        };
        assert_eq!(found(".spec['a.b']", true), Ok(("spec/a.b".into(), "string".into())));
        assert_eq!(found(".spec.c.x", false), Ok(("spec/c/x".into(), "integer".into())));
        let table = [
            (".spec['a.b']", false, "array notation is not allowed"),
            (".spec.d", true, "does not refer to a valid field"),
            (".spec.c.x.y", true, "does not refer to a valid field"),
            ("spec", true, "expected [ or . but got: spec"),
            (".", true, "unexpected end of JSON path"),
            (".spec[", true, "unexpected end of JSON path"),
            (".spec[x]", true, "expected single quoted string but got x"),
            (".spec['c'.", true, "expected ] but got ."),
            (".spec['c", true, "expected single quoted string but got 'c"),
        ];
        for (path, brackets, why) in table {
            assert_eq!(found(path, brackets), Err(why.to_owned()), "{path}");
        }
    }
}
