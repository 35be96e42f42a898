//! Reading pod specifications: what upstream's helpers answer about a pod, in one place.

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, EphemeralContainer, Pod};

/// Which list of the pod's specification a container stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ContainerKind {
    /// Runs before the others; with `restartPolicy: Always` beside them.
    Init,
    /// What the pod is there for.
    Regular,
    /// Added later for a look inside; never restarted.
    Ephemeral,
}

/// When a container that has ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Whatever its exit code.
    Always,
    /// When its exit code is not 0.
    OnFailure,
    /// Never.
    Never,
}

impl RestartPolicy {
    fn parse(text: &str) -> Option<RestartPolicy> {
        match text {
            "Always" => Some(RestartPolicy::Always),
            "OnFailure" => Some(RestartPolicy::OnFailure),
            "Never" => Some(RestartPolicy::Never),
            _ => None,
        }
    }

    /// Whether a container that ended with this code is started again.
    #[must_use]
    pub fn restarts(self, exit_code: i32) -> bool {
        match self {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => exit_code != 0,
            RestartPolicy::Never => false,
        }
    }
}

/// The pod's name, or nothing where the server sent none.
#[must_use]
pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// The pod's namespace.
#[must_use]
pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

/// The pod's uid.
#[must_use]
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// `name_namespace(uid)`, as messages name a pod.
#[must_use]
pub fn format_pod(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

/// The regular containers.
#[must_use]
pub fn containers(pod: &Pod) -> &[Container] {
    pod.spec.as_ref().map_or(&[], |s| &s.containers)
}

/// The init containers, sidecars among them.
#[must_use]
pub fn init_containers(pod: &Pod) -> &[Container] {
    pod.spec.as_ref().and_then(|s| s.init_containers.as_deref()).unwrap_or_default()
}

/// The ephemeral containers.
#[must_use]
pub fn ephemeral_containers(pod: &Pod) -> &[EphemeralContainer] {
    pod.spec.as_ref().and_then(|s| s.ephemeral_containers.as_deref()).unwrap_or_default()
}

/// An ephemeral container as an ordinary one, for everything that treats them alike.
#[must_use]
pub fn as_container(e: &EphemeralContainer) -> Container {
    let e = e.clone();
    Container {
        args: e.args,
        command: e.command,
        env: e.env,
        env_from: e.env_from,
        image: e.image,
        image_pull_policy: e.image_pull_policy,
        lifecycle: e.lifecycle,
        liveness_probe: e.liveness_probe,
        name: e.name,
        ports: e.ports,
        readiness_probe: e.readiness_probe,
        resize_policy: e.resize_policy,
        resources: e.resources,
        restart_policy: e.restart_policy,
        restart_policy_rules: e.restart_policy_rules,
        security_context: e.security_context,
        startup_probe: e.startup_probe,
        stdin: e.stdin,
        stdin_once: e.stdin_once,
        termination_message_path: e.termination_message_path,
        termination_message_policy: e.termination_message_policy,
        tty: e.tty,
        volume_devices: e.volume_devices,
        volume_mounts: e.volume_mounts,
        working_dir: e.working_dir,
    }
}

/// The containers of one kind.
#[must_use]
pub fn of_kind(pod: &Pod, kind: ContainerKind) -> Vec<Container> {
    match kind {
        ContainerKind::Init => init_containers(pod).to_vec(),
        ContainerKind::Regular => containers(pod).to_vec(),
        ContainerKind::Ephemeral => ephemeral_containers(pod).iter().map(as_container).collect(),
    }
}

/// A container by name, whichever list it stands in.
#[must_use]
pub fn find(pod: &Pod, name: &str) -> Option<(ContainerKind, Container)> {
    let named = |c: &&Container| c.name == name;
    if let Some(c) = containers(pod).iter().find(named) {
        return Some((ContainerKind::Regular, c.clone()));
    }
    if let Some(c) = init_containers(pod).iter().find(named) {
        return Some((ContainerKind::Init, c.clone()));
    }
    let e = ephemeral_containers(pod).iter().find(|e| e.name == name)?;
    Some((ContainerKind::Ephemeral, as_container(e)))
}

/// The pod's own restart policy.
#[must_use]
pub fn restart_policy(pod: &Pod) -> RestartPolicy {
    let text = pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()).unwrap_or_default();
    RestartPolicy::parse(text).unwrap_or(RestartPolicy::Always)
}

/// A container's own restart policy, if it has one.
#[must_use]
pub fn own_restart_policy(container: &Container) -> Option<RestartPolicy> {
    container.restart_policy.as_deref().and_then(RestartPolicy::parse)
}

/// Whether an init container is a sidecar: restarted for as long as the pod lives.
#[must_use]
pub fn is_sidecar(container: &Container) -> bool {
    own_restart_policy(container) == Some(RestartPolicy::Always)
}

/// The rule that speaks of this exit code, if the container has one.
#[must_use]
pub fn matching_rule(container: &Container, exit_code: i32) -> Option<&ContainerRestartRule> {
    container.restart_policy_rules.as_deref()?.iter().find(|rule| {
        rule.exit_codes.as_ref().is_some_and(|codes| {
            let listed = codes.values.as_deref().unwrap_or_default().contains(&exit_code);
            match codes.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                _ => false,
            }
        })
    })
}

/// Whether a container that ended with this code is to be started again: its rules, then its own policy, then
/// the pod's.
#[must_use]
pub fn restarts(pod: &Pod, container: &Container, exit_code: i32) -> bool {
    if container.restart_policy.is_some() {
        if let Some(rule) = matching_rule(container, exit_code)
            && matches!(rule.action.as_str(), "Restart" | "RestartAllContainers")
        {
            return true;
        }
        if let Some(policy) = own_restart_policy(container) {
            return policy.restarts(exit_code);
        }
    }
    restart_policy(pod).restarts(exit_code)
}

/// Whether a container that this agent kills (failed probe) is started again: rules need an exit code and do not
/// count here.
#[must_use]
pub fn restarts_after_kill(pod: &Pod, container: &Container) -> bool {
    own_restart_policy(container).unwrap_or_else(|| restart_policy(pod)) != RestartPolicy::Never
}

/// Whether the pod lives in its machine's network namespace.
#[must_use]
pub fn host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or(false)
}

/// The grace period of the pod's specification.
#[must_use]
pub fn termination_grace_period(pod: &Pod) -> i64 {
    /// What the API server defaults to.
    const DEFAULT_GRACE_PERIOD_SECONDS: i64 = 30;
    pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(DEFAULT_GRACE_PERIOD_SECONDS)
}

/// Whether the pod comes from a file on this node and not from the API server.
#[must_use]
pub fn is_static(pod: &Pod) -> bool {
    annotation(pod, SOURCE_ANNOTATION).is_some_and(|source| source != "api")
}

/// Whether the pod is the API server's picture of a static pod.
#[must_use]
pub fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, MIRROR_ANNOTATION).is_some()
}

/// Where a pod comes from: `file` for static pods.
pub const SOURCE_ANNOTATION: &str = "kubernetes.io/config.source";
/// The hash of a static pod's file.
pub const HASH_ANNOTATION: &str = "kubernetes.io/config.hash";
/// Marks the mirror of a static pod with that pod's hash.
pub const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// An annotation's value.
#[must_use]
pub fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// The lowest priority of what the system itself needs.
const SYSTEM_CRITICAL_PRIORITY: i32 = 2_000_000_000;
/// The priority of what a node cannot do without.
const NODE_CRITICAL_PRIORITY: i32 = 2_000_001_000;

/// Whether the pod may push others out when the node is full.
#[must_use]
pub fn is_critical(pod: &Pod) -> bool {
    is_static(pod) || is_mirror(pod) || priority(pod) >= SYSTEM_CRITICAL_PRIORITY
}

/// Whether the node cannot do without the pod.
#[must_use]
pub fn is_node_critical(pod: &Pod) -> bool {
    is_static(pod) || is_mirror(pod) || priority(pod) >= NODE_CRITICAL_PRIORITY
}

/// The pod's priority; 0 without one.
#[must_use]
pub fn priority(pod: &Pod) -> i32 {
    pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0)
}
