//! The ReductStore server as a child process.
//!
//! Guarantees: a started store is ready to be written to; `restart` keeps its data and its address.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::certificates::Authority;
use crate::process::{self, Process};

/// The version that `tests/setup` installs, unless `TESTBED_STORE` names another.
pub const VERSION: &str = "1.21.5";

const READY_WITHIN: Duration = Duration::from_secs(60);
const STOP_WITHIN: Duration = Duration::from_secs(20);

pub struct Store {
    /// Its disk, where it is a small one; given up before the data's folder is removed.
    disk: Option<SmallDisk>,
    data: TempDir,
    log: PathBuf,
    port: u16,
    token: Option<String>,
    environment: Vec<(String, String)>,
    /// Who signed its certificate, where the store speaks TLS.
    tls: Option<Authority>,
    process: Process,
}

impl Store {
    /// Starts a store without authentication.
    pub fn start() -> Result<Self> {
        Self::start_with(None, &[])
    }

    /// Starts a store, with a full-access token where one is given, and further `RS_…` variables.
    pub fn start_with(token: Option<&str>, environment: &[(&str, &str)]) -> Result<Self> {
        let environment = environment.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Self::start_in(process::data_folder("store")?, token, environment, None)
    }

    /// Starts a store that speaks TLS, with a certificate for 127.0.0.1 by an authority of its own, and perhaps a full-access token.
    pub fn start_tls(token: Option<&str>) -> Result<Self> {
        let tls = Authority::new()?;
        let own = tls.issue("store")?;
        let environment = vec![
            ("RS_CERT_PATH".into(), own.certificate.display().to_string()),
            ("RS_CERT_KEY_PATH".into(), own.key.display().to_string()),
        ];
        Self::start_in(process::data_folder("store")?, token, environment, Some(tls))
    }

    /// Starts a store whose disk has this many bytes. Only root may make one.
    pub fn start_on_disk_of(bytes: u64) -> Result<Self> {
        let data = process::data_folder("store")?;
        let disk = SmallDisk(data.path().to_owned());
        mount(&["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"], &disk.0)?;
        let mut store = Self::start_in(data, None, Vec::new(), None)?;
        store.disk = Some(disk);
        Ok(store)
    }

    /// Gives the small disk this many bytes.
    pub fn resize_disk(&self, bytes: u64) -> Result<()> {
        let disk = self.disk.as_ref().context("the store has a disk of its own")?;
        mount(&["-o", &format!("remount,size={bytes}")], &disk.0)
    }

    fn start_in(
        data: TempDir,
        token: Option<&str>,
        environment: Vec<(String, String)>,
        tls: Option<Authority>,
    ) -> Result<Self> {
        let log = process::new_log("store")?;
        let port = process::free_port()?;
        let token = token.map(str::to_owned);
        let process = Process::spawn("ReductStore", command(&data, port, token.as_deref(), &environment)?, &log)?;
        let mut store = Self { disk: None, data, log, port, token, environment, tls, process };
        store.wait_ready()?;
        Ok(store)
    }

    pub fn url(&self) -> String {
        format!("http{}://127.0.0.1:{}", if self.tls.is_some() { "s" } else { "" }, self.port)
    }

    /// The authority's certificate, where the store speaks TLS.
    pub fn ca(&self) -> Option<PathBuf> {
        self.tls.as_ref().map(Authority::ca)
    }

    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Sets the token that the store accepts from its next start on.
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

    /// Makes the write-ahead logs of a killed store unreadable, as a kill during a write to them does. Returns how many
    /// there were.
    pub fn tear_logs(&self) -> Result<usize> {
        let (mut torn, mut folders) = (0, vec![self.data.path().to_owned()]);
        while let Some(folder) = folders.pop() {
            for found in std::fs::read_dir(folder)? {
                let path = found?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "wal") {
                    std::fs::OpenOptions::new().write(true).open(path)?.set_len(0)?;
                    torn += 1;
                }
            }
        }
        Ok(torn)
    }

    /// Cuts the files of the newest block of each entry of a bucket to this length, so that the bytes of all records behind it
    /// are gone, as in a block from which records were removed. Returns how many there were.
    pub fn cut_newest_blocks(&self, bucket: &str, bytes: u64) -> Result<usize> {
        let (mut cut, mut folders) = (0, vec![self.data.path().join(bucket)]);
        while let Some(folder) = folders.pop() {
            let found: Vec<PathBuf> =
                std::fs::read_dir(folder)?.map(|found| Ok(found?.path())).collect::<Result<_>>()?;
            folders.extend(found.iter().filter(|path| path.is_dir()).cloned());
            let blocks = found.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "blk"));
            if let Some(newest) = blocks.max() {
                std::fs::OpenOptions::new().write(true).open(newest)?.set_len(bytes)?;
                cut += 1;
            }
        }
        Ok(cut)
    }

    /// A copy of the data of a store that was stopped.
    pub fn back_up(&self) -> Result<TempDir> {
        let backup = process::data_folder("backup")?;
        copy_folder(self.data.path(), backup.path())?;
        Ok(backup)
    }

    /// Gives a store that was stopped the data of a backup, and nothing else.
    pub fn restore(&self, backup: &TempDir) -> Result<()> {
        copy_folder(backup.path(), self.data.path())
    }

    /// Stops the store if it runs, and starts it again on the same port and data.
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.start_again()?;
        self.wait_ready()
    }

    /// Sets a variable that the store is given when it is started the next time.
    pub fn set_variable(&mut self, name: &str, value: &str) {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Starts the store again and doesn't wait until it is ready. What a kill left of the server's own bucket, in which no test looks, is
    /// removed, because the server would not start (trap 26).
    pub fn start_again(&mut self) -> Result<()> {
        let own = self.data.path().join("$system");
        if own.is_dir() && !own.join("bucket.settings").exists() {
            eprintln!("{} has no settings and is removed, so that ReductStore can start", own.display());
            std::fs::remove_dir_all(own)?;
        }
        let command = command(&self.data, self.port, self.token.as_deref(), &self.environment)?;
        self.process = Process::spawn("ReductStore", command, &self.log)?;
        Ok(())
    }

    /// Suspends the store (SIGSTOP): its connections stay open, and it does not answer.
    pub fn suspend(&mut self) -> Result<()> {
        self.process.signal(libc::SIGSTOP)
    }

    pub fn resume(&mut self) -> Result<()> {
        self.process.signal(libc::SIGCONT)
    }

    pub fn wait_ready(&mut self) -> Result<()> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        process::wait_for("ReductStore to be ready", READY_WITHIN, || {
            self.process.expect_running()?;
            let ready = match self.tls {
                None => http_status(address, "/api/v1/ready").is_ok_and(|status| status == 200),
                // The port is opened when the store is about to be ready.
                Some(_) => TcpStream::connect(address).is_ok(),
            };
            Ok(ready.then_some(()))
        })
    }
}

/// Makes `to` hold what `from` holds.
fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    for old in std::fs::read_dir(to)? {
        let old = old?.path();
        if old.is_dir() { std::fs::remove_dir_all(old)? } else { std::fs::remove_file(old)? }
    }
    let status = Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status()?;
    ensure!(status.success(), "cp ended with {status}");
    Ok(())
}

/// A mounted tmpfs.
struct SmallDisk(PathBuf);

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Its files may still be open.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn mount(args: &[&str], folder: &Path) -> Result<()> {
    let status = Command::new("mount").args(args).arg(folder).status()?;
    ensure!(
        status.success(),
        "mount {} {} ended with {status}; only root may do this",
        args.join(" "),
        folder.display()
    );
    Ok(())
}

/// A client with the settings that reading back needs.
pub fn client(url: &str, token: Option<&str>) -> Result<reduct_rs::ReductClient> {
    let builder = reduct_rs::ReductClient::builder().url(url).timeout(Duration::from_secs(60)).http1_only();
    // The client only speaks to stores on this machine, whose certificates it needn't check.
    let builder = builder.verify_ssl(false);
    let builder = match token {
        Some(token) => builder.api_token(token),
        None => builder,
    };
    builder.try_build().context("can't make a ReductStore client")
}

fn command(data: &TempDir, port: u16, token: Option<&str>, environment: &[(String, String)]) -> Result<Command> {
    let version = process::another_version("TESTBED_STORE").unwrap_or_else(|| VERSION.to_owned());
    let server = process::cache()?.join(format!("reductstore-{version}/bin/reductstore"));
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
