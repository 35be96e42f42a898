//! From request bytes to objects, and from objects to the bytes that are stored and served.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use serde::ser::{Error as _, Impossible, Serialize, SerializeStruct, Serializer};

use crate::kind::Kind;

mod nulls;

/// Why request bytes are not an object of the kind.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct DecodeError {
    /// What the client is told.
    pub message: String,
}

/// Reads one object. Unknown fields are reported to `unknown` with their paths, in order; those of an
/// object that has nulls where values belong may be reported several times.
///
/// # Errors
/// [`DecodeError`] for malformed JSON and for values of the wrong type.
pub fn decode<T: Kind>(
    json: &[u8],
    unknown: &mut dyn FnMut(&serde_ignored::Path<'_>),
) -> Result<T, DecodeError> {
    let mut de = serde_json::Deserializer::from_slice(json);
    let object = reporting(&mut de, &mut |path| unknown(&path));
    let error = match object.and_then(|o| de.end().map(|()| o)) {
        Ok(object) => return Ok(object),
        Err(error) => error,
    };
    let refused = || DecodeError { message: error.to_string() };
    let mut zeroing = nulls::Zeroing::new(json);
    if !zeroing.replace(&error) {
        return Err(refused());
    }
    loop {
        let mut de = serde_json::Deserializer::from_slice(zeroing.json());
        let object = reporting(&mut de, &mut |path| unknown(&path));
        match object.and_then(|o| de.end().map(|()| o)) {
            Ok(object) => return Ok(object),
            Err(next) if zeroing.replace(&next) => {}
            Err(_) => return Err(refused()),
        }
    }
}

/// The callback has one type for all kinds, so that the compiler makes the decoder of a pod's spec once, and not
/// once for each kind that holds one: that was most of this crate's build time.
fn reporting<'de, T: DeserializeOwned>(
    de: &mut serde_json::Deserializer<serde_json::de::SliceRead<'de>>,
    unknown: &mut dyn FnMut(serde_ignored::Path<'_>),
) -> Result<T, serde_json::Error> {
    serde_ignored::deserialize(de, unknown)
}

/// Reads one object from bytes that this server wrote itself: no report of unknown fields.
///
/// # Errors
/// [`DecodeError`] when the bytes are not such an object, which means that they were damaged.
pub fn decode_stored<T: Kind>(json: &[u8]) -> Result<T, DecodeError> {
    serde_json::from_slice(json).map_err(|e| DecodeError { message: e.to_string() })
}

/// The stored form of an object: JSON that begins
/// `{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"",…` with nothing between the quotes.
/// The store puts the revision there when the write gets it, so that the bytes in the store are the bytes
/// that clients receive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The JSON.
    pub body: Vec<u8>,
    /// Where in `body` the digits of the revision belong.
    pub revision_at: u32,
    /// Where the metadata's `{` is.
    pub meta_start: u32,
    /// Just behind the metadata's `}`.
    pub meta_end: u32,
}

/// The length of `{"kind":"Pod","apiVersion":"v1",`: lists leave these fields out of their items.
#[must_use]
pub fn head_len(api_version: &str, kind: &str) -> usize {
    r#"{"kind":"","apiVersion":"","#.len() + kind.len() + api_version.len()
}

/// Bytes set aside for an object's JSON at the start: most objects fit, and growing doubles it.
const BODY_CAPACITY_BYTES: usize = 1024;

pub(crate) fn encode<T: Serialize>(
    object: &T,
    api_version: &str,
    kind: &str,
    meta: &ObjectMeta,
) -> Result<Encoded, serde_json::Error> {
    let mut body = Vec::with_capacity(BODY_CAPACITY_BYTES);
    body.extend_from_slice(br#"{"kind":""#);
    body.extend_from_slice(kind.as_bytes());
    body.extend_from_slice(br#"","apiVersion":""#);
    body.extend_from_slice(api_version.as_bytes());
    body.extend_from_slice(br#"","metadata":"#);
    let meta_start = body.len();
    body.extend_from_slice(br#"{"resourceVersion":""#);
    let revision_at = body.len();
    body.extend_from_slice(br#"","#);
    // The metadata's own `{` is dropped: it goes on behind the resource version.
    let joint = body.len();
    let own = ObjectMeta { resource_version: None, ..meta.clone() };
    serde_json::to_writer(&mut body, &own)?;
    body.remove(joint);
    if body[joint..] == *b"}" {
        // Nothing but the resource version.
        body.truncate(joint - 1);
        body.push(b'}');
    }
    let meta_end = body.len();
    object.serialize(Rest { body: &mut body })?;
    body.push(b'}');
    let offset =
        |n: usize| u32::try_from(n).map_err(|_| serde_json::Error::custom("object larger than 4 GiB"));
    Ok(Encoded {
        revision_at: offset(revision_at)?,
        meta_start: offset(meta_start)?,
        meta_end: offset(meta_end)?,
        body,
    })
}

/// Writes the fields of a top-level struct except those that [`encode`] wrote already.
struct Rest<'a> {
    body: &'a mut Vec<u8>,
}

impl SerializeStruct for Rest<'_> {
    type Ok = ();
    type Error = serde_json::Error;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        key: &'static str,
        value: &T,
    ) -> Result<(), Self::Error> {
        if matches!(key, "apiVersion" | "kind" | "metadata") {
            return Ok(());
        }
        // Field names of Kubernetes types are plain ASCII: nothing to escape.
        self.body.extend_from_slice(b",\"");
        self.body.extend_from_slice(key.as_bytes());
        self.body.extend_from_slice(b"\":");
        serde_json::to_writer(&mut *self.body, value)
    }

    fn end(self) -> Result<(), Self::Error> {
        Ok(())
    }
}

fn not_a_struct<T>() -> Result<T, serde_json::Error> {
    Err(serde_json::Error::custom("an API object must serialize as a struct"))
}

macro_rules! refuse {
    ($($method:ident($($ty:ty),*);)*) => {
        $(fn $method(self, $(_: $ty),*) -> Result<(), serde_json::Error> { not_a_struct() })*
    };
}

impl<'a> Serializer for Rest<'a> {
    type Ok = ();
    type Error = serde_json::Error;
    type SerializeSeq = Impossible<(), serde_json::Error>;
    type SerializeTuple = Impossible<(), serde_json::Error>;
    type SerializeTupleStruct = Impossible<(), serde_json::Error>;
    type SerializeTupleVariant = Impossible<(), serde_json::Error>;
    type SerializeMap = Impossible<(), serde_json::Error>;
    type SerializeStruct = Rest<'a>;
    type SerializeStructVariant = Impossible<(), serde_json::Error>;

    refuse! {
        serialize_bool(bool); serialize_i8(i8); serialize_i16(i16); serialize_i32(i32); serialize_i64(i64);
        serialize_u8(u8); serialize_u16(u16); serialize_u32(u32); serialize_u64(u64); serialize_f32(f32);
        serialize_f64(f64); serialize_char(char); serialize_str(&str); serialize_bytes(&[u8]);
        serialize_none(); serialize_unit(); serialize_unit_struct(&'static str);
        serialize_unit_variant(&'static str, u32, &'static str);
    }
    fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result<(), Self::Error> {
        not_a_struct()
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: &T,
    ) -> Result<(), Self::Error> {
        not_a_struct()
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<(), Self::Error> {
        not_a_struct()
    }
    fn serialize_seq(self, _: Option<usize>) -> Result<Self::SerializeSeq, Self::Error> {
        not_a_struct()
    }
    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, Self::Error> {
        not_a_struct()
    }
    fn serialize_tuple_struct(
        self,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleStruct, Self::Error> {
        not_a_struct()
    }
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, Self::Error> {
        not_a_struct()
    }
    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, Self::Error> {
        not_a_struct()
    }
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeStruct, Self::Error> {
        Ok(self)
    }
    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, Self::Error> {
        not_a_struct()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::Resource;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn config_map(json: &str) -> ConfigMap {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn stored_form_has_a_hole_for_the_revision_and_equals_the_object() {
        let cm = config_map(r#"{"data":{"metadata":"{}"},"metadata":{"name":"a","resourceVersion":"9"}}"#);
        let mut e = encode(&cm, ConfigMap::API_VERSION, ConfigMap::KIND, &cm.metadata).unwrap();
        assert_eq!(e.body[e.meta_start as usize], b'{');
        assert_eq!(e.body[e.meta_end as usize - 1], b'}');
        e.body.splice(e.revision_at as usize..e.revision_at as usize, *b"17");
        let back: ConfigMap = serde_json::from_slice(&e.body).unwrap();
        assert_eq!(back.metadata.resource_version.as_deref(), Some("17"));
        assert_eq!(back.data, cm.data);
        assert!(e.body[head_len("v1", "ConfigMap")..].starts_with(br#""metadata":"#));
    }

    #[test]
    fn nulls_are_zero_values() {
        let mut unknown = Vec::new();
        let json = br#"{"metadata":{"name":null,"labels":{"a":null,"b":"x"},"finalizers":[null]},"data":null,"odd":1}"#;
        let cm: ConfigMap = decode(json, &mut |path| unknown.push(path.to_string())).unwrap();
        let labels = cm.metadata.labels.unwrap();
        assert_eq!((labels["a"].as_str(), labels["b"].as_str()), ("", "x"));
        assert_eq!(cm.metadata.finalizers.unwrap(), [""]);
        unknown.dedup();
        assert_eq!(unknown, ["odd"]);
        let wrong = decode::<ConfigMap>(br#"{"metadata":{"labels":{"a":null,"b":1}}}"#, &mut |_| ());
        assert!(wrong.unwrap_err().message.contains("null"));
    }

    #[test]
    fn empty_metadata_stays_valid_json() {
        let cm = ConfigMap::default();
        let e = encode(&cm, ConfigMap::API_VERSION, ConfigMap::KIND, &cm.metadata).unwrap();
        assert_eq!(e.body, br#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"resourceVersion":""}}"#);
    }
}
