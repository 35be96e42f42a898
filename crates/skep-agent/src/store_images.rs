//! Images from a store: the agent's own, which it fills from registries, or its machine's view of the host's store, which the host
//! fills when it is asked. Either way a tenant has what was loaded for it and what it could pull itself.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::ContainerImage;
use skep_runtime::ErrorKind;
use skep_runtime::images::exchange::{Answer, MAX_ANSWER_BYTES, Request, User};
use skep_runtime::images::{
    Credentials, Image, ImageStore, PullRequest, Reference, Registries, Scope, Tally,
};
use tokio::sync::RwLock;

use crate::container::ImageDefaults;
use crate::images::{Credential, Hear, ImageError, ImageSource, lease_id};

/// How long the host may take for what needs no registry. Without an answer, what is here already is used.
const HOST_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a pull may take; the host gives up before.
const PULL_TIMEOUT: Duration = Duration::from_secs(3700);

/// Where images come from that are not here.
#[derive(Clone, Debug)]
pub enum Source {
    /// Pulled by the agent.
    Registries(Arc<Registries>),
    /// Asked of the host through this socket.
    Host(PathBuf),
}

/// See the module.
#[derive(Clone, Debug)]
pub struct StoreImages {
    store: ImageStore,
    scope: Scope,
    source: Source,
    /// Held by whoever removes, so that nobody takes a lease on what is being removed.
    removal: Arc<RwLock<()>>,
}

fn failed(e: skep_runtime::Error) -> ImageError {
    ImageError(e.full())
}

fn defaults(image: &Image) -> ImageDefaults {
    let c = &image.config;
    ImageDefaults {
        id: format!("{}/{}@{}", image.name.registry, image.name.repository, image.digest),
        layers: image.layers.clone(),
        entrypoint: c.entrypoint.clone(),
        command: c.cmd.clone(),
        env: c.env.iter().map(|(name, value)| format!("{name}={value}")).collect(),
        working_dir: c.working_dir.clone(),
        user: c.user.clone(),
        stop_signal: (!c.stop_signal.is_empty()).then(|| c.stop_signal.clone()),
    }
}

impl StoreImages {
    /// A tenant's images in a store; its names are in `scope`.
    #[must_use]
    pub fn new(store: ImageStore, scope: Scope, source: Source) -> StoreImages {
        StoreImages { store, scope, source, removal: Arc::default() }
    }

    /// Asks the host, whose answer is a failure too when it does not answer.
    async fn ask(&self, socket: PathBuf, request: Request, timeout: Duration, hear: Hear) -> Answer {
        let asked = tokio::task::spawn_blocking(move || ask(&socket, &request, timeout, &hear)).await;
        let message = match asked {
            Ok(Ok(answer)) => return answer,
            Ok(Err(error)) => format!("the host cannot be asked for images: {error}"),
            Err(error) => error.to_string(),
        };
        Answer::Failed { kind: ErrorKind::Failed, message }
    }

    /// Makes room: takes away images that no container uses, until `bytes` are freed or nothing is left that could go.
    /// Images of `keep` stay in any case.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn free(&self, bytes: u64, keep: &BTreeSet<String>) -> Result<u64, ImageError> {
        let _removal = self.removal.write().await;
        let mut freed = 0;
        let kept = keep.clone();
        let candidates = self
            .look(move |own| {
                let used = own.store.leased()?;
                let mut all = own.store.list(Some(&own.scope))?;
                if matches!(own.source, Source::Host(_)) {
                    all.extend(own.store.list(Some(&Scope::shared()))?);
                }
                all.retain(|image| {
                    let leased = image.layers.iter().filter_map(|l| l.parent()).any(|l| used.contains(l));
                    !leased && !kept.contains(&image.name.to_string())
                });
                // The longest unused first.
                all.sort_by_key(|image| image.used_at_ns);
                Ok((all, used))
            })
            .await?;
        let (images, used) = candidates;
        let used_layers: Vec<String> =
            used.iter().filter_map(|l| Some(l.file_name()?.to_string_lossy().into_owned())).collect();
        for image in images {
            if freed >= bytes {
                break;
            }
            tracing::info!(image = %image.name, "removing an unused image to make room");
            freed += match &self.source {
                Source::Host(socket) => {
                    let (images, used_layers) = (vec![image.name.to_string()], used_layers.clone());
                    let request = Request::Remove { images, used_layers };
                    match self.ask(socket.clone(), request, HOST_TIMEOUT, nobody()).await {
                        Answer::Removed { bytes } => bytes,
                        Answer::Failed { message, .. } => return Err(ImageError(message)),
                        _ => 0,
                    }
                }
                Source::Registries(_) => {
                    self.look(move |own| {
                        own.store.remove(&image.scope, &image.name)?;
                        own.store.collect().map(|c| c.bytes)
                    })
                    .await?
                }
            };
        }
        Ok(freed)
    }

    /// How full the disk is that images lie on: capacity and what is free, in bytes.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub async fn disk(&self) -> Result<(u64, u64), ImageError> {
        let usage = self.look(|own| own.store.usage()).await?;
        Ok((usage.disk_capacity_bytes, usage.disk_available_bytes))
    }

    async fn look<T: Send + 'static>(
        &self,
        f: impl FnOnce(&StoreImages) -> Result<T, skep_runtime::Error> + Send + 'static,
    ) -> Result<T, ImageError> {
        let own = self.clone();
        tokio::task::spawn_blocking(move || f(&own))
            .await
            .map_err(|e| ImageError(e.to_string()))?
            .map_err(failed)
    }
}

fn nobody() -> Hear {
    Arc::new(|_| {})
}

/// Asks, and waits for the answer for as long as something is heard.
fn ask(
    socket: &std::path::Path,
    request: &Request,
    timeout: Duration,
    hear: &Hear,
) -> std::io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(HOST_TIMEOUT))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut lines = BufReader::new(stream.take(MAX_ANSWER_BYTES));
    loop {
        let mut line = String::new();
        lines.read_line(&mut line)?;
        match serde_json::from_str(&line)? {
            Answer::Underway(state) => hear(state),
            answer => return Ok(answer),
        }
    }
}

impl ImageSource for StoreImages {
    fn find<'a>(
        &'a self,
        image: &'a str,
        _: &'a [Credential],
    ) -> BoxFuture<'a, Result<Option<ImageDefaults>, ImageError>> {
        let name = image.to_owned();
        Box::pin(async move {
            if let Source::Host(socket) = &self.source {
                // It may have been loaded, or loaded anew, since it was last used.
                let request = Request::Find { image: name.clone() };
                if let Answer::Failed { message, .. } =
                    self.ask(socket.clone(), request, HOST_TIMEOUT, nobody()).await
                {
                    tracing::warn!(image = name, error = message, "the host does not look for an image");
                }
            }
            self.look(move |own| Ok(own.store.find(&own.scope, &name)?.as_ref().map(defaults))).await
        })
    }

    fn pull<'a>(
        &'a self,
        image: &'a str,
        credentials: &'a [Credential],
        hear: Hear,
    ) -> BoxFuture<'a, Result<(ImageDefaults, u64), ImageError>> {
        Box::pin(async move {
            let registries = match &self.source {
                Source::Registries(registries) => registries.clone(),
                Source::Host(socket) => {
                    let user =
                        |c: &Credential| User { username: c.username.clone(), password: c.password.clone() };
                    let request = Request::Pull {
                        image: image.to_owned(),
                        credentials: credentials.iter().map(user).collect(),
                    };
                    return match self.ask(socket.clone(), request, PULL_TIMEOUT, hear).await {
                        Answer::Here => {
                            let name = image.to_owned();
                            let found = self.look(move |own| own.store.find(&own.scope, &name)).await?;
                            let found = found.ok_or_else(|| {
                                ImageError(format!("image {image:?} was removed meanwhile"))
                            })?;
                            Ok((defaults(&found), found.size_bytes))
                        }
                        Answer::Failed { message, .. } => Err(ImageError(message)),
                        _ => Err(ImageError(format!("the host has no answer about image {image:?}"))),
                    };
                }
            };
            let tally = Tally::default();
            let request = PullRequest {
                scope: self.scope.clone(),
                reference: image.parse::<Reference>().map_err(failed)?,
                credentials: credentials
                    .iter()
                    .map(|c| Credentials { username: c.username.clone(), password: c.password.clone() })
                    .collect(),
                registries,
                progress: Some(Arc::new(move |progress| hear(tally.hear(progress)))),
            };
            let pulled = self.store.pull(request).await.map_err(failed)?;
            Ok((defaults(&pulled), pulled.size_bytes))
        })
    }

    fn lease<'a>(&'a self, container: &'a str, image: &'a str) -> BoxFuture<'a, Result<(), ImageError>> {
        let (id, name) = (container.to_owned(), image.to_owned());
        Box::pin(async move {
            let _removal = self.removal.read().await;
            self.look(move |own| match own.store.find(&own.scope, &name)? {
                Some(image) => own.store.lease(&id, &image),
                None => Err(skep_runtime::Error::new(
                    skep_runtime::ErrorKind::NotFound,
                    format!("image {name:?} was removed meanwhile"),
                )),
            })
            .await
        })
    }

    fn release<'a>(&'a self, container: &'a str) -> BoxFuture<'a, ()> {
        let id = container.to_owned();
        Box::pin(async move {
            if let Err(error) = self.look(move |own| own.store.release(&id)).await {
                tracing::warn!(container, %error, "an image stays although its container is gone");
            }
        })
    }

    fn release_pod<'a>(&'a self, pod: &'a str) -> BoxFuture<'a, ()> {
        let prefix = lease_id(pod, "");
        Box::pin(async move {
            if let Err(error) = self.look(move |own| own.store.release_all(&prefix)).await {
                tracing::warn!(pod, %error, "images stay although their pod is gone");
            }
        })
    }

    fn list(&self) -> BoxFuture<'_, Vec<ContainerImage>> {
        Box::pin(async move {
            let listed = self.look(|own| {
                let mut all = own.store.list(Some(&own.scope))?;
                if own.scope != Scope::shared() {
                    all.extend(own.store.list(Some(&Scope::shared()))?);
                }
                Ok(all)
            });
            let listed = listed.await.unwrap_or_default();
            listed
                .iter()
                .map(|image| ContainerImage {
                    names: Some(vec![defaults(image).id, image.name.to_string()]),
                    size_bytes: i64::try_from(image.size_bytes).ok(),
                })
                .collect()
        })
    }
}
