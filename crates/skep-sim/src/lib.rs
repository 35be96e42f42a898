//! Simulated nodes and hosts.
//!
//! **Job.** Play any number of nodes against a real API server: register them, renew their leases, and do for the pods
//! bound to them what kubelets would show in the API. Or play hosts: then nodes are those of the machines that are placed on
//! them. Nothing is run.
//! **State.** One informer's lean copy of the pods; which of them something is being done about; which nodes there are.
//! **Tasks.** One informer, one loop for pods, one for leases: as many for a hundred thousand nodes as for one. For hosts one loop
//! for them and one for machines.
//! **Must not know.** How pods get to nodes, or machines to hosts, or what a container is.

mod fleet;
mod lease;
mod machine;
mod node;
mod pod;
mod work;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use skep_base::TenantName;
use skep_client::{Client, Error, Tenants};

use fleet::{Fleet, Numbered};
use work::Work;

/// How nodes are played.
#[derive(Clone, Debug)]
pub struct Pace {
    /// How long a pod takes to run.
    pub start_after: Duration,
    /// How long a pod takes to end once told to; never longer than its grace period.
    pub stop_after: Duration,
    /// How long pods run that are to end by themselves.
    pub complete_after: Duration,
    /// How often a node's lease is renewed; nothing for never.
    pub lease_interval: Option<Duration>,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            start_after: Duration::ZERO,
            stop_after: Duration::ZERO,
            complete_after: Duration::from_secs(1),
            lease_interval: Some(Duration::from_secs(10)),
        }
    }
}

/// Which nodes are simulated.
#[derive(Clone, Debug)]
pub struct Options {
    /// Nodes in each tenant.
    pub nodes: usize,
    /// Whose; none for the tenant of the credential.
    pub tenants: Vec<TenantName>,
    /// What names of nodes begin with; a number follows.
    pub prefix: String,
    /// The first number.
    pub first: usize,
    /// What each node gives: resource name and amount.
    pub allocatable: Vec<(String, String)>,
    /// Labels of each node.
    pub labels: Vec<(String, String)>,
    /// Over how many zones nodes are dealt; 0 for no zone label.
    pub zones: usize,
    /// How they are played.
    pub pace: Pace,
}

/// Which hosts are simulated.
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// How many.
    pub hosts: usize,
    /// What their names begin with; a number follows.
    pub prefix: String,
    /// The first number.
    pub first: usize,
    /// What each has for machines: resource name and amount.
    pub allocatable: Vec<(String, String)>,
    /// How long a machine takes to run.
    pub boot_after: Duration,
    /// How machines' nodes are played.
    pub pace: Pace,
}

/// The label of a host that is only played.
pub const SIMULATED_LABEL: &str = "compute.skep.io/simulated";
/// The annotation by which a pod says after how many seconds it ends by itself.
pub const COMPLETE_AFTER: &str = "sim.skep.io/complete-after-seconds";
/// The annotation by which a pod says how it ends.
pub const EXIT_CODE: &str = "sim.skep.io/exit-code";
/// The annotation by which a pod says how many seconds it takes to end once told to.
pub const STOP_AFTER: &str = "sim.skep.io/stop-after-seconds";

fn pairs<const N: usize>(all: [(&str, &str); N]) -> Vec<(String, String)> {
    all.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

impl Options {
    /// So many nodes of the usual size in the credential's own tenant.
    #[must_use]
    pub fn nodes(nodes: usize) -> Options {
        Options {
            nodes,
            tenants: Vec::new(),
            prefix: "sim-".to_owned(),
            first: 0,
            allocatable: pairs([
                ("cpu", "32"),
                ("memory", "256Gi"),
                ("ephemeral-storage", "1Ti"),
                ("pods", "110"),
            ]),
            labels: Vec::new(),
            zones: 0,
            pace: Pace::default(),
        }
    }
}

impl HostOptions {
    /// So many hosts of the usual size.
    #[must_use]
    pub fn hosts(hosts: usize) -> HostOptions {
        HostOptions {
            hosts,
            prefix: "sim-host-".to_owned(),
            first: 0,
            allocatable: pairs([("cpu", "64"), ("memory", "512Gi"), ("ephemeral-storage", "4Ti")]),
            boot_after: Duration::ZERO,
            pace: Pace::default(),
        }
    }

    pub(crate) fn name(&self, index: usize) -> String {
        format!("{}{}", self.prefix, self.first + index)
    }

    /// Whether a host is one of those simulated.
    pub(crate) fn is_own(&self, host: &str) -> bool {
        let number = host.strip_prefix(&self.prefix).and_then(|n| n.parse::<usize>().ok());
        number.is_some_and(|n| (self.first..self.first + self.hosts).contains(&n))
    }
}

/// How paths of nodes' objects are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    /// Other servers than Skep's have no view of another tenant.
    Own,
    /// Each in its tenant's view.
    Tenants,
}

impl View {
    pub(crate) fn of(self, tenant: &TenantName) -> Tenants {
        match self {
            View::Own => Tenants::Own,
            View::Tenants => Tenants::One(tenant.clone()),
        }
    }
}

/// Registers the nodes, then plays them until `shutdown`. The nodes stay registered, as machines that lost power.
///
/// # Errors
/// When nodes cannot be registered.
pub async fn run(client: Client, options: Options, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    let view = if options.tenants.is_empty() { View::Own } else { View::Tenants };
    let tenants =
        if options.tenants.is_empty() { vec![client.home().clone()] } else { options.tenants.clone() };
    let looked_at = match (view, tenants.as_slice()) {
        (View::Own, _) => Tenants::Own,
        (View::Tenants, [one]) => Tenants::One(one.clone()),
        _ => Tenants::All,
    };
    let fleet = Arc::new(Fleet::Numbered(Numbered {
        prefix: options.prefix.clone(),
        first: options.first,
        count: options.nodes,
        tenants,
    }));
    node::register(&client, &options, &fleet, view).await?;
    tracing::info!(nodes = fleet.len(), "registered");
    let work = Work::new(&client, &options.pace, &fleet, view, looked_at);
    tokio::select! {
        () = work.run() => {}
        () = lease::run(&client, &options.pace, &fleet, view) => {}
        () = shutdown => {}
    }
    Ok(())
}

/// Registers the hosts, and plays them, the machines that are placed on them, and these machines' nodes, until `shutdown`. All
/// stay as they are then, as computers that lost power; who plays them again takes them up.
pub async fn run_hosts(client: Client, options: HostOptions, shutdown: impl Future<Output = ()>) {
    let fleet = Arc::new(Fleet::Machines(RwLock::default()));
    let work = Work::new(&client, &options.pace, &fleet, View::Tenants, Tenants::All);
    let pods = work.handle();
    tracing::info!(hosts = options.hosts, "simulated");
    tokio::select! {
        () = machine::speak(&client, &options) => {}
        () = machine::run(&client, &options, &fleet, &pods) => {}
        () = work.run() => {}
        () = lease::run(&client, &options.pace, &fleet, View::Tenants) => {}
        () = shutdown => {}
    }
}

/// Requests under way at a time, of each loop: enough to fill the server's groups of writes.
pub(crate) const IN_FLIGHT: usize = 256;
