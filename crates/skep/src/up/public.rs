//! The first pool of public addresses: what `--public-pool` says.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Subnets};
use serde_json::{Value, json};
use skep_api::network::{AddressRange, PublicPool, parse_range};
use skep_apiserver::app::App;
use skep_apiserver::in_process::system_client;
use skep_base::TenantName;
use skep_client::{Client, Error, ListParams, Patch, Resource};
use skep_net::underlay::Underlay;

use crate::apiserver::Running;
use crate::signals::{Shutdown, ended};

const POOLS: Resource = Resource::new("network.skep.io", "v1", "publicpools");
/// The pool that is used where none is named.
const NAME: &str = "default";
/// How long is waited after the API server said no.
const RETRY: Duration = Duration::from_secs(1);

/// Addresses, as a pool's `spec.ranges` has them.
pub(super) fn range(text: &str) -> Result<String, String> {
    match parse_range(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("say an address, two with a dash between, or a CIDR: 192.0.2.0/24".to_owned()),
    }
}

/// Sees to it that the pool has these addresses, and that this computer finds those of all pools on the wire between its hosts, if it has
/// one. What is in a pool already stays: it may be in use.
pub(super) fn start(app: &Arc<App>, down: &Shutdown, ranges: Vec<String>, wire: Option<Underlay>) -> Running {
    let (client, down) = (system_client(app, "system:skep-up"), down.clone());
    Box::pin(async move {
        let work = async {
            loop {
                match once(&client, &ranges, wire.as_ref()).await {
                    Ok(()) => return,
                    Err(error) => {
                        tracing::warn!(%error, "the pool of public addresses cannot be made; it is tried again")
                    }
                }
                tokio::time::sleep(RETRY).await;
            }
        };
        tokio::select! {
            () = work => ended(down.clone()).await,
            () = ended(down.clone()) => {}
        }
    })
}

async fn once(client: &Client, ranges: &[String], wire: Option<&Underlay>) -> Result<(), Error> {
    let at = POOLS.at(&TenantName::system());
    if !ranges.is_empty() {
        match client.read::<PublicPool>(&at.clone().name(NAME)).await {
            Ok(pool) => {
                let all = united(&pool.spec.ranges, ranges);
                if all != pool.spec.ranges {
                    let version = pool.metadata.resource_version;
                    let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"ranges": all}});
                    let _: Value = client.patch(&at.clone().name(NAME), &Patch::Merge(patch)).await?;
                }
            }
            Err(error) if error.is_not_found() => {
                let pool = json!({"metadata": {"name": NAME}, "spec": {"ranges": ranges}});
                let _: Value = client.create(&at, &pool).await?;
            }
            Err(error) => return Err(error),
        }
    }
    let Some(wire) = wire else { return Ok(()) };
    let pools = client.list_all::<PublicPool>(&at, ListParams::default()).await?;
    let on_wire: Vec<IpNet> = pools.items.iter().flat_map(PublicPool::ranges).flat_map(networks).collect();
    let wire = wire.clone();
    let led = tokio::task::spawn_blocking(move || wire.lead(&on_wire)).await;
    if let Ok(Err(error)) = led {
        tracing::warn!(%error, "public addresses are not found from this computer");
    }
    Ok(())
}

/// What is there, and what is new.
fn united(there: &[String], wanted: &[String]) -> Vec<String> {
    let mut all = there.to_vec();
    all.extend(wanted.iter().filter(|r| !there.contains(r)).cloned());
    all
}

/// The networks that a range of IPv4 addresses is made of.
fn networks(range: AddressRange) -> Vec<IpNet> {
    match (range.first, range.last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => Ipv4Subnets::new(first, last, 0).map(IpNet::V4).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_grows_and_never_shrinks() {
        let text = |all: &[&str]| all.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        let there = text(&["192.0.2.0/28"]);
        assert_eq!(united(&there, &text(&["192.0.2.0/28"])), there);
        assert_eq!(united(&there, &text(&["198.51.100.7"])), text(&["192.0.2.0/28", "198.51.100.7"]));
        assert!(range("192.0.2.1-192.0.2.9").is_ok() && range("192.0.2.0/33").is_err());
    }

    #[test]
    fn ranges_are_networks() {
        let of = |text: &str| -> Vec<String> {
            networks(parse_range(text).unwrap()).iter().map(IpNet::to_string).collect()
        };
        assert_eq!(of("192.0.2.4-192.0.2.7"), ["192.0.2.4/30"]);
        assert_eq!(of("192.0.2.1-192.0.2.4"), ["192.0.2.1/32", "192.0.2.2/31", "192.0.2.4/32"]);
        assert!(of("2001:db8::/64").is_empty());
    }
}
