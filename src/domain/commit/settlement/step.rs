//! What is settled, what is to be done for it, and what came of it.

use std::sync::Arc;

/// One assignment of one partition. A partition that is revoked and comes back is another assignment, so that nothing
/// left over from the first can touch the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AssignmentId(pub u64);

/// A record that is to be written to another topic.
pub trait Outbound {
    /// Where it was read.
    fn offset(&self) -> i64;
    /// The topic that it goes to.
    fn topic(&self) -> &Arc<str>;
    /// The memory that it takes.
    fn bytes(&self) -> usize;
}

/// What is committed for a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The assignment.
    pub assignment: AssignmentId,
    /// Its partition.
    pub partition: i32,
    /// Every record below this offset is finished.
    pub offset: i64,
    /// What is finished above it, see [`crate::domain::commit::commit_metadata`].
    pub metadata: String,
}

/// A record that could not be written, and why, if that has to do with it or its topic.
#[derive(Debug)]
pub struct Unwritten<R> {
    /// The record. It goes to another topic, or takes less, where it was too large.
    pub record: R,
    /// Why.
    pub refusal: Option<Refusal>,
}

/// What comes of writing one record.
pub type Written<R> = Result<R, Unwritten<R>>;

/// What is to be done next. Each is answered by one call, once it is done.
#[derive(Debug)]
pub enum Step<R> {
    /// Commit. Answered by [`super::Settlement::end_commit`].
    Commit(Vec<Commit>),
    /// Write records, with [`crate::domain::pipeline::Delivery::ExactlyOnce`] in one transaction with these commits. Answered by
    /// [`super::Settlement::end_write`]: one whose abort takes long is left to itself, so that the next round does not wait for it.
    Write(Vec<R>, Vec<Commit>),
    /// Write records of one topic with the second producer. With [`crate::domain::pipeline::Delivery::ExactlyOnce`] its transaction stays open if all are
    /// written, else it is aborted. Answered by [`super::Settlement::end_delivery`].
    Deliver(Vec<R>, Choice),
    /// Commit in the transaction that is open, and end it. Answered by [`super::Settlement::end_delivered`].
    CommitDelivered(Vec<Commit>),
    /// Abort the transaction that is open. Nothing is to be answered.
    AbortDelivered,
    /// Let go of an assignment. Nothing is to be answered.
    Release {
        /// The assignment.
        assignment: AssignmentId,
        /// Its partition.
        partition: i32,
        /// Whether Kafka has all that may be committed.
        is_committed: bool,
        /// Whether, besides, nothing was given up.
        is_clean: bool,
    },
}

/// What is worth telling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// Records that failed could not be written before their partition was given up: its next owner processes them again.
    GaveUp {
        /// The partition.
        partition: i32,
        /// How many.
        records: usize,
        /// Why.
        why: &'static str,
    },
    /// Records that go to this topic are tried apart from the others from now on.
    SetApart(Arc<str>),
    /// And no longer.
    TakenBack(Arc<str>),
}

/// Why Kafka does not take a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is too large, or the request that it was in.
    TooLarge,
    /// Its partition could not be reached in time.
    Away,
    /// Kafka says no.
    Refused,
}

/// Which records of a topic are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Choice {
    /// Those that were not refused yet, all at once.
    Fresh,
    /// Those that were, one after the other until one is refused.
    Again,
}
