//! Delays between attempts that keep failing.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

/// First delay of a container that keeps ending, and of an image that cannot be pulled.
pub const INITIAL: SignedDuration = SignedDuration::from_secs(10);
/// Longest delay. A longer one leaves a repaired container waiting, a shorter one lets a broken one waste the node.
pub const MAX: SignedDuration = SignedDuration::from_secs(300);
/// A container that ran this long begins again with the first delay.
const RESET_AFTER: SignedDuration = SignedDuration::from_secs(600);

/// Delays by key, doubling from [`INITIAL`] to [`MAX`].
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    entries: BTreeMap<String, Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    delay: SignedDuration,
    updated: Timestamp,
}

impl Backoff {
    /// The delay under which an attempt still stands that failed at `since`, and when it ends.
    #[must_use]
    pub fn blocked(
        &self,
        key: &str,
        since: Timestamp,
        now: Timestamp,
    ) -> Option<(SignedDuration, Timestamp)> {
        let entry = self.entries.get(key)?;
        if since.duration_since(entry.updated) > RESET_AFTER {
            return None;
        }
        let until = since.checked_add(entry.delay).unwrap_or(Timestamp::MAX);
        (now < until).then_some((entry.delay, until))
    }

    /// The same for an attempt that is not an event of its own: the delay counts from when it was set.
    #[must_use]
    pub fn blocked_since_update(&self, key: &str, now: Timestamp) -> Option<(SignedDuration, Timestamp)> {
        let entry = self.entries.get(key)?;
        self.blocked(key, entry.updated, now)
    }

    /// Notes an attempt after a failure at `since`: the next delay is twice as long.
    pub fn next(&mut self, key: &str, since: Timestamp, now: Timestamp) {
        let delay = match self.entries.get(key) {
            Some(entry) if since.duration_since(entry.updated) <= RESET_AFTER => (entry.delay * 2).min(MAX),
            _ => INITIAL,
        };
        self.entries.insert(key.to_owned(), Entry { delay, updated: now });
    }

    /// Forgets a key, because what it stands for has worked or is gone.
    pub fn forget(&mut self, key: &str) {
        self.entries.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn delays_double_up_to_the_longest() {
        let mut backoff = Backoff::default();
        let mut now = 1_000;
        assert_eq!(backoff.blocked("a", at(now), at(now)), None, "the first restart does not wait");
        backoff.next("a", at(now), at(now));
        for expected in [10, 20, 40, 80, 160, 300, 300] {
            let failed = now + 1;
            let (delay, until) = backoff.blocked("a", at(failed), at(failed)).unwrap();
            assert_eq!(delay.as_secs(), expected);
            assert_eq!(until, at(failed + expected));
            assert!(backoff.blocked("a", at(failed), at(failed + expected - 1)).is_some());
            assert!(backoff.blocked("a", at(failed), at(failed + expected)).is_none());
            now = failed + expected;
            backoff.next("a", at(failed), at(now));
        }
    }

    #[test]
    fn ten_good_minutes_begin_anew() {
        let mut backoff = Backoff::default();
        for _ in 0..4 {
            backoff.next("a", at(0), at(0));
        }
        assert!(backoff.blocked("a", at(600), at(600)).is_some());
        assert_eq!(backoff.blocked("a", at(601), at(601)), None);
        backoff.next("a", at(601), at(601));
        assert_eq!(backoff.blocked("a", at(602), at(602)).unwrap().0, INITIAL);
    }
}
