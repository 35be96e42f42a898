//! What a tenant who is root in his machine can reach, and what he can't; whose images he has. Needs root and busybox; says so without.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use skep_e2e::agent::{busybox, impossible};
use skep_e2e::cloud::{Cloud, Tenant, wait_for};

fn pod(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    spec["terminationGracePeriodSeconds"] = 1.into();
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
}

/// A pod with everything that a pod can have of its machine.
fn root_of_machine(name: &str) -> Value {
    pod(
        name,
        json!({
            "hostPID": true, "hostNetwork": true, "hostIPC": true,
            "volumes": [{"name": "root", "hostPath": {"path": "/"}}],
            "containers": [{
                "name": "c", "image": "busybox:test", "command": ["sleep", "100000"],
                "volumeMounts": [{"name": "root", "mountPath": "/host"}],
                "securityContext": {"capabilities": {"add": ["ALL"]}, "seccompProfile": {"type": "Unconfined"}},
            }],
        }),
    )
}

/// Runs a script as root in the machine's own namespaces, and gives what it says.
fn in_machine(tenant: &Tenant, pod: &str, script: &str) -> String {
    tenant.run(&["exec", pod, "--", "cp", "/bin/busybox", "/host/tmp/busybox"]);
    let enter = ["nsenter", "-t", "1", "-m", "-u", "-i", "-n", "-p", "/tmp/busybox", "sh", "-c", script];
    let mut args = vec!["exec", pod, "--"];
    args.extend(enter);
    tenant.try_run(&args).1
}

/// Each line tries something that must not work, and says `NAME: out` if it does.
const TRIES: &str = r#"
alias b=/tmp/busybox
PATH=
try() { what=$1; shift; if "$@" >/dev/null 2>&1; then echo "$what: out"; else echo "$what: closed"; fi; }
write() { [ -e "$1" ] && echo "$2" > "$1"; }
B=/tmp/busybox
try sysrq write /proc/sysrq-trigger h
try core-pattern write /proc/sys/kernel/core_pattern "|/tmp/x"
try modprobe-path write /proc/sys/kernel/modprobe /tmp/x
try swappiness write /proc/sys/vm/swappiness 10
try threads-max write /proc/sys/kernel/threads-max 100
try kcore $B dd if=/proc/kcore of=/dev/null bs=1 count=1
try uevent write /sys/kernel/uevent_helper /tmp/x
try power write /sys/power/state mem
try host-disk-node $B mknod /tmp/disk b 254 0
try mem-node $B mknod /tmp/mem c 1 1
try kmsg $B cat /dev/kmsg
try dmesg $B dmesg
try clock $B sh -c "! $B date -s 2030-01-01 2>&1 | $B grep -q 'set date'"
try module $B insmod /tmp/busybox
try swapoff $B swapoff -a
try control-remount $B mount -o remount,rw,bind /run/skep
try control-umount $B umount -l /run/skep
try control-write write /run/skep/kubeconfig x
try images-remount $B mount -o remount,rw,bind /var/lib/skep-images
try images-umount $B umount -l /var/lib/skep-images
try images-write $B mkdir /var/lib/skep-images/layers/x
try program-write write /usr/local/bin/skep x
try program-umount $B umount -l /usr/local/bin/skep
try null-chmod $B chmod 000 /dev/null
try memory-limit-1 write /sys/fs/cgroup/memory/memory.limit_in_bytes -1
try memory-limit-2 write /sys/fs/cgroup/memory.max max
try cpu-limit-1 write /sys/fs/cgroup/cpu/cpu.cfs_quota_us -1
try cpu-limit-2 write /sys/fs/cgroup/cpu.max max
try pids-limit-1 write /sys/fs/cgroup/pids/pids.max max
try pids-limit-2 write /sys/fs/cgroup/pids.max max
try devices write /sys/fs/cgroup/devices/devices.allow a
try release-agent write /sys/fs/cgroup/memory/release_agent /tmp/x
$B mkdir -p /tmp/cg; $B mount -t cgroup -o memory cgroup /tmp/cg 2>/dev/null
try foreign-group $B ls /tmp/cg/machine-of-another
try release-agent-again write /tmp/cg/release_agent /tmp/x
try debugfs $B mount -t debugfs none /tmp/cg
try host-disk $B mount -t ext4 /dev/vda /tmp/cg
try api $B nc -w 1 127.0.0.1 PORT -e true
try host-root $B ls /proc/1/root/work
try chroot-out $B chroot /proc/1/cwd/../../../.. $B test -e /tmp/HOSTFILE
"#;

#[test]
fn root_of_a_machine_reaches_neither_host_nor_others() {
    if let Some(why) = impossible() {
        eprintln!("SKIPPED: {why}");
        return;
    }
    let cloud = Cloud::new();
    cloud.up();
    cloud.load("busybox:test", "", None);
    cloud.load("secret:1", "the bank's", Some("bank"));
    let (shop, bank) = (cloud.administrator("shop"), cloud.administrator("bank"));
    bank.apply(&pod(
        "teller",
        json!({"containers": [{"name": "c", "image": "secret:1", "command": ["sleep", "100000"]}]}),
    ));
    shop.apply(&root_of_machine("thief"));
    shop.phase("thief", "Running");
    bank.phase("teller", "Running");
    let marker = cloud.directory.path().file_name().unwrap().to_string_lossy().into_owned();
    let port = cloud.listen.rsplit(':').next().unwrap();
    let said = in_machine(&shop, "thief", &TRIES.replace("PORT", port).replace("HOSTFILE", &marker));
    let lines: Vec<&str> = said.lines().filter(|l| l.ends_with(": out") || l.ends_with(": closed")).collect();
    assert_eq!(lines.len(), TRIES.lines().filter(|l| l.starts_with("try ")).count(), "{said}");
    let out: Vec<&&str> = lines.iter().filter(|l| l.ends_with(": out")).collect();
    assert!(out.is_empty(), "{out:?}");
    // Its processes are the machine's: the host's would name the cloud's directory, the bank's agent its node.
    let seen =
        in_machine(&shop, "thief", "/tmp/busybox cat /proc/[0-9]*/cmdline | /tmp/busybox tr '\\0' ' '");
    assert!(seen.contains("skep agent") && !seen.contains(&marker), "{seen}");
    assert_eq!(seen.matches(" agent ").count(), 1, "{seen}");
    // Only its own tenant's images.
    let words = in_machine(
        &shop,
        "thief",
        "/tmp/busybox grep -rl bank /var/lib/skep-images; /tmp/busybox ls /var/lib/skep-images/layers",
    );
    assert!(!words.contains("word") && words.trim().lines().count() == 1, "one layer: {words}");
    assert!(bank.run(&["exec", "teller", "--", "cat", "/word"]).contains("the bank's"));
    // Its own network and tree are its own.
    let own = in_machine(
        &shop,
        "thief",
        "echo 1 > /proc/sys/net/ipv4/ip_forward && /tmp/busybox mkdir /srv/mine && echo works",
    );
    assert!(own.contains("works"), "{own}");
    // On the host nobody of all these is anybody.
    let mut owners = std::collections::BTreeSet::new();
    for pid in cloud.processes() {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        if let Some(line) = status.lines().find_map(|l| l.strip_prefix("Uid:")) {
            let uid: u32 = line.split_whitespace().next().unwrap().parse().unwrap();
            assert!(uid >= 1 << 23, "process {pid} is user {uid} of the host");
            owners.insert(uid >> 23);
        }
    }
    assert_eq!(owners.len(), 2, "two machines have no user in common: {owners:?}");
    cloud.down(&[]);
    let left: Vec<String> = cloud.leftovers().into_iter().filter(|l| !l.starts_with("file ")).collect();
    assert_eq!(left, Vec::<String>::new());
}

/// A registry with one image, `team/app:1`, for whoever has the password; counts downloads of its layer.
struct Registry {
    address: String,
    downloads: Arc<Mutex<u32>>,
}

const PASSWORD: &str = "dXNlcjpvcGVuIHNlc2FtZQ=="; // user:open sesame

impl Registry {
    fn start(word: &str) -> Registry {
        let folder = tempfile::tempdir().unwrap();
        let _ = busybox(folder.path(), "app:1", word);
        let layer = fs::read(folder.path().join("layer.tar")).unwrap();
        let config = fs::read(folder.path().join("config.json")).unwrap();
        let digest = |bytes: &[u8]| {
            let path = folder.path().join("digested");
            fs::write(&path, bytes).unwrap();
            let said = std::process::Command::new("sha256sum").arg(&path).output().unwrap().stdout;
            format!("sha256:{}", String::from_utf8(said).unwrap().split(' ').next().unwrap())
        };
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len()},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(&layer), "size": layer.len()}],
        })
        .to_string()
        .into_bytes();
        let layer_path = format!("/v2/team/app/blobs/{}", digest(&layer));
        let files = BTreeMap::from([
            ("/v2/team/app/manifests/1".to_owned(), manifest),
            (format!("/v2/team/app/blobs/{}", digest(&config)), config),
            (layer_path.clone(), layer),
        ]);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let downloads = Arc::new(Mutex::new(0));
        let count = downloads.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (files, count, layer_path) = (files.clone(), count.clone(), layer_path.clone());
                std::thread::spawn(move || answer(stream, &files, &layer_path, &count));
            }
        });
        Registry { address, downloads }
    }
}

fn answer(mut stream: TcpStream, files: &BTreeMap<String, Vec<u8>>, layer: &str, downloads: &Mutex<u32>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut first = String::new();
    reader.read_line(&mut first).unwrap();
    let mut may = false;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 || line.trim().is_empty() {
            break;
        }
        may |= line.trim().eq_ignore_ascii_case(&format!("authorization: Basic {PASSWORD}"));
    }
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let (head, body): (&str, &[u8]) = match files.get(path) {
        _ if !may => ("401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"", b""),
        Some(body) => ("200 OK", body),
        None => ("404 Not Found", b""),
    };
    if may && method == "GET" && path == layer {
        *downloads.lock().unwrap() += 1;
    }
    let _ = write!(stream, "HTTP/1.1 {head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    if method == "GET" {
        let _ = stream.write_all(body);
    }
    let _ = stream.flush();
    // Whoever closes first with something unread resets the connection.
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = stream.read(&mut [0; 64]);
}

#[test]
fn machines_pull_what_their_tenant_may_have() {
    if let Some(why) = impossible() {
        eprintln!("SKIPPED: {why}");
        return;
    }
    let registry = Registry::start("from a registry");
    let cloud = Cloud::new();
    fs::create_dir_all(cloud.data()).unwrap();
    let reach = json!({"plainHttp": [registry.address]});
    fs::write(cloud.data().join("registries.json"), reach.to_string()).unwrap();
    cloud.up();
    let image = format!("{}/team/app:1", registry.address);
    let app = |name: &str, image: &str, secrets: &[&str]| {
        let secrets: Vec<Value> = secrets.iter().map(|s| json!({"name": s})).collect();
        pod(
            name,
            json!({"imagePullSecrets": secrets,
            "containers": [{"name": "c", "image": image, "command": ["sleep", "100000"]}]}),
        )
    };
    let auths = json!({"auths": {&registry.address: {"auth": PASSWORD}}}).to_string();
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "key"},
        "type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": auths}});
    let (shop, bank) = (cloud.administrator("shop"), cloud.administrator("bank"));
    shop.apply(&secret);
    shop.apply(&app("web", &image, &["key"]));
    shop.phase("web", "Running");
    assert!(shop.run(&["exec", "web", "--", "cat", "/word"]).contains("from a registry"));
    assert_eq!(*registry.downloads.lock().unwrap(), 1);
    // Another tenant does not get it because it is there.
    bank.apply(&app("web", &image, &[]));
    let waits = |tenant: &Tenant, pod: &str, word: &str| {
        wait_for(&format!("{pod} waits, and says {word:?}"), || {
            let path = "jsonpath={.status.containerStatuses[0].state.waiting}";
            let (_, said) = tenant.try_run(&["get", "pod", pod, "-o", path]);
            let events = tenant
                .try_run(&["get", "events", "--field-selector", &format!("involvedObject.name={pod}")])
                .1;
            (said.contains("ImagePull") && events.contains(word)).then_some(())
        });
    };
    waits(&bank, "web", "pull access denied");
    // With the right to read it, it is not fetched again.
    bank.apply(&secret);
    bank.apply(&app("web2", &image, &["key"]));
    bank.phase("web2", "Running");
    assert_eq!(*registry.downloads.lock().unwrap(), 1, "shared, since the registry says that it may be");
    // A name is no way into the host's network.
    bank.apply(&app("spy", "127.0.0.1:1/team/app:1", &[]));
    waits(&bank, "spy", "no public address");
}
