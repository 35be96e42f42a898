//! Blobs and uploads.

use http::{Method, StatusCode};
use hyper::body::Incoming;

use super::answer;
use super::range::{self, Wanted};
use super::server::{Access, Call, blocking, next_piece};
use super::{Answer, Body};
use crate::digest::{Algorithm, Digest};
use crate::error::{Code, RegistryError};
use crate::gate::Verb;
use crate::name::{RepositoryName, Space};
use crate::storage::{BlobFile, UploadPosition};

/// What is gathered of a body before it is hashed and written: fewer, larger steps.
const GATHER_BYTES: usize = 1 << 20;

/// Content under its digest never changes.
const FOREVER: &str = "private, max-age=31536000, immutable";

fn blob_location(name: &RepositoryName, digest: &Digest) -> String {
    format!("/v2/{name}/blobs/{digest}")
}

fn upload_location(name: &RepositoryName, id: impl std::fmt::Display) -> String {
    format!("/v2/{name}/blobs/uploads/{id}")
}

fn created(name: &RepositoryName, digest: &Digest) -> Answer {
    Answer::new(StatusCode::CREATED)
        .header("location", blob_location(name, digest))
        .header("docker-content-digest", digest.to_string())
        .header("content-length", "0")
}

fn progress(status: StatusCode, name: &RepositoryName, id: uuid::Uuid, offset: u64) -> Answer {
    let answer = Answer::new(status)
        .header("location", upload_location(name, id))
        .header("docker-upload-uuid", id.to_string())
        .header("range", format!("0-{}", offset.saturating_sub(1)));
    // A 204 has no body, and so no length of one.
    if status == StatusCode::NO_CONTENT { answer } else { answer.header("content-length", "0") }
}

impl Call {
    /// Whether the client has this already.
    pub(super) fn is_known(&self, digest: &Digest) -> bool {
        let tag = format!("\"{digest}\"");
        self.header("if-none-match").is_some_and(|h| {
            h.split(',').map(|t| t.trim().trim_start_matches("W/")).any(|t| t == "*" || t == tag)
        })
    }

    pub(super) async fn get_blob(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Answer, RegistryError> {
        let access = self.access(name, Verb::Pull).await?;
        let (storage, repository, wanted) =
            (self.registry.storage.clone(), access.repository.clone(), digest.clone());
        let result = blocking(move || storage.blob(&repository, &wanted)).await;
        let blob = match result {
            Err(e) if e.code == Code::BlobUnknown && matches!(name.space, Space::Mirror(_)) => {
                return self.get_mirrored(&access, digest).await;
            }
            result => result?,
        };
        let etag = format!("\"{digest}\"");
        if self.is_known(digest) {
            return Ok(Answer::new(StatusCode::NOT_MODIFIED).header("etag", etag));
        }
        // A range of something else than the client thinks would be worthless.
        let same = self.header("if-range").is_none_or(|h| h == etag);
        let range = self.header("range").filter(|_| same);
        let BlobFile { file, size } = blob;
        let base = |status| {
            Answer::new(status)
                .header("content-type", "application/octet-stream")
                .header("docker-content-digest", digest.to_string())
                .header("etag", &etag)
                .header("cache-control", FOREVER)
                .header("accept-ranges", "bytes")
        };
        let (status, first, length) = match range::wanted(range, size) {
            Wanted::Whole => (StatusCode::OK, 0, size),
            Wanted::Part(first, last) => (StatusCode::PARTIAL_CONTENT, first, last - first + 1),
            Wanted::Nothing => {
                let message = format!("the blob has {size} bytes");
                return Ok(Answer::error(&RegistryError::new(Code::RangeInvalid, message))
                    .header("content-range", format!("bytes */{size}")));
            }
        };
        let mut found = base(status).header("content-length", length.to_string());
        if status == StatusCode::PARTIAL_CONTENT {
            found = found.header("content-range", format!("bytes {first}-{}/{size}", first + length - 1));
        }
        let body: Body = match self.head.method {
            Method::HEAD => answer::empty(),
            _ => answer::file(file, first, length)?,
        };
        Ok(found.body(body))
    }

    /// A blob that is not here yet: it is fetched, and served while it comes.
    async fn get_mirrored(&self, access: &Access, digest: &Digest) -> Result<Answer, RegistryError> {
        let mirrors = &self.registry.mirrors;
        let found = |size: u64| {
            Answer::new(StatusCode::OK)
                .header("content-type", "application/octet-stream")
                .header("docker-content-digest", digest.to_string())
                .header("etag", format!("\"{digest}\""))
                .header("content-length", size.to_string())
        };
        if self.head.method == Method::HEAD {
            return Ok(found(mirrors.blob_size(&access.repository, digest).await?));
        }
        let (size, body) = mirrors.blob(&access.repository, digest).await?;
        Ok(found(size).body(body))
    }

    pub(super) async fn delete_blob(
        &self,
        name: &RepositoryName,
        digest: Digest,
    ) -> Result<Answer, RegistryError> {
        let access = self.access(name, Verb::Delete).await?;
        let storage = self.registry.storage.clone();
        blocking(move || storage.delete_blob(&access.repository, &digest)).await?;
        Ok(Answer::new(StatusCode::ACCEPTED).header("content-length", "0"))
    }

    pub(super) async fn begin_upload(
        &self,
        name: &RepositoryName,
        body: Incoming,
    ) -> Result<Answer, RegistryError> {
        let access = self.access(name, Verb::Push).await?;
        if let Some(mounted) = self.mount(name, &access).await? {
            return Ok(mounted);
        }
        let digest: Option<Digest> = self.query.get("digest").map(str::parse).transpose()?;
        let algorithm = match (&digest, self.query.get("digest-algorithm")) {
            (Some(digest), _) => digest.algorithm(),
            (None, Some(name)) => name.parse()?,
            (None, None) => Algorithm::Sha256,
        };
        let storage = self.registry.storage.clone();
        let repository = access.repository.clone();
        let upload = blocking(move || storage.begin_upload(&repository, algorithm)).await?;
        let Some(digest) = digest else {
            return Ok(progress(StatusCode::ACCEPTED, name, upload.id, 0));
        };
        let position = self.registry.storage.position(&upload).await?;
        let (position, result) = self.receive(position, access.quota_bytes, body).await;
        if let Err(error) = result {
            // Nobody knows of this upload, so nobody can go on with it.
            self.registry.storage.cancel(position);
            return Err(error);
        }
        self.commit(name, position, digest).await
    }

    /// Takes the blob from another repository, if the request says so and the caller may.
    async fn mount(&self, name: &RepositoryName, access: &Access) -> Result<Option<Answer>, RegistryError> {
        let (Some(digest), Some(from)) = (self.query.get("mount"), self.query.get("from")) else {
            return Ok(None);
        };
        let digest: Digest = digest.parse()?;
        // Whatever is wrong with the source, the client may send the content.
        let Ok(from) = from.parse::<RepositoryName>() else { return Ok(None) };
        if matches!(from.space, Space::Mirror(_)) {
            return Ok(None);
        }
        let Ok(source) = self.access(&from, Verb::Pull).await else { return Ok(None) };
        let (storage, to, quota) =
            (self.registry.storage.clone(), access.repository.clone(), access.quota_bytes);
        let wanted = digest.clone();
        match blocking(move || storage.mount(&source.repository, &to, &wanted, quota)).await {
            Ok(()) => Ok(Some(created(name, &digest))),
            Err(e) if e.code == Code::BlobUnknown => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Appends a body to an upload. What came before an error stays.
    async fn receive(
        &self,
        mut position: UploadPosition,
        quota_bytes: u64,
        mut body: Incoming,
    ) -> (UploadPosition, Result<(), RegistryError>) {
        loop {
            let (mut pieces, mut gathered, mut end) = (Vec::new(), 0, None);
            while gathered < GATHER_BYTES && end.is_none() {
                match next_piece(&mut body).await {
                    Ok(Some(piece)) => {
                        gathered += piece.len();
                        pieces.push(piece);
                    }
                    Ok(None) => end = Some(Ok(())),
                    Err(error) => end = Some(Err(error)),
                }
            }
            if !pieces.is_empty() {
                let storage = self.registry.storage.clone();
                // The position goes along: if this request is dropped meanwhile, the next one waits until the write is done.
                let written = tokio::task::spawn_blocking(move || {
                    let result = storage.append(&mut position, &pieces, quota_bytes);
                    (position, result)
                });
                let result;
                (position, result) = match written.await {
                    Ok(done) => done,
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                };
                if let Err(error) = result {
                    return (position, Err(error));
                }
            }
            if let Some(result) = end {
                return (position, result);
            }
        }
    }

    async fn commit(
        &self,
        name: &RepositoryName,
        position: UploadPosition,
        digest: Digest,
    ) -> Result<Answer, RegistryError> {
        let (storage, wanted) = (self.registry.storage.clone(), digest.clone());
        blocking(move || storage.commit(position, &wanted)).await?;
        Ok(created(name, &digest))
    }

    async fn position(
        &self,
        name: &RepositoryName,
        id: &str,
    ) -> Result<(uuid::Uuid, UploadPosition, u64), RegistryError> {
        let access = self.access(name, Verb::Push).await?;
        let storage = &self.registry.storage;
        let upload = storage.upload(&access.repository, id)?;
        Ok((upload.id, storage.position(&upload).await?, access.quota_bytes))
    }

    /// Whether a chunk goes where the last one ended, and is as long as it says.
    fn check_chunk(&self, offset: u64) -> Result<(), RegistryError> {
        let Some(header) = self.header("content-range") else { return Ok(()) };
        let invalid = |why: String| RegistryError::new(Code::BlobUploadInvalid, why);
        let (first, last) = range::chunk(header)
            .ok_or_else(|| invalid(format!("{header:?} is not a range: write FIRST-LAST")))?;
        if first != offset {
            let message = format!("the chunk begins at {first}, and the upload goes on at {offset}");
            return Err(RegistryError::new(Code::RangeInvalid, message));
        }
        let length: Option<u64> = self.header("content-length").and_then(|l| l.parse().ok());
        match length {
            Some(length) if length != last - first + 1 => {
                Err(invalid(format!("the range {header} does not have {length} bytes")))
            }
            _ => Ok(()),
        }
    }

    pub(super) async fn upload_status(
        &self,
        name: &RepositoryName,
        id: &str,
    ) -> Result<Answer, RegistryError> {
        let (id, position, _) = self.position(name, id).await?;
        Ok(progress(StatusCode::NO_CONTENT, name, id, position.offset()))
    }

    pub(super) async fn upload_chunk(
        &self,
        name: &RepositoryName,
        id: &str,
        body: Incoming,
    ) -> Result<Answer, RegistryError> {
        let (id, position, quota) = self.position(name, id).await?;
        if let Err(error) = self.check_chunk(position.offset()) {
            return Ok(misplaced(&error, name, id, position.offset()));
        }
        let (position, result) = self.receive(position, quota, body).await;
        result?;
        Ok(progress(StatusCode::ACCEPTED, name, id, position.offset()))
    }

    pub(super) async fn end_upload(
        &self,
        name: &RepositoryName,
        id: &str,
        body: Incoming,
    ) -> Result<Answer, RegistryError> {
        let digest = self.query.get("digest").ok_or_else(|| {
            RegistryError::new(Code::DigestInvalid, "the query must say the digest of the whole blob")
        })?;
        let digest: Digest = digest.parse()?;
        let (id, position, quota) = self.position(name, id).await?;
        if let Err(error) = self.check_chunk(position.offset()) {
            return Ok(misplaced(&error, name, id, position.offset()));
        }
        let (position, result) = self.receive(position, quota, body).await;
        result?;
        self.commit(name, position, digest).await
    }

    pub(super) async fn cancel_upload(
        &self,
        name: &RepositoryName,
        id: &str,
    ) -> Result<Answer, RegistryError> {
        let (_, position, _) = self.position(name, id).await?;
        let storage = self.registry.storage.clone();
        blocking(move || {
            storage.cancel(position);
            Ok(())
        })
        .await?;
        Ok(Answer::new(StatusCode::NO_CONTENT))
    }
}

/// A chunk that does not fit: the client is told where to go on.
fn misplaced(error: &RegistryError, name: &RepositoryName, id: uuid::Uuid, offset: u64) -> Answer {
    Answer::error(error)
        .header("location", upload_location(name, id))
        .header("docker-upload-uuid", id.to_string())
        .header("range", format!("0-{}", offset.saturating_sub(1)))
}
