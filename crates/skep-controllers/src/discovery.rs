//! Which kinds a cluster serves.

use serde::Deserialize;
use skep_base::TenantName;
use skep_client::{Client, Error, Resource};

/// A resource as discovery describes it, in its group's preferred version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Served {
    /// Group, version, plural.
    pub(crate) resource: Resource,
    /// The kind of its objects.
    pub(crate) kind: String,
    /// Whether they are in namespaces.
    pub(crate) namespaced: bool,
    /// What can be done with them.
    pub(crate) verbs: Vec<String>,
}

impl Served {
    pub(crate) fn can(&self, verbs: &[&str]) -> bool {
        verbs.iter().all(|verb| self.verbs.iter().any(|v| v == verb))
    }
}

#[derive(Deserialize)]
struct ListOfGroups {
    #[serde(default, deserialize_with = "crate::views::or_default")]
    items: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    #[serde(default, deserialize_with = "crate::views::or_default")]
    metadata: GroupMeta,
    #[serde(default, deserialize_with = "crate::views::or_default")]
    versions: Vec<Version>,
}

#[derive(Default, Deserialize)]
struct GroupMeta {
    /// `null` for the core group.
    #[serde(default, deserialize_with = "crate::views::or_default")]
    name: String,
}

#[derive(Deserialize)]
struct Version {
    version: String,
    // A version whose every kind was removed.
    #[serde(default, deserialize_with = "crate::views::or_default")]
    resources: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    resource: String,
    response_kind: Option<ResponseKind>,
    #[serde(default)]
    scope: String,
    #[serde(default, deserialize_with = "crate::views::or_default")]
    verbs: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ResponseKind {
    #[serde(deserialize_with = "crate::views::or_default")]
    kind: String,
}

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Everything that is served, each resource once.
pub(crate) async fn served(client: &Client) -> Result<Vec<Served>, Error> {
    served_at(client, "").await
}

/// Everything that is served to a tenant, its own kinds too.
pub(crate) async fn served_to(client: &Client, tenant: &TenantName) -> Result<Vec<Served>, Error> {
    let own = tenant == client.home();
    served_at(client, &if own { String::new() } else { format!("/tenants/{tenant}") }).await
}

async fn served_at(client: &Client, root: &str) -> Result<Vec<Served>, Error> {
    let mut all = Vec::new();
    for path in ["/api", "/apis"] {
        let groups: ListOfGroups = client.get_as(&format!("{root}{path}"), AGGREGATED).await?;
        collect(groups, &mut all);
    }
    Ok(all)
}

fn collect(groups: ListOfGroups, all: &mut Vec<Served>) {
    for group in groups.items {
        // The preferred version comes first.
        for version in group.versions {
            for entry in version.resources {
                let known = all.iter().any(|s| {
                    *s.resource.group == group.metadata.name && *s.resource.plural == entry.resource
                });
                if !known {
                    all.push(Served {
                        resource: Resource::dynamic(&group.metadata.name, &version.version, &entry.resource),
                        kind: entry.response_kind.unwrap_or_default().kind,
                        namespaced: entry.scope == "Namespaced",
                        verbs: entry.verbs,
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_resource_once_in_its_preferred_version() {
        let text = r#"{"items":[{"metadata":{"name":null},"versions":[]},{"metadata":null,"versions":null},
            {"metadata":{"name":"empty"},"versions":[{"version":"v1","resources":null}]},{"metadata":{"name":"autoscaling"},"versions":[
            {"version":"v2","resources":[{"resource":"hpas","responseKind":{"kind":"HPA"},"scope":"Namespaced","verbs":["list","watch"]}]},
            {"version":"v1","resources":[{"resource":"hpas","responseKind":{"kind":"HPA"},"scope":"Namespaced","verbs":["list"]},
                {"resource":"old","responseKind":{"kind":"Old"},"scope":"Cluster","verbs":[]}]}]}]}"#;
        let mut all = Vec::new();
        collect(serde_json::from_str(text).unwrap(), &mut all);
        assert_eq!(all.len(), 2);
        assert_eq!(
            (&*all[0].resource.version, all[0].namespaced, all[0].can(&["list", "watch"])),
            ("v2", true, true)
        );
        assert_eq!((&*all[1].kind, all[1].namespaced, all[1].can(&["list"])), ("Old", false, false));
    }
}
