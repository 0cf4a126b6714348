//! What a stage settles next: which failed records are written, which offsets are committed, what is given up.
//!
//! This decides, and does nothing itself: it is told what has happened and what time it is, and says the next [`Step`].
//!
//! Rounds come one after the other, so that no commit overtakes another. A round commits what was processed, or writes what
//! has gathered and commits the partitions that it comes from. A commit that is due comes first: it takes little, and might
//! wait for ever where something is always to be written. What a topic has refused is tried beside the rounds, with a
//! transaction of its own, topic by topic and less and less often; only the commit of what it takes has its turn among the
//! rounds. What is to be given up goes first.

mod aside;
mod book;
mod release;
mod step;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use release::COMMIT_GRACE;
pub use step::{AssignmentId, Choice, Commit, Note, Outbound, Refusal, Step, Unwritten, Written};

use super::partition_state::PartitionState;
use crate::domain::pipeline::Delivery;
use aside::{Aside, Tried, take_where};
use book::{BLOCKED_PAUSE, Book};

/// The time between two commits of what was processed. It bounds how much is processed again after a crash.
const COMMIT_INTERVAL: Duration = Duration::from_millis(500);

/// The most records of a round, and the most memory that they may take: they are copied into the client's.
const ROUND_RECORDS: usize = 10_000;
const ROUND_BYTES: usize = 16 << 20;

/// How long to wait after a round that failed; twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The round that is under way.
#[derive(Debug)]
enum Round {
    None,
    /// The first producer is made.
    Prepare,
    Commit(Vec<Commit>),
    Write(Vec<AssignmentId>, Vec<Commit>),
    CommitDelivered(Vec<Commit>),
}

/// What the second producer does.
#[derive(Debug)]
enum Second<R> {
    Nothing,
    /// It writes records of this topic.
    Writes(Arc<str>, Choice, Vec<Tried>),
    /// It has written them, and their commit waits for its turn, or is under way.
    HasWritten(Arc<str>, Choice, Vec<(Tried, R)>),
    /// It is made ready.
    Prepares,
}

/// What is to be settled of a stage.
#[derive(Debug)]
pub struct Settlement<R> {
    delivery: Delivery,
    books: BTreeMap<AssignmentId, Book<R>>,
    /// Topics that have refused records.
    aside: BTreeMap<Arc<str>, Aside<R>>,
    round: Round,
    second: Second<R>,
    commit_at: Instant,
    /// After a round that failed: when the next one may start, and how long the pause was.
    pause: Option<(Instant, Duration)>,
    /// Whose records were the last ones of a round: the next round begins behind it.
    served: Option<AssignmentId>,
    /// Topics that took records in a round that failed because of another topic. The next round has theirs alone, or the same
    /// records might be undone again for the sake of a third one.
    proven: BTreeSet<Arc<str>>,
    notes: Vec<Note>,
}

impl<R: Outbound> Settlement<R> {
    /// Nothing is to be settled yet, and the producers are made ready.
    pub fn new(delivery: Delivery, now: Instant) -> Self {
        Self {
            delivery,
            books: BTreeMap::new(),
            aside: BTreeMap::new(),
            round: Round::Prepare,
            second: Second::Prepares,
            commit_at: now + COMMIT_INTERVAL,
            pause: None,
            served: None,
            proven: BTreeSet::new(),
            notes: vec![],
        }
    }

    /// What is worth telling since this was last asked.
    pub fn notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    /// A partition is read from now on.
    pub fn assign(&mut self, assignment: AssignmentId, partition: i32, state: Arc<PartitionState>) {
        self.books.insert(assignment, Book::new(partition, state));
    }

    /// Records of a partition are done, or go on to another topic.
    pub fn settle(&mut self, assignment: AssignmentId, finished: Vec<i64>, outbound: Vec<R>) {
        let Some(book) = self.books.get_mut(&assignment) else { return };
        if !finished.is_empty() {
            let mut offsets = book.state.offsets();
            for offset in finished {
                offsets.finish(offset);
            }
        }
        outbound.into_iter().for_each(|record| self.add(assignment, record));
    }

    /// A partition is somebody else's, or its log is another one: what is on its way is to be forgotten.
    pub fn lose(&mut self, assignment: AssignmentId) {
        self.books.remove(&assignment);
        for aside in self.aside.values_mut() {
            aside.remove_all(assignment);
        }
    }

    /// What is to be done next; `None` until something happens, or until [`wake`](Self::wake).
    pub fn next(&mut self, now: Instant) -> Option<Step<R>> {
        if let Some(release) = self.release_next(now) {
            return Some(release);
        }
        self.take_back(now);
        self.next_round(now).or_else(|| self.next_delivery(now))
    }

    /// When there is reason to ask for the [`next`](Self::next) step, if nothing happens before.
    pub fn wake(&self, now: Instant) -> Option<Instant> {
        let releases = self.books.values().filter_map(|book| book.release);
        let deadlines = releases.flat_map(|deadline| [deadline, deadline + COMMIT_GRACE]);
        let blocked = self.books.values().filter(|book| !book.waiting.is_empty()).filter_map(|book| book.blocked_until);
        let pauses = self.pause.map(|(until, _)| until).into_iter().chain(blocked).chain([self.commit_at]);
        let pauses = pauses.filter(|_| matches!(self.round, Round::None));
        let tries = self.aside.values().flat_map(|aside| aside.tries(|_| true)).map(|(at, _)| at);
        let tries = tries.filter(|_| matches!(self.second, Second::Nothing));
        // What is over is no reason to wake: what waits for something else then waits for what happens.
        deadlines.chain(pauses).chain(tries).filter(|at| *at > now).min()
    }

    fn next_round(&mut self, now: Instant) -> Option<Step<R>> {
        if !matches!(self.round, Round::None) {
            return None;
        }
        if self.commit_at <= now {
            self.commit_at = now + COMMIT_INTERVAL;
            if let Some(commit) = self.commit(|_| true) {
                return Some(commit);
            }
        }
        if self.pause.is_some_and(|(until, _)| now < until) {
            return None;
        }
        let proven = std::mem::take(&mut self.proven);
        let written = self.commit_delivered(now).or_else(|| {
            // Without topics that are proven, all others have their turn.
            let write_proven = (!proven.is_empty()).then(|| self.write(now, Some(&proven))).flatten();
            write_proven.or_else(|| self.write(now, None))
        });
        // What is given up does not wait until a commit is due.
        written.or_else(|| self.commit(|book| book.release.is_some()))
    }

    /// Commits what was processed, where Kafka does not have it.
    fn commit(&mut self, is_chosen: impl Fn(&Book<R>) -> bool) -> Option<Step<R>> {
        let delivery = self.delivery;
        let books = self.books.iter().filter(|(_, book)| is_chosen(book));
        let commits: Vec<_> = books.filter_map(|(id, book)| book.commit_due(*id, delivery)).collect();
        if commits.is_empty() {
            return None;
        }
        self.round = Round::Commit(commits.clone());
        Some(Step::Commit(commits))
    }

    /// Writes what waits for topics that take records, or for those that are proven to. Each partition has a share of the round.
    fn write(&mut self, now: Instant, proven: Option<&BTreeSet<Arc<str>>>) -> Option<Step<R>> {
        let wants = |book: &Book<R>| book.wants_to_write(now);
        let mut wanting: Vec<_> = self.books.iter().filter(|(_, book)| wants(book)).map(|(id, _)| *id).collect();
        let behind = wanting.partition_point(|id| self.served.is_some_and(|served| *id <= served));
        wanting.rotate_left(behind);
        wanting.sort_by_key(|id| self.books.get(id).is_none_or(|book| book.release.is_none()));
        let room = (ROUND_RECORDS.div_ceil(wanting.len().max(1)), ROUND_BYTES / wanting.len().max(1));
        let (mut records, mut commits, mut bytes, mut assignments) = (vec![], vec![], 0, vec![]);
        for assignment in wanting {
            let Some(book) = self.books.get_mut(&assignment) else { continue };
            let offsets = book.next_to_write(room, |topic| proven.is_none_or(|proven| proven.contains(topic)));
            if offsets.is_empty() {
                continue;
            }
            let Some(share) = book.state.share(&offsets, self.delivery).filter(|share| share.routed > 0) else {
                if proven.is_none() {
                    self.has_no_room(assignment, now);
                }
                continue;
            };
            for offset in &offsets[..share.routed] {
                let record = book.waiting.remove(offset).into_iter();
                records.extend(record.inspect(|record| bytes += record.bytes()));
                assignments.push(assignment);
            }
            book.in_round = true;
            commits.push(book.commit(assignment, share));
            self.served = Some(assignment);
            if records.len() >= ROUND_RECORDS || bytes >= ROUND_BYTES {
                break;
            }
        }
        if records.is_empty() {
            return None;
        }
        self.round = Round::Write(assignments, commits.clone());
        Some(Step::Write(records, commits))
    }

    /// Takes note that nothing that waits of a partition has room beside the commit. It is tried again in a moment. One that is
    /// given up has nothing in flight that could make room, unless a topic is still to take what it has refused.
    fn has_no_room(&mut self, assignment: AssignmentId, now: Instant) {
        let Some(book) = self.books.get_mut(&assignment) else { return };
        if book.release.is_some() && book.aside == 0 {
            let records = std::mem::take(&mut book.waiting).len();
            book.has_given_up = true;
            self.notes.push(Note::GaveUp { partition: book.partition, records, why: "no room beside the commit" });
        } else {
            book.blocked_until = Some(now + BLOCKED_PAUSE);
        }
    }

    /// Tries a topic that has refused records, with the second producer. What is given up comes first.
    fn next_delivery(&mut self, now: Instant) -> Option<Step<R>> {
        if !matches!(self.second, Second::Nothing) || self.aside.is_empty() {
            return None;
        }
        let released = self.books.iter().filter(|(_, book)| book.release.is_some()).map(|(id, _)| *id);
        let released: BTreeSet<_> = released.collect();
        let of_released = (!released.is_empty()).then(|| self.deliver(now, Some(&released))).flatten();
        of_released.or_else(|| self.deliver(now, None))
    }

    /// Tries a topic that has refused records, those of these partitions or all.
    fn deliver(&mut self, now: Instant, of: Option<&BTreeSet<AssignmentId>>) -> Option<Step<R>> {
        let is_chosen = |assignment| of.is_none_or(|of| of.contains(&assignment));
        let tries = |(topic, aside): (&Arc<str>, &Aside<R>)| {
            aside.tries(is_chosen).map(|(at, choice)| (at, choice, topic.clone())).collect::<Vec<_>>()
        };
        let mut tries: Vec<_> = self.aside.iter().flat_map(tries).filter(|(at, ..)| *at <= now).collect();
        tries.sort();
        for (_, choice, topic) in tries {
            let aside = self.aside.get_mut(&topic)?;
            let candidates = aside.candidates(choice, (ROUND_RECORDS, ROUND_BYTES), is_chosen, R::bytes);
            let tried = with_room(candidates, &self.books, self.delivery);
            if !tried.is_empty() {
                let records: Vec<_> = tried.iter().filter_map(|tried| aside.take(tried)).collect();
                self.second = Second::Writes(topic, choice, tried);
                return Some(Step::Deliver(records, choice));
            }
            // Of others there may be some that have room.
            if of.is_none() {
                aside.postpone(choice, now + BLOCKED_PAUSE);
            }
        }
        None
    }

    /// Commits what a topic has taken after all.
    fn commit_delivered(&mut self, now: Instant) -> Option<Step<R>> {
        let Second::HasWritten(_, _, written) = &self.second else { return None };
        let tried: Vec<_> = written.iter().map(|(tried, _)| *tried).collect();
        let mut commits = vec![];
        for (assignment, offsets) in by_assignment(&tried) {
            // Of a partition that is somebody else's nothing may be committed, and so nothing of the transaction.
            let book = self.books.get(&assignment);
            let share = book.and_then(|book| book.state.share(&offsets, self.delivery));
            match (book, share) {
                (Some(book), Some(share)) if share.routed == offsets.len() => {
                    commits.push(book.commit(assignment, share))
                }
                _ => {
                    self.put_back_delivered(now);
                    return Some(Step::AbortDelivered);
                }
            }
        }
        self.round = Round::CommitDelivered(commits.clone());
        Some(Step::CommitDelivered(commits))
    }

    /// Takes note that the first producer is ready.
    pub fn begin_rounds(&mut self) {
        self.round = Round::None;
    }

    /// Takes note that the second producer is ready.
    pub fn begin_deliveries(&mut self) {
        self.second = Second::Nothing;
    }

    /// Takes note of how a commit has ended.
    pub fn end_commit(&mut self, is_committed: bool, now: Instant) {
        let Round::Commit(commits) = std::mem::replace(&mut self.round, Round::None) else { return };
        if is_committed {
            // What is written may still have reason to wait.
            self.note_committed(commits);
        } else {
            // It may have come about all the same.
            self.forget_committed(&commits);
            self.end_round(true, now);
        }
    }

    /// Takes note of what was written, in the order in which it was to be; with exactly-once delivery that is all or nothing.
    /// Returns what was written.
    pub fn end_write(&mut self, written: Vec<Written<R>>, now: Instant) -> Vec<R> {
        let Round::Write(assignments, commits) = std::mem::replace(&mut self.round, Round::None) else { return vec![] };
        self.leave_round(&commits);
        let (mut done, mut failed, mut refused, mut proven) = (vec![], vec![], false, BTreeSet::new());
        for (assignment, written) in assignments.into_iter().zip(written) {
            match written {
                Ok(record) => {
                    self.route(assignment, &record);
                    done.push(record);
                }
                Err(Unwritten { record, refusal }) => {
                    refused |= refusal.is_some();
                    if refusal.is_none() && !proven.contains(record.topic()) {
                        proven.insert(record.topic().clone());
                    }
                    let tried = Tried { assignment, offset: record.offset(), order: 0, why: None };
                    failed.push((tried, record, refusal));
                }
            }
        }
        match self.delivery {
            Delivery::ExactlyOnce if failed.is_empty() => self.note_committed(commits),
            Delivery::ExactlyOnce => self.forget_committed(&commits),
            Delivery::AtLeastOnce => {}
        }
        if refused {
            self.proven = proven;
        }
        // The others go on at once where it is known whose fault it was.
        self.end_round(!failed.is_empty() && !refused, now);
        self.put_back(failed, None, now);
        done
    }

    /// Takes note of what the second producer has written. Returns what is written for good: with exactly-once delivery that
    /// is nothing, before it is committed.
    pub fn end_delivery(&mut self, written: Vec<Written<R>>, now: Instant) -> Vec<R> {
        let Second::Writes(topic, choice, tried) = std::mem::replace(&mut self.second, Second::Nothing) else {
            return vec![];
        };
        let (mut done, mut failed) = (vec![], vec![]);
        for (tried, written) in tried.into_iter().zip(written) {
            match written {
                Ok(record) => done.push((tried, record)),
                Err(Unwritten { record, refusal }) => failed.push((tried, record, refusal)),
            }
        }
        let is_whole = failed.is_empty();
        if !is_whole && failed.iter().all(|(_, _, refusal)| refusal.is_none()) {
            // It says nothing about the topic: a coordinator is away, for instance.
            self.aside.entry(topic.clone()).and_modify(|aside| aside.postpone(choice, now + LONGEST_PAUSE));
        }
        if self.delivery == Delivery::ExactlyOnce {
            if is_whole {
                self.second = Second::HasWritten(topic, choice, done);
                return vec![];
            }
            failed.extend(done.drain(..).map(|(tried, record)| (tried, record, None)));
        } else if is_whole {
            self.aside.entry(topic).and_modify(|aside| aside.note_success(choice, now));
        }
        self.leave_aside(&failed, |(tried, ..)| tried.assignment);
        self.put_back(failed, Some(choice), now);
        self.finish_aside(done)
    }

    /// Takes note of how the commit of what the second producer has written has ended. Returns what is written for good.
    pub fn end_delivered(&mut self, is_committed: bool, now: Instant) -> Vec<R> {
        let Round::CommitDelivered(commits) = std::mem::replace(&mut self.round, Round::None) else { return vec![] };
        self.end_round(!is_committed, now);
        if !is_committed {
            self.forget_committed(&commits);
            self.put_back_delivered(now);
            return vec![];
        }
        self.note_committed(commits);
        let Second::HasWritten(topic, choice, done) = std::mem::replace(&mut self.second, Second::Nothing) else {
            return vec![];
        };
        self.aside.entry(topic).and_modify(|aside| aside.note_success(choice, now));
        self.finish_aside(done)
    }

    fn end_round(&mut self, has_failed: bool, now: Instant) {
        let pause = self.pause.map_or(FIRST_PAUSE, |(_, pause)| (pause * 2).min(LONGEST_PAUSE));
        self.pause = has_failed.then(|| (now + pause, pause));
    }

    /// Lets a record wait for its turn. Without a book the partition is somebody else's, and so is the record.
    fn add(&mut self, assignment: AssignmentId, record: R) {
        let Some(book) = self.books.get_mut(&assignment) else { return };
        match self.aside.get_mut(record.topic()).filter(|aside| aside.is_refusing()) {
            Some(aside) => {
                book.aside += 1;
                aside.add(assignment, record.offset(), record);
            }
            None => drop(book.waiting.insert(record.offset(), record)),
        }
    }

    /// Puts back records that were not written; those that were refused are tried apart from the others from now on.
    fn put_back(&mut self, failed: Vec<(Tried, R, Option<Refusal>)>, choice: Option<Choice>, now: Instant) {
        let mut refusals: BTreeMap<Arc<str>, Refusal> = BTreeMap::new();
        for (_, record, refusal) in &failed {
            if let Some(why) = *refusal {
                let worst = refusals.entry(record.topic().clone()).or_insert(why);
                *worst = if *worst == Refusal::TooLarge { why } else { *worst };
            }
        }
        for (topic, why) in &refusals {
            let aside = self.aside.entry(topic.clone()).or_insert_with(|| Aside::new(now));
            let was_refusing = aside.is_refusing();
            aside.note_refusal(choice, *why, now);
            if !was_refusing && aside.is_refusing() {
                self.set_apart(topic);
            }
        }
        for (tried, record, refusal) in failed {
            let Some(book) = self.books.get_mut(&tried.assignment) else { continue };
            let is_apart = self.aside.get(record.topic()).is_some_and(Aside::is_refusing);
            if refusal.or(tried.why).is_none() && !is_apart {
                book.waiting.insert(tried.offset, record);
                continue;
            }
            book.aside += 1;
            let aside = self.aside.entry(record.topic().clone()).or_insert_with(|| Aside::new(now));
            match refusal {
                Some(why) => aside.add_refused(tried, record, why),
                None => aside.put_back(tried, record),
            }
        }
        refusals.keys().for_each(|topic| self.give_up_refused(topic));
    }

    /// Puts back what the second producer has written, because it is not committed.
    fn put_back_delivered(&mut self, now: Instant) {
        let Second::HasWritten(topic, choice, done) = std::mem::replace(&mut self.second, Second::Nothing) else {
            return;
        };
        self.aside.entry(topic).and_modify(|aside| aside.postpone(choice, now + LONGEST_PAUSE));
        let undone: Vec<_> = done.into_iter().map(|(tried, record)| (tried, record, None)).collect();
        self.leave_aside(&undone, |(tried, ..)| tried.assignment);
        self.put_back(undone, Some(choice), now);
    }

    /// From now on all records that go to this topic are written apart from the others.
    fn set_apart(&mut self, topic: &Arc<str>) {
        let Some(aside) = self.aside.get_mut(topic) else { return };
        for (&assignment, book) in &mut self.books {
            for (offset, record) in take_where(&mut book.waiting, |_, record| record.topic() == topic) {
                book.aside += 1;
                aside.add(assignment, offset, record);
            }
        }
        self.notes.push(Note::SetApart(topic.clone()));
    }

    /// Writes the records of a topic together with those of others again, once it has taken records for a while.
    fn take_back(&mut self, now: Instant) {
        let busy = match &self.second {
            Second::Writes(topic, ..) | Second::HasWritten(topic, ..) => Some(topic.clone()),
            Second::Nothing | Second::Prepares => None,
        };
        let mut fresh = vec![];
        for (topic, aside) in &mut self.aside {
            if aside.is_refusing() && busy.as_ref() != Some(topic) && aside.is_trusted(now) {
                fresh.extend(aside.trust());
                self.notes.push(Note::TakenBack(topic.clone()));
            }
        }
        self.aside.retain(|topic, aside| busy.as_ref() == Some(topic) || aside.is_refusing() || !aside.is_empty());
        for (assignment, record) in fresh {
            self.books.entry(assignment).and_modify(|book| book.aside -= 1);
            self.add(assignment, record);
        }
    }

    /// Finishes what the second producer has written for good.
    fn finish_aside(&mut self, done: Vec<(Tried, R)>) -> Vec<R> {
        self.leave_aside(&done, |(tried, _)| tried.assignment);
        let finish = |(tried, record): (Tried, R)| {
            self.route(tried.assignment, &record);
            record
        };
        done.into_iter().map(finish).collect()
    }

    fn leave_aside<T>(&mut self, tried: &[T], assignment: impl Fn(&T) -> AssignmentId) {
        for assignment in tried.iter().map(assignment) {
            self.books.entry(assignment).and_modify(|book| book.aside -= 1);
        }
    }

    fn route(&self, assignment: AssignmentId, record: &R) {
        // Without a book the partition is somebody else's.
        if let Some(book) = self.books.get(&assignment) {
            book.state.route(record.offset(), self.delivery);
        }
    }

    fn leave_round(&mut self, commits: &[Commit]) {
        for commit in commits {
            self.books.entry(commit.assignment).and_modify(|book| book.in_round = false);
        }
    }

    fn note_committed(&mut self, commits: Vec<Commit>) {
        for Commit { assignment, offset, metadata, .. } in commits {
            self.books.entry(assignment).and_modify(|book| book.committed = Some((offset, metadata)));
        }
    }

    fn forget_committed(&mut self, commits: &[Commit]) {
        for commit in commits {
            self.books.entry(commit.assignment).and_modify(|book| book.committed = None);
        }
    }
}

/// Those that have room beside the commit of their partition.
fn with_room<R: Outbound>(
    mut tried: Vec<Tried>,
    books: &BTreeMap<AssignmentId, Book<R>>,
    delivery: Delivery,
) -> Vec<Tried> {
    let mut room = BTreeMap::new();
    for (assignment, offsets) in by_assignment(&tried) {
        let share = books.get(&assignment).and_then(|book| book.state.share(&offsets, delivery));
        let routed = share.map_or(0, |share| share.routed);
        room.insert(assignment, offsets[..routed].last().copied());
    }
    tried.retain(|tried| room.get(&tried.assignment).is_some_and(|last| *last >= Some(tried.offset)));
    tried
}

/// The offsets of each assignment, in ascending order.
fn by_assignment(tried: &[Tried]) -> BTreeMap<AssignmentId, Vec<i64>> {
    let mut by_assignment: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for tried in tried {
        by_assignment.entry(tried.assignment).or_default().push(tried.offset);
    }
    by_assignment.values_mut().for_each(|offsets| offsets.sort_unstable());
    by_assignment
}
