//! `scheduling.k8s.io/v1`: PriorityClass.

use jiff::Timestamp;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::context::Context;
use crate::field::{Errors, Path};
use crate::kind::{Kind, KindInfo};
use crate::meta;
use crate::registry::Registry;
use crate::table::{Cell, Column};

/// The highest priority that users may give; above it is the system.
pub const HIGHEST_USER_PRIORITY: i32 = 1_000_000_000;
/// Where the priorities of critical system components begin.
pub const SYSTEM_CRITICAL_PRIORITY: i32 = 2 * HIGHEST_USER_PRIORITY;
/// Names with this prefix are the system's.
const SYSTEM_PREFIX: &str = "system-";
/// The classes that every tenant has from the start: name, value, description.
const SYSTEM_CLASSES: [(&str, i32, &str); 2] = [
    (
        "system-node-critical",
        SYSTEM_CRITICAL_PRIORITY + 1000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    (
        "system-cluster-critical",
        SYSTEM_CRITICAL_PRIORITY,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
];

pub(super) fn register(registry: &mut Registry) {
    registry.add::<PriorityClass>();
}

/// The classes that every tenant has from the start. They cannot be deleted.
#[must_use]
pub fn system_priority_classes() -> Vec<PriorityClass> {
    let class = |&(name, value, description): &(&str, i32, &str)| PriorityClass {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        value: Some(value),
        description: Some(description.to_owned()),
        ..PriorityClass::default()
    };
    SYSTEM_CLASSES.iter().map(class).collect()
}

/// Whether a class is one of [`system_priority_classes`].
#[must_use]
pub fn is_system_priority_class(name: &str) -> bool {
    SYSTEM_CLASSES.iter().any(|&(known, ..)| known == name)
}

/// Why a class with the system's prefix is not one of the system's.
fn system_class_error(name: &str, value: i32, global_default: bool) -> Option<String> {
    match SYSTEM_CLASSES.iter().find(|&&(known, ..)| known == name) {
        None => Some(format!("{name} is not a known system priority class")),
        Some(&(_, want, _)) if want != value => Some(format!("value of {name} PriorityClass must be {want}")),
        Some(_) if global_default => Some(format!("globalDefault of {name} PriorityClass must be false")),
        Some(_) => None,
    }
}

impl Kind for PriorityClass {
    fn info() -> KindInfo {
        KindInfo::of::<PriorityClass>().short("pc")
    }

    fn set_defaults(&mut self) {
        self.value.get_or_insert(0);
        self.preemption_policy.get_or_insert_with(|| "PreemptLowerPriority".to_owned());
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        let name = self.metadata.name.as_deref().unwrap_or_default();
        let value = self.value.unwrap_or(0);
        if name.starts_with(SYSTEM_PREFIX) {
            if let Some(reason) = system_class_error(name, value, self.global_default.unwrap_or(false)) {
                let detail = format!(
                    "priority class names with '{SYSTEM_PREFIX}' prefix are reserved for system use only. error: {reason}"
                );
                errors.forbidden(&Path::root("metadata").child("name"), &detail);
            }
        } else if value > HIGHEST_USER_PRIORITY {
            let detail =
                format!("maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}");
            errors.forbidden(&Path::root("value"), &detail);
        }
        let path = Path::root("preemptionPolicy");
        match self.preemption_policy.as_deref() {
            None | Some("PreemptLowerPriority" | "Never") => {}
            Some("") => errors.required(&path, ""),
            Some(other) => errors.not_supported(&path, other, &["PreemptLowerPriority", "Never"]),
        }
    }

    fn validate_update(&self, old: &Self, _: &Context<'_>, errors: &mut Errors) {
        if self.value.unwrap_or(0) != old.value.unwrap_or(0) {
            errors.forbidden(&Path::root("value"), "may not be changed in an update.");
        }
        let (new, old) = (&self.preemption_policy, &old.preemption_policy);
        meta::validate_immutable_field(new, old, &Path::root("preemptionPolicy"), errors);
    }

    fn generation_changed(&self, old: Option<&Self>) -> Option<bool> {
        // What counts is immutable: the generation stays 1.
        Some(old.is_none())
    }

    fn columns() -> Vec<Column> {
        let global_default = Column {
            ty: "boolean",
            ..Column::string("Global-Default", "Whether it is the class of pods that name none.")
        };
        vec![
            Column::NAME,
            Column::integer("Value", "The priority of the pods of this class."),
            global_default,
            Column::AGE,
            Column::string("PreemptionPolicy", "Whether pods of this class push others away."),
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        vec![
            meta::name_cell(&self.metadata),
            self.value.unwrap_or(0).into(),
            self.global_default.unwrap_or(false).into(),
            meta::age_cell(&self.metadata, now),
            self.preemption_policy.clone().unwrap_or_default().into(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::tables::{check_create, check_update, create_errors, defaulted, object, row};
    use serde_json::json;

    #[test]
    fn creation() {
        let good = json!({"metadata": {"name": "a"}, "value": 1_000_000_000});
        let system = "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: ";
        let unknown = format!("{system}system-x is not a known system priority class");
        let value = format!("{system}value of system-node-critical PriorityClass must be 2000001000");
        let default = format!("{system}globalDefault of system-node-critical PriorityClass must be false");
        check_create::<PriorityClass>(
            &good,
            &[
                (json!({"value": -5}), ""),
                (
                    json!({"value": 1_000_000_001}),
                    "value: Forbidden: maximum allowed value of a user defined priority is 1000000000",
                ),
                (json!({"metadata": {"name": "system-x"}}), &unknown),
                (json!({"metadata": {"name": "system-node-critical"}}), &value),
                (
                    json!({"metadata": {"name": "system-node-critical"}, "value": 2_000_001_000, "globalDefault": true}),
                    &default,
                ),
                (json!({"preemptionPolicy": ""}), "preemptionPolicy: Required value"),
                (
                    json!({"preemptionPolicy": "x"}),
                    r#"preemptionPolicy: Unsupported value: "x": supported values: "PreemptLowerPriority", "Never""#,
                ),
            ],
        );
        for class in system_priority_classes() {
            assert_eq!(create_errors::<PriorityClass>(&serde_json::to_value(&class).unwrap()), "");
            assert!(is_system_priority_class(class.metadata.name.as_deref().unwrap()));
        }
    }

    #[test]
    fn updates() {
        check_update::<PriorityClass>(
            &json!({"metadata": {"name": "a"}, "value": 1}),
            "",
            &[
                (json!({"description": "x", "globalDefault": true}), ""),
                (json!({"value": 2}), "value: Forbidden: may not be changed in an update."),
                (
                    json!({"preemptionPolicy": "Never"}),
                    r#"preemptionPolicy: Invalid value: "Never": field is immutable"#,
                ),
            ],
        );
    }

    #[test]
    fn defaults_generation_and_row() {
        let json = json!({"metadata": {"name": "a", "creationTimestamp": "1970-01-01T00:00:00Z"}});
        let got = defaulted::<PriorityClass>(&json);
        assert_eq!(got["preemptionPolicy"], "PreemptLowerPriority");
        assert_eq!(got["value"], 0);
        assert_eq!(row::<PriorityClass>(&json), json!(["a", 0, false, "60s", "PreemptLowerPriority"]));
        let class: PriorityClass = object(&json);
        assert_eq!(class.generation_changed(None), Some(true));
        assert_eq!(class.generation_changed(Some(&class)), Some(false));
    }
}
