//! `reduct-sink plugin new`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use reduct_sink::devkit::project::Language;
use reduct_sink::devkit::scaffold::create;

use super::{CommandError, Exit, is_json, print};

#[derive(Debug, Args)]
pub struct New {
    /// The language to write it in
    #[arg(long, value_name = "LANGUAGE", value_parser = languages())]
    lang: Language,
    /// The new folder; its last part is the plugin's name
    #[arg(value_name = "NAME|DIR")]
    folder: PathBuf,
}

impl New {
    pub fn execute(self) -> Result<(), CommandError> {
        let name = self.folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let files = create(&self.folder, &name, self.lang).map_err(|error| CommandError::new(Exit::Usage, error))?;
        if is_json() {
            let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
            print(serde_json::json!({ "folder": self.folder.display().to_string(), "files": files }));
            return Ok(());
        }
        files.iter().for_each(|file| print(file.display()));
        let folder = self.folder.display();
        print(format_args!("\nnext, as {folder}/README.md has it:\n  cd {folder}"));
        print("  reduct-sink plugin build\n  reduct-sink plugin test");
        Ok(())
    }
}

fn languages() -> impl TypedValueParser<Value = Language> {
    PossibleValuesParser::new(Language::ALL.map(Language::name))
        .try_map(|name| Language::ALL.into_iter().find(|language| language.name() == name).ok_or("no such language"))
}
