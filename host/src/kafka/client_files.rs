//! The files that Kafka's clients are made of (certificates, keys, passwords), which are replaced from time to time.
//!
//! Guarantees: files that changed are used when Kafka has answered a client that was made of them, and not before, so that a
//! file that is wrong or half written ends no connection that works; that they aren't taken is said once for each change, and
//! they are tried again with every look.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use tracing::{info, warn};

use super::client::{Reports, reader, told};
use crate::config;
use crate::plugin::Digest;

/// How long Kafka may take to answer a client of the changed files.
const ANSWER: Duration = Duration::from_secs(3);

/// What the files hold; `None`: one can't be read.
type Contents = Vec<Option<Digest>>;

/// See the module.
pub struct ClientFiles {
    config: config::Kafka,
    files: Vec<PathBuf>,
    used: Mutex<Contents>,
    refused: Mutex<Option<(Contents, String)>>,
    renewals: AtomicU64,
}

impl ClientFiles {
    /// Clients that are made from now on are made of these files as they are now, or newer.
    pub fn new(config: &config::Kafka) -> Self {
        let files = config.client_files();
        let used = Mutex::new(contents(&files));
        Self { config: config.clone(), files, used, refused: Mutex::default(), renewals: AtomicU64::new(0) }
    }

    /// How often the files were replaced by others that work. A client that was made at a lower number is to be made again.
    pub fn renewals(&self) -> u64 {
        self.renewals.load(Ordering::SeqCst)
    }

    /// Why changed files aren't used yet.
    pub(super) fn refusal(&self) -> Option<String> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(_, reason)| reason.clone())
    }

    /// Looks whether the files have changed and tries them: answers with a client that was made of them and works. `topic`:
    /// one that may be asked about.
    pub(super) fn look(&self, topic: Option<&str>) -> Option<BaseConsumer<Reports>> {
        if self.files.is_empty() {
            return None;
        }
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let found = contents(&self.files);
        if found == *used {
            *refused = None;
            return None;
        }
        let tried = reader(&self.config).map_err(|error| error.to_string()).and_then(|client| {
            let answer = client.fetch_metadata(topic, ANSWER);
            // Serves the callbacks, which tell more than that there was no answer.
            while client.poll(Duration::ZERO).is_some() {}
            match answer {
                Ok(_) => Ok(client),
                Err(error) => Err(client.context().last_reason().unwrap_or_else(|| told(&error))),
            }
        });
        match tried {
            // They may have changed again while they were read.
            Ok(_) if contents(&self.files) != found => None,
            Ok(client) => {
                info!("the files of kafka.properties hold other secrets or certificates, and Kafka takes them");
                *used = found;
                *refused = None;
                self.renewals.fetch_add(1, Ordering::SeqCst);
                Some(client)
            }
            Err(reason) => {
                if refused.as_ref().is_none_or(|(before, _)| *before != found) {
                    warn!(
                        reason,
                        "the files of kafka.properties have changed and aren't taken; the present connections stay, and the \
                         files are tried again"
                    );
                }
                *refused = Some((found, reason));
                None
            }
        }
    }
}

fn contents(files: &[PathBuf]) -> Contents {
    files.iter().map(|path| config::read_small(path).ok().map(|bytes| Digest::of(&bytes))).collect()
}
