//! `QosPolicy`: how fast ports may send and receive.

use jiff::Timestamp;
use k8s_openapi::ClusterResourceScope;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::split_status;
use crate::context::Context;
use crate::field::{Errors, Path};
use crate::kind::{Kind, KindInfo};
use crate::meta;
use crate::table::{Cell, Column};

/// The slowest rate: below it a single packet takes longer than connections wait.
const MIN_RATE_BITS_PER_S: i128 = 8_000;
/// Most packets a second that can be counted: ten times what one core moves.
const MAX_PACKETS_PER_S: i64 = 100_000_000;

/// What a packet counts as at least: an Ethernet frame with all that the wire adds takes no less. A larger one makes small packets
/// dear, for they cost as much work as large ones; above it even the largest would count as more than they are.
const MINIMUM_PACKET_UNIT_BYTES: std::ops::RangeInclusive<i64> = 84..=9216;

/// How fast ports may send and receive; each port for itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QosPolicy {
    /// Its name is what ports refer to.
    pub metadata: ObjectMeta,
    /// The rates.
    pub spec: QosPolicySpec,
    /// What is to be said about it.
    pub status: Option<QosPolicyStatus>,
}

/// The rates of both directions, seen from the port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.skep.network.v1.QosPolicySpec")]
pub struct QosPolicySpec {
    /// What it sends; unlimited if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<QosRate>,
    /// What it receives; unlimited if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<QosRate>,
    /// Packets that are shorter count as this many bytes, with all that an Ethernet adds to them; 84 if nothing is said, which is what the
    /// shortest takes of a wire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_packet_unit: Option<i32>,
}

/// The rates of one direction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.skep.network.v1.QosRate")]
pub struct QosRate {
    /// Bits a second that are there when they are needed, and lent out when they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guaranteed: Option<Quantity>,
    /// Bits a second that are never exceeded, also when the line is idle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum: Option<Quantity>,
    /// Packets a second that are never exceeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets: Option<i64>,
}

/// What is to be said about a policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.skep.network.v1.QosPolicyStatus")]
pub struct QosPolicyStatus {
    /// What is to be said about its state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
}

crate::own::own_object!(
    QosPolicy, spec: QosPolicySpec, status: QosPolicyStatus, scope: ClusterResourceScope,
    group: "network.skep.io", version: "v1", plural: "qospolicies", list: "QosPolicyList",
    schema: "io.skep.network.v1.QosPolicy", doc: "How fast ports may send and receive.",
);

impl Kind for QosPolicy {
    fn info() -> KindInfo {
        KindInfo::of::<QosPolicy>().short("qos").status()
    }

    fn set_defaults(&mut self) {
        for rate in [&mut self.spec.egress, &mut self.spec.ingress].into_iter().flatten() {
            for quantity in [&mut rate.guaranteed, &mut rate.maximum].into_iter().flatten() {
                meta::canonical_quantity(quantity);
            }
        }
    }

    split_status!();

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        let path = Path::root("spec");
        for (field, rate) in [("egress", &self.spec.egress), ("ingress", &self.spec.ingress)] {
            if let Some(rate) = rate {
                validate_rate(rate, &path.child(field), errors);
            }
        }
        if let Some(unit) = self.spec.minimum_packet_unit {
            let range = MINIMUM_PACKET_UNIT_BYTES;
            for message in meta::in_range_errors(unit.into(), *range.start(), *range.end()) {
                errors.invalid(&path.child("minimumPacketUnit"), unit, &message);
            }
        }
    }

    fn validate_update(&self, _: &Self, cx: &Context<'_>, errors: &mut Errors) {
        if cx.is_status() {
            let conditions = self.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
            meta::validate_conditions(conditions, &Path::root("status").child("conditions"), errors);
            return;
        }
        self.validate(cx, errors);
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::string("Egress", "What a port may send: guaranteed and at most, in bits a second."),
            Column::string("Ingress", "What a port may receive: guaranteed and at most, in bits a second."),
            Column::AGE,
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let cell = |rate: &Option<QosRate>| {
            let text = |q: Option<&Quantity>| q.map_or("-", |q| &q.0).to_owned();
            let rate = rate.as_ref();
            let (low, high) =
                (rate.and_then(|r| r.guaranteed.as_ref()), rate.and_then(|r| r.maximum.as_ref()));
            format!("{}/{}", text(low), text(high)).into()
        };
        vec![
            meta::name_cell(&self.metadata),
            cell(&self.spec.egress),
            cell(&self.spec.ingress),
            meta::age_cell(&self.metadata, now),
        ]
    }
}

fn validate_rate(rate: &QosRate, path: &Path<'_>, errors: &mut Errors) {
    let mut bits = |field: &'static str, quantity: &Option<Quantity>| {
        let quantity = quantity.as_ref()?;
        let path = path.child(field);
        let amount = meta::parse_quantity(quantity, &path, errors)?;
        if amount.nanos() < MIN_RATE_BITS_PER_S * 1_000_000_000 {
            errors.invalid(
                &path,
                &quantity.0,
                &format!("must be at least {MIN_RATE_BITS_PER_S} bits a second"),
            );
        }
        Some(amount)
    };
    let (low, high) = (bits("guaranteed", &rate.guaranteed), bits("maximum", &rate.maximum));
    if let (Some(low), Some(high), Some(text)) = (low, high, &rate.maximum)
        && high < low
    {
        errors.invalid(&path.child("maximum"), &text.0, "must not be less than what is guaranteed");
    }
    if let Some(packets) = rate.packets {
        for message in meta::in_range_errors(packets, 1, MAX_PACKETS_PER_S) {
            errors.invalid(&path.child("packets"), packets, &message);
        }
    }
}
