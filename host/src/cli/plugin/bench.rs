//! `reduct-sink plugin bench`.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;
use reduct_sink::devkit::bench::{Cost, Options, Report, bench};

use super::{Failure, failed, print};

#[derive(Debug, Args)]
pub struct Bench {
    /// The component
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Size of the payload (repeatable) [default: 100 B, 1 KB, 10 KB, 100 KB, 1 MB]
    #[arg(long, value_name = "SIZE")]
    size: Vec<ByteSize>,
    /// Header that the records have (repeatable) [default: four short ones]
    #[arg(long, value_name = "KEY=VALUE", value_parser = header)]
    header: Vec<(String, String)>,
    /// The plugin's configuration, as JSON
    #[arg(long = "config", value_name = "JSON", default_value = "{}", value_parser = json)]
    config: String,
    /// How long to measure each size, in all
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    time: humantime::Duration,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Bench {
    pub fn execute(self) -> Result<(), Failure> {
        let default_sizes = || [100, 1_000, 10_000, 100_000, 1_000_000].map(ByteSize::b).to_vec();
        let default_headers = || {
            let headers = [("size", "1024"), ("type", "binary"), ("camera", "front-left"), ("line", "7")];
            headers.map(|(key, value)| (key.into(), value.into())).to_vec()
        };
        let sizes = if self.size.is_empty() { default_sizes() } else { self.size };
        let options = Options {
            config: self.config,
            sizes: sizes.iter().map(|size| usize::try_from(size.as_u64()).unwrap_or(usize::MAX)).collect(),
            headers: if self.header.is_empty() { default_headers() } else { self.header },
            // Plugin and passthrough share it, in seven rounds each.
            round: Duration::from(self.time) / 14,
        };
        let report = bench(&self.file, &options).map_err(Failure::of)?;
        if self.json {
            print(serde_json::to_string_pretty(&report).map_err(failed)?)
        } else {
            tell(&report)
        }
        Ok(())
    }
}

fn tell(Report { plugin, passthrough }: &Report) {
    print(format_args!("{:<26}{:>16}{:>16}", "", plugin.name, passthrough.name));
    let line = |what: &str, of: &dyn Fn(&Cost) -> String| {
        print(format_args!("{what:<26}{:>16}{:>16}", of(plugin), of(passthrough)));
    };
    line("size, KB", &|cost| format!("{:.1}", cost.bytes as f64 / 1e3));
    line("load, ms", &|cost| format!("{:.1}", cost.load_ms));
    line("load from cache, ms", &|cost| format!("{:.1}", cost.load_cached_ms));
    line("start an instance, ms", &|cost| format!("{:.3}", cost.start_ms));
    line("memory at start, KB", &|cost| format!("{:.0}", cost.memory_at_start as f64 / 1e3));
    line("memory at end, KB", &|cost| format!("{:.0}", cost.memory_at_end as f64 / 1e3));
    for (at, size) in plugin.sizes.iter().enumerate() {
        line(&format!("µs a record of {} B", size.payload_bytes), &|cost| {
            cost.sizes.get(at).map_or(String::new(), |size| format!("{:.2}", size.us_a_record))
        });
    }
    print("µs: the median of seven rounds, plugin and passthrough in turn, on one thread");
}

fn header(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.into(), value.into()))
}

fn json(text: &str) -> Result<String, String> {
    let value: serde_json::Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if value.is_object() { Ok(text.into()) } else { Err("expected a JSON object".into()) }
}
