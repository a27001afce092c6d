//! `[pipelines]`: what is inherited, and what two pipelines must not share. What is refused in other ways, and how it is
//! said, is in `tests/config`.

use std::collections::BTreeMap;

use super::assemble::assemble;
use super::layers::Layers;
use super::*;

/// Two that share brokers and store, each with a topic and a bucket.
const TWO: &str = "\
[kafka]\nbrokers = \"127.0.0.1:1\"\n\
[pipelines.cameras]\nkafka.topics = [\"camera\"]\nstore.bucket = \"images\"\n\
[pipelines.logs]\nkafka.topics = [\"log\"]\nstore.bucket = \"logs\"\n";

fn try_with(
    file: &str,
    variables: &[(&str, &str)],
    flags: &[(&'static str, &str)],
    wanted: Option<&str>,
) -> LoadOutcome {
    let mut layers = Layers { folder: "folder".into(), ..Layers::default() };
    layers.read_toml("sink.toml", file.as_bytes());
    layers.read_environment(variables.iter().map(|(name, value)| (name.into(), value.into())));
    layers.read_flags(flags.iter().map(|(key, value)| Flag::new(key, vec![(*value).into()])).collect());
    let environment: BTreeMap<String, String> =
        variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    assemble(layers, &environment, None, wanted)
}

fn load(file: &str) -> Pipelines {
    try_with(file, &[], &[], None).config.unwrap()
}

fn problems(file: &str) -> String {
    try_with(file, &[], &[], None).config.unwrap_err().to_string()
}

#[test]
fn a_file_without_pipelines_is_one_without_a_name() {
    let one = load("[kafka]\nbrokers = \"a:1\"\ntopics = [\"t\"]\n[store]\nbucket = \"b\"\n");
    assert!(!one.are_named());
    assert_eq!(one.all().len(), 1);
    assert_eq!(one.only().unwrap().pipeline, None);
}

#[test]
fn each_pipeline_has_its_own_keys_and_inherits_the_others() {
    let file = format!(
        "[store]\nurl = \"http://store:1\"\ntoken = \"top\"\nbatch_records = 7\n[status]\nlisten = \"127.0.0.1:7\"\n\
         [kafka.properties]\nsecurity.protocol = \"ssl\"\nfetch.min.bytes = 5\n[[plugins]]\nbuiltin = \"passthrough\"\n\
         name = \"top\"\n{TWO}[pipelines.logs.store]\ntoken_file = \"sub/token\"\n[pipelines.logs.kafka.properties]\n\
         fetch.min.bytes = 9\n[[pipelines.logs.plugins]]\npath = \"own.wasm\"\n[pipelines.logs.limits]\nworkers = 3\n"
    );
    let file = file.replace("[pipelines.logs]\nkafka.topics = [\"log\"]\nstore.bucket = \"logs\"\n", "")
        + "[pipelines.logs.labels]\nplugins = false\n";
    let file = file.replace("[pipelines.logs.store]\n", "[pipelines.logs.store]\nbucket = \"logs\"\n").replace(
        "[pipelines.logs.kafka.properties]",
        "[pipelines.logs.kafka]\ntopics = [\"log\"]\n[pipelines.logs.kafka.properties]",
    );
    // The token's file has to be there.
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("sub")).unwrap();
    std::fs::write(folder.path().join("sub/token"), "own\n").unwrap();
    let mut layers = Layers { folder: folder.path().into(), ..Layers::default() };
    layers.read_toml("sink.toml", file.as_bytes());
    let loaded = assemble(layers, &BTreeMap::new(), None, None).config.unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(loaded.names(), "cameras, logs");
    let [cameras, logs] = loaded.all() else { panic!("{}", loaded.names()) };
    for one in [cameras, logs] {
        assert_eq!((one.kafka.brokers.as_str(), one.store.url.as_str()), ("127.0.0.1:1", "http://store:1"));
        assert_eq!(one.store.batch_records, 7);
        assert_eq!(one.kafka.properties["security.protocol"], "ssl");
        assert_eq!(one.status.listen.as_deref(), Some("127.0.0.1:7"));
    }
    assert_eq!((cameras.store.token.as_deref(), logs.store.token.as_deref()), (Some("top"), Some("own")));
    assert_eq!(cameras.kafka.properties["fetch.min.bytes"], "5");
    assert_eq!(logs.kafka.properties["fetch.min.bytes"], "9");
    assert_eq!((cameras.plugins[0].name.as_str(), logs.plugins[0].name.as_str()), ("top", "own"));
    assert_eq!((logs.plugins.len(), logs.limits.workers), (1, 3));
    assert!(cameras.labels.plugins && !logs.labels.plugins);
    assert_eq!((cameras.kafka.group.as_str(), logs.kafka.group.as_str()), ("reduct-sink-images", "reduct-sink-logs"));
}

#[test]
fn one_pipeline_can_be_chosen() {
    let chosen = try_with(TWO, &[], &[], Some("logs")).config.unwrap();
    assert_eq!(chosen.names(), "logs");
    let unknown = try_with(TWO, &[], &[], Some("log")).config.unwrap_err().to_string();
    assert_eq!(unknown, "--pipeline: there is no pipeline \"log\"; there are: cameras, logs");
    let several = load(TWO).only().unwrap_err();
    assert!(several.ends_with("choose one with --pipeline: cameras, logs"), "{several}");
}

#[test]
fn what_a_pipeline_sets_cannot_be_set_from_outside_as_well() {
    let outcome = |variables: &[(&str, &str)], flags: &[(&'static str, &str)]| {
        try_with(TWO, variables, flags, None).config.map_err(|problems| problems.to_string())
    };
    let brokers = outcome(&[("REDUCT_SINK_BROKERS", "env:1")], &[]).unwrap();
    assert!(brokers.all().iter().all(|one| one.kafka.brokers == "env:1"), "nothing but the top of the file sets them");
    let bucket = outcome(&[("REDUCT_SINK_BUCKET", "all")], &[]).unwrap_err();
    assert_eq!(bucket.lines().count(), 2, "{bucket}");
    assert!(
        bucket.contains("environment variable REDUCT_SINK_BUCKET: store.bucket: [pipelines.logs] sets"),
        "{bucket}"
    );
    let topics = outcome(&[], &[("kafka.topics", "t")]).unwrap_err();
    assert!(topics.starts_with("--topic: kafka.topics: [pipelines.cameras] sets kafka.topics"), "{topics}");
    let with_plugins = format!("{TWO}[[pipelines.logs.plugins]]\npath = \"a.wasm\"\n");
    let plugins = try_with(&with_plugins, &[], &[("plugins", "b.wasm")], None).config.unwrap_err().to_string();
    assert!(plugins.starts_with("--plugin: plugins: [pipelines.logs] sets plugins"), "{plugins}");
    let token = format!("{TWO}[pipelines.x]\nkafka.topics = [\"x\"]\nstore = {{ bucket = \"x\", token = \"t\" }}\n");
    let token = try_with(&token, &[("REDUCT_SINK_TOKEN_FILE", "/none")], &[], None).config.unwrap_err().to_string();
    assert!(
        token.contains("REDUCT_SINK_TOKEN_FILE: store.token_file: [pipelines.x] sets store.token_file or what"),
        "{token}"
    );
}

#[test]
fn two_pipelines_share_neither_a_group_nor_an_entry() {
    for (change, part) in [
        (
            ("store.bucket = \"logs\"", "store.bucket = \"logs\"\nkafka.group = \"reduct-sink-images\""),
            "the same consumer group",
        ),
        (("[\"log\"]", "[\"^log.*\"]"), ""),
        (("\"logs\"", "\"images\"\nkafka.group = \"g\""), "dead-letters/*/*"),
        (("[\"log\"]", "[\"camera\"]"), ""),
    ] {
        let file = TWO.replace(change.0, change.1);
        match part {
            "" => drop(load(&file)),
            part => assert!(problems(&file).contains(part), "{}", problems(&file)),
        }
    }
    let both_dead = format!("[dead_letters]\ntopic = \"dead\"\n{TWO}");
    assert!(problems(&both_dead).contains("the same topic of dead letters"), "{}", problems(&both_dead));
    let one_bucket = TWO
        .replace("\"logs\"", "\"images\"\nkafka.group = \"g\"\ndead_letters.entry = \"logs-dead/{topic}/{partition}\"");
    for (topics, fits) in [("[\"camera2\"]", true), ("[\"camera\"]", false), ("[\"^log.*\"]", false)] {
        let file = one_bucket.replace("[\"log\"]", topics);
        let loaded = try_with(&file, &[], &[], None).config;
        assert_eq!(loaded.is_ok(), fits, "{topics}");
        if let Err(problems) = loaded {
            assert!(problems.to_string().contains("can write one entry of bucket \"images\""), "{problems}");
        }
    }
    let apart = one_bucket.replace("[\"log\"]", "[\"camera\"]\nstore.entry = \"logs/{topic}/{partition}\"");
    load(&apart);
    let other_name =
        format!("[store]\nurl = \"http://127.0.0.1:8383/\"\n{}", one_bucket.replace("[\"log\"]", "[\"camera\"]"))
            + "[pipelines.logs.labels]\nplugins = true\n";
    let other_name = other_name.replace("kafka.group", "store.url = \"http://localhost:8383\"\nkafka.group");
    assert!(problems(&other_name).contains("can write one entry"), "{}", problems(&other_name));
    let elsewhere = other_name.replace("localhost:8383", "localhost:8384");
    load(&elsewhere);
}

#[test]
fn no_plugin_gets_at_a_file_of_another_pipeline() {
    let file = format!(
        "{TWO}[[pipelines.logs.plugins]]\npath = \"a.wasm\"\ngrants.directories = [{{ path = \"d\", guest = \"/d\", writable = true }}]\n\
         [[pipelines.cameras.plugins]]\npath = \"d/b.wasm\"\n"
    );
    let loaded = load(&file);
    let logs = loaded.get(Some("logs")).unwrap();
    assert!(
        logs.plugins[0].grants.own_files.contains(&PathBuf::from("folder/d/b.wasm")),
        "{:?}",
        logs.plugins[0].grants
    );
}

#[test]
fn what_is_inherited_is_wrong_once_and_what_is_own_has_its_path() {
    let file = format!("[limits]\nin_flight_bytes = 1\n{}", TWO.replace("\"logs\"", "\"no bucket\""));
    let problems = problems(&file);
    let lines: Vec<&str> = problems.lines().collect();
    assert_eq!(lines.len(), 2, "{problems}");
    assert!(lines[0].starts_with("sink.toml:2: limits.in_flight_bytes: found 1"), "{problems}");
    assert!(lines[1].contains(": pipelines.logs.store.bucket: found \"no bucket\""), "{problems}");
}

#[test]
fn a_risk_of_all_pipelines_is_warned_of_once() {
    let warnings = |file: &str| try_with(file, &[], &[], None).warnings;
    let remote = TWO.replace("127.0.0.1:1", "kafka:1");
    let told = warnings(&remote);
    assert!(told.len() == 1 && told[0].starts_with("kafka.brokers: the records come unencrypted"), "{told:?}");
    let one = TWO.replace("store.bucket = \"logs\"", "store.bucket = \"logs\"\nstore.tls.verify = false");
    let told = warnings(&one);
    assert!(told.len() == 1 && told[0].starts_with("pipeline logs: store.tls.verify = false"), "{told:?}");
    let token = format!("[store]\ntoken = \"t\"\n{TWO}")
        .replace("bucket = \"logs\"", "bucket = \"logs\"\nstore.url = \"http://127.0.0.1:2\"");
    let told = warnings(&token);
    assert!(told.iter().any(|text| text.starts_with("pipeline logs: store.url is the pipeline's own")), "{told:?}");
}
