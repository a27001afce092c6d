//! `reduct-sink plugin build`.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use reduct_sink::devkit::build::build;
use reduct_sink::devkit::project::Project;
use serde_json::json;

use super::{CommandError, Exit, Progress, tell_done};

#[derive(Debug, Args)]
pub struct Build {
    /// The plugin's folder, as `plugin new` makes it [default: the present one]
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

impl Build {
    pub fn execute(self) -> Result<(), CommandError> {
        let folder = self.folder.as_deref().unwrap_or(Path::new("."));
        let project = Project::open(folder).map_err(|error| CommandError::new(Exit::Usage, error))?;
        let progress = Progress::start_beside_output("building");
        let built = build(&project, &mut |command| {
            let _ = writeln!(std::io::stderr(), "{command}");
            progress.now(format!("running {command}"));
        });
        drop(progress);
        let component = built.map_err(CommandError::of)?;
        let component = component.display();
        tell_done(format_args!("{component}"), &json!({ "component": component.to_string() }));
        Ok(())
    }
}
