//! `reduct-sink plugin dev`. With `--json` each thing that happens is one line with an object, whose `event` says what it is.
//!
//! Guarantees: a version that doesn't build, or whose fixtures fail, reaches neither the plugin's component nor a running
//! host; what a host made of a version that it was handed is printed, a roll-back later on included; only a component that
//! the host says it has loaded is replaced.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use reduct_sink::devkit::build::{build_aside, take_over};
use reduct_sink::devkit::dev::{FolderStamp, component_digest, digest_of, put_in_place};
use reduct_sink::devkit::fixtures;
use reduct_sink::devkit::project::Project;
use reduct_sink::devkit::testing::Tester;
use serde_json::{Value, json};

use super::super::running_host::RunningHost;
use super::{CommandError, ErrorCode, Exit, Progress, is_json, print};

/// How often the folder is looked at. A change counts when nothing has changed since the last look.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often the host is asked what became of the version that it was handed.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// How long a host may take to load a version: a large one compiles for seconds.
const TAKEN_WITHIN: Duration = Duration::from_secs(120);

#[derive(Debug, Args)]
pub struct Dev {
    /// The plugin's folder, as `plugin new` makes it [default: the present one]
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Hand each version whose fixtures pass to the host that runs on this machine and has this status.listen
    #[arg(long, value_name = "HOST:PORT")]
    into: Option<String>,
    /// The plugin's name in that host's chain [default: the folder's plugin]
    #[arg(long, value_name = "NAME", requires = "into")]
    plugin: Option<String>,
    /// A file with the token of the host's status.token_file; without one the host's Unix socket is used
    #[arg(long, value_name = "FILE", env = "REDUCT_SINK_STATUS_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// How long a call of a fixture may take
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    timeout: humantime::Duration,
    /// How much memory an instance may take in a fixture
    #[arg(long, value_name = "SIZE", default_value = "256MB")]
    memory: bytesize::ByteSize,
}

impl Dev {
    pub fn execute(self) -> Result<(), CommandError> {
        let folder = self.folder.as_deref().unwrap_or(Path::new("."));
        let project = Project::open(folder).map_err(|error| CommandError::new(Exit::Usage, error))?;
        let mut target = self.into.clone().map(|address| HandOverTarget {
            host: RunningHost::at(address.clone(), self.token_file.clone()),
            address,
            plugin: self.plugin.clone().unwrap_or_else(|| project.name.clone()),
            handed: None,
        });
        if let Some(target) = &target {
            // What is wrong with it is better said now than after a build.
            target.find()?;
        }
        let mut built = FolderStamp::default();
        let mut seen = FolderStamp::of(&project);
        loop {
            if seen != built {
                let changed = seen.changed(&built);
                // The first time it is everything.
                if built != FolderStamp::default() {
                    let names: Vec<_> = changed.iter().map(|path| path.display().to_string()).collect();
                    say(
                        &json!({ "event": "changed", "files": names }),
                        format_args!("\nchanged: {}", names.join(", ")),
                    );
                }
                built = seen.clone();
                if let Err(failure) = self.round(&project, target.as_mut()) {
                    let mut event = failure.to_json();
                    if let (Some(fields), true) = (event.as_object_mut(), is_json()) {
                        fields.insert("event".into(), "failed".into());
                        print(event);
                    } else if let Some(error) = &failure.error {
                        print(format_args!("FAILED  {error:#}"));
                    }
                }
                let folder = project.folder.display();
                let event = json!({ "event": "watching", "folder": folder.to_string() });
                say(&event, format_args!("watching {folder}; Ctrl-C ends it"));
            }
            seen = self.next_change(&project, &built, target.as_mut());
        }
    }

    /// Builds, runs the fixtures, and hands the version over.
    fn round(&self, project: &Project, target: Option<&mut HandOverTarget>) -> Result<(), CommandError> {
        let failed = |error| CommandError::new(Exit::Failed, error);
        let progress = Progress::start_beside_output("building");
        let built = build_aside(project, &mut |command| {
            let _ = writeln!(std::io::stderr(), "{command}");
            progress.now(format!("running {command}"));
        });
        drop(progress);
        let fresh = built.map_err(CommandError::of)?;
        let cases = fixtures::read(&project.fixtures()).map_err(failed)?;
        let tester = Tester::new(vec![fresh.clone()], Duration::from(self.timeout), self.memory.as_u64());
        let mut tester = tester.map_err(failed)?;
        let reports: Vec<_> = cases.iter().map(|case| tester.run(case)).collect();
        let tested = if is_json() { super::test::tell_json(&reports) } else { super::test::tell(&reports) };
        if tested.is_err() && is_json() {
            return tested;
        }
        if tested.is_err() {
            let kept = match &target {
                Some(target) => format!("{} keeps the version that it has", target.address),
                None => format!("{} stays as it was", project.component().display()),
            };
            print(format_args!("{kept}; if the new answers are right, accept them:"));
            let (folder, fresh) = (project.folder.display(), fresh.display());
            print(format_args!("  reduct-sink plugin test {folder} --plugin {fresh} --update"));
            return Err(CommandError::reported(ErrorCode::TestFailed));
        }
        let Some(target) = target else {
            let component = take_over(project, &fresh).map_err(failed)?;
            let component = component.display();
            say(&json!({ "event": "built", "component": component.to_string() }), format_args!("built   {component}"));
            return Ok(());
        };
        target.hand_over(project, &fresh)
    }

    /// Waits until the folder differs from `built` and has come to rest.
    fn next_change(
        &self,
        project: &Project,
        built: &FolderStamp,
        mut target: Option<&mut HandOverTarget>,
    ) -> FolderStamp {
        let mut last = built.clone();
        let mut asked = Instant::now();
        loop {
            sleep(LOOK_EVERY);
            let now = FolderStamp::of(project);
            if now != *built && now == last {
                return now;
            }
            last = now;
            if let Some(target) = target.as_deref_mut()
                && asked.elapsed() >= ASK_EVERY
            {
                asked = Instant::now();
                target.report_change();
            }
        }
    }
}

/// A plugin of a running host.
struct HandOverTarget {
    host: RunningHost,
    address: String,
    plugin: String,
    /// The swap of the version that was handed over last, and its outcome as it was printed.
    handed: Option<(u64, String)>,
}

/// The plugin as the host shows it.
struct PluginAtWork {
    /// Of the version at work.
    digest: String,
    file: PathBuf,
    /// The digest of what the file holds.
    held: String,
    /// The number of the host's last swap.
    last_swap: u64,
}

impl HandOverTarget {
    fn status(&self) -> Result<Value, CommandError> {
        let text = self.host.ask(reqwest::Method::GET, "status")?;
        let failed = |error| CommandError::new(Exit::Failed, error);
        let report = serde_json::from_str(&text).map_err(anyhow::Error::from);
        report.with_context(|| format!("{} doesn't answer as a host does", self.address)).map_err(failed)
    }

    fn find(&self) -> Result<PluginAtWork, CommandError> {
        let status = self.status()?;
        self.find_in(&status).map_err(|error| CommandError::new(Exit::Failed, error))
    }

    fn find_in(&self, status: &Value) -> anyhow::Result<PluginAtWork> {
        let (name, address) = (&self.plugin, &self.address);
        let plugins = status["plugins"].as_array().map_or(&[][..], Vec::as_slice);
        let Some(plugin) = plugins.iter().find(|plugin| plugin["name"] == name.as_str()) else {
            let names: Vec<&str> = plugins.iter().filter_map(|plugin| plugin["name"].as_str()).collect();
            let problems = status["problems"].as_array().map_or(&[][..], Vec::as_slice);
            let is_start =
                |problem: &&Value| problem["code"] == "host.starting" || problem["code"] == "pipeline.starting";
            if let Some(starting) = problems.iter().find(is_start) {
                let why = starting["message"].as_str().unwrap_or_default();
                bail!("the host at {address} runs no plugins yet: {why}; run this again when it does");
            }
            bail!(
                "the chain of the host at {address} has no plugin `{name}`, it has: {}; add it to the host's [[plugins]], \
                 or name another one by --plugin",
                names.join(", ")
            );
        };
        let Some(file) = plugin["file"].as_str().map(PathBuf::from) else {
            bail!(
                "the host at {address} doesn't say where plugin `{name}` was loaded from: it is the builtin one, or this \
                 user may not act there; run as the host's user, or give the host's token by --token-file"
            );
        };
        if !file.exists() {
            bail!(
                "the host at {address} loaded plugin `{name}` from {}, which isn't on this machine; `--into` replaces that \
                 file, so run it where the host runs",
                file.display()
            );
        }
        let held = component_digest(&file)?;
        let swaps = status["swaps"].as_array().map_or(&[][..], Vec::as_slice);
        let is_loaded = plugin["digest"] == held.as_str();
        if !is_loaded && !swaps.iter().any(|swap| swap["plugin"] == name.as_str() && swap["new"] == held.as_str()) {
            bail!(
                "{} holds version {}, which the host at {address} has neither at work nor tried, so it may be somebody \
                 else's file; let the host load it, or restart the host",
                file.display(),
                held.get(..12).unwrap_or(&held)
            );
        }
        let last_swap = swaps.iter().filter_map(|swap| swap["number"].as_u64()).max().unwrap_or(0);
        Ok(PluginAtWork { digest: plugin["digest"].as_str().unwrap_or_default().into(), file, held, last_swap })
    }

    /// Puts the component in the place of the host's file, and waits until the host has dealt with it.
    fn hand_over(&mut self, project: &Project, fresh: &Path) -> Result<(), CommandError> {
        let failed = |error| CommandError::new(Exit::Failed, error);
        let digest = digest_of(fresh).map_err(failed)?;
        let short = digest.get(..12).unwrap_or(&digest);
        let PluginAtWork { digest: at_work, file, held: had, last_swap } = self.find()?;
        let component = take_over(project, fresh).map_err(failed)?;
        if had == digest {
            let of_host = if at_work == digest { "is at work" } else { "was handed over before, and isn't at work" };
            let event =
                json!({ "event": "known", "digest": digest, "host": self.address, "at_work": at_work == digest });
            let text = format_args!("version {short} {of_host} in {}; nothing to hand over", self.address);
            say(&event, text);
            return Ok(());
        }
        // The host may watch the very file that was built.
        if digest_of(&file).map_err(failed)? != digest {
            put_in_place(&component, &file).map_err(failed)?;
        }
        let begun = Instant::now();
        while begun.elapsed() < TAKEN_WITHIN {
            let status = self.status()?;
            if let Some(swap) =
                swap_of(&status, |swap| swap["number"].as_u64() > Some(last_swap) && swap["new"] == digest.as_str())
            {
                let (outcome, seconds) = (outcome_of(swap), begun.elapsed().as_secs_f64());
                let (host, file) = (&self.address, file.display());
                say(
                    &self.event_of("handed-over", &digest, swap),
                    format_args!("handed  version {short} to {host} as {file}, after {seconds:.1} s: {outcome}"),
                );
                self.handed = swap["number"].as_u64().map(|number| (number, outcome));
                return Ok(());
            }
            sleep(LOOK_EVERY);
        }
        Err(failed(anyhow!(
            "{} has version {short}, and the host at {} hasn't tried it within {} s; its log says why",
            file.display(),
            self.address,
            TAKEN_WITHIN.as_secs()
        )))
    }

    fn event_of(&self, event: &str, digest: &str, swap: &Value) -> Value {
        let (outcome, reason) = (&swap["outcome"], &swap["reason"]);
        json!({ "event": event, "digest": digest, "host": self.address, "plugin": self.plugin, "outcome": outcome, "reason": reason })
    }

    /// Prints what the host has found of the version meanwhile. A host that doesn't answer is asked again later.
    fn report_change(&mut self) {
        let Some((number, told)) = &self.handed else { return };
        let Ok(status) = self.status() else { return };
        let Some(swap) = swap_of(&status, |swap| swap["number"].as_u64() == Some(*number)) else { return };
        let (outcome, number) = (outcome_of(swap), *number);
        if outcome != *told {
            let event = self.event_of("outcome", swap["new"].as_str().unwrap_or_default(), swap);
            say(&event, format_args!("{}: {outcome}", self.address));
            self.handed = Some((number, outcome));
        }
    }
}

/// Prints the object with `--json`, and the text without.
fn say(event: &Value, text: std::fmt::Arguments<'_>) {
    if is_json() {
        print(event);
    } else {
        print(text);
    }
}

fn swap_of(status: &Value, is_it: impl Fn(&Value) -> bool) -> Option<&Value> {
    status["swaps"].as_array()?.iter().rev().find(|swap| is_it(swap))
}

/// A swap's outcome in a sentence, with its reason.
fn outcome_of(swap: &Value) -> String {
    let outcome = swap["outcome"].as_str().unwrap_or("unknown");
    let meaning = match outcome {
        "refused" => "refused, the previous version stays at work",
        "on-trial" => "on trial beside the version at work",
        "failed-trial" => "its trial failed, the previous version stays at work",
        "awaits-promotion" => "its trial is over; `reduct-sink plugin promote` puts it to work",
        "superseded" => "a newer version came before it was at work",
        "baking" => "at work, in its bake window",
        "active" => "at work",
        "rolled-back" => "rolled back, the previous version is at work",
        other => other,
    };
    match swap["reason"].as_str() {
        Some(reason) => format!("{meaning}: {reason}"),
        None => meaning.into(),
    }
}
