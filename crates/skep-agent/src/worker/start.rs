//! Doing what a plan says: sandbox, volumes, images, containers.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Container;
use skep_runtime::ErrorKind;
use skep_runtime::spec::{Network, PidNamespace, SandboxSpec};

use super::observe::sandbox_id;
use super::{RETRY, Worker};
use crate::container::{ImageVolumes, Inputs, container_spec, labels, runtime_resources};
use crate::downward::FieldContext;
use crate::env::{self, EnvError};
use crate::events::Level;
use crate::files;
use crate::images::{PullPolicy, credentials, lease_id, with_default_tag};
use crate::network::{PodAddresses, PodIdentity};
use crate::pod_users::IdRange;
use crate::spec::{self, ContainerKind};
use crate::state::{KillReason, Plan, PlannedStart, StartFailure};
use crate::volume::payload::Material;
use crate::volume::{self, Layout};
use crate::{resources, security};

/// When somebody who watches a pull begins to wonder, and how rarely they are told in the end.
const PULL_TOLD_FIRST: Duration = Duration::from_secs(5);
const PULL_TOLD_LAST: Duration = Duration::from_secs(60);
/// After a pull that failed, the status soon says that it waits.
const SHOW_BACKOFF: Duration = Duration::from_secs(1);
/// Runs of a container that are kept besides the newest: the one whose end the status shows.
const KEEP_RUNS: usize = 2;

/// Where a pod's network namespace is mounted.
pub(crate) fn netns(layout: &Layout, uid: &str) -> PathBuf {
    layout.data.join("netns").join(uid)
}

/// A pod's control group.
pub(super) fn cgroup(uid: &str) -> PathBuf {
    PathBuf::from(format!("pod{uid}"))
}

/// A span of time as Go writes it: `1m20s`.
fn go_duration(d: jiff::SignedDuration) -> String {
    let s = d.as_secs();
    match (s / 3600, s / 60 % 60, s % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

/// Why a container was not started: reason and message of its status.
type Failed = (&'static str, String);

impl Worker {
    /// Does what the plan says. An error is a pause after which to try again.
    pub(super) async fn apply(&mut self, plan: Plan) -> Result<(), Duration> {
        for kill in plan.kill.iter().chain(&plan.reset) {
            let Some((_, c)) = spec::find(&self.pod, &kill.name) else { continue };
            let grace = self.container_grace(&c, kill.reason);
            let is_running = self.instances.iter().any(|i| i.id == kill.id && i.is_running());
            if is_running
                && let Err(why) = self.kill_container(&kill.id, &kill.name, &kill.message, grace, None).await
            {
                self.node.events.pod(&self.pod, Level::Warning, "FailedKillPod", why);
                return Err(RETRY);
            }
        }
        for kill in &plan.reset {
            self.forget_run(&kill.id).await;
        }
        if let Some(attempt) = plan.create_sandbox {
            self.leave_sandbox().await?;
            self.prepare_volumes().await?;
            self.create_sandbox(attempt).await?;
        } else if !plan.start.is_empty() || self.volumes.is_none() || plan.is_empty() {
            self.prepare_volumes().await?;
        }
        for start in &plan.start {
            let again = self.start(start).await;
            if let (Err(()), ContainerKind::Init) = (again, start.kind) {
                // What comes after an init container waits for it.
                break;
            }
        }
        Ok(())
    }

    async fn forget_run(&mut self, id: &str) {
        if let Some(sandbox) = &self.sandbox
            && let Err(e) = sandbox.remove_container(id).await
            && e.kind != ErrorKind::NotFound
        {
            tracing::debug!(container = id, error = %e.full(), "a container that has ended cannot be removed yet");
        }
        self.past.retain(|p| p.id != id);
        self.finished.remove(id);
        self.node.images.release(&lease_id(spec::uid(&self.pod), id)).await;
    }

    /// Removes the sandbox that the pod had.
    async fn leave_sandbox(&mut self) -> Result<(), Duration> {
        let Some(sandbox) = self.sandbox.take() else { return Ok(()) };
        self.node.events.pod(
            &self.pod,
            Level::Normal,
            "SandboxChanged",
            "Pod sandbox changed, it will be killed and re-created.",
        );
        if let Ok(statuses) = sandbox.status().await {
            self.remember(&statuses, self.facts.attempt.unwrap_or(0));
        }
        self.node.runtime.remove(sandbox.id()).await.map_err(|e| {
            tracing::warn!(sandbox = sandbox.id(), error = %e.full(), "a sandbox cannot be removed");
            RETRY
        })
    }

    fn fields<'a>(&'a self, pod_ips: &'a [String]) -> FieldContext<'a> {
        FieldContext { pod_ips, host_ips: &self.node.host_ips, allocatable: self.node.allocatable.clone() }
    }

    fn pod_ips(&self) -> Vec<String> {
        if spec::host_network(&self.pod) { self.node.host_ips.clone() } else { self.facts.ips.clone() }
    }

    /// Makes the pod's volumes, or brings them up to date.
    async fn prepare_volumes(&mut self) -> Result<(), Duration> {
        let wanted = env::references(&self.pod);
        if wanted != self.held_for {
            self.held = self.node.objects.hold(&self.pod, &self.wake);
            self.held_for = wanted;
        }
        let has_volumes = self.pod.spec.as_ref().is_some_and(|s| s.volumes.iter().flatten().next().is_some());
        if !has_volumes {
            self.volumes = Some(volume::Volumes::new());
            return Ok(());
        }
        let failed = |worker: &Worker, why: String| {
            worker.node.events.pod(&worker.pod, Level::Warning, "FailedMount", why);
            RETRY
        };
        let objects = self.held.objects().await.map_err(|why| failed(self, why))?;
        let tokens = match self.tokens.fresh(&self.pod, Timestamp::now()).await {
            Ok((tokens, refresh)) => {
                if let Some(at) = refresh {
                    self.look_at(at);
                }
                tokens
            }
            Err(why) => return Err(failed(self, why)),
        };
        let (layout, pod) = (self.node.layout.clone(), self.pod.clone());
        let (pod_ips, host_ips) = (self.pod_ips(), self.node.host_ips.clone());
        let allocatable = self.node.allocatable.clone();
        let users = self.users().map_err(|why| failed(self, why))?;
        let stamp = Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S.%9f").to_string();
        let result = tokio::task::spawn_blocking(move || {
            let fields = FieldContext { pod_ips: &pod_ips, host_ips: &host_ips, allocatable };
            let material = Material { objects: &objects, tokens: &tokens, fields: &fields };
            volume::set_up(&layout, &pod, &material, users, &stamp)
        })
        .await;
        match result {
            Ok(Ok(volumes)) => {
                self.volumes = Some(volumes);
                Ok(())
            }
            Ok(Err(error)) => Err(failed(self, error.to_string())),
            Err(error) => Err(failed(self, error.to_string())),
        }
    }

    async fn create_sandbox(&mut self, attempt: u32) -> Result<(), Duration> {
        match self.try_create_sandbox(attempt).await {
            Ok(()) => Ok(()),
            Err(why) => {
                self.node.events.pod(
                    &self.pod,
                    Level::Warning,
                    "FailedCreatePodSandBox",
                    format!("Failed to create pod sandbox: {why}"),
                );
                Err(RETRY)
            }
        }
    }

    async fn try_create_sandbox(&mut self, attempt: u32) -> Result<(), String> {
        let uid = spec::uid(&self.pod).to_owned();
        let host = files::host_name(&self.pod, &self.node.cluster_domain)?;
        let pod_dir = self.node.layout.pod(&uid);
        std::fs::create_dir_all(&pod_dir).map_err(|e| format!("making {}: {e}", pod_dir.display()))?;
        let users = self.users()?;
        let path = netns(&self.node.layout, &uid);
        if !spec::host_network(&self.pod) {
            self.network_is_ready()?;
        }
        let network = if spec::host_network(&self.pod) {
            Network::Host
        } else if users.is_some() {
            Network::New { pin: Some(path.clone()) }
        } else {
            make_namespace(path.clone()).await?;
            Network::Path(path.clone())
        };
        let pod_spec = self.pod.spec.clone().unwrap_or_default();
        let sandbox = SandboxSpec {
            id: sandbox_id(&uid, attempt),
            hostname: host.kernel.clone(),
            network,
            pid: if pod_spec.host_pid == Some(true) {
                PidNamespace::Host
            } else if pod_spec.share_process_namespace == Some(true) {
                PidNamespace::Pod
            } else {
                PidNamespace::Container
            },
            host_ipc: pod_spec.host_ipc == Some(true),
            // As upstream's runtimes: a pod in the host's network has the host's name too.
            host_uts: spec::host_network(&self.pod) && pod_spec.hostname_override.is_none(),
            user_namespace: users.map(IdRange::namespace),
            sysctls: security::sysctls(&self.pod),
            cgroup: cgroup(&uid),
            resources: runtime_resources(&resources::pod_cgroup_limits(&self.pod), self.node.pod_pids_limit),
            shm_size_bytes: skep_runtime::spec::DEFAULT_SHM_SIZE_BYTES,
            labels: [
                (labels::POD_UID, uid.clone()),
                (labels::POD_NAME, spec::name(&self.pod).to_owned()),
                (labels::POD_NAMESPACE, spec::namespace(&self.pod).to_owned()),
                (labels::GRACE_SECONDS, spec::termination_grace_period(&self.pod).to_string()),
            ]
            .into_iter()
            .map(|(k, v)| (k.to_owned(), v))
            .collect(),
        };
        self.facts.attempt = Some(attempt);
        let sets_parameters = !sandbox.sysctls.is_empty();
        let create = async { self.node.runtime.create(sandbox).await.map_err(|e| e.full()) };
        let (made, connected) = if spec::host_network(&self.pod) {
            (create.await?, Ok(None))
        } else if users.is_some() {
            // Its network belongs to its users, so it is there only now.
            let made = create.await?;
            (made, self.connect(&path).await.map(Some))
        } else if sets_parameters {
            // Those of the network are set in one that is complete: the pod's wish is the last word.
            let addresses = self.connect(&path).await?;
            (create.await?, Ok(Some(addresses)))
        } else {
            // The server is asked for addresses while the shim starts.
            let (made, connected) = tokio::join!(create, self.connect(&path));
            (made?, connected.map(Some))
        };
        let written = match connected {
            Ok(addresses) => self.settle_network(&pod_dir, &host, users, addresses).await,
            Err(why) => Err(why),
        };
        if let Err(why) = written {
            if let Err(e) = self.node.runtime.remove(made.id()).await {
                tracing::warn!(sandbox = made.id(), error = %e.full(), "a sandbox without a network stays");
            }
            return Err(why);
        }
        self.facts.ready = true;
        self.hold_sandbox(made);
        Ok(())
    }

    /// The ids that the pod has for users of its own; nothing where it has the machine's users.
    fn users(&self) -> Result<Option<IdRange>, String> {
        let own = self.pod.spec.as_ref().is_some_and(|s| s.host_users == Some(false));
        own.then(|| self.node.pod_users.take(spec::uid(&self.pod))).transpose()
    }

    fn network_is_ready(&self) -> Result<(), String> {
        let Some(why) = self.node.network.not_ready() else { return Ok(()) };
        let message = format!("network is not ready: {why}");
        self.node.events.pod(&self.pod, Level::Warning, "NetworkNotReady", message.clone());
        Err(message)
    }

    /// Gives the pod its network in the namespace at `path`.
    async fn connect(&self, path: &Path) -> Result<PodAddresses, String> {
        let failed = |e| format!("failed to setup network for sandbox: {e}");
        self.node.network.set_up(&self.identity(), path).await.map_err(failed)
    }

    /// Writes down what the pod has of a network, for the next agent and for its containers.
    async fn settle_network(
        &mut self,
        pod_dir: &Path,
        host: &files::HostName,
        users: Option<IdRange>,
        addresses: Option<PodAddresses>,
    ) -> Result<(), String> {
        if let Some(addresses) = addresses {
            record(pod_dir, &addresses)?;
            self.facts.ips = addresses.ips;
            let (ports, pod, ips) = (self.node.host_ports.clone(), self.pod.clone(), self.facts.ips.clone());
            tokio::task::spawn_blocking(move || ports.set(&pod, &ips))
                .await
                .map_err(|e| e.to_string())?
                .map_err(|e| format!("leading the machine's ports to the pod: {e}"))?;
        }
        self.write_files(pod_dir, host, users)
    }

    fn identity(&self) -> PodIdentity {
        let pod = &self.pod;
        PodIdentity {
            uid: spec::uid(pod).to_owned(),
            namespace: spec::namespace(pod).to_owned(),
            name: spec::name(pod).to_owned(),
            annotations: pod.metadata.annotations.clone().unwrap_or_default(),
            static_of: spec::is_static(pod).then(|| self.object.current().metadata.uid).flatten(),
        }
    }

    fn write_files(
        &self,
        pod_dir: &Path,
        host: &files::HostName,
        users: Option<IdRange>,
    ) -> Result<(), String> {
        let owner = users.map(IdRange::first);
        let hosts = files::hosts(&self.pod, host, &self.pod_ips(), &self.node.hosts());
        let (resolv_conf, missing_dns) = files::resolv_conf(&self.pod, &self.node.dns());
        if missing_dns {
            tracing::debug!(pod = %spec::format_pod(&self.pod), "no server for the tenant's names is known; the pod gets the node's own");
        }
        for (name, text) in
            [("etc-hosts", hosts), ("resolv.conf", resolv_conf), ("hostname", format!("{}\n", host.kernel))]
        {
            let path = pod_dir.join(name);
            std::fs::write(&path, text)
                .and_then(|()| std::os::unix::fs::chown(&path, owner, owner))
                .and_then(|()| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)))
                .map_err(|e| format!("writing {}: {e}", path.display()))?;
        }
        Ok(())
    }

    /// Starts a container, unless it must wait. An error means that what comes after it must wait too.
    async fn start(&mut self, planned: &PlannedStart) -> Result<(), ()> {
        let Some(c) = spec::of_kind(&self.pod, planned.kind).into_iter().nth(planned.index) else {
            return Ok(());
        };
        if planned.kind != ContainerKind::Ephemeral && self.must_wait(&c, planned.kind) {
            return Err(());
        }
        match self.try_start(&c, planned.kind).await {
            Ok(()) => {
                self.failures.remove(&c.name);
                Ok(())
            }
            Err((reason, message)) => {
                self.failures.insert(c.name.clone(), StartFailure { reason: reason.to_owned(), message });
                if self.next_look.is_none() {
                    self.look_in(RETRY);
                }
                Err(())
            }
        }
    }

    /// Whether a container that keeps ending has to wait.
    fn must_wait(&mut self, c: &Container, kind: ContainerKind) -> bool {
        let last = self.instances.iter().filter(|i| i.name == c.name).filter_map(|i| i.finished_at()).max();
        let Some(finished) = last else { return false };
        let now = Timestamp::now();
        let Some((delay, until)) = self.restarts.blocked(&c.name, finished, now) else {
            self.restarts.next(&c.name, finished, now);
            return false;
        };
        let pod = spec::format_pod(&self.pod);
        let before = self.failures.insert(
            c.name.clone(),
            StartFailure {
                reason: "CrashLoopBackOff".to_owned(),
                message: format!(
                    "back-off {} restarting failed container={} pod={pod}",
                    go_duration(delay),
                    c.name
                ),
            },
        );
        if before.is_none_or(|b| b.reason != "CrashLoopBackOff") {
            self.node.events.container(
                &self.pod,
                kind,
                &c.name,
                Level::Warning,
                "BackOff",
                format!("Back-off restarting failed container {} in pod {pod}", c.name),
            );
        }
        self.look_at(until);
        true
    }

    async fn try_start(&mut self, c: &Container, kind: ContainerKind) -> Result<(), Failed> {
        let pod = self.pod.clone();
        let node = self.node.clone();
        let tell = |level: Level, reason: &'static str, message: String| {
            node.events.container(&pod, kind, &c.name, level, reason, message);
        };
        let config = |message: String| {
            tell(Level::Warning, "Failed", format!("Error: {message}"));
            ("CreateContainerConfigError", message)
        };
        let image = self.image(c, kind).await.inspect_err(|(reason, _)| {
            tell(Level::Warning, "Failed", format!("Error: {reason}"));
        })?;
        let image_volumes = self.image_volumes(c).await.inspect_err(|(reason, _)| {
            tell(Level::Warning, "Failed", format!("Error: {reason}"));
        })?;
        let sandbox =
            self.sandbox.clone().ok_or(("ContainerCreating", "the pod has no sandbox".to_owned()))?;
        let objects = self.held.objects().await.map_err(config)?;
        if !node.services.has_synced() && !spec::is_static(&pod) {
            let waited = tokio::time::timeout(Duration::from_secs(5), node.services.synced()).await;
            if waited.is_err() {
                return Err(config(
                    "services have not yet been read at least once, cannot construct envvars".to_owned(),
                ));
            }
        }
        let services = self.service_variables();
        let volumes = self.volumes.clone().unwrap_or_default();
        let pod_ips = self.pod_ips();
        let env = env::environment(&pod, c, &objects, &services, &self.fields(&pod_ips), |volume, path| {
            read_env_file(&volumes, volume, path)
        })
        .map_err(|e| config(e.to_string()))?;
        let previous = self.instances.iter().filter(|i| i.name == c.name).map(|i| i.restart_count + 1).max();
        let restart_count = previous.unwrap_or_else(|| {
            let reported = self.reported_restart_count(&c.name);
            // A run of this number had this log, though runtime and status have forgotten it: the machine was stopped under it.
            let ran = self.node.layout.log(&self.pod, &c.name, reported).exists();
            reported + u32::from(ran)
        });
        let id = container_id();
        let termination_log = self.make_places(c, &id, restart_count).map_err(config)?;
        let inputs = Inputs {
            pod: &pod,
            container: c,
            kind,
            id: &id,
            restart_count,
            sandbox_attempt: self.facts.attempt.unwrap_or(0),
            layers: node.pod_users.layers(self.users().map_err(config)?, &image.layers),
            image: &image,
            env: &env,
            volumes: &volumes,
            image_volumes: &image_volumes,
            layout: &node.layout,
            policy: &node.policy,
            memory_capacity_bytes: node.memory_capacity_bytes,
            termination_log: &termination_log,
            pids_limit: -1,
        };
        let mut spec = container_spec(&inputs).map_err(config)?;
        spec.processes_of = self.target(c, kind).map_err(config)?;
        self.make_room(&c.name).await;
        let name = with_default_tag(c.image.as_deref().unwrap_or_default()).unwrap_or_default();
        let lease = lease_id(spec::uid(&pod), &id);
        node.images.lease(&lease, &name).await.map_err(|e| ("ErrImagePull", e.to_string()))?;
        sandbox.create(spec).await.map_err(|e| {
            tell(Level::Warning, "Failed", format!("Error: {}", e.full()));
            ("CreateContainerError", e.full())
        })?;
        tell(Level::Normal, "Created", "Container created".to_owned());
        sandbox.start(&id).await.map_err(|e| {
            tell(Level::Warning, "Failed", format!("Error: {}", e.full()));
            ("RunContainerError", e.full())
        })?;
        tell(Level::Normal, "Started", "Container started".to_owned());
        if let Some(hook) = c.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) {
            self.observe().await;
            self.make_status(false, Timestamp::now());
            if let Err(message) = self.hook(c, &id, hook).await {
                // The event does not tell what the container said: it may hold secrets.
                tell(Level::Warning, "FailedPostStartHook", "PostStartHook failed".to_owned());
                let grace = self.container_grace(c, KillReason::FailedPostStartHook);
                if let Err(why) = self.kill_container(&id, &c.name, "FailedPostStartHook", grace, None).await
                {
                    tracing::warn!(container = c.name, %why, "a container cannot be killed");
                }
                return Err(("PostStartHookError", message));
            }
        }
        Ok(())
    }

    /// The run whose processes an ephemeral container asks to see.
    fn target(&self, c: &Container, kind: ContainerKind) -> Result<Option<String>, String> {
        let all = self.pod.spec.as_ref().and_then(|s| s.ephemeral_containers.as_deref()).unwrap_or_default();
        let own = all.iter().find(|e| kind == ContainerKind::Ephemeral && e.name == c.name);
        let Some(name) = own.and_then(|e| e.target_container_name.as_deref()).filter(|n| !n.is_empty())
        else {
            return Ok(None);
        };
        let run = self.instances.iter().filter(|i| i.name == name).max_by_key(|i| i.restart_count);
        match run {
            Some(run) => Ok(Some(run.id.clone())),
            None => Err(format!("unable to find target container {name}")),
        }
    }

    fn reported_restart_count(&self, name: &str) -> u32 {
        let lists = [&self.status.container_statuses, &self.status.init_container_statuses];
        let status = lists.into_iter().flatten().flatten().find(|s| s.name == name);
        // A run that the runtime has forgotten still counts; where the status says that the next one is waited for, it
        // has been counted.
        status.map_or(0, |s| {
            let ended = s.state.as_ref().is_some_and(|st| st.terminated.is_some());
            u32::try_from(s.restart_count).unwrap_or(0) + u32::from(ended)
        })
    }

    fn service_variables(&self) -> env::Env {
        let mut services = Vec::new();
        self.node.services.for_each(|s| services.push(s.clone()));
        let links = self.pod.spec.as_ref().and_then(|s| s.enable_service_links).unwrap_or(true);
        env::service_variables(services.iter().map(|s| &s.view), spec::namespace(&self.pod), links)
    }

    /// Directories and files that a run needs; answers with the file for its last words.
    fn make_places(&self, c: &Container, id: &str, restart_count: u32) -> Result<PathBuf, String> {
        let owner = self.users()?.map(IdRange::first);
        let layout = &self.node.layout;
        let words = layout.pod(spec::uid(&self.pod)).join("containers").join(&c.name);
        let log = layout.log(&self.pod, &c.name, restart_count);
        let folder = log.parent().unwrap_or(&layout.data).to_owned();
        let file = words.join(id.get(..8).unwrap_or(id));
        std::fs::create_dir_all(&words)
            .and_then(|()| std::fs::create_dir_all(&folder))
            .and_then(|()| std::fs::File::create(&file).map(drop))
            .and_then(|()| std::os::unix::fs::chown(&file, owner, owner))
            // Whoever the container runs as may leave a word.
            .and_then(|()| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)))
            .map_err(|e| format!("making {}: {e}", file.display()))?;
        Ok(file)
    }

    /// Forgets all but the last run of a container.
    async fn make_room(&mut self, name: &str) {
        let mut runs: Vec<(u32, String)> = self
            .instances
            .iter()
            .filter(|i| i.name == name && !i.is_running())
            .map(|i| (i.restart_count, i.id.clone()))
            .collect();
        runs.sort();
        let surplus = runs.len().saturating_sub(KEEP_RUNS - 1);
        for (count, id) in runs.into_iter().take(surplus) {
            self.forget_run(&id).await;
            let log = self.node.layout.log(&self.pod, name, count);
            let words = self.node.layout.pod(spec::uid(&self.pod)).join("containers").join(name);
            for path in [log, words.join(id.get(..8).unwrap_or(&id))] {
                if let Err(error) = std::fs::remove_file(&path)
                    && error.kind() != std::io::ErrorKind::NotFound
                {
                    tracing::debug!(path = %path.display(), %error, "a former run's file cannot be removed");
                }
            }
        }
    }

    /// The container's image, pulled if its policy says so.
    async fn image(
        &mut self,
        c: &Container,
        kind: ContainerKind,
    ) -> Result<crate::container::ImageDefaults, Failed> {
        let (pod, node) = (self.pod.clone(), self.node.clone());
        let tell = |level: Level, reason: &'static str, message: String| {
            node.events.container(&pod, kind, &c.name, level, reason, message);
        };
        let asked = c.image.clone().unwrap_or_default();
        self.ensure_image(&asked, c.image_pull_policy.as_deref(), &tell).await
    }

    /// The layers of images that the container mounts as volumes, which are kept for as long as the pod is here.
    async fn image_volumes(&mut self, c: &Container) -> Result<ImageVolumes, Failed> {
        let (pod, node) = (self.pod.clone(), self.node.clone());
        let tell = |level: Level, reason: &'static str, message: String| {
            node.events.pod(&pod, level, reason, message);
        };
        let mut found = ImageVolumes::new();
        for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
            let mounted = c.volume_mounts.iter().flatten().any(|m| m.name == volume.name);
            let Some(source) = volume.image.as_ref().filter(|_| mounted) else { continue };
            let asked = source.reference.clone().unwrap_or_default();
            let image = self.ensure_image(&asked, source.pull_policy.as_deref(), &tell).await?;
            let name = with_default_tag(&asked).unwrap_or_default();
            let lease = lease_id(spec::uid(&pod), &format!("volume.{}", volume.name));
            node.images.lease(&lease, &name).await.map_err(|e| ("ErrImagePull", e.to_string()))?;
            let users = self.users().map_err(|why| ("CreateContainerConfigError", why))?;
            found.insert(volume.name.clone(), node.pod_users.layers(users, &image.layers));
        }
        Ok(found)
    }

    /// An image that is here, or pulled if its policy says so.
    async fn ensure_image(
        &mut self,
        asked: &str,
        policy: Option<&str>,
        tell: &(dyn Fn(Level, &'static str, String) + Send + Sync),
    ) -> Result<crate::container::ImageDefaults, Failed> {
        let (pod, node) = (self.pod.clone(), self.node.clone());
        let image = with_default_tag(asked).map_err(|message| {
            tell(Level::Warning, "InspectFailed", message.clone());
            ("InvalidImageName", message)
        })?;
        let policy = PullPolicy::of(policy);
        let objects = self.held.objects().await.map_err(|m| ("ErrImagePull", m))?;
        let names = pod.spec.as_ref().and_then(|s| s.image_pull_secrets.as_deref()).unwrap_or_default();
        let secrets: Vec<Arc<_>> =
            names.iter().filter_map(|n| objects.secret(&n.name).ok().cloned()).collect();
        let auth = credentials(secrets.iter().map(Arc::as_ref), &image);
        if policy != PullPolicy::Always {
            match node.images.find(&image, &auth).await {
                Ok(Some(found)) => {
                    let message = format!(
                        "Container image {asked:?} already present on machine and can be accessed by the pod"
                    );
                    tell(Level::Normal, "Pulled", message);
                    return Ok(found);
                }
                Ok(None) if policy == PullPolicy::Never => {
                    let message =
                        format!("Container image {asked:?} is not present with pull policy of Never");
                    tell(Level::Warning, "ErrImageNeverPull", message.clone());
                    return Err(("ErrImageNeverPull", message));
                }
                Ok(None) => {}
                Err(error) => {
                    let message = format!("Failed to inspect image {image:?}: {error}");
                    tell(Level::Warning, "InspectFailed", message.clone());
                    return Err(("ImageInspectError", message));
                }
            }
        }
        if let Some((_, until)) = self.pulls.blocked_since_update(&image, Timestamp::now()) {
            let mut message = format!("Back-off pulling image {asked:?}");
            tell(Level::Normal, "BackOff", message.clone());
            if let Some(why) = self.pull_errors.get(&image) {
                message.push_str(&format!(": {why}"));
            }
            self.look_at(until);
            return Err(("ImagePullBackOff", message));
        }
        tell(Level::Normal, "Pulling", format!("Pulling image {asked:?}"));
        let begun = Instant::now();
        match pull(&node, asked, &image, &auth, tell).await {
            Ok((found, size)) => {
                self.pulls.forget(&image);
                self.pull_errors.remove(&image);
                let took = format!("{}ms", begun.elapsed().as_millis());
                tell(
                    Level::Normal,
                    "Pulled",
                    format!(
                        "Successfully pulled image {asked:?} in {took} ({took} including waiting). Image size: {size} bytes."
                    ),
                );
                Ok(found)
            }
            Err(error) => {
                tell(Level::Warning, "Failed", format!("Failed to pull image {asked:?}: {error}"));
                let now = Timestamp::now();
                self.pulls.next(&image, now, now);
                self.pull_errors.insert(image, format!("ErrImagePull: {error}"));
                self.look_in(SHOW_BACKOFF);
                Err(("ErrImagePull", error.to_string()))
            }
        }
    }
}

/// Pulls an image. One that takes long is told of in events, ever more rarely: nothing else of it can be seen.
async fn pull(
    node: &crate::context::Node,
    asked: &str,
    image: &str,
    auth: &[crate::images::Credential],
    tell: &(dyn Fn(Level, &'static str, String) + Send + Sync),
) -> Result<(crate::container::ImageDefaults, u64), crate::images::ImageError> {
    let (newest, heard) = tokio::sync::watch::channel(None);
    let hear = Arc::new(move |state| {
        newest.send_replace(Some(state));
    });
    let mut pulled = node.images.pull(image, auth, hear);
    let mut pause = PULL_TOLD_FIRST;
    let mut told = None;
    loop {
        tokio::select! {
            done = &mut pulled => return done,
            () = tokio::time::sleep(pause) => {}
        }
        let now = *heard.borrow();
        if let Some(state) = now.filter(|_| now != told) {
            tell(Level::Normal, "Pulling", format!("Pulling image {asked:?}: {state}"));
            (told, pause) = (now, (pause * 2).min(PULL_TOLD_LAST));
        }
    }
}

/// A new container's id: 32 random bytes in hexadecimal, as runtimes have them.
fn container_id() -> String {
    let bytes: [u8; 32] = rand::random();
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Makes the namespace of a pod's network, unless it is there: empty, so that its shim can begin.
async fn make_namespace(path: PathBuf) -> Result<(), String> {
    let made = tokio::task::spawn_blocking(move || skep_net::Namespace::persistent(&path).map(drop)).await;
    made.map_err(|e| e.to_string())?.map_err(|e| format!("failed to setup network for sandbox: {e}"))
}

/// Writes down the pod's addresses for the next agent.
fn record(pod_dir: &Path, addresses: &PodAddresses) -> Result<(), String> {
    let (path, new) = (pod_dir.join("network.json"), pod_dir.join("network.json.new"));
    let text = serde_json::to_vec(addresses).map_err(|e| e.to_string())?;
    std::fs::write(&new, text)
        .and_then(|()| std::fs::rename(&new, &path))
        .map_err(|e| format!("writing {}: {e}", path.display()))
}

fn read_env_file(
    volumes: &volume::Volumes,
    volume: &str,
    path: &str,
) -> Result<BTreeMap<String, String>, EnvError> {
    let ready = volumes.get(volume).ok_or_else(|| {
        EnvError::File(format!("cannot find the volume {volume:?} referenced by FileKeyRef"))
    })?;
    let failed = || EnvError::File("couldn't parse env file".to_owned());
    let root = rustix::fs::open(
        &ready.path,
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .map_err(|_| failed())?;
    // A container wrote it: links in it lead nowhere else.
    let file = rustix::fs::openat2(
        &root,
        path,
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC | rustix::fs::OFlags::NONBLOCK,
        rustix::fs::Mode::empty(),
        rustix::fs::ResolveFlags::IN_ROOT | rustix::fs::ResolveFlags::NO_MAGICLINKS,
    )
    .map_err(|_| failed())?;
    /// More than any environment can hold.
    const MAX_BYTES: u64 = 1 << 20;
    let mut text = String::new();
    use std::io::Read;
    std::fs::File::from(file).take(MAX_BYTES).read_to_string(&mut text).map_err(|_| failed())?;
    env::parse_env_file(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_writes_them() {
        for (seconds, expected) in [(10, "10s"), (80, "1m20s"), (300, "5m0s"), (3661, "1h1m1s")] {
            assert_eq!(go_duration(jiff::SignedDuration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn ids_are_ids() {
        assert!(skep_runtime::spec::valid_id(&container_id()));
        assert_eq!(container_id().len(), 64);
        assert_ne!(container_id(), container_id());
    }
}
