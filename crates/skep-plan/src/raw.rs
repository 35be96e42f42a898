//! A pod as its JSON says it, as far as any controller reads it.
//!
//! There are so many pods, and each of them changes so often, that it counts how often one is read: whoever holds
//! several things of a pod reads it once, as this, and takes them from here. Texts are borrowed from the JSON where they can be.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use skep_base::SharedStr;

use crate::labels::Labels;
use crate::time::Time;

/// A text that stays where it is while it is looked at. `null` is an empty one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text<'a>(pub Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text<'a>, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
            fn visit_string<E>(self, text: String) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text)))
            }
            fn visit_unit<E>(self) -> Result<Text<'de>, E> {
                Ok(Text::default())
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// A list; `null` is an empty one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct All<T>(pub Vec<T>);

impl<T> Default for All<T> {
    fn default() -> All<T> {
        All(Vec::new())
    }
}

impl<T> Deref for All<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<'a, T> IntoIterator for &'a All<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for All<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<All<T>, D::Error> {
        struct Reader<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Reader<T> {
            type Value = All<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<All<T>, A::Error> {
                let mut all = Vec::new();
                while let Some(one) = seq.next_element()? {
                    all.push(one);
                }
                Ok(All(all))
            }
            fn visit_unit<E>(self) -> Result<All<T>, E> {
                Ok(All::default())
            }
        }
        deserializer.deserialize_any(Reader(std::marker::PhantomData))
    }
}

/// Declares structs of which every field may be missing.
macro_rules! raw {
    ($($(#[$doc:meta])* $name:ident $(<$life:lifetime>)? { $($(#[$fdoc:meta])* $field:ident : $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name $(<$life>)? { $($(#[$fdoc])* pub $field: $type,)* }
    )*};
}

raw! {
    /// The pod.
    Pod<'a> {
        /// `metadata`.
        #[serde(borrow)]
        metadata: Meta<'a>,
        /// `spec`.
        #[serde(borrow)]
        spec: Spec<'a>,
        /// `status`.
        #[serde(borrow)]
        status: Status<'a>,
    }
    /// `metadata`.
    Meta<'a> {
        /// Its name.
        #[serde(borrow)]
        name: Text<'a>,
        /// Its uid.
        #[serde(borrow)]
        uid: Text<'a>,
        /// Its labels.
        labels: Labels,
        /// Those of its annotations that somebody reads.
        #[serde(borrow)]
        annotations: Option<Annotations<'a>>,
        /// Its owners.
        #[serde(borrow)]
        owner_references: All<Owner<'a>>,
        /// What keeps it.
        finalizers: All<SharedStr>,
        /// Since when it exists.
        creation_timestamp: Option<Time>,
        /// When it ends, if it does.
        deletion_timestamp: Option<Time>,
        /// How long it may take to end.
        deletion_grace_period_seconds: Option<i64>,
    }
    /// Annotations.
    Annotations<'a> {
        /// What it costs to give this pod up.
        #[serde(rename = "controller.kubernetes.io/pod-deletion-cost", borrow)]
        deletion_cost: Option<Text<'a>>,
        /// Job: its completion.
        #[serde(rename = "batch.kubernetes.io/job-completion-index", borrow)]
        index: Option<Text<'a>>,
        /// Job: failures of the index before it.
        #[serde(rename = "batch.kubernetes.io/job-index-failure-count", borrow)]
        index_failures: Option<Text<'a>>,
        /// Job: ignored failures of the index before it.
        #[serde(rename = "batch.kubernetes.io/job-index-ignored-failure-count", borrow)]
        index_ignored_failures: Option<Text<'a>>,
        /// Set on what shows a static pod.
        #[serde(rename = "kubernetes.io/config.mirror")]
        mirror: Option<IgnoredAny>,
    }
    /// An owner.
    Owner<'a> {
        /// Group and version.
        #[serde(borrow)]
        api_version: Text<'a>,
        /// Kind.
        #[serde(borrow)]
        kind: Text<'a>,
        /// Name.
        #[serde(borrow)]
        name: Text<'a>,
        /// Uid.
        #[serde(borrow)]
        uid: Text<'a>,
        /// Whether it manages the pod.
        controller: Option<bool>,
        /// Whether its foreground deletion waits for the pod.
        block_owner_deletion: Option<bool>,
    }
    /// `spec`.
    Spec<'a> {
        /// Where it is to run.
        #[serde(borrow)]
        node_name: Text<'a>,
        /// Its own name in the network.
        #[serde(borrow)]
        hostname: Text<'a>,
        /// The service that gives it a name.
        #[serde(borrow)]
        subdomain: Text<'a>,
        /// Taints that it puts up with.
        tolerations: All<Toleration>,
        /// Its containers.
        #[serde(borrow)]
        containers: All<Container<'a>>,
        /// Those that run before.
        #[serde(borrow)]
        init_containers: All<Container<'a>>,
        /// What it takes beside its containers.
        overhead: Labels,
        /// What it asks for as a whole.
        resources: Option<Resources>,
        /// Its volumes.
        #[serde(borrow)]
        volumes: All<Volume<'a>>,
        /// Labels that its node must have.
        node_selector: Labels,
        /// On which nodes it may run.
        #[serde(borrow)]
        affinity: Option<Affinity<'a>>,
        /// What keeps it from being scheduled.
        scheduling_gates: All<IgnoredAny>,
    }
    /// A taint that a pod puts up with.
    #[derive(PartialEq, Eq, Hash)]
    Toleration {
        /// Which.
        key: Option<SharedStr>,
        /// How it is compared.
        operator: Option<SharedStr>,
        /// With what.
        value: Option<SharedStr>,
        /// Which effect.
        effect: Option<SharedStr>,
        /// For how long.
        toleration_seconds: Option<i64>,
    }
    /// A container.
    Container<'a> {
        /// Its name.
        #[serde(borrow)]
        name: Text<'a>,
        /// `Always` for an init container that keeps running.
        #[serde(borrow)]
        restart_policy: Option<Text<'a>>,
        /// Its ports.
        ports: All<Port>,
        /// What it asks for.
        resources: Option<Resources>,
    }
    /// A port of a container.
    #[derive(PartialEq, Eq, Hash)]
    Port {
        /// Its name.
        name: Option<SharedStr>,
        /// Its number.
        container_port: i32,
        /// Its protocol.
        protocol: Option<SharedStr>,
    }
    /// Resources.
    Resources {
        /// What is asked for, by name.
        requests: Labels,
    }
    /// A volume.
    Volume<'a> {
        /// Its name.
        #[serde(borrow)]
        name: Text<'a>,
        /// The claim that it is.
        #[serde(borrow)]
        persistent_volume_claim: Option<Claim<'a>>,
    }
    /// A volume's claim.
    Claim<'a> {
        /// Its name.
        #[serde(borrow)]
        claim_name: Text<'a>,
    }
    /// Affinities.
    Affinity<'a> {
        /// To nodes.
        #[serde(borrow)]
        node_affinity: Option<NodeAffinity<'a>>,
    }
    /// Affinity to nodes.
    NodeAffinity<'a> {
        /// What must be.
        #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution", borrow)]
        required: Option<NodeSelector<'a>>,
    }
    /// Terms, one of which must hold.
    NodeSelector<'a> {
        /// They.
        #[serde(borrow)]
        node_selector_terms: All<Term<'a>>,
    }
    /// Conditions that must all hold.
    Term<'a> {
        /// On labels.
        #[serde(borrow)]
        match_expressions: All<Requirement<'a>>,
        /// On fields.
        #[serde(borrow)]
        match_fields: All<Requirement<'a>>,
    }
    /// A condition on a label or a field.
    Requirement<'a> {
        /// Which.
        #[serde(borrow)]
        key: Text<'a>,
        /// How.
        #[serde(borrow)]
        operator: Text<'a>,
        /// With what.
        #[serde(borrow)]
        values: All<Text<'a>>,
    }
    /// `status`.
    Status<'a> {
        /// Where in its life it is.
        #[serde(borrow)]
        phase: Text<'a>,
        /// Its address.
        #[serde(rename = "podIP", borrow)]
        pod_ip: Text<'a>,
        /// Its addresses.
        #[serde(rename = "podIPs", borrow)]
        pod_ips: All<PodIp<'a>>,
        /// What is true of it.
        #[serde(borrow)]
        conditions: All<Condition<'a>>,
        /// When its node took it up.
        start_time: Option<Time>,
        /// Of its containers.
        #[serde(borrow)]
        container_statuses: All<ContainerStatus<'a>>,
        /// Of those that run before.
        #[serde(borrow)]
        init_container_statuses: All<ContainerStatus<'a>>,
    }
    /// An address.
    PodIp<'a> {
        /// It.
        #[serde(borrow)]
        ip: Text<'a>,
    }
    /// A condition.
    Condition<'a> {
        /// Of what.
        #[serde(rename = "type", borrow)]
        kind: Text<'a>,
        /// `True`, `False` or `Unknown`.
        #[serde(borrow)]
        status: Text<'a>,
        /// Why.
        #[serde(borrow)]
        reason: Text<'a>,
        /// Since when.
        last_transition_time: Option<Time>,
    }
    /// A container's status.
    ContainerStatus<'a> {
        /// Its name.
        #[serde(borrow)]
        name: Text<'a>,
        /// How often it was started anew.
        restart_count: i32,
        /// What it does.
        state: Option<State>,
    }
    /// What a container does.
    State {
        /// It has ended.
        terminated: Option<Terminated>,
    }
    /// How a container has ended.
    Terminated {
        /// With which code.
        exit_code: i32,
        /// When.
        finished_at: Option<Time>,
    }
}
