//! If the log can't be written, the host loses log lines and nothing else: it runs on, and SIGTERM ends it with exit
//! code 0.
//!
//! In place of a broker the test has a listener that never answers. A connection to it shows that the host has begun to
//! work, and therefore to log.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// After this time the test fails. It is far longer than the host needs.
const GIVE_UP: Duration = Duration::from_secs(120);

#[test]
fn a_log_on_a_full_disk_does_not_stop_the_host() {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let (child, broker) = started(Stdio::from(full), &[]);
    broker.accept().unwrap();
    assert_eq!(stopped(child).code(), Some(0));
}

#[test]
fn a_reader_of_the_log_that_went_away_does_not_keep_the_host_from_stopping() {
    let (mut child, broker) = started(Stdio::piped(), &[]);
    let mut log = child.stderr.take().unwrap();
    log.read_exact(&mut [0]).unwrap();
    drop(log);
    broker.accept().unwrap();
    assert_eq!(stopped(child).code(), Some(0));
}

#[test]
fn a_reader_of_the_log_that_does_not_read_does_not_keep_the_host_from_stopping() {
    let (reader, mut log) = UnixStream::pair().unwrap();
    log.set_nonblocking(true).unwrap();
    while log.write(&[b'.'; 1024]).is_ok() {}
    log.set_nonblocking(false).unwrap();
    let (child, broker) = started(Stdio::from(OwnedFd::from(log)), &[]);
    broker.accept().unwrap();
    assert_eq!(stopped(child).code(), Some(0));
    drop(reader);
}

/// A core dump would hold the secrets. At a limit of 1 byte Linux hands none to a program that collects dumps either.
#[test]
fn the_host_leaves_no_core_dump() {
    // The shell that starts it may allow dumps of any size.
    let allowing = ["-c", "ulimit -c \"$(ulimit -H -c)\"; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_reduct-sink")];
    let mut command = Command::new("sh");
    command.args(allowing);
    let (child, broker) = started_by(command, Stdio::null(), &[]);
    broker.accept().unwrap();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
    let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
    let soft = core.split_whitespace().next().unwrap();
    assert!(["0", "1"].contains(&soft), "{limits}");
    assert_eq!(stopped(child).code(), Some(0));
}

fn started(log: Stdio, flags: &[&str]) -> (Child, TcpListener) {
    started_by(Command::new(env!("CARGO_BIN_EXE_reduct-sink")), log, flags)
}

fn started_by(mut command: Command, log: Stdio, flags: &[&str]) -> (Child, TcpListener) {
    let broker = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = broker.local_addr().unwrap().to_string();
    command.env_clear().args(["run", "--topic", "t", "--bucket", "b", "--status", "", "--brokers", &address]);
    command.args(["--url", "http://127.0.0.1:1", "--no-plugins"]).args(flags).stdout(Stdio::null()).stderr(log);
    (command.spawn().unwrap(), broker)
}

fn stopped(mut child: Child) -> ExitStatus {
    assert_eq!(child.try_wait().unwrap(), None, "it ended by itself");
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    let asked = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if asked.elapsed() > GIVE_UP {
            child.kill().unwrap();
            panic!("it is still running");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
