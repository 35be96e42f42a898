//! All kinds, found by group, version and resource.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;

use jiff::Timestamp;
use schemars::{Schema, SchemaGenerator};
use skep_base::GroupResource;

use crate::codec::{self, DecodeError};
use crate::context::Context;
use crate::field::Errors;
use crate::kind::{Fields, Kind, KindInfo, ScaleView};
use crate::object::Object;
use crate::table::{Cell, Column};

/// A version of a kind that is stored as another version, `S`.
pub trait Convert<S: Kind>: Kind {
    /// Into the stored version; nothing may be lost that [`Convert::from_stored`] cannot bring back.
    fn into_stored(self) -> S;
    /// From the stored version.
    fn from_stored(stored: S) -> Self;
    /// Checks an object that came in this version, where that differs from the stored one's rules.
    fn validate_stored(stored: &S, cx: &Context<'_>, errors: &mut Errors) {
        stored.validate(cx, errors);
    }
    /// Checks a change that came in this version, where that differs from the stored one's rules.
    fn validate_stored_update(stored: &S, old: &S, cx: &Context<'_>, errors: &mut Errors) {
        stored.validate_update(old, cx, errors);
    }
    /// The selectable fields under the names that this version gives them.
    fn stored_fields(stored: &S, fields: &mut Fields) {
        stored.fields(fields);
    }
}

/// A kind at run time. Objects that go in and out of these methods are of the *stored* version's type,
/// whatever version is served.
pub trait DynKind: Send + Sync {
    /// Names and behaviour of the served version.
    fn info(&self) -> &KindInfo;
    /// What objects of the kind are stored under.
    fn resource(&self) -> &GroupResource;
    /// `apiVersion` and kind of the stored bytes.
    fn stored_as(&self) -> (&str, &str);
    /// Reads a request body of the served version and fills in defaults.
    ///
    /// # Errors
    /// [`DecodeError`] for malformed JSON and values of the wrong type.
    fn decode(
        &self,
        json: &[u8],
        unknown: &mut dyn FnMut(&serde_ignored::Path<'_>),
    ) -> Result<Box<dyn Object>, DecodeError>;
    /// Reads what [`Object::encode`] wrote.
    ///
    /// # Errors
    /// [`DecodeError`] when the stored bytes are damaged.
    fn decode_stored(&self, json: &[u8]) -> Result<Box<dyn Object>, DecodeError>;
    /// Stored bytes in the served version; `None` when they are that already.
    ///
    /// # Errors
    /// [`DecodeError`] when the stored bytes are damaged.
    fn convert(&self, stored: &[u8]) -> Result<Option<Vec<u8>>, DecodeError>;
    /// The object in the served version, as JSON tree: what patches are applied to.
    ///
    /// # Errors
    /// When the object has no JSON form.
    fn to_value(&self, object: &dyn Object) -> Result<serde_json::Value, serde_json::Error>;
    /// See [`Kind::set_defaults`].
    fn set_defaults(&self, object: &mut dyn Object);
    /// See [`Kind::prepare_create`].
    fn prepare_create(&self, object: &mut dyn Object, cx: &Context<'_>);
    /// See [`Kind::prepare_update`].
    fn prepare_update(&self, object: &mut dyn Object, old: &dyn Object, cx: &Context<'_>);
    /// See [`Kind::validate`].
    fn validate(&self, object: &dyn Object, cx: &Context<'_>) -> Errors;
    /// See [`Kind::validate_update`].
    fn validate_update(&self, object: &dyn Object, old: &dyn Object, cx: &Context<'_>) -> Errors;
    /// See [`Kind::generation_changed`].
    fn generation_changed(&self, object: &dyn Object, old: Option<&dyn Object>) -> Option<bool>;
    /// See [`Kind::warnings`].
    fn warnings(&self, object: &dyn Object, old: Option<&dyn Object>, cx: &Context<'_>) -> Vec<String>;
    /// See [`Kind::fields`].
    fn fields(&self, object: &dyn Object) -> Fields;
    /// See [`Kind::columns`]; of the served version.
    fn columns(&self) -> Vec<Column>;
    /// See [`Kind::row`]; from stored bytes.
    ///
    /// # Errors
    /// [`DecodeError`] when the stored bytes are damaged.
    fn row(&self, stored: &[u8], now: Timestamp) -> Result<Vec<Cell>, DecodeError>;
    /// See [`Kind::scale`].
    fn scale(&self, object: &dyn Object) -> Option<ScaleView>;
    /// See [`Kind::set_scale`].
    fn set_scale(&self, object: &mut dyn Object, replicas: i32);
    /// The JSON schema of the served version, with definitions collected by the generator.
    fn schema(&self, generator: &mut SchemaGenerator) -> Schema;
}

/// `T` served, `S` stored; the same type for most kinds.
struct Served<T, S> {
    info: KindInfo,
    resource: GroupResource,
    converted: bool,
    into_stored: fn(T) -> S,
    from_stored: fn(S) -> T,
    validate: fn(&S, &Context<'_>, &mut Errors),
    validate_update: fn(&S, &S, &Context<'_>, &mut Errors),
    fields: fn(&S, &mut Fields),
    types: PhantomData<fn() -> (T, S)>,
}

/// An object of the wrong type reached a kind: a defect in this program, never input.
fn wrong_type<S: Kind>() -> ! {
    panic!("an object that is not a {} was handed to it", S::KIND)
}

fn of<S: Kind>(object: &dyn Object) -> &S {
    object.downcast_ref().unwrap_or_else(|| wrong_type::<S>())
}

fn of_mut<S: Kind>(object: &mut dyn Object) -> &mut S {
    object.downcast_mut().unwrap_or_else(|| wrong_type::<S>())
}

impl<T: Kind, S: Kind> DynKind for Served<T, S> {
    fn info(&self) -> &KindInfo {
        &self.info
    }
    fn resource(&self) -> &GroupResource {
        &self.resource
    }
    fn stored_as(&self) -> (&str, &str) {
        (S::API_VERSION, S::KIND)
    }
    fn decode(
        &self,
        json: &[u8],
        unknown: &mut dyn FnMut(&serde_ignored::Path<'_>),
    ) -> Result<Box<dyn Object>, DecodeError> {
        let mut object: T = codec::decode(json, unknown)?;
        object.set_defaults();
        let mut stored = (self.into_stored)(object);
        if self.converted {
            stored.set_defaults();
        }
        Ok(Box::new(stored))
    }
    fn decode_stored(&self, json: &[u8]) -> Result<Box<dyn Object>, DecodeError> {
        Ok(Box::new(codec::decode_stored::<S>(json)?))
    }
    fn convert(&self, stored: &[u8]) -> Result<Option<Vec<u8>>, DecodeError> {
        if !self.converted {
            return Ok(None);
        }
        let object = (self.from_stored)(codec::decode_stored::<S>(stored)?);
        let revision = object.metadata().resource_version.clone().unwrap_or_default();
        let damaged = |e: serde_json::Error| DecodeError { message: e.to_string() };
        let mut encoded = Object::encode(&object).map_err(damaged)?;
        let at = encoded.revision_at as usize;
        encoded.body.splice(at..at, revision.into_bytes());
        Ok(Some(encoded.body))
    }
    fn to_value(&self, object: &dyn Object) -> Result<serde_json::Value, serde_json::Error> {
        if self.converted {
            serde_json::to_value((self.from_stored)(of::<S>(object).clone()))
        } else {
            object.to_value()
        }
    }
    fn set_defaults(&self, object: &mut dyn Object) {
        of_mut::<S>(object).set_defaults();
    }
    fn prepare_create(&self, object: &mut dyn Object, cx: &Context<'_>) {
        of_mut::<S>(object).prepare_create(cx);
    }
    fn prepare_update(&self, object: &mut dyn Object, old: &dyn Object, cx: &Context<'_>) {
        of_mut::<S>(object).prepare_update(of(old), cx);
    }
    fn validate(&self, object: &dyn Object, cx: &Context<'_>) -> Errors {
        let mut errors = Errors::new();
        (self.validate)(of(object), cx, &mut errors);
        errors
    }
    fn validate_update(&self, object: &dyn Object, old: &dyn Object, cx: &Context<'_>) -> Errors {
        let mut errors = Errors::new();
        (self.validate_update)(of(object), of(old), cx, &mut errors);
        errors
    }
    fn generation_changed(&self, object: &dyn Object, old: Option<&dyn Object>) -> Option<bool> {
        of::<S>(object).generation_changed(old.map(of))
    }
    fn warnings(&self, object: &dyn Object, old: Option<&dyn Object>, cx: &Context<'_>) -> Vec<String> {
        of::<S>(object).warnings(old.map(of), cx)
    }
    fn fields(&self, object: &dyn Object) -> Fields {
        let mut fields = Fields::default();
        (self.fields)(of(object), &mut fields);
        fields
    }
    fn columns(&self) -> Vec<Column> {
        T::columns()
    }
    fn row(&self, stored: &[u8], now: Timestamp) -> Result<Vec<Cell>, DecodeError> {
        Ok((self.from_stored)(codec::decode_stored::<S>(stored)?).row(now))
    }
    fn scale(&self, object: &dyn Object) -> Option<ScaleView> {
        of::<S>(object).scale()
    }
    fn set_scale(&self, object: &mut dyn Object, replicas: i32) {
        of_mut::<S>(object).set_scale(replicas);
    }
    fn schema(&self, generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<T>()
    }
}

/// Group, version, resource: the key under which a served kind is found.
type Gvr = (String, String, String);

/// Every kind that is served.
#[derive(Clone, Default)]
pub struct Registry {
    kinds: BTreeMap<Gvr, Arc<dyn DynKind>>,
    /// In order of registration: discovery prefers a group's first version.
    order: Vec<Arc<dyn DynKind>>,
}

impl Registry {
    /// Everything built in.
    #[must_use]
    pub fn builtin() -> Registry {
        let mut registry = Registry::default();
        crate::kinds::register(&mut registry);
        registry
    }

    /// Registers a kind that is stored as it is served.
    pub fn add<T: Kind>(&mut self) {
        self.insert(Served::<T, T> {
            info: T::info(),
            resource: GroupResource::new(T::GROUP, T::URL_PATH_SEGMENT),
            converted: false,
            into_stored: |t| t,
            from_stored: |s| s,
            validate: T::validate,
            validate_update: T::validate_update,
            fields: T::fields,
            types: PhantomData,
        });
    }

    /// Registers another version of a kind that is stored as `S`.
    pub fn add_converted<T: Convert<S>, S: Kind>(&mut self) {
        self.insert(Served::<T, S> {
            info: T::info(),
            resource: GroupResource::new(S::GROUP, S::URL_PATH_SEGMENT),
            converted: true,
            into_stored: T::into_stored,
            from_stored: T::from_stored,
            validate: T::validate_stored,
            validate_update: T::validate_stored_update,
            fields: T::stored_fields,
            types: PhantomData,
        });
    }

    fn insert<T: Kind, S: Kind>(&mut self, served: Served<T, S>) {
        let info = &served.info;
        let gvr = (info.group.to_string(), info.version.to_string(), info.plural.to_string());
        let kind: Arc<dyn DynKind> = Arc::new(served);
        let before = self.kinds.insert(gvr, kind.clone());
        assert!(before.is_none(), "{} is registered twice", kind.resource());
        self.order.push(kind);
    }

    /// The kind served at a group, version and resource.
    #[must_use]
    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<dyn DynKind>> {
        // A key of owned strings: this is a look-up of a few hundred entries, hot paths keep the result.
        self.kinds.get(&(group.to_owned(), version.to_owned(), plural.to_owned()))
    }

    /// The kind that is stored under a resource, in the version in which it is stored.
    #[must_use]
    pub fn stored(&self, resource: &GroupResource) -> Option<&Arc<dyn DynKind>> {
        self.order.iter().find(|k| {
            k.resource() == resource
                && k.info().group == resource.group()
                && k.info().api_version() == k.stored_as().0
        })
    }

    /// All of them, in order of registration.
    pub fn iter(&self) -> std::slice::Iter<'_, Arc<dyn DynKind>> {
        self.order.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every kind must give as many cells as columns, yield every field that it calls selectable, and be
    /// stored under a resource that some served version stores as itself.
    #[test]
    fn registrations_are_coherent() {
        let registry = Registry::builtin();
        for kind in registry.iter() {
            let info = kind.info();
            let name = format!("{}.{}", info.plural, info.api_version());
            if info.stored() {
                assert!(registry.stored(kind.resource()).is_some(), "{name} has no stored version");
            }
            let (api_version, kind_name) = kind.stored_as();
            let json =
                format!(r#"{{"apiVersion":"{api_version}","kind":"{kind_name}","metadata":{{"name":"x"}}}}"#);
            let cells = kind.row(json.as_bytes(), Timestamp::UNIX_EPOCH).unwrap();
            assert_eq!(cells.len(), kind.columns().len(), "{name}: cells and columns differ");
            let object = kind.decode_stored(json.as_bytes()).unwrap();
            let fields = kind.fields(object.as_ref());
            for wanted in &info.selectable {
                assert!(fields.values.iter().any(|(f, _, _)| f == wanted), "{name} never yields {wanted}");
            }
            if info.subresource("scale").is_some() {
                assert!(kind.scale(object.as_ref()).is_some(), "{name} has no scale");
            }
        }
    }

    /// Defaulting twice is defaulting once.
    #[test]
    fn defaults_are_idempotent_on_empty_objects() {
        let registry = Registry::builtin();
        for kind in registry.iter() {
            let info = kind.info();
            let json = format!(r#"{{"apiVersion":"{}","kind":"{}"}}"#, info.api_version(), info.kind);
            let once = kind.decode(json.as_bytes(), &mut |_| ()).unwrap();
            let mut twice = once.clone_box();
            kind.set_defaults(twice.as_mut());
            assert!(once.same(twice.as_ref()), "{}", info.kind);
        }
    }
}
