//! Prometheus' text form, under the kubelet's and cAdvisor's names.

use std::fmt::Write;

use jiff::Timestamp;
use skep_runtime::cgroup::GroupStats;
use skep_runtime::stats::{DeviceCounters, NetworkStats};

use super::{ContainerStats, MachineStats, PodStats};
use crate::context::Node;
use crate::spec;

const NS_PER_S: f64 = 1e9;

/// Labels in the order in which they are written.
fn labels(pairs: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in pairs {
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = write!(text, "{}{name}=\"{value}\"", if text.is_empty() { "" } else { "," });
    }
    text
}

/// A text that grows family by family.
struct Families {
    text: String,
    at_ms: i64,
}

impl Families {
    fn new(now: Timestamp) -> Families {
        Families { text: String::new(), at_ms: now.as_millisecond() }
    }

    fn add(&mut self, name: &str, kind: &str, help: &str, lines: impl IntoIterator<Item = (String, f64)>) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in lines {
            let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
            let _ = writeln!(self.text, "{name}{labels} {value} {}", self.at_ms);
        }
    }
}

fn seconds(at: Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1e3
}

/// `/metrics/resource`.
pub(super) fn resource(
    machine: &MachineStats,
    pods: &[PodStats],
    started: Timestamp,
    now: Timestamp,
) -> String {
    let mut out = Families::new(now);
    let of_pod = |p: &PodStats| {
        labels(&[("namespace", spec::namespace(&p.live.pod)), ("pod", spec::name(&p.live.pod))])
    };
    let of_container = |p: &PodStats, c: &ContainerStats| {
        labels(&[
            ("container", &c.name),
            ("namespace", spec::namespace(&p.live.pod)),
            ("pod", spec::name(&p.live.pod)),
        ])
    };
    let containers = |value: fn(&ContainerStats) -> Option<f64>| {
        let all = pods.iter().flat_map(|p| p.containers.iter().map(move |c| (p, c)));
        all.filter_map(|(p, c)| Some((of_container(p, c), value(c)?))).collect::<Vec<_>>()
    };
    let all =
        |value: fn(&GroupStats) -> f64| pods.iter().map(|p| (of_pod(p), value(&p.usage))).collect::<Vec<_>>();
    out.add(
        "container_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
        containers(|c| Some(c.usage.cpu_usage_ns as f64 / NS_PER_S)),
    );
    out.add(
        "container_memory_working_set_bytes",
        "gauge",
        "[STABLE] Current working set of the container in bytes",
        containers(|c| Some(c.usage.memory_working_set_bytes as f64)),
    );
    out.add(
        "container_start_time_seconds",
        "gauge",
        "[STABLE] Start time of the container since unix epoch in seconds",
        containers(|c| c.started.map(seconds)),
    );
    out.add(
        "node_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
        [(String::new(), machine.usage.cpu_usage_ns as f64 / NS_PER_S)],
    );
    out.add(
        "node_memory_working_set_bytes",
        "gauge",
        "[STABLE] Current working set of the node in bytes",
        [(String::new(), machine.usage.memory_working_set_bytes as f64)],
    );
    out.add(
        "pod_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
        all(|u| u.cpu_usage_ns as f64 / NS_PER_S),
    );
    out.add(
        "pod_memory_working_set_bytes",
        "gauge",
        "[STABLE] Current working set of the pod in bytes",
        all(|u| u.memory_working_set_bytes as f64),
    );
    out.add(
        "process_start_time_seconds",
        "gauge",
        "[ALPHA] Start time of the process since unix epoch in seconds.",
        [(String::new(), seconds(started))],
    );
    out.add(
        "resource_scrape_error",
        "gauge",
        "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
        [(String::new(), 0.0)],
    );
    out.text
}

/// A family whose value comes from a group's counters: name, kind, help, value.
type FromGroup = (&'static str, &'static str, &'static str, fn(&GroupStats) -> f64);

const FROM_GROUP: &[FromGroup] = &[
    ("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.", |u| {
        u.cpu_usage_ns as f64 / NS_PER_S
    }),
    ("container_cpu_user_seconds_total", "counter", "Cumulative user cpu time consumed in seconds.", |u| {
        u.cpu_user_ns as f64 / NS_PER_S
    }),
    (
        "container_cpu_system_seconds_total",
        "counter",
        "Cumulative system cpu time consumed in seconds.",
        |u| u.cpu_system_ns as f64 / NS_PER_S,
    ),
    ("container_cpu_cfs_periods_total", "counter", "Number of elapsed enforcement period intervals.", |u| {
        u.cpu_periods as f64
    }),
    ("container_cpu_cfs_throttled_periods_total", "counter", "Number of throttled period intervals.", |u| {
        u.cpu_throttled_periods as f64
    }),
    (
        "container_cpu_cfs_throttled_seconds_total",
        "counter",
        "Total time duration the container has been throttled.",
        |u| u.cpu_throttled_ns as f64 / NS_PER_S,
    ),
    ("container_memory_usage_bytes", "gauge", "Current memory usage in bytes, page cache included.", |u| {
        u.memory_usage_bytes as f64
    }),
    ("container_memory_working_set_bytes", "gauge", "Current working set in bytes.", |u| {
        u.memory_working_set_bytes as f64
    }),
    ("container_memory_rss", "gauge", "Size of RSS in bytes.", |u| u.memory_rss_bytes as f64),
    ("container_memory_cache", "gauge", "Number of bytes of page cache memory.", |u| {
        u.memory_cache_bytes as f64
    }),
    ("container_memory_mapped_file", "gauge", "Size of memory mapped files in bytes.", |u| {
        u.memory_mapped_file_bytes as f64
    }),
    ("container_spec_memory_limit_bytes", "gauge", "Memory limit for the container.", |u| {
        u.memory_limit_bytes.unwrap_or(0) as f64
    }),
    ("container_oom_events_total", "counter", "Count of out of memory events observed.", |u| {
        u.oom_kills as f64
    }),
    ("container_threads", "gauge", "Number of threads running inside the container.", |u| u.pids as f64),
    ("container_fs_reads_bytes_total", "counter", "Cumulative count of bytes read.", |u| {
        u.io_read_bytes as f64
    }),
    ("container_fs_writes_bytes_total", "counter", "Cumulative count of bytes written.", |u| {
        u.io_write_bytes as f64
    }),
    ("container_fs_reads_total", "counter", "Cumulative count of reads completed.", |u| u.io_reads as f64),
    ("container_fs_writes_total", "counter", "Cumulative count of writes completed.", |u| u.io_writes as f64),
];

/// A family whose value comes from a network device.
type FromDevice = (&'static str, &'static str, fn(&DeviceCounters) -> u64);

const FROM_DEVICE: &[FromDevice] = &[
    ("container_network_receive_bytes_total", "Cumulative count of bytes received", |d| d.rx_bytes),
    ("container_network_receive_packets_total", "Cumulative count of packets received", |d| d.rx_packets),
    (
        "container_network_receive_errors_total",
        "Cumulative count of errors encountered while receiving",
        |d| d.rx_errors,
    ),
    (
        "container_network_receive_packets_dropped_total",
        "Cumulative count of packets dropped while receiving",
        |d| d.rx_dropped,
    ),
    ("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", |d| d.tx_bytes),
    ("container_network_transmit_packets_total", "Cumulative count of packets transmitted", |d| d.tx_packets),
    (
        "container_network_transmit_errors_total",
        "Cumulative count of errors encountered while transmitting",
        |d| d.tx_errors,
    ),
    (
        "container_network_transmit_packets_dropped_total",
        "Cumulative count of packets dropped while transmitting",
        |d| d.tx_dropped,
    ),
];

/// One control group, as it is labelled.
struct Labelled<'a> {
    labels: String,
    usage: &'a GroupStats,
    container: Option<&'a ContainerStats>,
}

fn group_labels(id: &str, pod: Option<&PodStats>, container: Option<&ContainerStats>) -> String {
    labels(&[
        ("container", container.map_or("", |c| &c.name)),
        ("id", id),
        ("image", container.map_or("", |c| &c.image)),
        ("name", container.map_or("", |c| &c.id)),
        ("namespace", pod.map_or("", |p| spec::namespace(&p.live.pod))),
        ("pod", pod.map_or("", |p| spec::name(&p.live.pod))),
    ])
}

/// `/metrics/cadvisor`.
pub(super) fn cadvisor(node: &Node, machine: &MachineStats, pods: &[PodStats], now: Timestamp) -> String {
    let mut out = Families::new(now);
    let mut groups =
        vec![Labelled { labels: group_labels("/", None, None), usage: &machine.usage, container: None }];
    let mut networks: Vec<(String, &NetworkStats)> = vec![(group_labels("/", None, None), &machine.network)];
    for pod in pods {
        let id = format!("/pod{}", spec::uid(&pod.live.pod));
        let own = group_labels(&id, Some(pod), None);
        groups.push(Labelled { labels: own.clone(), usage: &pod.usage, container: None });
        networks.extend(pod.network.as_ref().map(|n| (own, n)));
        for c in &pod.containers {
            let labels = group_labels(&format!("{id}/{}", c.id), Some(pod), Some(c));
            groups.push(Labelled { labels, usage: &c.usage, container: Some(c) });
        }
    }
    for (name, kind, help, value) in FROM_GROUP {
        out.add(name, kind, help, groups.iter().map(|g| (g.labels.clone(), value(g.usage))));
    }
    out.add(
        "container_memory_failures_total",
        "counter",
        "Cumulative count of memory allocation failures.",
        groups.iter().flat_map(|g| {
            [("pgfault", g.usage.page_faults), ("pgmajfault", g.usage.major_page_faults)].map(
                |(kind, count)| {
                    (format!("{},failure_type=\"{kind}\",scope=\"hierarchy\"", g.labels), count as f64)
                },
            )
        }),
    );
    out.add(
        "container_start_time_seconds",
        "gauge",
        "Start time of the container since unix epoch in seconds.",
        groups.iter().filter_map(|g| Some((g.labels.clone(), seconds(g.container?.started?)))),
    );
    out.add(
        "container_last_seen",
        "gauge",
        "Last time a container was seen by the exporter",
        groups.iter().map(|g| (g.labels.clone(), seconds(now).floor())),
    );
    for (name, help, value) in FROM_DEVICE {
        let lines = networks.iter().flat_map(|(labels, network)| {
            network
                .devices
                .iter()
                .map(move |d| (format!("{labels},interface=\"{}\"", d.name), value(d) as f64))
        });
        out.add(name, "counter", help, lines.collect::<Vec<_>>());
    }
    out.add(
        "container_network_tcp_sockets",
        "gauge",
        "TCP sockets: in use (listening and connected), waiting for late packets, without a process.",
        networks.iter().flat_map(|(labels, network)| {
            let t = network.tcp;
            [("inuse", t.in_use), ("timewait", t.time_wait), ("orphan", t.orphaned)]
                .map(|(state, count)| (format!("{labels},tcp_state=\"{state}\""), count as f64))
        }),
    );
    let capacity = |name: &str| node.allocatable.get(name).map_or(0.0, |q| q.to_f64());
    out.add("machine_cpu_cores", "gauge", "Number of logical CPU cores.", [(String::new(), capacity("cpu"))]);
    out.add(
        "machine_memory_bytes",
        "gauge",
        "Amount of memory installed on the machine.",
        [(String::new(), capacity("memory"))],
    );
    out.text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_node_has_all_families() {
        let machine = MachineStats {
            usage: GroupStats { cpu_usage_ns: 1_500_000_000, ..GroupStats::default() },
            nanocores: None,
            network: NetworkStats::default(),
        };
        let at = Timestamp::from_second(1).unwrap();
        let text = resource(&machine, &[], at, at);
        assert_eq!(text.lines().filter(|l| l.starts_with("# TYPE")).count(), 9);
        assert!(text.contains("\nnode_cpu_usage_seconds_total 1.5 1000\n"), "{text}");
    }

    #[test]
    fn labels_cannot_break_out() {
        assert_eq!(labels(&[("a", "x\"y\\z\n"), ("b", "")]), r#"a="x\"y\\z\n",b="""#);
    }
}
