//! Nodes by the values of their labels.

use rustc_hash::FxHashMap;

use crate::cluster::NodeIndex;
use crate::views::Labels;

/// A node without the label.
pub(crate) const NO_DOMAIN: u32 = u32::MAX;

/// Below this many nodes per domain on average, equal domains are told apart by what is counted in them and not
/// by their name. Costs of a change grow with the size of the domain it is in.
const FINE_NODES: usize = 4;

/// The domains of one node label. Numbers of domains are never reused.
#[derive(Debug, Default)]
pub(crate) struct Topology {
    pub key: Box<str>,
    values: FxHashMap<Box<str>, u32>,
    domain_of: Vec<u32>,
    pub nodes_in: Vec<Vec<NodeIndex>>,
    used: usize,
    labelled: usize,
}

impl Topology {
    /// The domain of a node.
    pub(crate) fn domain(&self, node: NodeIndex) -> u32 {
        self.domain_of.get(node as usize).copied().unwrap_or(NO_DOMAIN)
    }

    /// How many domains there have ever been: the length of tables by domain.
    pub(crate) fn size(&self) -> usize {
        self.nodes_in.len()
    }

    /// Whether domains are so small that nearly every node has its own.
    pub(crate) fn is_fine(&self) -> bool {
        self.labelled <= self.used * FINE_NODES
    }

    fn set(&mut self, node: NodeIndex, value: Option<&str>) {
        let before = self.domain(node);
        if before != NO_DOMAIN {
            let nodes = &mut self.nodes_in[before as usize];
            nodes.retain(|n| *n != node);
            self.used -= usize::from(nodes.is_empty());
            self.labelled -= 1;
        }
        if self.domain_of.len() <= node as usize {
            self.domain_of.resize(node as usize + 1, NO_DOMAIN);
        }
        let after = match value {
            Some(value) => match self.values.get(value) {
                Some(found) => *found,
                None => {
                    let next = self.nodes_in.len() as u32;
                    self.nodes_in.push(Vec::new());
                    self.values.insert(value.into(), next);
                    next
                }
            },
            None => NO_DOMAIN,
        };
        self.domain_of[node as usize] = after;
        if after != NO_DOMAIN {
            let nodes = &mut self.nodes_in[after as usize];
            self.used += usize::from(nodes.is_empty());
            nodes.push(node);
            self.labelled += 1;
        }
    }
}

/// The node labels that somebody has asked for.
#[derive(Debug, Default)]
pub(crate) struct Topologies {
    all: Vec<Topology>,
    by_key: FxHashMap<Box<str>, usize>,
}

impl Topologies {
    pub(crate) fn get(&self, at: usize) -> &Topology {
        &self.all[at]
    }

    pub(crate) fn find(&self, key: &str) -> Option<usize> {
        self.by_key.get(key).copied()
    }

    pub(crate) fn of<'a, I>(&mut self, key: &str, nodes: impl FnOnce() -> I) -> usize
    where
        I: Iterator<Item = (NodeIndex, &'a Labels)>,
    {
        if let Some(found) = self.by_key.get(key) {
            return *found;
        }
        let mut topology = Topology { key: key.into(), ..Topology::default() };
        for (node, labels) in nodes() {
            topology.set(node, labels.get(key));
        }
        self.all.push(topology);
        self.by_key.insert(key.into(), self.all.len() - 1);
        self.all.len() - 1
    }

    /// Takes over a node's labels; `None` when it is gone.
    pub(crate) fn set_node(&mut self, node: NodeIndex, labels: Option<&Labels>) {
        for topology in &mut self.all {
            topology.set(node, labels.and_then(|l| l.get(&topology.key)));
        }
    }
}
