//! What a machine and its host say to each other about images: one request on a connection, and its answer, each a line of JSON. Before the
//! answer to a pull come lines that say how far it is.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Credentials, PullState};
use crate::error::{Error, ErrorKind};

/// Longest request: secrets with credentials may be a megabyte each, and few matter.
pub const MAX_REQUEST_BYTES: u64 = 4 << 20;

/// Longest answer.
pub const MAX_ANSWER_BYTES: u64 = 1 << 20;

/// What a machine asks of its host.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Request {
    /// Lets the machine have an image that was loaded for its tenant or for all.
    Find {
        /// Its name, or its id.
        image: String,
    },
    /// Fetches an image from its registry.
    Pull {
        /// Its name.
        image: String,
        /// In the order in which they are tried.
        credentials: Vec<User>,
    },
    /// Takes names away from the machine, and with them layers that nothing in it uses.
    Remove {
        /// Names that it has.
        images: Vec<String>,
        /// Layers that containers use, by the digits of their digests.
        used_layers: Vec<String>,
    },
}

/// A user of a registry.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// The name; empty for an identity token.
    pub username: String,
    /// The password or token.
    pub password: String,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "User({})", self.username)
    }
}

impl From<User> for Credentials {
    fn from(user: User) -> Credentials {
        Credentials { username: user.username, password: user.password }
    }
}

/// What the host says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Answer {
    /// It goes on: this is not the last line.
    Underway(PullState),
    /// The machine has it now.
    Here,
    /// There is no such image for this tenant.
    Absent,
    /// So much is freed.
    Removed {
        /// Of layers that this machine does not hold any more.
        bytes: u64,
    },
    /// It does not work.
    Failed {
        /// Which way.
        kind: ErrorKind,
        /// A sentence.
        message: String,
    },
}

impl From<Error> for Answer {
    fn from(error: Error) -> Answer {
        Answer::Failed { kind: error.kind, message: error.full() }
    }
}
