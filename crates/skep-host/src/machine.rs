//! One machine's life on this host: looks, plans, does the next thing, looks again.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::json;
use skep_api::compute::{HOST_FINALIZER, Machine, MachinePhase, MachineStatus};
use skep_base::TenantName;
use skep_client::{Backoff, Client, Object, Patch, Resource};
use skep_hostnet::{HostNetwork, NETWORK_LABEL};
use skep_machine::{Driver, Found, MachineId, MachineSpec, Phase};
use tokio::sync::watch;

use crate::control::{self, IMAGE_SOCKET, KUBECONFIG, SOCKET, Settings};
use crate::credential;
use crate::images::Images;
use crate::plan::{Action, Observed, next};
use crate::proxy::Proxy;

/// How often is looked whether a machine still runs. Its end is announced by nothing that survives this daemon.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Waits between attempts at what failed.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LONGEST: Duration = Duration::from_secs(30);

/// What all machines of a host share.
pub(crate) struct Shared {
    pub(crate) client: Client,
    pub(crate) driver: Arc<dyn Driver>,
    pub(crate) settings: Settings,
    /// Tenants' networks on this host.
    pub(crate) network: HostNetwork,
    /// Where the API server is.
    pub(crate) server: (String, u16),
}

/// What is wanted of a machine.
#[derive(Clone)]
pub(crate) struct Desired {
    pub(crate) tenant: TenantName,
    pub(crate) uid: String,
    pub(crate) machine: Arc<Object<Machine>>,
    /// The object is gone: whatever is left of the machine is to go too.
    pub(crate) gone: bool,
}

impl Desired {
    /// The object as the plan is to see it: one that is gone is one that is being deleted, with nobody to tell.
    fn machine(&self) -> Machine {
        let mut machine = self.machine.view.clone();
        if self.gone {
            machine.metadata.deletion_timestamp.get_or_insert(Time(Timestamp::UNIX_EPOCH));
            machine.metadata.finalizers = None;
        }
        machine
    }
}

/// Why a step did not work; a whole sentence.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error("{}", .0.story())]
    Driver(#[from] skep_machine::Error),
    #[error("{}", story(.0))]
    Credential(#[from] credential::CredentialError),
    #[error(transparent)]
    Client(#[from] skep_client::Error),
    #[error("the way to the API server cannot be opened: {0}")]
    Proxy(std::io::Error),
    #[error("{}", story(.0))]
    Network(#[from] skep_hostnet::Error),
    #[error("{0}")]
    Spec(String),
    #[error("a step of the driver broke: {0}")]
    Broken(String),
}

fn story(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

struct Worker {
    shared: Arc<Shared>,
    id: MachineId,
    proxy: Option<Proxy>,
    images: Option<Images>,
    attached: bool,
    prepared: Option<MachineSpec>,
    stale: bool,
    restarts: i32,
    /// Whether it ran when it was last looked at.
    ran: bool,
    /// What was told last: the copy of the object may lag behind it.
    told: Option<MachineStatus>,
}

/// Runs until nothing of the machine is left and nobody wants it, or until nobody says any more what is wanted.
pub(crate) async fn run(shared: Arc<Shared>, mut wanted: watch::Receiver<Desired>) {
    let first = wanted.borrow().clone();
    let Ok(id) = MachineId::new(first.uid) else { return };
    let before = first.machine.status.as_ref();
    let mut worker = Worker {
        shared,
        id,
        proxy: None,
        images: None,
        attached: false,
        prepared: None,
        stale: false,
        restarts: before.and_then(|s| s.restarts).unwrap_or(0),
        // As the daemon before this one left it.
        ran: first.machine.phase() == MachinePhase::Running,
        told: None,
    };
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
    loop {
        let desired = wanted.borrow_and_update().clone();
        let machine = desired.machine();
        let wait = match worker.step(&desired, &machine).await {
            Ok(Some(Action::Done)) => return,
            Ok(Some(Action::Wait(until))) => {
                backoff.reset();
                let until = until.map(|t| t.duration_since(Timestamp::now()).unsigned_abs());
                until.map_or(LOOK_EVERY, |u| u.min(LOOK_EVERY))
            }
            Ok(_) => continue,
            Err(error) => {
                let name = machine.metadata.name.as_deref().unwrap_or_default();
                tracing::warn!(tenant = %desired.tenant, machine = name, %error, "a machine's next step failed");
                worker.tell_failure(&desired, &machine, &error).await;
                backoff.next_wait()
            }
        };
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(wait) => {}
        }
    }
}

impl Worker {
    /// Runs what blocks where it may.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Driver) -> Result<T, skep_machine::Error> + Send + 'static,
    ) -> Result<T, StepError> {
        let driver = self.shared.driver.clone();
        let result = tokio::task::spawn_blocking(move || work(driver.as_ref())).await;
        Ok(result.map_err(|e| StepError::Broken(e.to_string()))??)
    }

    fn control(&self, file: &str) -> std::path::PathBuf {
        self.shared.driver.control_dir(&self.id).join(file)
    }

    async fn observe(&mut self) -> Result<Observed, StepError> {
        let id = self.id.clone();
        let found: Option<Found> = self.blocking(move |d| d.inspect(&id)).await?;
        if found.is_none() {
            (self.prepared, self.attached) = (None, false);
        }
        let running = matches!(found, Some(Found { phase: Phase::Running { .. }, .. }));
        if self.ran && !running {
            // It ended by itself: whatever made it end may have taken more with it.
            self.restarts += 1;
            (self.prepared, self.attached) = (None, false);
        }
        self.ran = running;
        Ok(Observed {
            found,
            prepared: self.prepared.clone(),
            renew_at: credential::renew_at(&self.control(KUBECONFIG)),
            stale: self.stale,
            attached: self.attached,
            connected: self.proxy.as_ref().is_some_and(Proxy::is_open)
                && self.images.as_ref().is_some_and(Images::is_open),
        })
    }

    /// Looks, and does the next thing. `None` when it is to be looked at again at once.
    async fn step(&mut self, desired: &Desired, machine: &Machine) -> Result<Option<Action>, StepError> {
        let spec = control::spec_of(machine, &desired.uid, &desired.tenant, &self.shared.settings)
            .map_err(StepError::Spec)?;
        let observed = self.observe().await?;
        let action = next(machine, &spec, &observed, Timestamp::now());
        let id = self.id.clone();
        match action {
            Action::Prepare => {
                self.tell(desired, machine, MachinePhase::Creating, None).await?;
                let wanted = spec.clone();
                self.blocking(move |d| d.prepare(&wanted)).await?;
                self.prepared = Some(spec);
            }
            Action::Credential => {
                let path = self.control(KUBECONFIG);
                credential::obtain(&self.shared.client, &desired.tenant, machine, &path).await?;
                self.stale = self.ran;
            }
            Action::Attach => {
                let place = self.shared.driver.network(&id);
                let labels = machine.spec.node_labels.as_ref();
                let network = labels.and_then(|l| l.get(NETWORK_LABEL)).map(String::as_str);
                self.shared.network.attach(&desired.tenant, network, machine.node_name(), &place).await?;
                self.attached = true;
            }
            Action::Connect => {
                // The old one lets go of the path before the new one takes it.
                (self.proxy, self.images) = (None, None);
                let proxy = Proxy::open(&self.control(SOCKET), self.shared.server.clone());
                self.proxy = Some(proxy.map_err(StepError::Proxy)?);
                let socket = self.control(IMAGE_SOCKET);
                let images = Images::open(&socket, &self.shared, &self.id, &desired.tenant);
                self.images = Some(images.map_err(StepError::Proxy)?);
            }
            Action::Start => {
                self.blocking(move |d| d.start(&id)).await?;
                (self.stale, self.ran) = (false, true);
                tracing::info!(tenant = %desired.tenant, machine = machine.node_name(), "machine started");
            }
            Action::Reload => {
                self.blocking(move |d| d.reload(&id)).await?;
                self.stale = false;
            }
            Action::Remove => {
                if !desired.gone {
                    self.tell(desired, machine, MachinePhase::Deleting, None).await?;
                }
                (self.proxy, self.images) = (None, None);
                (self.ran, self.attached, self.prepared) = (false, false, None);
                self.shared.network.detach(&desired.tenant, machine.node_name(), true).await?;
                self.blocking(move |d| d.remove(&id)).await?;
                tracing::info!(tenant = %desired.tenant, machine = machine.node_name(), "machine removed");
            }
            Action::Release => {
                self.release(desired, machine).await?;
                return Ok(Some(Action::Done));
            }
            Action::Wait(_) => self.tell(desired, machine, MachinePhase::Running, None).await?,
            Action::Done => {}
        }
        Ok(matches!(action, Action::Wait(_) | Action::Done).then_some(action))
    }

    /// Takes this host's finalizer off.
    async fn release(&self, desired: &Desired, machine: &Machine) -> Result<(), StepError> {
        let others: Vec<&String> =
            machine.metadata.finalizers.iter().flatten().filter(|f| *f != HOST_FINALIZER).collect();
        let patch = Patch::Merge(json!({"metadata": {
            "resourceVersion": machine.metadata.resource_version, "uid": desired.uid, "finalizers": others,
        }}));
        match self.shared.client.patch_bytes(&path(desired, machine), &patch).await {
            Ok(_) => Ok(()),
            Err(e) if e.is_not_found() => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    async fn tell_failure(&mut self, desired: &Desired, machine: &Machine, error: &StepError) {
        // The API server knows already what it said itself.
        if desired.gone || matches!(error, StepError::Client(_)) {
            return;
        }
        let phase = match machine.metadata.deletion_timestamp {
            Some(_) => MachinePhase::Deleting,
            None => MachinePhase::Failed,
        };
        if let Err(error) = self.tell(desired, machine, phase, Some(error.to_string())).await {
            tracing::debug!(%error, "a machine's failure cannot be told");
        }
    }

    /// Brings the object's status up to date.
    async fn tell(
        &mut self,
        desired: &Desired,
        machine: &Machine,
        phase: MachinePhase,
        failure: Option<String>,
    ) -> Result<(), StepError> {
        let old = self.told.clone().or_else(|| machine.status.clone()).unwrap_or_default();
        let new = status(&old, machine, phase, failure.as_deref(), self.restarts, Timestamp::now());
        if new == old {
            self.told = Some(new);
            return Ok(());
        }
        let patch = Patch::Merge(json!({"metadata": {"uid": desired.uid}, "status": new}));
        let at = path(desired, machine).subresource("status");
        match self.shared.client.patch_bytes(&at, &patch).await {
            Ok(_) => self.told = Some(new),
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e.into()),
        }
        Ok(())
    }
}

fn path(desired: &Desired, machine: &Machine) -> skep_client::ObjectPath {
    let name = machine.metadata.name.as_deref().unwrap_or_default();
    Resource::of::<Machine>().at(&desired.tenant).name(name)
}

/// The status that follows on an old one. Times change only where what they are about changes.
fn status(
    old: &MachineStatus,
    machine: &Machine,
    phase: MachinePhase,
    failure: Option<&str>,
    restarts: i32,
    now: Timestamp,
) -> MachineStatus {
    let running = phase == MachinePhase::Running;
    let created = match (phase, failure) {
        (MachinePhase::Running, _) => ("True", "Created", ""),
        (MachinePhase::Failed, Some(why)) => ("False", "StepFailed", why),
        (MachinePhase::Deleting, Some(why)) => ("False", "RemovalFailed", why),
        (MachinePhase::Deleting, None) => ("False", "Deleting", ""),
        _ => ("False", "Creating", ""),
    };
    let runs = if running { ("True", "AgentStarted", "") } else { ("False", created.1, "") };
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let placed = ("True", "Placed", "");
    for (type_, (status, reason, message)) in [("Scheduled", placed), ("Created", created), ("Running", runs)]
    {
        set_condition(&mut conditions, type_, status, reason, message, now);
    }
    MachineStatus {
        phase: Some(phase),
        observed_generation: machine.metadata.generation,
        restarts: Some(old.restarts.unwrap_or(0).max(restarts)),
        conditions: Some(conditions),
        ..old.clone()
    }
}

/// Sets a condition; the time of its last change stays where the status stays.
pub(crate) fn set_condition(
    conditions: &mut Vec<Condition>,
    type_: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let new = |since| Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: since,
        observed_generation: None,
    };
    match conditions.iter_mut().find(|c| c.type_ == type_) {
        Some(old) => {
            let since = if old.status == status { old.last_transition_time.clone() } else { Time(now) };
            *old = new(since);
        }
        None => conditions.push(new(Time(now))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn a_status_says_what_failed_and_since_when_it_is_so() {
        let machine: Machine = serde_json::from_value(json!({"metadata": {"generation": 4}})).unwrap();
        let begun = status(&MachineStatus::default(), &machine, MachinePhase::Creating, None, 0, at(1));
        assert_eq!(begun.observed_generation, Some(4));
        let failed = status(&begun, &machine, MachinePhase::Failed, Some("no room"), 0, at(2));
        let condition = |s: &MachineStatus, type_: &str| {
            s.conditions.iter().flatten().find(|c| c.type_ == type_).cloned().unwrap()
        };
        let created = condition(&failed, "Created");
        assert_eq!((created.reason.as_str(), created.message.as_str()), ("StepFailed", "no room"));
        assert_eq!(created.last_transition_time, Time(at(1)), "it was not created before either");
        let up = status(&failed, &machine, MachinePhase::Running, None, 2, at(3));
        assert_eq!(condition(&up, "Created").last_transition_time, Time(at(3)));
        assert_eq!(condition(&up, "Running").status, "True");
        assert_eq!(up.restarts, Some(2));
        assert_eq!(status(&up, &machine, MachinePhase::Running, None, 0, at(9)), up, "nothing to tell");
    }
}
