//! The rollout of new plugins: one task watches the files and the configuration, has new versions loaded, tries them in
//! shadow beside the active ones, activates them, watches them for a bake window, and rolls back those that are worse.
//!
//! Guarantees: the thread `rollout` decides: it reads a changed file for its digest, and where that is new, the thread `plugin-loader`
//! reads the file again, checks and loads it. No worker waits for either. A file is loaded if its
//! bytes differ from those of the active version, unless these bytes are on trial or were refused before; if a version doesn't load or fails its trial, the active
//! version stays, and the log says why, once; the previous version is kept loaded for a rollback until the next swap.

mod actions;
mod bake_window;
mod next_start;
mod pending;
mod reload;
mod report;
#[expect(clippy::module_inception, reason = "the rollout of one plugin, beside what serves all of them")]
mod rollout;
mod shadow_trial;
mod tags;
mod task;
mod watcher;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::chain::SharedChain;
use crate::config::{Config, ConfigProblems, PluginConfig, threads};

pub use self::actions::{PluginActions, PossibleActions};
pub use self::next_start::NextStart;
pub use self::report::{BakeFigures, Cause, RolloutOutcome, Steps, SwapReport, Swaps};
pub use self::shadow_trial::TrialComparison;
use self::task::{RolloutTask, Signal};

/// How soon a changed file is read.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// A changed file is read when no event came for this long, because copying one file causes many events.
    pub debounce: Duration,
    /// How often the files are polled if no event comes.
    pub poll: Duration,
    /// A file that doesn't load counts as half written until it hasn't changed for this long.
    pub settle: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { debounce: Duration::from_millis(100), poll: Duration::from_secs(2), settle: Duration::from_secs(1) }
    }
}

/// Reads the configuration again. The argument: the plugins that may decide about records now, or after a rollback.
pub type ReadAgain = Box<dyn Fn(&[Arc<PluginConfig>]) -> Result<Config, NotTaken> + Send>;

/// Where a host that applies changed configurations reads its chain from.
pub struct ChainSource {
    /// The configuration file, which is watched. `None`: only a signal makes the host read the configuration again.
    pub file: Option<PathBuf>,
    /// Reads the whole configuration again.
    pub load: ReadAgain,
    /// The configuration that the host runs with.
    pub present: Config,
}

/// Why a configuration that was read isn't taken over.
#[derive(Debug)]
pub enum NotTaken {
    /// It is wrong: the host would not start with it, either.
    Wrong(ConfigProblems),
    /// A host that starts takes it, one that runs doesn't.
    NeedsRestart {
        /// The reason.
        why: String,
        /// The plugins that a host that starts would have.
        plugins: Vec<PluginConfig>,
    },
}

impl From<ConfigProblems> for NotTaken {
    fn from(problems: ConfigProblems) -> Self {
        Self::Wrong(problems)
    }
}

/// The running rollout task. Dropping it asks the task to end and doesn't wait for that; the task discards the
/// result of a load that is under way.
pub struct RolloutHandle {
    control: Control,
    thread: Option<JoinHandle<()>>,
}

/// Sends requests to the rollout task, from any thread.
#[derive(Clone)]
pub struct Control {
    signals: Sender<Signal>,
    /// The reports of past swaps.
    pub swaps: Swaps,
    /// What there is to promote and to roll back.
    pub actions: PossibleActions,
    /// What would keep the host from starting again with the files as they are now.
    pub next_start: NextStart,
}

/// Starts the rollout task for the plugins of `shared`: from now on no change of their files is missed.
pub fn start(shared: Arc<SharedChain>, source: Option<ChainSource>, pace: Pace) -> RolloutHandle {
    let (signals, inbox) = channel();
    let control = Control {
        signals,
        swaps: Swaps::default(),
        actions: PossibleActions::default(),
        next_start: NextStart::default(),
    };
    let task = RolloutTask::new(shared, source, pace, &control);
    let thread = threads::spawn("rollout", move || task.run(&inbox));
    if let Err(error) = &thread {
        tracing::error!(
            %error,
            "the thread that watches the plugins' files can't be started; the host swaps no plugins until it is restarted"
        );
    }
    RolloutHandle { control, thread: thread.ok() }
}

impl RolloutHandle {
    /// A handle for requests to this task.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Ends the task and waits until it has ended.
    pub fn stop(mut self) {
        let thread = self.thread.take();
        drop(self);
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that watched the plugins panicked");
        }
    }
}

impl Drop for RolloutHandle {
    fn drop(&mut self) {
        // Fails only if the thread has ended already.
        let _ = self.control.signals.send(Signal::Stop);
    }
}

impl Control {
    /// Asks the task to read the configuration again.
    pub fn reload(&self) {
        // Fails only if the thread has ended already.
        let _ = self.signals.send(Signal::Reload);
    }

    /// Activates the candidate of this plugin, whatever its trial found so far. Returns what was done, or why it
    /// wasn't.
    pub fn promote(&self, plugin: &str) -> Result<String, String> {
        self.ask(|answer| Signal::Promote(plugin.into(), answer))
    }

    /// Ends this plugin's trial, or activates its previous version again. Returns what was done, or why it wasn't.
    pub fn rollback(&self, plugin: &str) -> Result<String, String> {
        self.ask(|answer| Signal::Rollback(plugin.into(), answer))
    }

    fn ask(&self, signal: impl FnOnce(Sender<Result<String, String>>) -> Signal) -> Result<String, String> {
        let (answer, answered) = channel();
        let gone = |_| "the host is stopping and changes no plugins any more".to_owned();
        self.signals.send(signal(answer)).map_err(|_| gone(()))?;
        answered.recv_timeout(Duration::from_secs(30)).map_err(|_| gone(()))?
    }
}
