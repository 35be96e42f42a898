//! Objects whose kind is known only at run time.

use std::any::Any;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::codec::{self, Encoded};
use crate::kind::Kind;

/// An object of some [`Kind`], behind a pointer.
pub trait Object: Any + Send + Sync {
    /// Its metadata.
    fn meta(&self) -> &ObjectMeta;
    /// Its metadata, to be changed.
    fn meta_mut(&mut self) -> &mut ObjectMeta;
    /// A copy.
    fn clone_box(&self) -> Box<dyn Object>;
    /// Whether both are of the same kind and equal in every field.
    fn same(&self, other: &dyn Object) -> bool;
    /// The stored form; see [`Encoded`].
    ///
    /// # Errors
    /// When a value has no JSON form (a map with keys that are not strings); no built-in kind has one.
    fn encode(&self) -> Result<Encoded, serde_json::Error>;
    /// The object as a JSON tree, for patches.
    ///
    /// # Errors
    /// As for [`Object::encode`].
    fn to_value(&self) -> Result<serde_json::Value, serde_json::Error>;
    /// For downcasts.
    fn as_any(&self) -> &dyn Any;
    /// For downcasts.
    fn as_any_mut(&mut self) -> &mut dyn Any;
    /// For downcasts by value.
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

impl<T: Kind> Object for T {
    fn meta(&self) -> &ObjectMeta {
        self.metadata()
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.metadata_mut()
    }
    fn clone_box(&self) -> Box<dyn Object> {
        Box::new(self.clone())
    }
    fn same(&self, other: &dyn Object) -> bool {
        other.as_any().downcast_ref::<T>().is_some_and(|o| o == self)
    }
    fn encode(&self) -> Result<Encoded, serde_json::Error> {
        codec::encode(self, T::API_VERSION, T::KIND, self.metadata())
    }
    fn to_value(&self) -> Result<serde_json::Value, serde_json::Error> {
        serde_json::to_value(self)
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

impl dyn Object {
    /// The object as its own type.
    #[must_use]
    pub fn downcast_ref<T: Kind>(&self) -> Option<&T> {
        self.as_any().downcast_ref()
    }

    /// The object as its own type, to be changed.
    #[must_use]
    pub fn downcast_mut<T: Kind>(&mut self) -> Option<&mut T> {
        self.as_any_mut().downcast_mut()
    }
}
