use k8s_openapi::api::autoscaling::v1::{self, Scale};
use k8s_openapi::api::autoscaling::v2::{self, HorizontalPodAutoscaler};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, Time};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::validate_scale;
use crate::field::Errors;
use crate::kind::Kind;
use crate::kinds::testing::{check_create, check_update, defaulted, row, with};
use crate::registry::{Convert, Registry};

fn hpa() -> Value {
    json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "maxReplicas": 5,
        },
    })
}

const TYPES: &str = r#"supported values: "ContainerResource", "External", "Object", "Pods", "Resource""#;

#[test]
fn defaults() {
    let got = defaulted::<HorizontalPodAutoscaler>(&with(&hpa(), &[("/spec/behavior", json!({}))]));
    assert_eq!(got["spec"]["minReplicas"], 1);
    assert_eq!(
        got["spec"]["metrics"],
        json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}])
    );
    assert_eq!(
        got["spec"]["behavior"],
        json!({
            "scaleUp": {
                "stabilizationWindowSeconds": 0, "selectPolicy": "Max",
                "policies": [
                    {"type": "Pods", "value": 4, "periodSeconds": 15},
                    {"type": "Percent", "value": 100, "periodSeconds": 15},
                ],
            },
            "scaleDown": {
                "selectPolicy": "Max",
                "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}],
            },
        })
    );
    assert!(defaulted::<HorizontalPodAutoscaler>(&hpa())["spec"].get("behavior").is_none());
    let metric = json!([{"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"type": "AverageValue", "averageValue": "1000m"}}}]);
    let got = defaulted::<HorizontalPodAutoscaler>(&with(&hpa(), &[("/spec/metrics", metric)]));
    assert_eq!(got["spec"]["metrics"][0]["pods"]["target"]["averageValue"], "1");
}

#[test]
fn create() {
    let metric = |metric: Value| vec![("/spec/metrics", json!([metric]))];
    let target = |name: &str, target: Value| {
        metric(json!({"type": "Resource", "resource": {"name": name, "target": target}}))
    };
    type Case<'a> = (Vec<(&'a str, Value)>, Vec<String>);
    let table: Vec<Case<'_>> = vec![
        (
            vec![("/spec/minReplicas", json!(0))],
            vec![
                "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1".into(),
                "spec.metrics: Forbidden: must specify at least one Object or External metric to support scaling to zero replicas".into(),
            ],
        ),
        (
            vec![("/spec/maxReplicas", json!(0))],
            vec![
                "spec.maxReplicas: Required value: must be set and greater than 0".into(),
                "spec.maxReplicas: Invalid value: 0: must be greater than or equal to `minReplicas`".into(),
            ],
        ),
        (
            vec![("/spec/minReplicas", json!(7))],
            vec!["spec.maxReplicas: Invalid value: 5: must be greater than or equal to `minReplicas`".into()],
        ),
        (
            vec![("/spec/scaleTargetRef", json!({"kind": "a/b", "name": "", "apiVersion": "v1"}))],
            vec![
                r#"spec.scaleTargetRef.kind: Invalid value: "a/b": may not contain '/'"#.into(),
                "spec.scaleTargetRef.name: Required value".into(),
                r#"spec.scaleTargetRef.apiVersion: Invalid value: "v1": apiVersion must specify API group"#.into(),
            ],
        ),
        (
            vec![("/spec/scaleTargetRef", json!({"kind": "ReplicationController", "name": "x", "apiVersion": "v1"}))],
            vec![],
        ),
        (
            vec![("/spec/scaleTargetRef/apiVersion", json!("a/b/c"))],
            vec![r#"spec.scaleTargetRef.apiVersion: Invalid value: "a/b/c": unexpected GroupVersion string: a/b/c"#.into()],
        ),
        (
            metric(json!({"type": "Odd"})),
            vec![
                format!(r#"spec.metrics[0].type: Unsupported value: "Odd": {TYPES}"#),
                format!(r#"spec.metrics[0].type: Unsupported value: "Odd": {TYPES}"#),
            ],
        ),
        (
            metric(json!({"type": "Pods"})),
            vec!["spec.metrics[0].pods: Required value: must populate information for the given metric source".into()],
        ),
        (
            metric(json!({
                "type": "Resource",
                "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 5}},
                "pods": {"metric": {"name": "m"}, "target": {"type": "AverageValue", "averageValue": "1"}},
            })),
            vec!["spec.metrics[0].pods: Forbidden: must populate the given metric source only".into()],
        ),
        (
            target("", json!({"type": "Odd"})),
            vec![
                "spec.metrics[0].resource.name: Required value: must specify a resource name".into(),
                r#"spec.metrics[0].resource.target.type: Invalid value: "Odd": must be either Utilization, Value, or AverageValue"#.into(),
                "spec.metrics[0].resource.target.averageUtilization: Required value: must set either a target raw value or a target utilization".into(),
            ],
        ),
        (
            target("cpu", json!({"type": "Utilization", "averageUtilization": 0, "averageValue": "-1"})),
            vec![
                r#"spec.metrics[0].resource.target.averageValue: Invalid value: "-1": must be positive"#.into(),
                "spec.metrics[0].resource.target.averageUtilization: Invalid value: 0: must be greater than 0".into(),
                "spec.metrics[0].resource.target.averageValue: Forbidden: may not set both a target raw value and a target utilization".into(),
            ],
        ),
        (
            metric(json!({"type": "External", "external": {"metric": {"name": "q%"}, "target": {"type": "Value", "value": "1", "averageValue": "1"}}})),
            vec![
                r#"spec.metrics[0].external.metric.name: Invalid value: "q%": may not contain '%'"#.into(),
                "spec.metrics[0].external.target.value: Forbidden: may not set both a target value for metric and a per-pod target".into(),
            ],
        ),
        (
            metric(json!({"type": "Object", "object": {
                "describedObject": {"kind": "Service", "name": "s"}, "metric": {"name": ""}, "target": {"type": "Value"},
            }})),
            vec![
                "spec.metrics[0].object.metric.name: Required value: must specify a metric name".into(),
                "spec.metrics[0].object.target.averageValue: Required value: must set either a target value or averageValue".into(),
            ],
        ),
        (
            metric(json!({"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"type": "Value", "value": "1"}}})),
            vec!["spec.metrics[0].pods.target.averageValue: Required value: must specify a positive target averageValue".into()],
        ),
        (
            metric(json!({"type": "ContainerResource", "containerResource": {
                "name": "foo", "container": "A", "target": {"type": "Utilization", "averageUtilization": 5},
            }})),
            vec![
                r#"spec.metrics[0].containerResource.name: Invalid value: "foo": must be a standard resource type or fully qualified"#.into(),
                r#"spec.metrics[0].containerResource.name: Invalid value: "foo": must be a standard resource for containers"#.into(),
                r#"spec.metrics[0].containerResource.container: Invalid value: "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"#.into(),
            ],
        ),
        (
            vec![("/spec/behavior", json!({
                "scaleUp": {"stabilizationWindowSeconds": -1, "selectPolicy": "Odd", "policies": []},
                "scaleDown": {"stabilizationWindowSeconds": 3601, "tolerance": "-0.1",
                              "policies": [{"type": "Odd", "value": 0, "periodSeconds": 1801}]},
            }))],
            vec![
                "spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid value: -1: must be greater than or equal to zero".into(),
                r#"spec.behavior.scaleUp.selectPolicy: Unsupported value: "Odd": supported values: "Disabled", "Max", "Min""#.into(),
                "spec.behavior.scaleUp.policies: Required value: must specify at least one Policy".into(),
                "spec.behavior.scaleDown.stabilizationWindowSeconds: Invalid value: 3601: must be less than or equal to 3600".into(),
                r#"spec.behavior.scaleDown.policies[0].type: Unsupported value: "Odd": supported values: "Percent", "Pods""#.into(),
                "spec.behavior.scaleDown.policies[0].value: Invalid value: 0: must be greater than zero".into(),
                "spec.behavior.scaleDown.policies[0].periodSeconds: Invalid value: 1801: must be less than or equal to 1800".into(),
                r#"spec.behavior.scaleDown.tolerance: Invalid value: "-100m": must be greater than or equal to 0"#.into(),
            ],
        ),
    ];
    for (changes, want) in &table {
        let want: Vec<&str> = want.iter().map(String::as_str).collect();
        check_create::<HorizontalPodAutoscaler>(&hpa(), &[(changes.as_slice(), want.as_slice())]);
    }
}

#[test]
fn updates() {
    let external = json!([{"type": "External", "external": {"metric": {"name": "q"}, "target": {"type": "Value", "value": "1"}}}]);
    check_update::<HorizontalPodAutoscaler>(
        &hpa(),
        "",
        &[
            // What was let in once may stay, and only that.
            (&[("/spec/scaleTargetRef/apiVersion", json!("v1"))], &[("/spec/maxReplicas", json!(9))], &[]),
            (
                &[("/spec/minReplicas", json!(0)), ("/spec/metrics", external)],
                &[("/spec/maxReplicas", json!(9))],
                &[],
            ),
            (
                &[],
                &[("/spec/scaleTargetRef/apiVersion", json!("v1"))],
                &[
                    r#"spec.scaleTargetRef.apiVersion: Invalid value: "v1": apiVersion must specify API group"#,
                ],
            ),
        ],
    );
    check_update::<HorizontalPodAutoscaler>(
        &hpa(),
        "status",
        &[(
            &[],
            &[
                ("/status", json!({"currentReplicas": -1, "desiredReplicas": -2})),
                ("/spec/maxReplicas", json!(0)),
            ],
            &[
                "status.currentReplicas: Invalid value: -1: must be greater than or equal to 0",
                "status.desiredReplicas: Invalid value: -2: must be greater than or equal to 0",
            ],
        )],
    );
}

#[test]
fn rows() {
    let resource =
        |name: &str, target: Value| json!({"type": "Resource", "resource": {"name": name, "target": target}});
    let tree = with(
        &hpa(),
        &[
            (
                "/spec/metrics",
                json!([
                    resource("cpu", json!({"type": "Utilization", "averageUtilization": 80})),
                    {"type": "External", "external": {"metric": {"name": "q"}, "target": {"type": "AverageValue", "averageValue": "5"}}},
                    resource("memory", json!({"type": "AverageValue", "averageValue": "1Gi"})),
                ]),
            ),
            (
                "/status",
                json!({"currentReplicas": 2, "desiredReplicas": 2, "currentMetrics": [
                    {"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 40}}},
                ]}),
            ),
        ],
    );
    assert_eq!(
        row::<HorizontalPodAutoscaler>(&tree)[1..6],
        [
            ("Reference", json!("Deployment/web")),
            ("Targets", json!("cpu: 40%/80%, <unknown>/5 (avg) + 1 more...")),
            ("MinPods", json!("1")),
            ("MaxPods", json!(5)),
            ("Replicas", json!(2)),
        ]
    );
    let pods = json!([{"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"type": "AverageValue", "averageValue": "1"}}}]);
    assert_eq!(
        row::<HorizontalPodAutoscaler>(&with(&hpa(), &[("/spec/metrics", pods)]))[2].1,
        json!("<unknown>/1")
    );
}

#[test]
fn scales() {
    let errors = |replicas| {
        let scale: Scale = serde_json::from_value(json!({"spec": {"replicas": replicas}})).unwrap();
        let mut errors = Errors::new();
        validate_scale(&scale, &mut errors);
        errors.to_string()
    };
    assert_eq!(errors(0), "[]");
    assert_eq!(errors(-1), "spec.replicas: Invalid value: -1: must be greater than or equal to 0");
}

/// The text of v1's annotations is what clients have stored, so it is fixed.
#[test]
fn v1_says_the_rest_in_annotations() {
    let registry = Registry::builtin();
    let v1_kind = registry.get("autoscaling", "v1", "horizontalpodautoscalers").unwrap();
    let stored = json!({
        "kind": "HorizontalPodAutoscaler", "apiVersion": "autoscaling/v2",
        "metadata": {"name": "web", "resourceVersion": "7", "annotations": {"mine": "x"}},
        "spec": {
            "scaleTargetRef": {"kind": "Deployment", "name": "web"}, "maxReplicas": 5, "minReplicas": 2,
            "metrics": [
                {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}}},
                {"type": "Object", "object": {
                    "describedObject": {"kind": "Service", "name": "s"}, "metric": {"name": "hits"},
                    "target": {"type": "Value", "value": "10"},
                }},
            ],
            "behavior": {"scaleDown": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]}},
        },
        "status": {"desiredReplicas": 3, "conditions": [{"type": "AbleToScale", "status": "True"}]},
    });
    let bytes = v1_kind.convert(stored.to_string().as_bytes()).unwrap().unwrap();
    let got: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(got["apiVersion"], "autoscaling/v1");
    assert_eq!(got["metadata"]["resourceVersion"], "7");
    assert_eq!(got["spec"]["targetCPUUtilizationPercentage"], 60);
    assert_eq!(
        got["metadata"]["annotations"],
        json!({
            "mine": "x",
            "autoscaling.alpha.kubernetes.io/metrics": r#"[{"type":"Object","object":{"target":{"kind":"Service","name":"s"},"metricName":"hits","targetValue":"10"}}]"#,
            "autoscaling.alpha.kubernetes.io/behavior": r#"{"ScaleUp":null,"ScaleDown":{"StabilizationWindowSeconds":null,"SelectPolicy":null,"Policies":[{"Type":"Pods","Value":1,"PeriodSeconds":60}],"Tolerance":null}}"#,
            "autoscaling.alpha.kubernetes.io/conditions": r#"[{"status":"True","type":"AbleToScale"}]"#,
        })
    );
}

#[test]
fn v1_annotations_that_are_malformed_say_nothing() {
    let tree = json!({
        "metadata": {"name": "web", "annotations": {"autoscaling.alpha.kubernetes.io/metrics": "oops"}},
        "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "web"}, "maxReplicas": 5},
    });
    let v1: v1::HorizontalPodAutoscaler = serde_json::from_value(tree).unwrap();
    let stored = v1.into_stored();
    assert_eq!(stored.metadata.annotations, None);
    let cpu = &stored.spec.metrics.unwrap()[0];
    assert_eq!(cpu.resource.as_ref().unwrap().target.average_utilization, Some(80));
}

fn quantity() -> impl Strategy<Value = Quantity> {
    (1u32..9999).prop_map(|n| Quantity(n.to_string()))
}

fn name() -> impl Strategy<Value = String> {
    "[a-z]{1,8}"
}

fn identifier() -> impl Strategy<Value = v2::MetricIdentifier> {
    let selector = proptest::option::of(proptest::collection::btree_map("[a-z]{1,3}", "[a-z]{1,3}", 1..3));
    (name(), selector).prop_map(|(name, labels)| v2::MetricIdentifier {
        name,
        selector: labels.map(|l| LabelSelector { match_labels: Some(l), ..Default::default() }),
    })
}

fn reference() -> impl Strategy<Value = v2::CrossVersionObjectReference> {
    (proptest::option::of("[a-z]{1,4}/v1"), name(), name())
        .prop_map(|(api_version, kind, name)| v2::CrossVersionObjectReference { api_version, kind, name })
}

/// Targets as v1 can give them back: the type follows from what is set.
fn value_or_average() -> impl Strategy<Value = v2::MetricTarget> {
    (any::<bool>(), quantity()).prop_map(|(average, q)| {
        let type_ = if average { "AverageValue" } else { "Value" }.to_owned();
        let (value, average_value) = if average { (None, Some(q)) } else { (Some(q), None) };
        v2::MetricTarget { type_, value, average_value, average_utilization: None }
    })
}

fn utilization_or_average() -> impl Strategy<Value = v2::MetricTarget> {
    (proptest::option::of(1i32..200), quantity()).prop_map(|(percent, q)| v2::MetricTarget {
        type_: if percent.is_some() { "Utilization" } else { "AverageValue" }.to_owned(),
        average_value: percent.is_none().then_some(q),
        average_utilization: percent,
        value: None,
    })
}

/// Any metric but utilization of processors, which v1 has a field for.
fn other_metric() -> impl Strategy<Value = v2::MetricSpec> {
    let spec = |type_: &str| v2::MetricSpec { type_: type_.to_owned(), ..Default::default() };
    prop_oneof![
        (reference(), identifier(), value_or_average()).prop_map(
            move |(described_object, metric, target)| {
                let object = Some(v2::ObjectMetricSource { described_object, metric, target });
                v2::MetricSpec { object, ..spec("Object") }
            }
        ),
        (identifier(), quantity()).prop_map(move |(metric, q)| {
            let target = v2::MetricTarget {
                type_: "AverageValue".to_owned(),
                average_value: Some(q),
                ..Default::default()
            };
            v2::MetricSpec { pods: Some(v2::PodsMetricSource { metric, target }), ..spec("Pods") }
        }),
        utilization_or_average().prop_map(move |target| {
            let resource = Some(v2::ResourceMetricSource { name: "memory".to_owned(), target });
            v2::MetricSpec { resource, ..spec("Resource") }
        }),
        (name(), utilization_or_average()).prop_map(move |(container, target)| {
            let source = v2::ContainerResourceMetricSource { container, name: "cpu".to_owned(), target };
            v2::MetricSpec { container_resource: Some(source), ..spec("ContainerResource") }
        }),
        (identifier(), value_or_average()).prop_map(move |(metric, target)| {
            let external = Some(v2::ExternalMetricSource { metric, target });
            v2::MetricSpec { external, ..spec("External") }
        }),
    ]
}

fn current() -> impl Strategy<Value = v2::MetricStatus> {
    let status = |type_: &str| v2::MetricStatus { type_: type_.to_owned(), ..Default::default() };
    prop_oneof![
        (name(), proptest::option::of(0i32..200), quantity()).prop_map(move |(name, percent, q)| {
            let current =
                v2::MetricValueStatus { average_utilization: percent, average_value: Some(q), value: None };
            let resource = Some(v2::ResourceMetricStatus { name, current });
            v2::MetricStatus { resource, ..status("Resource") }
        }),
        (identifier(), quantity(), proptest::option::of(quantity())).prop_map(move |(metric, q, average)| {
            let current =
                v2::MetricValueStatus { value: Some(q), average_value: average, average_utilization: None };
            let external = Some(v2::ExternalMetricStatus { metric, current });
            v2::MetricStatus { external, ..status("External") }
        }),
    ]
}

fn rules() -> impl Strategy<Value = v2::HPAScalingRules> {
    let policy = ("Pods|Percent", 1i32..9, 1i32..99)
        .prop_map(|(type_, value, period_seconds)| v2::HPAScalingPolicy { type_, value, period_seconds });
    let window = proptest::option::of(0i32..3600);
    let policies = proptest::option::of(proptest::collection::vec(policy, 1..3));
    (window, proptest::option::of("Max|Min"), policies, proptest::option::of(quantity())).prop_map(
        |(stabilization_window_seconds, select_policy, policies, tolerance)| v2::HPAScalingRules {
            policies,
            select_policy,
            stabilization_window_seconds,
            tolerance,
        },
    )
}

fn annotations() -> impl Strategy<Value = Option<std::collections::BTreeMap<String, String>>> {
    proptest::option::of(proptest::collection::btree_map("[a-z]{1,6}", ".{0,9}", 1..3))
}

proptest! {
    /// Nothing is lost between v2 and v1, except that utilization of processors comes last.
    #[test]
    fn v2_survives_v1(
        others in proptest::collection::vec(other_metric(), 0..4),
        percent in proptest::option::of(1i32..200),
        at in any::<prop::sample::Index>(),
        up in proptest::option::of(rules()),
        down in rules(),
        behave in any::<bool>(),
        current in proptest::collection::vec(current(), 1..3),
        annotations in annotations(),
        target in reference(),
        numbers in (1i32..9, 0i32..9, proptest::option::of(1i64..9)),
    ) {
        let mut metrics = others.clone();
        let mut last = others;
        if let Some(percent) = percent {
            metrics.insert(at.index(metrics.len() + 1), super::v2::cpu_utilization(percent));
            last.push(super::v2::cpu_utilization(percent));
        }
        prop_assume!(!metrics.is_empty());
        let (max, desired, observed) = numbers;
        let stored = HorizontalPodAutoscaler {
            metadata: ObjectMeta { name: Some("x".to_owned()), annotations, ..Default::default() },
            spec: v2::HorizontalPodAutoscalerSpec {
                behavior: behave.then_some(v2::HorizontalPodAutoscalerBehavior { scale_up: up, scale_down: Some(down) }),
                max_replicas: max,
                metrics: Some(metrics),
                min_replicas: Some(1),
                scale_target_ref: target,
            },
            status: Some(v2::HorizontalPodAutoscalerStatus {
                conditions: Some(vec![v2::HorizontalPodAutoscalerCondition {
                    type_: "AbleToScale".to_owned(),
                    status: "True".to_owned(),
                    last_transition_time: Some(Time(jiff::Timestamp::UNIX_EPOCH)),
                    message: None,
                    reason: Some("r".to_owned()),
                }]),
                current_metrics: Some(current),
                current_replicas: Some(desired),
                desired_replicas: desired,
                last_scale_time: None,
                observed_generation: observed,
            }),
        };
        let mut want = stored.clone();
        want.spec.metrics = Some(last);
        let back = v1::HorizontalPodAutoscaler::from_stored(stored).into_stored();
        prop_assert_eq!(back, want);
    }

    /// Nothing of v1 is lost by being stored, and annotations of the conversion are only its own.
    #[test]
    fn v1_survives_storage(
        percent in 1i32..200,
        current in proptest::option::of(0i32..200),
        annotations in annotations(),
        target in reference(),
    ) {
        let object = v1::HorizontalPodAutoscaler {
            metadata: ObjectMeta { name: Some("x".to_owned()), annotations: annotations.clone(), ..Default::default() },
            spec: v1::HorizontalPodAutoscalerSpec {
                max_replicas: 4,
                min_replicas: Some(2),
                scale_target_ref: v1::CrossVersionObjectReference {
                    api_version: target.api_version,
                    kind: target.kind,
                    name: target.name,
                },
                target_cpu_utilization_percentage: Some(percent),
            },
            status: Some(v1::HorizontalPodAutoscalerStatus {
                current_cpu_utilization_percentage: current,
                current_replicas: 3,
                desired_replicas: 4,
                ..Default::default()
            }),
        };
        let stored = object.clone().into_stored();
        prop_assert_eq!(&stored.metadata.annotations, &annotations);
        let mut back = v1::HorizontalPodAutoscaler::from_stored(stored);
        if let Some(annotations) = &mut back.metadata.annotations {
            annotations.retain(|key, _| !super::v1_annotations::ALL.contains(&key.as_str()));
        }
        back.metadata.annotations.take_if(|a| a.is_empty());
        prop_assert_eq!(back, object);
    }
}

#[test]
fn v1_rows_are_v2_rows() {
    let tree = json!({
        "metadata": {"name": "web"},
        "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "web"}, "maxReplicas": 5, "targetCPUUtilizationPercentage": 70},
    });
    let v1: v1::HorizontalPodAutoscaler = serde_json::from_value(tree).unwrap();
    assert_eq!(v1.row(jiff::Timestamp::UNIX_EPOCH)[2], json!("cpu: <unknown>/70%"));
}
