//! What selectors look at: labels and selectable fields, kept beside an object's bytes so that selecting
//! never decodes JSON.
//!
//! Layout: label count, field count (`u16` little-endian each), then for every entry the lengths of key
//! and value (`u16` each), a flag byte, key, value. Labels come first, sorted as given.

/// A view of encoded attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attrs<'a>(&'a [u8]);

const HEADER_LEN: usize = 4;
const ENTRY_HEADER_LEN: usize = 5;
const INDEXED: u8 = 1;

/// Why attributes cannot be encoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttrsError {
    /// Lengths are 16-bit: ample for labels (63) and fields (names, addresses).
    #[error("the label or field {0:?} is longer than 65535 bytes")]
    TooLong(String),
    /// Counts are 16-bit too.
    #[error("an object may have at most 65535 labels")]
    TooMany,
}

/// Encodes attributes.
#[derive(Clone, Debug)]
pub struct AttrsBuilder {
    bytes: Vec<u8>,
    labels: usize,
    fields: usize,
}

impl Default for AttrsBuilder {
    fn default() -> Self {
        AttrsBuilder { bytes: vec![0; HEADER_LEN], labels: 0, fields: 0 }
    }
}

impl AttrsBuilder {
    /// Adds a label. All labels come before the first field.
    ///
    /// # Errors
    /// When it is too long to encode.
    pub fn label(&mut self, key: &str, value: &str) -> Result<(), AttrsError> {
        debug_assert_eq!(self.fields, 0, "labels come before fields");
        self.labels += 1;
        self.entry(key, value, 0)
    }

    /// Adds a selectable field; `indexed` ones are also kept in the store's index.
    ///
    /// # Errors
    /// When it is too long to encode.
    pub fn field(&mut self, key: &str, value: &str, indexed: bool) -> Result<(), AttrsError> {
        self.fields += 1;
        self.entry(key, value, if indexed { INDEXED } else { 0 })
    }

    fn entry(&mut self, key: &str, value: &str, flags: u8) -> Result<(), AttrsError> {
        let len =
            |s: &str| u16::try_from(s.len()).map_err(|_| AttrsError::TooLong(key.chars().take(64).collect()));
        self.bytes.extend_from_slice(&len(key)?.to_le_bytes());
        self.bytes.extend_from_slice(&len(value)?.to_le_bytes());
        self.bytes.push(flags);
        self.bytes.extend_from_slice(key.as_bytes());
        self.bytes.extend_from_slice(value.as_bytes());
        Ok(())
    }

    /// The encoded form.
    ///
    /// # Errors
    /// When there are too many entries.
    pub fn build(mut self) -> Result<Vec<u8>, AttrsError> {
        let count = |n: usize| u16::try_from(n).map_err(|_| AttrsError::TooMany);
        self.bytes[..2].copy_from_slice(&count(self.labels)?.to_le_bytes());
        self.bytes[2..4].copy_from_slice(&count(self.fields)?.to_le_bytes());
        Ok(self.bytes)
    }
}

impl<'a> Attrs<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Attrs<'a> {
        Attrs(bytes)
    }

    fn count(self, at: usize) -> usize {
        self.0.get(at..at + 2).map_or(0, |b| usize::from(u16::from_le_bytes([b[0], b[1]])))
    }

    fn entries(self) -> Entries<'a> {
        Entries { rest: self.0.get(HEADER_LEN..).unwrap_or(&[]) }
    }

    /// All labels.
    pub fn labels(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.entries().take(self.count(0)).map(|(k, v, _)| (k, v))
    }

    /// A label's value.
    #[must_use]
    pub fn label(self, key: &str) -> Option<&'a str> {
        self.labels().find(|(k, _)| *k == key).map(|(_, v)| v)
    }

    /// A selectable field's value.
    #[must_use]
    pub fn field(self, key: &str) -> Option<&'a str> {
        self.entries().skip(self.count(0)).find(|(k, _, _)| *k == key).map(|(_, v, _)| v)
    }

    /// The fields that are kept in the index.
    pub fn indexed(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.entries().skip(self.count(0)).filter(|(_, _, f)| f & INDEXED != 0).map(|(k, v, _)| (k, v))
    }
}

struct Entries<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Entries<'a> {
    type Item = (&'a str, &'a str, u8);

    fn next(&mut self) -> Option<Self::Item> {
        let header = self.rest.get(..ENTRY_HEADER_LEN)?;
        let key_len = usize::from(u16::from_le_bytes([header[0], header[1]]));
        let value_len = usize::from(u16::from_le_bytes([header[2], header[3]]));
        let flags = header[4];
        let body = &self.rest[ENTRY_HEADER_LEN..];
        let key = std::str::from_utf8(body.get(..key_len)?).ok()?;
        let value = std::str::from_utf8(body.get(key_len..key_len + value_len)?).ok()?;
        self.rest = &body[key_len + value_len..];
        Some((key, value, flags))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_goes_in_comes_out(
            labels in proptest::collection::btree_map("[a-z]{1,8}", "[a-z]{0,8}", 0..6),
            fields in proptest::collection::btree_map("[a-z.]{1,8}", (".{0,8}", any::<bool>()), 0..6),
        ) {
            let mut b = AttrsBuilder::default();
            for (k, v) in &labels { b.label(k, v).unwrap(); }
            for (k, (v, indexed)) in &fields { b.field(k, v, *indexed).unwrap(); }
            let bytes = b.build().unwrap();
            let attrs = Attrs::new(&bytes);
            for (k, v) in &labels { prop_assert_eq!(attrs.label(k), Some(v.as_str())); }
            for (k, (v, _)) in &fields { prop_assert_eq!(attrs.field(k), Some(v.as_str())); }
            prop_assert_eq!(attrs.indexed().count(), fields.values().filter(|(_, i)| *i).count());
            prop_assert_eq!(attrs.labels().count(), labels.len());
            prop_assert_eq!(attrs.label("UNKNOWN"), None);
        }

        #[test]
        fn damaged_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let attrs = Attrs::new(&bytes);
            let _ = (attrs.label("a"), attrs.field("b"), attrs.indexed().count());
        }
    }

    #[test]
    fn overlong_values_are_refused() {
        let mut b = AttrsBuilder::default();
        assert!(matches!(b.label("k", &"x".repeat(70_000)), Err(AttrsError::TooLong(_))));
    }
}
