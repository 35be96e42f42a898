//! What several plugins want to know about pods.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, ContainerStatus, EnvFromSource, EnvVar, Pod, PodSpec, ResourceRequirements, Volume,
};

use crate::amounts::{self, Amounts, WrittenAmounts};

const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// Whether the pod stands for one that a node runs from a file.
pub(crate) fn is_mirror(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(MIRROR_ANNOTATION))
}

/// Whether the pod refers to any secret, in whatever way.
pub(crate) fn references_secrets(spec: &PodSpec) -> bool {
    let named = |n: &str| !n.is_empty();
    let env = |env: &[EnvVar], from: &[EnvFromSource]| {
        from.iter().filter_map(|e| e.secret_ref.as_ref()).any(|r| named(&r.name))
            || env
                .iter()
                .filter_map(|e| e.value_from.as_ref()?.secret_key_ref.as_ref())
                .any(|r| named(&r.name))
    };
    let in_container =
        |c: &Container| env(c.env.as_deref().unwrap_or_default(), c.env_from.as_deref().unwrap_or_default());
    spec.image_pull_secrets.iter().flatten().any(|s| named(&s.name))
        || spec.containers.iter().chain(spec.init_containers.iter().flatten()).any(in_container)
        || spec
            .ephemeral_containers
            .iter()
            .flatten()
            .any(|c| env(c.env.as_deref().unwrap_or_default(), c.env_from.as_deref().unwrap_or_default()))
        || spec.volumes.iter().flatten().any(volume_has_secret)
}

fn volume_has_secret(v: &Volume) -> bool {
    let some = |n: Option<&str>| n.is_some_and(|n| !n.is_empty());
    some(v.azure_file.as_ref().map(|s| s.secret_name.as_str()))
        || some(v.cephfs.as_ref().and_then(|s| s.secret_ref.as_ref()).map(|r| r.name.as_str()))
        || some(v.cinder.as_ref().and_then(|s| s.secret_ref.as_ref()).map(|r| r.name.as_str()))
        || some(v.flex_volume.as_ref().and_then(|s| s.secret_ref.as_ref()).map(|r| r.name.as_str()))
        || some(v.rbd.as_ref().and_then(|s| s.secret_ref.as_ref()).map(|r| r.name.as_str()))
        || some(v.scale_io.as_ref().map(|s| s.secret_ref.name.as_str()))
        || some(v.iscsi.as_ref().and_then(|s| s.secret_ref.as_ref()).map(|r| r.name.as_str()))
        || some(v.storageos.as_ref().and_then(|s| s.secret_ref.as_ref()).map(|r| r.name.as_str()))
        || some(v.csi.as_ref().and_then(|s| s.node_publish_secret_ref.as_ref()).map(|r| r.name.as_str()))
        || some(v.secret.as_ref().and_then(|s| s.secret_name.as_deref()))
        || v.projected
            .iter()
            .flat_map(|p| p.sources.iter().flatten())
            .any(|s| some(s.secret.as_ref().map(|s| s.name.as_str())))
}

/// Whether the pod refers to any config map, in whatever way.
pub(crate) fn references_config_maps(spec: &PodSpec) -> bool {
    let named = |n: &str| !n.is_empty();
    let env = |env: Option<&Vec<EnvVar>>, from: Option<&Vec<EnvFromSource>>| {
        from.into_iter().flatten().filter_map(|e| e.config_map_ref.as_ref()).any(|r| named(&r.name))
            || env
                .into_iter()
                .flatten()
                .filter_map(|e| e.value_from.as_ref()?.config_map_key_ref.as_ref())
                .any(|r| named(&r.name))
    };
    spec.containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .any(|c| env(c.env.as_ref(), c.env_from.as_ref()))
        || spec.ephemeral_containers.iter().flatten().any(|c| env(c.env.as_ref(), c.env_from.as_ref()))
        || spec.volumes.iter().flatten().any(|v| {
            let projected = v.projected.iter().flat_map(|p| p.sources.iter().flatten());
            v.config_map.as_ref().is_some_and(|m| named(&m.name))
                || projected.filter_map(|s| s.config_map.as_ref()).any(|m| named(&m.name))
        })
}

/// Whether a container keeps running beside those that follow it.
pub(crate) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Which half of the resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    Requests,
    Limits,
}

impl Half {
    pub(crate) fn of(self, resources: Option<&ResourceRequirements>) -> Option<&WrittenAmounts> {
        let resources = resources?;
        match self {
            Half::Requests => resources.requests.as_ref(),
            Half::Limits => resources.limits.as_ref(),
        }
    }
}

/// How a pod's resources are added up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Count what the node has given where that is more than the spec says (a resize under way).
    pub(crate) status: bool,
    /// Add the runtime's overhead.
    pub(crate) overhead: bool,
    /// Let the pod's own figure for huge pages stand above the containers', as for cpu and memory.
    pub(crate) pod_level_huge_pages: bool,
}

/// What a pod takes: the sum of its containers, or the most that any of its init containers needs beside
/// the sidecars started before it, whichever is more.
pub(crate) fn resources(pod: &Pod, half: Half, rules: Rules) -> Amounts {
    let Some(spec) = &pod.spec else { return Amounts::new() };
    let statuses = if rules.status { statuses(pod) } else { BTreeMap::new() };
    let infeasible = rules.status && is_resize_infeasible(pod);
    let of = |c: &Container, resizable: bool| {
        let wanted = amounts::parse_all(half.of(c.resources.as_ref()));
        let Some(status) = statuses.get(c.name.as_str()).filter(|s| resizable && s.resources.is_some())
        else {
            return wanted;
        };
        let mut given = if infeasible { Amounts::new() } else { wanted };
        amounts::raise(&mut given, &amounts::parse_all(half.of(status.resources.as_ref())));
        if half == Half::Requests {
            amounts::raise(&mut given, &amounts::parse_all(status.allocated_resources.as_ref()));
        }
        given
    };
    let mut total = Amounts::new();
    for container in &spec.containers {
        amounts::add(&mut total, &of(container, true));
    }
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for container in spec.init_containers.iter().flatten() {
        let mut own = of(container, is_sidecar(container));
        if is_sidecar(container) {
            amounts::add(&mut total, &own);
            amounts::add(&mut sidecars, &own);
            amounts::raise(&mut peak, &sidecars);
        } else {
            amounts::add(&mut own, &sidecars);
            amounts::raise(&mut peak, &own);
        }
    }
    amounts::raise(&mut total, &peak);
    for (name, quantity) in half.of(spec.resources.as_ref()).into_iter().flatten() {
        if is_pod_level(name, rules.pod_level_huge_pages) {
            total.insert(name.clone(), amounts::parse(quantity));
        }
    }
    if rules.overhead {
        for (name, quantity) in amounts::parse_all(spec.overhead.as_ref()) {
            match half {
                Half::Requests => *total.entry(name).or_default() += quantity,
                // Where there is no limit, overhead does not make one.
                Half::Limits => {
                    if let Some(limit) = total.get_mut(&name).filter(|l| !l.is_zero()) {
                        *limit += quantity;
                    }
                }
            }
        }
    }
    total
}

fn is_pod_level(name: &str, huge_pages: bool) -> bool {
    matches!(name, "cpu" | "memory") || (huge_pages && name.starts_with("hugepages-"))
}

/// Whether the pod as a whole says what it takes.
pub(crate) fn has_pod_level_resources(spec: &PodSpec) -> bool {
    [Half::Requests, Half::Limits]
        .iter()
        .any(|h| h.of(spec.resources.as_ref()).is_some_and(|l| l.keys().any(|n| is_pod_level(n, true))))
}

fn statuses(pod: &Pod) -> BTreeMap<&str, &ContainerStatus> {
    let Some(status) = &pod.status else { return BTreeMap::new() };
    let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    all.map(|s| (s.name.as_str(), s)).collect()
}

fn is_resize_infeasible(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let mut pending = conditions.filter(|c| c.type_ == "PodResizePending");
    pending.next().is_some_and(|c| c.reason.as_deref() == Some("Infeasible"))
}

/// Whether the pod asks for no cpu and no memory at all.
pub(crate) fn is_best_effort(pod: &Pod) -> bool {
    if let Some(class) = pod.status.as_ref().and_then(|s| s.qos_class.as_deref()).filter(|c| !c.is_empty()) {
        return class == "BestEffort";
    }
    let Some(spec) = &pod.spec else { return true };
    let asks = |r: Option<&ResourceRequirements>| {
        [Half::Requests, Half::Limits].iter().any(|h| {
            h.of(r)
                .into_iter()
                .flatten()
                .any(|(n, q)| matches!(n.as_str(), "cpu" | "memory") && amounts::parse(q).signum() > 0)
        })
    };
    match &spec.resources {
        Some(own) => !asks(Some(own)),
        None => !spec
            .containers
            .iter()
            .chain(spec.init_containers.iter().flatten())
            .any(|c| asks(c.resources.as_ref())),
    }
}
