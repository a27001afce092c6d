//! Spans for OpenTelemetry: one for each batch that is sent to ReductStore, with a link to each record's `traceparent`.
//!
//! Guarantees: without an address nothing is made; the writers hand a batch over and go on, whatever the collector does; what
//! waits is bounded (OpenTelemetry's own limits: 2,048 spans, 128 links of each, and `OTEL_BSP_…` and `OTEL_SPAN_…` change
//! them), what is too much is left out; a collector that is away is one problem until it is back, and delays no stop by more
//! than it is given. A `traceparent` that isn't one makes no link.

mod endpoint;
mod exporter;
mod spans;

use std::env;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::Handle;
use tracing::info;

use self::endpoint::endpoint;
use self::exporter::{ExportState, provider};
use self::spans::BatchSpans;
use crate::config::TracesConfig;
use crate::sink::BatchTarget;

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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
