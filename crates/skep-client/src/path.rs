//! Paths of the API, made from types: whose objects, which resource, which object.

use std::borrow::Cow;
use std::fmt::{self, Write};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use skep_base::{GroupResource, TenantName};

/// Whose objects a request is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Tenants {
    /// Those of the credential's own tenant. The only view that other Kubernetes servers have.
    Own,
    /// Those of one tenant.
    One(TenantName),
    /// Everybody's: read only, and only for system roles.
    All,
}

impl From<&TenantName> for Tenants {
    fn from(tenant: &TenantName) -> Tenants {
        Tenants::One(tenant.clone())
    }
}

/// A resource in one version: `pods` of `v1`, `deployments` of `apps/v1`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resource {
    /// The API group; empty for core.
    pub group: Cow<'static, str>,
    /// The version.
    pub version: Cow<'static, str>,
    /// The plural name, as in paths.
    pub plural: Cow<'static, str>,
}

impl Resource {
    /// `group` is empty for core.
    #[must_use]
    pub const fn new(group: &'static str, version: &'static str, plural: &'static str) -> Resource {
        Resource {
            group: Cow::Borrowed(group),
            version: Cow::Borrowed(version),
            plural: Cow::Borrowed(plural),
        }
    }

    /// With names known at run time only, as discovery gives them.
    #[must_use]
    pub fn dynamic(group: &str, version: &str, plural: &str) -> Resource {
        Resource {
            group: group.to_owned().into(),
            version: version.to_owned().into(),
            plural: plural.to_owned().into(),
        }
    }

    /// The resource of a `k8s-openapi` type.
    #[must_use]
    pub const fn of<K: k8s_openapi::Resource>() -> Resource {
        Resource::new(K::GROUP, K::VERSION, K::URL_PATH_SEGMENT)
    }

    /// `v1`, `apps/v1`: as `apiVersion` says it.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Without the version.
    #[must_use]
    pub fn group_resource(&self) -> GroupResource {
        GroupResource::new(&self.group, &self.plural)
    }

    /// The collection of all objects in somebody's view.
    #[must_use]
    pub fn at(&self, tenants: impl Into<Tenants>) -> ObjectPath {
        ObjectPath {
            tenants: tenants.into(),
            resource: self.clone(),
            namespace: String::new(),
            name: String::new(),
            subresource: String::new(),
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() {
            f.write_str(&self.plural)
        } else {
            write!(f, "{}.{}", self.plural, self.group)
        }
    }
}

/// A collection, an object or a subresource. Made by [`Resource::at`] and narrowed from there:
/// `PODS.at(&tenant).namespace("default").name("web").subresource("status")`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObjectPath {
    tenants: Tenants,
    resource: Resource,
    namespace: String,
    name: String,
    subresource: String,
}

/// What may stand in a path segment as it is; everything else is escaped.
const SEGMENT: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':').remove(b'*');

impl ObjectPath {
    /// In a namespace; empty for all, or for cluster-scoped objects.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> ObjectPath {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// One object.
    #[must_use]
    pub fn name(mut self, name: &str) -> ObjectPath {
        name.clone_into(&mut self.name);
        self
    }

    /// `status`, `scale`, `binding`, …
    #[must_use]
    pub fn subresource(mut self, subresource: &str) -> ObjectPath {
        subresource.clone_into(&mut self.subresource);
        self
    }

    /// Whose objects.
    #[must_use]
    pub fn tenants(&self) -> &Tenants {
        &self.tenants
    }

    /// Of which resource.
    #[must_use]
    pub fn resource(&self) -> &Resource {
        &self.resource
    }

    /// The path with a query behind it; pairs with an empty value are left out.
    #[must_use]
    pub fn with_query<'a>(&self, query: impl IntoIterator<Item = (&'a str, Cow<'a, str>)>) -> String {
        let mut text = self.to_string();
        let mut separator = '?';
        for (key, value) in query {
            if !value.is_empty() {
                // Writing to a string cannot fail.
                let _ = write!(text, "{separator}{key}={}", utf8_percent_encode(&value, SEGMENT));
                separator = '&';
            }
        }
        text
    }
}

impl fmt::Display for ObjectPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.tenants {
            Tenants::Own => {}
            Tenants::One(tenant) => write!(f, "/tenants/{tenant}")?,
            Tenants::All => f.write_str("/tenants/*")?,
        }
        let escape = |s: &'_ str| utf8_percent_encode(s, SEGMENT).to_string();
        if self.resource.group.is_empty() {
            write!(f, "/api/{}", escape(&self.resource.version))?;
        } else {
            write!(f, "/apis/{}/{}", escape(&self.resource.group), escape(&self.resource.version))?;
        }
        if !self.namespace.is_empty() {
            write!(f, "/namespaces/{}", escape(&self.namespace))?;
        }
        write!(f, "/{}", escape(&self.resource.plural))?;
        if !self.name.is_empty() {
            write!(f, "/{}", escape(&self.name))?;
            if !self.subresource.is_empty() {
                write!(f, "/{}", self.subresource.split('/').map(escape).collect::<Vec<_>>().join("/"))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let pods = Resource::of::<k8s_openapi::api::core::v1::Pod>();
        let roles = Resource::of::<k8s_openapi::api::rbac::v1::ClusterRole>();
        let shop = TenantName::new("shop").unwrap();
        let table = [
            (pods.at(Tenants::Own), "/api/v1/pods"),
            (pods.at(Tenants::All), "/tenants/*/api/v1/pods"),
            (pods.at(&shop).namespace("a").name("b"), "/tenants/shop/api/v1/namespaces/a/pods/b"),
            (
                pods.at(&shop).namespace("a").name("b").subresource("status"),
                "/tenants/shop/api/v1/namespaces/a/pods/b/status",
            ),
            (
                roles.at(Tenants::Own).name("system:node <x>"),
                "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node%20%3Cx%3E",
            ),
        ];
        for (path, text) in table {
            assert_eq!(path.to_string(), text);
        }
        let query = [("limit", "5".into()), ("continue", "".into()), ("labelSelector", "a in (b)".into())];
        assert_eq!(
            pods.at(Tenants::Own).with_query(query),
            "/api/v1/pods?limit=5&labelSelector=a%20in%20%28b%29"
        );
        assert_eq!(roles.api_version(), "rbac.authorization.k8s.io/v1");
    }
}
