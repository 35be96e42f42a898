//! What agent and shim say to each other: frames of a length and JSON over a Unix socket.
//!
//! The version is exchanged first. A shim may be older than the agent that finds it (the agent was replaced under running
//! pods), so requests and fields are only ever added; a shim answers what it does not know with `unsupported`.
//! Descriptors travel beside the frame that announces how many it brings.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};
use crate::spec::{ContainerSpec, ContainerStatus, Exit, ProcessSpec, TtySize};

/// Of this protocol.
pub(crate) const VERSION: u32 = 1;

/// The socket's name in a pod's directory.
pub(crate) const SOCKET: &str = "shim.sock";

/// Longest frame. A container's spec is the longest message; environments and lists of mounts are bounded by what the API takes
/// for an object (1.5 MiB). A longer one means that the other side speaks something else.
pub(crate) const MAX_FRAME_BYTES: usize = 4 << 20;

/// Most descriptors in one message.
pub(crate) const MAX_FDS: usize = 4;

/// Agent to shim.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Call {
    pub(crate) id: u64,
    pub(crate) request: Request,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Request {
    /// All containers.
    Status,
    Create(Box<ContainerSpec>),
    Start {
        container: String,
    },
    Kill {
        container: String,
        signal: i32,
        all: bool,
    },
    /// Answered when the container has ended.
    Wait {
        container: String,
    },
    Exec {
        container: String,
        process: Box<ProcessSpec>,
        stdin: bool,
    },
    /// Answered when the executed process has ended.
    WaitExec {
        exec: u64,
    },
    KillExec {
        exec: u64,
        signal: i32,
    },
    /// Of the first process, or of an executed one.
    Resize {
        container: String,
        exec: Option<u64>,
        size: TtySize,
    },
    Attach {
        container: String,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    },
    ReopenLog {
        container: String,
    },
    Remove {
        container: String,
    },
    /// Kills everything, gives everything back, ends.
    Shutdown,
}

/// Shim to agent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Frame {
    Hello { version: u32, sandbox: String, pid: u32 },
    Reply { id: u64, fds: usize, result: Result<Reply, WireError> },
    Event(Event),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Reply {
    Done,
    Status(Vec<ContainerStatus>),
    Started {
        pid: u32,
    },
    Exit(Exit),
    /// Descriptors: the terminal, or the requested ones of stdin, stdout, stderr, in this order.
    Exec {
        exec: u64,
        pid: u32,
        tty: bool,
    },
    /// As for `Exec`; with a terminal: its input if wanted, then its output if wanted.
    Attached {
        tty: bool,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    },
}

/// Something happened in a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Event {
    /// A container's first process runs.
    Started {
        /// Which.
        container: String,
    },
    /// A container has ended.
    Exited {
        /// Which.
        container: String,
        /// How.
        exit: Exit,
    },
    /// The connection to the shim is gone: reconnect, and clean up if that fails. Never sent by a shim.
    Gone,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WireError {
    pub(crate) kind: ErrorKind,
    pub(crate) message: String,
}

impl From<Error> for WireError {
    fn from(error: Error) -> Self {
        WireError { kind: error.kind, message: error.full() }
    }
}

impl From<WireError> for Error {
    fn from(error: WireError) -> Self {
        Error::new(error.kind, error.message)
    }
}

/// A message as it is sent.
pub(crate) fn encode(message: &impl Serialize) -> Result<Vec<u8>, Error> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)
        .map_err(|e| Error::io("cannot write a message for a shim", std::io::Error::from(e)))?;
    let length = frame.len() - 4;
    if length > MAX_FRAME_BYTES {
        return Err(Error::invalid(format!(
            "a message of {length} bytes is longer than a shim takes ({MAX_FRAME_BYTES}): the spec is too large"
        )));
    }
    frame[..4].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(frame)
}

/// Received bytes and descriptors, cut into frames.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    bytes: Vec<u8>,
    pub(crate) fds: VecDeque<OwnedFd>,
}

impl Incoming {
    pub(crate) fn push(&mut self, bytes: &[u8], fds: impl IntoIterator<Item = OwnedFd>) {
        self.bytes.extend_from_slice(bytes);
        self.fds.extend(fds);
    }

    /// The next whole frame.
    pub(crate) fn next<T: for<'a> Deserialize<'a>>(&mut self) -> Result<Option<T>, Error> {
        let Some(length) = self.bytes.first_chunk::<4>().map(|b| u32::from_le_bytes(*b) as usize) else {
            return Ok(None);
        };
        if length > MAX_FRAME_BYTES {
            return Err(Error::new(
                ErrorKind::Failed,
                format!("a frame of {length} bytes: the other side speaks another protocol"),
            ));
        }
        if self.bytes.len() < 4 + length {
            return Ok(None);
        }
        let parsed = serde_json::from_slice(&self.bytes[4..4 + length]);
        self.bytes.drain(..4 + length);
        if self.bytes.is_empty() {
            // A container's spec was the largest: the next one may be days away.
            self.bytes = Vec::new();
        }
        parsed.map(Some).map_err(|e| {
            Error::new(ErrorKind::Unsupported, format!("a message that this version does not know: {e}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_arrive_in_any_pieces() {
        let calls = [
            encode(&Call { id: 1, request: Request::Status }).unwrap(),
            encode(&Call { id: 2, request: Request::Kill { container: "c".into(), signal: 9, all: true } })
                .unwrap(),
        ]
        .concat();
        for piece in [1, 3, 7, calls.len()] {
            let mut incoming = Incoming::default();
            let mut ids = Vec::new();
            for chunk in calls.chunks(piece) {
                incoming.push(chunk, []);
                while let Some(call) = incoming.next::<Call>().unwrap() {
                    ids.push(call.id);
                }
            }
            assert_eq!(ids, [1, 2], "pieces of {piece}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let mut incoming = Incoming::default();
        incoming.push(b"GET / HTTP/1.1\r\n", []);
        assert_eq!(incoming.next::<Call>().unwrap_err().kind, ErrorKind::Failed);
    }
}
