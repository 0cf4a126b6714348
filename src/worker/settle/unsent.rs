//! A record that is to be written to another topic.

use std::sync::Arc;

use tracing::warn;

use crate::domain::commit::settlement::Outbound;
use crate::domain::record::Outgoing;
use crate::domain::record::dead_letter::Reason;
use crate::domain::record::envelope::{Extent, FailedRecord, Scribe};
use crate::domain::record::failure::{Failure, FailureKind};
use crate::worker::work::{Destination, Route};

/// Composes the records that are written, out of what failed.
pub struct Composer {
    pub scribe: Scribe,
    pub retry_topic: Arc<str>,
}

/// A record that is to be written, composed anew each time that it is tried.
#[derive(Debug)]
pub struct Unsent {
    pub route: Box<Route>,
    /// Where it goes.
    topic: Arc<str>,
    /// How much of it is written.
    extent: Extent,
    /// It was found too large in a request of its own.
    has_to_shrink: bool,
}

impl Outbound for Unsent {
    fn offset(&self) -> i64 {
        self.route.work.record.offset
    }

    fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    fn bytes(&self) -> usize {
        self.route.work.record.footprint()
    }
}

impl Composer {
    pub fn unsent(&self, route: Route) -> Unsent {
        let topic = self.topic(&route);
        Unsent { route: Box::new(route), topic, extent: Extent::Whole, has_to_shrink: false }
    }

    /// Where a record goes.
    fn topic(&self, route: &Route) -> Arc<str> {
        match route.to {
            Destination::Retry { .. } => self.retry_topic.clone(),
            Destination::DeadLetter { .. } => route.dead_letter_topic.clone(),
        }
    }

    /// The record as it is written.
    pub fn outgoing(&self, unsent: &Unsent) -> Outgoing {
        let Route { work, failure, failed_at, to, dead_letter_topic } = &*unsent.route;
        let failed = FailedRecord { record: &work.record, provenance: &work.past, failure, failed_at: *failed_at };
        match to {
            Destination::Retry { due, .. } => self.scribe.retry(failed, *due, &self.retry_topic),
            Destination::DeadLetter { reason } => {
                self.scribe.dead_letter(failed, *reason, dead_letter_topic, unsent.extent)
            }
        }
    }

    /// Has a record that was found too large ask for less. A broker refuses a request as if each record in it were too large, so
    /// that one that was not alone is as it was until it is refused again.
    pub fn refused_as_too_large(&self, unsent: &mut Unsent, was_alone: bool) {
        if std::mem::replace(&mut unsent.has_to_shrink, true) || was_alone {
            shrink(&mut unsent.route, &mut unsent.extent);
            unsent.topic = self.topic(&unsent.route);
        }
    }
}

/// Makes a route ask for less. A retry record is all or nothing: one that does not fit becomes a dead letter. A dead letter
/// that has nothing left to omit stays as it is.
fn shrink(route: &mut Route, extent: &mut Extent) {
    if let Destination::DeadLetter { .. } = &route.to {
        if let Some(smaller) = extent.smaller() {
            *extent = smaller;
        } else {
            let (partition, offset) = (route.work.record.partition, route.work.record.offset);
            warn!(partition, offset, "not even what is known of the record fits into a dead letter");
        }
        return;
    }
    let error = format!("RecordTooLargeException: no room for retry headers; it failed with {}", route.failure.message);
    let stack_trace = route.failure.stack_trace.take();
    route.failure = Failure { stack_trace, ..Failure::from_text(FailureKind::Permanent, &error) };
    route.to = Destination::DeadLetter { reason: Reason::Permanent };
}
