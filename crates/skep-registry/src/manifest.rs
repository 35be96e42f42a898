//! Manifests: what they refer to, checked before they are believed.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{Code, RegistryError};

/// An image manifest.
pub const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
/// An index of manifests.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Docker's image manifest.
pub const DOCKER_IMAGE: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's index.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// Largest manifest. The specification wants that 4 MB work; more would be held in memory for nothing.
pub const MANIFEST_MAX_BYTES: usize = 4 << 20;

/// Layers that nobody may hand on: they come from the URLs beside them.
fn is_foreign(media_type: &str) -> bool {
    media_type.contains(".nondistributable.") || media_type.contains(".foreign.")
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: i64,
    #[serde(default)]
    urls: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: i64,
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    artifact_type: String,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
}

/// Something that a manifest names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// What.
    #[serde(with = "text")]
    pub digest: Digest,
    /// How large it says that is.
    pub size: u64,
}

mod text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::digest::Digest;

    pub(super) fn serialize<S: Serializer>(digest: &Digest, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(digest)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Digest, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

/// What is known of a manifest besides its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// As it is served.
    pub media_type: String,
    /// What kind of artifact it is, as the list of referrers says.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub artifact_type: String,
    /// Blobs that it needs, besides those that come from elsewhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blobs: Vec<Part>,
    /// Manifests that it lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub manifests: Vec<Part>,
    /// The manifest that it is about, which need not exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Part>,
}

fn invalid(message: impl Into<String>) -> RegistryError {
    RegistryError::new(Code::ManifestInvalid, message)
}

fn part(descriptor: &Descriptor, what: &str) -> Result<Part, RegistryError> {
    let digest = descriptor.digest.parse().map_err(|e| invalid(format!("{what}: {e}")))?;
    let size =
        u64::try_from(descriptor.size).map_err(|_| invalid(format!("{what}: its size is negative")))?;
    Ok(Part { digest, size })
}

impl Manifest {
    /// Reads a manifest that was sent as a media type; empty where the sender said none.
    ///
    /// # Errors
    /// What is wrong with it: 400.
    pub fn parse(bytes: &[u8], content_type: &str) -> Result<Manifest, RegistryError> {
        let document: Document =
            serde_json::from_slice(bytes).map_err(|e| invalid(format!("this is no manifest: {e}")))?;
        let said = content_type.split(';').next().unwrap_or("").trim();
        let generic = ["", "application/json", "application/octet-stream"].contains(&said);
        if !generic && !document.media_type.is_empty() && said != document.media_type {
            return Err(invalid(format!(
                "the manifest says that it is {}, and was sent as {said}",
                document.media_type
            )));
        }
        let media_type = match (document.media_type.as_str(), generic) {
            ("", true) if document.manifests.is_some() => INDEX,
            ("", true) => IMAGE,
            ("", false) => said,
            (own, _) => own,
        }
        .to_owned();
        let index = match media_type.as_str() {
            IMAGE | DOCKER_IMAGE => false,
            INDEX | DOCKER_INDEX => true,
            other => {
                return Err(invalid(format!("manifests of type {other:?} are not stored here: use {IMAGE}")));
            }
        };
        if document.schema_version != 2 {
            return Err(invalid("schemaVersion must be 2"));
        }
        // Whatever reads it as the other kind would see something else than was checked.
        if index && (document.layers.is_some() || document.config.is_some()) {
            return Err(invalid("an index has neither config nor layers"));
        }
        if !index && document.manifests.is_some() {
            return Err(invalid("an image has no manifests"));
        }
        let mut blobs = Vec::new();
        let mut artifact_type = document.artifact_type;
        if !index {
            let config = document.config.as_ref().ok_or_else(|| invalid("config is missing"))?;
            blobs.push(part(config, "config")?);
            if artifact_type.is_empty() {
                artifact_type.clone_from(&config.media_type);
            }
            for (i, layer) in document.layers.iter().flatten().enumerate() {
                let part = part(layer, &format!("layers[{i}]"))?;
                if !is_foreign(&layer.media_type) && layer.urls.is_empty() {
                    blobs.push(part);
                }
            }
        }
        let mut manifests = Vec::new();
        for (i, entry) in document.manifests.iter().flatten().enumerate() {
            let part = part(entry, &format!("manifests[{i}]"))?;
            if entry.urls.is_empty() {
                manifests.push(part);
            }
        }
        let subject = document.subject.as_ref().map(|s| part(s, "subject")).transpose()?;
        Ok(Manifest { media_type, artifact_type, blobs, manifests, subject })
    }

    /// The entry of a manifest in a list of referrers.
    #[must_use]
    pub fn descriptor(&self, digest: &Digest, bytes: &[u8]) -> serde_json::Value {
        #[derive(Default, Deserialize)]
        struct Annotated {
            #[serde(default)]
            annotations: Option<serde_json::Map<String, serde_json::Value>>,
        }
        let mut entry = serde_json::json!({
            "mediaType": self.media_type, "digest": digest.to_string(), "size": bytes.len(),
        });
        if !self.artifact_type.is_empty() {
            entry["artifactType"] = self.artifact_type.clone().into();
        }
        // It was JSON when it was stored.
        let annotated: Annotated = serde_json::from_slice(bytes).unwrap_or_default();
        if let Some(annotations) = annotated.annotations {
            entry["annotations"] = annotations.into();
        }
        entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Algorithm;
    use serde_json::{Value, json};

    fn digest(text: &str) -> String {
        Digest::of(Algorithm::Sha256, text.as_bytes()).to_string()
    }

    fn image() -> Value {
        json!({
            "schemaVersion": 2, "mediaType": IMAGE,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest("c"), "size": 1},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest("l"), "size": 1}],
        })
    }

    fn parse(value: &Value, content_type: &str) -> Result<Manifest, String> {
        Manifest::parse(value.to_string().as_bytes(), content_type).map_err(|e| e.message)
    }

    #[test]
    fn what_an_image_needs() {
        let m = parse(&image(), IMAGE).unwrap();
        assert_eq!(m.blobs.len(), 2);
        assert_eq!(m.artifact_type, "application/vnd.oci.image.config.v1+json");
        let mut foreign = image();
        foreign["layers"][0]["mediaType"] =
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip".into();
        assert_eq!(parse(&foreign, IMAGE).unwrap().blobs.len(), 1);
        let mut about = image();
        about["subject"] = json!({"mediaType": IMAGE, "digest": digest("s"), "size": 3});
        about["artifactType"] = "a/b".into();
        about["annotations"] = json!({"k": "v"});
        let m = parse(&about, &format!("{IMAGE}; charset=utf-8")).unwrap();
        assert_eq!(m.subject.as_ref().unwrap().digest.to_string(), digest("s"));
        let bytes = about.to_string();
        let entry = m.descriptor(&Digest::of(Algorithm::Sha256, bytes.as_bytes()), bytes.as_bytes());
        assert_eq!(entry["artifactType"], "a/b");
        assert_eq!(entry["annotations"]["k"], "v");
        assert_eq!(entry["size"], bytes.len());
    }

    #[test]
    fn types_are_taken_from_where_they_stand() {
        let mut bare = image();
        bare.as_object_mut().unwrap().remove("mediaType");
        assert_eq!(parse(&bare, "").unwrap().media_type, IMAGE);
        assert_eq!(parse(&bare, DOCKER_IMAGE).unwrap().media_type, DOCKER_IMAGE);
        let index = json!({"schemaVersion": 2, "manifests": []});
        assert_eq!(parse(&index, "application/json").unwrap().media_type, INDEX);
        assert_eq!(parse(&index, INDEX).unwrap().artifact_type, "");
    }

    #[test]
    fn what_is_not_in_order_is_refused() {
        let with = |key: &str, value: Value| {
            let mut m = image();
            m[key] = value;
            m
        };
        for (bad, content_type) in [
            (json!([]), IMAGE),
            (with("schemaVersion", 1.into()), IMAGE),
            (with("mediaType", "text/plain".into()), ""),
            (with("config", Value::Null), IMAGE),
            (with("manifests", json!([])), IMAGE),
            (image(), INDEX),
            (with("config", json!({"digest": "sha256:x", "size": 1})), IMAGE),
            (with("layers", json!([{"digest": digest("l"), "size": -1}])), IMAGE),
            (with("subject", json!({"digest": "md5:1", "size": 1})), IMAGE),
            (json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [], "layers": []}), INDEX),
        ] {
            assert!(parse(&bad, content_type).is_err(), "{bad}");
        }
    }
}
