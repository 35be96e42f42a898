//! Pulling from registries: the distribution protocol, with mirrors, tokens, parallel and resumed downloads.

mod http;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use self::http::{Client, Target};
use super::archive::lies;
use super::manifest::{ConfigFile, Descriptor, Manifest};
use super::unpack::Hashing;
use super::{Digest, Image, ImageStore, NewLayer, Reference, Scope};
use crate::error::{AtPath, Error, ErrorKind, Result};

/// Manifests and configurations are kilobytes; registries themselves refuse more than 4 MiB.
const MAX_SMALL_BYTES: u64 = 8 << 20;

/// Layers of one image that are downloaded at once. More only divides the same line, and the store unpacks meanwhile.
const PARALLEL_LAYERS: usize = 3;

/// How often a broken download is taken up again where it broke.
const DOWNLOAD_TRIES: u32 = 6;

/// Pause before the first repetition; doubled for each further one.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// A user of a registry.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user's name. Empty for an identity token.
    pub username: String,
    /// The password or token.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({})", self.username)
    }
}

/// Another place where a registry's content may be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// Host, with its port if it has one.
    pub host: String,
}

/// How registries are reached. Everything is HTTPS unless it is named here.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    /// Hosts (with their ports) that are spoken to without encryption.
    pub plain_http: BTreeSet<String>,
    /// By registry: mirrors that are asked before it, in order.
    pub mirrors: BTreeMap<String, Vec<Mirror>>,
    /// Certificates of authorities in PEM, besides those of the system.
    pub extra_authorities_pem: Vec<u8>,
    /// Whoever names an image names where this program connects. On a host that pulls for tenants only public addresses may be reached, or else its own
    /// services and its neighbours' would be. Hosts that are named here, in `plain_http` or as mirrors are the operator's choice and may be anywhere.
    pub public_only: bool,
    /// Hosts (with their ports) that may have private addresses.
    pub private: BTreeSet<String>,
    /// The installation's own registry, if it has one.
    pub own: Option<Arc<OwnRegistry>>,
}

/// The registry of the installation that a machine belongs to. It lets the machine's node pull what is its tenant's: who asks is known by the
/// certificate, so that pods need no secret. It is believed by its own authority only, and shown that certificate only.
#[derive(Clone, PartialEq, Eq)]
pub struct OwnRegistry {
    /// What images call it: host and port.
    pub name: String,
    /// Where it is reached from here: host and port.
    pub address: String,
    /// Its authority, in PEM.
    pub authorities_pem: Vec<u8>,
    /// The node's certificate, in PEM.
    pub certificate_pem: Vec<u8>,
    /// Its key, in PEM.
    pub key_pem: Vec<u8>,
}

impl fmt::Debug for OwnRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnRegistry({} at {})", self.name, self.address)
    }
}

/// How an operator writes down how registries are reached: JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RegistriesFile {
    /// Hosts that are spoken to without encryption.
    pub plain_http: BTreeSet<String>,
    /// By registry: hosts that are asked before it.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// A file with certificates of authorities, besides those of the system.
    pub authorities_file: Option<PathBuf>,
    /// Hosts that may have private addresses.
    pub private: BTreeSet<String>,
}

impl RegistriesFile {
    /// Reads one. None is an empty one.
    pub fn read(path: &std::path::Path) -> Result<RegistriesFile> {
        match std::fs::read(path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|e| {
                Error::invalid(format!("{} does not say how registries are reached: {e}", path.display()))
            }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(RegistriesFile::default()),
            Err(e) => Err(e).at("read", path),
        }
    }

    /// What it means, for pulls on behalf of tenants.
    pub fn registries(self) -> Result<Registries> {
        let extra_authorities_pem = match &self.authorities_file {
            Some(path) => std::fs::read(path).at("read", path)?,
            None => Vec::new(),
        };
        let mirrors = self
            .mirrors
            .into_iter()
            .map(|(registry, hosts)| (registry, hosts.into_iter().map(|host| Mirror { host }).collect()));
        Ok(Registries {
            plain_http: self.plain_http,
            mirrors: mirrors.collect(),
            extra_authorities_pem,
            public_only: true,
            private: self.private,
            own: None,
        })
    }
}

impl Registries {
    /// Whether a connection to a host, by its name and port as a registry's name has them, may go to this address.
    fn may_reach(&self, host: &str, port: u16, address: IpAddr) -> bool {
        if !self.public_only || is_public(address) {
            return true;
        }
        let (full, bare) = (format!("{host}:{port}"), host);
        let named = |name: &str| name == full || name == bare;
        self.plain_http.iter().any(|h| named(h))
            || self.private.iter().any(|h| named(h))
            || self.mirrors.values().flatten().any(|m| named(&m.host))
    }
}

/// Whether an address is one of the public Internet.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            let shared = a == 100 && (64..128).contains(&b);
            let special = a == 0 || a >= 224 || (a == 192 && b == 0) || (a == 198 && (b & 0xfe) == 18);
            !(v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_documentation()
                || shared
                || special)
        }
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => is_public(IpAddr::V4(v4)),
            // Global unicast and nothing else; of that, not what wraps version 4 (6to4, Teredo) or is for examples.
            None => {
                let [first, second, ..] = v6.segments();
                first & 0xe000 == 0x2000
                    && first != 0x2002
                    && !(first == 0x2001 && (second == 0 || second == 0xdb8))
            }
        },
    }
}

/// What is to be pulled.
#[derive(Clone)]
pub struct PullRequest {
    /// For whom.
    pub scope: Scope,
    /// What.
    pub reference: Reference,
    /// Whose credentials, in the order in which they are tried; without any, or when none is good, the pull is anonymous.
    pub credentials: Vec<Credentials>,
    /// How registries are reached.
    pub registries: Arc<Registries>,
    /// Hears how it goes on.
    pub progress: Option<Arc<dyn Fn(PullProgress) + Send + Sync>>,
}

impl fmt::Debug for PullRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PullRequest").field("scope", &self.scope).field("reference", &self.reference).finish()
    }
}

/// How a pull goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PullProgress {
    /// The image was found, with layers of these sizes.
    Resolved {
        /// Digests and compressed sizes.
        layers: Vec<(Digest, u64)>,
    },
    /// A layer need not be downloaded.
    Present {
        /// Which.
        layer: Digest,
    },
    /// More of a layer has arrived.
    Downloaded {
        /// Which.
        layer: Digest,
        /// How much of it so far.
        bytes: u64,
    },
    /// A layer was unpacked.
    Unpacked {
        /// Which.
        layer: Digest,
    },
}

struct Pull {
    store: ImageStore,
    request: PullRequest,
    client: Client,
    /// Where the manifest came from: layers come from there too.
    target: Target,
}

pub(super) async fn pull(store: &ImageStore, request: PullRequest) -> Result<Image> {
    let registry = request.reference.registry.clone();
    let own = request.registries.own.clone().filter(|own| own.name == registry);
    let mut hosts: Vec<String> = Vec::new();
    if own.is_none() {
        let mirrors = request.registries.mirrors.get(&registry).into_iter().flatten();
        hosts.extend(mirrors.map(|m| m.host.clone()));
    }
    hosts.push(match (&own, registry.as_str()) {
        (Some(own), _) => own.address.clone(),
        (None, "docker.io") => "registry-1.docker.io".to_owned(),
        (None, _) => registry.clone(),
    });
    let mut ways: Vec<Option<Credentials>> = request.credentials.iter().cloned().map(Some).collect();
    ways.push(None);
    let mut first_error: Option<Error> = None;
    let last = hosts.len() - 1;
    for (number, host) in hosts.iter().enumerate() {
        // Credentials are the registry's own; a mirror is asked without.
        let ways = if number == last { ways.clone() } else { vec![None] };
        for credentials in ways {
            let plain = own.is_none() && request.registries.plain_http.contains(host);
            let client = Client::new(&request.registries, own.clone(), credentials)?;
            let target =
                Target { host: host.clone(), plain, repository: request.reference.repository.clone() };
            let pull = Pull { store: store.clone(), request: request.clone(), client, target };
            match pull.run().await {
                Ok(image) => return Ok(image),
                Err(error) => {
                    tracing::debug!(host, error = %error.full(), "a pull failed");
                    // The registry's own answer tells more than a mirror's.
                    if number == last {
                        first_error.get_or_insert(error);
                    }
                }
            }
        }
    }
    Err(first_error
        .unwrap_or_else(|| Error::not_found(format!("image {} cannot be pulled", request.reference))))
}

impl Pull {
    fn progress(&self, progress: PullProgress) {
        if let Some(hear) = &self.request.progress {
            hear(progress);
        }
    }

    fn name(&self) -> &Reference {
        &self.request.reference
    }

    async fn run(self) -> Result<Image> {
        let wanted = match (&self.name().digest, &self.name().tag) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.clone().unwrap_or_else(|| "latest".to_owned()),
        };
        let bytes = self.client.manifest(&self.target, &wanted, MAX_SMALL_BYTES).await?;
        let top = Digest::of(&bytes);
        if let Some(said) = &self.name().digest
            && *said != top
        {
            return Err(lies(said, &top));
        }
        let mut manifest = Manifest::parse(&bytes)?;
        if let Some(chosen) = manifest.for_this_machine()? {
            let said = chosen.digest.clone();
            let bytes = self.client.manifest(&self.target, &said.to_string(), MAX_SMALL_BYTES).await?;
            if Digest::of(&bytes) != said {
                return Err(lies(&said, &Digest::of(&bytes)));
            }
            manifest = Manifest::parse(&bytes)?;
        }
        let Some(config) = &manifest.config else {
            return Err(Error::invalid(format!("image {} is an index of indexes", self.name())));
        };
        let config_bytes = self.client.small_blob(&self.target, &config.digest, MAX_SMALL_BYTES).await?;
        if Digest::of(&config_bytes) != config.digest {
            return Err(lies(&config.digest, &Digest::of(&config_bytes)));
        }
        let diff_ids = ConfigFile::parse(&config_bytes)?.rootfs.diff_ids;
        if diff_ids.len() != manifest.layers.len() {
            return Err(Error::invalid(format!(
                "image {} has {} layers and its configuration names {}",
                self.name(),
                manifest.layers.len(),
                diff_ids.len()
            )));
        }
        self.progress(PullProgress::Resolved {
            layers: manifest.layers.iter().map(|l| (l.digest.clone(), l.size)).collect(),
        });
        let this = Arc::new(self);
        let new = this.clone().layers(&manifest.layers, &diff_ids).await?;
        let store = this.store.clone();
        let request = this.request.clone();
        blocking(move || {
            store.publish(new)?;
            store.name(&request.scope, &request.reference, top, &config_bytes, diff_ids, true)
        })
        .await
    }

    /// Gets all layers; on an error what was unpacked is thrown away, what was downloaded is kept for the next try.
    async fn layers(self: Arc<Self>, layers: &[Descriptor], diff_ids: &[Digest]) -> Result<Vec<NewLayer>> {
        let permits = Arc::new(tokio::sync::Semaphore::new(PARALLEL_LAYERS));
        let mut tasks = tokio::task::JoinSet::new();
        let mut seen = BTreeSet::new();
        for (layer, diff_id) in layers.iter().zip(diff_ids) {
            if !seen.insert(diff_id) {
                continue;
            }
            let (this, permits) = (self.clone(), permits.clone());
            let (layer, diff_id) = (layer.clone(), diff_id.clone());
            tasks.spawn(async move {
                let _permit = permits.acquire_owned().await;
                this.layer(&layer, &diff_id).await
            });
        }
        let mut new = Vec::new();
        let mut failure = None;
        while let Some(done) = tasks.join_next().await {
            match done {
                Ok(Ok(layer)) => new.extend(layer),
                Ok(Err(error)) => {
                    failure.get_or_insert(error);
                    tasks.abort_all();
                }
                Err(_) => {}
            }
        }
        match failure {
            None => Ok(new),
            Some(error) => {
                for layer in new {
                    let _ = std::fs::remove_dir_all(layer.work);
                }
                Err(error)
            }
        }
    }

    async fn layer(&self, layer: &Descriptor, diff_id: &Digest) -> Result<Option<NewLayer>> {
        let origin = self.target.host.clone();
        let path = self.store.layer_path(diff_id);
        if path.join("fs").is_dir() {
            let record = self.store.layer_record(&path);
            let known = record.blobs.contains(&layer.digest);
            let own = known && self.store.granted(&self.request.scope, diff_id);
            let served = known && record.origins.contains(&origin);
            if own || (served && self.client.has_blob(&self.target, &layer.digest).await) {
                self.progress(PullProgress::Present { layer: layer.digest.clone() });
                return Ok(None);
            }
        }
        let file = self.download(layer).await?;
        let (store, said, diff_id) = (self.store.clone(), layer.digest.clone(), diff_id.clone());
        let scope = self.request.scope.clone();
        let unpacked = blocking(move || {
            let opened = std::fs::File::open(&file).at("open", &file)?;
            let size = opened.metadata().at("read", &file)?.len();
            let result = store.unpack(opened, size);
            let _ = std::fs::remove_file(&file);
            let (work, unpacked) = result?;
            if unpacked.diff_id != diff_id {
                let _ = std::fs::remove_dir_all(&work);
                return Err(lies(&diff_id, &unpacked.diff_id));
            }
            Ok(NewLayer { work, unpacked, blob: Some(said), origin: Some(origin), grant: Some(scope) })
        })
        .await?;
        self.progress(PullProgress::Unpacked { layer: layer.digest.clone() });
        Ok(Some(unpacked))
    }

    /// Downloads a blob to a file of its own, and takes up what an earlier try of the same scope has left.
    async fn download(&self, layer: &Descriptor) -> Result<PathBuf> {
        // By scope: a half of somebody else's download would be a way to his content.
        let key = Digest::of(format!("{} {}", self.request.scope.name(), layer.digest).as_bytes());
        let file = self.store.inner.root.join("tmp").join(format!("{}.partial", key.hex()));
        let lock_path = file.clone();
        // The same layer for the same scope twice at once: the second waits, and finds it whole.
        let _lock = blocking(move || {
            let opened =
                std::fs::File::options().create(true).append(true).open(&lock_path).at("open", &lock_path)?;
            rustix::fs::flock(&opened, rustix::fs::FlockOperation::LockExclusive).at("lock", &lock_path)?;
            Ok(opened)
        })
        .await?;
        let mut pause = RETRY_PAUSE;
        let mut tries = 0;
        loop {
            let progress =
                |bytes| self.progress(PullProgress::Downloaded { layer: layer.digest.clone(), bytes });
            let result = self.client.download(&self.target, layer, &file, &progress).await;
            let error = match result {
                Ok(()) => {
                    let path = file.clone();
                    let (is, size) = blocking(move || {
                        let opened = std::fs::File::open(&path).at("open", &path)?;
                        Hashing::new(opened).finish(u64::MAX).at("read", &path)
                    })
                    .await?;
                    if is == layer.digest && (layer.size == 0 || size == layer.size) {
                        // The name is free for the next, while this content is ours.
                        let own = self.store.work(".layer");
                        std::fs::rename(&file, &own).at("keep", &own)?;
                        return Ok(own);
                    }
                    let _ = std::fs::remove_file(&file);
                    return Err(lies(&layer.digest, &is));
                }
                Err(error) => error,
            };
            tries += 1;
            if error.kind != ErrorKind::Failed || tries >= DOWNLOAD_TRIES {
                return Err(error);
            }
            tracing::debug!(layer = %layer.digest, error = %error.full(), "a download broke and is resumed");
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::new(ErrorKind::Failed, format!("the work was interrupted: {e}")))?
}

#[cfg(test)]
mod tests;
