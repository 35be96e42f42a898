//! Security groups: from groups and ports to what is guarded here.
//!
//! A port that names groups is allowed what any rule of any of them allows, and nothing else; a group that does not exist
//! allows nothing. A port that names none is not guarded.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::Deserialize;
use skep_base::SharedStr;

use super::{Class, Desired, Direction, Name, Peers, PortRange, Ports, Rule, ranges};

/// Numbers of ICMP in the IP header, of IPv4 and of IPv6.
const ICMP: [u8; 2] = [1, 58];

/// A group, as the API writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Group {
    /// Its rules.
    pub spec: GroupSpec,
}

/// The rules of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct GroupSpec {
    /// Who may connect to the group's ports; nobody if there is no list.
    pub ingress: Option<Vec<GroupRule>>,
    /// Whom the group's ports may connect to; everybody if there is no list.
    pub egress: Option<Vec<GroupRule>>,
}

/// One thing that a group allows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GroupRule {
    /// The protocol; all if none is named.
    pub protocol: Option<Protocol>,
    /// The destination's ports; all if there are none.
    pub ports: Option<Vec<Range>>,
    /// Addresses of the other side.
    pub cidrs: Option<Vec<IpNet>>,
    /// Groups of the other side.
    pub group_names: Option<Vec<String>>,
}

/// What a connection is spoken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
    Icmp,
}

/// Ports from the first to the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Range {
    /// The first.
    pub first: u16,
    /// The last; the first if none is named.
    pub last: Option<u16>,
}

/// A port that is in groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// The addresses that it may send from.
    pub addresses: Vec<IpAddr>,
    /// The groups that it names.
    pub groups: Vec<SharedStr>,
    /// Whether it is here, and to be guarded.
    pub here: bool,
}

/// Plans what is guarded here.
#[must_use]
pub fn plan(groups: &BTreeMap<String, Group>, members: &[Member]) -> Desired {
    let mut desired = Desired::default();
    let mut asked: BTreeSet<&str> = BTreeSet::new();
    let mut classes: BTreeMap<(&[SharedStr], Direction), Option<Arc<Class>>> = BTreeMap::new();
    for member in members.iter().filter(|m| m.here && !m.groups.is_empty()) {
        for direction in Direction::ALL {
            let class = classes.entry((&member.groups, direction)).or_insert_with(|| {
                let of_it: Vec<&GroupSpec> = member
                    .groups
                    .iter()
                    .filter_map(|g| groups.get(g.as_ref() as &str))
                    .map(|g| &g.spec)
                    .collect();
                class(&of_it, direction, &mut asked).map(Arc::new)
            });
            if let Some(class) = class {
                for ip in &member.addresses {
                    desired.guard(direction, *ip, class);
                }
            }
        }
    }
    for group in asked {
        let of_it = members.iter().filter(|m| m.groups.iter().any(|g| *g == *group));
        let ips = of_it.flat_map(|m| m.addresses.iter().copied()).collect();
        desired.members.insert(set_name(group), ips);
    }
    desired
}

fn set_name(group: &str) -> Name {
    format!("ports of the group {group}").into()
}

/// What some groups together allow; none if that is everything.
fn class<'a>(groups: &[&'a GroupSpec], direction: Direction, asked: &mut BTreeSet<&'a str>) -> Option<Class> {
    let mut class = Class::new();
    for group in groups {
        let rules = match direction {
            Direction::Ingress => group.ingress.as_deref().unwrap_or_default(),
            Direction::Egress => group.egress.as_deref()?,
        };
        for rule in rules {
            let ports = ports(rule);
            let mut peers: Vec<Option<Peers>> = Vec::new();
            for name in rule.group_names.iter().flatten() {
                asked.insert(name);
                peers.push(Some(Peers::Members(set_name(name))));
            }
            let cidrs = rule.cidrs.as_deref().unwrap_or_default();
            if !cidrs.is_empty() {
                let blocks = cidrs.iter().map(|c| (c.trunc(), &[][..]));
                peers.push(Some(Peers::Ranges(ranges::addresses(blocks))));
            }
            if peers.is_empty() {
                peers.push(None);
            }
            class.extend(peers.into_iter().map(|peers| Rule { peers, ports: ports.clone() }));
        }
    }
    (!class.contains(&Rule { peers: None, ports: None })).then_some(class)
}

fn ports(rule: &GroupRule) -> Option<Ports> {
    let protocols = match rule.protocol? {
        Protocol::Tcp => &[6][..],
        Protocol::Udp => &[17],
        Protocol::Sctp => &[132],
        Protocol::Icmp => &ICMP,
    };
    let said = rule.ports.as_deref().unwrap_or_default();
    let mut all = Vec::new();
    for protocol in protocols {
        if said.is_empty() {
            all.push(PortRange { protocol: *protocol, first: 0, last: u16::MAX });
        }
        all.extend(said.iter().map(|r| PortRange {
            protocol: *protocol,
            first: r.first,
            last: r.last.unwrap_or(r.first),
        }));
    }
    Some(Ports::Numbers(ranges::ports(all)))
}
