//! Tests the page at `/` in a real Chromium: what a caller without the token sees, what one with the token can do, with
//! the keyboard, on a phone, in light and dark.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reduct_sink_testbed::{Message, Sink, bed, figures, payload, process, unique};
use serde_json::Value;

use super::{BOUND, address, wait_healthy};
use crate::guest;

/// The body of a plugin that rejects records with a header and keeps all others.
pub(super) const PICKY: &str = r#"
    (if (i32.eq (local.get $header-count) (i32.const 1)) (then (return (call $reject $"no such camera"))))
    (call $keep)"#;

#[test]
fn a_person_finds_everything_on_the_page() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("shown");
    kafka.create_topic(&topic, 2)?;
    let folder = process::data_folder("page")?;
    let (plugin, token) = (folder.path().join("picky.wasm"), folder.path().join("token"));
    std::fs::write(&plugin, guest::guest(PICKY))?;
    std::fs::write(&token, "a-secret\n")?;
    let address = address()?;
    let config = bed
        .sink_config(&topic)
        .set("status.listen", address.as_str())
        .set("status.token_file", token.to_str().context("UTF-8")?)
        .plugin("picky", &plugin, "")?;
    let mut sink = Sink::start(&config)?;
    wait_healthy(&mut sink, &address)?;
    let markup = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script>";
    kafka.produce(
        &topic,
        (0..400).map(|n| {
            let message = Message::new(payload(n, 300)).partition((n % 2) as i32);
            if n % 100 == 7 { Message::new(markup).partition(0).header("camera", "x") } else { message }
        }),
    )?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], BOUND)?;
    // The lines have a point every five seconds.
    std::thread::sleep(Duration::from_secs(11));
    let pictures = std::env::var("TESTBED_PICTURES").unwrap_or_else(|_| folder.path().display().to_string());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/browser/page.py");
    let output = Command::new("python3").args([script, &address, "a-secret", &pictures]).output()?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let problems = String::from_utf8_lossy(&output.stderr).into_owned();
    let found: Value = serde_json::from_str(&told).with_context(|| format!("{told}{problems}"))?;
    let checks = found["checks"].as_array().context("checks")?;
    let failed: Vec<String> =
        checks.iter().filter(|check| check["ok"] != true).map(|check| check.to_string()).collect();
    ensure!(failed.is_empty() && output.status.success(), "{}\n{problems}", failed.join("\n"));
    ensure!(checks.len() >= 15, "{} checks only", checks.len());
    figures::record("page_checks", checks.len() as f64)?;
    sink.stop_cleanly()
}
