//! A tenant's network on a host: a switch, in a namespace of its own.
//!
//! In it there are a bridge, a VXLAN device whose packets travel in the host's namespace, and an interface for each machine.
//! Nobody else is in there, the host least of all: a machine reaches the network's ports and nothing besides. That each
//! network has a namespace also keeps equal addresses of different tenants apart, in every table that the kernel has.
//!
//! What comes from a machine must come from who the machine is: see [`crate::origin`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use skep_netplan::fabric::{Change, Fabric};
use skep_netplan::public::Entrance;

use crate::egress::ROUTER_MAC;
use crate::entrance;
pub use crate::entrance::PublicTraffic;
use crate::link::{Bridge, BridgePort, LinkStats, MacAddr, Net, Peer, Vxlan};
use crate::machine::quiet;
use crate::netlink::{Result, unless_exists};
use crate::nft::{Batch, Counter, Family, Nft, Table};
use crate::ns::{LOOPBACK, Namespace, is_namespace, sysctl};
use crate::origin;
use crate::route::{Forward, Neighbour};
use crate::short;

const BRIDGE: &str = "br";
const WIRE: &str = "vx";
const TABLE: Table = Table { family: Family::Bridge, name: "skep-ports" };
/// Of an interface that makes up no addresses by itself.
const NO_ADDRESSES: &str = "1";

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
    /// Nothing before it was said.
    entrance: Option<Entrance>,
    /// Interfaces whose forgeries are counted by themselves.
    counted: BTreeSet<String>,
    /// Whether there is a short way.
    is_short: bool,
    /// The Ethernet addresses behind interfaces' numbers, as the short way was told.
    located: BTreeMap<MacAddr, u32>,
    /// Nothing was said yet: what an earlier process said still holds.
    fresh: bool,
}

/// Packets of a machine that were dropped because they were not what they said, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forged([u64; origin::REASONS.len()]);

impl Forged {
    /// What operators call the reasons, in the order of [`Forged::counts`].
    pub const REASONS: [&'static str; origin::REASONS.len()] = [
        "ForgedEthernetAddress",
        "AddressServer",
        "RouterAdvertisement",
        "ForgedAddress",
        "ForgedNeighbour",
        "UnknownProtocol",
    ];

    /// How many there were for each reason.
    pub fn counts(&mut self) -> &mut [u64; origin::REASONS.len()] {
        &mut self.0
    }

    /// From how many there were for each reason.
    #[must_use]
    pub fn new(counts: [u64; origin::REASONS.len()]) -> Forged {
        Forged(counts)
    }
}

impl Switch {
    /// Makes the switch of a network, with its namespace mounted at `path`; the one that is there is kept, and nothing that
    /// goes through it notices. What an earlier process let through goes on until it is said anew by [`Switch::set`], all of it in one step.
    ///
    /// # Errors
    /// What the kernel says. It can be called again.
    pub fn set_up(host: &Namespace, path: &Path, config: &SwitchConfig) -> Result<Switch> {
        let namespace = Namespace::persistent(path)?;
        let (mut net, nft) = (Net::open(&namespace)?, Nft::open(&namespace)?);
        // An address that nobody uses: the device sends nothing itself.
        let [_, a, b, c] = config.vni.to_be_bytes();
        let wire_mac = MacAddr([0x0e, 1, 0, a, b, c]);
        let is_new = net.link(BRIDGE)?.is_none();
        unless_exists(net.add_bridge(BRIDGE, ROUTER_MAC, config.mtu, Bridge { call_iptables: false }))?;
        if net.link(WIRE)?.is_none() {
            let vxlan = Vxlan { vni: config.vni, local: config.local, port: config.port };
            Net::open(host)?.add_vxlan(WIRE, wire_mac, config.mtu, &vxlan, &namespace)?;
        }
        namespace.run(|| quiet(WIRE))??;
        if is_new {
            // Later it is for whoever filters by connection to say.
            namespace.run(only_switched)??;
        }
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
        let (known, counted, entrance) = (Fabric::default(), BTreeSet::new(), None);
        let (is_short, located, fresh) = (false, BTreeMap::new(), true);
        let mut switch = Switch {
            namespace,
            path,
            net,
            nft,
            bridge,
            wire,
            mtu,
            vni,
            known,
            counted,
            entrance,
            is_short,
            located,
            fresh,
        };
        if is_new || !switch.nft.tables(TABLE.family)?.iter().any(|t| t == TABLE.name) {
            // Nothing goes through before it is said.
            switch.nft.commit(switch.filters())?;
        }
        let machines = switch.interfaces()?;
        let machines: Vec<&str> = machines.iter().map(String::as_str).collect();
        match short::set_up(&mut switch.nft, ROUTER_MAC, (wire, WIRE), &machines) {
            Ok(()) => switch.is_short = true,
            // A kernel that cannot lead packets past a bridge.
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error),
        }
        Ok(switch)
    }

    /// The machines' interfaces that are plugged in.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn interfaces(&mut self) -> Result<Vec<String>> {
        let (bridge, wire) = (self.bridge, self.wire);
        let links = self.net.links()?.into_iter();
        Ok(links.filter(|l| l.master == Some(bridge) && l.index != wire).map(|l| l.name).collect())
    }

    /// The namespace that it is in.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Leads the network out through the host, under the host's address; `subnets` are where answers go. See [`crate::egress`].
    ///
    /// # Errors
    /// What the kernel says. It can be called again.
    pub fn lead_out(&mut self, host: &Namespace, subnets: &[Ipv4Net]) -> Result<()> {
        crate::egress::set_up(host, &self.namespace, &mut self.net, self.bridge, self.vni, subnets)
    }

    /// Filters that let nothing through yet, in place of those that there are.
    fn filters(&self) -> Batch {
        let mut batch = Batch::new();
        batch.delete_table(TABLE);
        // Other hosts have looked at what they send.
        origin::filters(&mut batch, TABLE, &origin::from_interface(WIRE));
        for interface in &self.counted {
            origin::count_for(&mut batch, TABLE, interface);
        }
        batch
    }

    /// Removes what an earlier process said of where addresses are, and these do not say.
    fn forget_others(&mut self, changes: &[Change]) -> Result<()> {
        let (mut local, mut on_wire, mut neighbours) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for change in changes {
            match change {
                Change::SetLocal(mac, interface) => drop(local.insert((interface.as_str(), MacAddr(*mac)))),
                Change::SetRemote(mac, _) => drop(on_wire.insert(MacAddr(*mac))),
                Change::SetNeighbour(ip, _) => drop(neighbours.insert(*ip)),
                _ => {}
            }
        }
        for link in self.net.links()?.iter().filter(|l| l.master == Some(self.bridge)) {
            let mut said = self.net.forwards(link.index)?;
            let is_wire = link.index == self.wire;
            said.retain(|f| {
                !(if is_wire {
                    on_wire.contains(&f.mac)
                } else {
                    local.contains(&(link.name.as_str(), f.mac))
                })
            });
            self.net.delete_forwards(link.index, &said)?;
        }
        // Those of public addresses go with their routes.
        let public: BTreeSet<IpAddr> =
            entrance::routes(&mut self.net, self.bridge)?.iter().map(|r| r.destination.addr()).collect();
        for neighbour in self.net.neighbours(self.bridge)? {
            if !neighbours.contains(&neighbour.ip) && !public.contains(&neighbour.ip) {
                self.net.delete_neighbour(self.bridge, neighbour.ip)?;
            }
        }
        Ok(())
    }

    /// Connects a machine: an interface of the name here, and its other end in the machine's namespace. When it is
    /// there already, nothing changes. Gives whether the interface was made.
    ///
    /// # Errors
    /// What the kernel says. It can be called again.
    pub fn attach(&mut self, name: &str, machine: &Namespace, inside: &str) -> Result<bool> {
        let mut there = Net::open(machine)?;
        let mut ours = self.net.link(name)?;
        if ours.is_some() && there.link(inside)?.is_none() {
            self.net.delete_link(name)?;
            ours = None;
        }
        let new = ours.is_none();
        if new {
            let peer = Peer { name: inside, mac: None, namespace: Some(machine) };
            self.net.add_veth(name, None, self.mtu, &peer)?;
        }
        let ours = self.net.expect_link(name)?;
        self.namespace.run(|| quiet(name))??;
        if !self.counted.contains(name) {
            let mut batch = Batch::new();
            origin::count_for(&mut batch, TABLE, name);
            self.nft.commit(batch)?;
            self.counted.insert(name.to_owned());
        }
        if ours.master != Some(self.bridge) {
            self.net.set_master(ours.index, self.bridge)?;
        }
        let port = BridgePort { learning: Some(false), ..BridgePort::default() };
        self.net.set_bridge_port(ours.index, port)?;
        if self.is_short {
            let mut batch = Batch::new();
            short::attach(&mut batch, name);
            self.nft.commit(batch)?;
        }
        self.net.set_up(ours.index)?;
        let theirs = there.expect_link(inside)?;
        // Until the machine has made it part of its bridge: what it would say by itself has no port's address.
        machine.run(|| sysctl(&format!("ipv6/conf/{inside}/addr_gen_mode"), NO_ADDRESSES))??;
        there.set_up(theirs.index)?;
        Ok(new)
    }

    /// Disconnects a machine. That it is not connected is fine.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn detach(&mut self, name: &str) -> Result<()> {
        let index = self.net.link(name)?.map(|l| l.index);
        self.net.delete_link(name)?;
        if self.is_short {
            short::detach(&mut self.nft, name)?;
            let mut batch = Batch::new();
            let gone: Vec<MacAddr> =
                self.located.iter().filter(|(_, i)| Some(**i) == index).map(|(mac, _)| *mac).collect();
            for mac in gone {
                short::delete_mac(&mut batch, mac);
                self.located.remove(&mac);
            }
            self.nft.commit(batch)?;
        }
        if self.counted.remove(name) {
            let mut batch = Batch::new();
            origin::forget(&mut batch, TABLE, name);
            self.nft.commit(batch)?;
        }
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
        self.apply(&changes)?;
        self.known = wanted.clone();
        Ok(changes.len())
    }

    /// Makes changes, in order, for who knows what there is (see [`skep_netplan::fabric::Live`]) instead of [`Switch::set`]. The first
    /// are all that there is to be.
    ///
    /// # Errors
    /// What the kernel says: then the switch is to be set up anew.
    pub fn apply(&mut self, changes: &[Change]) -> Result<()> {
        let mut batch = if self.fresh { self.filters() } else { Batch::new() };
        let forgets = self.is_short && (self.fresh || changes.iter().any(changes_flows));
        if self.is_short && self.fresh {
            short::no_macs(&mut batch);
            self.located.clear();
        }
        let (mut neighbours, mut remote) = (Vec::new(), Vec::new());
        for change in changes {
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
                        if self.located.get(&MacAddr(*mac)) == Some(&link.index) {
                            self.located.remove(&MacAddr(*mac));
                            short::delete_mac(&mut batch, MacAddr(*mac));
                        }
                    }
                }
                Change::SetLocal(mac, interface) => {
                    let link = self.net.expect_link(interface)?;
                    self.net.set_forwards(link.index, &[Forward { mac: MacAddr(*mac), host: None }])?;
                    if self.is_short {
                        if self.located.insert(MacAddr(*mac), link.index).is_some() {
                            short::delete_mac(&mut batch, MacAddr(*mac));
                        }
                        short::add_mac(&mut batch, MacAddr(*mac), link.index);
                    }
                }
                Change::Allow(interface, mac, ip) => {
                    let (set, element) = origin::allowed(interface, mac, *ip);
                    batch.add_element(TABLE, set, element);
                }
                Change::Disallow(interface, mac, ip) => {
                    let (set, element) = origin::allowed(interface, mac, *ip);
                    batch.delete_element(TABLE, set, element);
                }
                Change::AllowMac(interface, mac) => {
                    batch.add_element(TABLE, origin::MACS, origin::allowed_mac(interface, mac));
                }
                Change::DisallowMac(interface, mac) => {
                    batch.delete_element(TABLE, origin::MACS, origin::allowed_mac(interface, mac));
                }
            }
        }
        if forgets {
            short::forget(&mut batch);
        }
        self.nft.commit(batch)?;
        let on_wire: Vec<Forward> =
            remote.iter().map(|(mac, host)| Forward { mac: *mac, host: Some(*host) }).collect();
        let on_bridge: Vec<Forward> =
            remote.iter().map(|(mac, _)| Forward { mac: *mac, host: None }).collect();
        self.net.set_forwards(self.wire, &on_wire)?;
        self.net.set_forwards(self.wire, &on_bridge)?;
        self.net.set_neighbours(self.bridge, &neighbours)?;
        if self.fresh {
            self.forget_others(changes)?;
            self.fresh = false;
        }
        if forgets {
            // Once more: what was on its way through the bridge meanwhile may have been learned as it was before.
            let mut batch = Batch::new();
            short::forget(&mut batch);
            self.nft.commit(batch)?;
        }
        Ok(())
    }

    /// Lets in what is to enter by public addresses, and nothing else, by what has changed since the last call. What is in the fabric of
    /// them must be [set](Switch::set) before, and the network [led out](Switch::lead_out).
    ///
    /// # Errors
    /// What the kernel says: then the switch is to be set up anew.
    pub fn let_in(&mut self, wanted: &Entrance) -> Result<()> {
        match &self.entrance {
            Some(known) if known == wanted => return Ok(()),
            Some(known) => entrance::set(&mut self.net, &mut self.nft, self.bridge, known, wanted)?,
            None => entrance::begin(&mut self.net, &mut self.nft, self.bridge, wanted)?,
        }
        self.entrance = Some(wanted.clone());
        Ok(())
    }

    /// What came to and went out from each public address since it is let in here.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn public_traffic(&mut self) -> Result<Vec<(IpAddr, PublicTraffic)>> {
        entrance::traffic(&mut self.nft)
    }

    /// What was dropped of machines' packets, and why.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn dropped(&mut self) -> Result<Vec<Counter>> {
        self.nft.counters(TABLE)
    }

    /// The same by the interface of the machine, since it was attached or the switch set up.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn forged(&mut self) -> Result<BTreeMap<String, Forged>> {
        let mut all: BTreeMap<String, Forged> = BTreeMap::new();
        for counter in self.nft.counters(TABLE)? {
            if let Some((interface, reason)) = origin::counted(&counter.name) {
                all.entry(interface.to_owned()).or_default().0[reason] = counter.packets;
            }
        }
        Ok(all)
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

/// Whether a flow that is under way may have to go elsewhere, or nowhere, from now on.
fn changes_flows(change: &Change) -> bool {
    !matches!(
        change,
        Change::Allow(..) | Change::AllowMac(..) | Change::SetNeighbour(..) | Change::RemoveNeighbour(..)
    )
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
