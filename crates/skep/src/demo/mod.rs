//! `skep demo`: a sample in two tenants, and a proof, by real requests, that both run and cannot reach each other.

mod image;

pub(crate) use image::assemble;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use http::Method;
use serde_json::{Value, json};
use skep_api::compute::Host;
use skep_client::{Client, List, ListParams, Resource, Tenants};
use skep_runtime::images::{ImageStore, Scope, UnpackLimits};

use crate::apiserver::default_data;

/// Deploys a sample into two tenants, and proves that both run, are reachable, and cannot reach each other.
///
/// Each gets a web front, an API, a store with data and a job, in containers made of this very program: nothing is downloaded.
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
/// By this annotation a pod says which address it wants.
const ADDRESSES: &str = "network.skep.io/addresses";
/// Where the web front is, in both tenants: far from the addresses that are given out in order.
const WEB: &str = "10.66.1.80";

/// A tenant, and the address of what only it has.
struct Party {
    tenant: &'static str,
    vault: &'static str,
}

const PARTIES: [Party; 2] =
    [Party { tenant: TENANTS[0], vault: "10.66.1.1" }, Party { tenant: TENANTS[1], vault: "10.66.1.2" }];

/// A pod of the sample.
fn template(tenant: &str, app: &str, args: Value, restart: &str) -> Value {
    let mut container = json!({"name": app, "image": IMAGE, "imagePullPolicy": "Never", "args": args,
        "env": [{"name": "OWNER", "value": tenant}, {"name": "SKEP_LOG", "value": "info"}],
        "resources": {"requests": {"cpu": "10m", "memory": "24Mi"}}});
    if restart == "Always" {
        container["ports"] = json!([{"containerPort": PORT}]);
        container["readinessProbe"] =
            json!({"httpGet": {"path": "/healthz", "port": PORT}, "periodSeconds": 1});
    }
    json!({"metadata": {"labels": {"app": app}}, "spec": {
        "restartPolicy": restart, "containers": [container], "terminationGracePeriodSeconds": 2}})
}

/// How many visits a store says that it has had.
fn visits(said: &str) -> Option<u64> {
    let words: Vec<&str> = said.split_whitespace().collect();
    words.windows(2).find(|pair| pair.get(1) == Some(&"visits"))?.first()?.parse().ok()
}

struct Demo {
    client: Client,
    begun: Instant,
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
        demo.containers_run().await?;
        demo.load(&options.data)?;
        for tenant in TENANTS {
            demo.make_tenant(tenant).await?;
        }
        let [blue, green] = &PARTIES;
        futures::future::try_join(
            demo.deploy(blue.tenant, blue.vault),
            demo.deploy(green.tenant, green.vault),
        )
        .await?;
        println!();
        let proofs = futures::future::try_join(demo.prove(blue, green), demo.prove(green, blue));
        let (first, second) = proofs.await?;
        println!("{first}\n{second}");
        demo.prove_api().await?;
        println!();
        println!("Both have the same names and {WEB} as the same address. Each gets answers of its own only, and neither can reach the other.");
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

    /// Whether there is anything to see: a host that is no simulation.
    async fn containers_run(&self) -> anyhow::Result<()> {
        let at = Resource::of::<Host>().at(Tenants::Own);
        let hosts: List<Host> =
            self.client.list(&at, &ListParams::default()).await.context("asking for hosts")?;
        let simulated =
            |h: &Host| h.metadata.labels.iter().flatten().any(|(k, _)| k == skep_sim::SIMULATED_LABEL);
        if hosts.items.iter().all(simulated) {
            bail!(
                "no containers run here, so there is nothing to show: start skep as root on a computer that can run machines; \
                 `skep doctor` says what is missing"
            );
        }
        Ok(())
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

    /// Waits until an application's pod is ready, and says where it is.
    async fn ready(&self, tenant: &str, app: &str) -> anyhow::Result<String> {
        let ready = |pod: &Value| {
            let conditions = pod["status"]["conditions"].as_array();
            conditions.is_some_and(|c| c.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
        };
        let pod = self.pod(tenant, app, ready).await?;
        let ip = pod["status"]["podIP"].as_str().context("a ready pod has no address")?.to_owned();
        self.say(&format!("{tenant}: {app} is ready at {ip}"));
        Ok(ip)
    }

    /// The same names in both tenants; `web` also has the same address in both, and `vault` one of its own.
    async fn deploy(&self, tenant: &str, vault: &str) -> anyhow::Result<()> {
        let workload = |kind: &str, app: &str, args: Value, address: Option<&str>| {
            let mut template = template(tenant, app, args, "Always");
            if let Some(address) = address {
                template["metadata"]["annotations"] = json!({ADDRESSES: address});
            }
            json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": app}, "spec": {
                "replicas": 1, "selector": {"matchLabels": {"app": app}}, "template": template,
                // An address is free only when the pod that has it is gone.
                "strategy": {"type": "Recreate"}}})
        };
        let service = |app: &str| {
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": app},
                "spec": {"selector": {"app": app}, "ports": [{"port": 80, "targetPort": PORT}]}})
        };
        let secret = format!("vault-of-{tenant}");
        for app in ["store", "api", "web", &secret] {
            self.apply(tenant, "api/v1", "services", &service(app)).await?;
        }
        let mut store = workload("StatefulSet", "store", json!(["store", "--data", "/data"]), None);
        if let Some(spec) = store["spec"].as_object_mut() {
            spec.remove("strategy");
        }
        store["spec"]["serviceName"] = "store".into();
        // A directory of the machine's: it outlives the pod.
        store["spec"]["template"]["spec"]["volumes"] = json!([{"name": "data", "hostPath": {"path": "/var/lib/demo-store", "type": "DirectoryOrCreate"}}]);
        store["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] =
            json!([{"name": "data", "mountPath": "/data"}]);
        let api = workload("Deployment", "api", json!(["api", "--store", "http://store"]), None);
        let web = workload("Deployment", "web", json!(["web", "--api", "http://api"]), Some(WEB));
        let vault = workload("Deployment", &secret, json!(["store", "--data", "/tmp/vault"]), Some(vault));
        self.apply(tenant, "apis/apps/v1", "statefulsets", &store).await?;
        for object in [&api, &web, &vault] {
            self.apply(tenant, "apis/apps/v1", "deployments", object).await?;
        }
        for app in ["store", "api", "web", &secret] {
            self.ready(tenant, app).await?;
        }
        let before = self.job(tenant, "before", json!(["client", "--show", "http://store/visits"])).await?;
        let before = visits(&before).context("the store does not say how many visits it has had")?;
        // A visit whose answer was late is made again, and counts twice: what the store says afterwards is what it must remember.
        let visit =
            json!(["client", "--post", format!("http://web/={VISITS}"), "--show", "http://store/visits"]);
        let said = self.job(tenant, "visitors", visit).await?;
        match visits(&said) {
            Some(after) if after >= before + u64::from(VISITS) => self.survive(tenant, after).await,
            _ => {
                bail!("{tenant}: after {before} visits and {VISITS} more the store counts otherwise:\n{said}")
            }
        }
    }

    /// The store's pod goes; the next one has its data.
    async fn survive(&self, tenant: &str, wanted: u64) -> anyhow::Result<()> {
        let old = self.pod(tenant, "store", |_| true).await?;
        let uid = old["metadata"]["uid"].clone();
        let path = format!("/tenants/{tenant}/api/v1/namespaces/default/pods/store-0");
        self.client.delete(&path).await.context("deleting the store's pod")?;
        self.pod(tenant, "store", |pod| pod["metadata"]["uid"] != uid).await?;
        self.ready(tenant, "store").await?;
        let expect = json!(["client", "--expect", format!("http://store/visits= {wanted} visits")]);
        self.job(tenant, "after", expect).await.context("the store lost its data with its pod")?;
        self.say(&format!(
            "{tenant}: the store's pod was deleted; the next one still knows all {wanted} visits"
        ));
        Ok(())
    }

    /// Runs a client to its end, and returns what it said.
    async fn job(&self, tenant: &str, name: &str, args: Value) -> anyhow::Result<String> {
        let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
            "spec": {"backoffLimit": 0, "template": template(tenant, name, args, "Never")}});
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

    /// Asks from inside a tenant: for what is its own, by name and by address; and for what is the other's, by name and by address.
    async fn prove(&self, own: &Party, other: &Party) -> anyhow::Result<String> {
        let (me, them) = (own.tenant, other.tenant);
        let args = json!([
            "client",
            "--expect",
            format!("http://web/=This is {me}'s shop. {me}'s API says: {me}'s store has"),
            "--expect",
            format!("http://web.default.svc.cluster.local/=This is {me}'s shop"),
            // The very address that the other's web front has, too.
            "--expect",
            format!("http://{WEB}:{PORT}/=This is {me}'s shop"),
            "--expect",
            format!("http://vault-of-{me}/visits={me}'s store"),
            "--expect",
            format!("http://{}:{PORT}/visits={me}'s store", own.vault),
            // Names and addresses that only the other has.
            "--silent",
            format!("http://vault-of-{them}/visits"),
            "--silent",
            format!("http://vault-of-{them}.default.svc.cluster.local/visits"),
            "--silent",
            format!("http://{}:{PORT}/visits", other.vault),
        ]);
        let said = self.job(me, "proof", args).await?;
        let lines: String =
            said.lines().filter(|l| l.starts_with("ok: ")).fold(String::new(), |mut all, l| {
                all.push_str("    ");
                all.push_str(l);
                all.push('\n');
                all
            });
        Ok(format!("From inside {me}:\n{lines}"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_says_how_many_visits_it_has_had() {
        assert_eq!(visits("ok: http://store/visits answers: blue's store has 12 visits"), Some(12));
        let both = "ok: http://web/ was visited 10 times\nok: http://store/visits answers: blue's store has 13 visits";
        assert_eq!(visits(both), Some(13));
        assert_eq!(visits("ok: nothing"), None);
        assert_eq!(visits("visits"), None);
    }
}
