//! Spans for OpenTelemetry: one for each batch that is sent to ReductStore, with a link to each record's `traceparent`.
//!
//! Guarantees: without an address nothing is made; the writers hand a batch over and go on, whatever the collector does; what
//! waits is bounded (OpenTelemetry's own limits: 2,048 spans, 128 links of each, and `OTEL_BSP_…` and `OTEL_SPAN_…` change
//! them), what is too much is left out; a collector that is away is one problem until it is back, and delays no stop by more
//! than it is given. A `traceparent` that isn't one makes no link.

use std::env;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{
    Link, Span as _, SpanContext, SpanKind, Status, TraceContextExt, Tracer as _, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, SpanData};
use tokio::runtime::Handle;
use tracing::info;

use crate::config::TracesConfig;
use crate::sink::{BatchTarget, TracedBatch, TracedMessage};

/// What the collector's answer may hold at most; the rest isn't read.
const ANSWER_BYTES: usize = 64 * 1024;
/// What one request may take at most, also where a variable says more: the exporter waits in it when the host stops.
const LONGEST_REQUEST: Duration = Duration::from_secs(60);
/// OpenTelemetry's default for one request.
const REQUEST: Duration = Duration::from_secs(10);

/// How many spans there were since the host started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpanCounts {
    /// Spans that were made.
    pub made: u64,
    /// Spans that the collector took.
    pub sent: u64,
    /// Spans that it didn't take. What is left of `made` waits, wasn't sampled, or was too much for the queue.
    pub failed: u64,
}

/// The spans of this process.
pub struct Traces {
    provider: Option<SdkTracerProvider>,
    state: Arc<ExportState>,
}

impl Traces {
    /// Begins to send spans if the configuration or OpenTelemetry's variables say where to. `None`: they don't.
    pub fn start(config: &TracesConfig, runtime: &Handle) -> Option<Self> {
        let variable =
            |name: &str| env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let endpoint = match endpoint(config, variable)? {
            Ok(endpoint) => endpoint,
            Err(reason) => return Some(Self { provider: None, state: Arc::new(ExportState::unable("", reason)) }),
        };
        let state = Arc::new(ExportState::new(&endpoint));
        match provider(&endpoint, variable, Arc::clone(&state), runtime) {
            Ok(provider) => {
                info!(endpoint, "sending spans");
                Some(Self { provider: Some(provider), state })
            }
            Err(reason) => Some(Self { provider: None, state: Arc::new(ExportState::unable(&endpoint, reason)) }),
        }
    }

    /// Makes a span of each batch that a sink of this group writes into this bucket. `None`: spans can't be sent.
    pub fn of_batches(&self, group: &str, bucket: &str) -> Option<Arc<dyn BatchTarget>> {
        let provider = self.provider.as_ref()?;
        Some(Arc::new(BatchSpans {
            tracer: provider.tracer("reduct-sink"),
            propagator: TraceContextPropagator::new(),
            state: Arc::clone(&self.state),
            group: group.to_owned(),
            bucket: bucket.to_owned(),
        }))
    }

    /// Why no spans reach the collector, and what to do; `None`: they do, or there were none.
    pub fn problem(&self) -> Option<String> {
        let reason = lock(&self.state.failing).clone()?;
        let endpoint = &self.state.endpoint;
        let counts = self.counts();
        let whose = if endpoint.is_empty() { String::new() } else { format!(" to {endpoint}") };
        Some(format!(
            "spans can't be sent{whose}: {reason}; {} were lost so far, records are written even so; correct traces.endpoint \
             or OpenTelemetry's variables, or start the collector",
            counts.failed
        ))
    }

    /// See [`SpanCounts`].
    pub fn counts(&self) -> SpanCounts {
        let now = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SpanCounts { made: now(&self.state.made), sent: now(&self.state.sent), failed: now(&self.state.failed) }
    }

    /// Sends what waits, as far as that goes in this time.
    pub fn end(&self, within: Duration) {
        if let Some(provider) = &self.provider {
            // What couldn't be sent was counted.
            let _ = provider.shutdown_with_timeout(within);
        }
    }
}

/// Where spans go to. `None`: nobody asks for them; an error: it can't be done as it was asked for.
fn endpoint(config: &TracesConfig, variable: impl Fn(&str) -> Option<String>) -> Option<Result<String, String>> {
    const OF_TRACES: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
    const OF_ALL: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    if variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return None;
    }
    let with_path = |url: &str| format!("{}/v1/traces", url.trim_end_matches('/'));
    let (named_by, endpoint) = if let Some(configured) = &config.endpoint {
        let has_path = url::Url::parse(configured).is_ok_and(|url| url.path() != "/");
        ("traces.endpoint", if has_path { configured.clone() } else { with_path(configured) })
    } else if let Some(whole) = variable(OF_TRACES) {
        (OF_TRACES, whole)
    } else {
        (OF_ALL, with_path(&variable(OF_ALL)?))
    };
    match variable("OTEL_TRACES_EXPORTER").as_deref() {
        None | Some("otlp") => {}
        Some("none") => return None,
        Some(other) => {
            return Some(Err(format!("OTEL_TRACES_EXPORTER is {other:?}; reduct-sink has \"otlp\" and \"none\"")));
        }
    }
    let protocol = variable("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL").or_else(|| variable("OTEL_EXPORTER_OTLP_PROTOCOL"));
    if let Some(other) = protocol.filter(|protocol| protocol != "http/protobuf") {
        return Some(Err(format!(
            "OTEL_EXPORTER_OTLP_PROTOCOL is {other:?}; reduct-sink speaks \"http/protobuf\", at a collector's port 4318 as a rule"
        )));
    }
    let is_usable =
        url::Url::parse(&endpoint).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    // The text isn't repeated: it may hold a password.
    Some(if is_usable { Ok(endpoint) } else { Err(format!("{named_by} is no http:// or https:// address")) })
}

fn provider(
    endpoint: &str,
    variable: impl Fn(&str) -> Option<String>,
    state: Arc<ExportState>,
    runtime: &Handle,
) -> Result<SdkTracerProvider, String> {
    let of_traces = |name: &str| {
        variable(&format!("OTEL_EXPORTER_OTLP_TRACES_{name}"))
            .or_else(|| variable(&format!("OTEL_EXPORTER_OTLP_{name}")))
    };
    let timeout = of_traces("TIMEOUT").and_then(|text| text.parse().ok()).map_or(REQUEST, Duration::from_millis);
    let timeout = timeout.min(LONGEST_REQUEST);
    // A redirect would take the headers, which may hold a key, to another place.
    let mut builder = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).timeout(timeout);
    if let Some(file) = of_traces("CERTIFICATE") {
        let pem = std::fs::read(&file).map_err(|error| format!("can't read {file}: {error}"))?;
        let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| format!("{file}: {error}"))?;
        builder = certificates.into_iter().fold(builder, reqwest::ClientBuilder::add_root_certificate);
    }
    let client = builder.build().map_err(|error| chain_of(&error))?;
    let client = CollectorClient { client, runtime: runtime.clone(), state: Arc::clone(&state) };
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_endpoint(endpoint)
        .with_timeout(timeout)
        .build()
        .map_err(|error| error.to_string())?;
    let resource = Resource::builder().build();
    // What the environment says wins.
    let named = resource.get(&"service.name".into()).map(|name| name.to_string()).unwrap_or_default();
    let resource = match named.starts_with("unknown_service") || named.is_empty() {
        true => Resource::builder().with_service_name("reduct-sink"),
        false => Resource::builder(),
    };
    let resource = resource.with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))).build();
    let counting = CountingExporter { exporter, state };
    Ok(SdkTracerProvider::builder().with_batch_exporter(counting).with_resource(resource).build())
}

/// What became of the spans.
#[derive(Debug, Default)]
struct ExportState {
    endpoint: String,
    made: AtomicU64,
    sent: AtomicU64,
    failed: AtomicU64,
    /// Why the collector didn't answer the last request as it should.
    answer: Mutex<Option<String>>,
    /// Why the last spans weren't taken.
    failing: Mutex<Option<String>>,
}

impl ExportState {
    fn new(endpoint: &str) -> Self {
        Self { endpoint: shown(endpoint), ..Self::default() }
    }

    fn unable(endpoint: &str, reason: String) -> Self {
        Self { failing: Mutex::new(Some(reason)), ..Self::new(endpoint) }
    }
}

/// An address without a user's name and password.
fn shown(endpoint: &str) -> String {
    let Ok(mut url) = url::Url::parse(endpoint) else { return String::new() };
    // These fail for an address without a host, which has none of them.
    let _ = (url.set_username(""), url.set_password(None));
    url.set_query(None);
    url.to_string()
}

/// Counts what the exporter sends, and remembers why it can't.
#[derive(Debug)]
struct CountingExporter {
    exporter: SpanExporter,
    state: Arc<ExportState>,
}

impl opentelemetry_sdk::trace::SpanExporter for CountingExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len() as u64;
        *lock(&self.state.answer) = None;
        let answer = self.exporter.export(batch).await;
        let (counter, failing) = match &answer {
            Ok(()) => (&self.state.sent, None),
            Err(error) => {
                let reason = lock(&self.state.answer).take();
                (&self.state.failed, Some(reason.unwrap_or_else(|| error.to_string())))
            }
        };
        counter.fetch_add(spans, Ordering::Relaxed);
        *lock(&self.state.failing) = failing;
        answer
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// Sends requests on the host's runtime: OpenTelemetry's thread has none.
struct CollectorClient {
    client: reqwest::Client,
    runtime: Handle,
    state: Arc<ExportState>,
}

impl fmt::Debug for CollectorClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CollectorClient")
    }
}

impl HttpClient for CollectorClient {
    fn send_bytes<'client, 'answer>(
        &'client self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'answer>>
    where
        'client: 'answer,
        Self: 'answer,
    {
        let (client, state) = (self.client.clone(), Arc::clone(&self.state));
        let asked = self.runtime.spawn(async move {
            let answer = ask(&client, request).await;
            *lock(&state.answer) = match &answer {
                Ok(answer) if answer.status().is_success() => None,
                Ok(answer) => Some(format!("the collector answers {}", answer.status())),
                Err(error) => Some(chain_of(&**error)),
            };
            answer
        });
        Box::pin(async move { asked.await? })
    }
}

async fn ask(client: &reqwest::Client, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let (head, body) = request.into_parts();
    let url = head.uri.to_string();
    let mut answer = client.request(head.method, url).headers(head.headers).body(body).send().await?;
    let mut text = BytesMut::new();
    while let Some(part) = answer.chunk().await? {
        if text.len() + part.len() > ANSWER_BYTES {
            break;
        }
        text.extend_from_slice(&part);
    }
    let mut response = Response::new(text.freeze());
    *response.status_mut() = answer.status();
    std::mem::swap(response.headers_mut(), answer.headers_mut());
    Ok(response)
}

/// An error with what caused it, without addresses.
fn chain_of(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    // The first one repeats the address, the last one says what happened.
    causes.last().unwrap_or(error).to_string()
}

/// Makes a span of each batch.
struct BatchSpans {
    tracer: SdkTracer,
    propagator: TraceContextPropagator,
    state: Arc<ExportState>,
    group: String,
    bucket: String,
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use opentelemetry::trace::SpanId;
    use opentelemetry_sdk::trace::SpanProcessor;

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

    #[test]
    fn the_configuration_wins_over_variables_and_what_cannot_be_done_is_said() {
        let of = |configured: Option<&str>, variables: &[(&str, &str)]| {
            let config = TracesConfig { endpoint: configured.map(str::to_owned) };
            endpoint(&config, |name| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            })
        };
        let (all, traces) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
        let at = |url: &str| Some(Ok(url.to_owned()));
        assert_eq!(of(None, &[]), None, "off by default");
        assert_eq!(of(Some("http://a:4318"), &[(all, "http://b:1")]), at("http://a:4318/v1/traces"));
        assert_eq!(of(Some("http://a:4318/else"), &[]), at("http://a:4318/else"));
        assert_eq!(of(None, &[(all, "http://b:1/")]), at("http://b:1/v1/traces"));
        assert_eq!(of(None, &[(all, "http://b:1"), (traces, "http://c:2/x")]), at("http://c:2/x"));
        for off in [("OTEL_SDK_DISABLED", "TRUE"), ("OTEL_TRACES_EXPORTER", "none")] {
            assert_eq!(of(Some("http://a:4318"), &[off]), None, "{off:?}");
        }
        let wrong = |variables: &[(&str, &str)]| of(None, variables).unwrap().unwrap_err();
        assert!(wrong(&[(all, "http://b:4317"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]).contains("http/protobuf"));
        assert!(wrong(&[(all, "http://b:1"), ("OTEL_TRACES_EXPORTER", "zipkin")]).contains("zipkin"));
        let told = wrong(&[(all, "user:secret@b")]);
        assert!(told.contains(all) && !told.contains("secret"), "{told}");
        assert_eq!(shown("http://user:secret@b:1/v1/traces?key=1"), "http://b:1/v1/traces");
    }
}
