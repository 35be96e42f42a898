//! Why something with a machine did not work.

use std::io;
use std::path::{Path, PathBuf};

use crate::driver::Step;

/// Why something with a machine did not work. All of it can be tried again: steps that are done are not done twice.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A step of a machine's creation failed.
    #[error("machine {machine}: the step {step} failed")]
    Step {
        /// Which machine.
        machine: String,
        /// Which step.
        step: Step,
        /// Why.
        source: Box<Error>,
    },
    /// The system refused something.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A machine's record cannot be read.
    #[error("{} does not hold a machine's record; remove the directory if the machine is not wanted", path.display())]
    Record {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The machine's first process did not come up.
    #[error("the machine did not start: {why}")]
    Start {
        /// What it said.
        why: String,
    },
    /// Processes of the machine survived everything.
    #[error(
        "{left} processes of machine {machine} are still there after SIGKILL; they wait inside the kernel"
    )]
    Unkillable {
        /// Which machine.
        machine: String,
        /// How many.
        left: usize,
    },
    /// The host cannot run machines of this isolation.
    #[error("this host cannot run machines of isolation {isolation}: {why}")]
    Unsupported {
        /// Which.
        isolation: &'static str,
        /// What is missing, and how to get it.
        why: String,
    },
    /// A test made a step fail.
    #[error("failed on purpose")]
    Injected,
}

impl Error {
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
        let path = path.to_owned();
        move |source| Error::Io { doing, path, source }
    }

    pub(crate) fn errno(doing: &'static str, path: &Path) -> impl FnOnce(nix::Error) -> Error + use<> {
        let path = path.to_owned();
        move |source| Error::Io { doing, path, source: source.into() }
    }

    /// What one process tells another, which says itself that the machine did not start.
    pub(crate) fn reason(&self) -> String {
        match self {
            Error::Start { why } => why.clone(),
            other => other.story(),
        }
    }

    /// The whole story in one line, causes included: for conditions and logs.
    #[must_use]
    pub fn story(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            next = cause.source();
        }
        text
    }
}
