//! The image registry of `skep up` with the cluster's own credentials, and a registry that is killed.
#![allow(clippy::unwrap_used)]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use skep_client::{Access, Client};
use skep_registry::client::{Client as Images, ClientError, Options};
use skep_registry::digest::{Algorithm, Digest};
use skep_registry::manifest::IMAGE;

const PATIENCE: Duration = Duration::from_secs(60);

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Cloud {
    directory: tempfile::TempDir,
    _process: Process,
    images: String,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what} does not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Cloud {
    fn up() -> Cloud {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        let process = skep_e2e::command()
            .args(["up", "--foreground", "--no-host", "--registry-listen", "127.0.0.1:0"])
            .args(["--listen", &format!("127.0.0.1:{}", free_port())])
            .arg("--data")
            .arg(&data)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let process = Process(process);
        let address = wait_for("the registry", || {
            let text = std::fs::read_to_string(data.join("registry/address")).ok()?;
            std::net::TcpStream::connect(&text).ok().map(|_| text)
        });
        let admin = data.join("admin.kubeconfig");
        wait_for("the API server", || admin.exists().then_some(()));
        Cloud { directory, _process: process, images: format!("https://{address}") }
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn tenant(&self, args: &[&str]) -> String {
        let output = skep_e2e::command()
            .arg("tenant")
            .args(args)
            .arg("--kubeconfig")
            .arg(self.data().join("admin.kubeconfig"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// A tenant's administrator: by a client certificate.
    fn admin_of(&self, tenant: &str) -> Images {
        let path = self.directory.path().join(format!("{tenant}.kubeconfig"));
        std::fs::write(&path, self.tenant(&["kubeconfig", tenant])).unwrap();
        let identity = Access::load(&path).unwrap().identity;
        assert!(identity.is_some());
        Images::new(&self.images, Options { identity, ..self.options() }).unwrap()
    }

    fn options(&self) -> Options {
        Options {
            authorities_pem: std::fs::read(self.data().join("pki/ca.crt")).unwrap(),
            ..Options::default()
        }
    }

    fn with_password(&self, user: &str, password: &str) -> Images {
        let credentials = Some((user.to_owned(), password.to_owned()));
        Images::new(&self.images, Options { credentials, ..self.options() }).unwrap()
    }
}

async fn push(images: &Images, repository: &str, tag: &str, directory: &Path) -> Result<(), ClientError> {
    let file = directory.join(uuid::Uuid::new_v4().to_string());
    std::fs::write(&file, b"{}").unwrap();
    let digest = Digest::of(Algorithm::Sha256, b"{}");
    images.push_blob(repository, &digest, file).await?;
    let manifest = json!({"schemaVersion": 2, "mediaType": IMAGE, "layers": [],
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest.to_string(), "size": 2}});
    images.push_manifest(repository, tag, IMAGE, manifest.to_string().into_bytes()).await
}

fn status<T: std::fmt::Debug>(result: Result<T, ClientError>) -> u16 {
    result.unwrap_err().status().map_or(0, |s| s.as_u16())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_credentials_open_their_own_repositories_only() {
    let cloud = Cloud::up();
    let dir = cloud.directory.path();
    for tenant in ["shop", "bank"] {
        cloud.tenant(&["create", tenant]);
    }
    let (shop, bank) = (cloud.admin_of("shop"), cloud.admin_of("bank"));
    push(&shop, "shop/web", "1", dir).await.unwrap();
    push(&bank, "bank/web", "1", dir).await.unwrap();
    assert_eq!(shop.catalog().await.unwrap(), ["shop/web"]);
    for foreign in ["shop/web", "shop/none", "nobody/web"] {
        assert_eq!(status(bank.manifest(foreign, "1").await), 403, "{foreign}");
        assert_eq!(status(push(&bank, foreign, "2", dir).await), 403, "{foreign}");
    }
    let anonymous = Images::new(&cloud.images, cloud.options()).unwrap();
    assert_eq!(status(anonymous.manifest("shop/web", "1").await), 401);
    // The operator sees everything.
    let operator = Access::load(&cloud.data().join("admin.kubeconfig")).unwrap().identity;
    let operator = Images::new(&cloud.images, Options { identity: operator, ..cloud.options() }).unwrap();
    assert_eq!(operator.catalog().await.unwrap(), ["bank/web", "shop/web"]);
    assert_eq!(status(operator.manifest("nobody/web", "1").await), 404);

    // A service account may what RBAC says.
    let api = Client::from_kubeconfig(&cloud.data().join("admin.kubeconfig")).unwrap();
    let token = |tenant: &'static str| {
        let api = api.clone();
        async move {
            let path = format!("/tenants/{tenant}/api/v1/namespaces/default/serviceaccounts/default/token");
            let request =
                json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
            let answer: Value = api.post(&path, &request).await.unwrap();
            answer["status"]["token"].as_str().unwrap().to_owned()
        }
    };
    let own = token("shop").await;
    let account = cloud.with_password("anything", &own);
    assert_eq!(status(account.manifest("shop/web", "1").await), 403);
    let rbac = "/tenants/shop/apis/rbac.authorization.k8s.io/v1";
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "puller"},
        "rules": [{"apiGroups": ["registry.skep.io"], "resources": ["repositories"], "verbs": ["get"], "resourceNames": ["web"]}]});
    let _: Value = api.post(&format!("{rbac}/clusterroles"), &role).await.unwrap();
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "puller"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "puller"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}]});
    let _: Value = api.post(&format!("{rbac}/clusterrolebindings"), &binding).await.unwrap();
    // An answer is believed for a while.
    let begun = Instant::now();
    while account.manifest("shop/web", "1").await.is_err() {
        assert!(begun.elapsed() < PATIENCE, "the role has no effect");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(status(push(&account, "shop/web", "2", dir).await), 403);
    assert_eq!(status(account.manifest("shop/other", "1").await), 403);
    // Another tenant's token, one that is none, and one that was changed.
    let foreign = cloud.with_password("x", &token("bank").await);
    assert_eq!(status(foreign.manifest("shop/web", "1").await), 403);
    let changed = format!("{}x", &own[..own.len() - 1]);
    for bad in ["nonsense", changed.as_str(), ""] {
        assert_eq!(status(cloud.with_password("shop", bad).manifest("shop/web", "1").await), 401, "{bad:?}");
    }

    // A tenant of the same name that comes later is another one.
    cloud.tenant(&["delete", "shop"]);
    cloud.tenant(&["create", "shop"]);
    let begun = Instant::now();
    while shop.manifest("shop/web", "1").await.err().and_then(|e| e.status()).is_none_or(|s| s != 401) {
        assert!(begun.elapsed() < PATIENCE, "the old credential still works");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let again = cloud.admin_of("shop");
    assert_eq!(status(again.manifest("shop/web", "1").await), 404);
    assert_eq!(again.catalog().await.unwrap(), Vec::<String>::new());
}

/// What the registry remembers of a tenant holds for ten seconds; one that is made anew meanwhile has everything at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_comes_again_is_let_in_at_once() {
    let cloud = Cloud::up();
    let dir = cloud.directory.path();
    let api = Client::from_kubeconfig(&cloud.data().join("admin.kubeconfig")).unwrap();
    // Somebody asks for a tenant that there is not yet.
    let early = cloud.with_password("shop", "nonsense");
    assert_eq!(status(early.manifest("shop/web", "1").await), 401);
    for round in ["1", "2", "3"] {
        cloud.tenant(&["create", "shop"]);
        let admin = cloud.admin_of("shop");
        assert_eq!(admin.catalog().await.unwrap(), Vec::<String>::new(), "round {round}");
        push(&admin, "shop/web", round, dir).await.unwrap();
        let path = "/tenants/shop/api/v1/namespaces/kube-system/serviceaccounts/default/token";
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
        let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": "builder"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "kube-system"}]});
        let rbac = "/tenants/shop/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
        let _: Value = api.post(rbac, &binding).await.unwrap();
        let answer: Value = api.post(path, &request).await.unwrap();
        let builder = cloud.with_password("any", answer["status"]["token"].as_str().unwrap());
        push(&builder, "shop/job", round, dir).await.unwrap();
        // Both are this tenant's, and not an earlier one's.
        assert_eq!(admin.catalog().await.unwrap(), ["shop/job", "shop/web"], "round {round}");
        cloud.tenant(&["delete", "shop"]);
    }
}

fn start_alone(directory: &Path, port: u16) -> Process {
    let log = std::fs::File::options().create(true).append(true).open(directory.join("log")).unwrap();
    let child = skep_e2e::command()
        .args(["registry", "--listen", &format!("127.0.0.1:{port}"), "--data"])
        .arg(directory.join("data"))
        .arg("--users")
        .arg(directory.join("users"))
        .stderr(log)
        .spawn()
        .unwrap();
    let process = Process(child);
    wait_for("the registry", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    process
}

fn content(round: u32, worker: u32, number: u32) -> Vec<u8> {
    let seed = format!("{round}-{worker}-{number}-").into_bytes();
    seed.iter().copied().cycle().take(200_000 + usize::try_from(number % 7).unwrap() * 50_000).collect()
}

/// Killed in the middle of pushes, again and again: whatever was acknowledged is there, and whatever is visible is whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().to_owned();
    std::fs::write(dir.join("users"), format!("ann,{:x},shop,push\n", Sha256::digest("pw"))).unwrap();
    let port = free_port();
    let client = || {
        let credentials = Some(("ann".to_owned(), "pw".to_owned()));
        Images::new(&format!("http://127.0.0.1:{port}"), Options { credentials, ..Options::default() })
            .unwrap()
    };
    let mut acknowledged: Vec<(Digest, String)> = Vec::new();
    for round in 0..4 {
        let process = start_alone(&dir, port);
        let mut pushing = tokio::task::JoinSet::new();
        for worker in 0..3 {
            let (images, dir) = (client(), dir.clone());
            pushing.spawn(async move {
                let mut done = Vec::new();
                for number in 0.. {
                    let bytes = content(round, worker, number);
                    let digest = Digest::of(Algorithm::Sha256, &bytes);
                    let file = dir.join(format!("{round}-{worker}-{number}"));
                    std::fs::write(&file, &bytes).unwrap();
                    if images.push_blob("shop/web", &digest, file.clone()).await.is_err() {
                        break;
                    }
                    std::fs::remove_file(file).unwrap();
                    let manifest = json!({"schemaVersion": 2, "mediaType": IMAGE, "layers": [],
                        "config": {"mediaType": "x/y", "digest": digest.to_string(), "size": bytes.len()}});
                    let tag = format!("t{round}-{worker}-{number}");
                    if images
                        .push_manifest("shop/web", &tag, IMAGE, manifest.to_string().into_bytes())
                        .await
                        .is_err()
                    {
                        break;
                    }
                    done.push((digest, tag));
                }
                done
            });
        }
        tokio::time::sleep(Duration::from_millis(700 + 230 * u64::from(round))).await;
        // SIGKILL.
        drop(process);
        let before = acknowledged.len();
        while let Some(done) = pushing.join_next().await {
            acknowledged.extend(done.unwrap());
        }
        assert!(acknowledged.len() > before, "nothing was pushed in round {round}");
        // Everything that can be seen is whole.
        let blobs = dir.join("data/registry/tenants/shop@local/web/_blobs");
        for entry in std::fs::read_dir(&blobs).unwrap() {
            let entry = entry.unwrap();
            let named = entry.file_name().into_string().unwrap();
            let is = Digest::of(Algorithm::Sha256, &std::fs::read(entry.path()).unwrap());
            assert_eq!(is.to_string(), named);
        }
    }
    let _process = start_alone(&dir, port);
    let images = client();
    let tags = images.tags("shop/web").await.unwrap();
    for (digest, tag) in &acknowledged {
        assert!(tags.contains(tag), "{tag} is lost");
        images.manifest("shop/web", tag).await.unwrap();
        assert!(images.blob_size("shop/web", digest).await.unwrap().is_some());
    }
}
