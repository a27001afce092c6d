//! What the host tells of itself over HTTP, and what may be asked of it.
//!
//! | path | answer |
//! |---|---|
//! | `GET /livez` | 200, or 503 where only a restart helps |
//! | `GET /readyz` | 200, or 503 with what keeps the host from taking part |
//! | `GET /health` | 200, or 503 with everything that is wrong |
//! | `GET /metrics` | the figures for Prometheus |
//! | `GET /status` | everything, as JSON |
//! | `GET /` | the page for people, see [`super::page`] |
//! | `GET /history` | rates and lag over the last minutes, as JSON |
//! | `GET /dead-letters`, `GET /tap` | parts of records, only for callers who may act |
//! | `POST /plugins/NAME/promote`, `/rollback` | does it; see [`super::access`] for who may |
//! | `POST /pause`, `/resume`, `/topics/NAME/pause`, `/topics/NAME/resume` | the same |
//! | `POST /replay` | the same; tells what a replay would do, and with `?write=true` does it for the host's own partitions |
//!
//! With several pipelines each of these paths takes `?pipeline=NAME`, see [`super::pipelined`].
//!
//! Guarantees: a caller can neither use up the host's sockets ([`CONNECTIONS`], [`PROBES`], [`AT_SOCKET`], [`HEAD_WITHIN`], no bodies) nor hold up
//! its writers: the server has a thread and a runtime of its own; an address that is taken is reported in the log and
//! keeps nothing else from running.

use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path as FilePath;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
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

use super::access::{Access, Permission, Way, check_own_folder, socket_path, without_port};
use super::history::HistoryShown;
use super::metrics;
use super::page;
use super::pipelined::Pipelined;
use super::problems::HealthProblem;
use super::report::HostReport;
use super::tap::{TapAnswer, TapQuestion};
use crate::config::{self, threads};
use crate::sink::DeadLetterNote;

/// Connections at once to the status address. The others have places of their own, so that callers who read slowly here
/// can't make a probe fail, nor keep the host's own user out.
const CONNECTIONS: usize = 64;
/// Connections at once to `status.probes_listen`.
const PROBES: usize = 16;
/// Connections at once to the Unix socket.
const AT_SOCKET: usize = 16;
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
    /// Why only a restart can help, in words for anybody; `None`: it can't.
    fn is_dead(&self) -> Option<String>;
    /// Does to a plugin what somebody asks for. Answers with what was done, or why not. May take a while.
    fn act(&self, plugin: &str, action: Action) -> Result<String, String>;
    /// Reads nothing more of a topic, or of any.
    fn pause(&self, topic: Option<&str>) -> Result<String, String>;
    /// Ends that.
    fn resume(&self, topic: Option<&str>) -> Result<String, String>;
    /// Begins to send the dead letters through the chain. `write`: not only to look what would become of them.
    fn replay(&self, write: bool) -> Result<String, String>;
    /// The last dead letters, the newest first.
    fn dead_letters(&self) -> Vec<DeadLetterNote>;
    /// Rates and lag over the last minutes.
    fn history(&self) -> HistoryShown;
    /// Records on their way.
    fn tap(&self, question: TapQuestion) -> Result<TapAnswer, String>;
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
pub(super) struct Served {
    /// Its name, where there are several.
    pub pipeline: Option<Arc<str>>,
    pub reporter: Arc<dyn Reporter>,
    pub access: Arc<Access>,
}

/// A pipeline, by its name where there are several.
pub type NamedReporter = (Option<Arc<str>>, Arc<dyn Reporter>);

/// The body of `/livez`, `/readyz` and `/health`.
#[derive(Debug, Serialize)]
struct ProbeAnswer {
    healthy: bool,
    problems: Vec<HealthProblem>,
}

/// Serves until the process ends, on a thread of its own.
pub fn start(config: &config::StatusConfig, reporters: Vec<NamedReporter>) -> io::Result<()> {
    let config = config.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (listening, is_listening) = channel();
    let serve = move || runtime.block_on(serve(config, reporters, &listening));
    std::thread::Builder::new().name("status".into()).spawn(serve)?;
    // So that a host that says that it runs can be asked. Without an address nothing comes, and there is no wait.
    let _ = is_listening.recv_timeout(LISTENING_WITHIN);
    Ok(())
}

async fn serve(config: config::StatusConfig, reporters: Vec<NamedReporter>, listening: &Sender<()>) {
    let Some(listen) = config.listen else { return };
    let actions_off = config.control == config::ControlAccess::Off;
    let access = Access { actions_off, token_file: config.token_file, own_name: without_port(&listen).to_owned() };
    if let Some(Err(error)) = access.token() {
        warn!(%error, "nobody can act by status.token_file until it can be read");
    }
    let served = Pipelined::new(reporters, &Arc::new(access));
    let (probe_routes, all_routes) = (served.routes(probe_routes), served.routes(all_routes));
    if let Some(probes) = &config.probes_listen {
        listen_on(probes, "probes", probe_routes, PROBES).await;
    }
    listen_on(&listen, "status", all_routes.clone(), CONNECTIONS).await;
    if !actions_off && let Some(path) = socket_path(&listen) {
        match open_socket(&path) {
            Ok(socket) => {
                debug!(path = %path.display(), "actions through a Unix socket");
                tokio::spawn(accept(all_routes, AT_SOCKET, Listener::Socket(socket)));
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

async fn listen_on(address: &str, what: &str, routes: Router, places: usize) {
    match TcpListener::bind(address).await {
        Ok(listener) => {
            let address = listener.local_addr().map_or_else(|_| address.to_owned(), |bound| bound.to_string());
            info!(address, "{what} over HTTP");
            tokio::spawn(accept(routes, places, Listener::Port(listener)));
        }
        Err(error) => warn!(address, %error, "no {what} over HTTP; set the key to a free address, or to \"\" for none"),
    }
}

/// A socket in a folder that only the host's user can enter.
fn open_socket(path: &FilePath) -> io::Result<UnixListener> {
    let Some(folder) = path.parent() else { return Err(io::ErrorKind::InvalidInput.into()) };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    check_own_folder(folder)?;
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
async fn accept(routes: Router, places: usize, listener: Listener) {
    let places = Arc::new(Semaphore::new(places));
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
        .route("/", get(show_page))
        .route("/history", get(history))
        .route("/dead-letters", get(dead_letters))
        .route("/tap", get(tap))
        .route("/pause", post(pause))
        .route("/resume", post(resume))
        .route("/topics/{topic}/pause", post(pause_topic))
        .route("/topics/{topic}/resume", post(resume_topic))
        .route("/replay", post(replay))
        .route("/plugins/{name}/{action}", post(act));
    guarded(routes, served)
}

pub(super) fn guarded(routes: Router<Served>, served: Served) -> Router {
    routes.layer(middleware::from_fn_with_state(served.clone(), guard)).with_state(served)
}

async fn guard(State(served): State<Served>, Extension(way): Extension<Way>, request: Request, next: Next) -> Response {
    let access = &served.access;
    match access.refuse(way, request.headers()).or_else(|| access.refuse_target(way, request.uri())) {
        Some(reason) => (StatusCode::FORBIDDEN, reason).into_response(),
        None => next.run(request).await,
    }
}

pub(super) fn verdict(problems: Vec<HealthProblem>) -> Response {
    let healthy = problems.is_empty();
    let code = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(ProbeAnswer { healthy, problems })).into_response()
}

async fn livez(State(served): State<Served>) -> Response {
    let dead = served.reporter.is_dead();
    verdict(dead.map(|message| HealthProblem::new("host.dead", message)).into_iter().collect())
}

async fn readyz(State(served): State<Served>, Extension(way): Extension<Way>, headers: HeaderMap) -> Response {
    let report = served.report_for(served.access.may_act(way, &headers));
    let stopping = report.stopping.then(|| HealthProblem::new("host.stopping", "stopping"));
    verdict(report.not_ready().into_iter().cloned().chain(stopping).collect())
}

async fn health(State(served): State<Served>, Extension(way): Extension<Way>, headers: HeaderMap) -> Response {
    verdict(served.report_for(served.access.may_act(way, &headers)).problems)
}

async fn figures(State(served): State<Served>) -> Response {
    match metrics::text(served.reporter.report()) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// The report with what the caller may do.
#[derive(Serialize)]
struct StatusShown {
    #[serde(flatten)]
    report: HostReport,
    may_act: bool,
    /// What a caller needs who may not act.
    lacks: &'static str,
    /// The token that was sent is a wrong one.
    token_refused: bool,
}

async fn status(State(served): State<Served>, Extension(way): Extension<Way>, headers: HeaderMap) -> Response {
    let Permission { may_act, lacks, is_refused: token_refused } = served.access.permission(way, &headers);
    Json(StatusShown { report: served.report_for(may_act), may_act, lacks, token_refused }).into_response()
}

pub(super) async fn show_page() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, page::POLICY.as_str()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, page::PAGE).into_response()
}

async fn history(State(served): State<Served>) -> Response {
    Json(served.reporter.history()).into_response()
}

async fn dead_letters(State(served): State<Served>, Extension(way): Extension<Way>, headers: HeaderMap) -> Response {
    let Permission { may_act, lacks, .. } = served.access.permission(way, &headers);
    if !may_act {
        return (StatusCode::FORBIDDEN, lacks).into_response();
    }
    Json(served.reporter.dead_letters()).into_response()
}

async fn tap(State(served): State<Served>, Extension(way): Extension<Way>, headers: HeaderMap, uri: Uri) -> Response {
    let Permission { may_act, lacks, .. } = served.access.permission(way, &headers);
    if !may_act {
        return (StatusCode::FORBIDDEN, lacks).into_response();
    }
    let question = match TapQuestion::read(parameters(&uri)) {
        Ok(question) => question,
        Err(reason) => return (StatusCode::BAD_REQUEST, reason).into_response(),
    };
    match served.reporter.tap(question) {
        Ok(answer) => Json(answer).into_response(),
        Err(reason) => (StatusCode::CONFLICT, reason).into_response(),
    }
}

async fn pause(State(served): State<Served>, Extension(way): Extension<Way>, headers: HeaderMap) -> Done {
    served.change(way, &headers, "pause", |reporter| reporter.pause(None)).await
}

async fn resume(State(served): State<Served>, Extension(way): Extension<Way>, headers: HeaderMap) -> Done {
    served.change(way, &headers, "resume", |reporter| reporter.resume(None)).await
}

async fn pause_topic(
    State(served): State<Served>,
    Extension(way): Extension<Way>,
    Path(topic): Path<String>,
    headers: HeaderMap,
) -> Done {
    served.change(way, &headers, "pause a topic", move |reporter| reporter.pause(Some(&topic))).await
}

async fn resume_topic(
    State(served): State<Served>,
    Extension(way): Extension<Way>,
    Path(topic): Path<String>,
    headers: HeaderMap,
) -> Done {
    served.change(way, &headers, "resume a topic", move |reporter| reporter.resume(Some(&topic))).await
}

async fn replay(State(served): State<Served>, Extension(way): Extension<Way>, uri: Uri, headers: HeaderMap) -> Done {
    let write = match write_asked(&uri) {
        Ok(write) => write,
        Err(reason) => return (StatusCode::BAD_REQUEST, reason),
    };
    let what = if write { "replay the dead letters" } else { "try a replay" };
    served.change(way, &headers, what, move |reporter| reporter.replay(write)).await
}

async fn act(
    State(served): State<Served>,
    Extension(way): Extension<Way>,
    Path((plugin, action)): Path<(String, Action)>,
    headers: HeaderMap,
) -> Done {
    let what = match action {
        Action::Promote => "promote a plugin",
        Action::Rollback => "roll back a plugin",
    };
    served.change(way, &headers, what, move |reporter| reporter.act(&plugin, action)).await
}

/// Whether a replay is to write. Without the parameter it only tries.
fn write_asked(uri: &Uri) -> Result<bool, String> {
    let mut write = false;
    for (_, value) in parameters(uri).filter(|(name, _)| name == "write") {
        write = match &*value {
            "true" => true,
            "false" => false,
            other => return Err(format!("write={other:?} is neither true nor false")),
        };
    }
    Ok(write)
}

/// What stands behind the question mark.
pub(super) fn parameters(uri: &Uri) -> impl Iterator<Item = (String, String)> {
    let query = uri.query().unwrap_or_default();
    url::form_urlencoded::parse(query.as_bytes()).into_owned()
}

/// What was done, or why not.
type Done = (StatusCode, String);

impl Served {
    /// As much of the report as the caller may see, who may act or not.
    pub fn report_for(&self, may_act: bool) -> HostReport {
        let mut report = self.reporter.report();
        if !may_act {
            report.redact();
        }
        report
    }

    /// Does what somebody asks for who may ask for it, and says so in the log.
    async fn change(
        self,
        way: Way,
        headers: &HeaderMap,
        what: &'static str,
        work: impl FnOnce(&dyn Reporter) -> Result<String, String> + Send + 'static,
    ) -> Done {
        let Permission { may_act, lacks, .. } = self.access.permission(way, headers);
        if !may_act {
            threads::within(self.pipeline, || warn!(what, lacks, "refused over HTTP"));
            return (StatusCode::FORBIDDEN, lacks.into());
        }
        let Self { pipeline, reporter, .. } = self;
        threads::within(pipeline.clone(), || info!(what, "asked over HTTP"));
        let work = move || threads::within(pipeline, || work(&*reporter));
        match tokio::task::spawn_blocking(work).await {
            Ok(Ok(done)) => (StatusCode::OK, done),
            Ok(Err(reason)) => (StatusCode::CONFLICT, reason),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_writes_only_where_that_is_asked_for_in_full() {
        let asked = |path: &str| write_asked(&path.parse().unwrap());
        assert_eq!(asked("/replay?write=true&pipeline=a"), Ok(true));
        assert_eq!((asked("/replay"), asked("/replay?write=false")), (Ok(false), Ok(false)));
        for wrong in ["/replay?write=true?pipeline=a", "/replay?write", "/replay?write=1"] {
            assert!(asked(wrong).is_err(), "{wrong}");
        }
    }
}
