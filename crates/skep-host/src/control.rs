//! What a machine is told: what it is to be for the driver, what its agent is started with, and where its files lie.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use skep_api::compute::Machine;
use skep_base::{Quantity, TenantName};
use skep_machine::process::{CONTROL_DIR, IMAGES_DIR, POD_IMAGES_DIR, PROGRAM};
use skep_machine::{MachineId, MachineSpec, Program};

/// The file in the control directory by which the agent reaches the API server, and as whom.
pub(crate) const KUBECONFIG: &str = "kubeconfig";
/// The socket in the control directory that leads to the API server.
pub(crate) const SOCKET: &str = "api.sock";
/// The socket in the control directory by which the host is asked for images.
pub(crate) const IMAGE_SOCKET: &str = "images.sock";
/// Where the agent keeps its own things, in the machine's private tree.
const AGENT_DATA: &str = "/var/lib/skep-agent";
/// Where a tenant lays manifests of static pods, in the machine's tree: where kubeadm has them.
const MANIFESTS: &str = "/etc/kubernetes/manifests";
/// The interface of a machine that leads into its tenant's network.
const UPLINK: &str = skep_hostnet::MACHINE_INTERFACE;
/// Processes and threads per GiB of memory: several times what services use, and far from what brings a host down.
const PIDS_PER_GIB: u64 = 4096;
/// As many as even the smallest machine has.
const PIDS_MIN: u64 = 2048;
/// The label by which a node says which machine it is.
const MACHINE_LABEL: &str = "compute.skep.io/machine";
/// The label by which a node says of which pool its machine is.
const POOL_LABEL: &str = "compute.skep.io/node-pool";
/// The label by which a node says of which flavour its machine is.
const FLAVOR_LABEL: &str = "node.kubernetes.io/instance-type";

/// The installation's own registry, from which machines pull with the certificates of their nodes.
#[derive(Clone, Debug)]
pub(crate) struct Registry {
    /// What images call it.
    pub(crate) name: String,
    /// Where this host reaches it.
    pub(crate) address: String,
    /// The installation's authority, in PEM.
    pub(crate) authorities_pem: String,
}

/// What does not change between machines.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Where the host keeps images of all tenants.
    pub(crate) images: PathBuf,
    /// A file that says how registries are reached.
    pub(crate) registries: PathBuf,
    /// The installation's own registry.
    pub(crate) own_registry: Option<Registry>,
    /// What is started to pull, with what is pulled for whom behind it.
    pub(crate) launcher: Vec<OsString>,
    /// Whether machines have disks of their own.
    pub(crate) own_disks: bool,
    /// What the agent logs.
    pub(crate) log: String,
    /// How short machines may become before pods are evicted.
    pub(crate) eviction_hard: Option<String>,
}

/// What a machine is to be for the driver. `Err` is a sentence.
pub(crate) fn spec_of(
    machine: &Machine,
    uid: &str,
    tenant: &TenantName,
    settings: &Settings,
) -> Result<MachineSpec, String> {
    let id = MachineId::new(uid).map_err(|e| e.to_string())?;
    let amount = |name: &str| -> Result<Option<Quantity>, String> {
        let text = machine.spec.resources.get(name);
        text.map(|q| q.0.parse().map_err(|e| format!("spec.resources[{name}]: {e}"))).transpose()
    };
    let needed = |name: &str| amount(name)?.ok_or_else(|| format!("spec.resources[{name}] is missing"));
    let unsigned = |n: i64| u64::try_from(n).unwrap_or(0);
    let cpu_millis = unsigned(needed("cpu")?.milli_value());
    let memory_bytes = unsigned(needed("memory")?.value());
    let disk = if settings.own_disks { amount("ephemeral-storage")? } else { None };
    Ok(MachineSpec {
        id,
        hostname: machine.node_name().to_owned(),
        cpu_millis,
        memory_bytes,
        disk_bytes: disk.map(|q| unsigned(q.value())).filter(|b| *b > 0),
        pids_max: ((memory_bytes >> 20) * PIDS_PER_GIB / 1024).max(PIDS_MIN),
        program: agent(machine, tenant, settings),
        mounts: Vec::new(),
    })
}

fn agent(machine: &Machine, tenant: &TenantName, settings: &Settings) -> Program {
    let control = Path::new(CONTROL_DIR);
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let mut args = vec![PROGRAM.to_owned(), "agent".to_owned()];
    let mut add = |flag: &str, value: String| args.extend([flag.to_owned(), value]);
    add("--kubeconfig", text(control.join(KUBECONFIG)));
    add("--api-socket", text(control.join(SOCKET)));
    add("--node", machine.node_name().to_owned());
    add("--uplink", UPLINK.to_owned());
    add("--data", AGENT_DATA.to_owned());
    add("--pod-manifest-path", MANIFESTS.to_owned());
    add("--images", IMAGES_DIR.to_owned());
    add("--pod-images", POD_IMAGES_DIR.to_owned());
    add("--image-socket", text(control.join(IMAGE_SOCKET)));
    add("--image-scope", tenant.to_string());
    if let Some(thresholds) = &settings.eviction_hard {
        add("--eviction-hard", thresholds.clone());
    }
    for (name, amount) in &machine.spec.resources {
        add("--capacity", format!("{name}={}", amount.0));
    }
    for (key, value) in labels(machine) {
        add("--label", format!("{key}={value}"));
    }
    for taint in machine.spec.taints.iter().flatten() {
        let value = taint.value.as_deref().filter(|v| !v.is_empty());
        let value = value.map(|v| format!("={v}")).unwrap_or_default();
        add("--taint", format!("{}{value}:{}", taint.key, taint.effect));
    }
    let env = [("PATH", "/usr/local/bin:/usr/bin:/bin"), ("HOME", "/root"), ("SKEP_LOG", &settings.log)];
    Program { args, env: env.map(|(k, v)| (k.to_owned(), v.to_owned())).into() }
}

fn labels(machine: &Machine) -> BTreeMap<String, String> {
    let mut labels = machine.spec.node_labels.clone().unwrap_or_default();
    let name = machine.metadata.name.clone().unwrap_or_default();
    labels.insert(MACHINE_LABEL.to_owned(), name);
    labels.insert(FLAVOR_LABEL.to_owned(), machine.spec.flavor_name.clone());
    if let Some(pool) = machine.spec.node_pool_name.as_ref().filter(|p| !p.is_empty()) {
        labels.insert(POOL_LABEL.to_owned(), pool.clone());
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_agent_is_told_who_it_is_and_what_it_has() {
        let machine: Machine = serde_json::from_value(json!({
            "metadata": {"name": "m1"},
            "spec": {
                "flavorName": "small", "nodePoolName": "default", "nodeName": "n1",
                "resources": {"cpu": "500m", "memory": "1Gi"}, "nodeLabels": {"a": "b"},
                "taints": [{"key": "k", "effect": "NoSchedule"}, {"key": "l", "value": "v", "effect": "NoExecute"}],
            },
        }))
        .unwrap();
        let tenant = TenantName::new("shop").unwrap();
        let settings = Settings {
            images: "/nowhere".into(),
            registries: "/nowhere".into(),
            own_registry: None,
            launcher: Vec::new(),
            own_disks: true,
            log: "info".to_owned(),
            eviction_hard: Some("nodefs.available<1%".to_owned()),
        };
        let spec = spec_of(&machine, "0b5c7f0e-1", &tenant, &settings).unwrap();
        assert_eq!((spec.cpu_millis, spec.memory_bytes, spec.pids_max), (500, 1 << 30, 4096));
        assert_eq!((spec.id.as_str(), spec.hostname.as_str()), ("0b5c7f0e-1", "n1"));
        assert!(spec.mounts.is_empty(), "nothing of the host but what every machine has");
        let args = spec.program.args.join(" ");
        for part in [
            "/usr/local/bin/skep agent --kubeconfig /run/skep/kubeconfig --api-socket /run/skep/api.sock --node n1 --uplink eth0",
            "--pod-manifest-path /etc/kubernetes/manifests --images /var/lib/skep-images --pod-images /run/skep-pod-images --image-socket /run/skep/images.sock --image-scope shop",
            "--capacity cpu=500m --capacity memory=1Gi",
            "--label a=b --label compute.skep.io/machine=m1 --label compute.skep.io/node-pool=default",
            "--label node.kubernetes.io/instance-type=small",
            "--taint k:NoSchedule --taint l=v:NoExecute",
        ] {
            assert!(args.contains(part), "{part}\n{args}");
        }
        assert_eq!(spec.disk_bytes, None, "nothing is said about it");
        let mut sized = machine.clone();
        let amount = k8s_openapi::apimachinery::pkg::api::resource::Quantity("2Gi".to_owned());
        sized.spec.resources.insert("ephemeral-storage".to_owned(), amount);
        assert_eq!(spec_of(&sized, "x", &tenant, &settings).unwrap().disk_bytes, Some(2 << 30));
        let shared = Settings { own_disks: false, ..settings.clone() };
        assert_eq!(spec_of(&sized, "x", &tenant, &shared).unwrap().disk_bytes, None);
        let mut broken = machine;
        broken.spec.resources.clear();
        assert_eq!(spec_of(&broken, "x", &tenant, &settings).unwrap_err(), "spec.resources[cpu] is missing");
        assert!(spec_of(&broken, "../x", &tenant, &settings).unwrap_err().contains("is not a machine's id"));
    }
}
