//! Tests records of every shape that Kafka allows: each is stored, and the original can be restored from what is
//! stored.

use anyhow::Result;
use reduct_sink_testbed::original::{original, original_of_text};
use reduct_sink_testbed::{Message, bed, payload, unique};

use super::{assert_exact, find, run_through};

#[tokio::test]
async fn headers_and_keys_can_be_told_back() -> Result<()> {
    let bed = bed()?;
    let topic = unique("shapes");
    bed.kafka.client().create_topic(&topic, 1)?;
    let all_bytes: Vec<u8> = (0..=255).collect();
    let messages = vec![
        Message::new("no headers"),
        Message::new("plain").key("camera-7").header("load", "50 %").header("size", "5").header("type", "binary"),
        Message::new("repeated").header("a", "1").header("b", "x").header("a", "2").header("a", "1"),
        Message::new("null and empty").null_header("null").header("empty", "").null_header("twice").header("twice", ""),
        Message::new("looks encoded").header("v", "%41").header("w", "%null").header("x", "%empty").header("a%n2", "y"),
        Message::new("binary").key(all_bytes.clone()).header("all", all_bytes.clone()).header("nul", vec![0]),
        Message::new("keys").header("Content-Type", "image/png").header("a b", "1").header("ä", "2").header("", "3"),
        Message::new("bytes in keys").header(vec![0xff, 0xfe], "1").header(vec![0xc3], "2").header("x\"y,z", "3"),
        Message::new("NUL in keys").header("kind", "1").header("kind\0x", "2").header("\0", "3").null_header("kind\0y"),
        Message::new("reserved").header("kafka.offset", "999").header("sink.plugins", "me").header("@x", "1"),
        Message::new("quotes").header("json", r#"{"a": "b, c"}"#).header("lines", "a\r\nb").header("pad", "  x "),
        Message::new("unicode").header("city", "Zürich").header("emoji", "🦀").header("del", "\u{7f}"),
        Message::new("long").header("long", "x".repeat(3000)).header("n".repeat(100), "long name"),
        Message::new("").key(""),
        Message::new("").header("size", "0"),
        Message::tombstone("gone").header("why", "deleted"),
        Message { headers: vec![], ..Message::default() },
    ];
    let produced = bed.kafka.client().produce(&topic, messages.clone())?;
    let stored = run_through(bed, &bed.sink_config(&topic), &[&topic]).await?;
    assert_exact(&produced, &stored)?;

    for (message, produced) in messages.iter().zip(&produced) {
        let record = find(&stored, produced);
        assert_eq!(original(&record.labels)?, (message.key.clone(), message.headers.clone()), "{record:?}");
        let names = record.labels.keys().flat_map(|name| name.bytes());
        assert!(
            names.into_iter().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-')),
            "{record:?}"
        );
        assert_eq!(record.label("kafka.tombstone").is_some(), message.payload.is_none(), "{record:?}");
    }
    // Plain text is stored unchanged, as the tutorial shows.
    let plain = find(&stored, &produced[1]);
    let labels = [plain.label("size"), plain.label("type"), plain.label("load"), plain.label("kafka.key")];
    assert_eq!(labels, [Some("5"), Some("binary"), Some("50 %"), Some("camera-7")]);
    let content_types = [6, 1].map(|at: usize| find(&stored, &produced[at]).content_type.as_str());
    assert_eq!(content_types, ["image/png", "application/octet-stream"]);
    Ok(())
}

#[tokio::test]
async fn payloads_from_nothing_to_16_mib() -> Result<()> {
    let bed = bed()?;
    let topic = unique("sizes");
    bed.kafka.client().create_topic(&topic, 1)?;
    let edges = [0, 1, 2, 1023, 1024, 65_535, 65_536, 524_287, 524_288, 524_289, 1 << 20, 8 << 20, 16 << 20, 3];
    let messages = edges.iter().enumerate().map(|(n, &size)| Message::new(payload(n as u64, size)));
    let produced = bed.kafka.client().produce(&topic, messages)?;
    let stored = run_through(bed, &bed.sink_config(&topic), &[&topic]).await?;
    assert_exact(&produced, &stored)
}

#[tokio::test]
async fn one_millisecond_holds_thousands() -> Result<()> {
    let bed = bed()?;
    let topic = unique("instant");
    bed.kafka.client().create_topic(&topic, 2)?;
    let messages = (0..5000u64).map(|n| {
        let at = if n % 100 == 0 { 0 } else { 1_700_000_000_000 };
        Message::new(payload(n, 50)).timestamp_ms(at.max(1)).partition((n % 2) as i32)
    });
    let produced = bed.kafka.client().produce(&topic, messages)?;
    let stored = run_through(bed, &bed.sink_config(&topic), &[&topic]).await?;
    assert_exact(&produced, &stored)?;
    let near = stored.iter().filter(|record| record.timestamp_us.abs_diff(1_700_000_000_000_000) < 10_000).count();
    assert_eq!(near, 4950, "a record's time stays near that of Kafka");
    Ok(())
}

#[tokio::test]
async fn headers_beyond_the_servers_limits_lose_nothing() -> Result<()> {
    let bed = bed()?;
    let topic = unique("beyond");
    bed.kafka.client().create_topic(&topic, 1)?;
    let many = (0..2000).fold(Message::new("many"), |message, n| message.header(format!("h{n}"), "value"));
    let messages = vec![
        Message::new("before"),
        Message::new("large").header("large", payload(1, 600_000)),
        many,
        Message::new("name").header("n".repeat(70_000), "x"),
        Message::new("key").key(payload(2, 300_000)),
        Message::new("after"),
    ];
    let produced = bed.kafka.client().produce(&topic, messages.clone())?;
    let stored = run_through(bed, &bed.sink_config(&topic), &[&topic]).await?;
    // A record whose labels the server can't take becomes a dead letter, with its payload, key and headers.
    assert_exact(&produced, &stored)?;
    for (message, produced) in messages.iter().zip(&produced) {
        let record = find(&stored, produced);
        if record.entry == topic {
            assert_eq!(original(&record.labels)?.1, message.headers);
        } else {
            assert_eq!(record.entry, format!("dead-letters/{topic}/0"));
            assert!(record.label("sink.reason").is_some(), "{:?}", record.labels);
            let kept = record.behind_payload.as_deref().expect("headers behind the payload");
            let kept = original_of_text(std::str::from_utf8(kept)?)?;
            assert_eq!(kept, (message.key.clone(), message.headers.clone()));
        }
    }
    for fits in [&produced[0], &produced[5]] {
        assert_eq!(find(&stored, fits).entry, topic);
    }
    Ok(())
}
