//! Removes what a deleted tenant leaves: everything it had, and nothing else.
//!
//! A tenant that is being deleted is closed at once: nobody can write into it any more. What it had is then
//! removed in small transactions, so that other writers wait for none of it, and at the end the tenant's
//! finalizer, which lets the tenant itself go. A crash in between costs nothing: it goes on at the next start.

use std::sync::Arc;

use skep_api::tenancy::CONTENTS_FINALIZER;
use skep_base::{Key, Scope, TenantName};
use skep_store::{Expect, ListOptions, Op, Txn, Value};

use crate::alloc_network;
use crate::app::App;
use crate::encode::new_value;
use crate::follow::tenants_resource;

/// Objects removed in one transaction: few enough that other writers do not notice.
const CHUNK: usize = 256;

/// Watches tenants and clears those that are being deleted.
pub fn start(app: &Arc<App>) {
    let app = app.clone();
    tokio::spawn(async move {
        let store = app.objects.store().clone();
        let scope = Scope::Tenant(tenants_resource(), TenantName::system());
        let mut down = app.shutdown.subscribe();
        loop {
            let Ok(listing) = store.list(&scope, &ListOptions::default()) else { continue };
            for (key, value) in &listing.items {
                clear_if_deleted(&app, key, value).await;
            }
            let Ok(mut watcher) = store.watch(scope.clone(), None, listing.revision) else { continue };
            loop {
                let batch = tokio::select! {
                    () = crate::app::ended(&mut down) => return,
                    batch = watcher.next() => match batch { Ok(b) => b, Err(_) => break },
                };
                for change in batch {
                    if let Some(value) = &change.value {
                        clear_if_deleted(&app, &change.key, value).await;
                    }
                }
            }
        }
    });
}

async fn clear_if_deleted(app: &Arc<App>, key: &Key, value: &Arc<Value>) {
    let Some(kind) = app.kind("tenancy.skep.io", "v1", "tenants") else { return };
    let Ok(mut object) = kind.decode_stored(value.json()) else {
        tracing::error!(%key, "a stored tenant cannot be read");
        return;
    };
    let held = object.meta().finalizers.as_ref().is_some_and(|f| f.iter().any(|f| f == CONTENTS_FINALIZER));
    if object.meta().deletion_timestamp.is_none() || !held {
        return;
    }
    let Ok(tenant) = TenantName::new(&key.name) else { return };
    if let Err(error) = clear(app, &tenant).await {
        tracing::error!(%tenant, %error, "clearing a deleted tenant stopped; it goes on at the next start");
        return;
    }
    let finalizers: Vec<String> =
        object.meta().finalizers.iter().flatten().filter(|f| *f != CONTENTS_FINALIZER).cloned().collect();
    let last = finalizers.is_empty();
    object.meta_mut().finalizers = (!last).then_some(finalizers);
    let expect = Expect::Revision(value.revision());
    let op = if last {
        Op::Delete { key: key.clone(), expect }
    } else {
        match new_value(kind.as_ref(), object.as_ref()) {
            Ok(value) => Op::Put { key: key.clone(), value, expect, ttl_s: None },
            Err(error) => {
                tracing::error!(%tenant, %error, "a deleted tenant cannot be written");
                return;
            }
        }
    };
    // A conflict means that somebody changed the tenant meanwhile: that change comes by here too.
    if let Err(error) = app.objects.store().commit(Txn::one(op)).await {
        tracing::debug!(%tenant, %error, "the tenant changed while it was cleared");
    }
}

async fn clear(app: &App, tenant: &TenantName) -> Result<(), skep_store::CommitError> {
    let store = app.objects.store();
    for resource in store.resources() {
        let scope = Scope::Tenant(resource, tenant.clone());
        loop {
            let options = ListOptions { limit: Some(CHUNK), ..ListOptions::default() };
            let Ok(listing) = store.list(&scope, &options) else { continue };
            if listing.items.is_empty() {
                break;
            }
            let txn: Txn = listing
                .items
                .into_iter()
                .flat_map(|(key, value)| {
                    let mut ops = alloc_network::release_to_cloud(&key, value.json());
                    ops.push(Op::Delete { key, expect: Expect::Any });
                    ops
                })
                .collect();
            store.commit(txn).await?;
        }
    }
    Ok(())
}
