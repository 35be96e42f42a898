//! An image from files into a registry.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use serde_json::Value;

use crate::client::{Client, ClientError, Content, Hears};
use crate::digest::Digest;
use crate::layout::{Layout, LayoutError, Top};

/// Blobs that are sent at once: more only divide the same line.
const PARALLEL: usize = 3;
/// Deepest nesting of indexes: an index of an image index is the most that tools write.
const NESTING_MAX: usize = 4;

/// Why a push did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The files.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The registry.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A manifest that says nothing that can be followed.
    #[error("the manifest {0} is damaged")]
    Manifest(Digest),
}

/// How a push goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// So many bytes are to be sent altogether, if the registry has none of them.
    Total(u64),
    /// So many more bytes are sent, or need not be.
    More(u64),
}

/// What a manifest names: blobs with their sizes, and further manifests with their types.
struct Parts {
    blobs: Vec<(Digest, u64)>,
    manifests: Vec<(Digest, String)>,
}

fn parts(digest: &Digest, bytes: &[u8]) -> Result<Parts, PushError> {
    let damaged = || PushError::Manifest(digest.clone());
    let manifest: Value = serde_json::from_slice(bytes).map_err(|_| damaged())?;
    let mut parts = Parts { blobs: Vec::new(), manifests: Vec::new() };
    let digest_of =
        |part: &Value| part["digest"].as_str().and_then(|d| d.parse::<Digest>().ok()).ok_or_else(damaged);
    let layers = manifest["layers"].as_array().into_iter().flatten();
    for part in layers.chain(Some(&manifest["config"]).filter(|c| !c.is_null())) {
        parts.blobs.push((digest_of(part)?, part["size"].as_u64().ok_or_else(damaged)?));
    }
    for part in manifest["manifests"].as_array().into_iter().flatten() {
        let media_type = part["mediaType"].as_str().ok_or_else(damaged)?;
        parts.manifests.push((digest_of(part)?, media_type.to_owned()));
    }
    Ok(parts)
}

/// Everything below a manifest: what comes later may name what comes earlier.
fn gather(
    layout: &Layout,
    digest: &Digest,
    media_type: &str,
    depth: usize,
    blobs: &mut Vec<(Digest, u64)>,
    manifests: &mut Vec<(Digest, String, Vec<u8>)>,
) -> Result<(), PushError> {
    if depth > NESTING_MAX {
        return Err(PushError::Manifest(digest.clone()));
    }
    let bytes = layout.manifest(digest)?;
    let parts = parts(digest, &bytes)?;
    blobs.extend(parts.blobs);
    for (child, media_type) in parts.manifests {
        // An index may name images for machines that are not in the file.
        if layout.blob(&child).is_ok() {
            gather(layout, &child, &media_type, depth + 1, blobs, manifests)?;
        }
    }
    manifests.push((digest.clone(), media_type.to_owned(), bytes));
    Ok(())
}

/// Sends an image with everything it needs, its manifest last and under a tag. What the registry has already is not sent.
///
/// # Errors
/// [`PushError`]. What was sent until then is taken up by another try.
pub async fn push(
    client: &Client,
    repository: &str,
    tag: &str,
    layout: &Layout,
    top: &Top,
    hear: Arc<dyn Fn(Progress) + Send + Sync>,
) -> Result<(), PushError> {
    let (mut blobs, mut manifests) = (Vec::new(), Vec::new());
    gather(layout, &top.digest, &top.media_type, 0, &mut blobs, &mut manifests)?;
    let mut seen = BTreeSet::new();
    blobs.retain(|(digest, _)| seen.insert(digest.clone()));
    hear(Progress::Total(blobs.iter().map(|(_, size)| size).sum()));
    let all = blobs.iter().map(|(digest, size)| {
        let hear = hear.clone();
        async move {
            let file = layout.blob(digest)?.to_owned();
            let told = hear.clone();
            let hears = Hears(Arc::new(move |bytes| told(Progress::More(bytes))));
            if !client.push_content(repository, digest, Content::Watched(file, hears)).await? {
                hear(Progress::More(*size));
            }
            Ok::<(), PushError>(())
        }
    });
    stream::iter(all).buffer_unordered(PARALLEL).try_collect::<()>().await?;
    let last = manifests.len().saturating_sub(1);
    for (number, (digest, media_type, bytes)) in manifests.into_iter().enumerate() {
        let reference = if number == last { tag.to_owned() } else { digest.to_string() };
        client.push_manifest(repository, &reference, &media_type, bytes).await?;
    }
    Ok(())
}
