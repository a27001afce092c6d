//! The status address of a process with several pipelines.
//!
//! `?pipeline=NAME` behind any path asks for that pipeline alone, which answers as the only pipeline of a process does.
//! Without it the probes, `/health`, `/status` and `/metrics` answer for all of them; everything else concerns one, and the
//! answer says which there are.
//!
//! Guarantees: `/livez` fails only when a restart helps every pipeline, because it stops those that are well, too; a name that
//! isn't there is refused, in a process with one pipeline without a name, too.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use serde::Serialize;

use super::access::{Access, Permission, Way};
use super::problems::HealthProblem;
use super::report::HostReport;
use super::server::{NamedReporter, Served, guarded, parameters, show_page, verdict};
use super::{merged_metrics, metrics};

/// The pipelines of the process.
#[derive(Clone)]
pub(super) struct Pipelined(Arc<Vec<(Option<Arc<str>>, Served)>>);

impl Pipelined {
    pub fn new(reporters: Vec<NamedReporter>, access: &Arc<Access>) -> Self {
        let served = |(name, reporter): NamedReporter| {
            let pipeline = name.clone();
            (name, Served { pipeline, reporter, access: Arc::clone(access) })
        };
        Self(Arc::new(reporters.into_iter().map(served).collect()))
    }

    /// The routes of all of them. `each`: those of one.
    pub fn routes(&self, each: fn(Served) -> Router) -> Router {
        let Some((_, first)) = self.0.first() else { return Router::new() };
        let by_name: Vec<(Option<Arc<str>>, Router)> =
            self.0.iter().map(|(name, served)| (name.clone(), each(served.clone()))).collect();
        let together = match by_name.as_slice() {
            [(None, only)] => only.clone(),
            _ => self.together(),
        };
        let (names, guard) = (self.names(), first.clone());
        let dispatch: Router<Served> = Router::new().fallback(move |request: Request| {
            let wanted = parameters(request.uri()).find(|(key, _)| key == "pipeline").map(|(_, name)| name);
            let name = wanted.as_deref();
            let found = match name {
                None => Some(together.clone()),
                Some(_) => by_name.iter().find(|(known, _)| known.as_deref() == name).map(|(_, routes)| routes.clone()),
            };
            let unknown = match names.as_str() {
                "" => "this process has one pipeline, without a name; ask without one".to_owned(),
                names => format!("there is no such pipeline; there are: {names}"),
            };
            async move {
                let Some(routes) = found else { return (StatusCode::NOT_FOUND, unknown).into_response() };
                TowerToHyperService::new(routes).call(request).await.unwrap_or_else(|never: Infallible| match never {})
            }
        });
        guarded(dispatch, guard)
    }

    fn names(&self) -> String {
        let names: Vec<&str> = self.0.iter().filter_map(|(name, _)| name.as_deref()).collect();
        names.join(", ")
    }

    /// What is asked without a name where there are several.
    fn together(&self) -> Router {
        let choose = format!(
            "this process has several pipelines; choose one with --pipeline NAME, or ?pipeline=NAME: {}",
            self.names()
        );
        Router::new()
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .route("/health", get(health))
            .route("/metrics", get(figures))
            .route("/status", get(status))
            .route("/", get(show_page))
            .fallback(move || async move { (StatusCode::BAD_REQUEST, choose) })
            .with_state(self.clone())
    }

    fn reports(&self, way: Way, headers: &HeaderMap) -> Vec<HostReport> {
        self.0.iter().map(|(_, served)| served.report_for(served.access.may_act(way, headers))).collect()
    }
}

/// Names the pipeline that has the problem.
fn of_pipeline(report: &HostReport, problem: &HealthProblem) -> HealthProblem {
    HealthProblem { pipeline: report.pipeline.clone(), ..problem.clone() }
}

async fn livez(State(all): State<Pipelined>) -> Response {
    let dead: Vec<HealthProblem> = all
        .0
        .iter()
        .filter_map(|(name, served)| {
            let problem = HealthProblem::new("host.dead", served.reporter.is_dead()?);
            Some(HealthProblem { pipeline: name.as_ref().map(ToString::to_string), ..problem })
        })
        .collect();
    verdict(if dead.len() == all.0.len() { dead } else { Vec::new() })
}

async fn readyz(State(all): State<Pipelined>, Extension(way): Extension<Way>, headers: HeaderMap) -> Response {
    let reports = all.reports(way, &headers);
    let mut problems: Vec<HealthProblem> = reports
        .iter()
        .flat_map(|report| report.not_ready().into_iter().map(|problem| of_pipeline(report, problem)))
        .collect();
    if reports.iter().any(|report| report.stopping) {
        problems.push(HealthProblem::new("host.stopping", "stopping"));
    }
    verdict(problems)
}

async fn health(State(all): State<Pipelined>, Extension(way): Extension<Way>, headers: HeaderMap) -> Response {
    verdict(problems(&all.reports(way, &headers)))
}

fn problems(reports: &[HostReport]) -> Vec<HealthProblem> {
    let of_one = |report: &HostReport| {
        report.problems.iter().map(|problem| of_pipeline(report, problem)).collect::<Vec<HealthProblem>>()
    };
    reports.iter().flat_map(of_one).collect()
}

async fn figures(State(all): State<Pipelined>) -> Response {
    let texts = all.0.iter().map(|(name, served)| {
        let text = metrics::text(served.reporter.report())?;
        Ok((name.as_deref().unwrap_or_default().to_owned(), text))
    });
    match texts.collect::<Result<Vec<_>, std::fmt::Error>>() {
        Ok(texts) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], merged_metrics::merge(&texts)).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// All pipelines, with what the caller may do.
#[derive(Serialize)]
struct PipelinesShown {
    version: &'static str,
    pid: u32,
    stopping: bool,
    problems: Vec<HealthProblem>,
    may_act: bool,
    /// What a caller needs who may not act.
    lacks: &'static str,
    pipelines: BTreeMap<String, HostReport>,
}

async fn status(State(all): State<Pipelined>, Extension(way): Extension<Way>, headers: HeaderMap) -> Response {
    let reports = all.reports(way, &headers);
    let Some((_, first)) = all.0.first() else { return StatusCode::NOT_FOUND.into_response() };
    let Permission { may_act, lacks, .. } = first.access.permission(way, &headers);
    let shown = PipelinesShown {
        version: env!("CARGO_PKG_VERSION"),
        pid: std::process::id(),
        stopping: reports.iter().any(|report| report.stopping),
        problems: problems(&reports),
        may_act,
        lacks,
        pipelines: reports.into_iter().map(|report| (report.pipeline.clone().unwrap_or_default(), report)).collect(),
    };
    Json(shown).into_response()
}
