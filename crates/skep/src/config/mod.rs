//! Configuration: one TOML file, whose every key is also an option and an environment variable.
//!
//! There is one table, and it is the command line itself: [`prepare`] gives every option of the commands that run something an environment
//! variable, [`File::apply`] makes the file's values their defaults. So an option outdoes the environment, the environment the file, and the file what is
//! built in; and the documentation of keys ([`doc`]) cannot say anything else.

mod doc;
mod show;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use clap::builder::OsStr;
use clap::{Arg, ArgAction, Command};
use toml::{Table, Value};

pub(crate) use show::{Options, run};

/// Commands that have a section in the file.
const COMMANDS: [&str; 7] =
    ["up", "control-plane", "apiserver", "controllers", "scheduler", "host", "registry"];
/// Keys outside of sections: they hold for every command that has such an option.
const COMMON: [&str; 3] = ["data", "kubeconfig", "log"];
/// Options that are no configuration: they say how a command is started this once.
const NOT_KEYS: [&str; 3] = ["foreground", "help", "version"];
/// Commands that no file holds for: they run inside machines and containers, where files are tenants'.
const WITHOUT: [&str; 5] = ["agent", "shim", "machine", "sample", "completion"];
/// The variable that names the file.
pub(crate) const VARIABLE: &str = "SKEP_CONFIG";
/// Names that differ by more than this many characters are not meant.
const NEAR: usize = 4;

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("the configuration {} cannot be read: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the configuration {} is not TOML: {why}", path.display())]
    Toml { path: PathBuf, why: String },
    #[error("{}: there is no key {key:?}{}", path.display(), hint(near))]
    Unknown { path: PathBuf, key: String, near: Option<String> },
    #[error("{}: {key}: {why}", path.display())]
    Value { path: PathBuf, key: String, why: String },
}

fn hint(near: &Option<String>) -> String {
    match near {
        Some(near) => format!("; is {near:?} meant? `skep config example` lists all keys"),
        None => "; `skep config example` lists all keys".to_owned(),
    }
}

static CURRENT: OnceLock<PathBuf> = OnceLock::new();

/// Remembers the file for processes that this one starts.
pub(crate) fn remember(file: &File) {
    if let Some(path) = file.path().and_then(|p| std::path::absolute(p).ok()) {
        // There is one file, and this is called once.
        let _ = CURRENT.set(path);
    }
}

/// The file that counts, if there is one.
pub(crate) fn current() -> Option<&'static Path> {
    CURRENT.get().map(PathBuf::as_path)
}

/// Where the file is if nobody says: the user's own, and a system's place.
fn default_path() -> Option<PathBuf> {
    let system = PathBuf::from("/etc/skep/config.toml");
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let folder = variable("XDG_CONFIG_HOME").or_else(|| variable("HOME").map(|h| h.join(".config")));
    let own = folder.map(|f| f.join("skep/config.toml")).filter(|_| !nix::unistd::geteuid().is_root());
    own.into_iter().chain([system]).find(|path| path.exists())
}

/// The file that is named before the command or behind it, and the command's name: looked for before the command line is parsed, since the file
/// decides defaults.
fn asked(args: &[OsString]) -> (Option<PathBuf>, Option<String>) {
    let (mut file, mut command, mut skip) = (None, None, false);
    for (i, arg) in args.iter().enumerate() {
        let text = arg.to_string_lossy();
        if std::mem::take(&mut skip) {
            continue;
        }
        match text.as_ref() {
            "--" => break,
            "--config" => {
                file = args.get(i + 1).map(PathBuf::from);
                skip = true;
            }
            "--log" => skip = true,
            other => match other.strip_prefix("--config=") {
                Some(path) => file = Some(PathBuf::from(path)),
                None if command.is_none() && !other.starts_with('-') => command = Some(other.to_owned()),
                None => {}
            },
        }
    }
    (file, command)
}

/// Whether an option is a key of its command's section, or of the file as a whole.
fn is_key(arg: &Arg) -> bool {
    let takes_part = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append | ArgAction::SetTrue);
    !arg.is_hide_set() && takes_part && arg.get_long().is_some_and(|long| !NOT_KEYS.contains(&long))
}

fn is_list(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

fn is_flag(arg: &Arg) -> bool {
    arg.get_num_args().is_some_and(|n| n.min_values() == 0)
        && arg.get_value_parser().type_id() == clap::value_parser!(bool).type_id()
}

/// The environment variable of a key.
fn variable(command: &str, arg: &Arg) -> String {
    match arg.get_env() {
        Some(given) => given.to_string_lossy().into_owned(),
        None => {
            format!("SKEP_{command}_{}", arg.get_long().unwrap_or_default()).to_uppercase().replace('-', "_")
        }
    }
}

/// Gives every key an environment variable, and makes flags such that they can be taken back: `--no-host=false`.
pub(crate) fn prepare(mut root: Command) -> Command {
    for name in COMMANDS {
        root = root.mut_subcommand(name, |command| {
            command.mut_args(|arg| {
                if !is_key(&arg) {
                    return arg;
                }
                // The program's whole life long, once.
                let variable: &'static str = variable(name, &arg).leak();
                let arg = arg.env(variable).hide_env_values(true);
                match arg.get_action() {
                    ArgAction::SetTrue => arg
                        .action(ArgAction::Set)
                        .num_args(0..=1)
                        .require_equals(true)
                        .value_parser(clap::value_parser!(bool))
                        .default_value("false")
                        .default_missing_value("true")
                        .hide_default_value(true)
                        .hide_possible_values(true)
                        .value_name("true|false"),
                    ArgAction::Append => arg.value_delimiter(','),
                    _ => arg,
                }
            })
        });
    }
    root
}

/// A configuration file, checked.
#[derive(Clone, Debug, Default)]
pub(crate) struct File {
    path: Option<PathBuf>,
    /// By section (empty for what stands outside) and key.
    values: BTreeMap<(String, String), Vec<String>>,
}

/// A value as the command line would have it.
fn words(value: &Value) -> Result<Vec<String>, &'static str> {
    match value {
        Value::String(text) => Ok(vec![text.clone()]),
        Value::Integer(number) => Ok(vec![number.to_string()]),
        Value::Boolean(yes) => Ok(vec![yes.to_string()]),
        Value::Array(all) => {
            let mut words_of = Vec::new();
            for one in all {
                match one {
                    Value::Array(_) | Value::Table(_) => return Err("a list holds texts and numbers only"),
                    one => words_of.extend(words(one)?),
                }
            }
            Ok(words_of)
        }
        _ => Err("write a text, a whole number, true or false, or a list of them"),
    }
}

fn nearest<'a>(wanted: &str, all: impl Iterator<Item = &'a str>) -> Option<String> {
    let distance = |name: &&str| strsim::damerau_levenshtein(wanted, name);
    all.min_by_key(distance).filter(|name| distance(name) <= NEAR).map(str::to_owned)
}

impl File {
    /// Reads the file that the command line, the environment or custom names; none is an empty one, unless it was named.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub(crate) fn find(root: &Command, args: &[OsString]) -> Result<File, ConfigError> {
        let (named, command) = asked(args);
        if command.is_some_and(|c| WITHOUT.contains(&c.as_str())) {
            return Ok(File::default());
        }
        let named = named.or_else(|| std::env::var_os(VARIABLE).filter(|v| !v.is_empty()).map(PathBuf::from));
        let must = named.is_some();
        let Some(path) = named.or_else(default_path) else { return Ok(File::default()) };
        match std::fs::read_to_string(&path) {
            Ok(text) => File::parse(root, &path, &text),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !must => Ok(File::default()),
            Err(source) => Err(ConfigError::Read { path, source }),
        }
    }

    /// Reads and checks a text: every key must be one, every value one that its option takes.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub(crate) fn parse(root: &Command, path: &Path, text: &str) -> Result<File, ConfigError> {
        let bad =
            |key: &str, why: String| ConfigError::Value { path: path.to_owned(), key: key.to_owned(), why };
        let unknown =
            |key: String, near: Option<String>| ConfigError::Unknown { path: path.to_owned(), key, near };
        let table: Table = text
            .parse()
            .map_err(|e: toml::de::Error| ConfigError::Toml { path: path.to_owned(), why: e.to_string() })?;
        let mut values = BTreeMap::new();
        for (name, value) in &table {
            let Some(section) = value.as_table() else {
                if !COMMON.contains(&name.as_str()) {
                    // Perhaps it stands outside of its section.
                    let home = COMMANDS.iter().find(|c| key_of(root, c, name).is_some());
                    let near = home.map(|c| format!("[{c}] {name}"));
                    return Err(unknown(name.clone(), near.or_else(|| nearest(name, COMMON.into_iter()))));
                }
                values.insert(
                    (String::new(), name.clone()),
                    words(value).map_err(|why| bad(name, why.to_owned()))?,
                );
                continue;
            };
            if !COMMANDS.contains(&name.as_str()) {
                return Err(unknown(
                    format!("[{name}]"),
                    nearest(name, COMMANDS.into_iter()).map(|n| format!("[{n}]")),
                ));
            }
            for (key, value) in section {
                let full = format!("{name}.{key}");
                let Some(arg) = key_of(root, name, key) else {
                    let all: Vec<String> =
                        keys_of(root, name).iter().filter_map(|a| a.get_long()).map(str::to_owned).collect();
                    return Err(unknown(full, nearest(key, all.iter().map(String::as_str))));
                };
                let words = words(value).map_err(|why| bad(&full, why.to_owned()))?;
                if words.len() != 1 && !is_list(arg) {
                    return Err(bad(&full, "it takes one value, not a list".to_owned()));
                }
                values.insert((name.clone(), key.clone()), words);
            }
        }
        let file = File { path: Some(path.to_owned()), values };
        file.check(root)?;
        Ok(file)
    }

    /// Lets the options themselves look at the values: as if they had been typed, each by itself.
    fn check(&self, root: &Command) -> Result<(), ConfigError> {
        use clap::error::ErrorKind as Kind;
        for ((section, key), words) in &self.values {
            let command = if section.is_empty() { "up" } else { section };
            let mut line = vec!["skep".to_owned(), command.to_owned()];
            if section.is_empty() && key_of(root, command, key).is_none() && key != "log" {
                continue;
            }
            line.extend(words.iter().map(|word| format!("--{key}={word}")));
            if let Err(error) = root.clone().try_get_matches_from(line)
                && matches!(
                    error.kind(),
                    Kind::InvalidValue
                        | Kind::ValueValidation
                        | Kind::WrongNumberOfValues
                        | Kind::TooManyValues
                )
            {
                let text = error.to_string();
                let why = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
                let path = self.path.clone().unwrap_or_default();
                let key = if section.is_empty() { key.clone() } else { format!("{section}.{key}") };
                return Err(ConfigError::Value { path, key, why });
            }
        }
        Ok(())
    }

    /// Where it was read from.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The value of a command's option in the file.
    fn value(&self, command: &str, key: &str) -> Option<&Vec<String>> {
        let own = self.values.get(&(command.to_owned(), key.to_owned()));
        own.or_else(|| self.values.get(&(String::new(), key.to_owned())).filter(|_| COMMON.contains(&key)))
    }

    fn apply_to(&self, section: &str, command: Command) -> Command {
        let names: Vec<String> = command.get_subcommands().map(|c| c.get_name().to_owned()).collect();
        let mut command =
            command.mut_args(|arg| match arg.get_long().and_then(|long| self.value(section, long)) {
                Some(words) if is_key(&arg) => {
                    // The program's whole life long, once.
                    arg.default_values(
                        words.iter().map(|word| OsStr::from(&*word.clone().leak())).collect::<Vec<_>>(),
                    )
                }
                _ => arg,
            });
        for name in names {
            // A section is its command's own; what stands outside holds everywhere below.
            command = command.mut_subcommand(&name, |sub| {
                self.apply_to(if section.is_empty() { &name } else { section }, sub)
            });
        }
        command
    }

    /// Makes the file's values the defaults of options.
    pub(crate) fn apply(&self, root: Command) -> Command {
        if self.values.is_empty() {
            return root;
        }
        let names: Vec<String> = root.get_subcommands().map(|c| c.get_name().to_owned()).collect();
        let mut root = root.mut_args(|arg| match arg.get_long().and_then(|long| self.value("", long)) {
            Some(words) => arg.default_values(
                words.iter().map(|word| OsStr::from(&*word.clone().leak())).collect::<Vec<_>>(),
            ),
            None => arg,
        });
        for name in names.iter().filter(|n| !WITHOUT.contains(&n.as_str())) {
            root = root.mut_subcommand(name, |sub| self.apply_to(name, sub));
        }
        root
    }
}

/// The keys of a command's section, in the order of its help.
fn keys_of<'a>(root: &'a Command, command: &str) -> Vec<&'a Arg> {
    let found = root.find_subcommand(command);
    found.into_iter().flat_map(Command::get_arguments).filter(|arg| is_key(arg)).collect()
}

fn key_of<'a>(root: &'a Command, command: &str, key: &str) -> Option<&'a Arg> {
    keys_of(root, command).into_iter().find(|arg| arg.get_long() == Some(key))
}

#[cfg(test)]
mod tests;
