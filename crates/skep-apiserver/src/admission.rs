//! The seam to `skep-admission`: what it may look at, how its refusals are answered, and how quotas are
//! settled in the same transaction as the write that they are about. Also RBAC's rule that nobody grants
//! what they do not hold, which needs the authorizer itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use skep_admission::{Account, Lookup, Refusal, Stored};
use skep_api::Object;
use skep_auth::attributes::Attributes;
use skep_auth::node::node_of;
use skep_auth::rbac::EscalationError;
use skep_base::{GroupResource, Key, Scope, TenantName};
use skep_store::{Changes, CommitError, Expect, ListOptions, NewValue, Op, Txn, Value};
use smallvec::SmallVec;

use crate::app::App;
use crate::encode::new_value;
use crate::objects::Objects;
use crate::rest::admit::{Operation, Review};
use crate::status::{About, ApiError, Cause, Details};

/// What a write changes in quotas, and what must still hold when it is committed for that to be right.
#[derive(Clone, Debug, Default)]
pub struct Charges {
    /// One for each object that the write is about; none that are empty.
    bills: Vec<skep_admission::Charges>,
    /// That no quota was recounted since; `None` for writes that no quota can be about.
    unchanged: Option<Op>,
}

impl Charges {
    /// Whether there is nothing to settle.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bills.is_empty()
    }

    /// Takes out the condition on which the charges are right.
    pub fn take_condition(&mut self) -> Option<Op> {
        self.unchanged.take()
    }
}

/// One tenant's objects, as admission sees them.
struct TenantObjects<'a> {
    objects: &'a Objects,
    tenant: &'a TenantName,
}

fn stored(value: &Arc<Value>) -> Stored {
    Stored { json: Bytes::from_owner(Json(value.clone())), revision: value.revision() }
}

/// A stored value's JSON, shared.
struct Json(Arc<Value>);

impl AsRef<[u8]> for Json {
    fn as_ref(&self) -> &[u8] {
        self.0.json()
    }
}

impl Lookup for TenantObjects<'_> {
    fn get(&self, resource: &GroupResource, namespace: &str, name: &str) -> Option<Stored> {
        let key = Key::new(resource.clone(), self.tenant.clone(), namespace, name);
        self.objects.get(&key).as_ref().map(stored)
    }

    fn list(&self, resource: &GroupResource, namespace: &str) -> Vec<Stored> {
        let scope = if namespace.is_empty() {
            Scope::Tenant(resource.clone(), self.tenant.clone())
        } else {
            Scope::Namespace(resource.clone(), self.tenant.clone(), namespace.into())
        };
        // The newest state can always be listed.
        let listing = self.objects.list(&scope, &ListOptions::default());
        listing.map(|l| l.items.iter().map(|(_, v)| stored(v)).collect()).unwrap_or_default()
    }

    fn list_stored(&self, resource: &GroupResource) -> Vec<Stored> {
        let scope = Scope::Tenant(resource.clone(), self.tenant.clone());
        self.objects.list_stored(&scope).map(|l| l.iter().map(stored).collect()).unwrap_or_default()
    }

    fn field(&self, resource: &GroupResource, namespace: &str, name: &str, field: &str) -> Option<String> {
        let key = Key::new(resource.clone(), self.tenant.clone(), namespace, name);
        self.objects.get(&key).map(|v| v.attrs().field(field).unwrap_or("").to_owned())
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> ApiError {
        let Refusal { code, reason, message, details } = refusal;
        let causes = details
            .causes
            .into_iter()
            .map(|c| Cause { reason: c.reason, message: c.message, field: c.field })
            .collect();
        let details = Details {
            name: details.name,
            group: details.group,
            kind: details.kind,
            causes,
            ..Details::default()
        };
        ApiError { code, reason, message, details: Some(Box::new(details)) }
    }
}

fn ask<R>(
    review: &Review<'_>,
    run: impl FnOnce(&skep_admission::Review<'_>) -> Result<R, Refusal>,
) -> Result<R, ApiError> {
    let lookup = TenantObjects { objects: &review.app.objects, tenant: review.tenant };
    let authorize = |a: &skep_admission::Attributes<'_>| {
        let attributes = Attributes::resource(review.user, a.verb, a.group, a.resource)
            .in_namespace(a.namespace)
            .named(a.name);
        let target = skep_auth::authorize::Target::Tenant(review.tenant);
        review.app.authorizer.authorize(review.home, target, &attributes).is_allowed()
    };
    let admission = skep_admission::Review {
        lookup: &lookup,
        user: review.user,
        home: review.home,
        tenant: review.tenant,
        info: review.kind.info(),
        namespace: review.namespace,
        name: review.name,
        operation: match review.operation {
            Operation::Create => skep_admission::Operation::Create,
            Operation::Update => skep_admission::Operation::Update,
            Operation::Delete => skep_admission::Operation::Delete,
        },
        subresource: review.subresource,
        old: review.old,
        dry_run: review.dry_run,
        now: review.now,
        warn: review.warn,
        node: node_of(review.user),
        authorize: &authorize,
    };
    run(&admission).map_err(ApiError::from)
}

/// Changes an object before it is checked.
///
/// # Errors
/// What is refused.
pub fn mutate(review: &Review<'_>, object: &mut dyn Object) -> Result<(), ApiError> {
    ask(review, |r| skep_admission::mutate(r, object))
}

/// Refuses what may not be written; `object` is `None` when it is deleted.
///
/// # Errors
/// What is refused.
pub fn validate(review: &Review<'_>, object: Option<&dyn Object>) -> Result<(), ApiError> {
    ask(review, |r| skep_admission::validate(r, object))?;
    match object {
        Some(object) if review.kind.info().group == "rbac.authorization.k8s.io" => {
            no_escalation(review, object)
        }
        _ => Ok(()),
    }
}

/// What a write costs of quotas; `object` is `None` when it is deleted.
///
/// # Errors
/// What is refused.
pub fn charges(review: &Review<'_>, object: Option<&dyn Object>) -> Result<Charges, ApiError> {
    let key = Key::new(review.kind.resource().clone(), review.tenant.clone(), review.namespace, review.name);
    if review.app.objects.is_default(&key) || !ask(review, |r| Ok(skep_admission::may_be_charged(r)))? {
        return Ok(Charges::default());
    }
    // Read before the quotas are: a recount in between is then noticed.
    let unchanged = Some(crate::quota::no_recount_since(review.app, review.tenant));
    let bill = ask(review, |r| skep_admission::charges(r, object))?;
    Ok(Charges { bills: Some(bill).filter(|b| !b.is_empty()).into_iter().collect(), unchanged })
}

/// Adds to the charges of a write those of what is made with it in the same transaction.
///
/// # Errors
/// When there is no room for these.
pub fn charge_companions(
    review: &Review<'_>,
    companions: &[Op],
    charges: &mut Charges,
) -> Result<(), ApiError> {
    for op in companions {
        // A new tenant's objects are counted when its quota is.
        let Op::Put { key, value, .. } = op else { continue };
        if key.tenant != *review.tenant {
            continue;
        }
        let Some(kind) = review.app.registry.stored(&key.resource) else { continue };
        let object = kind.decode_stored(&value.body).map_err(ApiError::internal)?;
        let of_companion = Review {
            kind: kind.as_ref(),
            namespace: &key.namespace,
            name: &key.name,
            operation: Operation::Create,
            subresource: "",
            old: None,
            ..*review
        };
        charges.bills.extend(self::charges(&of_companion, Some(object.as_ref()))?.bills);
    }
    Ok(())
}

fn no_escalation(review: &Review<'_>, object: &dyn Object) -> Result<(), ApiError> {
    let authorizer = &review.app.authorizer;
    let (home, tenant, user) = (review.home, review.tenant, review.user);
    let result: Result<(), EscalationError> = if let Some(role) = object.downcast_ref::<ClusterRole>() {
        let old = review.old.and_then(|o| o.downcast_ref::<ClusterRole>());
        if old.is_some_and(|o| o.rules == role.rules && o.aggregation_rule == role.aggregation_rule) {
            return Ok(());
        }
        let aggregates = role.aggregation_rule.is_some() || old.is_some_and(|o| o.aggregation_rule.is_some());
        let rules = role.rules.as_deref().unwrap_or(&[]);
        authorizer.may_write_role(home, tenant, user, ("", review.name), rules, aggregates)
    } else if let Some(role) = object.downcast_ref::<Role>() {
        if review.old.and_then(|o| o.downcast_ref::<Role>()).is_some_and(|o| o.rules == role.rules) {
            return Ok(());
        }
        let rules = role.rules.as_deref().unwrap_or(&[]);
        authorizer.may_write_role(home, tenant, user, (review.namespace, review.name), rules, false)
    } else if let Some(binding) = object.downcast_ref::<ClusterRoleBinding>() {
        let old = review.old.and_then(|o| o.downcast_ref::<ClusterRoleBinding>());
        if old.is_some_and(|o| o.role_ref == binding.role_ref && o.subjects == binding.subjects) {
            return Ok(());
        }
        authorizer.may_write_binding(home, tenant, user, "", &binding.role_ref)
    } else if let Some(binding) = object.downcast_ref::<RoleBinding>() {
        let old = review.old.and_then(|o| o.downcast_ref::<RoleBinding>());
        if old.is_some_and(|o| o.role_ref == binding.role_ref && o.subjects == binding.subjects) {
            return Ok(());
        }
        authorizer.may_write_binding(home, tenant, user, review.namespace, &binding.role_ref)
    } else {
        Ok(())
    };
    result.map_err(|e| match e {
        EscalationError::RoleNotFound { resource, ref name } => {
            ApiError::not_found(About { group: "rbac.authorization.k8s.io", resource, name })
        }
        e => ApiError::forbidden(About::object(review.kind.info(), review.name), &e.to_string()),
    })
}

/// Commits with quotas settled in the same transaction: inside the sequencer, on what is true at that moment.
///
/// # Errors
/// What a quota refuses.
pub async fn commit_charged(
    app: &App,
    ops: SmallVec<[Op; 1]>,
    charges: Charges,
) -> Result<Result<Changes, CommitError>, ApiError> {
    let quotas = app.kind("", "v1", "resourcequotas").cloned();
    let usages = app.kind("tenancy.skep.io", "v1", "tenantusages").cloned();
    let (Some(quotas), Some(usages)) = (quotas, usages) else {
        return Err(ApiError::internal("quotas are not served"));
    };
    let plan = move |view: &skep_store::View<'_>| -> Result<Txn, ApiError> {
        let mut settled: BTreeMap<Key, NewValue> = BTreeMap::new();
        for bill in &charges.bills {
            // Each bill is settled on what the ones before have left.
            let read = |key: &Key| match settled.get(key) {
                Some(value) => Some(Bytes::copy_from_slice(&value.body)),
                None => view.get(key).map(|value| Bytes::from_owner(Json(value))),
            };
            for (key, account) in skep_admission::settle(bill, read)? {
                let value = match &account {
                    Account::Namespace(quota) => new_value(quotas.as_ref(), quota.as_ref())?,
                    Account::Tenant(usage) => new_value(usages.as_ref(), usage.as_ref())?,
                };
                settled.insert(key, value);
            }
        }
        let mut ops = ops.clone();
        for (key, value) in settled {
            // The quota may itself be what the write is about: then it is not written twice.
            if ops.iter().all(|op| *op.key() != key) {
                ops.push(Op::Put { key, value, expect: Expect::Exists, ttl_s: None });
            }
        }
        Ok(Txn(ops))
    };
    match app.objects.store().commit_with(plan).await {
        Ok(Ok(changes)) => Ok(Ok(changes)),
        Ok(Err(refusal)) => Err(refusal),
        Err(error) => Ok(Err(error)),
    }
}
