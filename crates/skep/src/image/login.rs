//! Whom a registry sees: a kubeconfig's credential, a user's, one that `skopeo login` left, or nobody.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use skep_client::Access;
use skep_registry::client::{Client, ClientError, Options};

use crate::operator::Operator;

/// Where it listens if nobody says otherwise.
const USUAL: &str = "127.0.0.1:5000";

/// Who pushes or asks.
#[derive(Debug, clap::Args)]
pub(super) struct Login {
    /// A user's name; for a registry of Skep's any name, with a token as password.
    #[arg(long, requires = "password_stdin")]
    username: Option<String>,
    /// Reads the user's password from standard input.
    #[arg(long, requires = "username")]
    password_stdin: bool,
    /// Authorities in PEM that the registry's certificate may come from, besides the system's and the kubeconfig's.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Speak without encryption: for a registry in a laboratory.
    #[arg(long)]
    plain_http: bool,
}

/// The registry that runs here.
pub(super) fn own_address(data: &Path) -> String {
    crate::registry::address(data).unwrap_or_else(|| USUAL.to_owned())
}

/// The user that a file of Docker's form knows for a registry.
fn remembered_in(text: &str, host: &str) -> Option<(String, String)> {
    let file: Value = serde_json::from_str(text).ok()?;
    let auths = file["auths"].as_object()?;
    let names = [
        host.to_owned(),
        format!("https://{host}"),
        format!("https://{host}/v2/"),
        format!("https://{host}/v1/"),
    ];
    let entry = names.iter().find_map(|name| auths.get(name))?;
    let decoded = STANDARD.decode(entry["auth"].as_str()?).ok()?;
    let (user, password) =
        String::from_utf8(decoded).ok()?.split_once(':').map(|(u, p)| (u.to_owned(), p.to_owned()))?;
    Some((user, password))
}

/// Where `skopeo login`, `podman login` and `docker login` leave credentials.
fn files() -> Vec<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let home = variable("HOME");
    [
        variable("REGISTRY_AUTH_FILE"),
        variable("XDG_RUNTIME_DIR").map(|d| d.join("containers/auth.json")),
        Some(PathBuf::from(format!("/run/containers/{}/auth.json", nix::unistd::getuid()))),
        variable("DOCKER_CONFIG").map(|d| d.join("config.json")),
        home.map(|d| d.join(".docker/config.json")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn remembered(host: &str) -> Option<(String, String)> {
    files().iter().find_map(|file| remembered_in(&std::fs::read_to_string(file).ok()?, host))
}

impl Login {
    /// A client of a registry. A kubeconfig's credential is shown only to a registry whose certificate is from the kubeconfig's own authority.
    ///
    /// # Errors
    /// When no client can be made, or the registry cannot be reached.
    pub(super) async fn client(&self, operator: &Operator, host: &str) -> anyhow::Result<Client> {
        let scheme = if self.plain_http { "http" } else { "https" };
        let address =
            format!("{scheme}://{}", if host == "docker.io" { "registry-1.docker.io" } else { host });
        let ca = match &self.ca {
            Some(path) => std::fs::read(path).with_context(|| format!("reading {}", path.display()))?,
            None => Vec::new(),
        };
        let access = match Access::load(&operator.kubeconfig()) {
            Ok(access) => Some(access),
            // Then there is none, and none was named.
            Err(skep_client::KubeconfigError::Read { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                None
            }
            Err(error) => return Err(error.into()),
        };
        if let Some(user) = &self.username {
            let mut password = String::new();
            std::io::stdin()
                .read_to_string(&mut password)
                .context("reading the password from standard input")?;
            let password = password.trim_end_matches(['\r', '\n']).to_owned();
            if password.is_empty() {
                bail!("there is no password on standard input");
            }
            let authorities = access.map(|a| a.ca).unwrap_or_default();
            let credentials = Some((user.clone(), password));
            return Ok(Client::new(
                &address,
                Options { credentials, authorities, authorities_pem: ca, ..Options::default() },
            )?);
        }
        if let Some(access) = access.filter(|_| !self.plain_http) {
            let own = Options {
                credentials: access.token.map(|token| ("token".to_owned(), token)),
                authorities: access.ca.clone(),
                only_authorities: true,
                identity: access.identity,
                ..Options::default()
            };
            let client = Client::new(&address, own)?;
            match client.check().await {
                Ok(()) => return Ok(client),
                // It is another registry than the kubeconfig's, or nobody's.
                Err(ClientError::Unreachable { .. }) => {}
                // It is the kubeconfig's, and does not want that one: perhaps somebody who logged in.
                Err(error @ ClientError::Status { .. }) => {
                    let Some(credentials) = remembered(host) else { return Err(error.into()) };
                    let credentials = Some(credentials);
                    let options = Options { credentials, authorities: access.ca, ..Options::default() };
                    return Ok(Client::new(&address, options)?);
                }
                Err(error) => return Err(error.into()),
            }
        }
        let credentials = remembered(host);
        Ok(Client::new(&address, Options { credentials, authorities_pem: ca, ..Options::default() })?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_login_left_is_found_by_host() {
        let text = format!(
            r#"{{"auths": {{"127.0.0.1:5000": {{"auth": "{}"}}, "https://reg.example": {{"auth": "{}"}}, "bad": {{"auth": "?"}}}}}}"#,
            STANDARD.encode("ann:a:b"),
            STANDARD.encode("bob:x")
        );
        let user = |host: &str| remembered_in(&text, host);
        assert_eq!(user("127.0.0.1:5000"), Some(("ann".to_owned(), "a:b".to_owned())));
        assert_eq!(user("reg.example"), Some(("bob".to_owned(), "x".to_owned())));
        assert_eq!(user("127.0.0.1"), None);
        assert_eq!(user("bad"), None);
        assert_eq!(remembered_in("half", "x"), None);
    }

    #[test]
    fn the_own_registry_is_where_it_says_or_where_it_usually_is() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(own_address(dir.path()), USUAL);
        std::fs::create_dir(dir.path().join("registry")).unwrap();
        std::fs::write(dir.path().join("registry/address"), "127.0.0.1:7000").unwrap();
        assert_eq!(own_address(dir.path()), "127.0.0.1:7000");
    }
}
