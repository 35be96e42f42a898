//! Simulated nodes.
//!
//! **Job.** Play any number of nodes against a real API server: register them, renew their leases, and do for the pods
//! bound to them what kubelets would show in the API. Nothing is run.
//! **State.** One informer's lean copy of the pods; which of them something is being done about.
//! **Tasks.** One informer, one loop for pods, one for leases: as many for a hundred thousand nodes as for one.
//! **Must not know.** How pods get to nodes, or what a container is.

mod lease;
mod node;
mod pod;
mod work;

use std::time::Duration;

use skep_base::TenantName;
use skep_client::{Client, Error, Tenants};

/// What is simulated.
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
    /// How long a pod takes to run.
    pub start_after: Duration,
    /// How long a pod takes to end once told to; never longer than its grace period.
    pub stop_after: Duration,
    /// How long pods run that are to end by themselves.
    pub complete_after: Duration,
    /// How often a node's lease is renewed; nothing for never.
    pub lease_interval: Option<Duration>,
}

/// The annotation by which a pod says after how many seconds it ends by itself.
pub const COMPLETE_AFTER: &str = "sim.skep.io/complete-after-seconds";
/// The annotation by which a pod says how it ends.
pub const EXIT_CODE: &str = "sim.skep.io/exit-code";
/// The annotation by which a pod says how many seconds it takes to end once told to.
pub const STOP_AFTER: &str = "sim.skep.io/stop-after-seconds";

impl Options {
    /// So many nodes of the usual size in the credential's own tenant.
    #[must_use]
    pub fn nodes(nodes: usize) -> Options {
        let pair = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Options {
            nodes,
            tenants: Vec::new(),
            prefix: "sim-".to_owned(),
            first: 0,
            allocatable: [("cpu", "32"), ("memory", "256Gi"), ("ephemeral-storage", "1Ti"), ("pods", "110")]
                .map(pair)
                .to_vec(),
            labels: Vec::new(),
            zones: 0,
            start_after: Duration::ZERO,
            stop_after: Duration::ZERO,
            complete_after: Duration::from_secs(1),
            lease_interval: Some(Duration::from_secs(10)),
        }
    }

    pub(crate) fn name(&self, index: usize) -> String {
        format!("{}{}", self.prefix, self.first + index)
    }

    /// Whether a node is one of those simulated.
    pub(crate) fn is_own(&self, node: &str) -> bool {
        let number = node.strip_prefix(&self.prefix).and_then(|n| n.parse::<usize>().ok());
        number.is_some_and(|n| (self.first..self.first + self.nodes).contains(&n))
    }
}

/// Whose objects are written, and how their paths are made.
#[derive(Clone, Debug)]
pub(crate) struct Whose {
    /// Other servers than Skep's have no view of another tenant.
    own: bool,
    pub(crate) all: Vec<TenantName>,
}

impl Whose {
    pub(crate) fn of(&self, tenant: &TenantName) -> Tenants {
        if self.own { Tenants::Own } else { Tenants::One(tenant.clone()) }
    }

    /// What one informer has to look at.
    pub(crate) fn view(&self) -> Tenants {
        match self.all.as_slice() {
            _ if self.own => Tenants::Own,
            [one] => Tenants::One(one.clone()),
            _ => Tenants::All,
        }
    }
}

/// Registers the nodes, then plays them until `shutdown`. The nodes stay registered, as machines that lost power.
///
/// # Errors
/// When nodes cannot be registered.
pub async fn run(client: Client, options: Options, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    let whose = Whose {
        own: options.tenants.is_empty(),
        all: if options.tenants.is_empty() { vec![client.home().clone()] } else { options.tenants.clone() },
    };
    node::register(&client, &options, &whose).await?;
    tracing::info!(nodes = options.nodes, tenants = whose.all.len(), "registered");
    tokio::select! {
        () = work::run(&client, &options, &whose) => {}
        () = lease::run(&client, &options, &whose) => {}
        () = shutdown => {}
    }
    Ok(())
}

/// Requests under way at a time, of each loop: enough to fill the server's groups of writes.
pub(crate) const IN_FLIGHT: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_nodes_are_told_by_name() {
        let options = Options { first: 5, ..Options::nodes(3) };
        assert_eq!(options.name(0), "sim-5");
        for (name, own) in [
            ("sim-4", false),
            ("sim-5", true),
            ("sim-7", true),
            ("sim-8", false),
            ("sim-x", false),
            ("5", false),
        ] {
            assert_eq!(options.is_own(name), own, "{name}");
        }
    }
}
