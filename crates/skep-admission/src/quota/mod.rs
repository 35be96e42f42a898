//! Quota: of namespaces (`ResourceQuota`) and of the tenant, by one engine.
//!
//! [`charges`] measures a write beside the store; [`settle`] decides inside the store's sequencer, where no
//! other write can come between: what it returns is written in the same transaction, so that a quota cannot be
//! overshot, and a deletion gives back what was charged. [`Recount`] counts from nothing, for new and changed
//! quotas.
//!
//! A write that was measured before a recount and commits behind it would be charged wrongly. Whoever recounts
//! must see to it that such a write does not go through; [`may_be_charged`] says which writes that concerns.

mod measure;
mod recount;
mod usage;

pub(crate) use measure::storage_class;

pub use recount::Recount;
pub use usage::{TenantUsage, TenantUsageSpec, TenantUsageStatus};

use k8s_openapi::api::core::v1::{ResourceQuota, ResourceQuotaSpec, ScopedResourceSelectorRequirement};
use skep_api::Object;
use skep_base::{GroupResource, Key, Quantity};

use crate::amounts::{self, WrittenAmounts};
use crate::refusal::Refusal;
use crate::review::{Operation, RESOURCE_QUOTAS, Review, TENANT_USAGES, decode, mentions};
use measure::{Class, Measure, OBJECTS};

/// What a write takes from quotas or gives back to them. Empty, without any allocation, for a write that no
/// quota is about: then there is nothing to settle.
#[derive(Clone, Debug, Default)]
pub struct Charges(Option<Box<Bill>>);

impl Charges {
    /// Whether there is nothing to settle.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The quotas that may be changed by [`settle`].
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.0.iter().flat_map(|bill| bill.quotas.iter().chain(&bill.tenant))
    }
}

#[derive(Clone, Debug)]
struct Bill {
    /// The namespace's quotas that the write matters to.
    quotas: Vec<Key>,
    /// The tenant's, if it matters to that.
    tenant: Option<Key>,
    change: Change,
}

/// One object's change, measured.
#[derive(Clone, Debug)]
struct Change {
    resource: GroupResource,
    /// The object's name, for messages.
    name: String,
    class: Class,
    count: String,
    before: Option<Measure>,
    after: Option<Measure>,
    /// Whether limits stop the write: reports about what is already so are counted but never refused.
    enforced: bool,
}

/// A quota with its new usage.
#[derive(Clone, Debug, PartialEq)]
pub enum Account {
    /// Of a namespace; only `status.used` has changed.
    Namespace(Box<ResourceQuota>),
    /// Of the tenant; only `status.used` has changed.
    Tenant(Box<TenantUsage>),
}

impl From<Account> for Box<dyn Object> {
    fn from(account: Account) -> Box<dyn Object> {
        match account {
            Account::Namespace(quota) => quota,
            Account::Tenant(usage) => usage,
        }
    }
}

/// Kinds that are not stored, or come and go by themselves without anybody's write, and so cannot be counted.
fn is_uncounted(group: &str, resource: &str) -> bool {
    matches!(
        (group, resource),
        ("", "bindings" | "componentstatuses" | "events")
            | ("events.k8s.io", "events")
            | ("authentication.k8s.io" | "authorization.k8s.io", _)
            | ("tenancy.skep.io", "tenantusages")
    )
}

/// Whether any quota could be about a write: if not, [`charges`] is empty whatever quotas there are.
#[must_use]
pub fn may_be_charged(review: &Review<'_>) -> bool {
    let (group, plural) = (&*review.info.group, &*review.info.plural);
    let relevant = match review.operation {
        Operation::Create => review.is_main(),
        Operation::Update => Class::of(group, plural) != Class::Other,
        Operation::Delete => true,
        Operation::Connect => false,
    };
    relevant && !is_uncounted(group, plural)
}

/// What a write takes from quotas or gives back; `object` is `None` when the object goes. Also refuses early,
/// by what is visible now, what [`settle`] would refuse: that keeps hopeless writes out of the sequencer, and
/// answers dry runs.
///
/// # Errors
/// 403 when a quota has no room, does not know its usage yet, or demands what the pod does not say.
pub fn charges(review: &Review<'_>, object: Option<&dyn Object>) -> Result<Charges, Refusal> {
    if !may_be_charged(review) {
        return Ok(Charges::default());
    }
    let (group, plural) = (&*review.info.group, &*review.info.plural);
    let class = Class::of(group, plural);
    let mut stored = if review.namespace.is_empty() || review.is("", "namespaces") {
        Vec::new()
    } else {
        review.lookup.list(&RESOURCE_QUOTAS, review.namespace)
    };
    let mut tenant = review.lookup.get(&TENANT_USAGES, "", TenantUsage::NAME);
    if stored.is_empty() && tenant.is_none() {
        return Ok(Charges::default());
    }
    let resource = GroupResource::new(group, plural);
    let count = measure::count_name(&resource);
    if class == Class::Other {
        // Most quotas are about pods: those that do not count this kind need not be decoded.
        let alias = measure::alias(group, plural);
        stored.retain(|s| mentions(&s.json, &count) || alias.is_some_and(|a| mentions(&s.json, a)));
        tenant = tenant.filter(|t| mentions(&t.json, OBJECTS) || mentions(&t.json, &count));
        if stored.is_empty() && tenant.is_none() {
            return Ok(Charges::default());
        }
    }
    let measured = |o: &dyn Object| Measure::of(class, &resource, o.as_any());
    let before = review.old.filter(|_| review.operation != Operation::Create).map(measured);
    let after = object.filter(|_| review.operation != Operation::Delete).map(measured);
    if before == after {
        return Ok(Charges::default());
    }
    let change = Change {
        name: review.name.to_owned(),
        class,
        count,
        before,
        after,
        enforced: review.subresource != "status",
        resource,
    };
    let mut quotas = Vec::new();
    for stored in &stored {
        let quota: ResourceQuota = decode(&stored.json)?;
        let name = quota.metadata.name.as_deref().unwrap_or("");
        // A quota that is itself deleted has nothing to count any more.
        let own = review.is("", "resourcequotas") && name == review.name;
        if !own && change.apply_to_quota(&quota)?.is_some() {
            quotas.push(Key::new(RESOURCE_QUOTAS.clone(), review.tenant.clone(), review.namespace, name));
        }
    }
    let tenant = match tenant {
        Some(stored) if change.apply_to_tenant(&decode(&stored.json)?)?.is_some() => {
            Some(TenantUsage::key(review.tenant))
        }
        _ => None,
    };
    if quotas.is_empty() && tenant.is_none() {
        return Ok(Charges::default());
    }
    Ok(Charges(Some(Box::new(Bill { quotas, tenant, change }))))
}

/// Decides inside the sequencer: reads the quotas as they are now and returns those whose usage changes, to
/// be written in the same transaction as the object. A quota that is gone meanwhile is left out.
///
/// # Errors
/// 403 when a quota has no room.
pub fn settle<J: AsRef<[u8]>>(
    charges: &Charges,
    read: impl Fn(&Key) -> Option<J>,
) -> Result<Vec<(Key, Account)>, Refusal> {
    let Some(bill) = &charges.0 else { return Ok(Vec::new()) };
    let mut settled = Vec::with_capacity(bill.quotas.len() + 1);
    for key in &bill.quotas {
        let Some(json) = read(key) else { continue };
        let mut quota: ResourceQuota = decode(json.as_ref())?;
        if let Some(used) = bill.change.apply_to_quota(&quota)? {
            quota.status.get_or_insert_default().used = Some(used);
            settled.push((key.clone(), Account::Namespace(Box::new(quota))));
        }
    }
    if let Some(key) = &bill.tenant
        && let Some(json) = read(key)
    {
        let mut usage: TenantUsage = decode(json.as_ref())?;
        if let Some(used) = bill.change.apply_to_tenant(&usage)? {
            usage.status.used = used;
            settled.push((key.clone(), Account::Tenant(Box::new(usage))));
        }
    }
    Ok(settled)
}

/// What a quota is the quota of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bounds {
    Namespace,
    Tenant,
}

/// All scopes of a quota, as selectors.
fn scopes(spec: Option<&ResourceQuotaSpec>) -> Vec<ScopedResourceSelectorRequirement> {
    let Some(spec) = spec else { return Vec::new() };
    let named = spec.scopes.iter().flatten().map(|scope| ScopedResourceSelectorRequirement {
        scope_name: scope.clone(),
        operator: "Exists".to_owned(),
        values: None,
    });
    let selected = spec.scope_selector.iter().flat_map(|s| s.match_expressions.iter().flatten().cloned());
    named.chain(selected).collect()
}

impl Change {
    fn matches(&self, name: &str, bounds: Bounds) -> bool {
        if name == OBJECTS {
            return bounds == Bounds::Tenant;
        }
        self.class.matches(name, &self.count, measure::alias(self.resource.group(), self.resource.resource()))
    }

    fn forbid(&self, why: &str) -> Refusal {
        Refusal::forbidden(self.resource.group(), self.resource.resource(), &self.name, why)
    }

    /// The new usage of a namespace's quota; `None` when it does not change.
    fn apply_to_quota(&self, quota: &ResourceQuota) -> Result<Option<WrittenAmounts>, Refusal> {
        let status = quota.status.as_ref();
        let empty = WrittenAmounts::new();
        let hard = status.and_then(|s| s.hard.as_ref()).unwrap_or(&empty);
        let used = status.and_then(|s| s.used.as_ref()).unwrap_or(&empty);
        let name = quota.metadata.name.as_deref().unwrap_or("");
        let scopes = scopes(quota.spec.as_ref());
        let within = |m: &&Measure| scopes.iter().all(|s| m.is_in(s));
        let (before, after) = (self.before.as_ref().filter(within), self.after.as_ref().filter(within));
        if let Some(after) = after
            && let Some(unsaid) = after.unsaid(|n| hard.contains_key(n))
            && self.enforced
            && before.is_none_or(|b| b.usage != after.usage)
        {
            return Err(self.forbid(&format!("failed quota: {name}: {unsaid}")));
        }
        self.apply(name, hard, used, before, after, Bounds::Namespace)
    }

    /// The new usage of the tenant; `None` when it does not change. Nothing is demanded of pods here: what
    /// does not ask for cpu gets what its machine has left, and machines are charged for.
    fn apply_to_tenant(&self, usage: &TenantUsage) -> Result<Option<WrittenAmounts>, Refusal> {
        let (before, after) = (self.before.as_ref(), self.after.as_ref());
        self.apply(TenantUsage::NAME, &usage.spec.hard, &usage.status.used, before, after, Bounds::Tenant)
    }

    fn apply(
        &self,
        quota: &str,
        hard: &WrittenAmounts,
        used: &WrittenAmounts,
        before: Option<&Measure>,
        after: Option<&Measure>,
        bounds: Bounds,
    ) -> Result<Option<WrittenAmounts>, Refusal> {
        let takes = |m: Option<&Measure>, name: &str| {
            m.and_then(|m| m.usage.get(name)).copied().unwrap_or(Quantity::ZERO)
        };
        let refusing = self.enforced && after.is_some();
        if refusing && hard.keys().any(|n| self.matches(n, bounds) && !used.contains_key(n)) {
            let names: Vec<&str> =
                hard.keys().map(String::as_str).filter(|n| self.matches(n, bounds)).collect();
            return Err(
                self.forbid(&format!("status unknown for quota: {quota}, resources: {}", names.join(",")))
            );
        }
        let mut new: Option<WrittenAmounts> = None;
        let mut exceeded: Vec<(&str, Quantity, Quantity, Quantity)> = Vec::new();
        for (name, limit) in hard {
            let Some(now) = used.get(name).filter(|_| self.matches(name, bounds)).map(amounts::parse) else {
                continue;
            };
            let delta = takes(after, name) - takes(before, name);
            if delta.is_zero() {
                continue;
            }
            let sum = now + delta;
            let limit = amounts::parse(limit);
            if refusing && delta.signum() > 0 && sum > limit {
                exceeded.push((name, delta, now, limit));
            }
            let sum = if sum.signum() < 0 { Quantity::ZERO } else { sum };
            new.get_or_insert_with(|| used.clone()).insert(name.clone(), amounts::write(sum));
        }
        if exceeded.is_empty() {
            return Ok(new);
        }
        Err(self.forbid(&format!(
            "exceeded quota: {quota}, requested: {}, used: {}, limited: {}",
            amounts::show(exceeded.iter().map(|e| (e.0, e.1))),
            amounts::show(exceeded.iter().map(|e| (e.0, e.2))),
            amounts::show(exceeded.iter().map(|e| (e.0, e.3))),
        )))
    }
}

#[cfg(test)]
mod tests;
