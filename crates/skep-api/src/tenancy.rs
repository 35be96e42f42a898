//! `tenancy.skep.io/v1`: Tenant.
//!
//! A Tenant is an object of the system tenant. Creating one makes a complete, empty virtual cluster of
//! the same name; deleting it deletes everything inside. Like a namespace, a tenant that is being deleted
//! stays, with the phase `Terminating`, until the [finalizer](CONTENTS_FINALIZER) that creation puts on it
//! is taken off by whoever removed its contents.

use std::borrow::Cow;
use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use k8s_openapi::{ClusterResourceScope, ListableResource, Metadata, Resource};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use skep_base::TenantName;

use crate::context::Context;
use crate::field::{Errors, Path};
use crate::kind::{Fields, Kind, KindInfo, NameRule, Subresource, Verb};
use crate::meta;
use crate::registry::Registry;
use crate::table::{Cell, Column};

/// The group of Skep's tenancy.
pub const GROUP: &str = "tenancy.skep.io";
/// Keeps a deleted tenant until its contents are gone.
pub const CONTENTS_FINALIZER: &str = "tenancy.skep.io/contents";
/// The share of a tenant that names none.
pub const DEFAULT_WEIGHT: i32 = 100;
/// Shares: a hundred times less or ten times more than the default is enough to tell tenants apart, and
/// a thousand to one still leaves the least one served.
pub const WEIGHT_RANGE: std::ops::RangeInclusive<i32> = 1..=1000;
/// Longest display name: it is shown in tables and bills.
const DISPLAY_NAME_MAX_BYTES: usize = 256;

pub(crate) fn register(registry: &mut Registry) {
    registry.add::<Tenant>();
}

/// A customer: a virtual cluster of its own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tenant {
    /// Its name is the tenant's name.
    pub metadata: ObjectMeta,
    /// What the operator grants.
    pub spec: TenantSpec,
    /// What is.
    pub status: Option<TenantStatus>,
}

/// What the operator grants a tenant.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.skep.tenancy.v1.TenantSpec")]
pub struct TenantSpec {
    /// The name that people see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// The tenant's share of requests, controllers and scheduling, next to the weights of the others,
    /// from 1 to 1000. 100 if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<i32>,
    /// The most that all namespaces of the tenant may have together. What is not named is not limited.
    /// The keys are `requests.cpu`, `requests.memory`, `limits.cpu`, `limits.memory`, `pods`,
    /// `count/objects`, `requests.storage`, `public.addresses`, `bandwidth` (bits per second), and of the machines
    /// that the tenant's pods run on `machines`, `machines.cpu` and `machines.memory`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<BTreeMap<String, Quantity>>,
    /// Whether the tenant's own credentials are refused and its workloads are stopped. Nothing is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended: Option<bool>,
}

/// What a tenant is and uses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.skep.tenancy.v1.TenantStatus")]
pub struct TenantStatus {
    /// `Active` or `Terminating`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<TenantPhase>,
    /// How much is used of what a quota can limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<BTreeMap<String, Quantity>>,
    /// What is to be said about the tenant's state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
}

/// Where a tenant is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "io.skep.tenancy.v1.TenantPhase")]
pub enum TenantPhase {
    /// It can be used.
    #[default]
    Active,
    /// It is being deleted; nothing can be created in it.
    Terminating,
}

impl TenantPhase {
    /// The phase as written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            TenantPhase::Active => "Active",
            TenantPhase::Terminating => "Terminating",
        }
    }
}

/// What the quota of a tenant can limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TenantResource {
    /// The CPU that pods request.
    RequestsCpu,
    /// The memory that pods request, in bytes.
    RequestsMemory,
    /// The CPU that pods may use.
    LimitsCpu,
    /// The memory that pods may use, in bytes.
    LimitsMemory,
    /// Pods that have not ended.
    Pods,
    /// Objects of all kinds.
    Objects,
    /// The storage that claims request, in bytes.
    RequestsStorage,
    /// Public addresses.
    PublicAddresses,
    /// Guaranteed bandwidth, in bits per second.
    Bandwidth,
    /// Machines.
    Machines,
    /// The CPU of machines.
    MachinesCpu,
    /// The memory of machines, in bytes.
    MachinesMemory,
}

impl TenantResource {
    /// All of them, as listed to clients.
    pub const ALL: [TenantResource; 12] = [
        TenantResource::Bandwidth,
        TenantResource::Objects,
        TenantResource::LimitsCpu,
        TenantResource::LimitsMemory,
        TenantResource::Machines,
        TenantResource::MachinesCpu,
        TenantResource::MachinesMemory,
        TenantResource::Pods,
        TenantResource::PublicAddresses,
        TenantResource::RequestsCpu,
        TenantResource::RequestsMemory,
        TenantResource::RequestsStorage,
    ];

    /// The key in a quota.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            TenantResource::RequestsCpu => "requests.cpu",
            TenantResource::RequestsMemory => "requests.memory",
            TenantResource::LimitsCpu => "limits.cpu",
            TenantResource::LimitsMemory => "limits.memory",
            TenantResource::Pods => "pods",
            TenantResource::Objects => "count/objects",
            TenantResource::RequestsStorage => "requests.storage",
            TenantResource::PublicAddresses => "public.addresses",
            TenantResource::Bandwidth => "bandwidth",
            TenantResource::Machines => "machines",
            TenantResource::MachinesCpu => "machines.cpu",
            TenantResource::MachinesMemory => "machines.memory",
        }
    }

    /// What a key in a quota means.
    #[must_use]
    pub fn from_key(key: &str) -> Option<TenantResource> {
        TenantResource::ALL.into_iter().find(|r| r.as_str() == key)
    }

    /// Whether there are only whole numbers of it.
    #[must_use]
    pub const fn is_integer(self) -> bool {
        !matches!(self, TenantResource::RequestsCpu | TenantResource::LimitsCpu | TenantResource::MachinesCpu)
    }
}

impl Tenant {
    /// The tenant's name.
    ///
    /// # Errors
    /// When the object has no valid name, which validation refuses.
    pub fn tenant_name(&self) -> Result<TenantName, skep_base::TenantNameError> {
        TenantName::new(self.metadata.name.as_deref().unwrap_or_default())
    }

    /// The tenant's share next to those of the others.
    #[must_use]
    pub fn weight(&self) -> i32 {
        self.spec.weight.unwrap_or(DEFAULT_WEIGHT)
    }

    /// Whether its own credentials are refused.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.spec.suspended.unwrap_or(false)
    }

    /// Where it is in its life.
    #[must_use]
    pub fn phase(&self) -> TenantPhase {
        self.status.as_ref().and_then(|s| s.phase).unwrap_or_default()
    }

    /// The limits. Validation lets only known resources and well-formed amounts pass; others are left out.
    pub fn limits(&self) -> impl Iterator<Item = (TenantResource, skep_base::Quantity)> + '_ {
        let quota = self.spec.quota.iter().flatten();
        quota.filter_map(|(key, amount)| Some((TenantResource::from_key(key)?, amount.0.parse().ok()?)))
    }
}

impl Resource for Tenant {
    const API_VERSION: &'static str = "tenancy.skep.io/v1";
    const GROUP: &'static str = GROUP;
    const KIND: &'static str = "Tenant";
    const VERSION: &'static str = "v1";
    const URL_PATH_SEGMENT: &'static str = "tenants";
    type Scope = ClusterResourceScope;
}

impl ListableResource for Tenant {
    const LIST_KIND: &'static str = "TenantList";
}

impl Metadata for Tenant {
    type Ty = ObjectMeta;
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// The JSON of a tenant, with the names of its type, which the type itself does not carry.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(description = "A customer: a virtual cluster of its own.")]
struct Wire {
    /// The version of the schema of this object.
    #[serde(default)]
    api_version: Option<String>,
    /// The kind of this object.
    #[serde(default)]
    kind: Option<String>,
    /// Its name is the tenant's name.
    #[serde(default)]
    metadata: ObjectMeta,
    /// What the operator grants.
    #[serde(default)]
    spec: TenantSpec,
    /// What is.
    #[serde(default)]
    status: Option<TenantStatus>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WireRef<'a> {
    api_version: &'static str,
    kind: &'static str,
    metadata: &'a ObjectMeta,
    spec: &'a TenantSpec,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a TenantStatus>,
}

impl Serialize for Tenant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let wire = WireRef {
            api_version: Self::API_VERSION,
            kind: Self::KIND,
            metadata: &self.metadata,
            spec: &self.spec,
            status: self.status.as_ref(),
        };
        wire.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Tenant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Tenant, D::Error> {
        use serde::de::{Error, Unexpected};
        let wire = Wire::deserialize(deserializer)?;
        for (got, want) in [(wire.api_version, Self::API_VERSION), (wire.kind, Self::KIND)] {
            if let Some(got) = got.filter(|got| got != want) {
                return Err(D::Error::invalid_value(Unexpected::Str(&got), &want));
            }
        }
        Ok(Tenant { metadata: wire.metadata, spec: wire.spec, status: wire.status })
    }
}

impl JsonSchema for Tenant {
    fn schema_name() -> Cow<'static, str> {
        "io.skep.tenancy.v1.Tenant".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Wire::json_schema(generator)
    }
}

impl Kind for Tenant {
    fn info() -> KindInfo {
        KindInfo::of::<Tenant>()
            .short("tn")
            .names(NameRule::Label)
            .status()
            .sub(Subresource {
                name: "kubeconfig",
                group: GROUP,
                version: "v1",
                kind: "TenantKubeconfig",
                verbs: Verb::CREATE,
            })
            .select("status.phase")
    }

    fn set_defaults(&mut self) {
        self.spec.weight.get_or_insert(DEFAULT_WEIGHT);
        if let Some(quota) = &mut self.spec.quota {
            meta::canonical_resources(quota);
        }
        if let Some(used) = self.status.as_mut().and_then(|s| s.used.as_mut()) {
            meta::canonical_resources(used);
        }
    }

    fn prepare_create(&mut self, _: &Context<'_>) {
        let finalizers = self.metadata.finalizers.get_or_insert_default();
        if !finalizers.iter().any(|f| f == CONTENTS_FINALIZER) {
            finalizers.push(CONTENTS_FINALIZER.to_owned());
        }
        self.status = Some(TenantStatus { phase: Some(TenantPhase::Active), ..TenantStatus::default() });
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
        if self.metadata.name.as_deref() == Some(TenantName::SYSTEM) {
            let detail = "is the name of the operator's own tenant, which is not an object";
            errors.invalid(&Path::root("metadata").child("name"), TenantName::SYSTEM, detail);
        }
        validate_spec(&self.spec, &Path::root("spec"), errors);
    }

    fn validate_update(&self, old: &Self, cx: &Context<'_>, errors: &mut Errors) {
        if !cx.is_status() {
            self.validate(cx, errors);
            return;
        }
        let path = Path::root("status");
        let Some(status) = &self.status else { return };
        // Nothing that is being deleted comes back.
        if old.phase() == TenantPhase::Terminating && self.phase() == TenantPhase::Active {
            let detail = "may not be 'Active' again once it is 'Terminating'";
            errors.invalid(&path.child("phase"), self.phase().as_str(), detail);
        }
        if self.metadata.deletion_timestamp.is_none() && self.phase() == TenantPhase::Terminating {
            let detail = "may be 'Terminating' only if `metadata.deletionTimestamp` is set";
            errors.invalid(&path.child("phase"), self.phase().as_str(), detail);
        }
        if let Some(used) = &status.used {
            validate_amounts(used, &path.child("used"), errors);
        }
        let conditions = status.conditions.as_deref().unwrap_or_default();
        meta::validate_conditions(conditions, &path.child("conditions"), errors);
    }

    fn generation_changed(&self, old: Option<&Self>) -> Option<bool> {
        Some(old.is_none_or(|old| !meta::same(&self.spec, &old.spec)))
    }

    fn fields(&self, fields: &mut Fields) {
        fields.add("status.phase", self.phase().as_str());
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::string("Phase", "Active, Suspended or Terminating."),
            Column::string("Pods", "Pods in use, and the most there may be."),
            Column::AGE,
            Column::string("Display-Name", "The name that people see.").wide(),
            Column::integer("Weight", "The tenant's share next to those of the others.").wide(),
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let phase = match self.phase() {
            TenantPhase::Active if self.is_suspended() => "Suspended",
            phase => phase.as_str(),
        };
        let pods = TenantResource::Pods.as_str();
        let used = self.status.as_ref().and_then(|s| s.used.as_ref()).and_then(|u| u.get(pods));
        let used = used.map_or("0", |q| &q.0);
        let pods = match self.spec.quota.as_ref().and_then(|q| q.get(pods)) {
            Some(limit) => format!("{used}/{}", limit.0),
            None => used.to_owned(),
        };
        vec![
            meta::name_cell(&self.metadata),
            phase.into(),
            pods.into(),
            meta::age_cell(&self.metadata, now),
            self.spec.display_name.clone().unwrap_or_default().into(),
            self.weight().into(),
        ]
    }
}

fn validate_spec(spec: &TenantSpec, path: &Path<'_>, errors: &mut Errors) {
    if let Some(name) = &spec.display_name {
        let path = path.child("displayName");
        if name.len() > DISPLAY_NAME_MAX_BYTES {
            errors.too_long(&path, DISPLAY_NAME_MAX_BYTES);
        }
        if name.chars().any(char::is_control) {
            errors.invalid(&path, name, "must not contain control characters");
        }
    }
    if let Some(weight) = spec.weight {
        let (min, max) = (i64::from(*WEIGHT_RANGE.start()), i64::from(*WEIGHT_RANGE.end()));
        for message in meta::in_range_errors(weight.into(), min, max) {
            errors.invalid(&path.child("weight"), weight, &message);
        }
    }
    if let Some(quota) = &spec.quota {
        validate_amounts(quota, &path.child("quota"), errors);
    }
}

/// Amounts of what a quota can limit: known keys, not negative, whole where there are only whole ones.
fn validate_amounts(amounts: &BTreeMap<String, Quantity>, path: &Path<'_>, errors: &mut Errors) {
    for (key, quantity) in amounts {
        let path = path.key(key);
        let Some(resource) = TenantResource::from_key(key) else {
            errors.not_supported(&path, key, &TenantResource::ALL.map(TenantResource::as_str));
            continue;
        };
        let Some(amount) = meta::parse_quantity(quantity, &path, errors) else { continue };
        if amount.signum() < 0 {
            errors.invalid(&path, &quantity.0, "must be greater than or equal to 0");
        }
        if resource.is_integer() && amount.nanos() % 1_000_000_000 != 0 {
            errors.invalid(&path, &quantity.0, "must be an integer");
        }
    }
}

#[cfg(test)]
#[path = "tenancy_tests.rs"]
mod tests;
