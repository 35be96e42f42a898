//! ServiceAccount: every pod has one, gets its pull secrets, and finds a token for it in its containers.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    ConfigMapProjection, DownwardAPIProjection, DownwardAPIVolumeFile, EnvFromSource, EnvVar, KeyToPath,
    ObjectFieldSelector, Pod, PodSpec, ProjectedVolumeSource, ServiceAccount, ServiceAccountTokenProjection,
    Volume, VolumeMount, VolumeProjection,
};

use crate::pods;
use crate::refusal::Refusal;
use crate::review::{Operation, Review, SERVICE_ACCOUNTS};

const DEFAULT: &str = "default";
const ENFORCE_MOUNTABLE_SECRETS: &str = "kubernetes.io/enforce-mountable-secrets";
const VOLUME_PREFIX: &str = "kube-api-access-";
const TOKEN_MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The extra 7 seconds mark tokens that were not asked for: the token API recognises them and lets them live
/// longer while it warns about late use.
const TOKEN_EXPIRATION_S: i64 = 3607;
const PROJECTED_MODE: i32 = 0o644;

/// Whether the plugin looks at the write at all.
fn concerns(review: &Review<'_>) -> bool {
    review.is("", "pods") && (review.is_main() || review.subresource == "ephemeralcontainers")
}

pub(crate) fn mutate(review: &Review<'_>, pod: &mut Pod) -> Result<(), Refusal> {
    if !concerns(review) || review.operation != Operation::Create {
        return Ok(());
    }
    if pods::is_mirror(pod) {
        return validate(review, pod);
    }
    let suffix = suffix_from(pod.metadata.uid.as_deref().unwrap_or(review.name));
    let spec = pod.spec.get_or_insert_default();
    let name = spec.service_account_name.as_deref().filter(|n| !n.is_empty()).unwrap_or(DEFAULT).to_owned();
    let account = find(review, &name)?;
    // Both names of the field mean the same.
    spec.service_account = Some(name.clone());
    spec.service_account_name = Some(name);
    if spec.automount_service_account_token.or(account.automount_service_account_token).unwrap_or(true) {
        mount_token(spec, &suffix);
    }
    if spec.image_pull_secrets.as_ref().is_none_or(Vec::is_empty) {
        spec.image_pull_secrets = account.image_pull_secrets.filter(|s| !s.is_empty());
    }
    validate(review, pod)
}

pub(crate) fn validate(review: &Review<'_>, pod: &Pod) -> Result<(), Refusal> {
    if !concerns(review) {
        return Ok(());
    }
    let ephemeral = review.operation == Operation::Update && review.subresource == "ephemeralcontainers";
    if !ephemeral && review.operation != Operation::Create {
        return Ok(());
    }
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let name = spec.service_account_name.as_deref().unwrap_or("");
    if !ephemeral && pods::is_mirror(pod) {
        return mirror(review, spec, name);
    }
    if name.is_empty() {
        return Err(review.forbid(format!(
            "no service account specified for pod {}/{}",
            review.namespace,
            pod.metadata.name.as_deref().unwrap_or("")
        )));
    }
    let account = find(review, name)?;
    if enforces(&account) {
        let found = if ephemeral {
            forbidden_in_ephemeral(&account, spec)
        } else {
            forbidden_reference(&account, spec)
        };
        if let Some(why) = found {
            return Err(review.forbid(why));
        }
    }
    Ok(())
}

fn mirror(review: &Review<'_>, spec: &PodSpec, account: &str) -> Result<(), Refusal> {
    if !account.is_empty() {
        return Err(review.forbid("a mirror pod may not reference service accounts"));
    }
    if pods::references_secrets(spec) {
        return Err(review.forbid("a mirror pod may not reference secrets"));
    }
    let projections = spec.volumes.iter().flatten().filter_map(|v| v.projected.as_ref());
    if projections.flat_map(|p| p.sources.iter().flatten()).any(|s| s.service_account_token.is_some()) {
        return Err(review.forbid("a mirror pod may not use ServiceAccountToken volume projections"));
    }
    Ok(())
}

fn find(review: &Review<'_>, name: &str) -> Result<ServiceAccount, Refusal> {
    review.get(&SERVICE_ACCOUNTS, review.namespace, name)?.ok_or_else(|| {
        // "serviceaccount", in the singular, is what upstream says here.
        review.forbid(format!(
            "error looking up service account {}/{name}: serviceaccount {name:?} not found",
            review.namespace
        ))
    })
}

fn enforces(account: &ServiceAccount) -> bool {
    let annotation = account.metadata.annotations.as_ref().and_then(|a| a.get(ENFORCE_MOUNTABLE_SECRETS));
    annotation.is_some_and(|v| matches!(v.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True"))
}

fn secret_of(env: &EnvVar) -> Option<&str> {
    Some(&env.value_from.as_ref()?.secret_key_ref.as_ref()?.name)
}

fn secret_of_from(env: &EnvFromSource) -> Option<&str> {
    Some(&env.secret_ref.as_ref()?.name)
}

/// What a container may not refer to, in words.
fn forbidden_env(
    account: &str,
    allowed: &BTreeSet<&str>,
    noun: &str,
    container: &str,
    env: &[EnvVar],
    env_from: &[EnvFromSource],
) -> Option<String> {
    let because = format!("is not allowed because service account {account} does not reference that secret");
    for e in env {
        if let Some(secret) = secret_of(e).filter(|s| !allowed.contains(s)) {
            return Some(format!(
                "{noun} {container} with envVar {} referencing secret.secretName=\"{secret}\" {because}",
                e.name
            ));
        }
    }
    let secret = env_from.iter().filter_map(secret_of_from).find(|s| !allowed.contains(s))?;
    Some(format!("{noun} {container} with envFrom referencing secret.secretName=\"{secret}\" {because}"))
}

fn mountable(account: &ServiceAccount) -> BTreeSet<&str> {
    account.secrets.iter().flatten().filter_map(|s| s.name.as_deref()).collect()
}

fn forbidden_reference(account: &ServiceAccount, spec: &PodSpec) -> Option<String> {
    let name = account.metadata.name.as_deref().unwrap_or("");
    let allowed = mountable(account);
    let volumes = spec.volumes.iter().flatten().filter_map(|v| v.secret.as_ref());
    for secret in volumes.map(|s| s.secret_name.as_deref().unwrap_or("")) {
        if !allowed.contains(secret) {
            return Some(format!(
                "volume with secret.secretName=\"{secret}\" is not allowed because service account {name} does not \
                 reference that secret"
            ));
        }
    }
    let init = spec.init_containers.iter().flatten().map(|c| ("init container", c));
    for (noun, c) in init.chain(spec.containers.iter().map(|c| ("container", c))) {
        let (env, from) = (c.env.as_deref().unwrap_or_default(), c.env_from.as_deref().unwrap_or_default());
        if let Some(why) = forbidden_env(name, &allowed, noun, &c.name, env, from) {
            return Some(why);
        }
    }
    let pull: BTreeSet<&str> = account.image_pull_secrets.iter().flatten().map(|s| s.name.as_str()).collect();
    let (i, secret) = spec
        .image_pull_secrets
        .iter()
        .flatten()
        .enumerate()
        .find(|(_, s)| !pull.contains(s.name.as_str()))?;
    Some(format!(
        "imagePullSecrets[{i}].name=\"{}\" is not allowed because service account {name} does not reference that \
         imagePullSecret",
        secret.name
    ))
}

fn forbidden_in_ephemeral(account: &ServiceAccount, spec: &PodSpec) -> Option<String> {
    let name = account.metadata.name.as_deref().unwrap_or("");
    let allowed = mountable(account);
    spec.ephemeral_containers.iter().flatten().find_map(|c| {
        let (env, from) = (c.env.as_deref().unwrap_or_default(), c.env_from.as_deref().unwrap_or_default());
        forbidden_env(name, &allowed, "ephemeral container", &c.name, env, from)
    })
}

fn mount_token(spec: &mut PodSpec, suffix: &str) {
    let present =
        spec.volumes.iter().flatten().find(|v| v.name.starts_with(VOLUME_PREFIX)).map(|v| v.name.clone());
    let has_volume = present.is_some();
    let volume = present.unwrap_or_else(|| format!("{VOLUME_PREFIX}{suffix}"));
    let mount = VolumeMount {
        name: volume.clone(),
        read_only: Some(true),
        mount_path: TOKEN_MOUNT_PATH.to_owned(),
        ..VolumeMount::default()
    };
    let mut needed = false;
    for container in spec.init_containers.iter_mut().flatten().chain(spec.containers.iter_mut()) {
        let mounts = container.volume_mounts.get_or_insert_default();
        // What is mounted there already stays.
        if mounts.iter().all(|m| m.mount_path != TOKEN_MOUNT_PATH) {
            mounts.push(mount.clone());
            needed = true;
        }
    }
    if needed && !has_volume {
        let volume = Volume { name: volume, projected: Some(token_source()), ..Volume::default() };
        spec.volumes.get_or_insert_default().push(volume);
    }
}

fn token_source() -> ProjectedVolumeSource {
    let token = VolumeProjection {
        service_account_token: Some(ServiceAccountTokenProjection {
            path: "token".to_owned(),
            expiration_seconds: Some(TOKEN_EXPIRATION_S),
            ..ServiceAccountTokenProjection::default()
        }),
        ..VolumeProjection::default()
    };
    let ca = VolumeProjection {
        config_map: Some(ConfigMapProjection {
            name: "kube-root-ca.crt".to_owned(),
            items: Some(vec![KeyToPath { key: "ca.crt".to_owned(), path: "ca.crt".to_owned(), mode: None }]),
            ..ConfigMapProjection::default()
        }),
        ..VolumeProjection::default()
    };
    let namespace = VolumeProjection {
        downward_api: Some(DownwardAPIProjection {
            items: Some(vec![DownwardAPIVolumeFile {
                path: "namespace".to_owned(),
                field_ref: Some(ObjectFieldSelector {
                    api_version: Some("v1".to_owned()),
                    field_path: "metadata.namespace".to_owned(),
                }),
                ..DownwardAPIVolumeFile::default()
            }]),
        }),
        ..VolumeProjection::default()
    };
    ProjectedVolumeSource { default_mode: Some(PROJECTED_MODE), sources: Some(vec![token, ca, namespace]) }
}

/// Five characters that look random, from what is: the pod's uid. Admission itself draws no random numbers.
fn suffix_from(uid: &str) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    // FNV-1a: spreads well, and needs nothing.
    let mut hash =
        uid.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    (0..5)
        .map(|_| {
            let c = ALPHABET[(hash % ALPHABET.len() as u64) as usize];
            hash /= ALPHABET.len() as u64;
            char::from(c)
        })
        .collect()
}
