//! `skep sim`: simulated nodes and hosts.

use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};
use skep_base::TenantName;

/// Simulates parts of a cluster, for tests and measurements.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Registers nodes and plays their kubelets: pods bound to them run, end and go, and nothing is executed.
    Nodes(Nodes),
    /// Registers hosts: machines that are placed on them run at once, with nodes of their own, and nothing is executed.
    Hosts(Hosts),
}

/// How nodes are played.
#[derive(Debug, Args)]
struct Pace {
    /// Milliseconds until a pod runs.
    #[arg(long, default_value_t = 0)]
    start_after_ms: u64,
    /// Milliseconds until a pod has stopped that is told to; at most its grace period.
    #[arg(long, default_value_t = 0)]
    stop_after_ms: u64,
    /// Milliseconds that pods run which are to end by themselves.
    #[arg(long, default_value_t = 1000)]
    complete_after_ms: u64,
    /// Seconds between renewals of a node's lease; 0 for never. Where nodes that are silent for 40 seconds count as
    /// gone, longer than 30 makes them flap.
    #[arg(long, default_value_t = 10)]
    lease_interval_s: u64,
}

impl Pace {
    fn read(&self) -> skep_sim::Pace {
        skep_sim::Pace {
            start_after: Duration::from_millis(self.start_after_ms),
            stop_after: Duration::from_millis(self.stop_after_ms),
            complete_after: Duration::from_millis(self.complete_after_ms),
            lease_interval: (self.lease_interval_s > 0).then(|| Duration::from_secs(self.lease_interval_s)),
        }
    }
}

#[derive(Debug, Args)]
struct Hosts {
    /// How many.
    count: usize,
    #[command(flatten)]
    operator: crate::operator::Operator,
    /// What names of hosts begin with.
    #[arg(long, default_value = "sim-host-")]
    prefix: String,
    /// The number of the first host.
    #[arg(long, default_value_t = 0)]
    first: usize,
    /// What each host has for machines, NAME=AMOUNT; may be repeated. Replaces the default amount of that name.
    #[arg(long = "allocatable", value_parser = pair)]
    allocatable: Vec<(String, String)>,
    /// Milliseconds until a machine runs.
    #[arg(long, default_value_t = 0)]
    boot_after_ms: u64,
    #[command(flatten)]
    pace: Pace,
}

#[derive(Debug, Args)]
struct Nodes {
    /// How many nodes, in each tenant.
    count: usize,
    /// Whose nodes; may be repeated. Without it, those of the credential's own tenant.
    #[arg(long = "tenant", value_parser = tenant)]
    tenants: Vec<TenantName>,
    #[command(flatten)]
    operator: crate::operator::Operator,
    /// What names of nodes begin with.
    #[arg(long, default_value = "sim-")]
    prefix: String,
    /// The number of the first node.
    #[arg(long, default_value_t = 0)]
    first: usize,
    /// What each node gives, NAME=AMOUNT; may be repeated. Replaces the default amount of that name.
    #[arg(long = "allocatable", value_parser = pair)]
    allocatable: Vec<(String, String)>,
    /// A label for each node, KEY=VALUE; may be repeated.
    #[arg(long = "label", value_parser = pair)]
    labels: Vec<(String, String)>,
    /// Over how many zones nodes are dealt.
    #[arg(long, default_value_t = 0)]
    zones: usize,
    #[command(flatten)]
    pace: Pace,
}

fn tenant(name: &str) -> Result<TenantName, String> {
    TenantName::new(name).map_err(|e| e.to_string())
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(crate) fn run(options: Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match options.command {
            Command::Nodes(nodes) => simulate(nodes).await,
            Command::Hosts(hosts) => {
                let client = hosts.operator.client()?;
                let mut options = skep_sim::HostOptions::hosts(hosts.count);
                replace(&mut options.allocatable, hosts.allocatable);
                options.prefix = hosts.prefix;
                options.first = hosts.first;
                options.boot_after = Duration::from_millis(hosts.boot_after_ms);
                options.pace = hosts.pace.read();
                skep_sim::run_hosts(client, options, told_to_end()).await;
                Ok(())
            }
        }
    })
}

fn replace(amounts: &mut Vec<(String, String)>, given: Vec<(String, String)>) {
    for (name, amount) in given {
        amounts.retain(|(n, _)| *n != name);
        amounts.push((name, amount));
    }
}

async fn simulate(nodes: Nodes) -> anyhow::Result<()> {
    let client = nodes.operator.client()?;
    let mut options = skep_sim::Options::nodes(nodes.count);
    replace(&mut options.allocatable, nodes.allocatable);
    options.tenants = nodes.tenants;
    options.prefix = nodes.prefix;
    options.first = nodes.first;
    options.labels = nodes.labels;
    options.zones = nodes.zones;
    options.pace = nodes.pace.read();
    skep_sim::run(client, options, told_to_end()).await.context("the nodes cannot be simulated")
}

async fn told_to_end() {
    let terminated = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminated => {}
    }
}
