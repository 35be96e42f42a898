//! IngressClass.

use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{IngressClass, IngressClassParametersReference};

use crate::context::Context;
use crate::field::{Errors, Path};
use crate::kind::{Kind, KindInfo};
use crate::kinds::checks;
use crate::meta;
use crate::table::{Cell, Column};

/// The longest name of a controller: upstream's limit.
const CONTROLLER_MAX_BYTES: usize = 250;
const DEFAULT_ANNOTATION: &str = "ingressclass.kubernetes.io/is-default-class";

impl Kind for IngressClass {
    fn info() -> KindInfo {
        KindInfo::of::<IngressClass>()
    }

    fn set_defaults(&mut self) {
        if let Some(parameters) = self.spec.as_mut().and_then(|s| s.parameters.as_mut()) {
            parameters.scope.get_or_insert_with(|| "Cluster".to_owned());
        }
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        let path = Path::root("spec");
        let controller = controller(self);
        if controller.len() > CONTROLLER_MAX_BYTES {
            errors.too_long(&path.child("controller"), CONTROLLER_MAX_BYTES);
        }
        checks::domain_prefixed_path(controller, &path.child("controller"), errors);
        if let Some(parameters) = self.spec.as_ref().and_then(|s| s.parameters.as_ref()) {
            validate_parameters(parameters, &path.child("parameters"), errors);
        }
    }

    fn validate_update(&self, old: &Self, cx: &Context<'_>, errors: &mut Errors) {
        let path = Path::root("spec");
        checks::immutable(&controller(self), &controller(old), &path.child("controller"), errors);
        self.validate(cx, errors);
    }

    fn generation_changed(&self, old: Option<&Self>) -> Option<bool> {
        Some(old.is_none_or(|old| !meta::same(&self.spec, &old.spec)))
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::string("Controller", "The controller that serves ingresses of this class."),
            Column::string("Parameters", "The object with further parameters of the controller."),
            Column::AGE,
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let mut name = self.metadata.name.clone().unwrap_or_default();
        let annotations = self.metadata.annotations.as_ref();
        if annotations.and_then(|a| a.get(DEFAULT_ANNOTATION)).is_some_and(|v| v == "true") {
            name.push_str(" (default)");
        }
        let parameters = self.spec.as_ref().and_then(|s| s.parameters.as_ref());
        let parameters = match parameters {
            None => "<none>".to_owned(),
            Some(IngressClassParametersReference { api_group: Some(group), kind, name, .. }) => {
                format!("{kind}.{group}/{name}")
            }
            Some(IngressClassParametersReference { kind, name, .. }) => format!("{kind}/{name}"),
        };
        vec![name.into(), controller(self).into(), parameters.into(), meta::age_cell(&self.metadata, now)]
    }
}

fn controller(class: &IngressClass) -> &str {
    class.spec.as_ref().and_then(|s| s.controller.as_deref()).unwrap_or_default()
}

/// A reference by group, kind and name; what else it says is checked by the caller.
pub(super) fn validate_reference(
    group: Option<&str>,
    kind: &str,
    name: &str,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if let Some(group) = group {
        for message in meta::dns1123_subdomain_errors(group) {
            errors.invalid(&path.child("apiGroup"), group, &message);
        }
    }
    path_segment(kind, &path.child("kind"), errors);
    path_segment(name, &path.child("name"), errors);
}

/// A text that is there and fits into a path.
pub(super) fn path_segment(text: &str, path: &Path<'_>, errors: &mut Errors) {
    if text.is_empty() {
        errors.required(path, "");
        return;
    }
    for message in meta::path_segment_errors(text, false) {
        errors.invalid(path, text, &message);
    }
}

fn validate_parameters(parameters: &IngressClassParametersReference, path: &Path<'_>, errors: &mut Errors) {
    let group = parameters.api_group.as_deref();
    validate_reference(group, &parameters.kind, &parameters.name, path, errors);
    let namespace = path.child("namespace");
    match (parameters.scope.as_deref(), &parameters.namespace) {
        (None, _) => errors.required(&path.child("scope"), ""),
        (Some("Namespace"), None) => {
            errors.required(&namespace, "`parameters.scope` is set to 'Namespace'");
        }
        (Some("Namespace"), Some(name)) => {
            for message in meta::dns1123_label_errors(name) {
                errors.invalid(&namespace, name, &message);
            }
        }
        (Some("Cluster"), Some(_)) => {
            errors.forbidden(&namespace, "`parameters.scope` is set to 'Cluster'");
        }
        (Some("Cluster"), None) => {}
        (Some(scope), _) => {
            errors.not_supported(&path.child("scope"), scope, &["Cluster", "Namespace"]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::tables::{check_create, check_update, defaulted, object, patched, row};
    use serde_json::{Value, json};

    #[test]
    fn classes() {
        let good = json!({
            "metadata": {"name": "c", "creationTimestamp": "1970-01-01T00:00:00Z"},
            "spec": {"controller": "a.io/b", "parameters": {"apiGroup": "g.io", "kind": "K", "name": "n"}},
        });
        let parameters = |patch: Value| json!({"spec": {"parameters": patch}});
        let table = [
            (json!({"spec": null}), "spec.controller: Required value"),
            (
                json!({"spec": {"controller": format!("a.io/{}", "b".repeat(246))}}),
                "spec.controller: Too long: may not be more than 250 bytes",
            ),
            (parameters(json!({"apiGroup": null})), ""),
            (
                parameters(json!({"apiGroup": "A"})),
                r#"spec.parameters.apiGroup: Invalid value: "A": a lowercase RFC 1123"#,
            ),
            (parameters(json!({"kind": ""})), "spec.parameters.kind: Required value"),
            (
                parameters(json!({"kind": "a/b"})),
                r#"spec.parameters.kind: Invalid value: "a/b": may not contain '/'"#,
            ),
            (parameters(json!({"name": null})), "spec.parameters.name: Required value"),
            (
                parameters(json!({"scope": "x"})),
                r#"spec.parameters.scope: Unsupported value: "x": supported values: "Cluster", "Namespace""#,
            ),
            (
                parameters(json!({"scope": "Namespace"})),
                "spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'",
            ),
            (parameters(json!({"scope": "Namespace", "namespace": "n"})), ""),
            (
                parameters(json!({"scope": "Namespace", "namespace": "a.b"})),
                r#"spec.parameters.namespace: Invalid value: "a.b": must not contain dots"#,
            ),
            (
                parameters(json!({"namespace": "n"})),
                "spec.parameters.namespace: Forbidden: `parameters.scope` is set to 'Cluster'",
            ),
        ];
        check_create::<IngressClass>(&good, &table);
        check_update::<IngressClass>(&good, "", &table[2..]);
        check_update::<IngressClass>(
            &good,
            "",
            &[(
                json!({"spec": {"controller": "a.io/c"}}),
                r#"spec.controller: Invalid value: "a.io/c": field is immutable"#,
            )],
        );
        assert_eq!(defaulted::<IngressClass>(&good)["spec"]["parameters"]["scope"], "Cluster");
        assert_eq!(row::<IngressClass>(&good), json!(["c", "a.io/b", "K.g.io/n", "60s"]));
        let plain = json!({
            "metadata": {"annotations": {DEFAULT_ANNOTATION: "true"}},
            "spec": {"parameters": {"apiGroup": null}},
        });
        assert_eq!(
            row::<IngressClass>(&patched(&good, &plain)),
            json!(["c (default)", "a.io/b", "K/n", "60s"])
        );
        assert_eq!(row::<IngressClass>(&json!({})), json!(["", "", "<none>", "<unknown>"]));
        let old: IngressClass = object(&good);
        let changed: IngressClass = object(&patched(&good, &parameters(json!({"name": "m"}))));
        assert_eq!(old.generation_changed(Some(&old)), Some(false));
        assert_eq!(changed.generation_changed(Some(&old)), Some(true));
    }
}
