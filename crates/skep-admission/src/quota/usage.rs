//! What a tenant may take and takes, over all its namespaces.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{ClusterResourceScope, ListableResource, Metadata, Resource};
use schemars::JsonSchema;
use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};
use skep_api::tenancy::Tenant;
use skep_api::{Context, Errors, Kind, KindInfo, Verb};
use skep_base::{Key, TenantName};

use crate::review::TENANT_USAGES;

/// The quota of a tenant and what is used of it. There is one object, named [`TenantUsage::NAME`], in each
/// tenant that has a quota, and none in others: a tenant without quota costs nothing here.
///
/// The API server writes it when `spec.quota` of the `Tenant` changes (with a recount), and every write that
/// is charged updates it in its own transaction. Tenants can read it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
pub struct TenantUsage {
    /// Metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What the operator allows.
    #[serde(default)]
    pub spec: TenantUsageSpec,
    /// What is taken.
    #[serde(default)]
    pub status: TenantUsageStatus,
}

/// What the operator allows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TenantUsageSpec {
    /// Limits, under the keys of `spec.quota` of the `Tenant`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hard: BTreeMap<String, Quantity>,
}

/// What is taken.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TenantUsageStatus {
    /// One amount for each limit.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub used: BTreeMap<String, Quantity>,
}

impl TenantUsage {
    /// The name of the one object.
    pub const NAME: &'static str = "tenant";

    /// The object for what the operator grants a tenant, with nothing used yet (see
    /// [`Recount`](crate::Recount)); `None` when nothing is limited.
    #[must_use]
    pub fn granted(tenant: &Tenant) -> Option<TenantUsage> {
        let hard = tenant.spec.quota.clone().filter(|q| !q.is_empty())?;
        let metadata = ObjectMeta { name: Some(Self::NAME.to_owned()), ..ObjectMeta::default() };
        Some(TenantUsage { metadata, spec: TenantUsageSpec { hard }, status: TenantUsageStatus::default() })
    }

    /// Where a tenant's object is.
    #[must_use]
    pub fn key(tenant: &TenantName) -> Key {
        Key::new(TENANT_USAGES.clone(), tenant.clone(), "", Self::NAME)
    }
}

impl Resource for TenantUsage {
    const API_VERSION: &'static str = "tenancy.skep.io/v1";
    const GROUP: &'static str = "tenancy.skep.io";
    const KIND: &'static str = "TenantUsage";
    const VERSION: &'static str = "v1";
    const URL_PATH_SEGMENT: &'static str = "tenantusages";
    type Scope = ClusterResourceScope;
}

impl ListableResource for TenantUsage {
    const LIST_KIND: &'static str = "TenantUsageList";
}

impl Metadata for TenantUsage {
    type Ty = ObjectMeta;
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl Serialize for TenantUsage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut s = serializer.serialize_struct(Self::KIND, 5)?;
        s.serialize_field("apiVersion", Self::API_VERSION)?;
        s.serialize_field("kind", Self::KIND)?;
        s.serialize_field("metadata", &self.metadata)?;
        s.serialize_field("spec", &self.spec)?;
        s.serialize_field("status", &self.status)?;
        s.end()
    }
}

impl Kind for TenantUsage {
    fn info() -> KindInfo {
        KindInfo::of::<TenantUsage>().verbs(&[Verb::Get, Verb::List, Verb::Watch])
    }

    fn validate(&self, _: &Context<'_>, _: &mut Errors) {
        // Clients cannot write it.
    }
}
