//! Limits on version 2.

use std::fs;
use std::path::Path;

use super::set;
use crate::error::{AtPath, Error, ErrorKind, Result};
use crate::spec::Resources;

/// The controllers that children get, where they exist.
const WANTED: &[&str] = &["cpu", "cpuset", "io", "memory", "pids", "hugetlb"];

pub(super) fn create(base: &Path, group: &Path, resources: &Resources) -> Result<()> {
    let mut directory = base.to_owned();
    for name in group.components() {
        delegate(&directory);
        directory.push(name);
        match fs::create_dir(&directory) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            result => result.at("make control group", &directory)?,
        }
    }
    apply(&directory, resources)
}

/// Gives the children of a group what controllers there are. A group with processes of its own cannot do this; a limit that is then
/// missing is reported when it is set.
fn delegate(directory: &Path) {
    let available = fs::read_to_string(directory.join("cgroup.controllers")).unwrap_or_default();
    let enabled = fs::read_to_string(directory.join("cgroup.subtree_control")).unwrap_or_default();
    let enabled: Vec<&str> = enabled.split_whitespace().collect();
    for controller in available.split_whitespace().filter(|c| WANTED.contains(c) && !enabled.contains(c)) {
        let _ = fs::write(directory.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// Version 1's 2 to 262144 with 1024 in the middle, to version 2's 1 to 10000.
pub(super) fn weight_of_shares(shares: u64) -> u64 {
    1 + ((shares.clamp(2, 262_144) - 2) * 9_999) / 262_142
}

pub(super) fn apply(directory: &Path, resources: &Resources) -> Result<()> {
    let limit = |file: &str, what: &str, value: String| -> Result<()> {
        if !directory.join(file).exists() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "{what} cannot be limited: control group {} has no {file}; its parent must delegate the controller",
                    directory.display()
                ),
            ));
        }
        set(directory, file, value)
    };
    let bound = |bytes: i64| if bytes < 0 { "max".to_owned() } else { bytes.to_string() };
    if let Some(shares) = resources.cpu_shares {
        limit("cpu.weight", "cpu shares", weight_of_shares(shares).to_string())?;
    }
    if resources.cpu_quota_us.is_some() || resources.cpu_period_us.is_some() {
        let now = fs::read_to_string(directory.join("cpu.max")).unwrap_or_default();
        let mut now = now.split_whitespace();
        let quota_now = now.next().unwrap_or("max").to_owned();
        let quota = resources.cpu_quota_us.map_or(quota_now, bound);
        let period = resources
            .cpu_period_us
            .map_or_else(|| now.next().unwrap_or("100000").to_owned(), |p| p.to_string());
        limit("cpu.max", "cpu time", format!("{quota} {period}"))?;
    }
    if let Some(bytes) = resources.memory_limit_bytes {
        limit("memory.max", "memory", bound(bytes))?;
        // As much as the limit and no more: what is over it is killed, not swapped out.
        if directory.join("memory.swap.max").exists() {
            set(directory, "memory.swap.max", if bytes < 0 { "max" } else { "0" })?;
        }
    }
    if let Some(bytes) = resources.memory_min_bytes {
        limit("memory.min", "memory", bytes.to_string())?;
    }
    if let Some(bytes) = resources.memory_high_bytes {
        limit("memory.high", "memory", bytes.to_string())?;
    }
    if let Some(group) = resources.oom_kill_group {
        limit("memory.oom.group", "memory", u8::from(group).to_string())?;
    }
    if let Some(count) = resources.pids_limit {
        limit("pids.max", "processes", bound(count))?;
    }
    if let Some(cpus) = &resources.cpuset_cpus {
        limit("cpuset.cpus", "processors", cpus.clone())?;
    }
    if let Some(mems) = &resources.cpuset_mems {
        limit("cpuset.mems", "memory nodes", mems.clone())?;
    }
    for (size, bytes) in &resources.hugepages_bytes {
        limit(&format!("hugetlb.{size}.max"), "huge pages", bytes.to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_keep_order_and_ends() {
        assert_eq!(weight_of_shares(0), 1);
        assert_eq!(weight_of_shares(2), 1);
        assert_eq!(weight_of_shares(1024), 39);
        assert_eq!(weight_of_shares(262_144), 10_000);
        assert_eq!(weight_of_shares(u64::MAX), 10_000);
    }

    #[test]
    fn limits_are_written_as_version_2_wants_them() {
        let folder = tempfile::tempdir().unwrap();
        for file in ["cpu.weight", "cpu.max", "memory.max", "memory.swap.max", "pids.max", "memory.oom.group"]
        {
            fs::write(folder.path().join(file), "").unwrap();
        }
        fs::write(folder.path().join("cpu.max"), "max 100000\n").unwrap();
        let wanted = Resources {
            cpu_shares: Some(512),
            cpu_quota_us: Some(50_000),
            memory_limit_bytes: Some(1 << 20),
            pids_limit: Some(-1),
            oom_kill_group: Some(true),
            ..Resources::default()
        };
        apply(folder.path(), &wanted).unwrap();
        let read = |file: &str| fs::read_to_string(folder.path().join(file)).unwrap();
        assert_eq!(read("cpu.max"), "50000 100000");
        assert_eq!(read("memory.max"), "1048576");
        assert_eq!(read("memory.swap.max"), "0");
        assert_eq!(read("pids.max"), "max");
        assert_eq!(read("memory.oom.group"), "1");
        let missing = Resources { cpuset_cpus: Some("0".into()), ..Resources::default() };
        assert_eq!(apply(folder.path(), &missing).unwrap_err().kind, ErrorKind::Unsupported);
    }
}
