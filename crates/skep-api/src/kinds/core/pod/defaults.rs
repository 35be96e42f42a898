//! What a pod, a pod template and their parts look like when the user left something out.
//!
//! Beside upstream's defaults (`pkg/apis/core/v1/defaults.go`) this brings objects into the form in which
//! upstream's types write them, so that "left out" and "set to nothing" are the same when an update is
//! compared with what is stored: an empty text, list or map, a false flag and a zero that upstream does
//! not tell from an absent one become absent; `resources` is always there; quantities are canonical.
//! Fields whose feature is off in 1.36 (stop signals, cluster trust bundles, pod certificates, scheduling
//! groups) are dropped here, as upstream drops them before validation.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, Container, EmptyDirVolumeSource, EnvVar, HTTPGetAction, LifecycleHandler, ObjectFieldSelector,
    PersistentVolumeClaimSpec, Pod, PodAffinityTerm, PodIP, PodSpec, PodStatus, PodTemplateSpec, Probe,
    ResourceFieldSelector, ResourceRequirements, Volume,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::image;
use super::resources::{self, Side};
use super::view::{with_container, yes};
use crate::kinds::core::resources::may_overcommit;
use crate::meta;

const TERMINATION_MESSAGE_PATH: &str = "/dev/termination-log";
const TERMINATION_GRACE_PERIOD_S: i64 = 30;
/// `0644`: files of secrets, config maps and the like.
const VOLUME_FILE_MODE: i32 = 0o644;
const SERVICE_ACCOUNT_TOKEN_S: i64 = 3600;

/// An empty text is an absent one.
fn blank(text: &mut Option<String>) {
    if text.as_deref() == Some("") {
        *text = None;
    }
}

fn blank_flag(flag: &mut Option<bool>) {
    if *flag == Some(false) {
        *flag = None;
    }
}

fn blank_number(number: &mut Option<i32>) {
    if *number == Some(0) {
        *number = None;
    }
}

fn blank_list<T>(list: &mut Option<Vec<T>>) {
    if list.as_ref().is_some_and(Vec::is_empty) {
        *list = None;
    }
}

fn blank_map<V>(map: &mut Option<BTreeMap<String, V>>) {
    if map.as_ref().is_some_and(BTreeMap::is_empty) {
        *map = None;
    }
}

fn or_text(text: &mut Option<String>, default: &str) {
    if text.as_deref().unwrap_or("").is_empty() {
        *text = Some(default.to_owned());
    }
}

fn each<T>(list: &mut Option<Vec<T>>, change: impl FnMut(&mut T)) {
    blank_list(list);
    list.iter_mut().flatten().for_each(change);
}

/// The defaults of a pod: those of its spec, and what only a running pod gets.
pub(super) fn default_pod(pod: &mut Pod) {
    drop_init_container_annotations(&mut pod.metadata.annotations);
    let spec = pod.spec.get_or_insert_default();
    default_pod_spec(spec);
    if spec.termination_grace_period_seconds.is_some_and(|s| s < 0) {
        spec.termination_grace_period_seconds = Some(1);
    }
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        if let Some(resources) = &mut container.resources {
            requests_from_limits(resources);
        }
    }
    default_pod_resources(spec);
    spec.enable_service_links.get_or_insert(true);
    if yes(spec.host_network) {
        let containers = spec.init_containers.iter_mut().flatten().chain(&mut spec.containers);
        for port in containers.flat_map(|c| c.ports.iter_mut().flatten()) {
            port.host_port.get_or_insert(port.container_port);
        }
    }
    if let Some(status) = &mut pod.status {
        default_status(status);
    }
}

/// The defaults of a pod template.
pub fn default_pod_template(template: &mut PodTemplateSpec) {
    drop_init_container_annotations(&mut template.metadata.get_or_insert_default().annotations);
    default_pod_spec(template.spec.get_or_insert_default());
}

/// Keys under which versions before 1.8 kept init containers; whoever still sends them means nothing.
fn drop_init_container_annotations(annotations: &mut Option<BTreeMap<String, String>>) {
    const KEYS: [&str; 4] = [
        "pod.beta.kubernetes.io/init-containers",
        "pod.alpha.kubernetes.io/init-containers",
        "pod.beta.kubernetes.io/init-container-statuses",
        "pod.alpha.kubernetes.io/init-container-statuses",
    ];
    if let Some(annotations) = annotations.as_mut().filter(|a| !a.is_empty()) {
        for key in KEYS {
            annotations.remove(key);
        }
    }
}

/// The defaults that pods and templates share.
pub fn default_pod_spec(spec: &mut PodSpec) {
    or_text(&mut spec.dns_policy, "ClusterFirst");
    or_text(&mut spec.restart_policy, "Always");
    or_text(&mut spec.scheduler_name, "default-scheduler");
    spec.termination_grace_period_seconds.get_or_insert(TERMINATION_GRACE_PERIOD_S);
    spec.scheduling_group = None;
    for text in [
        &mut spec.service_account,
        &mut spec.service_account_name,
        &mut spec.node_name,
        &mut spec.hostname,
        &mut spec.subdomain,
        &mut spec.priority_class_name,
    ] {
        blank(text);
    }
    // Two names of one field; the new one wins.
    if spec.service_account_name.is_none() {
        spec.service_account_name = spec.service_account.take();
    }
    if spec.service_account != spec.service_account_name {
        spec.service_account = spec.service_account_name.clone();
    }
    for flag in [&mut spec.host_network, &mut spec.host_pid, &mut spec.host_ipc] {
        blank_flag(flag);
    }
    blank_map(&mut spec.node_selector);
    blank_list(&mut spec.image_pull_secrets);
    blank_list(&mut spec.readiness_gates);
    blank_list(&mut spec.scheduling_gates);
    blank_list(&mut spec.resource_claims);
    each(&mut spec.host_aliases, |alias| blank_list(&mut alias.hostnames));
    each(&mut spec.tolerations, |t| {
        for text in [&mut t.key, &mut t.operator, &mut t.value, &mut t.effect] {
            blank(text);
        }
    });
    each(&mut spec.topology_spread_constraints, |c| blank_list(&mut c.match_label_keys));
    if let Some(dns) = &mut spec.dns_config {
        blank_list(&mut dns.nameservers);
        blank_list(&mut dns.searches);
        each(&mut dns.options, |option| blank(&mut option.name));
    }
    let security = spec.security_context.get_or_insert_default();
    blank_list(&mut security.supplemental_groups);
    blank_list(&mut security.sysctls);
    if let Some(affinity) = &mut spec.affinity {
        default_affinity(affinity);
    }
    each(&mut spec.volumes, default_volume);
    each(&mut spec.init_containers, default_container);
    spec.containers.iter_mut().for_each(default_container);
    each(&mut spec.ephemeral_containers, |ephemeral| {
        blank(&mut ephemeral.target_container_name);
        with_container(ephemeral, default_container);
    });
    default_quantities(&mut spec.overhead);
    if let Some(resources) = &mut spec.resources {
        default_requirements(resources);
    }
}

fn default_affinity(affinity: &mut Affinity) {
    let term = |t: &mut PodAffinityTerm| {
        blank_list(&mut t.namespaces);
        blank_list(&mut t.match_label_keys);
        blank_list(&mut t.mismatch_label_keys);
    };
    if let Some(node) = &mut affinity.node_affinity {
        blank_list(&mut node.preferred_during_scheduling_ignored_during_execution);
        let required = node.required_during_scheduling_ignored_during_execution.iter_mut();
        let preferred = node.preferred_during_scheduling_ignored_during_execution.iter_mut().flatten();
        let terms =
            required.flat_map(|r| &mut r.node_selector_terms).chain(preferred.map(|p| &mut p.preference));
        for t in terms {
            each(&mut t.match_expressions, |e| blank_list(&mut e.values));
            each(&mut t.match_fields, |e| blank_list(&mut e.values));
        }
    }
    if let Some(pod) = &mut affinity.pod_affinity {
        each(&mut pod.required_during_scheduling_ignored_during_execution, term);
        each(&mut pod.preferred_during_scheduling_ignored_during_execution, |w| {
            term(&mut w.pod_affinity_term)
        });
    }
    if let Some(pod) = &mut affinity.pod_anti_affinity {
        each(&mut pod.required_during_scheduling_ignored_during_execution, term);
        each(&mut pod.preferred_during_scheduling_ignored_during_execution, |w| {
            term(&mut w.pod_affinity_term)
        });
    }
}

fn default_container(c: &mut Container) {
    blank(&mut c.image);
    if c.image_pull_policy.as_deref().unwrap_or("").is_empty() {
        let latest = image::means_latest(c.image.as_deref().unwrap_or(""));
        c.image_pull_policy = Some(if latest { "Always" } else { "IfNotPresent" }.to_owned());
    }
    or_text(&mut c.termination_message_path, TERMINATION_MESSAGE_PATH);
    or_text(&mut c.termination_message_policy, "File");
    blank(&mut c.working_dir);
    for flag in [&mut c.stdin, &mut c.stdin_once, &mut c.tty] {
        blank_flag(flag);
    }
    blank_list(&mut c.command);
    blank_list(&mut c.args);
    each(&mut c.ports, |port| {
        or_text(&mut port.protocol, "TCP");
        blank(&mut port.name);
        blank(&mut port.host_ip);
        blank_number(&mut port.host_port);
    });
    each(&mut c.env, default_env);
    each(&mut c.env_from, |from| blank(&mut from.prefix));
    each(&mut c.volume_mounts, |mount| {
        blank(&mut mount.sub_path);
        blank(&mut mount.sub_path_expr);
        blank_flag(&mut mount.read_only);
    });
    blank_list(&mut c.volume_devices);
    blank_list(&mut c.resize_policy);
    each(&mut c.restart_policy_rules, |rule| {
        if let Some(codes) = &mut rule.exit_codes {
            blank_list(&mut codes.values);
        }
    });
    default_requirements(c.resources.get_or_insert_default());
    for probe in [&mut c.liveness_probe, &mut c.readiness_probe, &mut c.startup_probe].into_iter().flatten() {
        default_probe(probe);
    }
    if let Some(lifecycle) = &mut c.lifecycle {
        lifecycle.stop_signal = None;
        for handler in [&mut lifecycle.post_start, &mut lifecycle.pre_stop].into_iter().flatten() {
            default_handler(handler);
        }
    }
    if let Some(capabilities) = c.security_context.as_mut().and_then(|s| s.capabilities.as_mut()) {
        blank_list(&mut capabilities.add);
        blank_list(&mut capabilities.drop);
    }
}

fn default_env(env: &mut EnvVar) {
    blank(&mut env.value);
    let Some(from) = &mut env.value_from else { return };
    if let Some(field) = &mut from.field_ref {
        default_field_ref(field);
    }
    if let Some(resource) = &mut from.resource_field_ref {
        default_resource_field_ref(resource);
    }
    if let Some(file) = &mut from.file_key_ref {
        file.optional.get_or_insert(false);
    }
}

fn default_field_ref(field: &mut ObjectFieldSelector) {
    or_text(&mut field.api_version, "v1");
}

fn default_resource_field_ref(resource: &mut ResourceFieldSelector) {
    blank(&mut resource.container_name);
    match &mut resource.divisor {
        Some(divisor) => meta::canonical_quantity(divisor),
        none => *none = Some(Quantity("0".to_owned())),
    }
}

fn default_probe(probe: &mut Probe) {
    for (number, default) in [
        (&mut probe.timeout_seconds, 1),
        (&mut probe.period_seconds, 10),
        (&mut probe.success_threshold, 1),
        (&mut probe.failure_threshold, 3),
    ] {
        if number.unwrap_or(0) == 0 {
            *number = Some(default);
        }
    }
    blank_number(&mut probe.initial_delay_seconds);
    if let Some(exec) = &mut probe.exec {
        blank_list(&mut exec.command);
    }
    if let Some(get) = &mut probe.http_get {
        default_http_get(get);
    }
    if let Some(tcp) = &mut probe.tcp_socket {
        blank(&mut tcp.host);
    }
    if let Some(grpc) = &mut probe.grpc {
        grpc.service.get_or_insert_default();
    }
}

fn default_handler(handler: &mut LifecycleHandler) {
    if let Some(exec) = &mut handler.exec {
        blank_list(&mut exec.command);
    }
    if let Some(get) = &mut handler.http_get {
        default_http_get(get);
    }
    if let Some(tcp) = &mut handler.tcp_socket {
        blank(&mut tcp.host);
    }
}

fn default_http_get(get: &mut HTTPGetAction) {
    or_text(&mut get.path, "/");
    or_text(&mut get.scheme, "HTTP");
    blank(&mut get.host);
    blank_list(&mut get.http_headers);
}

/// Whether no source is given at all.
fn has_no_source(volume: &Volume) -> bool {
    let Volume {
        name: _,
        aws_elastic_block_store,
        azure_disk,
        azure_file,
        cephfs,
        cinder,
        config_map,
        csi,
        downward_api,
        empty_dir,
        ephemeral,
        fc,
        flex_volume,
        flocker,
        gce_persistent_disk,
        git_repo,
        glusterfs,
        host_path,
        image,
        iscsi,
        nfs,
        persistent_volume_claim,
        photon_persistent_disk,
        portworx_volume,
        projected,
        quobyte,
        rbd,
        scale_io,
        secret,
        storageos,
        vsphere_volume,
    } = volume;
    macro_rules! none {
        ($($source:ident),* $(,)?) => { $($source.is_none())&&* };
    }
    none!(
        aws_elastic_block_store,
        azure_disk,
        azure_file,
        cephfs,
        cinder,
        config_map,
        csi,
        downward_api,
        empty_dir,
        ephemeral,
        fc,
        flex_volume,
        flocker,
        gce_persistent_disk,
        git_repo,
        glusterfs,
        host_path,
        image,
        iscsi,
        nfs,
        persistent_volume_claim,
        photon_persistent_disk,
        portworx_volume,
        projected,
        quobyte,
        rbd,
        scale_io,
        secret,
        storageos,
        vsphere_volume,
    )
}

fn default_volume(volume: &mut Volume) {
    if has_no_source(volume) {
        volume.empty_dir = Some(EmptyDirVolumeSource::default());
    }
    if let Some(dir) = &mut volume.empty_dir {
        blank(&mut dir.medium);
        if let Some(limit) = &mut dir.size_limit {
            meta::canonical_quantity(limit);
        }
    }
    if let Some(image) = &mut volume.image {
        blank(&mut image.reference);
        if image.pull_policy.as_deref().unwrap_or("").is_empty() {
            let latest = image::means_latest(image.reference.as_deref().unwrap_or(""));
            image.pull_policy = Some(if latest { "Always" } else { "IfNotPresent" }.to_owned());
        }
    }
    if let Some(path) = &mut volume.host_path {
        path.type_.get_or_insert_default();
    }
    if let Some(claim) = &mut volume.persistent_volume_claim {
        blank_flag(&mut claim.read_only);
    }
    if let Some(secret) = &mut volume.secret {
        secret.default_mode.get_or_insert(VOLUME_FILE_MODE);
        blank(&mut secret.secret_name);
        blank_list(&mut secret.items);
    }
    if let Some(map) = &mut volume.config_map {
        map.default_mode.get_or_insert(VOLUME_FILE_MODE);
        blank_list(&mut map.items);
    }
    if let Some(downward) = &mut volume.downward_api {
        downward.default_mode.get_or_insert(VOLUME_FILE_MODE);
        each(&mut downward.items, |file| default_downward(&mut file.field_ref, &mut file.resource_field_ref));
    }
    if let Some(projected) = &mut volume.projected {
        projected.default_mode.get_or_insert(VOLUME_FILE_MODE);
        each(&mut projected.sources, |source| {
            source.cluster_trust_bundle = None;
            source.pod_certificate = None;
            if let Some(downward) = &mut source.downward_api {
                each(&mut downward.items, |f| default_downward(&mut f.field_ref, &mut f.resource_field_ref));
            }
            if let Some(token) = &mut source.service_account_token {
                token.expiration_seconds.get_or_insert(SERVICE_ACCOUNT_TOKEN_S);
                blank(&mut token.audience);
            }
            if let Some(secret) = &mut source.secret {
                blank_list(&mut secret.items);
            }
            if let Some(map) = &mut source.config_map {
                blank_list(&mut map.items);
            }
        });
    }
    if let Some(template) = volume.ephemeral.as_mut().and_then(|e| e.volume_claim_template.as_mut()) {
        template.metadata.get_or_insert_default();
        default_claim_spec(&mut template.spec);
    }
    default_network_volume(volume);
}

/// Sources that come from some storage system of their own.
fn default_network_volume(volume: &mut Volume) {
    if let Some(nfs) = &mut volume.nfs {
        blank_flag(&mut nfs.read_only);
    }
    if let Some(iscsi) = &mut volume.iscsi {
        or_text(&mut iscsi.iscsi_interface, "default");
        blank(&mut iscsi.fs_type);
        blank_list(&mut iscsi.portals);
        blank_flag(&mut iscsi.read_only);
        blank_flag(&mut iscsi.chap_auth_discovery);
        blank_flag(&mut iscsi.chap_auth_session);
    }
    if let Some(rbd) = &mut volume.rbd {
        or_text(&mut rbd.pool, "rbd");
        or_text(&mut rbd.user, "admin");
        or_text(&mut rbd.keyring, "/etc/ceph/keyring");
        blank(&mut rbd.fs_type);
        blank_flag(&mut rbd.read_only);
    }
    if let Some(disk) = &mut volume.azure_disk {
        disk.caching_mode.get_or_insert_with(|| "ReadWrite".to_owned());
        disk.fs_type.get_or_insert_with(|| "ext4".to_owned());
        disk.read_only.get_or_insert(false);
        disk.kind.get_or_insert_with(|| "Shared".to_owned());
    }
    if let Some(scale_io) = &mut volume.scale_io {
        or_text(&mut scale_io.storage_mode, "ThinProvisioned");
        or_text(&mut scale_io.fs_type, "xfs");
    }
}

fn default_downward(field: &mut Option<ObjectFieldSelector>, resource: &mut Option<ResourceFieldSelector>) {
    if let Some(field) = field {
        default_field_ref(field);
    }
    if let Some(resource) = resource {
        default_resource_field_ref(resource);
    }
}

/// The defaults of a claim, also of one that a pod brings along.
pub(super) fn default_claim_spec(claim: &mut PersistentVolumeClaimSpec) {
    claim.volume_mode.get_or_insert_with(|| "Filesystem".to_owned());
    blank(&mut claim.volume_name);
    blank_list(&mut claim.access_modes);
    let resources = claim.resources.get_or_insert_default();
    default_quantities(&mut resources.limits);
    default_quantities(&mut resources.requests);
}

fn default_requirements(resources: &mut ResourceRequirements) {
    default_quantities(&mut resources.limits);
    default_quantities(&mut resources.requests);
    each(&mut resources.claims, |claim| blank(&mut claim.request));
}

fn default_quantities(list: &mut Option<BTreeMap<String, Quantity>>) {
    blank_map(list);
    if let Some(list) = list {
        meta::canonical_resources_milli(list);
    }
}

/// Whoever limits a resource and requests none of it requests the limit.
fn requests_from_limits(resources: &mut ResourceRequirements) {
    let Some(limits) = &resources.limits else { return };
    let requests = resources.requests.get_or_insert_default();
    for (name, limit) in limits {
        if !requests.contains_key(name) {
            requests.insert(name.clone(), limit.clone());
        }
    }
}

/// Resources given for the pod as a whole are completed from those of its containers.
fn default_pod_resources(spec: &mut PodSpec) {
    let Some(mut pod) = spec.resources.take() else { return };
    if pod.limits.is_some() || pod.requests.is_some() {
        for (name, amount) in resources::aggregate(spec, Side::Limits) {
            let given = |list: &Option<BTreeMap<String, Quantity>>| {
                list.as_ref().is_some_and(|l| l.contains_key(name))
            };
            if resources::is_huge_pages(name) && !given(&pod.requests) && !given(&pod.limits) {
                pod.limits.get_or_insert_default().insert(name.to_owned(), Quantity(amount.to_string()));
            }
        }
    }
    if let Some(limits) = &pod.limits {
        let mut requests = pod.requests.take().unwrap_or_default();
        for (name, amount) in resources::aggregate(spec, Side::Requests) {
            if resources::is_pod_level(name) && may_overcommit(name) && !requests.contains_key(name) {
                requests.insert(name.to_owned(), Quantity(amount.to_string()));
            }
        }
        for (name, limit) in limits {
            if resources::is_pod_level(name) && !requests.contains_key(name) {
                requests.insert(name.clone(), limit.clone());
            }
        }
        pod.requests = Some(requests).filter(|r| !r.is_empty());
    }
    spec.resources = Some(pod);
}

/// The address and the list of addresses name the same one; states are never absent.
fn default_status(status: &mut PodStatus) {
    blank(&mut status.pod_ip);
    blank_list(&mut status.pod_ips);
    let first = status.pod_ips.as_ref().and_then(|ips| ips.first()).map(|ip| &ip.ip);
    match &status.pod_ip {
        Some(ip) if first != Some(ip) => status.pod_ips = Some(vec![PodIP { ip: ip.clone() }]),
        Some(_) => {}
        None => status.pod_ip = first.cloned(),
    }
    for text in [
        &mut status.message,
        &mut status.reason,
        &mut status.nominated_node_name,
        &mut status.host_ip,
        &mut status.qos_class,
        &mut status.phase,
    ] {
        blank(text);
    }
    for list in [
        &mut status.container_statuses,
        &mut status.init_container_statuses,
        &mut status.ephemeral_container_statuses,
    ] {
        each(list, |c| {
            c.state.get_or_insert_default();
            c.last_state.get_or_insert_default();
            default_quantities(&mut c.allocated_resources);
            if let Some(resources) = &mut c.resources {
                default_requirements(resources);
            }
            for mount in c.volume_mounts.iter_mut().flatten() {
                mount.volume_status = None;
            }
        });
    }
}
