//! Tests how topics become entries: several topics, patterns, names with dots, one partition and more.

use std::collections::BTreeSet;

use anyhow::Result;
use reduct_sink_testbed::{Message, Stored, bed, payload, unique};

use super::{assert_exact, run_through};

#[tokio::test]
async fn entries_are_named_after_topics() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    // Each of these topics gets its own entry, although the first two look alike. (Kafka refuses `x.a` beside `x_a`.)
    let base = unique("line");
    let names = [format!("{base}.a"), format!("{base}_2Ea"), format!("{base}_b"), format!("{base}.many")];
    let mut produced = Vec::new();
    for (name, partitions) in names.iter().zip([1, 1, 1, 3]) {
        kafka.create_topic(name, partitions)?;
        let messages = (0..30).map(|n| Message::new(payload(n, 100)).partition(n as i32 % partitions));
        produced.extend(kafka.produce(name, messages)?);
    }
    let topics: Vec<&str> = names.iter().map(String::as_str).collect();
    let config = bed.sink_config("").topics(&topics);
    let stored = run_through(bed, &config, &topics).await?;
    assert_exact(&produced, &stored)?;
    let expected = ["_2Ea", "_5F2Ea", "_b", "_2Emany/0", "_2Emany/1", "_2Emany/2"];
    assert_eq!(entries(&stored), expected.map(|name| format!("{base}{name}")).into());
    Ok(())
}

#[tokio::test]
async fn a_pattern_takes_topics_that_match() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let base = unique("sensor");
    let matching = [format!("{base}-1"), format!("{base}-22")];
    let other = format!("{base}-x");
    let mut produced = Vec::new();
    for name in matching.iter().chain([&other]) {
        kafka.create_topic(name, 1)?;
        let records = kafka.produce(name, (0..10).map(|n| Message::new(payload(n, 10))))?;
        if *name != other {
            produced.extend(records);
        }
    }
    let config = bed.sink_config("").topics(&[&format!("^{base}-[0-9]+$")]);
    let stored = run_through(bed, &config, &[&matching[0], &matching[1]]).await?;
    assert_exact(&produced, &stored)
}

#[tokio::test]
async fn a_template_names_the_entries() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("template");
    kafka.create_topic(&topic, 2)?;
    let produced = kafka.produce(&topic, (0..200).map(|n| Message::new(payload(n, 10)).partition(n as i32 % 2)))?;
    // Both partitions share one entry, and no record is lost because another one has the same timestamp.
    let config = bed.sink_config(&topic).set("store.entry", "{name}");
    let stored = run_through(bed, &config, &[&topic]).await?;
    assert_exact(&produced, &stored)?;
    assert_eq!(entries(&stored), [topic.clone()].into());

    let config = bed.sink_config(&topic).set("store.entry", "raw/{topic}/p{partition}");
    let stored = run_through(bed, &config, &[&topic]).await?;
    assert_exact(&produced, &stored)?;
    assert_eq!(entries(&stored), [format!("raw/{topic}/p0"), format!("raw/{topic}/p1")].into());
    Ok(())
}

fn entries(stored: &[Stored]) -> BTreeSet<String> {
    stored.iter().map(|record| record.entry.clone()).collect()
}
