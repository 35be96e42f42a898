//! What a strategy may know about the request that it serves.

use std::collections::BTreeMap;

use jiff::Timestamp;

/// Who makes a request, as far as a strategy cares (certificate signing requests record it).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// The user name, `system:serviceaccount:NS:NAME` for service accounts.
    pub name: String,
    /// A stable id, where the credential carries one.
    pub uid: String,
    /// The groups, `system:authenticated` included.
    pub groups: Vec<String>,
    /// What else the credential says.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// The surroundings of one write. Strategies are pure: time comes from here.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The time of the request.
    pub now: Timestamp,
    /// Who asks.
    pub user: &'a UserInfo,
    /// Empty for the object itself, else `status`, `resize`, `ephemeralcontainers`, `approval`, …
    pub subresource: &'a str,
}

impl Context<'_> {
    /// Whether the write goes to the object itself.
    #[must_use]
    pub fn is_main(&self) -> bool {
        self.subresource.is_empty()
    }

    /// Whether the write goes to the `status` subresource.
    #[must_use]
    pub fn is_status(&self) -> bool {
        self.subresource == "status"
    }
}
