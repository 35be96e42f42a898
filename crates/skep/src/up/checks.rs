//! `skep doctor`, and what `skep up` looks at before it starts: what this computer can do, what that costs where it cannot,
//! and how to mend it.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::bail;
use skep_machine::{Driver, ProcessDriver};

use super::print_check;
use crate::apiserver::default_data;
use crate::output::{Format, Output, Table, show};

/// Looks whether this computer can run everything, and says how to mend what is missing.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The data directory that is meant.
    #[arg(long, env = "SKEP_DATA", default_value_os_t = default_data())]
    data: PathBuf,
    /// The address that is meant.
    #[arg(long, env = "SKEP_LISTEN", default_value = "127.0.0.1:6443")]
    listen: SocketAddr,
    /// The address that is meant for the image registry.
    #[arg(long, env = "SKEP_REGISTRY_LISTEN", default_value = "127.0.0.1:5000")]
    registry_listen: SocketAddr,
    #[command(flatten)]
    output: Output,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Level {
    /// As it should be.
    Good,
    /// Something works less well, or not at all; the rest does.
    Limited,
    /// Nothing works.
    Fatal,
}

/// What was looked at.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) level: Level,
    /// What was found.
    pub(super) found: String,
    /// What that costs.
    pub(super) cost: String,
    /// How to mend it.
    pub(super) remedy: String,
}

/// The check that says whether machines can be made.
const MACHINES: &str = "machines";
/// The check that says whether images can be pushed to here.
const REGISTRY: &str = "registry";
/// The oldest kernel on which everything has been tried.
const KERNEL_MIN: (u32, u32) = (5, 15);
/// Below this a machine or two fill the disk.
const DISK_MIN_BYTES: u64 = 5 << 30;
/// Below this the control plane and one small machine do not fit.
const MEMORY_MIN_BYTES: u64 = 2 << 30;

fn good(name: &'static str, found: impl Into<String>) -> Check {
    Check { name, level: Level::Good, found: found.into(), cost: String::new(), remedy: String::new() }
}

fn limited(name: &'static str, found: impl Into<String>, cost: &str, remedy: &str) -> Check {
    Check {
        name,
        level: Level::Limited,
        found: found.into(),
        cost: cost.to_owned(),
        remedy: remedy.to_owned(),
    }
}

fn fatal(name: &'static str, found: impl Into<String>, remedy: &str) -> Check {
    Check { name, level: Level::Fatal, found: found.into(), cost: String::new(), remedy: remedy.to_owned() }
}

/// Looks at everything; at addresses only if they are given.
pub(super) fn all(data: &Path, listen: Option<SocketAddr>, registry: Option<SocketAddr>) -> Vec<Check> {
    let mut checks = vec![kernel(), memory(), directory(data)];
    checks.extend(listen.map(port));
    checks.extend(registry.map(registry_port));
    checks.push(machines(data));
    checks.push(overlay());
    checks.push(kvm());
    checks.extend(several_hosts(data));
    checks
}

/// The hosts that this computer is, if it is several. Before a start they need not be there: it makes them.
fn several_hosts(data: &Path) -> Option<Check> {
    let hosts = super::hosts::Hosts::read(data)?;
    let name = "hosts";
    let what = format!("{} on the wire {}", hosts.count, hosts.underlay().subnet);
    let up = super::RunFile::read(data).is_some_and(|f| f.is_alive());
    let missing = hosts.missing(data);
    Some(if !up || missing.is_empty() {
        good(name, what)
    } else {
        limited(
            name,
            format!("{what}; missing: {}", missing.join(", ")),
            "hosts do not reach each other, or the control plane",
            "run `skep down` and `skep up`, which make them anew",
        )
    })
}

/// Whether machines can be made here.
pub(super) fn can_run_machines(checks: &[Check]) -> bool {
    checks.iter().any(|c| c.name == MACHINES && c.level == Level::Good)
}

fn kernel() -> Check {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    match version(release) {
        Some(found) if found < KERNEL_MIN => limited(
            "kernel",
            format!("Linux {release}"),
            "containers may start slower, and some security settings have no effect",
            &format!("use Linux {}.{} or newer", KERNEL_MIN.0, KERNEL_MIN.1),
        ),
        _ => good("kernel", format!("Linux {release}")),
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(['.', '-']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn memory() -> Check {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    let kib = kib.and_then(|l| l.split_ascii_whitespace().next()).and_then(|n| n.parse::<u64>().ok());
    let bytes = kib.unwrap_or(0) * 1024;
    let found = format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
    if bytes < MEMORY_MIN_BYTES {
        return limited(
            "memory",
            found,
            "hardly a machine fits beside the control plane",
            "use 2 GiB or more",
        );
    }
    good("memory", found)
}

fn directory(data: &Path) -> Check {
    let remedy = "choose a directory that you may write with --data";
    let probe = data.join(".skep-probe");
    let written = std::fs::create_dir_all(data).and_then(|()| std::fs::write(&probe, "x"));
    if let Err(error) = written {
        return fatal("data directory", format!("{} cannot be written: {error}", data.display()), remedy);
    }
    // Whoever could write it can remove it.
    let _ = std::fs::remove_file(&probe);
    let free = nix::sys::statvfs::statvfs(data)
        .map(|s| s.blocks_available().saturating_mul(s.fragment_size()))
        .unwrap_or(0);
    let found = format!("{}, {:.1} GiB free", data.display(), free as f64 / f64::from(1 << 30));
    if free < DISK_MIN_BYTES {
        let cost = "images and containers fill the disk soon; writes are then refused";
        return limited("data directory", found, cost, "free some space, or choose another disk with --data");
    }
    good("data directory", found)
}

fn port(listen: SocketAddr) -> Check {
    match TcpListener::bind(listen) {
        Ok(_) => good("address", format!("{listen} is free")),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => fatal(
            "address",
            format!("{listen} is taken by another process"),
            "stop it, or choose another address with --listen; if it is skep itself, `skep status` shows it",
        ),
        Err(error) => {
            fatal("address", format!("{listen} cannot be used: {error}"), "choose another with --listen")
        }
    }
}

/// Without a registry everything else works.
fn registry_port(listen: SocketAddr) -> Check {
    let cost = "there is no image registry: images come from outside, or by `skep image load`";
    let remedy = "stop what listens there, or choose another address with --registry-listen";
    match TcpListener::bind(listen) {
        Ok(_) => good(REGISTRY, format!("{listen} is free")),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            limited(REGISTRY, format!("{listen} is taken by another process"), cost, remedy)
        }
        Err(error) => limited(REGISTRY, format!("{listen} cannot be used: {error}"), cost, remedy),
    }
}

fn machines(data: &Path) -> Check {
    let driver =
        ProcessDriver::new(data.join("probe"), &format!("skep-probe-{}", std::process::id()), Vec::new());
    match driver.probe() {
        Ok(()) => good(MACHINES, "of isolation `process`: namespaces and control groups work"),
        Err(error) => limited(
            MACHINES,
            error.story(),
            "no containers run here: a simulated host shows machines, nodes and pods as running, and nothing is executed",
            "start skep as root on a computer whose kernel allows namespaces and control groups",
        ),
    }
}

fn overlay() -> Check {
    let there = std::fs::read_to_string("/proc/filesystems")
        .is_ok_and(|text| text.lines().any(|l| l.trim().ends_with("overlay")));
    if there {
        return good("overlayfs", "the kernel has it");
    }
    limited(
        "overlayfs",
        "the kernel does not have it, or has not loaded it yet",
        "containers cannot share image layers",
        "load the module `overlay`, or use a kernel that has it",
    )
}

fn kvm() -> Check {
    let device = if Path::new("/dev/kvm").exists() { "/dev/kvm is there" } else { "there is no /dev/kvm" };
    limited(
        "virtual machines",
        format!("{device}; this version does not make virtual machines yet"),
        "machines of all tenants share this computer's kernel, each with users of its own (docs/machines.md says what that gives)",
        "",
    )
}

/// Looks, and says what it found.
///
/// # Errors
/// When something is so bad that nothing works.
pub(crate) fn run(options: Options) -> anyhow::Result<()> {
    let data = std::path::absolute(&options.data)?;
    let running = super::RunFile::read(&data).filter(super::RunFile::is_alive);
    let free = running.is_none();
    let mut checks = all(&data, free.then_some(options.listen), free.then_some(options.registry_listen));
    checks.extend(running.map(|up| good("address", format!("skep itself is up at {}", up.server))));
    match options.output.output {
        Format::Table => checks.iter().for_each(print_check),
        format => show(format, &checks, || {
            let mut table = Table::new(&["NAME"]);
            checks.iter().for_each(|c| table.row([c.name.to_owned()]));
            table
        })?,
    }
    if checks.iter().any(|c| c.level == Level::Fatal) {
        bail!("skep cannot run here as it is; what is marked !! must be mended first");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_compared_by_number() {
        assert_eq!(version("6.18.44-fc"), Some((6, 18)));
        assert_eq!(version("5.4.0-1"), Some((5, 4)));
        assert!(version("5.4.0") < Some(KERNEL_MIN) && version("5.15.1") >= Some(KERNEL_MIN));
        assert_eq!(version("what"), None);
    }

    #[test]
    fn a_taken_port_and_a_bad_directory_stop_everything() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(port(taken.local_addr().unwrap()).level, Level::Fatal);
        assert_eq!(registry_port(taken.local_addr().unwrap()).level, Level::Limited);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(directory(&file).level, Level::Fatal);
        assert_ne!(directory(&dir.path().join("new")).level, Level::Fatal);
    }
}
