//! `skep bench`: load on a server, and how it bore it.

mod cloud;
mod containers;
mod dns;
mod network;
mod ports;
mod services;
mod testbed;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use skep_bench::{Figures, Group, Pods, Server, Until, Watches};

/// Puts load on a server, and prints how fast it answered.
///
/// What a benchmark makes it takes away again. Figures are lines of a name and a number.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The server, and a credential for it.
    #[arg(long, env = "KUBECONFIG", default_value = "/var/lib/skep/admin.kubeconfig", global = true)]
    kubeconfig: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measures bandwidth between pods, and what policies make of it: rows W1 and W2 of SPECIFICATION.md. Needs no server.
    ///
    /// Makes two hosts, machines and pods of namespaces of its own, and removes them. Needs root and iperf3. Other work on the
    /// computer takes from what is measured.
    Network(network::Options),
    /// Measures the name server of a machine: row W4 of SPECIFICATION.md. Needs no server.
    ///
    /// Starts an API server of its own in this process, and follows it with a node's network in a namespace. Needs root and two CPUs:
    /// one is the name server's, the other asks.
    Dns(dns::Options),
    /// Measures changes of services and connections through them: row W3 of SPECIFICATION.md. Needs no server.
    ///
    /// Starts an API server of its own in this process and fills it with tenants and services; measures a node of one of them, and the
    /// same tables beside a rule set as kube-proxy makes it. Needs root and nft.
    Services(services::Options),
    /// Makes very many ports in one network: row W5 of SPECIFICATION.md. Needs no server.
    ///
    /// Starts an API server of its own in this process, fills a network to its last address, and programs a switch that knows all of
    /// it; for the switch it needs root.
    Ports(ports::Options),
    /// Measures how fast pods start on a node, and what the processes around them take: rows N1, N2 and N4 of SPECIFICATION.md.
    ///
    /// In a cloud that runs on this computer (`skep up`), which gets a tenant and an image for it; and beside it the same container by runc
    /// and by containerd, where they are installed. Needs root.
    Containers(containers::Options),
    /// Creates, updates and deletes small ConfigMaps.
    Writes {
        /// How many.
        count: usize,
        /// How many requests are under way at once.
        #[arg(long, default_value_t = 64)]
        concurrency: usize,
        /// Where.
        #[arg(long, default_value = "default")]
        namespace: String,
    },
    /// Reads a path again and again.
    List {
        /// What is read.
        path: String,
        /// How often.
        #[arg(long, default_value_t = 20)]
        times: usize,
    },
    /// Opens many watches of a collection that is written, and checks that each sees all of it in order.
    Watch {
        /// How many watches.
        watchers: usize,
        /// How many updates are made meanwhile.
        #[arg(long, default_value_t = 1000)]
        writes: usize,
        /// How many of them at once.
        #[arg(long, default_value_t = 8)]
        concurrency: usize,
        /// Where.
        #[arg(long, default_value = "default")]
        namespace: String,
    },
    /// Makes tenants, and deletes them.
    Tenants {
        /// How many.
        count: usize,
        /// How many requests are under way at once.
        #[arg(long, default_value_t = 32)]
        concurrency: usize,
        /// What their names begin with.
        #[arg(long, default_value = "bench")]
        prefix: String,
        /// Leaves them, to see what they cost.
        #[arg(long)]
        keep: bool,
    },
    /// Makes pods in groups of tenants at once, on simulated nodes, and measures until they are bound or run.
    Pods {
        /// NAME=TENANTSxPODS@CONCURRENCY: so many tenants that make so many pods each, so many at once; may be repeated. With @1/MILLISECONDS each tenant begins one every so often, the tenants in turn.
        #[arg(long = "group", required = true)]
        groups: Vec<Group>,
        /// Simulated nodes in each tenant; 0 to use those that there are.
        #[arg(long, default_value_t = 20)]
        nodes: usize,
        /// Pods that each tenant has before anything is measured.
        #[arg(long, default_value_t = 0)]
        fill: usize,
        /// What is waited for.
        #[arg(long, value_enum, default_value_t = Wait::Bound)]
        until: Wait,
        /// Leaves the tenants and their pods, to see what they cost.
        #[arg(long)]
        keep: bool,
        /// Seconds that any step may take.
        #[arg(long, default_value_t = 600)]
        within_s: u64,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Wait {
    /// The pod has a node.
    Bound,
    /// The pod runs.
    Running,
}

pub(crate) fn run(options: Options) -> anyhow::Result<()> {
    match &options.command {
        Command::Network(options) => return network::run(options),
        Command::Dns(options) => return dns::run(options),
        Command::Services(options) => return services::run(options),
        Command::Ports(options) => return ports::run(options),
        Command::Containers(each) => return containers::run(&options.kubeconfig, each),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let figures = runtime.block_on(measure(Server { kubeconfig: options.kubeconfig }, options.command))?;
    print!("{figures}");
    Ok(())
}

async fn measure(server: Server, command: Command) -> anyhow::Result<Figures> {
    Ok(match command {
        // It has been done.
        Command::Network(_)
        | Command::Dns(_)
        | Command::Services(_)
        | Command::Ports(_)
        | Command::Containers(_) => Figures::default(),
        Command::Writes { count, concurrency, namespace } => {
            skep_bench::writes(&server, &namespace, count, concurrency).await?
        }
        Command::List { path, times } => skep_bench::lists(&server, &path, times).await?,
        Command::Watch { watchers, writes, concurrency, namespace } => {
            skep_bench::watches(&server, &Watches { namespace, watchers, writes, concurrency }).await?
        }
        Command::Tenants { count, concurrency, prefix, keep } => {
            skep_bench::tenants(&server, &prefix, count, concurrency, keep).await?
        }
        Command::Pods { groups, nodes, fill, until, keep, within_s } => {
            let until = match until {
                Wait::Bound => Until::Bound,
                Wait::Running => Until::Running,
            };
            let within = Duration::from_secs(within_s);
            skep_bench::pods(&server, &Pods { groups, nodes, fill, until, keep, within }).await?
        }
    })
}
