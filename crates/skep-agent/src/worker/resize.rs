//! Resizing in place: what [`crate::resize`] decides, done.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Container;
use std::time::Duration;

use super::Worker;
use crate::container::runtime_resources;
use crate::events::Level;
use crate::resize::{self, Allocation, Step, Verdict};
use crate::resources::{self, CgroupLimits};
use crate::spec;
use crate::state::{KillReason, Plan, PlannedKill, PlannedStart};

/// When a resize that waits for room is looked at again.
const PENDING_AGAIN: Duration = Duration::from_secs(10);
/// When one that the kernel did not take is tried again.
const FAILED_AGAIN: Duration = Duration::from_secs(2);

impl Worker {
    /// The pod's allocation, from a former agent or as the pod first was.
    pub(super) fn load_allocation(&mut self) {
        let folder = self.node.layout.pod(spec::uid(&self.pod));
        self.allocation = Allocation::load(&folder).unwrap_or_else(|| Allocation::of(&self.pod));
    }

    fn save_allocation(&self) {
        let folder = self.node.layout.pod(spec::uid(&self.pod));
        if let Err(error) = self.allocation.save(&folder) {
            tracing::warn!(pod = %spec::format_pod(&self.pod), %error, "what a pod's containers have cannot be written down");
        }
    }

    /// Looks at what the specification asks for. From here on the worker sees the pod as it may be.
    pub(super) fn allocate(&mut self) {
        let wanted = self.desired.borrow().pod.clone();
        if self.allocation.is_for(&wanted) {
            self.told.pending = None;
            self.pod = wanted;
            return;
        }
        let others = self.pods.allocated_but(spec::uid(&wanted));
        let others: Vec<&_> = others.iter().map(Arc::as_ref).collect();
        let node = self.object.current();
        let apparmor = self.node.policy.apparmor;
        match resize::decide(&wanted, &self.allocation, &node, &self.node.allocatable, &others, apparmor) {
            Verdict::Same => self.told.pending = None,
            Verdict::Fits => {
                let actuated = std::mem::take(&mut self.allocation.actuated);
                self.allocation = Allocation {
                    actuated,
                    since: Some(wanted.metadata.generation.unwrap_or(0)),
                    ..Allocation::of(&wanted)
                };
                self.save_allocation();
                self.told = resize::Told { in_progress: true, ..resize::Told::default() };
                let message = format!("Pod resize started: {}", resize::summary(&wanted, None));
                self.node.events.pod(&wanted, Level::Normal, "ResizeStarted", message);
            }
            Verdict::Pending(reason, message) => {
                let pending = Some((reason, message.clone()));
                if self.told.pending != pending {
                    let event = if reason == "Infeasible" { "ResizeInfeasible" } else { "ResizeDeferred" };
                    let summary = resize::summary(&wanted, Some(&message));
                    let text = format!("Pod resize {reason}: {summary}");
                    self.node.events.pod(&wanted, Level::Warning, event, text);
                }
                self.told.pending = pending;
                self.look_in(PENDING_AGAIN);
            }
        }
        self.pod = Arc::new(self.allocation.apply((*wanted).clone()));
        // Others count what this pod has from now on.
        self.show();
    }

    /// Tells the kernel what containers may have; adds to the plan those that have to begin anew for it.
    pub(super) async fn actuate(&mut self, plan: &mut Plan) {
        let Some(sandbox) = self.sandbox.clone() else { return };
        let mut updates: Vec<(Container, String)> = Vec::new();
        let (mut known, mut waits) = (false, false);
        for (kind, list) in [
            (spec::ContainerKind::Init, spec::init_containers(&self.pod)),
            (spec::ContainerKind::Regular, spec::containers(&self.pod)),
        ] {
            for (index, c) in list.iter().enumerate() {
                let Some(run) = self.instances.iter().find(|i| i.name == c.name && i.is_running()) else {
                    continue;
                };
                let Some(actuated) = self.allocation.actuated.get(&run.id) else {
                    // Started with what was allocated then, which is what is allocated now: whoever allocates does so after looking.
                    self.allocation.actuated.insert(run.id.clone(), c.resources.clone());
                    known = true;
                    continue;
                };
                match resize::step(c, actuated) {
                    Step::None => {}
                    Step::Update => updates.push((c.clone(), run.id.clone())),
                    Step::Restart => {
                        waits = true;
                        if plan.kill.iter().any(|k| k.id == run.id) {
                            continue;
                        }
                        plan.kill.push(PlannedKill {
                            id: run.id.clone(),
                            name: c.name.clone(),
                            message: format!("Container {} resize requires restart", c.name),
                            reason: KillReason::Other,
                        });
                        plan.start.push(PlannedStart { kind, index });
                    }
                }
            }
        }
        let running: Vec<&String> = self.instances.iter().map(|i| &i.id).collect();
        let before = self.allocation.actuated.len();
        self.allocation.actuated.retain(|id, _| running.contains(&id));
        known |= before != self.allocation.actuated.len();
        let outcome = if updates.is_empty() && (waits || self.allocation.since.is_none()) {
            Ok(())
        } else {
            self.tell_kernel(&sandbox, &updates)
        };
        match outcome {
            Ok(()) => {
                known |= !updates.is_empty();
                for (c, id) in updates {
                    self.allocation.actuated.insert(id, c.resources);
                }
                self.told.error = None;
                if self.allocation.since.is_some() && !waits {
                    self.allocation.since = None;
                    self.told.in_progress = false;
                    known = true;
                    let message = format!("Pod resize completed: {}", resize::summary(&self.pod, None));
                    self.node.events.pod(&self.pod, Level::Normal, "ResizeCompleted", message);
                    self.look_in(Duration::ZERO);
                } else {
                    self.told.in_progress = self.allocation.since.is_some();
                }
            }
            Err(why) => {
                self.told.in_progress = true;
                if self.told.error.as_ref() != Some(&why) {
                    let message = format!("Pod resize error: {}", resize::summary(&self.pod, Some(&why)));
                    self.node.events.pod(&self.pod, Level::Warning, "ResizeError", message);
                }
                self.told.error = Some(why);
                self.look_in(FAILED_AGAIN);
            }
        }
        if known {
            self.save_allocation();
        }
        self.make_status(false, Timestamp::now());
    }

    /// The pod's group holds its containers' at every moment: it is widened first and narrowed last.
    fn tell_kernel(
        &self,
        sandbox: &skep_runtime::Sandbox,
        updates: &[(Container, String)],
    ) -> Result<(), String> {
        let cannot = |e: skep_runtime::Error| e.full();
        for (c, id) in updates {
            let before = self.allocation.actuated.get(id).cloned().flatten();
            if let Some(limit) = resize::lowers_memory(&before, &c.resources) {
                let used = sandbox.stats(id).map_err(cannot)?.memory_usage_bytes;
                if used >= u64::try_from(limit).unwrap_or(0) {
                    return Err(format!(
                        "cannot decrease memory limits: attempting to set container {:?} memory limit ({limit}) below current usage ({used})",
                        c.name
                    ));
                }
            }
        }
        let pod = resources::pod_cgroup_limits(&self.pod);
        let wide = CgroupLimits { cpu_quota_us: Some(-1), memory_bytes: Some(-1), ..pod.clone() };
        let pids = self.node.pod_pids_limit;
        sandbox.update_pod(&changeable(&wide, pids)).map_err(cannot)?;
        for (c, id) in updates {
            let mut limits = resources::container_limits(&self.pod, c);
            limits.cpu_quota_us.get_or_insert(-1);
            limits.memory_bytes.get_or_insert(-1);
            sandbox.update(id, &changeable(&limits, -1)).map_err(cannot)?;
        }
        sandbox.update_pod(&changeable(&pod, pids)).map_err(cannot)
    }
}

fn changeable(limits: &CgroupLimits, pids: i64) -> skep_runtime::spec::Resources {
    let limits = CgroupLimits { hugepages_bytes: Default::default(), ..limits.clone() };
    runtime_resources(&limits, pids)
}
