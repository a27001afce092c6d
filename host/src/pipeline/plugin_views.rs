//! What the status and the supervisor see of the plugins of a running host.

use std::time::UNIX_EPOCH;

use crate::chain::{PluginVersion, SharedChain};
use crate::config::{PluginSource, in_full};
use crate::health::report;
use crate::kafka::observer::Finding;
use crate::rollout::PluginActions;

/// A problem for each plugin that isn't asked, because it failed too often.
pub(super) fn open_breakers(chain: &SharedChain) -> Vec<Finding> {
    let finding = |version: PluginVersion| {
        let message = format!(
            "plugin {}: its circuit breaker is open, because it failed too often in a row; the page and `reduct-sink status` say on what; \
             correct the plugin or its configuration",
            version.name
        );
        Finding::new("plugin", message)
    };
    chain.versions().into_iter().filter(|version| version.breaker_open).map(finding).collect()
}

pub(super) fn plugin(version: PluginVersion, chain: &SharedChain, can: PluginActions) -> report::PluginReport {
    let totals = chain.totals(&version.name);
    report::PluginReport {
        can,
        name: version.name.to_string(),
        digest: version.digest.to_string(),
        config: version.config.map(|config| config.to_string()),
        file: match &version.source {
            PluginSource::File(path) => Some(in_full(path)),
            PluginSource::Remote(remote) => Some(remote.address.to_string()),
            PluginSource::Builtin => None,
        },
        since_s: version.since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        breaker_open: version.breaker_open,
        counts: totals.counts,
        passed_over: totals.passed_over,
        latency: version.latency,
        memory_bytes: version.memory_bytes,
        failures: version.failures,
        totals,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, BreakerConfig, PluginConfig, WhileOpen};
    use crate::plugin::{Counts, Runtime};
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    fn chain(change: impl FnOnce(&mut PluginConfig)) -> Arc<SharedChain> {
        let environment =
            [("REDUCT_SINK_BROKERS", "127.0.0.1:1"), ("REDUCT_SINK_TOPICS", "t"), ("REDUCT_SINK_BUCKET", "b")];
        let environment = environment.map(|(name, value)| (name.into(), value.into())).into_iter().collect();
        let sources = config::Sources { environment, ..config::Sources::default() };
        let mut plugins = config::load(sources).config.unwrap().only().unwrap().plugins.clone();
        change(plugins.first_mut().unwrap());
        SharedChain::load(Runtime::new().unwrap(), &plugins).unwrap()
    }

    #[test]
    fn a_plugin_whose_breaker_is_open_is_a_problem_until_it_closes() {
        let breaker = BreakerConfig { failures: 2, pause: Duration::from_secs(30), then: WhileOpen::DeadLetter };
        let chain = chain(|plugin| plugin.breaker = Some(breaker));
        let stage = chain.stages().remove(0);
        let breaker = stage.version.plugin.breaker();
        breaker.failed("broken", Instant::now);
        assert!(open_breakers(&chain).is_empty(), "one failure doesn't open it");
        breaker.failed("broken", Instant::now);
        let told = open_breakers(&chain);
        assert_eq!((told.len(), told[0].code), (1, "plugin"));
        assert!(told[0].message.starts_with("plugin passthrough: its circuit breaker is open"), "{}", told[0].message);
        breaker.succeeded();
        assert!(open_breakers(&chain).is_empty());
    }

    #[test]
    fn a_plugins_counts_are_of_all_its_versions() {
        let chain = chain(|_| {});
        let mut version = chain.versions().remove(0);
        // A version that took over a moment ago has done nothing yet, and one that was rolled back has failed.
        let failing = chain.stages().remove(0).version.plugin.counters();
        failing.failed();
        version.counts = Counts::default();
        assert_eq!(plugin(version, &chain, PluginActions::default()).counts.failed, 1);
    }
}
