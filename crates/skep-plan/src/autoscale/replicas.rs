//! How many replicas one metric asks for.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use crate::pod::Phase;

/// For so long after its start a pod's processor use is not believed, unless it was ready meanwhile, as upstream.
const CPU_INITIALIZATION: SignedDuration = SignedDuration::from_mins(5);
/// A pod that was never ready since so long after its start has not been up yet, as upstream.
const INITIAL_READINESS_DELAY: SignedDuration = SignedDuration::from_secs(30);

/// How far from the target a metric may be without anything being done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerances {
    /// Below.
    pub down: f64,
    /// Above.
    pub up: f64,
}

impl Default for Tolerances {
    fn default() -> Tolerances {
        Tolerances { down: 0.1, up: 0.1 }
    }
}

impl Tolerances {
    fn within(self, ratio: f64) -> bool {
        1.0 - self.down <= ratio && ratio <= 1.0 + self.up
    }
}

/// A metric of one pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When it was taken.
    pub at: Timestamp,
    /// Over how long.
    pub window: SignedDuration,
    /// Its value, in thousandths.
    pub milli: i64,
}

/// Samples by the name of their pod.
pub type Samples = BTreeMap<String, Sample>;

/// A pod, as far as scaling looks at it.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Its phase.
    pub phase: Phase,
    /// Its `Ready` condition: whether it is true, whether it is false, and since when.
    pub ready: Option<Readiness>,
    /// When it was started.
    pub started: Option<Timestamp>,
    /// What its containers request of the resource in question, in thousandths; or what is missing.
    pub request: Result<i64, String>,
}

/// A `Ready` condition.
#[derive(Clone, Copy, Debug)]
pub struct Readiness {
    /// `True`.
    pub yes: bool,
    /// `False`, and not `Unknown`.
    pub no: bool,
    /// Since when.
    pub since: Timestamp,
}

/// What a metric asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// So many replicas.
    pub replicas: i32,
    /// The metric's value: its average per pod, or the whole.
    pub value: i64,
    /// The average in per cent of what pods request.
    pub utilization: Option<i32>,
}

const NO_PODS: &str = "no pods returned by selector while calculating replica count";
const NO_METRICS: &str = "did not receive metrics for targeted pods (pods might be unready)";

struct Groups<'a> {
    ready: usize,
    unready: BTreeSet<&'a str>,
    missing: BTreeSet<&'a str>,
    ignored: BTreeSet<&'a str>,
}

fn group<'a>(now: Timestamp, pods: &'a [Member], samples: &Samples, is_cpu: bool) -> Groups<'a> {
    let mut groups =
        Groups { ready: 0, unready: BTreeSet::new(), missing: BTreeSet::new(), ignored: BTreeSet::new() };
    for pod in pods {
        if pod.deleting || pod.phase == Phase::Failed {
            groups.ignored.insert(&pod.name);
        } else if pod.phase == Phase::Pending {
            groups.unready.insert(&pod.name);
        } else if let Some(sample) = samples.get(&pod.name) {
            if is_cpu && !is_warm(now, pod, sample) {
                groups.unready.insert(&pod.name);
            } else {
                groups.ready += 1;
            }
        } else {
            groups.missing.insert(&pod.name);
        }
    }
    groups
}

/// Whether a pod's processor use says something: it is high while a pod starts.
fn is_warm(now: Timestamp, pod: &Member, sample: &Sample) -> bool {
    let (Some(ready), Some(started)) = (pod.ready, pod.started) else { return false };
    if now.duration_since(started) < CPU_INITIALIZATION {
        // Only a sample that was taken wholly while it was ready.
        !ready.no && sample.at.duration_since(ready.since) >= sample.window
    } else {
        !ready.no || ready.since.duration_since(started) >= INITIAL_READINESS_DELAY
    }
}

/// Takes out what pods do not count that start or end, and says how they stand.
fn prepare<'a>(
    now: Timestamp,
    pods: &'a [Member],
    samples: &mut Samples,
    is_cpu: bool,
) -> Result<Groups<'a>, String> {
    if pods.is_empty() {
        return Err(NO_PODS.to_owned());
    }
    let groups = group(now, pods, samples, is_cpu);
    samples.retain(|name, _| !groups.ignored.contains(&**name) && !groups.unready.contains(&**name));
    if samples.is_empty() {
        return Err(NO_METRICS.to_owned());
    }
    Ok(groups)
}

/// From how far use is from its target to replicas. Pods without a sample are taken to use what speaks against a change:
/// `missing_low` when there are to be fewer, nothing when there are to be more.
fn settle(
    current: i32,
    tolerances: Tolerances,
    groups: &Groups<'_>,
    samples: &mut Samples,
    ratio: f64,
    missing_low: &dyn Fn(&str) -> i64,
    again: &dyn Fn(&Samples) -> Result<f64, String>,
) -> Result<i32, String> {
    let up_with_unready = !groups.unready.is_empty() && ratio > 1.0;
    if !up_with_unready && groups.missing.is_empty() {
        let replicas = ceil(ratio * groups.ready as f64);
        return Ok(if tolerances.within(ratio) { current } else { replicas });
    }
    let guess = |milli| Sample { at: Timestamp::UNIX_EPOCH, window: SignedDuration::ZERO, milli };
    if ratio < 1.0 {
        samples.extend(groups.missing.iter().map(|name| ((*name).to_owned(), guess(missing_low(name)))));
    } else if ratio > 1.0 {
        samples.extend(groups.missing.iter().map(|name| ((*name).to_owned(), guess(0))));
    }
    if up_with_unready {
        samples.extend(groups.unready.iter().map(|name| ((*name).to_owned(), guess(0))));
    }
    let new = again(samples)?;
    if tolerances.within(new) || (ratio < 1.0 && new > 1.0) || (ratio > 1.0 && new < 1.0) {
        return Ok(current);
    }
    let replicas = ceil(new * samples.len() as f64);
    let wrong_way = (new < 1.0 && replicas > current) || (new > 1.0 && replicas < current);
    Ok(if wrong_way { current } else { replicas })
}

fn ceil(value: f64) -> i32 {
    // Saturates.
    value.ceil() as i32
}

/// Use as a part of requests: ratio to the target, per cent, average.
fn utilization(
    samples: &Samples,
    requests: &BTreeMap<&str, i64>,
    target: i32,
) -> Result<(f64, i32, i64), String> {
    let both = samples.iter().filter_map(|(name, s)| Some((s.milli, *requests.get(&**name)?)));
    let (mut used, mut requested, mut entries) = (0_i64, 0_i64, 0_i64);
    for (use_milli, request) in both {
        used = used.saturating_add(use_milli);
        requested = requested.saturating_add(request);
        entries += 1;
    }
    if requested == 0 {
        return Err("no metrics returned matched known pods".to_owned());
    }
    let percent = i32::try_from(used.saturating_mul(100) / requested).unwrap_or(i32::MAX);
    Ok((f64::from(percent) / f64::from(target), percent, used / entries))
}

/// For a resource whose use is to be a part of what pods request.
///
/// # Errors
/// Why nothing can be said, in upstream's words.
pub(super) fn by_utilization(
    now: Timestamp,
    current: i32,
    target_percent: i32,
    tolerances: Tolerances,
    is_cpu: bool,
    pods: &[Member],
    mut samples: Samples,
) -> Result<Proposal, String> {
    let groups = prepare(now, pods, &mut samples, is_cpu)?;
    let mut requests: BTreeMap<&str, i64> = BTreeMap::new();
    for pod in pods {
        requests.insert(&pod.name, pod.request.clone()?);
    }
    let (ratio, percent, raw) = utilization(&samples, &requests, target_percent)?;
    let fallback = i64::from(target_percent.max(100));
    let low = |name: &str| requests.get(name).copied().unwrap_or(0).saturating_mul(fallback) / 100;
    let again = |samples: &Samples| Ok(utilization(samples, &requests, target_percent)?.0);
    let replicas = settle(current, tolerances, &groups, &mut samples, ratio, &low, &again)?;
    Ok(Proposal { replicas, value: raw, utilization: Some(percent) })
}

/// For a metric of each pod whose average is to be a value.
///
/// # Errors
/// Why nothing can be said, in upstream's words.
pub(super) fn by_average(
    now: Timestamp,
    current: i32,
    target_milli: i64,
    tolerances: Tolerances,
    is_cpu: bool,
    pods: &[Member],
    mut samples: Samples,
) -> Result<Proposal, String> {
    let groups = prepare(now, pods, &mut samples, is_cpu)?;
    let average = |samples: &Samples| {
        let sum = samples.values().fold(0_i64, |sum, s| sum.saturating_add(s.milli));
        sum / i64::try_from(samples.len().max(1)).unwrap_or(i64::MAX)
    };
    let value = average(&samples);
    let ratio_of = |value: i64| value as f64 / target_milli as f64;
    let again = |samples: &Samples| Ok(ratio_of(average(samples)));
    let low = |_: &str| target_milli;
    let replicas = settle(current, tolerances, &groups, &mut samples, ratio_of(value), &low, &again)?;
    Ok(Proposal { replicas, value, utilization: None })
}

/// For one value that stands for all pods together.
///
/// # Errors
/// When there are no pods.
pub(super) fn by_value(
    current: i32,
    value_milli: i64,
    target_milli: i64,
    tolerances: Tolerances,
    pods: &[Member],
) -> Result<Proposal, String> {
    let ratio = value_milli as f64 / target_milli as f64;
    let replicas = if current == 0 {
        ceil(ratio)
    } else if tolerances.within(ratio) {
        current
    } else {
        if pods.is_empty() {
            return Err(format!("unable to calculate ready pods: {NO_PODS}"));
        }
        let ready = |p: &&Member| p.phase == Phase::Running && p.ready.is_some_and(|r| r.yes);
        ceil(ratio * pods.iter().filter(ready).count() as f64)
    };
    Ok(Proposal { replicas, value: value_milli, utilization: None })
}

/// For one value that is shared by all pods and of which each is to have so much.
#[must_use]
pub(super) fn by_share(
    replicas: i32,
    value_milli: i64,
    target_milli: i64,
    tolerances: Tolerances,
) -> Proposal {
    let ratio = value_milli as f64 / (target_milli as f64 * f64::from(replicas));
    let wanted =
        if tolerances.within(ratio) { replicas } else { ceil(value_milli as f64 / target_milli as f64) };
    // Saturates: without replicas the share is boundless.
    let value = (value_milli as f64 / f64::from(replicas)).ceil() as i64;
    Proposal { replicas: wanted, value, utilization: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-01T01:00:00Z";

    fn now() -> Timestamp {
        NOW.parse().unwrap()
    }

    fn ago(seconds: i64) -> Timestamp {
        now() - SignedDuration::from_secs(seconds)
    }

    /// Pods that have been ready for long, each requesting one core.
    fn ready(n: usize) -> Vec<Member> {
        (0..n).map(|i| pod(i, Phase::Running, true, 3600, 3500)).collect()
    }

    fn pod(i: usize, phase: Phase, yes: bool, started: i64, since: i64) -> Member {
        Member {
            name: format!("p{i}"),
            deleting: false,
            phase,
            ready: Some(Readiness { yes, no: !yes, since: ago(since) }),
            started: Some(ago(started)),
            request: Ok(1000),
        }
    }

    fn samples(milli: &[i64]) -> Samples {
        let sample = |milli| Sample { at: now(), window: SignedDuration::from_secs(60), milli };
        milli.iter().enumerate().map(|(i, m)| (format!("p{i}"), sample(*m))).collect()
    }

    fn cpu(current: i32, target: i32, pods: &[Member], milli: &[i64]) -> Result<(i32, i32, i64), String> {
        let p = by_utilization(now(), current, target, Tolerances::default(), true, pods, samples(milli))?;
        Ok((p.replicas, p.utilization.unwrap(), p.value))
    }

    #[test]
    fn use_above_and_below_the_target() {
        // Cases of upstream's tests.
        assert_eq!(cpu(3, 30, &ready(3), &[300, 500, 700]), Ok((5, 50, 500)));
        assert_eq!(cpu(5, 50, &ready(5), &[100, 300, 500, 250, 250]), Ok((3, 28, 280)));
        // Within tolerance.
        assert_eq!(cpu(3, 100, &ready(3), &[1010, 1030, 1020]), Ok((3, 102, 1020)));
        let rounded_down = cpu(2, 50, &ready(2), &[550, 550]);
        assert_eq!(rounded_down, Ok((2, 55, 550)));
    }

    #[test]
    fn pods_without_samples_speak_against_a_change() {
        // One of four is unknown: up, it counts as idle; down, as using all it requests.
        assert_eq!(cpu(4, 30, &ready(4), &[400, 500, 700]), Ok((6, 53, 533)));
        assert_eq!(cpu(4, 100, &ready(4), &[100, 200, 300]), Ok((2, 20, 200)));
        // What is left says neither.
        assert_eq!(cpu(2, 100, &ready(2), &[1100]), Ok((2, 110, 1100)));
        assert_eq!(cpu(3, 50, &ready(3), &[]), Err(NO_METRICS.to_owned()));
        assert_eq!(cpu(3, 50, &[], &[]), Err(NO_PODS.to_owned()));
    }

    #[test]
    fn pods_that_start_count_as_idle_when_there_are_to_be_more() {
        let mut pods = ready(3);
        pods[0] = pod(0, Phase::Running, false, 60, 50);
        pods[1] = pod(1, Phase::Running, true, 60, 10);
        // The first is not ready, the second's sample reaches back to before it was.
        assert_eq!(cpu(3, 30, &pods, &[900, 900, 900]), Ok((3, 90, 900)));
        // Later that is believed: it was up once.
        let mut pods = ready(3);
        pods[0] = pod(0, Phase::Running, false, 3600, 60);
        assert_eq!(cpu(3, 30, &pods, &[900, 900, 900]), Ok((9, 90, 900)));
        // Pending ones never.
        let mut pods = ready(2);
        pods.push(Member { ready: None, started: None, ..pod(2, Phase::Pending, false, 0, 0) });
        assert_eq!(cpu(3, 50, &pods, &[600, 600, 0]), Ok((3, 60, 600)));
        // Only processor use is high while a pod starts.
        let pods = vec![pod(0, Phase::Running, false, 60, 50)];
        let memory =
            by_utilization(now(), 1, 50, Tolerances::default(), false, &pods, samples(&[1000])).unwrap();
        assert_eq!(memory.replicas, 2);
    }

    #[test]
    fn failed_and_leaving_pods_do_not_count() {
        let mut pods = ready(4);
        pods[2].phase = Phase::Failed;
        pods[3].deleting = true;
        assert_eq!(cpu(4, 50, &pods, &[500, 500, 9000, 9000]), Ok((4, 50, 500)));
        assert_eq!(cpu(2, 50, &pods, &[1000, 1000, 0, 0]), Ok((4, 100, 1000)));
    }

    #[test]
    fn requests_must_be_known() {
        let mut pods = ready(2);
        pods[1].request = Err("missing request for cpu in container c of Pod p1".to_owned());
        assert_eq!(
            cpu(2, 50, &pods, &[1, 2]),
            Err("missing request for cpu in container c of Pod p1".into())
        );
    }

    #[test]
    fn averages_values_and_shares() {
        let average = |milli: &[i64], current, target, n| {
            let p =
                by_average(now(), current, target, Tolerances::default(), false, &ready(n), samples(milli))
                    .unwrap();
            (p.replicas, p.value)
        };
        assert_eq!(average(&[20_000, 10_000, 30_000], 3, 15_000, 3), (4, 20_000));
        assert_eq!(average(&[12_000, 12_000, 12_000, 12_000, 12_000], 5, 20_000, 5), (3, 12_000));
        // Missing and falling: taken to be on target.
        assert_eq!(average(&[10_000, 10_000], 3, 20_000, 3), (2, 10_000));
        let value = |current, value, target, n| {
            by_value(current, value, target, Tolerances::default(), &ready(n)).map(|p| p.replicas)
        };
        assert_eq!(value(3, 8600, 4400, 3), Ok(6));
        assert_eq!(value(3, 4600, 4400, 3), Ok(3));
        assert_eq!(value(0, 8600, 4400, 0), Ok(2));
        assert!(value(3, 8600, 4400, 0).is_err());
        let shared = by_share(4, 8600, 2150, Tolerances::default());
        assert_eq!((shared.replicas, shared.value), (4, 2150));
        let shared = by_share(3, 8600, 2867, Tolerances::default());
        assert_eq!((shared.replicas, shared.value), (3, 2867));
        assert_eq!(by_share(3, 8600, 1000, Tolerances::default()).replicas, 9);
    }

    #[test]
    fn no_number_overflows() {
        assert_eq!(by_share(0, i64::MAX, 1, Tolerances::default()).replicas, i32::MAX);
        assert_eq!(by_value(1, i64::MAX, 1, Tolerances::default(), &ready(1)).unwrap().replicas, i32::MAX);
        let sum =
            by_average(now(), 1, 1, Tolerances::default(), false, &ready(2), samples(&[i64::MAX, i64::MAX]));
        assert_eq!(sum.unwrap().replicas, i32::MAX);
    }
}
