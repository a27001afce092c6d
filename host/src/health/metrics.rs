//! The host's figures in the text format that Prometheus reads.
//!
//! Guarantees: everything is collected when it is asked for, from the same [`HostReport`] as the status, so that nothing is
//! counted twice and the record path pays nothing; a partition that was given up is gone at the next scrape; labels take
//! values from the configuration and from what is assigned only, so that their number is bounded.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::report::{HostReport, PartitionReport, PluginReport};

/// What every name begins with.
const PREFIX: &str = "reduct_sink";

/// The type of the text, for the header.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The figures as text.
pub fn text(report: HostReport) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(Figures(Arc::new(report))));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Figures(Arc<HostReport>);

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let report = &*self.0;
        let mut write = FamilyWriter(&mut encoder);
        write.gauges(
            "build_info",
            "The host's version, and what it was built with; always 1",
            [(report.build.to_vec(), 1.0)],
        )?;
        write.gauge("uptime_seconds", "Since the host started", report.uptime_s as f64)?;
        write.counter(
            "pipeline_failures",
            "How often the pipeline failed and was started again; 0 where it ends with the process",
            report.pipeline_failures,
        )?;
        write.counter(
            "records_written",
            "Records written to ReductStore; dead letters aren't among them",
            report.written,
        )?;
        write.counter("written_bytes", "Bytes of the records written to ReductStore", report.written_bytes)?;
        write.counter("records_found", "Records that were found in ReductStore and not written again", report.found)?;
        write.counter("records_repaired", "Unfinished records that were removed and written again", report.repaired)?;
        write.counter(
            "skipped_offsets",
            "Offsets of Kafka that were skipped because they can't be read",
            report.skipped_offsets,
        )?;
        write.counters(
            "dead_letters",
            "Records that became dead letters, by why",
            report.dead_letters_by_class.iter().map(|(class, count)| (vec![("class", *class)], *count)),
        )?;
        write.counters(
            "commits",
            "Commits of offsets, by whether the group took them",
            [("taken", report.commits_taken), ("refused", report.commits_refused)]
                .map(|(outcome, count)| (vec![("outcome", outcome)], count)),
        )?;
        write.counters(
            "store_retries",
            "Writes that were tried again, by the class of the store's answer",
            report.store_retries.iter().map(|(class, count)| (vec![("class", *class)], *count)),
        )?;
        self.store_requests(&mut write)?;
        if let Some(spans) = report.spans {
            let outcomes = [("made", spans.made), ("sent", spans.sent), ("failed", spans.failed)];
            write.counters(
                "trace_spans",
                "Spans for OpenTelemetry: made, taken by the collector, and not taken by it",
                outcomes.map(|(outcome, count)| (vec![("outcome", outcome)], count)),
            )?;
        }
        let paused = report.paused.all || !report.paused.topics.is_empty();
        write.gauge("paused", "1 while somebody has paused the host or a topic", f64::from(u8::from(paused)))?;
        write.gauge("in_flight_records", "Records read and not done with", report.in_flight_records as f64)?;
        write.gauge("in_flight_bytes", "Bytes of the records in flight", report.in_flight_bytes as f64)?;
        write.gauges(
            "problem",
            "1 for each kind of problem that there is now; /health has the reasons",
            report.problems.iter().map(|problem| (vec![("code", problem.code)], 1.0)),
        )?;
        write.gauge("healthy", "1 while there is no problem", f64::from(u8::from(report.problems.is_empty())))?;
        self.partitions(&mut write)?;
        self.plugins(&mut write)?;
        self.swaps(&mut write)
    }
}

impl Figures {
    fn partitions(&self, write: &mut FamilyWriter<'_, '_>) -> fmt::Result {
        let all = &self.0.partitions;
        write.gauge(
            "lag_known",
            "1 while it is known how far the host is behind; 0 while Kafka doesn't answer or the group hasn't given out its partitions",
            f64::from(u8::from(self.0.lag.records.is_some())),
        )?;
        write.gauge("partitions_assigned", "Partitions that this host reads", all.len() as f64)?;
        let numbers: Vec<String> = all.iter().map(|partition| partition.partition.to_string()).collect();
        let mut each = |name: &str, help: &str, value: &dyn Fn(&PartitionReport) -> Option<f64>| {
            let values = all.iter().zip(&numbers).filter_map(|(partition, number)| {
                let labels = vec![("topic", partition.topic.as_str()), ("partition", number.as_str())];
                Some((labels, value(partition)?))
            });
            write.gauges(name, help, values)
        };
        each("partition_position", "The first offset that isn't done with", &|p| Some(p.position as f64))?;
        each("partition_begin", "The first offset that Kafka has", &|p| p.begin.map(|begin| begin as f64))?;
        each("partition_end", "The next offset that a reader can't have yet", &|p| p.end.map(|end| end as f64))?;
        each("partition_lag_records", "Offsets from the position to the end", &|p| p.lag.map(|lag| lag as f64))?;
        each(
            "partition_lag_seconds",
            "Since when the first record waits; 0 where none does, absent while Kafka doesn't answer",
            &|p| p.lag_s,
        )?;
        each("partition_in_flight_records", "Records read and not done with", &|p| Some(p.in_flight as f64))?;
        each("partition_stuck", "1 where there is work and no progress", &|p| Some(f64::from(u8::from(p.stuck))))
    }

    fn store_requests(&self, write: &mut FamilyWriter<'_, '_>) -> fmt::Result {
        let all = &self.0.store_requests;
        write.counters(
            "store_request_failures",
            "Requests to ReductStore that failed, by what they do",
            all.iter().map(|requests| (vec![("operation", requests.operation)], requests.failed)),
        )?;
        let histograms = all
            .iter()
            .map(|requests| (vec![("operation", requests.operation)], (requests.sum_s, requests.buckets.as_slice())));
        write.histograms("store_request_duration_seconds", "How long requests to ReductStore take", histograms)
    }

    fn plugins(&self, write: &mut FamilyWriter<'_, '_>) -> fmt::Result {
        let all = &self.0.plugins;
        write.gauges(
            "plugin_info",
            "The version of each plugin that is at work; always 1",
            all.iter().map(|plugin| (vec![("plugin", plugin.name.as_str()), ("digest", plugin.digest.as_str())], 1.0)),
        )?;
        let verdicts = |plugin: &PluginReport| {
            let counts = plugin.totals.counts;
            [
                ("keep", counts.kept),
                ("change", counts.changed),
                ("split", counts.split),
                ("drop", counts.dropped),
                ("failure", counts.failed),
                ("retry", counts.retried),
            ]
        };
        write.counters(
            "plugin_calls",
            "Calls of all versions since the host started, by what they answered",
            all.iter().flat_map(|plugin| {
                verdicts(plugin)
                    .map(|(verdict, count)| (vec![("plugin", plugin.name.as_str()), ("verdict", verdict)], count))
            }),
        )?;
        write.counters(
            "plugin_passed_over_records",
            "Records that the plugin's `when` leaves out",
            all.iter().map(|plugin| (vec![("plugin", plugin.name.as_str())], plugin.totals.passed_over)),
        )?;
        write.gauges(
            "plugin_memory_bytes",
            "What the plugin's instances have together",
            all.iter().map(|plugin| (vec![("plugin", plugin.name.as_str())], plugin.memory_bytes as f64)),
        )?;
        write.gauges(
            "plugin_breaker_open",
            "1 while the plugin's circuit breaker is open",
            all.iter().map(|plugin| (vec![("plugin", plugin.name.as_str())], f64::from(u8::from(plugin.breaker_open)))),
        )?;
        let histograms = all.iter().map(|plugin| {
            let histogram = &plugin.totals.histogram;
            (vec![("plugin", plugin.name.as_str())], (histogram.sum_s, histogram.buckets.as_slice()))
        });
        write.histograms("plugin_call_duration_seconds", "How long calls take: one in 64 is timed and counts for 64, and each that ran into its time limit counts for itself", histograms)
    }

    fn swaps(&self, write: &mut FamilyWriter<'_, '_>) -> fmt::Result {
        write.counters(
            "plugin_swaps",
            "Swaps of plugins, by what became of them",
            self.0.swaps_ended.iter().map(|(outcome, count)| (vec![("outcome", *outcome)], *count)),
        )?;
        let running = ["on-trial", "awaits-promotion", "baking"];
        let count = |name: &str| self.0.swaps.iter().filter(|swap| swap.outcome.name() == name).count();
        write.gauges(
            "plugin_swaps_under_way",
            "Swaps of plugins that aren't decided yet, by how far they are",
            running.map(|stage| (vec![("stage", stage)], count(stage) as f64)),
        )
    }
}

/// Writes families of one kind.
struct FamilyWriter<'a, 'b>(&'a mut DescriptorEncoder<'b>);

type Labels<'a> = Vec<(&'a str, &'a str)>;

impl FamilyWriter<'_, '_> {
    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        ConstCounter::new(value).encode(self.0.encode_descriptor(name, help, None, MetricType::Counter)?)
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        ConstGauge::new(value).encode(self.0.encode_descriptor(name, help, None, MetricType::Gauge)?)
    }

    fn counters<'a>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'a>, u64)>,
    ) -> fmt::Result {
        let mut family: MetricEncoder<'_> = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in values {
            ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    /// Each with its labels, the sum of its seconds and its buckets.
    fn histograms<'a>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'a>, (f64, &'a [(f64, u64)]))>,
    ) -> fmt::Result {
        let mut family: MetricEncoder<'_> = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, (sum_s, buckets)) in values {
            let count = buckets.iter().map(|(_, count)| count).sum();
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum_s, count, buckets, None)?;
        }
        Ok(())
    }

    fn gauges<'a>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'a>, f64)>,
    ) -> fmt::Result {
        let mut family: MetricEncoder<'_> = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::{LagReport, LastKnownLag};
    use super::*;

    fn report(partitions: u32) -> HostReport {
        let partition = |partition| PartitionReport {
            topic: "camera".into(),
            partition,
            begin: Some(1),
            position: 5,
            end: Some(9),
            lag: Some(4),
            lag_s: Some(1.5),
            last_known: None,
            in_flight: 2,
            stuck: false,
        };
        HostReport {
            version: "1.2.3",
            build: [("version", "1.2.3"), ("commit", "abc"), ("librdkafka", "2"), ("wasmtime", "3"), ("contract", "0")],
            written: 7,
            dead_letters_by_class: vec![("plugin", 3)],
            partitions: (0..partitions).map(partition).collect(),
            ..HostReport::default()
        }
    }

    #[test]
    fn what_is_assigned_has_figures_and_what_was_given_up_has_none() {
        let told = text(report(2)).unwrap();
        assert!(told.contains("reduct_sink_records_written_total 7"), "{told}");
        assert!(told.contains(r#"reduct_sink_dead_letters_total{class="plugin"} 3"#), "{told}");
        assert!(told.contains(r#"reduct_sink_build_info{version="1.2.3",commit="abc""#), "{told}");
        assert!(told.contains(r#"reduct_sink_partition_lag_records{topic="camera",partition="1"} 4"#), "{told}");
        assert!(told.contains(r#"reduct_sink_partition_lag_seconds{topic="camera",partition="0"} 1.5"#), "{told}");
        assert!(told.ends_with("# EOF\n"), "{told}");
        assert!(!text(report(1)).unwrap().contains(r#"partition="1""#));
    }

    #[test]
    fn a_lag_that_is_not_known_is_absent_and_not_zero() {
        let mut report = report(1);
        report.lag.records = Some(4);
        assert!(text(report.clone()).unwrap().contains("reduct_sink_lag_known 1"));
        let last = Some(LastKnownLag { records: 4, seconds: 1.5, ago_s: 9 });
        report.lag = LagReport { records: None, seconds: None, last_known: last };
        let unknown = PartitionReport {
            begin: None,
            end: None,
            lag: None,
            lag_s: None,
            last_known: last,
            ..report.partitions.remove(0)
        };
        report.partitions.push(unknown);
        let told = text(report).unwrap();
        assert!(told.contains("reduct_sink_lag_known 0"), "{told}");
        for absent in ["partition_lag_records{", "partition_lag_seconds{", "partition_begin{", "partition_end{"] {
            assert!(!told.contains(absent), "{absent}: {told}");
        }
    }
}
