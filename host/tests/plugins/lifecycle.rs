//! Tests rollouts: trials, bake windows, rollbacks, changed configurations, and which plugin is asked about a record.

use std::sync::Arc;
use std::time::Duration;
use std::{fs, thread};

use reduct_sink::chain::{Chain, Outcome as Fate, SharedChain};
use reduct_sink::config::{self, HeaderIs, Mode, PluginConfig, Share, Sources, TopicIs, When};
use reduct_sink::plugin::Digest;
use reduct_sink::record::{Header, InputRecord, TopicPartition};
use reduct_sink::rollout::{self, ChainSource, Control, Lifecycle, Pace, RolloutOutcome, SwapReport};
use tempfile::TempDir;

use crate::bed::{Bed, input, keep_log, logged, output, record, runtime, wait_for};
use crate::guest::{Guest, guest};

/// A version that marks each record with its number.
fn version(number: u64) -> Vec<u8> {
    guest(&format!("(call $time (i64.const {number})) (call $change)"))
}

/// A version that marks each record with its number, and traps on one record in a hundred.
fn trapping(number: u64) -> Vec<u8> {
    guest(&format!(
        "(if (i64.eq (i64.rem_u (local.get $offset) (i64.const 100)) (i64.const 7)) (then unreachable))
         (call $time (i64.const {number})) (call $change)"
    ))
}

fn quick() -> Pace {
    Pace { debounce: Duration::from_millis(20), poll: Duration::from_millis(300), settle: Duration::from_millis(400) }
}

/// A chain of one plugin with a running rollout task, and records that this thread puts through it.
struct Run {
    bed: Bed,
    shared: Arc<SharedChain>,
    chain: Chain,
    lifecycle: Lifecycle,
    control: Control,
    offset: u64,
}

impl Run {
    fn new(name: &str, adjust: impl FnOnce(&mut PluginConfig)) -> Self {
        let bed = Bed::of(&[]).with(name, &version(1), adjust);
        let shared = bed.shared();
        let chain = Chain::new(shared.clone()).unwrap();
        let lifecycle = rollout::start(shared.clone(), None, quick());
        let control = lifecycle.control();
        Self { bed, shared, chain, lifecycle, control, offset: 0 }
    }

    fn put(&self, bytes: &[u8]) {
        let new = self.bed.folder.path().join("new");
        fs::write(&new, bytes).unwrap();
        fs::rename(new, self.bed.path(0)).unwrap();
    }

    /// Puts records through the chain until `found` returns something.
    fn until<T>(&mut self, what: &str, mut found: impl FnMut(&Self) -> Option<T>) -> T {
        wait_for(what, || {
            for _ in 0..50 {
                self.next();
            }
            found(self)
        })
    }

    fn next(&mut self) -> Fate {
        self.chain.refresh();
        self.offset += 1;
        self.chain.transform(&input(self.offset))
    }

    fn outcome(&mut self, outcome: RolloutOutcome) -> SwapReport {
        self.until(&format!("{outcome:?}"), |run| {
            run.control.swaps.last().pop().filter(|report| report.outcome == outcome)
        })
    }

    fn at_work(&self) -> Digest {
        self.shared.versions()[0].digest
    }
}

#[test]
fn a_trial_sees_live_records_and_changes_nothing_until_it_is_passed() {
    let mut run = Run::new("tried", |plugin| {
        plugin.trial.mode = Mode::Auto;
        (plugin.trial.records, plugin.trial.every) = (200, 3);
    });
    run.put(&version(2));
    run.until("the trial", |run| {
        run.control.swaps.last().pop().filter(|report| report.outcome == RolloutOutcome::OnTrial)
    });
    let report = run.outcome(RolloutOutcome::Baking);
    let found = report.trial.unwrap();
    assert_eq!((found.records, found.failed, found.same, found.timestamps_differ), (200, 0, 0, 200), "{found:?}");
    assert!(found.first_difference.as_deref().unwrap().contains("timestamp \"1\", the candidate's \"2\""));
    assert!(found.latency.measured == 200 && found.latency_present.p50_us > 0.0, "{found:?}");
    let steps = report.steps;
    assert!(steps.compile_ms.is_some() && steps.start_ms.is_some() && steps.trial_ms.is_some(), "{steps:?}");
    assert_eq!((run.at_work(), output(run.next()).timestamp_us), (Digest::of(&version(2)), Some(2)));
    let (before, now) = (&run.shared.retired()[0], &run.shared.versions()[0]);
    let counted = before.counts.changed + now.counts.changed;
    assert_eq!(counted, run.offset, "what the candidate did on trial counts for nobody");
    run.lifecycle.stop();
}

#[test]
fn a_candidate_that_fails_on_trial_never_takes_over() {
    keep_log();
    let mut run = Run::new("unfit", |plugin| {
        plugin.trial.mode = Mode::Auto;
        (plugin.trial.records, plugin.trial.every) = (100_000, 2);
    });
    run.put(&trapping(2));
    let report = run.outcome(RolloutOutcome::FailedTrial);
    assert!(report.reason.unwrap().contains("it failed on"), "{:?}", report.trial);
    assert!(report.trial.unwrap().first_failure.unwrap().contains("unreachable"));
    for _ in 0..300 {
        assert_eq!(output(run.next()).timestamp_us, Some(1));
    }
    assert_eq!(logged(&["ERROR", "unfit", "failed its trial", "first_failure"]).len(), 1);
    thread::sleep(quick().poll * 2);
    assert_eq!(run.control.swaps.last().len(), 1, "the same file isn't tried again");
    run.put(&version(3));
    run.until("version 3 on trial", |run| (run.control.swaps.last().len() == 2).then_some(()));
}

#[test]
fn a_trial_without_records_ends_by_itself() {
    let mut run = Run::new("idle", |plugin| {
        plugin.trial.mode = Mode::Auto;
        plugin.trial.within = Duration::from_millis(300);
    });
    run.put(&version(2));
    let shared = run.shared.clone();
    wait_for("version 2", || (shared.versions()[0].digest == Digest::of(&version(2))).then_some(()));
    assert_eq!(output(run.next()).timestamp_us, Some(2));
}

#[test]
fn by_hand_a_candidate_waits_for_its_promotion() {
    let mut run = Run::new("by-hand", |plugin| {
        plugin.trial.mode = Mode::Manual;
        (plugin.trial.records, plugin.trial.every) = (20, 1);
    });
    assert_eq!(run.control.promote("by-hand").unwrap_err(), "plugin by-hand has no candidate");
    let unknown = run.control.promote("nobody").unwrap_err();
    assert!(unknown.starts_with("the chain has no plugin nobody; it has: "), "{unknown}");
    run.put(&version(2));
    let report = run.outcome(RolloutOutcome::AwaitsPromotion);
    assert_eq!((report.trial.unwrap().records, run.at_work()), (20, Digest::of(&version(1))));
    assert!(run.control.promote("by-hand").unwrap().contains(&Digest::of(&version(2)).short()));
    assert_eq!(output(run.next()).timestamp_us, Some(2));
    assert!(run.control.rollback("by-hand").unwrap().contains(&Digest::of(&version(1)).short()));
    assert_eq!(output(run.next()).timestamp_us, Some(1));
    assert_eq!(run.outcome(RolloutOutcome::RolledBack).reason.as_deref(), Some("a person asked for it"));
    assert_eq!(run.control.rollback("by-hand").unwrap_err(), "it has no previous version");
    thread::sleep(quick().poll * 2);
    assert_eq!(run.control.swaps.last().len(), 1, "the file still holds version 2, which isn't wanted");
}

/// A plugin may fail in its trial because something that it needs is still missing; a person can promote it anyway.
#[test]
fn what_a_candidate_failed_on_in_its_trial_leaves_its_breaker_closed() {
    let mut run = Run::new("unready", |plugin| {
        plugin.trial.mode = Mode::Manual;
        (plugin.trial.records, plugin.trial.every) = (20, 1);
        let (then, pause) = (config::WhileOpen::Skip, Duration::from_secs(3600));
        plugin.breaker = Some(config::BreakerConfig { failures: 5, then, pause });
    });
    run.put(&guest("unreachable"));
    let report = run.outcome(RolloutOutcome::AwaitsPromotion);
    assert_eq!(report.trial.map(|found| (found.records, found.failed)), Some((20, 20)));
    run.control.promote("unready").unwrap();
    assert!(!run.shared.versions()[0].breaker_open);
    run.until("its breaker to open at work", |run| run.shared.versions()[0].breaker_open.then_some(()));
}

#[test]
fn a_version_that_traps_on_one_record_in_a_hundred_is_back_out_by_itself() {
    keep_log();
    let mut run = Run::new("relapse", |_| {});
    run.put(&trapping(2));
    let (mut failed, mut by_two) = (0, 0);
    let report = wait_for("the way back", || {
        for _ in 0..20 {
            match run.next() {
                Fate::DeadLetter(failure) => {
                    assert_eq!(failure.digest, Digest::of(&trapping(2)));
                    failed += 1;
                }
                fate => by_two += u64::from(output(fate).timestamp_us == Some(2)),
            }
        }
        thread::sleep(Duration::from_millis(1));
        run.control.swaps.last().pop().filter(|report| report.outcome == RolloutOutcome::RolledBack)
    });
    let baked = report.bake.unwrap();
    assert!(failed > 5 && baked.failed > 5 && baked.failed <= failed, "{failed} {baked:?}");
    assert!(by_two > 400, "99 of 100 were well: {by_two}");
    assert!(report.reason.unwrap().contains("the bound is 0.50 %"));
    for _ in 0..300 {
        assert_eq!(output(run.next()).timestamp_us, Some(1));
    }
    let told = logged(&["ERROR", "relapse", "rolled back", &Digest::of(&trapping(2)).short()]);
    assert_eq!(told.len(), 1, "{told:?}");
    thread::sleep(quick().poll * 2);
    assert_eq!(run.at_work(), Digest::of(&version(1)), "the same file isn't taken again");
    run.put(&version(3));
    let good = Digest::of(&version(3));
    run.until("the next version", |run| (run.at_work() == good).then_some(()));
}

#[test]
fn a_version_that_is_slow_beyond_its_bound_is_back_out_by_itself() {
    let mut run = Run::new("slow-one", |plugin| plugin.bake.max_slowdown = 20);
    run.until("measurements", |run| (run.shared.versions()[0].latency.measured >= 32).then_some(()));
    let slow = "(local.set $i (i32.const 3000000))
                (loop $more (br_if $more (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))
                (call $keep)";
    run.put(&guest(slow));
    let report = run.outcome(RolloutOutcome::RolledBack);
    assert!(report.reason.unwrap().contains("its median call takes"));
    assert_eq!(run.at_work(), Digest::of(&version(1)));
}

#[test]
fn a_bake_window_in_manual_mode_or_off_rolls_nothing_back() {
    for (mode, outcome) in [(Mode::Manual, RolloutOutcome::Baking), (Mode::Off, RolloutOutcome::Active)] {
        let mut run = Run::new("kept", |plugin| {
            plugin.bake.mode = mode;
            plugin.bake.max_failures = Share(0.0);
        });
        run.put(&trapping(2));
        let bad = Digest::of(&trapping(2));
        run.until("the bad version", |run| (run.at_work() == bad).then_some(()));
        run.until("its failures", |run| (run.shared.versions()[0].counts.failed > 20).then_some(()));
        thread::sleep(Duration::from_millis(200));
        let report = run.control.swaps.last().pop().unwrap();
        assert_eq!((report.outcome, run.at_work()), (outcome, bad));
        assert_eq!(report.reason.is_some(), mode == Mode::Manual, "told, but left to a person");
    }
}

#[test]
fn a_bake_window_ends() {
    let mut run = Run::new("settled", |plugin| plugin.bake.window = Duration::from_millis(300));
    run.put(&version(2));
    let report = run.outcome(RolloutOutcome::Active);
    let baked = report.bake.unwrap();
    assert!(baked.seconds >= 0.3 && baked.records > 0 && baked.failed == 0, "{baked:?}");
    assert!(report.steps.worker_ms.unwrap() > 0.0);
}

/// A chain whose configuration file is read again when it changes.
struct Configured {
    folder: TempDir,
    shared: Arc<SharedChain>,
    chain: Chain,
    lifecycle: Lifecycle,
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
            Sources { file: Some((file.clone(), config::ConfigPlace::Flag("--config"))), ..Sources::default() };
        let present = config::load(sources.clone()).config.unwrap().only().unwrap();
        let shared = SharedChain::load(runtime(), &present.plugins).unwrap();
        let chain = Chain::new(shared.clone()).unwrap();
        let load = Box::new(move || config::load(sources.clone()).config.map(|pipelines| pipelines.only().unwrap()));
        let source = ChainSource { file: Some(file), load, present };
        let lifecycle = rollout::start(shared.clone(), Some(source), quick());
        // The first poll finds the file with which the host was started.
        thread::sleep(quick().poll);
        Self { folder, shared, chain, lifecycle }
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
    configured.lifecycle.stop();
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
    let swap = configured.lifecycle.control().swaps.last().remove(0);
    assert!(swap.cause == rollout::Cause::Configuration && swap.old_config != swap.new_config, "{swap:?}");
    configured.write(&table("much-too-long-for-this-one"));
    thread::sleep(quick().poll * 3);
    assert_eq!(entry(&mut configured), "two", "what is refused leaves the present one");
    assert!(configured.lifecycle.control().rollback("entry").is_ok());
    assert_eq!(entry(&mut configured), "one");
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
    configured.lifecycle.stop();
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
    assert!(configured.lifecycle.control().swaps.last().is_empty());
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

#[test]
fn what_is_told_of_a_plugin_adds_up() {
    let mut run = Run::new("told", |_| {});
    (0..6400).for_each(|_| drop(run.next()));
    let told = &run.shared.versions()[0];
    assert_eq!((told.counts.changed, told.latency.measured), (6400, 100));
    assert!(told.latency.p50_us > 0.0 && told.latency.p50_us <= told.latency.p99_us, "{:?}", told.latency);
    assert!(told.latency.p99_us <= told.latency.max_us * 1.2, "{:?}", told.latency);
    let memory = 4 * 65536..4 * 65536 + 1024;
    assert!(memory.contains(&told.memory_bytes), "a single worker's instance, with a small table: {told:?}");
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
        configured.lifecycle.stop();
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
