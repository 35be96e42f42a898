//! The default objects of every tenant, as templates for [`crate::objects`].

use serde::Serialize;
use skep_api::Registry;
use skep_api::compute;
use skep_api::kinds::{flowcontrol, scheduling};
use skep_api::network;

use crate::seed::Seed;

/// All of them: the bootstrap policy, the system's priority classes, the mandatory flow control objects, the
/// default node pool, the default subnet.
#[must_use]
pub fn templates(registry: &Registry) -> Vec<Seed> {
    const RBAC: &str = "rbac.authorization.k8s.io";
    const FLOW: &str = "flowcontrol.apiserver.k8s.io";
    let policy = skep_auth::bootstrap::policy();
    let mut templates = Vec::new();
    of_kind(registry, RBAC, "clusterroles", &policy.cluster_roles, &mut templates);
    of_kind(registry, RBAC, "clusterrolebindings", &policy.cluster_role_bindings, &mut templates);
    of_kind(registry, RBAC, "roles", &policy.roles, &mut templates);
    of_kind(registry, RBAC, "rolebindings", &policy.role_bindings, &mut templates);
    of_kind(
        registry,
        "scheduling.k8s.io",
        "priorityclasses",
        &scheduling::system_priority_classes(),
        &mut templates,
    );
    of_kind(registry, FLOW, "flowschemas", &flowcontrol::mandatory_flow_schemas(), &mut templates);
    of_kind(
        registry,
        FLOW,
        "prioritylevelconfigurations",
        &flowcontrol::mandatory_priority_levels(),
        &mut templates,
    );
    of_kind(registry, compute::GROUP, "nodepools", &[compute::default_node_pool()], &mut templates);
    of_kind(registry, network::GROUP, "subnets", &[network::default_subnet()], &mut templates);
    templates
}

fn of_kind<T: Serialize>(
    registry: &Registry,
    group: &str,
    plural: &str,
    objects: &[T],
    templates: &mut Vec<Seed>,
) {
    let Some(kind) = registry.get(group, "v1", plural) else { return };
    for object in objects {
        // They go through the kind's own decoder, so that defaults are filled in as for anybody's object.
        let decoded = serde_json::to_vec(object).ok().and_then(|json| kind.decode(&json, &mut |_| ()).ok());
        match decoded.and_then(|object| Seed::new(kind.as_ref(), object).ok()) {
            Some(seed) => templates.push(seed),
            None => tracing::error!(plural, "a default object is not one of its kind"),
        }
    }
}
