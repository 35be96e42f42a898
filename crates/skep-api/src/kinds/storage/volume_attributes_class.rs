//! VolumeAttributesClass.

use jiff::Timestamp;
use k8s_openapi::api::storage::v1::VolumeAttributesClass;

use super::{validate_parameters, validate_provisioner};
use crate::context::Context;
use crate::field::{Errors, Path};
use crate::kind::{Kind, KindInfo};
use crate::meta;
use crate::table::{Cell, Column};

impl Kind for VolumeAttributesClass {
    fn info() -> KindInfo {
        KindInfo::of::<VolumeAttributesClass>().short("vac")
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        validate_provisioner(&self.driver_name, &Path::root("driverName"), errors);
        validate_parameters(self.parameters.as_ref(), false, &Path::root("parameters"), errors);
    }

    fn validate_update(&self, old: &Self, cx: &Context<'_>, errors: &mut Errors) {
        if self.driver_name != old.driver_name {
            errors.forbidden(&Path::root("driverName"), "updates to driverName are forbidden.");
        }
        if !meta::same(&self.parameters, &old.parameters) {
            errors.forbidden(&Path::root("parameters"), "updates to parameters are forbidden.");
        }
        self.validate(cx, errors);
    }

    fn columns() -> Vec<Column> {
        vec![Column::NAME, Column::string("DriverName", "The CSI driver of the class."), Column::AGE]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        vec![
            meta::name_cell(&self.metadata),
            self.driver_name.as_str().into(),
            meta::age_cell(&self.metadata, now),
        ]
    }
}
