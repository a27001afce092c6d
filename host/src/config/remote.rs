//! Where plugins come from that are no files: OCI registries and web servers.
//!
//! Guarantees: an address is taken only if it says which bytes are meant, by a digest or by a tag that the configuration
//! follows; nothing in it is guessed, neither a registry nor a tag; it holds no password.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::problem::ConfigProblem;
use super::reader::{KeyReader, defaults, plain_text};
use super::value::Value;

/// A component that is fetched, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemotePlugin {
    /// What is fetched.
    pub address: RemoteAddress,
    /// How often a tag is looked at; `None`: only when the plugin is loaded.
    pub follow: Option<Duration>,
    /// What holds for all that is fetched.
    pub rules: FetchRules,
}

/// What holds for everything that is fetched: the table `[registries]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchRules {
    /// PEM file of certificate authorities beside the system's.
    pub ca: Option<PathBuf>,
    /// `host` or `host:port` that are asked without TLS.
    pub plain_http: Vec<String>,
    /// From the first request to the last byte.
    pub timeout: Duration,
}

/// Where a component is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemoteAddress {
    /// In an OCI registry, as an artifact with one layer of the type `application/wasm`.
    Oci(OciAddress),
    /// At a web server.
    Web(WebAddress),
}

/// `oci://HOST[:PORT]/NAME[:TAG][@sha256:DIGEST]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OciAddress {
    /// `host` or `host:port` of the registry.
    pub registry: String,
    /// The repository.
    pub repository: String,
    /// The tag; of no consequence beside a digest.
    pub tag: Option<String>,
    /// The digest of the manifest, 64 hexadecimal digits in small letters.
    pub digest: Option<String>,
}

/// `https://HOST/PATH#sha256=DIGEST`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebAddress {
    /// Without the digest.
    pub url: Url,
    /// The file's digest, 64 hexadecimal digits in small letters.
    pub sha256: Option<String>,
}

impl Default for FetchRules {
    fn default() -> Self {
        defaults(fetch_rules)
    }
}

impl RemoteAddress {
    /// Whether a text that stands where a path may stand is meant as an address.
    pub fn is_meant(text: &str) -> bool {
        text.split_once("://").is_some_and(|(scheme, _)| {
            !scheme.is_empty() && scheme.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '+')
        })
    }

    /// Fails with what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.split_once("://") {
            Some(("oci", rest)) => OciAddress::parse(rest).map(Self::Oci),
            Some(("https" | "http", _)) => WebAddress::parse(text).map(Self::Web),
            Some((scheme, _)) => {
                Err(format!("a file, or an address that begins with oci:// or https://, not {scheme}://"))
            }
            None => Err("an address that begins with oci:// or https://".into()),
        }
    }

    /// `host` or `host:port`, as `registries.plain_http` lists them.
    pub fn host(&self) -> String {
        match self {
            Self::Oci(oci) => oci.registry.clone(),
            Self::Web(web) => host_of(&web.url),
        }
    }

    /// The last part of its name, which a plugin is called after.
    pub fn last_name(&self) -> &str {
        match self {
            Self::Oci(oci) => oci.repository.rsplit('/').next().unwrap_or_default(),
            Self::Web(web) => web.url.path().rsplit('/').next().unwrap_or_default(),
        }
    }

    /// Whether it names the only bytes that are meant.
    pub fn has_digest(&self) -> bool {
        match self {
            Self::Oci(oci) => oci.digest.is_some(),
            Self::Web(web) => web.sha256.is_some(),
        }
    }
}

/// `host`, or `host:port` where the port isn't the scheme's own.
pub fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

impl OciAddress {
    fn parse(rest: &str) -> Result<Self, String> {
        const FORM: &str = "oci://HOST/NAME@sha256:DIGEST, such as \"oci://ghcr.io/acme/relabel@sha256:9f86…\"";
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => {
                let hex = digest.strip_prefix("sha256:").and_then(sha256_digits);
                (rest, Some(hex.ok_or("a digest of the form sha256: and 64 hexadecimal digits behind the @")?))
            }
            None => (rest, None),
        };
        let (registry, path) = rest.split_once('/').ok_or(FORM)?;
        if !is_registry(registry) {
            return Err("a registry's host before the first /, such as ghcr.io or localhost:5000".into());
        }
        let (repository, tag) = match path.split_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (path, None),
        };
        if !is_repository(repository) {
            return Err("a repository of small letters, digits, `.`, `_`, `-` and `/` behind the registry".into());
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err("a tag of at most 128 letters, digits, `_`, `.` and `-` behind the colon".into());
        }
        if tag.is_none() && digest.is_none() {
            return Err(FORM.into());
        }
        Ok(Self {
            registry: registry.to_ascii_lowercase(),
            repository: repository.into(),
            tag: tag.map(Into::into),
            digest,
        })
    }
}

impl WebAddress {
    fn parse(text: &str) -> Result<Self, String> {
        const FORM: &str = "https://HOST/PATH, with #sha256= and the file's sha256 behind it";
        let mut url = Url::parse(text).map_err(|_| FORM)?;
        if url.host_str().is_none_or(str::is_empty) || url.path().ends_with('/') {
            return Err(FORM.into());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("an address without a user's name or password in it".into());
        }
        let sha256 = match url.fragment() {
            Some(fragment) => {
                let hex = fragment.strip_prefix("sha256=").and_then(sha256_digits);
                Some(hex.ok_or("sha256= and 64 hexadecimal digits behind the #")?)
            }
            None => None,
        };
        url.set_fragment(None);
        Ok(Self { url, sha256 })
    }
}

/// A plugin that is fetched. What it is must be certain: by a digest, or by a tag that is to be followed.
pub(super) fn remote_plugin(
    reader: &mut KeyReader<'_>,
    text: &str,
    follow: Option<Duration>,
    rules: &FetchRules,
) -> Option<RemotePlugin> {
    const PATH: &str = "plugins.path";
    let found = reader.find(PATH)?;
    let wrong = |reader: &mut KeyReader<'_>, text: &str| {
        reader.problems.push(ConfigProblem::at(&found.location, PATH, text.to_owned()));
        None
    };
    let address = match RemoteAddress::parse(text) {
        Ok(address) => address,
        Err(expected) => return wrong(reader, &format!("found an address that isn't right, expected {expected}")),
    };
    if let RemoteAddress::Web(web) = &address
        && web.url.scheme() == "http"
        && !rules.plain_http.contains(&address.host())
    {
        let host = address.host();
        let text = format!("found http://, expected https://, or {host:?} in `registries.plain_http`");
        return wrong(reader, &text);
    }
    let is_pinned = address.has_digest() || reader.find("plugins.sha256").is_some();
    if is_pinned {
        if let Some(follow) = reader.find("plugins.follow") {
            reader.reject("plugins.follow", follow, "none beside a digest: what it names never changes");
        }
    } else if follow.is_none() {
        let text = match &address {
            RemoteAddress::Oci(_) => {
                "found a tag, which may come to mean anything: add the digest (`@sha256:…`; `reduct-sink plugin inspect` \
                 shows it), set `sha256`, or follow the tag with `follow = \"1m\"`"
            }
            RemoteAddress::Web(_) => "found no digest: add `#sha256=` and the file's sha256, or set `sha256`",
        };
        return wrong(reader, text);
    } else if let RemoteAddress::Web(_) = &address {
        let text = "found no digest: add `#sha256=` and the file's sha256; only a tag of a registry can be followed";
        return wrong(reader, text);
    }
    Some(RemotePlugin { address, follow, rules: rules.clone() })
}

/// How plugins are fetched that are no files.
pub(super) fn fetch_rules(reader: &mut KeyReader<'_>) -> FetchRules {
    let expected = "a list of registries and web servers, each `host` or `host:port`, without http://";
    let plain_http = reader.parsed("registries.plain_http", expected, |found| match &found.value {
        Value::List(items) => {
            let host = |item| Some(plain_text(item)?.to_ascii_lowercase()).filter(|host| is_registry(host));
            items.iter().map(host).collect::<Option<Vec<String>>>()
        }
        _ => None,
    });
    FetchRules {
        ca: reader.path("registries.ca"),
        plain_http: plain_http.unwrap_or_default(),
        timeout: reader.duration("registries.timeout"),
    }
}

/// 64 hexadecimal digits, in small letters.
pub(super) fn sha256_digits(text: &str) -> Option<String> {
    (text.len() == 64 && text.bytes().all(|digit| digit.is_ascii_hexdigit())).then(|| text.to_ascii_lowercase())
}

/// `host` or `host:port`. A name without a dot or a port could be a repository of a registry that isn't named.
fn is_registry(text: &str) -> bool {
    let named = text.contains(['.', ':']) || text == "localhost";
    named
        && !text.contains(['/', '@', '?', '#'])
        && Url::parse(&format!("https://{text}/")).is_ok_and(|url| {
            url.host_str().is_some_and(|host| text.to_ascii_lowercase().starts_with(host)) && url.path() == "/"
        })
}

/// As the distribution specification has it: parts of small letters and digits, with separators between.
fn is_repository(text: &str) -> bool {
    let part = |part: &str| {
        let is_letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        part.starts_with(is_letter)
            && part.ends_with(is_letter)
            && part.chars().all(|c| is_letter(c) || "._-".contains(c))
    };
    text.len() <= 255 && text.split('/').all(part)
}

fn is_tag(text: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.len() <= 128 && text.starts_with(is_word) && text.chars().all(|c| is_word(c) || c == '.' || c == '-')
}

impl fmt::Display for RemoteAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Oci(oci) => write!(f, "{oci}"),
            // What stands behind a question mark may be a secret.
            Self::Web(web) => {
                let mut url = web.url.clone();
                url.set_query(None);
                write!(f, "{url}")
            }
        }
    }
}

impl fmt::Display for OciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "oci://{}/{}", self.registry, self.repository)?;
        self.tag.iter().try_for_each(|tag| write!(f, ":{tag}"))?;
        self.digest.iter().try_for_each(|digest| write!(f, "@sha256:{digest}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    #[test]
    fn an_address_is_read_and_written_alike() {
        for text in [
            format!("oci://ghcr.io/acme/relabel@sha256:{DIGEST}"),
            format!("oci://localhost:5000/a/b-c/d_e:1.0@sha256:{DIGEST}"),
            "oci://registry.example/relabel:latest".into(),
            "oci://[::1]:5000/relabel:latest".into(),
        ] {
            assert_eq!(RemoteAddress::parse(&text).unwrap().to_string(), text);
        }
        let web = RemoteAddress::parse(&format!("https://host:8443/a/relabel.wasm?key=x#sha256={DIGEST}")).unwrap();
        assert_eq!(web.to_string(), "https://host:8443/a/relabel.wasm", "no secret is shown");
        assert_eq!((web.host().as_str(), web.last_name(), web.has_digest()), ("host:8443", "relabel.wasm", true));
    }

    #[test]
    fn nothing_is_guessed() {
        for text in [
            "oci://ghcr.io/acme/relabel",
            "oci://relabel:1",
            "oci://acme/relabel:1",
            "oci://ghcr.io/Acme/relabel:1",
            "oci://ghcr.io/acme//relabel:1",
            "oci://ghcr.io/../relabel:1",
            "oci://ghcr.io/acme/relabel:1:2",
            "oci://ghcr.io/acme/relabel@sha512:00",
            "oci://ghcr.io/acme/relabel@sha256:00",
            "oci://user:secret@ghcr.io/acme/relabel:1",
            "oci://ghcr.io?x/relabel:1",
            "https://host/",
            "https://user:secret@host/relabel.wasm",
            "https://host/relabel.wasm#sha256=00",
            "https://host/relabel.wasm#main",
            "ftp://host/relabel.wasm",
            "file:///relabel.wasm",
        ] {
            assert!(RemoteAddress::is_meant(text), "{text}");
            assert!(RemoteAddress::parse(text).is_err(), "{text}");
        }
        assert!(
            !RemoteAddress::is_meant("/plugins/relabel.wasm")
                && !RemoteAddress::is_meant("a://b/c.wasm".trim_start_matches("a"))
        );
    }
}
