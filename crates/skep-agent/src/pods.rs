//! The pods of this node: a worker for each, whoever sent it, and an end for what nobody wants any more.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use skep_client::{Event, Informer, Resource, Selection, Tenants};
use skep_runtime::Found;
use tokio::sync::{mpsc, watch};

use crate::admission;
use crate::container::labels;
use crate::context::Node;
use crate::events::Level;
use crate::mirrors::Statics;
use crate::node::NodeObject;
use crate::spec;
use crate::state;
use crate::static_pods::{FullName, full_name};
use crate::streams::LiveCell;
use crate::worker::{self, Desired, Worker};

/// A pod of the server's, once for everybody here.
struct Bound(Arc<Pod>);

impl<'de> serde::Deserialize<'de> for Bound {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Bound, D::Error> {
        let mut pod = Pod::deserialize(from)?;
        // Who set which field is of no use here, and takes more room than the fields do.
        pod.metadata.managed_fields = None;
        Ok(Bound(Arc::new(pod)))
    }
}

/// How often the disk and the runtime are searched for what belongs to no pod.
const SWEEP: Duration = Duration::from_secs(120);

/// How long static pods wait for what the API server knows of them from before. Then they run without.
const MIRRORS_KNOWN: Duration = Duration::from_secs(5);

/// News about pods.
enum News {
    /// A pod is there, or has changed.
    Pod(Arc<Pod>),
    /// The server no longer has it.
    Gone(Arc<Pod>),
    /// The worker of this pod has done its work.
    Done(String),
    /// What files on this node ask for.
    Static(BTreeMap<FullName, Arc<Pod>>),
}

/// A pod that has a worker.
struct Known {
    desired: watch::Sender<Desired>,
    live: LiveCell,
}

/// Ends pods on the node's behalf.
#[derive(Clone)]
pub struct PodsHandle {
    pods: Arc<std::sync::Mutex<BTreeMap<String, Known>>>,
}

impl PodsHandle {
    /// Ends a pod; its status becomes `Failed` with this reason and message.
    pub fn end(&self, uid: &str, reason: &str, message: &str, grace_seconds: Option<i64>) {
        let pods = self.pods.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(known) = pods.get(uid) {
            known.desired.send_modify(|d| {
                d.ended.get_or_insert((reason.to_owned(), message.to_owned()));
                d.grace_seconds = grace_seconds;
            });
        }
    }

    /// The pods that this node runs.
    #[must_use]
    pub fn active(&self) -> Vec<Arc<Pod>> {
        let pods = self.pods.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        pods.values()
            .map(|known| (known.desired.borrow().clone(), known))
            .filter(|(d, _)| !state::is_terminal(&d.pod) && d.ended.is_none() && !d.gone)
            .map(|(d, known)| {
                // What it has is what is allocated to it, which its worker knows.
                let live = known.live.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if spec::uid(&live.pod) == spec::uid(&d.pod) { live.pod.clone() } else { d.pod }
            })
            .collect()
    }

    /// The same without one, which asks for more.
    #[must_use]
    pub(crate) fn allocated_but(&self, uid: &str) -> Vec<Arc<Pod>> {
        let mut all = self.active();
        all.retain(|p| spec::uid(p) != uid);
        all
    }

    /// All pods as their workers last saw them.
    #[must_use]
    pub fn live(&self) -> Vec<LiveCell> {
        let pods = self.pods.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        pods.values().map(|known| known.live.clone()).collect()
    }
}

/// See the module.
pub struct Pods {
    node: Arc<Node>,
    object: Arc<NodeObject>,
    news: mpsc::UnboundedReceiver<News>,
    tell: mpsc::UnboundedSender<News>,
    informer: Informer<Bound>,
    handle: PodsHandle,
    /// Pods that a former agent has running: they were let in once, and are not turned away now.
    found: HashMap<String, Vec<Found>>,
    statics: Arc<Statics>,
    /// Where static pods' manifests lie.
    manifests: Option<PathBuf>,
}

impl Pods {
    /// Begins to follow the pods that are bound to this node, and those that a folder asks for.
    #[must_use]
    pub fn new(node: Arc<Node>, object: Arc<NodeObject>, manifests: Option<PathBuf>) -> Pods {
        let selection = Selection::all(Resource::of::<Pod>(), Tenants::Own)
            .fields(&format!("spec.nodeName={}", node.name));
        let informer = Informer::<Bound>::builder(&node.client, selection).build();
        let (tell, news) = mpsc::unbounded_channel();
        let handle = PodsHandle { pods: Arc::default() };
        let statics =
            Statics::new(node.client.clone(), node.name.clone(), object.clone(), node.events.clone());
        Pods {
            node,
            object,
            news,
            tell,
            informer,
            handle,
            found: HashMap::new(),
            statics: Arc::new(statics),
            manifests,
        }
    }

    /// A handle for others.
    #[must_use]
    pub fn handle(&self) -> PodsHandle {
        self.handle.clone()
    }

    /// Runs until the future is dropped.
    pub async fn run(mut self) {
        self.find().await;
        let tell = self.tell.clone();
        self.informer.on_event(move |event| {
            let pod = event.object().view.0.clone();
            let _ = tell.send(match event {
                Event::Deleted { .. } => News::Gone(pod),
                _ => News::Pod(pod),
            });
        });
        let mut tasks = tokio::task::JoinSet::new();
        let running = self.informer.clone();
        tasks.spawn(async move { running.run().await });
        self.start_statics(&mut tasks);
        let mut sweep = tokio::time::interval(SWEEP);
        let synced = self.informer.clone();
        let mut is_synced = false;
        // Until it is known what files ask for, their pods are nobody's.
        let mut is_read = self.manifests.is_none();
        loop {
            tokio::select! {
                news = self.news.recv() => match news {
                    Some(news) => {
                        if matches!(news, News::Static(_)) && !std::mem::replace(&mut is_read, true) {
                            sweep.reset_immediately();
                        }
                        self.take(news);
                    }
                    None => break,
                },
                () = synced.synced(), if !is_synced => {
                    is_synced = true;
                    sweep.reset_immediately();
                }
                _ = sweep.tick(), if is_synced && is_read => self.sweep().await,
            }
        }
    }

    fn start_statics(&self, tasks: &mut tokio::task::JoinSet<()>) {
        let (statics, informer) = (self.statics.clone(), self.informer.clone());
        tasks.spawn(async move {
            informer.synced().await;
            statics.keep().await;
        });
        if let Some(folder) = self.manifests.clone() {
            let (statics, informer, tell) = (self.statics.clone(), self.informer.clone(), self.tell.clone());
            tasks.spawn(async move {
                // They run also when nobody can be asked.
                let _ = tokio::time::timeout(MIRRORS_KNOWN, informer.synced()).await;
                let tell = move |pods| {
                    let _ = tell.send(News::Static(pods));
                };
                statics.follow(folder, tell).await;
            });
        }
    }

    /// Has a worker for each static pod, and ends those that no file asks for.
    fn follow_statics(&mut self) {
        let wanted = self.statics.wanted();
        let mut busy: BTreeSet<FullName> = BTreeSet::new();
        {
            let pods = self.handle.pods.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            for (uid, known) in pods.iter() {
                let desired = known.desired.borrow().clone();
                if !spec::is_static(&desired.pod) {
                    continue;
                }
                let name = full_name(&desired.pod);
                if wanted.get(&name).is_none_or(|pod| spec::uid(pod) != uid) && !desired.gone {
                    known.desired.send_modify(|d| d.gone = true);
                }
                busy.insert(name);
            }
        }
        for (name, pod) in &wanted {
            // Of one name runs one at a time: a changed one waits until the other has ended.
            if !busy.contains(name) {
                self.add(spec::uid(pod).to_owned(), self.statics.with_status(pod));
            }
        }
        let ending = busy.into_iter().filter(|name| !wanted.contains_key(name)).collect();
        self.statics.set_ending(ending);
    }

    /// Which pods a former agent has running.
    async fn find(&mut self) {
        match self.node.runtime.pods().await {
            Ok(pods) => {
                for found in pods {
                    let id = id_of(&found).to_owned();
                    if let Some((uid, _)) = worker::parse_sandbox_id(&id) {
                        self.found.entry(uid.to_owned()).or_default().push(found);
                    }
                }
            }
            Err(error) => tracing::warn!(error = %error.full(), "the runtime's pods cannot be listed"),
        }
    }

    fn take(&mut self, news: News) {
        let mut pods = self.handle.pods.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match news {
            News::Done(uid) => {
                pods.remove(&uid);
                drop(pods);
                self.statics.forget(&uid);
                self.follow_statics();
            }
            News::Static(wanted) => {
                drop(pods);
                self.statics.set_wanted(wanted);
                self.follow_statics();
            }
            News::Pod(pod) if spec::is_mirror(&pod) => self.statics.saw(&pod),
            News::Gone(pod) if spec::is_mirror(&pod) => self.statics.gone(&pod),
            News::Gone(pod) => {
                if let Some(known) = pods.get(spec::uid(&pod)) {
                    known.desired.send_modify(|d| {
                        d.pod = pod.clone();
                        d.gone = true;
                    });
                }
            }
            News::Pod(pod) => {
                let pod = from_api(pod);
                let uid = spec::uid(&pod).to_owned();
                if let Some(known) = pods.get(&uid) {
                    known.desired.send_modify(|d| d.pod = pod);
                    return;
                }
                drop(pods);
                self.add(uid, pod);
            }
        }
    }

    fn add(&mut self, uid: String, pod: Arc<Pod>) {
        let mut ended = None;
        let found = self.found.remove(&uid).unwrap_or_default();
        let is_new =
            found.is_empty() && !state::is_terminal(&pod) && pod.metadata.deletion_timestamp.is_none();
        if is_new {
            let active = self.handle.active();
            let others: Vec<&Pod> = active.iter().map(Arc::as_ref).collect();
            let object = self.object.current();
            if let Err((reason, message)) =
                admission::admit(&pod, &object, &self.node.allocatable, &others, self.node.policy.apparmor)
            {
                self.node.events.pod(&pod, Level::Warning, leaked(&reason), message.clone());
                ended = Some((reason, format!("Pod was rejected: {message}")));
            }
        }
        let desired = Desired { pod, gone: false, ended, grace_seconds: None };
        let (sender, receiver) = watch::channel(desired);
        let live = LiveCell::default();
        let mirror = {
            let pod = &sender.borrow().pod;
            spec::is_static(pod).then(|| self.statics.mirror_uid(pod))
        };
        let worker = Worker::new(
            self.node.clone(),
            receiver,
            found,
            live.clone(),
            self.handle.clone(),
            self.object.clone(),
            mirror,
        );
        let (tell, done) = (self.tell.clone(), uid.clone());
        let mut pods = self.handle.pods.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        pods.insert(uid, Known { desired: sender, live });
        tokio::spawn(async move {
            worker.run().await;
            let _ = tell.send(News::Done(done));
        });
    }

    /// Ends and removes what belongs to no pod of this node: its object was deleted while no agent ran.
    async fn sweep(&mut self) {
        let known: BTreeSet<String> = {
            let pods = self.handle.pods.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            pods.keys().cloned().collect()
        };
        // What was found at the start and is no pod's by now is an orphan.
        self.found.clear();
        let found = match self.node.runtime.pods().await {
            Ok(found) => found,
            Err(error) => return tracing::warn!(error = %error.full(), "the runtime's pods cannot be listed"),
        };
        let mut orphans: HashMap<String, Vec<Found>> = HashMap::new();
        for one in found {
            let uid = worker::parse_sandbox_id(id_of(&one)).map(|(uid, _)| uid.to_owned());
            if let Some(uid) = uid.filter(|uid| !known.contains(uid)) {
                orphans.entry(uid).or_default().push(one);
            }
        }
        for folder in [self.node.layout.pods(), self.node.layout.memory()] {
            for name in names_in(folder) {
                if !known.contains(&name) {
                    orphans.entry(name).or_default();
                }
            }
        }
        for (uid, sandboxes) in orphans {
            tracing::info!(pod = uid, "a pod that nobody wants any more is removed");
            let node = self.node.clone();
            tokio::spawn(async move {
                if let Err(why) = remove_orphan(&node, &uid, sandboxes).await {
                    tracing::warn!(pod = uid, %why, "it cannot be removed yet; it will be tried again");
                }
            });
        }
        self.sweep_logs(&known);
    }

    fn sweep_logs(&self, known: &BTreeSet<String>) {
        let folder = self.node.layout.data.join("logs");
        for name in names_in(folder.clone()) {
            let uid = name.rsplit('_').next().unwrap_or_default();
            if !known.contains(uid)
                && let Err(error) = std::fs::remove_dir_all(folder.join(&name))
            {
                tracing::warn!(logs = name, %error, "logs of a former pod cannot be removed");
            }
        }
    }
}

/// A pod of the API server's cannot say that it is of this node's files, which would spare it what others must bear.
fn from_api(pod: Arc<Pod>) -> Arc<Pod> {
    if !spec::is_static(&pod) {
        return pod;
    }
    let mut pod = (*pod).clone();
    pod.metadata
        .annotations
        .get_or_insert_default()
        .insert(spec::SOURCE_ANNOTATION.to_owned(), "api".to_owned());
    Arc::new(pod)
}

fn id_of(found: &Found) -> &str {
    match found {
        Found::Running(sandbox) => sandbox.id(),
        Found::Dead(dead) => &dead.id,
    }
}

/// Reasons are few; they live as long as the program.
fn leaked(reason: &str) -> &'static str {
    const KNOWN: [&str; 12] = [
        "OutOfcpu",
        "OutOfmemory",
        "OutOfephemeral-storage",
        "OutOfpods",
        "NodeAffinity",
        "NodeName",
        "NodePorts",
        "TaintToleration",
        "PodOSSelectorNodeLabelDoesNotMatch",
        "PodOSNotSupported",
        "SysctlForbidden",
        "AppArmor",
    ];
    KNOWN.into_iter().find(|k| *k == reason).unwrap_or("UnexpectedAdmissionError")
}

fn names_in(folder: PathBuf) -> Vec<String> {
    std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .collect()
}

/// Asks an orphan's containers to end, and removes it.
async fn remove_orphan(node: &Node, uid: &str, sandboxes: Vec<Found>) -> Result<(), String> {
    const SIGTERM: i32 = 15;
    for found in sandboxes {
        match found {
            Found::Running(sandbox) => {
                let grace = sandbox.spec().labels.get(labels::GRACE_SECONDS).and_then(|g| g.parse().ok());
                let containers = sandbox.status().await.unwrap_or_default();
                let running = containers.iter().filter(|c| c.exit.is_none());
                let ends = running.map(|c| {
                    let sandbox = &sandbox;
                    async move {
                        let _ = sandbox.kill(&c.id, SIGTERM, false).await;
                        let _ = sandbox.wait(&c.id).await;
                    }
                });
                let grace = Duration::from_secs(grace.unwrap_or(30));
                let _ = tokio::time::timeout(grace, futures::future::join_all(ends)).await;
                node.runtime.remove(sandbox.id()).await.map_err(|e| e.full())?;
            }
            Found::Dead(dead) => {
                node.runtime.remove(&dead.id).await.map_err(|e| e.full())?;
            }
        }
    }
    worker::clean_up_pod(node, uid).await
}
