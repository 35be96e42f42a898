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

    fn set_defaults(&mut self) {
        // Absent and empty mean the same; immutability must not see a difference.
        self.data.take_if(|d| d.is_empty());
        self.binary_data.take_if(|d| d.is_empty());
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
        vec![meta::name_cell(&self.metadata), keys.into(), meta::age_cell(&self.metadata, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use serde_json::json;

    #[test]
    fn creation() {
        let valid = json!({"metadata": {"name": "a"}, "data": {"k": "v"}, "binaryData": {"b": "AAE="}});
        check_create_table::<ConfigMap>(
            &valid,
            &[
                ("/data/..", json!(""), &[r#"data[..]: Invalid value: "..": must not be '..'"#]),
                (
                    "/data/b",
                    json!(""),
                    &[r#"data[b]: Invalid value: "b": duplicate of key present in binaryData"#],
                ),
                (
                    "/data/big",
                    json!("x".repeat(MAX_DATA_BYTES)),
                    &["Too long: may not be more than 1048576 bytes"],
                ),
            ],
        );
        assert_eq!(row::<ConfigMap>(&valid)[1], json!(2));
    }

    #[test]
    fn immutable_ones_stay_as_they_are() {
        let old = json!({"metadata": {"name": "a"}, "immutable": true, "data": {"k": "v"}, "binaryData": {}});
        let detail = "field is immutable when `immutable` is set";
        let same: &[String] = &[];
        assert_eq!(update_errors::<ConfigMap>(&old, &with(&old, "/binaryData", json!(null)), ""), same);
        assert_eq!(
            update_errors::<ConfigMap>(&old, &with(&old, "/data/k", json!("w")), ""),
            [format!("data: Forbidden: {detail}")]
        );
        assert_eq!(
            update_errors::<ConfigMap>(&old, &with(&old, "/binaryData/k2", json!("AA==")), ""),
            [format!("binaryData: Forbidden: {detail}")]
        );
        assert_eq!(
            update_errors::<ConfigMap>(&old, &with(&old, "/immutable", json!(false)), ""),
            [format!("immutable: Forbidden: {detail}")]
        );
    }
}
