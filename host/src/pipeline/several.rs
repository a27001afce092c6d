//! Several pipelines in one process.
//!
//! Guarantees: each pipeline has its own threads, plugin instances, budget, connections, state and health. If one fails (a plugin that
//! doesn't load, a store that refuses, a panic), the others go on, the failure is reported under the pipeline's name, and the pipeline is
//! started again: after a wait that grows to a minute, or as soon as one of its files changes. It is then started with the configuration
//! file as it is at that moment, unless it would share a consumer group or an entry with a pipeline that still runs with an older version
//! of the file. The process ends when it is told to stop, or when none of its pipelines could be started at all.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use tracing::{error, info, warn};

use super::host::Host;
use super::run::{Neighbours, PipelineRun, read_again};
use super::slot::PipelineSlot;
use super::{RunError, failed, lock};
use crate::config::{Config, Pipelines, PluginConfig, PluginSource, Sources, threads};
use crate::health::server::{self, Reporter};
use crate::health::service;
use crate::plugin::SharedEngines;

/// How long to wait before a pipeline that failed is started again: at first, and at most.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// After a pipeline ran for this long, its next failure is followed by the shortest wait again.
const RAN_WELL: Duration = Duration::from_secs(300);
/// How much longer than `limits.shutdown` a pipeline may take before the process ends without it.
const OVERTIME: Duration = Duration::from_secs(2);
/// How often the stop flag is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How often the files of a pipeline that waits for its next start are looked at.
const FILES_EVERY: Duration = Duration::from_millis(500);
/// A pipeline isn't started again once more than this many of its threads hang in plugins: each keeps the memory of its plugins.
const MOST_LEFT_BEHIND: usize = 32;

/// The pipelines that had failed when the process ended, each with its error.
#[derive(Debug, thiserror::Error)]
pub struct PipelineFailures(Vec<(Arc<str>, RunError)>);

impl PipelineFailures {
    /// The errors of the pipelines that had failed.
    pub fn iter(&self) -> impl Iterator<Item = &RunError> {
        self.0.iter().map(|(_, error)| error)
    }
}

impl fmt::Display for PipelineFailures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (name, error)) in self.0.iter().enumerate() {
            let gap = if number > 0 { "\n" } else { "" };
            write!(f, "{gap}pipeline {name}: {error}")?;
        }
        Ok(())
    }
}

/// A pipeline's name, and the thread that keeps it running.
type PipelineThread = (Arc<str>, JoinHandle<Result<(), RunError>>);

/// What the pipelines share.
struct Process {
    engines: SharedEngines,
    sources: Sources,
    stop: Arc<AtomicBool>,
    slots: Vec<Arc<PipelineSlot>>,
    /// The names of all pipelines, separated by commas.
    names: String,
    /// Held while it is checked whether a pipeline's changed configuration conflicts with the others, and until the change is noted.
    changing: Mutex<()>,
}

/// Runs all pipelines until the process is told to stop.
pub(super) fn run(pipelines: &[Config], sources: Sources, stop: Arc<AtomicBool>) -> Result<(), RunError> {
    let Some(first) = pipelines.first() else { return Err(RunError::Failed("there is no pipeline".into())) };
    let engines = SharedEngines::for_config(first).map_err(failed("can't start the WebAssembly engine"))?;
    let slot = |config: &Config| Arc::new(PipelineSlot::new(config.clone(), Arc::clone(&stop)));
    let slots: Vec<Arc<PipelineSlot>> = pipelines.iter().map(slot).collect();
    // Before anything else: the status shows what keeps a pipeline from starting.
    let reporters = slots.iter().map(|slot| (Some(slot.name()), Arc::clone(slot) as Arc<dyn Reporter>));
    server::start(&first.status, reporters.collect()).map_err(failed("can't start the status"))?;
    let names = slots.iter().map(|slot| slot.name().to_string()).collect::<Vec<_>>().join(", ");
    let process = Arc::new(Process { engines, sources, stop, slots, names, changing: Mutex::new(()) });
    let threads = process.slots.iter().map(|slot| {
        let (process, slot) = (Arc::clone(&process), Arc::clone(slot));
        let name = slot.name();
        let work = move || {
            threads::belong_to(Some(slot.name()));
            process.keep_running(&slot)
        };
        Ok((Arc::clone(&name), threads::spawn(format!("pipeline-{name}"), work)?))
    });
    let threads = threads.collect::<std::io::Result<Vec<_>>>().map_err(failed("can't start a pipeline's thread"))?;
    process.watch(&threads);
    let mut failures = Vec::new();
    for (name, thread) in threads {
        if !thread.is_finished() {
            let text =
                "it hangs, and hasn't ended within limits.shutdown; what it had in flight is read again".to_owned();
            failures.push((name, RunError::Failed(text)));
            continue;
        }
        let ended = thread.join().unwrap_or_else(|_| Err(RunError::Failed("its thread panicked".into())));
        failures.extend(ended.err().map(|error| (name, error)));
    }
    if failures.is_empty() { Ok(()) } else { Err(PipelineFailures(failures).into()) }
}

impl Process {
    /// Tells the service manager when the process is ready, and stops the process if no pipeline can be started. Returns when all
    /// pipelines have ended; after a stop at the latest when `limits.shutdown` and [`OVERTIME`] are over.
    fn watch(&self, threads: &[PipelineThread]) {
        let (mut is_ready, mut told_at) = (false, None::<Instant>);
        let shutdown = self.slots.iter().map(|slot| slot.config().limits.shutdown).max().unwrap_or_default();
        while threads.iter().any(|(_, thread)| !thread.is_finished()) {
            // Asked before `has_run`: a pipeline that begins to run between the two questions must not count as one that failed.
            let all_tried = self.slots.iter().all(|slot| slot.has_been_tried());
            if !is_ready && self.slots.iter().any(|slot| slot.has_run()) {
                // One pipeline that runs is enough: another may wait for its servers for long, and the service manager would take that
                // for a failed start.
                is_ready = true;
                service::ready();
            } else if !is_ready && !self.is_told_to_stop() && all_tried {
                error!("no pipeline could be started; the process ends");
                self.stop.store(true, Ordering::SeqCst);
            }
            if self.is_told_to_stop() && told_at.get_or_insert_with(Instant::now).elapsed() > shutdown + OVERTIME {
                return;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn is_told_to_stop(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Runs a pipeline until the process is told to stop, and starts it again whenever it has failed.
    fn keep_running(self: &Arc<Self>, slot: &Arc<PipelineSlot>) -> Result<(), RunError> {
        let (mut wait, mut left_behind) = (FIRST_WAIT, 0);
        loop {
            let config = slot.config();
            let (began, host) = (Instant::now(), Mutex::new(None::<Arc<Host>>));
            let running = |started: Arc<Host>| {
                *lock(&host) = Some(Arc::clone(&started));
                slot.runs(started);
                Ok(())
            };
            let ended = PipelineRun {
                config: &config,
                sources: self.sources.clone(),
                engines: &self.engines,
                names: &self.names,
                neighbours: Some(Arc::new(OtherPipelines { process: Arc::clone(self), of: Arc::clone(slot) })),
                lasting: slot.lasting.clone(),
                running: &running,
            }
            .run();
            left_behind += lock(&host).take().map_or(0, |host| host.workers.left_behind());
            let Err(failure) = ended else {
                slot.ended();
                return Ok(());
            };
            if began.elapsed() >= RAN_WELL {
                wait = FIRST_WAIT;
            }
            let again = (left_behind <= MOST_LEFT_BEHIND).then_some(wait);
            slot.failed(&failure, again);
            match again {
                _ if self.is_told_to_stop() => error!("{failure:#}"),
                Some(wait) => {
                    error!(again_in_s = wait.as_secs(), "this pipeline failed and is started again: {failure:#}")
                }
                None => error!(
                    left_behind,
                    "this pipeline failed and isn't started again, because too many threads hang in its plugins; restart the \
                     process: {failure:#}"
                ),
            }
            self.wait(again, &config);
            if self.is_told_to_stop() {
                return Err(failure);
            }
            wait = (wait * 2).min(LONGEST_WAIT);
            self.read_configuration(slot);
            slot.starts();
        }
    }

    /// Waits for the next start of a pipeline that failed: until the time `again` is over, or one of the pipeline's files changes,
    /// because that may mend it. Where `again` is `None` there is no next start. A stop of the process ends each wait.
    fn wait(&self, again: Option<Duration>, config: &Config) {
        let file = self.sources.file.as_ref().map(|(path, _)| path);
        let plugins = config.plugins.iter().filter_map(|plugin| match &plugin.source {
            PluginSource::File(path) => Some(path),
            _ => None,
        });
        let files: Vec<&PathBuf> = file.into_iter().chain(plugins).chain(&config.files).collect();
        let stamps = || -> Vec<Option<(SystemTime, u64)>> {
            let stamp = |path: &&PathBuf| {
                let found = std::fs::metadata(path).ok()?;
                Some((found.modified().ok()?, found.len()))
            };
            files.iter().map(stamp).collect()
        };
        let (began, before, mut looked) = (Instant::now(), stamps(), Instant::now());
        while again.is_none_or(|again| began.elapsed() < again) && !self.is_told_to_stop() {
            std::thread::sleep(LOOK_EVERY);
            if again.is_some() && looked.elapsed() >= FILES_EVERY {
                looked = Instant::now();
                if stamps() != before {
                    info!("a file of the pipeline changed; starting it again");
                    // The file may still be being written.
                    return std::thread::sleep(FILES_EVERY);
                }
            }
        }
    }

    /// Reads the pipeline's configuration again, because a change of it may mend the pipeline.
    fn read_configuration(&self, slot: &PipelineSlot) {
        let config = match read_again(self.sources.clone(), Some(&slot.name()), &self.names) {
            Ok(config) => config,
            Err(problems) => {
                return warn!("the configuration is wrong; the pipeline is started with the previous one: {problems}");
            }
        };
        let _changing = lock(&self.changing);
        if config == slot.config() {
            return;
        }
        let conflicts = self.conflicts(slot, &config);
        if conflicts.is_empty() {
            info!("the pipeline is started with the changed configuration");
            return slot.configure(config);
        }
        warn!(
            "the pipeline is started with its previous configuration, because the new one conflicts with those that the others run \
             with; restart the process: {}",
            conflicts.join("; ")
        );
    }

    /// Lets a running pipeline take new plugins over, unless these may write entries that another pipeline may write, too. `new`:
    /// the changed configuration, of which nothing but the plugins counts here, because changes of other keys need a restart.
    fn accept(&self, slot: &PipelineSlot, new: &Config, in_use: &[Arc<PluginConfig>]) -> Result<(), String> {
        let _changing = lock(&self.changing);
        let conflicts = self.conflicts(slot, &Config { plugins: new.plugins.clone(), ..slot.config() });
        if conflicts.is_empty() {
            slot.takes_over(&new.plugins, in_use);
            return Ok(());
        }
        Err(format!("the others run with what the file said before; restart the process: {}", conflicts.join("; ")))
    }

    /// Checks that this pipeline shares no consumer group and no topic of dead letters with another pipeline of the same Kafka
    /// cluster. That shows only now, by the cluster's id, because the brokers of one cluster can be configured by different
    /// addresses.
    fn accept_cluster(&self, slot: &PipelineSlot, id: &str) -> Result<(), String> {
        let _changing = lock(&self.changing);
        let mine = slot.config();
        for other in self.slots.iter().filter(|other| other.name() != slot.name()) {
            if other.cluster().as_deref() != Some(id) {
                continue;
            }
            let shared = Pipelines::shared_in_a_cluster(&mine, &other.config());
            if !shared.is_empty() {
                return Err(format!(
                    "its brokers are of the same Kafka cluster as those of pipeline {}, with which it has {} in common; change \
                     it in one of them",
                    other.name(),
                    shared.join(" and ")
                ));
            }
        }
        slot.belongs_to(id);
        Ok(())
    }

    /// What this pipeline would share with the others if it ran with this configuration. Each of the others counts with every
    /// configuration that it may be running with.
    fn conflicts(&self, slot: &PipelineSlot, config: &Config) -> Vec<String> {
        let others = self.slots.iter().filter(|other| other.name() != slot.name()).flat_map(|other| other.configs());
        let mut conflicts: Vec<String> =
            others.flat_map(|other| Pipelines::conflicts(&[other, config.clone()])).collect();
        conflicts.dedup();
        conflicts
    }
}

/// The other pipelines of the process, as one of them sees them.
struct OtherPipelines {
    process: Arc<Process>,
    /// The slot of the one that sees them.
    of: Arc<PipelineSlot>,
}

impl Neighbours for OtherPipelines {
    fn accept(&self, new: &Config, in_use: &[Arc<PluginConfig>]) -> Result<(), String> {
        self.process.accept(&self.of, new, in_use)
    }

    fn accept_cluster(&self, id: &str) -> Result<(), String> {
        self.process.accept_cluster(&self.of, id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two pipelines that write one bucket: the plugin of `one` may choose `entries`, and `two` writes below `prefix`.
    fn file(entries: &str, prefix: &str) -> String {
        format!(
            "[kafka]\nbrokers = \"127.0.0.1:1\"\ntopics = [\"t\"]\n[store]\nbucket = \"b\"\n[dead_letters]\ntopic = \"dead\"\n\
             [pipelines.one]\nkafka.group = \"one\"\n[[pipelines.one.plugins]]\npath = \"one.wasm\"\n\
             [pipelines.one.plugins.limits]\nentries = [\"{entries}\"]\n\
             [pipelines.two]\nkafka.group = \"two\"\ndead_letters.topic = \"dead-two\"\n\
             store.entry = \"{prefix}/{{topic}}/{{partition}}\"\n"
        )
    }

    fn pipelines(folder: &std::path::Path, text: &str) -> Vec<Config> {
        let path = folder.join("sink.toml");
        std::fs::write(&path, text).unwrap();
        let file = Some((path, crate::config::ConfigLocation::Flag("--config")));
        crate::config::load(Sources { file, ..Sources::default() }).config.unwrap().all().to_vec()
    }

    fn process(configs: &[Config]) -> Process {
        let stop = Arc::new(AtomicBool::new(false));
        let slots = configs.iter().map(|config| Arc::new(PipelineSlot::new(config.clone(), Arc::clone(&stop))));
        Process {
            engines: SharedEngines::for_config(&configs[0]).unwrap(),
            sources: Sources::default(),
            slots: slots.collect(),
            stop,
            names: "one, two".into(),
            changing: Mutex::new(()),
        }
    }

    /// One pipeline's thread never comes back, the other one's has ended, and the process is told to stop: it waits until
    /// `limits.shutdown` and [`OVERTIME`] are over, and no longer.
    #[test]
    fn a_stop_waits_for_a_pipeline_that_hangs_only_until_its_time_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let text = format!("[limits]\nshutdown = \"1s\"\n{}", file("{topic}/*", "x"));
        let process = Arc::new(process(&pipelines(folder.path(), &text)));
        let (release, hangs) = std::sync::mpsc::channel::<()>();
        let hanging = std::thread::spawn(move || {
            let _ = hangs.recv();
            Ok(())
        });
        let threads: Vec<PipelineThread> = vec![("one".into(), hanging), ("two".into(), std::thread::spawn(|| Ok(())))];
        let (told, returned) = std::sync::mpsc::channel();
        let watching = Arc::clone(&process);
        let began = Instant::now();
        let watcher = std::thread::spawn(move || {
            watching.watch(&threads);
            told.send(began.elapsed()).unwrap();
            threads
        });
        // As long as nobody tells the process to stop it waits, even for a pipeline that hangs.
        let early = returned.recv_timeout(Duration::from_millis(500));
        assert!(early.is_err(), "it gave the process up without a stop: {early:?}");
        process.stop.store(true, Ordering::SeqCst);
        let took = returned.recv_timeout(Duration::from_secs(120)).expect("a stop must not wait for what hangs");
        assert!(took >= Duration::from_millis(500) + Duration::from_secs(1) + OVERTIME, "{took:?}");
        let threads = watcher.join().unwrap();
        assert!(!threads[0].1.is_finished() && threads[1].1.is_finished());
        drop(release);
    }

    #[test]
    fn new_plugins_may_not_write_what_another_pipeline_runs_with() {
        let folder = tempfile::tempdir().unwrap();
        let before = pipelines(folder.path(), &file("{topic}/*", "x"));
        let process = process(&before);
        // The file is right by itself, but the other pipeline writes below x until the process is started again.
        let after = pipelines(folder.path(), &file("x/*", "y"));
        let [one, two] = [&process.slots[0], &process.slots[1]];
        let refused = process.accept(one, &after[0], &[]).unwrap_err();
        assert!(refused.contains("restart the process") && refused.contains("can write one entry"), "{refused}");
        let elsewhere = pipelines(folder.path(), &file("z/*", "y"));
        process.accept(one, &elsewhere[0], &[]).unwrap();
        // For the other pipelines both sets of plugins count: the newer one, and the older one, because a rollback may bring it back.
        let moved = pipelines(folder.path(), &file("w/*", "z"));
        assert!(!process.conflicts(two, &moved[1]).is_empty());
        // A worker may keep an older version, whatever is taken over after it; each set of plugins is remembered once.
        let in_use: Vec<_> = elsewhere[0].plugins.iter().cloned().map(Arc::new).collect();
        for (next, sets) in [("v/*", 4), ("w/*", 5), ("v/*", 5)] {
            process.accept(one, &pipelines(folder.path(), &file(next, "y"))[0], &in_use).unwrap();
            assert!(!process.conflicts(two, &moved[1]).is_empty());
            assert_eq!(one.configs().len(), sets);
        }
        // A pipeline that is started again runs with nothing older.
        one.configure(pipelines(folder.path(), &file("v/*", "y"))[0].clone());
        assert!(process.conflicts(two, &moved[1]).is_empty());
    }

    #[test]
    fn brokers_of_one_cluster_are_recognized_by_its_id() {
        let folder = tempfile::tempdir().unwrap();
        let text = "kafka.topics = [\"t\"]\nkafka.group = \"g\"\n\
                    [pipelines.one]\nkafka.brokers = \"a:1\"\nstore.bucket = \"one\"\n\
                    [pipelines.two]\nkafka.brokers = \"b:1\"\nstore.bucket = \"two\"\n";
        let process = process(&pipelines(folder.path(), text));
        let [one, two] = [&process.slots[0], &process.slots[1]];
        process.accept_cluster(one, "here").unwrap();
        process.accept_cluster(two, "there").unwrap();
        let refused = process.accept_cluster(two, "here").unwrap_err();
        assert!(refused.contains("pipeline one") && refused.contains("consumer group \"g\""), "{refused}");
        process.accept_cluster(one, "here").unwrap();
    }
}
