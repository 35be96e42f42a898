//! Empties namespaces that are being deleted, and lets them go.
//!
//! Everything in such a namespace is deleted through the same door as a client's `deletecollection`: grace
//! periods, finalizers, quotas and allocations count. When nothing is left, the `kubernetes` finalizer of the
//! namespace is taken off, which removes it. A crash in between costs nothing: it goes on at the next start.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use k8s_openapi::api::core::v1::Namespace;
use parking_lot::Mutex;
use skep_api::Verb;
use skep_base::{GroupResource, Key, Scope};
use skep_store::{ListOptions, Value};
use tokio::sync::Semaphore;

use crate::app::App;
use crate::request::Action;
use crate::rest::write::{Preconditions, update_with};
use crate::rest::{Call, delete};
use crate::status::ApiError;

/// Namespaces emptied at the same time: a tenant that deletes thousands waits for itself.
const AT_ONCE: usize = 16;

/// How long something that does not go at once is waited for before it is looked at again: doubled up to the
/// maximum while nothing changes.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// As whom the deletions are made; the name that upstream's audit logs show.
const USER: &str = "system:serviceaccount:kube-system:namespace-controller";

/// The finalizer that this module takes off.
const FINALIZER: &str = "kubernetes";

fn resource() -> GroupResource {
    GroupResource::new("", "namespaces")
}

/// Watches the namespaces of all tenants.
pub fn start(app: &Arc<App>) {
    let app = app.clone();
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let under_way: Arc<Mutex<std::collections::HashSet<Key>>> = Arc::default();
    tokio::spawn(async move {
        let mut down = app.shutdown.subscribe();
        let store = app.objects.store().clone();
        let scope = Scope::AllTenants(resource());
        loop {
            let Ok(listing) = store.list(&scope, &ListOptions::default()) else { continue };
            for (key, value) in &listing.items {
                look(&app, &places, &under_way, key, value);
            }
            let Ok(mut watcher) = store.watch(scope.clone(), None, listing.revision) else { continue };
            loop {
                let batch = tokio::select! {
                    () = crate::app::ended(&mut down) => return,
                    batch = watcher.next() => match batch { Ok(b) => b, Err(_) => break },
                };
                for change in batch {
                    if let Some(value) = &change.value {
                        look(&app, &places, &under_way, &change.key, value);
                    }
                }
            }
        }
    });
}

fn look(
    app: &Arc<App>,
    places: &Arc<Semaphore>,
    under_way: &Arc<Mutex<std::collections::HashSet<Key>>>,
    key: &Key,
    value: &Value,
) {
    // Terminating is a selectable field: no namespace that stays is decoded here.
    if value.attrs().field("status.phase") != Some("Terminating") || !under_way.lock().insert(key.clone()) {
        return;
    }
    let (app, places, under_way, key) = (app.clone(), places.clone(), under_way.clone(), key.clone());
    tokio::spawn(async move {
        let mut down = app.shutdown.subscribe();
        let mut wait = FIRST_WAIT;
        loop {
            let done = {
                let Ok(_place) = places.acquire().await else { return };
                empty(&app, &key).await
            };
            match done {
                Ok(true) => break,
                Ok(false) => {}
                Err(error) if error.code == 404 => break,
                Err(error) => tracing::warn!(%key, %error, "a namespace cannot be emptied yet"),
            }
            tokio::select! {
                () = crate::app::ended(&mut down) => return,
                () = tokio::time::sleep(wait) => {}
            }
            wait = (wait * 2).min(LONGEST_WAIT);
        }
        under_way.lock().remove(&key);
    });
}

/// Deletes what can be deleted now; says whether the namespace is gone.
async fn empty(app: &Arc<App>, key: &Key) -> Result<bool, ApiError> {
    let mut left = 0;
    for kind in app.registry.iter() {
        let info = kind.info();
        let served_as_stored =
            info.api_version() == kind.stored_as().0 && info.group == kind.resource().group();
        if !info.namespaced
            || !info.stored()
            || !served_as_stored
            || !info.verbs.contains(&Verb::DeleteCollection)
        {
            continue;
        }
        let scope = Scope::Namespace(kind.resource().clone(), key.tenant.clone(), key.name.clone());
        let one = ListOptions { limit: Some(1), ..ListOptions::default() };
        let any = |app: &App| app.objects.store().list(&scope, &one).is_ok_and(|l| !l.items.is_empty());
        if any(app) {
            let mut call = Call::own(app, &key.tenant, kind, USER, Action::DeleteCollection);
            call.path.namespace = key.name.to_string();
            delete::delete_collection(&call, &Bytes::new()).await?;
            left += usize::from(any(app));
        }
    }
    if left > 0 {
        return Ok(false);
    }
    let Some(kind) = app.kind("", "v1", "namespaces") else { return Ok(true) };
    let mut call = Call::own(app, &key.tenant, kind, USER, Action::Update);
    call.path.name = key.name.to_string();
    call.path.subresource = "finalize".to_owned();
    update_with(&call, key, Preconditions::default(), |old| {
        let mut new = old.clone_box();
        new.meta_mut().resource_version = None;
        if let Some(spec) = new.downcast_mut::<Namespace>().and_then(|n| n.spec.as_mut())
            && let Some(finalizers) = &mut spec.finalizers
        {
            finalizers.retain(|f| f != FINALIZER);
        }
        Ok(new)
    })
    .await?;
    Ok(true)
}
