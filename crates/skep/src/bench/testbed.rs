//! Two hosts on a wire with machines and pods of two tenants, made of the parts that hosts and agents use, and nothing else: no
//! API, so that nothing but the kernel's work is measured.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use anyhow::Context;
use skep_net::Namespace;
use skep_net::bandwidth::{Shaper, Uplink};
use skep_net::filter::filter_bridged;
use skep_net::link::{Bridge, MacAddr, Net, Peer, Vxlan};
use skep_net::machine::{MachineConfig, MachineNetwork, PodConfig};
use skep_net::ns::sysctl;
use skep_net::route::Forward;
use skep_net::service::Services;
use skep_net::switch::{Switch, SwitchConfig};
use skep_net::underlay::{Underlay, free_subnet};
use skep_netplan::bandwidth::{self, Memory, Plan, Policy};
use skep_netplan::fabric::{Place, Port, plan};

const MTU: u32 = 1450;
const VXLAN_PORT: u16 = 4789;
/// Of the bare device that is measured beside: tenants' begin above.
const BARE_VNI: u32 = 99;
const BARE_PORT: u16 = 4790;
/// Hosts; machines of a tenant on the first of them, and on the others one.
const HOSTS: u8 = 2;
const MACHINES: u8 = 2;
pub(super) const TENANTS: u8 = 2;

/// Where a pod is: tenant, host, machine, number.
pub(super) type Pod = (u8, u8, u8, u8);

pub(super) struct Testbed {
    folder: tempfile::TempDir,
    underlay: Underlay,
    switches: BTreeMap<(u8, u8), (Switch, Shaper)>,
    uplinks: BTreeMap<u8, Uplink>,
    memories: BTreeMap<u8, Memory>,
    plans: BTreeMap<u8, Plan>,
    /// Held: their namespaces end with them.
    _machines: Vec<MachineNetwork>,
}

fn vni(tenant: u8) -> u32 {
    5000 + u32::from(tenant)
}

/// A machine's own address ends in 0; pods count from 1. Equal in both tenants.
pub(super) fn address(host: u8, machine: u8, pod: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 64, host * 16 + machine, 10 + pod)
}

fn mac(host: u8, machine: u8, pod: u8) -> MacAddr {
    let [a, b, c, d] = address(host, machine, pod).octets();
    MacAddr([2, 0x53, a, b, c, d])
}

fn machines(host: u8) -> u8 {
    if host == 1 { MACHINES } else { 1 }
}

/// All pods of a tenant: two in each machine.
fn places() -> impl Iterator<Item = (u8, u8, u8)> {
    (1..=HOSTS).flat_map(|h| (1..=machines(h)).flat_map(move |m| (0..=2).map(move |p| (h, m, p))))
}

impl Testbed {
    pub(super) fn new() -> anyhow::Result<Testbed> {
        let subnet = free_subnet(std::process::id())?;
        let [_, b, c, _] = subnet.network().octets();
        let underlay = Underlay { bridge: format!("skb{b:x}{c:02x}"), subnet };
        let mut bed = Testbed {
            folder: tempfile::tempdir().context("making a folder")?,
            underlay,
            switches: BTreeMap::new(),
            uplinks: BTreeMap::new(),
            memories: BTreeMap::new(),
            plans: BTreeMap::new(),
            _machines: Vec::new(),
        };
        bed.underlay.set_up().context("making a wire; this needs root")?;
        for host in 1..=HOSTS {
            let ns = bed.underlay.plug(host, &bed.host_path(host))?;
            for tenant in 0..TENANTS {
                bed.network(tenant, host, &ns)?;
            }
        }
        bed.program()?;
        bed.bare()?;
        Ok(bed)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn host_path(&self, host: u8) -> PathBuf {
        self.path(&format!("host-{host}"))
    }

    pub(super) fn pod_path(&self, (tenant, host, machine, pod): Pod) -> PathBuf {
        self.path(&format!("pod-{tenant}-{host}-{machine}-{pod}"))
    }

    fn switch_path(&self, tenant: u8, host: u8) -> PathBuf {
        self.path(&format!("switch-{tenant}-{host}"))
    }

    pub(super) fn open(&self, pod: Pod) -> anyhow::Result<Namespace> {
        Ok(Namespace::open(&self.pod_path(pod))?)
    }

    pub(super) fn bare_path(&self, end: &str) -> PathBuf {
        self.path(&format!("bare-{end}"))
    }

    fn interface(machine: u8) -> String {
        format!("m{machine}")
    }

    fn network(&mut self, tenant: u8, host: u8, ns: &Namespace) -> anyhow::Result<()> {
        let path = self.switch_path(tenant, host);
        let local = IpAddr::V4(self.underlay.address(host));
        let config = SwitchConfig { vni: vni(tenant), mtu: MTU, local, port: VXLAN_PORT };
        let mut switch = Switch::set_up(ns, &path, &config)?;
        switch.lead_out(ns, &["10.64.0.0/16".parse().context("a subnet")?])?;
        // There are no security groups.
        filter_bridged(switch.namespace(), false)?;
        for machine in 1..=machines(host) {
            let inside = Namespace::new()?;
            switch.attach(&Testbed::interface(machine), &inside, "eth0")?;
            let config = MachineConfig {
                bridge: "skep0".into(),
                mac: mac(host, machine, 0),
                mtu: MTU,
                addresses: vec![format!("{}/16", address(host, machine, 0)).parse().context("an address")?],
                uplink: Some("eth0".into()),
                gateways: Vec::new(),
            };
            // As in every machine: the tables for services, which bring connection tracking with them.
            Services::open(&inside)?.replace(&[])?;
            let mut network = MachineNetwork::set_up(inside, config)?;
            network.guard_pods(&[], &[])?;
            network.leave_untracked("10.96.0.10:53".parse().context("an address")?)?;
            for pod in 1..=2 {
                network.set_up_pod(&PodConfig {
                    id: format!("{host}-{machine}-{pod}"),
                    namespace: self.pod_path((tenant, host, machine, pod)),
                    mac: mac(host, machine, pod),
                    addresses: vec![
                        format!("{}/16", address(host, machine, pod)).parse().context("an address")?,
                    ],
                    pairs: Vec::new(),
                    gateways: Vec::new(),
                    mtu: MTU,
                })?;
            }
            self._machines.push(network);
        }
        let (shaper, _) = Shaper::set_up(&Namespace::open(&path)?)?;
        self.switches.insert((tenant, host), (switch, shaper));
        Ok(())
    }

    /// Says to every switch where everybody is.
    fn program(&mut self) -> anyhow::Result<()> {
        let ports: Vec<Port> = places()
            .map(|(host, machine, pod)| Port {
                mac: mac(host, machine, pod).0,
                addresses: vec![address(host, machine, pod).into()],
                pairs: Vec::new(),
                machine: format!("{host}-{machine}"),
                is_machine: pod == 0,
            })
            .collect();
        for ((_, here), (switch, _)) in &mut self.switches {
            let place = |(host, machine, _)| {
                let place = if host == *here {
                    Place::Here(Testbed::interface(machine))
                } else {
                    Place::There(self.underlay.address(host).into())
                };
                (format!("{host}-{machine}"), place)
            };
            switch.set(&plan(&ports, &places().map(place).collect()))?;
        }
        for host in 1..=HOSTS {
            self.shape(host, None, &[])?;
        }
        Ok(())
    }

    /// Gives pods of a host their policies.
    pub(super) fn shape(
        &mut self,
        host: u8,
        uplink_bits_per_s: Option<u64>,
        policies: &[(Pod, Policy)],
    ) -> anyhow::Result<()> {
        let ports: Vec<bandwidth::Port> = (0..TENANTS)
            .flat_map(|tenant| places().filter(|(h, ..)| *h == host).map(move |(h, m, p)| (tenant, h, m, p)))
            .map(|pod| {
                let (tenant, host, machine, number) = pod;
                bandwidth::Port {
                    name: format!("{pod:?}"),
                    tenant: tenant.to_string(),
                    vni: vni(tenant),
                    interface: Testbed::interface(machine),
                    mac: mac(host, machine, number).0,
                    addresses: vec![address(host, machine, number).into()],
                    created_ms: i64::from(number),
                    policy: policies.iter().find(|(p, _)| *p == pod).map(|(_, policy)| *policy),
                }
            })
            .collect();
        let plan = bandwidth::plan(&ports, uplink_bits_per_s, self.memories.entry(host).or_default());
        if let Some(wanted) = &plan.uplink {
            if !self.uplinks.contains_key(&host) {
                let ns = Namespace::open(&self.host_path(host))?;
                let made = Uplink::set_up(&ns, self.underlay.address(host).into(), VXLAN_PORT)?;
                self.uplinks.insert(host, made);
            }
            if let Some(uplink) = self.uplinks.get_mut(&host) {
                uplink.set(wanted)?;
            }
        }
        for tenant in 0..TENANTS {
            let shape = plan.networks.get(&vni(tenant)).cloned().unwrap_or_default();
            if let Some((_, shaper)) = self.switches.get_mut(&(tenant, host)) {
                shaper.set(&shape)?;
            }
        }
        self.plans.insert(host, plan);
        Ok(())
    }

    /// What the class of a pod has sent on its host's uplink, in bytes as a wire counts them.
    pub(super) fn on_wire(&self, pod: Pod) -> anyhow::Result<u64> {
        let (_, host, ..) = pod;
        let number = self.plans.get(&host).and_then(|p| p.numbers.get(&format!("{pod:?}")).copied());
        let number = number.context("the pod has no number")?;
        let mut net = Net::open(&Namespace::open(&self.host_path(host))?)?;
        let link = net.expect_link("eth0")?.index;
        let class = net.classes(link)?.into_iter().find(|c| c.class == number);
        let class = class.context("the pod has no class on the uplink")?;
        Ok(class.bytes + class.packets * u64::from(bandwidth::WIRE_OVERHEAD_BYTES))
    }

    /// What is measured beside: a pair of interfaces between two namespaces, and a VXLAN device between the two hosts.
    fn bare(&self) -> anyhow::Result<()> {
        let (a, b) =
            (Namespace::persistent(&self.bare_path("a"))?, Namespace::persistent(&self.bare_path("b"))?);
        Net::open(&a)?.add_veth("pair", None, MTU, &Peer { name: "pair", mac: None, namespace: Some(&b) })?;
        for (ns, ip) in [(&a, "10.1.0.1/24"), (&b, "10.1.0.2/24")] {
            let mut net = Net::open(ns)?;
            let link = net.expect_link("pair")?.index;
            net.add_address(link, ip.parse().context("an address")?)?;
            net.set_up(link)?;
        }
        self.joined()?;
        for host in 1..=HOSTS {
            let other = 3 - host;
            let (ns, local) =
                (Namespace::open(&self.host_path(host))?, IpAddr::V4(self.underlay.address(host)));
            let mut net = Net::open(&ns)?;
            let vxlan = Vxlan { vni: BARE_VNI, local, port: BARE_PORT };
            let own = |n: u8| MacAddr([2, 0, 0, 0, 0, n]);
            net.add_vxlan("bare", own(host), MTU, &vxlan, &ns)?;
            let link = net.expect_link("bare")?.index;
            net.add_address(link, format!("10.1.1.{host}/24").parse().context("an address")?)?;
            net.set_up(link)?;
            let there = Some(IpAddr::V4(self.underlay.address(other)));
            net.set_forwards(link, &[Forward { mac: own(other), host: there }])?;
            let ip = IpAddr::V4(Ipv4Addr::new(10, 1, 1, other));
            net.set_neighbour(link, skep_net::route::Neighbour { ip, mac: own(other) })?;
        }
        Ok(())
    }

    /// As many pairs of interfaces as there are between pods of two machines, joined by bridges: what the way costs by itself, without
    /// any rule and without the short ways.
    fn joined(&self) -> anyhow::Result<()> {
        let names = ["c", "1", "2", "3", "d"];
        let all: Vec<Namespace> = names
            .iter()
            .map(|name| Namespace::persistent(&self.bare_path(name)))
            .collect::<Result<_, _>>()?;
        for (i, ns) in all.iter().enumerate().skip(1).take(3) {
            // What is bridged is routed nowhere. A kernel without the module has no such value, and does nothing of the kind.
            let _ = ns.run(|| sysctl("bridge/bridge-nf-call-iptables", "0"))?;
            let mut net = Net::open(ns)?;
            let mac = MacAddr([2, 1, 0, 0, 0, i as u8]);
            net.add_bridge("br", mac, MTU, Bridge { call_iptables: false })?;
            let bridge = net.expect_link("br")?.index;
            net.set_up(bridge)?;
        }
        for (from, to) in all.iter().zip(&all[1..]) {
            let peer = Peer { name: "left", mac: None, namespace: Some(to) };
            Net::open(from)?.add_veth("right", None, MTU, &peer)?;
            for (ns, name) in [(from, "right"), (to, "left")] {
                let mut net = Net::open(ns)?;
                let link = net.expect_link(name)?.index;
                if let Some(bridge) = net.link("br")? {
                    net.set_master(link, bridge.index)?;
                }
                net.set_up(link)?;
            }
        }
        for (ns, name, ip) in [(&all[0], "right", "10.1.2.1/24"), (&all[4], "left", "10.1.2.2/24")] {
            let mut net = Net::open(ns)?;
            let link = net.expect_link(name)?.index;
            net.add_address(link, ip.parse().context("an address")?)?;
        }
        Ok(())
    }

    pub(super) fn host(&self, host: u8) -> anyhow::Result<Namespace> {
        Ok(Namespace::open(&self.host_path(host))?)
    }

    /// Removes everything.
    fn remove(&mut self) {
        self.switches.clear();
        self.uplinks.clear();
        let mut failed = Vec::new();
        for host in 1..=HOSTS {
            for tenant in 0..TENANTS {
                failed.extend(Switch::remove_at(&self.switch_path(tenant, host)).err());
            }
        }
        for entry in std::fs::read_dir(self.folder.path()).into_iter().flatten().flatten() {
            failed.extend(Namespace::remove(&entry.path()).err());
        }
        failed.extend(self.underlay.remove().err());
        for error in failed {
            eprintln!("skep: something of the measurement stays: {error}");
        }
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        self.remove();
    }
}
