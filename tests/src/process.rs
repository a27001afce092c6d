//! Child processes, ports, and the folder that a run leaves its data and logs in.
//!
//! Guarantees: a child dies with the process that started it (the kernel sees to that), with its handle at the latest;
//! data is removed when the process ends, logs too unless it ended with an error: then their folder is named.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::net::TcpListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A child process with its output in a log file.
pub struct Process {
    name: String,
    child: Child,
    status: Option<ExitStatus>,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; its output is appended to `log`.
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let out = OpenOptions::new().create(true).append(true).open(log).with_context(|| log.display().to_string())?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let child = spawn_bound(command).with_context(|| format!("can't start {name}"))?;
        live().insert(child.id());
        Ok(Self { name: name.to_owned(), child, status: None, log: log.to_owned() })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The most memory that was resident so far, in bytes.
    pub fn peak_memory(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).context("the process is gone")?;
        let kib: u64 = line.split_whitespace().nth(1).context("VmHWM")?.parse()?;
        Ok(kib * 1024)
    }

    /// Processor time so far, of the system too.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        // The name, in parentheses, may hold spaces.
        let (_, rest) = stat.rsplit_once(')').context("a process's statistics")?;
        let ticks = rest.split_whitespace().skip(11).take(2).map(str::parse::<f64>).sum::<Result<f64, _>>()?;
        // SAFETY: a plain system call.
        Ok(ticks / unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64)
    }

    /// How the process ended, if it did.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait()?;
            if self.status.is_some() {
                live().remove(&self.pid());
            }
        }
        Ok(self.status)
    }

    /// An error with the end of the log if the process isn't running any more.
    pub fn expect_running(&mut self) -> Result<()> {
        match self.exited()? {
            None => Ok(()),
            Some(status) => bail!("{} ended ({status}); its log says:\n{}", self.name, tail(&self.log, 30)),
        }
    }

    pub fn signal(&mut self, signal: i32) -> Result<()> {
        if self.exited()?.is_some() {
            bail!("{} has ended already", self.name);
        }
        // SAFETY: plain system call; the child isn't reaped yet, so the id is still its own.
        match unsafe { libc::kill(self.pid() as libc::pid_t, signal) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()).with_context(|| format!("can't signal {}", self.name)),
        }
    }

    /// Waits until the process has ended by itself.
    pub fn wait(&mut self, bound: Duration) -> Result<ExitStatus> {
        let name = self.name.clone();
        wait_for(&format!("the end of {name}"), bound, || self.exited())
    }

    /// Sends SIGTERM, and SIGKILL if the process hasn't ended within `bound`. Returns how the process ended.
    pub fn stop(&mut self, bound: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.exited()? {
            return Ok(status);
        }
        self.signal(libc::SIGTERM)?;
        self.wait(bound).or_else(|_| self.kill9())
    }

    /// Sends SIGKILL and waits for the end.
    pub fn kill9(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.exited()? {
            return Ok(status);
        }
        self.child.kill()?;
        let status = self.child.wait()?;
        live().remove(&self.pid());
        self.status = Some(status);
        Ok(status)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill9();
    }
}

/// The children that were not reaped yet. Handles in statics are never dropped, so their children are ended through
/// this list.
fn live() -> MutexGuard<'static, BTreeSet<u32>> {
    static LIVE: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the process was ended by this signal.
pub fn ended_by(status: ExitStatus, signal: i32) -> bool {
    status.signal() == Some(signal)
}

/// Asks `probe` until it answers; an error of the probe ends the wait. What takes long is asked less often, because most probes
/// cost a server more than the host's own questions do.
pub fn wait_for<T>(what: &str, bound: Duration, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    const LONGEST_PAUSE: Duration = Duration::from_millis(150);
    let (start, mut pause) = (Instant::now(), Duration::from_millis(20));
    loop {
        if let Some(answer) = probe().with_context(|| format!("waiting for {what}"))? {
            return Ok(answer);
        }
        if start.elapsed() > bound {
            bail!("waited {:.1} s in vain for {what}", bound.as_secs_f64());
        }
        thread::sleep(pause);
        pause = (pause * 5 / 4).min(LONGEST_PAUSE);
    }
}

/// Repeats a check until it passes. What it said last is the error. For a state that comes a moment after what a test did, such
/// as what `/health` shows, which is as old as the host's last look.
pub fn wait_until(what: &str, bound: Duration, mut check: impl FnMut() -> Result<()>) -> Result<()> {
    let mut last = None;
    let passed = wait_for(what, bound, || match check() {
        Ok(()) => Ok(Some(())),
        Err(error) => {
            last = Some(error);
            Ok(None)
        }
    });
    passed.map_err(|waited| match last {
        Some(last) => last.context(format!("{waited:#}")),
        None => waited,
    })
}

/// The last lines of a log.
pub fn tail(log: &Path, lines: usize) -> String {
    let text = std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// A loopback port that nobody listens on. It lies below the ephemeral ports: a client that keeps trying to reach a
/// server while that one is down could otherwise be given the server's own port, and connect to itself.
pub fn free_port() -> Result<u16> {
    const FIRST: u16 = 11_000;
    const COUNT: u16 = 20_000;
    static NEXT: OnceLock<AtomicU16> = OnceLock::new();
    // Test runs at the same time begin at different ports.
    let next = NEXT.get_or_init(|| AtomicU16::new((std::process::id() * 7919 % u32::from(COUNT)) as u16));
    for _ in 0..COUNT {
        let port = FIRST + next.fetch_add(1, Ordering::Relaxed) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free loopback port between {FIRST} and {}", FIRST + COUNT)
}

/// The version of a server that a variable names, where suites are to run on another than usual.
pub fn another_version(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|version| !version.is_empty())
}

/// Where the tools and servers that `tests/setup` installs are found.
pub fn cache() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("REDUCT_SINK_CACHE") {
        return Ok(folder.into());
    }
    let home = std::env::var_os("HOME").context("neither REDUCT_SINK_CACHE nor HOME is set")?;
    Ok(PathBuf::from(home).join(".cache/reduct-sink"))
}

/// The folder of this run's logs.
pub fn log_folder() -> &'static Path {
    &run_folder().logs
}

/// A new, empty folder for data. It is removed with its handle, or when the process ends.
pub fn data_folder(name: &str) -> Result<tempfile::TempDir> {
    Ok(tempfile::Builder::new().prefix(&format!("{name}-")).tempdir_in(&run_folder().data)?)
}

/// The path of a new log file.
pub fn new_log(name: &str) -> Result<PathBuf> {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let path = log_folder().join(format!("{name}-{}.log", COUNT.fetch_add(1, Ordering::Relaxed)));
    File::create(&path)?;
    Ok(path)
}

/// A name that no other test uses: for topics, groups and buckets on shared servers.
pub fn unique(prefix: &str) -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("{prefix}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

struct RunFolder {
    root: PathBuf,
    data: PathBuf,
    logs: PathBuf,
}

fn run_folder() -> &'static RunFolder {
    static RUN: OnceLock<RunFolder> = OnceLock::new();
    RUN.get_or_init(|| {
        let root =
            tempfile::Builder::new().prefix("reduct-sink-").tempdir().expect("a temporary folder can be made").keep();
        let run = RunFolder { data: root.join("data"), logs: root.join("logs"), root };
        std::fs::create_dir_all(&run.data).expect("a temporary folder can be written");
        std::fs::create_dir_all(&run.logs).expect("a temporary folder can be written");
        // SAFETY: the callback is a plain function that stays valid, and it takes no argument.
        unsafe { on_exit(clean_up, std::ptr::null_mut()) };
        run
    })
}

unsafe extern "C" {
    // glibc: like atexit, and tells the exit code, which no test harness passes on in another way.
    fn on_exit(callback: extern "C" fn(libc::c_int, *mut libc::c_void), arg: *mut libc::c_void) -> libc::c_int;
}

extern "C" fn clean_up(status: libc::c_int, _: *mut libc::c_void) {
    let run = run_folder();
    for pid in live().iter().map(|&pid| pid as libc::pid_t) {
        // SAFETY: plain system calls; the child isn't reaped yet, so the id is still its own.
        unsafe {
            libc::kill(pid, libc::SIGKILL);
            libc::waitpid(pid, std::ptr::null_mut(), 0);
        }
    }
    let _ = std::fs::remove_dir_all(&run.data);
    if status == 0 {
        let _ = std::fs::remove_dir_all(&run.root);
    } else {
        eprintln!("the logs of this run are kept in {}", run.logs.display());
    }
}

/// Starts a child that the kernel kills when this process is gone. "Gone" means the thread that started it, so all
/// children are started by one thread that lives as long as the process.
fn spawn_bound(mut command: Command) -> io::Result<Child> {
    type Order = (Command, mpsc::Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();

    let parent = std::process::id();
    // SAFETY: between fork and exec only system calls are made.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have died before the call above.
            if libc::getppid() != parent as libc::pid_t {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            Ok(())
        });
    }
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        thread::Builder::new()
            .name("spawner".into())
            .spawn(move || {
                for (mut command, answer) in inbox {
                    let _ = answer.send(command.spawn());
                }
            })
            .expect("a thread can be started");
        orders
    });
    let (answer, result) = mpsc::channel();
    spawner.send((command, answer)).map_err(io::Error::other)?;
    result.recv().map_err(io::Error::other)?
}
