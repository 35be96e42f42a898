//! LimitRanger: containers get the namespace's default requests and limits, and pods and claims stay within
//! its bounds.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, LimitRange, LimitRangeItem, PersistentVolumeClaim, Pod};
use skep_base::Quantity;

use crate::amounts::{self, Amounts, WrittenAmounts};
use crate::pods::{self, Half, Rules};
use crate::refusal::Refusal;
use crate::review::{LIMIT_RANGES, Operation, Review};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// Amounts above this are compared in whole units, as upstream does.
const MAX_MILLI_VALUE: i64 = i64::MAX / 1000;

/// The ranges that apply to the write; none for writes that the plugin leaves alone.
fn ranges(review: &Review<'_>) -> Result<Vec<LimitRange>, Refusal> {
    let concerned = match review.operation {
        Operation::Create => review.is_main(),
        // Containers cannot change except by a resize.
        Operation::Update if review.is("", "pods") => review.subresource == "resize",
        Operation::Update => review.is_main(),
        Operation::Delete | Operation::Connect => false,
    };
    if !concerned || review.old.is_some_and(|o| o.meta().deletion_timestamp.is_some()) {
        return Ok(Vec::new());
    }
    review.list(&LIMIT_RANGES, review.namespace)
}

fn items(range: &LimitRange) -> impl Iterator<Item = &LimitRangeItem> {
    range.spec.iter().flat_map(|s| &s.limits)
}

pub(crate) fn mutate_pod(review: &Review<'_>, pod: &mut Pod) -> Result<(), Refusal> {
    for range in ranges(review)? {
        set_defaults(&range, pod);
    }
    Ok(())
}

pub(crate) fn validate_pod(review: &Review<'_>, pod: &Pod) -> Result<(), Refusal> {
    for range in ranges(review)? {
        let mut complaints = Vec::new();
        for item in items(&range) {
            check_pod(item, pod, &mut complaints);
        }
        refuse(review, complaints)?;
    }
    Ok(())
}

pub(crate) fn validate_claim(review: &Review<'_>, claim: &PersistentVolumeClaim) -> Result<(), Refusal> {
    for range in ranges(review)? {
        let mut complaints = Vec::new();
        let resources = claim.spec.as_ref().and_then(|s| s.resources.as_ref());
        let asked = Asked {
            kind: "PersistentVolumeClaim",
            requests: amounts::parse_all(resources.and_then(|r| r.requests.as_ref())),
            limits: Amounts::new(),
        };
        for item in items(&range).filter(|i| i.type_ == asked.kind) {
            complaints.extend(each(item.min.as_ref(), |name, bound| asked.below(name, bound)));
            complaints.extend(each(item.max.as_ref(), |name, bound| asked.request_above(name, bound)));
        }
        refuse(review, complaints)?;
    }
    Ok(())
}

fn refuse(review: &Review<'_>, mut complaints: Vec<String>) -> Result<(), Refusal> {
    let mut seen = Vec::new();
    complaints.retain(|c| {
        !seen.contains(c) && {
            seen.push(c.clone());
            true
        }
    });
    match complaints.as_slice() {
        [] => Ok(()),
        [one] => Err(review.forbid(one)),
        many => Err(review.forbid(format!("[{}]", many.join(", ")))),
    }
}

fn set_defaults(range: &LimitRange, pod: &mut Pod) {
    let (mut requests, mut limits) = (WrittenAmounts::new(), WrittenAmounts::new());
    for item in items(range).filter(|i| i.type_ == "Container") {
        requests.extend(item.default_request.iter().flatten().map(|(n, q)| (n.clone(), q.clone())));
        limits.extend(item.default.iter().flatten().map(|(n, q)| (n.clone(), q.clone())));
    }
    let Some(spec) = &mut pod.spec else { return };
    let mut notes = Vec::new();
    for container in &mut spec.containers {
        set_container_defaults(container, "container", &requests, &limits, &mut notes);
    }
    for container in spec.init_containers.iter_mut().flatten() {
        set_container_defaults(container, "init container", &requests, &limits, &mut notes);
    }
    if !notes.is_empty() {
        let note = format!("LimitRanger plugin set: {}", notes.join("; "));
        pod.metadata.annotations.get_or_insert_default().insert(ANNOTATION.to_owned(), note);
    }
}

fn set_container_defaults(
    container: &mut Container,
    noun: &str,
    requests: &WrittenAmounts,
    limits: &WrittenAmounts,
    notes: &mut Vec<String>,
) {
    let name = container.name.clone();
    for (half, defaults) in [("request", requests), ("limit", limits)] {
        let has = container.resources.as_ref().and_then(|r| match half {
            "request" => r.requests.as_ref(),
            _ => r.limits.as_ref(),
        });
        let missing: WrittenAmounts = defaults
            .iter()
            .filter(|(n, _)| has.is_none_or(|h| !h.contains_key(*n)))
            .map(|(n, q)| (n.clone(), q.clone()))
            .collect();
        if missing.is_empty() {
            continue;
        }
        let names: Vec<&str> = missing.keys().map(String::as_str).collect();
        notes.push(format!("{} {half} for {noun} {name}", names.join(", ")));
        let resources = container.resources.get_or_insert_default();
        let list = if half == "request" { &mut resources.requests } else { &mut resources.limits };
        list.get_or_insert_default().extend(missing);
    }
}

fn check_pod(item: &LimitRangeItem, pod: &Pod, complaints: &mut Vec<String>) {
    let mut check = |asked: &Asked| {
        complaints.extend(each(item.min.as_ref(), |name, bound| asked.below(name, bound)));
        complaints.extend(each(item.max.as_ref(), |name, bound| asked.above(name, bound)));
        complaints.extend(each(item.max_limit_request_ratio.as_ref(), |name, bound| {
            asked.out_of_ratio(name, bound)
        }));
    };
    match item.type_.as_str() {
        "Container" => {
            let spec = pod.spec.iter();
            for container in spec.flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()))
            {
                check(&Asked {
                    kind: "Container",
                    requests: amounts::parse_all(Half::Requests.of(container.resources.as_ref())),
                    limits: amounts::parse_all(Half::Limits.of(container.resources.as_ref())),
                });
            }
        }
        "Pod" => {
            let rules = Rules { status: false, overhead: false, pod_level_huge_pages: false };
            check(&Asked {
                kind: "Pod",
                requests: pods::resources(pod, Half::Requests, rules),
                limits: pods::resources(pod, Half::Limits, rules),
            });
        }
        _ => {}
    }
}

fn each<'a>(
    bounds: Option<&'a BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>,
    check: impl Fn(&str, Quantity) -> Option<String> + 'a,
) -> impl Iterator<Item = String> + 'a {
    bounds.into_iter().flatten().filter_map(move |(name, bound)| check(name, amounts::parse(bound)))
}

/// What something asks for.
struct Asked {
    kind: &'static str,
    requests: Amounts,
    limits: Amounts,
}

/// Values of the same precision: thousandths, or units where thousandths would overflow.
fn comparable<const N: usize>(amounts: [Quantity; N]) -> [i64; N] {
    if amounts.iter().all(|q| q.value() <= MAX_MILLI_VALUE) {
        amounts.map(Quantity::milli_value)
    } else {
        amounts.map(Quantity::value)
    }
}

impl Asked {
    fn of(&self, name: &str) -> (Option<Quantity>, Option<Quantity>) {
        (self.requests.get(name).copied(), self.limits.get(name).copied())
    }

    fn below(&self, name: &str, bound: Quantity) -> Option<String> {
        let (request, limit) = self.of(name);
        let [r, l, b] = comparable([request.unwrap_or_default(), limit.unwrap_or_default(), bound]);
        let rule = format!("minimum {name} usage per {} is {bound}", self.kind);
        match (request, limit) {
            (None, _) => Some(format!("{rule}.  No request is specified")),
            (Some(request), _) if r < b => Some(format!("{rule}, but request is {request}")),
            (_, Some(limit)) if l < b => Some(format!("{rule}, but limit is {limit}")),
            _ => None,
        }
    }

    fn above(&self, name: &str, bound: Quantity) -> Option<String> {
        let (request, limit) = self.of(name);
        let [r, l, b] = comparable([request.unwrap_or_default(), limit.unwrap_or_default(), bound]);
        let rule = format!("maximum {name} usage per {} is {bound}", self.kind);
        match (request, limit) {
            (_, None) => Some(format!("{rule}.  No limit is specified")),
            (_, Some(limit)) if l > b => Some(format!("{rule}, but limit is {limit}")),
            (Some(request), _) if r > b => Some(format!("{rule}, but request is {request}")),
            _ => None,
        }
    }

    /// For things that have no limits.
    fn request_above(&self, name: &str, bound: Quantity) -> Option<String> {
        let rule = format!("maximum {name} usage per {} is {bound}", self.kind);
        let Some(request) = self.of(name).0 else { return Some(format!("{rule}.  No request is specified")) };
        let [r, b] = comparable([request, bound]);
        (r > b).then(|| format!("{rule}, but request is {request}"))
    }

    fn out_of_ratio(&self, name: &str, bound: Quantity) -> Option<String> {
        let (request, limit) = self.of(name);
        let [r, l, _] = comparable([request.unwrap_or_default(), limit.unwrap_or_default(), bound]);
        let rule = format!("{name} max limit to request ratio per {} is {bound}", self.kind);
        if r == 0 {
            return Some(format!("{rule}, but no request is specified or request is 0"));
        }
        if l == 0 {
            return Some(format!("{rule}, but no limit is specified or limit is 0"));
        }
        let ratio = l as f64 / r as f64;
        let too_much = if bound.value() <= MAX_MILLI_VALUE {
            ratio * 1000.0 > bound.milli_value() as f64
        } else {
            ratio > bound.value() as f64
        };
        too_much.then(|| format!("{rule}, but provided ratio is {ratio:.6}"))
    }
}
