//! Ending containers: hooks, order, grace.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler};
use skep_runtime::spec::ProcessSpec;
use tokio::sync::watch;

use super::{MINIMUM_GRACE_SECONDS, Worker};
use crate::container::labels;
use crate::events::Level;
use crate::probe::ask::{self, Answer, MAX_OUTPUT_BYTES};
use crate::spec;
use crate::state::KillReason;
use crate::volume;

/// How long a killed process may take to be gone: longer, and it is stuck in the kernel.
const KILL_TIMEOUT: Duration = Duration::from_secs(15);
/// A hook that never ends is ended with its container; this only bounds a hook of a container that lives on.
const HOOK_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;

/// The signal of a name such as `SIGTERM`, or of a number.
fn signal(name: &str) -> i32 {
    const NAMES: [(&str, i32); 16] = [
        ("HUP", 1),
        ("INT", 2),
        ("QUIT", 3),
        ("ILL", 4),
        ("TRAP", 5),
        ("ABRT", 6),
        ("BUS", 7),
        ("FPE", 8),
        ("KILL", 9),
        ("USR1", 10),
        ("SEGV", 11),
        ("USR2", 12),
        ("PIPE", 13),
        ("ALRM", 14),
        ("TERM", 15),
        ("WINCH", 28),
    ];
    const FIRST_REAL_TIME: i32 = 34;
    const LAST_REAL_TIME: i32 = 64;
    let bare = name.strip_prefix("SIG").unwrap_or(name);
    if let Ok(number) = bare.parse() {
        return number;
    }
    let real_time = |prefix: &str, base: i32, sign: i32| {
        let rest = bare.strip_prefix(prefix)?;
        let offset: i32 = if rest.is_empty() { 0 } else { rest.get(1..)?.parse().ok()? };
        Some(base + sign * offset)
    };
    NAMES
        .iter()
        .find(|(n, _)| *n == bare)
        .map(|(_, number)| *number)
        .or_else(|| real_time("RTMIN", FIRST_REAL_TIME, 1))
        .or_else(|| real_time("RTMAX", LAST_REAL_TIME, -1))
        .unwrap_or(SIGTERM)
}

/// Who ends after whom: sidecars after the regular containers, and then from the last to the first.
pub(super) struct Order {
    /// Of each container that runs, whether it has ended.
    ended: BTreeMap<String, watch::Sender<bool>>,
    /// Whose end each sidecar waits for.
    after: BTreeMap<String, Vec<String>>,
}

impl Order {
    fn new(worker: &Worker, running: &[String]) -> Order {
        let ended = running.iter().map(|n| (n.clone(), watch::channel(false).0)).collect();
        let regular: Vec<String> = spec::containers(&worker.pod).iter().map(|c| c.name.clone()).collect();
        let sidecars: Vec<&Container> =
            spec::init_containers(&worker.pod).iter().filter(|c| spec::is_sidecar(c)).collect();
        let after = sidecars
            .iter()
            .enumerate()
            .map(|(i, c)| {
                let mut others = regular.clone();
                others.extend(sidecars.iter().skip(i + 1).map(|s| s.name.clone()));
                (c.name.clone(), others)
            })
            .collect();
        Order { ended, after }
    }

    async fn turn(&self, name: &str) {
        for other in self.after.get(name).into_iter().flatten() {
            if let Some(ended) = self.ended.get(other) {
                let _ = ended.subscribe().wait_for(|e| *e).await;
            }
        }
    }

    fn end(&self, name: &str) {
        if let Some(ended) = self.ended.get(name) {
            ended.send_replace(true);
        }
    }
}

impl Worker {
    /// The grace period of one container that is killed while its pod lives on.
    pub(super) fn container_grace(&self, c: &Container, reason: KillReason) -> i64 {
        if let Some(grace) = self.pod.metadata.deletion_grace_period_seconds {
            return grace;
        }
        let probe = match reason {
            KillReason::StartupProbe => c.startup_probe.as_ref(),
            KillReason::LivenessProbe => c.liveness_probe.as_ref(),
            KillReason::FailedPostStartHook | KillReason::Other => None,
        };
        probe
            .and_then(|p| p.termination_grace_period_seconds)
            .unwrap_or_else(|| spec::termination_grace_period(&self.pod))
    }

    /// Ends all containers that run.
    pub(super) async fn kill_all(&self, grace_seconds: i64) -> Result<(), String> {
        let running: Vec<(String, String)> = self
            .instances
            .iter()
            .filter(|i| i.is_running())
            .map(|i| (i.id.clone(), i.name.clone()))
            .collect();
        let names: Vec<String> = running.iter().map(|(_, n)| n.clone()).collect();
        let order = Order::new(self, &names);
        let order = &order;
        let kills = running.iter().map(|(id, name)| async move {
            let result = self.kill_container(id, name, "", grace_seconds, Some(order)).await;
            order.end(name);
            result
        });
        join_all(kills).await.into_iter().collect()
    }

    /// Ends one container: pre-stop hook, its turn, a request, and force.
    pub(super) async fn kill_container(
        &self,
        id: &str,
        name: &str,
        message: &str,
        grace_seconds: i64,
        order: Option<&Order>,
    ) -> Result<(), String> {
        let Some(sandbox) = self.sandbox.as_ref() else { return Ok(()) };
        let (kind, c) = spec::find(&self.pod, name).unwrap_or_else(|| {
            (spec::ContainerKind::Regular, Container { name: name.to_owned(), ..Default::default() })
        });
        let message =
            if message.is_empty() { format!("Stopping container {name}") } else { message.to_owned() };
        let first = {
            let mut stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
            stopped.insert(id.to_owned())
        };
        let mut left = Duration::from_secs(u64::try_from(grace_seconds).unwrap_or(0));
        if first {
            self.node.events.container(&self.pod, kind, name, Level::Normal, "Killing", message);
            if let Some(hook) = c.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref())
                && !left.is_zero()
            {
                let begun = Instant::now();
                let outcome = tokio::time::timeout(left, self.hook(&c, id, hook)).await;
                if !matches!(outcome, Ok(Ok(()))) {
                    self.node.events.container(
                        &self.pod,
                        kind,
                        name,
                        Level::Warning,
                        "FailedPreStopHook",
                        "PreStopHook failed",
                    );
                }
                left = left.saturating_sub(begun.elapsed());
            }
        }
        if let Some(order) = order
            && !left.is_zero()
        {
            let begun = Instant::now();
            let _ = tokio::time::timeout(left, order.turn(name)).await;
            left = left.saturating_sub(begun.elapsed());
        }
        let left = left.max(Duration::from_secs(MINIMUM_GRACE_SECONDS.unsigned_abs()));
        let stop =
            self.labels.get(id).and_then(|l| l.get(labels::STOP_SIGNAL)).map_or(SIGTERM, |s| signal(s));
        // Whoever has ended already cannot be signalled, and need not be.
        let _ = sandbox.kill(id, stop, false).await;
        if let Ok(Ok(_)) = tokio::time::timeout(left, sandbox.wait(id)).await {
            return Ok(());
        }
        let _ = sandbox.kill(id, SIGKILL, true).await;
        match tokio::time::timeout(KILL_TIMEOUT, sandbox.wait(id)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(e)) if sandbox.is_gone() => {
                tracing::debug!(container = name, error = %e.full(), "the shim went while its container was killed");
                Ok(())
            }
            Ok(Err(e)) => Err(format!("container {name} cannot be waited for: {}", e.full())),
            Err(_) => {
                Err(format!("container {name} does not end {} s after it was killed", KILL_TIMEOUT.as_secs()))
            }
        }
    }

    /// Runs a hook to its end. An error is a sentence that may hold what the container said.
    pub(super) async fn hook(&self, c: &Container, id: &str, hook: &LifecycleHandler) -> Result<(), String> {
        let pod_ip = self.facts.ips.first().or(self.node.host_ips.first()).cloned().unwrap_or_default();
        if let Some(exec) = &hook.exec {
            let command = exec.command.clone().unwrap_or_default();
            let shown = format!("[{}]", command.join(" "));
            let (sandbox, process) = (self.sandbox.as_ref(), self.process(id, command));
            let (Some(sandbox), Some(process)) = (sandbox, process) else {
                return Err("the container is gone".to_owned());
            };
            let place = format!(
                "Exec lifecycle hook ({shown}) for Container {:?} in Pod {:?} failed",
                c.name,
                spec::format_pod(&self.pod)
            );
            return match sandbox.exec_collect(id, process, MAX_OUTPUT_BYTES, HOOK_TIMEOUT).await {
                Ok(output) if output.exit.code == 0 => Ok(()),
                Ok(output) => Err(format!(
                    "{place} - error: command '{}' exited with {}: {}, message: {:?}",
                    shown.trim_matches(['[', ']']),
                    output.exit.code,
                    String::from_utf8_lossy(&output.stderr),
                    String::from_utf8_lossy(&output.stdout),
                )),
                Err(e) => Err(format!("{place} - error: {}, message: \"\"", e.full())),
            };
        }
        let place = |what: String| {
            format!("{what} for Container {:?} in Pod {:?} failed", c.name, spec::format_pod(&self.pod))
        };
        if let Some(get) = &hook.http_get {
            let what = format!("HTTP lifecycle hook ({})", get.path.as_deref().unwrap_or("/"));
            return match ask::http(get, c, &pod_ip, HOOK_TIMEOUT, "lifecycle").await {
                // As upstream: any answer will do.
                Answer::Success | Answer::Warning(_) => Ok(()),
                Answer::Failure(why) if why.starts_with("HTTP probe failed with statuscode") => Ok(()),
                Answer::Failure(why) | Answer::Error(why) => Err(format!("{} - error: {why}", place(what))),
            };
        }
        if let Some(tcp) = &hook.tcp_socket {
            return match ask::tcp(tcp, c, &pod_ip, HOOK_TIMEOUT).await {
                Answer::Failure(why) | Answer::Error(why) => {
                    Err(format!("{} - error: {why}", place("TCP lifecycle hook".to_owned())))
                }
                Answer::Success | Answer::Warning(_) => Ok(()),
            };
        }
        if let Some(sleep) = &hook.sleep {
            tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        }
        Ok(())
    }

    /// A process like the container's own first one.
    pub(super) fn process(&self, id: &str, command: Vec<String>) -> Option<ProcessSpec> {
        let text = self.labels.get(id)?.get(labels::PROCESS)?;
        let mut process: ProcessSpec = serde_json::from_str(text).ok()?;
        process.args = command;
        process.tty = false;
        Some(process)
    }

    /// Removes what is left of the pod on this node; whatever is gone already is fine.
    pub(super) async fn clean_up(&mut self) -> Result<(), String> {
        let uid = spec::uid(&self.pod).to_owned();
        self.sandbox = None;
        for attempt in 0..=self.facts.attempt.unwrap_or(0) {
            let id = super::observe::sandbox_id(&uid, attempt);
            self.node.runtime.remove(&id).await.map_err(|e| e.full())?;
        }
        self.facts.ready = false;
        clean_up_pod(&self.node, &uid).await
    }
}

/// Network, volumes and directories of a pod whose sandboxes are gone.
pub(crate) async fn clean_up_pod(node: &crate::context::Node, uid: &str) -> Result<(), String> {
    let (ports, owned) = (node.host_ports.clone(), uid.to_owned());
    tokio::task::spawn_blocking(move || ports.remove(&owned))
        .await
        .map_err(|e| e.to_string())?
        .map_err(|e| format!("taking the machine's ports from pod {uid}: {e}"))?;
    let netns = super::start::netns(&node.layout, uid);
    node.network.tear_down(uid, &netns).await.map_err(|e| e.to_string())?;
    node.images.release_pod(uid).await;
    // Before its directory, by which the next agent finds what an interrupted one has left.
    let tree = node.runtime.tree().clone();
    let group = super::start::cgroup(uid);
    tokio::task::spawn_blocking(move || if tree.exists(&group) { tree.remove(&group) } else { Ok(()) })
        .await
        .map_err(|e| e.to_string())?
        .map_err(|e| e.full())?;
    let (layout, owned) = (node.layout.clone(), uid.to_owned());
    tokio::task::spawn_blocking(move || volume::tear_down(&layout, &owned))
        .await
        .map_err(|e| e.to_string())?
        .map_err(|e| format!("removing the volumes of pod {uid}: {e}"))?;
    // Nothing belongs to its users any more.
    node.pod_users.release(uid).map_err(|e| format!("giving back the ids of pod {uid}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals() {
        for (name, number) in [
            ("SIGTERM", 15),
            ("TERM", 15),
            ("SIGQUIT", 3),
            ("9", 9),
            ("SIGRTMIN+3", 37),
            ("SIGRTMAX-1", 63),
            ("?", 15),
        ] {
            assert_eq!(signal(name), number, "{name}");
        }
    }
}
