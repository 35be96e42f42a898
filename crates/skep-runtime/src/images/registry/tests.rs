use super::*;
use crate::images::UnpackLimits;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;

/// A registry that wants a token, breaks the first download of each blob in the middle, and remembers what was asked.
struct Registry {
    host: String,
    blobs: Mutex<BTreeMap<String, Vec<u8>>>,
    broken: Mutex<BTreeSet<String>>,
    asked: Mutex<Vec<String>>,
}

const TOKEN: &str = "Bearer secret-token";

impl Registry {
    fn start() -> Arc<Registry> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let registry = Arc::new(Registry {
            host: listener.local_addr().unwrap().to_string(),
            blobs: Mutex::default(),
            broken: Mutex::default(),
            asked: Mutex::default(),
        });
        let server = registry.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = server.clone();
                std::thread::spawn(move || server.answer(stream));
            }
        });
        registry
    }

    fn put(&self, path: &str, data: &[u8]) -> serde_json::Value {
        let digest = Digest::of(data);
        self.blobs.lock().unwrap().insert(format!("{path}/{digest}"), data.to_vec());
        serde_json::json!({"digest": digest.to_string(), "size": data.len()})
    }

    /// An image with one layer, under the tag `1` of a repository.
    fn image(&self, repository: &str, layer: &[u8], diff_id: &Digest) -> String {
        let config = serde_json::json!({"os": "linux", "architecture": super::super::manifest::architecture(),
            "config": {"Cmd": ["sh"]}, "rootfs": {"diff_ids": [diff_id.to_string()]}});
        let config = self.put(&format!("/v2/{repository}/blobs"), config.to_string().as_bytes());
        let layer = self.put(&format!("/v2/{repository}/blobs"), layer);
        let manifest =
            serde_json::json!({"schemaVersion": 2, "config": config, "layers": [layer]}).to_string();
        self.blobs.lock().unwrap().insert(format!("/v2/{repository}/manifests/1"), manifest.into_bytes());
        format!("{}/{repository}:1", self.host)
    }

    fn answer(&self, mut stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let (method, path) = (words[0].to_owned(), words[1].to_owned());
        let (mut range, mut authorization) = (0, String::new());
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).unwrap();
            let Some((name, value)) = header.trim().split_once(": ") else { break };
            match name.to_lowercase().as_str() {
                "range" => range = value.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap(),
                "authorization" => authorization = value.to_owned(),
                _ => {}
            }
        }
        self.asked.lock().unwrap().push(format!("{method} {path} {range}"));
        let mut send = |status: &str, headers: &str, length: usize, body: &[u8]| {
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n"
            );
            let _ = stream.write_all(head.as_bytes());
            let _ = stream.write_all(body);
        };
        if path.starts_with("/token") {
            // dXNlcjpwYXNz is user:pass.
            return match authorization == "Basic dXNlcjpwYXNz" && path.contains("service=reg") {
                true => send("200 OK", "", 24, br#"{"token":"secret-token"}"#),
                false => send("401 Unauthorized", "", 0, b""),
            };
        }
        if authorization != TOKEN {
            let challenge =
                format!("WWW-Authenticate: Bearer realm=\"http://{}/token\",service=\"reg\"\r\n", self.host);
            return send("401 Unauthorized", &challenge, 0, b"");
        }
        let Some(data) = self.blobs.lock().unwrap().get(&path).cloned() else {
            return send("404 Not Found", "", 0, b"");
        };
        if method == "HEAD" {
            return send("200 OK", "", data.len(), b"");
        }
        let half = data.len() / 2;
        if path.contains("/blobs/") && data.len() > 1000 && self.broken.lock().unwrap().insert(path) {
            return send("200 OK", "", data.len(), &data[..half]);
        }
        match range {
            0 => send("200 OK", "", data.len(), &data),
            from => {
                let header = format!("Content-Range: bytes {from}-{}/{}\r\n", data.len() - 1, data.len());
                send("206 Partial Content", &header, data.len() - from, &data[from..]);
            }
        }
    }
}

fn layer() -> (Vec<u8>, Digest) {
    let plain = crate::images::unpack::tests::Tar::new().file("a", &[7; 5000]).bytes();
    let digest = Digest::of(&plain);
    (plain, digest)
}

fn request(registry: &Registry, scope: &str, name: &str, password: &str) -> PullRequest {
    PullRequest {
        scope: Scope::of(scope).unwrap(),
        reference: name.parse().unwrap(),
        credentials: vec![Credentials { username: "user".into(), password: password.into() }],
        registries: Arc::new(Registries {
            plain_http: [registry.host.clone()].into(),
            ..Registries::default()
        }),
        progress: None,
    }
}

fn downloads(registry: &Registry) -> Vec<String> {
    let asked = std::mem::take(&mut *registry.asked.lock().unwrap());
    asked.into_iter().filter(|a| a.contains("/blobs/")).collect()
}

#[tokio::test]
async fn images_are_pulled_with_tokens_and_broken_downloads_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let store = ImageStore::open(folder.path(), UnpackLimits::default()).unwrap();
    let registry = Registry::start();
    let (layer, diff_id) = layer();
    let name = registry.image("team/app", &layer, &diff_id);
    let error = store.pull(request(&registry, "red", &name, "wrong")).await.unwrap_err();
    assert!(error.message.contains("denied"), "{error}");
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hear = heard.clone();
    let mut wanted = request(&registry, "red", &name, "pass");
    wanted.progress = Some(Arc::new(move |p| hear.lock().unwrap().push(p)));
    let image = store.pull(wanted).await.unwrap();
    assert_eq!(std::fs::read(image.layers[0].join("a")).unwrap(), [7; 5000]);
    assert_eq!((image.config.cmd.as_slice(), image.size_bytes), (&["sh".to_owned()][..], 5000));
    let asked = downloads(&registry);
    let half = layer.len() / 2;
    assert!(asked.iter().any(|a| a.ends_with(&format!(" {half}"))), "resumed where it broke: {asked:?}");
    let heard = heard.lock().unwrap().clone();
    assert!(matches!(heard.first(), Some(PullProgress::Resolved { layers }) if layers.len() == 1));
    assert!(matches!(heard.last(), Some(PullProgress::Unpacked { .. })));
    let missing =
        store.pull(request(&registry, "red", &format!("{}/no/such:1", registry.host), "pass")).await;
    assert_eq!(missing.unwrap_err().kind, ErrorKind::NotFound);
}

/// The layers of one tenant are no way for another to get them by naming them.
#[tokio::test]
async fn layers_of_others_are_used_only_with_proof() {
    let folder = tempfile::tempdir().unwrap();
    let store = ImageStore::open(folder.path(), UnpackLimits::default()).unwrap();
    let (public, evil) = (Registry::start(), Registry::start());
    let (layer, diff_id) = layer();
    let name = public.image("team/app", &layer, &diff_id);
    store.pull(request(&public, "red", &name, "pass")).await.unwrap();
    // Again, by the same tenant: not downloaded.
    downloads(&public);
    store.pull(request(&public, "red", &name, "pass")).await.unwrap();
    assert_eq!(downloads(&public).iter().filter(|a| a.contains(&Digest::of(&layer).to_string())).count(), 0);
    // Another tenant, at the same registry: it is asked whether he may, and not downloaded.
    store.pull(request(&public, "blue", &name, "pass")).await.unwrap();
    let asked = downloads(&public);
    let of_layer: Vec<_> = asked.iter().filter(|a| a.contains(&Digest::of(&layer).to_string())).collect();
    assert!(of_layer.iter().all(|a| a.starts_with("HEAD")) && !of_layer.is_empty(), "{asked:?}");
    // A registry of the tenant's own that names the layer and has not got it, though it says so to HEAD.
    let name = evil.image("mine/app", &layer, &diff_id);
    let key = format!("/v2/mine/app/blobs/{}", Digest::of(&layer));
    evil.blobs.lock().unwrap().insert(key.clone(), vec![0; layer.len()]);
    let error = store.pull(request(&evil, "green", &name, "pass")).await.unwrap_err();
    assert!(error.message.contains("lies about its content"), "{error}");
    assert!(store.list(Some(&Scope::of("green").unwrap())).unwrap().is_empty());
}
