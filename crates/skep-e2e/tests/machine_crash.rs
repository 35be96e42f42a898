//! kill -9 at random of whoever keeps containers running, while pods are made, deleted and entered. `SKEP_CRASH_ROUNDS` says how often (4),
//! `SKEP_CRASH_SEED` with which choices. Containers of whoever was not killed go on as the same processes, everything comes back, nothing leaks.
//! Needs root and busybox; says so without.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use serde_json::json;
use skep_e2e::agent::impossible;
use skep_e2e::cloud::{Cloud, PATIENCE, Tenant, wait_for};
use skep_e2e::computers::inside;

/// Pods that every round replaces.
const REPLICAS: usize = 4;
/// Pods that nobody touches; what their containers run is found by these words.
const STEADY: usize = 2;
const STEADY_WORDS: &str = "sleep 7777777";
/// Everything of nf_tables that the agent has in a machine, and the host at its switch.
const TABLES: [&str; 10] = [
    "ip skep-services",
    "ip6 skep-services",
    "ip skep-hostports",
    "ip6 skep-hostports",
    "ip skep-policies",
    "ip6 skep-policies",
    "ip skep-groups",
    "ip6 skep-groups",
    "bridge skep-pods",
    "netdev skep-uplink",
];

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
    /// Those of the host below the cloud's data.
    host_mounts: Vec<String>,
    /// How many of each kind its processes are in. One without a process is a mount.
    namespaces: BTreeMap<String, usize>,
    /// The runtime's pods, their directories, network namespaces and ports.
    pods: Vec<String>,
    leases: usize,
    groups: usize,
    /// The machine's, and those of its tenant's switch.
    links: Vec<String>,
    /// Rules and elements, without what is counted.
    tables: Vec<String>,
    loops: Vec<String>,
}

/// Namespaces of a cloud's processes: how many of each kind.
fn namespaces(cloud: &Cloud) -> BTreeMap<String, usize> {
    let of = |pid: &i32| {
        let links = fs::read_dir(format!("/proc/{pid}/ns")).into_iter().flatten().flatten();
        links
            .filter_map(|l| Some(fs::read_link(l.path()).ok()?.to_string_lossy().into_owned()))
            .collect::<Vec<_>>()
    };
    let all: BTreeSet<String> = cloud.processes().iter().flat_map(of).collect();
    let mut counted = BTreeMap::new();
    for name in all {
        *counted.entry(name.split(':').next().unwrap_or_default().to_owned()).or_insert(0) += 1;
    }
    counted
}

/// Loop devices whose file is this cloud's.
fn loops(cloud: &Cloud) -> Vec<String> {
    let data = cloud.data();
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let files = devices.filter_map(|d| fs::read_to_string(d.path().join("loop/backing_file")).ok());
    files.map(|f| f.trim().to_owned()).filter(|f| Path::new(f).starts_with(&data)).collect()
}

/// The namespaces of switches on the host.
fn switches(cloud: &Cloud) -> Vec<PathBuf> {
    names(&cloud.data().join("networks")).iter().map(|n| cloud.data().join("networks").join(n)).collect()
}

fn links_in(namespace: &Path) -> Vec<String> {
    let (good, said) = inside(namespace, &["ip", "-o", "link"]);
    assert!(good, "{said}");
    let name = |l: &str| Some(l.split(": ").nth(1)?.split('@').next()?.to_owned());
    // Links have numbers; what else it says is that namespaces of others come and go.
    let numbered = said.lines().filter(|l| l.starts_with(|c: char| c.is_ascii_digit()));
    let mut all: Vec<String> = numbered.filter_map(name).collect();
    all.sort();
    all
}

/// A table's lines, without numbers that packets move and handles that differ.
fn tables_in(namespace: &Path, tables: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for table in tables {
        let mut words = vec!["nft", "list", "table"];
        words.extend(table.split(' '));
        let (good, said) = inside(namespace, &words);
        // Some versions of nft end on tables of services; that one is there says no more than its name.
        let lines = if good { said } else { String::new() };
        let still = lines.lines().map(|l| l.split("packets ").next().unwrap_or(l).trim().to_owned());
        found.extend(still.filter(|l| !l.is_empty()));
    }
    found
}

/// The first process of each untouched container, with when it began and its shim.
fn steady(cloud: &Cloud) -> BTreeMap<i32, (String, i32)> {
    let one = |pid: i32| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        if line.trim_end_matches('\0').replace('\0', " ") != STEADY_WORDS {
            return None;
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let after: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        Some((pid, ((*after.get(19)?).to_owned(), after.get(1)?.parse().ok()?)))
    };
    cloud.processes().into_iter().filter_map(one).collect()
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
    let mut tables = tables_in(&dir.join("net"), &TABLES);
    for switch in switches(cloud) {
        links.extend(links_in(&switch));
        tables.extend(tables_in(&switch, &["bridge skep-ports"]));
    }
    let data = cloud.data().display().to_string();
    let mut host_mounts: Vec<String> = fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .lines()
        .filter_map(|l| l.split(' ').nth(4).map(str::to_owned))
        .filter(|m| m.starts_with(&data))
        .collect();
    host_mounts.sort();
    let of_pods = ["runtime/pods", "pods", "netns", "hostports", "memory", "logs"];
    Holds {
        processes,
        host_mounts,
        namespaces: namespaces(cloud),
        mounts: mounts.lines().filter_map(|l| l.split(' ').nth(4).map(str::to_owned)).collect(),
        pods: of_pods.iter().flat_map(|d| names(&agent.join(d))).collect(),
        leases: names(&agent.join("image-leases")).len(),
        groups: groups.unwrap_or(0),
        links,
        tables,
        loops: loops(cloud),
    }
}

/// Whether all replicas of all deployments are ready, and no others are left.
fn ready(tenant: &Tenant) -> bool {
    let path = "jsonpath={range .items[*]}{.metadata.name}={.status.readyReplicas}/{.status.replicas}/{.status.updatedReplicas} {end}";
    let (good, said) = tenant.try_run(&["get", "deploy", "-o", path]);
    good && said.trim() == format!("steady={STEADY}/{STEADY}/{STEADY} web={REPLICAS}/{REPLICAS}/{REPLICAS}")
}

fn deployment(name: &str, replicas: usize, version: u32) -> serde_json::Value {
    let words: Vec<&str> =
        if name == "steady" { STEADY_WORDS.split(' ').collect() } else { vec!["sleep", "100000"] };
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}, "annotations": {"version": version.to_string()}},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
                    "name": "c", "image": "busybox:test", "command": words,
                    "volumeMounts": [{"name": "m", "mountPath": "/m"}, {"name": "c", "mountPath": "/c"}],
                    "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}}}],
                    "volumes": [{"name": "m", "emptyDir": {"medium": "Memory"}},
                        {"name": "c", "projected": {"sources": [{"configMap": {"name": "words"}}]}}]}}}})
}

/// A pod that ends, has a port of the machine, and may share its processes. When it is struck it begins again.
fn short(round: u32) -> serde_json::Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("short-{round}")}, "spec": {
        "restartPolicy": "OnFailure", "shareProcessNamespace": round.is_multiple_of(2), "terminationGracePeriodSeconds": 1,
        "initContainers": [{"name": "i", "image": "busybox:test", "command": ["true"]}],
        "containers": [{"name": "c", "image": "busybox:test", "command": ["sleep", "0.5"],
            "ports": [{"containerPort": 80, "hostPort": 20_000 + round}],
            "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}}}]}})
}

/// Enters an untouched pod again and again; what is killed under it may answer with an error, but must not keep it waiting.
fn enter(tenant: &Tenant, go_on: &AtomicBool, entered: &AtomicU32) {
    while go_on.load(Ordering::Relaxed) {
        let mut command = tenant.command(&["exec", "deploy/steady", "--", "cat", "/c/word"]);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null());
        let mut child = command.spawn().unwrap();
        let end = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > end {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("a command in a pod neither ends nor fails");
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        if status.success() {
            let said = std::io::read_to_string(child.stdout.take().unwrap()).unwrap();
            assert_eq!(said, "good");
            entered.fetch_add(1, Ordering::Relaxed);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Ends the thread that enters pods, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Waits until the machine holds nothing of a pod.
fn settled(cloud: &Cloud, shop: &Tenant) -> Holds {
    let end = Instant::now() + PATIENCE;
    loop {
        let pods = shop.try_run(&["get", "pods", "-o", "name"]).1;
        let now = holds(cloud);
        if pods.trim().is_empty() && now.pods.is_empty() && now.leases == 0 && now.processes.len() == 2 {
            return now;
        }
        if Instant::now() > end {
            let console = fs::read_to_string(machine(cloud).join("console.log")).unwrap_or_default();
            let last: Vec<&str> = console.lines().rev().take(40).collect();
            panic!("something stays: {pods}\n{now:#?}\n{last:#?}");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// kill -9 of one; gives which.
fn strike(cloud: &Cloud, victim: Victim, random: &mut StdRng) -> Option<i32> {
    let pids = match victim {
        Victim::Agent => role(cloud, "agent"),
        Victim::Shim => role(cloud, "shim"),
        Victim::Host => vec![cloud.daemon()],
        Victim::ApiServer => api_server(cloud).into_iter().collect(),
    };
    let pid = *pids.choose(random)?;
    eprintln!("{victim:?}, {pid} of {pids:?}");
    // Ended meanwhile is as good.
    let _ = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status();
    if victim == Victim::ApiServer {
        wait_for("the port", || std::net::TcpListener::bind(&cloud.listen).ok());
        cloud.up();
    }
    Some(pid)
}

#[test]
fn whoever_is_killed_comes_back_and_nothing_leaks() {
    if let Some(why) = impossible() {
        eprintln!("SKIPPED: {why}");
        return;
    }
    let rounds: u32 = number("SKEP_CRASH_ROUNDS", 4);
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
    shop.run(&["create", "configmap", "words", "--from-literal=word=good"]);
    let scale = |steady: usize, web: usize, version: u32| {
        shop.apply(&deployment("steady", steady, 0));
        shop.apply(&deployment("web", web, version));
    };
    scale(1, 1, 0);
    wait_for("the first pods", || {
        let (good, said) =
            shop.try_run(&["get", "deploy", "-o", "jsonpath={.items[*].status.readyReplicas}"]);
        (good && said == "1 1").then_some(())
    });
    scale(0, 0, 0);
    let before = settled(&cloud, &shop);
    scale(STEADY, REPLICAS, 0);
    wait_for("all pods", || ready(&shop).then_some(()));
    let (go_on, entered) = (AtomicBool::new(true), AtomicU32::new(0));
    std::thread::scope(|scope| {
        let stop = Stop(&go_on);
        let entering = scope.spawn(|| enter(&shop, &go_on, &entered));
        let mut victims: Vec<Victim> = Vec::new();
        for round in 1..=rounds {
            // Everybody has their turn, in any order.
            if victims.is_empty() {
                victims = vec![Victim::Agent, Victim::Shim, Victim::Host, Victim::ApiServer];
                victims.shuffle(&mut random);
            }
            let untouched = steady(&cloud);
            assert_eq!(untouched.len(), STEADY, "{untouched:?}");
            // Load: every round replaces all pods of one kind, makes one of another and deletes the last one while somebody is killed.
            shop.apply(&deployment("web", REPLICAS, round));
            shop.apply(&short(round));
            if round > 1 {
                shop.run(&["delete", "pod", &format!("short-{}", round - 1), "--wait=false"]);
            }
            std::thread::sleep(Duration::from_millis(random.random_range(0..1500)));
            eprint!("round {round}: ");
            let killed = victims.pop().and_then(|victim| strike(&cloud, victim, &mut random));
            wait_for("all pods are ready again", || ready(&shop).then_some(()));
            shop.phase(&format!("short-{round}"), "Succeeded");
            let now = wait_for("untouched pods run", || Some(steady(&cloud)).filter(|s| s.len() == STEADY));
            for (pid, facts) in untouched.iter().filter(|(_, (_, shim))| Some(*shim) != killed) {
                assert_eq!(now.get(pid), Some(facts), "a container went with what is not its own: {now:?}");
            }
            let begun = entered.load(Ordering::Relaxed);
            wait_for("pods can be entered", || (entered.load(Ordering::Relaxed) > begun).then_some(()));
        }
        drop(stop);
        entering.join().unwrap();
    });
    eprintln!("pods were entered {} times", entered.load(Ordering::Relaxed));
    scale(0, 0, rounds);
    shop.run(&["delete", "pod", &format!("short-{rounds}"), "--ignore-not-found"]);
    let after = settled(&cloud, &shop);
    assert_eq!(after, before);
    let switches = switches(&cloud);
    assert!(!switches.is_empty(), "the tenant has a network on this host");
    cloud.down(&[]);
    let left: Vec<String> = cloud.leftovers().into_iter().filter(|l| !l.starts_with("file ")).collect();
    assert_eq!(left, Vec::<String>::new());
    assert_eq!(loops(&cloud), Vec::<String>::new());
}
