//! Labels and selectable fields of an object, compact, so that a selector never decodes JSON.
//!
//! The encoding is persisted with every value: `varint(labels_bytes) labels fields`, each a run of
//! `varint(tag) key varint(len) value`. A tag is `length << 2 | 0b00` for a key spelled out and
//! `number << 2 | 0b10` for one of [`WELL_KNOWN`]; bit 0 marks a field as an index term.

use std::fmt;

/// Keys that most objects repeat, stored as one byte. **Persisted by position: append only, at most 2^5
/// entries if the tag is to stay one byte.**
const WELL_KNOWN: &[&str] = &[
    "spec.nodeName",
    "status.phase",
    "status.podIP",
    "status.nominatedNodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "spec.unschedulable",
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
    "status.replicas",
    "status.successful",
    "spec.signerName",
    "app",
    "k8s-app",
    "pod-template-hash",
    "app.kubernetes.io/name",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/component",
    "app.kubernetes.io/part-of",
    "kubernetes.io/metadata.name",
    "kubernetes.io/hostname",
];

const TAG_INDEXED: u64 = 0b01;
const TAG_WELL_KNOWN: u64 = 0b10;

/// Longest key or value of a label or field: labels have at most 63 bytes and fields hold names and
/// addresses, and all of them stay in memory.
const ATTR_MAX_BYTES: usize = 65_535;
/// Most labels, and most fields, of one object.
const ATTRS_MAX: usize = 65_535;

/// Why attributes cannot be encoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttrsError {
    /// A key or value is too long.
    #[error("the label or field {0:?} is longer than 65535 bytes")]
    TooLong(String),
    /// There are too many.
    #[error("an object may have at most 65535 labels")]
    TooMany,
}

/// Encodes attributes. Leave out a field whose value is empty (selectors read an absent field as empty),
/// and the object's name and namespace, which its key has.
#[derive(Clone, Debug, Default)]
pub struct AttrsBuilder {
    labels: Section,
    fields: Section,
}

#[derive(Clone, Debug, Default)]
struct Section {
    entries: usize,
    bytes: Vec<u8>,
}

impl Section {
    fn add(&mut self, key: &str, value: &str, indexed: bool) -> Result<(), AttrsError> {
        if key.len() > ATTR_MAX_BYTES || value.len() > ATTR_MAX_BYTES {
            return Err(AttrsError::TooLong(key.chars().take(64).collect()));
        }
        self.entries += 1;
        put_entry(&mut self.bytes, key, value, indexed);
        Ok(())
    }
}

impl AttrsBuilder {
    /// Adds a label. The first one given for a key is the one that is found.
    ///
    /// # Errors
    /// When it is too long to encode.
    pub fn label(&mut self, key: &str, value: &str) -> Result<(), AttrsError> {
        self.labels.add(key, value, false)
    }

    /// Adds a selectable field. Objects are also listed and watched by `indexed` ones; each of those costs
    /// every write of the object, so keep it for what is selected on all the time.
    ///
    /// # Errors
    /// When it is too long to encode.
    pub fn field(&mut self, key: &str, value: &str, indexed: bool) -> Result<(), AttrsError> {
        self.fields.add(key, value, indexed)
    }

    /// The encoded form.
    ///
    /// # Errors
    /// When there are too many entries.
    pub fn build(self) -> Result<Vec<u8>, AttrsError> {
        if self.labels.entries > ATTRS_MAX || self.fields.entries > ATTRS_MAX {
            return Err(AttrsError::TooMany);
        }
        if self.labels.entries + self.fields.entries == 0 {
            return Ok(Vec::new());
        }
        let mut out = Vec::with_capacity(self.labels.bytes.len() + self.fields.bytes.len() + 4);
        put_varint(&mut out, self.labels.bytes.len() as u64);
        out.extend_from_slice(&self.labels.bytes);
        out.extend_from_slice(&self.fields.bytes);
        Ok(out)
    }
}

fn put_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn put_entry(out: &mut Vec<u8>, key: &str, value: &str, indexed: bool) {
    let flag = if indexed { TAG_INDEXED } else { 0 };
    match WELL_KNOWN.iter().position(|k| *k == key) {
        Some(number) => put_varint(out, (number as u64) << 2 | TAG_WELL_KNOWN | flag),
        None => {
            put_varint(out, (key.len() as u64) << 2 | flag);
            out.extend_from_slice(key.as_bytes());
        }
    }
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value.as_bytes());
}

/// A view of encoded attributes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Attrs<'a>(&'a [u8]);

impl<'a> Attrs<'a> {
    /// Wraps bytes that came from a disk: `None` unless they are exactly what [`AttrsBuilder`] could
    /// have written, as far as structure and UTF-8 go.
    pub(crate) fn check(bytes: &'a [u8]) -> Option<Attrs<'a>> {
        let view = Attrs(bytes);
        let (labels, fields) = view.split()?;
        for section in [labels, fields] {
            let mut rest = section;
            while !rest.is_empty() {
                take_entry(&mut rest)?;
            }
        }
        Some(view)
    }

    pub(crate) fn trusted(bytes: &'a [u8]) -> Attrs<'a> {
        Attrs(bytes)
    }

    fn split(self) -> Option<(&'a [u8], &'a [u8])> {
        if self.0.is_empty() {
            return Some((&[], &[]));
        }
        let mut rest = self.0;
        let labels_bytes = usize::try_from(take_varint(&mut rest)?).ok()?;
        rest.split_at_checked(labels_bytes)
    }

    fn label_bytes(self) -> &'a [u8] {
        self.split().map_or(&[], |(labels, _)| labels)
    }

    fn field_bytes(self) -> &'a [u8] {
        self.split().map_or(&[], |(_, fields)| fields)
    }

    /// The value of a label.
    #[must_use]
    pub fn label(self, key: &str) -> Option<&'a str> {
        self.labels().find(|(k, _)| *k == key).map(|(_, v)| v)
    }

    /// All labels, in the order in which they were added.
    pub fn labels(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        Entries { rest: self.label_bytes() }.map(|(k, v, _)| (k, v))
    }

    /// The value of a field.
    #[must_use]
    pub fn field(self, key: &str) -> Option<&'a str> {
        self.fields().find(|(k, _)| *k == key).map(|(_, v)| v)
    }

    /// All fields, in the order in which they were added.
    pub fn fields(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        Entries { rest: self.field_bytes() }.map(|(k, v, _)| (k, v))
    }

    /// The fields that are kept in the index.
    pub fn indexed(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        Entries { rest: self.field_bytes() }.filter(|(_, _, indexed)| *indexed).map(|(k, v, _)| (k, v))
    }

    /// Whether the object has an index term.
    #[must_use]
    pub fn has_term(self, field: &str, value: &str) -> bool {
        self.indexed().any(|(f, v)| f == field && v == value)
    }
}

impl fmt::Debug for Attrs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attrs")
            .field("labels", &self.labels().collect::<Vec<_>>())
            .field("fields", &self.fields().collect::<Vec<_>>())
            .field("terms", &self.indexed().map(|t| t.0).collect::<Vec<_>>())
            .finish()
    }
}

struct Entries<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Entries<'a> {
    type Item = (&'a str, &'a str, bool);

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        take_entry(&mut self.rest)
    }
}

fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut n = 0u64;
    for shift in (0..63).step_by(7) {
        let (&byte, tail) = rest.split_first()?;
        *rest = tail;
        n |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(n);
        }
    }
    None
}

fn take_str<'a>(rest: &mut &'a [u8], len: u64) -> Option<&'a str> {
    let (text, tail) = rest.split_at_checked(usize::try_from(len).ok()?)?;
    *rest = tail;
    std::str::from_utf8(text).ok()
}

fn take_entry<'a>(rest: &mut &'a [u8]) -> Option<(&'a str, &'a str, bool)> {
    let tag = take_varint(rest)?;
    let key = if tag & TAG_WELL_KNOWN == 0 {
        take_str(rest, tag >> 2)?
    } else {
        *WELL_KNOWN.get(usize::try_from(tag >> 2).ok()?)?
    };
    let value_len = take_varint(rest)?;
    let value = take_str(rest, value_len)?;
    Some((key, value, tag & TAG_INDEXED != 0))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn key() -> impl Strategy<Value = String> {
        prop_oneof![
            proptest::sample::select(WELL_KNOWN).prop_map(str::to_owned),
            "[a-z./ä]{0,12}",
            "[a-z]{100,200}",
        ]
    }

    proptest! {
        #[test]
        fn reads_back_what_was_built(
            labels in proptest::collection::btree_map(key(), ".{0,20}", 0..8),
            fields in proptest::collection::btree_map(key(), (".{0,200}", any::<bool>()), 0..8),
            absent in "[A-Z]{3}",
        ) {
            let mut builder = AttrsBuilder::default();
            for (k, v) in &labels {
                builder.label(k, v).unwrap();
            }
            for (k, (v, indexed)) in &fields {
                builder.field(k, v, *indexed).unwrap();
            }
            let bytes = builder.build().unwrap();
            let attrs = Attrs::check(&bytes).unwrap();
            let of = |m: &BTreeMap<String, String>| m.clone().into_iter().collect::<Vec<_>>();
            let read: Vec<_> = attrs.labels().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
            prop_assert_eq!(read, of(&labels));
            for (k, v) in &labels {
                prop_assert_eq!(attrs.label(k), Some(v.as_str()));
            }
            let read: Vec<_> = attrs.fields().collect();
            prop_assert_eq!(read, fields.iter().map(|(k, (v, _))| (k.as_str(), v.as_str())).collect::<Vec<_>>());
            for (k, (v, indexed)) in &fields {
                prop_assert_eq!(attrs.field(k), Some(v.as_str()));
                prop_assert_eq!(attrs.has_term(k, v), *indexed);
            }
            prop_assert_eq!(attrs.indexed().count(), fields.values().filter(|(_, indexed)| *indexed).count());
            prop_assert_eq!((attrs.label(&absent), attrs.field(&absent)), (None, None));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let attrs = Attrs::trusted(&bytes);
            let _ = (attrs.labels().count(), attrs.fields().count(), attrs.indexed().count(), Attrs::check(&bytes));
        }
    }

    #[test]
    fn no_attributes_take_no_bytes() {
        assert!(AttrsBuilder::default().build().unwrap().is_empty());
    }

    #[test]
    fn a_well_known_key_takes_one_byte() {
        let mut builder = AttrsBuilder::default();
        builder.field("spec.nodeName", "n", true).unwrap();
        let bytes = builder.build().unwrap();
        assert_eq!(bytes.len(), 4, "length of the labels, tag, length of the value, value");
        assert!(Attrs::trusted(&bytes).has_term("spec.nodeName", "n"));
        assert!(!Attrs::trusted(&bytes).has_term("spec.nodeName", "m"));
    }

    #[test]
    fn what_cannot_be_kept_is_refused() {
        let mut builder = AttrsBuilder::default();
        assert!(matches!(builder.label("k", &"x".repeat(70_000)), Err(AttrsError::TooLong(k)) if k == "k"));
        for n in 0..=ATTRS_MAX {
            builder.label(&n.to_string(), "").unwrap();
        }
        assert_eq!(builder.build(), Err(AttrsError::TooMany));
    }
}
