//! The metrics say what is so: after partitions were given up, while records wait, and whatever records hold.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use reduct_sink_testbed::{Message, Sink, bed, payload, process, unique};

use super::picky::PickyHost;
use super::{BOUND, SHOWN_WITHIN, address, get, request};

/// The partitions that this figure has.
fn partitions(address: &str, figure: &str) -> Result<BTreeSet<String>> {
    let text = get(address, "/metrics")?.1;
    let head = format!("reduct_sink_{figure}{{");
    let labels = text.lines().filter_map(|line| line.strip_prefix(&head));
    Ok(labels.filter_map(|line| Some(line.split_once('}')?.0.to_owned())).collect())
}

/// The sum of a figure over its labels.
fn sum(address: &str, figure: &str) -> Result<f64> {
    let text = get(address, "/metrics")?.1;
    let head = format!("reduct_sink_{figure}{{");
    let values = text.lines().filter(|line| line.starts_with(&head));
    Ok(values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}

#[test]
fn figures_of_a_partition_go_with_it() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("given-up");
    kafka.create_topic(&topic, 4)?;
    let (first, second) = (address()?, address()?);
    let config = bed.sink_config(&topic);
    let mut one = Sink::start(&config.clone().set("status.listen", first.as_str()))?;
    let figures = ["partition_lag_records", "partition_lag_seconds", "partition_position", "partition_stuck"];
    let wait = |address: &str, wanted: usize| {
        process::wait_for("the figures of the partitions", BOUND, || {
            let Ok(told) = partitions(address, "partition_lag_records") else { return Ok(None) };
            Ok((told.len() == wanted).then_some(told))
        })
    };
    wait(&first, 4)?;
    let mut other = Sink::start(&config.clone().set("status.listen", second.as_str()))?;
    let (ours, theirs) = (wait(&first, 2)?, wait(&second, 2)?);
    ensure!(ours.is_disjoint(&theirs), "{ours:?} {theirs:?}");
    for figure in figures {
        ensure!(partitions(&first, figure)? == ours, "{figure}: {:?}, not {ours:?}", partitions(&first, figure)?);
    }
    // None of them has a record, and none waits.
    ensure!(sum(&first, "partition_lag_records")? == 0.0 && sum(&first, "partition_lag_seconds")? == 0.0);
    other.stop_cleanly()?;
    wait(&first, 4)?;
    one.stop_cleanly()
}

#[test]
fn lag_is_how_long_records_wait_and_labels_are_few() -> Result<()> {
    let PickyHost { kafka, topic, address, config, mut sink, folder: _folder, .. } = PickyHost::start("waiting", "")?;
    let post = |path: &str| {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer a-secret\r\nConnection: close\r\n"
        );
        let (code, told) = request(&address, &format!("{head}Content-Length: 0\r\n\r\n"))?;
        ensure!(code == 200, "{code} {told}");
        Ok(())
    };
    // Problems come and go; their codes are few.
    let is_series = |line: &&str| !line.starts_with('#') && !line.starts_with("reduct_sink_problem{");
    let series = || -> Result<usize> { Ok(get(&address, "/metrics")?.1.lines().filter(is_series).count()) };
    process::wait_for("the figures of the partitions", SHOWN_WITHIN, || {
        Ok((partitions(&address, "partition_lag_seconds")?.len() == 2).then_some(()))
    })?;
    let before = series()?;
    post("/pause")?;
    // Keys, headers, times and what the plugin says of them: none becomes a label of a figure.
    kafka.produce(
        &topic,
        (0..300).map(|n| {
            let message = Message::new(payload(n, 100)).partition((n % 2) as i32).key(format!("key {n}"));
            message.header(format!("h{n}"), format!("value {n}"))
        }),
    )?;
    process::wait_for("records that wait", BOUND, || {
        let (records, seconds) = (sum(&address, "partition_lag_records")?, sum(&address, "partition_lag_seconds")?);
        // Both partitions for five seconds and more.
        Ok((records == 300.0 && seconds > 10.0).then_some(()))
    })?;
    ensure!(sum(&address, "partition_stuck")? == 0.0, "a pause is no stuck partition");
    post("/resume")?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], BOUND)?;
    process::wait_for("no lag", SHOWN_WITHIN, || {
        Ok((sum(&address, "partition_lag_records")? == 0.0 && sum(&address, "partition_lag_seconds")? == 0.0)
            .then_some(()))
    })?;
    let text = get(&address, "/metrics")?.1;
    ensure!(text.contains("reduct_sink_dead_letters_total{class=\"plugin\"} 300"), "{text}");
    let after = series()?;
    ensure!(after == before, "{before} series became {after}");
    sink.stop_cleanly()
}
