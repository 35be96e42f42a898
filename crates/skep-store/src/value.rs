//! Stored objects: immutable bytes with their revision already inside.

use skep_base::Revision;

use crate::attrs::Attrs;

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

/// An object as it is stored and served.
#[derive(Debug, PartialEq, Eq)]
pub struct Value {
    revision: Revision,
    /// Unix time in seconds after which the value goes by itself; 0 is never.
    expires_at_s: u64,
    attrs_len: u32,
    meta_start: u32,
    meta_end: u32,
    /// Attributes, then JSON: one allocation for both.
    bytes: Box<[u8]>,
}

impl Value {
    /// Puts the revision into a new value.
    pub(crate) fn new(new: &NewValue, revision: Revision, expires_at_s: u64) -> Value {
        let digits = revision.to_string();
        let at = new.revision_at as usize;
        let mut bytes = Vec::with_capacity(new.attrs.len() + new.body.len() + digits.len());
        bytes.extend_from_slice(&new.attrs);
        bytes.extend_from_slice(&new.body[..at]);
        bytes.extend_from_slice(digits.as_bytes());
        bytes.extend_from_slice(&new.body[at..]);
        // Both fit: the sequencer refuses larger values before it comes to this.
        let attrs_len = u32::try_from(new.attrs.len()).unwrap_or(u32::MAX);
        let meta_end = new.meta_end + u32::try_from(digits.len()).unwrap_or(0);
        Value { revision, expires_at_s, attrs_len, meta_start: new.meta_start, meta_end, bytes: bytes.into() }
    }

    /// Puts a value back together that an engine has kept; `None` when the parts do not fit.
    #[must_use]
    pub fn from_parts(
        revision: Revision,
        expires_at_s: u64,
        attrs_len: u32,
        meta: (u32, u32),
        bytes: Box<[u8]>,
    ) -> Option<Value> {
        let json_len = bytes.len().checked_sub(attrs_len as usize)?;
        let fits = meta.0 <= meta.1 && meta.1 as usize <= json_len;
        fits.then_some(Value {
            revision,
            expires_at_s,
            attrs_len,
            meta_start: meta.0,
            meta_end: meta.1,
            bytes,
        })
    }

    /// A value that is shown but never stored (dry runs): `revision` may be any.
    #[must_use]
    pub fn unstored(new: &NewValue, revision: Revision) -> Value {
        Value::new(new, revision, 0)
    }

    /// The parts for [`Value::from_parts`]: expiry, length of the attributes, metadata, bytes.
    #[must_use]
    pub fn parts(&self) -> (u64, u32, (u32, u32), &[u8]) {
        (self.expires_at_s, self.attrs_len, (self.meta_start, self.meta_end), &self.bytes)
    }

    /// The revision at which it was written.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The object, as clients receive it.
    #[must_use]
    pub fn json(&self) -> &[u8] {
        &self.bytes[self.attrs_len as usize..]
    }

    /// Its metadata: a JSON object of its own.
    #[must_use]
    pub fn meta(&self) -> &[u8] {
        &self.json()[self.meta_start as usize..self.meta_end as usize]
    }

    /// What selectors look at.
    #[must_use]
    pub fn attrs(&self) -> Attrs<'_> {
        Attrs::new(&self.bytes[..self.attrs_len as usize])
    }

    /// Unix time in seconds after which it goes by itself.
    #[must_use]
    pub fn expires_at_s(&self) -> Option<u64> {
        (self.expires_at_s != 0).then_some(self.expires_at_s)
    }

    /// How much memory it takes, roughly.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        std::mem::size_of::<Value>() + self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_revision_goes_into_its_place() {
        let body = br#"{"metadata":{"resourceVersion":"","name":"x"},"spec":{}}"#.to_vec();
        let new = NewValue { revision_at: 32, meta_start: 12, meta_end: 45, body, attrs: vec![0; 4] };
        let v = Value::new(&new, Revision(1234), 0);
        assert_eq!(v.json(), br#"{"metadata":{"resourceVersion":"1234","name":"x"},"spec":{}}"#);
        assert_eq!(v.meta(), br#"{"resourceVersion":"1234","name":"x"}"#);
        let (expires, attrs_len, meta, bytes) = v.parts();
        let back = Value::from_parts(Revision(1234), expires, attrs_len, meta, bytes.into()).unwrap();
        assert_eq!(back, v);
        assert!(Value::from_parts(Revision(1), 0, 99_999, meta, bytes.into()).is_none());
        assert!(Value::from_parts(Revision(1), 0, 0, (5, 99_999), bytes.into()).is_none());
    }
}
