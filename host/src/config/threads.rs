//! Which pipeline a thread belongs to, so that each line of the log can say it.
//!
//! Guarantees: a thread that is started through this module belongs to the pipeline of the thread that started it; a thread
//! that was started otherwise belongs to none. In a process with one pipeline without a name no thread belongs to one.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

/// Plugins run on the calling thread's stack, of which they get 512 KiB (wasmtime's default): a
/// thread needs more than that, whatever `RUST_MIN_STACK` says, so that deep recursion ends as a trap.
const STACK: usize = 2 << 20;

thread_local! {
    static PIPELINE: RefCell<Option<Arc<str>>> = const { RefCell::new(None) };
}

/// The pipeline that this thread belongs to.
pub fn pipeline() -> Option<Arc<str>> {
    // Refused while the thread ends.
    PIPELINE.try_with(|name| name.borrow().clone()).ok().flatten()
}

/// From now on this thread belongs to the pipeline.
pub fn belong_to(pipeline: Option<Arc<str>>) {
    // Refused while the thread ends, when it works for nobody any more.
    let _ = PIPELINE.try_with(|name| name.replace(pipeline));
}

/// Works for a pipeline on a thread that doesn't belong to it.
pub fn within<T>(pipeline: Option<Arc<str>>, work: impl FnOnce() -> T) -> T {
    let before = self::pipeline();
    belong_to(pipeline);
    let done = work();
    belong_to(before);
    done
}

/// Starts a thread that belongs to the pipeline of this one.
pub fn spawn<T: Send + 'static>(
    name: impl Into<String>,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let pipeline = pipeline();
    Builder::new().name(name.into()).stack_size(STACK).spawn(move || {
        belong_to(pipeline);
        work()
    })
}

/// Does the work on a thread of its own that belongs to the pipeline of this one, and waits for it. `None`: it panicked, or
/// there is no thread.
pub fn aside<T: Send>(work: impl FnOnce() -> T + Send) -> Option<T> {
    let pipeline = pipeline();
    std::thread::scope(|scope| {
        let work = move || {
            belong_to(pipeline);
            work()
        };
        Builder::new().stack_size(STACK).spawn_scoped(scope, work).ok()?.join().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_belongs_to_the_pipeline_of_the_one_that_started_it() {
        assert_eq!(spawn("outside", pipeline).unwrap().join().unwrap(), None);
        let seen = within(Some("cameras".into()), || {
            let inner = || (pipeline(), spawn("inner", pipeline).unwrap().join().unwrap());
            spawn("outer", inner).unwrap().join().unwrap()
        });
        assert_eq!(seen, (Some("cameras".into()), Some("cameras".into())));
        assert_eq!(within(Some("cameras".into()), || aside(pipeline)), Some(Some("cameras".into())));
        assert_eq!(pipeline(), None);
    }
}
