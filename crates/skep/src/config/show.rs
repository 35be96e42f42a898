//! `skep config`.

use anyhow::Context;
use clap::parser::ValueSource;
use clap::{Args, Command, Subcommand};
use serde::Serialize;

use super::{COMMANDS, File, keys_of, variable};
use crate::exit::{Code, failure};
use crate::output::{Output, Table, print, show};

/// Shows what is configured and why, and what can be.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Shows every value that counts for a command, and where it comes from: the environment, the file, or what is built in.
    Show {
        /// For which command.
        #[arg(default_value = "up", value_parser = clap::builder::PossibleValuesParser::new(COMMANDS))]
        command: String,
        #[command(flatten)]
        output: Output,
    },
    /// Prints a file with every key, its meaning and its default, all of them commented out.
    Example,
    /// Prints the documentation of all keys, in Markdown.
    #[command(hide = true)]
    Doc,
}

/// A value and its origin.
#[derive(Debug, Serialize)]
pub(super) struct Setting {
    pub(super) key: String,
    pub(super) value: String,
    pub(super) origin: String,
}

/// Every value that counts for a command that is typed without options.
pub(super) fn settings(prepared: &Command, file: &File, command: &str) -> anyhow::Result<Vec<Setting>> {
    let root = file.apply(prepared.clone());
    // What must be given on the command line is not there, and not asked for.
    let mut line = root.clone();
    for name in COMMANDS {
        line = line.mut_subcommand(name, |c| c.mut_args(|arg| arg.required(false)));
    }
    let matches =
        line.try_get_matches_from(["skep", command]).map_err(|e| failure(Code::Usage, e.to_string()))?;
    let (_, own) = matches.subcommand().context("the command line has no command")?;
    let mut all = Vec::new();
    let log = root.get_arguments().filter(|arg| arg.get_long() == Some("log"));
    for arg in keys_of(&root, command).into_iter().chain(log) {
        let id = arg.get_id().as_str();
        let long = arg.get_long().unwrap_or_default();
        let at = if own.try_contains_id(id).is_ok() { own } else { &matches };
        let values: Vec<String> = at
            .get_raw(id)
            .map(|raw| raw.map(|v| v.to_string_lossy().into_owned()).collect())
            .unwrap_or_default();
        let origin = match at.value_source(id) {
            Some(ValueSource::EnvVariable) => format!("environment: {}", variable(command, arg)),
            Some(ValueSource::DefaultValue) if file.value(command, long).is_some() => {
                format!("file: {}", file.path().map(|p| p.display().to_string()).unwrap_or_default())
            }
            _ => "default".to_owned(),
        };
        all.push(Setting { key: long.to_owned(), value: values.join(","), origin });
    }
    Ok(all)
}

/// Runs `skep config`.
///
/// # Errors
/// When what is configured is wrong.
pub(crate) fn run(options: Options, prepared: &Command, file: &File) -> anyhow::Result<()> {
    match options.command {
        What::Show { command, output } => {
            let settings = settings(prepared, file, &command)?;
            show(output.output, &settings, || {
                let mut table = Table::new(&["KEY", "VALUE", "ORIGIN"]);
                for setting in &settings {
                    table.row([setting.key.clone(), setting.value.clone(), setting.origin.clone()]);
                }
                table
            })
        }
        What::Example => print(&super::doc::example(prepared)),
        What::Doc => print(&super::doc::markdown(prepared)),
    }
}
