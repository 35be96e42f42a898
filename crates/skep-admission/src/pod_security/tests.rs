use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::CronJob;
use serde_json::{Value, json};

use super::*;
use crate::testing::{Request, World};

fn minor(version: u32) -> Version {
    Version::Minor(version)
}

/// Findings of one pod, each with its detail in parentheses.
fn findings(level: Level, version: Version, annotations: Value, spec: Value) -> String {
    let annotations: BTreeMap<String, String> = serde_json::from_value(annotations).unwrap();
    let mut spec = spec;
    if spec["containers"].is_null() {
        spec["containers"] = json!([]);
    }
    let spec: PodSpec = serde_json::from_value(spec).unwrap();
    details(&evaluate(level, version, Subject { annotations: Some(&annotations), spec: &spec }))
}

fn baseline(spec: Value) -> String {
    findings(Level::Baseline, Version::Latest, json!({}), spec)
}

/// Two containers with these security contexts; the second is an init container.
fn two(first: Value, second: Value) -> Value {
    json!({"containers": [{"name": "a", "securityContext": first}],
        "initContainers": [{"name": "b", "securityContext": second}]})
}

/// A pod that the restricted level allows.
fn restricted_pod() -> Value {
    json!({
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "a", "securityContext": {
            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]})
}

/// [`restricted_pod`] with one value changed.
fn with(pointer: &str, value: Value) -> Value {
    let mut pod = restricted_pod();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    pod.pointer_mut(parent).unwrap()[key] = value;
    pod
}

fn restricted(spec: Value) -> String {
    findings(Level::Restricted, Version::Latest, json!({}), spec)
}

#[test]
fn every_check_of_the_baseline() {
    let table = [
        // appArmorProfile
        (
            json!({"securityContext": {"appArmorProfile": {"type": "Unconfined"}}, "containers": [
                {"name": "a", "securityContext": {"appArmorProfile": {"type": "x"}}},
                {"name": "b", "securityContext": {"appArmorProfile": {"type": "Localhost"}}}]}),
            r#"forbidden AppArmor profiles (pod and container "a" must not set AppArmor profile type to "Unconfined", "x")"#,
        ),
        // capabilities
        (
            two(
                json!({"capabilities": {"add": ["NET_RAW", "CHOWN"]}}),
                json!({"capabilities": {"add": ["SYS_ADMIN"]}}),
            ),
            r#"non-default capabilities (containers "b", "a" must not include "NET_RAW", "SYS_ADMIN" in securityContext.capabilities.add)"#,
        ),
        (two(json!({"capabilities": {"add": ["CHOWN"], "drop": ["x"]}}), json!({})), ""),
        // hostNamespaces
        (
            json!({"hostNetwork": true, "hostPID": true, "hostIPC": true}),
            "host namespaces (hostNetwork=true, hostPID=true, hostIPC=true)",
        ),
        (json!({"hostPID": true, "hostIPC": false}), "host namespaces (hostPID=true)"),
        // hostPathVolumes
        (
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}, {"name": "w", "emptyDir": {}}]}),
            r#"hostPath volumes (volume "v")"#,
        ),
        (
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}, {"name": "w", "hostPath": {"path": "/"}}]}),
            r#"hostPath volumes (volumes "v", "w")"#,
        ),
        // hostPorts
        (
            json!({"containers": [
                {"name": "a", "ports": [{"containerPort": 1, "hostPort": 80}, {"containerPort": 2}]},
                {"name": "b", "ports": [{"containerPort": 1, "hostPort": 8080}, {"containerPort": 1, "hostPort": 0}]}]}),
            r#"hostPort (containers "a", "b" use hostPorts 80, 8080)"#,
        ),
        (
            json!({"containers": [{"name": "a", "ports": [{"containerPort": 1, "hostPort": 80}]}]}),
            r#"hostPort (container "a" uses hostPort 80)"#,
        ),
        // hostProbesAndHostLifecycle
        (
            json!({"containers": [
                {"name": "b", "livenessProbe": {"httpGet": {"port": 1, "host": "h2"}}},
                {"name": "a", "lifecycle": {"preStop": {"tcpSocket": {"port": 1, "host": "h1"}}}},
                {"name": "c", "readinessProbe": {"httpGet": {"port": 1}}, "startupProbe": {"tcpSocket": {"port": 1, "host": ""}}}]}),
            r#"probe or lifecycle host (containers "a", "b" use probe or lifecycle hosts "h1", "h2")"#,
        ),
        (
            json!({"containers": [{"name": "a", "lifecycle": {"postStart": {"httpGet": {"port": 1, "host": "h"}}}}]}),
            r#"probe or lifecycle host (container "a" uses probe or lifecycle host "h")"#,
        ),
        // privileged
        (
            two(json!({"privileged": true}), json!({"privileged": false})),
            r#"privileged (container "a" must not set securityContext.privileged=true)"#,
        ),
        (
            json!({"ephemeralContainers": [{"name": "e", "securityContext": {"privileged": true}}]}),
            r#"privileged (container "e" must not set securityContext.privileged=true)"#,
        ),
        // procMount
        (
            two(json!({"procMount": "Unmasked"}), json!({"procMount": "Default"})),
            r#"procMount (container "a" must not set securityContext.procMount to "Unmasked")"#,
        ),
        (
            json!({"hostUsers": false, "containers": [{"name": "a", "securityContext": {"procMount": "Unmasked"}}]}),
            "",
        ),
        // seLinuxOptions
        (
            json!({"securityContext": {"seLinuxOptions": {"type": "foo", "user": "u"}}, "containers": [
                {"name": "a", "securityContext": {"seLinuxOptions": {"type": "bar", "role": "r"}}},
                {"name": "b", "securityContext": {"seLinuxOptions": {"type": "container_engine_t"}}}]}),
            r#"seLinuxOptions (pod and container "a" set forbidden securityContext.seLinuxOptions: types "bar", "foo"; user may not be set; role may not be set)"#,
        ),
        // seccompProfile
        (
            json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}, "containers": [
                {"name": "a", "securityContext": {"seccompProfile": {"type": "x"}}},
                {"name": "b", "securityContext": {"seccompProfile": {"type": "Localhost"}}}]}),
            r#"seccompProfile (pod and container "a" must not set securityContext.seccompProfile.type to "Unconfined", "x")"#,
        ),
        // sysctls
        (
            json!({"securityContext": {"sysctls": [
                {"name": "a.b", "value": "1"}, {"name": "net.ipv4.tcp_rmem", "value": "1"}, {"name": "c", "value": "1"}]}}),
            "forbidden sysctls (a.b, c)",
        ),
        // windowsHostProcess
        (
            json!({"securityContext": {"windowsOptions": {"hostProcess": true}}, "containers": [
                {"name": "a", "securityContext": {"windowsOptions": {"hostProcess": true}}},
                {"name": "b", "securityContext": {"windowsOptions": {"hostProcess": false}}}]}),
            r#"hostProcess (pod and container "a" must not set securityContext.windowsOptions.hostProcess=true)"#,
        ),
        // Several at once, in their order.
        (
            json!({"hostPID": true, "containers": [{"name": "a", "securityContext": {"privileged": true}}]}),
            r#"host namespaces (hostPID=true), privileged (container "a" must not set securityContext.privileged=true)"#,
        ),
        (json!({"containers": [{"name": "a"}]}), ""),
    ];
    for (spec, want) in table {
        assert_eq!(baseline(spec.clone()), want, "{spec}");
        assert_eq!(findings(Level::Privileged, Version::Latest, json!({}), spec), "");
    }
}

#[test]
fn annotations_of_old() {
    let armor = json!({
        "container.apparmor.security.beta.kubernetes.io/a": "unconfined",
        "container.apparmor.security.beta.kubernetes.io/b": "runtime/default",
        "container.apparmor.security.beta.kubernetes.io/c": "localhost/x"});
    assert_eq!(
        findings(Level::Baseline, Version::Latest, armor, json!({})),
        "forbidden AppArmor profile (annotation must not set AppArmor profile type to \
         \"container.apparmor.security.beta.kubernetes.io/a=\"unconfined\"\")"
    );
    let seccomp = json!({
        "seccomp.security.alpha.kubernetes.io/pod": "unconfined",
        "container.seccomp.security.alpha.kubernetes.io/a": "unconfined",
        "container.seccomp.security.alpha.kubernetes.io/b": "docker/default",
        "container.seccomp.security.alpha.kubernetes.io/other": "unconfined"});
    let spec = json!({"containers": [{"name": "a"}, {"name": "b"}]});
    assert_eq!(
        findings(Level::Baseline, minor(18), seccomp.clone(), spec.clone()),
        "seccompProfile (forbidden annotations container.seccomp.security.alpha.kubernetes.io/a=\"unconfined\", \
         seccomp.security.alpha.kubernetes.io/pod=\"unconfined\")"
    );
    assert_eq!(findings(Level::Baseline, minor(19), seccomp, spec), "");
}

#[test]
fn every_check_of_the_restricted_level() {
    assert_eq!(restricted(restricted_pod()), "");
    let table = [
        // allowPrivilegeEscalation
        (
            with("/containers/0/securityContext/allowPrivilegeEscalation", json!(true)),
            r#"allowPrivilegeEscalation != false (container "a" must set securityContext.allowPrivilegeEscalation=false)"#,
        ),
        (
            with("/containers/0/securityContext/allowPrivilegeEscalation", json!(null)),
            r#"allowPrivilegeEscalation != false (container "a" must set securityContext.allowPrivilegeEscalation=false)"#,
        ),
        // capabilities, instead of the baseline's
        (
            with(
                "/containers/0/securityContext/capabilities",
                json!({"drop": ["CHOWN"], "add": ["NET_RAW", "NET_BIND_SERVICE"]}),
            ),
            r#"unrestricted capabilities (container "a" must set securityContext.capabilities.drop=["ALL"]; container "a" must not include "NET_RAW" in securityContext.capabilities.add)"#,
        ),
        (
            with("/containers/0/securityContext/capabilities", json!(null)),
            r#"unrestricted capabilities (container "a" must set securityContext.capabilities.drop=["ALL"])"#,
        ),
        // procMount, user namespace or not
        (
            {
                let mut pod = with("/containers/0/securityContext/procMount", json!("Unmasked"));
                pod["hostUsers"] = json!(false);
                pod
            },
            r#"procMount (container "a" must not set securityContext.procMount to "Unmasked")"#,
        ),
        // restrictedVolumes, instead of hostPathVolumes
        (
            with(
                "/volumes",
                json!([{"name": "v", "hostPath": {"path": "/"}}, {"name": "w", "nfs": {"server": "s", "path": "/"}},
                {"name": "x", "secret": {}}, {"name": "y", "image": {}}]),
            ),
            r#"restricted volume types (volumes "v", "w" use restricted volume types "hostPath", "nfs")"#,
        ),
        (
            with("/volumes", json!([{"name": "v", "gitRepo": {"repository": "r"}}])),
            r#"restricted volume types (volume "v" uses restricted volume type "gitRepo")"#,
        ),
        (
            with("/volumes", json!([{"name": "v"}])),
            r#"restricted volume types (volume "v" uses restricted volume type "unknown")"#,
        ),
        // runAsNonRoot
        (
            with("/securityContext/runAsNonRoot", json!(false)),
            "runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false)",
        ),
        (
            with("/securityContext/runAsNonRoot", json!(null)),
            r#"runAsNonRoot != true (pod or container "a" must set securityContext.runAsNonRoot=true)"#,
        ),
        (
            with("/containers/0/securityContext/runAsNonRoot", json!(false)),
            r#"runAsNonRoot != true (container "a" must not set securityContext.runAsNonRoot=false)"#,
        ),
        // runAsUser
        (
            with("/containers/0/securityContext/runAsUser", json!(0)),
            r#"runAsUser=0 (container "a" must not set runAsUser=0)"#,
        ),
        (with("/securityContext/runAsUser", json!(0)), "runAsUser=0 (pod must not set runAsUser=0)"),
        (with("/securityContext/runAsUser", json!(1000)), ""),
        // seccompProfile
        (
            with("/securityContext/seccompProfile", json!(null)),
            r#"seccompProfile (pod or container "a" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")"#,
        ),
        (
            with("/containers/0/securityContext/seccompProfile", json!({"type": "Unconfined"})),
            r#"seccompProfile (container "a" must not set securityContext.seccompProfile.type to "Unconfined")"#,
        ),
        // The baseline's checks come first.
        (
            {
                let mut pod = with("/securityContext/runAsUser", json!(0));
                pod["hostPID"] = json!(true);
                pod
            },
            "host namespaces (hostPID=true), runAsUser=0 (pod must not set runAsUser=0)",
        ),
    ];
    for (spec, want) in table {
        assert_eq!(restricted(spec.clone()), want, "{spec}");
    }
}

#[test]
fn windows_pods_and_user_namespaces_are_spared_what_does_not_apply() {
    let windows = json!({"os": {"name": "windows"}, "securityContext": {"runAsNonRoot": true}, "containers": [{"name": "a"}]});
    assert_eq!(restricted(windows.clone()), "");
    assert_eq!(
        findings(Level::Restricted, minor(24), json!({}), windows).matches("container \"a\"").count(),
        3
    );
    let mut apart = with("/securityContext/runAsUser", json!(0));
    apart["securityContext"]["runAsNonRoot"] = json!(false);
    apart["hostUsers"] = json!(false);
    assert_eq!(restricted(apart.clone()), "");
    assert!(findings(Level::Restricted, minor(34), json!({}), apart).contains("runAsUser=0"));
}

#[test]
fn versions_pick_editions() {
    let sysctl = |name: &str| json!({"securityContext": {"sysctls": [{"name": name, "value": "1"}]}});
    let rows = [
        ("kernel.shm_rmid_forced", 0),
        ("net.ipv4.ip_local_reserved_ports", 27),
        ("net.ipv4.tcp_keepalive_time", 29),
        ("net.ipv4.tcp_wmem", 32),
    ];
    for (name, since) in rows {
        for version in 0..40 {
            let allowed = findings(Level::Baseline, minor(version), json!({}), sysctl(name)).is_empty();
            assert_eq!(allowed, version >= since, "{name} in 1.{version}");
        }
    }
    let spec = json!({"containers": [{"name": "a"}]});
    let reasons = |version| findings(Level::Restricted, minor(version), json!({}), spec.clone());
    assert_eq!(reasons(7).matches(" (").count(), 1);
    assert_eq!(reasons(8).matches(" (").count(), 2);
    assert_eq!(reasons(19).matches(" (").count(), 3);
    assert_eq!(reasons(22).matches(" (").count(), 4);
    assert_eq!(reasons(99), restricted(spec.clone()));
    let engine = json!({"securityContext": {"seLinuxOptions": {"type": "container_engine_t"}}});
    assert_ne!(findings(Level::Baseline, minor(30), json!({}), engine.clone()), "");
    assert_eq!(findings(Level::Baseline, minor(31), json!({}), engine), "");
    let probe =
        json!({"containers": [{"name": "a", "livenessProbe": {"tcpSocket": {"port": 1, "host": "h"}}}]});
    assert_eq!(findings(Level::Baseline, minor(33), json!({}), probe.clone()), "");
    assert_ne!(findings(Level::Baseline, minor(34), json!({}), probe), "");
}

fn world(labels: Value) -> World {
    let mut world = World::new();
    let labels: BTreeMap<String, Value> = serde_json::from_value(labels).unwrap();
    let labels: BTreeMap<String, Value> =
        labels.into_iter().map(|(k, v)| (format!("pod-security.kubernetes.io/{k}"), v)).collect();
    let namespace = json!({"metadata": {"name": "ns", "labels": labels}, "status": {"phase": "Active"}});
    world.put("", "namespaces", &namespace.to_string());
    world
}

fn host_pod(image: &str) -> String {
    json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {"hostPID": true, "automountServiceAccountToken": false,
        "containers": [{"name": "a", "image": image}]}})
    .to_string()
}

#[test]
fn pods_are_refused_or_warned_about() {
    let enforced = Request::create(world(json!({"enforce": "baseline", "enforce-version": "v1.30"})));
    assert_eq!(
        enforced.admit::<Pod>(&host_pod("i"), None).unwrap_err().message,
        "pods \"p\" is forbidden: violates PodSecurity \"baseline:v1.30\": host namespaces (hostPID=true)"
    );
    let warned = Request::create(world(json!({"warn": "baseline"})));
    warned.admit::<Pod>(&host_pod("i"), None).unwrap();
    assert_eq!(
        warned.warnings.take(),
        ["would violate PodSecurity \"baseline:latest\": host namespaces (hostPID=true)"]
    );
    let free = Request::create(world(json!({})));
    free.admit::<Pod>(&host_pod("i"), None).unwrap();
    assert!(free.warnings.take().is_empty());
    // What cannot be read is the strictest.
    let typo = Request::create(world(json!({"enforce": "basline"})));
    assert!(typo.admit::<Pod>(&host_pod("i"), None).unwrap_err().message.contains("\"restricted:latest\""));
}

#[test]
fn only_updates_that_change_images_are_checked() {
    let mut request = Request::update(world(json!({"enforce": "baseline"})));
    assert!(request.admit::<Pod>(&host_pod("i"), Some(&host_pod("i"))).is_ok());
    assert!(request.admit::<Pod>(&host_pod("j"), Some(&host_pod("i"))).is_err());
    let mut debug: Value = serde_json::from_str(&host_pod("i")).unwrap();
    debug["spec"]["serviceAccountName"] = json!("default");
    let old = debug.to_string();
    debug["spec"]["ephemeralContainers"] = json!([{"name": "e", "image": "x"}]);
    request.subresource = "ephemeralcontainers";
    assert!(request.admit::<Pod>(&debug.to_string(), Some(&old)).is_err());
    request.subresource = "status";
    assert!(request.admit::<Pod>(&host_pod("j"), Some(&host_pod("i"))).is_ok());
}

#[test]
fn templates_are_only_warned_about() {
    let template = json!({"spec": {"hostPID": true, "containers": [{"name": "a"}]}});
    let deployment =
        json!({"metadata": {"name": "d", "namespace": "ns"}, "spec": {"selector": {}, "template": template}});
    let request = Request::create(world(json!({"enforce": "baseline"})));
    request.admit::<Deployment>(&deployment.to_string(), None).unwrap();
    let warning = "would violate PodSecurity \"baseline:latest\": host namespaces (hostPID=true)";
    assert_eq!(request.warnings.take(), [warning]);
    let cron = json!({"metadata": {"name": "c", "namespace": "ns"}, "spec": {"schedule": "* * * * *",
        "jobTemplate": {"spec": {"template": template}}}});
    request.admit::<CronJob>(&cron.to_string(), None).unwrap();
    assert_eq!(request.warnings.take(), [warning]);
    let silent = Request::create(world(json!({"enforce": "baseline", "warn": "privileged"})));
    silent.admit::<Deployment>(&deployment.to_string(), None).unwrap();
    assert!(silent.warnings.take().is_empty());
}

#[test]
fn labels_are_checked() {
    let namespace = |labels: Value| json!({"metadata": {"name": "ns", "labels": labels}}).to_string();
    let bad = namespace(json!({
        "pod-security.kubernetes.io/enforce": "x", "pod-security.kubernetes.io/audit-version": "1.2"}));
    let refusal = Request::create(World::new()).admit::<Namespace>(&bad, None).unwrap_err();
    assert_eq!((refusal.code, refusal.reason), (422, "Invalid"));
    assert_eq!(
        refusal.message,
        "Namespace \"ns\" is invalid: [metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"x\": must \
         be one of privileged, baseline, restricted, metadata.labels[pod-security.kubernetes.io/audit-version]: Invalid \
         value: \"1.2\": must be \"latest\" or \"v1.x\"]"
    );
    // What was wrong before may stay.
    assert!(Request::update(World::new()).admit::<Namespace>(&bad, Some(&bad)).is_ok());
    assert!(Request::update(World::new()).admit::<Namespace>(&bad, Some(&namespace(json!({})))).is_err());
}

#[test]
fn a_stricter_level_warns_about_pods_that_are_there() {
    let mut world = World::new();
    for (name, host) in [("b", true), ("a", true), ("c", false)] {
        let pod = json!({"metadata": {"name": name, "namespace": "ns"},
            "spec": {"hostPID": host, "containers": [{"name": "x", "securityContext": {"privileged": name == "c"}}]}});
        world.put("", "pods", &pod.to_string());
    }
    let request = Request::update(world);
    let namespace = |level: &str| {
        json!({"metadata": {"name": "ns", "labels": {"pod-security.kubernetes.io/enforce": level}}})
            .to_string()
    };
    request.admit::<Namespace>(&namespace("baseline"), Some(&namespace("privileged"))).unwrap();
    assert_eq!(
        request.warnings.take(),
        [
            "existing pods in namespace \"ns\" violate the new PodSecurity enforce level \"baseline:latest\"",
            "a (and 1 other pod): host namespaces",
            "c: privileged",
        ]
    );
    request.admit::<Namespace>(&namespace("privileged"), Some(&namespace("baseline"))).unwrap();
    assert!(request.warnings.take().is_empty());
}

#[test]
fn levels_and_versions_are_read() {
    for (text, want) in [
        ("latest", Some(Version::Latest)),
        ("v1.0", Some(minor(0))),
        ("v1.36", Some(minor(36))),
        ("v1.01", None),
        ("v1.", None),
        ("v2.1", None),
        ("1.2", None),
        ("", None),
    ] {
        assert_eq!(Version::parse(text).ok(), want, "{text}");
    }
    let of = |labels: Value| {
        let labels: BTreeMap<String, String> = serde_json::from_value(labels).unwrap();
        let labels = labels.into_iter().map(|(k, v)| (format!("{LABEL_PREFIX}{k}"), v)).collect();
        let policy = Policy::of(Some(&labels)).0;
        format!("{} {} {}", policy.enforce, policy.audit, policy.warn)
    };
    let table = [
        (json!({}), "privileged:latest privileged:latest privileged:latest"),
        (
            json!({"enforce": "baseline", "enforce-version": "v1.5"}),
            "baseline:v1.5 privileged:latest baseline:v1.5",
        ),
        (
            json!({"enforce": "restricted", "enforce-version": "v1.5", "warn-version": "v1.6"}),
            "restricted:v1.5 privileged:latest restricted:v1.6",
        ),
        (
            json!({"enforce": "baseline", "warn": "privileged", "audit": "restricted"}),
            "baseline:latest restricted:latest privileged:latest",
        ),
        (json!({"enforce": "x", "warn": "y"}), "restricted:latest privileged:latest privileged:latest"),
    ];
    for (labels, want) in table {
        assert_eq!(of(labels.clone()), want, "{labels}");
    }
}
