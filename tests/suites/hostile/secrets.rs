//! Tests that the secrets of a running host appear nowhere but in its memory, and that its memory isn't written to the
//! disk.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use reduct_sink_testbed::sink::run_to_end;
use reduct_sink_testbed::{Message, Sink, bed, payload, process, unique};

use super::CATCH_UP;
use crate::operate::{address, get};

const TOKEN: &str = "token-4711-that-nobody-may-see";
const PASSWORD: &str = "password-0815-that-nobody-may-see";
const GIVEN: &str = "environment-1234-that-nobody-may-see";

#[test]
fn secrets_are_in_no_log_status_message_or_process_list() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("secrets");
    kafka.create_topic(&topic, 1)?;
    kafka.produce(&topic, (0..10).map(|n| Message::new(payload(n, 100))))?;
    let folder = process::data_folder("secrets")?;
    let at = |name: &str| folder.path().join(name);
    for (name, text) in [("token", TOKEN), ("password", PASSWORD)] {
        fs::write(at(name), text)?;
        fs::set_permissions(at(name), fs::Permissions::from_mode(0o644))?;
    }
    let passthrough = at("passthrough.wasm");
    fs::write(&passthrough, reduct_sink_testbed::guest::passthrough()?)?;
    let address = address()?;
    let text = |path: std::path::PathBuf| path.to_str().map(str::to_owned).context("UTF-8");
    let config = bed
        .sink_config(&topic)
        .set("status.listen", address.as_str())
        .set("store.token_file", text(at("token"))?)
        .property("sasl.username", "somebody")
        .plugin_with("given", &passthrough, &format!("grants.environment = {{ KEY = '{GIVEN}' }}"))?;
    let config_text = format!("{}\n", config.text()).replace(
        "\"sasl.username\" = \"somebody\"",
        &format!("\"sasl.username\" = \"somebody\"\n\"sasl.password\" = {{ file = \"{}\" }}", text(at("password"))?),
    );
    ensure!(config_text.contains("sasl.password"), "{config_text}");
    let file = at("sink.toml");
    fs::write(&file, &config_text)?;
    let file = text(file)?;
    let mut sink = Sink::start_with(&["--config", &file, "--log-level", "debug"], &[])?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], CATCH_UP)?;
    let pid = sink.process().pid();
    let mut seen: Vec<(String, String)> = Vec::new();
    for path in ["/status", "/health", "/metrics"] {
        seen.push((path.to_owned(), get(&address, path)?.1));
    }
    for name in ["cmdline", "comm"] {
        let bytes = fs::read(format!("/proc/{pid}/{name}"))?;
        seen.push((name.to_owned(), String::from_utf8_lossy(&bytes).into_owned()));
    }
    let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).context("the limit on core dumps")?;
    ensure!(core.split_whitespace().nth(4) == Some("1"), "a core dump may be written: {core}");
    let checked = run_to_end(&["check", "--config", &file], &[], CATCH_UP)?;
    let told = String::from_utf8_lossy(&checked.stdout).into_owned();
    for name in ["token", "password"] {
        ensure!(told.contains(&format!("{} holds a secret", text(at(name))?)), "no warning of {name}: {told}");
    }
    seen.push(("check".into(), told));
    // A host that can't continue says why, without a secret.
    fs::write(&file, config_text.replace("[kafka]", "[kafka]\nstart = 7"))?;
    let refused = run_to_end(&["run", "--config", &file], &[], CATCH_UP)?;
    ensure!(!refused.status.success(), "a wrong configuration runs");
    seen.push(("refused".into(), String::from_utf8_lossy(&refused.stderr).into_owned()));
    sink.stop_cleanly()?;
    seen.push(("log".into(), sink.log()?));
    for (place, text) in seen {
        for secret in [TOKEN, PASSWORD, GIVEN] {
            ensure!(!text.contains(secret), "{place} shows {secret}");
        }
    }
    Ok(())
}
