//! Pods and runs for tests.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Value, json};

use super::{
    Instance, InstanceState, Observed, Plan, ProbeResults, Sandbox, StartFailure, StatusInput, plan, status,
};

/// A pod `ns/p` with this specification.
pub(crate) fn pod(spec: Value) -> Pod {
    let mut spec = spec;
    if spec.get("containers").is_none() {
        spec["containers"] = json!([{"name": "a", "image": "i"}]);
    }
    serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "namespace": "ns", "uid": "uid-1", "generation": 1},
        "spec": spec, "status": {"phase": "Pending"},
    }))
    .unwrap()
}

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A pod with what runs of it.
pub(crate) struct World {
    pub pod: Pod,
    pub sandbox: Sandbox,
    pub instances: Vec<Instance>,
    pub probes: BTreeMap<String, ProbeResults>,
    pub failures: BTreeMap<String, StartFailure>,
    pub hashes: BTreeMap<String, String>,
    pub now: Timestamp,
    pub old: PodStatus,
    pub stopped: bool,
    pub ended: Option<(String, String)>,
}

impl World {
    pub(crate) fn new(spec: Value) -> World {
        World {
            pod: pod(spec),
            sandbox: Sandbox { ready: true, attempt: Some(0), ips: vec!["10.0.0.2".to_owned()] },
            instances: Vec::new(),
            probes: BTreeMap::new(),
            failures: BTreeMap::new(),
            hashes: BTreeMap::new(),
            now: at(1_000),
            old: PodStatus::default(),
            stopped: false,
            ended: None,
        }
    }

    pub(crate) fn observed(&self) -> Observed<'_> {
        Observed {
            pod: &self.pod,
            sandbox: &self.sandbox,
            instances: &self.instances,
            probes: &self.probes,
            failures: &self.failures,
            spec_hashes: &self.hashes,
            now: self.now,
        }
    }

    pub(crate) fn plan(&self) -> Plan {
        plan(&self.observed())
    }

    pub(crate) fn status(&self) -> PodStatus {
        let host_ips = ["192.168.0.1".to_owned()];
        let input = StatusInput {
            old: &self.old,
            host_ips: &host_ips,
            stopped_for_good: self.stopped,
            ended: self.ended.as_ref(),
        };
        status(&self.observed(), &input)
    }

    /// The status, remembered as the last one.
    pub(crate) fn next_status(&mut self) -> PodStatus {
        self.old = self.status();
        self.old.clone()
    }

    /// Adds a run.
    pub(crate) fn run(&mut self, name: &str, state: InstanceState) -> &mut Self {
        let count = u32::try_from(self.instances.iter().filter(|i| i.name == name).count()).unwrap();
        self.instances.push(Instance {
            id: format!("{name}-{count}"),
            name: name.to_owned(),
            restart_count: count,
            created_at: at(100 + i64::from(count)),
            state,
            image: "i".to_owned(),
            image_id: "sha256:1".to_owned(),
            spec_hash: "h".to_owned(),
            user: None,
            sandbox_attempt: self.sandbox.attempt.unwrap_or(0),
        });
        self
    }

    pub(crate) fn probe(&mut self, id: &str, results: ProbeResults) -> &mut Self {
        self.probes.insert(id.to_owned(), results);
        self
    }
}

pub(crate) fn running() -> InstanceState {
    InstanceState::Running { started_at: at(200) }
}

pub(crate) fn exited(exit_code: i32) -> InstanceState {
    InstanceState::Exited {
        started_at: Some(at(200)),
        finished_at: at(300),
        exit_code,
        reason: if exit_code == 0 { "Completed" } else { "Error" }.to_owned(),
        message: String::new(),
    }
}
