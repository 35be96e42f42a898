//! `skep up` on this computer: machines that are made, survive whoever made them, and leave nothing. Needs root; without it
//! only the control plane is tried, and the rest says that it is skipped.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use skep_client::{Client, DeleteParams, Error, ErrorKind, ObjectPath, Patch, Resource, Tenants};
use skep_e2e::skep;

const MACHINES: Resource = Resource::new("compute.skep.io", "v1", "machines");
const HOSTS: Resource = Resource::new("compute.skep.io", "v1", "hosts");
/// How long anything may take on a busy computer.
const PATIENCE: Duration = Duration::from_secs(60);

/// The whole cloud with data of its own. Taken down when dropped, machines included.
struct Cloud {
    directory: tempfile::TempDir,
    listen: String,
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
}

impl Cloud {
    fn new() -> Cloud {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Cloud { directory: tempfile::tempdir().unwrap(), listen: format!("127.0.0.1:{port}") }
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn skep(&self, args: &[&str]) -> Output {
        let mut command = Command::new(skep());
        command
            .args(args)
            .env("SKEP_DATA", self.data())
            .env("SKEP_REGISTRY_LISTEN", "127.0.0.1:0")
            .env("KUBECONFIG", self.data().join("admin.kubeconfig"));
        command.output().unwrap()
    }

    fn up(&self) -> String {
        let output = self.skep(&["up", "--listen", &self.listen]);
        assert!(output.status.success(), "{}\n{}", text(&output), self.log());
        text(&output)
    }

    fn down(&self, args: &[&str]) -> String {
        let mut all = vec!["down"];
        all.extend(args);
        let output = self.skep(&all);
        assert!(output.status.success(), "{}", text(&output));
        text(&output)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.data().join("skep.log")).unwrap_or_default()
    }

    fn client(&self) -> Client {
        Client::from_kubeconfig(&self.data().join("admin.kubeconfig")).unwrap()
    }

    fn tenant(&self, name: &str) -> Tenants {
        let output = self.skep(&["tenant", "create", name]);
        assert!(output.status.success(), "{}", text(&output));
        Tenants::One(skep_base::TenantName::new(name).unwrap())
    }

    /// The processes of this cloud's machines: those in its control groups.
    fn processes(&self) -> Vec<i32> {
        let Ok(id) = fs::read_to_string(self.data().join("host-id")) else { return Vec::new() };
        let group = format!("skep-{}", id.trim());
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
            let read = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
            if read("cgroup").contains(&group) && !read("stat").contains(") Z ") {
                found.push(pid);
            }
        }
        found
    }

    /// What machines have left on this computer.
    fn leftovers(&self) -> Vec<String> {
        let mut found: Vec<String> = self.processes().iter().map(|p| format!("process {p}")).collect();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let data = self.data().display().to_string();
        found.extend(mounts.lines().filter(|l| l.contains(&data)).map(|l| format!("mount {l}")));
        if let Ok(entries) = fs::read_dir(self.data().join("machines")) {
            found.extend(entries.flatten().map(|e| format!("file {}", e.path().display())));
        }
        found
    }

    /// The first process of a machine.
    fn init(&self, uid: &str) -> i32 {
        let path = self.data().join("machines").join(uid).join("init.json");
        let record: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        i32::try_from(record["pid"].as_i64().unwrap()).unwrap()
    }

    /// The host daemon.
    fn daemon(&self) -> i32 {
        let marker = self.data().join("host.kubeconfig").display().to_string();
        wait_for("the host daemon", || {
            fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
                let pid = entry.file_name().to_string_lossy().parse::<i32>().ok()?;
                let line = fs::read(entry.path().join("cmdline")).ok()?;
                let line = String::from_utf8_lossy(&line).into_owned();
                (line.contains("\0host\0") && line.contains(&marker)).then_some(pid)
            })
        })
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        let output = self.skep(&["down"]);
        if !output.status.success() {
            eprintln!("{}", text(&output));
        }
        // Machines of a test that failed are stopped by now, but not removed.
        if let Ok(id) = fs::read_to_string(self.data().join("host-id")) {
            let name = format!("skep-{}", id.trim());
            let mounts = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
            for dir in mounts.map(|m| m.path().join(&name)) {
                remove_groups(&dir);
            }
            remove_groups(&Path::new("/sys/fs/cgroup").join(&name));
        }
        // What is still below the directory would keep it from being removed.
        for line in fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines() {
            let target = line.split(' ').nth(4).unwrap_or_default();
            if Path::new(target).starts_with(self.directory.path()) {
                let _ = Command::new("umount").arg("-l").arg(target).status();
            }
        }
    }
}

/// Removes a control group and those below it; what is not there is fine.
fn remove_groups(dir: &Path) {
    for child in fs::read_dir(dir).into_iter().flatten().flatten() {
        if child.path().is_dir() {
            remove_groups(&child.path());
        }
    }
    let _ = fs::remove_dir(dir);
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what}: not within {} s", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
}

async fn until(client: &Client, at: &ObjectPath, what: &str, good: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + PATIENCE;
    let mut last = Value::Null;
    loop {
        if let Ok(object) = client.read::<Value>(at).await {
            if good(&object) {
                return object;
            }
            last = object;
        }
        assert!(Instant::now() < end, "{what}: not within {} s: {last:#}", PATIENCE.as_secs());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn until_gone(client: &Client, at: &ObjectPath) {
    let end = Instant::now() + PATIENCE;
    while let Ok(object) = client.read::<Value>(at).await {
        assert!(Instant::now() < end, "not gone within {} s: {object:#}", PATIENCE.as_secs());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn machine(name: &str) -> Value {
    json!({
        "apiVersion": "compute.skep.io/v1", "kind": "Machine", "metadata": {"name": name},
        "spec": {"flavorName": "tiny", "resources": {"cpu": "100m", "memory": "128Mi"}},
    })
}

fn is_running(machine: &Value) -> bool {
    machine["status"]["phase"] == "Running"
}

fn kill(pid: i32) {
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
}

#[tokio::test]
async fn it_starts_says_what_it_does_and_keeps_what_it_has() {
    let cloud = Cloud::new();
    let said = cloud.up();
    assert!(said.contains("control plane") && said.contains("Try next:"), "{said}");
    assert!(said.contains("virtual machines"), "it says what it could not use: {said}");
    let again = cloud.up();
    assert!(again.contains("is up already"), "{again}");
    let shop = cloud.tenant("shop");
    let map = Resource::new("", "v1", "configmaps").at(shop).namespace("default");
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kept"}});
    cloud.client().create::<Value>(&map, &object).await.unwrap();
    let status = text(&cloud.skep(&["status"]));
    assert!(status.contains(&cloud.listen) && status.contains("tenants          1"), "{status}");
    cloud.down(&[]);
    assert!(!cloud.skep(&["status"]).status.success(), "nothing runs");
    cloud.up();
    cloud.client().read::<Value>(&map.name("kept")).await.unwrap();
}

#[tokio::test]
async fn a_taken_port_is_named_with_a_way_out() {
    let cloud = Cloud::new();
    let _taken = TcpListener::bind(&cloud.listen).unwrap();
    let output = cloud.skep(&["up", "--listen", &cloud.listen]);
    assert!(!output.status.success());
    let said = text(&output);
    assert!(said.contains("is taken by another process") && said.contains("--listen"), "{said}");
    let doctor = cloud.skep(&["doctor", "--listen", &cloud.listen]);
    assert!(!doctor.status.success() && text(&doctor).contains("is taken"), "{}", text(&doctor));
}

#[tokio::test]
async fn machines_outlive_who_made_them_and_leave_nothing() {
    if !is_root() {
        eprintln!("SKIPPED: machines need root");
        return;
    }
    let cloud = Cloud::new();
    cloud.up();
    let (client, shop) = (cloud.client(), cloud.tenant("shop"));
    let at = MACHINES.at(shop.clone());
    let one = at.clone().name("m1");
    client.create::<Value>(&at, &machine("m1")).await.unwrap();
    let made = until(&client, &one, "a running machine", is_running).await;
    let uid = made["metadata"]["uid"].as_str().unwrap().to_owned();
    assert_eq!(made["status"]["observedGeneration"], made["metadata"]["generation"]);
    let init = cloud.init(&uid);
    // Its credential is its node's and no other's.
    let kubeconfig = cloud.data().join("machines").join(&uid).join("control/kubeconfig");
    let node = Client::from_kubeconfig(&kubeconfig).unwrap();
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let who: Value = node.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &review).await.unwrap();
    assert_eq!(who["status"]["userInfo"]["username"], "system:node:m1");
    let foreign = node.read::<Value>(&HOSTS.at(Tenants::Own)).await.unwrap_err();
    assert_eq!(foreign.kind(), ErrorKind::NotFound, "hosts are not even there for tenants: {foreign}");
    // The daemon dies; the machine does not, and the next daemon takes it over.
    let daemon = cloud.daemon();
    kill(daemon);
    wait_for("another daemon", || Some(cloud.daemon()).filter(|pid| *pid != daemon));
    assert_eq!(cloud.init(&uid), init, "the machine went on");
    // The machine's first process dies; the host starts it again.
    kill(init);
    let again = until(&client, &one, "the machine's next start", |m| {
        is_running(m) && m["status"]["restarts"].as_i64() >= Some(1)
    });
    again.await;
    assert_ne!(cloud.init(&uid), init);
    // The cloud stops, with and without its machines.
    let init = cloud.init(&uid);
    cloud.down(&["--keep-machines"]);
    assert!(cloud.processes().contains(&init), "it was to be kept");
    cloud.up();
    until(&client, &one, "the machine", is_running).await;
    assert_eq!(cloud.init(&uid), init);
    cloud.down(&[]);
    assert_eq!(cloud.processes(), Vec::<i32>::new());
    cloud.up();
    wait_for("the machine's start after a stop", || (!cloud.processes().is_empty()).then_some(()));
    // Deleted, it goes with everything.
    client.remove(&one, &DeleteParams::default()).await.unwrap();
    until_gone(&client, &one).await;
    assert_eq!(cloud.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn tenants_read_machines_and_write_none() {
    let cloud = Cloud::new();
    cloud.up();
    let (client, shop) = (cloud.client(), cloud.tenant("shop"));
    let path = cloud.directory.path().join("shop.kubeconfig");
    fs::write(&path, cloud.skep(&["tenant", "kubeconfig", "shop"]).stdout).unwrap();
    let tenant = Client::from_kubeconfig(&path).unwrap();
    let (own, operators) = (MACHINES.at(Tenants::Own), MACHINES.at(shop));
    client.create::<Value>(&operators, &machine("m1")).await.unwrap();
    tenant.read::<Value>(&own.clone().name("m1")).await.unwrap();
    let refused = |result: Result<Value, Error>| {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
        assert!(error.to_string().contains("the operator's system only"), "{error}");
    };
    refused(tenant.create(&own, &machine("m2")).await);
    let patch = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
    refused(tenant.patch(&own.clone().name("m1"), &patch).await);
    let status = Patch::Merge(json!({"status": {"phase": "Running"}}));
    refused(tenant.patch(&own.clone().name("m1").subresource("status"), &status).await);
    let error =
        tenant.remove(&own.clone().name("m1"), &DeleteParams::default()).await.map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
    let request = json!({"spec": {"request": "x"}});
    let credential = own.name("m1").subresource("credential").to_string();
    let error = tenant.post::<Value>(&credential, &request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
    // Every tenant has a pool from the start.
    let pools = Resource::new("compute.skep.io", "v1", "nodepools").at(Tenants::Own);
    let pool: Value = tenant.read(&pools.name("default")).await.unwrap();
    assert_eq!(pool["spec"]["emptyDelaySeconds"], 120);
    client.remove(&operators.clone().name("m1"), &DeleteParams::default()).await.unwrap();
    until_gone(&client, &operators.name("m1")).await;
}
