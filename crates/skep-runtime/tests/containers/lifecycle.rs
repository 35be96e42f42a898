//! From creation to removal, through crashes of agent and shim.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use skep_runtime::spec::*;
use skep_runtime::{ErrorKind, Event, Found, Sandbox};

use crate::harness::{Machine, eventually};

#[tokio::test]
async fn a_container_runs_and_its_end_is_known() {
    let Some(machine) = Machine::new() else { return };
    let pod = machine.pod("a").await;
    let mut events = pod.events();
    let (exit, output) = machine.run(&pod, machine.sh("one", "echo hello; echo oops >&2; exit 7")).await;
    assert_eq!((exit.code, exit.signal, exit.error.clone()), (7, None, None));
    assert_eq!(output, "hello\noops\n");
    assert_eq!(events.recv().await.unwrap(), Event::Started { container: "one".into() });
    assert_eq!(events.recv().await.unwrap(), Event::Exited { container: "one".into(), exit: exit.clone() });
    let status = &pod.status().await.unwrap()[0];
    assert_eq!((status.state, status.exit.as_ref()), (ContainerState::Exited, Some(&exit)));
    assert!(
        status.created_at_ns <= status.started_at_ns.unwrap()
            && status.started_at_ns <= status.finished_at_ns
    );
    // A second one in the same pod, and everything that is not possible.
    assert_eq!(pod.create(machine.sh("one", "true")).await.unwrap_err().kind, ErrorKind::AlreadyExists);
    assert_eq!(pod.start("one").await.unwrap_err().kind, ErrorKind::WrongState);
    assert_eq!(pod.kill("one", 15, false).await.unwrap_err().kind, ErrorKind::WrongState);
    assert_eq!(pod.start("two").await.unwrap_err().kind, ErrorKind::NotFound);
    pod.remove_container("one").await.unwrap();
    let (exit, _) = machine.run(&pod, machine.sh("one", "exit 0")).await;
    assert_eq!(exit.code, 0);
    machine.finish().await;
}

#[tokio::test]
async fn signals_arrive_and_ends_are_told_apart() {
    let Some(machine) = Machine::new() else { return };
    let pod = machine.pod("signals").await;
    pod.create(machine.sh("polite", "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done"))
        .await
        .unwrap();
    pod.start("polite").await.unwrap();
    assert_eq!(pod.remove_container("polite").await.unwrap_err().kind, ErrorKind::WrongState, "it runs");
    eventually("the trap", || machine.output("polite").contains("up"));
    pod.kill("polite", 15, false).await.unwrap();
    assert_eq!(pod.wait("polite").await.unwrap().code, 3);
    assert!(machine.output("polite").ends_with("bye\n"));
    // Process 1 does not die of a signal that it does not handle; of SIGKILL it does.
    pod.create(machine.container("deaf", &["sleep", "1000"])).await.unwrap();
    pod.start("deaf").await.unwrap();
    pod.kill("deaf", 9, true).await.unwrap();
    let exit = pod.wait("deaf").await.unwrap();
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
    machine.finish().await;
}

#[tokio::test]
async fn what_cannot_start_says_why() {
    let Some(machine) = Machine::new() else { return };
    let pod = machine.pod("wrong").await;
    let script = machine.folder.path().join("layer/bin/not-executable");
    std::fs::write(&script, "x").unwrap();
    let cases = [
        ("missing", vec!["nope"], "exec: \"nope\": executable file not found in $PATH"),
        ("path", vec!["/no/such"], "exec: \"/no/such\": stat /no/such: no such file or directory"),
        ("denied", vec!["/bin/not-executable"], "exec: \"/bin/not-executable\": permission denied"),
    ];
    for (id, args, expected) in cases {
        pod.create(machine.container(id, &args)).await.unwrap();
        let error = pod.start(id).await.unwrap_err();
        assert_eq!((error.kind, error.message.as_str()), (ErrorKind::StartFailed, expected));
        let exit = pod.wait(id).await.unwrap();
        assert_eq!((exit.code, exit.error.as_deref()), (128, Some(expected)));
        pod.remove_container(id).await.unwrap();
    }
    let mut spec = machine.sh("volume", "true");
    spec.mounts = vec![Mount {
        target: "/v".into(),
        source: MountSource::Bind { path: "/no/such/volume".into(), sub_path: None },
        access: Access::Write,
        propagation: Propagation::Private,
        ids: Ids::Machine,
    }];
    let (_, error) = machine.run(&pod, spec).await;
    assert!(error.contains("/no/such/volume"), "{error}");
    machine.finish().await;
}

fn running(found: Found) -> Sandbox {
    match found {
        Found::Running(pod) => pod,
        Found::Dead(pod) => panic!("{} is dead", pod.id),
    }
}

#[tokio::test]
async fn containers_go_on_without_their_agent() {
    let Some(machine) = Machine::new() else { return };
    let mut spec = machine.sandbox_spec("survivor");
    spec.labels = [("uid".to_owned(), "1-2-3".to_owned())].into();
    let pod = machine.runtime.create(spec.clone()).await.unwrap();
    let mut container =
        machine.sh("c", "n=0; while [ $n -lt 40 ]; do echo $n; n=$((n+1)); sleep 0.02; done; exit 9");
    container.labels = [("name".to_owned(), "web".to_owned())].into();
    pod.create(container).await.unwrap();
    let pid = pod.start("c").await.unwrap();
    // What an agent that was killed leaves: closed connections, in the middle of a wait.
    let waiting = pod.clone();
    let wait = tokio::spawn(async move { waiting.wait("c").await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    wait.abort();
    drop(pod);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut all = machine.runtime.pods().await.unwrap();
    assert_eq!(all.len(), 1);
    let pod = running(all.remove(0));
    assert_eq!(pod.spec(), &spec);
    let status = &pod.status().await.unwrap()[0];
    assert_eq!((status.state, status.pid), (ContainerState::Running, Some(pid)));
    assert_eq!(status.labels["name"], "web");
    // Two agents at once are no problem either.
    let other = running(machine.runtime.find("survivor").await);
    let (one, two) = tokio::join!(pod.wait("c"), other.wait("c"));
    assert_eq!((one.unwrap().code, two.unwrap().code), (9, 9));
    let expected: String = (0..40).map(|n| format!("{n}\n")).collect();
    assert_eq!(machine.output("c"), expected);
    machine.finish().await;
}

#[tokio::test]
async fn a_killed_shim_is_noticed_and_cleaned_up_after() {
    let Some(machine) = Machine::new() else { return };
    for pid in [PidNamespace::Container, PidNamespace::Pod] {
        let mut spec = machine.sandbox_spec("dead");
        let pin = machine.folder.path().join("netns");
        spec.pid = pid;
        spec.network = Network::New { pin: Some(pin.clone()) };
        let pod = machine.runtime.create(spec.clone()).await.unwrap();
        assert!(pin.exists());
        let mut events = pod.events();
        pod.create(machine.sh("c", "sleep 1000 & exec sleep 1000")).await.unwrap();
        pod.start("c").await.unwrap();
        pod.create(machine.sh("done", "exit 5")).await.unwrap();
        pod.start("done").await.unwrap();
        pod.wait("done").await.unwrap();
        kill_process(Pid::from_raw(pod.shim_pid() as i32).unwrap(), Signal::KILL).unwrap();
        loop {
            if tokio::time::timeout(Duration::from_secs(5), events.recv()).await.unwrap().unwrap()
                == Event::Gone
            {
                break;
            }
        }
        assert!(pod.is_gone());
        assert_eq!(pod.status().await.unwrap_err().kind, ErrorKind::ShimGone);
        let Found::Dead(dead) = machine.runtime.find("dead").await else { panic!("it is dead") };
        assert_eq!(dead.spec.as_ref(), Some(&spec));
        let known: Vec<_> = dead
            .containers
            .iter()
            .map(|c| (c.id.as_str(), c.state, c.exit.as_ref().map(|e| e.code)))
            .collect();
        assert_eq!(known, [("c", ContainerState::Running, None), ("done", ContainerState::Exited, Some(5))]);
        machine.runtime.remove("dead").await.unwrap();
        machine.runtime.remove("dead").await.unwrap();
        assert!(!pin.exists());
        machine.assert_nothing_left();
    }
    machine.finish().await;
}

#[tokio::test]
async fn pods_that_cannot_be_made_leave_nothing() {
    let Some(machine) = Machine::new() else { return };
    let broken: [fn(&mut SandboxSpec); 3] = [
        |spec| spec.network = Network::Path("/no/such/namespace".into()),
        |spec| spec.sysctls = [("kernel.panic".to_owned(), "1".to_owned())].into(),
        |spec| spec.sysctls = [("net.no.such".to_owned(), "1".to_owned())].into(),
    ];
    for change in broken {
        let mut spec = machine.sandbox_spec("broken");
        change(&mut spec);
        assert!(machine.runtime.create(spec).await.is_err());
        machine.assert_nothing_left();
    }
    let mut spec = machine.sandbox_spec("../x");
    spec.cgroup = machine.group.join("x");
    assert_eq!(machine.runtime.create(spec).await.unwrap_err().kind, ErrorKind::Invalid);
    let pod = machine.pod("twice").await;
    assert_eq!(
        machine.runtime.create(machine.sandbox_spec("twice")).await.unwrap_err().kind,
        ErrorKind::AlreadyExists
    );
    assert!(pod.status().await.unwrap().is_empty(), "the first is unharmed");
    machine.finish().await;
}

/// The shim's size, and that it does nothing while nothing happens.
#[tokio::test]
async fn the_shim_is_small_and_quiet() {
    let Some(machine) = Machine::new() else { return };
    let pod = machine.pod("small").await;
    for id in ["a", "b"] {
        pod.create(machine.container(id, &["sleep", "1000"])).await.unwrap();
        pod.start(id).await.unwrap();
    }
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", pod.shim_pid())).unwrap();
    let field = |name: &str| -> u64 {
        let status = read("status");
        let line = status.lines().find(|l| l.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    assert_eq!(field("Threads:"), 1);
    let resident = field("VmRSS:");
    eprintln!("shim: {resident} KiB resident, {} KiB of it its own", field("RssAnon:"));
    // An unoptimised build; the release build's figure is in SPECIFICATION.md.
    assert!(resident < 8 << 10, "{resident} KiB");
    // On a busy machine what happened at the start may still be told.
    let mut quiet = false;
    for _ in 0..20 {
        let before = field("voluntary_ctxt_switches:");
        tokio::time::sleep(Duration::from_secs(1)).await;
        quiet = field("voluntary_ctxt_switches:") == before;
        if quiet {
            break;
        }
    }
    assert!(quiet, "it slept");
    machine.finish().await;
}

/// Agents and shims are killed at random while containers come and go; in the end nothing is left.
#[tokio::test]
async fn kills_at_random_leave_nothing() {
    let Some(machine) = Machine::new() else { return };
    let seed: u64 =
        std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| std::process::id().into());
    eprintln!("SEED={seed}");
    let mut state = seed | 1;
    let mut random = |below: u64| {
        // xorshift: enough to choose.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let until = Instant::now() + Duration::from_secs(60);
    for round in 0..15 {
        let id = format!("r{round}");
        let pod = machine.pod(&id).await;
        let shim = Pid::from_raw(pod.shim_pid() as i32).unwrap();
        let spec = machine
            .sh("c", "sleep 1000 & while :; do echo x; done | head -c 100000 >/dev/null; exec sleep 1000");
        let work = async {
            pod.create(spec).await?;
            pod.start("c").await?;
            pod.exec_collect("c", ProcessSpec::new(["echo", "hi"]), 100, Duration::from_secs(5)).await
        };
        let delay = Duration::from_micros(random(30_000));
        if random(3) == 0 {
            // The agent: its work is dropped in the middle.
            let _ = tokio::time::timeout(delay, work).await;
        } else {
            let kill = async {
                tokio::time::sleep(delay).await;
                let _ = kill_process(shim, Signal::KILL);
            };
            let _ = tokio::join!(work, kill);
        }
        drop(pod);
        machine.runtime.remove(&id).await.unwrap();
        machine.assert_nothing_left();
        if Instant::now() > until {
            break;
        }
    }
    machine.finish().await;
}
