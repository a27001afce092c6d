//! Docker's credentials: `config.json`, and the helpers that it names.
//!
//! Guarantees: they are asked for only when a server wants them, and only those of that server; a helper that hangs costs a
//! thread and a process once, not each time; no text of a secret gets into an error.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use docker_credential::{CredentialRetrievalError, DockerCredential, get_credential_from_reader};
use tokio::sync::oneshot;

use super::error::FetchError;
use crate::record::text::one_line;

/// Helpers that run at the same time.
const HELPERS: usize = 4;
/// A helper that takes longer may wait for a person.
const HELPER_TIME: Duration = Duration::from_secs(10);
/// Of what a helper says.
const SAID_BYTES: usize = 200;

static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// The folder of Docker's configuration, as Docker chooses it.
fn folder() -> Option<PathBuf> {
    let named = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    named("DOCKER_CONFIG").or_else(|| Some(named("HOME")?.join(".docker")))
}

/// What Docker has for this registry; `None`: nothing.
pub async fn of(registry: &str) -> Result<Option<DockerCredential>, FetchError> {
    let failed = |why: String| FetchError::Credentials { host: registry.to_owned(), why };
    let Some(file) = folder().map(|folder| folder.join("config.json")) else { return Ok(None) };
    let config = match std::fs::read(&file) {
        Ok(config) => config,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(format!("{}: {error}", file.display()))),
    };
    if RUNNING.load(Ordering::SeqCst) >= HELPERS {
        return Err(failed("earlier credential helpers haven't ended yet".into()));
    }
    let server = if registry == "docker.io" { "https://index.docker.io/v1/" } else { registry }.to_owned();
    let (answer, answered) = oneshot::channel();
    let running = Arc::new(HelperRun::begin());
    let ask = move || {
        let _running = running;
        // Refused where nobody waits any more.
        let _ = answer.send(get_credential_from_reader(config.as_slice(), &server));
    };
    let thread = thread::Builder::new().name("docker-login".into()).spawn(ask);
    thread.map_err(|error| failed(error.to_string()))?;
    let answered = tokio::time::timeout(HELPER_TIME, answered).await;
    let answered =
        answered.map_err(|_| failed(format!("its credential helper hasn't answered within {HELPER_TIME:?}")))?;
    match answered.map_err(|_| failed("the helper's thread panicked".into()))? {
        Ok(credential) => Ok(Some(credential)),
        Err(CredentialRetrievalError::NoCredentialConfigured) => Ok(None),
        // What helpers print where they have nothing.
        Err(CredentialRetrievalError::HelperFailure { stdout, .. }) if stdout.contains("credentials not found") => {
            Ok(None)
        }
        Err(CredentialRetrievalError::HelperFailure { helper, stderr, .. }) => {
            Err(failed(format!("{helper} failed: {}", one_line(&stderr, SAID_BYTES))))
        }
        Err(CredentialRetrievalError::HelperCommunicationError) => {
            Err(failed(format!("the helper that {} names can't be run", file.display())))
        }
        Err(error) => Err(failed(format!("{}: {error}", file.display()))),
    }
}

struct HelperRun;

impl HelperRun {
    fn begin() -> Self {
        RUNNING.fetch_add(1, Ordering::SeqCst);
        Self
    }
}

impl Drop for HelperRun {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Ordering::SeqCst);
    }
}
