//! The one clock of the store.

use std::fmt;

/// A point in the store's history. Every single object change has a revision of its own, given out in
/// strictly rising order by one sequencer; it is what clients see as `metadata.resourceVersion`.
///
/// Revision 0 is the time before anything was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl Revision {
    /// Before the first write.
    pub const ZERO: Revision = Revision(0);

    /// The revision that follows.
    #[must_use]
    pub fn next(self) -> Revision {
        Revision(self.0 + 1)
    }

    /// Reads a client's `resourceVersion`: decimal digits only, as upstream does.
    /// Returns `None` for anything else, the empty string included.
    #[must_use]
    pub fn parse(text: &str) -> Option<Revision> {
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        text.parse().ok().map(Revision)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_only_plain_decimals() {
        assert_eq!(Revision::parse("17"), Some(Revision(17)));
        for bad in ["", "-1", "+1", "1 ", "0x1", "99999999999999999999"] {
            assert_eq!(Revision::parse(bad), None, "{bad:?}");
        }
    }
}
