//! Plain writing: small ConfigMaps, created, updated, deleted.

use bytes::Bytes;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::json;
use skep_client::{DeleteParams, ObjectPath, Resource, Tenants};

use crate::{BenchError, Figures, Server, failed, load};

/// Bytes of data in each: a ConfigMap of usual size.
const DATA_BYTES: usize = 256;

pub(crate) fn config_maps(namespace: &str) -> ObjectPath {
    Resource::of::<ConfigMap>().at(Tenants::Own).namespace(namespace)
}

pub(crate) fn config_map(name: &str, said: &str) -> Bytes {
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
        "data": {"k": "v".repeat(DATA_BYTES), "said": said},
    });
    object.to_string().into()
}

/// Creates `count` ConfigMaps in a namespace, updates each, and deletes them, `concurrency` at a time.
///
/// # Errors
/// When a request fails.
pub async fn writes(
    server: &Server,
    namespace: &str,
    count: usize,
    concurrency: usize,
) -> Result<Figures, BenchError> {
    let client = server.client()?;
    let mut figures = Figures::default();
    for phase in ["create", "update", "delete"] {
        let (client, collection) = (client.clone(), config_maps(namespace));
        let one = move |index: usize| {
            let name = format!("skep-bench-{index}");
            let (client, at) = (client.clone(), collection.clone());
            async move {
                match phase {
                    "create" => client.create_bytes(&at, config_map(&name, phase)).await.map(drop),
                    "update" => {
                        client.update_bytes(&at.name(&name), config_map(&name, phase)).await.map(drop)
                    }
                    _ => client.remove(&at.name(&name), &DeleteParams::default()).await.map(drop),
                }
            }
        };
        let (latencies, took) =
            load(count, concurrency, one).await.map_err(failed(format!("{phase} of ConfigMaps")))?;
        figures.rate(phase, count, took);
        figures.latencies(phase, &latencies);
    }
    Ok(figures)
}
