//! The pods of one tenant that wait for a place: pure, the time comes in.
//!
//! A pod is *active* (to be tried, by priority and then by age), *backing off* (tried and failed a moment ago), or
//! *parked*: nothing that could help has happened since it failed. What rejected it says what could help.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use skep_sched::{Plugin, TemplateRef};
use tokio::time::Instant;

/// How long a pod waits after its first failure; twice as long after each further one.
const BACKOFF: Duration = Duration::from_secs(1);
/// The longest wait.
const MOST_BACKOFF: Duration = Duration::from_secs(10);
/// After this long a parked pod is tried again though nothing is known to have changed: what was missed costs a delay only.
const PARKED: Duration = Duration::from_secs(300);

/// Something that happened and may help a parked pod. A set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hints(u16);

impl Hints {
    pub(crate) const NODE_ADDED: Hints = Hints(1);
    pub(crate) const NODE_LABELS: Hints = Hints(1 << 1);
    pub(crate) const NODE_TAINTS: Hints = Hints(1 << 2);
    pub(crate) const NODE_ROOM: Hints = Hints(1 << 3);
    pub(crate) const POD_PLACED: Hints = Hints(1 << 4);
    pub(crate) const POD_GONE: Hints = Hints(1 << 5);
    pub(crate) const POD_CHANGED: Hints = Hints(1 << 6);
    pub(crate) const STORAGE: Hints = Hints(1 << 7);
    pub(crate) const NAMESPACE: Hints = Hints(1 << 8);

    pub(crate) fn add(&mut self, other: Hints) {
        self.0 |= other.0;
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn meets(self, other: Hints) -> bool {
        self.0 & other.0 != 0
    }

    fn of(all: &[Hints]) -> Hints {
        all.iter().fold(Hints::default(), |sum, h| Hints(sum.0 | h.0))
    }

    /// What may make a rule say yes that said no.
    fn helping(plugin: Plugin) -> Hints {
        let added = Hints::NODE_ADDED;
        match plugin {
            Plugin::NodeUnschedulable | Plugin::TaintToleration => Hints::of(&[added, Hints::NODE_TAINTS]),
            Plugin::NodeAffinity => Hints::of(&[added, Hints::NODE_LABELS]),
            Plugin::NodePorts => Hints::of(&[added, Hints::POD_GONE]),
            Plugin::NodeResourcesFit => {
                Hints::of(&[added, Hints::NODE_ROOM, Hints::POD_GONE, Hints::POD_CHANGED])
            }
            Plugin::VolumeRestrictions | Plugin::NodeVolumeLimits => {
                Hints::of(&[added, Hints::POD_GONE, Hints::STORAGE])
            }
            Plugin::VolumeBinding | Plugin::VolumeZone => {
                Hints::of(&[added, Hints::NODE_LABELS, Hints::STORAGE])
            }
            // Spreading also changes when nodes go or taints change.
            Plugin::PodTopologySpread => Hints(u16::MAX),
            Plugin::InterPodAffinity => Hints::of(&[
                added,
                Hints::NODE_LABELS,
                Hints::POD_PLACED,
                Hints::POD_GONE,
                Hints::POD_CHANGED,
                Hints::NAMESPACE,
            ]),
            Plugin::SchedulingGates => Hints::default(),
        }
    }

    /// What may help after these rules said no. Without nodes nothing said anything: a node helps.
    pub(crate) fn after(plugins: &[Plugin]) -> Hints {
        let each: Vec<Hints> = plugins.iter().map(|p| Hints::helping(*p)).collect();
        Hints(Hints::of(&each).0 | Hints::NODE_ADDED.0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Active,
    BackingOff(Instant),
    Parked {
        since: Instant,
        helped_by: Hints,
    },
    /// Taken out to be tried or bound.
    Out,
}

/// A pod that waits.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    pub uid: Box<str>,
    pub template: TemplateRef,
    /// How often it was tried.
    pub attempts: u32,
    /// When it first came.
    pub since: Instant,
    /// What its condition was last said to be.
    pub told: Option<String>,
    order: u64,
    place: Place,
}

type Active = (Reverse<i32>, u64, Arc<str>);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    pods: FxHashMap<Arc<str>, Waiting>,
    active: BTreeSet<Active>,
    backing_off: BTreeMap<(Instant, u64), Arc<str>>,
    parked: usize,
    next: u64,
}

impl Queue {
    /// A pod that is new or has changed: it is tried soon.
    pub(crate) fn upsert(
        &mut self,
        key: &str,
        uid: &str,
        template: TemplateRef,
        told: Option<&str>,
        now: Instant,
    ) {
        match self.pods.get(key) {
            // Only its status is new: that is our own doing.
            Some(pod) if *pod.uid == *uid && pod.template == template => {}
            Some(pod) if *pod.uid == *uid => {
                let (attempts, since, told) = (pod.attempts, pod.since, pod.told.clone());
                let key = self.remove(key);
                self.insert(key, uid, template, attempts, since, told);
            }
            _ => {
                self.remove(key);
                self.insert(key.into(), uid, template, 0, now, told.map(str::to_owned));
            }
        }
    }

    fn insert(
        &mut self,
        key: Arc<str>,
        uid: &str,
        template: TemplateRef,
        attempts: u32,
        since: Instant,
        told: Option<String>,
    ) {
        let order = self.next;
        self.next += 1;
        self.active.insert((Reverse(template.priority), order, key.clone()));
        let pod = Waiting { uid: uid.into(), template, attempts, since, told, order, place: Place::Active };
        self.pods.insert(key, pod);
    }

    /// A pod that waits no longer. Returns its key as it was kept.
    pub(crate) fn remove(&mut self, key: &str) -> Arc<str> {
        let Some((key, pod)) = self.pods.remove_entry(key) else { return key.into() };
        self.leave(&key, &pod);
        key
    }

    fn leave(&mut self, key: &Arc<str>, pod: &Waiting) {
        match pod.place {
            Place::Active => {
                self.active.remove(&(Reverse(pod.template.priority), pod.order, key.clone()));
            }
            Place::BackingOff(until) => {
                self.backing_off.remove(&(until, pod.order));
            }
            Place::Parked { .. } => self.parked -= 1,
            Place::Out => {}
        }
    }

    fn set(&mut self, key: &Arc<str>, place: Place) {
        let Some(pod) = self.pods.get(key).cloned() else { return };
        self.leave(key, &pod);
        match place {
            Place::Active => {
                self.active.insert((Reverse(pod.template.priority), pod.order, key.clone()));
            }
            Place::BackingOff(until) => {
                self.backing_off.insert((until, pod.order), key.clone());
            }
            Place::Parked { .. } => self.parked += 1,
            Place::Out => {}
        }
        if let Some(pod) = self.pods.get_mut(key) {
            pod.place = place;
        }
    }

    /// The next pod to be tried.
    pub(crate) fn pop(&mut self) -> Option<(Arc<str>, Waiting)> {
        let (_, _, key) = self.active.pop_first()?;
        let pod = self.pods.get_mut(&key)?;
        pod.place = Place::Out;
        pod.attempts += 1;
        Some((key, pod.clone()))
    }

    /// A pod that was tried and fits nowhere.
    pub(crate) fn park(&mut self, key: &Arc<str>, plugins: &[Plugin], now: Instant) {
        self.set(key, Place::Parked { since: now, helped_by: Hints::after(plugins) });
    }

    /// Remembers what was said of a pod. Whether it is new.
    pub(crate) fn tell(&mut self, key: &str, message: &str) -> bool {
        let Some(pod) = self.pods.get_mut(key) else { return false };
        let new = pod.told.as_deref() != Some(message);
        pod.told = Some(message.to_owned());
        new
    }

    /// A pod whose binding failed.
    pub(crate) fn retry(&mut self, key: &str, now: Instant) {
        if let Some((key, pod)) = self.pods.get_key_value(key) {
            let (key, until) = (key.clone(), now + backoff(pod.attempts));
            self.set(&key, Place::BackingOff(until));
        }
    }

    /// Moves what may be helped by what happened, and what has waited long.
    pub(crate) fn wake(&mut self, hints: Hints, now: Instant) {
        if self.parked > 0 {
            let helped = self.pods.iter().filter_map(|(key, pod)| match pod.place {
                Place::Parked { since, helped_by } if helped_by.meets(hints) || since + PARKED <= now => {
                    let until = since + backoff(pod.attempts);
                    Some((key.clone(), if until <= now { Place::Active } else { Place::BackingOff(until) }))
                }
                _ => None,
            });
            for (key, place) in helped.collect::<Vec<_>>() {
                self.set(&key, place);
            }
        }
        self.advance(now);
    }

    /// Moves what has backed off long enough.
    pub(crate) fn advance(&mut self, now: Instant) {
        while let Some(((until, _), key)) = self.backing_off.first_key_value() {
            if *until > now {
                break;
            }
            let key = key.clone();
            self.set(&key, Place::Active);
        }
    }

    /// When something is to be moved next.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.backing_off.keys().next().map(|(until, _)| *until)
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Waiting> {
        self.pods.get(key)
    }

    pub(crate) fn is_known(&self, key: &str) -> bool {
        self.pods.contains_key(key)
    }

    pub(crate) fn has_active(&self) -> bool {
        !self.active.is_empty()
    }

    /// How many are active, backing off, parked.
    pub(crate) fn depths(&self) -> [usize; 3] {
        [self.active.len(), self.backing_off.len(), self.parked]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }
}

fn backoff(attempts: u32) -> Duration {
    BACKOFF.saturating_mul(1 << attempts.saturating_sub(1).min(8)).min(MOST_BACKOFF)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use skep_sched::Cluster;

    fn template(cluster: &mut Cluster, priority: i32) -> TemplateRef {
        let pod = json!({"spec": {"priority": priority, "containers": []}});
        cluster.template(&serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn by_priority_then_by_age() {
        let (mut queue, mut cluster, now) = (Queue::default(), Cluster::new(), Instant::now());
        let (low, high) = (template(&mut cluster, 0), template(&mut cluster, 5));
        queue.upsert("n/a", "1", low.clone(), None, now);
        queue.upsert("n/b", "2", low, None, now);
        queue.upsert("n/c", "3", high, None, now);
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|(key, _)| key.to_string()).collect();
        assert_eq!(order, ["n/c", "n/a", "n/b"]);
    }

    #[test]
    fn parked_pods_wake_for_what_may_help_and_not_before_their_backoff() {
        let (mut queue, mut cluster, now) = (Queue::default(), Cluster::new(), Instant::now());
        let template = template(&mut cluster, 0);
        queue.upsert("n/a", "1", template.clone(), None, now);
        let (key, _) = queue.pop().unwrap();
        queue.park(&key, &[Plugin::NodeResourcesFit], now);
        // The same pod again is our own status coming back.
        queue.upsert("n/a", "1", template, None, now);
        queue.wake(Hints::NODE_TAINTS, now);
        assert_eq!(queue.depths(), [0, 0, 1]);
        queue.wake(Hints::POD_GONE, now);
        assert_eq!(queue.depths(), [0, 1, 0]);
        assert_eq!(queue.due(), Some(now + BACKOFF));
        queue.advance(now + BACKOFF);
        assert_eq!(queue.depths(), [1, 0, 0]);
        let (key, pod) = queue.pop().unwrap();
        assert_eq!(pod.attempts, 2);
        queue.park(&key, &[Plugin::NodeResourcesFit], now);
        queue.wake(Hints::default(), now + PARKED);
        assert!(queue.has_active());
        queue.remove("n/a");
        assert!(queue.is_empty() && !queue.has_active());
    }

    #[test]
    fn failures_back_off_twice_as_long_each_time() {
        let waits: Vec<u64> = (1..7).map(|n| backoff(n).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 10, 10]);
    }

    #[test]
    fn a_pod_that_changed_is_tried_anew() {
        let (mut queue, mut cluster, now) = (Queue::default(), Cluster::new(), Instant::now());
        queue.upsert("n/a", "1", template(&mut cluster, 0), None, now);
        let (key, _) = queue.pop().unwrap();
        queue.park(&key, &[Plugin::NodeAffinity], now);
        queue.upsert("n/a", "1", template(&mut cluster, 3), None, now);
        assert_eq!(queue.depths(), [1, 0, 0]);
        assert!(queue.tell("n/a", "no") && !queue.tell("n/a", "no"));
    }
}
