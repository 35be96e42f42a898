//! skopeo and buildah, as Debian has them, against the registry.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::process::{Command, Output};

use common::{greedy, start, users};

fn there(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success());
    if !found {
        eprintln!("SKIPPED: {program} is not installed (Debian has it)");
    }
    found
}

async fn run(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn good(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    out.trim().to_owned()
}

/// An image in a directory, as `skopeo` copies from.
fn layout(directory: &Path) {
    use skep_registry::digest::{Algorithm, Digest};
    let blobs = directory.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        let d = Digest::of(Algorithm::Sha256, bytes);
        std::fs::write(blobs.join(d.hex()), bytes).unwrap();
        (d, bytes.len())
    };
    // An archive without entries.
    let (layer, layer_size) = put(&[0; 1024]);
    let config = serde_json::json!({"architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [layer.to_string()]}});
    let (config, config_size) = put(config.to_string().as_bytes());
    let (manifest, size) =
        put(common::image(&config, config_size, &layer, layer_size).to_string().as_bytes());
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [{"mediaType": common::IMAGE, "digest": manifest.to_string(), "size": size}]});
    std::fs::write(directory.join("index.json"), index.to_string()).unwrap();
    std::fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn skopeo_pushes_copies_lists_pulls_and_deletes() {
    if !there("skopeo") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let running = start(&dir.path().join("registry"), greedy(), users()).await;
    let host = running.address.strip_prefix("http://").unwrap().to_owned();
    layout(&dir.path().join("image"));
    let skopeo = |args: &[String]| {
        let mut command = Command::new("skopeo");
        command
            .arg("--insecure-policy")
            .args(args)
            .env("HOME", dir.path())
            .env("REGISTRY_AUTH_FILE", dir.path().join("auth.json"));
        command
    };
    let text = |s: &str| s.to_owned();
    let creds = |user: &str| format!("{user}:secret");
    let web = format!("docker://{host}/shop/web:1");
    let local = format!("oci:{}", dir.path().join("image").display());
    let push = |user: &str, to: &str| {
        skopeo(&[
            text("copy"),
            text("--dest-tls-verify=false"),
            text("--dest-creds"),
            creds(user),
            local.clone(),
            text(to),
        ])
    };
    good(&run(push("ann", &web)).await);
    for (user, to) in [("bob", web.as_str()), ("reader", web.as_str())] {
        let refused = run(push(user, to)).await;
        assert!(!refused.status.success(), "{user} may not push");
    }
    // Within the registry: blobs are mounted.
    let copy = format!("docker://{host}/shop/team/web:2");
    good(
        &run(skopeo(&[
            text("copy"),
            text("--src-tls-verify=false"),
            text("--dest-tls-verify=false"),
            text("--src-creds"),
            creds("ann"),
            text("--dest-creds"),
            creds("ann"),
            web.clone(),
            copy.clone(),
        ]))
        .await,
    );
    let tags = |user: &str| {
        skopeo(&[
            text("list-tags"),
            text("--tls-verify=false"),
            text("--creds"),
            creds(user),
            format!("docker://{host}/shop/web"),
        ])
    };
    let listed: serde_json::Value = serde_json::from_str(&good(&run(tags("reader")).await)).unwrap();
    assert_eq!(listed["Tags"], serde_json::json!(["1"]));
    assert!(!run(tags("bob")).await.status.success(), "a foreign credential is refused");
    let to = format!("dir:{}", dir.path().join("pulled").display());
    good(
        &run(skopeo(&[
            text("copy"),
            text("--src-tls-verify=false"),
            text("--src-creds"),
            creds("reader"),
            copy,
            to,
        ]))
        .await,
    );
    assert!(dir.path().join("pulled/manifest.json").exists());
    good(
        &run(skopeo(&[text("delete"), text("--tls-verify=false"), text("--creds"), creds("ann"), web])).await,
    );
    let listed: serde_json::Value = serde_json::from_str(&good(&run(tags("ann")).await)).unwrap();
    assert!(listed["Tags"].as_array().is_none_or(Vec::is_empty));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buildah_builds_pushes_and_pulls() {
    if !there("buildah") {
        return;
    }
    if !rustix_is_root() {
        eprintln!("SKIPPED: buildah without root needs a set-up of its own");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let running = start(&dir.path().join("registry"), greedy(), users()).await;
    let host = running.address.strip_prefix("http://").unwrap().to_owned();
    std::fs::write(dir.path().join("hello"), "hello").unwrap();
    let buildah = |args: &[&str]| {
        let mut command = Command::new("buildah");
        command
            .args(["--storage-driver", "vfs", "--root"])
            .arg(dir.path().join("storage"))
            .arg("--runroot")
            .arg(dir.path().join("run"))
            .args(args)
            .env("HOME", dir.path());
        command
    };
    let container = good(&run(buildah(&["from", "scratch"])).await);
    let file = dir.path().join("hello").display().to_string();
    good(&run(buildah(&["copy", &container, &file, "/hello"])).await);
    good(&run(buildah(&["commit", &container, "hello:1"])).await);
    let image = format!("{host}/shop/hello:1");
    good(
        &run(buildah(&[
            "push",
            "--tls-verify=false",
            "--creds",
            "ann:secret",
            "hello:1",
            &format!("docker://{image}"),
        ]))
        .await,
    );
    good(&run(buildah(&["rm", &container])).await);
    good(&run(buildah(&["rmi", "--all"])).await);
    assert!(
        !run(buildah(&["pull", "--tls-verify=false", "--creds", "bob:secret", &image]))
            .await
            .status
            .success()
    );
    good(&run(buildah(&["pull", "--tls-verify=false", "--creds", "reader:secret", &image])).await);
    let container = good(&run(buildah(&["from", "--pull-never", &image])).await);
    let mounted = good(&run(buildah(&["mount", &container])).await);
    assert_eq!(std::fs::read_to_string(Path::new(&mounted).join("hello")).unwrap(), "hello");
    good(&run(buildah(&["umount", &container])).await);
    good(&run(buildah(&["rm", &container])).await);
    good(&run(buildah(&["rmi", "--all"])).await);
}

fn rustix_is_root() -> bool {
    rustix::process::geteuid().is_root()
}
