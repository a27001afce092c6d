//! What a record costs in the chain: nanoseconds of one thread for passthrough, at 1 KB, by the number of headers.
//!
//! `cargo run --release -p reduct-sink --example chain_speed`, with the path of another plugin to measure that one.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use reduct_sink::chain::{Chain, Outcome, SharedChain};
use reduct_sink::config::{FailurePolicy, PluginConfig, PluginSource};
use reduct_sink::plugin::Runtime;
use reduct_sink::record::{Header, InputRecord, TopicPartition};

const RECORDS: u64 = 200_000;

fn main() -> anyhow::Result<()> {
    let source = match std::env::args().nth(1) {
        Some(path) => PluginSource::File(path.into()),
        None => PluginSource::Builtin,
    };
    let runtime = Runtime::new()?;
    let plugin = PluginConfig { on_failure: FailurePolicy::Stop, ..PluginConfig::new("measured", source) };
    for (plugins, headers) in [(0, 2), (1, 0), (1, 2), (1, 4), (2, 2)] {
        let chain = vec![plugin.clone(); plugins];
        let mut chain = Chain::new(SharedChain::load(runtime.clone(), &chain)?)?;
        let ns = (0..5).map(|_| nanoseconds_a_record(&mut chain, headers)).min().unwrap_or_default();
        println!("{plugins} plugins, {headers} headers, 1 KB: {ns} ns a record");
    }
    Ok(())
}

/// The mean over many records, made beforehand as the source makes them.
fn nanoseconds_a_record(chain: &mut Chain, headers: usize) -> u64 {
    let inputs: Vec<Arc<InputRecord>> = (0..1000).map(|offset| Arc::new(record(offset, headers))).collect();
    let start = Instant::now();
    for at in 0..RECORDS {
        chain.refresh();
        let outcome = inputs.get((at % 1000) as usize).map(|input| black_box(chain.transform(input)));
        if !matches!(outcome, Some(Outcome::Outputs(_))) {
            eprintln!("a record wasn't kept");
        }
    }
    start.elapsed().as_nanos() as u64 / RECORDS
}

fn record(offset: u64, headers: usize) -> InputRecord {
    let header = |(key, value): &(&'static str, &'static str)| Header {
        key: Bytes::from_static(key.as_bytes()),
        value: Some(Bytes::from_static(value.as_bytes())),
    };
    let all = [("size", "1024"), ("type", "binary"), ("camera", "front-left"), ("line", "7")];
    InputRecord {
        source: TopicPartition { topic: "frames".into(), partition: 3 },
        topic_id: None,
        offset,
        timestamp_ms: Some(1_700_000_000_000 + offset),
        key: None,
        headers: all.iter().take(headers).map(header).collect(),
        payload: Some(Bytes::from(vec![7; 1024])),
    }
}
