//! Deciding where one pod goes.

use crate::class::{Choice, Class};
use crate::cluster::{Cluster, TemplateRef};
use crate::diagnosis::Diagnosis;
use crate::volume::VolumeStep;

/// Where a pod goes, and what has to be done before it may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The node.
    pub node: String,
    /// Its score; 0 when there was no other.
    pub score: i64,
    /// How many nodes there were to choose from.
    pub feasible: usize,
    /// Volumes to bind or to have made.
    pub volumes: Vec<VolumeStep>,
}

impl Cluster {
    /// Decides where a pod goes. `key` is `namespace/name`; `nominated` a node where room was made for it. `seed`
    /// picks among equally good nodes. Nothing is changed: what comes of it is told by [`Cluster::place`].
    ///
    /// # Errors
    /// Why no node can take it.
    pub fn schedule(
        &mut self,
        key: &str,
        template: &TemplateRef,
        nominated: Option<&str>,
        seed: u64,
    ) -> Result<Placement, Diagnosis> {
        self.with_class(template, |cluster, class| class.schedule(cluster, key, nominated, seed))
    }

    /// All nodes that can take a pod and their scores, by name.
    pub fn scores(&mut self, template: &TemplateRef) -> Vec<(String, i64)> {
        self.with_class(template, |cluster, class| {
            if class.before_nodes().is_some() {
                return Vec::new();
            }
            let mut scores: Vec<(String, i64)> = class
                .scores(cluster)
                .into_iter()
                .map(|(node, score)| (cluster.node(node).name.to_string(), score))
                .collect();
            scores.sort();
            scores
        })
    }
}

impl Class {
    fn schedule(
        &mut self,
        cluster: &Cluster,
        key: &str,
        nominated: Option<&str>,
        seed: u64,
    ) -> Result<Placement, Diagnosis> {
        if self.before_nodes().is_some() {
            return Err(self.diagnose(cluster));
        }
        let kept = nominated
            .and_then(|name| cluster.find(name))
            .filter(|node| self.check(cluster, *node, &[], Some(key)).is_none())
            .map(|node| Choice { node, score: 0, feasible: 1 });
        let Some(choice) = kept.or_else(|| self.choose(cluster, seed)) else {
            return Err(self.diagnose(cluster));
        };
        Ok(Placement {
            node: cluster.node(choice.node).name.to_string(),
            score: choice.score,
            feasible: choice.feasible,
            volumes: self.volume_steps(cluster, choice.node),
        })
    }
}
