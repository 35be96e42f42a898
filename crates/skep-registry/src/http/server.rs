//! From connections to requests: TLS, HTTP/1.1 and HTTP/2, who asks, and to whom a request goes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::server::{ResolvesServerCert, WebPkiClientVerifier};
use skep_auth::authn::identity_of_certificate;
use skep_auth::identity::Identity;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::route::{self, Endpoint, Query};
use super::{Answer, Body};
use crate::error::{Code, RegistryError};
use crate::gate::{Caller, Credential, Gate, GateError, Verb};
use crate::mirror::{Mirrors, Source};
use crate::name::{RepositoryName, Space};
use crate::storage::collect::Policy;
use crate::storage::{Owner, Repository, Storage};
use crate::tokens::{LIFE, Tokens};

/// A TLS handshake must be done within this time.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Request headers must be there within this time (HTTP/1).
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// A peer that does not answer a ping within this time is gone.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// Requests under way on one HTTP/2 connection.
const MAX_STREAMS: u32 = 64;
/// Flow-control windows: a layer should not wait for window updates.
const WINDOW_BYTES: u32 = 2 * 1024 * 1024;
/// What one HTTP/1 connection buffers in each direction.
const HTTP1_BUFFER_BYTES: usize = 256 * 1024;
/// Connections at once; more wait to be accepted. Each costs buffers and may hold a file open.
const CONNECTIONS_MAX: usize = 2048;
/// How long connections may go on after the end was announced: a large layer is resumed elsewhere.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How clients are met on the wire.
#[derive(Clone)]
pub struct Tls {
    /// The certificate that new connections are shown.
    pub certificate: Arc<dyn ResolvesServerCert>,
    /// Whose client certificates are believed.
    pub client_ca: Option<CertificateDer<'static>>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

/// What a registry is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// How clients are met; without it in plain text, for tests and behind something that speaks TLS.
    pub tls: Option<Tls>,
    /// How often is collected.
    pub collect_every: Duration,
    /// What is kept then.
    pub policy: Policy,
    /// Registries that this one is a mirror of.
    pub mirrors: Vec<Source>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            tls: None,
            collect_every: Duration::from_secs(3600),
            policy: Policy::default(),
            mirrors: Vec::new(),
        }
    }
}

/// Why a registry cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The certificates cannot be used.
    #[error("the registry's certificates cannot be used: {0}")]
    Tls(String),
    /// No random numbers.
    #[error("the system gives no randomness for keys")]
    Randomness,
}

/// Figures.
#[derive(Debug, Default)]
struct Figures {
    requests: AtomicU64,
    failures: AtomicU64,
    collected_bytes: AtomicU64,
    collections: AtomicU64,
}

/// The registry.
pub struct Registry {
    pub(crate) storage: Storage,
    pub(crate) gate: Arc<dyn Gate>,
    pub(crate) mirrors: Mirrors,
    tokens: Tokens,
    acceptor: Option<TlsAcceptor>,
    config: Config,
    figures: Figures,
}

/// Where a request may go.
pub(crate) struct Access {
    pub(crate) repository: Repository,
    pub(crate) quota_bytes: u64,
}

/// A request on its way.
pub(crate) struct Call {
    pub(crate) registry: Arc<Registry>,
    pub(crate) caller: Caller,
    pub(crate) head: Parts,
    pub(crate) query: Query,
}

type PeerIdentity = Option<Arc<Identity>>;

fn acceptor(tls: &Tls) -> Result<TlsAcceptor, ServeError> {
    let bad = |e: &dyn std::fmt::Display| ServeError::Tls(e.to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| bad(&e))?;
    let builder = match &tls.client_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(ca.clone()).map_err(|e| bad(&e))?;
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .map_err(|e| bad(&e))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_cert_resolver(tls.certificate.clone());
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Runs what blocks where it may.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RegistryError> + Send + 'static,
) -> Result<T, RegistryError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| RegistryError::new(Code::Unknown, "the work was interrupted"))?
}

impl From<GateError> for RegistryError {
    fn from(e: GateError) -> RegistryError {
        tracing::warn!(error = %e, "a request cannot be let in");
        RegistryError::new(Code::Unavailable, "who asks cannot be found out at the moment: try again")
    }
}

fn denied() -> RegistryError {
    RegistryError::new(Code::Denied, "requested access to the resource is denied")
}

impl Registry {
    /// A registry over a store, with a gate.
    ///
    /// # Errors
    /// [`ServeError`].
    pub fn new(config: Config, storage: Storage, gate: Arc<dyn Gate>) -> Result<Arc<Registry>, ServeError> {
        let acceptor = config.tls.as_ref().map(acceptor).transpose()?;
        let mirrors = Mirrors::new(storage.clone(), &config.mirrors).map_err(ServeError::Tls)?;
        let tokens = Tokens::new().ok_or(ServeError::Randomness)?;
        Ok(Arc::new(Registry {
            storage,
            gate,
            mirrors,
            tokens,
            acceptor,
            config,
            figures: Figures::default(),
        }))
    }

    /// Serves, and collects, until `ended` is ready; then lets requests finish, within limits.
    pub async fn serve(self: Arc<Registry>, listener: TcpListener, ended: impl Future<Output = ()>) {
        let collecting = tokio::spawn(self.clone().collect_forever());
        let mut connections = tokio::task::JoinSet::new();
        let (down, _) = tokio::sync::watch::channel(false);
        tokio::pin!(ended);
        loop {
            let room = connections.len() < CONNECTIONS_MAX;
            tokio::select! {
                () = &mut ended => break,
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                accepted = listener.accept(), if room => match accepted {
                    Ok((stream, peer)) => {
                        let down = down.subscribe();
                        connections.spawn(self.clone().accepted(stream, peer, down));
                    }
                    Err(error) => {
                        // Out of file descriptors, most likely: others may end soon.
                        tracing::warn!(%error, "a connection cannot be accepted");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                },
            }
        }
        collecting.abort();
        down.send_replace(true);
        let drained = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN_TIMEOUT, drained).await.is_err() {
            tracing::info!("transfers that did not end in time are cut");
        }
    }

    /// Collects once, now.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub async fn collect(&self) -> Result<crate::storage::Collected, RegistryError> {
        let tenants = match self.gate.tenants().await {
            Ok(tenants) => Some(tenants),
            Err(error) => {
                tracing::debug!(%error, "tenants that are gone cannot be told");
                None
            }
        };
        let (storage, policy) = (self.storage.clone(), self.config.policy);
        let done = blocking(move || storage.collect(&policy, tenants.as_ref())).await?;
        self.figures.collections.fetch_add(1, Ordering::Relaxed);
        self.figures.collected_bytes.fetch_add(done.bytes, Ordering::Relaxed);
        Ok(done)
    }

    async fn collect_forever(self: Arc<Registry>) {
        loop {
            tokio::time::sleep(self.config.collect_every).await;
            match self.collect().await {
                Ok(done) if done == crate::storage::Collected::default() => {}
                Ok(done) => tracing::info!(?done, "collected"),
                Err(error) => tracing::error!(%error, "what nobody needs cannot be collected"),
            }
        }
    }

    async fn accepted(
        self: Arc<Registry>,
        stream: tokio::net::TcpStream,
        peer: SocketAddr,
        down: tokio::sync::watch::Receiver<bool>,
    ) {
        // Latency; a failure to say so does not matter.
        let _ = stream.set_nodelay(true);
        let Some(acceptor) = &self.acceptor else {
            return self.clone().connection(stream, None, peer, down).await;
        };
        let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%peer, %error, "TLS handshake failed"),
            Err(_) => return tracing::debug!(%peer, "TLS handshake timed out"),
        };
        let certificate = stream.get_ref().1.peer_certificates().and_then(|c| c.first());
        let identity = match certificate.map(|der| identity_of_certificate(der)) {
            None => None,
            Some(Ok(identity)) => Some(identity),
            Some(Err(error)) => {
                return tracing::warn!(%peer, %error, "a client certificate that names nobody");
            }
        };
        self.clone().connection(stream, identity, peer, down).await;
    }

    async fn connection(
        self: Arc<Registry>,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        identity: PeerIdentity,
        peer: SocketAddr,
        mut down: tokio::sync::watch::Receiver<bool>,
    ) {
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
            .keep_alive_interval(Some(PING_INTERVAL))
            .keep_alive_timeout(PING_INTERVAL);
        let service = service_fn(move |request| {
            let (registry, identity) = (self.clone(), identity.clone());
            async move { Ok::<_, Infallible>(registry.respond(request, identity, peer).await) }
        });
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = async { let _ = down.wait_for(|d| *d).await; } => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = result {
            tracing::debug!(%peer, %error, "connection ended");
        }
    }

    async fn respond(
        self: Arc<Registry>,
        request: Request<Incoming>,
        identity: PeerIdentity,
        peer: SocketAddr,
    ) -> Response<Body> {
        let begun = Instant::now();
        let line = (request.method().clone(), request.uri().path().to_owned());
        let head = request.method() == Method::HEAD;
        self.figures.requests.fetch_add(1, Ordering::Relaxed);
        let origin = origin(&request, self.acceptor.is_some());
        let mut user = String::new();
        // Boxed: it holds the largest of all handlers' states.
        let result = Box::pin(self.clone().handle(request, identity, &mut user)).await;
        let mut answer = result.unwrap_or_else(|error| {
            let answer = Answer::error(&error);
            match error.code {
                Code::Unauthorized => answer.header("www-authenticate", challenge(&origin, &line.1)),
                Code::TooManyRequests | Code::Unavailable => answer.header("retry-after", "5"),
                _ => answer,
            }
        });
        if line.1.starts_with("/v2") {
            answer = answer.header("docker-distribution-api-version", "registry/2.0");
        }
        let mut response = answer.into_response();
        let code = response.status().as_u16();
        if response.status().is_server_error() {
            self.figures.failures.fetch_add(1, Ordering::Relaxed);
        }
        if head {
            *response.body_mut() = super::answer::empty();
        }
        tracing::info!(
            target: "skep::access", %peer, method = %line.0, path = line.1, code, user,
            took_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX), "request"
        );
        response
    }

    async fn handle(
        self: Arc<Registry>,
        request: Request<Incoming>,
        identity: PeerIdentity,
        user: &mut String,
    ) -> Result<Answer, RegistryError> {
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        let read = matches!(head.method, Method::GET | Method::HEAD);
        match path {
            "/healthz" | "/livez" | "/readyz" if read => {
                return Ok(Answer::new(StatusCode::OK).bytes("text/plain; charset=utf-8", b"ok".to_vec()));
            }
            _ => {}
        }
        let query = Query::parse(head.uri.query().unwrap_or(""));
        let source = query.get("ns").filter(|ns| self.mirrors.has(ns));
        // Parsed before anybody is asked who asks, since it may help to find out; told only afterwards.
        let endpoint = route::parse(path, source);
        let about = endpoint.as_ref().ok().and_then(Endpoint::repository);
        let caller = self.authenticate(&head.headers, identity, about).await?;
        user.clone_from(&caller.user);
        match path {
            "/token" if read => return Ok(self.token(&caller)),
            "/metrics" if read && caller.is_operator() => {
                let text = self.metrics().await?;
                return Ok(Answer::new(StatusCode::OK).bytes("text/plain; charset=utf-8", text.into_bytes()));
            }
            _ => {}
        }
        let source = source.map(str::to_owned);
        let call = Call { registry: self, caller, head, query };
        let answer = call.serve(endpoint?, body).await?;
        Ok(match source {
            Some(source) => answer.header("oci-namespace", source),
            None => answer,
        })
    }

    async fn authenticate(
        &self,
        headers: &HeaderMap,
        identity: PeerIdentity,
        about: Option<&RepositoryName>,
    ) -> Result<Caller, RegistryError> {
        let unauthorized = || RegistryError::new(Code::Unauthorized, "authentication required");
        let credential = match headers.get(AUTHORIZATION) {
            Some(header) => {
                credential(header.to_str().map_err(|_| unauthorized())?).ok_or_else(unauthorized)?
            }
            None => Credential::Certificate(identity.ok_or_else(unauthorized)?),
        };
        if let Credential::Token(token) = &credential
            && Tokens::is_own(token)
        {
            return self.tokens.verify(token, SystemTime::now()).ok_or_else(unauthorized);
        }
        self.gate.authenticate(&credential, about).await?.ok_or_else(unauthorized)
    }

    fn token(&self, caller: &Caller) -> Answer {
        let token = self.tokens.issue(caller, SystemTime::now());
        let body = serde_json::json!({ "token": token, "access_token": token, "expires_in": LIFE.as_secs() });
        Answer::json(StatusCode::OK, &body).header("cache-control", "no-store")
    }

    async fn metrics(&self) -> Result<String, RegistryError> {
        use std::fmt::Write;
        let mut text = String::new();
        let f = &self.figures;
        for (name, help, value) in [
            ("requests_total", "Requests answered.", &f.requests),
            ("request_failures_total", "Requests that the registry itself failed.", &f.failures),
            ("collections_total", "Collections done.", &f.collections),
            ("collected_bytes_total", "Bytes that collections removed.", &f.collected_bytes),
        ] {
            let value = value.load(Ordering::Relaxed);
            // Writing to a string does not fail.
            let _ = write!(
                text,
                "# HELP skep_registry_{name} {help}\n# TYPE skep_registry_{name} counter\nskep_registry_{name} {value}\n"
            );
        }
        let storage = self.storage.clone();
        let used = blocking(move || {
            storage
                .owners()?
                .iter()
                .try_fold(0, |sum, o| Ok::<u64, RegistryError>(sum + storage.used_bytes(o)?))
        })
        .await?;
        let _ = write!(
            text,
            "# HELP skep_registry_stored_bytes What all repositories have; a blob counts in each.\n# TYPE skep_registry_stored_bytes gauge\nskep_registry_stored_bytes {used}\n"
        );
        Ok(text)
    }
}

/// How this server is called by the client, for addresses in answers.
fn origin(request: &Request<Incoming>, tls: bool) -> String {
    let host = request.uri().authority().map(|a| a.as_str().to_owned());
    let host = host.or_else(|| request.headers().get(HOST)?.to_str().ok().map(str::to_owned));
    let fine = |h: &String| h.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b));
    let scheme = if tls { "https" } else { "http" };
    format!("{scheme}://{}", host.filter(fine).unwrap_or_else(|| "localhost".to_owned()))
}

/// Where a token is to be had, and for what it will be needed.
fn challenge(origin: &str, path: &str) -> String {
    let mut text = format!("Bearer realm=\"{origin}/token\",service=\"skep-registry\"");
    if let Ok(endpoint) = route::parse(path, None)
        && let Some(name) = endpoint.repository()
    {
        text.push_str(&format!(",scope=\"repository:{name}:pull,push\""));
    }
    text
}

fn credential(header: &str) -> Option<Credential> {
    let (scheme, value) = header.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(Credential::Token(value.trim().to_owned()));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(value.trim()).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some(Credential::Password { user: user.to_owned(), password: password.to_owned() })
}

impl Call {
    /// Whether the caller may do this, and then where.
    pub(crate) async fn access(&self, name: &RepositoryName, verb: Verb) -> Result<Access, RegistryError> {
        let (gate, caller) = (&self.registry.gate, &self.caller);
        match &name.space {
            Space::Mirror(host) => {
                if !self.registry.mirrors.has(host) {
                    let message = format!("{host} is not mirrored here");
                    return Err(RegistryError::new(Code::NameUnknown, message));
                }
                if verb != Verb::Pull {
                    return Err(RegistryError::new(Code::Denied, "a mirror is read-only"));
                }
                let repository = Repository { owner: Owner::of(&name.space, ""), path: name.path.clone() };
                Ok(Access { repository, quota_bytes: u64::MAX })
            }
            Space::Tenant(of) => {
                // The same for a tenant that exists and one that does not.
                if caller.tenant != *of && !caller.is_operator() {
                    return Err(denied());
                }
                let Some(tenant) = gate.tenant(of).await? else {
                    return Err(match caller.is_operator() {
                        true => RegistryError::new(Code::NameUnknown, format!("there is no tenant {of}")),
                        false => denied(),
                    });
                };
                if caller.tenant == *of && caller.tenant_uid != tenant.uid {
                    return Err(RegistryError::new(Code::Unauthorized, "authentication required"));
                }
                if !gate.authorize(caller, verb, name).await? {
                    return Err(denied());
                }
                let repository =
                    Repository { owner: Owner::of(&name.space, &tenant.uid), path: name.path.clone() };
                Ok(Access { repository, quota_bytes: tenant.quota_bytes })
            }
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name)?.to_str().ok()
    }

    async fn serve(self, endpoint: Endpoint, body: Incoming) -> Result<Answer, RegistryError> {
        let method = self.head.method.clone();
        let read = matches!(method, Method::GET | Method::HEAD);
        match endpoint {
            Endpoint::Ping if read => Ok(Answer::json(StatusCode::OK, &serde_json::json!({}))),
            Endpoint::Catalog if read => self.catalog().await,
            Endpoint::Manifest(name, reference) => match method {
                Method::GET | Method::HEAD => self.get_manifest(&name, &reference).await,
                Method::PUT => self.put_manifest(&name, &reference, body).await,
                Method::DELETE => self.delete_manifest(&name, reference).await,
                _ => Err(unsupported()),
            },
            Endpoint::Blob(name, digest) => match method {
                Method::GET | Method::HEAD => self.get_blob(&name, &digest).await,
                Method::DELETE => self.delete_blob(&name, digest).await,
                _ => Err(unsupported()),
            },
            Endpoint::Uploads(name) if method == Method::POST => self.begin_upload(&name, body).await,
            Endpoint::Upload(name, id) => match method {
                Method::GET | Method::HEAD => self.upload_status(&name, &id).await,
                Method::PATCH => self.upload_chunk(&name, &id, body).await,
                Method::PUT => self.end_upload(&name, &id, body).await,
                Method::DELETE => self.cancel_upload(&name, &id).await,
                _ => Err(unsupported()),
            },
            Endpoint::Tags(name) if read => self.tags(&name).await,
            Endpoint::Referrers(name, digest) if read => self.referrers(&name, digest).await,
            _ => Err(unsupported()),
        }
    }
}

fn unsupported() -> RegistryError {
    RegistryError::new(Code::Unsupported, "the method is not supported here")
}

/// The next piece of a body; a sender that is silent for too long is cut off.
pub(crate) async fn next_piece(body: &mut Incoming) -> Result<Option<Bytes>, RegistryError> {
    use http_body_util::BodyExt;
    /// A sender that is silent for so long holds an upload and a connection for nothing.
    const SILENCE_TIMEOUT: Duration = Duration::from_secs(120);
    let broke = |why: String| {
        RegistryError::new(
            Code::BlobUploadInvalid,
            format!("the content broke off: {why}; what arrived is kept"),
        )
    };
    loop {
        let frame = tokio::time::timeout(SILENCE_TIMEOUT, body.frame());
        match frame.await.map_err(|_| broke("nothing came any more".to_owned()))? {
            None => return Ok(None),
            Some(Err(e)) => return Err(broke(e.to_string())),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data()
                    && !data.is_empty()
                {
                    return Ok(Some(data));
                }
            }
        }
    }
}
