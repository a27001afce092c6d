//! The ReductStore server as a child process.
//!
//! Guarantees: a started store is ready to be written to; `restart` finds the data and the address of before.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::process::{self, Process};

/// The version that `tests/setup` installs.
pub const VERSION: &str = "1.21.5";

const READY_WITHIN: Duration = Duration::from_secs(60);
const STOP_WITHIN: Duration = Duration::from_secs(20);

pub struct Store {
    data: TempDir,
    log: PathBuf,
    port: u16,
    token: Option<String>,
    environment: Vec<(String, String)>,
    process: Process,
}

impl Store {
    /// Starts a store that asks nobody who they are.
    pub fn start() -> Result<Self> {
        Self::start_with(None, &[])
    }

    /// Starts a store, with a full-access token where one is given, and further `RS_…` variables.
    pub fn start_with(token: Option<&str>, environment: &[(&str, &str)]) -> Result<Self> {
        let data = process::data_folder("store")?;
        let log = process::new_log("store")?;
        let port = process::free_port()?;
        let environment: Vec<_> = environment.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let token = token.map(str::to_owned);
        let process = Process::spawn("ReductStore", command(&data, port, token.as_deref(), &environment)?, &log)?;
        let mut store = Self { data, log, port, token, environment, process };
        store.wait_ready()?;
        Ok(store)
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// The token that counts from the next start on.
    pub fn set_token(&mut self, token: &str) {
        self.token = Some(token.to_owned());
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// A client of this store; make one per runtime.
    pub fn client(&self) -> Result<reduct_rs::ReductClient> {
        client(&self.url(), self.token())
    }

    pub fn stop(&mut self) -> Result<()> {
        self.process.stop(STOP_WITHIN)?;
        Ok(())
    }

    pub fn kill9(&mut self) -> Result<()> {
        self.process.kill9()?;
        Ok(())
    }

    /// Starts the store again on its port and data; one that still runs is stopped first.
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.start_again()?;
        self.wait_ready()
    }

    /// Starts the store again and doesn't wait until it is ready.
    pub fn start_again(&mut self) -> Result<()> {
        let command = command(&self.data, self.port, self.token.as_deref(), &self.environment)?;
        self.process = Process::spawn("ReductStore", command, &self.log)?;
        Ok(())
    }

    /// Holds the store as it is (SIGSTOP): its connections stay open and nothing answers.
    pub fn pause(&mut self) -> Result<()> {
        self.process.signal(libc::SIGSTOP)
    }

    pub fn resume(&mut self) -> Result<()> {
        self.process.signal(libc::SIGCONT)
    }

    pub fn wait_ready(&mut self) -> Result<()> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        process::wait_for("ReductStore to be ready", READY_WITHIN, || {
            self.process.expect_running()?;
            Ok(http_status(address, "/api/v1/ready").ok().filter(|&status| status == 200).map(|_| ()))
        })
    }
}

/// A client with the settings that reading back needs.
pub fn client(url: &str, token: Option<&str>) -> Result<reduct_rs::ReductClient> {
    let builder = reduct_rs::ReductClient::builder().url(url).timeout(Duration::from_secs(60)).http1_only();
    let builder = match token {
        Some(token) => builder.api_token(token),
        None => builder,
    };
    builder.try_build().context("can't make a ReductStore client")
}

fn command(data: &TempDir, port: u16, token: Option<&str>, environment: &[(String, String)]) -> Result<Command> {
    let server = process::cache()?.join(format!("reductstore-{VERSION}/bin/reductstore"));
    ensure!(server.is_file(), "the ReductStore server isn't in {}: run tests/setup store", server.display());
    let mut command = Command::new(server);
    command
        .env("RS_HOST", "127.0.0.1")
        .env("RS_PORT", port.to_string())
        .env("RS_DATA_PATH", data.path())
        .env("RS_LOG_LEVEL", "INFO");
    match token {
        Some(token) => command.env("RS_API_TOKEN", token),
        None => command.env("RS_DISABLE_AUTH", "true"),
    };
    command.envs(environment.iter().map(|(k, v)| (k, v)));
    Ok(command)
}

fn http_status(address: SocketAddr, path: &str) -> Result<u16> {
    let bound = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&address, bound)?;
    stream.set_read_timeout(Some(bound))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer);
    text.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no HTTP status")
}
