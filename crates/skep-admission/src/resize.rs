//! PodResizeValidator: a running pod does not grow beyond what its node has.

use k8s_openapi::api::core::v1::{Node, Pod};

use crate::amounts;
use crate::pods::{self, Half, Rules};
use crate::refusal::{Cause, Refusal};
use crate::review::{NODES, Operation, Review};

pub(crate) fn validate(review: &Review<'_>, pod: &Pod) -> Result<(), Refusal> {
    if review.operation != Operation::Update || !review.is("", "pods") || review.subresource != "resize" {
        return Ok(());
    }
    let name = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or("");
    let unchanged =
        review.old_as::<Pod>().is_some_and(|old| old.metadata.generation == pod.metadata.generation);
    if name.is_empty() || unchanged {
        return Ok(());
    }
    let Some(node) = review.get::<Node>(&NODES, "", name)? else {
        return Err(review.forbid(format!("node {name:?} not found")));
    };
    let because = |reason: &'static str, why: String| {
        let mut refusal = review.forbid(why);
        refusal.details.causes.push(Cause { reason, message: String::new(), field: String::new() });
        refusal
    };
    let system = node.metadata.labels.as_ref().and_then(|l| l.get("kubernetes.io/os"));
    if let Some(system) = system.filter(|s| *s != "linux") {
        return Err(because(
            "UnsupportedPlatform",
            format!("pod resize is only supported on linux nodes, node {name:?} is {system:?}"),
        ));
    }
    let rules = Rules { status: false, overhead: true, pod_level_huge_pages: true };
    let requests = pods::resources(pod, Half::Requests, rules);
    let allocatable = amounts::parse_all(node.status.as_ref().and_then(|s| s.allocatable.as_ref()));
    let (mut lacking, of) =
        (Vec::new(), |list: &amounts::Amounts, n: &str| list.get(n).copied().unwrap_or_default());
    let (asked, has) = (of(&requests, "cpu"), of(&allocatable, "cpu"));
    if asked > has {
        lacking.push(format!("cpu, requested: {}, allocatable: {}", asked.milli_value(), has.milli_value()));
    }
    let (asked, has) = (of(&requests, "memory"), of(&allocatable, "memory"));
    if asked > has {
        lacking.push(format!("memory, requested: {}, allocatable: {}", asked.value(), has.value()));
    }
    if lacking.is_empty() {
        return Ok(());
    }
    Err(because(
        "NodeCapacity",
        format!("node didn't have enough allocatable resources: {}", lacking.join("; ")),
    ))
}
