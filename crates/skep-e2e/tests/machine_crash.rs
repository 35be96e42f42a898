//! kill -9 at random of whoever keeps containers running, under load. `SKEP_CRASH_ROUNDS` says how often (3), `SKEP_CRASH_SEED` with which
//! choices. Containers go on, everything comes back, nothing leaks. Needs root and busybox; says so without.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::json;
use skep_e2e::agent::impossible;
use skep_e2e::cloud::{Cloud, PATIENCE, Tenant, wait_for};

const REPLICAS: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    Agent,
    Shim,
    Host,
    ApiServer,
}

fn number<T: std::str::FromStr>(name: &str, otherwise: T) -> T {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(otherwise)
}

/// The machine's processes whose command line has this word second.
fn role(cloud: &Cloud, word: &str) -> Vec<i32> {
    let is = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|b| *b == 0).nth(1) == Some(word.as_bytes())
    };
    cloud.processes().into_iter().filter(is).collect()
}

fn api_server(cloud: &Cloud) -> Option<i32> {
    let record = fs::read(cloud.data().join("up.json")).ok()?;
    let record: serde_json::Value = serde_json::from_slice(&record).ok()?;
    record["pid"].as_i64().and_then(|p| i32::try_from(p).ok())
}

/// The machine's directory.
fn machine(cloud: &Cloud) -> PathBuf {
    let mut all = fs::read_dir(cloud.data().join("machines")).unwrap().flatten().map(|e| e.path());
    let found = all.next().unwrap();
    assert!(all.next().is_none(), "there is one machine");
    found
}

fn below(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| 1 + below(&e.path())).sum()
}

/// What the machine holds, by kind; names tell which when a number is wrong.
#[derive(Debug, PartialEq, Eq)]
struct Holds {
    processes: Vec<String>,
    mounts: Vec<String>,
    pods: Vec<String>,
    leases: usize,
    groups: usize,
    links: Vec<String>,
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let all: BTreeSet<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    all.into_iter().collect()
}

fn holds(cloud: &Cloud) -> Holds {
    let dir = machine(cloud);
    let id = dir.file_name().unwrap().to_string_lossy().into_owned();
    let init = cloud.init(&id);
    let proc = PathBuf::from(format!("/proc/{init}"));
    let mounts = fs::read_to_string(proc.join("mountinfo")).unwrap_or_default();
    let mut processes: Vec<String> = cloud
        .processes()
        .iter()
        .map(|pid| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default())
        .map(|line| line.split('\0').take(2).collect::<Vec<_>>().join(" "))
        .collect();
    processes.sort();
    let agent = dir.join("root/var/lib/skep-agent");
    let parent = format!("skep-{}", fs::read_to_string(cloud.data().join("host-id")).unwrap().trim());
    let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|e| e.path());
    let groups =
        hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]).map(|h| below(&h.join(&parent).join(&id))).max();
    let devices = fs::read_to_string(proc.join("net/dev")).unwrap_or_default();
    let mut links: Vec<String> =
        devices.lines().skip(2).filter_map(|l| Some(l.split_once(':')?.0.trim().to_owned())).collect();
    links.sort();
    Holds {
        processes,
        mounts: mounts.lines().filter_map(|l| l.split(' ').nth(4).map(str::to_owned)).collect(),
        pods: names(&agent.join("runtime/pods")),
        leases: names(&agent.join("image-leases")).len(),
        groups: groups.unwrap_or(0),
        links,
    }
}

fn ready(tenant: &Tenant) -> bool {
    let (good, said) = tenant.try_run(&[
        "get",
        "deploy",
        "web",
        "-o",
        "jsonpath={.status.readyReplicas}/{.status.replicas}",
    ]);
    good && said == format!("{REPLICAS}/{REPLICAS}")
}

fn deployment(replicas: usize, version: u32) -> serde_json::Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}, "annotations": {"version": version.to_string()}},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
                    "name": "c", "image": "busybox:test", "command": ["sleep", "100000"],
                    "volumeMounts": [{"name": "m", "mountPath": "/m"}],
                    "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}}}],
                    "volumes": [{"name": "m", "emptyDir": {"medium": "Memory"}}]}}}})
}

#[test]
fn whoever_is_killed_comes_back_and_nothing_leaks() {
    if let Some(why) = impossible() {
        eprintln!("SKIPPED: {why}");
        return;
    }
    let rounds: u32 = number("SKEP_CRASH_ROUNDS", 3);
    let seed: u64 = number("SKEP_CRASH_SEED", rand::random());
    eprintln!("SKEP_CRASH_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let cloud = Cloud::new();
    cloud.up();
    cloud.load("busybox:test", "", None);
    let shop = cloud.administrator("shop");
    // The machine stays when its pods go: what it holds then is compared.
    shop.run(&[
        "patch",
        "nodepool",
        "default",
        "--type=merge",
        "-p",
        r#"{"spec":{"emptyDelaySeconds":86400,"maxMachines":1}}"#,
    ]);
    shop.apply(&deployment(1, 0));
    wait_for("the first pod", || {
        let (good, said) = shop.try_run(&["get", "deploy", "web", "-o", "jsonpath={.status.readyReplicas}"]);
        (good && said == "1").then_some(())
    });
    shop.apply(&deployment(0, 0));
    let settled = || {
        let end = Instant::now() + PATIENCE;
        loop {
            let pods = shop.try_run(&["get", "pods", "-o", "name"]).1;
            let now = holds(&cloud);
            if pods.trim().is_empty() && now.pods.is_empty() && now.leases == 0 && now.processes.len() == 2 {
                return now;
            }
            if Instant::now() > end {
                let console = fs::read_to_string(machine(&cloud).join("console.log")).unwrap_or_default();
                let last: Vec<&str> = console.lines().rev().take(40).collect();
                panic!("something stays: {pods}\n{now:#?}\n{last:#?}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    let before = settled();
    for round in 1..=rounds {
        // Load: every round replaces all pods while somebody is killed.
        shop.apply(&deployment(REPLICAS, round));
        std::thread::sleep(Duration::from_millis(random.random_range(0..1500)));
        let victim =
            *[Victim::Agent, Victim::Shim, Victim::Host, Victim::ApiServer].choose(&mut random).unwrap();
        let pids = match victim {
            Victim::Agent => role(&cloud, "agent"),
            Victim::Shim => role(&cloud, "shim"),
            Victim::Host => vec![cloud.daemon()],
            Victim::ApiServer => api_server(&cloud).into_iter().collect(),
        };
        eprintln!("round {round}: {victim:?}, one of {pids:?}");
        if let Some(pid) = pids.choose(&mut random) {
            // Ended meanwhile is as good.
            let _ = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
        if victim == Victim::ApiServer {
            wait_for("the port", || std::net::TcpListener::bind(&cloud.listen).ok());
            cloud.up();
        }
        wait_for("all pods are ready again", || ready(&shop).then_some(()));
        let pod = shop.run(&[
            "get",
            "pods",
            "-l",
            "app=web",
            "--field-selector=status.phase=Running",
            "-o",
            "name",
        ]);
        assert!(pod.lines().count() >= REPLICAS, "{pod}");
    }
    // Whoever survived the last kill is still the one that is asked.
    wait_for("somebody answers", || {
        let pods = shop.try_run(&["get", "pods", "-o", "name"]).1;
        let pod = pods.lines().next()?.to_owned();
        shop.try_run(&["exec", &pod, "--", "true"]).0.then_some(())
    });
    shop.apply(&deployment(0, 0));
    let after = settled();
    assert_eq!(after, before);
    cloud.down(&[]);
    let left: Vec<String> = cloud.leftovers().into_iter().filter(|l| !l.starts_with("file ")).collect();
    assert_eq!(left, Vec::<String>::new());
}
