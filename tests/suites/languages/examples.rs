//! The three transforms of `examples/README.md`: the same answers in every language, by the fixtures that the examples
//! share.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reduct_sink::chain::SharedChain;
use reduct_sink_testbed::sink::run_to_end;

use super::guests::{component, plugin, runtime};

/// How long all fixtures of a language may take. Compiling Python's component takes seconds.
const BOUND: Duration = Duration::from_secs(300);
/// How many cases the three files of `examples/fixtures` have.
const CASES: usize = 30;
const LANGUAGES: [&str; 8] = ["c", "cpp", "go", "javascript", "python", "rust", "typescript", "zig"];

#[test]
fn the_examples_answer_alike_in_every_language() -> Result<()> {
    let mut problems = Vec::new();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/fixtures").display().to_string();
    for language in LANGUAGES {
        let file = component("example", language);
        let path = file.to_str().context("a path that is UTF-8")?;
        let args = ["plugin", "test", "--plugin", path, "--fixtures", &fixtures, "--timeout", "10s"];
        let ended = run_to_end(&args, &[], BOUND)?;
        let said = String::from_utf8_lossy(&ended.stdout);
        if !ended.status.success() || !said.contains(&format!("{CASES} passed, 0 failed")) {
            let lines = said.lines().filter(|line| !line.starts_with("ok ") && !line.contains("stored in"));
            problems.push(format!("{language}:\n{}", lines.collect::<Vec<_>>().join("\n")));
        }
        let unknown = plugin("unknown", &file, r#"{"transform": "dance"}"#);
        let error = SharedChain::load(runtime(), &[unknown]).err().map(|error| error.to_string());
        if !error.as_ref().is_some_and(|error| error.contains("drop") && error.contains("split")) {
            problems.push(format!("{language}: an unknown transform is answered with {error:?}"));
        }
    }
    ensure!(problems.is_empty(), "{}", problems.join("\n"));
    Ok(())
}

/// A folder of examples is one as `plugin new` makes it, and the fixtures are the same for all.
#[test]
fn each_example_is_a_plugin_folder() -> Result<()> {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    for language in LANGUAGES {
        let folder = examples.join(language);
        let project = reduct_sink::devkit::project::Project::open(&folder)?;
        ensure!(project.language.name() == language, "{} says {}", folder.display(), project.language);
        ensure!(
            project.fixtures().canonicalize()? == examples.join("fixtures").canonicalize()?,
            "{} has fixtures of its own",
            folder.display()
        );
        ensure!(!folder.join("build").is_file(), "{} has a build of its own", folder.display());
    }
    Ok(())
}
