//! What a pod's specification says is what its containers have, and how they live: by kubectl, in machines. Needs root and busybox; says so without.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use serde_json::{Value, json};
use skep_e2e::agent::{container, impossible};
use skep_e2e::cloud::{Cloud, Tenant, wait_for};

fn pod(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    if spec["terminationGracePeriodSeconds"].is_null() {
        spec["terminationGracePeriodSeconds"] = 1.into();
    }
    for list in ["containers", "initContainers"] {
        for c in spec[list].as_array_mut().into_iter().flatten() {
            c["image"] = "busybox:test".into();
            c["resources"] = json!({"requests": {"cpu": "10m", "memory": "4Mi"}});
        }
    }
    if spec["initContainers"].is_null() {
        spec.as_object_mut().unwrap().remove("initContainers");
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec})
}

fn sh(name: &str, script: &str) -> Value {
    json!({"name": name, "command": ["sh", "-c", script]})
}

/// A container that says something and stays.
fn says(name: &str, script: &str) -> Value {
    sh(name, &format!("{{ {script}\n}} 2>&1; echo said; exec sleep 100000"))
}

/// A container with more in it.
fn with(mut container: Value, more: &Value) -> Value {
    container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    container
}

/// What a container of [`says`] has said.
fn heard(tenant: &Tenant, pod: &str, container: &str) -> Vec<String> {
    wait_for(&format!("{container} of {pod} to say all"), || {
        let (good, said) = tenant.try_run(&["logs", pod, "-c", container]);
        let mut lines: Vec<String> = said.lines().map(str::to_owned).collect();
        (good && lines.pop().as_deref() == Some("said")).then_some(lines)
    })
}

fn object(tenant: &Tenant, pod: &str) -> Value {
    serde_json::from_str(&tenant.run(&["get", "pod", pod, "-o", "json"])).unwrap()
}

/// Waits until a pod is as wanted.
fn until(tenant: &Tenant, pod: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    wait_for(&format!("{pod}: {what}"), || Some(object(tenant, pod)).filter(|p| is(p)))
}

fn event(tenant: &Tenant, pod: &str, reason: &str) -> String {
    event_that_says(tenant, pod, reason, "")
}

/// Waits for it: a probe may have failed in other ways before, while what it asks was starting.
fn event_that_says(tenant: &Tenant, pod: &str, reason: &str, text: &str) -> String {
    wait_for(&format!("event {reason} about {pod} that says {text:?}"), || {
        let about = format!("involvedObject.name={pod},reason={reason}");
        let said =
            tenant.run(&["get", "events", "--field-selector", &about, "-o", "jsonpath={.items[*].message}"]);
        (!said.is_empty() && said.contains(text)).then_some(said)
    })
}

fn cloud() -> (Cloud, Tenant) {
    let cloud = Cloud::new();
    cloud.up();
    cloud.load("busybox:test", "", None);
    let shop = cloud.administrator("shop");
    shop.run(&[
        "patch",
        "nodepool",
        "default",
        "--type=merge",
        "-p",
        r#"{"spec":{"maxMachines":1,"flavorNames":["small"]}}"#,
    ]);
    (cloud, shop)
}

#[test]
fn containers_are_what_their_specification_says() {
    if let Some(why) = impossible() {
        eprintln!("SKIPPED: {why}");
        return;
    }
    let (_cloud, shop) = cloud();
    shop.run(&["create", "configmap", "words", "--from-literal=k=v1", "--from-literal=other=o"]);
    shop.run(&["create", "secret", "generic", "hidden", "--from-literal=p=secret"]);
    // All at once: each is looked at when it has had its say.
    for object in [
        users(),
        told(),
        network_files(),
        processes(),
        paths(),
        mounts(),
        propagation(),
        last_words(),
        refused(),
    ]
    .concat()
    {
        shop.apply(&object);
    }
    users_are_right(&shop);
    what_is_told_is_right(&shop);
    network_files_are_right(&shop);
    assert_eq!(heard(&shop, "shared", "b"), ["seen"], "its neighbour's process");
    paths_are_right(&shop);
    mounts_are_right(&shop);
    propagation_is_right(&shop);
    let ended = until(&shop, "words", "its end", |p| p["status"]["phase"] == "Succeeded");
    assert_eq!(container(&ended, "a")["state"]["terminated"]["message"], "from elsewhere\n");
    refusals_are_clear(&shop);
    debugging(&shop);
}

fn users() -> Vec<Value> {
    let script = "id -u; id -g; id -G; grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\\t'; \
                  touch /x || true; touch /v/f; stat -c %g /v/f; ulimit -n";
    let security = json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}});
    let mount = json!([{"name": "v", "mountPath": "/v"}]);
    let c = with(says("a", script), &json!({"securityContext": security, "volumeMounts": mount}));
    vec![pod(
        "user",
        json!({"securityContext": {"runAsUser": 1000, "runAsGroup": 2000, "fsGroup": 3000, "supplementalGroups": [4000],
                "seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [{"name": "v", "emptyDir": {}}], "containers": [c]}),
    )]
}

fn users_are_right(shop: &Tenant) {
    let said = heard(shop, "user", "a");
    assert_eq!(said[..2], ["1000", "2000"]);
    let mut groups: Vec<&str> = said[2].split(' ').collect();
    groups.sort_unstable();
    assert_eq!(groups, ["2000", "3000", "4000"]);
    assert_eq!(said[3..6], ["CapEff:0000000000000000", "NoNewPrivs:1", "Seccomp:2"]);
    assert!(said[6].contains("Read-only file system"), "{said:?}");
    assert_eq!(said[7], "3000", "files are the group's");
    assert!(said[8].parse::<u64>().unwrap() >= 1024, "{said:?}");
}

/// What a container is told of the world, by its environment and by files.
fn told() -> Vec<Value> {
    let script = "echo $WHO $CPU $MEMORY $PLAIN $C_k $S_p $NODE; test \"$IP\" = \"$(hostname -i)\" && echo own address; \
                  cat /p/k /p/p /p/memory; echo; readlink /p/k; \
                  cut -d. -f2 /p/token | tr _- /+ | base64 -d 2>/dev/null | grep -o '\"aud\":\\[\"vault\"\\]'; stat -L -c %a /p/p";
    let field = |path: &str| json!({"fieldRef": {"fieldPath": path}});
    let resource = |name: &str, divisor: &str| json!({"resourceFieldRef": {"containerName": "a", "resource": name, "divisor": divisor}});
    let env = json!([{"name": "WHO", "valueFrom": field("metadata.name")}, {"name": "IP", "valueFrom": field("status.podIP")},
        {"name": "NODE", "valueFrom": field("spec.nodeName")}, {"name": "CPU", "valueFrom": resource("requests.cpu", "1m")},
        {"name": "MEMORY", "valueFrom": resource("requests.memory", "1Mi")}, {"name": "PLAIN", "value": "$(WHO)-$(C_other)-$$(WHO)"}]);
    let from = json!([{"prefix": "C_", "configMapRef": {"name": "words"}}, {"prefix": "S_", "secretRef": {"name": "hidden"}}]);
    let files = json!([{"name": "p", "projected": {"defaultMode": 0o440, "sources": [
        {"configMap": {"name": "words", "items": [{"key": "k", "path": "k"}]}}, {"secret": {"name": "hidden"}},
        {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
            {"path": "memory", "resourceFieldRef": {"containerName": "a", "resource": "requests.memory"}}]}},
        {"serviceAccountToken": {"audience": "vault", "expirationSeconds": 600, "path": "token"}}]}}]);
    let mounts = json!([{"name": "p", "mountPath": "/p"}]);
    let c = with(says("a", script), &json!({"env": env, "envFrom": from, "volumeMounts": mounts}));
    vec![pod("told", json!({"volumes": files, "containers": [c]}))]
}

fn what_is_told_is_right(shop: &Tenant) {
    let node = shop.run(&["get", "pod", "told", "-o", "jsonpath={.spec.nodeName}"]);
    let said = heard(shop, "told", "a");
    assert_eq!(said[0], format!("told 10 4 told-o-$(WHO) v1 secret {node}"));
    assert_eq!(said[1..], ["own address", "v1secret4194304", "..data/k", "\"aud\":[\"vault\"]", "440"]);
    // Files follow what they are made from, all at once; the environment stays.
    shop.run(&["patch", "configmap", "words", "-p", r#"{"data":{"k":"v2"}}"#]);
    shop.run(&["label", "pod", "told", "tier=gold"]);
    wait_for("new words in the files", || {
        let said = shop.run(&["exec", "told", "--", "sh", "-c", "cat /p/k /p/labels; echo; echo $C_k"]);
        (said.starts_with("v2") && said.contains("tier=\"gold\"") && said.trim().ends_with("v1"))
            .then_some(())
    });
}

fn network_files() -> Vec<Value> {
    let script = "grep example /etc/hosts; cat /etc/resolv.conf; hostname; hostname -f; \
                  cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced";
    vec![pod(
        "files",
        json!({"hostname": "named", "subdomain": "below",
            "hostAliases": [{"ip": "192.0.2.7", "hostnames": ["one.example", "two.example"]}],
            "dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.53"], "searches": ["a.example"], "options": [{"name": "ndots", "value": "3"}]},
            "securityContext": {"sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "1000"}, {"name": "kernel.shm_rmid_forced", "value": "1"}]},
            "containers": [says("a", script)]}),
    )]
}

fn network_files_are_right(shop: &Tenant) {
    let said = heard(shop, "files", "a");
    assert_eq!(said[0].split_whitespace().collect::<Vec<_>>(), ["192.0.2.7", "one.example", "two.example"]);
    assert_eq!(said[1..4], ["search a.example", "nameserver 192.0.2.53", "options ndots:3"]);
    assert_eq!(said[4..8], ["named", "named.below.default.svc.cluster.local", "1000", "1"]);
}

fn processes() -> Vec<Value> {
    let look = says("b", "until ps | grep -q '[s]leep 4242'; do sleep 0.1; done; echo seen");
    vec![pod(
        "shared",
        json!({"shareProcessNamespace": true, "containers": [sh("a", "exec sleep 4242"), look]}),
    )]
}

fn paths() -> Vec<Value> {
    let env = json!([{"name": "OWN", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]);
    let mount = json!([{"name": "v", "mountPath": "/logs", "subPathExpr": "of/$(OWN)"}]);
    let write = with(says("a", "echo mine > /logs/f"), &json!({"env": env, "volumeMounts": mount}));
    let whole = json!([{"name": "v", "mountPath": "/v", "readOnly": true}]);
    let look = says(
        "b",
        "until [ -s /v/of/expression/f ]; do sleep 0.1; done; cat /v/of/expression/f; touch /v/g || true",
    );
    vec![pod(
        "expression",
        json!({"volumes": [{"name": "v", "emptyDir": {}}], "containers": [write, with(look, &json!({"volumeMounts": whole}))]}),
    )]
}

fn paths_are_right(shop: &Tenant) {
    let said = heard(shop, "expression", "b");
    assert!(said[0] == "mine" && said[1].contains("Read-only file system"), "{said:?}");
}

/// The machine's root has a tmpfs below it, `/dev/shm`.
fn mounts() -> Vec<Value> {
    let mount = |recursive: &str| json!([{"name": "root", "mountPath": "/m", "readOnly": true, "recursiveReadOnly": recursive}]);
    let root = json!([{"name": "root", "hostPath": {"path": "/"}}]);
    let make = |name: &str, recursive: &str| {
        let script = format!("touch /m/top-{name} || true; touch /m/dev/shm/below-{name} && echo below");
        let c = with(says("a", &format!("{script} || true")), &json!({"volumeMounts": mount(recursive)}));
        pod(name, json!({"volumes": root, "containers": [c]}))
    };
    vec![make("flat", "Disabled"), make("deep", "Enabled")]
}

fn mounts_are_right(shop: &Tenant) {
    let flat = heard(shop, "flat", "a");
    assert!(flat[0].contains("Read-only file system") && flat[1] == "below", "{flat:?}");
    let deep = heard(shop, "deep", "a");
    assert!(deep.len() == 2 && deep.iter().all(|l| l.contains("Read-only file system")), "{deep:?}");
    let shown =
        |pod: &str| container(&object(shop, pod), "a")["volumeMounts"][0]["recursiveReadOnly"].clone();
    assert_eq!((shown("flat"), shown("deep")), (json!("Disabled"), json!("Enabled")));
}

fn propagation() -> Vec<Value> {
    let volume = json!([{"name": "srv", "hostPath": {"path": "/srv"}}]);
    let make = |name: &str, how: &str| {
        let mount = json!([{"name": "srv", "mountPath": "/m", "mountPropagation": how}]);
        let c = with(sh("a", "mkdir -p /m/late; exec sleep 100000"), &json!({"volumeMounts": mount}));
        pod(name, json!({"volumes": volume, "containers": [c]}))
    };
    let root = json!([{"name": "root", "hostPath": {"path": "/"}}]);
    let security = json!({"capabilities": {"add": ["ALL"]}, "seccompProfile": {"type": "Unconfined"}});
    let mount = json!([{"name": "root", "mountPath": "/host"}]);
    let c = with(sh("a", "exec sleep 100000"), &json!({"securityContext": security, "volumeMounts": mount}));
    vec![
        make("follows", "HostToContainer"),
        make("apart", "None"),
        pod("root", json!({"hostPID": true, "volumes": root, "containers": [c]})),
    ]
}

fn propagation_is_right(shop: &Tenant) {
    for name in ["follows", "apart", "root"] {
        shop.phase(name, "Running");
    }
    shop.run(&["exec", "root", "--", "cp", "/bin/busybox", "/host/tmp/busybox"]);
    let script = "/tmp/busybox mkdir -p /srv/late && /tmp/busybox mount -t tmpfs none /srv/late && /tmp/busybox touch /srv/late/there";
    shop.run(&["exec", "root", "--", "nsenter", "-t", "1", "-m", "/tmp/busybox", "sh", "-c", script]);
    assert_eq!(shop.run(&["exec", "follows", "--", "ls", "/m/late"]).trim(), "there");
    assert_eq!(shop.run(&["exec", "apart", "--", "ls", "/m/late"]).trim(), "");
}

fn last_words() -> Vec<Value> {
    let c = with(sh("a", "echo from elsewhere > /tmp/last"), &json!({"terminationMessagePath": "/tmp/last"}));
    vec![pod("words", json!({"restartPolicy": "Never", "containers": [c]}))]
}

/// What is not given is said to be so.
fn refused() -> Vec<Value> {
    let of = |name: &str, security: Value| {
        pod(
            name,
            json!({"containers": [with(sh("a", "exec sleep 100000"), &json!({"securityContext": security}))]}),
        )
    };
    let mount = json!([{"name": "srv", "mountPath": "/m", "mountPropagation": "Bidirectional"}]);
    let both =
        with(sh("a", "true"), &json!({"volumeMounts": mount, "securityContext": {"privileged": true}}));
    vec![
        of("privileged", json!({"privileged": true})),
        of("not-root", json!({"runAsNonRoot": true})),
        of("confined", json!({"appArmorProfile": {"type": "Localhost", "localhostProfile": "none-such"}})),
        pod(
            "outward",
            json!({"volumes": [{"name": "srv", "hostPath": {"path": "/srv"}}], "containers": [both]}),
        ),
    ]
}

fn refusals_are_clear(shop: &Tenant) {
    let waits = |name: &str| {
        let seen = until(shop, name, "waiting for what it cannot have", |p| {
            container(p, "a")["state"]["waiting"]["reason"] == "CreateContainerConfigError"
        });
        container(&seen, "a")["state"]["waiting"]["message"].as_str().unwrap().to_owned()
    };
    for name in ["privileged", "outward"] {
        let said = waits(name);
        assert!(said.contains("privileged"), "{name}: {said}");
    }
    let said = waits("not-root");
    assert!(said.starts_with("container has runAsNonRoot and image will run as root"), "{said}");
    let has_apparmor =
        std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|t| t.trim() == "Y");
    if !has_apparmor {
        let failed = until(shop, "confined", "being refused", |p| p["status"]["phase"] == "Failed");
        assert_eq!(failed["status"]["reason"], "AppArmor");
        assert_eq!(
            failed["status"]["message"],
            "Pod was rejected: Cannot enforce AppArmor: AppArmor is not enabled on the host"
        );
    }
}

/// A container that comes later, beside and inside.
fn debugging(shop: &Tenant) {
    shop.run(&[
        "debug",
        "expression",
        "--image=busybox:test",
        "--target=a",
        "--container=helper",
        "--profile=general",
        "--",
        "sh",
        "-c",
        "ps -o pid,args | grep -c '^ *1 sleep 100000'; echo said; exec sleep 100000",
    ]);
    assert_eq!(
        heard(shop, "expression", "helper"),
        ["1"],
        "the first process is that of the one that it is for"
    );
    let seen = object(shop, "expression");
    assert!(container(&seen, "helper")["state"]["running"].is_object(), "{seen:#}");
    assert_eq!(container(&seen, "a")["restartCount"], 0);
}

#[test]
fn pods_live_as_they_are_told() {
    if let Some(why) = impossible() {
        eprintln!("SKIPPED: {why}");
        return;
    }
    let (cloud, shop) = cloud();
    let server = cloud.directory.path().join("serve");
    std::fs::write(&server, GRPC).unwrap();
    shop.run(&["create", "configmap", "grpc", &format!("--from-file=serve={}", server.display())]);
    for object in [order(), probes(), hooks(), restarts()].concat() {
        shop.apply(&object);
    }
    let ended = until(&shop, "inits", "its end", |p| p["status"]["phase"] == "Succeeded");
    assert_eq!(container(&ended, "a")["state"]["terminated"]["message"], "1s2a");
    probes_are_asked(&shop, cloud.directory.path());
    hooks_are_run(&shop);
    restarts_are_right(&shop);
}

fn order() -> Vec<Value> {
    let mount = json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]});
    let side = "echo s >> /v/order; trap 'exit 0' TERM; touch /v/up; while true; do sleep 0.05; done";
    let side = with(
        sh("side", side),
        &json!({"restartPolicy": "Always", "startupProbe": {"exec": {"command": ["test", "-e", "/v/up"]}, "periodSeconds": 1, "timeoutSeconds": 30}}),
    );
    vec![pod(
        "inits",
        json!({"restartPolicy": "Never", "volumes": [{"name": "v", "emptyDir": {}}],
            "initContainers": [with(sh("i1", "echo 1 >> /v/order"), &mount), with(side, &mount), with(sh("i2", "echo 2 >> /v/order"), &mount)],
            "containers": [with(sh("a", "echo a >> /v/order; tr -d '\\n' < /v/order > /dev/termination-log"), &mount)]}),
    )]
}

/// A health service of gRPC, in as much of HTTP/2 as one answer needs: serving, until there is a file `/tmp/sick`.
const GRPC: &str = r#"#!/bin/sh
frame() {
    set -- $(dd bs=1 count=9 2>/dev/null | hexdump -v -e '/1 "%u "')
    [ $# = 9 ] || exit 0
    kind=$4 length=$(( $1 * 65536 + $2 * 256 + $3 ))
    [ $length = 0 ] || dd bs=1 count=$length of=/dev/null 2>/dev/null
}
dd bs=1 count=24 of=/dev/null 2>/dev/null
printf '\0\0\0\4\0\0\0\0\0'
kind=0
while [ $kind != 1 ]; do frame; done
printf '\0\0\0\4\1\0\0\0\0'
printf '\0\0\024\1\4\0\0\0\1\210\017\020\020application/grpc'
if [ -e /tmp/sick ]; then state='\2'; else state='\1'; fi
printf "\\0\\0\\7\\0\\0\\0\\0\\0\\1\\0\\0\\0\\0\\2\\10$state"
printf '\0\0\017\1\5\0\0\0\1\0\013grpc-status\0010'
cat > /dev/null
"#;

/// Every kind of probe, each of a healthy container; and one of each that finds something.
fn probes() -> Vec<Value> {
    let patient = |probe: Value| with(probe, &json!({"periodSeconds": 1, "timeoutSeconds": 30}));
    let volume = json!([{"name": "g", "configMap": {"name": "grpc", "defaultMode": 0o755}}]);
    let mount = json!([{"name": "g", "mountPath": "/g"}]);
    let grpc = patient(json!({"grpc": {"port": 50051, "service": "any"}}));
    let grpc_server = with(
        sh("a", "exec nc -ll -p 50051 -e /g/serve"),
        &json!({"volumeMounts": mount, "readinessProbe": grpc, "livenessProbe": with(grpc, &json!({"failureThreshold": 1, "initialDelaySeconds": 2}))}),
    );
    let web = with(
        sh("a", "mkdir /w; echo ok > /w/index.html; exec httpd -f -p 8080 -h /w"),
        &json!({"ports": [{"containerPort": 8080, "name": "web"}],
            "startupProbe": patient(json!({"tcpSocket": {"port": "web"}})),
            "readinessProbe": patient(json!({"httpGet": {"port": "web", "path": "/index.html"}})),
            "livenessProbe": with(patient(json!({"exec": {"command": ["sh", "-c", "! test -e /tmp/sick"]}})), &json!({"failureThreshold": 1}))}),
    );
    let unready = with(
        sh("a", "exec httpd -f -p 8080 -h /tmp"),
        &json!({"readinessProbe": patient(json!({"httpGet": {"port": 8080, "path": "/missing"}}))}),
    );
    vec![
        pod("grpc", json!({"volumes": volume, "containers": [grpc_server]})),
        pod("web", json!({"containers": [web]})),
        pod("unready", json!({"containers": [unready]})),
    ]
}

fn probes_are_asked(shop: &Tenant, _: &Path) {
    shop.run(&["wait", "pod/grpc", "pod/web", "--for=condition=Ready", "--timeout=90s"]);
    let missing = "Readiness probe failed: HTTP probe failed with statuscode: 404";
    event_that_says(shop, "unready", "Unhealthy", missing);
    shop.run(&["wait", "pod/unready", "--for=condition=Ready=false", "--timeout=90s"]);
    for (name, kind) in
        [("grpc", "Liveness probe failed: service unhealthy"), ("web", "Liveness probe failed: ")]
    {
        shop.run(&["exec", name, "--", "touch", "/tmp/sick"]);
        let seen = until(shop, name, "a restart", |p| container(p, "a")["restartCount"] == 1);
        assert!(container(&seen, "a")["lastState"]["terminated"].is_object(), "{seen:#}");
        event_that_says(shop, name, "Unhealthy", kind);
        assert_eq!(event(shop, name, "Killing"), "Container a failed liveness probe, will be restarted");
        shop.run(&["wait", &format!("pod/{name}"), "--for=condition=Ready", "--timeout=90s"]);
    }
}

fn hooks() -> Vec<Value> {
    let mount = json!([{"name": "h", "mountPath": "/out"}]);
    let stays = |name: &str, lifecycle: Value| {
        let c = with(
            sh("a", "trap 'exit 0' TERM; while true; do sleep 0.1; done"),
            &json!({"lifecycle": lifecycle, "volumeMounts": mount}),
        );
        pod(
            name,
            json!({"terminationGracePeriodSeconds": 30, "volumes": [{"name": "h", "hostPath": {"path": "/srv/out", "type": "DirectoryOrCreate"}}], "containers": [c]}),
        )
    };
    let run = |script: &str| json!({"exec": {"command": ["sh", "-c", script]}});
    vec![
        stays(
            "hooked",
            json!({"postStart": run("echo started > /out/first"), "preStop": run("echo stopping > /out/last")}),
        ),
        stays("unhooked", json!({"postStart": run("exit 9")})),
        stays("reader", json!({})),
    ]
}

fn hooks_are_run(shop: &Tenant) {
    shop.phase("hooked", "Running");
    shop.phase("reader", "Running");
    let read = |file: &str| shop.try_run(&["exec", "reader", "--", "cat", &format!("/out/{file}")]).1;
    wait_for("what is done after the start", || (read("first") == "started\n").then_some(()));
    shop.run(&["delete", "pod", "hooked", "--wait=true", "--timeout=80s"]);
    assert_eq!(read("last"), "stopping\n");
    event(shop, "unhooked", "FailedPostStartHook");
    shop.run(&["delete", "pod", "unhooked", "--wait=false"]);
}

fn restarts() -> Vec<Value> {
    let exits = |name: &str, policy: &str, code: u8| {
        pod(name, json!({"restartPolicy": policy, "containers": [sh("a", &format!("exit {code}"))]}))
    };
    let deaf = with(sh("a", "trap '' TERM; while true; do sleep 0.1; done"), &json!({}));
    vec![
        exits("never", "Never", 3),
        exits("on-failure-good", "OnFailure", 0),
        exits("on-failure-bad", "OnFailure", 7),
        exits("always", "Always", 0),
        pod("deaf", json!({"terminationGracePeriodSeconds": 2, "containers": [deaf]})),
    ]
}

fn restarts_are_right(shop: &Tenant) {
    let never = until(shop, "never", "its end", |p| p["status"]["phase"] == "Failed");
    assert_eq!(container(&never, "a")["state"]["terminated"]["exitCode"], 3);
    let good = until(shop, "on-failure-good", "its end", |p| p["status"]["phase"] == "Succeeded");
    assert_eq!(container(&good, "a")["restartCount"], 0);
    for name in ["on-failure-bad", "always"] {
        let again = until(shop, name, "a restart and its pause", |p| {
            container(p, "a")["restartCount"].as_u64() >= Some(1)
                && container(p, "a")["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        });
        let code = if name == "always" { 0 } else { 7 };
        assert_eq!(container(&again, "a")["lastState"]["terminated"]["exitCode"], code);
    }
    shop.phase("deaf", "Running");
    // Who does not listen is killed when its time is over.
    shop.run(&["delete", "pod", "deaf", "--wait=true", "--timeout=80s"]);
}
