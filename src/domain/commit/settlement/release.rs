//! How a partition is given up: what waits is written and committed first, as far as there is time for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::book::Book;
use super::{AssignmentId, Note, Outbound, Settlement, Step};

/// How long after the deadline of a release the last commit may take.
pub const COMMIT_GRACE: Duration = Duration::from_secs(1);

impl<R: Outbound> Settlement<R> {
    /// A partition is to be given up once everything on its way is written and committed, or at the deadline. Returns whether it
    /// is held at all.
    pub fn release(&mut self, assignment: AssignmentId, deadline: Instant, now: Instant) -> bool {
        let Some(book) = self.books.get_mut(&assignment) else { return false };
        book.release = Some(deadline);
        self.pause = None;
        self.aside.values_mut().for_each(|aside| aside.try_at(now));
        true
    }

    /// Gives up what this topic has refused of partitions that are given up: their next owner tries it again.
    pub(super) fn give_up_refused(&mut self, topic: &Arc<str>) {
        let Some(aside) = self.aside.get_mut(topic) else { return };
        for (&assignment, book) in self.books.iter_mut().filter(|(_, book)| book.release.is_some()) {
            let records = aside.remove_refused(assignment);
            if records > 0 {
                book.aside -= records;
                book.has_given_up = true;
                let why = "they are refused by their topic";
                self.notes.push(Note::GaveUp { partition: book.partition, records, why });
            }
        }
    }

    /// Gives up a partition that has nothing left to settle, or no time for it.
    pub(super) fn release_next(&mut self, now: Instant) -> Option<Step<R>> {
        for (&assignment, book) in &mut self.books {
            if book.release.is_none_or(|deadline| now < deadline) {
                continue;
            }
            let aside: usize = self.aside.values_mut().map(|aside| aside.remove_all(assignment)).sum();
            book.aside -= aside;
            let records = std::mem::take(&mut book.waiting).len() + aside;
            if records > 0 {
                book.has_given_up = true;
                self.notes.push(Note::GaveUp { partition: book.partition, records, why: "drain timeout" });
            }
        }
        let is_over = |(id, book): &(&AssignmentId, &Book<R>)| {
            book.release.is_some_and(|deadline| deadline + COMMIT_GRACE <= now || book.is_settled(**id, self.delivery))
        };
        let assignment = self.books.iter().find(is_over).map(|(id, _)| *id)?;
        let book = self.books.remove(&assignment)?;
        let is_committed = book.is_settled(assignment, self.delivery);
        let is_clean = is_committed && !book.has_given_up;
        Some(Step::Release { assignment, partition: book.partition, is_committed, is_clean })
    }
}
