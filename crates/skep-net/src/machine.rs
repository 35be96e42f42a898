//! The network inside a machine: one bridge, a pair of interfaces for each pod.
//!
//! The bridge is a port of the tenant's layer 2 through the machine's own interface, the *uplink*. It has the
//! machine's address and, in every machine the same, the subnet's gateway address, so pods' traffic to services
//! and to the outside is routed here. Bridged packets pass the IP layer's packet filters: a service's answer that
//! comes straight from a pod of the same subnet must be seen by the connection tracking that changed its request.

use std::net::{IpAddr, SocketAddrV4};
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::fast;
use crate::front;
use crate::link::{Bridge, BridgePort, Link, LinkStats, MacAddr, Net, Peer};
use crate::netlink::{Error, Result, unless_exists};
use crate::nft::{
    BaseChain, Batch, ChainKind, Cmp, Expr, Family, Hook, MetaKey, NewElement, Nft, PayloadBase, Reg, Set,
    Table,
};
use crate::ns::{Namespace, sysctl};
use crate::origin;
use crate::podpublic::{self, PUBLIC_PREFIX};
use crate::route::{Forward, Neighbour, Route};

/// The name of a pod's interface in the pod.
pub const POD_INTERFACE: &str = "eth0";
/// What the machine's ends of pods' interfaces are called, before a number made from the pod's id.
pub(crate) const POD_PREFIX: &str = "pod";
/// Names of interfaces end here, at fifteen characters: three of the prefix and 48 bits.
const POD_HASH_BITS: u32 = 48;

/// What the machine says under its own addresses.
pub(crate) const VOICE: Table = Table { family: Family::Netdev, name: "skep-uplink" };

/// What connection tracking does not see.
const NAMES: Table = Table { family: Family::Ip, name: "skep-names" };
/// Before connection tracking.
const PRIORITY_RAW: i32 = -300;
const UDP: u8 = 17;

/// Whom each pod may speak as.
pub(crate) const PODS: Table = Table { family: Family::Bridge, name: "skep-pods" };

/// What a machine's network is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineConfig {
    /// The bridge's name.
    pub bridge: String,
    /// The bridge's address, which is the one that the machine's port has.
    pub mac: MacAddr,
    /// Largest packet of the tenant's network.
    pub mtu: u32,
    /// The machine's own addresses, the gateways' addresses among them, each with the subnet's length.
    pub addresses: Vec<IpNet>,
    /// The interface that leads out of the machine; a machine without one is alone.
    pub uplink: Option<String>,
    /// Through whom what is not in the subnets is sent, on the bridge.
    pub gateways: Vec<Neighbour>,
}

/// What a pod's network is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodConfig {
    /// The pod's unique id.
    pub id: String,
    /// Where its namespace is mounted, or will be.
    pub namespace: PathBuf,
    /// The address of its interface.
    pub mac: MacAddr,
    /// Its addresses, each with the subnet's length: all of the subnet is reached directly.
    pub addresses: Vec<IpNet>,
    /// Other addresses that it may send from.
    pub pairs: Vec<IpAddr>,
    /// Through whom it reaches everything else, one of each family at most.
    pub gateways: Vec<IpAddr>,
    /// Largest packet.
    pub mtu: u32,
}

/// Who a pod is to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Speaker {
    /// The pod's unique id.
    pub id: String,
    /// The address of its interface.
    pub mac: MacAddr,
    /// The addresses that it may send from.
    pub addresses: Vec<IpAddr>,
}

impl Speaker {
    /// What lets it speak: sets, and their elements.
    fn elements(&self) -> Vec<(&'static str, NewElement)> {
        let interface = pod_interface(&self.id);
        let mut all = vec![(origin::MACS, origin::allowed_mac(&interface, &self.mac.0))];
        all.extend(self.addresses.iter().map(|ip| origin::allowed(&interface, &self.mac.0, *ip)));
        all
    }
}

impl PodConfig {
    /// Who it is to others.
    #[must_use]
    pub fn speaker(&self) -> Speaker {
        let all = self.addresses.iter().map(IpNet::addr).chain(self.pairs.iter().copied());
        Speaker { id: self.id.clone(), mac: self.mac, addresses: all.collect() }
    }
}

/// A pod's network as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodLink {
    /// The pod's unique id.
    pub id: String,
    /// The machine's end.
    pub interface: String,
    /// What the pod sent and received, seen from the pod.
    pub stats: LinkStats,
}

/// The network of one machine.
#[derive(Debug)]
pub struct MachineNetwork {
    config: MachineConfig,
    pub(crate) namespace: Namespace,
    pub(crate) net: Net,
    pub(crate) bridge: Link,
}

impl MachineNetwork {
    /// Makes a machine's network what it is to be, in the machine's namespace. What pods have stays.
    ///
    /// # Errors
    /// What the kernel says. It can be called again.
    pub fn set_up(namespace: Namespace, config: MachineConfig) -> Result<MachineNetwork> {
        let mut net = Net::open(&namespace)?;
        namespace.run(machine_sysctls)??;
        unless_exists(net.add_bridge(
            &config.bridge,
            config.mac,
            config.mtu,
            Bridge { call_iptables: true },
        ))?;
        let bridge = net.expect_link(&config.bridge)?;
        namespace.run(|| bridge_sysctls(&config.bridge))??;
        if bridge.mac != config.mac {
            net.set_mac(bridge.index, config.mac)?;
        }
        if let Some(uplink) = &config.uplink {
            let uplink = net.expect_link(uplink)?;
            // Addresses belong to the bridge.
            for address in net.addresses(uplink.index)? {
                net.delete_address(uplink.index, address)?;
            }
            if uplink.mtu != config.mtu {
                net.set_mtu(uplink.index, config.mtu)?;
            }
            // What it would say by itself, that it is a router, is no port's.
            namespace.run(|| quiet(&uplink.name))??;
            if uplink.master != Some(bridge.index) {
                net.set_master(uplink.index, bridge.index)?;
            }
            net.set_up(uplink.index)?;
            let into = front::set_up(&namespace, &mut net, config.mac, config.mtu)?;
            let voice = own_voice(&config, &uplink.name);
            let mut both = voice.clone();
            front::lead(&mut both, VOICE, &uplink.name, config.mac, into);
            let mut nft = Nft::open(&namespace)?;
            match nft.commit(both) {
                // A guest's kernel that cannot lead packets past the bridge: then connections from outside only reach endpoints here.
                Err(error) if error.is_missing() => nft.commit(voice)?,
                other => other?,
            }
        }
        if bridge.mtu != config.mtu {
            net.set_mtu(bridge.index, config.mtu)?;
        }
        net.set_up(bridge.index)?;
        for old in net.addresses(bridge.index)? {
            if !config.addresses.contains(&old) {
                net.delete_address(bridge.index, old)?;
            }
        }
        for address in &config.addresses {
            net.add_address(bridge.index, *address)?;
        }
        for gateway in &config.gateways {
            net.set_neighbour(bridge.index, *gateway)?;
            net.replace_route(&default_route(gateway.ip, bridge.index))?;
        }
        let bridge = net.expect_link(&config.bridge)?;
        begin_short_way(&namespace, &mut net, &config, &bridge)?;
        Ok(MachineNetwork { config, namespace, net, bridge })
    }

    /// Says that addresses are reached through the bridge: those of services, which need a route before connections to
    /// them are changed.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn add_routes(&mut self, destinations: &[IpNet]) -> Result<()> {
        for destination in destinations {
            let route =
                Route { destination: *destination, gateway: None, link: self.bridge.index, source: None };
            self.net.replace_route(&route)?;
        }
        Ok(())
    }

    /// Keeps questions to a server of this machine, and its answers, out of connection tracking: each question has a port of its own, and
    /// a connection of UDP is remembered for half a minute. With 20,000 questions a second the host's whole table would be full of
    /// them, and everybody's connections would fail. Nothing needs them there: filters look at what goes through, not at what ends here.
    ///
    /// # Errors
    /// What the kernel says; then what was said before holds.
    pub fn leave_untracked(&mut self, server: SocketAddrV4) -> Result<()> {
        let mut batch = Batch::new();
        batch.delete_table(NAMES);
        batch.add_table(NAMES);
        let (ip, port) = (server.ip().octets(), server.port().to_be_bytes());
        // What comes is known by where it goes, what leaves by where it comes from.
        for (chain, hook, address, number) in
            [("questions", Hook::Prerouting, 16, 2), ("answers", Hook::Output, 12, 0)]
        {
            let base = BaseChain {
                kind: ChainKind::Filter,
                hook,
                priority: PRIORITY_RAW,
                drop: false,
                device: None,
            };
            batch.add_base_chain(NAMES, chain, &base);
            let rule = [
                Expr::Meta { key: MetaKey::L4Proto, to: Reg(0) },
                Expr::Cmp { from: Reg(0), op: Cmp::Eq, value: &[UDP] },
                Expr::Payload { base: PayloadBase::Network, offset: address, len: 4, to: Reg(0) },
                Expr::Cmp { from: Reg(0), op: Cmp::Eq, value: &ip },
                Expr::Payload { base: PayloadBase::Transport, offset: number, len: 2, to: Reg(0) },
                Expr::Cmp { from: Reg(0), op: Cmp::Eq, value: &port },
                Expr::Untracked,
            ];
            batch.add_rule(NAMES, chain, &rule);
        }
        Nft::open(&self.namespace)?.commit(batch)
    }

    /// What it was made from.
    #[must_use]
    pub fn config(&self) -> &MachineConfig {
        &self.config
    }

    /// The machine's namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Gives a pod its network: its namespace, if it has none yet, and in it an interface with the addresses.
    /// When all of it is there already, nothing changes and no connection notices.
    ///
    /// # Errors
    /// What the kernel says. It can be called again, and [`MachineNetwork::tear_down_pod`] removes what is half done.
    pub fn set_up_pod(&mut self, pod: &PodConfig) -> Result<()> {
        let namespace = Namespace::persistent(&pod.namespace)?;
        let mut inside = Net::open(&namespace)?;
        let name = pod_interface(&pod.id);
        let mut ours = self.net.link(&name)?;
        let theirs = inside.link(POD_INTERFACE)?;
        if ours.as_ref().is_some_and(|l| l.alias.as_deref().is_some_and(|a| a != pod.id)) {
            return Err(Error::io(
                format!("connect the pod {}", pod.id),
                std::io::Error::other(format!("the interface {name} belongs to another pod")),
            ));
        }
        if ours.is_some() && theirs.as_ref().is_none_or(|l| l.mac != pod.mac) {
            // An end without its other end, or of another address: from the start.
            self.net.delete_link(&name)?;
            ours = None;
        }
        if ours.is_none() {
            inside.delete_link(POD_INTERFACE)?;
            let peer = Peer { name: POD_INTERFACE, mac: Some(pod.mac), namespace: Some(&namespace) };
            self.net.add_veth(&name, None, pod.mtu, &peer)?;
        }
        let ours = self.net.expect_link(&name)?;
        let theirs = inside.expect_link(POD_INTERFACE)?;
        if ours.alias.as_deref() != Some(&pod.id) {
            self.net.set_alias(ours.index, &pod.id)?;
        }
        if ours.mtu != pod.mtu {
            self.net.set_mtu(ours.index, pod.mtu)?;
        }
        if theirs.mtu != pod.mtu {
            inside.set_mtu(theirs.index, pod.mtu)?;
        }
        if !(ours.up && ours.master == Some(self.bridge.index)) {
            self.namespace.run(|| quiet(&name))??;
            self.net.set_master(ours.index, self.bridge.index)?;
            // Where the pod is, is said below: nothing that it sends changes that.
            // A pod that reaches itself through a service comes back to the port that it came from.
            let port = BridgePort { learning: Some(false), hairpin: Some(true), ..BridgePort::default() };
            self.net.set_bridge_port(ours.index, port)?;
            self.net.set_up(ours.index)?;
        }
        self.net.set_forwards(ours.index, &[Forward { mac: pod.mac, host: None }])?;
        self.let_speak(&name, Some(pod))?;
        fast::set_pod(&mut Nft::open(&self.namespace)?, &name, ours.index, Some(pod.mac))?;
        namespace.run(pod_sysctls)??;
        if !theirs.up {
            inside.set_up(theirs.index)?;
        }
        for old in inside.addresses(theirs.index)? {
            if !pod.addresses.contains(&old) {
                inside.delete_address(theirs.index, old)?;
            }
        }
        for address in &pod.addresses {
            inside.add_address(theirs.index, *address)?;
        }
        let is_public = podpublic::is_public(&mut inside)?;
        for gateway in &pod.gateways {
            // The gateway is this machine: nobody needs to be asked for its address.
            inside.set_neighbour(theirs.index, Neighbour { ip: *gateway, mac: self.config.mac })?;
            if !is_public[usize::from(gateway.is_ipv6())] {
                inside.replace_route(&default_route(*gateway, theirs.index))?;
            }
        }
        Ok(())
    }

    /// From now on each pod speaks as itself only: who filters connections goes by their addresses. `known` are the pods
    /// that there are, `public` the public addresses that they have; others say nothing until [`MachineNetwork::set_up_pod`] is called for them. It can be called again.
    ///
    /// # Errors
    /// What the kernel says; then what was said before holds.
    pub fn guard_pods(&mut self, known: &[Speaker], public: &[IpAddr]) -> Result<()> {
        let mut batch = Batch::new();
        batch.delete_table(PODS);
        origin::filters(&mut batch, PODS, &origin::from_others(POD_PREFIX));
        for pod in known {
            for (set, element) in pod.elements() {
                batch.add_element(PODS, set, element);
            }
        }
        for (set, element) in public.iter().flat_map(|ip| podpublic::voice(*ip)) {
            batch.add_element(PODS, set, element);
        }
        Nft::open(&self.namespace)?.commit(batch)
    }

    /// Lets a pod speak as itself, or an interface that is gone not any more. Where pods are not guarded, it is as it was: those
    /// that there are would be silenced.
    fn let_speak(&mut self, interface: &str, pod: Option<&PodConfig>) -> Result<()> {
        let mut nft = Nft::open(&self.namespace)?;
        let mut batch = Batch::new();
        for set in origin::SETS {
            let said = match nft.elements(PODS, set) {
                Ok(said) => said,
                Err(error) if error.is_missing() => return Ok(()),
                Err(error) => return Err(error),
            };
            for old in said.into_iter().filter(|e| origin::is_of(&e.key, interface)) {
                batch.delete_element(PODS, set, NewElement { key: old.key, ..NewElement::default() });
            }
        }
        for (set, element) in pod.map(PodConfig::speaker).iter().flat_map(Speaker::elements) {
            batch.add_element(PODS, set, element);
        }
        nft.commit(batch)
    }

    /// Takes a pod's network away, its namespace included. That there is none is fine.
    ///
    /// # Errors
    /// What the kernel says. It can be called again.
    pub fn tear_down_pod(&mut self, id: &str, namespace: &std::path::Path) -> Result<()> {
        // The machine's end first: it takes the other one with it, also when the namespace lives on in a process.
        self.take_all_public(id)?;
        let name = pod_interface(id);
        let index = self.net.link(&name)?.map(|l| l.index);
        self.net.delete_link(&name)?;
        self.let_speak(&name, None)?;
        // Numbers of interfaces begin at one: without it, only what is left of its chains goes.
        fast::set_pod(&mut Nft::open(&self.namespace)?, &name, index.unwrap_or_default(), None)?;
        Namespace::remove(namespace)
    }

    /// The pods that have an interface here.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn pods(&mut self) -> Result<Vec<PodLink>> {
        let bridge = self.bridge.index;
        let links = self.net.links()?.into_iter();
        Ok(links
            .filter(|l| l.name.starts_with(POD_PREFIX) && !l.name.starts_with(PUBLIC_PREFIX))
            .filter(|l| l.kind.as_deref() == Some("veth"))
            .filter(|l| l.master.is_none_or(|m| m == bridge))
            .filter_map(|l| {
                Some(PodLink { id: l.alias?, interface: l.name, stats: seen_from_the_pod(l.stats) })
            })
            .collect())
    }

    /// Removes the machine's bridge and every pod's interface. Namespaces of pods stay to whoever knows them.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn tear_down(mut self) -> Result<()> {
        for pod in self.pods()? {
            self.take_all_public(&pod.id)?;
            self.net.delete_link(&pod.interface)?;
        }
        let mut batch = Batch::new();
        batch.delete_table(PODS);
        fast::remove(&mut batch);
        batch.delete_table(VOICE);
        Nft::open(&self.namespace)?.commit(batch)?;
        front::remove(&mut self.net)?;
        self.net.delete_link(&self.config.bridge)
    }
}

/// Where the kernel has what it takes.
fn begin_short_way(
    namespace: &Namespace,
    net: &mut Net,
    config: &MachineConfig,
    bridge: &Link,
) -> Result<()> {
    let links = net.links()?;
    let uplink = config.uplink.as_ref().and_then(|name| links.iter().find(|l| l.name == *name));
    let mut nft = Nft::open(namespace)?;
    match fast::set_up(&mut nft, bridge, uplink, &links) {
        Err(error) if error.is_missing() => return Ok(()),
        other => other?,
    }
    if namespace.run(fast::tracking)?.is_err() {
        // A machine whose settings are read-only to it.
        let mut batch = Batch::new();
        fast::remove(&mut batch);
        return nft.commit(batch);
    }
    if let Some(uplink) = uplink {
        // In one chain with what is learned.
        let mut batch = Batch::new();
        fast::first(&mut batch, &uplink.name, |batch, table, chain| speak(batch, table, chain, config));
        batch.flush_chain(VOICE, "egress");
        batch.delete_chain(VOICE, "egress");
        nft.commit(batch)?;
    }
    // Where pods are that there are already: what their bridge was told.
    for link in links.iter().filter(|l| l.master == Some(bridge.index) && l.name.starts_with(POD_PREFIX)) {
        if link.name.starts_with(PUBLIC_PREFIX) {
            continue;
        }
        if let [forward] = net.forwards(link.index)?[..] {
            fast::set_pod(&mut nft, &link.name, link.index, Some(forward.mac))?;
        }
    }
    Ok(())
}

fn seen_from_the_pod(s: LinkStats) -> LinkStats {
    LinkStats {
        rx_packets: s.tx_packets,
        rx_bytes: s.tx_bytes,
        rx_dropped: s.tx_dropped,
        tx_packets: s.rx_packets,
        tx_bytes: s.rx_bytes,
        tx_dropped: s.rx_dropped,
    }
}

/// The name of the machine's end of a pod's interface: the same for the same pod, whoever asks.
#[must_use]
pub fn pod_interface(id: &str) -> String {
    // FNV-1a: names must stay the same over releases, which no hasher of the standard library promises. A
    // collision is noticed by the alias, which holds the whole id.
    let hash =
        id.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    format!("{POD_PREFIX}{:012x}", hash & ((1 << POD_HASH_BITS) - 1))
}

/// What leaves the machine under one of its own addresses leaves with its own Ethernet address. A pod's connection to a
/// node port is led on under the node's address; the kernel bridges such a packet as it came, from the pod, and the port's
/// filter outside would rightly take it for forged.
fn own_voice(config: &MachineConfig, uplink: &str) -> Batch {
    let mut batch = Batch::new();
    batch.delete_table(VOICE);
    batch.add_table(VOICE);
    let device = Some(uplink);
    let base = BaseChain { kind: ChainKind::Filter, hook: Hook::Egress, priority: 0, drop: false, device };
    batch.add_base_chain(VOICE, "egress", &base);
    speak(&mut batch, VOICE, "egress", config);
    batch
}

fn speak(batch: &mut Batch, table: Table, chain: &str, config: &MachineConfig) {
    // A lookup for each family, however many addresses there are: every packet that leaves comes by.
    for (set, protocol, offset, len) in [("own4", [0x08, 0x00], 12, 4), ("own6", [0x86, 0xdd], 8, 16)] {
        let own = config.addresses.iter().filter_map(|a| match (a.addr(), len) {
            (IpAddr::V4(ip), 4) => Some(ip.octets().to_vec()),
            (IpAddr::V6(ip), 16) => Some(ip.octets().to_vec()),
            _ => None,
        });
        let own: Vec<Vec<u8>> = own.collect();
        if own.is_empty() {
            continue;
        }
        batch.add_set(table, &Set { name: set.into(), key: vec![len], ..Set::default() });
        for key in own {
            batch.add_element(table, set, NewElement { key, ..NewElement::default() });
        }
        let is = [
            Expr::Meta { key: MetaKey::Protocol, to: Reg(0) },
            Expr::Cmp { from: Reg(0), op: Cmp::Eq, value: &protocol },
        ];
        let own = [
            Expr::Payload { base: PayloadBase::Network, offset, len: len.into(), to: Reg(0) },
            Expr::Lookup { set, from: Reg(0), to: None, inverted: false },
        ];
        let speak = [
            Expr::Immediate { to: Reg(0), value: &config.mac.0 },
            // The Ethernet header's source.
            Expr::PayloadSet { base: PayloadBase::Link, offset: 6, len: 6, from: Reg(0) },
        ];
        // What is nearly never so of what is nearly all that leaves is asked first.
        let rule = if len == 4 { [&own[..], &is, &speak] } else { [&is[..], &own, &speak] };
        batch.add_rule(table, chain, &rule.concat());
    }
}

/// Everywhere, through one of us.
pub(crate) fn default_route(gateway: IpAddr, link: u32) -> Route {
    let destination = match gateway {
        IpAddr::V4(_) => IpNet::V4(Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(Ipv6Net::default()),
    };
    Route { destination, gateway: Some(gateway), link, source: None }
}

fn machine_sysctls() -> Result<()> {
    sysctl("ipv4/ip_forward", "1")?;
    sysctl("ipv6/conf/all/forwarding", "1")?;
    // Pods are told about a better way when one of their packets comes back through the same bridge, as those to
    // services do. There is none: the other way does not pass connection tracking.
    sysctl("ipv4/conf/all/send_redirects", "0")?;
    sysctl("ipv4/conf/default/send_redirects", "0")?;
    sysctl("ipv4/conf/all/accept_redirects", "0")?;
    sysctl("ipv6/conf/all/accept_redirects", "0")?;
    sysctl("ipv4/conf/all/rp_filter", "0")?;
    sysctl("ipv4/conf/default/rp_filter", "0")?;
    // Bridged packets that are answers to changed ones would be dropped as coming from a strange place.
    sysctl("ipv6/conf/all/accept_ra", "0")?;
    sysctl("ipv6/conf/default/accept_ra", "0")
}

fn bridge_sysctls(bridge: &str) -> Result<()> {
    sysctl(&format!("ipv4/conf/{bridge}/send_redirects"), "0")?;
    sysctl(&format!("ipv4/conf/{bridge}/rp_filter"), "0")?;
    sysctl(&format!("ipv6/conf/{bridge}/accept_ra"), "0")?;
    sysctl(&format!("ipv6/conf/{bridge}/accept_dad"), "0")
}

/// No addresses of its own, and so no packets of its own, on an interface that only belongs to a bridge.
pub(crate) fn quiet(interface: &str) -> Result<()> {
    sysctl(&format!("ipv6/conf/{interface}/disable_ipv6"), "1")
}

fn pod_sysctls() -> Result<()> {
    // Addresses come from the API, not from whoever answers first.
    sysctl("ipv6/conf/all/accept_ra", "0")?;
    sysctl("ipv6/conf/eth0/accept_ra", "0")?;
    sysctl("ipv6/conf/eth0/accept_dad", "0")?;
    // In its own namespace a pod hurts nobody: it may have low ports and send pings without privileges.
    sysctl("ipv4/ip_unprivileged_port_start", "0")?;
    let groups = std::fs::read_to_string("/proc/self/gid_map").unwrap_or_default();
    sysctl("ipv4/ping_group_range", &format!("0\t{}", last_group(&groups)))
}

/// The highest group that the kernel takes: 2^31 - 1, or in a user namespace the last that it has, as long as those before are there too.
fn last_group(map: &str) -> u32 {
    const HIGHEST: u32 = i32::MAX as u32;
    let line: Vec<u32> =
        map.lines().next().unwrap_or_default().split_whitespace().flat_map(str::parse).collect();
    match line[..] {
        [0, _, count] if count > 0 => (count - 1).min(HIGHEST),
        _ => HIGHEST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_group_is_one_that_there_is() {
        for (map, last) in [
            ("         0          0 4294967295\n", 2_147_483_647),
            ("0 8388608 8388608\n", 8_388_607),
            ("1000 0 1\n", 2_147_483_647),
            ("", 2_147_483_647),
        ] {
            assert_eq!(last_group(map), last, "{map}");
        }
    }
}
