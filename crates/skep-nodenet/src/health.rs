//! Whether this node has an endpoint of a service, for load balancers outside that ask (`healthCheckNodePort`): over HTTP, as kube-proxy answers.
//!
//! Whatever is asked for, the answer is 200 while the node has a ready endpoint and 503 while it has none, and how many there are.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use skep_netplan::service::ServiceKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Who asks has so long for the whole question; a load balancer asks anew every few seconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest question: what is asked for is not looked at, only where it ends.
const QUESTION_BYTES: usize = 8192;
/// Questions at the same time, of each service; further ones wait.
const AT_ONCE: usize = 32;
/// How long a port that somebody else has is waited for before it is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// The services of this node that are asked after.
#[derive(Default)]
pub(crate) struct HealthChecks {
    /// Whether what services need is programmed.
    programmed: Arc<AtomicBool>,
    services: HashMap<ServiceKey, Check>,
}

struct Check {
    port: u16,
    endpoints: Arc<AtomicUsize>,
    /// Stops listening when it is dropped.
    _task: JoinSet<()>,
}

impl HealthChecks {
    /// Says whether everything is programmed: if it is not, no service is well.
    pub(crate) fn set_programmed(&self, programmed: bool) {
        self.programmed.store(programmed, Ordering::Relaxed);
    }

    /// A service is asked after at a port, and has so many ready endpoints here; or it is not asked after.
    pub(crate) fn set(&mut self, key: &ServiceKey, wanted: Option<(u16, usize)>) {
        let Some((port, count)) = wanted else {
            self.services.remove(key);
            return;
        };
        match self.services.get(key).filter(|check| check.port == port) {
            Some(check) => check.endpoints.store(count, Ordering::Relaxed),
            None => {
                // The old port is free before another is taken.
                self.services.remove(key);
                let endpoints = Arc::new(AtomicUsize::new(count));
                let asked = Asked {
                    key: key.clone(),
                    endpoints: endpoints.clone(),
                    programmed: self.programmed.clone(),
                };
                let mut task = JoinSet::new();
                task.spawn(serve(asked, port));
                self.services.insert(key.clone(), Check { port, endpoints, _task: task });
            }
        }
    }

    /// Forgets services that are not among these.
    pub(crate) fn retain(&mut self, exists: impl Fn(&ServiceKey) -> bool) {
        self.services.retain(|key, _| exists(key));
    }
}

#[derive(Clone)]
struct Asked {
    key: ServiceKey,
    endpoints: Arc<AtomicUsize>,
    programmed: Arc<AtomicBool>,
}

impl Asked {
    /// The whole answer.
    fn answer(&self) -> String {
        let (count, well) = (self.endpoints.load(Ordering::Relaxed), self.programmed.load(Ordering::Relaxed));
        let status = if count > 0 && well { "200 OK" } else { "503 Service Unavailable" };
        let (namespace, name) = (json!(self.key.0), json!(self.key.1));
        let body = format!(
            "{{\n\t\"service\": {{\n\t\t\"namespace\": {namespace},\n\t\t\"name\": {name}\n\t}},\n\t\"localEndpoints\": {count},\n\t\
             \"serviceProxyHealthy\": {well}\n}}"
        );
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\n\
             X-Load-Balancing-Endpoint-Weight: {count}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
    }

    async fn tell(&self, mut stream: TcpStream) -> io::Result<()> {
        let mut question = Vec::new();
        while !question.windows(4).any(|w| w == b"\r\n\r\n") {
            if question.len() >= QUESTION_BYTES || stream.read_buf(&mut question).await? == 0 {
                return Ok(());
            }
        }
        stream.write_all(self.answer().as_bytes()).await?;
        stream.shutdown().await
    }
}

/// At all addresses of the node, of both families if it has both.
async fn listen(port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await
        }
        other => other,
    }
}

async fn serve(asked: Asked, port: u16) {
    let mut told = false;
    let listener = loop {
        match listen(port).await {
            Ok(listener) => break listener,
            Err(error) => {
                if !told {
                    let (namespace, name) = &asked.key;
                    tracing::warn!(
                        namespace, name, port, %error,
                        "who asks after a service's endpoints cannot be answered; it is tried again"
                    );
                    told = true;
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    };
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks: JoinSet<()> = JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        // It is never closed.
        let Ok(turn) = turns.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, from)) => {
                let asked = asked.clone();
                tasks.spawn(async move {
                    let _turn = turn;
                    if let Ok(Err(error)) = timeout(PATIENCE, asked.tell(stream)).await {
                        tracing::debug!(%from, %error, "who asked after a service's endpoints went");
                    }
                });
            }
            Err(error) => {
                tracing::debug!(%error, "a question after a service's endpoints could not be taken");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    async fn get(port: u16) -> String {
        let mut stream = loop {
            match TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
                Ok(stream) => break stream,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        said
    }

    #[tokio::test]
    async fn load_balancers_are_told_who_has_endpoints() {
        let port = TcpListener::bind("[::]:0").await.unwrap().local_addr().unwrap().port();
        let mut checks = HealthChecks::default();
        let key = ("shop".to_owned(), "front".to_owned());
        checks.set(&key, Some((port, 2)));
        assert!(get(port).await.starts_with("HTTP/1.1 503 "), "nothing is programmed yet");
        checks.set_programmed(true);
        let said = get(port).await;
        let (head, body) = said.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        for line in [
            "Content-Type: application/json",
            "X-Content-Type-Options: nosniff",
            "X-Load-Balancing-Endpoint-Weight: 2",
        ] {
            assert!(head.contains(line), "{head}");
        }
        // To the byte as upstream says it.
        assert_eq!(
            body,
            "{\n\t\"service\": {\n\t\t\"namespace\": \"shop\",\n\t\t\"name\": \"front\"\n\t},\n\t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}"
        );
        checks.set(&key, Some((port, 0)));
        let said = get(port).await;
        assert!(
            said.starts_with("HTTP/1.1 503 Service Unavailable\r\n")
                && said.contains("\"localEndpoints\": 0"),
            "{said}"
        );
        checks.set(&key, None);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
