//! Tests that the secrets of a running host appear nowhere but in its memory, and that its memory isn't written to the
//! disk.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use reduct_sink_testbed::sink::run_to_end;
use reduct_sink_testbed::{Message, Sink, SinkConfig, bed, figures, payload, process, unique};

use super::CATCH_UP;
use crate::operate::{address, get};

/// One for each place, so that a leak tells where it comes from.
const TOKEN: &str = "token-4711-that-nobody-may-see";
const PASSWORD: &str = "password-0815-that-nobody-may-see";
const KEY_PASSWORD: &str = "key-password-1492-that-nobody-may-see";
const CLIENT_SECRET: &str = "client-secret-1789-that-nobody-may-see";
const GIVEN: &str = "environment-1234-that-nobody-may-see";
const CONFIGURED: &str = "configured-5678-that-nobody-may-see";
const ACTING: &str = "acting-9012-that-nobody-may-see";
const SECRETS: [&str; 7] = [TOKEN, PASSWORD, KEY_PASSWORD, CLIENT_SECRET, GIVEN, CONFIGURED, ACTING];

/// Where each secret stands.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// In the configuration file itself.
    Literal,
    /// In a file that every user may read.
    File,
    /// In the host's environment.
    Variable,
}

#[test]
fn secrets_are_in_no_log_status_message_or_process_list() -> Result<()> {
    for way in [Way::Literal, Way::File, Way::Variable] {
        shown(way).with_context(|| format!("{way:?}"))?;
    }
    figures::record("ways_of_giving_secrets", 3.0)
}

fn shown(way: Way) -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("secrets");
    kafka.create_topic(&topic, 1)?;
    kafka.produce(&topic, (0..10).map(|n| Message::new(payload(n, 100))))?;
    let folder = process::data_folder("secrets")?;
    let at = |name: &str| folder.path().join(name);
    let text = |path: &Path| path.to_str().map(str::to_owned).context("UTF-8");
    let named = [("token", TOKEN), ("password", PASSWORD), ("key", KEY_PASSWORD), ("client", CLIENT_SECRET)];
    let named = named.into_iter().chain([("given", GIVEN), ("configured", CONFIGURED)]);
    for (name, secret) in named.clone().chain([("acting", ACTING)]) {
        fs::write(at(name), secret)?;
        fs::set_permissions(at(name), fs::Permissions::from_mode(0o644))?;
    }
    let passthrough = at("passthrough.wasm");
    fs::write(&passthrough, reduct_sink_testbed::guest::passthrough()?)?;
    let address = address()?;
    let config: SinkConfig = bed
        .sink_config(&topic)
        .set("status.listen", address.as_str())
        .set("status.token_file", text(&at("acting"))?)
        .set("store.token", "@token")
        .property("sasl.username", "somebody")
        .property("sasl.password", "@password")
        .property("ssl.key.password", "@key")
        .property("sasl.oauthbearer.client.secret", "@client")
        // librdkafka says everything that it knows.
        .property("debug", "all")
        .plugin_with(
            "given",
            &passthrough,
            "grants.environment = { KEY = '@given' }\nconfig.api_key = '@configured'",
        )?;
    let mut config_text = format!("{}\n", config.text());
    let mut environment = Vec::new();
    for (name, secret) in named {
        let variable = format!("SECRET_{name}");
        let by = match way {
            Way::Literal => format!("\"{secret}\""),
            Way::File => format!("{{ file = \"{}\" }}", text(&at(name))?),
            Way::Variable => format!("{{ env = \"{variable}\" }}"),
        };
        let place = format!("\"@{name}\"");
        ensure!(config_text.contains(&place), "{place} isn't in {config_text}");
        config_text = config_text.replace(&place, &by);
        environment.push((variable, secret));
    }
    let environment: Vec<(&str, &str)> = environment.iter().map(|(name, secret)| (name.as_str(), *secret)).collect();
    let file = at("sink.toml");
    fs::write(&file, &config_text)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
    let file = text(&file)?;
    let mut sink = Sink::start_with(&["--config", &file, "--log-level", "debug"], &environment)?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], CATCH_UP)?;
    let pid = sink.process().pid();
    let mut seen: Vec<(String, String)> = Vec::new();
    for path in ["/status", "/health", "/metrics", "/history", "/readyz", "/", "/dead-letters"] {
        seen.push((path.to_owned(), get(&address, path)?.1));
    }
    for name in ["cmdline", "comm"] {
        let bytes = fs::read(format!("/proc/{pid}/{name}"))?;
        seen.push((name.to_owned(), String::from_utf8_lossy(&bytes).into_owned()));
    }
    let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).context("the limit on core dumps")?;
    ensure!(core.split_whitespace().nth(4) == Some("1"), "a core dump may be written: {core}");
    let acting = text(&at("acting"))?;
    let mut run = |what: &str, args: &[&str]| {
        let output = run_to_end(args, &environment, CATCH_UP)?;
        let told = [output.stdout, output.stderr].concat();
        let told = String::from_utf8_lossy(&told).into_owned();
        seen.push((what.to_owned(), told.clone()));
        Ok::<_, anyhow::Error>(told)
    };
    let told = run("check", &["check", "--config", &file])?;
    run("check as JSON", &["check", "--json", "--config", &file])?;
    run("status", &["status", "--status", &address, "--token-file", &acting])?;
    run("status as JSON", &["status", "--json", "--status", &address, "--token-file", &acting])?;
    run("inspect", &["plugin", "inspect", &text(&passthrough)?])?;
    let warned = match way {
        Way::Literal => vec![file.clone()],
        Way::File => vec![text(&at("token"))?, text(&at("password"))?, text(&at("key"))?, text(&at("client"))?],
        Way::Variable => vec![],
    };
    for place in warned {
        ensure!(told.contains(&format!("{place} holds a secret")), "no warning of {place}: {told}");
    }
    // A host that can't go on says why, and no secret: a wrong key, and secrets that can't be what they are given as.
    let unended = match way {
        Way::Literal => config_text.replace(&format!("\"{TOKEN}\""), &format!("\"{TOKEN}")),
        Way::File | Way::Variable => config_text.replace("[kafka]", "[kafka"),
    };
    for (what, wrong) in [
        ("a text without its end", unended),
        ("a wrong value", config_text.replace("[kafka]", "[kafka]\nstart = 7")),
        ("a wrong property", config_text.replace("[kafka.properties]", "[kafka.properties]\n\"no.such\" = 1")),
        (
            "a secret for a number",
            config_text.replace("debug = \"all\"", &format!("\"socket.timeout.ms\" = \"{PASSWORD}\"")),
        ),
        ("half a file", config_text[..config_text.len() / 2].to_owned()),
    ] {
        fs::write(&file, wrong)?;
        let told = run(what, &["run", "--config", &file])?;
        ensure!(!told.contains("running"), "{what}: it runs");
    }
    sink.stop_cleanly()?;
    seen.push(("log".into(), sink.log()?));
    for (place, text) in seen {
        for secret in SECRETS {
            ensure!(!text.contains(secret), "{place} shows {secret}");
        }
    }
    Ok(())
}
