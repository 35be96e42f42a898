//! Watching everything come up.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, bail};
use skep_api::compute::Host;
use skep_client::{Client, List, ListParams, Resource, Tenants};

use super::{POLL, START_TIMEOUT, print_step};

/// Waits until everything is up, so many hosts included, saying so step by step. `ended` says why it never will be.
///
/// # Errors
/// When something does not come up, with where to look.
pub(super) async fn until_up(
    data: &Path,
    hosts: usize,
    mut ended: impl FnMut() -> Option<String>,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut check = || match ended() {
        Some(why) => bail!("the server did not start: {why}"),
        None if begun.elapsed() > START_TIMEOUT => {
            bail!("not everything is up after {} s; `skep status` shows what is", START_TIMEOUT.as_secs())
        }
        None => Ok(()),
    };
    let path = data.join("admin.kubeconfig");
    let client = loop {
        check()?;
        // An older start has left a kubeconfig: it counts only when somebody answers.
        if let Ok(client) = Client::from_kubeconfig(&path)
            && client.get::<serde_json::Value>("/version").await.is_ok()
        {
            break client;
        }
        tokio::time::sleep(POLL).await;
    };
    print_step("control plane", client.server(), begun);
    let at = Resource::of::<Host>().at(Tenants::Own);
    let mut seen: BTreeSet<String> = BTreeSet::new();
    while seen.len() < hosts {
        check()?;
        let all: Result<List<Host>, _> = client.list(&at, &ListParams::default()).await;
        let all = all.context("asking for hosts")?;
        for ready in all.items.iter().filter(|h| is_fresh(h)) {
            let name = ready.metadata.name.clone().unwrap_or_default();
            if !seen.insert(name.clone()) {
                continue;
            }
            let none = std::collections::BTreeMap::new();
            let has = ready.status.as_ref().and_then(|s| s.allocatable.as_ref()).unwrap_or(&none);
            let amount = |name: &str| has.get(name).map(|q| q.0.clone()).unwrap_or_default();
            let what = format!("{name}: {} CPU, {} memory for machines", amount("cpu"), amount("memory"));
            print_step("host", &what, begun);
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Ready, and not only left over from before.
fn is_fresh(host: &Host) -> bool {
    let spoke = host.status.as_ref().and_then(|s| s.heartbeat_time.as_ref());
    host.is_ready() && spoke.is_some_and(|t| jiff::Timestamp::now().duration_since(t.0) < FRESH)
}

const FRESH: jiff::SignedDuration = jiff::SignedDuration::from_secs(20);
