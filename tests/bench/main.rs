//! `tests/run bench`: how fast the host is beside the fastest direct writer, beside itself without a plugin, and beside
//! the tutorial's consumer and one written by hand, and what it costs to be watched, on real servers in one run.
//!
//! Guarantees: a rate counts what ReductStore holds, never what was sent; every rate is taken in the same way (see
//! [`held`]); the runs are interleaved, and a ratio is taken within a round, so that a machine which others use as well
//! shifts both sides; an A/A control tells how much is noise. It fails when records are missing in the store, or are
//! there twice; not when a floor isn't reached.

mod bed;
mod by_hand;
mod cores;
mod direct;
mod held;
mod host;
mod options;
mod plan;
mod report;
mod scraper;
mod tutorial;

use anyhow::{Context, Result};
use reduct_rs::BucketSettings;
use reduct_sink_testbed::unique;

use crate::bed::Bench;
use crate::cores::Apart;
use crate::held::Rate;
use crate::host::Plugins;
use crate::options::Options;
use crate::plan::{SIZES, Size};
use crate::report::{Report, Rounds};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some((by_hand::COMMAND, args)) = args.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return by_hand::consume(args);
    }
    let options = Options::from_args(args.into_iter())?;
    let apart = options.apart.then(Apart::of_this_machine).transpose()?;
    let bench = Bench::start(options.partitions, apart.as_ref())?;
    note("warming up, and looking at what the host writes");
    let style = host::style(&bench)?;

    let mut report = Report::new(options.partitions, options.apart);
    for size in SIZES.iter().filter(|size| options.wants_size(size.name)) {
        let rounds = options.rounds(size);
        let topic = bench.preload(size.bytes, size.records)?;
        let tutorial_topic = bench.preload(size.bytes, size.tutorial_records)?;
        // Counts for none: memory that a virtual machine uses for the first time costs it several times as much.
        let warm_up = one_run(&bench, Kind::Direct, size, &topic, &tutorial_topic, &style)?;
        note(&format!("{} warm-up a: {warm_up}", size.label));
        let mut measured = Rounds::new(size);
        for round in 1..=rounds {
            for kind in ORDER.into_iter().filter(|kind| options.wants(*kind) && kind.is_of(size)) {
                let rate = one_run(&bench, kind, size, &topic, &tutorial_topic, &style)
                    .with_context(|| format!("run {} at {}, round {round}", kind.letter(), size.label))?;
                note(&format!("{} round {round}/{rounds} {}: {rate}", size.label, kind.letter()));
                measured.add(kind, rate);
            }
            measured.end_round();
        }
        report.sizes.push(measured);
        bench.remove_topics(&[&topic, &tutorial_topic])?;
    }
    if options.wants_host() {
        note("the host with a sink that discards");
        report.discard = host::discard(&bench, options.long)?;
        note("the host's memory with a backlog of 2 GB");
        report.backlog = Some(host::backlog(&bench)?);
    }

    println!("{}", report.markdown());
    report.write_figures(options.json.as_deref())
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Direct,
    NoPlugin,
    Passthrough,
    RelabelRoute,
    Tutorial,
    ByHand,
    Scraped,
    ByHandUntuned,
}

impl Kind {
    pub const ALL: [Kind; 8] = [
        Kind::Direct,
        Kind::NoPlugin,
        Kind::Passthrough,
        Kind::RelabelRoute,
        Kind::Tutorial,
        Kind::ByHand,
        Kind::Scraped,
        Kind::ByHandUntuned,
    ];

    /// Whether it is measured at this size. Being watched costs the same each second, whatever is written: it shows most
    /// where most records come.
    pub fn is_of(self, size: &Size) -> bool {
        self != Kind::Scraped || size.name == SIZES[0].name
    }

    pub fn letter(self) -> char {
        match self {
            Kind::Direct => 'a',
            Kind::NoPlugin => 'b',
            Kind::Passthrough => 'c',
            Kind::RelabelRoute => 'd',
            Kind::Tutorial => 'e',
            Kind::ByHand => 'f',
            Kind::Scraped => 'g',
            Kind::ByHandUntuned => 'i',
        }
    }

    pub fn label(self) -> &'static str {
        match self {
            Kind::Direct => "direct writer",
            Kind::NoPlugin => "host, no plugin",
            Kind::Passthrough => "host, passthrough",
            Kind::RelabelRoute => "host, relabel and route",
            Kind::Tutorial => "the tutorial's consumer",
            Kind::ByHand => "a consumer written by hand",
            Kind::Scraped => "host, passthrough, watched",
            Kind::ByHandUntuned => "a consumer written by hand, a bucket with ReductStore's own settings",
        }
    }
}

/// One round. The same forwards and backwards: a machine that gets slower or faster on the way is so for both sides of
/// a ratio, and the direct writer against itself is the A/A control.
const ORDER: [Kind; 14] = [
    Kind::Direct,
    Kind::NoPlugin,
    Kind::Passthrough,
    Kind::Scraped,
    Kind::RelabelRoute,
    Kind::ByHand,
    Kind::ByHandUntuned,
    Kind::Tutorial,
    Kind::ByHandUntuned,
    Kind::ByHand,
    Kind::Scraped,
    Kind::Passthrough,
    Kind::NoPlugin,
    Kind::Direct,
];

/// In a bucket (and a consumer group) of its own, which is removed afterwards.
fn one_run(
    bench: &Bench,
    kind: Kind,
    size: &Size,
    topic: &str,
    tutorial_topic: &str,
    style: &host::Style,
) -> Result<Rate> {
    let bucket = unique("bench");
    let plugins = match kind {
        Kind::Direct => {
            let rate = direct::run(bench, size, &bucket, style)?;
            return bench.checked(&bucket, size.records, size.bytes).map(|()| rate);
        }
        Kind::Tutorial => {
            let rate = tutorial::run(bench, size, &bucket, tutorial_topic)?;
            return bench.checked(&bucket, size.tutorial_records, size.bytes).map(|()| rate);
        }
        Kind::ByHand | Kind::ByHandUntuned => {
            let untuned = BucketSettings::default();
            let settings = if kind == Kind::ByHand { &style.settings } else { &untuned };
            let rate = by_hand::run(bench, size, &bucket, topic, settings)?;
            return bench.checked(&bucket, size.records, size.bytes).map(|()| rate);
        }
        Kind::NoPlugin => Plugins::None,
        Kind::Scraped => {
            let rate = host::watched_run(bench, size.records, &bucket, topic)?;
            return bench.checked(&bucket, size.records, size.bytes).map(|()| rate);
        }
        Kind::Passthrough => Plugins::Passthrough,
        Kind::RelabelRoute => Plugins::RelabelRoute,
    };
    let rate = host::run(bench, size.records, &bucket, topic, plugins)?;
    bench.checked(&bucket, size.records, size.bytes)?;
    Ok(rate)
}

/// Progress goes to standard error: standard output is for the tables.
fn note(text: &str) {
    eprintln!("bench: {text}");
}
