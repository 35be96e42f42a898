//! One tenant's scheduler: its cluster, its queue, and a loop that takes in what happened and decides.
//!
//! Only this task touches them. Decisions are made one after another and are assumed at once; what they mean for the
//! API is done by other tasks, many at a time, which report back. The API server checks each binding again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustc_hash::FxHashMap;
use skep_base::TenantName;
use skep_client::record::{EventType, Regarding};
use skep_client::{Error, Event};
use skep_sched::views::NodeView;
use skep_sched::{Cluster, PodFacts, Preemption, VolumeStep};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use crate::feed::Apply;
use crate::queue::{Hints, Queue, Waiting};
use crate::view::Pod;
use crate::write;
use crate::{SCHEDULER_NAME, Shared};

/// Pods decided before others get the thread: half a millisecond at most.
const BATCH: usize = 32;
/// News taken in before a decision is made.
const NEWS: usize = 4096;
/// Bindings under way, of all tenants that have any: enough to fill the server's groups of writes. More do not make the server faster,
/// and delay what is decided after, for other tenants too, since all share the scheduler's threads: where the server is in the same
/// process, each binding is worked on by them.
const BINDING: usize = 32;
/// But so many for each tenant, however many there are: one that waits for the disk does not hold up the next.
const BINDING_LEAST: usize = 2;
/// Bindings of one tenant that wait for volumes to be made, which may take minutes. Each looks some times a second; beyond so many
/// the tenant's other pods wait, too.
const PREPARING: usize = 512;
/// Conditions of one tenant's pods being written.
const TELLING: usize = 32;
/// How often a worker looks at its queue though nothing happened.
const TICK: Duration = Duration::from_secs(30);
/// A worker without pods and nodes ends after this long, so that an idle tenant costs nothing here.
const IDLE: Duration = Duration::from_secs(60);

/// Something for a worker to take in.
pub(crate) enum News {
    Pod(Event<Pod>),
    Node(Event<NodeView>),
    Other(Apply),
    /// What became of a binding.
    Bound {
        key: Arc<str>,
        uid: Box<str>,
        result: Result<(), Error>,
        /// Whether volumes were to be bound before.
        volumes: bool,
    },
}

/// What each of so many tenants may bind at once.
fn share_of(tenants: usize) -> usize {
    (BINDING / tenants.max(1)).max(BINDING_LEAST)
}

pub(crate) struct Worker {
    tenant: TenantName,
    shared: Arc<Shared>,
    news: mpsc::UnboundedReceiver<News>,
    /// Does not keep the worker alive: it ends when the scheduler does.
    back: mpsc::WeakUnboundedSender<News>,
    cluster: Cluster,
    queue: Queue,
    /// Pods that were decided and are not seen bound yet: their uids.
    assumed: FxHashMap<Arc<str>, Box<str>>,
    /// Bindings under way, but for those that have volumes to wait for first.
    binding: usize,
    /// Those.
    preparing: usize,
    /// Whether it is among those that have something to bind.
    binds: bool,
    telling: Arc<Semaphore>,
    hints: Hints,
    seed: u64,
    depths: [usize; 3],
}

impl Worker {
    pub(crate) fn new(
        tenant: TenantName,
        shared: Arc<Shared>,
        news: mpsc::UnboundedReceiver<News>,
        back: mpsc::WeakUnboundedSender<News>,
    ) -> Worker {
        Worker {
            tenant,
            cluster: Cluster::with_weights(shared.weights),
            shared,
            news,
            back,
            queue: Queue::default(),
            assumed: FxHashMap::default(),
            binding: 0,
            preparing: 0,
            binds: false,
            telling: Arc::new(Semaphore::new(TELLING)),
            hints: Hints::default(),
            seed: rand::random(),
            depths: [0; 3],
        }
    }

    /// Works until the tenant has nothing to schedule.
    pub(crate) async fn run(mut self) {
        self.shared.synced().await;
        // What has come until now is in the informers' copies, and is read from there.
        while self.news.try_recv().is_ok() {}
        if let Some(feed) = self.shared.feed() {
            feed.replay(&self.tenant, &mut self.cluster);
            for pod in feed.pods.of_tenant(&self.tenant) {
                self.pod(&Event::Added(pod));
            }
        }
        let mut idle_since = Instant::now();
        loop {
            for _ in 0..NEWS {
                let Ok(news) = self.news.try_recv() else { break };
                self.take_in(news);
            }
            let now = Instant::now();
            if self.hints.is_empty() {
                self.queue.advance(now);
            } else {
                self.queue.wake(std::mem::take(&mut self.hints), now);
            }
            let most = self.share();
            for _ in 0..BATCH {
                if self.is_full(most) || !self.decide() {
                    break;
                }
            }
            self.report();
            if self.queue.has_active() && !self.is_full(most) {
                tokio::task::yield_now().await;
                continue;
            }
            let nothing = self.queue.is_empty()
                && self.binding + self.preparing == 0
                && self.cluster.pod_count() == 0
                && self.cluster.node_count() == 0;
            if !nothing {
                idle_since = now;
            } else if idle_since + IDLE <= now && self.shared.retire(&self.tenant, &mut self.news) {
                return;
            }
            let until = self.queue.due().unwrap_or(now + TICK).min(now + TICK);
            match tokio::time::timeout_at(until, self.news.recv()).await {
                Ok(Some(news)) => self.take_in(news),
                // The scheduler ends.
                Ok(None) => return,
                // Pods that have been parked for long are looked at.
                Err(_) => self.queue.wake(Hints::default(), Instant::now()),
            }
        }
    }

    /// How many bindings this tenant may have under way. Others come and go, so it is asked for again and again.
    fn share(&mut self) -> usize {
        let binds = self.binding > 0 || self.queue.has_active();
        if binds != self.binds {
            self.binds = binds;
            let tenants = &self.shared.binding_tenants;
            let _ = if binds {
                tenants.fetch_add(1, Ordering::Relaxed)
            } else {
                tenants.fetch_sub(1, Ordering::Relaxed)
            };
        }
        share_of(self.shared.binding_tenants.load(Ordering::Relaxed))
    }

    fn is_full(&self, most: usize) -> bool {
        self.binding >= most || self.preparing >= PREPARING
    }

    /// Adds what has changed in the queue's depths to the figures of all tenants.
    fn report(&mut self) {
        let depths = self.queue.depths();
        for (figure, (now, before)) in self.shared.metrics.pending.iter().zip(depths.iter().zip(&self.depths))
        {
            figure.fetch_add(*now as i64 - *before as i64, Ordering::Relaxed);
        }
        self.depths = depths;
    }

    fn take_in(&mut self, news: News) {
        match news {
            News::Pod(event) => self.pod(&event),
            News::Node(Event::Deleted(node)) => {
                self.cluster.remove_node(&node.key.name);
                // Spreading may look better without it.
                self.hints.add(Hints::NODE_TAINTS);
            }
            News::Node(event) => {
                let Some(change) = self.cluster.upsert_node(&event.object().view) else { return };
                for (changed, hint) in [
                    (change.added, Hints::NODE_ADDED),
                    (change.labels, Hints::NODE_LABELS),
                    (change.taints, Hints::NODE_TAINTS),
                    (change.allocatable, Hints::NODE_ROOM),
                ] {
                    if changed {
                        self.hints.add(hint);
                    }
                }
            }
            News::Other(apply) => {
                let hint = apply(&mut self.cluster);
                self.hints.add(hint);
            }
            News::Bound { key, uid, volumes, result } => self.bound(&key, &uid, volumes, result),
        }
    }

    fn pod(&mut self, event: &Event<Pod>) {
        let object = event.object();
        let key = format!("{}/{}", object.key.namespace, object.key.name);
        let pod = &object.view;
        if matches!(event, Event::Deleted(_)) || pod.terminal {
            let made_room = self.cluster.remove(&key) | self.cluster.unnominate(&key);
            self.assumed.remove(&*key);
            self.queue.remove(&key);
            if made_room {
                self.hints.add(Hints::POD_GONE);
            }
            return;
        }
        if let Some(node) = &pod.node {
            let template = self.cluster.share(&pod.template);
            let known = self.cluster.node_of(&key) == Some(node);
            self.cluster.place(&key, &template, node, pod.facts);
            self.assumed.remove(&*key);
            self.queue.remove(&key);
            let changed = matches!(event, Event::Changed { old, .. } if old.view.template != pod.template);
            if !known {
                self.hints.add(Hints::POD_PLACED);
            } else if changed {
                self.hints.add(Hints::POD_CHANGED);
            }
            return;
        }
        if &*pod.scheduler != SCHEDULER_NAME || self.assumed.get(&*key) == Some(&object.uid) {
            return;
        }
        if pod.facts.terminating || pod.gated {
            self.queue.remove(&key);
            if self.cluster.unnominate(&key) {
                self.hints.add(Hints::POD_GONE);
            }
            return;
        }
        let template = self.cluster.share(&pod.template);
        if let Some(node) = &pod.nominated
            && self.cluster.nominated_node(&key).is_none()
            && !self.queue.is_known(&key)
        {
            self.cluster.nominate(&key, &template, node);
        }
        self.queue.upsert(&key, &object.uid, template, pod.unschedulable.as_deref(), Instant::now());
    }

    /// Decides about one pod. `false` when there is none.
    fn decide(&mut self) -> bool {
        let Some((key, pod)) = self.queue.pop() else { return false };
        self.seed = self.seed.wrapping_add(1);
        let nominated = self.cluster.nominated_node(&key).map(str::to_owned);
        match self.cluster.schedule(&key, &pod.template, nominated.as_deref(), self.seed) {
            Ok(placement) => {
                if !placement.volumes.is_empty() {
                    self.cluster.storage_mut().assume(&placement.volumes);
                }
                self.cluster.place(&key, &pod.template, &placement.node, PodFacts::default());
                self.assumed.insert(key.clone(), pod.uid.clone());
                self.hints.add(Hints::POD_PLACED);
                self.bind(key, &pod, placement.node, placement.volumes);
            }
            Err(mut diagnosis) => {
                self.shared.metrics.unschedulable.fetch_add(1, Ordering::Relaxed);
                let mut nominate = None;
                if diagnosis.nodes > 0 {
                    self.shared.metrics.preemptions.fetch_add(1, Ordering::Relaxed);
                    match self.cluster.preempt(&key, &pod.template, nominated.as_deref(), self.seed) {
                        Preemption::Victims { node, victims } => {
                            self.make_room(&key, &pod, &node, victims);
                            nominate = Some(node);
                        }
                        Preemption::Nothing { why, give_up_nomination } => {
                            diagnosis.preemption = why;
                            if give_up_nomination && self.cluster.unnominate(&key) {
                                nominate = Some(String::new());
                            }
                        }
                    }
                }
                self.queue.park(&key, &diagnosis.plugins, Instant::now());
                let message = diagnosis.message();
                let new = self.queue.tell(&key, &message);
                let about = self.about(&key, &pod.uid);
                self.shared.recorder.event(&about, EventType::Warning, "FailedScheduling", &*message);
                if new || nominate.is_some() {
                    self.tell(&key, &pod.uid, new.then_some(message), nominate);
                }
            }
        }
        true
    }

    fn about(&self, key: &str, uid: &str) -> Regarding {
        let (namespace, name) = write::split(key);
        Regarding {
            whose: self.shared.whose(&self.tenant),
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
        }
    }

    fn bind(&mut self, key: Arc<str>, pod: &Waiting, node: String, volumes: Vec<VolumeStep>) {
        *(if volumes.is_empty() { &mut self.binding } else { &mut self.preparing }) += 1;
        let (shared, tenant, back) = (self.shared.clone(), self.tenant.clone(), self.back.clone());
        let (uid, since, about) = (pod.uid.clone(), pod.since, self.about(&key, &pod.uid));
        tokio::spawn(async move {
            let result = write::bind(&shared, &tenant, &key, &uid, &node, &volumes).await;
            if result.is_ok() {
                shared.metrics.bound(since.elapsed());
                let message = format!("Successfully assigned {key} to {node}");
                shared.recorder.event(&about, EventType::Normal, "Scheduled", message);
            }
            // The worker is there as long as bindings are under way, unless the scheduler ends.
            if let Some(back) = back.upgrade() {
                let _ = back.send(News::Bound { key, uid, volumes: !volumes.is_empty(), result });
            }
        });
    }

    fn bound(&mut self, key: &str, uid: &str, volumes: bool, result: Result<(), Error>) {
        *(if volumes { &mut self.preparing } else { &mut self.binding }) -= 1;
        let is_assumed = self.assumed.get(key).is_some_and(|assumed| **assumed == *uid);
        match result {
            Ok(()) => {
                if self.queue.get(key).is_some_and(|p| *p.uid == *uid) {
                    self.queue.remove(key);
                }
            }
            // It was seen bound, or gone, before the answer came.
            Err(_) if !is_assumed => {}
            Err(error) => {
                self.shared.metrics.errors.fetch_add(1, Ordering::Relaxed);
                self.assumed.remove(key);
                self.cluster.remove(key);
                self.hints.add(Hints::POD_GONE);
                if error.is_not_found() {
                    self.queue.remove(key);
                    return;
                }
                tracing::warn!(tenant = %self.tenant, pod = key, %error, "the pod was not bound, it will be tried again");
                // Volumes that were taken for bound are what the API says again.
                if let Some(feed) = self.shared.feed().filter(|_| volumes) {
                    feed.replay(&self.tenant, &mut self.cluster);
                }
                self.queue.retry(key, Instant::now());
            }
        }
    }

    fn tell(&self, key: &Arc<str>, uid: &str, message: Option<String>, nominated: Option<String>) {
        let (shared, tenant, telling) = (self.shared.clone(), self.tenant.clone(), self.telling.clone());
        let (key, uid) = (key.clone(), uid.to_owned());
        tokio::spawn(async move {
            // Never closed.
            let _permit = telling.acquire().await;
            let told = write::tell_unschedulable(
                &shared,
                &tenant,
                &key,
                &uid,
                message.as_deref(),
                nominated.as_deref(),
            );
            match told.await {
                Err(error) if !error.is_not_found() && !error.is_conflict() => {
                    tracing::warn!(%tenant, pod = &*key, %error, "the pod's condition was not written");
                }
                _ => {}
            }
        });
    }

    /// Removes pods, and keeps their room.
    fn make_room(&mut self, key: &Arc<str>, pod: &Waiting, node: &str, victims: Vec<String>) {
        self.cluster.nominate(key, &pod.template, node);
        // Those of lower priority that wait for room on this node look elsewhere.
        for other in self.cluster.nominated_below(node, pod.template.priority) {
            self.cluster.unnominate(&other);
            if let Some(waiting) = self.queue.get(&other) {
                let uid = waiting.uid.clone();
                self.tell(&other.as_str().into(), &uid, None, Some(String::new()));
            }
            self.queue.retry(&other, Instant::now());
        }
        self.shared.metrics.victims.fetch_add(victims.len() as u64, Ordering::Relaxed);
        for victim in victims {
            let Some(feed) = self.shared.feed() else { return };
            let (namespace, name) = write::split(&victim);
            let found = feed.pods.get(&skep_client::ObjectKey::new(&self.tenant, namespace, name));
            let Some(uid) = found.map(|p| p.uid.clone()) else { continue };
            let about = self.about(&victim, &uid);
            let message = format!("Preempted by pod {} on node {node}", pod.uid);
            self.shared.recorder.event(&about, EventType::Normal, "Preempted", message);
            let (shared, tenant) = (self.shared.clone(), self.tenant.clone());
            tokio::spawn(async move {
                if let Err(error) = write::push_out(&shared, &tenant, &victim, &uid).await {
                    tracing::warn!(%tenant, pod = victim, %error, "the pod was not removed to make room");
                }
            });
        }
    }
}

impl Drop for Worker {
    /// The scheduler may end in the midst of it.
    fn drop(&mut self) {
        if self.binds {
            self.shared.binding_tenants.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bindings_are_shared_by_those_who_have_any() {
        assert_eq!((share_of(0), share_of(1), share_of(2)), (BINDING, BINDING, BINDING / 2));
        assert_eq!((share_of(BINDING), share_of(10_000)), (BINDING_LEAST, BINDING_LEAST));
    }
}
