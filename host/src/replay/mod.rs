//! Sends dead letters in ReductStore through the present chain again.
//!
//! A dry run asks the plugins what would become of each, and changes nothing. Writing goes through the same [`Sink`] as
//! ever, under the same identity and with the same timestamps: what an interrupted replay wrote is found and not written
//! again. A dead letter is removed when its outputs are acknowledged, or when a plugin dropped it; what fails again stays
//! where it is, as it is.
//!
//! Guarantees: nothing is lost: a dead letter goes only after its outputs are safe; nothing is written twice, also when a
//! replay is interrupted and run again, as long as the chain makes the same of a record as before; nothing is written
//! while the consumer group has members, because two writers of one entry lose records.

mod run;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use regex::Regex;
use thiserror::Error;
use tracing::warn;

use self::run::Run;
use crate::chain::{Chain, SharedChain};
use crate::config::Config;
use crate::names::{EntryName, Template};
use crate::pipeline::stop_on_signal;
use crate::plugin::{LoadError, Runtime};
use crate::record::Identity;
use crate::sink::store::{Store, StoreError};
use crate::source::check as kafka;

/// Dead letters that are read, handled and removed together.
const PAGE_RECORDS: usize = 500;
const PAGE_BYTES: usize = 16 << 20;

/// What became of a dead letter, or would become of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// To these entries, one for each output.
    Written(Vec<EntryName>),
    /// A plugin's verdict.
    Dropped,
    /// It stays in the dead letters, for this reason.
    Failing(String),
    /// The replay was told to stop first.
    Untouched,
}

/// One dead letter's line in the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub entry: EntryName,
    pub timestamp_us: u64,
    /// `None` where its labels don't say who it is.
    pub identity: Option<Identity>,
    pub fate: Fate,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    pub letters: u64,
    pub written: u64,
    pub dropped: u64,
    pub failing: u64,
    pub untouched: u64,
    /// Outputs that were in their entry already.
    pub found: u64,
    /// Records in the entries that are no dead letters.
    pub others: u64,
}

#[derive(Debug, Error)]
pub enum ReplayError {
    #[error(transparent)]
    Plugin(#[from] LoadError),
    #[error("kafka: {0}")]
    Kafka(#[from] kafka::CheckError),
    #[error(
        "consumer group {group:?} has live members ({members}), and a running sink and a replay must not write at once; stop \
         every reduct-sink of this group, then run this again (one that was killed leaves the group after \
         session.timeout.ms)"
    )]
    Members { group: String, members: usize },
    #[error("ReductStore at {url}, bucket {bucket:?}: {error}; check store.url, store.bucket and store.token")]
    Store { url: String, bucket: String, error: StoreError },
    #[error("store.discard is set, so nothing would be written and the dead letters would be lost; unset it")]
    Discard,
    #[error("{0}")]
    Failed(String),
}

/// Goes through the dead letters of all entries that match `pattern` (`*` stands for anything), or the configured ones.
/// `tell` gets each one's fate. Blocks; call it from a plain thread.
pub fn replay(
    config: &Config,
    pattern: Option<&str>,
    write: bool,
    tell: &mut dyn FnMut(&Told),
) -> Result<Summary, ReplayError> {
    let failed = |what: &'static str| move |error: &dyn fmt::Display| ReplayError::Failed(format!("{what}: {error}"));
    if write && config.store.discard {
        return Err(ReplayError::Discard);
    }
    let engine = Runtime::new().map_err(|error| failed("can't start the WebAssembly engine")(&format!("{error:#}")))?;
    let shared = SharedChain::load(engine, &config.plugins)?;
    let chain = Chain::new(shared).map_err(|error| failed("can't start the plugins")(&format!("{error:#}")))?;
    if write {
        refuse_company(config)?;
    }
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("sink")
        .build()
        .map_err(|error| failed("can't start the sink's threads")(&error))?;
    let stop = Arc::new(AtomicBool::new(false));
    tokio.block_on(async { stop_on_signal(&stop) }).map_err(|error| failed("can't listen to signals")(&error))?;

    let wrong =
        |error| ReplayError::Store { url: config.store.url.clone(), bucket: config.store.bucket.clone(), error };
    let store = Store::new(&config.store).map_err(wrong)?;
    let glob = glob(pattern, config).map_err(|error| failed("the pattern of entries")(&error))?;
    let entries = tokio.block_on(store.entries()).map_err(wrong)?;
    let mut run = Run::new(config, chain, store.clone(), write, tokio.handle().clone(), Arc::clone(&stop))?;
    let mut summary = Summary::default();
    for entry in entries.iter().filter(|entry| glob.is_match(entry.as_str())) {
        let mut from = 0;
        while !stop.load(Ordering::SeqCst) {
            let page = tokio.block_on(store.page(entry, from, PAGE_RECORDS, PAGE_BYTES)).map_err(wrong)?;
            let Some(last) = page.last() else { break };
            from = last.timestamp_us.saturating_add(1);
            if write {
                // A sink may have been started in the meantime.
                refuse_company(config)?;
            }
            let told = run.page(entry, page, &mut summary)?;
            let done = told.iter().filter(|told| matches!(told.fate, Fate::Written(_) | Fate::Dropped));
            let done: Vec<u64> = done.map(|told| told.timestamp_us).collect();
            if write {
                tokio.block_on(store.remove_all(entry, &done)).map_err(wrong)?;
            }
            for told in &told {
                summary.count(&told.fate);
                tell(told);
            }
        }
    }
    summary.found = run.end();
    tokio.shutdown_background();
    if stop.load(Ordering::SeqCst) {
        warn!("stopped before the end; run it again for the rest");
    }
    Ok(summary)
}

impl Summary {
    fn count(&mut self, fate: &Fate) {
        self.letters += 1;
        match fate {
            Fate::Written(_) => self.written += 1,
            Fate::Dropped => self.dropped += 1,
            Fate::Failing(_) => self.failing += 1,
            Fate::Untouched => self.untouched += 1,
        }
    }
}

fn refuse_company(config: &Config) -> Result<(), ReplayError> {
    match kafka::members(&config.kafka)? {
        0 => Ok(()),
        members => Err(ReplayError::Members { group: config.kafka.group.clone(), members }),
    }
}

/// The entries that are meant: those of the pattern, or all that the configured template can name.
fn glob(pattern: Option<&str>, config: &Config) -> Result<Regex, String> {
    let pattern = match pattern {
        Some(pattern) => pattern.to_owned(),
        None => {
            let template = Template::parse(&config.dead_letters.entry).map_err(|error| error.to_string())?;
            template.to_string().replace("{topic}", "*").replace("{partition}", "*")
        }
    };
    let parts: Vec<String> = pattern.split('*').map(regex::escape).collect();
    Regex::new(&format!("^{}$", parts.join(".*"))).map_err(|error| error.to_string())
}
