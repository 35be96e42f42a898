//! Questions that others answer.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// How long one server is waited for. Clients ask again after five seconds: two servers fit in.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest packet that is taken.
const PACKET_BYTES: usize = 4096;

/// Asks the servers one after the other, in one packet each, until one answers.
pub(crate) async fn over_udp(query: &[u8], servers: &[SocketAddr]) -> io::Result<Vec<u8>> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for server in servers {
        match timeout(PATIENCE, one_packet(query, *server)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

async fn one_packet(query: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    // A socket of its own for each question has a port that nobody can guess; only that server's packets reach it.
    let any: SocketAddr =
        if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buf = vec![0; PACKET_BYTES];
    loop {
        let len = socket.recv(&mut buf).await?;
        // An answer to something else, late or forged, is passed over.
        if len > 12 && buf[..2] == query[..2] && same_question(query, &buf[..len]) {
            buf.truncate(len);
            return Ok(buf);
        }
    }
}

/// Whether an answer repeats the question: the bytes from the twelfth on, as long as the question's name and type.
fn same_question(query: &[u8], answer: &[u8]) -> bool {
    let mut end = 12;
    while let Some(len) = query.get(end).copied().filter(|l| *l != 0) {
        end += usize::from(len) + 1;
    }
    let end = end + 5;
    match (query.get(12..end), answer.get(12..end)) {
        (Some(a), Some(b)) => a.eq_ignore_ascii_case(b),
        _ => false,
    }
}

/// The same over TCP, for answers that do not fit into a packet.
pub(crate) async fn over_tcp(query: &[u8], servers: &[SocketAddr]) -> io::Result<Vec<u8>> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for server in servers {
        let ask = async {
            let mut stream = TcpStream::connect(server).await?;
            write_framed(&mut stream, query).await?;
            read_framed(&mut stream).await
        };
        match timeout(PATIENCE, ask).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

/// A message with its length before it.
pub(crate) async fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let len = stream.read_u16().await?;
    let mut message = vec![0; len.into()];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// A message with its length before it.
pub(crate) async fn write_framed(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let len = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut framed = Vec::with_capacity(message.len() + 2);
    framed.extend_from_slice(&len.to_be_bytes());
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}
