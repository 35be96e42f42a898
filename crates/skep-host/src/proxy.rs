//! A machine's way to the API server, and to nowhere else: a socket in the machine's control directory. What goes through
//! is TLS between the agent and the server; the host passes bytes, and can read none of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpStream, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// Connections that one machine may hold at once. An agent needs a handful; more would be a machine that wants to use up
/// the server's.
const CONNECTIONS_MAX: usize = 64;
/// How long the server may take to answer a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long nothing is accepted after an error that will not go away at once (no more descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// An open way. It closes when this is dropped; connections end with it.
pub(crate) struct Proxy {
    path: PathBuf,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Opens the way at a path, from there to a server.
    pub(crate) fn open(path: &Path, server: (String, u16)) -> std::io::Result<Proxy> {
        // Left behind by a daemon that was killed.
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        let task = tokio::spawn(accept(listener, server));
        Ok(Proxy { path: path.to_owned(), task })
    }

    /// Whether it is open, and where machines look for it.
    pub(crate) fn is_open(&self) -> bool {
        !self.task.is_finished() && self.path.exists()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        // The directory may be gone already.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn accept(listener: UnixListener, server: (String, u16)) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Connections end with the listener.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((mut inside, _)) => {
                let server = server.clone();
                connections.spawn(async move {
                    let connect = TcpStream::connect((server.0.as_str(), server.1));
                    match tokio::time::timeout(CONNECT_TIMEOUT, connect).await {
                        Ok(Ok(mut outside)) => {
                            // Latency matters more than packets; a failure to say so does not.
                            let _ = outside.set_nodelay(true);
                            // Whoever ends first, or breaks: the other learns by the end of the stream.
                            let _ = copy_bidirectional(&mut inside, &mut outside).await;
                        }
                        Ok(Err(error)) => {
                            tracing::debug!(%error, "a machine's connection finds no API server");
                        }
                        Err(_) => tracing::debug!("a machine's connection finds no API server in time"),
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a machine's connection cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, UnixStream};

    #[tokio::test]
    async fn bytes_pass_both_ways_and_the_way_closes() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = server.accept().await {
                tokio::spawn(async move {
                    let mut buffer = [0; 16];
                    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                        stream.write_all(&buffer[..n]).await.unwrap();
                    }
                });
            }
        });
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        std::fs::write(&path, "left behind").unwrap();
        let proxy = Proxy::open(&path, ("127.0.0.1".to_owned(), port)).unwrap();
        let mut stream = UnixStream::connect(&path).await.unwrap();
        let mut echo = [0; 5];
        for text in ["hello", "again"] {
            stream.write_all(text.as_bytes()).await.unwrap();
            stream.read_exact(&mut echo).await.unwrap();
            assert_eq!(&echo, text.as_bytes());
        }
        assert!(proxy.is_open());
        drop(proxy);
        assert_eq!(stream.read(&mut echo).await.unwrap_or(0), 0, "the connection ends");
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_server_that_is_away_ends_the_connection_and_not_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let proxy = Proxy::open(&path, ("127.0.0.1".to_owned(), gone)).unwrap();
        for _ in 0..2 {
            let mut stream = UnixStream::connect(&path).await.unwrap();
            assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0);
        }
        assert!(proxy.is_open());
    }
}
