//! The server's parts put together, and the one way by which objects are written.

use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::RwLock;
use rustc_hash::FxHashMap;
use skep_api::{DynKind, Object, Registry};
use skep_auth::authn::Authenticator;
use skep_auth::authorize::Authorizer;
use skep_auth::pki::Pki;
use skep_base::{GroupResource, Key, Revision, TenantName};
use skep_patch::schema::MergeSchema;
use skep_store::{CommitError, Expect, NewValue, Op, Store, Txn, Value};
use smallvec::SmallVec;

use crate::encode::new_value;
use crate::fair::Fair;
use crate::objects::{Objects, Taken};
use crate::output::Item;
use crate::rest::Call;
use crate::status::ApiError;
use crate::tenants::{self, ServiceAddresses, Tenants};

/// How a write changes quotas; see [`crate::admission`].
pub use crate::admission::Charges;

/// Settings of a server.
#[derive(Clone, Debug)]
pub struct Config {
    /// By which address clients reach the server: `https://HOST:PORT`.
    pub base_url: String,
    /// What the `kubernetes` service of each tenant says.
    pub addresses: ServiceAddresses,
}

/// Why a write did not happen.
#[derive(Debug)]
pub enum WriteError {
    /// Something is not as the writer expected: it may look again and try again.
    Conflict {
        /// What was not as expected.
        key: Box<Key>,
    },
    /// A quota was counted anew since the write was measured: measure it again.
    Recounted,
    /// It will not happen.
    Refused(ApiError),
}

/// The server.
pub struct App {
    /// Settings.
    pub config: Config,
    /// All kinds.
    pub registry: Registry,
    /// Kinds by group, version, resource.
    kinds: FxHashMap<(String, String, String), Arc<dyn DynKind>>,
    /// All objects.
    pub objects: Objects,
    /// All tenants.
    pub tenants: Arc<Tenants>,
    /// Certificates and keys.
    pub pki: Arc<Pki>,
    /// Who somebody is.
    pub authenticator: Authenticator,
    /// What somebody may do.
    pub authorizer: Authorizer,
    /// Told when the server is to end.
    pub shutdown: tokio::sync::watch::Sender<bool>,
    /// How far the followers of tenants and policy have come.
    pub followed: Followed,
    /// The agents that are connected.
    pub tunnels: crate::rest::stream::Tunnels,
    /// Shares the server between tenants.
    pub fair: Arc<Fair>,
    /// Counters.
    pub metrics: crate::metrics::Metrics,
    /// Who did what, if that is to be written down: set before the server listens.
    pub audit: std::sync::OnceLock<Arc<crate::audit::AuditLog>>,
    /// What a new tenant is given.
    pub first_objects: tenants::FirstObjects,
    schema: MergeSchema,
    type_names: FxHashMap<(String, String), String>,
    /// The OpenAPI documents, made when first asked for.
    pub openapi: crate::openapi::Documents,
}

/// How far each follower has come, so that a writer's next request sees the effect of this one.
#[derive(Default)]
pub struct Followed {
    pub(crate) by_resource: RwLock<FxHashMap<GroupResource, tokio::sync::watch::Receiver<Revision>>>,
}

impl Followed {
    /// Registers a follower.
    pub fn add(&self, resource: GroupResource, receiver: tokio::sync::watch::Receiver<Revision>) {
        self.by_resource.write().insert(resource, receiver);
    }

    pub(crate) async fn caught_up(&self, resource: &GroupResource, revision: Revision) {
        let receiver = self.by_resource.read().get(resource).cloned();
        if let Some(mut receiver) = receiver {
            // An error means that the server is ending: nobody will look.
            let _ = receiver.wait_for(|r| *r >= revision).await;
        }
    }
}

impl App {
    /// Puts a server together on an open store.
    ///
    /// # Errors
    /// When the first objects of the operator's own tenant cannot be written.
    pub async fn start(store: Store, pki: Arc<Pki>, config: Config) -> Result<Arc<App>, ApiError> {
        let mut registry = Registry::builtin();
        registry.add::<skep_admission::TenantUsage>();
        let tenants = Arc::new(Tenants::default());
        let templates = crate::defaults::templates(&registry);
        let objects = Objects::new(store, tenants.clone(), templates);
        let kinds = registry
            .iter()
            .map(|k| {
                let i = k.info();
                ((i.group.to_string(), i.version.to_string(), i.plural.to_string()), k.clone())
            })
            .collect();
        let (schema, type_names) = crate::openapi::merge_schema(&registry);
        let authenticator = Authenticator::new(pki.master_secret(), std::slice::from_ref(&config.base_url));
        let first_objects = tenants::FirstObjects::new(&registry, pki.ca_pem(), &config.addresses)?;
        let app = Arc::new(App {
            first_objects,
            authenticator,
            authorizer: Authorizer::new(),
            openapi: crate::openapi::Documents::default(),
            tunnels: crate::rest::stream::Tunnels::default(),
            fair: Fair::new(crate::fair::places(), crate::fair::QUEUE),
            metrics: crate::metrics::Metrics::default(),
            audit: std::sync::OnceLock::new(),
            followed: Followed::default(),
            shutdown: tokio::sync::watch::Sender::new(false),
            config,
            registry,
            kinds,
            objects,
            tenants,
            pki,
            schema,
            type_names,
        });
        crate::follow::start(&app).await?;
        crate::reaper::start(&app);
        crate::namespaces::start(&app);
        crate::certificates::start(&app);
        Ok(app)
    }

    /// The kind served at a path.
    #[must_use]
    pub fn kind(&self, group: &str, version: &str, resource: &str) -> Option<&Arc<dyn DynKind>> {
        self.kinds.get(&(group.to_owned(), version.to_owned(), resource.to_owned()))
    }

    /// How the fields of built-in types merge.
    #[must_use]
    pub fn merge_schema(&self) -> &MergeSchema {
        &self.schema
    }

    /// The name of a served kind's type in the merge schema.
    #[must_use]
    pub fn type_name(&self, kind: &dyn DynKind) -> String {
        let info = kind.info();
        self.type_names.get(&(info.api_version(), info.kind.to_string())).cloned().unwrap_or_default()
    }

    /// The name of `autoscaling/v1` Scale in the merge schema.
    #[must_use]
    pub fn scale_type_name(&self) -> String {
        self.type_names.get(&("autoscaling/v1".to_owned(), "Scale".to_owned())).cloned().unwrap_or_default()
    }

    /// Encodes an object for the store.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn new_value(&self, kind: &dyn DynKind, object: &dyn Object) -> Result<NewValue, ApiError> {
        new_value(kind, object)
    }

    /// What a dry run answers with: the object as it would be, at the newest revision.
    ///
    /// # Errors
    /// None today; the signature leaves room for checks that need the store.
    pub fn dry_run_item(&self, key: &Key, value: NewValue) -> Result<Item, ApiError> {
        let value = Arc::new(Value::unstored(&value, self.objects.revision()));
        Ok(Item { tenant: key.tenant.clone(), value })
    }

    /// The writes that belong to an object's creation in the same transaction: what a new tenant or a new
    /// namespace has from the start.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn companions(&self, key: &Key, now: Timestamp) -> Result<Vec<Op>, ApiError> {
        match (key.resource.group(), key.resource.resource()) {
            ("tenancy.skep.io", "tenants") => {
                let tenant = TenantName::new(&key.name).map_err(|e| ApiError::bad_request(e.to_string()))?;
                let network = crate::alloc_network::first_network(&self.objects, &tenant)?;
                self.first_objects.writes(&self.registry, &tenant, network, now)
            }
            ("", "namespaces") => {
                tenants::first_in_namespace(&self.registry, &key.tenant, &key.name, self.pki.ca_pem(), now)
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Commits a write with what belongs to it. Returns when it is durable, visible, and taken up by the
    /// server's own followers.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn commit(
        &self,
        op: Op,
        more: Vec<Op>,
        mut charges: Charges,
    ) -> Result<Arc<Value>, WriteError> {
        let key = op.key().clone();
        let mut ops: SmallVec<[Op; 1]> = SmallVec::new();
        for op in std::iter::once(op).chain(more).chain(charges.take_condition()) {
            let conflict = || WriteError::Conflict { key: Box::new(key.clone()) };
            ops.push(self.objects.translate(op).map_err(|Taken| conflict())?);
        }
        let store = self.objects.store();
        let changes = if charges.is_empty() {
            store.commit(Txn(ops)).await
        } else {
            match crate::admission::commit_charged(self, ops, charges).await {
                Ok(result) => result,
                Err(refusal) => return Err(WriteError::Refused(refusal)),
            }
        };
        let changes = changes.map_err(commit_error)?;
        let written = changes.iter().find(|c| c.key == key);
        let revision = written.map_or(Revision::ZERO, |c| c.revision);
        self.followed.caught_up(&key.resource, revision).await;
        match written.and_then(|c| c.value.clone()) {
            Some(value) => {
                if crate::quota::concerns(&key.resource)
                    && let Err(error) = crate::quota::after_write(self, &key, &value, Timestamp::now()).await
                {
                    tracing::error!(%key, %error, "a quota could not be recounted");
                }
                Ok(value)
            }
            None => Err(WriteError::Refused(ApiError::internal("a write without a value"))),
        }
    }

    /// Removes an object, on the condition that it is still at a revision.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn remove(
        &self,
        key: &Key,
        revision: Revision,
        old: &dyn Object,
        mut charges: Charges,
    ) -> Result<(), WriteError> {
        let op = Op::Delete { key: key.clone(), expect: Expect::Revision(revision) };
        let op = self
            .objects
            .translate(op)
            .map_err(|Taken| WriteError::Conflict { key: Box::new(key.clone()) })?;
        let store = self.objects.store();
        let mut ops: SmallVec<[Op; 1]> = smallvec::smallvec![op];
        ops.extend(crate::alloc::release(&key.tenant, old));
        ops.extend(charges.take_condition());
        let changes = if charges.is_empty() {
            store.commit(Txn(ops)).await
        } else {
            match crate::admission::commit_charged(self, ops, charges).await {
                Ok(result) => result,
                Err(refusal) => return Err(WriteError::Refused(refusal)),
            }
        };
        let changes = changes.map_err(commit_error)?;
        let revision = changes.iter().find(|c| c.key == *key).map_or(Revision::ZERO, |c| c.revision);
        self.followed.caught_up(&key.resource, revision).await;
        Ok(())
    }

    /// Checks that a caller may also do something else with the same object (an update that creates).
    ///
    /// # Errors
    /// 403 when they may not.
    pub fn authorize_also(&self, call: &Call, action: crate::request::Action) -> Result<(), ApiError> {
        let path = crate::request::ResourcePath { action, ..call.path.clone() };
        crate::auth::authorize(self, &call.caller, call.tenant.as_ref(), &path, "")
    }
}

/// Returns when the server is to end.
pub async fn ended(shutdown: &mut tokio::sync::watch::Receiver<bool>) {
    // An error means that the server is gone already.
    let _ = shutdown.wait_for(|down| *down).await;
}

fn commit_error(error: CommitError) -> WriteError {
    WriteError::Refused(match error {
        CommitError::Conflict { key, .. } if crate::quota::is_marker(&key) => return WriteError::Recounted,
        CommitError::Conflict { key, .. } => return WriteError::Conflict { key },
        CommitError::NoSpace => ApiError::no_space(),
        CommitError::TooLarge { .. } => ApiError::too_large(error.to_string()),
        CommitError::Closed => ApiError::unavailable("the server is shutting down"),
        CommitError::Invalid(_) | CommitError::Failed(_) | CommitError::Uncertain(_) => {
            ApiError::internal(error)
        }
    })
}
