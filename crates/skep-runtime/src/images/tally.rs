//! How far a pull is, in a few numbers: what people are shown.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::{Digest, PullProgress};

/// How far a pull is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PullState {
    /// Layers of the image.
    pub layers: usize,
    /// Those that are unpacked, or were here before.
    pub layers_done: usize,
    /// What is to be downloaded, compressed; without layers that were here before.
    pub bytes: u64,
    /// How much of it has arrived.
    pub bytes_done: u64,
}

impl fmt::Display for PullState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // With one place behind the point, rounded down: nothing is all there before it is.
        let mib = |bytes: u64| format!("{}.{}", bytes >> 20, ((bytes % (1 << 20)) * 10) >> 20);
        write!(
            f,
            "{} of {} MiB downloaded, {} of {} layers unpacked",
            mib(self.bytes_done),
            mib(self.bytes),
            self.layers_done,
            self.layers
        )
    }
}

#[derive(Default)]
struct Layer {
    bytes: u64,
    arrived: u64,
    done: bool,
}

/// Adds up what is heard of a pull.
#[derive(Default)]
pub struct Tally {
    layers: Mutex<BTreeMap<Digest, Layer>>,
}

impl Tally {
    /// Takes in what has happened, and gives how far the pull is now.
    pub fn hear(&self, progress: PullProgress) -> PullState {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        match progress {
            // Another host is asked from the beginning.
            PullProgress::Resolved { layers: found } => {
                let fresh = |(digest, bytes)| (digest, Layer { bytes, ..Layer::default() });
                *layers = found.into_iter().map(fresh).collect();
            }
            PullProgress::Present { layer } => {
                layers.insert(layer, Layer { done: true, ..Layer::default() });
            }
            PullProgress::Downloaded { layer, bytes } => {
                let layer = layers.entry(layer).or_default();
                layer.arrived = bytes.min(layer.bytes);
            }
            PullProgress::Unpacked { layer } => {
                let layer = layers.entry(layer).or_default();
                (layer.arrived, layer.done) = (layer.bytes, true);
            }
        }
        layers.values().fold(PullState { layers: layers.len(), ..PullState::default() }, |sum, layer| {
            PullState {
                layers_done: sum.layers_done + usize::from(layer.done),
                bytes: sum.bytes.saturating_add(layer.bytes),
                bytes_done: sum.bytes_done.saturating_add(layer.arrived),
                ..sum
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_add_up() {
        let [a, b, c] = ["a", "b", "c"].map(|n| Digest::of(n.as_bytes()));
        let tally = Tally::default();
        let all = vec![(a.clone(), 3 << 20), (b.clone(), 1 << 20), (c.clone(), 9 << 20)];
        let state = tally.hear(PullProgress::Resolved { layers: all.clone() });
        assert_eq!(state.to_string(), "0.0 of 13.0 MiB downloaded, 0 of 3 layers unpacked");
        tally.hear(PullProgress::Present { layer: c });
        let state = tally.hear(PullProgress::Downloaded { layer: a.clone(), bytes: (1 << 20) + (1 << 19) });
        assert_eq!(state.to_string(), "1.5 of 4.0 MiB downloaded, 1 of 3 layers unpacked");
        let state = tally.hear(PullProgress::Downloaded { layer: b, bytes: u64::MAX });
        assert_eq!(
            state.bytes_done,
            (1 << 20) + (1 << 19) + (1 << 20),
            "a layer that is longer than it says"
        );
        let state = tally.hear(PullProgress::Unpacked { layer: a });
        assert_eq!((state.bytes_done, state.layers_done), (4 << 20, 2));
        assert_eq!(tally.hear(PullProgress::Resolved { layers: all }).layers_done, 0, "begun again");
    }
}
