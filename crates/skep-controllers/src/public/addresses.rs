//! Says of each public address where it leads.

use std::collections::HashSet;
use std::sync::Arc;

use futures::future::BoxFuture;
use jiff::Timestamp;
use serde_json::json;
use skep_api::network::PublicPort;
use skep_client::{Event, Informer, Level, Object, ObjectKey, Patch};

use super::plan::{self, Binding, Candidate, NodeView};
use super::views::{BY_SERVICE, Balancer, PublicIp, PublicStatus, by_service};
use crate::endpoints::SERVICE_NAME;
use crate::endpoints::slices::{BY_SERVICE as SLICES_BY_SERVICE, Slice, by_service as slices_of};
use crate::views::{BY_NAMESPACE, Node, Pod};
use crate::{Controller, Enqueue, Kind, Next, Setup, SyncError};

const NAME: &str = "public-addresses";
/// A node with this label is left out, as upstream.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
const BOUND: &str = "Bound";

struct Addresses {
    publics: Informer<PublicIp>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    services: Informer<Balancer>,
    slices: Informer<Slice>,
}

/// Makes the controller.
pub(super) fn new(setup: &mut Setup) -> Arc<dyn Controller> {
    let controller = Addresses {
        publics: setup.informer(),
        pods: setup.informer(),
        nodes: setup.informer(),
        services: setup.informer(),
        slices: setup.informer(),
    };
    let enqueue = setup.enqueue(NAME);
    let e = enqueue.clone();
    controller.publics.on_event(move |event| {
        if !matches!(event, Event::Changed { old, new } if old.view == new.view) {
            e.event(event);
        }
    });
    let (publics, e) = (controller.publics.clone(), enqueue.clone());
    controller.pods.on_event(move |event| follow_pod(event, &publics, &e));
    let (publics, e) = (controller.publics.clone(), enqueue.clone());
    controller.services.on_event(move |event| of_service(&event.object().key, &publics, &e));
    let (publics, e) = (controller.publics.clone(), enqueue.clone());
    controller.slices.on_event(move |event| {
        let slice = event.object();
        if let Some(name) = slice.metadata.labels.get(SERVICE_NAME) {
            of_service(&ObjectKey::new(&slice.key.tenant, &slice.key.namespace, name), &publics, &e);
        }
    });
    let publics = controller.publics.clone();
    controller.nodes.on_event(move |event| {
        if matches!(event, Event::Changed { old, new } if serves(old) == serves(new)) {
            return;
        }
        for public in publics.of_tenant(&event.object().key.tenant) {
            if public.spec.service_name.is_some() {
                enqueue.add(&public.key, Level::Update);
            }
        }
    });
    setup.resync(NAME, &controller.publics);
    Arc::new(controller)
}

/// Whether a node can serve, and whether it is to.
fn serves(node: &Node) -> (bool, bool) {
    let ready = node.status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
    let excluded = node.metadata.labels.get(EXCLUDED).is_some() || node.metadata.deletion_timestamp.is_some();
    (ready, excluded)
}

fn of_service(service: &ObjectKey, publics: &Informer<PublicIp>, enqueue: &Enqueue) {
    let name = by_service(&service.namespace, &service.name);
    for public in publics.by_index(BY_SERVICE, &service.tenant, &name) {
        enqueue.add(&public.key, Level::Update);
    }
}

fn is_for(public: &PublicIp, pod: &Object<Pod>) -> bool {
    let named = public.spec.pod_name.as_deref() == Some(&*pod.key.name);
    named || public.spec.pod_selector.as_ref().is_some_and(|s| pod.labels().contains_all(s))
}

fn follow_pod(event: &Event<Pod>, publics: &Informer<PublicIp>, enqueue: &Enqueue) {
    let pod = event.object();
    let of_namespace = publics.by_index(BY_NAMESPACE, &pod.key.tenant, &pod.key.namespace);
    if of_namespace.is_empty() {
        return;
    }
    let old = match event {
        Event::Changed { old, new } if candidate(old) == candidate(new) && old.labels() == new.labels() => {
            return;
        }
        Event::Changed { old, .. } => Some(old),
        _ => None,
    };
    for public in of_namespace {
        if is_for(&public, pod) || old.is_some_and(|old| is_for(&public, old)) {
            enqueue.add(&public.key, Enqueue::level(event));
        }
    }
}

fn candidate(pod: &Object<Pod>) -> Candidate {
    Candidate {
        name: pod.key.name.to_string(),
        uid: pod.uid.to_string(),
        node: pod.node().to_owned(),
        created: pod.plan.created.map(skep_plan::Time::timestamp),
        ready: pod.is_ready(),
        deleting: pod.is_deleting(),
        over: pod.is_over(),
    }
}

impl Addresses {
    async fn look(&self, key: &ObjectKey) -> Result<Next, SyncError> {
        let Some(public) = self.publics.get(key).filter(|p| !p.is_deleting()) else { return Ok(Next::Wait) };
        let binding = self.binding(&public);
        let status = wanted(&public.status, &binding, Timestamp::now());
        if status == public.status {
            return Ok(Next::Wait);
        }
        let at = PublicIp::RESOURCE.at(&key.tenant).namespace(&key.namespace).name(&key.name);
        let patch = json!({"metadata": {"uid": &*public.uid}, "status": written(&status)});
        self.publics.patch(&at.subresource("status"), &Patch::Merge(patch)).await?;
        Ok(Next::Wait)
    }

    fn binding(&self, public: &Object<PublicIp>) -> Binding {
        let (key, spec, status) = (&public.key, &public.spec, &public.status);
        if let Some(name) = &spec.service_name {
            return self.of_service(key, name, &spec.address, status.node_name.as_deref());
        }
        let pods = match (&spec.pod_name, &spec.pod_selector) {
            (Some(name), _) => {
                let key = ObjectKey::new(&key.tenant, &key.namespace, name);
                self.pods.get(&key).into_iter().collect()
            }
            (None, Some(_)) => {
                let mut all = self.pods.by_index(BY_NAMESPACE, &key.tenant, &key.namespace);
                all.retain(|pod| is_for(public, pod));
                all
            }
            (None, None) => return Binding::nowhere("NotAsked", "it names no pod and no service"),
        };
        let candidates: Vec<Candidate> = pods.iter().map(|p| candidate(p)).collect();
        plan::pod(&candidates, status.pod_uid.as_deref())
    }

    fn of_service(&self, key: &ObjectKey, name: &str, address: &str, holder: Option<&str>) -> Binding {
        let at = ObjectKey::new(&key.tenant, &key.namespace, name);
        let Some(service) = self.services.get(&at).filter(|s| s.is_ours()) else {
            let why = format!(
                "there is no service {name:?} of the type LoadBalancer that asks for an address from here"
            );
            return Binding::nowhere("ServiceNotFound", why);
        };
        let slices = self.slices.by_index(SLICES_BY_SERVICE, &key.tenant, &slices_of(&key.namespace, name));
        let endpoints = slices.iter().flat_map(|s| &s.endpoints);
        let serving = endpoints.filter(|e| {
            let said = e.conditions.as_ref();
            // As on the nodes: those that are ending but still answer count while nobody else is there.
            let ready = said.and_then(|c| c.ready).unwrap_or(true);
            ready || said.and_then(|c| c.serving).unwrap_or(false)
        });
        let with: HashSet<&str> = serving.filter_map(|e| e.node_name.as_deref()).collect();
        let nodes: Vec<NodeView> = self
            .nodes
            .of_tenant(&key.tenant)
            .iter()
            .map(|node| {
                let (ready, excluded) = serves(node);
                let name = node.key.name.to_string();
                NodeView { has_endpoint: with.contains(name.as_str()), name, ready, excluded }
            })
            .collect();
        let port = |p: &super::views::BalancerPort| PublicPort {
            protocol: p.protocol.as_deref().unwrap_or("TCP").to_owned(),
            port: p.port,
        };
        let ports = service.spec.ports.iter().map(port).collect();
        plan::service(&nodes, service.is_local(), address, holder, ports, service.sources())
    }
}

/// What a status is to say.
fn wanted(old: &PublicStatus, binding: &Binding, now: Timestamp) -> PublicStatus {
    let status = if binding.is_bound() { "True" } else { "False" };
    let mut conditions = old.conditions.clone();
    conditions.retain(|c| c.r#type != BOUND);
    let before = old.conditions.iter().find(|c| c.r#type == BOUND && c.status == status);
    // To the second, as it is written.
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    conditions.push(super::views::ConditionView {
        r#type: BOUND.to_owned(),
        status: status.to_owned(),
        reason: binding.reason.to_owned(),
        message: binding.message.clone(),
        last_transition_time: before.and_then(|c| c.last_transition_time).or(Some(now)),
    });
    PublicStatus {
        phase: Some(if binding.is_bound() { "Bound" } else { "Free" }.to_owned()),
        node_name: binding.node.clone(),
        pod_name: binding.pod.as_ref().map(|(name, _)| name.clone()),
        pod_uid: binding.pod.as_ref().map(|(_, uid)| uid.clone()),
        ports: binding.ports.clone(),
        source_ranges: binding.sources.clone(),
        conditions,
    }
}

fn written(status: &PublicStatus) -> serde_json::Value {
    let conditions: Vec<_> = status
        .conditions
        .iter()
        .map(|c| {
            json!({"type": c.r#type, "status": c.status, "reason": c.reason, "message": c.message,
                   "lastTransitionTime": c.last_transition_time})
        })
        .collect();
    json!({
        "phase": status.phase, "nodeName": status.node_name, "podName": status.pod_name, "podUid": status.pod_uid,
        "ports": status.ports, "sourceRanges": status.source_ranges, "conditions": conditions,
    })
}

impl Controller for Addresses {
    fn name(&self) -> &'static str {
        NAME
    }

    fn sync<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Next, SyncError>> {
        Box::pin(self.look(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_written_once() {
        let binding = plan::pod(
            &[Candidate { name: "p".into(), uid: "u".into(), node: "n".into(), ..Candidate::default() }],
            None,
        );
        let at = |s| Timestamp::from_second(s).unwrap();
        let first = wanted(&PublicStatus::default(), &binding, at(100));
        let read: PublicStatus = serde_json::from_value(written(&first)).unwrap();
        assert_eq!(read, first, "what is written is what is read");
        assert_eq!(wanted(&read, &binding, at(200)), read);
        let free = wanted(&read, &Binding::nowhere("PodNotFound", "none"), at(300));
        assert_eq!((free.phase.as_deref(), free.node_name.as_deref()), (Some("Free"), None));
        assert_eq!(free.conditions[0].last_transition_time, Some(at(300)));
    }
}
