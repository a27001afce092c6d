//! What the host tells of itself over HTTP: `GET /health` (200, or 503 with what is wrong) and `GET /status` (JSON).
//!
//! Guarantees: reading only; it listens on loopback unless configured otherwise; a port that is taken is told in the log
//! and keeps nothing else from running.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use tokio::net::TcpListener;
use tracing::{info, warn};

use crate::plugin::Counts;

/// One moment of the host.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    pub version: &'static str,
    /// Seconds since the host started.
    pub uptime_s: u64,
    /// Empty: the host is healthy.
    pub problems: Vec<String>,
    pub written: u64,
    pub written_bytes: u64,
    /// Records that were found in the store, and so not written again.
    pub found: u64,
    /// Unfinished records that were removed and written again.
    pub repaired: u64,
    pub dead_letters: u64,
    pub in_flight_records: usize,
    pub in_flight_bytes: usize,
    pub partitions: Vec<Partition>,
    pub plugins: Vec<Plugin>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Partition {
    pub topic: String,
    pub partition: u32,
    /// The next offset to settle, which is what is committed.
    pub position: u64,
    /// Absent while Kafka doesn't answer.
    pub end: Option<u64>,
    pub lag: Option<u64>,
    pub in_flight: usize,
    pub stuck: bool,
}

#[derive(Debug, Clone, Serialize)]
pub struct Plugin {
    pub name: String,
    pub digest: String,
    /// Its circuit breaker is open: it isn't asked.
    pub breaker_open: bool,
    #[serde(flatten)]
    pub counts: Counts,
}

/// Where a [`Report`] comes from.
pub trait Reporter: Send + Sync + 'static {
    fn report(&self) -> Report;
}

/// Serves until the runtime ends.
pub async fn serve(listen: String, reporter: Arc<dyn Reporter>) {
    let listener = match TcpListener::bind(&listen).await {
        Ok(listener) => listener,
        Err(error) => {
            warn!(listen, %error, "no status over HTTP; set status.listen to a free address, or to \"\" for none");
            return;
        }
    };
    match listener.local_addr() {
        Ok(address) => info!(%address, "status over HTTP: /health and /status"),
        Err(error) => warn!(%error, "status over HTTP"),
    }
    if let Err(error) = axum::serve(listener, router(reporter)).await {
        warn!(%error, "no more status over HTTP");
    }
}

fn router(reporter: Arc<dyn Reporter>) -> Router {
    Router::new().route("/health", get(health)).route("/status", get(status)).with_state(reporter)
}

async fn health(State(reporter): State<Arc<dyn Reporter>>) -> (StatusCode, Json<Vec<String>>) {
    let problems = reporter.report().problems;
    let code = if problems.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(problems))
}

async fn status(State(reporter): State<Arc<dyn Reporter>>) -> Json<Report> {
    Json(reporter.report())
}
