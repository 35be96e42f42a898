//! HTTP as registries speak it: redirects, challenges, tokens, ranges.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ACCEPT, AUTHORIZATION, CONTENT_RANGE, HOST, HeaderMap, HeaderValue, LOCATION, RANGE, USER_AGENT,
    WWW_AUTHENTICATE,
};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde::Deserialize;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{Credentials, OwnRegistry, Registries};
use crate::error::{AtPath, Error, ErrorKind, Result};
use crate::images::manifest::Descriptor;
use crate::images::reference::Digest;

const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// Registries send to storage, which may send on once; more is a loop.
const MAX_REDIRECTS: usize = 6;

/// For a connection and the head of an answer. Slower than this is broken.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// For the next piece of a body: a line may be slow, but not silent.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);

/// Longest text of an error that is passed on.
const MAX_ERROR_BYTES: u64 = 16 << 10;

/// How often progress is told.
const PROGRESS_EVERY_BYTES: u64 = 1 << 20;

/// Where certificates of authorities lie on the usual systems.
const SYSTEM_AUTHORITIES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

fn tls_with(
    roots: rustls::RootCertStore,
) -> Result<rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(builder
        .map_err(|e| Error::invalid(format!("TLS cannot be set up: {e}")))?
        .with_root_certificates(roots))
}

/// For registries of others: the system's authorities, and those that the operator names.
fn tls(registries: &Registries) -> Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    if let Some(file) = SYSTEM_AUTHORITIES.iter().find(|f| Path::new(f).exists()) {
        let found = CertificateDer::pem_file_iter(file).into_iter().flatten().flatten();
        roots.add_parsable_certificates(found);
    }
    let extra = CertificateDer::pem_slice_iter(&registries.extra_authorities_pem).flatten();
    roots.add_parsable_certificates(extra);
    Ok(tls_with(roots)?.with_no_client_auth())
}

/// For the installation's own: its authority, and the node's certificate to show.
fn own_tls(own: &OwnRegistry) -> Result<rustls::ClientConfig> {
    let bad = |what: &str| Error::invalid(format!("the {what} for the registry {} cannot be used", own.name));
    let mut roots = rustls::RootCertStore::empty();
    let (good, _) =
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&own.authorities_pem).flatten());
    if good == 0 {
        return Err(bad("authority"));
    }
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&own.certificate_pem).flatten().collect();
    let key = PrivateKeyDer::from_pem_slice(&own.key_pem).map_err(|_| bad("node's key"))?;
    tls_with(roots)?.with_client_auth_cert(chain, key).map_err(|_| bad("node's certificate"))
}

/// A repository on a host.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) host: String,
    pub(super) plain: bool,
    pub(super) repository: String,
}

impl Target {
    fn uri(&self, rest: &str) -> Result<Uri> {
        let scheme = if self.plain { "http" } else { "https" };
        format!("{scheme}://{}/v2/{}/{rest}", self.host, self.repository)
            .parse()
            .map_err(|e| Error::invalid(format!("{} is no address of a registry: {e}", self.host)))
    }
}

/// Asks registries, with one user's credentials.
pub(super) struct Client {
    credentials: Option<Credentials>,
    registries: Arc<Registries>,
    /// The installation's own registry, when that is what is asked: nothing else is then.
    own: Option<Arc<OwnRegistry>>,
    tls: Arc<rustls::ClientConfig>,
    /// The value of `Authorization` that the registry has accepted last.
    authorization: Mutex<Option<HeaderValue>>,
}

#[derive(Debug, Deserialize)]
struct Token {
    #[serde(alias = "access_token")]
    token: Option<String>,
}

fn network(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
    let doing = doing.into();
    move |e| Error { kind: ErrorKind::Failed, message: doing, source: Some(e) }
}

fn other(e: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> std::io::Error {
    std::io::Error::other(e)
}

impl Client {
    pub(super) fn new(
        registries: &Arc<Registries>,
        own: Option<Arc<OwnRegistry>>,
        credentials: Option<Credentials>,
    ) -> Result<Client> {
        let tls = match &own {
            Some(own) => own_tls(own)?,
            None => tls(registries)?,
        };
        let registries = registries.clone();
        Ok(Client { credentials, registries, own, tls: Arc::new(tls), authorization: Mutex::new(None) })
    }

    pub(super) async fn manifest(&self, target: &Target, wanted: &str, limit: u64) -> Result<Vec<u8>> {
        let uri = target.uri(&format!("manifests/{wanted}"))?;
        let accept = [(ACCEPT, HeaderValue::from_static(MANIFEST_TYPES))];
        let response = self.get(Method::GET, target, uri, HeaderMap::from_iter(accept)).await?;
        let what = format!("{}/{}:{wanted}", target.host, target.repository);
        body(good(response, &what).await?, limit, &what).await
    }

    pub(super) async fn small_blob(&self, target: &Target, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        let response =
            self.get(Method::GET, target, target.uri(&format!("blobs/{digest}"))?, HeaderMap::new()).await?;
        let what = format!("{digest} of {}/{}", target.host, target.repository);
        body(good(response, &what).await?, limit, &what).await
    }

    /// May these credentials read this blob here?
    pub(super) async fn has_blob(&self, target: &Target, digest: &Digest) -> bool {
        let Ok(uri) = target.uri(&format!("blobs/{digest}")) else { return false };
        let answer = self.get(Method::HEAD, target, uri, HeaderMap::new()).await;
        answer.is_ok_and(|r| r.status() == StatusCode::OK)
    }

    /// Downloads a blob behind what the file has already.
    pub(super) async fn download(
        &self,
        target: &Target,
        blob: &Descriptor,
        file: &Path,
        progress: &(impl Fn(u64) + Sync),
    ) -> Result<()> {
        let mut out =
            tokio::fs::File::options().create(true).append(true).open(file).await.at("open", file)?;
        let mut have = out.metadata().await.at("read", file)?.len();
        if blob.size > 0 && have == blob.size {
            return Ok(());
        }
        if blob.size > 0 && have > blob.size {
            out.set_len(0).await.at("truncate", file)?;
            have = 0;
        }
        let mut headers = HeaderMap::new();
        if have > 0
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={have}-"))
        {
            headers.insert(RANGE, range);
        }
        let what = format!("{} of {}/{}", blob.digest, target.host, target.repository);
        let response =
            self.get(Method::GET, target, target.uri(&format!("blobs/{}", blob.digest))?, headers).await?;
        let continues = response.status() == StatusCode::PARTIAL_CONTENT
            && response
                .headers()
                .get(CONTENT_RANGE)
                .and_then(|v| v.to_str().ok())
                .is_some_and(|v| v.starts_with(&format!("bytes {have}-")));
        if have > 0 && !continues {
            out.set_len(0).await.at("truncate", file)?;
            have = 0;
        }
        let mut body = good(response, &what).await?.into_body();
        let (mut bytes, mut told) = (have, have);
        while let Some(frame) = silence(body.frame(), &what).await? {
            let frame = frame.map_err(|e| network(format!("the download of {what} broke"))(other(e)))?;
            let Ok(data) = frame.into_data() else { continue };
            bytes += data.len() as u64;
            if blob.size > 0 && bytes > blob.size {
                return Err(Error::invalid(format!(
                    "{what} is longer than the manifest says ({} bytes)",
                    blob.size
                )));
            }
            out.write_all(&data).await.at("write", file)?;
            if bytes - told >= PROGRESS_EVERY_BYTES {
                told = bytes;
                progress(bytes);
            }
        }
        out.flush().await.at("write", file)?;
        progress(bytes);
        match blob.size == 0 || bytes == blob.size {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Failed, format!("the download of {what} ended early"))),
        }
    }

    /// Asks, goes where it is sent, and proves who it is when asked.
    async fn get(
        &self,
        method: Method,
        target: &Target,
        uri: Uri,
        headers: HeaderMap,
    ) -> Result<Response<Incoming>> {
        let mut tried = false;
        loop {
            let authorization = self.authorization.lock().ok().and_then(|a| a.clone());
            let response = self.follow(&method, target, uri.clone(), &headers, authorization).await?;
            if response.status() != StatusCode::UNAUTHORIZED || tried {
                return Ok(response);
            }
            tried = true;
            let challenge = response
                .headers()
                .get_all(WWW_AUTHENTICATE)
                .iter()
                .filter_map(|v| v.to_str().ok())
                .find_map(Challenge::parse);
            let Some(challenge) = challenge else { return Ok(response) };
            let Some(answer) = self.answer(target, &challenge).await? else { return Ok(response) };
            if let Ok(mut known) = self.authorization.lock() {
                *known = Some(answer);
            }
        }
    }

    async fn answer(&self, target: &Target, challenge: &Challenge) -> Result<Option<HeaderValue>> {
        let basic = self.credentials.as_ref().map(|c| {
            let text =
                base64::engine::general_purpose::STANDARD.encode(format!("{}:{}", c.username, c.password));
            format!("Basic {text}")
        });
        let value = |text: String| {
            let mut value = HeaderValue::from_str(&text)
                .map_err(|_| Error::invalid(format!("the credentials for {} are malformed", target.host)))?;
            value.set_sensitive(true);
            Ok(Some(value))
        };
        match challenge {
            Challenge::Basic => basic.map_or(Ok(None), value),
            Challenge::Bearer { realm, service } => {
                let scope = format!("repository:{}:pull", target.repository);
                let encode = |text: &str| {
                    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC)
                        .to_string()
                };
                let mark = if realm.contains('?') { '&' } else { '?' };
                let uri: Uri = format!("{realm}{mark}service={}&scope={}", encode(service), encode(&scope))
                    .parse()
                    .map_err(|e| {
                        Error::invalid(format!("{} names no valid token service: {e}", target.host))
                    })?;
                // A password goes in the clear only to where the operator said so.
                if uri.scheme_str() != Some("https") && !target.plain {
                    return Err(Error::invalid(format!(
                        "the token service of {} has no encryption: it is not asked",
                        target.host
                    )));
                }
                let authorization = basic.map(value).transpose()?.flatten();
                let response =
                    self.follow(&Method::GET, target, uri, &HeaderMap::new(), authorization).await?;
                let what = format!("a token of {} for {}", target.host, target.repository);
                let bytes = body(good(response, &what).await?, MAX_ERROR_BYTES * 4, &what).await?;
                let token = serde_json::from_slice::<Token>(&bytes)
                    .ok()
                    .and_then(|t| t.token)
                    .ok_or_else(|| Error::invalid(format!("{what} is not what was expected")))?;
                value(format!("Bearer {token}"))
            }
        }
    }

    async fn follow(
        &self,
        method: &Method,
        target: &Target,
        mut uri: Uri,
        headers: &HeaderMap,
        authorization: Option<HeaderValue>,
    ) -> Result<Response<Incoming>> {
        let first = uri.authority().cloned();
        for _ in 0..MAX_REDIRECTS {
            let mut request = Request::builder().method(method.clone()).uri(path_of(&uri));
            if let Some(all) = request.headers_mut() {
                all.extend(headers.clone());
                all.insert(USER_AGENT, HeaderValue::from_static(concat!("skep/", env!("CARGO_PKG_VERSION"))));
                if let Some(host) = uri.authority().and_then(|a| HeaderValue::from_str(a.as_str()).ok()) {
                    all.insert(HOST, host);
                }
                // Whoever a registry sends us to is not the registry.
                if let (Some(value), true) = (&authorization, uri.authority() == first.as_ref()) {
                    all.insert(AUTHORIZATION, value.clone());
                }
            }
            let request = request
                .body(Empty::<Bytes>::new())
                .map_err(|e| Error::invalid(format!("{uri} cannot be asked for: {e}")))?;
            let response = tokio::time::timeout(ANSWER_TIMEOUT, self.send(&uri, request))
                .await
                .map_err(|_| Error::new(ErrorKind::Failed, format!("{} does not answer", target.host)))??;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let location = response.headers().get(LOCATION).and_then(|l| l.to_str().ok());
            let next: Option<Uri> = location.and_then(|l| l.parse().ok());
            let Some(next) = next else { return Ok(response) };
            uri = match next.authority() {
                Some(_) => next,
                None => Uri::builder()
                    .scheme(uri.scheme_str().unwrap_or("https"))
                    .authority(uri.authority().map_or("", |a| a.as_str()))
                    .path_and_query(next.path_and_query().map_or("/", |p| p.as_str()))
                    .build()
                    .map_err(|e| Error::invalid(format!("{} sends to nowhere: {e}", target.host)))?,
            };
            if uri.scheme_str() != Some("https") && !target.plain {
                return Err(Error::invalid(format!(
                    "{} sends to {uri}, without encryption: not followed",
                    target.host
                )));
            }
        }
        Err(Error::invalid(format!("{} sends in circles", target.host)))
    }

    /// One request on a connection of its own: there are few, and most go to different hosts.
    async fn send(&self, uri: &Uri, request: Request<Empty<Bytes>>) -> Result<Response<Incoming>> {
        let host = uri.host().unwrap_or("").trim_matches(['[', ']']).to_owned();
        let secure = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let failed = || format!("cannot reach {host}");
        if let Some(own) = &self.own
            && uri.authority().map(|a| a.as_str()) != Some(own.address.as_str())
        {
            return Err(Error::invalid(format!("the registry {} sends to {host}: not followed", own.name)));
        }
        let found = tokio::net::lookup_host((host.as_str(), port)).await.map_err(network(failed()))?;
        // What is connected to is what was looked at: a name may have another address the next time.
        let (may, not): (Vec<_>, Vec<_>) = found
            .partition(|address| self.own.is_some() || self.registries.may_reach(&host, port, address.ip()));
        if let ([], [refused, ..]) = (may.as_slice(), not.as_slice()) {
            return Err(Error::invalid(format!(
                "{host} is at {}, which is no public address: the operator of this host has to name it as a private registry",
                refused.ip()
            )));
        }
        let stream = TcpStream::connect(may.as_slice()).await.map_err(network(failed()))?;
        let _ = stream.set_nodelay(true);
        let mut sender = if secure {
            let name = ServerName::try_from(host.clone())
                .map_err(|e| Error::invalid(format!("{host:?} is no name of a host: {e}")))?;
            let tls = tokio_rustls::TlsConnector::from(self.tls.clone())
                .connect(name, stream)
                .await
                .map_err(network(failed()))?;
            handshake(TokioIo::new(tls)).await
        } else {
            handshake(TokioIo::new(stream)).await
        }
        .map_err(|e| network(failed())(other(e)))?;
        sender.send_request(request).await.map_err(|e| network(failed())(other(e)))
    }
}

async fn handshake<T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static>(
    io: T,
) -> hyper::Result<hyper::client::conn::http1::SendRequest<Empty<Bytes>>> {
    let (sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    // Ends with the answer's body, or when it is dropped.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}

fn path_of(uri: &Uri) -> String {
    uri.path_and_query().map_or("/", |p| p.as_str()).to_owned()
}

async fn silence<T>(next: impl Future<Output = T>, what: &str) -> Result<T> {
    tokio::time::timeout(SILENCE_TIMEOUT, next)
        .await
        .map_err(|_| Error::new(ErrorKind::Failed, format!("the download of {what} has stopped")))
}

/// The answer if it is a good one, and otherwise what the registry says.
async fn good(response: Response<Incoming>, what: &str) -> Result<Response<Incoming>> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let said = body(response, MAX_ERROR_BYTES, what).await.unwrap_or_default();
    let said = serde_json::from_slice::<serde_json::Value>(&said)
        .ok()
        .and_then(|v| Some(v.get("errors")?.get(0)?.get("message")?.as_str()?.to_owned()))
        .unwrap_or_default();
    let (kind, why) = match status {
        StatusCode::NOT_FOUND => (ErrorKind::NotFound, "not found"),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            (ErrorKind::Invalid, "pull access denied, repository does not exist or may require authorization")
        }
        StatusCode::TOO_MANY_REQUESTS => (ErrorKind::Failed, "too many requests"),
        s if s.is_server_error() => (ErrorKind::Failed, "the registry failed"),
        _ => (ErrorKind::Invalid, "unexpected answer"),
    };
    let said = if said.is_empty() { String::new() } else { format!(": {said}") };
    Err(Error::new(kind, format!("{what}: {why} ({status}){said}")))
}

async fn body(response: Response<Incoming>, limit: u64, what: &str) -> Result<Vec<u8>> {
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(frame) = silence(body.frame(), what).await? {
        let frame = frame.map_err(|e| network(format!("the answer for {what} broke"))(other(e)))?;
        if let Ok(data) = frame.into_data() {
            if (bytes.len() + data.len()) as u64 > limit {
                return Err(Error::invalid(format!(
                    "the answer for {what} is longer than {limit} bytes: it is refused"
                )));
            }
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes)
}

/// What a registry asks for.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: String },
}

impl Challenge {
    fn parse(text: &str) -> Option<Challenge> {
        let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Challenge::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let field = |name: &str| {
            let at = rest.find(&format!("{name}=\""))? + name.len() + 2;
            let end = rest[at..].find('"')?;
            Some(rest[at..at + end].to_owned())
        };
        Some(Challenge::Bearer { realm: field("realm")?, service: field("service").unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_understood() {
        assert_eq!(Challenge::parse("Basic realm=\"x\""), Some(Challenge::Basic));
        assert_eq!(
            Challenge::parse(
                "Bearer realm=\"https://auth.x/token\",service=\"reg\",scope=\"repository:a:pull\""
            ),
            Some(Challenge::Bearer { realm: "https://auth.x/token".into(), service: "reg".into() })
        );
        assert_eq!(Challenge::parse("Negotiate"), None);
        assert_eq!(Challenge::parse("Bearer"), None);
    }
}
