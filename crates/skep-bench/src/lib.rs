//! Load on a real API server, and how it bore it.
//!
//! **Job.** Write, list, watch, make tenants and pods as fast as asked, and say how fast the answers came and whether all
//! that was promised arrived. SPECIFICATION.md names the commands whose figures count.
//! **State.** What was measured, until it is printed. What it made on the server it takes away again.
//! **Tasks.** As many as requests are to be under way.
//! **Must not know.** How a server works: everything here speaks the Kubernetes API only, so that another server can be
//! measured with the same client (where it has no tenants: without them).

mod figures;
mod lists;
mod pods;
mod tenants;
mod watches;
mod writes;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use skep_client::{Access, Client, Error, Route};

pub use figures::{Figures, Latencies};
pub use lists::lists;
pub use pods::{Group, ParseGroupError, Pods, Until, pods};
pub use tenants::tenants;
pub use watches::{Watches, watches};
pub use writes::writes;

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A request that had to succeed did not.
    #[error("{what}: {source}")]
    Request {
        /// What was wanted.
        what: String,
        /// What the server or the way to it said.
        source: Error,
    },
    /// What was to happen did not in time.
    #[error("{what} after {after_s} s; is everything running that should do it?")]
    Late {
        /// What did not happen.
        what: String,
        /// How long it was waited for.
        after_s: u64,
    },
    /// The server broke a promise.
    #[error("{0}")]
    Broken(String),
}

fn failed(what: impl Into<String>) -> impl FnOnce(Error) -> BenchError {
    move |source| BenchError::Request { what: what.into(), source }
}

/// Connections over which load is spread: one HTTP/2 connection is read and decrypted by one task.
const CONNECTIONS: usize = 8;

/// Where load is put, and as whom.
#[derive(Clone, Debug)]
pub struct Server {
    /// A kubeconfig file.
    pub kubeconfig: PathBuf,
}

impl Server {
    fn over(&self, connections: usize) -> Result<Client, BenchError> {
        let connect = || Client::connect(Access::load(&self.kubeconfig)?, Route::Tcp, connections);
        connect().map_err(failed(format!("connecting as {} says", self.kubeconfig.display())))
    }

    /// A client that spreads its requests as a benchmark should.
    fn client(&self) -> Result<Client, BenchError> {
        // The first carries watches alone.
        self.over(CONNECTIONS + 1)
    }

    /// A client with a connection of its own, for watches.
    fn another(&self) -> Result<Client, BenchError> {
        self.over(1)
    }
}

/// Does `count` things, so many at a time, and returns how long each took. The first failure ends it.
async fn load<F>(
    count: usize,
    concurrency: usize,
    one: impl Fn(usize) -> F + Send + Sync + 'static,
) -> Result<(Latencies, Duration), Error>
where
    F: Future<Output = Result<(), Error>> + Send,
{
    let next = Arc::new(AtomicUsize::new(0));
    let one = Arc::new(one);
    let begun = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..concurrency.clamp(1, count.max(1)) {
        let (next, one) = (next.clone(), one.clone());
        tasks.spawn(async move {
            let mut latencies = Latencies::default();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return Ok::<_, Error>(latencies);
                }
                let asked = Instant::now();
                one(index).await?;
                latencies.add(asked.elapsed());
            }
        });
    }
    let mut all = Latencies::default();
    while let Some(done) = tasks.join_next().await {
        match done {
            Ok(latencies) => all.append(latencies?),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
    Ok((all, begun.elapsed()))
}
