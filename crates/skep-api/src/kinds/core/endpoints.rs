//! Endpoints. Superseded by EndpointSlice, but still served and read.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints};

use super::shared;
use crate::context::Context;
use crate::field::{Errors, Path};
use crate::kind::{Kind, KindInfo};
use crate::meta;
use crate::table::{Cell, Column};

/// Written by the endpoints controller, which never makes odd addresses.
const MANAGED_BY: (&str, &str) = ("endpoints.kubernetes.io/managed-by", "endpoint-controller");
/// How many endpoints a row shows.
const SHOWN: usize = 3;

fn subsets(endpoints: &Endpoints) -> &[EndpointSubset] {
    endpoints.subsets.as_deref().unwrap_or_default()
}

/// The ready and the other addresses of a subset, with the names of their fields.
fn addresses(subset: &EndpointSubset) -> [(&'static str, &[EndpointAddress]); 2] {
    [
        ("addresses", subset.addresses.as_deref().unwrap_or_default()),
        ("notReadyAddresses", subset.not_ready_addresses.as_deref().unwrap_or_default()),
    ]
}

fn validate_address(address: &EndpointAddress, path: &Path<'_>, errors: &mut Errors) {
    shared::legacy_ip(&address.ip, &path.child("ip"), &[], errors);
    if let Some(hostname) = address.hostname.as_ref().filter(|h| !h.is_empty()) {
        shared::dns_label(hostname, &path.child("hostname"), errors);
    }
    if let Some(node) = &address.node_name {
        shared::dns_subdomain(node, &path.child("nodeName"), errors);
    }
    shared::endpoint_ip(&address.ip, &path.child("ip"), errors);
}

fn validate_port(port: &EndpointPort, must_have_name: bool, path: &Path<'_>, errors: &mut Errors) {
    match port.name.as_deref().unwrap_or_default() {
        "" if must_have_name => errors.required(&path.child("name"), ""),
        "" => {}
        name => shared::dns_label(name, &path.child("name"), errors),
    }
    meta::validate_port_num(port.port, &path.child("port"), errors);
    shared::protocol(port.protocol.as_deref().unwrap_or_default(), &path.child("protocol"), errors);
    if let Some(protocol) = &port.app_protocol {
        meta::validate_qualified_name(protocol, &path.child("appProtocol"), errors);
    }
}

/// What a row shows of the endpoints: the first few, and how many more there are.
fn endpoints_text(endpoints: &Endpoints) -> String {
    let mut shown: Vec<String> = Vec::new();
    let mut count = 0;
    for subset in subsets(endpoints) {
        let [(_, ready), _] = addresses(subset);
        let ports = subset.ports.as_deref().unwrap_or_default();
        // Endpoints of headless services may have no ports.
        let portless = usize::from(ports.is_empty());
        count += ready.len() * (ports.len() + portless);
        let free = |shown: &Vec<String>| SHOWN - shown.len();
        for address in ready.iter().take(portless * free(&shown)) {
            shown.push(address.ip.clone());
        }
        for port in ports {
            for address in ready.iter().take(free(&shown)) {
                let ip = &address.ip;
                let v6 = matches!(ip.parse(), Ok(IpAddr::V6(_)));
                let port = port.port;
                shown.push(if v6 { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") });
            }
        }
    }
    if subsets(endpoints).is_empty() {
        return "<none>".to_owned();
    }
    let text = shown.join(",");
    if count > shown.len() { format!("{text} + {} more...", count - SHOWN) } else { text }
}

impl Kind for Endpoints {
    fn info() -> KindInfo {
        KindInfo::of::<Endpoints>()
            .short("ep")
            .create_on_update()
            .deprecated("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
    }

    fn set_defaults(&mut self) {
        self.subsets.take_if(|s| s.is_empty());
        for subset in self.subsets.iter_mut().flatten() {
            for port in subset.ports.iter_mut().flatten() {
                if port.protocol.as_deref().unwrap_or_default().is_empty() {
                    port.protocol = Some("TCP".to_owned());
                }
            }
        }
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        let path = Path::root("subsets");
        for (i, subset) in subsets(self).iter().enumerate() {
            let path = path.index(i);
            let addresses = addresses(subset);
            if addresses.iter().all(|(_, list)| list.is_empty()) {
                errors.required(&path, "must specify `addresses` or `notReadyAddresses`");
            }
            for (name, list) in addresses {
                let path = path.child(name);
                for (i, address) in list.iter().enumerate() {
                    validate_address(address, &path.index(i), errors);
                }
            }
            let ports = subset.ports.as_deref().unwrap_or_default();
            let path = path.child("ports");
            for (i, port) in ports.iter().enumerate() {
                validate_port(port, ports.len() > 1, &path.index(i), errors);
            }
        }
    }

    fn validate_update(&self, old: &Self, cx: &Context<'_>, errors: &mut Errors) {
        // What was stored under older rules may stay.
        if self.subsets != old.subsets {
            self.validate(cx, errors);
        }
    }

    fn warnings(&self, _: Option<&Self>, _: &Context<'_>) -> Vec<String> {
        let mut warnings = Vec::new();
        let (label, controller) = MANAGED_BY;
        if self.metadata.labels.as_ref().and_then(|l| l.get(label)).is_some_and(|v| v == controller) {
            return warnings;
        }
        let path = Path::root("subsets");
        for (i, subset) in subsets(self).iter().enumerate() {
            for (name, list) in addresses(subset) {
                for (j, address) in list.iter().enumerate() {
                    let path = path.index(i);
                    let path = path.child(name);
                    shared::ip_warnings(&address.ip, &path.index(j).child("ip"), &mut warnings);
                }
            }
        }
        warnings
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::string("Endpoints", "The first addresses and ports that are ready."),
            Column::AGE,
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        vec![
            meta::name_cell(&self.metadata),
            endpoints_text(self).into(),
            meta::age_cell(&self.metadata, now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use serde_json::{Value, json};

    fn valid() -> Value {
        json!({"metadata": {"name": "e"}, "subsets": [{
            "addresses": [{"ip": "10.0.0.1", "nodeName": "n"}], "ports": [{"port": 80}]}]})
    }

    #[test]
    fn creation() {
        check_create_table::<Endpoints>(
            &valid(),
            &[
                (
                    "/subsets/0/addresses",
                    json!([]),
                    &["subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"],
                ),
                (
                    "/subsets/0/addresses/0/ip",
                    json!("127.0.0.1"),
                    &[
                        r#"subsets[0].addresses[0].ip: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)"#,
                    ],
                ),
                (
                    "/subsets/0/addresses/0/ip",
                    json!("x"),
                    &[
                        r#"subsets[0].addresses[0].ip: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"#,
                        r#"subsets[0].addresses[0].ip: Invalid value: "x": must be a valid IP address"#,
                    ],
                ),
                (
                    "/subsets/0/addresses/0/hostname",
                    json!("a.b"),
                    &[r#"subsets[0].addresses[0].hostname: Invalid value: "a.b": must not contain dots"#],
                ),
                (
                    "/subsets/0/ports",
                    json!([{"port": 0}, {"port": 1, "name": "a", "protocol": "x"}]),
                    &[
                        "subsets[0].ports[0].name: Required value",
                        "subsets[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                        r#"subsets[0].ports[1].protocol: Unsupported value: "x": supported values: "SCTP", "TCP", "UDP""#,
                    ],
                ),
            ],
        );
    }

    #[test]
    fn what_does_not_change_is_not_checked_again() {
        let lax = with(&valid(), "/subsets/0/addresses/0/ip", json!("010.0.0.1"));
        assert_eq!(create_errors::<Endpoints>(&lax).len(), 1);
        assert_eq!(
            update_errors::<Endpoints>(&lax, &with(&lax, "/metadata/labels", json!({"a": "b"})), "").len(),
            0
        );
        assert_eq!(
            update_errors::<Endpoints>(&lax, &with(&lax, "/subsets/0/ports/0/port", json!(81)), "").len(),
            1
        );
    }

    #[test]
    fn odd_addresses_warn_unless_the_controller_writes_them() {
        let odd = with(&valid(), "/subsets/0/addresses/0/ip", json!("2001:DB8::1"));
        assert_eq!(
            create_warnings::<Endpoints>(&odd),
            [
                r#"subsets[0].addresses[0].ip: IPv6 address "2001:DB8::1" should be in RFC 5952 canonical format ("2001:db8::1")"#
            ]
        );
        let (label, controller) = MANAGED_BY;
        let managed = with(&odd, "/metadata/labels", json!({label: controller}));
        assert!(create_warnings::<Endpoints>(&managed).is_empty());
    }

    #[test]
    fn columns() {
        let ips = |n: usize| -> Value { (1..=n).map(|i| json!({"ip": format!("10.0.0.{i}")})).collect() };
        let table = [
            (json!(null), "<none>"),
            (json!([{"addresses": ips(1), "ports": [{"port": 80}]}]), "10.0.0.1:80"),
            (json!([{"addresses": [{"ip": "fd00::1"}], "ports": [{"port": 80}]}]), "[fd00::1]:80"),
            (
                json!([{"addresses": ips(2), "ports": [{"port": 80, "name": "a"}, {"port": 90, "name": "b"}]}]),
                "10.0.0.1:80,10.0.0.2:80,10.0.0.1:90 + 1 more...",
            ),
            (json!([{"addresses": ips(5)}]), "10.0.0.1,10.0.0.2,10.0.0.3 + 2 more..."),
            (json!([{"notReadyAddresses": ips(5)}]), ""),
        ];
        for (subsets, expected) in table {
            let json = json!({"metadata": {"name": "e"}, "subsets": subsets});
            assert_eq!(row::<Endpoints>(&json)[1], expected);
        }
    }
}
