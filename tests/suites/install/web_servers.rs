//! A web server that gives one answer to everything, most of them wrong in one way.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use sha2::{Digest, Sha256};

/// How long a connection stays open on which nothing more comes.
const HELD: Duration = Duration::from_secs(60);

pub enum Answer {
    Whole(Vec<u8>),
    /// The announced length, and half of the bytes.
    Truncated(Vec<u8>),
    /// Bytes without an end and without an announced length.
    Endless,
    /// This length, and no byte.
    Announced(u64),
    Status(u16),
    RedirectToItself,
    Redirect(String),
    Silence,
    /// By their paths; another path is 404.
    Files(Vec<(String, Vec<u8>)>),
}

/// Its thread ends with the process.
pub struct WebServer {
    pub host: String,
}

impl WebServer {
    pub fn start(answer: Answer) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (host, answer) = (listener.local_addr()?.to_string(), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let answer = Arc::clone(&answer);
                // A client that goes away is what many of the answers are for.
                thread::spawn(move || serve(stream, &answer));
            }
        });
        Ok(Self { host })
    }
}

fn serve(stream: TcpStream, answer: &Answer) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    let path = request.split(' ').nth(1).unwrap_or_default();
    lines.map_while(Result::ok).find(String::is_empty);
    let mut stream = stream;
    match answer {
        Answer::Whole(bytes) => whole(&mut stream, bytes),
        Answer::Files(files) => match files.iter().find(|(name, _)| name == path) {
            Some((_, bytes)) => whole(&mut stream, bytes),
            None => head(&mut stream, 404, "content-length: 0\r\n"),
        },
        Answer::Truncated(bytes) => {
            head(&mut stream, 200, &format!("content-length: {}\r\n", bytes.len()))?;
            stream.write_all(&bytes[..bytes.len() / 2])
        }
        Answer::Endless => {
            head(&mut stream, 200, "")?;
            loop {
                stream.write_all(&[0; 65536])?;
            }
        }
        Answer::Announced(length) => {
            head(&mut stream, 200, &format!("content-length: {length}\r\n"))?;
            thread::sleep(HELD);
            Ok(())
        }
        Answer::Status(status) => head(&mut stream, *status, "content-length: 0\r\n"),
        Answer::RedirectToItself => redirect(&mut stream, path),
        Answer::Redirect(to) => redirect(&mut stream, to),
        Answer::Silence => {
            thread::sleep(HELD);
            Ok(())
        }
    }
}

fn head(stream: &mut TcpStream, status: u16, more: &str) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 {status} so\r\nconnection: close\r\n{more}\r\n")
}

fn whole(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    head(stream, 200, &format!("content-length: {}\r\n", bytes.len()))?;
    stream.write_all(bytes)
}

fn redirect(stream: &mut TcpStream, to: &str) -> std::io::Result<()> {
    head(stream, 302, &format!("location: {to}\r\ncontent-length: 0\r\n"))
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
