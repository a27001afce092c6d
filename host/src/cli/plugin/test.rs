//! `reduct-sink plugin test`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use reduct_sink::config::in_full;
use reduct_sink::devkit::fixtures::{self, Case};
use reduct_sink::devkit::junit;
use reduct_sink::devkit::project::Project;
use reduct_sink::devkit::testing::{CaseReport, StoredView, TestResult, Tester, plugin_name};

use super::{CommandError, ErrorCode, Exit, Progress, failed, is_json, print, write};

#[derive(Debug, Args)]
pub struct Test {
    /// A plugin's folder, as `plugin new` makes it [default: the present one]
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
    /// The component to test instead of the folder's (repeatable: a chain in this order)
    #[arg(long, value_name = "FILE")]
    plugin: Vec<PathBuf>,
    /// The fixtures [default: those of the folder]
    #[arg(long, value_name = "DIR")]
    fixtures: Option<PathBuf>,
    /// Write the results of the fixtures as the expected ones from now on
    #[arg(long, conflicts_with = "json")]
    update: bool,
    /// Write the results as JUnit's XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// How long a call may take
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    timeout: humantime::Duration,
    /// How much memory an instance may take
    #[arg(long, value_name = "SIZE", default_value = "256MB")]
    memory: bytesize::ByteSize,
}

impl Test {
    pub fn execute(self) -> Result<(), CommandError> {
        let (plugins, folder) = self.subject()?;
        let cases = fixtures::read(&folder).map_err(|error| CommandError::new(Exit::Usage, error))?;
        if let Some(missing) = plugins.iter().find(|plugin| !plugin.exists()) {
            let error = anyhow::anyhow!("there is no {}; build it first: reduct-sink plugin build", in_full(missing));
            return Err(CommandError::new(ErrorCode::PluginMissing, error));
        }
        let suite = plugins.iter().map(|plugin| plugin_name(plugin)).collect::<Vec<_>>().join("+");
        let progress = Progress::start(format!("loading {suite}"));
        let mut tester = Tester::new(plugins, Duration::from(self.timeout), self.memory.as_u64()).map_err(failed)?;
        let reports: Vec<CaseReport> = cases
            .iter()
            .map(|case| {
                progress.now(format!("running {}", case.name));
                tester.run(case)
            })
            .collect();
        drop(progress);
        let outcome = match (self.update, is_json()) {
            (true, _) => update(&cases, &reports),
            (false, true) => tell_json(&reports),
            (false, false) => tell(&reports),
        };
        if let Some(path) = &self.junit {
            write(Some(path), junit::xml(&suite, &reports).as_bytes())?;
        }
        outcome
    }

    /// What to test, and the fixtures to test it with.
    fn subject(&self) -> Result<(Vec<PathBuf>, PathBuf), CommandError> {
        let usage = |error| CommandError::new(Exit::Usage, error);
        match (&self.plugin[..], &self.folder, &self.fixtures) {
            ([], folder, fixtures) => {
                let project = Project::open(folder.as_deref().unwrap_or(Path::new("."))).map_err(usage)?;
                Ok((vec![project.component()], fixtures.clone().unwrap_or_else(|| project.fixtures())))
            }
            (plugins, None, Some(fixtures)) => Ok((plugins.to_vec(), fixtures.clone())),
            (plugins, Some(folder), fixtures) => {
                let project = Project::open(folder).map_err(usage)?;
                Ok((plugins.to_vec(), fixtures.clone().unwrap_or_else(|| project.fixtures())))
            }
            (_, None, None) => {
                Err(usage(anyhow::anyhow!("--plugin needs --fixtures, or a plugin's folder that has some")))
            }
        }
    }
}

/// The same as [`tell`], as objects.
pub(super) fn tell_json(reports: &[CaseReport]) -> Result<(), CommandError> {
    for CaseReport { name, result, .. } in reports {
        let (outcome, text) = match result {
            TestResult::Passed => ("passed", None),
            TestResult::Differs(diff) => ("differs", Some(diff)),
            TestResult::Unexpected(answer) => ("unexpected", Some(answer)),
            TestResult::Broken(reason) => ("broken", Some(reason)),
        };
        print(serde_json::json!({ "name": name, "outcome": outcome, "text": text }));
    }
    let failures = reports.iter().filter(|report| report.result != TestResult::Passed).count();
    print(serde_json::json!({ "passed": reports.len() - failures, "failed": failures }));
    if failures == 0 { Ok(()) } else { Err(CommandError::reported(ErrorCode::TestFailed)) }
}

/// Prints what came of each case. Fails if one failed.
pub(super) fn tell(reports: &[CaseReport]) -> Result<(), CommandError> {
    for CaseReport { name, result, stored, .. } in reports {
        let more = match result {
            TestResult::Passed => {
                print(format_args!("ok      {name}"));
                stored.iter().for_each(print_stored);
                continue;
            }
            TestResult::Differs(diff) => diff.clone(),
            TestResult::Unexpected(answer) => {
                format!("nothing is expected yet; --update would write this:\n{answer}")
            }
            TestResult::Broken(reason) => reason.clone(),
        };
        print(format_args!("FAILED  {name}"));
        more.lines().for_each(|line| print(format_args!("        {line}")));
        stored.iter().for_each(print_stored);
    }
    let failures = reports.iter().filter(|report| report.result != TestResult::Passed).count();
    print(format_args!("{} passed, {failures} failed", reports.len() - failures));
    if failures == 0 { Ok(()) } else { Err(CommandError::reported(ErrorCode::TestFailed)) }
}

/// What readers will see: the entry depends on the topic, and the host adds labels.
fn print_stored(StoredView { entry, entry_of_partition, needs_entry, labels }: &StoredView) {
    let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    print(format_args!(
        "        stored in {entry} ({entry_of_partition} if its topic has several partitions), labels {}",
        labels.join(" ")
    ));
    if let Some(chosen) = needs_entry {
        print(format_args!(
            "        the host allows the entry {chosen:?} only if the plugin's limits.entries have it: by default a plugin \
             chooses the topic's own name or one below it"
        ));
    }
}

/// Leaves expectations alone that are met: their author may have written them in another way.
fn update(cases: &[Case], reports: &[CaseReport]) -> Result<(), CommandError> {
    let mut changed = Vec::new();
    let mut broken = 0;
    for (case, report) in cases.iter().zip(reports) {
        match (&report.result, &report.answer) {
            (TestResult::Passed, _) => print(format_args!("ok       {}", report.name)),
            (TestResult::Broken(reason), _) => {
                broken += 1;
                print(format_args!("FAILED   {}\n         {reason}", report.name));
            }
            (_, Some(answer)) => {
                print(format_args!("updated  {}", report.name));
                changed.push((case, answer.clone()));
            }
            (_, None) => {}
        }
    }
    Case::expect(&changed).context("the expectations can't be written").map_err(failed)?;
    print(format_args!(
        "{} updated, {} as they were, {broken} failed",
        changed.len(),
        cases.len() - changed.len() - broken
    ));
    if broken == 0 { Ok(()) } else { Err(CommandError::reported(ErrorCode::TestFailed)) }
}
