//! Which nodes are played.

use parking_lot::RwLock;
use rustc_hash::FxHashMap;
use skep_base::TenantName;

/// The nodes that are played.
#[derive(Debug)]
pub(crate) enum Fleet {
    /// So many in each tenant, by consecutive numbers: however many there are, they take no memory.
    Numbered(Numbered),
    /// Those of machines, which come and go.
    Machines(RwLock<Roster>),
}

/// See [`Fleet::Numbered`].
#[derive(Clone, Debug)]
pub(crate) struct Numbered {
    /// What names begin with.
    pub(crate) prefix: String,
    /// The first number.
    pub(crate) first: usize,
    /// In each tenant.
    pub(crate) count: usize,
    /// Whose.
    pub(crate) tenants: Vec<TenantName>,
}

impl Numbered {
    pub(crate) fn name(&self, index: usize) -> String {
        format!("{}{}", self.prefix, self.first + index)
    }

    /// Which of the nodes one is.
    fn index(&self, node: &str) -> Option<usize> {
        let number = node.strip_prefix(&self.prefix)?.parse::<usize>().ok()?;
        let index = number.checked_sub(self.first)?;
        (index < self.count).then_some(index)
    }
}

/// See [`Fleet::Machines`].
#[derive(Debug, Default)]
pub(crate) struct Roster {
    all: Vec<(TenantName, Box<str>)>,
    /// Of each node its place in `all`, and its number.
    places: FxHashMap<TenantName, FxHashMap<Box<str>, (usize, usize)>>,
    numbers: usize,
}

impl Roster {
    fn add(&mut self, tenant: &TenantName, node: &str) -> usize {
        let nodes = self.places.entry(tenant.clone()).or_default();
        if let Some((_, number)) = nodes.get(node) {
            return *number;
        }
        self.numbers += 1;
        nodes.insert(node.into(), (self.all.len(), self.numbers));
        self.all.push((tenant.clone(), node.into()));
        self.numbers
    }

    fn remove(&mut self, tenant: &TenantName, node: &str) {
        let Some(nodes) = self.places.get_mut(tenant) else { return };
        let Some((place, _)) = nodes.remove(node) else { return };
        if nodes.is_empty() {
            self.places.remove(tenant);
        }
        self.all.swap_remove(place);
        if let Some((tenant, node)) = self.all.get(place)
            && let Some(moved) = self.places.get_mut(tenant).and_then(|n| n.get_mut(node))
        {
            moved.0 = place;
        }
    }
}

impl Fleet {
    /// A node's number, if it is played.
    pub(crate) fn number(&self, tenant: &TenantName, node: &str) -> Option<usize> {
        match self {
            Fleet::Numbered(all) => all.index(node).filter(|_| all.tenants.contains(tenant)),
            Fleet::Machines(all) => Some(all.read().places.get(tenant)?.get(node)?.1),
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        match self {
            Fleet::Numbered(all) => all.count * all.tenants.len(),
            Fleet::Machines(all) => all.read().all.len(),
        }
    }

    /// One of them, by its place from 0 to [`Fleet::len`]. Places change when nodes go.
    pub(crate) fn at(&self, place: usize) -> Option<(TenantName, String)> {
        match self {
            Fleet::Numbered(all) => {
                let tenant = all.tenants.get(place.checked_div(all.count)?)?;
                Some((tenant.clone(), all.name(place % all.count)))
            }
            Fleet::Machines(all) => all.read().all.get(place).map(|(t, n)| (t.clone(), n.to_string())),
        }
    }

    /// A machine's node is played from now on. Gives its number.
    pub(crate) fn add(&self, tenant: &TenantName, node: &str) -> usize {
        match self {
            Fleet::Numbered(_) => 0,
            Fleet::Machines(all) => all.write().add(tenant, node),
        }
    }

    /// It is not any more.
    pub(crate) fn remove(&self, tenant: &TenantName, node: &str) {
        if let Fleet::Machines(all) = self {
            all.write().remove(tenant, node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantName {
        TenantName::new(name).unwrap()
    }

    #[test]
    fn numbered_nodes_are_told_by_name() {
        let (shop, bank) = (tenant("shop"), tenant("bank"));
        let fleet = Fleet::Numbered(Numbered {
            prefix: "sim-".to_owned(),
            first: 5,
            count: 3,
            tenants: vec![shop.clone(), bank.clone()],
        });
        for (name, number) in [
            ("sim-4", None),
            ("sim-5", Some(0)),
            ("sim-7", Some(2)),
            ("sim-8", None),
            ("sim-x", None),
            ("5", None),
        ] {
            assert_eq!(fleet.number(&shop, name), number, "{name}");
        }
        assert_eq!(fleet.number(&tenant("other"), "sim-5"), None);
        assert_eq!(fleet.len(), 6);
        let all: Vec<_> = (0..6).map(|i| fleet.at(i).unwrap()).collect();
        assert_eq!(all[0], (shop, "sim-5".to_owned()));
        assert_eq!(all[5], (bank, "sim-7".to_owned()));
        assert_eq!(fleet.at(6), None);
    }

    #[test]
    fn machines_come_and_go() {
        let (shop, bank) = (tenant("shop"), tenant("bank"));
        let fleet = Fleet::Machines(RwLock::default());
        let first = fleet.add(&shop, "a");
        let numbers = [fleet.add(&shop, "b"), fleet.add(&bank, "a")];
        assert!(!numbers.contains(&first) && numbers[0] != numbers[1]);
        assert_eq!(fleet.add(&shop, "a"), first, "once is enough");
        fleet.remove(&shop, "a");
        fleet.remove(&shop, "a");
        assert_eq!((fleet.number(&shop, "a"), fleet.len()), (None, 2));
        let mut left: Vec<_> = (0..2).map(|i| fleet.at(i).unwrap().1).collect();
        left.sort();
        assert_eq!(left, ["a", "b"]);
        fleet.remove(&bank, "a");
        fleet.remove(&shop, "b");
        assert_eq!((fleet.len(), fleet.at(0)), (0, None));
        assert!(!numbers.contains(&fleet.add(&shop, "c")), "a number is given once");
    }
}
