//! What the host tells of itself over HTTP, and what may be asked of it.
//!
//! | path | answer |
//! |---|---|
//! | `GET /livez` | 200, or 503 where only a restart helps |
//! | `GET /readyz` | 200, or 503 with what keeps the host from taking part |
//! | `GET /health` | 200, or 503 with everything that is wrong |
//! | `GET /metrics` | the figures for Prometheus |
//! | `GET /status` | everything, as JSON |
//! | `POST /plugins/NAME/promote`, `/rollback` | does it; see [`super::access`] for who may |
//!
//! Guarantees: a caller can neither use up the host's sockets ([`CONNECTIONS`], [`HEAD_WITHIN`], no bodies) nor hold up
//! its writers: the server has a thread and a runtime of its own; an address that is taken is reported in the log and
//! keeps nothing else from running.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path as FilePath;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tracing::{debug, info, warn};

use super::access::{Access, Way, socket_path, user_id, without_port};
use super::metrics;
use super::problems::HealthProblem;
use super::report::HostReport;
use crate::config;

/// Connections at once, over all addresses.
const CONNECTIONS: usize = 64;
/// How long a request's head may take to arrive.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// How long the start waits for the addresses to be listened on.
const LISTENING_WITHIN: Duration = Duration::from_secs(2);
/// How long a connection may last at all.
const CONNECTION_WITHIN: Duration = Duration::from_secs(60);

/// Where a [`HostReport`] comes from.
pub trait Reporter: Send + Sync + 'static {
    /// The host as it is now.
    fn report(&self) -> HostReport;
    /// Why only a restart can help; `None`: it can't.
    fn is_dead(&self) -> Option<String>;
    /// Does to a plugin what somebody asks for. Answers with what was done, or why not. May take a while.
    fn act(&self, plugin: &str, action: Action) -> Result<String, String>;
}

/// What may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// To put the candidate of a plugin to work.
    Promote,
    /// To bring back the version before.
    Rollback,
}

#[derive(Clone)]
struct Served {
    reporter: Arc<dyn Reporter>,
    access: Arc<Access>,
}

/// The body of `/livez`, `/readyz` and `/health`.
#[derive(Debug, Serialize)]
struct ProbeAnswer {
    healthy: bool,
    problems: Vec<HealthProblem>,
}

/// Serves until the process ends, on a thread of its own.
pub fn start(config: &config::StatusConfig, reporter: Arc<dyn Reporter>) -> io::Result<()> {
    let config = config.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (listening, is_listening) = channel();
    let serve = move || runtime.block_on(serve(config, reporter, &listening));
    std::thread::Builder::new().name("status".into()).spawn(serve)?;
    // So that a host that says that it runs can be asked. Without an address nothing comes, and there is no wait.
    let _ = is_listening.recv_timeout(LISTENING_WITHIN);
    Ok(())
}

async fn serve(config: config::StatusConfig, reporter: Arc<dyn Reporter>, listening: &Sender<()>) {
    let Some(listen) = config.listen else { return };
    let access = Access {
        actions_off: config.control == config::ControlAccess::Off,
        token_file: config.token_file,
        own_name: without_port(&listen).to_owned(),
    };
    if let Some(Err(error)) = access.token() {
        warn!(%error, "nobody can act by status.token_file until it can be read");
    }
    let served = Served { reporter, access: Arc::new(access) };
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    if let Some(probes) = &config.probes_listen {
        listen_on(probes, "probes", probe_routes(served.clone()), &places).await;
    }
    listen_on(&listen, "status", all_routes(served.clone()), &places).await;
    if !served.access.actions_off
        && let Some(path) = socket_path(&listen)
    {
        match open_socket(&path) {
            Ok(socket) => {
                debug!(path = %path.display(), "actions through a Unix socket");
                tokio::spawn(accept(all_routes(served), places, Listener::Socket(socket)));
            }
            Err(error) => warn!(
                path = %path.display(), %error,
                "no Unix socket, so that plugins can be promoted and rolled back with status.token_file only"
            ),
        }
    }
    // Refused where nobody waits any more.
    let _ = listening.send(());
    std::future::pending::<()>().await;
}

async fn listen_on(address: &str, what: &str, routes: Router, places: &Arc<Semaphore>) {
    match TcpListener::bind(address).await {
        Ok(listener) => {
            let address = listener.local_addr().map_or_else(|_| address.to_owned(), |bound| bound.to_string());
            info!(address, "{what} over HTTP");
            tokio::spawn(accept(routes, Arc::clone(places), Listener::Port(listener)));
        }
        Err(error) => warn!(address, %error, "no {what} over HTTP; set the key to a free address, or to \"\" for none"),
    }
}

/// A socket in a folder that only the host's user can enter.
fn open_socket(path: &FilePath) -> io::Result<UnixListener> {
    let Some(folder) = path.parent() else { return Err(io::ErrorKind::InvalidInput.into()) };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let found = std::fs::symlink_metadata(folder)?;
    if !found.is_dir() || found.uid() != user_id() || found.mode() & 0o077 != 0 {
        let reason = format!("{} isn't a folder of our own that others can't enter", folder.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
    }
    // What a host left that was killed. One that runs listens on the port, and this one doesn't then.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(socket)
}

/// Where callers come from.
enum Listener {
    Port(TcpListener),
    Socket(UnixListener),
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Listener {
    fn way(&self) -> Way {
        match self {
            Self::Port(_) => Way::Port,
            Self::Socket(_) => Way::Socket,
        }
    }

    async fn next(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Port(listener) => Box::new(listener.accept().await?.0),
            Self::Socket(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

/// Takes connections, as many as there is place for.
async fn accept(routes: Router, places: Arc<Semaphore>, listener: Listener) {
    let routes = routes.layer(Extension(listener.way()));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.next().await {
            Ok(stream) => stream,
            Err(error) => {
                debug!(%error, "a caller can't be served");
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(routes.clone());
        tokio::spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_WITHIN)
                .keep_alive(false)
                .max_buf_size(16 << 10)
                .serve_connection(TokioIo::new(stream), service);
            let _ = tokio::time::timeout(CONNECTION_WITHIN, connection).await;
            drop(place);
        });
    }
}

fn probe_routes(served: Served) -> Router {
    let routes = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/health", get(health))
        .route("/metrics", get(figures));
    guarded(routes, served)
}

fn all_routes(served: Served) -> Router {
    let routes = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/health", get(health))
        .route("/metrics", get(figures))
        .route("/status", get(status))
        .route("/plugins/{name}/{action}", post(act));
    guarded(routes, served)
}

fn guarded(routes: Router<Served>, served: Served) -> Router {
    routes.layer(middleware::from_fn_with_state(served.clone(), guard)).with_state(served)
}

async fn guard(State(served): State<Served>, Extension(way): Extension<Way>, request: Request, next: Next) -> Response {
    match served.access.refuse(way, request.headers()) {
        Some(reason) => (StatusCode::FORBIDDEN, reason).into_response(),
        None => next.run(request).await,
    }
}

fn verdict(problems: Vec<HealthProblem>) -> Response {
    let healthy = problems.is_empty();
    let code = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(ProbeAnswer { healthy, problems })).into_response()
}

async fn livez(State(served): State<Served>) -> Response {
    let dead = served.reporter.is_dead();
    verdict(dead.map(|message| HealthProblem { code: "host.dead", message, for_s: 0 }).into_iter().collect())
}

async fn readyz(State(served): State<Served>) -> Response {
    let report = served.reporter.report();
    let stopping =
        report.stopping.then(|| HealthProblem { code: "host.stopping", message: "stopping".into(), for_s: 0 });
    verdict(report.not_ready().into_iter().cloned().chain(stopping).collect())
}

async fn health(State(served): State<Served>) -> Response {
    verdict(served.reporter.report().problems)
}

async fn figures(State(served): State<Served>) -> Response {
    match metrics::text(served.reporter.report()) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn status(State(served): State<Served>, Extension(way): Extension<Way>, headers: HeaderMap) -> Json<HostReport> {
    let mut report = served.reporter.report();
    if !served.access.may_act(way, &headers) {
        report.redact();
    }
    Json(report)
}

async fn act(
    State(served): State<Served>,
    Extension(way): Extension<Way>,
    Path((plugin, action)): Path<(String, Action)>,
    headers: HeaderMap,
) -> (StatusCode, String) {
    if !served.access.may_act(way, &headers) {
        let lacks = served.access.lacks();
        warn!(plugin, ?action, lacks, "refused over HTTP");
        return (StatusCode::FORBIDDEN, lacks.into());
    }
    info!(plugin, ?action, "asked over HTTP");
    let asked = tokio::task::spawn_blocking(move || served.reporter.act(&plugin, action)).await;
    match asked {
        Ok(Ok(done)) => (StatusCode::OK, done),
        Ok(Err(reason)) => (StatusCode::CONFLICT, reason),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}
