//! Hosts for machines.

use std::collections::BTreeMap;

use super::Amounts;

/// A host, as far as placement cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostView {
    /// Its name.
    pub name: String,
    /// What machines may have of it together.
    pub allocatable: Amounts,
    /// The isolations that it can run.
    pub isolations: Vec<String>,
    /// Whether it takes new machines, as the operator wants.
    pub schedulable: bool,
    /// Whether its daemon lives and can make machines.
    pub ready: bool,
}

/// A machine that has a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Whose it is.
    pub tenant: String,
    /// Where it runs.
    pub host: String,
    /// What it has.
    pub amounts: Amounts,
}

/// A machine that has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Whose it is.
    pub tenant: String,
    /// What it is to have.
    pub amounts: Amounts,
    /// How it is to be kept apart.
    pub isolation: String,
}

/// How good a host is for a machine: the least is the best, and the order of the fields is their priority.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Score {
    /// How many machines of the same tenant are there: a host that fails should take as few of them with it as possible.
    of_tenant: usize,
    /// How full the host would be, in thousandths: load is spread.
    full_permille: u64,
    /// For the same answer every time.
    name: String,
}

/// Why a machine gets no host: how many hosts there are of each kind that does not do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// Hosts in all.
    pub hosts: usize,
    /// Hosts that take no machines: closed by the operator, or without a living daemon.
    pub closed: usize,
    /// Hosts that cannot run the isolation.
    pub isolation: usize,
    /// Hosts without enough room.
    pub room: usize,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "0/{} hosts are available", self.hosts)?;
        let parts = [
            (self.closed, "not ready or closed to new machines"),
            (self.isolation, "cannot run this isolation"),
            (self.room, "without enough room"),
        ];
        let parts: Vec<String> =
            parts.iter().filter(|(n, _)| *n > 0).map(|(n, why)| format!("{n} {why}")).collect();
        if parts.is_empty() { write!(f, ".") } else { write!(f, ": {}.", parts.join(", ")) }
    }
}

/// The best host for a machine.
///
/// # Errors
/// [`Refusal`] when there is none.
pub fn place<'a>(machine: &Wanted, hosts: &'a [HostView], placed: &[Placed]) -> Result<&'a str, Refusal> {
    let mut taken: BTreeMap<&str, (Amounts, usize)> = BTreeMap::new();
    for other in placed {
        let entry = taken.entry(&other.host).or_default();
        entry.0 += other.amounts;
        entry.1 += usize::from(other.tenant == machine.tenant);
    }
    let mut refusal = Refusal { hosts: hosts.len(), ..Refusal::default() };
    let mut best: Option<(Score, &str)> = None;
    for host in hosts {
        let (used, of_tenant) = taken.get(host.name.as_str()).copied().unwrap_or_default();
        if !host.schedulable || !host.ready {
            refusal.closed += 1;
        } else if !host.isolations.contains(&machine.isolation) {
            refusal.isolation += 1;
        } else if !host.allocatable.less(&used).holds(&machine.amounts) {
            refusal.room += 1;
        } else {
            let full_permille = (used + machine.amounts).share_permille(&host.allocatable);
            let score = Score { of_tenant, full_permille, name: host.name.clone() };
            if best.as_ref().is_none_or(|(other, _)| score < *other) {
                best = Some((score, &host.name));
            }
        }
    }
    best.map(|(_, name)| name).ok_or(refusal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn amounts(cpu_millis: u64, gib: u64) -> Amounts {
        Amounts { cpu_millis, memory_bytes: gib << 30, ..Amounts::default() }
    }

    fn host(name: &str, cpu: u64, gib: u64) -> HostView {
        HostView {
            name: name.to_owned(),
            allocatable: amounts(cpu, gib),
            isolations: vec!["process".to_owned()],
            schedulable: true,
            ready: true,
        }
    }

    fn wanted(tenant: &str, cpu: u64, gib: u64) -> Wanted {
        Wanted { tenant: tenant.to_owned(), amounts: amounts(cpu, gib), isolation: "process".to_owned() }
    }

    fn placed(tenant: &str, host: &str, cpu: u64, gib: u64) -> Placed {
        Placed { tenant: tenant.to_owned(), host: host.to_owned(), amounts: amounts(cpu, gib) }
    }

    #[test]
    fn a_tenants_machines_are_spread_before_load_is() {
        let hosts = [host("a", 8000, 32), host("b", 8000, 32)];
        assert_eq!(place(&wanted("t", 1000, 1), &hosts, &[]), Ok("a"), "by name when all is equal");
        let others = [placed("x", "a", 1000, 1)];
        assert_eq!(place(&wanted("t", 1000, 1), &hosts, &others), Ok("b"), "the emptier one");
        let own = [placed("t", "b", 500, 1), placed("x", "a", 6000, 16)];
        assert_eq!(place(&wanted("t", 1000, 1), &hosts, &own), Ok("a"), "away from its own");
    }

    #[test]
    fn the_refusal_counts_reasons() {
        let mut hosts =
            vec![host("a", 1000, 1), host("b", 8000, 32), host("c", 8000, 32), host("d", 8000, 32)];
        hosts[1].ready = false;
        hosts[2].schedulable = false;
        hosts[3].isolations = vec!["vm".to_owned()];
        let refusal = place(&wanted("t", 2000, 1), &hosts, &[]).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "0/4 hosts are available: 2 not ready or closed to new machines, 1 cannot run this isolation, \
             1 without enough room."
        );
        assert_eq!(place(&wanted("t", 1, 1), &[], &[]).unwrap_err().to_string(), "0/0 hosts are available.");
    }

    proptest! {
        /// Whatever is placed in whatever order: no host ever holds more than it may.
        #[test]
        fn hosts_are_never_overfilled(
            sizes in proptest::collection::vec((1_u64..4000, 1_u64..8), 1..40),
            hosts in proptest::collection::vec((0_u64..9000, 0_u64..17), 1..6),
        ) {
            let hosts: Vec<HostView> =
                hosts.iter().enumerate().map(|(i, (cpu, gib))| host(&format!("h{i}"), *cpu, *gib)).collect();
            let mut all: Vec<Placed> = Vec::new();
            for (i, (cpu, gib)) in sizes.iter().enumerate() {
                let tenant = format!("t{}", i % 3);
                if let Ok(name) = place(&wanted(&tenant, *cpu, *gib), &hosts, &all) {
                    all.push(placed(&tenant, name, *cpu, *gib));
                }
            }
            for host in &hosts {
                let mut used = Amounts::default();
                all.iter().filter(|p| p.host == host.name).for_each(|p| used += p.amounts);
                prop_assert!(host.allocatable.holds(&used), "{host:?} {used:?}");
            }
        }
    }
}
