//! Network policies: from policies, namespaces and pods to what is guarded here.
//!
//! Only pods of this place are guarded, and only what their policies ask for is looked up. A pod that no policy selects
//! for a direction may do there what it likes; one that some select may do what any of them allows.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::Deserialize;
use skep_base::SharedStr;
use skep_base::selector::{LabelSelector, Operator, Requirement};

use super::{Class, Desired, Direction, Name, Peers, PortRange, Ports, ProtocolPort, Rule, ranges};
use crate::service::L4;

/// Labels of an object.
pub type Labels = BTreeMap<SharedStr, SharedStr>;

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Which pods of its namespace it is about.
    pub pods: LabelSelector,
    /// What may come to them; none if it says nothing about that.
    pub ingress: Option<Vec<PolicyRule>>,
    /// What they may begin; none if it says nothing about that.
    pub egress: Option<Vec<PolicyRule>>,
}

/// One thing that a policy allows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyRule {
    /// The other side; everybody if the list is empty.
    pub peers: Vec<PolicyPeer>,
    /// Where to; everywhere if the list is empty.
    pub ports: Vec<PolicyPort>,
}

/// The other side of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyPeer {
    /// Pods.
    Pods {
        /// Of which namespaces; of the policy's own if nothing is said.
        namespaces: Option<LabelSelector>,
        /// Which of them.
        pods: LabelSelector,
    },
    /// Addresses.
    Block {
        /// These.
        cidr: IpNet,
        /// But not those.
        except: Vec<IpNet>,
    },
}

/// Where a connection leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyPort {
    /// The protocol.
    pub protocol: L4,
    /// Which of its ports.
    pub port: PortChoice,
}

/// Which ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortChoice {
    /// All.
    All,
    /// From the first to the last.
    Range(u16, u16),
    /// The one that the pod it leads to calls so.
    Named(String),
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: SharedStr,
    /// Its labels.
    pub labels: Labels,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its ports that have names.
    pub ports: Vec<NamedPort>,
    /// Whether it is here, and to be guarded.
    pub here: bool,
}

/// A port of a pod that has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPort {
    /// The name.
    pub name: String,
    /// The protocol.
    pub protocol: L4,
    /// The port.
    pub port: u16,
}

/// What a set of pods is asked for by.
type PeerKey<'a> = (&'a str, Option<&'a LabelSelector>, &'a LabelSelector);

/// Pods that no selector can tell apart.
struct Alike<'a> {
    namespace: &'a str,
    labels: &'a Labels,
    pods: Vec<&'a Pod>,
}

fn fits(selector: &LabelSelector, labels: &Labels) -> bool {
    selector.matches(|key| labels.get(key).map(AsRef::as_ref))
}

/// Plans what is guarded here. Policies have their namespace beside them; a namespace without known labels has none.
#[must_use]
pub fn plan(policies: &[(String, Policy)], namespaces: &BTreeMap<String, Labels>, pods: &[Pod]) -> Desired {
    let mut planner = Planner::new(namespaces, pods);
    let mut desired = Desired::default();
    // Equal pods have equal classes: each is made once.
    for i in 0..planner.alike.len() {
        let (namespace, labels) = (planner.alike[i].namespace, planner.alike[i].labels);
        if !planner.alike[i].pods.iter().any(|p| p.here) {
            continue;
        }
        let selecting: Vec<&Policy> = policies
            .iter()
            .filter(|(of, policy)| of == namespace && fits(&policy.pods, labels))
            .map(|(_, policy)| policy)
            .collect();
        for direction in Direction::ALL {
            let rules = |p: &&'_ Policy| match direction {
                Direction::Ingress => p.ingress.is_some(),
                Direction::Egress => p.egress.is_some(),
            };
            if !selecting.iter().any(rules) {
                continue;
            }
            let mut class = Class::new();
            for policy in &selecting {
                let rules = match direction {
                    Direction::Ingress => &policy.ingress,
                    Direction::Egress => &policy.egress,
                };
                for rule in rules.iter().flatten() {
                    planner.compile(namespace, direction, rule, &mut class, &mut desired);
                }
            }
            if class.contains(&Rule { peers: None, ports: None }) {
                // Everything is allowed: nothing needs to be looked at.
                continue;
            }
            let class = Arc::new(class);
            for pod in planner.alike[i].pods.iter().filter(|p| p.here) {
                for ip in &pod.addresses {
                    desired.guard(direction, *ip, &class);
                }
            }
        }
    }
    desired
}

struct Planner<'a> {
    namespaces: &'a BTreeMap<String, Labels>,
    alike: Vec<Alike<'a>>,
    pods: &'a [Pod],
}

impl<'a> Planner<'a> {
    fn new(namespaces: &'a BTreeMap<String, Labels>, pods: &'a [Pod]) -> Planner<'a> {
        let mut index: HashMap<(&str, &Labels), usize> = HashMap::new();
        let mut alike: Vec<Alike<'a>> = Vec::new();
        for pod in pods {
            let at = *index.entry((&pod.namespace, &pod.labels)).or_insert_with(|| {
                alike.push(Alike { namespace: &pod.namespace, labels: &pod.labels, pods: Vec::new() });
                alike.len() - 1
            });
            alike[at].pods.push(pod);
        }
        Planner { namespaces, alike, pods }
    }

    fn compile(
        &mut self,
        namespace: &str,
        direction: Direction,
        rule: &PolicyRule,
        class: &mut Class,
        desired: &mut Desired,
    ) {
        let mut peers: Vec<Option<Peers>> = Vec::new();
        if rule.peers.is_empty() {
            peers.push(None);
        }
        let mut blocks: Vec<(IpNet, &[IpNet])> = Vec::new();
        for peer in &rule.peers {
            match peer {
                PolicyPeer::Pods { namespaces, pods } => {
                    let name = self.members((namespace, namespaces.as_ref(), pods), desired);
                    peers.push(Some(Peers::Members(name)));
                }
                PolicyPeer::Block { cidr, except } => blocks.push((*cidr, except)),
            }
        }
        if !blocks.is_empty() {
            peers.push(Some(Peers::Ranges(ranges::addresses(blocks))));
        }
        let mut ports: Vec<Option<Ports>> = Vec::new();
        if rule.ports.is_empty() {
            ports.push(None);
        }
        let mut numbers = Vec::new();
        for port in &rule.ports {
            let protocol = port.protocol.number();
            match &port.port {
                PortChoice::All => numbers.push(PortRange { protocol, first: 0, last: u16::MAX }),
                PortChoice::Range(first, last) => {
                    numbers.push(PortRange { protocol, first: *first, last: *last });
                }
                PortChoice::Named(name) => {
                    let set = self.named(direction, port.protocol, name, desired);
                    ports.push(Some(Ports::Named(set)));
                }
            }
        }
        if !numbers.is_empty() {
            ports.push(Some(Ports::Numbers(ranges::ports(numbers))));
        }
        for peers in &peers {
            class.extend(ports.iter().map(|ports| Rule { peers: peers.clone(), ports: ports.clone() }));
        }
    }

    /// The set of the pods that a peer means.
    fn members(&self, (own, namespaces, pods): PeerKey<'_>, desired: &mut Desired) -> Name {
        // Neither a name nor a selector has such a sign in it that two of them could look alike.
        let name: Name = match namespaces {
            None => format!("pods {pods} of the namespace {own}"),
            Some(n) => format!("pods {pods} of namespaces {n}"),
        }
        .into();
        if !desired.members.contains_key(&name) {
            let nothing = Labels::new();
            let found = self.alike.iter().filter(|a| match namespaces {
                None => a.namespace == own,
                Some(selector) => fits(selector, self.namespaces.get(a.namespace).unwrap_or(&nothing)),
            });
            let found = found.filter(|a| fits(pods, a.labels)).flat_map(|a| &a.pods);
            let ips = found.flat_map(|p| p.addresses.iter().copied()).collect();
            desired.members.insert(name.clone(), ips);
        }
        name
    }

    /// The set of a port's name. A connection leads to the pod that has the name: one that is guarded, or any.
    fn named(&self, direction: Direction, protocol: L4, port: &str, desired: &mut Desired) -> Name {
        let whose = match direction {
            Direction::Ingress => "pods here",
            Direction::Egress => "all pods",
        };
        let name: Name = format!("port {port} {} of {whose}", protocol.number()).into();
        if !desired.named.contains_key(&name) {
            let all = self.pods.iter().filter(|p| direction == Direction::Egress || p.here);
            let mut found: BTreeSet<(IpAddr, ProtocolPort)> = BTreeSet::new();
            for pod in all {
                let of_it = pod.ports.iter().filter(|p| p.name == port && p.protocol == protocol);
                for number in of_it.map(|p| p.port) {
                    found.extend(pod.addresses.iter().map(|ip| (*ip, (protocol.number(), number))));
                }
            }
            desired.named.insert(name.clone(), found);
        }
        name
    }
}

/// The objects as the API writes them.
mod wire {
    use std::collections::BTreeMap;

    use super::{Deserialize, L4, LabelSelector, Operator, Requirement};

    #[derive(Default, Deserialize)]
    #[serde(default)]
    pub(super) struct Policy {
        pub(super) spec: Spec,
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    pub(super) struct Spec {
        pub(super) pod_selector: Selector,
        pub(super) policy_types: Vec<String>,
        pub(super) ingress: Option<Vec<Rule>>,
        pub(super) egress: Option<Vec<Rule>>,
    }

    #[derive(Default, Deserialize)]
    #[serde(default)]
    pub(super) struct Rule {
        pub(super) from: Option<Vec<Peer>>,
        pub(super) to: Option<Vec<Peer>>,
        pub(super) ports: Option<Vec<Port>>,
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    pub(super) struct Peer {
        pub(super) pod_selector: Option<Selector>,
        pub(super) namespace_selector: Option<Selector>,
        pub(super) ip_block: Option<Block>,
    }

    #[derive(Deserialize)]
    pub(super) struct Block {
        pub(super) cidr: String,
        #[serde(default)]
        pub(super) except: Option<Vec<String>>,
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    pub(super) struct Port {
        pub(super) protocol: Option<L4>,
        pub(super) port: Option<Number>,
        pub(super) end_port: Option<u16>,
    }

    #[derive(Deserialize)]
    #[serde(untagged)]
    pub(super) enum Number {
        Number(u16),
        Name(String),
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    pub(super) struct Selector {
        match_labels: Option<BTreeMap<String, String>>,
        match_expressions: Option<Vec<Expression>>,
    }

    #[derive(Deserialize)]
    struct Expression {
        key: String,
        operator: String,
        #[serde(default)]
        values: Option<Vec<String>>,
    }

    impl Selector {
        /// As it is evaluated. One that cannot be, which validation refuses, selects nothing.
        pub(super) fn read(self) -> LabelSelector {
            let mut all = Vec::new();
            let equal = self.match_labels.unwrap_or_default().into_iter();
            all.extend(equal.map(|(key, value)| Requirement::new(key, Operator::Equals, vec![value]).ok()));
            for e in self.match_expressions.unwrap_or_default() {
                let operator = match e.operator.as_str() {
                    "In" => Some(Operator::In),
                    "NotIn" => Some(Operator::NotIn),
                    "Exists" => Some(Operator::Exists),
                    "DoesNotExist" => Some(Operator::DoesNotExist),
                    _ => None,
                };
                let values = e.values.unwrap_or_default();
                all.push(operator.and_then(|o| Requirement::new(e.key, o, values).ok()));
            }
            all.into_iter()
                .collect::<Option<Vec<_>>>()
                .map_or_else(LabelSelector::nothing, LabelSelector::new)
        }
    }

    /// What is meant by a block that was written with zeros before its numbers, as old ones may be.
    pub(super) fn block(text: &str) -> Option<super::IpNet> {
        if let Ok(net) = text.parse::<super::IpNet>() {
            return Some(net.trunc());
        }
        let (address, len) = text.split_once('/')?;
        let parts = address.split('.').map(|p| p.parse().ok()).collect::<Option<Vec<u8>>>()?;
        let octets: [u8; 4] = parts.try_into().ok()?;
        super::IpNet::new(octets.into(), len.parse().ok()?).ok().map(|net| net.trunc())
    }
}

fn read_rule(rule: wire::Rule) -> PolicyRule {
    let mut peers = Vec::new();
    for peer in rule.from.into_iter().chain(rule.to).flatten() {
        if let Some(block) = peer.ip_block {
            let except = block.except.unwrap_or_default();
            let except: Option<Vec<IpNet>> = except.iter().map(|e| wire::block(e)).collect();
            match (wire::block(&block.cidr), except) {
                (Some(cidr), Some(except)) => peers.push(PolicyPeer::Block { cidr, except }),
                // What cannot be read allows nothing; but it is not the same as no peer, which is everybody.
                _ => peers.push(PolicyPeer::Pods { namespaces: None, pods: LabelSelector::nothing() }),
            }
            continue;
        }
        let pods = peer.pod_selector.map_or_else(LabelSelector::everything, wire::Selector::read);
        peers.push(PolicyPeer::Pods { namespaces: peer.namespace_selector.map(wire::Selector::read), pods });
    }
    let port = |p: wire::Port| PolicyPort {
        protocol: p.protocol.unwrap_or_default(),
        port: match p.port {
            None => PortChoice::All,
            Some(wire::Number::Number(first)) => PortChoice::Range(first, p.end_port.unwrap_or(first)),
            Some(wire::Number::Name(name)) => PortChoice::Named(name),
        },
    };
    PolicyRule { peers, ports: rule.ports.into_iter().flatten().map(port).collect() }
}

impl<'de> Deserialize<'de> for Policy {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Policy, D::Error> {
        let spec = wire::Policy::deserialize(deserializer)?.spec;
        // Always stored; if not, by the rule that the server defaults them by.
        let says = |direction: &str| spec.policy_types.iter().any(|t| t == direction);
        let nothing = spec.policy_types.is_empty();
        let ingress = nothing || says("Ingress");
        let egress = says("Egress") || (nothing && spec.egress.as_ref().is_some_and(|e| !e.is_empty()));
        let rules = |list: Option<Vec<wire::Rule>>| list.into_iter().flatten().map(read_rule).collect();
        Ok(Policy {
            pods: spec.pod_selector.read(),
            ingress: ingress.then(|| rules(spec.ingress)),
            egress: egress.then(|| rules(spec.egress)),
        })
    }
}
