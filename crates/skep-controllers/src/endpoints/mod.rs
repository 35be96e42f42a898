//! Where a service's traffic goes: its EndpointSlices, its (old) Endpoints, and slices that mirror Endpoints made by hand.

pub(crate) mod mirror;
pub(crate) mod slice_plan;
pub(crate) mod slices;
pub(crate) mod subsets;

use skep_client::{Event, Informer, Level, Object, ObjectKey};

use crate::Enqueue;
use crate::views::{BY_NAMESPACE, Pod, Service, ServicePort, TargetPort};

/// The label that names a slice's service.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label that says who keeps a slice.
pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Marks slices and Endpoints of services without an address.
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";

/// The port of a pod that a service's port leads to.
fn find_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let name = match &port.target_port {
        TargetPort::Number(number) => return Some(*number),
        TargetPort::Name(name) => name,
    };
    pod.template
        .running()
        .flat_map(|c| &c.ports)
        .find(|p| p.name.as_deref() == Some(name) && p.protocol.as_deref() == Some(&port.protocol))
        .map(|p| p.container_port)
}

/// Whether the pod belongs into endpoints at all.
fn belongs(pod: &Pod, with_terminating: bool) -> bool {
    !pod.is_over() && !pod.ips.is_empty() && (with_terminating || !pod.is_deleting())
}

/// Whether the endpoint has the pod's hostname.
fn sets_hostname(pod: &Object<Pod>, service: &ObjectKey) -> bool {
    !pod.hostname.is_empty() && *pod.subdomain == *service.name
}

/// Whether a change of a pod means anything for endpoints.
fn matters(old: &Pod, new: &Pod) -> bool {
    old.labels() != new.labels()
        || old.hostname != new.hostname
        || old.subdomain != new.subdomain
        || old.node() != new.node()
        || old.is_deleting() != new.is_deleting()
        || old.is_ready() != new.is_ready()
        || old.is_over() != new.is_over()
        || old.ips != new.ips
}

/// Has the services that select a pod looked at when it changes in a way that matters to them.
fn follow_pods(pods: &Informer<Pod>, services: &Informer<Service>, enqueue: &Enqueue) {
    let (services, enqueue) = (services.clone(), enqueue.clone());
    pods.on_event(move |event| {
        let (old, new, level) = match event {
            Event::Added(new) => (None, Some(new), Level::Update),
            Event::Changed { old, new } if matters(old, new) => (Some(old), Some(new), Level::Update),
            Event::Changed { .. } => return,
            Event::Deleted(old) => (Some(old), None, Level::Delete),
        };
        let key = &event.object().key;
        for service in services.by_index(BY_NAMESPACE, &key.tenant, &key.namespace) {
            let selects =
                |pod: Option<&std::sync::Arc<Object<Pod>>>| pod.is_some_and(|p| service.selects(p.labels()));
            if selects(old) || selects(new) {
                enqueue.add(&service.key, level);
            }
        }
    });
}

/// The pods that a service selects, by name.
fn selected(pods: &Informer<Pod>, service: &Object<Service>) -> Vec<std::sync::Arc<Object<Pod>>> {
    let key = &service.key;
    let mut all = pods.by_index(BY_NAMESPACE, &key.tenant, &key.namespace);
    all.retain(|pod| service.selects(pod.labels()));
    all.sort_by(|a, b| a.key.name.cmp(&b.key.name));
    all
}
