//! `/healthz`, `/readyz` and `/metrics` of a role that serves nothing else.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

/// What a role says of itself.
pub(crate) trait Health: Send + Sync + 'static {
    /// Whether it does its work.
    fn ready(&self) -> bool;
    /// Its figures, in Prometheus' text format.
    fn metrics(&self, out: &mut String);
}

/// A request must be there within this time: there is no other limit on who may hold a connection.
const HEADER_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// Begins to answer, in the background, until the process ends. Returns the address.
///
/// # Errors
/// When the address cannot be listened on.
pub(crate) async fn serve(listen: SocketAddr, health: Arc<dyn Health>) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(listen).await.with_context(|| {
        format!("listening on {listen} for health and metrics; choose another with --listen")
    })?;
    let address = listener.local_addr().context("reading the address listened on")?;
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            };
            let health = health.clone();
            let service = service_fn(move |request| {
                let health = health.clone();
                async move { Ok::<_, Infallible>(answer(health.as_ref(), &request)) }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADER_TIMEOUT)
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    Ok(address)
}

fn answer(health: &dyn Health, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let (code, text) = match request.uri().path() {
        "/healthz" | "/livez" => (StatusCode::OK, "ok".to_owned()),
        "/readyz" if health.ready() => (StatusCode::OK, "ok".to_owned()),
        "/readyz" => (StatusCode::SERVICE_UNAVAILABLE, "not ready".to_owned()),
        "/metrics" => {
            let mut text = String::new();
            health.metrics(&mut text);
            (StatusCode::OK, text)
        }
        _ => (StatusCode::NOT_FOUND, "not found".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = code;
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
