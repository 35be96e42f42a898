//! What the keys are, in Markdown and as an example file: from the command line's own descriptions.

use clap::{Arg, ArgAction, Command};

use super::{COMMANDS, COMMON, is_list, keys_of, variable};

/// One line about an option.
fn about(arg: &Arg) -> String {
    let text = arg.get_help().or_else(|| arg.get_long_help()).map(ToString::to_string).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn is_flag(arg: &Arg) -> bool {
    super::is_flag(arg) || matches!(arg.get_action(), ArgAction::SetTrue)
}

/// The default as the file would have it; nothing where there is none. The data directory's depends on who asks.
fn default(arg: &Arg) -> Option<String> {
    let long = arg.get_long().unwrap_or_default();
    let values: Vec<String> =
        arg.get_default_values().iter().map(|v| v.to_string_lossy().into_owned()).collect();
    match (long, values.as_slice()) {
        ("data", _) => Some("\"/var/lib/skep\"".to_owned()),
        (_, []) if is_list(arg) => Some("[]".to_owned()),
        (_, []) => None,
        (_, [one]) if is_flag(arg) || one.parse::<u64>().is_ok() => Some(one.clone()),
        (_, [one]) => Some(format!("{one:?}")),
        (_, all) => Some(format!("{all:?}")),
    }
}

fn kind(arg: &Arg) -> &'static str {
    let is_number = default(arg).is_some_and(|d| d.parse::<u64>().is_ok());
    match () {
        () if is_list(arg) => "list of texts",
        () if is_flag(arg) => "true or false",
        () if is_number => "number",
        () => "text",
    }
}

/// Commands with the same keys, described alike, stand together.
fn groups(root: &Command) -> Vec<Vec<&'static str>> {
    let keys = |command: &str| {
        keys_of(root, command)
            .iter()
            .map(|a| (a.get_long(), about(a)))
            .map(|(l, a)| (l.map(str::to_owned), a))
            .collect::<Vec<_>>()
    };
    let mut groups: Vec<Vec<&'static str>> = Vec::new();
    for command in COMMANDS {
        match groups.iter_mut().find(|g| g.first().is_some_and(|c| keys(c) == keys(command))) {
            Some(group) => group.push(command),
            None => groups.push(vec![command]),
        }
    }
    groups
}

/// What the keys outside of sections are.
fn common(key: &str) -> &'static str {
    match key {
        "data" => "the data directory: of `skep up` and of all commands that look for what runs there",
        "kubeconfig" => {
            "whom commands reach and as whom; `admin.kubeconfig` in the data directory if it is not given"
        }
        _ => "what is logged, as a filter such as `info` or `skep_store=debug,info`",
    }
}

fn common_variable(key: &str) -> &'static str {
    match key {
        "data" => "SKEP_DATA",
        "kubeconfig" => "KUBECONFIG",
        _ => "SKEP_LOG",
    }
}

/// The tables of docs/configuration.md.
pub(super) fn markdown(root: &Command) -> String {
    let mut out = String::from("### Outside of sections\n\n| Key | Environment | What |\n|---|---|---|\n");
    for key in COMMON {
        out += &format!("| `{key}` | `{}` | {} |\n", common_variable(key), common(key));
    }
    for group in groups(root) {
        let names: Vec<String> = group.iter().map(|c| format!("`[{c}]`")).collect();
        out += &format!(
            "\n### {}\n\n| Key | Environment | Kind | Default | What |\n|---|---|---|---|---|\n",
            names.join(", ")
        );
        for arg in group.first().map(|c| keys_of(root, c)).unwrap_or_default() {
            let variables: Vec<String> = group
                .iter()
                .filter_map(|c| {
                    super::key_of(root, c, arg.get_long()?).map(|a| format!("`{}`", variable(c, a)))
                })
                .fold(Vec::new(), |mut all, v| {
                    if !all.contains(&v) {
                        all.push(v);
                    }
                    all
                });
            out += &format!(
                "| `{}` | {} | {} | {} | {} |\n",
                arg.get_long().unwrap_or_default(),
                variables.join(", "),
                kind(arg),
                default(arg).map(|d| format!("`{d}`")).unwrap_or_default(),
                about(arg).replace('|', "\\|")
            );
        }
    }
    out
}

/// A file with every key, commented out.
pub(super) fn example(root: &Command) -> String {
    let mut out = String::from(
        "# Configuration of Skep. Every key is also an option of its command and an environment variable, which outdo this file.\n\
         # What is commented out is the default, or a form where there is none.\n\n",
    );
    for key in COMMON {
        let form = match key {
            "data" => "\"/var/lib/skep\"",
            "kubeconfig" => "\"/var/lib/skep/admin.kubeconfig\"",
            _ => "\"info,skep::access=warn\"",
        };
        out += &format!("# {}\n#{key} = {form}\n\n", common(key));
    }
    for command in COMMANDS {
        out += &format!("[{command}]\n");
        for arg in keys_of(root, command) {
            let long = arg.get_long().unwrap_or_default();
            if COMMON.contains(&long) {
                continue;
            }
            let form = default(arg).unwrap_or_else(|| "\"…\"".to_owned());
            out += &format!("# {} ({})\n#{long} = {form}\n", about(arg), kind(arg));
        }
        out += "\n";
    }
    out
}
