use super::super::fit::{Demands, Toleration};
use super::*;
use proptest::prelude::*;

const GIB: u64 = 1 << 30;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn amounts(cpu_millis: u64, memory_bytes: u64, pods: u64) -> Amounts {
    Amounts { cpu_millis, memory_bytes, disk_bytes: 0, pods }
}

fn flavor(name: &str, cpu: u64, gib: u64, price: u64) -> Flavor {
    let amounts = amounts(cpu, gib * GIB, 110);
    Flavor { name: name.to_owned(), amounts, price: Some(price), ..Flavor::default() }
}

fn pool(name: &str) -> Pool {
    Pool {
        name: name.to_owned(),
        isolation: "process".to_owned(),
        empty_delay: SignedDuration::from_secs(60),
        ..Pool::default()
    }
}

fn pod(name: &str, cpu: u64, gib: u64) -> WaitingPod {
    WaitingPod { name: name.to_owned(), amounts: amounts(cpu, gib * GIB, 1), ..WaitingPod::default() }
}

fn tenant(waiting: Vec<WaitingPod>) -> Tenant {
    Tenant {
        pools: vec![pool("default")],
        flavors: vec![
            flavor("small", 1000, 1, 2),
            flavor("medium", 2000, 4, 5),
            flavor("large", 8000, 16, 16),
        ],
        waiting,
        ..Tenant::default()
    }
}

fn machine(name: &str, flavor: &Flavor, node: Option<NodeView>) -> MachineView {
    MachineView {
        name: name.to_owned(),
        pool: "default".to_owned(),
        flavor: flavor.name.clone(),
        amounts: flavor.amounts,
        node,
        ..MachineView::default()
    }
}

fn made(plan: &Plan) -> Vec<&str> {
    let made = plan.actions.iter().filter_map(|a| match a {
        Action::Make { flavor, .. } => Some(flavor.as_str()),
        _ => None,
    });
    made.collect()
}

#[test]
fn nothing_waits_and_nothing_is_made() {
    assert_eq!(plan(&tenant(vec![]), at(0)), Plan::default());
}

#[test]
fn the_cheapest_flavour_that_fits() {
    assert_eq!(made(&plan(&tenant(vec![pod("a", 100, 0)]), at(0))), ["small"]);
    assert_eq!(made(&plan(&tenant(vec![pod("a", 100, 2)]), at(0))), ["medium"]);
    assert_eq!(made(&plan(&tenant(vec![pod("a", 4000, 1)]), at(0))), ["large"]);
    // Eight pods of one CPU: eight small ones are as dear as one large, which is dearer alone; ties go to the small.
    let pods: Vec<_> = (0..8).map(|i| pod(&format!("p{i}"), 1000, 1)).collect();
    assert_eq!(made(&plan(&tenant(pods), at(0))), ["small"; 8]);
    // Thirty tiny ones fit a small one.
    let pods: Vec<_> = (0..30).map(|i| pod(&format!("p{i}"), 10, 0)).collect();
    assert_eq!(made(&plan(&tenant(pods), at(0))), ["small"]);
    // Without a price the smaller comes first, behind all that have one.
    let mut unpriced = tenant(vec![pod("a", 100, 2)]);
    unpriced.flavors[1].price = None;
    assert_eq!(made(&plan(&unpriced, at(0))), ["large"]);
}

#[test]
fn machines_on_their_way_count() {
    let waiting = vec![pod("a", 600, 1), pod("b", 600, 1)];
    let mut tenant = tenant(waiting);
    assert_eq!(made(&plan(&tenant, at(0))).len(), 2);
    let small = tenant.flavors[0].clone();
    tenant.machines = vec![machine("m1", &small, None)];
    assert_eq!(made(&plan(&tenant, at(0))), ["small"], "one of the two fits on what is coming");
    let young = NodeView { ready_since: Some(at(5)), pods: 1, ..NodeView::default() };
    tenant.machines.push(machine("m2", &small, Some(young.clone())));
    let wait = plan(&tenant, at(10));
    assert_eq!((made(&wait).len(), wait.look_again), (0, Some(at(15))));
    // The scheduler has had its time and still says no: there must be a reason.
    assert_eq!(made(&plan(&tenant, at(15))), ["small"]);
    // But an empty one that the scheduler does not take either is not doubled.
    tenant.machines[1].node = Some(NodeView { pods: 0, ..young });
    assert_eq!(made(&plan(&tenant, at(15))), [""; 0]);
    // A node that is closed, or a machine that goes, helps nobody.
    tenant.machines[0].deleting = true;
    tenant.machines[1].node = Some(NodeView { closed: true, ..young });
    assert_eq!(made(&plan(&tenant, at(6))).len(), 2);
}

#[test]
fn limits_hold_and_are_said() {
    let waiting: Vec<_> = (0..5).map(|i| pod(&format!("p{i}"), 1000, 1)).collect();
    let mut small = tenant(waiting);
    small.flavors.truncate(1);
    small.pools[0].max = Some(2);
    let capped = plan(&small, at(0));
    assert_eq!(made(&capped).len(), 2);
    assert_eq!(capped.blocked["default"], AT_MAX);
    small.pools[0].max = None;
    small.room = Room { machines: None, cpu_millis: Some(3500), memory_bytes: None };
    let capped = plan(&small, at(0));
    assert_eq!(made(&capped).len(), 3);
    assert_eq!(capped.blocked["default"], OVER_QUOTA);
    small.room = Room::default();
    assert!(plan(&small, at(0)).blocked.is_empty());
    // A thousand pods do not become a thousand machines at once.
    small.waiting = (0..1000).map(|i| pod(&format!("p{i}"), 1000, 1)).collect();
    let many = plan(&small, at(7));
    assert_eq!((made(&many).len(), many.look_again), (ADD_MAX, Some(at(7))));
}

#[test]
fn what_nothing_can_take_is_named_and_stops_nobody() {
    let plan = plan(&tenant(vec![pod("giant", 64_000, 1), pod("a", 100, 0)]), at(0));
    assert_eq!(plan.hopeless, ["giant"]);
    assert_eq!(made(&plan), ["small"]);
}

#[test]
fn pools_take_the_pods_that_want_them() {
    let mut special = tenant(vec![pod("a", 100, 0), pod("b", 100, 0)]);
    let mut gpu = pool("gpu");
    gpu.labels = [("gpu".to_owned(), "yes".to_owned())].into();
    gpu.taints = vec![Taint { key: "gpu".into(), value: String::new(), effect: "NoSchedule".into() }];
    special.pools.push(gpu);
    special.waiting[1].demands = Demands {
        node_selector: [("gpu".to_owned(), "yes".to_owned())].into(),
        tolerations: vec![Toleration {
            key: "gpu".into(),
            operator: "Exists".into(),
            ..Toleration::default()
        }],
        ..Demands::default()
    };
    let plan = plan(&special, at(0));
    let pools: Vec<&str> = plan
        .actions
        .iter()
        .map(|a| match a {
            Action::Make { pool, .. } => pool.as_str(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(pools, ["default", "gpu"]);
}

#[test]
fn a_pool_has_its_least_number_and_other_isolations_other_flavours() {
    let mut least = tenant(vec![]);
    least.pools[0].min = 2;
    assert_eq!(made(&plan(&least, at(0))), ["small", "small"]);
    least.flavors[0].isolations = vec!["vm".to_owned()];
    assert_eq!(made(&plan(&least, at(0))), ["medium", "medium"]);
    least.pools[0].flavor_names = vec!["large".to_owned()];
    assert_eq!(made(&plan(&least, at(0))), ["large", "large"]);
}

#[test]
fn an_empty_machine_is_marked_closed_and_returned() {
    let mut empty = tenant(vec![]);
    let small = empty.flavors[0].clone();
    let ready = NodeView { ready_since: Some(at(0)), ..NodeView::default() };
    empty.machines = vec![machine("m", &small, Some(ready.clone()))];
    let marked = plan(&empty, at(100));
    assert_eq!((marked.actions, marked.look_again), (vec![Action::MarkEmpty("m".into())], Some(at(160))));
    empty.machines[0].empty_since = Some(at(100));
    let waiting = plan(&empty, at(130));
    assert_eq!((waiting.actions, waiting.look_again), (vec![], Some(at(160))));
    assert_eq!(plan(&empty, at(160)).actions, [Action::Close("m".into())]);
    empty.machines[0].node = Some(NodeView { closed: true, ..ready });
    assert_eq!(plan(&empty, at(160)).actions, [Action::Delete("m".into())]);
    // A pod came just before it was closed: it stays, and takes pods again.
    empty.machines[0].node = Some(NodeView { closed: true, pods: 1, ..ready });
    assert_eq!(plan(&empty, at(161)).actions, [Action::MarkUsed("m".into())]);
    // The pool's least number stays, empty or not.
    empty.pools[0].min = 1;
    empty.machines[0].node = Some(ready);
    assert_eq!(plan(&empty, at(1000)).actions, []);
    // One whose node never came goes too, unless pods wait for it: then its time begins anew.
    empty.pools[0].min = 0;
    empty.machines[0].node = None;
    assert_eq!(plan(&empty, at(159)).actions, []);
    assert_eq!(plan(&empty, at(160)).actions, [Action::Delete("m".into())]);
    empty.waiting = vec![pod("a", 100, 0)];
    assert_eq!(plan(&empty, at(160)).actions, [Action::MarkUsed("m".into())]);
}

proptest! {
    /// Playing plans until nothing changes: limits hold at every moment, pods that some flavour takes get room, and
    /// when all pods are gone all machines beyond the least number go too.
    #[test]
    fn plans_come_to_rest(
        pods in proptest::collection::vec((1_u64..8000, 0_u64..16), 0..60),
        max in proptest::option::of(0_usize..12),
        min in 0_usize..3,
    ) {
        let mut world = tenant(pods.iter().enumerate().map(|(i, (c, m))| pod(&format!("p{i}"), *c, *m)).collect());
        let min = max.map_or(min, |max| min.min(max));
        (world.pools[0].min, world.pools[0].max) = (min, max);
        let (mut clock, mut number) = (at(0), 0);
        let mut rested = false;
        for _ in 0..2000 {
            let next = plan(&world, clock);
            let busy = world.machines.iter().any(|m| m.node.as_ref().is_none_or(|n| n.pods > 0));
            if next.actions.is_empty() && next.look_again.is_none_or(|t| t <= clock) && !busy {
                rested = true;
                break;
            }
            clock = next.look_again.unwrap_or(clock).max(clock + SignedDuration::from_secs(1));
            for action in next.actions {
                match action {
                    Action::Make { flavor, .. } => {
                        let flavor = world.flavors.iter().find(|f| f.name == flavor).unwrap().clone();
                        number += 1;
                        world.machines.push(machine(&format!("m{number}"), &flavor, None));
                    }
                    Action::MarkEmpty(name) => world.machines.iter_mut().find(|m| m.name == name).unwrap().empty_since = Some(clock),
                    Action::MarkUsed(name) => {
                        let m = world.machines.iter_mut().find(|m| m.name == name).unwrap();
                        m.empty_since = None;
                        m.node.as_mut().unwrap().closed = false;
                    }
                    Action::Close(name) => world.machines.iter_mut().find(|m| m.name == name).unwrap().node.as_mut().unwrap().closed = true,
                    Action::Delete(name) => world.machines.retain(|m| m.name != name),
                }
            }
            prop_assert!(max.is_none_or(|max| world.machines.len() <= max));
            // Machines come up, the scheduler fills them, and what ran a moment ago has ended.
            for m in &mut world.machines {
                let up = NodeView { ready_since: Some(clock - SETTLING), ..NodeView::default() };
                let node = m.node.get_or_insert(up);
                let (mut left, before) = (m.amounts, world.waiting.len());
                if !node.closed {
                    world.waiting.retain(|p| {
                        let fits = left.holds(&p.amounts);
                        if fits {
                            left = left.less(&p.amounts);
                        }
                        !fits
                    });
                }
                node.pods = before - world.waiting.len();
            }
        }
        prop_assert!(rested, "no rest: {world:?}");
        prop_assert!(world.machines.len() >= min);
        // With no machine to spare, one that is too small for a pod is never exchanged for a larger one.
        if max.is_none_or(|max| max > min) {
            prop_assert!(world.waiting.is_empty(), "{:?}", world.waiting);
            prop_assert_eq!(world.machines.len(), min);
        }
    }
}
