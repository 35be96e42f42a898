//! Where a tenant's network is on a computer: what its tests look into.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use skep_net::Namespace;

use crate::Kubectl;
use crate::computers::{Cloud, eventually, inside};

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
    switches_of(cloud, kubectl).remove(0)
}

/// The same of all computers.
#[must_use]
pub fn switches_of(cloud: &Cloud, kubectl: &Kubectl) -> Vec<PathBuf> {
    let vni = kubectl.run(&["get", "network", "default", "-o", "jsonpath={.spec.vni}"]);
    cloud.switches().into_iter().filter(|p| p.ends_with(format!("net-{vni}"))).collect()
}

/// The variable of a container's environment by which [`pod_namespace`] finds it.
pub const POD_VARIABLE: &str = "SKEP_TEST_POD";

fn processes() -> impl Iterator<Item = i32> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|e| e.file_name().to_str()?.parse().ok())
}

/// The network namespace of the pod with a container whose [`POD_VARIABLE`] is this.
#[must_use]
pub fn pod_namespace(word: &str) -> Namespace {
    let wanted = format!("{POD_VARIABLE}={word}");
    let is = |pid: &i32| {
        let all = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        all.split(|b| *b == 0).any(|v| v == wanted.as_bytes())
    };
    eventually(&format!("a process of the pod {word} runs"), || {
        let pid = processes().find(is).ok_or("there is none")?;
        Namespace::of_process(pid.unsigned_abs()).map_err(|e| e.to_string())
    })
}

/// The processes of node agents in a machine.
#[must_use]
pub fn agents_in(machine: &Path) -> Vec<i32> {
    let wanted = std::fs::metadata(machine).unwrap();
    let is = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let there = std::fs::metadata(format!("/proc/{pid}/ns/net"));
        line.split(|b| *b == 0).nth(1) == Some(b"agent") && there.is_ok_and(|m| m.ino() == wanted.ino())
    };
    processes().filter(is).collect()
}

/// What `nft` lists in a namespace. Behind it, some versions complain of rules that they cannot print.
pub fn nft(namespace: &Path, words: &[&str]) -> Value {
    let (ok, said) = inside(namespace, &[&["nft", "-j", "list"], words].concat());
    assert!(ok, "{said}");
    let first = serde_json::Deserializer::from_str(&said).into_iter().next();
    first.and_then(Result::ok).unwrap_or_else(|| panic!("no JSON: {said}"))
}

/// How many packets were counted, by counters' names; `of` is a family, or `table` with a family and a name.
pub fn nft_counters(namespace: &Path, of: &str) -> BTreeMap<String, u64> {
    let words: Vec<&str> = ["counters"].into_iter().chain(of.split(' ')).collect();
    let all = nft(namespace, &words);
    let counters = all["nftables"].as_array().unwrap().iter().filter_map(|o| o.get("counter"));
    counters.map(|c| (c["name"].as_str().unwrap().to_owned(), c["packets"].as_u64().unwrap())).collect()
}
