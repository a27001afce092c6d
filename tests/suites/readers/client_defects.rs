//! Faults of the published clients that a reader meets. Each test fails when its fault is mended upstream.

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt;
use reduct_sink_testbed::{Message, process, source_of};
use serde_json::{Value, json};

use super::clients::{Answer, Client, Read};
use super::rust::{read_of, several};
use super::{Bench, FIRST_MS, cli};

/// Over several entries reduct-py 1.21.0 and reduct-js 1.20.0 give records the payloads of others: they take the bodies in
/// the order of time, the server sends them in that of entries. When this test fails, they don't any more: then
/// `host/docs/reading.md` has to say so.
#[tokio::test(flavor = "multi_thread")]
async fn wildcards_mix_payloads_up_in_python_and_javascript() -> Result<()> {
    let sent =
        (0..60).map(|n| Message::new(format!("payload {n}")).partition((n % 3) as i32).timestamp_ms(FIRST_MS + n));
    let bench = Bench::new(sent.collect(), 3).await?;
    let wildcard = format!("{}/*", bench.topic);
    let by_time = |mut records: Vec<Read>| {
        records.sort_by_key(|read| (read.time, read.entry.clone()));
        records
    };
    let expected = by_time(bench.stored.iter().map(Read::from).collect());
    let client = bench.bed.store.client()?;
    let bucket = client.get_bucket(bench.config.bucket()).await?;
    let query = bucket.query(several(&wildcard)).start_us(0).stop_us(i64::MAX as u64).send().await?;
    futures::pin_mut!(query);
    let mut read = Vec::new();
    while let Some(record) = query.next().await {
        let record = record?;
        // The client doesn't tell the entry; here it is named after the partition.
        let entry = source_of(record.labels().get("kafka.source").context("a source")?).to_owned();
        read.push(read_of(record, &entry).await?);
    }
    ensure!(by_time(read) == expected, "reduct-rs reads several entries wrongly");
    for client in [Client::python()?, Client::javascript()?] {
        let question = [json!({ "id": "all", "wildcard": wildcard })];
        let answers = client.ask(&bench.bed.store.url(), bench.config.bucket(), &bench.topic, &question)?;
        let [Answer { records, .. }] = &answers[..] else { bail!("{} answers", answers.len()) };
        let found = by_time(records.clone());
        let head = |read: &Read| (read.entry.clone(), read.time, read.labels.clone());
        ensure!(found.iter().map(head).eq(expected.iter().map(head)), "labels and times are right even so");
        ensure!(found != expected, "the bug is gone: mend host/docs/reading.md, which warns of it");
    }
    Ok(())
}

/// reduct-js 1.20.0 parses the body of a single record as JSON where its content type says so, and then can't read it. When
/// this test fails, it doesn't any more: then `host/docs/reading.md` has to say so.
#[tokio::test(flavor = "multi_thread")]
async fn single_records_of_json_are_unreadable_in_javascript() -> Result<()> {
    let sent = (0..3).map(|n| {
        let message = Message::new(format!("{{\"n\": {n}}}")).header("content-type", "application/json");
        message.timestamp_ms(FIRST_MS + n)
    });
    let bench = Bench::new(sent.collect(), 1).await?;
    let questions = bench.questions(1);
    let (single, others): (Vec<_>, Vec<_>) =
        questions.into_iter().partition(|question| question.get("single").is_some());
    let ask = |client: &Client, questions: &[Value]| {
        client.ask(&bench.bed.store.url(), bench.config.bucket(), &bench.entry, questions)
    };
    let javascript = Client::javascript()?;
    for answer in ask(&javascript, &others)? {
        bench.compare(answer)?;
    }
    let error =
        ask(&javascript, &single).err().context("the bug is gone: mend host/docs/reading.md, which warns of it")?;
    ensure!(format!("{error:#}").contains("Invalid body type"), "{error:#}");
    for answer in ask(&Client::python()?, &single)? {
        bench.compare(answer)?;
    }
    Ok(())
}

/// reduct-cli 0.10.0 doesn't make the folders above that of an entry with a `/` in its name: such an entry is exported only
/// where they are there already. When this test fails, it makes them: then `host/docs/reading.md` has to say so.
#[tokio::test(flavor = "multi_thread")]
async fn reduct_cli_exports_an_entry_with_a_slash_only_into_folders_that_are_there() -> Result<()> {
    let sent = (0..10).map(|n| Message::new("x").partition((n % 2) as i32).timestamp_ms(FIRST_MS + n));
    let bench = Bench::new(sent.collect(), 2).await?;
    let folder = process::data_folder("readers-cli")?;
    let stop = (bench.stored.last().context("a record")?.timestamp_us + 1).to_string();
    let options = ["--stop", &stop, "--entries", &format!("{}/*", bench.topic)];
    let missing = cli::run(&bench, &[cli::export(&bench, &folder.path().join("missing"), &options)])?;
    ensure!(!missing.status.success(), "the bug is gone: mend host/docs/reading.md, which has a way around it");
    ensure!(cli::told(&missing).contains("No such file or directory"), "{}", cli::told(&missing));

    let to = folder.path().join("there");
    cli::make_folders(&to, &bench.stored[0].entry)?;
    let there = cli::run(&bench, &[cli::export(&bench, &to, &options)])?;
    ensure!(there.status.success(), "{}", cli::told(&there));
    for partition in 0..2 {
        let entry = format!("{}/{partition}", bench.topic);
        let records: Vec<_> = bench.stored.iter().filter(|stored| stored.entry == entry).cloned().collect();
        ensure!(records.len() == 5, "{} records in {entry}", records.len());
        cli::are_exported(&to.join(&entry), &records)?;
    }
    Ok(())
}

/// reduct-cli 0.10.0 passes `--include` and `--exclude` over: they export everything, without a word. When this test fails,
/// they do what their help says: then `host/docs/reading.md` has to say so.
#[tokio::test(flavor = "multi_thread")]
async fn reduct_cli_passes_conditions_over() -> Result<()> {
    let sent = (0..6).map(|n| {
        let message = Message::new("x").header("type", if n % 2 == 0 { "image" } else { "scan" });
        message.timestamp_ms(FIRST_MS + n)
    });
    let bench = Bench::new(sent.collect(), 1).await?;
    let folder = process::data_folder("readers-cli")?;
    let stop = (bench.stored.last().context("a record")?.timestamp_us + 1).to_string();
    for condition in ["--include", "--exclude"] {
        let to = folder.path().join(condition);
        let options = ["--stop", &stop, "--entries", &bench.entry, condition, "type=image"];
        let output = cli::run(&bench, &[cli::export(&bench, &to, &options)])?;
        ensure!(output.status.success(), "{}", cli::told(&output));
        cli::are_exported(&to.join(&bench.entry), &bench.stored)
            .context("the bug is gone: mend host/docs/reading.md, which warns of it")?;
    }
    Ok(())
}
