//! Which machines one tenant gets and gives back.
//!
//! Up: pods that fit on no node are packed, the largest first, onto the machines that are on their way; for those that
//! are left over new machines are chosen one by one, each time the one that costs least for each pod that it takes.
//! Down: a machine without pods is marked with the time at which that was seen first; when it has stayed so for the pool's delay
//! its node is closed, looked at once more, and only then the machine is deleted.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::Amounts;
use super::fit::{Taint, WaitingPod};

/// For how long after a node became ready the waiting pods are taken to be on their way to it: the pod scheduler has to
/// see it and bind them. Shorter, and machines are made twice; longer, and a pod that the node does not suit waits.
pub const SETTLING: SignedDuration = SignedDuration::from_secs(10);
/// Machines that one look may add to a tenant: a thousand pods at once should not become a thousand machines before
/// anybody has seen whether the first ones work.
pub const ADD_MAX: usize = 20;

/// A pool, as far as scaling cares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// The flavours to choose from; all if empty.
    pub flavor_names: Vec<String>,
    /// How its machines are kept apart.
    pub isolation: String,
    /// How many there are at least.
    pub min: usize,
    /// How many there are at most.
    pub max: Option<usize>,
    /// How long a machine stays without pods.
    pub empty_delay: SignedDuration,
    /// Labels of its nodes.
    pub labels: BTreeMap<String, String>,
    /// Taints of its nodes.
    pub taints: Vec<Taint>,
}

/// A flavour.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flavor {
    /// Its name.
    pub name: String,
    /// What a machine of it offers to pods.
    pub amounts: Amounts,
    /// The isolations that it can have; any if empty.
    pub isolations: Vec<String>,
    /// What it costs next to others.
    pub price: Option<u64>,
    /// Labels that its nodes have besides the pool's.
    pub labels: BTreeMap<String, String>,
}

/// A machine that there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineView {
    /// Its name.
    pub name: String,
    /// Its pool; empty if it has none.
    pub pool: String,
    /// Its flavour.
    pub flavor: String,
    /// What it offers to pods.
    pub amounts: Amounts,
    /// It is being deleted.
    pub deleting: bool,
    /// Since when it has been without pods, as marked.
    pub empty_since: Option<Timestamp>,
    /// Its node, once it is registered.
    pub node: Option<NodeView>,
}

/// A machine's node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// Since when it is ready; `None` if it is not.
    pub ready_since: Option<Timestamp>,
    /// It takes no new pods.
    pub closed: bool,
    /// Pods on it that would have to run elsewhere: not those that have ended, nor a daemon set's.
    pub pods: usize,
}

/// What the tenant may still have; `None` for what is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Machines.
    pub machines: Option<u64>,
    /// Thousandths of CPUs.
    pub cpu_millis: Option<u64>,
    /// Bytes of memory.
    pub memory_bytes: Option<u64>,
}

impl Room {
    /// Takes a machine out of the room, if it is there.
    fn take(&mut self, amounts: &Amounts) -> bool {
        let after = |room: Option<u64>, part: u64| match room {
            Some(room) => room.checked_sub(part).map(Some),
            None => Some(None),
        };
        let rooms = (
            after(self.machines, 1),
            after(self.cpu_millis, amounts.cpu_millis),
            after(self.memory_bytes, amounts.memory_bytes),
        );
        let (Some(machines), Some(cpu_millis), Some(memory_bytes)) = rooms else { return false };
        *self = Room { machines, cpu_millis, memory_bytes };
        true
    }
}

/// Everything that one tenant's plan is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tenant {
    /// Its pools.
    pub pools: Vec<Pool>,
    /// The operator's flavours.
    pub flavors: Vec<Flavor>,
    /// Its machines.
    pub machines: Vec<MachineView>,
    /// Its pods that fit on no node.
    pub waiting: Vec<WaitingPod>,
    /// What it may still have.
    pub room: Room,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make a machine.
    Make {
        /// In which pool.
        pool: String,
        /// Of which flavour.
        flavor: String,
    },
    /// Note that a machine is without pods since now.
    MarkEmpty(String),
    /// Note that it has pods again, and let its node take more.
    MarkUsed(String),
    /// Let its node take no more pods.
    Close(String),
    /// Give it back.
    Delete(String),
}

/// What is to be done for one tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order.
    pub actions: Vec<Action>,
    /// Why a pool could not be made larger, a sentence for each pool that pods would have liked to use.
    pub blocked: BTreeMap<String, String>,
    /// Pods for which no machine of any pool would do.
    pub hopeless: Vec<String>,
    /// When to look again at the latest; `None` if only when something happens.
    pub look_again: Option<Timestamp>,
}

/// Makes the plan.
#[must_use]
pub fn plan(tenant: &Tenant, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    grow(tenant, now, &mut plan);
    shrink(tenant, now, &mut plan);
    plan
}

/// A kind of machine that could be made.
struct Candidate<'a> {
    pool: &'a Pool,
    flavor: &'a Flavor,
    labels: BTreeMap<String, String>,
}

impl Candidate<'_> {
    fn takes(&self, pod: &WaitingPod) -> bool {
        self.flavor.amounts.holds(&pod.amounts) && pod.demands.accept(&self.labels, &self.pool.taints)
    }

    /// Flavours without a price come after those with one, the smaller first.
    fn price(&self) -> (bool, u64) {
        let size = self.flavor.amounts.cpu_millis + (self.flavor.amounts.memory_bytes >> 20);
        (self.flavor.price.is_none(), self.flavor.price.unwrap_or(size))
    }

    /// Which of the pods one machine would take, in their order.
    fn packed(&self, pods: &[&WaitingPod]) -> Vec<usize> {
        let mut left = self.flavor.amounts;
        let mut taken = Vec::new();
        for (i, pod) in pods.iter().enumerate() {
            if self.takes(pod) && left.holds(&pod.amounts) {
                left = left.less(&pod.amounts);
                taken.push(i);
            }
        }
        taken
    }
}

fn candidates(tenant: &Tenant) -> Vec<Candidate<'_>> {
    let mut found = Vec::new();
    for pool in &tenant.pools {
        for flavor in &tenant.flavors {
            let offered = pool.flavor_names.is_empty() || pool.flavor_names.contains(&flavor.name);
            let apart = flavor.isolations.is_empty() || flavor.isolations.contains(&pool.isolation);
            if offered && apart {
                let labels = pool.labels.iter().chain(&flavor.labels);
                let labels = labels.map(|(k, v)| (k.clone(), v.clone())).collect();
                found.push(Candidate { pool, flavor, labels });
            }
        }
    }
    found
}

/// Machines that are there or wanted, per pool.
struct Counts(BTreeMap<String, usize>);

impl Counts {
    fn of(&self, pool: &str) -> usize {
        self.0.get(pool).copied().unwrap_or(0)
    }
    fn add(&mut self, pool: &str) {
        *self.0.entry(pool.to_owned()).or_default() += 1;
    }
}

fn grow(tenant: &Tenant, now: Timestamp, plan: &mut Plan) {
    let candidates = candidates(tenant);
    let mut counts = Counts(BTreeMap::new());
    tenant.machines.iter().filter(|m| !m.deleting).for_each(|m| counts.add(&m.pool));
    let mut room = tenant.room;
    let mut made = 0;
    for pool in &tenant.pools {
        let own = |c: &&Candidate<'_>| std::ptr::eq(c.pool, pool);
        let Some(cheapest) = candidates.iter().filter(own).min_by_key(|c| (c.price(), &c.flavor.name)) else {
            continue;
        };
        while counts.of(&pool.name) < pool.min && made < ADD_MAX {
            if !room.take(&cheapest.flavor.amounts) {
                plan.blocked.insert(pool.name.clone(), OVER_QUOTA.to_owned());
                break;
            }
            counts.add(&pool.name);
            made += 1;
            let (pool, flavor) = (pool.name.clone(), cheapest.flavor.name.clone());
            plan.actions.push(Action::Make { pool, flavor });
        }
    }
    let mut left = left_over(tenant, now, plan);
    // Those that nothing will ever take must not keep the others from being packed.
    left.retain(|pod| {
        let some = candidates.iter().any(|c| c.takes(pod));
        if !some {
            plan.hopeless.push(pod.name.clone());
        }
        some
    });
    while !left.is_empty() && made < ADD_MAX {
        let mut best: Option<(&Candidate<'_>, Vec<usize>)> = None;
        for candidate in &candidates {
            // Whatever is chosen must help the largest pod, or that would wait behind the small ones for ever.
            if !candidate.takes(left[0]) {
                continue;
            }
            if candidate.pool.max.is_some_and(|max| counts.of(&candidate.pool.name) >= max) {
                plan.blocked.insert(candidate.pool.name.clone(), AT_MAX.to_owned());
                continue;
            }
            if !room.clone().take(&candidate.flavor.amounts) {
                plan.blocked.insert(candidate.pool.name.clone(), OVER_QUOTA.to_owned());
                continue;
            }
            let packed = candidate.packed(&left);
            let better =
                best.as_ref().is_none_or(|(other, taken)| is_cheaper(candidate, &packed, other, taken));
            if better {
                best = Some((candidate, packed));
            }
        }
        let Some((chosen, packed)) = best else {
            // This one has to wait; perhaps a smaller one can be helped.
            left.remove(0);
            continue;
        };
        room.take(&chosen.flavor.amounts);
        counts.add(&chosen.pool.name);
        made += 1;
        plan.blocked.remove(&chosen.pool.name);
        let (pool, flavor) = (chosen.pool.name.clone(), chosen.flavor.name.clone());
        plan.actions.push(Action::Make { pool, flavor });
        for i in packed.into_iter().rev() {
            left.remove(i);
        }
    }
    if made == ADD_MAX {
        look_at(plan, now);
    }
}

const AT_MAX: &str = "spec.maxMachines is reached";
const OVER_QUOTA: &str = "the tenant's quota has no room for another machine";

/// Which of two costs less for each pod; the dearer machine only if it is really used better.
fn is_cheaper(a: &Candidate<'_>, packed_a: &[usize], b: &Candidate<'_>, packed_b: &[usize]) -> bool {
    let ((unpriced_a, price_a), (unpriced_b, price_b)) = (a.price(), b.price());
    let pods = |packed: &[usize]| u128::try_from(packed.len().max(1)).unwrap_or(1);
    // price_a / pods_a < price_b / pods_b, without dividing.
    let (cost_a, cost_b) = (u128::from(price_a) * pods(packed_b), u128::from(price_b) * pods(packed_a));
    let key_a = (unpriced_a, cost_a, price_a, &a.pool.name, &a.flavor.name);
    let key_b = (unpriced_b, cost_b, price_b, &b.pool.name, &b.flavor.name);
    key_a < key_b
}

/// The waiting pods that the machines on their way will not take, the largest first.
fn left_over<'a>(tenant: &'a Tenant, now: Timestamp, plan: &mut Plan) -> Vec<&'a WaitingPod> {
    let mut pods: Vec<&WaitingPod> = tenant.waiting.iter().collect();
    pods.sort_by(|a, b| {
        let size = |p: &WaitingPod| (p.amounts.memory_bytes, p.amounts.cpu_millis);
        size(b).cmp(&size(a)).then_with(|| a.name.cmp(&b.name))
    });
    let mut coming: Vec<(Amounts, BTreeMap<String, String>, &[Taint])> = Vec::new();
    for machine in tenant.machines.iter().filter(|m| !m.deleting) {
        match &machine.node {
            Some(NodeView { closed: true, .. }) => continue,
            // One that stays empty although pods wait does not suit them, and another of its kind would not either.
            Some(NodeView { ready_since: Some(_), pods: 0, .. }) => {}
            Some(NodeView { ready_since: Some(since), .. }) => {
                let settled = *since + SETTLING;
                if settled <= now {
                    continue;
                }
                if !pods.is_empty() {
                    look_at(plan, settled);
                }
            }
            _ => {}
        }
        let pool = tenant.pools.iter().find(|p| p.name == machine.pool);
        let flavor = tenant.flavors.iter().find(|f| f.name == machine.flavor);
        let labels = pool.map(|p| &p.labels).into_iter().chain(flavor.map(|f| &f.labels)).flatten();
        let labels = labels.map(|(k, v)| (k.clone(), v.clone())).collect();
        coming.push((machine.amounts, labels, pool.map_or(&[], |p| p.taints.as_slice())));
    }
    for (left, labels, taints) in &mut coming {
        pods.retain(|pod| {
            let fits = left.holds(&pod.amounts) && pod.demands.accept(labels, taints);
            if fits {
                *left = left.less(&pod.amounts);
            }
            !fits
        });
    }
    pods
}

fn shrink(tenant: &Tenant, now: Timestamp, plan: &mut Plan) {
    for pool in &tenant.pools {
        let mut alive: Vec<&MachineView> =
            tenant.machines.iter().filter(|m| m.pool == pool.name && !m.deleting).collect();
        // The emptiest for the longest first.
        alive.sort_by_key(|m| (m.empty_since.unwrap_or(Timestamp::MAX), &m.name));
        let mut spare = alive.len().saturating_sub(pool.min);
        for machine in alive {
            let (pods, closed) = match &machine.node {
                Some(node) => (node.pods, node.closed),
                // Its node may be just about to come, for pods that wait; if none do, nobody needs it any more.
                None if tenant.waiting.is_empty() => (0, true),
                None => {
                    if machine.empty_since.is_some() {
                        plan.actions.push(Action::MarkUsed(machine.name.clone()));
                    }
                    continue;
                }
            };
            if pods > 0 {
                if machine.empty_since.is_some() {
                    plan.actions.push(Action::MarkUsed(machine.name.clone()));
                }
                continue;
            }
            // While pods wait it may be just the one that they are waiting for.
            let Some(since) = machine.empty_since else {
                plan.actions.push(Action::MarkEmpty(machine.name.clone()));
                look_at(plan, now + pool.empty_delay);
                continue;
            };
            if spare == 0 {
                if closed && machine.node.is_some() {
                    plan.actions.push(Action::MarkUsed(machine.name.clone()));
                }
                continue;
            }
            let due = since + pool.empty_delay;
            if due > now {
                look_at(plan, due);
            } else if closed {
                spare -= 1;
                plan.actions.push(Action::Delete(machine.name.clone()));
            } else {
                spare -= 1;
                plan.actions.push(Action::Close(machine.name.clone()));
                // Closed and seen empty after that: nothing can have come in between.
                look_at(plan, now);
            }
        }
    }
}

fn look_at(plan: &mut Plan, at: Timestamp) {
    plan.look_again = Some(plan.look_again.map_or(at, |other| other.min(at)));
}

#[cfg(test)]
#[path = "scale_tests.rs"]
mod tests;
