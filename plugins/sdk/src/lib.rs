//! Write plugins for reduct-sink in Rust: implement [`Transform`] for a type and name it in [`plugin!`].
//!
//! Guarantees: the configuration reaches the plugin as its own type, and an error in it names the key; a panic's text
//! reaches the host's log before the instance ends; what is written with the `log` crate reaches the host's log; and all
//! but the glue in [`guest`] builds and runs on any machine, so that a plugin is tested with plain `cargo test` (see
//! [`testing`]).
//!
//! ```
//! use reduct_sink_plugin::{Change, Failure, Record, Transform, Verdict, plugin};
//!
//! #[derive(serde::Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Config {
//!     camera: String,
//! }
//!
//! struct Tag(Config);
//!
//! impl Transform for Tag {
//!     type Config = Config;
//!
//!     fn configure(config: Config) -> Result<Self, String> {
//!         Ok(Self(config))
//!     }
//!
//!     fn transform(&mut self, record: &Record<'_>) -> Result<Verdict, Failure> {
//!         if record.header("type") == Some(b"heartbeat") {
//!             return Ok(Verdict::Drop);
//!         }
//!         Ok(Change::new().set_label("camera", &self.0.camera).into())
//!     }
//! }
//!
//! plugin!(Tag);
//! # fn main() {}
//! ```
//!
//! The contract itself, with what each field and function promises, is `wit/v0.1.0/transform.wit`.

mod change;
pub mod config;
pub mod guest;
mod record;
pub mod stored;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;

use serde::de::DeserializeOwned;

pub use bindings::reduct_sink::transform::types::{Change, Failure, Header, Label, LabelChange, Message, Verdict};
pub use log;
pub use record::{Host, Record};

/// A plugin: what it is made from and what it does with a record.
pub trait Transform: Sized {
    /// What `[plugins.config]` holds. Give it `#[serde(deny_unknown_fields)]`, so that a key misspelt is an error.
    type Config: DeserializeOwned;

    /// Called once an instance. An error is shown to the operator: name the key and say what would be right.
    fn configure(config: Self::Config) -> Result<Self, String>;

    /// Decides on one record. Decide from the record and the configuration alone: after a crash or a retry the same record
    /// may be handed over again, perhaps to another instance, and must then get the same answer.
    fn transform(&mut self, record: &Record<'_>) -> Result<Verdict, Failure>;
}

/// The contract in Rust, as wit-bindgen generates it.
#[doc(hidden)]
#[allow(clippy::all, clippy::restriction, clippy::pedantic, missing_docs)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../../wit/v0.1.0",
        world: "transform",
        additional_derives: [PartialEq, Eq],
        pub_export_macro: true,
        export_macro_name: "export_transformer",
        default_bindings_module: "::reduct_sink_plugin::bindings",
    });
}
