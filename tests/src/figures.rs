//! The figures that a run measured, for `tests/run --json FILE`.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};

/// Records a figure: prints it, and appends it to the file that `TESTBED_FIGURES` names, if that is set.
pub fn record(name: &str, value: f64) -> Result<()> {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    ensure!(!name.is_empty() && name.chars().all(legal), "{name:?} is no name for a figure: use a-z, 0-9 and _");
    ensure!(value.is_finite(), "figure {name} is {value}");
    println!("figure {name} = {value}");
    let Some(path) = std::env::var_os("TESTBED_FIGURES") else { return Ok(()) };
    let mut file = OpenOptions::new().create(true).append(true).open(&path).context("TESTBED_FIGURES")?;
    // The line is written at once, because tests may record figures at the same time.
    file.write_all(format!("{name} {value}\n").as_bytes())?;
    Ok(())
}

/// Adds to a figure that several tests of this process share; the last line noted is the sum.
pub fn add(name: &'static str, value: f64) -> Result<()> {
    static SUMS: Mutex<BTreeMap<&str, f64>> = Mutex::new(BTreeMap::new());
    let mut sums = SUMS.lock().unwrap_or_else(PoisonError::into_inner);
    let sum = sums.entry(name).or_default();
    *sum += value;
    // The lock is still held, so that the lines come in the order of the sums.
    record(name, *sum)
}
