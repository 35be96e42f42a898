//! What a host holds of one tenant: copies of what its network is made from, for as long as the tenant has a machine here.
//!
//! Each tenant is watched by itself, so a host's memory and traffic follow from the tenants that it serves, however many
//! others there are.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use skep_base::TenantName;
use skep_client::{Client, Event, Informer, Object, Resource, Selection, View};
use skep_netplan::filter::group::Group;
use tokio::task::JoinSet;

use crate::public::PublicView;
use crate::view::{MachineView, PortView, QosView};
use crate::{GROUPS, MACHINES, POLICIES, PORTS, PUBLICS};

/// The index of ports, of machines and of public addresses by their node.
pub(crate) const BY_NODE: &str = "node";
/// The index of ports that name security groups; all of them have one value.
pub(crate) const GROUPED: &str = "grouped";

/// The copies of one tenant. They are kept current until this is dropped.
pub(crate) struct Copies {
    pub(crate) ports: Informer<PortView>,
    pub(crate) machines: Informer<MachineView>,
    pub(crate) policies: Informer<QosView>,
    pub(crate) groups: Informer<Group>,
    pub(crate) publics: Informer<PublicView>,
    _tasks: JoinSet<()>,
}

impl Copies {
    fn start(client: &Client, tenant: &TenantName, told: &Told) -> Copies {
        let mut tasks = JoinSet::new();
        Copies {
            ports: {
                let ports = Informer::<PortView>::builder(client, Selection::all(PORTS, tenant));
                let ports = ports.index(BY_NODE, |port, found| port.view.nodes(found)).index(
                    GROUPED,
                    |port, found| {
                        if port.view.is_grouped() {
                            found(GROUPED);
                        }
                    },
                );
                let touches = |port: &Object<PortView>, touched: &mut Touched| {
                    port.view.nodes(&mut |node| touched.machine(node));
                    touched.groups |= port.view.is_grouped();
                };
                follow(ports.build(), tenant, told, &mut tasks, touches)
            },
            machines: {
                let machines = Informer::<MachineView>::builder(client, Selection::all(MACHINES, tenant))
                    .index(BY_NODE, |machine, found| found(machine.view.node(&machine.key.name)));
                let touches = |machine: &Object<MachineView>, touched: &mut Touched| {
                    touched.machine(machine.view.node(&machine.key.name));
                };
                follow(machines.build(), tenant, told, &mut tasks, touches)
            },
            groups: follow(copy(client, tenant, GROUPS), tenant, told, &mut tasks, |_, touched| {
                touched.groups = true
            }),
            policies: follow(copy(client, tenant, POLICIES), tenant, told, &mut tasks, |_, touched| {
                touched.bandwidth = true;
            }),
            publics: follow(
                copy(client, tenant, PUBLICS),
                tenant,
                told,
                &mut tasks,
                |public: &Object<PublicView>, touched: &mut Touched| {
                    if let Some(node) = &public.view.status.node_name {
                        touched.machine(node);
                    }
                    // A pod's address is its port's too, for groups and bandwidth.
                    (touched.groups, touched.bandwidth) = (true, true);
                },
            ),
            _tasks: tasks,
        }
    }

    pub(crate) async fn synced(&self) {
        self.ports.synced().await;
        self.machines.synced().await;
        self.policies.synced().await;
        self.groups.synced().await;
        self.publics.synced().await;
    }
}

/// What of a tenant's network on this host may have to be changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Touched {
    /// Machines, by their nodes, of which something has changed: ports, place, public addresses.
    pub(crate) machines: HashSet<String>,
    /// All machines.
    pub(crate) everything: bool,
    /// What security groups say.
    pub(crate) groups: bool,
    /// What bandwidth ports have; beside what follows from machines.
    pub(crate) bandwidth: bool,
}

impl Touched {
    pub(crate) fn machine(&mut self, node: &str) {
        if !self.machines.contains(node) {
            self.machines.insert(node.to_owned());
        }
    }

    /// Everything there is.
    pub(crate) fn all() -> Touched {
        Touched { everything: true, groups: true, bandwidth: true, ..Touched::default() }
    }

    pub(crate) fn and(&mut self, other: Touched) {
        self.machines.extend(other.machines);
        self.everything |= other.everything;
        self.groups |= other.groups;
        self.bandwidth |= other.bandwidth;
    }
}

/// Called with a tenant whenever something of it changes, to say what that touches. It must be quick.
pub(crate) type Told = Arc<dyn Fn(&TenantName, Touched) + Send + Sync>;

fn copy<V: View>(client: &Client, tenant: &TenantName, resource: Resource) -> Informer<V> {
    Informer::builder(client, Selection::all(resource, tenant)).build()
}

fn follow<V: View + PartialEq>(
    informer: Informer<V>,
    tenant: &TenantName,
    told: &Told,
    tasks: &mut JoinSet<()>,
    touches: impl Fn(&Object<V>, &mut Touched) + Send + Sync + 'static,
) -> Informer<V> {
    let (told, of) = (told.clone(), tenant.clone());
    informer.on_event(move |event| {
        let mut touched = Touched::default();
        if let Event::Changed { old, new } = event {
            if old.view == new.view {
                // Something of it that is not read here.
                return;
            }
            touches(old, &mut touched);
        }
        touches(event.object(), &mut touched);
        told(&of, touched);
    });
    let running = informer.clone();
    tasks.spawn(async move { running.run().await });
    informer
}

/// The copies of all tenants that have machines here, or are about to.
pub(crate) struct AllCopies {
    client: Client,
    told: Told,
    held: Mutex<HashMap<TenantName, Weak<Copies>>>,
}

impl AllCopies {
    pub(crate) fn new(client: Client, told: Told) -> AllCopies {
        AllCopies { client, told, held: Mutex::default() }
    }

    /// Those of a tenant, begun if nobody holds them.
    pub(crate) fn of(&self, tenant: &TenantName) -> Arc<Copies> {
        let mut held = self.held.lock();
        if let Some(copies) = held.get(tenant).and_then(Weak::upgrade) {
            return copies;
        }
        // Those that nobody holds any more go when another begins.
        held.retain(|_, copies| copies.strong_count() > 0);
        let copies = Arc::new(Copies::start(&self.client, tenant, &self.told));
        held.insert(tenant.clone(), Arc::downgrade(&copies));
        copies
    }

    /// Of how many tenants, and how many objects: what the host's memory for networks follows from.
    pub(crate) fn size(&self) -> (usize, usize) {
        let held = self.held.lock();
        let all = held.values().filter_map(Weak::upgrade);
        all.fold((0, 0), |(tenants, objects), c| {
            let all = [c.ports.len(), c.machines.len(), c.policies.len(), c.groups.len(), c.publics.len()];
            (tenants + 1, objects + all.iter().sum::<usize>())
        })
    }
}
