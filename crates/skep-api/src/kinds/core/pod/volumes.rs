//! Volumes: one source each, and what each source needs.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    AzureDiskVolumeSource, CSIVolumeSource, DownwardAPIVolumeFile, EphemeralVolumeSource, FCVolumeSource,
    FlexVolumeSource, FlockerVolumeSource, HostPathVolumeSource, ISCSIVolumeSource, ImageVolumeSource,
    KeyToPath, ProjectedVolumeSource, QuobyteVolumeSource, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::containers::{self, PULL_POLICIES};
use super::view::{Names, SmallMap, items, text, yes};
use super::{checks, claims, resources};
use crate::field::{Errors, Path};
use crate::meta;

/// The volumes of a pod that are in order, by name.
pub(super) type Volumes<'a> = SmallMap<&'a str, &'a Volume>;

/// Longest `volume:targetPortal` when an initiator name is given: it becomes part of an interface's name.
const ISCSI_NAME_MAX_LEN: usize = 64;
const TOKEN_MIN_S: i64 = 600;
const TOKEN_MAX_S: i64 = 1 << 32;
/// Longest name of a CSI driver.
const DRIVER_MAX_LEN: usize = 63;

/// Checks the volumes of a pod, or of a template (`meta` is then `None`).
pub(super) fn validate_volumes<'a>(
    volumes: &'a [Volume],
    meta: Option<&ObjectMeta>,
    is_pod: bool,
    path: &Path<'_>,
    errors: &mut Errors,
) -> Volumes<'a> {
    let mut valid = Volumes::new();
    let pod_name = meta.and_then(|m| m.name.as_deref()).filter(|n| !n.is_empty());
    let mut ephemeral = Names::new();
    if pod_name.is_some() {
        for volume in volumes.iter().filter(|v| v.ephemeral.is_some()) {
            ephemeral.add(&volume.name);
        }
    }
    for (i, volume) in volumes.iter().enumerate() {
        let path = path.index(i);
        let name_path = path.child("name");
        let before = errors.len();
        validate_source(volume, pod_name, is_pod, &path, errors);
        if volume.name.is_empty() {
            errors.required(&name_path, "");
        } else {
            checks::dns_label(&volume.name, &name_path, errors);
        }
        if valid.has(&volume.name) {
            errors.duplicate(&name_path, &volume.name);
        }
        if errors.len() == before {
            valid.insert(&volume.name, volume);
        }
        if let (Some(claim), Some(pod_name)) = (&volume.persistent_volume_claim, pod_name)
            && let Some(rest) = claim.claim_name.strip_prefix(pod_name)
            && let Some(volume_name) = rest.strip_prefix('-')
            && ephemeral.has(volume_name)
        {
            errors.invalid(
                &path.child("persistentVolumeClaim").child("claimName"),
                &claim.claim_name,
                "must not reference a PVC that gets created for an ephemeral volume",
            );
        }
    }
    valid
}

/// Exactly one source, and a sound one. The order is upstream's: the first source counts.
fn validate_source(
    volume: &Volume,
    pod_name: Option<&str>,
    is_pod: bool,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let mut found = false;
    macro_rules! source {
        ($field:ident, $name:literal, |$source:ident, $path:ident| $check:expr) => {
            source!($field, $name, $name, |$source, $path| $check)
        };
        ($field:ident, $forbidden_as:literal, $name:literal, |$source:ident, $path:ident| $check:expr) => {
            if let Some($source) = &volume.$field {
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
    if let Some(dir) = &volume.empty_dir {
        found = true;
        if let Some(limit) = &dir.size_limit
            && resources::amount(limit).is_none_or(|a| a.signum() < 0)
        {
            let detail = "SizeLimit field must be a valid resource quantity";
            errors.forbidden(&path.child("emptyDir").child("sizeLimit"), detail);
        }
    }
    source!(host_path, "hostPath", |s, p| validate_host_path(s, &p, errors));
    source!(git_repo, "gitRepo", |s, p| {
        checks::required(&s.repository, &p.child("repository"), errors);
        checks::descending_path(text(&s.directory), &p.child("directory"), errors);
    });
    source!(gce_persistent_disk, "gcePersistentDisk", "persistentDisk", |s, p| {
        checks::required(&s.pd_name, &p.child("pdName"), errors);
        validate_partition(s.partition, &p, errors);
    });
    source!(aws_elastic_block_store, "awsElasticBlockStore", |s, p| {
        checks::required(&s.volume_id, &p.child("volumeID"), errors);
        validate_partition(s.partition, &p, errors);
    });
    source!(secret, "secret", |s, p| {
        checks::required(text(&s.secret_name), &p.child("secretName"), errors);
        checks::file_mode(s.default_mode, &p.child("defaultMode"), errors);
        validate_items(items(&s.items), &p, errors);
    });
    source!(nfs, "nfs", |s, p| {
        checks::required(&s.server, &p.child("server"), errors);
        checks::required(&s.path, &p.child("path"), errors);
        if !s.path.starts_with('/') {
            errors.invalid(&p.child("path"), &s.path, "must be an absolute path");
        }
    });
    source!(iscsi, "iscsi", |s, p| validate_iscsi(s, &p, errors));
    if let Some(iscsi) = &volume.iscsi
        && iscsi.initiator_name.is_some()
        && volume.name.len() + 1 + iscsi.target_portal.len() > ISCSI_NAME_MAX_LEN
    {
        let detail = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if \
                      iscsi.initiatorName is specified.";
        errors.invalid(&path.child("name"), &volume.name, detail);
    }
    source!(glusterfs, "glusterfs", |s, p| {
        checks::required(&s.endpoints, &p.child("endpoints"), errors);
        checks::required(&s.path, &p.child("path"), errors);
    });
    source!(flocker, "flocker", |s, p| validate_flocker(s, &p, errors));
    source!(persistent_volume_claim, "persistentVolumeClaim", |s, p| {
        checks::required(&s.claim_name, &p.child("claimName"), errors);
    });
    source!(rbd, "rbd", |s, p| {
        if s.monitors.is_empty() {
            errors.required(&p.child("monitors"), "");
        }
        checks::required(&s.image, &p.child("image"), errors);
    });
    source!(cinder, "cinder", |s, p| {
        checks::required(&s.volume_id, &p.child("volumeID"), errors);
        if let Some(secret) = &s.secret_ref {
            checks::required(&secret.name, &p.child("secretRef").child("name"), errors);
        }
    });
    source!(cephfs, "cephFS", "cephfs", |s, p| {
        if s.monitors.is_empty() {
            errors.required(&p.child("monitors"), "");
        }
    });
    source!(quobyte, "quobyte", |s, p| validate_quobyte(s, &p, errors));
    source!(downward_api, "downwarAPI", "downwardAPI", |s, p| {
        checks::file_mode(s.default_mode, &p.child("defaultMode"), errors);
        for file in items(&s.items) {
            validate_downward_file(file, &p, errors);
        }
    });
    source!(fc, "fc", |s, p| validate_fc(s, &p, errors));
    source!(flex_volume, "flexVolume", |s, p| validate_flex(s, &p, errors));
    source!(config_map, "configMap", |s, p| {
        checks::required(&s.name, &p.child("name"), errors);
        checks::file_mode(s.default_mode, &p.child("defaultMode"), errors);
        validate_items(items(&s.items), &p, errors);
    });
    source!(azure_file, "azureFile", |s, p| {
        checks::required(&s.secret_name, &p.child("secretName"), errors);
        checks::required(&s.share_name, &p.child("shareName"), errors);
    });
    source!(vsphere_volume, "vsphereVolume", |s, p| {
        checks::required(&s.volume_path, &p.child("volumePath"), errors);
    });
    source!(photon_persistent_disk, "photonPersistentDisk", |s, p| {
        checks::required(&s.pd_id, &p.child("pdID"), errors);
    });
    source!(portworx_volume, "portworxVolume", |s, p| {
        checks::required(&s.volume_id, &p.child("volumeID"), errors);
    });
    source!(azure_disk, "azureDisk", |s, p| validate_azure_disk(s, &p, errors));
    source!(storageos, "storageos", |s, p| {
        let (volume_name, namespace) = (text(&s.volume_name), text(&s.volume_namespace));
        if volume_name.is_empty() {
            errors.required(&p.child("volumeName"), "");
        } else {
            checks::dns_label(volume_name, &p.child("volumeName"), errors);
        }
        if !namespace.is_empty() {
            checks::dns_label(namespace, &p.child("volumeNamespace"), errors);
        }
        if let Some(secret) = &s.secret_ref {
            checks::required(&secret.name, &p.child("secretRef").child("name"), errors);
        }
    });
    source!(projected, "projected", |s, p| validate_projected(s, &p, errors));
    source!(scale_io, "scaleIO", |s, p| {
        checks::required(&s.gateway, &p.child("gateway"), errors);
        checks::required(&s.system, &p.child("system"), errors);
        checks::required(text(&s.volume_name), &p.child("volumeName"), errors);
    });
    source!(csi, "csi", |s, p| validate_csi(s, &p, errors));
    source!(ephemeral, "ephemeral", |s, p| validate_ephemeral(s, volume, pod_name, path, &p, errors));
    source!(image, "image", |s, p| validate_image(s, is_pod, &p, errors));
    if !found {
        errors.required(path, "must specify a volume type");
    }
}

pub(in crate::kinds::core) fn validate_partition(
    partition: Option<i32>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let partition = partition.unwrap_or(0);
    if !(0..=255).contains(&partition) {
        errors.invalid(&path.child("partition"), partition, "must be between 1 and 255, inclusive");
    }
}

pub(in crate::kinds::core) fn validate_host_path(
    source: &HostPathVolumeSource,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if source.path.is_empty() {
        errors.required(&path.child("path"), "");
        return;
    }
    checks::no_backsteps(&source.path, &path.child("path"), errors);
    const TYPES: [&str; 8] =
        ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    checks::one_of(text(&source.type_), &TYPES, &path.child("type"), errors);
}

fn validate_items(list: &[KeyToPath], path: &Path<'_>, errors: &mut Errors) {
    let items_path = path.child("items");
    for (i, item) in list.iter().enumerate() {
        validate_key_to_path(item, &items_path.index(i), errors);
    }
}

fn validate_key_to_path(item: &KeyToPath, path: &Path<'_>, errors: &mut Errors) {
    checks::required(&item.key, &path.child("key"), errors);
    checks::required(&item.path, &path.child("path"), errors);
    checks::unreserved_path(&item.path, &path.child("path"), errors);
    checks::file_mode(item.mode, &path.child("mode"), errors);
}

/// Whether an initiator or target name has the form of its kind; `None` when it is of no kind.
pub(in crate::kinds::core) fn iscsi_name_ok(iqn: &str) -> Option<bool> {
    let hex = |rest: &str, len: usize| {
        // One separator of any sort, then that many letters and digits.
        let mut chars = rest.chars();
        chars.next().is_some()
            && chars.as_str().len() == len
            && chars.as_str().bytes().all(|b| b.is_ascii_alphanumeric())
    };
    if let Some(rest) = iqn.strip_prefix("iqn") {
        return Some(has_iqn_form(rest));
    }
    iqn.strip_prefix("eui").map(|r| hex(r, 16)).or_else(|| iqn.strip_prefix("naa").map(|r| hex(r, 32)))
}

/// `.yyyy-mm.reversed.domain:anything`
fn has_iqn_form(rest: &str) -> bool {
    let Some(rest) = rest.strip_prefix('.') else { return false };
    let bytes = rest.as_bytes();
    let date_ok = bytes.len() > 8
        && bytes[..4].iter().all(u8::is_ascii_digit)
        && bytes[4] == b'-'
        && bytes[5..7].iter().all(u8::is_ascii_digit)
        && bytes[7] == b'.';
    if !date_ok {
        return false;
    }
    let Some((domain, id)) = rest[8..].split_once(':') else { return false };
    !domain.is_empty()
        && domain.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
        && !id.is_empty()
        && !id.contains(|c: char| {
            matches!(c, ',' | ';' | '*' | '&' | '$' | '|' | ' ' | '\t' | '\n' | '\r' | '\x0c')
        })
}

fn validate_iscsi(source: &ISCSIVolumeSource, path: &Path<'_>, errors: &mut Errors) {
    const KINDS: &str = "must be valid format starting with iqn, eui, or naa";
    checks::required(&source.target_portal, &path.child("targetPortal"), errors);
    if source.iqn.is_empty() {
        errors.required(&path.child("iqn"), "");
    } else {
        match iscsi_name_ok(&source.iqn) {
            None => errors.invalid(&path.child("iqn"), &source.iqn, KINDS),
            Some(false) => errors.invalid(&path.child("iqn"), &source.iqn, "must be valid format"),
            Some(true) => {}
        }
    }
    if !(0..=255).contains(&source.lun) {
        errors.invalid(&path.child("lun"), source.lun, "must be between 0 and 255, inclusive");
    }
    if (yes(source.chap_auth_discovery) || yes(source.chap_auth_session)) && source.secret_ref.is_none() {
        errors.required(&path.child("secretRef"), "");
    }
    if let Some(initiator) = &source.initiator_name {
        match iscsi_name_ok(initiator) {
            None => errors.invalid(&path.child("initiatorname"), initiator, KINDS),
            Some(false) => errors.invalid(&path.child("initiatorname"), initiator, "must be valid format"),
            Some(true) => {}
        }
    }
}

pub(in crate::kinds::core) fn validate_flocker(
    source: &FlockerVolumeSource,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let (dataset, uuid) = (text(&source.dataset_name), text(&source.dataset_uuid));
    if dataset.is_empty() && uuid.is_empty() {
        errors.required(path, "one of datasetName and datasetUUID is required");
    }
    if !dataset.is_empty() && !uuid.is_empty() {
        errors.invalid(path, "resource", "datasetName and datasetUUID can not be specified simultaneously");
    }
    if dataset.contains('/') {
        errors.invalid(&path.child("datasetName"), dataset, "must not contain '/'");
    }
}

fn is_host_port(pair: &str) -> bool {
    match pair.strip_prefix('[') {
        Some(rest) => rest
            .split_once("]:")
            .is_some_and(|(host, port)| !host.contains(['[', ']']) && !port.contains([':', '[', ']'])),
        None => pair
            .split_once(':')
            .is_some_and(|(host, port)| !host.contains(['[', ']']) && !port.contains([':', '[', ']'])),
    }
}

pub(in crate::kinds::core) fn validate_quobyte(
    source: &QuobyteVolumeSource,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    const PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";
    if source.registry.is_empty() {
        errors.required(&path.child("registry"), PAIRS);
    } else if text(&source.tenant).len() >= 65 {
        errors.required(&path.child("tenant"), "must be a UUID and may not exceed a length of 64 characters");
    } else {
        for _ in source.registry.split(',').filter(|pair| !is_host_port(pair)) {
            errors.invalid(&path.child("registry"), &source.registry, PAIRS);
        }
    }
    checks::required(&source.volume, &path.child("volume"), errors);
}

pub(in crate::kinds::core) fn validate_fc(source: &FCVolumeSource, path: &Path<'_>, errors: &mut Errors) {
    let (wwns, wwids) = (items(&source.target_wwns), items(&source.wwids));
    let wwns_path = path.child("targetWWNs");
    if wwns.is_empty() && wwids.is_empty() {
        errors.required(&wwns_path, "must specify either targetWWNs or wwids, but not both");
    }
    if !wwns.is_empty() && !wwids.is_empty() {
        let detail = "targetWWNs and wwids can not be specified simultaneously";
        errors.invalid(&wwns_path, crate::field::Json(&wwns), detail);
    }
    if !wwns.is_empty() {
        match source.lun {
            None => errors.required(&path.child("lun"), "lun is required if targetWWNs is specified"),
            Some(lun) if !(0..=255).contains(&lun) => {
                errors.invalid(&path.child("lun"), lun, "must be between 0 and 255, inclusive");
            }
            Some(_) => {}
        }
    }
}

fn validate_flex(source: &FlexVolumeSource, path: &Path<'_>, errors: &mut Errors) {
    validate_flex_parts(&source.driver, source.options.as_ref(), path, errors);
}

/// What flex volumes of pods and persistent ones have in common.
pub(in crate::kinds::core) fn validate_flex_parts(
    driver: &str,
    options: Option<&BTreeMap<String, String>>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    checks::required(driver, &path.child("driver"), errors);
    for key in options.into_iter().flatten().map(|(k, _)| k) {
        let namespace = key.split_once('/').map_or(key.as_str(), |(n, _)| n).to_lowercase();
        let reserved = |domain: &str| {
            namespace.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        if reserved("kubernetes.io") || reserved("k8s.io") {
            let detail = "kubernetes.io and k8s.io namespaces are reserved";
            errors.invalid(&path.child("options").key(key), key, detail);
        }
    }
}

pub(in crate::kinds::core) fn validate_azure_disk(
    source: &AzureDiskVolumeSource,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    checks::required(&source.disk_name, &path.child("diskName"), errors);
    checks::required(&source.disk_uri, &path.child("diskURI"), errors);
    if let Some(mode) = &source.caching_mode {
        checks::one_of(mode, &["None", "ReadOnly", "ReadWrite"], &path.child("cachingMode"), errors);
    }
    let Some(kind) = &source.kind else { return };
    checks::one_of(kind, &["Dedicated", "Managed", "Shared"], &path.child("kind"), errors);
    let uri_path = path.child("diskURI");
    if kind == "Managed" && !source.disk_uri.starts_with("/subscriptions/") {
        let form =
            "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}";
        errors.not_supported(&uri_path, &source.disk_uri, &[form]);
    }
    if kind != "Managed" && !source.disk_uri.starts_with("https://") {
        let form = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd";
        errors.not_supported(&uri_path, &source.disk_uri, &[form]);
    }
}

/// The name of a driver: a subdomain, but upper case is allowed.
pub(in crate::kinds::core) fn validate_csi_driver(driver: &str, path: &Path<'_>, errors: &mut Errors) {
    if driver.is_empty() {
        errors.required(path, "");
        return;
    }
    if driver.len() > DRIVER_MAX_LEN {
        errors.too_long(path, DRIVER_MAX_LEN);
    }
    for detail in meta::dns1123_subdomain_errors(&driver.to_lowercase()) {
        errors.invalid(path, driver, &detail);
    }
}

fn validate_csi(source: &CSIVolumeSource, path: &Path<'_>, errors: &mut Errors) {
    validate_csi_driver(&source.driver, &path.child("driver"), errors);
    if let Some(secret) = &source.node_publish_secret_ref {
        if secret.name.is_empty() {
            errors.required(&path.child("nodePublishSecretRef").child("name"), "");
        } else {
            checks::dns_subdomain(&secret.name, &path.child("name"), errors);
        }
    }
}

fn validate_ephemeral(
    source: &EphemeralVolumeSource,
    volume: &Volume,
    pod_name: Option<&str>,
    volume_path: &Path<'_>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    match &source.volume_claim_template {
        None => errors.required(&path.child("volumeClaimTemplate"), ""),
        Some(template) => claims::validate_template(template, &path.child("volumeClaimTemplate"), errors),
    }
    if let Some(pod_name) = pod_name.filter(|_| !volume.name.is_empty()) {
        let claim = format!("{pod_name}-{}", volume.name);
        for detail in meta::dns1123_subdomain_errors(&claim) {
            let detail = format!("PVC name {claim:?}: {detail}");
            errors.invalid(&volume_path.child("name"), &volume.name, &detail);
        }
    }
}

fn validate_image(source: &ImageVolumeSource, is_pod: bool, path: &Path<'_>, errors: &mut Errors) {
    if is_pod {
        checks::required(text(&source.reference), &path.child("reference"), errors);
    }
    checks::required_one_of(text(&source.pull_policy), &PULL_POLICIES, &path.child("pullPolicy"), errors);
}

const DOWNWARD_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

fn validate_downward_file(file: &DownwardAPIVolumeFile, path: &Path<'_>, errors: &mut Errors) {
    checks::required(&file.path, &path.child("path"), errors);
    checks::unreserved_path(&file.path, &path.child("path"), errors);
    if let Some(field) = &file.field_ref {
        containers::validate_field_ref(field, &DOWNWARD_FIELDS, &path.child("fieldRef"), errors);
        if file.resource_field_ref.is_some() {
            let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
            errors.invalid(path, "resource", detail);
        }
    } else if let Some(resource) = &file.resource_field_ref {
        containers::validate_resource_ref(resource, true, &path.child("resourceFieldRef"), errors);
    } else {
        errors.required(path, "one of fieldRef and resourceFieldRef is required");
    }
    checks::file_mode(file.mode, &path.child("mode"), errors);
}

fn validate_projected(source: &ProjectedVolumeSource, path: &Path<'_>, errors: &mut Errors) {
    checks::file_mode(source.default_mode, &path.child("defaultMode"), errors);
    let mut paths = Names::new();
    let sources_path = path.child("sources");
    for (i, source) in items(&source.sources).iter().enumerate() {
        let source_path = sources_path.index(i);
        let mut found = 0;
        for (kind, name, list) in [
            ("secret", source.secret.as_ref().map(|s| &s.name), source.secret.as_ref().map(|s| &s.items)),
            (
                "configMap",
                source.config_map.as_ref().map(|s| &s.name),
                source.config_map.as_ref().map(|s| &s.items),
            ),
        ] {
            let (Some(name), Some(list)) = (name, list) else { continue };
            found += 1;
            let path_of_kind = source_path.child(kind);
            checks::required(name, &path_of_kind.child("name"), errors);
            let items_path = path_of_kind.child("items");
            for (i, item) in items(list).iter().enumerate() {
                validate_key_to_path(item, &items_path.index(i), errors);
                if !item.path.is_empty() && !paths.add(&item.path) {
                    errors.invalid(path, name, "conflicting duplicate paths");
                }
            }
        }
        if let Some(downward) = &source.downward_api {
            found += 1;
            for file in items(&downward.items) {
                validate_downward_file(file, &source_path.child("downwardAPI"), errors);
                if !file.path.is_empty() && !paths.add(&file.path) {
                    errors.invalid(path, &file.path, "conflicting duplicate paths");
                }
            }
        }
        if let Some(token) = &source.service_account_token {
            found += 1;
            let token_path = source_path.child("serviceAccountToken");
            let seconds_path = token_path.child("expirationSeconds");
            let seconds = token.expiration_seconds.unwrap_or(0);
            if seconds < TOKEN_MIN_S {
                errors.invalid(&seconds_path, seconds, "may not specify a duration less than 10 minutes");
            }
            if seconds > TOKEN_MAX_S {
                errors.invalid(&seconds_path, seconds, "may not specify a duration larger than 2^32 seconds");
            }
            if token.path.is_empty() {
                errors.required(&path.child("path"), "");
            } else {
                checks::unreserved_path(&token.path, &path.child("path"), errors);
            }
        }
        if found > 1 {
            errors.forbidden(&source_path, "may not specify more than 1 volume type per source");
        }
    }
}
