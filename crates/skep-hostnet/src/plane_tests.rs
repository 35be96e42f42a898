//! A second data plane, that keeps what it is told in memory and is stricter than a kernel: it refuses to add what it has and to remove what it
//! has not. Whatever becomes of machines and ports, what it was told last is what a plan from nothing says.

use std::sync::Arc;

use parking_lot::Mutex;
use proptest::prelude::*;
use skep_net::Error;
use skep_netplan::fabric::{Fabric, Place, Port, plan};
use skep_netplan::public::{Holder, Public};

use super::*;
use crate::turn::{Programmed, Turn};

/// What the switch was told.
#[derive(Debug, Default)]
struct Told {
    fabric: Fabric,
    macs: BTreeSet<(String, [u8; 6])>,
    entrance: Entrance,
    plugged: BTreeSet<String>,
    calls: Vec<&'static str>,
}

#[derive(Clone, Default)]
struct Recording(Arc<Mutex<Told>>);

fn refused(action: String) -> Error {
    Error::Io { action, source: std::io::Error::other("it is not as it was said before") }
}

impl NetworkSwitch for Recording {
    fn interfaces(&mut self) -> Result<Vec<String>> {
        Ok(self.0.lock().plugged.iter().cloned().collect())
    }

    fn attach(&mut self, interface: &str, _: &Namespace) -> Result<bool> {
        Ok(self.0.lock().plugged.insert(interface.to_owned()))
    }

    fn detach(&mut self, interface: &str) -> Result<()> {
        let mut told = self.0.lock();
        told.plugged.remove(interface);
        // With an interface goes what was behind it.
        told.fabric.local.retain(|_, at| at != interface);
        Ok(())
    }

    fn guard(&mut self, _: &Desired) -> Result<()> {
        self.0.lock().calls.push("guard");
        Ok(())
    }

    fn apply(&mut self, changes: &[Change]) -> Result<()> {
        let mut told = self.0.lock();
        let told = &mut *told;
        told.calls.push("apply");
        let fabric = &mut told.fabric;
        for change in changes {
            let right = match change.clone() {
                Change::SetRemote(mac, host) => {
                    !fabric.local.contains_key(&mac) && fabric.remote.insert(mac, host).is_none()
                }
                Change::RemoveRemote(mac, host) => fabric.remote.remove(&mac) == Some(host),
                Change::SetLocal(mac, at) => {
                    told.plugged.contains(&at)
                        && !fabric.remote.contains_key(&mac)
                        && fabric.local.insert(mac, at).is_none()
                }
                Change::RemoveLocal(mac, at) => fabric.local.remove(&mac) == Some(at),
                Change::SetNeighbour(ip, mac) => {
                    fabric.neighbours.insert(ip, mac);
                    true
                }
                Change::RemoveNeighbour(ip) => fabric.neighbours.remove(&ip).is_some(),
                Change::Allow(at, mac, ip) => fabric.allowed.insert((at, mac, ip)),
                Change::Disallow(at, mac, ip) => fabric.allowed.remove(&(at, mac, ip)),
                Change::AllowMac(at, mac) => told.macs.insert((at, mac)),
                Change::DisallowMac(at, mac) => told.macs.remove(&(at, mac)),
            };
            if !right {
                return Err(refused(format!("make {change:?}")));
            }
        }
        Ok(())
    }

    fn let_in(&mut self, wanted: &Entrance) -> Result<()> {
        let mut told = self.0.lock();
        told.calls.push("let in");
        told.entrance = wanted.clone();
        Ok(())
    }

    fn shape(&mut self, _: &Shape) -> Result<()> {
        Ok(())
    }

    fn traffic(&mut self) -> Result<Vec<(String, LinkStats)>> {
        Ok(self.0.lock().plugged.iter().map(|at| (at.clone(), LinkStats::default())).collect())
    }

    fn port_traffic(&mut self) -> Result<BTreeMap<u16, PortTraffic>> {
        Ok(BTreeMap::new())
    }

    fn forged(&mut self) -> Result<BTreeMap<String, Forged>> {
        Ok(BTreeMap::new())
    }

    fn public_traffic(&mut self) -> Result<Vec<(IpAddr, PublicTraffic)>> {
        Ok(self.0.lock().entrance.addresses.keys().map(|ip| (*ip, PublicTraffic::default())).collect())
    }
}

const MACHINES: u8 = 4;

/// Where a machine is, which of the ports are on it and which public addresses lead to it.
#[derive(Clone, Debug, Default)]
struct Machine {
    place: Option<bool>,
    ports: BTreeSet<u8>,
    public: bool,
}

fn node(n: u8) -> String {
    format!("node-{n}")
}

fn interface(n: u8) -> String {
    format!("m{n}")
}

fn wanted(n: u8, machine: &Machine) -> (Fabric, Entrance) {
    let port = |p: &u8| Port {
        mac: [2, 0, 0, 0, n, *p],
        addresses: vec![IpAddr::from([10, 64, n, *p])],
        pairs: Vec::new(),
        machine: node(n),
        is_machine: *p == 0,
    };
    let ports: Vec<Port> = machine.ports.iter().map(port).collect();
    let place = machine.place.map(|here| match here {
        true => Place::Here(interface(n)),
        false => Place::There(IpAddr::from([192, 0, 2, n])),
    });
    let places = place.map(|p| (node(n), p)).into_iter().collect();
    let mut fabric = plan(&ports, &places);
    let public = machine.public.then(|| Public {
        address: IpAddr::from([203, 0, 113, n]),
        machine: node(n),
        holder: Holder::Pod,
    });
    let entrance = skep_netplan::public::plan(public.as_slice(), &ports, &places, &mut fabric);
    (fabric, entrance)
}

proptest! {
    #[test]
    fn what_is_told_is_what_is_planned(
        steps in prop::collection::vec((0..MACHINES, prop::option::of(any::<bool>()), prop::collection::btree_set(0_u8..4, 0..4), any::<bool>()), 1..24)
    ) {
        let switch = Recording::default();
        let nowhere = Namespace::current().unwrap();
        let mut programmed = Programmed::new(Box::new(switch.clone()), 7);
        let mut machines = vec![Machine::default(); usize::from(MACHINES)];
        let mut led = BTreeSet::new();
        for (n, place, ports, public) in steps {
            let machine = Machine { place, ports, public };
            if place == Some(true) {
                programmed.attach(&interface(n), &nowhere).unwrap();
            } else {
                programmed.detach(&interface(n)).unwrap();
            }
            machines[usize::from(n)] = machine.clone();
            let (fabric, entrance) = wanted(n, &machine);
            let turn = Turn {
                fabrics: [(node(n), fabric)].into(),
                entrances: [(node(n), entrance)].into(),
                groups: Some(Desired::default()),
                bandwidth: false,
            };
            switch.0.lock().calls.clear();
            let lead = |vni: u32, wanted: &BTreeSet<IpAddr>| {
                assert_eq!(vni, 7);
                led.clone_from(wanted);
                Ok(())
            };
            programmed.program(turn, lead).unwrap();
            // From nothing, the same.
            let (mut all, mut ways_in) = (Fabric::default(), Entrance::default());
            for (n, machine) in (0..).zip(&machines) {
                let (fabric, entrance) = wanted(n, machine);
                all.remote.extend(fabric.remote);
                all.local.extend(fabric.local);
                all.neighbours.extend(fabric.neighbours);
                all.allowed.extend(fabric.allowed);
                ways_in.addresses.extend(entrance.addresses);
                ways_in.openings.extend(entrance.openings);
            }
            let told = switch.0.lock();
            prop_assert_eq!(&told.fabric, &all);
            let macs: BTreeSet<_> = all.allowed.iter().map(|(at, mac, _)| (at.clone(), *mac)).collect();
            prop_assert_eq!(&told.macs, &macs);
            prop_assert_eq!(&told.entrance, &ways_in);
            prop_assert_eq!(&led, &ways_in.addresses.keys().copied().collect::<BTreeSet<_>>());
            // Whom somebody may talk to is said before they can, and public addresses lead to who is there.
            prop_assert_eq!(&told.calls, &["guard", "apply", "let in"]);
        }
    }
}

/// Whoever holds a data plane needs to know nothing of what it is made of.
#[test]
fn a_data_plane_is_any_that_keeps_its_promises() {
    struct Memory(Recording);
    impl DataPlane for Memory {
        fn open(&self, _: &Path, _: &SwitchConfig, _: &[Ipv4Net], _: &[Ipv4Addr]) -> Result<Opened> {
            Ok(Opened { switch: Box::new(self.0.clone()), classes: BTreeSet::new() })
        }

        fn close_to_hosts(&self, _: &[Ipv4Addr], _: u16) -> Result<()> {
            Ok(())
        }

        fn machines_in(&self, _: &Path) -> Result<usize> {
            Ok(self.0.0.lock().plugged.len())
        }

        fn remove(&self, _: &Path) -> Result<()> {
            *self.0.0.lock() = Told::default();
            Ok(())
        }

        fn clean(&self) -> Result<()> {
            Ok(())
        }
    }
    let plane: Arc<dyn DataPlane> = Arc::new(Memory(Recording::default()));
    let config = SwitchConfig { vni: 7, mtu: 1450, local: [192, 0, 2, 1].into(), port: 4789 };
    let path = Path::new("net-7");
    let mut switch = plane.open(path, &config, &[], &[]).unwrap().switch;
    assert!(switch.attach("m1", &Namespace::current().unwrap()).unwrap());
    let local = Change::SetLocal([2, 0, 0, 0, 0, 1], "m1".to_owned());
    switch.apply(std::slice::from_ref(&local)).unwrap();
    assert!(switch.apply(&[local]).is_err(), "it is there already");
    assert_eq!(plane.machines_in(path).unwrap(), 1);
    // Another process takes over the same switch: what it was told still holds.
    let again = plane.open(path, &config, &[], &[]).unwrap();
    assert_eq!(Programmed::new(again.switch, config.vni).switch.interfaces().unwrap(), ["m1"]);
    plane.remove(path).unwrap();
    assert_eq!(plane.machines_in(path).unwrap(), 0);
}
