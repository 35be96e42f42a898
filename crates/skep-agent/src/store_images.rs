//! Images from the machine's store, which all tenants of a host share: each sees what it could pull itself.

use std::sync::Arc;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::ContainerImage;
use skep_runtime::images::{Credentials, Image, ImageStore, PullRequest, Reference, Registries, Scope};

use crate::container::ImageDefaults;
use crate::images::{Credential, ImageError, ImageSource};

/// See the module.
#[derive(Clone, Debug)]
pub struct StoreImages {
    store: ImageStore,
    scope: Scope,
    registries: Arc<Registries>,
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
    /// A tenant's view of a store; its names are in `scope`.
    #[must_use]
    pub fn new(store: ImageStore, scope: Scope, registries: Registries) -> StoreImages {
        StoreImages { store, scope, registries: Arc::new(registries) }
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

impl ImageSource for StoreImages {
    fn find<'a>(
        &'a self,
        image: &'a str,
        _: &'a [Credential],
    ) -> BoxFuture<'a, Result<Option<ImageDefaults>, ImageError>> {
        let name = image.to_owned();
        Box::pin(async move {
            self.look(move |own| Ok(own.store.find(&own.scope, &name)?.as_ref().map(defaults))).await
        })
    }

    fn pull<'a>(
        &'a self,
        image: &'a str,
        credentials: &'a [Credential],
    ) -> BoxFuture<'a, Result<(ImageDefaults, u64), ImageError>> {
        Box::pin(async move {
            let request = PullRequest {
                scope: self.scope.clone(),
                reference: image.parse::<Reference>().map_err(failed)?,
                credentials: credentials
                    .iter()
                    .map(|c| Credentials { username: c.username.clone(), password: c.password.clone() })
                    .collect(),
                registries: self.registries.clone(),
                progress: None,
            };
            let pulled = self.store.pull(request).await.map_err(failed)?;
            Ok((defaults(&pulled), pulled.size_bytes))
        })
    }

    fn lease<'a>(&'a self, container: &'a str, image: &'a str) -> BoxFuture<'a, Result<(), ImageError>> {
        let (id, name) = (container.to_owned(), image.to_owned());
        Box::pin(async move {
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
