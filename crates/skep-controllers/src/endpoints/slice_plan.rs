//! Which slices a set of endpoints should be in: pure. As few writes as possible, and slices as full as possible.

use std::collections::BTreeMap;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort};

/// Most endpoints in a slice, as upstream's default.
pub(crate) const MAX_ENDPOINTS: usize = 100;

/// A slice that is there.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Existing {
    pub(crate) name: String,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) ports: Vec<EndpointPort>,
    /// Whether its labels are not what they should be.
    pub(crate) relabel: bool,
}

/// What is to be written.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// New slices.
    pub(crate) create: Vec<(Vec<EndpointPort>, Vec<Endpoint>)>,
    /// What a slice shall hold from now on.
    pub(crate) update: BTreeMap<String, (Vec<EndpointPort>, Vec<Endpoint>)>,
    /// Slices that go.
    pub(crate) delete: Vec<String>,
}

/// What makes two endpoints the same one, whatever its conditions.
fn identity(endpoint: &Endpoint) -> (Vec<String>, Option<String>, Option<String>) {
    let mut addresses = endpoint.addresses.clone();
    addresses.sort();
    let target = endpoint.target_ref.as_ref().and_then(|t| t.uid.clone());
    (addresses, endpoint.hostname.clone(), target)
}

/// Ports in one order, so that equal sets are equal.
pub(crate) fn sort_ports(ports: &mut [EndpointPort]) {
    ports.sort_by(|a, b| {
        let key = |p: &EndpointPort| (p.name.clone(), p.port, p.protocol.clone(), p.app_protocol.clone());
        key(a).cmp(&key(b))
    });
}

fn same_ports(a: &[EndpointPort], b: &[EndpointPort]) -> bool {
    let (mut a, mut b) = (a.to_vec(), b.to_vec());
    sort_ports(&mut a);
    sort_ports(&mut b);
    a == b
}

fn same(a: &Endpoint, b: &Endpoint) -> bool {
    let target = |e: &Endpoint| {
        e.target_ref.as_ref().map(|t| (t.kind.clone(), t.namespace.clone(), t.name.clone(), t.uid.clone()))
    };
    a.conditions == b.conditions
        && a.node_name == b.node_name
        && a.zone == b.zone
        && a.hints == b.hints
        && a.deprecated_topology == b.deprecated_topology
        && target(a) == target(b)
}

/// Computes what to write so that the slices hold the desired endpoints, each in a slice of its ports. With no endpoints
/// at all, one empty slice stays or is made, so that readers can tell "none" from "not known".
pub(crate) fn plan(desired: Vec<(Vec<EndpointPort>, Vec<Endpoint>)>, existing: &[Existing]) -> Plan {
    let mut plan = Plan::default();
    let mut taken = vec![false; existing.len()];
    let mut kept = 0;
    for (ports, endpoints) in desired {
        let group: Vec<usize> =
            (0..existing.len()).filter(|i| !taken[*i] && same_ports(&existing[*i].ports, &ports)).collect();
        group.iter().for_each(|i| taken[*i] = true);
        let group: Vec<&Existing> = group.into_iter().map(|i| &existing[i]).collect();
        kept += group_plan(&ports, endpoints, &group, &mut plan);
    }
    plan.delete.extend(existing.iter().zip(&taken).filter(|(_, t)| !**t).map(|(e, _)| e.name.clone()));
    // Each slice that would be made takes the place of one that would go: a write instead of two, and a stable name.
    while !plan.create.is_empty() && !plan.delete.is_empty() {
        if let (Some(content), Some(name)) = (plan.create.pop(), plan.delete.pop()) {
            plan.update.insert(name, content);
            kept += 1;
        }
    }
    if plan.create.is_empty() && kept == 0 {
        match plan.delete.pop() {
            Some(name) => {
                let placeholder = existing.iter().find(|e| e.name == name);
                let right =
                    placeholder.is_some_and(|e| e.endpoints.is_empty() && e.ports.is_empty() && !e.relabel);
                if !right {
                    plan.update.insert(name, (Vec::new(), Vec::new()));
                }
            }
            None => plan.create.push((Vec::new(), Vec::new())),
        }
    }
    plan
}

/// Plans the slices of one set of ports; returns how many that are there stay.
fn group_plan(
    ports: &[EndpointPort],
    endpoints: Vec<Endpoint>,
    group: &[&Existing],
    plan: &mut Plan,
) -> usize {
    let mut wanted: BTreeMap<_, Endpoint> = endpoints.into_iter().map(|e| (identity(&e), e)).collect();
    let mut kept = 0;
    let mut changed: Vec<(&str, Vec<Endpoint>)> = Vec::new();
    let mut unchanged: Vec<(&str, Vec<Endpoint>)> = Vec::new();
    for slice in group {
        let mut differs = slice.relabel;
        let mut now = Vec::with_capacity(slice.endpoints.len());
        for endpoint in &slice.endpoints {
            match wanted.remove(&identity(endpoint)) {
                Some(new) => {
                    differs |= !same(&new, endpoint);
                    now.push(new);
                }
                None => differs = true,
            }
        }
        if now.is_empty() {
            plan.delete.push(slice.name.clone());
            continue;
        }
        kept += 1;
        if differs { &mut changed } else { &mut unchanged }.push((&slice.name, now));
    }
    // Slices that are written anyway are filled first, the fullest before the others.
    changed.sort_by(|a, b| b.1.len().cmp(&a.1.len()).then(a.0.cmp(b.0)));
    for (_, held) in &mut changed {
        while held.len() < MAX_ENDPOINTS
            && let Some((_, endpoint)) = wanted.pop_first()
        {
            held.push(endpoint);
        }
    }
    while !wanted.is_empty() {
        // Then the one that becomes fullest by taking all the rest, then new ones.
        let fits = |held: &Vec<Endpoint>| held.len() + wanted.len() <= MAX_ENDPOINTS;
        let best = unchanged
            .iter()
            .enumerate()
            .filter(|(_, (_, held))| fits(held))
            .max_by(|(_, a), (_, b)| a.1.len().cmp(&b.1.len()).then(b.0.cmp(a.0)))
            .map(|(i, _)| i);
        match best {
            Some(i) => {
                let (name, mut held) = unchanged.swap_remove(i);
                held.extend(std::mem::take(&mut wanted).into_values());
                changed.push((name, held));
            }
            None => {
                let mut held = Vec::new();
                while held.len() < MAX_ENDPOINTS
                    && let Some((_, endpoint)) = wanted.pop_first()
                {
                    held.push(endpoint);
                }
                plan.create.push((ports.to_vec(), held));
            }
        }
    }
    for (name, held) in changed {
        plan.update.insert(name.to_owned(), (ports.to_vec(), held));
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn endpoint(n: usize, ready: bool) -> Endpoint {
        let mut e =
            Endpoint { addresses: vec![format!("10.0.{}.{}", n / 250, n % 250)], ..Endpoint::default() };
        e.conditions = Some(Default::default());
        if let Some(c) = &mut e.conditions {
            c.ready = Some(ready);
        }
        e
    }

    fn port(n: i32) -> Vec<EndpointPort> {
        vec![EndpointPort { port: Some(n), ..EndpointPort::default() }]
    }

    /// Carries a plan out.
    fn apply(existing: &[Existing], plan: &Plan, generation: &mut usize) -> Vec<Existing> {
        let mut next: BTreeMap<String, Existing> =
            existing.iter().map(|e| (e.name.clone(), Existing { relabel: false, ..e.clone() })).collect();
        for name in &plan.delete {
            next.remove(name).unwrap();
        }
        for (name, (ports, endpoints)) in &plan.update {
            let slice = next.get_mut(name).unwrap();
            (slice.ports, slice.endpoints) = (ports.clone(), endpoints.clone());
        }
        for (ports, endpoints) in &plan.create {
            *generation += 1;
            let name = format!("s{generation:04}");
            next.insert(
                name.clone(),
                Existing { name, endpoints: endpoints.clone(), ports: ports.clone(), relabel: false },
            );
        }
        next.into_values().collect()
    }

    proptest! {
        /// After any series of changes the slices hold exactly what is desired, none is too large, and planning again
        /// changes nothing.
        #[test]
        fn slices_hold_what_is_desired(
            rounds in proptest::collection::vec(proptest::collection::btree_map(0usize..450, (any::<bool>(), 0i32..2), 0..300), 1..6)
        ) {
            let mut existing: Vec<Existing> = Vec::new();
            let mut generation = 0;
            for round in rounds {
                let desired: Vec<_> = (0..2)
                    .map(|p| {
                        let of: Vec<_> =
                            round.iter().filter(|(_, (_, q))| *q == p).map(|(n, (r, _))| endpoint(*n, *r)).collect();
                        (port(p), of)
                    })
                    .filter(|(_, e)| !e.is_empty())
                    .collect();
                let p = plan(desired.clone(), &existing);
                existing = apply(&existing, &p, &mut generation);
                prop_assert!(plan(desired, &existing) == Plan::default());
                let held: BTreeSet<_> = existing
                    .iter()
                    .flat_map(|s| s.endpoints.iter().map(|e| (e.addresses[0].clone(), e.conditions.as_ref().unwrap().ready, s.ports[0].port)))
                    .collect();
                let wanted: BTreeSet<_> =
                    round.iter().map(|(n, (r, p))| (endpoint(*n, *r).addresses[0].clone(), Some(*r), Some(*p))).collect();
                prop_assert_eq!(held, wanted);
                prop_assert!(existing.iter().all(|s| s.endpoints.len() <= MAX_ENDPOINTS));
                prop_assert!(!existing.is_empty());
                let total: usize = existing.iter().map(|s| s.endpoints.len()).sum();
                prop_assert_eq!(total, round.len());
            }
        }
    }

    #[test]
    fn one_change_writes_one_slice() {
        let all: Vec<_> = (0..250).map(|n| endpoint(n, true)).collect();
        let mut generation = 0;
        let existing = apply(&[], &plan(vec![(port(1), all.clone())], &[]), &mut generation);
        assert_eq!(existing.len(), 3);
        let mut fewer = all.clone();
        fewer[7] = endpoint(7, false);
        let p = plan(vec![(port(1), fewer)], &existing);
        assert_eq!((p.create.len(), p.update.len(), p.delete.len()), (0, 1, 0));
        let mut more = all;
        more.push(endpoint(300, true));
        let p = plan(vec![(port(1), more)], &existing);
        assert_eq!((p.create.len(), p.update.len(), p.delete.len()), (0, 1, 0));
        let p = plan(Vec::new(), &existing);
        assert_eq!((p.create.len(), p.update.len(), p.delete.len()), (0, 1, 2), "an empty one stays");
    }
}
