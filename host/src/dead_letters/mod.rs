//! Dead letters: records that cannot be stored as they are, kept whole with the reason for a later look or a replay.

pub mod format;
pub mod replay;
pub mod topic;
