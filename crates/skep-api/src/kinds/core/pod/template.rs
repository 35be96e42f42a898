//! PodTemplate: a pod template by itself.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodTemplate;

use super::{default_pod_template, template_warnings, validate_pod_template_spec};
use crate::context::Context;
use crate::field::{Errors, Path};
use crate::kind::{Kind, KindInfo};
use crate::kinds::core::shared;
use crate::meta;
use crate::table::{Cell, Column};

impl Kind for PodTemplate {
    fn info() -> KindInfo {
        KindInfo::of::<PodTemplate>()
    }

    fn set_defaults(&mut self) {
        default_pod_template(self.template.get_or_insert_default());
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        let empty = Default::default();
        validate_pod_template_spec(self.template.as_ref().unwrap_or(&empty), &Path::root("template"), errors);
    }

    fn warnings(&self, old: Option<&Self>, _: &Context<'_>) -> Vec<String> {
        match (&self.template, old) {
            (Some(template), None) => template_warnings(template, &Path::root("template")),
            _ => Vec::new(),
        }
    }

    fn generation_changed(&self, old: Option<&Self>) -> Option<bool> {
        Some(old.is_none_or(|old| !meta::same(&self.template, &old.template)))
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::string("Containers", "The names of the template's containers."),
            Column::string("Images", "The images of the template's containers."),
            Column::string("Pod Labels", "The labels of pods that are made from the template."),
        ]
    }

    fn row(&self, _: Timestamp) -> Vec<Cell> {
        let spec = self.template.as_ref().and_then(|t| t.spec.as_ref());
        let containers = spec.map_or(&[] as &[_], |s| s.containers.as_slice());
        let joined = |texts: Vec<&str>| texts.join(",");
        let labels = self.template.as_ref().and_then(|t| t.metadata.as_ref()).and_then(|m| m.labels.as_ref());
        vec![
            meta::name_cell(&self.metadata),
            joined(containers.iter().map(|c| c.name.as_str()).collect()).into(),
            joined(containers.iter().map(|c| c.image.as_deref().unwrap_or("")).collect()).into(),
            shared::labels_text(labels).into(),
        ]
    }
}
