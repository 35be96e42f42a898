//! Changing the resources of a running pod.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::resources;
use super::security;
use super::spec::{self, MIRROR_ANNOTATION, annotations};
use super::update::spec_of;
use super::view::{is_sidecar, items, text};
use crate::field::{Errors, Path};
use crate::meta;

type List = Option<BTreeMap<String, Quantity>>;

const ONLY_COMPUTE: &str = "only cpu and memory resources are mutable";

/// A write to `resize`.
pub(super) fn validate(new: &Pod, old: &Pod, errors: &mut Errors) {
    let (new_spec, old_spec) = (spec_of(new), spec_of(old));
    let (new_spec, old_spec) = (new_spec.as_ref(), old_spec.as_ref());
    if annotations(&old.metadata).contains_key(MIRROR_ANNOTATION) {
        errors.forbidden(&Path::empty(), "static pods cannot be resized");
        return;
    }
    if security::is_windows(old_spec) {
        errors.forbidden(&Path::empty(), "windows pods cannot be resized");
        return;
    }
    let before = errors.len();
    spec::validate_pod(new, new_spec, errors);
    let path = Path::root("spec");
    let class = |pod: &Pod| pod.status.as_ref().map_or(String::new(), |s| text(&s.qos_class).to_owned());
    let old_class = Some(class(old)).filter(|c| !c.is_empty());
    if old_class.as_deref().unwrap_or_else(|| resources::qos_class(old)) != resources::qos_class(new) {
        errors.invalid(&path, class(new), "Pod QOS Class may not change as a result of resizing");
    }
    if !node_can_resize(old) {
        errors.forbidden(&path, "Pod running on node without support for resize");
    }
    let mut rest = new_spec.clone();
    if has_pod_resources(old_spec) || has_pod_resources(new_spec) {
        validate_pod_level(&mut rest, old_spec, &path, errors);
    }
    let claims =
        old.status.as_ref().map_or(&[] as &[_], |s| items(&s.node_allocatable_resource_claim_statuses));
    if !claims.is_empty() {
        errors.forbidden(&path, "pods with node allocatable resource claims cannot be resized");
    }
    let (new_init, old_init) = (items(&new_spec.init_containers), items(&old_spec.init_containers));
    let aligned = same_containers(&new_spec.containers, &old_spec.containers, "containers", &path, errors)
        & same_containers(new_init, old_init, "initContainers", &path, errors);
    if !aligned {
        return;
    }
    validate_removals(new_init, old_init, &path.child("initContainers"), errors);
    validate_removals(&new_spec.containers, &old_spec.containers, &path.child("containers"), errors);
    for (new, old) in rest.containers.iter_mut().zip(&old_spec.containers) {
        keep_compute(new, old);
        if !meta::same(new, old) {
            errors.forbidden(&path, ONLY_COMPUTE);
        }
    }
    let init_path = path.child("initContainers");
    let rest_init = rest.init_containers.as_deref_mut().unwrap_or_default();
    for (i, (new, old)) in rest_init.iter_mut().zip(old_init).enumerate() {
        let path = init_path.index(i);
        let modified = !meta::same(new, old);
        keep_compute(new, old);
        if !meta::same(new, old) {
            let detail = "only cpu and memory resources for init or sidecar containers are mutable";
            errors.forbidden(&path, detail);
        }
        if modified && !is_sidecar(new) {
            let restarts = |p: &&_| -> bool {
                let policy: &k8s_openapi::api::core::v1::ContainerResizePolicy = p;
                policy.restart_policy == "RestartContainer"
            };
            for _ in items(&new.resize_policy).iter().filter(restarts) {
                let detail =
                    "non-sidecar init containers with a resize policy of RestartContainer cannot be resized";
                errors.forbidden(&path, detail);
            }
        }
    }
    if errors.len() == before && !meta::same(&rest, old_spec) {
        errors.forbidden(&path, ONLY_COMPUTE);
    }
}

fn has_pod_resources(spec: &PodSpec) -> bool {
    let given = |list: &List| list.as_ref().is_some_and(|l| !l.is_empty());
    spec.resources.as_ref().is_some_and(|r| given(&r.requests) || given(&r.limits))
}

/// Nodes that can resize report the resources of running containers.
fn node_can_resize(pod: &Pod) -> bool {
    let statuses = pod.status.as_ref().map_or(&[] as &[_], |s| items(&s.container_statuses));
    let running = statuses.iter().find(|c| c.state.as_ref().is_some_and(|s| s.running.is_some()));
    running.is_none_or(|c| c.resources.is_some())
}

fn removed(new: &List, old: &List) -> bool {
    let kept = |name: &String| new.as_ref().is_some_and(|l| l.contains_key(name));
    !old.iter().flatten().all(|(name, _)| kept(name))
}

fn validate_pod_level(rest: &mut PodSpec, old: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let resources_path = path.child("resources");
    match (&mut rest.resources, &old.resources) {
        (None, Some(_)) => errors.forbidden(&resources_path, "pod-level resources cannot be removed"),
        (Some(new), old_resources) => {
            let none = ResourceRequirements::default();
            let old = old_resources.as_ref().unwrap_or(&none);
            if removed(&new.requests, &old.requests) {
                let detail = "pod-level resource requests cannot be removed";
                errors.forbidden(&resources_path.child("requests"), detail);
            }
            if removed(&new.limits, &old.limits) {
                let detail = "pod-level resource limits cannot be removed";
                errors.forbidden(&resources_path.child("limits"), detail);
            }
            keep_compute_list(&mut new.requests, &old.requests);
            keep_compute_list(&mut new.limits, &old.limits);
            if old_resources.is_none() && *new == none {
                rest.resources = None;
            }
            if !meta::same(&rest.resources, old_resources) {
                errors.forbidden(path, "only cpu and memory resources are mutable at pod-level");
            }
        }
        (None, None) => {}
    }
}

/// Whether both lists name the same containers in the same order.
fn same_containers(
    new: &[Container],
    old: &[Container],
    name: &str,
    path: &Path<'_>,
    errors: &mut Errors,
) -> bool {
    let path = path.child(name);
    if new.len() != old.len() {
        errors.forbidden(&path, &format!("{name} may not be added or removed on resize"));
        return false;
    }
    let mut same = true;
    for (i, _) in new.iter().zip(old).enumerate().filter(|(_, (n, o))| n.name != o.name) {
        let detail = format!("{name} may not be renamed or reordered on resize");
        errors.forbidden(&path.index(i).child("name"), &detail);
        same = false;
    }
    same
}

fn validate_removals(new: &[Container], old: &[Container], path: &Path<'_>, errors: &mut Errors) {
    let none = ResourceRequirements::default();
    for (i, (new, old)) in new.iter().zip(old).enumerate() {
        let (new, old) = (new.resources.as_ref().unwrap_or(&none), old.resources.as_ref().unwrap_or(&none));
        let item_path = path.index(i);
        let path = item_path.child("resources");
        if removed(&new.requests, &old.requests) {
            errors.forbidden(&path.child("requests"), "resource requests cannot be removed");
        }
        if removed(&new.limits, &old.limits) {
            errors.forbidden(&path.child("limits"), "resource limits cannot be removed");
        }
    }
}

/// Takes cpu and memory from the old container, so that what then differs may not.
fn keep_compute(new: &mut Container, old: &Container) {
    let none = ResourceRequirements::default();
    let old = old.resources.as_ref().unwrap_or(&none);
    let new = new.resources.get_or_insert_default();
    keep_compute_list(&mut new.requests, &old.requests);
    keep_compute_list(&mut new.limits, &old.limits);
}

fn keep_compute_list(new: &mut List, old: &List) {
    let mut list = new.take().unwrap_or_default();
    for name in ["cpu", "memory"] {
        match old.as_ref().and_then(|l| l.get(name)) {
            Some(quantity) => _ = list.insert(name.to_owned(), quantity.clone()),
            None => _ = list.remove(name),
        }
    }
    *new = Some(list).filter(|l| !l.is_empty());
}
