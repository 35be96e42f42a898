//! Why a pod cannot go somewhere, in the words that Kubernetes' users know.

use std::borrow::Cow;
use std::collections::BTreeMap;

use smallvec::SmallVec;

/// The rule that rejects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Plugin {
    /// Cordoned nodes.
    NodeUnschedulable,
    /// Taints.
    TaintToleration,
    /// Node selectors and affinity.
    NodeAffinity,
    /// Ports of the node.
    NodePorts,
    /// Resources.
    NodeResourcesFit,
    /// Disks and claims that only one may use.
    VolumeRestrictions,
    /// How many volumes a node attaches.
    NodeVolumeLimits,
    /// Volumes that are bound or can be.
    VolumeBinding,
    /// Zones of volumes.
    VolumeZone,
    /// Spreading.
    PodTopologySpread,
    /// Pods near and away.
    InterPodAffinity,
    /// Gates that are still closed.
    SchedulingGates,
}

impl Plugin {
    /// The plugin's name in Kubernetes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Plugin::NodeUnschedulable => "NodeUnschedulable",
            Plugin::TaintToleration => "TaintToleration",
            Plugin::NodeAffinity => "NodeAffinity",
            Plugin::NodePorts => "NodePorts",
            Plugin::NodeResourcesFit => "NodeResourcesFit",
            Plugin::VolumeRestrictions => "VolumeRestrictions",
            Plugin::NodeVolumeLimits => "NodeVolumeLimits",
            Plugin::VolumeBinding => "VolumeBinding",
            Plugin::VolumeZone => "VolumeZone",
            Plugin::PodTopologySpread => "PodTopologySpread",
            Plugin::InterPodAffinity => "InterPodAffinity",
            Plugin::SchedulingGates => "SchedulingGates",
        }
    }
}

/// One reason.
pub type Reason = Cow<'static, str>;

/// Why one node cannot take the pod: what the first rule says that rejects it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rejection {
    /// The rule.
    pub plugin: Plugin,
    /// Whether the node could take it if some of its pods went.
    pub resolvable: bool,
    /// In words.
    pub reasons: SmallVec<[Reason; 1]>,
}

impl Rejection {
    /// A rejection that removing pods cannot change.
    #[must_use]
    pub fn lasting(plugin: Plugin, reason: &'static str) -> Rejection {
        Rejection { plugin, resolvable: false, reasons: [Cow::Borrowed(reason)].into_iter().collect() }
    }

    /// A rejection that removing pods may change.
    #[must_use]
    pub fn resolvable(plugin: Plugin, reason: &'static str) -> Rejection {
        Rejection { plugin, resolvable: true, reasons: [Cow::Borrowed(reason)].into_iter().collect() }
    }
}

/// Why no node can take a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnosis {
    /// How many nodes there are.
    pub nodes: usize,
    /// A reason that has nothing to do with any one node.
    pub before_nodes: Option<String>,
    /// On how many nodes each reason holds.
    pub reasons: BTreeMap<Reason, usize>,
    /// The rules that rejected anything: only what concerns them is worth another attempt.
    pub plugins: Vec<Plugin>,
    /// How pushing others out went.
    pub preemption: String,
}

impl Diagnosis {
    /// Counts what one node, or several of a kind, said.
    pub fn count(&mut self, rejection: &Rejection, nodes: usize) {
        if nodes == 0 {
            return;
        }
        for reason in &rejection.reasons {
            *self.reasons.entry(reason.clone()).or_default() += nodes;
        }
        self.blame(rejection.plugin);
    }

    /// Notes a rule.
    pub fn blame(&mut self, plugin: Plugin) {
        if let Err(at) = self.plugins.binary_search(&plugin) {
            self.plugins.insert(at, plugin);
        }
    }

    /// The sentence for events and the pod's condition.
    #[must_use]
    pub fn message(&self) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".to_owned();
        }
        let mut text = format!("0/{} nodes are available:", self.nodes);
        match &self.before_nodes {
            Some(reason) => {
                text.push(' ');
                text.push_str(reason);
                text.push('.');
            }
            None => text.push_str(&histogram(&self.reasons)),
        }
        if !self.preemption.is_empty() {
            text.push_str(" preemption: ");
            text.push_str(&self.preemption);
        }
        text
    }
}

/// ` 1 this, 4 that.`, sorted as strings.
fn histogram(reasons: &BTreeMap<Reason, usize>) -> String {
    let mut parts: Vec<String> = reasons.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
    if parts.is_empty() {
        return String::new();
    }
    parts.sort();
    format!(" {}.", parts.join(", "))
}

/// What preemption says that found no candidate.
pub(crate) fn no_candidates(nodes: usize, reasons: &BTreeMap<Reason, usize>) -> String {
    format!("0/{nodes} nodes are available:{}", histogram(reasons))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_sorted_as_text() {
        let mut diagnosis = Diagnosis { nodes: 12, ..Diagnosis::default() };
        diagnosis.count(&Rejection::resolvable(Plugin::NodeResourcesFit, "Insufficient cpu"), 10);
        diagnosis.count(&Rejection::lasting(Plugin::TaintToleration, "node(s) had untolerated taint(s)"), 2);
        diagnosis.preemption =
            "0/12 nodes are available: 12 Preemption is not helpful for scheduling.".into();
        assert_eq!(
            diagnosis.message(),
            "0/12 nodes are available: 10 Insufficient cpu, 2 node(s) had untolerated taint(s). \
             preemption: 0/12 nodes are available: 12 Preemption is not helpful for scheduling."
        );
        assert_eq!(diagnosis.plugins, [Plugin::TaintToleration, Plugin::NodeResourcesFit]);
    }

    #[test]
    fn a_reason_before_nodes_stands_alone() {
        let diagnosis = Diagnosis {
            nodes: 1,
            before_nodes: Some("pod has unbound immediate PersistentVolumeClaims".into()),
            ..Diagnosis::default()
        };
        assert_eq!(
            diagnosis.message(),
            "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."
        );
    }
}
