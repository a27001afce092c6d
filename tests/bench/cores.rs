//! Which cores what is measured runs on.
//!
//! Guarantees: apart, ReductStore has one core to itself, and Kafka and the writers share the others, as if it were on a
//! machine of its own; each of them is started on its cores, and its threads and children stay there.

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

    /// What this thread starts from now on is the store.
    pub fn on_the_stores_core(&self) -> Result<()> {
        stay_on(&[self.store])
    }

    /// What this thread starts from now on isn't.
    pub fn on_the_others(&self) -> Result<()> {
        stay_on(&self.others)
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

fn stay_on(cores: &[usize]) -> Result<()> {
    // SAFETY: all zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the numbers come from such a set.
    cores.iter().for_each(|core| unsafe { libc::CPU_SET(*core, &mut set) });
    // SAFETY: 0 is this thread; the set is valid for reading and as large as is said.
    let answer = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) };
    (answer == 0).then_some(()).with_context(|| format!("can't run on cores {cores:?}: {}", Error::last_os_error()))
}
