//! How often the status of an object is written while it changes all the time.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

/// While pods come and go by the hundred, the status of their owner is written this often. Shorter, and such writes
/// are as many as those of the pods themselves; longer, and people see old numbers.
const INTERVAL: Duration = Duration::from_millis(250);

/// Beyond so many owners remembered, those whose last write is long ago are forgotten.
const SWEEP_ABOVE: usize = 4096;

/// When statuses were last written, by uid. Lost with the process, which costs one write.
#[derive(Default)]
pub(super) struct Pace {
    last: Mutex<FxHashMap<Box<str>, Instant>>,
}

impl Pace {
    /// Whether the status of `uid` may be written now (and then it counts as written), or how long to wait.
    pub(super) fn may_write(&self, uid: &str, settled: bool) -> Result<(), Duration> {
        let now = Instant::now();
        let mut last = self.last.lock();
        if let Some(before) = last.get(uid).filter(|_| !settled) {
            let passed = now.duration_since(*before);
            if passed < INTERVAL {
                return Err(INTERVAL - passed);
            }
        }
        if last.len() > SWEEP_ABOVE {
            last.retain(|_, before| now.duration_since(*before) < INTERVAL);
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
        assert_eq!(pace.may_write("a", false), Ok(()));
        assert!(pace.may_write("a", false).is_err_and(|wait| wait <= INTERVAL));
        assert_eq!(pace.may_write("b", false), Ok(()));
        assert_eq!(pace.may_write("a", true), Ok(()));
    }
}
