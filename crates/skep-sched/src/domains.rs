//! What is counted per domain of a topology: pods to spread from, to be near to, to be away from.
//!
//! Counted once when an evaluation is made, and kept by the journal's changes from then on. Whether a pod on a
//! node counts for a pending one is asked once per pair of templates.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use skep_base::LabelSelector;
use smallvec::SmallVec;

use crate::cluster::{Cluster, NodeIndex, TemplateId};
use crate::diagnosis::{Plugin, Rejection};
use crate::template::{HOSTNAME, PodTerm, Spread, Template};
use crate::topology::NO_DOMAIN;

/// What a required affinity of a pod on a node is worth to those it wants near.
const REQUIRED_AFFINITY_WEIGHT: i64 = 1;

/// What concerns pod affinity in one domain.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Domain {
    /// Pods that match all that the pending pod must be near to.
    near: i64,
    /// Pods that the pending pod must be away from.
    away: i64,
    /// Pods that must be away from the pending pod.
    repelled: i64,
    /// Sum of weights of preferences, both ways.
    score: i64,
}

/// One topology that the pending pod has to do with.
#[derive(Debug)]
pub(crate) struct Axis {
    pub topology: usize,
    /// Nodes are told apart by what is counted, not by which domain they are in.
    pub fine: bool,
    domains: Vec<Domain>,
}

/// A constraint that must hold.
#[derive(Debug)]
struct Hard {
    axis: usize,
    spread: Spread,
    self_match: i64,
    eligible: Vec<bool>,
    /// Pods per domain, on eligible nodes.
    counts: Vec<i64>,
    /// Whether a domain has eligible nodes.
    tracked: Vec<bool>,
    /// How many tracked domains have how many pods.
    histogram: BTreeMap<i64, usize>,
    domains: usize,
}

impl Hard {
    fn add(&mut self, domain: u32, pods: i64) {
        let count = &mut self.counts[domain as usize];
        if self.tracked[domain as usize] {
            if let Some(n) = self.histogram.get_mut(count) {
                *n -= 1;
                if *n == 0 {
                    self.histogram.remove(count);
                }
            }
            *self.histogram.entry(*count + pods).or_default() += 1;
        }
        *count += pods;
    }

    /// The least count of all domains, if one of them had `change` more.
    fn least(&self, domain: u32, change: i64) -> i64 {
        if self.domains < self.spread.min_domains {
            return 0;
        }
        let least = self.histogram.first_key_value().map_or(0, |(count, _)| *count);
        if change == 0 || !self.tracked[domain as usize] {
            return least;
        }
        let own = self.counts[domain as usize];
        // Without the domain's own count: the next one, if it is alone with the least.
        let alone = own == least && self.histogram.get(&own) == Some(&1);
        let others = if alone { self.histogram.keys().nth(1).copied() } else { Some(least) };
        others.map_or(own + change, |others| others.min(own + change))
    }
}

/// A constraint that is better kept.
#[derive(Debug)]
struct Soft {
    /// `None` for the host name, which counts by node.
    axis: Option<usize>,
    spread: Spread,
    eligible: Vec<bool>,
    /// Per domain, or per node.
    counts: Vec<i64>,
}

/// What one pod of a template on a node adds to counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Contribution {
    hard: SmallVec<[u8; 2]>,
    soft: SmallVec<[u8; 2]>,
    near: bool,
    away: SmallVec<[u8; 2]>,
    repelled: SmallVec<[u8; 2]>,
    score: SmallVec<[(u8, i64); 2]>,
}

impl Contribution {
    fn is_nothing(&self) -> bool {
        !self.near
            && self.hard.is_empty()
            && self.soft.is_empty()
            && self.away.is_empty()
            && self.repelled.is_empty()
            && self.score.is_empty()
    }
}

/// Changes to counts that are only supposed, all in the domains of one node.
#[derive(Default)]
pub(crate) struct Delta {
    hard: SmallVec<[i64; 4]>,
    domains: SmallVec<[Domain; 4]>,
    near_total: i64,
}

/// All that is counted for one pending template.
#[derive(Debug)]
pub(crate) struct Domains {
    axes: Vec<Axis>,
    hard: Vec<Hard>,
    soft: Vec<Soft>,
    /// A node must have the labels of all soft constraints to be scored by them.
    require_all: bool,
    affinity_axes: Vec<u8>,
    anti_axes: Vec<u8>,
    matches_itself: bool,
    near_total: i64,
    repelled_total: i64,
    memo: FxHashMap<TemplateId, Option<Arc<Contribution>>>,
    pub looks_at_namespaces: bool,
    /// Whether pods without terms of their own can count.
    pub counts_plain_pods: bool,
}

/// Numbers of axes and constraints fit a byte; what is beyond is left out. The API server lets through at most a
/// few dozen in an object of its largest size that makes sense; 255 different topology keys are no use to anybody.
const MOST: usize = 255;

impl Domains {
    /// Counts for a template; `None` when there is nothing to count. Without constraints of its own it is spread
    /// over the pods that `by_default` selects.
    pub(crate) fn build(
        cluster: &mut Cluster,
        template: &Arc<Template>,
        by_default: Option<&LabelSelector>,
    ) -> Option<Domains> {
        let spread: Vec<Spread> = match by_default {
            Some(selector) if selector.is_everything() => Vec::new(),
            Some(selector) => Spread::defaults(selector).into(),
            None => template.spread.to_vec(),
        };
        let require_all = !template.spread.is_empty();
        let mut domains = Domains {
            axes: Vec::new(),
            hard: Vec::new(),
            soft: Vec::new(),
            require_all,
            affinity_axes: Vec::new(),
            anti_axes: Vec::new(),
            matches_itself: false,
            near_total: 0,
            repelled_total: 0,
            memo: FxHashMap::default(),
            looks_at_namespaces: false,
            counts_plain_pods: !spread.is_empty()
                || !template.affinity.is_empty()
                || !template.anti_affinity.is_empty()
                || !template.preferred.is_empty(),
        };
        for constraint in spread.into_iter().take(MOST) {
            domains.add_constraint(cluster, template, constraint);
        }
        let axes_of = |domains: &mut Domains, cluster: &mut Cluster, terms: &[PodTerm]| -> Vec<u8> {
            terms.iter().filter_map(|t| domains.axis(cluster, &t.topology_key)).collect()
        };
        domains.affinity_axes = axes_of(&mut domains, cluster, &template.affinity);
        domains.anti_axes = axes_of(&mut domains, cluster, &template.anti_affinity);
        domains.matches_itself = matches_all(cluster, &template.affinity, template);
        for (_, term) in &template.preferred {
            domains.axis(cluster, &term.topology_key);
        }
        domains.looks_at_namespaces = template.pod_terms().any(PodTerm::looks_at_namespaces);
        let candidates: Vec<TemplateId> = if domains.counts_plain_pods {
            cluster.templates.iter().filter(|(_, e)| !e.on.is_empty()).map(|(id, _)| *id).collect()
        } else {
            cluster.with_terms.iter().copied().collect()
        };
        // Terms of pods on nodes, or of those for which room is kept, may name topologies that the pending pod
        // does not.
        let nominated: Vec<TemplateId> = cluster.nominations.values().flatten().map(|n| n.id).collect();
        for id in candidates.iter().chain(&nominated) {
            let Some(entry) = cluster.templates.get(id) else { continue };
            if entry.template.has_pod_terms() {
                let other = entry.template.clone();
                for term in other.pod_terms() {
                    domains.looks_at_namespaces |= term.looks_at_namespaces();
                    if means(cluster, term, template) {
                        domains.axis(cluster, &term.topology_key);
                    }
                }
            }
        }
        if domains.axes.is_empty() && domains.soft.is_empty() && !domains.looks_at_namespaces {
            return None;
        }
        domains.size(cluster);
        for id in candidates {
            let Some(contribution) = domains.contribution(cluster, template, id).flatten() else { continue };
            let Some(entry) = cluster.templates.get(&id) else { continue };
            for (node, count) in &entry.on {
                if cluster.nodes[*node as usize].known {
                    domains.apply(
                        cluster,
                        *node,
                        &contribution,
                        i64::from(count.all),
                        i64::from(count.active),
                        |_| {},
                    );
                }
            }
        }
        Some(domains)
    }

    fn axis(&mut self, cluster: &mut Cluster, key: &str) -> Option<u8> {
        let topology = cluster.topology(key);
        if let Some(found) = self.axes.iter().position(|a| a.topology == topology) {
            return Some(found as u8);
        }
        if self.axes.len() >= MOST {
            return None;
        }
        let fine = cluster.topologies.get(topology).is_fine();
        self.axes.push(Axis { topology, fine, domains: Vec::new() });
        Some((self.axes.len() - 1) as u8)
    }

    fn add_constraint(&mut self, cluster: &mut Cluster, template: &Template, spread: Spread) {
        if spread.hard {
            let Some(axis) = self.axis(cluster, &spread.topology_key) else { return };
            let self_match = i64::from(spread.matches_self(&template.labels));
            self.hard.push(Hard {
                axis: axis as usize,
                spread,
                self_match,
                eligible: Vec::new(),
                counts: Vec::new(),
                tracked: Vec::new(),
                histogram: BTreeMap::new(),
                domains: 0,
            });
            self.eligibility(cluster, template, true);
        } else {
            let axis = if &*spread.topology_key == HOSTNAME {
                None
            } else {
                let Some(axis) = self.axis(cluster, &spread.topology_key) else { return };
                // Its score depends on how many domains there are to go to, so domains must stay apart.
                self.axes[axis as usize].fine = false;
                Some(axis as usize)
            };
            self.soft.push(Soft { axis, spread, eligible: Vec::new(), counts: Vec::new() });
            self.eligibility(cluster, template, false);
        }
    }

    /// On which nodes the pods count for the constraint added last.
    fn eligibility(&mut self, cluster: &Cluster, template: &Template, hard: bool) {
        let spread =
            if hard { self.hard.last().map(|h| &h.spread) } else { self.soft.last().map(|s| &s.spread) };
        let Some(spread) = spread else { return };
        let mut eligible = vec![false; cluster.nodes.len()];
        for (index, node) in cluster.known() {
            eligible[index as usize] = (!spread.honor_affinity
                || template.selects_node(&node.name, &node.labels))
                && (!spread.honor_taints || template.tolerates_all(&node.taints));
        }
        if hard {
            if let Some(last) = self.hard.last_mut() {
                last.eligible = eligible;
            }
        } else if let Some(last) = self.soft.last_mut() {
            last.eligible = eligible;
        }
    }

    /// Makes the tables as long as needed, and leaves out nodes that lack a label.
    fn size(&mut self, cluster: &Cluster) {
        for axis in &mut self.axes {
            axis.domains = vec![Domain::default(); cluster.topologies.get(axis.topology).size()];
        }
        let missing = |axes: &[Axis], keys: &[usize], node: NodeIndex| {
            keys.iter().any(|a| cluster.topologies.get(axes[*a].topology).domain(node) == NO_DOMAIN)
        };
        let hard_axes: Vec<usize> = self.hard.iter().map(|h| h.axis).collect();
        for hard in &mut self.hard {
            let topology = cluster.topologies.get(self.axes[hard.axis].topology);
            hard.counts = vec![0; topology.size()];
            hard.tracked = vec![false; topology.size()];
            for (node, _) in cluster.known() {
                let eligible = hard.eligible[node as usize] && !missing(&self.axes, &hard_axes, node);
                hard.eligible[node as usize] = eligible;
                if eligible {
                    let tracked = &mut hard.tracked[topology.domain(node) as usize];
                    hard.domains += usize::from(!*tracked);
                    *tracked = true;
                }
            }
            if hard.domains > 0 {
                hard.histogram.insert(0, hard.domains);
            }
        }
        let ignored: Vec<bool> =
            (0..cluster.nodes.len() as NodeIndex).map(|n| self.ignores(cluster, n)).collect();
        for soft in &mut self.soft {
            soft.counts = match soft.axis {
                Some(axis) => vec![0; cluster.topologies.get(self.axes[axis].topology).size()],
                None => vec![0; cluster.nodes.len()],
            };
            for (eligible, ignored) in soft.eligible.iter_mut().zip(&ignored) {
                *eligible &= !ignored;
            }
        }
    }

    /// Whether soft constraints leave a node out because it lacks a label.
    pub(crate) fn ignores(&self, cluster: &Cluster, node: NodeIndex) -> bool {
        self.require_all
            && self.soft.iter().any(|s| match s.axis {
                Some(axis) => cluster.topologies.get(self.axes[axis].topology).domain(node) == NO_DOMAIN,
                None => cluster.nodes[node as usize].labels.get(HOSTNAME).is_none(),
            })
    }

    /// What a pod of another template adds. `None` when that template names a topology not counted yet, so that
    /// everything has to be counted anew.
    pub(crate) fn contribution(
        &mut self,
        cluster: &Cluster,
        template: &Template,
        id: TemplateId,
    ) -> Option<Option<Arc<Contribution>>> {
        if let Some(known) = self.memo.get(&id) {
            return Some(known.clone());
        }
        let Some(entry) = cluster.templates.get(&id) else { return Some(None) };
        // What is remembered here is no longer true when labels of namespaces change.
        let mut terms = entry.template.pod_terms();
        self.looks_at_namespaces |= terms.any(PodTerm::looks_at_namespaces);
        let found = self.compare(cluster, template, &entry.template)?;
        let found = (!found.is_nothing()).then(|| Arc::new(found));
        self.memo.insert(id, found.clone());
        Some(found)
    }

    /// The same without remembering the answer.
    pub(crate) fn known_contribution(
        &self,
        cluster: &Cluster,
        template: &Template,
        id: TemplateId,
    ) -> Option<Arc<Contribution>> {
        if let Some(known) = self.memo.get(&id) {
            return known.clone();
        }
        let found = self.compare(cluster, template, &cluster.templates.get(&id)?.template)?;
        (!found.is_nothing()).then(|| Arc::new(found))
    }

    fn compare(&self, cluster: &Cluster, pending: &Template, other: &Template) -> Option<Contribution> {
        let mut found = Contribution::default();
        if other.namespace == pending.namespace {
            for (i, hard) in self.hard.iter().enumerate() {
                if hard.spread.counts(&other.labels) {
                    found.hard.push(i as u8);
                }
            }
            for (i, soft) in self.soft.iter().enumerate() {
                if soft.spread.counts(&other.labels) {
                    found.soft.push(i as u8);
                }
            }
        }
        found.near = matches_all(cluster, &pending.affinity, other);
        for (term, axis) in pending.anti_affinity.iter().zip(&self.anti_axes) {
            if means(cluster, term, other) {
                found.away.push(*axis);
            }
        }
        let axis = |term: &PodTerm| {
            let topology = cluster.topologies.find(&term.topology_key)?;
            Some(self.axes.iter().position(|a| a.topology == topology)? as u8)
        };
        for (weight, term) in &pending.preferred {
            if means(cluster, term, other) {
                found.score.push((axis(term)?, i64::from(*weight)));
            }
        }
        for term in &other.anti_affinity {
            if means(cluster, term, pending) {
                found.repelled.push(axis(term)?);
            }
        }
        for term in &other.affinity {
            if means(cluster, term, pending) {
                found.score.push((axis(term)?, REQUIRED_AFFINITY_WEIGHT));
            }
        }
        for (weight, term) in &other.preferred {
            if means(cluster, term, pending) {
                found.score.push((axis(term)?, i64::from(*weight)));
            }
        }
        Some(found)
    }

    /// Counts pods that came to (or left) a node. `dirty` hears of nodes that are told apart by what changed.
    pub(crate) fn apply(
        &mut self,
        cluster: &Cluster,
        node: NodeIndex,
        what: &Contribution,
        all: i64,
        active: i64,
        mut dirty: impl FnMut(NodeIndex),
    ) {
        let mut changed: SmallVec<[usize; 4]> = SmallVec::new();
        if active != 0 {
            for i in &what.hard {
                let hard = &mut self.hard[*i as usize];
                if hard.eligible.get(node as usize) == Some(&true) {
                    let topology = cluster.topologies.get(self.axes[hard.axis].topology);
                    hard.add(topology.domain(node), active);
                    changed.push(hard.axis);
                }
            }
            for i in &what.soft {
                let soft = &mut self.soft[*i as usize];
                match soft.axis {
                    None => soft.counts[node as usize] += active,
                    Some(axis) => {
                        let domain = cluster.topologies.get(self.axes[axis].topology).domain(node);
                        if domain != NO_DOMAIN && soft.eligible[node as usize] {
                            soft.counts[domain as usize] += active;
                        }
                    }
                }
            }
        }
        if all != 0 {
            let near: &[u8] = if what.near { &self.affinity_axes } else { &[] };
            let parts = near.iter().map(|a| (*a, Part::Near, 1));
            let parts = parts.chain(what.away.iter().map(|a| (*a, Part::Away, 1)));
            let parts = parts.chain(what.repelled.iter().map(|a| (*a, Part::Repelled, 1)));
            let parts = parts.chain(what.score.iter().map(|(a, weight)| (*a, Part::Score, *weight)));
            for (at, part, weight) in parts {
                let axis = &mut self.axes[at as usize];
                let domain = cluster.topologies.get(axis.topology).domain(node);
                if domain == NO_DOMAIN {
                    continue;
                }
                let counts = &mut axis.domains[domain as usize];
                match part {
                    Part::Near => {
                        counts.near += all;
                        self.near_total += all;
                    }
                    Part::Away => counts.away += all,
                    Part::Repelled => {
                        counts.repelled += all;
                        self.repelled_total += all;
                    }
                    Part::Score => counts.score += weight * all,
                }
                changed.push(at as usize);
            }
        }
        changed.sort_unstable();
        changed.dedup();
        for axis in changed {
            let axis = &self.axes[axis];
            if axis.fine {
                let topology = cluster.topologies.get(axis.topology);
                topology.nodes_in[topology.domain(node) as usize].iter().for_each(|n| dirty(*n));
            }
        }
    }

    /// What supposed pods on a node would change.
    pub(crate) fn delta(&self, contributions: &[(Arc<Contribution>, i64, bool)]) -> Delta {
        let mut delta = Delta::default();
        delta.hard.resize(self.hard.len(), 0);
        delta.domains.resize(self.axes.len(), Domain::default());
        for (what, pods, active) in contributions {
            if *active {
                what.hard.iter().for_each(|i| delta.hard[*i as usize] += pods);
            }
            if what.near {
                for axis in &self.affinity_axes {
                    delta.domains[*axis as usize].near += pods;
                    delta.near_total += pods;
                }
            }
            what.away.iter().for_each(|a| delta.domains[*a as usize].away += pods);
            what.repelled.iter().for_each(|a| delta.domains[*a as usize].repelled += pods);
        }
        delta
    }

    /// Whether spreading and pod affinity let the pod onto a node.
    pub(crate) fn reject(
        &self,
        cluster: &Cluster,
        node: NodeIndex,
        delta: Option<&Delta>,
    ) -> Option<Refusal> {
        for (i, hard) in self.hard.iter().enumerate() {
            let domain = cluster.topologies.get(self.axes[hard.axis].topology).domain(node);
            if domain == NO_DOMAIN {
                return Some(Refusal::NoLabel);
            }
            // Only pods on nodes that count change the count.
            let counted = hard.eligible[node as usize];
            let change = delta.map_or(0, |d| if counted { d.hard[i] } else { 0 });
            let count = hard.counts[domain as usize] + change;
            if count + hard.self_match - hard.least(domain, change) > hard.spread.max_skew {
                return Some(Refusal::Skew);
            }
        }
        let here = |axis: usize| {
            let axis_of = &self.axes[axis];
            let domain = cluster.topologies.get(axis_of.topology).domain(node);
            (domain != NO_DOMAIN).then(|| {
                let mut counts = axis_of.domains[domain as usize];
                if let Some(delta) = delta {
                    let change = &delta.domains[axis];
                    counts.near += change.near;
                    counts.away += change.away;
                    counts.repelled += change.repelled;
                }
                counts
            })
        };
        let mut near = true;
        for axis in &self.affinity_axes {
            match here(*axis as usize) {
                None => return Some(Refusal::Affinity),
                Some(counts) => near &= counts.near > 0,
            }
        }
        if !near {
            let total = self.near_total + delta.map_or(0, |d| d.near_total);
            // The first of pods that want to be near each other.
            if !(total == 0 && self.matches_itself) {
                return Some(Refusal::Affinity);
            }
        }
        if self.anti_axes.iter().any(|a| here(*a as usize).is_some_and(|c| c.away > 0)) {
            return Some(Refusal::AntiAffinity);
        }
        if self.repelled_total != 0 || delta.is_some() {
            let repelled = |axis: usize| here(axis).is_some_and(|c| c.repelled > 0);
            if (0..self.axes.len()).any(repelled) {
                return Some(Refusal::ExistingAntiAffinity);
            }
        }
        None
    }

    /// Whether anything here can reject a node.
    pub(crate) fn can_reject(&self) -> bool {
        !self.hard.is_empty()
            || !self.affinity_axes.is_empty()
            || !self.anti_axes.is_empty()
            || self.repelled_total != 0
    }

    /// The sum of weights that speak for a node.
    pub(crate) fn affinity_score(&self, cluster: &Cluster, node: NodeIndex) -> i64 {
        let of = |axis: &Axis| {
            let domain = cluster.topologies.get(axis.topology).domain(node);
            if domain == NO_DOMAIN { 0 } else { axis.domains[domain as usize].score }
        };
        self.axes.iter().map(of).sum()
    }

    /// Whether nodes are scored by spreading.
    pub(crate) fn scores_spread(&self) -> bool {
        !self.soft.is_empty()
    }

    /// How much each soft constraint weighs, from the nodes that can be had: `(node, how many like it)`.
    pub(crate) fn spread_weights(
        &self,
        cluster: &Cluster,
        feasible: &[(NodeIndex, usize)],
        scratch: &mut Vec<u32>,
    ) -> SmallVec<[f64; 2]> {
        let weight = |soft: &Soft| {
            let size = match soft.axis {
                None => feasible.iter().map(|(_, nodes)| nodes).sum(),
                Some(axis) => {
                    let topology = cluster.topologies.get(self.axes[axis].topology);
                    scratch.clear();
                    scratch.extend(feasible.iter().map(|(node, _)| topology.domain(*node)));
                    scratch.sort_unstable();
                    scratch.dedup();
                    scratch.len()
                }
            };
            ((size + 2) as f64).ln()
        };
        self.soft.iter().map(weight).collect()
    }

    /// How crowded a node's domains are.
    pub(crate) fn spread_score(&self, cluster: &Cluster, node: NodeIndex, weights: &[f64]) -> i64 {
        let mut score = 0.0;
        for (soft, weight) in self.soft.iter().zip(weights) {
            let count = match soft.axis {
                None if cluster.nodes[node as usize].labels.get(HOSTNAME).is_none() => continue,
                None => soft.counts[node as usize],
                Some(axis) => match cluster.topologies.get(self.axes[axis].topology).domain(node) {
                    NO_DOMAIN => continue,
                    domain => soft.counts[domain as usize],
                },
            };
            score += count as f64 * weight + (soft.spread.max_skew - 1) as f64;
        }
        score.round() as i64
    }

    /// What tells nodes apart here, appended to a key: nodes with equal keys are evaluated once.
    pub(crate) fn key(&self, cluster: &Cluster, node: NodeIndex, key: &mut SmallVec<[i64; 8]>) {
        for soft in self.soft.iter().filter(|s| s.axis.is_none()) {
            let labelled = cluster.nodes[node as usize].labels.get(HOSTNAME).is_some();
            key.push(if labelled { soft.counts[node as usize] } else { -1 });
        }
        key.push(i64::from(self.ignores(cluster, node)));
        for (i, axis) in self.axes.iter().enumerate() {
            let domain = cluster.topologies.get(axis.topology).domain(node);
            if !axis.fine || domain == NO_DOMAIN {
                key.push(i64::from(domain));
                continue;
            }
            let counts = &axis.domains[domain as usize];
            let bits = i64::from(counts.near > 0)
                | i64::from(counts.away > 0) << 1
                | i64::from(counts.repelled > 0) << 2;
            key.push(bits);
            key.push(counts.score);
            for hard in self.hard.iter().filter(|h| h.axis == i) {
                key.push(hard.counts[domain as usize]);
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Part {
    Near,
    Away,
    Repelled,
    Score,
}

/// Whether a pod of `other` on a node may matter to `pending`, which has no terms and constraints itself.
pub(crate) fn concerns(cluster: &Cluster, pending: &Template, other: &Template) -> bool {
    other.pod_terms().any(|t| t.looks_at_namespaces() || means(cluster, t, pending))
}

fn means(cluster: &Cluster, term: &PodTerm, pod: &Template) -> bool {
    term.matches(&pod.namespace, &pod.labels, |namespace| cluster.namespaces.get(namespace))
}

fn matches_all(cluster: &Cluster, terms: &[PodTerm], pod: &Template) -> bool {
    !terms.is_empty() && terms.iter().all(|t| means(cluster, t, pod))
}

/// Why spreading or pod affinity rejects a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    NoLabel,
    Skew,
    Affinity,
    AntiAffinity,
    ExistingAntiAffinity,
}

impl Refusal {
    pub(crate) fn rejection(self) -> Rejection {
        let spread = Plugin::PodTopologySpread;
        let pods = Plugin::InterPodAffinity;
        match self {
            Refusal::NoLabel => Rejection::lasting(
                spread,
                "node(s) didn't match pod topology spread constraints (missing required label)",
            ),
            Refusal::Skew => {
                Rejection::resolvable(spread, "node(s) didn't match pod topology spread constraints")
            }
            Refusal::Affinity => Rejection::lasting(pods, "node(s) didn't match pod affinity rules"),
            Refusal::AntiAffinity => {
                Rejection::resolvable(pods, "node(s) didn't match pod anti-affinity rules")
            }
            Refusal::ExistingAntiAffinity => {
                Rejection::resolvable(pods, "node(s) didn't satisfy existing pods anti-affinity rules")
            }
        }
    }
}
