//! What is programmed, and the changes from it to what is wanted.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use super::desired::{Desired, Group, GroupKey, Target};
use super::{Family, Frontend, L4};

/// The number of a group in the tables of its family.
pub type GroupId = u32;

/// Namespace and name of a service.
pub type ServiceKey = (String, String);

/// How a place in a group is picked: a chain of rules for each that occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pick {
    /// The family.
    pub family: Family,
    /// Of how many places.
    pub count: u32,
    /// How long a client stays, in seconds.
    pub affinity_s: Option<u32>,
    /// Whether the client's address is hidden.
    pub masquerade: bool,
}

/// One change of the kernel's tables. They are to be made in order, in one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A way to pick is needed for the first time.
    AddPick(Pick),
    /// Nobody needs a way to pick any more. It comes after what used it has gone.
    RemovePick(Pick),
    /// A group picks in a way.
    SetGroup(GroupId, Pick),
    /// A group picked in a way, and goes or will pick otherwise.
    RemoveGroup(GroupId, Pick),
    /// At a place of a group stands an endpoint.
    SetEndpoint(Family, GroupId, u32, SocketAddr),
    /// At a place of a group stood an endpoint.
    RemoveEndpoint(Family, GroupId, u32, SocketAddr),
    /// A client that stays with this endpoint of the group may go on to.
    AddLive(GroupId, SocketAddr),
    /// Not any more.
    RemoveLive(GroupId, SocketAddr),
    /// A frontend leads to a group.
    SetFrontend(Frontend, GroupId),
    /// A frontend led to a group.
    RemoveFrontend(Frontend, GroupId),
    /// Nobody is behind a frontend; whether the client is told.
    SetEmpty(Frontend, bool),
    /// Somebody is again, or the frontend is gone.
    RemoveEmpty(Frontend, bool),
    /// An endpoint of this machine may come to itself.
    AddHairpin(IpAddr),
    /// There is no such endpoint any more.
    RemoveHairpin(IpAddr),
    /// Packets of a protocol without connections must not go on to an endpoint that is gone: what is remembered of
    /// them is to be forgotten. It comes after the transaction.
    Forget(L4, SocketAddr),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Programmed {
    id: GroupId,
    pick: Pick,
    /// By place.
    endpoints: Vec<SocketAddr>,
    local: BTreeSet<IpAddr>,
}

#[derive(Clone, Debug, Default)]
struct Entry {
    frontends: BTreeMap<Frontend, Leads>,
    groups: BTreeMap<GroupKey, Programmed>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leads {
    To(GroupId),
    Nowhere { told: bool },
}

/// What nobody needs any more at the end of a change: it goes last, and may be needed again before.
#[derive(Default)]
struct Late {
    picks: BTreeSet<Pick>,
    hairpins: BTreeSet<IpAddr>,
}

/// All services that are programmed.
#[derive(Clone, Debug, Default)]
pub struct Table {
    services: HashMap<ServiceKey, Entry>,
    picks: HashMap<Pick, usize>,
    hairpins: HashMap<IpAddr, usize>,
    /// Who has a frontend: the first that asked. Two services may name the same external address.
    owners: HashMap<Frontend, ServiceKey>,
    free: Vec<GroupId>,
    last: GroupId,
}

impl Table {
    /// How many services there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.services.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// The changes that bring one service to what is wanted; nothing wanted removes it. The table is taken as
    /// changed: if the kernel refuses, it is to be built anew.
    pub fn set(&mut self, key: &ServiceKey, wanted: &Desired) -> Vec<Change> {
        let mut entry = self.services.remove(key).unwrap_or_default();
        let mut changes = Vec::new();
        // Frontends that go or change lead nowhere before their groups go.
        let mut frontends: Vec<(Frontend, &Target)> = Vec::new();
        for (frontend, target) in &wanted.frontends {
            if self.owners.get(frontend).is_none_or(|owner| owner == key) {
                frontends.push((*frontend, target));
            }
        }
        let mut ids: BTreeMap<&GroupKey, GroupId> = BTreeMap::new();
        let mut forget = Vec::new();
        let mut late = Late::default();
        for (group_key, group) in &wanted.groups {
            let old = entry.groups.remove(group_key);
            let new = self.set_group(group_key, group, old, &mut changes, &mut late, &mut forget);
            ids.insert(group_key, new.id);
            entry.groups.insert(group_key.clone(), new);
        }
        let leads = |target: &Target| match target {
            Target::Group(group) => ids.get(group).map_or(Leads::Nowhere { told: true }, |id| Leads::To(*id)),
            Target::Reject => Leads::Nowhere { told: true },
            Target::Drop => Leads::Nowhere { told: false },
        };
        let new: BTreeMap<Frontend, Leads> = frontends.iter().map(|(f, t)| (*f, leads(t))).collect();
        for (frontend, old) in &entry.frontends {
            if new.get(frontend) != Some(old) {
                changes.push(match *old {
                    Leads::To(id) => Change::RemoveFrontend(*frontend, id),
                    Leads::Nowhere { told } => Change::RemoveEmpty(*frontend, told),
                });
            }
            if !new.contains_key(frontend) {
                self.owners.remove(frontend);
            }
        }
        for (frontend, lead) in &new {
            if entry.frontends.get(frontend) != Some(lead) {
                changes.push(match *lead {
                    Leads::To(id) => Change::SetFrontend(*frontend, id),
                    Leads::Nowhere { told } => Change::SetEmpty(*frontend, told),
                });
            }
            self.owners.insert(*frontend, key.clone());
        }
        entry.frontends = new;
        let gone: Vec<GroupKey> =
            entry.groups.keys().filter(|k| !wanted.groups.contains_key(*k)).cloned().collect();
        for group_key in gone {
            if let Some(old) = entry.groups.remove(&group_key) {
                self.remove_group(&group_key, old, &mut changes, &mut late, &mut forget);
            }
        }
        changes.extend(late.picks.into_iter().map(Change::RemovePick));
        changes.extend(late.hairpins.into_iter().map(Change::RemoveHairpin));
        changes.extend(forget);
        if !entry.frontends.is_empty() || !entry.groups.is_empty() {
            self.services.insert(key.clone(), entry);
        }
        changes
    }

    fn set_group(
        &mut self,
        key: &GroupKey,
        group: &Group,
        old: Option<Programmed>,
        changes: &mut Vec<Change>,
        late: &mut Late,
        forget: &mut Vec<Change>,
    ) -> Programmed {
        // Fewer endpoints than the kernel can count: a group of four billion does not fit into memory.
        let count = u32::try_from(group.endpoints.len()).unwrap_or(u32::MAX);
        let pick =
            Pick { family: key.family, count, affinity_s: group.affinity_s, masquerade: group.masquerade };
        let is_new = old.is_none();
        let mut now = old.unwrap_or_else(|| Programmed {
            id: self.new_id(),
            pick,
            endpoints: Vec::new(),
            local: BTreeSet::new(),
        });
        let id = now.id;
        let wanted: BTreeSet<SocketAddr> = group.endpoints.iter().copied().collect();
        let had: BTreeSet<SocketAddr> = now.endpoints.iter().copied().collect();
        let staying = |pick: &Pick| pick.affinity_s.is_some();
        for gone in had.difference(&wanted) {
            let Some(place) = now.endpoints.iter().position(|e| e == gone) else { continue };
            let last = now.endpoints.len() - 1;
            changes.push(Change::RemoveEndpoint(key.family, id, place as u32, *gone));
            now.endpoints.swap_remove(place);
            if place != last {
                // The last one takes the place that became free.
                let moved = now.endpoints[place];
                changes.push(Change::RemoveEndpoint(key.family, id, last as u32, moved));
                changes.push(Change::SetEndpoint(key.family, id, place as u32, moved));
            }
            if staying(&now.pick) {
                changes.push(Change::RemoveLive(id, *gone));
            }
            if key.protocol == L4::Udp {
                forget.push(Change::Forget(key.protocol, *gone));
            }
        }
        for new in wanted.difference(&had) {
            changes.push(Change::SetEndpoint(key.family, id, now.endpoints.len() as u32, *new));
            now.endpoints.push(*new);
            if staying(&now.pick) {
                changes.push(Change::AddLive(id, *new));
            }
        }
        if is_new || now.pick != pick {
            if staying(&now.pick) != staying(&pick) {
                let live = |e: &SocketAddr| {
                    if staying(&pick) { Change::AddLive(id, *e) } else { Change::RemoveLive(id, *e) }
                };
                changes.extend(now.endpoints.iter().map(live));
            }
            self.take_pick(pick, changes, late);
            if !is_new {
                changes.push(Change::RemoveGroup(id, now.pick));
                self.drop_pick(now.pick, late);
            }
            changes.push(Change::SetGroup(id, pick));
            now.pick = pick;
        }
        let local: BTreeSet<IpAddr> = group.local.iter().map(SocketAddr::ip).collect();
        for ip in now.local.difference(&local) {
            self.drop_hairpin(*ip, late);
        }
        for ip in local.difference(&now.local) {
            self.take_hairpin(*ip, changes, late);
        }
        now.local = local;
        now
    }

    fn remove_group(
        &mut self,
        key: &GroupKey,
        old: Programmed,
        changes: &mut Vec<Change>,
        late: &mut Late,
        forget: &mut Vec<Change>,
    ) {
        changes.push(Change::RemoveGroup(old.id, old.pick));
        for (place, endpoint) in old.endpoints.iter().enumerate() {
            changes.push(Change::RemoveEndpoint(key.family, old.id, place as u32, *endpoint));
            if old.pick.affinity_s.is_some() {
                changes.push(Change::RemoveLive(old.id, *endpoint));
            }
            if key.protocol == L4::Udp {
                forget.push(Change::Forget(key.protocol, *endpoint));
            }
        }
        for ip in old.local {
            self.drop_hairpin(ip, late);
        }
        self.drop_pick(old.pick, late);
        self.free.push(old.id);
    }

    fn new_id(&mut self) -> GroupId {
        self.free.pop().unwrap_or_else(|| {
            self.last += 1;
            self.last
        })
    }

    fn take_pick(&mut self, pick: Pick, changes: &mut Vec<Change>, late: &mut Late) {
        let users = self.picks.entry(pick).or_default();
        *users += 1;
        if *users == 1 && !late.picks.remove(&pick) {
            changes.push(Change::AddPick(pick));
        }
    }

    fn drop_pick(&mut self, pick: Pick, late: &mut Late) {
        if let Some(users) = self.picks.get_mut(&pick) {
            *users -= 1;
            if *users == 0 {
                self.picks.remove(&pick);
                late.picks.insert(pick);
            }
        }
    }

    fn take_hairpin(&mut self, ip: IpAddr, changes: &mut Vec<Change>, late: &mut Late) {
        let users = self.hairpins.entry(ip).or_default();
        *users += 1;
        if *users == 1 && !late.hairpins.remove(&ip) {
            changes.push(Change::AddHairpin(ip));
        }
    }

    fn drop_hairpin(&mut self, ip: IpAddr, late: &mut Late) {
        if let Some(users) = self.hairpins.get_mut(&ip) {
            *users -= 1;
            if *users == 0 {
                self.hairpins.remove(&ip);
                late.hairpins.insert(ip);
            }
        }
    }
}
