//! Images as a machine's containers see them, from a registry that breaks off in the middle: downloads go on where they broke, mirrors are asked first, and
//! what layers say (whiteouts, hard links, capabilities of files) is so inside. Needs root and busybox; says so without.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use skep_e2e::agent::{busybox, impossible};
use skep_e2e::cloud::{Cloud, Tenant, wait_for};

/// A tar archive, written by hand: programs that write them do not let us say everything.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn put(&mut self, kind: u8, name: &str, mode: u32, link: &str, data: &[u8]) {
        let mut head = [0u8; 512];
        let mut field = |at: usize, text: &str| head[at..at + text.len()].copy_from_slice(text.as_bytes());
        field(0, name);
        field(100, &format!("{mode:07o}"));
        field(108, "0000000");
        field(116, "0000000");
        field(124, &format!("{:011o}", data.len()));
        field(136, "00000000000");
        field(148, "        ");
        field(157, link);
        field(257, "ustar");
        field(263, "00");
        head[156] = kind;
        let sum: u32 = head.iter().map(|b| u32::from(*b)).sum();
        head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend(head);
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    fn folder(&mut self, name: &str) {
        self.put(b'5', name, 0o755, "", b"");
    }

    fn file(&mut self, name: &str, data: &[u8]) {
        self.put(b'0', name, 0o755, "", data);
    }

    fn hard_link(&mut self, name: &str, to: &str) {
        self.put(b'1', name, 0o755, to, b"");
    }

    /// An extended attribute of the entry that comes next.
    fn attribute(&mut self, name: &str, value: &[u8]) {
        let rest = [b" SCHILY.xattr.", name.as_bytes(), b"=", value, b"\n"].concat();
        let mut length = rest.len() + 1;
        while length != rest.len() + length.to_string().len() {
            length = rest.len() + length.to_string().len();
        }
        self.put(b'x', "attributes", 0o644, "", &[length.to_string().as_bytes(), &rest].concat());
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

/// What a registry was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    path: String,
    /// From which byte on, where not from the first.
    from: Option<usize>,
}

/// A registry in plain HTTP. The first answer with a large blob breaks off in the middle.
struct Registry {
    address: String,
    files: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

/// One a second, of a repository that is named so.
const SLOW_PIECES: usize = 8;

/// Blobs as large as this break off: configurations do not.
const LARGE_BYTES: usize = 64 << 10;

impl Registry {
    fn start() -> Registry {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let registry = Registry { address, files: Arc::default(), asked: Arc::default() };
        let (files, asked) = (registry.files.clone(), registry.asked.clone());
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (files, asked) = (files.clone(), asked.clone());
                std::thread::spawn(move || {
                    // Answers that take their time keep nobody waiting.
                    let files = files.lock().unwrap().clone();
                    answer(stream, &files, &asked);
                });
            }
        });
        registry
    }

    /// Has an image of these layers.
    fn add(&self, repository: &str, layers: &[&[u8]]) {
        let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let diff_ids: Vec<String> = layers.iter().map(|l| digest(l)).collect();
        let config =
            json!({"architecture": arch, "os": "linux", "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids}})
            .to_string()
            .into_bytes();
        let described = |bytes: &[u8], kind: &str| json!({"digest": digest(bytes), "size": bytes.len(), "mediaType": kind});
        let of_layer = |l: &&[u8]| described(l, "application/vnd.oci.image.layer.v1.tar");
        let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": described(&config, "application/vnd.oci.image.config.v1+json"),
            "layers": layers.iter().map(of_layer).collect::<Vec<_>>()});
        let mut files = self.files.lock().unwrap();
        let mut put =
            |path: String, bytes: &[u8]| files.insert(format!("/v2/{repository}/{path}"), bytes.to_vec());
        put("manifests/1".to_owned(), manifest.to_string().as_bytes());
        put(format!("blobs/{}", digest(&config)), &config);
        for layer in layers {
            put(format!("blobs/{}", digest(layer)), layer);
        }
    }

    /// From where the blobs of a repository were asked for, in order.
    fn downloads(&self, repository: &str, blob: &[u8]) -> Vec<Option<usize>> {
        let path = format!("/v2/{repository}/blobs/{}", digest(blob));
        self.asked.lock().unwrap().iter().filter(|a| a.path == path).map(|a| a.from).collect()
    }
}

fn answer(mut stream: TcpStream, files: &BTreeMap<String, Vec<u8>>, asked: &Mutex<Vec<Asked>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut first = String::new();
    reader.read_line(&mut first).unwrap();
    let mut from = None;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 || line.trim().is_empty() {
            break;
        }
        if let Some(range) = line.to_ascii_lowercase().trim().strip_prefix("range: bytes=") {
            from = range.strip_suffix('-').and_then(|n| n.parse::<usize>().ok());
        }
    }
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let again = {
        let mut asked = asked.lock().unwrap();
        let again = asked.iter().any(|a| a.path == path);
        if method == "GET" {
            asked.push(Asked { path: path.to_owned(), from });
        }
        again
    };
    let Some(whole) = files.get(path) else {
        let _ = write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        return;
    };
    let begin = from.filter(|from| *from < whole.len()).unwrap_or(0);
    let (code, range) = match from {
        Some(_) => {
            let range = format!("Content-Range: bytes {begin}-{}/{}\r\n", whole.len() - 1, whole.len());
            ("206 Partial Content", range)
        }
        None => ("200 OK", String::new()),
    };
    let kind = match path.contains("/manifests/") {
        true => "application/vnd.oci.image.manifest.v1+json",
        false => "application/octet-stream",
    };
    let rest = &whole[begin..];
    let head = format!(
        "HTTP/1.1 {code}\r\nContent-Type: {kind}\r\n{range}Content-Length: {}\r\nConnection: close\r\n\r\n",
        rest.len()
    );
    let _ = stream.write_all(head.as_bytes());
    if method != "GET" {
        return;
    }
    if whole.len() >= LARGE_BYTES && path.contains("/slow/") {
        for piece in rest.chunks(whole.len() / SLOW_PIECES + 1) {
            let _ = stream.write_all(piece);
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
        return;
    }
    let breaks = whole.len() >= LARGE_BYTES && !again;
    let _ = stream.write_all(&rest[..if breaks { rest.len() / 2 } else { rest.len() }]);
    let _ = stream.flush();
    let _ = stream.shutdown(std::net::Shutdown::Write);
    // Whoever closes first with something unread resets the connection.
    let _ = stream.read(&mut [0; 64]);
}

fn pod(name: &str, image: &str, command: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "terminationGracePeriodSeconds": 0, "restartPolicy": "Never",
        "containers": [{"name": "c", "image": image, "command": ["sh", "-c", command]}]}})
}

fn said(tenant: &Tenant, pod: &str) -> Vec<String> {
    tenant.phase(pod, "Succeeded");
    tenant.run(&["logs", pod]).lines().map(str::to_owned).collect()
}

/// What the upper layer does to the lower one, and looks for inside.
fn upper() -> Vec<u8> {
    let mut tar = Tar::default();
    // Of the layer below, `gone` is no more, and of `swept` nothing but what stands here.
    tar.file(".wh.gone", b"");
    tar.folder("swept");
    tar.file("swept/.wh..wh..opq", b"");
    tar.file("swept/new", b"new\n");
    tar.file("one", b"linked\n");
    tar.hard_link("other", "one");
    // Version 2, effective; permitted: CAP_CHOWN.
    let mut capability = 0x0200_0001u32.to_le_bytes().to_vec();
    capability.extend([1u32, 0, 0, 0].iter().flat_map(|n| n.to_le_bytes()));
    tar.attribute("security.capability", &capability);
    tar.file("bin/busybox-capable", &fs::read("/usr/bin/busybox").unwrap());
    // A copy that has none.
    tar.file("bin/busybox-plain", &fs::read("/usr/bin/busybox").unwrap());
    tar.end()
}

const LOOK: &str = r#"
[ -e /gone ] && echo "gone is there"
[ -e /kept ] && echo "kept is there"
echo swept: $(ls /swept)
[ "$(stat -c %i /one)" = "$(stat -c %i /other)" ] && echo "one file: $(cat /other)"
touch /w/a /w/b
/bin/busybox-capable chown 5 /w/a 2>/dev/null && echo "capable: $(stat -c %u /w/a)"
/bin/busybox-plain chown 5 /w/b 2>/dev/null || echo "plain may not"
"#;

const LOOK_AT_VOLUME: &str = r#"
[ -e /image/gone ] && echo "gone is there"
echo "image: $(cat /image/kept), $(ls /image/swept)"
echo "part: $(ls /part)"
touch /image/x /part/x 2>/dev/null || echo "nothing is written"
/image/bin/busybox-plain true 2>/dev/null || echo "nothing is executed"
"#;

/// A pod with an image for a volume, as a whole and in part.
fn with_volume(name: &str, image: &str, of: &str, part: &str) -> Value {
    let mut pod = pod(name, image, LOOK_AT_VOLUME);
    pod["spec"]["volumes"] = json!([{"name": "v", "image": {"reference": of, "pullPolicy": "IfNotPresent"}}]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([
        {"name": "v", "mountPath": "/image"}, {"name": "v", "mountPath": "/part", "subPath": part}]);
    pod
}

#[test]
fn what_layers_say_is_so_inside_however_they_come() {
    if let Some(why) = impossible() {
        eprintln!("SKIPPED: {why}");
        return;
    }
    let (registry, mirror) = (Registry::start(), Registry::start());
    let work = tempfile::tempdir().unwrap();
    let _ = busybox(work.path(), "x:1", "");
    let base = fs::read(work.path().join("layer.tar")).unwrap();
    let mut lower = Tar::default();
    for name in ["gone", "kept", "swept/old", "swept/older"] {
        lower.file(name, b"old\n");
    }
    let (lower, upper) = (lower.end(), upper());
    registry.add("team/layers", &[&base, &lower, &upper]);
    // A layer of its own: what is here already is not asked for.
    let _ = busybox(work.path(), "x:2", "mirrored");
    let mirrored = fs::read(work.path().join("layer.tar")).unwrap();
    mirror.add("team/app", &[&mirrored]);
    let mut long = Tar::default();
    long.file("long", &vec![7; 4 << 20]);
    registry.add("slow/app", &[&long.end()]);

    let cloud = Cloud::new();
    fs::create_dir_all(cloud.data()).unwrap();
    // The registry that is mirrored is not there at all.
    let ways = json!({"plainHttp": [registry.address, mirror.address], "private": [registry.address, mirror.address],
        "mirrors": {"registry.example.invalid": [mirror.address]}});
    fs::write(cloud.data().join("registries.json"), ways.to_string()).unwrap();
    cloud.up();
    let shop = cloud.administrator("shop");
    let mut layers = pod("layers", &format!("{}/team/layers:1", registry.address), LOOK);
    layers["spec"]["volumes"] = json!([{"name": "w", "emptyDir": {}}]);
    layers["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "w", "mountPath": "/w"}]);
    layers["spec"]["containers"][0]["securityContext"] = json!({"runAsUser": 1000});
    shop.apply(&layers);
    shop.apply(&pod("mirrored", "registry.example.invalid/team/app:1", "echo from a mirror"));
    shop.apply(&pod("slow", &format!("{}/slow/app:1", registry.address), "true"));

    assert_eq!(
        said(&shop, "layers"),
        ["kept is there", "swept: new", "one file: linked", "capable: 5", "plain may not",]
    );
    assert_eq!(said(&shop, "mirrored"), ["from a mirror"]);
    // An image may be a volume, also of a pod with users of its own.
    let (app, image) = ("registry.example.invalid/team/app:1", format!("{}/team/layers:1", registry.address));
    shop.apply(&with_volume("volume", app, &image, "swept"));
    let mut own_users = with_volume("own-users", app, &image, "swept");
    own_users["spec"]["hostUsers"] = false.into();
    shop.apply(&own_users);
    shop.apply(&with_volume("no-part", app, &image, "gone"));
    shop.apply(&with_volume("no-image", app, &format!("{}/team/none:1", registry.address), "x"));
    for name in ["volume", "own-users"] {
        assert_eq!(
            said(&shop, name),
            ["image: old, new", "part: new", "nothing is written", "nothing is executed"],
            "{name}"
        );
    }
    for (name, why) in [("no-part", "in the image"), ("no-image", "ErrImagePull")] {
        wait_for(&format!("{name}: {why}"), || {
            let path = "jsonpath={.status.containerStatuses[0]}";
            shop.try_run(&["get", "pod", name, "-o", path]).1.contains(why).then_some(())
        });
    }
    // Each large layer broke off once in its middle, and was asked for from there on, once.
    for layer in [&base, &upper] {
        assert_eq!(registry.downloads("team/layers", layer), [None, Some(layer.len() / 2)]);
    }
    assert_eq!(registry.downloads("team/layers", &lower), [None]);
    assert_eq!(mirror.downloads("team/app", &mirrored), [None, Some(mirrored.len() / 2)]);
    // People see how it went.
    wait_for("the event of the pull", || {
        let about = "--field-selector=involvedObject.name=layers,reason=Pulled";
        let said = shop.try_run(&["get", "events", about, "-o", "jsonpath={.items[*].message}"]).1;
        said.starts_with("Successfully pulled image").then_some(())
    });
    // And how far it is while it takes long: more than nothing, and not all.
    wait_for("the event of a pull that goes on", || {
        let about = "--field-selector=involvedObject.name=slow,reason=Pulling";
        let said = shop.try_run(&["get", "events", about, "-o", "jsonpath={.items[*].message}"]).1;
        let far = said.split(" of 4.0 MiB downloaded, 0 of 1 layers unpacked").next()?.rsplit(' ').next()?;
        let far: f64 = far.parse().ok()?;
        (far > 0.0 && far < 4.0).then_some(())
    });
}
