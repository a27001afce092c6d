//! SIGTERM and SIGINT, which stop a host or a replay, and SIGHUP, which stops neither.
//!
//! Guarantees: nothing that happens to the log or to the service manager keeps the process from stopping; further signals change
//! nothing.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::info;

use super::service::stopping;

/// Sets `stop` at SIGTERM and SIGINT, after `on_stop`. Call it inside of a tokio runtime.
pub fn stop_on_signal(stop: &Arc<AtomicBool>, on_stop: fn()) -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let (mut signals, stop) = (signal(kind)?, Arc::clone(stop));
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                on_stop();
                // First of all: nothing that happens to the log may keep the host from stopping.
                stop.store(true, Ordering::SeqCst);
                info!("stopping");
                stopping();
            }
        });
    }
    Ok(())
}

/// Keeps SIGHUP from ending the process, as it would while the host is being started. Later the host reads its configuration again at it.
/// Call it inside of a tokio runtime.
pub fn survive_hangups() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangups = signal(SignalKind::hangup())?;
    tokio::spawn(async move { while hangups.recv().await.is_some() {} });
    Ok(())
}
