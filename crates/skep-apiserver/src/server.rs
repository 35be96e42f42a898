//! From connections to calls: TLS, HTTP/1.1 and HTTP/2, bodies with limits, answers, logs.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use jiff::Timestamp;
use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use serde_json::json;
use skep_auth::authn::identity_of_certificate;
use skep_auth::identity::Identity;
use skep_store::Announced;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::app::App;
use crate::auth::Caller;
use crate::body::Body;
use crate::coalesce::{Coalesce, TLS_BUFFER_BYTES};
use crate::fair::Asker;
use crate::negotiate::Accept;
use crate::request::{Options, Route, Target, View};
use crate::rest::{self, Call};
use crate::serving::{self, Serving};
use crate::status::ApiError;
use crate::{audit, auth, discovery, metrics, openapi};

/// The largest body that is taken in although its request is refused already: an object of usual size. Larger ones are
/// worth an abrupt end.
const REFUSED_BODY_BYTES: u64 = 64 * 1024;
/// How long that may take; a connection is held no longer by who may not use it.
const REFUSED_BODY_TIMEOUT: Duration = Duration::from_secs(1);
/// Largest body, as upstream's limit for JSON.
pub const MAX_BODY_BYTES: usize = 3 * 1024 * 1024;

/// A body must arrive within this time: a slow sender holds memory and a place in the queue.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// A TLS handshake must be done within this time.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Request headers must be there within this time (HTTP/1).
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// A peer that does not answer a ping within this time is gone.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// How long connections may go on after the end was announced.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Requests under way on one HTTP/2 connection, as upstream since 2023.
const MAX_STREAMS: u32 = 250;

/// The operator's users who work for tenants on their own accord, and much at a time.
const WORKERS: [&str; 2] = ["system:kube-controller-manager", "system:kube-scheduler"];

/// Flow-control windows: large lists should not wait for the client's window updates.
const WINDOW_BYTES: u32 = 1024 * 1024;

/// What one HTTP/1 connection buffers in each direction; headers must fit in it. A client that does not read costs
/// so much, and there may be many.
const HTTP1_BUFFER_BYTES: usize = 64 * 1024;

/// Unsent bytes of one answer before its making is paused.
const SEND_BUFFER_BYTES: usize = 512 * 1024;

/// Why a server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; choose another address with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The certificates cannot be used.
    #[error("the server's certificates cannot be used: {0}")]
    Tls(String),
}

fn tls(app: &App, serving: Arc<Serving>) -> Result<ServerConfig, ServeError> {
    let bad = |e: &dyn std::fmt::Display| ServeError::Tls(e.to_string());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(app.pki.client_ca().certificate().clone()).map_err(|e| bad(&e))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|e| bad(&e))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| bad(&e))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(serving);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// A server that listens.
pub struct Server {
    app: Arc<App>,
    listener: TcpListener,
    acceptor: TlsAcceptor,
    serving: Arc<Serving>,
    renew_every: Duration,
}

impl Server {
    /// Begins to listen.
    ///
    /// # Errors
    /// [`ServeError`].
    pub fn bind(app: Arc<App>, listener: TcpListener) -> Result<Server, ServeError> {
        let serving = Arc::new(Serving::new(&app.pki)?);
        let acceptor = TlsAcceptor::from(Arc::new(tls(&app, serving.clone())?));
        Ok(Server { app, listener, acceptor, serving, renew_every: serving::RENEW_EVERY })
    }

    /// Looks at another interval whether the server's certificate must be made anew.
    #[must_use]
    pub fn renew_every(mut self, interval: Duration) -> Server {
        self.renew_every = interval;
        self
    }

    /// Serves until the application's shutdown is announced; then lets connections finish, within limits.
    pub async fn run(self) {
        let mut down = self.app.shutdown.subscribe();
        let mut connections = tokio::task::JoinSet::new();
        tokio::spawn(self.serving.clone().keep_current(self.app.clone(), self.renew_every));
        loop {
            tokio::select! {
                () = crate::app::ended(&mut down) => break,
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        connections.spawn(connection(self.app.clone(), self.acceptor.clone(), stream, peer));
                    }
                    Err(error) => {
                        // Out of file descriptors, most likely: others may end soon.
                        tracing::warn!(%error, "a connection cannot be accepted");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                },
            }
        }
        let drained = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN_TIMEOUT, drained).await.is_err() {
            tracing::info!("connections that did not end in time are cut");
        }
    }
}

/// Whom the connection's certificate names; read once.
pub(crate) type PeerIdentity = Option<Result<Arc<Identity>, ApiError>>;

async fn connection(app: Arc<App>, acceptor: TlsAcceptor, stream: TcpStream, peer: SocketAddr) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "no TCP_NODELAY");
    }
    let mut stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%peer, %error, "TLS handshake failed"),
        Err(_) => return tracing::debug!(%peer, "TLS handshake timed out"),
    };
    stream.get_mut().1.set_buffer_limit(Some(TLS_BUFFER_BYTES));
    let certificate: Arc<PeerIdentity> =
        Arc::new(stream.get_ref().1.peer_certificates().and_then(|c| c.first()).map(|der| {
            identity_of_certificate(der).map_err(|error| {
                tracing::warn!(%peer, %error, "a client certificate that names nobody");
                ApiError::unauthorized()
            })
        }));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HTTP1_BUFFER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(4 * WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .keep_alive_interval(Some(PING_INTERVAL))
        .keep_alive_timeout(PING_INTERVAL);
    let mut down = app.shutdown.subscribe();
    let service = service_fn(move |mut request: Request<Incoming>| {
        let (app, certificate) = (app.clone(), certificate.clone());
        // Here and not in the future: requests that arrived together are all known before the first is worked on.
        let writer = Writer::of(&app, request.method());
        request.extensions_mut().insert(Peer(peer.ip()));
        // In a box: hyper moves the future several times before it runs, and it is large.
        let response = Box::pin(respond::<Incoming>(app, certificate, request, writer));
        async move { Ok::<_, Infallible>(response.await) }
    });
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(Coalesce::new(stream)), service);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = crate::app::ended(&mut down) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "connection ended");
    }
}

/// Takes one off the number of requests under way, whatever becomes of the request.
struct InFlight(Arc<App>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.metrics.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Tells the store of a request that may write.
pub(crate) struct Writer(Option<Announced>);

impl Writer {
    pub(crate) fn of(app: &App, method: &Method) -> Writer {
        let writes = !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
        Writer(writes.then(|| app.objects.store().announce()))
    }

    /// Waits for something else than the store, if it is not there yet: the store must not wait for it.
    async fn wait<T>(&mut self, app: &App, what: impl Future<Output = T>) -> T {
        let mut what = std::pin::pin!(what);
        if let Poll::Ready(there) = futures::poll!(what.as_mut()) {
            return there;
        }
        let writes = self.0.take().is_some();
        let there = what.await;
        self.0 = writes.then(|| app.objects.store().announce());
        there
    }
}

/// Where a request comes from, among its extensions. Requests of this process have none.
#[derive(Clone, Copy)]
pub(crate) struct Peer(pub std::net::IpAddr);

/// What the logs say of a request.
#[derive(Default)]
struct Seen {
    verb: &'static str,
    user: String,
    tenant: String,
    /// When the request is to be in the audit log.
    audit: Option<audit::Record>,
}

/// Answers a request of a peer that has been identified already: everything after TLS.
pub(crate) async fn respond<B>(
    app: Arc<App>,
    certificate: Arc<PeerIdentity>,
    request: Request<B>,
    mut writer: Writer,
) -> Response<Body>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let begun = Instant::now();
    app.metrics.in_flight.fetch_add(1, Ordering::Relaxed);
    let _in_flight = InFlight(app.clone());
    let logged = tracing::enabled!(target: "skep::access", tracing::Level::INFO);
    let line = logged.then(|| (request.method().clone(), request.uri().path().to_owned()));
    let seen = Mutex::new(Seen { verb: "other", ..Seen::default() });
    let audit = uuid::Uuid::new_v4();
    let mut failure = None;
    let (parts, body) = request.into_parts();
    let request = Request::from_parts(parts, ());
    let mut body = Some(body);
    let mut response = match handle(&app, &certificate, request, &mut body, &mut writer, audit, &seen).await {
        Ok(response) => response,
        Err(error) => {
            // It writes nothing: nobody is to wait for it.
            drop(writer);
            drain(body).await;
            failure = seen.lock().audit.is_some().then(|| (error.reason, error.message.clone()));
            error_response(&error)
        }
    };
    let mut buffer = uuid::Uuid::encode_buffer();
    if let Ok(mut value) = HeaderValue::from_str(audit.hyphenated().encode_lower(&mut buffer)) {
        // It never comes again: HTTP/2's table of headers is not to be filled with it, here and at the client.
        value.set_sensitive(true);
        response.headers_mut().insert("audit-id", value);
    }
    response.headers_mut().insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    let took = begun.elapsed();
    let code = response.status().as_u16();
    let seen = seen.into_inner();
    app.metrics.answered(seen.verb, code, took);
    if let (Some(log), Some(record)) = (app.audit.get(), seen.audit) {
        audited(log, audit::Record { code, failure, ..record }, response.body_mut());
    }
    if let Some((method, path)) = line {
        tracing::info!(
            target: "skep::access", %audit, %method, path, code, verb = seen.verb, user = seen.user, tenant = seen.tenant,
            took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX), "request"
        );
    }
    response
}

/// Records an answer: now, or for a stream also once it has ended.
fn audited(log: &Arc<audit::AuditLog>, mut record: audit::Record, body: &mut Body) {
    record.now = Timestamp::now();
    match body {
        Body::Full(bytes) => {
            if record.wants_response(bytes.len()) {
                record.response = Some(bytes.clone());
            }
            log.record(record, audit::Stage::ResponseComplete);
        }
        Body::Pieces(_) => log.record(record, audit::Stage::ResponseComplete),
        Body::Stream(stream) => {
            log.record(record.clone(), audit::Stage::ResponseStarted);
            let ending = audit::Ending::new(log.clone(), record);
            let inner = std::mem::replace(stream, Box::pin(futures::stream::empty()));
            *stream = Box::pin(inner.inspect(move |_| ending.alive()));
        }
    }
}

/// The answer to a request that went wrong.
#[must_use]
pub fn error_response(error: &ApiError) -> Response<Body> {
    if error.code >= 500 && error.code != 504 {
        tracing::warn!(code = error.code, message = error.message, "request failed");
    }
    let mut response = Response::new(Body::from(error.to_json()));
    *response.status_mut() = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(seconds) = error.details.as_ref().and_then(|d| d.retry_after_seconds) {
        headers.insert(http::header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if error.code == 401 {
        headers.insert(http::header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

async fn handle<B>(
    app: &Arc<App>,
    certificate: &PeerIdentity,
    request: Request<()>,
    body: &mut Option<B>,
    writer: &mut Writer,
    audit_id: uuid::Uuid,
    seen: &Mutex<Seen>,
) -> Result<Response<Body>, ApiError>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut request = request;
    let upgrade =
        request.headers().contains_key(http::header::UPGRADE).then(|| hyper::upgrade::on(&mut request));
    let (parts, ()) = request.into_parts();
    let options = Options::parse(parts.uri.query().unwrap_or(""))?;
    let route = Route::parse(&parts.method, parts.uri.path(), options.watch)?;
    if let (View::Own, Target::NonResource(path)) = (&route.view, &route.target)
        && let Some(response) = health(app, path)
    {
        return Ok(response);
    }
    let now = Timestamp::now();
    let authenticated = auth::authenticate(app, &parts.headers, certificate.as_ref(), &route, now);
    let record = |caller: Option<&Caller>| {
        let log = app.audit.get()?;
        audit::Record::of(log, audit_id, &parts, &route, caller, now)
    };
    let caller = match authenticated {
        Ok(caller) => caller,
        Err(error) => {
            seen.lock().audit = record(None);
            return Err(error);
        }
    };
    seen.lock().audit = record(Some(&caller));
    let tenant = auth::tenant_of(app, &caller, &route.view)?;
    let asking = caller.user.clone();
    let caller = auth::impersonated(app, caller, tenant.as_ref(), &parts, &route.target)?;
    {
        let mut seen = seen.lock();
        if let (Some(record), Some(log)) = (&mut seen.audit, app.audit.get()) {
            record.tenant = tenant.as_ref().map_or_else(|| "*".to_owned(), ToString::to_string);
            if !Arc::ptr_eq(&asking, &caller.user) {
                record.impersonated = Some(caller.user.clone());
            }
            if !record.verdict.omitted.contains(&audit::Stage::RequestReceived) {
                log.record(record.clone(), audit::Stage::RequestReceived);
            }
        }
        seen.user.clone_from(&caller.user.name);
        seen.tenant = tenant.as_ref().map_or_else(|| "*".to_owned(), ToString::to_string);
        if let Target::Resource(path) = &route.target {
            seen.verb = path.action.as_str();
        }
    }
    let place = {
        let tenant = tenant.as_ref().unwrap_or(caller.home());
        let weight = app.tenants.get(tenant).map_or(1, |t| t.weight);
        let works = caller.home().is_system() && WORKERS.contains(&caller.user.name.as_str());
        let asker = if works && !tenant.is_system() { Asker::System } else { Asker::Tenant };
        writer.wait(app, app.fair.enter(tenant, weight, asker)).await?
    };
    let path = match route.target {
        Target::NonResource(path) => {
            auth::authorize_path(app, &caller, tenant.as_ref(), &parts.method, &path)?;
            return non_resource(app, tenant.as_ref(), &parts, &path);
        }
        Target::Resource(path) => path,
    };
    let operator = tenant.as_ref().is_none_or(skep_base::TenantName::is_system);
    if discovery::operator_only(&path.group, &path.resource) && !operator {
        return Err(ApiError::no_such_path());
    }
    let kind = app.kind(&path.group, &path.version, &path.resource).cloned();
    // Authorization first: who may not use a resource is not told whether it exists.
    auth::authorize(app, &caller, tenant.as_ref(), &path, &options.field_selector)?;
    let kind = kind.ok_or_else(ApiError::no_such_path)?;
    let accept = Accept::parse(&parts.headers)?;
    let body = match body.take() {
        Some(body) if !path.action.is_read() => writer.wait(app, read_body(body)).await?,
        _ => Bytes::new(),
    };
    if let Some(record) = &mut seen.lock().audit {
        record.note_request(&parts.headers, &body);
    }
    let call = Call {
        app: app.clone(),
        caller,
        tenant,
        path,
        kind,
        options,
        headers: parts.headers,
        accept,
        now,
        upgrade: Mutex::new(upgrade),
        warnings: Mutex::default(),
        place: Mutex::new(Some(place)),
    };
    if let Some(warning) = call.kind.info().deprecated {
        call.warn(warning);
    }
    Box::pin(rest::serve(call, body)).await
}

/// Takes in the small body of a request that was refused without looking at it: a client that is still sending when the
/// answer comes sees its stream reset, and some take that for the answer.
async fn drain<B>(body: Option<B>)
where
    B: http_body::Body<Data = Bytes>,
{
    let small = |b: &B| !b.is_end_stream() && b.size_hint().upper().is_some_and(|n| n <= REFUSED_BODY_BYTES);
    if let Some(body) = body.filter(small) {
        // Whoever does not send what it announced has no claim to an orderly end.
        let _ = tokio::time::timeout(REFUSED_BODY_TIMEOUT, body.collect()).await;
    }
}

async fn read_body<B>(body: B) -> Result<Bytes, ApiError>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let whole = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY_BYTES).collect());
    match whole.await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(ApiError::too_large(format!("Request entity too large: limit is {MAX_BODY_BYTES}")))
        }
        Ok(Err(error)) => Err(ApiError::bad_request(format!("the body could not be read: {error}"))),
        Err(_) => Err(ApiError::new(408, "Timeout", "the body did not arrive in time")),
    }
}

/// Answers that need no credential.
fn health(app: &App, path: &str) -> Option<Response<Body>> {
    match path {
        "/healthz" | "/livez" | "/livez/ping" | "/healthz/ping" => Some(text(200, "ok")),
        "/readyz" => Some(if *app.shutdown.borrow() {
            text(500, "[-]shutdown failed: the server is ending\nreadyz check failed")
        } else {
            text(200, "ok")
        }),
        _ => None,
    }
}

fn text(code: u16, body: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(body.as_bytes().to_vec()));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn json_response(content_type: &'static str, json: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(Body::from(json.to_string().into_bytes()));
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn non_resource(
    app: &App,
    tenant: Option<&skep_base::TenantName>,
    parts: &http::request::Parts,
    path: &str,
) -> Result<Response<Body>, ApiError> {
    const JSON: &str = "application/json";
    if parts.method != Method::GET && parts.method != Method::HEAD {
        return Err(ApiError::method_not_allowed());
    }
    let operator = tenant.is_none_or(skep_base::TenantName::is_system);
    let aggregated = discovery::wants_aggregated(&parts.headers);
    let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
    let found = match segments.as_slice() {
        ["api"] if aggregated => {
            return Ok(json_response(discovery::AGGREGATED, &discovery::aggregated(app, true, operator)));
        }
        ["apis"] if aggregated => {
            return Ok(json_response(discovery::AGGREGATED, &discovery::aggregated(app, false, operator)));
        }
        ["api"] => Some(discovery::core_versions(app)),
        ["apis"] => Some(discovery::group_list(app, operator)),
        ["api", version] => discovery::resources(app, "", version, operator),
        ["apis", group] => discovery::one_group(app, group, operator),
        ["apis", group, version] => discovery::resources(app, group, version, operator),
        ["version"] => Some(version()),
        ["openapi", "v2"] => {
            let accepted = parts.headers.get(http::header::ACCEPT).and_then(|v| v.to_str().ok());
            let protobuf = accepted.is_some_and(|a| {
                a.contains(openapi::gnostic::ASKED_FOR) || a.contains(openapi::gnostic::MEDIA_TYPE)
            });
            let mut response = Response::new(Body::Full(openapi::document_v2(app, protobuf, operator)));
            let content_type = if protobuf { openapi::gnostic::MEDIA_TYPE } else { JSON };
            response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static(content_type));
            return Ok(response);
        }
        ["openapi", "v3"] => Some(openapi::index(app, operator)),
        ["openapi", "v3", rest @ ..] => {
            let document =
                openapi::document(app, &rest.join("/"), operator).ok_or_else(ApiError::no_such_path)?;
            let mut response = Response::new(Body::Full(document));
            response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static(JSON));
            return Ok(response);
        }
        // Figures are the operator's: they tell of all tenants.
        ["metrics"] if operator => return Ok(text(200, &metrics::render(app))),
        [".well-known", "openid-configuration"] => tenant.map(|t| app.authenticator.openid_configuration(t)),
        ["openid", "v1", "jwks"] => {
            let record = tenant.and_then(|t| app.tenants.get(t)).ok_or_else(ApiError::no_such_path)?;
            Some(
                app.authenticator
                    .jwks(&record.uid_text)
                    .map_err(|_| ApiError::internal("no key for this tenant"))?,
            )
        }
        [] => Some(
            json!({"paths": ["/api", "/apis", "/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]}),
        ),
        _ => None,
    };
    found.map(|json| json_response(JSON, &json)).ok_or_else(ApiError::no_such_path)
}

fn version() -> serde_json::Value {
    let (major, minor) = crate::VERSION.trim_start_matches('v').split_once('.').unwrap_or(("1", "36.0"));
    json!({
        "major": major, "minor": minor.split('.').next().unwrap_or(minor), "gitVersion": format!("{}+skep-{}", crate::VERSION, env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, if cfg!(target_arch = "x86_64") { "amd64" } else { std::env::consts::ARCH }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a future takes that is made of so many arguments.
    fn size_of_made<A, F>(_: impl Fn(A) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn requests_are_small() {
        let respond = size_of_made(|(a, c, r, w)| respond::<Incoming>(a, c, r, w));
        let serve = size_of_made(|(call, body)| rest::serve(call, body));
        // Every request pays for filling them.
        assert!(respond <= 4 * 1024 && serve <= 6 * 1024, "{respond} and {serve} bytes");
    }
}
