//! Clients of ReductStore, and how each request is run.
//!
//! Guarantees: each request runs in a task of its own, so that a caller who stops waiting doesn't cut it off in
//! mid-body (which would leave unfinished records), and a panic inside the client becomes an error; the time allowed for
//! a request grows with its size; a token file is read again when the store refuses the token, and the
//! file of the authorities when the store can't be reached; the system needs no CA
//! certificates unless the URL is `https`.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use reduct_rs::{Bucket, ErrorCode, ReductClient, ReductError};
use tokio::sync::OnceCell;
use tracing::{info, warn};

use super::error::{HANGS, StoreError, classify};
use super::{intermediaries, unreachable};
use crate::config;

/// The slowest line that a request gets time for, in bytes per second: half a megabit.
pub(super) const SLOWEST: u64 = 64 * 1024;
/// How many times `store.timeout` a request may take, by its size. A client's timeout is fixed, so each has a client.
const PATIENCE: [u32; 4] = [1, 4, 16, 64];
/// How long a new connection may take after a request that got no answer.
const CONNECTED_WITHIN: Duration = Duration::from_secs(1);
/// How long the cause of a failed connection is taken for that of others.
const SAME_CAUSE: Duration = Duration::from_secs(1);
/// How often a refused token file is read again.
const TOKEN_EVERY: Duration = Duration::from_secs(5);

/// One client and its handle of the bucket.
pub(super) struct Connection {
    pub client: ReductClient,
    name: String,
    /// Looking the bucket up costs a request, so the handle is kept.
    bucket: OnceCell<Arc<Bucket>>,
}

impl Connection {
    pub async fn bucket(&self) -> Result<Arc<Bucket>, ReductError> {
        let look_up = async || self.client.get_bucket(&self.name).await.map(Arc::new);
        self.bucket.get_or_try_init(look_up).await.map(Arc::clone)
    }
}

/// The clients that use one token, made when they are needed.
struct Clients {
    token: Option<String>,
    by_patience: [OnceLock<Arc<Connection>>; PATIENCE.len()],
}

impl Clients {
    fn new(token: Option<String>) -> Self {
        Self { token, by_patience: Default::default() }
    }
}

pub(super) struct Connections {
    config: config::StoreConfig,
    clients: Mutex<Arc<Clients>>,
    /// When the token file was read last.
    token_read: Mutex<Option<Instant>>,
    /// What the file of the authorities held last, and when it was read.
    authorities: Mutex<(Option<Vec<u8>>, Instant)>,
    /// When the cause of a failed connection was found last, and the cause.
    unreachable: tokio::sync::Mutex<Option<(Instant, String)>>,
}

impl Connections {
    /// Makes the first client; nothing is sent yet.
    pub fn new(config: &config::StoreConfig) -> Result<Self, StoreError> {
        let token = config.token.as_deref().map(str::to_owned);
        let this = Self {
            config: config.clone(),
            clients: Mutex::new(Arc::new(Clients::new(token))),
            token_read: Mutex::default(),
            authorities: Mutex::new((authorities(config), Instant::now())),
            unreachable: tokio::sync::Mutex::default(),
        };
        this.connection(0).map(|_| this)
    }

    /// The connection for a request of this many bytes.
    pub fn connection(&self, bytes: u64) -> Result<Arc<Connection>, StoreError> {
        let clients = Arc::clone(&lock(&self.clients));
        let allowed = self.config.timeout + Duration::from_secs(bytes / SLOWEST);
        let class = PATIENCE.iter().position(|times| self.config.timeout * *times >= allowed);
        let class = class.unwrap_or(PATIENCE.len() - 1);
        let (Some(made), Some(times)) = (clients.by_patience.get(class), PATIENCE.get(class)) else {
            return Err(StoreError::Unavailable("no client for this size".into()));
        };
        if let Some(connection) = made.get() {
            return Ok(Arc::clone(connection));
        }
        let client = self.client(clients.token.as_deref(), self.config.timeout * *times)?;
        let connection = Connection { client, name: self.config.bucket.clone(), bucket: OnceCell::new() };
        Ok(Arc::clone(made.get_or_init(|| Arc::new(connection))))
    }

    fn client(&self, token: Option<&str>, timeout: Duration) -> Result<ReductClient, StoreError> {
        let config = &self.config;
        // Over TLS the client would negotiate HTTP/2, where the server caps the headers at 16 KiB: a fifth of a batch.
        let build = |verify_tls: bool| {
            let builder = ReductClient::builder().url(&config.url).timeout(timeout).http1_only();
            let builder = builder.api_token(token.unwrap_or_default()).verify_ssl(verify_tls);
            match config.ca.as_ref().and_then(|path| path.to_str()) {
                Some(ca) => builder.ca_cert_path(ca).try_build(),
                None => builder.try_build(),
            }
        };
        match build(config.verify_tls) {
            Ok(client) => Ok(client),
            // The HTTP client wants CA certificates whatever the URL is; without TLS there is nothing to verify.
            Err(error) if config.url.starts_with("http:") && config.verify_tls => {
                build(false).map_err(|_| classify(&error))
            }
            Err(error) if config.ca.is_none() && config.verify_tls => Err(StoreError::Unsupported(format!(
                "{}: are there no CA certificates on this system? Install them (the package ca-certificates), or set \
                 store.tls.ca",
                error.message
            ))),
            Err(error) => Err(classify(&error)),
        }
    }

    /// Runs a request that carries `bytes` bytes.
    pub async fn run<T, F>(&self, bytes: u64, work: impl FnOnce(Arc<Connection>) -> F + Send) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ReductError>> + Send + 'static,
    {
        let connection = self.connection(bytes)?;
        let begun = Instant::now();
        match tokio::spawn(work(connection)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => match self.told(&error, begun).await {
                StoreError::Unauthorized(text) if self.read_token_again() => {
                    Err(StoreError::Unavailable(format!("{text}; store.token_file holds another token now")))
                }
                StoreError::Unavailable(text) if self.read_authorities_again() => {
                    Err(StoreError::Unavailable(format!("{text}; store.tls.ca holds other authorities now")))
                }
                StoreError::Unavailable(text) => {
                    Err(StoreError::Unavailable(match intermediaries::proxy(&self.config.url) {
                        Some(proxy) => format!("{text}; {proxy}"),
                        None => text,
                    }))
                }
                error => Err(error),
            },
            Err(error) => Err(StoreError::Unavailable(format!("the client failed: {error}"))),
        }
    }

    /// What a failed request means. The client's own words for one that got no answer name neither the store nor the time, and those for
    /// one without a connection no cause.
    async fn told(&self, error: &ReductError, begun: Instant) -> StoreError {
        match error.status {
            ErrorCode::Timeout => {}
            ErrorCode::ConnectionError => return StoreError::Unavailable(self.no_connection().await),
            _ => return classify(error),
        }
        let accepts = match intermediaries::proxy(&self.config.url) {
            Some(_) => None,
            None => accepts_connections(&self.config.url).await,
        };
        let waited = begun.elapsed();
        let is_large = waited > self.config.timeout + Duration::from_secs(5);
        let bound = if is_large { "more than store.timeout, because the request was large" } else { "store.timeout" };
        let (url, waited) = (&self.config.url, waited.as_secs());
        StoreError::Unavailable(match accepts {
            Some(true) => format!("ReductStore at {url} {HANGS} for {waited} s ({bound})"),
            Some(false) => {
                format!("ReductStore at {url} has not answered for {waited} s ({bound}), and accepts no connection now")
            }
            None => format!("ReductStore at {url} has not answered for {waited} s ({bound})"),
        })
    }

    async fn no_connection(&self) -> String {
        let mut known = self.unreachable.lock().await;
        let why = match known.take().filter(|(found, _)| found.elapsed() < SAME_CAUSE) {
            Some(known) => known,
            None => {
                let why = unreachable::why(&self.config).await;
                (Instant::now(), why)
            }
        };
        format!("no connection to {}: {}", self.config.url, known.insert(why).1)
    }

    /// Reads `store.tls.ca` again. `true`: it holds other authorities than before.
    fn read_authorities_again(&self) -> bool {
        if self.config.ca.is_none() {
            return false;
        }
        let mut known = lock(&self.authorities);
        if known.1.elapsed() < TOKEN_EVERY {
            return false;
        }
        known.1 = Instant::now();
        let found = authorities(&self.config);
        if found.is_none() || known.0 == found {
            return false;
        }
        let mut clients = lock(&self.clients);
        // What is half written makes no client.
        if let Err(error) = self.client(clients.token.as_deref(), self.config.timeout) {
            warn!(%error, "store.tls.ca has changed and can't be used");
            return false;
        }
        known.0 = found;
        info!("ReductStore can't be reached, and store.tls.ca holds other authorities: they are used from now on");
        *clients = Arc::new(Clients::new(clients.token.clone()));
        true
    }

    /// Reads `store.token_file` again. `true`: it holds another token than before.
    fn read_token_again(&self) -> bool {
        let Some(path) = &self.config.token_file else { return false };
        let mut read = lock(&self.token_read);
        if read.is_some_and(|at| at.elapsed() < TOKEN_EVERY) {
            return false;
        }
        *read = Some(Instant::now());
        let token = match config::read_small_text(path) {
            Ok(text) => text.trim().to_owned(),
            Err(error) => {
                warn!(file = %path.display(), %error, "the token is refused, and store.token_file can't be read");
                return false;
            }
        };
        let mut clients = lock(&self.clients);
        if token.is_empty() || clients.token.as_ref() == Some(&token) {
            return false;
        }
        info!(file = %path.display(), "the token was refused; store.token_file holds another one");
        *clients = Arc::new(Clients::new(Some(token)));
        true
    }
}

/// Whether something listens at this address; `None`: the address can't be read.
async fn accepts_connections(url: &str) -> Option<bool> {
    let url = url::Url::parse(url).ok()?;
    let (host, port) = (url.host_str()?.trim_matches(['[', ']']).to_owned(), url.port_or_known_default()?);
    let connected = tokio::time::timeout(CONNECTED_WITHIN, tokio::net::TcpStream::connect((host, port))).await;
    Some(connected.is_ok_and(|connection| connection.is_ok()))
}

/// What the file of the authorities holds.
fn authorities(config: &config::StoreConfig) -> Option<Vec<u8>> {
    config.ca.as_deref().and_then(|path| config::read_small(path).ok())
}

/// A panic elsewhere must not spread: what these locks guard is valid at every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
