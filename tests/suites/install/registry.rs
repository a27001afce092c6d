//! Debian's `docker-registry`, as a test starts it.
//!
//! Guarantees: a registry that was stopped is started again at its address, with what it held; what it keeps of a pushed file can
//! be found, and so be changed behind its back.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use reduct_sink_testbed::certificates::Certificate;
use reduct_sink_testbed::process::{Process, cache, data_folder, free_port, new_log, wait_for};
use tempfile::TempDir;

use super::fetching::BOUND;

/// Of the user `sink` with the password `open sesame`, by bcrypt, as `htpasswd -B` writes it.
const HTPASSWD: &str = "sink:$2b$04$MQHD9gUkG0/Ng5FAzeftU.W7CaZWUggSCs8hDudzCSxT8cAvCXwoS\n";
/// The same for Docker's configuration: `printf 'sink:open sesame' | base64`.
pub const DOCKER_AUTH: &str = "c2luazpvcGVuIHNlc2FtZQ==";

/// A registry, which can be stopped and started again where it was.
pub struct Registry {
    folder: TempDir,
    pub host: String,
    process: Process,
}

impl Registry {
    pub fn plain() -> Result<Self> {
        Self::new(None)
    }

    /// With TLS, and with a password.
    pub fn guarded(certificate: &Certificate) -> Result<Self> {
        Self::new(Some(certificate))
    }

    fn new(guard: Option<&Certificate>) -> Result<Self> {
        let folder = data_folder("registry")?;
        let host = format!("127.0.0.1:{}", free_port()?);
        let path = folder.path().display();
        let mut config = format!(
            "version: 0.1\nlog: {{ level: warn }}\nstorage: {{ filesystem: {{ rootdirectory: {path}/data }} }}\n\
             http:\n  addr: {host}\n"
        );
        if let Some(Certificate { certificate, key }) = guard {
            let (certificate, key) = (certificate.display(), key.display());
            config.push_str(&format!("  tls: {{ certificate: {certificate}, key: {key} }}\n"));
            config.push_str(&format!("auth: {{ htpasswd: {{ realm: test, path: {path}/htpasswd }} }}\n"));
            fs::write(folder.path().join("htpasswd"), HTPASSWD)?;
        }
        fs::write(folder.path().join("config.yml"), config)?;
        let process = Self::start(folder.path(), &host)?;
        Ok(Self { folder, host, process })
    }

    fn start(folder: &Path, host: &str) -> Result<Process> {
        let program = cache()?.join("registry/usr/bin/docker-registry");
        let mut command = Command::new(program);
        command.arg("serve").arg(folder.join("config.yml")).env("OTEL_TRACES_EXPORTER", "none");
        let mut process = Process::spawn("docker-registry", command, &new_log("registry")?)
            .context("docker-registry isn't installed: run tests/setup registry")?;
        wait_for("the registry", BOUND, || {
            process.expect_running()?;
            Ok(std::net::TcpStream::connect(host).is_ok().then_some(()))
        })?;
        Ok(process)
    }

    pub fn stop(&mut self) -> Result<()> {
        self.process.kill9().map(drop)
    }

    pub fn start_again(&mut self) -> Result<()> {
        self.process = Self::start(self.folder.path(), &self.host)?;
        Ok(())
    }

    pub fn address(&self, name: &str) -> String {
        format!("oci://{}/{name}", self.host)
    }

    /// Where it keeps the bytes of this sha256.
    pub fn blob(&self, sha256: &str) -> PathBuf {
        let below = format!("data/docker/registry/v2/blobs/sha256/{}/{sha256}/data", &sha256[..2]);
        self.folder.path().join(below)
    }
}
