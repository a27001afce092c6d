//! The command line as scripts, shells and people's tools meet it: errors in JSON with a code for every command, completions that a shell
//! loads, manual pages that render, what `--version` says, and progress where it belongs.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

fn sink(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_reduct-sink")).env_clear().args(args).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Each command that does something, such as `plugin new`, as `--help` lists them.
fn commands() -> &'static [String] {
    static FOUND: OnceLock<Vec<String>> = OnceLock::new();
    FOUND.get_or_init(|| {
        let below = |path: &str| -> Vec<String> {
            let told = text(&sink(&[&path.split_whitespace().collect::<Vec<_>>()[..], &["--help"]].concat()).stdout);
            let Some((_, rest)) = told.split_once("\nCommands:\n") else { return Vec::new() };
            let lines = rest.lines().take_while(|line| !line.is_empty());
            let names = lines.filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next());
            names.filter(|name| *name != "help").map(|name| format!("{path} {name}").trim().to_owned()).collect()
        };
        let mut found = Vec::new();
        for command in below("") {
            let more = below(&command);
            if more.is_empty() { found.push(command) } else { found.extend(more) }
        }
        assert!(found.len() >= 20, "{found:?}");
        found
    })
}

/// What stands in the last line of standard output.
fn error(output: &Output) -> Value {
    let told = text(&output.stdout);
    let last: Value = serde_json::from_str(told.lines().last().unwrap_or_default())
        .unwrap_or_else(|error| panic!("{error}: {told}{}", text(&output.stderr)));
    let error = last["error"].clone();
    assert_eq!(error["exit"].as_i64(), output.status.code().map(i64::from), "{error}");
    for key in ["code", "message", "remedy"] {
        assert!(error[key].as_str().is_some_and(|text| !text.is_empty()), "{key}: {error}");
    }
    error
}

#[test]
fn every_command_tells_a_mistake_in_json() {
    for command in commands() {
        let words: Vec<&str> = command.split_whitespace().collect();
        let output = sink(&[&words[..], &["--json", "--no-such-flag"]].concat());
        let error = error(&output);
        assert_eq!(error["code"], "command-line", "{command}: {error}");
        assert!(error["message"].as_str().unwrap().contains("--no-such-flag"), "{command}: {error}");
        assert!(output.stderr.is_empty(), "{command}: {}", text(&output.stderr));
        // Without the flag a person is told.
        let output = sink(&[&words[..], &["--no-such-flag"]].concat());
        assert!(output.stdout.is_empty() && text(&output.stderr).contains("--no-such-flag"), "{command}");
    }
}

#[test]
fn failures_have_codes_places_and_remedies() {
    let bed = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = bed.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let kafka =
        "[kafka]\nbrokers = \"127.0.0.1:1\"\ntopics = [\"t\"]\n[store]\nbucket = \"b\"\n[status]\nlisten = \"\"\n";
    let wrong = file("wrong.toml", format!("{kafka}[limits]\nworkers = \"many\"\n").as_bytes());
    let plugin = file("p.toml", format!("{kafka}[[plugins]]\nname = \"p\"\npath = \"text.wasm\"\n").as_bytes());
    let gone = file("g.toml", format!("{kafka}[[plugins]]\nname = \"p\"\npath = \"gone.wasm\"\n").as_bytes());
    file("text.wasm", b"text");
    let text_file = bed.path().join("text.wasm").to_str().unwrap().to_owned();
    let empty = bed.path().join("empty").to_str().unwrap().to_owned();
    std::fs::create_dir(&empty).unwrap();
    let nowhere = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let cases: &[(&[&str], i64, &str)] = &[
        (&["check", "--config", &wrong], 2, "config"),
        (&["run", "--config", &wrong], 2, "config"),
        (&["replay", "--config", &wrong], 2, "config"),
        (&["run", "--config", &plugin], 3, "plugin.file"),
        (&["run", "--config", &plugin, "--dry-run"], 3, "plugin.file"),
        (&["check", "--offline", "--config", &plugin], 3, "plugin.file"),
        (&["check", "--offline", "--config", &gone], 3, "plugin.missing"),
        (&["replay", "--config", &plugin], 3, "plugin.file"),
        (&["replay", "--running", "--dead-letters", "x"], 2, "command-line"),
        (&["replay", "--running", "--write", "--status", &nowhere], 4, "host.unreachable"),
        (&["status", "--status", &nowhere], 4, "host.unreachable"),
        (&["tap", "--status", &nowhere], 4, "host.unreachable"),
        (&["pause", "--status", &nowhere], 4, "host.unreachable"),
        (&["resume", "--status", &nowhere], 4, "host.unreachable"),
        (&["plugin", "promote", "p", "--status", &nowhere], 4, "host.unreachable"),
        (&["plugin", "rollback", "p", "--status", &nowhere], 4, "host.unreachable"),
        (&["plugin", "new", "--lang", "rust", &empty, "--config", "x"], 2, "command-line"),
        (&["plugin", "new", "--lang", "rust", "No Name"], 2, "usage"),
        (&["plugin", "build", &empty], 2, "usage"),
        (&["plugin", "dev", &empty], 2, "usage"),
        (&["plugin", "test", &empty], 2, "usage"),
        (&["plugin", "compile", &text_file, "--cache", &empty], 3, "plugin.file"),
        (&["plugin", "verify", &text_file, "--key", "no"], 2, "usage"),
        (&["plugin", "componentize", &text_file, "--output", &empty], 3, "plugin"),
        (&["plugin", "passthrough"], 2, "command-line"),
        (&["plugin", "inspect", &text_file], 3, "plugin"),
        (&["man", "--output", "/no/such/folder"], 1, "output"),
    ];
    for (args, exit, code) in cases {
        let output = sink(&[*args, &["--json"]].concat());
        let error = error(&output);
        assert_eq!((error["exit"].as_i64(), error["code"].as_str()), (Some(*exit), Some(*code)), "{args:?}: {error}");
        // All of it is JSON; `plugin inspect` prints an object over several lines before.
        let told = text(&output.stdout);
        for value in serde_json::Deserializer::from_str(&told).into_iter::<Value>() {
            value.unwrap_or_else(|error| panic!("{args:?}: {error}: {told}"));
        }
    }
    let error = error(&sink(&["check", "--json", "--config", &wrong]));
    assert!(error["place"].as_str().unwrap().ends_with("wrong.toml:9"), "{error}");
    assert_eq!(error["problems"][0]["key"], "limits.workers", "{error}");
    let error = self::error(&sink(&["run", "--json", "--config", &plugin]));
    assert!(error["place"].as_str().unwrap().ends_with("text.wasm"), "{error}");
}

/// The remedies name commands without an address, and an operator has the host's configuration at hand.
#[test]
fn a_running_host_is_found_by_its_configuration() {
    let bed = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::fs::write(bed.path().join("token"), "a-token\n").unwrap();
    let config = bed.path().join("sink.toml");
    std::fs::write(&config, format!("[status]\nlisten = \"{address}\"\ntoken_file = \"token\"\n")).unwrap();
    let config = config.to_str().unwrap();
    let commands: [&[&str]; 7] = [
        &["status"],
        &["pause"],
        &["resume"],
        &["tap", "--count", "1"],
        &["plugin", "promote", "p"],
        &["plugin", "rollback", "p"],
        &["replay", "--running", "--write"],
    ];
    for command in commands {
        let asked = std::thread::scope(|scope| {
            let served = scope.spawn(|| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut asked = [0; 4096];
                let length = stream.read(&mut asked).unwrap();
                stream
                    .write_all(b"HTTP/1.1 409 Conflict\r\nContent-Length: 6\r\nConnection: close\r\n\r\nnot so")
                    .unwrap();
                text(&asked[..length]).to_lowercase()
            });
            let output = sink(&[command, &["--json", "--config", config]].concat());
            let error = error(&output);
            // Nobody else connects, so that a command that asked elsewhere would leave the server waiting.
            if error["code"] != "host.refuses" {
                drop(std::net::TcpStream::connect(&address));
            }
            assert_eq!(error["code"], "host.refuses", "{command:?}: {error}");
            served.join().unwrap()
        });
        assert!(asked.contains("authorization: bearer a-token"), "{command:?}: {asked}");
    }
    let output = sink(&["status", "--json", "--config", "/no/such/file"]);
    assert!(error(&output)["message"].as_str().unwrap().contains("--status"), "{}", text(&output.stdout));
}

/// Another program may listen where the configuration file says that the host does.
#[test]
fn an_answer_that_is_no_hosts_names_the_address_that_was_asked() {
    let bed = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let config = bed.path().join("sink.toml");
    std::fs::write(&config, format!("[status]\nlisten = \"{address}\"\n")).unwrap();
    for command in [&["status"][..], &["tap", "--count", "1"]] {
        let output = std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 4096]).unwrap();
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello").unwrap();
            });
            sink(&[command, &["--config", config.to_str().unwrap()]].concat())
        });
        let told = text(&output.stderr);
        assert!(told.contains(&format!("{address} doesn't answer as a host does")), "{command:?}: {told}");
    }
}

#[test]
fn what_is_done_is_json_too() {
    let bed = tempfile::tempdir().unwrap();
    let path = |name: &str| bed.path().join(name).to_str().unwrap().to_owned();
    let (folder, component, cache) = (path("mine"), path("p.wasm"), path("cache"));
    let told = |args: &[&str]| -> Value {
        let output = sink(&[args, &["--json"]].concat());
        assert!(output.status.success(), "{args:?}: {}{}", text(&output.stdout), text(&output.stderr));
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{args:?}: {error}: {}", text(&output.stdout)))
    };
    assert!(told(&["plugin", "new", "--lang", "rust", &folder])["files"].as_array().unwrap().len() > 3);
    assert_eq!(told(&["plugin", "passthrough", "--output", &component])["component"], component.as_str());
    std::fs::create_dir(&cache).unwrap();
    assert_eq!(told(&["plugin", "compile", &component, "--cache", &cache])["was_there"], false);
    assert_eq!(told(&["plugin", "compile", &component, "--cache", &cache])["was_there"], true);
    assert_eq!(told(&["plugin", "inspect", &component])["contract"].as_str().map(str::is_empty), Some(false));
    assert_eq!(told(&["config", "schema"])["type"], "object");
}

#[test]
fn a_shell_loads_the_completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = sink(&["completions", shell]);
        let script = text(&output.stdout);
        assert!(output.status.success(), "{shell}");
        for command in commands() {
            let last = command.split_whitespace().last().unwrap();
            assert!(script.contains(last), "{shell} doesn't know {command}");
        }
    }
    let script = text(&sink(&["completions", "bash"]).stdout);
    let complete = |words: &str| {
        let at = words.split(' ').count() - 1;
        let ask = format!(
            "{script}\nCOMP_WORDS=({words} '') COMP_CWORD={}\n_reduct__sink reduct-sink '' ''\necho \"${{COMPREPLY[@]}}\"",
            at + 1
        );
        text(&Command::new("bash").args(["--norc", "-c", &ask]).output().unwrap().stdout)
    };
    let found = complete("reduct-sink");
    assert!(
        ["run", "check", "replay", "tap", "plugin"]
            .iter()
            .all(|name| found.split_whitespace().any(|word| word == *name)),
        "{found}"
    );
    let found = complete("reduct-sink plugin");
    assert!(
        ["new", "build", "promote"].iter().all(|name| found.split_whitespace().any(|word| word == *name)),
        "{found}"
    );
}

#[test]
fn each_command_has_a_page_that_renders() {
    let bed = tempfile::tempdir().unwrap();
    let output = sink(&["man", "--output", bed.path().to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    for command in commands() {
        let file = bed.path().join(format!("reduct-sink-{}.1", command.replace(' ', "-")));
        let page = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        assert!(
            page.contains(".TH ") && page.contains(".SH SYNOPSIS") && page.contains("\\-\\-json"),
            "{command}: {page}"
        );
        if let Some(rendered) = rendered(&file) {
            assert!(rendered.contains("--log-level"), "{command}: {rendered}");
        }
    }
    let page = text(&sink(&["man"]).stdout);
    assert!(page.contains(".TH reduct-sink 1") && page.contains("reduct\\-sink\\-plugin"), "{page}");
}

/// As `man` shows it, without a warning of its formatter; `None`: this machine has none.
fn rendered(file: &Path) -> Option<String> {
    let output = Command::new("groff").args(["-Kutf8", "-man", "-Tutf8", "-ww", "-P-cbou"]).arg(file).output().ok()?;
    // A machine without all of groff has no macros.
    if !output.status.success() {
        return None;
    }
    assert!(output.stderr.is_empty(), "{}: {}", file.display(), text(&output.stderr));
    Some(text(&output.stdout))
}

#[test]
fn the_version_names_what_it_was_built_with() {
    let told = text(&sink(&["--version"]).stdout);
    let lock = include_str!("../../../Cargo.lock");
    let (_, rest) = lock.split_once("name = \"wasmtime\"\nversion = \"").unwrap();
    let wasmtime = rest.split('"').next().unwrap();
    assert!(told.starts_with(&format!("reduct-sink {}\ncommit: ", env!("CARGO_PKG_VERSION"))), "{told}");
    let commit = told.lines().find_map(|line| line.strip_prefix("commit: ")).unwrap();
    let is_hash = commit.len() >= 40 && commit.bytes().all(|letter| letter.is_ascii_hexdigit());
    // Somebody who builds it elsewhere may name the commit as they like.
    let is_free = option_env!("REDUCT_SINK_COMMIT").is_some() || !Path::new("../.git").exists();
    assert!(is_hash || is_free, "it is built in a checkout: {told}");
    assert!(told.contains(&format!("\nwasmtime: {wasmtime}\n")), "{told}");
    let librdkafka = told.lines().find_map(|line| line.strip_prefix("librdkafka: ")).unwrap();
    let is_number = librdkafka.split('.').all(|part| part.parse::<u32>().is_ok());
    assert!(is_number && lock.contains(&format!("+{librdkafka}\"")), "{told}");
    assert!(told.contains("\nplugin contract: reduct-sink:transform@0.1.0"), "{told}");
    assert_eq!(text(&sink(&["-V"]).stdout).trim(), format!("reduct-sink {}", env!("CARGO_PKG_VERSION")));
}

/// A broker that takes connections and never answers keeps `check` busy.
#[test]
fn long_work_shows_how_far_it_is_but_not_to_programs() {
    let broker = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = broker.local_addr().unwrap().to_string();
    let args = [
        "check",
        "--topic",
        "t",
        "--bucket",
        "b",
        "--status",
        "",
        "--no-plugins",
        "--url",
        "http://127.0.0.1:1",
        "--brokers",
        &address,
    ];
    let (plain, json, terminal) = std::thread::scope(|scope| {
        let plain = scope.spawn(|| sink(&args));
        let json = scope.spawn(|| sink(&[&args[..], &["--json"]].concat()));
        let terminal = scope.spawn(|| {
            let quoted: Vec<String> = args.iter().map(|word| format!("'{word}'")).collect();
            let command = format!("{} {}", env!("CARGO_BIN_EXE_reduct-sink"), quoted.join(" "));
            Command::new("script").args(["-qec", &command, "/dev/null"]).stdin(Stdio::null()).output()
        });
        (plain.join().unwrap(), json.join().unwrap(), terminal.join().unwrap())
    });
    let said = format!("asking Kafka at {address} … ");
    let lines = text(&plain.stderr).lines().filter(|line| line.starts_with(&said)).count();
    assert!((1..10).contains(&lines), "{}", text(&plain.stderr));
    assert!(!text(&json.stderr).contains("asking") && !text(&json.stdout).contains("asking"), "{}", text(&json.stderr));
    assert_eq!(error(&json)["code"], "kafka.unreachable");
    // A machine without a terminal to borrow can't show the rest.
    let Ok(terminal) = terminal else { return };
    let shown = text(&terminal.stdout);
    let updates = shown.matches(&format!("\r\u{1b}[K{said}")).count();
    assert!(updates > 5, "{shown:?}");
    // What is printed stands alone, and nothing is left behind it.
    assert!(shown.contains("\r\u{1b}[KFAILED  kafka:") && !shown.trim_end().ends_with(" s"), "{shown:?}");
}

/// A thread that is left behind, such as that of a Kafka client, may use what an exit handler frees. The handler here ends the process
/// as badly.
#[test]
fn the_process_ends_without_the_exit_handlers_of_c_libraries() {
    let folder = tempfile::tempdir().unwrap();
    let (source, library) = (folder.path().join("handler.c"), folder.path().join("handler.so"));
    let code = "#include <stdlib.h>\n__attribute__((constructor)) static void begin(void) { atexit(abort); }\n";
    std::fs::write(&source, code).unwrap();
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status().unwrap();
    assert!(compiled.success(), "{compiled}");
    let run = |program: &str, args: &[&str]| {
        let mut command = Command::new(program);
        command.args(args).env("LD_PRELOAD", &library).current_dir(folder.path());
        command.stdin(Stdio::null()).output().unwrap()
    };
    assert_eq!(run("true", &[]).status.code(), None, "the handler does nothing");
    let program = env!("CARGO_BIN_EXE_reduct-sink");
    let (output, failure) = (run(program, &["config", "schema"]), run(program, &["plugin", "inspect", "none"]));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(output.stdout, sink(&["config", "schema"]).stdout);
    assert!(output.stdout.len() > 10_000 && output.stdout.ends_with(b"\n"));
    assert_eq!(failure.status.code(), Some(1), "{}", text(&failure.stderr));
}
