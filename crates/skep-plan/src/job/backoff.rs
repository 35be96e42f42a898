//! How long a Job waits before it replaces failed pods.

use std::time::Duration;

use jiff::Timestamp;

use crate::pod::Pod;
use crate::time::Time;

/// The wait after the first failure. It doubles with each further one.
const FIRST_BACKOFF: Duration = Duration::from_secs(10);
/// The longest wait: a Job whose pods fail at once must not keep the whole control plane busy.
const MAX_BACKOFF: Duration = Duration::from_secs(600);

/// What a controller remembers of a Job's failures between syncs. It is lost with the process, which costs a shorter wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    /// Failures since the last success.
    pub failures: u32,
    /// When the last of them was.
    pub last_failure: Option<Time>,
}

pub(super) fn finished(pod: &Pod) -> Time {
    pod.more().finished.or(pod.created).unwrap_or(Time(0))
}

impl Backoff {
    /// With pods that have finished since.
    #[must_use]
    pub fn with(self, succeeded: &[&Pod], failed: &[&Pod]) -> Backoff {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let latest = |pods: &[&Pod]| pods.iter().map(|p| finished(p)).max();
        match (latest(succeeded), latest(failed)) {
            (None, None) => self,
            (None, last_failure) => {
                Backoff { failures: self.failures.saturating_add(count(failed.len())), last_failure }
            }
            (Some(success), _) => {
                let after: Vec<&Pod> = failed.iter().copied().filter(|p| finished(p) > success).collect();
                Backoff { failures: count(after.len()), last_failure: latest(&after) }
            }
        }
    }

    /// How long to wait yet.
    #[must_use]
    pub fn remaining(self, now: Timestamp) -> Option<Duration> {
        let last = self.last_failure.filter(|_| self.failures > 0)?;
        remaining(self.failures, last, now)
    }
}

/// How long to wait after so many failures, the last at `last`.
pub(super) fn remaining(failures: u32, last: Time, now: Timestamp) -> Option<Duration> {
    let doublings = failures.saturating_sub(1).min(16);
    let wait = FIRST_BACKOFF.saturating_mul(1 << doublings).min(MAX_BACKOFF);
    let due = last.timestamp().checked_add(wait).ok()?;
    Duration::try_from(due.duration_since(now)).ok().filter(|d| !d.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::More;

    #[test]
    fn waits_double_up_to_a_limit() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let table = [
            (0, None),
            (1, Some(10)),
            (2, Some(20)),
            (4, Some(80)),
            (6, Some(320)),
            (7, Some(600)),
            (99, Some(600)),
        ];
        for (failures, want) in table {
            let backoff = Backoff { failures, last_failure: Some(Time::of(now)) };
            assert_eq!(backoff.remaining(now), want.map(Duration::from_secs), "{failures}");
        }
        let old = Backoff { failures: 1, last_failure: Some(Time::of(now).plus_seconds(-10)) };
        assert_eq!(old.remaining(now), None);
    }

    #[test]
    fn a_success_forgives_earlier_failures() {
        let at = |t: i64| Pod {
            more: Some(Box::new(More { finished: Some(Time(t)), ..More::default() })),
            ..Pod::default()
        };
        let (a, b, c) = (at(10), at(20), at(30));
        let known = Backoff { failures: 3, last_failure: Some(Time(5)) };
        assert_eq!(known.with(&[], &[]), known);
        assert_eq!(known.with(&[], &[&a, &b]), Backoff { failures: 5, last_failure: Some(Time(20)) });
        assert_eq!(known.with(&[&c], &[&a, &b]), Backoff::default());
        assert_eq!(known.with(&[&a], &[&b, &c]), Backoff { failures: 2, last_failure: Some(Time(30)) });
    }
}
