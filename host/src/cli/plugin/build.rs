//! `reduct-sink plugin build`.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use reduct_sink::devkit::build::build;
use reduct_sink::devkit::project::Project;

use super::{CommandError, Exit, print};

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
        let built = build(&project, &mut |command| {
            let _ = writeln!(std::io::stderr(), "{command}");
        });
        let component = built.map_err(CommandError::of)?;
        print(component.display());
        Ok(())
    }
}
