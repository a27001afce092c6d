//! Where the host waits on behalf of a plugin: files, timers, answers over HTTP.
//!
//! Guarantees: a call into a plugin ends at its deadline even if the host function that the plugin called never ends.
//! What blocks runs on a thread of this module; the calling thread waits for it until the deadline and abandons it then, so
//! that no thread that carries records is lost to it.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Instant;

use tokio::runtime::{Builder, Handle, Runtime};

use super::call_slot;

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

    /// The answer of a call into a plugin. While it lasts, host functions may [`wait`].
    pub fn run<T>(&self, deadline: Instant, call: impl FnOnce() -> T) -> T {
        call_slot::begins(deadline);
        let _entered = self.handle.enter();
        call()
    }

    /// The same for a plugin that imports nothing but the contract's own functions, none of which waits.
    pub fn run_without_waits<T>(deadline: Instant, call: impl FnOnce() -> T) -> T {
        call_slot::begins(deadline);
        call()
    }
}

/// The future's output, or `None` at the deadline. Keeps the thread until then.
///
/// It may take a wake-up that was meant for what this thread does next: a worker sleeps when there is no record, and a
/// wait may be part of another wait. So it leaves one behind if it slept, and the thread looks once more.
pub(super) fn wait<F: Future>(deadline: Instant, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    // Most are ready at once, and then need nothing to wake this thread.
    if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        return Some(output);
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut slept = false;
    let output = loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            break Some(output);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break None;
        }
        slept = true;
        thread::park_timeout(left);
    };
    if slept {
        thread::current().unpark();
    }
    output
}

/// Wakes a thread that waits.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
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
    fn a_wait_ends_at_its_deadline_whatever_it_waits_for() {
        let calls = HostCalls::start(1).unwrap();
        let later = |time| Instant::now() + time;
        let long = later(Duration::from_secs(300));
        let soon = || later(Duration::from_millis(20));
        assert_eq!(wait(long, async { 7 }), Some(7));
        assert_eq!(wait(soon(), std::future::pending::<()>()), None);
        calls.run(long, || {
            assert_eq!(wait(long, tokio::time::sleep(Duration::from_millis(1))), Some(()));
            let (release, held) = std::sync::mpsc::channel::<()>();
            let blocked = async { tokio::task::spawn_blocking(move || held.recv()).await };
            assert!(wait(soon(), blocked).is_none(), "an operation that holds its thread");
            // The only thread is held.
            assert!(wait(soon(), async { tokio::task::spawn_blocking(|| ()).await }).is_none());
            drop(release);
            assert!(wait(long, async { tokio::task::spawn_blocking(|| ()).await }).is_some());
        });
    }

    #[test]
    fn a_wait_within_a_wait_ends_as_well() {
        let calls = HostCalls::start(1).unwrap();
        let long = Instant::now() + Duration::from_secs(300);
        let inner = || wait(long, tokio::time::sleep(Duration::from_millis(1)));
        let outer = async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            inner()
        };
        assert_eq!(calls.run(long, || wait(long, outer)), Some(Some(())));
    }

    #[test]
    fn a_wait_takes_nobodys_wake_up() {
        let in_ms = |time| Instant::now() + Duration::from_millis(time);
        // What wakes the outer wait comes while the inner one sleeps.
        let mut polls = 0;
        let outer = std::future::poll_fn(|context| {
            polls += 1;
            if polls == 2 {
                context.waker().wake_by_ref();
                wait(in_ms(20), std::future::pending::<()>());
            }
            if polls > 2 { Poll::Ready(()) } else { Poll::Pending }
        });
        assert_eq!(wait(in_ms(10_000), outer), Some(()));
        // The same for a thread that sleeps after the wait.
        let this = thread::current();
        thread::park_timeout(Duration::ZERO);
        let waker = thread::spawn(move || this.unpark());
        wait(in_ms(20), std::future::pending::<()>());
        waker.join().unwrap();
        let before = Instant::now();
        thread::park_timeout(Duration::from_secs(10));
        assert!(before.elapsed() < Duration::from_secs(10), "the wake-up was lost");
    }
}
