//! The report of a running host as text, for a person.
//!
//! Guarantees: a rate or a lag that isn't known is shown as unknown, never as zero; what a problem says is not said again; a table
//! without rows has no head either.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

/// Kinds of failures that the table shows of a plugin.
const FAILURES: usize = 3;

/// What a person wants to see of several pipelines.
pub fn several(pipelines: &serde_json::Map<String, Value>) -> String {
    let told = pipelines.iter().map(|(name, report)| {
        let failures = match report["pipeline_failures"].as_u64() {
            Some(0) | None => String::new(),
            Some(1) => " (failed once since the process started)".into(),
            Some(times) => format!(" (failed {times} times since the process started)"),
        };
        format!("pipeline {name}{failures}\n{}", table(report))
    });
    told.collect::<Vec<_>>().join("\n")
}

/// What a person wants to see of it.
pub fn table(report: &Value) -> String {
    [
        host_lines(report),
        problem_lines(report),
        progress_lines(report),
        partition_rows(report),
        plugin_rows(report),
        failure_lines(report),
        swap_rows(report),
    ]
    .concat()
}

/// Which host it is, and what it connects.
fn host_lines(report: &Value) -> String {
    let uptime = humantime::format_duration(Duration::from_secs(number(report, "uptime_s")));
    let topics: Vec<String> = list(report, "topics").iter().map(word).collect();
    format!(
        "reduct-sink {}, up {uptime}\ngroup {}, {} → {}, bucket {}\n",
        report["version"].as_str().unwrap_or("?"),
        word(&report["group"]),
        topics.join(", "),
        word(&report["store"]),
        word(&report["bucket"]),
    )
}

/// What is wrong, and what the host does or waits for besides reading.
fn problem_lines(report: &Value) -> String {
    let mut text = String::new();
    for problem in list(report, "problems") {
        let (code, for_s) = (word(&problem["code"]), word(&problem["for_s"]));
        let _ = writeln!(text, "problem {code} for {for_s} s: {}", word(&problem["message"]));
    }
    if report["replay"].is_object() {
        let _ = writeln!(text, "{}", replay_line(&report["replay"]));
    }
    // A problem has told it already.
    let is_told = list(report, "problems").iter().any(|problem| problem["code"] == "kafka.assignment");
    if let Some(waits) = report["waits_for_group"].as_str().filter(|_| !is_told) {
        let _ = writeln!(text, "{waits}");
    }
    text
}

/// How far the host is, how fast it goes, and why it isn't faster.
fn progress_lines(report: &Value) -> String {
    let number = |key: &str| number(report, key);
    let rate = |key: &str| report[key].as_f64().map_or("unknown".into(), |rate| format!("{rate:.0}"));
    let mut text = format!("{}\n", lag_line(&report["lag"]));
    let _ = writeln!(
        text,
        "{} records/s now, {} over the last minute; written {} records ({}) and {} dead letters, found {}, repaired {}, in flight {} ({})",
        rate("records_per_s_now"),
        rate("records_per_s"),
        number("written"),
        size(number("written_bytes")),
        number("dead_letters"),
        number("found"),
        number("repaired"),
        number("in_flight_records"),
        size(number("in_flight_bytes")),
    );
    if let Some(reason) = report["behind"].as_str() {
        let _ = writeln!(text, "{reason}");
    }
    text
}

fn partition_rows(report: &Value) -> String {
    let row = |partition: &Value| {
        let name = format!("{}/{}", word(&partition["topic"]), word(&partition["partition"]));
        let stuck = if partition["stuck"] == true { "stuck" } else { "" };
        let mut values = ["begin", "position", "end", "lag"].map(|key| word(&partition[key]));
        let mut behind = partition["lag_s"].as_f64().map_or("-".into(), |seconds| format!("{seconds:.0}"));
        let last = &partition["last_known"];
        if let (Some(records), Some(seconds), Some(ago)) =
            (last["records"].as_u64(), last["seconds"].as_f64(), last["ago_s"].as_u64())
        {
            (values[3], behind) = (format!("? ({records}, {ago} s ago)"), format!("? ({seconds:.0})"));
        }
        [vec![name], values.into(), vec![behind, word(&partition["in_flight"]), stuck.into()]].concat()
    };
    let head = ["PARTITION", "BEGIN", "POSITION", "END", "LAG", "BEHIND s", "IN FLIGHT", ""];
    columns(&head, list(report, "partitions").iter().map(row).collect())
}

fn plugin_rows(report: &Value) -> String {
    let counts = ["kept", "changed", "split", "dropped", "failed", "retried", "passed_over"];
    let row = |plugin: &Value| {
        let first =
            vec![word(&plugin["name"]), version(&plugin["digest"], &plugin["config"]), ago(plugin["since_s"].as_u64())];
        let latency = ["p50_us", "p99_us", "max_us"].map(|key| decimal(field(&plugin["latency"], key)));
        let memory = size(plugin["memory_bytes"].as_u64().unwrap_or(0));
        let breaker = if plugin["breaker_open"] == true { "breaker open" } else { "" };
        [first, counts.map(|key| word(&plugin[key])).into(), latency.into(), vec![memory, breaker.into()]].concat()
    };
    let head = [
        "PLUGIN",
        "VERSION",
        "AT WORK",
        "KEPT",
        "CHANGED",
        "SPLIT",
        "DROPPED",
        "FAILED",
        "RETRIED",
        "PASSED OVER",
        "P50 µs",
        "P99 µs",
        "MAX µs",
        "MEMORY",
        "",
    ];
    columns(&head, list(report, "plugins").iter().map(row).collect())
}

/// On what the plugins failed.
fn failure_lines(report: &Value) -> String {
    let mut text = String::new();
    for plugin in list(report, "plugins") {
        for failure in list(plugin, "failures").iter().take(FAILURES) {
            let (name, count, reason) = (word(&plugin["name"]), word(&failure["count"]), word(&failure["reason"]));
            let last = ago(failure["last_at_ms"].as_u64().map(|ms| ms / 1000));
            let _ =
                writeln!(text, "{name} failed {count} times, last {last} ago: {}", reason.replace(['\n', '\r'], " "));
        }
    }
    text
}

fn swap_rows(report: &Value) -> String {
    let row = |swap: &Value| {
        let steps = ["compile_ms", "start_ms", "trial_ms", "take_over_ms", "worker_ms"];
        let first = vec![
            word(&swap["number"]),
            ago(swap["at_ms"].as_u64().map(|ms| ms / 1000)),
            word(&swap["plugin"]),
            format!("{} to {}", version(&swap["old"], &swap["old_config"]), version(&swap["new"], &swap["new_config"])),
            word(&swap["cause"]),
            word(&swap["outcome"]),
        ];
        [
            first,
            steps.map(|key| decimal(field(&swap["steps"], key))).into(),
            vec![swap["reason"].as_str().unwrap_or("").into()],
        ]
        .concat()
    };
    let head = [
        "SWAP",
        "AGO",
        "PLUGIN",
        "VERSION",
        "BY",
        "OUTCOME",
        "COMPILE ms",
        "START ms",
        "TRIAL ms",
        "TAKE-OVER ms",
        "WORKER ms",
        "REASON",
    ];
    columns(&head, list(report, "swaps").iter().map(row).collect())
}

/// How far the host is behind over all partitions.
fn lag_line(lag: &Value) -> String {
    let told = |records: &Value, seconds: &Value| {
        format!("{} records, {:.0} s", records.as_u64().unwrap_or(0), seconds.as_f64().unwrap_or_default())
    };
    if !lag["records"].is_null() {
        return format!("lag {} behind", told(&lag["records"], &lag["seconds"]));
    }
    let last = &lag["last_known"];
    match last["ago_s"].as_u64() {
        Some(ago) => format!("lag unknown; {ago} s ago it was {}", told(&last["records"], &last["seconds"])),
        None => "lag unknown so far".into(),
    }
}

/// How far a replay by the running host is, or a dry run of one, or how it ended.
pub fn replay_line(replay: &Value) -> String {
    let count = |key: &str| replay[key].as_u64().unwrap_or(0);
    let state = if replay["running"] == true { "running" } else { "ended" };
    let (what, removed) =
        if replay["write"] == true { ("replay", " and removed") } else { ("dry run of a replay", "") };
    let written = if replay["write"] == true { "written" } else { "would be written" };
    let of_all = replay["total"].as_u64().map_or(String::new(), |total| format!(" of {total}"));
    let mut text = format!(
        "{what} {state}: {}{of_all} dead letters handled: {} {written}{removed}, {} dropped{removed}, {} failing, {} left",
        count("letters"),
        count("written"),
        count("dropped"),
        count("failing"),
        count("untouched"),
    );
    let (settling, remaining) = (count("settling"), replay["remaining"].as_u64());
    if let Some(remaining) = remaining {
        text += &format!("; {remaining} remain");
    }
    if settling > 0 {
        let ahead = remaining.map(|remaining| remaining.saturating_sub(settling)).filter(|ahead| *ahead > 0);
        let ahead = ahead.map_or(String::new(), |ahead| format!("{ahead} not looked at yet, "));
        let found = match count("settling_found") {
            0 => String::new(),
            found => format!(" ({found} of them were found written already)"),
        };
        text += &format!(": {ahead}{settling} done with{found}");
        text += &match replay["settled_in_s"].as_u64() {
            Some(0) => " and being removed from the dead letters".into(),
            Some(seconds) => {
                format!(" and removed from the dead letters in {seconds} s, when ReductStore has saved their records")
            }
            None => " and removed from the dead letters after the last one is written and ReductStore has saved their records".to_owned(),
        };
    }
    for (reason, letters) in replay["left_because"].as_object().into_iter().flatten() {
        text += &format!("; {} stay: {reason}", letters.as_u64().unwrap_or(0));
    }
    for (key, words) in
        [("first_failing", "the first that fails"), ("first_left", "the first that stays"), ("error", "it failed")]
    {
        if let Some(reason) = replay[key].as_str() {
            text += &format!("; {words}: {reason}");
        }
    }
    text
}

fn list<'a>(report: &'a Value, key: &str) -> &'a [Value] {
    report[key].as_array().map_or(&[], Vec::as_slice)
}

fn number(report: &Value, key: &str) -> u64 {
    report[key].as_u64().unwrap_or(0)
}

/// Columns as wide as they need to be, below an empty line; nothing if there are no rows.
fn columns(head: &[&str], rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let head: Vec<String> = head.iter().map(ToString::to_string).collect();
    let width = |column: usize| {
        let cells = rows.iter().chain([&head]).filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::from("\n");
    for row in [&head].into_iter().chain(&rows) {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

fn field<'a>(value: &'a Value, key: &str) -> &'a Value {
    value.get(key).unwrap_or(&Value::Null)
}

pub fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// `DIGEST:CONFIG`, as in the label `sink.plugins`.
fn version(digest: &Value, config: &Value) -> String {
    let digest: String = digest.as_str().unwrap_or("-").chars().take(12).collect();
    config.as_str().map_or_else(|| digest.clone(), |config| format!("{digest}:{config}"))
}

fn decimal(value: &Value) -> String {
    value.as_f64().map_or("-".into(), |number| format!("{number:.2}"))
}

fn size(bytes: u64) -> String {
    // In thousands, as the configuration's MB and the page.
    bytesize::ByteSize(bytes).display().si().to_string()
}

/// How long ago that second was, roughly.
fn ago(second: Option<u64>) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    second.map_or("-".into(), |second| {
        let passed = now.saturating_sub(second);
        let passed = if passed > 3600 { passed / 60 * 60 } else { passed };
        humantime::format_duration(Duration::from_secs(passed)).to_string()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_problem_says_is_not_said_again_and_what_is_unknown_is_no_zero() {
        let waits = "waits for the group to give it partitions";
        let mut report =
            json!({ "problems": [], "waits_for_group": waits, "records_per_s": 8.6, "records_per_s_now": null });
        let told = table(&report);
        assert!(told.contains(&format!("\n{waits}\n")) && told.contains("\nunknown records/s now, 9 over"), "{told}");
        report["problems"] = json!([{ "code": "kafka.assignment", "message": waits, "for_s": 12 }]);
        assert_eq!(table(&report).matches(waits).count(), 1, "{}", table(&report));
    }

    #[test]
    fn an_unknown_lag_is_told_as_unknown_with_what_was_known_last() {
        let told = |lag| lag_line(&lag);
        assert_eq!(told(json!({ "records": 0, "seconds": 0.0 })), "lag 0 records, 0 s behind");
        assert_eq!(told(json!({ "records": null, "seconds": null })), "lag unknown so far");
        let lost = json!({ "records": null, "last_known": { "records": 12, "seconds": 3.4, "ago_s": 40 } });
        assert_eq!(told(lost), "lag unknown; 40 s ago it was 12 records, 3 s");
    }

    #[test]
    fn a_replay_says_how_many_letters_there_are_how_many_remain_and_why_some_stay() {
        let replay = json!({
            "running": true, "write": true, "total": 960, "remaining": 930, "letters": 30, "written": 20, "dropped": 1,
            "failing": 7, "untouched": 2, "settling": 900, "settling_found": 50, "settled_in_s": 52,
            "left_because": { "another host of the group reads their partitions": 2 },
        });
        let told = replay_line(&replay);
        assert_eq!(
            told,
            "replay running: 30 of 960 dead letters handled: 20 written and removed, 1 dropped and removed, 7 failing, 2 left; 930 remain: 30 \
             not looked at yet, 900 done with (50 of them were found written already) and removed from the dead letters in 52 s, when \
             ReductStore has saved their records; 2 stay: another host of the group reads their partitions"
        );
    }

    #[test]
    fn sizes_are_in_thousands_as_everywhere() {
        assert_eq!((size(999), size(1_500_000)), ("999 B".to_owned(), "1.5 MB".to_owned()));
    }
}
