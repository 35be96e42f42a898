//! A tenant's network on a host: a switch, in a namespace of its own.
//!
//! In it there are a bridge, a VXLAN device whose packets travel in the host's namespace, and an interface for each machine.
//! Nobody else is in there, the host least of all: a machine reaches the network's ports and nothing besides. That each
//! network has a namespace also keeps equal addresses of different tenants apart, in every table that the kernel has.
//!
//! What comes from a machine passes, in this order:
//!
//! | Counter | Dropped |
//! |---|---|
//! | `mac` | from an Ethernet address that is not one of the machine's |
//! | `dhcp`, `ra` | answers of DHCP servers, advertisements of routers |
//! | `ip` | IPv4 or IPv6 from an address that does not belong to the Ethernet address |
//! | `arp` | ARP that tells somebody else's address, and the same of IPv6 |
//! | `other` | anything that is neither IP nor ARP |

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use skep_netplan::fabric::{Change, Fabric, Mac};

use crate::egress::ROUTER_MAC;
use crate::link::{Bridge, BridgePort, LinkStats, MacAddr, Net, Peer, Vxlan};
use crate::machine::quiet;
use crate::netlink::{Result, unless_exists};
use crate::nft::{
    BaseChain, Batch, ChainKind, Cmp, Counter, Expr, Family, Hook, MetaKey, NewElement, Nft, PayloadBase,
    Reg, Set, Table, Verdict,
};
use crate::ns::{LOOPBACK, Namespace, is_namespace, sysctl};
use crate::route::{Forward, Neighbour};

const BRIDGE: &str = "br";
const WIRE: &str = "vx";
const TABLE: Table = Table { family: Family::Bridge, name: "skep-ports" };
/// Before anything else that looks at bridged packets.
const PRIORITY: i32 = -300;
/// Of an interface that makes up no addresses by itself.
const NO_ADDRESSES: &str = "1";
/// Names of interfaces are this long in the kernel.
const NAME_BYTES: usize = 16;
const COUNTERS: [&str; 6] = ["mac", "dhcp", "ra", "ip", "arp", "other"];

/// A network on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwitchConfig {
    /// The network's number.
    pub vni: u32,
    /// Largest packet inside.
    pub mtu: u32,
    /// The host's address, by which other hosts reach it.
    pub local: IpAddr,
    /// The UDP port of all hosts.
    pub port: u16,
}

/// The switch of one network on one host.
#[derive(Debug)]
pub struct Switch {
    namespace: Namespace,
    path: PathBuf,
    net: Net,
    nft: Nft,
    bridge: u32,
    wire: u32,
    mtu: u32,
    vni: u32,
    known: Fabric,
}

impl Switch {
    /// Makes the switch of a network, with its namespace mounted at `path`; the one that is there is kept, and nothing that
    /// goes through it notices, but what it is to let through has to be said anew by [`Switch::set`].
    ///
    /// # Errors
    /// What the kernel says. It can be called again.
    pub fn set_up(host: &Namespace, path: &Path, config: &SwitchConfig) -> Result<Switch> {
        let namespace = Namespace::persistent(path)?;
        let (mut net, nft) = (Net::open(&namespace)?, Nft::open(&namespace)?);
        // An address that nobody uses: the device sends nothing itself.
        let [_, a, b, c] = config.vni.to_be_bytes();
        let wire_mac = MacAddr([0x0e, 1, 0, a, b, c]);
        unless_exists(net.add_bridge(BRIDGE, ROUTER_MAC, config.mtu, Bridge { call_iptables: false }))?;
        if net.link(WIRE)?.is_none() {
            let vxlan = Vxlan { vni: config.vni, local: config.local, port: config.port };
            Net::open(host)?.add_vxlan(WIRE, wire_mac, config.mtu, &vxlan, &namespace)?;
        }
        namespace.run(|| quiet(WIRE).and_then(|()| only_switched()))??;
        let (bridge, wire) = (net.expect_link(BRIDGE)?.index, net.expect_link(WIRE)?.index);
        net.set_master(wire, bridge)?;
        let no = Some(false);
        let port = BridgePort { learning: no, flood: no, neigh_suppress: Some(true), hairpin: no };
        net.set_bridge_port(wire, port)?;
        for (link, name) in [(bridge, BRIDGE), (wire, WIRE)] {
            if net.expect_link(name)?.mtu != config.mtu {
                net.set_mtu(link, config.mtu)?;
            }
            net.set_up(link)?;
        }
        let (path, mtu, vni) = (path.to_owned(), config.mtu, config.vni);
        let mut switch =
            Switch { namespace, path, net, nft, bridge, wire, mtu, vni, known: Fabric::default() };
        switch.start_filters()?;
        switch.forget_forwards()?;
        Ok(switch)
    }

    /// Leads the network out through the host, under the host's address; `subnets` are where answers go. See [`crate::egress`].
    ///
    /// # Errors
    /// What the kernel says. It can be called again.
    pub fn lead_out(&mut self, host: &Namespace, subnets: &[Ipv4Net]) -> Result<()> {
        crate::egress::set_up(host, &self.namespace, &mut self.net, self.bridge, self.vni, subnets)
    }

    /// Filters that let nothing through yet.
    fn start_filters(&mut self) -> Result<()> {
        let mut batch = Batch::new();
        batch.delete_table(TABLE);
        filters(&mut batch);
        self.nft.commit(batch)
    }

    /// What an earlier process said may not hold any more.
    fn forget_forwards(&mut self) -> Result<()> {
        for link in self.net.links()?.iter().filter(|l| l.master == Some(self.bridge)) {
            let said = self.net.forwards(link.index)?;
            self.net.delete_forwards(link.index, &said)?;
        }
        for neighbour in self.net.neighbours(self.bridge)? {
            self.net.delete_neighbour(self.bridge, neighbour.ip)?;
        }
        Ok(())
    }

    /// Connects a machine: an interface of the name here, and its other end in the machine's namespace. When it is
    /// there already, nothing changes.
    ///
    /// # Errors
    /// What the kernel says. It can be called again.
    pub fn attach(&mut self, name: &str, machine: &Namespace, inside: &str) -> Result<()> {
        let mut there = Net::open(machine)?;
        let mut ours = self.net.link(name)?;
        if ours.is_some() && there.link(inside)?.is_none() {
            self.net.delete_link(name)?;
            ours = None;
        }
        if ours.is_none() {
            let peer = Peer { name: inside, mac: None, namespace: Some(machine) };
            self.net.add_veth(name, None, self.mtu, &peer)?;
        }
        let ours = self.net.expect_link(name)?;
        self.namespace.run(|| quiet(name))??;
        if ours.master != Some(self.bridge) {
            self.net.set_master(ours.index, self.bridge)?;
        }
        let port = BridgePort { learning: Some(false), ..BridgePort::default() };
        self.net.set_bridge_port(ours.index, port)?;
        self.net.set_up(ours.index)?;
        let theirs = there.expect_link(inside)?;
        // Until the machine has made it part of its bridge: what it would say by itself has no port's address.
        machine.run(|| sysctl(&format!("ipv6/conf/{inside}/addr_gen_mode"), NO_ADDRESSES))??;
        there.set_up(theirs.index)
    }

    /// Disconnects a machine. That it is not connected is fine.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn detach(&mut self, name: &str) -> Result<()> {
        self.net.delete_link(name)?;
        // With the interface its forwarding entries went.
        self.known.local.retain(|_, interface| interface != name);
        Ok(())
    }

    /// Brings the switch to what is wanted, by what has changed since the last call. Interfaces that are named must be attached.
    ///
    /// # Errors
    /// What the kernel says: then the switch is to be set up anew.
    pub fn set(&mut self, wanted: &Fabric) -> Result<usize> {
        let changes = self.known.changes(wanted);
        let mut batch = Batch::new();
        let (mut neighbours, mut remote) = (Vec::new(), Vec::new());
        for change in &changes {
            match change {
                Change::RemoveNeighbour(ip) => self.net.delete_neighbour(self.bridge, *ip)?,
                Change::SetNeighbour(ip, mac) => neighbours.push(Neighbour { ip: *ip, mac: MacAddr(*mac) }),
                Change::RemoveRemote(mac, host) => {
                    let mac = MacAddr(*mac);
                    self.net.delete_forwards(self.wire, &[Forward { mac, host: Some(*host) }])?;
                    self.net.delete_forwards(self.wire, &[Forward { mac, host: None }])?;
                }
                Change::SetRemote(mac, host) => remote.push((MacAddr(*mac), *host)),
                Change::RemoveLocal(mac, interface) => {
                    if let Some(link) = self.net.link(interface)? {
                        self.net
                            .delete_forwards(link.index, &[Forward { mac: MacAddr(*mac), host: None }])?;
                    }
                }
                Change::SetLocal(mac, interface) => {
                    let link = self.net.expect_link(interface)?;
                    self.net.set_forwards(link.index, &[Forward { mac: MacAddr(*mac), host: None }])?;
                }
                Change::Allow(interface, mac, ip) => {
                    let (set, element) = allowed(interface, mac, *ip);
                    batch.add_element(TABLE, set, element);
                }
                Change::Disallow(interface, mac, ip) => {
                    let (set, element) = allowed(interface, mac, *ip);
                    batch.delete_element(TABLE, set, element);
                }
                Change::AllowMac(interface, mac) => {
                    batch.add_element(TABLE, "macs", element(source(interface, mac)));
                }
                Change::DisallowMac(interface, mac) => {
                    batch.delete_element(TABLE, "macs", element(source(interface, mac)));
                }
            }
        }
        self.nft.commit(batch)?;
        let on_wire: Vec<Forward> =
            remote.iter().map(|(mac, host)| Forward { mac: *mac, host: Some(*host) }).collect();
        let on_bridge: Vec<Forward> =
            remote.iter().map(|(mac, _)| Forward { mac: *mac, host: None }).collect();
        self.net.set_forwards(self.wire, &on_wire)?;
        self.net.set_forwards(self.wire, &on_bridge)?;
        self.net.set_neighbours(self.bridge, &neighbours)?;
        self.known = wanted.clone();
        Ok(changes.len())
    }

    /// What was dropped of machines' packets, and why.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn dropped(&mut self) -> Result<Vec<Counter>> {
        self.nft.counters(TABLE)
    }

    /// What went through each machine's interface, seen from the switch.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn traffic(&mut self) -> Result<Vec<(String, LinkStats)>> {
        let (bridge, wire) = (self.bridge, self.wire);
        let links = self.net.links()?.into_iter();
        let ours = links.filter(|l| l.master == Some(bridge) && l.index != wire);
        Ok(ours.map(|l| (l.name, l.stats)).collect())
    }

    /// Removes the switch with everything in it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove(self) -> Result<()> {
        let path = self.path.clone();
        drop(self);
        Switch::remove_at(&path)
    }

    /// Removes the switch whose namespace is mounted at a path, whoever made it. That there is none is fine.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove_at(path: &Path) -> Result<()> {
        if is_namespace(path) {
            let mut net = Net::open(&Namespace::open(path)?)?;
            // The VXLAN device keeps a port of the host's, and interfaces of machines their namespaces: they go at once.
            for link in net.links()?.into_iter().filter(|l| l.index != LOOPBACK) {
                net.delete_link(&link.name)?;
            }
        }
        Namespace::remove(path)
    }

    /// How many machines are plugged into the switch whose namespace is mounted at a path.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn machines_in(path: &Path) -> Result<usize> {
        if !is_namespace(path) {
            return Ok(0);
        }
        let mut net = Net::open(&Namespace::open(path)?)?;
        let all = net.links()?.into_iter();
        Ok(all.filter(|l| l.kind.as_deref() == Some("veth") && l.master.is_some()).count())
    }
}

/// Keeps what is switched away from the filters for what is routed. The kernel's default is otherwise, for a whole namespace.
fn only_switched() -> Result<()> {
    for name in ["iptables", "ip6tables", "arptables"] {
        let name = format!("bridge/bridge-nf-call-{name}");
        // A kernel that has none of this does nothing of the kind.
        if Path::new("/proc/sys/net").join(&name).exists() {
            sysctl(&name, "0")?;
        }
    }
    Ok(())
}

fn element(key: Vec<u8>) -> NewElement {
    NewElement { key, ..NewElement::default() }
}

/// Interface and Ethernet address, as keys have them.
fn source(interface: &str, mac: &Mac) -> Vec<u8> {
    let mut key = interface.as_bytes().to_vec();
    key.resize(NAME_BYTES, 0);
    key.extend(mac);
    key.extend([0, 0]);
    key
}

fn allowed(interface: &str, mac: &Mac, ip: IpAddr) -> (&'static str, NewElement) {
    let mut key = source(interface, mac);
    let set = match ip {
        IpAddr::V4(ip) => {
            key.extend(ip.octets());
            "allowed4"
        }
        IpAddr::V6(ip) => {
            key.extend(ip.octets());
            "allowed6"
        }
    };
    (set, element(key))
}

/// Where the key's parts are: four registers for the interface, two for the Ethernet address, then the IP address.
const INTERFACE: Reg = Reg(0);
const ETHER: Reg = Reg(4);
const ADDRESS: Reg = Reg(6);
/// For comparisons.
const ANY: Reg = Reg(12);

fn bytes(base: PayloadBase, offset: u32, len: u32, to: Reg) -> Expr<'static> {
    Expr::Payload { base, offset, len, to }
}

/// Matches when some bytes are so.
fn is<'a>(base: PayloadBase, offset: u32, value: &'a [u8]) -> [Expr<'a>; 2] {
    // Values here are numbers of protocols and ports.
    let len = u32::try_from(value.len()).unwrap_or(4);
    [bytes(base, offset, len, ANY), Expr::Cmp { from: ANY, op: Cmp::Eq, value }]
}

fn filters(batch: &mut Batch) {
    use PayloadBase::{Link, Network, Transport};
    const NAME: u8 = NAME_BYTES as u8;
    batch.add_table(TABLE);
    for (name, key) in [("macs", &[NAME, 6][..]), ("allowed4", &[NAME, 6, 4]), ("allowed6", &[NAME, 6, 16])] {
        batch.add_set(TABLE, &Set { name: name.into(), key: key.into(), ..Set::default() });
    }
    for counter in COUNTERS {
        batch.add_counter(TABLE, counter);
    }
    let ingress = BaseChain {
        kind: ChainKind::Filter,
        hook: Hook::Prerouting,
        priority: PRIORITY,
        drop: false,
        device: None,
    };
    batch.add_base_chain(TABLE, "ingress", &ingress);
    for chain in ["ip4", "arp", "ip6", "neighbours"] {
        batch.add_chain(TABLE, chain);
    }
    let drop = |name| [Expr::Count(name), Expr::Verdict(Verdict::Drop)];
    let who = [Expr::Meta { key: MetaKey::Iifname, to: INTERFACE }, bytes(Link, 6, 6, ETHER)];
    let in_set = |set, inverted| Expr::Lookup { set, from: INTERFACE, to: None, inverted };
    let accept = || Expr::Verdict(Verdict::Accept);
    let goto = |chain: &str| Expr::Verdict(Verdict::Goto(chain.into()));
    let mut rule = |chain: &str, parts: &[&[Expr<'_>]]| batch.add_rule(TABLE, chain, &parts.concat());

    // Other hosts have looked at what they send.
    let mut wire = WIRE.as_bytes().to_vec();
    wire.resize(NAME_BYTES, 0);
    let from_wire = [
        Expr::Meta { key: MetaKey::Iifname, to: INTERFACE },
        Expr::Cmp { from: INTERFACE, op: Cmp::Eq, value: &wire },
        accept(),
    ];
    rule("ingress", &[&from_wire]);
    rule("ingress", &[&who, &[in_set("macs", true)], &drop("mac")]);
    for (kind, chain) in [([0x08, 0x00], "ip4"), ([0x08, 0x06], "arp"), ([0x86, 0xdd], "ip6")] {
        rule("ingress", &[&is(Link, 12, &kind), &[goto(chain)]]);
    }
    rule("ingress", &[&drop("other")]);

    // A fragment has no ports to look at, but then it has no beginning of a packet either.
    rule("ip4", &[&is(Network, 9, &[17]), &is(Transport, 0, &67u16.to_be_bytes()), &drop("dhcp")]);
    rule("ip4", &[&who, &[bytes(Network, 12, 4, ADDRESS), in_set("allowed4", false), accept()]]);
    rule("ip4", &[&drop("ip")]);

    // Who tells, and who sends: both must be the same, and have the address that is told.
    let told = [
        Expr::Meta { key: MetaKey::Iifname, to: INTERFACE },
        bytes(Network, 8, 6, ETHER),
        bytes(Network, 14, 4, ADDRESS),
    ];
    rule("arp", &[&told, &[in_set("allowed4", true)], &drop("arp")]);
    rule("arp", &[&who, &[bytes(Network, 14, 4, ADDRESS), in_set("allowed4", true)], &drop("arp")]);
    rule("arp", &[&[accept()]]);

    rule("ip6", &[&is(Network, 6, &[17]), &is(Transport, 0, &547u16.to_be_bytes()), &drop("dhcp")]);
    rule("ip6", &[&is(Network, 6, &[58]), &is(Transport, 0, &[134]), &drop("ra")]);
    rule("ip6", &[&is(Network, 6, &[58]), &is(Transport, 0, &[136]), &[goto("neighbours")]]);
    rule("ip6", &[&who, &[bytes(Network, 8, 16, ADDRESS), in_set("allowed6", false), accept()]]);
    // An interface's own address on the link is only good for asking neighbours, and so is none at all.
    let asks = [is(Network, 6, &[58]), is(Transport, 0, &[135])].concat();
    rule("ip6", &[&asks, &is(Network, 8, &[0xfe, 0x80]), &[accept()]]);
    rule("ip6", &[&asks, &is(Network, 8, &[0; 16]), &[accept()]]);
    // What every system says by itself on a link, which groups it is in and that it looks for a router, leads nowhere
    // here. It is no forgery, and not counted.
    for own in [&[0xfe, 0x80][..], &[0; 16]] {
        let unheard = [Expr::Verdict(Verdict::Drop)];
        rule("ip6", &[&is(Network, 6, &[58]), &is(Network, 8, own), &unheard]);
    }
    // Membership reports come behind an option.
    rule("ip6", &[&is(Network, 6, &[0]), &is(Network, 8, &[0xfe, 0x80]), &[Expr::Verdict(Verdict::Drop)]]);
    rule("ip6", &[&is(Network, 6, &[0]), &is(Network, 8, &[0; 16]), &[Expr::Verdict(Verdict::Drop)]]);
    rule("ip6", &[&drop("ip")]);
    // What is told must be the teller's: the target of the advertisement.
    rule("neighbours", &[&who, &[bytes(Transport, 8, 16, ADDRESS), in_set("allowed6", false), accept()]]);
    rule("neighbours", &[&drop("arp")]);
}
