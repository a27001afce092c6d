//! Docker's credentials, as the commands of the host use them: helpers that hang or fail, and identity tokens.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

#[path = "../../src/plugin/remote/test_server.rs"]
#[allow(dead_code, reason = "its other uses are unit tests")]
mod test_server;

use self::test_server::TestServer;

/// The registry's token, and the secret that buys it.
const SHORT_LIVED: &str = "short-lived";
const IDENTITY: &str = "an identity token";

/// Docker's configuration, and a folder of credential helpers.
struct Docker(TempDir);

impl Docker {
    fn new(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.json"), config).unwrap();
        Self(folder)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Adds the helper that the configuration calls `test`.
    fn helper(self, script: &str) -> Self {
        let helper = self.at("docker-credential-test");
        fs::write(&helper, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    /// What `plugin inspect` says about a component of this server, and its exit code.
    fn inspect(&self, server: &TestServer) -> (Option<i32>, String) {
        let path = format!("{}:{}", self.0.path().display(), std::env::var("PATH").unwrap());
        // A file, not a pipe: a helper that hangs would hold a pipe open.
        let said = self.at("said");
        let file = File::create(&said).unwrap();
        let status = Command::new(env!("CARGO_BIN_EXE_reduct-sink"))
            .args(["plugin", "inspect", &format!("oci://{}/acme/numbers:1", server.host), "--plain-http"])
            .env("DOCKER_CONFIG", self.0.path())
            .env("PATH", path)
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .status()
            .unwrap();
        (status.code(), fs::read_to_string(said).unwrap())
    }
}

/// A registry that wants to see a token of its token server, and has nothing to give.
fn with_tokens() -> TestServer {
    TestServer::start(|request| {
        if request.starts_with("POST /token") {
            return ("200 OK".into(), format!(r#"{{"access_token":"{SHORT_LIVED}"}}"#).into_bytes());
        }
        if request.contains(&format!("Bearer {SHORT_LIVED}")) {
            return ("404 None".into(), Vec::new());
        }
        let host = request.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
        (format!("401 Who\r\nwww-authenticate: Bearer realm=\"http://{host}/token\",service=\"shelf\""), Vec::new())
    })
}

fn with_basic() -> TestServer {
    TestServer::start(|_| ("401 Who\r\nwww-authenticate: Basic realm=\"shelf\"".into(), Vec::new()))
}

fn helped() -> Docker {
    Docker::new(r#"{"credsStore": "test"}"#)
}

fn identity_helper() -> String {
    format!(r#"cat > /dev/null; echo '{{"ServerURL": "", "Username": "<token>", "Secret": "{IDENTITY}"}}'"#)
}

#[test]
fn an_identity_token_buys_a_token_of_the_token_server() {
    let registry = with_tokens();
    let (code, said) = helped().helper(&identity_helper()).inspect(&registry);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("404") && !said.contains(IDENTITY) && !said.contains(SHORT_LIVED), "{said}");
    let requests = registry.requests();
    let asked = requests.iter().find(|request| request.starts_with("POST /token")).unwrap();
    for part in [
        "grant_type=refresh_token",
        "service=shelf",
        "client_id=reduct-sink",
        "scope=repository%3Aacme%2Fnumbers%3Apull",
        "refresh_token=an+identity+token",
    ] {
        assert!(asked.contains(part), "{part}: {asked}");
    }
    let shown = requests.last().unwrap();
    assert!(shown.contains(&format!("authorization: Bearer {SHORT_LIVED}")), "{shown}");
}

#[test]
fn an_identity_token_is_no_password() {
    let registry = with_basic();
    let (code, said) = helped().helper(&identity_helper()).inspect(&registry);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("401"), "{said}");
    let requests = registry.requests();
    assert!(requests.iter().all(|request| !request.contains("authorization:")), "{requests:?}");
}

#[test]
fn a_credential_helper_that_hangs_is_left_behind() {
    let docker = helped();
    let hangs = docker.at("hangs");
    fs::write(&hangs, "").unwrap();
    // It ends when the test's folder is gone.
    let docker = docker.helper(&format!("while [ -e '{}' ]; do sleep 0.2; done", hangs.display()));
    let (code, said) = docker.inspect(&with_basic());
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("its credential helper hasn't answered within 10s"), "{said}");
}

#[test]
fn what_a_credential_helper_complains_about_is_one_line() {
    let docker = helped().helper(r"cat > /dev/null; printf 'the keyring is locked\n\033[2Jreally' >&2; exit 1");
    let (code, said) = docker.inspect(&with_basic());
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(r"docker-credential-test failed: the keyring is locked\n\u{1b}[2Jreally"), "{said}");
}
