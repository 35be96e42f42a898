//! The server's side of SPDY/3.1, as far as Kubernetes' clients use it.
//!
//! Source: the SPDY protocol drafts 3 and 3.1. Used are streams that the client opens, data, pings and the end of both; there
//! is no flow control, because the clients (Go's spdystream) neither heed nor send it: a stream that is not read holds up the
//! connection's others, as it does with upstream's servers.

mod frame;
mod headers;
#[cfg(test)]
pub(crate) mod testing;

use std::collections::HashMap;
use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;

use frame::{Frame, MAX_FRAME_BYTES};
use headers::{Deflater, Inflater};

/// Streams that the server has not looked at yet.
const ACCEPT_QUEUE: usize = 64;

/// Streams on one connection. Port forwarding takes two per connection into the pod.
const MAX_STREAMS: usize = 2048;

/// Pieces of a stream that nobody has read yet.
const STREAM_QUEUE: usize = 16;

/// Frames waiting to be sent.
const SEND_QUEUE: usize = 64;

/// Frames are gathered up to about this size for one write.
const WRITE_BYTES: usize = 64 * 1024;

/// The connection is gone.
#[derive(Debug, thiserror::Error)]
#[error("the client's connection is gone")]
pub(crate) struct Gone;

/// A connection.
pub(crate) struct Session {
    accepted: mpsc::Receiver<Stream>,
    /// While it and the streams' senders live, the connection stays open for writing.
    _send: mpsc::Sender<Command>,
}

/// One stream.
pub(crate) struct Stream {
    reader: Reader,
    writer: Writer,
    headers: Vec<(String, String)>,
}

/// What a stream brings.
pub(crate) struct Reader(mpsc::Receiver<Bytes>);

/// What a stream takes.
#[derive(Clone)]
pub(crate) struct Writer {
    id: u32,
    send: mpsc::Sender<Command>,
}

#[derive(Debug)]
enum Command {
    Data(u32, Bytes),
    Finish(u32),
    Reset(u32),
    Reply(u32),
    Pong(u32),
}

impl Session {
    /// Serves a connection. The future does the work: it ends when the client has gone, or when the session and all streams are
    /// dropped and everything is sent.
    pub(crate) fn server<S>(stream: S) -> (Session, impl Future<Output = ()> + Send)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (from, to) = tokio::io::split(stream);
        let (send, commands) = mpsc::channel(SEND_QUEUE);
        let (accept, accepted) = mpsc::channel(ACCEPT_QUEUE);
        let receiver = Receiver {
            from,
            buffer: BytesMut::new(),
            inflater: Inflater::default(),
            streams: HashMap::new(),
            accept,
            send: send.downgrade(),
        };
        let work = async move {
            tokio::select! {
                result = receiver.run() => {
                    if let Err(error) = result {
                        tracing::debug!(%error, "a SPDY connection ended");
                    }
                }
                result = write(to, commands) => {
                    if let Err(error) = result {
                        tracing::debug!(%error, "a SPDY connection cannot be written to");
                    }
                }
            }
        };
        (Session { accepted, _send: send }, work)
    }

    /// The next stream that the client opens; none when it has gone.
    pub(crate) async fn accept(&mut self) -> Option<Stream> {
        self.accepted.recv().await
    }
}

impl Stream {
    /// Its number.
    #[must_use]
    pub(crate) fn id(&self) -> u32 {
        self.writer.id
    }

    /// One of the headers that it was opened with; empty if it is not there.
    #[must_use]
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map_or("", |(_, v)| v.as_str())
    }

    /// What comes next; none at its end.
    pub(crate) async fn read(&mut self) -> Option<Bytes> {
        self.reader.read().await
    }

    /// Sends.
    ///
    /// # Errors
    /// When the connection is gone.
    pub(crate) async fn write(&mut self, bytes: Bytes) -> Result<(), Gone> {
        self.writer.write(bytes).await
    }

    /// Ends the sending.
    pub(crate) async fn finish(self) {
        self.writer.finish().await;
    }

    /// Ends it at once, in both directions.
    pub(crate) async fn reset(self) {
        let _ = self.writer.send.send(Command::Reset(self.writer.id)).await;
    }

    /// Its two directions.
    #[must_use]
    pub(crate) fn split(self) -> (Reader, Writer) {
        (self.reader, self.writer)
    }
}

impl Reader {
    /// What comes next; none at its end.
    pub(crate) async fn read(&mut self) -> Option<Bytes> {
        self.0.recv().await
    }
}

impl Writer {
    /// Sends.
    ///
    /// # Errors
    /// When the connection is gone.
    pub(crate) async fn write(&mut self, bytes: Bytes) -> Result<(), Gone> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.send.send(Command::Data(self.id, bytes)).await.map_err(|_| Gone)
    }

    /// Ends the sending.
    pub(crate) async fn finish(self) {
        let _ = self.send.send(Command::Finish(self.id)).await;
    }
}

struct Receiver<S> {
    from: ReadHalf<S>,
    buffer: BytesMut,
    inflater: Inflater,
    streams: HashMap<u32, mpsc::Sender<Bytes>>,
    accept: mpsc::Sender<Stream>,
    send: mpsc::WeakSender<Command>,
}

impl<S: AsyncRead + Send> Receiver<S> {
    async fn run(mut self) -> io::Result<()> {
        loop {
            while let Some(frame) = Frame::take(&mut self.buffer).map_err(io::Error::other)? {
                self.frame(frame).await?;
            }
            if self.from.read_buf(&mut self.buffer).await? == 0 {
                return Ok(());
            }
        }
    }

    async fn frame(&mut self, frame: Frame) -> io::Result<()> {
        match frame {
            Frame::Open { id, finished, block } => {
                // Also those of a stream that is refused: the compression goes on from frame to frame.
                let headers = self.inflater.read(&block).map_err(io::Error::other)?;
                let Some(send) = self.send.upgrade() else { return Ok(()) };
                if self.streams.len() >= MAX_STREAMS || self.streams.contains_key(&id) {
                    command(&self.send, Command::Reset(id)).await;
                    return Ok(());
                }
                let (to, data) = mpsc::channel(STREAM_QUEUE);
                if !finished {
                    self.streams.insert(id, to);
                }
                command(&self.send, Command::Reply(id)).await;
                let stream = Stream { reader: Reader(data), writer: Writer { id, send }, headers };
                // Nobody accepts any more: what was opened is ended with the connection.
                let _ = self.accept.send(stream).await;
            }
            Frame::Headers { block } => {
                self.inflater.read(&block).map_err(io::Error::other)?;
            }
            Frame::Data { id, finished, bytes } => {
                if let Some(to) = self.streams.get(&id)
                    && !bytes.is_empty()
                {
                    // A reader that has gone is no error: the rest is thrown away.
                    let _ = to.send(bytes).await;
                }
                if finished {
                    self.streams.remove(&id);
                }
            }
            Frame::Reset { id } => {
                self.streams.remove(&id);
            }
            // Even numbers are answers to pings of ours, which there are none of.
            Frame::Ping { id } if id % 2 == 1 => command(&self.send, Command::Pong(id)).await,
            Frame::GoAway => self.streams.clear(),
            Frame::Ping { .. } | Frame::Other => {}
        }
        Ok(())
    }
}

async fn command(send: &mpsc::WeakSender<Command>, command: Command) {
    if let Some(send) = send.upgrade() {
        // If nobody writes any more, nobody waits for it either.
        let _ = send.send(command).await;
    }
}

async fn write<S: AsyncWrite>(mut to: WriteHalf<S>, mut commands: mpsc::Receiver<Command>) -> io::Result<()> {
    let mut deflater = Deflater::new();
    let mut buffer = BytesMut::new();
    while let Some(command) = commands.recv().await {
        let mut next = Some(command);
        while let Some(command) = next {
            match command {
                Command::Data(id, bytes) => {
                    for piece in bytes.chunks(MAX_FRAME_BYTES) {
                        frame::data(&mut buffer, id, false, piece);
                    }
                }
                Command::Finish(id) => frame::data(&mut buffer, id, true, &[]),
                Command::Reset(id) => frame::reset(&mut buffer, id),
                Command::Reply(id) => {
                    frame::reply(&mut buffer, id, &deflater.block(&[]).map_err(io::Error::other)?);
                }
                Command::Pong(id) => frame::ping(&mut buffer, id),
            }
            next = if buffer.len() < WRITE_BYTES { commands.try_recv().ok() } else { None };
        }
        to.write_all(&buffer).await?;
        to.flush().await?;
        buffer.clear();
    }
    to.shutdown().await
}
