//! Ingress.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, HTTPIngressRuleValue, Ingress, IngressBackend, IngressLoadBalancerIngress, IngressRule,
    IngressServiceBackend, IngressSpec, IngressStatus, IngressTLS,
};

use super::ingress_class::validate_reference;
use crate::context::Context;
use crate::field::{Errors, Json, Path};
use crate::kind::{Kind, KindInfo};
use crate::kinds::core::shared;
use crate::meta;
use crate::meta::format::parse_ip_sloppy;
use crate::table::{Cell, Column};

/// Where the class stood before `spec.ingressClassName`.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
/// In the order in which messages list them.
const PATH_TYPES: &[&str] = &["Exact", "ImplementationSpecific", "Prefix"];
/// What a path that is compared by segments may not contain: servers read these in different ways.
const BAD_SEQUENCES: &[&str] = &["//", "/./", "/../", "%2f", "%2F"];
const BAD_SUFFIXES: &[&str] = &["/..", "/."];
/// Hosts that the table names one by one.
const HOSTS_SHOWN: usize = 3;
/// Addresses beyond this are cut in the table.
const ADDRESS_WIDTH: usize = 16;

impl Kind for Ingress {
    fn info() -> KindInfo {
        KindInfo::of::<Ingress>().short("ing").status()
    }

    fn prepare_create(&mut self, _: &Context<'_>) {
        self.status = Some(IngressStatus::default());
    }

    fn prepare_update(&mut self, old: &Self, cx: &Context<'_>) {
        if cx.is_status() {
            self.spec.clone_from(&old.spec);
        } else {
            self.status.clone_from(&old.status);
        }
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        validate_spec(self, &Allowed::default(), errors);
        let class = self.spec.as_ref().and_then(|s| s.ingress_class_name.as_deref());
        if let (Some(annotation), Some(class)) = (class_annotation(self), class)
            && annotation != class
        {
            errors.invalid(
                &Path::root("annotations").child(CLASS_ANNOTATION),
                annotation,
                "must match `ingressClassName` when both are specified",
            );
        }
    }

    fn validate_update(&self, old: &Self, cx: &Context<'_>, errors: &mut Errors) {
        if cx.is_status() {
            validate_status(self, old, errors);
        } else {
            validate_spec(self, &Allowed::by(old), errors);
        }
    }

    fn generation_changed(&self, old: Option<&Self>) -> Option<bool> {
        Some(old.is_none_or(|old| !meta::same(&self.spec, &old.spec)))
    }

    fn warnings(&self, old: Option<&Self>, cx: &Context<'_>) -> Vec<String> {
        let mut warnings = Vec::new();
        if cx.is_status() {
            let path = Path::root("status");
            let path = path.child("loadBalancer");
            let path = path.child("ingress");
            for (i, point) in points(self).iter().enumerate() {
                if let Some(ip) = point.ip.as_deref().filter(|ip| !ip.is_empty()) {
                    // Without the name of the field: upstream's choice.
                    shared::ip_warnings(ip, &path.index(i), &mut warnings);
                }
            }
        } else if old.is_none()
            && class_annotation(self).is_some()
            && self.spec.as_ref().is_none_or(|s| s.ingress_class_name.is_none())
        {
            warnings.push(format!(
                "annotation {CLASS_ANNOTATION:?} is deprecated, please use 'spec.ingressClassName' instead"
            ));
        }
        warnings
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::string("Class", "The class, whose controller serves the ingress."),
            Column::string("Hosts", "The hosts of the rules."),
            Column::string("Address", "Where the load balancer is reached."),
            Column::string("Ports", "The ports that are open."),
            Column::AGE,
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let spec = self.spec.as_ref();
        let secure = spec.and_then(|s| s.tls.as_ref()).is_some_and(|t| !t.is_empty());
        vec![
            meta::name_cell(&self.metadata),
            spec.and_then(|s| s.ingress_class_name.as_deref()).unwrap_or("<none>").into(),
            hosts(spec.and_then(|s| s.rules.as_deref()).unwrap_or_default()).into(),
            addresses(points(self)).into(),
            if secure { "80, 443" } else { "80" }.into(),
            meta::age_cell(&self.metadata, now),
        ]
    }
}

fn class_annotation(ingress: &Ingress) -> Option<&str> {
    ingress.metadata.annotations.as_ref()?.get(CLASS_ANNOTATION).map(String::as_str)
}

fn points(ingress: &Ingress) -> &[IngressLoadBalancerIngress] {
    let balancer = ingress.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    balancer.and_then(|b| b.ingress.as_deref()).unwrap_or_default()
}

fn hosts(rules: &[IngressRule]) -> String {
    let mut shown = Vec::new();
    let mut more = false;
    for rule in rules {
        more |= shown.len() == HOSTS_SHOWN;
        if let Some(host) = rule.host.as_deref().filter(|h| !more && !h.is_empty()) {
            shown.push(host);
        }
    }
    match shown.join(",") {
        text if text.is_empty() => "*".to_owned(),
        text if more => format!("{text} + {} more...", rules.len() - HOSTS_SHOWN),
        text => text,
    }
}

fn addresses(points: &[IngressLoadBalancerIngress]) -> String {
    let filled = |text: &'_ Option<String>| text.clone().filter(|t| !t.is_empty());
    let all: BTreeSet<String> =
        points.iter().filter_map(|p| filled(&p.ip).or_else(|| filled(&p.hostname))).collect();
    let mut text = all.into_iter().collect::<Vec<_>>().join(",");
    if text.len() > ADDRESS_WIDTH {
        // Hosts are ASCII; a status that was stored before it was checked may not be.
        let mut cut = ADDRESS_WIDTH - "...".len();
        while !text.is_char_boundary(cut) {
            cut -= 1;
        }
        text.truncate(cut);
        text.push_str("...");
    }
    text
}

/// What an update may keep although it is wrong, because it was there before the rule against it.
#[derive(Default)]
struct Allowed {
    secret_names: bool,
    wildcard_rules: bool,
}

impl Allowed {
    fn by(old: &Ingress) -> Allowed {
        let none = IngressSpec::default();
        let spec = old.spec.as_ref().unwrap_or(&none);
        let bad_rule = |rule: &IngressRule| {
            let mut errors = Errors::new();
            if rule.host.as_deref().is_some_and(|h| h.contains('*')) {
                validate_rule(rule.http.as_ref(), &Path::empty(), &mut errors);
            }
            !errors.is_empty()
        };
        Allowed {
            secret_names: spec.tls.iter().flatten().any(|t| !secret_name_errors(t).is_empty()),
            wildcard_rules: spec.rules.iter().flatten().any(bad_rule),
        }
    }
}

fn secret_name_errors(tls: &IngressTLS) -> Vec<String> {
    match tls.secret_name.as_deref() {
        None | Some("") => Vec::new(),
        Some(name) => meta::dns1123_subdomain_errors(name),
    }
}

fn validate_spec(ingress: &Ingress, allowed: &Allowed, errors: &mut Errors) {
    let none = IngressSpec::default();
    let spec = ingress.spec.as_ref().unwrap_or(&none);
    let path = Path::root("spec");
    let rules = spec.rules.as_deref().unwrap_or_default();
    if rules.is_empty() && spec.default_backend.is_none() {
        errors.invalid(&path, Json(&spec.rules), "either `defaultBackend` or `rules` must be specified");
    }
    if let Some(backend) = &spec.default_backend {
        validate_backend(backend, &path.child("defaultBackend"), errors);
    }
    for (i, rule) in rules.iter().enumerate() {
        let path = path.child("rules");
        let path = path.index(i);
        let host = rule.host.as_deref().unwrap_or_default();
        validate_host(host, &path.child("host"), errors);
        if !(allowed.wildcard_rules && host.contains('*')) {
            validate_rule(rule.http.as_ref(), &path, errors);
        }
    }
    for (i, tls) in spec.tls.iter().flatten().enumerate() {
        let path = path.child("tls");
        let path = path.index(i);
        for (j, host) in tls.hosts.iter().flatten().enumerate() {
            validate_host_form(host, &path.child("hosts").index(j), errors);
        }
        if !allowed.secret_names {
            for message in secret_name_errors(tls) {
                let name = tls.secret_name.as_deref().unwrap_or_default();
                errors.invalid(&path.child("secretName"), name, &message);
            }
        }
    }
    if let Some(class) = &spec.ingress_class_name {
        shared::dns_subdomain(class, &path.child("ingressClassName"), errors);
    }
}

fn validate_host(host: &str, path: &Path<'_>, errors: &mut Errors) {
    if host.is_empty() {
        return;
    }
    if parse_ip_sloppy(host).is_some() {
        errors.invalid(path, host, "must be a DNS name, not an IP address");
    }
    validate_host_form(host, path, errors);
}

fn validate_host_form(host: &str, path: &Path<'_>, errors: &mut Errors) {
    let messages = if host.contains('*') {
        meta::wildcard_subdomain_errors(host)
    } else {
        meta::dns1123_subdomain_errors(host)
    };
    for message in messages {
        errors.invalid(path, host, &message);
    }
}

fn validate_rule(http: Option<&HTTPIngressRuleValue>, path: &Path<'_>, errors: &mut Errors) {
    let Some(http) = http else { return };
    let path = path.child("http");
    let path = path.child("paths");
    if http.paths.is_empty() {
        errors.required(&path, "");
    }
    for (i, rule) in http.paths.iter().enumerate() {
        validate_path(rule, &path.index(i), errors);
    }
}

fn validate_path(rule: &HTTPIngressPath, path: &Path<'_>, errors: &mut Errors) {
    let text = rule.path.as_deref().unwrap_or_default();
    let text_path = path.child("path");
    match rule.path_type.as_str() {
        "" => {
            errors.required(&path.child("pathType"), "pathType must be specified");
            return;
        }
        "Exact" | "Prefix" => {
            if !text.starts_with('/') {
                errors.invalid(&text_path, text, "must be an absolute path");
            }
            for bad in BAD_SEQUENCES.iter().filter(|bad| text.contains(**bad)) {
                errors.invalid(&text_path, text, &format!("must not contain '{bad}'"));
            }
            for bad in BAD_SUFFIXES.iter().filter(|bad| text.ends_with(**bad)) {
                errors.invalid(&text_path, text, &format!("cannot end with '{bad}'"));
            }
        }
        "ImplementationSpecific" => {
            if !text.is_empty() && !text.starts_with('/') {
                errors.invalid(&text_path, text, "must be an absolute path");
            }
        }
        other => errors.not_supported(&path.child("pathType"), other, PATH_TYPES),
    }
    validate_backend(&rule.backend, &path.child("backend"), errors);
}

fn validate_backend(backend: &IngressBackend, path: &Path<'_>, errors: &mut Errors) {
    match (&backend.resource, &backend.service) {
        (Some(_), Some(_)) => errors.invalid(path, "", "cannot set both resource and service backends"),
        (Some(resource), None) => {
            let group = resource.api_group.as_deref();
            validate_reference(group, &resource.kind, &resource.name, &path.child("resource"), errors);
        }
        (None, Some(service)) => validate_service(service, path, errors),
        (None, None) => errors.invalid(path, "", "resource or service backend is required"),
    }
}

fn validate_service(service: &IngressServiceBackend, path: &Path<'_>, errors: &mut Errors) {
    let service_path = path.child("service");
    if service.name.is_empty() {
        errors.required(&service_path.child("name"), "");
    } else {
        shared::dns_label(&service.name, &service_path.child("name"), errors);
    }
    let port = service.port.as_ref();
    let name = port.and_then(|p| p.name.as_deref()).unwrap_or_default();
    let number = port.and_then(|p| p.number).unwrap_or_default();
    let port_path = service_path.child("port");
    match (name, number) {
        ("", 0) => errors.required(path, "port name or number is required"),
        ("", number) => meta::validate_port_num(number, &port_path.child("number"), errors),
        (name, 0) => {
            for message in meta::port_name_errors(name) {
                errors.invalid(&port_path.child("name"), name, &message);
            }
        }
        _ => errors.invalid(path, "", "cannot set both port name & port number"),
    }
}

fn validate_status(new: &Ingress, old: &Ingress, errors: &mut Errors) {
    let known: Vec<String> = points(old).iter().filter_map(|p| p.ip.clone()).collect();
    let path = Path::root("status");
    let path = path.child("loadBalancer");
    let path = path.child("ingress");
    for (i, point) in points(new).iter().enumerate() {
        let path = path.index(i);
        if let Some(ip) = point.ip.as_deref().filter(|ip| !ip.is_empty()) {
            shared::legacy_ip(ip, &path.child("ip"), &known, errors);
        }
        if let Some(host) = point.hostname.as_deref().filter(|h| !h.is_empty()) {
            let path = path.child("hostname");
            shared::dns_subdomain(host, &path, errors);
            if parse_ip_sloppy(host).is_some() {
                errors.invalid(&path, host, "must be a DNS name, not an IP address");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::tables::{
        check_create, check_update, object, patched, row, update_errors, with_context,
    };
    use serde_json::{Value, json};

    fn good() -> Value {
        json!({
            "metadata": {"name": "i", "creationTimestamp": "1970-01-01T00:00:00Z"},
            "spec": {
                "ingressClassName": "c",
                "defaultBackend": {"service": {"name": "1svc", "port": {"number": 80}}},
                "tls": [{"hosts": ["a.io", "*.b.io"], "secretName": "s"}, {}],
                "rules": [{"host": "*.a.io", "http": {"paths": [
                    {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "a", "port": {"name": "http"}}}},
                    {"pathType": "ImplementationSpecific", "backend": {"resource": {"kind": "K", "name": "n"}}},
                ]}}, {}],
            },
        })
    }

    fn path(path: &str, kind: &str) -> Value {
        let backend = json!({"service": {"name": "a", "port": {"number": 1}}});
        json!({"spec": {"rules": [{"http": {"paths": [{"path": path, "pathType": kind, "backend": backend}]}}]}})
    }

    fn backend(backend: Value) -> Value {
        json!({"spec": {"defaultBackend": backend}})
    }

    #[test]
    fn validation() {
        let at = "spec.rules[0].http.paths[0]";
        let invalid = |text: &str, why: &str| format!(r#"{at}.path: Invalid value: "{text}": {why}"#);
        let texts = [
            ("x", "Prefix", "must be an absolute path"),
            ("/a//b", "Exact", "must not contain '//'"),
            ("/a/./b", "Exact", "must not contain '/./'"),
            ("/a%2fb", "Prefix", "must not contain '%2f'"),
            ("/a/..", "Exact", "cannot end with '/..'"),
            ("x", "ImplementationSpecific", "must be an absolute path"),
        ];
        for (text, kind, why) in texts {
            check_create::<Ingress>(&good(), &[(path(text, kind), &invalid(text, why))]);
        }
        let table = [
            (path("", "ImplementationSpecific"), ""),
            (
                path("/", ""),
                "spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified",
            ),
            (
                path("/", "x"),
                r#"spec.rules[0].http.paths[0].pathType: Unsupported value: "x": supported values: "Exact", "ImplementationSpecific", "Prefix""#,
            ),
            (
                json!({"spec": {"rules": null, "defaultBackend": null}}),
                "spec: Invalid value: null: either `defaultBackend` or `rules` must be specified",
            ),
            (
                json!({"spec": {"rules": [{"http": {"paths": []}}]}}),
                "spec.rules[0].http.paths: Required value",
            ),
            (
                json!({"spec": {"rules": [{"host": "1.2.3.4"}]}}),
                r#"spec.rules[0].host: Invalid value: "1.2.3.4": must be a DNS name, not an IP address"#,
            ),
            (
                json!({"spec": {"rules": [{"host": "a.*.io"}]}}),
                r#"spec.rules[0].host: Invalid value: "a.*.io": a wildcard DNS-1123 subdomain"#,
            ),
            (
                json!({"spec": {"tls": [{"hosts": ["A"]}]}}),
                r#"spec.tls[0].hosts[0]: Invalid value: "A": a lowercase RFC 1123 subdomain"#,
            ),
            (
                json!({"spec": {"tls": [{"secretName": "A"}]}}),
                r#"spec.tls[0].secretName: Invalid value: "A": a lowercase RFC 1123 subdomain"#,
            ),
            (
                json!({"spec": {"ingressClassName": "A"}}),
                r#"spec.ingressClassName: Invalid value: "A": a lowercase"#,
            ),
            (
                backend(json!({"service": null})),
                r#"spec.defaultBackend: Invalid value: "": resource or service backend is required"#,
            ),
            (
                backend(json!({"resource": {"kind": "K", "name": "n"}})),
                r#"spec.defaultBackend: Invalid value: "": cannot set both resource and service backends"#,
            ),
            (
                backend(json!({"service": {"port": null}})),
                "spec.defaultBackend: Required value: port name or number is required",
            ),
            (
                backend(json!({"service": {"port": {"name": "x"}}})),
                r#"spec.defaultBackend: Invalid value: "": cannot set both port name & port number"#,
            ),
            (
                backend(json!({"service": {"port": {"number": 70000}}})),
                "spec.defaultBackend.service.port.number: Invalid value: 70000: must be between 1 and 65535",
            ),
            (backend(json!({"service": {"name": ""}})), "spec.defaultBackend.service.name: Required value"),
            (
                backend(json!({"service": {"name": "a.b"}})),
                r#"spec.defaultBackend.service.name: Invalid value: "a.b": must not contain dots"#,
            ),
        ];
        check_create::<Ingress>(&good(), &table);
        check_update::<Ingress>(&good(), "", &table);
        let class = json!({"metadata": {"annotations": {CLASS_ANNOTATION: "d"}}});
        check_create::<Ingress>(
            &good(),
            &[(class.clone(), r#"annotations.kubernetes.io/ingress.class: Invalid value: "d": must match"#)],
        );
        check_update::<Ingress>(&good(), "", &[(class, "")]);
        let point = |point: Value| json!({"status": {"loadBalancer": {"ingress": [point]}}});
        check_update::<Ingress>(
            &good(),
            "status",
            &[
                (point(json!({"ip": "1.2.3.4", "hostname": "a.io"})), ""),
                (
                    point(json!({"ip": "x"})),
                    r#"status.loadBalancer.ingress[0].ip: Invalid value: "x": must be a valid IP"#,
                ),
                (
                    point(json!({"hostname": "1.2.3.4"})),
                    r#"status.loadBalancer.ingress[0].hostname: Invalid value: "1.2.3.4": must be a DNS name"#,
                ),
            ],
        );
    }

    #[test]
    fn an_update_keeps_what_was_stored() {
        let secret = patched(&good(), &json!({"spec": {"tls": [{"secretName": "A"}]}}));
        let other = patched(&good(), &json!({"spec": {"tls": [{"secretName": "B"}]}}));
        assert_eq!(update_errors::<Ingress>(&other, &secret, ""), "");
        assert_ne!(update_errors::<Ingress>(&other, &good(), ""), "");
        let wild = patched(&good(), &json!({"spec": {"rules": [{"host": "*.a", "http": {"paths": []}}]}}));
        assert_eq!(update_errors::<Ingress>(&wild, &wild, ""), "");
        assert_ne!(update_errors::<Ingress>(&wild, &good(), ""), "");
    }

    #[test]
    fn rows_warnings_generation_and_status() {
        assert_eq!(row::<Ingress>(&good()), json!(["i", "c", "*.a.io", "", "80, 443", "60s"]));
        let rules: Vec<Value> =
            ["a", "b", "c", "d", "e"].iter().map(|h| json!({"host": format!("{h}.io")})).collect();
        let many = json!({
            "spec": {"rules": rules, "tls": null, "ingressClassName": null},
            "status": {"loadBalancer": {"ingress": [{"hostname": "load-balancer.example.com"}, {"ip": "1.2.3.4"}]}},
        });
        let many = patched(&good(), &many);
        assert_eq!(
            row::<Ingress>(&many),
            json!(["i", "<none>", "a.io,b.io,c.io + 2 more...", "1.2.3.4,load-...", "80", "60s"])
        );
        assert_eq!(row::<Ingress>(&json!({}))[2], "*");
        let old: Ingress = object(&good());
        let annotated = json!({
            "metadata": {"annotations": {CLASS_ANNOTATION: "d"}},
            "spec": {"ingressClassName": null},
            "status": {"loadBalancer": {"ingress": [{"ip": "010.1.1.1"}]}},
        });
        let new: Ingress = object(&patched(&good(), &annotated));
        with_context("", |cx| {
            assert!(old.warnings(None, cx).is_empty());
            assert_eq!(
                new.warnings(None, cx),
                [
                    r#"annotation "kubernetes.io/ingress.class" is deprecated, please use 'spec.ingressClassName' instead"#
                ]
            );
            assert!(new.warnings(Some(&old), cx).is_empty());
            let mut written = new.clone();
            written.prepare_update(&old, cx);
            assert!(written.status == old.status && written.spec == new.spec);
        });
        with_context("status", |cx| {
            assert_eq!(
                new.warnings(Some(&old), cx),
                [
                    r#"status.loadBalancer.ingress[0]: non-standard IP address "010.1.1.1" is invalid: use "10.1.1.1""#
                ]
            );
            let mut written = new.clone();
            written.prepare_update(&old, cx);
            assert!(written.status == new.status && written.spec == old.spec);
        });
        assert_eq!(new.generation_changed(Some(&old)), Some(true));
        assert_eq!(old.generation_changed(Some(&old)), Some(false));
    }
}
