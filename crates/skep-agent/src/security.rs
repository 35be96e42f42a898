//! From security contexts to what the runtime is told: users, capabilities, filters, paths.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{
    Capabilities, Container, Pod, PodSecurityContext, SeccompProfile, SecurityContext,
};
use skep_runtime::spec::{Capability, Seccomp, User, default_masked_paths, default_read_only_paths};

use crate::spec;

/// What this node lets its tenant do.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Privileged containers run. In a machine that shares its kernel with others they must not.
    pub allow_privileged: bool,
    /// The kernel confines programs with AppArmor.
    pub apparmor: bool,
    /// Where `Localhost` seccomp profiles lie.
    pub seccomp_directory: PathBuf,
}

/// What a container's security context comes to.
#[derive(Clone, Debug)]
pub struct Security {
    /// Who the process is.
    pub user: User,
    /// What it may do as root.
    pub capabilities: BTreeSet<Capability>,
    /// Which system calls it may use.
    pub seccomp: Seccomp,
    /// Its AppArmor profile.
    pub apparmor: Option<String>,
    /// It cannot gain privileges.
    pub no_new_privileges: bool,
    /// Its root filesystem cannot be written.
    pub read_only_root: bool,
    /// It is privileged: all devices, a writable `/sys`.
    pub privileged: bool,
    /// Paths that are hidden.
    pub masked_paths: Vec<PathBuf>,
    /// Paths that cannot be written.
    pub read_only_paths: Vec<PathBuf>,
}

fn pod_context(pod: &Pod) -> Option<&PodSecurityContext> {
    pod.spec.as_ref()?.security_context.as_ref()
}

/// The container's context with what it takes over from the pod.
fn effective(pod: &Pod, c: &Container) -> SecurityContext {
    let mut own = c.security_context.clone().unwrap_or_default();
    if let Some(of_pod) = pod_context(pod) {
        own.run_as_user = own.run_as_user.or(of_pod.run_as_user);
        own.run_as_group = own.run_as_group.or(of_pod.run_as_group);
        own.run_as_non_root = own.run_as_non_root.or(of_pod.run_as_non_root);
        own.seccomp_profile = own.seccomp_profile.or_else(|| of_pod.seccomp_profile.clone());
        own.app_armor_profile = own.app_armor_profile.or_else(|| of_pod.app_armor_profile.clone());
    }
    own
}

/// Capabilities after what is added and dropped. `ALL` stands for every one.
fn capabilities(caps: Option<&Capabilities>, privileged: bool) -> Result<BTreeSet<Capability>, String> {
    if privileged {
        return Ok(Capability::ALL.iter().copied().collect());
    }
    let mut set = skep_runtime::caps::default_set();
    let Some(caps) = caps else { return Ok(set) };
    let (add, drop) = (caps.add.as_deref().unwrap_or_default(), caps.drop.as_deref().unwrap_or_default());
    let all = |list: &[String]| list.iter().any(|c| c.eq_ignore_ascii_case("ALL"));
    let named = |list: &[String]| -> Result<Vec<Capability>, String> {
        list.iter()
            .filter(|c| !c.eq_ignore_ascii_case("ALL"))
            .map(|c| Capability::from_name(c).ok_or_else(|| format!("unknown capability {c:?}")))
            .collect()
    };
    if all(add) {
        set = Capability::ALL.iter().copied().collect();
    }
    if all(drop) {
        set.clear();
    }
    set.extend(named(add)?);
    for c in named(drop)? {
        set.remove(&c);
    }
    Ok(set)
}

/// The file of a `Localhost` profile, below its directory whatever it is called.
fn localhost_profile(directory: &Path, name: &str) -> Result<Seccomp, String> {
    let bad = name.starts_with('/') || name.split('/').any(|p| p == "..") || name.is_empty();
    if bad {
        return Err(format!("localhostProfile {name:?} must be a relative path without '..'"));
    }
    let text = std::fs::read(directory.join(name))
        .map_err(|e| format!("seccomp profile {name:?} cannot be read: {e}"))?;
    let profile = serde_json::from_slice(&text).map_err(|e| format!("seccomp profile {name:?}: {e}"))?;
    Ok(Seccomp::Profile(Box::new(profile)))
}

fn seccomp(profile: Option<&SeccompProfile>, privileged: bool, directory: &Path) -> Result<Seccomp, String> {
    if privileged {
        return Ok(Seccomp::Unconfined);
    }
    match profile.map(|p| p.type_.as_str()) {
        Some("Unconfined") => Ok(Seccomp::Unconfined),
        Some("Localhost") => {
            let name = profile.and_then(|p| p.localhost_profile.as_deref()).unwrap_or_default();
            localhost_profile(directory, name)
        }
        // What upstream's `seccompDefault` does: tenants do not trust each other, so nobody is unconfined unasked.
        _ => Ok(Seccomp::RuntimeDefault),
    }
}

fn apparmor(context: &SecurityContext, policy: &Policy) -> Result<Option<String>, String> {
    let Some(profile) = &context.app_armor_profile else { return Ok(None) };
    match profile.type_.as_str() {
        "Unconfined" => Ok(policy.apparmor.then(|| "unconfined".to_owned())),
        "RuntimeDefault" => Ok(None),
        "Localhost" if !policy.apparmor => {
            Err("Cannot enforce AppArmor: AppArmor is not enabled on the host".to_owned())
        }
        _ => Ok(profile.localhost_profile.clone()),
    }
}

fn number(id: i64) -> Result<u32, String> {
    u32::try_from(id).map_err(|_| format!("{id} is not an id of a user or group"))
}

/// The image's user, as `runAsNonRoot` sees it.
enum ImageUser<'a> {
    Id(i64),
    Name(&'a str),
}

fn image_user(user: &str) -> ImageUser<'_> {
    let name = user.split(':').next().unwrap_or_default();
    if name.is_empty() {
        return ImageUser::Id(0);
    }
    name.parse().map_or(ImageUser::Name(name), ImageUser::Id)
}

fn verify_non_root(pod: &Pod, c: &Container, context: &SecurityContext, image: &str) -> Result<(), String> {
    if context.run_as_non_root != Some(true) {
        return Ok(());
    }
    let place = format!("(pod: {:?}, container: {})", spec::format_pod(pod), c.name);
    if let Some(user) = context.run_as_user {
        return if user == 0 {
            Err(format!("container's runAsUser breaks non-root policy {place}"))
        } else {
            Ok(())
        };
    }
    match image_user(image) {
        ImageUser::Id(0) => Err(format!("container has runAsNonRoot and image will run as root {place}")),
        ImageUser::Id(_) => Ok(()),
        ImageUser::Name(name) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {place}"
        )),
    }
}

/// What a container's security context comes to, with the user that its image names.
///
/// # Errors
/// A sentence for the container's status: what is asked for cannot be had.
pub fn security(pod: &Pod, c: &Container, image_user: &str, policy: &Policy) -> Result<Security, String> {
    let context = effective(pod, c);
    verify_non_root(pod, c, &context, image_user)?;
    let privileged = context.privileged == Some(true);
    if privileged && !policy.allow_privileged {
        return Err(format!(
            "container {} is privileged, which this node does not allow because it shares its kernel with others; run it on a node of isolation vm",
            c.name
        ));
    }
    let unmasked = privileged || context.proc_mount.as_deref() == Some("Unmasked");
    Ok(Security {
        user: user(pod, &context, image_user)?,
        capabilities: capabilities(context.capabilities.as_ref(), privileged)?,
        seccomp: seccomp(context.seccomp_profile.as_ref(), privileged, &policy.seccomp_directory)?,
        apparmor: if privileged { None } else { apparmor(&context, policy)? },
        no_new_privileges: context.allow_privilege_escalation == Some(false),
        read_only_root: context.read_only_root_filesystem == Some(true),
        privileged,
        masked_paths: if unmasked { Vec::new() } else { default_masked_paths() },
        read_only_paths: if unmasked { Vec::new() } else { default_read_only_paths() },
    })
}

fn user(pod: &Pod, context: &SecurityContext, image_user: &str) -> Result<User, String> {
    let mut groups = Vec::new();
    let of_pod = pod_context(pod);
    for group in of_pod.iter().flat_map(|p| p.fs_group.iter().chain(p.supplemental_groups.iter().flatten())) {
        groups.push(number(*group)?);
    }
    let strict = match of_pod.and_then(|p| p.supplemental_groups_policy.as_deref()) {
        None | Some("Merge") => false,
        Some("Strict") => true,
        Some(other) => return Err(format!("unsupported supplementalGroupsPolicy: {other}")),
    };
    Ok(User {
        user: match context.run_as_user {
            Some(id) => number(id)?.to_string(),
            None => image_user.to_owned(),
        },
        gid: context.run_as_group.map(number).transpose()?,
        additional_gids: groups,
        strict_groups: strict,
    })
}

/// The pod's kernel parameters.
#[must_use]
pub fn sysctls(pod: &Pod) -> BTreeMap<String, String> {
    let list = pod_context(pod).and_then(|p| p.sysctls.as_deref()).unwrap_or_default();
    list.iter().map(|s| (s.name.replace('/', "."), s.value.clone())).collect()
}

/// Kernel parameters that belong to the pod's own namespaces and hurt nobody else.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// The first kernel parameter that the pod may not set, with the reason's sentence.
#[must_use]
pub fn forbidden_sysctl(pod: &Pod) -> Option<String> {
    let host = |f: fn(&k8s_openapi::api::core::v1::PodSpec) -> Option<bool>| {
        pod.spec.as_ref().and_then(f).unwrap_or(false)
    };
    sysctls(pod).keys().find_map(|name| {
        if name.starts_with("net.") && host(|s| s.host_network) {
            Some(format!("forbidden sysctl: {name:?} not allowed with host net enabled"))
        } else if name.starts_with("kernel.shm") && host(|s| s.host_ipc) {
            Some(format!("forbidden sysctl: {name:?} not allowed with host ipc enabled"))
        } else if !SAFE_SYSCTLS.contains(&name.as_str()) {
            Some(format!("forbidden sysctl: {name:?} not allowlisted"))
        } else {
            None
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::pod;
    use serde_json::{Value, json};

    fn policy() -> Policy {
        Policy { allow_privileged: false, apparmor: false, seccomp_directory: "/nonexistent".into() }
    }

    fn of(spec: Value, image_user: &str) -> Result<Security, String> {
        let p = pod(spec);
        security(&p, &spec::containers(&p)[0], image_user, &policy())
    }

    #[test]
    fn users() {
        let s = of(
            json!({"securityContext": {"runAsUser": 1000, "fsGroup": 7, "supplementalGroups": [8, 9],
                "supplementalGroupsPolicy": "Strict"},
                "containers": [{"name": "a", "securityContext": {"runAsGroup": 5}}]}),
            "root",
        )
        .unwrap();
        assert_eq!(
            s.user,
            User { user: "1000".into(), gid: Some(5), additional_gids: vec![7, 8, 9], strict_groups: true }
        );
        assert_eq!(of(json!({}), "www:data").unwrap().user.user, "www:data");
    }

    #[test]
    fn non_root() {
        for (spec, image, message) in [
            (
                json!({"securityContext": {"runAsNonRoot": true}}),
                "",
                Some(
                    "container has runAsNonRoot and image will run as root (pod: \"p_ns(uid-1)\", container: a)",
                ),
            ),
            (
                json!({"securityContext": {"runAsNonRoot": true}}),
                "www",
                Some(
                    "container has runAsNonRoot and image has non-numeric user (www), cannot verify user is non-root (pod: \"p_ns(uid-1)\", container: a)",
                ),
            ),
            (
                json!({"securityContext": {"runAsNonRoot": true, "runAsUser": 0}}),
                "5",
                Some("container's runAsUser breaks non-root policy (pod: \"p_ns(uid-1)\", container: a)"),
            ),
            (json!({"securityContext": {"runAsNonRoot": true}}), "5:6", None),
            (json!({"securityContext": {"runAsNonRoot": true, "runAsUser": 3}}), "", None),
        ] {
            assert_eq!(of(spec.clone(), image).err().as_deref(), message, "{spec} {image}");
        }
    }

    #[test]
    fn capabilities_add_and_drop() {
        let set = |caps: Value| {
            of(json!({"containers": [{"name": "a", "securityContext": {"capabilities": caps}}]}), "")
                .map(|s| s.capabilities)
        };
        assert_eq!(set(json!({"drop": ["ALL"]})).unwrap().len(), 0);
        assert_eq!(
            set(json!({"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]})).unwrap(),
            BTreeSet::from([Capability::NetBindService])
        );
        let s = set(json!({"drop": ["CAP_CHOWN"], "add": ["SYS_TIME"]})).unwrap();
        assert!(s.contains(&Capability::SysTime) && !s.contains(&Capability::Chown));
        assert_eq!(set(json!({"add": ["ALL"]})).unwrap().len(), Capability::ALL.len());
        assert!(set(json!({"add": ["FLY"]})).unwrap_err().contains("FLY"));
    }

    #[test]
    fn privileged_by_policy() {
        let spec = json!({"containers": [{"name": "a", "securityContext": {"privileged": true}}]});
        assert!(of(spec.clone(), "").unwrap_err().contains("isolation vm"));
        let p = pod(spec);
        let allowed = Policy { allow_privileged: true, ..policy() };
        let s = security(&p, &spec::containers(&p)[0], "", &allowed).unwrap();
        assert_eq!(s.capabilities.len(), Capability::ALL.len());
        assert_eq!(s.seccomp, Seccomp::Unconfined);
        assert!(s.masked_paths.is_empty());
    }

    #[test]
    fn filters() {
        let s = |context: Value| of(json!({"containers": [{"name": "a", "securityContext": context}]}), "");
        assert_eq!(s(json!({})).unwrap().seccomp, Seccomp::RuntimeDefault);
        assert_eq!(
            s(json!({"seccompProfile": {"type": "Unconfined"}})).unwrap().seccomp,
            Seccomp::Unconfined
        );
        for name in ["../x", "/x", ""] {
            let profile = json!({"seccompProfile": {"type": "Localhost", "localhostProfile": name}});
            assert!(s(profile).unwrap_err().contains("relative path"), "{name}");
        }
        assert!(
            s(json!({"appArmorProfile": {"type": "Localhost", "localhostProfile": "x"}}))
                .unwrap_err()
                .contains("AppArmor is not enabled")
        );
        assert!(s(json!({"allowPrivilegeEscalation": false})).unwrap().no_new_privileges);
    }

    #[test]
    fn kernel_parameters() {
        let of = |spec: Value, name: &str| {
            let mut spec = spec;
            spec["securityContext"] = json!({"sysctls": [{"name": name, "value": "1"}]});
            forbidden_sysctl(&pod(spec))
        };
        assert_eq!(of(json!({}), "net.ipv4.tcp_syncookies"), None);
        assert_eq!(of(json!({}), "net/ipv4/tcp_syncookies"), None);
        assert_eq!(
            of(json!({}), "kernel.panic").unwrap(),
            "forbidden sysctl: \"kernel.panic\" not allowlisted"
        );
        assert!(of(json!({"hostNetwork": true}), "net.ipv4.tcp_syncookies").unwrap().contains("host net"));
    }
}
