//! DefaultStorageClass, StorageObjectInUseProtection, PersistentVolumeClaimResize.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::amounts;
use crate::quota::storage_class;
use crate::refusal::Refusal;
use crate::review::{Operation, Review, STORAGE_CLASSES};

pub(crate) const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
pub(crate) const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";
pub(crate) const ATTRIBUTES_CLASS_FINALIZER: &str = "kubernetes.io/vac-protection";

const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
const IS_DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";
const IS_DEFAULT_BETA: &str = "storageclass.beta.kubernetes.io/is-default-class";

/// Keeps a new object until nothing uses it.
pub(crate) fn protect(review: &Review<'_>, meta: &mut ObjectMeta, finalizer: &str) {
    if review.operation == Operation::Create && review.is_main() {
        let finalizers = meta.finalizers.get_or_insert_default();
        if finalizers.iter().all(|f| f != finalizer) {
            finalizers.push(finalizer.to_owned());
        }
    }
}

/// Gives a new claim the default class if it names none.
pub(crate) fn set_class(review: &Review<'_>, claim: &mut PersistentVolumeClaim) -> Result<(), Refusal> {
    if review.operation != Operation::Create || !review.is_main() {
        return Ok(());
    }
    let annotated = claim.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(CLASS_ANNOTATION));
    if annotated || claim.spec.as_ref().is_some_and(|s| s.storage_class_name.is_some()) {
        return Ok(());
    }
    let classes: Vec<StorageClass> = review.list(&STORAGE_CLASSES, "")?;
    let default = newest(classes.into_iter().map(|c| c.metadata).filter(|m| {
        let says = |key: &str| m.annotations.as_ref().and_then(|a| a.get(key)).is_some_and(|v| v == "true");
        says(IS_DEFAULT) || says(IS_DEFAULT_BETA)
    }));
    if let Some(name) = default {
        claim.spec.get_or_insert_default().storage_class_name = Some(name);
    }
    Ok(())
}

/// The name of the newest object; of equally old ones the first by name.
pub(crate) fn newest(metas: impl Iterator<Item = ObjectMeta>) -> Option<String> {
    let key = |m: &ObjectMeta| {
        let created = m.creation_timestamp.as_ref().map(|t| t.0);
        (std::cmp::Reverse(created), m.name.clone())
    };
    metas.min_by_key(key).and_then(|m| m.name)
}

/// Only bound claims of classes that allow it may grow.
pub(crate) fn validate_resize(review: &Review<'_>, claim: &PersistentVolumeClaim) -> Result<(), Refusal> {
    if review.operation != Operation::Update || !review.is_main() {
        return Ok(());
    }
    let Some(old) = review.old_as::<PersistentVolumeClaim>() else { return Ok(()) };
    let size = |c: &PersistentVolumeClaim| {
        let asked = c.spec.as_ref().and_then(|s| s.resources.as_ref()?.requests.as_ref()?.get("storage"));
        asked.map(amounts::parse).unwrap_or_default()
    };
    if size(claim) <= size(old) {
        return Ok(());
    }
    if old.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Bound") {
        return Err(review.forbid("Only bound persistent volume claims can be expanded"));
    }
    let class = storage_class(claim);
    let allowed = !class.is_empty()
        && class == storage_class(old)
        && review
            .get::<StorageClass>(&STORAGE_CLASSES, "", class)?
            .is_some_and(|c| c.allow_volume_expansion == Some(true));
    if allowed {
        return Ok(());
    }
    Err(review.forbid(
        "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
    ))
}
