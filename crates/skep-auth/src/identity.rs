//! Identities: a user of one tenant, and how they proved it.

use std::collections::BTreeMap;
use std::sync::Arc;

use skep_api::UserInfo;
use skep_base::{TenantName, name};

/// The well-known user and group names.
pub mod groups {
    /// May do everything.
    pub const MASTERS: &str = "system:masters";
    /// Everyone who authenticated.
    pub const AUTHENTICATED: &str = "system:authenticated";
    /// Everyone who did not.
    pub const UNAUTHENTICATED: &str = "system:unauthenticated";
    /// The kubelets.
    pub const NODES: &str = "system:nodes";
    /// All service accounts.
    pub const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";
    /// Prefix of the group of a namespace's service accounts.
    pub const SERVICE_ACCOUNTS_PREFIX: &str = "system:serviceaccounts:";
    /// The name of those who did not authenticate.
    pub const ANONYMOUS: &str = "system:anonymous";
    /// Prefix of a service account's user name.
    pub const SERVICE_ACCOUNT_USER_PREFIX: &str = "system:serviceaccount:";
    /// Prefix of a kubelet's user name.
    pub const NODE_USER_PREFIX: &str = "system:node:";
}

/// The keys of `extra` that the API server itself sets.
pub mod extra {
    /// Which credential: `X509SHA256=…` or `JTI=…`.
    pub const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";
    /// The pod that a token is bound to.
    pub const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
    /// Its uid.
    pub const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
    /// The node that the pod runs on, or that a token is bound to.
    pub const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
    /// Its uid.
    pub const NODE_UID: &str = "authentication.kubernetes.io/node-uid";
}

/// A named object and its uid, as tokens refer to what they are bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectRef {
    /// The name.
    pub name: String,
    /// The uid; empty when it was not known.
    pub uid: String,
}

/// What a service account's token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccountCredential {
    /// The account's namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid, which the live account still had when the token was checked.
    pub uid: String,
    /// The pod that the token is bound to.
    pub pod: Option<ObjectRef>,
    /// The node of that pod, or the node that the token is bound to.
    pub node: Option<ObjectRef>,
    /// The secret that the token is bound to.
    pub secret: Option<ObjectRef>,
}

/// How an identity was proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// A client certificate that the API server's TLS verified.
    ClientCert,
    /// A token from the static file.
    Token,
    /// A service account's token.
    ServiceAccount(Box<ServiceAccountCredential>),
    /// None.
    Anonymous,
}

/// Who makes a request: a user of exactly one tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The tenant that the credential belongs to.
    pub tenant: TenantName,
    /// The uid of that tenant, where the credential carries it. The API server compares it with the tenant
    /// of that name that exists now: a tenant that was deleted and made again is another one.
    pub tenant_uid: Option<String>,
    /// Name, uid, groups, extra.
    pub user: UserInfo,
    /// How it was proved.
    pub credential: Credential,
}

impl Identity {
    /// Someone who showed no credential, addressing `tenant`.
    #[must_use]
    pub fn anonymous(tenant: TenantName) -> Arc<Identity> {
        Arc::new(Identity {
            tenant,
            tenant_uid: None,
            user: UserInfo {
                name: groups::ANONYMOUS.to_owned(),
                uid: String::new(),
                groups: vec![groups::UNAUTHENTICATED.to_owned()],
                extra: BTreeMap::new(),
            },
            credential: Credential::Anonymous,
        })
    }

    /// Whether the identity may do everything in its own tenant.
    #[must_use]
    pub fn is_master(&self) -> bool {
        self.user.groups.iter().any(|g| g == groups::MASTERS)
    }

    /// Whether the identity may do everything everywhere.
    #[must_use]
    pub fn is_system_master(&self) -> bool {
        self.tenant.is_system() && self.is_master()
    }
}

/// `system:serviceaccount:NS:NAME`.
#[must_use]
pub fn service_account_user(namespace: &str, name: &str) -> String {
    format!("{}{namespace}:{name}", groups::SERVICE_ACCOUNT_USER_PREFIX)
}

/// The groups of a service account, without `system:authenticated`.
#[must_use]
pub fn service_account_groups(namespace: &str) -> Vec<String> {
    vec![groups::SERVICE_ACCOUNTS.to_owned(), format!("{}{namespace}", groups::SERVICE_ACCOUNTS_PREFIX)]
}

/// Namespace and name of a service account's user name; `None` for anything else.
#[must_use]
pub fn split_service_account_user(user: &str) -> Option<(&str, &str)> {
    let (namespace, account) = user.strip_prefix(groups::SERVICE_ACCOUNT_USER_PREFIX)?.split_once(':')?;
    (name::is_dns1123_label(namespace) && name::is_dns1123_subdomain(account)).then_some((namespace, account))
}

/// Adds `system:authenticated`, as is done for everybody who authenticated, unless the credential itself
/// says otherwise.
pub(crate) fn add_authenticated(list: &mut Vec<String>) {
    if !list.iter().any(|g| g == groups::AUTHENTICATED || g == groups::UNAUTHENTICATED) {
        list.push(groups::AUTHENTICATED.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_account_names_split_only_when_they_are_ones() {
        assert_eq!(split_service_account_user("system:serviceaccount:ns:a.b"), Some(("ns", "a.b")));
        for bad in [
            "system:serviceaccount:ns",
            "system:serviceaccount::a",
            "system:serviceaccount:ns:",
            "system:serviceaccount:ns:a:b",
            "system:serviceaccount:N:a",
            "serviceaccount:ns:a",
            "",
        ] {
            assert_eq!(split_service_account_user(bad), None, "{bad}");
        }
        assert_eq!(split_service_account_user(&service_account_user("x", "y")), Some(("x", "y")));
    }

    #[test]
    fn anonymous_is_nobody() {
        let a = Identity::anonymous(TenantName::system());
        assert!(!a.is_master() && !a.is_system_master());
        assert_eq!(a.user.groups, ["system:unauthenticated"]);
    }
}
