//! Sends spans to the collector, on the host's runtime.
//!
//! Guarantees: a request ends within [`LONGEST_REQUEST`]; of an answer no more than [`ANSWER_BYTES`] is read; what was sent and what wasn't
//! is counted, with the reason.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use opentelemetry::KeyValue;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData};
use tokio::runtime::Handle;

use super::endpoint::shown;
use super::lock;

/// What the collector's answer may hold at most; the rest isn't read.
const ANSWER_BYTES: usize = 64 * 1024;
/// What one request may take at most, also where a variable says more: the exporter waits in it when the host stops.
const LONGEST_REQUEST: Duration = Duration::from_secs(60);
/// OpenTelemetry's default for one request.
const REQUEST: Duration = Duration::from_secs(10);

/// What makes spans and sends them to this address.
pub(super) fn provider(
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
pub(super) struct ExportState {
    pub endpoint: String,
    pub made: AtomicU64,
    pub sent: AtomicU64,
    pub failed: AtomicU64,
    /// Why the collector didn't answer the last request as it should.
    answer: Mutex<Option<String>>,
    /// Why the last spans weren't taken.
    pub failing: Mutex<Option<String>>,
}

impl ExportState {
    pub fn new(endpoint: &str) -> Self {
        Self { endpoint: shown(endpoint), ..Self::default() }
    }

    pub fn unable(endpoint: &str, reason: String) -> Self {
        Self { failing: Mutex::new(Some(reason)), ..Self::new(endpoint) }
    }
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
