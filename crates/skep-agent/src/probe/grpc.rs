//! The one call of gRPC that probes need: `grpc.health.v1.Health/Check`, in the few bytes that it takes.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

/// The longest answer that is read: a status is a few bytes.
const MAX_ANSWER_BYTES: usize = 4096;

/// What a health service said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It serves.
    Serving,
    /// It answered with another status.
    Not(&'static str),
    /// The server has no such service.
    Unimplemented(String),
    /// The call failed.
    Failed(String),
}

/// `HealthCheckRequest{service}` as a message of gRPC.
fn request(service: &str) -> Bytes {
    let mut message = Vec::with_capacity(service.len() + 4);
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push(0x80 | (length & 0x7f) as u8);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend_from_slice(&message);
    frame.into()
}

/// The status in a `HealthCheckResponse`: field 1, and 0 when it is left out.
fn status(frame: &[u8]) -> Option<u64> {
    let length = u32::from_be_bytes(frame.get(1..5)?.try_into().ok()?) as usize;
    let message = frame.get(5..)?.get(..length)?;
    if frame.first() != Some(&0) {
        return None;
    }
    match message {
        [] => Some(0),
        [0x08, value, ..] => Some(u64::from(*value)),
        _ => None,
    }
}

fn meaning(status: u64) -> Health {
    match status {
        1 => Health::Serving,
        2 => Health::Not("NOT_SERVING"),
        3 => Health::Not("SERVICE_UNKNOWN"),
        _ => Health::Not("UNKNOWN"),
    }
}

/// Asks over a connection that has been made.
pub async fn check(stream: TcpStream, authority: &str, service: &str, agent: &str) -> Health {
    let failed = |e: &dyn std::fmt::Display| Health::Failed(e.to_string());
    let (mut sender, connection) =
        match hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await {
            Ok(pair) => pair,
            Err(e) => return failed(&e),
        };
    let driver = tokio::spawn(connection);
    let answer = async {
        let request = http::Request::post(format!("http://{authority}/grpc.health.v1.Health/Check"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("user-agent", agent)
            .body(Full::new(request(service)))
            .map_err(|e| e.to_string())?;
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let headers = response.headers().clone();
        let body = http_body_util::Limited::new(response.into_body(), MAX_ANSWER_BYTES)
            .collect()
            .await
            .map_err(|e| e.to_string())?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        let word = |name: &str| {
            trailers.get(name).or_else(|| headers.get(name)).and_then(|v| v.to_str().ok()).map(str::to_owned)
        };
        let message = word("grpc-message").unwrap_or_default();
        Ok::<_, String>(match word("grpc-status").as_deref() {
            Some("0") | None => match status(&body.to_bytes()) {
                Some(status) => meaning(status),
                None => Health::Failed("the answer cannot be read".to_owned()),
            },
            Some("12") => Health::Unimplemented(message),
            Some(code) => Health::Failed(format!("rpc error: code = {code} desc = {message}")),
        })
    };
    let health = answer.await.unwrap_or_else(Health::Failed);
    driver.abort();
    health
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        assert_eq!(request("").as_ref(), [0, 0, 0, 0, 0]);
        assert_eq!(request("ab").as_ref(), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = request(&"x".repeat(300));
        assert_eq!(long[5..8], [0x0a, 0xac, 0x02]);
        assert_eq!(status(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(status(&[0, 0, 0, 0, 0]), Some(0));
        for bad in [&[0u8, 0, 0, 0, 9, 8, 1][..], &[1, 0, 0, 0, 2, 8, 1], &[0, 0], &[]] {
            assert_eq!(status(bad), None);
        }
        assert_eq!(meaning(2), Health::Not("NOT_SERVING"));
    }
}
