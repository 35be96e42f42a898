//! Brings quotas whose limits are new or have changed to their true usage.
//!
//! Every write settles the quotas that it touches (see [`crate::admission`]). What is left is to count once
//! what was there before a quota was: done here, in the sequencer, so that it is exact too.
//!
//! A write is measured beside the store, and a recount may come between that and its commit. So each recount
//! also writes the tenant's *marker*, and a write that quotas may be about goes through only if the marker is
//! still the one that was there when it was measured; else it is measured again.

use std::sync::{Arc, LazyLock};

use k8s_openapi::api::core::v1::ResourceQuota;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use skep_admission::{Recount, TenantUsage};
use skep_api::DynKind;
use skep_base::{GroupResource, Key, Scope, TenantName};
use skep_store::{AttrsBuilder, Expect, NewValue, Op, Txn, Value, View};

use crate::app::App;
use crate::encode::new_value;
use crate::objects::Objects;
use crate::status::ApiError;

static MARKERS: LazyLock<GroupResource> =
    LazyLock::new(|| GroupResource::new("allocations.skep.io", "quotarecounts"));

/// Where the marker of a tenant's last recount is.
#[must_use]
pub fn marker(tenant: &TenantName) -> Key {
    Key::new(MARKERS.clone(), tenant.clone(), "", "last")
}

/// Whether a key is a marker: then a conflict means that a write has to be measured again.
#[must_use]
pub fn is_marker(key: &Key) -> bool {
    key.resource == *MARKERS
}

/// That there has been no recount since.
#[must_use]
pub fn no_recount_since(app: &App, tenant: &TenantName) -> Op {
    let key = marker(tenant);
    let expect = match app.objects.store().get(&key) {
        Some(value) => Expect::Revision(value.revision()),
        None => Expect::Absent,
    };
    Op::Check { key, expect }
}

fn mark(tenant: &TenantName) -> Op {
    let attrs = AttrsBuilder::default().build().unwrap_or_default();
    let body = br#"{"metadata":{"resourceVersion":""}}"#.to_vec();
    let value = NewValue { body, revision_at: 32, meta_start: 12, meta_end: 34, attrs };
    Op::Put { key: marker(tenant), value, expect: Expect::Any, ttl_s: None }
}

/// The kinds whose objects a recount may have to read.
type Kinds = Arc<Vec<Arc<dyn DynKind>>>;

fn stored_kinds(app: &App) -> Kinds {
    Arc::new(
        app.registry
            .iter()
            .filter(|k| k.info().stored() && k.info().api_version() == k.stored_as().0)
            .cloned()
            .collect(),
    )
}

fn count(
    view: &View<'_>,
    objects: &Objects,
    kinds: &Kinds,
    recount: &mut Recount,
    tenant: &TenantName,
    namespace: Option<&str>,
) -> Result<(), ApiError> {
    let wanted = recount.resources();
    for kind in kinds.iter() {
        let resource = kind.resource();
        if wanted.as_ref().is_some_and(|w| !w.contains(resource))
            || (namespace.is_some() && !kind.info().namespaced)
        {
            continue;
        }
        let scope = match namespace {
            Some(n) => Scope::Namespace(resource.clone(), tenant.clone(), n.into()),
            None => Scope::Tenant(resource.clone(), tenant.clone()),
        };
        for (_, value) in view.list(&scope).into_iter().filter(|(key, _)| !objects.is_default(key)) {
            let object = kind.decode_stored(value.json()).map_err(ApiError::internal)?;
            recount.add(resource, object.as_ref());
        }
    }
    Ok(())
}

/// Recounts a ResourceQuota if its status does not speak of its limits.
///
/// # Errors
/// When stored objects cannot be read or the store refuses.
pub async fn refresh(app: &App, key: &Key, value: &Value) -> Result<(), ApiError> {
    let current = |quota: &ResourceQuota| {
        let hard = quota.spec.as_ref().and_then(|s| s.hard.clone()).unwrap_or_default();
        let status = quota.status.clone().unwrap_or_default();
        status.hard.unwrap_or_default() == hard
            && status.used.is_some_and(|u| hard.keys().all(|k| u.contains_key(k)))
    };
    let quota: ResourceQuota = serde_json::from_slice(value.json()).map_err(ApiError::internal)?;
    if current(&quota) {
        return Ok(());
    }
    let kinds = stored_kinds(app);
    let kind = app
        .kind("", "v1", "resourcequotas")
        .cloned()
        .ok_or_else(|| ApiError::internal("quotas are not served"))?;
    let key = key.clone();
    let objects = app.objects.clone();
    let plan = move |view: &View<'_>| -> Result<Txn, ApiError> {
        let Some(value) = view.get(&key) else { return Ok(Txn::default()) };
        let mut quota: ResourceQuota = serde_json::from_slice(value.json()).map_err(ApiError::internal)?;
        if current(&quota) {
            return Ok(Txn::default());
        }
        let mut recount = Recount::of_quota(&quota);
        count(view, &objects, &kinds, &mut recount, &key.tenant, Some(&key.namespace))?;
        quota.status = Some(recount.quota_status());
        let value = new_value(kind.as_ref(), &quota)?;
        let put = Op::Put { key: key.clone(), value, expect: Expect::Exists, ttl_s: None };
        Ok([put, mark(&key.tenant)].into_iter().collect())
    };
    app.objects.store().commit_with(plan).await.map_err(ApiError::internal)?.map(|_| ())
}

/// Makes a tenant's usage object agree with the quota in the `Tenant` object.
///
/// # Errors
/// When stored objects cannot be read or the store refuses.
pub async fn refresh_tenant(
    app: &App,
    tenant: &TenantName,
    limits: &skep_api::tenancy::Tenant,
    now: jiff::Timestamp,
) -> Result<(), ApiError> {
    let hard: std::collections::BTreeMap<_, _> =
        limits.spec.quota.clone().unwrap_or_default().into_iter().collect();
    let key = TenantUsage::key(tenant);
    let before: Option<TenantUsage> =
        app.objects.get(&key).and_then(|v| serde_json::from_slice(v.json()).ok());
    if before.as_ref().is_some_and(|u| u.spec.hard == hard) || (before.is_none() && hard.is_empty()) {
        return Ok(());
    }
    let kinds = stored_kinds(app);
    let kind = app
        .kind("tenancy.skep.io", "v1", "tenantusages")
        .cloned()
        .ok_or_else(|| ApiError::internal("tenant usages are not served"))?;
    let uid = uuid::Uuid::new_v4().to_string();
    let objects = app.objects.clone();
    let plan = move |view: &View<'_>| -> Result<Txn, ApiError> {
        if hard.is_empty() {
            return Ok(Txn::one(Op::Delete { key: key.clone(), expect: Expect::Any }));
        }
        let mut usage: TenantUsage = match view.get(&key) {
            Some(value) => serde_json::from_slice(value.json()).map_err(ApiError::internal)?,
            None => TenantUsage {
                metadata: ObjectMeta {
                    name: Some(TenantUsage::NAME.to_owned()),
                    uid: Some(uid.clone()),
                    creation_timestamp: Some(Time(now)),
                    ..ObjectMeta::default()
                },
                ..TenantUsage::default()
            },
        };
        usage.spec.hard.clone_from(&hard);
        let mut recount = Recount::of_tenant(&usage);
        count(view, &objects, &kinds, &mut recount, &key.tenant, None)?;
        usage.status = recount.tenant_status();
        let value = new_value(kind.as_ref(), &usage)?;
        let put = Op::Put { key: key.clone(), value, expect: Expect::Any, ttl_s: None };
        Ok([put, mark(&key.tenant)].into_iter().collect())
    };
    app.objects.store().commit_with(plan).await.map_err(ApiError::internal)?.map(|_| ())
}

/// The resources whose writes may call for a recount.
#[must_use]
pub fn concerns(resource: &GroupResource) -> bool {
    matches!((resource.group(), resource.resource()), ("", "resourcequotas") | ("tenancy.skep.io", "tenants"))
}

/// After a write of a quota or a tenant: recounts if that write calls for it.
///
/// # Errors
/// As for [`refresh`].
pub async fn after_write(app: &App, key: &Key, value: &Value, now: jiff::Timestamp) -> Result<(), ApiError> {
    if key.resource.group().is_empty() {
        return refresh(app, key, value).await;
    }
    let tenant: skep_api::tenancy::Tenant =
        serde_json::from_slice(value.json()).map_err(ApiError::internal)?;
    if tenant.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let name = TenantName::new(&key.name).map_err(ApiError::internal)?;
    refresh_tenant(app, &name, &tenant, now).await
}
