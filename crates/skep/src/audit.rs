//! The audit log's settings, under upstream's names.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use skep_apiserver::audit::{AuditFile, AuditLog, Policy, Rotation};

/// What the audit log takes at the end to be written out: as long as connections may take to end.
pub(crate) const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// Where who did what is written down.
#[derive(Debug, clap::Args)]
pub(crate) struct AuditOptions {
    /// The file that audit events are written to, a line of JSON each; without it there is no audit log.
    #[arg(long)]
    pub audit_log_path: Option<PathBuf>,
    /// What is recorded: a Policy of audit.k8s.io/v1. Without it, the metadata of every request.
    #[arg(long, requires = "audit_log_path")]
    pub audit_policy_file: Option<PathBuf>,
    /// Megabytes at which the file is put aside and a new one begun.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub audit_log_maxsize: u32,
    /// How many files that were put aside are kept; 0 keeps all.
    #[arg(long, default_value_t = 10)]
    pub audit_log_maxbackup: usize,
    /// Days after which files that were put aside are deleted; 0 keeps them.
    #[arg(long, default_value_t = 0)]
    pub audit_log_maxage: u32,
}

impl AuditOptions {
    /// Starts the log, if there is to be one.
    ///
    /// # Errors
    /// When the policy or the file is no good.
    pub(crate) fn start(&self) -> anyhow::Result<Option<AuditLog>> {
        let Some(path) = &self.audit_log_path else { return Ok(None) };
        let policy = match &self.audit_policy_file {
            None => Policy::metadata(),
            Some(file) => {
                let yaml =
                    std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
                Policy::parse(&yaml).with_context(|| format!("reading {}", file.display()))?
            }
        };
        let days = u64::from(self.audit_log_maxage);
        let rotation = Rotation {
            max_bytes: u64::from(self.audit_log_maxsize) * 1024 * 1024,
            max_age: (days > 0).then(|| Duration::from_secs(days * 24 * 3600)),
            max_backups: self.audit_log_maxbackup,
        };
        let file = AuditFile::open(path, rotation)
            .with_context(|| format!("opening the audit log {}", path.display()))?;
        Ok(Some(AuditLog::start(policy, file).context("starting the audit log")?))
    }
}
