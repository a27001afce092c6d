//! What the host tells of itself over HTTP: `GET /health` (200, or 503 with what is wrong) and `GET /status` (JSON); and
//! what may be asked of it: `POST /plugins/NAME/promote` and `/plugins/NAME/rollback`.
//!
//! Guarantees: it listens on loopback unless configured otherwise; what changes something is refused to callers from
//! other machines unless configured otherwise, and always to web pages; a port that is taken is told in the log and keeps
//! nothing else from running.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tracing::{info, warn};

use crate::chain::Latency;
use crate::config::Control;
use crate::plugin::Counts;
use crate::rollout::SwapReport;

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
    /// In the chain's order.
    pub plugins: Vec<Plugin>,
    /// The last of them, the oldest first.
    pub swaps: Vec<SwapReport>,
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
    /// When it was put to work: seconds since the Unix epoch.
    pub since_s: u64,
    #[serde(flatten)]
    pub counts: Counts,
    /// Records that its `when` left out.
    pub passed_over: u64,
    /// Of one record in 64.
    pub latency: Latency,
    /// What its instances have together.
    pub memory_bytes: u64,
}

/// Where a [`Report`] comes from.
pub trait Reporter: Send + Sync + 'static {
    fn report(&self) -> Report;
    /// Does to a plugin what somebody asks for. Tells what was done, or why not. May take a while.
    fn act(&self, plugin: &str, action: Action) -> Result<String, String>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Promote,
    Rollback,
}

#[derive(Clone)]
struct Served {
    reporter: Arc<dyn Reporter>,
    control: Control,
}

/// Serves until the runtime ends.
pub async fn serve(listen: String, control: Control, reporter: Arc<dyn Reporter>) {
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
    let service = router(Served { reporter, control }).into_make_service_with_connect_info::<SocketAddr>();
    if let Err(error) = axum::serve(listener, service).await {
        warn!(%error, "no more status over HTTP");
    }
}

fn router(served: Served) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/status", get(status))
        .route("/plugins/{name}/{action}", post(act))
        .with_state(served)
}

async fn health(State(served): State<Served>) -> (StatusCode, Json<Vec<String>>) {
    let problems = served.reporter.report().problems;
    let code = if problems.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(problems))
}

async fn status(State(served): State<Served>) -> Json<Report> {
    Json(served.reporter.report())
}

async fn act(
    State(served): State<Served>,
    ConnectInfo(caller): ConnectInfo<SocketAddr>,
    Path((plugin, action)): Path<(String, Action)>,
    headers: HeaderMap,
) -> (StatusCode, String) {
    if let Some(refusal) = refusal(served.control, caller, &headers) {
        warn!(%caller, plugin, ?action, refusal, "refused");
        return (StatusCode::FORBIDDEN, refusal.into());
    }
    info!(%caller, plugin, ?action, "asked over HTTP");
    let asked = tokio::task::spawn_blocking(move || served.reporter.act(&plugin, action)).await;
    match asked {
        Ok(Ok(done)) => (StatusCode::OK, done),
        Ok(Err(reason)) => (StatusCode::CONFLICT, reason),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// Why this caller may change nothing; `None`: it may.
fn refusal(control: Control, caller: SocketAddr, headers: &HeaderMap) -> Option<&'static str> {
    match control {
        // A browser says where a request that changes something comes from, whatever page made it.
        _ if headers.contains_key(header::ORIGIN) => Some("web pages may not change anything here"),
        Control::Off => Some("status.control is \"off\""),
        Control::Loopback if !caller.ip().to_canonical().is_loopback() => {
            Some("only callers on the same machine may do this: status.control is \"loopback\"")
        }
        Control::Loopback | Control::Anyone => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_may_changes_something() {
        let [near, mapped, far] = ["127.0.0.1:5", "[::ffff:127.0.0.1]:5", "10.0.0.7:5"].map(|at| at.parse().unwrap());
        let (plain, mut page) = (HeaderMap::new(), HeaderMap::new());
        page.insert(header::ORIGIN, "http://127.0.0.1:9640".parse().unwrap());
        for (control, caller, allowed) in [
            (Control::Off, near, false),
            (Control::Loopback, near, true),
            (Control::Loopback, mapped, true),
            (Control::Loopback, far, false),
            (Control::Anyone, far, true),
        ] {
            assert_eq!(refusal(control, caller, &plain).is_none(), allowed, "{control:?} {caller}");
            assert!(refusal(control, caller, &page).is_some());
        }
    }
}
