//! A node agent as a process of its own, with images made from busybox, and a tenant to run pods in.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use skep_client::{Access, Client};

use crate::Server;

/// How long anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Where Debian's `busybox-static` puts it.
const BUSYBOX: &str = "/usr/bin/busybox";

/// Why tests with containers cannot run here; nothing when they can.
#[must_use]
pub fn impossible() -> Option<String> {
    let id = Command::new("id").arg("-u").output().ok()?;
    if String::from_utf8_lossy(&id.stdout).trim() != "0" {
        return Some("containers need root".to_owned());
    }
    (!Path::new(BUSYBOX).exists()).then(|| format!("{BUSYBOX} is missing: install busybox-static"))
}

/// Why tests of machines with disks of their own cannot run here; nothing when they can.
#[must_use]
pub fn disks_impossible() -> Option<String> {
    let tools = ["/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4"].iter().any(|t| Path::new(t).exists());
    let loops = Path::new("/dev/loop-control").exists();
    impossible()
        .or_else(|| (!tools).then(|| "mkfs.ext4 is missing: install e2fsprogs".to_owned()))
        .or_else(|| (!loops).then(|| "there are no loop devices".to_owned()))
}

/// A tenant with one node, whose agent runs.
pub struct Node {
    /// The tenant's name.
    pub tenant: String,
    /// The node's name.
    pub name: String,
    /// The agent's directory.
    pub directory: PathBuf,
    kubeconfig: PathBuf,
    arguments: Vec<String>,
    bridge: String,
    child: Option<Child>,
}

/// Numbers for bridges and ranges: tests of several processes run on one machine.
fn unique() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    std::process::id().wrapping_mul(8).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Node {
    /// Makes a tenant and starts its node's agent.
    #[must_use]
    pub fn start(server: &Server, tenant: &str, arguments: &[&str]) -> Node {
        server.skep(&["tenant", "create", tenant]);
        let name = "node-1".to_owned();
        let text = server.skep(&[
            "tenant",
            "kubeconfig",
            tenant,
            "--user",
            "system:node:node-1",
            "--group",
            "system:nodes",
        ]);
        let directory = server.folder().join(format!("{tenant}-node"));
        std::fs::create_dir_all(&directory).unwrap();
        let kubeconfig = directory.join("kubeconfig");
        std::fs::write(&kubeconfig, text).unwrap();
        make_image(server, &directory);
        let number = unique();
        let mut node = Node {
            tenant: tenant.to_owned(),
            name,
            kubeconfig,
            arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
            bridge: format!("skt{:x}", number & 0xff_ffff),
            directory,
            child: None,
        };
        let range = format!("10.{}.{}.0/24", 128 + number % 100, number / 100 % 256);
        node.arguments.extend([
            "--pod-bridge".to_owned(),
            node.bridge.clone(),
            "--pod-range".to_owned(),
            range,
        ]);
        std::fs::create_dir_all(node.directory.join("host/etc")).unwrap();
        node.restart();
        node
    }

    /// Starts the agent again.
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "it is running");
        let log = std::fs::File::options().create(true).append(true).open(self.log_path()).unwrap();
        let child = crate::command()
            .args(["agent", "--node", &self.name, "--kubeconfig"])
            .arg(&self.kubeconfig)
            .arg("--data")
            .arg(self.directory.join("data"))
            .arg("--images")
            .arg(self.directory.join("images"))
            .arg("--host-root")
            .arg(self.directory.join("host"))
            .args(&self.arguments)
            .env("SKEP_LOG", std::env::var("SKEP_LOG").unwrap_or_else(|_| "info,skep_agent=debug".to_owned()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// kill -9 of the agent; what it runs goes on.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// The agent's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// What the agent has logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Resident memory of the agent in kilobytes.
    #[must_use]
    pub fn resident_kb(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// What mounts lie below the agent's directory.
    #[must_use]
    pub fn mounts(&self) -> Vec<String> {
        let below = format!("{}/", self.directory.join("data").display());
        std::fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .lines()
            .filter_map(|l| l.split(' ').nth(4).map(str::to_owned))
            .filter(|p| p.starts_with(&below))
            .collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("the agent's log:\n{}", self.log());
        }
        // Shims outlive their agent by design: end those of this test, and what they hold.
        let data = self.directory.join("data");
        let pods: Vec<_> =
            std::fs::read_dir(data.join("runtime/pods")).into_iter().flatten().flatten().collect();
        for entry in &pods {
            if let Ok(text) = std::fs::read_to_string(entry.path().join("shim.pid"))
                && let Some(pid) = text.split_whitespace().next()
            {
                let _ = Command::new("kill").args(["-9", pid]).stderr(Stdio::null()).status();
            }
        }
        for entry in &pods {
            // The directory is the pod's uid and which of its sandboxes it is.
            let name = entry.file_name().to_string_lossy().into_owned();
            let uid = name.rsplit_once('-').map_or(name.as_str(), |(uid, _)| uid);
            crate::cloud::remove_groups_named(&format!("pod{uid}"));
        }
        let _ = Command::new("ip").args(["link", "delete", &self.bridge]).stderr(Stdio::null()).status();
        for _ in 0..50 {
            let mounts = self.mounts();
            if mounts.is_empty() {
                break;
            }
            for mount in mounts.iter().rev() {
                let _ = Command::new("umount").args(["-l", mount]).stderr(Stdio::null()).status();
            }
        }
    }
}

/// `busybox:test` in a node's store.
fn make_image(server: &Server, folder: &Path) {
    let archive = busybox(folder, "busybox:test", "");
    server.skep(&["image", "load", "--data", folder.to_str().unwrap(), archive.to_str().unwrap()]);
}

/// An archive as `docker save` makes them, of an image with a static busybox, a file `/word` and nothing else. Beside it lie `layer.tar` and
/// `config.json`.
#[must_use]
pub fn busybox(folder: &Path, name: &str, word: &str) -> PathBuf {
    let root = folder.join("rootfs");
    for name in ["bin", "tmp", "etc", "root", "dev", "proc", "sys", "var"] {
        std::fs::create_dir_all(root.join(name)).unwrap();
    }
    std::fs::write(root.join("word"), word).unwrap();
    std::fs::copy(BUSYBOX, root.join("bin/busybox")).unwrap();
    let applets = Command::new(BUSYBOX).arg("--list").output().unwrap();
    for applet in String::from_utf8(applets.stdout).unwrap().lines().filter(|a| *a != "busybox") {
        let link = root.join("bin").join(applet);
        if !link.is_symlink() {
            std::os::unix::fs::symlink("busybox", link).unwrap();
        }
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n";
    std::fs::write(root.join("etc/passwd"), passwd).unwrap();
    std::fs::write(root.join("etc/group"), "root:x:0:\nnobody:x:65534:\n").unwrap();
    let tar = |archive: &str, of: &Path, names: &[&str]| {
        let mut command = Command::new("tar");
        command.arg("cf").arg(folder.join(archive)).arg("-C").arg(of).args(names);
        crate::succeed(&mut command);
    };
    tar("layer.tar", &root, &["."]);
    let digest = crate::succeed(Command::new("sha256sum").arg(folder.join("layer.tar")));
    let config = json!({"architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
        "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", digest.split(' ').next().unwrap())]}});
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let manifest = json!([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]);
    std::fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
    tar("image.tar", folder, &["manifest.json", "config.json", "layer.tar"]);
    folder.join("image.tar")
}

/// The tenant's pods, as its administrator handles them.
pub struct Pods {
    /// The tenant's administrator.
    pub client: Client,
    node: String,
}

impl Pods {
    /// For a tenant's node.
    #[must_use]
    pub fn new(server: &Server, node: &Node) -> Pods {
        let kubeconfig = server.tenant_kubeconfig(&node.tenant);
        Pods { client: Client::new(Access::load(&kubeconfig).unwrap()).unwrap(), node: node.name.clone() }
    }

    /// Waits until the node is ready.
    pub async fn node_ready(&self) -> Value {
        let path = format!("/api/v1/nodes/{}", self.node);
        eventually("the node is ready", || async {
            let node: Value = self.client.get(&path).await.ok()?;
            let ready = node["status"]["conditions"]
                .as_array()?
                .iter()
                .any(|c| c["type"] == "Ready" && c["status"] == "True");
            ready.then_some(node)
        })
        .await
    }

    /// Makes a pod on the node; containers without an image get busybox.
    pub async fn create(&self, name: &str, spec: Value) -> Value {
        let mut spec = spec;
        for list in ["containers", "initContainers"] {
            for c in spec[list].as_array_mut().into_iter().flatten() {
                if c.get("image").is_none() {
                    c["image"] = "busybox:test".into();
                }
            }
        }
        for list in ["initContainers"] {
            if spec[list].is_null() {
                spec.as_object_mut().unwrap().remove(list);
            }
        }
        if spec.get("terminationGracePeriodSeconds").is_none() {
            spec["terminationGracePeriodSeconds"] = 2.into();
        }
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
        let pod: Value = self.client.post("/api/v1/namespaces/default/pods", &pod).await.unwrap();
        let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
            "target": {"apiVersion": "v1", "kind": "Node", "name": self.node}});
        let _: Value = self
            .client
            .post(&format!("/api/v1/namespaces/default/pods/{name}/binding"), &binding)
            .await
            .unwrap();
        pod
    }

    /// A pod as it is, if it is there.
    pub async fn get(&self, name: &str) -> Option<Value> {
        self.client.get(&format!("/api/v1/namespaces/default/pods/{name}")).await.ok()
    }

    /// Waits until a pod is as wanted.
    pub async fn until(&self, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let pod = self.get(name).await.unwrap_or_default();
            if is(&pod) {
                return pod;
            }
            if begun.elapsed() > PATIENCE {
                let events: Value =
                    self.client.get("/api/v1/namespaces/default/events").await.unwrap_or_default();
                let told: Vec<String> = events["items"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter(|e| e["involvedObject"]["name"] == name)
                    .map(|e| format!("{} {}", e["reason"], e["message"]))
                    .collect();
                panic!("{name}: {what} does not happen: {:#}\n{told:#?}", pod["status"]);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits for a phase.
    pub async fn phase(&self, name: &str, phase: &str) -> Value {
        self.until(name, phase, |p| p["status"]["phase"] == phase).await
    }

    /// Waits until the pod is ready.
    pub async fn ready(&self, name: &str) -> Value {
        self.until(name, "being ready", |p| condition(p, "Ready") == "True").await
    }

    /// Deletes a pod and waits until it is gone.
    pub async fn delete(&self, name: &str) {
        let path = format!("/api/v1/namespaces/default/pods/{name}");
        self.client.delete(&path).await.unwrap();
        eventually(&format!("{name} is gone"), || async { self.get(name).await.is_none().then_some(()) })
            .await;
    }

    /// The events about a pod: reason and message.
    pub async fn events(&self, name: &str) -> Vec<(String, String)> {
        let events: Value = self.client.get("/api/v1/namespaces/default/events").await.unwrap();
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        events["items"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|e| e["involvedObject"]["name"] == name)
            .map(|e| (text(&e["reason"]), text(&e["message"])))
            .collect()
    }

    /// Waits for an event about a pod; gives its message.
    pub async fn event(&self, name: &str, reason: &str) -> String {
        eventually(&format!("event {reason} about {name}"), || async {
            self.events(name).await.into_iter().find(|(r, _)| r == reason).map(|(_, m)| m)
        })
        .await
    }
}

/// A condition's status.
#[must_use]
pub fn condition(pod: &Value, kind: &str) -> String {
    pod["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|c| c["type"] == kind)
        .and_then(|c| c["status"].as_str())
        .unwrap_or_default()
        .to_owned()
}

/// A container's status by name.
#[must_use]
pub fn container(pod: &Value, name: &str) -> Value {
    ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"]
        .iter()
        .flat_map(|l| pod["status"][*l].as_array().into_iter().flatten())
        .find(|s| s["name"] == name)
        .cloned()
        .unwrap_or_default()
}

/// Asks until there is an answer.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "this does not happen: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
