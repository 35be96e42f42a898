//! Ports of the machine that lead to its pods. What is programmed is what is recorded: a file for each pod that has such ports, which
//! outlives the agent as the pod does.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};
use skep_net::Namespace;
use skep_net::hostport::{HostPort, replace};

use crate::spec;

/// One port, as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Recorded {
    host_ip: Option<IpAddr>,
    protocol: u8,
    port: u16,
    pod: SocketAddr,
}

/// The ports of this machine. Calls block.
#[derive(Debug)]
pub struct HostPorts {
    records: PathBuf,
    /// One at a time writes down and programs.
    work: Mutex<()>,
}

/// The protocol's number.
fn number(protocol: Option<&str>) -> u8 {
    match protocol {
        Some("UDP") => 17,
        Some("SCTP") => 132,
        _ => 6,
    }
}

/// What a pod with these addresses has of the machine's ports.
fn wanted(pod: &Pod, ips: &[String]) -> Vec<Recorded> {
    if spec::host_network(pod) {
        // Its ports are the machine's already.
        return Vec::new();
    }
    let ips: Vec<IpAddr> = ips.iter().filter_map(|ip| ip.parse().ok()).collect();
    let sidecars = spec::init_containers(pod).iter().filter(|c| spec::is_sidecar(c));
    let ports = spec::containers(pod).iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    let mut all = Vec::new();
    for p in ports {
        let Some(port) = p.host_port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0) else { continue };
        let Ok(inside) = u16::try_from(p.container_port) else { continue };
        let asked: Option<IpAddr> = p.host_ip.as_deref().and_then(|ip| ip.parse().ok());
        for ip in &ips {
            // `0.0.0.0` is every address of that family; nothing said is every address.
            if asked.is_some_and(|a| a.is_ipv4() != ip.is_ipv4()) {
                continue;
            }
            let host_ip = asked.filter(|a| !a.is_unspecified());
            let protocol = number(p.protocol.as_deref());
            all.push(Recorded { host_ip, protocol, port, pod: SocketAddr::new(*ip, inside) });
        }
    }
    all
}

impl HostPorts {
    /// With records in a directory.
    #[must_use]
    pub fn new(records: PathBuf) -> HostPorts {
        HostPorts { records, work: Mutex::new(()) }
    }

    /// Leads the machine's ports to a pod with these addresses. Repeated, it costs a look at a file.
    ///
    /// # Errors
    /// What the disk or the kernel says.
    pub fn set(&self, pod: &Pod, ips: &[String]) -> io::Result<()> {
        let wanted = wanted(pod, ips);
        let path = self.records.join(spec::uid(pod));
        let _work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        if wanted.is_empty() && !path.exists() {
            return Ok(());
        }
        std::fs::create_dir_all(&self.records)?;
        std::fs::write(&path, serde_json::to_vec(&wanted)?)?;
        self.program()
    }

    /// A pod is gone.
    ///
    /// # Errors
    /// What the disk or the kernel says.
    pub fn remove(&self, uid: &str) -> io::Result<()> {
        let _work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        match std::fs::remove_file(self.records.join(uid)) {
            Ok(()) => self.program(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        }
    }

    fn program(&self) -> io::Result<()> {
        let ports = merged(&self.records)?;
        let namespace = Namespace::current().map_err(io::Error::other)?;
        replace(&namespace, &ports).map_err(io::Error::other)
    }
}

/// All records together. Two pods that have the same port by a race are told apart by chance, but always by the same.
fn merged(records: &Path) -> io::Result<Vec<HostPort>> {
    let mut all: BTreeMap<(Option<IpAddr>, u8, u16, bool), SocketAddr> = BTreeMap::new();
    for entry in std::fs::read_dir(records)? {
        let Ok(bytes) = std::fs::read(entry?.path()) else { continue };
        // A record that a crash tore is written again when its pod is taken up.
        let recorded: Vec<Recorded> = serde_json::from_slice(&bytes).unwrap_or_default();
        for r in recorded {
            let pod = all.entry((r.host_ip, r.protocol, r.port, r.pod.is_ipv6())).or_insert(r.pod);
            *pod = (*pod).min(r.pod);
        }
    }
    let ports = all.into_iter();
    Ok(ports.map(|((host_ip, protocol, port, _), pod)| HostPort { host_ip, protocol, port, pod }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::pod;
    use serde_json::json;

    #[test]
    fn what_a_pod_has_of_the_machines_ports() {
        let ips = ["10.0.0.5".to_owned(), "fd00::5".to_owned()];
        let has = |ports: serde_json::Value, more: serde_json::Value| {
            let mut spec = json!({"containers": [{"name": "c", "ports": ports}]});
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let found = wanted(&pod(spec), &ips);
            let text = |r: &Recorded| format!("{:?} {} {} {}", r.host_ip, r.protocol, r.port, r.pod);
            found.iter().map(text).collect::<Vec<_>>()
        };
        let none = || json!({});
        assert!(has(json!([{"containerPort": 80}]), none()).is_empty());
        assert_eq!(
            has(json!([{"containerPort": 80, "hostPort": 8080}]), none()),
            ["None 6 8080 10.0.0.5:80", "None 6 8080 [fd00::5]:80"]
        );
        assert_eq!(
            has(
                json!([{"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "0.0.0.0"}]),
                none()
            ),
            ["None 17 53 10.0.0.5:53"]
        );
        assert_eq!(
            has(json!([{"containerPort": 80, "hostPort": 80, "hostIP": "10.9.9.9"}]), none()),
            ["Some(10.9.9.9) 6 80 10.0.0.5:80"]
        );
        assert!(has(json!([{"containerPort": 80, "hostPort": 80}]), json!({"hostNetwork": true})).is_empty());
    }

    #[test]
    fn records_are_merged_and_torn_ones_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let record = |name: &str, pod: &str| {
            let r = Recorded { host_ip: None, protocol: 6, port: 80, pod: pod.parse().unwrap() };
            std::fs::write(dir.path().join(name), serde_json::to_vec(&[r]).unwrap()).unwrap();
        };
        record("b", "10.0.0.2:80");
        record("a", "10.0.0.1:80");
        record("c", "[fd00::1]:80");
        std::fs::write(dir.path().join("d"), "[{").unwrap();
        let pods: Vec<String> = merged(dir.path()).unwrap().iter().map(|p| p.pod.to_string()).collect();
        assert_eq!(pods, ["10.0.0.1:80", "[fd00::1]:80"]);
    }
}
