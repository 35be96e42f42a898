//! `skep control-plane`: the API server and the roles that work for all tenants, in one process.

use std::sync::Arc;

use anyhow::Context;
use skep_apiserver::app::App;
use skep_apiserver::in_process::system_client;
use skep_auth::pki::{Pki, Signer};
use skep_controllers::Manager;
use skep_controllers::certificates::{self, NotSigned, Sign, SignRequest};
use skep_scheduler::Scheduler;

use crate::apiserver::{Options, Running};
use crate::signals::{Shutdown, ended};

/// Starts a role beside the API server. Its client goes through the in-process transport, as its own user.
type Start = fn(&Arc<App>, Shutdown) -> Running;

/// The roles, in the order in which they start. Another one joins here. They need no leader election: the store has one
/// server, and they are in it.
const ROLES: &[Start] = &[controllers, scheduler];

/// Signs with the client authority's key, which never leaves this process.
struct ClientAuthority(Arc<Pki>);

impl Sign for ClientAuthority {
    fn sign(&self, request: &SignRequest<'_>) -> Result<String, NotSigned> {
        let signer = Signer::parse(request.signer).ok_or(NotSigned::NotMine)?;
        let (tenant, uid) = request.tenant;
        let tenant = (!tenant.is_system()).then_some((tenant, uid));
        self.0
            .client_ca()
            .sign(request.request_pem, signer, request.usages, request.expiration_s, tenant, request.now)
            .map_err(|e| {
                if e.is_permanent() {
                    NotSigned::Invalid(e.to_string())
                } else {
                    NotSigned::Later(e.to_string())
                }
            })
    }
}

fn controllers(app: &Arc<App>, shutdown: Shutdown) -> Running {
    let client = system_client(app, "system:kube-controller-manager");
    let key = Arc::new(ClientAuthority(app.pki.clone()));
    let manager = Manager::new(client, |setup| {
        let mut all = skep_controllers::all(setup);
        all.push(certificates::signing(setup, key));
        all
    });
    let figures = manager.figures();
    app.metrics.add_source(move |out| figures.render(out));
    Box::pin(manager.run(ended(shutdown)))
}

fn scheduler(app: &Arc<App>, shutdown: Shutdown) -> Running {
    let scheduler = Scheduler::new(system_client(app, "system:kube-scheduler"));
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
    runtime.block_on(crate::apiserver::serve(options, roles))
}

/// Starts all roles of a control plane beside an API server.
pub(crate) fn roles(app: &Arc<App>, shutdown: &Shutdown) -> Vec<Running> {
    ROLES.iter().map(|start| start(app, shutdown.clone())).collect()
}
