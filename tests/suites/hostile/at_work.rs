//! Tests plugins that load and then misbehave, each on a record of its own, all in one chain of one host.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use reduct_sink_testbed::verify::{Expected, compare};
use reduct_sink_testbed::{Message, Produced, Sink, Stored, bed, long, payload, process, read_back, unique};

use super::misdeeds::{Fate, Misdeed, forever, misdeed, times};
use super::{CATCH_UP, by_answers, by_tables, by_wasi, has_died, note};

/// The offset of the first record on which a plugin misbehaves; before it all instances have handled records.
const FIRST: u64 = 20;
const PARTITIONS: i32 = 2;

/// All misdeeds: traps, endless loops, invalid answers, and attempts to use up resources.
pub fn all() -> Vec<Misdeed> {
    [traps(), wrong_answers(), nuisances()].into_iter().flatten().collect()
}

fn traps() -> Vec<Misdeed> {
    use Fate::Letter;
    vec![
        misdeed("trap", Letter("unreachable"), "unreachable"),
        misdeed(
            "divide-by-zero",
            Letter("divide by zero"),
            "(drop (i32.div_u (i32.const 1) (i32.const 0))) unreachable",
        ),
        misdeed("overflow", Letter("overflow"), "(drop (i32.div_s (i32.const 0x80000000) (i32.const -1))) unreachable"),
        misdeed("no-such-memory", Letter("out of bounds"), "(drop (i32.load (i32.const -4))) unreachable"),
        misdeed("no-such-function", Letter("wasm trap"), "(call_indirect (i32.const 9)) unreachable")
            .with("(table 1 funcref)"),
        misdeed("endless", Letter("time limit"), forever("")),
        misdeed("endless-reading", Letter("limit"), forever("(call $host-payload)")),
        misdeed("endless-asking", Letter("limit"), forever("(call $host-labels)")),
        misdeed(
            "endless-logging",
            Letter("more lines in one call"),
            forever(r#"(call $host-log (i32.const 2) $"again")"#),
        ),
        misdeed("recursion", Letter("call stack exhausted"), "(call $deep) unreachable")
            .with("(func $deep (call $deep) (call $deep))"),
        misdeed(
            "memory",
            Letter("memory limit"),
            forever("(if (i32.eq (i32.const -1) (memory.grow (i32.const 64))) (then unreachable))"),
        ),
    ]
}

fn wrong_answers() -> Vec<Misdeed> {
    use Fate::{Either, Letter};
    let large = "(drop (memory.grow (i32.const 60))) (call $payload (i32.const 0) (i32.const 2000000)) (call $change)";
    let amplified =
        format!("{} (call $split)", times(1000, "(call $part) (call $payload (i32.const 0) (i32.const 100000))"));
    vec![
        misdeed("no-such-verdict", Letter("discriminant"), "(call $verdict (i32.const 9))"),
        misdeed("text-outside-memory", Letter("out of bounds"), "(call $reject (i32.const -9) (i32.const 5))"),
        misdeed("answer-outside-memory", Letter("out of bounds"), "(i32.const -8)"),
        misdeed("unaligned-answer", Letter("aligned"), "(i32.const 1)"),
        misdeed(
            "no-text",
            Letter("utf-8"),
            "(i32.store8 (i32.const 2048) (i32.const 0xff)) (call $reject (i32.const 2048) (i32.const 1))",
        ),
        misdeed("control-characters", Letter(""), r#"(call $reject (i32.const 200000) (i32.const 50000))"#),
        misdeed("no-parts", Letter("no parts"), "(call $split)"),
        misdeed("many-parts", Letter("1025 parts"), format!("{} (call $split)", times(1025, "(call $part)"))),
        misdeed(
            "many-labels",
            Letter("257 labels"),
            format!("{} (call $change)", times(257, r#"(call $label $"l" $"v")"#)),
        ),
        misdeed("large-answer", Letter("2000000 bytes"), large),
        misdeed("amplified-answer", Letter("fuel"), amplified),
        misdeed("entry-characters", Letter("illegal entry"), r#"(call $entry $"a b") (call $change)"#),
        misdeed("entry-empty", Letter("illegal entry"), r#"(call $entry $"") (call $change)"#),
        misdeed("entry-up", Letter("illegal entry"), r#"(call $entry $"../../etc/passwd") (call $change)"#),
        misdeed("entry-absolute", Letter("illegal entry"), r#"(call $entry $"/etc") (call $change)"#),
        misdeed(
            "entry-long",
            Letter("illegal entry"),
            format!(
                "{} (call $entry (i32.const 2048) (i32.const 1000)) (call $change)",
                "(memory.fill (i32.const 2048) (i32.const 97) (i32.const 1000))"
            ),
        ),
        misdeed(
            "content-type-lines",
            Letter("illegal content type"),
            "(call $type $\"a/b\r\nset-cookie: x\") (call $change)",
        ),
        misdeed("label-of-100-kb", Either, r#"(call $label $"l" (i32.const 200000) (i32.const 50000)) (call $change)"#),
        misdeed("end-of-time", Either, "(call $time (i64.const -1)) (call $change)"),
        misdeed("retry-for-ever", Letter("not yet (tried 2 times)"), r#"(call $retry $"not yet")"#),
    ]
}

fn nuisances() -> Vec<Misdeed> {
    use Fate::Written;
    vec![
        misdeed("memory-taken-quietly", Written, "(loop $more (br_if $more (i32.ne (i32.const -1) (memory.grow (i32.const 16))))) (call $keep)"),
        misdeed("table-taken-quietly", Written, "(loop $more (br_if $more (i32.ne (i32.const -1) (table.grow $t (ref.null func) (i32.const 100000))))) (call $keep)")
            .with("(table $t 1 funcref)"),
        misdeed("log-flood", Written, format!("{} (call $keep)", times(5000, r#"(call $host-log (i32.const 2) $"flooding")"#))),
        misdeed("log-escapes", Written, "(call $host-log (i32.const 1) $\"\x1b[2Jfirst\r\nforged line\") (call $keep)"),
        misdeed("log-of-100-kb", Written, "(call $host-log (i32.const 1) (i32.const 100000) (i32.const 100000)) (call $keep)"),
        misdeed("label-lines", Written, "(call $label $\"l\" $\"a\r\nb, c ä\") (call $change)"),
        misdeed("reserved-labels", Written, r#"(call $label $"kafka.offset" $"999999") (call $label $"@x" $"1") (call $label $"" $"e") (call $change)"#),
        misdeed("stolen-identity", Written, r#"(call $unlabel $"kafka.offset") (call $unlabel $"kafka.source") (call $change)"#),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_that_misbehave_spoil_their_own_records_only() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("hostile");
    kafka.create_topic(&topic, PARTITIONS)?;
    let misdeeds: Vec<Misdeed> =
        [all(), by_wasi::all(), by_answers::all(), by_tables::all()].into_iter().flatten().collect();
    let folder = process::data_folder("hostile")?;
    let mut config = bed.sink_config(&topic).set("cache.path", "");
    for (offset, misdeed) in (FIRST..).zip(&misdeeds) {
        let path = folder.path().join(format!("{}.wasm", misdeed.name));
        std::fs::write(&path, misdeed.component(offset))?;
        let keys = format!("timeout = '200ms'\nmemory = '8MB'\nattempts = 2\nlimits.verdict = '1MB'\n{}", misdeed.keys);
        config = config.plugin_with(misdeed.name, &path, &keys)?;
    }
    let after = if long() { 20_000 } else { 30 };
    let records = (FIRST + misdeeds.len() as u64 + after) * PARTITIONS as u64;
    let produced = kafka.produce(
        &topic,
        (0..records).map(|n| Message::new(payload(n, 500)).header("n", n.to_string()).partition(n as i32 % PARTITIONS)),
    )?;
    let mut sink = Sink::start(&config)?;
    let caught_up = sink.wait_caught_up(&kafka, config.group(), &[&topic], CATCH_UP);
    let died = has_died(&mut sink);
    caught_up?;
    sink.stop_cleanly()?;
    let (letters, stored): (Vec<Stored>, Vec<Stored>) = read_back(&bed.store.client()?, config.bucket(), "*")
        .await?
        .into_iter()
        .partition(|record| record.entry.starts_with("dead-letters/"));
    let letters = by_place(&letters)?;
    let (mut neighbours, mut problems): (Vec<&Produced>, Vec<String>) = (Vec::new(), Vec::new());
    for record in &produced {
        let misdeed = record.offset.checked_sub(FIRST).and_then(|at| misdeeds.get(at as usize));
        let letter = letters.get(&(record.partition, record.offset));
        match (misdeed.map(|misdeed| &misdeed.fate), letter) {
            (None | Some(Fate::Written), None) | (Some(Fate::Either), None) => neighbours.push(record),
            (Some(Fate::Letter(reason)), Some(letter)) => {
                let name = misdeed.map_or("", |misdeed| misdeed.name);
                if letter.0 != name || !letter.1.contains(reason) {
                    problems.push(format!("{name}: {} is blamed with {:?}, not with {reason:?}", letter.0, letter.1));
                }
            }
            (Some(Fate::Either), Some(_)) => {}
            (_, Some(letter)) => {
                problems.push(format!("{}@{}: a dead letter of {letter:?}", record.partition, record.offset));
            }
            (_, None) => {
                let name = misdeed.map_or("", |misdeed| misdeed.name);
                problems.push(format!("{name}: no dead letter of {}@{}", record.partition, record.offset));
            }
        }
    }
    let report = compare(neighbours.into_iter().map(Expected::from), &stored)?;
    note(misdeeds.len(), died, &report)?;
    ensure!(problems.is_empty(), "{}", problems.join("\n"));
    report.exact()?;
    let log = sink.log()?;
    ensure!(log.contains("left out lines of a plugin that logs more than"), "the flood isn't told");
    ensure!(!log.contains("\u{1b}[2J") && !log.lines().any(|line| line.starts_with("forged")), "a line was forged");
    ensure!(!died, "the host died");
    Ok(())
}

/// The plugin that each dead letter names, and the reason, by partition and offset.
fn by_place(letters: &[Stored]) -> Result<BTreeMap<(u32, u64), (String, String)>> {
    let mut by_place = BTreeMap::new();
    for letter in letters {
        let identity = letter.identity()?.context("a dead letter without an identity")?;
        let partition = identity.source.rsplit('/').next().context("topic/partition")?.parse()?;
        let label = |name: &str| letter.label(name).unwrap_or_default().to_owned();
        let blamed = (label("sink.plugin"), label("sink.reason"));
        ensure!(by_place.insert((partition, identity.offset), blamed).is_none(), "{identity}: two dead letters");
    }
    Ok(by_place)
}
