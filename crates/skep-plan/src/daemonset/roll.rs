//! Replacing daemons of an old revision, some at a time.

use super::{Plan, Strategy, Sync};
use crate::pod::Pod;
use crate::revision::POD_REVISION;

/// The pods of a node that are not on their way out: the new one and the old one. `None`: there are two of a sort, which is
/// to be cleared first.
type Pair<'a> = Option<(Option<&'a Pod>, Option<&'a Pod>)>;

fn pair<'a>(pods: &[&'a Pod], hash: &str) -> Pair<'a> {
    let (mut new, mut old) = (None, None);
    for pod in pods.iter().copied().filter(|p| p.deleted.is_none()) {
        let place = if pod.labels.get(POD_REVISION) == Some(hash) { &mut new } else { &mut old };
        if place.replace(pod).is_some() {
            return None;
        }
    }
    Some((new, old))
}

impl<'a> Sync<'_, 'a> {
    pub(super) fn roll(&self, plan: &mut Plan<'a>) {
        let Strategy::RollingUpdate { max_surge, max_unavailable } = self.set.strategy else { return };
        let fitting = self.nodes.iter().filter(|n| self.placement.fits(n).0).count();
        let desired = i32::try_from(fitting).unwrap_or(i32::MAX);
        let surge = usize::try_from(max_surge.up(desired)).unwrap_or(0);
        let mut unavailable = usize::try_from(max_unavailable.up(desired)).unwrap_or(0);
        if desired > 0 && surge == 0 && unavailable == 0 {
            unavailable = 1;
        }
        if surge == 0 { self.replace(unavailable, plan) } else { self.surge(surge, fitting, plan) }
    }

    /// Old pods go first, new ones follow.
    fn replace(&self, max_unavailable: usize, plan: &mut Plan<'a>) {
        let mut missing = 0;
        let mut useless = Vec::new();
        let mut candidates = Vec::new();
        for pods in self.by_node.values() {
            match pair(pods, &plan.hash) {
                Some((None, Some(old))) if self.is_available(old) => candidates.push(old),
                Some((None, Some(old))) => {
                    useless.push(old);
                    missing += 1;
                }
                Some((Some(new), None)) if self.is_available(new) => {}
                _ => missing += 1,
            }
        }
        // Nodes that should have a pod and have none at all are missing too.
        let bare = |n: &&&super::Node| self.placement.fits(n).0 && !self.by_node.contains_key(&*n.name);
        missing += self.nodes.iter().filter(bare).count();
        plan.delete.extend(useless);
        plan.delete.extend(candidates.into_iter().take(max_unavailable.saturating_sub(missing)));
    }

    /// New pods come first, old ones go when the new ones work.
    fn surge(&self, max_surge: usize, desired: usize, plan: &mut Plan<'a>) {
        let mut surging = 0;
        let mut available = 0;
        let mut displaced = Vec::new();
        let mut candidates = Vec::new();
        for (node_name, pods) in &self.by_node {
            let Some((new, old)) = pair(pods, &plan.hash) else {
                surging += 1;
                continue;
            };
            available += usize::from(old.or(new).is_some_and(|p| self.is_available(p)));
            let Some(old) = old else { continue };
            let wanted = self.named.get(node_name).is_some_and(|n| self.placement.fits(n).0);
            match new {
                Some(new) if self.is_available(new) => plan.delete.push(old),
                Some(_) => surging += 1,
                None if self.is_available(old) && wanted => candidates.push(*node_name),
                None if self.is_available(old) => displaced.push(old),
                // A pod that serves nobody costs no surge.
                None if wanted => plan.create.push((*node_name).into()),
                None => plan.delete.push(old),
            }
        }
        // Those that no longer belong on their node stay until others do their work.
        plan.delete.extend(displaced.into_iter().take(available.saturating_sub(desired)));
        let names = candidates.into_iter().take(max_surge.saturating_sub(surging));
        plan.create.extend(names.map(Into::into));
    }
}
