//! What the plugins filter, relabel, route and fields share: fields of a record by name ([`Field`]), conditions on them
//! ([`Condition`], [`Filter`]) and text made of them ([`Template`], [`EntryTemplate`]).
//!
//! Guarantees: a mistake in the configuration is found when the configuration is read, and the message says what would
//! be right; nothing here reads a payload; labels are fetched from the host only for a field that is a label.
//!
//! A plugin that has more fields defines its own type for them, which implements [`FieldName`], and implements
//! [`Facts`] for that type.

mod condition;
mod entry;
mod field;
mod filter;
mod pattern;
mod template;

pub use condition::Condition;
pub use entry::{EntryTemplate, Illegal};
pub use field::{Facts, Field, FieldName, check_label_name};
pub use filter::Filter;
pub use pattern::{Glob, Pattern};
pub use template::{Part, Template};
