//! Deletion: preconditions, grace, finalizers, propagation, one object or a collection.

use bytes::Bytes;
use futures::StreamExt;
use http::Response;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, ObjectMeta, Time};
use skep_api::kinds::core::{namespace, pod::deletion_grace_s};
use skep_api::tenancy::{Tenant, TenantPhase};
use skep_api::{DynKind, Object};
use skep_base::{Key, Revision};
use skep_store::{Expect, Op};

use crate::admission;
use crate::app::WriteError;
use crate::body::Body;
use crate::negotiate::json_body;
use crate::output::{Item, ListMeta};
use crate::rest::admit::Operation;
use crate::rest::select::Selection;
use crate::rest::write::{MAX_ATTEMPTS, Preconditions, uid_conflict};
use crate::rest::{Call, read};
use crate::status::{self, About, ApiError};

/// Keeps an object until its dependents are gone.
pub const FOREGROUND: &str = "foregroundDeletion";
/// Keeps an object until its dependents have let go of it.
pub const ORPHAN: &str = "orphan";

/// How many objects of a collection are deleted at once, so that one request cannot fill the write queue.
const COLLECTION_CONCURRENCY: usize = 16;

/// What happens to dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// A deletion's options, from body and query.
#[derive(Clone, Debug)]
struct Deletion {
    grace_s: Option<i64>,
    propagation: Option<Propagation>,
    preconditions: Preconditions,
    dry_run: bool,
}

/// What came of a deletion.
enum Outcome {
    /// The object is gone; here is its last state.
    Gone(Item),
    /// The object is on its way out.
    Pending(Item),
}

fn options(call: &Call, body: &Bytes) -> Result<Deletion, ApiError> {
    let mut given = DeleteOptions::default();
    if !body.is_empty() {
        let json = json_body(&call.headers, body)?;
        // Clients send any version of DeleteOptions; only its fields count.
        let mut tree: serde_json::Value = serde_json::from_slice(&json)
            .map_err(|e| ApiError::bad_request(format!("the body is not a DeleteOptions: {e}")))?;
        if let Some(fields) = tree.as_object_mut() {
            let kind = fields.remove("kind");
            fields.remove("apiVersion");
            if kind.is_some_and(|k| k != "DeleteOptions" && k != "") {
                return Err(ApiError::bad_request("the body of a deletion must be a DeleteOptions"));
            }
        }
        given = serde_json::from_value(tree)
            .map_err(|e| ApiError::bad_request(format!("the body is not a DeleteOptions: {e}")))?;
    }
    deletion(call, given)
}

/// What is asked for, by the options given and, where they say nothing, by the query.
fn deletion(call: &Call, given: DeleteOptions) -> Result<Deletion, ApiError> {
    let o = &call.options;
    let policy = given.propagation_policy.or_else(|| o.propagation.clone()).filter(|p| !p.is_empty());
    let orphan = given.orphan_dependents.or(o.orphan_dependents);
    let propagation = match (policy.as_deref(), orphan) {
        (Some(_), Some(_)) => {
            return Err(refused(
                "propagationPolicy: Invalid value: orphanDependents and deletionPropagation cannot be both set",
            ));
        }
        (Some("Background"), None) | (None, Some(false)) => Some(Propagation::Background),
        (Some("Foreground"), None) => Some(Propagation::Foreground),
        (Some("Orphan"), None) | (None, Some(true)) => Some(Propagation::Orphan),
        (Some(other), None) => {
            return Err(refused(&format!(
                "propagationPolicy: Unsupported value: {other:?}: supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\""
            )));
        }
        (None, None) => None,
    };
    let dry_run = match given.dry_run.as_deref() {
        None | Some([]) => o.dry_run,
        Some(all) if all.iter().all(|d| d == "All") => true,
        Some(_) => return Err(refused("dryRun: Unsupported value: supported values: \"All\"")),
    };
    let preconditions = given.preconditions.unwrap_or_default();
    let revision = match preconditions.resource_version.as_deref() {
        None | Some("") => None,
        Some(text) => Some(Revision::parse(text).ok_or_else(|| {
            ApiError::bad_request(format!(
                "preconditions.resourceVersion: {text:?} is not a resource version"
            ))
        })?),
    };
    Ok(Deletion {
        grace_s: given.grace_period_seconds.or(o.grace_period_s),
        propagation,
        preconditions: Preconditions { uid: preconditions.uid, revision },
        dry_run,
    })
}

fn refused(text: &str) -> ApiError {
    ApiError::new(422, "Invalid", format!("DeleteOptions.meta.k8s.io \"\" is invalid: {text}"))
}

/// Kinds whose deletion answers with the object instead of a bare success, as upstream's do.
fn answers_with_object(kind: &dyn DynKind) -> bool {
    let info = kind.info();
    match info.group.as_ref() {
        "" => matches!(
            info.plural.as_ref(),
            "pods"
                | "podtemplates"
                | "namespaces"
                | "persistentvolumes"
                | "persistentvolumeclaims"
                | "resourcequotas"
                | "serviceaccounts"
                | "services"
        ),
        "storage.k8s.io" => info.plural != "csistoragecapacities",
        _ => false,
    }
}

/// Deletes the path's object.
///
/// # Errors
/// 404 when it does not exist, 409 when a precondition does not hold.
pub async fn delete(call: &Call, body: &Bytes) -> Result<Response<Body>, ApiError> {
    let deletion = options(call, body)?;
    let key = call.key(&call.path.name)?;
    let output = call.output()?;
    match delete_key(call, &key, &deletion).await? {
        Outcome::Gone(item) if !answers_with_object(call.kind.as_ref()) => {
            let old = call.kind.decode_stored(item.value.json()).map_err(ApiError::internal)?;
            let body = status::deleted(call.about(), old.meta().uid.as_deref().unwrap_or(""));
            call.respond(200, "application/json", body.into())
        }
        Outcome::Gone(item) | Outcome::Pending(item) => {
            call.respond(200, output.content_type(), Body::Full(output.one(&item)?))
        }
    }
}

/// Deletes what the selectors pick of the path's collection, and answers with what it was.
///
/// # Errors
/// 400 for bad selectors; the first failure, when an object cannot be deleted.
pub async fn delete_collection(call: &Call, body: &Bytes) -> Result<Response<Body>, ApiError> {
    let deletion = options(call, body)?;
    call.tenant()?;
    let selection = Selection::of(call)?;
    let page = read::collect(call, &selection, None, None, 0)
        .map_err(|read::Gone| ApiError::internal("the newest state cannot be read"))?;
    let mut keys = Vec::with_capacity(page.items.len());
    for item in &page.items {
        let object = call.kind.decode_stored(item.value.json()).map_err(ApiError::internal)?;
        let namespace = object.meta().namespace.as_deref().unwrap_or("");
        let name = object.meta().name.as_deref().unwrap_or("");
        keys.push(Key::new(call.kind.resource().clone(), item.tenant.clone(), namespace, name));
    }
    let deletion = &deletion;
    let mut results = futures::stream::iter(keys)
        .map(|key| async move { delete_key(call, &key, deletion).await })
        .buffered(COLLECTION_CONCURRENCY);
    let mut items = Vec::new();
    while let Some(result) = results.next().await {
        match result {
            Ok(Outcome::Gone(item) | Outcome::Pending(item)) => items.push(item),
            // Somebody else was faster.
            Err(e) if e.code == 404 => {}
            Err(e) => return Err(e),
        }
    }
    let output = call.output()?;
    let meta = ListMeta { revision: call.app.objects.revision(), ..ListMeta::default() };
    let body = output.list(items, &meta)?;
    call.respond(200, output.content_type(), body)
}

/// Deletes one object for another part of the server (eviction), with a grace period and a precondition.
///
/// # Errors
/// As for [`delete`].
pub async fn evict(call: &Call, key: &Key, options: Option<DeleteOptions>) -> Result<(), ApiError> {
    let deletion = deletion(call, options.unwrap_or_default())?;
    delete_key(call, key, &deletion).await.map(|_| ())
}

async fn delete_key(call: &Call, key: &Key, deletion: &Deletion) -> Result<Outcome, ApiError> {
    let about = About { name: &key.name, ..About::object(call.kind.info(), "") };
    for attempt in 1.. {
        let stored = call.app.objects.get(key).ok_or_else(|| ApiError::not_found(about))?;
        let old = call.kind.decode_stored(stored.json()).map_err(ApiError::internal)?;
        if let Some(uid) = &deletion.preconditions.uid
            && old.meta().uid.as_ref() != Some(uid)
        {
            return Err(uid_conflict(about, uid, old.as_ref()));
        }
        if let Some(revision) = deletion.preconditions.revision
            && revision != stored.revision()
        {
            return Err(ApiError::conflict(
                about,
                &format!(
                    "Precondition failed: ResourceVersion in precondition: {revision}, ResourceVersion in object meta: {}",
                    stored.revision()
                ),
            ));
        }
        call.review(&key.tenant, &key.name, Operation::Delete, Some(old.as_ref()), |r| {
            admission::validate(r, None)
        })?;
        let plan =
            plan(old.as_ref(), deletion, call.now).map_err(|Busy(why)| ApiError::conflict(about, why))?;
        let result = match plan {
            Plan::Nothing => return Ok(Outcome::Pending(Item { tenant: key.tenant.clone(), value: stored })),
            _ if deletion.dry_run => {
                let item = Item { tenant: key.tenant.clone(), value: stored };
                return Ok(if matches!(plan, Plan::Remove) {
                    Outcome::Gone(item)
                } else {
                    Outcome::Pending(item)
                });
            }
            Plan::Remove => {
                let charges =
                    call.review(&key.tenant, &key.name, Operation::Delete, Some(old.as_ref()), |r| {
                        admission::charges(r, None)
                    })?;
                call.app
                    .remove(key, stored.revision(), old.as_ref(), charges)
                    .await
                    .map(|()| Outcome::Gone(Item { tenant: key.tenant.clone(), value: stored.clone() }))
            }
            Plan::Mark(new) => {
                let value = call.app.new_value(call.kind.as_ref(), new.as_ref())?;
                let put = Op::Put {
                    key: key.clone(),
                    value,
                    expect: Expect::Revision(stored.revision()),
                    ttl_s: call.kind.info().ttl_s,
                };
                call.app
                    .commit(put, Vec::new(), crate::app::Charges::default())
                    .await
                    .map(|value| Outcome::Pending(Item { tenant: key.tenant.clone(), value }))
            }
        };
        match result {
            Ok(outcome) => return Ok(outcome),
            Err(WriteError::Conflict { .. })
                if deletion.preconditions.revision.is_none() && attempt < MAX_ATTEMPTS => {}
            Err(WriteError::Recounted) if attempt < MAX_ATTEMPTS => {}
            Err(WriteError::Conflict { .. } | WriteError::Recounted) => {
                return Err(ApiError::modified(about));
            }
            Err(WriteError::Refused(e)) => return Err(e),
        }
    }
    unreachable!("the loop returns")
}

/// What a deletion does to an object.
enum Plan {
    /// It is on its way out already, and this request changes nothing.
    Nothing,
    /// It goes at once.
    Remove,
    /// It is marked, and goes when its finalizers or its grace period are over.
    Mark(Box<dyn Object>),
}

/// Why an object cannot be deleted now.
struct Busy(&'static str);

/// Decides. Pure: time comes in.
fn plan(old: &dyn Object, deletion: &Deletion, now: jiff::Timestamp) -> Result<Plan, Busy> {
    let mut new = old.clone_box();
    let has_contents = old.downcast_ref::<Namespace>().is_some_and(|n| !namespace::may_be_removed(n));
    if has_contents && old.meta().deletion_timestamp.is_some() {
        return Err(Busy(
            "The system is ensuring all content is removed from this namespace.  Upon completion, this namespace will automatically be purged by the system.",
        ));
    }
    set_propagation(new.meta_mut(), deletion.propagation);
    let grace_s = old.downcast_ref::<Pod>().map_or(0, |pod| deletion_grace_s(pod, deletion.grace_s));
    let held = has_contents || new.meta().finalizers.as_ref().is_some_and(|f| !f.is_empty());
    let meta = new.meta_mut();
    if let Some(left) = meta.deletion_grace_period_seconds.filter(|_| meta.deletion_timestamp.is_some()) {
        // Already on its way: a new request can only make it shorter.
        if grace_s >= left && (held || left > 0) {
            return Ok(if new.same(old) { Plan::Nothing } else { Plan::Mark(new) });
        }
    }
    if !held && grace_s == 0 {
        return Ok(Plan::Remove);
    }
    let begun = meta.deletion_timestamp.as_ref().map_or(now, |t| {
        let before_s = meta.deletion_grace_period_seconds.unwrap_or(0);
        t.0.checked_sub(jiff::SignedDuration::from_secs(before_s)).unwrap_or(now)
    });
    let end = begun.checked_add(jiff::SignedDuration::from_secs(grace_s)).unwrap_or(begun);
    meta.deletion_timestamp = Some(Time(end));
    meta.deletion_grace_period_seconds = Some(grace_s);
    if meta.generation.is_some_and(|g| g > 0) {
        meta.generation = meta.generation.map(|g| g + 1);
    }
    if let Some(tenant) = new.downcast_mut::<Tenant>() {
        tenant.status.get_or_insert_default().phase = Some(TenantPhase::Terminating);
    }
    if let Some(namespace) = new.downcast_mut::<Namespace>() {
        namespace::terminate(namespace);
    }
    Ok(Plan::Mark(new))
}

fn set_propagation(meta: &mut ObjectMeta, propagation: Option<Propagation>) {
    let Some(propagation) = propagation else { return };
    let mut finalizers = meta.finalizers.take().unwrap_or_default();
    finalizers.retain(|f| f != FOREGROUND && f != ORPHAN);
    match propagation {
        Propagation::Background => {}
        Propagation::Foreground => finalizers.push(FOREGROUND.to_owned()),
        Propagation::Orphan => finalizers.push(ORPHAN.to_owned()),
    }
    meta.finalizers = (!finalizers.is_empty()).then_some(finalizers);
}

/// Whether an update takes away the last thing that kept a deleted object.
#[must_use]
pub fn is_finished(old: &dyn Object, new: &dyn Object) -> bool {
    let (old_meta, meta) = (old.meta(), new.meta());
    if old_meta.deletion_timestamp.is_none() || meta.finalizers.as_ref().is_some_and(|f| !f.is_empty()) {
        return false;
    }
    if let Some(namespace) = new.downcast_ref::<Namespace>() {
        return namespace::may_be_removed(namespace);
    }
    meta.deletion_grace_period_seconds.unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000;

    fn deletion(grace_s: Option<i64>, propagation: Option<Propagation>) -> Deletion {
        Deletion { grace_s, propagation, preconditions: Preconditions::default(), dry_run: false }
    }

    fn pod(json: &str) -> Pod {
        serde_json::from_str(json).unwrap()
    }

    fn planned(object: &dyn Object, d: &Deletion) -> Option<Plan> {
        plan(object, d, jiff::Timestamp::from_second(NOW).unwrap()).ok()
    }

    #[test]
    fn pods_get_grace_only_when_they_run_somewhere() {
        let running = pod(
            r#"{"metadata":{"name":"p"},"spec":{"nodeName":"n","terminationGracePeriodSeconds":7,"containers":[]}}"#,
        );
        let Some(Plan::Mark(marked)) = planned(&running, &deletion(None, None)) else { panic!("not marked") };
        assert_eq!(marked.meta().deletion_grace_period_seconds, Some(7));
        assert_eq!(marked.meta().deletion_timestamp.as_ref().unwrap().0.as_second(), NOW + 7);
        assert!(matches!(planned(&running, &deletion(Some(0), None)), Some(Plan::Remove)));
        let pending = pod(r#"{"metadata":{"name":"p"},"spec":{"containers":[]}}"#);
        assert!(matches!(planned(&pending, &deletion(Some(9), None)), Some(Plan::Remove)));
        // A second request changes nothing unless it is shorter.
        assert!(matches!(planned(marked.as_ref(), &deletion(Some(9), None)), Some(Plan::Nothing)));
        let Some(Plan::Mark(shorter)) = planned(marked.as_ref(), &deletion(Some(2), None)) else {
            panic!("not marked")
        };
        assert_eq!(shorter.meta().deletion_timestamp.as_ref().unwrap().0.as_second(), NOW + 2);
    }

    #[test]
    fn finalizers_and_propagation_hold_an_object() {
        let held = pod(r#"{"metadata":{"name":"p","finalizers":["x/y"]},"spec":{"containers":[]}}"#);
        let Some(Plan::Mark(marked)) = planned(&held, &deletion(None, None)) else { panic!("not marked") };
        assert_eq!(marked.meta().deletion_grace_period_seconds, Some(0));
        assert!(matches!(planned(marked.as_ref(), &deletion(None, None)), Some(Plan::Nothing)));
        let free = pod(r#"{"metadata":{"name":"p"},"spec":{"containers":[]}}"#);
        for (p, finalizer) in [(Propagation::Foreground, FOREGROUND), (Propagation::Orphan, ORPHAN)] {
            let Some(Plan::Mark(marked)) = planned(&free, &deletion(None, Some(p))) else {
                panic!("not marked")
            };
            assert_eq!(marked.meta().finalizers.as_deref(), Some(&[finalizer.to_owned()][..]));
        }
        assert!(matches!(planned(&free, &deletion(None, Some(Propagation::Background))), Some(Plan::Remove)));
    }

    #[test]
    fn namespaces_wait_for_their_content() {
        let ns: Namespace =
            serde_json::from_str(r#"{"metadata":{"name":"n"},"spec":{"finalizers":["kubernetes"]}}"#)
                .unwrap();
        let Some(Plan::Mark(marked)) = planned(&ns, &deletion(None, None)) else { panic!("not marked") };
        let marked_ns = marked.downcast_ref::<Namespace>().unwrap();
        assert_eq!(marked_ns.status.as_ref().unwrap().phase.as_deref(), Some("Terminating"));
        assert!(plan(marked.as_ref(), &deletion(None, None), jiff::Timestamp::UNIX_EPOCH).is_err());
    }
}
