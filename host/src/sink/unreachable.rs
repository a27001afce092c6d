//! Why no connection to ReductStore can be made: a name that isn't known, a port at which nobody listens, a certificate that isn't
//! accepted.
//!
//! The client of ReductStore keeps the cause of a failed connection to itself, so one more is made to see it.
//!
//! Guarantees: it asks nothing that changes anything, and ends within [`WITHIN`]; an obstacle is named only where the connection says it
//! itself; each has its own remedy, which is found again in the text.

use std::error::Error;
use std::io;
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Certificate, Client};
use rustls::CertificateError as Refusal;

use super::intermediaries;
use crate::config;

/// How long the connection may take.
const WITHIN: Duration = Duration::from_secs(3);

/// What keeps a connection from being made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Obstacle {
    UnknownName,
    Refused,
    NoRoute,
    Silence,
    UnknownAuthority,
    OtherName,
    OutOfDate,
    OtherCertificate,
    NoTls,
    Handshake,
}

impl Obstacle {
    const ALL: [Self; 10] = [
        Self::UnknownName,
        Self::Refused,
        Self::NoRoute,
        Self::Silence,
        Self::UnknownAuthority,
        Self::OtherName,
        Self::OutOfDate,
        Self::OtherCertificate,
        Self::NoTls,
        Self::Handshake,
    ];

    fn words(self) -> &'static str {
        match self {
            Self::UnknownName => "its name can't be looked up",
            Self::Refused => "the connection is refused, as where nobody listens at that port",
            Self::NoRoute => "no way leads there from here",
            Self::Silence => "nobody answers there",
            Self::UnknownAuthority => "its certificate is signed by no authority that is trusted here",
            Self::OtherName => "its certificate is for another name",
            Self::OutOfDate => "its certificate isn't valid at this time",
            Self::OtherCertificate => "its certificate isn't accepted",
            Self::NoTls => "what answers doesn't speak TLS",
            Self::Handshake => "the TLS handshake fails",
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::UnknownName => "correct the name in store.url, or this machine's name service (DNS)",
            Self::Refused => "start ReductStore, or correct the port in store.url",
            Self::NoRoute => "correct the address in store.url, or this machine's network",
            Self::Silence => "check store.url, that its machine runs, and that no firewall is in the way",
            Self::UnknownAuthority => "set store.tls.ca to the file of the authority that signed it",
            Self::OtherName => "set store.url to a name that the certificate is for",
            Self::OutOfDate => "renew the certificate, or correct this machine's clock",
            Self::OtherCertificate => "give the server a certificate that is made for servers",
            Self::NoTls => {
                "correct the port in store.url, or write http: there if the store is to be spoken to without TLS"
            }
            Self::Handshake => "see what the server, or what stands before it, demands of TLS",
        }
    }

    /// What a failed connection shows; `None`: nothing that is known here.
    fn of(error: &reqwest::Error) -> Option<Self> {
        let found = causes(error).find_map(|cause| {
            // The type of this error is hidden.
            if cause.to_string().starts_with("dns error") {
                return Some(Self::UnknownName);
            }
            if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
                return Some(Self::of_tls(tls));
            }
            match cause.downcast_ref::<io::Error>()?.kind() {
                io::ErrorKind::ConnectionRefused => Some(Self::Refused),
                io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Some(Self::NoRoute),
                io::ErrorKind::TimedOut => Some(Self::Silence),
                _ => None,
            }
        });
        found.or_else(|| error.is_timeout().then_some(Self::Silence))
    }

    fn of_tls(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(refusal) => match refusal {
                Refusal::UnknownIssuer => Self::UnknownAuthority,
                Refusal::NotValidForName | Refusal::NotValidForNameContext { .. } => Self::OtherName,
                Refusal::Expired
                | Refusal::ExpiredContext { .. }
                | Refusal::NotValidYet
                | Refusal::NotValidYetContext { .. } => Self::OutOfDate,
                _ => Self::OtherCertificate,
            },
            rustls::Error::InvalidMessage(_) => Self::NoTls,
            _ => Self::Handshake,
        }
    }
}

/// Why the store can't be reached. Continues a sentence that names it.
pub(super) async fn why(config: &config::StoreConfig) -> String {
    let Some(client) = client(config) else { return "no connection can be made".into() };
    let url = format!("{}/api/v1/alive", config.url.trim_end_matches('/'));
    let error = match client.head(url).send().await {
        Err(error) if error.is_connect() => error,
        _ => return "the connection broke off, and another one was made since".into(),
    };
    let innermost = causes(&error).next_back().map_or_else(|| error.to_string(), ToString::to_string);
    // Of a proxy it isn't known which of the two connections failed.
    match Obstacle::of(&error).filter(|_| intermediaries::proxy(&config.url).is_none()) {
        Some(obstacle) => format!("{} ({innermost})", obstacle.words()),
        None => innermost,
    }
}

/// What to do about a reason of [`why`].
pub(super) fn remedy_in(text: &str) -> Option<&'static str> {
    Obstacle::ALL.into_iter().find(|obstacle| text.contains(obstacle.words())).map(Obstacle::remedy)
}

/// One that trusts whom the store's own client trusts.
fn client(config: &config::StoreConfig) -> Option<Client> {
    let verify = config.verify_tls && config.url.starts_with("https:");
    let authorities = config.ca.as_deref().and_then(|path| config::read_small(path).ok());
    let authorities = authorities.and_then(|pem| Certificate::from_pem_bundle(&pem).ok()).unwrap_or_default();
    let client = Client::builder().redirect(Policy::none()).http1_only();
    let client = client.tls_certs_merge(authorities).tls_danger_accept_invalid_certs(!verify);
    client.connect_timeout(WITHIN).timeout(WITHIN).build().ok()
}

/// What is behind an error, the outermost first.
fn causes(error: &reqwest::Error) -> impl DoubleEndedIterator<Item = &(dyn Error + 'static)> {
    let (mut causes, mut inner) = (Vec::new(), error.source());
    while let Some(cause) = inner {
        causes.push(cause);
        // An I/O error doesn't name the error that it is made of as its source.
        let wrapped = cause.downcast_ref::<io::Error>().and_then(|error| error.get_ref());
        inner = wrapped.map(|error| error as &(dyn Error + 'static)).or_else(|| cause.source());
    }
    causes.into_iter()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::thread;

    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::{ServerConfig, ServerConnection, StreamOwned};

    use super::*;
    use crate::sink::store::{Store, StoreError};
    use crate::sink::tests::config;

    fn tls(file: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(file)
    }

    /// Serves each connection on a thread, and answers with the port.
    fn server(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || listener.incoming().flatten().for_each(serve));
        port
    }

    /// A server with a certificate of `authority.pem` for `registry.plant`.
    fn tls_server() -> u16 {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let certificate = CertificateDer::from_pem_file(tls("server.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(tls("server.key")).unwrap();
        let made = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
        let made = Arc::new(made);
        server(move |stream| {
            let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(&made)).unwrap(), stream);
            let _ = stream.read(&mut [0; 1024]);
        })
    }

    /// What a request is told, and what to do about it.
    async fn told(url: &str, ca: Option<&str>) -> (String, &'static str) {
        let mut store = config(url).store;
        store.ca = ca.map(tls);
        match Store::new(&store).unwrap().entries().await {
            Err(error @ StoreError::Unavailable(_)) => (error.to_string(), error.remedy()),
            other => panic!("{url}: {other:?}"),
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn each_obstacle_is_named_with_its_remedy() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let plain = server(|mut stream| {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
        });
        let secure = tls_server();
        for (url, ca, obstacle) in [
            (format!("http://127.0.0.1:{free}"), None, Obstacle::Refused),
            ("http://no-such-host.invalid:8383".into(), None, Obstacle::UnknownName),
            (format!("https://127.0.0.1:{plain}"), None, Obstacle::NoTls),
            (format!("https://127.0.0.1:{secure}"), None, Obstacle::UnknownAuthority),
            (format!("https://127.0.0.1:{secure}"), Some("authority.pem"), Obstacle::OtherName),
        ] {
            let (text, remedy) = told(&url, ca).await;
            let begin = format!("no connection to {url}: {} (", obstacle.words());
            assert!(text.starts_with(&begin) && remedy == obstacle.remedy(), "{obstacle:?}: {text}; {remedy}");
        }
    }

    #[test]
    fn a_remedy_is_found_by_the_words_of_its_obstacle_alone() {
        for obstacle in Obstacle::ALL {
            let text = format!("no connection to https://store:8383: {} (why)", obstacle.words());
            assert_eq!(remedy_in(&text), Some(obstacle.remedy()));
        }
        assert_eq!(remedy_in("it is starting (503)"), None);
    }
}
