//! `skep tenant`: tenants from the command line.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use skep_client::{Access, Client};

/// Makes, lists and deletes tenants.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The operator's kubeconfig.
    #[arg(long, global = true, env = "KUBECONFIG", default_value = "/var/lib/skep/admin.kubeconfig")]
    kubeconfig: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes a tenant: a complete, empty Kubernetes cluster of its own.
    ///
    /// Example: skep tenant create shop --quota pods=100 --quota requests.cpu=20
    Create {
        /// The tenant's name: lower-case letters, digits and '-'.
        name: String,
        /// How people call it.
        #[arg(long)]
        display_name: Option<String>,
        /// Its share where tenants compete; 100 is usual.
        #[arg(long)]
        weight: Option<u32>,
        /// A limit over all its namespaces, NAME=AMOUNT; may be repeated.
        #[arg(long = "quota", value_parser = pair)]
        quota: Vec<(String, String)>,
    },
    /// Deletes a tenant and everything in it.
    Delete {
        /// The tenant's name.
        name: String,
        /// Do not wait until everything is gone.
        #[arg(long)]
        no_wait: bool,
    },
    /// Lists tenants.
    List {
        /// How the list is shown.
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Prints a kubeconfig with a new credential for a tenant.
    ///
    /// Example: skep tenant kubeconfig shop > shop.kubeconfig
    Kubeconfig {
        /// The tenant's name.
        name: String,
        /// The user that the credential is for.
        #[arg(long, default_value = "admin")]
        user: String,
        /// The user's groups; without any, the tenant's administrators.
        #[arg(long = "group")]
        groups: Vec<String>,
        /// How long the credential is good for, in days.
        #[arg(long, default_value_t = 365)]
        days: u32,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Table,
    Json,
    Name,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, amount)) if !name.is_empty() && !amount.is_empty() => {
            Ok((name.to_owned(), amount.to_owned()))
        }
        _ => Err("write NAME=AMOUNT, such as pods=100".to_owned()),
    }
}

const TENANTS: &str = "/apis/tenancy.skep.io/v1/tenants";

/// How often a deletion is looked at, and how long it may take.
const POLL: std::time::Duration = std::time::Duration::from_millis(50);
const DELETE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(600);

/// Does what was asked.
///
/// # Errors
/// What the server refuses, or why it cannot be reached.
pub(crate) fn run(options: Options) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    runtime.block_on(async move {
        let client = Client::new(Access::load(&options.kubeconfig)?)?;
        match options.command {
            Command::Create { name, display_name, weight, quota } => {
                create(&client, &name, display_name, weight, quota).await
            }
            Command::Delete { name, no_wait } => delete(&client, &name, no_wait).await,
            Command::List { output } => list(&client, output).await,
            Command::Kubeconfig { name, user, groups, days } => {
                kubeconfig(&client, &name, &user, &groups, days).await
            }
        }
    })
}

async fn create(
    client: &Client,
    name: &str,
    display_name: Option<String>,
    weight: Option<u32>,
    quota: Vec<(String, String)>,
) -> anyhow::Result<()> {
    let mut spec = json!({});
    if let Some(display_name) = display_name {
        spec["displayName"] = display_name.into();
    }
    if let Some(weight) = weight {
        spec["weight"] = weight.into();
    }
    if !quota.is_empty() {
        spec["quota"] =
            quota.into_iter().map(|(k, v)| (k, Value::from(v))).collect::<serde_json::Map<_, _>>().into();
    }
    let tenant = json!({"apiVersion": "tenancy.skep.io/v1", "kind": "Tenant", "metadata": {"name": name}, "spec": spec});
    let _: Value = client.post(TENANTS, &tenant).await?;
    println!("tenant {name} created");
    Ok(())
}

async fn delete(client: &Client, name: &str, no_wait: bool) -> anyhow::Result<()> {
    let path = format!("{TENANTS}/{name}");
    client.delete(&path).await?;
    let begun = std::time::Instant::now();
    loop {
        if no_wait {
            break;
        }
        match client.get::<Value>(&path).await {
            Err(e) if e.is_not_found() => break,
            Err(e) => return Err(e.into()),
            Ok(_) if begun.elapsed() > DELETE_TIMEOUT => {
                bail!(
                    "tenant {name} is still being deleted after {} s; its removal goes on",
                    DELETE_TIMEOUT.as_secs()
                )
            }
            Ok(_) => tokio::time::sleep(POLL).await,
        }
    }
    println!("tenant {name} {}", if no_wait { "is being deleted" } else { "deleted" });
    Ok(())
}

async fn list(client: &Client, output: Output) -> anyhow::Result<()> {
    let tenants: Value = client.get(TENANTS).await?;
    let items = tenants["items"].as_array().cloned().unwrap_or_default();
    match output {
        Output::Json => println!("{tenants:#}"),
        Output::Name => {
            items.iter().for_each(|t| println!("{}", t["metadata"]["name"].as_str().unwrap_or("")))
        }
        Output::Table => {
            println!("{:<32} {:<12} {:>6}  CREATED", "NAME", "PHASE", "WEIGHT");
            for t in &items {
                println!(
                    "{:<32} {:<12} {:>6}  {}",
                    t["metadata"]["name"].as_str().unwrap_or(""),
                    t["status"]["phase"].as_str().unwrap_or(""),
                    t["spec"]["weight"].as_u64().unwrap_or(100),
                    t["metadata"]["creationTimestamp"].as_str().unwrap_or("")
                );
            }
        }
    }
    Ok(())
}

async fn kubeconfig(
    client: &Client,
    name: &str,
    user: &str,
    groups: &[String],
    days: u32,
) -> anyhow::Result<()> {
    let spec = json!({"user": user, "groups": groups, "expirationSeconds": u64::from(days) * 86_400});
    let request = json!({"apiVersion": "tenancy.skep.io/v1", "kind": "TenantKubeconfig", "spec": spec});
    let answer: Value = client.post(&format!("{TENANTS}/{name}/kubeconfig"), &request).await?;
    let text = answer["status"]["kubeconfig"].as_str().context("the answer holds no kubeconfig")?;
    print!("{text}");
    Ok(())
}
