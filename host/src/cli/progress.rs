//! Says how far long work is, on standard error.
//!
//! Guarantees: on a terminal it is one line that is written over, and that is gone before anything else is printed; elsewhere it is a
//! line every five seconds; with `--json` there is nothing; work that is done within a second says nothing.

use std::io::{IsTerminal, Write, stderr};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::is_json;

/// Work that is shorter isn't worth a line.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often the line on a terminal is written over.
const ON_TERMINAL: Duration = Duration::from_millis(250);
/// How often there is a line elsewhere.
const ELSEWHERE: Duration = Duration::from_secs(5);
/// Goes to the line's begin and empties it.
const EMPTY_LINE: &str = "\r\x1b[K";

/// Whether a line of progress stands on the terminal.
static SHOWN: Mutex<bool> = Mutex::new(false);

/// Work that goes on until this is dropped.
pub struct Progress {
    doing: Arc<Mutex<String>>,
    ticker: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Progress {
    /// `doing`: what is being done, such as `checking Kafka`.
    pub fn start(doing: impl Into<String>) -> Self {
        Self::begin(doing.into(), stderr().is_terminal())
    }

    /// Beside commands that write to the same terminal themselves: always as lines.
    pub fn start_beside_output(doing: impl Into<String>) -> Self {
        Self::begin(doing.into(), false)
    }

    fn begin(doing: String, is_terminal: bool) -> Self {
        let doing = Arc::new(Mutex::new(doing));
        if is_json() {
            return Self { doing, ticker: None };
        }
        let (end, ended) = channel::<()>();
        let shown = Arc::clone(&doing);
        let tick = move || {
            let begun = Instant::now();
            let mut wait = if is_terminal { PATIENCE } else { ELSEWHERE };
            while ended.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                let line = format!("{} … {} s", lock(&shown), begun.elapsed().as_secs());
                show(&line, is_terminal);
                wait = if is_terminal { ON_TERMINAL } else { ELSEWHERE };
            }
        };
        let ticker = std::thread::Builder::new().name("progress".into()).spawn(tick).ok();
        Self { doing, ticker: ticker.map(|thread| (end, thread)) }
    }

    /// What is being done now.
    pub fn now(&self, doing: impl Into<String>) {
        *lock(&self.doing) = doing.into();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((end, thread)) = self.ticker.take() {
            drop(end);
            let _ = thread.join();
        }
        clear();
    }
}

fn show(line: &str, is_terminal: bool) {
    let mut shown = lock(&SHOWN);
    let mut error = stderr().lock();
    if is_terminal {
        // A line that is wider than the terminal would leave its rest there.
        let short: String = line.chars().take(width()).collect();
        *shown = write!(error, "{EMPTY_LINE}{short}").and_then(|()| error.flush()).is_ok();
    } else {
        let _ = writeln!(error, "{line}");
    }
}

/// Takes the line away, for something else that is to be printed.
pub fn clear() {
    let mut shown = lock(&SHOWN);
    if std::mem::take(&mut *shown) {
        let mut error = stderr().lock();
        let _ = write!(error, "{EMPTY_LINE}").and_then(|()| error.flush());
    }
}

#[expect(unsafe_code, reason = "the standard library doesn't tell a terminal's width")]
fn width() -> usize {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: `size` is valid for writing, and is read only where the call says that it was written.
    let told = unsafe { libc::ioctl(libc::STDERR_FILENO, libc::TIOCGWINSZ, &raw mut size) } == 0;
    let columns = if told && size.ws_col > 0 { usize::from(size.ws_col) } else { 80 };
    columns.saturating_sub(1)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Standard error for the log: its lines don't stand behind a line of progress.
pub struct LogOutput;

impl Write for LogOutput {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        clear();
        stderr().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        stderr().flush()
    }
}
