//! Where the configuration file says that its host is found, for commands that talk to a running host.
//!
//! Guarantees: only `status.listen` and `status.token_file` are read, so that a file that is wrong elsewhere, which may be why somebody looks
//! at the host, doesn't keep a command from it.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};

use super::{CommandError, Exit};

/// What the file says of its host.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct HostAddress {
    /// `None`: the file doesn't say it, and the default counts.
    pub address: Option<String>,
    pub token_file: Option<PathBuf>,
}

impl HostAddress {
    pub fn read(file: &Path) -> Result<Self, CommandError> {
        let text = std::fs::read_to_string(file).with_context(|| {
            format!("cannot read the configuration file {}; name the host with --status", file.display())
        });
        let folder = file.parent().unwrap_or(Path::new(""));
        text.and_then(|text| Self::parse(&text, folder).with_context(|| file.display().to_string()))
            .map_err(|error| CommandError::new(Exit::Usage, error))
    }

    fn parse(text: &str, folder: &Path) -> anyhow::Result<Self> {
        let table: toml::Table = toml::from_str(text).map_err(|error| {
            // Without the line that toml quotes: it may hold a token.
            anyhow!("it isn't valid TOML: {}; name the host with --status", error.message())
        })?;
        let of_status = |key: &str| match table.get("status").and_then(|status| status.get(key)) {
            None => Ok(None),
            Some(toml::Value::String(text)) => Ok(Some(text.trim().to_owned())),
            Some(_) => Err(anyhow!("status.{key} isn't a text there; name the host with --status")),
        };
        let address = of_status("listen")?;
        if address.as_deref() == Some("") {
            return Err(anyhow!("status.listen is \"\" there, so that nobody can ask this host"));
        }
        let token_file = of_status("token_file")?.map(|path| folder.join(path));
        Ok(Self { address: address.map(reachable), token_file })
    }
}

/// A host that listens at all addresses of the machine is found at its own.
fn reachable(address: String) -> String {
    match address.parse::<SocketAddr>() {
        Ok(SocketAddr::V4(all)) if all.ip().is_unspecified() => format!("{}:{}", Ipv4Addr::LOCALHOST, all.port()),
        Ok(SocketAddr::V6(all)) if all.ip().is_unspecified() => format!("[{}]:{}", Ipv6Addr::LOCALHOST, all.port()),
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_and_the_token_are_those_of_the_file() {
        let read = |text: &str| HostAddress::parse(text, Path::new("/etc/sink"));
        let found = read("wrong = true\n[status]\nlisten = \"0.0.0.0:9700\"\ntoken_file = \"token\"\n").unwrap();
        let token_file = Some("/etc/sink/token".into());
        assert_eq!(found, HostAddress { address: Some("127.0.0.1:9700".into()), token_file });
        assert_eq!(read("[kafka]\n").unwrap(), HostAddress::default());
        for (text, told) in
            [("[status]\nlisten = \"\"\n", "nobody can ask"), ("[status\n", "TOML"), ("[status]\nlisten = 1\n", "text")]
        {
            let error = format!("{:#}", read(text).unwrap_err());
            assert!(error.contains(told), "{text}: {error}");
        }
        let error = format!("{:#}", read("token = \"geheim\n").unwrap_err());
        assert!(error.contains("TOML") && !error.contains("geheim"), "{error}");
    }
}
