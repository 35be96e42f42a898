//! `skep apiserver`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use jiff::Timestamp;
use skep_apiserver::app::{App, Config};
use skep_apiserver::server::{ServeError, Server};
use skep_apiserver::tenants::ServiceAddresses;
use skep_auth::authn::StaticTokens;
use skep_auth::pki::Pki;
use skep_store::engine::log::Log;
use skep_store::{Store, StoreOptions};
use tokio::net::TcpListener;

use crate::signals::{Shutdown, ended};

/// Where the API server keeps its things and how it is reached.
#[derive(Debug, clap::Args)]
#[group(id = "server")]
pub(crate) struct Options {
    /// Everything that it keeps: objects, keys, machines, images, logs. Made if needed; survives restarts and upgrades.
    #[arg(long, env = "SKEP_DATA", default_value_os_t = default_data())]
    pub data: PathBuf,
    /// The address to listen on.
    #[arg(long, env = "SKEP_LISTEN", default_value = "127.0.0.1:6443")]
    pub listen: SocketAddr,
    /// Other names and addresses by which clients reach the server; they go into its certificate.
    #[arg(long = "name")]
    pub names: Vec<String>,
    /// Bearer tokens, a line each: token,user,uid,"group1,group2",tenant. Read once, at the start.
    #[arg(long)]
    pub token_auth_file: Option<PathBuf>,
    #[command(flatten)]
    pub audit: crate::audit::AuditOptions,
}

/// Where data lies if nobody says: a system's place for root, the user's own for others.
pub(crate) fn default_data() -> PathBuf {
    if nix::unistd::geteuid().is_root() {
        return PathBuf::from("/var/lib/skep");
    }
    match std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| home().map(|h| h.join(".local/share")))
    {
        Some(dir) => dir.join("skep"),
        None => PathBuf::from("skep-data"),
    }
}

fn home() -> Option<PathBuf> {
    std::env::var_os("HOME").map(PathBuf::from).filter(|h| h.is_absolute())
}

/// The first address of the range that tenants' services take theirs from.
const KUBERNETES_SERVICE_IP: &str = "10.96.0.1";

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps the server from starting.
pub(crate) fn run(options: Options) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    runtime.spawn(crate::lean::keep_busy());
    runtime.block_on(serve(options, |_, _| Vec::new()))
}

/// The tokens of the file, if there is one.
fn static_tokens(options: &Options) -> anyhow::Result<Option<StaticTokens>> {
    let Some(path) = &options.token_auth_file else { return Ok(None) };
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let tokens = StaticTokens::parse(&text).with_context(|| format!("reading {}", path.display()))?;
    Ok(Some(tokens))
}

/// A role at work.
pub(crate) type Running = futures::future::BoxFuture<'static, ()>;

/// Serves until SIGTERM or SIGINT, with other roles in the same process: they start when the server does, and end before
/// it.
///
/// # Errors
/// What keeps the server from starting.
pub(crate) async fn serve(
    options: Options,
    beside: impl FnOnce(&Arc<App>, &Shutdown) -> Vec<Running>,
) -> anyhow::Result<()> {
    let begun = std::time::Instant::now();
    // What the operator may have got wrong is found out before anything is opened.
    let tokens = static_tokens(&options)?;
    let audit = options.audit.start()?.map(Arc::new);
    let directory = options.data.join("store");
    let log = Log::open(&directory).context("opening the store")?;
    let store = Store::open(Box::new(log), StoreOptions::default()).context("loading the store")?;
    let mut names = options.names.clone();
    names.push(options.listen.ip().to_string());
    // Pods that find the server by their environment use the address.
    names.push(KUBERNETES_SERVICE_IP.to_owned());
    let pki =
        Pki::open(&options.data.join("pki"), &names, Timestamp::now()).context("opening the certificates")?;
    let listener = TcpListener::bind(options.listen)
        .await
        .map_err(|source| ServeError::Listen { address: options.listen, source })?;
    let address = listener.local_addr().context("reading the address listened on")?;
    let base_url = format!("https://{address}");
    let config = Config {
        base_url: base_url.clone(),
        addresses: ServiceAddresses {
            cluster_ip: KUBERNETES_SERVICE_IP.to_owned(),
            endpoint_ip: address.ip().to_string(),
            endpoint_port: address.port(),
        },
    };
    let kubeconfig =
        pki.admin_kubeconfig(&base_url).to_yaml().context("making the administrator's kubeconfig")?;
    let app = App::start(store.clone(), Arc::new(pki), config).await.context("starting the API server")?;
    if let Some(tokens) = tokens {
        app.authenticator.set_static_tokens(tokens);
    }
    if let Some(audit) = &audit {
        // Nobody else sets it: it is not there yet.
        let _ = app.audit.set(audit.clone());
    }
    let server = Server::bind(app.clone(), listener)?;
    let path = options.data.join("admin.kubeconfig");
    let before = std::fs::read_to_string(&path).unwrap_or_default();
    let kubeconfig = crate::contexts::renewed(&before, &kubeconfig).context("keeping tenants' contexts")?;
    skep_auth::pki::write_private(&path, &kubeconfig)
        .with_context(|| format!("writing {}", path.display()))?;
    let stats = store.stats();
    tracing::info!(
        %address, kubeconfig = %path.display(), objects = stats.objects, revision = stats.revision.0,
        took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX), "API server ready"
    );
    let down = crate::signals::shutdown();
    let roles: Vec<_> = beside(&app, &down).into_iter().map(tokio::spawn).collect();
    let shutdown = app.shutdown.clone();
    tokio::spawn(async move {
        ended(down).await;
        for role in roles {
            if let Err(error) = role.await {
                tracing::error!(%error, "a role ended badly");
            }
        }
        tracing::info!("ending: no new requests, those under way may finish");
        shutdown.send_replace(true);
    });
    server.run().await;
    tokio::task::spawn_blocking(move || {
        if let Some(audit) = audit {
            audit.flush(crate::audit::FLUSH_TIMEOUT);
        }
        store.close()
    })
    .await
    .context("closing the store")?;
    Ok(())
}
