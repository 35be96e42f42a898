//! EndpointSlices of services, made from the pods that they select.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, ForNode, ForZone,
};
use rustc_hash::FxHashMap;
use serde::Deserialize;
use serde_json::json;
use skep_base::SharedStr;
use skep_client::informer::Builder;
use skep_client::{Event, Informer, Level, Object, ObjectKey, Patch, Resource};
use skep_plan::Labels;

use super::slice_plan::{self, Existing, Plan};
use super::{HEADLESS, MANAGED_BY, SERVICE_NAME, belongs, find_port, follow_pods, selected, sets_hostname};
use crate::views::{Node, Pod, Service, or_default};
use crate::{Controller, Enqueue, Kind, Next, Setup, SyncError};

const NAME: &str = "endpointslice-controller";
/// What [`MANAGED_BY`] says of the slices that are made here.
const MANAGER: &str = "endpointslice-controller.k8s.io";
const ZONE: &str = "topology.kubernetes.io/zone";
/// Slices by their service's name, in its namespace.
pub(crate) const BY_SERVICE: &str = "service";
/// The longest prefix of a generated name that leaves room for the suffix.
const MAX_PREFIX_BYTES: usize = 253 - 5;

/// A slice.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Slice {
    #[serde(default)]
    pub(crate) metadata: SliceMeta,
    #[serde(default)]
    pub(crate) address_type: SharedStr,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) endpoints: Vec<Endpoint>,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) ports: Vec<EndpointPort>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct SliceMeta {
    #[serde(deserialize_with = "or_default")]
    pub(crate) labels: Labels,
    #[serde(deserialize_with = "or_default")]
    pub(crate) annotations: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) owner_references: Box<[crate::views::Owner]>,
    pub(crate) deletion_timestamp: Option<serde::de::IgnoredAny>,
}

pub(crate) fn by_service(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

impl Kind for Slice {
    const RESOURCE: Resource = Resource::of::<k8s_openapi::api::discovery::v1::EndpointSlice>();
    fn indexes(builder: Builder<Slice>) -> Builder<Slice> {
        builder.index(BY_SERVICE, |o, emit| {
            if let Some(service) = o.metadata.labels.get(SERVICE_NAME) {
                emit(&by_service(&o.key.namespace, service));
            }
        })
    }
}

/// Who owns slices: a service, or Endpoints.
pub(super) struct SliceOwner<'a> {
    pub(super) key: &'a ObjectKey,
    pub(super) uid: &'a str,
    pub(super) kind: &'static str,
    /// What the slices' labels should be.
    pub(super) labels: Labels,
    /// What their annotations should be, where the owner says.
    pub(super) annotations: Option<BTreeMap<String, String>>,
    /// When what makes endpoints of the one kind into those of the other happened, where that is told.
    pub(super) trigger: Option<&'a Trigger<'a>>,
}

/// See [`SliceOwner::trigger`].
pub(super) type Trigger<'a> = dyn Fn(&[Endpoint], &[Endpoint]) -> Option<Timestamp> + Send + Sync + 'a;

/// The annotation that says when what a slice was last written for had happened: for those who measure how long that takes.
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// When the first of what is new about endpoints happened. `since` says when a pod became as it is.
fn first_change(
    old: &[Endpoint],
    new: &[Endpoint],
    since: impl Fn(&Endpoint) -> Option<Timestamp>,
) -> Option<Timestamp> {
    let known =
        |e: &&Endpoint| old.iter().any(|o| o.addresses == e.addresses && o.conditions == e.conditions);
    new.iter().filter(|e| !known(e)).filter_map(since).min()
}

impl SliceOwner<'_> {
    pub(super) fn owns(&self, slice: &Slice) -> bool {
        slice.metadata.owner_references.iter().any(|o| *o.uid == *self.uid && *o.kind == *self.kind)
    }

    /// The slices of the owner's name that this manager keeps.
    pub(super) fn slices(&self, all: &Informer<Slice>, manager: &str) -> Vec<Arc<Object<Slice>>> {
        let mut found =
            all.by_index(BY_SERVICE, &self.key.tenant, &by_service(&self.key.namespace, &self.key.name));
        found.retain(|s| {
            s.metadata.labels.get(MANAGED_BY) == Some(manager) && s.metadata.deletion_timestamp.is_none()
        });
        found.sort_by(|a, b| a.key.name.cmp(&b.key.name));
        found
    }

    /// What there is of one address type, as the planner takes it.
    pub(super) fn existing(&self, slices: &[Arc<Object<Slice>>], address_type: &str) -> Vec<Existing> {
        slices
            .iter()
            .filter(|s| *s.address_type == *address_type && self.owns(s))
            .map(|s| Existing {
                name: s.key.name.to_string(),
                endpoints: s.endpoints.clone(),
                ports: s.ports.clone(),
                relabel: s.metadata.labels != self.labels
                    || self.annotations.as_ref().is_some_and(|a| *a != s.metadata.annotations),
            })
            .collect()
    }

    /// Carries out a plan for one address type.
    pub(super) async fn write(
        &self,
        informer: &Informer<Slice>,
        slices: &[Arc<Object<Slice>>],
        address_type: &str,
        plan: Plan,
        create: bool,
    ) -> Result<(), SyncError> {
        let at = Slice::RESOURCE.at(&self.key.tenant).namespace(&self.key.namespace);
        for (ports, endpoints) in plan.create.into_iter().filter(|_| create) {
            let mut prefix = format!("{}-", self.key.name);
            if prefix.len() > MAX_PREFIX_BYTES {
                prefix = self.key.name.to_string();
            }
            let mut annotations = json!(self.annotations);
            if let Some(at) = self.trigger.and_then(|trigger| trigger(&[], &endpoints)) {
                annotations[TRIGGER_TIME] = json!(at.to_string());
            }
            let slice = json!({
                "metadata": {
                    "generateName": prefix,
                    "namespace": &*self.key.namespace,
                    "labels": self.labels,
                    "annotations": annotations,
                    "ownerReferences": [{
                        "apiVersion": "v1", "kind": self.kind, "name": &*self.key.name, "uid": self.uid,
                        "controller": true, "blockOwnerDeletion": true,
                    }],
                },
                "addressType": address_type,
                "endpoints": endpoints,
                "ports": ports,
            });
            informer.create(&at, &slice).await?;
        }
        let named = |name: &str| slices.iter().find(|s| *s.key.name == *name);
        for (name, (ports, endpoints)) in plan.update {
            let Some(old) = named(&name) else { continue };
            let mut labels = json!(self.labels);
            for (key, _) in old.metadata.labels.iter().filter(|(k, _)| self.labels.get(k).is_none()) {
                labels[key] = serde_json::Value::Null;
            }
            let mut metadata = json!({"resourceVersion": old.revision.to_string(), "labels": labels});
            if let Some(annotations) = &self.annotations {
                let mut wanted = json!(annotations);
                for key in old.metadata.annotations.keys().filter(|k| !annotations.contains_key(*k)) {
                    wanted[key] = serde_json::Value::Null;
                }
                metadata["annotations"] = wanted;
            }
            if let Some(trigger) = self.trigger {
                // Nothing known that triggered it: then what was there before is no longer true.
                let at = trigger(&old.endpoints, &endpoints).map(|at| at.to_string());
                metadata["annotations"][TRIGGER_TIME] = json!(at);
            }
            let patch = json!({"metadata": metadata, "endpoints": endpoints, "ports": ports});
            informer.patch(&at.clone().name(&name), &Patch::Merge(patch)).await?;
        }
        for name in plan.delete {
            if let Some(old) = named(&name) {
                informer.remove(old, &skep_client::DeleteParams::default()).await?;
            }
        }
        Ok(())
    }
}

struct Slices {
    services: Informer<Service>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    slices: Informer<Slice>,
}

/// Makes the controller.
pub(crate) fn new(setup: &mut Setup) -> Arc<dyn Controller> {
    let controller = Slices {
        services: setup.informer(),
        pods: setup.informer(),
        nodes: setup.informer(),
        slices: setup.informer(),
    };
    let enqueue = setup.enqueue(NAME);
    follow_pods(&controller.pods, &controller.services, &enqueue);
    follow_services(&controller.services, &enqueue);
    controller.slices.on_event(move |event| follow_slice(event, MANAGER, &enqueue));
    setup.resync(NAME, &controller.services);
    Arc::new(controller)
}

pub(super) fn follow_services(services: &Informer<Service>, enqueue: &Enqueue) {
    let enqueue = enqueue.clone();
    services.on_event(move |event| {
        if let Event::Changed { old, new } = event
            && old.metadata == new.metadata
            && old.spec == new.spec
        {
            return;
        }
        enqueue.event(event);
    });
}

/// Has the owner looked at when somebody else changes its slices. Own writes come here too; the look finds nothing
/// to do.
pub(super) fn follow_slice(event: &Event<Slice>, manager: &str, enqueue: &Enqueue) {
    if matches!(event, Event::Added(_)) {
        return;
    }
    let slice = event.object();
    let labels = match event {
        Event::Changed { old, .. } if slice.metadata.labels.get(SERVICE_NAME).is_none() => {
            &old.metadata.labels
        }
        _ => &slice.metadata.labels,
    };
    if let (Some(service), Some(by)) = (labels.get(SERVICE_NAME), labels.get(MANAGED_BY))
        && by == manager
    {
        enqueue.add(&ObjectKey::new(&slice.key.tenant, &slice.key.namespace, service), Level::Update);
    }
}

fn labels(service: &Object<Service>) -> Labels {
    let mut labels = service.metadata.labels.without(HEADLESS);
    if !service.has_ip() {
        labels = labels.with(HEADLESS, "");
    }
    labels.with(SERVICE_NAME, &service.key.name).with(MANAGED_BY, MANAGER)
}

fn address_types(service: &Service) -> Vec<&'static str> {
    let families: Vec<_> = service
        .spec
        .ip_families
        .iter()
        .filter_map(|f| match &**f {
            "IPv4" => Some("IPv4"),
            "IPv6" => Some("IPv6"),
            _ => None,
        })
        .collect();
    match service.spec.cluster_ip.as_deref() {
        _ if !families.is_empty() => families,
        Some(ip) if service.has_ip() => vec![if ip.contains(':') { "IPv6" } else { "IPv4" }],
        _ => vec!["IPv4", "IPv6"],
    }
}

fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let mut ports: Vec<_> = service
        .spec
        .ports
        .iter()
        .filter_map(|port| {
            Some(EndpointPort {
                name: Some(port.name.to_string()),
                port: Some(find_port(pod, port)?),
                protocol: Some(port.protocol.to_string()),
                app_protocol: port.app_protocol.as_ref().map(|p| p.to_string()),
            })
        })
        .collect();
    slice_plan::sort_ports(&mut ports);
    ports
}

fn hints(service: &Service, zone: Option<&str>, node: &str, ready: bool) -> Option<EndpointHints> {
    let distribution = service.spec.traffic_distribution.as_deref()?;
    let for_zone = || zone.map(|z| vec![ForZone { name: z.to_owned() }]);
    let for_node = || (!node.is_empty()).then(|| vec![ForNode { name: node.to_owned() }]);
    let hints = match distribution {
        "PreferClose" | "PreferSameZone" => EndpointHints { for_zones: for_zone(), for_nodes: None },
        "PreferSameNode" => EndpointHints { for_zones: for_zone(), for_nodes: for_node() },
        _ => return None,
    };
    (ready && (hints.for_zones.is_some() || hints.for_nodes.is_some())).then_some(hints)
}

/// The endpoint that a pod is, if it has an address of the type.
fn endpoint(
    pod: &Object<Pod>,
    service: &Object<Service>,
    zone: Option<&str>,
    address_type: &str,
) -> Option<Endpoint> {
    let of_type = |ip: &IpAddr| ip.is_ipv6() == (address_type == "IPv6");
    let addresses: Vec<String> = pod.ips.iter().filter(|ip| of_type(ip)).map(IpAddr::to_string).collect();
    if addresses.is_empty() {
        return None;
    }
    let (serving, terminating) = (pod.is_ready(), pod.is_deleting());
    let ready = service.spec.publish_not_ready_addresses || (serving && !terminating);
    let node = pod.node();
    Some(Endpoint {
        addresses,
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hints: hints(service, zone, node, ready),
        hostname: sets_hostname(pod, &service.key).then(|| pod.hostname.to_string()),
        node_name: (!node.is_empty()).then(|| node.to_owned()),
        zone: zone.map(str::to_owned),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: Some(pod.key.namespace.to_string()),
            name: Some(pod.key.name.to_string()),
            uid: Some(pod.uid.to_string()),
            ..ObjectReference::default()
        }),
        deprecated_topology: None,
    })
}

impl Slices {
    async fn look(&self, key: &ObjectKey) -> Result<Next, SyncError> {
        let Some(service) = self.services.get(key) else { return Ok(Next::Wait) };
        if !service.selects_pods() {
            return Ok(Next::Wait);
        }
        let pods = selected(&self.pods, &service);
        let ready_since: FxHashMap<&str, Timestamp> =
            pods.iter().filter_map(|p| Some((&*p.uid, p.ready_changed()?))).collect();
        let made = service.metadata.creation_timestamp;
        let trigger = |old: &[Endpoint], new: &[Endpoint]| {
            let of = |e: &Endpoint| ready_since.get(e.target_ref.as_ref()?.uid.as_deref()?).copied();
            let first = first_change(old, new, of);
            // A slice that is new without endpoints is there because the service is.
            if old.is_empty() && new.is_empty() { made } else { first }
        };
        let owner = SliceOwner {
            key,
            uid: &service.uid,
            kind: "Service",
            labels: labels(&service),
            annotations: None,
            trigger: Some(&trigger),
        };
        let slices = owner.slices(&self.slices, MANAGER);
        let types = address_types(&service);
        let mut strangers: Vec<&Arc<Object<Slice>>> =
            slices.iter().filter(|s| !types.contains(&&*s.address_type) || !owner.owns(s)).collect();
        let mut missing_node = None;
        for address_type in types {
            let mut desired: Vec<(Vec<EndpointPort>, Vec<Endpoint>)> = Vec::new();
            for pod in pods.iter().filter(|p| belongs(p, true)) {
                let node_key = ObjectKey::new(&key.tenant, "", pod.node());
                let node = self.nodes.get(&node_key);
                if node.is_none() && !service.spec.publish_not_ready_addresses {
                    missing_node = Some(pod.plan.node.clone());
                    continue;
                }
                let zone = node.as_ref().and_then(|n| n.metadata.labels.get(ZONE)).filter(|z| !z.is_empty());
                let Some(endpoint) = endpoint(pod, &service, zone, address_type) else { continue };
                let ports = ports(&service, pod);
                match desired.iter_mut().find(|(p, _)| *p == ports) {
                    Some((_, endpoints)) => endpoints.push(endpoint),
                    None => desired.push((ports, vec![endpoint])),
                }
            }
            let plan = slice_plan::plan(desired, &owner.existing(&slices, address_type));
            // A service on its way out gets no new slices: garbage collection is about to take them.
            let create = service.metadata.deletion_timestamp.is_none();
            owner.write(&self.slices, &slices, address_type, plan, create).await?;
        }
        for slice in strangers.drain(..) {
            self.slices.remove(slice, &skep_client::DeleteParams::default()).await?;
        }
        match missing_node {
            Some(node) => {
                Err(SyncError::NotYet(format!("a pod is on the node {node:?}, which does not exist")))
            }
            None => Ok(Next::Wait),
        }
    }
}

impl Controller for Slices {
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
    fn the_first_of_what_is_new_is_the_trigger() {
        let endpoint = |address: &str, ready: bool| Endpoint {
            addresses: vec![address.to_owned()],
            conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
            ..Endpoint::default()
        };
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let since = |e: &Endpoint| e.addresses[0].parse::<i64>().ok().map(at);
        let old = [endpoint("1", true), endpoint("2", false)];
        let first = |new: &[Endpoint]| first_change(&old, new, since);
        assert_eq!(first(&[endpoint("1", true), endpoint("2", true), endpoint("3", true)]), Some(at(2)));
        assert_eq!(first(&old), None);
        assert_eq!(first(&[endpoint("1", true)]), None, "what goes leaves no time behind");
        assert_eq!(first(&[endpoint("x", true)]), None);
    }
}
