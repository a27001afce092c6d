//! Precedence, defaults, and that the documentation knows every key. What is refused, and how, is in `tests/config`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::assemble::assemble;
use super::key_table::{self, PREFIX, PROPERTY_PREFIX};
use super::layers::Layers;
use super::*;

const REQUIRED: &str = "[kafka]\nbrokers = \"127.0.0.1:1\"\ntopics = [\"file\"]\n[store]\nbucket = \"file\"\n";
const EXAMPLE: &str = include_str!("../../../examples/reduct-sink.toml");
const MANUAL: &str = include_str!("../../docs/configuration.md");

/// The file's text, variables, and flags as key and values.
fn try_load(
    file: &str,
    variables: &[(&str, &str)],
    flags: &[(&'static str, &[&str])],
) -> (Vec<String>, Result<Config, ConfigProblems>) {
    let mut layers = Layers { folder: "folder".into(), ..Layers::default() };
    layers.read_toml("sink.toml", file.as_bytes());
    layers.read_environment(variables.iter().map(|(name, value)| (name.into(), value.into())));
    let flag =
        |(key, values): &(&'static str, &[&str])| Flag::new(key, values.iter().map(ToString::to_string).collect());
    layers.read_flags(flags.iter().map(flag).collect());
    let environment = variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let LoadOutcome { warnings, config } = assemble(layers, &environment, None, None);
    (warnings, config.map(|pipelines| pipelines.only().unwrap()))
}

fn load(file: &str, variables: &[(&str, &str)], flags: &[(&'static str, &[&str])]) -> Config {
    try_load(file, variables, flags).1.unwrap()
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let variables = [("REDUCT_SINK_BROKERS", "env:1"), ("REDUCT_SINK_BUCKET", "env"), ("REDUCT_SINK_TOPICS", "a, ^b")];
    let config = load(REQUIRED, &variables, &[("kafka.brokers", &["flag:1"])]);
    assert_eq!(config.kafka.brokers, "flag:1");
    assert_eq!(config.store.bucket, "env");
    assert_eq!(config.kafka.topics, ["a", "^b"]);
    assert_eq!(load(REQUIRED, &[], &[]).kafka.topics, ["file"]);
}

#[test]
fn flags_alone_are_enough_and_run_the_passthrough() {
    let flags: [(_, &[&str]); 3] =
        [("kafka.brokers", &["k:9092"]), ("kafka.topics", &["camera"]), ("store.bucket", &["kafka"])];
    let config = load("", &[], &flags);
    let [plugin] = config.plugins.as_slice() else { panic!("{:?}", config.plugins) };
    assert_eq!((plugin.name.as_str(), &plugin.source), ("passthrough", &PluginSource::Builtin));
    assert_eq!(config.store.url, "http://127.0.0.1:8383");
    assert_eq!(config.kafka.start, StartPolicy::Earliest);
}

#[test]
fn properties_are_laid_over_each_other_one_by_one() {
    let file =
        format!("{REQUIRED}[kafka.properties]\nsecurity.protocol = \"ssl\"\n\"fetch.min.bytes\" = 5\na.b = true\n");
    let variables = [("REDUCT_SINK_PROPERTY_SASL_PASSWORD", "x=y,z"), ("REDUCT_SINK_PROPERTY_A_B", "env")];
    let config = load(&file, &variables, &[("kafka.properties", &["a.b=flag", "ssl.ca.location= /ca "])]);
    let properties: Vec<_> = config.kafka.properties.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let expected = [
        ("a.b", "flag"),
        ("fetch.min.bytes", "5"),
        ("sasl.password", "x=y,z"),
        ("security.protocol", "ssl"),
        ("ssl.ca.location", "/ca"),
    ];
    assert_eq!(properties, expected);
}

#[test]
fn the_chain_is_replaced_as_a_whole() {
    let file = format!("{REQUIRED}[[plugins]]\npath = \"a.wasm\"\n[[plugins]]\npath = \"b/My_Plugin.wasm\"\n");
    let names = |config: &Config| -> Vec<String> { config.plugins.iter().map(|plugin| plugin.name.clone()).collect() };
    let config = load(&file, &[], &[]);
    assert_eq!(names(&config), ["a", "my-plugin"]);
    assert_eq!(config.plugins[1].source, PluginSource::File(PathBuf::from("folder/b/My_Plugin.wasm")));

    let config = load(&file, &[("REDUCT_SINK_PLUGINS", "c.wasm,d.wasm")], &[]);
    assert_eq!(names(&config), ["c", "d"]);
    assert_eq!(config.plugins[0].source, PluginSource::File(PathBuf::from("c.wasm")), "not in the file's folder");

    assert_eq!(names(&load(&file, &[], &[("plugins", &["e.wasm"])])), ["e"]);
    assert_eq!(names(&load(&file, &[], &[("plugins", &[])])), Vec::<String>::new());
    assert_eq!(names(&load(&format!("plugins = []\n{REQUIRED}"), &[], &[])), Vec::<String>::new());
}

#[test]
fn a_plugins_table_becomes_json() {
    let file = format!(
        "{REQUIRED}[[plugins]]\npath = \"a.wasm\"\nmemory = 1_000_000\n[plugins.config]\n\
         b = [1, 2.5, true]\na.c = \"x\"\nwhen = 1979-05-27\n"
    );
    let plugin = load(&file, &[], &[]).plugins.remove(0);
    let json: serde_json::Value = serde_json::from_str(&plugin.config).unwrap();
    assert_eq!(json, serde_json::json!({ "b": [1, 2.5, true], "a": { "c": "x" }, "when": "1979-05-27" }));
    assert_eq!(plugin.memory_bytes, 1_000_000);
    assert_eq!(load(REQUIRED, &[], &[]).plugins[0].config, "{}");
}

#[test]
fn an_empty_address_of_the_status_page_is_none() {
    let listen = |file: &str, flags: &[(&'static str, &[&str])]| load(file, &[], flags).status.listen;
    let file = format!("{REQUIRED}[status]\nlisten = \"\"\n");
    assert_eq!(listen(&file, &[]), None);
    assert_eq!(listen(REQUIRED, &[("status.listen", &[""])]), None);
    assert!(listen(REQUIRED, &[]).is_some());
    assert_eq!(listen(&file, &[("status.listen", &["127.0.0.1:1"])]).as_deref(), Some("127.0.0.1:1"));
}

#[test]
fn texts_of_the_environment_are_read_as_the_key_wants() {
    let variables = [
        ("REDUCT_SINK_WORKERS", "3"),
        ("REDUCT_SINK_DISCARD", "true"),
        ("REDUCT_SINK_BATCH_BYTES", "1MiB"),
        ("REDUCT_SINK_TIMEOUT", "1m 30s"),
        ("REDUCT_SINK_GROUP", ""),
    ];
    let config = load(REQUIRED, &variables, &[]);
    assert_eq!((config.limits.workers, config.store.discard), (3, true));
    assert_eq!((config.store.batch_bytes, config.store.timeout), (1 << 20, Duration::from_secs(90)));
    assert_eq!(config.kafka.group, "reduct-sink-file", "an empty variable counts as not set");
}

#[test]
fn of_token_and_token_file_the_upper_layer_counts() {
    let file = format!("{REQUIRED}token_file = \"no-such-file\"\n");
    let config = load(&file, &[("REDUCT_SINK_TOKEN", "from-env")], &[]);
    assert_eq!(config.store.token.as_deref(), Some("from-env"));
    assert!(!format!("{config:?}").contains("from-env"), "no log shows a token");

    let folder = std::env::temp_dir().join(format!("reduct-sink-token-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("token"), "from-file\n").unwrap();
    let mut layers = Layers { folder: folder.clone(), ..Layers::default() };
    layers.read_toml("sink.toml", format!("{REQUIRED}token_file = \"token\"\n").as_bytes());
    let config = validate::validate(layers, None).unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    assert_eq!(config.store.token.as_deref(), Some("from-file"));
}

#[test]
fn an_unknown_variable_is_a_warning() {
    let variables = [
        ("REDUCT_SINK_BROKER", "x"),
        ("REDUCT_SINK_CONFIG", "known to the command line"),
        ("REDUCT_SINK_NOTHING_LIKE_IT", "x"),
        ("REDUCT_SINK_PORT", "tcp://10.0.0.1:80"),
        ("REDUCT_SINK_SERVICE_HOST", "10.0.0.1"),
    ];
    let (warnings, config) = try_load(REQUIRED, &variables, &[]);
    let expected = [
        "environment variable REDUCT_SINK_BROKER: not known, did you mean REDUCT_SINK_BROKERS?",
        "environment variable REDUCT_SINK_NOTHING_LIKE_IT: not known",
    ];
    assert_eq!(warnings, expected);
    assert!(config.is_ok());
}

#[test]
fn a_file_with_a_byte_order_mark_and_crlf_reads_and_counts_lines() {
    let file = format!("\u{feff}{}", REQUIRED.replace('\n', "\r\n"));
    assert_eq!(load(&file, &[], &[]).store.bucket, "file");
    let (_, config) = try_load(&format!("{file}workers = 1\r\n"), &[], &[]);
    assert!(config.unwrap_err().to_string().starts_with("sink.toml:6: store.workers"));
}

#[test]
fn any_bytes_end_in_problems_at_worst() {
    for bytes in [&b"\xff\xfe"[..], b"[kafka", b"a = {", b"\0", b"[[[", b"\"", b"kafka = [[[[[[[[[[[[[[[["] {
        let mut layers = Layers::default();
        layers.read_toml("sink.toml", bytes);
        assert!(validate::validate(layers, None).is_err());
    }
}

#[test]
fn the_example_is_the_defaults() {
    let minimal = "[kafka]\nbrokers = \"127.0.0.1:9092\"\ntopics = [\"camera\"]\n[store]\nbucket = \"kafka\"\n";
    assert_eq!(load(EXAMPLE, &[], &[]), load(minimal, &[], &[]));
}

#[test]
fn the_example_is_right_with_everything_switched_on() {
    let everything: Vec<&str> = EXAMPLE
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.is_empty() && !rest.starts_with(' ')).unwrap_or(line))
        .collect();
    let everything = everything.join("\n").replace("quota_type = \"none\"", "quota_type = \"fifo\"");
    let config = load(&everything, &[], &[]);
    assert_eq!(config.store.create.quota, Some(Quota::Fifo(100_000_000_000)));
    assert_eq!(config.store.ca.as_deref(), Some(Path::new("folder/ca.pem")));
    assert_eq!(config.kafka.properties.len(), 3);
    assert_eq!(config.plugins[0].config, r#"{"set":{"site":"hall-3"}}"#);
}

#[test]
fn the_generated_files_are_current() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let host = Path::new(env!("CARGO_MANIFEST_DIR"));
    let schema = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
    let files = [
        (host.join("docs/configuration-reference.md"), reference()),
        (host.join("../examples/reduct-sink.toml"), example()),
        (host.join("tests/config/schema.json"), schema),
    ];
    for (file, text) in files {
        if update {
            std::fs::write(&file, &text).unwrap();
        }
        let there = std::fs::read_to_string(&file).unwrap_or_default();
        let file = file.display();
        assert!(
            there == text,
            "{file} is out of date: UPDATE_GOLDEN=1 cargo test -p reduct-sink --lib config writes it"
        );
    }
}

#[test]
fn every_default_and_example_is_right() {
    for key in keys() {
        let Some(literal) = key.preset.literal().or_else(|| (!key.example.is_empty()).then(|| key.example.into()))
        else {
            continue;
        };
        let parsed: toml::Table = format!("value = {literal}").parse().unwrap();
        assert!(parsed.contains_key("value"), "{}", key.path);
    }
    let file = format!("{REQUIRED}[[plugins]]\nbuiltin = \"passthrough\"\n");
    let (_, config) = try_load(&file, &[], &[]);
    assert_eq!(config.unwrap().plugins, [PluginConfig::new("passthrough", PluginSource::Builtin)]);
}

#[test]
fn every_key_stands_in_a_section_and_has_a_place_of_its_own() {
    let mut paths = BTreeSet::new();
    let mut variables = BTreeSet::new();
    for key in keys() {
        assert!(paths.insert(key.path), "{} twice", key.path);
        assert!(key.env.is_none_or(|env| variables.insert(env)), "{:?} twice", key.env);
        let is_known = key.path == "plugins" || key_table::sections().any(|section| section.path == key.section());
        assert!(is_known, "{} stands in no section", key.path);
        let is_live = matches!(key.change, key_table::Change::Live);
        assert_eq!(
            is_live,
            key.path.starts_with("plugins")
                || ["trust.", "registries."].iter().any(|table| key.path.starts_with(table)),
            "{}",
            key.path
        );
    }
}

#[test]
fn a_key_that_changed_needs_a_restart_and_a_plugin_does_not() {
    let old = load(REQUIRED, &[], &[]);
    let changed = REQUIRED.replace("bucket = \"file\"", "bucket = \"other\"\nbatch_bytes = \"1MB\"");
    let new = load(&format!("{changed}[[plugins]]\nbuiltin = \"passthrough\"\ntimeout = \"2s\"\n"), &[], &[]);
    assert_eq!(needs_restart(&old, &new), ["kafka.group", "store.bucket", "store.batch_bytes"]);
    assert_eq!(needs_restart(&old, &old.clone()), Vec::<&str>::new());
}

#[test]
fn the_manual_names_no_variable_that_is_not_there() {
    let known: BTreeSet<String> = key_table::variables().collect();
    let words = MANUAL.split(|c: char| !(c.is_ascii_uppercase() || c == '_'));
    for word in words.filter(|word| word.starts_with(PREFIX) && *word != PREFIX) {
        assert!(known.contains(word) || word.starts_with(PROPERTY_PREFIX), "{word}");
    }
}

#[test]
fn texts_come_from_variables_and_files() {
    let folder = std::env::temp_dir().join(format!("reduct-sink-substitute-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("secret"), "from a file\r\n").unwrap();
    let file = format!(
        "{REQUIRED}token = {{ env = \"TOKEN\" }}\n[kafka.properties]\nsasl.password = {{ file = \"secret\" }}\n\
         ssl.ca.location = \"ca.pem\"\nssl.key.location = \"/key.pem\"\n\
         sasl.oauthbearer.assertion.private.key.file = \"k.pem\"\n[[plugins]]\nbuiltin = \"passthrough\"\n\
         [plugins.config]\na.b = {{ env = \"TOKEN\" }}\nlist = [{{ file = \"secret\" }}]\nfile = \"stays\"\n\
         [plugins.grants]\nenvironment = {{ env = {{ env = \"TOKEN\" }} }}\n"
    );
    let read = |file: &str| {
        let mut layers = Layers { folder: folder.clone(), ..Layers::default() };
        layers.read_toml("sink.toml", file.as_bytes());
        let variables = BTreeMap::from([("TOKEN".into(), "from-env".into())]);
        assemble(layers, &variables, None, None).config.map(|pipelines| pipelines.only().unwrap())
    };
    let config = read(&file).unwrap();
    let unset = read(&file.replace("\"TOKEN\"", "\"NONE\"").replace("\"secret\"", "\"none\""));
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(config.store.token.as_deref(), Some("from-env"));
    let properties = &config.kafka.properties;
    assert_eq!(properties["sasl.password"], "from a file");
    assert_eq!(Path::new(&properties["ssl.ca.location"]), folder.join("ca.pem"));
    assert_eq!(properties["ssl.key.location"], "/key.pem");
    let key = Path::new(&properties["sasl.oauthbearer.assertion.private.key.file"]);
    assert_eq!(key, folder.join("k.pem"));
    let plugin = &config.plugins[0];
    let json: serde_json::Value = serde_json::from_str(&plugin.config).unwrap();
    assert_eq!(json, serde_json::json!({ "a": { "b": "from-env" }, "list": ["from a file"], "file": "stays" }));
    assert_eq!(plugin.grants.environment["env"].as_deref(), Some("from-env"));
    assert_eq!(config.files, [folder.join("secret"), folder.join("secret")]);

    let problems = unset.unwrap_err().to_string();
    assert_eq!(problems.lines().count(), 5, "{problems}");
    assert!(problems.contains("store.token: the environment variable NONE isn't set"), "{problems}");
    assert!(problems.contains("kafka.properties.sasl.password: cannot read /"), "{problems}");
}

#[test]
fn a_value_that_came_by_a_reference_is_never_shown() {
    let file = format!("{}url = {{ env = \"URL\" }}\n", REQUIRED);
    let (_, config) = try_load(&file, &[("URL", "not-an-address-but-a-secret")], &[]);
    let problem = config.unwrap_err().to_string();
    assert!(problem.contains("store.url: found a text"), "{problem}");
    assert!(!problem.contains("secret"), "{problem}");
}

#[test]
fn risks_are_warned_of_once() {
    let warnings = |file: &str, variables: &[(&str, &str)]| try_load(file, variables, &[]).0;
    let local = REQUIRED.to_owned();
    assert_eq!(warnings(&local, &[("REDUCT_SINK_TOKEN", "t")]), Vec::<String>::new());
    let remote = local.replace("127.0.0.1:1", "kafka:9092,localhost:9092");
    for (file, variables, part) in [
        (remote.clone(), vec![], "kafka.brokers: the records come unencrypted"),
        (format!("{remote}[kafka.properties]\nsecurity.protocol = \"sasl_plaintext\"\n"), vec![], "SASL_PLAINTEXT"),
        (
            format!("{local}url = \"http://store:8383\"\n"),
            vec![("REDUCT_SINK_TOKEN", "t")],
            "store.url: the access token",
        ),
        (format!("{local}[store.tls]\nverify = false\n"), vec![], "store.tls.verify = false"),
        (local.clone(), vec![("REDUCT_SINK_PROPERTY_SASL_PASSWORD", "${X}")], "`${`, which is not replaced"),
        (local.clone(), vec![("REDUCT_SINK_PROPERTY_SASL_PASSWORD", "x\n")], "ends with a line break"),
    ] {
        let found = warnings(&file, &variables);
        assert!(found.len() == 1 && found[0].contains(part), "{part}: {found:?}");
    }
    let secure = format!("{remote}[kafka.properties]\nsecurity.protocol = \"SASL_SSL\"\n");
    assert_eq!(warnings(&secure, &[]), Vec::<String>::new());
}

#[test]
fn every_example_of_the_manual_is_right() {
    let folder = tempfile::tempdir().unwrap();
    for secret in ["token", "enrich.key"] {
        std::fs::write(folder.path().join(secret), "secret\n").unwrap();
    }
    let environment = BTreeMap::from([("KAFKA_PASSWORD".into(), "secret".into())]);
    let examples = MANUAL.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let mut count = 0;
    for example in examples {
        // A file that does not exist here is replaced by one that does.
        let example = example.replace("/run/secrets/reductstore", "token");
        let mut whole: toml::Table = REQUIRED.parse().unwrap();
        merge(&mut whole, example.parse().unwrap());
        let mut layers = Layers { folder: folder.path().into(), ..Layers::default() };
        layers.read_toml("example", toml::to_string(&whole).unwrap().as_bytes());
        let config = assemble(layers, &environment, None, None).config;
        assert!(config.is_ok(), "{example}\n{}", config.unwrap_err());
        count += 1;
    }
    assert!(count >= 9, "only {count} examples were found");
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(into)), toml::Value::Table(from)) => merge(into, from),
            (_, value) => drop(into.insert(key, value)),
        }
    }
}

#[test]
fn no_plugin_gets_at_the_configuration_file_through_a_directory() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sink.toml");
    let text = format!(
        "{REQUIRED}[[plugins]]\npath = \"/p.wasm\"\ngrants.directories = [{{ path = \".\", guest = \"/c\", writable = true }}]\n\
         [[plugins]]\nname = \"other\"\npath = \"/p.wasm\"\ngrants.directories = [{{ path = \"models\", guest = \"/m\" }}]\n"
    );
    std::fs::write(&file, text).unwrap();
    let named_by = ConfigLocation::Flag("--config");
    let load = |file: &Path| {
        super::load(Sources { file: Some((file.into(), named_by.clone())), ..Sources::default() }).config.unwrap()
    };
    let config = load(&file).only().unwrap();
    assert!(config.files.is_empty(), "it isn't one of the files from which values came: {:?}", config.files);
    for plugin in &config.plugins {
        let grants = &plugin.grants;
        assert!(grants.own_files.contains(&file) && grants.own_secrets.contains(&file), "{grants:?}");
        assert_eq!(grants.written_by_plugins, [folder.path().join(".")]);
    }
}
