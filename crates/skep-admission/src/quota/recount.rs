//! Counting from nothing.

use k8s_openapi::api::core::v1::{ResourceQuota, ResourceQuotaStatus, ScopedResourceSelectorRequirement};
use skep_api::Object;
use skep_api::tenancy::TenantResource;
use skep_base::{GroupResource, Quantity};

use super::Bounds;
use super::measure::{self, Class, Measure, OBJECTS};
use super::usage::{TenantUsage, TenantUsageStatus};
use crate::amounts::{self, Amounts, WrittenAmounts};

/// Counts what objects take of a quota, from nothing: for a quota that is new or whose limits or scopes have
/// changed. Add every object of every resource in [`Recount::resources`], all read at one revision, and store
/// the result on the condition that the quota has not been charged since.
///
/// ```
/// # use skep_admission::Recount;
/// # use k8s_openapi::api::core::v1::ResourceQuota;
/// let quota: ResourceQuota = serde_json::from_str(
///     r#"{"metadata":{"name":"q"},"spec":{"hard":{"pods":"3","count/configmaps":"2"}}}"#,
/// ).unwrap();
/// let recount = Recount::of_quota(&quota);
/// let names: Vec<_> = recount.resources().unwrap().iter().map(ToString::to_string).collect();
/// assert_eq!(names, ["configmaps", "pods"]);
/// assert_eq!(recount.quota_status().used.unwrap()["pods"].0, "0");
/// ```
#[derive(Clone, Debug)]
pub struct Recount {
    hard: WrittenAmounts,
    scopes: Vec<ScopedResourceSelectorRequirement>,
    bounds: Bounds,
    used: Amounts,
}

impl Recount {
    fn new(hard: WrittenAmounts, scopes: Vec<ScopedResourceSelectorRequirement>, bounds: Bounds) -> Recount {
        let used = hard.keys().map(|name| (name.clone(), Quantity::ZERO)).collect();
        Recount { hard, scopes, bounds, used }
    }

    /// For the limits and scopes of a quota's spec.
    #[must_use]
    pub fn of_quota(quota: &ResourceQuota) -> Recount {
        let hard = quota.spec.as_ref().and_then(|s| s.hard.clone()).unwrap_or_default();
        Recount::new(hard, super::scopes(quota.spec.as_ref()), Bounds::Namespace)
    }

    /// For the limits of a tenant.
    #[must_use]
    pub fn of_tenant(usage: &TenantUsage) -> Recount {
        Recount::new(usage.spec.hard.clone(), Vec::new(), Bounds::Tenant)
    }

    /// The resources whose objects count; `None` when those of all resources do.
    #[must_use]
    pub fn resources(&self) -> Option<Vec<GroupResource>> {
        let mut found = Vec::new();
        for name in self.hard.keys() {
            if name == OBJECTS {
                match self.bounds {
                    Bounds::Tenant => return None,
                    Bounds::Namespace => continue,
                }
            }
            let resource = match name.strip_prefix("count/") {
                Some(counted) => {
                    let (resource, group) = counted.split_once('.').unwrap_or((counted, ""));
                    GroupResource::new(group, resource)
                }
                None if name == TenantResource::PublicAddresses.as_str() => {
                    GroupResource::new(skep_api::network::GROUP, "publicips")
                }
                None if measure::alias("", name).is_some() => GroupResource::new("", name),
                None if Class::Service.matches(name, "", None) => GroupResource::new("", "services"),
                None if Class::Claim.matches(name, "", None) => {
                    GroupResource::new("", "persistentvolumeclaims")
                }
                None if Class::Machine.matches(name, "", None) => {
                    GroupResource::new(skep_api::compute::GROUP, "machines")
                }
                None if Class::Pod.matches(name, "", None) => GroupResource::new("", "pods"),
                // A name of something that nothing takes.
                None => continue,
            };
            if !found.contains(&resource) {
                found.push(resource);
            }
        }
        found.sort();
        Some(found)
    }

    /// Counts one object.
    pub fn add(&mut self, resource: &GroupResource, object: &dyn Object) {
        if super::is_uncounted(resource.group(), resource.resource()) {
            return;
        }
        let class = Class::of(resource.group(), resource.resource());
        let measure = Measure::of(class, resource, object.as_any());
        if self.scopes.iter().all(|scope| measure.is_in(scope)) {
            for (name, sum) in &mut self.used {
                if let Some(quantity) =
                    measure.usage.get(name).filter(|_| name != OBJECTS || self.bounds == Bounds::Tenant)
                {
                    *sum += *quantity;
                }
            }
        }
    }

    fn used(self) -> WrittenAmounts {
        self.used.into_iter().map(|(name, sum)| (name, amounts::write(sum))).collect()
    }

    /// The status of the quota.
    #[must_use]
    pub fn quota_status(self) -> ResourceQuotaStatus {
        ResourceQuotaStatus { hard: Some(self.hard.clone()), used: Some(self.used()) }
    }

    /// The status of the tenant's usage.
    #[must_use]
    pub fn tenant_status(self) -> TenantUsageStatus {
        TenantUsageStatus { used: self.used() }
    }
}
