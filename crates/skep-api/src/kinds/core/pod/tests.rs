use super::*;
use crate::context::UserInfo;
use serde_json::{Value, json};

/// Reads and defaults a pod.
fn pod(value: Value) -> Pod {
    let mut pod: Pod = serde_json::from_value(value).unwrap();
    pod.set_defaults();
    pod
}

fn errors_of(check: impl FnOnce(&Context<'_>, &mut Errors)) -> Vec<String> {
    let user = UserInfo::default();
    let cx = Context { now: Timestamp::UNIX_EPOCH, user: &user, subresource: "" };
    let mut errors = Errors::new();
    check(&cx, &mut errors);
    errors.iter().map(ToString::to_string).collect()
}

fn create_errors(value: Value) -> Vec<String> {
    errors_of(|cx, errors| pod(value).validate(cx, errors))
}

/// The smallest pod that is valid.
fn minimal() -> Value {
    json!({
        "metadata": {"name": "p", "namespace": "default"},
        "spec": {"containers": [{"name": "c", "image": "nginx"}]}
    })
}

#[test]
fn a_minimal_pod_is_valid() {
    assert_eq!(create_errors(minimal()), [] as [String; 0]);
}
