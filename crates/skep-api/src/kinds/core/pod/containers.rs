//! Containers of all three sorts: names, ports, environment, mounts, devices, restart rules.

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, ContainerResizePolicy, ContainerRestartRule, EnvFromSource, EnvVar,
    ObjectFieldSelector, PodResourceClaim, PodSpec, ResourceFieldSelector, VolumeDevice, VolumeMount,
};

use super::probes::{self, Use};
use super::resources::{self, Level};
use super::view::{Names, SmallMap, is_sidecar, items, text, to_container, yes};
use super::volumes::Volumes;
use super::{checks, security};
use crate::field::{Errors, Path};
use crate::meta;

pub(super) const PULL_POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const RESTART_RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;

/// What the checks of a container need to know about its pod.
pub(super) struct Surroundings<'a> {
    pub(super) volumes: &'a Volumes<'a>,
    pub(super) claims: &'a [PodResourceClaim],
    pub(super) grace_s: Option<i64>,
    pub(super) restart_policy: &'a str,
    /// Whether the pod shares the host's users.
    pub(super) host_users: bool,
}

/// All containers of a pod.
pub(super) fn validate_all(spec: &PodSpec, around: &Surroundings<'_>, path: &Path<'_>, errors: &mut Errors) {
    let containers_path = path.child("containers");
    validate_containers(&spec.containers, around, &containers_path, errors);
    let init = items(&spec.init_containers);
    if !init.is_empty() {
        validate_init_containers(init, &spec.containers, around, &path.child("initContainers"), errors);
    }
    if !items(&spec.ephemeral_containers).is_empty() {
        validate_ephemeral_containers(spec, around, &path.child("ephemeralContainers"), errors);
    }
}

fn validate_containers(list: &[Container], around: &Surroundings<'_>, path: &Path<'_>, errors: &mut Errors) {
    if list.is_empty() {
        errors.required(path, "");
        return;
    }
    let mut names = Names::new();
    for (i, c) in list.iter().enumerate() {
        let path = path.index(i);
        validate_common(c, around, &path, errors);
        if !names.add(&c.name) {
            errors.duplicate(&path.child("name"), &c.name);
        }
        validate_hooks(c, around, &path, errors);
        validate_restart_policy(c, &path, errors);
    }
    validate_host_ports(list.iter().enumerate(), path, errors);
}

fn validate_hooks(c: &Container, around: &Surroundings<'_>, path: &Path<'_>, errors: &mut Errors) {
    let grace_s = around.grace_s;
    if let Some(lifecycle) = &c.lifecycle {
        probes::validate_lifecycle(lifecycle, grace_s, &path.child("lifecycle"), errors);
    }
    for (probe, probe_use, name) in [
        (&c.liveness_probe, Use::Liveness, "livenessProbe"),
        (&c.readiness_probe, Use::Readiness, "readinessProbe"),
        (&c.startup_probe, Use::Startup, "startupProbe"),
    ] {
        probes::validate_probe(probe.as_ref(), probe_use, grace_s, &path.child(name), errors);
    }
}

fn validate_init_containers(
    list: &[Container],
    regular: &[Container],
    around: &Surroundings<'_>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let mut names = Names::new();
    for c in regular {
        names.add(&c.name);
    }
    for (i, c) in list.iter().enumerate() {
        let list_path = path;
        let path = path.index(i);
        validate_common(c, around, &path, errors);
        validate_restart_policy(c, &path, errors);
        if names.has(&c.name) {
            errors.duplicate(&path.child("name"), &c.name);
        } else if !c.name.is_empty() {
            names.add(&c.name);
        }
        // Init containers run one after the other: only ports of one of them can be in each other's way.
        validate_host_ports(std::iter::once((0, c)), list_path, errors);
        if is_sidecar(c) {
            validate_hooks(c, around, &path, errors);
        } else {
            for (set, name) in [
                (c.lifecycle.is_some(), "lifecycle"),
                (c.liveness_probe.is_some(), "livenessProbe"),
                (c.readiness_probe.is_some(), "readinessProbe"),
                (c.startup_probe.is_some(), "startupProbe"),
            ] {
                if set {
                    let detail = "may not be set for init containers without restartPolicy=Always";
                    errors.forbidden(&path.child(name), detail);
                }
            }
            for (j, policy) in items(&c.resize_policy).iter().enumerate() {
                if policy.restart_policy == "RestartContainer" {
                    errors.invalid(
                        &path.child("resizePolicy").index(j).child("restartPolicy"),
                        &policy.restart_policy,
                        "must not be set to 'RestartContainer' for non-sidecar initContainers",
                    );
                }
            }
        }
    }
}

fn validate_ephemeral_containers(
    spec: &PodSpec,
    around: &Surroundings<'_>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    const FORBIDDEN: &str = "cannot be set for an Ephemeral Container";
    let (mut others, mut names) = (Names::new(), Names::new());
    for c in spec.containers.iter().chain(items(&spec.init_containers)) {
        others.add(&c.name);
        names.add(&c.name);
    }
    for (i, ephemeral) in items(&spec.ephemeral_containers).iter().enumerate() {
        let path = path.index(i);
        let c = to_container(ephemeral);
        validate_common(&c, around, &path, errors);
        validate_image_padding(&c, &path, errors);
        if !names.add(&ephemeral.name) {
            errors.duplicate(&path.child("name"), &ephemeral.name);
        }
        let target = text(&ephemeral.target_container_name);
        if !target.is_empty() && !others.has(target) {
            errors.not_found(&path.child("targetContainerName"), target);
        }
        let resources_given = c.resources.as_ref().is_some_and(|r| *r != Default::default());
        for (set, name) in [
            (!items(&c.ports).is_empty(), "ports"),
            (resources_given, "resources"),
            (!items(&c.resize_policy).is_empty(), "resizePolicy"),
            (c.restart_policy.is_some(), "restartPolicy"),
            (!items(&c.restart_policy_rules).is_empty(), "restartPolicyRules"),
            (c.liveness_probe.is_some(), "livenessProbe"),
            (c.readiness_probe.is_some(), "readinessProbe"),
            (c.startup_probe.is_some(), "startupProbe"),
            (c.lifecycle.is_some(), "lifecycle"),
        ] {
            if set {
                errors.forbidden(&path.child(name), FORBIDDEN);
            }
        }
        let mounts_path = path.child("volumeMounts");
        for (j, mount) in items(&ephemeral.volume_mounts).iter().enumerate() {
            if !text(&mount.sub_path).is_empty() {
                errors.forbidden(&mounts_path.index(j).child("subPath"), FORBIDDEN);
            }
            if !text(&mount.sub_path_expr).is_empty() {
                errors.forbidden(&mounts_path.index(j).child("subPathExpr"), FORBIDDEN);
            }
        }
    }
}

/// Images of pods (not of templates, where this was forgotten and can no longer be refused).
pub(super) fn validate_image_padding(c: &Container, path: &Path<'_>, errors: &mut Errors) {
    let image = text(&c.image);
    if image.trim().len() != image.len() {
        errors.invalid(&path.child("image"), image, "must not have leading or trailing whitespace");
    }
}

fn validate_common(c: &Container, around: &Surroundings<'_>, path: &Path<'_>, errors: &mut Errors) {
    if c.name.is_empty() {
        errors.required(&path.child("name"), "");
    } else {
        checks::dns_label(&c.name, &path.child("name"), errors);
    }
    checks::required(text(&c.image), &path.child("image"), errors);
    checks::required_one_of(
        text(&c.termination_message_policy),
        &["File", "FallbackToLogsOnError"],
        &path.child("terminationMessagePolicy"),
        errors,
    );
    validate_ports(items(&c.ports), &path.child("ports"), errors);
    validate_env(items(&c.env), &path.child("env"), errors);
    validate_env_from(items(&c.env_from), &path.child("envFrom"), errors);
    let (mounts, devices) = (items(&c.volume_mounts), items(&c.volume_devices));
    validate_mounts(mounts, devices, c, around.volumes, &path.child("volumeMounts"), errors);
    validate_devices(devices, mounts, around.volumes, &path.child("volumeDevices"), errors);
    let policy = text(&c.image_pull_policy);
    checks::required_one_of(policy, &PULL_POLICIES, &path.child("imagePullPolicy"), errors);
    if let Some(resources) = &c.resources {
        let path = path.child("resources");
        resources::validate_requirements(resources, Level::Container, around.claims, &path, errors);
    }
    let policies = items(&c.resize_policy);
    validate_resize_policies(policies, around.restart_policy, &path.child("resizePolicy"), errors);
    if let Some(context) = &c.security_context {
        security::validate_container(context, around.host_users, &path.child("securityContext"), errors);
    }
}

fn validate_ports(ports: &[ContainerPort], path: &Path<'_>, errors: &mut Errors) {
    let mut names = Names::new();
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        let name = text(&port.name);
        if !name.is_empty() && checks::port_name(name, &path.child("name"), errors) && !names.add(name) {
            errors.duplicate(&path.child("name"), name);
        }
        if port.container_port == 0 {
            errors.required(&path.child("containerPort"), "");
        } else {
            meta::validate_port_num(port.container_port, &path.child("containerPort"), errors);
        }
        if let Some(host_port) = port.host_port.filter(|p| *p != 0) {
            meta::validate_port_num(host_port, &path.child("hostPort"), errors);
        }
        checks::required_one_of(text(&port.protocol), &PROTOCOLS, &path.child("protocol"), errors);
    }
}

/// No two ports may be bound to the same one of the host.
fn validate_host_ports<'a>(
    containers: impl Iterator<Item = (usize, &'a Container)>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let mut bound = SmallMap::new();
    for (i, c) in containers {
        for (j, port) in items(&c.ports).iter().enumerate() {
            let Some(host_port) = port.host_port.filter(|p| *p != 0) else { continue };
            let (protocol, ip) = (text(&port.protocol), text(&port.host_ip));
            if !bound.insert((protocol, ip, host_port), ()) {
                errors.duplicate(
                    &path.index(i).child("ports").index(j).child("hostPort"),
                    format!("{protocol}/{ip}/{host_port}"),
                );
            }
        }
    }
}

const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

fn validate_env(list: &[EnvVar], path: &Path<'_>, errors: &mut Errors) {
    for (i, env) in list.iter().enumerate() {
        let path = path.index(i);
        if env.name.is_empty() {
            errors.required(&path.child("name"), "");
        } else {
            checks::env_name(&env.name, &path.child("name"), errors);
        }
        let Some(from) = &env.value_from else { continue };
        let path = path.child("valueFrom");
        let mut sources = 0;
        if let Some(field) = &from.field_ref {
            sources += 1;
            validate_field_ref(field, &ENV_FIELDS, &path.child("fieldRef"), errors);
        }
        if let Some(resource) = &from.resource_field_ref {
            sources += 1;
            validate_resource_ref(resource, false, &path.child("resourceFieldRef"), errors);
        }
        if let Some(map) = &from.config_map_key_ref {
            sources += 1;
            let path = path.child("configMapKeyRef");
            checks::dns_subdomain(&map.name, &path.child("name"), errors);
            checks::config_key(&map.key, &path.child("key"), errors);
        }
        if let Some(secret) = &from.secret_key_ref {
            sources += 1;
            let path = path.child("secretKeyRef");
            checks::dns_subdomain(&secret.name, &path.child("name"), errors);
            checks::config_key(&secret.key, &path.child("key"), errors);
        }
        if let Some(file) = &from.file_key_ref {
            sources += 1;
            let path = path.child("fileKeyRef");
            if file.key.is_empty() {
                errors.required(&path.child("key"), "");
            } else {
                checks::env_name(&file.key, &path.child("key"), errors);
            }
            if file.volume_name.is_empty() {
                errors.required(&path.child("volumeName"), "");
            } else {
                checks::dns_label(&file.volume_name, &path.child("volumeName"), errors);
            }
            if file.path.is_empty() {
                errors.required(&path.child("path"), "");
            } else {
                checks::no_backsteps(&file.path, &path.child("path"), errors);
            }
        }
        let detail = if sources == 0 {
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
        } else if !text(&env.value).is_empty() {
            "may not be specified when `value` is not empty"
        } else if sources > 1 {
            "may not have more than one field specified at a time"
        } else {
            continue;
        };
        errors.invalid(&path, "", detail);
    }
}

fn validate_env_from(list: &[EnvFromSource], path: &Path<'_>, errors: &mut Errors) {
    for (i, from) in list.iter().enumerate() {
        let item_path = path.index(i);
        let prefix = text(&from.prefix);
        if !prefix.is_empty() {
            checks::env_name(prefix, &item_path.child("prefix"), errors);
        }
        let mut sources = 0;
        for (kind, name) in [
            ("configMapRef", from.config_map_ref.as_ref().map(|r| &r.name)),
            ("secretRef", from.secret_ref.as_ref().map(|r| &r.name)),
        ] {
            let Some(name) = name else { continue };
            sources += 1;
            let path = item_path.child(kind);
            if name.is_empty() {
                errors.required(&path.child("name"), "");
            } else {
                // As if it were a prefix, upstream lets it end in a hyphen.
                let whole = name.strip_suffix('-').filter(|n| !n.is_empty()).unwrap_or(name);
                for detail in meta::dns1123_subdomain_errors(whole) {
                    errors.invalid(&path.child("name"), name, &detail);
                }
            }
        }
        if sources == 0 {
            errors.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`");
        } else if sources > 1 {
            errors.invalid(path, "", "may not have more than one field specified at a time");
        }
    }
}

/// `metadata.labels['key']` as `metadata.labels` and `key`.
fn subscripted(field: &str) -> Option<(&str, &str)> {
    field.strip_suffix("']")?.split_once("['").filter(|(path, _)| !path.is_empty())
}

/// A field of the pod itself. `allowed` are those that have no subscript.
pub(super) fn validate_field_ref(
    field: &ObjectFieldSelector,
    allowed: &[&str],
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let version = text(&field.api_version);
    if version.is_empty() {
        errors.required(&path.child("apiVersion"), "");
        return;
    }
    let field_path = path.child("fieldPath");
    let name = field.field_path.as_str();
    if name.is_empty() {
        errors.required(&field_path, "");
        return;
    }
    let conversion = |detail: String, errors: &mut Errors| {
        errors.invalid(&field_path, name, &format!("error converting fieldPath: {detail}"));
    };
    if version != "v1" {
        conversion(format!("unsupported pod version: {version}"), errors);
        return;
    }
    match subscripted(name) {
        Some(("metadata.annotations", key)) => {
            if !checks::is_qualified_name(key) {
                checks::qualified_name(&key.to_lowercase(), path, errors);
            }
        }
        Some(("metadata.labels", key)) => _ = checks::qualified_name(key, path, errors),
        Some(_) => conversion(format!("field label does not support subscript: {name}"), errors),
        None if allowed.contains(&name) => {}
        None => match name {
            "metadata.annotations"
            | "metadata.labels"
            | "metadata.name"
            | "metadata.namespace"
            | "metadata.uid"
            | "spec.nodeName"
            | "spec.restartPolicy"
            | "spec.serviceAccountName"
            | "spec.schedulerName"
            | "status.phase"
            | "status.hostIP"
            | "status.hostIPs"
            | "status.podIP"
            | "status.podIPs" => errors.not_supported(&field_path, name, allowed),
            "spec.host" => checks::one_of("spec.nodeName", allowed, &field_path, errors),
            _ => conversion(format!("field label not supported: {name}"), errors),
        },
    }
}

const RESOURCE_FIELDS: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// A request or limit of a container of the pod.
pub(super) fn validate_resource_ref(
    reference: &ResourceFieldSelector,
    in_volume: bool,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let name = reference.resource.as_str();
    let huge_pages = name.starts_with("requests.hugepages-") || name.starts_with("limits.hugepages-");
    if in_volume && text(&reference.container_name).is_empty() {
        errors.required(&path.child("containerName"), "");
    } else if name.is_empty() {
        errors.required(&path.child("resource"), "");
    } else if !huge_pages {
        checks::one_of(name, &RESOURCE_FIELDS, &path.child("resource"), errors);
    }
    let Some(divisor) = reference.divisor.as_ref().map(|d| d.0.as_str()) else { return };
    if divisor == "0" {
        return;
    }
    const UNITS: [&str; 13] =
        ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    let (allowed, detail): (&[&str], &str) = match name {
        "limits.cpu" | "requests.cpu" => {
            (&["1m", "1"], "only divisor's values 1m and 1 are supported with the cpu resource")
        }
        "limits.memory" | "requests.memory" => (
            &UNITS,
            "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the \
             memory resource",
        ),
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => (
            &UNITS,
            "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the \
             local ephemeral storage resource",
        ),
        _ if huge_pages => (
            &UNITS,
            "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the \
             hugepages resource",
        ),
        _ => return,
    };
    if !allowed.contains(&divisor) {
        errors.invalid(&path.child("divisor"), name, detail);
    }
}

fn validate_mounts(
    mounts: &[VolumeMount],
    devices: &[VolumeDevice],
    c: &Container,
    volumes: &Volumes<'_>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let mut taken = Names::new();
    let (mut device_names, mut device_paths) = (Names::new(), Names::new());
    for device in devices {
        device_names.add(&device.name);
        device_paths.add(&device.device_path);
    }
    for (i, mount) in mounts.iter().enumerate() {
        let item_path = path.index(i);
        let (name_path, mount_path) = (item_path.child("name"), item_path.child("mountPath"));
        checks::required(&mount.name, &name_path, errors);
        if !volumes.has(&mount.name) {
            errors.not_found(&name_path, &mount.name);
        }
        checks::required(&mount.mount_path, &mount_path, errors);
        if !taken.add(&mount.mount_path) {
            errors.invalid(&mount_path, &mount.mount_path, "must be unique");
        }
        if device_names.has(&mount.name) {
            errors.invalid(&name_path, &mount.name, "must not already exist in volumeDevices");
        }
        if device_paths.has(&mount.mount_path) {
            let detail = "must not already exist as a path in volumeDevices";
            errors.invalid(&mount_path, &mount.mount_path, detail);
        }
        let (sub_path, expression) = (text(&mount.sub_path), text(&mount.sub_path_expr));
        if !sub_path.is_empty() {
            checks::descending_path(sub_path, &path.child("subPath"), errors);
        }
        if !expression.is_empty() {
            if !sub_path.is_empty() {
                let detail = "subPathExpr and subPath are mutually exclusive";
                errors.invalid(&item_path.child("subPathExpr"), expression, detail);
            }
            checks::descending_path(expression, &path.child("subPathExpr"), errors);
        }
        if let Some(propagation) = &mount.mount_propagation {
            let path = path.child("mountPropagation");
            checks::one_of(propagation, &["Bidirectional", "HostToContainer", "None"], &path, errors);
            let privileged = c.security_context.as_ref().is_some_and(|s| yes(s.privileged));
            if propagation == "Bidirectional" && !privileged {
                let detail = "Bidirectional mount propagation is available only to privileged containers";
                errors.forbidden(&path, detail);
            }
        }
        validate_recursive_read_only(mount, &path.child("recursiveReadOnly"), errors);
    }
}

fn validate_recursive_read_only(mount: &VolumeMount, path: &Path<'_>, errors: &mut Errors) {
    match mount.recursive_read_only.as_deref() {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if !yes(mount.read_only) {
                errors.forbidden(path, "may only be specified when readOnly is true");
            }
            if mount.mount_propagation.as_deref().is_some_and(|p| p != "None") {
                errors
                    .forbidden(path, "may only be specified when mountPropagation is None or not specified");
            }
        }
        Some(other) => errors.not_supported(path, other, &["Disabled", "Enabled", "IfPossible"]),
    }
}

fn validate_devices(
    devices: &[VolumeDevice],
    mounts: &[VolumeMount],
    volumes: &Volumes<'_>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if devices.is_empty() {
        return;
    }
    let (mut mount_names, mut mount_paths) = (Names::new(), Names::new());
    for mount in mounts {
        mount_names.add(&mount.name);
        mount_paths.add(&mount.mount_path);
    }
    let (mut names, mut paths) = (Names::new(), Names::new());
    for (i, device) in devices.iter().enumerate() {
        let path = path.index(i);
        let (name_path, device_path) = (path.child("name"), path.child("devicePath"));
        let (name, at) = (device.name.as_str(), device.device_path.as_str());
        checks::required(name, &name_path, errors);
        if names.has(name) {
            errors.invalid(&name_path, name, "must be unique");
        }
        match volumes.get(name) {
            None => errors.not_found(&name_path, name),
            Some(v) if v.persistent_volume_claim.is_none() && v.ephemeral.is_none() => {
                let detail =
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.invalid(&name_path, name, detail);
            }
            Some(_) => {}
        }
        checks::required(at, &device_path, errors);
        if paths.has(at) {
            errors.invalid(&device_path, at, "must be unique");
        }
        if checks::has_backsteps(at) {
            errors.invalid(&device_path, at, "can not contain backsteps ('..')");
        } else {
            paths.add(at);
        }
        if mount_names.has(name) {
            errors.invalid(&name_path, name, "must not already exist in volumeMounts");
        }
        if mount_paths.has(at) {
            errors.invalid(&device_path, at, "must not already exist as a path in volumeMounts");
        }
        if !name.is_empty() {
            names.add(name);
        }
    }
}

fn validate_resize_policies(
    policies: &[ContainerResizePolicy],
    pod_restart_policy: &str,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let mut names = Names::new();
    for (i, policy) in policies.iter().enumerate() {
        if !names.add(&policy.resource_name) {
            errors.duplicate(&path.index(i), &policy.resource_name);
        }
        checks::required_one_of(&policy.resource_name, &["cpu", "memory"], path, errors);
        checks::required_one_of(&policy.restart_policy, &["NotRequired", "RestartContainer"], path, errors);
        if pod_restart_policy == "Never" && policy.restart_policy != "NotRequired" {
            let detail = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
            errors.invalid(path, &policy.restart_policy, detail);
        }
    }
}

fn validate_restart_policy(c: &Container, path: &Path<'_>, errors: &mut Errors) {
    let rules: &[ContainerRestartRule] = items(&c.restart_policy_rules);
    let policy_path = path.child("restartPolicy");
    match &c.restart_policy {
        None if rules.is_empty() => return,
        None => errors.required(&policy_path, "must specify restartPolicy when restart rules are used"),
        Some(policy) => checks::one_of(policy, &["Always", "Never", "OnFailure"], &policy_path, errors),
    }
    let rules_path = path.child("restartPolicyRules");
    if rules.len() > RESTART_RULES_MAX {
        errors.too_many(&rules_path, rules.len(), RESTART_RULES_MAX);
    }
    for (i, rule) in rules.iter().enumerate() {
        let path = rules_path.index(i);
        checks::one_of(&rule.action, &["Restart", "RestartAllContainers"], &path.child("action"), errors);
        let codes_path = path.child("exitCodes");
        let Some(codes) = &rule.exit_codes else {
            errors.required(&codes_path, "must be specified");
            continue;
        };
        checks::one_of(&codes.operator, &["In", "NotIn"], &codes_path.child("operator"), errors);
        let count = items(&codes.values).len();
        if count > EXIT_CODES_MAX {
            errors.too_many(&codes_path.child("values"), count, EXIT_CODES_MAX);
        }
    }
}
