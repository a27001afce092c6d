//! Where the host waits on behalf of a plugin: files, sockets, timers.
//!
//! Guarantees: a call into a plugin ends at its deadline even if the host function that the plugin called never ends.
//! WASI's functions are asynchronous here, so the calling thread never blocks in one of them. What is still running at
//! the deadline is abandoned on a thread of this module, and no thread that carries records is lost to it.

use std::io;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::call_slot;

use tokio::runtime::{Builder, Handle, Runtime};

/// Threads that all plugins without directories share. One that hangs (in the lookup of a name, for example) keeps its
/// thread for ever; when all hang, further operations end at their deadlines.
pub(super) const SHARED_THREADS: usize = 64;
/// Threads for the files of one version of a plugin, shared by its instances. They may hang on a dead network file system, and a version that
/// is replaced leaves those behind.
pub(super) const OWN_THREADS: usize = 32;

/// The threads on which the waiting is done.
pub(super) struct HostCalls {
    runtime: Option<Runtime>,
    handle: Handle,
}

impl HostCalls {
    /// With this many threads for operations that block.
    pub fn start(threads: usize) -> io::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        let builder = builder.worker_threads(1).max_blocking_threads(threads);
        let runtime = builder.enable_all().thread_name("plugin-host-calls").build()?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    /// The call's answer, or `None` if it is still waiting for the host at the deadline.
    ///
    /// Must not be called from a thread of an asynchronous runtime: it blocks.
    pub fn run<T>(&self, deadline: Instant, call: impl Future<Output = T>) -> Option<T> {
        call_slot::begins(deadline);
        let _entered = self.handle.enter();
        let mut call = pin!(call);
        // Nearly every call ends without waiting for the host, and then needs neither a timer nor a wake-up.
        match call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => Some(answer),
            Poll::Pending => self.handle.block_on(async { tokio::time::timeout_at(deadline.into(), call).await }).ok(),
        }
    }
}

impl HostCalls {
    /// The answer of a call that can't make the host wait: the engine's clock alone stops it.
    pub fn run_direct<T>(&self, deadline: Instant, call: impl FnOnce() -> T) -> T {
        call_slot::begins(deadline);
        call()
    }
}

impl Drop for HostCalls {
    /// Doesn't wait for abandoned operations.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_call_ends_at_its_deadline_whatever_it_waits_for() {
        let calls = HostCalls::start(1).unwrap();
        let soon = || Instant::now() + Duration::from_millis(20);
        assert_eq!(calls.run(Instant::now() + Duration::from_secs(300), async { 7 }), Some(7));
        assert_eq!(calls.run(soon(), std::future::pending::<()>()), None);
        let (release, held) = std::sync::mpsc::channel::<()>();
        let blocked = async { tokio::task::spawn_blocking(move || held.recv()).await };
        assert!(calls.run(soon(), blocked).is_none(), "an operation that holds its thread");
        drop(calls);
        drop(release);
    }
}
