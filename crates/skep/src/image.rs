//! `skep image`: images of this machine's store.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use skep_runtime::images::{Image, ImageStore, Reference, Scope, UnpackLimits};

/// Where the store is below the data directory. The host daemon looks there too.
const STORE: &str = "images";

/// Options of `skep image`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Loads OCI layouts (directories or archives) and archives of `docker save`, plain or compressed.
    Load {
        /// The files or directories.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// The name, for a file with one image that has none.
        #[arg(long)]
        name: Option<Reference>,
        #[command(flatten)]
        place: Place,
    },
    /// Lists what is there.
    List {
        /// How.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Debug, Args)]
struct Place {
    /// The data directory of this machine.
    #[arg(long, env = "SKEP_DATA")]
    data: Option<PathBuf>,
    /// Only this tenant may use the images; without it, every tenant may.
    #[arg(long)]
    tenant: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Output {
    Table,
    Json,
}

impl Place {
    fn store(&self) -> anyhow::Result<ImageStore> {
        let data = match &self.data {
            Some(data) => data.clone(),
            None => {
                let home = std::env::var_os("HOME").context("no home directory is known: say --data DIR")?;
                PathBuf::from(home).join(".local/share/skep")
            }
        };
        Ok(ImageStore::open(data.join(STORE), UnpackLimits::default())?)
    }

    fn scope(&self) -> anyhow::Result<Option<Scope>> {
        Ok(self.tenant.as_deref().map(Scope::of).transpose()?)
    }
}

/// Runs `skep image`.
pub(crate) fn run(options: Options) -> anyhow::Result<()> {
    match options.command {
        Command::Load { files, name, place } => {
            let store = place.store()?;
            let scope = place.scope()?.unwrap_or_else(Scope::shared);
            for file in files {
                let images = store
                    .load(&file, &scope, name.as_ref())
                    .with_context(|| format!("cannot load {}", file.display()))?;
                for image in images {
                    println!("{} {}", image.name, image.id);
                }
            }
            Ok(())
        }
        Command::List { output, place } => {
            let images = place.store()?.list(place.scope()?.as_ref())?;
            match output {
                Output::Table => table(&images),
                Output::Json => {
                    let all: Vec<_> = images.iter().map(json).collect();
                    println!("{}", serde_json::to_string_pretty(&all)?);
                }
            }
            Ok(())
        }
    }
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

/// As wide as the longest name, so that columns stand under each other.
fn table(images: &[Image]) {
    let width = images.iter().map(|i| i.name.to_string().len()).max().unwrap_or(0).max("NAME".len());
    println!("{:width$}  {:12}  {:>9}  TENANT", "NAME", "ID", "SIZE");
    for image in images {
        let size = format!("{:.1} MiB", image.size_bytes as f64 / f64::from(1 << 20));
        let id = &image.id.hex()[..12];
        println!(
            "{:width$}  {id:12}  {size:>9}  {}",
            image.name.to_string(),
            tenant(image).unwrap_or("(all)")
        );
    }
}
