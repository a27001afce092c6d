//! A certificate authority that exists for one test, made by `openssl`.
//!
//! Guarantees: a certificate names 127.0.0.1 and is good for two days; nothing outside the temporary folder knows the authority.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::process;

pub struct Authority {
    folder: TempDir,
}

/// A certificate and its private key, in PEM.
pub struct Certificate {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    pub fn new() -> Result<Self> {
        let authority = Self { folder: process::data_folder("tls")? };
        authority.openssl(
            "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=testbed-authority -keyout ca.key -out ca.pem",
        )?;
        Ok(authority)
    }

    /// The authority's own certificate.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate for `CN=name`, for servers at 127.0.0.1 and for clients.
    pub fn issue(&self, name: &str) -> Result<Certificate> {
        std::fs::write(self.folder.path().join("names"), "subjectAltName=IP:127.0.0.1\n")?;
        self.openssl(&format!("req -newkey rsa:2048 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"))?;
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out {name}.pem"
        ))?;
        let file = |ending: &str| self.folder.path().join(format!("{name}.{ending}"));
        Ok(Certificate { certificate: file("pem"), key: file("key") })
    }

    fn openssl(&self, arguments: &str) -> Result<()> {
        let output = Command::new("openssl").args(arguments.split(' ')).current_dir(self.folder.path()).output();
        let output = output.context("can't start openssl: run tests/setup store")?;
        ensure!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

impl Certificate {
    /// Key and certificate in one file, as Kafka wants a keystore of type PEM.
    pub fn keystore(&self) -> Result<PathBuf> {
        let both = [std::fs::read(&self.key)?, std::fs::read(&self.certificate)?].concat();
        let path: &Path = &self.key.with_extension("keystore.pem");
        std::fs::write(path, both)?;
        Ok(path.to_owned())
    }
}
