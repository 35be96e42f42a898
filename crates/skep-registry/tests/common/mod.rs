//! A registry for a test, and requests to it.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub, missing_docs)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body_util::BodyExt;
use sha2::{Digest as _, Sha256};
use skep_base::TenantName;
use skep_registry::client::{Client, Content, Options};
use skep_registry::digest::{Algorithm, Digest};
use skep_registry::gate::{User, UserGate};
use skep_registry::storage::Storage;
use skep_registry::{Config, Registry};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

pub struct Running {
    pub address: String,
    pub registry: Arc<Registry>,
    stop: Option<oneshot::Sender<()>>,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Running {
    pub async fn stop(mut self) {
        let _ = self.stop.take().unwrap().send(());
        self.task.take().unwrap().await.unwrap();
    }

    pub fn as_user(&self, name: &str) -> Peer {
        Peer::new(&self.address, name)
    }
}

pub fn users() -> UserGate {
    let user = |name: &str, tenant: &str, writes| User {
        name: name.to_owned(),
        password_sha256: format!("{:x}", Sha256::digest("secret")),
        tenant: TenantName::new(tenant).unwrap(),
        writes,
    };
    UserGate::new(vec![
        user("ann", "shop", true),
        user("reader", "shop", false),
        user("bob", "bank", true),
        user("root", "system", true),
    ])
}

pub async fn start(directory: &Path, config: Config, gate: UserGate) -> Running {
    let storage = Storage::open(directory).unwrap();
    let registry = Registry::new(config, storage, Arc::new(gate)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (stop, stopped) = oneshot::channel();
    let serving = registry.clone();
    let task = tokio::spawn(async move {
        serving
            .serve(listener, async {
                let _ = stopped.await;
            })
            .await;
    });
    Running { address, registry, stop: Some(stop), task: Some(task) }
}

/// Collects everything that may go, at once.
pub fn greedy() -> Config {
    let mut config = Config { collect_every: Duration::from_secs(3600), ..Config::default() };
    config.policy.grace = Duration::ZERO;
    config.policy.upload_idle = Duration::ZERO;
    config
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no header {name}")).to_str().unwrap()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    #[track_caller]
    pub fn is(self, status: u16) -> Answer {
        assert_eq!(self.status.as_u16(), status, "{}", String::from_utf8_lossy(&self.body));
        self
    }

    /// The error code of the specification.
    #[track_caller]
    pub fn fails(self, status: u16, code: &str) -> Answer {
        let answer = self.is(status);
        assert_eq!(answer.json()["errors"][0]["code"], code);
        answer
    }
}

pub struct Peer(pub Client);

impl Peer {
    pub fn new(address: &str, user: &str) -> Peer {
        let credentials = (!user.is_empty()).then(|| (user.to_owned(), "secret".to_owned()));
        Peer(Client::new(address, Options { credentials, ..Options::default() }).unwrap())
    }

    pub async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
        }
        let content = match map.remove("content-type") {
            Some(t) => Content::Bytes(body.to_vec().into(), t.to_str().unwrap().to_owned()),
            None if body.is_empty() => Content::Nothing,
            None => Content::Bytes(body.to_vec().into(), "application/octet-stream".to_owned()),
        };
        let method: Method = method.parse().unwrap();
        let response = self.0.send(method, path, "a/b", map, content).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Answer { status: head.status, headers: head.headers, body }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], b"").await
    }

    /// Sends a blob in one request.
    pub async fn blob(&self, repository: &str, content: &[u8]) -> Digest {
        let digest = Digest::of(Algorithm::Sha256, content);
        self.ask("POST", &format!("/v2/{repository}/blobs/uploads/?digest={digest}"), &[], content)
            .await
            .is(201);
        digest
    }

    /// Sends an image of one layer.
    pub async fn image(&self, repository: &str, tag: &str, layer: &[u8]) -> (Digest, Vec<u8>) {
        let config = self.blob(repository, b"{}").await;
        let content = self.blob(repository, layer).await;
        let bytes = image(&config, 2, &content, layer.len()).to_string().into_bytes();
        self.ask("PUT", &format!("/v2/{repository}/manifests/{tag}"), &[("content-type", IMAGE)], &bytes)
            .await
            .is(201);
        (Digest::of(Algorithm::Sha256, &bytes), bytes)
    }
}

pub const IMAGE: &str = skep_registry::manifest::IMAGE;
pub const INDEX: &str = skep_registry::manifest::INDEX;

pub fn image(config: &Digest, config_size: usize, layer: &Digest, layer_size: usize) -> serde_json::Value {
    serde_json::json!({
        "schemaVersion": 2, "mediaType": IMAGE,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config.to_string(), "size": config_size},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer.to_string(), "size": layer_size}],
    })
}
