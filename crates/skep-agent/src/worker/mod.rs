//! One pod on this node, from its binding to its end: look, plan, do, report, and again when anything changes.
//!
//! The loop holds nothing that cannot be found again: it may be dropped at any await, and another one takes up the pod
//! from its shim. While it runs, whatever ends the pod interrupts what is being done.

mod kill;
mod observe;
mod probes;
mod resize;
mod start;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use skep_runtime::Found;
use tokio::sync::{Notify, watch};

pub(crate) use kill::clean_up_pod;
pub(crate) use observe::parse_sandbox_id;
pub(crate) use start::netns;

use crate::container;
use crate::context::Node;
use crate::events::Level;
use crate::mirrors::MirrorUid;
use crate::node::NodeObject;
use crate::objects::Held;
use crate::pods::PodsHandle;
use crate::report::Reporter;
use crate::resize::{Allocation, Told};
use crate::spec::{self, ContainerKind};
use crate::state::backoff::Backoff;
use crate::state::{self, Instance, Observed, Phase, Sandbox, StartFailure, StatusInput};
use crate::streams::{Live, LiveCell};
use crate::tokens::Tokens;
use crate::volume::Volumes;

/// What the rest of the agent wants of a pod.
#[derive(Clone, Debug)]
pub struct Desired {
    /// The pod as the server has it, or had it last.
    pub pod: Arc<Pod>,
    /// The server has no such pod any more.
    pub gone: bool,
    /// The node ends the pod: reason and message of its status.
    pub ended: Option<(String, String)>,
    /// The grace period that goes with it.
    pub grace_seconds: Option<i64>,
}

/// A look at the pod even when nothing seems to happen: a lost wake-up costs this delay and no more.
const RESYNC: Duration = Duration::from_secs(60);
/// Pause after something failed that is to be tried again.
const RETRY: Duration = Duration::from_secs(2);
/// No container is killed without having been asked, whatever the grace period says.
pub const MINIMUM_GRACE_SECONDS: i64 = 2;

/// See the module.
pub struct Worker {
    node: Arc<Node>,
    pod: Arc<Pod>,
    desired: watch::Receiver<Desired>,
    wake: Arc<Notify>,
    reporter: Reporter,
    /// The status last made.
    status: Arc<PodStatus>,
    ended: Option<(String, String)>,
    sandbox: Option<skep_runtime::Sandbox>,
    events_task: Option<tokio::task::JoinHandle<()>>,
    facts: Sandbox,
    /// Runs of containers, as last seen.
    instances: Vec<Instance>,
    /// Runs that the runtime no longer has.
    past: Vec<Instance>,
    /// Runs that have ended, with their last words read.
    finished: BTreeMap<String, Instance>,
    /// The labels of runs, by id.
    labels: BTreeMap<String, BTreeMap<String, String>>,
    failures: BTreeMap<String, StartFailure>,
    restarts: Backoff,
    pulls: Backoff,
    pull_errors: BTreeMap<String, String>,
    hashes: BTreeMap<String, String>,
    held: Held,
    held_for: (Vec<String>, Vec<String>),
    tokens: Tokens,
    volumes: Option<Volumes>,
    probes: probes::Probes,
    /// Containers whose pre-stop hook has begun: it runs once.
    stopped: Mutex<BTreeSet<String>>,
    /// The pod as others see it.
    live: LiveCell,
    /// What its containers may have, and have.
    allocation: Allocation,
    /// How a resize fares.
    told: Told,
    /// All pods of the node.
    pods: PodsHandle,
    /// The node's object.
    object: Arc<NodeObject>,
    /// What a former agent left of the pod.
    found: Vec<Found>,
    /// When to look again.
    next_look: Option<Timestamp>,
}

enum Next {
    /// Wait for something to happen.
    Wait,
    /// The pod is to be ended.
    End,
}

impl Worker {
    /// A worker for a pod of this node, and for what a former agent left of it. Of a static pod, `mirror` is told about.
    #[must_use]
    pub fn new(
        node: Arc<Node>,
        desired: watch::Receiver<Desired>,
        found: Vec<Found>,
        live: LiveCell,
        pods: PodsHandle,
        object: Arc<NodeObject>,
        mirror: Option<MirrorUid>,
    ) -> Worker {
        let first = desired.borrow().clone();
        let reporter = Reporter::start(node.client.clone(), &first.pod, mirror);
        let status = Arc::new(first.pod.status.clone().unwrap_or_default());
        Worker {
            reporter,
            status,
            pod: first.pod,
            ended: first.ended,
            desired,
            wake: Arc::new(Notify::new()),
            sandbox: None,
            events_task: None,
            facts: Sandbox::default(),
            instances: Vec::new(),
            past: Vec::new(),
            finished: BTreeMap::new(),
            labels: BTreeMap::new(),
            failures: BTreeMap::new(),
            restarts: Backoff::default(),
            pulls: Backoff::default(),
            pull_errors: BTreeMap::new(),
            hashes: BTreeMap::new(),
            held: Held::default(),
            held_for: Default::default(),
            tokens: Tokens::new(node.client.clone()),
            volumes: None,
            probes: probes::Probes::default(),
            stopped: Mutex::default(),
            next_look: None,
            allocation: Allocation::default(),
            told: Told::default(),
            found,
            live,
            pods,
            object,
            node,
        }
    }

    /// Runs until nothing of the pod is left, here and on the server.
    pub async fn run(mut self) {
        self.load_allocation();
        Box::pin(self.adopt()).await;
        while !self.ends() {
            let mut desired = self.desired.clone();
            let next = tokio::select! {
                biased;
                () = ended(&mut desired) => Next::End,
                // On the heap while it is needed: most of a worker's life is spent waiting for something to do.
                next = Box::pin(self.sync()) => next,
            };
            if matches!(next, Next::End) {
                break;
            }
            self.wait().await;
        }
        Box::pin(self.end()).await;
        Box::pin(self.bury()).await;
    }

    fn take_desired(&mut self) {
        let desired = self.desired.borrow_and_update().clone();
        self.pod = if self.allocation.is_for(&desired.pod) {
            desired.pod
        } else {
            Arc::new(self.allocation.apply((*desired.pod).clone()))
        };
        if self.ended.is_none() {
            self.ended = desired.ended;
        }
    }

    /// Whether the pod is to be ended, whatever its containers do.
    fn ends(&self) -> bool {
        self.ended.is_some() || wants_end(&self.desired.borrow())
    }

    async fn wait(&mut self) {
        let now = Timestamp::now();
        let pause = match self.next_look.take() {
            Some(at) => Duration::try_from(at.duration_since(now)).unwrap_or_default().min(RESYNC),
            None => RESYNC,
        };
        tokio::select! {
            () = self.wake.notified() => {}
            _ = self.desired.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }

    /// Asks for another look at that time, or sooner.
    fn look_at(&mut self, at: Timestamp) {
        self.next_look = Some(self.next_look.map_or(at, |next| next.min(at)));
    }

    fn look_in(&mut self, pause: Duration) {
        let at = Timestamp::now().checked_add(pause).unwrap_or(Timestamp::MAX);
        self.look_at(at);
    }

    /// One round: look, report, plan, do.
    async fn sync(&mut self) -> Next {
        self.take_desired();
        self.allocate();
        self.observe().await;
        let now = Timestamp::now();
        if let Some(message) = self.past_deadline(now) {
            self.node.events.pod(&self.pod, Level::Normal, "DeadlineExceeded", message.clone());
            self.ended = Some(("DeadlineExceeded".to_owned(), message));
            return Next::End;
        }
        self.sync_probes();
        self.make_status(false, now);
        if self.status.phase.as_deref().and_then(Phase::parse).is_some_and(Phase::is_terminal) {
            return Next::End;
        }
        let results = self.probes.results();
        let mut plan = state::plan(&self.observed(&results, now));
        self.actuate(&mut plan).await;
        if plan.kill_pod && plan.create_sandbox.is_none() {
            return Next::End;
        }
        let look_again = !plan.is_empty();
        if let Err(pause) = self.apply(plan).await {
            self.look_in(pause);
        }
        if look_again {
            // What was done shows at once, and what it made possible is done next.
            self.observe().await;
            self.sync_probes();
            self.make_status(false, Timestamp::now());
            let results = self.probes.results();
            let more = state::plan(&self.observed(&results, Timestamp::now()));
            if !more.is_empty() && self.next_look.is_none() {
                self.look_in(Duration::ZERO);
            }
        }
        Next::Wait
    }

    fn observed<'a>(
        &'a self,
        results: &'a BTreeMap<String, state::ProbeResults>,
        now: Timestamp,
    ) -> Observed<'a> {
        Observed {
            pod: &self.pod,
            sandbox: &self.facts,
            instances: &self.instances,
            probes: results,
            failures: &self.failures,
            spec_hashes: &self.hashes,
            now,
        }
    }

    fn make_status(&mut self, stopped_for_good: bool, now: Timestamp) {
        if let Some((_, message)) =
            self.ended.as_ref().filter(|(reason, _)| reason == crate::eviction::REASON)
        {
            let condition = k8s_openapi::api::core::v1::PodCondition {
                type_: "DisruptionTarget".to_owned(),
                status: "True".to_owned(),
                reason: Some("TerminationByKubelet".to_owned()),
                message: Some(message.clone()),
                ..Default::default()
            };
            let conditions = Arc::make_mut(&mut self.status).conditions.get_or_insert_default();
            state::set_condition(conditions, condition, now);
        }
        let results = self.probes.results();
        let input = StatusInput {
            old: &self.status,
            host_ips: &self.node.host_ips,
            stopped_for_good,
            // The phase turns to Failed when the containers are gone, not while they still run.
            ended: self.ended.as_ref().filter(|_| stopped_for_good),
        };
        let mut status = state::status(&self.observed(&results, now), &input);
        let generation = self.desired.borrow().pod.metadata.generation;
        crate::resize::show(&mut status, &self.allocation, &self.told, generation, now);
        self.status = Arc::new(status);
        self.reporter.set(self.status.clone());
        self.show();
    }

    /// Lets others see the pod as it is.
    fn show(&self) {
        let running = self.instances.iter().filter(|i| i.is_running());
        let process = |id: &String, l: &BTreeMap<String, String>| {
            l.get(container::labels::PROCESS).map(|p| (id.clone(), p.clone()))
        };
        *self.live.lock().unwrap_or_else(PoisonError::into_inner) = Live {
            pod: self.pod.clone(),
            status: self.status.clone(),
            sandbox: self.sandbox.clone(),
            running: running.map(|i| (i.name.clone(), i.id.clone())).collect(),
            processes: self.labels.iter().filter_map(|(id, l)| process(id, l)).collect(),
        };
    }

    fn past_deadline(&mut self, now: Timestamp) -> Option<String> {
        let seconds = self.pod.spec.as_ref()?.active_deadline_seconds?;
        let begun = self.status.start_time.as_ref().or(self.pod.status.as_ref()?.start_time.as_ref())?.0;
        let end = begun.checked_add(jiff::SignedDuration::from_secs(seconds)).ok()?;
        if now >= end {
            return Some("Pod was active on the node longer than the specified deadline".to_owned());
        }
        self.look_at(end);
        None
    }

    /// Stops all containers, by their grace period, until none is left.
    async fn end(&mut self) {
        loop {
            self.take_desired();
            self.probes.stop_all_but_readiness();
            self.observe().await;
            self.make_status(false, Timestamp::now());
            let grace = self.grace_seconds();
            let mut desired = self.desired.clone();
            let killed = tokio::select! {
                biased;
                () = shorter(&mut desired, grace) => continue,
                result = self.kill_all(grace) => result,
            };
            self.observe().await;
            let left = self.instances.iter().filter(|i| i.is_running()).count();
            match killed {
                Ok(()) if left == 0 => break,
                result => {
                    let why = result.err().unwrap_or_else(|| format!("{left} containers still run"));
                    self.node.events.pod(
                        &self.pod,
                        Level::Warning,
                        "FailedKillPod",
                        format!("error killing pod: {why}"),
                    );
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
        self.probes.stop_all();
        self.make_status(true, Timestamp::now());
    }

    /// Removes everything of the pod on this node, says so, and has the object removed when it is to be deleted.
    async fn bury(mut self) {
        self.volumes = None;
        while let Err(why) = self.clean_up().await {
            tracing::warn!(pod = %spec::format_pod(&self.pod), %why, "a pod cannot be cleaned up yet; it will be tried again");
            tokio::time::sleep(RETRY).await;
        }
        let last = state::terminated_override(&self.pod, (*self.status).clone(), Timestamp::now());
        self.status = Arc::new(last);
        self.reporter.set(self.status.clone());
        self.labels.clear();
        self.show();
        self.held = Held::default();
        loop {
            self.take_desired();
            if self.desired.borrow().gone || self.reporter.is_gone() {
                break;
            }
            if self.pod.metadata.deletion_timestamp.is_some() {
                self.reporter.delete();
            }
            let gone = self.reporter.gone();
            let mut desired = self.desired.clone();
            tokio::select! {
                () = gone => break,
                changed = desired.changed() => if changed.is_err() { break },
            }
        }
        let logs = self.node.layout.logs(&self.pod);
        // Logs go with the object: until then they can be asked for.
        let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(logs)).await;
        if let Ok(Err(error)) = removed
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(pod = %spec::format_pod(&self.pod), %error, "logs cannot be removed");
        }
    }

    fn grace_seconds(&self) -> i64 {
        grace_of(&self.desired.borrow())
    }

    fn note_hashes(&mut self) {
        let kinds = [ContainerKind::Init, ContainerKind::Regular];
        self.hashes = kinds
            .into_iter()
            .flat_map(|k| spec::of_kind(&self.pod, k))
            .map(|c| (c.name.clone(), container::spec_hash(&c)))
            .collect();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(task) = self.events_task.take() {
            task.abort();
        }
    }
}

fn wants_end(desired: &Desired) -> bool {
    desired.gone
        || desired.ended.is_some()
        || desired.pod.metadata.deletion_timestamp.is_some()
        || state::is_terminal(&desired.pod)
}

/// Returns when the pod is to be ended.
async fn ended(desired: &mut watch::Receiver<Desired>) {
    if desired.wait_for(wants_end).await.is_err() {
        // Nobody can want anything any more.
        std::future::pending::<()>().await;
    }
}

fn grace_of(desired: &Desired) -> i64 {
    let pod = &desired.pod;
    pod.metadata
        .deletion_grace_period_seconds
        .or(desired.grace_seconds)
        .unwrap_or_else(|| spec::termination_grace_period(pod))
}

/// Returns when the grace period has become shorter than this.
async fn shorter(desired: &mut watch::Receiver<Desired>, grace: i64) {
    if desired.wait_for(|d| grace_of(d) < grace).await.is_err() {
        std::future::pending::<()>().await;
    }
}
