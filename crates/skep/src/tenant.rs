//! `skep tenant`: tenants from the command line.

use std::path::Path;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use skep_client::Client;

use crate::contexts::{self, Added};
use crate::exit::{Code, code, failure};
use crate::operator::Operator;
use crate::output::{Format, Output, Table, show};

/// Makes, lists and deletes tenants.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    operator: Operator,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes a tenant: a complete, empty Kubernetes cluster of its own.
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
        /// Add no context for the tenant's administrator to the kubeconfig that this command uses.
        #[arg(long)]
        no_context: bool,
    },
    /// Deletes tenants and everything in them.
    Delete {
        /// The tenants' names.
        #[arg(required = true)]
        names: Vec<String>,
        /// Do not wait until everything is gone.
        #[arg(long)]
        no_wait: bool,
    },
    /// Lists tenants.
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Shows one tenant: its state, its share, its limits and what of them it uses.
    Show {
        /// The tenant's name.
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// Prints a kubeconfig with a new credential for a tenant.
    Kubeconfig {
        /// The tenant's name.
        name: String,
        /// The user that the credential is for.
        #[arg(long, default_value = ADMINISTRATOR)]
        user: String,
        /// The user's groups; without any, the tenant's administrators.
        #[arg(long = "group")]
        groups: Vec<String>,
        /// How long the credential is good for, in days.
        #[arg(long, default_value_t = CREDENTIAL_DAYS)]
        days: u32,
    },
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, amount)) if !name.is_empty() && !amount.is_empty() => {
            Ok((name.to_owned(), amount.to_owned()))
        }
        _ => Err("write NAME=AMOUNT, such as pods=100".to_owned()),
    }
}

/// Who a tenant's credentials are for, and for how many days, if nothing else is said.
const ADMINISTRATOR: &str = "admin";
const CREDENTIAL_DAYS: u32 = 365;

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
        let client = options.operator.client()?;
        match options.command {
            Command::Create { name, display_name, weight, quota, no_context } => {
                create(&client, &name, display_name, weight, quota).await?;
                if !no_context {
                    add_context(&client, &options.operator.kubeconfig(), &name).await;
                }
                Ok(())
            }
            Command::Delete { names, no_wait } => {
                delete_all(&client, &options.operator.kubeconfig(), &names, no_wait).await
            }
            Command::List { output } => list(&client, output.output).await,
            Command::Show { name, output } => show_one(&client, &name, output.output).await,
            Command::Kubeconfig { name, user, groups, days } => {
                crate::output::print(&kubeconfig(&client, &name, &user, &groups, days).await?)
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
    crate::output::print(&format!("tenant {name} created\n"))
}

/// The tenant is there whatever becomes of its context.
async fn add_context(client: &Client, path: &Path, name: &str) {
    let added = match kubeconfig(client, name, ADMINISTRATOR, &[], CREDENTIAL_DAYS).await {
        Ok(own) => contexts::add(path, name, &own),
        Err(error) => Err(error),
    };
    let file = path.display();
    let remedy = format!("`skep tenant kubeconfig {name}` gives the tenant's own");
    match added {
        Ok(Added::Yes) => eprintln!(
            "context {name} added to {file}: kubectl --kubeconfig {file} --context {name} get namespaces"
        ),
        Ok(Added::Taken) => {
            eprintln!("{file} has a context {name} that leads elsewhere, and keeps it; {remedy}")
        }
        Ok(Added::Full) => eprintln!("no context was added to {file}, which has many; {remedy}"),
        Err(error) => eprintln!("no context was added to {file}: {error:#}; {remedy}"),
    }
}

/// All that can be: one that is missing does not keep the others.
async fn delete_all(client: &Client, path: &Path, names: &[String], no_wait: bool) -> anyhow::Result<()> {
    let mut broken = Vec::new();
    for name in names {
        match delete(client, name, no_wait).await {
            Ok(()) => {
                if let Err(error) = contexts::remove(path, name) {
                    eprintln!("{} keeps the context {name}: {error:#}", path.display());
                }
            }
            Err(error) if names.len() == 1 => return Err(error),
            Err(error) => broken.push(error),
        }
    }
    let Some(first) = broken.first() else { return Ok(()) };
    let code = if broken.len() == names.len() { code(first) } else { Code::Partial };
    let why: Vec<String> = broken.iter().map(|e| format!("{e:#}")).collect();
    Err(failure(code, format!("{} of {} tenants: {}", broken.len(), names.len(), why.join("; "))))
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
                return Err(failure(
                    Code::Partial,
                    format!(
                        "tenant {name} is still being deleted after {} s; its removal goes on",
                        DELETE_TIMEOUT.as_secs()
                    ),
                ));
            }
            Ok(_) => tokio::time::sleep(POLL).await,
        }
    }
    crate::output::print(&format!("tenant {name} {}\n", if no_wait { "is being deleted" } else { "deleted" }))
}

fn text<'a>(tenant: &'a Value, pointer: &str) -> &'a str {
    tenant.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

async fn list(client: &Client, format: Format) -> anyhow::Result<()> {
    let tenants: Value = client.get(TENANTS).await?;
    show(format, &tenants, || {
        let mut table = Table::new(&["NAME", "PHASE", "WEIGHT", "CREATED"]);
        for tenant in tenants["items"].as_array().into_iter().flatten() {
            table.row([
                text(tenant, "/metadata/name").to_owned(),
                text(tenant, "/status/phase").to_owned(),
                tenant["spec"]["weight"].as_u64().unwrap_or(100).to_string(),
                text(tenant, "/metadata/creationTimestamp").to_owned(),
            ]);
        }
        table
    })
}

async fn show_one(client: &Client, name: &str, format: Format) -> anyhow::Result<()> {
    let tenant: Value = client.get(&format!("{TENANTS}/{name}")).await?;
    if format == Format::Name {
        return crate::output::print(&format!("{name}\n"));
    }
    let usage = match client
        .get::<Value>(&format!("/tenants/{name}/apis/tenancy.skep.io/v1/tenantusages/tenant"))
        .await
    {
        Ok(usage) => usage,
        // One without limits has none.
        Err(e) if e.is_not_found() => Value::Null,
        Err(e) => return Err(e.into()),
    };
    show(format, &tenant, || {
        let mut table = Table::new(&["WHAT", "VALUE"]);
        let mut row = |what: &str, value: String| table.row([what.to_owned(), value]);
        row("name", name.to_owned());
        row("display name", text(&tenant, "/spec/displayName").to_owned());
        row("phase", text(&tenant, "/status/phase").to_owned());
        row("weight", tenant["spec"]["weight"].as_u64().unwrap_or(100).to_string());
        row("created", text(&tenant, "/metadata/creationTimestamp").to_owned());
        for (key, limit) in tenant["spec"]["quota"].as_object().into_iter().flatten() {
            let used = usage["status"]["used"][key].as_str().unwrap_or("0");
            row(key, format!("{used} of {}", limit.as_str().unwrap_or_default()));
        }
        table
    })
}

async fn kubeconfig(
    client: &Client,
    name: &str,
    user: &str,
    groups: &[String],
    days: u32,
) -> anyhow::Result<String> {
    let spec = json!({"user": user, "groups": groups, "expirationSeconds": u64::from(days) * 86_400});
    let request = json!({"apiVersion": "tenancy.skep.io/v1", "kind": "TenantKubeconfig", "spec": spec});
    let answer: Value = client.post(&format!("{TENANTS}/{name}/kubeconfig"), &request).await?;
    let text = answer["status"]["kubeconfig"].as_str().context("the answer holds no kubeconfig")?;
    Ok(text.to_owned())
}
