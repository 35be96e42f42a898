//! Bodies of subresources.

use std::any::Any;

use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde::ser::Error as _;
use skep_api::{Encoded, Object};

/// The body of a subresource that is not the object itself and is never stored (`Binding`, `Eviction`,
/// `TokenRequest`): an [`Object`] without being a registered kind, so that [`mutate`](crate::mutate) and
/// [`validate`](crate::validate) can be asked about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Body<T>(pub T);

impl<T> Object for Body<T>
where
    T: Metadata<Ty = ObjectMeta> + Clone + PartialEq + Serialize + Send + Sync + 'static,
{
    fn meta(&self) -> &ObjectMeta {
        self.0.metadata()
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.metadata_mut()
    }
    fn clone_box(&self) -> Box<dyn Object> {
        Box::new(self.clone())
    }
    fn same(&self, other: &dyn Object) -> bool {
        other.as_any().downcast_ref::<T>() == Some(&self.0)
    }
    fn encode(&self) -> Result<Encoded, serde_json::Error> {
        Err(serde_json::Error::custom("the body of a subresource is not stored"))
    }
    fn to_value(&self) -> Result<serde_json::Value, serde_json::Error> {
        serde_json::to_value(&self.0)
    }
    fn as_any(&self) -> &dyn Any {
        &self.0
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        &mut self.0
    }
    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        Box::new(self.0)
    }
}
