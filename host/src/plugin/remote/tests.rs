//! Tests of what is loaded when a tag moves, is gone, or can't be looked up.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::test_server::{SILENT, TestServer};
use super::*;

/// What the registry has.
#[derive(Default)]
struct Shelf {
    /// The manifest of the tag `1`.
    tag: Option<Vec<u8>>,
    /// By the last part of their addresses.
    bytes: BTreeMap<String, Vec<u8>>,
    /// Parts of addresses that are answered by 503.
    away: &'static str,
    is_silent: bool,
}

struct Registry {
    server: TestServer,
    shelf: Arc<Mutex<Shelf>>,
    remote: RemotePlugin,
    folder: tempfile::TempDir,
}

impl Registry {
    fn new() -> Self {
        let shelf = Arc::<Mutex<Shelf>>::default();
        let shown = Arc::clone(&shelf);
        let server = TestServer::start(move |request| {
            let shelf = shown.lock().unwrap();
            if shelf.is_silent {
                return (SILENT.into(), Vec::new());
            }
            let path = request.split(' ').nth(1).unwrap_or_default();
            if !shelf.away.is_empty() && path.contains(shelf.away) {
                return ("503 Away".into(), Vec::new());
            }
            let bytes = match path.rsplit('/').next() {
                Some("1") => shelf.tag.as_ref(),
                name => shelf.bytes.get(name.unwrap_or_default()),
            };
            match bytes {
                Some(bytes) => {
                    (format!("200 OK\r\ndocker-content-digest: sha256:{}", Digest::of(bytes)), bytes.clone())
                }
                None => ("404 None".into(), Vec::new()),
            }
        });
        let (registry, repository) = (server.host.clone(), "acme/numbers".into());
        let address = RemoteAddress::Oci(OciAddress { registry, repository, tag: Some("1".into()), digest: None });
        let rules = FetchRules { ca: None, plain_http: vec![server.host.clone()], timeout: Duration::from_secs(300) };
        let remote = RemotePlugin { address, follow: Some(Duration::from_secs(1)), rules };
        Self { server, shelf, remote, folder: tempfile::tempdir().unwrap() }
    }

    /// Lets the tag mean an artifact with this component.
    fn push(&self, component: &[u8]) {
        let (digest, size) = (Digest::of(component), component.len());
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.wasm.config.v0+json","digest":"sha256:{digest}","size":1}},
            "layers":[{{"mediaType":"application/wasm","digest":"sha256:{digest}","size":{size}}}]}}"#
        );
        let manifest = manifest.into_bytes();
        let mut shelf = self.shelf.lock().unwrap();
        shelf.bytes.insert(format!("sha256:{digest}"), component.to_vec());
        shelf.bytes.insert(format!("sha256:{}", Digest::of(&manifest)), manifest.clone());
        shelf.tag = Some(manifest);
    }

    fn away(&self, what: &'static str) {
        self.shelf.lock().unwrap().away = what;
    }

    fn cache(&self) -> Cache {
        Cache::open(&self.folder.path().join("cache"), 1 << 20).unwrap()
    }

    fn fetcher<'a>(&'a self, cache: &'a Cache, pinned: Option<&'a str>, signed_by: &'a [String]) -> Fetcher<'a> {
        let web = Web::new(&self.remote.rules).unwrap();
        Fetcher { remote: &self.remote, pinned, signed_by, most: 1000, cache: Some(cache), web }
    }
}

/// What a start loads, and remembers as the loader does.
fn start(fetcher: &Fetcher<'_>) -> Result<Vec<u8>, FetchError> {
    let component = fetcher.component(Fallback::Allowed)?;
    fetcher.remember(&component);
    Ok(component.bytes)
}

#[test]
fn a_tag_that_went_back_means_the_earlier_version_without_its_registry_too() {
    let registry = Registry::new();
    let cache = registry.cache();
    let fetcher = registry.fetcher(&cache, None, &[]);
    registry.push(b"one");
    assert_eq!(start(&fetcher).unwrap(), b"one");
    for version in [b"two", b"one"] {
        registry.push(version);
        assert_eq!(fetcher.look().unwrap(), Digest::of(version));
        registry.away("/");
        assert_eq!(start(&fetcher).unwrap(), version);
        registry.away("");
    }
}

#[test]
fn a_registry_that_gives_only_a_part_or_is_silent_lets_the_former_version_start() {
    let mut registry = Registry::new();
    let cache = registry.cache();
    let fetcher = registry.fetcher(&cache, None, &[]);
    registry.push(b"one");
    assert_eq!(start(&fetcher).unwrap(), b"one");
    registry.push(b"two");
    for away in ["/blobs/", "/manifests/sha256:", "/manifests/"] {
        registry.away(away);
        assert_eq!(start(&fetcher).unwrap(), b"one", "{away}");
        assert!(fetcher.component(Fallback::Refused).is_err(), "{away}");
    }
    registry.away("");
    registry.shelf.lock().unwrap().is_silent = true;
    registry.remote.rules.timeout = Duration::from_millis(500);
    let fetcher = registry.fetcher(&cache, None, &[]);
    assert_eq!(start(&fetcher).unwrap(), b"one");
    assert!(matches!(fetcher.component(Fallback::Refused), Err(FetchError::TimedOut(_))));
    registry.shelf.lock().unwrap().is_silent = false;
    registry.remote.rules.timeout = Duration::from_secs(300);
    let fetcher = registry.fetcher(&cache, None, &[]);
    registry.shelf.lock().unwrap().tag = None;
    assert!(matches!(start(&fetcher), Err(FetchError::Missing { .. })), "a tag that is gone is an error");
}

#[test]
fn a_pinned_component_needs_no_tag_and_no_other_is_fetched() {
    let registry = Registry::new();
    let cache = registry.cache();
    let pinned = Digest::of(b"one").to_string();
    let fetcher = registry.fetcher(&cache, Some(&pinned), &[]);
    registry.push(b"two");
    assert!(matches!(start(&fetcher), Err(FetchError::OtherBytes { .. })));
    assert!(matches!(fetcher.look(), Err(FetchError::OtherBytes { .. })));
    assert!(!registry.server.requests().iter().any(|request| request.contains("/blobs/")), "it is fetched");
    assert_eq!(fetcher.meant_before(), None);
    registry.push(b"one");
    assert_eq!(start(&fetcher).unwrap(), b"one");
    registry.push(b"two");
    assert_eq!(start(&fetcher).unwrap(), b"one");
    registry.shelf.lock().unwrap().tag = None;
    assert_eq!(start(&fetcher).unwrap(), b"one");
}

#[test]
fn an_unsigned_version_is_not_remembered_where_signatures_are_needed() {
    let registry = Registry::new();
    let cache = registry.cache();
    registry.push(b"one");
    let keys = ["a key".to_owned()];
    let fetcher = registry.fetcher(&cache, None, &keys);
    assert_eq!(start(&fetcher).unwrap(), b"one");
    assert_eq!(fetcher.look().unwrap(), Digest::of(b"one"));
    assert_eq!(fetcher.meant_before(), None);
}
