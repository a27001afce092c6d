//! Tests the Debian package, installed in a root file system of its own: an overlay over this machine's, which isn't
//! changed.
//!
//! Guarantees: the package's own scripts run; the service's command runs as the service's user, with the service's
//! configuration, on the real servers, and every record is compared.

mod fetching;
mod image;
mod registries;
mod registry;
mod sbom;
mod signer;
mod web_servers;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reduct_sink_testbed::process::{self, Process, wait_for};
use reduct_sink_testbed::verify::compare;
use reduct_sink_testbed::{Message, bed, figures, read_back, sink, unique};

const BOUND: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn the_debian_package_is_installed_run_upgraded_and_removed() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let (topic, bucket) = (unique("install"), unique("install"));
    kafka.create_topic(&topic, 2)?;
    let machine = Machine::new()?;
    let packages = [machine.package("1.0.0")?, machine.package("1.0.1")?];

    let start = Instant::now();
    machine.run(&format!("dpkg --install {}", packages[0].display()))?;
    machine.run("systemd-analyze verify /lib/systemd/system/reduct-sink.service")?;
    let exposure =
        machine.run("systemd-analyze security --offline=true --no-pager /lib/systemd/system/reduct-sink.service")?;
    figures::record("install_unit_exposure", exposure_of(&exposure)?)?;
    ensure!(exposure_of(&exposure)? < 2.5, "the unit is too open:\n{exposure}");

    let config = format!(
        "[kafka]\nbrokers = \"{}\"\ntopics = [\"{topic}\"]\ngroup = \"{topic}\"\n\n[store]\nurl = \"{}\"\nbucket = \"{bucket}\"\n\n\
         [status]\nlisten = \"127.0.0.1:{}\"\n",
        bed.kafka.brokers(),
        bed.store.url(),
        process::free_port()?,
    );
    machine.run(&format!("cat >/etc/reduct-sink/sink.toml <<'END'\n{config}END"))?;
    let rights = machine.run("stat -c '%U:%G %a' /etc/reduct-sink/sink.toml")?;
    ensure!(rights.trim() == "root:reduct-sink 640", "the configuration has the rights {rights}");
    machine.run("setpriv --reuid reduct-sink --regid reduct-sink --clear-groups reduct-sink check --config /etc/reduct-sink/sink.toml")?;

    let mut produced = kafka.produce(&topic, (0..500).map(|n| Message::new(format!("first {n}"))))?;
    machine.serve(|service| {
        service.wait_ready()?;
        figures::record("install_first_record_s", start.elapsed().as_secs_f64())?;
        wait_for("the records to be committed", BOUND, || {
            service.process.expect_running()?;
            Ok((kafka.group(&topic)?.lag(&topic).ok() == Some(0)).then_some(()))
        })
    })?;

    machine.run(&format!("dpkg --install {}", packages[1].display()))?;
    let version = machine.run("dpkg-query -W -f '${Version}' reduct-sink")?;
    ensure!(version == "1.0.1", "the upgrade left version {version}");
    ensure!(machine.run("cat /etc/reduct-sink/sink.toml")? == config, "the upgrade changed the configuration");
    produced.extend(kafka.produce(&topic, (0..500).map(|n| Message::new(format!("second {n}"))))?);
    machine.serve(|service| {
        service.wait_ready()?;
        wait_for("the new records to be committed", BOUND, || {
            service.process.expect_running()?;
            Ok((kafka.group(&topic)?.lag(&topic).ok() == Some(0)).then_some(()))
        })
    })?;
    compare(&produced, &read_back(&bed.store.client()?, &bucket, "*").await?)?.exact()?;

    machine.run("dpkg --remove reduct-sink && test ! -e /usr/bin/reduct-sink && test -e /etc/reduct-sink/sink.toml")?;
    machine.run("dpkg --purge reduct-sink && test ! -e /etc/reduct-sink && test ! -e /var/cache/reduct-sink")?;
    figures::record("packages", 1.0)
}

/// The number in `→ Overall exposure level for reduct-sink.service: 1.4 OK`.
fn exposure_of(text: &str) -> Result<f64> {
    let (_, level) = text.rsplit_once("service: ").context("systemd-analyze prints no exposure level")?;
    Ok(level.split(' ').next().context("a level")?.parse()?)
}

/// A root file system whose changes are in a folder.
struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    fn new() -> Result<Self> {
        // SAFETY: geteuid takes no arguments and can't fail.
        ensure!(unsafe { libc::geteuid() } == 0, "installing a package needs root");
        let folder = process::data_folder("machine")?;
        for name in ["changes", "work", "root", "notify"] {
            fs::create_dir(folder.path().join(name))?;
        }
        Ok(Self { folder })
    }

    /// Builds the package with this version.
    fn package(&self, version: &str) -> Result<PathBuf> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/packaging/debian/build");
        let mut command = Command::new(script);
        command.arg("--binary").arg(sink::binary()?).args(["--version", version, "--output"]).arg(self.folder.path());
        Ok(text_of(command.output()?)?.trim().into())
    }

    /// A command that runs in the root file system, in a mount namespace of its own.
    fn command(&self, script: &str) -> Command {
        let folder = self.folder.path().display();
        let mount = format!(
            "mount -t overlay overlay -o lowerdir=/,upperdir={folder}/changes,workdir={folder}/work {folder}/root
             mount --rbind /dev {folder}/root/dev
             mount -t proc proc {folder}/root/proc
             mkdir -p {folder}/root/run/test
             mount --bind {folder}/notify {folder}/root/run/test
             exec chroot {folder}/root sh -ec \"$1\""
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "bash", "-ec", &mount, "bash", script]);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("REDUCT_SINK_")) {
            command.env_remove(name);
        }
        command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C.UTF-8");
        command
    }

    fn run(&self, script: &str) -> Result<String> {
        text_of(self.command(script).output()?).with_context(|| script.to_owned())
    }

    /// Runs the unit's command as the unit's user while `with` runs, and stops it by SIGTERM.
    fn serve(&self, with: impl FnOnce(&mut Service) -> Result<()>) -> Result<()> {
        let path = self.folder.path().join("notify/socket");
        let _ = fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path)?;
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
        socket.set_read_timeout(Some(BOUND))?;
        let script = "install -d -o reduct-sink -g reduct-sink -m 700 /var/cache/reduct-sink
            export NOTIFY_SOCKET=/run/test/socket REDUCT_SINK_CACHE_PATH=/var/cache/reduct-sink
            exec setpriv --reuid reduct-sink --regid reduct-sink --clear-groups --no-new-privs --bounding-set=-all --pdeathsig KILL \
                $(sed -n 's/^ExecStart=//p' /lib/systemd/system/reduct-sink.service)";
        let log = process::new_log("service")?;
        let process = Process::spawn("the service", self.command(script), &log)?;
        let mut service = Service { process, socket };
        with(&mut service).with_context(|| process::tail(&log, 20))?;
        service.process.signal(libc::SIGTERM)?;
        let status = service.process.wait(BOUND)?;
        ensure!(status.success(), "the service ended with {status}:\n{}", process::tail(&log, 20));
        Ok(())
    }
}

struct Service {
    process: Process,
    socket: UnixDatagram,
}

impl Service {
    /// Waits for the message that systemd waits for.
    fn wait_ready(&self) -> Result<()> {
        let mut message = [0; 64];
        let length = self.socket.recv(&mut message).context("the service never says that it is ready")?;
        ensure!(message.starts_with(b"READY=1"), "the service says {:?}", String::from_utf8_lossy(&message[..length]));
        Ok(())
    }
}

fn text_of(output: Output) -> Result<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(output.status.success(), "{}: {}{}", output.status, text(&output.stdout), text(&output.stderr));
    Ok(text(&output.stdout))
}
