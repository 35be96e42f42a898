//! Events about pods and the node, for people.
//!
//! The same thing happening again raises a count instead of adding an event, and an object that fails quickly and
//! for ever does not flood the server: both as upstream.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, ObjectReference, Pod};
use serde_json::json;
use skep_client::{Client, Patch, Resource, Tenants};
use tokio::sync::mpsc;

use crate::spec::{self, ContainerKind};

/// Events that wait for the server; more are dropped, for nobody reads that many.
const QUEUE: usize = 1000;
/// So many events about one object may come at once, and then one in five minutes.
const BURST: f64 = 25.0;
const REFILL_SECONDS: f64 = 300.0;
/// Objects that are remembered for counting and limiting; beyond that all are forgotten, which only costs precision.
const MAX_REMEMBERED: usize = 1024;

/// Whether an event tells of something good or bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// As it should be.
    Normal,
    /// Somebody should look.
    Warning,
}

struct Note {
    about: ObjectReference,
    namespace: String,
    level: Level,
    reason: &'static str,
    message: String,
    at: Timestamp,
}

/// Where events are handed in. Clones share the queue.
#[derive(Clone)]
pub struct Events {
    queue: mpsc::Sender<Note>,
}

/// The name by which kubelets' events are known.
const COMPONENT: &str = "kubelet";

impl Events {
    /// Begins to send events as this node.
    #[must_use]
    pub fn start(client: Client, node: Arc<str>) -> Events {
        let (queue, notes) = mpsc::channel(QUEUE);
        tokio::spawn(send(client, node, notes));
        Events { queue }
    }

    fn note(
        &self,
        about: ObjectReference,
        namespace: &str,
        level: Level,
        reason: &'static str,
        message: String,
    ) {
        let note =
            Note { about, namespace: namespace.to_owned(), level, reason, message, at: Timestamp::now() };
        if self.queue.try_send(note).is_err() {
            tracing::debug!(reason, "an event was dropped: the server takes them too slowly");
        }
    }

    /// About a pod.
    pub fn pod(&self, pod: &Pod, level: Level, reason: &'static str, message: impl Into<String>) {
        self.note(reference(pod, None), spec::namespace(pod), level, reason, message.into());
    }

    /// About a container of a pod.
    pub fn container(
        &self,
        pod: &Pod,
        kind: ContainerKind,
        name: &str,
        level: Level,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let list = match kind {
            ContainerKind::Init => "initContainers",
            ContainerKind::Regular => "containers",
            ContainerKind::Ephemeral => "ephemeralContainers",
        };
        let field = format!("spec.{list}{{{name}}}");
        self.note(reference(pod, Some(field)), spec::namespace(pod), level, reason, message.into());
    }

    /// About the node itself.
    pub fn node(&self, name: &str, level: Level, reason: &'static str, message: impl Into<String>) {
        let about = ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(name.to_owned()),
            uid: Some(name.to_owned()),
            ..ObjectReference::default()
        };
        self.note(about, "default", level, reason, message.into());
    }
}

fn reference(pod: &Pod, field_path: Option<String>) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        resource_version: pod.metadata.resource_version.clone(),
        field_path,
    }
}

/// How often something happened, and the event that says so.
struct Seen {
    name: String,
    count: i32,
}

/// What may still be said about an object.
struct Allowance {
    left: f64,
    at: Timestamp,
}

impl Allowance {
    fn take(&mut self, now: Timestamp) -> bool {
        let passed = now.duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed / REFILL_SECONDS).min(BURST);
        self.at = now;
        let may = self.left >= 1.0;
        if may {
            self.left -= 1.0;
        }
        may
    }
}

async fn send(client: Client, node: Arc<str>, mut notes: mpsc::Receiver<Note>) {
    let mut seen: HashMap<(String, Option<String>, &'static str, String), Seen> = HashMap::new();
    let mut allowances: HashMap<String, Allowance> = HashMap::new();
    while let Some(note) = notes.recv().await {
        let about = format!("{:?}/{:?}", note.about.uid, note.about.name);
        if seen.len() > MAX_REMEMBERED {
            seen.clear();
        }
        if allowances.len() > MAX_REMEMBERED {
            allowances.clear();
        }
        let allowance = allowances.entry(about.clone()).or_insert(Allowance { left: BURST, at: note.at });
        if !allowance.take(note.at) {
            continue;
        }
        let key = (about, note.about.field_path.clone(), note.reason, note.message.clone());
        if let Err(error) = deliver(&client, &node, note, seen.get_mut(&key)).await.map(|new| {
            if let Some(new) = new {
                seen.insert(key, new);
            }
        }) {
            tracing::debug!(%error, "an event could not be sent");
        }
    }
}

async fn deliver(
    client: &Client,
    node: &str,
    note: Note,
    before: Option<&mut Seen>,
) -> Result<Option<Seen>, skep_client::Error> {
    let events = Resource::of::<Event>().at(Tenants::Own).namespace(&note.namespace);
    let at = note.at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    if let Some(before) = before {
        let patch = Patch::Strategic(json!({"count": before.count + 1, "lastTimestamp": at}));
        match client.patch_bytes(&events.clone().name(&before.name), &patch).await {
            Ok(_) => {
                before.count += 1;
                return Ok(None);
            }
            // It has expired: say it anew.
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e),
        }
    }
    let name = format!("{}.{:x}", note.about.name.as_deref().unwrap_or_default(), note.at.as_nanosecond());
    let event = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": name, "namespace": note.namespace},
        "involvedObject": note.about,
        "reason": note.reason, "message": note.message,
        "type": match note.level { Level::Normal => "Normal", Level::Warning => "Warning" },
        "source": {"component": COMPONENT, "host": node},
        "reportingComponent": COMPONENT, "reportingInstance": node,
        "firstTimestamp": at, "lastTimestamp": at, "count": 1,
    });
    client.create::<serde_json::Value>(&events, &event).await?;
    Ok(Some(Seen { name, count: 1 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_that_fails_for_ever_is_heard_now_and_then() {
        let at = |s: i64| Timestamp::from_second(s).unwrap();
        let mut a = Allowance { left: BURST, at: at(0) };
        assert_eq!((0..100).filter(|_| a.take(at(0))).count(), 25);
        assert!(!a.take(at(299)));
        assert!(a.take(at(300)));
        assert!(!a.take(at(301)));
        assert_eq!((0..100).filter(|_| a.take(at(1_000_000))).count(), 25);
    }
}
