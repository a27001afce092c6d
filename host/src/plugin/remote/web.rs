//! Requests to registries and web servers.
//!
//! Guarantees: each answer is read up to a bound and no further; at most five redirects are followed, none of them from TLS
//! to plain HTTP, and none tells its target the address that it came from; a request for a token is redirected to no other
//! server; a server whose certificate neither the system nor `registries.ca` vouches for gets no request.

use std::fmt;
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, RequestBuilder, Response, StatusCode};
use url::Url;

use super::error::FetchError;
use crate::config::{FetchRules, host_of, read_small};
use crate::record::text::one_line;

const REDIRECTS: usize = 5;
const CONNECT: Duration = Duration::from_secs(10);
/// Between two reads.
const SILENCE: Duration = Duration::from_secs(30);
/// Of what a server says about an error.
const SAID_BYTES: usize = 300;

/// Sends requests by the rules of the configuration.
pub struct Web {
    pub client: Client,
    /// For requests that hold a secret in their body.
    pub token_client: Client,
    plain_http: Vec<String>,
}

impl Web {
    pub fn new(rules: &FetchRules) -> Result<Self, FetchError> {
        // Two cryptography providers are compiled in, and then rustls chooses none by itself. Fails if one was chosen already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let setup = |error: &dyn fmt::Display| FetchError::Setup(error.to_string());
        let plain_http = rules.plain_http.clone();
        let policy = Policy::custom(move |attempt| {
            if attempt.previous().len() > REDIRECTS {
                return attempt.error(format!("it redirects more than {REDIRECTS} times"));
            }
            if attempt.url().scheme() == "https" || plain_http.contains(&host_of(attempt.url())) {
                return attempt.follow();
            }
            let text = format!("it redirects to {}, without TLS", host_of(attempt.url()));
            attempt.error(text)
        });
        let agent = concat!("reduct-sink/", env!("CARGO_PKG_VERSION"));
        // A redirect by 307 or 308 sends the body again, with the secret.
        let at_home = Policy::custom(|attempt| {
            let before = attempt.previous();
            let is_home = before.len() <= REDIRECTS && before.iter().all(|url| url.origin() == attempt.url().origin());
            if is_home { attempt.follow() } else { attempt.stop() }
        });
        let mut certificates = Vec::new();
        if let Some(path) = &rules.ca {
            let unusable = |error: &dyn fmt::Display| setup(&format!("registries.ca, {}: {error}", path.display()));
            let pem = read_small(path).map_err(|error| unusable(&error))?;
            certificates = Certificate::from_pem_bundle(&pem).map_err(|error| unusable(&error))?;
            if certificates.is_empty() {
                return Err(unusable(&"the file holds no certificate in PEM form"));
            }
        }
        let client = |policy: Policy| {
            // The address that a redirect comes from may hold a secret.
            let client = Client::builder().user_agent(agent).redirect(policy).referer(false);
            let client = client.connect_timeout(CONNECT).read_timeout(SILENCE);
            let client = client.tls_certs_merge(certificates.iter().cloned());
            client.build().map_err(|error| setup(&cause(&error)))
        };
        let (client, token_client) = (client(policy)?, client(at_home)?);
        Ok(Self { client, token_client, plain_http: rules.plain_http.clone() })
    }

    /// `https`, unless the configuration says otherwise for this `host:port`.
    pub fn scheme(&self, host: &str) -> &'static str {
        if self.plain_http.iter().any(|plain| plain == host) { "http" } else { "https" }
    }

    /// Whether this may be asked: by TLS, or as the configuration allows.
    pub fn allows(&self, url: &Url) -> bool {
        match url.scheme() {
            "https" => true,
            "http" => self.plain_http.contains(&host_of(url)),
            _ => false,
        }
    }
}

/// Sends it. An answer of any status is one.
pub async fn send(request: RequestBuilder, host: &str) -> Result<Response, FetchError> {
    request.send().await.map_err(|error| unreachable(&error, host))
}

/// The answer's body, of at most that many bytes.
pub async fn body(mut response: Response, host: &str, what: &'static str, most: u64) -> Result<Vec<u8>, FetchError> {
    let too_long = || FetchError::TooLong { what, most };
    if response.content_length().is_some_and(|length| length > most) {
        return Err(too_long());
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(&error, host))? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() as u64 > most {
            return Err(too_long());
        }
    }
    Ok(bytes)
}

/// The error that an answer without success is. `asked_as`: whether credentials were sent.
pub async fn refusal(response: Response, host: &str, has_credentials: bool) -> FetchError {
    let (status, host) = (response.status(), host.to_owned());
    let said = match body(response, &host, "the error", SAID_BYTES as u64 * 10).await {
        Ok(body) if !body.is_empty() => format!(" and says: {}", one_line(&String::from_utf8_lossy(&body), SAID_BYTES)),
        _ => String::new(),
    };
    let number = status.as_u16();
    match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => FetchError::Missing { host, status: number },
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            let with = if has_credentials { "to Docker's credentials" } else { "without credentials" };
            FetchError::Refused { host, status: number, with, said }
        }
        _ => FetchError::Status { host, status: number, said },
    }
}

fn unreachable(error: &reqwest::Error, host: &str) -> FetchError {
    FetchError::Unreachable { host: host.to_owned(), why: cause(error) }
}

/// The innermost causes; the outer ones repeat the address, which may hold a secret.
fn cause(error: &reqwest::Error) -> String {
    let mut causes = Vec::new();
    let mut inner = std::error::Error::source(error);
    while let Some(cause) = inner {
        causes.push(cause.to_string());
        inner = cause.source();
    }
    match causes.split_last() {
        Some((last, outer)) => {
            outer.first().filter(|first| *first != last).map_or(last.clone(), |first| format!("{first}: {last}"))
        }
        None if error.is_timeout() => "it is silent for too long".into(),
        None => error.to_string(),
    }
}
