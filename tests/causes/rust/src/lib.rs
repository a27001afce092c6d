//! Ten mistakes; ../../README.md says what the comments mean.

use reduct_sink_plugin::{Failure, Record, Transform, Verdict, log, plugin};
use serde::Deserialize;

#[derive(Deserialize)]
struct Config {}

struct Plugin;

impl Transform for Plugin {
    type Config = Config;

    fn configure(_: Config) -> Result<Self, String> {
        Ok(Self)
    }

    fn transform(&mut self, record: &Record<'_>) -> Result<Verdict, Failure> {
        let name = record.header_text("mistake").unwrap_or_default();
        log::info!("making the mistake {name}");
        let none: Option<u8> = record.header("none").map(|bytes| bytes[0]);
        let zero = record.offset - 7;
        let list = vec![1, 2, 3];
        let at = list.len() + zero as usize;
        match name {
            "panic" => panic!("my own panic"), //= panic: my own panic
            "unwrap" => drop(none.unwrap()), //= unwrap: called `Option::unwrap()` on a `None` value
            "expect" => drop(none.expect("a number")), //= expect: a number
            "index" => drop(list[at]), //= index: index out of bounds: the len is 3 but the index is 3
            "slice" => drop(list[at + 1..].to_vec()), //= slice: out of range for slice of length 3
            "division" => drop(1 / zero), //= division: attempt to divide by zero
            "assertion" => assert_eq!(zero, 1, "not one"), //= assertion: not one
            "unreachable" => unreachable!("nobody comes here"), //= unreachable: nobody comes here
            "clock" => drop(std::time::SystemTime::now()), //= clock: time not implemented on this platform
            "rejected" => return Err("not today".into()), //~ rejected: not today
            _ => {}
        }
        Ok(Verdict::Keep)
    }
}

plugin!(Plugin);
