//! DefaultTolerationSeconds and TaintNodesByCondition: new nodes take no pods until they are ready, and pods
//! stay for a while on nodes that fail.

use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};

use crate::review::{Operation, Review};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// How long pods stay on a node that fails, in seconds, unless they say otherwise; upstream's default.
const TOLERATION_S: i64 = 300;

pub(crate) fn set_tolerations(review: &Review<'_>, pod: &mut Pod) {
    if !review.is("", "pods")
        || !review.is_main()
        || !matches!(review.operation, Operation::Create | Operation::Update)
    {
        return;
    }
    let tolerations = pod.spec.get_or_insert_default().tolerations.get_or_insert_default();
    for key in [NOT_READY, UNREACHABLE] {
        let blank_or = |value: &Option<String>, wanted: &str| {
            value.as_deref().is_none_or(|v| v.is_empty() || v == wanted)
        };
        if !tolerations.iter().any(|t| blank_or(&t.key, key) && blank_or(&t.effect, "NoExecute")) {
            tolerations.push(Toleration {
                key: Some(key.to_owned()),
                operator: Some("Exists".to_owned()),
                effect: Some("NoExecute".to_owned()),
                toleration_seconds: Some(TOLERATION_S),
                value: None,
            });
        }
    }
}

pub(crate) fn taint(review: &Review<'_>, node: &mut Node) {
    if review.operation != Operation::Create || !review.is_main() {
        return;
    }
    let taints = node.spec.get_or_insert_default().taints.get_or_insert_default();
    if !taints.iter().any(|t| t.key == NOT_READY && t.effect == "NoSchedule") {
        taints.push(Taint { key: NOT_READY.to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() });
    }
}
