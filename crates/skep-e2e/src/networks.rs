//! Where a tenant's network is on a computer: what its tests look into.

use std::path::PathBuf;

use serde_json::Value;

use crate::Kubectl;
use crate::computers::Cloud;

/// The network namespace of the machine that a pod runs on.
#[must_use]
pub fn machine_of(cloud: &Cloud, tenant: &str, kubectl: &Kubectl, pod: &str) -> PathBuf {
    let node = kubectl.run(&["get", "pod", pod, "-o", "jsonpath={.spec.nodeName}"]);
    let operator = cloud.operator();
    let at = skep_client::Resource::new("compute.skep.io", "v1", "machines")
        .at(skep_client::Tenants::One(skep_base::TenantName::new(tenant).unwrap()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let all: skep_client::List<Value> =
        runtime.block_on(operator.list_all(&at, skep_client::ListParams::default())).unwrap();
    let machine = all.items.iter().find(|m| {
        m["spec"]["nodeName"].as_str().unwrap_or_else(|| m["metadata"]["name"].as_str().unwrap()) == node
    });
    cloud.machine_namespace(machine.unwrap()["metadata"]["uid"].as_str().unwrap())
}

/// The namespace of the switch of a tenant's network; on several computers, of one of them.
#[must_use]
pub fn switch_of(cloud: &Cloud, kubectl: &Kubectl) -> PathBuf {
    let vni = kubectl.run(&["get", "network", "default", "-o", "jsonpath={.spec.vni}"]);
    let all = cloud.switches();
    all.into_iter().find(|p| p.ends_with(format!("net-{vni}"))).unwrap()
}
