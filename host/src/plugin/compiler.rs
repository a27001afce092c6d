//! Compiling components to machine code.
//!
//! Guarantees: compiling takes what the records leave of the processor. In a host that runs, it happens in a child process
//! with a limit on memory and on processor time, so that a component that is made to exhaust the compiler exhausts that
//! process only.

use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rayon::{ThreadPool, ThreadPoolBuilder};
use wasmtime::component::Component;

use super::engine::{self, EngineKind, Platforms};
use super::error::LoadProblem;
use crate::config::default_compile_limits;

/// The command of this program that compiles: see [`compile_as_child`].
pub const CHILD_COMMAND: &str = "compile-component";

/// The environment of that process. mimalloc reserves a GiB at its start, which counts as memory of the process unless it is told to ask
/// for each part when it is needed.
pub const CHILD_ENVIRONMENT: [(&str, &str); 1] = [("MIMALLOC_ARENA_EAGER_COMMIT", "0")];

/// How nice the threads that compile are: the scheduler gives them about a tenth of what it gives a thread of the records,
/// and runs that one first. Without it a swap on a busy machine delays the records.
const NICE: libc::c_int = 10;
/// Threads of a child: each has a stack and a heap of its own within the memory limit.
const CHILD_THREADS: usize = 4;
/// On a busy machine a nice process waits for its processor time. This many times the limit on processor time, and the
/// child is ended in any case.
const WALL_TIMES: u32 = 10;
/// Of what a child prints to standard error.
const ERROR_BYTES: u64 = 16 * 1024;

/// What compiling one component may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompileLimits {
    /// The memory that the compiling process may use.
    pub memory_bytes: u64,
    /// Processor time, over all threads.
    pub time: Duration,
}

impl Default for CompileLimits {
    /// Those of a configuration that sets none.
    fn default() -> Self {
        let (memory_bytes, time) = default_compile_limits();
        Self { memory_bytes, time }
    }
}

pub(super) enum Compiler {
    /// Without limits, in this process: for tools and tests.
    Here(ThreadPool),
    Child(CompileLimits),
}

/// A compiled component, and its machine code where it is at hand.
pub(super) struct Compiled {
    pub kind: EngineKind,
    pub component: Component,
    pub code: Option<Vec<u8>>,
}

impl Compiler {
    pub fn here() -> Result<Self, rayon::ThreadPoolBuildError> {
        // wasmtime compiles the functions of a component in parallel in the pool that it is called in.
        let pool = ThreadPoolBuilder::new().thread_name(|number| format!("compiler-{number}"));
        Ok(Self::Here(pool.start_handler(|_| be_nice()).build()?))
    }

    pub fn compile(&self, component: &[u8], platforms: &Platforms) -> Result<Compiled, LoadProblem> {
        match self {
            Self::Here(pool) => {
                let kind = EngineKind::of(component)?;
                let engine = &platforms.of(kind).engine;
                let compiled = pool.install(|| Component::from_binary(engine, component));
                let component = compiled.map_err(|error| LoadProblem::of_compiling(&format!("{error:#}")))?;
                Ok(Compiled { kind, component, code: None })
            }
            Self::Child(limits) => {
                let (kind, code) = compile_in_child(component, limits)?;
                // SAFETY: these bytes come from `Engine::precompile_component` in a process of this same program, which
                // was given the component's bytes and nothing else.
                let compiled = unsafe { Component::deserialize(&platforms.of(kind).engine, &code) };
                let component = compiled.map_err(|error| LoadProblem::Compile(format!("{error:#}")))?;
                Ok(Compiled { kind, component, code: Some(code) })
            }
        }
    }
}

fn be_nice() {
    // SAFETY: it takes no pointers. On Linux 0 means the calling thread alone. Its answer doesn't matter, because compiling
    // works at any priority.
    let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
}

/// The machine code, and the engine that it is for.
fn compile_in_child(component: &[u8], limits: &CompileLimits) -> Result<(EngineKind, Vec<u8>), LoadProblem> {
    let seconds = limits.time.as_secs().max(1);
    let mut child = Command::new("/proc/self/exe")
        .args([CHILD_COMMAND, &limits.memory_bytes.to_string(), &seconds.to_string()])
        .env_clear()
        .envs(CHILD_ENVIRONMENT)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| LoadProblem::Host(format!("the process that compiles it can't be started: {error}")))?;
    let (input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (status, output, errors) = thread::scope(|scope| {
        // A child that ends early closes the pipe: its exit status says why.
        let writing = scope.spawn(move || input.map(|mut input| input.write_all(component)));
        let reading = scope.spawn(move || read_at_most(output, limits.memory_bytes));
        let errors = scope.spawn(move || read_at_most(errors, ERROR_BYTES));
        let status = wait(&mut child, limits.time * WALL_TIMES);
        let _ = writing.join();
        (status, reading.join().unwrap_or_default(), errors.join().unwrap_or_default())
    });
    let status = status.map_err(|error| LoadProblem::Host(format!("the process that compiles it is lost: {error}")))?;
    let errors = String::from_utf8_lossy(&errors);
    if !status.success() {
        return Err(failure(status, &errors, limits));
    }
    match output.split_first() {
        Some((b'p', code)) => Ok((EngineKind::Plain, code.to_vec())),
        Some((b'c', code)) => Ok((EngineKind::Concurrent, code.to_vec())),
        _ => Err(LoadProblem::Host("the process that compiles it gave no answer".into())),
    }
}

fn failure(status: ExitStatus, errors: &str, limits: &CompileLimits) -> LoadProblem {
    let CompileLimits { memory_bytes, time } = limits;
    match status.signal() {
        Some(libc::SIGXCPU | libc::SIGKILL) => {
            LoadProblem::TooCostly(format!("it wasn't done after {time:?} of processor time"))
        }
        Some(_) => LoadProblem::TooCostly(format!("it needs more than {} MB of memory", memory_bytes / 1_000_000)),
        None if status.code() == Some(1) => LoadProblem::of_compiling(errors),
        None => LoadProblem::Host(format!("the process that compiles it ended with {status}: {}", errors.trim())),
    }
}

/// Waits for the child, and ends it after `patience`.
fn wait(child: &mut Child, patience: Duration) -> io::Result<ExitStatus> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            child.kill()?;
            return child.wait();
        }
        thread::sleep(Duration::from_millis(2));
    }
}

fn read_at_most(from: Option<impl Read>, bytes: u64) -> Vec<u8> {
    let mut read = Vec::new();
    if let Some(from) = from {
        // What came until it broke is all there is.
        let _ = from.take(bytes).read_to_end(&mut read);
    }
    read
}

/// What this program does as such a child: reads a component from standard input and writes its machine code to standard
/// output, after a byte that names the engine. Fails with the compiler's message.
pub fn compile_as_child(limits: CompileLimits) -> Result<(), String> {
    limit_self(limits).map_err(|error| format!("its limits can't be set: {error}"))?;
    let mut component = Vec::new();
    io::stdin().lock().read_to_end(&mut component).map_err(|error| error.to_string())?;
    let kind = EngineKind::of(&component).map_err(|problem| problem.to_string())?;
    let engine = engine::engine(kind).map_err(|error| format!("{error:#}"))?;
    let threads = thread::available_parallelism().map_or(1, usize::from).min(CHILD_THREADS);
    let pool = ThreadPoolBuilder::new().num_threads(threads).build().map_err(|error| error.to_string())?;
    let code = pool.install(|| engine.precompile_component(&component)).map_err(|error| format!("{error:#}"))?;
    let mark = match kind {
        EngineKind::Plain => b"p",
        EngineKind::Concurrent => b"c",
    };
    let mut output = io::stdout().lock();
    output.write_all(mark).and_then(|()| output.write_all(&code)).map_err(|error| error.to_string())
}

fn limit_self(limits: CompileLimits) -> io::Result<()> {
    let seconds = limits.time.as_secs().max(1);
    // RLIMIT_DATA counts what is really allocated; RLIMIT_AS would count reserved addresses as well.
    for (resource, bound) in
        [(libc::RLIMIT_DATA, limits.memory_bytes), (libc::RLIMIT_CPU, seconds), (libc::RLIMIT_CORE, 0)]
    {
        let limit = libc::rlimit { rlim_cur: bound, rlim_max: bound };
        // SAFETY: the pointer is to a value that lives during the call.
        if unsafe { libc::setrlimit(resource, &raw const limit) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: these take no pointers. The child ends with the thread that waits for it; its priority is that of the whole
    // process, because it has one thread yet and the others inherit it.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::setpriority(libc::PRIO_PROCESS, 0, NICE);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compiling_gives_way_to_the_records() {
        // SAFETY: as where it is set.
        let nice = || unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        let before = nice();
        let Ok(Compiler::Here(pool)) = Compiler::here() else { panic!("no threads") };
        let compilers = pool.broadcast(|_| nice());
        assert!(!compilers.is_empty() && compilers.iter().all(|nice| *nice == NICE), "{compilers:?}");
        assert_eq!(nice(), before, "the thread that asks keeps its own");
    }
}
