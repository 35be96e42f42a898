//! Stored objects: immutable bytes with their revision already inside.

use std::fmt;
use std::sync::Arc;

use skep_base::{GroupResource, Key, Revision};
use smallvec::SmallVec;

use crate::attrs::Attrs;

/// Path bytes built on the stack for a look-up; longer ones spill to the heap.
pub(crate) type PathBuf = SmallVec<[u8; 128]>;

/// Longest path that is stored: a tenant, a namespace and a name of 253 characters each, several times over.
pub(crate) const PATH_MAX_BYTES: usize = 4096;

/// What a caller wants stored: JSON with a place for the digits of the revision, which the store fills in
/// when the write gets one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewValue {
    /// The JSON without the digits.
    pub body: Vec<u8>,
    /// Where in `body` the digits belong; inside the metadata.
    pub revision_at: u32,
    /// Where the metadata's `{` is; before `revision_at`.
    pub meta_start: u32,
    /// Just behind the metadata's `}`, counted without the digits; behind `revision_at`.
    pub meta_end: u32,
    /// Encoded attributes, from [`AttrsBuilder`](crate::AttrsBuilder).
    pub attrs: Vec<u8>,
}

impl NewValue {
    /// What is wrong with it, if anything.
    pub(crate) fn fault(&self) -> Option<&'static str> {
        let in_order = self.meta_start <= self.revision_at && self.revision_at <= self.meta_end;
        if !in_order || self.meta_end as usize > self.body.len() {
            return Some("the offsets of a value lie outside its body or not in order");
        }
        if Attrs::check(&self.attrs).is_none() {
            return Some("a value's attributes were not made by an AttrsBuilder");
        }
        None
    }
}

/// The fixed part of a value, as it is persisted too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) revision: Revision,
    /// Unix seconds; 0 when the value does not expire.
    pub(crate) expires_at_s: u32,
    pub(crate) path_len: u16,
    pub(crate) attrs_len: u32,
    /// These are offsets into the JSON with the revision in it.
    pub(crate) revision_at: u32,
    pub(crate) meta_start: u32,
    pub(crate) meta_end: u32,
}

/// An object as it is stored and served.
///
/// Whoever keeps a clone of the `Arc` keeps the memory. One allocation besides the `Arc`'s own holds
/// everything, the path by which the tables are ordered included: `path | attributes | JSON`.
#[derive(PartialEq, Eq)]
pub struct Value {
    header: Header,
    bytes: Box<[u8]>,
}

impl Value {
    pub(crate) fn new(path: &[u8], new: &NewValue, revision: Revision, expires_at_s: u32) -> Value {
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(revision.0).as_bytes();
        let (before, after) = new.body.split_at((new.revision_at as usize).min(new.body.len()));
        let mut bytes = Vec::with_capacity(path.len() + new.attrs.len() + new.body.len() + digits.len());
        for part in [path, &new.attrs, before, digits, after] {
            bytes.extend_from_slice(part);
        }
        // The casts are exact: the sequencer has refused longer paths and bodies.
        let header = Header {
            revision,
            expires_at_s,
            path_len: path.len() as u16,
            attrs_len: new.attrs.len() as u32,
            revision_at: new.revision_at,
            meta_start: new.meta_start,
            meta_end: new.meta_end + digits.len() as u32,
        };
        Value { header, bytes: bytes.into_boxed_slice() }
    }

    /// A value that is shown but never stored (dry runs): `revision` may be any.
    #[must_use]
    pub fn unstored(new: &NewValue, revision: Revision) -> Value {
        Value::new(&[], new, revision, 0)
    }

    /// Puts together what an engine has read back; `None` when the parts do not fit each other.
    pub(crate) fn restore(header: Header, bytes: &[u8]) -> Option<Value> {
        let (path, rest) = bytes.split_at_checked(header.path_len as usize)?;
        let (attrs, json) = rest.split_at_checked(header.attrs_len as usize)?;
        Attrs::check(attrs)?;
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(header.revision.0).as_bytes();
        let at = header.revision_at as usize;
        let fits = path_is_valid(std::str::from_utf8(path).ok()?)
            && header.meta_start <= header.meta_end
            && header.meta_end as usize <= json.len()
            && json.get(at..at.checked_add(digits.len())?) == Some(digits);
        fits.then(|| Value { header, bytes: bytes.into() })
    }

    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// `path | attributes | JSON`: what an engine keeps besides the header.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn path_bytes(&self) -> &[u8] {
        &self.bytes[..self.header.path_len as usize]
    }

    /// `tenant NUL namespace NUL name`.
    pub(crate) fn path(&self) -> &str {
        // Paths are made from text, and checked when they come from a disk.
        std::str::from_utf8(self.path_bytes()).unwrap_or_default()
    }

    /// Its key, if it is one of a resource's; `None` for what was never stored.
    #[must_use]
    pub fn key(&self, resource: &GroupResource) -> Option<Key> {
        Key::from_path(resource.clone(), self.path())
    }

    fn json_at_byte(&self) -> usize {
        self.header.path_len as usize + self.header.attrs_len as usize
    }

    /// The revision at which it was written.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.header.revision
    }

    /// The object, as clients receive it.
    #[must_use]
    pub fn json(&self) -> &[u8] {
        &self.bytes[self.json_at_byte()..]
    }

    /// Its metadata: a JSON object of its own.
    #[must_use]
    pub fn meta(&self) -> &[u8] {
        &self.json()[self.header.meta_start as usize..self.header.meta_end as usize]
    }

    /// The object with another revision in it: watchers are told of a deletion with the object as it was
    /// and the revision of its end.
    #[must_use]
    pub fn json_at(&self, revision: Revision) -> Vec<u8> {
        let range = self.revision_range();
        let json = self.json();
        let mut digits = itoa::Buffer::new();
        let mut out = Vec::with_capacity(json.len() + 4);
        out.extend_from_slice(&json[..range.start]);
        out.extend_from_slice(digits.format(revision.0).as_bytes());
        out.extend_from_slice(&json[range.end..]);
        out
    }

    /// Where in [`Value::json`] the digits of the revision are.
    #[must_use]
    pub fn revision_range(&self) -> std::ops::Range<usize> {
        let start = self.header.revision_at as usize;
        start..start + self.header.revision.0.checked_ilog10().unwrap_or(0) as usize + 1
    }

    /// What selectors look at.
    #[must_use]
    pub fn attrs(&self) -> Attrs<'_> {
        Attrs::trusted(&self.bytes[self.header.path_len as usize..self.json_at_byte()])
    }

    /// Unix time in seconds after which it goes by itself.
    #[must_use]
    pub fn expires_at_s(&self) -> Option<u64> {
        (self.header.expires_at_s != 0).then_some(u64::from(self.header.expires_at_s))
    }

    /// How much memory it takes, roughly.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        // The `Arc`'s two counters, the fixed part, and the rest.
        2 * size_of::<usize>() + size_of::<Value>() + self.bytes.len()
    }
}

/// The JSON, so that `Bytes::from_owner` can serve it without a copy.
impl AsRef<[u8]> for Value {
    fn as_ref(&self) -> &[u8] {
        self.json()
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Value")
            .field("path", &self.path())
            .field("revision", &self.revision().0)
            .field("json", &String::from_utf8_lossy(self.json()))
            .field("attrs", &self.attrs())
            .field("expires_at_s", &self.expires_at_s())
            .finish()
    }
}

/// Three parts, of which the first is a tenant's name and the last is not empty.
fn path_is_valid(path: &str) -> bool {
    let mut parts = path.split('\0');
    let (Some(tenant), Some(_), Some(name), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    path.len() <= PATH_MAX_BYTES && !name.is_empty() && skep_base::name::is_dns1123_label(tenant)
}

/// [`Key::path`] without an allocation.
pub(crate) fn path_of(key: &Key) -> PathBuf {
    let mut path = PathBuf::new();
    path.extend_from_slice(key.tenant.as_str().as_bytes());
    path.push(0);
    path.extend_from_slice(key.namespace.as_bytes());
    path.push(0);
    path.extend_from_slice(key.name.as_bytes());
    path
}

/// Makes keys of stored values, sharing tenant and namespace between neighbours.
pub(crate) struct Keys<'a> {
    resource: &'a GroupResource,
    last: Option<Key>,
}

impl<'a> Keys<'a> {
    pub(crate) fn new(resource: &'a GroupResource) -> Keys<'a> {
        Keys { resource, last: None }
    }

    /// The key of a stored value.
    pub(crate) fn of(&mut self, value: &Value) -> Key {
        let path = value.path();
        if let Some(last) = &self.last
            && let Some(rest) = path.strip_prefix(last.tenant.as_str()).and_then(|r| r.strip_prefix('\0'))
            && let Some(name) = rest.strip_prefix(&*last.namespace).and_then(|r| r.strip_prefix('\0'))
        {
            return Key { name: Arc::from(name), ..last.clone() };
        }
        let key = Key::from_path(self.resource.clone(), path)
            .expect("paths are checked when values are made and when they are read back");
        self.last = Some(key.clone());
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_base::TenantName;

    fn new_value() -> NewValue {
        let body = br#"{"metadata":{"resourceVersion":"","name":"x"},"spec":{}}"#.to_vec();
        NewValue { revision_at: 32, meta_start: 12, meta_end: 45, body, attrs: Vec::new() }
    }

    #[test]
    fn the_revision_goes_into_its_place() {
        for revision in [0, 1, 9, 10, 1234, u64::MAX] {
            let v = Value::unstored(&new_value(), Revision(revision));
            let json = format!(r#"{{"metadata":{{"resourceVersion":"{revision}","name":"x"}},"spec":{{}}}}"#);
            assert_eq!(std::str::from_utf8(v.json()).unwrap(), json);
            assert_eq!(v.meta(), format!(r#"{{"resourceVersion":"{revision}","name":"x"}}"#).as_bytes());
            assert_eq!(&v.json()[v.revision_range()], revision.to_string().as_bytes());
            assert_eq!(v.json_at(Revision(77)), Value::unstored(&new_value(), Revision(77)).json());
        }
    }

    #[test]
    fn only_what_fits_is_restored() {
        let v = Value::new(b"t\0ns\0x", &new_value(), Revision(1234), 7);
        let good = *v.header();
        assert_eq!(Value::restore(good, v.bytes()).unwrap(), v);
        let bad = [
            Header { path_len: 5, ..good },
            Header { path_len: u16::MAX, ..good },
            Header { attrs_len: 1, ..good },
            Header { attrs_len: u32::MAX, ..good },
            Header { revision: Revision(1235), ..good },
            Header { revision_at: u32::MAX, ..good },
            Header { meta_start: good.meta_end + 1, ..good },
            Header { meta_end: u32::MAX, ..good },
        ];
        for header in bad {
            assert!(Value::restore(header, v.bytes()).is_none(), "{header:?}");
        }
    }

    #[test]
    fn faults_are_found() {
        assert_eq!(new_value().fault(), None);
        for (revision_at, meta_start, meta_end) in [(32, 33, 45), (46, 12, 45), (32, 12, 60), (99, 99, 99)] {
            let new = NewValue { revision_at, meta_start, meta_end, ..new_value() };
            assert!(new.fault().is_some(), "{revision_at} {meta_start} {meta_end}");
        }
        assert!(NewValue { attrs: vec![1], ..new_value() }.fault().is_some());
    }

    #[test]
    fn keys_are_those_that_were_stored() {
        let pods = GroupResource::new("", "pods");
        let mut keys = Keys::new(&pods);
        for (t, ns, n) in
            [("a", "x", "1"), ("a", "x", "2"), ("a", "x-y", "2"), ("a-b", "x", "2"), ("a", "", "z")]
        {
            let key = Key::new(pods.clone(), TenantName::new(t).unwrap(), ns, n);
            let value = Value::new(&path_of(&key), &new_value(), Revision(1), 0);
            assert_eq!(keys.of(&value), key);
            assert_eq!(value.path(), key.path());
        }
    }
}
