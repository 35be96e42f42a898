//! Making room: which pods of lower priority would have to go, and from which node that hurts least.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::class::{Class, mix};
use crate::cluster::{Cluster, NodeIndex, PodIndex, TemplateRef};
use crate::diagnosis::{Reason, no_candidates};

/// Nodes are tried until this share of those that may help has been found to help...
const CANDIDATE_PERCENT: usize = 10;
/// ... and at least this many.
const CANDIDATES: usize = 100;

/// What came of trying to make room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Preemption {
    /// These pods have to go, and the pod has to wait for it.
    Victims {
        /// Where room is made.
        node: String,
        /// Keys of the pods, the most important first.
        victims: Vec<String>,
    },
    /// Nothing can be done.
    Nothing {
        /// Why.
        why: String,
        /// Whether room kept for the pod so far is of no use.
        give_up_nomination: bool,
    },
}

/// Pods that would have to go from a node.
#[derive(Debug)]
pub(crate) struct Candidate {
    /// The most important first.
    victims: Vec<PodIndex>,
    cost: Cost,
}

/// What it costs, the order of fields being the order of importance. The smallest is best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cost {
    violations: usize,
    highest_priority: i32,
    sum_of_priorities: i64,
    pods: usize,
    /// The later the most important ones started, the better.
    earliest_start: Reverse<i64>,
}

#[derive(Debug)]
enum Outcome {
    Helps(Arc<Candidate>),
    Not(Vec<Reason>),
}

/// What was found out about nodes, as long as they do not change.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    known: FxHashMap<NodeIndex, Outcome>,
    /// Whether what other nodes have had a say in it.
    depends_on_others: bool,
}

impl Candidates {
    pub(crate) fn clear(&mut self) {
        self.known.clear();
    }

    pub(crate) fn forget(&mut self, node: NodeIndex) {
        self.known.remove(&node);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

const NO_VICTIMS: &str = "No preemption victims found for incoming pod";
const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";

impl Cluster {
    /// Looks for pods of lower priority that could make room for a pod that fits nowhere. `nominated` is where
    /// room was made for it before. Nothing is changed.
    pub fn preempt(
        &mut self,
        key: &str,
        template: &TemplateRef,
        nominated: Option<&str>,
        seed: u64,
    ) -> Preemption {
        if template.preempts_never {
            return Preemption::Nothing {
                why: "not eligible due to preemptionPolicy=Never.".to_owned(),
                give_up_nomination: false,
            };
        }
        self.with_class(template, |cluster, class| class.preempt(cluster, key, nominated, seed))
    }
}

impl Class {
    fn preempt(&mut self, cluster: &Cluster, key: &str, nominated: Option<&str>, seed: u64) -> Preemption {
        if let Some(node) = nominated.and_then(|name| cluster.find(name))
            && self.check(cluster, node, &[], Some(key)).is_none_or(|r| r.resolvable)
            && self
                .lower(cluster, node)
                .any(|p| cluster.pods[p as usize].as_ref().is_some_and(|p| p.facts.preempted))
        {
            return Preemption::Nothing {
                why: "not eligible due to a terminating pod on the nominated node.".to_owned(),
                give_up_nomination: false,
            };
        }
        let mut reasons: BTreeMap<Reason, usize> = BTreeMap::new();
        let mut asked = 0;
        let mut best: Option<(Cost, NodeIndex, Arc<Candidate>)> = None;
        if self.before_nodes().is_none() && cluster.node_count() > 0 {
            let slots = cluster.nodes.len();
            let offset = (mix(seed) % slots as u64) as usize;
            let enough = (self.resolvable_nodes(cluster) * CANDIDATE_PERCENT / 100).max(CANDIDATES);
            let (mut found, mut without_violation) = (0, 0);
            // What domains say about a node changes with other nodes; also when it was the last pod there that said it.
            let can_reject = self.domains.as_ref().is_some_and(crate::domains::Domains::can_reject);
            if can_reject || self.candidates.depends_on_others {
                self.candidates.clear();
            }
            self.candidates.depends_on_others = can_reject;
            // Room kept for this very pod does not count for it, but does for others of its kind.
            let own = cluster.nominated_slot(key);
            own.iter().for_each(|node| self.candidates.forget(*node));
            for node in (0..slots).map(|i| ((offset + i) % slots) as NodeIndex) {
                if !self.is_resolvable(cluster, node) {
                    continue;
                }
                if !self.candidates.known.contains_key(&node) {
                    let outcome = self.victims(cluster, key, node);
                    self.candidates.known.insert(node, outcome);
                }
                match self.candidates.known.get(&node) {
                    Some(Outcome::Helps(candidate)) => {
                        found += 1;
                        without_violation += usize::from(candidate.cost.violations == 0);
                        if best.as_ref().is_none_or(|(cost, ..)| candidate.cost < *cost) {
                            best = Some((candidate.cost, node, candidate.clone()));
                        }
                        if without_violation > 0 && found >= enough {
                            break;
                        }
                    }
                    Some(Outcome::Not(why)) => {
                        asked += 1;
                        // Only told when nothing helps.
                        if best.is_none() {
                            why.iter().for_each(|reason| *reasons.entry(reason.clone()).or_default() += 1);
                        }
                    }
                    None => {}
                }
            }
            own.iter().for_each(|node| self.candidates.forget(*node));
        }
        if let Some((_, node, candidate)) = best {
            let keys = candidate.victims.iter().filter_map(|p| cluster.pods[*p as usize].as_ref());
            return Preemption::Victims {
                node: cluster.node(node).name.to_string(),
                victims: keys.map(|p| p.key.to_string()).collect(),
            };
        }
        let rest = cluster.node_count() - asked;
        if rest > 0 {
            *reasons.entry(NOT_HELPFUL.into()).or_default() += rest;
        }
        Preemption::Nothing { why: no_candidates(cluster.node_count(), &reasons), give_up_nomination: true }
    }

    /// Pods on a node that the pending one may push out.
    fn lower<'a>(&self, cluster: &'a Cluster, node: NodeIndex) -> impl Iterator<Item = PodIndex> + use<'a> {
        let priority = self.template.priority;
        let pods = cluster.node(node).pods.iter().copied();
        pods.filter(move |p| cluster.template_of(*p).is_some_and(|t| t.priority < priority))
    }

    /// The fewest and least important pods without which the pending one fits.
    fn victims(&self, cluster: &Cluster, key: &str, node: NodeIndex) -> Outcome {
        // Important ones first; of equals those that have run longer; then by name, to be reproducible.
        let importance = |pod: &PodIndex| {
            let priority = cluster.template_of(*pod).map_or(0, |t| t.priority);
            let name = cluster.pods[*pod as usize].as_ref().map(|p| &p.key);
            (Reverse(priority), started(cluster, *pod), name)
        };
        let mut potential: Vec<PodIndex> = self.lower(cluster, node).collect();
        if potential.is_empty() {
            return Outcome::Not(vec![NO_VICTIMS.into()]);
        }
        potential.sort_by(|a, b| importance(a).cmp(&importance(b)));
        let mut gone = potential.clone();
        if let Some(rejection) = self.check(cluster, node, &gone, Some(key)) {
            return Outcome::Not(rejection.reasons.to_vec());
        }
        let (violating, others) = by_budget(cluster, potential);
        let mut violations = 0;
        for (pod, violates) in
            violating.into_iter().map(|p| (p, true)).chain(others.into_iter().map(|p| (p, false)))
        {
            let Some(at) = gone.iter().position(|p| *p == pod) else { continue };
            gone.remove(at);
            if self.check(cluster, node, &gone, Some(key)).is_some() {
                gone.insert(at, pod);
                violations += usize::from(violates);
            }
        }
        let Some(first) = gone.first() else {
            // It fits with all of them in place: then the node was not rejected for want of room.
            return Outcome::Not(vec![NO_VICTIMS.into()]);
        };
        let priority = |p: &PodIndex| cluster.template_of(*p).map_or(0, |t| t.priority);
        let highest = priority(first);
        let earliest = gone.iter().filter(|p| priority(p) == highest).map(|p| started(cluster, *p)).min();
        let cost = Cost {
            violations,
            highest_priority: highest,
            // All are made positive, so that few pods of negative priority are not worse than many.
            sum_of_priorities: gone.iter().map(|p| i64::from(priority(p)) + i64::from(i32::MAX) + 1).sum(),
            pods: gone.len(),
            earliest_start: Reverse(earliest.unwrap_or(i64::MAX)),
        };
        Outcome::Helps(Arc::new(Candidate { victims: gone, cost }))
    }
}

/// When a pod started; one that has not is the latest.
fn started(cluster: &Cluster, pod: PodIndex) -> i64 {
    cluster.pods[pod as usize].as_ref().and_then(|p| p.facts.started).unwrap_or(i64::MAX)
}

/// Parts pods into those whose removal would break a disruption budget, and others. Keeps the order.
fn by_budget(cluster: &Cluster, pods: Vec<PodIndex>) -> (Vec<PodIndex>, Vec<PodIndex>) {
    let budgets: Vec<_> = cluster.budgets().collect();
    let mut allowed: Vec<i32> = budgets.iter().map(|b| b.allowed).collect();
    pods.into_iter().partition(|index| {
        let (Some(pod), Some(template)) =
            (cluster.pods[*index as usize].as_ref(), cluster.template_of(*index))
        else {
            return false;
        };
        let name = pod.key.split_once('/').map_or("", |(_, name)| name);
        let mut violates = false;
        for (budget, allowed) in budgets.iter().zip(&mut allowed) {
            let counts = budget.namespace == template.namespace
                && !template.labels.is_empty()
                && !budget.selector.is_everything()
                && budget.selector.matches(|key| template.labels.get(key))
                && budget.already.get(name).is_none();
            if counts {
                *allowed -= 1;
                violates |= *allowed < 0;
            }
        }
        violates
    })
}
