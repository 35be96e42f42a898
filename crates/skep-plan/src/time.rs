//! Times as objects carry them: whole seconds.

use std::fmt;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A time of an object, in seconds since 1970: eight bytes, for there is one in every pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub i64);

impl Time {
    /// The second that `now` is in.
    #[must_use]
    pub fn of(now: Timestamp) -> Time {
        Time(now.as_second())
    }

    /// The exact beginning of this second.
    #[must_use]
    pub fn timestamp(self) -> Timestamp {
        Timestamp::from_second(self.0).unwrap_or(if self.0 < 0 { Timestamp::MIN } else { Timestamp::MAX })
    }

    /// So many seconds later.
    #[must_use]
    pub fn plus_seconds(self, seconds: i64) -> Time {
        Time(self.0.saturating_add(seconds))
    }

    /// How long from `now` until this second begins; `None` when it has begun.
    #[must_use]
    pub fn after(self, now: Timestamp) -> Option<Duration> {
        let left: SignedDuration = self.timestamp().duration_since(now);
        Duration::try_from(left).ok().filter(|d| !d.is_zero())
    }

    /// How long ago this second began, as of `now`; negative when it has not.
    #[must_use]
    pub fn since(self, now: Timestamp) -> SignedDuration {
        now.duration_since(self.timestamp())
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.timestamp().fmt(f)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Time, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map(Time::of).map_err(serde::de::Error::custom)
    }
}
