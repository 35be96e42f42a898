use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// The kernel's tables, as strict as the kernel: what is there cannot be added, what is not cannot be removed.
#[derive(Clone, Debug, Default, PartialEq)]
struct Kernel {
    picks: BTreeSet<Pick>,
    groups: BTreeMap<GroupId, Pick>,
    endpoints: BTreeMap<(Family, GroupId, u32), SocketAddr>,
    live: BTreeSet<(GroupId, SocketAddr)>,
    frontends: BTreeMap<Frontend, GroupId>,
    empty: BTreeMap<Frontend, bool>,
    hairpins: BTreeSet<IpAddr>,
}

impl Kernel {
    fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            let done = match change.clone() {
                Change::AddPick(p) => self.picks.insert(p),
                Change::RemovePick(p) => !self.groups.values().any(|q| *q == p) && self.picks.remove(&p),
                Change::SetGroup(id, p) => self.picks.contains(&p) && self.groups.insert(id, p).is_none(),
                Change::RemoveGroup(id, p) => self.groups.remove(&id) == Some(p),
                Change::SetEndpoint(f, id, n, e) => self.endpoints.insert((f, id, n), e).is_none(),
                Change::RemoveEndpoint(f, id, n, e) => self.endpoints.remove(&(f, id, n)) == Some(e),
                Change::AddLive(id, e) => self.live.insert((id, e)),
                Change::RemoveLive(id, e) => self.live.remove(&(id, e)),
                Change::SetFrontend(f, id) => self.frontends.insert(f, id).is_none(),
                Change::RemoveFrontend(f, id) => self.frontends.remove(&f) == Some(id),
                Change::SetEmpty(f, told) => self.empty.insert(f, told).is_none(),
                Change::RemoveEmpty(f, told) => self.empty.remove(&f) == Some(told),
                Change::AddHairpin(ip) => self.hairpins.insert(ip),
                Change::RemoveHairpin(ip) => self.hairpins.remove(&ip),
                Change::Forget(..) => true,
            };
            assert!(done, "{change:?} of {changes:?}");
        }
        // Whatever leads to a group finds it whole.
        for id in self.frontends.values() {
            let pick = self.groups[id];
            let places: Vec<u32> =
                self.endpoints.keys().filter(|k| k.1 == *id && k.0 == pick.family).map(|k| k.2).collect();
            assert_eq!(places, (0..pick.count).collect::<Vec<_>>(), "{self:?}");
            let live = self.live.iter().filter(|l| l.0 == *id).count();
            assert_eq!(live, if pick.affinity_s.is_some() { places.len() } else { 0 });
        }
    }

    /// Where connections to a frontend may arrive.
    fn reach(&self, ip: Option<&str>, port: u16) -> Vec<String> {
        let ip = ip.map(|ip| ip.parse().unwrap());
        let family = ip.map_or(Family::V4, Family::of);
        let frontend = Frontend { family, ip, protocol: L4::Tcp, port };
        let Some(id) = self.frontends.get(&frontend) else {
            return vec![format!("{:?}", self.empty.get(&frontend))];
        };
        let mut found: Vec<String> =
            self.endpoints.iter().filter(|(k, _)| k.1 == *id).map(|(_, e)| e.to_string()).collect();
        found.sort();
        found
    }
}

fn service(json: serde_json::Value) -> Service {
    serde_json::from_value(json).unwrap()
}

fn web() -> serde_json::Value {
    json!({"metadata": {"name": "web"}, "spec": {
        "type": "ClusterIP", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"],
        "ports": [{"port": 80, "targetPort": 8080, "protocol": "TCP"}], "sessionAffinity": "None"}})
}

fn slice(endpoints: &[(&str, &str, &str)]) -> EndpointSlice {
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|(ip, node, state)| {
            let conditions = match *state {
                "ready" => json!({"ready": true, "serving": true, "terminating": false}),
                "starting" => json!({"ready": false, "serving": false, "terminating": false}),
                "ending" => json!({"ready": false, "serving": true, "terminating": true}),
                "dead" => json!({"ready": false, "serving": false, "terminating": true}),
                _ => json!({}),
            };
            json!({"addresses": [ip], "nodeName": node, "conditions": conditions})
        })
        .collect();
    serde_json::from_value(json!({"addressType": "IPv4", "ports": [{"name": "", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints})).unwrap()
}

fn here() -> Place {
    Place { node: "n1".into(), zone: Some("z1".into()) }
}

fn key(name: &str) -> ServiceKey {
    ("default".into(), name.into())
}

fn program(service: &Service, slices: &[&EndpointSlice]) -> Kernel {
    let (mut table, mut kernel) = (Table::default(), Kernel::default());
    kernel.apply(&table.set(&key("web"), &desired(service, slices, &here())));
    kernel
}

#[test]
fn a_service_leads_to_its_ready_endpoints() {
    let slice = slice(&[
        ("10.0.0.1", "n1", "ready"),
        ("10.0.0.2", "n2", ""),
        ("10.0.0.3", "n2", "starting"),
        ("10.0.0.4", "n2", "ending"),
    ]);
    let kernel = program(&service(web()), &[&slice]);
    assert_eq!(kernel.reach(Some("10.96.0.7"), 80), ["10.0.0.1:8080", "10.0.0.2:8080"]);
    assert_eq!(kernel.hairpins, ["10.0.0.1".parse().unwrap()].into());
    assert_eq!(kernel.reach(Some("10.96.0.7"), 81), ["None"]);
}

#[test]
fn while_none_is_ready_those_that_end_still_answer() {
    let ending = slice(&[("10.0.0.4", "n2", "ending"), ("10.0.0.5", "n2", "dead")]);
    assert_eq!(program(&service(web()), &[&ending]).reach(Some("10.96.0.7"), 80), ["10.0.0.4:8080"]);
    let none = slice(&[("10.0.0.5", "n2", "dead")]);
    assert_eq!(program(&service(web()), &[&none]).reach(Some("10.96.0.7"), 80), ["Some(true)"]);
    let mut published = web();
    published["spec"]["publishNotReadyAddresses"] = json!(true);
    let starting = slice(&[("10.0.0.3", "n2", "starting")]);
    assert_eq!(program(&service(published), &[&starting]).reach(Some("10.96.0.7"), 80), ["10.0.0.3:8080"]);
}

#[test]
fn an_endpoint_in_two_slices_counts_once() {
    let (a, b) = (slice(&[("10.0.0.1", "n1", "starting")]), slice(&[("10.0.0.1", "n1", "ready")]));
    assert_eq!(program(&service(web()), &[&a, &b]).reach(Some("10.96.0.7"), 80), ["10.0.0.1:8080"]);
}

#[test]
fn traffic_policies_keep_to_the_node() {
    let mut spec = web();
    spec["spec"]["type"] = json!("NodePort");
    spec["spec"]["ports"][0]["nodePort"] = json!(30080);
    spec["spec"]["externalIPs"] = json!(["192.0.2.1"]);
    let both = slice(&[("10.0.0.1", "n1", "ready"), ("10.0.0.2", "n2", "ready")]);
    let kernel = program(&service(spec.clone()), &[&both]);
    assert_eq!(kernel.reach(None, 30080), ["10.0.0.1:8080", "10.0.0.2:8080"]);
    assert_eq!(kernel.reach(Some("192.0.2.1"), 80), ["10.0.0.1:8080", "10.0.0.2:8080"]);
    let hides = |k: &Kernel| k.groups.values().map(|p| p.masquerade).collect::<Vec<_>>();
    assert_eq!(hides(&kernel), [false, true], "clients from outside are hidden, those inside are not");

    spec["spec"]["externalTrafficPolicy"] = json!("Local");
    let kernel = program(&service(spec.clone()), &[&both]);
    assert_eq!(kernel.reach(None, 30080), ["10.0.0.1:8080"]);
    assert_eq!(kernel.reach(Some("10.96.0.7"), 80).len(), 2);
    assert_eq!(hides(&kernel), [false, false]);
    let far = slice(&[("10.0.0.2", "n2", "ready")]);
    assert_eq!(
        program(&service(spec.clone()), &[&far]).reach(None, 30080),
        ["Some(false)"],
        "dropped, not refused"
    );

    spec["spec"]["internalTrafficPolicy"] = json!("Local");
    let kernel = program(&service(spec), &[&both]);
    assert_eq!(kernel.reach(Some("10.96.0.7"), 80), ["10.0.0.1:8080"]);
}

#[test]
fn hints_hold_when_every_endpoint_has_one() {
    let mut endpoints = slice(&[("10.0.0.1", "n1", "ready"), ("10.0.0.2", "n2", "ready")]);
    endpoints.endpoints[0].zones = vec!["z1".into()];
    assert_eq!(program(&service(web()), &[&endpoints]).reach(Some("10.96.0.7"), 80).len(), 2);
    endpoints.endpoints[1].zones = vec!["z2".into()];
    assert_eq!(program(&service(web()), &[&endpoints]).reach(Some("10.96.0.7"), 80), ["10.0.0.1:8080"]);
    endpoints.endpoints[0].zones = vec!["z3".into()];
    assert_eq!(program(&service(web()), &[&endpoints]).reach(Some("10.96.0.7"), 80).len(), 2);
}

#[test]
fn what_is_no_address_is_not_programmed() {
    for change in [
        json!({"clusterIP": "None", "clusterIPs": ["None"]}),
        json!({"type": "ExternalName"}),
        json!({"clusterIPs": [], "clusterIP": ""}),
    ] {
        let mut spec = web();
        for (k, v) in change.as_object().unwrap() {
            spec["spec"][k] = v.clone();
        }
        assert_eq!(
            program(&service(spec), &[&slice(&[("10.0.0.1", "n1", "ready")])]),
            Kernel::default(),
            "{change}"
        );
    }
}

#[test]
fn one_endpoint_more_or_less_changes_little() {
    let names: Vec<String> = (0..200).map(|n| format!("10.1.0.{n}")).collect();
    let all: Vec<(&str, &str, &str)> = names.iter().map(|n| (n.as_str(), "n2", "ready")).collect();
    let (mut table, mut kernel) = (Table::default(), Kernel::default());
    let mut step = |from: &[(&str, &str, &str)]| {
        let changes = table.set(&key("web"), &desired(&service(web()), &[&slice(from)], &here()));
        kernel.apply(&changes);
        changes.len()
    };
    step(&all);
    let fewer: Vec<_> = all.iter().copied().filter(|e| e.0 != "10.1.0.17").collect();
    assert!(step(&fewer) <= 8, "one less");
    assert!(step(&all) <= 8, "one more");
    assert_eq!(step(&all), 0, "nothing");
}

#[test]
fn packets_without_connections_are_forgotten_with_their_endpoint() {
    let mut spec = web();
    spec["spec"]["ports"][0]["protocol"] = json!("UDP");
    let mut one = slice(&[("10.0.0.1", "n1", "ready"), ("10.0.0.2", "n1", "ready")]);
    one.ports[0].protocol = L4::Udp;
    let mut table = Table::default();
    table.set(&key("dns"), &desired(&service(spec.clone()), &[&one], &here()));
    one.endpoints.remove(0);
    let changes = table.set(&key("dns"), &desired(&service(spec), &[&one], &here()));
    assert_eq!(changes.last(), Some(&Change::Forget(L4::Udp, "10.0.0.1:8080".parse().unwrap())));
}

#[test]
fn two_services_with_the_same_external_address_do_not_disturb_each_other() {
    let mut one = web();
    one["spec"]["externalIPs"] = json!(["192.0.2.1"]);
    let mut two = one.clone();
    two["spec"]["clusterIPs"] = json!(["10.96.0.8"]);
    let endpoints = slice(&[("10.0.0.1", "n1", "ready")]);
    let (mut table, mut kernel) = (Table::default(), Kernel::default());
    kernel.apply(&table.set(&key("one"), &desired(&service(one), &[&endpoints], &here())));
    kernel.apply(&table.set(&key("two"), &desired(&service(two.clone()), &[&endpoints], &here())));
    kernel.apply(&table.set(&key("one"), &Desired::default()));
    assert_eq!(kernel.reach(Some("192.0.2.1"), 80), ["None"]);
    // The next look at the other service gives it the address.
    kernel.apply(&table.set(&key("two"), &desired(&service(two), &[&endpoints], &here())));
    assert_eq!(kernel.reach(Some("192.0.2.1"), 80), ["10.0.0.1:8080"]);
    kernel.apply(&table.set(&key("two"), &Desired::default()));
    assert_eq!(kernel, Kernel::default());
    assert!(table.is_empty());
}

fn any_service() -> impl Strategy<Value = Service> {
    let port =
        (0u16..3, prop::option::of(30_000u16..30_003), any::<bool>()).prop_map(|(n, node_port, udp)| {
            ServicePort {
                name: format!("p{n}"),
                protocol: if udp { L4::Udp } else { L4::Tcp },
                port: 80 + n,
                node_port,
            }
        });
    let ips = prop::collection::btree_set(0u8..3, 0..3);
    (prop::collection::vec(port, 0..3), ips, prop::option::of(1u32..3), any::<[bool; 4]>()).prop_map(
        |(mut ports, ips, affinity_s, [a, b, c, six])| {
            ports.dedup_by_key(|p| p.name.clone());
            let mut cluster_ips: Vec<IpAddr> =
                ips.into_iter().map(|n| IpAddr::from([10, 96, 0, n])).collect();
            if six {
                cluster_ips.push("fd00::5".parse().unwrap());
            }
            Service {
                kind: ServiceType::NodePort,
                cluster_ips,
                ports,
                affinity_s,
                internal_local: a,
                external_local: b,
                publish_not_ready: c,
                ..Service::default()
            }
        },
    )
}

fn any_slice() -> impl Strategy<Value = EndpointSlice> {
    let endpoint =
        (0u8..6, any::<[bool; 3]>(), 1u8..3).prop_map(|(n, [ready, serving, terminating], node)| Endpoint {
            address: Some(IpAddr::from([10, 0, 0, n])),
            ready,
            serving,
            terminating,
            node: Some(format!("n{node}")),
            ..Endpoint::default()
        });
    (prop::collection::vec(endpoint, 0..6), any::<bool>()).prop_map(|(mut endpoints, v6)| {
        if v6 {
            for e in &mut endpoints {
                e.address = e.address.map(|ip| match ip {
                    IpAddr::V4(ip) => IpAddr::V6(ip.to_ipv6_mapped()),
                    v6 @ IpAddr::V6(_) => v6,
                });
            }
        }
        let port = |n: u16, protocol| EndpointPort { name: format!("p{n}"), protocol, port: Some(8080 + n) };
        let ports = (0..3).flat_map(|n| [port(n, L4::Tcp), port(n, L4::Udp)]).collect();
        EndpointSlice { v6, ports, endpoints }
    })
}

proptest! {
    /// Whatever happened before, what is programmed is what is wanted, and removing all leaves nothing.
    #[test]
    fn changes_lead_to_what_is_wanted(
        steps in prop::collection::vec((0u8..3, any_service(), prop::collection::vec(any_slice(), 0..3)), 1..12)
    ) {
        let (mut table, mut kernel) = (Table::default(), Kernel::default());
        let mut wanted: BTreeMap<ServiceKey, Desired> = BTreeMap::new();
        for (n, service, slices) in &steps {
            let plan = desired(service, &slices.iter().collect::<Vec<_>>(), &here());
            let name = key(&n.to_string());
            kernel.apply(&table.set(&name, &plan));
            prop_assert_eq!(table.set(&name, &plan), vec![], "a second time changes nothing");
            wanted.insert(name, plan);
        }
        // Those that another had claimed are claimed now.
        for (name, plan) in &wanted {
            kernel.apply(&table.set(name, plan));
        }
        let all: BTreeSet<Frontend> = wanted.values().flat_map(|p| p.frontends.keys().copied()).collect();
        let programmed: BTreeSet<Frontend> =
            kernel.frontends.keys().chain(kernel.empty.keys()).copied().collect();
        prop_assert_eq!(all, programmed);
        for name in wanted.keys() {
            kernel.apply(&table.set(name, &Desired::default()));
        }
        prop_assert_eq!(kernel, Kernel::default());
        prop_assert!(table.is_empty());
    }
}

#[test]
fn ready_endpoints_of_a_node_are_counted_once() {
    let slice = |json| serde_json::from_value::<EndpointSlice>(json).unwrap();
    let endpoint = |ip: &str, node: &str, ready: bool| json!({"addresses": [ip], "nodeName": node, "conditions": {"ready": ready}});
    let all = [
        slice(
            json!({"addressType": "IPv4", "endpoints": [endpoint("10.0.0.1", "n1", true), endpoint("10.0.0.2", "n2", true)]}),
        ),
        slice(
            json!({"addressType": "IPv4", "endpoints": [endpoint("10.0.0.1", "n1", true), endpoint("10.0.0.3", "n1", false)]}),
        ),
    ];
    let all: Vec<&EndpointSlice> = all.iter().collect();
    let here = |node: &str| ready_here(&all, &Place { node: node.into(), zone: None });
    assert_eq!((here("n1"), here("n2"), here("n3")), (1, 1, 0));
}

#[test]
fn who_comes_from_outside_reaches_endpoints_of_all_nodes_unless_the_policy_is_local() {
    let json = |policy: &str| {
        json!({"spec": {"type": "LoadBalancer", "clusterIPs": ["10.96.0.9"], "externalTrafficPolicy": policy,
        "ports": [{"port": 80}], "healthCheckNodePort": 30999}, "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}})
    };
    let slice: EndpointSlice =
        serde_json::from_value(json!({"addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": [
        {"addresses": ["10.0.0.1"], "nodeName": "n1"}, {"addresses": ["10.0.0.2"], "nodeName": "n2"}]}))
        .unwrap();
    for (policy, count, hidden) in [("Cluster", 2, true), ("Local", 1, false)] {
        let service: Service = serde_json::from_value(json(policy)).unwrap();
        assert_eq!(service.health_check_node_port, Some(30999));
        let wanted = desired(&service, &[&slice], &Place { node: "n1".into(), zone: None });
        let external = wanted.groups.iter().find(|(key, _)| key.scope == Scope::External).unwrap().1;
        assert_eq!((external.endpoints.len(), external.masquerade), (count, hidden), "{policy}");
    }
}
