//! The downward API: what a pod may know of itself.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use skep_base::quantity::Quantity;

use crate::{resources, spec};

/// What fields show that is not in the pod itself.
#[derive(Clone, Debug, Default)]
pub struct FieldContext<'a> {
    /// The pod's addresses.
    pub pod_ips: &'a [String],
    /// The node's addresses.
    pub host_ips: &'a [String],
    /// What the node can give: the limit of a container that has none.
    pub allocatable: BTreeMap<String, Quantity>,
}

/// Why a field cannot be given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// No such field.
    #[error("unsupported fieldPath: {0}")]
    Path(String),
    /// No such resource.
    #[error("unsupported container resource : {0}")]
    Resource(String),
    /// No such container.
    #[error("container {0} not found")]
    Container(String),
    /// The divisor is no quantity.
    #[error("the divisor {0:?} is not a quantity")]
    Divisor(String),
}

/// A field of the pod as text.
///
/// # Errors
/// When there is no such field.
pub fn field(pod: &Pod, path: &str, context: &FieldContext<'_>) -> Result<String, FieldError> {
    let unknown = || FieldError::Path(path.to_owned());
    if let Some((map, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        let entries = match map {
            "metadata.labels" => &pod.metadata.labels,
            "metadata.annotations" => &pod.metadata.annotations,
            _ => return Err(unknown()),
        };
        return Ok(entries.as_ref().and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    let spec = pod.spec.as_ref();
    Ok(match path {
        "metadata.name" => spec::name(pod).to_owned(),
        "metadata.namespace" => spec::namespace(pod).to_owned(),
        "metadata.uid" => spec::uid(pod).to_owned(),
        "metadata.labels" => map_as_text(pod.metadata.labels.as_ref()),
        "metadata.annotations" => map_as_text(pod.metadata.annotations.as_ref()),
        "spec.nodeName" => spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => spec.and_then(|s| s.service_account_name.clone()).unwrap_or_default(),
        "status.hostIP" => context.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => context.host_ips.join(","),
        "status.podIP" => context.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => context.pod_ips.join(","),
        _ => return Err(unknown()),
    })
}

/// Labels or annotations as lines `key="value"`, sorted.
fn map_as_text(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> =
        map.into_iter().flatten().map(|(k, v)| format!("{k}={}", go_quoted(v))).collect();
    lines.join("\n")
}

/// Text in quotes with the escapes that Go writes.
fn go_quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if (c as u32) < 0x20 || c == '\u{7f}' => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A container's request or limit as text, in units of the divisor, rounded up.
///
/// # Errors
/// When there is no such container or resource.
pub fn resource_field(
    pod: &Pod,
    r: &ResourceFieldSelector,
    own: Option<&Container>,
    context: &FieldContext<'_>,
) -> Result<String, FieldError> {
    let found;
    let container = match r.container_name.as_deref().filter(|n| !n.is_empty()) {
        None => own.ok_or_else(|| FieldError::Container(String::new()))?,
        Some(name) => {
            found = spec::find(pod, name).ok_or_else(|| FieldError::Container(name.to_owned()))?.1;
            &found
        }
    };
    let unsupported = || FieldError::Resource(r.resource.clone());
    let (which, name) = r.resource.split_once('.').ok_or_else(unsupported)?;
    let given = container.resources.as_ref();
    let list = match which {
        "limits" => resources::amounts(given.and_then(|r| r.limits.as_ref())),
        "requests" => resources::amounts(given.and_then(|r| r.requests.as_ref())),
        _ => return Err(unsupported()),
    };
    if !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !name.starts_with("hugepages-") {
        return Err(unsupported());
    }
    let mut amount = list.get(name).copied().unwrap_or_default();
    if which == "limits" && amount == Quantity::default() {
        amount = context.allocatable.get(name).copied().unwrap_or_default();
    }
    let divisor = match r.divisor.as_ref().map(|d| d.0.as_str()) {
        None | Some("" | "0") => parse_divisor("1")?,
        Some(text) => parse_divisor(text)?,
    };
    let (amount, divisor) = if name == "cpu" {
        (amount.milli_value(), divisor.milli_value())
    } else {
        (amount.value(), divisor.value())
    };
    let units = amount.checked_add(divisor - 1).unwrap_or(i64::MAX).checked_div(divisor).unwrap_or(0);
    Ok(units.to_string())
}

fn parse_divisor(text: &str) -> Result<Quantity, FieldError> {
    text.parse::<Quantity>()
        .ok()
        .filter(|q| q.milli_value() > 0)
        .ok_or_else(|| FieldError::Divisor(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::pod;
    use serde_json::json;

    #[test]
    fn fields() {
        let mut p = pod(json!({"containers": [], "nodeName": "n", "serviceAccountName": "sa"}));
        p.metadata.labels =
            Some(BTreeMap::from([("b".into(), "1".into()), ("a/x".into(), "q\"\n\\é".into())]));
        let ips = ["10.1.0.2".to_owned(), "fd00::2".to_owned()];
        let context = FieldContext { pod_ips: &ips, host_ips: &ips, ..FieldContext::default() };
        for (path, expected) in [
            ("metadata.name", "p"),
            ("metadata.namespace", "ns"),
            ("metadata.uid", "uid-1"),
            ("metadata.labels", "a/x=\"q\\\"\\n\\\\é\"\nb=\"1\""),
            ("metadata.labels['b']", "1"),
            ("metadata.labels['none']", ""),
            ("metadata.annotations", ""),
            ("spec.nodeName", "n"),
            ("spec.serviceAccountName", "sa"),
            ("status.podIP", "10.1.0.2"),
            ("status.podIPs", "10.1.0.2,fd00::2"),
            ("status.hostIP", "10.1.0.2"),
        ] {
            assert_eq!(field(&p, path, &context).unwrap(), expected, "{path}");
        }
        assert!(field(&p, "spec.priority", &context).is_err());
    }

    #[test]
    fn resources_in_units() {
        let p = pod(json!({"containers": [{"name": "a", "resources":
            {"limits": {"cpu": "1500m", "memory": "100Mi"}, "requests": {"cpu": "250m"}}}, {"name": "b"}]}));
        let context = FieldContext {
            allocatable: BTreeMap::from([("memory".to_owned(), "2Gi".parse().unwrap())]),
            ..FieldContext::default()
        };
        for (container, resource, divisor, expected) in [
            ("a", "limits.cpu", "1", "2"),
            ("a", "limits.cpu", "1m", "1500"),
            ("a", "requests.cpu", "0", "1"),
            ("a", "limits.memory", "1Mi", "100"),
            ("a", "requests.memory", "1", "0"),
            ("b", "limits.memory", "1Gi", "2"),
        ] {
            let r: ResourceFieldSelector = serde_json::from_value(
                json!({"containerName": container, "resource": resource, "divisor": divisor}),
            )
            .unwrap();
            assert_eq!(resource_field(&p, &r, None, &context).unwrap(), expected, "{container} {resource}");
        }
    }
}
