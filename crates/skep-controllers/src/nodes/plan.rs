//! What a node's health means: its conditions, its taints, and who has to leave it. Pure.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{NodeCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use skep_plan::raw::Toleration;

pub(super) const READY: &str = "Ready";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// How long a node may be silent, as upstream.
pub(super) const MONITOR_GRACE: Duration = Duration::from_secs(50);
/// How long a node that has never said anything may be silent, as upstream.
pub(super) const STARTUP_GRACE: Duration = Duration::from_secs(60);

/// Conditions that the kubelet keeps: nobody knows them when it is silent.
const KUBELETS_CONDITIONS: [&str; 4] = [READY, "MemoryPressure", "DiskPressure", "PIDPressure"];

/// Conditions that become taints: type, status, taint.
const CONDITION_TAINTS: [(&str, &str, &str); 6] = [
    (READY, "False", NOT_READY),
    (READY, "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];

fn condition<'a>(conditions: &'a [NodeCondition], kind: &str) -> Option<&'a NodeCondition> {
    conditions.iter().find(|c| c.type_ == kind)
}

/// The status of the condition `Ready`; unknown when there is none.
pub(super) fn ready(conditions: &[NodeCondition]) -> &str {
    condition(conditions, READY).map_or("Unknown", |c| &c.status)
}

/// What is to be said of a node that has been silent for too long: the conditions that change.
pub(super) fn silent(
    conditions: &[NodeCondition],
    created: Option<Timestamp>,
    now: Timestamp,
) -> Vec<NodeCondition> {
    KUBELETS_CONDITIONS
        .iter()
        .filter_map(|kind| match condition(conditions, kind) {
            None => Some(NodeCondition {
                type_: (*kind).to_owned(),
                status: "Unknown".to_owned(),
                reason: Some("NodeStatusNeverUpdated".to_owned()),
                message: Some("Kubelet never posted node status.".to_owned()),
                last_heartbeat_time: created.map(Time),
                last_transition_time: Some(Time(now)),
            }),
            Some(old) if old.status != "Unknown" => Some(NodeCondition {
                status: "Unknown".to_owned(),
                reason: Some("NodeStatusUnknown".to_owned()),
                message: Some("Kubelet stopped posting node status.".to_owned()),
                last_transition_time: Some(Time(now)),
                ..old.clone()
            }),
            Some(_) => None,
        })
        .collect()
}

fn taint(key: &str, effect: &str, now: Option<Timestamp>) -> Taint {
    Taint { key: key.to_owned(), effect: effect.to_owned(), time_added: now.map(Time), value: None }
}

/// Whether this program decides on a taint.
fn is_ours(taint: &Taint) -> bool {
    match taint.effect.as_str() {
        "NoSchedule" => {
            taint.key == UNSCHEDULABLE || CONDITION_TAINTS.iter().any(|(_, _, key)| *key == taint.key)
        }
        "NoExecute" => taint.key == NOT_READY || taint.key == UNREACHABLE,
        _ => false,
    }
}

/// The taints that a node should have; `None` when it has them. `evict`: whether pods are to leave nodes that are not
/// ready.
pub(super) fn taints(
    now_there: &[Taint],
    conditions: &[NodeCondition],
    unschedulable: bool,
    evict: bool,
    now: Timestamp,
) -> Option<Vec<Taint>> {
    let mut wanted: Vec<(&str, &str)> = CONDITION_TAINTS
        .iter()
        .filter(|(kind, status, _)| condition(conditions, kind).is_some_and(|c| c.status == *status))
        .map(|(_, _, key)| (*key, "NoSchedule"))
        .collect();
    if unschedulable {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    match ready(conditions) {
        _ if !evict || condition(conditions, READY).is_none() => {}
        "False" => wanted.push((NOT_READY, "NoExecute")),
        "Unknown" => wanted.push((UNREACHABLE, "NoExecute")),
        _ => {}
    }
    let mut result: Vec<Taint> = now_there
        .iter()
        .filter(|t| !is_ours(t) || wanted.contains(&(t.key.as_str(), t.effect.as_str())))
        .cloned()
        .collect();
    for (key, effect) in wanted {
        if !result.iter().any(|t| t.key == key && t.effect == effect) {
            // The time of a NoExecute taint is when tolerations begin to run out.
            result.push(taint(key, effect, Some(now)));
        }
    }
    let same = result.len() == now_there.len() && result.iter().all(|t| now_there.contains(t));
    (!same).then_some(result)
}

/// Labels that follow others: those that are missing or wrong.
pub(super) fn labels<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Vec<(&'static str, String)> {
    [("kubernetes.io/os", "beta.kubernetes.io/os"), ("kubernetes.io/arch", "beta.kubernetes.io/arch")]
        .into_iter()
        .filter_map(|(primary, secondary)| {
            let value = get(primary)?;
            (get(secondary) != Some(value)).then(|| (secondary, value.to_owned()))
        })
        .collect()
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    fn text<T: std::ops::Deref<Target = str>>(text: &Option<T>) -> &str {
        text.as_deref().unwrap_or_default()
    }
    let (effect, key) = (text(&toleration.effect), text(&toleration.key));
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    match text(&toleration.operator) {
        "Exists" => true,
        "" | "Equal" => !key.is_empty() && text(&toleration.value) == text(&taint.value),
        "Lt" | "Gt" => {
            let number = |t: &str| t.parse::<i64>().ok();
            match (number(text(&taint.value)), number(text(&toleration.value))) {
                (Some(taint), Some(limit)) if toleration.operator.as_deref() == Some("Lt") => taint < limit,
                (Some(taint), Some(limit)) => taint > limit,
                _ => false,
            }
        }
        _ => false,
    }
}

/// When a pod with these tolerations has to leave a node with these taints; `None` for never.
pub(super) fn leave_at(taints: &[Taint], tolerations: &[Toleration], now: Timestamp) -> Option<Timestamp> {
    let mut leave: Option<Timestamp> = None;
    let mut sooner = |at: Timestamp| leave = Some(leave.map_or(at, |l| l.min(at)));
    for taint in taints.iter().filter(|t| t.effect == "NoExecute") {
        let mut matching = tolerations.iter().filter(|t| tolerates(t, taint)).peekable();
        if matching.peek().is_none() {
            sooner(now);
            continue;
        }
        let seconds = matching.filter_map(|t| t.toleration_seconds).min();
        if let Some(seconds) = seconds {
            let since = taint.time_added.as_ref().map_or(now, |t| t.0);
            let wait = jiff::SignedDuration::from_secs(seconds.max(0));
            sooner(since.checked_add(wait).unwrap_or(Timestamp::MAX));
        }
    }
    leave
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: i64) -> Timestamp {
        Timestamp::from_second(s).unwrap()
    }

    fn cond(kind: &str, status: &str) -> NodeCondition {
        NodeCondition { type_: kind.into(), status: status.into(), ..NodeCondition::default() }
    }

    #[test]
    fn silence_makes_everything_unknown_once() {
        let before =
            [cond(READY, "True"), cond("DiskPressure", "Unknown"), cond("NetworkUnavailable", "False")];
        let changed = silent(&before, Some(at(1)), at(9));
        let kinds: Vec<_> =
            changed.iter().map(|c| (c.type_.as_str(), c.reason.as_deref().unwrap())).collect();
        assert_eq!(
            kinds,
            [
                (READY, "NodeStatusUnknown"),
                ("MemoryPressure", "NodeStatusNeverUpdated"),
                ("PIDPressure", "NodeStatusNeverUpdated")
            ]
        );
        assert!(
            silent(&changed.into_iter().chain([before[1].clone()]).collect::<Vec<_>>(), None, at(10))
                .is_empty()
        );
    }

    #[test]
    fn taints_follow_conditions_and_leave_others_alone() {
        let foreign = taint("example.com/mine", "NoExecute", None);
        let first =
            taints(std::slice::from_ref(&foreign), &[cond(READY, "Unknown")], true, true, at(5)).unwrap();
        let keys: Vec<_> = first.iter().map(|t| (t.key.as_str(), t.effect.as_str())).collect();
        assert_eq!(
            keys,
            [
                ("example.com/mine", "NoExecute"),
                (UNREACHABLE, "NoSchedule"),
                (UNSCHEDULABLE, "NoSchedule"),
                (UNREACHABLE, "NoExecute")
            ]
        );
        assert_eq!(taints(&first, &[cond(READY, "Unknown")], true, true, at(6)), None, "and keep their time");
        let second = taints(&first, &[cond(READY, "False")], false, true, at(7)).unwrap();
        assert!(second.iter().any(|t| t.key == NOT_READY && t.effect == "NoExecute"));
        assert!(!second.iter().any(|t| t.key == UNREACHABLE));
        assert_eq!(taints(&second, &[cond(READY, "True")], false, true, at(8)), Some(vec![foreign]));
        let calm = taints(&[], &[cond(READY, "False")], false, false, at(7)).unwrap();
        assert!(calm.iter().all(|t| t.effect == "NoSchedule"));
        assert_eq!(
            taints(&[], &[], false, true, at(1)),
            None,
            "a node that has not spoken yet is left alone"
        );
    }

    #[test]
    fn pods_leave_when_their_toleration_runs_out() {
        let bad = [taint(UNREACHABLE, "NoExecute", Some(at(100))), taint("x", "NoSchedule", None)];
        let toleration = |key: &str, seconds: Option<i64>| Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            effect: Some("NoExecute".into()),
            toleration_seconds: seconds,
            value: None,
        };
        assert_eq!(leave_at(&bad, &[], at(150)), Some(at(150)));
        assert_eq!(leave_at(&bad, &[toleration(UNREACHABLE, Some(300))], at(150)), Some(at(400)));
        assert_eq!(leave_at(&bad, &[toleration(UNREACHABLE, None)], at(150)), None);
        assert_eq!(
            leave_at(&bad, &[toleration(UNREACHABLE, None), toleration("", Some(10))], at(150)),
            Some(at(110))
        );
        assert_eq!(leave_at(&bad, &[toleration(NOT_READY, None)], at(150)), Some(at(150)));
        assert_eq!(leave_at(&[], &[], at(150)), None);
        let equal = Toleration { key: Some("k".into()), value: Some("v".into()), ..Toleration::default() };
        let valued = Taint { value: Some("v".into()), ..taint("k", "NoExecute", None) };
        assert_eq!(leave_at(&[valued], &[equal], at(1)), None);
    }
}
