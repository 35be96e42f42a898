//! A small world for tests: objects without their kinds' registrations, and look-ups in a map.

use std::cell::RefCell;
use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{ListableResource, Metadata};
use serde::Serialize;
use serde::de::DeserializeOwned;
use skep_api::{KindInfo, Object, UserInfo};
use skep_base::{GroupResource, Revision, TenantName};

use crate::{Attributes, Lookup, Operation, Refusal, Review, Stored};

/// An object of a type that need not be a registered kind.
pub(crate) use crate::Body as Bare;

/// Objects of one tenant.
#[derive(Clone, Default)]
pub(crate) struct World(pub BTreeMap<(GroupResource, String, String), String>);

impl World {
    /// A world with an active namespace `ns` that has a default service account.
    pub(crate) fn new() -> World {
        let mut world = World::default();
        world.put("", "namespaces", r#"{"metadata":{"name":"ns"},"status":{"phase":"Active"}}"#);
        world.put("", "serviceaccounts", r#"{"metadata":{"name":"default","namespace":"ns"}}"#);
        world
    }

    pub(crate) fn put(&mut self, group: &str, resource: &str, json: &str) {
        let tree: serde_json::Value = serde_json::from_str(json).unwrap();
        let text = |f: &str| tree["metadata"][f].as_str().unwrap_or("").to_owned();
        self.0
            .insert((GroupResource::new(group, resource), text("namespace"), text("name")), json.to_owned());
    }
}

impl Lookup for World {
    fn get(&self, resource: &GroupResource, namespace: &str, name: &str) -> Option<Stored> {
        let json = self.0.get(&(resource.clone(), namespace.to_owned(), name.to_owned()))?;
        Some(Stored { json: Bytes::copy_from_slice(json.as_bytes()), revision: Revision(1) })
    }
    fn list(&self, resource: &GroupResource, namespace: &str) -> Vec<Stored> {
        let found = self
            .0
            .iter()
            .filter(|((r, ns, _), _)| r == resource && (namespace.is_empty() || ns == namespace));
        found
            .map(|(_, json)| Stored { json: Bytes::copy_from_slice(json.as_bytes()), revision: Revision(1) })
            .collect()
    }
    fn field(&self, resource: &GroupResource, namespace: &str, name: &str, field: &str) -> Option<String> {
        let json = self.0.get(&(resource.clone(), namespace.to_owned(), name.to_owned()))?;
        let tree: serde_json::Value = serde_json::from_str(json).unwrap();
        let found = field.split('.').fold(&tree, |t, part| &t[part]);
        Some(found.as_str().unwrap_or("").to_owned())
    }
}

/// One request, to be filled in as far as a test cares.
pub(crate) struct Request {
    pub world: World,
    pub operation: Operation,
    pub subresource: &'static str,
    pub namespace: &'static str,
    /// Group and plural, where the kind's own are not meant.
    pub resource: Option<(&'static str, &'static str)>,
    pub user: UserInfo,
    /// The tenant of the user's credential. The objects are always acme's.
    pub home: &'static str,
    pub node: Option<String>,
    /// `verb resource name` of what the authorizer grants.
    pub granted: Vec<String>,
    pub warnings: RefCell<Vec<String>>,
}

impl Request {
    pub(crate) fn create(world: World) -> Request {
        Request {
            world,
            operation: Operation::Create,
            subresource: "",
            namespace: "ns",
            resource: None,
            user: UserInfo { name: "alice".into(), ..UserInfo::default() },
            home: "acme",
            node: None,
            granted: Vec::new(),
            warnings: RefCell::default(),
        }
    }

    pub(crate) fn update(world: World) -> Request {
        Request { operation: Operation::Update, ..Request::create(world) }
    }

    pub(crate) fn delete(world: World) -> Request {
        Request { operation: Operation::Delete, ..Request::create(world) }
    }

    /// Runs `ask` on the review of this request.
    pub(crate) fn review<T: ListableResource, R>(
        &self,
        name: &str,
        old: Option<&dyn Object>,
        ask: impl FnOnce(&Review<'_>) -> R,
    ) -> R
    where
        T::Scope: 'static,
    {
        let tenant = TenantName::new("acme").unwrap();
        let home = TenantName::new(self.home).unwrap();
        let mut info = KindInfo::of::<T>();
        if let Some((group, plural)) = self.resource {
            (info.group, info.plural) = (group.into(), plural.into());
        }
        let authorize =
            |a: &Attributes<'_>| self.granted.contains(&format!("{} {} {}", a.verb, a.resource, a.name));
        let warn = |text: String| self.warnings.borrow_mut().push(text);
        ask(&Review {
            lookup: &self.world,
            user: &self.user,
            home: &home,
            tenant: &tenant,
            namespace: if info.namespaced { self.namespace } else { "" },
            info: &info,
            name,
            operation: self.operation,
            subresource: self.subresource,
            old,
            dry_run: false,
            now: Timestamp::UNIX_EPOCH,
            warn: &warn,
            node: self.node.as_deref(),
            authorize: &authorize,
        })
    }

    /// Mutates and validates `new` as a change of `old`; answers with the object, or why not.
    pub(crate) fn admit<T>(&self, new: &str, old: Option<&str>) -> Result<T, Refusal>
    where
        T: ListableResource<Scope: 'static>
            + Metadata<Ty = ObjectMeta>
            + Clone
            + PartialEq
            + Serialize
            + DeserializeOwned
            + Send
            + Sync
            + 'static,
    {
        let mut new = Bare::<T>(serde_json::from_str(new).unwrap());
        let old = old.map(|old| Bare::<T>(serde_json::from_str(old).unwrap()));
        let old = old.as_ref().map(|o| o as &dyn Object);
        let name = new.meta().name.clone().unwrap_or_default();
        self.review::<T, _>(&name, old, |r| {
            crate::mutate(r, &mut new)?;
            crate::validate(r, Some(&new))
        })?;
        Ok(new.0)
    }

    /// Asks for the deletion of `old`.
    pub(crate) fn remove<T>(&self, old: &str) -> Result<(), Refusal>
    where
        T: ListableResource<Scope: 'static>
            + Metadata<Ty = ObjectMeta>
            + Clone
            + PartialEq
            + Serialize
            + DeserializeOwned
            + Send
            + Sync
            + 'static,
    {
        let old = Bare::<T>(serde_json::from_str(old).unwrap());
        let name = old.meta().name.clone().unwrap_or_default();
        self.review::<T, _>(&name, Some(&old), |r| crate::validate(r, None))
    }
}
