//! Listing the same collection again and again.

use std::time::Instant;

use futures::StreamExt;
use skep_client::Request;

use crate::{BenchError, Figures, Latencies, Server, failed};
use http::{HeaderMap, Method};

/// Reads a path `times` times, one after the other, over one warm connection. What arrives is counted and not kept: a long answer in one
/// piece costs this program's memory as much as the server's work.
///
/// # Errors
/// When a request fails, or an answer is not of the first one's length.
pub async fn lists(server: &Server, path: &str, times: usize) -> Result<Figures, BenchError> {
    let client = server.client()?;
    let mut latencies = Latencies::default();
    let mut expected = None;
    // The first over each connection pays for its handshake.
    for turn in 0..crate::CONNECTIONS + times {
        let asked = Instant::now();
        let request = Request {
            method: Method::GET,
            path: path.to_owned(),
            headers: HeaderMap::new(),
            body: bytes::Bytes::new(),
            endless: false,
        };
        let what = || format!("GET {path}");
        let mut body = client.send(request).await.map_err(failed(what()))?.body;
        let mut bytes = 0;
        while let Some(chunk) = body.next().await {
            bytes += chunk.map_err(failed(what()))?.len();
        }
        if turn >= crate::CONNECTIONS {
            latencies.add(asked.elapsed());
        }
        // A list that is cut short is fast.
        if *expected.get_or_insert(bytes) != bytes {
            return Err(BenchError::Broken(format!(
                "GET {path}: an answer has {bytes} bytes, others had more"
            )));
        }
    }
    let mut figures = Figures::default();
    figures.latencies("list", &latencies);
    figures.put("list_bytes", expected.unwrap_or_default() as f64);
    Ok(figures)
}
