//! Host daemons as children of `skep up`: started again when they end, stopped with it. Machines need neither.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use jiff::{SignedDuration, Timestamp};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use skep_agent::thresholds::Thresholds;
use skep_apiserver::app::App;
use skep_base::TenantName;
use skep_client::Backoff;
use tokio::process::{Child, Command};

use super::hosts::Place;
use crate::apiserver::Running;
use crate::host::VXLAN_PORT;
use crate::signals::{Shutdown, ended};

/// The host's credential is made anew at each start of `skep up`; it must outlast a long run of it.
const CREDENTIAL: SignedDuration = SignedDuration::from_hours(365 * 24);
/// Ports for installations beside the usual one: below those that systems and services of type NodePort hand out.
const OWN_PORTS: std::ops::RangeInclusive<u16> = 20_000..=29_999;
/// Waits before the daemon is started again.
const RESTART_FIRST: Duration = Duration::from_millis(200);
const RESTART_LONGEST: Duration = Duration::from_secs(10);
/// A daemon that lived this long has worked.
const WORKED_AFTER: Duration = Duration::from_secs(30);
/// How long it may take to end. It has nothing to finish: machines go on.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// What all hosts of this computer are told.
#[derive(Clone, Debug)]
pub(super) struct Common {
    /// How much CPU machines may have together, in percent of what there is, on all hosts.
    pub(super) cpu_percent: u64,
    /// What the uplink of each carries.
    pub(super) uplink_mbit: Option<u64>,
    /// How short machines may become before pods are evicted.
    pub(super) eviction_hard: Option<Thresholds>,
    /// The port of tenants' networks, the same on all.
    pub(super) vxlan_port: u16,
    /// How many hosts share the computer.
    pub(super) count: u64,
    /// The cloud's own registry: how images call it, and where it is reached.
    pub(super) registry: Option<(String, String)>,
}

/// The name of a host of this computer: the same at each start, whatever the computer is called by then.
fn name(place: &Place) -> std::io::Result<String> {
    let path = place.data.join("host-name");
    if let Ok(text) = std::fs::read_to_string(&path)
        && !text.trim().is_empty()
    {
        return Ok(text.trim().to_owned());
    }
    let own = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().to_ascii_lowercase();
    let own: String =
        own.trim().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(63).collect();
    let own = own.trim_matches('-');
    let own = if own.is_empty() { "host" } else { own };
    let name = match place.number {
        // Names have at most 63 characters, and the number must not be what is cut off.
        Some(number) => format!("{}-{number}", own.get(..59).unwrap_or(own)),
        None => own.to_owned(),
    };
    std::fs::write(&path, &name)?;
    Ok(name)
}

/// The UDP port over which this installation's hosts carry tenants' networks: the standard one where the data directory is
/// the usual one. Any other installation has one of its own, made once, for two that share a computer must not meet.
pub(super) fn vxlan_port(data: &Path) -> std::io::Result<u16> {
    let path = data.join("vxlan-port");
    if let Ok(text) = std::fs::read_to_string(&path)
        && let Ok(port) = text.trim().parse()
    {
        return Ok(port);
    }
    let port = if data == crate::apiserver::default_data() {
        VXLAN_PORT
    } else {
        OWN_PORTS.start() + rand::random::<u16>() % (OWN_PORTS.end() - OWN_PORTS.start())
    };
    std::fs::write(&path, port.to_string())?;
    Ok(port)
}

/// Keeps a host's daemon running until the end is announced.
pub(super) fn supervise(app: &Arc<App>, down: &Shutdown, place: Place, common: &Common) -> Running {
    let (app, down, common) = (app.clone(), down.clone(), common.clone());
    Box::pin(async move {
        let mut backoff = Backoff::new(RESTART_FIRST, RESTART_LONGEST);
        loop {
            let begun = Instant::now();
            match start(&app, &place, &common) {
                Ok(mut child) => {
                    tokio::select! {
                        status = child.wait() => match status {
                            Ok(status) => tracing::error!(%status, "the host daemon ended; it is started again"),
                            Err(error) => tracing::error!(%error, "the host daemon is lost"),
                        },
                        () = ended(down.clone()) => return stop(&mut child).await,
                    }
                }
                Err(error) => {
                    tracing::error!(error = format!("{error:#}"), "the host daemon cannot be started")
                }
            }
            if begun.elapsed() > WORKED_AFTER {
                backoff.reset();
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next_wait()) => {}
                () = ended(down.clone()) => return,
            }
        }
    })
}

fn start(app: &App, place: &Place, common: &Common) -> anyhow::Result<Child> {
    let data = &place.data;
    let name = name(place).context("naming the host")?;
    let path = data.join("host.kubeconfig");
    let system = TenantName::system();
    let kubeconfig = app
        .pki
        .tenant_kubeconfig(
            &app.config.base_url,
            (&system, ""),
            &format!("system:host:{name}"),
            &["system:hosts".to_owned()],
            CREDENTIAL,
            Timestamp::now(),
        )
        .context("making the host's credential")?;
    skep_auth::pki::write_private(&path, &kubeconfig.to_yaml().context("writing the host's kubeconfig")?)
        .context("writing the host's kubeconfig")?;
    let own = std::env::current_exe().context("finding this program")?;
    let mut command = Command::new(own);
    command.arg("host").arg("--with-parent").arg("--kubeconfig").arg(&path).arg("--data").arg(data);
    // Hosts that share a computer share what it has.
    let cpu_percent = (common.cpu_percent / common.count).max(1);
    command.arg("--name").arg(&name).arg("--cpu-percent").arg(cpu_percent.to_string());
    command.arg("--vxlan-port").arg(common.vxlan_port.to_string());
    if common.count > 1 {
        command.arg("--memory-part").arg(common.count.to_string());
    }
    if let Some(mbit) = common.uplink_mbit {
        command.arg("--uplink-mbit").arg(mbit.to_string());
    }
    if let Some(thresholds) = &common.eviction_hard {
        command.arg("--eviction-hard").arg(thresholds.to_string());
    }
    if let Some(address) = place.address {
        command.arg("--address").arg(address.to_string());
    }
    if let Some(namespace) = &place.namespace {
        command.arg("--network-namespace").arg(namespace);
    }
    if let Some((name, address)) = &common.registry {
        command.arg("--registry").arg(format!("{name}={address}"));
    }
    if let Some(path) = crate::config::current() {
        command.env(crate::config::VARIABLE, path);
    }
    command.stdin(Stdio::null()).kill_on_drop(true).spawn().context("starting it")
}

async fn stop(child: &mut Child) {
    if let Some(pid) = child.id().and_then(|p| i32::try_from(p).ok()) {
        // Gone meanwhile is as good.
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    if tokio::time::timeout(STOP_TIMEOUT, child.wait()).await.is_err() {
        tracing::warn!("the host daemon does not end by itself, and is killed");
        // It is waited for when it is dropped.
        let _ = child.kill().await;
    }
}
