//! Sets of completion indexes, as ranges, in the form in which a status holds them: `0,2-5,7`.

use std::fmt;

/// A set of indexes: ranges in order, that do not touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Indexes(Vec<(i32, i32)>);

impl Indexes {
    /// From its text; what is no range is left out, and so is what is not below `completions`.
    #[must_use]
    pub fn parse(text: &str, completions: i32) -> Indexes {
        let mut out = Indexes::default();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>())
                && first < completions
            {
                out.push(first, last.min(completions - 1));
            }
        }
        out
    }

    /// Adds a range that begins no earlier than the last one.
    fn push(&mut self, first: i32, last: i32) {
        match self.0.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => self.0.push((first, last)),
        }
    }

    /// How many there are.
    #[must_use]
    pub fn total(&self) -> i32 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// Whether one is among them.
    #[must_use]
    pub fn has(&self, index: i32) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < index);
        self.0.get(at).is_some_and(|(first, _)| *first <= index)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of both.
    #[must_use]
    pub fn union(&self, other: &Indexes) -> Indexes {
        let mut ranges: Vec<(i32, i32)> = self.0.iter().chain(&other.0).copied().collect();
        ranges.sort_unstable();
        let mut out = Indexes::default();
        ranges.into_iter().for_each(|(first, last)| out.push(first, last));
        out
    }

    /// How many are in both.
    #[must_use]
    pub fn overlap(&self, other: &Indexes) -> i32 {
        self.total() + other.total() - self.union(other).total()
    }

    /// The first `count` of those below `completions` that are not among these.
    #[must_use]
    pub fn first_missing(&self, count: usize, completions: i32) -> Vec<i32> {
        let mut out = Vec::with_capacity(count);
        let mut next = 0;
        for (first, last) in self.0.iter().copied().chain([(completions, completions)]) {
            while next < first.min(completions) && out.len() < count {
                out.push(next);
                next += 1;
            }
            next = next.max(last + 1);
        }
        out
    }
}

impl FromIterator<i32> for Indexes {
    fn from_iter<I: IntoIterator<Item = i32>>(iter: I) -> Indexes {
        let mut all: Vec<i32> = iter.into_iter().collect();
        all.sort_unstable();
        let mut out = Indexes::default();
        all.into_iter().for_each(|i| out.push(i, i));
        out
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (first, last)) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            match last - first {
                0 => write!(f, "{first}")?,
                1 => write!(f, "{first},{last}")?,
                _ => write!(f, "{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::Indexes;

    #[test]
    fn texts() {
        // Upstream's TestCalculateSucceededIndexes and its parse tests.
        for text in ["", "0", "0,1", "0-2", "1,3-5,7,8", "0-2,5"] {
            assert_eq!(Indexes::parse(text, 10).to_string(), text);
        }
        assert_eq!(Indexes::parse("0,1,2", 10).to_string(), "0-2");
        assert_eq!(Indexes::parse("0-8", 5).to_string(), "0-4");
        assert_eq!(Indexes::parse("1,x,3-y,5", 10).to_string(), "1,5");
        assert_eq!(Indexes::parse("0-3,7", 7).to_string(), "0-3");
    }

    proptest! {
        #[test]
        fn they_are_sets(a in proptest::collection::btree_set(0..30i32, 0..20), b in proptest::collection::btree_set(0..30i32, 0..20), n in 0..8usize) {
            let (x, y): (Indexes, Indexes) = (a.iter().copied().collect(), b.iter().copied().collect());
            let union: BTreeSet<i32> = &a | &b;
            prop_assert_eq!(x.union(&y), union.iter().copied().collect());
            prop_assert_eq!(x.overlap(&y) as usize, a.intersection(&b).count());
            prop_assert_eq!(x.total() as usize, a.len());
            prop_assert!((0..30).all(|i| x.has(i) == a.contains(&i)));
            prop_assert_eq!(&Indexes::parse(&x.to_string(), 30), &x);
            let missing: Vec<i32> = (0..25).filter(|i| !a.contains(i)).take(n).collect();
            prop_assert_eq!(x.first_missing(n, 25), missing);
        }
    }
}
