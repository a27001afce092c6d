//! The fields of a line of the log, and behind them the pipeline that it is about, where the process has several.

use std::fmt;

use reduct_sink::config::threads;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{DefaultFields, Writer};

pub struct PipelineFields;

impl<'a> FormatFields<'a> for PipelineFields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'a>, fields: R) -> fmt::Result {
        DefaultFields::new().format_fields(writer.by_ref(), fields)?;
        threads::pipeline().map_or(Ok(()), |pipeline| write!(writer, " pipeline={pipeline:?}"))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct LogWritten(Arc<Mutex<Vec<u8>>>);

    impl Write for LogWritten {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_names_the_pipeline_that_its_thread_belongs_to() {
        let lines = LogWritten::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .fmt_fields(PipelineFields)
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(n = 1, "outside");
            threads::within(Some("cameras".into()), || tracing::info!(n = 2, "inside"));
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let ends: Vec<bool> = text.lines().map(|line| line.ends_with("inside n=2 pipeline=\"cameras\"")).collect();
        assert_eq!(ends, [false, true], "{text}");
        assert!(text.contains("outside n=1\n"), "{text}");
    }
}
