//! Doing what pods call for, many at a time.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::Pod;
use rustc_hash::FxHashMap;
use serde_json::json;
use skep_base::TenantName;
use skep_client::{
    Client, DeleteParams, Error, Informer, Object, ObjectKey, Patch, Resource, Selection, Tenants,
};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::fleet::Fleet;
use crate::node::host_address;
use crate::pod::{Act, PodView};
use crate::{IN_FLIGHT, Pace, View};

/// After a request that failed.
const RETRY: Duration = Duration::from_secs(1);

type Busy = Pin<Box<dyn Future<Output = (ObjectKey, Act, Result<(), Error>)> + Send>>;

/// Pods by their node.
const BY_NODE: &str = "node";

/// What plays the kubelets.
pub(crate) struct Work {
    client: Client,
    pace: Pace,
    fleet: Arc<Fleet>,
    view: View,
    pods: Informer<PodView>,
    changed: mpsc::UnboundedReceiver<ObjectKey>,
    sender: mpsc::UnboundedSender<ObjectKey>,
    /// What is being done, or will be, about each pod.
    pending: FxHashMap<ObjectKey, (Box<str>, Act)>,
    timers: BTreeMap<(Instant, u64), ObjectKey>,
    timer: u64,
    address: u32,
}

/// By which others have pods looked at.
pub(crate) struct Handle {
    pods: Informer<PodView>,
    sender: mpsc::UnboundedSender<ObjectKey>,
}

impl Handle {
    /// A node is played from now on: what is on it already is to be looked at.
    pub(crate) fn look_at(&self, tenant: &TenantName, node: &str) {
        for pod in self.pods.by_index(BY_NODE, tenant, node) {
            // Nobody receives only when the loop is gone, and then nothing matters.
            let _ = self.sender.send(pod.key.clone());
        }
    }
}

impl Work {
    pub(crate) fn new(
        client: &Client,
        pace: &Pace,
        fleet: &Arc<Fleet>,
        view: View,
        looked_at: Tenants,
    ) -> Work {
        let selection = Selection::all(Resource::of::<Pod>(), looked_at);
        let mut pods = Informer::<PodView>::builder(client, selection);
        // Where nodes are there from the beginning, nobody asks by node.
        if matches!(**fleet, Fleet::Machines(_)) {
            pods = pods.index(BY_NODE, |pod, emit| pod.node().into_iter().for_each(emit));
        }
        let pods = pods.build();
        let (sender, changed) = mpsc::unbounded_channel::<ObjectKey>();
        let (own, told) = (fleet.clone(), sender.clone());
        pods.on_event(move |event| {
            let pod = event.object();
            if pod.node().is_some_and(|n| own.number(&pod.key.tenant, n).is_some()) {
                let _ = told.send(pod.key.clone());
            }
        });
        Work {
            client: client.clone(),
            pace: pace.clone(),
            fleet: fleet.clone(),
            view,
            pods,
            changed,
            sender,
            pending: FxHashMap::default(),
            timers: BTreeMap::new(),
            timer: 0,
            address: 0,
        }
    }

    pub(crate) fn handle(&self) -> Handle {
        Handle { pods: self.pods.clone(), sender: self.sender.clone() }
    }

    /// Plays the kubelets for ever.
    pub(crate) async fn run(mut self) {
        let pods = self.pods.clone();
        let mut busy: FuturesUnordered<Busy> = FuturesUnordered::new();
        let informing = pods.run();
        tokio::pin!(informing);
        loop {
            let next = self.timers.keys().next().map(|(at, _)| *at);
            let timer = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let free = busy.len() < IN_FLIGHT;
            tokio::select! {
                _ = &mut informing => return,
                Some((key, act, result)) = busy.next() => {
                    if let Some(work) = self.finished(key, act, result) {
                        busy.push(work);
                    }
                }
                () = timer, if free => {
                    if let Some((_, key)) = self.timers.pop_first()
                        && let Some(work) = self.work(&key) {
                        busy.push(work);
                    }
                }
                Some(key) = self.changed.recv(), if free => {
                    if let Some(work) = self.consider(key) {
                        busy.push(work);
                    }
                }
            }
        }
    }

    /// Looks at a pod that has changed.
    fn consider(&mut self, key: ObjectKey) -> Option<Busy> {
        let Some(pod) = self.pods.get(&key) else {
            self.pending.remove(&key);
            return None;
        };
        let (act, takes) = pod.next(&self.pace)?;
        if self.pending.get(&key).is_some_and(|(uid, pending)| *uid == pod.uid && *pending == act) {
            return None;
        }
        self.pending.insert(key.clone(), (pod.uid.clone(), act));
        if takes.is_zero() {
            return self.work(&key);
        }
        self.later(key, takes);
        None
    }

    fn later(&mut self, key: ObjectKey, after: Duration) {
        self.timer += 1;
        self.timers.insert((Instant::now() + after, self.timer), key);
    }

    /// Does what is pending, if it still is what is to be done.
    fn work(&mut self, key: &ObjectKey) -> Option<Busy> {
        let (uid, act) = self.pending.get(key)?.clone();
        let pod = self.pods.get(key).filter(|p| p.uid == uid)?;
        if pod.next(&self.pace).map(|(act, _)| act) != Some(act) {
            return None;
        }
        self.address = self.address.wrapping_add(1);
        let (client, pods, address) = (self.client.clone(), self.pods.clone(), self.address);
        let at =
            Resource::of::<Pod>().at(self.view.of(&key.tenant)).namespace(&key.namespace).name(&key.name);
        let node = pod.node().and_then(|n| self.fleet.number(&key.tenant, n)).unwrap_or(0);
        Some(Box::pin(async move {
            let result = perform(&client, &pods, &pod, act, at, address, node).await;
            (pod.key.clone(), act, result)
        }))
    }

    fn finished(&mut self, key: ObjectKey, act: Act, result: Result<(), Error>) -> Option<Busy> {
        match result {
            // Whatever holds it back (finalizers) is not ours: it stays noted as removed until it is gone.
            Ok(()) if act == Act::Remove => None,
            Ok(()) => {
                self.pending.remove(&key);
                self.consider(key)
            }
            Err(e) if e.is_not_found() => {
                self.pending.remove(&key);
                None
            }
            Err(error) => {
                tracing::warn!(pod = %key, ?act, %error, "the pod was not written, it will be tried again");
                self.later(key, RETRY);
                None
            }
        }
    }
}

async fn perform(
    client: &Client,
    pods: &Informer<PodView>,
    pod: &Arc<Object<PodView>>,
    act: Act,
    at: skep_client::ObjectPath,
    address: u32,
    node: usize,
) -> Result<(), Error> {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let status = match act {
        Act::Remove => {
            let removed = client.remove(&at, &DeleteParams::uid(&pod.uid).grace_s(0)).await?;
            if removed.pending().is_none() {
                pods.forget(&pod.key, &pod.uid);
            }
            return Ok(());
        }
        Act::Start => {
            let [_, b, c, d] = address.to_be_bytes();
            pod.running(&now, &format!("10.{b}.{c}.{d}"), &host_address(node))
        }
        Act::End(code) => pod.ended(&now, code),
    };
    let patch = Patch::Merge(json!({"metadata": {"uid": &*pod.uid}, "status": status}));
    let answer = client.patch_bytes(&at.subresource("status"), &patch).await?;
    pods.record(&pod.key.tenant, &answer)
}
