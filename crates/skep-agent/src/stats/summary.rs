//! `/stats/summary`, in the kubelet's form.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use skep_runtime::cgroup::GroupStats;
use skep_runtime::stats::{DiskUsage, NetworkStats};

use super::{MachineStats, PodDisk, PodStats};
use crate::context::Node;
use crate::spec;

/// Seconds, as Kubernetes' times are.
fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn cpu(usage: &GroupStats, nanocores: Option<u64>, at: &str) -> Value {
    let mut value = json!({"time": at, "usageCoreNanoSeconds": usage.cpu_usage_ns});
    if let Some(nanocores) = nanocores {
        value["usageNanoCores"] = nanocores.into();
    }
    value
}

fn memory(usage: &GroupStats, at: &str) -> Value {
    let mut value = json!({
        "time": at, "usageBytes": usage.memory_usage_bytes, "workingSetBytes": usage.memory_working_set_bytes,
        "rssBytes": usage.memory_rss_bytes, "pageFaults": usage.page_faults,
        "majorPageFaults": usage.major_page_faults,
    });
    if let Some(limit) = usage.memory_limit_bytes {
        value["availableBytes"] = limit.saturating_sub(usage.memory_working_set_bytes).into();
    }
    value
}

fn network(stats: &NetworkStats, at: &str) -> Value {
    let interfaces: Vec<Value> = stats
        .devices
        .iter()
        .map(|d| {
            json!({"name": d.name, "rxBytes": d.rx_bytes, "rxErrors": d.rx_errors, "txBytes": d.tx_bytes, "txErrors": d.tx_errors})
        })
        .collect();
    let mut value =
        interfaces.iter().find(|i| i["name"] == "eth0").cloned().unwrap_or_else(|| json!({"name": ""}));
    value["time"] = at.into();
    value["interfaces"] = interfaces.into();
    value
}

/// The file system that something is on.
fn file_system(path: &Path) -> Value {
    let Ok(s) = rustix::fs::statvfs(path) else { return json!({}) };
    let bytes = |blocks: u64| blocks.saturating_mul(s.f_frsize);
    json!({
        "availableBytes": bytes(s.f_bavail), "capacityBytes": bytes(s.f_blocks),
        "inodesFree": s.f_ffree, "inodes": s.f_files,
    })
}

/// A part of a file system.
fn part(whole: &Value, used: DiskUsage, at: &str) -> Value {
    let mut value = whole.clone();
    value["time"] = at.into();
    value["usedBytes"] = used.bytes.into();
    value["inodesUsed"] = used.inodes.into();
    value
}

fn sum(parts: impl Iterator<Item = DiskUsage>) -> DiskUsage {
    parts.fold(DiskUsage::default(), |sum, p| DiskUsage {
        bytes: sum.bytes.saturating_add(p.bytes),
        inodes: sum.inodes.saturating_add(p.inodes),
    })
}

/// The document. With `brief`, processors and memory only.
pub(super) fn summary(
    node: &Node,
    machine: &MachineStats,
    pods: &[PodStats],
    disks: &[Option<Arc<PodDisk>>],
    brief: bool,
    now: Timestamp,
) -> Value {
    let at = time(now);
    let disk = file_system(&node.layout.data);
    let capacity = u64::try_from(node.memory_capacity_bytes).unwrap_or(0);
    let mut own = json!({
        "nodeName": &*node.name, "startTime": time(node.started),
        "cpu": cpu(&machine.usage, machine.nanocores, &at), "memory": memory(&machine.usage, &at),
    });
    own["memory"]["availableBytes"] = capacity.saturating_sub(machine.usage.memory_working_set_bytes).into();
    if !brief {
        own["network"] = network(&machine.network, &at);
        let number = |key: &str| disk[key].as_u64().unwrap_or(0);
        let used = DiskUsage {
            bytes: number("capacityBytes").saturating_sub(number("availableBytes")),
            inodes: number("inodes").saturating_sub(number("inodesFree")),
        };
        own["fs"] = part(&disk, used, &at);
    }
    let pods: Vec<Value> =
        pods.iter().zip(disks).map(|(pod, used)| of_pod(pod, used.as_deref(), &disk, &at)).collect();
    json!({"node": own, "pods": pods})
}

fn of_pod(pod: &PodStats, used: Option<&PodDisk>, disk: &Value, at: &str) -> Value {
    let began = pod.live.status.start_time.as_ref().map(|t| time(t.0));
    let containers: Vec<Value> = pod
        .containers
        .iter()
        .map(|c| {
            let mut value = json!({
                "name": c.name, "startTime": c.started.map(time),
                "cpu": cpu(&c.usage, c.nanocores, at), "memory": memory(&c.usage, at),
            });
            if let Some((layer, logs)) = used.and_then(|u| u.containers.get(&c.name)) {
                value["rootfs"] = part(disk, *layer, at);
                value["logs"] = part(disk, *logs, at);
            }
            value
        })
        .collect();
    // The sum is a rate only if all parts are.
    let nanocores: Option<Vec<u64>> = pod.containers.iter().map(|c| c.nanocores).collect();
    let mut value = json!({
        "podRef": {
            "name": spec::name(&pod.live.pod), "namespace": spec::namespace(&pod.live.pod),
            "uid": spec::uid(&pod.live.pod),
        },
        "startTime": began, "containers": containers,
        "cpu": cpu(&pod.usage, nanocores.map(|all| all.iter().sum()), at),
        "memory": memory(&pod.usage, at), "process_stats": {"process_count": pod.usage.pids},
    });
    if let Some(stats) = &pod.network {
        value["network"] = network(stats, at);
    }
    if let Some(used) = used {
        let volumes: Vec<Value> = used
            .volumes
            .iter()
            .map(|(name, usage)| {
                let mut volume = part(disk, *usage, at);
                volume["name"] = name.as_str().into();
                volume
            })
            .collect();
        value["volume"] = volumes.into();
        let parts =
            used.containers.values().flat_map(|(a, b)| [*a, *b]).chain(used.volumes.values().copied());
        value["ephemeral-storage"] = part(disk, sum(parts), at);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_and_limits_show_what_is_left() {
        let usage = GroupStats {
            memory_working_set_bytes: 30,
            memory_limit_bytes: Some(100),
            cpu_usage_ns: 5,
            ..GroupStats::default()
        };
        assert_eq!(memory(&usage, "t")["availableBytes"], 70);
        assert!(cpu(&usage, None, "t").get("usageNanoCores").is_none());
        assert_eq!(cpu(&usage, Some(7), "t")["usageNanoCores"], 7);
        let parts = [DiskUsage { bytes: 1, inodes: 2 }, DiskUsage { bytes: 3, inodes: 4 }];
        let whole = part(&json!({"capacityBytes": 9}), sum(parts.into_iter()), "t");
        assert_eq!(
            (&whole["usedBytes"], &whole["inodesUsed"], &whole["capacityBytes"]),
            (&4.into(), &6.into(), &9.into())
        );
        let at = Timestamp::from_millisecond(1_999).unwrap();
        assert_eq!(time(at), "1970-01-01T00:00:01Z");
    }
}
