//! Pods and images of somebody who means harm: what they do stays theirs, is said clearly, and costs their neighbours nothing but time. Needs root and
//! busybox; says so without.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use skep_e2e::agent::{busybox, impossible};
use skep_e2e::cloud::{Cloud, Tenant, wait_for};

fn pod(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    spec["terminationGracePeriodSeconds"] = 1.into();
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
}

fn sh(command: &str) -> Value {
    json!({"name": "c", "image": "busybox:test", "command": ["sh", "-c", command]})
}

fn field(tenant: &Tenant, pod: &str, path: &str) -> String {
    tenant.try_run(&["get", "pod", pod, "-o", &format!("jsonpath={path}")]).1
}

/// A pod goes on as if nothing were.
fn answers(tenant: &Tenant, name: &str) {
    let said = wait_for(&format!("{name} to answer"), || {
        let (good, said) = tenant.try_run(&["exec", name, "--", "cat", "/word"]);
        good.then_some(said)
    });
    assert_eq!(said, "mine");
    assert_eq!(field(tenant, name, "{.status.containerStatuses[0].restartCount}{.status.phase}"), "0Running");
}

/// Everything else goes on: in the same machine, and in another tenant's.
fn unharmed(crook: &Tenant, bank: &Tenant) {
    answers(crook, "neighbour");
    answers(bank, "teller");
}

#[test]
fn harm_stays_where_it_is_done() {
    if let Some(why) = impossible() {
        eprintln!("SKIPPED: {why}");
        return;
    }
    let cloud = Cloud::new();
    let registry = Liar::start(cloud.directory.path());
    std::fs::create_dir_all(cloud.data()).unwrap();
    let ways = json!({"plainHttp": [&registry.address], "private": [&registry.address]});
    std::fs::write(cloud.data().join("registries.json"), ways.to_string()).unwrap();
    cloud.up();
    cloud.load("busybox:test", "mine", None);
    let (crook, bank) = (cloud.administrator("crook"), cloud.administrator("bank"));
    let mut sleeper = sh("sleep 100000");
    // A machine of some size, in which it is one of many.
    sleeper["resources"] = json!({"requests": {"cpu": "600m"}});
    let sleeper = json!({"containers": [sleeper]});
    crook.apply(&pod("neighbour", sleeper.clone()));
    bank.apply(&pod("teller", sleeper));
    crook.phase("neighbour", "Running");
    bank.phase("teller", "Running");
    for name in LIES.map(|(name, _)| name) {
        let mut c = sh("sleep 100000");
        c["image"] = format!("{}/{name}:1", registry.address).into();
        crook.apply(&pod(name, json!({"containers": [c]})));
    }
    paths(&crook);
    disks(&crook);
    unharmed(&crook, &bank);
    logger(&crook);
    unharmed(&crook, &bank);
    memory(&crook);
    unharmed(&crook, &bank);
    fork_bomb(&crook);
    unharmed(&crook, &bank);
    // Unpacking a bomb as far as it is let takes a while: what else there is has been tried meanwhile.
    images(&crook);
    assert_eq!(
        crook.run(&["get", "nodes", "--no-headers"]).lines().count(),
        1,
        "all of it was in one machine"
    );
    unharmed(&crook, &bank);
}

/// The machine of whoever is root in it has room again when the harm is over, and is then as before without anybody's help.
#[test]
fn a_machine_survives_its_root() {
    if let Some(why) = impossible() {
        eprintln!("SKIPPED: {why}");
        return;
    }
    let cloud = Cloud::new();
    cloud.up();
    cloud.load("busybox:test", "mine", None);
    let (crook, bank) = (cloud.administrator("crook"), cloud.administrator("bank"));
    let mut sleeper = sh("sleep 100000");
    sleeper["resources"] = json!({"requests": {"cpu": "600m"}});
    let sleeper = json!({"containers": [sleeper]});
    crook.apply(&pod("neighbour", sleeper.clone()));
    bank.apply(&pod("teller", sleeper));
    crook.phase("neighbour", "Running");
    bank.phase("teller", "Running");
    root_of_the_machine(&cloud, &crook, &bank);
    answers(&bank, "teller");
    answers_again(&cloud, &crook);
}

/// The machine answers, with the containers that it had, and takes new ones.
fn answers_again(cloud: &Cloud, crook: &Tenant) {
    let end = std::time::Instant::now() + skep_e2e::cloud::PATIENCE;
    loop {
        let (good, said) = crook.try_run(&["exec", "neighbour", "--", "cat", "/word"]);
        if good && said == "mine" {
            break;
        }
        if std::time::Instant::now() > end {
            let pods = crook.run(&["describe", "pods"]);
            for process in cloud.processes() {
                let read =
                    |f: &str| std::fs::read_to_string(format!("/proc/{process}/{f}")).unwrap_or_default();
                eprintln!("{process} {} {}", read("cmdline").replace('\0', " "), read("wchan"));
            }
            let uid = crook.run(&["get", "machines", "-o", "jsonpath={.items[0].metadata.uid}"]);
            let console = cloud.data().join("machines").join(uid).join("console.log");
            panic!("{said}\n{pods}\n{}", std::fs::read_to_string(console).unwrap_or_default());
        }
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    // Nobody was evicted for what root of the machine took.
    answers(crook, "neighbour");
    crook.apply(&pod(
        "later",
        json!({"tolerations": [{"operator": "Exists"}], "containers": [sh("sleep 100000")]}),
    ));
    crook.phase("later", "Running");
}

fn fork_bomb(crook: &Tenant) {
    let mut bomb = sh("f() { f | f & }; f; sleep 100000");
    // The machine may be said to be short of memory still, which keeps those away who ask for nothing.
    bomb["resources"] = json!({"requests": {"cpu": "10m"}});
    crook.apply(&pod("bomb", json!({"tolerations": [{"operator": "Exists"}], "containers": [bomb]})));
    crook.phase("bomb", "Running");
    let node = field(crook, "neighbour", "{.spec.nodeName}");
    assert_eq!(field(crook, "bomb", "{.spec.nodeName}"), node, "it is in the machine of others");
    let threads = || {
        let (_, said) =
            crook.try_run(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/stats/summary")]);
        let summary: Value = serde_json::from_str(&said).ok()?;
        let pods = summary["pods"].as_array()?.iter();
        pods.filter(|p| p["podRef"]["name"] == "bomb")
            .find_map(|p| p["process_stats"]["process_count"].as_u64())
    };
    // It grows as far as it may: the machine's limit is at least 4,096.
    wait_for("the bomb to go off", || (threads()? >= 1_000).then_some(()));
    let (good, said) = crook.try_run(&["exec", "neighbour", "--", "sh", "-c", "echo still | cat"]);
    assert!(good && said.contains("still"), "others can make processes: {said}");
    crook.run(&["delete", "pod", "bomb", "--wait=true", "--timeout=80s"]);
    wait_for("nothing of it to be left", || {
        let (_, said) = crook.try_run(&["exec", "neighbour", "--", "true"]);
        said.is_empty().then_some(())
    });
}

/// Who is root in the machine itself makes processes until it gets no more: then the machine has no room, and nobody else has less.
fn root_of_the_machine(cloud: &Cloud, crook: &Tenant, bank: &Tenant) {
    // No other program here sleeps so long.
    const MARK: &str = "7654321";
    let uid = crook.run(&["get", "machines", "-o", "jsonpath={.items[0].metadata.uid}"]);
    let init = cloud.init(&uid);
    let groups: Vec<PathBuf> = std::fs::read_to_string(format!("/proc/{init}/cgroup"))
        .unwrap()
        .lines()
        .filter_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            let root = Path::new("/sys/fs/cgroup");
            let roots = [root.join(controllers.trim_start_matches("name=")), root.join("unified")];
            roots
                .iter()
                .map(|r| r.join(path.trim_start_matches('/')))
                .find(|g| g.join("cgroup.procs").exists())
        })
        .collect();
    let number = |group: &Path, name: &str| {
        let text = std::fs::read_to_string(group.join(name)).ok()?;
        text.trim().parse::<u64>().ok()
    };
    // The limit is the machine's: its first process may be in a group below.
    let limited = groups.iter().flat_map(|g| g.ancestors()).find(|g| number(g, "pids.max").is_some());
    let limited = limited.expect("the machine may have so many processes").to_owned();
    let most = number(&limited, "pids.max").unwrap();
    let mut enter = Command::new("sh");
    enter.arg("-c").arg(format!(
        "for g in \"$@\"; do echo $$ > $g/cgroup.procs; done; exec nsenter -t {init} -U -p -n -i -u -S 0 -G 0 busybox sh -c 'while :; do sleep {MARK} >/dev/null 2>&1 & done'"
    ));
    let output = enter.arg("sh").args(&groups).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("fork"), "it is told that there are no more: {said}");
    let current = || number(&limited, "pids.current").unwrap();
    assert!(current() > most - most / 16 && current() <= most, "{} of {most}", current());
    let (good, said) = bank.try_run(&["exec", "teller", "--", "sh", "-c", "echo still | cat"]);
    assert!(good && said.contains("still"), "another tenant's machine has what it had: {said}");
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if line == format!("sleep\0{MARK}\0").as_bytes() {
            skep_e2e::cloud::kill(entry.file_name().to_str().unwrap().parse().unwrap());
        }
    }
    wait_for("the machine to have room again", || (current() < 1_000).then_some(()));
}

fn memory(crook: &Tenant) {
    // A shell would do it letter by letter.
    let grow = r#"exec awk 'BEGIN { x = "aaaaaaaaaaaaaaaa"; while (1) x = x x }'"#;
    // Beside the image that is being unpacked, who asks for no CPU gets hardly any.
    let (mut limited, mut boundless) = (sh(grow), sh(grow));
    limited["resources"] = json!({"requests": {"cpu": "100m"}, "limits": {"memory": "32Mi"}});
    boundless["resources"] = json!({"requests": {"cpu": "100m"}});
    crook.apply(&pod("hog", json!({"restartPolicy": "Never", "containers": [limited]})));
    crook.apply(&pod("boundless", json!({"restartPolicy": "Never", "containers": [boundless]})));
    for name in ["hog", "boundless"] {
        crook.phase(name, "Failed");
        let reason =
            field(crook, name, "{.status.reason}{.status.containerStatuses[0].state.terminated.reason}");
        assert!(
            reason == "OOMKilled" || (name == "boundless" && reason.starts_with("Evicted")),
            "{name}: {reason}"
        );
    }
    assert_eq!(field(crook, "hog", "{.status.containerStatuses[0].state.terminated.exitCode}"), "137");
}

fn logger(crook: &Tenant) {
    let talk = "while :; do seq 1 100000; done";
    crook.apply(&pod("talker", json!({"containers": [sh(talk)]})));
    crook.phase("talker", "Running");
    let node = crook.run(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]);
    let written = || {
        let said = crook.run(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/metrics/cadvisor")]);
        let start = "container_fs_writes_bytes_total{container=\"c\"";
        let line =
            said.lines().find(|l| l.starts_with(start) && l.contains("pod=\"talker\"")).map(str::to_owned);
        assert!(line.is_some(), "{said}");
        // A file that has just been put aside has left an empty one.
        wait_for("a line of the log", || {
            crook.try_run(&["logs", "talker", "--tail=1"]).1.trim().parse::<u32>().ok()
        });
        let summary = crook.run(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/stats/summary")]);
        let summary: Value = serde_json::from_str(&summary).unwrap();
        let mut pods = summary["pods"].as_array().unwrap().iter();
        let pod = pods.find(|p| p["podRef"]["name"] == "talker").unwrap();
        pod["containers"][0]["logs"]["usedBytes"].as_u64().unwrap()
    };
    // Several millions of lines.
    for _ in 0..10 {
        // Five files of 10 MiB each, as upstream, and what comes while one is put aside.
        assert!(written() < 80 << 20, "logs grow without a bound");
        std::thread::sleep(std::time::Duration::from_millis(300));
    }
    crook.run(&["delete", "pod", "talker", "--wait=true"]);
}

fn disks(crook: &Tenant) {
    let fill = |to: &str| format!("dd if=/dev/zero of={to} bs=1M count=48; sleep 100000");
    let mount = json!([{"name": "v", "mountPath": "/v"}]);
    let mut volume = sh(&fill("/v/f"));
    volume["volumeMounts"] = mount.clone();
    let limit = json!([{"name": "v", "emptyDir": {"sizeLimit": "16Mi"}}]);
    crook.apply(&pod("volume", json!({"volumes": limit, "containers": [volume]})));
    let mut layer = sh(&fill("/f"));
    layer["resources"] = json!({"limits": {"ephemeral-storage": "16Mi"}});
    crook.apply(&pod("layer", json!({"containers": [layer]})));
    let mut memory = sh("dd if=/dev/zero of=/v/f bs=1M count=48 2>&1; sleep 100000");
    memory["volumeMounts"] = mount;
    let limit = json!([{"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}}]);
    crook.apply(&pod("memory", json!({"volumes": limit, "containers": [memory]})));
    for (name, why) in [
        ("volume", "Usage of EmptyDir volume \"v\" exceeds the limit \"16Mi\". "),
        ("layer", "Pod ephemeral local storage usage exceeds the total limit of containers 16Mi. "),
    ] {
        crook.phase(name, "Failed");
        assert_eq!(field(crook, name, "{.status.reason}: {.status.message}"), format!("Evicted: {why}"));
    }
    wait_for("a full volume in memory", || {
        crook.try_run(&["logs", "memory"]).1.contains("No space left on device").then_some(())
    });
    crook.run(&["delete", "pod", "memory", "--wait=false"]);
}

/// Links that lead out of volumes.
fn paths(crook: &Tenant) {
    let volume = json!([{"name": "v", "emptyDir": {}}]);
    let lay = |links: &str| {
        let mut c = sh(&format!("cd /v && {links}"));
        c["name"] = "first".into();
        c["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
        c
    };
    for (name, links, sub_path) in [
        ("absolute", "ln -s /etc x", "x"),
        ("upward", "ln -s ../../../.. x", "x/etc"),
        ("inner", "mkdir a && ln -s ../../../../../var a/x", "a/x/lib"),
    ] {
        let mut c = sh("ls /m; sleep 100000");
        c["volumeMounts"] = json!([{"name": "v", "mountPath": "/m", "subPath": sub_path}]);
        crook
            .apply(&pod(name, json!({"volumes": volume, "initContainers": [lay(links)], "containers": [c]})));
    }
    for name in ["absolute", "upward", "inner"] {
        wait_for(&format!("{name} to be refused"), || {
            let state = field(
                crook,
                name,
                "{.status.containerStatuses[0].state}{.status.containerStatuses[0].lastState}",
            );
            (state.contains("message") && !state.contains("running")).then_some(())
        });
        let (good, said) = crook.try_run(&["logs", name, "-c", "c"]);
        assert!(!good || said.trim().is_empty(), "{name} saw something: {said}");
        crook.run(&["delete", "pod", name, "--wait=false"]);
    }
}

/// A registry whose blobs are not what they are called, or far more than they look like.
struct Liar {
    address: String,
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut child =
        Command::new("gzip").arg("-9c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&bytes).unwrap());
    let out = child.wait_with_output().unwrap().stdout;
    writer.join().unwrap();
    out
}

impl Liar {
    fn start(folder: &std::path::Path) -> Liar {
        let work = tempfile::tempdir_in(folder).unwrap();
        let _ = busybox(work.path(), "x:1", "hers");
        let honest = std::fs::read(work.path().join("layer.tar")).unwrap();
        // 400 MB of zeros in a tar of one file.
        let zeros = work.path().join("zeros");
        std::fs::File::create(&zeros).unwrap().set_len(400 << 20).unwrap();
        let tar =
            Command::new("tar").arg("c").arg("-C").arg(work.path()).arg("zeros").output().unwrap().stdout;
        let mut blobs: Vec<(String, Vec<u8>)> = Vec::new();
        let mut altered = gzip(&honest);
        let middle = altered.len() / 2;
        altered[middle] ^= 1;
        for (name, told, sent) in [
            // Not what its digest says.
            ("liar", gzip(&honest), altered),
            // What the manifest says, but not what the configuration says.
            ("forger", gzip(&honest), gzip(&honest)),
            ("bomber", gzip(&tar), gzip(&tar)),
        ] {
            let inner = match name {
                "liar" => digest(&honest),
                "forger" => digest(b"another layer"),
                _ => digest(&tar),
            };
            let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
            let config = json!({"architecture": arch, "os": "linux", "config": {"Cmd": ["sh"]},
                "rootfs": {"type": "layers", "diff_ids": [inner]}})
            .to_string()
            .into_bytes();
            let described = |bytes: &[u8], kind: &str| json!({"digest": digest(bytes), "size": bytes.len(), "mediaType": kind});
            let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": described(&config, "application/vnd.oci.image.config.v1+json"),
                "layers": [described(&told, "application/vnd.oci.image.layer.v1.tar+gzip")]});
            blobs.push((format!("/v2/{name}/manifests/1"), manifest.to_string().into_bytes()));
            blobs.push((format!("/v2/{name}/blobs/{}", digest(&config)), config));
            blobs.push((format!("/v2/{name}/blobs/{}", digest(&told)), sent));
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let blobs = Arc::new(blobs);
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let blobs = blobs.clone();
                std::thread::spawn(move || answer(&stream, &blobs));
            }
        });
        Liar { address }
    }
}

fn answer(mut stream: &std::net::TcpStream, blobs: &[(String, Vec<u8>)]) {
    let mut lines = BufReader::new(stream).lines();
    let Some(Ok(first)) = lines.next() else { return };
    while let Some(Ok(line)) = lines.next() {
        if line.is_empty() {
            break;
        }
    }
    let path = first.split(' ').nth(1).unwrap_or_default();
    let found = if path == "/v2/" {
        Some(&b"{}"[..])
    } else {
        blobs.iter().find(|(p, _)| p == path).map(|(_, b)| &b[..])
    };
    let kind = if path.contains("/manifests/") {
        "application/vnd.oci.image.manifest.v1+json"
    } else {
        "application/octet-stream"
    };
    let (code, body) = found.map_or(("404 Not Found", &b""[..]), |b| ("200 OK", b));
    let head = format!(
        "HTTP/1.1 {code}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(head.as_bytes());
    if !first.starts_with("HEAD") {
        // Whoever has seen enough goes.
        let _ = stream.write_all(body);
    }
}

/// Images that are refused, and a part of what is said.
const LIES: [(&str, &str); 3] = [
    ("liar", "lies about its content"),
    ("forger", "lies about its content"),
    ("bomber", "times its compressed"),
];

fn images(crook: &Tenant) {
    for (name, why) in LIES {
        wait_for(&format!("{name} to be refused"), || {
            let selector = format!("--field-selector=involvedObject.name={name},reason=Failed");
            let (_, said) =
                crook.try_run(&["get", "events", &selector, "-o", "jsonpath={.items[*].message}"]);
            (said.contains("Failed to pull image") && said.contains(why)).then_some(())
        });
        assert_eq!(field(crook, name, "{.status.phase}"), "Pending");
    }
}
