//! A real API server in memory, the controllers beside it, and what has happened there so far.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use skep_api::UserInfo;
use skep_apiserver::app::{App, Config};
use skep_apiserver::in_process::{InProcess, system_client};
use skep_apiserver::tenants::ServiceAddresses;
use skep_auth::identity::{Credential, Identity, groups};
use skep_auth::pki::Pki;
use skep_base::{GroupResource, Key, Revision, Scope, TenantName};
use skep_client::{Client, DeleteParams, Error, ObjectPath, Patch, Resource};
use skep_controllers::Manager;
use skep_store::engine::memory::Memory;
use skep_store::{Change, ListOptions, Store, StoreOptions, Watcher};

use crate::faults::{Faults, Faulty};

pub(crate) const PODS: Resource = Resource::new("", "v1", "pods");
pub(crate) const NODES: Resource = Resource::new("", "v1", "nodes");
pub(crate) const SERVICES: Resource = Resource::new("", "v1", "services");
pub(crate) const CLAIMS: Resource = Resource::new("", "v1", "persistentvolumeclaims");
pub(crate) const DEPLOYMENTS: Resource = Resource::new("apps", "v1", "deployments");
pub(crate) const REPLICA_SETS: Resource = Resource::new("apps", "v1", "replicasets");
pub(crate) const STATEFUL_SETS: Resource = Resource::new("apps", "v1", "statefulsets");
pub(crate) const DAEMON_SETS: Resource = Resource::new("apps", "v1", "daemonsets");
pub(crate) const REVISIONS: Resource = Resource::new("apps", "v1", "controllerrevisions");
pub(crate) const JOBS: Resource = Resource::new("batch", "v1", "jobs");
pub(crate) const CRON_JOBS: Resource = Resource::new("batch", "v1", "cronjobs");
pub(crate) const BUDGETS: Resource = Resource::new("policy", "v1", "poddisruptionbudgets");
pub(crate) const SLICES: Resource = Resource::new("discovery.k8s.io", "v1", "endpointslices");

pub(crate) const AUTOSCALERS: Resource = Resource::new("autoscaling", "v2", "horizontalpodautoscalers");
pub(crate) const LEASES: Resource = Resource::new("coordination.k8s.io", "v1", "leases");

const FOLLOWED: [Resource; 14] = [
    AUTOSCALERS,
    PODS,
    NODES,
    SERVICES,
    CLAIMS,
    DEPLOYMENTS,
    REPLICA_SETS,
    STATEFUL_SETS,
    DAEMON_SETS,
    REVISIONS,
    JOBS,
    CRON_JOBS,
    BUDGETS,
    SLICES,
];

/// Everything is in this namespace of each tenant.
pub(crate) const NAMESPACE: &str = "default";
pub(crate) const TENANTS: [&str; 2] = ["anna", "bert"];

pub(crate) fn tenant(name: &str) -> TenantName {
    TenantName::new(name).unwrap()
}

fn pki() -> Arc<Pki> {
    static PKI: OnceLock<Arc<Pki>> = OnceLock::new();
    PKI.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        Arc::new(Pki::open(folder.path(), &[], Timestamp::now()).unwrap())
    })
    .clone()
}

pub(crate) struct World {
    store: Store,
    app: Arc<App>,
    pub(crate) admin: Client,
    pub(crate) faults: Arc<Faults>,
    /// One, and sometimes more: who has lost the lead may not know it yet.
    managers: Vec<(tokio::task::JoinHandle<()>, skep_controllers::Figures)>,
}

impl World {
    pub(crate) async fn start(seed: u64) -> World {
        let store = Store::open(Box::new(Memory), StoreOptions::default()).unwrap();
        let config = Config {
            base_url: "https://127.0.0.1:6443".to_owned(),
            addresses: ServiceAddresses {
                cluster_ip: "10.96.0.1".to_owned(),
                endpoint_ip: "127.0.0.1".to_owned(),
                endpoint_port: 6443,
            },
        };
        let app = App::start(store.clone(), pki(), config).await.unwrap();
        let admin = system_client(&app, "admin");
        for name in TENANTS {
            let object =
                json!({"apiVersion": "tenancy.skep.io/v1", "kind": "Tenant", "metadata": {"name": name}});
            let at = Resource::new("tenancy.skep.io", "v1", "tenants").at(&TenantName::system());
            admin.create::<Value>(&at, &object).await.unwrap();
        }
        World { store, app, admin, faults: Faults::new(seed), managers: Vec::new() }
    }

    /// Starts the controllers anew; those that are at work are cut off wherever they are.
    pub(crate) async fn restart(&mut self) {
        self.cut_off().await;
        self.rival();
    }

    async fn cut_off(&mut self) {
        for (task, _) in self.managers.drain(..) {
            task.abort();
            let _ = task.await;
        }
    }

    /// Starts controllers beside those that are at work.
    pub(crate) fn rival(&mut self) {
        let identity = Identity {
            tenant: TenantName::system(),
            tenant_uid: None,
            user: UserInfo {
                name: "system:kube-controller-manager".to_owned(),
                uid: String::new(),
                groups: vec![groups::MASTERS.to_owned(), groups::AUTHENTICATED.to_owned()],
                extra: BTreeMap::new(),
            },
            credential: Credential::ClientCert,
        };
        let transport = Faulty::new(InProcess::new(self.app.clone(), identity), self.faults.clone());
        let client = Client::over(Arc::new(transport), TenantName::system());
        let manager = Manager::new(client, skep_controllers::all);
        let figures = manager.figures();
        self.managers.push((tokio::spawn(manager.run(std::future::pending())), figures));
    }

    /// Whether the controllers have read everything.
    pub(crate) fn is_ready(&self) -> bool {
        !self.managers.is_empty() && self.managers.iter().all(|(_, figures)| figures.ready())
    }

    pub(crate) fn is_alive(&self) -> bool {
        !self.managers.is_empty() && self.managers.iter().all(|(task, _)| !task.is_finished())
    }

    pub(crate) async fn stop(mut self) {
        self.cut_off().await;
        self.app.shutdown.send_replace(true);
        self.store.close();
    }

    /// All objects there are, with their revisions, but for what is written without anything having changed.
    pub(crate) fn everything(&self) -> BTreeMap<Key, Revision> {
        let passing = |r: &GroupResource| matches!(r.resource(), "events" | "leases");
        let mut all = BTreeMap::new();
        for resource in self.store.resources().into_iter().filter(|r| !passing(r)) {
            let listing = self.store.list(&Scope::AllTenants(resource), &ListOptions::default()).unwrap();
            all.extend(listing.items.into_iter().map(|(key, value)| (key, value.revision())));
        }
        all
    }

    pub(crate) fn history(&self) -> History {
        let follow = |r: &Resource| {
            self.store.watch(Scope::AllTenants(r.group_resource()), None, Revision::ZERO).unwrap()
        };
        History {
            store: self.store.clone(),
            watchers: FOLLOWED.iter().map(follow).collect(),
            ahead: Vec::new(),
            objects: BTreeMap::new(),
            log: Vec::new(),
        }
    }

    pub(crate) fn at(&self, tenant: &TenantName, resource: &Resource) -> ObjectPath {
        let at = resource.at(tenant);
        if *resource == NODES { at } else { at.namespace(NAMESPACE) }
    }

    pub(crate) async fn create(
        &self,
        tenant: &TenantName,
        resource: &Resource,
        object: &Value,
    ) -> Result<Value, Error> {
        self.admin.create(&self.at(tenant, resource), object).await
    }

    pub(crate) async fn patch(
        &self,
        tenant: &TenantName,
        resource: &Resource,
        name: &str,
        patch: Value,
    ) -> Result<Value, Error> {
        self.admin.patch(&self.at(tenant, resource).name(name), &Patch::Merge(patch)).await
    }

    pub(crate) async fn remove(
        &self,
        tenant: &TenantName,
        resource: &Resource,
        name: &str,
        how: &DeleteParams,
    ) {
        match self.admin.remove(&self.at(tenant, resource).name(name), how).await {
            Ok(_) => {}
            Err(error) if error.is_not_found() || error.is_conflict() => {}
            Err(error) => panic!("{resource} {name}: {error}"),
        }
    }
}

/// What a change did to an object.
pub(crate) struct Happened<'a> {
    pub(crate) key: &'a Key,
    pub(crate) old: Option<&'a Value>,
    pub(crate) new: Option<&'a Value>,
}

/// The objects as they are, made from every single change.
pub(crate) struct History {
    store: Store,
    watchers: Vec<Watcher>,
    ahead: Vec<Arc<Change>>,
    objects: BTreeMap<Key, Value>,
    /// What happened, in few words, for when something is wrong.
    log: Vec<String>,
}

impl History {
    /// Takes up what has happened, change by change, and shows each.
    pub(crate) fn advance(&mut self, mut look: impl FnMut(&History, &Happened<'_>)) {
        let until = self.store.revision();
        let mut changes = std::mem::take(&mut self.ahead);
        for watcher in &mut self.watchers {
            loop {
                let some = watcher.try_next().unwrap();
                if some.is_empty() {
                    break;
                }
                changes.extend(some);
            }
        }
        changes.sort_by_key(|c| c.revision);
        // A watcher that was asked later may know more than one that was asked before.
        self.ahead = changes.split_off(changes.partition_point(|c| c.revision <= until));
        for change in changes {
            let new: Option<Value> = change.value.as_ref().map(|v| serde_json::from_slice(v.json()).unwrap());
            let old = match &new {
                Some(new) => self.objects.insert(change.key.clone(), new.clone()),
                None => self.objects.remove(&change.key),
            };
            self.log.push(line(&change.key, change.revision, old.as_ref(), new.as_ref()));
            look(self, &Happened { key: &change.key, old: old.as_ref(), new: new.as_ref() });
        }
    }

    pub(crate) fn all<'a>(
        &'a self,
        tenant: &'a TenantName,
        resource: &Resource,
    ) -> impl Iterator<Item = (&'a str, &'a Value)> + use<'a> {
        let from = Key::new(resource.group_resource(), tenant.clone(), "", "");
        let resource = from.resource.clone();
        self.objects
            .range(from..)
            .take_while(move |(k, _)| k.resource == resource && k.tenant == *tenant)
            .map(|(k, v)| (&*k.name, v))
    }

    pub(crate) fn get(&self, tenant: &TenantName, resource: &Resource, name: &str) -> Option<&Value> {
        let namespace = if *resource == NODES { "" } else { NAMESPACE };
        self.objects.get(&Key::new(resource.group_resource(), tenant.clone(), namespace, name))
    }

    pub(crate) fn objects(&self) -> impl Iterator<Item = (&Key, &Value)> {
        self.objects.iter()
    }

    /// The last that happened, for a failure's message.
    pub(crate) fn tail(&self, lines: usize) -> String {
        self.log[self.log.len().saturating_sub(lines)..].join("\n")
    }
}

fn line(key: &Key, revision: Revision, old: Option<&Value>, new: Option<&Value>) -> String {
    let what = match (old, new) {
        (None, _) => "made",
        (_, None) => "gone",
        _ => "changed",
    };
    let object = new.or(old).unwrap_or(&Value::Null);
    let mut text = format!("{} {key} {what}", revision.0);
    let mut say = |name: &str, value: &Value| {
        if !value.is_null() {
            text.push_str(&format!(" {name}={value}"));
        }
    };
    say("gen", &object["metadata"]["generation"]);
    say("deleted", &object["metadata"]["deletionTimestamp"]);
    say("replicas", &object["spec"]["replicas"]);
    say("phase", &object["status"]["phase"]);
    say("ready", &json!(is_ready(object)));
    if key.resource.resource() != "pods" {
        say("status", &object["status"]);
    }
    text
}

// What is read off objects.

pub(crate) fn uid(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap()
}

pub(crate) fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap()
}

pub(crate) fn is_deleting(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

pub(crate) fn phase(pod: &Value) -> &str {
    pod["status"]["phase"].as_str().unwrap_or("Pending")
}

pub(crate) fn is_over(pod: &Value) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Neither ended nor on its way out.
pub(crate) fn is_active(pod: &Value) -> bool {
    !is_over(pod) && !is_deleting(pod)
}

pub(crate) fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
}

pub(crate) fn is_available(pod: &Value) -> bool {
    is_active(pod) && is_ready(pod)
}

pub(crate) fn owners(object: &Value) -> impl Iterator<Item = &Value> {
    object["metadata"]["ownerReferences"].as_array().into_iter().flatten()
}

pub(crate) fn controller(object: &Value) -> Option<&str> {
    owners(object).find(|o| o["controller"] == true).and_then(|o| o["uid"].as_str())
}

pub(crate) fn count(object: &Value, path: &str) -> i64 {
    object.pointer(path).and_then(Value::as_i64).unwrap_or(0)
}

/// How long everything may take to come to rest on a busy machine.
pub(crate) const REST: Duration = Duration::from_secs(60);
