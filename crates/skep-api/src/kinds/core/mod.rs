//! The core group, `v1`.

mod config_map;

use crate::registry::Registry;

pub(super) fn register(registry: &mut Registry) {
    registry.add::<k8s_openapi::api::core::v1::ConfigMap>();
}
