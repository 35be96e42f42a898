//! The end of a process.

use tokio::sync::watch;

/// Becomes true when the process is told to end.
pub(crate) type Shutdown = watch::Receiver<bool>;

/// Waits for SIGTERM or SIGINT in the background.
pub(crate) fn shutdown() -> Shutdown {
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        terminated().await;
        sender.send_replace(true);
        // Kept: a dropped sender would look like the end to nobody, but like an error to all.
        std::future::pending::<()>().await;
    });
    receiver
}

/// Returns when the end has been announced.
pub(crate) async fn ended(mut shutdown: Shutdown) {
    // An error means that the runtime is ending.
    let _ = shutdown.wait_for(|down| *down).await;
}

async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut term), Ok(mut int)) => {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        }
        _ => {
            tracing::error!("signals cannot be received: stop the process with SIGKILL");
            std::future::pending::<()>().await;
        }
    }
}
