//! kubectl's streams to a pod in a machine: exec, attach, cp, port-forward, logs. Needs root and busybox; says so without.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use skep_e2e::agent::impossible;
use skep_e2e::cloud::{Cloud, Tenant, wait_for};

fn pod(name: &str, container: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]}})
}

/// Runs kubectl with something to read.
fn fed(tenant: &Tenant, args: &[&str], input: &[u8]) -> (Option<i32>, Vec<u8>, String) {
    let mut child = tenant
        .command(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // Whoever does not read it all ends first.
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    (output.status.code(), output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn streams_reach_a_pod_in_a_machine() {
    if let Some(why) = impossible() {
        eprintln!("SKIPPED: {why}");
        return;
    }
    let cloud = Cloud::new();
    cloud.up();
    cloud.load("busybox:test", "", None);
    let shop = cloud.administrator("shop");
    shop.apply(&pod("box", json!({"name": "c", "image": "busybox:test", "command": ["sleep", "100000"]})));
    shop.apply(&pod(
        "reader",
        json!({"name": "c", "image": "busybox:test", "stdin": true, "stdinOnce": false,
            "command": ["sh", "-c", "while read line; do echo got $line; done"]}),
    ));
    shop.apply(&pod(
        "web",
        json!({"name": "c", "image": "busybox:test", "ports": [{"containerPort": 8080}],
            "command": ["sh", "-c", "echo hello > /tmp/index.html; exec httpd -f -p 8080 -h /tmp"]}),
    ));
    for name in ["box", "reader", "web"] {
        shop.phase(name, "Running");
    }
    exec(&shop);
    attach(&shop);
    copy(&shop, cloud.directory.path());
    forward(&shop);
    logs(&shop);
}

fn exec(shop: &Tenant) {
    let (code, out, err) =
        fed(shop, &["exec", "box", "--", "sh", "-c", "echo to out; echo to err >&2; exit 7"], b"");
    assert_eq!((code, out.as_slice()), (Some(7), b"to out\n".as_slice()), "{err}");
    assert!(err.contains("to err") && err.contains("exit code 7"), "{err}");
    // A megabyte there and back, byte for byte.
    let much: Vec<u8> = (0..1 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let (code, out, err) = fed(shop, &["exec", "-i", "box", "--", "cat"], &much);
    assert_eq!((code, out == much), (Some(0), true), "{} bytes: {err}", out.len());
    let (code, _, err) = fed(shop, &["exec", "box", "--", "/no/such/program"], b"");
    assert!(code != Some(0) && err.contains("no such file"), "{err}");
    let (code, _, err) = fed(shop, &["exec", "box", "-c", "other", "--", "true"], b"");
    assert!(code != Some(0) && err.contains("container other is not valid"), "{err}");
    // A terminal, as `script` gives kubectl one: the window's size arrives, and so does a change of it.
    let terminal = |inner: &str, input: &[u8]| {
        let kubectl = shop.command(&[]);
        let program = kubectl.get_program().to_string_lossy().into_owned();
        let kubeconfig = kubectl.get_envs().find(|(k, _)| *k == "KUBECONFIG").unwrap().1.unwrap().to_owned();
        let line = format!("stty rows 33 cols 101; {program} exec -it box -- {inner}");
        let mut child = std::process::Command::new("script")
            .args(["-qec", &line, "/dev/null"])
            .env("KUBECONFIG", kubeconfig)
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let asked = "sh -c 'for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do case $(stty size) in \"33 101\") break;; esac; \
                 sleep 0.2; done; stty size; tty; exit 3'";
    let (code, said) = terminal(asked, b"");
    assert!(said.contains("33 101") && said.contains("/dev/pts/"), "{said}");
    assert_eq!(code, Some(3), "{said}");
}

fn attach(shop: &Tenant) {
    let mut child = shop
        .command(&["attach", "-i", "reader"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for word in ["one", "two"] {
        writeln!(stdin, "{word}").unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), format!("got {word}"));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(shop.run(&["logs", "reader"]).contains("got two"), "what was said is in the log too");
}

fn copy(shop: &Tenant, folder: &std::path::Path) {
    let (there, back) = (folder.join("there"), folder.join("back"));
    fs::create_dir_all(there.join("deep")).unwrap();
    let much: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    fs::write(there.join("deep/file"), &much).unwrap();
    shop.run(&["cp", there.to_str().unwrap(), "box:/tmp/there"]);
    shop.run(&["cp", "box:/tmp/there", back.to_str().unwrap()]);
    assert!(fs::read(back.join("deep/file")).unwrap() == much);
}

fn forward(shop: &Tenant) {
    let mut child = shop
        .command(&["port-forward", "pod/web", ":8080"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // It says more later, and ends when nobody listens.
    let mut said = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    let port: u16 = line.split("127.0.0.1:").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        Ok(said)
    };
    // Several at the same time, over one connection of kubectl's.
    let asking: Vec<_> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..5).map(|_| scope.spawn(ask)).collect();
        all.into_iter().map(|t| t.join().unwrap()).collect()
    });
    for said in asking {
        assert!(said.as_ref().is_ok_and(|s| s.contains("200 OK") && s.ends_with("hello\n")), "{said:?}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

fn logs(shop: &Tenant) {
    shop.apply(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "talker", "labels": {"app": "talker"}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [
            {"name": "a", "image": "busybox:test",
                "command": ["sh", "-c", "for i in $(seq 1 100); do echo line $i; done; echo bad >&2; [ -e /dev/shm/again ] || { touch /dev/shm/again; exit 1; }; sleep 100000"]},
            {"name": "b", "image": "busybox:test", "command": ["sh", "-c", "echo from b; sleep 2; echo later; sleep 100000"]},
        ]}}));
    wait_for("a restart", || {
        let path = "jsonpath={.status.containerStatuses[?(@.name==\"a\")].restartCount}{.status.phase}";
        (shop.try_run(&["get", "pod", "talker", "-o", path]).1 == "1Running").then_some(())
    });
    wait_for("everything is said again", || {
        (shop.try_run(&["logs", "talker", "-c", "a"]).1.lines().count() == 101).then_some(())
    });
    let lines = |args: &[&str]| -> Vec<String> {
        let mut all = vec!["logs", "talker", "-c", "a"];
        all.extend(args);
        shop.run(&all).lines().map(str::to_owned).collect()
    };
    assert_eq!(lines(&["--tail=3"]).len(), 3);
    assert_eq!(lines(&["--tail=0"]).len(), 0);
    assert_eq!(lines(&["--previous"]).len(), 101);
    assert!(lines(&["--timestamps", "--tail=1"])[0].starts_with("20"), "RFC 3339");
    assert_eq!(lines(&["--since=1h"]).len(), 101);
    assert_eq!(lines(&["--since-time=2099-01-01T00:00:00Z"]).len(), 0);
    assert_eq!(lines(&["--limit-bytes=6"]), ["line 1"]);
    // From the second of a line on.
    let stamped = wait_for("what is said later", || {
        let said = shop.run(&["logs", "talker", "-c", "b", "--timestamps"]);
        (said.lines().count() == 2).then_some(said)
    });
    let (at, line) = stamped.lines().last().unwrap().split_once(' ').unwrap();
    assert_eq!(line, "later");
    let since = format!("--since-time={at}");
    assert_eq!(shop.run(&["logs", "talker", "-c", "b", &since]), "later\n");
    assert_eq!(lines(&["--since-time=2001-01-01T00:00:00Z", "--tail=2"]), lines(&["--tail=2"]));
    assert!(shop.run(&["logs", "talker", "-c", "b", "--since=1h"]).contains("from b"));
    let both = ["logs", "-l", "app=talker", "--all-containers", "--prefix", "--tail=1"];
    assert_eq!(shop.run(&both).lines().count(), 2);
    let (good, said) = shop.try_run(&[&both[..], &["--follow", "--max-log-requests=1"]].concat());
    assert!(!good && said.contains("maximum allowed concurrency is 1"), "{said}");
    // Those that ended with others that cannot be had.
    shop.apply(&pod("waiting", json!({"name": "c", "image": "none-such:1", "imagePullPolicy": "Never"})));
    let (good, said) = shop.try_run(&["logs", "waiting"]);
    assert!(!good && said.contains("waiting to start"), "{said}");
    let (good, said) = shop.try_run(&["logs", "-l", "app in (waiting,talker)", "-c", "c", "--ignore-errors"]);
    assert!(!good || said.contains("waiting to start"), "{said}");
    assert!(shop.run(&["logs", "talker", "--all-containers", "--prefix"]).contains("[pod/talker/b] from b"));
    assert!(shop.run(&["logs", "-l", "app=talker", "-c", "b"]).contains("from b"));
    let (good, said) = shop.try_run(&["logs", "talker", "-c", "none"]);
    assert!(!good && said.contains("container none is not valid for pod talker"), "{said}");
    let (good, said) = shop.try_run(&["logs", "talker", "-c", "b", "--previous"]);
    assert!(
        !good && said.contains("previous terminated container \"b\" in pod \"talker\" not found"),
        "{said}"
    );
    // Following ends with the container.
    shop.apply(&pod(
        "ending",
        json!({"name": "c", "image": "busybox:test", "command": ["sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.5; done"]}),
    ));
    wait_for("a log", || shop.try_run(&["logs", "ending"]).0.then_some(()));
    let followed = shop.run(&["logs", "-f", "ending"]);
    assert!(followed.starts_with("1\n2\n3\n"), "{followed}");
    // What containers before the others have said, and followers of several at once.
    shop.apply(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "stages", "labels": {"app": "stages"}},
        "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
            "initContainers": [{"name": "i", "image": "busybox:test", "command": ["echo", "first"]}],
            "containers": [
                {"name": "a", "image": "busybox:test", "command": ["sh", "-c", "echo from a; sleep 1; echo end of a"]},
                {"name": "b", "image": "busybox:test", "command": ["sh", "-c", "echo from b >&2; sleep 2; echo end of b"]}]}}));
    wait_for("both to run", || shop.try_run(&["logs", "stages", "-c", "b"]).0.then_some(()));
    let followed =
        shop.run(&["logs", "-f", "stages", "--all-containers", "--prefix", "--max-log-requests=3"]);
    let mut heard: Vec<&str> = followed.lines().collect();
    heard.sort_unstable();
    let all = ["a] end of a", "a] from a", "b] end of b", "b] from b", "i] first"];
    assert_eq!(heard, all.map(|l| format!("[pod/stages/{l}")));
    assert_eq!(shop.run(&["logs", "stages", "-c", "i"]), "first\n");
}
