use super::*;
use crate::kinds::core::testing::*;
use proptest::prelude::*;
use serde_json::{Value, json};

const V4: ClusterFamilies = ClusterFamilies { primary: IpFamily::V4, dual: false };
const DUAL: ClusterFamilies = ClusterFamilies { primary: IpFamily::V4, dual: true };

fn valid() -> Value {
    json!({"metadata": {"name": "s"}, "spec": {
        "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
        "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 90}], "selector": {"app": "x"}}})
}

fn typed(kind: &str) -> Value {
    with(&valid(), "/spec/type", json!(kind))
}

fn local_balancer() -> Value {
    let json = with(&typed("LoadBalancer"), "/spec/externalTrafficPolicy", json!("Local"));
    with(&json, "/spec/healthCheckNodePort", json!(30_000))
}

#[test]
fn creation() {
    let balanced = "may only be used when `type` is 'LoadBalancer'";

    check_create_table::<Service>(
        &valid(),
        &[
            ("/spec/ports", json!([]), &["spec.ports: Required value"]),
            ("/spec/ports/0/name", json!(""), &["spec.ports[0].name: Required value"]),
            ("/spec/ports/0/name", json!("b"), &[r#"spec.ports[1].name: Duplicate value: "b""#]),
            (
                "/spec/ports/0/name",
                json!("a.b"),
                &[r#"spec.ports[0].name: Invalid value: "a.b": must not contain dots"#],
            ),
            (
                "/spec/ports/0/port",
                json!(0),
                &[
                    "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                    "spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
                ],
            ),
            (
                "/spec/ports/0/protocol",
                json!("ICMP"),
                &[
                    r#"spec.ports[0].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP""#,
                ],
            ),
            (
                "/spec/ports/0/targetPort",
                json!("a--b"),
                &[r#"spec.ports[0].targetPort: Invalid value: "a--b": must not contain consecutive hyphens"#],
            ),
            (
                "/spec/ports/0/port",
                json!(90),
                &[
                    r#"spec.ports[1]: Duplicate value: {"Name":"","Protocol":"TCP","AppProtocol":null,"Port":90,"TargetPort":0,"NodePort":0}"#,
                ],
            ),
            (
                "/spec/ports/1/nodePort",
                json!(30_001),
                &["spec.ports[1].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
            ),
            (
                "/spec/sessionAffinity",
                json!("Cookie"),
                &[
                    r#"spec.sessionAffinity: Unsupported value: "Cookie": supported values: "ClientIP", "None""#,
                ],
            ),
            (
                "/spec/type",
                json!("Other"),
                &[
                    r#"spec.type: Unsupported value: "Other": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort""#,
                ],
            ),
            (
                "/spec/clusterIP",
                json!("10.0.0.2"),
                &[r#"spec.clusterIPs: Invalid value: ["10.0.0.1"]: first value must match `clusterIP`"#],
            ),
            (
                "/spec/clusterIP",
                json!(null),
                &[
                    r#"spec.clusterIPs: Invalid value: ["10.0.0.1"]: must be empty when `clusterIP` is not specified"#,
                ],
            ),
            (
                "/spec/clusterIPs",
                json!(["10.0.0.1", "10.0.0.2"]),
                &[
                    r#"spec.clusterIPs: Invalid value: ["10.0.0.1","10.0.0.2"]: may specify no more than one IP for each IP family"#,
                ],
            ),
            (
                "/spec/clusterIPs",
                json!(["10.0.0.1", "x"]),
                &[
                    r#"spec.clusterIPs[1]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"#,
                ],
            ),
            (
                "/spec/ipFamilies",
                json!(["IPv6"]),
                &[
                    r#"spec.clusterIPs[0]: Invalid value: "10.0.0.1": expected an IPv6 value as indicated by `ipFamilies[0]`"#,
                ],
            ),
            (
                "/spec/ipFamilies",
                json!(["IPv5", "IPv5"]),
                &[
                    r#"spec.ipFamilies[0]: Unsupported value: "IPv5": supported values: "IPv4", "IPv6""#,
                    r#"spec.ipFamilies[1]: Unsupported value: "IPv5": supported values: "IPv4", "IPv6""#,
                    r#"spec.ipFamilies[1]: Duplicate value: "IPv5""#,
                ],
            ),
            (
                "/spec/ipFamilyPolicy",
                json!("Any"),
                &[
                    r#"spec.ipFamilyPolicy: Unsupported value: "Any": supported values: "PreferDualStack", "RequireDualStack", "SingleStack""#,
                ],
            ),
            (
                "/spec/externalIPs",
                json!(["127.0.0.1", "01.2.3.4"]),
                &[
                    r#"spec.externalIPs[0]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)"#,
                    r#"spec.externalIPs[1]: Invalid value: "01.2.3.4": must not have leading 0s"#,
                ],
            ),
            (
                "/spec/loadBalancerSourceRanges",
                json!(["10.0.0.0/8"]),
                &[&format!("spec.LoadBalancerSourceRanges: Forbidden: {balanced}")],
            ),
            (
                "/spec/allocateLoadBalancerNodePorts",
                json!(true),
                &[&format!("spec.allocateLoadBalancerNodePorts: Forbidden: {balanced}")],
            ),
            (
                "/spec/loadBalancerClass",
                json!("a"),
                &[&format!("spec.loadBalancerClass: Forbidden: {balanced}")],
            ),
            (
                "/spec/externalTrafficPolicy",
                json!("Local"),
                &[
                    r#"spec.externalTrafficPolicy: Invalid value: "Local": may only be set for externally-accessible services"#,
                ],
            ),
            (
                "/spec/internalTrafficPolicy",
                json!("Far"),
                &[
                    r#"spec.internalTrafficPolicy: Unsupported value: "Far": supported values: "Cluster", "Local""#,
                ],
            ),
            (
                "/spec/healthCheckNodePort",
                json!(1),
                &[
                    "spec.healthCheckNodePort: Invalid value: 1: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
                ],
            ),
            (
                "/spec/trafficDistribution",
                json!("Near"),
                &[
                    r#"spec.trafficDistribution: Unsupported value: "Near": supported values: "PreferClose", "PreferSameZone", "PreferSameNode""#,
                ],
            ),
        ],
    );
}

#[test]
fn creation_of_other_types() {
    let headless = with(&with(&valid(), "/spec/clusterIP", json!("None")), "/spec/clusterIPs", json!(null));
    let external =
        json!({"metadata": {"name": "s"}, "spec": {"type": "ExternalName", "externalName": "a.b."}});
    let table: Vec<(Value, Vec<&str>)> = vec![
        (with(&headless, "/spec/ports", json!([])), vec![]),
        (
            with(&headless, "/spec/type", json!("NodePort")),
            vec![
                r#"spec.clusterIPs[0]: Invalid value: "None": may not be set to 'None' for NodePort services"#,
            ],
        ),
        (external.clone(), vec![]),
        (with(&external, "/spec/externalName", json!("")), vec!["spec.externalName: Required value"]),
        (
            with(&external, "/spec/clusterIP", json!("10.0.0.1")),
            vec!["spec.clusterIPs: Forbidden: may not be set for ExternalName services"],
        ),
        (
            with(&external, "/spec/ipFamilies", json!(["IPv4"])),
            vec!["spec.ipFamilies: Forbidden: may not be set for ExternalName services"],
        ),
        (
            with(&external, "/spec/ipFamilyPolicy", json!("SingleStack")),
            vec!["spec.ipFamilyPolicy: Forbidden: may not be set for ExternalName services"],
        ),
        (typed("LoadBalancer"), vec![]),
        (local_balancer(), vec![]),
        (
            with(&local_balancer(), "/spec/healthCheckNodePort", json!(null)),
            vec!["spec.healthCheckNodePort: Required value"],
        ),
        (
            with(
                &typed("LoadBalancer"),
                "/spec/loadBalancerSourceRanges",
                json!([" 10.0.0.0/8 ", "10.0.0.1/8"]),
            ),
            vec![
                r#"spec.LoadBalancerSourceRanges[1]: Invalid value: "10.0.0.1/8": must not have bits set beyond the prefix length"#,
            ],
        ),
        (
            with(
                &typed("LoadBalancer"),
                "/metadata/annotations",
                json!({"service.beta.kubernetes.io/load-balancer-source-ranges": "10.0.0.0/8, x"}),
            ),
            vec![
                r#"metadata.annotations[service.beta.kubernetes.io/load-balancer-source-ranges]: Invalid value: "x": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"#,
            ],
        ),
        (with(&typed("NodePort"), "/spec/ports/0/nodePort", json!(30_000)), vec![]),
        (
            with(
                &with(&typed("NodePort"), "/spec/ports/0/nodePort", json!(30_000)),
                "/spec/ports/1/nodePort",
                json!(30_000),
            ),
            vec!["spec.ports[1].nodePort: Duplicate value: 30000"],
        ),
        (
            with(
                &with(&valid(), "/spec/sessionAffinity", json!("ClientIP")),
                "/spec/sessionAffinityConfig",
                json!({"clientIP": {"timeoutSeconds": 86_401}}),
            ),
            vec![
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: must be greater than 0 and less than 86400",
            ],
        ),
    ];
    for (json, expected) in table {
        assert_eq!(create_errors::<Service>(&json), expected, "{json}");
    }
}

#[test]
fn defaults() {
    let spec = |json: &Value| defaulted::<Service>(json).spec.unwrap();
    let plain = spec(&valid());
    assert_eq!(plain.type_.as_deref(), Some("ClusterIP"));
    assert_eq!(plain.session_affinity.as_deref(), Some("None"));
    assert_eq!(plain.internal_traffic_policy.as_deref(), Some("Cluster"));
    assert_eq!(plain.external_traffic_policy, None);
    assert_eq!(plain.allocate_load_balancer_node_ports, None);
    let port = &plain.ports.as_ref().unwrap()[0];
    assert_eq!(port.protocol.as_deref(), Some("TCP"));
    assert_eq!(port.target_port, Some(IntOrString::Int(80)));

    let balancer = spec(&typed("LoadBalancer"));
    assert_eq!(balancer.external_traffic_policy.as_deref(), Some("Cluster"));
    assert_eq!(balancer.allocate_load_balancer_node_ports, Some(true));

    let sticky = spec(&with(&valid(), "/spec/sessionAffinity", json!("ClientIP")));
    let timeout_s = sticky.session_affinity_config.unwrap().client_ip.unwrap().timeout_seconds;
    assert_eq!(timeout_s, Some(10_800));

    let external = spec(&json!({"metadata": {"name": "s"}, "spec": {"type": "ExternalName"}}));
    assert_eq!(external.internal_traffic_policy, None);

    let json = with(&typed("LoadBalancer"), "/status/loadBalancer/ingress", json!([{"ip": "1.2.3.4"}]));
    let status = defaulted::<Service>(&json).status.unwrap();
    assert_eq!(status.load_balancer.unwrap().ingress.unwrap()[0].ip_mode.as_deref(), Some("VIP"));
}

/// A service as it is stored: families set, addresses and ports allocated from 1 upwards.
fn stored(json: &Value, cluster: ClusterFamilies) -> Service {
    let mut service: Service = created(json);
    init_ip_families(&mut service, None, cluster).unwrap();
    fill(&mut service, None);
    let mut errors = Errors::new();
    in_context("", |cx| service.validate(cx, &mut errors));
    assert!(errors.is_empty(), "{errors}");
    service
}

fn fill(service: &mut Service, old: Option<&Service>) -> Allocations {
    let wanted = wanted_allocations(old, Some(service));
    for ip in &wanted.cluster_ips {
        let any = if ip.family == IpFamily::V4 { "10.0.0.99" } else { "fd00::99" };
        ip.fill(service, ip.requested.as_deref().unwrap_or(any));
    }
    let mut next = 31_000;
    for port in &wanted.node_ports {
        next += 1;
        port.fill(service, port.requested.unwrap_or(next));
    }
    wanted
}

fn unallocated(kind: &str) -> Value {
    json!({"metadata": {"name": "s"}, "spec": {"type": kind, "selector": {"a": "b"},
        "ports": [{"name": "t", "port": 53}, {"name": "u", "port": 53, "protocol": "UDP"}, {"name": "w", "port": 80}]}})
}

#[test]
fn creation_takes_addresses_and_ports() {
    let plain = stored(&unallocated("ClusterIP"), V4);
    let spec = plain.spec.as_ref().unwrap();
    assert_eq!(spec.cluster_ip.as_deref(), Some("10.0.0.99"));
    assert_eq!(spec.ip_families.as_deref(), Some(["IPv4".to_owned()].as_slice()));
    assert_eq!(spec.ip_family_policy.as_deref(), Some("SingleStack"));
    assert_eq!(
        wanted_allocations(Some(&plain), None),
        Allocations { release_ips: vec!["10.0.0.99".into()], ..Allocations::default() }
    );
    assert!(wanted_allocations(Some(&plain), Some(&plain)).is_empty());

    let dual =
        stored(&with(&unallocated("ClusterIP"), "/spec/ipFamilyPolicy", json!("PreferDualStack")), DUAL);
    assert_eq!(dual.spec.unwrap().cluster_ips.unwrap(), ["10.0.0.99", "fd00::99"]);

    // Ports of one number share a node port when the service is made.
    let ports = |s: &Service| -> Vec<i32> {
        list(&spec_of(s).ports).iter().map(|p| p.node_port.unwrap_or_default()).collect()
    };
    let open = stored(&unallocated("NodePort"), V4);
    assert_eq!(ports(&open), [31_001, 31_001, 31_002]);
    let named = stored(&with(&unallocated("NodePort"), "/spec/ports/1/nodePort", json!(30_053)), V4);
    assert_eq!(ports(&named), [30_053, 30_053, 31_002]);

    let mut local = with(&unallocated("LoadBalancer"), "/spec/externalTrafficPolicy", json!("Local"));
    local = with(&local, "/spec/allocateLoadBalancerNodePorts", json!(false));
    let local = stored(&local, V4);
    assert_eq!(ports(&local), [0, 0, 0]);
    assert_eq!(spec_of(&local).health_check_node_port, Some(31_001));
    assert_eq!(wanted_allocations(Some(&local), None).release_ports, [31_001]);

    let headless = stored(&with(&unallocated("ClusterIP"), "/spec/clusterIP", json!("None")), V4);
    assert!(wanted_allocations(None, Some(&headless)).is_empty());
    let selectorless =
        with(&with(&unallocated("ClusterIP"), "/spec/clusterIP", json!("None")), "/spec/selector", json!({}));
    let spec = stored(&selectorless, V4).spec.unwrap();
    assert_eq!(spec.ip_families.unwrap(), ["IPv4", "IPv6"]);
    assert_eq!(spec.ip_family_policy.as_deref(), Some("RequireDualStack"));
}

#[test]
fn families_that_cannot_be_had_are_refused() {
    let table = [
        (
            json!({"ipFamilyPolicy": "RequireDualStack"}),
            V4,
            r#"spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services"#,
        ),
        (
            json!({"ipFamilies": ["IPv6"]}),
            V4,
            r#"spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster"#,
        ),
        (
            json!({"clusterIP": "fd00::1"}),
            V4,
            r#"spec.clusterIPs[0]: Invalid value: ["fd00::1"]: IPv6 is not configured on this cluster"#,
        ),
        (
            json!({"ipFamilies": ["IPv6", "IPv4"], "ipFamilyPolicy": "SingleStack"}),
            DUAL,
            r#"spec.ipFamilyPolicy: Invalid value: "SingleStack": must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified"#,
        ),
    ];
    for (spec, cluster, expected) in table {
        let mut json = unallocated("ClusterIP");
        for (key, value) in spec.as_object().unwrap() {
            json = with(&json, &format!("/spec/{key}"), value.clone());
        }
        let mut service: Service = created(&json);
        assert_eq!(init_ip_families(&mut service, None, cluster).unwrap_err().to_string(), expected);
    }
}

/// An update of a stored service by what a client sends, up to and including allocation.
fn update(old: &Service, json: &Value, cluster: ClusterFamilies) -> (Service, Allocations, Vec<String>) {
    let mut new = updated(old, json, "");
    let mut errors = Errors::new();
    if let Err(refused) = init_ip_families(&mut new, Some(old), cluster) {
        errors = refused;
        return (new, Allocations::default(), errors.iter().map(ToString::to_string).collect());
    }
    let wanted = fill(&mut new, Some(old));
    in_context("", |cx| new.validate_update(old, cx, &mut errors));
    (new, wanted, errors.iter().map(ToString::to_string).collect())
}

#[test]
fn the_same_manifest_again_changes_nothing() {
    for kind in ["ClusterIP", "NodePort", "LoadBalancer"] {
        for policy in ["SingleStack", "PreferDualStack", "RequireDualStack"] {
            let json = with(&unallocated(kind), "/spec/ipFamilyPolicy", json!(policy));
            let json = if kind == "LoadBalancer" {
                with(&json, "/spec/externalTrafficPolicy", json!("Local"))
            } else {
                json
            };
            let old = stored(&json, DUAL);
            let (new, wanted, errors) = update(&old, &json, DUAL);
            assert_eq!(errors, Vec::<String>::new());
            assert!(wanted.is_empty(), "{kind} {policy}: {wanted:?}");
            assert_eq!(new, old, "{kind} {policy}");
        }
    }
}

#[test]
fn changes_of_type() {
    let open = stored(&unallocated("NodePort"), V4);
    let as_json = serde_json::to_value(&open).unwrap();

    // To a type without node ports: they go.
    let (new, wanted, errors) = update(&open, &with(&as_json, "/spec/type", json!("ClusterIP")), V4);
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!(wanted.release_ports, [31_001, 31_002]);
    assert!(wanted.release_ips.is_empty() && wanted.cluster_ips.is_empty());
    assert_eq!(spec_of(&new).external_traffic_policy, None);
    assert!(list(&spec_of(&new).ports).iter().all(|p| p.node_port.is_none()));

    // To a name: everything goes.
    let json = with(&with(&as_json, "/spec/type", json!("ExternalName")), "/spec/externalName", json!("a.b"));
    let (new, wanted, errors) = update(&open, &json, V4);
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!(
        (wanted.release_ips.as_slice(), wanted.release_ports.len()),
        (["10.0.0.99".to_owned()].as_slice(), 2)
    );
    assert_eq!((&spec_of(&new).cluster_ips, &spec_of(&new).ip_families), (&None, &None));

    // And back: new ones come.
    let (back, wanted, errors) = update(&new, &unallocated("ClusterIP"), V4);
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!(wanted.cluster_ips.len(), 1);
    assert_eq!(spec_of(&back).cluster_ip.as_deref(), Some("10.0.0.99"));

    // A port of its own for what is added later.
    let ports = json!([{"name": "t", "port": 53}, {"name": "n", "port": 53, "protocol": "SCTP"}]);
    let (new, wanted, errors) = update(&open, &with(&unallocated("NodePort"), "/spec/ports", ports), V4);
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!(wanted.node_ports, [WantedPort { place: NodePortPlace::Ports(vec![1]), requested: None }]);
    assert_eq!(wanted.release_ports, [31_002]);
    assert_eq!(list(&spec_of(&new).ports)[0].node_port, Some(31_001));
}

#[test]
fn dual_stack_comes_and_goes() {
    let single = stored(&unallocated("ClusterIP"), DUAL);
    let up = with(&unallocated("ClusterIP"), "/spec/ipFamilyPolicy", json!("RequireDualStack"));
    let (dual, wanted, errors) = update(&single, &up, DUAL);
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!(wanted.cluster_ips, [WantedIp { index: 1, family: IpFamily::V6, requested: None }]);
    assert_eq!(list(&spec_of(&dual).cluster_ips), ["10.0.0.99", "fd00::99"]);

    let down = with(&serde_json::to_value(&dual).unwrap(), "/spec/ipFamilyPolicy", json!("SingleStack"));
    let (new, wanted, errors) = update(&dual, &down, DUAL);
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!(wanted.release_ips, ["fd00::99"]);
    assert_eq!(new, single);

    let json = with(&serde_json::to_value(&dual).unwrap(), "/spec/clusterIPs", json!(["10.0.0.99"]));
    let (_, _, errors) = update(&dual, &json, DUAL);
    assert_eq!(
        errors,
        [
            r#"spec.ipFamilyPolicy: Invalid value: "RequireDualStack": must be 'SingleStack' to release the secondary cluster IP"#
        ]
    );
}

#[test]
fn what_may_not_change() {
    let plain = serde_json::to_value(stored(&unallocated("ClusterIP"), V4)).unwrap();
    let changed =
        with(&with(&plain, "/spec/clusterIP", json!("10.0.0.5")), "/spec/clusterIPs", json!(["10.0.0.5"]));
    assert_eq!(
        update_errors::<Service>(&plain, &changed, ""),
        [r#"spec.clusterIPs[0]: Invalid value: ["10.0.0.5"]: may not change once set"#]
    );
    // The plural follows the singular when only that is changed.
    let changed = with(&plain, "/spec/clusterIP", json!("10.0.0.5"));
    assert_eq!(
        update_errors::<Service>(&plain, &changed, ""),
        [r#"spec.clusterIPs[0]: Invalid value: ["10.0.0.5"]: may not change once set"#]
    );
    let classed = with(&typed("LoadBalancer"), "/spec/loadBalancerClass", json!("a.io/b"));
    assert_eq!(
        update_errors::<Service>(&classed, &with(&classed, "/spec/loadBalancerClass", json!("a.io/c")), ""),
        [r#"spec.loadBalancerClass: Invalid value: "a.io/c": may not change once set"#]
    );
    assert_eq!(
        update_errors::<Service>(
            &local_balancer(),
            &with(&local_balancer(), "/spec/healthCheckNodePort", json!(3)),
            ""
        ),
        ["spec.healthCheckNodePort: Forbidden: field is immutable"]
    );
    let families = with(&valid(), "/spec/ipFamilies", json!(["IPv4"]));
    assert_eq!(
        update_errors::<Service>(&families, &with(&families, "/spec/ipFamilies", json!(["IPv6"])), ""),
        [
            r#"spec.ipFamilies[0]: Invalid value: ["IPv6"]: may not change once set"#,
            r#"spec.clusterIPs[0]: Invalid value: "10.0.0.1": expected an IPv6 value as indicated by `ipFamilies[0]`"#,
        ]
    );
    // What was stored under laxer rules may stay.
    let lax = with(&valid(), "/spec/externalIPs", json!(["010.1.1.1"]));
    assert!(update_errors::<Service>(&lax, &lax, "").is_empty());
}

#[test]
fn status_is_written_apart() {
    let old = typed("LoadBalancer");
    let ingress = |value: Value| with(&old, "/status/loadBalancer/ingress", value);
    let table: Vec<(Value, Value, Vec<&str>)> = vec![
        (old.clone(), ingress(json!([{"ip": "1.2.3.4"}, {"hostname": "a.b"}])), vec![]),
        (
            old.clone(),
            ingress(json!([{"ip": "x", "ipMode": "Odd", "hostname": "1.2.3.4"}])),
            vec![
                r#"status.loadBalancer.ingress[0].ip: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"#,
                r#"status.loadBalancer.ingress[0].ipMode: Unsupported value: "Odd": supported values: "Proxy", "VIP""#,
                r#"status.loadBalancer.ingress[0].hostname: Invalid value: "1.2.3.4": must be a DNS name, not an IP address"#,
            ],
        ),
        (
            old.clone(),
            ingress(json!([{"hostname": "a", "ipMode": "VIP"}])),
            vec![
                "status.loadBalancer.ingress[0].ipMode: Forbidden: may not be specified when `ip` is not set",
            ],
        ),
        (
            valid(),
            with(&valid(), "/status/loadBalancer/ingress", json!([{"ip": "1.2.3.4"}])),
            vec![
                "status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is 'LoadBalancer'",
            ],
        ),
    ];
    for (old, new, expected) in table {
        assert_eq!(update_errors::<Service>(&old, &new, "status"), expected, "{new}");
    }
    let stored: Service = defaulted(&ingress(json!([{"ip": "1.2.3.4"}])));
    let new = with(&old, "/spec/sessionAffinity", json!("ClientIP"));
    assert_eq!(updated(&stored, &new, "status").spec, stored.spec);
    assert_eq!(updated(&stored, &new, "").status, stored.status);
    // No balancer, no addresses of one.
    let plain = updated(&stored, &valid(), "");
    assert_eq!(plain.status.unwrap().load_balancer, Some(LoadBalancerStatus::default()));
}

#[test]
fn warnings() {
    let headless = with(&with(&valid(), "/spec/clusterIP", json!("None")), "/spec/clusterIPs", json!(null));
    let table: Vec<(Value, Vec<&str>)> = vec![
        (valid(), vec![]),
        (
            with(
                &with(&headless, "/spec/loadBalancerIP", json!("1.2.3.4")),
                "/spec/sessionAffinity",
                json!("ClientIP"),
            ),
            vec![
                "spec.loadBalancerIP is ignored for headless services",
                "spec.SessionAffinity is ignored for headless services",
            ],
        ),
        (
            with(&valid(), "/spec/externalIPs", json!(["1.2.3.4"])),
            vec!["spec.externalIPs is deprecated and may no longer be implemented in some clusters"],
        ),
        (
            with(&valid(), "/spec/externalName", json!("a")),
            vec![r#"spec.externalName is ignored when spec.type is not "ExternalName""#],
        ),
        (
            with(&valid(), "/spec/trafficDistribution", json!("PreferClose")),
            vec![r#"spec.trafficDistribution: "PreferClose" is deprecated; use "PreferSameZone""#],
        ),
        (
            with(
                &valid(),
                "/metadata/annotations",
                json!({"service.kubernetes.io/topology-aware-hints": "Auto"}),
            ),
            vec![
                "annotation service.kubernetes.io/topology-aware-hints is deprecated, please use service.kubernetes.io/topology-mode instead",
            ],
        ),
    ];
    for (json, expected) in table {
        assert_eq!(create_warnings::<Service>(&json), expected, "{json}");
    }
}

#[test]
fn columns() {
    assert_eq!(
        row::<Service>(&valid()),
        ["s", "ClusterIP", "10.0.0.1", "<none>", "80/TCP,90/TCP", "<unknown>", "app=x"]
    );
    let balancer = with(&typed("LoadBalancer"), "/spec/ports/0/nodePort", json!(30_000));
    let cells = row::<Service>(&balancer);
    assert_eq!(cells[3..5], ["<pending>", "80:30000/TCP,90/TCP"]);
    let balancer =
        with(&balancer, "/status/loadBalancer/ingress", json!([{"ip": "2.2.2.2"}, {"hostname": "1.b"}]));
    assert_eq!(row::<Service>(&balancer)[3], "1.b,2.2.2.2");
    let both = with(&balancer, "/spec/externalIPs", json!(["3.3.3.3"]));
    assert_eq!(row::<Service>(&both)[3], "1.b,2.2.2.2,3.3.3.3");
    let external =
        json!({"metadata": {"name": "s"}, "spec": {"type": "ExternalName", "externalName": "a.b"}});
    assert_eq!(row::<Service>(&external)[2..5], ["<none>", "a.b", "<none>"]);
}

fn any_service() -> impl Strategy<Value = Value> {
    let kind = prop_oneof![Just("ClusterIP"), Just("NodePort"), Just("LoadBalancer"), Just("ExternalName")];
    let policy = prop_oneof![Just("SingleStack"), Just("PreferDualStack"), Just("RequireDualStack")];
    let ports = prop::collection::btree_set(1..4u16, 1..4);
    (kind, policy, ports, any::<bool>(), any::<bool>()).prop_map(|(kind, policy, ports, local, headless)| {
        let mut json = json!({"metadata": {"name": "s"}, "spec": {"type": kind, "selector": {"a": "b"}}});
        let ports: Vec<Value> =
            ports.into_iter().map(|p| json!({"name": format!("p{p}"), "port": p})).collect();
        json = with(&json, "/spec/ports", ports.into());
        if kind == "ExternalName" {
            return with(&json, "/spec/externalName", json!("a.b"));
        }
        if kind != "ClusterIP" && local {
            json = with(&json, "/spec/externalTrafficPolicy", json!("Local"));
        }
        if kind == "ClusterIP" && headless {
            return with(&json, "/spec/clusterIP", json!("None"));
        }
        with(&json, "/spec/ipFamilyPolicy", json!(policy))
    })
}

proptest! {
    /// Whatever manifest follows whatever other: what the service holds afterwards is what it held before,
    /// less what was given back, plus what was taken; nothing leaks and nothing is given back twice.
    #[test]
    fn allocations_balance(first in any_service(), second in any_service()) {
        let old = stored(&first, DUAL);
        let (new, wanted, errors) = update(&old, &second, DUAL);
        prop_assume!(errors.is_empty());
        let of = |s: &Service| wanted_allocations(Some(s), None);
        let (before, after) = (of(&old), of(&new));
        let mut ips: Vec<String> =
            before.release_ips.iter().filter(|ip| !wanted.release_ips.contains(ip)).cloned().collect();
        ips.extend(wanted.cluster_ips.iter().map(|w| list(&spec_of(&new).cluster_ips)[w.index].clone()));
        ips.sort();
        let mut held = after.release_ips.clone();
        held.sort();
        prop_assert_eq!(ips, held);
        let kept = before.release_ports.iter().filter(|p| !wanted.release_ports.contains(p)).count();
        prop_assert!(kept <= after.release_ports.len());
        prop_assert!(wanted_allocations(Some(&new), Some(&new)).is_empty());
        for port in &wanted.release_ports {
            prop_assert!(before.release_ports.contains(port));
        }
    }
}
