use k8s_openapi::api::batch::v1::{CronJob, Job};
use serde_json::{Value, json};

use super::cron::{Schedule, Spec};
use crate::kind::{Fields, Kind};
use crate::kinds::testing::{
    bumps_generation, check_create, check_update, create_errors, create_warnings, created, defaulted, object,
    row, update_errors, with, with_context,
};

fn job() -> Value {
    json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": "sum", "namespace": "default", "uid": "u-7"},
        "spec": {"template": {"spec": {
            "restartPolicy": "Never",
            "containers": [{"name": "main", "image": "img"}],
        }}},
    })
}

fn indexed() -> Value {
    with(&job(), &[("/spec/completionMode", json!("Indexed")), ("/spec/completions", json!(4))])
}

#[test]
fn job_defaults() {
    let got = defaulted::<Job>(&job());
    for (field, want) in [
        ("completions", json!(1)),
        ("parallelism", json!(1)),
        ("backoffLimit", json!(6)),
        ("completionMode", json!("NonIndexed")),
        ("suspend", json!(false)),
        ("podReplacementPolicy", json!("TerminatingOrFailed")),
        ("manualSelector", json!(false)),
    ] {
        assert_eq!(got["spec"][field], want, "{field}");
    }
    let parallel = defaulted::<Job>(&with(&job(), &[("/spec/parallelism", json!(3))]));
    assert_eq!(parallel["spec"].get("completions"), None);
    let per_index = defaulted::<Job>(&with(&indexed(), &[("/spec/backoffLimitPerIndex", json!(1))]));
    assert_eq!(per_index["spec"]["backoffLimit"], i32::MAX);
    let policy = json!({"rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]});
    let policy = defaulted::<Job>(&with(&job(), &[("/spec/podFailurePolicy", policy)]));
    assert_eq!(policy["spec"]["podReplacementPolicy"], "Failed");
    assert_eq!(policy["spec"]["podFailurePolicy"]["rules"][0]["onPodConditions"][0]["status"], "True");
    let labelled = with(&job(), &[("/spec/template/metadata/labels", json!({"a": "b"}))]);
    assert_eq!(defaulted::<Job>(&labelled)["metadata"]["labels"], json!({"a": "b"}));
}

#[test]
fn jobs_select_their_own_pods() {
    let made = serde_json::to_value(created::<Job>(&job())).unwrap();
    assert_eq!(
        made["spec"]["template"]["metadata"]["labels"],
        json!({
            "batch.kubernetes.io/controller-uid": "u-7", "batch.kubernetes.io/job-name": "sum",
            "controller-uid": "u-7", "job-name": "sum",
        })
    );
    assert_eq!(
        made["spec"]["selector"],
        json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u-7"}})
    );
    let manual = with(
        &job(),
        &[
            ("/spec/manualSelector", json!(true)),
            ("/spec/selector", json!({"matchLabels": {"a": "b"}})),
            ("/spec/template/metadata/labels", json!({"a": "b"})),
        ],
    );
    let made = serde_json::to_value(created::<Job>(&manual)).unwrap();
    assert_eq!(made["spec"]["selector"], json!({"matchLabels": {"a": "b"}}));
    assert_eq!(create_errors::<Job>(&manual), Vec::<String>::new());
}

#[test]
fn job_create() {
    let at_least_0 = "must be greater than or equal to 0";
    let negative = |field: &str| format!("spec.{field}: Invalid value: -1: {at_least_0}");
    for field in
        ["parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished"]
    {
        let tree = with(&job(), &[(&format!("/spec/{field}"), json!(-1))]);
        assert!(create_errors::<Job>(&tree).contains(&negative(field)), "{field}");
    }
    let labels = r#"{"batch.kubernetes.io/controller-uid":"u-7","batch.kubernetes.io/job-name":"sum","controller-uid":"u-7","job-name":"other"}"#;
    let wrong_label =
        format!("spec.template.metadata.labels[job-name]: Invalid value: {labels}: must be 'sum'");
    check_create::<Job>(
        &job(),
        &[
            (&[("/spec/template/metadata/labels", json!({"job-name": "other"}))], &[&wrong_label]),
            (
                &[("/spec/selector", json!({"matchLabels": {"x": "y"}}))],
                &[
                    r#"spec.selector: Invalid value: {"matchLabels":{"batch.kubernetes.io/controller-uid":"u-7","x":"y"}}: `selector` not auto-generated"#,
                    "spec.template.metadata.labels: Invalid value: {\"batch.kubernetes.io/controller-uid\":\"u-7\",\"batch.kubernetes.io/job-name\":\"sum\",\"controller-uid\":\"u-7\",\"job-name\":\"sum\"}: `selector` does not match template `labels`",
                ],
            ),
            (
                &[("/spec/manualSelector", json!(true))],
                &[
                    "spec.selector: Required value",
                    "spec.template.metadata.labels: Invalid value: null: `selector` does not match template `labels`",
                ],
            ),
            (
                &[("/spec/template/spec/restartPolicy", json!("Always"))],
                &[r#"spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never""#],
            ),
            (
                &[("/spec/managedBy", json!("me"))],
                &[
                    r#"spec.managedBy: Invalid value: "me": must be a domain-prefixed path (such as "acme.io/foo")"#,
                ],
            ),
            (
                &[("/spec/managedBy", json!("a.io/".to_owned() + &"x".repeat(60)))],
                &["spec.managedBy: Too long: may not be more than 63 bytes"],
            ),
            (
                &[("/spec/completionMode", json!("Odd"))],
                &[
                    r#"spec.completionMode: Unsupported value: "Odd": supported values: "NonIndexed", "Indexed""#,
                ],
            ),
            (
                &[("/spec/maxFailedIndexes", json!(1))],
                &[
                    "spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified",
                    "spec.maxFailedIndexes: Invalid value: 1: requires indexed completion mode",
                ],
            ),
            (
                &[("/spec/podReplacementPolicy", json!("Odd"))],
                &[
                    r#"spec.podReplacementPolicy: Unsupported value: "Odd": supported values: "Failed", "TerminatingOrFailed""#,
                ],
            ),
            (
                &[("/spec/successPolicy", json!({"rules": [{"succeededCount": 1}]}))],
                &[
                    r#"spec.successPolicy: Invalid value: {"Rules":[{"SucceededIndexes":null,"SucceededCount":1}]}: requires indexed completion mode"#,
                ],
            ),
        ],
    );
}

#[test]
fn indexed_jobs() {
    check_create::<Job>(
        &indexed(),
        &[
            (
                &[("/spec/completions", Value::Null), ("/spec/parallelism", json!(2))],
                &["spec.completions: Required value: when completion mode is Indexed"],
            ),
            (
                &[("/spec/parallelism", json!(100_001))],
                &[
                    "spec.parallelism: Invalid value: 100001: must be less than or equal to 100000 when completion mode is Indexed",
                ],
            ),
            (
                &[("/spec/backoffLimitPerIndex", json!(1)), ("/spec/maxFailedIndexes", json!(5))],
                &["spec.maxFailedIndexes: Invalid value: 5: must be less than or equal to completions"],
            ),
            (
                &[
                    ("/spec/completions", json!(100_001)),
                    ("/spec/parallelism", json!(10_001)),
                    ("/spec/backoffLimitPerIndex", json!(1)),
                ],
                &[
                    "spec.maxFailedIndexes: Required value: must be specified when completions is above 100000",
                    "spec.parallelism: Invalid value: 10001: must be less than or equal to 10000 when completions are above 100000 and used with backoff limit per index",
                ],
            ),
            (
                &[("/metadata/name", json!("n".repeat(62)))],
                &[&format!(
                    "metadata.name: Invalid value: {:?}: will not able to create pod with invalid DNS label: {}-3",
                    "n".repeat(62),
                    "n".repeat(62)
                )],
            ),
            (
                &[("/spec/successPolicy/rules", json!([]))],
                &[
                    "spec.successPolicy.rules: Required value: at least one rules must be specified when the successPolicy is specified",
                ],
            ),
            (
                &[("/spec/successPolicy/rules", json!([{}]))],
                &[
                    "spec.successPolicy.rules[0]: Required value: at least one of succeededCount or succeededIndexes must be specified",
                ],
            ),
            (
                &[("/spec/successPolicy/rules", json!([{"succeededIndexes": "0-1,7"}]))],
                &[
                    r#"spec.successPolicy.rules[0].succeededIndexes: Invalid value: "0-1,7": error parsing succeededIndexes: too large index: "7""#,
                ],
            ),
            (
                &[("/spec/successPolicy/rules", json!([{"succeededIndexes": "0-1", "succeededCount": 5}]))],
                &[
                    "spec.successPolicy.rules[0].succeededCount: Invalid value: 5: must be less than or equal to 4 (the number of specified completions)",
                    "spec.successPolicy.rules[0].succeededCount: Invalid value: 5: must be less than or equal to 2 (the number of indexes in the specified succeededIndexes field)",
                ],
            ),
        ],
    );
}

#[test]
fn failure_policies() {
    let rule = |rule: Value| vec![("/spec/podFailurePolicy/rules", json!([rule]))];
    let table = [
        (
            rule(json!({"action": "", "onExitCodes": {"operator": "In", "values": [1]}})),
            vec![
                r#"spec.podFailurePolicy.rules[0].action: Required value: valid values: ["Count" "FailIndex" "FailJob" "Ignore"]"#,
            ],
        ),
        (
            rule(json!({"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [1]}})),
            vec![
                r#"spec.podFailurePolicy.rules[0].action: Invalid value: "FailIndex": requires the backoffLimitPerIndex to be set"#,
            ],
        ),
        (
            rule(
                json!({"action": "Ignore", "onExitCodes": {"operator": "In", "values": [2, 0, 2], "containerName": "x"}}),
            ),
            vec![
                r#"spec.podFailurePolicy.rules[0].onExitCodes.containerName: Invalid value: "x": must be one of the container or initContainer names in the pod template"#,
                "spec.podFailurePolicy.rules[0].onExitCodes.values[1]: Invalid value: 0: must not be 0 for the In operator",
                "spec.podFailurePolicy.rules[0].onExitCodes.values[2]: Duplicate value: 2",
                "spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [2,0,2]: must be ordered",
            ],
        ),
        (
            rule(json!({"action": "Ignore"})),
            vec![
                "spec.podFailurePolicy.rules[0]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required",
            ],
        ),
        (
            rule(
                json!({"action": "Ignore", "onPodConditions": [{"type": "X", "status": "Odd"}], "onExitCodes": {"operator": "Odd", "values": [1]}}),
            ),
            vec![
                r#"spec.podFailurePolicy.rules[0].onExitCodes.operator: Unsupported value: "Odd": supported values: "In", "NotIn""#,
                r#"spec.podFailurePolicy.rules[0].onPodConditions[0].status: Unsupported value: "Odd": supported values: "False", "True", "Unknown""#,
                "spec.podFailurePolicy.rules[0]: Invalid value: specifying both OnExitCodes and OnPodConditions is not supported",
            ],
        ),
    ];
    for (changes, want) in table {
        assert_eq!(create_errors::<Job>(&with(&job(), &changes)), want, "{changes:?}");
    }
    let many = json!(vec![json!({"action": "Ignore", "onExitCodes": {"operator": "In", "values": [1]}}); 21]);
    assert_eq!(
        create_errors::<Job>(&with(&job(), &[("/spec/podFailurePolicy/rules", many)])),
        ["spec.podFailurePolicy.rules: Too many: 21: must have at most 20 items"]
    );
}

#[test]
fn job_updates() {
    let image = ("/spec/template/spec/containers/0/image", json!("new"));
    let selector = ("/spec/template/spec/nodeSelector", json!({"a": "b"}));
    let cpu = ("/spec/template/spec/containers/0/resources", json!({"requests": {"cpu": "1"}}));
    let suspended = ("/spec/suspend", json!(true));
    check_update::<Job>(
        &job(),
        "",
        &[
            (&[], &[("/spec/parallelism", json!(3)), ("/spec/activeDeadlineSeconds", json!(3))], &[]),
            (
                &[],
                &[("/spec/completions", json!(3))],
                &["spec.completions: Invalid value: 3: field is immutable"],
            ),
            (
                &[],
                &[("/spec/completionMode", json!("Indexed"))],
                &[r#"spec.completionMode: Invalid value: "Indexed": field is immutable"#],
            ),
            (
                &[],
                &[("/spec/managedBy", json!("a.io/b"))],
                &[r#"spec.managedBy: Invalid value: "a.io/b": field is immutable"#],
            ),
            (
                std::slice::from_ref(&suspended),
                &[selector.clone(), cpu.clone(), ("/spec/suspend", json!(false))],
                &[],
            ),
            (
                &[
                    suspended.clone(),
                    (
                        "/status",
                        json!({"startTime": "2026-01-01T00:00:00Z", "conditions": [{"type": "Suspended", "status": "True"}]}),
                    ),
                ],
                &[selector.clone(), cpu],
                &[],
            ),
        ],
    );
    // Whatever else the template says is fixed.
    let cases = [
        (vec![], image.clone()),
        (vec![], selector.clone()),
        (vec![suspended.clone(), ("/status", json!({"active": 1}))], selector.clone()),
        (vec![suspended.clone(), ("/status", json!({"startTime": "2026-01-01T00:00:00Z"}))], selector),
    ];
    for (before, change) in cases {
        let old_tree = with(&serde_json::to_value(created::<Job>(&job())).unwrap(), &before);
        let old: Job = object(&old_tree);
        let errors = update_errors(&old, &with(&old_tree, &[change]), "");
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].starts_with("spec.template: Invalid value: {"), "{}", errors[0]);
        assert!(errors[0].ends_with(": field is immutable"), "{}", errors[0]);
    }
    let old_tree = with(&serde_json::to_value(created::<Job>(&job())).unwrap(), &[suspended]);
    let errors = update_errors(&object::<Job>(&old_tree), &with(&old_tree, &[image]), "");
    assert!(errors[0].starts_with("spec.template.spec: Invalid value: {"), "{errors:?}");

    check_update::<Job>(
        &indexed(),
        "",
        &[
            (&[], &[("/spec/completions", json!(6)), ("/spec/parallelism", json!(6))], &[]),
            (
                &[],
                &[("/spec/completions", json!(6))],
                &["spec.completions: Invalid value: 6: can only be modified in tandem with spec.parallelism"],
            ),
            (
                &[],
                &[("/spec/successPolicy/rules", json!([{"succeededCount": 1}]))],
                &[
                    r#"spec.successPolicy: Invalid value: {"Rules":[{"SucceededIndexes":null,"SucceededCount":1}]}: field is immutable"#,
                ],
            ),
        ],
    );
}

fn conditions(types: &[&str]) -> Value {
    types.iter().map(|t| json!({"type": t, "status": "True"})).collect()
}

#[test]
fn job_status_rules() {
    let start = "2026-01-01T00:00:00Z";
    let end = "2026-01-01T01:00:00Z";
    let done = json!({"startTime": start, "completionTime": end, "conditions": conditions(&["SuccessCriteriaMet", "Complete"]), "succeeded": 1});
    let running = json!({"startTime": start, "active": 1});
    let to = |status: Value| vec![("/status", status)];
    let cases: Vec<(Value, Value, Vec<&str>)> = vec![
        (running.clone(), done.clone(), vec![]),
        (json!({}), json!({"startTime": start, "active": 1, "ready": 1}), vec![]),
        (
            running.clone(),
            json!({"startTime": start, "active": 1, "ready": 2}),
            vec!["status.ready: Invalid value: 2: cannot set more ready pods than active"],
        ),
        (
            running.clone(),
            json!({"startTime": start, "conditions": conditions(&["Complete"]), "completionTime": end}),
            vec![
                "status.conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
            ],
        ),
        (
            running.clone(),
            json!({"startTime": start, "conditions": conditions(&["Failed"])}),
            vec![
                "status.conditions: Invalid value: cannot set Failed=True condition without the FailureTarget=true condition",
            ],
        ),
        (
            running.clone(),
            json!({"conditions": conditions(&["Failed", "FailureTarget"]), "active": 1, "terminating": 1}),
            vec![
                "status.active: Invalid value: 1: active>0 is invalid for finished job",
                "status.startTime: Required value: startTime is required for finished job",
                "status.terminating: Invalid value: 1: terminating>0 is invalid for finished job",
                "status.startTime: Invalid value: null: field is immutable for unsuspended job once set",
            ],
        ),
        (
            running.clone(),
            json!({"startTime": start, "conditions": conditions(&["Complete", "SuccessCriteriaMet"]), "uncountedTerminatedPods": {"succeeded": ["a"]}}),
            vec![
                "status.completionTime: Required value: completionTime is required for Complete jobs",
                r#"status.uncountedTerminatedPods: Invalid value: {"Succeeded":["a"],"Failed":null}: must be empty for finished job"#,
            ],
        ),
        (
            running,
            json!({"startTime": start, "completionTime": end}),
            vec![
                r#"status.completionTime: Invalid value: "2026-01-01T01:00:00Z": cannot set completionTime when there is no Complete=True condition"#,
            ],
        ),
        (
            done,
            json!({"startTime": start, "completionTime": start, "conditions": conditions(&["SuccessCriteriaMet", "Complete"])}),
            vec![
                "status.succeeded: Invalid value: 0: cannot decrease the succeeded counter",
                r#"status.completionTime: Invalid value: "2026-01-01T00:00:00Z": field is immutable"#,
            ],
        ),
        (
            json!({"startTime": start, "failed": 3, "conditions": conditions(&["FailureTarget"])}),
            json!({"startTime": start, "failed": 2}),
            vec![
                "status.conditions: Invalid value: cannot disable the terminal FailureTarget=True condition",
                "status.failed: Invalid value: 2: cannot decrease the failed counter",
            ],
        ),
        (
            json!({"conditions": conditions(&["SuccessCriteriaMet"])}),
            json!({"conditions": conditions(&["FailureTarget"])}),
            vec!["status.conditions: Invalid value: cannot disable the SuccessCriteriaMet=True condition"],
        ),
        (
            json!({}),
            json!({"conditions": conditions(&["FailureTarget", "SuccessCriteriaMet"])}),
            vec![
                "status.conditions: Invalid value: cannot set SuccessCriteriaMet=True and FailureTarget=true conditions",
            ],
        ),
        (
            json!({}),
            json!({"completedIndexes": "0", "failedIndexes": "1"}),
            vec![
                r#"status.completedIndexes: Invalid value: "0": cannot set non-empty completedIndexes when non-indexed completion mode"#,
                r#"status.failedIndexes: Invalid value: "1": cannot set non-null failedIndexes when backoffLimitPerIndex is null"#,
            ],
        ),
        (
            json!({}),
            json!({"uncountedTerminatedPods": {"succeeded": ["a", ""], "failed": ["a"]}, "active": -1}),
            vec![
                "status.active: Invalid value: -1: must be greater than or equal to 0",
                r#"status.uncountedTerminatedPods.succeeded[1]: Invalid value: "": must not be empty"#,
                r#"status.uncountedTerminatedPods.failed[0]: Duplicate value: "a""#,
            ],
        ),
    ];
    for (before, after, want) in cases {
        // The spec needs many completions so that indexes are in range.
        let valid = with(&job(), &[("/spec/completions", json!(9))]);
        check_update::<Job>(&valid, "status", &[(&to(before), &to(after), &want)]);
    }
    // Per-index failures.
    let per_index = with(&indexed(), &[("/spec/backoffLimitPerIndex", json!(1))]);
    check_update::<Job>(
        &per_index,
        "status",
        &[
            (&[], &[("/status", json!({"completedIndexes": "0-1", "failedIndexes": "2"}))], &[]),
            (
                &[],
                &[("/status", json!({"completedIndexes": "0-1", "failedIndexes": "1"}))],
                &[
                    r#"status.failedIndexes: Invalid value: "1": failedIndexes and completedIndexes overlap at index: 1"#,
                ],
            ),
            (
                &[],
                &[("/status", json!({"completedIndexes": "9"}))],
                &[
                    r#"status.completedIndexes: Invalid value: "9": error parsing completedIndexes: too large index: "9""#,
                ],
            ),
        ],
    );
}

#[test]
fn job_rows_and_fields() {
    let tree = with(&job(), &[("/status", json!({"succeeded": 1, "startTime": "2026-01-01T00:00:30Z"}))]);
    let cells = row::<Job>(&tree);
    assert_eq!(
        cells[1..5],
        [
            ("Status", json!("Running")),
            ("Completions", json!("1/1")),
            ("Duration", json!("60s")),
            ("Age", json!("90s")),
        ]
    );
    assert_eq!(cells[7], ("Selector", json!("<none>")));
    let parallel = with(&job(), &[("/spec/parallelism", json!(3))]);
    assert_eq!(row::<Job>(&parallel)[2], ("Completions", json!("0/1 of 3")));
    for (condition, want) in [("Complete", "Complete"), ("Failed", "Failed"), ("Suspended", "Suspended")] {
        let tree = with(&job(), &[("/status/conditions", conditions(&[condition]))]);
        assert_eq!(row::<Job>(&tree)[1].1, want);
    }
    let mut fields = Fields::default();
    object::<Job>(&tree).fields(&mut fields);
    assert_eq!(fields.values, [("status.successful", "1".to_owned(), false)]);
    assert!(bumps_generation::<Job>(&job(), &with(&job(), &[("/spec/suspend", json!(true))])));
}

#[test]
fn huge_indexed_jobs_are_warned_of() {
    let tree =
        with(&indexed(), &[("/spec/completions", json!(100_001)), ("/spec/parallelism", json!(10_001))]);
    assert!(
        create_warnings::<Job>(&tree)[0].starts_with("spec: In Indexed Jobs with a number of completions")
    );
}

fn cron_job() -> Value {
    json!({
        "apiVersion": "batch/v1", "kind": "CronJob",
        "metadata": {"name": "nightly", "namespace": "default"},
        "spec": {"schedule": "0 3 * * *", "jobTemplate": {"spec": job()["spec"]}},
    })
}

#[test]
fn cron_jobs() {
    let got = defaulted::<CronJob>(&cron_job());
    assert_eq!(got["spec"]["concurrencyPolicy"], "Allow");
    assert_eq!(got["spec"]["successfulJobsHistoryLimit"], 3);
    assert_eq!(got["spec"]["failedJobsHistoryLimit"], 1);
    assert_eq!(got["spec"]["suspend"], false);
    assert_eq!(got["spec"]["jobTemplate"]["spec"].get("backoffLimit"), None, "jobs get theirs when made");
    let tz_in_schedule = r#"spec.schedule: Invalid value: "TZ=UTC 0 * * * *": cannot use TZ or CRON_TZ in schedule, use timeZone field instead"#;
    check_create::<CronJob>(
        &cron_job(),
        &[
            (&[("/spec/schedule", json!(""))], &["spec.schedule: Required value"]),
            (
                &[("/spec/schedule", json!("0 3 * *"))],
                &[
                    r#"spec.schedule: Invalid value: "0 3 * *": expected exactly 5 fields, found 4: [0 3 * *]"#,
                ],
            ),
            (&[("/spec/schedule", json!("TZ=UTC 0 * * * *"))], &[tz_in_schedule]),
            (&[("/spec/timeZone", json!("Europe/Rome"))], &[]),
            (
                &[("/spec/timeZone", json!(""))],
                &[r#"spec.timeZone: Invalid value: "": timeZone must be nil or non-empty string"#],
            ),
            (
                &[("/spec/timeZone", json!("Europe/Atlantis"))],
                &[r#"spec.timeZone: Invalid value: "Europe/Atlantis": unknown time zone Europe/Atlantis"#],
            ),
            (
                &[("/spec/timeZone", json!("europe/rome"))],
                &[r#"spec.timeZone: Invalid value: "europe/rome": unknown time zone europe/rome"#],
            ),
            (
                &[("/spec/timeZone", json!("../etc"))],
                &[r#"spec.timeZone: Invalid value: "../etc": unknown time zone ../etc"#],
            ),
            (
                &[("/spec/timeZone", json!("Local"))],
                &[
                    r#"spec.timeZone: Invalid value: "Local": timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"#,
                ],
            ),
            (
                &[("/spec/concurrencyPolicy", json!("Odd"))],
                &[
                    r#"spec.concurrencyPolicy: Unsupported value: "Odd": supported values: "Allow", "Forbid", "Replace""#,
                ],
            ),
            (
                &[("/spec/startingDeadlineSeconds", json!(-1)), ("/spec/failedJobsHistoryLimit", json!(-1))],
                &[
                    "spec.startingDeadlineSeconds: Invalid value: -1: must be greater than or equal to 0",
                    "spec.failedJobsHistoryLimit: Invalid value: -1: must be greater than or equal to 0",
                ],
            ),
            (
                &[
                    ("/spec/jobTemplate/spec/manualSelector", json!(true)),
                    ("/spec/jobTemplate/spec/selector", json!({"matchLabels": {"a": "b"}})),
                ],
                &[
                    r#"spec.jobTemplate.spec.selector: Invalid value: {"matchLabels":{"a":"b"}}: `selector` will be auto-generated"#,
                    r#"spec.jobTemplate.spec.manualSelector: Unsupported value: true: supported values: "nil", "false""#,
                ],
            ),
            (
                &[("/metadata/name", json!("n".repeat(53)))],
                &[&format!(
                    "metadata.name: Invalid value: {:?}: must be no more than 52 characters",
                    "n".repeat(53)
                )],
            ),
        ],
    );
    check_update::<CronJob>(
        &cron_job(),
        "",
        &[
            (&[("/metadata/name", json!("n".repeat(60)))], &[("/spec/suspend", json!(true))], &[]),
            (&[("/spec/timeZone", json!("Mars"))], &[("/spec/suspend", json!(true))], &[]),
            (
                &[("/spec/schedule", json!("TZ=UTC 1 * * * *"))],
                &[("/spec/schedule", json!("TZ=UTC 0 * * * *"))],
                &[],
            ),
            (
                &[("/spec/schedule", json!("TZ=UTC 0 * * * *"))],
                &[("/spec/timeZone", json!("UTC"))],
                &[
                    r#"spec.schedule: Invalid value: "TZ=UTC 0 * * * *": cannot use both timeZone field and TZ or CRON_TZ in schedule"#,
                ],
            ),
            (&[], &[("/spec/schedule", json!("TZ=UTC 0 * * * *"))], &[tz_in_schedule]),
        ],
    );
}

#[test]
fn cron_job_row_and_warnings() {
    let tree = with(
        &cron_job(),
        &[("/status", json!({"active": [{}, {}], "lastScheduleTime": "2026-01-01T00:00:30Z"}))],
    );
    assert_eq!(
        row::<CronJob>(&tree)[1..6],
        [
            ("Schedule", json!("0 3 * * *")),
            ("Timezone", json!("<none>")),
            ("Suspend", json!("False")),
            ("Active", json!(2)),
            ("Last Schedule", json!("60s")),
        ]
    );
    let old: CronJob = created(&with(&cron_job(), &[("/spec/schedule", json!("TZ=UTC 0 * * * *"))]));
    let warnings = with_context("", |cx| old.warnings(Some(&old), cx));
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].starts_with("cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead"));
}

#[test]
fn schedules_that_are_none() {
    for (text, want) in [
        ("", "empty spec string"),
        ("* * * * * *", "expected exactly 5 fields, found 6: [* * * * * *]"),
        ("60 * * * *", "end of range (60) above maximum (59): 60"),
        ("* 24 * * *", "end of range (24) above maximum (23): 24"),
        ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
        ("* * * 13 *", "end of range (13) above maximum (12): 13"),
        ("* * * * 7", "end of range (7) above maximum (6): 7"),
        ("5-3 * * * *", "beginning of range (5) beyond end of range (3): 5-3"),
        ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
        ("*//2 * * * *", "too many slashes: *//2"),
        ("*/0 * * * *", "step of range should be a positive number: */0"),
        ("*/-1 * * * *", "negative number (-1) not allowed: -1"),
        ("x * * * *", r#"failed to parse int from x: strconv.Atoi: parsing "x": invalid syntax"#),
        (
            "99999999999999999999 * * * *",
            r#"failed to parse int from 99999999999999999999: strconv.Atoi: parsing "99999999999999999999": value out of range"#,
        ),
        (
            "* * * * sunday",
            r#"failed to parse int from sunday: strconv.Atoi: parsing "sunday": invalid syntax"#,
        ),
        ("@fortnightly", "unrecognized descriptor: @fortnightly"),
        ("@every 1x", r#"failed to parse duration @every 1x: time: unknown unit "x" in duration "1x""#),
        ("@every 5", r#"failed to parse duration @every 5: time: missing unit in duration "5""#),
        ("@every x", r#"failed to parse duration @every x: time: invalid duration "x""#),
        ("TZ=Mars 0 * * * *", "provided bad location Mars: unknown time zone Mars"),
        ("TZ=UTC", "invalid schedule format: runtime error: slice bounds out of range [:-1]"),
    ] {
        assert_eq!(Schedule::parse(text).unwrap_err().to_string(), want, "{text}");
    }
}

#[test]
fn schedules() {
    let spec = |text: &str| match Schedule::parse(text).unwrap() {
        Schedule::Spec(spec) => spec,
        Schedule::Every { .. } => panic!("{text}"),
    };
    let every_hour = (1 << 24) - 1;
    let every_day = ((1u64 << 31) - 1) << 1;
    let every_month = ((1 << 12) - 1) << 1;
    assert_eq!(
        spec("5,10-12,50/4 * ? jan,MAR 1-5/2"),
        Spec {
            minutes: 1 << 5 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 50 | 1 << 54 | 1 << 58,
            hours: every_hour,
            days_of_month: every_day,
            months: 1 << 1 | 1 << 3,
            days_of_week: 1 << 1 | 1 << 3 | 1 << 5,
            any_day_of_month: true,
            any_day_of_week: false,
            time_zone: None,
        }
    );
    assert!(!spec("* * */2 * *").any_day_of_month, "a step is a restriction");
    assert!(spec("* * */1 * *").any_day_of_month);
    assert_eq!(spec("TZ=Asia/Tokyo 0 0 * * *").time_zone.as_deref(), Some("Asia/Tokyo"));
    for (descriptor, same) in [
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
        ("@monthly", "0 0 1 * *"),
        ("@weekly", "0 0 * * 0"),
        ("@daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@hourly", "0 * * * *"),
    ] {
        assert_eq!(spec(descriptor), spec(same), "{descriptor}");
    }
    assert_eq!(spec("0 0 1 1 *").months, 1 << 1);
    assert_eq!(spec("@hourly").months, every_month);
    for (text, seconds) in
        [("1h30m", 5400), ("1.5s", 1), ("10ms", 1), ("90s", 90), ("-1h", 1), ("0", 1), ("0.5h", 1800)]
    {
        assert_eq!(Schedule::parse(&format!("@every {text}")), Ok(Schedule::Every { seconds }), "{text}");
    }
}
