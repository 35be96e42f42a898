//! Which volume a claim gets, and what phases both are in: pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use skep_base::Quantity;

pub(super) const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
pub(super) const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
pub(super) const PROVISIONERS: [&str; 2] =
    ["volume.beta.kubernetes.io/storage-provisioner", "volume.kubernetes.io/storage-provisioner"];
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// The provisioner of classes whose volumes somebody makes by hand.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

fn annotation<'a>(all: Option<&'a BTreeMap<String, String>>, key: &str) -> Option<&'a str> {
    all?.get(key).map(String::as_str)
}

pub(super) fn class_of_claim(claim: &PersistentVolumeClaim) -> Option<&str> {
    annotation(claim.metadata.annotations.as_ref(), OLD_CLASS)
        .or_else(|| claim.spec.as_ref()?.storage_class_name.as_deref())
}

fn class_of_volume(volume: &PersistentVolume) -> &str {
    annotation(volume.metadata.annotations.as_ref(), OLD_CLASS)
        .or_else(|| volume.spec.as_ref()?.storage_class_name.as_deref())
        .unwrap_or("")
}

fn claim_ref(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

/// Whether a volume is meant for a claim, by name, and by uid if it says one.
fn is_meant_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    claim_ref(volume).is_some_and(|r| {
        r.name == claim.metadata.name
            && r.namespace == claim.metadata.namespace
            && r.uid.as_deref().is_none_or(|uid| uid.is_empty() || claim.metadata.uid.as_deref() == Some(uid))
    })
}

fn quantity(text: Option<&k8s_openapi::apimachinery::pkg::api::resource::Quantity>) -> Option<Quantity> {
    text?.0.parse().ok()
}

fn capacity(volume: &PersistentVolume) -> Option<Quantity> {
    quantity(volume.spec.as_ref()?.capacity.as_ref()?.get("storage"))
}

fn requested(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    quantity(claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage"))
}

/// Why a volume cannot serve a claim that names it, or for which it is reserved.
pub(super) fn mismatch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<&'static str> {
    if capacity(volume) < requested(claim) {
        return Some("requested PV is too small");
    }
    if class_of_volume(volume) != class_of_claim(claim).unwrap_or("") {
        return Some("storageClassName does not match");
    }
    let mode = |m: Option<&String>| m.map_or("Filesystem", String::as_str).to_owned();
    let (v, c) = (volume.spec.as_ref(), claim.spec.as_ref());
    if mode(v.and_then(|s| s.volume_mode.as_ref())) != mode(c.and_then(|s| s.volume_mode.as_ref())) {
        return Some("incompatible volumeMode");
    }
    let modes = |m: Option<&Vec<String>>| m.cloned().unwrap_or_default();
    let offered = modes(v.and_then(|s| s.access_modes.as_ref()));
    if !modes(c.and_then(|s| s.access_modes.as_ref())).iter().all(|m| offered.contains(m)) {
        return Some("incompatible accessMode");
    }
    let attributes = |a: Option<&String>| a.cloned().unwrap_or_default();
    let different = attributes(v.and_then(|s| s.volume_attributes_class_name.as_ref()))
        != attributes(c.and_then(|s| s.volume_attributes_class_name.as_ref()));
    different.then_some("volumeAttributesClassName does not match")
}

/// What to do about a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ClaimPlan {
    /// Bind it to the volume of this name, or finish doing so.
    Bind(String),
    /// It waits; with an event where there is something to say: warning, reason, message.
    Pending(Option<(bool, &'static str, String)>),
    /// Somebody else makes volumes for its class: ask them.
    Provision(String),
    /// Its volume is gone, or not its own.
    Lost(&'static str, &'static str),
}

/// Whether a claim waits for a pod that uses it to be placed.
fn waits_for_consumer(claim: &PersistentVolumeClaim, class: Option<&StorageClass>) -> bool {
    class.is_some_and(|c| c.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"))
        && annotation(claim.metadata.annotations.as_ref(), SELECTED_NODE).is_none()
}

/// What to do about a claim, with all volumes of its tenant and the class that it names.
pub(super) fn claim<'a>(
    claim: &PersistentVolumeClaim,
    volumes: impl Iterator<Item = &'a PersistentVolume> + Clone,
    class: Option<&StorageClass>,
) -> ClaimPlan {
    let spec = claim.spec.clone().unwrap_or_default();
    let wanted = spec.volume_name.as_deref().filter(|n| !n.is_empty());
    let named = |name: &str| volumes.clone().find(|v| v.metadata.name.as_deref() == Some(name));
    let completed = annotation(claim.metadata.annotations.as_ref(), BIND_COMPLETED).is_some();
    match (wanted, completed) {
        (None, true) => ClaimPlan::Lost(
            "ClaimLost",
            "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!",
        ),
        (Some(name), true) => match named(name) {
            None => ClaimPlan::Lost(
                "ClaimLost",
                "Bound claim has lost its PersistentVolume. Data on the volume is lost!",
            ),
            Some(volume) if claim_ref(volume).is_none() || is_meant_for(volume, claim) => {
                ClaimPlan::Bind(name.to_owned())
            }
            Some(_) => ClaimPlan::Lost(
                "ClaimMisbound",
                "Two claims are bound to the same volume, this one is bound incorrectly",
            ),
        },
        (Some(name), false) => match named(name) {
            None => ClaimPlan::Pending(None),
            Some(volume) if claim_ref(volume).is_some() && !is_meant_for(volume, claim) => {
                let message = format!("volume {name:?} already bound to a different claim.");
                ClaimPlan::Pending(Some((true, "FailedBinding", message)))
            }
            Some(volume) => match mismatch(volume, claim) {
                Some(why) => {
                    let message = format!("Cannot bind to requested volume {name:?}: {why}");
                    ClaimPlan::Pending(Some((true, "VolumeMismatch", message)))
                }
                None => ClaimPlan::Bind(name.to_owned()),
            },
        },
        (None, false) => unbound(claim, volumes, class),
    }
}

fn unbound<'a>(
    claim: &PersistentVolumeClaim,
    volumes: impl Iterator<Item = &'a PersistentVolume>,
    class: Option<&StorageClass>,
) -> ClaimPlan {
    let delayed = waits_for_consumer(claim, class);
    let selector: Option<skep_plan::Selector> = claim
        .spec
        .as_ref()
        .and_then(|s| s.selector.as_ref())
        .and_then(|s| serde_json::to_value(s).ok())
        .and_then(|s| serde_json::from_value(s).ok());
    let mut best: Option<(Quantity, &str)> = None;
    for volume in volumes.filter(|v| v.metadata.deletion_timestamp.is_none()) {
        let Some(name) = volume.metadata.name.as_deref() else { continue };
        let reserved = is_meant_for(volume, claim);
        if (claim_ref(volume).is_some() && !reserved) || mismatch(volume, claim).is_some() {
            continue;
        }
        if reserved {
            return ClaimPlan::Bind(name.to_owned());
        }
        let available = volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Available");
        let labels: skep_plan::Labels =
            volume.metadata.labels.iter().flatten().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let selected = selector.as_ref().is_none_or(|s| s.is_empty() || s.matches(&labels));
        let Some(size) = capacity(volume) else { continue };
        // The smallest that is large enough, and of equals the first by name.
        if !delayed && available && selected && best.as_ref().is_none_or(|b| (&size, name) < (&b.0, b.1)) {
            best = Some((size, name));
        }
    }
    if let Some((_, name)) = best {
        return ClaimPlan::Bind(name.to_owned());
    }
    if delayed {
        let message = "waiting for first consumer to be created before binding".to_owned();
        return ClaimPlan::Pending(Some((false, "WaitForFirstConsumer", message)));
    }
    match class_of_claim(claim).filter(|c| !c.is_empty()) {
        None => ClaimPlan::Pending(Some((
            false,
            "FailedBinding",
            "no persistent volumes available for this claim and no storage class is set".to_owned(),
        ))),
        Some(name) => match class {
            None => ClaimPlan::Pending(Some((
                true,
                "ProvisioningFailed",
                format!("storageclass.storage.k8s.io {name:?} not found"),
            ))),
            Some(class) if class.provisioner == NO_PROVISIONER => ClaimPlan::Pending(Some((
                false,
                "FailedBinding",
                "no persistent volumes available for this claim and no storage class is set".to_owned(),
            ))),
            Some(class) => ClaimPlan::Provision(class.provisioner.clone()),
        },
    }
}

/// The phase that a volume should be in, with the claim that it is for, if that exists.
pub(super) fn volume_phase(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> &'static str {
    let Some(reference) = claim_ref(volume) else { return "Available" };
    if reference.uid.as_deref().is_none_or(str::is_empty) {
        // Reserved by name; nobody has it yet.
        return "Available";
    }
    match claim {
        Some(claim) if claim.metadata.uid == reference.uid => "Bound",
        _ => "Released",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn volume(name: &str, size: &str, more: Value) -> PersistentVolume {
        let mut text = json!({"metadata": {"name": name}, "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"]}, "status": {"phase": "Available"}});
        if let Some(fields) = more.as_object() {
            fields.iter().for_each(|(k, v)| text["spec"][k] = v.clone());
        }
        serde_json::from_value(text).unwrap()
    }

    fn claim_of(size: &str, more: Value) -> PersistentVolumeClaim {
        let mut text = json!({"metadata": {"name": "c", "namespace": "n", "uid": "u"}, "spec": {"resources": {"requests": {"storage": size}}, "accessModes": ["ReadWriteOnce"]}});
        if let Some(fields) = more.as_object() {
            fields.iter().for_each(|(k, v)| text["spec"][k] = v.clone());
        }
        serde_json::from_value(text).unwrap()
    }

    fn class(provisioner: &str, mode: &str) -> StorageClass {
        serde_json::from_value(
            json!({"metadata": {"name": "k"}, "provisioner": provisioner, "volumeBindingMode": mode}),
        )
        .unwrap()
    }

    fn decide(
        c: &PersistentVolumeClaim,
        volumes: &[PersistentVolume],
        class: Option<&StorageClass>,
    ) -> ClaimPlan {
        claim(c, volumes.iter(), class)
    }

    #[test]
    fn the_smallest_that_fits() {
        let volumes = [
            volume("small", "1Gi", json!({})),
            volume("large", "9Gi", json!({})),
            volume("right", "5Gi", json!({})),
            volume("block", "5Gi", json!({"volumeMode": "Block"})),
            volume("other", "5Gi", json!({"storageClassName": "k"})),
            volume("taken", "5Gi", json!({"claimRef": {"name": "x", "namespace": "n", "uid": "1"}})),
        ];
        assert_eq!(decide(&claim_of("5Gi", json!({})), &volumes, None), ClaimPlan::Bind("right".into()));
        assert!(matches!(
            decide(&claim_of("10Gi", json!({})), &volumes, None),
            ClaimPlan::Pending(Some((false, "FailedBinding", _)))
        ));
        let many = claim_of("1Gi", json!({"accessModes": ["ReadWriteMany"]}));
        assert!(matches!(decide(&many, &volumes, None), ClaimPlan::Pending(_)));
        let reserved =
            [volume("r", "20Gi", json!({"claimRef": {"name": "c", "namespace": "n"}})), volumes[2].clone()];
        assert_eq!(decide(&claim_of("5Gi", json!({})), &reserved, None), ClaimPlan::Bind("r".into()));
    }

    #[test]
    fn classes_decide_who_makes_volumes_and_when() {
        let c = claim_of("5Gi", json!({"storageClassName": "k"}));
        assert_eq!(
            decide(&c, &[], Some(&class("x.io/y", "Immediate"))),
            ClaimPlan::Provision("x.io/y".into())
        );
        assert!(matches!(decide(&c, &[], None), ClaimPlan::Pending(Some((true, "ProvisioningFailed", _)))));
        let later = class("x.io/y", "WaitForFirstConsumer");
        assert!(matches!(
            decide(&c, &[], Some(&later)),
            ClaimPlan::Pending(Some((false, "WaitForFirstConsumer", _)))
        ));
        let mut placed = c;
        placed.metadata.annotations = Some(BTreeMap::from([(SELECTED_NODE.into(), "n1".into())]));
        assert_eq!(decide(&placed, &[], Some(&later)), ClaimPlan::Provision("x.io/y".into()));
    }

    #[test]
    fn bound_claims_and_what_becomes_of_them() {
        let mut c = claim_of("5Gi", json!({"volumeName": "v"}));
        let free = volume("v", "5Gi", json!({}));
        let own = volume("v", "5Gi", json!({"claimRef": {"name": "c", "namespace": "n", "uid": "u"}}));
        let foreign = volume("v", "5Gi", json!({"claimRef": {"name": "c", "namespace": "n", "uid": "old"}}));
        assert_eq!(decide(&c, &[free], None), ClaimPlan::Bind("v".into()));
        assert!(matches!(
            decide(&c, std::slice::from_ref(&foreign), None),
            ClaimPlan::Pending(Some((true, "FailedBinding", _)))
        ));
        assert_eq!(decide(&c, &[], None), ClaimPlan::Pending(None));
        c.metadata.annotations = Some(BTreeMap::from([(BIND_COMPLETED.into(), "yes".into())]));
        assert_eq!(decide(&c, std::slice::from_ref(&own), None), ClaimPlan::Bind("v".into()));
        assert!(matches!(decide(&c, &[], None), ClaimPlan::Lost("ClaimLost", _)));
        assert!(matches!(decide(&c, &[foreign], None), ClaimPlan::Lost("ClaimMisbound", _)));
        assert_eq!(volume_phase(&own, Some(&c)), "Bound");
        assert_eq!(volume_phase(&own, None), "Released");
        assert_eq!(volume_phase(&volume("v", "1", json!({})), None), "Available");
    }
}
