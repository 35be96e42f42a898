//! ConfigMap.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;

use crate::context::Context;
use crate::field::{Errors, Path};
use crate::kind::{Kind, KindInfo};
use crate::meta;
use crate::table::{Cell, Column};

/// Keys and values together, as upstream limits them: what etcd and the agents' caches are sized for.
const MAX_DATA_BYTES: usize = 1024 * 1024;

impl Kind for ConfigMap {
    fn info() -> KindInfo {
        KindInfo::of::<ConfigMap>().short("cm")
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        let data = Path::root("data");
        let binary = Path::root("binaryData");
        let mut total_bytes = 0;
        for (key, value) in self.data.iter().flatten() {
            meta::validate_config_key(key, &data.key(key), errors);
            if self.binary_data.as_ref().is_some_and(|b| b.contains_key(key)) {
                errors.invalid(&data.key(key), key, "duplicate of key present in binaryData");
            }
            total_bytes += value.len();
        }
        for (key, value) in self.binary_data.iter().flatten() {
            meta::validate_config_key(key, &binary.key(key), errors);
            total_bytes += value.0.len();
        }
        if total_bytes > MAX_DATA_BYTES {
            errors.too_long(&Path::empty(), MAX_DATA_BYTES);
        }
    }

    fn validate_update(&self, old: &Self, cx: &Context<'_>, errors: &mut Errors) {
        if old.immutable == Some(true) {
            let detail = "field is immutable when `immutable` is set";
            if self.immutable != Some(true) {
                errors.forbidden(&Path::root("immutable"), detail);
            }
            if self.data != old.data {
                errors.forbidden(&Path::root("data"), detail);
            }
            if self.binary_data != old.binary_data {
                errors.forbidden(&Path::root("binaryData"), detail);
            }
        }
        self.validate(cx, errors);
    }

    fn columns() -> Vec<Column> {
        vec![Column::NAME, Column::string("Data", "The number of keys."), Column::AGE]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let keys = self.data.iter().flatten().count() + self.binary_data.iter().flatten().count();
        vec![meta::name_cell(&self.metadata), keys.to_string().into(), meta::age_cell(&self.metadata, now)]
    }
}
