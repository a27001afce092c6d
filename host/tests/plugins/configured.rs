//! Tests changed configurations, and which plugin is asked about a record.

use std::sync::Arc;
use std::{fs, thread};

use reduct_sink::chain::{Chain, SharedChain};
use reduct_sink::config::{self, HeaderIs, PluginConfig, Sources, TopicIs, When};
use reduct_sink::plugin::Digest;
use reduct_sink::record::{Header, InputRecord, TopicPartition};
use reduct_sink::rollout::{self, ChainSource, NotTaken, RolloutHandle};
use tempfile::TempDir;

use crate::bed::{Bed, input, keep_log, logged, output, record, runtime, wait_for};
use crate::guest::{Guest, guest};
use crate::rollout::{quick, version};

/// A chain whose configuration file is read again when it changes.
struct Configured {
    folder: TempDir,
    shared: Arc<SharedChain>,
    chain: Chain,
    rollout: RolloutHandle,
}

const HEAD: &str = "[kafka]\nbrokers = \"127.0.0.1:9092\"\ntopics = [\"t\"]\n[store]\nbucket = \"b\"\n";

impl Configured {
    fn new(plugins: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for number in 1..=3 {
            fs::write(folder.path().join(format!("v{number}.wasm")), version(number)).unwrap();
        }
        // The guest chooses the entry that {"n":"…"} names, and refuses a configuration of more than 20 bytes.
        let configured = Guest::new("(call $entry (i32.const 30000) (i32.load (i32.const 29992))) (call $change)");
        let configured = configured.configure(
            r#"(if (i32.gt_u (local.get $config-length) (i32.const 20)) (then (return (call $refuse $"too long"))))
               (i32.store (i32.const 29992) (i32.sub (local.get $config-length) (i32.const 8)))
               (memory.copy (i32.const 30000) (i32.add (local.get $config) (i32.const 6)) (i32.load (i32.const 29992)))
               (i32.const 0)"#,
        );
        fs::write(folder.path().join("entry.wasm"), configured.build()).unwrap();
        fs::write(folder.path().join("secret"), "one\n").unwrap();
        let file = folder.path().join("sink.toml");
        fs::write(&file, format!("{HEAD}{plugins}")).unwrap();
        let sources =
            Sources { file: Some((file.clone(), config::ConfigLocation::Flag("--config"))), ..Sources::default() };
        let present = config::load(sources.clone()).config.unwrap().only().unwrap();
        let shared = SharedChain::load(runtime(), &present.plugins).unwrap();
        let chain = Chain::new(shared.clone()).unwrap();
        let load = move |_: &[Arc<PluginConfig>]| {
            let new = config::load(sources.clone()).config?.only().unwrap();
            // As a process says whose other pipelines are in the way.
            let is_refused = new.plugins.iter().any(|plugin| plugin.name == "needs-restart");
            let needs_restart =
                || NotTaken::NeedsRestart { why: "of another pipeline".into(), plugins: new.plugins.clone() };
            if is_refused { Err(needs_restart()) } else { Ok(new) }
        };
        let source = ChainSource { file: Some(file), load: Box::new(load), present };
        let rollout = rollout::start(shared.clone(), Some(source), quick());
        // The first poll finds the file with which the host was started.
        thread::sleep(quick().poll);
        Self { folder, shared, chain, rollout }
    }

    fn write(&self, text: &str) {
        let new = self.folder.path().join("sink.new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.folder.path().join("sink.toml")).unwrap();
    }

    fn names(&self) -> Vec<String> {
        self.shared.versions().iter().map(|version| version.name.to_string()).collect()
    }

    fn expect(&mut self, names: &[&str], timestamp: Option<u64>) {
        let shared = self.shared.clone();
        wait_for(&format!("the chain {names:?}"), || {
            let found: Vec<_> = shared.versions().iter().map(|version| version.name.to_string()).collect();
            (found == names).then_some(())
        });
        assert_eq!(self.now(), timestamp);
    }

    fn now(&mut self) -> Option<u64> {
        self.chain.refresh();
        output(self.chain.transform(&input(1))).timestamp_us
    }
}

fn table(number: u64) -> String {
    format!("[[plugins]]\npath = \"v{number}.wasm\"\n")
}

/// Nothing is wrong with the plugin's file where a changed configuration made all records fail.
#[test]
fn a_rolled_back_configuration_is_told_until_the_configuration_of_the_plugin_changes() {
    keep_log();
    let table = |name: &str, more: &str| {
        let keys =
            format!("path = \"entry.wasm\"\nname = \"innocent\"\nlimits.entries = [\"good\", \"better\"]\n{more}");
        format!("{HEAD}[[plugins]]\n{keys}\nconfig = {{ n = \"{name}\" }}\n")
    };
    let mut bed = Configured::new(&table("good", "").replace(HEAD, ""));
    let control = bed.rollout.control();
    let good = bed.shared.versions()[0].config.unwrap();
    bed.write(&table("bad", ""));
    wait_for("the rollback", || {
        bed.chain.refresh();
        let _ = bed.chain.transform(&input(1));
        control.swaps.last().pop().filter(|swap| swap.outcome == rollout::RolloutOutcome::RolledBack)
    });
    let reasons = wait_for("the reason", || Some(control.next_start.reasons()).filter(|told| !told.is_empty()));
    let [reason] = reasons.as_slice() else { panic!("{reasons:?}") };
    assert!(reason.contains("the configuration of plugin innocent: it asks for version "), "{reason}");
    let public = control.next_start.public().unwrap();
    assert!(public.contains("the configuration of plugin innocent"), "{public}");
    let told = logged(&["ERROR", "innocent", "rolled back", "correct the plugin's row of the configuration"]);
    let [line] = told.as_slice() else { panic!("{told:?}") };
    assert!(line.contains(&format!(":{good}\" reason=")), "{line}");
    assert!(!line.contains("file"), "{line}");
    // What concerns the host alone changes nothing about it.
    bed.write(&table("bad", "on_failure = \"skip\""));
    wait_for("the host's part of the row", || {
        let row = bed.shared.stage("innocent")?.config;
        (row.on_failure == config::FailurePolicy::Skip).then_some(())
    });
    thread::sleep(quick().poll);
    assert_eq!(control.next_start.reasons(), reasons);
    assert_eq!(bed.shared.versions()[0].config, Some(good));
    // What is corrected is right for the next start, also where the host that runs doesn't take the configuration over.
    let refused = "[[plugins]]\npath = \"v1.wasm\"\nname = \"needs-restart\"\n";
    bed.write(&(table("better", "") + refused));
    wait_for("nothing to be wrong", || (control.next_start.reasons().is_empty()).then_some(()));
    assert_eq!(control.next_start.public(), None);
    bed.write(&(table("bad", "on_failure = \"skip\"") + refused));
    wait_for("the bad row to be wrong again", || (control.next_start.reasons() == reasons).then_some(()));
    bed.write(&table("bad", "on_failure = \"skip\""));
    wait_for("the log to say it", || {
        (!logged(&["the configuration asks for nothing any more that needs a restart"]).is_empty()).then_some(())
    });
    assert_eq!(control.next_start.reasons(), reasons);
    bed.write(&table("better", ""));
    wait_for("the corrected configuration", || control.next_start.reasons().is_empty().then_some(()));
    assert_ne!(bed.shared.versions()[0].config, Some(good));
}

/// A configuration that a restarted host would take isn't called wrong.
#[test]
fn what_needs_a_restart_is_left_out_and_isnt_wrong() {
    keep_log();
    let mut bed = Configured::new(&table(1));
    bed.write("wrong");
    let next_start = bed.rollout.control().next_start;
    wait_for("the wrong file to be reported", || (!next_start.reasons().is_empty()).then_some(()));
    bed.write(&format!("{HEAD}[[plugins]]\npath = \"v2.wasm\"\nname = \"needs-restart\"\n"));
    wait_for("the file to be right again", || next_start.reasons().is_empty().then_some(()));
    let told = logged(&["needs a restart", "of another pipeline"]);
    assert!(!told.is_empty(), "{told:?}");
    bed.expect(&["v1"], Some(1));
}

#[test]
fn plugins_are_added_removed_and_reordered_while_records_flow() {
    let mut configured = Configured::new(&table(1));
    configured.expect(&["v1"], Some(1));
    configured.write(&format!("{HEAD}{}{}", table(1), table(2)));
    configured.expect(&["v1", "v2"], Some(2));
    let since = configured.shared.versions()[0].since;
    configured.write(&format!("{HEAD}{}{}", table(2), table(1)));
    configured.expect(&["v2", "v1"], Some(1));
    assert_eq!(configured.shared.versions()[1].since, since, "what only moved wasn't loaded again");
    configured.write(&format!("{HEAD}{}", table(3)));
    configured.expect(&["v3"], Some(3));
    configured.write(&format!("plugins = []\n{HEAD}"));
    configured.expect(&[], None);
    configured.rollout.stop();
}

/// The past swaps of a plugin say nothing of what there is to return to.
#[test]
fn a_plugin_that_left_the_chain_and_came_back_has_no_previous_version() {
    let mut bed = Configured::new(&table(1));
    let control = bed.rollout.control();
    let can_roll_back = || control.actions.of("v1").roll_back;
    assert!(!can_roll_back() && control.rollback("v1").is_err());
    fs::write(bed.folder.path().join("v1.wasm"), version(7)).unwrap();
    wait_for("version 7", || (bed.now() == Some(7)).then_some(()));
    wait_for("something to return to", || can_roll_back().then_some(()));
    for number in [2, 1] {
        bed.write(&format!("{HEAD}{}", table(number)));
        let name = format!("v{number}");
        wait_for("the other chain", || (bed.names() == [name.as_str()]).then_some(()));
    }
    wait_for("nothing to return to", || (!can_roll_back()).then_some(()));
    assert!(control.swaps.last().iter().any(|swap| swap.plugin == "v1"));
    assert!(control.rollback("v1").unwrap_err().contains("no previous version"));
}

#[test]
fn an_added_plugins_file_is_watched() {
    let mut configured = Configured::new(&table(1));
    configured.write(&format!("{HEAD}{}{}", table(1), table(2)));
    configured.expect(&["v1", "v2"], Some(2));
    fs::write(configured.folder.path().join("v2.wasm"), version(9)).unwrap();
    wait_for("version 9", || (configured.now() == Some(9)).then_some(()));
}

#[test]
fn a_wrong_configuration_leaves_the_old_one_at_work_and_says_where() {
    keep_log();
    let mut configured = Configured::new(&table(1));
    let folder = configured.folder.path().display().to_string();
    for (text, told) in [
        (format!("{HEAD}[[plugins]]\npth = \"v2.wasm\"\n"), "sink.toml:7: plugins.pth: unknown key"),
        (format!("{HEAD}[[plugins]\n"), "not valid TOML"),
        (format!("{HEAD}{}[[plugins]]\npath = \"nowhere.wasm\"\n", table(2)), "isn't applied"),
    ] {
        configured.write(&text);
        wait_for(told, || {
            logged(&["ERROR"]).into_iter().find(|line| line.contains(told)).or_else(|| {
                let all = logged(&[&folder, told]);
                all.into_iter().next()
            })
        });
        assert_eq!((configured.names(), configured.now()), (vec!["v1".to_owned()], Some(1)));
    }
    configured.write(&format!("{HEAD}{}", table(2)));
    configured.expect(&["v2"], Some(2));
}

#[test]
fn a_changed_configuration_of_a_plugin_takes_over_or_is_refused() {
    let keys = "path = \"entry.wasm\"\nlimits.entries = [\"*\"]";
    let table = |name: &str| format!("{HEAD}[[plugins]]\n{keys}\nconfig = {{ n = \"{name}\" }}\n");
    let mut configured = Configured::new(&table("one").replace(HEAD, ""));
    let entry = |configured: &mut Configured| {
        configured.chain.refresh();
        output(configured.chain.transform(&input(1))).entry.unwrap()
    };
    assert_eq!(entry(&mut configured), "one");
    configured.write(&table("two"));
    wait_for("the second configuration", || (entry(&mut configured) == "two").then_some(()));
    let swap = configured.rollout.control().swaps.last().remove(0);
    assert!(swap.cause == rollout::Cause::Configuration && swap.old_config != swap.new_config, "{swap:?}");
    configured.write(&table("much-too-long-for-this-one"));
    thread::sleep(quick().poll * 3);
    assert_eq!(entry(&mut configured), "two", "what is refused leaves the present one");
    assert!(configured.rollout.control().rollback("entry").is_ok());
    assert_eq!(entry(&mut configured), "one");
    let wrong = configured.rollout.control().next_start.reasons();
    assert!(!wrong.iter().any(|reason| reason.contains("the file of plugin")), "its file is right: {wrong:?}");
    assert!(wrong.iter().any(|reason| reason.contains("the configuration of plugin entry")), "{wrong:?}");
}

#[test]
fn a_file_that_a_value_comes_from_is_watched() {
    let mut configured = Configured::new(
        "[[plugins]]\npath = \"entry.wasm\"\nlimits.entries = [\"*\"]\nconfig = { n = { file = \"secret\" } }\n",
    );
    let entry = |configured: &mut Configured| {
        configured.chain.refresh();
        output(configured.chain.transform(&input(1))).entry.unwrap()
    };
    assert_eq!(entry(&mut configured), "one");
    for secret in ["two", "three"] {
        let new = configured.folder.path().join("new");
        fs::write(&new, secret).unwrap();
        fs::rename(new, configured.folder.path().join("secret")).unwrap();
        wait_for(secret, || (entry(&mut configured) == secret).then_some(()));
    }
    configured.rollout.stop();
}

#[test]
fn what_needs_a_restart_is_told_by_key_and_the_rest_is_taken_up() {
    keep_log();
    let mut configured = Configured::new(&table(1));
    let text = format!("{HEAD}batch_records = 7\n[limits]\nworkers = 77\n{}", table(2));
    configured.write(&text);
    configured.expect(&["v2"], Some(2));
    let told = logged(&["WARN", "can't change without a restart", "store.batch_records", "limits.workers"]);
    assert!(!told.is_empty());
}

#[test]
fn what_only_the_host_decides_changes_without_loading_anything() {
    let mut configured = Configured::new(&table(1));
    let loaded_since = configured.shared.versions()[0].since;
    configured.write(&format!("{HEAD}{}when = {{ topics = [\"another\"] }}\n", table(1)));
    wait_for("the condition", || configured.now().is_none().then_some(()));
    assert_eq!(configured.shared.versions()[0].since, loaded_since);
    assert!(configured.rollout.control().swaps.last().is_empty());
}

fn asked(when: When, input: InputRecord) -> bool {
    let bed = Bed::of(&[]).with("conditional", &version(5), |plugin| plugin.when = Some(when));
    let shared = bed.shared();
    let mut chain = Chain::new(shared.clone()).unwrap();
    let output = output(chain.transform(&Arc::new(input)));
    let (told, asked) = (&shared.versions()[0], output.timestamp_us == Some(5));
    assert_eq!((told.counts.changed, told.passed_over), (u64::from(asked), u64::from(!asked)));
    assert_eq!(output.handled_by.is_some(), asked, "marked only with what handled it");
    asked
}

#[test]
fn a_plugin_is_called_only_for_what_its_conditions_take() {
    let topic = |text: &str| TopicIs::Named(text.into());
    let pattern = config_pattern("^line[.][0-9]$");
    for (topics, taken) in [
        (vec![topic("line.7")], true),
        (vec![topic("line.8"), topic("line.7")], true),
        (vec![topic("line.8")], false),
        (vec![pattern], true),
        (vec![config_pattern("^camera-")], false),
    ] {
        assert_eq!(asked(When { topics: topics.clone(), ..When::default() }, record(1)), taken, "{topics:?}");
    }
    let equal = |text: &str| HeaderIs::Equal(text.into());
    for (headers, taken) in [
        (vec![("type", HeaderIs::Present)], true),
        (vec![("type", equal("binary")), ("size", equal("10"))], true),
        (vec![("type", equal("binary")), ("size", equal("11"))], false),
        (vec![("nothing", HeaderIs::Present)], false),
        (vec![("nothing", HeaderIs::Absent)], true),
        (vec![("type", HeaderIs::Absent)], false),
    ] {
        let headers: Vec<_> = headers.into_iter().map(|(key, is)| (key.to_owned(), is)).collect();
        assert_eq!(asked(When { headers: headers.clone(), ..When::default() }, record(1)), taken, "{headers:?}");
    }
    let repeated = InputRecord {
        headers: [b"a", b"b"].map(|value| Header { key: "k".into(), value: Some(value.to_vec().into()) }).into(),
        ..record(1)
    };
    assert!(asked(When { headers: vec![("k".into(), equal("b"))], ..When::default() }, repeated), "one of them");
    for (min_size, max_size, taken) in
        [(Some(10), Some(10), true), (Some(11), None, false), (None, Some(9), false), (Some(1), None, true)]
    {
        assert_eq!(
            asked(When { min_size, max_size, ..When::default() }, record(1)),
            taken,
            "{min_size:?} {max_size:?}"
        );
    }
    let tombstone = InputRecord { payload: None, ..record(1) };
    assert!(asked(When { max_size: Some(0), ..When::default() }, tombstone), "a tombstone has no bytes");
}

/// A pattern for topics, as the configuration makes it.
fn config_pattern(pattern: &str) -> TopicIs {
    TopicIs::Like(regex::Regex::new(pattern).unwrap())
}

#[test]
fn each_topic_goes_through_its_own_part_of_the_chain() {
    let only = |topic: &str| Some(When { topics: vec![TopicIs::Named(topic.into())], ..When::default() });
    let bed = Bed::of(&[])
        .with("left", &guest(r#"(call $label $"left" $"1") (call $change)"#), |plugin| plugin.when = only("a"))
        .with("right", &guest(r#"(call $label $"right" $"1") (call $change)"#), |plugin| plugin.when = only("b"))
        .with("all", &guest(r#"(call $label $"all" $"1") (call $change)"#), |_| {});
    let shared = bed.shared();
    let mut chain = Chain::new(shared.clone()).unwrap();
    let mut handled = |topic: &str| {
        let source = TopicPartition { topic: topic.into(), partition: 0 };
        let output = output(chain.transform(&Arc::new(InputRecord { source, ..record(1) })));
        let labels: Vec<_> = output.labels.iter().map(|label| label.name.clone()).collect();
        let mark = output.handled_by.unwrap();
        let names: Vec<_> = mark.split('+').map(|mark| mark.split('@').next().unwrap()).collect();
        assert_eq!(names, labels, "marked with what handled it");
        labels
    };
    for _ in 0..3 {
        assert_eq!(handled("a"), ["left", "all"]);
        assert_eq!(handled("b"), ["right", "all"]);
        assert_eq!(handled("c"), ["all"]);
    }
    let counts: Vec<u64> = shared.versions().iter().map(|version| version.counts.changed).collect();
    assert_eq!(counts, [3, 3, 9], "a plugin isn't called for what it would only pass on");
}

/// A plugin whose `configure` accepts only exactly `config`, and that marks each record with its number.
fn picky(number: u64, config: &str) -> Vec<u8> {
    let length = config.len();
    let last = config.as_bytes()[length - 3];
    Guest::new(&format!("(call $time (i64.const {number})) (call $change)"))
        .configure(&format!(
            r#"(if (i32.ne (local.get $config-length) (i32.const {length})) (then (return (call $refuse $"other config"))))
               (if (i32.ne (i32.load8_u (i32.add (local.get $config) (i32.const {}))) (i32.const {last}))
                 (then (return (call $refuse $"other config"))))
               (i32.const 0)"#,
            length - 3
        ))
        .build()
}

#[test]
fn a_plugin_and_its_configuration_may_arrive_in_any_order() {
    let table = |value: &str| format!("{HEAD}[[plugins]]\npath = \"pair.wasm\"\nconfig = {{ n = \"{value}\" }}\n");
    for configuration_first in [true, false] {
        let mut configured = Configured::new(&table_of_nothing());
        let put = |number, value: &str| {
            let new = configured.folder.path().join("pair.new");
            fs::write(&new, picky(number, &format!(r#"{{"n":"{value}"}}"#))).unwrap();
            fs::rename(new, configured.folder.path().join("pair.wasm")).unwrap();
        };
        put(1, "a");
        configured.write(&table("a"));
        wait_for("the pair a", || (configured.names() == ["pair"]).then_some(()));
        let put_b = || put(2, "b");
        let write_b = || configured.write(&table("b"));
        if configuration_first {
            write_b();
            thread::sleep(quick().poll * 3);
            put_b();
        } else {
            put_b();
            thread::sleep(quick().poll * 3);
            write_b();
        }
        let expected = Digest::of(&picky(2, r#"{"n":"b"}"#));
        let shared = configured.shared.clone();
        wait_for("the pair b", || (shared.versions()[0].digest == expected).then_some(()));
        assert_eq!(configured.now(), Some(2), "configuration first: {configuration_first}");
        configured.rollout.stop();
    }
}

fn table_of_nothing() -> String {
    "[[plugins]]\npath = \"v1.wasm\"\n".into()
}

#[test]
fn records_name_the_configuration_that_handled_them() {
    let mark = |config: &str| {
        let bed = Bed::of(&[]).with("marked", &guest("(call $time (i64.const 1)) (call $change)"), |plugin| {
            plugin.config = config.into();
        });
        output(bed.chain().transform(&input(1))).handled_by.unwrap().to_string()
    };
    let (none, one, other) = (mark("{}"), mark(r#"{"n":1}"#), mark(r#"{"n":2}"#));
    assert!(one.starts_with(&format!("{none}:")) && other.starts_with(&format!("{none}:")), "{none} {one} {other}");
    assert_ne!(one, other);
    assert_eq!(one, mark(r#"{"n":1}"#));
}
