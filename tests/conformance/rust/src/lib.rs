//! The conformance guest in Rust; ../../README.md says what it does.

use reduct_sink_plugin::{Change, Failure, Record, Transform, Verdict, log, plugin};

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Config {
    prefix: String,
    refuse: Option<String>,
    trap: bool,
}

struct Guest {
    prefix: String,
    calls: u64,
}

impl Transform for Guest {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, String> {
        assert!(!config.trap, "trapped as told");
        match config.refuse {
            Some(text) => Err(text),
            None => Ok(Self { prefix: config.prefix, calls: 0 }),
        }
    }

    fn transform(&mut self, record: &Record<'_>) -> Result<Verdict, Failure> {
        self.calls += 1;
        let (mut changes, mut split, mut touched, mut dropped) = (vec![Change::new()], false, false, false);
        for header in &record.headers {
            let Some(command) = header.key.strip_prefix(self.prefix.as_str()) else { continue };
            let bytes = header.value.as_deref().unwrap_or_default();
            let text = || String::from_utf8(bytes.to_vec()).unwrap();
            let number = || text().parse::<u64>().unwrap();
            let fresh = matches!(command, "part" | "parts");
            if fresh && !split {
                (split, changes) = (true, Vec::new());
            }
            if command == "part" {
                changes.push(Change::new());
            } else if command == "parts" {
                changes.extend((0..number()).map(|_| Change::new()));
            }
            touched |= !matches!(command, "keep" | "log");
            let mut none = Change::new();
            let change = changes.last_mut().unwrap_or(&mut none);
            match command {
                "keep" | "part" | "parts" => {}
                "drop" => dropped = true,
                "change" => {}
                "entry" => change.entry = Some(text()),
                "timestamp" => change.timestamp = Some(number()),
                "content-type" => change.content_type = Some(text()),
                "payload" => change.payload = Some(bytes.to_vec()),
                "fill" => change.payload = Some(vec![b'x'; number() as usize]),
                "label" => {
                    let text = text();
                    let (name, value) = text.split_once('=').unwrap();
                    *change = std::mem::take(change).set_label(name, value);
                }
                "unlabel" => *change = std::mem::take(change).remove_label(text()),
                "labels" => {
                    for n in 0..number() {
                        *change = std::mem::take(change).set_label(format!("l{n}"), "v");
                    }
                }
                "reject" => return Err(Failure::Reject(text())),
                "retry" => return Err(Failure::Retry(text())),
                "trap" => panic!("trapped as told"),
                "loop" => loop {
                    std::hint::black_box(0);
                },
                "grow" => loop {
                    std::mem::forget(std::hint::black_box(vec![1_u8; 1 << 20]));
                },
                "log" => log::info!("{}", text()),
                "tell" => {
                    let told = self.tell(&text(), record);
                    change.payload.get_or_insert_default().extend(told);
                }
                "read" => {
                    let text = text();
                    let (offset, length) = text.split_once(' ').unwrap();
                    let read = record.read(offset.parse().unwrap(), length.parse().unwrap());
                    change.payload.get_or_insert_default().extend(read);
                }
                name => *change = std::mem::take(change).set_label(name, text()),
            }
        }
        Ok(match (dropped, split, touched) {
            (true, ..) => Verdict::Drop,
            (_, true, _) => Verdict::Split(changes),
            (.., true) => Verdict::Change(changes.remove(0)),
            _ => Verdict::Keep,
        })
    }
}

impl Guest {
    fn tell(&self, what: &str, record: &Record<'_>) -> Vec<u8> {
        let mut told = Vec::new();
        match what {
            "topic" => told.extend(record.topic.bytes()),
            "partition" => told.extend(record.partition.to_string().bytes()),
            "offset" => told.extend(record.offset.to_string().bytes()),
            "timestamp" => told.extend(record.timestamp.to_string().bytes()),
            "payload-size" => told.extend(record.payload_size.to_string().bytes()),
            "payload" => return record.payload(),
            "entry" => told.extend(record.entry().bytes()),
            "content-type" => told.extend(record.content_type().bytes()),
            "count" => told.extend(self.calls.to_string().bytes()),
            "key" => match &record.key {
                None => told.extend(b"none"),
                Some(key) => told.extend([b"some:", key.as_slice()].concat()),
            },
            "headers" => {
                for header in &record.headers {
                    told.extend(header.key.bytes());
                    if let Some(value) = &header.value {
                        told.push(b'=');
                        told.extend(value);
                    }
                    told.push(b'\n');
                }
            }
            "labels" => {
                for label in record.labels() {
                    told.extend(format!("{}={}\n", label.name, label.value).bytes());
                }
            }
            other => panic!("there is no {other} to tell"),
        }
        told
    }
}

plugin!(Guest);
