//! `discovery.k8s.io/v1`: EndpointSlice.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, EndpointPort, EndpointSlice};

use crate::context::Context;
use crate::field::{Errors, Path};
use crate::kind::{Kind, KindInfo};
use crate::kinds::core::shared;
use crate::meta;
use crate::meta::format::parse_ip_sloppy;
use crate::registry::Registry;
use crate::table::{Cell, Column};

/// The most addresses of one endpoint: upstream's limit, that objects stay small.
const MAX_ADDRESSES: usize = 100;
/// The most ports of a slice: upstream's limit.
const MAX_PORTS: usize = 20_000;
/// The most endpoints of a slice: upstream's limit; what has more is spread over several slices.
const MAX_ENDPOINTS: usize = 1000;
/// The most zones, and the most nodes, that an endpoint is a hint for: upstream's limit.
const MAX_HINTS: usize = 8;
/// How many ports and addresses a row shows.
const SHOWN: usize = 3;

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const ADDRESS_TYPES: &[&str] = &["FQDN", "IPv4", "IPv6"];
/// The topology label whose value was the node's name before there was a field for it.
const HOSTNAME_LABEL: &str = "kubernetes.io/hostname";
const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
/// Controllers that write addresses in their canonical form: nobody could act on a warning to them.
const OWN_CONTROLLERS: &[&str] =
    &["endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io"];

pub(super) fn register(registry: &mut Registry) {
    registry.add::<EndpointSlice>();
}

impl Kind for EndpointSlice {
    fn info() -> KindInfo {
        KindInfo::of::<EndpointSlice>()
    }

    fn set_defaults(&mut self) {
        for port in self.ports.iter_mut().flatten() {
            port.name.get_or_insert_default();
            port.protocol.get_or_insert_with(|| "TCP".to_owned());
        }
    }

    fn prepare_create(&mut self, _: &Context<'_>) {
        drop_topology(self.endpoints.as_deref_mut().unwrap_or_default(), &BTreeSet::new());
    }

    fn prepare_update(&mut self, old: &Self, _: &Context<'_>) {
        // Endpoints from before this version stay as they are until someone changes them.
        if meta::same(&self.endpoints, &old.endpoints) {
            return;
        }
        let old_nodes: BTreeSet<&str> = old.endpoints.iter().flatten().filter_map(topology_node).collect();
        drop_topology(self.endpoints.as_deref_mut().unwrap_or_default(), &old_nodes);
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        validate_frame(self, errors);
        validate_endpoints(self.endpoints.as_deref().unwrap_or_default(), &self.address_type, errors);
    }

    fn validate_update(&self, old: &Self, _: &Context<'_>, errors: &mut Errors) {
        validate_frame(self, errors);
        let mut endpoint_errors = Errors::new();
        validate_endpoints(
            self.endpoints.as_deref().unwrap_or_default(),
            &self.address_type,
            &mut endpoint_errors,
        );
        // What older versions let pass may stay. Slices are large, so they are compared only if need be.
        if !endpoint_errors.is_empty() && !meta::same(&self.endpoints, &old.endpoints) {
            errors.extend(endpoint_errors);
        }
        let path = Path::root("addressType");
        meta::validate_immutable_field(&self.address_type, &old.address_type, &path, errors);
    }

    fn generation_changed(&self, old: Option<&Self>) -> Option<bool> {
        Some(old.is_none_or(|old| {
            self.address_type != old.address_type
                || !meta::same(&self.endpoints, &old.endpoints)
                || !meta::same(&self.ports, &old.ports)
                || self.metadata.labels.as_ref().filter(|l| !l.is_empty())
                    != old.metadata.labels.as_ref().filter(|l| !l.is_empty())
        }))
    }

    fn warnings(&self, old: Option<&Self>, _: &Context<'_>) -> Vec<String> {
        let mut warnings = Vec::new();
        if old.is_none() && self.address_type == "FQDN" {
            warnings.push("spec.addressType: FQDN endpoints are deprecated".to_owned());
        }
        let manager = self.metadata.labels.as_ref().and_then(|l| l.get(MANAGED_BY_LABEL));
        if manager.is_some_and(|m| OWN_CONTROLLERS.contains(&m.as_str())) {
            return warnings;
        }
        let path = Path::root("endpoints");
        for (i, endpoint) in self.endpoints.iter().flatten().enumerate() {
            let path = path.index(i);
            for (j, address) in endpoint.addresses.iter().enumerate() {
                shared::ip_warnings(address, &path.child("addresses").index(j), &mut warnings);
            }
        }
        warnings
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::string("AddressType", "The type of all addresses of the slice."),
            Column::string("Ports", "The ports of every endpoint."),
            Column::string("Endpoints", "The addresses of the endpoints."),
            Column::AGE,
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let ports = self.ports.iter().flatten().map(|p| match (p.port, &p.name) {
            (Some(number), _) => number.to_string(),
            (None, Some(name)) => name.clone(),
            (None, None) => "*".to_owned(),
        });
        let addresses = self.endpoints.iter().flatten().flat_map(|e| e.addresses.iter().cloned());
        vec![
            meta::name_cell(&self.metadata),
            self.address_type.clone().into(),
            first_few(ports).into(),
            first_few(addresses).into(),
            meta::age_cell(&self.metadata, now),
        ]
    }
}

/// Checks everything but the endpoints, for which an update has other rules.
fn validate_frame(slice: &EndpointSlice, errors: &mut Errors) {
    let path = Path::root("addressType");
    if slice.address_type.is_empty() {
        errors.required(&path, "");
    } else if !ADDRESS_TYPES.contains(&slice.address_type.as_str()) {
        errors.not_supported(&path, &slice.address_type, ADDRESS_TYPES);
    }
    validate_ports(slice.ports.as_deref().unwrap_or_default(), &Path::root("ports"), errors);
}

/// The node of an endpoint as old slices have it.
fn topology_node(endpoint: &Endpoint) -> Option<&str> {
    let name = endpoint.deprecated_topology.as_ref()?.get(HOSTNAME_LABEL)?;
    (!name.is_empty()).then_some(name)
}

/// The deprecated topology cannot be written any more. A node name in it that the old slice had moves to
/// the field for it, so that a partial update does not lose it.
fn drop_topology(endpoints: &mut [Endpoint], old_nodes: &BTreeSet<&str>) {
    for endpoint in endpoints {
        if endpoint.node_name.is_none()
            && let Some(node) = topology_node(endpoint)
            && old_nodes.contains(node)
            && meta::dns1123_subdomain_errors(node).is_empty()
        {
            endpoint.node_name = Some(node.to_owned());
        }
        endpoint.deprecated_topology = None;
    }
}

fn validate_ports(ports: &[EndpointPort], path: &Path<'_>, errors: &mut Errors) {
    if ports.len() > MAX_PORTS {
        errors.too_many(path, ports.len(), MAX_PORTS);
        return;
    }
    let mut names = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        let name = port.name.as_deref().unwrap_or_default();
        if !name.is_empty() {
            shared::dns_label(name, &path.child("name"), errors);
        }
        if !names.insert(name) {
            errors.duplicate(&path.child("name"), name);
        }
        match port.protocol.as_deref() {
            None => errors.required(&path.child("protocol"), ""),
            Some(protocol) if !PROTOCOLS.contains(&protocol) => {
                errors.not_supported(&path.child("protocol"), protocol, PROTOCOLS);
            }
            Some(_) => {}
        }
        if let Some(protocol) = &port.app_protocol {
            meta::validate_qualified_name(protocol, &path.child("appProtocol"), errors);
        }
    }
}

// The deprecated topology is not checked: changed endpoints have none, and unchanged ones may be anything.
fn validate_endpoints(endpoints: &[Endpoint], address_type: &str, errors: &mut Errors) {
    let path = Path::root("endpoints");
    if endpoints.len() > MAX_ENDPOINTS {
        errors.too_many(&path, endpoints.len(), MAX_ENDPOINTS);
        return;
    }
    for (i, endpoint) in endpoints.iter().enumerate() {
        let path = path.index(i);
        let addresses = path.child("addresses");
        if endpoint.addresses.is_empty() {
            errors.required(&addresses, "must contain at least 1 address");
        } else if endpoint.addresses.len() > MAX_ADDRESSES {
            errors.too_many(&addresses, endpoint.addresses.len(), MAX_ADDRESSES);
        }
        for (j, address) in endpoint.addresses.iter().enumerate() {
            validate_address(address, address_type, &addresses, j, errors);
        }
        if let Some(node) = &endpoint.node_name {
            shared::dns_subdomain(node, &path.child("nodeName"), errors);
        }
        if let Some(hostname) = &endpoint.hostname {
            shared::dns_label(hostname, &path.child("hostname"), errors);
        }
        if let Some(hints) = &endpoint.hints {
            validate_hints(hints, &path.child("hints"), errors);
        }
    }
}

fn validate_address(
    address: &str,
    address_type: &str,
    addresses: &Path<'_>,
    index: usize,
    errors: &mut Errors,
) {
    let path = addresses.index(index);
    let is_v4 = || parse_ip_sloppy(address).is_some_and(|ip| ip.is_ipv4());
    match address_type {
        "IPv4" => {
            if !shared::legacy_ip(address, &path, &[], errors) {
                return;
            }
            if !is_v4() {
                errors.invalid(addresses, address, "must be an IPv4 address");
            }
            shared::endpoint_ip(address, &path, errors);
        }
        "IPv6" => {
            let messages = meta::ip_errors(address);
            for message in &messages {
                errors.invalid(&path, address, message);
            }
            if messages.is_empty() {
                if is_v4() {
                    errors.invalid(addresses, address, "must be an IPv6 address");
                }
                shared::endpoint_ip(address, &path, errors);
            }
        }
        "FQDN" => validate_domain(address, &path, errors),
        // An unknown type is an error of its own.
        _ => {}
    }
}

/// A domain of at least two labels; it may end with a dot.
fn validate_domain(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        errors.required(path, "");
        return;
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let messages = meta::dns1123_subdomain_errors(name);
    if !messages.is_empty() {
        errors.invalid(path, name, &messages.join(","));
        return;
    }
    if !name.contains('.') {
        errors.invalid(path, name, "should be a domain with at least two segments separated by dots");
        return;
    }
    for label in name.split('.') {
        let messages = meta::dns1123_label_errors(label);
        if !messages.is_empty() {
            errors.invalid(path, label, &messages.join(","));
            return;
        }
    }
}

fn validate_hints(hints: &EndpointHints, path: &Path<'_>, errors: &mut Errors) {
    let zones = hints.for_zones.as_deref().unwrap_or_default();
    let zones_path = path.child("forZones");
    if zones.len() > MAX_HINTS {
        errors.too_many(&zones_path, zones.len(), MAX_HINTS);
        return;
    }
    let mut seen = BTreeSet::new();
    for (i, zone) in zones.iter().enumerate() {
        let path = zones_path.index(i);
        let path = path.child("name");
        if !seen.insert(&zone.name) {
            errors.duplicate(&path, &zone.name);
        }
        for message in meta::label_value_errors(&zone.name) {
            errors.invalid(&path, &zone.name, &message);
        }
    }
    let nodes = hints.for_nodes.as_deref().unwrap_or_default();
    let nodes_path = path.child("forNodes");
    if nodes.len() > MAX_HINTS {
        errors.too_many(&nodes_path, nodes.len(), MAX_HINTS);
        return;
    }
    let mut seen = BTreeSet::new();
    for (i, node) in nodes.iter().enumerate() {
        let path = nodes_path.index(i);
        let path = path.child("name");
        if !seen.insert(&node.name) {
            errors.duplicate(&path, &node.name);
        }
        shared::dns_subdomain(&node.name, &path, errors);
    }
}

/// `a,b,c + 2 more...`, or `<unset>`.
fn first_few(items: impl Iterator<Item = String>) -> String {
    let mut shown = Vec::new();
    let mut more = 0_usize;
    for item in items {
        if shown.len() < SHOWN {
            shown.push(item);
        } else {
            more += 1;
        }
    }
    let text = shown.join(",");
    match more {
        0 if text.is_empty() => "<unset>".to_owned(),
        0 => text,
        more => format!("{text} + {more} more..."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::tables::{check_create, check_update, defaulted, object, patched, row, with_context};
    use serde_json::{Value, json};

    fn good() -> Value {
        json!({
            "metadata": {"name": "s", "creationTimestamp": "1970-01-01T00:00:00Z"},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 80, "appProtocol": "example.com/x"}, {"name": "", "protocol": "UDP"}],
            "endpoints": [{
                "addresses": ["10.0.0.1", "10.0.0.2"], "hostname": "h", "nodeName": "n.a", "zone": "z",
                "conditions": {"ready": true},
                "hints": {"forZones": [{"name": "z"}], "forNodes": [{"name": "n"}]},
            }],
        })
    }

    fn one(endpoint: Value) -> Value {
        json!({"endpoints": [patched(&json!({"addresses": ["10.0.0.1"]}), &endpoint)]})
    }

    fn at(address_type: &str, address: &str) -> Value {
        json!({"addressType": address_type, "endpoints": [{"addresses": [address]}]})
    }

    #[test]
    fn validation() {
        let nine = |name: &str| -> Value { (0..9).map(|i| json!({"name": format!("{name}{i}")})).collect() };
        let table = [
            (json!({"endpoints": null, "ports": null}), ""),
            (json!({"addressType": null}), "addressType: Required value"),
            (
                json!({"addressType": "ipv4"}),
                r#"addressType: Unsupported value: "ipv4": supported values: "FQDN", "IPv4", "IPv6""#,
            ),
            (json!({"ports": [{"name": "A"}]}), r#"ports[0].name: Invalid value: "A": a lowercase RFC 1123"#),
            (json!({"ports": [{}, {}]}), r#"ports[1].name: Duplicate value: """#),
            (
                json!({"ports": [{"protocol": "tcp"}]}),
                r#"ports[0].protocol: Unsupported value: "tcp": supported values: "SCTP", "TCP", "UDP""#,
            ),
            (
                json!({"ports": [{"appProtocol": "a/b/c"}]}),
                r#"ports[0].appProtocol: Invalid value: "a/b/c": a"#,
            ),
            (
                json!({"endpoints": vec![json!({"addresses": ["10.0.0.1"]}); 1001]}),
                "endpoints: Too many: 1001: must have at most 1000 items",
            ),
            (
                one(json!({"addresses": []})),
                "endpoints[0].addresses: Required value: must contain at least 1 address",
            ),
            (
                one(json!({"addresses": vec!["10.0.0.1"; 101]})),
                "endpoints[0].addresses: Too many: 101: must have at most 100 items",
            ),
            (
                at("IPv4", "010.0.0.1"),
                r#"endpoints[0].addresses[0]: Invalid value: "010.0.0.1": must not have leading 0s"#,
            ),
            (
                at("IPv4", "::1:2"),
                r#"endpoints[0].addresses: Invalid value: "::1:2": must be an IPv4 address"#,
            ),
            (
                at("IPv4", "127.0.0.1"),
                r#"endpoints[0].addresses[0]: Invalid value: "127.0.0.1": may not be in the loopback range"#,
            ),
            (
                one(json!({"nodeName": "A"})),
                r#"endpoints[0].nodeName: Invalid value: "A": a lowercase RFC 1123 sub"#,
            ),
            (
                one(json!({"hostname": "a.b"})),
                r#"endpoints[0].hostname: Invalid value: "a.b": must not contain"#,
            ),
            (
                one(json!({"hints": {"forZones": nine("z")}})),
                "endpoints[0].hints.forZones: Too many: 9: must have at most 8 items",
            ),
            (
                one(json!({"hints": {"forNodes": nine("n")}})),
                "endpoints[0].hints.forNodes: Too many: 9: must have at most 8 items",
            ),
            (
                one(json!({"hints": {"forZones": [{"name": "a"}, {"name": "a"}]}})),
                r#"endpoints[0].hints.forZones[1].name: Duplicate value: "a""#,
            ),
            (
                one(json!({"hints": {"forNodes": [{"name": "a"}, {"name": "a"}]}})),
                r#"endpoints[0].hints.forNodes[1].name: Duplicate value: "a""#,
            ),
        ];
        check_create::<EndpointSlice>(&good(), &table);
        let table = [
            (at("IPv6", "2001:db8::1"), ""),
            (
                at("IPv6", "2001:DB8::1"),
                r#"endpoints[0].addresses[0]: Invalid value: "2001:DB8::1": must be in canonical form"#,
            ),
            (
                at("IPv6", "10.0.0.1"),
                r#"endpoints[0].addresses: Invalid value: "10.0.0.1": must be an IPv6 address"#,
            ),
            (at("FQDN", "a.example."), ""),
            (at("FQDN", ""), "endpoints[0].addresses[0]: Required value"),
            (at("FQDN", "a"), r#"endpoints[0].addresses[0]: Invalid value: "a": should be a domain with at"#),
            (at("FQDN", "a_.b"), r#"endpoints[0].addresses[0]: Invalid value: "a_.b": a lowercase RFC 1123"#),
        ];
        check_create::<EndpointSlice>(&good(), &table);
    }

    #[test]
    fn updates() {
        check_update::<EndpointSlice>(
            &good(),
            "",
            &[
                (
                    json!({"addressType": "FQDN", "endpoints": []}),
                    r#"addressType: Invalid value: "FQDN": field is immutable"#,
                ),
                (one(json!({"nodeName": "A"})), r#"endpoints[0].nodeName: Invalid value: "A""#),
            ],
        );
        // What was stored before may stay.
        let old: EndpointSlice = object(&patched(&good(), &one(json!({"nodeName": "A"}))));
        with_context("", |cx| {
            let mut errors = Errors::new();
            old.validate_update(&old, cx, &mut errors);
            assert!(errors.is_empty(), "{errors}");
        });
    }

    #[test]
    fn defaults_generation_and_row() {
        assert_eq!(
            defaulted::<EndpointSlice>(
                &json!({"addressType": "IPv4", "endpoints": [], "ports": [{"port": 1}]})
            )["ports"],
            json!([{"port": 1, "name": "", "protocol": "TCP"}])
        );
        assert_eq!(row::<EndpointSlice>(&good()), json!(["s", "IPv4", "80,", "10.0.0.1,10.0.0.2", "60s"]));
        let many = patched(
            &good(),
            &json!({"ports": null, "endpoints": [{"addresses": ["a", "b", "c", "d", "e"]}]}),
        );
        assert_eq!(row::<EndpointSlice>(&many), json!(["s", "IPv4", "<unset>", "a,b,c + 2 more...", "60s"]));
        let old: EndpointSlice = object(&good());
        let changed =
            |patch: Value| object::<EndpointSlice>(&patched(&good(), &patch)).generation_changed(Some(&old));
        assert_eq!(old.generation_changed(None), Some(true));
        assert_eq!(changed(json!({"metadata": {"annotations": {"a": "b"}, "labels": {}}})), Some(false));
        assert_eq!(changed(json!({"metadata": {"labels": {"a": "b"}}})), Some(true));
        assert_eq!(changed(json!({"ports": []})), Some(true));
        assert_eq!(changed(json!({"endpoints": []})), Some(true));
    }

    #[test]
    fn topology_gives_way_to_the_node_name() {
        let slice = |endpoint: Value| object::<EndpointSlice>(&patched(&good(), &one(endpoint)));
        let topology = json!({"deprecatedTopology": {"kubernetes.io/hostname": "n"}});
        with_context("", |cx| {
            let mut created = slice(topology.clone());
            created.prepare_create(cx);
            assert_eq!(created, slice(json!({})));
            let old = slice(topology.clone());
            let mut same = old.clone();
            same.prepare_update(&old, cx);
            assert_eq!(same, old);
            let mut changed = slice(patched(&topology, &json!({"zone": "z"})));
            changed.prepare_update(&old, cx);
            assert_eq!(changed, slice(json!({"zone": "z", "nodeName": "n"})));
            let mut unknown = slice(json!({"deprecatedTopology": {"kubernetes.io/hostname": "other"}}));
            unknown.prepare_update(&old, cx);
            assert_eq!(unknown, slice(json!({})));
        });
    }

    #[test]
    fn warnings() {
        let warnings = |patch: Value, old: bool| {
            let slice: EndpointSlice = object(&patched(&good(), &patch));
            with_context("", |cx| slice.warnings(old.then_some(&slice), cx))
        };
        let fqdn = at("FQDN", "a.b");
        assert_eq!(warnings(fqdn.clone(), false), ["spec.addressType: FQDN endpoints are deprecated"]);
        assert!(warnings(fqdn, true).is_empty());
        let mut bad = one(json!({"addresses": ["010.0.0.1"]}));
        assert_eq!(
            warnings(bad.clone(), true),
            [r#"endpoints[0].addresses[0]: non-standard IP address "010.0.0.1" is invalid: use "10.0.0.1""#]
        );
        bad["metadata"] = json!({"labels": {MANAGED_BY_LABEL: OWN_CONTROLLERS[0]}});
        assert!(warnings(bad, true).is_empty());
    }
}
