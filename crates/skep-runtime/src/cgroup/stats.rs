//! What a group uses, read from its files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What a group uses. Counters count from the group's creation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupStats {
    /// Processor time.
    pub cpu_usage_ns: u64,
    /// Processor time in user mode.
    pub cpu_user_ns: u64,
    /// Processor time in the kernel.
    pub cpu_system_ns: u64,
    /// Periods in which a quota applied.
    pub cpu_periods: u64,
    /// Periods in which the quota was used up.
    pub cpu_throttled_periods: u64,
    /// Time spent waiting for a new quota.
    pub cpu_throttled_ns: u64,
    /// Memory, page cache included.
    pub memory_usage_bytes: u64,
    /// Memory that cannot be had back easily: usage without inactive file pages.
    pub memory_working_set_bytes: u64,
    /// Anonymous memory.
    pub memory_rss_bytes: u64,
    /// Page cache.
    pub memory_cache_bytes: u64,
    /// Mapped files.
    pub memory_mapped_file_bytes: u64,
    /// The hard limit, if there is one.
    pub memory_limit_bytes: Option<u64>,
    /// Page faults.
    pub page_faults: u64,
    /// Page faults that needed IO.
    pub major_page_faults: u64,
    /// Kills because memory was used up.
    pub oom_kills: u64,
    /// Tasks.
    pub pids: u64,
    /// Bytes read from block devices.
    pub io_read_bytes: u64,
    /// Bytes written to block devices.
    pub io_write_bytes: u64,
    /// Reads from block devices.
    pub io_reads: u64,
    /// Writes to block devices.
    pub io_writes: u64,
}

/// What a group has used of processors, and uses of memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GroupUsage {
    /// Processor time since the group's creation.
    pub cpu_ns: u64,
    /// Memory that cannot be had back easily: usage without inactive file pages.
    pub memory_working_set_bytes: u64,
}

/// A limit at or above this is version 1's way to say "none" (the page-rounded largest number).
const V1_UNLIMITED_BYTES: u64 = 1 << 62;

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The value behind a key in a file of `key value` lines.
pub(super) fn keyed(path: &Path, key: &str) -> Option<u64> {
    find(&fs::read_to_string(path).ok()?, key)
}

fn find(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| value.trim().parse().ok())?
    })
}

pub(super) fn v1(bases: &BTreeMap<String, PathBuf>, group: &Path) -> GroupStats {
    let file = |controller: &str, name: &str| bases.get(controller).map(|b| b.join(group).join(name));
    let value = |controller: &str, name: &str| file(controller, name).and_then(|p| number(&p)).unwrap_or(0);
    let text = |controller: &str, name: &str| {
        file(controller, name).and_then(|p| fs::read_to_string(p).ok()).unwrap_or_default()
    };
    let memory = text("memory", "memory.stat");
    let memory = |key: &str| find(&memory, key).unwrap_or(0);
    let cpu = text("cpu", "cpu.stat");
    let cpu = |key: &str| find(&cpu, key).unwrap_or(0);
    let usage = value("memory", "memory.usage_in_bytes");
    let limit = value("memory", "memory.limit_in_bytes");
    let (io_read_bytes, io_write_bytes) = blkio(&text("blkio", "blkio.throttle.io_service_bytes_recursive"));
    let (io_reads, io_writes) = blkio(&text("blkio", "blkio.throttle.io_serviced_recursive"));
    GroupStats {
        cpu_usage_ns: value("cpuacct", "cpuacct.usage"),
        cpu_user_ns: value("cpuacct", "cpuacct.usage_user"),
        cpu_system_ns: value("cpuacct", "cpuacct.usage_sys"),
        cpu_periods: cpu("nr_periods"),
        cpu_throttled_periods: cpu("nr_throttled"),
        cpu_throttled_ns: cpu("throttled_time"),
        memory_usage_bytes: usage,
        memory_working_set_bytes: usage.saturating_sub(memory("total_inactive_file")),
        memory_rss_bytes: memory("total_rss"),
        memory_cache_bytes: memory("total_cache"),
        memory_mapped_file_bytes: memory("total_mapped_file"),
        memory_limit_bytes: (limit > 0 && limit < V1_UNLIMITED_BYTES).then_some(limit),
        page_faults: memory("total_pgfault"),
        major_page_faults: memory("total_pgmajfault"),
        oom_kills: file("memory", "memory.oom_control").and_then(|p| keyed(&p, "oom_kill")).unwrap_or(0),
        pids: value("pids", "pids.current"),
        io_read_bytes,
        io_write_bytes,
        io_reads,
        io_writes,
    }
}

pub(super) fn v1_usage(bases: &BTreeMap<String, PathBuf>, group: &Path) -> GroupUsage {
    let file = |controller: &str, name: &str| bases.get(controller).map(|b| b.join(group).join(name));
    let value = |controller: &str, name: &str| file(controller, name).and_then(|p| number(&p)).unwrap_or(0);
    let inactive = file("memory", "memory.stat").and_then(|p| keyed(&p, "total_inactive_file")).unwrap_or(0);
    GroupUsage {
        cpu_ns: value("cpuacct", "cpuacct.usage"),
        memory_working_set_bytes: value("memory", "memory.usage_in_bytes").saturating_sub(inactive),
    }
}

pub(super) fn v2_usage(directory: &Path) -> GroupUsage {
    let inactive = keyed(&directory.join("memory.stat"), "inactive_file").unwrap_or(0);
    GroupUsage {
        cpu_ns: keyed(&directory.join("cpu.stat"), "usage_usec").unwrap_or(0).saturating_mul(1_000),
        memory_working_set_bytes: number(&directory.join("memory.current"))
            .unwrap_or(0)
            .saturating_sub(inactive),
    }
}

/// Sums lines of `MAJOR:MINOR Read N`.
fn blkio(text: &str) -> (u64, u64) {
    let mut sums = (0, 0);
    for line in text.lines() {
        let mut words = line.split_whitespace().skip(1);
        let (kind, count) = (words.next(), words.next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0));
        match kind {
            Some("Read") => sums.0 += count,
            Some("Write") => sums.1 += count,
            _ => {}
        }
    }
    sums
}

pub(super) fn v2(directory: &Path) -> GroupStats {
    let text = |name: &str| fs::read_to_string(directory.join(name)).unwrap_or_default();
    let value = |name: &str| number(&directory.join(name));
    let cpu = text("cpu.stat");
    let us = |key: &str| find(&cpu, key).unwrap_or(0).saturating_mul(1_000);
    let cpu = |key: &str| find(&cpu, key).unwrap_or(0);
    let memory = text("memory.stat");
    let memory = |key: &str| find(&memory, key).unwrap_or(0);
    let usage = value("memory.current").unwrap_or(0);
    let io = text("io.stat");
    let io = |key: &str| -> u64 {
        io.split_whitespace()
            .filter_map(|w| w.strip_prefix(key)?.strip_prefix('=')?.parse::<u64>().ok())
            .sum()
    };
    GroupStats {
        cpu_usage_ns: us("usage_usec"),
        cpu_user_ns: us("user_usec"),
        cpu_system_ns: us("system_usec"),
        cpu_periods: cpu("nr_periods"),
        cpu_throttled_periods: cpu("nr_throttled"),
        cpu_throttled_ns: us("throttled_usec"),
        memory_usage_bytes: usage,
        memory_working_set_bytes: usage.saturating_sub(memory("inactive_file")),
        memory_rss_bytes: memory("anon"),
        memory_cache_bytes: memory("file"),
        memory_mapped_file_bytes: memory("file_mapped"),
        memory_limit_bytes: value("memory.max"),
        page_faults: memory("pgfault"),
        major_page_faults: memory("pgmajfault"),
        oom_kills: keyed(&directory.join("memory.events"), "oom_kill").unwrap_or(0),
        pids: value("pids.current").unwrap_or(0),
        io_read_bytes: io("rbytes"),
        io_write_bytes: io("wbytes"),
        io_reads: io("rios"),
        io_writes: io("wios"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_2_files_are_understood() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write(
            "cpu.stat",
            "usage_usec 10\nuser_usec 7\nsystem_usec 3\nnr_periods 2\nnr_throttled 1\nthrottled_usec 4\n",
        );
        write("memory.current", "1000\n");
        write("memory.max", "max\n");
        write(
            "memory.stat",
            "anon 300\nfile 600\nfile_mapped 5\ninactive_file 400\npgfault 9\npgmajfault 1\n",
        );
        write("memory.events", "low 0\noom 3\noom_kill 2\n");
        write("pids.current", "4\n");
        write("io.stat", "8:0 rbytes=10 wbytes=20 rios=1 wios=2\n8:16 rbytes=1 wbytes=2 rios=3 wios=4\n");
        let got = v2(folder.path());
        assert_eq!(got.cpu_usage_ns, 10_000);
        assert_eq!(got.memory_working_set_bytes, 600);
        assert_eq!(v2_usage(folder.path()), GroupUsage { cpu_ns: 10_000, memory_working_set_bytes: 600 });
        assert_eq!(got.memory_limit_bytes, None);
        assert_eq!(got.oom_kills, 2);
        assert_eq!((got.io_read_bytes, got.io_write_bytes, got.io_reads, got.io_writes), (11, 22, 4, 6));
    }

    #[test]
    fn version_1_block_io_is_summed() {
        assert_eq!(blkio("8:0 Read 5\n8:0 Write 6\n8:0 Sync 1\n8:16 Read 7\nTotal 18\n"), (12, 6));
    }
}
