//! One running instance of a plugin: started, configured, and asked about records.
//!
//! Guarantees: a call returns within the plugin's time limit (plus a tick), the time that the host waits on its behalf
//! included, or is stopped; after a trap, an exceeded limit or an unreadable answer the instance is broken and says so.
//! The reason of a failure contains what the plugin printed about it. An instance belongs to one thread, which must not
//! be one of an asynchronous runtime: calls block.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::{FrameInfo, Store, Trap, WasmBacktrace};

use super::bindings::reduct_sink::transform::types::{Failure, Message};
use super::bindings::{Transform, concurrent};
use super::contract::START_TIMEOUT;
use super::engine::{PreparedComponent, ticks};
use super::error::LoadProblem;
use super::host_calls::HostCalls;
use super::line_table::LineTable;
use super::loaded::{Code, LoadedPlugin};
use super::memory::MAX_HANDLES;
use super::message::RecordView;
use super::state::{Setting, State};
use super::verdict::{Verdict, Violation, check};
use super::waits::{OutOfTime, until};
use crate::record::OutputRecord;
use crate::record::text::one_line;

/// What a call may hand to the host beside its verdict, the texts of log lines for example.
const FUEL_FOR_THE_REST: usize = 1 << 20;
/// The longest reason that is kept.
const REASON_BYTES: usize = 4096;
/// Behind a trap of which nothing else is known.
const NO_LINES: &str =
    " (the line isn't known: `reduct-sink plugin build` puts a table of lines into components of C, C++, Rust and Zig)";

/// Part of wasmtime's message where [`super::memory`] allows no further instance of a core module.
const TOO_MANY_INSTANCES: &str = "instance count too high";

pub(crate) struct Instance {
    store: Store<State>,
    transform: Entrance,
    code: Arc<Code>,
    /// Counted, so that what a toolchain leaks in each call can't add up for ever.
    calls: u64,
    /// Above this the instance has grown.
    high_water: usize,
}

/// The plugin's functions.
enum Entrance {
    Plain { transform: Transform, may_wait: bool },
    Concurrent(concurrent::Transform),
}

impl Entrance {
    fn start(code: &Code, store: &mut Store<State>, deadline: Instant) -> wasmtime::Result<Self> {
        match &code.pre {
            PreparedComponent::Plain { pre, may_wait } => {
                let transform = code.host_calls.run(deadline, || pre.instantiate(store))?;
                Ok(Self::Plain { transform, may_wait: *may_wait })
            }
            PreparedComponent::Concurrent(pre) => {
                code.host_calls.run(deadline, || until(deadline, pre.instantiate_async(store))?).map(Self::Concurrent)
            }
        }
    }

    fn configure(
        &self,
        code: &Code,
        store: &mut Store<State>,
        deadline: Instant,
    ) -> wasmtime::Result<Result<(), String>> {
        let config = &code.config;
        code.host_calls.run(deadline, || match self {
            Self::Plain { transform, .. } => {
                transform.reduct_sink_transform_transformer().call_configure(store, config)
            }
            Self::Concurrent(transform) => {
                until(deadline, transform.reduct_sink_transform_transformer().call_configure(store, config))?
            }
        })
    }

    fn transform(
        &self,
        code: &Code,
        store: &mut Store<State>,
        message: Message<'_>,
        deadline: Instant,
    ) -> wasmtime::Result<Result<Verdict, Failure>> {
        let ask = || match self {
            Self::Plain { transform, .. } => {
                transform.reduct_sink_transform_transformer().call_transform(store, message)
            }
            Self::Concurrent(transform) => {
                until(deadline, transform.reduct_sink_transform_transformer().call_transform(store, message))?
            }
        };
        match self {
            Self::Plain { may_wait: false, .. } => HostCalls::run_without_waits(deadline, ask),
            _ => code.host_calls.run(deadline, ask),
        }
    }
}

/// Why there is no verdict.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The plugin said so, or broke a rule of the contract. The instance goes on.
    Failed(String),
    /// The plugin asks to be called again later. The instance goes on.
    Retry(String),
    /// Its circuit breaker is open, for at least this long.
    NotAsked(Duration),
    /// A trap or an exceeded limit. The instance is of no more use.
    Broken(String),
    /// The same where the time limit was exceeded, with how long the call took.
    TimedOut(String, Duration),
}

impl Trouble {
    pub fn text(&self) -> &str {
        match self {
            Self::Failed(reason) | Self::Retry(reason) | Self::Broken(reason) | Self::TimedOut(reason, _) => reason,
            Self::NotAsked(_) => "its circuit breaker is open",
        }
    }
}

impl Instance {
    /// Starts an instance and configures it.
    pub fn start(plugin: &LoadedPlugin) -> Result<Self, LoadProblem> {
        let code = plugin.code.clone();
        let setting = Setting {
            memory_bytes: code.memory_bytes,
            core_state: code.core_state,
            log_lines: code.limits.log_lines,
            grants: &code.grants,
            log: &code.log,
            http: code.http.as_ref(),
            files: &code.files,
            seed: code.seed,
            labels: &code.labels,
            time_limit: START_TIMEOUT,
        };
        let mut store = store(&code, State::new(&setting).map_err(LoadProblem::Grant)?);
        store.set_epoch_deadline(ticks(START_TIMEOUT));
        let deadline = Instant::now() + START_TIMEOUT;
        store.data_mut().deadline = deadline;
        let transform =
            Entrance::start(&code, &mut store, deadline).map_err(|error| start_problem(&error, &store, &code.lines))?;
        match transform.configure(&code, &mut store, deadline) {
            Ok(Ok(())) => {}
            Ok(Err(refusal)) => return Err(LoadProblem::ConfigureRefused(one_line(&refusal, REASON_BYTES))),
            Err(error) if is_timeout(&error) => return Err(LoadProblem::StartTimedOut),
            Err(error) => {
                return Err(LoadProblem::ConfigureTrapped(reason(&error, &store, &code.lines, START_TIMEOUT)));
            }
        }
        let state = store.data_mut();
        state.write_printout();
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
        // The host functions find the record in the state, so it is lent to the state meanwhile.
        std::mem::swap(&mut self.store.data_mut().outputs, outputs);
        let answer = self.ask_each(record, verdicts);
        match &answer {
            Ok(()) | Err(Trouble::Retry(_) | Trouble::NotAsked(_)) => self.store.data().write_printout(),
            // The failure's own line has it as its cause.
            Err(_) => self.store.data().write_printout_of_failure(),
        }
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
        let (limits, timeout) = (self.code.limits, self.code.timeout);
        let ticks = ticks(timeout);
        let mut bytes = 0_usize;
        for at in 0..self.store.data().outputs.len() {
            let state = self.store.data_mut();
            state.write_printout();
            state.sandbox.printout.forget_cause();
            let Some(output) = state.turn_to(at, limits.log_lines) else { break };
            let message = record.message(output);
            self.calls += 1;
            self.store.set_epoch_deadline(ticks);
            let began = Instant::now();
            let deadline = began + timeout;
            self.store.data_mut().deadline = deadline;
            let verdict = match self.transform.transform(&self.code, &mut self.store, message, deadline) {
                Ok(Ok(verdict)) => verdict,
                Ok(Err(Failure::Reject(text))) => return Err(Trouble::Failed(one_line(&text, REASON_BYTES))),
                Ok(Err(Failure::Retry(text))) => return Err(Trouble::Retry(one_line(&text, REASON_BYTES))),
                Err(error) => {
                    let reason = reason(&error, &self.store, &self.code.lines, timeout);
                    return Err(match is_timeout(&error) {
                        true => Trouble::TimedOut(reason, began.elapsed()),
                        false => Trouble::Broken(reason),
                    });
                }
            };
            let Some(output) = self.store.data().present() else { break };
            let size = check(&verdict, &limits, &self.code.entries, output).map_err(|violation| match violation {
                Violation::Rule(rule) => Trouble::Failed(one_line(&rule, REASON_BYTES)),
                Violation::Limit(limit) => Trouble::Broken(limit),
            })?;
            // All of them are held at once.
            bytes = bytes.saturating_add(size);
            if bytes > limits.verdict_bytes {
                return Err(Trouble::Broken(format!(
                    "its verdicts on the parts of one record have {bytes} bytes so far; the most are {}",
                    limits.verdict_bytes
                )));
            }
            verdicts.push(verdict);
        }
        Ok(())
    }
}

fn store(code: &Code, state: State) -> Store<State> {
    let mut store = Store::new(code.pre.engine(), state);
    store.limiter(|state| &mut state.memory);
    // The host holds a copy of what a call hands over. A verdict whose strings overlap in the plugin's memory could be
    // larger than that memory.
    let memory = usize::try_from(code.memory_bytes).unwrap_or(usize::MAX);
    let verdict = code.limits.verdict_bytes.min(memory);
    store.set_hostcall_fuel(verdict + verdict / 16 + FUEL_FOR_THE_REST);
    store.set_max_component_handles(MAX_HANDLES);
    if let Some(table) = store.concurrent_resource_table() {
        table.set_max_capacity(MAX_HANDLES);
    }
    store
}

fn start_problem(error: &wasmtime::Error, store: &Store<State>, lines: &LineTable) -> LoadProblem {
    let reason = || reason(error, store, lines, START_TIMEOUT);
    if is_timeout(error) {
        LoadProblem::StartTimedOut
    } else if error.downcast_ref::<Trap>().is_some() {
        LoadProblem::StartTrapped(reason())
    } else if store.data().memory.refused {
        LoadProblem::Host(reason())
    } else if format!("{error:#}").contains(TOO_MANY_INSTANCES) {
        LoadProblem::Host(format!("{} (what they take counts against its memory limit)", reason()))
    } else {
        LoadProblem::WrongShape(reason())
    }
}

fn is_timeout(error: &wasmtime::Error) -> bool {
    error.downcast_ref::<Trap>() == Some(&Trap::Interrupt) || error.is::<OutOfTime>()
}

/// What went wrong, on one line: the stack is reduced to the line of the author's source.
fn reason(error: &wasmtime::Error, store: &Store<State>, lines: &LineTable, timeout: Duration) -> String {
    let stack = error.downcast_ref::<WasmBacktrace>();
    let mut offsets = stack.into_iter().flat_map(WasmBacktrace::frames).filter_map(FrameInfo::module_offset);
    let place = offsets.find_map(|offset| lines.place(offset));
    if is_timeout(error) {
        let waited = if error.is::<OutOfTime>() { ", while it waited for the host" } else { "" };
        let text = format!("it was stopped after its time limit of {timeout:?}{waited}");
        return with_cause(text, place, store);
    }
    // The stack is the outermost context.
    let chain: Vec<String> = error.chain().skip(usize::from(stack.is_some())).map(ToString::to_string).collect();
    let mut reason = chain.join(": ");
    if store.data().memory.refused {
        reason.push_str(" (after it met its memory limit)");
    } else if lines.is_empty() && error.is::<Trap>() && !store.data().sandbox.printout.has_cause() {
        reason.push_str(NO_LINES);
    }
    with_cause(reason, place, store)
}

/// A trap's own text says little: what the plugin printed before it comes first, then the place in the author's source.
fn with_cause(text: String, place: Option<String>, store: &Store<State>) -> String {
    let cause = store.data().sandbox.printout.cause();
    // A panic's text may name the place already.
    let place = place.map(|place| format!(" ({place})"));
    let place = place.filter(|place| !cause.as_ref().is_some_and(|cause| cause.contains(place.as_str())));
    let place = place.unwrap_or_default();
    let reason = match cause {
        Some(cause) => format!("{cause}{place} ({text})"),
        None => format!("{text}{place}"),
    };
    one_line(&reason, REASON_BYTES)
}
