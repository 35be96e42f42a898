//! A simulated host, where a computer can run no machines.

use std::sync::Arc;
use std::time::Duration;

use skep_api::compute::Host;
use skep_apiserver::app::App;
use skep_apiserver::in_process::system_client;
use skep_client::{DeleteParams, Resource, Tenants};
use skep_sim::HostOptions;

use crate::apiserver::Running;
use crate::signals::{Shutdown, ended};

/// What the host's name begins with; its number follows.
const PREFIX: &str = "simulated-";
/// Who plays it.
const USER: &str = "system:skep-sim";
/// After a request that failed.
const RETRY: Duration = Duration::from_secs(5);

fn options() -> HostOptions {
    HostOptions { prefix: PREFIX.to_owned(), ..HostOptions::hosts(1) }
}

/// Plays the host until the end is announced.
pub(super) fn play(app: &Arc<App>, down: &Shutdown) -> Running {
    let (client, down) = (system_client(app, USER), down.clone());
    Box::pin(skep_sim::run_hosts(client, options(), ended(down)))
}

/// Removes the host, if one was played here before. Its machines are lost with it, and their pods come up elsewhere.
pub(super) fn remove(app: &Arc<App>, down: &Shutdown) -> Running {
    let (client, down) = (system_client(app, USER), down.clone());
    let at = Resource::of::<Host>().at(Tenants::Own).name(&format!("{PREFIX}0"));
    Box::pin(async move {
        let removing = async {
            loop {
                match client.remove(&at, &DeleteParams::default()).await {
                    Ok(_) => return tracing::info!("the host that was simulated before is removed"),
                    Err(e) if e.is_not_found() => return,
                    Err(error) => tracing::warn!(%error, "the host that was simulated before stays for now"),
                }
                tokio::time::sleep(RETRY).await;
            }
        };
        tokio::select! {
            () = removing => ended(down.clone()).await,
            () = ended(down.clone()) => {}
        }
    })
}
