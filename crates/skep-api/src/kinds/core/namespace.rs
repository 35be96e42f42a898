//! Namespace.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceSpec, NamespaceStatus};

use crate::context::Context;
use crate::field::{Errors, Path};
use crate::kind::{Kind, KindInfo, NameRule, Subresource, Verb};
use crate::meta;
use crate::table::{Cell, Column};

/// The label that always carries the namespace's name, so that selectors can name namespaces.
pub const NAME_LABEL: &str = "kubernetes.io/metadata.name";
/// The finalizer that the namespace controller removes once the namespace is empty.
pub const FINALIZER: &str = "kubernetes";

const ACTIVE: &str = "Active";
const TERMINATING: &str = "Terminating";

/// Namespaces are never deleted wholesale.
const VERBS: &[Verb] =
    &[Verb::Create, Verb::Delete, Verb::Get, Verb::List, Verb::Patch, Verb::Update, Verb::Watch];

/// Finalizers that need no domain in front, beyond [`FINALIZER`].
const STANDARD_FINALIZERS: &[&str] = &[FINALIZER, "orphan", "foregroundDeletion"];

/// What the first delete of a namespace does beyond setting `deletionTimestamp`: nothing new may be made
/// in it from here on.
pub fn terminate(namespace: &mut Namespace) {
    namespace.status.get_or_insert_default().phase = Some(TERMINATING.to_owned());
}

/// Whether a namespace with a `deletionTimestamp` may go: its contents are gone when no finalizer is left
/// in `spec.finalizers`. (`metadata.finalizers` are held back for every kind alike.)
#[must_use]
pub fn may_be_removed(namespace: &Namespace) -> bool {
    finalizers(namespace).is_empty()
}

fn finalizers(namespace: &Namespace) -> &[String] {
    namespace.spec.as_ref().and_then(|s| s.finalizers.as_deref()).unwrap_or_default()
}

fn phase(namespace: &Namespace) -> &str {
    namespace.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

fn label_with_name(namespace: &mut Namespace) {
    let Some(name) = namespace.metadata.name.as_ref().filter(|n| !n.is_empty()) else { return };
    let labels = namespace.metadata.labels.get_or_insert_default();
    if labels.get(NAME_LABEL) != Some(name) {
        labels.insert(NAME_LABEL.to_owned(), name.clone());
    }
}

fn validate_finalizer(name: &str, path: &Path<'_>, errors: &mut Errors) {
    meta::validate_qualified_name(name, path, errors);
    if !name.contains('/') && !STANDARD_FINALIZERS.contains(&name) {
        errors.invalid(path, name, "name is neither a standard finalizer name nor is it fully qualified");
    }
}

impl Kind for Namespace {
    fn info() -> KindInfo {
        KindInfo::of::<Namespace>()
            .short("ns")
            .names(NameRule::Label)
            .verbs(VERBS)
            .sub(Subresource::of_self("finalize", &[Verb::Update]))
            .status()
            .select("status.phase")
    }

    fn set_defaults(&mut self) {
        label_with_name(self);
        let spec = self.spec.get_or_insert_default();
        spec.finalizers.take_if(|f| f.is_empty());
        let status = self.status.get_or_insert_default();
        if status.phase.as_deref().unwrap_or_default().is_empty() {
            status.phase = Some(ACTIVE.to_owned());
        }
    }

    fn prepare_create(&mut self, _: &Context<'_>) {
        // A generated name is known only now.
        label_with_name(self);
        self.status = Some(NamespaceStatus { phase: Some(ACTIVE.to_owned()), conditions: None });
        let NamespaceSpec { finalizers } = self.spec.get_or_insert_default();
        let finalizers = finalizers.get_or_insert_default();
        if !finalizers.iter().any(|f| f == FINALIZER) {
            finalizers.push(FINALIZER.to_owned());
        }
    }

    fn prepare_update(&mut self, old: &Self, cx: &Context<'_>) {
        match cx.subresource {
            "status" => self.spec.clone_from(&old.spec),
            "finalize" => self.status.clone_from(&old.status),
            _ => {
                self.spec.clone_from(&old.spec);
                self.status.clone_from(&old.status);
            }
        }
        label_with_name(self);
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        let path = Path::root("spec");
        for finalizer in finalizers(self) {
            validate_finalizer(finalizer, &path.child("finalizers"), errors);
        }
    }

    fn validate_update(&self, _: &Self, cx: &Context<'_>, errors: &mut Errors) {
        match cx.subresource {
            "status" => {
                let (wanted, detail) = if self.metadata.deletion_timestamp.is_none() {
                    (ACTIVE, "may only be 'Active' if `deletionTimestamp` is empty")
                } else {
                    (TERMINATING, "may only be 'Terminating' if `deletionTimestamp` is not empty")
                };
                if phase(self) != wanted {
                    errors.invalid(&Path::root("status").child("Phase"), phase(self), detail);
                }
            }
            "finalize" => {
                let path = Path::root("spec");
                let path = path.child("finalizers");
                for (i, finalizer) in finalizers(self).iter().enumerate() {
                    validate_finalizer(finalizer, &path.index(i), errors);
                }
            }
            _ => self.validate(cx, errors),
        }
    }

    fn fields(&self, fields: &mut crate::kind::Fields) {
        fields.add("status.phase", phase(self));
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::string("Status", "Whether the namespace is in use or going away."),
            Column::AGE,
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        vec![meta::name_cell(&self.metadata), phase(self).into(), meta::age_cell(&self.metadata, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_new_namespace_is_active_held_and_labelled() {
        let json = json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["x.io/y"]},
            "status": {"phase": "Terminating"}});
        let ns: Namespace = created(&json);
        assert_eq!(finalizers(&ns), ["x.io/y", "kubernetes"]);
        assert_eq!(phase(&ns), "Active");
        assert_eq!(ns.metadata.labels.as_ref().unwrap()[NAME_LABEL], "a");
        let generated: Namespace = created(&json!({"metadata": {"generateName": "a-"}}));
        assert_eq!(generated.metadata.labels, None);
    }

    #[test]
    fn creation() {
        let detail = "name is neither a standard finalizer name nor is it fully qualified";
        check_create_table::<Namespace>(
            &json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["orphan", "a.io/b"]}}),
            &[(
                "/spec/finalizers/0",
                json!("mine"),
                &[&format!("spec.finalizers: Invalid value: \"mine\": {detail}")],
            )],
        );
    }

    #[test]
    fn each_subresource_writes_its_own_part() {
        let old: Namespace = created(&json!({"metadata": {"name": "a"}}));
        let json = json!({"metadata": {"name": "a", "labels": {NAME_LABEL: "other"}},
            "spec": {"finalizers": []}, "status": {"phase": "Terminating"}});
        let table = [("", 1, "Active"), ("status", 1, "Terminating"), ("finalize", 0, "Active")];
        for (subresource, left, now) in table {
            let new = updated(&old, &json, subresource);
            assert_eq!((finalizers(&new).len(), phase(&new)), (left, now), "{subresource}");
            assert_eq!(new.metadata.labels.as_ref().unwrap()[NAME_LABEL], "a");
            assert_eq!(may_be_removed(&new), left == 0);
        }
    }

    #[test]
    fn changes() {
        let old = json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["kubernetes"]}});
        let gone = with(&old, "/metadata/deletionTimestamp", json!("2026-01-01T00:00:00Z"));
        let status = |base: &Value, phase: &str| {
            update_errors::<Namespace>(base, &with(base, "/status/phase", json!(phase)), "status")
        };
        assert!(status(&old, "Active").is_empty() && status(&gone, "Terminating").is_empty());
        assert_eq!(
            status(&old, "Terminating"),
            [
                r#"status.Phase: Invalid value: "Terminating": may only be 'Active' if `deletionTimestamp` is empty"#
            ]
        );
        assert_eq!(
            status(&gone, "Active"),
            [
                r#"status.Phase: Invalid value: "Active": may only be 'Terminating' if `deletionTimestamp` is not empty"#
            ]
        );
        let bad = with(&old, "/spec/finalizers", json!(["kubernetes", "a/b/c"]));
        let errors = update_errors::<Namespace>(&old, &bad, "finalize");
        let detail = meta::qualified_name_errors("a/b/c").remove(0);
        assert_eq!(errors, [format!("spec.finalizers[1]: Invalid value: \"a/b/c\": {detail}")]);
        // The object itself cannot touch finalizers, so it cannot break them.
        assert!(update_errors::<Namespace>(&old, &bad, "").is_empty());
    }

    #[test]
    fn deletion_shows_in_the_phase() {
        let mut ns: Namespace = created(&json!({"metadata": {"name": "a"}}));
        terminate(&mut ns);
        assert_eq!(phase(&ns), "Terminating");
        assert!(!may_be_removed(&ns));
        assert_eq!(row::<Namespace>(&serde_json::to_value(&ns).unwrap())[..2], ["a", "Terminating"]);
    }
}
