//! The evaluation of all nodes for one template, kept up to date.
//!
//! Nodes that can take the pod and that no rule tells apart share a bucket; a decision looks at buckets, of which
//! there are few, and not at nodes. After a placement one node moves to another bucket.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use skep_base::LabelSelector;
use smallvec::SmallVec;

use crate::check::{self, MAX_SCORE, Supposed};
use crate::cluster::{Change, Cluster, Node, NodeIndex, PodIndex, TemplateId, Versions};
use crate::diagnosis::{Diagnosis, Plugin, Rejection};
use crate::domains::{Contribution, Delta, Domains, concerns};
use crate::preempt::Candidates;
use crate::template::Template;
use crate::volume::VolumePlan;
use crate::weights::Scorer;

/// In no bucket.
const NO_BUCKET: u32 = u32::MAX;
/// A verdict: the node can take the pod, as far as it alone decides.
const FITS: u16 = 0;
/// A verdict: the pod names other nodes.
const NOT_ASKED: u16 = 1;
/// A verdict: there is no such node.
const UNKNOWN: u16 = 2;

/// How one node stands.
#[derive(Clone, Copy, Debug)]
struct Standing {
    /// What depends on the node alone.
    fixed: u16,
    /// That, and what depends on its pods.
    verdict: u16,
    taints: u16,
    images: u8,
    preferred: i32,
    bucket: u32,
    /// The place in the bucket.
    at: u32,
}

const NOWHERE: Standing = Standing {
    fixed: UNKNOWN,
    verdict: UNKNOWN,
    taints: 0,
    images: 0,
    preferred: 0,
    bucket: NO_BUCKET,
    at: 0,
};

type Key = SmallVec<[i64; 8]>;

#[derive(Debug, Default)]
struct Bucket {
    key: Key,
    nodes: Vec<NodeIndex>,
}

/// Parts of a bucket's key that every bucket has.
mod part {
    pub(super) const BASE: usize = 0;
    pub(super) const TAINTS: usize = 1;
    pub(super) const PREFERRED: usize = 2;
    /// The node itself, plus one, when pods for which room is kept there count in its domains.
    pub(super) const APART: usize = 3;
}

/// Where a pod goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub node: NodeIndex,
    /// The best score; 0 when there was only one node to choose from.
    pub score: i64,
    pub feasible: usize,
}

/// An evaluation.
#[derive(Debug)]
pub(crate) struct Class {
    pub template: Arc<Template>,
    /// When it was last asked for.
    pub used: u64,
    seen: u64,
    versions: Versions,
    default_selector: Option<LabelSelector>,
    has_images: bool,
    /// The only nodes that come into question.
    scope: Option<Vec<NodeIndex>>,
    standings: Vec<Standing>,
    rejections: Vec<Rejection>,
    rejection_ids: FxHashMap<Rejection, u16>,
    /// How many nodes have each verdict.
    tally: Vec<usize>,
    buckets: Vec<Bucket>,
    bucket_ids: FxHashMap<Key, u32>,
    empty_buckets: Vec<u32>,
    pub(crate) domains: Option<Domains>,
    harmless: FxHashSet<TemplateId>,
    /// What volumes need, or why they can't be had on any node.
    volumes: Option<Result<VolumePlan, (Plugin, String)>>,
    pub(crate) candidates: Candidates,
    dirty: FxHashSet<NodeIndex>,
    rows: Vec<Row>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Row {
    bucket: u32,
    ignored: bool,
    spread: i64,
    affinity: i64,
    total: i64,
}

impl Class {
    /// Evaluates all nodes.
    pub(crate) fn build(cluster: &mut Cluster, template: Arc<Template>) -> Class {
        let default_selector = template.spread.is_empty().then(|| cluster.default_selector(&template));
        let domains = Domains::build(cluster, &template, default_selector.as_ref());
        let scope = template
            .pinned
            .as_ref()
            .map(|names| names.iter().filter_map(|name| cluster.find(name)).collect::<Vec<_>>());
        let volumes = VolumePlan::of(cluster, &template);
        let reserved =
            Rejection::lasting(Plugin::NodeAffinity, "node(s) didn't satisfy plugin(s) [NodeAffinity]");
        let mut class = Class {
            used: 0,
            seen: cluster.now(),
            versions: cluster.versions,
            has_images: template.images.iter().any(|i| cluster.images.contains_key(i)),
            default_selector,
            scope,
            standings: vec![NOWHERE; cluster.nodes.len()],
            // One for each of the verdicts above.
            rejections: vec![reserved.clone(), reserved.clone(), reserved],
            rejection_ids: FxHashMap::default(),
            tally: vec![0, 0, cluster.nodes.len()],
            buckets: Vec::new(),
            bucket_ids: FxHashMap::default(),
            empty_buckets: Vec::new(),
            domains,
            harmless: FxHashSet::default(),
            volumes,
            candidates: Candidates::default(),
            dirty: FxHashSet::default(),
            rows: Vec::new(),
            template,
        };
        for index in 0..cluster.nodes.len() as NodeIndex {
            class.look_at(cluster, index);
            class.refresh(cluster, index);
        }
        class
    }

    /// Catches up with the journal. `None` when it has to be made anew.
    pub(crate) fn follow(&mut self, cluster: &Cluster) -> Option<()> {
        let (old, new) = (self.versions, cluster.versions);
        if old != new {
            if old.shape != new.shape && (self.domains.is_some() || self.scope.is_some()) {
                return None;
            }
            let has_images = || self.template.images.iter().any(|i| cluster.images.contains_key(i));
            if old.images != new.images && (self.has_images || has_images()) {
                return None;
            }
            if old.namespaces != new.namespaces
                && self.domains.as_ref().is_some_and(|d| d.looks_at_namespaces)
            {
                return None;
            }
            if old.storage != new.storage && self.volumes.is_some() {
                return None;
            }
            if old.selectors != new.selectors
                && self
                    .default_selector
                    .as_ref()
                    .is_some_and(|s| *s != cluster.default_selector(&self.template))
            {
                return None;
            }
            if old.budgets != new.budgets {
                self.candidates.clear();
            }
            self.versions = new;
        }
        let changes = cluster.changes(self.seen)?;
        let mut dirty = std::mem::take(&mut self.dirty);
        let template = self.template.clone();
        if self.standings.len() < cluster.nodes.len() {
            if self.domains.is_some() {
                return None;
            }
            self.tally[UNKNOWN as usize] += cluster.nodes.len() - self.standings.len();
            self.standings.resize(cluster.nodes.len(), NOWHERE);
        }
        for change in changes {
            match change {
                Change::Node { node } => {
                    self.look_at(cluster, node);
                    dirty.insert(node);
                }
                Change::Nominated { node } => {
                    dirty.insert(node);
                    for kept in cluster.nominations.get(&node).into_iter().flatten() {
                        match &mut self.domains {
                            Some(domains) => {
                                domains.contribution(cluster, &template, kept.id)?;
                            }
                            None if concerns(cluster, &template, &kept.template) => return None,
                            None => {}
                        }
                    }
                }
                Change::Pods { node, template: id, all, active, terms } => {
                    if all != 0 || !self.candidates.is_empty() {
                        dirty.insert(node);
                    }
                    match &mut self.domains {
                        Some(domains) if terms || domains.counts_plain_pods => {
                            if !cluster.nodes[node as usize].known {
                                continue;
                            }
                            if let Some(what) = domains.contribution(cluster, &template, id)? {
                                dirty.insert(node);
                                domains.apply(cluster, node, &what, i64::from(all), i64::from(active), |n| {
                                    dirty.insert(n);
                                });
                            }
                        }
                        None if terms && all > 0 && !self.harmless.contains(&id) => {
                            let Some(entry) = cluster.templates.get(&id) else { continue };
                            if concerns(cluster, &template, &entry.template) {
                                return None;
                            }
                            self.harmless.insert(id);
                        }
                        _ => {}
                    }
                }
            }
        }
        for node in dirty.drain() {
            self.refresh(cluster, node);
            self.candidates.forget(node);
        }
        self.dirty = dirty;
        self.seen = cluster.now();
        Some(())
    }

    /// Takes in what depends on a node alone.
    fn look_at(&mut self, cluster: &Cluster, index: NodeIndex) {
        let node = &cluster.nodes[index as usize];
        let asked = self.scope.as_ref().is_none_or(|scope| scope.contains(&index));
        let fixed = match (node.known, asked) {
            (false, _) => UNKNOWN,
            (_, false) => NOT_ASKED,
            _ => match check::fixed(&self.template, node) {
                None => FITS,
                Some(rejection) => self.verdict_id(rejection),
            },
        };
        let template = &self.template;
        let standing = &mut self.standings[index as usize];
        standing.fixed = fixed;
        if fixed != FITS {
            return;
        }
        standing.taints = u16::try_from(template.disliked_taints(&node.taints)).unwrap_or(u16::MAX);
        let liked = template.node_preferred.iter().filter(|(_, t)| t.matches(&node.name, &node.labels));
        standing.preferred = liked.map(|(weight, _)| *weight).sum();
        if self.has_images {
            let sum = check::image_sum(cluster, template, index);
            standing.images = check::image_score(sum, template.containers) as u8;
        }
    }

    fn verdict_id(&mut self, rejection: Rejection) -> u16 {
        if let Some(found) = self.rejection_ids.get(&rejection) {
            return *found;
        }
        // Different rejections are combinations of a few reasons. Should there ever be too many, the last stands
        // for the rest: messages are less exact then, decisions are not.
        let id = u16::try_from(self.rejections.len()).unwrap_or(u16::MAX);
        if id < u16::MAX {
            self.rejections.push(rejection.clone());
            self.tally.push(0);
            self.rejection_ids.insert(rejection, id);
            return id;
        }
        u16::MAX - 1
    }

    /// Pods for which room is kept on a node and that come before this one.
    fn kept<'a>(&self, cluster: &'a Cluster, node: NodeIndex, but: Option<&str>) -> Kept<'a> {
        let Some(kept) = cluster.nominations.get(&node) else { return Kept::default() };
        let counts = |n: &&crate::cluster::Nomination| {
            n.template.priority >= self.template.priority && but.is_none_or(|key| *n.key != *key)
        };
        kept.iter().filter(counts).map(|n| (&*n.template, n.id)).collect()
    }

    pub(crate) fn volume_plan(&self) -> Option<&VolumePlan> {
        self.volumes.as_ref().and_then(|v| v.as_ref().ok())
    }

    /// What a node says that depends on its pods, with those for which room is kept and without them.
    fn room(
        &self,
        cluster: &Cluster,
        node: NodeIndex,
        without: &[PodIndex],
        kept: &Kept<'_>,
    ) -> Option<Rejection> {
        let plan = self.volume_plan();
        if !kept.is_empty() {
            let with: SmallVec<[&Template; 4]> = kept.iter().map(|(t, _)| *t).collect();
            let rejected =
                check::room(cluster, &self.template, plan, node, Supposed { without, with: &with });
            if rejected.is_some() {
                return rejected;
            }
        }
        check::room(cluster, &self.template, plan, node, Supposed { without, with: &[] })
    }

    /// Puts a node where it belongs now.
    fn refresh(&mut self, cluster: &Cluster, index: NodeIndex) {
        let standing = self.standings[index as usize];
        let kept = self.kept(cluster, index, None);
        let verdict = if standing.fixed == FITS {
            match self.room(cluster, index, &[], &kept) {
                None => FITS,
                Some(rejection) => self.verdict_id(rejection),
            }
        } else {
            standing.fixed
        };
        self.tally[standing.verdict as usize] -= 1;
        self.tally[verdict as usize] += 1;
        self.standings[index as usize].verdict = verdict;
        if verdict != FITS {
            self.leave_bucket(index);
            return;
        }
        let node = &cluster.nodes[index as usize];
        let mut key = Key::new();
        let images = cluster.weights.of(Scorer::ImageLocality) * i64::from(standing.images);
        key.push(check::resource_score(&self.template, node, &cluster.weights) + images);
        key.push(i64::from(standing.taints));
        key.push(i64::from(standing.preferred));
        key.push(0);
        if let Some(domains) = &mut self.domains {
            let template = &self.template;
            let mut counts = |id| {
                // A topology that is not counted yet: then everything is looked at anew before anything is decided.
                domains.contribution(cluster, template, id).flatten().is_some()
            };
            if kept.iter().any(|(_, id)| counts(*id)) {
                key[part::APART] = i64::from(index) + 1;
            }
            domains.key(cluster, index, &mut key);
        }
        self.enter_bucket(index, key);
    }

    fn leave_bucket(&mut self, index: NodeIndex) {
        let Standing { bucket, at, .. } = self.standings[index as usize];
        if bucket == NO_BUCKET {
            return;
        }
        self.standings[index as usize].bucket = NO_BUCKET;
        let nodes = &mut self.buckets[bucket as usize].nodes;
        nodes.swap_remove(at as usize);
        if let Some(moved) = nodes.get(at as usize) {
            self.standings[*moved as usize].at = at;
        }
        if nodes.is_empty() {
            self.bucket_ids.remove(&self.buckets[bucket as usize].key);
            self.empty_buckets.push(bucket);
        }
    }

    fn enter_bucket(&mut self, index: NodeIndex, key: Key) {
        let before = self.standings[index as usize].bucket;
        if before != NO_BUCKET {
            if self.buckets[before as usize].key == key {
                return;
            }
            self.leave_bucket(index);
        }
        let bucket = match self.bucket_ids.get(&key) {
            Some(found) => *found,
            None => {
                let id = self.empty_buckets.pop().unwrap_or_else(|| {
                    self.buckets.push(Bucket::default());
                    (self.buckets.len() - 1) as u32
                });
                self.buckets[id as usize].key = key.clone();
                self.bucket_ids.insert(key, id);
                id
            }
        };
        let nodes = &mut self.buckets[bucket as usize].nodes;
        nodes.push(index);
        let at = (nodes.len() - 1) as u32;
        let standing = &mut self.standings[index as usize];
        (standing.bucket, standing.at) = (bucket, at);
    }

    /// Why no node at all can be had, whatever the nodes.
    pub(crate) fn before_nodes(&self) -> Option<(Plugin, String)> {
        if self.template.pinned.as_ref().is_some_and(|names| names.is_empty()) {
            return Some((Plugin::NodeAffinity, "pod affinity terms conflict".to_owned()));
        }
        self.volumes.as_ref().and_then(|v| v.as_ref().err()).cloned()
    }

    /// What domains say to all nodes of a bucket.
    fn refuse(&self, cluster: &Cluster, bucket: &Bucket) -> Option<Rejection> {
        let domains = self.domains.as_ref()?;
        let node = *bucket.nodes.first()?;
        if bucket.key[part::APART] != 0 {
            let kept = self.kept(cluster, node, None);
            return self.refuse_node(cluster, node, &[], &kept);
        }
        if !domains.can_reject() {
            return None;
        }
        domains.reject(cluster, node, None).map(|r| r.rejection())
    }

    /// What domains say to one node, with pods for which room is kept and without them.
    fn refuse_node(
        &self,
        cluster: &Cluster,
        node: NodeIndex,
        without: &[PodIndex],
        kept: &Kept<'_>,
    ) -> Option<Rejection> {
        let domains = self.domains.as_ref()?;
        let contribution = |id: TemplateId| -> Option<Arc<Contribution>> {
            domains.known_contribution(cluster, &self.template, id)
        };
        let gone = without.iter().filter_map(|p| {
            let pod = cluster.pods[*p as usize].as_ref()?;
            Some((contribution(pod.template)?, -1, !pod.facts.terminating))
        });
        let gone: Vec<(Arc<Contribution>, i64, bool)> = gone.collect();
        if !kept.is_empty() {
            let mut all = gone.clone();
            all.extend(kept.iter().filter_map(|(_, id)| Some((contribution(*id)?, 1, true))));
            let delta: Delta = domains.delta(&all);
            if let Some(refusal) = domains.reject(cluster, node, Some(&delta)) {
                return Some(refusal.rejection());
            }
        }
        let delta = (!gone.is_empty()).then(|| domains.delta(&gone));
        domains.reject(cluster, node, delta.as_ref()).map(|r| r.rejection())
    }

    /// Everything that speaks against a node, if pods were gone from it. Room kept for the pod `but` does not
    /// count.
    pub(crate) fn check(
        &self,
        cluster: &Cluster,
        node: NodeIndex,
        without: &[PodIndex],
        but: Option<&str>,
    ) -> Option<Rejection> {
        let fixed = self.standings[node as usize].fixed;
        if fixed != FITS {
            return Some(self.rejections[fixed as usize].clone());
        }
        let kept = self.kept(cluster, node, but);
        let rejected = self.room(cluster, node, without, &kept);
        rejected.or_else(|| self.refuse_node(cluster, node, without, &kept))
    }

    /// Whether removing pods may open a node.
    pub(crate) fn is_resolvable(&self, cluster: &Cluster, node: NodeIndex) -> bool {
        let standing = self.standings[node as usize];
        match standing.verdict {
            UNKNOWN | NOT_ASKED => false,
            FITS => {
                let bucket = self.buckets.get(standing.bucket as usize);
                bucket.and_then(|b| self.refuse(cluster, b)).is_some_and(|r| r.resolvable)
            }
            verdict => self.rejections[verdict as usize].resolvable,
        }
    }

    /// How many nodes removing pods may open.
    pub(crate) fn resolvable_nodes(&self, cluster: &Cluster) -> usize {
        let verdicts = self.tally.iter().zip(&self.rejections).filter(|(_, r)| r.resolvable);
        let refused = self.buckets.iter().filter(|b| !b.nodes.is_empty());
        let refused = refused.filter(|b| self.refuse(cluster, b).is_some_and(|r| r.resolvable));
        verdicts.map(|(nodes, _)| nodes).sum::<usize>() + refused.map(|b| b.nodes.len()).sum::<usize>()
    }

    /// The best node; among equals the one that `seed` picks.
    pub(crate) fn choose(&mut self, cluster: &Cluster, seed: u64) -> Option<Choice> {
        let mut rows = std::mem::take(&mut self.rows);
        rows.clear();
        let mut feasible = 0;
        for (id, bucket) in self.buckets.iter().enumerate() {
            if bucket.nodes.is_empty() || self.refuse(cluster, bucket).is_some() {
                continue;
            }
            feasible += bucket.nodes.len();
            rows.push(Row { bucket: id as u32, ..Row::default() });
        }
        let choice = match (feasible, rows.first()) {
            (0, _) | (_, None) => None,
            (1, Some(row)) => {
                let node = self.buckets[row.bucket as usize].nodes[0];
                Some(Choice { node, score: 0, feasible })
            }
            _ => {
                self.score(cluster, &mut rows);
                self.pick(&rows, seed).map(|(node, score)| Choice { node, score, feasible })
            }
        };
        self.rows = rows;
        choice
    }

    fn score(&self, cluster: &Cluster, rows: &mut [Row]) {
        let bucket = |row: &Row| &self.buckets[row.bucket as usize];
        let most = |at: usize| rows.iter().map(|r| bucket(r).key[at]).max().unwrap_or(0);
        let (taints, preferred) = (most(part::TAINTS), most(part::PREFERRED));
        let has_preferred = !self.template.node_preferred.is_empty();
        let of = |scorer| cluster.weights.of(scorer);
        let (taint_weight, node_affinity_weight) = (of(Scorer::TaintToleration), of(Scorer::NodeAffinity));
        let (spread_weight, pod_affinity_weight) =
            (of(Scorer::PodTopologySpread), of(Scorer::InterPodAffinity));
        for row in rows.iter_mut() {
            let key = &bucket(row).key;
            let disliked = if taints == 0 { 0 } else { MAX_SCORE * key[part::TAINTS] / taints };
            row.total = key[part::BASE] + taint_weight * (MAX_SCORE - disliked);
            if has_preferred && preferred != 0 {
                row.total += node_affinity_weight * (MAX_SCORE * key[part::PREFERRED] / preferred);
            }
        }
        let Some(domains) = &self.domains else { return };
        if domains.scores_spread() {
            for row in rows.iter_mut() {
                row.ignored = domains.ignores(cluster, bucket(row).nodes[0]);
            }
            let nodes: Vec<(NodeIndex, usize)> = rows
                .iter()
                .filter(|r| !r.ignored)
                .map(|r| (bucket(r).nodes[0], bucket(r).nodes.len()))
                .collect();
            let weights = domains.spread_weights(cluster, &nodes, &mut Vec::with_capacity(nodes.len()));
            let (mut least, mut most) = (i64::MAX, 0);
            for row in rows.iter_mut().filter(|r| !r.ignored) {
                row.spread = domains.spread_score(cluster, bucket(row).nodes[0], &weights);
                least = least.min(row.spread);
                most = most.max(row.spread);
            }
            for row in rows.iter_mut().filter(|r| !r.ignored) {
                let score =
                    if most == 0 { MAX_SCORE } else { MAX_SCORE * (most + least - row.spread) / most };
                row.total += spread_weight * score;
            }
        }
        let (mut least, mut most) = (i64::MAX, i64::MIN);
        for row in rows.iter_mut() {
            row.affinity = domains.affinity_score(cluster, bucket(row).nodes[0]);
            least = least.min(row.affinity);
            most = most.max(row.affinity);
        }
        if most > least {
            for row in rows.iter_mut() {
                let share = (row.affinity - least) as f64 / (most - least) as f64;
                row.total += pod_affinity_weight * (MAX_SCORE as f64 * share) as i64;
            }
        }
    }

    fn pick(&self, rows: &[Row], seed: u64) -> Option<(NodeIndex, i64)> {
        let best = rows.iter().map(|r| r.total).max()?;
        let winners =
            || rows.iter().filter(|r| r.total == best).map(|r| &self.buckets[r.bucket as usize].nodes);
        let count: usize = winners().map(Vec::len).sum();
        let mut at = usize::try_from(mix(seed) % count.max(1) as u64).unwrap_or(0);
        for nodes in winners() {
            match nodes.get(at) {
                Some(node) => return Some((*node, best)),
                None => at -= nodes.len(),
            }
        }
        None
    }

    /// Why no node can take the pod.
    pub(crate) fn diagnose(&self, cluster: &Cluster) -> Diagnosis {
        let mut diagnosis = Diagnosis { nodes: cluster.node_count(), ..Diagnosis::default() };
        if let Some((plugin, reason)) = self.before_nodes() {
            diagnosis.before_nodes = Some(reason);
            diagnosis.blame(plugin);
            return diagnosis;
        }
        for (verdict, nodes) in self.tally.iter().enumerate() {
            if verdict != FITS as usize && verdict != UNKNOWN as usize {
                diagnosis.count(&self.rejections[verdict], *nodes);
            }
        }
        for bucket in self.buckets.iter().filter(|b| !b.nodes.is_empty()) {
            if let Some(rejection) = self.refuse(cluster, bucket) {
                diagnosis.count(&rejection, bucket.nodes.len());
            }
        }
        diagnosis
    }

    /// All nodes that can take the pod and their scores: for tests of the rest.
    pub(crate) fn scores(&self, cluster: &Cluster) -> Vec<(NodeIndex, i64)> {
        let mut rows: Vec<Row> = self
            .buckets
            .iter()
            .enumerate()
            .filter(|(_, b)| !b.nodes.is_empty() && self.refuse(cluster, b).is_none())
            .map(|(id, _)| Row { bucket: id as u32, ..Row::default() })
            .collect();
        self.score(cluster, &mut rows);
        let each = |r: &Row| {
            let total = r.total;
            self.buckets[r.bucket as usize].nodes.iter().map(move |n| (*n, total)).collect::<Vec<_>>()
        };
        rows.iter().flat_map(each).collect()
    }
}

type Kept<'a> = SmallVec<[(&'a Template, TemplateId); 2]>;

/// Spreads consecutive seeds (SplitMix64).
pub(crate) fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Cluster {
    pub(crate) fn template_of(&self, pod: PodIndex) -> Option<&Template> {
        let pod = self.pods[pod as usize].as_ref()?;
        Some(&self.templates.get(&pod.template)?.template)
    }

    pub(crate) fn node(&self, index: NodeIndex) -> &Node {
        &self.nodes[index as usize]
    }
}
