//! Logs, exec, attach and port-forward between `kubectl` and a container.
//!
//! **Job.** Two things. A *tunnel*: the connection that an agent opens to the API server and holds; over it the API
//! server asks and the agent answers (HTTP/2 the other way round), so that nothing listens in a machine. And the
//! *stream protocols* that clients speak on it: WebSocket (`v5.channel.k8s.io` and its elders) and SPDY/3.1, for remote
//! commands and for port-forwarding. The API server passes these through as bytes; the agent speaks them.
//! **State.** Per tunnel a connection; per stream what is under way.
//! **Tasks.** One per tunnel and end, a few per stream.
//! **Must not know.** Pods and containers beyond their names, who may do what, how containers run: the agent implements
//! [`Node`], and the API server has authorized what it passes on.

mod forward;
mod node;
mod process;
mod remote;
mod serve;
mod spdy;
mod tunnel;
mod usage;
mod websocket;

#[cfg(test)]
mod tests;

pub use node::{Chunks, Connection, ContainerAt, LogOptions, Node, PodAt, Refusal, Streams};
pub use process::{Process, Size};
pub use serve::serve;
pub use tunnel::{Lost, Outgoing, Tunnel};
pub use usage::{ContainerUsage, NodeUsage, PodUsage, Span, USAGE_PATH, Usage};

/// The header that stands for `Upgrade` inside the tunnel, where HTTP/2 forbids the real one. In an answer it says that the
/// client's connection is to become a stream of that protocol.
pub const UPGRADE: &str = "skep-upgrade";
