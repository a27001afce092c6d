//! The worker threads: started, spoken to, and joined at the end.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{HostFailure, RunError, failed, lock};
use crate::chain::SharedChain;
use crate::flow::Budget;
use crate::flow::pauses::Pauses;
use crate::health::tap::Taps;
use crate::pipeline::worker::{Worker, WorkerCommand};
use crate::sink::Sink;

pub(super) struct Workers(Vec<Handle>);

struct Handle {
    commands: Sender<WorkerCommand>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Workers {
    pub fn start(
        number: usize,
        chain: &Arc<SharedChain>,
        sink: &Sink,
        budget: &Arc<Budget>,
        pauses: &Arc<Pauses>,
        taps: &Arc<Taps>,
        failure: &HostFailure,
    ) -> Result<Self, RunError> {
        let mut workers = Vec::new();
        for index in 0..number.max(1) {
            let (commands, inbox) = channel();
            let failure = failure.clone();
            let worker = Worker {
                commands: inbox,
                shared: Arc::clone(chain),
                sink: sink.clone(),
                budget: Arc::clone(budget),
                pauses: Arc::clone(pauses),
                taps: Arc::clone(taps),
                fail: Arc::new(move |reason: String| failure.set(reason)),
            };
            let thread = std::thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || worker.run())
                .map_err(failed("can't start a worker"))?;
            workers.push(Handle { commands, thread: Mutex::new(Some(thread)) });
        }
        Ok(Self(workers))
    }

    /// `false`: there is no such worker, or it is gone.
    pub fn send(&self, worker: usize, command: WorkerCommand) -> bool {
        self.0.get(worker).is_some_and(|handle| handle.send(command))
    }

    /// Makes a worker look at its partitions again.
    pub fn wake(&self, worker: usize) {
        if let Some(handle) = self.0.get(worker) {
            handle.wake();
        }
    }

    /// The one with the least load.
    pub fn least_loaded(&self, load: impl Fn(usize) -> usize) -> usize {
        (0..self.0.len()).min_by_key(|index| load(*index)).unwrap_or_default()
    }

    pub fn any_gone(&self) -> bool {
        self.0.iter().any(|handle| lock(&handle.thread).as_ref().is_some_and(JoinHandle::is_finished))
    }

    /// Ends them all. `false`: one had panicked.
    pub fn join(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        for handle in &self.0 {
            handle.send(WorkerCommand::Stop);
        }
        let mut well = true;
        for (index, handle) in self.0.iter().enumerate() {
            let Some(thread) = lock(&handle.thread).take() else { continue };
            while !thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            if thread.is_finished() {
                well &= thread.join().is_ok();
            } else {
                // The process ends without it. What it held isn't committed.
                tracing::error!(worker = index, "the worker is still in a call to a plugin; it is abandoned");
            }
        }
        well
    }
}

impl Handle {
    fn send(&self, command: WorkerCommand) -> bool {
        let sent = self.commands.send(command).is_ok();
        self.wake();
        sent
    }

    fn wake(&self) {
        if let Some(thread) = lock(&self.thread).as_ref() {
            thread.thread().unpark();
        }
    }
}
