//! Where a persistent volume's data is: exactly one source, each with rules of its own.

use k8s_openapi::api::core::v1::{
    CSIPersistentVolumeSource, ISCSIPersistentVolumeSource, PersistentVolumeSpec, SecretReference,
    StorageOSPersistentVolumeSource,
};

use crate::field::{Errors, Path};
use crate::kinds::core::pod::volumes;
use crate::kinds::core::shared;

/// Longest `<volume name>:<target portal>` of an iSCSI volume with an initiator name.
const ISCSI_NAME_MAX_LEN: usize = 64;

fn required(value: &str, path: &Path<'_>, errors: &mut Errors) {
    if value.is_empty() {
        errors.required(path, "");
    }
}

fn text(field: &Option<String>) -> &str {
    field.as_deref().unwrap_or_default()
}

/// Checks the source, and that there is one and only one.
pub(super) fn validate(spec: &PersistentVolumeSpec, name: &str, path: &Path<'_>, errors: &mut Errors) {
    let mut found = false;
    macro_rules! source {
        ($field:ident, $name:literal, |$source:ident, $path:ident| $check:expr) => {
            source!($field, $name, $name, |$source, $path| $check)
        };
        ($field:ident, $forbidden_as:literal, $name:literal, |$source:ident, $path:ident| $check:expr) => {
            if let Some($source) = &spec.$field {
                if found {
                    errors.forbidden(&path.child($forbidden_as), "may not specify more than 1 volume type");
                } else {
                    found = true;
                    let $path = path.child($name);
                    $check;
                }
            }
        };
    }
    source!(host_path, "hostPath", |s, p| volumes::validate_host_path(s, &p, errors));
    source!(gce_persistent_disk, "gcePersistentDisk", "persistentDisk", |s, p| {
        required(&s.pd_name, &p.child("pdName"), errors);
        volumes::validate_partition(s.partition, &p, errors);
    });
    source!(aws_elastic_block_store, "awsElasticBlockStore", |s, p| {
        required(&s.volume_id, &p.child("volumeID"), errors);
        volumes::validate_partition(s.partition, &p, errors);
    });
    source!(glusterfs, "glusterfs", |s, p| {
        required(&s.endpoints, &p.child("endpoints"), errors);
        required(&s.path, &p.child("path"), errors);
        if let Some(namespace) = &s.endpoints_namespace {
            let path = p.child("endpointsNamespace");
            if namespace.is_empty() {
                let detail = "if the endpointnamespace is set, it must be a valid namespace name";
                errors.invalid(&path, namespace, detail);
            } else {
                shared::dns_label(namespace, &path, errors);
            }
        }
    });
    source!(flocker, "flocker", |s, p| volumes::validate_flocker(s, &p, errors));
    source!(nfs, "nfs", |s, p| {
        required(&s.server, &p.child("server"), errors);
        required(&s.path, &p.child("path"), errors);
        if !s.path.starts_with('/') {
            errors.invalid(&p.child("path"), &s.path, "must be an absolute path");
        }
    });
    source!(rbd, "rbd", |s, p| {
        if s.monitors.is_empty() {
            errors.required(&p.child("monitors"), "");
        }
        required(&s.image, &p.child("image"), errors);
    });
    source!(quobyte, "quobyte", |s, p| volumes::validate_quobyte(s, &p, errors));
    source!(cephfs, "cephFS", "cephfs", |s, p| {
        if s.monitors.is_empty() {
            errors.required(&p.child("monitors"), "");
        }
    });
    source!(iscsi, "iscsi", |s, p| validate_iscsi(s, name, &p, errors));
    source!(cinder, "cinder", |s, p| {
        required(&s.volume_id, &p.child("volumeID"), errors);
        if let Some(secret) = &s.secret_ref {
            validate_secret_named(secret, &p.child("secretRef"), errors);
        }
    });
    source!(fc, "fc", |s, p| volumes::validate_fc(s, &p, errors));
    if let Some(s) = &spec.flex_volume {
        // Upstream lets this one stand beside another.
        found = true;
        volumes::validate_flex_parts(&s.driver, s.options.as_ref(), &path.child("flexVolume"), errors);
    }
    source!(azure_file, "azureFile", |s, p| {
        required(&s.secret_name, &p.child("secretName"), errors);
        required(&s.share_name, &p.child("shareName"), errors);
        if s.secret_namespace.as_ref().is_some_and(String::is_empty) {
            errors.required(&p.child("secretNamespace"), "");
        }
    });
    source!(vsphere_volume, "vsphereVolume", |s, p| {
        required(&s.volume_path, &p.child("volumePath"), errors)
    });
    source!(photon_persistent_disk, "photonPersistentDisk", |s, p| {
        required(&s.pd_id, &p.child("pdID"), errors)
    });
    source!(portworx_volume, "portworxVolume", |s, p| {
        required(&s.volume_id, &p.child("volumeID"), errors)
    });
    source!(azure_disk, "azureDisk", |s, p| volumes::validate_azure_disk(s, &p, errors));
    source!(scale_io, "scaleIO", |s, p| {
        required(&s.gateway, &p.child("gateway"), errors);
        required(&s.system, &p.child("system"), errors);
        required(text(&s.volume_name), &p.child("volumeName"), errors);
    });
    source!(local, "local", |s, p| {
        if s.path.is_empty() {
            errors.required(&p.child("path"), "");
        } else if s.path.split('/').any(|part| part == "..") {
            errors.invalid(&p.child("path"), &s.path, "must not contain '..'");
        }
        if spec.node_affinity.is_none() {
            errors.required(&path.child("nodeAffinity"), "Local volume requires node affinity");
        }
    });
    source!(storageos, "storageos", |s, p| validate_storageos(s, &p, errors));
    source!(csi, "csi", |s, p| validate_csi(s, &p, errors));
    if !found {
        errors.required(path, "must specify a volume type");
    }
}

fn validate_secret_named(secret: &SecretReference, path: &Path<'_>, errors: &mut Errors) {
    required(text(&secret.name), &path.child("name"), errors);
    required(text(&secret.namespace), &path.child("namespace"), errors);
}

fn validate_secret(secret: &SecretReference, path: &Path<'_>, errors: &mut Errors) {
    match text(&secret.name) {
        "" => errors.required(&path.child("name"), ""),
        name => shared::dns_subdomain(name, &path.child("name"), errors),
    }
    match text(&secret.namespace) {
        "" => errors.required(&path.child("namespace"), ""),
        namespace => shared::dns_label(namespace, &path.child("namespace"), errors),
    }
}

fn validate_iscsi(s: &ISCSIPersistentVolumeSource, name: &str, path: &Path<'_>, errors: &mut Errors) {
    const FORMAT: &str = "must be valid format";
    required(&s.target_portal, &path.child("targetPortal"), errors);
    if s.initiator_name.is_some() && name.len() + 1 + s.target_portal.len() > ISCSI_NAME_MAX_LEN {
        errors.invalid(
            &path.child("targetportal"),
            &s.target_portal,
            "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if \
             iscsi.initiatorName is specified.",
        );
    }
    if s.iqn.is_empty() {
        errors.required(&path.child("iqn"), "");
    } else if volumes::iscsi_name_ok(&s.iqn) != Some(true) {
        errors.invalid(&path.child("iqn"), &s.iqn, FORMAT);
    }
    if !(0..=255).contains(&s.lun) {
        errors.invalid(&path.child("lun"), s.lun, "must be between 0 and 255, inclusive");
    }
    let authenticates = s.chap_auth_discovery == Some(true) || s.chap_auth_session == Some(true);
    match &s.secret_ref {
        None if authenticates => errors.required(&path.child("secretRef"), ""),
        Some(secret) => required(text(&secret.name), &path.child("secretRef").child("name"), errors),
        None => {}
    }
    if let Some(initiator) = &s.initiator_name
        && volumes::iscsi_name_ok(initiator) != Some(true)
    {
        errors.invalid(&path.child("initiatorname"), initiator, FORMAT);
    }
}

fn validate_storageos(s: &StorageOSPersistentVolumeSource, path: &Path<'_>, errors: &mut Errors) {
    match text(&s.volume_name) {
        "" => errors.required(&path.child("volumeName"), ""),
        name => shared::dns_label(name, &path.child("volumeName"), errors),
    }
    if !text(&s.volume_namespace).is_empty() {
        shared::dns_label(text(&s.volume_namespace), &path.child("volumeNamespace"), errors);
    }
    if let Some(secret) = &s.secret_ref {
        let path = path.child("secretRef");
        required(text(&secret.name), &path.child("name"), errors);
        required(text(&secret.namespace), &path.child("namespace"), errors);
    }
}

fn validate_csi(s: &CSIPersistentVolumeSource, path: &Path<'_>, errors: &mut Errors) {
    volumes::validate_csi_driver(&s.driver, &path.child("driver"), errors);
    required(&s.volume_handle, &path.child("volumeHandle"), errors);
    for (name, secret) in [
        ("controllerPublishSecretRef", &s.controller_publish_secret_ref),
        ("controllerExpandSecretRef", &s.controller_expand_secret_ref),
        ("nodePublishSecretRef", &s.node_publish_secret_ref),
        ("nodeExpandSecretRef", &s.node_expand_secret_ref),
    ] {
        if let Some(secret) = secret {
            validate_secret(secret, &path.child(name), errors);
        }
    }
}
