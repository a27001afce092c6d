//! The second pipeline of each host, with `TESTBED_PIPELINES=2`: it has the settings of the test's own one, goes through the same
//! faults, and every record that Kafka acknowledged for it is compared, too.

use std::io::Write;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use reduct_sink_testbed::sink::Beside;
use reduct_sink_testbed::verify::Ledger;
use reduct_sink_testbed::{KafkaClient, Load, Message, Produced, Sink, Store, figures, payload};

use super::CATCH_UP;

/// How many records it gets in a second: enough to have some in flight at each fault.
const PER_SECOND: u32 = 50;
const PARTITIONS: usize = 2;

/// See the module. Its records come until it is settled.
pub(super) struct SecondPipeline {
    kafka: KafkaClient,
    /// The name of its topic, group and bucket.
    name: String,
    records: Mutex<Records>,
}

enum Records {
    Coming(Load),
    Ending,
    Produced(Vec<Produced>),
}

impl SecondPipeline {
    /// `None`: this run wants none.
    pub fn if_wanted(kafka: &KafkaClient, topic: &str) -> Result<Option<Self>> {
        match std::env::var("TESTBED_PIPELINES").as_deref() {
            Err(_) | Ok("" | "1") => return Ok(None),
            Ok("2") => {}
            Ok(other) => bail!("TESTBED_PIPELINES is {other:?}; it can be 1 or 2"),
        }
        let name = format!("{topic}-beside");
        // The first node is the one that no test takes away for good.
        kafka.create_topic_on(&name, &[&[1_i32] as &[i32]; PARTITIONS])?;
        let load = Load::start(kafka, &name, PER_SECOND, |n| Message::new(payload(n, 400)))?;
        Ok(Some(Self { kafka: kafka.clone(), name, records: Mutex::new(Records::Coming(load)) }))
    }

    pub fn config(&self) -> Beside {
        Beside {
            brokers: self.kafka.brokers().to_owned(),
            topic: self.name.clone(),
            group: self.name.clone(),
            bucket: self.name.clone(),
        }
    }

    /// Ends its records, and waits until a running host has handled all of them.
    pub fn settle(&self, sink: &mut Sink) -> Result<()> {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        if let Records::Coming(load) = std::mem::replace(&mut *records, Records::Ending) {
            *records = Records::Produced(load.finish()?);
            sink.wait_caught_up(&self.kafka, &self.name, &[&self.name], CATCH_UP).context("of the second pipeline")?;
        }
        Ok(())
    }

    /// Ends its records without having them handled.
    pub fn end(self) -> Result<()> {
        match self.records.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Records::Coming(load) => load.finish().map(drop),
            Records::Ending | Records::Produced(_) => Ok(()),
        }
    }

    pub fn is_settled(&self) -> bool {
        !matches!(&*self.records.lock().unwrap_or_else(PoisonError::into_inner), Records::Coming(_))
    }

    pub async fn audit(&self, store: &Store) -> Result<()> {
        let ledger = match &*self.records.lock().unwrap_or_else(PoisonError::into_inner) {
            Records::Produced(records) => Ledger::of(records),
            Records::Coming(_) | Records::Ending => bail!("the second pipeline isn't settled"),
        };
        let diff = ledger.audit(&store.client()?, &self.name).await?;
        writeln!(std::io::stderr(), "{}: {diff}", self.name)?;
        figures::add("records_of_second_pipelines", diff.expected as f64)?;
        figures::add("missing", diff.missing.len() as f64)?;
        figures::add("twice", diff.twice.len() as f64)?;
        figures::add("wrong_bytes", diff.wrong_bytes.len() as f64)?;
        figures::add("audits_of_second_pipelines", 1.0)?;
        diff.exact().context("of the second pipeline")
    }
}
