//! The identity of an output record: which Kafka record it was made of.
//!
//! Guarantees: an output record has the same [`Identity`] each time its input is read. Identities from the store are
//! compared by [`Identity::matches`], which [`IdentityMap`] uses for its keys, too. Plain values, no I/O.

use std::collections::HashMap;
use std::fmt;

use smallvec::SmallVec;

use super::{TopicId, TopicPartition};

/// Which Kafka record an output record was made of, and which part of it, if the record was split.
///
/// `==` compares every field, so that a known topic id differs from an unknown one. A record that was written before
/// the topic's id was known has none: [`Self::matches`] recognises such a record, too.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// The partition that the record was read from.
    pub source: TopicPartition,
    /// The topic's id, which distinguishes a topic from one that was deleted and created again under the same name;
    /// `None`: the id was not known when the record was written.
    pub topic_id: Option<TopicId>,
    /// The record's offset.
    pub offset: u64,
    /// The output's position in a split, counted from 0; `None`: the record wasn't split.
    pub index: Option<u32>,
}

impl Identity {
    /// Whether both are the same output of the same Kafka record. Two known topic ids must be equal; an unknown id
    /// matches each id.
    pub fn matches(&self, other: &Self) -> bool {
        self.source == other.source
            && self.offset == other.offset
            && self.index == other.index
            && ids_match(self.topic_id, other.topic_id)
    }
}

fn ids_match(one: Option<TopicId>, other: Option<TopicId>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one == other,
        (None, _) | (_, None) => true,
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.source, self.offset)?;
        self.index.map_or(Ok(()), |index| write!(f, "#{index}"))
    }
}

/// An identity without the topic's id: partition, offset, and index in a split.
type OffsetKey = (TopicPartition, u64, Option<u32>);

/// The values of the identities that differ only in the topic's id.
type ByTopicId<V> = SmallVec<[(Option<TopicId>, V); 1]>;

/// A map whose keys are identities, compared by [`Identity::matches`]. A look-up prefers the key with the same topic
/// id.
#[derive(Debug, Clone)]
pub struct IdentityMap<V> {
    /// One offset has two values only if its topic was deleted and created again, and reached that offset again.
    by_offset: HashMap<OffsetKey, ByTopicId<V>>,
    len: usize,
}

impl<V> Default for IdentityMap<V> {
    fn default() -> Self {
        Self { by_offset: HashMap::new(), len: 0 }
    }
}

impl<V> IdentityMap<V> {
    /// The value of the identity that matches.
    pub fn get(&self, identity: &Identity) -> Option<&V> {
        let key = (identity.source.clone(), identity.offset, identity.index);
        let values = self.by_offset.get(&key)?;
        let exact = values.iter().find(|(id, _)| *id == identity.topic_id);
        exact.or_else(|| values.iter().find(|(id, _)| ids_match(*id, identity.topic_id))).map(|(_, value)| value)
    }

    /// Whether an identity that matches is in the map.
    pub fn contains(&self, identity: &Identity) -> bool {
        self.get(identity).is_some()
    }

    /// Sets the value of exactly this identity and returns its previous value.
    pub fn insert(&mut self, identity: Identity, value: V) -> Option<V> {
        let Identity { source, topic_id, offset, index } = identity;
        let values = self.by_offset.entry((source, offset, index)).or_default();
        match values.iter_mut().find(|(id, _)| *id == topic_id) {
            Some((_, known)) => Some(std::mem::replace(known, value)),
            None => {
                values.push((topic_id, value));
                self.len += 1;
                None
            }
        }
    }

    /// How many identities the map has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the map has no identity.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(topic_id: Option<u64>, offset: u64) -> Identity {
        let source = TopicPartition { topic: "t".into(), partition: 0 };
        let topic_id = topic_id.and_then(|id| TopicId::from_halves(0, id));
        Identity { source, topic_id, offset, index: None }
    }

    #[test]
    fn known_topic_ids_must_be_equal_and_an_unknown_one_matches_any() {
        let (old, new, unknown) = (identity(Some(1), 5), identity(Some(2), 5), identity(None, 5));
        assert!(!old.matches(&new) && old.matches(&old.clone()));
        assert!(unknown.matches(&old) && new.matches(&unknown));
        assert!(!unknown.matches(&identity(None, 6)));
        assert!(!unknown.matches(&Identity { index: Some(0), ..unknown.clone() }));
    }

    #[test]
    fn a_map_prefers_the_same_id_and_takes_an_unknown_one() {
        let mut map = IdentityMap::default();
        assert_eq!(map.insert(identity(Some(1), 5), "old"), None);
        assert!(map.contains(&identity(None, 5)) && !map.contains(&identity(Some(2), 5)));
        map.insert(identity(Some(2), 5), "new");
        assert_eq!((map.get(&identity(Some(1), 5)), map.get(&identity(Some(2), 5))), (Some(&"old"), Some(&"new")));
        map.insert(identity(None, 6), "unknown");
        assert_eq!((map.get(&identity(Some(9), 6)), map.len()), (Some(&"unknown"), 3));
        assert_eq!(map.insert(identity(Some(2), 5), "newer"), Some("new"));
        assert_eq!(map.len(), 3);
    }
}
