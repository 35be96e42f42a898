//! What files a config map, secret, downward API or projected volume holds: pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, ServiceAccountTokenProjection,
    Volume,
};

use crate::downward::{self, FieldContext};
use crate::env::{EnvError, Objects};
use crate::spec;

/// A file to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its content.
    pub data: Vec<u8>,
    /// Its permissions.
    pub mode: u32,
    /// Its owner, where it is not root.
    pub user: Option<u32>,
}

/// Files by their path in the volume.
pub type Payload = BTreeMap<String, File>;

/// What a service account token is asked for with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenKey {
    /// Whom it is for; empty: the API server.
    pub audience: String,
    /// How long it shall be good for.
    pub expiration_seconds: i64,
}

/// What the server gives when nothing is said.
const DEFAULT_TOKEN_SECONDS: i64 = 3600;
/// Permissions of files when the server filled in none.
const DEFAULT_MODE: i32 = 0o644;
/// Permissions of tokens that only one user shall read.
const PRIVATE_MODE: u32 = 0o600;

impl TokenKey {
    fn of(source: &ServiceAccountTokenProjection) -> TokenKey {
        TokenKey {
            audience: source.audience.clone().unwrap_or_default(),
            expiration_seconds: source.expiration_seconds.unwrap_or(DEFAULT_TOKEN_SECONDS),
        }
    }
}

/// The tokens that a pod's volumes need.
#[must_use]
pub fn tokens(pod: &Pod) -> Vec<TokenKey> {
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
    let mut keys: Vec<TokenKey> = volumes
        .iter()
        .filter_map(|v| v.projected.as_ref())
        .flat_map(|p| p.sources.iter().flatten())
        .filter_map(|s| s.service_account_token.as_ref())
        .map(TokenKey::of)
        .collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// Everything that files are made of.
#[derive(Clone, Debug)]
pub struct Material<'a> {
    /// Config maps and secrets.
    pub objects: &'a Objects,
    /// Tokens.
    pub tokens: &'a BTreeMap<TokenKey, String>,
    /// Fields of the pod that are not in the pod.
    pub fields: &'a FieldContext<'a>,
}

/// Why a volume's files cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// An object is missing.
    #[error(transparent)]
    Object(#[from] EnvError),
    /// A key is missing.
    #[error("{0} references non-existent {1} key: {2}")]
    Key(&'static str, &'static str, String),
    /// A field cannot be given.
    #[error(transparent)]
    Field(#[from] downward::FieldError),
    /// A token was not handed out.
    #[error("failed to fetch token for audience {0:?}")]
    Token(String),
    /// A path leads out of the volume or stands for nothing.
    #[error("invalid path {0:?} in a volume")]
    Path(String),
    /// The volume is of a kind that this agent does not know.
    #[error("projected volume source {0} is not supported by this node")]
    Unsupported(&'static str),
}

fn keys(
    items: Option<&[KeyToPath]>,
    find: impl Fn(&str) -> Option<Vec<u8>>,
    all: impl Iterator<Item = String>,
    default_mode: i32,
    optional: bool,
    missing: (&'static str, &'static str),
) -> Result<Payload, PayloadError> {
    let mode = |m: i32| u32::try_from(m).unwrap_or(0o644) & 0o777;
    let mut payload = Payload::new();
    match items.filter(|i| !i.is_empty()) {
        None => {
            for key in all {
                if let Some(data) = find(&key) {
                    payload.insert(key, File { data, mode: mode(default_mode), user: None });
                }
            }
        }
        Some(items) => {
            for item in items {
                match find(&item.key) {
                    Some(data) => {
                        let own = item.mode.unwrap_or(default_mode);
                        payload.insert(item.path.clone(), File { data, mode: mode(own), user: None });
                    }
                    None if optional => {}
                    None => return Err(PayloadError::Key(missing.0, missing.1, item.key.clone())),
                }
            }
        }
    }
    Ok(payload)
}

fn config_map(
    objects: &Objects,
    name: &str,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: bool,
) -> Result<Payload, PayloadError> {
    let empty = ConfigMap::default();
    let map = match objects.config_map(name) {
        Ok(map) => map.as_ref(),
        Err(_) if optional => &empty,
        Err(e) => return Err(e.into()),
    };
    let find = |key: &str| {
        let text = map.data.as_ref().and_then(|d| d.get(key)).map(|v| v.clone().into_bytes());
        text.or_else(|| map.binary_data.as_ref().and_then(|d| d.get(key)).map(|v| v.0.clone()))
    };
    let all = map.data.iter().flatten().map(|(k, _)| k.clone());
    let all = all.chain(map.binary_data.iter().flatten().map(|(k, _)| k.clone()));
    keys(items, find, all, mode, optional, ("configmap", "config"))
}

fn secret(
    objects: &Objects,
    name: &str,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: bool,
) -> Result<Payload, PayloadError> {
    let empty = Secret::default();
    let secret = match objects.secret(name) {
        Ok(secret) => secret.as_ref(),
        Err(_) if optional => &empty,
        Err(e) => return Err(e.into()),
    };
    let find = |key: &str| secret.data.as_ref().and_then(|d| d.get(key)).map(|v| v.0.clone());
    let all = secret.data.iter().flatten().map(|(k, _)| k.clone());
    keys(items, find, all, mode, optional, ("secret", "secret"))
}

fn downward(
    pod: &Pod,
    items: &[DownwardAPIVolumeFile],
    mode: i32,
    fields: &FieldContext<'_>,
) -> Result<Payload, PayloadError> {
    let mut payload = Payload::new();
    for item in items {
        let text = if let Some(r) = &item.field_ref {
            downward::field(pod, &r.field_path, fields)?
        } else if let Some(r) = &item.resource_field_ref {
            downward::resource_field(pod, r, None, fields)?
        } else {
            continue;
        };
        let mode = u32::try_from(item.mode.unwrap_or(mode)).unwrap_or(0o644) & 0o777;
        payload.insert(item.path.clone(), File { data: text.into_bytes(), mode, user: None });
    }
    Ok(payload)
}

/// The one user that all containers of the pod run as, if there is one: tokens can then belong to that user alone.
#[must_use]
pub fn only_user(pod: &Pod) -> Option<u32> {
    let of_pod = pod.spec.as_ref()?.security_context.as_ref().and_then(|s| s.run_as_user);
    let user = |c: &Container| c.security_context.as_ref().and_then(|s| s.run_as_user).or(of_pod);
    let mut users = spec::init_containers(pod).iter().chain(spec::containers(pod)).map(user);
    let first = users.next()??;
    users.all(|u| u == Some(first)).then(|| u32::try_from(first).ok()).flatten()
}

/// A volume's files, when it is of a kind that holds files from the API; else `None`.
///
/// # Errors
/// What is missing that is not optional.
pub fn payload(pod: &Pod, volume: &Volume, m: &Material<'_>) -> Result<Option<Payload>, PayloadError> {
    let files = if let Some(v) = &volume.config_map {
        let mode = v.default_mode.unwrap_or(DEFAULT_MODE);
        config_map(m.objects, &v.name, v.items.as_deref(), mode, v.optional == Some(true))?
    } else if let Some(v) = &volume.secret {
        let mode = v.default_mode.unwrap_or(DEFAULT_MODE);
        let name = v.secret_name.as_deref().unwrap_or_default();
        secret(m.objects, name, v.items.as_deref(), mode, v.optional == Some(true))?
    } else if let Some(v) = &volume.downward_api {
        let mode = v.default_mode.unwrap_or(DEFAULT_MODE);
        downward(pod, v.items.as_deref().unwrap_or_default(), mode, m.fields)?
    } else if let Some(v) = &volume.projected {
        projected(pod, v.sources.as_deref().unwrap_or_default(), v.default_mode.unwrap_or(DEFAULT_MODE), m)?
    } else {
        return Ok(None);
    };
    files.keys().try_for_each(|path| check_path(path))?;
    Ok(Some(files))
}

fn projected(
    pod: &Pod,
    sources: &[k8s_openapi::api::core::v1::VolumeProjection],
    mode: i32,
    m: &Material<'_>,
) -> Result<Payload, PayloadError> {
    let mut files = Payload::new();
    for source in sources {
        if let Some(s) = &source.secret {
            files.extend(secret(m.objects, &s.name, s.items.as_deref(), mode, s.optional == Some(true))?);
        }
        if let Some(s) = &source.config_map {
            files.extend(config_map(m.objects, &s.name, s.items.as_deref(), mode, s.optional == Some(true))?);
        }
        if let Some(s) = &source.downward_api {
            files.extend(downward(pod, s.items.as_deref().unwrap_or_default(), mode, m.fields)?);
        }
        if let Some(s) = &source.service_account_token {
            let key = TokenKey::of(s);
            let token = m.tokens.get(&key).ok_or_else(|| PayloadError::Token(key.audience.clone()))?;
            let user = only_user(pod);
            let group = pod.spec.as_ref().and_then(|s| s.security_context.as_ref()).and_then(|s| s.fs_group);
            let mode = if user.is_some() || group.is_some() {
                PRIVATE_MODE
            } else {
                u32::try_from(mode).unwrap_or(0o644) & 0o777
            };
            files.insert(s.path.clone(), File { data: token.clone().into_bytes(), mode, user });
        }
        if source.cluster_trust_bundle.is_some() {
            return Err(PayloadError::Unsupported("clusterTrustBundle"));
        }
        if source.pod_certificate.is_some() {
            return Err(PayloadError::Unsupported("podCertificate"));
        }
    }
    Ok(files)
}

/// Paths stay inside the volume, and names that begin with `..` are the writer's own.
fn check_path(path: &str) -> Result<(), PayloadError> {
    let bad = path.is_empty()
        || path.starts_with('/')
        || path.len() > 4096
        || path.split('/').any(|part| part == ".." || part.len() > 255)
        || path.starts_with("..");
    if bad { Err(PayloadError::Path(path.to_owned())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::pod;
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn make(volume: Value) -> Result<Payload, PayloadError> {
        let map: ConfigMap =
            serde_json::from_value(json!({"data": {"a": "1", "b": "2"}, "binaryData": {"bin": "AAE="}}))
                .unwrap();
        let secret: Secret = serde_json::from_value(json!({"data": {"p": "cw=="}})).unwrap();
        let objects = Objects {
            config_maps: BTreeMap::from([("m".to_owned(), Some(Arc::new(map)))]),
            secrets: BTreeMap::from([("s".to_owned(), Some(Arc::new(secret)))]),
        };
        let tokens =
            BTreeMap::from([(TokenKey { audience: "vault".into(), expiration_seconds: 600 }, "t".into())]);
        let fields = FieldContext::default();
        let material = Material { objects: &objects, tokens: &tokens, fields: &fields };
        let p = pod(json!({"containers": [{"name": "c"}]}));
        let volume: Volume = serde_json::from_value(volume).unwrap();
        payload(&p, &volume, &material).map(Option::unwrap)
    }

    fn shown(payload: &Payload) -> Vec<(String, String, u32)> {
        payload
            .iter()
            .map(|(k, f)| (k.clone(), String::from_utf8_lossy(&f.data).into_owned(), f.mode))
            .collect()
    }

    #[test]
    fn keys_become_files() {
        let files = make(json!({"name": "v", "configMap": {"name": "m", "defaultMode": 0o640}})).unwrap();
        assert_eq!(files.len(), 3);
        assert_eq!(files["bin"].data, [0, 1]);
        assert_eq!(files["a"].mode, 0o640);
        let files = make(json!({"name": "v", "configMap": {"name": "m",
            "items": [{"key": "a", "path": "d/x", "mode": 0o400}, {"key": "b", "path": "y"}]}}))
        .unwrap();
        assert_eq!(shown(&files), [("d/x".into(), "1".into(), 0o400), ("y".into(), "2".into(), 0o644)]);
    }

    #[test]
    fn sources_are_laid_over_each_other() {
        let files = make(json!({"name": "v", "projected": {"defaultMode": 0o600, "sources": [
            {"configMap": {"name": "m", "items": [{"key": "a", "path": "x"}, {"key": "b", "path": "z"}]}},
            {"secret": {"name": "s", "items": [{"key": "p", "path": "x"}]}},
            {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
            {"serviceAccountToken": {"path": "token", "audience": "vault", "expirationSeconds": 600}}]}}))
        .unwrap();
        assert_eq!(
            shown(&files).into_iter().map(|(k, v, _)| (k, v)).collect::<Vec<_>>(),
            [("name", "p"), ("token", "t"), ("x", "s"), ("z", "2")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        for (volume, message) in [
            (json!({"configMap": {"name": "no"}}), "configmap \"no\" not found"),
            (json!({"secret": {"secretName": "no"}}), "secret \"no\" not found"),
            (
                json!({"configMap": {"name": "m", "items": [{"key": "z", "path": "z"}]}}),
                "configmap references non-existent config key: z",
            ),
            (
                json!({"secret": {"secretName": "s", "items": [{"key": "z", "path": "z"}]}}),
                "secret references non-existent secret key: z",
            ),
            (
                json!({"configMap": {"name": "m", "items": [{"key": "a", "path": "../z"}]}}),
                "invalid path \"../z\" in a volume",
            ),
        ] {
            let mut volume = volume;
            volume["name"] = "v".into();
            assert_eq!(make(volume).unwrap_err().to_string(), message);
        }
        for volume in [
            json!({"name": "v", "configMap": {"name": "no", "optional": true}}),
            json!({"name": "v", "secret": {"secretName": "s", "optional": true, "items": [{"key": "z", "path": "z"}]}}),
        ] {
            assert_eq!(make(volume).unwrap().len(), 0, "what is optional may be missing");
        }
    }
}
