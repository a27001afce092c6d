//! Components that are fetched from OCI registries and web servers.
//!
//! Guarantees: bytes are returned, and kept in the sealed cache, only if they have the digest that was asked for, or that the
//! tag's manifest holds; what is in the cache is not fetched again; all of a fetch, redirects and tokens included, ends within
//! `registries.timeout`, and its bytes are bounded by `limits.file_size`. A tag is looked up each time, unless `sha256` says
//! which component it has to mean; only if the registry gives no answer, what the tag meant before is loaded, and the log says
//! so. What a tag meant is remembered only of a component that `sha256` and `trust.signed_by` let in.

mod credentials;
mod error;
mod oci;
#[cfg(test)]
mod test_server;
#[cfg(test)]
mod tests;
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
    /// The digest of the manifest that the tag means. `None`: the address has no tag, or a digest beside it.
    meant: Option<Digest>,
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
    signed_by: &'a [String],
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
        let (pinned, most, signed_by) = (plugin.sha256.as_deref(), plugin.limits.file_bytes, &plugin.signed_by);
        Ok(Self { remote, pinned, signed_by, most, cache, web: Web::new(&remote.rules)? })
    }

    /// The component. Not to be called from one of tokio's threads.
    pub fn component(&self, fallback: Fallback) -> Result<FetchedComponent, FetchError> {
        let oci = match &self.remote.address {
            RemoteAddress::Oci(oci) => oci,
            RemoteAddress::Web(web) => return self.file(web),
        };
        let before = || self.kept(oci, self.meant_before().filter(|_| oci.digest.is_none())?);
        if fallback == Fallback::Refused {
            return self.oci(oci);
        }
        // Whatever the tag means by now: only this component may be loaded.
        let is_pinned = |component: &FetchedComponent| self.pinned == Some(component.digest.to_string().as_str());
        if let Some(pinned) = self.pinned.and_then(|_| before()).filter(is_pinned) {
            return Ok(pinned);
        }
        let error = match self.oci(oci) {
            Err(error) if error.is_no_answer() => error,
            answered => return answered,
        };
        let Some(component) = before() else { return Err(error) };
        tracing::warn!(
            plugin = %self.remote.address, %error,
            "the registry doesn't give what the tag means: what it meant before is loaded, from the cache",
        );
        Ok(component)
    }

    /// The digest of what the address means now. The component is fetched into the cache unless it is there.
    pub fn look(&self) -> Result<Digest, FetchError> {
        let RemoteAddress::Oci(address) = &self.remote.address else {
            return self.component(Fallback::Refused).map(|component| component.digest);
        };
        let (digest, artifact) = self.in_time(async {
            let mut repository = Repository::to_pull(&self.web, address);
            let (digest, manifest) = self.manifest(&mut repository, address).await?;
            self.keep_once(&format!("{digest}-manifest"), &manifest);
            Ok((digest, Artifact::read(manifest)?))
        })?;
        if self.cache.is_some_and(|cache| !cache.has(&format!("{}-component", artifact.component))) {
            let component = self.component(Fallback::Refused)?;
            self.remember(&component);
            return Ok(component.digest);
        }
        // A tag that went back to an earlier version means that one after a restart, too.
        if self.meant_before() != Some(digest)
            && let Some(component) = self.kept(address, digest)
        {
            self.remember(&component);
        }
        Ok(artifact.component)
    }

    /// Remembers what the tag means, for a start at which the registry gives no answer, if it is let in.
    pub fn remember(&self, component: &FetchedComponent) {
        let Some(meant) = component.meant else { return };
        let has_digest = self.pinned.is_none_or(|pinned| pinned == component.digest.to_string());
        let is_signed = self.signed_by.is_empty()
            || component
                .signature
                .as_ref()
                .is_some_and(|text| verify_text(&component.bytes, text, self.signed_by).is_ok());
        if has_digest && is_signed {
            self.keep_once(&self.tag_entry(), meant.to_string().as_bytes());
        }
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

    fn oci(&self, address: &OciAddress) -> Result<FetchedComponent, FetchError> {
        self.in_time(async {
            let mut repository = Repository::to_pull(&self.web, address);
            let (digest, manifest) = self.manifest(&mut repository, address).await?;
            let artifact = Artifact::read(manifest)?;
            let found = artifact.component;
            if let Some(pinned) = self.pinned.filter(|pinned| *pinned != found.to_string()) {
                return Err(FetchError::OtherBytes { what: "the component", found, expected: pinned.into() });
            }
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
            Ok(of_artifact(address, digest, artifact, bytes))
        })
    }

    /// The component of the manifest with this digest, if the cache has both.
    fn kept(&self, address: &OciAddress, digest: Digest) -> Option<FetchedComponent> {
        let manifest = self.cached(&format!("{digest}-manifest")).filter(|bytes| Digest::of(bytes) == digest)?;
        let artifact = Artifact::read(manifest.into()).ok()?;
        let bytes = self.cached(&format!("{}-component", artifact.component))?;
        let is_right = Digest::of(&bytes) == artifact.component && bytes.len() as u64 <= self.most;
        is_right.then(|| of_artifact(address, digest, artifact, bytes))
    }

    /// The manifest, from the cache where its digest is known.
    async fn manifest(
        &self,
        repository: &mut Repository<'_>,
        address: &OciAddress,
    ) -> Result<(Digest, Bytes), FetchError> {
        let tag = address.tag.as_deref().unwrap_or_default();
        let wanted = match &address.digest {
            Some(digest) => Digest::parse(digest),
            None => repository.resolve(tag).await?,
        };
        let Some(digest) = wanted else { return repository.manifest(tag).await };
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
            FetchedComponent { bytes, digest, pinned, signature: None, meant: None }
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

fn of_artifact(address: &OciAddress, digest: Digest, artifact: Artifact, bytes: Vec<u8>) -> FetchedComponent {
    let pinned = OciAddress { digest: Some(digest.to_string()), ..address.clone() }.to_string();
    let meant = address.digest.is_none().then_some(digest);
    FetchedComponent { bytes, digest: artifact.component, pinned, signature: artifact.signature, meant }
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
