//! What the configured plugins share: fields of a record by name ([`Field`]), conditions on them ([`Condition`]) and text
//! made from them ([`Template`]).
//!
//! Guarantees: whatever is wrong in the configuration is found when it is read, with a message that says what would be
//! right; nothing here reads a payload; labels are fetched from the host only for a field that is a label.

mod condition;
mod field;
mod pattern;
mod template;

pub use condition::Condition;
pub use field::{Facts, Field, check_label_name};
pub use pattern::{Glob, Pattern};
pub use template::{Part, Template};
