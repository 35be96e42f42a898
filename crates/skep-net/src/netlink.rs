//! Netlink: messages, attributes, and a socket that asks and waits for the answer.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::io::Errno as RawErrno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink, recv, send, socket_with,
    sockopt,
};

use crate::uapi::{
    NETLINK_EXT_ACK, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST,
    NLMSG_DONE, NLMSG_ERROR, NLMSGERR_ATTR_MSG, SOL_NETLINK,
};

/// Size of the header of every message.
const HEADER_BYTES: usize = 16;
/// One read: the kernel makes the parts of a dump as large as the largest read so far, at most this.
const RECEIVE_BYTES: usize = 64 * 1024;
/// What the kernel may queue for us: answers to a batch come all at once, and each failed message of a batch
/// comes back with its text. Too small, and a batch ends in `ENOBUFS`.
const RECEIVE_BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// What may be sent in one go: a transaction of nf_tables is one message to the kernel. Too small, and
/// loading a large table ends in `EMSGSIZE`.
const SEND_BUFFER_BYTES: usize = 16 * 1024 * 1024;
/// How often a dump is read anew because something changed meanwhile.
const DUMP_TRIES: usize = 8;

/// An error number of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

impl std::fmt::Display for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

/// Why something about the network could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel understood and refused.
    #[error("the kernel refused to {action}: {errno}{}", detail.as_deref().map(|d| format!(": {d}")).unwrap_or_default())]
    Refused {
        /// What was asked for, in words, with the object's name.
        action: String,
        /// Its error number.
        errno: Errno,
        /// Its explanation, when it gave one.
        detail: Option<String>,
    },
    /// A system call or a file failed.
    #[error("could not {action}")]
    Io {
        /// What was tried, in words, with the object's name.
        action: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Something that has to be there is not.
    #[error("there is no {what} {name:?}")]
    Missing {
        /// The sort of thing.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The kernel's answer could not be read.
    #[error("the kernel's answer about {about} is not understood")]
    Answer {
        /// What was asked.
        about: &'static str,
    },
}

/// What most functions here give.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn io(action: impl Into<String>, source: impl Into<std::io::Error>) -> Error {
        Error::Io { action: action.into(), source: source.into() }
    }

    /// The kernel's error number, if the error has one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Refused { errno, .. } => Some(errno.0),
            Error::Io { source, .. } => source.raw_os_error(),
            Error::Missing { .. } | Error::Answer { .. } => None,
        }
    }

    /// Whether what was to be made exists.
    #[must_use]
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }

    /// Whether what was to be changed or removed does not exist.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Error::Missing { .. })
            || matches!(
                self.errno(),
                Some(libc::ENOENT | libc::ENODEV | libc::ESRCH | libc::EADDRNOTAVAIL | libc::ENXIO)
            )
    }
}

/// Makes "it was not there" a success of a removal.
pub(crate) fn unless_missing(result: Result<()>) -> Result<()> {
    match result {
        Err(e) if e.is_missing() => Ok(()),
        other => other,
    }
}

/// Makes "it is there" a success of a creation.
pub(crate) fn unless_exists(result: Result<()>) -> Result<()> {
    match result {
        Err(e) if e.is_exists() => Ok(()),
        other => other,
    }
}

/// Which part of the kernel a socket talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Links, addresses, routes, neighbours, queueing.
    Route,
    /// nf_tables.
    Netfilter,
}

/// A message that is being written.
#[derive(Clone, Debug)]
pub struct Message {
    buf: Vec<u8>,
}

impl Message {
    /// Starts a message; the request flag is set already.
    #[must_use]
    pub fn new(kind: u16, flags: u16) -> Message {
        let mut buf = Vec::with_capacity(256);
        buf.extend_from_slice(&[0; 4]);
        buf.extend_from_slice(&kind.to_ne_bytes());
        buf.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        buf.extend_from_slice(&[0; 8]);
        Message { buf }
    }

    /// The fixed part that follows the header.
    pub fn fixed(&mut self, bytes: &[u8]) -> &mut Self {
        self.buf.extend_from_slice(bytes);
        self.pad();
        self
    }

    fn pad(&mut self) {
        self.buf.resize(self.buf.len().next_multiple_of(4), 0);
    }

    /// An attribute.
    pub fn attr(&mut self, kind: u16, payload: &[u8]) -> &mut Self {
        // Payloads are names, addresses and small structures: nested ones, which could grow, are checked below.
        let len = u16::try_from(payload.len() + 4).unwrap_or(u16::MAX);
        self.buf.extend_from_slice(&len.to_ne_bytes());
        self.buf.extend_from_slice(&kind.to_ne_bytes());
        self.buf.extend_from_slice(&payload[..usize::from(len) - 4]);
        self.pad();
        self
    }

    /// A number in one byte.
    pub fn u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.attr(kind, &[value])
    }

    /// A number in the machine's byte order.
    pub fn u16(&mut self, kind: u16, value: u16) -> &mut Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// A number in the machine's byte order.
    pub fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// A number in the machine's byte order.
    pub fn u64(&mut self, kind: u16, value: u64) -> &mut Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// A number in network byte order.
    pub fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// A number in network byte order.
    pub fn be64(&mut self, kind: u16, value: u64) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// A text, ended by a zero byte.
    pub fn str(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    /// An attribute made of attributes.
    pub fn nest(&mut self, kind: u16, inner: impl FnOnce(&mut Message)) -> &mut Self {
        let start = self.open(kind);
        inner(self);
        self.close(start);
        self
    }

    /// Starts a nested attribute; [`Message::close`] ends it.
    pub(crate) fn open(&mut self, kind: u16) -> usize {
        const NLA_F_NESTED: u16 = 0x8000;
        let start = self.buf.len();
        self.buf.extend_from_slice(&[0; 2]);
        self.buf.extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        start
    }

    /// Ends what [`Message::open`] started.
    pub(crate) fn close(&mut self, start: usize) {
        let len = u16::try_from(self.buf.len() - start).unwrap_or(u16::MAX);
        self.buf[start..start + 2].copy_from_slice(&len.to_ne_bytes());
    }

    /// How long it is so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buf.len()
    }

    /// Whether nothing but the header is there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buf.len() <= HEADER_BYTES
    }

    fn add_flags(&mut self, flags: u16) {
        let old = u16::from_ne_bytes([self.buf[6], self.buf[7]]);
        self.buf[6..8].copy_from_slice(&(old | flags).to_ne_bytes());
    }

    fn finish(&mut self, seq: u32) {
        // The send buffer is far below 4 GiB: a longer message would not leave.
        let len = u32::try_from(self.buf.len()).unwrap_or(u32::MAX);
        self.buf[..4].copy_from_slice(&len.to_ne_bytes());
        self.buf[8..12].copy_from_slice(&seq.to_ne_bytes());
    }
}

/// Reads attributes one after the other; what does not fit ends it.
#[derive(Clone, Copy, Debug)]
pub struct Attrs<'a>(pub &'a [u8]);

impl<'a> Iterator for Attrs<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        const KIND_MASK: u16 = 0x3fff;
        let head = self.0.get(..4)?;
        let len = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & KIND_MASK;
        let payload = self.0.get(4..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, payload))
    }
}

impl<'a> Attrs<'a> {
    /// The first attribute of a kind.
    #[must_use]
    pub fn find(self, kind: u16) -> Option<&'a [u8]> {
        let mut attrs = self;
        attrs.find_map(|(k, v)| (k == kind).then_some(v))
    }
}

/// A number in the machine's byte order; nothing if there are too few bytes.
#[must_use]
pub(crate) fn get_u32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
}

/// A number in the machine's byte order.
#[must_use]
pub(crate) fn get_u16(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?))
}

/// A number in the machine's byte order.
#[must_use]
pub(crate) fn get_u64(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(..8)?.try_into().ok()?))
}

/// A text that a zero byte ends.
#[must_use]
pub(crate) fn get_str(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// A socket, which stays in the namespace that it was opened in.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    seq: u32,
    buf: Vec<u8>,
}

/// For tests: programs that die between two of the changes that they ask the kernel for. What is asked for after that fails, as nothing
/// comes of what a dead program would have asked; and whoever begins anew finds the kernel as it was left. Not in releases.
#[doc(hidden)]
pub mod dying {
    use super::Result;

    #[cfg(debug_assertions)]
    thread_local! {
        static LEFT: std::cell::Cell<Option<usize>> = const { std::cell::Cell::new(None) };
    }

    /// The calling thread makes so many more changes, and then none until this is said anew; nothing means that it lives.
    #[cfg(debug_assertions)]
    pub fn after(changes: Option<usize>) {
        LEFT.set(changes);
    }

    #[cfg(debug_assertions)]
    pub(super) fn lives(action: &dyn Fn() -> String) -> Result<()> {
        match LEFT.get() {
            None => Ok(()),
            Some(0) => Err(super::Error::io(action(), std::io::Error::from(std::io::ErrorKind::Interrupted))),
            Some(n) => {
                LEFT.set(Some(n - 1));
                Ok(())
            }
        }
    }

    #[cfg(not(debug_assertions))]
    pub(super) fn lives(_: &dyn Fn() -> String) -> Result<()> {
        Ok(())
    }
}

struct Part<'a> {
    kind: u16,
    flags: u16,
    seq: u32,
    payload: &'a [u8],
}

fn parts(mut bytes: &[u8]) -> impl Iterator<Item = Part<'_>> {
    std::iter::from_fn(move || {
        let len = get_u32(bytes)? as usize;
        let message = bytes.get(..len).filter(|m| m.len() >= HEADER_BYTES)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Part {
            kind: get_u16(&message[4..])?,
            flags: get_u16(&message[6..])?,
            seq: get_u32(&message[8..])?,
            payload: &message[HEADER_BYTES..],
        })
    })
}

/// The kernel's refusal in an error message; nothing when it is an acknowledgement.
fn refusal(part: &Part<'_>, action: &dyn Fn() -> String) -> Option<Error> {
    let code = i32::from_ne_bytes(part.payload.get(..4)?.try_into().ok()?);
    if code == 0 {
        return None;
    }
    let mut detail = None;
    if part.flags & NLM_F_ACK_TLVS != 0 {
        // Behind the number comes our message: all of it, or only its header.
        let original = if part.flags & NLM_F_CAPPED != 0 {
            HEADER_BYTES
        } else {
            part.payload.get(4..).and_then(get_u32).map_or(HEADER_BYTES, |l| l as usize)
        };
        let attrs = part.payload.get(4 + original.next_multiple_of(4)..).unwrap_or_default();
        detail = Attrs(attrs).find(NLMSGERR_ATTR_MSG).map(get_str);
    }
    Some(Error::Refused { action: action(), errno: Errno(-code), detail })
}

impl Socket {
    /// Opens one in the namespace of the calling thread.
    ///
    /// # Errors
    /// When the kernel has no such family, or there are too many open files.
    pub fn open(family: Family) -> Result<Socket> {
        let failed = |e: RawErrno| Error::io(format!("open a netlink socket for {family:?}"), e);
        let protocol = match family {
            Family::Route => None,
            Family::Netfilter => Some(netlink::NETFILTER),
        };
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
            .map_err(failed)?;
        bind(&fd, &SocketAddrNetlink::new(0, 0)).map_err(failed)?;
        // Without the privilege the system's limit holds, which is enough for small requests.
        if sockopt::set_socket_recv_buffer_size_force(&fd, RECEIVE_BUFFER_BYTES).is_err() {
            sockopt::set_socket_recv_buffer_size(&fd, RECEIVE_BUFFER_BYTES).map_err(failed)?;
        }
        set_send_buffer(&fd);
        explain_errors(&fd);
        Ok(Socket { fd, seq: 0, buf: vec![0; RECEIVE_BYTES] })
    }

    fn send(&mut self, bytes: &[u8], action: &dyn Fn() -> String) -> Result<()> {
        loop {
            match send(&self.fd, bytes, SendFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(RawErrno::INTR) => {}
                Err(e) => return Err(Error::io(action(), e)),
            }
        }
    }

    fn receive(&mut self, action: &dyn Fn() -> String) -> Result<usize> {
        loop {
            // The kernel makes no message longer than the buffer, but to read a cut one would be worse than to fail.
            match recv(&self.fd, &mut self.buf[..], RecvFlags::TRUNC) {
                Ok((got, full)) if full <= got => return Ok(got),
                Ok(_) => return Err(Error::io(action(), RawErrno::MSGSIZE)),
                Err(RawErrno::INTR) => {}
                Err(e) => return Err(Error::io(action(), e)),
            }
        }
    }

    /// Asks for something and waits until it is done.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn request(&mut self, mut message: Message, action: impl Fn() -> String) -> Result<()> {
        dying::lives(&action)?;
        self.seq = self.seq.wrapping_add(1);
        let seq = self.seq;
        message.add_flags(NLM_F_ACK);
        message.finish(seq);
        self.send(&message.buf, &action)?;
        loop {
            let got = self.receive(&action)?;
            for part in parts(&self.buf[..got]) {
                if part.seq == seq && part.kind == NLMSG_ERROR {
                    return refusal(&part, &action).map_or(Ok(()), Err);
                }
            }
        }
    }

    /// Asks for many things at once, each on its own, and waits for all answers, which are in the same order.
    ///
    /// # Errors
    /// Only when the kernel cannot be asked. That some are refused is in the answers.
    pub fn requests(
        &mut self,
        messages: impl IntoIterator<Item = Message>,
        action: impl Fn(usize) -> String,
    ) -> Result<Vec<Result<()>>> {
        /// How much is sent before its answers are read: the answers must fit into the receive buffer.
        const CHUNK: usize = 256;
        let mut answers = Vec::new();
        let mut messages = messages.into_iter().peekable();
        while messages.peek().is_some() {
            dying::lives(&|| action(answers.len()))?;
            let (mut bytes, first) = (Vec::new(), self.seq.wrapping_add(1));
            let mut count = 0;
            for mut message in messages.by_ref().take(CHUNK) {
                self.seq = self.seq.wrapping_add(1);
                message.add_flags(NLM_F_ACK);
                message.finish(self.seq);
                bytes.extend_from_slice(&message.buf);
                count += 1;
            }
            let base = answers.len();
            let whole = || action(base);
            self.send(&bytes, &whole)?;
            let mut waiting = count;
            answers.resize_with(base + count, || Ok(()));
            while waiting > 0 {
                let got = self.receive(&whole)?;
                for part in parts(&self.buf[..got]) {
                    let index = part.seq.wrapping_sub(first) as usize;
                    if part.kind == NLMSG_ERROR && index < count {
                        waiting -= 1;
                        if let Some(error) = refusal(&part, &|| action(base + index)) {
                            answers[base + index] = Err(error);
                        }
                    }
                }
            }
        }
        Ok(answers)
    }

    /// Sends a transaction of nf_tables: the messages between a begin and an end take effect together or not
    /// at all.
    ///
    /// # Errors
    /// The first refusal; then nothing has changed. `action` is told which message it was about.
    pub(crate) fn transaction(
        &mut self,
        begin: Message,
        messages: Vec<Message>,
        end: Message,
        action: impl Fn(usize) -> String,
    ) -> Result<()> {
        dying::lives(&|| action(0))?;
        let mut bytes = Vec::with_capacity(messages.iter().map(Message::len).sum::<usize>() + 64);
        let first = self.seq.wrapping_add(1);
        let count = messages.len();
        let mut put = |seq: u32, mut message: Message| {
            message.finish(seq);
            bytes.extend_from_slice(&message.buf);
        };
        put(first, begin);
        for (i, message) in messages.into_iter().enumerate() {
            // A transaction is far below four billion messages.
            put(first.wrapping_add(1 + i as u32), message);
        }
        let last = first.wrapping_add(1 + count as u32);
        let mut end = end;
        end.add_flags(NLM_F_ACK);
        put(last, end);
        self.seq = last;
        let of = |seq: u32| action((seq.wrapping_sub(first) as usize).saturating_sub(1));
        self.send(&bytes, &|| action(count))?;
        // The kernel answers everything before `send` returns: refusals of single messages, and in any case
        // something for the end. With a refusal before, the end's acknowledgement may be missing.
        let mut error = None;
        loop {
            let flags = if error.is_some() { RecvFlags::DONTWAIT } else { RecvFlags::empty() };
            let got = match recv(&self.fd, &mut self.buf[..], flags) {
                Ok((got, _)) => got,
                Err(RawErrno::INTR) => continue,
                Err(RawErrno::AGAIN) => break,
                Err(e) => return Err(Error::io(action(count), e)),
            };
            let mut done = false;
            for part in parts(&self.buf[..got]).filter(|p| p.kind == NLMSG_ERROR) {
                if part.seq.wrapping_sub(first) > count as u32 + 1 {
                    continue;
                }
                match refusal(&part, &|| of(part.seq)) {
                    Some(refused) => error = error.or(Some(refused)),
                    None => done |= part.seq == last,
                }
            }
            if done {
                break;
            }
        }
        error.map_or(Ok(()), Err)
    }

    /// Asks for one thing or a list of things and hands every answer, its kind and what follows the header, to
    /// `each`.
    ///
    /// # Errors
    /// What the kernel says. A list that changed while it was read is read anew, some times: `reset` is called
    /// before each further try.
    pub fn dump<T>(
        &mut self,
        message: &Message,
        action: impl Fn() -> String,
        mut each: impl FnMut(u16, &[u8]) -> Option<T>,
    ) -> Result<Vec<T>> {
        for _ in 0..DUMP_TRIES {
            let mut message = message.clone();
            message.add_flags(NLM_F_DUMP);
            self.seq = self.seq.wrapping_add(1);
            let seq = self.seq;
            message.finish(seq);
            self.send(&message.buf, &action)?;
            let (mut done, mut torn, mut all) = (false, false, Vec::new());
            while !done {
                let got = self.receive(&action)?;
                for part in parts(&self.buf[..got]).filter(|p| p.seq == seq) {
                    torn |= part.flags & NLM_F_DUMP_INTR != 0;
                    match part.kind {
                        NLMSG_DONE => {
                            done = true;
                            if let Some(error) = refusal(&part, &action) {
                                return Err(error);
                            }
                        }
                        NLMSG_ERROR => return refusal(&part, &action).map_or(Ok(all), Err),
                        kind => all.extend(each(kind, part.payload)),
                    }
                }
            }
            if !torn {
                return Ok(all);
            }
        }
        Err(Error::Refused { action: action(), errno: Errno(libc::EINTR), detail: None })
    }

    /// Asks for one thing.
    ///
    /// # Errors
    /// What the kernel says, "not found" included.
    pub fn get<T>(
        &mut self,
        mut message: Message,
        action: impl Fn() -> String,
        mut read: impl FnMut(u16, &[u8]) -> Option<T>,
    ) -> Result<Option<T>> {
        self.seq = self.seq.wrapping_add(1);
        let seq = self.seq;
        message.add_flags(NLM_F_ACK);
        message.finish(seq);
        self.send(&message.buf, &action)?;
        let mut found = None;
        loop {
            let got = self.receive(&action)?;
            for part in parts(&self.buf[..got]).filter(|p| p.seq == seq) {
                if part.kind == NLMSG_ERROR {
                    return refusal(&part, &action).map_or(Ok(found), Err);
                }
                found = found.or_else(|| read(part.kind, part.payload));
            }
        }
    }
}

/// Asks the kernel to explain refusals in words. An old kernel does not know it: then there are only numbers.
fn explain_errors(fd: &OwnedFd) {
    set_option(fd, SOL_NETLINK, NETLINK_EXT_ACK, 1);
}

fn set_send_buffer(fd: &OwnedFd) {
    // Without the privilege, or the room, what fits into the default still works.
    let size = i32::try_from(SEND_BUFFER_BYTES).unwrap_or(i32::MAX);
    set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, size);
}

#[allow(unsafe_code)]
fn set_option(fd: &OwnedFd, level: i32, option: i32, value: i32) {
    let size = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the pointer and the length are those of a local variable that outlives the call, which only
    // reads it; the descriptor is open.
    unsafe {
        libc::setsockopt(fd.as_fd().as_raw_fd(), level, option, std::ptr::from_ref(&value).cast(), size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_nested_and_read_back() {
        let mut m = Message::new(7, 0);
        m.fixed(&[1, 2, 3]).str(1, "ab").u32(2, 5).nest(3, |m| {
            m.u8(1, 9).be32(2, 1);
        });
        m.finish(3);
        let part = parts(&m.buf).next().unwrap();
        assert_eq!((part.kind, part.seq, part.payload.len() + HEADER_BYTES), (7, 3, m.len()));
        let attrs: Vec<_> = Attrs(&part.payload[4..]).collect();
        assert_eq!(attrs.len(), 3);
        assert_eq!(attrs[0], (1, &b"ab\0"[..]));
        assert_eq!(attrs[1], (2, &5u32.to_ne_bytes()[..]));
        let inner: Vec<_> = Attrs(attrs[2].1).collect();
        assert_eq!(inner, vec![(1, &[9u8][..]), (2, &[0u8, 0, 0, 1][..])]);
    }

    #[test]
    fn cut_attributes_end_the_reading() {
        let mut m = Message::new(1, 0);
        m.u32(1, 7).u32(2, 8);
        let bytes = &m.buf[HEADER_BYTES..];
        for end in 0..bytes.len() {
            assert_eq!(Attrs(&bytes[..end]).count(), end / 8, "at {end}");
        }
        assert_eq!(Attrs(&[1, 0, 0, 0]).count(), 0, "shorter than its own head");
    }

    #[test]
    fn the_kernel_explains_a_refusal() {
        let mut socket = Socket::open(Family::Route).unwrap();
        // A request to delete a link that does not exist.
        let mut m = Message::new(crate::uapi::RTM_DELLINK, 0);
        m.fixed(&[0; 16]).str(crate::uapi::IFLA_IFNAME, "skep-not-there");
        let error = socket.request(m, || "delete skep-not-there".to_owned()).unwrap_err();
        assert!(error.is_missing() || error.errno() == Some(libc::EPERM), "{error}");
        assert!(error.to_string().contains("delete skep-not-there"), "{error}");
    }
}
