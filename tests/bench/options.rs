//! The command line.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

use crate::Kind;
use crate::plan::{SIZES, Size};

const USAGE: &str = "usage: bench [--long] [--json FILE] [--partitions N] [--apart] [--only KINDS] [--size SIZE] [--rounds N]\n\
                     KINDS are letters of abcdefgi, and h for the host with a discarding sink and with a backlog;\n\
                     --apart gives ReductStore a core to itself and Kafka and the writer the others";

#[derive(Debug)]
pub struct Options {
    pub long: bool,
    pub json: Option<PathBuf>,
    pub partitions: i32,
    pub apart: bool,
    only: Option<String>,
    size: Option<String>,
    rounds: Option<usize>,
}

impl Options {
    pub fn from_args(mut args: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            long: false,
            json: None,
            partitions: DEFAULT_PARTITIONS,
            apart: false,
            only: None,
            size: None,
            rounds: None,
        };
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} needs a value\n{USAGE}"));
            match arg.as_str() {
                "--long" => options.long = true,
                "--json" => options.json = Some(value()?.into()),
                "--partitions" => options.partitions = value()?.parse().context("--partitions needs a number")?,
                "--apart" => options.apart = true,
                "--only" => options.only = Some(value()?),
                "--size" => options.size = Some(value()?),
                "--rounds" => options.rounds = Some(value()?.parse().context("--rounds needs a number")?),
                _ => bail!("unknown argument {arg:?}\n{USAGE}"),
            }
        }
        ensure!(options.partitions > 0, "--partitions needs at least 1");
        let known = |letter: char| letter == 'h' || Kind::ALL.iter().any(|kind| kind.letter() == letter);
        ensure!(options.only.iter().all(|only| only.chars().all(known)), "unknown kind\n{USAGE}");
        let known = |name: &String| SIZES.iter().any(|size| size.name == name);
        ensure!(options.size.iter().all(known), "sizes are {}", SIZES.map(|size| size.name).join(", "));
        Ok(options)
    }

    pub fn wants(&self, kind: Kind) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(kind.letter()))
    }

    /// How many rounds are measured at a size.
    pub fn rounds(&self, size: &Size) -> usize {
        self.rounds.unwrap_or_else(|| size.rounds(self.long))
    }

    pub fn wants_size(&self, name: &str) -> bool {
        self.size.as_ref().is_none_or(|size| size == name)
    }

    /// The measurements that have no size of their own.
    pub fn wants_host(&self) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains('h'))
    }
}

/// Of the topics, and so of the entries that all writers but the tutorial's share out. Of 1, 2 and 4 the host was
/// fastest with 2; the direct writer too, or within what is noise (8 % at 100 KB, with 4).
const DEFAULT_PARTITIONS: i32 = 2;
