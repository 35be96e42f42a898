//! What a pod uses besides its control groups: disk and network.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What a directory uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskUsage {
    /// Blocks on disk. A file with several names counts once.
    pub bytes: u64,
    /// Files, directories and links.
    pub inodes: u64,
}

/// Counts what a directory uses, without leaving its filesystem. What vanishes meanwhile counts or not; never blocks on what
/// a container has made there.
pub fn disk_usage(directory: &Path) -> std::io::Result<DiskUsage> {
    let root = fs::symlink_metadata(directory)?;
    let mut usage = DiskUsage { bytes: root.blocks() * 512, inodes: 1 };
    let mut linked = BTreeSet::new();
    let mut folders: Vec<PathBuf> = vec![directory.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let Ok(data) = entry.metadata() else { continue };
            if data.dev() != root.dev() || (data.nlink() > 1 && !data.is_dir() && !linked.insert(data.ino()))
            {
                continue;
            }
            usage.bytes += data.blocks() * 512;
            usage.inodes += 1;
            if data.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Ok(usage)
}

/// Counters of a network device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceCounters {
    /// Its name.
    pub name: String,
    /// Received.
    pub rx_bytes: u64,
    /// Received.
    pub rx_packets: u64,
    /// Lost or broken on receipt.
    pub rx_errors: u64,
    /// Dropped on receipt.
    pub rx_dropped: u64,
    /// Sent.
    pub tx_bytes: u64,
    /// Sent.
    pub tx_packets: u64,
    /// Lost or broken on sending.
    pub tx_errors: u64,
    /// Dropped on sending.
    pub tx_dropped: u64,
}

/// TCP sockets of a network namespace, both IP versions together. Which state each is in the kernel tells only by walking its table of the connections
/// of *all* namespaces, which takes milliseconds; these it counts as it goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpCounters {
    /// Listening, connected or being connected.
    pub in_use: u64,
    /// Waiting for late packets.
    pub time_wait: u64,
    /// Closed by their process and not by the other side.
    pub orphaned: u64,
}

/// What a network namespace does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkStats {
    /// All devices but loopback.
    pub devices: Vec<DeviceCounters>,
    /// TCP.
    pub tcp: TcpCounters,
}

/// The network of the namespace that a process is in, read through its directory in `/proc`: no privilege is needed that the reader
/// of the process has not, and no thread changes its namespace. Any running container's first process will do.
pub fn network_stats(pid: u32) -> std::io::Result<NetworkStats> {
    network_in(Path::new(&format!("/proc/{pid}/net")))
}

/// The network of the namespace that the calling thread is in.
pub fn network_here() -> std::io::Result<NetworkStats> {
    network_in(Path::new("/proc/thread-self/net"))
}

fn network_in(folder: &Path) -> std::io::Result<NetworkStats> {
    let devices = devices(&fs::read_to_string(folder.join("dev"))?);
    let mut tcp = TcpCounters::default();
    // Missing where the kernel has no IPv6.
    for file in ["sockstat", "sockstat6"] {
        count_tcp(&fs::read_to_string(folder.join(file)).unwrap_or_default(), &mut tcp);
    }
    Ok(NetworkStats { devices, tcp })
}

fn devices(text: &str) -> Vec<DeviceCounters> {
    text.lines()
        .filter_map(|line| {
            let (name, numbers) = line.split_once(':')?;
            let n: Vec<u64> = numbers.split_whitespace().filter_map(|n| n.parse().ok()).collect();
            let name = name.trim();
            (n.len() >= 12 && name != "lo").then(|| DeviceCounters {
                name: name.to_owned(),
                rx_bytes: n[0],
                rx_packets: n[1],
                rx_errors: n[2],
                rx_dropped: n[3],
                tx_bytes: n[8],
                tx_packets: n[9],
                tx_errors: n[10],
                tx_dropped: n[11],
            })
        })
        .collect()
}

/// Lines of `TCP: inuse 3 orphan 0 tw 1`.
fn count_tcp(text: &str, counters: &mut TcpCounters) {
    for line in text.lines() {
        let Some(rest) = line.strip_prefix("TCP: ").or_else(|| line.strip_prefix("TCP6: ")) else { continue };
        let words: Vec<&str> = rest.split_whitespace().collect();
        for pair in words.chunks_exact(2) {
            let count = pair[1].parse().unwrap_or(0);
            match pair[0] {
                "inuse" => counters.in_use += count,
                "orphan" => counters.orphaned += count,
                "tw" => counters.time_wait += count,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_counted_once() {
        let folder = tempfile::tempdir().unwrap();
        let empty = disk_usage(folder.path()).unwrap();
        fs::write(folder.path().join("a"), vec![1; 100_000]).unwrap();
        fs::hard_link(folder.path().join("a"), folder.path().join("b")).unwrap();
        fs::create_dir(folder.path().join("d")).unwrap();
        std::os::unix::fs::symlink("/", folder.path().join("d/root")).unwrap();
        let full = disk_usage(folder.path()).unwrap();
        assert_eq!(full.inodes, empty.inodes + 3);
        assert!((100_000..200_000).contains(&(full.bytes - empty.bytes)), "{full:?}");
        assert!(disk_usage(&folder.path().join("none")).is_err());
    }

    #[test]
    fn the_kernels_tables_are_read() {
        let text = "Inter-| Receive | Transmit\n face |bytes packets\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 10 2 3 4 0 0 0 0 50 6 7 8 0 0 0 0\n";
        let found = devices(text);
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].rx_bytes, found[0].rx_dropped, found[0].tx_bytes, found[0].tx_errors),
            (10, 4, 50, 7)
        );
        let mut tcp = TcpCounters::default();
        count_tcp(
            "sockets: used 9\nTCP: inuse 3 orphan 1 tw 2 alloc 5 mem 1\nUDP: inuse 7 mem 0\n",
            &mut tcp,
        );
        count_tcp("TCP6: inuse 4\nUDP6: inuse 1\n", &mut tcp);
        assert_eq!((tcp.in_use, tcp.time_wait, tcp.orphaned), (7, 2, 1));
        assert!(network_here().is_ok());
        assert!(network_stats(std::process::id()).is_ok());
    }
}
