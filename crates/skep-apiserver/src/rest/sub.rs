//! Subresources: parts of an object with ways of their own.

use bytes::Bytes;
use http::Response;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::autoscaling::v1::{Scale, ScaleSpec, ScaleStatus};
use k8s_openapi::api::core::v1::{Binding, Pod, ServiceAccount};
use k8s_openapi::api::policy::v1::{Eviction, PodDisruptionBudget};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::de::DeserializeOwned;
use skep_api::kinds::core::pod;
use skep_api::kinds::policy::{EvictionError, eviction_options};
use skep_api::{Errors, Object, Path};
use skep_auth::authn::{BoundObject, ServiceAccountRef, TokenRequestError};
use skep_auth::identity::ObjectRef;
use skep_base::{GroupResource, Key, Scope};
use skep_store::{Expect, ListOptions, Op};

use crate::app::{Charges, WriteError};
use crate::body::Body;
use crate::negotiate::json_body;
use crate::output::Item;
use crate::request::Action;
use crate::rest::admit::Operation;
use crate::rest::write::{self, Preconditions};
use crate::rest::{Call, delete, machine, patch, read, stream};
use crate::status::{self, About, ApiError};

/// Serves a request on a subresource that the kind has.
///
/// # Errors
/// As for the verbs, and what each subresource refuses.
pub async fn serve(call: Call, body: Bytes) -> Result<Response<Body>, ApiError> {
    match (call.path.subresource.as_str(), call.path.action) {
        ("scale", action) => scale(&call, action, body).await,
        ("binding", Action::Create) => binding(&call, &body).await,
        ("eviction", Action::Create) => eviction(&call, &body).await,
        ("token", Action::Create) => token(&call, &body),
        ("kubeconfig", Action::Create) => kubeconfig(&call, &body),
        ("credential", Action::Create) => machine::credential(&call, &body),
        ("log" | "exec" | "attach" | "portforward" | "proxy", _) => stream::serve(&call).await,
        ("tunnel", Action::Create) => stream::tunnel(&call),
        (_, Action::Get) => read::get(&call),
        (_, Action::Update) => write::update(&call, body).await,
        (_, Action::Patch) => patch::patch(&call, body).await,
        _ => Err(ApiError::method_not_allowed()),
    }
}

/// Reads a body of a type that is not a registered kind.
///
/// # Errors
/// 400 for anything else than such an object.
pub fn read_body<T: DeserializeOwned>(call: &Call, body: &[u8], kind: &str) -> Result<T, ApiError> {
    let json = &*json_body(&call.headers, body)?;
    let cannot = |e: &dyn std::fmt::Display| {
        ApiError::bad_request(format!("the body cannot be handled as a {kind}: {e}"))
    };
    skep_patch::strict::validate_depth(json, write::MAX_DEPTH).map_err(|e| cannot(&e))?;
    serde_json::from_slice(json).map_err(|e| cannot(&e))
}

/// Asks admission about the body of a subresource that is not the object itself.
///
/// # Errors
/// What admission refuses.
pub fn admitted<T>(call: &Call, name: &str, body: T) -> Result<T, ApiError>
where
    T: k8s_openapi::Metadata<Ty = ObjectMeta> + Clone + PartialEq + serde::Serialize + Send + Sync + 'static,
{
    let mut body = skep_admission::Body(body);
    call.review(call.tenant()?, name, Operation::Create, None, |r| {
        crate::admission::mutate(r, &mut body)?;
        crate::admission::validate(r, Some(&body))
    })?;
    Ok(body.0)
}

async fn scale(call: &Call, action: Action, body: Bytes) -> Result<Response<Body>, ApiError> {
    let key = call.key(&call.path.name)?;
    let shown = |object: &dyn Object| -> Result<Scale, ApiError> {
        let view = call.kind.scale(object).ok_or_else(ApiError::no_such_path)?;
        let meta = object.meta();
        Ok(Scale {
            metadata: ObjectMeta {
                name: meta.name.clone(),
                namespace: meta.namespace.clone(),
                uid: meta.uid.clone(),
                resource_version: meta.resource_version.clone(),
                creation_timestamp: meta.creation_timestamp.clone(),
                ..ObjectMeta::default()
            },
            spec: Some(ScaleSpec { replicas: Some(view.spec_replicas) }),
            status: Some(ScaleStatus { replicas: view.status_replicas, selector: Some(view.selector) }),
        })
    };
    let answer = |scale: &Scale| -> Result<Response<Body>, ApiError> {
        let json = serde_json::to_vec(scale).map_err(ApiError::internal)?;
        call.respond(200, "application/json", json.into())
    };
    let change: Box<dyn Fn(Scale) -> Result<Scale, ApiError> + Send + Sync> = match action {
        Action::Get => {
            let stored = call.app.objects.get(&key).ok_or_else(|| ApiError::not_found(call.about()))?;
            let object = call.kind.decode_stored(stored.json()).map_err(ApiError::internal)?;
            return answer(&shown(object.as_ref())?);
        }
        Action::Update => {
            let wanted: Scale = read_body(call, &body, "Scale")?;
            Box::new(move |_| Ok(wanted.clone()))
        }
        Action::Patch => {
            let patch = patch::parse(call, &body)?;
            let name = call.app.scale_type_name();
            Box::new(move |current| {
                let tree = serde_json::to_value(&current).map_err(ApiError::internal)?;
                let tree = patch::apply(call, &patch, tree, &name)?;
                serde_json::from_value(tree)
                    .map_err(|e| ApiError::bad_request(format!("the body cannot be handled as a Scale: {e}")))
            })
        }
        _ => return Err(ApiError::method_not_allowed()),
    };
    let item = write::update_with(call, &key, Preconditions::default(), |old| {
        let current = shown(old)?;
        let wanted = change(current.clone())?;
        let replicas = wanted.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0);
        let mut errors = Errors::new();
        if wanted.metadata.name.as_deref().is_some_and(|n| *n != *key.name) {
            errors.invalid(
                &Path::root("metadata").child("name"),
                wanted.metadata.name.as_deref().unwrap_or(""),
                "must match the name of the scaled object",
            );
        }
        if replicas < 0 {
            errors.invalid(
                &Path::root("spec").child("replicas"),
                replicas,
                "must be greater than or equal to 0",
            );
        }
        if !errors.is_empty() {
            return Err(ApiError::invalid("autoscaling", "Scale", &key.name, errors));
        }
        let mut new = old.clone_box();
        call.kind.set_scale(new.as_mut(), replicas);
        // The revision binds the write only if the client named one itself.
        new.meta_mut().resource_version = wanted
            .metadata
            .resource_version
            .filter(|v| action == Action::Update || Some(v) != current.metadata.resource_version.as_ref());
        Ok(new)
    })
    .await?;
    let object = call.kind.decode_stored(item.value.json()).map_err(ApiError::internal)?;
    answer(&shown(object.as_ref())?)
}

/// `POST pods/NAME/binding`: the scheduler's word.
async fn binding(call: &Call, body: &Bytes) -> Result<Response<Body>, ApiError> {
    let binding: Binding = read_body(call, body, "Binding")?;
    let binding = admitted(call, &call.path.name, binding)?;
    bind(call, &call.path.name, binding).await
}

/// Binds a pod to a node.
///
/// # Errors
/// 409 when it is bound already or on its way out.
pub async fn bind(call: &Call, name: &str, binding: Binding) -> Result<Response<Body>, ApiError> {
    if binding.metadata.name.as_deref().is_some_and(|n| !n.is_empty() && n != name) {
        return Err(ApiError::bad_request(format!(
            "name in URL does not match name in Binding object: {name}"
        )));
    }
    let mut errors = Errors::new();
    pod::validate_binding(&binding, &mut errors);
    if !errors.is_empty() {
        return Err(ApiError::invalid("", "Binding", name, errors));
    }
    let pods = call.app.kind("", "v1", "pods").ok_or_else(ApiError::no_such_path)?;
    let key = Key::new(pods.resource().clone(), call.tenant()?.clone(), &call.path.namespace, name);
    let about = About { group: "", resource: "pods", name };
    for attempt in 1.. {
        let stored = call.app.objects.get(&key).ok_or_else(|| ApiError::not_found(about))?;
        let mut object = pods.decode_stored(stored.json()).map_err(ApiError::internal)?;
        let pod = object.downcast_mut::<Pod>().ok_or_else(|| ApiError::internal("a pod of another type"))?;
        if let Some(uid) = binding.metadata.uid.as_ref().filter(|u| !u.is_empty())
            && pod.metadata.uid.as_ref() != Some(uid)
        {
            return Err(write::uid_conflict(about, uid, object.as_ref()));
        }
        pod::bind(pod, &binding, call.now).map_err(|why| ApiError::conflict(about, &why))?;
        let value = call.app.new_value(pods.as_ref(), object.as_ref())?;
        if call.options.dry_run {
            break;
        }
        let put =
            Op::Put { key: key.clone(), value, expect: Expect::Revision(stored.revision()), ttl_s: None };
        match call.app.commit(put, Vec::new(), Charges::default()).await {
            Ok(_) => break,
            Err(WriteError::Conflict { .. } | WriteError::Recounted) if attempt < write::MAX_ATTEMPTS => {}
            Err(WriteError::Conflict { .. } | WriteError::Recounted) => {
                return Err(ApiError::modified(about));
            }
            Err(WriteError::Refused(e)) => return Err(e),
        }
    }
    call.respond(201, "application/json", status::success(201).into())
}

/// `POST pods/NAME/eviction`: a deletion that disruption budgets may refuse.
async fn eviction(call: &Call, body: &Bytes) -> Result<Response<Body>, ApiError> {
    let eviction: Eviction = read_body(call, body, "Eviction")?;
    let eviction = admitted(call, &call.path.name, eviction)?;
    let name = call.path.name.as_str();
    let dry_run: &[String] = if call.options.dry_run { &["All".to_owned()] } else { &[] };
    let options = eviction_options(&eviction, name, dry_run).map_err(|e| match e {
        EvictionError::Invalid(errors) => ApiError::invalid("policy", "Eviction", name, errors),
        e => ApiError::bad_request(e.to_string()),
    })?;
    let key = call.key(name)?;
    let stored = call.app.objects.get(&key).ok_or_else(|| ApiError::not_found(call.about()))?;
    let object = call.kind.decode_stored(stored.json()).map_err(ApiError::internal)?;
    let pod = object.downcast_ref::<Pod>().ok_or_else(|| ApiError::internal("a pod of another type"))?;
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("");
    // What does not run disturbs nobody by going.
    let harmless =
        matches!(phase, "Succeeded" | "Failed" | "Pending") || pod.metadata.deletion_timestamp.is_some();
    if !harmless {
        spend_disruption(call, pod).await?;
    }
    delete::evict(call, &key, Some(options)).await?;
    call.respond(201, "application/json", status::success(201).into())
}

/// Takes one allowed disruption off the pod's budget.
async fn spend_disruption(call: &Call, pod: &Pod) -> Result<(), ApiError> {
    let Some(kind) = call.app.kind("policy", "v1", "poddisruptionbudgets") else { return Ok(()) };
    let tenant = call.tenant()?;
    let scope =
        Scope::Namespace(kind.resource().clone(), tenant.clone(), call.path.namespace.as_str().into());
    for attempt in 1.. {
        let listing = call.app.objects.list(&scope, &ListOptions::default()).map_err(ApiError::internal)?;
        let mut matching = Vec::new();
        for (key, value) in &listing.items {
            let budget: PodDisruptionBudget =
                serde_json::from_slice(value.json()).map_err(ApiError::internal)?;
            let selector = budget.spec.as_ref().and_then(|s| s.selector.as_ref());
            let selector = skep_api::meta::label_selector(selector).map_err(ApiError::internal)?;
            let labels = pod.metadata.labels.as_ref();
            if selector.matches(|l| labels.and_then(|m| m.get(l)).map(String::as_str)) {
                matching.push((key.clone(), value.revision(), budget));
            }
        }
        let (key, revision, mut budget) = match matching.len() {
            0 => return Ok(()),
            1 => matching.remove(0),
            _ => {
                return Err(ApiError::internal(
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
                ));
            }
        };
        let budget_name = key.name.to_string();
        let refused = |why: String| {
            ApiError::too_many_requests(
                "Cannot evict pod as it would violate the pod's disruption budget.",
                0,
            )
            .with_cause("DisruptionBudget", why, "")
        };
        let generation = budget.metadata.generation.unwrap_or(0);
        let status = budget.status.get_or_insert_default();
        if status.observed_generation.unwrap_or(0) < generation {
            return Err(ApiError::too_many_requests(
                "Cannot evict pod as it would violate the pod's disruption budget.",
                10,
            )
            .with_cause(
                "DisruptionBudget",
                format!("The disruption budget {budget_name} is still being processed by the server."),
                "",
            ));
        }
        let allowed = status.disruptions_allowed.unwrap_or(0);
        if allowed <= 0 {
            return Err(refused(format!(
                "The disruption budget {budget_name} needs {} healthy pods and has {} currently",
                status.desired_healthy.unwrap_or(0),
                status.current_healthy.unwrap_or(0)
            )));
        }
        status.disruptions_allowed = Some(allowed - 1);
        let name = pod.metadata.name.clone().unwrap_or_default();
        status.disrupted_pods.get_or_insert_default().insert(name, Time(call.now));
        if call.options.dry_run {
            return Ok(());
        }
        let json = serde_json::to_vec(&budget).map_err(ApiError::internal)?;
        let budget = kind.decode_stored(&json).map_err(ApiError::internal)?;
        let value = call.app.new_value(kind.as_ref(), budget.as_ref())?;
        let put = Op::Put { key, value, expect: Expect::Revision(revision), ttl_s: None };
        match call.app.commit(put, Vec::new(), Charges::default()).await {
            Ok(_) => return Ok(()),
            Err(WriteError::Conflict { .. } | WriteError::Recounted) if attempt < write::MAX_ATTEMPTS => {}
            Err(WriteError::Conflict { .. } | WriteError::Recounted) => {
                return Err(refused("too many evictions at once".to_owned()));
            }
            Err(WriteError::Refused(e)) => return Err(e),
        }
    }
    unreachable!("the loop returns")
}

/// `POST serviceaccounts/NAME/token`.
fn token(call: &Call, body: &Bytes) -> Result<Response<Body>, ApiError> {
    let request: TokenRequest = read_body(call, body, "TokenRequest")?;
    let request = admitted(call, &call.path.name, request)?;
    let tenant = call.tenant()?;
    let record = call.app.tenants.get(tenant).ok_or_else(ApiError::no_such_path)?;
    let find = |resource: &str, namespace: &str, name: &str| {
        let key = Key::new(GroupResource::new("", resource), tenant.clone(), namespace, name);
        let about = About { group: "", resource, name };
        call.app
            .objects
            .get(&key)
            .map(|v| Item { tenant: tenant.clone(), value: v })
            .ok_or_else(|| ApiError::not_found(about))
    };
    let meta_of =
        |item: &Item| serde_json::from_slice::<ObjectMeta>(item.value.meta()).map_err(ApiError::internal);
    let namespace = call.path.namespace.as_str();
    let account = find("serviceaccounts", namespace, &call.path.name)?;
    let account: ServiceAccount = serde_json::from_slice(account.value.json()).map_err(ApiError::internal)?;
    let account_uid = account.metadata.uid.unwrap_or_default();
    let refuse = |e: TokenRequestError| match e {
        TokenRequestError::UidConflict { .. } | TokenRequestError::BoundUidConflict { .. } => {
            ApiError::conflict(call.about(), &e.to_string())
        }
        TokenRequestError::OtherAccountsPod { .. } | TokenRequestError::UnsupportedKind(_) => {
            ApiError::bad_request(e.to_string())
        }
        TokenRequestError::Key(_) => ApiError::internal(e),
        e => ApiError::new(422, "Invalid", e.to_string()),
    };
    let bound = match skep_auth::authn::Authenticator::bound_object(&request).map_err(refuse)? {
        None => BoundObject::None,
        Some(("Pod", name)) => {
            let item = find("pods", namespace, name)?;
            let pod: Pod = serde_json::from_slice(item.value.json()).map_err(ApiError::internal)?;
            let spec = pod.spec.unwrap_or_default();
            let node = spec.node_name.filter(|n| !n.is_empty()).map(|name| {
                let uid = find("nodes", "", &name)
                    .and_then(|i| meta_of(&i))
                    .ok()
                    .and_then(|m| m.uid)
                    .unwrap_or_default();
                ObjectRef { name, uid }
            });
            BoundObject::Pod {
                pod: ObjectRef { name: name.to_owned(), uid: pod.metadata.uid.unwrap_or_default() },
                service_account: spec.service_account_name.unwrap_or_default(),
                node,
            }
        }
        Some((kind, name)) => {
            let (resource, in_namespace) =
                if kind == "Secret" { ("secrets", namespace) } else { ("nodes", "") };
            let item = find(resource, in_namespace, name)?;
            let reference = ObjectRef { name: name.to_owned(), uid: meta_of(&item)?.uid.unwrap_or_default() };
            if kind == "Secret" { BoundObject::Secret(reference) } else { BoundObject::Node(reference) }
        }
    };
    let account = ServiceAccountRef { namespace, name: &call.path.name, uid: &account_uid };
    let (mut answer, _) = call
        .app
        .authenticator
        .create_token(tenant, &record.uid_text, account, &request, &bound, call.now)
        .map_err(refuse)?;
    if call.options.dry_run
        && let Some(status) = &mut answer.status
    {
        status.token = Some(String::new());
    }
    let json = serde_json::to_vec(&answer).map_err(ApiError::internal)?;
    call.respond(201, "application/json", json.into())
}

/// Logs and streams ride on a connection that the pod's node holds open.
/// What a kubeconfig is asked for with.
#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct TenantKubeconfig {
    spec: TenantKubeconfigSpec,
}

#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct TenantKubeconfigSpec {
    user: String,
    groups: Vec<String>,
    expiration_seconds: Option<i64>,
}

/// How long a credential is good for when nothing is said, and at most.
const DEFAULT_CREDENTIAL_S: i64 = 365 * 86_400;
const MAX_CREDENTIAL_S: i64 = 10 * 365 * 86_400;

/// `POST tenants/NAME/kubeconfig`: a new credential for a tenant's user.
fn kubeconfig(call: &Call, body: &Bytes) -> Result<Response<Body>, ApiError> {
    let request: TenantKubeconfig = if body.is_empty() {
        TenantKubeconfig::default()
    } else {
        read_body(call, body, "TenantKubeconfig")?
    };
    let about = call.about();
    let name = skep_base::TenantName::new(&call.path.name).map_err(|_| ApiError::not_found(about))?;
    let tenant =
        call.app.tenants.get(&name).filter(|t| !t.closed).ok_or_else(|| ApiError::not_found(about))?;
    let spec = request.spec;
    let seconds = spec.expiration_seconds.unwrap_or(DEFAULT_CREDENTIAL_S);
    if !(60..=MAX_CREDENTIAL_S).contains(&seconds) {
        return Err(ApiError::bad_request(format!(
            "spec.expirationSeconds: {seconds} is not between 60 and {MAX_CREDENTIAL_S}"
        )));
    }
    let user = if spec.user.is_empty() { "admin" } else { &spec.user };
    let groups =
        if spec.groups.is_empty() { vec![skep_auth::groups::MASTERS.to_owned()] } else { spec.groups };
    let yaml = call
        .app
        .pki
        .tenant_kubeconfig(
            &call.app.config.base_url,
            (&name, &tenant.uid_text),
            user,
            &groups,
            jiff::SignedDuration::from_secs(seconds),
            call.now,
        )
        .map_err(ApiError::internal)?
        .to_yaml()
        .map_err(ApiError::internal)?;
    let answer = serde_json::json!({
        "kind": "TenantKubeconfig", "apiVersion": "tenancy.skep.io/v1", "metadata": {"name": name.as_str()},
        "status": {"kubeconfig": yaml},
    });
    call.respond(201, "application/json", answer.to_string().into_bytes().into())
}
