//! Patches: JSON patch, merge patch, strategic merge patch.

use bytes::Bytes;
use http::Response;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Map, Value as Json, json};
use skep_api::{Errors, Object, Path};
use skep_patch::Rejection;
use skep_patch::json::JsonPatch;

use crate::body::Body;
use crate::negotiate::media_type;
use crate::request::FieldValidation;
use crate::rest::{Call, write};
use crate::status::ApiError;

/// A patch, read and checked as far as it can be without an object.
pub struct Patch {
    form: Form,
    /// Fields that occur twice in the patch itself, or that an operation does not have. Told only once the
    /// patch has been applied: what does not apply is refused for that.
    complaints: Vec<String>,
}

enum Form {
    /// RFC 6902.
    Json(JsonPatch),
    /// RFC 7386.
    Merge(Json),
    /// Kubernetes' own.
    Strategic(Map<String, Json>),
}

/// Turns what the patch crate refuses into a `Status`.
fn refused(rejection: Rejection, message: String) -> ApiError {
    match rejection {
        Rejection::BadRequest => ApiError::bad_request(message),
        Rejection::TooLarge => ApiError::too_large(format!("Request entity too large: {message}")),
        Rejection::Unprocessable => {
            tracing::debug!(message, "patch does not apply");
            ApiError::new(422, "Invalid", skep_patch::UNPROCESSABLE_MESSAGE)
        }
        Rejection::Internal => ApiError::new(500, "", message),
    }
}

/// Reads the body by its content type.
///
/// # Errors
/// 415 for other types, 400 for malformed patches and, where strictness is asked for, for sloppy ones.
pub fn parse(call: &Call, body: &Bytes) -> Result<Patch, ApiError> {
    let strict = call.options.field_validation != FieldValidation::Ignore;
    let (form, complaints) = match media_type(&call.headers) {
        "application/json-patch+json" => {
            let patch = JsonPatch::decode(body, strict).map_err(|e| refused(e.rejection(), e.to_string()))?;
            let complaints = if strict { patch.strict_errors(body) } else { Vec::new() };
            (Form::Json(patch), complaints)
        }
        "application/merge-patch+json" => {
            let patch =
                skep_patch::merge::decode(body, strict).map_err(|e| refused(e.rejection(), e.to_string()))?;
            (Form::Merge(patch), duplicates(body, strict))
        }
        "application/strategic-merge-patch+json" => {
            let patch =
                skep_patch::strategic::decode(body).map_err(|e| refused(e.rejection(), e.to_string()))?;
            (Form::Strategic(patch), duplicates(body, strict))
        }
        _ => {
            return Err(ApiError::unsupported_media_type(
                "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json",
            ));
        }
    };
    Ok(Patch { form, complaints })
}

fn duplicates(body: &Bytes, strict: bool) -> Vec<String> {
    if !strict {
        return Vec::new();
    }
    skep_patch::strict::duplicate_fields(body).iter().map(ToString::to_string).collect()
}

/// Applies a patch to a JSON tree of the type `type_name`.
///
/// # Errors
/// 400 for patches that make no sense, 422 for those that do not fit the object, 415 for strategic patches
/// of types that have no merge rules.
pub fn apply(call: &Call, patch: &Patch, tree: Json, type_name: &str) -> Result<Json, ApiError> {
    match &patch.form {
        Form::Json(p) => p.apply(tree).map_err(|e| refused(e.rejection(), e.to_string())),
        Form::Merge(p) => {
            skep_patch::merge::apply(tree, p.clone()).map_err(|e| refused(e.rejection(), e.to_string()))
        }
        Form::Strategic(p) => {
            let schema = call.app.merge_schema();
            let Some(type_id) = schema.type_id(type_name) else {
                return Err(ApiError::unsupported_media_type(
                    "strategic merge patch is not supported for this resource: use application/merge-patch+json",
                ));
            };
            let Json::Object(tree) = tree else {
                return Err(ApiError::internal("an object that is no JSON object"));
            };
            skep_patch::strategic::apply(schema, type_id, tree, p.clone())
                .map(Json::Object)
                .map_err(|e| refused(e.rejection(), e.to_string()))
        }
    }
}

/// Patches the path's object.
///
/// # Errors
/// As for an update, and for malformed patches.
pub async fn patch(call: &Call, body: Bytes) -> Result<Response<Body>, ApiError> {
    let patch = parse(call, &body)?;
    drop(body);
    let key = call.key(&call.path.name)?;
    let type_name = call.app.type_name(call.kind.as_ref());
    let item = write::update_with(call, &key, write::Preconditions::default(), |old| {
        match pod_status(call, &patch, old, &type_name) {
            Some(new) => Ok(new),
            None => changed(call, &patch, old, &type_name),
        }
    })
    .await?;
    let output = call.output()?;
    call.respond(200, output.content_type(), Body::Full(output.one(&item)?))
}

/// What [`changed`] makes, for what is patched more often than anything else: the status of a pod. Its specification, most of a pod,
/// cannot be changed this way and need not become a tree and be read again.
///
/// `None` for everything else, and for what is to be refused: [`changed`] finds the words.
fn pod_status(call: &Call, patch: &Patch, old: &dyn Object, type_name: &str) -> Option<Box<dyn Object>> {
    let pod = old.downcast_ref::<Pod>().filter(|_| call.path.subresource == "status")?;
    let (Form::Merge(Json::Object(fields)) | Form::Strategic(fields)) = &patch.form else { return None };
    if fields.keys().any(|field| field != "metadata" && field != "status") {
        return None;
    }
    let mut part = json!({"apiVersion": "v1", "kind": "Pod", "metadata": pod.metadata});
    if let Some(status) = &pod.status {
        part["status"] = serde_json::to_value(status).ok()?;
    }
    let mut new = read_back(call, patch, old, part, type_name).ok()?;
    new.downcast_mut::<Pod>()?.spec.clone_from(&pod.spec);
    Some(new)
}

fn changed(
    call: &Call,
    patch: &Patch,
    old: &dyn Object,
    type_name: &str,
) -> Result<Box<dyn Object>, ApiError> {
    let tree = call.kind.to_value(old).map_err(ApiError::internal)?;
    read_back(call, patch, old, tree, type_name)
}

/// Patches the tree of an object, or of a part of it, and makes an object of it again.
fn read_back(
    call: &Call,
    patch: &Patch,
    old: &dyn Object,
    tree: Json,
    type_name: &str,
) -> Result<Box<dyn Object>, ApiError> {
    let before = tree["metadata"]["resourceVersion"].clone();
    let mut tree = apply(call, patch, tree, type_name)?;
    // A patch that does not speak of the revision is not bound to the one that it happened to be applied to.
    if let Some(meta) = tree.get_mut("metadata").and_then(Json::as_object_mut)
        && meta.get("resourceVersion") == Some(&before)
        && !names_revision(patch)
    {
        meta.remove("resourceVersion");
    }
    let json = serde_json::to_vec(&tree).map_err(ApiError::internal)?;
    let object = decode(call, patch, &json)?;
    if object.meta().name != old.meta().name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({})",
            object.meta().name.as_deref().unwrap_or(""),
            call.path.name
        )));
    }
    Ok(object)
}

/// Reads the object that a patch has made, and tells of everything that strictness complains about, in the
/// patch and in the object, together.
fn decode(call: &Call, patch: &Patch, json: &[u8]) -> Result<Box<dyn Object>, ApiError> {
    let refuse = |why: &str| {
        let mut errors = Errors::new();
        errors.invalid(&Path::root("patch"), shown(patch, json), why);
        // Upstream names no kind and no object here.
        ApiError::invalid("", "", "", errors)
    };
    skep_patch::strict::validate_depth(json, write::MAX_DEPTH).map_err(|e| refuse(&e.to_string()))?;
    write::check_type(call, json)?;
    let mut unknown = Vec::new();
    let object = call
        .kind
        .decode(json, &mut |path| unknown.push(skep_patch::strict::FieldPath::from(path)))
        .map_err(|e| refuse(&e.message))?;
    if call.options.field_validation == FieldValidation::Ignore {
        return Ok(object);
    }
    let of_object = skep_patch::strict::strict_errors(json, &unknown);
    let complaints: Vec<String> =
        patch.complaints.iter().cloned().chain(of_object.iter().map(ToString::to_string)).collect();
    if call.options.field_validation == FieldValidation::Strict && !complaints.is_empty() {
        return Err(refuse(&skep_patch::strict::strict_decoding_message(&complaints)));
    }
    complaints.into_iter().for_each(|c| call.warn(c));
    Ok(object)
}

/// What a refusal shows: the patched object, or for a strategic patch the patch itself, as Go prints it.
fn shown(patch: &Patch, json: &[u8]) -> String {
    match &patch.form {
        Form::Strategic(p) => skep_patch::go_format::value(&Json::Object(p.clone())),
        Form::Json(_) | Form::Merge(_) => String::from_utf8_lossy(json).into_owned(),
    }
}

fn names_revision(patch: &Patch) -> bool {
    match &patch.form {
        Form::Merge(p) => p.pointer("/metadata/resourceVersion").is_some(),
        Form::Strategic(p) => p.get("metadata").is_some_and(|m| m.get("resourceVersion").is_some()),
        // A `test` of the revision is made again at every attempt.
        Form::Json(_) => false,
    }
}
