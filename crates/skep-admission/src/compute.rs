//! Machines and hosts: who may write them. Authorization cannot say it, for the administrators of a tenant may
//! everything in it.

use skep_api::Object;
use skep_api::compute::{GROUP, Host, Machine, NodePool};
use skep_api::tenancy::TenantResource;

use crate::amounts;
use crate::quota::TenantUsage;
use crate::refusal::Refusal;
use crate::review::{Operation, Review, TENANT_USAGES};

/// The group of host daemons.
const HOSTS_GROUP: &str = "system:hosts";
/// What the names of their users begin with.
const HOST_USER_PREFIX: &str = "system:host:";

/// The host that a user is the daemon of; an empty name is a daemon that does not say which.
fn host_of<'a>(review: &'a Review<'_>) -> Option<&'a str> {
    let user = review.user;
    if !review.home.is_system() || !user.groups.iter().any(|g| g == HOSTS_GROUP) {
        return None;
    }
    Some(user.name.strip_prefix(HOST_USER_PREFIX).unwrap_or(""))
}

/// `object` is `None` when it is deleted.
pub(crate) fn admit(review: &Review<'_>, object: Option<&dyn Object>) -> Result<(), Refusal> {
    if review.info.group != GROUP {
        return Ok(());
    }
    match &*review.info.plural {
        "machines" if !review.home.is_system() => Err(review.forbid(
            "machines are made, changed and returned by the operator's system only; to have more or fewer of them, \
             change a NodePool or what the pods ask for",
        )),
        "machines" => match host_of(review) {
            Some(host) => machine_of_host(review, host, object.and_then(|o| o.as_any().downcast_ref())),
            None => Ok(()),
        },
        "hosts" => match host_of(review) {
            Some(host) => own_host(review, host, object.and_then(|o| o.as_any().downcast_ref())),
            None => Ok(()),
        },
        "nodepools" => match object.and_then(|o| o.as_any().downcast_ref::<NodePool>()) {
            Some(pool) if review.is_main() => within_quota(review, pool),
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

/// A daemon tells how its machines are, and lets go of what it has taken down. What is wanted is not its to say.
fn machine_of_host(review: &Review<'_>, host: &str, new: Option<&Machine>) -> Result<(), Refusal> {
    if review.operation == Operation::Connect {
        return Ok(());
    }
    let old = review.old_as::<Machine>();
    let (Operation::Update, Some(old), Some(new)) = (review.operation, old, new) else {
        return Err(review.forbid(format!("host {host:?} may neither make nor delete machines")));
    };
    if host.is_empty() || old.spec.host_name.as_deref() != Some(host) {
        return Err(review.forbid(format!("it is not a machine of host {host:?}")));
    }
    if review.is_main() && old.spec != new.spec {
        return Err(review.forbid(format!("host {host:?} may not change what a machine is to be")));
    }
    Ok(())
}

/// A daemon writes its own host and no other.
fn own_host(review: &Review<'_>, host: &str, new: Option<&Host>) -> Result<(), Refusal> {
    let name = new.and_then(|h| h.metadata.name.as_deref()).unwrap_or(review.name);
    if host.is_empty() || name != host {
        return Err(review.forbid(format!("host {host:?} may write no other host")));
    }
    if review.operation == Operation::Delete {
        return Err(review.forbid(format!("host {host:?} may not delete itself; the operator may")));
    }
    let wanted = |h: &Host| h.spec.unschedulable.unwrap_or(false);
    if review.is_main()
        && let (Some(old), Some(new)) = (review.old_as::<Host>(), new)
        && wanted(old) != wanted(new)
    {
        return Err(review.forbid(format!("host {host:?} may not say whether it takes machines")));
    }
    Ok(())
}

/// A pool may not ask for more machines than the operator grants: it would never get them.
fn within_quota(review: &Review<'_>, pool: &NodePool) -> Result<(), Refusal> {
    let Some(usage) = review.get::<TenantUsage>(&TENANT_USAGES, "", TenantUsage::NAME)? else {
        return Ok(());
    };
    let key = TenantResource::Machines.as_str();
    let Some(limit) = usage.spec.hard.get(key).map(amounts::parse) else { return Ok(()) };
    for (field, wanted) in [("minMachines", pool.spec.min_machines), ("maxMachines", pool.spec.max_machines)]
    {
        let Some(wanted) = wanted else { continue };
        let asked = skep_base::Quantity::new(wanted.into(), skep_base::quantity::Format::DecimalSi);
        if asked > limit {
            return Err(review.forbid(format!(
                "exceeded quota: {}, requested: spec.{field}={wanted}, limited: {key}={limit}",
                TenantUsage::NAME
            )));
        }
    }
    Ok(())
}
