//! Reading a pod spec as its fields mean it: an absent text is empty, an absent list has no elements, an
//! ephemeral container is a container.

use std::collections::HashMap;
use std::hash::Hash;

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EnvVar, EphemeralContainer, PodSpec, ResourceRequirements, SecurityContext,
    VolumeDevice,
};

use crate::field::Path;

/// An absent text is empty.
pub(super) fn text(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or("")
}

/// An absent list has no elements.
pub(super) fn items<T>(list: &Option<Vec<T>>) -> &[T] {
    list.as_deref().unwrap_or(&[])
}

/// An absent flag is off.
pub(super) fn yes(flag: Option<bool>) -> bool {
    flag.unwrap_or(false)
}

/// How many keys a [`SmallMap`] searches one by one; nearly every pod has fewer of anything.
const FEW: usize = 12;

/// A map that allocates nothing while it is small, and stays fast when somebody sends thousands of
/// elements (a plain search would then take quadratic time).
pub(super) struct SmallMap<K, V> {
    // Not a small vector type: those are invariant in `K`, and names with different lifetimes would not mix.
    few: [Option<(K, V)>; FEW],
    len: usize,
    many: HashMap<K, V>,
}

impl<K: Copy + Eq + Hash, V: Copy> SmallMap<K, V> {
    pub(super) fn new() -> Self {
        SmallMap { few: [None; FEW], len: 0, many: HashMap::new() }
    }

    /// Adds the key unless it is there; says whether it was added.
    pub(super) fn insert(&mut self, key: K, value: V) -> bool {
        if self.has(key) {
            return false;
        }
        if self.len < FEW {
            self.few[self.len] = Some((key, value));
            self.len += 1;
        } else {
            self.many.insert(key, value);
        }
        true
    }

    pub(super) fn get(&self, key: K) -> Option<V> {
        let few = self.few[..self.len].iter().flatten();
        let found = few.copied().find(|(k, _)| *k == key).map(|(_, v)| v);
        if found.is_some() || self.many.is_empty() {
            return found;
        }
        self.many.get(&key).copied()
    }

    pub(super) fn has(&self, key: K) -> bool {
        self.get(key).is_some()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Names that have been seen.
pub(super) type Names<'a> = SmallMap<&'a str, ()>;

impl<'a> Names<'a> {
    /// Notes the name; `false` when it was there already.
    pub(super) fn add(&mut self, name: &'a str) -> bool {
        self.insert(name, ())
    }
}

/// What checks that do not care about the sort of a container read.
pub(super) struct ContainerView<'a> {
    pub(super) name: &'a str,
    pub(super) env: &'a [EnvVar],
    pub(super) ports: &'a [ContainerPort],
    pub(super) resources: Option<&'a ResourceRequirements>,
    pub(super) security_context: Option<&'a SecurityContext>,
    pub(super) volume_devices: &'a [VolumeDevice],
}

macro_rules! view {
    ($c:expr) => {
        ContainerView {
            name: &$c.name,
            env: items(&$c.env),
            ports: items(&$c.ports),
            resources: $c.resources.as_ref(),
            security_context: $c.security_context.as_ref(),
            volume_devices: items(&$c.volume_devices),
        }
    };
}

/// Calls `visit` for init, ordinary and ephemeral containers, in this order, with their paths.
pub(super) fn visit_containers<'a>(
    spec: &'a PodSpec,
    path: &Path<'_>,
    mut visit: impl FnMut(ContainerView<'a>, &Path<'_>),
) {
    let init = path.child("initContainers");
    for (i, c) in items(&spec.init_containers).iter().enumerate() {
        visit(view!(c), &init.index(i));
    }
    let containers = path.child("containers");
    for (i, c) in spec.containers.iter().enumerate() {
        visit(view!(c), &containers.index(i));
    }
    let ephemeral = path.child("ephemeralContainers");
    for (i, c) in items(&spec.ephemeral_containers).iter().enumerate() {
        visit(view!(c), &ephemeral.index(i));
    }
}

/// The fields that containers and ephemeral containers share.
macro_rules! common_fields {
    ($do:ident) => {
        $do!(
            args,
            command,
            env,
            env_from,
            image,
            image_pull_policy,
            lifecycle,
            liveness_probe,
            name,
            ports,
            readiness_probe,
            resize_policy,
            resources,
            restart_policy,
            restart_policy_rules,
            security_context,
            startup_probe,
            stdin,
            stdin_once,
            termination_message_path,
            termination_message_policy,
            tty,
            volume_devices,
            volume_mounts,
            working_dir
        )
    };
}

/// Lets `change` work on an ephemeral container as a container.
pub(super) fn with_container(ephemeral: &mut EphemeralContainer, change: impl FnOnce(&mut Container)) {
    macro_rules! take {
        ($($field:ident),*) => { Container { $($field: std::mem::take(&mut ephemeral.$field)),* } };
    }
    let mut container = common_fields!(take);
    change(&mut container);
    macro_rules! put {
        ($($field:ident),*) => { $(ephemeral.$field = container.$field;)* };
    }
    common_fields!(put);
}

/// A copy of an ephemeral container as a container.
pub(super) fn to_container(ephemeral: &EphemeralContainer) -> Container {
    macro_rules! copy {
        ($($field:ident),*) => { Container { $($field: ephemeral.$field.clone()),* } };
    }
    common_fields!(copy)
}

/// Whether an init container runs beside the others: a sidecar.
pub(super) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_map_finds_few_and_many() {
        let keys: Vec<String> = (0..100).map(|i| i.to_string()).collect();
        let mut map = SmallMap::new();
        for (i, key) in keys.iter().enumerate() {
            assert!(map.insert(key.as_str(), i));
            assert!(!map.insert(key.as_str(), 1000));
        }
        for (i, key) in keys.iter().enumerate() {
            assert_eq!(map.get(key.as_str()), Some(i));
        }
        assert!(!map.has("100"));
    }

    #[test]
    fn an_ephemeral_container_keeps_every_field() {
        let mut ephemeral = EphemeralContainer {
            name: "debug".into(),
            image: Some("busybox".into()),
            tty: Some(true),
            target_container_name: Some("main".into()),
            ..Default::default()
        };
        assert_eq!(to_container(&ephemeral).image.as_deref(), Some("busybox"));
        with_container(&mut ephemeral, |c| c.stdin = Some(true));
        assert_eq!((ephemeral.tty, ephemeral.stdin), (Some(true), Some(true)));
        assert_eq!(ephemeral.target_container_name.as_deref(), Some("main"));
        assert_eq!(ephemeral.name, "debug");
    }
}
