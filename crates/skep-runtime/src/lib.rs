//! Containers on one machine.
//!
//! **Job.** Images in a store that tenants share without seeing each other's; pods behind one small process each (the
//! shim), which outlives whoever asked for them; control groups, logs, exec and attach, statistics.
//! **State.** On disk: the image store, and a directory per pod, from which everything can be found again or cleaned
//! up. In the kernel: namespaces, control groups, and one mount per pod. In memory: nothing that is not there too.
//! **Tasks.** One reader per connected pod; the shim is a process of its own with one thread.
//! **Must not know.** Kubernetes' types, tenants' objects, networks beyond the path of a namespace.
//!
//! Where to begin: [`Runtime::create`] makes a pod from a [`spec::SandboxSpec`] and gives a [`Sandbox`], in which
//! containers are created, started, executed in and waited for.

// System calls that no crate wraps (clone3, mount_setattr, bpf, seccomp) are made here, each with its reason.
#![allow(unsafe_code)]

pub mod caps;
pub mod cgroup;
mod client;
mod error;
pub mod images;
mod init;
pub mod lean;
pub mod logs;
mod proto;
mod runtime;
pub mod seccomp;
pub mod shim;
pub mod spec;
pub mod stats;
mod stream;
mod sys;

pub use caps::Capability;
pub use client::{Attached, ExecOutput, ExecProcess, Sandbox, Streams};
pub use error::{Error, ErrorKind, Result};
pub use init::renounce;
pub use proto::Event;
pub use runtime::{DeadPod, Found, Runtime, RuntimeConfig};
pub use spec::Exit;
pub use stream::Stream;
