//! Images: a store in a directory, shared by all tenants of a machine without one seeing another's.
//!
//! Layers are unpacked once, under the digest of their content, and are read-only from then on. *Names* belong to a scope (a tenant, or the
//! shared one). Since layers are shared, naming one must not be enough to get it: a tenant could write a manifest that lists another's
//! layer by its digest. So a scope uses a stored layer only if it has once brought the content itself, or if a registry that has
//! served this very content confirms that this scope's credential may read it; otherwise it is downloaded again.
//!
//! ```text
//! blobs/sha256/HEX          manifests and configurations
//! layers/HEX/fs             an unpacked layer, by the digest of its archive (diff id)
//! layers/HEX/layer.json     its size, the compressed blobs it came from, the registries that served them
//! scopes/S/images/HEX.json  a name of scope S, and what it means
//! scopes/S/grants/HEX       S has brought this layer itself
//! leases/ID.json            layers that a container uses; a machine's view has none
//! tmp/                      work in progress
//! ```
//!
//! Everything appears by a rename, after its content was synced. A crash leaves files in `tmp/` or unused layers; [`ImageStore::collect`]
//! removes both. Several processes may use one store: whoever adds holds a shared lock, whoever removes layers an exclusive one.

mod archive;
pub mod exchange;
mod manifest;
mod reference;
mod registry;
mod tally;
mod unpack;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use self::manifest::ConfigFile;
pub use self::manifest::ImageConfig;
pub use self::reference::{Digest, Reference};
pub use self::registry::{
    Credentials, Mirror, OwnRegistry, PullProgress, PullRequest, Registries, RegistriesFile,
};
pub use self::tally::{PullState, Tally};
pub use self::unpack::UnpackLimits;
use self::unpack::Unpacked;
pub use self::view::View;
use crate::error::{AtPath, Error, ErrorKind, Result, write_atomically};
use crate::sys::now_ns;

/// Whose names and grants: a tenant's, or everybody's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Scope(String);

/// The directory of the shared scope: no tenant's name has an underscore.
const SHARED: &str = "_shared";

impl Scope {
    /// What every tenant may use: loaded by the operator.
    pub fn shared() -> Scope {
        Scope(SHARED.to_owned())
    }

    /// A tenant's.
    pub fn of(name: &str) -> Result<Scope> {
        match crate::spec::valid_id(name) && !name.starts_with('_') {
            true => Ok(Scope(name.to_owned())),
            false => Err(Error::invalid(format!("{name:?} is no name of a tenant"))),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0
    }
}

/// An image that is ready to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Of its configuration: what Docker calls the image id.
    pub id: Digest,
    /// Of its manifest, as the registry names it; the id for archives that have none.
    pub digest: Digest,
    /// The name it was found under.
    pub name: Reference,
    /// Whose name that is.
    pub scope: Scope,
    /// What it says about containers.
    pub config: ImageConfig,
    /// Its unpacked layers, lowest first: [`crate::spec::Rootfs::layers`].
    pub layers: Vec<PathBuf>,
    /// Of all its layers, unpacked. Shared ones count in each image.
    pub size_bytes: u64,
    /// When it was last loaded or pulled, nanoseconds since 1970.
    pub stored_at_ns: u64,
    /// When it was last used, nanoseconds since 1970.
    pub used_at_ns: u64,
}

/// What a name means.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    name: String,
    manifest: Digest,
    config: Digest,
    layers: Vec<Digest>,
    size_bytes: u64,
    stored_at_ns: u64,
    /// It came from a registry: who else wants it must show there that he may have it.
    #[serde(default)]
    pulled: bool,
}

/// What is known of a layer.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct LayerRecord {
    bytes: u64,
    /// Compressed forms that were seen to unpack to it.
    blobs: BTreeSet<Digest>,
    /// Registries that have served one of them.
    origins: BTreeSet<String>,
}

/// What the store holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreUsage {
    /// Of all layers.
    pub layer_bytes: u64,
    /// How many.
    pub layers: u64,
    /// Of the disk it lies on.
    pub disk_capacity_bytes: u64,
    /// Of that disk.
    pub disk_available_bytes: u64,
}

/// What a collection removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Layers.
    pub layers: u64,
    /// Bytes in them.
    pub bytes: u64,
}

/// A store of images in a directory. Clones are the same store.
#[derive(Debug, Clone)]
pub struct ImageStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    limits: UnpackLimits,
    next: AtomicU64,
    /// It is a machine's view, which its host changes and nobody else.
    view: bool,
    /// Where is written which container uses what.
    leases: PathBuf,
}

/// Work that came to nothing is removed by the next collection after this time: nobody unpacks for so long.
const STALE_WORK: Duration = Duration::from_secs(24 * 3600);

impl ImageStore {
    /// Opens a store, or makes it.
    pub fn open(root: impl Into<PathBuf>, limits: UnpackLimits) -> Result<ImageStore> {
        use std::os::unix::fs::PermissionsExt;
        let root = root.into();
        for folder in ["blobs/sha256", "layers", "scopes", "leases", "tmp"] {
            let path = root.join(folder);
            fs::create_dir_all(&path).at("make", &path)?;
        }
        // Layers hold set-user-id programs: only containers may execute them.
        fs::set_permissions(&root, fs::Permissions::from_mode(0o700)).at("protect", &root)?;
        let leases = root.join("leases");
        Ok(ImageStore {
            inner: Arc::new(Inner { root, limits, next: AtomicU64::new(0), view: false, leases }),
        })
    }

    /// Opens a machine's [`View`] of its host's store for use in the machine: nothing can be pulled or loaded into it. Leases lie elsewhere, and
    /// whoever asks the host to remove something tells it of them.
    pub fn open_view(root: impl Into<PathBuf>, leases: PathBuf) -> ImageStore {
        let (root, limits, next) = (root.into(), UnpackLimits::default(), AtomicU64::new(0));
        ImageStore { inner: Arc::new(Inner { root, limits, next, view: true, leases }) }
    }

    /// Loads an OCI layout (directory or archive) or an archive of `docker save`, plain or compressed. All names in it are
    /// stored in `scope`; `name` is for an archive that has none.
    ///
    /// Reads and unpacks with as many threads as there are processors: call it where blocking is allowed.
    pub fn load(&self, file: &Path, scope: &Scope, name: Option<&Reference>) -> Result<Vec<Image>> {
        let _lock = self.lock(FlockOperation::LockShared)?;
        archive::load(self, file, scope, name)
    }

    /// Pulls an image from its registry, as far as it is not here already.
    pub async fn pull(&self, request: PullRequest) -> Result<Image> {
        let store = self.clone();
        let lock = tokio::task::spawn_blocking(move || store.lock(FlockOperation::LockShared))
            .await
            .map_err(|e| Error::new(ErrorKind::Failed, format!("the pull was interrupted: {e}")))??;
        let image = registry::pull(self, request).await;
        drop(lock);
        image
    }

    /// Looks for an image by name, or by its id, among a scope's own and the shared ones.
    pub fn find(&self, scope: &Scope, name: &str) -> Result<Option<Image>> {
        self.find_where(scope, name, |_| true)
    }

    /// As [`ImageStore::find`], among those that were loaded and not pulled: the tenant has them without proof.
    pub fn find_loaded(&self, scope: &Scope, name: &str) -> Result<Option<Image>> {
        self.find_where(scope, name, |record| !record.pulled)
    }

    fn find_where(&self, scope: &Scope, name: &str, good: impl Fn(&Record) -> bool) -> Result<Option<Image>> {
        for scope in [scope, &Scope::shared()] {
            if let Ok(id) = name.parse::<Digest>() {
                let found = self
                    .records(scope)?
                    .into_iter()
                    .find(|r| good(r) && (r.config == id || r.manifest == id));
                if let Some(record) = found {
                    return self.image(scope, record).map(Some);
                }
                continue;
            }
            let reference: Reference = name.parse()?;
            let record = match &reference.digest {
                None => self.record(scope, &reference)?.filter(&good),
                // By digest, whatever tag it was pulled with.
                Some(digest) => self.records(scope)?.into_iter().find(|r| {
                    let same = r.name.parse::<Reference>().is_ok_and(|n| {
                        n.registry == reference.registry && n.repository == reference.repository
                    });
                    same && r.manifest == *digest && good(r)
                }),
            };
            if let Some(record) = record {
                return self.image(scope, record).map(Some);
            }
        }
        Ok(None)
    }

    /// A scope's own images, or those of all.
    pub fn list(&self, scope: Option<&Scope>) -> Result<Vec<Image>> {
        let scopes = match scope {
            Some(scope) => vec![scope.clone()],
            None => names_in(&self.inner.root.join("scopes"))?.into_iter().map(Scope).collect(),
        };
        let mut all = Vec::new();
        for scope in scopes {
            for record in self.records(&scope)? {
                // One that is removed at this moment.
                if let Ok(image) = self.image(&scope, record) {
                    all.push(image);
                }
            }
        }
        all.sort_by(|a, b| (&a.scope, &a.name).cmp(&(&b.scope, &b.name)));
        Ok(all)
    }

    /// Removes a name. Its layers stay until they are collected.
    pub fn remove(&self, scope: &Scope, name: &Reference) -> Result<()> {
        let path = self.record_path(scope, name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                Err(Error::not_found(format!("image {name} does not exist in scope {}", scope.name())))
            }
            result => result.at("remove", &path),
        }
    }

    /// A container uses this image from now on: its layers are not collected before [`ImageStore::release`] with the same id.
    pub fn lease(&self, id: &str, image: &Image) -> Result<()> {
        let _lock = match self.inner.view {
            true => None,
            false => Some(self.lock(FlockOperation::LockShared)?),
        };
        for layer in &image.layers {
            if !layer.is_dir() {
                return Err(Error::not_found(format!("image {} was removed meanwhile", image.name)));
            }
        }
        let layers: Vec<&Path> = image.layers.iter().filter_map(|l| l.parent()).collect();
        let text = serde_json::to_vec(&layers).map_err(|e| Error::invalid(e.to_string()))?;
        write_atomically(&self.lease_path(id)?, &text)?;
        // The time of the record is when it was last used.
        if self.inner.view {
            return Ok(());
        }
        let record = self.record_path(&image.scope, &image.name);
        if let Ok(file) = File::options().append(true).open(record) {
            let _ = file.set_modified(SystemTime::now());
        }
        Ok(())
    }

    /// A container does not use its image any more.
    pub fn release(&self, id: &str) -> Result<()> {
        let path = self.lease_path(id)?;
        match fs::remove_file(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            result => result.at("remove", &path),
        }
    }

    /// Releases all leases whose ids begin so.
    pub fn release_all(&self, prefix: &str) -> Result<()> {
        for name in names_in(&self.inner.leases)?.into_iter().filter(|n| n.starts_with(prefix)) {
            let path = self.inner.leases.join(name);
            match fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).at("remove", &path)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn lease_path(&self, id: &str) -> Result<PathBuf> {
        match crate::spec::valid_id(id) {
            true => Ok(self.inner.leases.join(format!("{id}.json"))),
            false => Err(Error::invalid(format!("{id:?} is no id of a lease"))),
        }
    }

    /// How full store and disk are.
    pub fn usage(&self) -> Result<StoreUsage> {
        let mut usage = StoreUsage::default();
        let folder = self.inner.root.join("layers");
        for name in names_in(&folder)? {
            usage.layers += 1;
            usage.layer_bytes += self.layer_record(&folder.join(name)).bytes;
        }
        let disk = rustix::fs::statvfs(&self.inner.root).at("look at the disk of", &self.inner.root)?;
        usage.disk_capacity_bytes = disk.f_blocks.saturating_mul(disk.f_frsize);
        usage.disk_available_bytes = disk.f_bavail.saturating_mul(disk.f_frsize);
        Ok(usage)
    }

    /// Removes layers and blobs that no name and no lease refers to, and what crashes left.
    ///
    /// Answers with nothing removed while somebody loads or pulls: what they have just brought has no name yet.
    pub fn collect(&self) -> Result<Collected> {
        let Some(_lock) = self.try_lock_exclusive()? else { return Ok(Collected::default()) };
        let root = &self.inner.root;
        let mut layers: BTreeSet<PathBuf> = BTreeSet::new();
        let mut blobs: BTreeSet<String> = BTreeSet::new();
        for scope in names_in(&root.join("scopes"))? {
            for record in self.records(&Scope(scope))? {
                layers.extend(record.layers.iter().map(|d| self.layer_path(d)));
                blobs.extend([record.manifest.hex().to_owned(), record.config.hex().to_owned()]);
            }
        }
        layers.extend(self.leased()?);
        let mut done = Collected::default();
        for name in names_in(&root.join("layers"))? {
            let path = root.join("layers").join(&name);
            if layers.contains(&path) {
                continue;
            }
            done.bytes += self.layer_record(&path).bytes;
            done.layers += 1;
            // First out of sight, so that a crash leaves no half of it.
            let away = root.join("tmp").join(format!("removed-{name}"));
            let _ = fs::remove_dir_all(&away);
            fs::rename(&path, &away).at("remove", &path)?;
            fs::remove_dir_all(&away).at("remove", &away)?;
            for scope in names_in(&root.join("scopes"))? {
                let _ = fs::remove_file(root.join("scopes").join(scope).join("grants").join(&name));
            }
        }
        let folder = root.join("blobs/sha256");
        for name in names_in(&folder)?.into_iter().filter(|n| !blobs.contains(n)) {
            let _ = fs::remove_file(folder.join(name));
        }
        self.remove_stale_work()?;
        Ok(done)
    }

    /// The layers that containers use.
    pub fn leased(&self) -> Result<BTreeSet<PathBuf>> {
        let mut layers = BTreeSet::new();
        for lease in names_in(&self.inner.leases)? {
            let text = fs::read(self.inner.leases.join(&lease)).unwrap_or_default();
            match serde_json::from_slice::<Vec<PathBuf>>(&text) {
                Ok(used) => layers.extend(used),
                // Cut off by a crash: without knowing what is used, nothing may go.
                Err(_) => {
                    return Err(Error::new(
                        ErrorKind::Failed,
                        format!("the lease {lease} cannot be read: remove it when its container is gone"),
                    ));
                }
            }
        }
        Ok(layers)
    }

    /// Names that came from registries, the longest unused first: what can go when the disk is full.
    pub fn pulled(&self) -> Result<Vec<(Scope, Reference)>> {
        let mut found = Vec::new();
        for scope in names_in(&self.inner.root.join("scopes"))?.into_iter().map(Scope) {
            for record in self.records(&scope)?.into_iter().filter(|r| r.pulled) {
                let Ok(name) = record.name.parse::<Reference>() else { continue };
                let used = fs::metadata(self.record_path(&scope, &name)).and_then(|m| m.modified()).ok();
                found.push((used, scope.clone(), name));
            }
        }
        found.sort();
        Ok(found.into_iter().map(|(_, scope, name)| (scope, name)).collect())
    }

    fn remove_stale_work(&self) -> Result<()> {
        let folder = self.inner.root.join("tmp");
        for name in names_in(&folder)? {
            let path = folder.join(name);
            // A partial download is kept for a while: the next pull resumes it.
            let old = fs::symlink_metadata(&path)
                .and_then(|m| m.modified())
                .is_ok_and(|t| t.elapsed().is_ok_and(|age| age > STALE_WORK));
            let partial = path.extension().is_some_and(|e| e == "partial");
            if old || !partial {
                let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            }
        }
        Ok(())
    }

    fn lock(&self, operation: FlockOperation) -> Result<File> {
        let path = self.inner.root.join("lock");
        let file = File::options().create(true).append(true).open(&path).at("open", &path)?;
        flock(&file, operation).at("lock", &path)?;
        Ok(file)
    }

    fn try_lock_exclusive(&self) -> Result<Option<File>> {
        match self.lock(FlockOperation::NonBlockingLockExclusive) {
            Ok(file) => Ok(Some(file)),
            Err(e) if e.source.as_ref().is_some_and(|s| s.kind() == std::io::ErrorKind::WouldBlock) => {
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    fn layer_path(&self, diff_id: &Digest) -> PathBuf {
        self.inner.root.join("layers").join(diff_id.hex())
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.inner.root.join("blobs/sha256").join(digest.hex())
    }

    fn scope_path(&self, scope: &Scope) -> PathBuf {
        self.inner.root.join("scopes").join(&scope.0)
    }

    fn record_path(&self, scope: &Scope, name: &Reference) -> PathBuf {
        let file = format!("{}.json", Digest::of(name.to_string().as_bytes()).hex());
        self.scope_path(scope).join("images").join(file)
    }

    fn record(&self, scope: &Scope, name: &Reference) -> Result<Option<Record>> {
        let path = self.record_path(scope, name);
        match fs::read(&path) {
            Ok(text) => Ok(serde_json::from_slice(&text).ok()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).at("read", &path),
        }
    }

    fn records(&self, scope: &Scope) -> Result<Vec<Record>> {
        let folder = self.scope_path(scope).join("images");
        let read = |name: String| serde_json::from_slice(&fs::read(folder.join(name)).ok()?).ok();
        Ok(names_in(&folder)?.into_iter().filter(|n| n.ends_with(".json")).filter_map(read).collect())
    }

    fn layer_record(&self, layer: &Path) -> LayerRecord {
        let text = fs::read(layer.join("layer.json")).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    fn image(&self, scope: &Scope, record: Record) -> Result<Image> {
        let name: Reference = record.name.parse()?;
        let path = self.blob_path(&record.config);
        let config = ConfigFile::parse(&fs::read(&path).at("read", &path)?)?.image_config();
        let used = fs::metadata(self.record_path(scope, &name)).and_then(|m| m.modified());
        let used_at_ns = used
            .ok()
            .and_then(|t| t.duration_since(SystemTime::UNIX_EPOCH).ok())
            .map_or(record.stored_at_ns, |d| d.as_nanos() as u64);
        Ok(Image {
            id: record.config,
            digest: record.manifest,
            name,
            scope: scope.clone(),
            config,
            layers: record.layers.iter().map(|d| self.layer_path(d).join("fs")).collect(),
            size_bytes: record.size_bytes,
            stored_at_ns: record.stored_at_ns,
            used_at_ns,
        })
    }

    /// Keeps a small blob.
    fn put_blob(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        let path = self.blob_path(&digest);
        if !path.exists() {
            let work = self.work(".blob");
            fs::write(&work, bytes).at("write", &work)?;
            File::open(&work).and_then(|f| f.sync_all()).at("sync", &work)?;
            fs::rename(&work, &path).at("keep", &path)?;
        }
        Ok(digest)
    }

    /// A path in `tmp/` that nobody else has.
    fn work(&self, suffix: &str) -> PathBuf {
        let number = self.inner.next.fetch_add(1, Ordering::Relaxed);
        self.inner.root.join("tmp").join(format!("{}-{}-{number}{suffix}", std::process::id(), now_ns()))
    }

    /// Unpacks a layer into `tmp/`, and gives its place and what it is.
    fn unpack(
        &self,
        reader: impl std::io::Read + Send,
        compressed_bytes: u64,
    ) -> Result<(PathBuf, Unpacked)> {
        let work = self.work("");
        let folder = work.join("fs");
        fs::create_dir_all(&folder).at("make", &folder)?;
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).at("prepare", &folder)?;
        match unpack::unpack(reader, &folder, compressed_bytes, &self.inner.limits) {
            Ok(unpacked) => {
                if unpacked.devices_left_out > 0 {
                    tracing::info!(
                        count = unpacked.devices_left_out,
                        layer = %unpacked.diff_id,
                        "device nodes of a layer were left out: the store does not permit them"
                    );
                }
                Ok((work, unpacked))
            }
            Err(error) => {
                let _ = fs::remove_dir_all(&work);
                Err(error)
            }
        }
    }

    /// Publishes layers that lie unpacked in `tmp/`. One sync for all of them.
    fn publish(&self, layers: Vec<NewLayer>) -> Result<()> {
        if layers.is_empty() {
            return Ok(());
        }
        for layer in &layers {
            let record = LayerRecord {
                bytes: layer.unpacked.bytes,
                blobs: layer.blob.iter().cloned().collect(),
                origins: layer.origin.iter().cloned().collect(),
            };
            let text = serde_json::to_vec(&record).map_err(|e| Error::invalid(e.to_string()))?;
            let path = layer.work.join("layer.json");
            fs::write(&path, text).at("write", &path)?;
        }
        unpack::sync(&self.inner.root.join("tmp"))?;
        for layer in layers {
            let path = self.layer_path(&layer.unpacked.diff_id);
            match fs::rename(&layer.work, &path) {
                Ok(()) => {}
                // Somebody else was faster with the same content: note what is new about it.
                Err(_) if path.join("fs").is_dir() => {
                    let _ = fs::remove_dir_all(&layer.work);
                    self.note(&path, layer.blob.as_ref(), layer.origin.as_deref())?;
                }
                Err(e) => return Err(e).at("keep", &path),
            }
            if let Some(scope) = &layer.grant {
                self.grant(scope, &layer.unpacked.diff_id)?;
            }
        }
        Ok(())
    }

    /// A layer came from one more place.
    fn note(&self, layer: &Path, blob: Option<&Digest>, origin: Option<&str>) -> Result<()> {
        let mut record = self.layer_record(layer);
        let mut new = false;
        if let Some(blob) = blob {
            new |= record.blobs.insert(blob.clone());
        }
        if let Some(origin) = origin {
            new |= record.origins.insert(origin.to_owned());
        }
        if new {
            let text = serde_json::to_vec(&record).map_err(|e| Error::invalid(e.to_string()))?;
            write_atomically(&layer.join("layer.json"), &text)?;
        }
        Ok(())
    }

    fn grant(&self, scope: &Scope, diff_id: &Digest) -> Result<()> {
        let folder = self.scope_path(scope).join("grants");
        fs::create_dir_all(&folder).at("make", &folder)?;
        let path = folder.join(diff_id.hex());
        fs::write(&path, b"").at("write", &path)
    }

    fn granted(&self, scope: &Scope, diff_id: &Digest) -> bool {
        [scope.name(), SHARED]
            .iter()
            .any(|s| self.inner.root.join("scopes").join(s).join("grants").join(diff_id.hex()).exists())
    }

    /// Gives an image whose layers are all there its name.
    fn name(
        &self,
        scope: &Scope,
        name: &Reference,
        manifest: Digest,
        config: &[u8],
        layers: Vec<Digest>,
        pulled: bool,
    ) -> Result<Image> {
        let config = self.put_blob(config)?;
        let mut size_bytes = 0;
        for layer in &layers {
            size_bytes += self.layer_record(&self.layer_path(layer)).bytes;
        }
        let stored_at_ns = now_ns();
        let record =
            Record { name: name.to_string(), manifest, config, layers, size_bytes, stored_at_ns, pulled };
        let text = serde_json::to_vec(&record).map_err(|e| Error::invalid(e.to_string()))?;
        let path = self.record_path(scope, name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).at("make", folder)?;
        }
        write_atomically(&path, &text)?;
        self.image(scope, record)
    }
}

/// A layer that was just unpacked.
struct NewLayer {
    work: PathBuf,
    unpacked: Unpacked,
    blob: Option<Digest>,
    origin: Option<String>,
    grant: Option<Scope>,
}

/// The names in a directory; none when it is not there.
fn names_in(folder: &Path) -> Result<Vec<String>> {
    match fs::read_dir(folder) {
        Ok(entries) => Ok(entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e).at("read", folder),
    }
}

/// What each image of a list would free if it went, for choosing what to remove: layers that others use count nothing.
pub fn own_bytes(images: &[Image], store: &ImageStore) -> Vec<u64> {
    let mut users: BTreeMap<&Path, u64> = BTreeMap::new();
    for layer in images.iter().flat_map(|i| i.layers.iter().collect::<BTreeSet<_>>()) {
        *users.entry(layer).or_default() += 1;
    }
    images
        .iter()
        .map(|image| {
            let own: BTreeSet<&PathBuf> =
                image.layers.iter().filter(|l| users.get(l.as_path()) == Some(&1)).collect();
            own.iter().filter_map(|l| l.parent()).map(|l| store.layer_record(l).bytes).sum()
        })
        .collect()
}

#[cfg(test)]
mod tests;
