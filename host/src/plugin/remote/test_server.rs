//! A server for tests of the requests.
//!
//! Guarantees: it answers each request as the test says, and the test sees the requests as they came.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

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
            for mut stream in listener.incoming().flatten() {
                let mut request = Vec::new();
                let mut part = [0; 4096];
                // A client may hold a connection open on which it asks nothing.
                let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
                while !is_whole(&request) {
                    match stream.read(&mut part) {
                        Ok(0) | Err(_) => break,
                        Ok(count) => request.extend_from_slice(&part[..count]),
                    }
                }
                let request = String::from_utf8_lossy(&request).into_owned();
                let (head, body) = answer(&request);
                seen.lock().unwrap().push(request);
                let length = body.len();
                let head = format!("HTTP/1.1 {head}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
                let _ = stream.write_all(head.as_bytes());
                // An answer to HEAD has no body; the client doesn't read it.
                let _ = stream.write_all(&body);
            }
        });
        Self { host, requests }
    }

    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    body.len() >= length.unwrap_or(0)
}
