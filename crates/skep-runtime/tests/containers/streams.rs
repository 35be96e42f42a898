//! Input, output, terminals, logs.

use std::time::{Duration, Instant};

use skep_runtime::logs::{LogOptions, LogReader, Progress};
use skep_runtime::spec::*;
use skep_runtime::{ErrorKind, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Machine, eventually};

async fn read_until(stream: &mut Stream, wanted: &str) -> String {
    let mut text = String::new();
    let mut buffer = [0; 1024];
    while !text.contains(wanted) {
        let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut buffer)).await;
        let count = read.unwrap_or_else(|_| panic!("{wanted:?} does not come, only {text:?}")).unwrap();
        assert!(count > 0, "{wanted:?} does not come, only {text:?}");
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    text
}

#[tokio::test]
async fn processes_are_executed_in_containers() {
    let Some(machine) = Machine::new() else { return };
    let pod = machine.pod("exec").await;
    pod.create(machine.container("c", &["sleep", "1000"])).await.unwrap();
    let early = pod.exec("c", ProcessSpec::new(["true"]), false).await.unwrap_err();
    assert_eq!(early.kind, ErrorKind::WrongState);
    pod.start("c").await.unwrap();
    let run = |script: &'static str| {
        let process =
            ProcessSpec { env: vec![("A".into(), "b c".into())], ..ProcessSpec::new(["sh", "-c", script]) };
        pod.exec_collect("c", process, 1 << 16, Duration::from_secs(10))
    };
    let output = run("echo $A; echo err >&2; hostname; ps | grep -c '[s]leep 1000'; exit 3").await.unwrap();
    assert_eq!(output.exit.code, 3);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "b c\nexec-host\n1\n");
    assert_eq!(output.stderr, b"err\n");
    let output = run("kill -9 $$").await.unwrap();
    assert_eq!((output.exit.code, output.exit.signal), (137, Some(9)));
    let output =
        run("grep -E 'CapEff|Seccomp:' /proc/self/status; cat /proc/self/cgroup | head -1").await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("Seccomp:\t2") && text.contains("CapEff:\t00000000a80425fb"), "{text}");
    // It counts and dies with its container.
    assert_eq!(
        run("yes | head -c 300000").await.unwrap().stdout.len(),
        1 << 16,
        "output over the limit is dropped"
    );
    let missing = pod.exec("c", ProcessSpec::new(["nope"]), false).await.unwrap_err();
    assert_eq!(missing.message, "exec: \"nope\": executable file not found in $PATH");
    let slow =
        pod.exec_collect("c", ProcessSpec::new(["sleep", "100"]), 10, Duration::from_millis(200)).await;
    assert!(slow.unwrap_err().message.contains("timed out"));
    let long = pod.exec("c", ProcessSpec::new(["sleep", "2000"]), false).await.unwrap();
    pod.kill("c", 9, false).await.unwrap();
    assert_eq!(long.wait().await.unwrap().code, 137);
    machine.finish().await;
}

#[tokio::test]
async fn input_flows_and_ends() {
    let Some(machine) = Machine::new() else { return };
    let pod = machine.pod("stdin").await;
    pod.create(machine.container("c", &["sleep", "1000"])).await.unwrap();
    pod.start("c").await.unwrap();
    let mut exec = pod.exec("c", ProcessSpec::new(["sh", "-c", "cat; echo end"]), true).await.unwrap();
    let mut input = exec.streams.stdin.take().unwrap();
    let mut output = exec.streams.stdout.take().unwrap();
    let data = vec![b'x'; 1 << 20];
    let writing = tokio::spawn(async move {
        input.write_all(&data).await.unwrap();
        drop(input);
    });
    let mut got = Vec::new();
    output.read_to_end(&mut got).await.unwrap();
    writing.await.unwrap();
    assert_eq!(got.len(), (1 << 20) + 4);
    assert_eq!(exec.wait().await.unwrap().code, 0);
    // Without input it is empty, not open.
    let output = pod.exec_collect("c", ProcessSpec::new(["cat"]), 10, Duration::from_secs(5)).await.unwrap();
    assert_eq!((output.exit.code, output.stdout.len()), (0, 0));
    machine.finish().await;
}

#[tokio::test]
async fn terminals_have_sizes() {
    let Some(machine) = Machine::new() else { return };
    let pod = machine.pod("tty").await;
    pod.create(machine.container("c", &["sleep", "1000"])).await.unwrap();
    pod.start("c").await.unwrap();
    let process = ProcessSpec {
        tty: true,
        tty_size: Some(TtySize { columns: 81, rows: 23 }),
        ..ProcessSpec::new(["sh"])
    };
    let mut exec = pod.exec("c", process, true).await.unwrap();
    let (mut input, mut output) = (exec.streams.stdin.take().unwrap(), exec.streams.stdout.take().unwrap());
    input.write_all(b"stty size; tty=yes; echo is-$tty\n").await.unwrap();
    let text = read_until(&mut output, "is-yes").await;
    assert!(text.contains("23 81"), "{text}");
    exec.resize(TtySize { columns: 100, rows: 40 }).await.unwrap();
    input.write_all(b"stty size\n").await.unwrap();
    read_until(&mut output, "40 100").await;
    input.write_all(b"exit 4\n").await.unwrap();
    assert_eq!(exec.wait().await.unwrap().code, 4);

    // A container with a terminal: attached to twice, logged, and its process has a console.
    let mut spec =
        machine.container("t", &["sh", "-c", "read line; echo got $line; ls -l /dev/console; read end"]);
    spec.process.tty = true;
    spec.stdin = true;
    pod.create(spec).await.unwrap();
    pod.start("t").await.unwrap();
    let mut one = pod.attach("t", true, true, true).await.unwrap();
    let mut two = pod.attach("t", false, true, false).await.unwrap();
    assert!(one.tty && one.streams.stderr.is_none() && two.streams.stdin.is_none());
    one.streams.stdin.as_mut().unwrap().write_all(b"hello\n").await.unwrap();
    read_until(one.streams.stdout.as_mut().unwrap(), "got hello").await;
    read_until(two.streams.stdout.as_mut().unwrap(), "/dev/console").await;
    pod.resize("t", TtySize { columns: 90, rows: 30 }).await.unwrap();
    one.streams.stdin.as_mut().unwrap().write_all(b"\n").await.unwrap();
    assert_eq!(pod.wait("t").await.unwrap().code, 0);
    assert!(machine.output("t").contains("got hello"));
    assert_eq!(pod.attach("t", false, true, false).await.unwrap_err().kind, ErrorKind::WrongState);
    machine.finish().await;
}

#[tokio::test]
async fn attaching_reads_along_and_input_may_end_once() {
    let Some(machine) = Machine::new() else { return };
    let pod = machine.pod("attach").await;
    let mut spec = machine.sh("c", "cat; echo over >&2; exit 6");
    spec.stdin = true;
    spec.stdin_once = true;
    pod.create(spec).await.unwrap();
    pod.start("c").await.unwrap();
    let mut reader = pod.attach("c", false, true, true).await.unwrap();
    let mut writer = pod.attach("c", true, true, false).await.unwrap();
    // One that never reads must not hold up the others.
    let _lazy = pod.attach("c", false, true, true).await.unwrap();
    let mut input = writer.streams.stdin.take().unwrap();
    input.write_all(b"line\n").await.unwrap();
    read_until(reader.streams.stdout.as_mut().unwrap(), "line").await;
    read_until(writer.streams.stdout.as_mut().unwrap(), "line").await;
    drop(input);
    read_until(reader.streams.stderr.as_mut().unwrap(), "over").await;
    assert_eq!(pod.wait("c").await.unwrap().code, 6);
    let mut rest = Vec::new();
    reader.streams.stdout.as_mut().unwrap().read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
    machine.finish().await;
}

/// A logger of a hundred thousand lines: nothing is lost, rotation keeps to its limits, and others are not held up.
#[tokio::test]
async fn loud_loggers_do_no_harm() {
    let Some(machine) = Machine::new() else { return };
    let pod = machine.pod("loud").await;
    let (exit, output) = machine.run(&pod, machine.sh("all", "seq 1 100000")).await;
    assert_eq!(exit.code, 0);
    assert_eq!(output.lines().count(), 100_000);
    assert!(output.lines().zip(1..).all(|(line, n)| line == n.to_string()), "in order");

    let mut spec = machine.container("noise", &["yes"]);
    spec.log = Some(LogSpec { path: machine.log("noise"), max_bytes: 200_000, max_files: 3 });
    pod.create(spec).await.unwrap();
    pod.start("noise").await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = Instant::now();
    let (exit, _) = machine.run(&pod, machine.sh("quiet", "echo me too")).await;
    assert_eq!(exit.code, 0);
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
    pod.kill("noise", 9, true).await.unwrap();
    pod.wait("noise").await.unwrap();
    let files: Vec<u64> = std::fs::read_dir(machine.folder.path())
        .unwrap()
        .flatten()
        .filter(|e| e.file_name().to_str().unwrap().starts_with("noise.log"))
        .map(|e| e.metadata().unwrap().len())
        .collect();
    assert_eq!(files.len(), 3);
    assert!(files.iter().all(|size| *size <= 200_000 + 4096 * 1024), "{files:?}");
    let options = LogOptions { tail_lines: Some(10), ..LogOptions::default() };
    let mut reader = LogReader::open(&machine.log("noise"), options).unwrap();
    let mut tail = Vec::new();
    while reader.read(&mut tail).unwrap() == Progress::More {}
    assert_eq!(tail, b"y\n".repeat(10));
    machine.finish().await;
}

#[tokio::test]
async fn logs_can_be_moved_away_and_reopened() {
    let Some(machine) = Machine::new() else { return };
    let pod = machine.pod("reopen").await;
    let mut spec = machine.sh("c", "echo one; read x; echo two; read x");
    spec.stdin = true;
    pod.create(spec).await.unwrap();
    pod.start("c").await.unwrap();
    eventually("the first line", || machine.output("c") == "one\n");
    std::fs::rename(machine.log("c"), machine.folder.path().join("moved")).unwrap();
    pod.reopen_log("c").await.unwrap();
    let mut attached = pod.attach("c", true, false, false).await.unwrap();
    attached.streams.stdin.as_mut().unwrap().write_all(b"\n").await.unwrap();
    eventually("the second line", || machine.output("c") == "two\n");
    machine.finish().await;
}
