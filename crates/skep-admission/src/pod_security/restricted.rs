//! The checks of the restricted level.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Volume;

use super::checks::{
    Check, Edition, Finding, Subject, containers, found, is_good_seccomp, plural, proc_mount, quoted,
    seccomp, setters,
};

const fn edition(since: u32, run: fn(Subject<'_>) -> Option<Finding>) -> Edition {
    Edition { since, run, instead_of: None }
}

const fn instead_of(id: &'static str, since: u32, run: fn(Subject<'_>) -> Option<Finding>) -> Edition {
    Edition { since, run, instead_of: Some(id) }
}

/// In the order in which findings are reported, after those of the baseline.
pub(super) const RESTRICTED: &[Check] = &[
    Check { id: "allowPrivilegeEscalation", editions: &[edition(8, escalation), edition(25, escalation_25)] },
    Check {
        id: "capabilities_restricted",
        editions: &[
            instead_of("capabilities_baseline", 22, capabilities),
            instead_of("capabilities_baseline", 25, capabilities_25),
        ],
    },
    Check { id: "procMount_restricted", editions: &[instead_of("procMount", 35, proc_mount)] },
    Check { id: "restrictedVolumes", editions: &[instead_of("hostPathVolumes", 0, volumes)] },
    Check { id: "runAsNonRoot", editions: &[edition(0, non_root), edition(35, non_root_35)] },
    Check { id: "runAsUser", editions: &[edition(23, run_as_user), edition(35, run_as_user_35)] },
    Check {
        id: "seccompProfile_restricted",
        editions: &[
            instead_of("seccompProfile_baseline", 19, seccomp_restricted),
            instead_of("seccompProfile_baseline", 25, seccomp_25),
        ],
    },
];

fn escalation(subject: Subject<'_>) -> Option<Finding> {
    let names = subject.bad(|c| c.security.and_then(|s| s.allow_privilege_escalation) != Some(false));
    if names.is_empty() {
        return None;
    }
    found(
        "allowPrivilegeEscalation != false",
        format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&names)),
    )
}

fn escalation_25(subject: Subject<'_>) -> Option<Finding> {
    if subject.is_windows() { None } else { escalation(subject) }
}

fn capabilities(subject: Subject<'_>) -> Option<Finding> {
    let of = |c: &super::checks::View<'_>, drop: bool| {
        let capabilities = c.security.and_then(|s| s.capabilities.as_ref());
        capabilities.and_then(|c| if drop { c.drop.clone() } else { c.add.clone() }).unwrap_or_default()
    };
    let keeping = subject.bad(|c| !of(c, true).iter().any(|d| d == "ALL"));
    let mut forbidden = BTreeSet::new();
    let adding = subject.bad(|c| {
        let bad: Vec<String> = of(c, false).into_iter().filter(|a| a != "NET_BIND_SERVICE").collect();
        let is_bad = !bad.is_empty();
        forbidden.extend(bad);
        is_bad
    });
    let mut details = Vec::new();
    if !keeping.is_empty() {
        details
            .push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers(&keeping)));
    }
    if !adding.is_empty() {
        details.push(format!(
            "{} must not include {} in securityContext.capabilities.add",
            containers(&adding),
            quoted(forbidden.iter().map(String::as_str))
        ));
    }
    if details.is_empty() { None } else { found("unrestricted capabilities", details.join("; ")) }
}

fn capabilities_25(subject: Subject<'_>) -> Option<Finding> {
    if subject.is_windows() { None } else { capabilities(subject) }
}

/// The name of a volume's type, unless any pod may use it.
fn restricted_type(v: &Volume) -> Option<&'static str> {
    let free = v.config_map.is_some()
        || v.csi.is_some()
        || v.downward_api.is_some()
        || v.empty_dir.is_some()
        || v.ephemeral.is_some()
        || v.image.is_some()
        || v.persistent_volume_claim.is_some()
        || v.projected.is_some()
        || v.secret.is_some();
    if free {
        return None;
    }
    let types = [
        (v.host_path.is_some(), "hostPath"),
        (v.gce_persistent_disk.is_some(), "gcePersistentDisk"),
        (v.aws_elastic_block_store.is_some(), "awsElasticBlockStore"),
        (v.git_repo.is_some(), "gitRepo"),
        (v.nfs.is_some(), "nfs"),
        (v.iscsi.is_some(), "iscsi"),
        (v.glusterfs.is_some(), "glusterfs"),
        (v.rbd.is_some(), "rbd"),
        (v.flex_volume.is_some(), "flexVolume"),
        (v.cinder.is_some(), "cinder"),
        (v.cephfs.is_some(), "cephfs"),
        (v.flocker.is_some(), "flocker"),
        (v.fc.is_some(), "fc"),
        (v.azure_file.is_some(), "azureFile"),
        (v.vsphere_volume.is_some(), "vsphereVolume"),
        (v.quobyte.is_some(), "quobyte"),
        (v.azure_disk.is_some(), "azureDisk"),
        (v.photon_persistent_disk.is_some(), "photonPersistentDisk"),
        (v.portworx_volume.is_some(), "portworxVolume"),
        (v.scale_io.is_some(), "scaleIO"),
        (v.storageos.is_some(), "storageos"),
    ];
    Some(types.iter().find(|(is, _)| *is).map_or("unknown", |(_, name)| name))
}

fn volumes(subject: Subject<'_>) -> Option<Finding> {
    let (mut names, mut types) = (Vec::new(), BTreeSet::new());
    for volume in subject.spec.volumes.iter().flatten() {
        if let Some(kind) = restricted_type(volume) {
            names.push(volume.name.as_str());
            types.insert(kind);
        }
    }
    if names.is_empty() {
        return None;
    }
    let count = names.len();
    found(
        "restricted volume types",
        format!(
            "{} {} {} {} {}",
            plural("volume", "volumes", count),
            quoted(names),
            plural("uses", "use", count),
            plural("restricted volume type", "restricted volume types", types.len()),
            quoted(types.iter().copied()),
        ),
    )
}

fn non_root(subject: Subject<'_>) -> Option<Finding> {
    const REASON: &str = "runAsNonRoot != true";
    let pod = subject.spec.security_context.as_ref().and_then(|s| s.run_as_non_root);
    let own = |c: &super::checks::View<'_>| c.security.and_then(|s| s.run_as_non_root);
    let explicit = subject.bad(|c| own(c) == Some(false));
    if pod == Some(false) || !explicit.is_empty() {
        let who = setters(pod == Some(false), &explicit);
        return found(REASON, format!("{who} must not set securityContext.runAsNonRoot=false"));
    }
    let implicit = subject.bad(|c| own(c).is_none() && pod != Some(true));
    if implicit.is_empty() {
        return None;
    }
    found(REASON, format!("pod or {} must set securityContext.runAsNonRoot=true", containers(&implicit)))
}

fn non_root_35(subject: Subject<'_>) -> Option<Finding> {
    if subject.has_user_namespace() { None } else { non_root(subject) }
}

fn run_as_user(subject: Subject<'_>) -> Option<Finding> {
    let pod = subject.spec.security_context.as_ref().and_then(|s| s.run_as_user) == Some(0);
    let names = subject.bad(|c| c.security.and_then(|s| s.run_as_user) == Some(0));
    if !pod && names.is_empty() {
        return None;
    }
    found("runAsUser=0", format!("{} must not set runAsUser=0", setters(pod, &names)))
}

fn run_as_user_35(subject: Subject<'_>) -> Option<Finding> {
    if subject.has_user_namespace() { None } else { run_as_user(subject) }
}

fn seccomp_restricted(subject: Subject<'_>) -> Option<Finding> {
    if let Some(finding) = seccomp(subject) {
        return Some(finding);
    }
    let pod = subject.spec.security_context.as_ref().and_then(|s| s.seccomp_profile.as_ref());
    if pod.is_some_and(|p| is_good_seccomp(&p.type_)) {
        return None;
    }
    let names = subject.bad(|c| c.security.and_then(|s| s.seccomp_profile.as_ref()).is_none());
    if names.is_empty() {
        return None;
    }
    found(
        "seccompProfile",
        format!(
            "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
            containers(&names)
        ),
    )
}

fn seccomp_25(subject: Subject<'_>) -> Option<Finding> {
    if subject.is_windows() { None } else { seccomp_restricted(subject) }
}
