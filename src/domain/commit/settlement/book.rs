//! What is to be settled of one assigned partition.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{AssignmentId, Commit, Outbound};
use crate::domain::commit::partition_state::PartitionState;
use crate::domain::commit::round::Share;
use crate::domain::pipeline::Delivery;

/// How long to wait until it is worked out again whether a record has room beside the commit: that looks at all that is ahead.
pub(super) const BLOCKED_PAUSE: Duration = Duration::from_millis(100);

/// What is to be settled of one assigned partition.
#[derive(Debug)]
pub(super) struct Book<R> {
    pub partition: i32,
    pub state: Arc<PartitionState>,
    /// Records that are to be written, by offset.
    pub waiting: BTreeMap<i64, R>,
    /// Records of it are in the round that is under way.
    pub in_round: bool,
    /// How many of its records are written apart from those of others.
    pub aside: usize,
    /// There is no room beside the commit for any record that waits, as far as was known a moment ago.
    pub blocked_until: Option<Instant>,
    /// What Kafka has, as far as it is known: offset and metadata.
    pub committed: Option<(i64, String)>,
    /// When it has to be given up at the latest, if it is to be.
    pub release: Option<Instant>,
    /// Records were given up that wait to be written.
    pub has_given_up: bool,
}

impl<R: Outbound> Book<R> {
    pub fn new(partition: i32, state: Arc<PartitionState>) -> Self {
        Self {
            partition,
            state,
            waiting: BTreeMap::new(),
            in_round: false,
            aside: 0,
            blocked_until: None,
            committed: None,
            release: None,
            has_given_up: false,
        }
    }

    /// Whether there is something to write that may have room.
    pub fn wants_to_write(&self, now: Instant) -> bool {
        !self.waiting.is_empty() && self.blocked_until.is_none_or(|until| until <= now)
    }

    /// The lowest records that wait for these topics, as far as there is room for them: a number of records, and bytes. The first one
    /// always has room.
    pub fn next_to_write(
        &self,
        (records, mut bytes): (usize, usize),
        is_chosen: impl Fn(&Arc<str>) -> bool,
    ) -> Vec<i64> {
        let mut taken = vec![];
        for (&offset, record) in self.waiting.iter().filter(|(_, record)| is_chosen(record.topic())) {
            let size = record.bytes();
            if taken.len() >= records || (size > bytes && !taken.is_empty()) {
                break;
            }
            bytes = bytes.saturating_sub(size);
            taken.push(offset);
        }
        taken
    }

    pub fn commit(&self, assignment: AssignmentId, share: Share) -> Commit {
        Commit { assignment, partition: self.partition, offset: share.committed, metadata: share.metadata }
    }

    /// What may be committed, where Kafka does not have it.
    pub fn commit_due(&self, assignment: AssignmentId, delivery: Delivery) -> Option<Commit> {
        let share = self.state.share(&[], delivery)?;
        let known = self.committed.as_ref();
        let has_it = known.is_some_and(|(offset, text)| *offset == share.committed && *text == share.metadata);
        (!has_it).then(|| self.commit(assignment, share))
    }

    /// Whether there is nothing to write, and Kafka has what may be committed.
    pub fn is_settled(&self, assignment: AssignmentId, delivery: Delivery) -> bool {
        let is_open = self.in_round || self.aside > 0 || !self.waiting.is_empty();
        !is_open && self.commit_due(assignment, delivery).is_none()
    }
}
