//! What a repository has: blobs, manifests, tags, referrers.

use std::fs::{self, File, FileTimes};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use super::{Repository, Storage, found, make_directory, names, sync_directory};
use crate::digest::Digest;
use crate::error::{Code, RegistryError};
use crate::manifest::{Manifest, Part};
use crate::name::{Reference, Tag};

/// A file whose time is older than this gets a new one when it is used. Collection keeps what was used lately, with a much longer idea of lately.
const TOUCH_AFTER: Duration = Duration::from_secs(600);

/// A blob's content.
#[derive(Debug)]
pub struct BlobFile {
    /// Open for reading: it stays readable even if it is deleted meanwhile.
    pub file: File,
    /// Its length.
    pub size: u64,
}

/// A manifest as it was pushed.
#[derive(Clone, Debug)]
pub struct StoredManifest {
    /// Of the bytes.
    pub digest: Digest,
    /// What is known of it.
    pub manifest: Manifest,
    /// The very bytes.
    pub bytes: Vec<u8>,
}

/// What must hold for a tag to be written: HTTP's `If-Match` and `If-None-Match`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    #[default]
    Always,
    /// It does not exist.
    Absent,
    /// It is one of these.
    Is(Vec<String>),
}

fn blob_unknown(digest: &Digest) -> RegistryError {
    RegistryError::new(Code::BlobUnknown, "the blob is not in this repository")
        .about(vec![digest.to_string()])
}

fn manifest_unknown(reference: &Reference) -> RegistryError {
    RegistryError::new(Code::ManifestUnknown, format!("the repository has no manifest {reference}"))
}

/// Says that it was used, if it has not said so lately.
fn touch(file: &File) {
    let now = SystemTime::now();
    let old = file
        .metadata()
        .and_then(|m| m.modified())
        .is_ok_and(|t| now.duration_since(t).is_ok_and(|age| age > TOUCH_AFTER));
    if old && let Err(error) = file.set_times(FileTimes::new().set_modified(now)) {
        // It is collected earlier than it need be.
        tracing::warn!(%error, "a file's time cannot be set");
    }
}

fn split(bytes: Vec<u8>, path: &Path) -> Result<(Manifest, Vec<u8>), RegistryError> {
    let damaged = || {
        tracing::error!(path = %path.display(), "a manifest's file is damaged: push the image again");
        RegistryError::new(Code::Unknown, "the manifest's file is damaged: push the image again")
    };
    let end = bytes.iter().position(|b| *b == b'\n').ok_or_else(damaged)?;
    let manifest = serde_json::from_slice(&bytes[..end]).map_err(|_| damaged())?;
    let mut bytes = bytes;
    bytes.drain(..=end);
    Ok((manifest, bytes))
}

impl Storage {
    fn in_repository(&self, repository: &Repository, folder: &str, name: &str) -> PathBuf {
        self.repository_path(repository).join(folder).join(name)
    }

    /// Whether anything was ever stored in it.
    #[must_use]
    pub fn exists(&self, repository: &Repository) -> bool {
        let path = self.repository_path(repository);
        ["_manifests", "_blobs", "_tags"].iter().any(|folder| path.join(folder).is_dir())
    }

    /// A blob that the repository has.
    ///
    /// # Errors
    /// [`Code::BlobUnknown`].
    pub fn blob(&self, repository: &Repository, digest: &Digest) -> Result<BlobFile, RegistryError> {
        let path = self.in_repository(repository, "_blobs", &digest.to_string());
        let file = found(File::open(path))?.ok_or_else(|| blob_unknown(digest))?;
        touch(&file);
        Ok(BlobFile { size: file.metadata()?.len(), file })
    }

    /// Gives a repository a blob whose content is stored. The caller holds the gate and the repository.
    pub(super) fn link(&self, repository: &Repository, digest: &Digest) -> io::Result<()> {
        let content = self.blob_path(digest);
        let link = self.in_repository(repository, "_blobs", &digest.to_string());
        let folder = link.parent().unwrap_or(self.root());
        make_directory(self.root(), folder)?;
        match fs::hard_link(&content, &link) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::AlreadyExists => return Ok(()),
            // The file system allows no more links to one file.
            Err(e) if e.kind() == ErrorKind::TooManyLinks => {
                let copy = self.root().join("uploads").join(format!("{}.tmp", uuid::Uuid::new_v4()));
                fs::copy(&content, &copy)?;
                File::open(&copy)?.sync_all()?;
                fs::rename(&copy, &link)?;
            }
            Err(e) => return Err(e),
        }
        sync_directory(folder)?;
        let size = fs::metadata(&link)?.len();
        if let Some(usage) = self.inner.usage.lock().get(&repository.owner) {
            usage.stored.fetch_add(size, Ordering::Relaxed);
        }
        Ok(())
    }

    fn forget(&self, repository: &Repository, bytes: u64) {
        if let Some(usage) = self.inner.usage.lock().get(&repository.owner) {
            usage.stored.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Gives a repository a blob that another one has.
    ///
    /// # Errors
    /// [`Code::BlobUnknown`] when that one has not.
    pub fn mount(
        &self,
        from: &Repository,
        to: &Repository,
        digest: &Digest,
        quota_bytes: u64,
    ) -> Result<(), RegistryError> {
        let usage = self.usage(&to.owner)?;
        let _gate = self.linking();
        let size = self.blob(from, digest)?.size;
        let _writing = self.writing(to);
        if self.in_repository(to, "_blobs", &digest.to_string()).exists() {
            return Ok(());
        }
        Self::check_quota(&usage, size, quota_bytes)?;
        if !self.blob_path(digest).exists() {
            // Its content lies in links only; that happens where there were too many.
            return Err(blob_unknown(digest));
        }
        Ok(self.link(to, digest)?)
    }

    /// Takes a blob from a repository.
    ///
    /// # Errors
    /// [`Code::BlobUnknown`].
    pub fn delete_blob(&self, repository: &Repository, digest: &Digest) -> Result<(), RegistryError> {
        let path = self.in_repository(repository, "_blobs", &digest.to_string());
        let _gate = self.linking();
        let _writing = self.writing(repository);
        let size = found(fs::metadata(&path))?.ok_or_else(|| blob_unknown(digest))?.len();
        fs::remove_file(&path)?;
        sync_directory(path.parent().unwrap_or(self.root()))?;
        self.forget(repository, size);
        Ok(())
    }

    fn read_manifest(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<StoredManifest>, RegistryError> {
        let path = self.in_repository(repository, "_manifests", &digest.to_string());
        let Some(mut file) = found(File::open(&path))? else { return Ok(None) };
        touch(&file);
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut file, &mut bytes)?;
        let (manifest, bytes) = split(bytes, &path)?;
        Ok(Some(StoredManifest { digest: digest.clone(), manifest, bytes }))
    }

    /// What a tag means.
    ///
    /// # Errors
    /// [`Code::ManifestUnknown`].
    pub fn tag(&self, repository: &Repository, tag: &Tag) -> Result<Digest, RegistryError> {
        let unknown = || manifest_unknown(&Reference::Tag(tag.clone()));
        let path = self.in_repository(repository, "_tags", tag.as_str());
        let text = found(fs::read_to_string(path))?.ok_or_else(unknown)?;
        text.trim().parse().map_err(|_| unknown())
    }

    /// A manifest.
    ///
    /// # Errors
    /// [`Code::ManifestUnknown`].
    pub fn manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<StoredManifest, RegistryError> {
        let digest = match reference {
            Reference::Digest(digest) => digest.clone(),
            Reference::Tag(tag) => self.tag(repository, tag)?,
        };
        self.read_manifest(repository, &digest)?.ok_or_else(|| manifest_unknown(reference))
    }

    /// What of this the repository has not, or has with another size.
    fn missing(&self, repository: &Repository, folder: &str, parts: &[Part]) -> io::Result<Vec<String>> {
        let mut missing = Vec::new();
        for part in parts {
            let path = self.in_repository(repository, folder, &part.digest.to_string());
            if found(fs::metadata(path))?.is_none() {
                missing.push(part.digest.to_string());
            }
        }
        Ok(missing)
    }

    fn check_parts(&self, repository: &Repository, manifest: &Manifest) -> Result<(), RegistryError> {
        let mut missing = self.missing(repository, "_blobs", &manifest.blobs)?;
        missing.extend(self.missing(repository, "_manifests", &manifest.manifests)?);
        if !missing.is_empty() {
            return Err(RegistryError::new(
                Code::ManifestBlobUnknown,
                "the manifest names content that the repository has not: push that first",
            )
            .about(missing));
        }
        for part in &manifest.blobs {
            let path = self.in_repository(repository, "_blobs", &part.digest.to_string());
            let size = found(fs::metadata(path))?.map(|m| m.len());
            if size != Some(part.size) {
                return Err(RegistryError::new(
                    Code::ManifestInvalid,
                    format!("the manifest says that {} has {} bytes, and it has not", part.digest, part.size),
                ));
            }
        }
        Ok(())
    }

    /// Stores a manifest under its digest, and as what these tags mean from now on. A mirror's may name what is not here yet (`sparse`).
    ///
    /// # Errors
    /// [`Code::ManifestBlobUnknown`] when what it needs is not here; [`Code::PreconditionFailed`]; [`Code::Denied`] when the quota is used up.
    pub fn put_manifest(
        &self,
        repository: &Repository,
        stored: &StoredManifest,
        tags: &[Tag],
        condition: &Condition,
        sparse: bool,
        quota_bytes: u64,
    ) -> Result<(), RegistryError> {
        let usage = self.usage(&repository.owner)?;
        let _gate = self.linking();
        let _writing = self.writing(repository);
        self.check_condition(repository, tags, condition)?;
        if !sparse {
            self.check_parts(repository, &stored.manifest)?;
        }
        let name = stored.digest.to_string();
        let path = self.in_repository(repository, "_manifests", &name);
        let header = serde_json::to_vec(&stored.manifest)
            .map_err(|e| RegistryError::new(Code::Unknown, e.to_string()))?;
        let size = (header.len() + 1 + stored.bytes.len()) as u64;
        let old = found(fs::metadata(&path))?.map(|m| m.len());
        if old.is_none() {
            Self::check_quota(&usage, size, quota_bytes)?;
        }
        let folder = self.repository_path(repository);
        make_directory(self.root(), &folder.join("_manifests"))?;
        if let Some(subject) = &stored.manifest.subject {
            // Before the manifest: an entry without one is passed over, one that is missing would never come.
            let referrers = folder.join("_referrers").join(subject.digest.to_string());
            make_directory(self.root(), &referrers)?;
            self.write_file(&referrers.join(&name), &[])?;
        }
        // Written also when it is there: it may be sent with another media type.
        self.write_file(&path, &[&header, b"\n", &stored.bytes])?;
        usage.stored.fetch_add(size, Ordering::Relaxed);
        usage.stored.fetch_sub(old.unwrap_or(0), Ordering::Relaxed);
        if !tags.is_empty() {
            make_directory(self.root(), &folder.join("_tags"))?;
        }
        for tag in tags {
            self.write_file(&folder.join("_tags").join(tag.as_str()), &[name.as_bytes()])?;
        }
        Ok(())
    }

    fn check_condition(
        &self,
        repository: &Repository,
        tags: &[Tag],
        condition: &Condition,
    ) -> Result<(), RegistryError> {
        for tag in tags {
            let now = match self.tag(repository, tag) {
                Ok(digest) => Some(digest.to_string()),
                Err(e) if e.code == Code::ManifestUnknown => None,
                Err(e) => return Err(e),
            };
            let holds = match condition {
                Condition::Always => true,
                Condition::Absent => now.is_none(),
                Condition::Is(wanted) => now.is_some_and(|n| wanted.contains(&n)),
            };
            if !holds {
                let message = format!("the tag {tag} is not what the request wants it to be");
                return Err(RegistryError::new(Code::PreconditionFailed, message));
            }
        }
        Ok(())
    }

    /// Removes a tag, or a manifest with all its tags.
    ///
    /// # Errors
    /// [`Code::ManifestUnknown`].
    pub fn delete_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<(), RegistryError> {
        let _gate = self.linking();
        let _writing = self.writing(repository);
        let folder = self.repository_path(repository);
        let digest = match reference {
            Reference::Tag(tag) => {
                let path = folder.join("_tags").join(tag.as_str());
                found(fs::remove_file(path))?.ok_or_else(|| manifest_unknown(reference))?;
                return Ok(sync_directory(&folder.join("_tags"))?);
            }
            Reference::Digest(digest) => digest,
        };
        let name = digest.to_string();
        let path = folder.join("_manifests").join(&name);
        let size = found(fs::metadata(&path))?.ok_or_else(|| manifest_unknown(reference))?.len();
        let subject = match self.read_manifest(repository, digest) {
            Ok(stored) => stored.and_then(|s| s.manifest.subject),
            // A damaged one can still be deleted.
            Err(_) => None,
        };
        fs::remove_file(&path)?;
        sync_directory(&folder.join("_manifests"))?;
        self.forget(repository, size);
        let tags = folder.join("_tags");
        let mut removed = false;
        for tag in names(&tags)? {
            let path = tags.join(tag);
            if found(fs::read_to_string(&path))?.is_some_and(|text| text.trim() == name) {
                found(fs::remove_file(&path))?;
                removed = true;
            }
        }
        if removed {
            sync_directory(&tags)?;
        }
        if let Some(subject) = subject {
            found(fs::remove_file(folder.join("_referrers").join(subject.digest.to_string()).join(name)))?;
        }
        Ok(())
    }

    /// All tags, sorted by their bytes.
    ///
    /// # Errors
    /// [`Code::NameUnknown`] when there is no such repository.
    pub fn tags(&self, repository: &Repository) -> Result<Vec<String>, RegistryError> {
        if !self.exists(repository) {
            return Err(RegistryError::new(Code::NameUnknown, "there is no such repository"));
        }
        Ok(names(&self.repository_path(repository).join("_tags"))?)
    }

    /// The manifests whose subject this is, after `last`, sorted by digest; at most so many.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
        last: &str,
        limit: usize,
    ) -> Result<Vec<StoredManifest>, RegistryError> {
        let folder = self.repository_path(repository).join("_referrers").join(subject.to_string());
        let mut all = Vec::new();
        for name in names(&folder)?.into_iter().filter(|n| n.as_str() > last) {
            if all.len() == limit {
                break;
            }
            let Ok(digest) = name.parse::<Digest>() else { continue };
            all.extend(self.read_manifest(repository, &digest)?);
        }
        Ok(all)
    }
}
