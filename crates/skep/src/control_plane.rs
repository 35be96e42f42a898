//! `skep control-plane`: the API server and the roles that work for all tenants, in one process.

use std::sync::Arc;

use anyhow::Context;
use skep_apiserver::app::App;
use skep_apiserver::in_process::system_client;
use skep_controllers::Manager;
use skep_scheduler::Scheduler;

use crate::apiserver::{self, Running};
use crate::scheduler::Placement;
use crate::signals::{Shutdown, ended};

/// Where the control plane keeps its things, how it is reached, and how it places pods.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    server: apiserver::Options,
    #[command(flatten)]
    placement: Placement,
}

/// Starts a role beside the API server. Its client goes through the in-process transport, as its own user.
type Start = fn(&Arc<App>, &Placement, Shutdown) -> Running;

/// The roles by name, in the order in which they start. Another one joins here. They need no leader election: the store has one
/// server, and they are in it.
const ROLES: &[(&str, Start)] = &[("controllers", controllers), ("scheduler", scheduler)];

fn controllers(app: &Arc<App>, _: &Placement, shutdown: Shutdown) -> Running {
    let client = system_client(app, "system:kube-controller-manager");
    let manager = Manager::new(client, skep_controllers::all);
    let figures = manager.figures();
    app.metrics.add_source(move |out| figures.render(out));
    Box::pin(manager.run(ended(shutdown)))
}

fn scheduler(app: &Arc<App>, placement: &Placement, shutdown: Shutdown) -> Running {
    let scheduler = Scheduler::new(system_client(app, "system:kube-scheduler"), placement.weights());
    let figures = scheduler.figures();
    app.metrics.add_source(move |out| figures.render(out));
    Box::pin(scheduler.run(ended(shutdown)))
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps the server from starting.
pub(crate) fn run(options: Options) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    runtime.spawn(crate::lean::keep_busy());
    let Options { server, placement } = options;
    runtime.block_on(apiserver::serve(server, |app, shutdown| roles(app, &placement, shutdown)))
}

/// Starts all roles of a control plane beside an API server.
pub(crate) fn roles(app: &Arc<App>, placement: &Placement, shutdown: &Shutdown) -> Vec<Running> {
    ROLES.iter().map(|(name, start)| apart(name, *start, app, placement, shutdown)).collect()
}

/// Runs a role on threads of its own. On the server's, one task that follows what all tenants write would have to wait for its
/// turn among hundreds of tasks that answer a tenant in a hurry, and every other tenant's pods with it; here the kernel shares the
/// processors between the roles.
fn apart(
    name: &'static str,
    start: Start,
    app: &Arc<App>,
    placement: &Placement,
    shutdown: &Shutdown,
) -> Running {
    let (app, placement, shutdown) = (app.clone(), placement.clone(), shutdown.clone());
    let (done, ended) = tokio::sync::oneshot::channel();
    let run = move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name(name).build();
        match runtime {
            Ok(runtime) => runtime.block_on(async { start(&app, &placement, shutdown).await }),
            Err(error) => tracing::error!(%error, "{name} cannot start: there are no threads"),
        }
        // Nobody waits any more when the server has ended before its roles.
        let _ = done.send(());
    };
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
    Box::pin(async move {
        if let Err(error) = thread {
            return tracing::error!(%error, "{name} cannot start: there is no thread");
        }
        // The sender goes without a word when the role panics.
        if ended.await.is_err() {
            tracing::error!(
                "{name} ended badly, and what they did is not done any more: start the server anew"
            );
        }
    })
}
