//! `skep down` and `skep status`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use skep_api::Tenant;
use skep_api::compute::{Host, Machine};
use skep_client::{Client, List, ListParams, Resource, Tenants};
use skep_machine::{Driver, Found, Phase, ProcessDriver};

use super::hosts::{self, Hosts};
use super::print_step;
use super::run_file::RunFile;
use crate::apiserver::default_data;
use crate::exit::{Code, failure};
use crate::output::{Format, Output, Table, show};

/// Stops everything that `skep up` started. Nothing is lost: `skep up` brings the same tenants and pods back.
#[derive(Debug, clap::Args)]
pub(crate) struct DownOptions {
    /// The data directory of the cloud.
    #[arg(long, env = "SKEP_DATA", default_value_os_t = default_data())]
    data: PathBuf,
    /// Leave machines and their containers running.
    #[arg(long)]
    keep_machines: bool,
}

/// Shows what runs.
#[derive(Debug, clap::Args)]
pub(crate) struct StatusOptions {
    /// The data directory of the cloud.
    #[arg(long, env = "SKEP_DATA", default_value_os_t = default_data())]
    data: PathBuf,
    #[command(flatten)]
    output: Output,
}

/// How long the server may take: it finishes requests, and writes what it holds.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// How long what runs in machines has to end by itself.
const MACHINE_GRACE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// Stops everything.
///
/// # Errors
/// When something does not stop.
pub(crate) fn down(options: DownOptions) -> anyhow::Result<()> {
    let data = std::path::absolute(&options.data).context("reading the working directory")?;
    let begun = Instant::now();
    match RunFile::read(&data).filter(RunFile::is_alive) {
        Some(running) => {
            kill(Pid::from_raw(running.pid), Signal::SIGTERM)
                .with_context(|| format!("stopping process {}; it may be another user's", running.pid))?;
            while running.is_alive() {
                if begun.elapsed() > STOP_TIMEOUT {
                    bail!("process {} still runs after {} s", running.pid, STOP_TIMEOUT.as_secs());
                }
                std::thread::sleep(POLL);
            }
            print_step("control plane", "stopped", begun);
        }
        None => println!("skep is not up with {}", data.display()),
    }
    if !options.keep_machines {
        let places = hosts::places(&data);
        let mut stopped = 0;
        for place in &places {
            stopped += stop_machines(&place.data)?;
        }
        if stopped > 0 {
            print_step("machines", &format!("{stopped} stopped"), begun);
        }
        let mut networks = 0;
        for place in &places {
            let folder = place.data.join(skep_host::NETWORKS);
            if let Some(removed) = place.run(|| skep_hostnet::remove_switches(&folder))? {
                networks += removed.context("removing the tenants' networks from this computer")?;
            }
        }
        if networks > 0 {
            print_step("networks", &format!("{networks} removed"), begun);
        }
        if let Some(hosts) = Hosts::read(&data) {
            hosts.remove(&data)?;
            print_step("hosts", &format!("{} removed", hosts.count), begun);
        }
    }
    Ok(())
}

fn driver(data: &Path) -> Option<ProcessDriver> {
    let id = std::fs::read_to_string(data.join("host-id")).ok()?;
    Some(ProcessDriver::new(data.join("machines"), &format!("skep-{}", id.trim()), Vec::new()))
}

/// Stops all machines at once; gives how many there were.
fn stop_machines(data: &Path) -> anyhow::Result<usize> {
    let Some(driver) = driver(data) else { return Ok(0) };
    let found = driver.list().map_err(|e| anyhow::anyhow!("looking for machines: {}", e.story()))?;
    let running: Vec<Found> =
        found.into_iter().filter(|f| matches!(f.phase, Phase::Running { .. })).collect();
    let stopping: Vec<_> = running
        .iter()
        .map(|machine| {
            let (driver, id) = (driver.clone(), machine.id.clone());
            std::thread::spawn(move || driver.stop(&id, MACHINE_GRACE).map_err(|e| e.story()))
        })
        .collect();
    for thread in stopping {
        match thread.join() {
            Ok(Ok(())) => {}
            Ok(Err(why)) => bail!("a machine does not stop: {why}"),
            Err(_) => bail!("a machine could not be stopped"),
        }
    }
    Ok(running.len())
}

/// Everything that runs.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct State {
    server: String,
    pid: i32,
    data: PathBuf,
    registry: Option<String>,
    tenants: usize,
    /// What joins the hosts, when the computer is several.
    wire: Option<String>,
    hosts: Vec<HostState>,
    machines: Vec<MachineState>,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct HostState {
    name: String,
    address: String,
    ready: bool,
    machines: usize,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct MachineState {
    tenant: String,
    name: String,
    phase: String,
    flavor: String,
    isolation: String,
    host: Option<String>,
}

async fn look(data: &Path, running: &RunFile) -> anyhow::Result<State> {
    let client = Client::from_kubeconfig(&data.join("admin.kubeconfig"))?;
    let all = ListParams::default();
    let tenants: List<Tenant> =
        client.list_all(&Resource::of::<Tenant>().at(Tenants::Own), all.clone()).await?;
    let hosts: List<Host> = client.list_all(&Resource::of::<Host>().at(Tenants::Own), all.clone()).await?;
    let machines: List<Machine> =
        client.list_all(&Resource::of::<Machine>().at(Tenants::All), all.clone()).await?;
    let on = |host: &str| machines.items.iter().filter(|m| m.spec.host_name.as_deref() == Some(host)).count();
    let hosts = hosts.items.iter().map(|host| {
        let name = host.metadata.name.clone().unwrap_or_default();
        let mut addresses = host.status.iter().flat_map(|s| s.addresses.iter().flatten());
        let address =
            addresses.find(|a| a.type_ == "InternalIP").map_or_else(String::new, |a| a.address.clone());
        HostState { ready: host.is_ready(), machines: on(&name), name, address }
    });
    let tenant = |machine: &Machine| {
        let annotations = machine.metadata.annotations.as_ref();
        annotations.and_then(|a| a.get(skep_client::TENANT_ANNOTATION)).cloned().unwrap_or_default()
    };
    Ok(State {
        server: running.server.clone(),
        pid: running.pid,
        data: data.to_owned(),
        registry: crate::registry::address(data).filter(|at| std::net::TcpStream::connect(at).is_ok()),
        tenants: tenants.items.len(),
        wire: Hosts::read(data).map(|h| h.underlay().subnet.to_string()),
        hosts: hosts.collect(),
        machines: machines
            .items
            .iter()
            .map(|machine| MachineState {
                tenant: tenant(machine),
                name: machine.metadata.name.clone().unwrap_or_default(),
                phase: machine.phase().as_str().to_owned(),
                flavor: machine.spec.flavor_name.clone(),
                isolation: machine.spec.isolation.to_string(),
                host: machine.spec.host_name.clone(),
            })
            .collect(),
    })
}

impl State {
    fn table(&self) -> Table {
        let mut table = Table::new(&["WHAT", "STATE"]);
        let mut row = |what: &str, state: String| table.row([what.to_owned(), state]);
        row("control plane", format!("{} (process {})", self.server, self.pid));
        row("data", self.data.display().to_string());
        row("registry", self.registry.clone().unwrap_or_else(|| "none".to_owned()));
        row("tenants", self.tenants.to_string());
        if let Some(wire) = &self.wire {
            row("wire", format!("{wire}, between hosts of this computer"));
        }
        for HostState { name, address, ready, machines } in &self.hosts {
            let ready = if *ready { "Ready" } else { "NotReady" };
            row("host", format!("{name} ({address}): {ready}, {machines} machines"));
        }
        if self.hosts.is_empty() {
            row("host", "none: no containers run here (`skep doctor` says why)".to_owned());
        }
        for m in &self.machines {
            let MachineState { tenant, name, phase, flavor, isolation, .. } = m;
            row("machine", format!("{tenant}/{name}: {phase}, {flavor} ({isolation})"));
        }
        table
    }
}

/// Shows what runs.
///
/// # Errors
/// When nothing runs, the server does not answer, or a host is not ready.
pub(crate) fn status(options: StatusOptions) -> anyhow::Result<()> {
    let data = std::path::absolute(&options.data).context("reading the working directory")?;
    let Some(running) = RunFile::read(&data).filter(RunFile::is_alive) else {
        return Err(failure(
            Code::Unreachable,
            format!("skep is not up with {}; `skep up` starts it", data.display()),
        ));
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    let state = runtime.block_on(look(&data, &running))?;
    match options.output.output {
        Format::Name => crate::output::print(&format!("{}\n", state.server))?,
        format => show(format, &state, || state.table())?,
    }
    match state.hosts.iter().find(|host| !host.ready) {
        None => Ok(()),
        Some(host) => Err(failure(
            Code::Partial,
            format!(
                "the host {} is not ready; {} and `kubectl describe host {}` say why",
                host.name,
                data.join("skep.log").display(),
                host.name
            ),
        )),
    }
}
