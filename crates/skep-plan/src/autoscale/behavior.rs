//! How fast and how far replicas may change: stabilization, policies, bounds.

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use skep_base::Quantity;

/// Without a behavior: how long the highest recommendation counts, as upstream.
const DOWNSCALE_STABILIZATION_S: i32 = 300;
/// Without a behavior: at most so many times the replicas, or so many.
const SCALE_UP_FACTOR: f64 = 2.0;
const SCALE_UP_MINIMUM: f64 = 4.0;

/// `spec.behavior`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Behavior {
    /// Upwards.
    pub scale_up: Rules,
    /// Downwards.
    pub scale_down: Rules,
}

/// Rules for one direction.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rules {
    /// Over how long recommendations are looked at.
    pub stabilization_window_seconds: Option<i32>,
    /// `Max`, `Min`, `Disabled`.
    pub select_policy: Option<String>,
    /// How much in which time.
    pub policies: Option<Vec<Policy>>,
    /// How far from the target nothing is done.
    pub tolerance: Option<Quantity>,
}

/// A limit to change.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// `Pods`, `Percent`.
    #[serde(rename = "type")]
    pub kind: String,
    /// How many.
    pub value: i32,
    /// In how many seconds.
    pub period_seconds: i32,
}

fn policy(kind: &str, value: i32) -> Policy {
    Policy { kind: kind.to_owned(), value, period_seconds: 15 }
}

impl Rules {
    fn up_policies(&self) -> Vec<Policy> {
        self.policies.clone().unwrap_or_else(|| vec![policy("Pods", 4), policy("Percent", 100)])
    }

    fn down_policies(&self) -> Vec<Policy> {
        self.policies.clone().unwrap_or_else(|| vec![policy("Percent", 100)])
    }
}

/// A change of size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Resize {
    by: i32,
    at: Timestamp,
}

/// What was recommended and done before. Lost with the process: then what is there counts as recommended.
#[derive(Clone, Debug, Default)]
pub struct History {
    recommendations: Vec<(i32, Timestamp)>,
    ups: Vec<Resize>,
    downs: Vec<Resize>,
}

/// The longest time that a rule can look back: windows and periods are at most an hour, by validation.
const MEMORY: SignedDuration = SignedDuration::from_hours(1);

impl History {
    /// The first look: what is there counts as recommended.
    pub(super) fn begin(&mut self, now: Timestamp, current: i32) {
        let old = |at: &Timestamp| now.duration_since(*at) > MEMORY;
        self.recommendations.retain(|(_, at)| !old(at));
        self.ups.retain(|r| !old(&r.at));
        self.downs.retain(|r| !old(&r.at));
        if self.recommendations.is_empty() {
            self.recommendations.push((current, now));
        }
    }

    /// A change was made.
    pub(super) fn resized(&mut self, now: Timestamp, from: i32, to: i32) {
        if to > from {
            self.ups.push(Resize { by: to - from, at: now });
        } else {
            self.downs.push(Resize { by: from - to, at: now });
        }
    }

    fn within(&self, now: Timestamp, seconds: i32) -> impl Iterator<Item = i32> + '_ {
        let window = SignedDuration::from_secs(seconds.into());
        self.recommendations.iter().filter(move |(_, at)| now.duration_since(*at) < window).map(|(n, _)| *n)
    }

    /// The size at the beginning of a period.
    fn before(&self, now: Timestamp, current: i32, period_s: i32) -> i32 {
        let period = SignedDuration::from_secs(period_s.into());
        let sum = |all: &[Resize]| -> i32 {
            let recent = all.iter().filter(|r| now.duration_since(r.at) < period);
            recent.fold(0_i32, |sum, r| sum.saturating_add(r.by))
        };
        current.saturating_sub(sum(&self.ups)).saturating_add(sum(&self.downs))
    }
}

/// A size that keeps to the rules, and what to say about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Normalized {
    pub(super) replicas: i32,
    /// Reason and message of `AbleToScale`.
    pub(super) able: (&'static str, &'static str),
    /// Whether the rules stood in the way, and reason and message of `ScalingLimited`.
    pub(super) limited: (bool, &'static str, &'static str),
}

pub(super) struct Wish {
    pub(super) now: Timestamp,
    pub(super) current: i32,
    pub(super) wanted: i32,
    pub(super) min: i32,
    pub(super) max: i32,
}

const READY: (&str, &str) = ("ReadyForNewScale", "recommended size matches current size");
const UP_STABILIZED: (&str, &str) = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);
const DOWN_STABILIZED: (&str, &str) = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
const WITHIN: (&str, &str) = ("DesiredWithinRange", "the desired count is within the acceptable range");
const TOO_MANY: (&str, &str) =
    ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const TOO_FEW: (&str, &str) =
    ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
const UP_LIMIT: (&str, &str) =
    ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const DOWN_LIMIT: (&str, &str) =
    ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");

pub(super) fn normalize(wish: &Wish, behavior: Option<&Behavior>, history: &mut History) -> Normalized {
    let (stable, able) = match behavior {
        Some(behavior) => stabilize(wish, behavior, history),
        None => {
            let highest = history.within(wish.now, DOWNSCALE_STABILIZATION_S + 1).fold(wish.wanted, i32::max);
            (highest, DOWN_STABILIZED)
        }
    };
    history.recommendations.push((wish.wanted, wish.now));
    let (replicas, (reason, message)) = match behavior {
        Some(behavior) => limit(wish, stable, behavior, history),
        None => bound(wish, stable),
    };
    Normalized {
        replicas,
        able: if stable == wish.wanted { READY } else { able },
        limited: (replicas != stable, reason, message),
    }
}

fn stabilize(wish: &Wish, behavior: &Behavior, history: &History) -> (i32, (&'static str, &'static str)) {
    let up_s = behavior.scale_up.stabilization_window_seconds.unwrap_or(0);
    let down_s = behavior.scale_down.stabilization_window_seconds.unwrap_or(DOWNSCALE_STABILIZATION_S);
    let lowest = history.within(wish.now, up_s).fold(wish.wanted, i32::min);
    let highest = history.within(wish.now, down_s).fold(wish.wanted, i32::max);
    // Up to the lowest, then down to the highest: one after the other, for they may cross.
    let stable = wish.current.max(lowest).min(highest);
    (stable, if wish.wanted >= wish.current { UP_STABILIZED } else { DOWN_STABILIZED })
}

fn bound(wish: &Wish, wanted: i32) -> (i32, (&'static str, &'static str)) {
    // Saturates.
    let up = (SCALE_UP_FACTOR * f64::from(wish.current)).max(SCALE_UP_MINIMUM) as i32;
    let (most, why) = if wish.max > up { (up, UP_LIMIT) } else { (wish.max, TOO_MANY) };
    if wanted < wish.min {
        (wish.min, TOO_FEW)
    } else if wanted > most {
        (most, why)
    } else {
        (wanted, WITHIN)
    }
}

fn limit(
    wish: &Wish,
    wanted: i32,
    behavior: &Behavior,
    history: &History,
) -> (i32, (&'static str, &'static str)) {
    if wanted > wish.current {
        let rate = up_limit(wish, &behavior.scale_up, history).max(wish.current);
        let (most, why) = if wish.max > rate { (rate, UP_LIMIT) } else { (wish.max, TOO_MANY) };
        if wanted > most {
            return (most, why);
        }
    } else if wanted < wish.current {
        let rate = down_limit(wish, &behavior.scale_down, history).min(wish.current);
        let (least, why) = if wish.min < rate { (rate, DOWN_LIMIT) } else { (wish.min, TOO_FEW) };
        if wanted < least {
            return (least, why);
        }
    }
    (wanted, WITHIN)
}

fn up_limit(wish: &Wish, rules: &Rules, history: &History) -> i32 {
    let proposals = rules.up_policies().into_iter().map(|p| {
        let before = history.before(wish.now, wish.current, p.period_seconds);
        if p.kind == "Pods" {
            before.saturating_add(p.value)
        } else {
            (f64::from(before) * (1.0 + f64::from(p.value) / 100.0)).ceil() as i32
        }
    });
    match rules.select_policy.as_deref() {
        Some("Disabled") => wish.current,
        Some("Min") => proposals.min().unwrap_or(i32::MAX),
        _ => proposals.max().unwrap_or(i32::MIN),
    }
}

fn down_limit(wish: &Wish, rules: &Rules, history: &History) -> i32 {
    let proposals = rules.down_policies().into_iter().map(|p| {
        let before = history.before(wish.now, wish.current, p.period_seconds);
        if p.kind == "Pods" {
            before.saturating_sub(p.value)
        } else {
            (f64::from(before) * (1.0 - f64::from(p.value) / 100.0)) as i32
        }
    });
    match rules.select_policy.as_deref() {
        Some("Disabled") => wish.current,
        // The least change leaves the most.
        Some("Min") => proposals.max().unwrap_or(i32::MIN),
        _ => proposals.min().unwrap_or(i32::MAX),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    fn wish(seconds: i64, current: i32, wanted: i32) -> Wish {
        Wish { now: at(seconds), current, wanted, min: 1, max: 100 }
    }

    fn behavior(value: Value) -> Behavior {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn without_a_behavior_it_doubles_and_falls_after_five_minutes() {
        let mut history = History::default();
        history.begin(at(0), 3);
        let up = normalize(&wish(0, 3, 20), None, &mut history);
        assert_eq!((up.replicas, up.limited.0, up.limited.1), (6, true, "ScaleUpLimit"));
        let small = normalize(&wish(0, 1, 20), None, &mut History::default());
        assert_eq!(small.replicas, 4);
        let down = normalize(&wish(100, 6, 2), None, &mut history);
        assert_eq!((down.able.0, down.replicas), ("ScaleDownStabilized", 12));
        let mut history = History::default();
        history.begin(at(0), 6);
        assert_eq!(normalize(&wish(299, 6, 2), None, &mut history).replicas, 6);
        let later = normalize(&wish(302, 6, 2), None, &mut history);
        assert_eq!(
            (later.replicas, later.able.0, later.limited.1),
            (2, "ReadyForNewScale", "DesiredWithinRange")
        );
        let most = normalize(&Wish { max: 5, ..wish(0, 3, 9) }, None, &mut History::default());
        assert_eq!((most.replicas, most.limited.1), (5, "TooManyReplicas"));
        let least = normalize(&Wish { min: 2, ..wish(0, 3, 1) }, None, &mut History::default());
        assert_eq!((least.replicas, least.limited.1), (2, "TooFewReplicas"));
    }

    #[test]
    fn policies_count_what_was_done_in_their_period() {
        let b = behavior(json!({"scaleUp": {"policies": [
            {"type": "Pods", "value": 2, "periodSeconds": 60}, {"type": "Percent", "value": 10, "periodSeconds": 60}]}}));
        let mut history = History::default();
        history.begin(at(0), 10);
        let first = normalize(&wish(0, 10, 30), Some(&b), &mut history);
        assert_eq!((first.replicas, first.limited.1), (12, "ScaleUpLimit"));
        history.resized(at(0), 10, 12);
        assert_eq!(normalize(&wish(30, 12, 30), Some(&b), &mut history).replicas, 12);
        assert_eq!(normalize(&wish(61, 12, 30), Some(&b), &mut history).replicas, 14);
        let min = behavior(
            json!({"scaleDown": {"selectPolicy": "Min", "stabilizationWindowSeconds": 0, "policies": [
            {"type": "Pods", "value": 4, "periodSeconds": 60}, {"type": "Percent", "value": 10, "periodSeconds": 60}]}}),
        );
        let down = normalize(&wish(0, 20, 5), Some(&min), &mut History::default());
        assert_eq!((down.replicas, down.limited.1), (18, "ScaleDownLimit"));
        let off =
            behavior(json!({"scaleDown": {"selectPolicy": "Disabled", "stabilizationWindowSeconds": 0}}));
        assert_eq!(normalize(&wish(0, 20, 5), Some(&off), &mut History::default()).replicas, 20);
    }

    #[test]
    fn windows_hold_back_both_ways() {
        let b = behavior(
            json!({"scaleUp": {"stabilizationWindowSeconds": 60}, "scaleDown": {"stabilizationWindowSeconds": 120}}),
        );
        let mut history = History::default();
        history.begin(at(0), 5);
        let up = normalize(&wish(30, 5, 8), Some(&b), &mut history);
        assert_eq!((up.replicas, up.able.0), (5, "ScaleUpStabilized"));
        assert_eq!(normalize(&wish(61, 5, 8), Some(&b), &mut history).replicas, 8);
        let down = normalize(&wish(90, 8, 3), Some(&b), &mut history);
        assert_eq!((down.replicas, down.able.0), (8, "ScaleDownStabilized"));
        assert_eq!(normalize(&wish(182, 8, 3), Some(&b), &mut history).replicas, 3);
    }

    proptest! {
        #[test]
        fn it_stays_within_bounds_and_never_turns_round(
            current in 1..200i32, wanted in 0..400i32, min in 1..20i32, more in 0..100i32,
            rules in proptest::option::of((0..200i32, 1..100i32, 1..100i32)),
        ) {
            let max = min + more;
            let current = current.clamp(min, max);
            let b = rules.map(|(window, value, period)| behavior(json!({
                "scaleUp": {"stabilizationWindowSeconds": window, "policies": [{"type": "Percent", "value": value, "periodSeconds": period}]},
                "scaleDown": {"stabilizationWindowSeconds": window, "policies": [{"type": "Pods", "value": value, "periodSeconds": period}]}})));
            let mut history = History::default();
            history.begin(at(0), current);
            let n = normalize(&Wish { now: at(1), current, wanted, min, max }, b.as_ref(), &mut history);
            prop_assert!((min..=max).contains(&n.replicas), "{n:?}");
            prop_assert!(if wanted >= current { n.replicas >= current } else { n.replicas <= current.max(wanted) }, "{n:?}");
        }
    }
}
