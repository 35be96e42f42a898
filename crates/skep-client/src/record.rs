//! Events for people: what happened to an object, told once and then counted.
//!
//! As Kubernetes' clients do it: an event that repeats has its count raised; many that differ in their message
//! only are gathered into one; what says too much about one object is cut off. Everything is bounded: who reports events faster than
//! they can be written loses some, never memory.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use k8s_openapi::api::core::v1::{Event as CoreEvent, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use rustc_hash::{FxHashMap, FxHashSet};
use serde_json::json;
use tokio::sync::mpsc;

use crate::client::{Client, Patch};
use crate::path::{Resource, Tenants};

/// Events that wait to be written. At a thousand writes a second this is a second's; more is a storm that nobody reads.
const QUEUE: usize = 1000;
/// How many different events are remembered, as upstream.
const REMEMBERED: usize = 4096;
/// So many different messages of one reason about one object in [`GATHER_WITHIN`] are gathered, as upstream.
const GATHER_AFTER: usize = 10;
const GATHER_WITHIN: SignedDuration = SignedDuration::from_mins(10);
/// So many events about one object from one source may come at once, and one more in each [`REFILL`], as upstream.
const BURST: f64 = 25.0;
const REFILL: SignedDuration = SignedDuration::from_mins(5);
/// Longest message that the API server takes.
const MAX_MESSAGE_BYTES: usize = 1024;

/// Whether an event is bad news.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// No.
    Normal,
    /// Yes.
    Warning,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        }
    }
}

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Regarding {
    /// Whose object: of one tenant, or of the credential's own. A server without tenants has no other.
    pub whose: Tenants,
    /// Its `apiVersion`.
    pub api_version: String,
    /// Its kind.
    pub kind: String,
    /// Its namespace; empty when cluster-scoped.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Told {
    component: Arc<str>,
    host: Arc<str>,
    about: Regarding,
    event_type: EventType,
    reason: String,
    message: String,
}

/// Takes events. Clones share the queue.
#[derive(Clone)]
pub struct Recorder {
    component: Arc<str>,
    host: Arc<str>,
    sender: mpsc::Sender<Told>,
    lost: Arc<AtomicU64>,
}

impl Recorder {
    /// A recorder for a component, and the task that writes what it takes; somebody must run that.
    #[must_use]
    pub fn new(client: &Client, component: &str) -> (Recorder, Writer) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let recorder =
            Recorder { component: component.into(), host: "".into(), sender, lost: Arc::default() };
        (recorder, Writer { client: client.clone(), receiver, correlator: Correlator::default() })
    }

    /// The same recorder speaking for another component.
    #[must_use]
    pub fn component(&self, component: &str) -> Recorder {
        Recorder { component: component.into(), ..self.clone() }
    }

    /// The same recorder speaking from a host.
    #[must_use]
    pub fn host(&self, host: &str) -> Recorder {
        Recorder { host: host.into(), ..self.clone() }
    }

    /// Tells that something happened. Never waits.
    pub fn event(&self, about: &Regarding, event_type: EventType, reason: &str, message: impl Into<String>) {
        let mut message = message.into();
        if message.len() > MAX_MESSAGE_BYTES {
            let mut end = MAX_MESSAGE_BYTES;
            while !message.is_char_boundary(end) {
                end -= 1;
            }
            message.truncate(end);
        }
        let told = Told {
            component: self.component.clone(),
            host: self.host.clone(),
            about: about.clone(),
            event_type,
            reason: reason.to_owned(),
            message,
        };
        if self.sender.try_send(told).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many events were lost because they came too fast.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// A map that forgets what was put in first.
struct Bounded<K, V> {
    map: FxHashMap<K, V>,
    order: VecDeque<K>,
}

impl<K, V> Default for Bounded<K, V> {
    fn default() -> Bounded<K, V> {
        Bounded { map: FxHashMap::default(), order: VecDeque::new() }
    }
}

impl<K: Clone + Eq + std::hash::Hash, V> Bounded<K, V> {
    fn make_place(&mut self, key: &K) {
        if !self.map.contains_key(key) {
            if self.order.len() >= REMEMBERED
                && let Some(oldest) = self.order.pop_front()
            {
                self.map.remove(&oldest);
            }
            self.order.push_back(key.clone());
        }
    }

    fn get_or_insert_with(&mut self, key: K, new: impl FnOnce() -> V) -> &mut V {
        self.make_place(&key);
        self.map.entry(key).or_insert_with(new)
    }

    fn insert(&mut self, key: K, value: V) {
        self.make_place(&key);
        self.map.insert(key, value);
    }

    fn remove(&mut self, key: &K) {
        if self.map.remove(key).is_some() {
            self.order.retain(|k| k != key);
        }
    }
}

/// One event object that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Written {
    name: String,
    count: i32,
}

struct Bucket {
    tokens: f64,
    at: Timestamp,
}

struct Group {
    messages: FxHashSet<String>,
    at: Timestamp,
}

/// The rules, without IO or a clock.
#[derive(Default)]
struct Correlator {
    written: Bounded<Told, Written>,
    groups: Bounded<Told, Group>,
    buckets: Bounded<(Arc<str>, Arc<str>, Regarding), Bucket>,
}

impl Correlator {
    /// Under which identity an event is to be written; `None` when its source says too much about its object.
    fn judge(&mut self, told: Told, now: Timestamp) -> Option<Told> {
        let source = (told.component.clone(), told.host.clone(), told.about.clone());
        let bucket = self.buckets.get_or_insert_with(source, || Bucket { tokens: BURST, at: now });
        let refill = now.duration_since(bucket.at).as_secs_f64() / REFILL.as_secs_f64();
        bucket.tokens = (bucket.tokens + refill.max(0.0)).min(BURST);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            return None;
        }
        bucket.tokens -= 1.0;
        let kind = Told { message: String::new(), ..told.clone() };
        let group =
            self.groups.get_or_insert_with(kind, || Group { messages: FxHashSet::default(), at: now });
        if now.duration_since(group.at) > GATHER_WITHIN {
            group.messages.clear();
        }
        group.at = now;
        group.messages.insert(told.message.clone());
        if group.messages.len() < GATHER_AFTER {
            return Some(told);
        }
        // One message stands for all that follow: the set need not grow further.
        while group.messages.len() > GATHER_AFTER {
            let Some(any) = group.messages.iter().next().cloned() else { break };
            group.messages.remove(&any);
        }
        Some(Told { message: String::new(), ..told })
    }
}

/// Writes events; see [`Recorder::new`].
pub struct Writer {
    client: Client,
    receiver: mpsc::Receiver<Told>,
    correlator: Correlator,
}

impl Writer {
    /// Writes events until all recorders are gone.
    pub async fn run(mut self) {
        while let Some(told) = self.receiver.recv().await {
            let now = Timestamp::now();
            let message = told.message.clone();
            let Some(identity) = self.correlator.judge(told, now) else { continue };
            let shown = if identity.message.is_empty() {
                format!("(combined from similar events): {message}")
            } else {
                message
            };
            if let Err(error) = self.write(&identity, &shown, now).await {
                tracing::debug!(%error, reason = identity.reason, "an event was not written");
            }
        }
    }

    async fn write(&mut self, told: &Told, message: &str, now: Timestamp) -> Result<(), crate::Error> {
        let about = &told.about;
        let namespace = if about.namespace.is_empty() { "default" } else { &about.namespace };
        let at = Resource::of::<CoreEvent>().at(about.whose.clone()).namespace(namespace);
        let written = self.correlator.written.map.get(told).cloned();
        if let Some(mut written) = written {
            let patch = json!({"count": written.count + 1, "message": message, "lastTimestamp": Time(now)});
            match self.client.patch_bytes(&at.clone().name(&written.name), &Patch::Strategic(patch)).await {
                Ok(_) => {
                    written.count += 1;
                    self.correlator.written.insert(told.clone(), written);
                    return Ok(());
                }
                // Events live for an hour: it may be gone.
                Err(e) if e.is_not_found() => self.correlator.written.remove(told),
                Err(e) => return Err(e),
            }
        }
        let name = format!("{}.{:x}", about.name, now.as_nanosecond());
        let event = CoreEvent {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some(about.api_version.clone()),
                kind: Some(about.kind.clone()),
                namespace: Some(about.namespace.clone()).filter(|n| !n.is_empty()),
                name: Some(about.name.clone()),
                uid: Some(about.uid.clone()),
                ..ObjectReference::default()
            },
            type_: Some(told.event_type.as_str().to_owned()),
            reason: Some(told.reason.clone()),
            message: Some(message.to_owned()),
            source: Some(EventSource {
                component: Some(told.component.to_string()),
                host: Some(told.host.to_string()).filter(|h| !h.is_empty()),
            }),
            reporting_component: Some(told.component.to_string()),
            reporting_instance: Some(told.host.to_string()).filter(|h| !h.is_empty()),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            count: Some(1),
            ..CoreEvent::default()
        };
        let _: serde_json::Value = self.client.create(&at, &event).await?;
        let written = Written { name, count: 1 };
        self.correlator.written.insert(told.clone(), written);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use skep_base::TenantName;

    use super::*;

    fn told(object: &str, message: &str) -> Told {
        Told {
            component: "c".into(),
            host: "".into(),
            about: Regarding {
                whose: Tenants::One(TenantName::new("shop").unwrap()),
                api_version: "v1".into(),
                kind: "Pod".into(),
                namespace: "a".into(),
                name: object.into(),
                uid: "u".into(),
            },
            event_type: EventType::Normal,
            reason: "R".into(),
            message: message.into(),
        }
    }

    #[test]
    fn similar_events_are_gathered_and_floods_cut() {
        let mut correlator = Correlator::default();
        let mut now = Timestamp::UNIX_EPOCH;
        let mut gathered = 0;
        for n in 0..20 {
            match correlator.judge(told("a", &format!("m{n}")), now) {
                Some(t) if t.message.is_empty() => gathered += 1,
                Some(t) => assert_eq!(t.message, format!("m{n}")),
                None => panic!("within the burst"),
            }
        }
        assert_eq!(gathered, 11, "the tenth and all that follow");
        let dropped = (0..20).filter(|_| correlator.judge(told("a", "m"), now).is_none()).count();
        assert_eq!(dropped, 15);
        assert!(correlator.judge(told("b", "m"), now).is_some(), "another object's are its own");
        now += REFILL;
        assert!(correlator.judge(told("a", "m"), now).is_some());
        assert_eq!(correlator.judge(told("a", "m"), now), None);
    }

    #[test]
    fn memory_is_bounded() {
        let mut correlator = Correlator::default();
        for n in 0..3 * REMEMBERED {
            correlator.judge(told(&format!("o{n}"), "m"), Timestamp::UNIX_EPOCH);
        }
        assert_eq!(correlator.buckets.map.len(), REMEMBERED);
        assert_eq!(correlator.groups.order.len(), REMEMBERED);
    }
}
