//! Requests and limits: names, amounts, sums over a pod, its quality of service.

use std::collections::{BTreeMap, HashSet};

use k8s_openapi::api::core::v1::{
    Container, Pod, PodResourceClaim, PodSpec, ResourceClaim, ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use skep_base::Quantity as Amount;

use super::checks;
use super::view::{Names, is_sidecar, items, text};
use crate::field::{ErrorKind, Errors, FieldError, Path};
use crate::kinds::core::resources::{self as names, may_overcommit, validate_quantity};

const HUGE_PAGES_PREFIX: &str = "hugepages-";

/// Huge pages of some size.
pub(super) fn is_huge_pages(name: &str) -> bool {
    name.starts_with(HUGE_PAGES_PREFIX)
}

/// Whether it can be given for a pod as a whole.
pub(super) fn is_pod_level(name: &str) -> bool {
    is_compute(name) || is_huge_pages(name)
}

/// What the quality of service is computed from.
fn is_compute(name: &str) -> bool {
    matches!(name, "cpu" | "memory")
}

/// The amount, or `None` for a malformed one.
pub(super) fn amount(quantity: &Quantity) -> Option<Amount> {
    quantity.0.trim().parse().ok()
}

/// Whether there is no fraction.
pub(super) fn is_integer(amount: Amount) -> bool {
    amount.milli_value() % 1000 == 0
}

/// Requests or limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Requests,
    Limits,
}

fn list(container: &Container, side: Side) -> impl Iterator<Item = (&str, Amount)> {
    let list = container.resources.as_ref().and_then(|r| match side {
        Side::Requests => r.requests.as_ref(),
        Side::Limits => r.limits.as_ref(),
    });
    list.into_iter().flatten().filter_map(|(name, q)| Some((name.as_str(), amount(q)?)))
}

type Sums<'a> = BTreeMap<&'a str, Amount>;

fn add<'a>(sums: &mut Sums<'a>, name: &'a str, amount: Amount) {
    match sums.get_mut(name) {
        Some(sum) => *sum += amount,
        None => _ = sums.insert(name, amount),
    }
}

fn raise<'a>(sums: &mut Sums<'a>, from: &Sums<'a>) {
    for (name, amount) in from {
        if sums.get(name).is_none_or(|s| amount > s) {
            sums.insert(name, *amount);
        }
    }
}

/// What a pod's containers need together: those that run at the same time added up, and at least what
/// every init container needs beside the sidecars that were started before it.
pub(super) fn aggregate(spec: &PodSpec, side: Side) -> Sums<'_> {
    let mut sums = Sums::new();
    for container in &spec.containers {
        for (name, amount) in list(container, side) {
            add(&mut sums, name, amount);
        }
    }
    let mut sidecars = Sums::new();
    let mut init = Sums::new();
    for container in items(&spec.init_containers) {
        if is_sidecar(container) {
            for (name, amount) in list(container, side) {
                add(&mut sums, name, amount);
                add(&mut sidecars, name, amount);
            }
            raise(&mut init, &sidecars);
        } else {
            let mut together = sidecars.clone();
            for (name, amount) in list(container, side) {
                add(&mut together, name, amount);
            }
            raise(&mut init, &together);
        }
    }
    raise(&mut sums, &init);
    sums
}

/// The quality of service that a pod gets for what it requests.
pub fn qos_class(pod: &Pod) -> &'static str {
    let Some(spec) = &pod.spec else { return "BestEffort" };
    let mut requests: Sums<'static> = Sums::new();
    let mut limits: Sums<'static> = Sums::new();
    let mut guaranteed = true;
    let mut take = |resources: Option<&ResourceRequirements>, limits_matter: bool| {
        let positive = |list: Option<&BTreeMap<String, Quantity>>, sums: &mut Sums<'static>| -> usize {
            let mut found = 0;
            for name in ["cpu", "memory"] {
                let Some(a) = list.and_then(|l| l.get(name)).and_then(amount) else { continue };
                if a.signum() > 0 {
                    add(sums, name, a);
                    found += 1;
                }
            }
            found
        };
        positive(resources.and_then(|r| r.requests.as_ref()), &mut requests);
        let limited = positive(resources.and_then(|r| r.limits.as_ref()), &mut limits);
        if limits_matter && limited < 2 {
            guaranteed = false;
        }
    };
    match &spec.resources {
        Some(pod) => take(Some(pod), pod.limits.as_ref().is_some_and(|l| !l.is_empty())),
        None => {
            for container in spec.containers.iter().chain(items(&spec.init_containers)) {
                take(container.resources.as_ref(), true);
            }
        }
    }
    if requests.is_empty() && limits.is_empty() {
        "BestEffort"
    } else if guaranteed && requests == limits {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

/// Whose resources are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Container,
    Pod,
}

fn validate_name(name: &str, level: Level, path: &Path<'_>, errors: &mut Errors) {
    match level {
        // What nearly every container has needs no more looking at.
        _ if is_compute(name) => {}
        Level::Container => names::validate_container_name(name, path, errors),
        Level::Pod => {
            if names::validate_name(name, path, errors) && !is_pod_level(name) {
                errors.not_supported(path, name, &["cpu", "hugepages-", "memory"]);
            }
        }
    }
}

fn validate_huge_pages(name: &str, quantity: &Quantity, path: &Path<'_>, errors: &mut Errors) {
    let size = name.strip_prefix(HUGE_PAGES_PREFIX).and_then(|s| s.parse::<Amount>().ok());
    let divisible = match (size, amount(quantity)) {
        (Some(size), Some(amount)) if size.signum() > 0 && is_integer(size) => {
            amount.value() % size.value() == 0
        }
        _ => false,
    };
    if !divisible {
        let detail = format!("{} is not positive integer multiple of {name}", quantity.0);
        errors.invalid(path, quantity.0.as_str(), &detail);
    }
}

/// Requests and limits of a container or of a pod as a whole. `claims` are those of the pod.
pub(super) fn validate_requirements(
    resources: &ResourceRequirements,
    level: Level,
    claims: &[PodResourceClaim],
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let (limits_path, requests_path) = (path.child("limits"), path.child("requests"));
    let mut compute = false;
    let mut huge_pages = false;
    for (name, quantity) in resources.limits.iter().flatten() {
        let path = limits_path.key(name);
        validate_name(name, level, &path, errors);
        validate_quantity(name, quantity, &path, errors);
        if is_huge_pages(name) {
            huge_pages = true;
            validate_huge_pages(name, quantity, &path, errors);
        }
        compute |= is_compute(name);
    }
    for (name, quantity) in resources.requests.iter().flatten() {
        let path = requests_path.key(name);
        validate_name(name, level, &path, errors);
        validate_quantity(name, quantity, &path, errors);
        match resources.limits.as_ref().and_then(|l| l.get(name)) {
            Some(limit) if limit != quantity => {
                if let (Some(requested), Some(allowed)) = (amount(quantity), amount(limit)) {
                    let shown = quantity.0.as_str();
                    if requested != allowed && !may_overcommit(name) {
                        let detail = format!("must be equal to {name} limit of {}", limit.0);
                        errors.invalid(&requests_path, shown, &detail);
                    } else if requested > allowed {
                        let detail = format!("must be less than or equal to {name} limit of {}", limit.0);
                        errors.invalid(&requests_path, shown, &detail);
                    }
                }
            }
            None if !may_overcommit(name) => {
                errors.required(&limits_path, "Limit must be set for non overcommitable resources");
            }
            _ => {}
        }
        if is_huge_pages(name) {
            huge_pages = true;
            validate_huge_pages(name, quantity, &path, errors);
        }
        compute |= is_compute(name);
    }
    if huge_pages && !compute {
        errors.forbidden(path, "HugePages require cpu or memory");
    }
    validate_claims(items(&resources.claims), claims, &path.child("claims"), errors);
}

/// What running the pod costs beside its containers.
pub fn validate_overhead(overhead: &BTreeMap<String, Quantity>, path: &Path<'_>, errors: &mut Errors) {
    let limits = ResourceRequirements { limits: Some(overhead.clone()), ..Default::default() };
    validate_requirements(&limits, Level::Container, &[], path, errors);
}

fn validate_claims(
    claims: &[ResourceClaim],
    pod_claims: &[PodResourceClaim],
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if claims.is_empty() {
        return;
    }
    let mut known = Names::new();
    for claim in pod_claims.iter().filter(|c| !c.name.is_empty()) {
        known.add(&claim.name);
    }
    // Claims used as a whole, claims of which some request is used, and the requests used.
    let (mut whole, mut partly) = (Names::new(), Names::new());
    let mut requests = HashSet::new();
    for (i, claim) in claims.iter().enumerate() {
        let path = path.index(i);
        let (name, request) = (claim.name.as_str(), text(&claim.request));
        if name.is_empty() {
            errors.required(&path, "");
            continue;
        }
        if whole.has(name) {
            errors.duplicate(&path, name);
        } else if request.is_empty() {
            if partly.has(name) {
                errors.duplicate(&path, name);
            }
            whole.add(name);
        } else {
            checks::dns_label(request, &path.child("request"), errors);
            if !requests.insert((name, request)) {
                errors.duplicate(&path, format!("{name}/{request}"));
            }
            partly.add(name);
        }
        if !known.has(name) {
            let mut detail = "must be one of the names in pod.spec.resourceClaims".to_owned();
            if known.is_empty() {
                detail.push_str(" which is empty");
            } else {
                let mut names: Vec<&str> = pod_claims.iter().map(|c| c.name.as_str()).collect();
                names.sort_unstable();
                names.dedup();
                detail.push_str(": ");
                detail.push_str(&names.join(", "));
            }
            errors.push(FieldError {
                kind: ErrorKind::NotFound,
                field: path.to_string(),
                message: format!("Not found: {name:?}: {detail}"),
            });
        }
    }
}

/// Resources of the pod as a whole, and whether its containers fit into them.
pub(super) fn validate_pod_resources(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let Some(pod) = &spec.resources else { return };
    let path = path.child("resources");
    if spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        errors.forbidden(&path, "may not be set for a windows pod");
        return;
    }
    if pod.claims.is_some() {
        errors.forbidden(&path.child("claims"), "claims may not be set for Resources at pod-level");
    }
    validate_requirements(pod, Level::Pod, items(&spec.resource_claims), &path, errors);

    let too_small = |list: &Option<BTreeMap<String, Quantity>>, name: &str, needed: &Amount| {
        let given = list.as_ref()?.get(name)?;
        (needed > &amount(given)?).then(|| given.0.clone())
    };
    for (name, needed) in aggregate(spec, Side::Requests) {
        if let Some(given) = too_small(&pod.requests, name, &needed) {
            let detail = format!("must be greater than or equal to aggregate container requests of {needed}");
            errors.invalid(&path.child("requests").key(name), given, &detail);
        }
    }
    for (name, needed) in aggregate(spec, Side::Limits) {
        if !is_huge_pages(name) {
            continue;
        }
        if let Some(given) = too_small(&pod.limits, name, &needed) {
            let detail = format!("must be greater than or equal to aggregate container limits of {needed}");
            errors.invalid(&path.child("limits").key(name), given, &detail);
        }
    }
    for (i, container) in spec.containers.iter().enumerate() {
        let limits = container.resources.as_ref().and_then(|r| r.limits.as_ref());
        for (name, limit) in limits.into_iter().flatten() {
            let Some(whole) = pod.limits.as_ref().and_then(|l| l.get(name)) else { continue };
            if let (Some(one), Some(all)) = (amount(limit), amount(whole))
                && one > all
            {
                let detail = format!("must be less than or equal to pod limits of {}", whole.0);
                errors.invalid(
                    &path.child("containers").index(i).key(name).child("limits"),
                    limit.0.as_str(),
                    &detail,
                );
            }
        }
    }
}
