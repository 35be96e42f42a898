//! How often the status of an object is written while it changes all the time.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

/// While an owner's pods come and go, its status is written so much later for each of them. Shorter, and such writes are as many as
/// those of the pods themselves: of the requests by which a hundred pods come to run they would be a third. Longer, and people, and
/// rollouts that wait for what is available, see old numbers.
const INTERVAL_OF_POD: Duration = Duration::from_millis(5);

/// But not less: a write takes some milliseconds, and as many pods as come meanwhile are in the next.
const INTERVAL_MIN: Duration = Duration::from_millis(50);

/// And not more, however many pods there are: nobody looks at numbers that are older than that.
const INTERVAL_MAX: Duration = Duration::from_secs(1);

fn interval(pods: i32) -> Duration {
    INTERVAL_OF_POD.saturating_mul(u32::try_from(pods).unwrap_or(0)).clamp(INTERVAL_MIN, INTERVAL_MAX)
}

/// Beyond so many owners remembered, those whose last write is long ago are forgotten.
const SWEEP_ABOVE: usize = 4096;

/// When statuses were last written, by uid. Lost with the process, which costs one write.
#[derive(Default)]
pub(super) struct Pace {
    last: Mutex<FxHashMap<Box<str>, Instant>>,
}

impl Pace {
    /// Whether the status of `uid`, an owner of so many pods, may be written now (and then it counts as written), or how long to wait.
    /// What is `settled`, which nothing will follow, is written at once.
    pub(super) fn may_write(&self, uid: &str, pods: i32, settled: bool) -> Result<(), Duration> {
        let interval = interval(pods);
        let now = Instant::now();
        let mut last = self.last.lock();
        if let Some(before) = last.get(uid).filter(|_| !settled) {
            let passed = now.duration_since(*before);
            if passed < interval {
                return Err(interval - passed);
            }
        }
        if last.len() > SWEEP_ABOVE {
            last.retain(|_, before| now.duration_since(*before) < INTERVAL_MAX);
        }
        last.insert(uid.into(), now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_written_once_and_its_end_at_once() {
        let pace = Pace::default();
        assert_eq!(pace.may_write("a", 1000, false), Ok(()));
        assert!(pace.may_write("a", 1000, false).is_err_and(|wait| wait <= INTERVAL_MAX));
        assert_eq!(pace.may_write("b", 1000, false), Ok(()));
        assert_eq!(pace.may_write("a", 1000, true), Ok(()));
    }

    #[test]
    fn the_more_pods_the_rarer() {
        assert_eq!((interval(0), interval(-1), interval(3)), (INTERVAL_MIN, INTERVAL_MIN, INTERVAL_MIN));
        assert_eq!(interval(100), Duration::from_millis(500));
        assert_eq!((interval(5000), interval(i32::MAX)), (INTERVAL_MAX, INTERVAL_MAX));
    }
}
