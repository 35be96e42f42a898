//! Keeping nodes alive: leases, renewed in small groups evenly over the interval.

use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use serde::de::IgnoredAny;
use serde_json::json;
use skep_base::TenantName;
use skep_client::{Client, Error, Patch, Resource};

use crate::{IN_FLIGHT, Options, Whose};

/// How often a group of leases is renewed.
const TICK: Duration = Duration::from_millis(100);

/// After how many intervals without renewal a node counts as gone, as for kubelets: 40 s for 10 s.
const INTERVALS: u64 = 4;

/// Renews leases for ever.
pub(crate) async fn run(client: &Client, options: &Options, whose: &Whose) {
    let Some(interval) = options.lease_interval else { return std::future::pending().await };
    let all = options.nodes * whose.all.len();
    let mut ticks = tokio::time::interval(TICK);
    // Behind is behind: catching up would only make it worse.
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let group = all as f64 * TICK.as_secs_f64() / interval.as_secs_f64();
    let (mut due, mut next) = (all as f64, 0_usize);
    loop {
        ticks.tick().await;
        let count = (due as usize).min(all);
        let nodes = (0..count).map(|i| (next + i) % all);
        let renew = |at: usize| async move {
            let tenant = &whose.all[at / options.nodes];
            if let Err(error) = renew(client, options, whose, tenant, at % options.nodes, interval).await {
                tracing::warn!(%tenant, node = options.name(at % options.nodes), %error, "a lease was not renewed");
            }
        };
        futures::stream::iter(nodes.map(renew)).buffer_unordered(IN_FLIGHT).collect::<Vec<()>>().await;
        if all > 0 {
            next = (next + count) % all;
        }
        due += group - count as f64;
    }
}

async fn renew(
    client: &Client,
    options: &Options,
    whose: &Whose,
    tenant: &TenantName,
    index: usize,
    interval: Duration,
) -> Result<(), Error> {
    let name = options.name(index);
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
    let all = Resource::of::<Lease>().at(whose.of(tenant)).namespace("kube-node-lease");
    let patch = Patch::Merge(json!({"spec": {"renewTime": now}}));
    match client.patch::<IgnoredAny>(&all.clone().name(&name), &patch).await {
        Err(e) if e.is_not_found() => {
            let seconds = interval.as_secs().max(1) * INTERVALS;
            let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
                "spec": {"holderIdentity": name, "leaseDurationSeconds": seconds, "renewTime": now}});
            client.create::<IgnoredAny>(&all, &lease).await.map(drop)
        }
        other => other.map(drop),
    }
}
