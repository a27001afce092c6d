//! What may lie between the host and the store: a redirect, or a proxy that the environment names.
//!
//! Guarantees: asks nothing that changes anything; no message shows a proxy's user or password.

use std::time::Duration;

use url::Url;

use crate::config;

/// How long the question may take.
const ANSWER: Duration = Duration::from_secs(5);

/// Where the server at `store.url` redirects to; `None`: it doesn't, or can't be asked.
///
/// The client follows the redirect of a question, and turns a redirected write into a question: nothing would be written.
pub(super) async fn redirect(config: &config::StoreConfig) -> Option<String> {
    let builder = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    let client = builder.timeout(config.timeout.min(ANSWER)).build().ok()?;
    let url = format!("{}/api/v1/alive", config.url.trim_end_matches('/'));
    let answer = client.head(url).send().await.ok()?;
    if !answer.status().is_redirection() {
        return None;
    }
    let target = answer.headers().get("location")?.to_str().ok()?;
    let target = answer.url().join(target).ok()?;
    Some(format!(
        "{} redirects to {}, and what is written would get lost on the way; set store.url to that address",
        config.url,
        target.origin().ascii_serialization()
    ))
}

/// The proxy that requests to this URL may go through.
pub(super) fn proxy(url: &str) -> Option<String> {
    let variables = match Url::parse(url).ok()?.scheme() {
        "https" => ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"],
        _ => ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"],
    };
    let named = |name: &'static str| Some((name, std::env::var(name).ok().filter(|value| !value.is_empty())?));
    let (variable, proxy) = variables.into_iter().find_map(named)?;
    Some(describe(variable, &proxy))
}

fn describe(variable: &str, proxy: &str) -> String {
    let address = Url::parse(proxy).ok().and_then(|url| {
        let host = url.host_str()?.to_owned();
        Some(url.port().map_or(host.clone(), |port| format!("{host}:{port}")))
    });
    let address = address.map_or_else(String::new, |address| format!(" {address}"));
    format!(
        "the variable {variable} names a proxy{address}, which requests go through unless no_proxy lists the store's host"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxys_password_is_not_shown() {
        let text = describe("http_proxy", "http://user:secret@proxy.example.org:3128");
        assert!(text.contains("http_proxy names a proxy proxy.example.org:3128"), "{text}");
        assert!(!text.contains("secret") && !text.contains("user"), "{text}");
        assert!(describe("all_proxy", "no url").contains("all_proxy names a proxy, which"));
    }
}
