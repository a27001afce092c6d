//! What a bucket holds while it is being written to, and the rate that follows.
//!
//! Guarantees: one definition for all: between the first look at which the bucket holds 10 % of the records and the
//! last one at which some are missing, the records that came divided by the time that passed. So starting up, joining a
//! group and the first fetch don't count; a stall does, at the end too. A look is a request for the bucket's record
//! counts, every 50 ms; its time is the middle between asking and the answer. The counts include the records of a
//! request that the store has begun to read, at the first look as at the last; a run is over when queries show every
//! record, finished.

use std::fmt;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::bed::Bench;

const POLL: Duration = Duration::from_millis(50);
/// A run in which nothing arrived for this time has failed.
const STALLED: Duration = Duration::from_secs(60);
/// Of the records, what is written before the clock starts.
const WARM_UP: f64 = 0.1;

/// A process whose CPU time is told beside the rate.
#[derive(Debug, Clone, Copy)]
pub struct Watched {
    pub name: &'static str,
    pub pid: u32,
}

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Rate {
    pub per_second: f64,
    /// CPU time of each watched process a record, in microseconds, user and system.
    pub cpu: Vec<(&'static str, f64)>,
    /// Cores that all other processes of the machine kept busy meanwhile.
    pub others: f64,
    /// Of the CPU time of all watched processes, what answering those who look took, in percent; `None`: nobody looked.
    pub looks_percent: Option<f64>,
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} records/s; CPU a record:", self.per_second)?;
        self.cpu.iter().try_for_each(|(name, cpu)| write!(f, " {name} {cpu:.0} µs"))?;
        write!(f, "; others kept {:.1} cores busy", self.others)?;
        self.looks_percent.map_or(Ok(()), |percent| write!(f, "; being watched took {percent:.3} % of the CPU time"))
    }
}

struct Look {
    at: Instant,
    held: u64,
    cpu: Vec<f64>,
    machine: f64,
}

/// Looks until the bucket holds all of `expected`. `alive` fails when the writer can't go on.
pub fn watch(
    bench: &Bench,
    bucket: &str,
    expected: u64,
    watched: &[Watched],
    mut alive: impl FnMut() -> Result<()>,
) -> Result<Rate> {
    let mut looks: Vec<Look> = Vec::new();
    let mut moved = Instant::now();
    loop {
        let asked = Instant::now();
        let held = bench.held(bucket)?;
        let at = asked + asked.elapsed() / 2;
        ensure!(held <= expected, "the bucket holds {held} records, {expected} were to come");
        if held == expected {
            break;
        }
        if looks.last().is_none_or(|look| look.held != held) {
            moved = at;
        }
        let cpu = watched.iter().map(|it| cpu_seconds(it.pid)).collect::<Result<_>>()?;
        looks.push(Look { at, held, cpu, machine: machine_cpu_seconds()? });
        alive()?;
        if moved.elapsed() > STALLED {
            bail!("{held} of {expected} records are held, and none came for {} s", STALLED.as_secs());
        }
        sleep(POLL.saturating_sub(asked.elapsed()));
    }
    bench.wait_finished(bucket, expected)?;
    let first = looks.iter().find(|look| look.held as f64 >= expected as f64 * WARM_UP);
    let (Some(first), Some(last)) = (first, looks.last()) else { bail!("too few records for a rate") };
    let (records, seconds) = ((last.held - first.held) as f64, (last.at - first.at).as_secs_f64());
    ensure!(seconds > 4.0 * POLL.as_secs_f64(), "too few records for a rate: all came within {seconds:.2} s");
    let used: Vec<f64> = first.cpu.iter().zip(&last.cpu).map(|(first, last)| last - first).collect();
    let others = (last.machine - first.machine - used.iter().sum::<f64>()).max(0.0) / seconds;
    let cpu = watched.iter().zip(used).map(|(it, used)| (it.name, used * 1e6 / records)).collect();
    Ok(Rate { per_second: records / seconds, cpu, others, looks_percent: None })
}

/// What a process has used so far, user and system, all threads.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything; the 14th and 15th fields are the 12th and 13th behind it.
    let (_, fields) = text.rsplit_once(") ").context("/proc/PID/stat has a name in parentheses")?;
    seconds(fields.split(' ').skip(11).take(2))
}

/// What the threads of this name have used so far, in nanoseconds: the ticks of `stat`, of 10 ms each, are too coarse for what answers a
/// question in one.
pub fn thread_cpu_ns(pid: u32, name: &str) -> Result<u64> {
    let mut used = 0;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let folder = thread?.path();
        let read = |file: &str| std::fs::read_to_string(folder.join(file));
        // One may have ended meanwhile.
        let (Ok(found), Ok(text)) = (read("comm"), read("schedstat")) else { continue };
        if found.trim_end() == name {
            used += text.split(' ').next().context("schedstat is empty")?.parse::<u64>()?;
        }
    }
    Ok(used)
}

/// What all processes have used so far: user, nice and system, and the interrupts that are counted with none.
fn machine_cpu_seconds() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let fields: Vec<&str> = text.lines().next().context("/proc/stat has lines")?.split_whitespace().collect();
    seconds([1, 2, 3, 6, 7].into_iter().filter_map(|at| fields.get(at).copied()))
}

fn seconds<'a>(ticks: impl Iterator<Item = &'a str>) -> Result<f64> {
    let ticks: Vec<f64> = ticks.map(str::parse).collect::<Result<_, _>>()?;
    // SAFETY: plain system call.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
    Ok(ticks.iter().sum::<f64>() / per_second)
}

/// The most memory that a process ever had resident, in bytes.
pub fn peak_memory(pid: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("/proc/PID/status has VmHWM")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}
