//! How much each rule counts that says which of several possible nodes is better.

use std::fmt;
use std::str::FromStr;

/// A rule that gives every possible node a score from 0 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scorer {
    /// Fewer taints that are only to be avoided.
    TaintToleration,
    /// Preferred node affinity.
    NodeAffinity,
    /// Spreading that is wished for.
    PodTopologySpread,
    /// Preferred pods near and away.
    InterPodAffinity,
    /// The least allocated node.
    NodeResourcesFit,
    /// CPU and memory used alike.
    NodeResourcesBalancedAllocation,
    /// Images that are there already.
    ImageLocality,
}

impl Scorer {
    /// All of them, in the order of their numbers.
    pub const ALL: [Scorer; 7] = [
        Scorer::TaintToleration,
        Scorer::NodeAffinity,
        Scorer::PodTopologySpread,
        Scorer::InterPodAffinity,
        Scorer::NodeResourcesFit,
        Scorer::NodeResourcesBalancedAllocation,
        Scorer::ImageLocality,
    ];

    /// The plugin's name in Kubernetes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Scorer::TaintToleration => "TaintToleration",
            Scorer::NodeAffinity => "NodeAffinity",
            Scorer::PodTopologySpread => "PodTopologySpread",
            Scorer::InterPodAffinity => "InterPodAffinity",
            Scorer::NodeResourcesFit => "NodeResourcesFit",
            Scorer::NodeResourcesBalancedAllocation => "NodeResourcesBalancedAllocation",
            Scorer::ImageLocality => "ImageLocality",
        }
    }
}

/// Largest weight: with scores to 100, all of them together stay far below what a score can be, and one alone outweighs all others.
pub const WEIGHT_MAX: u8 = 100;

/// A rule and what it is to weigh: `NodeAffinity=5`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight {
    /// Which rule.
    pub scorer: Scorer,
    /// 0 (it does not count) to [`WEIGHT_MAX`].
    pub weight: u8,
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.scorer.name(), self.weight)
    }
}

/// Why a text is no [`Weight`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WeightError {
    /// No `=`.
    #[error("write PLUGIN=WEIGHT, such as NodeAffinity=5")]
    Form,
    /// Nothing scores by that name.
    #[error("no plugin {0:?} scores nodes; there are {all}", all = Scorer::ALL.map(Scorer::name).join(", "))]
    Plugin(String),
    /// Not a number, or too large.
    #[error("the weight of {0} is a whole number from 0 (it does not count) to {WEIGHT_MAX}")]
    Range(&'static str),
}

impl FromStr for Weight {
    type Err = WeightError;

    fn from_str(text: &str) -> Result<Weight, WeightError> {
        let (name, weight) = text.split_once('=').ok_or(WeightError::Form)?;
        let scorer = Scorer::ALL.into_iter().find(|s| s.name() == name);
        let scorer = scorer.ok_or_else(|| WeightError::Plugin(name.to_owned()))?;
        match weight.parse() {
            Ok(weight) if weight <= WEIGHT_MAX => Ok(Weight { scorer, weight }),
            _ => Err(WeightError::Range(scorer.name())),
        }
    }
}

/// The weights of all rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weights([u8; Scorer::ALL.len()]);

impl Default for Weights {
    /// Those of kube-scheduler's default profile.
    fn default() -> Weights {
        Weights(Scorer::ALL.map(|scorer| match scorer {
            Scorer::TaintToleration => 3,
            Scorer::NodeAffinity | Scorer::PodTopologySpread | Scorer::InterPodAffinity => 2,
            Scorer::NodeResourcesFit | Scorer::NodeResourcesBalancedAllocation | Scorer::ImageLocality => 1,
        }))
    }
}

impl FromIterator<Weight> for Weights {
    /// The default ones but for those that are named; of several for one rule the last holds.
    fn from_iter<T: IntoIterator<Item = Weight>>(all: T) -> Weights {
        let mut weights = Weights::default();
        for Weight { scorer, weight } in all {
            weights.0[scorer as usize] = weight.min(WEIGHT_MAX);
        }
        weights
    }
}

impl Weights {
    /// What a rule weighs.
    #[must_use]
    pub fn of(&self, scorer: Scorer) -> i64 {
        i64::from(self.0[scorer as usize])
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_written_as_plugin_and_number() {
        for (at, scorer) in Scorer::ALL.into_iter().enumerate() {
            assert_eq!(scorer as usize, at, "an array is indexed by it");
            let text = format!("{}=7", scorer.name());
            assert_eq!(text.parse::<Weight>().unwrap().to_string(), text);
        }
        let error = |text: &str| text.parse::<Weight>().unwrap_err().to_string();
        assert_eq!(error("NodeAffinity"), "write PLUGIN=WEIGHT, such as NodeAffinity=5");
        assert!(
            error("NodePorts=1")
                .starts_with("no plugin \"NodePorts\" scores nodes; there are TaintToleration, ")
        );
        for wrong in ["NodeAffinity=", "NodeAffinity=-1", "NodeAffinity=101", "NodeAffinity=1.5"] {
            assert_eq!(
                error(wrong),
                "the weight of NodeAffinity is a whole number from 0 (it does not count) to 100"
            );
        }
    }

    #[test]
    fn what_is_not_named_weighs_as_in_the_default_profile() {
        let named = ["ImageLocality=9", "NodeAffinity=4", "NodeAffinity=0"];
        let weights: Weights = named.iter().map(|w| w.parse::<Weight>().unwrap()).collect();
        assert_eq!(Scorer::ALL.map(|s| weights.of(s)), [3, 0, 2, 2, 1, 1, 9]);
        assert_eq!(Weights::from_iter([]), Weights::default());
    }
}
