//! Service.
//!
//! A write of a service goes, in the API server, through more steps than other kinds: after
//! [`Kind::prepare_create`] or [`Kind::prepare_update`] come [`init_ip_families`] and
//! [`wanted_allocations`], and only then validation, which wants to see the addresses and ports filled in.
//! What was wanted is taken, and what is no longer needed is given back, in the transaction that writes the
//! object.

mod allocation;
mod strategy;
#[cfg(test)]
mod tests;
mod validation;

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ClientIPConfig, LoadBalancerStatus, Service, ServiceSpec, ServiceStatus, SessionAffinityConfig,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::shared;
use crate::context::Context;
use crate::field::{Errors, Path};
use crate::kind::{Fields, Kind, KindInfo, NameRule};
use crate::meta;
use crate::table::{Cell, Column};

pub use allocation::{
    Allocations, ClusterFamilies, IpFamily, NodePortPlace, WantedIp, WantedPort, init_ip_families,
    wanted_allocations,
};

/// `clusterIP` of a headless service.
const NONE: &str = "None";
/// How long clients stick to a backend when the user says no time: three hours.
const DEFAULT_CLIENT_IP_TIMEOUT_S: i32 = 10_800;

static NO_SPEC: ServiceSpec = ServiceSpec {
    allocate_load_balancer_node_ports: None,
    cluster_ip: None,
    cluster_ips: None,
    external_ips: None,
    external_name: None,
    external_traffic_policy: None,
    health_check_node_port: None,
    internal_traffic_policy: None,
    ip_families: None,
    ip_family_policy: None,
    load_balancer_class: None,
    load_balancer_ip: None,
    load_balancer_source_ranges: None,
    ports: None,
    publish_not_ready_addresses: None,
    selector: None,
    session_affinity: None,
    session_affinity_config: None,
    traffic_distribution: None,
    type_: None,
};

/// What a service is, in short form: its fields with absence and emptiness alike.
fn spec_of(service: &Service) -> &ServiceSpec {
    service.spec.as_ref().unwrap_or(&NO_SPEC)
}

fn text(field: &Option<String>) -> &str {
    field.as_deref().unwrap_or_default()
}

fn list<T>(field: &Option<Vec<T>>) -> &[T] {
    field.as_deref().unwrap_or_default()
}

fn is_type(spec: &ServiceSpec, name: &str) -> bool {
    text(&spec.type_) == name
}

fn is_load_balancer(spec: &ServiceSpec) -> bool {
    is_type(spec, "LoadBalancer")
}

fn is_external_name(spec: &ServiceSpec) -> bool {
    is_type(spec, "ExternalName")
}

fn is_headless(spec: &ServiceSpec) -> bool {
    matches!(list(&spec.cluster_ips), [only] if only == NONE)
}

/// Whether traffic may come from outside.
fn externally_accessible(spec: &ServiceSpec) -> bool {
    is_load_balancer(spec)
        || is_type(spec, "NodePort")
        || (is_type(spec, "ClusterIP") && !list(&spec.external_ips).is_empty())
}

/// Whether load balancers must be told which nodes have endpoints.
fn needs_health_check(spec: &ServiceSpec) -> bool {
    is_load_balancer(spec) && text(&spec.external_traffic_policy) == "Local"
}

/// Absent and empty mean the same: keep one of them, so that the rest can compare.
fn forget_empty(spec: &mut ServiceSpec) {
    let ServiceSpec {
        cluster_ip,
        cluster_ips,
        external_ips,
        external_name,
        external_traffic_policy,
        health_check_node_port,
        ip_families,
        load_balancer_ip,
        load_balancer_source_ranges,
        ports,
        publish_not_ready_addresses,
        selector,
        session_affinity,
        type_,
        ..
    } = spec;
    for field in
        [cluster_ip, external_name, external_traffic_policy, load_balancer_ip, session_affinity, type_]
    {
        field.take_if(|t| t.is_empty());
    }
    for field in [cluster_ips, external_ips, ip_families, load_balancer_source_ranges] {
        field.take_if(|l| l.is_empty());
    }
    health_check_node_port.take_if(|p| *p == 0);
    publish_not_ready_addresses.take_if(|p| !*p);
    ports.take_if(|p| p.is_empty());
    selector.take_if(|s| s.is_empty());
    for port in ports.iter_mut().flatten() {
        port.name.take_if(|n| n.is_empty());
        port.node_port.take_if(|p| *p == 0);
    }
}

/// `a=1,b=2` in the order of keys, or `<none>`.
fn external_ip_text(service: &Service) -> String {
    let spec = spec_of(service);
    let own = list(&spec.external_ips);
    let join_or = |otherwise: &str| if own.is_empty() { otherwise.to_owned() } else { own.join(",") };
    match text(&spec.type_) {
        "ClusterIP" | "NodePort" => join_or("<none>"),
        "LoadBalancer" => {
            let balancer = service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
            let points = balancer.map(|b| list(&b.ingress)).unwrap_or_default();
            let points: BTreeSet<&str> = points
                .iter()
                .map(|p| if text(&p.ip).is_empty() { text(&p.hostname) } else { text(&p.ip) })
                .filter(|p| !p.is_empty())
                .collect();
            if points.is_empty() {
                return join_or("<pending>");
            }
            let all: Vec<&str> = points.into_iter().chain(own.iter().map(String::as_str)).collect();
            all.join(",")
        }
        "ExternalName" => text(&spec.external_name).to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

fn ports_text(spec: &ServiceSpec) -> String {
    let ports = list(&spec.ports);
    if ports.is_empty() {
        return "<none>".to_owned();
    }
    let one = |p: &k8s_openapi::api::core::v1::ServicePort| match p.node_port {
        Some(node_port) if node_port > 0 => format!("{}:{node_port}/{}", p.port, text(&p.protocol)),
        _ => format!("{}/{}", p.port, text(&p.protocol)),
    };
    ports.iter().map(one).collect::<Vec<_>>().join(",")
}

impl Kind for Service {
    fn info() -> KindInfo {
        KindInfo::of::<Service>()
            .short("svc")
            .category("all")
            .names(NameRule::Label)
            .create_on_update()
            .sub(super::proxy("ServiceProxyOptions"))
            .status()
            .select("spec.clusterIP")
            .select("spec.type")
    }

    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        forget_empty(spec);
        let affinity = spec.session_affinity.get_or_insert_with(|| NONE.to_owned());
        match affinity.as_str() {
            "None" => spec.session_affinity_config = None,
            "ClientIP" => {
                let config = spec.session_affinity_config.as_ref();
                let timeout_s = config.and_then(|c| c.client_ip.as_ref()).and_then(|c| c.timeout_seconds);
                if timeout_s.is_none() {
                    spec.session_affinity_config = Some(SessionAffinityConfig {
                        client_ip: Some(ClientIPConfig {
                            timeout_seconds: Some(DEFAULT_CLIENT_IP_TIMEOUT_S),
                        }),
                    });
                }
            }
            _ => {}
        }
        spec.type_.get_or_insert_with(|| "ClusterIP".to_owned());
        for port in spec.ports.iter_mut().flatten() {
            if text(&port.protocol).is_empty() {
                port.protocol = Some("TCP".to_owned());
            }
            let unset = match &port.target_port {
                None | Some(IntOrString::Int(0)) => true,
                Some(IntOrString::String(name)) => name.is_empty(),
                Some(IntOrString::Int(_)) => false,
            };
            if unset {
                port.target_port = Some(IntOrString::Int(port.port));
            }
        }
        if externally_accessible(spec) && spec.external_traffic_policy.is_none() {
            spec.external_traffic_policy = Some("Cluster".to_owned());
        }
        let routed = matches!(text(&spec.type_), "ClusterIP" | "NodePort" | "LoadBalancer");
        if routed && spec.internal_traffic_policy.is_none() {
            spec.internal_traffic_policy = Some("Cluster".to_owned());
        }
        let balanced = is_load_balancer(spec);
        if balanced {
            spec.allocate_load_balancer_node_ports.get_or_insert(true);
        }

        let status = self.status.get_or_insert_default();
        let balancer = status.load_balancer.get_or_insert_default();
        balancer.ingress.take_if(|i| i.is_empty());
        if balanced {
            for point in balancer.ingress.iter_mut().flatten() {
                if !text(&point.ip).is_empty() && point.ip_mode.is_none() {
                    point.ip_mode = Some("VIP".to_owned());
                }
            }
        }
    }

    fn prepare_create(&mut self, _: &Context<'_>) {
        self.status =
            Some(ServiceStatus { conditions: None, load_balancer: Some(LoadBalancerStatus::default()) });
        strategy::create(self.spec.get_or_insert_default());
    }

    fn prepare_update(&mut self, old: &Self, cx: &Context<'_>) {
        if cx.is_status() {
            self.spec.clone_from(&old.spec);
            return;
        }
        self.status.clone_from(&old.status);
        let spec = self.spec.get_or_insert_default();
        strategy::update(spec, spec_of(old));
        if !is_load_balancer(spec) {
            self.status.get_or_insert_default().load_balancer = Some(LoadBalancerStatus::default());
        }
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        validation::validate(self, None, errors);
    }

    fn validate_update(&self, old: &Self, cx: &Context<'_>, errors: &mut Errors) {
        if cx.is_status() {
            validation::validate_status(self, old, errors);
        } else {
            validation::validate_change(spec_of(self), spec_of(old), errors);
            validation::validate(self, Some(old), errors);
        }
    }

    fn warnings(&self, _: Option<&Self>, cx: &Context<'_>) -> Vec<String> {
        let mut warnings = Vec::new();
        if cx.is_status() {
            let path = Path::root("status");
            let path = path.child("loadBalancer");
            let path = path.child("ingress");
            let balancer = self.status.as_ref().and_then(|s| s.load_balancer.as_ref());
            for (i, point) in balancer.map(|b| list(&b.ingress)).unwrap_or_default().iter().enumerate() {
                if !text(&point.ip).is_empty() {
                    shared::ip_warnings(text(&point.ip), &path.index(i), &mut warnings);
                }
            }
        } else {
            strategy::warnings(self, &mut warnings);
        }
        warnings
    }

    fn fields(&self, fields: &mut Fields) {
        let spec = spec_of(self);
        fields.add("spec.clusterIP", text(&spec.cluster_ip));
        fields.add("spec.type", text(&spec.type_));
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::string("Type", "How the service can be reached."),
            Column::string("Cluster-IP", "Its address inside the cluster."),
            Column::string("External-IP", "Where it can be reached from outside."),
            Column::string("Port(s)", "Its ports, with node ports behind a colon, and their protocols."),
            Column::AGE,
            Column::string("Selector", "The labels of the pods that serve it.").wide(),
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let spec = spec_of(self);
        vec![
            meta::name_cell(&self.metadata),
            text(&spec.type_).into(),
            list(&spec.cluster_ips).first().map_or("<none>", String::as_str).into(),
            external_ip_text(self).into(),
            ports_text(spec).into(),
            meta::age_cell(&self.metadata, now),
            shared::labels_text(spec.selector.as_ref()).into(),
        ]
    }
}
