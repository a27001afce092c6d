//! `reduct-sink completions` and `reduct-sink man`: what a package installs beside the binary, generated from the commands.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, CommandError, ErrorCode, print};

const NAME: &str = "reduct-sink";

#[derive(Debug, Args)]
pub struct Completions {
    /// The shell to complete commands in
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

impl Completions {
    pub fn execute(self) -> Result<(), CommandError> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), NAME, &mut script);
        // clap_complete 4.6 takes the hyphen of the program's name for the space before a subcommand in one half of its script for
        // bash, which then completes nothing behind a subcommand.
        let script = String::from_utf8_lossy(&script).replace("reduct__subcmd__sink", "reduct__sink");
        print(script.trim_end());
        Ok(())
    }
}

#[derive(Debug, Args)]
pub struct Man {
    /// Folder for one page for each command; it must exist [default: the main page, on standard output]
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
}

impl Man {
    pub fn execute(self) -> Result<(), CommandError> {
        let written = match &self.output {
            Some(folder) => clap_mangen::generate_to(Cli::command(), folder)
                .with_context(|| format!("cannot write into {}", folder.display())),
            None => {
                let mut page = Vec::new();
                let rendered = clap_mangen::Man::new(Cli::command()).render(&mut page);
                print(String::from_utf8_lossy(&page).trim_end());
                rendered.context("the page cannot be rendered")
            }
        };
        written.map_err(|error| CommandError::new(ErrorCode::Output, error))
    }
}
