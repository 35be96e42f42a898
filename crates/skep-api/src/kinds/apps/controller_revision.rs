//! ControllerRevision.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::Value;

use crate::context::Context;
use crate::field::{Errors, Path};
use crate::kind::{Kind, KindInfo};
use crate::kinds::checks;
use crate::meta;
use crate::table::{Cell, Column};

impl Kind for ControllerRevision {
    fn info() -> KindInfo {
        KindInfo::of::<ControllerRevision>()
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        checks::nonnegative(self.revision, &Path::root("revision"), errors);
        let path = Path::root("data");
        match &self.data {
            None | Some(RawExtension(Value::Null)) => errors.required(&path, "data is mandatory"),
            Some(RawExtension(Value::Object(_))) => {}
            Some(_) => errors.required(&path, "data must be a valid JSON object"),
        }
    }

    fn validate_update(&self, old: &Self, _: &Context<'_>, errors: &mut Errors) {
        checks::nonnegative(self.revision, &Path::root("revision"), errors);
        if self.data != old.data {
            checks::immutable(&self.data, &old.data, &Path::root("data"), errors);
        }
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::string("Controller", "The object whose revision this is."),
            Column::string("Revision", "The number of the revision."),
            Column::AGE,
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let owners = self.metadata.owner_references.as_deref().unwrap_or_default();
        let controller = owners.iter().find(|o| o.controller == Some(true)).map(|owner| {
            let kind = owner.kind.to_lowercase();
            match owner.api_version.split_once('/') {
                Some((group, _)) => format!("{kind}.{group}/{}", owner.name),
                None => format!("{kind}/{}", owner.name),
            }
        });
        vec![
            meta::name_cell(&self.metadata),
            controller.unwrap_or_else(|| "<none>".to_owned()).into(),
            self.revision.into(),
            meta::age_cell(&self.metadata, now),
        ]
    }
}
