//! `skep registry`, and the registry beside the API server of `skep up`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use skep_apiserver::app::App;
use skep_apiserver::in_process::system_client;
use skep_auth::pki::Pki;
use skep_client::Client;
use skep_registry::gate::{ApiGate, Gate, UserGate};
use skep_registry::mirror::Source;
use skep_registry::storage::Storage;
use skep_registry::{Config, Registry, Tls};
use tokio::net::TcpListener;

use crate::apiserver::{Running, default_data};
use crate::signals::{Shutdown, ended};

/// Where its directory is below the data directory.
const DIRECTORY: &str = "registry";
/// The file in it that says where the registry of `skep up` listens.
const ADDRESS: &str = "address";

/// Where the registry of a data directory's cloud was last seen, as images call it.
pub(crate) fn address(data: &Path) -> Option<String> {
    let text = std::fs::read_to_string(data.join(DIRECTORY).join(ADDRESS)).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// What `skep registry` and `skep up` have in common.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Common {
    /// A registry that is mirrored, NAME=URL, such as docker.io=https://registry-1.docker.io; may be repeated.
    #[arg(long = "registry-mirror", value_name = "NAME=URL", value_parser = Source::parse)]
    mirrors: Vec<Source>,
    /// Authorities in PEM that mirrored registries' certificates may come from, besides the system's.
    #[arg(long, value_name = "FILE")]
    registry_mirror_ca: Option<PathBuf>,
    /// How often images' content that nothing refers to is removed, in minutes.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    registry_collect_minutes: u64,
    /// How long content without an image is kept, in hours: longer than any push takes.
    #[arg(long, default_value_t = 24)]
    registry_grace_hours: u64,
}

impl Common {
    fn config(&self, tls: Option<Tls>) -> anyhow::Result<Config> {
        let mut mirrors = self.mirrors.clone();
        if let Some(path) = &self.registry_mirror_ca {
            let pem = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
            mirrors.iter_mut().for_each(|m| m.authorities_pem.clone_from(&pem));
        }
        let mut config = Config {
            tls,
            mirrors,
            collect_every: Duration::from_secs(self.registry_collect_minutes * 60),
            ..Config::default()
        };
        config.policy.grace = Duration::from_secs(self.registry_grace_hours * 3600);
        Ok(config)
    }
}

/// Runs the image registry by itself.
///
/// Its users are those of the cluster that the kubeconfig leads to, or those of a file.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Where images lie, in the folder `registry`; made if needed.
    #[arg(long, env = "SKEP_DATA", default_value_os_t = default_data())]
    data: PathBuf,
    /// The address to listen on.
    #[arg(long, env = "SKEP_REGISTRY_LISTEN", default_value = "127.0.0.1:5000")]
    listen: SocketAddr,
    /// The cluster whose tenants it serves, as a master of the system tenant.
    #[arg(long, conflicts_with = "users")]
    kubeconfig: Option<PathBuf>,
    /// A file with users instead: NAME,SHA256-OF-THE-PASSWORD,TENANT,pull or push, a line each.
    #[arg(long)]
    users: Option<PathBuf>,
    /// The cluster's certificate directory (`pki` in its data directory): the registry's certificate comes from there, and it believes the cluster's
    /// client certificates.
    #[arg(long, conflicts_with_all = ["tls_cert", "tls_key", "client_ca"])]
    pki: Option<PathBuf>,
    /// The certificate, in PEM.
    #[arg(long, requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its key, in PEM.
    #[arg(long, requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Whose client certificates are believed, in PEM.
    #[arg(long, requires = "tls_cert")]
    client_ca: Option<PathBuf>,
    /// Other names and addresses by which clients reach it; they go into a certificate from --pki.
    #[arg(long = "name")]
    names: Vec<String>,
    #[command(flatten)]
    common: Common,
}

/// The certificate of the cluster's API server: read at each handshake, so that a renewed one is shown at once.
struct Cluster(Arc<Pki>);

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cluster")
    }
}

impl ResolvesServerCert for Cluster {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let pair = self.0.serving();
        let key = rustls::crypto::ring::sign::any_supported_type(&pair.key()).ok()?;
        Some(Arc::new(CertifiedKey::new(vec![pair.certificate().clone()], key)))
    }
}

/// A certificate that was read once.
#[derive(Debug)]
struct Fixed(Arc<CertifiedKey>);

impl ResolvesServerCert for Fixed {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

fn cluster_tls(pki: Arc<Pki>) -> Tls {
    let client_ca = pki.client_ca().certificate().clone();
    Tls { certificate: Arc::new(Cluster(pki)), client_ca: Some(client_ca) }
}

fn files_tls(certificate: &Path, key: &Path, client_ca: Option<&Path>) -> anyhow::Result<Tls> {
    let at = |path: &Path| format!("reading {}", path.display());
    let chain: Vec<_> = CertificateDer::pem_file_iter(certificate)
        .with_context(|| at(certificate))?
        .collect::<Result<_, _>>()
        .with_context(|| at(certificate))?;
    let key_der = PrivateKeyDer::from_pem_file(key).with_context(|| at(key))?;
    let signing = rustls::crypto::ring::sign::any_supported_type(&key_der).with_context(|| at(key))?;
    let client_ca =
        client_ca.map(|path| CertificateDer::from_pem_file(path).with_context(|| at(path))).transpose()?;
    Ok(Tls { certificate: Arc::new(Fixed(Arc::new(CertifiedKey::new(chain, signing)))), client_ca })
}

impl Options {
    fn tls(&self) -> anyhow::Result<Option<Tls>> {
        if let Some(dir) = &self.pki {
            let mut names = self.names.clone();
            names.push(self.listen.ip().to_string());
            let pki = Pki::open(dir, &names, jiff::Timestamp::now()).context("opening the certificates")?;
            return Ok(Some(cluster_tls(Arc::new(pki))));
        }
        match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => {
                Ok(Some(files_tls(certificate, key, self.client_ca.as_deref())?))
            }
            _ if self.listen.ip().is_loopback() => Ok(None),
            _ => bail!(
                "passwords would go over the network in plain text: give --pki or --tls-cert and --tls-key, or listen on 127.0.0.1"
            ),
        }
    }

    fn gate(&self) -> anyhow::Result<Arc<dyn Gate>> {
        match (&self.kubeconfig, &self.users) {
            (Some(path), _) => Ok(Arc::new(ApiGate::new(Client::from_kubeconfig(path)?))),
            (None, Some(path)) => {
                let text =
                    std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
                Ok(Arc::new(UserGate::parse(&text).with_context(|| path.display().to_string())?))
            }
            (None, None) => bail!("say whose users it serves: --kubeconfig FILE or --users FILE"),
        }
    }
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps it from starting.
pub(crate) fn run(options: Options) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    runtime.block_on(async move {
        let storage = Storage::open(&options.data.join(DIRECTORY))?;
        let config = options.common.config(options.tls()?)?;
        let registry = Registry::new(config, storage, options.gate()?)?;
        let listener = listen(options.listen).await?;
        tracing::info!(address = %listener.local_addr()?, "registry ready");
        registry.serve(listener, ended(crate::signals::shutdown())).await;
        Ok(())
    })
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("listening on {address} for images; choose another address with --registry-listen (or --listen of `skep registry`)"))
}

/// How machines of this computer call and reach a registry that listens at an address: `(name, address)`. One that listens everywhere is called by
/// the first name that the server was given.
fn as_seen(bound: SocketAddr, names: &[String]) -> (String, String) {
    if !bound.ip().is_unspecified() {
        return (bound.to_string(), bound.to_string());
    }
    let loopback = SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.into(), bound.port()).to_string();
    let name = names.first().map_or_else(|| loopback.clone(), |name| format!("{name}:{}", bound.port()));
    (name, loopback)
}

/// The registry beside an API server, with its certificate and its tenants; and how machines here call and reach it.
///
/// # Errors
/// What keeps it from starting.
pub(crate) fn beside(
    app: &Arc<App>,
    down: &Shutdown,
    data: &Path,
    address: SocketAddr,
    names: &[String],
    common: &Common,
) -> anyhow::Result<(Running, (String, String))> {
    let storage = Storage::open(&data.join(DIRECTORY))?;
    let gate = ApiGate::new(system_client(app, "system:registry"));
    let config = common.config(Some(cluster_tls(app.pki.clone())))?;
    let registry = Registry::new(config, storage, Arc::new(gate))?;
    let down = down.clone();
    // Bound before anything is announced: a port that is taken is known at once.
    let listener = std::net::TcpListener::bind(address).with_context(|| {
        format!("listening on {address} for images; choose another address with --registry-listen")
    })?;
    let bound = listener.local_addr().context("reading the registry's address")?;
    let seen = as_seen(bound, names);
    std::fs::write(data.join(DIRECTORY).join(ADDRESS), &seen.0)
        .context("writing down the registry's address")?;
    listener.set_nonblocking(true).context("preparing the registry's socket")?;
    let listener = TcpListener::from_std(listener).context("preparing the registry's socket")?;
    let running: Running = Box::pin(async move {
        registry.serve(listener, ended(down)).await;
    });
    Ok((running, seen))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_call_the_registry_by_where_it_listens() {
        let seen = |bound: &str, names: &[&str]| {
            let names: Vec<String> = names.iter().map(|&n| n.to_owned()).collect();
            as_seen(bound.parse().unwrap(), &names)
        };
        let pair = |name: &str, address: &str| (name.to_owned(), address.to_owned());
        assert_eq!(seen("10.0.0.1:5000", &["x"]), pair("10.0.0.1:5000", "10.0.0.1:5000"));
        assert_eq!(seen("0.0.0.0:5000", &["reg.example"]), pair("reg.example:5000", "127.0.0.1:5000"));
        assert_eq!(seen("[::]:5000", &[]), pair("127.0.0.1:5000", "127.0.0.1:5000"));
    }
}
