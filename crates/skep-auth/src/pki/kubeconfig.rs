//! Kubeconfig files.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::ca::KeyedCertificate;

/// A kubeconfig with one cluster, one user and one context.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Kubeconfig {
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    kind: &'static str,
    preferences: Empty,
    clusters: [NamedCluster; 1],
    users: [NamedUser; 1],
    contexts: [NamedContext; 1],
    current_context: String,
}

#[derive(Clone, Debug, Serialize)]
struct Empty {}

#[derive(Clone, Debug, Serialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority_data: String,
}

#[derive(Clone, Debug, Serialize)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
enum User {
    #[serde(rename_all = "kebab-case")]
    Certificate {
        client_certificate_data: String,
        client_key_data: String,
    },
    Token {
        token: String,
    },
}

#[derive(Clone, Debug, Serialize)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Clone, Debug, Serialize)]
struct Context {
    cluster: String,
    user: String,
}

impl Kubeconfig {
    fn new(name: &str, server: &str, ca_pem: &str, user_name: &str, user: User) -> Kubeconfig {
        Kubeconfig {
            api_version: "v1",
            kind: "Config",
            preferences: Empty {},
            clusters: [NamedCluster {
                name: name.to_owned(),
                cluster: Cluster {
                    server: server.to_owned(),
                    certificate_authority_data: STANDARD.encode(ca_pem),
                },
            }],
            users: [NamedUser { name: user_name.to_owned(), user }],
            contexts: [NamedContext {
                name: name.to_owned(),
                context: Context { cluster: name.to_owned(), user: user_name.to_owned() },
            }],
            current_context: name.to_owned(),
        }
    }

    /// One that authenticates with a certificate. Cluster and context are called `name`.
    #[must_use]
    pub fn with_certificate(
        name: &str,
        server: &str,
        ca_pem: &str,
        user: &str,
        pair: &KeyedCertificate,
    ) -> Kubeconfig {
        let data = User::Certificate {
            client_certificate_data: STANDARD.encode(pair.certificate_pem()),
            client_key_data: STANDARD.encode(pair.key_pem()),
        };
        Kubeconfig::new(name, server, ca_pem, user, data)
    }

    /// One that authenticates with a token.
    #[must_use]
    pub fn with_token(name: &str, server: &str, ca_pem: &str, user: &str, token: &str) -> Kubeconfig {
        Kubeconfig::new(name, server, ca_pem, user, User::Token { token: token.to_owned() })
    }

    /// The file's text.
    ///
    /// # Errors
    /// None in practice: the type has only texts in it.
    pub fn to_yaml(&self) -> Result<String, serde_yaml_ng::Error> {
        serde_yaml_ng::to_string(self)
    }
}
