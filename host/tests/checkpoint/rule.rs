//! Wrong rules: each of them loses records, or writes them twice, in some schedule.

/// A wrong rule that reduct-sink once followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// When the topic was created again, the reader went to its begin, but the partition kept its state.
    StateOutlivesTheTopic,
    /// A re-read of another partition let this one begin at its committed offset again, but the partition kept its
    /// state.
    OthersRereadMovesTheReader,
    /// A reader of an assignment that had ended polled the records of the next one.
    OldReaderPolls,
    /// Nothing was committed before the first record.
    NoPositionAtFirst,
    /// An entry's name depended on how many partitions the topic has at the moment.
    NamedByTheCount,
    /// The note that a re-read is due was dropped before the re-read had begun.
    RereadForgotten,
    /// A commit that only checks the membership sent the reader's position, although records before it were not
    /// acknowledged.
    MembershipCommitsThePosition,
    /// A host began to read although the store hadn't said yet when it was started.
    StartUnknown,
    /// A host that took over at once from a killed one didn't expect late requests of that one.
    LateRequestsUnexpected,
    /// A host didn't go back to what earlier owners had written to entries that get few records.
    EarlierOwnersForgotten,
}

impl Rule {
    pub const ALL: [Self; 10] = [
        Self::StateOutlivesTheTopic,
        Self::OthersRereadMovesTheReader,
        Self::OldReaderPolls,
        Self::NoPositionAtFirst,
        Self::NamedByTheCount,
        Self::RereadForgotten,
        Self::MembershipCommitsThePosition,
        Self::StartUnknown,
        Self::LateRequestsUnexpected,
        Self::EarlierOwnersForgotten,
    ];
}
