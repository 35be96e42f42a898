//! Plans against a plain reading of what policies and groups say, through a kernel that refuses what a real one would.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use proptest::prelude::*;
use serde_json::{Value, json};
use skep_base::SharedStr;
use skep_base::selector::{LabelSelector, Operator, Requirement};

use super::group::{self, Group, Member};
use super::policy::{self, Labels, NamedPort, Pod, Policy, PolicyPeer, PolicyPort, PolicyRule, PortChoice};
use super::*;
use crate::service::{Family, L4};

/// What is programmed, with the checks that a kernel makes.
#[derive(Default, Debug, PartialEq)]
struct Kernel {
    sets: BTreeMap<(Family, SetId), (SetKind, BTreeSet<Element>)>,
    classes: BTreeMap<(Family, Direction, ClassId), Vec<Step>>,
    guards: BTreeMap<(Direction, IpAddr), ClassId>,
    own: BTreeSet<IpAddr>,
}

fn overlap(a: &Element, b: &Element) -> bool {
    match (a, b) {
        (Element::Range(a), Element::Range(b)) => a.first <= b.last && b.first <= a.last,
        (Element::Ports(a), Element::Ports(b)) => {
            a.protocol == b.protocol && a.first <= b.last && b.first <= a.last
        }
        _ => a == b,
    }
}

impl Kernel {
    fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            let ok = match change.clone() {
                Change::AddSet(f, id, kind) => self.sets.insert((f, id), (kind, BTreeSet::new())).is_none(),
                Change::RemoveSet(f, id) => {
                    let used = self.classes.iter().any(|((of, ..), steps)| {
                        *of == f
                            && steps
                                .iter()
                                .any(|s| [s.peers, s.ports].iter().flatten().any(|(set, _)| *set == id))
                    });
                    !used && self.sets.remove(&(f, id)).is_some()
                }
                Change::AddElement(f, id, e) => {
                    let (kind, elements) = self.sets.get_mut(&(f, id)).unwrap();
                    let fits = match e {
                        Element::Address(ip) => *kind == SetKind::Addresses && Family::of(ip) == f,
                        Element::Range(r) => *kind == SetKind::Ranges && Family::of(r.first) == f,
                        Element::Ports(_) => *kind == SetKind::Ports,
                        Element::Named(ip, _) => *kind == SetKind::Named && Family::of(ip) == f,
                    };
                    let free = !elements.iter().any(|o| overlap(o, &e));
                    elements.insert(e);
                    fits && free
                }
                Change::RemoveElement(f, id, e) => self.sets.get_mut(&(f, id)).unwrap().1.remove(&e),
                Change::AddClass(f, d, id, steps) => {
                    let known = steps.iter().all(|s| {
                        [s.peers, s.ports]
                            .iter()
                            .flatten()
                            .all(|(set, kind)| self.sets.get(&(f, *set)).is_some_and(|(k, _)| k == kind))
                    });
                    known && self.classes.insert((f, d, id), steps).is_none()
                }
                Change::RemoveClass(f, d, id) => {
                    let used =
                        self.guards.iter().any(|((of, ip), c)| *of == d && Family::of(*ip) == f && *c == id);
                    !used && self.classes.remove(&(f, d, id)).is_some()
                }
                Change::Guard(d, ip, id) => {
                    self.classes.contains_key(&(Family::of(ip), d, id))
                        && self.guards.insert((d, ip), id).is_none()
                }
                Change::Unguard(d, ip, id) => self.guards.remove(&(d, ip)) == Some(id),
                Change::AddSelf(ip) => self.own.insert(ip),
                Change::RemoveSelf(ip) => self.own.remove(&ip),
            };
            assert!(ok, "{change:?} of {changes:#?}");
        }
        let guarded: BTreeSet<IpAddr> = self.guards.keys().map(|(_, ip)| *ip).collect();
        assert_eq!(self.own, guarded);
    }

    /// Whether the first packet of a connection passes.
    fn lets(&self, from: IpAddr, to: IpAddr, protocol: L4, port: u16) -> bool {
        if from == to && self.own.contains(&from) {
            return true;
        }
        let family = Family::of(to);
        let within = |set: SetId, other: IpAddr| {
            self.sets[&(family, set)].1.iter().any(|e| match e {
                Element::Address(ip) => *ip == other,
                Element::Range(r) => r.contains(other),
                Element::Ports(r) => r.protocol == protocol.number() && (r.first..=r.last).contains(&port),
                Element::Named(ip, named) => *ip == to && *named == (protocol.number(), port),
            })
        };
        [(Direction::Egress, from, to), (Direction::Ingress, to, from)].iter().all(|(d, whose, other)| {
            let Some(class) = self.guards.get(&(*d, *whose)) else { return true };
            self.classes[&(family, *d, *class)]
                .iter()
                .any(|s| [s.peers, s.ports].iter().flatten().all(|(set, _)| within(*set, *other)))
        })
    }
}

fn labels(all: &[(&str, &str)]) -> Labels {
    all.iter().map(|(k, v)| (SharedStr::from(*k), SharedStr::from(*v))).collect()
}

fn pod(n: u8, namespace: &str, all: &[(&str, &str)]) -> Pod {
    Pod {
        namespace: namespace.into(),
        labels: labels(all),
        addresses: vec![IpAddr::from([10, 0, 0, n])],
        ports: vec![NamedPort { name: "http".into(), protocol: L4::Tcp, port: 8000 + u16::from(n) }],
        here: true,
    }
}

fn read(namespace: &str, spec: Value) -> (String, Policy) {
    (namespace.to_owned(), serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap())
}

fn programmed(desired: &Desired) -> Kernel {
    let mut kernel = Kernel::default();
    kernel.apply(&Table::default().set(desired));
    kernel
}

fn ip(n: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, n])
}

#[test]
fn what_policies_say() {
    let namespaces: BTreeMap<String, Labels> =
        [("a".into(), labels(&[("team", "red")])), ("b".into(), labels(&[("team", "blue")]))].into();
    let pods = [
        pod(1, "a", &[("app", "web")]),
        pod(2, "a", &[("app", "db")]),
        pod(3, "b", &[("app", "web")]),
        pod(4, "b", &[("app", "db")]),
    ];
    let outside: IpAddr = "192.0.2.7".parse().unwrap();
    // What the policy in the namespace `a` says, and what of it holds: from, to, port, whether.
    type Case = (Value, Vec<(IpAddr, IpAddr, u16, bool)>);
    let cases: Vec<Case> = vec![
        // Nothing may come in; what goes out is not spoken of.
        (
            json!({"podSelector": {}, "policyTypes": ["Ingress"]}),
            vec![
                (ip(1), ip(2), 80, false),
                (ip(3), ip(1), 80, false),
                (ip(1), ip(3), 80, true),
                (ip(1), ip(1), 80, true),
            ],
        ),
        (
            json!({"podSelector": {}, "policyTypes": ["Egress"]}),
            vec![(ip(1), ip(2), 80, false), (ip(1), outside, 80, false), (ip(3), ip(1), 80, true)],
        ),
        // An empty rule allows everything; so does a rule of empty lists.
        (
            json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{}]}),
            vec![(ip(3), ip(1), 80, true)],
        ),
        (
            json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": [], "ports": []}]}),
            vec![(ip(3), ip(1), 80, true)],
        ),
        // Only the selected ones.
        (
            json!({"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Ingress"],
                   "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}]}),
            vec![
                (ip(1), ip(2), 80, true),
                (ip(3), ip(2), 80, false),
                (ip(4), ip(1), 80, true),
                (outside, ip(2), 80, false),
            ],
        ),
        (
            json!({"podSelector": {}, "policyTypes": ["Ingress"],
                   "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": "blue"}}}]}]}),
            vec![(ip(3), ip(1), 80, true), (ip(4), ip(2), 80, true), (ip(1), ip(2), 80, false)],
        ),
        // Both must fit.
        (
            json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": [
                {"namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "In", "values": ["blue"]}]},
                 "podSelector": {"matchLabels": {"app": "db"}}}]}]}),
            vec![(ip(4), ip(1), 80, true), (ip(3), ip(1), 80, false), (ip(2), ip(1), 80, false)],
        ),
        (
            json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [
                {"to": [{"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.8/29"]}}], "ports": [{"port": 443}]},
                {"ports": [{"protocol": "UDP", "port": 53}, {"port": 100, "endPort": 110}]}]}),
            vec![
                (ip(1), outside, 443, true),
                (ip(1), outside, 80, false),
                (ip(1), "192.0.2.9".parse().unwrap(), 443, false),
                (ip(1), ip(3), 105, true),
                (ip(1), ip(3), 111, false),
                (ip(1), ip(3), 53, false),
            ],
        ),
        // A name is the destination's: the selected pod's, or the other's.
        (
            json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"ports": [{"port": "http"}]}]}),
            vec![(ip(3), ip(1), 8001, true), (ip(3), ip(1), 8002, false), (ip(3), ip(2), 8002, true)],
        ),
        (
            json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"ports": [{"port": "http"}],
                   "to": [{"namespaceSelector": {}}]}]}),
            vec![(ip(1), ip(3), 8003, true), (ip(1), ip(3), 8001, false), (ip(1), outside, 8001, false)],
        ),
        // Without a port all of the protocol.
        (
            json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"ports": [{"protocol": "TCP"}]}]}),
            vec![(ip(3), ip(1), 1, true), (ip(3), ip(1), 65535, true)],
        ),
        // By the default, what has rules for it is spoken of.
        (
            json!({"podSelector": {}, "egress": [{"ports": [{"port": 80}]}]}),
            vec![(ip(1), outside, 80, true), (ip(1), outside, 81, false), (ip(3), ip(1), 80, false)],
        ),
    ];
    for (spec, expected) in cases {
        let desired = policy::plan(&[read("a", spec.clone())], &namespaces, &pods);
        let kernel = programmed(&desired);
        for (from, to, port, may) in expected {
            assert_eq!(
                kernel.lets(from, to, L4::Tcp, port),
                may,
                "{from} to {to} port {port} under {spec:#}"
            );
        }
    }
}

#[test]
fn a_pod_that_comes_or_goes_is_entries_only() {
    let namespaces = BTreeMap::new();
    let policies = [read(
        "a",
        json!({"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Ingress"], "ingress": [
            {"from": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": "http"}]}]}),
    )];
    let mut pods = vec![pod(1, "a", &[("app", "web")]), pod(2, "a", &[("app", "db")])];
    let mut table = Table::default();
    table.set(&policy::plan(&policies, &namespaces, &pods));
    // One that may come in.
    pods.push(Pod { here: false, ..pod(3, "a", &[("app", "web")]) });
    let changes = table.set(&policy::plan(&policies, &namespaces, &pods));
    assert!(matches!(changes.as_slice(), [Change::AddElement(..)]), "{changes:#?}");
    // One more that is guarded.
    pods.push(pod(4, "a", &[("app", "db")]));
    let changes = table.set(&policy::plan(&policies, &namespaces, &pods));
    assert!(
        matches!(changes.as_slice(), [Change::AddElement(..), Change::Guard(..), Change::AddSelf(..)]),
        "{changes:#?}"
    );
    // One of no interest.
    pods.push(Pod { here: false, ..pod(5, "b", &[("app", "web")]) });
    assert_eq!(table.set(&policy::plan(&policies, &namespaces, &pods)), []);
    pods.truncate(2);
    let changes = table.set(&policy::plan(&policies, &namespaces, &pods));
    assert!(
        !changes.iter().any(|c| matches!(c, Change::AddClass(..) | Change::RemoveClass(..))),
        "{changes:#?}"
    );
}

fn groups(all: &[(&str, Value)]) -> BTreeMap<String, Group> {
    let read = |spec: &Value| serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
    all.iter().map(|(name, spec)| ((*name).to_owned(), read(spec))).collect()
}

fn member(n: u8, names: &[&str]) -> Member {
    Member { addresses: vec![ip(n)], groups: names.iter().map(|g| (*g).into()).collect(), here: true }
}

#[test]
fn what_groups_say() {
    let groups = groups(&[
        (
            "web",
            json!({"ingress": [{"protocol": "TCP", "ports": [{"first": 80}, {"first": 8000, "last": 8100}]}]}),
        ),
        (
            "db",
            json!({"ingress": [{"groupNames": ["web"]}, {"protocol": "UDP", "cidrs": ["192.0.2.0/24"]}], "egress": []}),
        ),
        ("ping", json!({"ingress": [{"protocol": "ICMP"}], "egress": [{"cidrs": ["10.0.0.4/32"]}]})),
    ]);
    let members = [
        member(1, &["web"]),
        member(2, &["db"]),
        member(3, &[]),
        member(4, &["gone"]),
        member(5, &["ping", "db"]),
    ];
    let kernel = programmed(&group::plan(&groups, &members));
    let outside: IpAddr = "192.0.2.7".parse().unwrap();
    for (from, to, protocol, port, may) in [
        (outside, ip(1), L4::Tcp, 80, true),
        (outside, ip(1), L4::Tcp, 8100, true),
        (outside, ip(1), L4::Tcp, 443, false),
        (outside, ip(1), L4::Udp, 80, false),
        (ip(1), ip(2), L4::Tcp, 5432, true),
        (ip(3), ip(2), L4::Tcp, 5432, false),
        (outside, ip(2), L4::Udp, 1, true),
        (outside, ip(2), L4::Tcp, 1, false),
        // Without a list out to everybody, with an empty one to nobody.
        (ip(1), outside, L4::Tcp, 443, true),
        (ip(2), outside, L4::Tcp, 443, false),
        // Who names no group is not guarded; who names one that is not there may do nothing.
        (outside, ip(3), L4::Tcp, 22, true),
        (outside, ip(4), L4::Tcp, 22, false),
        (ip(4), ip(3), L4::Tcp, 22, false),
        // Of several groups each allows something.
        (ip(1), ip(5), L4::Tcp, 1, true),
        (ip(5), ip(3), L4::Tcp, 1, false),
    ] {
        assert_eq!(kernel.lets(from, to, protocol, port), may, "{from} to {to} {protocol:?} {port}");
    }
    let icmp = Element::Ports(PortRange { protocol: 1, first: 0, last: u16::MAX });
    assert!(kernel.sets.values().any(|(_, elements)| elements.contains(&icmp)));
}

// The reference: read plainly, one question at a time.

fn of_policy(
    namespaces: &BTreeMap<String, Labels>,
    own: &str,
    peer: &PolicyPeer,
    ip: IpAddr,
    who: Option<&Pod>,
) -> bool {
    let get =
        |labels: &Labels, selector: &LabelSelector| selector.matches(|k| labels.get(k).map(AsRef::as_ref));
    match peer {
        PolicyPeer::Block { cidr, except } => cidr.contains(&ip) && !except.iter().any(|e| e.contains(&ip)),
        PolicyPeer::Pods { namespaces: of, pods } => who.is_some_and(|pod| {
            let namespace = match of {
                None => *pod.namespace == *own,
                Some(selector) => get(namespaces.get(&*pod.namespace).unwrap_or(&Labels::new()), selector),
            };
            namespace && get(&pod.labels, pods)
        }),
    }
}

fn may(
    policies: &[(String, Policy)],
    namespaces: &BTreeMap<String, Labels>,
    (from, a): (IpAddr, Option<&Pod>),
    (to, b): (IpAddr, Option<&Pod>),
    protocol: L4,
    port: u16,
) -> bool {
    if from == to {
        return true;
    }
    let to_port = |choice: &PolicyPort| {
        choice.protocol == protocol
            && match &choice.port {
                PortChoice::All => true,
                PortChoice::Range(first, last) => (*first..=*last).contains(&port),
                PortChoice::Named(name) => b.is_some_and(|pod| {
                    pod.ports.iter().any(|p| p.name == *name && p.protocol == protocol && p.port == port)
                }),
            }
    };
    let mut result = true;
    for (whose, other, is_egress) in [(a, (to, b), true), (b, (from, a), false)] {
        let Some(pod) = whose.filter(|p| p.here) else { continue };
        let rules_of = |p: &Policy| if is_egress { p.egress.clone() } else { p.ingress.clone() };
        let selecting: Vec<(&String, Vec<PolicyRule>)> = policies
            .iter()
            .filter(|(ns, p)| {
                **ns == *pod.namespace && p.pods.matches(|k| pod.labels.get(k).map(AsRef::as_ref))
            })
            .filter_map(|(ns, p)| Some((ns, rules_of(p)?)))
            .collect();
        if selecting.is_empty() {
            continue;
        }
        result &= selecting.iter().any(|(ns, rules)| {
            rules.iter().any(|rule| {
                let peer = rule.peers.is_empty()
                    || rule.peers.iter().any(|p| of_policy(namespaces, ns, p, other.0, other.1));
                peer && (rule.ports.is_empty() || rule.ports.iter().any(to_port))
            })
        });
    }
    result
}

fn any_selector() -> impl Strategy<Value = LabelSelector> {
    let requirement = (0u8..2, 0u8..5, 0u8..3).prop_map(|(key, op, value)| {
        let (operator, values) = match op {
            0 => (Operator::Equals, vec![format!("v{value}")]),
            1 => (Operator::In, vec!["v0".into(), format!("v{value}")]),
            2 => (Operator::NotIn, vec![format!("v{value}")]),
            3 => (Operator::Exists, vec![]),
            _ => (Operator::DoesNotExist, vec![]),
        };
        Requirement::new(format!("k{key}"), operator, values).unwrap()
    });
    prop::collection::vec(requirement, 0..3).prop_map(LabelSelector::new)
}

fn any_labels() -> impl Strategy<Value = Labels> {
    prop::collection::btree_map(0u8..2, 0u8..3, 0..3).prop_map(|all| {
        all.iter().map(|(k, v)| (format!("k{k}").as_str().into(), format!("v{v}").as_str().into())).collect()
    })
}

fn any_l4() -> impl Strategy<Value = L4> {
    prop_oneof![Just(L4::Tcp), Just(L4::Udp), Just(L4::Sctp)]
}

fn any_rule() -> impl Strategy<Value = PolicyRule> {
    let net = |n: u8, len: u8| IpNet::new(IpAddr::from([10, 0, 0, n]), len).unwrap().trunc();
    let block = (0u8..16, 26u8..=32, prop::collection::vec((0u8..16, 28u8..=32), 0..3)).prop_map(
        move |(n, len, except)| PolicyPeer::Block {
            cidr: net(n, len),
            except: except.into_iter().map(|(n, len)| net(n, len)).collect(),
        },
    );
    let v6 = Just(PolicyPeer::Block {
        cidr: "fd00::/124".parse().unwrap(),
        except: vec!["fd00::4/126".parse().unwrap()],
    });
    let pods = (prop::option::of(any_selector()), any_selector())
        .prop_map(|(namespaces, pods)| PolicyPeer::Pods { namespaces, pods });
    let peer = prop_oneof![3 => pods, 2 => block, 1 => v6];
    let port = prop_oneof![
        Just(PortChoice::All),
        (1u16..6, 0u16..4).prop_map(|(first, n)| PortChoice::Range(first, first + n)),
        (0u8..2).prop_map(|n| PortChoice::Named(format!("n{n}"))),
    ];
    let port = (any_l4(), port).prop_map(|(protocol, port)| PolicyPort { protocol, port });
    (prop::collection::vec(peer, 0..3), prop::collection::vec(port, 0..3))
        .prop_map(|(peers, ports)| PolicyRule { peers, ports })
}

fn any_policy() -> impl Strategy<Value = (String, Policy)> {
    let rules = || prop::option::of(prop::collection::vec(any_rule(), 0..3));
    (0u8..3, any_selector(), rules(), rules())
        .prop_map(|(n, pods, ingress, egress)| (format!("ns{n}"), Policy { pods, ingress, egress }))
}

/// Pods with addresses of their own, the lower half of both families.
fn any_pods() -> impl Strategy<Value = Vec<Pod>> {
    let named = (0u8..2, any_l4(), 1u16..8).prop_map(|(n, protocol, port)| NamedPort {
        name: format!("n{n}"),
        protocol,
        port,
    });
    let pod = (0u8..3, any_labels(), prop::collection::vec(named, 0..3), any::<bool>());
    prop::collection::vec(prop::option::of(pod), 5).prop_map(|all| {
        let with = all.into_iter().enumerate().filter_map(|(n, pod)| Some((n, pod?)));
        with.map(|(n, (namespace, labels, ports, here))| Pod {
            namespace: format!("ns{namespace}").as_str().into(),
            labels,
            addresses: vec![IpAddr::from([10, 0, 0, n as u8]), format!("fd00::{n}").parse().unwrap()],
            ports,
            here,
        })
        .collect()
    })
}

fn any_namespaces() -> impl Strategy<Value = BTreeMap<String, Labels>> {
    prop::collection::btree_map(0u8..3, any_labels(), 0..3)
        .prop_map(|all| all.into_iter().map(|(n, labels)| (format!("ns{n}"), labels)).collect())
}

proptest! {
    /// From each state to the next, what passes is what the policies say, and at the end nothing is left.
    #[test]
    fn policies_let_through_what_they_say(
        steps in prop::collection::vec(
            (prop::collection::vec(any_policy(), 0..4), any_namespaces(), any_pods()), 1..4)
    ) {
        let (mut kernel, mut table) = (Kernel::default(), Table::default());
        for (policies, namespaces, pods) in &steps {
            let desired = policy::plan(policies, namespaces, pods);
            kernel.apply(&table.set(&desired));
            prop_assert_eq!(table.set(&desired), vec![], "a second time changes nothing");
            for family in [Family::V4, Family::V6] {
                let mut all: Vec<(IpAddr, Option<&Pod>)> = pods
                    .iter()
                    .flat_map(|p| p.addresses.iter().filter(|ip| Family::of(**ip) == family).map(move |ip| (*ip, Some(p))))
                    .collect();
                let outside: [IpAddr; 2] = match family {
                    Family::V4 => ["10.0.0.9".parse().unwrap(), "192.0.2.1".parse().unwrap()],
                    Family::V6 => ["fd00::9".parse().unwrap(), "2001:db8::1".parse().unwrap()],
                };
                all.extend(outside.map(|ip| (ip, None)));
                for from in &all {
                    for to in &all {
                        for protocol in [L4::Tcp, L4::Udp, L4::Sctp] {
                            for port in 1..10 {
                                prop_assert_eq!(
                                    kernel.lets(from.0, to.0, protocol, port),
                                    may(policies, namespaces, *from, *to, protocol, port),
                                    "{} to {} {:?} {}", from.0, to.0, protocol, port
                                );
                            }
                        }
                    }
                }
            }
        }
        kernel.apply(&table.set(&Desired::default()));
        prop_assert_eq!(kernel, Kernel::default());
        prop_assert!(table.is_empty());
    }
}
