//! Tests one attack at a time, on every record of a topic, while the same host reads a topic that the plugin isn't
//! asked about.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reduct_sink_testbed::verify::compare;
use reduct_sink_testbed::{Message, Produced, Sink, bed, figures, payload, process, read_back, unique};

use super::misdeeds::{Fate, Misdeed, misdeed};
use super::{at_work, by_answers, by_tables, by_wasi, has_died};

/// The attacks that hold a call up or hold memory.
const ATTACKS: [&str; 14] = [
    "endless",
    "recursion",
    "memory-taken-quietly",
    "log-flood",
    "amplified-answer",
    "retry-for-ever",
    "sleeping",
    "endless-printing",
    "body-that-nobody-reads",
    "bodies-hoarded",
    "allocator-grows",
    "parts-with-60-mb-of-labels",
    "own-resources-hoarded",
    "waitable-sets-hoarded",
];
const MEMORY_MB: u64 = 8;
const WORKERS: u64 = 2;
const TIME_LIMIT: Duration = Duration::from_millis(200);
const ATTACKED: u64 = 6;
const STOP_WITHIN: f64 = 25.0;
/// The time for everything but the calls: starting, joining the group, requests, a busy machine.
const AROUND: Duration = Duration::from_secs(30);

/// What one attack did to the host.
struct Harm {
    peak: u64,
    stop_s: f64,
    outlived: bool,
    died: bool,
    neighbour_errors: usize,
}

#[test]
fn an_attack_on_every_record_is_borne_by_its_own_topic() -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let all: Vec<Misdeed> =
        [at_work::all(), by_wasi::all(), by_answers::all(), by_tables::all()].into_iter().flatten().collect();
    let control = harm(&misdeed("harmless", Fate::Written, "(call $keep)"), &runtime)?;
    let (mut over, mut slowest, mut outlived, mut died, mut errors) = (0, control.stop_s, 0, 0, 0);
    for name in ATTACKS {
        let attack = all.iter().find(|attack| attack.name == name).with_context(|| format!("no attack {name}"))?;
        let harm = harm(attack, &runtime).with_context(|| name.to_owned())?;
        let more = harm.peak.saturating_sub(control.peak) >> 20;
        println!("{name}: {more} MB more than without, stopped in {:.1} s", harm.stop_s);
        over = over.max(more.saturating_sub(MEMORY_MB * WORKERS));
        slowest = slowest.max(harm.stop_s);
        outlived += u8::from(harm.outlived);
        died += u8::from(harm.died);
        errors += harm.neighbour_errors;
    }
    figures::record("memory_over_limit_mb", over as f64)?;
    figures::record("outlived_deadline", f64::from(outlived))?;
    figures::record("slowest_stop_s", slowest)?;
    figures::add("host_deaths", f64::from(died))?;
    figures::add("neighbour_errors", errors as f64)?;
    ensure!(over <= 32, "{over} MB beyond the plugins' memory limits");
    ensure!(slowest <= STOP_WITHIN, "a stop took {slowest} s");
    ensure!((outlived, died, errors) == (0, 0, 0), "outlived {outlived}, died {died}, neighbours' errors {errors}");
    Ok(())
}

fn harm(attack: &Misdeed, runtime: &tokio::runtime::Runtime) -> Result<Harm> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let (attacked, neighbour) = (unique("attacked"), unique("neighbour"));
    for topic in [&attacked, &neighbour] {
        kafka.create_topic(topic, 1)?;
    }
    let messages = |count| (0..count).map(|n| Message::new(payload(n, 500)));
    let produced: Vec<Produced> = kafka.produce(&neighbour, messages(300))?;
    kafka.produce(&attacked, messages(ATTACKED))?;
    let folder = process::data_folder("alone")?;
    let path = folder.path().join("attack.wasm");
    std::fs::write(&path, attack.component_for_all())?;
    let keys = format!(
        "timeout = '{}ms'\nmemory = '{MEMORY_MB}MB'\nattempts = 2\nwhen.topics = ['{attacked}']\nlimits.verdict = '1MB'\n{}",
        TIME_LIMIT.as_millis(),
        attack.keys
    );
    let config = bed
        .sink_config(&attacked)
        .topics(&[&attacked, &neighbour])
        .set("cache.path", "")
        .set("limits.workers", WORKERS as i64)
        .plugin_with("attack", &path, &keys)?;
    let mut sink = Sink::start(&config)?;
    sink.wait_caught_up(&kafka, config.group(), &[&neighbour], super::CATCH_UP)?;
    // Each record takes the time of its two calls and the pause between the attempts.
    let bound = (TIME_LIMIT * 2 + Duration::from_secs(1)) * ATTACKED as u32 + AROUND;
    let outlived = sink.wait_caught_up(&kafka, config.group(), &[&attacked], bound).is_err();
    let peak = sink.process().peak_memory()?;
    // The host is stopped while the plugin attacks again.
    kafka.produce(&attacked, messages(200))?;
    std::thread::sleep(Duration::from_millis(500));
    let died = has_died(&mut sink);
    let started = Instant::now();
    let ended = sink.stop()?;
    let stop_s = started.elapsed().as_secs_f64();
    let stored = runtime.block_on(async { read_back(&bed.store.client()?, config.bucket(), "*").await })?;
    let of_neighbour = |entry: &str| entry == neighbour;
    let stored: Vec<_> = stored.into_iter().filter(|record| of_neighbour(&record.entry)).collect();
    let neighbour_errors = compare(&produced, &stored)?.count();
    Ok(Harm { peak, stop_s, outlived, died: died || !ended.success(), neighbour_errors })
}
