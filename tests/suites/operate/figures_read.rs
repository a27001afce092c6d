//! Tests the metrics as Prometheus reads them: there are enough of them, every query of the alerts and of the dashboard
//! finds them, and collecting them is cheap.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reduct_sink_testbed::{Message, Sink, bed, figures, payload, process, unique};
use serde_json::Value;

use super::picky::PickyHost;
use super::{BOUND, SHOWN_WITHIN, address, get, status};

#[test]
fn a_real_prometheus_reads_the_metrics_and_loads_the_rules() -> Result<()> {
    let PickyHost { kafka, topic, address, config, mut sink, folder: _folder, .. } = PickyHost::start("measured", "")?;
    kafka.produce(&topic, (0..200).map(|n| Message::new(payload(n, 100)).partition((n % 2) as i32)))?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], BOUND)?;
    process::wait_for("figures of both partitions", SHOWN_WITHIN, || {
        let text = get(&address, "/metrics")?.1;
        let lag =
            |partition| format!("reduct_sink_partition_lag_records{{topic=\"{topic}\",partition=\"{partition}\"}} 0");
        Ok((text.contains(&lag(0)) && text.contains(&lag(1))).then_some(()))
    })?;
    let text = get(&address, "/metrics")?.1;
    let families = text.lines().filter(|line| line.starts_with("# TYPE ")).count();
    figures::record("metrics", families as f64)?;
    ensure!(families >= 20, "{families} metrics only:\n{text}");
    ensure!(text.contains("reduct_sink_records_written_total 200"), "{text}");

    let monitoring = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/monitoring");
    let rules = format!("{monitoring}/alerts.yaml");
    run(tool("promtool")?.args(["check", "rules", &rules]))?;
    run(tool("promtool")?.args(["test", "rules", &format!("{monitoring}/alerts-test.yaml")]))?;
    let folder = process::data_folder("prometheus")?;
    let file = folder.path().join("prometheus.yml");
    std::fs::write(
        &file,
        format!(
            "global: {{ scrape_interval: 1s }}\nrule_files: [\"{rules}\"]\nscrape_configs:\n- job_name: reduct-sink\n  \
             static_configs: [{{ targets: [\"{address}\"] }}]\n"
        ),
    )?;
    let port = process::free_port()?;
    let prometheus = format!("127.0.0.1:{port}");
    let mut command = tool("prometheus")?;
    command
        .arg(format!("--config.file={}", file.display()))
        .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
        .arg(format!("--web.listen-address={prometheus}"));
    let log = process::new_log("prometheus")?;
    let mut server = process::Process::spawn("Prometheus", command, &log)?;
    let query = "/api/v1/query?query=sum(reduct_sink_records_written_total)%2Bsum(reduct_sink_partition_lag_records)";
    let dashboard = dashboard_queries(&format!("{monitoring}/dashboard.json"))?;
    for query in &dashboard {
        for name in names_in(query) {
            let family = name.trim_end_matches("_total").trim_end_matches("_bucket").trim_end_matches("_sum");
            let family = family.trim_end_matches("_count");
            ensure!(
                text.contains(&format!("# TYPE {family} ")),
                "the dashboard asks for {name}, which there isn't: {query}"
            );
        }
    }
    ensure!(dashboard.len() >= 15, "{} queries only", dashboard.len());
    figures::record("dashboard_queries", dashboard.len() as f64)?;
    let answer = process::wait_for("Prometheus to know the figures", BOUND, || {
        server.expect_running()?;
        let Ok((_, body)) = get(&prometheus, query) else { return Ok(None) };
        Ok(body.contains("\"200\"").then_some(body))
    });
    let evaluated = dashboard.iter().try_for_each(|query| evaluate(&prometheus, query));
    let stopped = server.stop(Duration::from_secs(30));
    answer.with_context(|| process::tail(&log, 20))?;
    stopped?;
    evaluated?;
    sink.stop_cleanly()
}

/// The queries of the dashboard's panels, with Grafana's variables filled in.
fn dashboard_queries(file: &str) -> Result<Vec<String>> {
    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(file)?)?;
    let panels = dashboard["panels"].as_array().context("panels")?;
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let fill = |query: &str| query.replace("$__rate_interval", "1m").replace("$instance", ".*").replace("$topic", ".*");
    Ok(targets.filter_map(|target| target["expr"].as_str().map(fill)).collect())
}

/// The host's metrics that a query names.
fn names_in(query: &str) -> BTreeSet<String> {
    let words = query.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| word.starts_with("reduct_sink_")).map(str::to_owned).collect()
}

/// Has Prometheus evaluate a query.
fn evaluate(prometheus: &str, query: &str) -> Result<()> {
    let escaped: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let (code, body) = get(prometheus, &format!("/api/v1/query?query={escaped}"))?;
    ensure!(code == 200 && body.contains("\"success\""), "{query}: {code} {body}");
    Ok(())
}

/// Collecting the metrics must stay cheap with many partitions.
#[test]
fn a_scrape_of_200_partitions_is_quick() -> Result<()> {
    let bed = bed()?;
    let topic = unique("many");
    bed.kafka.client().create_topic(&topic, 200)?;
    let address = address()?;
    let config = bed.sink_config(&topic).set("status.listen", address.as_str());
    let mut sink = Sink::start(&config)?;
    process::wait_for("200 partitions", BOUND, || {
        sink.process().expect_running()?;
        let Ok(status) = status(&address) else { return Ok(None) };
        Ok((status["partitions"].as_array().map(Vec::len) == Some(200)).then_some(()))
    })?;
    let mut times: Vec<Duration> = Vec::new();
    let mut size = 0;
    for _ in 0..30 {
        let begun = Instant::now();
        let (code, body) = get(&address, "/metrics")?;
        times.push(begun.elapsed());
        ensure!(code == 200);
        size = body.lines().filter(|line| line.starts_with("reduct_sink_partition_position{")).count();
    }
    ensure!(size == 200, "{size} partitions");
    times.sort();
    let median = times.get(times.len() / 2).context("a scrape")?;
    figures::record("scrape_ms_200_partitions", median.as_secs_f64() * 1000.0)?;
    // What a scrape a second and an open page, which asks every two seconds, take of the processor: throughput can lose no more.
    let before = sink.process().cpu_seconds()?;
    for _ in 0..100 {
        get(&address, "/metrics")?;
        get(&address, "/metrics")?;
        get(&address, "/status")?;
    }
    let seconds = sink.process().cpu_seconds()? - before;
    figures::record("scrape_and_page_cpu_percent_200_partitions", seconds / 200.0 * 100.0)?;
    sink.stop_cleanly()
}

/// The command for one of Prometheus's programs.
fn tool(name: &str) -> Result<Command> {
    let path = process::cache()?.join("prometheus/usr/bin").join(name);
    ensure!(path.is_file(), "{} isn't there: run tests/setup prometheus", path.display());
    Ok(Command::new(path))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    let told = [output.stdout, output.stderr].concat();
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&told));
    Ok(())
}
