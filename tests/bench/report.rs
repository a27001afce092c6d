//! What was measured, as tables in Markdown and as figures.
//!
//! Guarantees: a figure is the median; a ratio is taken in each round, from the means of its runs, and then the median.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use reduct_sink_testbed::{figures, kafka, store};

use crate::Kind;
use crate::held::Rate;
use crate::host::Discard;
use crate::plan::Size;

/// The least ratio of two kinds that is aimed at, by size in the order of [`crate::plan::SIZES`].
const FLOORS: [(Kind, Kind, [f64; 3]); 3] = [
    (Kind::Passthrough, Kind::NoPlugin, [0.98; 3]),
    (Kind::Passthrough, Kind::Tutorial, [3.0, 4.0, 4.0]),
    (Kind::Passthrough, Kind::ByHand, [1.0, 1.3, 1.3]),
];
/// Ratios that have no floor.
const TOLD: [(Kind, Kind); 6] = [
    (Kind::Passthrough, Kind::ByHandUntuned),
    (Kind::Passthrough, Kind::Direct),
    (Kind::NoPlugin, Kind::Direct),
    (Kind::RelabelRoute, Kind::NoPlugin),
    (Kind::RelabelRoute, Kind::Tutorial),
    (Kind::Scraped, Kind::Passthrough),
];
const DISCARD_FLOOR: f64 = 300_000.0;
const BACKLOG_CEILING_MB: f64 = 300.0;
const LOOKS_CEILING_PERCENT: f64 = 1.0;

/// What one size came to.
pub struct Rounds {
    size: &'static Size,
    rounds: Vec<BTreeMap<Kind, Vec<Rate>>>,
    current: BTreeMap<Kind, Vec<Rate>>,
}

impl Rounds {
    pub fn new(size: &'static Size) -> Self {
        Self { size, rounds: Vec::new(), current: BTreeMap::new() }
    }

    pub fn add(&mut self, kind: Kind, rate: Rate) {
        self.current.entry(kind).or_default().push(rate);
    }

    pub fn end_round(&mut self) {
        self.rounds.push(std::mem::take(&mut self.current));
    }

    fn rates(&self, kind: Kind) -> Vec<&Rate> {
        self.rounds.iter().filter_map(|round| round.get(&kind)).flatten().collect()
    }

    fn per_second(&self, kind: Kind) -> Option<Spread> {
        Spread::of(self.rates(kind).into_iter().map(|rate| rate.per_second))
    }

    fn ratio(&self, of: Kind, to: Kind) -> Option<Spread> {
        let mean = |rates: &Vec<Rate>| rates.iter().map(|rate| rate.per_second).sum::<f64>() / rates.len() as f64;
        Spread::of(self.rounds.iter().filter_map(|round| Some(mean(round.get(&of)?) / mean(round.get(&to)?))))
    }

    /// What it costs to be watched, in percent of the CPU time.
    fn looks_percent(&self) -> Option<Spread> {
        Spread::of(self.rates(Kind::Scraped).into_iter().filter_map(|rate| rate.looks_percent))
    }

    /// The second run of a round by the first: nothing but noise.
    fn control(&self) -> Option<Spread> {
        Spread::of(self.rounds.iter().filter_map(|round| match round.get(&Kind::Direct)?.as_slice() {
            [first, .., last] => Some(last.per_second / first.per_second),
            _ => None,
        }))
    }

    /// The median CPU time a record of each process, in the order in which they were watched.
    fn cpu(&self, kind: Kind) -> Vec<(&'static str, f64)> {
        let rates = self.rates(kind);
        let names = rates.first().map(|rate| rate.cpu.iter().map(|(name, _)| *name).enumerate()).into_iter().flatten();
        let median = |at: usize| Spread::of(rates.iter().filter_map(|rate| rate.cpu.get(at)).map(|(_, cpu)| *cpu));
        names.filter_map(|(at, name)| Some((name, median(at)?.median))).collect()
    }
}

pub struct Report {
    pub sizes: Vec<Rounds>,
    pub discard: Vec<Discard>,
    /// In bytes.
    pub backlog: Option<u64>,
    partitions: i32,
    apart: bool,
}

impl Report {
    pub fn new(partitions: i32, apart: bool) -> Self {
        Self { sizes: Vec::new(), discard: Vec::new(), backlog: None, partitions, apart }
    }

    pub fn markdown(&self) -> String {
        let mut text = self.rate_table();
        text += &self.ratio_table();
        text += &self.host_table();
        text += &self.cpu_table();
        text += &self.conditions();
        text
    }

    /// What one has to know to read the tables.
    fn conditions(&self) -> String {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let shared = if self.apart {
            format!("ReductStore has one core to itself, Kafka and the writer share {cores} other(s)")
        } else {
            format!("Kafka, ReductStore and the writer share {cores} cores")
        };
        let rates = self.sizes.iter().flat_map(|rounds| Kind::ALL.into_iter().flat_map(|kind| rounds.rates(kind)));
        let others = Spread::of(rates.map(|rate| rate.others))
            .map_or_else(String::new, |others| format!(" Other processes kept {} of them busy.", others.show(1)));
        format!(
            "Median (least to most). A rate counts what ReductStore {} holds, from 10 % of the records to the last \
             look (every 50 ms) before all are there; Apache Kafka {}; {shared}.{others} Topics \
             have {} partitions, so there are as many entries; the tutorial's consumer writes one. Ratios are taken \
             within a round of a b c g d f i e i f g c b a. (b), (c), (d) and \
             (g) read back what they write, as the host does by default.\n",
            store::VERSION,
            kafka::version().unwrap_or_else(|_| "of an unknown version".into()),
            self.partitions,
        )
    }

    fn rate_table(&self) -> String {
        let mut table = Table::new(
            "records/s, held by ReductStore",
            self.sizes.iter().map(|rounds| {
                format!("{} ({} records, {} rounds)", rounds.size.label, rounds.size.records, rounds.rounds.len())
            }),
        );
        for kind in Kind::ALL {
            let cells = self.sizes.iter().map(|rounds| {
                rounds.per_second(kind).map(|spread| {
                    let megabytes = spread.median * rounds.size.bytes as f64 / 1e6;
                    let digits = if megabytes < 10.0 { 1 } else { 0 };
                    format!("{} = {megabytes:.digits$} MB/s", spread.show(0))
                })
            });
            table.row(&format!("({}) {}", kind.letter(), kind.label()), cells);
        }
        table.finish()
    }

    fn ratio_table(&self) -> String {
        let mut table = Table::new("ratio", self.sizes.iter().map(|rounds| rounds.size.label.to_owned()));
        for (of, to, floors) in FLOORS {
            let cells = self.sizes.iter().map(|rounds| {
                let floor = floors[position(rounds.size)];
                rounds
                    .ratio(of, to)
                    .map(|ratio| format!("{} {}", ratio.show(3), verdict(ratio.median >= floor, "≥", floor)))
            });
            table.row(&format!("{}/{}", of.letter(), to.letter()), cells);
        }
        for (of, to) in TOLD {
            let cells = self.sizes.iter().map(|rounds| rounds.ratio(of, to).map(|ratio| ratio.show(3)));
            table.row(&format!("{}/{}", of.letter(), to.letter()), cells);
        }
        let cells = self.sizes.iter().map(|rounds| rounds.control().map(|ratio| ratio.show(3)));
        table.row("a/a, the control", cells);
        table.finish()
    }

    fn host_table(&self) -> String {
        let mut table = Table::new("the host alone", ["measured".to_owned()].into_iter());
        if let Some(per_core) = Spread::of(self.discard.iter().map(|run| run.per_core)) {
            let reached = verdict(per_core.median >= DISCARD_FLOOR, "≥", DISCARD_FLOOR);
            table.row(
                "records of 1 KB a second and core, passthrough, discarding sink",
                [Some(format!("{} {reached}", per_core.show(0)))],
            );
        }
        if let Some(per_second) = Spread::of(self.discard.iter().map(|run| run.per_second)) {
            table.row("the same by the clock, starting included", [Some(per_second.show(0))]);
        }
        if let Some(percent) = self.sizes.iter().find_map(Rounds::looks_percent) {
            let reached = verdict(percent.median <= LOOKS_CEILING_PERCENT, "≤", LOOKS_CEILING_PERCENT);
            table.row(
                "a scrape every second and the page open, in percent of the CPU time of host, Kafka and store",
                [Some(format!("{} {reached}", percent.show(2)))],
            );
        }
        if let Some(bytes) = self.backlog {
            let megabytes = bytes as f64 / 1e6;
            let reached = verdict(megabytes <= BACKLOG_CEILING_MB, "≤", BACKLOG_CEILING_MB);
            table.row(
                "peak resident memory, backlog of 2 GB of 900 KB records",
                [Some(format!("{megabytes:.1} MB {reached}"))],
            );
        }
        table.finish()
    }

    fn cpu_table(&self) -> String {
        let mut table =
            Table::new("CPU time a record, in µs", self.sizes.iter().map(|rounds| rounds.size.label.to_owned()));
        for kind in Kind::ALL {
            let cells = self.sizes.iter().map(|rounds| {
                let parts: Vec<String> =
                    rounds.cpu(kind).iter().map(|(name, cpu)| format!("{name} {cpu:.0}")).collect();
                (!parts.is_empty()).then(|| parts.join(", "))
            });
            table.row(&format!("({}) {}", kind.letter(), kind.label()), cells);
        }
        table.finish()
    }

    /// Writes all figures: as one flat object to `json`, and to the figures of the suites' run.
    pub fn write_figures(&self, json: Option<&Path>) -> Result<()> {
        let figures = self.figures();
        if std::env::var_os("TESTBED_FIGURES").is_some() {
            figures.iter().try_for_each(|(name, value)| figures::record(name, *value))?;
        }
        let Some(path) = json else { return Ok(()) };
        let object: serde_json::Map<_, _> = figures.into_iter().map(|(name, value)| (name, value.into())).collect();
        let text = serde_json::to_string_pretty(&object)?;
        std::fs::write(path, text + "\n").with_context(|| format!("can't write {}", path.display()))
    }

    fn figures(&self) -> BTreeMap<String, f64> {
        let mut figures = BTreeMap::from([("partitions".to_owned(), f64::from(self.partitions))]);
        let mut note = |name: String, digits: i32, value: Option<f64>| {
            let unit = 10f64.powi(digits);
            figures.extend(value.map(|value| (name, (value * unit).round() / unit)));
        };
        let ratios = FLOORS.iter().map(|(of, to, _)| (*of, *to)).chain(TOLD);
        for rounds in &self.sizes {
            let size = rounds.size.name;
            for kind in Kind::ALL {
                note(format!("{}_{size}", kind.letter()), 1, rounds.per_second(kind).map(|rate| rate.median));
            }
            for (of, to) in ratios.clone() {
                let name = format!("ratio_{}_{}_{size}", of.letter(), to.letter());
                note(name, 4, rounds.ratio(of, to).map(|ratio| ratio.median));
            }
            note(format!("ratio_a_a_{size}"), 4, rounds.control().map(|ratio| ratio.median));
        }
        let controls = self.sizes.iter().filter_map(|rounds| Some(rounds.control()?.median));
        let farthest = controls.max_by(|a, b| a.ln().abs().total_cmp(&b.ln().abs()));
        note("ratio_a_a".into(), 4, farthest);
        let per_core = Spread::of(self.discard.iter().map(|run| run.per_core));
        note("discard_per_core".into(), 0, per_core.map(|spread| spread.median));
        let percent = self.sizes.iter().find_map(Rounds::looks_percent);
        note("scrape_cost_percent".into(), 3, percent.map(|spread| spread.median));
        note("rss_mb_backlog".into(), 1, self.backlog.map(|bytes| bytes as f64 / 1e6));
        if self.apart {
            figures = figures.into_iter().map(|(name, value)| (name + "_apart", value)).collect();
        }
        figures
    }
}

fn position(size: &Size) -> usize {
    crate::plan::SIZES.iter().position(|other| other.name == size.name).unwrap_or_default()
}

fn verdict(reached: bool, sign: &str, floor: f64) -> String {
    if reached { format!("({sign} {floor}: reached)") } else { format!("(**{sign} {floor}: not reached**)") }
}

struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    /// `None` of nothing.
    fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        Some(Self { median: (low + high) / 2.0, min, max })
    }

    fn show(&self, digits: usize) -> String {
        format!("{:.digits$} ({:.digits$} to {:.digits$})", self.median, self.min, self.max)
    }
}

/// A table in Markdown; a row without a single value is left out.
struct Table {
    text: String,
    rows: usize,
}

impl Table {
    fn new(title: &str, columns: impl Iterator<Item = String>) -> Self {
        let columns: Vec<String> = columns.collect();
        let text = format!("| {title} | {} |\n|---|{}\n", columns.join(" | "), "---|".repeat(columns.len()));
        Self { text, rows: 0 }
    }

    fn row(&mut self, name: &str, cells: impl IntoIterator<Item = Option<String>>) {
        let cells: Vec<Option<String>> = cells.into_iter().collect();
        if cells.iter().all(Option::is_none) {
            return;
        }
        let cells: Vec<String> = cells.into_iter().map(Option::unwrap_or_default).collect();
        // Writing to a String can't fail.
        let _ = writeln!(self.text, "| {name} | {} |", cells.join(" | "));
        self.rows += 1;
    }

    fn finish(self) -> String {
        if self.rows == 0 { String::new() } else { self.text + "\n" }
    }
}
