//! `Network`: a layer 2 of a tenant's own.

use jiff::Timestamp;
use k8s_openapi::ClusterResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DEFAULT_MTU, MAX_MTU, MIN_MTU, VNI_RANGE, split_status};
use crate::context::Context;
use crate::field::{Errors, Path};
use crate::kind::{Kind, KindInfo};
use crate::meta;
use crate::table::{Cell, Column};

/// A layer 2 of a tenant's own: all its ports reach each other, and nothing else is reached through it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Network {
    /// Its name is what subnets and ports refer to.
    pub metadata: ObjectMeta,
    /// What it is to be.
    pub spec: NetworkSpec,
    /// What is to be said about it.
    pub status: Option<NetworkStatus>,
}

/// What a network is to be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.skep.network.v1.NetworkSpec")]
pub struct NetworkSpec {
    /// Its number on the wire, which no other network of the cloud has. Given by the server; only the operator may
    /// choose one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vni: Option<i64>,
    /// Largest packet, from 1280 to 9146. 1450 if it is not given, which fits below 1500; the network between the
    /// hosts must carry 50 bytes more (70 over IPv6).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<i32>,
}

/// What is to be said about a network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.skep.network.v1.NetworkStatus")]
pub struct NetworkStatus {
    /// What is to be said about its state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
}

crate::own::own_object!(
    Network, spec: NetworkSpec, status: NetworkStatus, scope: ClusterResourceScope,
    group: "network.skep.io", version: "v1", plural: "networks", list: "NetworkList",
    schema: "io.skep.network.v1.Network", doc: "A layer 2 of a tenant's own.",
);

impl Kind for Network {
    fn info() -> KindInfo {
        KindInfo::of::<Network>().short("net").status()
    }

    fn set_defaults(&mut self) {
        self.spec.mtu.get_or_insert(DEFAULT_MTU);
    }

    split_status!();

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        let path = Path::root("spec");
        if let Some(mtu) = self.spec.mtu {
            for message in meta::in_range_errors(mtu.into(), MIN_MTU, MAX_MTU) {
                errors.invalid(&path.child("mtu"), mtu, &message);
            }
        }
        if let Some(vni) = self.spec.vni {
            for message in meta::in_range_errors(vni, *VNI_RANGE.start(), *VNI_RANGE.end()) {
                errors.invalid(&path.child("vni"), vni, &message);
            }
        }
    }

    fn validate_update(&self, old: &Self, cx: &Context<'_>, errors: &mut Errors) {
        if cx.is_status() {
            let conditions = self.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
            meta::validate_conditions(conditions, &Path::root("status").child("conditions"), errors);
            return;
        }
        self.validate(cx, errors);
        // Packets under way would arrive somewhere else.
        meta::validate_immutable_field(
            &self.spec.vni,
            &old.spec.vni,
            &Path::root("spec").child("vni"),
            errors,
        );
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::integer("VNI", "Its number on the wire."),
            Column::integer("MTU", "Largest packet."),
            Column::AGE,
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        vec![
            meta::name_cell(&self.metadata),
            self.spec.vni.unwrap_or_default().into(),
            self.spec.mtu.unwrap_or(DEFAULT_MTU).into(),
            meta::age_cell(&self.metadata, now),
        ]
    }
}
