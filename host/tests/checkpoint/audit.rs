//! The end of a schedule: the faults stop, and the records in the store are compared with those of the topic.

use reduct_sink::flow::Phase;
use reduct_sink::record::TopicId;

use super::{Key, Stored, World};

impl World {
    /// Ends the faults and lets the host catch up. Then each record that the topic holds must be in the store once.
    pub fn finish(mut self) -> Result<(), String> {
        self.has_finished = true;
        self.now += 100;
        self.late.clear();
        if self.host.is_none() {
            self.start();
        }
        for _ in 0..400 {
            self.look();
            self.take_again();
            for _ in 0..20 {
                self.receive();
                self.write();
            }
            self.commit();
            let end = self.topic.high;
            if self.committed.as_ref().is_some_and(|point| {
                let is_compared = point.metadata.compare_below.is_none_or(|below| below > end);
                point.offset == end && is_compared && point.metadata.late.is_none()
            }) && self.host.as_ref().is_some_and(|host| {
                host.queue.is_empty()
                    && host.state.position() == end
                    && host.state.phase() == Phase::Reading
                    && host.state.topic_id() == TopicId::from_halves(0, self.topic.id)
            }) {
                return self.audit();
            }
        }
        let (end, state) = (self.topic.high, self.host.as_ref().map(|host| &host.state));
        Err(format!("it never got to the end {end}: committed {:?}, {state:?}", self.committed))
    }

    fn audit(&self) -> Result<(), String> {
        let begun_at = self.begun_at.unwrap_or_default();
        for (offset, content) in self.topic.records.range(begun_at..) {
            let of_record = |(key, _): &(&Key, &Vec<Stored>)| key.1 == self.topic.id && key.2 == *offset;
            let found: Vec<&Stored> = self.store.iter().filter(of_record).flat_map(|(_, stored)| stored).collect();
            match found[..] {
                [] => return Err(format!("{offset} is missing")),
                [Stored { content: found, whole: true }] if found == content => {}
                [stored] => {
                    return Err(format!(
                        "{offset} is wrong: {} instead of {content}, whole: {}",
                        stored.content, stored.whole
                    ));
                }
                _ => return Err(format!("{offset} is there {} times", found.len())),
            }
        }
        Ok(())
    }
}
