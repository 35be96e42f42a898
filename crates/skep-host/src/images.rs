//! Images for machines. The host keeps one store for all tenants, which no machine sees; each machine has a [`View`] with what its tenant may use, made
//! of hard links, and asks for more over a socket in its control directory.
//!
//! What was loaded for the tenant, or for all, it gets for the asking. Anything else is pulled here on its behalf, with the pod's credentials: a layer
//! that another tenant has brought already is not downloaded again if the registry confirms that these credentials may read it (see
//! [`skep_runtime::images`]). A pull is a process of its own, under the machine's limits and with hardly any capability: what it reads comes
//! from strangers.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::sync::Mutex as Lock;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use skep_base::TenantName;
use skep_machine::{Driver, MachineId};
use skep_runtime::images::exchange::{Answer, MAX_ANSWER_BYTES, MAX_REQUEST_BYTES, Request, User};
use skep_runtime::images::{
    ImageStore, OwnRegistry, PullRequest, Reference, RegistriesFile, Scope, Tally, UnpackLimits, View,
};
use skep_runtime::{Capability, ErrorKind};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, Semaphore};
use tokio::task::{JoinHandle, JoinSet};

use crate::control::{KUBECONFIG, Registry};
use crate::machine::Shared;

/// The word behind the launcher with which this program pulls one image.
pub const PULL: &str = "pull";

/// Requests of one machine that are looked at. An agent asks once per container that it makes.
const REQUESTS_MAX: usize = 64;
/// Pulls of one machine at the same time: they share its CPU and its line.
const PULLS_MAX: usize = 4;
/// How long a request may take to arrive: it is one line.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a pull may take. One that hangs keeps the store from being tidied up.
const PULL_TIMEOUT: Duration = Duration::from_secs(3600);
/// How often a pull says how far it is.
const TELL_EVERY: Duration = Duration::from_secs(2);
/// How long nothing is accepted after an error that will not go away at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often is looked whether the disk is full.
const ROOM_EVERY: Duration = Duration::from_secs(300);
/// In percent: above this what was pulled for tenants is forgotten, the longest unused first, until below that. Machines keep what they have.
const DISK_HIGH_PERCENT: u64 = 85;
const DISK_LOW_PERCENT: u64 = 80;

/// Images for one machine. Ends when it is dropped, pulls included.
pub(crate) struct Images {
    path: PathBuf,
    task: JoinHandle<()>,
}

/// What is known of the machine.
struct Server {
    id: MachineId,
    scope: Scope,
    store: ImageStore,
    /// Only one at a time may write to it.
    view: Mutex<View>,
    driver: Arc<dyn Driver>,
    launcher: Vec<OsString>,
    registries: PathBuf,
    /// The installation's own registry, and the file with the credential that is shown there: the machine's node's.
    own: Option<Registry>,
    kubeconfig: PathBuf,
    pool: PathBuf,
    pulls: Semaphore,
}

fn other(error: impl std::fmt::Display) -> std::io::Error {
    std::io::Error::other(error.to_string())
}

impl Images {
    /// Listens at a path for what a machine asks.
    pub(crate) fn open(
        path: &Path,
        shared: &Shared,
        id: &MachineId,
        tenant: &TenantName,
    ) -> std::io::Result<Images> {
        // Left behind by a daemon that was killed.
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let (settings, driver) = (&shared.settings, shared.driver.clone());
        let server = Server {
            scope: Scope::of(&tenant.to_string()).map_err(|e| other(e.full()))?,
            store: ImageStore::open(&settings.images, UnpackLimits::default())
                .map_err(|e| other(e.full()))?,
            view: Mutex::new(View::open(driver.images_dir(id)).map_err(|e| other(e.full()))?),
            kubeconfig: driver.control_dir(id).join(KUBECONFIG),
            own: settings.own_registry.clone(),
            driver,
            launcher: settings.launcher.clone(),
            registries: settings.registries.clone(),
            pool: settings.images.clone(),
            pulls: Semaphore::new(PULLS_MAX),
            id: id.clone(),
        };
        let listener = UnixListener::bind(path)?;
        let task = tokio::spawn(accept(listener, Arc::new(server)));
        Ok(Images { path: path.to_owned(), task })
    }

    /// Whether machines still find it.
    pub(crate) fn is_open(&self) -> bool {
        !self.task.is_finished() && self.path.exists()
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        self.task.abort();
        // The directory may be gone already.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn accept(listener: UnixListener, server: Arc<Server>) {
    let places = Arc::new(Semaphore::new(REQUESTS_MAX));
    // Requests end with the listener.
    let mut requests = JoinSet::new();
    loop {
        while requests.try_join_next().is_some() {}
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let server = server.clone();
                requests.spawn(async move {
                    if let Err(error) = server.serve(stream).await {
                        tracing::debug!(machine = %server.id, %error, "a machine's request for an image broke");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a machine's request for an image cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Server {
    async fn serve(&self, stream: UnixStream) -> std::io::Result<()> {
        let (read, mut write) = stream.into_split();
        let mut line = String::new();
        let mut read = BufReader::new(read.take(MAX_REQUEST_BYTES));
        tokio::time::timeout(REQUEST_TIMEOUT, read.read_line(&mut line)).await??;
        let request: Request = serde_json::from_str(&line)?;
        let answer = match request {
            Request::Find { image } => self.find(&image, true).await,
            Request::Pull { image, credentials } => self.pull(image, credentials, &mut write).await,
            Request::Remove { images, used_layers } => self.remove(images, used_layers).await,
        };
        say(&mut write, &answer.unwrap_or_else(Answer::from)).await
    }

    /// Lets the machine have what the store holds under a name.
    async fn find(&self, image: &str, loaded: bool) -> Result<Answer, skep_runtime::Error> {
        let (store, scope, name) = (self.store.clone(), self.scope.clone(), image.to_owned());
        let view = self.view.lock().await;
        let own = view.clone();
        let done = tokio::task::spawn_blocking(move || {
            let found = match loaded {
                true => store.find_loaded(&scope, &name)?,
                false => store.find(&scope, &name)?,
            };
            match found {
                Some(image) => own.add(&store, &image).map(|()| Answer::Here),
                None => Ok(Answer::Absent),
            }
        });
        done.await.unwrap_or_else(|e| Err(skep_runtime::Error::new(ErrorKind::Failed, e.to_string())))
    }

    async fn pull(
        &self,
        image: String,
        credentials: Vec<User>,
        write: &mut OwnedWriteHalf,
    ) -> Result<Answer, skep_runtime::Error> {
        let _place = self.pulls.acquire().await;
        tracing::info!(machine = %self.id, image, "pulling for a machine");
        let own = match (&self.own, image.parse::<Reference>()) {
            (Some(own), Ok(name)) if name.registry == own.name => Some(self.own(own)?),
            _ => None,
        };
        let job = Job {
            store: self.pool.clone(),
            registries: self.registries.clone(),
            own,
            scope: self.scope.name().to_owned(),
            image: image.clone(),
            credentials,
        };
        let failed = |e: std::io::Error| {
            skep_runtime::Error::new(ErrorKind::Failed, format!("the pull of {image} could not be run: {e}"))
        };
        let done = tokio::time::timeout(PULL_TIMEOUT, self.run(&job, write)).await;
        match done.map_err(|_| other("it took too long")).flatten().map_err(failed)? {
            Answer::Here => self.find(&image, false).await,
            answer => Ok(answer),
        }
    }

    /// The installation's own registry as this machine's node meets it. Read each time: the credential is renewed.
    fn own(&self, registry: &Registry) -> Result<Own, skep_runtime::Error> {
        let none = |why: String| {
            skep_runtime::Error::new(
                ErrorKind::Failed,
                format!("the machine has no credential for the registry {}: {why}", registry.name),
            )
        };
        let (certificate_pem, key_pem) = crate::credential::read(&self.kubeconfig).map_err(none)?;
        Ok(Own {
            name: registry.name.clone(),
            address: registry.address.clone(),
            authorities_pem: registry.authorities_pem.clone(),
            certificate_pem,
            key_pem,
        })
    }

    /// Runs a pull as a process under the machine's limits, and passes on how far it is.
    async fn run(&self, job: &Job, write: &mut OwnedWriteHalf) -> std::io::Result<Answer> {
        let Some((program, first)) = self.launcher.split_first() else {
            return Err(other("no program is set that pulls"));
        };
        let mut child = tokio::process::Command::new(program)
            .args(first)
            .arg(PULL)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(pid) = child.id() {
            self.driver.adopt(&self.id, pid).map_err(|e| other(e.story()))?;
        }
        // It does nothing before it has read this.
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(&serde_json::to_vec(job)?).await?;
        }
        let mut answer = None;
        if let Some(stdout) = child.stdout.take() {
            let mut lines = BufReader::new(stdout.take(MAX_ANSWER_BYTES)).lines();
            while let Some(line) = lines.next_line().await? {
                match serde_json::from_str(&line) {
                    // Whoever does not want to hear it any more has hung up, and gets no answer either.
                    Ok(underway @ Answer::Underway(_)) => say(write, &underway).await?,
                    said => answer = said.ok(),
                }
            }
        }
        let status = child.wait().await?;
        answer.ok_or_else(|| {
            other(format!("it ended with {status}; the machine may have too little memory for it"))
        })
    }

    async fn remove(&self, images: Vec<String>, used: Vec<String>) -> Result<Answer, skep_runtime::Error> {
        let mut names = Vec::new();
        for image in images {
            let name: Reference = image.parse()?;
            names.extend([(self.scope.clone(), name.clone()), (Scope::shared(), name)]);
        }
        let used: BTreeSet<String> = used.into_iter().collect();
        let view = self.view.lock().await;
        let own = view.clone();
        let done = tokio::task::spawn_blocking(move || own.remove(&names, &used));
        let done =
            done.await.unwrap_or_else(|e| Err(skep_runtime::Error::new(ErrorKind::Failed, e.to_string())));
        done.map(|collected| Answer::Removed { bytes: collected.bytes })
    }
}

async fn say(write: &mut OwnedWriteHalf, answer: &Answer) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    write.write_all(&line).await
}

/// What a pulling process is told.
#[derive(Serialize, Deserialize)]
struct Job {
    store: PathBuf,
    registries: PathBuf,
    /// Set when it is the installation's own that is asked: no other pull gets the node's key.
    own: Option<Own>,
    scope: String,
    image: String,
    credentials: Vec<User>,
}

/// An [`OwnRegistry`] on its way to a pulling process.
#[derive(Serialize, Deserialize)]
struct Own {
    name: String,
    address: String,
    authorities_pem: String,
    certificate_pem: String,
    key_pem: String,
}

impl From<Own> for OwnRegistry {
    fn from(own: Own) -> OwnRegistry {
        OwnRegistry {
            name: own.name,
            address: own.address,
            authorities_pem: own.authorities_pem.into_bytes(),
            certificate_pem: own.certificate_pem.into_bytes(),
            key_pem: own.key_pem.into_bytes(),
        }
    }
}

/// What a pull needs of root: giving unpacked files their owners and modes, also where those shut it out.
const PULL_CAPABILITIES: [Capability; 5] =
    [Capability::Chown, Capability::DacOverride, Capability::Fowner, Capability::Fsetid, Capability::Setfcap];

/// A pulling process: reads what it is to do, does it, says how it went. Must be called before any thread is started.
#[must_use]
pub fn pull_main() -> ExitCode {
    let answer = match pull() {
        Ok(()) => Answer::Here,
        Err(error) => error.into(),
    };
    match print(&answer) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn print(answer: &Answer) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    std::io::Write::write_all(&mut std::io::stdout().lock(), &line)
}

/// Prints how far the pull is, not more often than anybody would look.
fn report() -> Arc<dyn Fn(skep_runtime::images::PullProgress) + Send + Sync> {
    let (tally, told) = (Tally::default(), Lock::new(Instant::now()));
    Arc::new(move |progress| {
        let state = tally.hear(progress);
        let mut told = told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if told.elapsed() >= TELL_EVERY {
            *told = Instant::now();
            // Whoever has hung up ends this process too.
            let _ = print(&Answer::Underway(state));
        }
    })
}

fn pull() -> Result<(), skep_runtime::Error> {
    let failed = |e: std::io::Error| skep_runtime::Error::new(ErrorKind::Failed, e.to_string());
    let mut text = Vec::new();
    std::io::stdin().read_to_end(&mut text).map_err(failed)?;
    let job: Job = serde_json::from_slice(&text).map_err(|e| failed(e.into()))?;
    let mut registries = RegistriesFile::read(&job.registries)?.registries()?;
    registries.own = job.own.map(|own| Arc::new(own.into()));
    skep_runtime::renounce(&PULL_CAPABILITIES)?;
    let store = ImageStore::open(&job.store, UnpackLimits::default())?;
    let request = PullRequest {
        scope: Scope::of(&job.scope)?,
        reference: job.image.parse()?,
        credentials: job.credentials.into_iter().map(Into::into).collect(),
        registries: Arc::new(registries),
        progress: Some(report()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(store.pull(request)).map(|_| ())
}

/// Keeps the disk from being filled with what was pulled once.
pub(crate) async fn keep_room(pool: PathBuf) {
    loop {
        tokio::time::sleep(ROOM_EVERY).await;
        let pool = pool.clone();
        let done = tokio::task::spawn_blocking(move || {
            let store = ImageStore::open(&pool, UnpackLimits::default())?;
            make_room(&store, DISK_HIGH_PERCENT, DISK_LOW_PERCENT)
        });
        match done.await {
            Ok(Ok(0)) => {}
            Ok(Ok(bytes)) => tracing::info!(bytes, "forgot images of tenants, since the disk is full"),
            Ok(Err(error)) => tracing::warn!(error = error.full(), "images cannot be tidied up"),
            Err(error) => tracing::warn!(%error, "images cannot be tidied up"),
        }
    }
}

/// Forgets pulled images while more than `high` percent of the disk are used, until it is `low`. Gives how many bytes went.
fn make_room(store: &ImageStore, high: u64, low: u64) -> Result<u64, skep_runtime::Error> {
    let used_percent = || {
        let usage = store.usage()?;
        let used = usage.disk_capacity_bytes.saturating_sub(usage.disk_available_bytes);
        Ok::<u64, skep_runtime::Error>(used.saturating_mul(100) / usage.disk_capacity_bytes.max(1))
    };
    let mut freed = 0;
    if used_percent()? <= high {
        return Ok(0);
    }
    // What crashes and removed names have left goes first.
    freed += store.collect()?.bytes;
    for (scope, name) in store.pulled()? {
        if used_percent()? <= low {
            break;
        }
        store.remove(&scope, &name)?;
        freed += store.collect()?.bytes;
    }
    Ok(freed)
}

#[cfg(test)]
mod tests;
