//! NodeRestriction: a node writes only what is its own.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod, PodSpec, Volume};
use k8s_openapi::api::resource::v1::ResourceSlice;
use k8s_openapi::api::storage::v1::CSIDriver;
use skep_api::Object;

use crate::certificates::Subject;
use crate::pods;
use crate::refusal::Refusal;
use crate::review::{Attributes, CLAIMS, CSI_DRIVERS, NODES, Operation, PODS, Review, VOLUMES};

/// Where nodes renew their leases.
const LEASE_NAMESPACE: &str = "kube-node-lease";
const KUBELET_SIGNERS: [&str; 2] =
    ["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"];

/// The labels under `kubernetes.io` and `k8s.io` that a node may give itself.
const OWN_LABELS: [&str; 11] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];

pub(crate) fn admit(review: &Review<'_>, object: Option<&dyn Object>) -> Result<(), Refusal> {
    let Some(node) = review.node else { return Ok(()) };
    if review.operation == Operation::Connect {
        return Ok(());
    }
    if node.is_empty() {
        return Err(review.forbid(format!("could not determine node from user {:?}", review.user.name)));
    }
    let caller = Caller { review, node };
    match (&*review.info.group, &*review.info.plural) {
        ("", "pods") => caller.pod(object),
        ("", "nodes") => caller.node(object),
        ("", "persistentvolumeclaims") => caller.claim(object),
        ("", "serviceaccounts") => caller.token(object),
        ("coordination.k8s.io", "leases") if review.namespace != LEASE_NAMESPACE => {
            Err(review.forbid(format!("can only access leases in the {LEASE_NAMESPACE:?} system namespace")))
        }
        ("coordination.k8s.io", "leases") if review.name != node => {
            Err(review.forbid("can only access node lease with the same name as the requesting node"))
        }
        ("storage.k8s.io", "csinodes") if review.name != node => {
            Err(review.forbid("can only access CSINode with the same name as the requesting node"))
        }
        ("resource.k8s.io", "resourceslices") => caller.slice(object),
        ("certificates.k8s.io", "certificatesigningrequests") => caller.certificate(object),
        ("certificates.k8s.io", "podcertificaterequests") => {
            Err(review.forbid("PodCertificateRequest feature gate is disabled"))
        }
        _ => Ok(()),
    }
}

fn as_type<T: 'static>(object: Option<&dyn Object>) -> Option<&T> {
    object.and_then(|o| o.as_any().downcast_ref())
}

fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or("")
}

fn upper(operation: Operation) -> &'static str {
    match operation {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}

struct Caller<'a> {
    review: &'a Review<'a>,
    node: &'a str,
}

impl Caller<'_> {
    fn forbid(&self, why: impl AsRef<str>) -> Result<(), Refusal> {
        Err(self.review.forbid(why))
    }

    fn unexpected_type(&self) -> Result<(), Refusal> {
        self.forbid("unexpected type")
    }

    fn pod(&self, object: Option<&dyn Object>) -> Result<(), Refusal> {
        let (review, node) = (self.review, self.node);
        let operation = upper(review.operation);
        match (review.subresource, review.operation) {
            // An eviction ends in a deletion of the pod itself.
            ("" | "eviction", Operation::Delete) => match review.old_as::<Pod>() {
                Some(pod) if node_of(pod) == node => Ok(()),
                _ => self
                    .forbid(format!("node {node:?} can only delete pods with spec.nodeName set to itself")),
            },
            ("", Operation::Create) => match as_type::<Pod>(object) {
                Some(pod) => self.mirror(pod),
                None => self.unexpected_type(),
            },
            ("", _) => self.forbid(format!(
                "unexpected operation {operation:?}, node {node:?} can only create and delete mirror pods"
            )),
            // The node's word that a pod is over can be the write that removes it.
            ("status", Operation::Update | Operation::Delete) => self.status(object),
            ("status", _) => self.forbid(format!("unexpected operation {operation:?}")),
            ("eviction", Operation::Create) => {
                let Some(pod) = review.get::<Pod>(&PODS, review.namespace, review.name)? else {
                    return Err(Refusal::not_found("", "pods", review.name));
                };
                if node_of(&pod) == node {
                    return Ok(());
                }
                self.forbid(format!("node {node} can only evict pods with spec.nodeName set to itself"))
            }
            ("eviction", _) => self.forbid(format!("unexpected operation {operation}")),
            (other, _) => self.forbid(format!(
                "unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"
            )),
        }
    }

    fn mirror(&self, pod: &Pod) -> Result<(), Refusal> {
        let node = self.node;
        if !pods::is_mirror(pod) {
            return self.forbid(format!(
                "pod does not have \"kubernetes.io/config.mirror\" annotation, node {node:?} can only create mirror pods"
            ));
        }
        if node_of(pod) != node {
            return self
                .forbid(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
        }
        let owner = match pod.metadata.owner_references.as_deref().unwrap_or_default() {
            [owner] => owner,
            [] => {
                return self.forbid(format!(
                    "node {node:?} can only create pods with an owner reference set to itself"
                ));
            }
            _ => {
                return self.forbid(format!(
                    "node {node:?} can only create pods with a single owner reference set to itself"
                ));
            }
        };
        if owner.api_version != "v1" || owner.kind != "Node" || owner.name != node {
            return self
                .forbid(format!("node {node:?} can only create pods with an owner reference set to itself"));
        }
        if owner.controller != Some(true) {
            return self.forbid(format!(
                "node {node:?} can only create pods with a controller owner reference set to itself"
            ));
        }
        if owner.block_owner_deletion == Some(true) {
            return self
                .forbid(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
        }
        let Some(known) = self.review.get::<Node>(&NODES, "", node)? else {
            return Err(Refusal::not_found("", "nodes", node));
        };
        let uid = known.metadata.uid.unwrap_or_default();
        if owner.uid != uid {
            return self.forbid(format!("node {node} UID mismatch: expected {} got {uid}", owner.uid));
        }
        if let Some(resource) = pod.spec.as_ref().and_then(referenced) {
            return self.forbid(format!("node {node:?} can not create pods that reference {resource}"));
        }
        Ok(())
    }

    fn status(&self, object: Option<&dyn Object>) -> Result<(), Refusal> {
        let node = self.node;
        let Some(old) = self.review.old_as::<Pod>() else { return self.unexpected_type() };
        if node_of(old) != node {
            return self.forbid(format!(
                "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
            ));
        }
        // Without an object the pod goes.
        let Some(new) = as_type::<Pod>(object) else { return Ok(()) };
        let labels = |p: &Pod| p.metadata.labels.clone().unwrap_or_default();
        if labels(old) != labels(new) {
            return self.forbid(format!("node {node:?} cannot update labels through pod status"));
        }
        let claims =
            |p: &Pod| p.status.as_ref().and_then(|s| s.resource_claim_statuses.clone()).unwrap_or_default();
        if claims(old) != claims(new) {
            return self.forbid(format!("node {node:?} cannot update resource claim statues"));
        }
        let extended = |p: &Pod| p.status.as_ref().and_then(|s| s.extended_resource_claim_status.clone());
        if extended(old) != extended(new) {
            return self.forbid(format!("node {node:?} cannot update extended resource claim status"));
        }
        Ok(())
    }

    fn node(&self, object: Option<&dyn Object>) -> Result<(), Refusal> {
        let (review, node) = (self.review, self.node);
        if review.name != node {
            return self.forbid(format!("node {node:?} is not allowed to modify node {:?}", review.name));
        }
        let config = |n: &Node| n.spec.as_ref().and_then(|s| s.config_source.clone());
        match review.operation {
            Operation::Create => {
                let Some(new) = as_type::<Node>(object) else { return self.unexpected_type() };
                if config(new).is_some() {
                    return self.forbid(format!(
                        "node {node:?} is not allowed to create pods with a non-nil configSource"
                    ));
                }
                let forbidden = forbidden_labels(new.metadata.labels.as_ref(), None);
                if !forbidden.is_empty() {
                    return self.forbid(format!(
                        "node {node:?} is not allowed to set the following labels: {}",
                        forbidden.join(", ")
                    ));
                }
            }
            Operation::Update => {
                let (Some(new), Some(old)) = (as_type::<Node>(object), review.old_as::<Node>()) else {
                    return self.unexpected_type();
                };
                if config(new).is_some() && config(new) != config(old) {
                    return self.forbid(format!(
                        "node {node:?} is not allowed to update configSource to a new non-nil configSource"
                    ));
                }
                let taints = |n: &Node| n.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
                if taints(new) != taints(old) {
                    return self.forbid(format!("node {node:?} is not allowed to modify taints"));
                }
                let owners = |n: &Node| n.metadata.owner_references.clone().unwrap_or_default();
                if owners(new) != owners(old) {
                    return self.forbid(format!("node {node:?} is not allowed to modify ownerReferences"));
                }
                let forbidden = forbidden_labels(new.metadata.labels.as_ref(), old.metadata.labels.as_ref());
                if !forbidden.is_empty() {
                    return self.forbid(format!("is not allowed to modify labels: {}", forbidden.join(", ")));
                }
            }
            Operation::Delete | Operation::Connect => {}
        }
        Ok(())
    }

    fn claim(&self, object: Option<&dyn Object>) -> Result<(), Refusal> {
        let (review, node) = (self.review, self.node);
        if review.subresource != "status" {
            return self.forbid("may only update PVC status");
        }
        if review.operation != Operation::Update {
            return self.forbid(format!("unexpected operation {:?}", upper(review.operation)));
        }
        let (Some(new), Some(old)) =
            (as_type::<PersistentVolumeClaim>(object), review.old_as::<PersistentVolumeClaim>())
        else {
            return self.unexpected_type();
        };
        // Everything else must be as it was, metadata included.
        let rest = |claim: &PersistentVolumeClaim| {
            let mut claim = claim.clone();
            claim.metadata.resource_version = None;
            claim.metadata.managed_fields = None;
            let status = claim.status.get_or_insert_default();
            status.capacity = None;
            status.conditions = None;
            status.allocated_resource_statuses = None;
            status.allocated_resources = None;
            claim
        };
        if rest(old) != rest(new) {
            return self.forbid(format!(
                "node {node:?} is not allowed to update fields other than status.quantity and status.conditions"
            ));
        }
        Ok(())
    }

    fn token(&self, object: Option<&dyn Object>) -> Result<(), Refusal> {
        let review = self.review;
        if review.operation != Operation::Create || review.subresource != "token" {
            return Ok(());
        }
        let Some(request) = as_type::<TokenRequest>(object) else { return self.unexpected_type() };
        let spec = request.spec.clone().unwrap_or_default();
        let empty = String::new();
        let text = |t: &Option<String>| t.clone().unwrap_or_default();
        let reference = spec
            .bound_object_ref
            .as_ref()
            .filter(|r| text(&r.api_version) == "v1" && text(&r.kind) == "Pod" && !text(&r.name).is_empty());
        let Some(reference) = reference else {
            return self.forbid("node requested token not bound to a pod");
        };
        let (name, uid) = (text(&reference.name), text(&reference.uid));
        if uid.is_empty() {
            return self.forbid("node requested token with a pod binding without a uid");
        }
        let Some(pod) = review.get::<Pod>(&PODS, review.namespace, &name)? else {
            return Err(Refusal::not_found("", "pods", &name));
        };
        if pod.metadata.uid.as_ref() != Some(&uid) {
            return self.forbid(format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might \
                 have been deleted and then recreated"
            ));
        }
        if node_of(&pod) != self.node {
            return self.forbid("node requested token bound to a pod scheduled on a different node");
        }
        let audience = match spec.audiences.as_deref().unwrap_or_default() {
            [] => &empty,
            [audience] => audience,
            _ => return self.forbid("node may only request 0 or 1 audiences"),
        };
        match self.refers_to_audience(&pod, audience) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(why) => return self.forbid(format!("error validating audience {audience:?}: {why}")),
        }
        let granted = (review.authorize)(&Attributes {
            verb: "request-serviceaccounts-token-audience",
            group: "",
            resource: audience,
            namespace: review.namespace,
            name: review.name,
        });
        if granted {
            return Ok(());
        }
        self.forbid(format!(
            "audience {audience:?} not found in pod spec volume, {} is not authorized to request tokens for this audience",
            review.user.name
        ))
    }

    /// Whether any of the pod's volumes needs a token for the audience: projected ones themselves, others
    /// through their CSI driver.
    fn refers_to_audience(&self, pod: &Pod, audience: &str) -> Result<bool, String> {
        let mut errors = Vec::new();
        for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
            let tokens = volume.projected.iter().flat_map(|p| p.sources.iter().flatten());
            let mut tokens = tokens.filter_map(|s| s.service_account_token.as_ref());
            if tokens.any(|t| t.audience.as_deref().unwrap_or("") == audience) {
                return Ok(true);
            }
            match self.driver_of(pod, volume).and_then(|driver| self.driver_uses(driver.as_deref(), audience))
            {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(why) => errors.push(why),
            }
        }
        match errors.as_slice() {
            [] => Ok(false),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }

    fn driver_of(&self, pod: &Pod, volume: &Volume) -> Result<Option<String>, String> {
        if let Some(csi) = &volume.csi {
            return Ok(Some(csi.driver.clone()));
        }
        let claim = if volume.ephemeral.as_ref().is_some_and(|e| e.volume_claim_template.is_some()) {
            format!("{}-{}", pod.metadata.name.as_deref().unwrap_or(""), volume.name)
        } else if let Some(source) = &volume.persistent_volume_claim {
            source.claim_name.clone()
        } else {
            return Ok(None);
        };
        let message = |refusal: Refusal| refusal.message;
        let missing = |resource: &str, name: &str| Refusal::not_found("", resource, name).message;
        let claimed: PersistentVolumeClaim = self
            .review
            .get(&CLAIMS, self.review.namespace, &claim)
            .map_err(message)?
            .ok_or_else(|| missing("persistentvolumeclaims", &claim))?;
        let name = claimed.spec.and_then(|s| s.volume_name).unwrap_or_default();
        let volume: PersistentVolume = self
            .review
            .get(&VOLUMES, "", &name)
            .map_err(message)?
            .ok_or_else(|| missing("persistentvolumes", &name))?;
        Ok(volume.spec.and_then(|s| s.csi).map(|csi| csi.driver))
    }

    fn driver_uses(&self, driver: Option<&str>, audience: &str) -> Result<bool, String> {
        let Some(driver) = driver.filter(|d| !d.is_empty()) else { return Ok(false) };
        let found: CSIDriver = self
            .review
            .get(&CSI_DRIVERS, "", driver)
            .map_err(|r| r.message)?
            .ok_or_else(|| Refusal::not_found("storage.k8s.io", "csidrivers", driver).message)?;
        Ok(found.spec.token_requests.iter().flatten().any(|t| t.audience == audience))
    }

    fn slice(&self, object: Option<&dyn Object>) -> Result<(), Refusal> {
        let (slice, verb) = match self.review.operation {
            Operation::Create => (as_type::<ResourceSlice>(object), "create"),
            Operation::Delete => (self.review.old_as::<ResourceSlice>(), "delete"),
            Operation::Update | Operation::Connect => return Ok(()),
        };
        if slice.is_some_and(|s| s.spec.node_name.as_deref() == Some(self.node)) {
            return Ok(());
        }
        self.forbid(format!("can only {verb} ResourceSlice with the same NodeName as the requesting node"))
    }

    fn certificate(&self, object: Option<&dyn Object>) -> Result<(), Refusal> {
        if self.review.operation != Operation::Create {
            return Ok(());
        }
        let Some(request) = as_type::<CertificateSigningRequest>(object) else {
            return self.unexpected_type();
        };
        if !KUBELET_SIGNERS.contains(&request.spec.signer_name.as_str()) {
            return Ok(());
        }
        let subject = match Subject::of(request) {
            Ok(subject) => subject,
            Err(why) => return self.forbid(format!("unable to parse csr: {why}")),
        };
        let wanted = format!("system:node:{}", self.node);
        if subject.common_name == wanted {
            return Ok(());
        }
        self.forbid(format!("can only create a node CSR with CN={wanted}"))
    }
}

/// What of the API a pod refers to; `None` when it could run without.
fn referenced(spec: &PodSpec) -> Option<&'static str> {
    if spec.service_account_name.as_ref().is_some_and(|n| !n.is_empty()) {
        return Some("serviceaccounts");
    }
    if pods::references_secrets(spec) {
        return Some("secrets");
    }
    if pods::references_config_maps(spec) {
        return Some("configmaps");
    }
    if spec.resource_claims.as_ref().is_some_and(|c| !c.is_empty()) {
        return Some("resourceclaims");
    }
    spec.volumes.iter().flatten().find_map(|v| {
        if v.config_map.is_some() {
            return Some("configmaps (via configmap volumes)");
        }
        if v.secret.is_some() {
            return Some("secrets (via secret volumes)");
        }
        if v.csi.is_some() {
            return Some("csidrivers (via CSI volumes)");
        }
        if v.glusterfs.is_some() {
            return Some("endpoints (via glusterFS volumes)");
        }
        if v.persistent_volume_claim.is_some() {
            return Some("persistentvolumeclaims");
        }
        if v.ephemeral.is_some() {
            return Some("persistentvolumeclaims (via ephemeral volumes)");
        }
        if v.azure_file.is_some() {
            return Some("secrets (via azureFile volumes)");
        }
        v.projected.iter().flat_map(|p| p.sources.iter().flatten()).find_map(|s| {
            if s.config_map.is_some() {
                return Some("configmaps (via projected volumes)");
            }
            if s.secret.is_some() {
                return Some("secrets (via projected volumes)");
            }
            if s.service_account_token.is_some() {
                return Some("serviceaccounts (via projected volumes)");
            }
            if s.cluster_trust_bundle.is_some() {
                return Some("clustertrustbundles");
            }
            s.pod_certificate.as_ref().map(|_| "podcertificates")
        })
    })
}

/// The labels that a node may not set, change or drop, of those that differ.
fn forbidden_labels(
    new: Option<&BTreeMap<String, String>>,
    old: Option<&BTreeMap<String, String>>,
) -> Vec<String> {
    let empty = BTreeMap::new();
    let (new, old) = (new.unwrap_or(&empty), old.unwrap_or(&empty));
    let keys: BTreeSet<&String> = new.keys().chain(old.keys()).collect();
    let changed = keys.into_iter().filter(|k| new.get(*k) != old.get(*k));
    changed.filter(|k| is_forbidden(k)).cloned().collect()
}

fn is_forbidden(label: &str) -> bool {
    let domain = label.split_once('/').map_or("", |(domain, _)| domain);
    let within =
        |parent: &str| domain == parent || domain.strip_suffix(parent).is_some_and(|d| d.ends_with('.'));
    let own = OWN_LABELS.contains(&label) || within("kubelet.kubernetes.io") || within("node.kubernetes.io");
    within("node-restriction.kubernetes.io") || ((within("kubernetes.io") || within("k8s.io")) && !own)
}
