//! How long a container takes from nothing to running, beside `runc` on the same machine with the same root.
//!
//! `cargo run --release -p skep-runtime --example start_time -- SHIM BUSYBOX [ROUNDS]`, as root. SHIM is a program that is the shim, such as
//! `target/release/skep-shim`, or `target/release/skep` (then `skep shim` is run).

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use skep_runtime::cgroup::{Base, Tree};
use skep_runtime::spec::{ContainerSpec, SandboxSpec};
use skep_runtime::{Found, Result, Runtime, RuntimeConfig};

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(shim), Some(busybox)) = (arguments.next(), arguments.next()) else {
        return Err("usage: start_time SHIM BUSYBOX [ROUNDS]".into());
    };
    let rounds: usize = arguments.next().and_then(|n| n.to_str()?.parse().ok()).unwrap_or(50);
    let folder = std::env::temp_dir().join(format!("skep-start-time-{}", std::process::id()));
    let root = folder.join("root");
    std::fs::create_dir_all(root.join("bin"))?;
    std::fs::copy(&busybox, root.join("bin/busybox"))?;
    std::os::unix::fs::symlink("busybox", root.join("bin/sleep"))?;
    let result = measure(&folder, &root, shim, rounds).await;
    std::fs::remove_dir_all(&folder)?;
    Ok(result?)
}

async fn measure(folder: &Path, root: &Path, shim: OsString, rounds: usize) -> Result<()> {
    let whole = Path::new(&shim).file_name().is_some_and(|n| n == "skep");
    let mut command = vec![shim];
    if whole {
        command.push("shim".into());
    }
    let runtime = Runtime::open(RuntimeConfig {
        state_directory: folder.join("state"),
        shim: command,
        tree: Tree::detect(Base::Own)?,
    })?;
    let group = format!("skep-start-time-{}", std::process::id());
    let result = ours(&runtime, folder, root, rounds, &group).await;
    // Also after a failure in the middle.
    for found in runtime.pods().await? {
        let id = match &found {
            Found::Running(pod) => pod.id().to_owned(),
            Found::Dead(pod) => pod.id.clone(),
        };
        drop(found);
        runtime.remove(&id).await?;
    }
    runtime.tree().remove(Path::new(&group))?;
    let mut measured = result?;
    report("pod (shim, namespaces)", &mut measured.pods);
    report("container create + start", &mut measured.containers);
    println!("shim resident: {} KiB", measured.shim_kib);
    match runc(folder, root, rounds) {
        Some(mut times) => report("runc run --detach", &mut times),
        None => println!("runc is not installed: nothing to compare with"),
    }
    Ok(())
}

#[derive(Default)]
struct Measured {
    pods: Vec<Duration>,
    containers: Vec<Duration>,
    shim_kib: u64,
}

async fn ours(runtime: &Runtime, folder: &Path, root: &Path, rounds: usize, group: &str) -> Result<Measured> {
    let mut measured = Measured::default();
    for round in 0..rounds {
        let id = format!("pod{round}");
        let spec: SandboxSpec = parse(&format!(
            r#"{{"id":"{id}","hostname":"{id}","network":{{"new":{{"pin":null}}}},"cgroup":"{group}/{id}"}}"#
        ))?;
        let began = Instant::now();
        let pod = runtime.create(spec).await?;
        measured.pods.push(began.elapsed());
        let spec: ContainerSpec = parse(&format!(
            r#"{{"id":"c","rootfs":{{"layers":[{:?}]}},"process":{{"args":["sleep","1000"]}},
                "resources":{{"cpu_shares":1024,"memory_limit_bytes":67108864,"pids_limit":100}},
                "log":{{"path":{:?}}}}}"#,
            root.display().to_string(),
            folder.join("log").display().to_string()
        ))?;
        let began = Instant::now();
        pod.create(spec).await?;
        pod.start("c").await?;
        measured.containers.push(began.elapsed());
        measured.shim_kib = measured.shim_kib.max(resident_kib(pod.shim_pid()));
        runtime.remove(&id).await?;
    }
    Ok(measured)
}

fn parse<T: for<'a> serde::Deserialize<'a>>(text: &str) -> Result<T> {
    serde_json::from_str(text)
        .map_err(|e| skep_runtime::Error::new(skep_runtime::ErrorKind::Invalid, e.to_string()))
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn report(what: &str, times: &mut [Duration]) {
    times.sort();
    let ms = |at: usize| times.get(at).map_or(0.0, |t| t.as_secs_f64() * 1e3);
    println!("{what:28} p50 {:6.2} ms   p90 {:6.2} ms", ms(times.len() / 2), ms(times.len() * 9 / 10));
}

fn runc(folder: &Path, root: &Path, rounds: usize) -> Option<Vec<Duration>> {
    let bundle = folder.join("bundle");
    std::fs::create_dir_all(&bundle).ok()?;
    let state = folder.join("runc");
    let run = |arguments: &[&str]| {
        Command::new("runc")
            .arg("--root")
            .arg(&state)
            .args(arguments)
            .current_dir(&bundle)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .ok()
    };
    run(&["spec"])?;
    let file = bundle.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).ok()?).ok()?;
    config["root"] = serde_json::json!({"path": root, "readonly": true});
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = serde_json::json!(["/bin/sleep", "1000"]);
    config["linux"]["cgroupsPath"] = format!("/skep-start-time-runc-{}", std::process::id()).into();
    for folder in ["proc", "dev", "sys"] {
        std::fs::create_dir_all(root.join(folder)).ok()?;
    }
    std::fs::write(&file, config.to_string()).ok()?;
    let mut times = Vec::new();
    for round in 0..rounds {
        let id = format!("skep-start-time-{}-{round}", std::process::id());
        let began = Instant::now();
        let started = run(&["run", "--detach", &id])?.success();
        times.push(began.elapsed());
        run(&["delete", "--force", &id])?;
        if !started {
            return None;
        }
    }
    Some(times)
}
