//! Spans for OpenTelemetry: a real host sends them to a collector that decodes them; a collector that is away, refuses or hangs
//! costs spans and nothing else.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reduct_sink_testbed::collector::{Behaviour, Collector, Span, attribute};
use reduct_sink_testbed::{Message, Sink, SinkConfig, bed, figures, payload, process, unique};

use super::{BOUND, SHOWN_WITHIN, address, get, wait_healthy, wait_problem, wait_ready};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn parent(n: u64) -> String {
    format!("00-{TRACE}-{:016x}-01", n + 1)
}

/// The host with OpenTelemetry's variables, which others see as it does.
fn start(config: &SinkConfig, folder: &std::path::Path, variables: &[(&str, &str)]) -> Result<Sink> {
    let file = folder.join("sink.toml");
    std::fs::write(&file, config.text())?;
    // Spans are sent sooner than by default.
    let variables = [&[("OTEL_BSP_SCHEDULE_DELAY", "200")], variables].concat();
    Sink::start_with(&["--config", file.to_str().context("UTF-8")?], &variables)
}

fn wait_spans(collector: &Collector, sink: &mut Sink, enough: impl Fn(&[Span]) -> bool) -> Result<Vec<Span>> {
    process::wait_for("the spans", SHOWN_WITHIN, || {
        sink.process().expect_running()?;
        let spans = collector.spans()?;
        Ok(enough(&spans).then_some(spans))
    })
}

fn links(spans: &[Span]) -> usize {
    spans.iter().map(|span| span.links.len()).sum()
}

#[test]
fn each_batch_is_a_span_that_links_to_its_records() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("traced");
    kafka.create_topic(&topic, 2)?;
    let collector = Collector::start(Behaviour::Takes)?;
    let folder = process::data_folder("traced")?;
    let address = address()?;
    let config = bed.sink_config(&topic).set("status.listen", address.as_str());
    let url = collector.url();
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-api-key=k1"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test"),
    ];
    let mut sink = start(&config, folder.path(), &variables)?;
    wait_healthy(&mut sink, &address)?;
    // Ninety good ones; what isn't a traceparent makes no link and harms nothing.
    let wrong = ["", "00-abc", "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "ÿ\u{1F600}", "00-0-0-0"];
    kafka.produce(
        &topic,
        (0..100).map(|n| {
            let message = Message::new(payload(n, 100)).partition((n % 2) as i32);
            let text = if n < 90 { parent(n) } else { wrong[(n % 5) as usize].to_owned() };
            message.header("traceparent", text).header("tracestate", "vendor=7")
        }),
    )?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], BOUND)?;
    let spans = wait_spans(&collector, &mut sink, |spans| links(spans) >= 90)?;
    ensure!(links(&spans) == 90, "{} links", links(&spans));
    let mut offsets = 0;
    for span in &spans {
        let of = |key: &str| attribute(&span.attributes, key).unwrap_or_default();
        ensure!(span.name == format!("write {topic}") && span.kind == 5, "{span:?}");
        ensure!(span.parent_span_id.is_empty() && span.end_time_unix_nano > span.start_time_unix_nano, "{span:?}");
        ensure!(of("messaging.system") == "kafka" && of("messaging.operation.type") == "process", "{span:?}");
        ensure!(of("messaging.destination.name") == topic, "{span:?}");
        ensure!(of("messaging.consumer.group.name") == config.group(), "{span:?}");
        ensure!(of("reductstore.bucket") == config.bucket(), "{span:?}");
        offsets += of("messaging.batch.message_count").parse::<usize>()?;
        for link in &span.links {
            let partition: u64 =
                attribute(&link.attributes, "messaging.destination.partition.id").context("id")?.parse()?;
            let offset: u64 = attribute(&link.attributes, "messaging.kafka.offset").context("offset")?.parse()?;
            ensure!(partition.to_string() == of("messaging.destination.partition.id"), "{span:?}");
            // The record's own parent, and not another one's.
            let n = offset * 2 + partition;
            let expected = parent(n);
            ensure!(hex(&link.trace_id) == TRACE && expected.contains(&hex(&link.span_id)), "{n}: {link:?}");
            ensure!(link.trace_state == "vendor=7", "{link:?}");
        }
    }
    ensure!(offsets == 100, "the batches have {offsets} records");
    figures::record("trace_links", links(&spans) as f64)?;
    let received = collector.received()?;
    let first = received.first().context("a request")?;
    ensure!(first.head.iter().any(|line| line == "POST /v1/traces HTTP/1.1"), "{:?}", first.head);
    ensure!(first.head.iter().any(|line| line == "content-type: application/x-protobuf"), "{:?}", first.head);
    ensure!(first.head.iter().any(|line| line == "x-api-key: k1"), "{:?}", first.head);
    let of = |key: &str| attribute(&first.resource, key);
    ensure!(of("service.name").as_deref() == Some("reduct-sink"), "{:?}", first.resource);
    ensure!(of("deployment.environment.name").as_deref() == Some("test"), "{:?}", first.resource);
    let metrics = get(&address, "/metrics")?.1;
    ensure!(metrics.contains("reduct_sink_trace_spans_total{outcome=\"failed\"} 0"), "{metrics}");
    sink.stop_cleanly()
}

/// `trouble`: what the collector does; `None`: it isn't there.
fn lives_with(trouble: Option<Behaviour>, says: &str) -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("troubled");
    kafka.create_topic(&topic, 1)?;
    let port = process::free_port()?;
    let mut collector = trouble.map(|trouble| Collector::start_at(port, trouble)).transpose()?;
    let folder = process::data_folder("troubled")?;
    let address = address()?;
    let config = bed
        .sink_config(&topic)
        .set("status.listen", address.as_str())
        .set("store.batch_records", 1)
        .set("traces.endpoint", format!("http://127.0.0.1:{port}"));
    // Few spans are kept, so that there are too many soon; the time is short, so that a hanging one is noticed in the test.
    let variables = [("OTEL_EXPORTER_OTLP_TIMEOUT", "1000"), ("OTEL_BSP_MAX_QUEUE_SIZE", "64")];
    let mut sink = start(&config, folder.path(), &variables)?;
    wait_healthy(&mut sink, &address)?;
    let produce =
        |n: u64| kafka.produce(&topic, (0..n).map(|n| Message::new(payload(n, 100)).header("traceparent", parent(n))));
    produce(400)?;
    // Each record is a batch and so a span; all are written although the queue was full long ago.
    sink.wait_caught_up(&kafka, config.group(), &[&topic], BOUND)?;
    let message = wait_problem(&mut sink, &address, "traces")?;
    ensure!(message.contains(says) && message.contains(&port.to_string()), "{message}");
    wait_ready(&address).context("records are written even so")?;
    produce(100)?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], BOUND)?;
    let told = sink.log()?.lines().filter(|line| line.contains("spans can't be sent")).count();
    ensure!(told == 1, "it is said {told} times:\n{}", sink.log()?);

    // It comes back.
    match &collector {
        Some(collector) => collector.behave(Behaviour::Takes),
        None => collector = Some(Collector::start_at(port, Behaviour::Takes)?),
    }
    let collector = collector.context("a collector")?;
    process::wait_for("spans", BOUND, || {
        produce(1)?;
        std::thread::sleep(Duration::from_millis(300));
        Ok((!collector.spans()?.is_empty()).then_some(()))
    })?;
    wait_healthy(&mut sink, &address)?;
    sink.stop_cleanly()
}

#[test]
fn a_collector_that_is_away_costs_spans_only() -> Result<()> {
    lives_with(None, "refused")
}

#[test]
fn a_collector_that_refuses_costs_spans_only() -> Result<()> {
    lives_with(Some(Behaviour::Refuses(401)), "401")
}

#[test]
fn a_collector_that_hangs_costs_spans_only_and_delays_no_stop() -> Result<()> {
    lives_with(Some(Behaviour::Hangs), "timed out")?;
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("hung");
    kafka.create_topic(&topic, 1)?;
    let collector = Collector::start(Behaviour::Hangs)?;
    let folder = process::data_folder("hung")?;
    let config = bed.sink_config(&topic).set("traces.endpoint", collector.url()).set("limits.shutdown", "8s");
    let mut sink = start(&config, folder.path(), &[])?;
    kafka.produce(&topic, (0..10).map(|n| Message::new(payload(n, 100))))?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], BOUND)?;
    std::thread::sleep(Duration::from_millis(500));
    let begun = Instant::now();
    sink.stop_cleanly()?;
    // The configured time is a promise to those who stop the host, and not a matter of speed.
    ensure!(begun.elapsed() < Duration::from_secs(9), "it took {:?}", begun.elapsed());
    Ok(())
}

#[test]
fn variables_that_cannot_be_followed_are_named_and_stop_nothing() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("grpc");
    kafka.create_topic(&topic, 1)?;
    let folder = process::data_folder("grpc")?;
    let address = address()?;
    let config = bed.sink_config(&topic).set("status.listen", address.as_str());
    let variables =
        [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:secret@127.0.0.1:4317"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")];
    let mut sink = start(&config, folder.path(), &variables)?;
    let message = wait_problem(&mut sink, &address, "traces")?;
    ensure!(message.contains("http/protobuf") && !message.contains("secret"), "{message}");
    kafka.produce(&topic, (0..10).map(|n| Message::new(payload(n, 100))))?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], BOUND)?;
    sink.stop_cleanly()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
