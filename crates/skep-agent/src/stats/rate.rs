//! Processor time per time, out of a counter that is read now and then.

/// A rate over less than this is noise: the kernel adds up processor time in ticks.
pub const MIN_WINDOW_MS: u64 = 5_000;
/// What began so recently has used nothing before: its start counts as a reading of 0. Of what began earlier, a mean over its whole life would
/// be taken for what it does now.
pub const FRESH_MS: u64 = 60_000;

/// A reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// When, on a clock that only goes forward.
    pub at_ms: u64,
    /// The counter.
    pub cpu_ns: u64,
}

/// The last two readings of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Track {
    newest: Point,
    before: Option<Point>,
}

/// A rate, and over which time it is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The window.
    pub window_ms: u64,
    /// Billionths of a processor.
    pub nanocores: u64,
}

impl Track {
    /// A counter that is seen for the first time; `began_ms` is when it was 0, if that is known.
    #[must_use]
    pub fn new(first: Point, began_ms: Option<u64>) -> Track {
        let began = began_ms.filter(|at| *at < first.at_ms && first.at_ms - at <= FRESH_MS);
        Track { newest: first, before: began.map(|at_ms| Point { at_ms, cpu_ns: 0 }) }
    }

    /// Another reading, to be kept.
    pub fn push(&mut self, point: Point) {
        self.before = Some(self.newest);
        self.newest = point;
    }

    /// The rate up to a reading that is not kept.
    #[must_use]
    pub fn rate(&self, now: Point) -> Option<Rate> {
        let old_enough = |p: &Point| p.at_ms + MIN_WINDOW_MS <= now.at_ms;
        let from = Some(self.newest).filter(old_enough).or_else(|| self.before.filter(old_enough))?;
        let window_ms = now.at_ms - from.at_ms;
        // A counter that goes back is another one.
        let used_ns = now.cpu_ns.checked_sub(from.cpu_ns)?;
        let nanocores = u128::from(used_ns) * 1_000 / u128::from(window_ms);
        Some(Rate { window_ms, nanocores: u64::try_from(nanocores).unwrap_or(u64::MAX) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, cpu_ms: u64) -> Point {
        Point { at_ms: seconds * 1_000, cpu_ns: cpu_ms * 1_000_000 }
    }

    #[test]
    fn rates_need_two_readings_and_some_time() {
        let mut track = Track::new(at(100, 5_000), None);
        assert_eq!(track.rate(at(100, 5_000)), None);
        assert_eq!(track.rate(at(104, 9_000)), None, "too soon");
        let half = Rate { window_ms: 10_000, nanocores: 500_000_000 };
        assert_eq!(track.rate(at(110, 10_000)), Some(half));
        track.push(at(108, 9_000));
        // The newest is too new: from the one before.
        assert_eq!(track.rate(at(110, 10_000)), Some(half));
        assert_eq!(track.rate(at(118, 9_000)), Some(Rate { window_ms: 10_000, nanocores: 0 }));
        assert_eq!(track.rate(at(118, 8_999)), None, "another counter");
    }

    #[test]
    fn what_is_new_is_measured_from_its_beginning() {
        let track = Track::new(at(100, 3_000), Some(97_000));
        assert_eq!(track.rate(at(101, 3_000)), None);
        let rate = track.rate(at(102, 5_000)).unwrap();
        assert_eq!(rate, Rate { window_ms: 5_000, nanocores: 1_000_000_000 });
        // What ran long before its first reading may have been busy once.
        assert_eq!(Track::new(at(100, 3_000), Some(10_000)).rate(at(104, 3_000)), None);
        // A start in the future is a clock that was set.
        assert_eq!(Track::new(at(100, 3_000), Some(200_000)).rate(at(104, 3_000)), None);
    }
}
