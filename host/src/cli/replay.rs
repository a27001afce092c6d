//! `reduct-sink replay`: one line a dead letter on standard output, and a summary; or what a running host says of its own.

use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use reduct_sink::dead_letters::replay::{self, Fate, LeftReason, ReplaySummary, ReplayedLetter};

use serde_json::{Value, json};

use super::options::ConfigFlags;
use super::progress::Progress;
use super::running_host::RunningHost;
use super::status::replay_line;
use super::{CommandError, ErrorCode, Exit, is_json, print};

#[derive(Debug, Args)]
pub struct ReplayCommand {
    #[command(flatten)]
    options: ConfigFlags,
    /// Entries to look for dead letters in; * stands for anything [default: those of dead_letters.entry, or else the
    /// topic of dead_letters.topic]
    #[arg(long, value_name = "NAME_OR_PATTERN")]
    dead_letters: Option<String>,
    /// Write the outputs, and remove the dead letters that are done with; without this nothing is changed
    #[arg(long)]
    write: bool,
    /// Have the running host do it with the plugins that it has now, for the partitions that it reads; it goes on meanwhile
    #[arg(long, conflicts_with = "dead_letters")]
    running: bool,
    #[command(flatten)]
    host: RunningHost,
}

/// How often a running host is asked how far it is.
const ASK_EVERY: Duration = Duration::from_millis(500);

impl ReplayCommand {
    pub fn execute(self) -> Result<(), CommandError> {
        if self.running {
            return self.by_the_running_host();
        }
        let config = self.options.load()?.only()?;
        let (write, json) = (self.write, is_json());
        let mut seen = 0_u64;
        let progress = Progress::start("looking for dead letters");
        let summary = replay::replay(&config, self.dead_letters.as_deref(), write, &mut |told| {
            if json {
                tell_json(told)
            } else {
                tell(told, write)
            }
            seen += 1;
            progress.now(format!("{seen} dead letters replayed"));
        });
        drop(progress);
        let summary = summary.map_err(CommandError::of)?;
        if json {
            print(sums(&summary, write));
        } else {
            print(conclusion(&summary, write));
        }
        let left = write && summary.failing + summary.untouched > 0;
        if left { Err(CommandError::reported(ErrorCode::LettersLeft)) } else { Ok(()) }
    }

    /// Of the pipeline that is meant.
    fn ask(&self, method: reqwest::Method, path: &str) -> Result<String, CommandError> {
        let host = self.host.with_config(self.options.file().as_deref())?;
        host.ask_of(self.options.pipeline(), method, path)
    }

    fn by_the_running_host(&self) -> Result<(), CommandError> {
        let path = if self.write { "replay?write=true" } else { "replay" };
        self.ask(reqwest::Method::POST, path)?;
        let what = if self.write { "the host replays its dead letters" } else { "the host tries a replay" };
        let progress = Progress::start(what);
        let replay = loop {
            std::thread::sleep(ASK_EVERY);
            let text = self.ask(reqwest::Method::GET, "status")?;
            let report: Value =
                serde_json::from_str(&text).map_err(|error| CommandError::new(ErrorCode::HostAnswer, error))?;
            let replay = report.get("replay").cloned().unwrap_or_default();
            if !replay.is_object() {
                let interrupted = anyhow!("the host was started again, which interrupted the replay; run it once more");
                return Err(CommandError::new(Exit::Failed, interrupted));
            }
            if replay.get("running") != Some(&true.into()) {
                break replay;
            }
            progress.now(replay_line(&replay));
        };
        drop(progress);
        print(if is_json() { replay.to_string() } else { replay_line(&replay) });
        let count = |key: &str| replay.get(key).and_then(Value::as_u64).unwrap_or_default();
        if replay.get("error").is_some_and(|error| !error.is_null()) {
            Err(CommandError::reported(Exit::Failed))
        } else if self.write && count("failing") + count("untouched") > 0 {
            Err(CommandError::reported(ErrorCode::LettersLeft))
        } else {
            Ok(())
        }
    }
}

fn tell_json(ReplayedLetter { place, identity, fate }: &ReplayedLetter) {
    let left = |reason: &LeftReason| Some(reason.to_string());
    let (outcome, entries, reason) = match fate {
        Fate::Written(entries) => {
            ("written", entries.iter().map(|entry| entry.as_str().to_owned()).collect::<Vec<_>>(), None)
        }
        Fate::Dropped => ("dropped", Vec::new(), None),
        Fate::Failing(reason) => ("failing", Vec::new(), Some(reason.clone())),
        Fate::Left(reason) => ("left", Vec::new(), left(reason)),
    };
    print(json!({
        "place": place.to_string(),
        "record": identity.as_ref().map(ToString::to_string),
        "outcome": outcome,
        "entries": entries,
        "reason": reason,
    }));
}

fn sums(summary: &ReplaySummary, write: bool) -> Value {
    json!({
        "write": write,
        "letters": summary.letters,
        "written": summary.written,
        "dropped": summary.dropped,
        "failing": summary.failing,
        "untouched": summary.untouched,
        "found": summary.found,
        "others": summary.others,
    })
}

fn tell(ReplayedLetter { place, identity, fate }: &ReplayedLetter, write: bool) {
    let who = identity.as_ref().map_or_else(|| place.to_string(), ToString::to_string);
    let (outcome, more) = match fate {
        Fate::Written(entries) => {
            let mut names: Vec<&str> = entries.iter().map(|entry| entry.as_str()).collect();
            names.dedup();
            (if write { "written" } else { "write" }, format!(" to {}", names.join(", ")))
        }
        Fate::Dropped => (if write { "dropped" } else { "drop" }, String::new()),
        Fate::Failing(reason) => ("failing", format!(": {}", reason.replace(['\n', '\r'], " "))),
        Fate::Left(reason) => ("left", format!(": {reason}")),
    };
    print(format!("{outcome:<8}{who}{more}"));
}

fn conclusion(summary: &ReplaySummary, write: bool) -> String {
    let ReplaySummary { letters, written, dropped, failing, untouched, found, others, .. } = *summary;
    let letters = if letters == 1 { "1 dead letter".into() } else { format!("{letters} dead letters") };
    let mut text = if write {
        format!("{letters}: {written} written, {dropped} dropped, {failing} still failing")
    } else {
        format!("{letters}: {written} would be written, {dropped} dropped, {failing} still fail")
    };
    if untouched > 0 {
        text += &format!(", {untouched} left (the reasons are above, or it was stopped)");
    }
    if found > 0 {
        text += &format!("; {found} outputs were there already");
    }
    if others > 0 {
        text += &format!("; {others} records beside them are no dead letters");
    }
    if !write {
        text += "; nothing was changed, --write does it";
    }
    text
}
