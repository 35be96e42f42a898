//! Small writes that become ready together leave together.
//!
//! A batch of the store answers many writers at once, often several on one HTTP/2 connection, but each answer wakes
//! the connection, which would encrypt and send it alone: one TLS record and one system call per
//! answer, here and at the client. So a flush first lets whatever else is ready run, and then sends what has
//! gathered. On an idle server that costs one turn of the scheduler.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is gathered at most; larger writes go past the buffer. Four whole TLS records, because HTTP/2's usual frame and its
/// head are a little more than one: written alone, each frame of a long list would cost a full record, one of nine bytes,
/// and a system call. With less, lists cost more system calls; with more, every connection that a client reads
/// slowly holds more.
const GATHER_BYTES: usize = 64 * 1024;

/// How much a TLS session may hold that is not sent yet: what is gathered, with what each record adds.
/// With less, gathered bytes would be encrypted and sent in parts.
pub(crate) const TLS_BUFFER_BYTES: usize = GATHER_BYTES + 4 * 1024;

/// A stream whose flushes wait one turn of the scheduler.
pub(crate) struct Coalesce<S> {
    inner: S,
    gathered: Vec<u8>,
    /// How much of it is written already.
    written: usize,
    /// Whether the turn was given away since something was last gathered.
    waited: bool,
}

impl<S: AsyncWrite + Unpin> Coalesce<S> {
    /// Wraps a stream.
    pub(crate) fn new(inner: S) -> Coalesce<S> {
        Coalesce { inner, gathered: Vec::new(), written: 0, waited: false }
    }

    fn write_gathered(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.gathered.len() {
            let n = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.gathered[self.written..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += n;
        }
        // Idle connections keep no buffer: there may be many.
        self.gathered = Vec::new();
        self.written = 0;
        self.waited = false;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Coalesce<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Coalesce<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.gathered.len() + buf.len() > GATHER_BYTES {
            ready!(self.write_gathered(cx))?;
        }
        if buf.len() > GATHER_BYTES {
            return Pin::new(&mut self.inner).poll_write(cx, buf);
        }
        self.gathered.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len: usize = bufs.iter().map(|b| b.len()).sum();
        if self.gathered.len() + len > GATHER_BYTES {
            ready!(self.write_gathered(cx))?;
        }
        if len > GATHER_BYTES {
            return Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        }
        bufs.iter().for_each(|b| self.gathered.extend_from_slice(b));
        Poll::Ready(Ok(len))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.gathered.is_empty() && !self.waited {
            self.waited = true;
            // Puts this task behind those that are ready now.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(self.write_gathered(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.write_gathered(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Counts the writes that reach it.
    struct Counting<S>(S, usize);

    impl<S: AsyncWrite + Unpin> AsyncWrite for Counting<S> {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.1 += 1;
            Pin::new(&mut self.0).poll_write(cx, buf)
        }
        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }
        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    #[tokio::test]
    async fn small_writes_leave_together_and_large_ones_in_order() {
        // Smaller than what is written: the peer must read for the writer to go on.
        let (near, mut far) = tokio::io::duplex(1000);
        let reader = tokio::spawn(async move {
            let mut all = Vec::new();
            far.read_to_end(&mut all).await.unwrap();
            all
        });
        let mut stream = Coalesce::new(Counting(near, 0));
        let mut expected = Vec::new();
        for i in 0..10u8 {
            stream.write_all(&[i; 7]).await.unwrap();
            expected.extend([i; 7]);
        }
        assert_eq!(stream.inner.1, 0);
        stream.flush().await.unwrap();
        assert_eq!(stream.inner.1, 1);
        for len in [3, GATHER_BYTES - 3, GATHER_BYTES, GATHER_BYTES + 1, 5, 100_000, 9] {
            let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            stream.write_all(&bytes).await.unwrap();
            expected.extend(bytes);
        }
        stream.shutdown().await.unwrap();
        drop(stream);
        assert!(reader.await.unwrap() == expected);
    }
}
