//! Sends one granted HTTP request over a connection of its own.
//!
//! Guarantees: a name is resolved once, each of its addresses is checked, and the connection goes to an address that was
//! checked, so that a name server can't lead the plugin to loopback, private or link-local addresses unless the configuration
//! allows it; the connections of one version of a plugin are limited over all its instances; all that a request does, from
//! looking the name up to the last byte of the answer, ends within the plugin's time limit, counted from the request's start,
//! and each direction of its connection carries at most `limits.http_size` bytes.
//!
//! Not promised: a public address of this machine or of its neighbours is an address like any other; a request that was begun
//! late in a call may go on after the call's end, for less than one time limit; a version in its trial or bake window has
//! connections of its own beside the active one's.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, select};
use http::header::HOST;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use wasmtime_wasi_http::{Error, WasiBody};

use super::log::PluginLog;
use crate::config::{Grants, Network, PluginLimits, threads, why_not_public};

/// Finds the addresses of a name.
pub(super) type Resolve = fn(&str, u16) -> io::Result<Vec<SocketAddr>>;

pub(super) type HttpIo = Box<dyn Future<Output = Result<(), Error>> + Send>;
pub(super) type HttpAnswer = Result<(http::Response<WasiBody>, HttpIo), Error>;

/// What the head of an answer, and what of its body wasn't read yet, may hold in the host's memory.
const BUFFER_BYTES: usize = 64 * 1024;
/// How many names all plugins of a pipeline look up at a time: each holds a thread until the system's resolver gives up.
const LOOKUPS: usize = 16;
/// The same for one plugin, so that one with a dead name server doesn't take all.
const LOOKUPS_OF_ONE: usize = 4;

/// The places of each pipeline, by its name: one with a dead name server doesn't hold up the others.
static OF_PIPELINES: Mutex<BTreeMap<Option<Arc<str>>, Arc<Semaphore>>> = Mutex::new(BTreeMap::new());

/// The places for the look-ups of the pipeline that this thread belongs to.
fn places_of_pipeline() -> Arc<Semaphore> {
    let mut places = OF_PIPELINES.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(places.entry(threads::pipeline()).or_insert_with(|| Arc::new(Semaphore::new(LOOKUPS))))
}

/// What the instances of one version of a plugin send their requests with.
pub(super) struct HttpClient {
    networks: Vec<Network>,
    most_bytes: u64,
    connections: Arc<Semaphore>,
    lookups: Arc<Semaphore>,
    lookups_of_pipeline: Arc<Semaphore>,
    tls: Arc<ClientConfig>,
    resolve: Resolve,
    log: Arc<PluginLog>,
}

/// How long a request may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waits {
    /// From the beginning to the last byte of the answer.
    pub whole: Duration,
    pub connect: Duration,
    pub first_byte: Duration,
    pub between_bytes: Duration,
}

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    host: String,
    port: u16,
    is_https: bool,
}

impl Target {
    /// `None`: it has no host, another scheme, or a user's name, which would be sent to nobody.
    pub fn of(uri: &http::Uri) -> Option<Self> {
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
        let (is_https, default) = match uri.scheme_str()? {
            "https" => (true, 443),
            "http" => (false, 80),
            _ => return None,
        };
        let port = match authority.port_u16() {
            Some(port) => port,
            None if authority.as_str() == authority.host() => default,
            None => return None,
        };
        Some(Self { host: authority.host().to_ascii_lowercase(), port, is_https })
    }

    /// As a grant that allows one scheme only is written.
    pub fn with_scheme(&self) -> String {
        format!("{}://{self}", if self.is_https { "https" } else { "http" })
    }

    /// The name without the brackets of an IPv6 address.
    fn name(&self) -> &str {
        self.host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(&self.host)
    }
}

/// `host:port` in small letters, as grants are written.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl HttpClient {
    /// `None`: nothing is granted. Fails if the granted authorities can't be read.
    pub fn new(grants: &Grants, limits: &PluginLimits, log: &Arc<PluginLog>) -> Result<Option<Arc<Self>>, String> {
        if grants.http.is_empty() {
            return Ok(None);
        }
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.into() };
        if let Some(path) = &grants.http_ca {
            let shown = path.display();
            let unusable = |error: &dyn fmt::Display| format!("the authorities in {shown} (grants.http_ca): {error}");
            let mut found = 0;
            for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unusable(&error))? {
                let certificate = certificate.map_err(|error| unusable(&error))?;
                roots.add(certificate).map_err(|error| unusable(&error))?;
                found += 1;
            }
            if found == 0 {
                return Err(unusable(&"the file holds no certificate in PEM form"));
            }
        }
        let tls = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Ok(Some(Arc::new(Self {
            networks: grants.http_networks.clone(),
            most_bytes: limits.http_bytes,
            connections: Arc::new(Semaphore::new(limits.http_connections)),
            lookups: Arc::new(Semaphore::new(LOOKUPS_OF_ONE)),
            lookups_of_pipeline: places_of_pipeline(),
            tls: Arc::new(tls),
            resolve: |name, port| (name, port).to_socket_addrs().map(Iterator::collect),
            log: Arc::clone(log),
        })))
    }

    /// The same with another resolver.
    #[cfg(test)]
    pub fn resolving(self: Arc<Self>, resolve: Resolve) -> Arc<Self> {
        let one = Arc::into_inner(self).map(|client| Self { resolve, ..client });
        Arc::new(one.unwrap())
    }

    pub async fn send(self: Arc<Self>, request: http::Request<WasiBody>, target: Target, waits: Waits) -> HttpAnswer {
        let deadline = Instant::now() + waits.whole;
        let sending = self.exchange(request, &target, waits, deadline);
        timeout_at(deadline, sending).await.unwrap_or(Err(Error::HttpResponseTimeout))
    }

    async fn exchange(
        &self,
        request: http::Request<WasiBody>,
        target: &Target,
        waits: Waits,
        deadline: Instant,
    ) -> HttpAnswer {
        let Ok(place) = Arc::clone(&self.connections).try_acquire_owned() else {
            let text =
                "the plugin has as many HTTP connections as its `limits.http_connections` allow; a request was refused";
            self.log.warn_once("connections", text);
            return Err(Error::ConnectionLimitReached);
        };
        let connecting = async {
            let stream = self.connect(target).await?;
            let stream = Metered {
                stream,
                sent: 0,
                received: 0,
                most: self.most_bytes,
                end: Box::pin(sleep_until(deadline)),
                _place: place,
            };
            Ok::<_, Error>(if target.is_https { self.secure(stream, target).await? } else { Box::new(stream) as Wire })
        };
        let stream = timeout(waits.connect, connecting).await.map_err(|_| Error::ConnectionTimeout)??;
        let (mut sender, connection) =
            http1::Builder::new().max_buf_size(BUFFER_BYTES).handshake(TokioIo::new(stream)).await.map_err(reason)?;
        let mut connection = Box::pin(connection);
        let mut end = None;
        let response = {
            let sending = pin!(timeout(waits.first_byte, sender.send_request(relative(request)?)));
            match select(sending, &mut connection).await {
                Either::Left((answer, _)) => answer,
                Either::Right((over, sending)) => {
                    // The answer may have come before the end, even where the end is an error.
                    end = Some(over);
                    sending.await
                }
            }
        };
        let is_over = end.is_some();
        let response = match response.map_err(|_| Error::ConnectionReadTimeout)? {
            Ok(response) => response,
            // What ended the connection says more.
            Err(error) => return Err(reason(end.and_then(Result::err).unwrap_or(error))),
        };
        let wait = waits.between_bytes;
        let body = |body| AnswerBody { body, wait, idle: Box::pin(sleep(wait)) }.boxed_unsync();
        let io = async move {
            if is_over {
                return Ok(());
            }
            // Whether the plugin reads the answer or not.
            timeout_at(deadline, connection).await.map_err(|_| Error::HttpResponseTimeout)?.map_err(reason)
        };
        Ok((response.map(body), Box::new(io)))
    }

    /// To an address that was checked.
    async fn connect(&self, target: &Target) -> Result<TcpStream, Error> {
        let addresses = match target.name().parse::<IpAddr>() {
            // The configuration itself names it.
            Ok(address) => vec![SocketAddr::new(address, target.port)],
            Err(_) => self.checked(target, self.addresses(target).await?)?,
        };
        let mut last = None;
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Some(error),
            }
        }
        Err(last.map_or(Error::DestinationNotFound, Error::Connect))
    }

    async fn addresses(&self, target: &Target) -> Result<Vec<SocketAddr>, Error> {
        let place = |places: &Arc<Semaphore>| Arc::clone(places).acquire_owned();
        let (Ok(own), Ok(all)) = (place(&self.lookups).await, place(&self.lookups_of_pipeline).await) else {
            return Err(Error::DnsTimeout);
        };
        let (resolve, name, port) = (self.resolve, target.name().to_owned(), target.port);
        let found = tokio::task::spawn_blocking(move || {
            // Held until the resolver is done, which may be long after the request was given up.
            let _places = (own, all);
            resolve(&name, port)
        });
        match found.await {
            Ok(Ok(addresses)) => Ok(addresses),
            Ok(Err(_)) | Err(_) => Err(Error::DnsError { rcode: None, info_code: None }),
        }
    }

    /// Those of the addresses that the plugin may reach.
    fn checked(&self, target: &Target, addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Error> {
        let mut refused = None;
        let allowed = addresses.into_iter().filter(|address| {
            let why = self.why_refused(target, address.ip());
            refused = why.map(|why| (address.ip(), why)).or(refused);
            why.is_none()
        });
        let allowed: Vec<SocketAddr> = allowed.collect();
        match refused {
            Some((address, why)) if allowed.is_empty() => {
                let text = format!(
                    "the plugin's request to {target} was refused: the name leads to {address}, {why}; if that is meant, \
                     add its network to `grants.http_networks`, or grant the address itself"
                );
                self.log.warn_once(&format!("address {target}"), &text);
                Err(Error::DestinationIpProhibited)
            }
            _ => Ok(allowed),
        }
    }

    fn why_refused(&self, target: &Target, address: IpAddr) -> Option<&'static str> {
        let is_local = target.host == "localhost" && address.to_canonical().is_loopback();
        if is_local || self.networks.iter().any(|network| network.contains(address)) {
            return None;
        }
        why_not_public(address)
    }

    async fn secure(&self, stream: Metered, target: &Target) -> Result<Wire, Error> {
        let name = ServerName::try_from(target.name().to_owned()).map_err(Error::InvalidDnsNameError)?;
        match TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(Error::ConnectionTimeout),
            Err(error) => {
                let text = format!(
                    "no TLS with {target}: {error}; a certificate of a private authority needs `grants.http_ca`"
                );
                self.log.warn_once(&format!("tls {target}"), &text);
                Err(Error::Tls(error))
            }
        }
    }
}

/// The request as a server gets it: without scheme and host, which are in the `Host` header.
fn relative(mut request: http::Request<WasiBody>) -> Result<http::Request<WasiBody>, Error> {
    if !request.headers().contains_key(HOST) {
        return Err(Error::HttpRequestUriInvalid);
    }
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse().map_err(|_| Error::HttpRequestUriInvalid)?;
    Ok(request)
}

/// What ended the connection; a time-out and a limit of ours are inside of hyper's error.
fn reason(error: hyper::Error) -> Error {
    let mut source = std::error::Error::source(&error);
    while let Some(inner) = source {
        match inner.downcast_ref::<io::Error>().map(io::Error::kind) {
            Some(io::ErrorKind::TimedOut) => return Error::HttpResponseTimeout,
            Some(io::ErrorKind::FileTooLarge) => return Error::HttpResponseBodySize(None),
            _ => source = inner.source(),
        }
    }
    Error::from(error)
}

trait HttpStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> HttpStream for S {}

type Wire = Box<dyn HttpStream>;

/// A connection that counts and that ends. It has its place among the plugin's connections as long as it is open.
struct Metered {
    stream: TcpStream,
    sent: u64,
    received: u64,
    most: u64,
    end: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl Metered {
    fn poll_limits(&mut self, cx: &mut Context<'_>, bytes: u64) -> io::Result<()> {
        if self.end.as_mut().poll(cx).is_ready() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the call's time limit is over"));
        }
        if bytes > self.most {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "more bytes than limits.http_size"));
        }
        Ok(())
    }
}

impl AsyncRead for Metered {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let received = self.received;
        self.poll_limits(cx, received)?;
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        self.received += buffer.filled().len().saturating_sub(before) as u64;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let sent = self.sent;
        self.poll_limits(cx, sent)?;
        // One write can carry tens of megabytes to a reader that keeps up. The byte too many shows the next one that it is over.
        let room = usize::try_from(self.most.saturating_sub(sent).saturating_add(1)).unwrap_or(usize::MAX);
        let bytes = bytes.get(..room).unwrap_or(bytes);
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.sent += written as u64;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The answer's body, which ends with an error when nothing comes of it for a while.
struct AnswerBody {
    body: Incoming,
    wait: Duration,
    idle: Pin<Box<Sleep>>,
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            let next = Instant::now() + self.wait;
            self.idle.as_mut().reset(next);
            return Poll::Ready(frame.map(|frame| frame.map_err(reason)));
        }
        ready!(self.idle.as_mut().poll(cx));
        Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_host_and_port() {
        let target = |uri: &str| Target::of(&uri.parse().unwrap()).map(|target| target.to_string());
        for (uri, expected) in [
            ("https://Example.com/a?b", "example.com:443"),
            ("http://example.com", "example.com:80"),
            ("http://example.com:8080/", "example.com:8080"),
            ("https://[::1]:9/", "[::1]:9"),
        ] {
            assert_eq!(target(uri).as_deref(), Some(expected), "{uri}");
        }
        for none in ["/only/a/path", "http://user:secret@example.com:8080/", "ftp://example.com", "http://x:99999/"] {
            assert_eq!(none.parse().ok().and_then(|uri| Target::of(&uri)), None, "{none}");
        }
    }
}
