//! The client side of the API: requests, informers, the work queue, leader election, events.
//!
//! **Job.** The one interface by which every role speaks with an API server, over the network or in its process:
//! typed requests and errors; copies of collections that are kept current; one queue of work, fair between tenants;
//! who of several processes leads; events for people.
//! **State.** Connections; the informers' copies; the queue; who leads.
//! **Tasks.** One per connection, and what callers spawn: one per informer, one for the queue's timers, one for an
//! election, one for a recorder.
//! **Must not know.** What any kind of object means: views and handlers are the callers'.
//!
//! # How a role uses it
//! ```no_run
//! # async fn role() -> Result<(), skep_client::Error> {
//! use k8s_openapi::api::core::v1::Pod;
//! use skep_client::{Client, DeleteParams, Informer, Resource, Selection, Tenants};
//!
//! #[derive(serde::Deserialize)]
//! struct PodView { #[serde(default)] spec: Spec }
//! #[derive(Default, serde::Deserialize)]
//! #[serde(rename_all = "camelCase", default)]
//! struct Spec { node_name: Option<skep_base::SharedStr> }
//!
//! let client = Client::from_kubeconfig("admin.kubeconfig".as_ref())?;
//! let pods = Informer::<PodView>::builder(&client, Selection::all(Resource::of::<Pod>(), Tenants::All))
//!     .index("node", |pod, emit| pod.spec.node_name.iter().for_each(|n| emit(n)))
//!     .build();
//! pods.on_event(|event| println!("{}", event.object().key));
//! let running = pods.clone();
//! tokio::spawn(async move { running.run().await });
//! pods.synced().await;
//! let tenant = client.home();
//! for pod in pods.by_index("node", tenant, "n1") {
//!     let at = Resource::of::<Pod>().at(tenant).namespace(&pod.key.namespace).name(&pod.key.name);
//!     client.remove(&at, &DeleteParams::uid(&pod.uid)).await?;
//! }
//! # Ok(()) }
//! ```

mod backoff;
mod client;
pub mod elect;
mod error;
pub mod informer;
mod kubeconfig;
mod network;
mod object;
mod path;
pub mod queue;
pub mod record;
mod transport;
mod watch;

pub use backoff::Backoff;
pub use client::{
    Client, DeleteParams, From, List, ListMeta, ListParams, Patch, Preconditions, Propagation,
    REQUEST_TIMEOUT, ROLE_CONNECTIONS, Removed, WatchParams,
};
pub use error::{Error, ErrorKind};
pub use informer::{Event, Informer, Object, Selection, View};
pub use kubeconfig::{Access, KubeconfigError};
pub use network::{ByteStream, Network, Route};
pub use object::{ObjectKey, TENANT_ANNOTATION};
pub use path::{ObjectPath, Resource, Tenants};
pub use queue::{Level, Outcome, Work, WorkKey, WorkQueue};
pub use transport::{Body, Request, Response, Transport};
pub use watch::{Change, RawEvent, Watch, WatchEvent};
