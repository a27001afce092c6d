//! One running instance of a plugin: started, configured, and asked about records.
//!
//! Guarantees: a call returns within the plugin's time limit (plus a tick) or is stopped; after a trap, an exceeded
//! limit or an unreadable answer the instance is broken and says so. An instance belongs to one thread, which must not
//! be one of tokio's: WASI's functions block.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::{Store, Trap};

use super::bindings::Transform;
use super::bindings::reduct_sink::transform::types::Failure;
use super::error::Problem;
use super::host::State;
use super::loaded::{Code, LoadedPlugin};
use super::log::clip;
use super::message::RecordView;
use super::runtime::{START_TIMEOUT, ticks};
use super::verdict::{Verdict, Violation, check};
use crate::record::OutputRecord;

/// What a call may hand to the host beside its verdict, the texts of log lines for example.
const FUEL_FOR_THE_REST: usize = 1 << 20;
/// The longest reason that is kept.
const REASON_BYTES: usize = 4096;

pub(crate) struct Instance {
    store: Store<State>,
    transform: Transform,
    code: Arc<Code>,
    /// Counted, so that what a toolchain leaks a call can't add up for ever.
    calls: u64,
    /// Above this the instance has grown.
    high_water: usize,
}

/// Why there is no verdict.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The plugin said so, or broke a rule of the contract. The instance goes on.
    Failed(String),
    /// The plugin asks to be called again later. The instance goes on.
    Retry(String),
    /// Its circuit breaker is open, for so long at least.
    NotAsked(Duration),
    /// A trap or an exceeded limit. The instance is of no more use.
    Broken(String),
}

impl Trouble {
    pub fn text(&self) -> &str {
        match self {
            Self::Failed(reason) | Self::Retry(reason) | Self::Broken(reason) => reason,
            Self::NotAsked(_) => "its circuit breaker is open",
        }
    }
}

impl Instance {
    /// Starts an instance and configures it.
    pub fn start(plugin: &LoadedPlugin) -> Result<Self, Problem> {
        let code = plugin.code.clone();
        let state = State::new(&code, START_TIMEOUT).map_err(Problem::Grant)?;
        let mut store = Store::new(code.pre.engine(), state);
        store.limiter(|state| &mut state.memory);
        store.set_hostcall_fuel(code.limits.verdict_bytes + code.limits.verdict_bytes / 16 + FUEL_FOR_THE_REST);
        store.set_epoch_deadline(ticks(START_TIMEOUT));
        let transform = match code.pre.instantiate(&mut store) {
            Ok(transform) => transform,
            Err(error) => return Err(start_problem(&error, &store)),
        };
        let transformer = transform.reduct_sink_transform_transformer();
        match transformer.call_configure(&mut store, &code.config) {
            Ok(Ok(())) => {}
            Ok(Err(refusal)) => return Err(Problem::ConfigureRefused(clip(&refusal, REASON_BYTES).into())),
            Err(error) if is_timeout(&error) => return Err(Problem::StartTimedOut),
            Err(error) => return Err(Problem::ConfigureTrapped(reason(&error, &store, START_TIMEOUT))),
        }
        let state = store.data_mut();
        state.sandbox.started(code.timeout);
        let at_start = state.memory.used;
        let limit = usize::try_from(code.memory_bytes).unwrap_or(usize::MAX);
        let default_high_water = at_start.saturating_add(limit.saturating_sub(at_start) / 4 * 3);
        // One that is above its mark from the start would be replaced after each call, to no avail.
        let configured = code.recycle.memory_bytes.and_then(|bytes| usize::try_from(bytes).ok());
        let high_water = configured.unwrap_or(default_high_water).max(at_start);
        Ok(Self { store, transform, code, calls: 0, high_water })
    }

    /// Asks about each of `outputs`, which all come from `record`, in order, until there is trouble. The verdicts are
    /// put behind `verdicts`; `outputs` stays as it is.
    pub fn ask(
        &mut self,
        record: &RecordView<'_>,
        outputs: &mut Vec<OutputRecord>,
        verdicts: &mut Vec<Verdict>,
    ) -> Result<(), Trouble> {
        // The host functions tell of the record through the state, so it is lent to it meanwhile.
        std::mem::swap(&mut self.store.data_mut().outputs, outputs);
        let answer = self.ask_each(record, verdicts);
        std::mem::swap(&mut self.store.data_mut().outputs, outputs);
        answer
    }

    /// What its memories take now.
    pub fn memory_bytes(&self) -> usize {
        self.store.data().memory.used
    }

    /// Whether a fresh instance should take over.
    pub fn is_worn(&self) -> bool {
        self.calls >= self.code.recycle.calls || self.store.data().memory.used > self.high_water
    }

    /// Puts off the next time that it counts as worn, where no fresh instance could be started.
    pub fn carry_on(&mut self) {
        self.calls = 0;
        self.high_water = self.high_water.max(self.store.data().memory.used);
    }

    fn ask_each(&mut self, record: &RecordView<'_>, verdicts: &mut Vec<Verdict>) -> Result<(), Trouble> {
        let ticks = ticks(self.code.timeout);
        for at in 0..self.store.data().outputs.len() {
            let state = self.store.data_mut();
            state.at = at;
            state.log_lines = self.code.limits.log_lines;
            state.sandbox.next_record();
            let Some(output) = state.outputs.get(at) else { break };
            let message = record.message(output);
            self.calls += 1;
            self.store.set_epoch_deadline(ticks);
            let transformer = self.transform.reduct_sink_transform_transformer();
            match transformer.call_transform(&mut self.store, message) {
                Ok(Ok(verdict)) => {
                    check(&verdict, &self.code.limits).map_err(|violation| match violation {
                        Violation::Rule(rule) => Trouble::Failed(clip(&rule, REASON_BYTES).into()),
                        Violation::Limit(limit) => Trouble::Broken(limit),
                    })?;
                    verdicts.push(verdict);
                }
                Ok(Err(Failure::Reject(text))) => return Err(Trouble::Failed(clip(&text, REASON_BYTES).into())),
                Ok(Err(Failure::Retry(text))) => return Err(Trouble::Retry(clip(&text, REASON_BYTES).into())),
                Err(error) => return Err(Trouble::Broken(reason(&error, &self.store, self.code.timeout))),
            }
        }
        Ok(())
    }
}

fn start_problem(error: &wasmtime::Error, store: &Store<State>) -> Problem {
    if is_timeout(error) {
        Problem::StartTimedOut
    } else if error.downcast_ref::<Trap>().is_some() {
        Problem::StartTrapped(reason(error, store, START_TIMEOUT))
    } else if store.data().memory.refused {
        Problem::Host(reason(error, store, START_TIMEOUT))
    } else {
        Problem::WrongShape(reason(error, store, START_TIMEOUT))
    }
}

fn is_timeout(error: &wasmtime::Error) -> bool {
    error.downcast_ref::<Trap>() == Some(&Trap::Interrupt)
}

/// What went wrong, on one line and without a stack.
fn reason(error: &wasmtime::Error, store: &Store<State>, timeout: Duration) -> String {
    if is_timeout(error) {
        return format!("it was stopped after its time limit of {timeout:?}");
    }
    let chain: Vec<String> = error.chain().map(ToString::to_string).collect();
    let mut reason = chain.join(": ");
    if store.data().memory.refused {
        reason.push_str(" (after it met its memory limit)");
    }
    clip(&reason, REASON_BYTES).into()
}
