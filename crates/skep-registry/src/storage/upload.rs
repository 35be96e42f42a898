//! Uploads: content on its way in, that may come in pieces, be interrupted, and go on after a restart.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, OwnedMutexGuard};
use uuid::Uuid;

use super::{BLOB_MAX_BYTES, Owner, Repository, Storage, UPLOADS_MAX, make_directory, names, sync_directory};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::{Code, RegistryError};

/// What is read at once where content must be hashed again.
const READ_BYTES: usize = 1 << 20;

/// An upload.
#[derive(Debug)]
pub struct Upload {
    /// Its id: whoever knows it and may write to the repository may go on with it.
    pub id: Uuid,
    /// Where the blob will be.
    pub repository: Repository,
    directory: PathBuf,
    received: AtomicU64,
    content: Arc<Mutex<Content>>,
}

#[derive(Debug)]
struct Content {
    file: File,
    offset: u64,
    /// Of everything up to `offset`; `None` after a restart.
    hasher: Option<Hasher>,
    ended: bool,
}

#[derive(Serialize, Deserialize)]
struct Session {
    owner: String,
    mirror: bool,
    path: String,
}

/// An upload that its holder alone writes to.
#[derive(Debug)]
pub struct UploadPosition {
    upload: Arc<Upload>,
    content: OwnedMutexGuard<Content>,
}

impl Upload {
    /// How much is here.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Another view of what is here, with a position of its own.
    ///
    /// # Errors
    /// When it has ended.
    pub fn reader(&self) -> Result<File, RegistryError> {
        Ok(File::open(self.directory.join("data"))?)
    }
}

fn unknown() -> RegistryError {
    RegistryError::new(Code::BlobUploadUnknown, "there is no such upload, or no longer: begin another")
}

impl UploadPosition {
    /// Where the next byte goes.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.content.offset
    }
}

impl Storage {
    /// Begins an upload.
    ///
    /// # Errors
    /// [`Code::TooManyRequests`] when the owner has too many.
    pub fn begin_upload(
        &self,
        repository: &Repository,
        algorithm: Algorithm,
    ) -> Result<Arc<Upload>, RegistryError> {
        // It is there before anything is added to it.
        self.usage(&repository.owner)?;
        let running =
            self.inner.uploads.lock().values().filter(|u| u.repository.owner == repository.owner).count();
        if running >= UPLOADS_MAX {
            let message =
                format!("{running} uploads have not ended: end or cancel some before beginning others");
            return Err(RegistryError::new(Code::TooManyRequests, message));
        }
        let id = Uuid::new_v4();
        let directory = self.root().join("uploads").join(id.to_string());
        make_directory(self.root(), &directory)?;
        let (owner, mirror) = match &repository.owner {
            Owner::Tenant(name, uid) => (format!("{name}@{uid}"), false),
            Owner::Mirror(host) => (host.to_string(), true),
        };
        let session = Session { owner, mirror, path: repository.path.to_string() };
        let text =
            serde_json::to_vec(&session).map_err(|e| RegistryError::new(Code::Unknown, e.to_string()))?;
        self.write_file(&directory.join("session.json"), &[&text])?;
        let file = File::options().create_new(true).read(true).write(true).open(directory.join("data"))?;
        let content = Content { file, offset: 0, hasher: Some(Hasher::new(algorithm)), ended: false };
        let upload = Arc::new(Upload {
            id,
            repository: repository.clone(),
            directory,
            received: AtomicU64::new(0),
            content: Arc::new(Mutex::new(content)),
        });
        self.inner.uploads.lock().insert(id, upload.clone());
        Ok(upload)
    }

    /// An upload to this repository.
    ///
    /// # Errors
    /// [`Code::BlobUploadUnknown`].
    pub fn upload(&self, repository: &Repository, id: &str) -> Result<Arc<Upload>, RegistryError> {
        let id = id.parse().map_err(|_| unknown())?;
        let found = self.inner.uploads.lock().get(&id).cloned();
        found.filter(|u| u.repository == *repository).ok_or_else(unknown)
    }

    /// Waits until nobody else writes to an upload. A request that broke off may still be at it.
    ///
    /// # Errors
    /// [`Code::BlobUploadUnknown`] when it ended meanwhile.
    pub async fn position(&self, upload: &Arc<Upload>) -> Result<UploadPosition, RegistryError> {
        let content = upload.content.clone().lock_owned().await;
        if content.ended {
            return Err(unknown());
        }
        Ok(UploadPosition { upload: upload.clone(), content })
    }

    /// Appends. What was appended before an error stays.
    ///
    /// # Errors
    /// [`Code::SizeInvalid`] when the blob becomes too large; [`Code::Denied`] when the quota is used up.
    pub fn append(
        &self,
        position: &mut UploadPosition,
        pieces: &[Bytes],
        quota_bytes: u64,
    ) -> Result<(), RegistryError> {
        let usage = self.usage(&position.upload.repository.owner)?;
        let content = &mut *position.content;
        let length: u64 = pieces.iter().map(|p| p.len() as u64).sum();
        if content.offset + length > BLOB_MAX_BYTES {
            let message = format!("a blob of more than {BLOB_MAX_BYTES} bytes is not stored here");
            return Err(RegistryError::new(Code::SizeInvalid, message));
        }
        Self::check_quota(&usage, length, quota_bytes)?;
        // An earlier write may have failed half way.
        content.file.seek(SeekFrom::Start(content.offset))?;
        for piece in pieces {
            content.file.write_all(piece)?;
            if let Some(hasher) = &mut content.hasher {
                hasher.update(piece);
            }
            content.offset += piece.len() as u64;
            usage.pending.fetch_add(piece.len() as u64, Ordering::Relaxed);
            position.upload.received.store(content.offset, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Ends an upload: its content becomes a blob of its repository, if it is what the digest says. If not, the upload is gone.
    ///
    /// # Errors
    /// [`Code::DigestInvalid`].
    pub fn commit(&self, mut position: UploadPosition, digest: &Digest) -> Result<u64, RegistryError> {
        let repository = position.upload.repository.clone();
        let result =
            self.commit_content(&mut position.content, &position.upload.directory, &repository, digest);
        let size = position.content.offset;
        // Of an error of the disk's the client may try again; of a wrong digest not, for the content is what it is.
        if !matches!(&result, Err(e) if e.code != Code::DigestInvalid) {
            self.end(&position.upload.clone(), &mut position.content);
        }
        result.map(|()| size)
    }

    fn commit_content(
        &self,
        content: &mut Content,
        directory: &Path,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<(), RegistryError> {
        // An interrupted write may have left more than was counted.
        content.file.set_len(content.offset)?;
        let is = match content.hasher.clone().filter(|h| h.algorithm() == digest.algorithm()) {
            Some(hasher) => hasher.finish(),
            None => hash_file(&mut content.file, digest.algorithm())?,
        };
        if is != *digest {
            let message = format!("the content is {is} and not {digest}");
            return Err(RegistryError::new(Code::DigestInvalid, message).about(vec![digest.to_string()]));
        }
        content.file.sync_all()?;
        let path = self.blob_path(digest);
        let folder = path.parent().unwrap_or(self.root()).to_owned();
        let _gate = self.linking();
        let _writing = self.writing(repository);
        if !path.exists() {
            make_directory(self.root(), &folder)?;
            fs::rename(directory.join("data"), &path)?;
            sync_directory(&folder)?;
        }
        Ok(self.link(repository, digest)?)
    }

    /// Gives an upload up.
    pub fn cancel(&self, mut position: UploadPosition) {
        self.end(&position.upload.clone(), &mut position.content);
    }

    fn end(&self, upload: &Upload, content: &mut Content) {
        content.ended = true;
        self.inner.uploads.lock().remove(&upload.id);
        if let Some(usage) = self.inner.usage.lock().get(&upload.repository.owner) {
            usage.pending.fetch_sub(content.offset, Ordering::Relaxed);
        }
        if let Err(error) = fs::remove_dir_all(&upload.directory) {
            // The next start finds it, and the collection after that.
            tracing::warn!(%error, "what is left of an upload cannot be removed");
        }
    }

    /// Finds the uploads of an earlier process.
    pub(super) fn reopen_uploads(&self) -> io::Result<()> {
        let folder = self.root().join("uploads");
        for name in names(&folder)? {
            let directory = folder.join(&name);
            match reopen(&directory, &name) {
                Some(upload) => {
                    self.inner.uploads.lock().insert(upload.id, Arc::new(upload));
                }
                // Cut off while it was made, or a file that was never renamed: nobody was told of it.
                None if directory.is_dir() => fs::remove_dir_all(&directory)?,
                None => fs::remove_file(&directory)?,
            }
        }
        Ok(())
    }

    /// Gives up uploads to which nothing came for so long. Returns how many.
    pub(super) fn expire_uploads(&self, idle: Duration) -> usize {
        let all: Vec<Arc<Upload>> = self.inner.uploads.lock().values().cloned().collect();
        let mut ended = 0;
        for upload in all {
            // Somebody writes to it.
            let Ok(mut content) = upload.content.clone().try_lock_owned() else { continue };
            let since = content.file.metadata().and_then(|m| m.modified());
            let old = since.is_ok_and(|t| SystemTime::now().duration_since(t).is_ok_and(|age| age >= idle));
            if old && !content.ended {
                self.end(&upload, &mut content);
                ended += 1;
            }
        }
        ended
    }
}

fn hash_file(file: &mut File, algorithm: Algorithm) -> io::Result<Digest> {
    let mut hasher = Hasher::new(algorithm);
    let mut buffer = vec![0; READ_BYTES];
    file.seek(SeekFrom::Start(0))?;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            n => hasher.update(&buffer[..n]),
        }
    }
}

fn reopen(directory: &Path, name: &str) -> Option<Upload> {
    let id = name.parse().ok()?;
    let session: Session = serde_json::from_slice(&fs::read(directory.join("session.json")).ok()?).ok()?;
    let file = File::options().read(true).write(true).open(directory.join("data")).ok()?;
    let offset = file.metadata().ok()?.len();
    let repository =
        Repository { owner: Owner::parse(&session.owner, session.mirror)?, path: session.path.into() };
    let content = Content { file, offset, hasher: None, ended: false };
    Some(Upload {
        id,
        repository,
        directory: directory.to_owned(),
        received: AtomicU64::new(offset),
        content: Arc::new(Mutex::new(content)),
    })
}
