//! The shim's side of its socket.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::epoll::{self, EventData, EventFlags};

use super::{Shim, Source};
use crate::error::{Error, ErrorKind, Result};
use crate::proto::{self, Call, Frame, Incoming, Reply, Request, WireError};
use crate::sys;

/// Most that waits for an agent that does not read. Beyond it the connection is closed: the agent connects again
/// and asks for the status.
const MAX_QUEUED_BYTES: usize = 1 << 20;

/// An agent.
pub(super) struct Connection {
    stream: UnixStream,
    incoming: Incoming,
    outgoing: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    queued_bytes: usize,
    /// How much of the first message went.
    sent: usize,
}

/// A call that will be answered later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) connection: u64,
    pub(super) call: u64,
}

/// What a request comes to.
pub(super) enum Outcome {
    Now(Reply, Vec<OwnedFd>),
    Later,
}

impl Shim {
    pub(super) fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            let id = self.new_id();
            if self.watch(stream.as_fd(), Source::Connection(id), EventFlags::IN).is_err() {
                continue;
            }
            let connection = Connection {
                stream,
                incoming: Incoming::default(),
                outgoing: VecDeque::new(),
                queued_bytes: 0,
                sent: 0,
            };
            self.connections.insert(id, connection);
            let hello = Frame::Hello {
                version: proto::VERSION,
                sandbox: self.spec.id.clone(),
                pid: std::process::id(),
            };
            self.send(id, &hello, Vec::new());
        }
    }

    pub(super) fn on_connection(&mut self, id: u64, flags: EventFlags) {
        if flags.contains(EventFlags::OUT) {
            self.push(id);
        }
        let mut buffer = [0u8; 8192];
        loop {
            let Some(connection) = self.connections.get_mut(&id) else { return };
            match sys::receive(&connection.stream, &mut buffer) {
                Ok((0, _)) => return self.disconnect(id),
                // Descriptors from an agent mean nothing, and close.
                Ok((count, _)) => connection.incoming.push(&buffer[..count], []),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.disconnect(id),
            }
        }
        loop {
            let Some(connection) = self.connections.get_mut(&id) else { return };
            match connection.incoming.next::<serde_json::Value>() {
                Ok(Some(value)) => self.on_message(id, value),
                Ok(None) => return,
                Err(_) => return self.disconnect(id),
            }
        }
    }

    fn on_message(&mut self, connection: u64, value: serde_json::Value) {
        let call = value.get("id").and_then(serde_json::Value::as_u64).unwrap_or(0);
        let caller = Caller { connection, call };
        match serde_json::from_value::<Call>(value) {
            Ok(Call { request, .. }) => match self.handle(request, caller) {
                Ok(Outcome::Now(reply, fds)) => self.answer(caller, Ok(reply), fds),
                Ok(Outcome::Later) => {}
                Err(error) => self.answer(caller, Err(error), Vec::new()),
            },
            Err(error) => {
                let what = format!("this shim is older than the request, or it is malformed: {error}");
                self.answer(caller, Err(Error::new(ErrorKind::Unsupported, what)), Vec::new());
            }
        }
    }

    fn handle(&mut self, request: Request, caller: Caller) -> Result<Outcome> {
        let done = |()| Outcome::Now(Reply::Done, Vec::new());
        match request {
            Request::Status => {
                let all = self.containers.values().map(|c| c.status.clone()).collect();
                Ok(Outcome::Now(Reply::Status(all), Vec::new()))
            }
            Request::Create(spec) => self.create(*spec).map(done),
            Request::Start { container } => self.start(&container, caller).map(|()| Outcome::Later),
            Request::Kill { container, signal, all } => self.kill(&container, signal, all).map(done),
            Request::Wait { container } => self.wait(&container, caller),
            Request::Exec { container, process, stdin } => {
                self.exec(&container, *process, stdin, caller).map(|()| Outcome::Later)
            }
            Request::WaitExec { exec } => self.wait_exec(exec, caller),
            Request::KillExec { exec, signal } => self.kill_exec(exec, signal).map(done),
            Request::Resize { container, exec, size } => self.resize(&container, exec, size).map(done),
            Request::Attach { container, stdin, stdout, stderr } => {
                self.attach(&container, stdin, stdout, stderr).map(|(reply, fds)| Outcome::Now(reply, fds))
            }
            Request::ReopenLog { container } => self.reopen_log(&container).map(done),
            Request::Remove { container } => self.remove(&container).map(done),
            Request::Shutdown => self.shut_down().map(done),
        }
    }

    pub(super) fn answer(&mut self, caller: Caller, result: Result<Reply>, fds: Vec<OwnedFd>) {
        let frame = Frame::Reply { id: caller.call, fds: fds.len(), result: result.map_err(WireError::from) };
        self.send(caller.connection, &frame, fds);
    }

    pub(super) fn send(&mut self, id: u64, frame: &Frame, fds: Vec<OwnedFd>) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let Ok(bytes) = proto::encode(frame) else { return };
        connection.queued_bytes += bytes.len();
        connection.outgoing.push_back((bytes, fds));
        if connection.queued_bytes > MAX_QUEUED_BYTES {
            return self.disconnect(id);
        }
        self.push(id);
    }

    /// Writes what the socket takes.
    fn push(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let mut broken = false;
        while let Some((bytes, fds)) = connection.outgoing.front_mut() {
            let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            match sys::send(&connection.stream, &bytes[connection.sent..], &borrowed) {
                Ok(count) => {
                    connection.sent += count;
                    // They went with the first byte.
                    fds.clear();
                    if connection.sent == bytes.len() {
                        connection.queued_bytes -= bytes.len();
                        connection.sent = 0;
                        connection.outgoing.pop_front();
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    broken = true;
                    break;
                }
            }
        }
        if broken {
            return self.disconnect(id);
        }
        let flags = match connection.outgoing.is_empty() {
            true => EventFlags::IN,
            false => EventFlags::IN | EventFlags::OUT,
        };
        let data = EventData::new_u64(Source::Connection(id).token());
        let _ = epoll::modify(&self.epoll, &connection.stream, data, flags);
    }

    fn disconnect(&mut self, id: u64) {
        if let Some(connection) = self.connections.remove(&id) {
            self.unwatch(&connection.stream);
            self.forget_callers(id);
        }
    }
}
