//! A span of each batch, with a link to each record's producer.
//!
//! Guarantees: a `traceparent` that isn't one by the W3C's rules makes no link.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{Link, Span as _, SpanContext, SpanKind, Status, TraceContextExt, Tracer as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracer;

use super::exporter::ExportState;
use crate::sink::{BatchTarget, TracedBatch, TracedMessage};

/// Makes a span of each batch.
pub(super) struct BatchSpans {
    pub tracer: SdkTracer,
    pub propagator: TraceContextPropagator,
    pub state: Arc<ExportState>,
    pub group: String,
    pub bucket: String,
}

impl BatchTarget for BatchSpans {
    fn wrote(&self, batch: TracedBatch) {
        let links: Vec<Link> = batch.messages.iter().filter_map(|message| self.link(message)).collect();
        let (first, last) = (batch.messages.first(), batch.messages.last());
        let one = |differ: &dyn Fn(&TracedMessage, &TracedMessage) -> bool| {
            first.filter(|first| !batch.messages.iter().any(|message| differ(first, message)))
        };
        let topic =
            one(&|one, other| one.source.topic != other.source.topic).map(|message| message.source.topic.to_string());
        let partition =
            one(&|one, other| one.source != other.source).map(|message| message.source.partition.to_string());
        let mut attributes = vec![
            KeyValue::new("messaging.system", "kafka"),
            KeyValue::new("messaging.operation.name", "write"),
            KeyValue::new("messaging.operation.type", "process"),
            KeyValue::new("messaging.consumer.group.name", self.group.clone()),
            KeyValue::new("messaging.batch.message_count", number(batch.messages.len() as u64)),
            KeyValue::new("reductstore.bucket", self.bucket.clone()),
            KeyValue::new("reductstore.entry", batch.entry.to_string()),
            KeyValue::new("reductstore.bytes", number(batch.bytes)),
        ];
        let name = topic.as_ref().map_or_else(|| "write".to_owned(), |topic| format!("write {topic}"));
        attributes.extend(topic.map(|topic| KeyValue::new("messaging.destination.name", topic)));
        if let (Some(partition), Some(first), Some(last)) = (partition, first, last) {
            attributes.push(KeyValue::new("messaging.destination.partition.id", partition));
            attributes.push(KeyValue::new("reductstore.first_offset", number(first.offset)));
            attributes.push(KeyValue::new("reductstore.last_offset", number(last.offset)));
        }
        if let Some((class, _)) = &batch.failed {
            attributes.push(KeyValue::new("error.type", *class));
        }
        let builder = self
            .tracer
            .span_builder(name)
            .with_kind(SpanKind::Consumer)
            .with_start_time(batch.begun)
            .with_attributes(attributes)
            .with_links(links);
        // A span of its own: a batch has as many parents as it has records.
        let mut span = builder.start_with_context(&self.tracer, &Context::new());
        if let Some((_, text)) = batch.failed {
            span.set_status(Status::error(text));
        }
        if span.span_context().is_sampled() {
            self.state.made.fetch_add(1, Ordering::Relaxed);
        }
        span.end_with_timestamp(batch.ended);
    }
}

impl BatchSpans {
    fn link(&self, message: &TracedMessage) -> Option<Link> {
        let context = context(&self.propagator, message)?;
        let attributes = vec![
            KeyValue::new("messaging.destination.partition.id", message.source.partition.to_string()),
            KeyValue::new("messaging.kafka.offset", number(message.offset)),
        ];
        Some(Link::new(context, attributes, 0))
    }
}

/// The four parts of a `traceparent` that each version has.
const BASE_BYTES: usize = 55;

/// OpenTelemetry's integers are signed.
fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The producer's span, by the W3C's rules; `None`: the record names none, or not as it should.
fn context(propagator: &TraceContextPropagator, message: &TracedMessage) -> Option<SpanContext> {
    let parent = std::str::from_utf8(message.traceparent.as_deref()?).ok()?;
    // The propagator is more lenient about the parts' lengths, and takes a sign for a digit.
    let mut parts = parent.split('-').map(str::len);
    let is_digit = |letter: u8| matches!(letter, b'0'..=b'9' | b'a'..=b'f' | b'-');
    if [parts.next(), parts.next(), parts.next(), parts.next()] != [Some(2), Some(32), Some(16), Some(2)]
        || !parent.bytes().take(BASE_BYTES).all(is_digit)
    {
        return None;
    }
    let found = propagator.extract_with_context(&Context::new(), &TraceHeaders { message, parent });
    let context = found.span().span_context().clone();
    context.is_valid().then_some(context)
}

struct TraceHeaders<'a> {
    message: &'a TracedMessage,
    parent: &'a str,
}

impl Extractor for TraceHeaders<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => Some(self.parent),
            "tracestate" => {
                std::str::from_utf8(self.message.tracestate.as_deref()?).ok().filter(|text| text.len() <= STATE_BYTES)
            }
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

/// The longest `tracestate` that is passed on; the W3C's rules demand at least this.
const STATE_BYTES: usize = 512;

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::{Duration, SystemTime};

    use bytes::Bytes;
    use opentelemetry::trace::{SpanId, TracerProvider};
    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanProcessor};

    use super::super::lock;
    use super::*;
    use crate::record::TopicPartition;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn message(partition: u32, offset: u64, parent: &str) -> TracedMessage {
        TracedMessage {
            source: TopicPartition { topic: "camera".into(), partition },
            offset,
            traceparent: Some(Bytes::copy_from_slice(parent.as_bytes())),
            tracestate: Some(Bytes::from_static(b"vendor=1")),
        }
    }

    #[test]
    fn only_a_traceparent_by_the_rules_makes_a_link() {
        let propagator = TraceContextPropagator::new();
        let of = |parent: &str| context(&propagator, &message(0, 0, parent));
        let found = of(PARENT).unwrap();
        assert_eq!(found.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(found.span_id(), SpanId::from_hex("00f067aa0ba902b7").unwrap());
        assert!(found.is_sampled() && found.trace_state().get("vendor") == Some("1"));
        assert!(of("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more").is_some(), "a later version");
        for wrong in [
            "",
            "-",
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert!(of(wrong).is_none(), "{wrong}");
        }
        let binary = TracedMessage { traceparent: Some(Bytes::from_static(&[0xff; 55])), ..message(0, 0, "") };
        assert!(context(&propagator, &binary).is_none());
        let long = TracedMessage { tracestate: Some(Bytes::from(vec![b'a'; 1 << 20])), ..message(0, 0, PARENT) };
        assert_eq!(context(&propagator, &long).unwrap().trace_state().header(), "");
    }

    #[derive(Debug, Default, Clone)]
    struct SpansKept(Arc<Mutex<Vec<SpanData>>>);

    impl SpanProcessor for SpansKept {
        fn on_start(&self, _: &mut opentelemetry_sdk::trace::Span, _: &Context) {}
        fn on_end(&self, span: SpanData) {
            lock(&self.0).push(span);
        }
        fn force_flush(&self) -> OTelSdkResult {
            Ok(())
        }
        fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
            Ok(())
        }
    }

    #[test]
    fn a_batch_of_ten_thousand_links_is_bounded() {
        let kept = SpansKept::default();
        let provider = SdkTracerProvider::builder().with_span_processor(kept.clone()).build();
        let spans = BatchSpans {
            tracer: provider.tracer("test"),
            propagator: TraceContextPropagator::new(),
            state: Arc::default(),
            group: "sinks".into(),
            bucket: "data".into(),
        };
        let now = SystemTime::now();
        spans.wrote(TracedBatch {
            entry: crate::record::entry_name::EntryName::parse("camera").unwrap(),
            messages: (0..10_000).map(|offset| message((offset % 2) as u32, offset, PARENT)).collect(),
            bytes: 7,
            begun: now,
            ended: now,
            failed: Some(("quota", "full".into())),
        });
        let kept = lock(&kept.0);
        let [span] = kept.as_slice() else { panic!("{} spans", kept.len()) };
        assert_eq!((span.links.links.len(), span.links.dropped_count), (128, 9872));
        assert_eq!((&*span.name, span.status.clone()), ("write camera", Status::error("full")));
        let keys: Vec<&str> = span.attributes.iter().map(|attribute| attribute.key.as_str()).collect();
        assert!(keys.contains(&"error.type") && !keys.contains(&"messaging.destination.partition.id"), "{keys:?}");
    }
}
