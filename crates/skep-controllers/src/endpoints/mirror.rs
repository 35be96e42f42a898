//! EndpointSlices that mirror Endpoints made by hand, for services that select no pods.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort};
use skep_client::{Informer, ObjectKey};

use super::slice_plan;
use super::slices::{Slice, SliceOwner, follow_services, follow_slice};
use super::subsets::Endpoints;
use super::{MANAGED_BY, SERVICE_NAME};
use crate::views::Service;
use crate::{Controller, Next, Setup, SyncError};

const NAME: &str = "endpointslice-mirroring-controller";
const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
/// Endpoints with this label, `true`, are not mirrored.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Endpoints with this annotation are a leader election's, not a service's.
pub(super) const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// What is not carried over.
const OWN_ANNOTATIONS: [&str; 2] =
    ["endpoints.kubernetes.io/last-change-trigger-time", "kubectl.kubernetes.io/last-applied-configuration"];
/// Most addresses that are mirrored of one subset, as upstream.
const MAX_PER_SUBSET: usize = 1000;

struct Mirror {
    services: Informer<Service>,
    endpoints: Informer<Endpoints>,
    slices: Informer<Slice>,
}

/// Makes the controller.
pub(crate) fn new(setup: &mut Setup) -> Arc<dyn Controller> {
    let controller =
        Mirror { services: setup.informer(), endpoints: setup.informer(), slices: setup.informer() };
    let enqueue = setup.enqueue(NAME);
    follow_services(&controller.services, &enqueue);
    let by_hand = enqueue.clone();
    controller.endpoints.on_event(move |event| by_hand.event(event));
    controller.slices.on_event(move |event| follow_slice(event, MANAGER, &enqueue));
    Arc::new(controller)
}

type Groups = Vec<(Vec<EndpointPort>, Vec<Endpoint>)>;

/// The endpoints of each address type, by ports.
fn desired(subsets: &[EndpointSubset]) -> BTreeMap<&'static str, Groups> {
    let mut all: BTreeMap<&'static str, Groups> = BTreeMap::new();
    for subset in subsets {
        let mut ports: Vec<EndpointPort> = subset
            .ports
            .iter()
            .flatten()
            .map(|p| EndpointPort {
                name: Some(p.name.clone().unwrap_or_default()),
                port: Some(p.port),
                protocol: p.protocol.clone(),
                app_protocol: p.app_protocol.clone(),
            })
            .collect();
        slice_plan::sort_ports(&mut ports);
        let ready = subset.addresses.iter().flatten().map(|a| (a, true));
        let not_ready = subset.not_ready_addresses.iter().flatten().map(|a| (a, false));
        for (address, ready) in ready.chain(not_ready).take(MAX_PER_SUBSET) {
            let Some((address_type, endpoint)) = endpoint(address, ready) else { continue };
            let groups = all.entry(address_type).or_default();
            match groups.iter_mut().find(|(p, _)| *p == ports) {
                Some((_, endpoints)) => endpoints.push(endpoint),
                None => groups.push((ports.clone(), vec![endpoint])),
            }
        }
    }
    all
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Option<(&'static str, Endpoint)> {
    let ip: IpAddr = address.ip.parse().ok()?;
    let endpoint = Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone().filter(|h| !h.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    };
    Some((if ip.is_ipv6() { "IPv6" } else { "IPv4" }, endpoint))
}

impl Mirror {
    async fn look(&self, key: &ObjectKey) -> Result<Next, SyncError> {
        let service = self.services.get(key).filter(|s| s.spec.selector.is_none());
        let endpoints = self.endpoints.get(key).filter(|e| {
            e.metadata.labels.get(SKIP) != Some("true") && !e.metadata.annotations.contains_key(LEADER)
        });
        let (uid, labels, annotations, wanted) = match (&service, &endpoints) {
            (Some(_), Some(endpoints)) => {
                let mut annotations = endpoints.metadata.annotations.clone();
                annotations.retain(|k, _| !OWN_ANNOTATIONS.contains(&k.as_str()));
                let labels =
                    endpoints.metadata.labels.with(SERVICE_NAME, &key.name).with(MANAGED_BY, MANAGER);
                (&*endpoints.uid, labels, annotations, desired(&endpoints.subsets))
            }
            // Nothing to mirror, or somebody else's.
            _ => ("", Default::default(), BTreeMap::new(), BTreeMap::new()),
        };
        let owner =
            SliceOwner { key, uid, kind: "Endpoints", labels, annotations: Some(annotations), trigger: None };
        let slices = owner.slices(&self.slices, MANAGER);
        for address_type in ["IPv4", "IPv6"] {
            let of_type = wanted.get(address_type).cloned().unwrap_or_default();
            if of_type.is_empty() {
                // No placeholders here: what is not mirrored has no slices.
                for slice in slices.iter().filter(|s| *s.address_type == *address_type) {
                    self.slices.remove(slice, &skep_client::DeleteParams::default()).await?;
                }
                continue;
            }
            let plan = slice_plan::plan(of_type, &owner.existing(&slices, address_type));
            owner.write(&self.slices, &slices, address_type, plan, true).await?;
        }
        Ok(Next::Wait)
    }
}

impl Controller for Mirror {
    fn name(&self) -> &'static str {
        NAME
    }

    fn sync<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Next, SyncError>> {
        Box::pin(self.look(key))
    }
}
