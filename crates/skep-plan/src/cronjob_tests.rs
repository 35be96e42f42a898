use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn cron(spec: Value) -> CronJob {
    let mut spec = spec;
    spec["jobTemplate"] =
        json!({"metadata": {"labels": {"a": "1"}}, "spec": {"template": {"spec": {"containers": []}}}});
    serde_json::from_value(json!({
        "metadata": {"name": "c", "namespace": "ns", "uid": "cron", "creationTimestamp": "2026-01-01T09:58:00Z"}, "spec": spec,
    }))
    .unwrap()
}

fn job(name: &str, start: &str, end: Option<&str>) -> Job {
    let conditions = end.map_or(json!([]), |kind| json!([{"type": kind, "status": "True"}]));
    serde_json::from_value(json!({
        "metadata": {"name": name, "uid": name}, "spec": {},
        "status": {"startTime": start, "completionTime": end.filter(|k| *k == "Complete").map(|_| start), "conditions": conditions},
    }))
    .unwrap()
}

fn reference(name: &str) -> Reference {
    Reference { name: name.to_owned(), uid: Uid::new(name), resource_version: String::new() }
}

#[test]
fn a_job_is_made_when_its_time_comes() {
    let c = cron(json!({"schedule": "0 * * * ?"}));
    let before = plan(at("2026-01-01T09:59:30Z"), &c, &[]);
    assert_eq!((before.create, before.requeue_after), (None, Some(Duration::from_millis(30_100))));
    let mut now = plan(at("2026-01-01T10:00:00.2Z"), &c, &[]);
    let new = now.create.take().unwrap();
    assert_eq!(new.name, format!("c-{}", at("2026-01-01T10:00:00Z").as_second() / 60));
    let body: Value = serde_json::from_str(&new.body).unwrap();
    assert_eq!(body["metadata"]["annotations"], json!({SCHEDULED_AT: "2026-01-01T10:00:00Z"}));
    assert_eq!(body["metadata"]["labels"], json!({"a": "1"}));
    assert_eq!(body["metadata"]["ownerReferences"][0]["kind"], "CronJob");
    assert_eq!(now.requeue_after, Some(Duration::from_millis(3_599_900)));
    now.created(new.scheduled, reference(&new.name));
    let c = CronJob { status: now.status, ..c };
    let running = job(&new.name, "2026-01-01T10:00:00Z", None);
    let again = plan(at("2026-01-01T10:00:05Z"), &c, &[&running]);
    assert!(again.create.is_none() && again.events.is_empty(), "{again:?}");
}

/// After upstream's table for `syncCronJob`: policies against a Job that still runs.
#[test]
fn concurrency() {
    let running = job("old", "2026-01-01T09:00:00Z", None);
    for (policy, creates, deletes, event) in
        [("Allow", true, 0, None), ("Forbid", false, 0, Some("JobAlreadyActive")), ("Replace", true, 1, None)]
    {
        let mut c = cron(json!({"schedule": "0 * * * ?", "concurrencyPolicy": policy}));
        c.status.active.push(reference("old"));
        let p = plan(at("2026-01-01T10:00:10Z"), &c, &[&running]);
        assert_eq!(
            (p.create.is_some(), p.delete.len(), p.events.first().map(|e| e.reason)),
            (creates, deletes, event),
            "{policy}"
        );
    }
}

#[test]
fn what_comes_too_late_is_skipped() {
    let mut c = cron(json!({"schedule": "0 * * * ?", "startingDeadlineSeconds": 10}));
    let p = plan(at("2026-01-01T10:00:05Z"), &c, &[]);
    assert!(p.create.is_some());
    let p = plan(at("2026-01-01T10:00:30Z"), &c, &[]);
    assert!(p.create.is_none() && p.events.is_empty(), "the deadline hides the time");
    c.starting_deadline_seconds = None;
    c.meta.created = Some(Time::of(at("2026-01-01T01:30:00Z")));
    let p = plan(at("2026-01-01T10:10:00Z"), &c, &[]);
    assert_eq!(
        p.create.unwrap().scheduled,
        Time::of(at("2026-01-01T10:00:00Z")),
        "only the last of those missed"
    );
    c.meta.created = Some(Time::of(at("2025-01-01T01:30:00Z")));
    let p = plan(at("2026-01-01T10:10:00Z"), &c, &[]);
    assert_eq!(
        (p.events[0].reason, p.create.unwrap().scheduled),
        ("TooManyMissedTimes", Time::of(at("2026-01-01T10:00:00Z")))
    );
}

#[test]
fn history_is_limited() {
    let c =
        cron(json!({"schedule": "0 0 1 1 *", "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 0}));
    let jobs = [
        job("a", "2026-01-01T01:00:00Z", Some("Complete")),
        job("b", "2026-01-01T02:00:00Z", Some("Complete")),
        job("c", "2026-01-01T03:00:00Z", Some("Failed")),
        job("d", "2026-01-01T04:00:00Z", None),
    ];
    let p = plan(at("2026-01-01T10:00:30Z"), &c, &jobs.iter().collect::<Vec<_>>());
    let names: Vec<&str> = p.delete.iter().map(|j| &*j.meta.name).collect();
    assert_eq!(names, ["a", "c"]);
    assert_eq!(p.status.last_successful_time, Some(Time::of(at("2026-01-01T02:00:00Z"))));
}

#[test]
fn the_list_of_running_jobs_follows_them() {
    let mut c = cron(json!({"schedule": "0 0 1 1 *"}));
    c.status.active = vec![reference("done"), reference("gone"), reference("runs")];
    let jobs = [
        job("done", "2026-01-01T01:00:00Z", Some("Complete")),
        job("runs", "2026-01-01T02:00:00Z", None),
        job("strange", "2026-01-01T02:00:00Z", None),
    ];
    let p = plan(at("2026-01-01T10:00:30Z"), &c, &jobs.iter().collect::<Vec<_>>());
    assert_eq!(p.status.active, [reference("runs")]);
    let told: Vec<(&str, &str)> = p.events.iter().map(|e| (e.reason, &*e.message)).collect();
    assert_eq!(
        told,
        [
            ("SawCompletedJob", "Saw completed job: done, condition: Complete"),
            ("UnexpectedJob", "Saw a job that the controller did not create or forgot: strange"),
            ("MissingJob", "Active job went missing: gone"),
        ]
    );
}

#[test]
fn what_cannot_run_is_told() {
    let now = at("2026-01-01T10:00:30Z");
    let reason = |spec: Value| plan(now, &cron(spec), &[]).events.first().map(|e| e.reason);
    assert_eq!(reason(json!({"schedule": "x"})), Some("UnparseableSchedule"));
    assert_eq!(reason(json!({"schedule": "* * * * *", "timeZone": "No/Where"})), Some("UnknownTimeZone"));
    assert_eq!(reason(json!({"schedule": "TZ=UTC * * * * *"})), Some("UnsupportedSchedule"));
    let suspended = plan(now, &cron(json!({"schedule": "* * * * *", "suspend": true})), &[]);
    assert!(suspended.create.is_none() && suspended.requeue_after.is_none());
}

#[test]
fn time_zones_count() {
    let mut c = cron(json!({"schedule": "0 9 * * *", "timeZone": "America/New_York"}));
    c.meta.created = Some(Time::of(at("2026-01-01T12:00:00Z")));
    assert!(plan(at("2026-01-01T13:30:00Z"), &c, &[]).create.is_none());
    let new = plan(at("2026-01-01T14:00:01Z"), &c, &[]).create.unwrap();
    let body: Value = serde_json::from_str(&new.body).unwrap();
    assert_eq!(body["metadata"]["annotations"][SCHEDULED_AT], "2026-01-01T09:00:00-05:00");
}

/// A year of late, repeated and lost calls: each time has at most one Job, and those that were looked for in time have
/// just one.
#[test]
fn each_time_has_one_job() {
    use rand::{Rng, SeedableRng};
    for seed in 0..50_u64 {
        let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
        let mut c = cron(json!({"schedule": "*/5 * * * *"}));
        let mut made: Vec<Time> = Vec::new();
        let mut jobs: Vec<Job> = Vec::new();
        let mut now = at("2026-01-01T09:58:00Z");
        for _ in 0..300 {
            now = now.checked_add(SignedDuration::from_secs(rng.random_range(1..200))).unwrap();
            let seen = jobs.clone();
            let refs: Vec<&Job> = seen.iter().collect();
            let mut p = plan(now, &c, &refs);
            if let Some(new) = p.create.take() {
                if !jobs.iter().any(|j| *j.meta.name == new.name) {
                    made.push(new.scheduled);
                    jobs.push(job(&new.name, "2026-01-01T09:58:00Z", None));
                }
                p.created(new.scheduled, reference(&new.name));
            }
            // The status write is sometimes lost.
            if rng.random_bool(0.9) {
                c.status = p.status;
            }
        }
        let first = made[0];
        let want: Vec<Time> =
            (0..made.len()).map(|i| first.plus_seconds(300 * i64::try_from(i).unwrap())).collect();
        assert_eq!(made, want, "seed {seed}");
    }
}
