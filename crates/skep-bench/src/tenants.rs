//! Making tenants, and taking them away.

use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;
use skep_base::TenantName;
use skep_client::{Client, DeleteParams, ListParams, Resource, Tenants};

use crate::{BenchError, Figures, Server, failed, load};

pub(crate) const TENANTS: Resource = Resource::new("tenancy.skep.io", "v1", "tenants");

/// How long it may take until tenants that are deleted are gone.
const GONE_WITHIN: Duration = Duration::from_secs(600);

/// Tenants created or deleted at a time besides what is measured.
const AT_ONCE: usize = 32;

pub(crate) async fn create(
    client: &Client,
    names: &[TenantName],
    concurrency: usize,
) -> Result<(crate::Latencies, Duration), BenchError> {
    let (client, names): (Client, Vec<TenantName>) = (client.clone(), names.to_vec());
    let count = names.len();
    let one = move |index: usize| {
        let (client, name) = (client.clone(), names[index].clone());
        async move {
            let tenant = json!({"apiVersion": "tenancy.skep.io/v1", "kind": "Tenant", "metadata": {"name": name.as_str()}});
            client.create_bytes(&TENANTS.at(Tenants::Own), tenant.to_string().into()).await.map(drop)
        }
    };
    load(count, concurrency, one).await.map_err(failed("making tenants"))
}

/// Deletes tenants and waits until nothing is left of them.
pub(crate) async fn delete(client: &Client, names: &[TenantName]) -> Result<(), BenchError> {
    #[derive(Deserialize)]
    struct Named {
        metadata: Meta,
    }
    #[derive(Deserialize)]
    struct Meta {
        name: String,
    }
    let (cloned, all): (Client, Vec<TenantName>) = (client.clone(), names.to_vec());
    let one = move |index: usize| {
        let (client, at) = (cloned.clone(), TENANTS.at(Tenants::Own).name(all[index].as_str()));
        async move { client.remove(&at, &DeleteParams::default()).await.map(drop) }
    };
    load(names.len(), AT_ONCE, one).await.map_err(failed("deleting tenants"))?;
    let ours: rustc_hash::FxHashSet<&str> = names.iter().map(TenantName::as_str).collect();
    let until = Instant::now() + GONE_WITHIN;
    loop {
        let left: skep_client::List<Named> = client
            .list_all(&TENANTS.at(Tenants::Own), ListParams::default())
            .await
            .map_err(failed("listing tenants"))?;
        if !left.items.iter().any(|t| ours.contains(t.metadata.name.as_str())) {
            return Ok(());
        }
        if Instant::now() > until {
            let what = "tenants that were deleted are still there".to_owned();
            return Err(BenchError::Late { what, after_s: GONE_WITHIN.as_secs() });
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Makes `count` tenants, `concurrency` at a time, and deletes them again unless they are to stay.
///
/// # Errors
/// When a request fails, or the tenants do not go.
pub async fn tenants(
    server: &Server,
    prefix: &str,
    count: usize,
    concurrency: usize,
    keep: bool,
) -> Result<Figures, BenchError> {
    let client = &server.client()?;
    let names = names(prefix, count)?;
    let (latencies, took) = create(client, &names, concurrency).await?;
    let mut figures = Figures::default();
    figures.rate("create", count, took);
    figures.latencies("create", &latencies);
    if !keep {
        let begun = Instant::now();
        delete(client, &names).await?;
        figures.rate("delete", count, begun.elapsed());
    }
    Ok(figures)
}

pub(crate) fn names(prefix: &str, count: usize) -> Result<Vec<TenantName>, BenchError> {
    let name = |i: usize| TenantName::new(&format!("{prefix}-{i}"));
    (0..count)
        .map(name)
        .collect::<Result<_, _>>()
        .map_err(|e| BenchError::Broken(format!("{prefix:?} cannot begin tenants' names: {e}")))
}
