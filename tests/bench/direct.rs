//! (a) The ceiling: the fastest writer that could be made with reduct-rs for the same bytes, labels, entries and bucket
//! settings as the host's. Everything is in memory before it starts; each entry has one request in flight, as the
//! host's (more than one at a time loses records, and wasn't faster).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use reduct_rs::{Bucket, RecordBuilder};
use reduct_sink_testbed::store;

use crate::bed::Bench;
use crate::held::{Rate, Watched, watch};
use crate::host::Style;
use crate::plan::Size;

pub fn run(bench: &Bench, size: &Size, bucket: &str, style: &Style) -> Result<Rate> {
    let entries: Vec<(String, Vec<Batch>)> =
        (0..bench.partitions).map(|partition| prepared(bench, size, style, partition)).collect();
    let (ready, begin) = channel();
    let writer = {
        let (url, bucket, style) = (bench.url.clone(), bucket.to_owned(), style.clone());
        thread::spawn(move || -> Result<()> {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            let client = store::client(&url, None)?;
            let settings = style.settings.clone();
            let bucket = Arc::new(runtime.block_on(client.create_bucket(&bucket).settings(settings).send())?);
            let _ = ready.send(());
            runtime.block_on(async {
                let writers = entries.into_iter().map(|(entry, batches)| {
                    let (bucket, content_type) = (bucket.clone(), style.content_type.clone());
                    tokio::spawn(write(bucket, entry, batches, content_type))
                });
                for writer in futures::future::join_all(writers).await {
                    writer??;
                }
                Ok(())
            })
        })
    };
    // Where the writer couldn't even begin, it says so below.
    let _ = begin.recv();
    let mut writer = Some(writer);
    let watched: Vec<Watched> =
        bench.servers.into_iter().chain([Watched { name: "bench", pid: std::process::id() }]).collect();
    let mut end = |done: JoinHandle<Result<()>>| done.join().unwrap_or_else(|_| bail!("the direct writer panicked"));
    let rate = watch(bench, bucket, size.records, &watched, || {
        writer.take_if(|writer| writer.is_finished()).map_or(Ok(()), &mut end)
    })?;
    writer.map_or(Ok(()), end)?;
    Ok(rate)
}

type Batch = Vec<(u64, HashMap<String, String>, Bytes)>;

/// The records of one partition in batches, with the timestamps and labels that the host would give them.
fn prepared(bench: &Bench, size: &Size, style: &Style, partition: i32) -> (String, Vec<Batch>) {
    let entry = if bench.partitions == 1 { "bench".to_owned() } else { format!("bench/{partition}") };
    let numbers: Vec<u64> = (partition as u64..size.records).step_by(bench.partitions as usize).collect();
    let records = (0u64..).zip(numbers).map(|(offset, number)| {
        let mut labels = style.labels.clone();
        labels.insert("size".into(), size.bytes.to_string());
        labels.insert("type".into(), "binary".into());
        labels.insert("kafka.source".into(), format!("bench/{partition}"));
        labels.insert("kafka.offset".into(), offset.to_string());
        (style.first_timestamp_us + offset, labels, bench.payload(number, size.bytes))
    });
    let records: Batch = records.collect();
    (entry, records.chunks(size.direct_batch).map(<[_]>::to_vec).collect())
}

async fn write(bucket: Arc<Bucket>, entry: String, batches: Vec<Batch>, content_type: String) -> Result<()> {
    for batch in batches {
        let mut request = bucket.write_batch(&entry);
        for (timestamp, labels, payload) in batch {
            let record = RecordBuilder::new().timestamp_us(timestamp).labels(labels).data(payload);
            request.append_record(record.content_type(content_type.clone()).build());
        }
        let failed = request.send().await.with_context(|| format!("can't write to {entry}"))?;
        ensure!(
            failed.is_empty(),
            "{} records of a batch failed, one of them: {:?}",
            failed.len(),
            failed.first_key_value()
        );
    }
    Ok(())
}
