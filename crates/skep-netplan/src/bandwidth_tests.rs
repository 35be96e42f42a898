use proptest::prelude::*;

use super::*;

const MBIT: u64 = 1_000_000;

fn policy(guaranteed: Option<u64>, maximum: Option<u64>) -> Option<Policy> {
    let limits = Limits {
        guaranteed_bits_per_s: guaranteed.map(|m| m * MBIT),
        maximum_bits_per_s: maximum.map(|m| m * MBIT),
        packets_per_s: None,
    };
    Some(Policy { sending: limits, receiving: limits, mpu_bytes: WIRE_MPU_BYTES })
}

fn port(n: u8, tenant: &str, policy: Option<Policy>) -> Port {
    Port {
        name: format!("{tenant}/p{n}"),
        tenant: tenant.to_owned(),
        vni: u32::from(tenant.as_bytes()[0]),
        interface: format!("m{tenant}"),
        mac: [2, 0, 0, 0, 0, n],
        addresses: vec![IpAddr::from([10, 0, 0, n])],
        created_ms: i64::from(n),
        policy,
    }
}

#[test]
fn nothing_is_shared_where_nothing_is_guaranteed() {
    let mut memory = Memory::default();
    let ports = [port(1, "a", None), port(2, "a", policy(None, Some(10)))];
    let plan = plan(&ports, Some(500 * MBIT), &mut memory);
    assert_eq!(plan.uplink, None);
    let shape = &plan.networks[&u32::from(b'a')];
    let number = plan.numbers["a/p2"];
    assert_eq!(shape.keys[&("ma".to_owned(), IpAddr::from([10, 0, 0, 2]))], number);
    assert_eq!(shape.ports[&number].sending.maximum.unwrap().maximum_bits_per_s, 10 * MBIT);
    assert_eq!((shape.rest, shape.ports[&number].class), (None, None));
}

#[test]
fn tenants_stand_beside_each_other_and_ports_below_them() {
    let mut memory = Memory::default();
    let ports = [
        port(1, "a", policy(Some(300), None)),
        port(2, "a", None),
        port(3, "b", policy(Some(100), Some(200))),
    ];
    let plan = plan(&ports, Some(500 * MBIT), &mut memory);
    let uplink = plan.uplink.unwrap();
    let line = &uplink.sending;
    assert_eq!(line.total.maximum_bits_per_s, 500 * MBIT);
    let (one, three) = (plan.numbers["a/p1"], plan.numbers["b/p3"]);
    assert_eq!(line.classes[&one].rate.guaranteed_bits_per_s, 300 * MBIT);
    assert_eq!(line.classes[&one].rate.maximum_bits_per_s, 500 * MBIT, "it borrows all that is idle");
    assert_eq!(line.classes[&three].rate.maximum_bits_per_s, 200 * MBIT);
    let tenant = line.classes[&one].parent;
    assert_ne!(tenant, line.classes[&three].parent);
    assert!(line.classes[&tenant].rate.guaranteed_bits_per_s >= 300 * MBIT && !line.classes[&tenant].leaf);
    assert_eq!(uplink.ports[&(u32::from(b'b'), [2, 0, 0, 0, 0, 3])], three);
    let a = &plan.networks[&u32::from(b'a')];
    assert_eq!(a.ports[&one].class, Some(one));
    assert_eq!(a.ports[&plan.numbers["a/p2"]].class, a.rest, "without a guarantee with the tenant's others");
}

#[test]
fn who_comes_too_late_gets_nothing_and_takes_nothing_away() {
    let mut memory = Memory::default();
    let first = [port(5, "a", policy(Some(300), None)), port(6, "b", policy(Some(100), None))];
    let of = |plan: &Plan, name: &str| plan.granted[name].sending_bits_per_s / MBIT;
    let begun = plan(&first, Some(500 * MBIT), &mut memory);
    assert_eq!((of(&begun, "a/p5"), of(&begun, "b/p6")), (300, 100));
    // It is older, but it asks later.
    let more = [first[0].clone(), first[1].clone(), port(1, "c", policy(Some(200), None))];
    let full = plan(&more, Some(500 * MBIT), &mut memory);
    assert_eq!((of(&full, "a/p5"), of(&full, "b/p6"), of(&full, "c/p1")), (300, 100, 0));
    let class = full.networks[&u32::from(b'c')].ports[&full.numbers["c/p1"]].class;
    assert_eq!(class, full.networks[&u32::from(b'c')].rest);
    // One leaves: there is room.
    let less = [first[1].clone(), more[2].clone()];
    let room = plan(&less, Some(500 * MBIT), &mut memory);
    assert_eq!((of(&room, "b/p6"), of(&room, "c/p1")), (100, 200));
    assert_eq!(room.numbers["b/p6"], begun.numbers["b/p6"], "numbers stay");
    // A daemon that starts anew serves them by age.
    let anew = plan(&more, Some(500 * MBIT), &mut Memory::default());
    assert_eq!((of(&anew, "c/p1"), of(&anew, "a/p5"), of(&anew, "b/p6")), (200, 0, 100));
    // Without a capacity nothing can be guaranteed.
    let unknown = plan(&more, None, &mut Memory::default());
    assert_eq!((of(&unknown, "a/p5"), unknown.uplink), (0, None));
}

#[test]
fn numbers_of_an_earlier_process_are_left_alone() {
    let mut memory = Memory::default();
    memory.avoid(3..10);
    let plan = plan(&[port(1, "a", None)], None, &mut memory);
    assert_eq!(plan.numbers["a/p1"], 10);
}

proptest! {
    #[test]
    fn guarantees_fit_and_numbers_are_of_one_owner(
        steps in prop::collection::vec(prop::collection::btree_map(0u8..12, (0usize..3, prop::option::of(1u64..400)), 0..10), 1..8),
        capacity in prop::option::of(1u64..1000),
    ) {
        let mut memory = Memory::default();
        let mut before: Option<Plan> = None;
        for step in steps {
            let ports: Vec<Port> = step.iter()
                .map(|(n, (tenant, bits))| port(*n, ["a", "b", "c"][*tenant], bits.and_then(|b| policy(Some(b), None))))
                .collect();
            let plan = plan(&ports, capacity.map(|c| c * MBIT), &mut memory);
            let total: u64 = plan.granted.values().map(|g| g.sending_bits_per_s).sum();
            prop_assert!(total <= percent(capacity.unwrap_or(0) * MBIT, GUARANTEED_PERCENT));
            prop_assert_eq!(plan.numbers.len(), ports.len());
            let distinct: BTreeSet<u16> = plan.numbers.values().copied().collect();
            prop_assert_eq!(distinct.len(), ports.len());
            if let Some(uplink) = &plan.uplink {
                for line in [&uplink.sending, &uplink.arriving] {
                    for (number, class) in &line.classes {
                        prop_assert!(class.parent == ROOT || !line.classes[&class.parent].leaf);
                        prop_assert!(class.rate.guaranteed_bits_per_s <= class.rate.maximum_bits_per_s);
                        prop_assert!(*number == HOST || *number >= FIRST);
                    }
                }
                for shape in plan.networks.values() {
                    for port in shape.ports.values() {
                        let class = port.class.unwrap();
                        prop_assert!(uplink.sending.classes[&class].leaf);
                    }
                }
            }
            if let Some(before) = &before {
                for (name, granted) in &plan.granted {
                    let asked = ports.iter().find(|p| p.name == *name).unwrap().policy.unwrap();
                    let had = before.granted.get(name).map_or(0, |g| g.sending_bits_per_s);
                    let keeps = had.min(asked.sending.guaranteed_bits_per_s.unwrap());
                    prop_assert!(granted.sending_bits_per_s >= keeps, "nobody takes away what one has");
                }
            }
            before = Some(plan);
        }
    }
}
