//! Asking a running host, over its Unix socket or over HTTP.
//!
//! Guarantees: the socket is used only where no other user can have put it there; the token of a configuration file is sent only
//! to the address of the same file; where nobody answers, the error names the address and the flag that gives another.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use reduct_sink::health::access::{check_own_folder, socket_path, without_port};
use serde_json::Value;

use super::host_address::HostAddress;
use super::options::file_by_variable;
use super::{CommandError, ErrorCode, Exit};

/// Where a host listens that isn't configured otherwise.
const DEFAULT: &str = "127.0.0.1:9640";
/// A host answers at once, save for a promotion that starts instances.
const PATIENCE: Duration = Duration::from_secs(40);

/// Where a running host is found.
#[derive(Debug, Clone, Args)]
pub struct RunningHost {
    /// Where the running host listens: its status.listen [default: that of --config, or else 127.0.0.1:9640]
    #[arg(long, value_name = "HOST:PORT", env = "REDUCT_SINK_STATUS_LISTEN")]
    status: Option<String>,
    /// A file with the token of the host's status.token_file; without one the host's Unix socket is used
    #[arg(long, value_name = "FILE", env = "REDUCT_SINK_STATUS_TOKEN_FILE")]
    token_file: Option<PathBuf>,
}

/// A running host, and which of its pipelines is meant.
#[derive(Debug, Args)]
pub struct RunningPipeline {
    #[command(flatten)]
    host: RunningHost,
    /// The host's configuration file, which says where it listens and has its token_file
    /// [env: REDUCT_SINK_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The pipeline that is meant, where the host has several
    #[arg(long, value_name = "NAME")]
    pipeline: Option<String>,
}

/// What a running host answered.
#[derive(Debug)]
pub struct HostAnswer {
    /// Where it was asked.
    address: String,
    /// The body.
    pub text: String,
}

impl HostAnswer {
    pub fn json(&self) -> Result<Value, CommandError> {
        serde_json::from_str(&self.text)
            .with_context(|| format!("{} doesn't answer as a host does", self.address))
            .map_err(|error| CommandError::new(ErrorCode::HostAnswer, error))
    }
}

impl RunningPipeline {
    pub fn ask(&self, method: reqwest::Method, path: &str) -> Result<HostAnswer, CommandError> {
        let host = self.host.with_config(self.config.clone().or_else(file_by_variable).as_deref())?;
        let text = host.ask_of(self.pipeline.as_deref(), method, path)?;
        Ok(HostAnswer { address: host.address().to_owned(), text })
    }
}

impl RunningHost {
    pub fn at(address: String, token_file: Option<PathBuf>) -> Self {
        Self { status: Some(address), token_file }
    }

    /// The same, with what the configuration file says where neither a flag nor a variable does. Where the address is given, the file is
    /// perhaps of another host, and its token isn't sent there.
    pub fn with_config(&self, file: Option<&Path>) -> Result<Self, CommandError> {
        let mut host = self.clone();
        let Some(file) = file.filter(|_| self.status.is_none()) else { return Ok(host) };
        let found = HostAddress::read(file)?;
        // Without the right to read the token the host's Unix socket may do.
        let readable = found.token_file.filter(|token| std::fs::File::open(token).is_ok());
        host.status = found.address;
        host.token_file = host.token_file.or(readable);
        Ok(host)
    }

    fn address(&self) -> &str {
        self.status.as_deref().unwrap_or(DEFAULT)
    }

    /// Whether a reduct-sink serves its status there.
    pub fn answers_at(address: &str) -> bool {
        let asked = Self::at(address.into(), None).ask(reqwest::Method::GET, "status");
        let report = asked.ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
        report.is_some_and(|report| report.get("partitions").or_else(|| report.get("pipelines")).is_some())
    }

    /// The body of its answer.
    pub fn ask(&self, method: reqwest::Method, path: &str) -> Result<String, CommandError> {
        self.ask_of(None, method, path)
    }

    /// The same, of one of its pipelines.
    pub fn ask_of(&self, pipeline: Option<&str>, method: reqwest::Method, path: &str) -> Result<String, CommandError> {
        let token = self.token()?;
        let sign = if path.contains('?') { '&' } else { '?' };
        let chosen = pipeline.map_or(String::new(), |name| format!("{sign}pipeline={}", escaped(name)));
        let url = format!("http://{}/{path}{chosen}", self.address());
        let asked = async {
            let plain = || reqwest::Client::builder().no_proxy().timeout(PATIENCE);
            // The socket of a host on this machine lets its own user do everything.
            if token.is_none()
                && let Some(socket) = self.socket()
                && let Ok(answer) = plain().unix_socket(socket).build()?.request(method.clone(), &url).send().await
            {
                return Ok((answer.status(), answer.text().await?));
            }
            let mut request = plain().build()?.request(method, &url);
            if let Some(token) = &token {
                request = request.bearer_auth(token);
            }
            let answer = request.send().await?;
            Ok::<_, reqwest::Error>((answer.status(), answer.text().await?))
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| CommandError::new(Exit::Failed, error))?;
        match runtime.block_on(asked) {
            Ok((status, text)) if status.is_success() => Ok(text),
            Ok((status, text)) => {
                Err(CommandError::new(ErrorCode::HostRefuses, anyhow!("the host refuses ({status}): {text}")))
            }
            Err(error) => {
                let what = format!(
                    "no host answers at {}; is it running, and is its status.listen this? --config FILE takes it from the host's \
                     configuration",
                    self.address()
                );
                Err(CommandError::new(ErrorCode::HostUnreachable, anyhow::Error::new(error).context(what)))
            }
        }
    }

    fn token(&self) -> Result<Option<String>, CommandError> {
        let Some(path) = &self.token_file else { return Ok(None) };
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
        text.map(|text| Some(text.trim().to_owned())).map_err(|error| CommandError::new(Exit::Usage, error))
    }

    /// The host's Unix socket, unless another user can have put it there.
    fn socket(&self) -> Option<PathBuf> {
        let socket = socket_path(self.address()).filter(|_| self.is_here())?;
        match check_own_folder(socket.parent()?) {
            Ok(()) => socket.exists().then_some(socket),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => {
                let _ = writeln!(
                    std::io::stderr(),
                    "the Unix socket {} isn't used: {error}; another user could answer in the host's place",
                    socket.display()
                );
                None
            }
        }
    }

    fn is_here(&self) -> bool {
        let name = without_port(self.address()).trim_matches(['[', ']']).to_owned();
        name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

/// For a part of an address.
pub(super) fn escaped(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}
