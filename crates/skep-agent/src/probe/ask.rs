//! Asking a container how it is: HTTP, TCP, gRPC. (Executing a command is the runtime's.)

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, GRPCAction, HTTPGetAction, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::grpc::{self, Health};

/// So much of an answer is read, and shown where it says what is wrong.
pub const MAX_OUTPUT_BYTES: usize = 10 * 1024;
/// Redirects that are followed on the same host.
const MAX_REDIRECTS: usize = 10;
/// The version that probes and hooks call themselves by.
const VERSION: &str = "1.36";

/// What one question brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// All is well.
    Success,
    /// It is well, but somebody should know this.
    Warning(String),
    /// It is not, and why.
    Failure(String),
    /// It could not be asked: no result.
    Error(String),
}

/// A port by number or name.
///
/// # Errors
/// When the container has no port of that name, or it is no port.
pub fn port(port: &IntOrString, c: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(n) => i64::from(*n),
        IntOrString::String(name) => {
            let named = c.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name));
            match named {
                Some(p) => i64::from(p.container_port),
                None => name
                    .parse()
                    .map_err(|_| format!("couldn't find port: {name:?} in container {:?}", c.name))?,
            }
        }
    };
    u16::try_from(number).ok().filter(|n| *n > 0).ok_or_else(|| format!("invalid port number: {number}"))
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Opens a TCP connection and closes it.
pub async fn tcp(action: &TCPSocketAction, c: &Container, pod_ip: &str, timeout: Duration) -> Answer {
    let number = match port(&action.port, c) {
        Ok(number) => number,
        Err(why) => return Answer::Error(why),
    };
    let host = action.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(pod_ip);
    let at = authority(host, number);
    match tokio::time::timeout(timeout, TcpStream::connect(&at)).await {
        Ok(Ok(_)) => Answer::Success,
        Ok(Err(e)) => Answer::Failure(format!("dial tcp {at}: {}", go_io(&e))),
        Err(_) => Answer::Failure(format!("dial tcp {at}: i/o timeout")),
    }
}

/// Errors of connections as clients know them.
fn go_io(e: &std::io::Error) -> String {
    match e.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        _ => e.to_string(),
    }
}

/// Asks a health service of gRPC.
pub async fn grpc(action: &GRPCAction, pod_ip: &str, timeout: Duration) -> Answer {
    let Ok(number) = u16::try_from(action.port) else {
        return Answer::Error(format!("invalid port number: {}", action.port));
    };
    let at = authority(pod_ip, number);
    let service = action.service.as_deref().unwrap_or_default();
    let limit = format!("{}s", timeout.as_secs());
    let asked = tokio::time::timeout(timeout, async {
        let stream = TcpStream::connect(&at).await?;
        Ok::<_, std::io::Error>(grpc::check(stream, &at, service, &format!("kube-probe/{VERSION}")).await)
    });
    match asked.await {
        Ok(Ok(Health::Serving)) => Answer::Success,
        Ok(Ok(Health::Not(status))) => {
            Answer::Failure(format!("service unhealthy (responded with {status:?})"))
        }
        Ok(Ok(Health::Unimplemented(why))) => Answer::Failure(format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {why}"
        )),
        Ok(Ok(Health::Failed(why))) => Answer::Failure(format!("error: health rpc probe failed: {why}")),
        Ok(Err(e)) => Answer::Failure(format!("error: failed to connect service at {at:?}: {}", go_io(&e))),
        Err(_) => Answer::Failure(format!(
            "timeout: failed to connect service {at:?} within {limit}: context deadline exceeded"
        )),
    }
}

/// A request for what a probe or hook names.
struct Get {
    https: bool,
    host: String,
    port: u16,
    path: String,
}

impl Get {
    fn url(&self) -> String {
        let scheme = if self.https { "https" } else { "http" };
        format!("{scheme}://{}{}", authority(&self.host, self.port), self.path)
    }
}

/// Asks over HTTP. `purpose` is `probe` or `lifecycle`.
pub async fn http(
    action: &HTTPGetAction,
    c: &Container,
    pod_ip: &str,
    timeout: Duration,
    purpose: &str,
) -> Answer {
    let number = match port(&action.port, c) {
        Ok(number) => number,
        Err(why) => return Answer::Error(why),
    };
    let path = action.path.as_deref().unwrap_or("/");
    let get = Get {
        https: action.scheme.as_deref() == Some("HTTPS"),
        host: action.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| pod_ip.to_owned()),
        port: number,
        path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
    };
    let url = get.url();
    match tokio::time::timeout(timeout, follow(get, action, purpose)).await {
        Ok(answer) => answer,
        Err(_) => Answer::Failure(format!(
            "Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        )),
    }
}

async fn follow(mut get: Get, action: &HTTPGetAction, purpose: &str) -> Answer {
    for _ in 0..=MAX_REDIRECTS {
        let url = get.url();
        let (status, location, body) = match fetch(&get, action, purpose).await {
            Ok(answer) => answer,
            Err(why) => return Answer::Failure(format!("Get {url:?}: {why}")),
        };
        if (200..300).contains(&status) {
            return Answer::Success;
        }
        if !(300..400).contains(&status) {
            return Answer::Failure(format!("HTTP probe failed with statuscode: {status}"));
        }
        // A redirect to somewhere else is answer enough: whoever redirects is alive.
        match location.as_deref().and_then(|l| same_host(l, &get)) {
            Some(next) => get = next,
            None => return Answer::Warning(format!("Probe terminated redirects, Response body: {body}")),
        }
    }
    Answer::Failure(format!("stopped after {MAX_REDIRECTS} redirects"))
}

fn same_host(location: &str, from: &Get) -> Option<Get> {
    let uri: http::Uri = location.parse().ok()?;
    let path = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
    let https = match uri.scheme_str() {
        None => from.https,
        Some("http") => false,
        Some("https") => true,
        Some(_) => return None,
    };
    let host = uri.host().map_or(from.host.clone(), |h| h.trim_matches(['[', ']']).to_owned());
    let port = match (uri.host(), uri.port_u16()) {
        (None, _) => from.port,
        (Some(_), Some(port)) => port,
        (Some(_), None) if https => 443,
        (Some(_), None) => 80,
    };
    (host == from.host).then_some(Get { https, host, port, path })
}

async fn fetch(
    get: &Get,
    action: &HTTPGetAction,
    purpose: &str,
) -> Result<(u16, Option<String>, String), String> {
    let at = authority(&get.host, get.port);
    let stream = TcpStream::connect(&at).await.map_err(|e| format!("dial tcp {at}: {}", go_io(&e)))?;
    let mut request = http::Request::get(&get.path);
    let (mut has_host, mut has_agent, mut has_accept) = (false, false, false);
    for header in action.http_headers.iter().flatten() {
        let name = header.name.to_lowercase();
        has_host |= name == "host";
        has_agent |= name == "user-agent";
        has_accept |= name == "accept";
        if !(name == "accept" && header.value.is_empty()) {
            request = request.header(&header.name, &header.value);
        }
    }
    if !has_host {
        request = request.header("host", &at);
    }
    if !has_agent {
        request = request.header("user-agent", format!("kube-{purpose}/{VERSION}"));
    }
    if !has_accept {
        request = request.header("accept", "*/*");
    }
    let request =
        request.header("connection", "close").body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
    if get.https {
        let name = rustls::pki_types::ServerName::try_from(get.host.clone()).map_err(|e| e.to_string())?;
        let stream = unverified()?.connect(name, stream).await.map_err(|e| format!("tls: {e}"))?;
        exchange(stream, request).await
    } else {
        exchange(stream, request).await
    }
}

async fn exchange<S>(
    stream: S,
    request: http::Request<Empty<Bytes>>,
) -> Result<(u16, Option<String>, String), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let driver = tokio::spawn(connection);
    let result = async {
        let response = sender.send_request(request).await.map_err(|_| "EOF".to_owned())?;
        let status = response.status().as_u16();
        let location = response.headers().get("location").and_then(|v| v.to_str().ok()).map(str::to_owned);
        let mut body = response.into_body();
        let mut kept = Vec::new();
        while kept.len() < MAX_OUTPUT_BYTES
            && let Some(Ok(frame)) = body.frame().await
        {
            kept.extend_from_slice(frame.data_ref().map_or(&[][..], |d| d));
        }
        kept.truncate(MAX_OUTPUT_BYTES);
        Ok((status, location, String::from_utf8_lossy(&kept).into_owned()))
    };
    let result = result.await;
    driver.abort();
    result
}

/// TLS to a container: its certificate is nobody's business, as upstream has it.
fn unverified() -> Result<tokio_rustls::TlsConnector, String> {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let schemes = provider.signature_verification_algorithms.supported_schemes();
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(std::sync::Arc::new(AnyCertificate(schemes)))
        .with_no_client_auth();
    Ok(tokio_rustls::TlsConnector::from(std::sync::Arc::new(config)))
}

#[derive(Debug)]
struct AnyCertificate(Vec<rustls::SignatureScheme>);

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// A server that gives these answers, one per connection, and keeps the requests.
    async fn server(answers: &'static [&'static str]) -> (u16, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            let mut seen = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = vec![0; 4096];
                let n = stream.read(&mut buffer).await.unwrap();
                seen.push(String::from_utf8_lossy(&buffer[..n]).into_owned());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            seen
        });
        (port, task)
    }

    fn action(port: u16, path: &str) -> HTTPGetAction {
        HTTPGetAction {
            port: IntOrString::Int(port.into()),
            path: Some(path.to_owned()),
            ..Default::default()
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn http_statuses() {
        let c = Container::default();
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Answer::Success),
            (
                "HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n",
                Answer::Failure("HTTP probe failed with statuscode: 500".into()),
            ),
            (
                "HTTP/1.1 302 X\r\nlocation: http://elsewhere/\r\ncontent-length: 2\r\n\r\nhi",
                Answer::Warning("Probe terminated redirects, Response body: hi".into()),
            ),
        ] {
            let (port, seen) = server(Box::leak(Box::new([answer]))).await;
            assert_eq!(http(&action(port, "/healthz?x=1"), &c, "127.0.0.1", SECOND, "probe").await, expected);
            let request = seen.await.unwrap().remove(0);
            assert!(request.starts_with("GET /healthz?x=1 HTTP/1.1\r\n"), "{request}");
            assert!(request.to_lowercase().contains("user-agent: kube-probe/1.36"), "{request}");
        }
        let (port, seen) = server(&[
            "HTTP/1.1 301 X\r\nlocation: /b\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 204 OK\r\n\r\n",
        ])
        .await;
        assert_eq!(http(&action(port, "/a"), &c, "127.0.0.1", SECOND, "probe").await, Answer::Success);
        assert!(seen.await.unwrap()[1].starts_with("GET /b "));
    }

    #[tokio::test]
    async fn nobody_listens_or_answers() {
        let c = Container::default();
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = silent.local_addr().unwrap().port();
        let short = Duration::from_millis(50);
        assert!(
            matches!(http(&action(port, "/"), &c, "127.0.0.1", short, "probe").await, Answer::Failure(m) if m.contains("context deadline exceeded"))
        );
        let by_number = TCPSocketAction { port: IntOrString::Int(port.into()), host: None };
        assert_eq!(tcp(&by_number, &c, "127.0.0.1", SECOND).await, Answer::Success);
        drop(silent);
        assert!(
            matches!(tcp(&by_number, &c, "127.0.0.1", SECOND).await, Answer::Failure(m) if m.ends_with("connect: connection refused"))
        );
        let health = GRPCAction { port: port.into(), service: None };
        assert!(matches!(grpc(&health, "127.0.0.1", SECOND).await, Answer::Failure(_)));
    }

    #[test]
    fn ports_by_name() {
        let c: Container = serde_json::from_value(
            serde_json::json!({"name": "a", "ports": [{"name": "web", "containerPort": 80}]}),
        )
        .unwrap();
        assert_eq!(port(&IntOrString::String("web".into()), &c), Ok(80));
        assert_eq!(port(&IntOrString::Int(8080), &c), Ok(8080));
        assert_eq!(
            port(&IntOrString::String("no".into()), &c),
            Err("couldn't find port: \"no\" in container \"a\"".to_owned())
        );
        assert!(port(&IntOrString::Int(0), &c).is_err());
    }
}
