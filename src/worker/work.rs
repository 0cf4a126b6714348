//! What passes from room to room.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::domain::commit::partition_state::PartitionState;
use crate::domain::commit::settlement::AssignmentId;
use crate::domain::flow::load::Charge;
use crate::domain::record::Record;
use crate::domain::record::dead_letter::Reason;
use crate::domain::record::failure::Failure;
use crate::domain::record::provenance::Provenance;
use crate::domain::time::Timestamp;

/// A record on its way through the rooms.
#[derive(Debug)]
pub(super) struct Work {
    pub record: Record,
    /// Its past before the next attempt.
    pub past: Provenance,
    /// The memory that it takes, until this is dropped; `None` while it waits to become due.
    pub charge: Option<Charge>,
}

/// What the settle loop is told.
pub(super) enum ToSettle {
    /// A partition is read from now on.
    Assigned { assignment: AssignmentId, partition: i32, state: Arc<PartitionState> },
    /// Records of it are done, or go on to another topic.
    Settled { assignment: AssignmentId, finished: Vec<i64>, routes: Vec<Route> },
    /// It is to be given up once everything on its way is written and committed, or at the deadline. The answer is whether
    /// that was in time.
    Release { assignment: AssignmentId, deadline: Instant, reply: oneshot::Sender<bool> },
    /// It is somebody else's, or its log is another one: what is on its way is to be forgotten.
    Lost { assignment: AssignmentId },
}

/// A record that failed, and where it goes.
#[derive(Debug)]
pub(super) struct Route {
    /// The record; its past includes the failure.
    pub work: Work,
    pub failure: Failure,
    pub failed_at: Timestamp,
    pub to: Destination,
    /// Where it goes when it is given up.
    pub dead_letter_topic: Arc<str>,
}

/// Where a failed record goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Destination {
    Retry { due: Timestamp, max_attempts: u32 },
    DeadLetter { reason: Reason },
}
