//! Starts the worker threads, sends them commands, replaces one that hangs in a plugin, and joins them at the end.
//!
//! Guarantees: a worker that doesn't come back from a plugin is noticed, reported and replaced; at the host's end no worker is waited for
//! longer than the time that [`Workers::join`] gets, and one that hangs then is left behind.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::failure::FailureReason;
use super::hung::{HungCall, HungRecords};
use super::run::Lasting;
use super::{HostFailure, RunError, failed, lock};
use crate::chain::{PluginFailure, SharedChain};
use crate::config::threads;
use crate::flow::Budget;
use crate::flow::pauses::Pauses;
use crate::health::tap::Taps;
use crate::pipeline::worker::{Worker, WorkerActivity, WorkerCommand};
use crate::plugin::{CallWatch, Overdue};
use crate::sink::Sink;

/// When more than this many threads hang in plugins at a time the host ends: each keeps the memory of its plugins.
const MOST_HUNG: usize = 16;

pub(super) struct Workers {
    parts: WorkerParts,
    handles: Vec<Mutex<WorkerHandle>>,
    abandoned: Mutex<Vec<Abandoned>>,
}

/// What each worker is made with.
struct WorkerParts {
    chain: Arc<SharedChain>,
    sink: Sink,
    budget: Arc<Budget>,
    pauses: Arc<Pauses>,
    taps: Arc<Taps>,
    failure: HostFailure,
    hung: Arc<HungRecords>,
}

struct WorkerHandle {
    commands: Sender<WorkerCommand>,
    activity: Arc<WorkerActivity>,
    watch: CallWatch,
    /// `None`: it was joined.
    thread: Option<JoinHandle<()>>,
}

/// A thread that did not come back from a plugin.
struct Abandoned {
    thread: JoinHandle<()>,
    /// What it was doing, in words.
    what: String,
}

impl Workers {
    pub fn start(
        number: usize,
        chain: &Arc<SharedChain>,
        sink: &Sink,
        budget: &Arc<Budget>,
        lasting: &Lasting,
        taps: &Arc<Taps>,
        failure: &HostFailure,
    ) -> Result<Self, RunError> {
        let parts = WorkerParts {
            chain: Arc::clone(chain),
            sink: sink.clone(),
            budget: Arc::clone(budget),
            pauses: Arc::clone(&lasting.pauses),
            taps: Arc::clone(taps),
            failure: failure.clone(),
            hung: Arc::clone(&lasting.hung),
        };
        let handles = (0..number.max(1)).map(|index| parts.spawn(index).map(Mutex::new));
        let handles = handles.collect::<Result<_, _>>().map_err(failed("can't start a worker"))?;
        Ok(Self { parts, handles, abandoned: Mutex::default() })
    }

    /// `false`: there is no such worker, or it is gone.
    pub fn send(&self, worker: usize, command: WorkerCommand) -> bool {
        self.handles.get(worker).is_some_and(|handle| lock(handle).send(command))
    }

    /// Makes a worker look at its partitions again.
    pub fn wake(&self, worker: usize) {
        if let Some(handle) = self.handles.get(worker) {
            lock(handle).wake();
        }
    }

    /// The records on which plugins hung: they are given to no plugin again.
    pub fn hung_records(&self) -> Arc<HungRecords> {
        Arc::clone(&self.parts.hung)
    }

    /// Replaces each worker that doesn't come back from a plugin by a fresh one, and returns their indices: the caller has to give the
    /// partitions of these workers to the fresh ones.
    pub fn replace_hung(&self) -> Vec<usize> {
        let now = Instant::now();
        let mut replaced = Vec::new();
        for (index, handle) in self.handles.iter().enumerate() {
            let mut handle = lock(handle);
            let activity = Arc::clone(&handle.activity);
            let Some(overdue) = handle.watch.look(&activity.calls, now) else { continue };
            let fresh = match self.parts.spawn(index) {
                Ok(fresh) => fresh,
                Err(error) => {
                    self.parts.failure.set(format!("a worker hangs in a plugin, and none can take its place: {error}"));
                    continue;
                }
            };
            let hung = std::mem::replace(&mut *handle, fresh);
            drop(handle);
            let what = self.parts.note(overdue, &hung.activity);
            tracing::error!(worker = index, "a worker is lost: {what}; a fresh one takes its place");
            if let Some(thread) = hung.thread {
                lock(&self.abandoned).push(Abandoned { thread, what });
            }
            replaced.push(index);
        }
        if self.hung().len() > MOST_HUNG {
            self.parts.failure.set(format!("more than {MOST_HUNG} threads hang in plugins"));
        }
        replaced
    }

    /// Says of each abandoned thread that still hangs in a plugin what it was doing.
    pub fn hung(&self) -> Vec<String> {
        let mut abandoned = lock(&self.abandoned);
        abandoned.retain(|one| !one.thread.is_finished());
        abandoned.iter().map(|one| one.what.clone()).collect()
    }

    /// How many threads are left behind in plugins.
    pub fn left_behind(&self) -> usize {
        let unfinished =
            |handle: &&Mutex<WorkerHandle>| lock(handle).thread.as_ref().is_some_and(|thread| !thread.is_finished());
        self.hung().len() + self.handles.iter().filter(unfinished).count()
    }

    /// The index of the worker with the least load.
    pub fn least_loaded(&self, load: impl Fn(usize) -> usize) -> usize {
        (0..self.handles.len()).min_by_key(|index| load(*index)).unwrap_or_default()
    }

    /// Whether a worker's thread has ended. While the host runs, only a failure ends one.
    pub fn any_gone(&self) -> bool {
        self.handles.iter().any(|handle| lock(handle).thread.as_ref().is_some_and(JoinHandle::is_finished))
    }

    /// Ends all workers, and waits for them for `patience` at most. `false`: one had panicked.
    pub fn join(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        for handle in &self.handles {
            lock(handle).send(WorkerCommand::Stop);
        }
        let mut well = true;
        for (index, handle) in self.handles.iter().enumerate() {
            let Some(thread) = lock(handle).thread.take() else { continue };
            while !thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            if thread.is_finished() {
                well &= thread.join().is_ok();
            } else {
                // Its thread is left behind. The record that it had isn't committed.
                lock(handle).thread = Some(thread);
                tracing::error!(worker = index, "the worker is still in a call to a plugin; it is abandoned");
            }
        }
        well
    }
}

impl WorkerParts {
    fn spawn(&self, index: usize) -> std::io::Result<WorkerHandle> {
        let (commands, inbox) = channel();
        let (failure, activity) = (self.failure.clone(), Arc::new(WorkerActivity::default()));
        let worker = Worker {
            commands: inbox,
            activity: Arc::clone(&activity),
            hung: Arc::clone(&self.hung),
            shared: Arc::clone(&self.chain),
            sink: self.sink.clone(),
            budget: Arc::clone(&self.budget),
            pauses: Arc::clone(&self.pauses),
            taps: Arc::clone(&self.taps),
            fail: Arc::new(move |reason: FailureReason| failure.set(reason)),
        };
        let thread = threads::spawn(format!("worker-{index}"), move || worker.run())?;
        Ok(WorkerHandle { commands, activity, watch: CallWatch::default(), thread: Some(thread) })
    }

    /// Notes the record on which a worker hangs, and says what it was doing.
    fn note(&self, overdue: Overdue, activity: &WorkerActivity) -> String {
        let stage = match overdue {
            Overdue::Record(stage) => self.chain.stages().into_iter().nth(stage),
            Overdue::Start => None,
        };
        let (Some(stage), Some(record)) = (stage, lock(&activity.record).clone()) else {
            return "it doesn't come back from starting an instance of a plugin".into();
        };
        let (plugin, policy) = (&stage.version.plugin, stage.config.on_failure);
        let reason = "its call did not come back long after its time limit, and the thread that made it was abandoned";
        let what = format!("plugin {} hangs on {}@{}", plugin.name, record.source, record.offset);
        let (name, digest, config) = (plugin.name.clone(), plugin.digest, plugin.config);
        let failure = PluginFailure { plugin: name, digest, config, reason: reason.into() };
        self.hung.add(record, HungCall { failure, policy });
        what
    }
}

impl WorkerHandle {
    fn send(&self, command: WorkerCommand) -> bool {
        let sent = self.commands.send(command).is_ok();
        self.wake();
        sent
    }

    fn wake(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}
