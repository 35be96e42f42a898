//! Keeping nodes alive: leases, renewed in small groups evenly over the interval.

use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use serde::de::IgnoredAny;
use serde_json::json;
use skep_base::TenantName;
use skep_client::{Client, Error, Patch, Resource};

use crate::fleet::Fleet;
use crate::{IN_FLIGHT, Pace, View};

/// How often a group of leases is renewed.
const TICK: Duration = Duration::from_millis(100);

/// After how many intervals without renewal a node counts as gone, as for kubelets: 40 s for 10 s.
const INTERVALS: u64 = 4;

/// Renews leases for ever.
pub(crate) async fn run(client: &Client, pace: &Pace, fleet: &Fleet, view: View) {
    let Some(interval) = pace.lease_interval else { return std::future::pending().await };
    let mut ticks = tokio::time::interval(TICK);
    // Behind is behind: catching up would only make it worse.
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The first time all of them; nodes that come later begin when it is their turn.
    let (mut due, mut next) = (fleet.len() as f64, 0_usize);
    loop {
        ticks.tick().await;
        let all = fleet.len();
        let count = (due as usize).min(all);
        let places = (0..count).map(|i| (next + i) % all);
        let renew = |place: usize| async move {
            // Nodes may go meanwhile.
            let Some((tenant, name)) = fleet.at(place) else { return };
            if let Err(error) = renew(client, view, &tenant, &name, interval).await {
                tracing::warn!(%tenant, node = name, %error, "a lease was not renewed");
            }
        };
        futures::stream::iter(places.map(renew)).buffer_unordered(IN_FLIGHT).collect::<Vec<()>>().await;
        if all > 0 {
            next = (next + count) % all;
        }
        due += all as f64 * TICK.as_secs_f64() / interval.as_secs_f64() - count as f64;
    }
}

async fn renew(
    client: &Client,
    view: View,
    tenant: &TenantName,
    name: &str,
    interval: Duration,
) -> Result<(), Error> {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
    let all = Resource::of::<Lease>().at(view.of(tenant)).namespace("kube-node-lease");
    let patch = Patch::Merge(json!({"spec": {"renewTime": now}}));
    match client.patch::<IgnoredAny>(&all.clone().name(name), &patch).await {
        Err(e) if e.is_not_found() => {
            let seconds = interval.as_secs().max(1) * INTERVALS;
            let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
                "spec": {"holderIdentity": name, "leaseDurationSeconds": seconds, "renewTime": now}});
            client.create::<IgnoredAny>(&all, &lease).await.map(drop)
        }
        other => other.map(drop),
    }
}
