//! Strings that recur.

use std::borrow::Borrow;
use std::cell::RefCell;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A string that shares its memory with equal ones that the same thread met recently: namespaces, node names, labels,
/// images. A million pods have few different ones of each.
///
/// Equal strings *may* share; nothing depends on it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SharedStr(Arc<str>);

/// How many recent strings a thread remembers: more than the node names, label values and namespaces that a burst of
/// objects mentions, and no more than half a megabyte of text.
const SLOTS: usize = 4096;

/// Longer strings hardly recur, and would be kept alive by the cache alone.
const MAX_BYTES: usize = 128;

thread_local! {
    static RECENT: RefCell<Vec<Option<Arc<str>>>> = const { RefCell::new(Vec::new()) };
}

/// FNV-1a: the strings are short.
fn slot(text: &str) -> usize {
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    // The upper half is mixed better than the lower.
    (hash >> 32) as usize % SLOTS
}

impl SharedStr {
    /// The text, shared where possible.
    #[must_use]
    pub fn new(text: &str) -> SharedStr {
        if text.len() > MAX_BYTES {
            return SharedStr(text.into());
        }
        RECENT.with_borrow_mut(|recent| {
            if recent.is_empty() {
                recent.resize(SLOTS, None);
            }
            let place = &mut recent[slot(text)];
            match place {
                Some(known) if **known == *text => SharedStr(known.clone()),
                _ => SharedStr(place.insert(text.into()).clone()),
            }
        })
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for SharedStr {
    fn default() -> SharedStr {
        SharedStr::new("")
    }
}

impl Deref for SharedStr {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for SharedStr {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for SharedStr {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl From<&str> for SharedStr {
    fn from(text: &str) -> SharedStr {
        SharedStr::new(text)
    }
}

impl From<SharedStr> for Arc<str> {
    fn from(text: SharedStr) -> Arc<str> {
        text.0
    }
}

impl PartialEq<str> for SharedStr {
    fn eq(&self, other: &str) -> bool {
        *self.0 == *other
    }
}

impl PartialEq<&str> for SharedStr {
    fn eq(&self, other: &&str) -> bool {
        *self.0 == **other
    }
}

impl fmt::Display for SharedStr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SharedStr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl<'de> Deserialize<'de> for SharedStr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SharedStr, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = SharedStr;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<SharedStr, E> {
                Ok(SharedStr::new(text))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl Serialize for SharedStr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_strings_share_and_long_ones_do_not() {
        let (a, b) = (SharedStr::new("node-1"), SharedStr::new("node-1"));
        assert!(Arc::ptr_eq(&a.0, &b.0));
        let long = "x".repeat(MAX_BYTES + 1);
        let (c, d) = (SharedStr::new(&long), SharedStr::new(&long));
        assert!(c == d && !Arc::ptr_eq(&c.0, &d.0));
    }

    #[test]
    fn the_text_is_always_the_one_given() {
        // More strings than there are slots: collisions must not mix them up.
        for n in 0..20_000 {
            let text = format!("s{}", n % 7001);
            assert_eq!(SharedStr::new(&text), text.as_str());
        }
    }
}
