//! What a valid configuration risks: one warning for each risk, on `run` and on `check`.
//!
//! Guarantees: no warning shows a secret; a warning names the key and what would be right.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use url::{Host, Url};

use super::Config;
use super::problem::ConfigLocation;
use super::value::{ConfigValue, Value};

/// The rights of users who are neither the owner nor in the file's group.
const OTHERS_MAY_READ: u32 = 0o004;

/// The texts of librdkafka's properties and the token as they were found, before they are validated.
pub fn of_texts(properties: &BTreeMap<String, ConfigValue>, token: Option<&ConfigValue>) -> Vec<String> {
    let properties = properties.iter().map(|(name, found)| (format!("kafka.properties.{name}"), found));
    let token = token.map(|found| ("store.token".to_owned(), found));
    let mut warnings = Vec::new();
    for (key, found) in properties.chain(token) {
        let Value::Text(text) = &found.value else { continue };
        if text.contains("${") && !found.is_hidden() {
            warnings.push(format!(
                "{}: {key}: the value contains `${{`, which is not replaced; write {{ env = \"NAME\" }} for a variable",
                found.location
            ));
        }
        if text.ends_with(['\n', '\r', ' ', '\t']) {
            warnings.push(format!(
                "{}: {key}: the value ends with a line break or a blank, which is a part of it; remove it if it isn't meant",
                found.location
            ));
        }
    }
    warnings
}

/// What the validated configuration risks.
pub fn of_config(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    if !config.store.discard {
        of_store(config, &mut warnings);
    }
    of_kafka(config, &mut warnings);
    warnings
}

fn of_store(config: &Config, warnings: &mut Vec<String>) {
    let url = Url::parse(&config.store.url).ok();
    let is_http = url.as_ref().is_some_and(|url| url.scheme() == "http");
    let is_here = url.as_ref().and_then(Url::host).is_some_and(|host| match host {
        Host::Domain(name) => is_this_machine(name),
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    });
    if is_http && !is_here && config.store.token.is_some() {
        warnings.push(
            "store.url: the access token goes over http:// to another machine, where anybody on the way can read it; use \
             https://"
                .into(),
        );
    }
    if !config.store.verify_tls {
        warnings.push(
            "store.tls.verify = false: any server that answers is trusted with the token and the records; set store.tls.ca \
             instead"
                .into(),
        );
    }
}

fn of_kafka(config: &Config, warnings: &mut Vec<String>) {
    let protocol = config.kafka.properties.get("security.protocol").map(|protocol| protocol.to_ascii_lowercase());
    let goes_elsewhere = config.kafka.brokers.split(',').any(|broker| !is_this_machine(host_of(broker)));
    if !goes_elsewhere || config.kafka.brokers.to_ascii_lowercase().contains("ssl://") {
        return;
    }
    match protocol.as_deref() {
        Some("sasl_plaintext") => warnings.push(
            "kafka.properties.security.protocol = \"SASL_PLAINTEXT\": the records, and with SASL/PLAIN the password, go \
             unencrypted to another machine; use SASL_SSL"
                .into(),
        ),
        None | Some("plaintext") => warnings.push(
            "kafka.brokers: the records come unencrypted and unauthenticated from another machine; set security.protocol \
             in kafka.properties if the brokers offer TLS"
                .into(),
        ),
        _ => {}
    }
}

/// The host of `protocol://host:port`, `host:port` or `[address]:port`.
fn host_of(broker: &str) -> &str {
    let address = broker.split_once("://").map_or(broker, |(_, address)| address);
    match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((inside, _)) => inside,
        None => address.rsplit_once(':').map_or(address, |(host, _)| host),
    }
}

fn is_this_machine(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Files that hold secrets and that other users may read.
pub fn of_files<'a>(files: impl Iterator<Item = &'a Path>) -> Vec<String> {
    let may_be_read = |path: &&Path| std::fs::metadata(path).is_ok_and(|found| found.mode() & OTHERS_MAY_READ != 0);
    let warning = |path: &Path| {
        format!("{} holds a secret and can be read by every user of this machine; chmod o-r", path.display())
    };
    files.filter(may_be_read).map(warning).collect()
}

/// Whether a configuration file that sets these holds a secret itself.
pub fn holds_secret(properties: &BTreeMap<String, ConfigValue>, token: Option<&ConfigValue>) -> bool {
    const SECRETS: [&str; 5] = ["password", "secret", "passphrase", ".pem", "sasl.jaas"];
    let is_secret = |name: &str| SECRETS.iter().any(|secret| name.contains(secret));
    let stands_here = |found: &ConfigValue| matches!(found.location, ConfigLocation::File { .. }) && !found.is_hidden();
    properties.iter().any(|(name, found)| is_secret(name) && stands_here(found)) || token.is_some_and(stands_here)
}

/// A process that runs as root harms more than it needs to when a plugin or a server finds a way into it.
pub fn of_process() -> Option<String> {
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    is_root
        .then(|| "the process has root's rights, which reduct-sink never needs; start it as a user of its own".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_brokers_are_recognised() {
        for (broker, host, is_here) in [
            ("localhost:9092", "localhost", true),
            ("127.0.0.1:9092", "127.0.0.1", true),
            ("[::1]:9092", "::1", true),
            ("SASL_PLAINTEXT://kafka:9092", "kafka", false),
            ("10.0.0.1", "10.0.0.1", false),
        ] {
            assert_eq!((host_of(broker), is_this_machine(host)), (host, is_here), "{broker}");
        }
    }
}
