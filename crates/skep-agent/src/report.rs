//! Tells the API server what became of a pod: only what changed, the newest state only, and again until it is heard.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Map, Value, json};
use skep_client::{Client, DeleteParams, ErrorKind, ObjectPath, Patch, Resource, Tenants};
use tokio::sync::watch;

use crate::mirrors::MirrorUid;

/// First and longest pause after a server that does not take a status.
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// A status and what is to be done when it has been heard.
#[derive(Clone, Debug, Default)]
struct Wanted {
    status: Option<Arc<PodStatus>>,
    /// Everything on this node is gone: the object may go too.
    delete: bool,
}

/// Reports about one pod. Dropping it ends the reporting.
pub struct Reporter {
    wanted: watch::Sender<Wanted>,
    gone: watch::Receiver<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Where a pod is.
#[must_use]
pub fn path(pod: &Pod) -> ObjectPath {
    Resource::of::<Pod>().at(Tenants::Own).namespace(crate::spec::namespace(pod)).name(crate::spec::name(pod))
}

impl Reporter {
    /// Begins to report about a pod. What the server has of a static pod is its mirror, which comes and goes without the pod.
    #[must_use]
    pub fn start(client: Client, pod: &Pod, mirror: Option<MirrorUid>) -> Reporter {
        let (wanted, want) = watch::channel(Wanted::default());
        let (is_gone, gone) = watch::channel(false);
        let known = Arc::new(pod.status.clone().unwrap_or_default());
        let uid = crate::spec::uid(pod).to_owned();
        let at = path(pod);
        let task = match mirror {
            None => tokio::spawn(run(client, at, uid, known, want, is_gone)),
            Some(mirror) => tokio::spawn(run_mirror(client, at, mirror, want)),
        };
        Reporter { wanted, gone, task }
    }

    /// This is the status now.
    pub fn set(&self, status: Arc<PodStatus>) {
        self.wanted.send_if_modified(|w| {
            let changed = w.status.as_ref().is_none_or(|old| *old != status);
            if changed {
                w.status = Some(status);
            }
            changed
        });
    }

    /// The object may go, once the last status has been heard.
    pub fn delete(&self) {
        self.wanted.send_if_modified(|w| !std::mem::replace(&mut w.delete, true));
    }

    /// Whether the server has said that there is no such pod.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        *self.gone.borrow()
    }

    /// Returns when the server has no such pod.
    pub async fn gone(&self) {
        if self.gone.clone().wait_for(|gone| *gone).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn run(
    client: Client,
    at: ObjectPath,
    uid: String,
    mut known: Arc<PodStatus>,
    mut want: watch::Receiver<Wanted>,
    is_gone: watch::Sender<bool>,
) {
    let mut pause = RETRY_MIN;
    let mut forced = false;
    loop {
        let wanted = want.borrow_and_update().clone();
        // On the heap while it is needed: there is seldom anything to say.
        let outcome = Box::pin(once(&client, &at, &uid, &mut known, &wanted, forced)).await;
        match outcome {
            Ok(gone) => {
                pause = RETRY_MIN;
                forced = false;
                if gone {
                    is_gone.send_replace(true);
                    // Whoever waits must still be able to see it.
                    is_gone.closed().await;
                    return;
                }
                if want.changed().await.is_err() {
                    return;
                }
            }
            Err(error) => {
                // What the server has is no longer certain: say everything.
                forced = true;
                tracing::debug!(pod = %at, %error, "the pod's status was not taken; it will be sent again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_MAX);
            }
        }
    }
}

/// Keeps the status of whatever mirror there is.
async fn run_mirror(
    client: Client,
    at: ObjectPath,
    mut mirror: MirrorUid,
    mut want: watch::Receiver<Wanted>,
) {
    let mut pause = RETRY_MIN;
    let mut known = Arc::<PodStatus>::default();
    let mut told = None;
    loop {
        let uid = mirror.borrow_and_update().clone();
        let wanted = want.borrow_and_update().clone();
        if let Some(uid) = &uid {
            // A new mirror knows nothing yet.
            let forced = told.as_ref() != Some(uid);
            match Box::pin(once(&client, &at, uid, &mut known, &wanted, forced)).await {
                Ok(false) => {
                    told = Some(uid.clone());
                    pause = RETRY_MIN;
                }
                // It has just been deleted, which the node will soon hear.
                Ok(true) => told = None,
                Err(error) => {
                    told = None;
                    tracing::debug!(pod = %at, %error, "the pod's status was not taken; it will be sent again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                    continue;
                }
            }
        }
        tokio::select! {
            changed = mirror.changed() => if changed.is_err() { return },
            changed = want.changed() => if changed.is_err() { return },
        }
    }
}

/// Says what is new; answers whether the pod is gone.
async fn once(
    client: &Client,
    at: &ObjectPath,
    uid: &str,
    known: &mut Arc<PodStatus>,
    wanted: &Wanted,
    forced: bool,
) -> Result<bool, skep_client::Error> {
    if let Some(status) = &wanted.status {
        let before = if forced { Arc::default() } else { known.clone() };
        if let Some(patch) = status_patch(&before, status, uid) {
            match client.patch_bytes(&at.clone().subresource("status"), &Patch::Strategic(patch)).await {
                Ok(_) => *known = status.clone(),
                Err(e) => return gone_or(e),
            }
        }
    }
    if wanted.delete {
        return match client.remove(at, &DeleteParams::uid(uid).grace_s(0)).await {
            // A finalizer may still hold it.
            Ok(removed) => Ok(removed.pending().is_none()),
            Err(e) => gone_or(e),
        };
    }
    Ok(false)
}

fn gone_or(error: skep_client::Error) -> Result<bool, skep_client::Error> {
    match error.kind() {
        ErrorKind::NotFound => Ok(true),
        // Another pod has the name, which has another uid.
        ErrorKind::Conflict => Ok(true),
        _ => Err(error),
    }
}

/// A strategic merge patch from one status to another; nothing when they are the same.
#[must_use]
pub fn status_patch(old: &PodStatus, new: &PodStatus, uid: &str) -> Option<Value> {
    let (Ok(Value::Object(old)), Ok(Value::Object(new))) =
        (serde_json::to_value(old), serde_json::to_value(new))
    else {
        return None;
    };
    let mut changes = Map::new();
    for (key, value) in &new {
        let before = old.get(key);
        if before == Some(value) {
            continue;
        }
        let change = match key.as_str() {
            "conditions" => conditions_patch(before, value),
            // Lists that merge by address: replace them, or old addresses stay.
            "podIPs" | "hostIPs" => {
                let mut list = vec![json!({"$patch": "replace"})];
                list.extend(value.as_array().into_iter().flatten().cloned());
                Value::Array(list)
            }
            _ => value.clone(),
        };
        changes.insert(key.clone(), change);
    }
    for key in old.keys().filter(|k| !new.contains_key(*k)) {
        changes.insert(key.clone(), Value::Null);
    }
    (!changes.is_empty()).then(|| json!({"metadata": {"uid": uid}, "status": changes}))
}

/// Only the conditions that changed: others belong to others, who may be changing them now.
fn conditions_patch(old: Option<&Value>, new: &Value) -> Value {
    let list = |v: Option<&Value>| v.and_then(Value::as_array).cloned().unwrap_or_default();
    let (old, new) = (list(old), list(Some(new)));
    let mut changed: Vec<Value> = Vec::new();
    for condition in &new {
        let before = old.iter().find(|c| c["type"] == condition["type"]);
        if before == Some(condition) {
            continue;
        }
        let mut condition = condition.clone();
        // Fields that are no longer there must be said to be so.
        for key in ["reason", "message"] {
            if before.is_some_and(|b| b.get(key).is_some()) && condition.get(key).is_none() {
                condition[key] = Value::Null;
            }
        }
        changed.push(condition);
    }
    // Those that this agent no longer has: they are not in the status because it took them out.
    for gone in old.iter().filter(|c| new.iter().all(|n| n["type"] != c["type"])) {
        if [crate::resize::PENDING, crate::resize::IN_PROGRESS].iter().any(|kind| gone["type"] == **kind) {
            changed.push(json!({"$patch": "delete", "type": gone["type"]}));
        }
    }
    Value::Array(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(value: Value) -> PodStatus {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn only_what_changed_is_said() {
        let old = status(
            json!({"phase": "Pending", "podIP": "1", "podIPs": [{"ip": "1"}], "reason": "x", "conditions": [
            {"type": "Ready", "status": "False", "reason": "r", "message": "m"}, {"type": "PodScheduled", "status": "True"}]}),
        );
        assert_eq!(status_patch(&old, &old, "u"), None);
        let new = status(json!({"phase": "Running", "podIP": "2", "podIPs": [{"ip": "2"}], "conditions": [
            {"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "True"}]}));
        assert_eq!(
            status_patch(&old, &new, "u").unwrap(),
            json!({"metadata": {"uid": "u"}, "status": {"phase": "Running", "podIP": "2", "reason": null,
                "podIPs": [{"$patch": "replace"}, {"ip": "2"}],
                "conditions": [{"type": "Ready", "status": "True", "reason": null, "message": null}]}})
        );
    }
}
