//! The node authorizer: a kubelet may read what the pods on its node need, and nothing else.

mod graph;
mod references;
#[cfg(test)]
mod tests;

pub use graph::{NodeChange, NodeGraph};

use skep_api::UserInfo;
use skep_base::TenantName;

use crate::attributes::Attributes;
use crate::identity::groups;
use crate::rbac::{Decision, Reason, bootstrap_role_allows};
use graph::ObjectKind;

/// Where the kubelets keep their leases.
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// The role whose rules hold for every node, as far as no rule here is narrower.
const NODE_ROLE: &str = "system:node";

/// The name of the node that a user is: `system:node:NAME` in the group `system:nodes`.
#[must_use]
pub fn node_of(user: &UserInfo) -> Option<&str> {
    let name = user.name.strip_prefix(groups::NODE_USER_PREFIX)?;
    user.groups.iter().any(|g| g == groups::NODES).then_some(name)
}

const ALLOW: Decision = Decision::Allow(Reason::None);

fn no(text: impl Into<std::borrow::Cow<'static, str>>) -> Decision {
    Decision::NoOpinion(Reason::Text(text.into()))
}

fn allow_if(yes: bool) -> Decision {
    if yes { ALLOW } else { Decision::NoOpinion(Reason::None) }
}

/// One question to the node authorizer.
struct Question<'a> {
    graph: &'a NodeGraph,
    tenant: &'a TenantName,
    node: &'a str,
    a: &'a Attributes<'a>,
}

impl NodeGraph {
    /// Decides what a node of a tenant may do. No opinion about anybody who is not a node.
    #[must_use]
    pub fn authorize(&self, tenant: &TenantName, a: &Attributes<'_>) -> Decision {
        let Some(node) = node_of(a.user) else { return Decision::NoOpinion(Reason::None) };
        if node.is_empty() {
            return no(format!("unknown node for user {}", crate::attributes::quoted(&a.user.name)));
        }
        let q = Question { graph: self, tenant, node, a };
        if a.resource_request {
            match (a.group, a.resource) {
                ("", "secrets") => return q.read_namespaced(ObjectKind::Secret),
                ("", "configmaps") => return q.read_namespaced(ObjectKind::ConfigMap),
                ("", "persistentvolumeclaims") if a.subresource == "status" => {
                    return match a.verb {
                        "update" | "patch" => q.related(ObjectKind::Claim),
                        _ => no("can only get/update/patch this type"),
                    };
                }
                ("", "persistentvolumeclaims") => return q.get(ObjectKind::Claim),
                ("", "persistentvolumes") => return q.get(ObjectKind::Volume),
                ("resource.k8s.io", "resourceclaims") => return q.get(ObjectKind::ResourceClaim),
                ("storage.k8s.io", "volumeattachments") => return q.get(ObjectKind::Attachment),
                ("", "serviceaccounts") => return q.service_account(),
                ("coordination.k8s.io", "leases") => return q.lease(),
                ("storage.k8s.io", "csinodes") => return q.csi_node(),
                ("resource.k8s.io", "resourceslices") => return q.resource_slice(),
                ("", "nodes") => return q.node(),
                ("", "pods") => return q.pod(),
                ("network.skep.io", "ports") => return q.port(),
                // What an agent programs services, names and filters from, and where its pods are.
                ("network.skep.io", "networks" | "subnets" | "securitygroups" | "publicips")
                | ("discovery.k8s.io", "endpointslices")
                | ("networking.k8s.io", "networkpolicies")
                | ("", "namespaces") => {
                    let read = matches!(a.verb, "get" | "list" | "watch") && a.subresource.is_empty();
                    return allow_if(read);
                }
                ("certificates.k8s.io", "podcertificaterequests") => {
                    return Decision::NoOpinion(Reason::None);
                }
                _ => {}
            }
        }
        allow_if(bootstrap_role_allows(NODE_ROLE, a))
    }
}

impl Question<'_> {
    /// Whether the object is one that the node's pods need.
    fn related(&self, kind: ObjectKind) -> Decision {
        if self.a.name.is_empty() {
            return no("No Object name found");
        }
        if self.graph.is_related(self.tenant, kind, self.a.namespace, self.a.name, self.node) {
            return ALLOW;
        }
        no(format!("no relationship found between node '{}' and this object", self.node))
    }

    fn get(&self, kind: ObjectKind) -> Decision {
        if self.a.verb != "get" {
            return no("can only get individual resources of this type");
        }
        if !self.a.subresource.is_empty() {
            return no("cannot get subresource");
        }
        self.related(kind)
    }

    fn read_namespaced(&self, kind: ObjectKind) -> Decision {
        if !matches!(self.a.verb, "get" | "list" | "watch") {
            return no("can only read resources of this type");
        }
        if !self.a.subresource.is_empty() {
            return no("cannot read subresource");
        }
        if self.a.namespace.is_empty() {
            return no("can only read namespaced object of this type");
        }
        self.related(kind)
    }

    fn service_account(&self) -> Decision {
        if self.a.verb == "get" && self.a.subresource.is_empty() {
            return self.read_namespaced(ObjectKind::ServiceAccount);
        }
        if self.a.verb != "create" || self.a.name.is_empty() {
            return no("can only create tokens for individual service accounts");
        }
        if self.a.subresource != "token" {
            return no("can only create token subresource of serviceaccount");
        }
        self.related(ObjectKind::ServiceAccount)
    }

    fn lease(&self) -> Decision {
        if !matches!(self.a.verb, "get" | "create" | "update" | "patch" | "delete") {
            return no("can only get, create, update, patch, or delete a node lease");
        }
        if self.a.namespace != LEASE_NAMESPACE {
            return no(format!("can only access leases in the \"{LEASE_NAMESPACE}\" system namespace"));
        }
        // The name is not known at creation; the node restriction admission looks at it then.
        if self.a.verb != "create" && self.a.name != self.node {
            return no("can only access node lease with the same name as the requesting node");
        }
        ALLOW
    }

    fn csi_node(&self) -> Decision {
        if !matches!(self.a.verb, "get" | "create" | "update" | "patch" | "delete") {
            return no("can only get, create, update, patch, or delete a CSINode");
        }
        if !self.a.subresource.is_empty() {
            return no("cannot authorize CSINode subresources");
        }
        if self.a.verb != "create" && self.a.name != self.node {
            return no("can only access CSINode with the same name as the requesting node");
        }
        ALLOW
    }

    fn selects_own(&self, field: &str) -> bool {
        self.a.field_selector.iter().any(|r| r.field == field && !r.negated && r.value == self.node)
    }

    fn resource_slice(&self) -> Decision {
        if !self.a.subresource.is_empty() {
            return no("cannot authorize ResourceSlice subresources");
        }
        match self.a.verb {
            "create" => ALLOW,
            "get" | "update" | "patch" | "delete" => self.related(ObjectKind::ResourceSlice),
            "watch" | "list" | "deletecollection" => {
                if self.selects_own("spec.nodeName") {
                    ALLOW
                } else {
                    no("can only list/watch/deletecollection resourceslices with nodeName field selector")
                }
            }
            _ => no(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection",
            ),
        }
    }

    fn node(&self) -> Decision {
        match (self.a.subresource, self.a.verb) {
            ("", "create" | "update" | "patch") | ("status", "update" | "patch") => ALLOW,
            // The connection that logs and commands come over.
            ("tunnel", "create") => allow_if(self.a.name == self.node),
            ("", "get" | "list" | "watch") => {
                if self.a.name == self.node {
                    ALLOW
                } else if self.a.name.is_empty() {
                    no(format!("node '{}' cannot read all nodes, only its own Node object", self.node))
                } else {
                    no(format!(
                        "node '{}' cannot read '{}', only its own Node object",
                        self.node, self.a.name
                    ))
                }
            }
            _ => Decision::NoOpinion(Reason::None),
        }
    }

    fn port(&self) -> Decision {
        if !self.a.subresource.is_empty() {
            return no("cannot authorize Port subresources");
        }
        match self.a.verb {
            // Of all ports: whom its pods may talk to goes by the labels of pods on other nodes, which their ports carry. They
            // say nothing else of pods; pods themselves a node reads its own only. Which ports it may write, is for the network
            // admission to see.
            "get" | "list" | "watch" | "create" | "update" | "patch" | "delete" => ALLOW,
            _ => Decision::NoOpinion(Reason::None),
        }
    }

    fn pod(&self) -> Decision {
        match (self.a.subresource, self.a.verb) {
            ("", "get") => self.get(ObjectKind::Pod),
            ("", "list" | "watch") => {
                if self.selects_own("spec.nodeName") {
                    ALLOW
                } else if self.a.name.is_empty() {
                    no("can only list/watch pods with spec.nodeName field selector")
                } else {
                    self.related(ObjectKind::Pod)
                }
            }
            // Which pods, is for the node restriction admission to see.
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => ALLOW,
            _ => Decision::NoOpinion(Reason::None),
        }
    }
}
