//! Gives services of the type LoadBalancer an address.
//!
//! Reasons and messages of events are those of upstream's service controller, which clouds' implementations are called by.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::json;
use skep_api::network::PublicPool;
use skep_client::record::EventType;
use skep_client::{DeleteParams, ErrorKind, Event, Informer, Level, Object, ObjectKey, Patch};

use super::views::{BY_SERVICE, Balancer, PublicIp, by_service};
use crate::views::regarding;
use crate::{Controller, Kind, Next, Setup, SyncError, Writes};

const NAME: &str = "service-lb-controller";
/// How long a service waits that could not be given an address: somebody may have given one back. A new pool wakes it at once.
const RETRY: Duration = Duration::from_secs(20);
/// So much of a service's uid is in the name of what is made for it: two services of one name never meet.
const UID_CHARS: usize = 8;

struct Services {
    services: Informer<Balancer>,
    publics: Informer<PublicIp>,
    writes: Writes,
}

/// Makes the controller.
pub(super) fn new(setup: &mut Setup) -> Arc<dyn Controller> {
    let services = setup.informer::<Balancer>();
    let publics = setup.informer::<PublicIp>();
    let enqueue = setup.enqueue(NAME);
    let e = enqueue.clone();
    services.on_event(move |event| {
        if !matches!(event, Event::Changed { old, new } if old.view == new.view) {
            e.event(event);
        }
    });
    let e = enqueue.clone();
    publics.on_event(move |event| {
        let tell = |public: &Object<PublicIp>| {
            if let Some(service) = &public.spec.service_name {
                e.add(&ObjectKey::new(&public.key.tenant, &public.key.namespace, service), Level::Update);
            }
        };
        tell(event.object());
        if let Event::Changed { old, new } = event
            && old.spec.service_name != new.spec.service_name
        {
            tell(old);
        }
    });
    let waiting = services.clone();
    setup.informer::<PublicPool>().on_event(move |_| {
        waiting.for_each(|service| {
            if service.is_ours() && service.ingress().next().is_none() {
                enqueue.add(&service.key, Level::Update);
            }
        });
    });
    setup.resync(NAME, &services);
    Arc::new(Services { services, publics, writes: setup.writes("service-controller") })
}

impl Services {
    async fn look(&self, key: &ObjectKey) -> Result<Next, SyncError> {
        let mut publics =
            self.publics.by_index(BY_SERVICE, &key.tenant, &by_service(&key.namespace, &key.name));
        publics.retain(|p| !p.is_deleting());
        let service = self.services.get(key);
        let Some(service) = service else {
            // It is gone, or of another type by now. What the tenant has reserved stays.
            self.remove(publics.iter().filter(|p| p.made_for().is_some())).await?;
            return Ok(Next::Wait);
        };
        if !service.is_ours() {
            self.remove(publics.iter().filter(|p| p.made_for().is_some())).await?;
            if service.status_is_ours() {
                self.say(&service, &[]).await?;
            }
            return Ok(Next::Wait);
        }
        // Made for a service that had the name before, or for one that asked for something else.
        let fits = |p: &PublicIp| {
            let asked: Option<IpAddr> = service.spec.load_balancer_ip.as_ref().and_then(|ip| ip.parse().ok());
            p.made_for().is_none_or(|uid| {
                let address = asked.is_none_or(|ip| p.spec.address.parse() == Ok(ip));
                uid == &*service.uid && address && service.pool().is_none_or(|pool| pool == p.spec.pool_name)
            })
        };
        let (mut keep, unfit): (Vec<_>, Vec<_>) = publics.into_iter().partition(|p| fits(p));
        self.remove(unfit.iter()).await?;
        if keep.iter().any(|p| p.made_for().is_none()) {
            // The tenant has an address of their own for it.
            let (made, reserved): (Vec<_>, Vec<_>) = keep.into_iter().partition(|p| p.made_for().is_some());
            self.remove(made.iter()).await?;
            keep = reserved;
        }
        if keep.is_empty() {
            self.say(&service, &[]).await?;
            return self.make(&service).await;
        }
        let mut addresses: Vec<String> = keep.iter().map(|p| p.spec.address.clone()).collect();
        addresses.sort();
        self.say(&service, &addresses).await?;
        Ok(Next::Wait)
    }

    async fn remove<'a>(
        &self,
        publics: impl Iterator<Item = &'a Arc<Object<PublicIp>>>,
    ) -> Result<(), SyncError> {
        for public in publics {
            self.publics.remove(public, &DeleteParams::default()).await?;
        }
        Ok(())
    }

    async fn make(&self, service: &Object<Balancer>) -> Result<Next, SyncError> {
        let about = regarding(service, "v1", "Service");
        let tell = |kind, reason, message: String| self.writes.recorder.event(&about, kind, reason, message);
        tell(EventType::Normal, "EnsuringLoadBalancer", "Ensuring load balancer".into());
        let key = &service.key;
        let uid: String = service.uid.chars().take(UID_CHARS).collect();
        let mut spec = json!({"serviceName": &*key.name, "ipFamily": service.spec.ip_families.first()});
        if let Some(pool) = service.pool() {
            spec["poolName"] = json!(pool);
        }
        if let Some(ip) = service.spec.load_balancer_ip.as_deref().filter(|ip| !ip.is_empty()) {
            spec["address"] = json!(ip);
            // An address says its family itself.
            spec["ipFamily"] = serde_json::Value::Null;
        }
        let public = json!({
            "apiVersion": "network.skep.io/v1", "kind": "PublicIP",
            "metadata": {
                "name": format!("lb-{}-{uid}", key.name), "namespace": &*key.namespace,
                "ownerReferences": [{
                    "apiVersion": "v1", "kind": "Service", "name": &*key.name, "uid": &*service.uid,
                    "controller": true, "blockOwnerDeletion": true,
                }],
            },
            "spec": spec,
        });
        let at = PublicIp::RESOURCE.at(&key.tenant).namespace(&key.namespace);
        match self.publics.create(&at, &public).await {
            // What was made comes back as an event, and then the service is told.
            Ok(_) => Ok(Next::Wait),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                Err(SyncError::NotYet(format!("the address that was made for {key} is going")))
            }
            Err(error) if error.retryable() && !is_used_up(&error) => Err(error.into()),
            Err(error) => {
                let message = format!(
                    "Error syncing load balancer: failed to ensure load balancer: {error}; {}",
                    remedy(&error)
                );
                tell(EventType::Warning, "SyncLoadBalancerFailed", message);
                Ok(Next::After(RETRY))
            }
        }
    }

    /// Brings a service's status to these addresses.
    async fn say(&self, service: &Object<Balancer>, addresses: &[String]) -> Result<(), SyncError> {
        if service.ingress().eq(addresses.iter().map(String::as_str)) {
            return Ok(());
        }
        let ingress: Vec<_> = addresses.iter().map(|ip| json!({"ip": ip, "ipMode": "VIP"})).collect();
        let status = if ingress.is_empty() {
            json!({"loadBalancer": {"ingress": null}})
        } else {
            json!({"loadBalancer": {"ingress": ingress}})
        };
        let key = &service.key;
        let at = Balancer::RESOURCE.at(&key.tenant).namespace(&key.namespace).name(&key.name);
        let patch = json!({"metadata": {"uid": &*service.uid}, "status": status});
        self.services.patch(&at.subresource("status"), &Patch::Merge(patch)).await?;
        let (reason, message) = if ingress.is_empty() {
            ("DeletedLoadBalancer", "Deleted load balancer")
        } else {
            ("EnsuredLoadBalancer", "Ensured load balancer")
        };
        self.writes.recorder.event(&regarding(service, "v1", "Service"), EventType::Normal, reason, message);
        Ok(())
    }
}

/// That a pool is used up is the server's own error, and none of those that go away by themselves at once.
fn is_used_up(error: &skep_client::Error) -> bool {
    error.to_string().contains("is used up")
}

fn remedy(error: &skep_client::Error) -> &'static str {
    let text = error.to_string();
    if text.contains("spec.poolName: Not found") {
        "there is no such pool of public addresses for this tenant: the operator makes one (a PublicPool, or `skep up --public-pool CIDR`), \
         or the annotation network.skep.io/public-pool names another"
    } else if text.contains("is used up") {
        "an address has to be given back, or the operator has to add some to the pool"
    } else if text.contains("quota") || text.contains("gives each tenant") {
        "delete a PublicIP or a service that is not needed, or ask the operator for more"
    } else {
        "change what the service asks for, or ask the operator; it is tried again"
    }
}

impl Controller for Services {
    fn name(&self) -> &'static str {
        NAME
    }

    fn sync<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Next, SyncError>> {
        Box::pin(self.look(key))
    }
}
