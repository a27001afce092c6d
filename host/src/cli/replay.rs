//! `reduct-sink replay`: one line a dead letter on standard output, and a summary.

use clap::Args;
use reduct_sink::dead_letters::replay::{self, Fate, ReplaySummary, ReplayedLetter};

use super::options::ConfigFlags;
use super::{CommandError, Exit, print};

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
}

impl ReplayCommand {
    pub fn execute(self) -> Result<(), CommandError> {
        let (config, _) = self.options.load()?.with_warnings_logged();
        let write = self.write;
        let summary = replay::replay(&config, self.dead_letters.as_deref(), write, &mut |told| tell(told, write));
        let summary = summary.map_err(CommandError::of)?;
        print(conclusion(&summary, write));
        let left = write && summary.failing + summary.untouched > 0;
        if left { Err(CommandError::reported(Exit::Failed)) } else { Ok(()) }
    }
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
        Fate::Untouched => ("left", String::new()),
    };
    print(format!("{outcome:<8}{who}{more}"));
}

fn conclusion(summary: &ReplaySummary, write: bool) -> String {
    let ReplaySummary { letters, written, dropped, failing, untouched, found, others } = *summary;
    let letters = if letters == 1 { "1 dead letter".into() } else { format!("{letters} dead letters") };
    let mut text = if write {
        format!("{letters}: {written} written, {dropped} dropped, {failing} still failing")
    } else {
        format!("{letters}: {written} would be written, {dropped} dropped, {failing} still fail")
    };
    if untouched > 0 {
        text += &format!(", {untouched} left when it was stopped");
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
