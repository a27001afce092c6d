//! `plugin test --junit`: writes test results in the XML of JUnit, which CI systems read.

use std::fmt::Write;

use super::testing::{CaseReport, TestResult};

/// The reports as one suite of that name. Control characters that XML can't hold are replaced.
pub fn xml(suite: &str, reports: &[CaseReport]) -> String {
    let failed = reports.iter().filter(|report| report.result != TestResult::Passed).count();
    let seconds: f64 = reports.iter().map(|report| report.took.as_secs_f64()).sum();
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n");
    let (suite, tests) = (escaped(suite), reports.len());
    let _ = writeln!(
        xml,
        "  <testsuite name=\"{suite}\" tests=\"{tests}\" failures=\"{failed}\" errors=\"0\" time=\"{seconds:.6}\">"
    );
    for report in reports {
        let (name, seconds) = (escaped(&report.name), report.took.as_secs_f64());
        let case = format!("    <testcase classname=\"{suite}\" name=\"{name}\" time=\"{seconds:.6}\"");
        let (message, text) = match &report.result {
            TestResult::Passed => {
                let _ = writeln!(xml, "{case}/>");
                continue;
            }
            TestResult::Differs(diff) => ("the answer isn't the expected one", diff),
            TestResult::Unexpected(answer) => ("nothing is expected yet", answer),
            TestResult::Broken(reason) => ("the plugin couldn't be asked", reason),
        };
        let text = escaped(text);
        let _ = writeln!(xml, "{case}>\n      <failure message=\"{message}\">{text}</failure>\n    </testcase>");
    }
    xml += "  </testsuite>\n</testsuites>\n";
    xml
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\n' | '\t' => escaped.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn results_are_told_as_xml() {
        let report = |name: &str, result| CaseReport {
            name: name.into(),
            result,
            took: Duration::from_millis(5),
            answer: None,
            stored: Vec::new(),
        };
        let reports = [report("a", TestResult::Passed), report("<b>", TestResult::Differs("-\"x\" & \u{1}\n".into()))];
        let expected = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n  <testsuite name=\"p\" tests=\"2\" \
            failures=\"1\" errors=\"0\" time=\"0.010000\">\n    <testcase classname=\"p\" name=\"a\" \
            time=\"0.005000\"/>\n    <testcase classname=\"p\" name=\"&lt;b&gt;\" time=\"0.005000\">\n      <failure \
            message=\"the answer isn't the expected one\">-&quot;x&quot; &amp; \u{fffd}\n</failure>\n    \
            </testcase>\n  </testsuite>\n</testsuites>\n";
        assert_eq!(xml("p", &reports), expected);
    }
}
