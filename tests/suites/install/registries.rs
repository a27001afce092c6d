//! Plugins from a real registry, Debian's `docker-registry`, and from web servers of which most don't play fair.
//!
//! Guarantees: the host runs on what it fetched, and every record is compared; each refusal is that of the command or of the
//! host, with the words that a person reads.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reduct_sink_testbed::certificates::Authority;
use reduct_sink_testbed::process::cache;
use reduct_sink_testbed::{SinkConfig, all, unique};

use super::fetching::{Desk, Host, done, text_of, versioned};
use super::registry::{DOCKER_AUTH, Registry};
use super::web_servers::{Answer, WebServer, sha256};
use crate::guest::Guest;

#[tokio::test(flavor = "multi_thread")]
async fn a_guarded_registry_gives_a_plugin_by_its_digest() -> Result<()> {
    let desk = Desk::new()?;
    let authority = Authority::new()?;
    let mut registry = Registry::guarded(&authority.issue("registry")?)?;
    let ca = authority.ca().display().to_string();
    let file = desk.version(1)?;
    let (component, address) = (file.display().to_string(), registry.address("acme/numbers:1"));

    let push = |docker: &str, options: &[&str]| {
        desk.run(docker, &[&["plugin", "push", component.as_str(), address.as_str()][..], options].concat())
    };
    let refused = push("no-docker", &["--ca", &ca])?;
    ensure!(refused.status.code() == Some(4), "{}", text_of(&refused));
    ensure!(text_of(&refused).contains("docker login") && text_of(&refused).contains("401"), "{}", text_of(&refused));
    let untrusted = push("no-docker", &[])?;
    ensure!(
        untrusted.status.code() == Some(4) && text_of(&untrusted).contains("certificate"),
        "{}",
        text_of(&untrusted)
    );

    let auths = format!(r#"{{"auths": {{"{}": {{"auth": "{DOCKER_AUTH}"}}}}}}"#, registry.host);
    desk.file("docker/config.json", auths)?;
    let pinned = desk.push("docker", &file, &address, &["--ca", &ca])?;
    ensure!(desk.push("docker", &file, &address, &["--ca", &ca])? == pinned, "the same file is another artifact");
    let wrong = format!(r#"{{"auths": {{"{}": {{"auth": "c2luazp3cm9uZw=="}}}}}}"#, registry.host);
    desk.file("wrong-docker/config.json", wrong)?;
    let wrong = text_of(&push("wrong-docker", &["--ca", &ca])?);
    ensure!(wrong.contains("to Docker's credentials") && !wrong.contains("c2luazp3cm9uZw"), "{wrong}");

    // A credential helper, as `docker login` sets it up on desktops.
    desk.file("helped-docker/config.json", r#"{"credsStore": "desk"}"#)?;
    let script = r#"#!/bin/sh
server=$(cat)
echo "{\"ServerURL\": \"$server\", \"Username\": \"sink\", \"Secret\": \"open sesame\"}""#;
    let helper = desk.file("helpers/docker-credential-desk", script)?;
    fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let inspected = done(&desk.run("helped-docker", &["plugin", "inspect", &address, "--ca", &ca])?)?;
    ensure!(inspected.contains(&pinned) && inspected.contains("loads       yes"), "{inspected}");

    // The host, whose environment has Docker's configuration.
    let config =
        |cache: &str| Ok::<_, anyhow::Error>(desk.config(cache, &pinned, "")?.set("registries.ca", ca.as_str()));
    let docker = desk.path("docker").display().to_string();
    let environment = [("DOCKER_CONFIG", docker.as_str())];
    let mut host = Host::start_in(config("cache")?, &environment)?;
    host.handle(20)?;
    ensure!(host.said("fetched the plugin's component")? == 1, "it isn't fetched");
    host.end(&[("1", 20)]).await?;
    registry.stop()?;
    let mut host = Host::start(config("cache")?)?;
    host.handle(20)?;
    ensure!(host.said("fetched the plugin's component")? == 0, "it is fetched though the registry is away");
    host.end(&[("1", 20)]).await?;

    let (is_right, said) = desk.check("docker", &config("empty-cache")?)?;
    ensure!(!is_right && said.contains("can't be fetched from") && said.contains(&registry.host), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_moves_is_followed_and_a_registry_that_is_away_stops_nothing() -> Result<()> {
    let desk = Desk::new()?;
    let mut registry = Registry::plain()?;
    let address = registry.address("numbers:stable");
    let push = |file: &Path| desk.push("docker", file, &address, &["--plain-http"]);
    push(&desk.version(1)?)?;
    let plain = vec![toml::Value::from(registry.host.as_str())];
    let config = desk.config("cache", &address, "follow = \"1s\"")?.set("registries.plain_http", plain);
    let mut host = Host::start(config)?;
    host.handle(10)?;
    push(&desk.version(2)?)?;
    host.wait_more("swapped:", 0)?;
    host.handle(10)?;

    registry.stop()?;
    host.wait_more("tag can't be looked up", 0)?;
    host.handle(10)?;
    // The tag can't be asked for at the start either: what it meant before is in the cache.
    host.sink.start_again()?;
    host.wait_more("what it meant before is loaded", 0)?;
    host.handle(10)?;
    host.wait_more("tag can't be looked up", 1)?;

    registry.start_again()?;
    host.wait_more("can be looked up again", 0)?;
    let refusing = Guest::new("(call $keep)").configure(r#"(call $refuse $"no, thank you")"#).build();
    push(&desk.file("refusing.wasm", refusing)?)?;
    host.wait_more("doesn't load", 0)?;
    host.handle(10)?;
    let before = host.said("swapped:")?;
    push(&desk.version(3)?)?;
    host.wait_more("swapped:", before)?;
    host.handle(10)?;
    ensure!(host.said("doesn't load")? == 1, "a version that was refused is tried at each look");
    host.end(&[("1", 10), ("2", 40), ("3", 10)]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_address_is_taken_over_as_soon_as_it_can_be_fetched() -> Result<()> {
    let desk = Desk::new()?;
    let mut registry = Registry::plain()?;
    let first = desk.push("docker", &desk.version(1)?, &registry.address("numbers:1"), &["--plain-http"])?;
    let second = desk.push("docker", &desk.version(2)?, &registry.address("numbers:2"), &["--plain-http"])?;
    let plain = vec![toml::Value::from(registry.host.as_str())];
    let mut host = Host::start(desk.config("cache", &first, "")?.set("registries.plain_http", plain))?;
    host.handle(10)?;
    registry.stop()?;
    let file = host.sink.folder().join("sink.toml");
    fs::write(&file, fs::read_to_string(&file)?.replace(&first, &second))?;
    host.wait_more("the registry may be back", 0)?;
    host.handle(10)?;
    registry.start_again()?;
    host.wait_more("the changed configuration is active", 0)?;
    host.handle(10)?;
    host.end(&[("1", 20), ("2", 10)]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_tag_is_followed_through_one_trial_and_after_it() -> Result<()> {
    let desk = Desk::new()?;
    let registry = Registry::plain()?;
    let [first, second] = ["numbers:first", "numbers:second"].map(|name| registry.address(name));
    desk.push("docker", &desk.version(1)?, &first, &["--plain-http"])?;
    desk.push("docker", &desk.version(2)?, &second, &["--plain-http"])?;
    let plain = vec![toml::Value::from(registry.host.as_str())];
    let keys = "follow = \"1s\"\n\
                trial = { mode = \"auto\", records = 20, every = 1, within = \"5m\", max_slowdown = 1000 }";
    let mut host = Host::start(desk.config("cache", &first, keys)?.set("registries.plain_http", plain))?;
    host.handle(10)?;
    let file = host.sink.folder().join("sink.toml");
    fs::write(&file, fs::read_to_string(&file)?.replace(&first, &second))?;
    host.wait_more("is on trial", 0)?;
    // Long enough for several looks at the tag.
    std::thread::sleep(Duration::from_secs(4));
    host.handle(20)?;
    host.wait_more("swapped:", 0)?;
    ensure!(host.said("is on trial")? == 1, "looks at the tag start the trial again");
    host.handle(10)?;
    desk.push("docker", &desk.version(3)?, &second, &["--plain-http"])?;
    host.wait_more("is on trial", 1)?;
    host.handle(20)?;
    host.wait_more("swapped:", 1)?;
    host.handle(10)?;
    host.end(&[("1", 30), ("2", 30), ("3", 10)]).await
}

#[test]
fn what_is_not_what_was_asked_for_is_refused() -> Result<()> {
    let desk = Desk::new()?;
    let registry = Registry::plain()?;
    let plain = |config: SinkConfig, host: &str| config.set("registries.plain_http", vec![toml::Value::from(host)]);
    let check = |path: &str, host: &str, keys: &str| {
        let config = plain(desk.config(&unique("cache"), path, keys)?, host).set("registries.timeout", "2s");
        desk.check("docker", &config)
    };
    let refused = |path: &str, host: &str, keys: &str, word: &str| -> Result<()> {
        let (is_right, said) = check(path, host, keys)?;
        ensure!(!is_right && said.contains(word), "{path} {keys}, expected {word:?}: {said}");
        Ok(())
    };

    // A registry whose disk rots, or that somebody changed.
    let file = desk.version(1)?;
    let pinned = desk.push("docker", &file, &registry.address("numbers:1"), &["--plain-http"])?;
    ensure!(check(&pinned, &registry.host, "")?.0, "what is right isn't taken");
    refused(&pinned, "localhost", "", "can't be fetched")?;
    refused(&pinned, &registry.host, "limits.file_size = \"1KB\"", "longer than 1000 bytes")?;
    refused(&pinned, &registry.host, &format!("sha256 = \"{}\"", sha256(b"other")), "isn't what was asked for")?;
    let component = fs::read(&file)?;
    let blob = registry.blob(&sha256(&component));
    let mut changed = component.clone();
    *changed.last_mut().context("a byte")? ^= 1;
    fs::write(&blob, &changed)?;
    refused(&pinned, &registry.host, "", "isn't what was asked for: the component")?;
    fs::write(&blob, component.repeat(3))?;
    refused(&pinned, &registry.host, "", "")?;
    fs::write(&blob, &component)?;
    let (_, manifest) = pinned.rsplit_once(':').context("a digest")?;
    fs::write(registry.blob(manifest), "{}")?;
    refused(&pinned, &registry.host, "", "")?;
    refused(&registry.address(&format!("numbers@sha256:{}", sha256(b"none"))), &registry.host, "", "isn't at")?;
    refused(&registry.address("numbers:1"), &registry.host, "", "may come to mean anything")?;

    // A web server.
    let digest = sha256(&component);
    for (answer, word) in [
        (Answer::Whole(changed.clone()), "isn't what was asked for: the file"),
        (Answer::Truncated(component.clone()), "can't be fetched from"),
        (Answer::Endless, "longer than"),
        (Answer::Announced(1 << 40), "longer than"),
        (Answer::Status(404), "isn't at"),
        (Answer::Status(503), "answers 503"),
        (Answer::RedirectToItself, "redirects more than"),
        (Answer::Redirect("http://localhost:1/x.wasm".into()), "without TLS"),
        (Answer::Silence, "wasn't there completely after 2s"),
    ] {
        let server = WebServer::start(answer)?;
        let path = format!("http://{}/numbers.wasm#sha256={digest}", server.host);
        refused(&path, &server.host, "limits.file_size = \"1MB\"", word)?;
    }
    let server = WebServer::start(Answer::Whole(component))?;
    let path = format!("http://{}/numbers.wasm", server.host);
    ensure!(check(&format!("{path}#sha256={digest}"), &server.host, "")?.0, "what is right isn't taken");
    ensure!(check(&path, &server.host, &format!("sha256 = \"{digest}\""))?.0, "what is right isn't taken");
    refused(&path, &server.host, "", "found no digest")?;
    refused(&format!("{path}#sha256={digest}"), "localhost", "", "registries.plain_http")
}

#[test]
fn signatures_hold_for_what_is_fetched() -> Result<()> {
    let desk = Desk::new()?;
    let registry = Registry::plain()?;
    let (signer, other) = (super::signer::Signer::new()?, super::signer::Signer::new()?);
    let push = |number: u32, signature: Option<&super::signer::Signer>| {
        let file = desk.version(number)?;
        if let Some(signer) = signature {
            desk.file(&format!("{number}.wasm.minisig"), signer.sign(&fs::read(&file)?))?;
        }
        desk.push("docker", &file, &registry.address(&format!("numbers:{number}")), &["--plain-http"])
    };
    let check = |path: &str, host: &str| {
        let config = desk.config(&unique("cache"), path, "")?;
        let config = config.set("registries.plain_http", vec![toml::Value::from(host)]);
        desk.check("docker", &config.set("trust.signed_by", vec![toml::Value::from(signer.key.as_str())]))
    };
    let (signed, unsigned, strange) = (push(1, Some(&signer))?, push(2, None)?, push(3, Some(&other))?);
    for (path, word) in [(&signed, ""), (&unsigned, "has no signature"), (&strange, "none of the configured keys")] {
        let (is_right, said) = check(path, &registry.host)?;
        ensure!(is_right == word.is_empty() && said.contains(word), "{path}: {said}");
    }
    let verify = |path: &str| desk.run("docker", &["plugin", "verify", path, "--key", &signer.key, "--plain-http"]);
    ensure!(done(&verify(&signed)?)?.contains("signed by"), "it isn't verified");
    ensure!(verify(&strange)?.status.code() == Some(3), "it is verified");

    // Beside a file on a web server.
    let component = versioned(1);
    let (digest, signature) = (sha256(&component), signer.sign(&component));
    let server = WebServer::start(Answer::Files(vec![
        ("/signed.wasm".into(), component.clone()),
        ("/signed.wasm.minisig".into(), signature.into()),
        ("/unsigned.wasm".into(), component),
    ]))?;
    for (name, is_signed) in [("signed", true), ("unsigned", false)] {
        let path = format!("http://{}/{name}.wasm#sha256={digest}", server.host);
        let (is_right, said) = check(&path, &server.host)?;
        ensure!(is_right == is_signed && (is_signed || said.contains("has no signature")), "{name}: {said}");
    }
    Ok(())
}

/// The Bytecode Alliance's tool writes what the host fetches, and reads what `plugin push` wrote.
#[test]
fn wkg_and_the_host_understand_each_other() -> Result<()> {
    if !all() {
        println!("left out: it needs wkg, which tests/run compiles with --all");
        return Ok(());
    }
    let desk = Desk::new()?;
    let registry = Registry::plain()?;
    let wkg = fs::read_dir(cache()?)?.flatten().map(|entry| entry.path().join("bin/wkg")).find(|path| path.is_file());
    let wkg = wkg.context("wkg isn't installed: run tests/setup wkg")?;
    let run = |args: &[&str]| {
        let mut command = Command::new(&wkg);
        command.args(["oci"]).args(args).args(["--insecure", &registry.host]).env("HOME", desk.path("home"));
        done(&command.output()?)
    };
    let (file, reference) = (desk.version(1)?, format!("{}/numbers:wkg", registry.host));
    run(&["push", &reference, &file.display().to_string()])?;
    let inspected = done(&desk.run("docker", &["plugin", "inspect", &format!("oci://{reference}"), "--plain-http"])?)?;
    ensure!(inspected.contains(&sha256(&fs::read(&file)?)) && inspected.contains("loads       yes"), "{inspected}");

    let (file, reference) = (desk.version(2)?, format!("{}/numbers:ours", registry.host));
    desk.push("docker", &file, &format!("oci://{reference}"), &["--plain-http"])?;
    let pulled = desk.path("pulled.wasm");
    run(&["pull", &reference, "--output", &pulled.display().to_string()])?;
    ensure!(fs::read(&pulled)? == fs::read(&file)?, "wkg pulls other bytes");
    Ok(())
}
