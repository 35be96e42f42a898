//! `skep scheduler`: the scheduler by itself, one of several processes at work.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use anyhow::Context;
use skep_client::Client;
use skep_client::elect::{Election, Led, lead};
use skep_scheduler::{Figures, Scheduler, Weight, Weights};

use crate::health::{self, Health};
use crate::signals::ended;

/// How pods are placed.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Placement {
    /// How much a plugin counts that says which of several possible nodes is better, PLUGIN=WEIGHT from 0 (not at all) to 100; may be repeated. Without it
    /// TaintToleration=3, NodeAffinity=2, PodTopologySpread=2, InterPodAffinity=2, NodeResourcesFit=1,
    /// NodeResourcesBalancedAllocation=1, ImageLocality=1
    #[arg(long = "score-weight", value_name = "PLUGIN=WEIGHT")]
    weights: Vec<Weight>,
}

impl Placement {
    pub(crate) fn weights(&self) -> Weights {
        self.weights.iter().copied().collect()
    }
}

/// Which cluster, and as whom.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The kubeconfig of a system administrator, or of an administrator of any Kubernetes cluster.
    #[arg(long, env = "KUBECONFIG")]
    kubeconfig: PathBuf,
    /// Where `/healthz`, `/readyz` and `/metrics` are answered, in plain HTTP.
    #[arg(long, default_value = "127.0.0.1:10259")]
    listen: SocketAddr,
    #[command(flatten)]
    placement: Placement,
}

/// Where the lease is, in the operator's own tenant; upstream's name for it.
const LEASE: (&str, &str) = ("kube-system", "kube-scheduler");

/// The figures, once this process leads. One that waits is ready: to take over is its work.
#[derive(Default)]
struct Reported(OnceLock<Figures>);

impl Health for Reported {
    fn ready(&self) -> bool {
        self.0.get().is_none_or(Figures::ready)
    }

    fn metrics(&self, out: &mut String) {
        if let Some(figures) = self.0.get() {
            figures.render(out);
        }
    }
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps the scheduler from starting, or that somebody else has taken the lead.
pub(crate) fn run(options: Options) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    runtime.spawn(crate::lean::keep_busy());
    runtime.block_on(async move {
        let client = Client::from_kubeconfig(&options.kubeconfig)?;
        let reported = Arc::new(Reported::default());
        let address = health::serve(options.listen, reported.clone()).await?;
        tracing::info!(%address, server = client.server(), "the scheduler stands for election");
        let down = crate::signals::shutdown();
        let (before, during) = (down.clone(), down);
        let election = Election::new(LEASE.0, LEASE.1);
        let weights = options.placement.weights();
        let work = async {
            let scheduler = Scheduler::new(client.clone(), weights);
            // This runs once, so nothing is there yet.
            let _ = reported.0.set(scheduler.figures());
            scheduler.run(ended(during)).await;
        };
        match Box::pin(lead(&client, &election, ended(before), work)).await {
            Led::Finished(()) | Led::Never => Ok(()),
            Led::Lost => Err(anyhow::anyhow!("the lease was lost: start again to stand for it anew")),
        }
    })
}
