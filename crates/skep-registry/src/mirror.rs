//! Pull-through mirrors: what is asked for is fetched from its source once, kept, and served from here.
//!
//! Content under its digest is right by itself. A tag is asked for again when it was last looked at longer than [`TAG_FRESH`] ago; if its
//! source cannot be reached then, the old meaning serves. A blob is served while it comes, its last byte only when the whole was verified, and the
//! download goes on when the client has left.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::stream;
use http::StatusCode;
use http::header::CONTENT_LENGTH;
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;

use crate::client::{Client, ClientError, Options};
use crate::digest::Digest;
use crate::error::{Code, RegistryError};
use crate::http::{Body, blocking, streamed_body};
use crate::manifest::Manifest;
use crate::name::{Reference, Tag};
use crate::storage::{Condition, Owner, Repository, Storage, StoredManifest, Upload, UploadPosition};

/// How long a tag is believed to mean what it did. Public registries count requests.
pub const TAG_FRESH: Duration = Duration::from_secs(60);
/// Tags of which is remembered when they were looked at; then all are forgotten.
const TAGS_REMEMBERED_MAX: usize = 50_000;
/// How often a broken download is taken up again.
const TRIES: u32 = 4;
/// Pause before that.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// What is read from the growing file at once.
const READ_BYTES: usize = 256 * 1024;

/// A registry that is mirrored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// As images call it, such as `docker.io`.
    pub name: String,
    /// Where it is, such as `https://registry-1.docker.io`.
    pub address: String,
    /// Whose account is used; without one anonymously.
    pub credentials: Option<(String, String)>,
    /// Its authorities in PEM, besides the system's.
    pub authorities_pem: Vec<u8>,
}

impl Source {
    /// Reads `NAME=URL`.
    ///
    /// # Errors
    /// A sentence that says how to write it.
    pub fn parse(text: &str) -> Result<Source, String> {
        let (name, address) =
            text.split_once('=').ok_or("write NAME=URL, such as docker.io=https://registry-1.docker.io")?;
        if !name.contains('.') || !crate::name::is_path(name) || name.contains('/') {
            return Err(format!("{name:?} cannot name a mirror: a name with a dot, such as docker.io"));
        }
        Ok(Source {
            name: name.to_owned(),
            address: address.to_owned(),
            credentials: None,
            authorities_pem: Vec::new(),
        })
    }
}

#[derive(Clone, Debug, Default)]
struct Progress {
    written: u64,
    done: Option<Result<(), String>>,
}

/// A blob on its way.
#[derive(Debug)]
struct Download {
    size: u64,
    upload: Arc<Upload>,
    progress: watch::Receiver<Progress>,
}

type Downloads = Mutex<HashMap<(Repository, Digest), Arc<tokio::sync::Mutex<Option<Arc<Download>>>>>>;

/// All mirrors of a registry.
pub(crate) struct Mirrors {
    storage: Storage,
    clients: HashMap<Box<str>, Arc<Client>>,
    looked: Mutex<HashMap<(Repository, Tag), Instant>>,
    downloads: Arc<Downloads>,
}

fn upstream(error: &ClientError) -> RegistryError {
    match error.status() {
        // The anonymous, or the mirror's account, may not see it: for clients it is not there.
        Some(StatusCode::NOT_FOUND | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => RegistryError::new(
            Code::ManifestUnknown,
            format!("the mirrored registry has not got it: {error}"),
        ),
        Some(StatusCode::TOO_MANY_REQUESTS) => {
            RegistryError::new(Code::TooManyRequests, format!("the mirrored registry wants a pause: {error}"))
        }
        _ => RegistryError::new(Code::Upstream, format!("the mirrored registry failed: {error}")),
    }
}

impl Mirrors {
    pub(crate) fn new(storage: Storage, sources: &[Source]) -> Result<Mirrors, String> {
        let mut clients = HashMap::new();
        for source in sources {
            let options = Options {
                credentials: source.credentials.clone(),
                authorities_pem: source.authorities_pem.clone(),
                ..Options::default()
            };
            let client = Client::new(&source.address, options).map_err(|e| e.to_string())?;
            clients.insert(source.name.as_str().into(), Arc::new(client));
        }
        Ok(Mirrors { storage, clients, looked: Mutex::default(), downloads: Arc::default() })
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.clients.contains_key(name)
    }

    fn client(&self, repository: &Repository) -> Result<Arc<Client>, RegistryError> {
        let name = match &repository.owner {
            Owner::Mirror(name) | Owner::Tenant(name, _) => name,
        };
        let unknown = || RegistryError::new(Code::NameUnknown, format!("{name} is not mirrored here"));
        self.clients.get(name).cloned().ok_or_else(unknown)
    }

    async fn here(
        &self,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<Option<StoredManifest>, RegistryError> {
        let (storage, repository, reference) = (self.storage.clone(), repository.clone(), reference.clone());
        match blocking(move || storage.manifest(&repository, &reference)).await {
            Ok(found) => Ok(Some(found)),
            Err(e) if e.code == Code::ManifestUnknown => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// A manifest: from here if it is here and fresh.
    pub(crate) async fn manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<StoredManifest, RegistryError> {
        let here = self.here(repository, reference).await?;
        let tag = match (reference, here) {
            (Reference::Digest(_), Some(found)) => return Ok(found),
            (Reference::Digest(digest), None) => {
                return self.fetch(repository, &digest.to_string(), None).await;
            }
            (Reference::Tag(tag), here) => (tag, here),
        };
        let (tag, here) = tag;
        let key = (repository.clone(), tag.clone());
        let fresh = self.looked.lock().get(&key).is_some_and(|t| t.elapsed() < TAG_FRESH);
        let Some(here) = here else { return self.fetch(repository, tag.as_str(), Some(tag)).await };
        if fresh {
            return Ok(here);
        }
        let client = self.client(repository)?;
        match client.head_manifest(&repository.path, tag.as_str()).await {
            Ok(Some(digest)) if digest == here.digest => {
                self.note(key);
                Ok(here)
            }
            Ok(_) => self.fetch(repository, tag.as_str(), Some(tag)).await,
            Err(e) if e.status() == Some(StatusCode::NOT_FOUND) => Err(upstream(&e)),
            Err(error) => {
                tracing::warn!(%error, image = %repository.path, tag = %tag, "a mirror's source does not answer: the old image serves");
                Ok(here)
            }
        }
    }

    fn note(&self, key: (Repository, Tag)) {
        let mut looked = self.looked.lock();
        if looked.len() >= TAGS_REMEMBERED_MAX {
            looked.clear();
        }
        looked.insert(key, Instant::now());
    }

    async fn fetch(
        &self,
        repository: &Repository,
        reference: &str,
        tag: Option<&Tag>,
    ) -> Result<StoredManifest, RegistryError> {
        let client = self.client(repository)?;
        let fetched = client.manifest(&repository.path, reference).await.map_err(|e| upstream(&e))?;
        let manifest = Manifest::parse(&fetched.bytes, &fetched.media_type)?;
        let stored = StoredManifest { digest: fetched.digest, manifest, bytes: fetched.bytes };
        let (storage, of, keep) = (self.storage.clone(), repository.clone(), stored.clone());
        let tags: Vec<Tag> = tag.into_iter().cloned().collect();
        blocking(move || storage.put_manifest(&of, &keep, &tags, &Condition::Always, true, u64::MAX)).await?;
        if let Some(tag) = tag {
            self.note((repository.clone(), tag.clone()));
        }
        Ok(stored)
    }

    pub(crate) async fn tags(&self, repository: &Repository) -> Result<Vec<String>, RegistryError> {
        match self.client(repository)?.tags(&repository.path).await {
            Ok(mut tags) => {
                tags.sort_unstable();
                Ok(tags)
            }
            Err(e) if e.status().is_some() => Err(upstream(&e)),
            // What is known here is better than nothing.
            Err(_) => {
                let (storage, of) = (self.storage.clone(), repository.clone());
                blocking(move || storage.tags(&of)).await
            }
        }
    }

    pub(crate) async fn referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
    ) -> Result<Vec<serde_json::Value>, RegistryError> {
        let client = self.client(repository)?;
        client.referrers(&repository.path, subject).await.map_err(|e| upstream(&e))
    }

    /// How long a blob is that is not here.
    pub(crate) async fn blob_size(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<u64, RegistryError> {
        let found = self.client(repository)?.blob_size(&repository.path, digest).await;
        let unknown = || RegistryError::new(Code::BlobUnknown, "the mirrored registry has not got the blob");
        found.map_err(|e| upstream(&e))?.ok_or_else(unknown)
    }

    /// A blob that is not here: its length, and its content as it comes.
    pub(crate) async fn blob(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<(u64, Body), RegistryError> {
        let key = (repository.clone(), digest.clone());
        let slot = self.downloads.lock().entry(key.clone()).or_default().clone();
        let download = {
            // Of several who want it at once, one begins.
            let mut slot = slot.lock().await;
            match slot.as_ref() {
                Some(running) if running.progress.borrow().done.is_none() => running.clone(),
                _ => {
                    let begun = self.begin(key.clone()).await.inspect_err(|_| {
                        self.downloads.lock().remove(&key);
                    })?;
                    *slot = Some(begun.clone());
                    begun
                }
            }
        };
        // Each reader has a position of its own.
        let file = match download.upload.reader() {
            Ok(file) => file,
            // It is on its way from the upload into the repository, and for a moment in neither; or it is there, or has failed.
            Err(_) => {
                let failed = match download.progress.clone().wait_for(|p| p.done.is_some()).await {
                    Ok(ended) => ended.done.clone().and_then(Result::err),
                    Err(_) => None,
                };
                if let Some(why) = failed {
                    return Err(RegistryError::new(Code::Upstream, why));
                }
                let (storage, of, digest) = (self.storage.clone(), repository.clone(), digest.clone());
                blocking(move || storage.blob(&of, &digest)).await?.file
            }
        };
        Ok((download.size, growing(file, download.progress.clone())))
    }

    async fn begin(&self, key: (Repository, Digest)) -> Result<Arc<Download>, RegistryError> {
        let (repository, digest) = key.clone();
        let client = self.client(&repository)?;
        let response = client.blob(&repository.path, &digest, 0).await.map_err(|e| upstream(&e))?;
        let size = response.headers().get(CONTENT_LENGTH).and_then(|l| l.to_str().ok()?.parse().ok());
        let size: u64 = size.ok_or_else(|| {
            RegistryError::new(Code::Upstream, "the mirrored registry does not say how long the blob is")
        })?;
        let (storage, of) = (self.storage.clone(), repository.clone());
        let algorithm = digest.algorithm();
        let upload = blocking(move || storage.begin_upload(&of, algorithm)).await?;
        let position = self.storage.position(&upload).await?;
        let (sender, progress) = watch::channel(Progress::default());
        let (storage, downloads) = (self.storage.clone(), self.downloads.clone());
        tokio::spawn(async move {
            let job = Job { storage, client, repository, digest, sender };
            let result = job.run(position, response.into_body()).await;
            if let Err(error) = &result {
                tracing::warn!(%error, "a mirror's download failed");
            }
            // First forgotten, then told: who asks now finds it in the store.
            downloads.lock().remove(&key);
            job.sender.send_modify(|p| p.done = Some(result.map_err(|e| e.to_string())));
        });
        Ok(Arc::new(Download { size, upload, progress }))
    }
}

struct Job {
    storage: Storage,
    client: Arc<Client>,
    repository: Repository,
    digest: Digest,
    sender: watch::Sender<Progress>,
}

impl Job {
    async fn run(
        &self,
        mut position: UploadPosition,
        body: hyper::body::Incoming,
    ) -> Result<(), RegistryError> {
        let mut body = Some(body);
        let mut tries = 0;
        loop {
            let attempt = async {
                let mut body = match body.take() {
                    Some(body) => body,
                    None => {
                        let at = position.offset();
                        self.client.blob(&self.repository.path, &self.digest, at).await?.into_body()
                    }
                };
                Ok::<_, ClientError>(self.client.next_piece(&mut body).await?.map(|piece| (piece, body)))
            };
            match attempt.await {
                Ok(None) => break,
                Ok(Some((piece, rest))) => {
                    body = Some(rest);
                    let storage = self.storage.clone();
                    let result;
                    (position, result) = append(storage, position, piece).await?;
                    if let Err(error) = result {
                        self.storage.cancel(position);
                        return Err(error);
                    }
                    let written = position.offset();
                    self.sender.send_modify(|p| p.written = written);
                }
                Err(error) => {
                    tries += 1;
                    if tries >= TRIES {
                        self.storage.cancel(position);
                        return Err(upstream(&error));
                    }
                    tokio::time::sleep(RETRY_PAUSE * tries).await;
                }
            }
        }
        let (storage, digest) = (self.storage.clone(), self.digest.clone());
        blocking(move || storage.commit(position, &digest)).await.map(|_| ())
    }
}

async fn append(
    storage: Storage,
    mut position: UploadPosition,
    piece: Bytes,
) -> Result<(UploadPosition, Result<(), RegistryError>), RegistryError> {
    blocking(move || {
        let result = storage.append(&mut position, &[piece], u64::MAX);
        Ok((position, result))
    })
    .await
}

/// The content of a file that still grows. Its last byte comes when the whole has been verified.
fn growing(file: File, progress: watch::Receiver<Progress>) -> Body {
    let file = tokio::fs::File::from_std(file);
    streamed_body(stream::try_unfold((file, progress, 0), |(mut file, mut progress, at)| async move {
        let broken = |why: &str| io::Error::new(io::ErrorKind::UnexpectedEof, why.to_owned());
        let limit = {
            let ready = |p: &Progress| p.done.is_some() || p.written > at + 1;
            let now = progress.wait_for(ready).await.map_err(|_| broken("the download ended"))?;
            match &now.done {
                None => now.written - 1,
                Some(Ok(())) => now.written,
                Some(Err(why)) => return Err(broken(why)),
            }
        };
        if at >= limit {
            return Ok(None);
        }
        let want = usize::try_from(limit - at).unwrap_or(READ_BYTES).min(READ_BYTES);
        let mut buffer = BytesMut::with_capacity(want);
        let read = (&mut file).take(want as u64).read_buf(&mut buffer).await?;
        if read == 0 {
            return Err(broken("the file is too short"));
        }
        Ok(Some((buffer.freeze(), (file, progress, at + read as u64))))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_named_like_hosts() {
        let source = Source::parse("docker.io=https://registry-1.docker.io").unwrap();
        assert_eq!(
            (source.name.as_str(), source.address.as_str()),
            ("docker.io", "https://registry-1.docker.io")
        );
        for bad in ["docker.io", "shop=https://x", "a.b/c=https://x", "A.b=https://x"] {
            assert!(Source::parse(bad).is_err(), "{bad}");
        }
    }
}
