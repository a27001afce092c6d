//! Why a component can't be fetched.

use std::time::Duration;

use crate::plugin::Digest;

/// Why a component can't be fetched. Its text continues a sentence that begins with the plugin's address.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says it")]
pub enum FetchError {
    #[error("can't be fetched from {host}: {why}")]
    Unreachable { host: String, why: String },
    #[error("wasn't there completely after {0:?}")]
    TimedOut(Duration),
    #[error("isn't at {host}: it answers {status}")]
    Missing { host: String, status: u16 },
    #[error("isn't given to us by {host}, which answers {status} {with}{said}")]
    Refused { host: String, status: u16, with: &'static str, said: String },
    #[error("can't be fetched: {host} answers {status}{said}")]
    Status { host: String, status: u16, said: String },
    #[error("can't be fetched: {what} is longer than {most} bytes")]
    TooLong { what: &'static str, most: u64 },
    #[error("isn't what was asked for: {what} has the sha256 {found}, expected {expected}")]
    OtherBytes { what: &'static str, found: Digest, expected: String },
    #[error("isn't an artifact with a WebAssembly component: {0}")]
    NotAnArtifact(String),
    #[error("can't be fetched: {host} wants credentials, and Docker's can't be used: {why}")]
    Credentials { host: String, why: String },
    #[error("can't be fetched: {0}")]
    Setup(String),
}

impl FetchError {
    /// What the operator can do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } | Self::Status { .. } => {
                "check the address, the network and the certificate (`registries.ca`), or try again later"
            }
            Self::TimedOut(_) => "try again, or raise `registries.timeout`",
            Self::Missing { .. } => "check the name and the tag or digest",
            Self::Refused { .. } => {
                "run `docker login` for this host as the host's user, or name the folder of Docker's config.json by DOCKER_CONFIG"
            }
            Self::TooLong { .. } => "make it smaller (strip it), or raise the plugin's `limits.file_size`",
            Self::OtherBytes { .. } => "find out who changed it, or change the digest once you trust the new one",
            Self::NotAnArtifact(_) => "push the component with `reduct-sink plugin push` or `wkg oci push`",
            Self::Credentials { .. } => {
                "correct Docker's config.json (`docker login` writes it) or its credential helper"
            }
            Self::Setup(_) => "correct the table `registries`",
        }
    }

    /// Whether there was no answer, so that another time there may be one; meanwhile what was known before may be used.
    pub fn is_no_answer(&self) -> bool {
        !matches!(
            self,
            Self::Missing { .. }
                | Self::TooLong { .. }
                | Self::OtherBytes { .. }
                | Self::NotAnArtifact(_)
                | Self::Setup(_)
        )
    }

    /// Whether it may be there later though nothing changes here: the registry may be back, or somebody may push it.
    pub fn may_be_there_later(&self) -> bool {
        self.is_no_answer() || matches!(self, Self::Missing { .. })
    }
}
