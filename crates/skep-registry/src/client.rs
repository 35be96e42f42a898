//! The other side of the protocol: what a mirror asks its source with, and what `skep image push` sends with.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION, RANGE, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::digest::{Algorithm, Digest};
use crate::http::Body;
use crate::manifest::{DOCKER_IMAGE, DOCKER_INDEX, IMAGE, INDEX, MANIFEST_MAX_BYTES};

/// How long a connection may take, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long an answer may take to begin, or to go on.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);
/// Redirections that are followed; registries send blobs' readers to their stores, which is one.
const REDIRECTS_MAX: usize = 5;
/// Largest answer that is not a blob.
const SMALL_MAX_BYTES: usize = 2 * MANIFEST_MAX_BYTES;
/// Pages of a list that are followed.
const PAGES_MAX: usize = 1000;
/// Tokens are asked for anew so long before they end.
const TOKEN_MARGIN: Duration = Duration::from_secs(10);
/// How long a token is good that does not say so: the protocol's.
const TOKEN_LIFE: Duration = Duration::from_secs(60);
/// Where a system keeps the authorities that it trusts.
const SYSTEM_AUTHORITIES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is not one.
    #[error("{0:?} is not a registry's address: write https://HOST or https://HOST:PORT")]
    Address(String),
    /// Certificates or keys that cannot be used.
    #[error("the certificates for {host} cannot be used: {why}")]
    Tls {
        /// For which registry.
        host: String,
        /// Why.
        why: String,
    },
    /// Nobody answers, or no longer.
    #[error("{host} cannot be reached: {why}")]
    Unreachable {
        /// Which registry.
        host: String,
        /// Why.
        why: String,
    },
    /// The registry said no.
    #[error("{host} answered {status} to {what}: {said}")]
    Status {
        /// Which registry.
        host: String,
        /// What was asked.
        what: String,
        /// The status.
        status: StatusCode,
        /// What the answer says.
        said: String,
    },
    /// What came is not what was asked for.
    #[error("{host} sent something else than {what}")]
    Content {
        /// Which registry.
        host: String,
        /// What was asked for.
        what: String,
    },
    /// A file that is to be sent.
    #[error("cannot read {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl ClientError {
    /// The status of the answer, where there was one.
    #[must_use]
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            ClientError::Status { status, .. } => Some(*status),
            _ => None,
        }
    }
}

/// How a registry is reached.
#[derive(Default)]
pub struct Options {
    /// User name and password.
    pub credentials: Option<(String, String)>,
    /// Authorities in PEM, besides the system's.
    pub authorities_pem: Vec<u8>,
    /// Further authorities.
    pub authorities: Vec<CertificateDer<'static>>,
    /// Trust those authorities only, and not the system's.
    pub only_authorities: bool,
    /// A client certificate and its key.
    pub identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

/// What is sent with a request; it can be sent again.
#[derive(Clone, Debug)]
pub enum Content {
    /// Nothing.
    Nothing,
    /// These bytes, of this type.
    Bytes(Bytes, String),
    /// A file's content.
    File(PathBuf),
    /// A file's content, and who hears how much of it is sent.
    Watched(PathBuf, Hears),
}

/// Hears how many more bytes were sent.
#[derive(Clone)]
pub struct Hears(pub Arc<dyn Fn(u64) + Send + Sync>);

impl std::fmt::Debug for Hears {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hears")
    }
}

/// A client of one registry.
pub struct Client {
    base: Uri,
    host: String,
    connector: TlsConnector,
    credentials: Option<(String, String)>,
    /// By scope.
    tokens: Mutex<HashMap<String, (String, Instant)>>,
}

/// A manifest as a registry serves it.
#[derive(Debug)]
pub struct Fetched {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its type, as the registry says.
    pub media_type: String,
    /// Its digest: computed.
    pub digest: Digest,
}

#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: String },
}

fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let text = headers.get(WWW_AUTHENTICATE)?.to_str().ok()?;
    let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    scheme.eq_ignore_ascii_case("bearer").then_some(())?;
    let field = |name: &str| {
        let at = rest.find(&format!("{name}=\""))? + name.len() + 2;
        Some(rest[at..at + rest[at..].find('"')?].to_owned())
    };
    Some(Challenge::Bearer { realm: field("realm")?, service: field("service").unwrap_or_default() })
}

fn tls(host: &str, options: &mut Options) -> Result<TlsConnector, ClientError> {
    let bad = |why: String| ClientError::Tls { host: host.to_owned(), why };
    let mut roots = rustls::RootCertStore::empty();
    for path in SYSTEM_AUTHORITIES.into_iter().filter(|_| !options.only_authorities) {
        if let Ok(pem) = std::fs::read(path) {
            roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok));
            break;
        }
    }
    for certificate in CertificateDer::pem_slice_iter(&options.authorities_pem) {
        let certificate = certificate.map_err(|e| bad(e.to_string()))?;
        roots.add(certificate).map_err(|e| bad(e.to_string()))?;
    }
    for certificate in std::mem::take(&mut options.authorities) {
        roots.add(certificate).map_err(|e| bad(e.to_string()))?;
    }
    let builder =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| bad(e.to_string()))?
            .with_root_certificates(roots);
    let config = match options.identity.take() {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|e| bad(e.to_string()))?,
        None => builder.with_no_client_auth(),
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

impl Client {
    /// A client of the registry at an address, `https://HOST[:PORT]`, or `http://…` for one without encryption.
    ///
    /// # Errors
    /// [`ClientError::Address`], [`ClientError::Tls`].
    pub fn new(address: &str, mut options: Options) -> Result<Client, ClientError> {
        let bad = || ClientError::Address(address.to_owned());
        let base: Uri = address.trim_end_matches('/').parse().map_err(|_| bad())?;
        if !matches!(base.scheme_str(), Some("http" | "https")) || base.path().len() > 1 {
            return Err(bad());
        }
        let host = base.authority().ok_or_else(bad)?.to_string();
        let connector = tls(&host, &mut options)?;
        Ok(Client { base, host, connector, credentials: options.credentials, tokens: Mutex::default() })
    }

    /// The registry's host, with its port if it has one.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    fn unreachable(&self, why: impl ToString) -> ClientError {
        ClientError::Unreachable { host: self.host.clone(), why: why.to_string() }
    }

    async fn in_time<T>(&self, limit: Duration, what: impl Future<Output = T>) -> Result<T, ClientError> {
        tokio::time::timeout(limit, what)
            .await
            .map_err(|_| self.unreachable(format!("no answer within {} s", limit.as_secs())))
    }

    /// Sends one request on a connection of its own.
    async fn exchange(&self, uri: &Uri, request: Request<Body>) -> Result<Response<Incoming>, ClientError> {
        let host = uri.host().unwrap_or_default().to_owned();
        let encrypted = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if encrypted { 443 } else { 80 });
        let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let connect = async {
            let stream = TcpStream::connect((name.as_str(), port)).await.map_err(|e| self.unreachable(e))?;
            // Latency; a failure to say so does not matter.
            let _ = stream.set_nodelay(true);
            if !encrypted {
                return handshake(stream).await.map_err(|e| self.unreachable(e));
            }
            let server = ServerName::try_from(name.clone()).map_err(|e| self.unreachable(e))?;
            let stream = self.connector.connect(server, stream).await.map_err(|e| self.unreachable(e))?;
            handshake(stream).await.map_err(|e| self.unreachable(e))
        };
        let mut sender = self.in_time(CONNECT_TIMEOUT, connect).await??;
        sender.send_request(request).await.map_err(|e| self.unreachable(e))
    }

    async fn once(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        content: &Content,
        authorization: Option<String>,
    ) -> Result<Response<Incoming>, ClientError> {
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        let mut request = Request::builder().method(method).uri(path);
        let body = match content {
            Content::Nothing => {
                if !matches!(*method, Method::GET | Method::HEAD) {
                    request = request.header(CONTENT_LENGTH, 0);
                }
                crate::http::empty_body()
            }
            Content::Bytes(bytes, media_type) => {
                request = request.header(CONTENT_TYPE, media_type).header(CONTENT_LENGTH, bytes.len());
                Full::new(bytes.clone()).map_err(|never| match never {}).boxed_unsync()
            }
            Content::File(path) | Content::Watched(path, _) => {
                let at = |source| ClientError::File { path: path.clone(), source };
                let file = std::fs::File::open(path).map_err(at)?;
                let length = file.metadata().map_err(at)?.len();
                request =
                    request.header(CONTENT_TYPE, "application/octet-stream").header(CONTENT_LENGTH, length);
                let body = crate::http::file_body(file, 0, length).map_err(at)?;
                match content {
                    Content::Watched(_, hears) => {
                        let hears = hears.clone();
                        body.map_frame(move |frame| {
                            (hears.0)(frame.data_ref().map_or(0, |d| d.len() as u64));
                            frame
                        })
                        .boxed_unsync()
                    }
                    _ => body,
                }
            }
        };
        let mut request = request.body(body).map_err(|e| self.unreachable(e))?;
        request.headers_mut().extend(headers.clone());
        let authority = uri.authority().map_or("", |a| a.as_str());
        for (name, text) in [(HOST, Some(authority.to_owned())), (AUTHORIZATION, authorization)] {
            if let Some(text) = text {
                let value = HeaderValue::from_str(&text).map_err(|e| self.unreachable(e))?;
                request.headers_mut().insert(name, value);
            }
        }
        // A body that is long takes its time to send.
        let exchange = Box::pin(self.exchange(uri, request));
        match content {
            Content::File(_) | Content::Watched(..) => exchange.await,
            _ => self.in_time(SILENCE_TIMEOUT, exchange).await?,
        }
    }

    fn basic(&self) -> Option<String> {
        let (user, password) = self.credentials.as_ref()?;
        Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
    }

    fn remembered(&self, scope: &str) -> Option<String> {
        let tokens = self.tokens.lock();
        tokens.get(scope).filter(|(_, until)| *until > Instant::now()).map(|(header, _)| header.clone())
    }

    async fn authorize(&self, scope: &str, challenge: Challenge) -> Result<Option<String>, ClientError> {
        #[derive(Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
            expires_in: Option<u64>,
        }
        let (realm, service) = match challenge {
            Challenge::Basic => {
                let header = self.basic();
                if let Some(header) = &header {
                    let until = Instant::now() + TOKEN_LIFE;
                    self.tokens.lock().insert(scope.to_owned(), (header.clone(), until));
                }
                return Ok(header);
            }
            Challenge::Bearer { realm, service } => (realm, service),
        };
        let escape = |text: &str| {
            percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
        };
        let separator = if realm.contains('?') { '&' } else { '?' };
        let uri = format!("{realm}{separator}service={}&scope={}", escape(&service), escape(scope));
        let uri: Uri = uri.parse().map_err(|_| ClientError::Address(realm.clone()))?;
        // A password goes over the network only encrypted, or where everything is in plain text anyway.
        if uri.scheme_str() != Some("https") && self.base.scheme_str() == Some("https") {
            return Err(ClientError::Address(realm));
        }
        let response =
            self.once(&Method::GET, &uri, &HeaderMap::new(), &Content::Nothing, self.basic()).await?;
        // Nobody in particular gets no token there: the first answer stands.
        if response.status() == StatusCode::UNAUTHORIZED && self.credentials.is_none() {
            return Ok(None);
        }
        let bytes = self.good_bytes(response, "a token").await?;
        let token: Token = serde_json::from_slice(&bytes).map_err(|_| self.content("a token"))?;
        let text = token.token.or(token.access_token).ok_or_else(|| self.content("a token"))?;
        let life = token.expires_in.map_or(TOKEN_LIFE, Duration::from_secs).saturating_sub(TOKEN_MARGIN);
        let header = format!("Bearer {text}");
        self.tokens.lock().insert(scope.to_owned(), (header.clone(), Instant::now() + life));
        Ok(Some(header))
    }

    fn content(&self, what: &str) -> ClientError {
        ClientError::Content { host: self.host.clone(), what: what.to_owned() }
    }

    fn uri(&self, path: &str) -> Result<Uri, ClientError> {
        let text = match path.starts_with('/') {
            true => format!("{}://{}{path}", self.base.scheme_str().unwrap_or("https"), self.host),
            false => path.to_owned(),
        };
        text.parse().map_err(|_| ClientError::Address(text))
    }

    /// Sends a request about a repository, with whatever credential the registry wants; follows redirections of reads.
    ///
    /// # Errors
    /// [`ClientError`]; an answer with an error status is an answer.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        repository: &str,
        headers: HeaderMap,
        content: Content,
    ) -> Result<Response<Incoming>, ClientError> {
        let read = matches!(method, Method::GET | Method::HEAD);
        let scope = format!("repository:{repository}:{}", if read { "pull" } else { "pull,push" });
        let mut uri = self.uri(path)?;
        for _ in 0..REDIRECTS_MAX {
            let at_home = uri.authority().is_some_and(|a| a.as_str() == self.host);
            let authorization = self.remembered(&scope).filter(|_| at_home);
            let mut response = self.once(&method, &uri, &headers, &content, authorization).await?;
            if response.status() == StatusCode::UNAUTHORIZED
                && at_home
                && let Some(challenge) = challenge(response.headers())
                && let Some(authorization) = self.authorize(&scope, challenge).await?
            {
                response = self.once(&method, &uri, &headers, &content, Some(authorization)).await?;
            }
            if !(read && response.status().is_redirection() && response.status() != StatusCode::NOT_MODIFIED)
            {
                return Ok(response);
            }
            let to = response.headers().get(LOCATION).and_then(|l| l.to_str().ok());
            let to = self.uri(to.ok_or_else(|| self.content("a place to go to"))?)?;
            if to.scheme_str() != Some("https") && uri.scheme_str() == Some("https") {
                return Err(ClientError::Address(to.to_string()));
            }
            uri = to;
        }
        Err(self.content("an end of redirections"))
    }

    /// The whole body of a good answer; the registry's words of another.
    async fn good_bytes(&self, response: Response<Incoming>, what: &str) -> Result<Vec<u8>, ClientError> {
        let status = response.status();
        let mut body = response.into_body();
        let mut bytes = Vec::new();
        while let Some(frame) = self.in_time(SILENCE_TIMEOUT, body.frame()).await? {
            if let Ok(data) = frame.map_err(|e| self.unreachable(e))?.into_data() {
                if bytes.len() + data.len() > SMALL_MAX_BYTES {
                    return Err(self.content(what));
                }
                bytes.extend_from_slice(&data);
            }
        }
        if status.is_success() {
            return Ok(bytes);
        }
        let said = serde_json::from_slice::<serde_json::Value>(&bytes).ok();
        let said = said.and_then(|v| v["errors"][0]["message"].as_str().map(str::to_owned));
        Err(ClientError::Status {
            host: self.host.clone(),
            what: what.to_owned(),
            status,
            said: said.unwrap_or_else(|| status.canonical_reason().unwrap_or("").to_owned()),
        })
    }

    /// Whether the registry is there and lets this client in.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn check(&self) -> Result<(), ClientError> {
        let response = self.send(Method::GET, "/v2/", "", HeaderMap::new(), Content::Nothing).await?;
        self.good_bytes(response, "whether one may come in").await.map(|_| ())
    }

    fn manifest_headers() -> HeaderMap {
        let mut headers = HeaderMap::new();
        for accepted in [INDEX, DOCKER_INDEX, IMAGE, DOCKER_IMAGE] {
            headers.append(ACCEPT, HeaderValue::from_static(accepted));
        }
        headers
    }

    /// The digest of a manifest, without its content; `None` where the registry does not say.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn head_manifest(
        &self,
        repository: &str,
        reference: &str,
    ) -> Result<Option<Digest>, ClientError> {
        let path = format!("/v2/{repository}/manifests/{reference}");
        let response =
            self.send(Method::HEAD, &path, repository, Self::manifest_headers(), Content::Nothing).await?;
        let digest = response.headers().get("docker-content-digest");
        let digest = digest.and_then(|d| d.to_str().ok()?.parse().ok());
        self.good_bytes(response, &format!("{repository}:{reference}")).await?;
        Ok(digest)
    }

    /// A manifest.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::Content`] when it is not what a digest says.
    pub async fn manifest(&self, repository: &str, reference: &str) -> Result<Fetched, ClientError> {
        let path = format!("/v2/{repository}/manifests/{reference}");
        let what = format!("{repository}:{reference}");
        let response =
            self.send(Method::GET, &path, repository, Self::manifest_headers(), Content::Nothing).await?;
        let media_type = response.headers().get(CONTENT_TYPE).and_then(|t| t.to_str().ok());
        let media_type = media_type.unwrap_or("").to_owned();
        let bytes = self.good_bytes(response, &what).await?;
        let wanted: Option<Digest> = reference.contains(':').then(|| reference.parse().ok()).flatten();
        let algorithm = wanted.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let digest = Digest::of(algorithm, &bytes);
        if bytes.len() > MANIFEST_MAX_BYTES || wanted.is_some_and(|w| w != digest) {
            return Err(self.content(&what));
        }
        Ok(Fetched { bytes, media_type, digest })
    }

    /// A blob, from a byte on. The content is the caller's to check.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn blob(
        &self,
        repository: &str,
        digest: &Digest,
        from: u64,
    ) -> Result<Response<Incoming>, ClientError> {
        let mut headers = HeaderMap::new();
        if from > 0
            && let Ok(value) = HeaderValue::from_str(&format!("bytes={from}-"))
        {
            headers.insert(RANGE, value);
        }
        let path = format!("/v2/{repository}/blobs/{digest}");
        let response = self.send(Method::GET, &path, repository, headers, Content::Nothing).await?;
        let wanted = if from > 0 { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
        if response.status() == wanted {
            return Ok(response);
        }
        let what = format!("{repository}@{digest}");
        self.good_bytes(response, &what).await?;
        Err(self.content(&what))
    }

    /// The next piece of a blob's content.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] when it breaks off.
    pub async fn next_piece(&self, body: &mut Incoming) -> Result<Option<Bytes>, ClientError> {
        loop {
            match self.in_time(SILENCE_TIMEOUT, body.frame()).await? {
                None => return Ok(None),
                Some(Err(e)) => return Err(self.unreachable(e)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// A blob's length; `None` when the registry has not got it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn blob_size(&self, repository: &str, digest: &Digest) -> Result<Option<u64>, ClientError> {
        let path = format!("/v2/{repository}/blobs/{digest}");
        let response = self.send(Method::HEAD, &path, repository, HeaderMap::new(), Content::Nothing).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let length = response.headers().get(CONTENT_LENGTH).and_then(|l| l.to_str().ok()?.parse().ok());
        self.good_bytes(response, &format!("{repository}@{digest}")).await?;
        length.map(Some).ok_or_else(|| self.content("a blob's length"))
    }

    /// All pages of a JSON list.
    async fn pages(
        &self,
        first: String,
        repository: &str,
        key: &str,
    ) -> Result<Vec<serde_json::Value>, ClientError> {
        let (mut path, mut all) = (Some(first), Vec::new());
        for _ in 0..PAGES_MAX {
            let Some(now) = path.take() else { break };
            let response =
                self.send(Method::GET, &now, repository, HeaderMap::new(), Content::Nothing).await?;
            let link = response.headers().get("link").and_then(|l| l.to_str().ok());
            path = link.and_then(|l| Some(l.split_once('<')?.1.split_once('>')?.0.to_owned()));
            let bytes = self.good_bytes(response, &now).await?;
            let page: serde_json::Value = serde_json::from_slice(&bytes).map_err(|_| self.content(&now))?;
            all.extend(page[key].as_array().cloned().unwrap_or_default());
        }
        Ok(all)
    }

    /// All tags of a repository.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn tags(&self, repository: &str) -> Result<Vec<String>, ClientError> {
        let all = self.pages(format!("/v2/{repository}/tags/list"), repository, "tags").await?;
        Ok(all.iter().filter_map(|t| t.as_str().map(str::to_owned)).collect())
    }

    /// The names of all repositories that the registry shows.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn catalog(&self) -> Result<Vec<String>, ClientError> {
        let all = self.pages("/v2/_catalog".to_owned(), "", "repositories").await?;
        Ok(all.iter().filter_map(|t| t.as_str().map(str::to_owned)).collect())
    }

    /// The descriptors of manifests about another one; by the tag that stands for them where a registry has no list of its own.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn referrers(
        &self,
        repository: &str,
        subject: &Digest,
    ) -> Result<Vec<serde_json::Value>, ClientError> {
        let path = format!("/v2/{repository}/referrers/{subject}");
        match self.pages(path, repository, "manifests").await {
            Err(e) if e.status() == Some(StatusCode::NOT_FOUND) => {}
            result => return result,
        }
        // Algorithm and hash, cut to what is a tag.
        let tag = format!("{}-{:.64}", subject.algorithm().as_str(), subject.hex());
        match self.manifest(repository, &tag).await {
            Err(e) if e.status() == Some(StatusCode::NOT_FOUND) => Ok(Vec::new()),
            Err(e) => Err(e),
            Ok(found) => {
                let index: serde_json::Value =
                    serde_json::from_slice(&found.bytes).map_err(|_| self.content("a list of referrers"))?;
                Ok(index["manifests"].as_array().cloned().unwrap_or_default())
            }
        }
    }

    /// Sends a blob that lies in a file, unless the registry has it. Says whether it was sent.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn push_blob(
        &self,
        repository: &str,
        digest: &Digest,
        file: PathBuf,
    ) -> Result<bool, ClientError> {
        self.push_content(repository, digest, Content::File(file)).await
    }

    /// The same with any content.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn push_content(
        &self,
        repository: &str,
        digest: &Digest,
        content: Content,
    ) -> Result<bool, ClientError> {
        if self.blob_size(repository, digest).await?.is_some() {
            return Ok(false);
        }
        let path = format!("/v2/{repository}/blobs/uploads/");
        let begun = self.send(Method::POST, &path, repository, HeaderMap::new(), Content::Nothing).await?;
        let location = begun.headers().get(LOCATION).and_then(|l| l.to_str().ok()).map(str::to_owned);
        self.good_bytes(begun, "an upload").await?;
        let location = location.ok_or_else(|| self.content("a place to send to"))?;
        let separator = if location.contains('?') { '&' } else { '?' };
        let path = format!("{location}{separator}digest={digest}");
        let sent = self.send(Method::PUT, &path, repository, HeaderMap::new(), content).await?;
        self.good_bytes(sent, &format!("{repository}@{digest}")).await?;
        Ok(true)
    }

    /// Sends a manifest under a tag or its digest.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn push_manifest(
        &self,
        repository: &str,
        reference: &str,
        media_type: &str,
        bytes: Vec<u8>,
    ) -> Result<(), ClientError> {
        let path = format!("/v2/{repository}/manifests/{reference}");
        let content = Content::Bytes(bytes.into(), media_type.to_owned());
        let sent = self.send(Method::PUT, &path, repository, HeaderMap::new(), content).await?;
        self.good_bytes(sent, &format!("{repository}:{reference}")).await.map(|_| ())
    }
}

async fn handshake<T>(stream: T) -> hyper::Result<hyper::client::conn::http1::SendRequest<Body>>
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the answer's body, or when that is dropped; what goes wrong shows there.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_understood() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_str(text).unwrap());
            challenge(&headers)
        };
        assert_eq!(of("Basic realm=\"x\""), Some(Challenge::Basic));
        let expected = Challenge::Bearer { realm: "https://a/token".into(), service: "r".into() };
        assert_eq!(of("Bearer realm=\"https://a/token\",service=\"r\",scope=\"x\""), Some(expected));
        assert_eq!(of("Bearer"), None);
        assert_eq!(of("Negotiate"), None);
    }

    #[test]
    fn addresses_are_checked() {
        assert_eq!(Client::new("https://a.b:5000/", Options::default()).unwrap().host(), "a.b:5000");
        for bad in ["a.b", "ftp://a", "https://a/b", ""] {
            assert!(Client::new(bad, Options::default()).is_err(), "{bad}");
        }
    }
}
