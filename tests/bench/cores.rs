//! Which cores what is measured runs on.
//!
//! Guarantees: apart, ReductStore has one core to itself, and Kafka and the writers share the others, as if it were on a
//! machine of its own; what they start stays on the same cores.

use std::io::Error;
use std::mem::size_of_val;

use anyhow::{Context, Result, ensure};

/// One core for the store, the others for everything else.
pub struct Apart {
    store: usize,
    others: Vec<usize>,
}

impl Apart {
    pub fn of_this_machine() -> Result<Self> {
        let mut others = allowed()?;
        ensure!(others.len() > 1, "the store can't have a core to itself where there is only one");
        Ok(Self { store: others.remove(0), others })
    }

    /// Leaves the store's core, with all that this thread starts from now on.
    pub fn leave(&self) -> Result<()> {
        stay_on(0, &self.others)
    }

    /// Moves a process, which must be the store, to its core. Not by starting it there: the test bed starts all processes
    /// from one thread.
    pub fn move_store(&self, pid: u32) -> Result<()> {
        for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let thread = thread?.file_name();
            stay_on(thread.to_string_lossy().parse()?, &[self.store])?;
        }
        Ok(())
    }
}

fn allowed() -> Result<Vec<usize>> {
    // SAFETY: all zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: 0 is this thread; the set is valid for writing and as large as is said.
    let answer = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &mut set) };
    ensure!(answer == 0, "can't ask for the cores: {}", Error::last_os_error());
    // SAFETY: no core's number is beyond the set's size.
    Ok((0..libc::CPU_SETSIZE as usize).filter(|core| unsafe { libc::CPU_ISSET(*core, &set) }).collect())
}

/// 0 is this thread.
fn stay_on(thread: i32, cores: &[usize]) -> Result<()> {
    // SAFETY: all zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the numbers come from such a set.
    cores.iter().for_each(|core| unsafe { libc::CPU_SET(*core, &mut set) });
    // SAFETY: the set is valid for reading and as large as is said.
    let answer = unsafe { libc::sched_setaffinity(thread, size_of_val(&set), &set) };
    (answer == 0).then_some(()).with_context(|| format!("can't run on cores {cores:?}: {}", Error::last_os_error()))
}
