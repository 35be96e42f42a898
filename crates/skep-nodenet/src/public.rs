//! Public addresses of this node's pods: what the API says leads to a pod here gets an interface in it.
//!
//! Only the API's word counts, which names the pod by its uid: a pod that has only the name of an earlier one has nothing of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use parking_lot::Mutex;
use serde::Deserialize;
use skep_base::TenantName;
use skep_client::{Client, Informer, List, ListParams, Resource, Selection, Tenants};
use skep_net::machine::MachineNetwork;
use skep_net::podpublic::PodPublic;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::filters::Filters;
use crate::{Error, in_kernel};

const PUBLICS: Resource = Resource::new("network.skep.io", "v1", "publicips");
/// The index of public addresses by the uid of their pod.
const BY_POD: &str = "pod";
/// How long it waits after the kernel refused.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct PublicView {
    spec: PublicSpec,
    status: PublicStatus,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct PublicSpec {
    address: String,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PublicStatus {
    pod_uid: Option<String>,
}

impl PublicView {
    fn address(&self) -> Option<IpAddr> {
        self.spec.address.parse().ok()
    }
}

/// A pod that public addresses may come to.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) netns: PathBuf,
    pub(crate) private: Vec<IpNet>,
    pub(crate) gateways: Vec<IpAddr>,
    /// What it reaches by its gateways, wherever it has a public address.
    pub(crate) networks: Vec<IpNet>,
    pub(crate) mtu: u32,
}

/// The addresses that a pod was given; nothing before the first time.
type Done = Option<Vec<IpAddr>>;

/// The public addresses of this node's pods.
pub(crate) struct Publics {
    informer: Informer<PublicView>,
    tenant: TenantName,
    machine: Arc<Mutex<MachineNetwork>>,
    filters: Arc<Filters>,
    /// The pods that have their network, and what they were given.
    places: Mutex<HashMap<String, (Place, Done)>>,
    /// One pod at a time: an address that goes from one to another is in both orders of events taken before it is given.
    turn: tokio::sync::Mutex<()>,
    changed: Arc<Notify>,
}

fn of_node(node: &str) -> String {
    format!("status.nodeName={node}")
}

/// The public addresses that pods of a node have.
pub(crate) async fn of_pods(client: &Client, node: &str) -> Result<Vec<IpAddr>, Error> {
    let params = ListParams { fields: of_node(node), ..ListParams::default() };
    let all: List<PublicView> = client
        .list_all(&PUBLICS.at(Tenants::Own), params)
        .await
        .map_err(|e| Error::api("list the node's public addresses", e))?;
    Ok(all.items.iter().filter(|p| p.status.pod_uid.is_some()).filter_map(PublicView::address).collect())
}

/// Starts to follow the public addresses of a node.
pub(crate) async fn start(
    client: &Client,
    node: &str,
    machine: Arc<Mutex<MachineNetwork>>,
    filters: Arc<Filters>,
    tasks: &mut JoinSet<()>,
) -> Arc<Publics> {
    let selection = Selection::all(PUBLICS, Tenants::Own).fields(&of_node(node));
    let informer = Informer::<PublicView>::builder(client, selection)
        .index(BY_POD, |public, emit| {
            if let Some(uid) = &public.status.pod_uid {
                emit(uid);
            }
        })
        .build();
    let changed = Arc::new(Notify::new());
    let told = changed.clone();
    informer.on_event(move |event| {
        // Its counters are no news here.
        if !matches!(event, skep_client::Event::Changed { old, new } if old.view == new.view) {
            told.notify_one();
        }
    });
    let running = informer.clone();
    tasks.spawn(async move { running.run().await });
    informer.synced().await;
    let tenant = client.home().clone();
    let publics = Arc::new(Publics {
        informer,
        tenant,
        machine,
        filters,
        places: Mutex::default(),
        turn: tokio::sync::Mutex::default(),
        changed,
    });
    let running = publics.clone();
    tasks.spawn(async move { running.run().await });
    publics
}

impl Publics {
    /// A pod has its network: it is given its public addresses, now and later. What fails is tried again.
    pub(crate) async fn add(&self, uid: &str, place: Place) {
        self.places.lock().insert(uid.to_owned(), (place, None));
        self.bring(uid).await;
    }

    /// Forgets a pod whose network is gone.
    pub(crate) fn remove(&self, uid: &str) {
        self.places.lock().remove(uid);
    }

    async fn run(&self) {
        loop {
            self.changed.notified().await;
            // Who loses an address comes before who gets it.
            let mut all: Vec<(bool, String)> = Vec::new();
            for (uid, (_, done)) in self.places.lock().iter() {
                let wanted = self.wanted(uid);
                if done.as_ref() != Some(&wanted) {
                    let gets = done.as_ref().is_none_or(|done| done.iter().all(|ip| wanted.contains(ip)));
                    all.push((gets, uid.clone()));
                }
            }
            all.sort();
            for (_, uid) in all {
                self.bring(&uid).await;
            }
        }
    }

    fn wanted(&self, uid: &str) -> Vec<IpAddr> {
        let of_pod = self.informer.by_index(BY_POD, &self.tenant, uid);
        let all: BTreeSet<IpAddr> = of_pod.iter().filter_map(|p| p.view.address()).collect();
        all.into_iter().collect()
    }

    async fn bring(&self, uid: &str) {
        let _turn = self.turn.lock().await;
        let Some((place, done)) = self.places.lock().get(uid).cloned() else { return };
        let wanted = self.wanted(uid);
        if done.as_ref() == Some(&wanted) {
            return;
        }
        if let Err(error) = self.give(uid, &place, &wanted).await {
            tracing::warn!(
                pod = uid, error = %error.full(),
                "a pod's public addresses could not be set; it is tried again"
            );
            let changed = self.changed.clone();
            tokio::spawn(async move {
                tokio::time::sleep(RETRY).await;
                changed.notify_one();
            });
            return;
        }
        if let Some((_, done)) = self.places.lock().get_mut(uid) {
            *done = Some(wanted);
        }
    }

    async fn give(&self, uid: &str, place: &Place, wanted: &[IpAddr]) -> Result<(), Error> {
        // Who may talk to it is said before anybody can.
        self.filters.set_public(uid, wanted.to_vec()).await?;
        let pod = PodPublic {
            id: uid.to_owned(),
            namespace: place.netns.clone(),
            addresses: wanted.to_vec(),
            private: place.private.clone(),
            gateways: place.gateways.clone(),
            networks: place.networks.clone(),
            mtu: place.mtu,
        };
        let machine = self.machine.clone();
        in_kernel("give a pod its public addresses", move || machine.lock().set_public(&pod)).await
    }
}

/// Public addresses by the pod that has them, for filters.
pub(crate) type ByPod = BTreeMap<String, Vec<IpAddr>>;
