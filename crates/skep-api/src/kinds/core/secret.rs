//! Secret.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;

use super::shared;
use crate::context::Context;
use crate::field::{Errors, Path};
use crate::kind::{Fields, Kind, KindInfo};
use crate::meta;
use crate::table::{Cell, Column};

/// All values together, as upstream limits them: what etcd and the agents' caches are sized for.
const MAX_DATA_BYTES: usize = 1024 * 1024;

/// The type when the user names none.
const OPAQUE: &str = "Opaque";
/// Names the account that a token secret belongs to.
const ACCOUNT_NAME_ANNOTATION: &str = "kubernetes.io/service-account.name";

fn secret_type(secret: &Secret) -> &str {
    secret.type_.as_deref().unwrap_or_default()
}

/// The key must be there and hold a JSON object. The content itself is never repeated.
fn validate_json_object(
    data: &BTreeMap<String, ByteString>,
    key: &str,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let Some(value) = data.get(key) else {
        errors.required(&path.key(key), "");
        return;
    };
    if let Err(detail) = shared::json_object(&value.0) {
        errors.invalid(&path.key(key), "<secret contents redacted>", &detail);
    }
}

/// What each type must hold.
fn validate_type(secret: &Secret, data: &BTreeMap<String, ByteString>, path: &Path<'_>, errors: &mut Errors) {
    match secret_type(secret) {
        "kubernetes.io/service-account-token" => {
            let annotations = secret.metadata.annotations.as_ref();
            if annotations.and_then(|a| a.get(ACCOUNT_NAME_ANNOTATION)).is_none_or(String::is_empty) {
                let meta = Path::root("metadata");
                errors.required(&meta.child("annotations").key(ACCOUNT_NAME_ANNOTATION), "");
            }
        }
        "kubernetes.io/dockercfg" => validate_json_object(data, ".dockercfg", path, errors),
        "kubernetes.io/dockerconfigjson" => validate_json_object(data, ".dockerconfigjson", path, errors),
        // Either may be empty, but one must be there.
        "kubernetes.io/basic-auth" if !data.contains_key("username") && !data.contains_key("password") => {
            errors.required(&path.key("username"), "");
            errors.required(&path.key("password"), "");
        }
        "kubernetes.io/ssh-auth" if data.get("ssh-privatekey").is_none_or(|v| v.0.is_empty()) => {
            errors.required(&path.key("ssh-privatekey"), "");
        }
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"] {
                if !data.contains_key(key) {
                    errors.required(&path.key(key), "");
                }
            }
        }
        _ => {}
    }
}

impl Kind for Secret {
    fn info() -> KindInfo {
        KindInfo::of::<Secret>().select("type")
    }

    fn set_defaults(&mut self) {
        if secret_type(self).is_empty() {
            self.type_ = Some(OPAQUE.to_owned());
        }
        // Plain text is for writing only: it is never stored nor shown.
        if let Some(text) = self.string_data.take() {
            let data = self.data.get_or_insert_default();
            data.extend(text.into_iter().map(|(key, value)| (key, ByteString(value.into_bytes()))));
        }
        self.data.take_if(|d| d.is_empty());
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        static NO_DATA: BTreeMap<String, ByteString> = BTreeMap::new();
        let path = Path::root("data");
        let data = self.data.as_ref().unwrap_or(&NO_DATA);
        let mut total_bytes = 0;
        for (key, value) in data {
            meta::validate_config_key(key, &path.key(key), errors);
            total_bytes += value.0.len();
        }
        if total_bytes > MAX_DATA_BYTES {
            errors.too_long(&path, MAX_DATA_BYTES);
        }
        validate_type(self, data, &path, errors);
    }

    fn validate_update(&self, old: &Self, cx: &Context<'_>, errors: &mut Errors) {
        if self.type_ != old.type_ {
            errors.invalid(&Path::root("type"), secret_type(self), shared::IMMUTABLE);
        }
        if old.immutable == Some(true) {
            let detail = "field is immutable when `immutable` is set";
            if self.immutable != Some(true) {
                errors.forbidden(&Path::root("immutable"), detail);
            }
            if self.data != old.data {
                errors.forbidden(&Path::root("data"), detail);
            }
        }
        self.validate(cx, errors);
    }

    fn fields(&self, fields: &mut Fields) {
        fields.add("type", secret_type(self));
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::string("Type", "What the secret is for."),
            Column::string("Data", "The number of keys."),
            Column::AGE,
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        vec![
            meta::name_cell(&self.metadata),
            secret_type(self).into(),
            self.data.as_ref().map_or(0, BTreeMap::len).into(),
            meta::age_cell(&self.metadata, now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use serde_json::{Value, json};

    fn of_type(kind: &str, text: Value) -> Value {
        json!({"metadata": {"name": "s"}, "type": kind, "stringData": text})
    }

    #[test]
    fn text_becomes_data_and_wins() {
        let json =
            json!({"metadata": {"name": "s"}, "data": {"a": "eA==", "b": "eA=="}, "stringData": {"a": "y"}});
        let secret: Secret = defaulted(&json);
        let data = secret.data.unwrap();
        assert_eq!((data["a"].0.as_slice(), data["b"].0.as_slice()), (b"y".as_slice(), b"x".as_slice()));
        assert_eq!(secret.string_data, None);
        assert_eq!(secret.type_.as_deref(), Some("Opaque"));
        assert_eq!(row::<Secret>(&json)[..3], [json!("s"), json!("Opaque"), json!(2)]);
    }

    #[test]
    fn types_have_required_keys() {
        let account = with(
            &of_type("kubernetes.io/service-account-token", json!({})),
            "/metadata/annotations",
            json!({ACCOUNT_NAME_ANNOTATION: "default"}),
        );
        let redacted = r#"Invalid value: "<secret contents redacted>""#;
        let table: Vec<(Value, Vec<String>)> = vec![
            (of_type("", json!({"any": "thing"})), vec![]),
            (of_type("example.com/own", json!({})), vec![]),
            (account, vec![]),
            (
                of_type("kubernetes.io/service-account-token", json!({})),
                vec!["metadata.annotations[kubernetes.io/service-account.name]: Required value".into()],
            ),
            (of_type("kubernetes.io/dockercfg", json!({".dockercfg": "{}"})), vec![]),
            (of_type("kubernetes.io/dockercfg", json!({})), vec!["data[.dockercfg]: Required value".into()]),
            (
                of_type("kubernetes.io/dockerconfigjson", json!({".dockerconfigjson": "bad"})),
                vec![format!(
                    "data[.dockerconfigjson]: {redacted}: invalid character 'b' looking for beginning of value"
                )],
            ),
            (
                of_type("kubernetes.io/dockerconfigjson", json!({".dockerconfigjson": ""})),
                vec![format!("data[.dockerconfigjson]: {redacted}: unexpected end of JSON input")],
            ),
            (of_type("kubernetes.io/basic-auth", json!({"password": ""})), vec![]),
            (
                of_type("kubernetes.io/basic-auth", json!({})),
                vec!["data[username]: Required value".into(), "data[password]: Required value".into()],
            ),
            (
                of_type("kubernetes.io/ssh-auth", json!({"ssh-privatekey": ""})),
                vec!["data[ssh-privatekey]: Required value".into()],
            ),
            (of_type("kubernetes.io/ssh-auth", json!({"ssh-privatekey": "k"})), vec![]),
            (
                of_type("kubernetes.io/tls", json!({"tls.crt": ""})),
                vec!["data[tls.key]: Required value".into()],
            ),
        ];
        for (json, expected) in table {
            assert_eq!(create_errors::<Secret>(&json), expected, "{json}");
        }
    }

    #[test]
    fn keys_and_size() {
        check_create_table::<Secret>(
            &of_type("", json!({"a": "b"})),
            &[
                ("/stringData/..", json!("x"), &[r#"data[..]: Invalid value: "..": must not be '..'"#]),
                (
                    "/stringData/big",
                    json!("x".repeat(MAX_DATA_BYTES)),
                    &["data: Too long: may not be more than 1048576 bytes"],
                ),
            ],
        );
    }

    #[test]
    fn changes() {
        let old = of_type("x.io/a", json!({"a": "b"}));
        let fixed = with(&old, "/immutable", json!(true));
        let detail = "field is immutable when `immutable` is set";
        let table: &[(&Value, &str, Value, &[&str])] = &[
            (&old, "/stringData/a", json!("c"), &[]),
            (&old, "/type", json!("x.io/b"), &[r#"type: Invalid value: "x.io/b": field is immutable"#]),
            (&fixed, "/metadata/labels", json!({"a": "b"}), &[]),
            (&fixed, "/stringData/a", json!("c"), &[&format!("data: Forbidden: {detail}")]),
            (&fixed, "/immutable", json!(null), &[&format!("immutable: Forbidden: {detail}")]),
        ];
        for (old, pointer, value, expected) in table {
            let errors = update_errors::<Secret>(old, &with(old, pointer, value.clone()), "");
            assert_eq!(errors, *expected, "{pointer} = {value}");
        }
    }
}
