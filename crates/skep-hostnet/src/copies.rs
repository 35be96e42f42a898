//! What a host holds of one tenant: copies of what its network is made from, for as long as the tenant has a machine here.
//!
//! Each tenant is watched by itself, so a host's memory and traffic follow from the tenants that it serves, however many
//! others there are.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use skep_base::TenantName;
use skep_client::{Client, Event, Informer, Resource, Selection, View};
use skep_netplan::filter::group::Group;
use tokio::task::JoinSet;

use crate::public::PublicView;
use crate::view::{MachineView, PortView, QosView};
use crate::{GROUPS, MACHINES, POLICIES, PORTS, PUBLICS};

/// The index of ports by the node that they are on.
pub(crate) const PORTS_OF_NODE: &str = "node";

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
                let selection = Selection::all(PORTS, tenant);
                let node = |port: &skep_client::Object<PortView>, found: &mut dyn FnMut(&str)| {
                    if let Some(node) = &port.view.spec.node_name {
                        found(node);
                    }
                };
                let ports = Informer::builder(client, selection).index(PORTS_OF_NODE, node).build();
                follow(ports, tenant, told, &mut tasks)
            },
            machines: follow(copy(client, tenant, MACHINES), tenant, told, &mut tasks),
            groups: follow(copy(client, tenant, GROUPS), tenant, told, &mut tasks),
            policies: follow(copy(client, tenant, POLICIES), tenant, told, &mut tasks),
            publics: follow(copy(client, tenant, PUBLICS), tenant, told, &mut tasks),
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

/// Called with a tenant whenever something of it changes. It must be quick.
pub(crate) type Told = Arc<dyn Fn(&TenantName) + Send + Sync>;

fn copy<V: View>(client: &Client, tenant: &TenantName, resource: Resource) -> Informer<V> {
    Informer::builder(client, Selection::all(resource, tenant)).build()
}

fn follow<V: View + PartialEq>(
    informer: Informer<V>,
    tenant: &TenantName,
    told: &Told,
    tasks: &mut JoinSet<()>,
) -> Informer<V> {
    let (told, of) = (told.clone(), tenant.clone());
    informer.on_event(move |event| match event {
        // Something of it that is not read here.
        Event::Changed { old, new } if old.view == new.view => {}
        _ => told(&of),
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
