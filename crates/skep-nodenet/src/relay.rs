//! The `kubernetes` service: connections to its address go through a socket to the API server, byte for byte.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::Error;

/// Connections of pods at the same time. The host allows a machine more, so that its agent never waits for them.
const MAX_CONNECTIONS: usize = 32;
/// How long nothing is accepted after an error that will not go away at once.
const PAUSE: Duration = Duration::from_millis(100);

pub(crate) async fn start(listen: SocketAddr, socket: PathBuf, tasks: &mut JoinSet<()>) -> Result<(), Error> {
    let listener = TcpListener::bind(listen)
        .await
        .map_err(|source| Error::Listen { what: format!("lead {listen} to the API server"), source })?;
    tasks.spawn(accept(listener, socket));
    Ok(())
}

async fn accept(listener: TcpListener, socket: PathBuf) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections: JoinSet<()> = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let mut client = match listener.accept().await {
            Ok((client, _)) => client,
            Err(error) => {
                tracing::warn!(%error, "pods' connections to the API server cannot be taken; it goes on");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let socket = socket.clone();
        connections.spawn(async move {
            let _permit = permit;
            let joined = async {
                let mut server = UnixStream::connect(&socket).await?;
                copy_bidirectional(&mut client, &mut server).await
            };
            if let Err(error) = joined.await {
                tracing::debug!(%error, "a pod's connection to the API server ended");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpStream, UnixListener};

    use super::*;

    #[tokio::test]
    async fn bytes_pass_both_ways() {
        let path = std::env::temp_dir().join(format!("skep-relay-{}", std::process::id()));
        let server = UnixListener::bind(&path).unwrap();
        // A port that is free: the relay says only whether it listens.
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let mut tasks = JoinSet::new();
        start(free, path.clone(), &mut tasks).await.unwrap();
        let mut client = TcpStream::connect(free).await.unwrap();
        let (mut there, _) = server.accept().await.unwrap();
        let mut got = [0; 4];
        client.write_all(b"ping").await.unwrap();
        there.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"ping");
        there.write_all(b"pong").await.unwrap();
        client.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"pong");
        drop(there);
        assert_eq!(client.read(&mut got).await.unwrap(), 0, "an end passes too");
        std::fs::remove_file(&path).unwrap();
    }
}
