//! Cluster roles that are made of others: `aggregationRule`.
//!
//! Nothing is held in memory of the default roles that every tenant has: only what tenants made themselves is watched, and a
//! tenant's roles are read when one of them changes.

use std::sync::Arc;

use futures::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};
use skep_client::{Client, Informer, ListParams, ObjectKey, Patch, Resource, Selection, Tenants};
use skep_plan::{Labels, Selector};

use crate::views::or_default;
use crate::{Controller, Kind, Next, Setup, SyncError};

const NAME: &str = "clusterrole-aggregation-controller";
const ROLES: Resource = Resource::of::<k8s_openapi::api::rbac::v1::ClusterRole>();

/// That a role changed: its name is all that is needed.
#[derive(Debug, Deserialize)]
struct Changed {}

impl Kind for Changed {
    const RESOURCE: Resource = ROLES;
    const METADATA_ONLY: bool = true;
    fn selection() -> Selection {
        Selection::all(ROLES, Tenants::All)
            .labels("kubernetes.io/bootstrapping!=rbac-defaults")
            .metadata_only()
    }
}

/// A role as aggregation reads it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Role {
    metadata: Meta,
    #[serde(default)]
    aggregation_rule: Option<Rule>,
    #[serde(default, deserialize_with = "or_default")]
    rules: Vec<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    name: String,
    resource_version: String,
    #[serde(default, deserialize_with = "or_default")]
    labels: Labels,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    #[serde(deserialize_with = "or_default")]
    cluster_role_selectors: Vec<Selector>,
}

struct Aggregation {
    client: Client,
    _changed: Informer<Changed>,
}

/// Makes the controller.
pub(crate) fn new(setup: &mut Setup) -> Arc<dyn Controller> {
    let changed = setup.informer::<Changed>();
    let enqueue = setup.enqueue(NAME);
    changed.on_event(move |event| {
        // One look is for all roles of a tenant.
        let key = ObjectKey::new(&event.object().key.tenant, "", "*");
        enqueue.add(&key, crate::Enqueue::level(event));
    });
    Arc::new(Aggregation { client: setup.client().clone(), _changed: changed })
}

/// The rules that a role should have: those of all it selects, by name, each once.
fn rules(role: &Role, all: &[Role]) -> Option<Vec<Value>> {
    let selectors = &role.aggregation_rule.as_ref()?.cluster_role_selectors;
    let mut selected: Vec<&Role> = all
        .iter()
        .filter(|r| r.metadata.name != role.metadata.name)
        .filter(|r| selectors.iter().any(|s| s.is_empty() || s.matches(&r.metadata.labels)))
        .collect();
    selected.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let mut rules: Vec<Value> = Vec::new();
    for rule in selected.into_iter().flat_map(|r| &r.rules) {
        if !rules.contains(rule) {
            rules.push(rule.clone());
        }
    }
    let same = rules.len() == role.rules.len() && rules.iter().all(|r| role.rules.contains(r));
    (!same).then_some(rules)
}

impl Aggregation {
    async fn look(&self, key: &ObjectKey) -> Result<Next, SyncError> {
        let at = ROLES.at(&key.tenant);
        let all: Vec<Role> = match self.client.list_all(&at, ListParams::default()).await {
            Ok(list) => list.items,
            // The tenant is gone.
            Err(e) if e.is_not_found() => return Ok(Next::Wait),
            Err(e) => return Err(e.into()),
        };
        let mut wrote = false;
        for role in &all {
            if let Some(rules) = rules(role, &all) {
                let patch =
                    json!({"metadata": {"resourceVersion": role.metadata.resource_version}, "rules": rules});
                self.client.patch_bytes(&at.clone().name(&role.metadata.name), &Patch::Merge(patch)).await?;
                wrote = true;
            }
        }
        // A role that was written may itself be part of another.
        if wrote { Err(SyncError::NotYet("roles of roles may follow".to_owned())) } else { Ok(Next::Wait) }
    }
}

impl Controller for Aggregation {
    fn name(&self) -> &'static str {
        NAME
    }

    fn sync<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Next, SyncError>> {
        Box::pin(self.look(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str, labels: Value, aggregate: Option<Value>, rules: Value) -> Role {
        serde_json::from_value(json!({
            "metadata": {"name": name, "resourceVersion": "1", "labels": labels},
            "aggregationRule": aggregate.map(|m| json!({"clusterRoleSelectors": [{"matchLabels": m}]})),
            "rules": rules,
        }))
        .unwrap()
    }

    #[test]
    fn rules_are_those_of_the_selected_each_once() {
        let (a, b) = (json!({"verbs": ["get"]}), json!({"verbs": ["list"]}));
        let all = [
            role("sum", json!({"part": "yes"}), Some(json!({"part": "yes"})), json!([])),
            role("z", json!({"part": "yes"}), None, json!([a])),
            role("y", json!({"part": "yes"}), None, json!([b, a])),
            role("x", json!({"part": "no"}), None, json!([{"verbs": ["*"]}])),
        ];
        assert_eq!(rules(&all[0], &all), Some(vec![b.clone(), a.clone()]));
        assert_eq!(rules(&all[1], &all), None);
        let done = role("sum", json!({}), Some(json!({"part": "yes"})), json!([a, b]));
        assert_eq!(rules(&done, &all), None, "the order does not matter");
    }
}
