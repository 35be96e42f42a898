//! Security contexts of pods and containers, profiles in fields and in annotations, operating systems.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    AppArmorProfile, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext,
    WindowsSecurityContextOptions,
};

use super::checks;
use super::view::{Names, items, visit_containers, yes};
use crate::field::{Errors, Json, Path};

pub(super) const SECCOMP_POD_ANNOTATION: &str = "seccomp.security.alpha.kubernetes.io/pod";
pub(super) const SECCOMP_CONTAINER_PREFIX: &str = "container.seccomp.security.alpha.kubernetes.io/";
pub(super) const APPARMOR_PREFIX: &str = "container.apparmor.security.beta.kubernetes.io/";
const LOCALHOST_PREFIX: &str = "localhost/";
const RUNTIME_DEFAULT: &str = "runtime/default";
const DOCKER_DEFAULT: &str = "docker/default";
const UNCONFINED: &str = "unconfined";

const PROFILE_TYPES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];
/// Longest path, without the final zero byte.
const APPARMOR_PROFILE_MAX_LEN: usize = 4095;
/// Longest name of a kernel parameter.
const SYSCTL_MAX_LEN: usize = 253;
const GMSA_SPEC_MAX_KIB: usize = 64;
const WINDOWS_DOMAIN_MAX_LEN: usize = 256;
const WINDOWS_USER_MAX_LEN: usize = 104;

/// The security context of a container.
pub(super) fn validate_container(
    context: &SecurityContext,
    host_users: bool,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if let Some(user) = context.run_as_user {
        checks::id(user, &path.child("runAsUser"), errors);
    }
    if let Some(group) = context.run_as_group {
        checks::id(group, &path.child("runAsGroup"), errors);
    }
    if let Some(mount) = &context.proc_mount {
        let path = path.child("procMount");
        checks::one_of(mount, &["Default", "Unmasked"], &path, errors);
        if host_users && mount == "Unmasked" {
            errors.invalid(&path, mount, "`hostUsers` must be false to use `Unmasked`");
        }
    }
    validate_seccomp(context.seccomp_profile.as_ref(), &path.child("seccompProfile"), errors);
    if context.allow_privilege_escalation == Some(false) {
        if yes(context.privileged) {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.invalid(path, Json(context), detail);
        }
        let added = context.capabilities.as_ref().map_or(&[] as &[String], |c| items(&c.add));
        for _ in added.iter().filter(|c| *c == "CAP_SYS_ADMIN") {
            let detail =
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.invalid(path, Json(context), detail);
        }
    }
    validate_windows(context.windows_options.as_ref(), &path.child("windowsOptions"), errors);
    validate_apparmor(context.app_armor_profile.as_ref(), &path.child("appArmorProfile"), errors);
}

/// The security context of a pod.
pub(super) fn validate_pod(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let Some(context) = &spec.security_context else { return };
    for (id, name) in [
        (context.fs_group, "fsGroup"),
        (context.run_as_user, "runAsUser"),
        (context.run_as_group, "runAsGroup"),
    ] {
        if let Some(id) = id {
            checks::id(id, &path.child(name), errors);
        }
    }
    let groups_path = path.child("supplementalGroups");
    for (i, group) in items(&context.supplemental_groups).iter().enumerate() {
        checks::id(*group, &groups_path.index(i), errors);
    }
    if yes(spec.share_process_namespace) && yes(spec.host_pid) {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.invalid(&path.child("shareProcessNamespace"), true, detail);
    }
    validate_sysctls(spec, context, &path.child("sysctls"), errors);
    if let Some(policy) = &context.fs_group_change_policy {
        checks::one_of(policy, &["Always", "OnRootMismatch"], &path.child("fsGroupChangePolicy"), errors);
    }
    validate_seccomp(context.seccomp_profile.as_ref(), &path.child("seccompProfile"), errors);
    validate_windows(context.windows_options.as_ref(), &path.child("windowsOptions"), errors);
    validate_apparmor(context.app_armor_profile.as_ref(), &path.child("appArmorProfile"), errors);
    if let Some(policy) = &context.supplemental_groups_policy {
        checks::one_of(policy, &["Merge", "Strict"], &path.child("supplementalGroupsPolicy"), errors);
    }
    if let Some(policy) = &context.se_linux_change_policy {
        // `MountOption` belongs to SELinuxMount, which is off in 1.36.
        checks::one_of(policy, &["Recursive"], &path.child("seLinuxChangePolicy"), errors);
    }
}

/// Words of `[a-z0-9]([-_a-z0-9]*[a-z0-9])?` joined by dots or slashes.
fn is_sysctl_name(name: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    name.len() <= SYSCTL_MAX_LEN
        && name.split(['.', '/']).all(|word| {
            let b = word.as_bytes();
            let (Some(&first), Some(&last)) = (b.first(), b.last()) else { return false };
            alnum(first) && alnum(last) && b.iter().all(|&c| alnum(c) || matches!(c, b'-' | b'_'))
        })
}

/// The kernel namespace that a parameter belongs to, as far as pods can have their own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum KernelNamespace {
    Ipc,
    Net,
}

fn kernel_namespace(sysctl: &str) -> Option<KernelNamespace> {
    // Either all separators are dots, or the first is a slash and dots are part of names.
    let slashed = sysctl.find(['.', '/']).is_some_and(|i| sysctl.as_bytes()[i] == b'/');
    let name = if slashed { sysctl.replace('/', ".") } else { sysctl.to_owned() };
    let name = name.split('*').next().unwrap_or_default();
    const IPC: [&str; 10] = [
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
        "kernel.shm",
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.msg",
    ];
    if IPC.contains(&name) || name.starts_with("fs.mqueue.") {
        Some(KernelNamespace::Ipc)
    } else if name.starts_with("net.") {
        Some(KernelNamespace::Net)
    } else {
        None
    }
}

fn validate_sysctls(spec: &PodSpec, context: &PodSecurityContext, path: &Path<'_>, errors: &mut Errors) {
    let mut names = Names::new();
    for (i, sysctl) in items(&context.sysctls).iter().enumerate() {
        let item_path = path.index(i);
        let path = item_path.child("name");
        let name = sysctl.name.as_str();
        if name.is_empty() {
            errors.required(&path, "");
        } else if !is_sysctl_name(name) {
            errors.invalid(
                &path,
                name,
                "must have at most 253 characters and match regex \
                 ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
            );
        } else if names.has(name) {
            errors.duplicate(&path, name);
        }
        match kernel_namespace(name) {
            Some(KernelNamespace::Net) if yes(spec.host_network) => {
                errors.invalid(&path, name, "may not be specified when 'hostNetwork' is true");
            }
            Some(KernelNamespace::Ipc) if yes(spec.host_ipc) => {
                errors.invalid(&path, name, "may not be specified when 'hostIPC' is true");
            }
            _ => {}
        }
        names.add(name);
    }
}

fn validate_seccomp(profile: Option<&SeccompProfile>, path: &Path<'_>, errors: &mut Errors) {
    let Some(profile) = profile else { return };
    let type_path = path.child("type");
    if profile.type_.is_empty() {
        errors.required(&type_path, "type is required when seccompProfile is set");
    } else {
        checks::one_of(&profile.type_, &PROFILE_TYPES, &type_path, errors);
    }
    let localhost_path = path.child("localhostProfile");
    match (&profile.localhost_profile, profile.type_ == "Localhost") {
        (None, true) => errors.required(&localhost_path, "must be set when seccomp type is Localhost"),
        (Some(file), true) => checks::descending_path(file, &localhost_path, errors),
        (Some(_), false) => {
            errors.invalid(&localhost_path, Json(profile), "can only be set when seccomp type is Localhost");
        }
        (None, false) => {}
    }
}

/// An AppArmor profile as a field.
pub(super) fn validate_apparmor(profile: Option<&AppArmorProfile>, path: &Path<'_>, errors: &mut Errors) {
    let Some(profile) = profile else { return };
    let localhost_path = path.child("localhostProfile");
    match profile.type_.as_str() {
        "Localhost" => {
            let missing = "must be set when AppArmor type is Localhost";
            let Some(name) = &profile.localhost_profile else {
                errors.required(&localhost_path, missing);
                return;
            };
            if name.trim() != name {
                errors.invalid(&localhost_path, name, "must not be padded with whitespace");
            } else if name.is_empty() {
                errors.required(&localhost_path, missing);
            }
            if name.len() > APPARMOR_PROFILE_MAX_LEN {
                errors.too_long(&localhost_path, APPARMOR_PROFILE_MAX_LEN);
            }
        }
        "RuntimeDefault" | "Unconfined" => {
            if let Some(name) = &profile.localhost_profile {
                errors.invalid(&localhost_path, name, "can only be set when AppArmor type is Localhost");
            }
        }
        "" => errors.required(&path.child("type"), "type is required when appArmorProfile is set"),
        other => errors.not_supported(&path.child("type"), other, &PROFILE_TYPES),
    }
}

/// The field that says what a deprecated annotation says, if it says something sound.
pub(super) fn apparmor_from_annotation(annotation: &str) -> Option<AppArmorProfile> {
    let of = |type_: &str| AppArmorProfile { type_: type_.to_owned(), localhost_profile: None };
    match annotation {
        UNCONFINED => Some(of("Unconfined")),
        RUNTIME_DEFAULT => Some(of("RuntimeDefault")),
        _ => {
            let name = annotation.strip_prefix(LOCALHOST_PREFIX)?;
            let sound = !name.is_empty() && name.trim() == name && name.len() <= APPARMOR_PROFILE_MAX_LEN;
            sound.then(|| AppArmorProfile { localhost_profile: Some(name.to_owned()), ..of("Localhost") })
        }
    }
}

fn validate_seccomp_annotation(value: &str, path: &Path<'_>, errors: &mut Errors) {
    match value {
        RUNTIME_DEFAULT | DOCKER_DEFAULT | UNCONFINED => {}
        _ => match value.strip_prefix(LOCALHOST_PREFIX) {
            Some(file) => checks::descending_path(file, path, errors),
            None => errors.invalid(path, value, "must be a valid seccomp profile"),
        },
    }
}

/// Annotations that name profiles.
pub(super) fn validate_profile_annotations(
    annotations: &BTreeMap<String, String>,
    spec: &PodSpec,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    for (key, value) in annotations {
        if key == SECCOMP_POD_ANNOTATION || key.starts_with(SECCOMP_CONTAINER_PREFIX) {
            validate_seccomp_annotation(value, &path.child(key), errors);
        }
        let Some(container) = key.strip_prefix(APPARMOR_PREFIX) else { continue };
        let mut found = false;
        visit_containers(spec, path, |c, _| found |= c.name == container);
        if !found {
            errors.invalid(&path.key(key), container, "container not found");
        }
        let known = matches!(value.as_str(), "" | RUNTIME_DEFAULT | UNCONFINED);
        if !known && !value.starts_with(LOCALHOST_PREFIX) {
            let detail = format!("invalid AppArmor profile name: {value:?}");
            errors.invalid(&path.key(key), value, &detail);
        }
    }
}

/// What a profile of either sort says, for comparison with an annotation.
struct Profile<'a> {
    word: &'static str,
    kind: &'a str,
    localhost: Option<&'a str>,
}

fn validate_match(annotation: &str, profile: &Profile<'_>, path: &Path<'_>, errors: &mut Errors) {
    let type_matches = match profile.kind {
        "Unconfined" => annotation == UNCONFINED,
        "RuntimeDefault" => {
            annotation == RUNTIME_DEFAULT || (profile.word == "seccomp" && annotation == DOCKER_DEFAULT)
        }
        "Localhost" => annotation.starts_with(LOCALHOST_PREFIX),
        _ => return,
    };
    if !type_matches {
        let detail = format!("{} type in annotation and field must match", profile.word);
        errors.forbidden(&path.child("type"), &detail);
    } else if profile.kind == "Localhost" && annotation.strip_prefix(LOCALHOST_PREFIX) != profile.localhost {
        let detail = format!("{} profile in annotation and field must match", profile.word);
        errors.forbidden(&path.child("localhostProfile"), &detail);
    }
}

/// Where a profile is given as a field and as an annotation, both must say the same.
pub(super) fn validate_profiles_match(
    annotations: &BTreeMap<String, String>,
    spec: &PodSpec,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if annotations.is_empty() {
        return;
    }
    let pod = spec.security_context.as_ref();
    let seccomp = |p: &'_ SeccompProfile, annotation: &str, path: &Path<'_>, errors: &mut Errors| {
        let profile = Profile { word: "seccomp", kind: &p.type_, localhost: p.localhost_profile.as_deref() };
        validate_match(annotation, &profile, path, errors);
    };
    if let Some(profile) = pod.and_then(|c| c.seccomp_profile.as_ref())
        && let Some(annotation) = annotations.get(SECCOMP_POD_ANNOTATION)
    {
        seccomp(profile, annotation, &path.child("securityContext").child("seccompProfile"), errors);
    }
    visit_containers(spec, path, |c, path| {
        if let Some(profile) = c.security_context.and_then(|s| s.seccomp_profile.as_ref())
            && let Some(annotation) = annotations.get(&format!("{SECCOMP_CONTAINER_PREFIX}{}", c.name))
        {
            seccomp(profile, annotation, &path.child("securityContext").child("seccompProfile"), errors);
        }
    });
    if is_windows(spec) {
        return;
    }
    let pod_profile = pod.and_then(|c| c.app_armor_profile.as_ref());
    visit_containers(spec, path, |c, path| {
        let own = c.security_context.and_then(|s| s.app_armor_profile.as_ref());
        if let Some(profile) = own.or(pod_profile)
            && let Some(annotation) = annotations.get(&format!("{APPARMOR_PREFIX}{}", c.name))
        {
            let profile = Profile {
                word: "apparmor",
                kind: &profile.type_,
                localhost: profile.localhost_profile.as_deref(),
            };
            validate_match(
                annotation,
                &profile,
                &path.child("securityContext").child("appArmorProfile"),
                errors,
            );
        }
    });
}

pub(super) fn is_windows(spec: &PodSpec) -> bool {
    spec.os.as_ref().is_some_and(|os| os.name == "windows")
}

/// `[a-zA-Z0-9]`, with hyphens in between, at most 63 characters; joined by dots.
fn is_windows_dns_domain(domain: &str) -> bool {
    domain.split('.').all(|label| {
        let b = label.as_bytes();
        (1..=63).contains(&b.len())
            && b[0].is_ascii_alphanumeric()
            && b[b.len() - 1].is_ascii_alphanumeric()
            && b.iter().all(|&c| c.is_ascii_alphanumeric() || c == b'-')
    })
}

fn is_netbios_domain(domain: &str) -> bool {
    (1..=15).contains(&domain.chars().count())
        && !domain.starts_with('.')
        && !domain.contains(['\\', '/', ':', '*', '?', '"', '<', '>', '|'])
}

fn validate_windows(options: Option<&WindowsSecurityContextOptions>, path: &Path<'_>, errors: &mut Errors) {
    let Some(options) = options else { return };
    if let Some(name) = &options.gmsa_credential_spec_name {
        checks::dns_subdomain(name, &path.child("gmsaCredentialSpecName"), errors);
    }
    if let Some(spec) = &options.gmsa_credential_spec {
        let path = path.child("gmsaCredentialSpec");
        if spec.is_empty() {
            errors.invalid(&path, spec, "gmsaCredentialSpec cannot be an empty string");
        } else if spec.len() > GMSA_SPEC_MAX_KIB * 1024 {
            let detail = format!("gmsaCredentialSpec size must be under {GMSA_SPEC_MAX_KIB} KiB");
            errors.invalid(&path, spec, &detail);
        }
    }
    let Some(whole) = &options.run_as_user_name else { return };
    let path = path.child("runAsUserName");
    let mut invalid = |detail: &str| errors.invalid(&path, whole, detail);
    if whole.is_empty() {
        return invalid("runAsUserName cannot be an empty string");
    }
    if whole.bytes().any(|b| b.is_ascii_control()) {
        return invalid("runAsUserName cannot contain control characters");
    }
    let (domain, user) = match whole.split_once('\\') {
        Some((_, user)) if user.contains('\\') => {
            return invalid("runAsUserName cannot contain more than one backslash");
        }
        Some((domain, user)) => (Some(domain), user),
        None => (None, whole.as_str()),
    };
    if let Some(domain) = domain {
        if domain.len() >= WINDOWS_DOMAIN_MAX_LEN {
            let max = WINDOWS_DOMAIN_MAX_LEN;
            invalid(&format!("runAsUserName's Domain length must be under {max} characters"));
        }
        if !is_netbios_domain(domain) && !is_windows_dns_domain(domain) {
            invalid("runAsUserName's Domain doesn't match the NetBios nor the DNS format");
        }
    }
    if user.is_empty() {
        invalid("runAsUserName's User cannot be empty");
    } else if user.len() > WINDOWS_USER_MAX_LEN {
        let max = WINDOWS_USER_MAX_LEN;
        invalid(&format!("runAsUserName's User length must not be longer than {max} characters"));
    }
    if !user.is_empty() && user.bytes().all(|b| matches!(b, b'.' | b' ')) {
        invalid("runAsUserName's User cannot contain only periods or spaces");
    }
    if user.contains(['"', '/', '\\', ':', ';', '|', '=', ',', '+', '*', '?', '<', '>', '@', '[', ']']) {
        invalid(r#"runAsUserName's User cannot contain the following characters: "/\:;|=,+*?<>@[]"#);
    }
}

/// Containers that are processes of a Windows host: all of the pod's or none.
pub(super) fn validate_host_process(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let of = |options: Option<&WindowsSecurityContextOptions>| options.and_then(|w| w.host_process);
    let pod = of(spec.security_context.as_ref().and_then(|c| c.windows_options.as_ref()));
    let (mut all, mut host_processes) = (0usize, 0usize);
    visit_containers(spec, path, |c, path| {
        all += 1;
        let own = of(c.security_context.and_then(|s| s.windows_options.as_ref()));
        if let (Some(pod), Some(own)) = (pod, own)
            && pod != own
        {
            let detail = format!("pod hostProcess value must be identical if both are specified, was {pod}");
            let path = path.child("securityContext");
            errors.invalid(&path.child("windowsOptions").child("hostProcess"), own, &detail);
        }
        host_processes += usize::from(own.or(pod) == Some(true));
    });
    if host_processes == 0 {
        return;
    }
    if host_processes != all {
        let detail =
            "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errors.invalid(path, "", detail);
    }
    if !yes(spec.host_network) {
        let detail = "hostNetwork must be true if pod contains any hostProcess containers";
        errors.invalid(&path.child("hostNetwork"), false, detail);
    }
}

/// What a pod that names its operating system may not set.
pub(super) fn validate_os(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let Some(os) = &spec.os else { return };
    let context = spec.security_context.as_ref();
    match os.name.as_str() {
        "" => errors.required(&path.child("os").child("name"), ""),
        "linux" => {
            let detail = "windows options cannot be set for a linux pod";
            if context.is_some_and(|c| c.windows_options.is_some()) {
                errors.forbidden(&path.child("securityContext").child("windowsOptions"), detail);
            }
            visit_containers(spec, path, |c, path| {
                if c.security_context.is_some_and(|s| s.windows_options.is_some()) {
                    errors.forbidden(&path.child("securityContext").child("windowsOptions"), detail);
                }
            });
        }
        "windows" => validate_windows_pod(spec, path, errors),
        other => errors.not_supported(&path.child("os"), other, &["linux", "windows"]),
    }
}

fn validate_windows_pod(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    const DETAIL: &str = "cannot be set for a windows pod";
    if let Some(c) = &spec.security_context {
        let context_path = path.child("securityContext");
        for (set, in_context, name) in [
            (c.app_armor_profile.is_some(), true, "appArmorProfile"),
            (c.se_linux_options.is_some(), true, "seLinuxOptions"),
            (spec.host_users.is_some(), false, "hostUsers"),
            (yes(spec.host_pid), false, "hostPID"),
            (yes(spec.host_ipc), false, "hostIPC"),
            (c.seccomp_profile.is_some(), true, "seccompProfile"),
            (c.fs_group.is_some(), true, "fsGroup"),
            (c.fs_group_change_policy.is_some(), true, "fsGroupChangePolicy"),
            (!items(&c.sysctls).is_empty(), true, "sysctls"),
            (spec.share_process_namespace.is_some(), false, "shareProcessNamespace"),
            (c.run_as_user.is_some(), true, "runAsUser"),
            (c.run_as_group.is_some(), true, "runAsGroup"),
            (c.supplemental_groups.is_some(), true, "supplementalGroups"),
            (c.supplemental_groups_policy.is_some(), true, "supplementalGroupsPolicy"),
            (c.se_linux_change_policy.is_some(), true, "seLinuxChangePolicy"),
        ] {
            if set {
                let path = if in_context { &context_path } else { path };
                errors.forbidden(&path.child(name), DETAIL);
            }
        }
    }
    visit_containers(spec, path, |c, path| {
        let Some(s) = c.security_context else { return };
        let path = path.child("securityContext");
        for (set, name) in [
            (s.app_armor_profile.is_some(), "appArmorProfile"),
            (s.se_linux_options.is_some(), "seLinuxOptions"),
            (s.seccomp_profile.is_some(), "seccompProfile"),
            (s.capabilities.is_some(), "capabilities"),
            (s.read_only_root_filesystem.is_some(), "readOnlyRootFilesystem"),
            (s.privileged.is_some(), "privileged"),
            (s.allow_privilege_escalation.is_some(), "allowPrivilegeEscalation"),
            (s.proc_mount.is_some(), "procMount"),
            (s.run_as_user.is_some(), "runAsUser"),
            (s.run_as_group.is_some(), "runAsGroup"),
        ] {
            if set {
                errors.forbidden(&path.child(name), DETAIL);
            }
        }
    });
}

/// A pod with users of its own may not share what is owned by the host's users.
pub(super) fn validate_host_users(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    const DETAIL: &str = "when `hostUsers` is false";
    if spec.host_users != Some(false) {
        return;
    }
    for (set, name) in
        [(spec.host_network, "hostNetwork"), (spec.host_pid, "HostPID"), (spec.host_ipc, "HostIPC")]
    {
        if yes(set) {
            errors.forbidden(&path.child(name), DETAIL);
        }
    }
    visit_containers(spec, path, |c, path| {
        if !c.volume_devices.is_empty() {
            errors.forbidden(&path.child("volumeDevices"), DETAIL);
        }
    });
}

/// Whether the pod shares the host's users.
pub(super) fn shares_host_users(spec: &PodSpec) -> bool {
    spec.host_users.unwrap_or(true)
}

/// The profile that a container has for itself.
pub(super) fn own_apparmor(context: Option<&SecurityContext>) -> Option<&AppArmorProfile> {
    context.and_then(|c| c.app_armor_profile.as_ref())
}
