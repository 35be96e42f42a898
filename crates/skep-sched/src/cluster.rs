//! A tenant's nodes and the pods on them, with a journal of changes that evaluations follow.

use std::collections::VecDeque;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use skep_base::LabelSelector;

use crate::class::Class;
use crate::resources::{HostPort, Resources, allowed_pods};
use crate::template::{OwnerKind, Template, selector};
use crate::topology::Topologies;
use crate::views::{
    BudgetView, Labels, MapSelectorView, NamespaceView, NodeView, PodView, SetSelectorView, Taint,
};
use crate::volume::Storage;
use crate::weights::Weights;

/// A node's place in the cluster's table. Reused after the node is gone.
pub(crate) type NodeIndex = u32;
/// A template's number. Never reused.
pub(crate) type TemplateId = u32;
/// A pod's place in the cluster's table. Reused after the pod is gone.
pub(crate) type PodIndex = u32;

/// Changes that the journal keeps at most. An evaluation that is further behind is made anew, which costs one pass over
/// the nodes.
const JOURNAL_CHANGES: usize = 32_768;
/// Changes that it keeps for each node: following more would cost as much as the pass, and every tenant pays for the room.
const CHANGES_PER_NODE: usize = 4;
/// Changes that it keeps however few the nodes are.
const JOURNAL_LEAST: usize = 128;

/// Nodes times evaluations that are kept, about 40 bytes each: 80 MB for the largest tenant. With fewer,
/// workloads that alternate are evaluated from scratch each time.
const CLASS_NODES: usize = 2_000_000;
/// Evaluations that are kept however few the nodes are: each follows every change.
const CLASSES: usize = 256;

/// A pod's template in this cluster.
#[derive(Clone, Debug)]
pub struct TemplateRef {
    pub(crate) id: TemplateId,
    template: Arc<Template>,
}

impl std::ops::Deref for TemplateRef {
    type Target = Template;
    fn deref(&self) -> &Template {
        &self.template
    }
}

impl PartialEq for TemplateRef {
    fn eq(&self, other: &TemplateRef) -> bool {
        self.id == other.id
    }
}

/// What matters about a pod on a node beside its template.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodFacts {
    /// When it started, as a number that grows with time; `None` for not yet.
    pub started: Option<i64>,
    /// Whether it is being deleted.
    pub terminating: bool,
    /// Whether it is being deleted because the scheduler pushed it out.
    pub preempted: bool,
}

impl PodFacts {
    /// Reads them off a pod.
    #[must_use]
    pub fn of(pod: &PodView) -> PodFacts {
        let terminating = pod.metadata.deletion_timestamp.is_some();
        let preempted = terminating
            && pod.status.conditions.iter().any(|c| {
                &*c.r#type == "DisruptionTarget"
                    && &*c.status == "True"
                    && &*c.reason == "PreemptionByScheduler"
            });
        PodFacts { started: pod.status.start_time.as_deref().map(order_of_time), terminating, preempted }
    }
}

/// A number that orders RFC 3339 times in UTC: their digits.
fn order_of_time(time: &str) -> i64 {
    let digits = time.bytes().filter(u8::is_ascii_digit).take(14);
    digits.fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'))
}

#[derive(Debug, Default)]
pub(crate) struct Node {
    pub name: Box<str>,
    /// Whether the node itself is known, and not only pods that say they are on it.
    pub known: bool,
    pub labels: Labels,
    pub taints: Box<[Taint]>,
    pub unschedulable: bool,
    pub allocatable: Resources,
    pub allowed_pods: i64,
    pub images: Vec<(Box<str>, i64)>,
    pub requested: Resources,
    pub nonzero_cpu_milli: i64,
    pub nonzero_memory_bytes: i64,
    pub pods: Vec<PodIndex>,
    pub ports: Vec<HostPort>,
}

#[derive(Debug)]
pub(crate) struct Pod {
    pub key: Arc<str>,
    pub template: TemplateId,
    pub node: NodeIndex,
    pub facts: PodFacts,
}

/// How many pods of a template are on a node.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Count {
    pub all: u32,
    /// Without those being deleted.
    pub active: u32,
}

#[derive(Debug)]
pub(crate) struct TemplateEntry {
    pub template: Arc<Template>,
    pub on: FxHashMap<NodeIndex, Count>,
}

#[derive(Clone, Debug)]
pub(crate) struct Nomination {
    pub key: Arc<str>,
    pub template: Arc<Template>,
    pub id: TemplateId,
}

/// What changed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    /// A node came, went, or is another now.
    Node { node: NodeIndex },
    /// Pods came to or left a node.
    Pods { node: NodeIndex, template: TemplateId, all: i32, active: i32, terms: bool },
    /// Room is kept, or no longer kept, on a node.
    Nominated { node: NodeIndex },
}

/// Which pods belong together by default: what services and controllers select.
#[derive(Debug, Default)]
struct Selectors {
    services: FxHashMap<Box<str>, FxHashMap<Box<str>, Labels>>,
    owners: FxHashMap<(OwnerKind, Box<str>, Box<str>), LabelSelector>,
}

/// How many pods of a budget may still go.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    pub namespace: Box<str>,
    pub selector: LabelSelector,
    pub allowed: i32,
    pub already: Labels,
}

/// Versions of what evaluations depend on beside the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Versions {
    /// Labels, taints and existence of nodes: what counts per domain are made of.
    pub shape: u64,
    pub namespaces: u64,
    pub selectors: u64,
    pub storage: u64,
    pub images: u64,
    pub budgets: u64,
}

/// The nodes of one tenant, the pods on them, and whatever else placement looks at.
///
/// Not a snapshot to be cloned: one owner changes it and asks it. What has been evaluated for a template stays,
/// and follows the journal.
#[derive(Debug, Default)]
pub struct Cluster {
    pub(crate) nodes: Vec<Node>,
    node_index: FxHashMap<Box<str>, NodeIndex>,
    free_nodes: Vec<NodeIndex>,
    known_nodes: usize,
    pub(crate) pods: Vec<Option<Pod>>,
    free_pods: Vec<PodIndex>,
    pod_index: FxHashMap<Arc<str>, PodIndex>,
    pub(crate) templates: FxHashMap<TemplateId, TemplateEntry>,
    template_ids: FxHashMap<Arc<Template>, TemplateId>,
    /// Templates with pods on nodes that have terms about other pods.
    pub(crate) with_terms: FxHashSet<TemplateId>,
    next_template: TemplateId,
    prune_templates_at: usize,
    nominated: FxHashMap<Arc<str>, NodeIndex>,
    pub(crate) nominations: FxHashMap<NodeIndex, Vec<Nomination>>,
    pub(crate) namespaces: FxHashMap<Box<str>, Labels>,
    selectors: Selectors,
    budgets: FxHashMap<Box<str>, Budget>,
    pub(crate) images: FxHashMap<Box<str>, FxHashMap<NodeIndex, i64>>,
    pub(crate) storage: Storage,
    pub(crate) topologies: Topologies,
    pub(crate) versions: Versions,
    journal: VecDeque<Change>,
    /// The number of the journal's first change.
    journal_start: u64,
    classes: FxHashMap<TemplateId, Class>,
    /// Never changed: evaluations hold weighted scores.
    pub(crate) weights: Weights,
    clock: u64,
}

impl Cluster {
    /// An empty one, with the weights of the default profile.
    #[must_use]
    pub fn new() -> Cluster {
        Cluster::with_weights(Weights::default())
    }

    /// An empty one.
    #[must_use]
    pub fn with_weights(weights: Weights) -> Cluster {
        Cluster { prune_templates_at: 1024, weights, ..Cluster::default() }
    }

    /// How many nodes there are.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.known_nodes
    }

    /// How many pods are on nodes.
    #[must_use]
    pub fn pod_count(&self) -> usize {
        self.pod_index.len()
    }

    /// The node that a pod is on.
    #[must_use]
    pub fn node_of(&self, key: &str) -> Option<&str> {
        let pod = self.pods[*self.pod_index.get(key)? as usize].as_ref()?;
        Some(&self.nodes[pod.node as usize].name)
    }

    /// Whether there is such a node.
    #[must_use]
    pub fn has_node(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    pub(crate) fn find(&self, name: &str) -> Option<NodeIndex> {
        self.node_index.get(name).copied().filter(|n| self.nodes[*n as usize].known)
    }

    /// All nodes that are known.
    pub(crate) fn known(&self) -> impl Iterator<Item = (NodeIndex, &Node)> {
        self.nodes.iter().enumerate().filter(|(_, n)| n.known).map(|(i, n)| (i as NodeIndex, n))
    }

    fn node_slot(&mut self, name: &str) -> NodeIndex {
        if let Some(found) = self.node_index.get(name) {
            return *found;
        }
        let slot = self.free_nodes.pop().unwrap_or_else(|| {
            self.nodes.push(Node::default());
            (self.nodes.len() - 1) as NodeIndex
        });
        self.nodes[slot as usize] = Node { name: name.into(), ..Node::default() };
        self.node_index.insert(name.into(), slot);
        slot
    }

    fn free_node_slot(&mut self, slot: NodeIndex) {
        let node = &self.nodes[slot as usize];
        if !node.known && node.pods.is_empty() && !self.nominations.contains_key(&slot) {
            self.node_index.remove(&node.name);
            self.nodes[slot as usize] = Node::default();
            self.free_nodes.push(slot);
        }
    }

    /// Adds a node or takes over its new state. Returns what kind of change it was, if any.
    pub fn upsert_node(&mut self, view: &NodeView) -> Option<NodeChange> {
        let slot = self.node_slot(&view.metadata.name);
        let node = &mut self.nodes[slot as usize];
        let allocatable = Resources::from_list(&view.status.allocatable);
        let allowed = allowed_pods(&view.status.allocatable);
        let unschedulable = view.spec.unschedulable;
        let mut images: Vec<(Box<str>, i64)> = view
            .status
            .images
            .iter()
            .flat_map(|i| i.names.iter().map(|name| (name.clone(), i.size_bytes)))
            .collect();
        images.sort();
        images.dedup_by(|later, earlier| later.0 == earlier.0);
        let change = NodeChange {
            added: !node.known,
            labels: node.labels != view.metadata.labels,
            taints: node.taints != view.spec.taints || node.unschedulable != unschedulable,
            allocatable: node.allocatable != allocatable || node.allowed_pods != allowed,
            images: node.images != images,
        };
        if change == NodeChange::default() {
            return None;
        }
        if change.labels || change.added {
            self.topologies.set_node(slot, Some(&view.metadata.labels));
        }
        if change.images || change.added {
            for (name, _) in &node.images {
                if let Some(on) = self.images.get_mut(name) {
                    on.remove(&slot);
                }
            }
            for (name, size) in &images {
                self.images.entry(name.clone()).or_default().insert(slot, *size);
            }
            self.versions.images += 1;
            node.images = images;
        }
        node.labels = view.metadata.labels.clone();
        node.taints = view.spec.taints.clone();
        node.unschedulable = unschedulable;
        node.allocatable = allocatable;
        node.allowed_pods = allowed;
        if !node.known {
            node.known = true;
            self.known_nodes += 1;
        }
        self.versions.shape += u64::from(change.added || change.labels || change.taints);
        self.note(Change::Node { node: slot });
        Some(change)
    }

    /// Removes a node. Pods that say they are on it are remembered in case it returns.
    pub fn remove_node(&mut self, name: &str) -> bool {
        let Some(slot) = self.find(name) else { return false };
        let node = &mut self.nodes[slot as usize];
        for (image, _) in std::mem::take(&mut node.images) {
            if let Some(on) = self.images.get_mut(&image) {
                on.remove(&slot);
                if on.is_empty() {
                    self.images.remove(&image);
                }
            }
        }
        node.known = false;
        node.labels = Labels::default();
        node.taints = Box::default();
        self.known_nodes -= 1;
        self.versions.images += 1;
        self.topologies.set_node(slot, None);
        self.versions.shape += 1;
        self.note(Change::Node { node: slot });
        self.free_node_slot(slot);
        true
    }

    /// The template of a pod. Pods that mean the same to placement share one.
    pub fn template(&mut self, pod: &PodView) -> TemplateRef {
        self.share(&Arc::new(Template::compile(pod)))
    }

    /// This cluster's own of equal templates.
    pub fn share(&mut self, template: &Arc<Template>) -> TemplateRef {
        if let Some((template, id)) = self.template_ids.get_key_value(&**template) {
            return TemplateRef { id: *id, template: template.clone() };
        }
        if self.templates.len() >= self.prune_templates_at {
            self.prune_templates();
        }
        // Not the caller's: whether somebody still uses it is seen by how many share it.
        let template = Arc::new(Template::clone(template));
        let id = self.next_template;
        self.next_template += 1;
        self.templates.insert(id, TemplateEntry { template: template.clone(), on: FxHashMap::default() });
        self.template_ids.insert(template.clone(), id);
        TemplateRef { id, template }
    }

    /// Forgets templates that nobody uses: neither a pod, nor a reference outside.
    fn prune_templates(&mut self) {
        // One in each of the two tables, and one if it is being evaluated.
        let classes = &mut self.classes;
        self.templates.retain(|id, entry| {
            let own = 2 + usize::from(classes.contains_key(id));
            let used = !entry.on.is_empty() || Arc::strong_count(&entry.template) > own;
            if !used {
                classes.remove(id);
                self.template_ids.remove(&entry.template);
            }
            used
        });
        self.prune_templates_at = (self.templates.len() * 2).max(1024);
    }

    /// Puts a pod on a node, or takes over what is new about one that is there. Assuming a placement and learning
    /// of it are the same.
    pub fn place(&mut self, key: &str, template: &TemplateRef, node: &str, facts: PodFacts) {
        if let Some(index) = self.pod_index.get(key).copied()
            && let Some(pod) = &mut self.pods[index as usize]
        {
            if pod.template == template.id && *self.nodes[pod.node as usize].name == *node {
                let before = std::mem::replace(&mut pod.facts, facts);
                if before.terminating != facts.terminating {
                    let active = if facts.terminating { -1 } else { 1 };
                    let (id, slot) = (pod.template, pod.node);
                    self.count(id, slot, 0, active);
                } else if before != facts {
                    let node = pod.node;
                    self.note(Change::Node { node });
                }
                return;
            }
            self.remove(key);
        }
        self.unnominate(key);
        let slot = self.node_slot(node);
        let key: Arc<str> = key.into();
        let pod = Pod { key: key.clone(), template: template.id, node: slot, facts };
        let index = match self.free_pods.pop() {
            Some(index) => {
                self.pods[index as usize] = Some(pod);
                index
            }
            None => {
                self.pods.push(Some(pod));
                (self.pods.len() - 1) as PodIndex
            }
        };
        self.use_claims(template, 1);
        self.pod_index.insert(key, index);
        let node = &mut self.nodes[slot as usize];
        node.pods.push(index);
        node.take(template, 1);
        // The reference outside may be to a template that was forgotten in between.
        self.templates.entry(template.id).or_insert_with(|| TemplateEntry {
            template: template.template.clone(),
            on: FxHashMap::default(),
        });
        self.count(template.id, slot, 1, i32::from(!facts.terminating));
    }

    /// Removes a pod from its node.
    pub fn remove(&mut self, key: &str) -> bool {
        let Some(index) = self.pod_index.remove(key) else { return false };
        let Some(pod) = self.pods[index as usize].take() else { return false };
        self.free_pods.push(index);
        let Some(entry) = self.templates.get(&pod.template) else { return false };
        let template = entry.template.clone();
        let node = &mut self.nodes[pod.node as usize];
        if let Some(at) = node.pods.iter().position(|p| *p == index) {
            node.pods.swap_remove(at);
        }
        node.take(&template, -1);
        self.use_claims(&template, -1);
        self.count(pod.template, pod.node, -1, -i32::from(!pod.facts.terminating));
        self.free_node_slot(pod.node);
        true
    }

    fn use_claims(&mut self, template: &Template, times: i32) {
        if self.storage.use_claims(template, times) {
            self.versions.storage += 1;
        }
    }

    fn count(&mut self, id: TemplateId, node: NodeIndex, all: i32, active: i32) {
        let Some(entry) = self.templates.get_mut(&id) else { return };
        let terms = entry.template.has_pod_terms();
        let count = entry.on.entry(node).or_default();
        count.all = count.all.saturating_add_signed(all);
        count.active = count.active.saturating_add_signed(active);
        if count.all == 0 {
            entry.on.remove(&node);
        }
        if terms {
            if entry.on.is_empty() {
                self.with_terms.remove(&id);
            } else {
                self.with_terms.insert(id);
            }
        }
        self.note(Change::Pods { node, template: id, all, active, terms });
    }

    /// Keeps room for a pod on a node until it is placed.
    pub fn nominate(&mut self, key: &str, template: &TemplateRef, node: &str) {
        self.unnominate(key);
        let slot = self.node_slot(node);
        let key: Arc<str> = key.into();
        self.nominated.insert(key.clone(), slot);
        let nomination = Nomination { key, template: template.template.clone(), id: template.id };
        self.nominations.entry(slot).or_default().push(nomination);
        self.note(Change::Nominated { node: slot });
    }

    /// Keeps no room for a pod any longer.
    pub fn unnominate(&mut self, key: &str) -> bool {
        let Some(slot) = self.nominated.remove(key) else { return false };
        if let Some(kept) = self.nominations.get_mut(&slot) {
            kept.retain(|n| *n.key != *key);
            if kept.is_empty() {
                self.nominations.remove(&slot);
            }
        }
        self.note(Change::Nominated { node: slot });
        self.free_node_slot(slot);
        true
    }

    /// The node where room is kept for a pod.
    #[must_use]
    pub fn nominated_node(&self, key: &str) -> Option<&str> {
        Some(&self.nodes[self.nominated_slot(key)? as usize].name)
    }

    pub(crate) fn nominated_slot(&self, key: &str) -> Option<NodeIndex> {
        self.nominated.get(key).copied()
    }

    /// The pods of lower priority than `priority` for which room is kept on a node.
    #[must_use]
    pub fn nominated_below(&self, node: &str, priority: i32) -> Vec<String> {
        let kept = self.node_index.get(node).and_then(|slot| self.nominations.get(slot));
        let below = |n: &&Nomination| n.template.priority < priority;
        kept.map_or_else(Vec::new, |kept| kept.iter().filter(below).map(|n| n.key.to_string()).collect())
    }

    /// Takes over a namespace's labels.
    pub fn upsert_namespace(&mut self, view: &NamespaceView) {
        let labels = &view.metadata.labels;
        if self.namespaces.get(&view.metadata.name) != Some(labels) {
            self.namespaces.insert(view.metadata.name.clone(), labels.clone());
            self.versions.namespaces += 1;
        }
    }

    /// Forgets a namespace.
    pub fn remove_namespace(&mut self, name: &str) {
        if self.namespaces.remove(name).is_some() {
            self.versions.namespaces += 1;
        }
    }

    /// Takes over a service's selector; `None` when it is gone.
    pub fn set_service(&mut self, namespace: &str, name: &str, view: Option<&MapSelectorView>) {
        let selector = view.and_then(|v| v.spec.selector.clone());
        let services = self.selectors.services.entry(namespace.into()).or_default();
        if services.get(name) == selector.as_ref() {
            return;
        }
        match selector {
            Some(selector) => {
                services.insert(name.into(), selector);
            }
            None => {
                services.remove(name);
            }
        }
        if services.is_empty() {
            self.selectors.services.remove(namespace);
        }
        self.versions.selectors += 1;
    }

    /// Takes over a replication controller's selector; `None` when it is gone.
    pub fn set_replication_controller(
        &mut self,
        namespace: &str,
        name: &str,
        view: Option<&MapSelectorView>,
    ) {
        let labels = view.and_then(|v| v.spec.selector.as_ref());
        let selector = labels.map(|labels| LabelSelector::from_labels(labels.iter()));
        self.set_owner(OwnerKind::ReplicationController, namespace, name, selector);
    }

    /// Takes over a replica set's or stateful set's selector; `None` when it is gone.
    pub fn set_owner_selector(
        &mut self,
        kind: OwnerKind,
        namespace: &str,
        name: &str,
        view: Option<&SetSelectorView>,
    ) {
        self.set_owner(kind, namespace, name, view.map(|v| selector(v.spec.selector.as_ref())));
    }

    fn set_owner(&mut self, kind: OwnerKind, namespace: &str, name: &str, selector: Option<LabelSelector>) {
        let key = (kind, namespace.into(), name.into());
        if self.selectors.owners.get(&key) == selector.as_ref() {
            return;
        }
        match selector {
            Some(selector) => self.selectors.owners.insert(key, selector),
            None => self.selectors.owners.remove(&key),
        };
        self.versions.selectors += 1;
    }

    /// Which pods a pod without constraints is spread with.
    pub(crate) fn default_selector(&self, template: &Template) -> LabelSelector {
        let mut labels: std::collections::BTreeMap<&str, &str> = std::collections::BTreeMap::new();
        for selector in self.selectors.services.get(&template.namespace).into_iter().flat_map(|s| s.values())
        {
            if selector.iter().all(|(k, v)| template.labels.get(k) == Some(v)) {
                labels.extend(selector.iter());
            }
        }
        let merged = LabelSelector::from_labels(labels);
        let Some((kind, name)) = &template.owner else { return merged };
        match self.selectors.owners.get(&(*kind, template.namespace.clone(), name.clone())) {
            Some(own) if !own.is_nothing() => {
                let both = merged.requirements().iter().chain(own.requirements()).cloned().collect();
                LabelSelector::new(both)
            }
            _ => merged,
        }
    }

    /// Takes over a disruption budget; `None` when it is gone.
    pub fn set_budget(&mut self, namespace: &str, name: &str, view: Option<&BudgetView>) {
        let key: Box<str> = format!("{namespace}/{name}").into();
        match view {
            Some(view) => {
                let budget = Budget {
                    namespace: namespace.into(),
                    selector: selector(view.spec.selector.as_ref()),
                    allowed: view.status.disruptions_allowed,
                    already: view.status.disrupted_pods.clone(),
                };
                self.budgets.insert(key, budget);
            }
            None => {
                self.budgets.remove(&key);
            }
        }
        self.versions.budgets += 1;
    }

    pub(crate) fn budgets(&self) -> impl Iterator<Item = &Budget> {
        self.budgets.values()
    }

    /// Volumes, claims and what else concerns storage.
    pub fn storage_mut(&mut self) -> &mut Storage {
        self.versions.storage += 1;
        &mut self.storage
    }

    /// Volumes, claims and what else concerns storage.
    #[must_use]
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    fn note(&mut self, change: Change) {
        let room = (self.nodes.len() * CHANGES_PER_NODE).clamp(JOURNAL_LEAST, JOURNAL_CHANGES);
        while self.journal.len() >= room {
            self.journal.pop_front();
            self.journal_start += 1;
        }
        self.journal.push_back(change);
    }

    /// The number that the next change will have.
    pub(crate) fn now(&self) -> u64 {
        self.journal_start + self.journal.len() as u64
    }

    /// The changes from number `since` on; `None` when they are no longer known.
    pub(crate) fn changes(&self, since: u64) -> Option<impl Iterator<Item = Change>> {
        let skip = usize::try_from(since.checked_sub(self.journal_start)?).ok()?;
        Some(self.journal.range(skip..).copied())
    }

    /// Lends out the evaluation of a template, brought up to date.
    pub(crate) fn with_class<R>(
        &mut self,
        template: &TemplateRef,
        use_it: impl FnOnce(&Cluster, &mut Class) -> R,
    ) -> R {
        self.clock += 1;
        let clock = self.clock;
        let mut class = match self.classes.remove(&template.id) {
            Some(mut class) => {
                if class.follow(self).is_none() {
                    class = Class::build(self, template.template.clone());
                }
                class
            }
            None => {
                let limit = (CLASS_NODES / self.nodes.len().max(1)).clamp(4, CLASSES);
                while self.classes.len() >= limit {
                    let oldest = self.classes.iter().min_by_key(|(_, c)| c.used).map(|(id, _)| *id);
                    let Some(oldest) = oldest else { break };
                    self.classes.remove(&oldest);
                }
                Class::build(self, template.template.clone())
            }
        };
        class.used = clock;
        let result = use_it(self, &mut class);
        self.classes.insert(template.id, class);
        result
    }

    /// Has a topology for a node label, made if it is new.
    pub(crate) fn topology(&mut self, key: &str) -> usize {
        let nodes = &self.nodes;
        self.topologies.of(key, || {
            nodes.iter().enumerate().filter(|(_, n)| n.known).map(|(i, n)| (i as NodeIndex, &n.labels))
        })
    }
}

/// What is new about a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeChange {
    /// It is new itself.
    pub added: bool,
    /// Labels.
    pub labels: bool,
    /// Taints, or whether it is cordoned.
    pub taints: bool,
    /// What it gives.
    pub allocatable: bool,
    /// Images.
    pub images: bool,
}

impl Node {
    fn take(&mut self, template: &Template, times: i64) {
        let asked = &template.requests;
        self.requested.add(&asked.requests, times);
        self.nonzero_cpu_milli += times * asked.nonzero_cpu_milli;
        self.nonzero_memory_bytes += times * asked.nonzero_memory_bytes;
        for port in &template.ports {
            if times > 0 {
                self.ports.push(port.clone());
            } else if let Some(at) = self.ports.iter().position(|p| p == port) {
                self.ports.swap_remove(at);
            }
        }
    }
}
