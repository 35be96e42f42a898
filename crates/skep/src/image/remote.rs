//! `skep image list --registry`.

use anyhow::Context;
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use skep_registry::client::{Client, ClientError};

use super::login::{Login, own_address};
use crate::operator::Operator;
use crate::output::{Output, Table, bytes, show};

/// Tags that are looked up at once.
const PARALLEL: usize = 8;

/// A tag.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    name: String,
    digest: String,
    /// Of config and layers; absent for an index, whose images are for different machines.
    size_bytes: Option<u64>,
}

async fn row(client: &Client, repository: String, tag: String) -> Result<Option<Row>, ClientError> {
    let found = match client.manifest(&repository, &tag).await {
        Ok(found) => found,
        // It went meanwhile.
        Err(e) if e.status().is_some_and(|s| s.as_u16() == 404) => return Ok(None),
        Err(e) => return Err(e),
    };
    let manifest: Value = serde_json::from_slice(&found.bytes).unwrap_or_else(|_| json!({}));
    let layers =
        manifest["layers"].as_array().map(|l| l.iter().filter_map(|l| l["size"].as_u64()).sum::<u64>());
    let size_bytes = layers.map(|l| l + manifest["config"]["size"].as_u64().unwrap_or(0));
    Ok(Some(Row {
        name: format!("{}/{repository}:{tag}", client.host()),
        digest: found.digest.to_string(),
        size_bytes,
    }))
}

/// Lists a registry's images that the caller may see.
///
/// # Errors
/// When the registry cannot be asked.
pub(super) fn list(
    operator: &Operator,
    login: &Login,
    host: &str,
    filter: Option<&str>,
    output: Output,
) -> anyhow::Result<()> {
    let host = if host.is_empty() { own_address(operator.data()) } else { host.to_owned() };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    let rows: Vec<Row> = runtime.block_on(async {
        let client = login.client(operator, &host).await?;
        let mut tags = Vec::new();
        for repository in client.catalog().await? {
            for tag in client.tags(&repository).await? {
                if filter.is_none_or(|f| format!("{repository}:{tag}").contains(f)) {
                    tags.push((repository.clone(), tag));
                }
            }
        }
        let rows =
            stream::iter(tags).map(|(repository, tag)| row(&client, repository, tag)).buffered(PARALLEL);
        let rows: Vec<Option<Row>> = rows.try_collect().await?;
        anyhow::Ok(rows.into_iter().flatten().collect())
    })?;
    show(output.output, &rows, || {
        let mut table = Table::new(&["NAME", "DIGEST", "SIZE"]);
        for row in &rows {
            let digest = row.digest.chars().take("sha256:".len() + 12).collect();
            table.row([row.name.clone(), digest, row.size_bytes.map_or("(index)".to_owned(), bytes)]);
        }
        table
    })
}
