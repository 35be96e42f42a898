//! Whom client commands reach, and as whom.

use std::path::{Path, PathBuf};

use skep_client::{Access, Client};

use crate::apiserver::default_data;

/// The operator's kubeconfig in a data directory.
pub(crate) const ADMIN: &str = "admin.kubeconfig";

/// Where the cloud is that is meant.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Operator {
    /// Whom to reach and as whom; `admin.kubeconfig` in the data directory if it is not given.
    #[arg(long, global = true, env = "KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The data directory of `skep up`.
    #[arg(long, global = true, env = "SKEP_DATA", value_name = "DIR", default_value_os_t = default_data())]
    data: PathBuf,
}

impl Operator {
    /// The data directory.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// The kubeconfig that counts.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig.clone().unwrap_or_else(|| self.data.join(ADMIN))
    }

    /// A client of the API server.
    ///
    /// # Errors
    /// When the kubeconfig is missing or no good.
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        Ok(Client::new(Access::load(&self.kubeconfig())?)?)
    }
}

/// Prints what makes a shell's later commands mean this cloud.
#[derive(Debug, clap::Args)]
pub(crate) struct EnvOptions {
    /// The data directory of `skep up`.
    #[arg(long, env = "SKEP_DATA", value_name = "DIR", default_value_os_t = default_data())]
    data: PathBuf,
}

/// A word that a shell takes as it is.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:=@%+,".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// Prints it.
///
/// # Errors
/// When nobody can be told.
pub(crate) fn env(options: &EnvOptions) -> anyhow::Result<()> {
    let data = std::path::absolute(&options.data)?;
    let admin = data.join(ADMIN);
    crate::output::print(&format!(
        "export SKEP_DATA={}\nexport KUBECONFIG={}\n",
        quoted(&data.to_string_lossy()),
        quoted(&admin.to_string_lossy())
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted_for_shells() {
        assert_eq!(quoted("/var/lib/skep"), "/var/lib/skep");
        assert_eq!(quoted("/a b/it's"), r"'/a b/it'\''s'");
    }
}
