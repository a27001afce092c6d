//! [`HttpClient`](super::http_client::HttpClient) against servers that behave in every way.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use wasmtime_wasi_http::{Error, WasiBody};

use super::digest::Digest;
use super::http_client::{HttpClient, Resolve, Target, Waits};
use super::log::PluginLog;
use crate::config::{Grants, PluginConfig, PluginSource};

/// Longer than any request here takes on a busy machine; what a test waits for has a limit of its own.
const WHOLE: Duration = Duration::from_secs(300);

fn tls(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(file)
}

/// A client with these limits, for which every name leads to `addresses`.
struct TestClient {
    grants: Grants,
    connections: usize,
    bytes: u64,
    resolve: Option<Resolve>,
}

impl Default for TestClient {
    fn default() -> Self {
        let grants = Grants { http: vec!["any:1".into()], ..Grants::default() };
        Self { grants, connections: 16, bytes: 16 << 20, resolve: None }
    }
}

impl TestClient {
    fn client(self) -> Arc<HttpClient> {
        // Fails if another test has chosen it.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut limits = PluginConfig::new("p", PluginSource::Builtin).limits;
        (limits.http_connections, limits.http_bytes) = (self.connections, self.bytes);
        let log = Arc::new(PluginLog::new("p".into(), Digest::of(b""), 100));
        let client = HttpClient::new(&self.grants, &limits, &log).unwrap().unwrap();
        match self.resolve {
            Some(resolve) => client.resolving(resolve),
            None => client,
        }
    }
}

type Answer = Result<(u16, Result<Bytes, Error>), Error>;

async fn ask(client: &Arc<HttpClient>, uri: &str, body: Vec<u8>, whole: Duration) -> Answer {
    let waits = Waits { whole, connect: whole, first_byte: whole, between_bytes: whole };
    let body: WasiBody = Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync();
    let uri: http::Uri = uri.parse().unwrap();
    let target = Target::of(&uri).unwrap();
    let request = http::Request::post(uri).header("host", target.to_string()).body(body).unwrap();
    let (response, io) = Arc::clone(client).send(request, target, waits).await?;
    let io = tokio::spawn(Box::into_pin(io));
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.map(|body| body.to_bytes());
    // Only then its connection is given back.
    io.abort();
    let _ = io.await;
    Ok((status, body))
}

/// Answers each connection with `serve`, on an address of its own, and counts them.
fn server(ip: &str, port: u16, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((ip, port)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let count = Arc::new(AtomicUsize::new(0));
    let (seen, serve) = (Arc::clone(&count), Arc::new(serve));
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            seen.fetch_add(1, Ordering::SeqCst);
            let serve = Arc::clone(&serve);
            thread::spawn(move || serve(stream));
        }
    });
    (port, count)
}

fn read_head(stream: &mut impl Read) {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read > 0) {
        head.push(byte[0]);
    }
}

/// Reads the head of a request and answers with these bytes.
fn saying(answer: &'static [u8]) -> impl Fn(TcpStream) + Send + Sync {
    move |mut stream| {
        read_head(&mut stream);
        let _ = stream.write_all(answer);
    }
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";

#[tokio::test(flavor = "multi_thread")]
async fn the_connection_goes_to_an_address_that_was_checked() {
    static PORT: AtomicUsize = AtomicUsize::new(0);
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    // A name server that is asked a second time leads elsewhere.
    fn resolve(_: &str, _: u16) -> std::io::Result<Vec<SocketAddr>> {
        let port = PORT.load(Ordering::SeqCst) as u16;
        let at = |ip: [u8; 4]| SocketAddr::from((ip, port));
        match ASKED.fetch_add(1, Ordering::SeqCst) {
            0 => Ok(vec![at([127, 0, 0, 3]), at([127, 0, 0, 2])]),
            _ => Ok(vec![at([127, 0, 0, 3])]),
        }
    }
    // Addresses at which no other test listens: the port is free at both.
    let (port, allowed) = server("127.0.0.2", 0, saying(OK));
    let (_, forbidden) = server("127.0.0.3", port, saying(OK));
    PORT.store(port.into(), Ordering::SeqCst);
    let mut made = TestClient { resolve: Some(resolve), ..TestClient::default() };
    made.grants.http_networks = vec!["127.0.0.2".parse().unwrap()];
    let client = made.client();
    let (status, body) = ask(&client, "http://vendor.example/", Vec::new(), WHOLE).await.unwrap();
    assert_eq!((status, &*body.unwrap()), (200, &b"hi"[..]));
    assert_eq!(ASKED.load(Ordering::SeqCst), 1, "a name is resolved once");
    let rebound = ask(&client, "http://vendor.example/", Vec::new(), WHOLE).await;
    assert!(matches!(rebound, Err(Error::DestinationIpProhibited)), "{rebound:?}");
    assert_eq!((allowed.load(Ordering::SeqCst), forbidden.load(Ordering::SeqCst)), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_this_machine_and_its_networks_are_refused() {
    let (port, reached) = server("127.0.0.1", 0, saying(OK));
    let client = TestClient::default().client();
    // The system's resolver takes these for 127.0.0.1.
    for name in ["127.1", "2130706433", "0x7f000001", "0177.0.0.1"] {
        let answer = ask(&client, &format!("http://{name}:{port}/"), Vec::new(), WHOLE).await;
        assert!(matches!(answer, Err(Error::DestinationIpProhibited)), "{name}: {answer:?}");
    }
    fn metadata(_: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
        Ok(["169.254.169.254", "::ffff:127.0.0.1", "fd00:ec2::254", "64:ff9b::a9fe:a9fe", "10.0.0.1", "::1"]
            .map(|ip| SocketAddr::new(ip.parse().unwrap(), port))
            .to_vec())
    }
    let client = TestClient { resolve: Some(metadata), ..TestClient::default() }.client();
    let answer = ask(&client, &format!("http://vendor.example:{port}/"), Vec::new(), WHOLE).await;
    assert!(matches!(answer, Err(Error::DestinationIpProhibited)), "{answer:?}");
    assert_eq!(reached.load(Ordering::SeqCst), 0);
    // The operator may say so.
    let client = TestClient::default().client();
    for own in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
        let answer = ask(&client, &format!("http://{own}:{port}/"), Vec::new(), WHOLE).await;
        assert_eq!(answer.unwrap().0, 200, "{own}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_limited_and_given_back() {
    static ANSWERS: AtomicBool = AtomicBool::new(false);
    let (port, connected) = server("127.0.0.1", 0, |mut stream| {
        read_head(&mut stream);
        while !ANSWERS.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(10));
        }
        let _ = stream.write_all(OK);
    });
    let client = TestClient { connections: 2, ..TestClient::default() }.client();
    let uri = format!("http://127.0.0.1:{port}/");
    let spawn = || {
        let (client, uri) = (Arc::clone(&client), uri.clone());
        tokio::spawn(async move { ask(&client, &uri, Vec::new(), WHOLE).await })
    };
    let held = [spawn(), spawn()];
    while connected.load(Ordering::SeqCst) < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let third = ask(&client, &uri, Vec::new(), WHOLE).await;
    assert!(matches!(third, Err(Error::ConnectionLimitReached)), "{third:?}");
    ANSWERS.store(true, Ordering::SeqCst);
    for one in held {
        assert_eq!(one.await.unwrap().unwrap().0, 200);
    }
    let fourth = ask(&client, &uri, Vec::new(), WHOLE).await;
    assert_eq!(fourth.unwrap().0, 200, "the connections before it were given back");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_direction_has_its_limit() {
    let (port, _) = server("127.0.0.1", 0, |mut stream| {
        read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(&[b'x'; 10_000]).is_ok() {}
    });
    let uri = format!("http://127.0.0.1:{port}/");
    let client = TestClient { bytes: 200_000, ..TestClient::default() }.client();
    let (_, body) = ask(&client, &uri, Vec::new(), WHOLE).await.unwrap();
    assert!(matches!(body, Err(Error::HttpResponseBodySize(_))), "{body:?}");

    static TAKEN: AtomicUsize = AtomicUsize::new(0);
    let (port, _) = server("127.0.0.1", 0, |mut stream| {
        let mut buffer = [0; 10_000];
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            TAKEN.fetch_add(read, Ordering::SeqCst);
        }
    });
    let sent = ask(&client, &format!("http://127.0.0.1:{port}/"), vec![b'x'; 50 << 20], WHOLE).await;
    assert!(matches!(sent, Err(Error::HttpResponseBodySize(_))), "{sent:?}");
    let taken = TAKEN.load(Ordering::SeqCst);
    assert!(taken <= (16 << 20) + 1, "{taken}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_trickles_is_left_at_the_deadline() {
    let heads: [&[u8]; 4] = [
        b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n",
        // An endless head, endless chunks, and trailers that never end.
        b"HTTP/1.1 200 OK\r\nx: ",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffff\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: ",
    ];
    for head in heads {
        let (port, _) = server("127.0.0.1", 0, move |mut stream| {
            read_head(&mut stream);
            let _ = stream.write_all(head);
            while stream.write_all(b"y").is_ok() {
                thread::sleep(Duration::from_millis(20));
            }
        });
        let client = TestClient::default().client();
        let started = Instant::now();
        let answer = ask(&client, &format!("http://127.0.0.1:{port}/"), Vec::new(), Duration::from_millis(300)).await;
        assert!(!matches!(answer, Ok((_, Ok(_)))), "{answer:?}");
        assert!(started.elapsed() < WHOLE);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_break_the_rules_of_http_are_errors() {
    // Each is followed by more of the same for as long as the client reads.
    let answers: [(&[u8], &[u8]); 9] = [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"", b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\n", b"x: y\r\n"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffffff\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;", b"extension"),
        (b"HTTP/1.1 200 OK\r\nx\0y: z\r\n\r\n", b"x"),
        (b"\0\0\x12\x04\0\0\0\0\0", b"\0\0\x08\x06\0\0\0\0\0\0\0\0\0\0\0\0\0"),
    ];
    for (head, more) in answers {
        let (port, asked) = server("127.0.0.1", 0, move |mut stream| {
            read_head(&mut stream);
            let _ = stream.write_all(head);
            while stream.write_all(&more.repeat(100)).is_ok() {}
        });
        // What the client doesn't refuse at once ends by the limit on bytes.
        let client = TestClient { bytes: 1_000_000, ..TestClient::default() }.client();
        let answer = ask(&client, &format!("http://127.0.0.1:{port}/"), Vec::new(), WHOLE).await;
        assert!(!matches!(answer, Ok((_, Ok(_)))), "{:?}: {answer:?}", String::from_utf8_lossy(head));
        assert_eq!(asked.load(Ordering::SeqCst), 1, "it is asked once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_not_followed() {
    let (other, reached) = server("127.0.0.1", 0, saying(OK));
    let answer = format!("HTTP/1.1 307 Go\r\nlocation: http://127.0.0.1:{other}/\r\ncontent-length: 0\r\n\r\n");
    let (port, _) = server("127.0.0.1", 0, saying(answer.leak().as_bytes()));
    let (status, _) =
        ask(&TestClient::default().client(), &format!("http://127.0.0.1:{port}/"), Vec::new(), WHOLE).await.unwrap();
    assert_eq!((status, reached.load(Ordering::SeqCst)), (307, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_authority_is_trusted_where_it_is_configured() {
    static PORT: AtomicUsize = AtomicUsize::new(0);
    let client = |ca: Option<&str>| {
        let mut made = TestClient::default();
        made.grants.http_networks = vec!["127.0.0.0/8".parse().unwrap()];
        made.grants.http_ca = ca.map(tls);
        made.resolve = Some(|_, _| Ok(vec![SocketAddr::from(([127, 0, 0, 1], PORT.load(Ordering::SeqCst) as u16))]));
        made.client()
    };
    let first = client(None);
    let certificate = CertificateDer::from_pem_file(tls("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(tls("server.key")).unwrap();
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
    let config = Arc::new(config);
    let (port, _) = server("127.0.0.1", 0, move |stream| {
        let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(&config)).unwrap(), stream);
        read_head(&mut stream);
        let _ = stream.write_all(OK);
    });
    PORT.store(port.into(), Ordering::SeqCst);
    let (right, other) = ("https://registry.plant/", "https://other.plant/");
    let unknown = ask(&first, right, Vec::new(), WHOLE).await;
    assert!(matches!(&unknown, Err(Error::Tls(error)) if error.to_string().contains("UnknownIssuer")), "{unknown:?}");
    let trusting = client(Some("authority.pem"));
    assert_eq!(ask(&trusting, right, Vec::new(), WHOLE).await.unwrap().0, 200);
    let wrong_name = ask(&trusting, other, Vec::new(), WHOLE).await;
    assert!(matches!(wrong_name, Err(Error::Tls(_))), "{wrong_name:?}");
}

#[test]
fn authorities_that_can_not_be_read_are_an_error() {
    let limits = PluginConfig::new("p", PluginSource::Builtin).limits;
    let log = Arc::new(PluginLog::new("p".into(), Digest::of(b""), 100));
    for (file, told) in [("nothing-there.pem", "nothing-there.pem (grants.http_ca)"), ("server.key", "no certificate")]
    {
        let grants = Grants { http: vec!["any:1".into()], http_ca: Some(tls(file)), ..Grants::default() };
        let error = HttpClient::new(&grants, &limits, &log).err().unwrap();
        assert!(error.contains(told), "{file}: {error}");
    }
}
