//! What admission is told about a write, and how it looks at other objects.

use std::sync::LazyLock;

use bytes::Bytes;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use skep_api::{KindInfo, Object, UserInfo};
use skep_base::{GroupResource, Revision, TenantName};

use crate::refusal::Refusal;

/// An object as it is stored.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its JSON; sharing, not copying.
    pub json: Bytes,
    /// When it was written.
    pub revision: Revision,
}

/// Reads other objects of the request's tenant, as the API server holds them.
pub trait Lookup {
    /// One object; `namespace` is empty for cluster-scoped ones.
    fn get(&self, resource: &GroupResource, namespace: &str, name: &str) -> Option<Stored>;
    /// All objects of a namespace, or of the tenant when `namespace` is empty, by name. Allocates nothing
    /// when there are none.
    fn list(&self, resource: &GroupResource, namespace: &str) -> Vec<Stored>;
    /// All objects of the tenant that are not default objects in the form that every tenant has them in.
    fn list_stored(&self, resource: &GroupResource) -> Vec<Stored> {
        self.list(resource, "")
    }
    /// A selectable field of an object, without decoding it: empty when the object does not have it, `None`
    /// when there is no such object.
    fn field(&self, resource: &GroupResource, namespace: &str, name: &str, field: &str) -> Option<String>;
}

/// What a write does to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// A question to the authorizer about the user of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes<'a> {
    /// `approve`, `sign`, …
    pub verb: &'a str,
    /// The API group.
    pub group: &'a str,
    /// The resource.
    pub resource: &'a str,
    /// The namespace; empty for cluster-scoped resources.
    pub namespace: &'a str,
    /// The name, which may be `DOMAIN/*` for signers.
    pub name: &'a str,
}

/// One write.
pub struct Review<'a> {
    /// Other objects of the tenant.
    pub lookup: &'a dyn Lookup,
    /// Who writes.
    pub user: &'a UserInfo,
    /// The tenant that the writer's credential belongs to.
    pub home: &'a TenantName,
    /// Whose object.
    pub tenant: &'a TenantName,
    /// The object's kind, whatever the subresource.
    pub info: &'a KindInfo,
    /// The object's namespace; empty when cluster-scoped.
    pub namespace: &'a str,
    /// The object's name.
    pub name: &'a str,
    /// What is done.
    pub operation: Operation,
    /// Through which subresource; empty for the object itself.
    pub subresource: &'a str,
    /// The object as it is; `None` when it is created.
    pub old: Option<&'a dyn Object>,
    /// Nothing will be stored.
    pub dry_run: bool,
    /// The time of the request.
    pub now: Timestamp,
    /// Takes advice for the client.
    pub warn: &'a dyn Fn(String),
    /// The node that the user is, when it is one: `system:node:NAME` of the group `system:nodes`. An empty
    /// name is a node that does not say which.
    pub node: Option<&'a str>,
    /// Asks the authorizer.
    pub authorize: &'a dyn Fn(&Attributes<'_>) -> bool,
}

impl Review<'_> {
    /// Whether the write is about this resource.
    pub(crate) fn is(&self, group: &str, plural: &str) -> bool {
        self.info.plural == plural && self.info.group == group
    }

    /// Whether it is a write of the object itself.
    pub(crate) fn is_main(&self) -> bool {
        self.subresource.is_empty()
    }

    /// 403 about the object of the review.
    pub(crate) fn forbid(&self, why: impl AsRef<str>) -> Refusal {
        Refusal::forbidden(&self.info.group, &self.info.plural, self.name, why.as_ref())
    }

    /// The object before the write, when it is a `T`.
    pub(crate) fn old_as<T: 'static>(&self) -> Option<&T> {
        self.old.and_then(|o| o.as_any().downcast_ref())
    }

    /// Reads and decodes one object.
    pub(crate) fn get<T: DeserializeOwned>(
        &self,
        resource: &GroupResource,
        namespace: &str,
        name: &str,
    ) -> Result<Option<T>, Refusal> {
        self.lookup.get(resource, namespace, name).map(|s| decode(&s.json)).transpose()
    }

    /// Reads and decodes all objects of a namespace, or of the tenant.
    pub(crate) fn list<T: DeserializeOwned>(
        &self,
        resource: &GroupResource,
        namespace: &str,
    ) -> Result<Vec<T>, Refusal> {
        self.lookup.list(resource, namespace).iter().map(|s| decode(&s.json)).collect()
    }
}

/// Whether stored JSON holds a text, so that what surely does not matter need not be decoded: the API server
/// writes compact JSON, and keys as they are.
pub(crate) fn mentions(json: &[u8], text: &str) -> bool {
    memchr::memmem::find(json, text.as_bytes()).is_some()
}

/// Reads what the API server stored.
pub(crate) fn decode<T: DeserializeOwned>(json: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(json).map_err(|e| Refusal::internal(format!("a stored object is damaged: {e}")))
}

macro_rules! resources {
    ($($name:ident = $group:literal, $plural:literal;)*) => {
        $(pub(crate) static $name: LazyLock<GroupResource> = LazyLock::new(|| GroupResource::new($group, $plural));)*
    };
}

resources! {
    NAMESPACES = "", "namespaces";
    NODES = "", "nodes";
    PODS = "", "pods";
    CLAIMS = "", "persistentvolumeclaims";
    VOLUMES = "", "persistentvolumes";
    CSI_DRIVERS = "storage.k8s.io", "csidrivers";
    SERVICE_ACCOUNTS = "", "serviceaccounts";
    RESOURCE_QUOTAS = "", "resourcequotas";
    LIMIT_RANGES = "", "limitranges";
    PRIORITY_CLASSES = "scheduling.k8s.io", "priorityclasses";
    RUNTIME_CLASSES = "node.k8s.io", "runtimeclasses";
    STORAGE_CLASSES = "storage.k8s.io", "storageclasses";
    INGRESS_CLASSES = "networking.k8s.io", "ingressclasses";
    SUBNETS = "network.skep.io", "subnets";
    PORTS = "network.skep.io", "ports";
    PORT_ADDRESSES = "allocations.skep.io", "portaddresses";
    PUBLIC_ADDRESSES = "allocations.skep.io", "publicaddresses";
    TENANT_USAGES = "tenancy.skep.io", "tenantusages";
}
