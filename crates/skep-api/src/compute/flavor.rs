//! `Flavor`: a size that machines come in.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::ClusterResourceScope;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Isolation, NEEDED, amount_cell, validate_resources};
use crate::context::Context;
use crate::field::{Errors, Path};
use crate::kind::{Fields, Kind, KindInfo};
use crate::meta;
use crate::table::{Cell, Column};

/// A size that machines come in. Changing one changes no machine that is there already.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Flavor {
    /// Its name is what machines and node pools refer to.
    pub metadata: ObjectMeta,
    /// What a machine of it has.
    pub spec: FlavorSpec,
    /// What is to be said about it.
    pub status: Option<FlavorStatus>,
}

/// What a machine of a flavour has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.skep.compute.v1.FlavorSpec")]
pub struct FlavorSpec {
    /// `cpu` and `memory`, which must be given, and `ephemeral-storage`.
    #[serde(default)]
    pub resources: BTreeMap<String, Quantity>,
    /// How its machines may be kept apart; in any way if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolations: Option<Vec<Isolation>>,
    /// What it costs next to the others: of the flavours that fit, the one of the lowest price is taken. Without
    /// a price it comes after those with one, the smaller first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<i32>,
    /// What kind of price that is, for bills.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price_class: Option<String>,
    /// Whether no new machines are made of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired: Option<bool>,
}

/// What is to be said about a flavour.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.skep.compute.v1.FlavorStatus")]
pub struct FlavorStatus {
    /// `Available`: whether some host has room for one more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
}

crate::own::own_object!(
    Flavor, spec: FlavorSpec, status: FlavorStatus, scope: ClusterResourceScope,
    group: "compute.skep.io", version: "v1", plural: "flavors", list: "FlavorList",
    schema: "io.skep.compute.v1.Flavor", doc: "A size that machines come in.",
);

/// Longest price class: it is shown in bills.
const PRICE_CLASS_MAX_BYTES: usize = 63;

/// Name, CPU, memory, disk and price of the flavours that a new installation has. The smallest is enough for a
/// handful of small containers beside the node agent; each next one is twice as large, and costs twice as much.
const DEFAULT_FLAVORS: [(&str, &str, &str, &str, i32); 5] = [
    ("tiny", "500m", "512Mi", "5Gi", 1),
    ("small", "1", "1Gi", "10Gi", 2),
    ("medium", "2", "2Gi", "20Gi", 4),
    ("large", "4", "8Gi", "40Gi", 10),
    ("xlarge", "8", "32Gi", "80Gi", 24),
];

/// The flavours that a new installation has. The operator may change and delete them like any others.
#[must_use]
pub fn default_flavors() -> Vec<Flavor> {
    let amounts = |cpu: &str, memory: &str, disk: &str| {
        [("cpu", cpu), ("memory", memory), ("ephemeral-storage", disk)]
            .map(|(k, v)| (k.to_owned(), Quantity(v.to_owned())))
            .into()
    };
    let flavor = |&(name, cpu, memory, disk, price): &(&str, &str, &str, &str, i32)| Flavor {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        spec: FlavorSpec {
            resources: amounts(cpu, memory, disk),
            price: Some(price),
            ..FlavorSpec::default()
        },
        status: None,
    };
    DEFAULT_FLAVORS.iter().map(flavor).collect()
}

impl Kind for Flavor {
    fn info() -> KindInfo {
        KindInfo::of::<Flavor>().status()
    }

    fn set_defaults(&mut self) {
        meta::canonical_resources_milli(&mut self.spec.resources);
    }

    fn prepare_create(&mut self, _: &Context<'_>) {
        self.status = None;
    }

    fn prepare_update(&mut self, old: &Self, cx: &Context<'_>) {
        if cx.is_status() {
            meta::keep_metadata(&mut self.metadata, &old.metadata);
            self.spec.clone_from(&old.spec);
        } else {
            self.status.clone_from(&old.status);
        }
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        let path = Path::root("spec");
        validate_resources(&self.spec.resources, &NEEDED, &path.child("resources"), errors);
        let isolations = self.spec.isolations.as_deref().unwrap_or_default();
        for (i, isolation) in isolations.iter().enumerate() {
            if isolations[..i].contains(isolation) {
                errors.duplicate(&path.child("isolations").index(i), isolation.as_str());
            }
        }
        if let Some(price) = self.spec.price {
            meta::validate_nonnegative(price.into(), &path.child("price"), errors);
        }
        if let Some(class) = &self.spec.price_class
            && class.len() > PRICE_CLASS_MAX_BYTES
        {
            errors.too_long(&path.child("priceClass"), PRICE_CLASS_MAX_BYTES);
        }
        let conditions = self.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        meta::validate_conditions(conditions, &Path::root("status").child("conditions"), errors);
    }

    fn generation_changed(&self, old: Option<&Self>) -> Option<bool> {
        Some(old.is_none_or(|old| !meta::same(&self.spec, &old.spec)))
    }

    fn fields(&self, _: &mut Fields) {}

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::string("CPU", "What a machine of it has."),
            Column::string("Memory", "What a machine of it has."),
            Column::string("Disk", "What a machine of it has."),
            Column::string("Price", "Next to the others."),
            Column::string("Isolation", "How its machines may be kept apart."),
            Column::AGE,
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let isolations: Vec<&str> = self.spec.isolations.iter().flatten().map(|i| i.as_str()).collect();
        vec![
            meta::name_cell(&self.metadata),
            amount_cell(&self.spec.resources, "cpu"),
            amount_cell(&self.spec.resources, "memory"),
            amount_cell(&self.spec.resources, "ephemeral-storage"),
            self.spec.price.map(|p| p.to_string()).unwrap_or_default().into(),
            if isolations.is_empty() { "any".to_owned() } else { isolations.join(",") }.into(),
            meta::age_cell(&self.metadata, now),
        ]
    }
}
