//! The probes of a pod's containers: one task each, for as long as the run lives that it asks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use skep_runtime::spec::ProcessSpec;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::Worker;
use crate::context::Node;
use crate::events::Level;
use crate::probe::ask::{self, Answer, MAX_OUTPUT_BYTES};
use crate::probe::{Gauge, ProbeKind};
use crate::spec::{self, ContainerKind};
use crate::state::{InstanceState, ProbeResult, ProbeResults};

type Results = Arc<Mutex<BTreeMap<String, ProbeResults>>>;

/// Probes that run, and what they found.
#[derive(Default)]
pub(super) struct Probes {
    results: Results,
    tasks: BTreeMap<(String, ProbeKind), JoinHandle<()>>,
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.stop_all();
    }
}

impl Probes {
    /// What they found.
    pub(super) fn results(&self) -> BTreeMap<String, ProbeResults> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A pod that ends is no longer killed for being unwell, but may say when it no longer serves.
    pub(super) fn stop_all_but_readiness(&mut self) {
        self.tasks.retain(|(_, kind), task| {
            let keep = *kind == ProbeKind::Readiness;
            if !keep {
                task.abort();
            }
            keep
        });
    }

    pub(super) fn stop_all(&mut self) {
        for (_, task) in std::mem::take(&mut self.tasks) {
            task.abort();
        }
    }
}

fn set(results: &Results, id: &str, kind: ProbeKind, result: ProbeResult) -> bool {
    let mut all = results.lock().unwrap_or_else(PoisonError::into_inner);
    let one = all.entry(id.to_owned()).or_default();
    let slot = match kind {
        ProbeKind::Startup => &mut one.startup,
        ProbeKind::Liveness => &mut one.liveness,
        ProbeKind::Readiness => &mut one.readiness,
    };
    slot.replace(result) != Some(result)
}

impl Worker {
    /// Has a probe run for every container that lives, and none for those that do not.
    pub(super) fn sync_probes(&mut self) {
        let mut alive = Vec::new();
        let sidecars = spec::init_containers(&self.pod).iter().filter(|c| spec::is_sidecar(c));
        let probed = spec::containers(&self.pod)
            .iter()
            .map(|c| (ContainerKind::Regular, c))
            .chain(sidecars.map(|c| (ContainerKind::Init, c)));
        let mut missing = Vec::new();
        for (kind, c) in probed {
            let newest = self.instances.iter().filter(|i| i.name == c.name).max_by_key(|i| i.restart_count);
            let Some((run, started_at)) = newest.and_then(|run| match run.state {
                InstanceState::Running { started_at } => Some((run, started_at)),
                _ => None,
            }) else {
                continue;
            };
            alive.push(run.id.clone());
            for probe_kind in ProbeKind::ALL {
                if let Some(probe) = probe_kind.of(c)
                    && !self.probes.tasks.contains_key(&(run.id.clone(), probe_kind))
                {
                    missing.push((kind, c.clone(), probe.clone(), probe_kind, run.id.clone(), started_at));
                }
            }
        }
        self.probes.tasks.retain(|(id, _), task| {
            let keep = alive.contains(id);
            if !keep {
                task.abort();
            }
            keep
        });
        self.probes.results.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| alive.contains(id));
        for (kind, c, probe, probe_kind, id, started_at) in missing {
            self.start_probe(kind, c, probe, probe_kind, id, started_at);
        }
    }

    fn start_probe(
        &mut self,
        kind: ContainerKind,
        c: Container,
        probe: Probe,
        probe_kind: ProbeKind,
        id: String,
        started_at: Timestamp,
    ) {
        let Some(sandbox) = self.sandbox.clone() else { return };
        // What ran before this agent began keeps what its status says until it is asked.
        let inherited = started_at < self.node.started;
        let has_started =
            self.status.container_statuses.iter().chain(&self.status.init_container_statuses).flatten().any(
                |s| {
                    s.name == c.name
                        && s.started == Some(true)
                        && s.container_id.as_deref().is_some_and(|p| p.ends_with(&id))
                },
            );
        if !inherited {
            set(&self.probes.results, &id, probe_kind, probe_kind.initial());
        } else if probe_kind == ProbeKind::Startup && has_started {
            set(&self.probes.results, &id, probe_kind, ProbeResult::Success);
            self.probes.tasks.insert((id, probe_kind), tokio::spawn(async {}));
            return;
        }
        let command = probe.exec.as_ref().and_then(|e| e.command.clone()).unwrap_or_default();
        let process = self.process(&id, command);
        let pod_ip = self.facts.ips.first().or(self.node.host_ips.first()).cloned().unwrap_or_default();
        let asker = Asker {
            node: self.node.clone(),
            pod: self.pod.clone(),
            kind,
            c,
            probe,
            probe_kind,
            id: id.clone(),
            sandbox,
            process,
            pod_ip,
            results: self.probes.results.clone(),
            wake: self.wake.clone(),
        };
        let task = tokio::spawn(asker.run(started_at, inherited));
        self.probes.tasks.insert((id, probe_kind), task);
    }
}

struct Asker {
    node: Arc<Node>,
    pod: Arc<Pod>,
    kind: ContainerKind,
    c: Container,
    probe: Probe,
    probe_kind: ProbeKind,
    id: String,
    sandbox: skep_runtime::Sandbox,
    process: Option<ProcessSpec>,
    pod_ip: String,
    results: Results,
    wake: Arc<Notify>,
}

fn seconds(given: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(given.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0).unwrap_or(default))
}

impl Asker {
    async fn run(self, started_at: Timestamp, inherited: bool) {
        let period = seconds(self.probe.period_seconds, 10);
        let delay = jiff::SignedDuration::from_secs(self.probe.initial_delay_seconds.unwrap_or(0).into());
        let first = started_at.checked_add(delay).unwrap_or(started_at);
        let mut pause = Duration::try_from(first.duration_since(Timestamp::now())).unwrap_or_default();
        if inherited {
            // All pods of a restarted agent at once would be a burst.
            pause = pause.max(period.mul_f64(rand::random()));
        }
        let mut gauge = Gauge::new(self.probe_kind, &self.probe);
        tokio::time::sleep(pause).await;
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        while !gauge.is_done() {
            if self.probe_kind != ProbeKind::Startup && !self.has_started() {
                // Nobody is asked before having started; look again soon, or a short-lived pod is never asked.
                tokio::time::sleep(GATE).await;
                continue;
            }
            ticks.tick().await;
            let answer = self.ask().await;
            if let Some(result) = self.judge(answer).and_then(|success| gauge.take(success))
                && set(&self.results, &self.id, self.probe_kind, result)
            {
                self.wake.notify_one();
            }
        }
    }

    fn has_started(&self) -> bool {
        if self.c.startup_probe.is_none() {
            return true;
        }
        let all = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&self.id).and_then(|r| r.startup) == Some(ProbeResult::Success)
    }

    /// Tells people, and says whether it counts as success.
    fn judge(&self, answer: Answer) -> Option<bool> {
        let word = self.probe_kind.word();
        let tell = |reason: &'static str, message: String| {
            self.node.events.container(&self.pod, self.kind, &self.c.name, Level::Warning, reason, message);
        };
        match answer {
            Answer::Success => Some(true),
            Answer::Warning(output) => {
                tell("ProbeWarning", format!("{word} probe warning: {output}"));
                Some(true)
            }
            Answer::Failure(output) => {
                tell("Unhealthy", format!("{word} probe failed: {output}"));
                Some(false)
            }
            Answer::Error(why) => {
                tell("Unhealthy", format!("{word} probe errored and resulted in unknown state: {why}"));
                None
            }
        }
    }

    async fn ask(&self) -> Answer {
        let timeout = seconds(self.probe.timeout_seconds, 1);
        if self.probe.exec.is_some() {
            return self.exec(timeout).await;
        }
        if let Some(get) = &self.probe.http_get {
            return ask::http(get, &self.c, &self.pod_ip, timeout, "probe").await;
        }
        if let Some(tcp) = &self.probe.tcp_socket {
            return ask::tcp(tcp, &self.c, &self.pod_ip, timeout).await;
        }
        if let Some(grpc) = &self.probe.grpc {
            return ask::grpc(grpc, &self.pod_ip, timeout).await;
        }
        Answer::Error(format!("missing probe handler for {}:{}", spec::format_pod(&self.pod), self.c.name))
    }

    async fn exec(&self, timeout: Duration) -> Answer {
        let Some(process) = self.process.clone() else {
            return Answer::Error("the container's process is not known".to_owned());
        };
        let shown = process.args.join(" ");
        match self.sandbox.exec_collect(&self.id, process, MAX_OUTPUT_BYTES, timeout).await {
            Ok(output) if output.exit.code == 0 => Answer::Success,
            Ok(output) => {
                let mut text = output.stdout;
                text.extend_from_slice(&output.stderr);
                Answer::Failure(String::from_utf8_lossy(&text).into_owned())
            }
            Err(e) if e.message.starts_with("command timed out") => Answer::Failure(format!(
                "command timed out: {shown:?} timed out after {}s",
                timeout.as_secs()
            )),
            Err(e) => Answer::Error(e.full()),
        }
    }
}

/// How often a probe looks whether its container has started.
const GATE: Duration = Duration::from_millis(100);
