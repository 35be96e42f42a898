//! Create and update.

use bytes::Bytes;
use http::Response;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use rand::Rng;
use skep_api::{Errors, Object, meta};
use skep_base::{Key, Revision};
use skep_store::{Expect, Op};

use crate::admission;
use crate::alloc;
use crate::app::{Charges, WriteError};
use crate::body::Body;
use crate::negotiate::json_body;
use crate::output::{Item, TENANT_ANNOTATION};
use crate::request::{Action, FieldValidation};
use crate::rest::admit::Operation;
use crate::rest::{Call, delete};
use crate::server::MAX_BODY_BYTES;
use crate::status::{About, ApiError};

/// How often a write that named no revision is tried again when others change the object meanwhile.
/// Enough for any honest contention; beyond it the client is told of the conflict.
pub const MAX_ATTEMPTS: usize = 16;

/// How often a generated name is drawn again when it is taken, as upstream.
const MAX_NAME_ATTEMPTS: usize = 8;

/// Deepest nesting of a body: built-in kinds need about 15, JSON schemas in CRDs some more.
pub const MAX_DEPTH: usize = 128;

/// Reads the body as an object of the call's kind.
///
/// # Errors
/// 400 for anything that is not one, and for unknown or duplicate fields when they are to be refused;
/// 415 for other encodings.
pub fn decode(call: &Call, body: &Bytes) -> Result<Box<dyn Object>, ApiError> {
    decode_json(call, &json_body(&call.headers, body)?)
}

/// YAML to JSON, refusing what would grow without bound: a few kilobytes of aliases of aliases can stand for
/// gigabytes, so they are written out one after the other, and never further than a body in JSON may go.
///
/// # Errors
/// 400 for malformed YAML, and for YAML that stands for more than [`MAX_BODY_BYTES`] of JSON.
pub fn yaml_to_json(yaml: &[u8]) -> Result<Vec<u8>, ApiError> {
    let bad =
        |e: &dyn std::fmt::Display| ApiError::bad_request(format!("error converting YAML to JSON: {e}"));
    let text = std::str::from_utf8(yaml).map_err(|e| bad(&e))?;
    let mut json = Bounded(Vec::with_capacity(yaml.len()));
    let mut writer = serde_json::Serializer::new(&mut json);
    serde_transcode::transcode(serde_yaml_ng::Deserializer::from_str(text), &mut writer)
        .map_err(|e| bad(&e))?;
    Ok(json.0)
}

/// Takes as many bytes as a body may have.
struct Bounded(Vec<u8>);

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_BODY_BYTES {
            let why = format!("it stands for more than {MAX_BODY_BYTES} bytes of JSON");
            return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, why));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// As [`decode`], for JSON whatever the headers say.
///
/// # Errors
/// As for [`decode`].
pub fn decode_json(call: &Call, json: &[u8]) -> Result<Box<dyn Object>, ApiError> {
    let info = call.kind.info();
    let cannot = |why: &str| {
        ApiError::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: {why}",
            info.kind, info.version, info.kind
        ))
    };
    skep_patch::strict::validate_depth(json, MAX_DEPTH).map_err(|e| cannot(&e.to_string()))?;
    check_type(call, json)?;
    // Inside an object, null is the zero value; by itself it is nothing.
    if json.trim_ascii() == b"null" {
        return Err(cannot("Object 'Kind' is missing in 'null'"));
    }
    let validation = call.options.field_validation;
    let mut unknown = Vec::new();
    let object = call
        .kind
        .decode(json, &mut |path| unknown.push(skep_patch::strict::FieldPath::from(path)))
        .map_err(|e| cannot(&e.message))?;
    let complaints = match validation {
        FieldValidation::Ignore => return Ok(object),
        _ => skep_patch::strict::strict_errors(json, &unknown),
    };
    if validation == FieldValidation::Strict && !complaints.is_empty() {
        return Err(cannot(&skep_patch::strict::strict_decoding_message(&complaints)));
    }
    complaints.iter().for_each(|c| call.warn(c.to_string()));
    Ok(object)
}

/// The body's own idea of what it is must be that of the path, where it says anything.
pub(crate) fn check_type(call: &Call, json: &[u8]) -> Result<(), ApiError> {
    #[derive(serde::Deserialize)]
    struct TypeMeta<'a> {
        #[serde(rename = "apiVersion", borrow, default)]
        api_version: Option<std::borrow::Cow<'a, str>>,
        #[serde(borrow, default)]
        kind: Option<std::borrow::Cow<'a, str>>,
    }
    let info = call.kind.info();
    // Malformed JSON is reported by the real decoder, with its position.
    let Ok(said) = serde_json::from_slice::<TypeMeta<'_>>(json) else { return Ok(()) };
    let wanted = info.api_version();
    if let Some(version) = said.api_version.filter(|v| !v.is_empty())
        && version != wanted
    {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version ({wanted})"
        )));
    }
    if let Some(kind) = said.kind.filter(|k| !k.is_empty())
        && kind != info.kind
    {
        return Err(ApiError::bad_request(format!(
            "the kind in the data ({kind}) does not match the expected kind ({})",
            info.kind
        )));
    }
    Ok(())
}

/// Five characters without vowels or look-alikes, so that no words come out; upstream's alphabet.
fn generated_suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rng = rand::rng();
    (0..5).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])).collect()
}

/// What marks a creation that is to be tried again.
const AGAIN: &str = "something that the write rests on changed meanwhile";

/// Longest name to which a generated suffix still fits into a label.
const MAX_GENERATED_BASE_BYTES: usize = 58;

/// Creates the body's object in the path's collection.
///
/// # Errors
/// 409 when the name is taken, 422 when the object is not valid, 403 when admission refuses it.
pub async fn create(call: &Call, body: Bytes) -> Result<Response<Body>, ApiError> {
    let object = decode(call, &body)?;
    drop(body);
    if !object.meta().name.as_deref().unwrap_or("").is_empty() && !call.path.name.is_empty() {
        return Err(ApiError::method_not_allowed());
    }
    let item = create_object(call, object).await?;
    let output = call.output()?;
    call.respond(201, output.content_type(), Body::Full(output.one(&item)?))
}

/// Gives a new object its place: namespace, uid, times; takes away what only the server may say.
fn stamp_new(call: &Call, meta: &mut ObjectMeta) -> Result<(), ApiError> {
    place(call, meta)?;
    if meta.resource_version.as_deref().is_some_and(|v| !v.is_empty() && v != "0") {
        return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
    }
    meta.resource_version = None;
    meta.uid = Some(uuid::Uuid::new_v4().to_string());
    meta.creation_timestamp = Some(Time(call.now));
    meta.deletion_timestamp = None;
    meta.deletion_grace_period_seconds = None;
    meta.self_link = None;
    meta.managed_fields = None;
    meta.generation = None;
    Ok(())
}

/// Makes the object's namespace agree with the path's.
fn place(call: &Call, meta: &mut ObjectMeta) -> Result<(), ApiError> {
    if let Some(annotations) = &mut meta.annotations {
        annotations.remove(TENANT_ANNOTATION);
    }
    if !call.kind.info().namespaced {
        // Upstream tolerates a namespace on cluster-scoped objects only when it is empty.
        if meta.namespace.as_deref().is_some_and(|n| !n.is_empty()) {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        meta.namespace = None;
        return Ok(());
    }
    match meta.namespace.as_deref() {
        None | Some("") => meta.namespace = Some(call.path.namespace.clone()),
        Some(n) if n == call.path.namespace => {}
        Some(_) => {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
    }
    Ok(())
}

/// Admits, checks and stores a new object.
///
/// # Errors
/// As for [`create`].
pub async fn create_object(call: &Call, mut object: Box<dyn Object>) -> Result<Item, ApiError> {
    let info = call.kind.info();
    let tenant = call.tenant()?.clone();
    if info.namespaced && call.path.namespace.is_empty() {
        return Err(ApiError::bad_request("an empty namespace may not be set during creation"));
    }
    stamp_new(call, object.meta_mut())?;
    let given = object.meta().name.clone().filter(|n| !n.is_empty());
    let prefix = object.meta().generate_name.clone().unwrap_or_default();
    let generate = given.is_none() && !prefix.is_empty();
    for attempt in 1.. {
        let mut object = object.clone_box();
        if generate {
            let base = &prefix[..prefix.floor_char_boundary(MAX_GENERATED_BASE_BYTES)];
            object.meta_mut().name = Some(format!("{base}{}", generated_suffix()));
        }
        let name = object.meta().name.clone().unwrap_or_default();
        match create_named(call, &tenant, &name, object).await {
            Err(e) if generate && e.reason == "AlreadyExists" && attempt < MAX_NAME_ATTEMPTS => {}
            Err(e) if e.reason == "Conflict" && e.message.ends_with(AGAIN) && attempt < MAX_ATTEMPTS => {}
            result => return result,
        }
    }
    unreachable!("the loop returns")
}

async fn create_named(
    call: &Call,
    tenant: &skep_base::TenantName,
    name: &str,
    mut object: Box<dyn Object>,
) -> Result<Item, ApiError> {
    let kind = &call.kind;
    let cx = call.context();
    call.review(tenant, name, Operation::Create, None, |r| admission::mutate(r, object.as_mut()))?;
    kind.prepare_create(object.as_mut(), &cx);
    let mut more = alloc::allocate(&call.app.objects, tenant, None, object.as_mut())?;
    object.meta_mut().generation = kind.generation_changed(object.as_ref(), None).map(|_| 1);
    let mut errors = Errors::new();
    meta::validate_object_meta(object.meta(), kind.info(), &mut errors);
    meta::validate_finalizer_names(object.meta(), &mut errors);
    errors.extend(kind.validate(object.as_ref(), &cx));
    if !errors.is_empty() {
        return Err(invalid(call, name, errors));
    }
    for warning in kind.warnings(object.as_ref(), None, &cx) {
        call.warn(warning);
    }
    let key = call.key(name)?;
    let companions = call.app.companions(&key, call.now)?;
    let charges = call.review(tenant, name, Operation::Create, None, |r| {
        admission::validate(r, Some(object.as_ref()))?;
        let mut charges = admission::charges(r, Some(object.as_ref()))?;
        admission::charge_companions(r, &companions, &mut charges)?;
        Ok::<_, ApiError>(charges)
    })?;
    let value = call.app.new_value(kind.as_ref(), object.as_ref())?;
    if call.options.dry_run {
        if call.app.objects.get(&key).is_some() {
            return Err(ApiError::already_exists(About::object(kind.info(), name)));
        }
        return call.app.dry_run_item(&key, value);
    }
    let ttl_s = kind.info().ttl_s;
    let own = key.clone();
    more.extend(companions);
    let put = Op::Put { key: key.clone(), value, expect: Expect::Absent, ttl_s };
    match call.app.commit(put, more, charges).await {
        Ok(value) => Ok(Item { tenant: key.tenant, value }),
        // Somebody took an address or port that was chosen freely: choose again.
        Err(WriteError::Conflict { key }) if alloc::is_allocation(&key, &own) => {
            Err(ApiError::conflict(About::object(kind.info(), name), AGAIN))
        }
        Err(WriteError::Recounted) => Err(ApiError::conflict(About::object(kind.info(), name), AGAIN)),
        Err(WriteError::Conflict { .. }) => Err(ApiError::already_exists(About::object(kind.info(), name))),
        Err(WriteError::Refused(e)) => Err(e),
    }
}

/// 422 for an object of the call's kind.
#[must_use]
pub fn invalid(call: &Call, name: &str, errors: Errors) -> ApiError {
    let info = call.kind.info();
    ApiError::invalid(&info.group, &info.kind, name, errors)
}

/// Replaces the path's object with the body's.
///
/// # Errors
/// 404 when it does not exist, 409 when it has moved on, 422 when the object or the change is not valid,
/// 403 when admission refuses it.
pub async fn update(call: &Call, body: Bytes) -> Result<Response<Body>, ApiError> {
    let object = decode(call, &body)?;
    drop(body);
    match object.meta().name.as_deref() {
        Some(name) if name == call.path.name => {}
        None | Some("") => return Err(ApiError::bad_request("name must be provided")),
        Some(name) => {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                call.path.name
            )));
        }
    }
    let key = call.key(&call.path.name)?;
    if call.app.objects.get(&key).is_none()
        && call.kind.info().create_on_update
        && call.path.subresource.is_empty()
    {
        call.app.authorize_also(call, Action::Create)?;
        let item = create_object(call, object).await?;
        let output = call.output()?;
        return call.respond(201, output.content_type(), Body::Full(output.one(&item)?));
    }
    let item = update_with(call, &key, Preconditions::default(), |_| Ok(object.clone_box())).await?;
    let output = call.output()?;
    call.respond(200, output.content_type(), Body::Full(output.one(&item)?))
}

/// What must hold of the object that is changed.
#[derive(Clone, Debug, Default)]
pub struct Preconditions {
    /// Its uid.
    pub uid: Option<String>,
    /// Its revision.
    pub revision: Option<Revision>,
}

/// Reads an object, lets `change` make the new one of it, then admits, checks and stores that. When others
/// write meanwhile and the new object names no revision, it is done again.
///
/// # Errors
/// As for [`update`], and what `change` refuses.
pub async fn update_with(
    call: &Call,
    key: &Key,
    preconditions: Preconditions,
    mut change: impl FnMut(&dyn Object) -> Result<Box<dyn Object>, ApiError>,
) -> Result<Item, ApiError> {
    let about = About { name: &key.name, ..About::object(call.kind.info(), "") };
    for attempt in 1.. {
        let stored = call.app.objects.get(key).ok_or_else(|| ApiError::not_found(about))?;
        let old = call.kind.decode_stored(stored.json()).map_err(ApiError::internal)?;
        if preconditions.revision.is_some_and(|r| r != stored.revision()) {
            return Err(ApiError::modified(about));
        }
        if let Some(uid) = &preconditions.uid
            && old.meta().uid.as_ref() != Some(uid)
        {
            return Err(uid_conflict(about, uid, old.as_ref()));
        }
        let new = change(old.as_ref())?;
        let named = named_revision(call, new.as_ref())?;
        if named.is_some_and(|r| r != stored.revision()) {
            return Err(ApiError::modified(about));
        }
        // A patch is made on the object as it is: it is conditional on that by itself.
        let whole = call.path.action == Action::Update;
        if whole && named.is_none() && !call.kind.info().unconditional_update {
            let mut errors = Errors::new();
            let path = skep_api::Path::root("metadata");
            errors.invalid(
                &path.child("resourceVersion"),
                skep_api::field::Bare("0x0"),
                "must be specified for an update",
            );
            return Err(invalid(call, &key.name, errors));
        }
        match store_update(call, key, &stored, old.as_ref(), new).await {
            Err(WriteError::Conflict { .. }) if named.is_none() && attempt < MAX_ATTEMPTS => {}
            Err(WriteError::Recounted) if attempt < MAX_ATTEMPTS => {}
            Err(WriteError::Conflict { .. } | WriteError::Recounted) => {
                return Err(ApiError::modified(about));
            }
            Err(WriteError::Refused(e)) => return Err(e),
            Ok(item) => return Ok(item),
        }
    }
    unreachable!("the loop returns")
}

/// 409 for an object that is not the one meant.
#[must_use]
pub fn uid_conflict(about: About<'_>, wanted: &str, old: &dyn Object) -> ApiError {
    let found = old.meta().uid.clone().unwrap_or_default();
    ApiError::conflict(
        about,
        &format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}"),
    )
}

fn named_revision(call: &Call, object: &dyn Object) -> Result<Option<Revision>, ApiError> {
    match object.meta().resource_version.as_deref() {
        None | Some("" | "0") => Ok(None),
        Some(text) => Revision::parse(text).map(Some).ok_or_else(|| {
            let mut errors = Errors::new();
            let path = skep_api::Path::root("metadata");
            errors.invalid(
                &path.child("resourceVersion"),
                text,
                "must be a resource version that the server gave out",
            );
            invalid(call, object.meta().name.as_deref().unwrap_or(""), errors)
        }),
    }
}

/// What an update may not change: taken over from the old object where the new one leaves it out.
fn keep_identity(meta: &mut ObjectMeta, old: &ObjectMeta) {
    if meta.uid.as_deref().is_none_or(str::is_empty) {
        meta.uid.clone_from(&old.uid);
    }
    meta.creation_timestamp.clone_from(&old.creation_timestamp);
    if meta.deletion_timestamp.is_none() {
        meta.deletion_timestamp.clone_from(&old.deletion_timestamp);
    }
    if meta.deletion_grace_period_seconds.is_none() {
        meta.deletion_grace_period_seconds = old.deletion_grace_period_seconds;
    }
    meta.generation = old.generation;
    meta.generate_name.clone_from(&old.generate_name);
    meta.resource_version.clone_from(&old.resource_version);
    meta.self_link = None;
    meta.managed_fields = None;
}

async fn store_update(
    call: &Call,
    key: &Key,
    stored: &std::sync::Arc<skep_store::Value>,
    old: &dyn Object,
    mut new: Box<dyn Object>,
) -> Result<Item, WriteError> {
    let kind = &call.kind;
    let cx = call.context();
    let refuse = WriteError::Refused;
    place(call, new.meta_mut()).map_err(refuse)?;
    if let (Some(uid), Some(old_uid)) = (new.meta().uid.as_ref().filter(|u| !u.is_empty()), &old.meta().uid)
        && uid != old_uid
    {
        let about = About { name: &key.name, ..About::object(kind.info(), "") };
        return Err(refuse(ApiError::conflict(
            about,
            &format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {old_uid}"),
        )));
    }
    keep_identity(new.meta_mut(), old.meta());
    call.review(&key.tenant, &key.name, Operation::Update, Some(old), |r| admission::mutate(r, new.as_mut()))
        .map_err(refuse)?;
    kind.prepare_update(new.as_mut(), old, &cx);
    let more = alloc::allocate(&call.app.objects, &key.tenant, Some(old), new.as_mut()).map_err(refuse)?;
    if kind.generation_changed(new.as_ref(), Some(old)) == Some(true) {
        new.meta_mut().generation = Some(old.meta().generation.unwrap_or(0) + 1);
    }
    let mut errors = Errors::new();
    meta::validate_object_meta_update(new.meta(), old.meta(), &mut errors);
    meta::validate_finalizer_names(new.meta(), &mut errors);
    errors.extend(kind.validate_update(new.as_ref(), old, &cx));
    if !errors.is_empty() {
        return Err(refuse(invalid(call, &key.name, errors)));
    }
    for warning in kind.warnings(new.as_ref(), Some(old), &cx) {
        call.warn(warning);
    }
    let charges = call
        .review(&key.tenant, &key.name, Operation::Update, Some(old), |r| {
            admission::validate(r, Some(new.as_ref()))?;
            admission::charges(r, Some(new.as_ref()))
        })
        .map_err(refuse)?;
    if delete::is_finished(old, new.as_ref()) {
        // The last finalizer is gone: this write is the deletion.
        return finish_deletion(call, key, stored, old, new).await;
    }
    if new.same(old) {
        // Nothing changes: no write, no event, the same revision.
        return Ok(Item { tenant: key.tenant.clone(), value: stored.clone() });
    }
    let value = call.app.new_value(kind.as_ref(), new.as_ref()).map_err(refuse)?;
    if call.options.dry_run {
        return call.app.dry_run_item(key, value).map_err(refuse);
    }
    let put = Op::Put {
        key: key.clone(),
        value,
        expect: Expect::Revision(stored.revision()),
        ttl_s: kind.info().ttl_s,
    };
    let value = call.app.commit(put, more, charges).await?;
    Ok(Item { tenant: key.tenant.clone(), value })
}

async fn finish_deletion(
    call: &Call,
    key: &Key,
    stored: &std::sync::Arc<skep_store::Value>,
    old: &dyn Object,
    new: Box<dyn Object>,
) -> Result<Item, WriteError> {
    let value = call.app.new_value(call.kind.as_ref(), new.as_ref()).map_err(WriteError::Refused)?;
    let item = call.app.dry_run_item(key, value).map_err(WriteError::Refused)?;
    if !call.options.dry_run {
        let charges: Charges = call
            .review(&key.tenant, &key.name, Operation::Delete, Some(old), |r| admission::charges(r, None))
            .map_err(WriteError::Refused)?;
        call.app.remove(key, stored.revision(), old, charges).await?;
    }
    Ok(item)
}
