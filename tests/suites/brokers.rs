//! Tests the host with secured Kafka: TLS, client certificates, passwords, tokens and access rules, each on a real
//! broker.
//!
//! One broker has a listener for each kind of security; the tests' own client uses the plain listener, as a superuser.

use std::net::TcpStream;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use reduct_sink_testbed::acls::{Target, grant_read, revoke_read, set_scram_password};
use reduct_sink_testbed::certificates::{Authority, Certificate};
use reduct_sink_testbed::figures;
use reduct_sink_testbed::kafka::Security;
use reduct_sink_testbed::process::{self, Process, wait_for, wait_until};
use reduct_sink_testbed::sink::run_to_end;
use reduct_sink_testbed::verify::Ledger;
use reduct_sink_testbed::{Kafka, Load, Message, Produced, Sink, SinkConfig, Store, payload, unique};
use serde_json::Value;

const CATCH_UP: Duration = Duration::from_secs(120);
const USER: &str = "reduct-sink";
const PASSWORD: &str = "s3cret-with_signs";
/// How many seconds a token is valid: short, so that the host has to get several tokens during a test.
const TOKEN_SECONDS: &str = "12";

/// A broker with all its listeners, a store, an authority and an OpenID provider.
struct Secured {
    kafka: Kafka,
    store: Store,
    authority: Authority,
    client: Certificate,
    provider: Provider,
}

fn secured() -> Result<&'static Secured> {
    static SECURED: OnceLock<Result<Secured>> = OnceLock::new();
    SECURED.get_or_init(Secured::start).as_ref().map_err(|error| anyhow!("the secured broker doesn't start: {error:#}"))
}

impl Secured {
    fn start() -> Result<Self> {
        let authority = Authority::new()?;
        let (server, client) = (authority.issue("broker")?, authority.issue("reduct-sink")?);
        let provider = Provider::start()?;
        let (keystore, truststore) = (server.keystore()?.display().to_string(), authority.ca().display().to_string());
        let keys = format!("{}/jwks", provider.url);
        let plain_users =
            format!("org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}=\"{PASSWORD}\";");
        let module = "org.apache.kafka.common.security";
        let (scram, bearer) = (
            format!("{module}.scram.ScramLoginModule required;"),
            format!("{module}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub=\"broker\";"),
        );
        let properties: &[(&str, &str)] = &[
            ("ssl.keystore.type", "PEM"),
            ("ssl.keystore.location", &keystore),
            ("ssl.truststore.type", "PEM"),
            ("ssl.truststore.location", &truststore),
            ("listener.name.mtls.ssl.client.auth", "required"),
            ("listener.name.scram.sasl.enabled.mechanisms", "SCRAM-SHA-512"),
            ("listener.name.scram.scram-sha-512.sasl.jaas.config", &scram),
            ("listener.name.plain.sasl.enabled.mechanisms", "PLAIN"),
            ("listener.name.plain.plain.sasl.jaas.config", &plain_users),
            ("listener.name.bearer.sasl.enabled.mechanisms", "OAUTHBEARER"),
            ("listener.name.bearer.oauthbearer.sasl.jaas.config", &bearer),
            (
                "listener.name.bearer.oauthbearer.sasl.server.callback.handler.class",
                "org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler",
            ),
            ("listener.name.bearer.oauthbearer.sasl.oauthbearer.jwks.endpoint.url", &keys),
            ("listener.name.bearer.oauthbearer.sasl.oauthbearer.expected.audience", "kafka"),
            ("listener.name.bearer.oauthbearer.sasl.oauthbearer.expected.issuer", &provider.url),
            // A connection lives as long as its token, so the host has to present a new token to keep it.
            ("connections.max.reauth.ms", "10000"),
            ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer"),
            ("super.users", "User:ANONYMOUS"),
            ("allow.everyone.if.no.acl.found", "true"),
        ];
        let mut kafka = Kafka::start_secured(&Security {
            listeners: &[
                ("TLS", "SSL"),
                ("MTLS", "SSL"),
                ("SCRAM", "SASL_SSL"),
                ("PLAIN", "SASL_SSL"),
                ("BEARER", "SASL_SSL"),
            ],
            properties,
            scram_users: &[(USER, PASSWORD)],
            options: vec![format!("-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={keys}")],
        })?;
        kafka.wait_ready()?;
        Ok(Self { kafka, store: Store::start()?, authority, client, provider })
    }

    /// A configuration that reaches the broker by `listener` and trusts its authority.
    fn config(&self, listener: &str, protocol: &str, topic: &str) -> Result<SinkConfig> {
        let config = SinkConfig::new(&self.kafka.brokers_at(listener)?, &self.store.url(), &unique("bucket"));
        let ca = self.authority.ca().display().to_string();
        let config = config.topics(&[topic]).property("security.protocol", protocol);
        // The client tries a refused connection again soon, because the tests wait for it.
        Ok(config.property("ssl.ca.location", &ca).property("reconnect.backoff.max.ms", "500"))
    }

    fn with_password(&self, listener: &str, mechanism: &str, topic: &str, password: &str) -> Result<SinkConfig> {
        let config = self.config(listener, "SASL_SSL", topic)?;
        let config = config.property("sasl.mechanism", mechanism).property("sasl.username", USER);
        Ok(config.property("sasl.password", password))
    }

    fn with_token(&self, topic: &str, secret: &str) -> Result<SinkConfig> {
        let config = self.config("BEARER", "SASL_SSL", topic)?.property("sasl.mechanism", "OAUTHBEARER");
        let endpoint = format!("{}/token", self.provider.url);
        let config = config.property("sasl.oauthbearer.method", "oidc").property("sasl.oauthbearer.client.id", USER);
        let config = config.property("sasl.oauthbearer.client.secret", secret);
        Ok(config
            .property("sasl.oauthbearer.token.endpoint.url", &endpoint)
            .property("sasl.oauthbearer.scope", "kafka"))
    }

    fn topic(&self, prefix: &str) -> Result<(String, Vec<Produced>)> {
        let (topic, kafka) = (unique(prefix), self.kafka.client());
        kafka.create_topic(&topic, 2)?;
        let produced = kafka.produce(&topic, (0..200).map(|n| Message::new(payload(n, 2000))))?;
        Ok((topic, produced))
    }

    /// Expects that `check` succeeds and that the host stores every record once.
    async fn works(&self, config: &SinkConfig, topic: &str, produced: &[Produced]) -> Result<()> {
        let (code, text) = check(config)?;
        ensure!(code == 0, "check ended with {code}:\n{text}");
        let mut sink = Sink::start(config)?;
        sink.wait_caught_up(&self.kafka.client(), config.group(), &[topic], CATCH_UP)?;
        sink.stop_cleanly()?;
        Ledger::of(produced).audit(&self.store.client()?, config.bucket()).await?.exact()?;
        figures::add("brokers", 1.0)
    }
}

/// An OpenID provider (the package `oidc-provider`), as a process of its own.
struct Provider {
    url: String,
    _process: Process,
}

impl Provider {
    fn start() -> Result<Self> {
        let installed = std::fs::read_dir(process::cache()?)?.flatten().map(|entry| entry.path());
        let folder = installed
            .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("brokers-")))
            .find(|path| path.join("node_modules").is_dir())
            .context("the OpenID provider isn't installed: run tests/setup brokers")?;
        // Node.js looks for packages beside the program.
        let program = folder.join("oidc.mjs");
        std::fs::write(&program, include_str!("../brokers/oidc.mjs"))?;
        let port = process::free_port()?;
        let mut command = Command::new("node");
        command.arg(program).args([&port.to_string(), USER, PASSWORD, TOKEN_SECONDS]);
        let mut process = Process::spawn("the OpenID provider", command, &process::new_log("oidc")?)?;
        wait_for("the OpenID provider to listen", Duration::from_secs(30), || {
            process.expect_running()?;
            Ok(TcpStream::connect(("127.0.0.1", port)).ok())
        })?;
        Ok(Self { url: format!("http://127.0.0.1:{port}"), _process: process })
    }
}

/// Runs `reduct-sink check`. Returns its exit code and its output.
fn check(config: &SinkConfig) -> Result<(i32, String)> {
    let folder = process::data_folder("check")?;
    let file = folder.path().join("sink.toml");
    std::fs::write(&file, config.text())?;
    let output = run_to_end(&["check", "--config", &file.display().to_string()], &[], Duration::from_secs(60))?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned()))
}

fn refused(config: &SinkConfig, reason: &str) -> Result<()> {
    let (code, text) = check(config)?;
    ensure!(code != 0, "check found nothing wrong:\n{text}");
    ensure!(text.contains(reason), "check doesn't say {reason:?}:\n{text}");
    ensure!(!text.contains(PASSWORD), "check shows the password:\n{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_a_private_authority() -> Result<()> {
    let bed = secured()?;
    let (topic, produced) = bed.topic("tls")?;
    bed.works(&bed.config("TLS", "SSL", &topic)?, &topic, &produced).await?;
    let unknown = Authority::new()?.ca().display().to_string();
    refused(&bed.config("TLS", "SSL", &topic)?.property("ssl.ca.location", &unknown), "certificate")
}

#[tokio::test(flavor = "multi_thread")]
async fn mutual_tls() -> Result<()> {
    let bed = secured()?;
    let (topic, produced) = bed.topic("mtls")?;
    let without = bed.config("MTLS", "SSL", &topic)?;
    let own = without.clone().property("ssl.certificate.location", &bed.client.certificate.display().to_string());
    let own = own.property("ssl.key.location", &bed.client.key.display().to_string());
    bed.works(&own, &topic, &produced).await?;
    refused(&without, "certificate")
}

#[tokio::test(flavor = "multi_thread")]
async fn scram() -> Result<()> {
    let bed = secured()?;
    let (topic, produced) = bed.topic("scram")?;
    let config = bed.with_password("SCRAM", "SCRAM-SHA-512", &topic, PASSWORD)?;
    bed.works(&config, &topic, &produced).await?;
    refused(&bed.with_password("SCRAM", "SCRAM-SHA-512", &topic, "wrong")?, "uthentication failed")
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_over_tls() -> Result<()> {
    let bed = secured()?;
    let (topic, produced) = bed.topic("plain")?;
    bed.works(&bed.with_password("PLAIN", "PLAIN", &topic, PASSWORD)?, &topic, &produced).await?;
    refused(&bed.with_password("PLAIN", "PLAIN", &topic, "wrong")?, "uthentication failed")
}

/// Tokens expire while the host reads: it has to get new ones and to present them to the broker.
#[tokio::test(flavor = "multi_thread")]
async fn oauthbearer_with_a_token_endpoint() -> Result<()> {
    let bed = secured()?;
    let (topic, mut produced) = bed.topic("bearer")?;
    let config = bed.with_token(&topic, PASSWORD)?;
    bed.works(&config, &topic, &produced).await?;
    let mut sink = Sink::start(&config)?;
    let load = Load::start(&bed.kafka.client(), &topic, 50, |n| Message::new(payload(n, 500)))?;
    tokio::time::sleep(Duration::from_secs(30)).await;
    produced.extend(load.finish()?);
    sink.wait_caught_up(&bed.kafka.client(), config.group(), &[&topic], CATCH_UP)?;
    sink.stop_cleanly()?;
    Ledger::of(&produced).audit(&bed.store.client()?, config.bucket()).await?.exact()?;
    refused(&bed.with_token(&topic, "wrong")?, "token")
}

/// While the host lacks the right to read, it reads nothing and the status says why; when it has the right again, it
/// continues where it was.
#[tokio::test(flavor = "multi_thread")]
async fn access_rules_revoked_and_granted_under_load() -> Result<()> {
    let bed = secured()?;
    let kafka = bed.kafka.client();
    let topic = unique("acl");
    kafka.create_topic(&topic, 2)?;
    let port = process::free_port()?;
    let config = bed.with_password("SCRAM", "SCRAM-SHA-512", &topic, PASSWORD)?;
    let config = config.set("status.listen", format!("127.0.0.1:{port}"));
    let (principal, group) = (format!("User:{USER}"), config.group().to_owned());
    let rights = [Target::Topic(&topic), Target::Group(&group)];
    // A rule that allows another principal denies the right to everybody else.
    for target in rights {
        grant_read(&kafka, "User:nobody", target)?;
    }
    refused(&config, &topic)?;
    for target in rights {
        grant_read(&kafka, &principal, target)?;
    }
    let mut sink = Sink::start(&config)?;
    let load = Load::start(&kafka, &topic, 200, |n| Message::new(payload(n, 500)))?;
    sink.wait_log("running", CATCH_UP)?;
    for target in rights {
        tokio::time::sleep(Duration::from_secs(3)).await;
        revoke_read(&kafka, &principal, target)?;
        let reason = match target {
            Target::Topic(_) => "kafka.topic-denied",
            Target::Group(_) => "kafka.group-denied",
        };
        wait_for("/health to say that a right is missing", Duration::from_secs(30), || {
            let (code, body) = health(port)?;
            sink.process().expect_running()?;
            Ok((code == 503 && body.contains(reason)).then_some(()))
        })
        .with_context(|| format!("{target:?}; /health says {:?}", health(port)))?;
        grant_read(&kafka, &principal, target)?;
        wait_for("/health to be content again", CATCH_UP, || Ok((health(port)?.0 == 200).then_some(())))?;
    }
    let produced = load.finish()?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], CATCH_UP)?;
    sink.stop_cleanly()?;
    Ledger::of(&produced).audit(&bed.store.client()?, config.bucket()).await?.exact()?;
    figures::add("brokers", 1.0)
}

/// A host that may not read its topic at its start has no partition. It gets them soon after the right is there, although nothing
/// else happens in the group.
#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_granted_after_the_start_is_used() -> Result<()> {
    let bed = secured()?;
    let kafka = bed.kafka.client();
    let (topic, produced) = bed.topic("granted-later")?;
    let config = bed.with_password("SCRAM", "SCRAM-SHA-512", &topic, PASSWORD)?;
    let (principal, target) = (format!("User:{USER}"), Target::Topic(&topic));
    grant_read(&kafka, "User:nobody", target)?;
    let mut sink = Sink::start(&config)?;
    sink.wait_log("code=\"kafka.topic-denied\"", CATCH_UP)?;
    // It has asked for the topic by then.
    tokio::time::sleep(Duration::from_secs(10)).await;
    grant_read(&kafka, &principal, target)?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], CATCH_UP)?;
    sink.stop_cleanly()?;
    Ledger::of(&produced).audit(&bed.store.client()?, config.bucket()).await?.exact()
}

/// librdkafka says once that it is refused, and then nothing while that repeats: the problem keeps its name and its reason.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_the_broker_takes_no_more_is_named_until_it_takes_it_again() -> Result<()> {
    let bed = secured()?;
    let (kafka, user) = (bed.kafka.client(), unique("user"));
    let (topic, produced) = bed.topic("refused")?;
    set_scram_password(&kafka, &user, PASSWORD)?;
    let config = bed.config("SCRAM", "SASL_SSL", &topic)?.property("sasl.mechanism", "SCRAM-SHA-512");
    let config = config.property("sasl.username", &user).property("sasl.password", PASSWORD);
    let mut sink = Sink::start(&config)?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], CATCH_UP)?;
    set_scram_password(&kafka, &user, "another one")?;
    // When the connections have to prove again who they are.
    sink.wait_log("code=\"kafka.refused\"", CATCH_UP)?;
    // Several looks at Kafka.
    tokio::time::sleep(Duration::from_secs(20)).await;
    set_scram_password(&kafka, &user, PASSWORD)?;
    sink.wait_log("solved: kafka.refused", CATCH_UP)?;
    wait_until("the log to say that all is well", CATCH_UP, || {
        let log = sink.log()?;
        let (begun, solved) = (log.matches("problem: ").count(), log.matches("solved: ").count());
        ensure!(begun == solved, "{log}");
        Ok(())
    })?;
    let log = sink.log()?;
    ensure!(!log.contains("kafka.unreachable"), "it is said to be away: {log}");
    sink.stop_cleanly()?;
    Ledger::of(&produced).audit(&bed.store.client()?, config.bucket()).await?.exact()
}

/// A host under load whose secrets are replaced: first by wrong ones, which end nothing, then by right ones.
struct Replacing<'a> {
    bed: &'a Secured,
    topic: String,
    config: SinkConfig,
    port: u16,
    sink: Sink,
    load: Load,
}

impl<'a> Replacing<'a> {
    fn start(bed: &'a Secured, topic: &str, config: SinkConfig) -> Result<Self> {
        let kafka = bed.kafka.client();
        kafka.create_topic(topic, 2)?;
        let port = process::free_port()?;
        let config = config.set("status.listen", format!("127.0.0.1:{port}"));
        let load = Load::start(&kafka, topic, 100, |n| Message::new(payload(n, 500)))?;
        let mut sink = Sink::start(&config)?;
        // Its client is made of the files that are there now.
        sink.wait_log("assigned partitions=[\"", CATCH_UP)?;
        Ok(Self { bed, topic: topic.to_owned(), config, port, sink, load })
    }

    fn wait_problem(&mut self, is_there: bool) -> Result<()> {
        wait_for(&format!("/health to name the files: {is_there}"), CATCH_UP, || {
            self.sink.process().expect_running()?;
            Ok((health(self.port)?.1.contains("kafka.new-files") == is_there).then_some(()))
        })
        .with_context(|| self.sink.log().unwrap_or_default())
    }

    /// The host has joined again, and goes on after the old secrets have lost their worth.
    async fn finish(mut self) -> Result<()> {
        self.sink.wait_log("joining the group again", CATCH_UP)?;
        self.wait_problem(false)?;
        // Longer than a connection may live without proving who it is.
        tokio::time::sleep(Duration::from_secs(12)).await;
        let produced = self.load.finish()?;
        let kafka = self.bed.kafka.client();
        self.sink.wait_caught_up(&kafka, self.config.group(), &[&self.topic], CATCH_UP)?;
        self.sink.stop_cleanly()?;
        let log = self.sink.log()?;
        ensure!(!log.contains(PASSWORD), "the log shows the password");
        ensure!(!log.contains("without a restart"), "it asks for a restart: {log}");
        Ledger::of(&produced).audit(&self.bed.store.client()?, self.config.bucket()).await?.exact()?;
        figures::add("secrets_replaced_while_running", 1.0)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_replaced_while_the_host_runs() -> Result<()> {
    let bed = secured()?;
    let (kafka, topic, user) = (bed.kafka.client(), unique("password"), unique("user"));
    let folder = process::data_folder("password")?;
    let file = folder.path().join("password");
    set_scram_password(&kafka, &user, "the first one")?;
    std::fs::write(&file, "the first one\n")?;
    let config = bed.config("SCRAM", "SASL_SSL", &topic)?.property("sasl.mechanism", "SCRAM-SHA-512");
    let config = config.property("sasl.username", &user).property_file("sasl.password", &file);
    let mut replacing = Replacing::start(bed, &topic, config)?;
    // The file is there before the broker knows of it.
    std::fs::write(&file, PASSWORD)?;
    replacing.wait_problem(true)?;
    set_scram_password(&kafka, &user, PASSWORD)?;
    replacing.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn certificate_and_key_are_replaced_while_the_host_runs() -> Result<()> {
    let bed = secured()?;
    let (kafka, topic) = (bed.kafka.client(), unique("certificate"));
    let (first, second) = (bed.authority.issue("first")?, bed.authority.issue("second")?);
    let folder = process::data_folder("certificate")?;
    let (certificate, key) = (folder.path().join("client.pem"), folder.path().join("client.key"));
    std::fs::copy(&first.certificate, &certificate)?;
    std::fs::copy(&first.key, &key)?;
    let config = bed.config("MTLS", "SSL", &topic)?;
    let config = config.property("ssl.certificate.location", &certificate.display().to_string());
    let config = config.property("ssl.key.location", &key.display().to_string());
    let group = config.group().to_owned();
    let rights = [Target::Topic(&topic), Target::Group(&group)];
    for (principal, target) in
        ["User:CN=first", "User:CN=second"].into_iter().flat_map(|who| rights.map(|to| (who, to)))
    {
        grant_read(&kafka, principal, target)?;
    }
    let mut replacing = Replacing::start(bed, &topic, config)?;
    // A certificate without its key is of no use.
    std::fs::copy(&second.certificate, &certificate)?;
    replacing.wait_problem(true)?;
    std::fs::copy(&second.key, &key)?;
    replacing.sink.wait_log("joining the group again", CATCH_UP)?;
    // Who reads now is the other one.
    for target in rights {
        revoke_read(&kafka, "User:CN=first", target)?;
    }
    replacing.finish().await
}

fn health(port: u16) -> Result<(u16, String)> {
    let output = Command::new("curl")
        .args(["--silent", "--max-time", "5", "--write-out", "\n%{http_code}"])
        .arg(format!("http://127.0.0.1:{port}/health"))
        .output()
        .context("can't start curl")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, code) = text.rsplit_once('\n').context("no answer")?;
    let body: Value = serde_json::from_str(body).unwrap_or_default();
    Ok((code.parse()?, body.to_string()))
}
