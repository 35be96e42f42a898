//! Leader election: of several processes of a role, one works.
//!
//! The rules are those of Kubernetes' clients, so that both may take part in one election: a `Lease` names the holder; whoever has seen
//! it unchanged for longer than its duration, *by the own clock*, may take it; the holder renews it, and stops working when
//! it has not managed to within the renew deadline. Clocks need not agree, only run at about the same speed.
//!
//! # Misuse
//! Between losing the lease and noticing it a process may still write. Writes must be safe when two lead for a
//! moment: conditional on what was read.

use std::future::Future;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use rand::Rng;
use tokio::time::Instant;

use crate::client::Client;
use crate::error::Error;
use crate::path::{ObjectPath, Resource, Tenants};

/// How an election is held. The defaults are those of Kubernetes' components.
#[derive(Clone, Debug)]
pub struct Election {
    /// The lease's namespace.
    pub namespace: String,
    /// The lease's name: one for each role.
    pub name: String,
    /// Who this process is; must be unique.
    pub identity: String,
    /// How long others leave a lease alone that is not renewed.
    pub lease_duration: Duration,
    /// How long the holder goes on trying to renew before it stops working. Must be shorter than the lease's duration: the
    /// difference is what keeps two from working at once.
    pub renew_deadline: Duration,
    /// How often it is tried.
    pub retry_period: Duration,
}

impl Election {
    /// With the usual times, and an identity made of the host's name and a random part.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Election {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Election {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: format!("{}_{}", host.trim(), uuid::Uuid::new_v4()),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// Waiting candidates come back after the retry period and up to this much more of it.
const JITTER: f64 = 1.2;

/// What a candidate has seen of the lease.
#[derive(Debug, Default)]
struct Observed {
    lease: Option<Lease>,
    /// When it was first seen in this state.
    at: Option<Instant>,
}

impl Observed {
    fn see(&mut self, lease: Lease) {
        if self.lease.as_ref().and_then(|l| l.spec.as_ref()) != lease.spec.as_ref() {
            self.at = Some(Instant::now());
        }
        self.lease = Some(lease);
    }
}

struct Candidate<'a> {
    client: &'a Client,
    election: &'a Election,
    observed: Observed,
}

/// How an election ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Led<T> {
    /// The work came to its end.
    Finished(T),
    /// The lease was lost, and the work was dropped in the middle: the process should end, or stand again.
    Lost,
    /// The end came before this process led.
    Never,
}

/// Waits until this process leads, then runs `work`. Returns when `work` returns, or when the lease was lost.
/// `shutdown` ends the waiting only: `work` must watch for the end by itself; the lease is given back after it,
/// so that the next leads at once.
pub async fn lead<T>(
    client: &Client,
    election: &Election,
    shutdown: impl Future<Output = ()>,
    work: impl Future<Output = T>,
) -> Led<T> {
    let mut candidate = Candidate { client, election, observed: Observed::default() };
    tokio::pin!(shutdown);
    loop {
        match candidate.acquire_or_renew().await {
            Ok(true) => break,
            Ok(false) => {}
            Err(error) => tracing::warn!(lease = %election.name, %error, "the lease cannot be had"),
        }
        let wait = election.retry_period.mul_f64(1.0 + JITTER * rand::rng().random_range(0.0..1.0));
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = &mut shutdown => return Led::Never,
        }
    }
    tracing::info!(lease = %election.name, identity = %election.identity, "leading");
    let result = tokio::select! {
        result = work => Led::Finished(result),
        () = candidate.renew() => Led::Lost,
    };
    if let Led::Finished(_) = &result {
        candidate.release().await;
    } else {
        tracing::error!(lease = %election.name, "the lease is lost: somebody else leads, or the API server cannot be reached");
    }
    result
}

impl Candidate<'_> {
    fn at(&self) -> ObjectPath {
        Resource::of::<Lease>().at(Tenants::Own).namespace(&self.election.namespace).name(&self.election.name)
    }

    fn is_mine(&self) -> bool {
        let holder = self.observed.lease.as_ref().and_then(|l| l.spec.as_ref()?.holder_identity.as_deref());
        holder == Some(self.election.identity.as_str())
    }

    /// Whether the lease is this process's now.
    async fn acquire_or_renew(&mut self) -> Result<bool, Error> {
        let lease = match self.client.read::<Lease>(&self.at()).await {
            Ok(lease) => lease,
            Err(e) if e.is_not_found() => return self.create().await,
            Err(e) => return Err(e),
        };
        self.observed.see(lease.clone());
        let spec = lease.spec.clone().unwrap_or_default();
        let held = spec.holder_identity.as_deref().is_some_and(|h| !h.is_empty());
        let duration = spec
            .lease_duration_seconds
            .and_then(|s| u64::try_from(s).ok())
            .map_or(self.election.lease_duration, Duration::from_secs);
        let alive = self.observed.at.is_some_and(|at| at.elapsed() < duration);
        if held && alive && !self.is_mine() {
            return Ok(false);
        }
        let now = MicroTime(Timestamp::now());
        let mine = self.is_mine();
        let transitions = spec.lease_transitions.unwrap_or(0);
        let new = LeaseSpec {
            holder_identity: Some(self.election.identity.clone()),
            lease_duration_seconds: i32::try_from(self.election.lease_duration.as_secs()).ok(),
            acquire_time: if mine { spec.acquire_time.clone() } else { Some(now.clone()) },
            renew_time: Some(now),
            lease_transitions: Some(if mine { transitions } else { transitions.saturating_add(1) }),
            ..spec
        };
        self.write(Lease { spec: Some(new), ..lease }).await
    }

    async fn create(&mut self) -> Result<bool, Error> {
        let now = MicroTime(Timestamp::now());
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.election.name.clone()),
                namespace: Some(self.election.namespace.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.election.identity.clone()),
                lease_duration_seconds: i32::try_from(self.election.lease_duration.as_secs()).ok(),
                acquire_time: Some(now.clone()),
                renew_time: Some(now),
                lease_transitions: Some(0),
                ..LeaseSpec::default()
            }),
        };
        let at = Resource::of::<Lease>().at(Tenants::Own).namespace(&self.election.namespace);
        match self.client.create(&at, &lease).await {
            Ok(lease) => {
                self.observed.see(lease);
                Ok(true)
            }
            Err(e) if e.is_already_exists() => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Writes at the version that was read: of two who saw the lease expire, one succeeds.
    async fn write(&mut self, lease: Lease) -> Result<bool, Error> {
        match self.client.update(&self.at(), &lease).await {
            Ok(lease) => {
                self.observed.see(lease);
                Ok(true)
            }
            Err(e) if e.is_conflict() => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Renews, and returns when that has not been possible for too long, or somebody else has the lease.
    async fn renew(&mut self) {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(self.election.retry_period).await;
            let left = self.election.renew_deadline.saturating_sub(renewed.elapsed());
            match tokio::time::timeout(left, self.acquire_or_renew()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) if self.observed.lease.is_some() && !self.is_mine() => return,
                Ok(Ok(false)) | Err(_) => {}
                Ok(Err(error)) => {
                    tracing::warn!(lease = %self.election.name, %error, "the lease is not renewed")
                }
            }
            if renewed.elapsed() >= self.election.renew_deadline {
                return;
            }
        }
    }

    async fn release(&mut self) {
        if !self.is_mine() {
            return;
        }
        let Some(lease) = self.observed.lease.clone() else { return };
        let now = MicroTime(Timestamp::now());
        let spec = lease.spec.clone().unwrap_or_default();
        let new = LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(1),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            ..spec
        };
        if let Err(error) = self.write(Lease { spec: Some(new), ..lease }).await {
            tracing::info!(lease = %self.election.name, %error, "the lease was not given back: the next waits until it expires");
        }
    }
}
