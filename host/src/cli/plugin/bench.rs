//! `reduct-sink plugin bench`.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;
use reduct_sink::devkit::bench::{BenchComparison, BenchOptions, Cost, bench};

use super::{CommandError, Progress, failed, is_json, print};

#[derive(Debug, Args)]
pub struct Bench {
    /// The component
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Size of a payload of bytes from 0 to 255 (repeatable) [default, without --payload and --fixtures: 100 B, 1 KB, 10 KB,
    /// 100 KB, 1 MB]
    #[arg(long, value_name = "SIZE")]
    size: Vec<ByteSize>,
    /// File that is the payload of a record (repeatable)
    #[arg(long, value_name = "FILE")]
    payload: Vec<PathBuf>,
    /// Folder of fixtures, as for `plugin test`; those that expect a failure are left out
    #[arg(long, value_name = "DIR")]
    fixtures: Option<PathBuf>,
    /// Header of the records that are no fixtures (repeatable) [default: four short ones]
    #[arg(long, value_name = "KEY=VALUE", value_parser = header)]
    header: Vec<(String, String)>,
    /// The plugin's configuration, as JSON
    #[arg(long = "config", value_name = "JSON", default_value = "{}", value_parser = json)]
    config: String,
    /// Another component to compare with, such as the previous version
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// How long to measure each kind of record, in all
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    time: humantime::Duration,
}

impl Bench {
    pub fn execute(self) -> Result<(), CommandError> {
        let default_sizes = || [100, 1_000, 10_000, 100_000, 1_000_000].map(ByteSize::b).to_vec();
        let default_headers = || {
            let headers = [("size", "1024"), ("type", "binary"), ("camera", "front-left"), ("line", "7")];
            headers.map(|(key, value)| (key.into(), value.into())).to_vec()
        };
        let has_records = !self.size.is_empty() || !self.payload.is_empty() || self.fixtures.is_some();
        let sizes = if has_records { self.size } else { default_sizes() };
        let components = if self.against.is_some() { 3 } else { 2 };
        let options = BenchOptions {
            config: self.config,
            sizes: sizes.iter().map(|size| usize::try_from(size.as_u64()).unwrap_or(usize::MAX)).collect(),
            payloads: self.payload,
            fixtures: self.fixtures,
            headers: if self.header.is_empty() { default_headers() } else { self.header },
            against: self.against,
            // The components share it, in seven rounds each.
            round: Duration::from(self.time) / (7 * components),
        };
        let progress = Progress::start(format!("measuring {}", self.file.display()));
        let comparison = bench(&self.file, &options).map_err(CommandError::of)?;
        drop(progress);
        if is_json() {
            print(serde_json::to_string_pretty(&comparison).map_err(failed)?)
        } else {
            print_table(&comparison)
        }
        Ok(())
    }
}

fn print_table(BenchComparison { plugin, against, passthrough, left_out }: &BenchComparison) {
    let columns: Vec<&Cost> = [plugin].into_iter().chain(against).chain([passthrough]).collect();
    let names: Vec<String> = plugin.records.iter().map(|cost| format!("µs a record: {}", cost.record)).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max(26);
    let line = |what: &str, of: &dyn Fn(&Cost) -> String| {
        let cells: String = columns.iter().map(|cost| format!("{:>16}", of(cost))).collect();
        print(format_args!("{what:<width$}{cells}"));
    };
    // Two versions of one plugin have one name.
    line("", &|cost| cost.name.clone());
    line("sha256", &|cost| cost.digest.chars().take(12).collect());
    line("size, KB", &|cost| format!("{:.1}", cost.bytes as f64 / 1e3));
    line("load, ms", &|cost| format!("{:.1}", cost.load_ms));
    line("load from cache, ms", &|cost| format!("{:.1}", cost.load_cached_ms));
    line("start an instance, ms", &|cost| format!("{:.3}", cost.start_ms));
    line("memory at start, KB", &|cost| format!("{:.0}", cost.memory_at_start as f64 / 1e3));
    line("memory at end, KB", &|cost| format!("{:.0}", cost.memory_at_end as f64 / 1e3));
    for (at, name) in names.iter().enumerate() {
        line(name, &|cost| cost.records.get(at).map_or(String::new(), |record| format!("{:.2}", record.us_a_record)));
    }
    print("µs: the median of seven rounds, the components in turn, on one thread");
    if *left_out > 0 {
        print(format_args!("{left_out} fixtures that expect a failure were left out"));
    }
}

fn header(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.into(), value.into()))
}

fn json(text: &str) -> Result<String, String> {
    let value: serde_json::Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if value.is_object() { Ok(text.into()) } else { Err("expected a JSON object".into()) }
}
