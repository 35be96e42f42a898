//! Where an object lives: resource, tenant, namespace, name.

use std::fmt;
use std::sync::Arc;

use crate::TenantName;

/// An API group and a plural resource name, `pods` or `deployments.apps`: what a kind is stored under,
/// whatever version it is read in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupResource {
    group: Arc<str>,
    resource: Arc<str>,
}

impl GroupResource {
    /// `group` is empty for the core group.
    #[must_use]
    pub fn new(group: &str, resource: &str) -> GroupResource {
        GroupResource { group: group.into(), resource: resource.into() }
    }

    /// The API group; empty for core.
    #[must_use]
    pub fn group(&self) -> &str {
        &self.group
    }

    /// The plural resource name.
    #[must_use]
    pub fn resource(&self) -> &str {
        &self.resource
    }
}

impl fmt::Display for GroupResource {
    /// `resource` or `resource.group`, as error messages name it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.resource)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        Ok(())
    }
}

/// The full address of one object. The order of keys is resource, tenant, namespace, name, so that a
/// tenant's view of a resource is one contiguous range, and so is the view across all tenants.
///
/// `namespace` is empty for cluster-scoped objects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The resource that the object belongs to.
    pub resource: GroupResource,
    /// Its tenant.
    pub tenant: TenantName,
    /// Its namespace; empty when cluster-scoped.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl Key {
    /// Puts the parts together; `namespace` is empty for cluster-scoped objects.
    #[must_use]
    pub fn new(resource: GroupResource, tenant: TenantName, namespace: &str, name: &str) -> Key {
        Key { resource, tenant, namespace: namespace.into(), name: name.into() }
    }

    /// The part of the key below its resource, `tenant NUL namespace NUL name`: byte order of this text
    /// is the order of keys. No part may hold a NUL, which the name rules guarantee.
    #[must_use]
    pub fn path(&self) -> String {
        let mut s =
            String::with_capacity(self.tenant.as_str().len() + self.namespace.len() + self.name.len() + 2);
        s.push_str(self.tenant.as_str());
        s.push('\0');
        s.push_str(&self.namespace);
        s.push('\0');
        s.push_str(&self.name);
        s
    }

    /// Reads a [`Key::path`] back. `None` unless it has exactly three parts, the first is a tenant's name
    /// and the last is not empty.
    #[must_use]
    pub fn from_path(resource: GroupResource, path: &str) -> Option<Key> {
        let mut parts = path.split('\0');
        let (tenant, namespace, name) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() || name.is_empty() {
            return None;
        }
        Some(Key::new(resource, TenantName::new(tenant).ok()?, namespace, name))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/", self.tenant, self.resource)?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

/// A contiguous set of one resource's objects, to be listed or watched.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Every tenant's: only for system roles.
    AllTenants(GroupResource),
    /// One tenant's, in all its namespaces.
    Tenant(GroupResource, TenantName),
    /// One namespace of one tenant.
    Namespace(GroupResource, TenantName, Arc<str>),
    /// One object.
    Object(Key),
}

impl Scope {
    /// The resource that the scope is of.
    #[must_use]
    pub fn resource(&self) -> &GroupResource {
        match self {
            Scope::AllTenants(r) | Scope::Tenant(r, _) | Scope::Namespace(r, _, _) => r,
            Scope::Object(k) => &k.resource,
        }
    }

    /// The tenant, unless the scope crosses tenants.
    #[must_use]
    pub fn tenant(&self) -> Option<&TenantName> {
        match self {
            Scope::AllTenants(_) => None,
            Scope::Tenant(_, t) | Scope::Namespace(_, t, _) => Some(t),
            Scope::Object(k) => Some(&k.tenant),
        }
    }

    /// Whether the scope holds a key.
    #[must_use]
    pub fn contains(&self, key: &Key) -> bool {
        match self {
            Scope::AllTenants(r) => key.resource == *r,
            Scope::Tenant(r, t) => key.resource == *r && key.tenant == *t,
            Scope::Namespace(r, t, n) => key.resource == *r && key.tenant == *t && key.namespace == *n,
            Scope::Object(k) => k == key,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_order_is_key_order() {
        let key = |t: &str, ns: &str, n: &str| {
            Key::new(GroupResource::new("", "pods"), TenantName::new(t).unwrap(), ns, n)
        };
        let mut keys =
            vec![key("a-b", "x", "y"), key("a", "x", "y"), key("a", "x-y", "a"), key("a", "x", "a")];
        let mut by_path = keys.clone();
        keys.sort();
        by_path.sort_by_key(Key::path);
        assert_eq!(keys, by_path);
        for k in keys {
            assert_eq!(Key::from_path(k.resource.clone(), &k.path()), Some(k));
        }
        for bad in ["", "a", "a\0b", "a\0b\0c\0d", "A\0b\0c", "\0b\0c", "a\0b\0"] {
            assert_eq!(Key::from_path(GroupResource::new("", "pods"), bad), None, "{bad:?}");
        }
    }
}
