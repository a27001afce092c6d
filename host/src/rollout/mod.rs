//! The life of plugins: one task watches the files and the configuration, loads what is new, tries it beside what is
//! there, puts it to work, watches it, and brings the old version back where the new one is worse.
//!
//! Guarantees: one thread decides everything, another one loads, both off the data path; a file is loaded when its bytes
//! are others than those at work, and only then; what doesn't load, or fails its trial, leaves the present version
//! working, and the log says why, once; the version before is kept, ready to return, until there is a newer one.

mod bounds;
mod course;
mod files;
mod reload;
mod report;
mod task;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::chain::SharedChain;
use crate::config::{Config, Problems};

pub use self::report::{Cause, Outcome, Steps, SwapReport, Swaps, Watched};
use self::task::{Signal, Task};

/// How patiently files are watched.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Nothing must have happened for this long before a file is looked at: one copy is many events.
    pub debounce: Duration,
    /// Files are looked at this often without an event.
    pub poll: Duration,
    /// A file that isn't right is taken to be still in the writing until it hasn't changed for this long.
    pub settle: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { debounce: Duration::from_millis(100), poll: Duration::from_secs(2), settle: Duration::from_secs(1) }
    }
}

/// Where the chain is configured, for a host that takes up changes.
pub struct Source {
    /// Watched; `None`: only a signal makes the configuration be read again.
    pub file: Option<PathBuf>,
    /// Reads all of it again.
    pub load: Box<dyn Fn() -> Result<Config, Problems> + Send>,
    /// What the host runs with.
    pub present: Config,
}

/// Ends the task when it is dropped. A load that is under way is finished, and thrown away.
pub struct Lifecycle {
    control: Control,
    thread: Option<JoinHandle<()>>,
}

/// What may be asked of the task, from any thread.
#[derive(Clone)]
pub struct Control {
    signals: Sender<Signal>,
    pub swaps: Swaps,
}

/// Begins to look after `shared`: from now on, nothing that happens to its files goes unseen.
pub fn start(shared: Arc<SharedChain>, source: Option<Source>, pace: Pace) -> Lifecycle {
    let (signals, inbox) = channel();
    let control = Control { signals, swaps: Swaps::default() };
    let task = Task::new(shared, source, pace, &control);
    let thread = thread::Builder::new().name("plugin-life".into()).spawn(move || task.run(&inbox));
    if let Err(error) = &thread {
        tracing::error!(%error, "no thread to look after the plugins; they aren't swapped until a restart");
    }
    Lifecycle { control, thread: thread.ok() }
}

impl Lifecycle {
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Ends the task and waits until it has ended.
    pub fn stop(mut self) {
        let thread = self.thread.take();
        drop(self);
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that looked after the plugins panicked");
        }
    }
}

impl Drop for Lifecycle {
    fn drop(&mut self) {
        // Refused only by a thread that has ended already.
        let _ = self.control.signals.send(Signal::Stop);
    }
}

impl Control {
    /// Reads the configuration again.
    pub fn reload(&self) {
        // Refused only by a thread that has ended already.
        let _ = self.signals.send(Signal::Reload);
    }

    /// Puts the candidate of this plugin to work, whatever its trial found so far. Tells what was done, or why not.
    pub fn promote(&self, plugin: &str) -> Result<String, String> {
        self.ask(|answer| Signal::Promote(plugin.into(), answer))
    }

    /// Ends this plugin's trial, or brings back the version before the present one. Tells what was done, or why not.
    pub fn rollback(&self, plugin: &str) -> Result<String, String> {
        self.ask(|answer| Signal::Rollback(plugin.into(), answer))
    }

    fn ask(&self, signal: impl FnOnce(Sender<Result<String, String>>) -> Signal) -> Result<String, String> {
        let (answer, answered) = channel();
        let gone = |_| "the host looks after its plugins no more: it is stopping".to_owned();
        self.signals.send(signal(answer)).map_err(|_| gone(()))?;
        answered.recv_timeout(Duration::from_secs(30)).map_err(|_| gone(()))?
    }
}
