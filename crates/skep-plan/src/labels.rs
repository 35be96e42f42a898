//! Labels, packed.

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use skep_base::SharedStr;

use crate::raw::Text;

/// Labels in one allocation, sorted by key: `key\0value\0key\0value\0`. Neither part can hold a NUL byte (label
/// syntax), so nothing needs escaping; a pod has about three, and finding one by walking is as fast as any map. Equal ones,
/// as the pods of one owner have them, share their memory.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Labels(SharedStr);

impl Labels {
    /// The value of a label.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter().find(|(k, _)| *k == key).map(|(_, v)| v)
    }

    /// All of them, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut parts = self.0.split_terminator('\0');
        std::iter::from_fn(move || Some((parts.next()?, parts.next()?)))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether every one of `other` is here too, with the same value.
    #[must_use]
    pub fn contains_all(&self, other: &Labels) -> bool {
        other.iter().all(|(k, v)| self.get(k) == Some(v))
    }

    /// These and one more, which replaces one of the same key.
    #[must_use]
    pub fn with(&self, key: &str, value: &str) -> Labels {
        self.iter().filter(|(k, _)| *k != key).chain([(key, value)]).collect()
    }

    /// These without one.
    #[must_use]
    pub fn without(&self, key: &str) -> Labels {
        self.iter().filter(|(k, _)| *k != key).collect()
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Labels {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(iter: I) -> Labels {
        let mut pairs: Vec<(&str, &str)> = iter.into_iter().collect();
        pairs.sort_unstable();
        let mut text = String::with_capacity(pairs.iter().map(|(k, v)| k.len() + v.len() + 2).sum());
        for (key, value) in pairs {
            text.push_str(key);
            text.push('\0');
            text.push_str(value);
            text.push('\0');
        }
        Labels(SharedStr::new(&text))
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Labels, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Labels;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of labels")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Labels, A::Error> {
                let mut pairs: Vec<(Text<'de>, Text<'de>)> = Vec::new();
                while let Some((key, value)) = map.next_entry::<Text<'de>, Text<'de>>()? {
                    if key.contains('\0') || value.contains('\0') {
                        return Err(serde::de::Error::custom("a label holds a NUL byte"));
                    }
                    pairs.push((key, value));
                }
                Ok(pairs.iter().map(|(k, v)| (&**k, &**v)).collect())
            }

            fn visit_unit<E>(self) -> Result<Labels, E> {
                Ok(Labels::default())
            }
        }
        deserializer.deserialize_any(Pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::Labels;

    #[test]
    fn labels_keep_empty_values_and_order() {
        let labels: Labels = serde_json::from_str(r#"{"b":"","a":"1"}"#).unwrap();
        assert_eq!(labels.iter().collect::<Vec<_>>(), [("a", "1"), ("b", "")]);
        assert_eq!(labels.get("b"), Some(""));
        assert_eq!(labels.get("c"), None);
        assert_eq!(serde_json::to_string(&labels.with("a", "2")).unwrap(), r#"{"a":"2","b":""}"#);
        assert!(labels.contains_all(&labels.without("a")));
        assert!(!labels.without("a").contains_all(&labels));
    }
}
