//! Limits on version 1.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::devices::DeviceRule;
use super::set;
use crate::error::{AtPath, Error, ErrorKind, Result};
use crate::spec::Resources;

/// The controllers that we use. `cpuset` and `hugetlb` only for groups that limit something in them, since
/// joining a hierarchy costs time.
pub(super) const USED: &[&str] =
    &["cpu", "cpuacct", "cpuset", "memory", "pids", "blkio", "devices", "freezer", "hugetlb"];

/// Those in which every group exists. `blkio` only counts.
const ALWAYS: &[&str] = &["cpu", "cpuacct", "memory", "pids", "blkio", "devices", "freezer"];

pub(super) fn create(bases: &BTreeMap<String, PathBuf>, group: &Path, resources: &Resources) -> Result<()> {
    for (controller, base) in bases {
        if ALWAYS.contains(&controller.as_str()) {
            let directory = base.join(group);
            fs::create_dir_all(&directory).at("make control group", &directory)?;
        }
    }
    apply(bases, group, resources)
}

pub(super) fn apply(bases: &BTreeMap<String, PathBuf>, group: &Path, resources: &Resources) -> Result<()> {
    let need = |controller: &str, what: &str| -> Result<PathBuf> {
        bases.get(controller).map(|b| b.join(group)).ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                format!("{what} cannot be limited: the control group controller {controller} is not mounted"),
            )
        })
    };
    if let Some(shares) = resources.cpu_shares {
        set(&need("cpu", "cpu shares")?, "cpu.shares", shares.to_string())?;
    }
    // The kernel checks that quota/period fits the parent after each write; the period alone never raises it above
    // what is allowed if the quota is lifted in between.
    if resources.cpu_period_us.is_some() || resources.cpu_quota_us.is_some() {
        let directory = need("cpu", "cpu time")?;
        if let Some(period) = resources.cpu_period_us {
            let file = directory.join("cpu.cfs_period_us");
            let same = fs::read_to_string(&file).is_ok_and(|v| v.trim() == period.to_string());
            if !same {
                set(&directory, "cpu.cfs_quota_us", "-1")?;
                set(&directory, "cpu.cfs_period_us", period.to_string())?;
            }
        }
        if let Some(quota) = resources.cpu_quota_us {
            set(&directory, "cpu.cfs_quota_us", quota.max(-1).to_string())?;
        }
    }
    if let Some(limit) = resources.memory_limit_bytes {
        memory(&need("memory", "memory")?, limit.max(-1))?;
    }
    if let Some(limit) = resources.pids_limit {
        let value = if limit < 0 { "max".to_owned() } else { limit.to_string() };
        set(&need("pids", "processes")?, "pids.max", value)?;
    }
    if resources.cpuset_cpus.is_some() || resources.cpuset_mems.is_some() {
        need("cpuset", "processors")?;
        if let Some(base) = bases.get("cpuset") {
            cpuset(base, group, resources)?;
        }
    }
    for (size, bytes) in &resources.hugepages_bytes {
        let directory = need("hugetlb", "huge pages")?;
        fs::create_dir_all(&directory).at("make control group", &directory)?;
        set(&directory, &format!("hugetlb.{size}.limit_in_bytes"), bytes.to_string())?;
    }
    Ok(())
}

/// The limit with swap may not be below the one without, so the order depends on the direction.
fn memory(directory: &Path, limit: i64) -> Result<()> {
    let with_swap = directory.join("memory.memsw.limit_in_bytes").exists();
    if !with_swap {
        return set(directory, "memory.limit_in_bytes", limit.to_string());
    }
    if set(directory, "memory.limit_in_bytes", limit.to_string()).is_err() {
        set(directory, "memory.memsw.limit_in_bytes", limit.to_string())?;
        return set(directory, "memory.limit_in_bytes", limit.to_string());
    }
    set(directory, "memory.memsw.limit_in_bytes", limit.to_string())
}

/// A new group of `cpuset` is empty and takes no process before it has processors and memory nodes.
fn cpuset(base: &Path, group: &Path, resources: &Resources) -> Result<()> {
    let mut directory = base.to_owned();
    for name in group.components() {
        let parent = directory.clone();
        directory.push(name);
        fs::create_dir_all(&directory).at("make control group", &directory)?;
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let own = fs::read_to_string(directory.join(file)).unwrap_or_default();
            if own.trim().is_empty() {
                let above = fs::read_to_string(parent.join(file)).unwrap_or_default();
                set(&directory, file, above.trim())?;
            }
        }
    }
    if let Some(cpus) = &resources.cpuset_cpus {
        set(&directory, "cpuset.cpus", cpus)?;
    }
    if let Some(mems) = &resources.cpuset_mems {
        set(&directory, "cpuset.mems", mems)?;
    }
    Ok(())
}

pub(super) fn restrict_devices(
    bases: &BTreeMap<String, PathBuf>,
    group: &Path,
    rules: &[DeviceRule],
) -> Result<()> {
    // Without the controller the container's lack of device nodes and of CAP_SYS_ADMIN over them is what is
    // left; it is said once by whoever starts the runtime, not for each container.
    let Some(base) = bases.get("devices") else { return Ok(()) };
    let directory = base.join(group);
    set(&directory, "devices.deny", "a")?;
    for rule in rules {
        set(&directory, "devices.allow", rule.v1_line())?;
    }
    Ok(())
}
