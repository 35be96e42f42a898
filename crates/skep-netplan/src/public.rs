//! Public addresses in one network on one host: which lead in here, to whom, and what may enter.
//!
//! An address that leads to a pod has an interface of its own in the pod, with an Ethernet address that follows from it. One that leads to
//! a service ends at a machine, whose agent leads its connections on to endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::fabric::{Fabric, Mac, Place, Port};
use crate::service::L4;

/// Who has a public address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A pod: everything is let through to it.
    Pod,
    /// A service: only its ports are open, to these sources, or to all when none is named.
    Service {
        /// What is open.
        ports: Vec<(L4, u16)>,
        /// From where; nothing means from everywhere.
        sources: Vec<IpNet>,
    },
}

/// A public address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Public {
    /// Which.
    pub address: IpAddr,
    /// The machine that it leads to.
    pub machine: String,
    /// Who has it there.
    pub holder: Holder,
}

/// A number for an address: of IPv4 the address itself, of IPv6 one of 40 bits that is made from it. No network has so many public addresses that
/// two of them meet.
#[must_use]
pub fn public_number(address: IpAddr) -> u64 {
    const BITS: u32 = 40;
    match address {
        IpAddr::V4(ip) => u64::from(u32::from(ip)),
        IpAddr::V6(ip) => {
            // FNV-1a: the same over releases, which no hasher of the standard library promises.
            let hash = ip
                .octets()
                .into_iter()
                .fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
            (hash ^ (hash >> BITS)) & ((1 << BITS) - 1)
        }
    }
}

/// The Ethernet address of the interface that a public address has in its pod: no port's, which begin with 02 and 06.
#[must_use]
pub fn public_mac(address: IpAddr) -> Mac {
    let [_, _, _, e, a, b, c, d] = public_number(address).to_be_bytes();
    match address {
        IpAddr::V4(_) => [0x0e, 3, a, b, c, d],
        IpAddr::V6(_) => [0x1e, e, a, b, c, d],
    }
}

/// What may begin a connection to a public address: protocols, ports of the address, and sources, each from first to last.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Opening {
    /// The address.
    pub address: IpAddr,
    /// Protocols, by their numbers.
    pub protocols: (u8, u8),
    /// Ports.
    pub ports: (u16, u16),
    /// Sources, of the address's family.
    pub sources: (IpAddr, IpAddr),
}

/// Public addresses that lead in here, and what may enter by them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entrance {
    /// Each with the Ethernet address that has it inside.
    pub addresses: BTreeMap<IpAddr, Mac>,
    /// What may begin a connection.
    pub openings: BTreeSet<Opening>,
}

/// Plans the entrance of a network on a host, and tells its fabric where these addresses are and who may speak as them. Only those
/// lead in here whose machine is here.
#[must_use]
pub fn plan(
    publics: &[Public],
    ports: &[Port],
    places: &BTreeMap<String, Place>,
    fabric: &mut Fabric,
) -> Entrance {
    let gates: BTreeMap<&str, Mac> =
        ports.iter().filter(|p| p.is_machine).map(|p| (p.machine.as_str(), p.mac)).collect();
    let mut entrance = Entrance::default();
    for public in publics {
        let Some(Place::Here(interface)) = places.get(&public.machine) else { continue };
        let address = public.address;
        let mac = match &public.holder {
            Holder::Pod => {
                let mac = public_mac(address);
                fabric.local.insert(mac, interface.clone());
                fabric.allowed.insert((interface.clone(), mac, address));
                mac
            }
            Holder::Service { .. } => match gates.get(public.machine.as_str()) {
                Some(mac) => *mac,
                // Its port comes before it is attached.
                None => continue,
            },
        };
        if let Holder::Service { .. } = public.holder {
            // An endpoint's answer gets the service's address in the machine, and is bridged on as it came: from the pod.
            for port in ports.iter().filter(|p| p.machine == public.machine) {
                fabric.allowed.insert((interface.clone(), port.mac, address));
            }
        }
        entrance.addresses.insert(address, mac);
        entrance.openings.extend(openings(public));
    }
    entrance
}

fn openings(public: &Public) -> Vec<Opening> {
    let address = public.address;
    let everywhere: (IpAddr, IpAddr) = match address {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::BROADCAST.into()),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::from(u128::MAX).into()),
    };
    let (ports, sources) = match &public.holder {
        Holder::Pod => {
            let all = Opening { address, protocols: (0, u8::MAX), ports: (0, u16::MAX), sources: everywhere };
            return vec![all];
        }
        Holder::Service { ports, sources } => (ports, sources),
    };
    // Ranges of the other family let in nobody here.
    let near: Vec<IpNet> =
        sources.iter().filter(|net| net.addr().is_ipv4() == address.is_ipv4()).copied().collect();
    let ranges = if sources.is_empty() { vec![everywhere] } else { apart(&near) };
    let mut all = Vec::new();
    for (protocol, port) in ports {
        for sources in &ranges {
            let protocol = protocol.number();
            let (protocols, ports) = ((protocol, protocol), (*port, *port));
            all.push(Opening { address, protocols, ports, sources: *sources });
        }
    }
    all
}

/// Ranges that do not overlap, which is what the kernel takes: of two networks one is in the other, or they have nothing in common.
fn apart(networks: &[IpNet]) -> Vec<(IpAddr, IpAddr)> {
    let networks: BTreeSet<IpNet> = networks.iter().map(IpNet::trunc).collect();
    let inside = |net: &IpNet| networks.iter().any(|other| other != net && other.contains(net));
    networks.iter().filter(|net| !inside(net)).map(|net| (net.network(), net.broadcast())).collect()
}

impl Entrance {
    /// The openings that go and those that come, from this to what is wanted.
    #[must_use]
    pub fn changes<'a>(&'a self, wanted: &'a Entrance) -> (Vec<&'a Opening>, Vec<&'a Opening>) {
        let gone = self.openings.difference(&wanted.openings).collect();
        (gone, wanted.openings.difference(&self.openings).collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn gate(machine: &str, n: u8) -> Port {
        Port {
            mac: [2, 0, 0, 0, 0, n],
            addresses: vec![[10, 0, 0, n].into()],
            pairs: Vec::new(),
            machine: machine.into(),
            is_machine: true,
        }
    }

    fn public(n: u8, machine: &str, holder: Holder) -> Public {
        Public { address: IpAddr::from([192, 0, 2, n]), machine: machine.into(), holder }
    }

    fn service(ports: &[(L4, u16)], sources: &[&str]) -> Holder {
        let sources = sources.iter().map(|s| s.parse().unwrap()).collect();
        Holder::Service { ports: ports.to_vec(), sources }
    }

    fn places() -> BTreeMap<String, Place> {
        [
            ("a".to_owned(), Place::Here("m-a".into())),
            ("b".to_owned(), Place::There([198, 51, 100, 2].into())),
        ]
        .into()
    }

    #[test]
    fn addresses_lead_in_where_their_machine_is() {
        let endpoint = Port { is_machine: false, ..gate("a", 3) };
        let ports = [gate("a", 1), gate("b", 2), endpoint];
        let publics = [
            public(1, "a", Holder::Pod),
            public(2, "a", service(&[(L4::Tcp, 80), (L4::Udp, 53)], &[])),
            public(3, "b", Holder::Pod),
            public(4, "nowhere", Holder::Pod),
        ];
        let mut fabric = Fabric::default();
        let entrance = plan(&publics, &ports, &places(), &mut fabric);
        let pod = [0x0e, 3, 192, 0, 2, 1];
        let found: Vec<_> = entrance.addresses.iter().map(|(ip, mac)| (ip.to_string(), *mac)).collect();
        assert_eq!(found, [("192.0.2.1".into(), pod), ("192.0.2.2".into(), ports[0].mac)]);
        assert_eq!(fabric.local, [(pod, "m-a".to_owned())].into());
        let allowed: Vec<_> = fabric.allowed.iter().map(|(_, mac, ip)| (*mac, ip.to_string())).collect();
        assert_eq!(
            allowed,
            [
                (ports[0].mac, "192.0.2.2".into()),
                (ports[2].mac, "192.0.2.2".into()),
                (pod, "192.0.2.1".into())
            ],
            "a machine speaks as its services' addresses, a pod as its own only"
        );
        let opened: Vec<_> =
            entrance.openings.iter().map(|o| (o.address.to_string(), o.protocols.0, o.ports)).collect();
        let (pod, service) = ("192.0.2.1".to_owned(), "192.0.2.2".to_owned());
        assert_eq!(
            opened,
            [(pod, 0, (0, u16::MAX)), (service.clone(), 6, (80, 80)), (service, 17, (53, 53))]
        );
    }

    #[test]
    fn sources_are_kept_apart() {
        let publics =
            [public(1, "a", service(&[(L4::Tcp, 80)], &["10.0.0.7/8", "10.1.0.0/16", "192.0.2.0/24"]))];
        let entrance = plan(&publics, &[gate("a", 1)], &places(), &mut Fabric::default());
        let sources: Vec<_> = entrance.openings.iter().map(|o| o.sources.0.to_string()).collect();
        assert_eq!(sources, ["10.0.0.0", "192.0.2.0"], "what another holds is not said twice");
        let all = plan(
            &[public(1, "a", service(&[(L4::Tcp, 80)], &["0.0.0.0/0"]))],
            &[gate("a", 1)],
            &places(),
            &mut Fabric::default(),
        );
        let (gone, new) = entrance.changes(&all);
        assert_eq!((gone.len(), new.len()), (2, 1));
    }

    #[test]
    fn addresses_of_ipv6_are_led_in_alike() {
        let address: IpAddr = "2001:db8::5".parse().unwrap();
        let ports = [gate("a", 1)];
        let sources = &["10.0.0.0/8", "2001:db8:1::/48"];
        let open = |holder| Public { address, machine: "a".into(), holder };
        let mut fabric = Fabric::default();
        let entrance = plan(&[open(service(&[(L4::Tcp, 80)], sources))], &ports, &places(), &mut fabric);
        let found: Vec<_> =
            entrance.openings.iter().map(|o| (o.sources.0.to_string(), o.sources.1.to_string())).collect();
        assert_eq!(found, [("2001:db8:1::".into(), "2001:db8:1:ffff:ffff:ffff:ffff:ffff".into())]);
        // Only ranges of the other family: nobody.
        let entrance =
            plan(&[open(service(&[(L4::Tcp, 80)], &sources[..1]))], &ports, &places(), &mut fabric);
        assert_eq!(entrance.openings, BTreeSet::new());
        let entrance = plan(&[open(Holder::Pod)], &ports, &places(), &mut fabric);
        let mac = public_mac(address);
        assert_eq!((entrance.addresses.get(&address), mac[0]), (Some(&mac), 0x1e));
        assert_ne!(mac, public_mac("2001:db8::6".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn ranges_hold_what_networks_hold(nets in prop::collection::vec((any::<u32>(), 0u8..=32), 1..6), ip: u32) {
            // Mostly near each other, so that they meet.
            let nets: Vec<IpNet> = nets.into_iter()
                .map(|(ip, len)| IpNet::new(Ipv4Addr::from(ip & 0x0303_0303).into(), len).unwrap()).collect();
            let ip = IpAddr::from(Ipv4Addr::from(ip & 0x0303_0303));
            let ranges = apart(&nets);
            let holding = ranges.iter().filter(|(first, last)| *first <= ip && ip <= *last).count();
            prop_assert_eq!(holding, usize::from(nets.iter().any(|n| n.contains(&ip))));
        }
    }
}
