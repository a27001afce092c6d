//! A store for tests: it takes and shows every record, without its bytes, unless the test says what it answers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::sink) struct FakeRequest {
    /// Method and path.
    pub line: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
}

impl FakeRequest {
    pub fn is(&self, method: &str) -> bool {
        self.line.starts_with(method)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The entries that the request writes to; none: it is no write.
    pub fn written_entries(&self) -> Vec<&str> {
        match (self.is("POST"), self.line.ends_with("/batch"), self.header("x-reduct-entries")) {
            (true, true, _) => self.line.rsplit('/').nth(1).into_iter().collect(),
            (true, false, Some(names)) => names.split(',').collect(),
            _ => Vec::new(),
        }
    }

    /// The times of the records that a request for one entry writes.
    pub fn written_times(&self) -> Vec<u64> {
        let records = self.written_records();
        if self.header("x-reduct-entries").is_some() { Vec::new() } else { records.map(|(_, time, _)| time).collect() }
    }

    /// The entry, the time and the description of each record that it writes.
    fn written_records(&self) -> impl Iterator<Item = (String, u64, String)> {
        let entries = self.written_entries();
        let start: u64 = self.header("x-reduct-start-ts").map_or(0, |start| start.parse().unwrap());
        self.headers.iter().filter_map(move |(name, described)| {
            let (at, time) = match name.strip_prefix("x-reduct-time-") {
                Some(time) => (0, time.parse().ok()?),
                None => {
                    let (at, delta) = name.strip_prefix("x-reduct-")?.split_once('-')?;
                    (at.parse().ok()?, start + delta.parse::<u64>().ok()?)
                }
            };
            Some(((*entries.get(at)?).to_owned(), time, described.clone()))
        })
    }
}

/// What it answers: a status, headers and a body.
pub(in crate::sink) type FakeAnswer = (u16, Vec<(String, String)>, String);

/// A failed request, with the store's text.
pub(in crate::sink) fn failed(status: u16, text: &str) -> FakeAnswer {
    (status, vec![("x-reduct-error".into(), text.into())], String::new())
}

pub(in crate::sink) struct FakeStore {
    pub url: String,
    asked: Arc<Mutex<Vec<FakeRequest>>>,
}

/// The descriptions of an entry's records, by time.
type HeldRecords = BTreeMap<String, BTreeMap<u64, String>>;

impl FakeStore {
    /// `judge` says what is answered; `None`: what a store answers that takes everything.
    pub async fn start(judge: impl Fn(&FakeRequest) -> Option<FakeAnswer> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (asked, judge) = (Arc::new(Mutex::new(Vec::new())), Arc::new(judge));
        let (noted, held) = (Arc::clone(&asked), Arc::<Mutex<HeldRecords>>::default());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (judge, noted, held) = (Arc::clone(&judge), Arc::clone(&noted), Arc::clone(&held));
                tokio::spawn(async move { serve(client, &*judge, &noted, &held).await });
            }
        });
        Self { url, asked }
    }

    pub fn asked(&self) -> Vec<FakeRequest> {
        self.asked.lock().unwrap().clone()
    }

    /// The entries of each write, in the order in which the writes came.
    pub fn writes(&self) -> Vec<Vec<String>> {
        let written = |asked: &FakeRequest| asked.written_entries().into_iter().map(str::to_owned).collect::<Vec<_>>();
        self.asked().iter().map(written).filter(|entries| !entries.is_empty()).collect()
    }
}

async fn serve(
    mut client: TcpStream,
    judge: &(impl Fn(&FakeRequest) -> Option<FakeAnswer> + ?Sized),
    noted: &Mutex<Vec<FakeRequest>>,
    held: &Mutex<HeldRecords>,
) -> Option<()> {
    let mut buffer = Vec::new();
    loop {
        let head_end = loop {
            if let Some(at) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break at;
            }
            if client.read_buf(&mut buffer).await.ok()? == 0 {
                return None;
            }
        };
        let head = String::from_utf8_lossy(&buffer[..head_end]).into_owned();
        let mut lines = head.lines();
        let line = lines.next()?.trim_end_matches(" HTTP/1.1").to_owned();
        let header = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        };
        let asked = FakeRequest { line, headers: lines.filter_map(header).collect() };
        let length: usize = asked.header("content-length").map_or(0, |length| length.parse().unwrap());
        while buffer.len() < head_end + 4 + length {
            if client.read_buf(&mut buffer).await.ok()? == 0 {
                return None;
            }
        }
        buffer.drain(..head_end + 4 + length);
        let (status, headers, body) = judge(&asked).unwrap_or_else(|| take(&asked, &mut held.lock().unwrap()));
        let is_head = asked.is("HEAD");
        noted.lock().unwrap().push(asked);
        let mut answer = format!("HTTP/1.1 {status} x\r\nx-reduct-api: 1.21\r\n");
        headers.iter().for_each(|(name, value)| answer += &format!("{name}: {value}\r\n"));
        if !headers.iter().any(|(name, _)| name == "content-length") {
            answer += &format!("content-length: {}\r\n", body.len());
        }
        answer += "\r\n";
        answer += if is_head { "" } else { &body };
        client.write_all(answer.as_bytes()).await.ok()?;
    }
}

/// The bucket is there, and takes everything. A query's number is the place of its entry.
fn take(asked: &FakeRequest, held: &mut HeldRecords) -> FakeAnswer {
    for (entry, time, described) in asked.written_records() {
        held.entry(entry).or_default().insert(time, described);
    }
    let (method, path) = asked.line.split_once(' ').unwrap();
    let parts: Vec<&str> = path.trim_start_matches("/api/v1/").split('/').collect();
    let shown = |headers: Vec<(String, String)>| (200, headers, String::new());
    match (method, &parts[..]) {
        ("POST", ["b", _, entry, "q"]) => match held.keys().position(|known| known == entry) {
            Some(at) => (200, vec![("content-type".into(), "application/json".into())], format!("{{\"id\":{at}}}")),
            None => failed(404, "no such entry"),
        },
        ("HEAD", ["b", _, entry, query]) if query.starts_with("batch?q=") => {
            let records = held.get(*entry).into_iter().flatten();
            let head = |(time, described): (&u64, &String)| (format!("x-reduct-time-{time}"), described.clone());
            shown(records.map(head).chain([("x-reduct-last".into(), "true".into())]).collect())
        }
        ("HEAD", ["b", _, entry]) if held.contains_key(*entry) => {
            let newest = held.get(*entry).and_then(|records| records.keys().next_back().copied()).unwrap_or_default();
            shown(vec![("x-reduct-time".into(), newest.to_string()), ("content-type".into(), "text/plain".into())])
        }
        ("HEAD" | "GET", ["b", _, _, ..]) => failed(404, "no such record"),
        _ => shown(Vec::new()),
    }
}
