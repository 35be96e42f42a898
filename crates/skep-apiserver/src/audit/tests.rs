use super::*;
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};
use skep_api::UserInfo;

fn record(level: Level) -> Record {
    let groups = vec!["devs".to_owned()];
    Record {
        verdict: Verdict { level, omitted: vec![Stage::RequestReceived], omit_managed_fields: true },
        id: uuid::Uuid::nil(),
        uri: "/api/v1/namespaces/n/pods?dryRun=All".to_owned(),
        verb: "create",
        user: Arc::new(UserInfo { name: "ann".to_owned(), groups, ..UserInfo::default() }),
        impersonated: None,
        source: Some([127, 0, 0, 1].into()),
        user_agent: "kubectl".to_owned(),
        tenant: "acme".to_owned(),
        object: Some(event::Object {
            version: "v1".to_owned(),
            resource: "pods".to_owned(),
            namespace: "n".to_owned(),
            ..event::Object::default()
        }),
        received: Timestamp::UNIX_EPOCH,
        now: Timestamp::from_microsecond(1_500_001).unwrap(),
        code: 201,
        failure: None,
        request: Some(Bytes::from_static(br#"{"metadata":{"generateName":"p-","managedFields":[]}}"#)),
        response: Some(Bytes::from_static(
            br#"{"metadata":{"name":"p-1","uid":"u","resourceVersion":"7","managedFields":[]}}"#,
        )),
    }
}

fn lines(path: &std::path::Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn large() -> Rotation {
    Rotation { max_bytes: u64::MAX, max_age: None, max_backups: 0 }
}

#[test]
fn events_are_upstreams() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("made").join("audit.log");
    let log = AuditLog::start(Policy::metadata(), AuditFile::open(&path, large()).unwrap()).unwrap();
    log.record(record(Level::Metadata), Stage::RequestReceived);
    log.record(record(Level::Metadata), Stage::ResponseComplete);
    log.record(record(Level::Request), Stage::ResponseComplete);
    let failure = Some(("Forbidden", "no".to_owned()));
    let refused = Record { code: 403, failure, response: None, ..record(Level::RequestResponse) };
    log.record(refused, Stage::ResponseComplete);
    log.record(record(Level::RequestResponse), Stage::ResponseComplete);
    log.flush(Duration::from_secs(10));
    let lines = lines(&path);
    assert_eq!(lines.len(), 4, "the stage that is to be omitted is");
    assert_eq!(
        lines[0],
        json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata",
            "auditID": "00000000-0000-0000-0000-000000000000", "stage": "ResponseComplete",
            "requestURI": "/api/v1/namespaces/n/pods?dryRun=All", "verb": "create",
            "user": {"username": "ann", "groups": ["devs"]}, "sourceIPs": ["127.0.0.1"], "userAgent": "kubectl",
            "objectRef": {"resource": "pods", "namespace": "n", "name": "p-1", "uid": "u", "apiVersion": "v1", "resourceVersion": "7"},
            "responseStatus": {"metadata": {}, "code": 201},
            "requestReceivedTimestamp": "1970-01-01T00:00:00.000000Z",
            "stageTimestamp": "1970-01-01T00:00:01.500001Z",
            "annotations": {"tenancy.skep.io/tenant": "acme", "authorization.k8s.io/decision": "allow"},
        })
    );
    assert_eq!(lines[1]["requestObject"], json!({"metadata": {"generateName": "p-"}}));
    assert_eq!(lines[1]["responseObject"], Value::Null);
    assert_eq!(lines[2]["responseStatus"]["reason"], "Forbidden");
    assert_eq!(lines[2]["annotations"]["authorization.k8s.io/decision"], "forbid");
    assert_eq!(lines[3]["responseObject"]["metadata"]["name"], "p-1");
    assert_eq!(log.counters().events.load(Ordering::Relaxed), 4);
    assert_eq!(log.counters().queued_bytes.load(Ordering::Relaxed), 0);
}

/// A disk that stands still: a FIFO that nobody reads.
#[test]
fn a_full_queue_drops_and_never_blocks() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fifo");
    let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    // Open for reading and writing, or opening would wait for a reader.
    let keep = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let log = AuditLog::start(Policy::metadata(), AuditFile::open(&path, large()).unwrap()).unwrap();
    let begun = std::time::Instant::now();
    let body = Bytes::from(vec![b' '; 1024 * 1024]);
    for _ in 0..2 * QUEUE_EVENTS {
        log.record(
            Record { request: Some(body.clone()), ..record(Level::Metadata) },
            Stage::ResponseComplete,
        );
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "recording waits for the disk");
    let counters = log.counters();
    let queued = counters.queued_bytes.load(Ordering::Relaxed);
    assert!(queued <= QUEUE_BYTES, "{queued} bytes wait");
    assert!(counters.dropped.load(Ordering::Relaxed) > 0);
    let all = counters.dropped.load(Ordering::Relaxed) + counters.events.load(Ordering::Relaxed);
    assert_eq!(all, 2 * QUEUE_EVENTS as u64);
    drop(keep);
}

#[test]
fn files_are_put_aside_and_old_ones_deleted() {
    fn clock() -> Timestamp {
        use std::sync::atomic::{AtomicI64, Ordering};
        static NOW: AtomicI64 = AtomicI64::new(4_000_000_000);
        Timestamp::from_second(NOW.fetch_add(1, Ordering::Relaxed)).unwrap()
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let other = directory.path().join("audit-notes.log");
    std::fs::write(&other, "not ours").unwrap();
    let rotation = Rotation { max_bytes: 25, max_age: None, max_backups: 2 };
    let mut file = AuditFile::open_at(&path, rotation, clock).unwrap();
    for i in 0..10 {
        file.write_line(format!("line {i:04}\n").as_bytes()).unwrap();
    }
    file.flush().unwrap();
    let aside = || {
        let names = std::fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().path());
        let mut names: Vec<_> = names.filter(|p| *p != path && *p != other).collect();
        names.sort();
        names
    };
    let kept: Vec<String> = aside().iter().map(|p| std::fs::read_to_string(p).unwrap()).collect();
    assert_eq!(kept, ["line 0004\nline 0005\n", "line 0006\nline 0007\n"]);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "line 0008\nline 0009\n");
    assert!(other.exists());
    // The clock of this test is far ahead of the files' times: all that was put aside is old.
    drop(file);
    let rotation = Rotation { max_age: Some(Duration::from_secs(60)), ..rotation };
    let mut file = AuditFile::open_at(&path, rotation, clock).unwrap();
    file.write_line(b"line 0010\n").unwrap();
    file.flush().unwrap();
    assert!(aside().is_empty());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "line 0010\n", "an opened file goes on where it was");
}
