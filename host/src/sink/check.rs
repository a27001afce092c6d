//! Asks ReductStore for what `check` wants to know, writing nothing.
//!
//! Guarantees: every way in which a store can refuse us has its own error with its remedy; a panic inside the client
//! becomes an error.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use reduct_rs::{ErrorCode, Permissions, ReductError};
use thiserror::Error;
use tokio::runtime;

use super::connections::Connection;
use super::store::{OLDEST, Store, is_supported};
use super::{intermediaries, unreachable};
use crate::config;

/// A store that the sink could write to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreInfo {
    /// The server's version.
    pub version: String,
    /// The name of our token, as the store knows it.
    pub token: String,
    /// `false`: the sink will create it.
    pub bucket_exists: bool,
}

/// Why the store can't be used.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "each message says it")]
pub enum StoreCheckError {
    #[error("the client can't be set up: {0}; check store.tls and store.url")]
    Client(String),
    #[error("{url} can't be reached: {reason}; {remedy}")]
    Unreachable { url: String, reason: String, remedy: &'static str },
    #[error("no answer from {url} within {timeout:?}; check store.url, or raise store.timeout")]
    Timeout { url: String, timeout: Duration },
    #[error("what answers at {url} isn't a ReductStore that we can talk to: {reason}; check store.url")]
    NotAStore { url: String, reason: String },
    #[error("the store wants a token and none is set; set store.token, store.token_file or REDUCT_SINK_TOKEN")]
    NoToken,
    #[error("the store refuses the token: {0}; check store.token, store.token_file or REDUCT_SINK_TOKEN")]
    BadToken(String),
    #[error("the token {token:?} lacks {} to the bucket {bucket:?}; give it that, or take another token", .missing.join(" and "))]
    Denied { token: String, bucket: String, missing: Vec<&'static str> },
    #[error(
        "there is no bucket {bucket:?}, and the token {token:?} may not create it; \
         create the bucket, or take a token with full access"
    )]
    MayNotCreate { token: String, bucket: String },
    #[error("this is ReductStore {version}, and {OLDEST} or newer is needed; update the server")]
    TooOld { version: String },
    /// Another address answers for it.
    #[error("{0}")]
    Redirected(String),
    #[error("the store answers: {0}")]
    Store(String),
}

/// Blocks; don't call it from an async task.
pub fn check(config: &config::StoreConfig) -> Result<StoreInfo, StoreCheckError> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| StoreCheckError::Client(error.to_string()))?;
    runtime.block_on(ask(config))
}

async fn ask(config: &config::StoreConfig) -> Result<StoreInfo, StoreCheckError> {
    let store = Store::new(config).map_err(|error| StoreCheckError::Client(error.to_string()))?;
    let to = store.connection().map_err(|error| StoreCheckError::Client(error.to_string()))?;

    if let Some(redirected) = intermediaries::redirect(config).await {
        return Err(StoreCheckError::Redirected(redirected));
    }
    request(&to, config, |to| async move { to.client.alive().await }).await?;
    let me = request(&to, config, |to| async move { to.client.me().await }).await?;
    let info = request(&to, config, |to| async move { to.client.server_info().await }).await;
    if let Ok(info) = &info
        && !is_supported(&info.version)
    {
        return Err(StoreCheckError::TooOld { version: info.version.clone() });
    }
    let bucket = config.bucket.clone();
    let found = request(&to, config, |to| async move {
        match to.client.get_bucket(&bucket).await {
            Ok(_) => Ok(true),
            Err(error) if error.status == ErrorCode::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    });
    let bucket_exists = found.await?;

    let permissions = me.permissions.unwrap_or_default();
    if !bucket_exists && !permissions.full_access {
        return Err(StoreCheckError::MayNotCreate { token: me.name, bucket: config.bucket.clone() });
    }
    let missing = missing_rights(&permissions, &config.bucket);
    if !missing.is_empty() {
        return Err(StoreCheckError::Denied { token: me.name, bucket: config.bucket.clone(), missing });
    }
    // Any token may ask for the version, but it isn't worth failing over.
    let version = info.map_or_else(|_| "of unknown version".into(), |info| info.version);
    Ok(StoreInfo { version, token: me.name, bucket_exists })
}

/// One request in a task of its own, so that a panic inside the client ends only that.
async fn request<T, F>(
    to: &Arc<Connection>,
    config: &config::StoreConfig,
    work: impl FnOnce(Arc<Connection>) -> F,
) -> Result<T, StoreCheckError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, ReductError>> + Send + 'static,
{
    let answer = tokio::spawn(work(Arc::clone(to))).await;
    let answer =
        answer.map_err(|error| StoreCheckError::NotAStore { url: config.url.clone(), reason: error.to_string() })?;
    match answer {
        Ok(answer) => Ok(answer),
        Err(error) => Err(explain(&error, config).await),
    }
}

async fn explain(error: &ReductError, config: &config::StoreConfig) -> StoreCheckError {
    let url = || config.url.clone();
    let text = error.message.clone();
    match error.status {
        ErrorCode::ConnectionError => {
            let mut reason = unreachable::why(config).await;
            if let Some(proxy) = intermediaries::proxy(&config.url) {
                reason = format!("{reason}; {proxy}");
            }
            let remedy = unreachable::remedy_in(&reason)
                .unwrap_or("check store.url, and that ReductStore runs and can be reached from here");
            StoreCheckError::Unreachable { url: url(), reason, remedy }
        }
        ErrorCode::Timeout => StoreCheckError::Timeout { url: url(), timeout: config.timeout },
        ErrorCode::Unauthorized if config.token.is_none() => StoreCheckError::NoToken,
        ErrorCode::Unauthorized => StoreCheckError::BadToken(text),
        // The client's own code for an answer that it can't make sense of.
        ErrorCode::Unknown => StoreCheckError::NotAStore { url: url(), reason: text },
        // ReductStore says what is wrong in a header of its own; what hasn't got one is something else.
        status if text == "Unknown" => {
            StoreCheckError::NotAStore { url: url(), reason: format!("it answers {}", status as i16) }
        }
        status => StoreCheckError::Store(format!("{text} ({})", status as i16)),
    }
}

/// A right to `prefix*` covers every bucket whose name begins so.
fn missing_rights(permissions: &Permissions, bucket: &str) -> Vec<&'static str> {
    let covers = |rights: &[String]| {
        let covered = |right: &String| match right.strip_suffix('*') {
            Some(prefix) => bucket.starts_with(prefix),
            None => right == bucket,
        };
        permissions.full_access || rights.iter().any(covered)
    };
    let rights = [("write access", &permissions.write), ("read access", &permissions.read)];
    rights.into_iter().filter(|(_, rights)| !covers(rights)).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_cover_buckets_by_name_prefix_or_fully() {
        let of = |full_access, read: &[&str], write: &[&str]| Permissions {
            full_access,
            read: read.iter().map(ToString::to_string).collect(),
            write: write.iter().map(ToString::to_string).collect(),
        };
        assert_eq!(missing_rights(&of(true, &[], &[]), "kafka"), Vec::<&str>::new());
        assert_eq!(missing_rights(&of(false, &["kafka"], &["ka*"]), "kafka"), Vec::<&str>::new());
        assert_eq!(missing_rights(&of(false, &[], &["kafka"]), "kafka"), ["read access"]);
        assert_eq!(missing_rights(&of(false, &["kafk"], &["b*"]), "kafka"), ["write access", "read access"]);
    }
}
