//! What goes to the agents: logs, exec, attach, port-forward, and the node's own documents.
//!
//! An agent holds a connection open (`nodes/NAME/tunnel`, upgraded to `skep-tunnel`), and the server asks over it. A client's
//! upgraded connection is passed through as bytes: which protocol it speaks is between it and the agent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::RwLock;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustc_hash::FxHashMap;
use skep_base::TenantName;
use skep_stream::{NodeUsage, Outgoing, Tunnel, UPGRADE, USAGE_PATH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::body::Body;
use crate::request::Action;
use crate::rest::Call;
use crate::status::ApiError;

/// What an agent upgrades its connection to.
const PROTOCOL: &str = "skep-tunnel";

/// Longest explanation that an agent gives.
const MAX_REFUSAL_BYTES: usize = 64 * 1024;

/// So long what a node said of its pods' usage is told again: a third of the time over which it is a mean.
const USAGE_FRESH: Duration = Duration::from_secs(5);
/// A node that did not answer is left alone for so long.
const USAGE_RETRY: Duration = Duration::from_secs(10);
/// How long a node may take to answer. It reads some files for each container: 100 ms with 500 pods.
const USAGE_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest answer: 500 pods of 10 containers, with long names.
const MAX_USAGE_BYTES: usize = 2 << 20;

/// Pieces of a client's bytes under way to an agent.
const QUEUE: usize = 8;

/// What a query component may hold as it is.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The headers of an upgrade that agents are told.
const TOLD: [HeaderName; 4] = [
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::SEC_WEBSOCKET_VERSION,
    HeaderName::from_static("x-stream-protocol-version"),
];

/// The headers of an agent's answer to an upgrade that clients are told.
const ANSWERED: [HeaderName; 3] = [
    header::SEC_WEBSOCKET_ACCEPT,
    header::SEC_WEBSOCKET_PROTOCOL,
    HeaderName::from_static("x-stream-protocol-version"),
];

/// An agent that is connected.
#[derive(Clone)]
struct Connected {
    /// Which connection it is.
    id: u64,
    tunnel: Tunnel,
    /// What it last said of its pods' usage.
    usage: Arc<LastUsage>,
}

type ByNode = FxHashMap<String, Connected>;

/// What a node said last, and a lock for whoever asks it: one at a time, and the others wait for that answer.
#[derive(Default)]
struct LastUsage(tokio::sync::Mutex<Option<(Instant, Option<Arc<NodeUsage>>)>>);

/// The agents that are connected to this server.
#[derive(Default)]
pub struct Tunnels {
    by_node: RwLock<FxHashMap<TenantName, ByNode>>,
    next: AtomicU64,
}

impl Tunnels {
    fn get(&self, tenant: &TenantName, node: &str) -> Option<Tunnel> {
        let by_node = self.by_node.read();
        by_node.get(tenant)?.get(node).map(|c| c.tunnel.clone()).filter(|t| !t.is_closed())
    }

    /// What a node's pods use, as it says now or has said a moment ago. Nothing when it is not connected, or does not answer: then it is
    /// not asked again for some time.
    pub(crate) async fn usage(&self, tenant: &TenantName, node: &str) -> Option<Arc<NodeUsage>> {
        let connected = self.by_node.read().get(tenant)?.get(node)?.clone();
        if connected.tunnel.is_closed() {
            return None;
        }
        let mut last = connected.usage.0.lock().await;
        if let Some((at, usage)) = &*last
            && at.elapsed() < if usage.is_some() { USAGE_FRESH } else { USAGE_RETRY }
        {
            return usage.clone();
        }
        // Written down before: whoever asks gives up waiting by being dropped, and the next must not wait as long again.
        *last = Some((Instant::now(), None));
        let asked = tokio::time::timeout(USAGE_TIMEOUT, ask_usage(&connected.tunnel)).await;
        let usage = match asked {
            Ok(Ok(usage)) => Some(Arc::new(usage)),
            Ok(Err(why)) => {
                tracing::debug!(%tenant, node, why, "a node does not say what its pods use");
                None
            }
            Err(_) => {
                tracing::debug!(%tenant, node, "a node does not say in time what its pods use");
                None
            }
        };
        *last = Some((Instant::now(), usage.clone()));
        usage
    }

    /// A newer connection of the same agent takes the place of an older one, which may be dead without anybody having noticed.
    fn put(&self, tenant: &TenantName, node: &str, tunnel: Tunnel) -> u64 {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let connected = Connected { id, tunnel, usage: Arc::default() };
        self.by_node.write().entry(tenant.clone()).or_default().insert(node.to_owned(), connected);
        id
    }

    fn remove(&self, tenant: &TenantName, node: &str, id: u64) {
        let mut by_node = self.by_node.write();
        if let Some(nodes) = by_node.get_mut(tenant) {
            if nodes.get(node).is_some_and(|c| c.id == id) {
                nodes.remove(node);
            }
            if nodes.is_empty() {
                by_node.remove(tenant);
            }
        }
    }
}

async fn ask_usage(tunnel: &Tunnel) -> Result<NodeUsage, String> {
    let request = Request::builder().uri(format!("http://node{USAGE_PATH}")).body(Outgoing::empty());
    let request = request.map_err(|e| e.to_string())?;
    let (head, body) = tunnel.request(request).await.map_err(|e| e.to_string())?.into_parts();
    if head.status != StatusCode::OK {
        return Err(format!("it answers {}", head.status));
    }
    let body = Limited::new(body, MAX_USAGE_BYTES).collect().await.map_err(|e| e.to_string())?;
    serde_json::from_slice(&body.to_bytes()).map_err(|e| e.to_string())
}

fn wanted_upgrade(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.get(header::UPGRADE)
}

fn switching(protocol: &HeaderValue) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(header::UPGRADE, protocol.clone());
    response
}

/// An agent's connection.
///
/// # Errors
/// 400 when it is not to be upgraded.
pub fn tunnel(call: &Call) -> Result<Response<Body>, ApiError> {
    let protocol = wanted_upgrade(&call.headers).filter(|v| v.as_bytes() == PROTOCOL.as_bytes());
    let upgrade = call.upgrade.lock().take();
    let (Some(protocol), Some(upgrade)) = (protocol, upgrade) else {
        return Err(ApiError::bad_request(format!("the connection must be upgraded to {PROTOCOL}")));
    };
    let (app, tenant, node) = (call.app.clone(), call.tenant()?.clone(), call.path.name.clone());
    tokio::spawn(async move {
        let stream = match upgrade.await {
            Ok(stream) => TokioIo::new(stream),
            Err(error) => {
                return tracing::debug!(%tenant, node, %error, "an agent went before its tunnel stood");
            }
        };
        let mut down = app.shutdown.subscribe();
        match Tunnel::over(stream).await {
            Ok((tunnel, work)) => {
                let id = app.tunnels.put(&tenant, &node, tunnel);
                tracing::debug!(%tenant, node, "an agent is connected");
                tokio::select! {
                    () = work => {}
                    () = crate::app::ended(&mut down) => {}
                }
                app.tunnels.remove(&tenant, &node, id);
            }
            Err(error) => tracing::debug!(%tenant, node, %error, "an agent's tunnel does not stand"),
        }
    });
    Ok(switching(protocol))
}

/// `log`, `exec`, `attach`, `portforward` of a pod, `proxy` of a node.
///
/// # Errors
/// What is wrong with the request; 503 when the agent is not connected; what the agent says.
pub async fn serve(call: &Call) -> Result<Response<Body>, ApiError> {
    let key = call.key(&call.path.name)?;
    let stored = call.app.objects.get(&key).ok_or_else(|| ApiError::not_found(call.about()))?;
    let (node, path) = match call.path.resource.as_str() {
        "pods" => {
            let object = call.kind.decode_stored(stored.json()).map_err(ApiError::internal)?;
            let pod = object.downcast_ref::<Pod>().ok_or_else(|| ApiError::internal("not a pod"))?;
            (node_of(call, pod)?, path_of(call, pod)?)
        }
        "nodes" if call.path.action == Action::Get => {
            (call.path.name.clone(), format!("/{}{}", call.path.rest.trim_start_matches('/'), query(call)))
        }
        other => {
            return Err(ApiError::new(
                501,
                "NotImplemented",
                format!("the proxy of {other} is not served here; use port-forward"),
            ));
        }
    };
    let tunnel = call.app.tunnels.get(call.tenant()?, &node).ok_or_else(|| {
        ApiError::unavailable(format!(
            "no agent is connected for node {node:?}: {} cannot be served; look at the node's conditions",
            call.path.subresource
        ))
    })?;
    let lost =
        |e: &dyn std::fmt::Display| ApiError::unavailable(format!("node {node:?} does not answer: {e}"));
    let mut request = Request::builder()
        .method(if call.path.action == Action::Get { "GET" } else { "POST" })
        .uri(format!("http://node{path}"))
        .body(Outgoing::empty())
        .map_err(ApiError::internal)?;
    let upgrade = match wanted_upgrade(&call.headers) {
        Some(protocol) if call.path.subresource != "log" => {
            request.headers_mut().insert(UPGRADE, protocol.clone());
            for name in &TOLD {
                for value in call.headers.get_all(name) {
                    request.headers_mut().append(name, value.clone());
                }
            }
            call.upgrade.lock().take()
        }
        _ => None,
    };
    call.wait_outside();
    let (sender, receiver) = mpsc::channel(QUEUE);
    if upgrade.is_some() {
        *request.body_mut() = Outgoing::channel(receiver);
    }
    let (head, body) = tunnel.request(request).await.map_err(|e| lost(&e))?.into_parts();
    if head.status != StatusCode::OK {
        return Err(refusal(head.status, body).await);
    }
    let Some((protocol, upgrade)) = head.headers.get(UPGRADE).zip(upgrade) else {
        let content_type =
            head.headers.get(header::CONTENT_TYPE).cloned().unwrap_or(HeaderValue::from_static("text/plain"));
        let mut response = Response::new(Body::Stream(Box::pin(chunks(body))));
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
        return Ok(response);
    };
    let mut response = switching(protocol);
    for name in &ANSWERED {
        if let Some(value) = head.headers.get(name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    tokio::spawn(async move {
        match upgrade.await {
            Ok(stream) => pass(TokioIo::new(stream), sender, body).await,
            Err(error) => tracing::debug!(%error, "a client went before its stream stood"),
        }
    });
    Ok(response)
}

/// The chunks of an agent's answer. One that breaks off ends early: there is no way to say so in the middle of a body.
fn chunks(body: Incoming) -> impl futures::Stream<Item = Bytes> + Send {
    http_body_util::BodyDataStream::new(body)
        .take_while(|chunk| std::future::ready(chunk.is_ok()))
        .filter_map(|chunk| std::future::ready(chunk.ok()))
}

/// Passes bytes between a client and an agent until either has gone.
async fn pass<S>(stream: S, to_agent: mpsc::Sender<Bytes>, body: Incoming)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let (mut from, mut to) = tokio::io::split(stream);
    let inward = async move {
        let mut buffer = bytes::BytesMut::new();
        loop {
            buffer.reserve(16 * 1024);
            match from.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            if to_agent.send(buffer.split().freeze()).await.is_err() {
                return;
            }
        }
    };
    let outward = async {
        let mut chunks = std::pin::pin!(chunks(body));
        while let Some(chunk) = chunks.next().await {
            if to.write_all(&chunk).await.is_err() || to.flush().await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::pin!(inward, outward);
    tokio::select! {
        () = &mut outward => {}
        // The agent learns of it by the end of its input, and may still have something to say.
        () = &mut inward => outward.await,
    }
}

async fn refusal(status: StatusCode, body: Incoming) -> ApiError {
    let text = Limited::new(body, MAX_REFUSAL_BYTES).collect().await;
    let text = text.map(|t| String::from_utf8_lossy(&t.to_bytes()).into_owned()).unwrap_or_default();
    let reason = match status.as_u16() {
        400 => "BadRequest",
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        503 => "ServiceUnavailable",
        500.. => "InternalError",
        _ => "",
    };
    ApiError::new(status.as_u16(), reason, text)
}

fn node_of(call: &Call, pod: &Pod) -> Result<String, ApiError> {
    let node = pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
    if node.is_empty() {
        return Err(ApiError::bad_request(format!("pod {} does not have a host assigned", call.path.name)));
    }
    Ok(node)
}

/// The container that is meant: the one that is named, or the only one.
fn container_of(call: &Call, pod: &Pod) -> Result<String, ApiError> {
    let name = &call.path.name;
    let spec = pod.spec.as_ref();
    let main = spec.map_or(&[][..], |s| s.containers.as_slice());
    let init = spec.and_then(|s| s.init_containers.as_deref()).unwrap_or_default();
    let ephemeral = spec.and_then(|s| s.ephemeral_containers.as_deref()).unwrap_or_default();
    let all = || {
        let plain = init.iter().chain(main).map(|c| c.name.as_str());
        plain.chain(ephemeral.iter().map(|c| c.name.as_str()))
    };
    let wanted = call.options.other.iter().find(|(k, _)| k == "container").map_or("", |(_, v)| v.as_str());
    match (wanted, main) {
        ("", [only]) => Ok(only.name.clone()),
        ("", []) => Err(ApiError::bad_request(format!("a container name must be specified for pod {name}"))),
        ("", _) => Err(ApiError::bad_request(format!(
            "a container name must be specified for pod {name}, choose one of: [{}]",
            all().collect::<Vec<_>>().join(" ")
        ))),
        _ if all().any(|c| c == wanted) => Ok(wanted.to_owned()),
        _ => Err(ApiError::bad_request(format!("container {wanted} is not valid for pod {name}"))),
    }
}

/// Where the agent serves it: the kubelet's own paths.
fn path_of(call: &Call, pod: &Pod) -> Result<String, ApiError> {
    let at = format!("{}/{}", call.path.namespace, call.path.name);
    Ok(match call.path.subresource.as_str() {
        "portforward" => format!("/portForward/{at}{}", query(call)),
        "log" => {
            log_options(call)?;
            format!("/containerLogs/{at}/{}{}", container_of(call, pod)?, query(call))
        }
        what => format!("/{what}/{at}/{}{}", container_of(call, pod)?, query(call)),
    })
}

fn query(call: &Call) -> String {
    let pairs: Vec<String> = call
        .options
        .other
        .iter()
        .filter(|(name, _)| name != "container")
        .map(|(name, value)| {
            format!("{}={}", utf8_percent_encode(name, PLAIN), utf8_percent_encode(value, PLAIN))
        })
        .collect();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}

/// Refuses what upstream's validation of `PodLogOptions` refuses.
fn log_options(call: &Call) -> Result<(), ApiError> {
    let other = |name: &str| call.options.other.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str());
    let invalid = |what: String| {
        Err(ApiError::new(422, "Invalid", format!("PodLogOptions {:?} is invalid: {what}", call.path.name)))
    };
    for (name, least, text) in [
        ("tailLines", 0, "must be greater than or equal to 0"),
        ("limitBytes", 1, "must be greater than 0"),
        ("sinceSeconds", 1, "must be greater than 0"),
    ] {
        let Some(value) = other(name) else { continue };
        let number: i64 = value.parse().map_err(|_| {
            ApiError::bad_request(format!("strconv.ParseInt: parsing {value:?}: invalid syntax"))
        })?;
        if number < least {
            return invalid(format!("{name}: Invalid value: {number}: {text}"));
        }
    }
    if other("sinceSeconds").is_some() && other("sinceTime").is_some() {
        return invalid("at most one of `sinceTime` or `sinceSeconds` may be specified".to_owned());
    }
    Ok(())
}
