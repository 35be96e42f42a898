//! What one object costs, and which scopes it is in. Depends on the object alone, never on the clock, so
//! that what a write charges is exactly what the object's deletion gives back.

use std::any::Any;
use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, Pod, PodAffinityTerm, ScopedResourceSelectorRequirement, Service,
    WeightedPodAffinityTerm,
};
use skep_api::compute::Machine;
use skep_base::{GroupResource, Quantity};

use crate::amounts::{self, Amounts};
use crate::pods::{self, Half, Rules};

const ONE: Quantity = Quantity::new(1, skep_base::quantity::Format::DecimalSi);
const CLASS_SUFFIX: &str = ".storageclass.storage.k8s.io/";
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// Everything that the tenant stores: only in the tenant's quota.
pub(crate) const OBJECTS: &str = skep_api::tenancy::TenantResource::Objects.as_str();

/// What a quota's hard limit of these makes every container say; nothing else is ever demanded.
const DEMANDED: [&str; 6] =
    ["cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory"];

/// Kinds that cost more than their number, and so can cost more or less after an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Pod,
    Service,
    Claim,
    Machine,
    Other,
}

impl Class {
    pub(crate) fn of(group: &str, resource: &str) -> Class {
        match (group, resource) {
            ("", "pods") => Class::Pod,
            ("", "services") => Class::Service,
            ("", "persistentvolumeclaims") => Class::Claim,
            (skep_api::compute::GROUP, "machines") => Class::Machine,
            _ => Class::Other,
        }
    }

    /// Whether a quota's limit of a name is about objects of this class. `count` is `count/RESOURCE`.
    pub(crate) fn matches(self, name: &str, count: &str, alias: Option<&str>) -> bool {
        if name == count {
            return true;
        }
        match self {
            Class::Pod => {
                let own = ["cpu", "memory", "ephemeral-storage"];
                name == "pods"
                    || own.contains(&name)
                    || name
                        .strip_prefix("requests.")
                        .or(name.strip_prefix("limits."))
                        .is_some_and(|n| own.contains(&n))
                    || name.starts_with("hugepages-")
                    || name.starts_with("requests.hugepages-")
                    || is_extended_for_quota(name)
            }
            Class::Service => matches!(name, "services" | "services.nodeports" | "services.loadbalancers"),
            Class::Claim => {
                let own = |n: &str| matches!(n, "persistentvolumeclaims" | "requests.storage");
                own(name) || name.split_once(CLASS_SUFFIX).is_some_and(|(_, n)| own(n))
            }
            Class::Machine => matches!(name, "machines" | "machines.cpu" | "machines.memory"),
            Class::Other => alias == Some(name),
        }
    }
}

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// `requests.example.com/gpu`.
fn is_extended_for_quota(name: &str) -> bool {
    name.starts_with("requests.")
        && (!is_native(name) || name.starts_with("requests.deviceclass.resource.kubernetes.io/"))
}

/// A resource that pods ask for and that quota counts as `requests.NAME`.
fn is_extended(name: &str) -> bool {
    let extended = !is_native(name)
        && !name.starts_with("requests.")
        && skep_base::label::is_key(&format!("requests.{name}"));
    extended || name.starts_with("deviceclass.resource.kubernetes.io/")
}

/// `count/RESOURCE` or `count/RESOURCE.GROUP`.
pub(crate) fn count_name(resource: &GroupResource) -> String {
    format!("count/{resource}")
}

/// The name that a few kinds have in quotas beside `count/`.
pub(crate) fn alias(group: &str, resource: &str) -> Option<&'static str> {
    if (group, resource) == (skep_api::network::GROUP, "publicips") {
        return Some(skep_api::tenancy::TenantResource::PublicAddresses.as_str());
    }
    if !group.is_empty() {
        return None;
    }
    match resource {
        "configmaps" => Some("configmaps"),
        "resourcequotas" => Some("resourcequotas"),
        "replicationcontrollers" => Some("replicationcontrollers"),
        "secrets" => Some("secrets"),
        _ => None,
    }
}

/// One state of one object, measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Measure {
    /// What it takes.
    pub(crate) usage: Amounts,
    pub(crate) facts: Facts,
}

/// What scopes ask about.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Facts {
    Pod {
        terminating: bool,
        best_effort: bool,
        priority_class: String,
        cross_namespace: bool,
        /// What a quota may demand and some container does not say: resource, containers.
        missing: Vec<(&'static str, Vec<String>)>,
    },
    Claim {
        attribute_classes: BTreeSet<String>,
    },
    #[default]
    Other,
}

impl Measure {
    /// Measures an object; nothing for one that is not of the type that its class says.
    pub(crate) fn of(class: Class, resource: &GroupResource, object: &dyn Any) -> Measure {
        let mut usage = Amounts::new();
        usage.insert(count_name(resource), ONE);
        usage.insert(OBJECTS.to_owned(), ONE);
        let facts = match class {
            Class::Pod => object.downcast_ref().map(|p| pod(p, &mut usage)),
            Class::Service => object.downcast_ref().map(|s| service(s, &mut usage)),
            Class::Claim => object.downcast_ref().map(|c| claim(c, &mut usage)),
            Class::Machine => object.downcast_ref().map(|m| machine(m, &mut usage)),
            Class::Other => {
                if let Some(alias) = alias(resource.group(), resource.resource()) {
                    usage.insert(alias.to_owned(), ONE);
                }
                None
            }
        };
        Measure { usage, facts: facts.unwrap_or_default() }
    }

    /// Whether the object is in a scope.
    pub(crate) fn is_in(&self, scope: &ScopedResourceSelectorRequirement) -> bool {
        match &self.facts {
            Facts::Pod { terminating, best_effort, priority_class, cross_namespace, .. } => {
                match scope.scope_name.as_str() {
                    "Terminating" => *terminating,
                    "NotTerminating" => !terminating,
                    "BestEffort" => *best_effort,
                    "NotBestEffort" => !best_effort,
                    "PriorityClass" => {
                        selects(scope, Some(priority_class.as_str()).filter(|c| !c.is_empty()))
                    }
                    "CrossNamespacePodAffinity" => *cross_namespace,
                    _ => false,
                }
            }
            Facts::Claim { attribute_classes } if scope.scope_name == "VolumeAttributesClass" => {
                if attribute_classes.is_empty() {
                    selects(scope, None)
                } else {
                    attribute_classes.iter().any(|c| selects(scope, Some(c)))
                }
            }
            Facts::Claim { .. } | Facts::Other => false,
        }
    }

    /// What the demanded resources are that some container does not say, in words.
    pub(crate) fn unsaid(&self, demanded: impl Fn(&str) -> bool) -> Option<String> {
        let Facts::Pod { missing, .. } = &self.facts else { return None };
        let parts: Vec<String> = missing
            .iter()
            .filter(|(resource, _)| demanded(resource))
            .map(|(resource, containers)| format!("{resource} for: {}", containers.join(",")))
            .collect();
        (!parts.is_empty()).then(|| format!("must specify {}", parts.join("; ")))
    }
}

fn selects(scope: &ScopedResourceSelectorRequirement, value: Option<&str>) -> bool {
    let listed = |v: &str| scope.values.iter().flatten().any(|x| x == v);
    match scope.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}

fn pod(pod: &Pod, usage: &mut Amounts) -> Facts {
    // A pod that has ended takes nothing but its place in storage. Upstream's controller also forgives pods
    // that are stuck in termination beyond their grace period; that depends on the clock, so it is not done
    // here: a node that is gone has its pods deleted.
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("");
    if !matches!(phase, "Succeeded" | "Failed") {
        let rules = Rules { status: true, overhead: true, pod_level_huge_pages: true };
        compute(
            &pods::resources(pod, Half::Requests, rules),
            &pods::resources(pod, Half::Limits, rules),
            &mut |name, quantity| {
                usage.insert(name.to_owned(), quantity);
            },
        );
    }
    let Some(spec) = &pod.spec else { return Facts::Other };
    let mut missing = Vec::new();
    if !pods::has_pod_level_resources(spec) {
        for resource in DEMANDED {
            let mut containers: Vec<String> = spec
                .containers
                .iter()
                .chain(spec.init_containers.iter().flatten())
                .filter(|c| {
                    let (half, name) = match resource.strip_prefix("limits.") {
                        Some(name) => (Half::Limits, name),
                        None => (Half::Requests, resource.strip_prefix("requests.").unwrap_or(resource)),
                    };
                    half.of(c.resources.as_ref()).is_none_or(|l| !l.contains_key(name))
                })
                .map(|c| c.name.clone())
                .collect();
            containers.sort();
            containers.dedup();
            if !containers.is_empty() {
                missing.push((resource, containers));
            }
        }
    }
    Facts::Pod {
        terminating: spec.active_deadline_seconds.is_some_and(|s| s >= 0),
        best_effort: pods::is_best_effort(pod),
        priority_class: spec.priority_class_name.clone().unwrap_or_default(),
        cross_namespace: spec.affinity.as_ref().is_some_and(|a| {
            let required = |t: &Option<Vec<PodAffinityTerm>>| t.iter().flatten().any(crosses);
            let preferred = |t: &Option<Vec<WeightedPodAffinityTerm>>| {
                t.iter().flatten().any(|t| crosses(&t.pod_affinity_term))
            };
            a.pod_affinity.as_ref().is_some_and(|a| {
                required(&a.required_during_scheduling_ignored_during_execution)
                    || preferred(&a.preferred_during_scheduling_ignored_during_execution)
            }) || a.pod_anti_affinity.as_ref().is_some_and(|a| {
                required(&a.required_during_scheduling_ignored_during_execution)
                    || preferred(&a.preferred_during_scheduling_ignored_during_execution)
            })
        }),
        missing,
    }
}

fn crosses(term: &PodAffinityTerm) -> bool {
    term.namespaces.as_ref().is_some_and(|n| !n.is_empty()) || term.namespace_selector.is_some()
}

/// The names under which quota counts what a pod asks for.
fn compute(requests: &Amounts, limits: &Amounts, put: &mut dyn FnMut(&str, Quantity)) {
    put("pods", ONE);
    for name in ["cpu", "memory", "ephemeral-storage"] {
        if let Some(request) = requests.get(name) {
            put(name, *request);
            put(&format!("requests.{name}"), *request);
        }
        if let Some(limit) = limits.get(name) {
            put(&format!("limits.{name}"), *limit);
        }
    }
    for (name, request) in requests {
        if name.starts_with("hugepages-") {
            put(name, *request);
            put(&format!("requests.{name}"), *request);
        }
        if is_extended(name) {
            put(&format!("requests.{name}"), *request);
        }
    }
}

fn service(service: &Service, usage: &mut Amounts) -> Facts {
    let spec = service.spec.as_ref();
    let ports = spec.and_then(|s| s.ports.as_deref()).unwrap_or_default();
    let (mut node_ports, mut balancers) = (0, 0);
    match spec.and_then(|s| s.type_.as_deref()) {
        Some("NodePort") => node_ports = ports.len(),
        Some("LoadBalancer") => {
            balancers = 1;
            node_ports = if spec.and_then(|s| s.allocate_load_balancer_node_ports) == Some(false) {
                ports.iter().filter(|p| p.node_port.is_some_and(|n| n != 0)).count()
            } else {
                // They may not be given out yet; what is meant counts.
                ports.len()
            };
        }
        _ => {}
    }
    let number = |n: usize| {
        Quantity::new(i64::try_from(n).unwrap_or(i64::MAX), skep_base::quantity::Format::DecimalSi)
    };
    usage.insert("services".to_owned(), ONE);
    usage.insert("services.nodeports".to_owned(), number(node_ports));
    usage.insert("services.loadbalancers".to_owned(), number(balancers));
    Facts::Other
}

/// A machine counts from the moment that it is asked for until nothing of it is left.
fn machine(machine: &Machine, usage: &mut Amounts) -> Facts {
    usage.insert("machines".to_owned(), ONE);
    for (resource, name) in [("cpu", "machines.cpu"), ("memory", "machines.memory")] {
        if let Some(quantity) = machine.spec.resources.get(resource) {
            usage.insert(name.to_owned(), amounts::parse(quantity));
        }
    }
    Facts::Other
}

/// The storage class that a claim names; empty for none.
pub(crate) fn storage_class(claim: &PersistentVolumeClaim) -> &str {
    let annotation = claim.metadata.annotations.as_ref().and_then(|a| a.get(CLASS_ANNOTATION));
    annotation.or(claim.spec.as_ref().and_then(|s| s.storage_class_name.as_ref())).map_or("", String::as_str)
}

fn claim(claim: &PersistentVolumeClaim, usage: &mut Amounts) -> Facts {
    let class = storage_class(claim);
    let (spec, status) = (claim.spec.as_ref(), claim.status.as_ref());
    usage.insert("persistentvolumeclaims".to_owned(), ONE);
    if !class.is_empty() {
        usage.insert(format!("{class}{CLASS_SUFFIX}persistentvolumeclaims"), ONE);
    }
    let requested = spec.and_then(|s| s.resources.as_ref()?.requests.as_ref()?.get("storage"));
    if let Some(requested) = requested {
        let mut storage = amounts::parse(requested);
        // An expansion under way counts until it is over, even if the request was lowered again.
        if let Some(allocated) = status.and_then(|s| s.allocated_resources.as_ref()?.get("storage")) {
            storage = storage.max(amounts::parse(allocated));
        }
        if storage.as_i64().is_none() {
            // Bytes come in whole.
            storage = Quantity::new(storage.value(), storage.format());
        }
        usage.insert("requests.storage".to_owned(), storage);
        if !class.is_empty() {
            usage.insert(format!("{class}{CLASS_SUFFIX}requests.storage"), storage);
        }
    }
    let names = [
        spec.and_then(|s| s.volume_attributes_class_name.as_deref()),
        status.and_then(|s| s.current_volume_attributes_class_name.as_deref()),
        status.and_then(|s| s.modify_volume_status.as_ref()?.target_volume_attributes_class_name.as_deref()),
    ];
    Facts::Claim {
        attribute_classes: names.into_iter().flatten().filter(|n| !n.is_empty()).map(str::to_owned).collect(),
    }
}
