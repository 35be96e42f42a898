//! What the computer has.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::Path;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use skep_api::compute::{HostAddress, HostInfo};
use skep_machine::process::DISK_FILE;

/// What the host keeps for itself, and how often CPU is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserve {
    /// Thousandths of a CPU for everything that is not a machine.
    pub cpu_millis: u64,
    /// Memory for everything that is not a machine.
    pub memory_bytes: u64,
    /// How much CPU machines may have together, in percent of what there is. Above 100 they share it when all want
    /// it; memory is never promised twice.
    pub cpu_percent: u64,
    /// How many hosts share the computer: each has this part of its memory.
    pub memory_part: u64,
}

impl Default for Reserve {
    fn default() -> Self {
        Reserve { cpu_millis: 200, memory_bytes: 512 << 20, cpu_percent: 100, memory_part: 1 }
    }
}

/// What there is: thousandths of CPUs, bytes of memory, bytes of disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capacity {
    pub(crate) cpu_millis: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) disk_bytes: u64,
}

impl Capacity {
    /// What this computer has; the disk is the one that holds a directory.
    pub(crate) fn read(data: &Path) -> Capacity {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let free = nix::sys::statvfs::statvfs(data)
            .map(|s| s.blocks_available().saturating_mul(s.fragment_size()))
            .unwrap_or(0);
        // What machines hold already is promised to them, and not gone.
        let disk = free.saturating_add(held_by_machines(data));
        Capacity {
            cpu_millis: u64::try_from(cpus).unwrap_or(1) * 1000,
            memory_bytes: memory_total(&meminfo).unwrap_or(0),
            disk_bytes: disk,
        }
    }

    /// What machines may have of it.
    pub(crate) fn allocatable(self, reserve: Reserve) -> Capacity {
        let cpu = self.cpu_millis.saturating_sub(reserve.cpu_millis);
        Capacity {
            cpu_millis: cpu.saturating_mul(reserve.cpu_percent) / 100,
            memory_bytes: self.memory_bytes.saturating_sub(reserve.memory_bytes) / reserve.memory_part.max(1),
            disk_bytes: self.disk_bytes,
        }
    }

    /// As objects write it.
    pub(crate) fn resources(self) -> BTreeMap<String, Quantity> {
        let mib = |bytes: u64| format!("{}Mi", bytes >> 20);
        [
            ("cpu", format!("{}m", self.cpu_millis)),
            ("memory", mib(self.memory_bytes)),
            ("ephemeral-storage", mib(self.disk_bytes)),
        ]
        .map(|(name, text)| (name.to_owned(), Quantity(text)))
        .into()
    }
}

/// What the disks of machines take of the host's now.
fn held_by_machines(data: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    /// What `st_blocks` counts.
    const BLOCK: u64 = 512;
    let machines = std::fs::read_dir(data.join("machines")).into_iter().flatten().flatten();
    let disks = machines.filter_map(|m| std::fs::metadata(m.path().join(DISK_FILE)).ok());
    disks.fold(0, |sum, disk| sum.saturating_add(disk.blocks().saturating_mul(BLOCK)))
}

fn memory_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    Some(line.split_ascii_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// What kind of computer it is.
pub(crate) fn info() -> HostInfo {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    HostInfo {
        architecture: architecture.to_owned(),
        operating_system: std::env::consts::OS.to_owned(),
        kernel_version: read("/proc/sys/kernel/osrelease"),
        skep_version: env!("CARGO_PKG_VERSION").to_owned(),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
    }
}

/// Where other hosts reach it, if nobody says: the address that it would send from.
pub(crate) fn own_address() -> IpAddr {
    let own = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        // Nothing is sent: the kernel only chooses a route.
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        socket.local_addr()
    });
    own.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |a| a.ip())
}

/// Where it is reached, as objects write it.
pub(crate) fn addresses(address: IpAddr, name: &str) -> Vec<HostAddress> {
    let entry = |type_: &str, address: String| HostAddress { type_: type_.to_owned(), address };
    vec![entry("InternalIP", address.to_string()), entry("Hostname", name.to_owned())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_never_promised_twice() {
        let all = Capacity { cpu_millis: 2000, memory_bytes: 4 << 30, disk_bytes: 10 << 30 };
        let reserve = Reserve { cpu_millis: 200, memory_bytes: 1 << 30, cpu_percent: 400, memory_part: 1 };
        let left = all.allocatable(reserve);
        assert_eq!((left.cpu_millis, left.memory_bytes), (7200, 3 << 30));
        assert_eq!(left.resources()["cpu"].0, "7200m");
        assert_eq!(left.resources()["memory"].0, "3072Mi");
        let tiny = Capacity { cpu_millis: 100, memory_bytes: 1, disk_bytes: 0 }.allocatable(reserve);
        assert_eq!((tiny.cpu_millis, tiny.memory_bytes), (0, 0));
    }

    #[test]
    fn what_machines_hold_is_not_gone() {
        let data = tempfile::tempdir().unwrap();
        assert_eq!(held_by_machines(data.path()), 0);
        for name in ["a", "b"] {
            std::fs::create_dir_all(data.path().join("machines").join(name)).unwrap();
            std::fs::write(data.path().join("machines").join(name).join(DISK_FILE), vec![1; 1 << 20])
                .unwrap();
        }
        assert!((2 << 20..3 << 20).contains(&held_by_machines(data.path())));
    }

    #[test]
    fn memory_is_read() {
        assert_eq!(memory_total("MemTotal:       2048 kB\nMemFree: 1 kB\n"), Some(2 << 20));
        assert_eq!(memory_total("MemFree: 1 kB"), None);
        assert!(Capacity::read(Path::new("/")).memory_bytes > 0);
    }
}
