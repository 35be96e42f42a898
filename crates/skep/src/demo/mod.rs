//! `skep demo`: a sample in two tenants, and a proof, by real requests, that both run and cannot reach each other.

mod image;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use http::Method;
use serde_json::{Value, json};
use skep_client::Client;
use skep_runtime::images::{ImageStore, Scope, UnpackLimits};

use crate::apiserver::default_data;

/// Deploys a sample into two tenants, and proves that both run, are reachable, and cannot reach each other.
///
/// Each gets a web front, an API, a store with data and a job, in containers made of this very program: nothing is downloaded.
///
/// Example: skep up && skep demo; afterwards: skep demo --remove
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The data directory of `skep up`.
    #[arg(long, env = "SKEP_DATA", default_value_os_t = default_data())]
    data: PathBuf,
    /// Removes both tenants and everything in them.
    #[arg(long)]
    remove: bool,
}

const TENANTS: [&str; 2] = ["demo-blue", "demo-green"];
const IMAGE: &str = "skep.local/sample:1";
/// How often the store is visited by the job.
const VISITS: u32 = 3;
/// How long anything may take to run.
const PATIENCE: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(100);
const PORT: u16 = 8080;

struct Demo {
    client: Client,
    begun: Instant,
}

/// Where a tenant's parts are.
struct Parts {
    store: String,
    web: String,
}

/// Does what was asked.
///
/// # Errors
/// What could not be done; or what is not as it should be.
pub(crate) fn run(options: Options) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    runtime.block_on(async move {
        let client = Client::from_kubeconfig(&options.data.join("admin.kubeconfig"))
            .context("nothing runs on this data directory: start it with `skep up`, or say --data DIR")?;
        let demo = Demo { client, begun: Instant::now() };
        if options.remove {
            return demo.remove().await;
        }
        demo.load(&options.data)?;
        for tenant in TENANTS {
            demo.make_tenant(tenant).await?;
        }
        let (blue, green) =
            futures::future::try_join(demo.deploy(TENANTS[0]), demo.deploy(TENANTS[1])).await?;
        println!();
        let proofs = futures::future::try_join(
            demo.prove(TENANTS[0], &blue, TENANTS[1], &green),
            demo.prove(TENANTS[1], &green, TENANTS[0], &blue),
        );
        let (first, second) = proofs.await?;
        println!("{first}\n{second}");
        demo.prove_api().await?;
        println!();
        println!("Both run, each answers to its own, and neither can reach the other.");
        println!("Look around:");
        println!("  skep tenant kubeconfig {} > blue.kubeconfig", TENANTS[0]);
        println!("  kubectl --kubeconfig blue.kubeconfig get pods -o wide");
        println!("  kubectl --kubeconfig blue.kubeconfig port-forward deployment/web 8080   # then http://127.0.0.1:8080");
        println!("  skep demo --remove");
        Ok(())
    })
}

impl Demo {
    fn say(&self, what: &str) {
        println!("{:>7.2} s  {what}", self.begun.elapsed().as_secs_f64());
    }

    fn load(&self, data: &std::path::Path) -> anyhow::Result<()> {
        let store = ImageStore::open(data.join("images"), UnpackLimits::default()).context(
            "opening this computer's images: `skep demo` must run as the user that runs `skep up`",
        )?;
        let layout = data.join(format!("demo-image.{}", std::process::id()));
        let result = image::assemble(&layout).and_then(|()| {
            let name = IMAGE.parse().context("naming the image")?;
            store.load(&layout, &Scope::shared(), Some(&name)).context("loading the image")
        });
        // Whatever became of it.
        let _ = std::fs::remove_dir_all(&layout);
        result?;
        self.say("image made of this program and its libraries");
        Ok(())
    }

    async fn make_tenant(&self, tenant: &str) -> anyhow::Result<()> {
        let object = json!({"apiVersion": "tenancy.skep.io/v1", "kind": "Tenant", "metadata": {"name": tenant}, "spec": {}});
        match self.client.post::<Value>("/apis/tenancy.skep.io/v1/tenants", &object).await {
            Err(e) if !e.is_already_exists() => Err(e).context("making a tenant"),
            _ => {
                self.say(&format!("{tenant}: tenant"));
                Ok(())
            }
        }
    }

    async fn apply(&self, tenant: &str, group: &str, plural: &str, object: &Value) -> anyhow::Result<()> {
        let collection = format!("/tenants/{tenant}/{group}/namespaces/default/{plural}");
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        match self.client.post::<Value>(&collection, object).await {
            Ok(_) => Ok(()),
            // Left from an earlier run, whose addresses may have changed since.
            Err(e) if e.is_already_exists() => {
                self.client
                    .request(
                        Method::DELETE,
                        &format!("{collection}/{name}?propagationPolicy=Foreground"),
                        "application/json",
                        Vec::new(),
                    )
                    .await
                    .with_context(|| format!("removing {plural}/{name} of an earlier run"))?;
                let begun = Instant::now();
                loop {
                    match self.client.post::<Value>(&collection, object).await {
                        Ok(_) => return Ok(()),
                        Err(e) if e.is_already_exists() && begun.elapsed() < PATIENCE => {
                            tokio::time::sleep(POLL).await;
                        }
                        Err(e) => return Err(e).with_context(|| format!("making {plural}/{name}")),
                    }
                }
            }
            Err(e) => Err(e).with_context(|| format!("making {plural}/{name}")),
        }
    }

    /// Waits for a pod with a label that is good, and returns it.
    async fn pod(&self, tenant: &str, app: &str, good: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let path = format!("/tenants/{tenant}/api/v1/namespaces/default/pods?labelSelector=app%3D{app}");
        let begun = Instant::now();
        loop {
            let list: Value = self.client.get(&path).await.context("asking for pods")?;
            let pods = list["items"].as_array().cloned().unwrap_or_default();
            let alive = |p: &&Value| p["metadata"]["deletionTimestamp"].is_null();
            if let Some(pod) = pods.iter().filter(alive).find(|p| good(p)) {
                return Ok(pod.clone());
            }
            if begun.elapsed() > PATIENCE {
                let why = pods.last().map(|p| p["status"].to_string()).unwrap_or_default();
                bail!(
                    "{tenant}: {app} does not run after {} s; `skep doctor` tells whether containers can run here: {why}",
                    PATIENCE.as_secs()
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn address(&self, tenant: &str, app: &str) -> anyhow::Result<String> {
        let ready = |pod: &Value| {
            let conditions = pod["status"]["conditions"].as_array();
            conditions.is_some_and(|c| c.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
        };
        let pod = self.pod(tenant, app, ready).await?;
        let ip = pod["status"]["podIP"].as_str().context("a ready pod has no address")?.to_owned();
        self.say(&format!("{tenant}: {app} is ready at {ip}"));
        Ok(format!("http://{ip}:{PORT}"))
    }

    async fn deploy(&self, tenant: &str) -> anyhow::Result<Parts> {
        let template = |app: &str, args: Value, restart: &str| {
            let mut container = json!({"name": app, "image": IMAGE, "imagePullPolicy": "Never", "args": args,
                "env": [{"name": "OWNER", "value": tenant}, {"name": "SKEP_LOG", "value": "info"}],
                "resources": {"requests": {"cpu": "20m", "memory": "24Mi"}}});
            if restart == "Always" {
                container["ports"] = json!([{"containerPort": PORT}]);
                container["readinessProbe"] =
                    json!({"httpGet": {"path": "/healthz", "port": PORT}, "periodSeconds": 1});
            }
            json!({"metadata": {"labels": {"app": app}}, "spec": {
                "restartPolicy": restart, "containers": [container], "terminationGracePeriodSeconds": 2}})
        };
        let workload = |kind: &str, app: &str, args: Value| {
            json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": app}, "spec": {
                "replicas": 1, "selector": {"matchLabels": {"app": app}}, "template": template(app, args, "Always")}})
        };
        let mut store = workload("StatefulSet", "store", json!(["store", "--data", "/data"]));
        store["spec"]["serviceName"] = "store".into();
        // Lives as long as the pod: nodes attach no claims yet.
        store["spec"]["template"]["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
        store["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] =
            json!([{"name": "data", "mountPath": "/data"}]);
        self.apply(tenant, "apis/apps/v1", "statefulsets", &store).await?;
        let store = self.address(tenant, "store").await?;
        let api = workload("Deployment", "api", json!(["api", "--store", store]));
        self.apply(tenant, "apis/apps/v1", "deployments", &api).await?;
        let api = self.address(tenant, "api").await?;
        let web = workload("Deployment", "web", json!(["web", "--api", api]));
        self.apply(tenant, "apis/apps/v1", "deployments", &web).await?;
        let web = self.address(tenant, "web").await?;
        self.job(
            tenant,
            "visitors",
            &template("visitors", json!(["client", "--post", format!("{web}/={VISITS}")]), "Never"),
        )
        .await?;
        Ok(Parts { store, web })
    }

    /// Runs a job to its end, and returns what it said.
    async fn job(&self, tenant: &str, name: &str, template: &Value) -> anyhow::Result<String> {
        let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
            "spec": {"backoffLimit": 0, "template": template}});
        self.apply(tenant, "apis/batch/v1", "jobs", &job).await?;
        let ended = |pod: &Value| matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        let pod = self.pod(tenant, name, ended).await?;
        let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let path = format!("/tenants/{tenant}/api/v1/namespaces/default/pods/{pod_name}/log");
        let log = self.client.request(Method::GET, &path, "application/json", Vec::new()).await;
        let log = String::from_utf8_lossy(&log.context("reading what the job said")?).trim().to_owned();
        if pod["status"]["phase"] != "Succeeded" {
            bail!("{tenant}: the job {name} failed:\n{log}");
        }
        self.say(&format!("{tenant}: job {name} is done"));
        Ok(log)
    }

    /// Asks from inside a tenant for its own parts, and for the other's.
    async fn prove(&self, tenant: &str, own: &Parts, other: &str, others: &Parts) -> anyhow::Result<String> {
        let args = json!([
            "client",
            "--expect",
            format!(
                "{}/=This is {tenant}'s shop. {tenant}'s API says: {tenant}'s store has {VISITS} visits",
                own.web
            ),
            "--expect",
            format!("{}/visits={VISITS} visits", own.store),
            "--never",
            format!("{}/={other}", others.web),
            "--never",
            format!("{}/visits={other}", others.store),
        ]);
        let template = json!({"metadata": {"labels": {"app": "proof"}}, "spec": {"restartPolicy": "Never",
            "containers": [{"name": "proof", "image": IMAGE, "imagePullPolicy": "Never", "args": args,
                "resources": {"requests": {"cpu": "20m", "memory": "24Mi"}}}]}});
        let said = self.job(tenant, "proof", &template).await?;
        let lines: String =
            said.lines().filter(|l| l.starts_with("ok: ")).fold(String::new(), |mut all, l| {
                all.push_str("    ");
                all.push_str(l);
                all.push('\n');
                all
            });
        Ok(format!("From inside {tenant}, against itself and against {other}:\n{lines}"))
    }

    /// Asks the API with one tenant's credential for the other's objects.
    async fn prove_api(&self) -> anyhow::Result<()> {
        for (own, other) in [(TENANTS[0], TENANTS[1]), (TENANTS[1], TENANTS[0])] {
            let request = json!({"apiVersion": "tenancy.skep.io/v1", "kind": "TenantKubeconfig",
                "spec": {"user": "admin", "groups": [], "expirationSeconds": 600}});
            let path = format!("/apis/tenancy.skep.io/v1/tenants/{own}/kubeconfig");
            let answer: Value = self.client.post(&path, &request).await.context("asking for a credential")?;
            let text = answer["status"]["kubeconfig"].as_str().context("the answer holds no kubeconfig")?;
            let file = tempfile::NamedTempFile::new().context("making a file for a credential")?;
            std::fs::write(file.path(), text).context("writing a credential")?;
            let client = Client::from_kubeconfig(file.path())?;
            let mine: Value = client.get("/api/v1/namespaces/default/pods").await?;
            let count = mine["items"].as_array().map_or(0, Vec::len);
            let foreign =
                client.get::<Value>(&format!("/tenants/{other}/api/v1/namespaces/default/pods")).await;
            let absent = client.get::<Value>("/tenants/no-such-tenant/api/v1/namespaces/default/pods").await;
            match (&foreign, &absent) {
                (Err(a), Err(b)) if a.kind() == b.kind() => {
                    println!(
                        "{own}'s administrator sees {count} pods of its own; {other} looks to it like a tenant that does not exist: {a}"
                    );
                }
                _ => bail!("{own}'s credential learns something of {other}"),
            }
        }
        Ok(())
    }

    async fn remove(&self) -> anyhow::Result<()> {
        for tenant in TENANTS {
            let path = format!("/apis/tenancy.skep.io/v1/tenants/{tenant}");
            match self.client.delete(&path).await {
                Err(e) if !e.is_not_found() => return Err(e).context("deleting a tenant"),
                _ => {}
            }
            let begun = Instant::now();
            while self.client.get::<Value>(&path).await.is_ok() {
                if begun.elapsed() > PATIENCE {
                    bail!(
                        "{tenant} is still being deleted after {} s; its removal goes on",
                        PATIENCE.as_secs()
                    );
                }
                tokio::time::sleep(POLL).await;
            }
            self.say(&format!("{tenant} is gone, with everything in it"));
        }
        Ok(())
    }
}
