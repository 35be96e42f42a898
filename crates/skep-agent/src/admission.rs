//! Whether a pod that was bound to this node can run here: the node's own last look, as upstream's.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, Taint, Toleration};

use crate::resources::{self, Amounts};
use crate::{security, spec};

/// Why a pod is turned away: reason and message of its status.
pub type Rejection = (String, String);

fn predicate(name: &str, why: &str) -> Rejection {
    (name.to_owned(), format!("Predicate {name} failed: {why}"))
}

/// Looks at a pod beside those that run here. `critical` ones are let in although resources are short; somebody will
/// be evicted.
///
/// # Errors
/// Why it is turned away.
pub fn admit(
    pod: &Pod,
    node: &Node,
    allocatable: &Amounts,
    others: &[&Pod],
    apparmor: bool,
) -> Result<(), Rejection> {
    let pod_spec = pod.spec.clone().unwrap_or_default();
    let labels = node.metadata.labels.clone().unwrap_or_default();
    const OS_LABEL: &str = "kubernetes.io/os";
    let selector = pod_spec.node_selector.clone().unwrap_or_default();
    if selector.get(OS_LABEL).is_some_and(|os| os != "linux") {
        let message = "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label";
        return Err(("PodOSSelectorNodeLabelDoesNotMatch".to_owned(), message.to_owned()));
    }
    if pod_spec.os.as_ref().is_some_and(|os| os.name != "linux") {
        let message = "Failed to admit pod as the OS field doesn't match node OS";
        return Err(("PodOSNotSupported".to_owned(), message.to_owned()));
    }
    if let Some(message) = security::forbidden_sysctl(pod) {
        return Err(("SysctlForbidden".to_owned(), message));
    }
    let wants_apparmor = spec::init_containers(pod)
        .iter()
        .chain(spec::containers(pod))
        .filter_map(|c| c.security_context.as_ref()?.app_armor_profile.as_ref())
        .chain(pod_spec.security_context.iter().filter_map(|s| s.app_armor_profile.as_ref()))
        .any(|p| p.type_ == "Localhost");
    if wants_apparmor && !apparmor {
        let message = "Cannot enforce AppArmor: AppArmor is not enabled on the host";
        return Err(("AppArmor".to_owned(), message.to_owned()));
    }
    fits(pod, allocatable, others)?;
    if !selector.iter().all(|(k, v)| labels.get(k) == Some(v)) || !affinity_matches(&pod_spec, node, &labels)
    {
        return Err(predicate("NodeAffinity", "node(s) didn't match Pod's node affinity/selector"));
    }
    if let Some(name) = pod_spec.node_name.as_deref().filter(|n| Some(*n) != node.metadata.name.as_deref()) {
        return Err(predicate("NodeName", &format!("node(s) didn't match the requested node name {name:?}")));
    }
    let taken: Vec<Port> = others.iter().flat_map(|p| host_ports(p)).collect();
    if host_ports(pod).iter().any(|p| taken.iter().any(|t| p.collides(t))) {
        return Err(predicate("NodePorts", "node(s) didn't have free ports for the requested pod ports"));
    }
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    let tolerations = pod_spec.tolerations.as_deref().unwrap_or_default();
    let untolerated =
        taints.iter().any(|t| t.effect == "NoExecute" && !tolerations.iter().any(|o| tolerates(o, t)));
    if untolerated && !spec::is_static(pod) {
        return Err(predicate("TaintToleration", "node(s) had taints that the pod didn't tolerate"));
    }
    Ok(())
}

fn fits(pod: &Pod, allocatable: &Amounts, others: &[&Pod]) -> Result<(), Rejection> {
    let short = |name: &str, requested: i64, used: i64, capacity: i64| {
        let message = format!(
            "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
        );
        (format!("OutOf{name}"), message)
    };
    let amount = |list: &Amounts, name: &str| {
        list.get(name).map_or(0, |q| if name == "cpu" { q.milli_value() } else { q.value() })
    };
    let most = amount(allocatable, "pods");
    let count = i64::try_from(others.len()).unwrap_or(i64::MAX);
    if count + 1 > most {
        return Err(short("pods", 1, count, most));
    }
    let asked = resources::pod_requests(pod);
    let mut used = BTreeMap::new();
    for other in others {
        for name in resources::pod_requests(other).keys() {
            *used.entry(name.clone()).or_insert(0) += amount(&resources::pod_requests(other), name);
        }
    }
    // The well-known ones first, as upstream looks at them.
    let order = |name: &String| match name.as_str() {
        "cpu" => (0, name.clone()),
        "memory" => (1, name.clone()),
        "ephemeral-storage" => (2, name.clone()),
        _ => (3, name.clone()),
    };
    let mut names: Vec<&String> = asked.keys().collect();
    names.sort_by_key(|n| order(n));
    for name in names {
        let requested = amount(&asked, name);
        // A resource that the node does not have belongs to the cluster, and is nobody's business here.
        if requested == 0 || !allocatable.contains_key(name) {
            continue;
        }
        let (used, capacity) = (used.get(name).copied().unwrap_or(0), amount(allocatable, name));
        if requested > capacity - used {
            return Err(short(name, requested, used, capacity));
        }
    }
    Ok(())
}

fn affinity_matches(
    pod: &k8s_openapi::api::core::v1::PodSpec,
    node: &Node,
    labels: &BTreeMap<String, String>,
) -> bool {
    let required = pod
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let Some(required) = required else { return true };
    required.node_selector_terms.iter().any(|term| term_matches(term, node, labels))
}

fn term_matches(term: &NodeSelectorTerm, node: &Node, labels: &BTreeMap<String, String>) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        // A term that says nothing selects nothing.
        return false;
    }
    expressions.iter().all(|r| requirement_matches(r, labels.get(&r.key).map(String::as_str)))
        && fields
            .iter()
            .all(|r| r.key == "metadata.name" && requirement_matches(r, node.metadata.name.as_deref()))
}

fn requirement_matches(r: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = r.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|v| values.iter().any(|w| w == v));
    let number = |greater: bool| {
        let bound = values.first().and_then(|v| v.parse::<i64>().ok());
        match (value.and_then(|v| v.parse::<i64>().ok()), bound) {
            (Some(v), Some(bound)) => (greater && v > bound) || (!greater && v < bound),
            _ => false,
        }
    };
    match r.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => number(true),
        "Lt" => number(false),
        _ => false,
    }
}

/// Whether a toleration covers a taint.
#[must_use]
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |o: &Option<String>| o.clone().unwrap_or_default();
    let (effect, key) = (text(&toleration.effect), text(&toleration.key));
    if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
        return false;
    }
    match toleration.operator.as_deref() {
        Some("Exists") => true,
        None | Some("" | "Equal") => !key.is_empty() && text(&toleration.value) == text(&taint.value),
        Some(_) => false,
    }
}

/// A port of the machine that a pod wants.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Port {
    ip: String,
    protocol: String,
    port: i32,
}

impl Port {
    fn collides(&self, other: &Port) -> bool {
        let any = |ip: &str| ip == "0.0.0.0" || ip == "::";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || any(&self.ip) || any(&other.ip))
    }
}

fn host_ports(pod: &Pod) -> Vec<Port> {
    let sidecars = spec::init_containers(pod).iter().filter(|c| spec::is_sidecar(c));
    spec::containers(pod)
        .iter()
        .chain(sidecars)
        .flat_map(|c| c.ports.iter().flatten())
        .filter_map(|p| {
            let port = p.host_port.filter(|p| *p > 0)?;
            Some(Port {
                ip: p.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".to_owned()),
                protocol: p.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                port,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::pod;
    use serde_json::{Value, json};

    fn node() -> Node {
        serde_json::from_value(json!({"metadata": {"name": "n", "labels": {"zone": "a", "size": "5"}},
            "spec": {"taints": [{"key": "t", "value": "v", "effect": "NoExecute"}, {"key": "s", "effect": "NoSchedule"}]}}))
        .unwrap()
    }

    fn look(spec: Value, others: &[Value]) -> Result<(), Rejection> {
        let mut spec = spec;
        if spec.get("tolerations").is_none() {
            spec["tolerations"] = json!([{"operator": "Exists"}]);
        }
        let allocatable = [("cpu", "2"), ("memory", "1Gi"), ("pods", "3")]
            .into_iter()
            .map(|(k, v)| (k.to_owned(), v.parse().unwrap()))
            .collect();
        let others: Vec<Pod> = others.iter().cloned().map(pod).collect();
        let others: Vec<&Pod> = others.iter().collect();
        admit(&pod(spec), &node(), &allocatable, &others, false)
    }

    fn cpu(amount: &str) -> Value {
        json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": amount, "example.org/x": "9"}}}]})
    }

    #[test]
    fn resources_that_are_short() {
        assert_eq!(look(cpu("1"), &[cpu("1")]), Ok(()));
        assert_eq!(
            look(cpu("1500m"), &[cpu("1")]),
            Err((
                "OutOfcpu".into(),
                "Node didn't have enough resource: cpu, requested: 1500, used: 1000, capacity: 2000".into()
            ))
        );
        let memory = json!({"containers": [{"name": "a", "resources": {"requests": {"memory": "2Gi"}}}]});
        assert_eq!(look(memory, &[]).unwrap_err().0, "OutOfmemory");
        let three = [cpu("0"), cpu("0"), cpu("0")];
        assert_eq!(look(cpu("0"), &three).unwrap_err().0, "OutOfpods");
    }

    #[test]
    fn selectors_and_affinity() {
        let affinity = |expression: Value| {
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}}})
        };
        for (spec, fits) in [
            (json!({"nodeSelector": {"zone": "a"}}), true),
            (json!({"nodeSelector": {"zone": "b"}}), false),
            (affinity(json!({"key": "zone", "operator": "In", "values": ["a", "b"]})), true),
            (affinity(json!({"key": "zone", "operator": "NotIn", "values": ["a"]})), false),
            (affinity(json!({"key": "none", "operator": "DoesNotExist"})), true),
            (affinity(json!({"key": "size", "operator": "Gt", "values": ["4"]})), true),
            (affinity(json!({"key": "size", "operator": "Lt", "values": ["4"]})), false),
        ] {
            let result = look(spec.clone(), &[]);
            assert_eq!(result.is_ok(), fits, "{spec}");
            if let Err((reason, message)) = result {
                assert_eq!(reason, "NodeAffinity");
                assert_eq!(
                    message,
                    "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"
                );
            }
        }
    }

    #[test]
    fn ports_and_taints() {
        let port = |ip: &str| json!({"containers": [{"name": "a", "ports": [{"containerPort": 1, "hostPort": 80, "hostIP": ip}]}]});
        assert_eq!(look(port("1.1.1.1"), &[port("2.2.2.2")]), Ok(()));
        assert_eq!(look(port("1.1.1.1"), &[port("")]).unwrap_err().0, "NodePorts");
        assert_eq!(look(json!({"tolerations": []}), &[]).unwrap_err().0, "TaintToleration");
        assert_eq!(
            look(json!({"tolerations": [{"key": "t", "value": "v", "effect": "NoExecute"}]}), &[]),
            Ok(())
        );
        assert_eq!(
            look(json!({"tolerations": [{"key": "t", "value": "w"}]}), &[]).unwrap_err().0,
            "TaintToleration"
        );
    }

    #[test]
    fn what_this_node_is_not() {
        assert_eq!(look(json!({"os": {"name": "windows"}}), &[]).unwrap_err().0, "PodOSNotSupported");
        assert_eq!(
            look(json!({"nodeSelector": {"kubernetes.io/os": "windows"}}), &[]).unwrap_err().0,
            "PodOSSelectorNodeLabelDoesNotMatch"
        );
        let sysctl = json!({"securityContext": {"sysctls": [{"name": "kernel.panic", "value": "1"}]}});
        assert_eq!(look(sysctl, &[]).unwrap_err().0, "SysctlForbidden");
    }
}
