//! NetworkPolicy.

use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::context::Context;
use crate::field::{Errors, Json, Path};
use crate::kind::{Kind, KindInfo};
use crate::kinds::checks;
use crate::kinds::core::shared;
use crate::meta;
use crate::meta::format::{masked, parse_cidr_sloppy};
use crate::table::{Cell, Column};

/// In the order in which messages list them.
const PROTOCOLS: &[&str] = &["TCP", "UDP", "SCTP"];
const POLICY_TYPES: &[&str] = &["Ingress", "Egress"];

impl Kind for NetworkPolicy {
    fn info() -> KindInfo {
        KindInfo::of::<NetworkPolicy>().short("netpol")
    }

    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        if spec.policy_types.as_ref().is_none_or(Vec::is_empty) {
            let both = spec.egress.as_ref().is_some_and(|e| !e.is_empty());
            let types = if both { POLICY_TYPES } else { &POLICY_TYPES[..1] };
            spec.policy_types = Some(types.iter().map(|t| (*t).to_owned()).collect());
        }
        let ingress = spec.ingress.iter_mut().flatten().flat_map(|r| r.ports.iter_mut().flatten());
        let egress = spec.egress.iter_mut().flatten().flat_map(|r| r.ports.iter_mut().flatten());
        for port in ingress.chain(egress) {
            port.protocol.get_or_insert_with(|| "TCP".to_owned());
        }
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        validate_spec(self, &Allowed::default(), errors);
    }

    fn validate_update(&self, old: &Self, _: &Context<'_>, errors: &mut Errors) {
        // Nobody can tell which rule of the old policy a rule was, so what it had anywhere may stay.
        let mut allowed = Allowed::default();
        for_each_block(old, |_, block| {
            allowed.cidrs.push(block.cidr.clone());
            allowed.cidrs.extend(block.except.iter().flatten().cloned());
        });
        if let Some(selector) = old.spec.as_ref().and_then(|s| s.pod_selector.as_ref()) {
            let mut old_errors = Errors::new();
            checks::validate_label_selector(selector, &Path::root("podSelector"), &mut old_errors);
            allowed.label_values = !old_errors.is_empty();
        }
        validate_spec(self, &allowed, errors);
    }

    fn generation_changed(&self, old: Option<&Self>) -> Option<bool> {
        Some(old.is_none_or(|old| self.spec != old.spec))
    }

    fn warnings(&self, _: Option<&Self>, _: &Context<'_>) -> Vec<String> {
        let mut warnings = Vec::new();
        for_each_block(self, |path, block| {
            shared::cidr_warnings(&block.cidr, &path.child("cidr"), &mut warnings);
            let except = path.child("except");
            for (i, cidr) in block.except.iter().flatten().enumerate() {
                shared::cidr_warnings(cidr, &except.index(i), &mut warnings);
            }
        });
        warnings
    }

    fn columns() -> Vec<Column> {
        vec![Column::NAME, Column::string("Pod-Selector", "The pods that the policy is about."), Column::AGE]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let selector = self.spec.as_ref().and_then(|s| s.pod_selector.as_ref());
        vec![
            meta::name_cell(&self.metadata),
            checks::selector_cell(selector),
            meta::age_cell(&self.metadata, now),
        ]
    }
}

/// What an update may keep although it is wrong, because it was there before the rule against it.
#[derive(Default)]
struct Allowed {
    cidrs: Vec<String>,
    /// Malformed values in expressions of selectors.
    label_values: bool,
}

/// All blocks of a policy, those of ingress rules first.
fn for_each_block(policy: &NetworkPolicy, mut run: impl FnMut(&Path<'_>, &IPBlock)) {
    let Some(spec) = &policy.spec else { return };
    let path = Path::root("spec");
    let mut visit = |rules: &str, rule: usize, peers: &str, list: &[NetworkPolicyPeer]| {
        let path = path.child(rules);
        let path = path.index(rule);
        let path = path.child(peers);
        for (i, peer) in list.iter().enumerate() {
            if let Some(block) = &peer.ip_block {
                run(&path.index(i).child("ipBlock"), block);
            }
        }
    };
    for (i, rule) in spec.ingress.iter().flatten().enumerate() {
        visit("ingress", i, "from", rule.from.as_deref().unwrap_or_default());
    }
    for (i, rule) in spec.egress.iter().flatten().enumerate() {
        visit("egress", i, "to", rule.to.as_deref().unwrap_or_default());
    }
}

fn validate_spec(policy: &NetworkPolicy, allowed: &Allowed, errors: &mut Errors) {
    let none = NetworkPolicySpec::default();
    let spec = policy.spec.as_ref().unwrap_or(&none);
    let path = Path::root("spec");
    if let Some(selector) = &spec.pod_selector {
        validate_selector(selector, allowed, &path.child("podSelector"), errors);
    }
    for (i, rule) in spec.ingress.iter().flatten().enumerate() {
        let path = path.child("ingress");
        let path = path.index(i);
        validate_ports(rule.ports.as_deref().unwrap_or_default(), &path.child("ports"), errors);
        validate_peers(rule.from.as_deref().unwrap_or_default(), allowed, &path.child("from"), errors);
    }
    for (i, rule) in spec.egress.iter().flatten().enumerate() {
        let path = path.child("egress");
        let path = path.index(i);
        validate_ports(rule.ports.as_deref().unwrap_or_default(), &path.child("ports"), errors);
        validate_peers(rule.to.as_deref().unwrap_or_default(), allowed, &path.child("to"), errors);
    }
    let types = spec.policy_types.as_deref().unwrap_or_default();
    let path = path.child("policyTypes");
    if types.len() > POLICY_TYPES.len() {
        errors.invalid(&path, Json(&types), "may not specify more than two policyTypes");
        return;
    }
    for (i, policy_type) in types.iter().enumerate() {
        if !POLICY_TYPES.contains(&policy_type.as_str()) {
            errors.not_supported(&path.index(i), policy_type, POLICY_TYPES);
        }
    }
}

fn validate_selector(selector: &LabelSelector, allowed: &Allowed, path: &Path<'_>, errors: &mut Errors) {
    let options = meta::LabelSelectorOptions {
        allow_invalid_values: allowed.label_values,
        ..meta::LabelSelectorOptions::default()
    };
    meta::validate_label_selector(selector, options, path, errors);
}

fn validate_ports(ports: &[NetworkPolicyPort], path: &Path<'_>, errors: &mut Errors) {
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        let end_path = path.child("endPort");
        if let Some(protocol) = port.protocol.as_deref().filter(|p| !PROTOCOLS.contains(p)) {
            errors.not_supported(&path.child("protocol"), protocol, PROTOCOLS);
        }
        match (&port.port, port.end_port) {
            (Some(IntOrString::Int(first)), end) => {
                meta::validate_port_num(*first, &path.child("port"), errors);
                if let Some(end) = end {
                    if end < *first {
                        // The value shown is upstream's choice.
                        errors.invalid(&end_path, *first, "must be greater than or equal to `port`");
                    }
                    meta::validate_port_num(end, &end_path, errors);
                }
            }
            (Some(name), end) => {
                if let Some(end) = end {
                    errors.invalid(&end_path, end, "may not be specified when `port` is non-numeric");
                }
                meta::validate_port_num_or_name(name, &path.child("port"), errors);
            }
            (None, Some(end)) => {
                errors.invalid(&end_path, end, "may not be specified when `port` is not specified");
            }
            (None, None) => {}
        }
    }
}

fn validate_peers(peers: &[NetworkPolicyPeer], allowed: &Allowed, path: &Path<'_>, errors: &mut Errors) {
    for (i, peer) in peers.iter().enumerate() {
        let path = path.index(i);
        if let Some(selector) = &peer.pod_selector {
            validate_selector(selector, allowed, &path.child("podSelector"), errors);
        }
        if let Some(selector) = &peer.namespace_selector {
            validate_selector(selector, allowed, &path.child("namespaceSelector"), errors);
        }
        if let Some(block) = &peer.ip_block {
            validate_block(block, allowed, &path.child("ipBlock"), errors);
        }
        let selects = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
        match (selects, peer.ip_block.is_some()) {
            (false, false) => errors.required(&path, "must specify a peer"),
            (true, true) => errors.forbidden(&path, "may not specify both ipBlock and another peer"),
            _ => {}
        }
    }
}

fn validate_block(block: &IPBlock, allowed: &Allowed, path: &Path<'_>, errors: &mut Errors) {
    let cidr_path = path.child("cidr");
    if block.cidr.is_empty() {
        errors.required(&cidr_path, "");
        return;
    }
    let check = |cidr: &String, path: &Path<'_>, errors: &mut Errors| {
        if !allowed.cidrs.contains(cidr) {
            shared::legacy_cidr(cidr, path, errors);
        }
        parse_cidr_sloppy(cidr)
    };
    let Some((ip, len)) = check(&block.cidr, &cidr_path, errors) else { return };
    let except_path = path.child("except");
    for (i, except) in block.except.iter().flatten().enumerate() {
        let path = except_path.index(i);
        let Some((except_ip, except_len)) = check(except, &path, errors) else { continue };
        let within = ip.is_ipv4() == except_ip.is_ipv4() && masked(except_ip, len) == masked(ip, len);
        if !within || len >= except_len {
            errors.invalid(&path, except, "must be a strict subset of `cidr`");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::tables::{
        check_create, check_update, defaulted, object, patched, row, update_errors, with_context,
    };
    use serde_json::{Value, json};

    fn good() -> Value {
        json!({
            "metadata": {"name": "p", "creationTimestamp": "1970-01-01T00:00:00Z"},
            "spec": {
                "podSelector": {"matchLabels": {"a": "b"}},
                "ingress": [{"ports": [{"port": 80, "endPort": 90}, {"port": "http", "protocol": "UDP"}],
                             "from": [{"podSelector": {}, "namespaceSelector": {}}]}],
                "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}]}, {}],
            },
        })
    }

    fn port(port: Value) -> Value {
        json!({"spec": {"ingress": [{"ports": [port]}]}})
    }

    fn to(peer: Value) -> Value {
        json!({"spec": {"egress": [{"to": [peer]}]}})
    }

    fn block(cidr: &str, except: &str) -> Value {
        to(json!({"ipBlock": {"cidr": cidr, "except": [except]}}))
    }

    #[test]
    fn validation() {
        let table = [
            (json!({"spec": null}), ""),
            (
                json!({"spec": {"podSelector": {"matchLabels": {"a": "-"}}}}),
                r#"spec.podSelector.matchLabels: Invalid value: "-": a valid label"#,
            ),
            (
                port(json!({"protocol": "x"})),
                r#"spec.ingress[0].ports[0].protocol: Unsupported value: "x": supported values: "TCP", "UDP", "SCTP""#,
            ),
            (
                port(json!({"port": 0})),
                "spec.ingress[0].ports[0].port: Invalid value: 0: must be between 1 and",
            ),
            (
                port(json!({"port": "80"})),
                r#"spec.ingress[0].ports[0].port: Invalid value: "80": must contain"#,
            ),
            (
                port(json!({"port": 80, "endPort": 79})),
                "spec.ingress[0].ports[0].endPort: Invalid value: 80: must be greater than or equal to `port`",
            ),
            (
                port(json!({"port": 80, "endPort": 65536})),
                "spec.ingress[0].ports[0].endPort: Invalid value: 65536: must be between 1 and 65535, inclusive",
            ),
            (
                port(json!({"port": "a", "endPort": 79})),
                "spec.ingress[0].ports[0].endPort: Invalid value: 79: may not be specified when `port` is non-numeric",
            ),
            (
                port(json!({"endPort": 79})),
                "spec.ingress[0].ports[0].endPort: Invalid value: 79: may not be specified when `port` is not specified",
            ),
            (to(json!({})), "spec.egress[0].to[0]: Required value: must specify a peer"),
            (
                to(json!({"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}})),
                "spec.egress[0].to[0]: Forbidden: may not specify both ipBlock and another peer",
            ),
            (
                to(json!({"namespaceSelector": {"matchLabels": {"": "a"}}})),
                r#"[spec.egress[0].to[0].namespaceSelector.matchLabels: Invalid value: "": name part must be non-empty"#,
            ),
            (to(json!({"ipBlock": {"cidr": ""}})), "spec.egress[0].to[0].ipBlock.cidr: Required value"),
            (
                to(json!({"ipBlock": {"cidr": "x"}})),
                r#"spec.egress[0].to[0].ipBlock.cidr: Invalid value: "x": must be a valid CIDR value"#,
            ),
            (block("2001:db8::/32", "2001:db8:1::/48"), ""),
            (
                block("10.0.0.0/8", "10.0.0.0/8"),
                r#"spec.egress[0].to[0].ipBlock.except[0]: Invalid value: "10.0.0.0/8": must be a strict subset of `cidr`"#,
            ),
            (
                block("10.0.0.0/8", "11.0.0.0/16"),
                r#"spec.egress[0].to[0].ipBlock.except[0]: Invalid value: "11."#,
            ),
            (
                block("10.0.0.0/8", "2001::/64"),
                r#"spec.egress[0].to[0].ipBlock.except[0]: Invalid value: "2001"#,
            ),
            (
                json!({"spec": {"policyTypes": ["x"]}}),
                r#"spec.policyTypes[0]: Unsupported value: "x": supported values: "Ingress", "Egress""#,
            ),
            (
                json!({"spec": {"policyTypes": ["Ingress", "Egress", "Egress"]}}),
                r#"spec.policyTypes: Invalid value: ["Ingress","Egress","Egress"]: may not specify more than two"#,
            ),
        ];
        check_create::<NetworkPolicy>(&good(), &table);
        check_update::<NetworkPolicy>(&good(), "", &table);
    }

    #[test]
    fn an_update_keeps_what_was_stored() {
        let bad =
            |value: &str| json!({"matchExpressions": [{"key": "a", "operator": "In", "values": [value]}]});
        let with = |selector: Value| json!({"spec": {"podSelector": selector, "egress": [{"to": [{"ipBlock": {"cidr": "010.0.0.0/8"}}]}]}});
        let old = patched(&good(), &with(bad("-a")));
        assert_eq!(update_errors::<NetworkPolicy>(&patched(&good(), &with(bad("-b"))), &old, ""), "");
        let fine = patched(&good(), &json!({"spec": {"podSelector": {}}}));
        let errors = update_errors::<NetworkPolicy>(&old, &fine, "");
        assert!(
            errors.contains("podSelector.matchExpressions[0].values[0]") && errors.contains("010.0.0.0/8")
        );
    }

    #[test]
    fn defaults_generation_row_and_warnings() {
        let spec = |json: Value| defaulted::<NetworkPolicy>(&json)["spec"].clone();
        assert_eq!(spec(json!({}))["policyTypes"], json!(["Ingress"]));
        assert_eq!(spec(json!({"spec": {"egress": [{}]}}))["policyTypes"], json!(["Ingress", "Egress"]));
        assert_eq!(
            spec(json!({"spec": {"egress": [{}], "policyTypes": ["Egress"]}}))["policyTypes"],
            json!(["Egress"])
        );
        assert_eq!(spec(good())["ingress"][0]["ports"][0]["protocol"], "TCP");
        assert_eq!(row::<NetworkPolicy>(&good()), json!(["p", "a=b", "60s"]));
        assert_eq!(row::<NetworkPolicy>(&json!({})), json!(["", "<none>", "<unknown>"]));
        let policy: NetworkPolicy = object(&good());
        let other = json!({"spec": {"podSelector": {"matchLabels": {"a": "c"}}}});
        let changed: NetworkPolicy = object(&patched(&good(), &other));
        assert_eq!(policy.generation_changed(None), Some(true));
        assert_eq!(policy.generation_changed(Some(&policy)), Some(false));
        assert_eq!(changed.generation_changed(Some(&policy)), Some(true));
        let odd: NetworkPolicy = object(&patched(&good(), &block("2001:DB8::/32", "2001:db8:1::/48")));
        with_context("", |cx| {
            assert!(policy.warnings(None, cx).is_empty());
            assert_eq!(
                odd.warnings(None, cx),
                [
                    r#"spec.egress[0].to[0].ipBlock.cidr: IPv6 CIDR value "2001:DB8::/32" should be in RFC 5952 canonical format ("2001:db8::/32")"#
                ]
            );
        });
    }
}
