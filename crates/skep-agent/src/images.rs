//! Images as a pod needs them: found or pulled by policy, with the pod's credentials, and not too often when it fails.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{ContainerImage, Secret};
use serde::Deserialize;
use skep_runtime::images::PullState;

use crate::container::ImageDefaults;

/// A user name and password for a registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credential {
    /// The name.
    pub username: String,
    /// The password.
    pub password: String,
}

/// Why there is no image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ImageError(pub String);

/// Hears how far a pull is.
pub type Hear = std::sync::Arc<dyn Fn(PullState) + Send + Sync>;

/// Where images lie and come from.
pub trait ImageSource: Send + Sync + 'static {
    /// An image that is here and that a pod with these credentials may use.
    fn find<'a>(
        &'a self,
        image: &'a str,
        credentials: &'a [Credential],
    ) -> BoxFuture<'a, Result<Option<ImageDefaults>, ImageError>>;

    /// Fetches an image; answers with its size too. Says now and then how far it is.
    fn pull<'a>(
        &'a self,
        image: &'a str,
        credentials: &'a [Credential],
        hear: Hear,
    ) -> BoxFuture<'a, Result<(ImageDefaults, u64), ImageError>>;

    /// A container uses an image from now on: it must not be collected before [`ImageSource::release`].
    fn lease<'a>(&'a self, _container: &'a str, _image: &'a str) -> BoxFuture<'a, Result<(), ImageError>> {
        Box::pin(async { Ok(()) })
    }

    /// The container is gone.
    fn release<'a>(&'a self, _container: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }

    /// The pod is gone, with all containers that it ever had, also those that nobody remembers: an agent may have been killed between taking a lease
    /// and making the container.
    fn release_pod<'a>(&'a self, _pod: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }

    /// What is here, for the node's status.
    fn list(&self) -> BoxFuture<'_, Vec<ContainerImage>>;
}

/// The name of a container's lease, by which its pod's are found.
#[must_use]
pub fn lease_id(pod: &str, container: &str) -> String {
    format!("{pod}.{container}")
}

/// When an image is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    /// Each time a container is made.
    Always,
    /// When it is not here.
    IfNotPresent,
    /// Never.
    Never,
}

impl PullPolicy {
    /// By its word; the server fills it in, so the default hardly matters.
    #[must_use]
    pub fn of(text: Option<&str>) -> PullPolicy {
        match text {
            Some("Always") => PullPolicy::Always,
            Some("Never") => PullPolicy::Never,
            _ => PullPolicy::IfNotPresent,
        }
    }
}

/// An image's name with the tag that it has when it says none.
///
/// # Errors
/// The sentence of the status `InvalidImageName`.
pub fn with_default_tag(image: &str) -> Result<String, String> {
    let invalid = || {
        format!(
            "Failed to apply default image tag {image:?}: couldn't parse image name {image:?}: invalid reference format"
        )
    };
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    let last = name.rsplit('/').next().unwrap_or(name);
    let (path, tag) = match last.split_once(':') {
        Some((_, tag)) => {
            (name.strip_suffix(tag).and_then(|n| n.strip_suffix(':')).unwrap_or(name), Some(tag))
        }
        None => (name, None),
    };
    let mut parts = path.split('/').peekable();
    // The first part may be a registry, with a port and upper-case letters.
    if path.contains('/') {
        let registry = parts.next_if(|first| first.contains(['.', ':']) || *first == "localhost");
        let ok = |r: &str| r.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b));
        if !registry.is_none_or(ok) {
            return Err(invalid());
        }
    }
    let good_part = |part: &str| {
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        edge(part.bytes().next())
            && edge(part.bytes().last())
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
    };
    let good_tag = |tag: &str| {
        (1..=128).contains(&tag.len())
            && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
            && !tag.starts_with(['.', '-'])
    };
    let good_digest = |digest: &str| {
        digest.split_once(':').is_some_and(|(kind, hex)| {
            !kind.is_empty() && hex.len() >= 32 && hex.bytes().all(|b| b.is_ascii_hexdigit())
        })
    };
    if !parts.all(good_part) || !tag.is_none_or(good_tag) || !digest.is_none_or(good_digest) {
        return Err(invalid());
    }
    Ok(match (tag, digest) {
        (None, None) => format!("{image}:latest"),
        _ => image.to_owned(),
    })
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    username: String,
    password: String,
    auth: String,
}

impl Auth {
    fn credential(&self) -> Option<Credential> {
        if !self.auth.is_empty() {
            let text = STANDARD.decode(self.auth.trim()).ok().and_then(|b| String::from_utf8(b).ok())?;
            let (username, password) = text.split_once(':')?;
            let password = password.trim_end_matches('\0');
            return Some(Credential { username: username.to_owned(), password: password.to_owned() });
        }
        (!self.username.is_empty())
            .then(|| Credential { username: self.username.clone(), password: self.password.clone() })
    }
}

/// The registry and path of an image, as credentials are matched with it.
fn location(image: &str) -> String {
    let name = image.split('@').next().unwrap_or(image);
    let name = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => name,
    };
    match name.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    }
}

/// Whether the credentials for `entry` are for `location`: its host matches, with `*` for parts of names, and its path
/// leads there.
fn is_for(entry: &str, location: &str) -> bool {
    let entry = entry.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let entry = entry.strip_suffix("/v1").or_else(|| entry.strip_suffix("/v2")).unwrap_or(entry);
    let split = |s: &str| match s.split_once('/') {
        Some((host, path)) => (host.to_owned(), path.to_owned()),
        None => (s.to_owned(), String::new()),
    };
    let ((mut want_host, want_path), (host, path)) = (split(entry), split(location));
    if want_host == "index.docker.io" {
        "docker.io".clone_into(&mut want_host);
    }
    let (want, have): (Vec<&str>, Vec<&str>) = (want_host.split('.').collect(), host.split('.').collect());
    let part = |pattern: &str, text: &str| match pattern.split_once('*') {
        None => pattern == text,
        Some((head, tail)) => {
            text.len() >= head.len() + tail.len() && text.starts_with(head) && text.ends_with(tail)
        }
    };
    want.len() == have.len()
        && want.iter().zip(&have).all(|(p, t)| part(p, t))
        && (want_path.is_empty() || path == want_path || path.starts_with(&format!("{want_path}/")))
}

/// The credentials that a pod's secrets hold for an image, the most specific first.
#[must_use]
pub fn credentials<'a>(secrets: impl IntoIterator<Item = &'a Secret>, image: &str) -> Vec<Credential> {
    let location = location(image);
    let mut found: Vec<(String, Credential)> = Vec::new();
    for secret in secrets {
        let data = |key: &str| secret.data.as_ref().and_then(|d| d.get(key)).map(|b| b.0.as_slice());
        let config = if let Some(json) = data(".dockerconfigjson") {
            serde_json::from_slice::<DockerConfig>(json).ok()
        } else {
            data(".dockercfg")
                .and_then(|json| serde_json::from_slice(json).ok().map(|auths| DockerConfig { auths }))
        };
        for (entry, auth) in config.into_iter().flat_map(|c| c.auths) {
            if is_for(&entry, &location)
                && let Some(credential) = auth.credential()
            {
                found.push((entry, credential));
            }
        }
    }
    found.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| b.0.cmp(&a.0)));
    found.into_iter().map(|(_, c)| c).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (image, expected) in [
            ("busybox", "busybox:latest"),
            ("busybox:1.36", "busybox:1.36"),
            ("a/b", "a/b:latest"),
            ("localhost:5000/a/b", "localhost:5000/a/b:latest"),
            ("Example.COM/a:T", "Example.COM/a:T"),
        ] {
            assert_eq!(with_default_tag(image).as_deref(), Ok(expected), "{image}");
        }
        let digest = format!("a@sha256:{}", "0".repeat(64));
        assert_eq!(with_default_tag(&digest).as_deref(), Ok(digest.as_str()));
        for bad in ["", "Busybox", "a b", "a:", "a:b:c", "-a", "a//b", "a@x", "/a", "a:.x"] {
            assert!(with_default_tag(bad).unwrap_err().ends_with("invalid reference format"), "{bad}");
        }
    }

    fn secret(auths: serde_json::Value) -> Secret {
        let text = STANDARD.encode(serde_json::json!({"auths": auths}).to_string());
        serde_json::from_value(serde_json::json!({"data": {".dockerconfigjson": text}})).unwrap()
    }

    #[test]
    fn credentials_by_registry() {
        let s = secret(serde_json::json!({
            "https://index.docker.io/v1/": {"auth": STANDARD.encode("hub:pw:1")},
            "registry.example.org": {"username": "all", "password": "p"},
            "registry.example.org/team": {"username": "team", "password": "p"},
            "*.wild.org": {"username": "wild", "password": "p"},
        }));
        let names =
            |image: &str| credentials([&s], image).into_iter().map(|c| c.username).collect::<Vec<_>>();
        assert_eq!(names("busybox"), ["hub"]);
        assert_eq!(credentials([&s], "busybox")[0].password, "pw:1");
        assert_eq!(names("registry.example.org/x:1"), ["all"]);
        assert_eq!(names("registry.example.org/team/x"), ["team", "all"]);
        assert_eq!(names("registry.example.org/teams/x"), ["all"]);
        assert_eq!(names("a.wild.org/x"), ["wild"]);
        assert!(names("a.b.wild.org/x").is_empty());
        assert!(names("other.org/x").is_empty());
    }
}
