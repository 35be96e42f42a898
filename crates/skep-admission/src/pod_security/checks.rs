//! The checks of the baseline level, and what all checks have in common. Wording, order and versions are
//! upstream's (`pod-security-admission/policy`): clients read the reasons.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EphemeralContainer, Lifecycle, LifecycleHandler, PodSpec, Probe,
    SELinuxOptions, SecurityContext,
};

use super::{Level, Version, restricted};

/// Why a check does not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) reason: &'static str,
    pub(crate) detail: String,
}

/// A pod, or the template of one.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) annotations: Option<&'a BTreeMap<String, String>>,
    pub(crate) spec: &'a PodSpec,
}

/// What checks look at in a container of whatever sort.
pub(super) struct View<'a> {
    pub(super) name: &'a str,
    pub(super) security: Option<&'a SecurityContext>,
    ports: &'a [ContainerPort],
    probes: [Option<&'a Probe>; 3],
    lifecycle: Option<&'a Lifecycle>,
}

impl<'a> From<&'a Container> for View<'a> {
    fn from(c: &'a Container) -> View<'a> {
        View {
            name: &c.name,
            security: c.security_context.as_ref(),
            ports: c.ports.as_deref().unwrap_or_default(),
            probes: [c.liveness_probe.as_ref(), c.readiness_probe.as_ref(), c.startup_probe.as_ref()],
            lifecycle: c.lifecycle.as_ref(),
        }
    }
}

impl<'a> From<&'a EphemeralContainer> for View<'a> {
    fn from(c: &'a EphemeralContainer) -> View<'a> {
        View {
            name: &c.name,
            security: c.security_context.as_ref(),
            ports: c.ports.as_deref().unwrap_or_default(),
            probes: [c.liveness_probe.as_ref(), c.readiness_probe.as_ref(), c.startup_probe.as_ref()],
            lifecycle: c.lifecycle.as_ref(),
        }
    }
}

impl<'a> Subject<'a> {
    pub(super) fn containers(self) -> impl Iterator<Item = View<'a>> {
        let spec = self.spec;
        let ordinary = spec.init_containers.iter().flatten().chain(&spec.containers).map(View::from);
        ordinary.chain(spec.ephemeral_containers.iter().flatten().map(View::from))
    }

    /// Names of the containers that are not as they should be.
    pub(super) fn bad(self, mut is_bad: impl FnMut(&View<'a>) -> bool) -> Vec<&'a str> {
        self.containers().filter(|c| is_bad(c)).map(|c| c.name).collect()
    }

    fn annotation(self, key: &str) -> Option<&'a str> {
        self.annotations.and_then(|a| a.get(key)).map(String::as_str)
    }

    /// Whether root inside is nobody outside.
    pub(super) fn has_user_namespace(self) -> bool {
        self.spec.host_users == Some(false)
    }

    pub(super) fn is_windows(self) -> bool {
        self.spec.os.as_ref().is_some_and(|os| os.name == "windows")
    }
}

/// One check as it is from some version on.
pub(super) struct Edition {
    /// The minor version, of major version 1.
    pub(super) since: u32,
    pub(super) run: fn(Subject<'_>) -> Option<Finding>,
    /// A check of the baseline that this one makes superfluous.
    pub(super) instead_of: Option<&'static str>,
}

/// All editions of one check, oldest first.
pub(super) struct Check {
    pub(super) id: &'static str,
    pub(super) editions: &'static [Edition],
}

const fn edition(since: u32, run: fn(Subject<'_>) -> Option<Finding>) -> Edition {
    Edition { since, run, instead_of: None }
}

/// In the order in which findings are reported.
pub(super) const BASELINE: &[Check] = &[
    Check { id: "appArmorProfile", editions: &[edition(0, app_armor)] },
    Check { id: "capabilities_baseline", editions: &[edition(0, capabilities)] },
    Check { id: "hostNamespaces", editions: &[edition(0, host_namespaces)] },
    Check { id: "hostPathVolumes", editions: &[edition(0, host_path_volumes)] },
    Check { id: "hostPorts", editions: &[edition(0, host_ports)] },
    Check { id: "hostProbesAndHostLifecycle", editions: &[edition(34, host_probes)] },
    Check { id: "privileged", editions: &[edition(0, privileged)] },
    Check {
        id: "procMount",
        editions: &[edition(0, proc_mount), edition(35, proc_mount_outside_user_namespaces)],
    },
    Check { id: "seLinuxOptions", editions: &[edition(0, se_linux_0), edition(31, se_linux_31)] },
    Check {
        id: "seccompProfile_baseline",
        editions: &[edition(0, seccomp_annotations), edition(19, seccomp)],
    },
    Check {
        id: "sysctls",
        editions: &[
            edition(0, sysctls_0),
            edition(27, sysctls_27),
            edition(29, sysctls_29),
            edition(32, sysctls_32),
        ],
    },
    Check { id: "windowsHostProcess", editions: &[edition(0, windows_host_process)] },
];

/// What a pod does that its level does not allow.
pub(crate) fn evaluate(level: Level, version: Version, subject: Subject<'_>) -> Vec<Finding> {
    if level == Level::Privileged {
        return Vec::new();
    }
    let current = |check: &'static Check| {
        check.editions.iter().rev().find(|e| version.is_at_least(e.since)).map(|e| (check.id, e))
    };
    let restricted: Vec<_> = match level {
        Level::Restricted => restricted::RESTRICTED.iter().filter_map(current).collect(),
        Level::Privileged | Level::Baseline => Vec::new(),
    };
    let replaced: Vec<&str> = restricted.iter().filter_map(|(_, e)| e.instead_of).collect();
    let baseline = BASELINE.iter().filter_map(current).filter(|(id, _)| !replaced.contains(id));
    baseline.chain(restricted.iter().copied()).filter_map(|(_, e)| (e.run)(subject)).collect()
}

pub(super) fn found(reason: &'static str, detail: String) -> Option<Finding> {
    Some(Finding { reason, detail })
}

/// `"a", "b"`.
pub(super) fn quoted<'a>(items: impl IntoIterator<Item = &'a str>) -> String {
    items.into_iter().map(|i| format!("\"{i}\"")).collect::<Vec<_>>().join(", ")
}

pub(super) fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

/// `container "a"` or `containers "a", "b"`.
pub(super) fn containers(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names.iter().copied()))
}

/// `pod and containers "a", "b"`, as far as they apply.
pub(super) fn setters(pod: bool, names: &[&str]) -> String {
    match (pod, names.is_empty()) {
        (true, true) => "pod".to_owned(),
        (true, false) => format!("pod and {}", containers(names)),
        (false, _) => containers(names),
    }
}

fn app_armor(subject: Subject<'_>) -> Option<Finding> {
    const PREFIX: &str = "container.apparmor.security.beta.kubernetes.io/";
    let is_good = |kind: &str| matches!(kind, "RuntimeDefault" | "Localhost");
    let mut values = BTreeSet::new();
    let pod = subject.spec.security_context.as_ref().and_then(|s| s.app_armor_profile.as_ref());
    let pod = pod.filter(|p| !is_good(&p.type_));
    values.extend(pod.map(|p| p.type_.as_str()));
    let names = subject.bad(|c| {
        let bad = c.security.and_then(|s| s.app_armor_profile.as_ref()).filter(|p| !is_good(&p.type_));
        values.extend(bad.map(|p| p.type_.as_str()));
        bad.is_some()
    });
    let annotations: Vec<String> = subject
        .annotations
        .into_iter()
        .flatten()
        .filter(|(k, v)| {
            k.starts_with(PREFIX) && !(v.is_empty() || *v == "runtime/default" || v.starts_with("localhost/"))
        })
        .map(|(k, v)| format!("{k}={v:?}"))
        .collect();
    let mut who = Vec::new();
    if pod.is_some() {
        who.push("pod".to_owned());
    }
    if !names.is_empty() {
        who.push(containers(&names));
    }
    if !annotations.is_empty() {
        who.push(plural("annotation", "annotations", annotations.len()).to_owned());
    }
    if who.is_empty() {
        return None;
    }
    let all: Vec<&str> = values.into_iter().chain(annotations.iter().map(String::as_str)).collect();
    found(
        plural("forbidden AppArmor profile", "forbidden AppArmor profiles", all.len()),
        format!("{} must not set AppArmor profile type to {}", who.join(" and "), quoted(all)),
    )
}

fn capabilities(subject: Subject<'_>) -> Option<Finding> {
    const ALLOWED: [&str; 13] = [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ];
    let mut forbidden = BTreeSet::new();
    let names = subject.bad(|c| {
        let added = c.security.and_then(|s| s.capabilities.as_ref()?.add.as_ref());
        let bad: Vec<&str> =
            added.into_iter().flatten().map(String::as_str).filter(|c| !ALLOWED.contains(c)).collect();
        forbidden.extend(bad.iter().copied());
        !bad.is_empty()
    });
    if names.is_empty() {
        return None;
    }
    found(
        "non-default capabilities",
        format!(
            "{} must not include {} in securityContext.capabilities.add",
            containers(&names),
            quoted(forbidden)
        ),
    )
}

fn host_namespaces(subject: Subject<'_>) -> Option<Finding> {
    let spec = subject.spec;
    let shared: Vec<&str> = [
        (spec.host_network, "hostNetwork=true"),
        (spec.host_pid, "hostPID=true"),
        (spec.host_ipc, "hostIPC=true"),
    ]
    .into_iter()
    .filter(|(shared, _)| *shared == Some(true))
    .map(|(_, name)| name)
    .collect();
    if shared.is_empty() { None } else { found("host namespaces", shared.join(", ")) }
}

fn host_path_volumes(subject: Subject<'_>) -> Option<Finding> {
    let volumes = subject.spec.volumes.iter().flatten();
    let names: Vec<&str> = volumes.filter(|v| v.host_path.is_some()).map(|v| v.name.as_str()).collect();
    if names.is_empty() {
        return None;
    }
    let noun = plural("volume", "volumes", names.len());
    found("hostPath volumes", format!("{noun} {}", quoted(names)))
}

fn host_ports(subject: Subject<'_>) -> Option<Finding> {
    let mut ports = BTreeSet::new();
    let names = subject.bad(|c| {
        let bad: Vec<String> =
            c.ports.iter().filter_map(|p| p.host_port).filter(|p| *p != 0).map(|p| p.to_string()).collect();
        let is_bad = !bad.is_empty();
        // In order of their text, as upstream.
        ports.extend(bad);
        is_bad
    });
    if names.is_empty() {
        return None;
    }
    let (uses, noun) = (plural("uses", "use", names.len()), plural("hostPort", "hostPorts", ports.len()));
    let ports: Vec<String> = ports.into_iter().collect();
    found("hostPort", format!("{} {uses} {noun} {}", containers(&names), ports.join(", ")))
}

fn host_probes(subject: Subject<'_>) -> Option<Finding> {
    fn hosts(probe: &Probe) -> [Option<&String>; 2] {
        [
            probe.http_get.as_ref().and_then(|g| g.host.as_ref()),
            probe.tcp_socket.as_ref().and_then(|s| s.host.as_ref()),
        ]
    }
    fn hook_hosts(hook: &LifecycleHandler) -> [Option<&String>; 2] {
        [
            hook.http_get.as_ref().and_then(|g| g.host.as_ref()),
            hook.tcp_socket.as_ref().and_then(|s| s.host.as_ref()),
        ]
    }
    let mut forbidden = BTreeSet::new();
    let mut names = subject.bad(|c| {
        let probes = c.probes.iter().flatten().flat_map(|p| hosts(p));
        let hooks = c.lifecycle.into_iter().flat_map(|l| [l.post_start.as_ref(), l.pre_stop.as_ref()]);
        let hooks = hooks.flatten().flat_map(hook_hosts);
        let bad: Vec<&str> =
            probes.chain(hooks).flatten().map(String::as_str).filter(|h| !h.is_empty()).collect();
        forbidden.extend(bad.iter().map(|h| (*h).to_owned()));
        !bad.is_empty()
    });
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return None;
    }
    let uses = plural("uses", "use", names.len());
    let noun = plural("probe or lifecycle host", "probe or lifecycle hosts", forbidden.len());
    let detail =
        format!("{} {uses} {noun} {}", containers(&names), quoted(forbidden.iter().map(String::as_str)));
    found("probe or lifecycle host", detail)
}

fn privileged(subject: Subject<'_>) -> Option<Finding> {
    let names = subject.bad(|c| c.security.is_some_and(|s| s.privileged == Some(true)));
    if names.is_empty() {
        return None;
    }
    found("privileged", format!("{} must not set securityContext.privileged=true", containers(&names)))
}

pub(super) fn proc_mount(subject: Subject<'_>) -> Option<Finding> {
    let mut values = BTreeSet::new();
    let names = subject.bad(|c| {
        let bad = c.security.and_then(|s| s.proc_mount.as_deref()).filter(|p| *p != "Default");
        values.extend(bad);
        bad.is_some()
    });
    if names.is_empty() {
        return None;
    }
    let detail =
        format!("{} must not set securityContext.procMount to {}", containers(&names), quoted(values));
    found("procMount", detail)
}

fn proc_mount_outside_user_namespaces(subject: Subject<'_>) -> Option<Finding> {
    if subject.has_user_namespace() { None } else { proc_mount(subject) }
}

fn se_linux_0(subject: Subject<'_>) -> Option<Finding> {
    se_linux(subject, &["", "container_t", "container_init_t", "container_kvm_t"])
}

fn se_linux_31(subject: Subject<'_>) -> Option<Finding> {
    se_linux(subject, &["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"])
}

fn se_linux(subject: Subject<'_>, allowed: &[&str]) -> Option<Finding> {
    let (mut types, mut user, mut role) = (BTreeSet::new(), false, false);
    let mut is_bad = |options: Option<&SELinuxOptions>| {
        let Some(options) = options else { return false };
        let kind = options.type_.as_deref().unwrap_or("");
        let bad_type = !allowed.contains(&kind);
        if bad_type {
            types.insert(kind.to_owned());
        }
        let has_user = options.user.as_ref().is_some_and(|u| !u.is_empty());
        let has_role = options.role.as_ref().is_some_and(|r| !r.is_empty());
        user |= has_user;
        role |= has_role;
        bad_type || has_user || has_role
    };
    let pod = is_bad(subject.spec.security_context.as_ref().and_then(|s| s.se_linux_options.as_ref()));
    let names = subject.bad(|c| is_bad(c.security.and_then(|s| s.se_linux_options.as_ref())));
    if !pod && names.is_empty() {
        return None;
    }
    let mut what = Vec::new();
    if !types.is_empty() {
        let noun = plural("type", "types", types.len());
        what.push(format!("{noun} {}", quoted(types.iter().map(String::as_str))));
    }
    if user {
        what.push("user may not be set".to_owned());
    }
    if role {
        what.push("role may not be set".to_owned());
    }
    found(
        "seLinuxOptions",
        format!("{} set forbidden securityContext.seLinuxOptions: {}", setters(pod, &names), what.join("; ")),
    )
}

fn seccomp_annotations(subject: Subject<'_>) -> Option<Finding> {
    let is_good = |v: &str| v == "runtime/default" || v == "docker/default" || v.starts_with("localhost/");
    let keys = std::iter::once("seccomp.security.alpha.kubernetes.io/pod".to_owned()).chain(
        subject.containers().map(|c| format!("container.seccomp.security.alpha.kubernetes.io/{}", c.name)),
    );
    let bad: BTreeSet<String> = keys
        .filter_map(|k| subject.annotation(&k).filter(|v| !is_good(v)).map(|v| format!("{k}={v:?}")))
        .collect();
    if bad.is_empty() {
        return None;
    }
    let noun = plural("annotation", "annotations", bad.len());
    let bad: Vec<String> = bad.into_iter().collect();
    found("seccompProfile", format!("forbidden {noun} {}", bad.join(", ")))
}

pub(super) fn is_good_seccomp(kind: &str) -> bool {
    matches!(kind, "RuntimeDefault" | "Localhost")
}

pub(super) fn seccomp(subject: Subject<'_>) -> Option<Finding> {
    let mut values = BTreeSet::new();
    let pod = subject.spec.security_context.as_ref().and_then(|s| s.seccomp_profile.as_ref());
    let pod = pod.map(|p| p.type_.as_str()).filter(|t| !is_good_seccomp(t));
    values.extend(pod);
    let names = subject.bad(|c| {
        let bad = c.security.and_then(|s| s.seccomp_profile.as_ref()).map(|p| p.type_.as_str());
        let bad = bad.filter(|t| !is_good_seccomp(t));
        values.extend(bad);
        bad.is_some()
    });
    if pod.is_none() && names.is_empty() {
        return None;
    }
    let who = setters(pod.is_some(), &names);
    found(
        "seccompProfile",
        format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(values)),
    )
}

const SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    // since 1.27
    "net.ipv4.ip_local_reserved_ports",
    // since 1.29
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    // since 1.32
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

fn sysctls_0(subject: Subject<'_>) -> Option<Finding> {
    sysctls(subject, &SYSCTLS[..5])
}

fn sysctls_27(subject: Subject<'_>) -> Option<Finding> {
    sysctls(subject, &SYSCTLS[..6])
}

fn sysctls_29(subject: Subject<'_>) -> Option<Finding> {
    sysctls(subject, &SYSCTLS[..10])
}

fn sysctls_32(subject: Subject<'_>) -> Option<Finding> {
    sysctls(subject, &SYSCTLS)
}

fn sysctls(subject: Subject<'_>, allowed: &[&str]) -> Option<Finding> {
    let set = subject.spec.security_context.as_ref().and_then(|s| s.sysctls.as_ref());
    let bad: Vec<&str> =
        set.into_iter().flatten().map(|s| s.name.as_str()).filter(|n| !allowed.contains(n)).collect();
    if bad.is_empty() { None } else { found("forbidden sysctls", bad.join(", ")) }
}

fn windows_host_process(subject: Subject<'_>) -> Option<Finding> {
    let pod = subject.spec.security_context.as_ref().and_then(|s| s.windows_options.as_ref()?.host_process);
    let pod = pod == Some(true);
    let names =
        subject.bad(|c| c.security.and_then(|s| s.windows_options.as_ref()?.host_process) == Some(true));
    if !pod && names.is_empty() {
        return None;
    }
    let who = setters(pod, &names);
    found("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}
