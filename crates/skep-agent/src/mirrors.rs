//! Keeps static pods as their files say, and their mirrors as the pods are.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use skep_client::{Client, DeleteParams, Resource, Tenants};
use tokio::sync::{Notify, watch};

use crate::events::{Events, Level};
use crate::node::NodeObject;
use crate::report;
use crate::spec::{self, HASH_ANNOTATION, MIRROR_ANNOTATION};
use crate::static_pods::{FullName, MirrorAction, full_name, is_mirror_of, mirror_of, plan, read};

/// How often is looked whether files in the folder have changed.
const LOOK: Duration = Duration::from_secs(1);
/// How often the folder is read even when nothing seems to have changed. As upstream's `fileCheckFrequency`.
const CHECK: Duration = Duration::from_secs(20);
/// Until the node is registered, which takes milliseconds.
const UNREGISTERED: Duration = Duration::from_millis(50);
/// A mirror that could not be made or deleted is tried again after this.
const RETRY: Duration = Duration::from_secs(5);
/// A lost wake-up costs this delay and no more.
const RESYNC: Duration = Duration::from_secs(60);

/// The uid of a pod's mirror, as it comes and goes.
pub type MirrorUid = watch::Receiver<Option<String>>;

#[derive(Default)]
struct State {
    wanted: BTreeMap<FullName, Arc<Pod>>,
    mirrors: BTreeMap<FullName, Arc<Pod>>,
    ending: Vec<FullName>,
    /// By the static pod's uid, which its mirror names.
    shown: BTreeMap<String, watch::Sender<Option<String>>>,
}

/// The static pods of this node.
pub struct Statics {
    client: Client,
    object: Arc<NodeObject>,
    events: Events,
    name: Arc<str>,
    state: Mutex<State>,
    wake: Notify,
}

impl Statics {
    /// None yet.
    #[must_use]
    pub fn new(client: Client, name: Arc<str>, object: Arc<NodeObject>, events: Events) -> Statics {
        Statics { client, object, events, name, state: Mutex::default(), wake: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing is left half done under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the files ask for now.
    pub fn set_wanted(&self, wanted: BTreeMap<FullName, Arc<Pod>>) {
        self.state().wanted = wanted;
        self.wake.notify_one();
    }

    /// What the files asked for last.
    #[must_use]
    pub fn wanted(&self) -> BTreeMap<FullName, Arc<Pod>> {
        self.state().wanted.clone()
    }

    /// Which pods still run that no file asks for.
    pub fn set_ending(&self, ending: Vec<FullName>) {
        let mut state = self.state();
        if state.ending != ending {
            state.ending = ending;
            self.wake.notify_one();
        }
    }

    /// The API server has this mirror.
    pub fn saw(&self, mirror: &Arc<Pod>) {
        let mut state = self.state();
        if let Some(of) = spec::annotation(mirror, MIRROR_ANNOTATION) {
            show(&mut state, of, Some(spec::uid(mirror)));
        }
        state.mirrors.insert(full_name(mirror), mirror.clone());
        self.wake.notify_one();
    }

    /// The API server no longer has this mirror.
    pub fn gone(&self, mirror: &Pod) {
        let mut state = self.state();
        let name = full_name(mirror);
        if state.mirrors.get(&name).is_some_and(|m| spec::uid(m) == spec::uid(mirror)) {
            state.mirrors.remove(&name);
        }
        if let Some(of) = spec::annotation(mirror, MIRROR_ANNOTATION)
            && state.shown.get(of).is_some_and(|s| s.borrow().as_deref() == Some(spec::uid(mirror)))
        {
            show(&mut state, of, None);
        }
        self.wake.notify_one();
    }

    /// The uid of a pod's mirror, now and later.
    #[must_use]
    pub fn mirror_uid(&self, pod: &Pod) -> MirrorUid {
        let mut state = self.state();
        let uid = spec::uid(pod).to_owned();
        let known = state.mirrors.get(&full_name(pod)).filter(|m| is_mirror_of(m, pod));
        let known = known.map(|m| spec::uid(m).to_owned());
        state.shown.entry(uid).or_insert_with(|| watch::channel(known).0).subscribe()
    }

    /// A pod as its file has it, with the status that its mirror kept from before this agent began.
    #[must_use]
    pub fn with_status(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        let state = self.state();
        match state.mirrors.get(&full_name(pod)).filter(|m| is_mirror_of(m, pod)) {
            Some(mirror) => Arc::new(Pod { status: mirror.status.clone(), ..(**pod).clone() }),
            None => pod.clone(),
        }
    }

    /// The pod is gone from this node.
    pub fn forget(&self, uid: &str) {
        self.state().shown.remove(uid);
        self.wake.notify_one();
    }

    /// Makes and deletes mirrors. Runs until the future is dropped.
    pub async fn keep(&self) {
        loop {
            let actions = {
                let state = self.state();
                plan(&state.wanted, &state.mirrors, &state.ending)
            };
            let mut good = true;
            for action in actions {
                if let Err((pod, error)) = self.apply(action).await {
                    tracing::warn!(pod = %spec::format_pod(&pod), %error, "a static pod's mirror is not as the pod is; it is tried again");
                    good = false;
                }
            }
            tokio::select! {
                () = self.wake.notified() => if !good { tokio::time::sleep(RETRY).await },
                () = tokio::time::sleep(if good { RESYNC } else { RETRY }) => {}
            }
        }
    }

    async fn apply(&self, action: MirrorAction) -> Result<(), (Arc<Pod>, skep_client::Error)> {
        match action {
            MirrorAction::Create(pod) => {
                // Who is not registered has no pods; it is tried again when the node is.
                let Some(uid) = self.object.current().metadata.uid else {
                    tokio::time::sleep(UNREGISTERED).await;
                    self.wake.notify_one();
                    return Ok(());
                };
                let at = Resource::of::<Pod>().at(Tenants::Own).namespace(spec::namespace(&pod));
                match self.client.create::<Pod>(&at, &mirror_of(&pod, &self.name, &uid)).await {
                    Ok(made) => self.saw(&Arc::new(made)),
                    Err(error) => return Err((pod, error)),
                }
            }
            MirrorAction::Delete(mirror) => {
                let params = DeleteParams::uid(spec::uid(&mirror)).grace_s(0);
                match self.client.remove(&report::path(&mirror), &params).await {
                    Ok(_) => self.gone(&mirror),
                    Err(e) if e.is_not_found() || e.is_conflict() => self.gone(&mirror),
                    Err(error) => return Err((mirror, error)),
                }
            }
        }
        Ok(())
    }

    /// Reads a folder's manifests whenever something in it changes, and tells what they ask for. Runs until the future is dropped.
    pub async fn follow(&self, folder: PathBuf, mut tell: impl FnMut(BTreeMap<FullName, Arc<Pod>>)) {
        let mut said = Vec::new();
        let mut known: BTreeMap<FullName, Arc<Pod>> = BTreeMap::new();
        let mut first = true;
        loop {
            // Before it is read, so that no change is missed.
            let seen = fingerprint(&folder);
            let (path, node) = (folder.clone(), self.name.clone());
            let found = tokio::task::spawn_blocking(move || read(&path, &node, Timestamp::now())).await;
            match found {
                Ok(Ok(mut found)) => {
                    // Only when it was seen first differs in what is as it was.
                    for (name, pod) in &mut found.pods {
                        let same = |old: &&Arc<Pod>| {
                            spec::annotation(old, HASH_ANNOTATION) == spec::annotation(pod, HASH_ANNOTATION)
                        };
                        if let Some(old) = known.get(name).filter(same) {
                            *pod = old.clone();
                        }
                    }
                    if found.errors != said {
                        for error in &found.errors {
                            tracing::warn!(node = %self.name, %error, "a manifest is not run");
                            let message = format!("a static pod's manifest is not run: {error}");
                            self.events.node(&self.name, Level::Warning, "InvalidManifest", message);
                        }
                        said = found.errors;
                    }
                    if first || known != found.pods {
                        known.clone_from(&found.pods);
                        tell(found.pods);
                    }
                    first = false;
                }
                Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
                    if first || !known.is_empty() {
                        known.clear();
                        tell(BTreeMap::new());
                    }
                    first = false;
                }
                Ok(Err(error)) => {
                    tracing::warn!(folder = %folder.display(), %error, "the folder of static pods' manifests cannot be read");
                }
                Err(error) => tracing::warn!(%error, "manifests cannot be read"),
            }
            let begun = Instant::now();
            while begun.elapsed() < CHECK && fingerprint(&folder) == seen {
                tokio::time::sleep(LOOK).await;
            }
        }
    }
}

fn show(state: &mut State, of: &str, uid: Option<&str>) {
    if let Some(shown) = state.shown.get(of) {
        let uid = uid.map(str::to_owned);
        shown.send_if_modified(|old| {
            let new = *old != uid;
            *old = uid;
            new
        });
    }
}

/// What changes when somebody changes a file in the folder. A few calls that do not wait, so the agent's only thread makes them.
fn fingerprint(folder: &Path) -> Vec<(OsString, u64, i64, i64, u64)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let of = |e: std::fs::DirEntry| {
        let m = std::fs::metadata(e.path()).ok()?;
        Some((e.file_name(), m.ino(), m.mtime(), m.mtime_nsec(), m.size()))
    };
    let mut all: Vec<_> = entries.filter_map(of).collect();
    all.sort();
    all
}
