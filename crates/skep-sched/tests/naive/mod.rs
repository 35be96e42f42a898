//! The rules, written down as plainly as they can be: every pod is looked at for every node, nothing is kept.
//!
//! Works on the objects and not on anything that the crate has compiled, so that a mistake there shows.

use std::collections::{BTreeMap, BTreeSet};

use skep_base::LabelSelector;
use skep_base::selector::{Operator, Requirement};
use skep_sched::resources::{PodRequests, host_ports};
use skep_sched::views::*;
use skep_sched::{Scorer, Weights};

pub(crate) const HOSTNAME: &str = "kubernetes.io/hostname";

#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub(crate) pod: PodView,
    pub(crate) node: String,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    pub(crate) nodes: Vec<NodeView>,
    pub(crate) placed: Vec<Placed>,
    pub(crate) nominated: Vec<Placed>,
    pub(crate) namespaces: BTreeMap<String, Labels>,
    pub(crate) services: Vec<(String, Labels)>,
    pub(crate) replica_sets: Vec<(String, String, SelectorView)>,
    pub(crate) budgets: Vec<BudgetView>,
    pub(crate) weights: Weights,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct No {
    pub(crate) resolvable: bool,
    pub(crate) reasons: Vec<String>,
}

fn lasting(reason: &str) -> Result<(), No> {
    Err(No { resolvable: false, reasons: vec![reason.into()] })
}

fn resolvable(reason: &str) -> Result<(), No> {
    Err(No { resolvable: true, reasons: vec![reason.into()] })
}

pub(crate) fn key(pod: &PodView) -> String {
    pod.key()
}

fn requirement(e: &ExpressionView) -> Requirement {
    let operator = match &*e.operator {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::GreaterThan,
        "Lt" => Operator::LessThan,
        other => panic!("{other}"),
    };
    Requirement::new(&*e.key, operator, e.values.iter().map(|v| v.to_string()).collect()).unwrap()
}

fn selects(selector: Option<&SelectorView>, labels: &Labels) -> bool {
    let Some(selector) = selector else { return false };
    selector.match_labels.iter().all(|(k, v)| labels.get(k) == Some(v))
        && selector.match_expressions.iter().all(|e| requirement(e).matches(labels.get(&e.key)))
}

fn says_nothing(selector: &SelectorView) -> bool {
    selector.match_labels.is_empty() && selector.match_expressions.is_empty()
}

fn node_term(term: &NodeTermView, node: &NodeView) -> bool {
    !(term.match_expressions.is_empty() && term.match_fields.is_empty())
        && term.match_expressions.iter().all(|e| requirement(e).matches(node.metadata.labels.get(&e.key)))
        && term.match_fields.iter().all(|f| {
            assert_eq!(&*f.key, "metadata.name");
            (f.values[0] == node.metadata.name) == (&*f.operator == "In")
        })
}

fn selects_node(pod: &PodView, node: &NodeView) -> bool {
    pod.spec.node_selector.iter().all(|(k, v)| node.metadata.labels.get(k) == Some(v))
        && pod
            .spec
            .affinity
            .as_ref()
            .and_then(|a| a.node_affinity.required.as_ref())
            .is_none_or(|r| r.node_selector_terms.iter().any(|t| node_term(t, node)))
}

fn tolerated(pod: &PodView, taint: &Taint) -> bool {
    pod.spec.tolerations.iter().any(|t| {
        (t.effect.is_empty() || t.effect == taint.effect)
            && (t.key.is_empty() || t.key == taint.key)
            && (&*t.operator == "Exists" || t.value == taint.value)
    })
}

fn tolerates(pod: &PodView, node: &NodeView) -> bool {
    let hard = |t: &&Taint| &*t.effect == "NoSchedule" || &*t.effect == "NoExecute";
    node.spec.taints.iter().filter(hard).all(|t| tolerated(pod, t))
}

#[derive(Clone)]
enum Selecting {
    View(SelectorView, Labels),
    Compiled(LabelSelector),
}

impl Selecting {
    fn matches(&self, labels: &Labels) -> bool {
        match self {
            Selecting::View(view, more) => {
                selects(Some(view), labels) && more.iter().all(|(k, v)| labels.get(k) == Some(v))
            }
            Selecting::Compiled(selector) => selector.matches(|k| labels.get(k)),
        }
    }

    fn says_nothing(&self) -> bool {
        match self {
            Selecting::View(view, more) => says_nothing(view) && more.is_empty(),
            Selecting::Compiled(selector) => selector.is_everything(),
        }
    }
}

#[derive(Clone)]
struct Constraint {
    key: String,
    skew: i64,
    min_domains: usize,
    selecting: Selecting,
    honor_affinity: bool,
    honor_taints: bool,
}

impl World {
    fn node(&self, name: &str) -> Option<&NodeView> {
        self.nodes.iter().find(|n| &*n.metadata.name == name)
    }

    fn on(&self, node: &str) -> Vec<&PodView> {
        self.placed.iter().filter(|p| p.node == node).map(|p| &p.pod).collect()
    }

    fn term_means(&self, term: &PodTermView, owner: &PodView, pod: &PodView) -> bool {
        let namespace = &pod.metadata.namespace;
        let here = if term.namespaces.is_empty() && term.namespace_selector.is_none() {
            *namespace == owner.metadata.namespace
        } else {
            term.namespaces.contains(namespace)
                || term.namespace_selector.as_ref().is_some_and(|s| {
                    says_nothing(s) || self.namespaces.get(&**namespace).is_some_and(|l| selects(Some(s), l))
                })
        };
        here && selects(term.label_selector.as_ref(), &pod.metadata.labels)
    }

    fn constraints(&self, pod: &PodView, hard: bool) -> (Vec<Constraint>, bool) {
        let own = &pod.spec.topology_spread_constraints;
        if own.is_empty() {
            let selector = self.default_selector(pod);
            if hard || selector.is_everything() {
                return (Vec::new(), false);
            }
            let of = |key: &str, skew| Constraint {
                key: key.into(),
                skew,
                min_domains: 1,
                selecting: Selecting::Compiled(selector.clone()),
                honor_affinity: true,
                honor_taints: false,
            };
            return (vec![of(HOSTNAME, 3), of("topology.kubernetes.io/zone", 5)], false);
        }
        let wanted = if hard { "DoNotSchedule" } else { "ScheduleAnyway" };
        let found = own.iter().filter(|c| &*c.when_unsatisfiable == wanted).map(|c| Constraint {
            key: c.topology_key.to_string(),
            skew: i64::from(c.max_skew),
            min_domains: c.min_domains.unwrap_or(1) as usize,
            selecting: match &c.label_selector {
                Some(view) => Selecting::View(
                    view.clone(),
                    c.match_label_keys
                        .iter()
                        .filter_map(|k| Some((k.clone(), pod.metadata.labels.get(k)?)))
                        .collect(),
                ),
                None => Selecting::Compiled(LabelSelector::nothing()),
            },
            honor_affinity: c.node_affinity_policy.as_deref() != Some("Ignore"),
            honor_taints: c.node_taints_policy.as_deref() == Some("Honor"),
        });
        (found.collect(), true)
    }

    fn default_selector(&self, pod: &PodView) -> LabelSelector {
        let mut labels = BTreeMap::new();
        for (namespace, selector) in &self.services {
            if **namespace == *pod.metadata.namespace
                && selector.iter().all(|(k, v)| pod.metadata.labels.get(k) == Some(v))
            {
                labels.extend(selector.iter());
            }
        }
        let mut all = LabelSelector::from_labels(labels).requirements().to_vec();
        for owner in pod.metadata.owner_references.iter().filter(|o| o.controller == Some(true)) {
            for (namespace, name, selector) in &self.replica_sets {
                if &*owner.kind == "ReplicaSet"
                    && **name == *owner.name
                    && **namespace == *pod.metadata.namespace
                {
                    all.extend(
                        LabelSelector::from_labels(selector.match_labels.iter()).requirements().to_vec(),
                    );
                    all.extend(selector.match_expressions.iter().map(requirement));
                }
            }
        }
        LabelSelector::new(all)
    }

    fn counts(&self, constraint: &Constraint, pod: &PodView, node: &str) -> i64 {
        if constraint.selecting.says_nothing() {
            return 0;
        }
        let counted = |p: &&&PodView| {
            p.metadata.deletion_timestamp.is_none()
                && p.metadata.namespace == pod.metadata.namespace
                && constraint.selecting.matches(&p.metadata.labels)
        };
        self.on(node).iter().filter(counted).count() as i64
    }

    fn included(constraint: &Constraint, pod: &PodView, node: &NodeView) -> bool {
        (!constraint.honor_affinity || selects_node(pod, node))
            && (!constraint.honor_taints || tolerates(pod, node))
    }

    /// All filters on one node, without regard to nominated pods.
    fn filter_plain(&self, pod: &PodView, node: &NodeView) -> Result<(), No> {
        if node.spec.unschedulable {
            let taint = Taint {
                key: "node.kubernetes.io/unschedulable".into(),
                value: "".into(),
                effect: "NoSchedule".into(),
            };
            if !tolerated(pod, &taint) {
                return lasting("node(s) were unschedulable");
            }
        }
        if !tolerates(pod, node) {
            return lasting("node(s) had untolerated taint(s)");
        }
        if !selects_node(pod, node) {
            return lasting("node(s) didn't match Pod's node affinity/selector");
        }
        let there = self.on(&node.metadata.name);
        let ports = host_ports(pod);
        if there.iter().any(|p| host_ports(p).iter().any(|a| ports.iter().any(|b| a.conflicts(b)))) {
            return resolvable("node(s) didn't have free ports for the requested pod ports");
        }
        self.filter_resources(pod, node, &there)?;
        self.filter_spread(pod, node)?;
        self.filter_pods(pod, node)
    }

    fn filter_resources(&self, pod: &PodView, node: &NodeView, there: &[&PodView]) -> Result<(), No> {
        let given = &node.status.allocatable;
        let mut reasons = Vec::new();
        let mut can = true;
        if there.len() as i64 + 1 > given.get("pods").map_or(0, |q| q.value()) {
            reasons.push("Too many pods".to_owned());
        }
        let asked = |p: &PodView, name: &str| {
            let r = PodRequests::of(p).requests;
            match name {
                "cpu" => r.cpu_milli,
                "memory" => r.memory_bytes,
                "ephemeral-storage" => r.ephemeral_bytes,
                _ => r.scalar(name),
            }
        };
        let mut names = vec!["cpu".to_owned(), "memory".into(), "ephemeral-storage".into()];
        names.extend(PodRequests::of(pod).requests.scalars.iter().map(|(n, _)| n.to_string()));
        for name in names {
            let capacity =
                given.get(&name).map_or(0, |q| if name == "cpu" { q.milli_value() } else { q.value() });
            let used: i64 = there.iter().map(|p| asked(p, &name)).sum();
            let wanted = asked(pod, &name);
            if wanted > 0 && wanted > capacity - used {
                reasons.push(format!("Insufficient {name}"));
                can &= wanted <= capacity;
            }
        }
        if reasons.is_empty() { Ok(()) } else { Err(No { resolvable: can, reasons }) }
    }

    fn filter_spread(&self, pod: &PodView, node: &NodeView) -> Result<(), No> {
        let (constraints, _) = self.constraints(pod, true);
        let has_all = |n: &NodeView| constraints.iter().all(|c| n.metadata.labels.get(&c.key).is_some());
        for c in &constraints {
            let Some(value) = node.metadata.labels.get(&c.key) else {
                return lasting(
                    "node(s) didn't match pod topology spread constraints (missing required label)",
                );
            };
            let mut domains: BTreeMap<&str, i64> = BTreeMap::new();
            for n in self.nodes.iter().filter(|n| has_all(n) && World::included(c, pod, n)) {
                *domains.entry(n.metadata.labels.get(&c.key).unwrap()).or_default() +=
                    self.counts(c, pod, &n.metadata.name);
            }
            let least =
                if domains.len() < c.min_domains { 0 } else { domains.values().copied().min().unwrap() };
            let own = i64::from(c.selecting.matches(&pod.metadata.labels));
            if domains.get(value).copied().unwrap_or(0) + own - least > c.skew {
                return resolvable("node(s) didn't match pod topology spread constraints");
            }
        }
        Ok(())
    }

    fn filter_pods(&self, pod: &PodView, node: &NodeView) -> Result<(), No> {
        let none = AffinityView::default();
        let affinity = pod.spec.affinity.as_deref().unwrap_or(&none);
        let near = &affinity.pod_affinity.required;
        let all_near = |p: &PodView| near.iter().all(|t| self.term_means(t, pod, p));
        let same = |key: &str, other: &NodeView| {
            let value = node.metadata.labels.get(key);
            value.is_some() && value == other.metadata.labels.get(key)
        };
        let with_nodes = || self.placed.iter().filter_map(|p| Some((&p.pod, self.node(&p.node)?)));
        if !near.is_empty() {
            if near.iter().any(|t| node.metadata.labels.get(&t.topology_key).is_none()) {
                return lasting("node(s) didn't match pod affinity rules");
            }
            let satisfied =
                near.iter().all(|t| with_nodes().any(|(p, n)| all_near(p) && same(&t.topology_key, n)));
            let nobody = !with_nodes().any(|(p, n)| {
                all_near(p) && near.iter().any(|t| n.metadata.labels.get(&t.topology_key).is_some())
            });
            let is_first = nobody && all_near(pod);
            if !satisfied && !is_first {
                return lasting("node(s) didn't match pod affinity rules");
            }
        }
        let away = &affinity.pod_anti_affinity.required;
        if away
            .iter()
            .any(|t| with_nodes().any(|(p, n)| self.term_means(t, pod, p) && same(&t.topology_key, n)))
        {
            return resolvable("node(s) didn't match pod anti-affinity rules");
        }
        let repels = |p: &PodView, n: &NodeView| {
            let terms = p.spec.affinity.as_ref().map(|a| &a.pod_anti_affinity.required);
            terms.into_iter().flatten().any(|t| self.term_means(t, p, pod) && same(&t.topology_key, n))
        };
        if with_nodes().any(|(p, n)| repels(p, n)) {
            return resolvable("node(s) didn't satisfy existing pods anti-affinity rules");
        }
        Ok(())
    }

    /// All filters on one node, with and without the pods nominated to it.
    pub(crate) fn filter(&self, pod: &PodView, node: &NodeView) -> Result<(), No> {
        let priority = |p: &PodView| p.spec.priority.unwrap_or(0);
        let kept: Vec<Placed> = self
            .nominated
            .iter()
            .filter(|n| {
                *n.node == *node.metadata.name && priority(&n.pod) >= priority(pod) && key(&n.pod) != key(pod)
            })
            .cloned()
            .collect();
        if !kept.is_empty() {
            let mut with = self.clone();
            with.placed.extend(kept);
            with.filter_plain(pod, node)?;
        }
        self.filter_plain(pod, node)
    }

    fn is_pinned_elsewhere(&self, pod: &PodView, node: &NodeView) -> bool {
        let terms = pod.spec.affinity.as_ref().and_then(|a| a.node_affinity.required.as_ref());
        let Some(terms) = terms else { return false };
        let named = |t: &NodeTermView| t.match_fields.iter().any(|f| &*f.operator == "In");
        let names = |t: &NodeTermView| {
            t.match_fields
                .iter()
                .filter(|f| &*f.operator == "In")
                .all(|f| f.values.contains(&node.metadata.name))
        };
        let all = &terms.node_selector_terms;
        !all.is_empty() && all.iter().all(named) && !all.iter().any(names)
    }

    pub(crate) fn verdict(&self, pod: &PodView, node: &NodeView) -> Result<(), No> {
        if self.is_pinned_elsewhere(pod, node) {
            return lasting("node(s) didn't satisfy plugin(s) [NodeAffinity]");
        }
        self.filter(pod, node)
    }

    /// Total scores of the nodes that pass.
    pub(crate) fn scores(&self, pod: &PodView) -> BTreeMap<String, i64> {
        let feasible: Vec<&NodeView> = self.nodes.iter().filter(|n| self.verdict(pod, n).is_ok()).collect();
        let mut totals: Vec<i64> = vec![0; feasible.len()];
        let mut add = |scorer, scores: Vec<i64>| {
            let weight = self.weights.of(scorer);
            totals.iter_mut().zip(scores).for_each(|(t, s)| *t += weight * s);
        };
        add(Scorer::NodeResourcesFit, feasible.iter().map(|n| self.least_allocated(pod, n)).collect());
        add(
            Scorer::NodeResourcesBalancedAllocation,
            feasible.iter().map(|n| self.balanced(pod, n)).collect(),
        );
        add(Scorer::ImageLocality, feasible.iter().map(|n| self.images(pod, n)).collect());
        let taints: Vec<i64> = feasible
            .iter()
            .map(|n| {
                let soft = n.spec.taints.iter().filter(|t| &*t.effect == "PreferNoSchedule");
                soft.filter(|t| !tolerated(pod, t)).count() as i64
            })
            .collect();
        let most = taints.iter().copied().max().unwrap_or(0);
        add(
            Scorer::TaintToleration,
            taints.iter().map(|t| if most == 0 { 100 } else { 100 - 100 * t / most }).collect(),
        );
        let preferred = pod.spec.affinity.iter().flat_map(|a| &a.node_affinity.preferred);
        let liked: Vec<i64> = feasible
            .iter()
            .map(|n| {
                let hits = preferred.clone().filter(|t| t.weight != 0 && node_term(&t.preference, n));
                hits.map(|t| i64::from(t.weight)).sum()
            })
            .collect();
        let most = liked.iter().copied().max().unwrap_or(0);
        add(Scorer::NodeAffinity, liked.iter().map(|s| if most == 0 { 0 } else { 100 * s / most }).collect());
        add(Scorer::PodTopologySpread, self.spread(pod, &feasible));
        add(Scorer::InterPodAffinity, self.pod_affinity(pod, &feasible));
        feasible.iter().zip(totals).map(|(n, t)| (n.metadata.name.to_string(), t)).collect()
    }

    fn least_allocated(&self, pod: &PodView, node: &NodeView) -> i64 {
        let there = self.on(&node.metadata.name);
        let of = |p: &PodView| PodRequests::of(p);
        let cpu: i64 = there.iter().map(|p| of(p).nonzero_cpu_milli).sum::<i64>() + of(pod).score_cpu_milli;
        let memory: i64 =
            there.iter().map(|p| of(p).nonzero_memory_bytes).sum::<i64>() + of(pod).score_memory_bytes;
        let given = &node.status.allocatable;
        let capacity = [
            (cpu, given.get("cpu").map_or(0, |q| q.milli_value())),
            (memory, given.get("memory").map_or(0, |q| q.value())),
        ];
        let parts: Vec<i64> = capacity
            .iter()
            .filter(|(_, c)| *c != 0)
            .map(|(r, c)| if r > c { 0 } else { (c - r) * 100 / c })
            .collect();
        if parts.is_empty() { 0 } else { parts.iter().sum::<i64>() / parts.len() as i64 }
    }

    fn balanced(&self, pod: &PodView, node: &NodeView) -> i64 {
        let own = PodRequests::of(pod).requests;
        if own.cpu_milli == 0 && own.memory_bytes == 0 {
            return 0;
        }
        let there = self.on(&node.metadata.name);
        let cpu: i64 = there.iter().map(|p| PodRequests::of(p).requests.cpu_milli).sum();
        let memory: i64 = there.iter().map(|p| PodRequests::of(p).requests.memory_bytes).sum();
        let given = &node.status.allocatable;
        let (c, m) = (
            given.get("cpu").map_or(0, |q| q.milli_value()) as f64,
            given.get("memory").map_or(0, |q| q.value()) as f64,
        );
        let score = |cpu: i64, memory: i64| {
            let deviation = if c == 0.0 || m == 0.0 {
                0.0
            } else {
                (((cpu as f64 / c).min(1.0) - (memory as f64 / m).min(1.0)) / 2.0).abs()
            };
            ((1.0 - deviation) * 100.0) as i64
        };
        50 + (50 + score(cpu + own.cpu_milli, memory + own.memory_bytes) - score(cpu, memory)) / 2
    }

    fn images(&self, pod: &PodView, node: &NodeView) -> i64 {
        let containers = pod.spec.init_containers.iter().chain(&pod.spec.containers);
        let size = |n: &NodeView, image: &str| {
            n.status.images.iter().find(|i| i.names.iter().any(|x| &**x == image)).map(|i| i.size_bytes)
        };
        let mut sum = 0;
        let mut count = 0;
        for container in containers {
            count += 1;
            let image = if container.image.rsplit('/').next().unwrap().contains(':') {
                container.image.to_string()
            } else {
                format!("{}:latest", container.image)
            };
            if let Some(bytes) = size(node, &image) {
                let having = self.nodes.iter().filter(|n| size(n, &image).is_some()).count();
                sum += (bytes as f64 * (having as f64 / self.nodes.len() as f64)) as i64;
            }
        }
        let (least, most) = (23 * 1024 * 1024, 1000 * 1024 * 1024 * count);
        100 * (sum.max(least).min(most) - least) / (most - least)
    }

    fn spread(&self, pod: &PodView, feasible: &[&NodeView]) -> Vec<i64> {
        let (constraints, require_all) = self.constraints(pod, false);
        if constraints.is_empty() {
            return vec![0; feasible.len()];
        }
        let has_all = |n: &NodeView| {
            !require_all || constraints.iter().all(|c| n.metadata.labels.get(&c.key).is_some())
        };
        let scored: Vec<&&NodeView> = feasible.iter().filter(|n| has_all(n)).collect();
        let raw: Vec<Option<i64>> = feasible
            .iter()
            .map(|n| {
                if !has_all(n) {
                    return None;
                }
                let mut score = 0.0;
                for c in &constraints {
                    let Some(value) = n.metadata.labels.get(&c.key) else { continue };
                    let (count, size) = if c.key == HOSTNAME {
                        (self.counts(c, pod, &n.metadata.name), scored.len())
                    } else {
                        let values: BTreeSet<Option<&str>> =
                            scored.iter().map(|n| n.metadata.labels.get(&c.key)).collect();
                        let there = self.nodes.iter().filter(|o| {
                            o.metadata.labels.get(&c.key) == Some(value)
                                && has_all(o)
                                && World::included(c, pod, o)
                        });
                        (there.map(|o| self.counts(c, pod, &o.metadata.name)).sum(), values.len())
                    };
                    score += count as f64 * ((size + 2) as f64).ln() + (c.skew - 1) as f64;
                }
                Some(score.round() as i64)
            })
            .collect();
        let most = raw.iter().flatten().copied().max().unwrap_or(0).max(0);
        let least = raw.iter().flatten().copied().min().unwrap_or(0);
        raw.iter()
            .map(|score| match score {
                None => 0,
                Some(_) if most == 0 => 100,
                Some(score) => 100 * (most + least - score) / most,
            })
            .collect()
    }

    fn pod_affinity(&self, pod: &PodView, feasible: &[&NodeView]) -> Vec<i64> {
        let mut pairs: BTreeMap<(String, String), i64> = BTreeMap::new();
        let none = AffinityView::default();
        let own = pod.spec.affinity.as_deref().unwrap_or(&none);
        for placed in &self.placed {
            let Some(node) = self.node(&placed.node) else { continue };
            let other = &placed.pod;
            let theirs = other.spec.affinity.as_deref().unwrap_or(&none);
            let mut add = |term: &PodTermView, owner: &PodView, about: &PodView, weight: i32| {
                if let Some(value) = node.metadata.labels.get(&term.topology_key)
                    && self.term_means(term, owner, about)
                {
                    *pairs.entry((term.topology_key.to_string(), value.to_owned())).or_default() +=
                        i64::from(weight);
                }
            };
            own.pod_affinity.preferred.iter().for_each(|t| add(&t.pod_affinity_term, pod, other, t.weight));
            own.pod_anti_affinity
                .preferred
                .iter()
                .for_each(|t| add(&t.pod_affinity_term, pod, other, -t.weight));
            theirs.pod_affinity.required.iter().for_each(|t| add(t, other, pod, 1));
            theirs
                .pod_affinity
                .preferred
                .iter()
                .for_each(|t| add(&t.pod_affinity_term, other, pod, t.weight));
            theirs
                .pod_anti_affinity
                .preferred
                .iter()
                .for_each(|t| add(&t.pod_affinity_term, other, pod, -t.weight));
        }
        let raw: Vec<i64> = feasible
            .iter()
            .map(|n| {
                let here = pairs.iter().filter(|((k, v), _)| n.metadata.labels.get(k) == Some(v));
                here.map(|(_, s)| s).sum()
            })
            .collect();
        let (least, most) = (raw.iter().copied().min().unwrap_or(0), raw.iter().copied().max().unwrap_or(0));
        raw.iter()
            .map(
                |s| {
                    if most > least {
                        (100.0 * ((s - least) as f64 / (most - least) as f64)) as i64
                    } else {
                        0
                    }
                },
            )
            .collect()
    }

    /// Why no node passes, as a sentence.
    pub(crate) fn message(&self, pod: &PodView) -> String {
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        for node in &self.nodes {
            if let Err(no) = self.verdict(pod, node) {
                no.reasons.into_iter().for_each(|r| *reasons.entry(r).or_default() += 1);
            }
        }
        let mut parts: Vec<String> = reasons.iter().map(|(r, n)| format!("{n} {r}")).collect();
        parts.sort();
        format!("0/{} nodes are available: {}.", self.nodes.len(), parts.join(", "))
    }

    fn started(pod: &PodView) -> String {
        pod.status.start_time.as_deref().unwrap_or("9999").to_owned()
    }

    /// The pods that would have to go from a node, and what that costs: smaller is better.
    #[allow(clippy::type_complexity)]
    pub(crate) fn victims(
        &self,
        pod: &PodView,
        node: &NodeView,
    ) -> Option<(Vec<String>, (usize, i32, i64, usize, std::cmp::Reverse<String>))> {
        match self.verdict(pod, node) {
            Err(no) if no.resolvable => {}
            _ => return None,
        }
        let priority = |p: &PodView| p.spec.priority.unwrap_or(0);
        let mut lower: Vec<PodView> = self
            .on(&node.metadata.name)
            .into_iter()
            .filter(|p| priority(p) < priority(pod))
            .cloned()
            .collect();
        if lower.is_empty() {
            return None;
        }
        lower.sort_by_key(|p| (std::cmp::Reverse(priority(p)), World::started(p), key(p)));
        let without = |gone: &[PodView]| {
            let mut world = self.clone();
            world.placed.retain(|p| !gone.iter().any(|g| key(g) == key(&p.pod)));
            world
        };
        if without(&lower).filter(pod, node).is_err() {
            return None;
        }
        let mut allowed: Vec<i32> = self.budgets.iter().map(|b| b.status.disruptions_allowed).collect();
        let (violating, others): (Vec<PodView>, Vec<PodView>) = lower.iter().cloned().partition(|p| {
            let mut violates = false;
            for (budget, allowed) in self.budgets.iter().zip(&mut allowed) {
                let selector = budget.spec.selector.as_ref();
                if budget.metadata.namespace == p.metadata.namespace
                    && !p.metadata.labels.is_empty()
                    && selector.is_some_and(|s| !says_nothing(s))
                    && selects(selector, &p.metadata.labels)
                {
                    *allowed -= 1;
                    violates |= *allowed < 0;
                }
            }
            violates
        });
        let mut gone = lower.clone();
        let mut violations = 0;
        for (p, violates) in violating.iter().map(|p| (p, 1)).chain(others.iter().map(|p| (p, 0))) {
            let fewer: Vec<PodView> = gone.iter().filter(|g| key(g) != key(p)).cloned().collect();
            if without(&fewer).filter(pod, node).is_ok() {
                gone = fewer;
            } else {
                violations += violates;
            }
        }
        let highest = priority(gone.first()?);
        let earliest = gone.iter().filter(|p| priority(p) == highest).map(World::started).min()?;
        let sum = gone.iter().map(|p| i64::from(priority(p)) + (1 << 31)).sum();
        let cost = (violations, highest, sum, gone.len(), std::cmp::Reverse(earliest));
        Some((gone.iter().map(key).collect(), cost))
    }
}
