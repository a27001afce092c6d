//! A collector of OpenTelemetry spans: takes OTLP over HTTP and decodes it.
//!
//! Guarantees: each request is decoded as a whole, and what isn't protobuf of a trace is an error of the test; it can refuse, and it can
//! keep callers waiting.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
pub use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

/// What a collector does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Takes it.
    Takes,
    /// Answers with this status.
    Refuses(u16),
    /// Reads it and never answers.
    Hangs,
}

/// A collector on a loopback port. It ends with its handle.
pub struct Collector {
    port: u16,
    state: Arc<CollectorState>,
}

struct CollectorState {
    ended: AtomicBool,
    behaviour: Mutex<Behaviour>,
    requests: Mutex<Vec<Received>>,
    wrong: Mutex<Vec<String>>,
}

/// A request that was read.
#[derive(Debug, Clone)]
pub struct Received {
    /// Path, then the headers, in lower case.
    pub head: Vec<String>,
    /// What the spans are of.
    pub resource: Vec<KeyValue>,
    pub spans: Vec<Span>,
}

impl Collector {
    pub fn start(behaviour: Behaviour) -> Result<Self> {
        Self::start_at(crate::process::free_port()?, behaviour)
    }

    pub fn start_at(port: u16, behaviour: Behaviour) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port))?;
        let state = Arc::new(CollectorState {
            ended: AtomicBool::new(false),
            behaviour: Mutex::new(behaviour),
            requests: Mutex::default(),
            wrong: Mutex::default(),
        });
        let serving = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if serving.ended.load(Ordering::SeqCst) {
                    return;
                }
                let state = Arc::clone(&serving);
                std::thread::spawn(move || {
                    if let Err(error) = stream.map_err(Into::into).and_then(|stream| serve(stream, &state)) {
                        lock(&state.wrong).push(format!("{error:#}"));
                    }
                });
            }
        });
        Ok(Self { port, state })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn behave(&self, behaviour: Behaviour) {
        *lock(&self.state.behaviour) = behaviour;
    }

    /// All that came so far; an error if something came that is no trace.
    pub fn received(&self) -> Result<Vec<Received>> {
        let wrong = lock(&self.state.wrong);
        ensure!(wrong.is_empty(), "{}", wrong.join("; "));
        Ok(lock(&self.state.requests).clone())
    }

    pub fn spans(&self) -> Result<Vec<Span>> {
        Ok(self.received()?.into_iter().flat_map(|request| request.spans).collect())
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// A text or a number among a span's, a link's or a resource's attributes.
pub fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref().and_then(|AnyValue { value }| value.as_ref())? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        other => Some(format!("{other:?}")),
    }
}

fn serve(stream: TcpStream, state: &CollectorState) -> Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim_end().to_owned();
            if line.is_empty() {
                break;
            }
            head.push(if head.is_empty() { line } else { line.to_lowercase() });
        }
        let length = head.iter().find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.context("no length")?.trim().parse()?;
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let behaviour = *lock(&state.behaviour);
        match behaviour {
            Behaviour::Takes => {}
            Behaviour::Refuses(status) => {
                write!(writer, "HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n")?;
                continue;
            }
            Behaviour::Hangs => {
                while !state.ended.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(50));
                }
                return Ok(());
            }
        }
        let request = ExportTraceServiceRequest::decode(body.as_slice()).context("no protobuf of a trace")?;
        for of_resource in request.resource_spans {
            let resource = of_resource.resource.map(|resource| resource.attributes).unwrap_or_default();
            let spans = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans).collect();
            lock(&state.requests).push(Received { head: head.clone(), resource, spans });
        }
        write!(writer, "HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n")?;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
