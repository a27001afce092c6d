//! Tests the container image: the commands of its Dockerfile build it, and it runs as the Kubernetes manifest and the compose file say, on
//! real servers. No registry and no cluster is needed: the base image is a Debian made by debootstrap's successor, and
//! `tests/packaging/container` stands for the runtime.
//!
//! Guarantees: the image runs as its user, read-only, without capabilities, with its own health check and the manifest's probes;
//! it drains within the grace period; every record is compared.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use reduct_sink_testbed::process::{self, Process, wait_for};
use reduct_sink_testbed::verify::compare;
use reduct_sink_testbed::{Message, Store, bed, figures, payload, read_back, sink, unique};
use serde_json::Value;
use tempfile::TempDir;

use super::{BOUND, text_of};
use crate::operate::get;

const IMAGE: &str = "localhost/reduct-sink";

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(name)
}

fn packaging(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/packaging").join(file)
}

/// The folder of buildah with the image, which is built once.
fn image() -> Result<&'static Path> {
    static IMAGES: OnceLock<Result<TempDir>> = OnceLock::new();
    let build = || {
        // SAFETY: geteuid takes no arguments and can't fail.
        ensure!(unsafe { libc::geteuid() } == 0, "building an image needs root");
        let (folder, started) = (process::data_folder("image")?, Instant::now());
        text_of(Command::new(script("image")).arg(folder.path()).arg(sink::binary()?).arg(IMAGE).output()?)?;
        figures::record("image_build_s", started.elapsed().as_secs_f64())?;
        Ok(folder)
    };
    let built = IMAGES.get_or_init(build);
    built.as_ref().map(TempDir::path).map_err(|error| anyhow!("the image can't be built: {error:#}"))
}

/// The documents of a YAML file.
fn yaml(file: &Path) -> Result<Vec<Value>> {
    let program = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    Ok(serde_json::from_str(&text_of(Command::new("python3").args(["-c", program]).arg(file).output()?)?)?)
}

/// What the image says of itself.
fn config(storage: &Path) -> Result<Value> {
    let mut command = Command::new("unshare");
    command.args(["--mount", "buildah", "--storage-driver", "overlay", "--root"]).arg(storage.join("root"));
    command.arg("--runroot").arg(storage.join("run")).args(["inspect", "--type", "image", IMAGE]);
    let all: Value = serde_json::from_str(&text_of(command.output()?)?)?;
    Ok(all["Docker"]["config"].clone())
}

/// The texts of a list.
fn texts(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// A running container.
struct Container {
    process: Process,
    /// The container's process 1, as this machine numbers it.
    first: libc::pid_t,
    user: String,
}

impl Container {
    fn start(storage: &Path, arguments: &[String], user: &str) -> Result<Self> {
        let mut command = Command::new(script("container"));
        command.arg(storage).arg(IMAGE).args(arguments);
        let mut process = Process::spawn("the container", command, &process::new_log("container")?)?;
        let first = wait_for("the container's first process", BOUND, || {
            process.expect_running()?;
            let pid = process.pid();
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            let Some(first) = children.split_whitespace().next().and_then(|pid| pid.parse().ok()) else {
                return Ok(None);
            };
            let name = fs::read_to_string(format!("/proc/{first}/comm")).unwrap_or_default();
            Ok((name.trim() == "reduct-sink").then_some(first))
        });
        let first = first.with_context(|| process::tail(process.log(), 20))?;
        Ok(Self { process, first, user: user.to_owned() })
    }

    /// Runs a command in the container, as `docker exec` does.
    fn exec(&self, command: &[&str]) -> Result<std::process::Output> {
        let mut run = Command::new("nsenter");
        run.args(["--target", &self.first.to_string(), "--mount", "--pid", "--root", "--wd", "setpriv", "--reuid"]);
        run.args([&self.user, "--regid", &self.user, "--clear-groups", "--no-new-privs", "--bounding-set=-all"]);
        Ok(run.args(command).output()?)
    }

    fn status(&self, key: &str) -> Result<String> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.first))?;
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        Ok(line.with_context(|| format!("no {key}"))?.split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_image_runs_as_the_kubernetes_manifest_says() -> Result<()> {
    let storage = image()?;
    let kafka = bed()?.kafka.client();
    let store = Store::start_with(Some("change-me"), &[])?;
    let (topic, port) = (unique("image"), process::free_port()?);
    kafka.create_topic(&topic, 2)?;
    let documents = yaml(&packaging("kubernetes/reduct-sink.yaml"))?;
    let of_kind = |kind: &str| documents.iter().find(|document| document["kind"] == kind).context(kind.to_owned());
    let pod = &of_kind("Deployment")?["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let user = pod["securityContext"]["runAsUser"].to_string();
    ensure!(container["securityContext"]["readOnlyRootFilesystem"] == true, "{container}");
    ensure!(config(storage)?["User"] == user.as_str(), "the image and the manifest name different users");

    // What the manifest mounts, with the addresses of this test in the place of the cluster's.
    let mounts = process::data_folder("mounts")?;
    let of_manifest = of_kind("ConfigMap")?["data"]["sink.toml"].as_str().context("sink.toml")?;
    let mut text = of_manifest.to_owned();
    for (from, to) in [
        ("kafka:9092", kafka.brokers()),
        ("[\"camera\"]", &format!("[\"{topic}\"]")),
        ("http://reductstore:8383", &store.url()),
        ("bucket = \"kafka\"", &format!("bucket = \"{topic}\"")),
        ("0.0.0.0:9640", &format!("127.0.0.1:{port}")),
    ] {
        ensure!(text.contains(from), "the manifest's configuration has no {from}");
        text = text.replace(from, to);
    }
    let (configs, secrets) = (mounts.path().join("config"), mounts.path().join("secret"));
    for folder in [&configs, &secrets] {
        fs::create_dir(folder)?;
    }
    fs::write(configs.join("sink.toml"), text)?;
    // A secret's files belong to root and the pod's group, and have the mode of the manifest.
    let token = secrets.join("token");
    fs::write(&token, of_kind("Secret")?["stringData"]["token"].as_str().context("token")?)?;
    let secret_mode =
        pod["volumes"].as_array().into_iter().flatten().find_map(|volume| volume["secret"]["defaultMode"].as_u64());
    fs::set_permissions(&token, fs::Permissions::from_mode(secret_mode.context("defaultMode")? as u32))?;
    chown(&token, Some(0), Some(user.parse()?))?;
    let mounted = |name: &str| {
        let mount = container["volumeMounts"].as_array().into_iter().flatten().find(|mount| mount["name"] == name);
        mount.and_then(|mount| mount["mountPath"].as_str()).with_context(|| format!("no mount {name}"))
    };
    let volume = config(storage)?["Volumes"].as_object().and_then(|volumes| volumes.keys().next().cloned());
    ensure!(volume.as_deref() == Some(mounted("cache")?), "the cache is mounted elsewhere than the image has it");
    let mut arguments = Vec::new();
    for (folder, name) in [(&configs, "config"), (&secrets, "secret")] {
        arguments.extend(["--mount".to_owned(), format!("{}:{}", folder.display(), mounted(name)?)]);
    }
    arguments.push("--".into());
    arguments.extend(texts(&container["args"]).into_iter().map(str::to_owned));

    let started = Instant::now();
    let mut running = Container::start(storage, &arguments, &user)?;
    let address = format!("127.0.0.1:{port}");
    for probe in ["livenessProbe", "readinessProbe"] {
        let path = container[probe]["httpGet"]["path"].as_str().context("a path")?;
        wait_for(&format!("the {probe}"), BOUND, || {
            running.process.expect_running()?;
            Ok(get(&address, path).is_ok_and(|(code, _)| code == 200).then_some(()))
        })
        .with_context(|| process::tail(running.process.log(), 20))?;
    }
    let produced = kafka.produce(&topic, (0..500).map(|n| Message::new(payload(n, 300))))?;
    let client = store.client()?;
    let deadline = Instant::now() + BOUND;
    while read_back(&client, &topic, "*").await.map_or(0, |stored| stored.len()) == 0 {
        running.process.expect_running()?;
        ensure!(Instant::now() < deadline, "no record is stored: {}", process::tail(running.process.log(), 20));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    figures::record("image_first_record_s", started.elapsed().as_secs_f64())?;

    // The image's health check, with the address that this test gave it instead of the port 9640.
    let health = config(storage)?["Healthcheck"]["Test"].clone();
    let mut check: Vec<&str> = texts(&health);
    ensure!(check.first() == Some(&"CMD"), "{health}");
    check.remove(0);
    check.extend(["--status", &address]);
    text_of(running.exec(&check)?)?;
    ensure!(running.status("Uid")? == [user.as_str(); 4].join(" "), "it runs as {}", running.status("Uid")?);
    ensure!(running.status("CapEff")? == "0000000000000000" && running.status("CapBnd")? == "0000000000000000");
    ensure!(running.status("NoNewPrivs")? == "1");
    ensure!(running.status("NSpid")?.ends_with(" 1"), "it isn't process 1 of the container");
    let written = running.exec(&["touch", "/tmp/file"])?;
    ensure!(!written.status.success(), "the root file system can be written");
    text_of(running.exec(&["test", "-s", "/usr/share/doc/reduct-sink/sbom.cdx.json"])?)
        .context("the image has no bill of materials")?;

    wait_for("all records to be committed", BOUND, || {
        running.process.expect_running()?;
        Ok(client_lag(&kafka, &topic)?.then_some(()))
    })?;
    let stopping = Instant::now();
    // SAFETY: a plain system call; the process is a child of one that isn't reaped yet.
    ensure!(unsafe { libc::kill(running.first, libc::SIGTERM) } == 0);
    let status = running.process.wait(BOUND)?;
    ensure!(status.success(), "{status}: {}", process::tail(running.process.log(), 20));
    let grace = pod["terminationGracePeriodSeconds"].as_u64().context("a grace period")?;
    ensure!(stopping.elapsed() < Duration::from_secs(grace), "it needed {:?} to stop", stopping.elapsed());
    compare(&produced, &read_back(&client, &topic, "*").await?)?.exact()?;
    figures::record("images", 1.0)
}

/// Whether the group of this bucket has committed everything.
fn client_lag(kafka: &reduct_sink_testbed::KafkaClient, topic: &str) -> Result<bool> {
    Ok(kafka.group(&format!("reduct-sink-{topic}"))?.lag(topic).ok() == Some(0))
}

/// Each service of the compose file with its environment, its command and its conditions, up to a record that is read from the
/// published port of ReductStore.
#[test]
fn the_compose_file_brings_a_record_to_the_store() -> Result<()> {
    let storage = image()?;
    let steps = text_of(Command::new(script("compose")).arg(storage).arg(IMAGE).output()?)?;
    let steps: Value = serde_json::from_str(steps.lines().last().context("no steps")?)?;
    let mut total = 0.0;
    for (step, seconds) in steps.as_object().context("steps")? {
        let seconds = seconds.as_f64().context("seconds")?;
        figures::record(&format!("compose_{}_s", step.replace([' ', '-'], "_")), seconds)?;
        total += seconds;
    }
    figures::record("compose_total_s", total)
}
