//! `skep host`, and what it starts machines with.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use skep_agent::thresholds::Thresholds;
use skep_host::{Config, MachineDisks, Reserve};

/// Runs the host daemon: makes machines of tenants on this computer.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Whom to reach, as user `system:host:NAME` of group `system:hosts`.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Where machines and images lie; made if needed.
    #[arg(long, env = "SKEP_DATA", default_value = "/var/lib/skep")]
    data: PathBuf,
    /// The host's name; the computer's own if it is not given.
    #[arg(long)]
    name: Option<String>,
    /// Thousandths of a CPU that are kept from machines.
    #[arg(long, default_value_t = Reserve::default().cpu_millis)]
    reserve_cpu_millis: u64,
    /// MiB of memory that are kept from machines.
    #[arg(long, default_value_t = Reserve::default().memory_bytes >> 20)]
    reserve_memory_mib: u64,
    /// How much CPU machines may have together, in percent of what there is.
    #[arg(long, default_value_t = Reserve::default().cpu_percent)]
    cpu_percent: u64,
    /// A label of the host, NAME=VALUE; may be repeated.
    #[arg(long = "label", value_parser = pair)]
    labels: Vec<(String, String)>,
    /// The address by which other hosts reach this one; found out if it is not given.
    #[arg(long)]
    address: Option<std::net::IpAddr>,
    /// The UDP port over which hosts carry tenants' networks (VXLAN): the same on all of them.
    #[arg(long, default_value_t = VXLAN_PORT)]
    vxlan_port: u16,
    /// What the interface with the host's address carries, in Mbit/s each way; found out where it is hardware. Without it nothing can
    /// be guaranteed to ports.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    uplink_mbit: Option<u64>,
    /// How short machines may become before pods are evicted: `memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,pid.available<5%`
    /// is what is meant if nothing is given, and of what is not named.
    #[arg(long, env = "SKEP_EVICTION_HARD", value_name = "THRESHOLDS")]
    eviction_hard: Option<Thresholds>,
    /// What machines have for a disk: `own`, a file system as large as their flavour's `ephemeral-storage`, which takes loop devices and
    /// `mkfs.ext4`; `shared`, the host's, without a limit; or `auto`, their own where this host can do that. Machines that are there
    /// already keep what they have.
    #[arg(long, env = "SKEP_MACHINE_DISKS", value_enum, default_value_t = Disks::Auto)]
    machine_disks: Disks,
    /// What agents log.
    #[arg(long, default_value = "info")]
    agent_log: String,
    /// A JSON file that says how registries are reached: `plainHttp`, `mirrors`, `authoritiesFile`, `private`;
    /// `registries.json` in the data directory if it is not given.
    #[arg(long)]
    registries: Option<PathBuf>,
    /// The cloud's own registry, from which machines pull without secrets: HOST:PORT as images call it, or NAME=HOST:PORT where this computer
    /// reaches it elsewhere.
    #[arg(long, value_parser = registry, value_name = "HOST:PORT")]
    registry: Option<(String, String)>,
    /// Give machines this part of the memory: so many hosts share the computer.
    #[arg(long, hide = true, default_value_t = 1)]
    memory_part: u64,
    /// The network namespace that is the host's, mounted at this path; the one that this is started in if it is not given.
    #[arg(long)]
    network_namespace: Option<PathBuf>,
    /// End when the process that started this one does.
    #[arg(long, hide = true)]
    with_parent: bool,
}

/// What machines have for a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Disks {
    Auto,
    Shared,
    Own,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

/// What images call a registry, and where it is.
fn registry(text: &str) -> Result<(String, String), String> {
    let (name, address) = text.split_once('=').unwrap_or((text, text));
    let good =
        |part: &str| part.rsplit_once(':').is_some_and(|(h, p)| !h.is_empty() && p.parse::<u16>().is_ok());
    match good(name) && good(address) {
        true => Ok((name.to_owned(), address.to_owned())),
        false => Err("write HOST:PORT, or NAME:PORT=HOST:PORT".to_owned()),
    }
}

/// The port that the standard gives VXLAN.
pub(crate) const VXLAN_PORT: u16 = 4789;
/// The word after which this program is a machine's first process, or what starts that.
const MACHINE: &str = "machine";

/// How machines are started: with this very program, wherever it lies by then.
fn launcher() -> anyhow::Result<Vec<OsString>> {
    let own = std::env::current_exe().context("finding this program")?;
    Ok(vec![own.into_os_string(), MACHINE.into()])
}

/// When this is `skep machine boot`, `init` or `pull`, does it and returns. Called before anything else: both must
/// have one thread and stay small.
pub(crate) fn if_asked() -> Option<ExitCode> {
    let args: Vec<OsString> = std::env::args_os().skip(1).take(2).collect();
    if args.first()? != MACHINE {
        return None;
    }
    let rest: Vec<OsString> = std::env::args_os().skip(3).collect();
    if args.get(1).is_some_and(|word| word == skep_host::PULL) {
        return Some(skep_host::pull_main());
    }
    let done = match args.get(1).and_then(|a| a.to_str()) {
        Some("boot") => skep_machine::process::boot::main(&rest),
        Some("init") => skep_machine::process::init::main(&rest),
        _ => {
            eprintln!("skep: `machine` is for the host daemon's own use");
            return Some(ExitCode::from(2));
        }
    };
    Some(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("skep: {}", error.story());
            ExitCode::FAILURE
        }
    })
}

/// Runs until SIGTERM or SIGINT. Machines go on without it.
///
/// # Errors
/// What keeps the daemon from starting.
pub(crate) fn run(options: Options) -> anyhow::Result<()> {
    if options.with_parent {
        end_with_parent()?;
    }
    if let Some(path) = &options.network_namespace {
        // Before there are other threads: those that come are in it too.
        let namespace = skep_net::Namespace::open(path).context("opening the network namespace")?;
        namespace.enter().context("entering the network namespace")?;
    }
    let config = Config {
        kubeconfig: options.kubeconfig,
        data: std::path::absolute(&options.data).context("reading the working directory")?,
        name: options.name,
        reserve: Reserve {
            cpu_millis: options.reserve_cpu_millis,
            memory_bytes: options.reserve_memory_mib << 20,
            cpu_percent: options.cpu_percent,
            memory_part: options.memory_part.max(1),
        },
        launcher: launcher()?,
        disks: match options.machine_disks {
            Disks::Auto => MachineDisks::Auto,
            Disks::Shared => MachineDisks::Shared,
            Disks::Own => MachineDisks::Own,
        },
        agent_log: options.agent_log,
        eviction_hard: options.eviction_hard.map(|t| t.to_string()),
        registries: options.registries,
        own_registry: options.registry,
        labels: options.labels.into_iter().collect::<BTreeMap<_, _>>(),
        address: options.address,
        vxlan_port: options.vxlan_port,
        uplink_bits_per_s: options.uplink_mbit.map(|m| m * 1_000_000),
    };
    // One thread: a daemon mostly waits, and what blocks has threads of its own, which end when they are idle.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(IDLE_THREAD)
        .on_thread_park(crate::lean::parked)
        .build()
        .context("starting the runtime")?;
    runtime.block_on(async move {
        let ended = crate::signals::ended(crate::signals::shutdown());
        tokio::select! {
            result = skep_host::run(config, ended) => result.context("running the host daemon"),
            () = crate::lean::keep() => Ok(()),
        }
    })
}

/// Machines that are made or removed at the same time. More would only wait for the same disk.
const BLOCKING_THREADS: usize = 16;
const IDLE_THREAD: std::time::Duration = std::time::Duration::from_secs(2);

fn end_with_parent() -> anyhow::Result<()> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM)
        .context("asking for a signal at the parent's end")?;
    // It may have ended before that.
    if nix::unistd::getppid().as_raw() == 1 {
        bail!("the process that started this one is gone");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_has_a_name_and_an_address() {
        let pair = |a: &str, b: &str| Ok((a.to_owned(), b.to_owned()));
        assert_eq!(registry("127.0.0.1:5000"), pair("127.0.0.1:5000", "127.0.0.1:5000"));
        assert_eq!(registry("reg.example:5000=10.0.0.1:5000"), pair("reg.example:5000", "10.0.0.1:5000"));
        for bad in ["reg.example", ":5000", "a:b", "a:1=b"] {
            assert!(registry(bad).is_err(), "{bad}");
        }
    }
}
