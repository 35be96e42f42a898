//! `metrics.k8s.io/v1beta1`: what nodes and pods use now. Nothing of it is stored: whoever serves it asks the nodes.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::field::Errors;
use crate::kind::{Kind, KindInfo, Verb};
use crate::meta;
use crate::registry::Registry;
use crate::table::{Cell, Column};

/// The group.
pub const GROUP: &str = "metrics.k8s.io";

pub(crate) fn register(registry: &mut Registry) {
    registry.add::<NodeMetrics>();
    registry.add::<PodMetrics>();
}

/// What can be asked: there is nothing to watch, and nothing to write.
const VERBS: &[Verb] = &[Verb::Get, Verb::List];

/// What a node uses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.k8s.metrics.pkg.apis.metrics.v1beta1.NodeMetrics")]
pub struct NodeMetrics {
    /// The kind of this object.
    #[serde(default = "node_metrics_kind")]
    pub kind: String,
    /// The version of the schema of this object.
    #[serde(default = "api_version")]
    pub api_version: String,
    /// Name and labels of the node.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// When it was measured.
    #[serde(default = "never")]
    pub timestamp: Time,
    /// Over which time before that the processor's use is the mean.
    #[serde(default)]
    pub window: String,
    /// Processors and memory.
    #[serde(default)]
    pub usage: BTreeMap<String, Quantity>,
}

/// What a pod's containers use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.k8s.metrics.pkg.apis.metrics.v1beta1.PodMetrics")]
pub struct PodMetrics {
    /// The kind of this object.
    #[serde(default = "pod_metrics_kind")]
    pub kind: String,
    /// The version of the schema of this object.
    #[serde(default = "api_version")]
    pub api_version: String,
    /// Name, namespace and labels of the pod.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// When it was measured.
    #[serde(default = "never")]
    pub timestamp: Time,
    /// Over which time before that the processor's use is the mean.
    #[serde(default)]
    pub window: String,
    /// Each container that runs.
    #[serde(default)]
    pub containers: Vec<ContainerMetrics>,
}

/// What a container uses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.k8s.metrics.pkg.apis.metrics.v1beta1.ContainerMetrics")]
pub struct ContainerMetrics {
    /// Its name.
    pub name: String,
    /// Processors and memory.
    #[serde(default)]
    pub usage: BTreeMap<String, Quantity>,
}

fn node_metrics_kind() -> String {
    "NodeMetrics".to_owned()
}

fn pod_metrics_kind() -> String {
    "PodMetrics".to_owned()
}

fn api_version() -> String {
    format!("{GROUP}/v1beta1")
}

fn never() -> Time {
    Time(Timestamp::UNIX_EPOCH)
}

impl Default for NodeMetrics {
    fn default() -> NodeMetrics {
        NodeMetrics {
            kind: node_metrics_kind(),
            api_version: api_version(),
            metadata: ObjectMeta::default(),
            timestamp: never(),
            window: String::new(),
            usage: BTreeMap::new(),
        }
    }
}

impl Default for PodMetrics {
    fn default() -> PodMetrics {
        PodMetrics {
            kind: pod_metrics_kind(),
            api_version: api_version(),
            metadata: ObjectMeta::default(),
            timestamp: never(),
            window: String::new(),
            containers: Vec::new(),
        }
    }
}

/// What is used, as these kinds say it: processors in billionths, memory in kibibytes.
#[must_use]
pub fn usage(cpu_nanocores: u64, memory_bytes: u64) -> BTreeMap<String, Quantity> {
    BTreeMap::from([
        (
            "cpu".to_owned(),
            Quantity(if cpu_nanocores == 0 { "0".to_owned() } else { format!("{cpu_nanocores}n") }),
        ),
        ("memory".to_owned(), Quantity(format!("{}Ki", memory_bytes / 1024))),
    ])
}

/// A span of time as Go writes it: `15.25s`.
#[must_use]
pub fn window(milliseconds: u64) -> String {
    let (minutes, rest) = (milliseconds / 60_000, milliseconds % 60_000);
    let (seconds, fraction) = (rest / 1_000, rest % 1_000);
    let mut text = if minutes > 0 { format!("{minutes}m{seconds}") } else { seconds.to_string() };
    if fraction > 0 {
        text.push_str(format!(".{fraction:03}").trim_end_matches('0'));
    }
    text.push('s');
    text
}

macro_rules! names {
    ($ty:ident, $plural:literal, $list:literal, $scope:ty) => {
        impl k8s_openapi::Resource for $ty {
            const API_VERSION: &'static str = "metrics.k8s.io/v1beta1";
            const GROUP: &'static str = GROUP;
            const KIND: &'static str = stringify!($ty);
            const VERSION: &'static str = "v1beta1";
            const URL_PATH_SEGMENT: &'static str = $plural;
            type Scope = $scope;
        }
        impl k8s_openapi::ListableResource for $ty {
            const LIST_KIND: &'static str = $list;
        }
        impl k8s_openapi::Metadata for $ty {
            type Ty = ObjectMeta;
            fn metadata(&self) -> &ObjectMeta {
                &self.metadata
            }
            fn metadata_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

names!(NodeMetrics, "nodes", "NodeMetricsList", ClusterResourceScope);
names!(PodMetrics, "pods", "PodMetricsList", NamespaceResourceScope);

fn columns() -> Vec<Column> {
    vec![
        Column::NAME,
        Column::string("cpu", "What is used of processors."),
        Column::string("memory", "What is used of memory."),
        Column::string("Window", "Over which time the processor's use is the mean."),
    ]
}

fn cell(usage: &BTreeMap<String, Quantity>, resource: &str) -> Cell {
    usage.get(resource).map_or("", |q| q.0.as_str()).into()
}

/// The sum of what containers use.
fn total(containers: &[ContainerMetrics]) -> BTreeMap<String, Quantity> {
    let sum = |resource: &str, scale: f64| -> u64 {
        let each = containers.iter().filter_map(|c| c.usage.get(resource)?.0.parse().ok());
        // Exact up to 2^53: a hundred days of a processor a second, or 9 petabytes.
        each.map(|q: skep_base::quantity::Quantity| (q.to_f64() * scale).round() as u64).sum()
    };
    usage(sum("cpu", 1e9), sum("memory", 1.0))
}

impl Kind for NodeMetrics {
    fn info() -> KindInfo {
        KindInfo { singular: "".into(), ..KindInfo::of::<NodeMetrics>().verbs(VERBS).computed() }
    }

    fn validate(&self, _: &Context<'_>, _: &mut Errors) {}

    fn columns() -> Vec<Column> {
        columns()
    }

    fn row(&self, _: Timestamp) -> Vec<Cell> {
        let name = meta::name_cell(&self.metadata);
        vec![name, cell(&self.usage, "cpu"), cell(&self.usage, "memory"), self.window.as_str().into()]
    }
}

impl Kind for PodMetrics {
    fn info() -> KindInfo {
        KindInfo { singular: "".into(), ..KindInfo::of::<PodMetrics>().verbs(VERBS).computed() }
    }

    fn validate(&self, _: &Context<'_>, _: &mut Errors) {}

    fn columns() -> Vec<Column> {
        columns()
    }

    fn row(&self, _: Timestamp) -> Vec<Cell> {
        let total = total(&self.containers);
        let name = meta::name_cell(&self.metadata);
        vec![name, cell(&total, "cpu"), cell(&total, "memory"), self.window.as_str().into()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_as_clients_know_them() {
        assert_eq!(usage(0, 1023)["cpu"].0, "0");
        assert_eq!(usage(1_500, 5 << 20)["cpu"].0, "1500n");
        assert_eq!(usage(1_500, 5 << 20)["memory"].0, "5120Ki");
        for (ms, text) in
            [(15_000, "15s"), (15_250, "15.25s"), (61_001, "1m1.001s"), (120_000, "2m0s"), (40, "0.04s")]
        {
            assert_eq!(window(ms), text);
        }
    }

    #[test]
    fn a_pod_uses_what_its_containers_use() {
        let container = |cpu, memory| ContainerMetrics { name: "c".to_owned(), usage: usage(cpu, memory) };
        let pod = PodMetrics {
            containers: vec![container(3, 2048), container(2_000_000_001, 1024)],
            window: "15s".to_owned(),
            ..PodMetrics::default()
        };
        assert_eq!(pod.row(Timestamp::UNIX_EPOCH)[1..], ["2000000004n", "3Ki", "15s"].map(Cell::from));
        let json = serde_json::to_value(&pod).unwrap();
        assert_eq!(
            (&json["kind"], &json["apiVersion"]),
            (&"PodMetrics".into(), &"metrics.k8s.io/v1beta1".into())
        );
        assert_eq!(serde_json::from_value::<PodMetrics>(json).unwrap(), pod);
    }
}
