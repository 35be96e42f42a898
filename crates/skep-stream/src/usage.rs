//! What the API server asks of agents for `metrics.k8s.io`: the least that answers it, for it is asked often.

use serde::{Deserialize, Serialize};

/// Where an agent serves a [`NodeUsage`], in JSON.
pub const USAGE_PATH: &str = "/stats/usage";

/// What something uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Processors, in billionths, as the mean over a window.
    pub cpu_nanocores: u64,
    /// The working set.
    pub memory_bytes: u64,
}

/// When something was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Span {
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// Over which time before that.
    pub window_ms: u64,
}

/// A container's usage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerUsage {
    /// Its name.
    pub name: String,
    /// What it uses.
    pub usage: Usage,
}

/// A pod's usage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodUsage {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Which pod of that name.
    pub uid: String,
    /// Of the container that was measured over the shortest time.
    pub span: Span,
    /// All its containers that run, or the pod is left out: a part of a pod looks like a pod with little to do.
    pub containers: Vec<ContainerUsage>,
}

/// A node's usage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeUsage {
    /// All of it; nothing until it has been measured twice.
    pub node: Option<(Span, Usage)>,
    /// Its pods that have been measured twice.
    pub pods: Vec<PodUsage>,
}
