//! `skep image`: images of this computer's store, and of registries.

mod login;
mod push;
mod remote;

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use skep_runtime::images::{Image, ImageStore, Reference, Scope, UnpackLimits};

use crate::exit::{Code, failure};
use crate::operator::Operator;
use crate::output::{Output, Table, bytes, show};
use crate::progress::Progress;

/// Where the store is below the data directory. The host daemon looks there too.
pub(crate) const STORE: &str = "images";

/// Options of `skep image`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    operator: Operator,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Loads images into this computer's store, from where its machines take them without any registry.
    ///
    /// Reads OCI layouts (directories or archives) and archives of `docker save`, plain or compressed.
    Load {
        /// The files or directories.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// The name, for a file with one image that has none.
        #[arg(long)]
        name: Option<Reference>,
        /// Only this tenant may use the images; without it, every tenant may.
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Lists images: of this computer's store, or of a registry.
    List {
        /// Only those whose name contains this.
        filter: Option<String>,
        /// Only those that this tenant may use.
        #[arg(long)]
        tenant: Option<String>,
        /// The images of a registry instead; without HOST:PORT of the one that `skep up` runs here.
        #[arg(long, value_name = "HOST:PORT", num_args = 0..=1, require_equals = true, default_missing_value = "")]
        registry: Option<String>,
        #[command(flatten)]
        login: login::Login,
        #[command(flatten)]
        output: Output,
    },
    /// Writes an image to try things with: this very program as a small web server, an API, a store and a client.
    ///
    /// Nothing is downloaded. A container of it is given `web`, `api`, `store` or `client` as argument; `skep sample --help` in it says more.
    Sample {
        /// Where the archive is written.
        file: PathBuf,
    },
    /// Sends an image to a registry: to the one that `skep up` runs, or to any other.
    ///
    /// Reads what `skep image load` reads. What the registry has already is not sent again, so a push that broke off goes on where it was.
    Push {
        /// The file or directory with the image.
        file: PathBuf,
        /// Where it goes: HOST:PORT/TENANT/NAME:TAG in a registry of Skep's.
        to: Reference,
        /// Which one, by the name that it has in the file, where there are several.
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        login: login::Login,
    },
}

/// Runs `skep image`.
///
/// # Errors
/// What could not be done.
pub(crate) fn run(options: Options) -> anyhow::Result<()> {
    let Options { operator, command } = options;
    match command {
        Command::Load { files, name, tenant } => load(&operator, &files, name.as_ref(), tenant.as_deref()),
        Command::List { filter, tenant, registry: None, output, .. } => {
            let mut images = store(&operator)?.list(scope(tenant.as_deref())?.as_ref())?;
            images.retain(|i| filter.as_deref().is_none_or(|f| i.name.to_string().contains(f)));
            let all: Vec<_> = images.iter().map(json).collect();
            show(output.output, &all, || table(&images))
        }
        Command::List { filter, registry: Some(host), login, output, .. } => {
            remote::list(&operator, &login, &host, filter.as_deref(), output)
        }
        Command::Sample { file } => sample(&file),
        Command::Push { file, to, name, login } => push::run(&operator, &login, &file, &to, name.as_deref()),
    }
}

fn store(operator: &Operator) -> anyhow::Result<ImageStore> {
    Ok(ImageStore::open(operator.data().join(STORE), UnpackLimits::default())?)
}

fn scope(tenant: Option<&str>) -> anyhow::Result<Option<Scope>> {
    Ok(tenant.map(Scope::of).transpose()?)
}

fn load(
    operator: &Operator,
    files: &[PathBuf],
    name: Option<&Reference>,
    tenant: Option<&str>,
) -> anyhow::Result<()> {
    let store = store(operator)?;
    let scope = scope(tenant)?.unwrap_or_else(Scope::shared);
    let mut broken = Vec::new();
    for file in files {
        let progress = Progress::new(format!("loading {}", file.display()));
        progress.tick();
        let loaded =
            store.load(file, &scope, name).with_context(|| format!("cannot load {}", file.display()));
        match loaded {
            Ok(images) => {
                progress.end(&format!("{} loaded", images.len()));
                for image in images {
                    crate::output::print(&format!("{} {}\n", image.name, image.id))?;
                }
            }
            Err(error) => {
                progress.end("failed");
                broken.push(error);
            }
        }
    }
    match broken.pop() {
        None => Ok(()),
        Some(error) if files.len() == 1 => Err(error),
        Some(last) => {
            broken.push(last);
            let why: Vec<String> = broken.iter().map(|e| format!("{e:#}")).collect();
            let code = if broken.len() == files.len() { Code::Failed } else { Code::Partial };
            Err(failure(code, format!("{} of {} files: {}", broken.len(), files.len(), why.join("; "))))
        }
    }
}

/// The sample's image as an archive of an OCI layout.
fn sample(file: &Path) -> anyhow::Result<()> {
    let layout = tempfile::tempdir().context("making a folder for the image")?;
    crate::demo::assemble(layout.path())?;
    let out = std::fs::File::create(file).with_context(|| format!("making {}", file.display()))?;
    let mut archive = tar::Builder::new(std::io::BufWriter::new(out));
    archive.append_dir_all(".", layout.path()).with_context(|| format!("writing {}", file.display()))?;
    let done = archive.into_inner().and_then(|out| out.into_inner().map_err(|e| e.into_error()));
    done.with_context(|| format!("writing {}", file.display()))?;
    crate::output::print(&format!("{}\n", file.display()))
}

fn tenant(image: &Image) -> Option<&str> {
    (image.scope != Scope::shared()).then(|| image.scope.name())
}

fn json(image: &Image) -> serde_json::Value {
    serde_json::json!({
        "name": image.name.to_string(),
        "id": image.id.to_string(),
        "digest": image.digest.to_string(),
        "tenant": tenant(image),
        "sizeBytes": image.size_bytes,
        "layers": image.layers.len(),
        "storedAt": time(image.stored_at_ns),
    })
}

fn time(ns: u64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(ns)).map(|t| t.to_string()).unwrap_or_default()
}

fn table(images: &[Image]) -> Table {
    let mut table = Table::new(&["NAME", "ID", "SIZE", "TENANT"]);
    for image in images {
        table.row([
            image.name.to_string(),
            image.id.hex().chars().take(12).collect(),
            bytes(image.size_bytes),
            tenant(image).unwrap_or("(all)").to_owned(),
        ]);
    }
    table
}
