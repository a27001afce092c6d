//! A bad network before the store: requests cut in the middle, stalled, delayed, and answers that never arrive.

use std::time::Duration;

use anyhow::{Result, ensure};
use reduct_sink_testbed::dice::Dice;
use reduct_sink_testbed::process::wait_for;
use reduct_sink_testbed::proxy::{Proxy, Weather};
use reduct_sink_testbed::verify::Ledger;
use reduct_sink_testbed::{Sink, Store, figures};

use super::{CATCH_UP, Trial, address, kafka, sized};

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_cut_stalled_delayed_and_left_without_an_answer() -> Result<()> {
    let store = Store::start()?;
    let trial = Trial::new(kafka()?.client(), &store, "network", 16)?;
    let mut dice = Dice::new(&trial.topic)?;
    // Stalls end before and after the host has given up on the request.
    let proxy = Proxy::start(address(&store)?, dice.fork(), Duration::from_millis(3000))?;
    let trial = trial.configure(|config| config.set("store.url", proxy.url()).set("store.timeout", "1500ms"));
    let load = trial.load(500)?;
    let mut sink = Sink::start(&trial.config)?;
    proxy.set(Weather::Foul);
    let wanted = sized(200, 300, 10_000);
    wait_for(&format!("{wanted} faults"), 3 * CATCH_UP, || {
        sink.process().expect_running()?;
        Ok((proxy.faults().iter().sum::<u64>() >= wanted).then_some(()))
    })?;
    proxy.set(Weather::Fair);
    let faults = proxy.faults();
    let [resets, stalls, delays, dropped] = faults;
    println!("{resets} resets, {stalls} stalls, {delays} delays, {dropped} answers dropped");
    ensure!(faults.iter().all(|&count| count > 0), "a kind of fault never happened: {faults:?}");
    figures::add("proxy_faults", faults.iter().sum::<u64>() as f64)?;
    let produced = trial.finish(load, 0)?;
    trial.settle(&mut [&mut sink], &store, Ledger::of(&produced)).await
}

/// The host has one request at a time for each entry, because concurrent ones can stall the server and lose records
/// that it acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_never_has_two_requests_under_way() -> Result<()> {
    let store = Store::start()?;
    // Two pipelines would have two entries.
    let trial = Trial::new(kafka()?.client(), &store, "single", 1)?.alone()?;
    let mut dice = Dice::new(&trial.topic)?;
    let proxy = Proxy::start(address(&store)?, dice.fork(), Duration::from_secs(1))?;
    let trial = trial.configure(|config| config.set("store.url", proxy.url()));
    let load = trial.load(3000)?;
    let mut sink = Sink::start(&trial.config)?;
    let produced = trial.finish(load, sized(5_000, 10_000, 100_000))?;
    trial.settle(&mut [&mut sink], &store, Ledger::of(&produced)).await?;
    ensure!(proxy.most_at_once() == 1, "{} requests at once", proxy.most_at_once());
    Ok(())
}
