//! Listing the same collection again and again.

use std::time::Instant;

use crate::{BenchError, Figures, Latencies, Server, failed};
use http::Method;

/// Reads a path `times` times, one after the other, over one warm connection.
///
/// # Errors
/// When a request fails.
pub async fn lists(server: &Server, path: &str, times: usize) -> Result<Figures, BenchError> {
    let client = server.client()?;
    let mut latencies = Latencies::default();
    let mut bytes = 0;
    // The first over each connection pays for its handshake.
    for turn in 0..crate::CONNECTIONS + times {
        let asked = Instant::now();
        let answer = client.request(Method::GET, path, "", Vec::new()).await;
        bytes = answer.map_err(failed(format!("GET {path}")))?.len();
        if turn >= crate::CONNECTIONS {
            latencies.add(asked.elapsed());
        }
    }
    let mut figures = Figures::default();
    figures.latencies("list", &latencies);
    figures.put("list_bytes", bytes as f64);
    Ok(figures)
}
