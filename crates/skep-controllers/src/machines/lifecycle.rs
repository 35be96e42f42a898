//! A machine from its creation to its end: finds it a host, lets go of it where no host can, and removes its node with it.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use skep_api::compute::{HOST_FINALIZER, Host, Machine};
use skep_client::record::EventType;
use skep_client::{DeleteParams, Event, Informer, Level, Object, ObjectKey, Patch, Resource};
use skep_plan::machines::Amounts;
use skep_plan::machines::place::{HostView, Placed, Refusal, Wanted, place};
use tokio::sync::Mutex;

use super::views::{BY_MACHINE, NodeView, amounts};
use crate::{Controller, Enqueue, Next, Setup, SyncError, Writes};

const NAME: &str = "machines";
/// A host that has not spoken for this long takes no new machines: four of its heartbeats.
const HOST_SILENCE: SignedDuration = SignedDuration::from_secs(40);
/// How often a machine that finds no host is tried again, if no host changes.
const RETRY: Duration = Duration::from_secs(15);

/// See the module.
pub(super) struct Machines {
    machines: Informer<Machine>,
    hosts: Informer<Host>,
    nodes: Informer<NodeView>,
    writes: Writes,
    /// Two machines that are placed at once must not count on the same room.
    placing: Mutex<()>,
}

impl Machines {
    /// Makes the controller.
    pub(super) fn controller(setup: &mut Setup) -> Arc<dyn Controller> {
        let (machines, hosts) = (setup.informer::<Machine>(), setup.informer::<Host>());
        let nodes = setup.informer::<NodeView>();
        let enqueue = setup.enqueue(NAME);
        machines.on_event({
            let enqueue = enqueue.clone();
            move |event| enqueue.event(event)
        });
        let (waiting, unplaced) = (machines.clone(), enqueue.clone());
        hosts.on_event(move |event| host_changed(event, &waiting, &unplaced));
        nodes.on_event(move |event| {
            // A node that was registered while its machine went.
            if let Some(machine) = event.object().machine() {
                let key = ObjectKey::new(&event.object().key.tenant, "", machine);
                enqueue.add(&key, Level::SyncAll);
            }
        });
        setup.resync(NAME, &machines);
        let writes = setup.writes("machine-controller");
        Arc::new(Machines { machines, hosts, nodes, writes, placing: Mutex::new(()) })
    }

    async fn look(&self, key: &ObjectKey) -> Result<Next, SyncError> {
        let Some(machine) = self.machines.get(key) else {
            self.remove_nodes(key).await?;
            return Ok(Next::Wait);
        };
        let host = machine.spec.host_name.as_deref().filter(|h| !h.is_empty());
        let lost = host.is_some_and(|name| self.host(name).is_none());
        match (machine.metadata.deletion_timestamp.is_some(), host) {
            (true, host) if host.is_none() || lost => self.release(&machine).await?,
            (true, _) => {}
            (false, Some(_)) if lost => {
                tracing::warn!(tenant = %key.tenant, machine = %key.name, "the machine is lost with its host");
                let at = Resource::of::<Machine>().at(&key.tenant).name(&key.name);
                self.writes.client.remove(&at, &DeleteParams::uid(&machine.uid)).await?;
            }
            (false, Some(_)) => {}
            (false, None) => return self.place(&machine).await,
        }
        Ok(Next::Wait)
    }

    fn host(&self, name: &str) -> Option<Arc<Object<Host>>> {
        self.hosts.get(&ObjectKey::new(&skep_base::TenantName::system(), "", name))
    }

    /// Removes the nodes that say they are a machine that is gone.
    async fn remove_nodes(&self, key: &ObjectKey) -> Result<(), SyncError> {
        for node in self.nodes.by_index(BY_MACHINE, &key.tenant, &key.name) {
            let at = Resource::new("", "v1", "nodes").at(&key.tenant).name(&node.key.name);
            match self.writes.client.remove(&at, &DeleteParams::uid(&node.uid)).await {
                Ok(_) => {
                    tracing::info!(tenant = %key.tenant, node = %node.key.name, "node removed with its machine")
                }
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Takes the host's finalizer off where no host will.
    async fn release(&self, machine: &Object<Machine>) -> Result<(), SyncError> {
        let finalizers = machine.metadata.finalizers.iter().flatten();
        let others: Vec<&String> = finalizers.filter(|f| *f != HOST_FINALIZER).collect();
        if others.len() == machine.metadata.finalizers.as_ref().map_or(0, Vec::len) {
            return Ok(());
        }
        let patch = json!({"metadata": {"finalizers": others}});
        self.patch(machine, "", patch).await.map(|_| ())
    }

    /// Writes to a machine, if it still is as it was seen.
    async fn patch(
        &self,
        machine: &Object<Machine>,
        subresource: &str,
        mut patch: serde_json::Value,
    ) -> Result<(), SyncError> {
        patch["metadata"]["uid"] = (*machine.uid).into();
        patch["metadata"]["resourceVersion"] = machine.revision.to_string().into();
        let key = &machine.key;
        let at = Resource::of::<Machine>().at(&key.tenant).name(&key.name).subresource(subresource);
        let answer = self.writes.client.patch_bytes(&at, &Patch::Merge(patch)).await?;
        self.machines.record(&key.tenant, &answer)?;
        Ok(())
    }

    async fn place(&self, machine: &Object<Machine>) -> Result<Next, SyncError> {
        let _one_at_a_time = self.placing.lock().await;
        let now = Timestamp::now();
        let (mut hosts, mut placed) = (Vec::new(), Vec::new());
        self.hosts.for_each(|host| hosts.push(host_view(host, now)));
        self.machines.for_each(|other| {
            if let Some(host) = other.spec.host_name.as_deref().filter(|h| !h.is_empty()) {
                placed.push(Placed {
                    tenant: other.key.tenant.to_string(),
                    host: host.to_owned(),
                    amounts: amounts(&other.spec.resources),
                });
            }
        });
        let wanted = Wanted {
            tenant: machine.key.tenant.to_string(),
            amounts: amounts(&machine.spec.resources),
            isolation: machine.spec.isolation.as_str().to_owned(),
        };
        match place(&wanted, &hosts, &placed) {
            Ok(host) => {
                self.patch(machine, "", json!({"spec": {"hostName": host}})).await?;
                tracing::info!(tenant = %machine.key.tenant, machine = %machine.key.name, host, "machine placed");
                Ok(Next::Wait)
            }
            Err(refusal) => {
                self.refused(machine, &refusal, now).await?;
                Ok(Next::After(RETRY))
            }
        }
    }

    async fn refused(
        &self,
        machine: &Object<Machine>,
        refusal: &Refusal,
        now: Timestamp,
    ) -> Result<(), SyncError> {
        let message = refusal.to_string();
        let conditions = machine.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        if conditions.iter().any(|c| c.type_ == "Scheduled" && c.message == message) {
            return Ok(());
        }
        self.writes.recorder.event(&about(machine), EventType::Warning, "FailedScheduling", &message);
        let condition = json!({
            "type": "Scheduled", "status": "False", "reason": "NoHost", "message": message,
            "lastTransitionTime": now.to_string(),
        });
        self.patch(machine, "status", json!({"status": {"conditions": [condition]}})).await
    }
}

/// What an event about a machine is about.
fn about(machine: &Object<Machine>) -> skep_client::record::Regarding {
    skep_client::record::Regarding {
        whose: (&machine.key.tenant).into(),
        api_version: "compute.skep.io/v1".to_owned(),
        kind: "Machine".to_owned(),
        namespace: String::new(),
        name: machine.key.name.to_string(),
        uid: machine.uid.to_string(),
    }
}

fn host_view(host: &Object<Host>, now: Timestamp) -> HostView {
    let status = host.status.as_ref();
    let spoke = status.and_then(|s| s.heartbeat_time.as_ref()).map(|t| t.0);
    let alive = spoke.is_some_and(|t| now.duration_since(t) < HOST_SILENCE);
    let allocatable = status.and_then(|s| s.allocatable.as_ref()).map(amounts).unwrap_or_default();
    let isolations = status.and_then(|s| s.isolations.as_deref()).unwrap_or_default();
    HostView {
        name: host.key.name.to_string(),
        allocatable: Amounts { pods: u64::MAX, ..allocatable },
        isolations: isolations.iter().map(|i| i.as_str().to_owned()).collect(),
        schedulable: !host.is_unschedulable() && host.metadata.deletion_timestamp.is_none(),
        ready: alive && host.is_ready(),
    }
}

/// What a host's change means for machines: those without a host may find one, and those of a host that is gone are lost.
fn host_changed(event: &Event<Host>, machines: &Informer<Machine>, enqueue: &Enqueue) {
    let name = event.object().key.name.clone();
    let gone = matches!(event, Event::Deleted(_));
    if let Event::Changed { old, new } = event
        && same_offer(old, new)
    {
        return;
    }
    let mut keys = Vec::new();
    machines.for_each(|machine| {
        let host = machine.spec.host_name.as_deref().unwrap_or_default();
        if host.is_empty() || (gone && *host == *name) {
            keys.push(machine.key.clone());
        }
    });
    for key in keys {
        enqueue.add(&key, Level::Update);
    }
}

/// Whether a host offers what it offered before: a heartbeat changes nothing.
fn same_offer(old: &Object<Host>, new: &Object<Host>) -> bool {
    let offer = |h: &Object<Host>| h.status.as_ref().map(|s| (s.allocatable.clone(), s.isolations.clone()));
    let deleting = |h: &Object<Host>| h.metadata.deletion_timestamp.is_some();
    offer(old) == offer(new)
        && old.is_unschedulable() == new.is_unschedulable()
        && old.is_ready() == new.is_ready()
        && deleting(old) == deleting(new)
}

impl Controller for Machines {
    fn name(&self) -> &'static str {
        NAME
    }

    fn sync<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Next, SyncError>> {
        Box::pin(self.look(key))
    }
}
