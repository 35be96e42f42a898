//! The old Endpoints of services.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, ObjectReference};
use serde::Deserialize;
use serde_json::json;
use skep_client::{DeleteParams, Event, Informer, Object, ObjectKey, Patch, Resource};
use skep_plan::Labels;

use super::{HEADLESS, belongs, find_port, follow_pods, selected, sets_hostname, slices::follow_services};
use crate::views::{Pod, Service, or_default};
use crate::{Controller, Kind, Next, Setup, SyncError};

const NAME: &str = "endpoints-controller";
/// Says who keeps Endpoints.
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Most addresses in an Endpoints, as upstream: it is written whole for each change.
const MAX_ADDRESSES: usize = 1000;

/// An Endpoints object.
#[derive(Debug, Deserialize)]
pub(super) struct Endpoints {
    #[serde(default)]
    pub(super) metadata: EndpointsMeta,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) subsets: Vec<EndpointSubset>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct EndpointsMeta {
    #[serde(deserialize_with = "or_default")]
    pub(super) labels: Labels,
    #[serde(deserialize_with = "or_default")]
    pub(super) annotations: BTreeMap<String, String>,
}

impl Kind for Endpoints {
    const RESOURCE: Resource = Resource::of::<k8s_openapi::api::core::v1::Endpoints>();
}

struct Controllers {
    services: Informer<Service>,
    pods: Informer<Pod>,
    endpoints: Informer<Endpoints>,
}

/// Makes the controller.
pub(crate) fn new(setup: &mut Setup) -> Arc<dyn Controller> {
    let controller =
        Controllers { services: setup.informer(), pods: setup.informer(), endpoints: setup.informer() };
    let enqueue = setup.enqueue(NAME);
    follow_pods(&controller.pods, &controller.services, &enqueue);
    follow_services(&controller.services, &enqueue);
    let services = controller.services.clone();
    controller.endpoints.on_event(move |event| {
        let endpoints = event.object();
        // Those of no service are somebody's own, unless they were made here and left behind.
        let concerns = match event {
            Event::Added(_) => is_managed(endpoints) && services.get(&endpoints.key).is_none(),
            _ => is_managed(endpoints) || services.get(&endpoints.key).is_some(),
        };
        if concerns {
            enqueue.event(event);
        }
    });
    setup.resync(NAME, &controller.services);
    Arc::new(controller)
}

fn is_managed(endpoints: &Endpoints) -> bool {
    endpoints.metadata.labels.get(MANAGED_BY) == Some(MANAGER)
}

/// Puts addresses that have the same ports into one subset, in an order that depends on nothing but them.
fn pack(all: Vec<(EndpointAddress, bool, Vec<EndpointPort>)>) -> Vec<EndpointSubset> {
    type Place = (String, String);
    type Port = (Option<String>, i32, Option<String>, Option<String>);
    let place = |a: &EndpointAddress| -> Place {
        (a.ip.clone(), a.target_ref.as_ref().and_then(|t| t.uid.clone()).unwrap_or_default())
    };
    let mut by_ports: BTreeMap<Vec<Port>, EndpointSubset> = BTreeMap::new();
    for (address, ready, mut ports) in all {
        ports.sort_by(|a, b| (&a.name, a.port, &a.protocol).cmp(&(&b.name, b.port, &b.protocol)));
        let key = ports
            .iter()
            .map(|p| (p.name.clone(), p.port, p.protocol.clone(), p.app_protocol.clone()))
            .collect();
        let subset = by_ports.entry(key).or_default();
        subset.ports = (!ports.is_empty()).then_some(ports);
        let list = if ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        list.get_or_insert_default().push(address);
    }
    let mut subsets: Vec<_> = by_ports.into_values().collect();
    for subset in &mut subsets {
        for list in [&mut subset.addresses, &mut subset.not_ready_addresses].into_iter().flatten() {
            list.sort_by_key(place);
        }
    }
    subsets
}

/// Cuts off what is above the limit, the addresses that are not ready first. Returns whether there was anything.
fn truncate(subsets: &mut [EndpointSubset]) -> bool {
    let count = |list: &Option<Vec<EndpointAddress>>| list.as_ref().map_or(0, Vec::len);
    let total: usize = subsets.iter().map(|s| count(&s.addresses) + count(&s.not_ready_addresses)).sum();
    let mut room = MAX_ADDRESSES;
    let mut cut = |list: &mut Option<Vec<EndpointAddress>>| {
        if let Some(addresses) = list {
            addresses.truncate(room);
            room -= addresses.len();
            if addresses.is_empty() {
                *list = None;
            }
        }
    };
    if total > MAX_ADDRESSES {
        subsets.iter_mut().for_each(|s| cut(&mut s.addresses));
        subsets.iter_mut().for_each(|s| cut(&mut s.not_ready_addresses));
    }
    total > MAX_ADDRESSES
}

fn subsets(service: &Object<Service>, pods: &[Arc<Object<Pod>>]) -> Vec<EndpointSubset> {
    let early = service.spec.publish_not_ready_addresses;
    let v6 = match service.spec.ip_families.first() {
        Some(family) => *family == "IPv6",
        None => service.spec.cluster_ip.as_deref().is_some_and(|ip| ip.contains(':')),
    };
    let mut all = Vec::new();
    for pod in pods.iter().filter(|p| belongs(p, early)) {
        let Some(ip) = pod.ips.iter().find(|ip| ip.is_ipv6() == v6) else {
            continue;
        };
        if service.spec.ports.is_empty() && !service.is_headless() {
            continue;
        }
        let ports: Vec<EndpointPort> = service
            .spec
            .ports
            .iter()
            .filter_map(|p| {
                Some(EndpointPort {
                    name: (!p.name.is_empty()).then(|| p.name.to_string()),
                    port: find_port(pod, p)?,
                    protocol: Some(p.protocol.to_string()),
                    app_protocol: p.app_protocol.as_ref().map(|a| a.to_string()),
                })
            })
            .collect();
        if ports.is_empty() && !service.spec.ports.is_empty() {
            continue;
        }
        let address = EndpointAddress {
            ip: ip.to_string(),
            hostname: sets_hostname(pod, &service.key).then(|| pod.hostname.to_string()),
            node_name: (!pod.node().is_empty()).then(|| pod.node().to_owned()),
            target_ref: Some(ObjectReference {
                kind: Some("Pod".to_owned()),
                namespace: Some(pod.key.namespace.to_string()),
                name: Some(pod.key.name.to_string()),
                uid: Some(pod.uid.to_string()),
                ..ObjectReference::default()
            }),
        };
        all.push((address, pod.is_ready() || early, ports));
    }
    pack(all)
}

impl Controllers {
    async fn look(&self, key: &ObjectKey) -> Result<Next, SyncError> {
        let Some(service) = self.services.get(key) else {
            // Garbage collection does not know these: they have no owner reference. Those made by hand go with their
            // service too.
            if let Some(left) = self.endpoints.get(key)
                && !left.metadata.annotations.contains_key(super::mirror::LEADER)
            {
                self.endpoints.remove(&left, &DeleteParams::default()).await?;
            }
            return Ok(Next::Wait);
        };
        if !service.selects_pods() {
            return Ok(Next::Wait);
        }
        let mut subsets = subsets(&service, &selected(&self.pods, &service));
        let truncated = truncate(&mut subsets);
        let mut labels = service.metadata.labels.without(HEADLESS).with(MANAGED_BY, MANAGER);
        if !service.has_ip() {
            labels = labels.with(HEADLESS, "");
        }
        let at = Endpoints::RESOURCE.at(&key.tenant).namespace(&key.namespace);
        match self.endpoints.get(key) {
            None if service.metadata.deletion_timestamp.is_some() => {}
            None => {
                let annotations = truncated.then(|| json!({OVER_CAPACITY: "truncated"}));
                let new = json!({
                    "metadata": {"name": &*key.name, "namespace": &*key.namespace, "labels": labels, "annotations": annotations},
                    "subsets": subsets,
                });
                self.endpoints.create(&at, &new).await?;
            }
            Some(old) => {
                let marked = old.metadata.annotations.contains_key(OVER_CAPACITY);
                if old.subsets == subsets && old.metadata.labels == labels && marked == truncated {
                    return Ok(Next::Wait);
                }
                let mut wanted = json!(labels);
                for (k, _) in old.metadata.labels.iter().filter(|(k, _)| labels.get(k).is_none()) {
                    wanted[k] = serde_json::Value::Null;
                }
                let patch = json!({
                    "metadata": {
                        "resourceVersion": old.revision.to_string(),
                        "labels": wanted,
                        "annotations": {OVER_CAPACITY: truncated.then_some("truncated")},
                    },
                    "subsets": subsets,
                });
                self.endpoints.patch(&at.name(&key.name), &Patch::Merge(patch)).await?;
            }
        }
        Ok(Next::Wait)
    }
}

impl Controller for Controllers {
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

    fn address(n: usize) -> EndpointAddress {
        EndpointAddress { ip: format!("10.0.{}.{}", n / 250, n % 250), ..EndpointAddress::default() }
    }

    fn port(n: i32) -> Vec<EndpointPort> {
        vec![EndpointPort { port: n, ..EndpointPort::default() }]
    }

    #[test]
    fn addresses_with_equal_ports_share_a_subset() {
        let packed = pack(vec![
            (address(3), true, port(1)),
            (address(2), false, port(1)),
            (address(1), true, port(1)),
            (address(4), true, port(2)),
        ]);
        assert_eq!(packed.len(), 2);
        let first: Vec<_> = packed[0].addresses.as_ref().unwrap().iter().map(|a| &*a.ip).collect();
        assert_eq!(first, ["10.0.0.1", "10.0.0.3"]);
        assert_eq!(packed[0].not_ready_addresses.as_ref().unwrap().len(), 1);
        assert_eq!(packed[1].addresses.as_ref().unwrap()[0].ip, "10.0.0.4");
    }

    #[test]
    fn those_not_ready_are_cut_first() {
        let all = (0..1100).map(|n| (address(n), n >= 300, port(1))).collect();
        let mut subsets = pack(all);
        assert!(truncate(&mut subsets));
        assert_eq!(subsets[0].addresses.as_ref().unwrap().len(), 800);
        assert_eq!(subsets[0].not_ready_addresses.as_ref().unwrap().len(), 200);
        assert!(!truncate(&mut subsets));
    }
}
