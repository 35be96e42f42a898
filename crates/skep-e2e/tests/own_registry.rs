//! Images in the installation's own registry: pushed as a tenant by `skep image push`, skopeo and buildah, run by that tenant's pods without any
//! secret, and nobody else's. Needs root; says so without.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Instant;

use serde_json::{Value, json};
use skep_e2e::cloud::{Cloud, PATIENCE, Tenant, is_root, text};

/// `skep` as a tenant's administrator.
fn skep_as(cloud: &Cloud, tenant: &str, args: &[&str]) -> Output {
    let mut command = Command::new(skep_e2e::skep());
    command
        .args(args)
        .env("SKEP_DATA", cloud.data())
        .env("HOME", cloud.directory.path())
        .env("KUBECONFIG", cloud.directory.path().join(format!("{tenant}.kubeconfig")));
    command.output().unwrap()
}

fn good(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(output));
    text(output)
}

fn there(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success());
    if !found {
        eprintln!("SKIPPED in part: {program} is not installed");
    }
    found
}

fn pod(name: &str, image: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": image, "command": ["sleep", "1000"],
            "resources": {"requests": {"cpu": "10m", "memory": "8Mi"}}}]}})
}

/// A pod that must not get its image: what its kubelet says.
fn refused(tenant: &Tenant, name: &str, image: &str) -> String {
    tenant.apply(&pod(name, image));
    let end = Instant::now() + PATIENCE;
    let at = "jsonpath={.status.containerStatuses[0].state.waiting.reason}: {.status.containerStatuses[0].state.waiting.message}";
    loop {
        let said = tenant.run(&["get", "pod", name, "-o", at]);
        // Between two tries the reason is a back-off, which repeats the error.
        if let Some((_, why)) = said.rsplit_once("ErrImagePull: ") {
            return why.replace(image, "IMAGE");
        }
        assert!(Instant::now() < end, "{name}: {said}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

fn skopeo(cloud: &Cloud, archive: &Path, to: &str, password: &str) -> Output {
    let certificates = cloud.directory.path().join("certificates");
    fs::create_dir_all(&certificates).unwrap();
    fs::copy(cloud.data().join("pki/ca.crt"), certificates.join("ca.crt")).unwrap();
    let mut command = Command::new("skopeo");
    command
        .args(["--insecure-policy", "copy", "--dest-creds", &format!("token:{password}"), "--dest-cert-dir"])
        .arg(&certificates)
        .arg(format!("docker-archive:{}", archive.display()))
        .arg(format!("docker://{to}"))
        .env("HOME", cloud.directory.path());
    command.output().unwrap()
}

fn buildah(cloud: &Cloud, args: &[&str]) -> String {
    let folder = cloud.directory.path();
    let mut command = Command::new("buildah");
    command.args(["--storage-driver", "vfs", "--root"]).arg(folder.join("storage"));
    command.arg("--runroot").arg(folder.join("run")).args(args).env("HOME", folder);
    good(&command.output().unwrap()).trim().to_owned()
}

#[test]
fn pods_run_what_their_tenant_pushed_and_nobody_elses() {
    if !is_root() {
        eprintln!("SKIPPED: machines need root");
        return;
    }
    let cloud = Cloud::new();
    cloud.up();
    let (shop, bank) = (cloud.administrator("shop"), cloud.administrator("bank"));
    let at = fs::read_to_string(cloud.data().join("registry/address")).unwrap();
    let archive = skep_e2e::agent::busybox(cloud.directory.path(), "web:1", "the shop's");
    let file = archive.to_str().unwrap();
    let web = format!("{at}/shop/web:1");

    // Pushed as the tenant; as another one it is refused, and so is nobody.
    let pushed = good(&skep_as(&cloud, "shop", &["image", "push", file, &web]));
    assert!(pushed.contains(&format!("{web} sha256:")), "{pushed}");
    let foreign = skep_as(&cloud, "bank", &["image", "push", file, &web]);
    assert_eq!(foreign.status.code(), Some(4), "{}", text(&foreign));
    let nobody = skep_as(&cloud, "nobody", &["image", "push", file, &web]);
    assert!(!nobody.status.success(), "{}", text(&nobody));
    // A second push sends nothing again, and goes under another tag.
    good(&skep_as(&cloud, "shop", &["image", "push", file, &format!("{at}/shop/web:again")]));

    // Each sees its own.
    let names = |tenant: &str| {
        let listed = skep_as(&cloud, tenant, &["image", "list", "--registry", "-o", "name"]);
        let mut names: Vec<String> = good(&listed).lines().map(str::to_owned).collect();
        names.sort();
        names
    };
    assert_eq!(names("shop"), [web.clone(), format!("{at}/shop/web:again")]);
    assert_eq!(names("bank"), Vec::<String>::new());
    let listed = good(&cloud.skep(&["image", "list", "web:1", "--registry", "-o", "json"]));
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert!(listed[0]["name"] == json!(web) && listed[0]["sizeBytes"].as_u64() > Some(500_000), "{listed}");

    // The tools that others use.
    let mut images = vec![web.clone()];
    let token = shop.run(&["create", "token", "default"]);
    shop.apply(&json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "pusher"},
        "rules": [{"apiGroups": ["registry.skep.io"], "resources": ["repositories"], "verbs": ["get", "update"]}]}));
    shop.apply(&json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "pusher"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "pusher"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}]}));
    if there("skopeo") {
        let to = format!("{at}/shop/by-skopeo:1");
        good(&skopeo(&cloud, &archive, &to, &token));
        let foreign = skopeo(&cloud, &archive, &to, &bank.run(&["create", "token", "default"]));
        assert!(!foreign.status.success(), "{}", text(&foreign));
        images.push(to);
    }
    if there("buildah") {
        let to = format!("{at}/shop/by-buildah:1");
        let container = buildah(&cloud, &["from", "scratch"]);
        buildah(
            &cloud,
            &["add", &container, cloud.directory.path().join("layer.tar").to_str().unwrap(), "/"],
        );
        buildah(&cloud, &["config", "--env", "PATH=/bin", &container]);
        buildah(&cloud, &["commit", &container, "built:1"]);
        let certificates = cloud.directory.path().join("certificates").display().to_string();
        let credentials = format!("token:{token}");
        let push = [
            "push",
            "--cert-dir",
            &certificates,
            "--creds",
            &credentials,
            "built:1",
            &format!("docker://{to}"),
        ];
        buildah(&cloud, &push);
        buildah(&cloud, &["rm", "--all"]);
        buildah(&cloud, &["rmi", "--all"]);
        images.push(to);
    }

    // The tenant's pods run them, by name and with nothing else.
    for (number, image) in images.iter().enumerate() {
        shop.apply(&pod(&format!("p{number}"), image));
    }
    for (number, image) in images.iter().enumerate() {
        let name = format!("p{number}");
        shop.phase(&name, "Running");
        assert_eq!(shop.run(&["exec", &name, "--", "cat", "/word"]), "the shop's", "{image}");
    }
    // Another tenant's do not, though every layer lies on this computer; what is there and what is not look alike.
    let (there, absent) =
        (refused(&bank, "thief", &web), refused(&bank, "blind", &format!("{at}/shop/nothing:1")));
    assert!(there.contains("denied"), "{there}");
    assert_eq!(there.replace("shop/web", "REPOSITORY"), absent.replace("shop/nothing", "REPOSITORY"));
    cloud.down(&[]);
}
