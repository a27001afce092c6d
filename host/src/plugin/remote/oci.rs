//! The few requests of the OCI distribution protocol that pulling and pushing one component takes.
//!
//! Guarantees: what is returned has the digest that was asked for; credentials go to the registry and to the token server
//! that it names, by TLS unless the configuration allows otherwise; an answer is read up to the protocol's bounds.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use docker_credential::DockerCredential;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, LOCATION, WWW_AUTHENTICATE};
use http::{HeaderValue, Method};
use reqwest::{RequestBuilder, Response, StatusCode};
use serde::{Deserialize, Serialize};
use url::{Url, form_urlencoded};

use super::credentials;
use super::error::FetchError;
use super::web::{Web, body, refusal, send};
use crate::config::{OciAddress, host_of};
use crate::plugin::Digest;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.wasm.config.v0+json";
const LAYER: &str = "application/wasm";
/// The annotation of the layer that holds the text of a minisign signature over the component.
pub const SIGNATURE: &str = "store.reduct.sink.minisig";
/// More than this no registry has to take.
const MANIFEST_BYTES: u64 = 4 << 20;
const TOKEN_BYTES: u64 = 1 << 20;

/// The manifest of an artifact that holds one component.
pub struct Artifact {
    pub manifest: Bytes,
    /// Of the component.
    pub component: Digest,
    pub bytes: u64,
    pub signature: Option<String>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct ArtifactManifest {
    schema_version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

impl Artifact {
    /// Fails if the manifest is that of something else than one component.
    pub fn read(manifest: Bytes) -> Result<Self, FetchError> {
        let wrong = |text: String| FetchError::NotAnArtifact(text);
        let parsed: ArtifactManifest =
            serde_json::from_slice(&manifest).map_err(|error| wrong(format!("its manifest can't be read: {error}")))?;
        let config = parsed.config.map(|config| config.media_type).unwrap_or_default();
        if config != CONFIG {
            return Err(wrong(format!("its configuration has the type {config:?}, expected {CONFIG:?}")));
        }
        let [layer] = parsed.layers.as_slice() else {
            return Err(wrong(format!("it has {} layers, expected one", parsed.layers.len())));
        };
        if layer.media_type != LAYER {
            return Err(wrong(format!("its layer has the type {:?}, expected {LAYER:?}", layer.media_type)));
        }
        let component = layer.digest.strip_prefix("sha256:").and_then(Digest::parse);
        let component = component.ok_or_else(|| wrong(format!("its layer has the digest {:?}", layer.digest)))?;
        let signature = layer.annotations.get(SIGNATURE).cloned();
        Ok(Self { manifest, component, bytes: layer.size, signature })
    }
}

/// One repository, and what the registry wants to see for it.
pub struct Repository<'a> {
    web: &'a Web,
    address: &'a OciAddress,
    /// The host that is asked; Docker's registry has another one than its name says.
    host: String,
    /// What is asked for in a token's scope.
    actions: &'static str,
    authorization: Option<HeaderValue>,
    has_credentials: bool,
}

impl<'a> Repository<'a> {
    pub fn to_pull(web: &'a Web, address: &'a OciAddress) -> Self {
        let host =
            if address.registry == "docker.io" { "registry-1.docker.io".into() } else { address.registry.clone() };
        Self { web, address, host, actions: "pull", authorization: None, has_credentials: false }
    }

    pub fn to_push(web: &'a Web, address: &'a OciAddress) -> Self {
        Self { actions: "pull,push", ..Self::to_pull(web, address) }
    }

    /// The digest of the manifest that the tag means. `None`: the registry doesn't say it beforehand.
    pub async fn resolve(&mut self, tag: &str) -> Result<Option<Digest>, FetchError> {
        let answer = self.ask(Method::HEAD, &self.url(&format!("manifests/{tag}"))?).await?;
        match answer.status() {
            StatusCode::OK => {
                let digest = answer.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
                Ok(digest.and_then(|digest| Digest::parse(digest.strip_prefix("sha256:")?)))
            }
            _ => Err(refusal(answer, &self.host, self.has_credentials).await),
        }
    }

    /// The manifest of a tag, or of `sha256:…`, and its digest.
    pub async fn manifest(&mut self, reference: &str) -> Result<(Digest, Bytes), FetchError> {
        let answer = self.ask(Method::GET, &self.url(&format!("manifests/{reference}"))?).await?;
        if answer.status() != StatusCode::OK {
            return Err(refusal(answer, &self.host, self.has_credentials).await);
        }
        let bytes = body(answer, &self.host, "its manifest", MANIFEST_BYTES).await?;
        let found = Digest::of(&bytes);
        match reference.strip_prefix("sha256:").filter(|expected| *expected != found.to_string()) {
            Some(expected) => Err(FetchError::OtherBytes { what: "its manifest", found, expected: expected.into() }),
            None => Ok((found, bytes.into())),
        }
    }

    pub async fn component(&mut self, artifact: &Artifact, most: u64) -> Result<Vec<u8>, FetchError> {
        const WHAT: &str = "the component";
        if artifact.bytes > most {
            return Err(FetchError::TooLong { what: WHAT, most });
        }
        let answer = self.ask(Method::GET, &self.url(&format!("blobs/sha256:{}", artifact.component))?).await?;
        if answer.status() != StatusCode::OK {
            return Err(refusal(answer, &self.host, self.has_credentials).await);
        }
        let bytes = body(answer, &self.host, WHAT, artifact.bytes).await?;
        let (found, expected) = (Digest::of(&bytes), artifact.component);
        if found == expected {
            Ok(bytes)
        } else {
            Err(FetchError::OtherBytes { what: WHAT, found, expected: expected.to_string() })
        }
    }

    /// Stores a component with its configuration under the tag. Returns the digest of the manifest.
    pub async fn push(
        &mut self,
        tag: &str,
        component: Bytes,
        config: Bytes,
        signature: Option<String>,
    ) -> Result<Digest, FetchError> {
        let described = |media_type: &str, bytes: &Bytes| Descriptor {
            media_type: media_type.into(),
            digest: format!("sha256:{}", Digest::of(bytes)),
            size: bytes.len() as u64,
            annotations: BTreeMap::new(),
        };
        let mut layer = described(LAYER, &component);
        layer.annotations = signature.into_iter().map(|text| (SIGNATURE.to_owned(), text)).collect();
        let manifest = ArtifactManifest {
            schema_version: 2,
            media_type: Some(MANIFEST.into()),
            config: Some(described(CONFIG, &config)),
            layers: vec![layer],
        };
        let manifest = serde_json::to_vec(&manifest).map_err(|error| FetchError::NotAnArtifact(error.to_string()))?;
        self.upload(config).await?;
        self.upload(component).await?;
        let url = self.url(&format!("manifests/{tag}"))?;
        let (digest, manifest) = (Digest::of(&manifest), Bytes::from(manifest));
        let put = |web: &Web| web.client.put(url.clone()).header(CONTENT_TYPE, MANIFEST).body(manifest.clone());
        let answer = self.send(put).await?;
        if answer.status().is_success() {
            Ok(digest)
        } else {
            Err(refusal(answer, &self.host, self.has_credentials).await)
        }
    }

    /// Stores these bytes, unless the registry has them.
    async fn upload(&mut self, bytes: Bytes) -> Result<(), FetchError> {
        let digest = format!("sha256:{}", Digest::of(&bytes));
        if self.ask(Method::HEAD, &self.url(&format!("blobs/{digest}"))?).await?.status() == StatusCode::OK {
            return Ok(());
        }
        let begin = self.url("blobs/uploads/")?;
        let answer = self.ask(Method::POST, &begin).await?;
        if answer.status() != StatusCode::ACCEPTED {
            return Err(refusal(answer, &self.host, self.has_credentials).await);
        }
        let location = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let location = location.and_then(|location| begin.join(location).ok()).filter(|url| self.web.allows(url));
        let Some(mut location) = location else {
            let why = "it names no place that may be uploaded to".into();
            return Err(FetchError::Unreachable { host: self.host.clone(), why });
        };
        location.query_pairs_mut().append_pair("digest", &digest);
        let is_own = host_of(&location) == host_of(&begin);
        let authorization = self.authorization.clone().filter(|_| is_own);
        let put = self.web.client.put(location).header(CONTENT_TYPE, "application/octet-stream").body(bytes);
        let answer = send(with(put, authorization.as_ref()), &self.host).await?;
        match answer.status() {
            StatusCode::CREATED => Ok(()),
            _ => Err(refusal(answer, &self.host, self.has_credentials).await),
        }
    }

    fn url(&self, path: &str) -> Result<Url, FetchError> {
        let text = format!(
            "{}://{}/v2/{}/{path}",
            self.web.scheme(&self.address.registry),
            self.host,
            self.address.repository
        );
        Url::parse(&text).map_err(|error| FetchError::Setup(format!("{text}: {error}")))
    }

    async fn ask(&mut self, method: Method, url: &Url) -> Result<Response, FetchError> {
        self.send(|web| web.client.request(method.clone(), url.clone()).header(ACCEPT, MANIFEST)).await
    }

    /// Sends it, and once more with credentials if the registry wants them.
    async fn send(&mut self, request: impl Fn(&Web) -> RequestBuilder) -> Result<Response, FetchError> {
        let answer = send(with(request(self.web), self.authorization.as_ref()), &self.host).await?;
        if answer.status() != StatusCode::UNAUTHORIZED || self.authorization.is_some() {
            return Ok(answer);
        }
        // The server that a redirect leads to may not choose who gets the credentials of the registry.
        if answer.url().origin() != self.url("")?.origin() {
            return Ok(answer);
        }
        let challenges = answer.headers().get_all(WWW_AUTHENTICATE);
        let challenges = challenges.iter().filter_map(|value| Challenge::read(value.to_str().ok()?));
        let challenges: Vec<Challenge> = challenges.collect();
        let credential = credentials::of(&self.address.registry).await?;
        self.has_credentials = credential.is_some();
        let has = |scheme: &str| challenges.iter().find(|challenge| challenge.scheme.eq_ignore_ascii_case(scheme));
        let authorization = match (has("bearer"), has("basic"), &credential) {
            (Some(bearer), _, _) => format!("Bearer {}", self.token(bearer, credential.as_ref()).await?),
            (None, Some(_), Some(DockerCredential::UsernamePassword(user, password))) => basic(user, password),
            _ => return Ok(answer),
        };
        let broken =
            |_| FetchError::Credentials { host: self.host.clone(), why: "they hold control characters".into() };
        let mut authorization = HeaderValue::from_str(&authorization).map_err(broken)?;
        authorization.set_sensitive(true);
        self.authorization = Some(authorization);
        send(with(request(self.web), self.authorization.as_ref()), &self.host).await
    }

    /// A token of the server that the registry names.
    async fn token(&self, challenge: &Challenge, credential: Option<&DockerCredential>) -> Result<String, FetchError> {
        let wrong = |why: String| FetchError::Unreachable { host: self.host.clone(), why };
        let realm = challenge.parameter("realm").and_then(|realm| Url::parse(realm).ok());
        let Some(mut realm) = realm.filter(|realm| self.web.allows(realm)) else {
            return Err(wrong("it names no token server that may be asked".into()));
        };
        let host = host_of(&realm);
        let scope = format!("repository:{}:{}", self.address.repository, self.actions);
        let service = challenge.parameter("service").unwrap_or_default();
        let request = match credential {
            Some(DockerCredential::IdentityToken(token)) => {
                let mut form = form_urlencoded::Serializer::new(String::new());
                form.append_pair("grant_type", "refresh_token").append_pair("service", service);
                form.append_pair("client_id", "reduct-sink").append_pair("scope", &scope);
                form.append_pair("refresh_token", token);
                let post = self.web.token_client.post(realm).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
                post.body(form.finish())
            }
            _ => {
                realm.query_pairs_mut().append_pair("service", service).append_pair("scope", &scope);
                let get = self.web.token_client.get(realm);
                match credential {
                    Some(DockerCredential::UsernamePassword(user, password)) => get.basic_auth(user, Some(password)),
                    _ => get,
                }
            }
        };
        let answer = send(request, &host).await?;
        if answer.status() != StatusCode::OK {
            return Err(refusal(answer, &host, self.has_credentials).await);
        }
        #[derive(Deserialize)]
        struct TokenAnswer {
            token: Option<String>,
            access_token: Option<String>,
        }
        let bytes = body(answer, &host, "the registry's token", TOKEN_BYTES).await?;
        let answer: Option<TokenAnswer> = serde_json::from_slice(&bytes).ok();
        let token = answer.and_then(|answer| answer.token.or(answer.access_token));
        token.ok_or_else(|| wrong(format!("its token server {host} gives no token")))
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

fn with(request: RequestBuilder, authorization: Option<&HeaderValue>) -> RequestBuilder {
    match authorization {
        Some(value) => request.header(AUTHORIZATION, value.clone()),
        None => request,
    }
}

/// What a server says that it wants to see.
#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// `Bearer realm="https://…",service="…"`: the only form that registries use.
    fn read(text: &str) -> Option<Self> {
        let (scheme, mut rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        let mut parameters = Vec::new();
        while let Some((name, value)) = rest.split_once('=') {
            let (value, after) = match value.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => value.split_at(value.find(',').unwrap_or(value.len())),
            };
            parameters.push((name.trim_matches([',', ' ']).to_ascii_lowercase(), value.trim().to_owned()));
            rest = after;
        }
        (!scheme.is_empty()).then(|| Self { scheme: scheme.to_owned(), parameters })
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::test_server::TestServer;
    use super::*;
    use crate::config::FetchRules;

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let text = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        let challenge = Challenge::read(text).unwrap();
        assert_eq!(challenge.scheme, "Bearer");
        assert_eq!(challenge.parameter("realm"), Some("https://auth.docker.io/token"));
        assert_eq!(challenge.parameter("scope"), Some("repository:a/b:pull,push"));
        assert_eq!(Challenge::read("Basic realm=x, charset=\"UTF-8\"").unwrap().parameter("charset"), Some("UTF-8"));
        assert_eq!(Challenge::read("Basic").unwrap().parameters, []);
        assert_eq!(Challenge::read(""), None);
        assert_eq!(Challenge::read("Bearer realm=\"open"), None);
    }

    fn rules(plain_http: &[&TestServer]) -> FetchRules {
        let plain_http = plain_http.iter().map(|server| server.host.clone()).collect();
        FetchRules { ca: None, plain_http, timeout: Duration::from_secs(300) }
    }

    fn address(server: &TestServer) -> OciAddress {
        let (registry, repository) = (server.host.clone(), "acme/numbers".into());
        OciAddress { registry, repository, tag: Some("1".into()), digest: None }
    }

    #[tokio::test]
    async fn who_the_registry_redirects_to_names_no_token_server() {
        let thief = TestServer::start(|_| ("200 OK".into(), br#"{"token":"x"}"#.to_vec()));
        let realm = format!("401 No\r\nwww-authenticate: Bearer realm=\"http://{}/token\",service=\"s\"", thief.host);
        let target = TestServer::start(move |_| (realm.clone(), Vec::new()));
        let to = format!("307 There\r\nlocation: http://{}/blob", target.host);
        let registry = TestServer::start(move |_| (to.clone(), Vec::new()));
        let (web, address) = (Web::new(&rules(&[&thief, &target, &registry])).unwrap(), address(&registry));
        let refused = Repository::to_pull(&web, &address).manifest("1").await;
        assert!(matches!(refused, Err(FetchError::Refused { status: 401, .. })), "{:?}", refused.err());
        assert_eq!((target.requests().len(), thief.requests()), (1, Vec::new()));
    }

    #[tokio::test]
    async fn a_token_server_that_redirects_hands_no_secret_on() {
        let thief = TestServer::start(|_| ("200 OK".into(), br#"{"token":"x"}"#.to_vec()));
        let to = format!("307 There\r\nlocation: http://{}/token", thief.host);
        let server = TestServer::start(move |_| (to.clone(), Vec::new()));
        let (web, address) = (Web::new(&rules(&[&thief, &server])).unwrap(), address(&server));
        let repository = Repository::to_pull(&web, &address);
        let challenge = Challenge::read(&format!("Bearer realm=\"http://{}/token\"", server.host)).unwrap();
        let credential = DockerCredential::IdentityToken("my-secret".into());
        let refused = repository.token(&challenge, Some(&credential)).await;
        assert!(matches!(refused, Err(FetchError::Status { status: 307, .. })), "{:?}", refused.err());
        assert!(server.requests()[0].contains("my-secret"));
        assert_eq!(thief.requests(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_redirect_does_not_tell_the_address_it_came_from() {
        let target = TestServer::start(|_| ("200 OK".into(), b"x".to_vec()));
        let to = format!("302 There\r\nlocation: http://{}/x", target.host);
        let server = TestServer::start(move |_| (to.clone(), Vec::new()));
        let web = Web::new(&rules(&[&target, &server])).unwrap();
        let url = format!("http://{}/a.wasm?key=my-secret", server.host);
        assert_eq!(send(web.client.get(url), &server.host).await.unwrap().status(), StatusCode::OK);
        assert!(!target.requests()[0].contains("my-secret"), "{:?}", target.requests());
    }

    #[test]
    fn only_one_component_is_an_artifact() {
        let digest = Digest::of(b"x");
        let manifest = |config: &str, layers: &str| {
            let text = format!(
                r#"{{"schemaVersion":2,"config":{{"mediaType":"{config}","digest":"sha256:{digest}","size":1}},"layers":[{layers}]}}"#
            );
            Artifact::read(Bytes::from(text))
        };
        let layer = format!(r#"{{"mediaType":"{LAYER}","digest":"sha256:{digest}","size":1}}"#);
        assert_eq!(manifest(CONFIG, &layer).unwrap().component, digest);
        let image = "application/vnd.oci.image.config.v1+json";
        for wrong in [
            manifest(image, &layer),
            manifest(CONFIG, ""),
            manifest(CONFIG, &format!("{layer},{layer}")),
            manifest(CONFIG, &layer.replace(LAYER, "application/octet-stream")),
            manifest(CONFIG, &layer.replace("sha256:", "sha512:")),
            Artifact::read(Bytes::from_static(b"{}")),
            Artifact::read(Bytes::from_static(b"")),
        ] {
            assert!(matches!(wrong, Err(FetchError::NotAnArtifact(_))));
        }
    }
}
