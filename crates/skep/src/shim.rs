//! `skep shim`: the process that holds a pod.

use std::ffi::OsString;
use std::process::ExitCode;

/// Holds one pod; started by the node agent for each.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// What the runtime says.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// When this is `skep shim`, runs it and returns. Called before anything else: the shim must have one thread and
/// stay small, so neither the command line's parser nor logging is set up for it.
pub(crate) fn if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    (arguments.next()? == "shim").then(|| skep_runtime::shim::run(arguments))
}

/// The same, when options stood before the command's name.
pub(crate) fn run(options: Options) -> ExitCode {
    skep_runtime::shim::run(options.arguments)
}
