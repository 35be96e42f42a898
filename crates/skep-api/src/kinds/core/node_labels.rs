//! Labels of nodes that have other names now.

use k8s_openapi::api::core::v1::VolumeNodeAffinity;

use crate::meta;

/// What to do about a label that should not be used any more.
pub(crate) fn deprecated_label(key: &str) -> Option<&'static str> {
    Some(match key {
        "beta.kubernetes.io/arch" => r#"deprecated since v1.14; use "kubernetes.io/arch" instead"#,
        "beta.kubernetes.io/os" => r#"deprecated since v1.14; use "kubernetes.io/os" instead"#,
        "failure-domain.beta.kubernetes.io/region" => {
            r#"deprecated since v1.17; use "topology.kubernetes.io/region" instead"#
        }
        "failure-domain.beta.kubernetes.io/zone" => {
            r#"deprecated since v1.17; use "topology.kubernetes.io/zone" instead"#
        }
        "beta.kubernetes.io/instance-type" => {
            r#"deprecated since v1.17; use "node.kubernetes.io/instance-type" instead"#
        }
        "app.kubernetes.io/created-by" => "deprecated since v1.9",
        "scheduler.alpha.kubernetes.io/preferAvoidPods" => {
            "deprecated since v1.22; use Taints and Tolerations instead"
        }
        "node-role.kubernetes.io/master" => r#"use "node-role.kubernetes.io/control-plane" instead"#,
        _ => return None,
    })
}

/// The name that replaced a label's beta name.
fn stable_label(key: &str) -> Option<&'static str> {
    Some(match key {
        "failure-domain.beta.kubernetes.io/zone" => "topology.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region" => "topology.kubernetes.io/region",
        "beta.kubernetes.io/os" => "kubernetes.io/os",
        "beta.kubernetes.io/arch" => "kubernetes.io/arch",
        "beta.kubernetes.io/instance-type" => "node.kubernetes.io/instance-type",
        _ => return None,
    })
}

/// Whether an affinity selects what the old one did, apart from labels that go by their new names.
pub(super) fn same_but_for_label_names(
    new: &Option<VolumeNodeAffinity>,
    old: &Option<VolumeNodeAffinity>,
) -> bool {
    if meta::same(new, old) {
        return true;
    }
    let mut renamed = old.clone();
    let selector = |a: &Option<VolumeNodeAffinity>| a.as_ref().and_then(|a| a.required.clone());
    let new_terms = selector(new).map(|s| s.node_selector_terms).unwrap_or_default();
    let required = renamed.as_mut().and_then(|a| a.required.as_mut());
    for (old_term, new_term) in required.into_iter().flat_map(|s| &mut s.node_selector_terms).zip(&new_terms)
    {
        let lists = [
            (&mut old_term.match_expressions, &new_term.match_expressions),
            (&mut old_term.match_fields, &new_term.match_fields),
        ];
        for (old, new) in lists {
            for (old, new) in old.iter_mut().flatten().zip(new.iter().flatten()) {
                if stable_label(&old.key) == Some(new.key.as_str()) {
                    old.key.clone_from(&new.key);
                }
            }
        }
    }
    meta::same(new, &renamed)
}
