//! Components that are fetched from OCI registries and web servers.
//!
//! Guarantees: bytes are returned, and kept in the sealed cache, only if they have the digest that was asked for, or that the
//! tag's manifest holds; what is in the cache is not fetched again; all of a fetch, redirects and tokens included, ends within
//! `registries.timeout`, and its bytes are bounded by `limits.file_size`. A tag is looked up each time; only if the registry
//! gives no answer, what the tag meant before is loaded, and the log says so.

mod credentials;
mod error;
mod oci;
#[cfg(test)]
mod test_server;
mod web;

use bytes::Bytes;
use url::Url;

pub use self::error::FetchError;
use self::oci::{Artifact, Repository};
use self::web::{Web, body, refusal, send};
use super::cache::Cache;
use super::digest::Digest;
use super::error::LoadProblem;
use super::signature::{SignatureError, SignedBy, verify_text};
use crate::config::{FetchRules, OciAddress, PluginConfig, RemoteAddress, RemotePlugin, WebAddress};

const SIGNATURE_BYTES: u64 = 16 * 1024;

/// A component that was fetched, or was in the cache.
pub struct FetchedComponent {
    /// The component.
    pub bytes: Vec<u8>,
    /// Of the component.
    pub digest: Digest,
    /// The address with the digest that pins these bytes.
    pub pinned: String,
    /// The text of a signature that came with it. Not checked.
    pub signature: Option<String>,
}

/// Whether a tag may mean what it meant before.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fallback {
    Allowed,
    Refused,
}

/// Fetches the component of one plugin.
pub(super) struct Fetcher<'a> {
    remote: &'a RemotePlugin,
    /// The component's digest, where the configuration has it.
    pinned: Option<&'a str>,
    most: u64,
    cache: Option<&'a Cache>,
    web: Web,
}

impl<'a> Fetcher<'a> {
    pub fn new(
        plugin: &'a PluginConfig,
        remote: &'a RemotePlugin,
        cache: Option<&'a Cache>,
    ) -> Result<Self, FetchError> {
        let (pinned, most) = (plugin.sha256.as_deref(), plugin.limits.file_bytes);
        Ok(Self { remote, pinned, most, cache, web: Web::new(&remote.rules)? })
    }

    /// The component. Not to be called from one of tokio's threads.
    pub fn component(&self, fallback: Fallback) -> Result<FetchedComponent, FetchError> {
        match &self.remote.address {
            RemoteAddress::Oci(oci) => self.oci(oci, fallback),
            RemoteAddress::Web(web) => self.file(web),
        }
    }

    /// The digest of what the address means now. The component is fetched into the cache unless it is there.
    pub fn look(&self) -> Result<Digest, FetchError> {
        let RemoteAddress::Oci(address) = &self.remote.address else {
            return self.component(Fallback::Refused).map(|component| component.digest);
        };
        let artifact = self.in_time(async {
            let mut repository = Repository::to_pull(&self.web, address);
            let (digest, manifest) = self.manifest(&mut repository, address, Fallback::Refused).await?;
            self.keep_once(&format!("{digest}-manifest"), &manifest);
            Artifact::read(manifest)
        })?;
        if self.cache.is_some_and(|cache| !cache.has(&format!("{}-component", artifact.component))) {
            return self.component(Fallback::Refused).map(|component| component.digest);
        }
        Ok(artifact.component)
    }

    /// Checks who signed it. The signature of a file is beside it, at its address with `.minisig`.
    pub fn verify(&self, component: &FetchedComponent, keys: &[String]) -> Result<SignedBy, LoadProblem> {
        let web = match (&self.remote.address, &component.signature) {
            (_, Some(text)) => return verify_text(&component.bytes, text, keys).map_err(LoadProblem::Signature),
            (RemoteAddress::Oci(_), None) => {
                let what = format!("its artifact has no annotation {}", oci::SIGNATURE);
                return Err(LoadProblem::Signature(SignatureError::Missing(what)));
            }
            (RemoteAddress::Web(web), None) => web,
        };
        let name = format!("{}-minisig", component.digest);
        let known = self.cached(&name).and_then(|text| String::from_utf8(text).ok());
        if let Some(signed) = known.and_then(|text| verify_text(&component.bytes, &text, keys).ok()) {
            return Ok(signed);
        }
        let mut url = web.url.clone();
        url.set_path(&format!("{}.minisig", web.url.path()));
        let text = match self.get(&url, "the signature", SIGNATURE_BYTES) {
            Err(FetchError::Missing { host, .. }) => {
                let what = format!("{} isn't at {host}", url.path());
                return Err(LoadProblem::Signature(SignatureError::Missing(what)));
            }
            text => String::from_utf8_lossy(&text.map_err(LoadProblem::of_fetching)?).into_owned(),
        };
        let signed = verify_text(&component.bytes, &text, keys).map_err(LoadProblem::Signature)?;
        self.keep(&name, text.as_bytes());
        Ok(signed)
    }

    fn oci(&self, address: &OciAddress, fallback: Fallback) -> Result<FetchedComponent, FetchError> {
        self.in_time(async {
            let mut repository = Repository::to_pull(&self.web, address);
            let (digest, manifest) = self.manifest(&mut repository, address, fallback).await?;
            let artifact = Artifact::read(manifest)?;
            // Before its bytes: a manifest without them is of no use, and they are what may be damaged.
            let name = format!("{}-component", artifact.component);
            let bytes = match self.cached(&name).filter(|bytes| Digest::of(bytes) == artifact.component) {
                Some(bytes) if bytes.len() as u64 > self.most => {
                    return Err(FetchError::TooLong { what: "the component", most: self.most });
                }
                Some(bytes) => bytes,
                None => {
                    let bytes = repository.component(&artifact, self.most).await?;
                    self.fetched(&bytes, artifact.component);
                    self.keep(&name, &bytes);
                    bytes
                }
            };
            self.keep_once(&format!("{digest}-manifest"), &artifact.manifest);
            if address.digest.is_none() {
                self.keep_once(&self.tag_entry(), digest.to_string().as_bytes());
            }
            let pinned = OciAddress { digest: Some(digest.to_string()), ..address.clone() };
            let (digest, pinned) = (artifact.component, pinned.to_string());
            Ok(FetchedComponent { bytes, digest, pinned, signature: artifact.signature })
        })
    }

    /// The manifest, from the cache where its digest is known.
    async fn manifest(
        &self,
        repository: &mut Repository<'_>,
        address: &OciAddress,
        fallback: Fallback,
    ) -> Result<(Digest, Bytes), FetchError> {
        let wanted = match (&address.digest, &address.tag) {
            (Some(digest), _) => Digest::parse(digest),
            (None, tag) => match repository.resolve(tag.as_deref().unwrap_or_default()).await {
                Ok(digest) => digest,
                Err(error) => {
                    match self.meant_before().filter(|_| fallback == Fallback::Allowed && error.is_no_answer()) {
                        Some(digest) => {
                            tracing::warn!(
                                plugin = %self.remote.address, %error,
                                "the registry doesn't say what the tag means: what it meant before is loaded, from the cache",
                            );
                            Some(digest)
                        }
                        None => return Err(error),
                    }
                }
            },
        };
        let Some(digest) = wanted else { return repository.manifest(address.tag.as_deref().unwrap_or_default()).await };
        match self.cached(&format!("{digest}-manifest")).filter(|manifest| Digest::of(manifest) == digest) {
            Some(manifest) => Ok((digest, manifest.into())),
            None => repository.manifest(&format!("sha256:{digest}")).await,
        }
    }

    fn file(&self, address: &WebAddress) -> Result<FetchedComponent, FetchError> {
        let expected = address.sha256.as_deref().or(self.pinned).and_then(Digest::parse);
        let component = |bytes: Vec<u8>| {
            let digest = Digest::of(&bytes);
            let pinned = format!("{}#sha256={digest}", self.remote.address);
            FetchedComponent { bytes, digest, pinned, signature: None }
        };
        let cached = expected.and_then(|digest| self.cached(&format!("{digest}-component")));
        if let Some(bytes) = cached.filter(|bytes| Some(Digest::of(bytes)) == expected) {
            return match bytes.len() as u64 > self.most {
                true => Err(FetchError::TooLong { what: "the component", most: self.most }),
                false => Ok(component(bytes)),
            };
        }
        let component = component(self.get(&address.url, "the component", self.most)?);
        if let Some(expected) = expected.filter(|expected| *expected != component.digest) {
            let (found, expected) = (component.digest, expected.to_string());
            return Err(FetchError::OtherBytes { what: "the file", found, expected });
        }
        self.fetched(&component.bytes, component.digest);
        self.keep(&format!("{}-component", component.digest), &component.bytes);
        Ok(component)
    }

    fn get(&self, url: &Url, what: &'static str, most: u64) -> Result<Vec<u8>, FetchError> {
        let host = self.remote.address.host();
        self.in_time(async {
            let answer = send(self.web.client.get(url.clone()), &host).await?;
            if answer.status() != http::StatusCode::OK {
                return Err(refusal(answer, &host, false).await);
            }
            body(answer, &host, what, most).await
        })
    }

    /// Runs a fetch to its end, or to the end of its time.
    fn in_time<T>(&self, fetch: impl Future<Output = Result<T, FetchError>>) -> Result<T, FetchError> {
        in_time(&self.remote.rules, fetch)
    }

    fn fetched(&self, bytes: &[u8], digest: Digest) {
        let (plugin, digest) = (&self.remote.address, digest.short());
        tracing::info!(%plugin, digest, bytes = bytes.len(), "fetched the plugin's component");
    }

    /// Where the cache has what a tag meant when it was looked up last.
    fn tag_entry(&self) -> String {
        format!("{}-tag", Digest::of(self.remote.address.to_string().as_bytes()))
    }

    fn meant_before(&self) -> Option<Digest> {
        Digest::parse(std::str::from_utf8(&self.cached(&self.tag_entry())?).ok()?)
    }

    fn cached(&self, name: &str) -> Option<Vec<u8>> {
        let cache = self.cache?;
        cache.get(name).unwrap_or_else(|damage| {
            tracing::warn!(path = %cache.path(name).display(), %damage, "what was fetched is damaged: it is fetched again");
            None
        })
    }

    fn keep(&self, name: &str, bytes: &[u8]) {
        let Some(cache) = self.cache else { return };
        if let Err(error) = cache.put(name, bytes) {
            tracing::warn!(path = %cache.path(name).display(), %error, "what was fetched isn't kept in the cache");
        }
    }

    fn keep_once(&self, name: &str, bytes: &[u8]) {
        if self.cached(name).as_deref() != Some(bytes) {
            self.keep(name, bytes);
        }
    }
}

fn in_time<T>(rules: &FetchRules, fetch: impl Future<Output = Result<T, FetchError>>) -> Result<T, FetchError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| FetchError::Setup(format!("no runtime for it: {error}")))?;
    let answer = runtime.block_on(async { tokio::time::timeout(rules.timeout, fetch).await });
    // A name server that doesn't answer holds a thread, which isn't waited for.
    runtime.shutdown_background();
    answer.unwrap_or(Err(FetchError::TimedOut(rules.timeout)))
}

/// Stores a component in a registry, with the text of its signature. Returns the address with the manifest's digest. Not to be
/// called from one of tokio's threads.
pub fn push(
    address: &OciAddress,
    rules: &FetchRules,
    component: Vec<u8>,
    interfaces: [Vec<String>; 2],
    signature: Option<String>,
) -> Result<String, FetchError> {
    let (web, digest) = (Web::new(rules)?, Digest::of(&component));
    let [imports, exports] = interfaces;
    // The same file has to become the same artifact each time, so its time is none.
    let config = serde_json::json!({
        "created": "1970-01-01T00:00:00Z",
        "architecture": "wasm",
        "os": "wasip2",
        "layerDigests": [format!("sha256:{digest}")],
        "component": { "imports": imports, "exports": exports, "target": null },
    });
    let config = Bytes::from(config.to_string());
    let tag = address.tag.as_deref().unwrap_or("latest");
    let digest = in_time(rules, async {
        Repository::to_push(&web, address).push(tag, component.into(), config, signature).await
    })?;
    Ok(OciAddress { digest: Some(digest.to_string()), ..address.clone() }.to_string())
}
