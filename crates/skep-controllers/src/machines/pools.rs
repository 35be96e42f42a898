//! Which machines a tenant gets and gives back. One key per tenant: pods, machines and pools of one are planned together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::json;
use skep_api::compute::{Flavor, Machine, NodePool};
use skep_base::TenantName;
use skep_client::{
    DeleteParams, Event, Informer, Level, ListParams, Object, ObjectKey, Patch, Resource, Tenants,
};
use skep_plan::machines::Amounts;
use skep_plan::machines::fit::{Taint, WaitingPod};
use skep_plan::machines::scale::{self, Action, MachineView, Plan, Pool, Room, Tenant};

use super::views::{NodeView, PODS_MAX, amounts, amounts_of};
use crate::views::{BY_NODE, Pod, WAITING, YES};
use crate::{Controller, Enqueue, Next, Setup, SyncError, Writes};

const NAME: &str = "nodepools";
/// Since when a machine has been without pods: on the machine, so that it survives this process.
const EMPTY_SINCE: &str = "compute.skep.io/empty-since";
/// The labels that every node has, whatever machine it is.
const NODE_OS: (&str, &str) = ("kubernetes.io/os", "linux");
const NODE_POOL: &str = "compute.skep.io/node-pool";
const INSTANCE_TYPE: &str = "node.kubernetes.io/instance-type";
/// The earliest that a key is looked at again: a plan that wants it at once has just written something.
const SOONEST: Duration = Duration::from_millis(50);

/// See the module.
pub(super) struct NodePools {
    machines: Informer<Machine>,
    flavors: Informer<Flavor>,
    nodes: Informer<NodeView>,
    pods: Informer<Pod>,
    writes: Writes,
}

/// The key under which a tenant is looked at.
fn key_of(tenant: &TenantName) -> ObjectKey {
    ObjectKey::new(tenant, "", "machines")
}

impl NodePools {
    /// Makes the controller.
    pub(super) fn controller(setup: &mut Setup) -> Arc<dyn Controller> {
        let machines = setup.informer::<Machine>();
        let (flavors, nodes) = (setup.informer::<Flavor>(), setup.informer::<NodeView>());
        let pods = setup.informer::<Pod>();
        let enqueue = setup.enqueue(NAME);
        let tell = |enqueue: &Enqueue| enqueue.clone();
        let e = tell(&enqueue);
        machines.on_event(move |event| e.add(&key_of(&event.object().key.tenant), Enqueue::level(event)));
        let e = tell(&enqueue);
        nodes.on_event(move |event| {
            if node_matters(event) {
                e.add(&key_of(&event.object().key.tenant), Level::Update);
            }
        });
        let e = tell(&enqueue);
        let known = machines.clone();
        pods.on_event(move |event| {
            // Of other nodes than machines' none is given back, however empty it is.
            let on_machine = |node: &str| {
                !known.by_index(super::views::BY_NODE, &event.object().key.tenant, node).is_empty()
            };
            if let Some(level) = pod_matters(event, on_machine) {
                e.add(&key_of(&event.object().key.tenant), level);
            }
        });
        // Pools hardly change, and their templates are in no list of all tenants: stored ones are followed for their news.
        let pools = setup.informer::<NodePool>();
        pools.on_event(move |event| {
            if !matches!(event, Event::Changed { old, new } if old.spec == new.spec) {
                enqueue.add(&key_of(&event.object().key.tenant), Level::Update);
            }
        });
        let writes = setup.writes("nodepool-controller");
        Arc::new(NodePools { machines, flavors, nodes, pods, writes })
    }

    async fn look(&self, tenant: &TenantName) -> Result<Next, SyncError> {
        let waiting = self.pods.by_index(WAITING, tenant, YES);
        let pools = self.pools(tenant).await?;
        let machines = self.machines.of_tenant(tenant);
        let busy = !waiting.is_empty() || !machines.is_empty() || pools.iter().any(|p| p.min_machines() > 0);
        if !busy {
            return Ok(Next::Wait);
        }
        let now = Timestamp::now();
        let input = Tenant {
            pools: pools.iter().map(pool_view).collect(),
            flavors: self.flavors(tenant, &machines),
            machines: machines.iter().map(|m| self.machine_view(m)).collect(),
            waiting: waiting.iter().map(|p| waiting_pod(p)).collect(),
            room: self.room(tenant).await?,
        };
        let plan = scale::plan(&input, now);
        if !plan.actions.is_empty() && !self.is_open(tenant).await? {
            return Ok(Next::Wait);
        }
        for pod in &plan.hopeless {
            tracing::debug!(%tenant, pod, "no flavour of any pool would take the pod");
        }
        for action in &plan.actions {
            self.apply(tenant, action, &pools, &machines, now).await?;
        }
        for pool in &pools {
            self.report(tenant, pool, &input, &plan, now).await?;
        }
        let wait = plan.look_again.map(|at| at.duration_since(now).unsigned_abs().max(SOONEST));
        Ok(wait.map_or(Next::Wait, Next::After))
    }

    /// Whether the tenant is to stay. One that is going loses its machines first, and must not be given others for those that it is to have at least.
    async fn is_open(&self, tenant: &TenantName) -> Result<bool, SyncError> {
        #[derive(Deserialize)]
        struct Read {
            metadata: Meta,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Meta {
            deletion_timestamp: Option<Timestamp>,
        }
        let at = Resource::new("tenancy.skep.io", "v1", "tenants").at(Tenants::Own).name(tenant.as_str());
        match self.writes.client.read::<Read>(&at).await {
            Ok(found) => Ok(found.metadata.deletion_timestamp.is_none()),
            Err(e) if e.is_not_found() => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    async fn pools(&self, tenant: &TenantName) -> Result<Vec<NodePool>, SyncError> {
        let at = Resource::of::<NodePool>().at(tenant);
        match self.writes.client.list_all::<NodePool>(&at, ListParams::default()).await {
            Ok(list) => Ok(list.items),
            // The tenant is gone.
            Err(e) if e.is_not_found() => Ok(Vec::new()),
            Err(e) => Err(e.into()),
        }
    }

    /// The operator's flavours as this tenant would get them: where a machine of one is up, its node says what is really
    /// left for pods.
    fn flavors(&self, tenant: &TenantName, machines: &[Arc<Object<Machine>>]) -> Vec<scale::Flavor> {
        let mut found = Vec::new();
        self.flavors.for_each(|flavor| {
            if flavor.spec.retired.unwrap_or(false) || flavor.metadata.deletion_timestamp.is_some() {
                return;
            }
            let name = flavor.key.name.to_string();
            let promised = Amounts { pods: PODS_MAX, ..amounts(&flavor.spec.resources) };
            let real = machines
                .iter()
                .filter(|m| m.spec.flavor_name == name && m.spec.resources == flavor.spec.resources)
                .find_map(|m| self.node(tenant, m).map(|n| n.allocatable()))
                .filter(|a| a.pods > 0);
            let isolations = flavor.spec.isolations.iter().flatten().map(|i| i.as_str().to_owned());
            let labels = [NODE_OS, (INSTANCE_TYPE, name.as_str())];
            found.push(scale::Flavor {
                amounts: real.unwrap_or(promised),
                isolations: isolations.collect(),
                price: flavor.spec.price.and_then(|p| u64::try_from(p).ok()),
                labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
                name,
            });
        });
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found
    }

    fn node(&self, tenant: &TenantName, machine: &Machine) -> Option<Arc<Object<NodeView>>> {
        self.nodes.get(&ObjectKey::new(tenant, "", machine.node_name()))
    }

    fn machine_view(&self, machine: &Object<Machine>) -> MachineView {
        let tenant = &machine.key.tenant;
        let node = self.node(tenant, machine).map(|node| scale::NodeView {
            ready_since: node.ready_since(),
            closed: node.is_closed(),
            pods: self
                .pods
                .by_index(BY_NODE, tenant, machine.node_name())
                .iter()
                .filter(|p| p.counts)
                .count(),
        });
        let since = machine.metadata.annotations.as_ref().and_then(|a| a.get(EMPTY_SINCE));
        MachineView {
            name: machine.key.name.to_string(),
            pool: machine.spec.node_pool_name.clone().unwrap_or_default(),
            flavor: machine.spec.flavor_name.clone(),
            amounts: Amounts { pods: PODS_MAX, ..amounts(&machine.spec.resources) },
            deleting: machine.metadata.deletion_timestamp.is_some(),
            empty_since: since.and_then(|t| t.parse().ok()),
            node,
        }
    }

    /// What the tenant's quota leaves.
    async fn room(&self, tenant: &TenantName) -> Result<Room, SyncError> {
        #[derive(Deserialize)]
        struct Usage {
            spec: Hard,
            #[serde(default)]
            status: Used,
        }
        #[derive(Deserialize)]
        struct Hard {
            #[serde(default)]
            hard: BTreeMap<String, String>,
        }
        #[derive(Default, Deserialize)]
        struct Used {
            #[serde(default)]
            used: BTreeMap<String, String>,
        }
        let at = Resource::new("tenancy.skep.io", "v1", "tenantusages").at(tenant).name("tenant");
        let usage: Usage = match self.writes.client.read(&at).await {
            Ok(usage) => usage,
            Err(e) if e.is_not_found() => return Ok(Room::default()),
            Err(e) => return Err(e.into()),
        };
        // Read as if they were resources of those names, to have one reading of amounts.
        let left = |key: &str, as_name: &str, pick: fn(Amounts) -> u64| {
            let hard = usage.spec.hard.get(key)?;
            let used = usage.status.used.get(key).map_or("0", String::as_str);
            let of = |text: &str| pick(amounts_of([(as_name, text)]));
            Some(of(hard).saturating_sub(of(used)))
        };
        Ok(Room {
            machines: left("machines", "pods", |a| a.pods),
            cpu_millis: left("machines.cpu", "cpu", |a| a.cpu_millis),
            memory_bytes: left("machines.memory", "memory", |a| a.memory_bytes),
        })
    }

    async fn apply(
        &self,
        tenant: &TenantName,
        action: &Action,
        pools: &[NodePool],
        machines: &[Arc<Object<Machine>>],
        now: Timestamp,
    ) -> Result<(), SyncError> {
        let machine = |name: &str| machines.iter().find(|m| *m.key.name == *name);
        match action {
            Action::Make { pool, flavor } => self.make(tenant, pool, flavor, pools).await,
            Action::MarkEmpty(name) => match machine(name) {
                Some(machine) => self.mark(machine, Some(now)).await,
                None => Ok(()),
            },
            Action::MarkUsed(name) => match machine(name) {
                Some(machine) => {
                    self.close(tenant, machine, false).await?;
                    self.mark(machine, None).await
                }
                None => Ok(()),
            },
            Action::Close(name) => match machine(name) {
                Some(machine) => self.close(tenant, machine, true).await,
                None => Ok(()),
            },
            Action::Delete(name) => match machine(name) {
                Some(machine) => {
                    let at = Resource::of::<Machine>().at(tenant).name(name);
                    self.writes.client.remove(&at, &DeleteParams::uid(&machine.uid)).await?;
                    tracing::info!(%tenant, machine = name, "an empty machine is returned");
                    Ok(())
                }
                None => Ok(()),
            },
        }
    }

    async fn make(
        &self,
        tenant: &TenantName,
        pool: &str,
        flavor: &str,
        pools: &[NodePool],
    ) -> Result<(), SyncError> {
        let key = ObjectKey::new(&TenantName::system(), "", flavor);
        let found = pools.iter().find(|p| p.metadata.name.as_deref() == Some(pool));
        let (Some(flavor), Some(pool)) = (self.flavors.get(&key), found) else {
            return Err(SyncError::NotYet(format!("flavour {flavor:?} or pool {pool:?} is gone")));
        };
        let pool_name = pool.metadata.name.as_deref().unwrap_or_default();
        let machine = json!({
            "apiVersion": "compute.skep.io/v1", "kind": "Machine",
            "metadata": {"generateName": format!("{pool_name}-")},
            "spec": {
                "flavorName": &*flavor.key.name, "nodePoolName": pool_name, "isolation": pool.spec.isolation,
                "resources": flavor.spec.resources, "nodeLabels": pool.spec.node_labels, "taints": pool.spec.taints,
            },
        });
        let at = Resource::of::<Machine>().at(tenant);
        let body = serde_json::to_vec(&machine).unwrap_or_default();
        let answer = self.writes.client.create_bytes(&at, body.into()).await?;
        self.machines.record(tenant, &answer)?;
        tracing::info!(%tenant, pool = pool_name, flavor = %flavor.key.name, "a machine is made for waiting pods");
        Ok(())
    }

    /// Notes since when a machine is without pods.
    async fn mark(&self, machine: &Object<Machine>, since: Option<Timestamp>) -> Result<(), SyncError> {
        let at = Resource::of::<Machine>().at(&machine.key.tenant).name(&machine.key.name);
        let since = since.map(|t| t.to_string());
        let patch = json!({"metadata": {"uid": *machine.uid, "annotations": {EMPTY_SINCE: since}}});
        let answer = self.writes.client.patch_bytes(&at, &Patch::Merge(patch)).await?;
        self.machines.record(&machine.key.tenant, &answer)?;
        Ok(())
    }

    /// Lets a machine's node take no more pods, or take some again.
    async fn close(&self, tenant: &TenantName, machine: &Machine, closed: bool) -> Result<(), SyncError> {
        let Some(node) = self.node(tenant, machine).filter(|n| n.is_closed() != closed) else {
            return Ok(());
        };
        let at = Resource::new("", "v1", "nodes").at(tenant).name(&node.key.name);
        let patch = json!({"metadata": {"uid": *node.uid}, "spec": {"unschedulable": closed}});
        let answer = self.writes.client.patch_bytes(&at, &Patch::Merge(patch)).await?;
        self.nodes.record(tenant, &answer)?;
        Ok(())
    }

    /// Brings a pool's status up to date.
    async fn report(
        &self,
        tenant: &TenantName,
        pool: &NodePool,
        input: &Tenant,
        plan: &Plan,
        now: Timestamp,
    ) -> Result<(), SyncError> {
        let name = pool.metadata.name.as_deref().unwrap_or_default();
        let of_pool = || input.machines.iter().filter(|m| m.pool == name);
        let made =
            plan.actions.iter().filter(|a| matches!(a, Action::Make { pool, .. } if pool == name)).count();
        let ready = of_pool().filter(|m| m.node.as_ref().is_some_and(|n| n.ready_since.is_some())).count();
        let (status, reason, message) = match plan.blocked.get(name) {
            None => ("True", "RoomLeft", ""),
            Some(why) => ("False", "LimitReached", why.as_str()),
        };
        let old = pool.status.clone().unwrap_or_default();
        let condition = old.conditions.iter().flatten().find(|c| c.type_ == "Scalable");
        let (machines, ready) = (of_pool().count() + made, ready);
        let same = old.machines == i32::try_from(machines).ok()
            && old.ready_machines == i32::try_from(ready).ok()
            && old.observed_generation == pool.metadata.generation
            && condition.is_some_and(|c| c.status == status && c.message == message);
        // A pool that nobody uses stays the template that it is.
        let unused = pool.status.is_none() && machines == 0 && plan.blocked.is_empty();
        if same || unused {
            return Ok(());
        }
        let since = condition.filter(|c| c.status == status).map_or(now, |c| c.last_transition_time.0);
        let patch = json!({"status": {
            "machines": machines, "readyMachines": ready, "observedGeneration": pool.metadata.generation,
            "conditions": [{
                "type": "Scalable", "status": status, "reason": reason, "message": message,
                "lastTransitionTime": since.to_string(),
            }],
        }});
        let at = Resource::of::<NodePool>().at(tenant).name(name).subresource("status");
        match self.writes.client.patch_bytes(&at, &Patch::Merge(patch)).await {
            Ok(_) => Ok(()),
            Err(e) if e.is_not_found() => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

fn pool_view(pool: &NodePool) -> Pool {
    let name = pool.metadata.name.clone().unwrap_or_default();
    let mut labels = pool.spec.node_labels.clone().unwrap_or_default();
    labels.insert(NODE_POOL.to_owned(), name.clone());
    let taint = |t: &k8s_openapi::api::core::v1::Taint| Taint {
        key: t.key.clone(),
        value: t.value.clone().unwrap_or_default(),
        effect: t.effect.clone(),
    };
    Pool {
        name,
        flavor_names: pool.spec.flavor_names.clone().unwrap_or_default(),
        isolation: pool.spec.isolation.as_str().to_owned(),
        min: usize::try_from(pool.min_machines()).unwrap_or(0),
        max: pool.spec.max_machines.map(|m| usize::try_from(m).unwrap_or(0)),
        empty_delay: SignedDuration::from_secs(pool.empty_delay_s().into()),
        labels,
        taints: pool.spec.taints.iter().flatten().map(taint).collect(),
    }
}

fn waiting_pod(pod: &Object<Pod>) -> WaitingPod {
    let name = format!("{}/{}", pod.key.namespace, pod.key.name);
    match &pod.waiting {
        Some(waiting) => WaitingPod { name, amounts: waiting.amounts, demands: waiting.demands.clone() },
        None => WaitingPod { name, ..WaitingPod::default() },
    }
}

/// Whether a node's change may change its tenant's plan: its heartbeat does not.
fn node_matters(event: &Event<NodeView>) -> bool {
    match event {
        Event::Added(node) | Event::Deleted(node) => node.machine().is_some(),
        Event::Changed { old, new } => {
            let facts = |n: &Object<NodeView>| (n.is_closed(), n.ready_since(), n.allocatable());
            new.machine().is_some() && facts(old) != facts(new)
        }
    }
}

/// Whether a pod's change may change its tenant's plan, and how urgent that is.
fn pod_matters(event: &Event<Pod>, on_machine: impl Fn(&str) -> bool) -> Option<Level> {
    let holds = |p: &Object<Pod>| !p.node().is_empty() && p.counts && on_machine(p.node());
    match event {
        Event::Added(pod) if pod.waiting.is_some() => Some(Level::Add),
        Event::Added(pod) => holds(pod).then_some(Level::Update),
        Event::Deleted(pod) => (holds(pod) || pod.waiting.is_some()).then_some(Level::Delete),
        Event::Changed { old, new } => {
            if new.waiting.is_some() && old.waiting != new.waiting {
                return Some(Level::Add);
            }
            (old.waiting.is_some() != new.waiting.is_some() || holds(old) != holds(new))
                .then_some(Level::Update)
        }
    }
}

impl Controller for NodePools {
    fn name(&self) -> &'static str {
        NAME
    }

    fn sync<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Next, SyncError>> {
        Box::pin(self.look(&key.tenant))
    }
}
