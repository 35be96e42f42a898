//! `skep up`, `skep down`, `skep status`: the whole cloud on this computer.

mod checks;
mod host;
mod hosts;
mod public;
mod run_file;
mod simulated;
mod stop;
mod watch;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::apiserver;
use crate::output::paint;
use checks::{Check, Level};
use run_file::RunFile;
use skep_agent::thresholds::Thresholds;

pub(crate) use checks::Options as DoctorOptions;
pub(crate) use checks::run as doctor;
pub(crate) use stop::{DownOptions, StatusOptions, down, status};

/// Starts the whole cloud on this computer: control plane, host daemon, everything.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    server: apiserver::Options,
    #[command(flatten)]
    placement: crate::scheduler::Placement,
    /// Stay attached, and end with Ctrl-C.
    #[arg(long)]
    foreground: bool,
    /// How much CPU machines may have together, in percent of what there is. On a computer of one's own, machines
    /// are seldom all busy.
    #[arg(long, default_value_t = 400)]
    cpu_percent: u64,
    /// Run no machines here: the control plane only.
    #[arg(long)]
    no_host: bool,
    /// Be so many hosts instead of one, each a network namespace with an address of its own, joined by a bridge: to try what happens
    /// between hosts. The next start makes as many again if nothing is said; 0 makes the computer itself the host again.
    #[arg(long, conflicts_with = "no_host")]
    hosts: Option<u8>,
    /// What a host's uplink carries, in Mbit/s each way; found out where it is hardware. Without it nothing can be guaranteed to ports.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    uplink_mbit: Option<u64>,
    /// How short machines may become before pods are evicted: `memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,pid.available<5%`
    /// is what is meant if nothing is given, and of what is not named.
    #[arg(long, env = "SKEP_EVICTION_HARD", value_name = "THRESHOLDS")]
    eviction_hard: Option<Thresholds>,
    /// Addresses of the outside world for services of the type LoadBalancer and for PublicIPs: a CIDR, one address, or two with a dash
    /// between. They are added to the pool `default`, and stay in it. May be said several times.
    #[arg(long, value_name = "RANGE", value_parser = public::range)]
    public_pool: Vec<String>,
    /// Where the image registry listens; clients and machines of other computers reach it only at an address that is not loopback.
    #[arg(long, env = "SKEP_REGISTRY_LISTEN", default_value = "127.0.0.1:5000")]
    registry_listen: std::net::SocketAddr,
    /// Run no image registry here.
    #[arg(long)]
    no_registry: bool,
    #[command(flatten)]
    registry: crate::registry::Common,
    /// Started by `skep up` without `--foreground`.
    #[arg(long, hide = true)]
    detached: bool,
}

/// How long everything may take to come up. A store with a million objects loads in seconds; a host is slower only
/// when something is wrong.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How often is looked.
const POLL: Duration = Duration::from_millis(20);
/// Where messages go when nobody is attached.
const LOG: &str = "skep.log";
/// The log is begun anew when it is larger than this at a start; the old one is kept once.
const LOG_MAX_BYTES: u64 = 32 * 1024 * 1024;

/// Starts everything.
///
/// # Errors
/// What keeps it from starting, with what can be done about it.
pub(crate) fn run(mut options: Options) -> anyhow::Result<()> {
    options.server.data =
        std::path::absolute(&options.server.data).context("reading the working directory")?;
    if options.detached {
        listen_on_wire(&mut options);
        // A session of its own: nothing that happens to the terminal reaches it.
        nix::unistd::setsid().context("leaving the terminal's session")?;
        return serve(options);
    }
    std::fs::create_dir_all(&options.server.data).with_context(|| {
        format!("making {}; choose another directory with --data", options.server.data.display())
    })?;
    if let Some(running) = RunFile::read(&options.server.data).filter(RunFile::is_alive) {
        println!("skep is up already: {} (process {})", running.server, running.pid);
        print_next(&options.server.data);
        return Ok(());
    }
    if let Some(hosts) = hosts::Hosts::decide(&options.server.data, options.hosts)? {
        hosts.set_up(&options.server.data)?;
    }
    listen_on_wire(&mut options);
    let registry = (!options.no_registry).then_some(options.registry_listen);
    let checks = checks::all(&options.server.data, Some(options.server.listen), registry);
    for check in checks.iter().filter(|c| c.level != Level::Good) {
        print_check(check);
    }
    if let Some(fatal) = checks.iter().find(|c| c.level == Level::Fatal) {
        bail!("cannot start: {}", fatal.found);
    }
    if options.foreground {
        return serve(options);
    }
    let mut child = detach(&options)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    let log = options.server.data.join(LOG);
    let ended = || {
        let status = child.try_wait().ok().flatten()?;
        Some(format!("it ended with {status}; the reason is at the end of {}", log.display()))
    };
    let places = hosts::places(&options.server.data);
    let hosts = Hosting::decide(options.no_host, &checks).count(places.len());
    runtime.block_on(watch::until_up(&options.server.data, hosts, ended))?;
    print_next(&options.server.data);
    Ok(())
}

/// Where machines run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hosting {
    /// Nowhere: the control plane only.
    None,
    /// On this computer.
    Real,
    /// On a host that only shows them: this computer cannot run any, and what does not need containers can be tried all the same.
    Simulated,
}

impl Hosting {
    fn decide(no_host: bool, checks: &[Check]) -> Hosting {
        match (no_host, checks::can_run_machines(checks)) {
            (true, _) => Hosting::None,
            (false, true) => Hosting::Real,
            (false, false) => Hosting::Simulated,
        }
    }

    /// How many hosts there are, if a computer that runs machines is so many.
    fn count(self, places: usize) -> usize {
        match self {
            Hosting::None => 0,
            Hosting::Real => places,
            Hosting::Simulated => 1,
        }
    }
}

/// Several hosts reach this computer's servers at its address on their wire, and not at its loopback.
fn listen_on_wire(options: &mut Options) {
    if let Some(hosts) = hosts::Hosts::read(&options.server.data) {
        for address in [&mut options.server.listen, &mut options.registry_listen] {
            if address.ip().is_loopback() {
                address.set_ip(hosts.gateway());
            }
        }
    }
}

/// Starts this program again without a terminal.
fn detach(options: &Options) -> anyhow::Result<std::process::Child> {
    let path = options.server.data.join(LOG);
    if std::fs::metadata(&path).is_ok_and(|m| m.len() > LOG_MAX_BYTES) {
        std::fs::rename(&path, path.with_extension("log.old")).context("putting the old log away")?;
    }
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))?;
    let own = std::env::current_exe().context("finding this program")?;
    let mut command = Command::new(own);
    // As it was asked, so that no option is forgotten here.
    command.args(std::env::args_os().skip(1)).arg("--detached");
    let errors = log.try_clone().context("opening the log twice")?;
    command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn().context("starting the server")
}

/// Runs everything until SIGTERM or SIGINT.
fn serve(options: Options) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    let checks = checks::all(&options.server.data, None, None);
    let hosting = Hosting::decide(options.no_host, &checks);
    let (data, foreground) = (options.server.data.clone(), options.foreground);
    let names = options.server.names.clone();
    let places = hosts::places(&data);
    let count = hosting.count(places.len());
    let result = runtime.block_on(apiserver::serve(options.server, |app, down| {
        let mut roles = crate::control_plane::roles(app, &options.placement, down);
        if let Err(error) = RunFile::write(&data, &app.config.base_url) {
            tracing::error!(%error, "what runs cannot be written down: `skep down` will not find it");
        }
        let mut registry = None;
        if !options.no_registry {
            let (at, common) = (options.registry_listen, &options.registry);
            match crate::registry::beside(app, down, &data, at, &names, common) {
                Ok((running, seen)) => {
                    roles.push(running);
                    registry = Some(seen);
                }
                Err(error) => tracing::warn!(error = format!("{error:#}"), "there is no image registry"),
            }
        }
        match hosting {
            Hosting::Simulated => roles.push(simulated::play(app, down)),
            // Of an earlier start without the rights that this one has: what it showed as running is made anew.
            Hosting::Real => roles.push(simulated::remove(app, down)),
            Hosting::None => {}
        }
        let wire = hosts::Hosts::read(&data).map(|hosts| hosts.underlay());
        if !options.public_pool.is_empty() || wire.is_some() {
            roles.push(public::start(app, down, options.public_pool.clone(), wire));
        }
        if hosting == Hosting::Real {
            let vxlan_port = host::vxlan_port(&data).unwrap_or_else(|error| {
                tracing::warn!(%error, "the port of tenants' networks cannot be kept; it is the standard one");
                crate::host::VXLAN_PORT
            });
            let common = host::Common {
                cpu_percent: options.cpu_percent,
                uplink_mbit: options.uplink_mbit,
                eviction_hard: options.eviction_hard,
                vxlan_port,
                count: places.len() as u64,
                registry,
            };
            for place in &places {
                roles.push(host::supervise(app, down, place.clone(), &common));
            }
        }
        if foreground {
            let data = data.clone();
            roles.push(Box::pin(async move {
                match watch::until_up(&data, count, || None).await {
                    Ok(()) => print_next(&data),
                    Err(error) => eprintln!("skep: {error:#}"),
                }
            }));
        }
        roles
    }));
    RunFile::remove(&data);
    result
}

fn print_next(data: &Path) {
    let admin = data.join("admin.kubeconfig");
    println!();
    println!("Try next:");
    println!("  export KUBECONFIG={}", admin.display());
    println!("  skep tenant create shop && skep tenant kubeconfig shop > shop.kubeconfig");
    println!("  kubectl --kubeconfig shop.kubeconfig get namespaces,nodes");
}

fn print_check(check: &Check) {
    let mark = match check.level {
        Level::Good => paint("32", "ok"),
        Level::Limited => paint("33", "--"),
        Level::Fatal => paint("31", "!!"),
    };
    println!("{mark}  {:<20} {}", check.name, check.found);
    for (word, text) in [("cost", &check.cost), ("mend", &check.remedy)] {
        if !text.is_empty() {
            println!("    {:<20} {word}: {text}", "");
        }
    }
}

/// A step that is done, and how long after the beginning.
fn print_step(name: &str, what: &str, begun: Instant) {
    println!("{}  {name:<20} {what:<44} {:>6.2} s", paint("32", "ok"), begun.elapsed().as_secs_f64());
}
