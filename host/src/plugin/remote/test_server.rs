//! A server for tests of the requests.
//!
//! Guarantees: it answers each request as the test says, and the test sees the requests as they came.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// The head of an answer that never comes.
pub const SILENT: &str = "";

/// Its thread ends with the process.
pub struct TestServer {
    pub host: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl TestServer {
    /// Answers what `answer` makes of the request: the status with the further lines of the head, and the body.
    pub fn start(answer: impl Fn(&str) -> (String, Vec<u8>) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (host, requests) = (listener.local_addr().unwrap().to_string(), Arc::<Mutex<Vec<String>>>::default());
        let seen = Arc::clone(&requests);
        thread::spawn(move || {
            let answer = Arc::new(Mutex::new(answer));
            for stream in listener.incoming().flatten() {
                let (answer, seen) = (Arc::clone(&answer), Arc::clone(&seen));
                // A client may hold a connection open on which it asks nothing.
                thread::spawn(move || serve(stream, |request| answer.lock().unwrap()(request), &seen));
            }
        });
        Self { host, requests }
    }

    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn serve(mut stream: TcpStream, answer: impl Fn(&str) -> (String, Vec<u8>), seen: &Mutex<Vec<String>>) {
    let mut request = Vec::new();
    let mut part = [0; 4096];
    while !is_whole(&request) {
        match stream.read(&mut part) {
            Ok(0) | Err(_) => break,
            Ok(count) => request.extend_from_slice(&part[..count]),
        }
    }
    if request.is_empty() {
        return;
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let (head, body) = answer(&request);
    seen.lock().unwrap().push(request);
    if head == SILENT {
        // Until the client gives up.
        let _ = stream.read(&mut part);
        return;
    }
    let length = body.len();
    let head = format!("HTTP/1.1 {head}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    let _ = stream.write_all(head.as_bytes());
    // An answer to HEAD has no body; the client doesn't read it.
    let _ = stream.write_all(&body);
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    body.len() >= length.unwrap_or(0)
}
