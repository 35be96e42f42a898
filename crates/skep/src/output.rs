//! What commands print: tables for people, JSON and YAML for programs.

use std::io::{IsTerminal, Write};

use anyhow::Context;
use clap::ValueEnum;
use serde::Serialize;

/// How something is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// The same, easier to read.
    Yaml,
    /// Names only, a line each.
    Name,
}

/// The option of everything that lists or shows.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Output {
    /// How it is shown.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

/// Columns under each other. The first one is what `-o name` prints.
#[derive(Debug)]
pub(crate) struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With these columns.
    pub(crate) fn new(head: &[&'static str]) -> Table {
        Table { head: head.to_vec(), rows: Vec::new() }
    }

    /// Another row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    fn names(&self) -> String {
        self.rows.iter().filter_map(|row| row.first()).fold(String::new(), |all, name| all + name + "\n")
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
            cells.chain(self.head.get(column).map(|h| h.len())).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let head: Vec<String> = self.head.iter().map(|&h| h.to_owned()).collect();
        for row in std::iter::once(&head).chain(&self.rows) {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line += &format!("{cell:width$}   ");
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Prints; a reader that has seen enough is none that failed.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e).context("writing to standard output"),
        _ => Ok(()),
    }
}

/// Shows something as it was asked for.
pub(crate) fn show<T: Serialize>(
    format: Format,
    value: &T,
    table: impl FnOnce() -> Table,
) -> anyhow::Result<()> {
    let text = match format {
        Format::Table => table().to_string(),
        Format::Name => table().names(),
        Format::Json => serde_json::to_string_pretty(value).context("writing JSON")? + "\n",
        Format::Yaml => serde_yaml_ng::to_string(value).context("writing YAML")?,
    };
    print(&text)
}

/// Colours are for people, and for those who want them.
fn colours(terminal: bool) -> bool {
    terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// Whether messages may be coloured.
pub(crate) fn colours_on_stderr() -> bool {
    colours(std::io::stderr().is_terminal())
}

/// Text in a colour, where somebody sees it.
pub(crate) fn paint(code: &str, text: &str) -> String {
    match colours(std::io::stdout().is_terminal()) {
        true => format!("\x1b[{code}m{text}\x1b[0m"),
        false => text.to_owned(),
    }
}

/// Bytes for people.
pub(crate) fn bytes(count: u64) -> String {
    match count {
        0..1_024 => format!("{count} B"),
        1_024..1_048_576 => format!("{:.1} KiB", count as f64 / 1_024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", count as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", count as f64 / 1_073_741_824.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_each_other() {
        let mut table = Table::new(&["NAME", "PHASE"]);
        table.row(["a-long-name".to_owned(), "Active".to_owned()]);
        table.row(["b".to_owned(), String::new()]);
        assert_eq!(table.to_string(), "NAME          PHASE\na-long-name   Active\nb\n");
        assert_eq!(table.names(), "a-long-name\nb\n");
    }

    #[test]
    fn bytes_are_for_people() {
        assert_eq!(
            [bytes(5), bytes(1536), bytes(3 << 20), bytes(5 << 30)],
            ["5 B", "1.5 KiB", "3.0 MiB", "5.0 GiB"]
        );
    }
}
