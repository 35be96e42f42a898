//! Where public addresses lead. Pure.

use std::cmp::Reverse;

use jiff::Timestamp;
use skep_api::network::PublicPort;

/// A pod that an address may be for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Candidate {
    pub(super) name: String,
    pub(super) uid: String,
    /// The node that it runs on; empty before it is placed.
    pub(super) node: String,
    pub(super) created: Option<Timestamp>,
    pub(super) ready: bool,
    pub(super) deleting: bool,
    /// All of its containers have ended for good.
    pub(super) over: bool,
}

/// A node that may serve a service.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct NodeView {
    pub(super) name: String,
    pub(super) ready: bool,
    /// It says of itself that load balancers are to leave it out, or it is going.
    pub(super) excluded: bool,
    /// Whether an endpoint of the service is on it.
    pub(super) has_endpoint: bool,
}

/// Where an address leads.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Binding {
    pub(super) node: Option<String>,
    /// Name and uid.
    pub(super) pod: Option<(String, String)>,
    /// What is let through; none is everything.
    pub(super) ports: Option<Vec<PublicPort>>,
    pub(super) sources: Option<Vec<String>>,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Binding {
    pub(super) fn nowhere(reason: &'static str, message: impl Into<String>) -> Binding {
        Binding { reason, message: message.into(), ..Binding::default() }
    }

    pub(super) fn is_bound(&self) -> bool {
        self.node.is_some()
    }
}

/// The pod that an address is for. `holder` is the uid of the one that has it: it keeps it for as long as it is as good as any.
pub(super) fn pod(candidates: &[Candidate], holder: Option<&str>) -> Binding {
    let here = candidates.iter().filter(|c| !c.over && !c.node.is_empty());
    // In this order: one that is ready and stays, whoever has it already, the one that has been there longest.
    let best = here.max_by_key(|c| {
        let good = c.ready && !c.deleting;
        (good, holder == Some(c.uid.as_str()), !c.deleting, Reverse((c.created, c.name.clone())))
    });
    match best {
        Some(pod) => Binding {
            node: Some(pod.node.clone()),
            pod: Some((pod.name.clone(), pod.uid.clone())),
            reason: "PodFound",
            ..Binding::default()
        },
        None if candidates.is_empty() => {
            Binding::nowhere("PodNotFound", "there is no such pod; the address waits for one")
        }
        None => Binding::nowhere("PodNotRunning", "the pod is on no node, or has ended"),
    }
}

/// The node that a service's address leads to. One that has it keeps it while it can serve: connections would break otherwise.
pub(super) fn node<'a>(
    nodes: &'a [NodeView],
    local: bool,
    address: &str,
    holder: Option<&str>,
) -> Option<&'a str> {
    let able = nodes.iter().filter(|n| !n.excluded && (n.has_endpoint || !local));
    // One that is not ready serves better than none: it may only have been silent. Of several, those where an endpoint is are
    // taken, for it answers there; among these addresses are spread evenly, each for itself.
    let best = able.max_by_key(|n| {
        (n.ready, n.has_endpoint, holder == Some(n.name.as_str()), weight(address, &n.name), &n.name)
    });
    best.map(|n| n.name.as_str())
}

/// Where an address leads that a service is reached at.
pub(super) fn service(
    nodes: &[NodeView],
    local: bool,
    address: &str,
    holder: Option<&str>,
    ports: Vec<PublicPort>,
    sources: Vec<String>,
) -> Binding {
    let Some(node) = node(nodes, local, address, holder) else {
        return if nodes.iter().any(|n| !n.excluded) {
            Binding::nowhere(
                "NoEndpoints",
                "no node has an endpoint that is ready, and externalTrafficPolicy is Local",
            )
        } else {
            Binding::nowhere("NoNodes", "the tenant has no node that may serve")
        };
    };
    Binding {
        node: Some(node.to_owned()),
        ports: Some(ports),
        sources: (!sources.is_empty()).then_some(sources),
        reason: "NodeFound",
        ..Binding::default()
    }
}

/// A number for an address on a node, the same for all time: the node with the highest has the address (rendezvous hashing), so
/// that a node that comes or goes moves as few addresses as can be.
fn weight(address: &str, node: &str) -> u64 {
    let text = address.bytes().chain([0]).chain(node.bytes());
    let hash = text.fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    // FNV's upper bits follow the last bytes little: mixed once more.
    (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate(name: &str, created: i64, ready: bool) -> Candidate {
        Candidate {
            name: name.into(),
            uid: format!("u-{name}"),
            node: format!("n-{name}"),
            created: Some(Timestamp::from_second(created).unwrap()),
            ready,
            ..Candidate::default()
        }
    }

    fn chosen(all: &[Candidate], holder: Option<&str>) -> String {
        pod(all, holder).pod.map(|(name, _)| name).unwrap_or_default()
    }

    #[test]
    fn an_address_follows_pods() {
        let (old, new) = (candidate("old", 1, true), candidate("new", 2, true));
        let both = [new.clone(), old.clone()];
        assert_eq!(chosen(&both, None), "old", "the one that has been there longest");
        assert_eq!(chosen(&both, Some("u-new")), "new", "whoever has it keeps it");
        let unready = Candidate { ready: false, ..old.clone() };
        assert_eq!(chosen(&[unready.clone(), new.clone()], Some("u-old")), "new");
        assert_eq!(
            chosen(std::slice::from_ref(&unready), None),
            "old",
            "better one that is not ready than none"
        );
        let going = Candidate { deleting: true, ..old.clone() };
        assert_eq!(chosen(&[going.clone(), new], Some("u-old")), "new", "it is handed over before it ends");
        assert_eq!(chosen(std::slice::from_ref(&going), Some("u-old")), "old", "until it has ended");
        for gone in [Candidate { over: true, ..old.clone() }, Candidate { node: String::new(), ..old }] {
            let binding = pod(&[gone], Some("u-old"));
            assert_eq!((binding.node, binding.reason), (None, "PodNotRunning"));
        }
        assert_eq!(pod(&[], None).reason, "PodNotFound");
    }

    fn view(name: &str, ready: bool, has_endpoint: bool) -> NodeView {
        NodeView { name: name.into(), ready, excluded: false, has_endpoint }
    }

    #[test]
    fn a_service_is_served_where_it_can_be() {
        let nodes = [view("a", true, false), view("b", true, true), view("c", false, true)];
        let ip = "192.0.2.1";
        assert_eq!(node(&nodes, false, ip, None), Some("b"), "where an endpoint is");
        let two = [view("a", true, true), view("b", true, true)];
        for holder in ["a", "b"] {
            assert_eq!(node(&two, false, ip, Some(holder)), Some(holder), "connections stay where they are");
        }
        assert_eq!(
            node(&nodes[2..], false, ip, None),
            Some("c"),
            "better one that may only be silent than none"
        );
        assert_eq!(
            node(&nodes, true, ip, Some("a")),
            Some("b"),
            "a node without endpoints would answer nobody"
        );
        assert_eq!(node(&nodes, false, ip, Some("c")), Some("b"), "a node that is gone serves nobody");
        let excluded = [NodeView { excluded: true, ..nodes[1].clone() }];
        assert_eq!(node(&excluded, false, ip, None), None);
        assert_eq!(service(&excluded, false, ip, None, vec![], vec![]).reason, "NoNodes");
        assert_eq!(service(&nodes[..1], true, ip, None, vec![], vec![]).reason, "NoEndpoints");
    }

    #[test]
    fn addresses_are_spread() {
        let nodes: Vec<NodeView> = ["a", "b", "c", "d"].iter().map(|n| view(n, true, true)).collect();
        let mut found = std::collections::BTreeMap::<&str, usize>::new();
        for n in 0..200 {
            *found.entry(node(&nodes, false, &format!("192.0.2.{n}"), None).unwrap()).or_default() += 1;
        }
        assert!(found.len() == 4 && found.values().all(|n| *n > 25), "{found:?}");
    }

    proptest! {
        /// A second look changes nothing, and what is chosen can serve.
        #[test]
        fn a_choice_holds(
            nodes in prop::collection::btree_map("[a-e]", (any::<bool>(), any::<bool>(), any::<bool>()), 0..5),
            local: bool, holder in prop::option::of("[a-e]"),
        ) {
            let nodes: Vec<NodeView> = nodes.into_iter()
                .map(|(name, (ready, excluded, has_endpoint))| NodeView { name, ready, excluded, has_endpoint }).collect();
            let first = node(&nodes, local, "192.0.2.7", holder.as_deref());
            prop_assert_eq!(node(&nodes, local, "192.0.2.7", first), first);
            match first {
                Some(name) => {
                    let found = nodes.iter().find(|n| n.name == name).unwrap();
                    prop_assert!(!found.excluded && (found.has_endpoint || !local));
                    let better = nodes.iter().any(|n| n.ready && !n.excluded && (n.has_endpoint || !local));
                    prop_assert!(found.ready || !better, "a node that is not ready only serves where none is");
                }
                None => prop_assert!(!nodes.iter().any(|n| !n.excluded && (n.has_endpoint || !local))),
            }
        }
    }
}
