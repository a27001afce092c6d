//! The page at `/`, opened in a real Chromium: what a stranger sees, what somebody with the token can do, by keyboard, on a
//! phone, in light and dark; and a trial of a new version with its differences, which is rolled back and then promoted there.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reduct_sink_testbed::{Message, bed, figures, payload};
use serde_json::Value;

use super::BOUND;
use super::picky::{PickyHost, TOKEN};
use crate::guest;

#[test]
fn a_person_finds_everything_on_the_page() -> Result<()> {
    let trial = "trial = { mode = \"manual\", records = 40, every = 1, within = \"5m\" }";
    let PickyHost { kafka, topic, folder, plugin, address, config, mut sink } = PickyHost::start("shown", trial)?;
    let markup = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script>";
    kafka.produce(
        &topic,
        (0..400).map(|n| {
            let message = Message::new(payload(n, 300)).partition((n % 2) as i32);
            if n % 20 == 7 { Message::new(markup).partition(0).header("camera", "x") } else { message }
        }),
    )?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], BOUND)?;
    let answers =
        [r#"(call $label $"mended" $"first") (call $change)"#, r#"(call $label $"mended" $"second") (call $change)"#];
    let candidates = ["first.wasm", "second.wasm"].map(|name| folder.path().join(name));
    for (candidate, answer) in candidates.iter().zip(answers) {
        std::fs::write(candidate, guest::guest(answer))?;
    }
    // Records for the trials, so slowly that the host keeps up.
    let stop = Arc::new(AtomicBool::new(false));
    let producing = {
        let (stop, topic, kafka) = (stop.clone(), topic.clone(), bed()?.kafka.client());
        std::thread::spawn(move || -> Result<()> {
            for n in 0.. {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                kafka.produce(&topic, [Message::new(payload(n, 300)).partition((n % 2) as i32)])?;
                std::thread::sleep(Duration::from_millis(50));
            }
            Ok(())
        })
    };
    // The lines have a point every five seconds.
    std::thread::sleep(Duration::from_secs(11));
    let pictures = std::env::var("TESTBED_PICTURES").unwrap_or_else(|_| folder.path().display().to_string());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/browser/page.py");
    let mut command = Command::new("python3");
    command.args([script, &address, TOKEN, &pictures]).arg(&plugin).args(&candidates);
    let output = command.output();
    stop.store(true, Ordering::SeqCst);
    producing.join().expect("the producer doesn't panic")?;
    let output = output?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let problems = String::from_utf8_lossy(&output.stderr).into_owned();
    let found: Value = serde_json::from_str(&told).with_context(|| format!("{told}{problems}"))?;
    let checks = found["checks"].as_array().context("checks")?;
    let failed: Vec<String> =
        checks.iter().filter(|check| check["ok"] != true).map(|check| check.to_string()).collect();
    ensure!(failed.is_empty() && output.status.success(), "{}\n{problems}", failed.join("\n"));
    ensure!(checks.len() >= 40, "{} checks only", checks.len());
    figures::record("page_checks", checks.len() as f64)?;
    sink.stop_cleanly()
}
