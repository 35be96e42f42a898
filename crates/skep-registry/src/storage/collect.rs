//! Collection: what nothing refers to goes.
//!
//! Three steps, each safe by itself and under pushes:
//! 1. Tenants that are gone, uploads that nobody goes on with.
//! 2. In each repository, with its lock held: blobs that no manifest of it names, and that nobody has sent, mounted or asked for within
//!    [`Policy::grace`]. A push asks for, or sends, every blob before it sends the manifest, so a push that takes less than that never loses one.
//! 3. Content with no link but its own. Links are made under the shared gate, right after the content appears; this step holds it exclusively.
//!
//! A blob with two links at least is never touched by step 3, so even a wrong answer there could cost only disk space.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::{Owner, Repository, Storage, found, names, sync_directory};
use crate::error::RegistryError;
use crate::manifest::Manifest;

/// Content that is looked at while the gate is held: pushes wait meanwhile.
const BATCH: usize = 256;

/// What is kept.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// How long a blob that no manifest names is kept after it was last sent or asked for. Shorter than a push takes, and pushes fail.
    pub grace: Duration,
    /// How long an upload is kept after the last piece of it came.
    pub upload_idle: Duration,
    /// How long a mirror's manifest is kept after it was last asked for.
    pub mirror_unused: Duration,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            grace: Duration::from_secs(24 * 3600),
            upload_idle: Duration::from_secs(24 * 3600),
            mirror_unused: Duration::from_secs(14 * 24 * 3600),
        }
    }
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Tenants' directories.
    pub tenants: usize,
    /// Uploads.
    pub uploads: usize,
    /// Blobs of repositories.
    pub links: usize,
    /// Blobs.
    pub blobs: usize,
    /// Bytes in them.
    pub bytes: u64,
}

fn age(metadata: &fs::Metadata, now: SystemTime) -> Duration {
    // When it was linked last, or used last, whichever is later.
    let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(metadata.ctime()).unwrap_or(0));
    let last = metadata.modified().unwrap_or(changed).max(changed);
    now.duration_since(last).unwrap_or_default()
}

/// What a manifest's file says that it needs; `None` where it cannot be read.
fn header(path: &Path) -> io::Result<Option<Manifest>> {
    use std::io::BufRead;
    let Some(file) = found(fs::File::open(path))? else { return Ok(None) };
    let mut line = Vec::new();
    io::BufReader::new(file).read_until(b'\n', &mut line)?;
    Ok(serde_json::from_slice(&line).ok())
}

impl Storage {
    /// Collects once. `tenants` are those that exist, as name and uid; `None` when that is not known, and then no tenant's directory goes.
    ///
    /// # Errors
    /// When the directory cannot be read or written. What was removed until then is in order.
    pub fn collect(
        &self,
        policy: &Policy,
        tenants: Option<&HashSet<(String, String)>>,
    ) -> Result<Collected, RegistryError> {
        let mut done = Collected { uploads: self.expire_uploads(policy.upload_idle), ..Collected::default() };
        for owner in self.owners()? {
            if let (Owner::Tenant(name, uid), Some(tenants)) = (&owner, tenants)
                && !tenants.contains(&(name.to_string(), uid.to_string()))
            {
                self.remove_owner(&owner)?;
                done.tenants += 1;
                continue;
            }
            let mut repositories = Vec::new();
            self.walk(&owner, &mut |name, _| {
                repositories.push(Repository { owner: owner.clone(), path: name.into() });
                Ok(())
            })?;
            // Longer names first, so that a directory is empty when its turn comes.
            repositories.sort_by(|a, b| b.path.cmp(&a.path));
            for repository in repositories {
                if matches!(owner, Owner::Mirror(_)) {
                    self.expire_manifests(&repository, policy.mirror_unused)?;
                }
                done.links += self.collect_repository(&repository, policy.grace)?;
            }
        }
        fs::remove_dir_all(self.root().join("trash"))?;
        fs::create_dir(self.root().join("trash"))?;
        self.sweep(&mut done)?;
        Ok(done)
    }

    fn remove_owner(&self, owner: &Owner) -> io::Result<()> {
        let _gate = self.inner.gate.write();
        let trash = self.root().join("trash").join(uuid::Uuid::new_v4().to_string());
        found(fs::rename(self.root().join(owner.directory()), trash))?;
        self.inner.usage.lock().remove(owner);
        Ok(())
    }

    /// A mirror forgets what nobody asked for in a long time; its source still has it.
    fn expire_manifests(&self, repository: &Repository, unused: Duration) -> Result<(), RegistryError> {
        let folder = self.repository_path(repository).join("_manifests");
        let now = SystemTime::now();
        for name in names(&folder)? {
            let old = found(fs::metadata(folder.join(&name)))?.is_some_and(|m| age(&m, now) >= unused);
            if old && let Ok(digest) = name.parse() {
                match self.delete_manifest(repository, &crate::name::Reference::Digest(digest)) {
                    Err(e) if e.code != crate::error::Code::ManifestUnknown => return Err(e),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn collect_repository(&self, repository: &Repository, grace: Duration) -> Result<usize, RegistryError> {
        let path = self.repository_path(repository);
        // The gate too: an emptied directory goes, and nobody may be about to put something into it.
        let _gate = self.inner.gate.write();
        let mut needed = HashSet::new();
        let manifests = names(&path.join("_manifests"))?;
        for name in &manifests {
            match header(&path.join("_manifests").join(name))? {
                Some(manifest) => needed.extend(manifest.blobs.into_iter().map(|p| p.digest.to_string())),
                None => {
                    // It may need anything.
                    tracing::error!(
                        repository = &*repository.path,
                        manifest = name,
                        "a manifest's file is damaged: nothing of its repository is collected"
                    );
                    return Ok(0);
                }
            }
        }
        // Left behind where a deletion was cut off.
        for tag in names(&path.join("_tags"))? {
            let file = path.join("_tags").join(tag);
            let meant = found(fs::read_to_string(&file))?.unwrap_or_default();
            if manifests.binary_search(&meant).is_err() {
                found(fs::remove_file(file))?;
            }
        }
        let now = SystemTime::now();
        let mut removed = 0;
        for name in names(&path.join("_blobs"))? {
            let file = path.join("_blobs").join(&name);
            let Some(metadata) = found(fs::metadata(&file))? else { continue };
            if needed.contains(&name) || age(&metadata, now) < grace {
                continue;
            }
            found(fs::remove_file(&file))?;
            if let Some(usage) = self.inner.usage.lock().get(&repository.owner) {
                usage.stored.fetch_sub(metadata.len(), std::sync::atomic::Ordering::Relaxed);
            }
            removed += 1;
        }
        if removed > 0 {
            sync_directory(&path.join("_blobs"))?;
        }
        self.remove_if_empty(&path)?;
        Ok(removed)
    }

    /// Removes a repository's directories that hold nothing.
    fn remove_if_empty(&self, path: &Path) -> io::Result<()> {
        for subject in names(&path.join("_referrers"))? {
            // Not empty is an error that says so.
            let _ = fs::remove_dir(path.join("_referrers").join(subject));
        }
        for folder in ["_blobs", "_manifests", "_tags", "_referrers"] {
            let folder = path.join(folder);
            if found(fs::read_dir(&folder))?.is_some_and(|mut d| d.next().is_some()) {
                return Ok(());
            }
        }
        for folder in ["_blobs", "_manifests", "_tags", "_referrers"] {
            found(fs::remove_dir(path.join(folder)))?;
        }
        let mut path = path;
        while fs::remove_dir(path).is_ok() {
            match path.parent() {
                Some(parent) if parent.parent().is_some_and(|p| p != self.root()) => path = parent,
                _ => break,
            }
        }
        Ok(())
    }

    /// Removes content that no repository has.
    fn sweep(&self, done: &mut Collected) -> Result<(), RegistryError> {
        let blobs = self.root().join("blobs");
        for algorithm in names(&blobs)? {
            for folder in names(&blobs.join(&algorithm))? {
                let folder = blobs.join(&algorithm).join(folder);
                for batch in names(&folder)?.chunks(BATCH) {
                    let _gate = self.inner.gate.write();
                    for name in batch {
                        let path = folder.join(name);
                        let Some(metadata) = found(fs::metadata(&path))? else { continue };
                        if metadata.nlink() == 1 {
                            fs::remove_file(&path)?;
                            done.blobs += 1;
                            done.bytes += metadata.len();
                        }
                    }
                }
            }
        }
        Ok(())
    }
}
