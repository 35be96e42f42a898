//! The part of the host: what is guaranteed, where everybody's packets pass.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use skep_netplan::bandwidth::{Class, HOST, Line, Rate, Uplink as Wanted};
use skep_netplan::fabric::Mac;

use super::{AT_ONCE, CARRIED_OFFSET, NAME, PRIORITY_DEVICE, Retired, found, set_priority};
use crate::egress;
use crate::link::Net;
use crate::netlink::{Error, Result, unless_exists};
use crate::nft::{
    BaseChain, Batch, ChainKind, Cmp, ElementData, Expr, Family, Hook, MapTo, MetaKey, NewElement, Nft,
    PayloadBase, Reg, Set, Table,
};
use crate::ns::Namespace;
use crate::tc::class_priority;

/// What arrives: classified and led through the queueing device.
const ARRIVING: Table = Table { family: Family::Netdev, name: NAME };
/// What leaves networks through the host: the class that it carries is taken up.
const LEAVING: Table = Table { family: Family::Ip, name: NAME };
/// The queueing device for what arrives. Its alias says for which interface.
const QUEUES: &str = "skq";
/// After the routing has given the packet a priority of its own.
const PRIORITY_FORWARD: i32 = 10;
const UDP: u8 = 17;
/// Where in a UDP packet VXLAN's number of the network is, and the Ethernet address inside.
const VNI_OFFSET: u32 = 12;
const INNER_OFFSET: u32 = 16;

/// The uplink of a host, shared by what its networks have on it.
#[derive(Debug)]
pub struct Uplink {
    net: Net,
    nft: Nft,
    link: u32,
    queues: u32,
    total: [Option<Rate>; 2],
    classes: [BTreeMap<u16, Class>; 2],
    /// Classes that an earlier process has left.
    strangers: [Vec<u16>; 2],
    ports: BTreeMap<(u32, Mac), u16>,
    networks: BTreeMap<u32, u16>,
    retired: Retired,
}

/// The interface that has an address.
fn device_of(net: &mut Net, address: IpAddr) -> Result<crate::Link> {
    for link in net.links()? {
        if net.addresses(link.index)?.iter().any(|a| a.addr() == address) {
            return Ok(link);
        }
    }
    Err(Error::Missing { what: "interface with the host's address", name: address.to_string() })
}

impl Uplink {
    /// What the interface with an address carries, in bits a second; nothing when the kernel does not know, and of an interface
    /// that is no hardware, whose speed is only a word.
    ///
    /// # Errors
    /// When no interface has the address.
    pub fn speed(host: &Namespace, address: IpAddr) -> Result<Option<u64>> {
        let link = device_of(&mut Net::open(host)?, address)?;
        if link.kind.is_some() {
            return Ok(None);
        }
        host.run(|| {
            let folder = std::path::Path::new("/sys/class/net").join(&link.name);
            let text = std::fs::read_to_string(folder.join("speed")).ok()?;
            let mbit: u64 = text.trim().parse().ok()?;
            (mbit > 0).then_some(mbit * 1_000_000)
        })
    }

    /// The numbers of classes that an earlier process has left, which are not to be given out.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn left(host: &Namespace, address: IpAddr) -> Result<BTreeSet<u16>> {
        let mut net = Net::open(host)?;
        let Some(queues) = net.link(QUEUES)? else { return Ok(BTreeSet::new()) };
        let link = device_of(&mut net, address)?.index;
        let all = [found(&mut net, link)?, found(&mut net, queues.index)?].concat();
        Ok(all.into_iter().filter(|n| *n > HOST).collect())
    }

    /// Begins on the interface that has the host's address. What an earlier process left goes on until [`Uplink::set`] replaces it.
    ///
    /// # Errors
    /// What the kernel says. It can be called again.
    pub fn set_up(host: &Namespace, address: IpAddr, vxlan_port: u16) -> Result<Uplink> {
        let (mut net, mut nft) = (Net::open(host)?, Nft::open(host)?);
        let link = device_of(&mut net, address)?;
        unless_exists(net.add_queue_device(QUEUES))?;
        let queues = net.expect_link(QUEUES)?.index;
        net.set_alias(queues, &link.name)?;
        net.set_up(queues)?;
        let classes = [found(&mut net, link.index)?, found(&mut net, queues)?];
        let strangers = classes.map(|all| all.into_iter().filter(|n| *n > HOST).collect::<Vec<_>>());
        let mut batch = Batch::new();
        for table in [ARRIVING, LEAVING] {
            batch.delete_table(table);
        }
        leaving(&mut batch);
        arriving(&mut batch, &link.name, queues, vxlan_port);
        let mut uplink = Uplink {
            net,
            nft: Nft::open(host)?,
            link: link.index,
            queues,
            total: [None; 2],
            classes: Default::default(),
            strangers,
            ports: BTreeMap::new(),
            networks: BTreeMap::new(),
            retired: Retired::default(),
        };
        // Before anything is led through it: what has no class there would be lost.
        uplink.net.limit_bandwidth(queues)?;
        nft.commit(batch)?;
        Ok(uplink)
    }

    /// Brings the uplink to what is wanted, by what has changed since the last call; packets go on meanwhile.
    ///
    /// # Errors
    /// What the kernel says: then it is to be set up anew.
    pub fn set(&mut self, wanted: &Wanted) -> Result<()> {
        let links = [self.link, self.queues];
        let lines = [&wanted.sending, &wanted.arriving];
        for (i, (link, line)) in links.into_iter().zip(lines).enumerate() {
            self.set_line(i, link, line)?;
        }
        let mut batch = Batch::new();
        changes(&mut batch, "ports", &self.ports, &wanted.ports, |(vni, mac)| {
            let mut key = vni_key(*vni);
            key.extend(mac);
            key.extend([0, 0]);
            key
        });
        changes(&mut batch, "networks", &self.networks, &wanted.networks, |vni| vni_key(*vni));
        self.nft.commit(batch)?;
        self.ports.clone_from(&wanted.ports);
        self.networks.clone_from(&wanted.networks);
        for (i, (link, line)) in links.into_iter().zip(lines).enumerate() {
            self.retired.0.extend(std::mem::take(&mut self.strangers[i]).into_iter().map(|n| (link, n)));
            let of = |(n, c): (&u16, &Class)| (!line.classes.contains_key(n)).then_some((*n, *c));
            let gone: Vec<_> = self.classes[i].iter().filter_map(of).collect();
            // Leaves go first: what stands above them cannot go while they are there.
            for leaf in [true, false] {
                for (number, class) in gone.iter().filter(|(_, c)| c.leaf == leaf) {
                    if leaf {
                        self.net.set_class_below(link, *number, class.parent, &AT_ONCE, true)?;
                    }
                    self.classes[i].remove(number);
                    self.retired.0.push((link, *number));
                }
            }
        }
        Ok(())
    }

    fn set_line(&mut self, i: usize, link: u32, line: &Line) -> Result<()> {
        if self.total[i] != Some(line.total) {
            self.net.share_bandwidth(link, &line.total, HOST)?;
            self.total[i] = Some(line.total);
        }
        // What stands above first.
        for leaf in [false, true] {
            for (number, class) in line.classes.iter().filter(|(_, c)| c.leaf == leaf) {
                if self.classes[i].get(number) != Some(class) {
                    let Class { parent, rate, leaf } = class;
                    self.net.set_class_below(link, *number, *parent, rate, *leaf)?;
                    self.classes[i].insert(*number, *class);
                }
            }
        }
        Ok(())
    }

    /// Removes classes that have emptied.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn clean(&mut self) -> Result<()> {
        self.retired.remove(&mut self.net)
    }
}

/// Takes everything from a host's uplink, if no network is led out there any more.
///
/// # Errors
/// What the kernel says.
pub fn release_host(host: &Namespace) -> Result<()> {
    let mut net = Net::open(host)?;
    if egress::is_used(&mut net)? {
        return Ok(());
    }
    let Some(queues) = net.link(QUEUES)? else { return Ok(()) };
    // First what leads packets there.
    let mut batch = Batch::new();
    batch.delete_table(ARRIVING);
    batch.delete_table(LEAVING);
    Nft::open(host)?.commit(batch)?;
    if let Some(link) = queues.alias.as_deref().map(|name| net.link(name)).transpose()?.flatten() {
        net.stop_sharing(link.index)?;
    }
    net.delete_link(QUEUES)
}

fn changes<K: Ord + Clone>(
    batch: &mut Batch,
    set: &str,
    old: &BTreeMap<K, u16>,
    new: &BTreeMap<K, u16>,
    key: impl Fn(&K) -> Vec<u8>,
) {
    for (k, class) in old {
        if new.get(k) != Some(class) {
            batch.delete_element(ARRIVING, set, NewElement { key: key(k), ..NewElement::default() });
        }
    }
    for (k, class) in new {
        if old.get(k) != Some(class) {
            let data = Some(ElementData::Bytes(class_priority(*class).to_ne_bytes().to_vec()));
            batch.add_element(ARRIVING, set, NewElement { key: key(k), data, ..NewElement::default() });
        }
    }
}

/// A network's number as VXLAN writes it, with the empty byte behind it.
fn vni_key(vni: u32) -> Vec<u8> {
    (vni << 8).to_be_bytes().to_vec()
}

fn leaving(batch: &mut Batch) {
    batch.add_table(LEAVING);
    let base = BaseChain {
        kind: ChainKind::Filter,
        hook: Hook::Forward,
        priority: PRIORITY_FORWARD,
        drop: false,
        device: None,
    };
    batch.add_base_chain(LEAVING, "forward", &base);
    let rule = [
        Expr::Meta { key: MetaKey::Iifname, to: Reg(0) },
        Expr::Cmp { from: Reg(0), op: Cmp::Eq, value: egress::PREFIX.as_bytes() },
        Expr::Payload { base: PayloadBase::Link, offset: CARRIED_OFFSET, len: 4, to: Reg(0) },
        set_priority(Reg(0)),
    ];
    batch.add_rule(LEAVING, "forward", &rule);
}

fn arriving(batch: &mut Batch, device: &str, queues: u32, vxlan_port: u16) {
    const KEY: Reg = Reg(0);
    const CLASS: Reg = Reg(8);
    const ANY: Reg = Reg(12);
    batch.add_table(ARRIVING);
    let to = Some(MapTo::Bytes(4));
    batch.add_set(ARRIVING, &Set { name: "ports".into(), key: vec![4, 6], map: to, ..Set::default() });
    batch.add_set(ARRIVING, &Set { name: "networks".into(), key: vec![4], map: to, ..Set::default() });
    let base = BaseChain {
        kind: ChainKind::Filter,
        hook: Hook::Ingress,
        priority: PRIORITY_DEVICE,
        drop: false,
        device: Some(device),
    };
    batch.add_base_chain(ARRIVING, "arrives", &base);
    let (port, queues) = (vxlan_port.to_be_bytes(), queues.to_ne_bytes());
    let carried = [
        Expr::Meta { key: MetaKey::L4Proto, to: ANY },
        Expr::Cmp { from: ANY, op: Cmp::Eq, value: &[UDP] },
        Expr::Payload { base: PayloadBase::Transport, offset: 2, len: 2, to: ANY },
        Expr::Cmp { from: ANY, op: Cmp::Eq, value: &port },
        Expr::Payload { base: PayloadBase::Transport, offset: VNI_OFFSET, len: 4, to: KEY },
    ];
    let inner = [Expr::Payload { base: PayloadBase::Transport, offset: INNER_OFFSET, len: 6, to: Reg(1) }];
    let lead = [Expr::Immediate { to: ANY, value: &queues }, Expr::Redirect { device: ANY }];
    let classed =
        |set| [Expr::Lookup { set, from: KEY, to: Some(CLASS), inverted: false }, set_priority(CLASS)];
    batch.add_rule(ARRIVING, "arrives", &[&carried[..], &inner, &classed("ports"), &lead].concat());
    batch.add_rule(ARRIVING, "arrives", &[&carried[..], &classed("networks"), &lead].concat());
    let host = class_priority(HOST).to_ne_bytes();
    let rest = [Expr::Immediate { to: CLASS, value: &host }, set_priority(CLASS)];
    batch.add_rule(ARRIVING, "arrives", &[&rest[..], &lead].concat());
}
