use k8s_openapi::api::policy::v1::{Eviction, PodDisruptionBudget};
use serde_json::{Value, json};

use super::{EvictionError, eviction_options};
use crate::kind::Kind;
use crate::kinds::testing::{bumps_generation, check_create, check_update, created, row, with};

fn budget() -> Value {
    json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"minAvailable": "50%", "selector": {"matchLabels": {"app": "web"}}},
    })
}

#[test]
fn budgets() {
    check_create::<PodDisruptionBudget>(
        &budget(),
        &[
            (&[("/spec/minAvailable", json!(0)), ("/spec/selector", json!({}))], &[]),
            (
                &[("/spec/maxUnavailable", json!(1))],
                &[
                    r#"spec: Invalid value: {"MinAvailable":"50%","Selector":{"matchLabels":{"app":"web"}},"MaxUnavailable":1,"UnhealthyPodEvictionPolicy":null}: minAvailable and maxUnavailable cannot be both set"#,
                ],
            ),
            (
                &[("/spec/minAvailable", json!("101%"))],
                &[r#"spec.minAvailable: Invalid value: "101%": must not be greater than 100%"#],
            ),
            (
                &[("/spec/minAvailable", json!(-1))],
                &["spec.minAvailable: Invalid value: -1: must be greater than or equal to 0"],
            ),
            (
                &[("/spec/minAvailable", json!("half"))],
                &[
                    r#"spec.minAvailable: Invalid value: "half": a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')"#,
                ],
            ),
            (
                &[("/spec/unhealthyPodEvictionPolicy", json!("Odd"))],
                &[
                    r#"spec.unhealthyPodEvictionPolicy: Unsupported value: "Odd": supported values: "AlwaysAllow", "IfHealthyBudget""#,
                ],
            ),
        ],
    );
    check_update::<PodDisruptionBudget>(
        &budget(),
        "status",
        &[(
            &[],
            &[(
                "/status",
                json!({"disruptionsAllowed": -1, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}),
            )],
            &["status.disruptionsAllowed: Invalid value: -1: must be greater than or equal to 0"],
        )],
    );
    assert!(!PodDisruptionBudget::info().unconditional_update);
    assert!(bumps_generation::<PodDisruptionBudget>(
        &budget(),
        &with(&budget(), &[("/spec/minAvailable", json!(1))])
    ));
    assert_eq!(
        serde_json::to_value(created::<PodDisruptionBudget>(&budget())).unwrap()["status"],
        json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0})
    );
    let tree = with(&budget(), &[("/status/disruptionsAllowed", json!(2))]);
    assert_eq!(
        row::<PodDisruptionBudget>(&tree)[1..4],
        [
            ("Min Available", json!("50%")),
            ("Max Unavailable", json!("N/A")),
            ("Allowed Disruptions", json!(2)),
        ]
    );
}

#[test]
fn evictions() {
    let eviction = |tree: Value| -> Eviction { serde_json::from_value(tree).unwrap() };
    let all = ["All".to_owned()];
    let plain = eviction(json!({"metadata": {"name": "p"}, "deleteOptions": {"gracePeriodSeconds": 3}}));
    let options = eviction_options(&plain, "p", &all).unwrap();
    assert_eq!((options.grace_period_seconds, options.dry_run.as_deref()), (Some(3), Some(&all[..])));
    assert_eq!(eviction_options(&plain, "q", &[]), Err(EvictionError::Name));
    let dry = eviction(json!({"metadata": {"name": "p"}, "deleteOptions": {"dryRun": ["All"]}}));
    assert_eq!(eviction_options(&dry, "p", &[]).unwrap().dry_run.as_deref(), Some(&all[..]));
    assert!(eviction_options(&dry, "p", &all).is_ok());
    let odd = eviction(json!({"metadata": {"name": "p"}, "deleteOptions": {"dryRun": ["Odd"]}}));
    assert_eq!(
        eviction_options(&odd, "p", &all).unwrap_err().to_string(),
        "Non-matching dry-run options in request and content: [All] and [Odd]"
    );
    let broken = eviction(json!({
        "metadata": {"name": "p"}, "deleteOptions": {"ignoreStoreReadErrorWithClusterBreakingPotential": true},
    }));
    assert_eq!(
        eviction_options(&broken, "p", &[]).unwrap_err().to_string(),
        "deleteOptions.ignoreStoreReadErrorWithClusterBreakingPotential: Invalid value: true: can not be set for pod eviction, try after removing the option"
    );
}
