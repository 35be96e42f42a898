//! Manifests, indexes and configurations, as OCI and Docker write them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::reference::Digest;
use crate::error::{Error, ErrorKind, Result};

/// A pointer to a blob.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    #[serde(default)]
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) platform: Option<Platform>,
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) urls: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Platform {
    pub(crate) architecture: String,
    pub(crate) os: String,
    #[serde(default)]
    pub(crate) variant: String,
}

/// A manifest or an index: which of them shows in what is there.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    #[serde(default)]
    pub(crate) config: Option<Descriptor>,
    #[serde(default)]
    pub(crate) layers: Vec<Descriptor>,
    #[serde(default)]
    pub(crate) manifests: Vec<Descriptor>,
}

/// The architecture of this machine, as images name it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

impl Manifest {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Manifest> {
        let manifest: Manifest = serde_json::from_slice(bytes)
            .map_err(|e| Error::invalid(format!("the image's manifest is malformed: {e}")))?;
        match manifest.config.is_none() && manifest.manifests.is_empty() {
            true => Err(Error::invalid(
                "the image's manifest has neither a configuration nor other manifests: schema 1 is not supported",
            )),
            false => Ok(manifest),
        }
    }

    /// Of an index: the manifest for this machine. `None` when this is a manifest itself.
    pub(crate) fn for_this_machine(&self) -> Result<Option<&Descriptor>> {
        if self.config.is_some() {
            return Ok(None);
        }
        let fits = |p: &Platform| p.os == "linux" && p.architecture == architecture();
        let all = &self.manifests;
        // The oldest variant runs everywhere.
        let exact = all
            .iter()
            .filter(|m| m.platform.as_ref().is_some_and(fits))
            .min_by(|a, b| variant(a).cmp(variant(b)));
        let unnamed = || match all.as_slice() {
            [only] if only.platform.is_none() => Some(only),
            _ => None,
        };
        exact.or_else(unnamed).map(Some).ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!(
                    "no match for platform in manifest: the image has nothing for linux/{}",
                    architecture()
                ),
            )
        })
    }
}

fn variant(descriptor: &Descriptor) -> &str {
    descriptor.platform.as_ref().map_or("", |p| p.variant.as_str())
}

/// The file that says what an image is, as far as a container needs it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct ConfigFile {
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default)]
    pub(crate) created: Option<String>,
    #[serde(default)]
    pub(crate) config: Option<RawConfig>,
    #[serde(default)]
    pub(crate) rootfs: RootfsField,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct RootfsField {
    #[serde(default)]
    pub(crate) diff_ids: Vec<Digest>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct RawConfig {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
    exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
    volumes: Option<BTreeMap<String, serde_json::Value>>,
    labels: Option<BTreeMap<String, String>>,
}

/// What an image says about the containers made from it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// The program, with its first arguments.
    pub entrypoint: Vec<String>,
    /// More arguments, which a caller may replace.
    pub cmd: Vec<String>,
    /// Environment, in order.
    pub env: Vec<(String, String)>,
    /// As in [`crate::spec::User::user`].
    pub user: String,
    /// Empty when the image does not say.
    pub working_dir: String,
    /// Name or number; empty when the image does not say, which means SIGTERM.
    pub stop_signal: String,
    /// As `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// Paths that the image wants to be volumes.
    pub volumes: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

impl ConfigFile {
    pub(crate) fn parse(bytes: &[u8]) -> Result<ConfigFile> {
        let file: ConfigFile = serde_json::from_slice(bytes)
            .map_err(|e| Error::invalid(format!("the image's configuration is malformed: {e}")))?;
        let other = |name: &str, own: &str| !name.is_empty() && name != own;
        if other(&file.os, "linux") || other(&file.architecture, architecture()) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "the image is for {}/{} and this machine is linux/{}",
                    file.os,
                    file.architecture,
                    architecture()
                ),
            ));
        }
        Ok(file)
    }

    pub(crate) fn image_config(&self) -> ImageConfig {
        let raw = self.config.clone().unwrap_or_default();
        let pair = |text: String| match text.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => (text, String::new()),
        };
        ImageConfig {
            entrypoint: raw.entrypoint.unwrap_or_default(),
            cmd: raw.cmd.unwrap_or_default(),
            env: raw.env.unwrap_or_default().into_iter().map(pair).collect(),
            user: raw.user.unwrap_or_default(),
            working_dir: raw.working_dir.unwrap_or_default(),
            stop_signal: raw.stop_signal.unwrap_or_default(),
            exposed_ports: raw.exposed_ports.unwrap_or_default().into_keys().collect(),
            volumes: raw.volumes.unwrap_or_default().into_keys().collect(),
            labels: raw.labels.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(platforms: &[(&str, &str)]) -> Manifest {
        let manifests: Vec<_> = platforms
            .iter()
            .enumerate()
            .map(|(i, (os, architecture))| {
                serde_json::json!({"digest": Digest::of(&[i as u8]).to_string(), "size": 1,
                    "platform": {"os": os, "architecture": architecture}})
            })
            .collect();
        Manifest::parse(serde_json::json!({"manifests": manifests}).to_string().as_bytes()).unwrap()
    }

    #[test]
    fn the_machines_own_architecture_is_chosen() {
        let index_of = |m: &Manifest| m.for_this_machine().unwrap().unwrap().digest.clone();
        let both = index(&[("linux", "s390x"), ("windows", architecture()), ("linux", architecture())]);
        assert_eq!(index_of(&both), Digest::of(&[2]));
        let neither = index(&[("linux", "s390x")]);
        assert_eq!(neither.for_this_machine().unwrap_err().kind, ErrorKind::NotFound);
    }

    #[test]
    fn configurations_are_read_with_their_gaps() {
        let text = format!(
            r#"{{"architecture":"{}","os":"linux","config":{{"Entrypoint":["/e"],"Cmd":null,"Env":["A=b=c","D"],
                "User":"web","ExposedPorts":{{"80/tcp":{{}}}},"StopSignal":"SIGQUIT"}},"rootfs":{{"diff_ids":[]}}}}"#,
            architecture()
        );
        let config = ConfigFile::parse(text.as_bytes()).unwrap().image_config();
        assert_eq!(config.entrypoint, ["/e"]);
        assert!(config.cmd.is_empty());
        assert_eq!(config.env, [("A".into(), "b=c".into()), ("D".into(), String::new())]);
        assert_eq!(
            (config.exposed_ports.as_slice(), config.stop_signal.as_str()),
            (&["80/tcp".to_owned()][..], "SIGQUIT")
        );
        assert!(ConfigFile::parse(br#"{"architecture":"s390x","os":"linux"}"#).is_err());
    }
}
