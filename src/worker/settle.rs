//! Settles records: writes what goes on to another topic, finishes offsets, commits. Nothing else does any of the three.
//!
//! One loop serves all partitions of a stage. It does its work in rounds, one after the other, so that no commit overtakes
//! another. Twice a second one commits what was processed. As soon as there is something to write, the next round has all of
//! it that has gathered, and with it the commits of the partitions that it comes from; how the two are tied together is for
//! the [`Writer`]. A topic that refuses a record is tried by itself from then on, less and less often, and the others go on.
//! What is to be given up goes first, and while it does nothing else is committed: a rebalance is under way.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use rdkafka::error::{KafkaError, KafkaResult};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, info, warn};

use super::fail::FailOnPanic;
use super::load::Load;
use super::member::Member;
use super::metrics::StageMetrics;
use super::work::{AssignmentId, Commit, Destination, Route, ToSettle};
use super::writer::{Refused, Waiting, Writer, Written, is_of_an_old_generation};
use crate::domain::commit_metadata::MAX_BYTES;
use crate::domain::offsets::Offsets;
use crate::domain::pipeline::Delivery;
use crate::domain::round::{Share, share};

/// The time between two commits of what was processed. It bounds how much is processed again after a crash.
const COMMIT_INTERVAL: Duration = Duration::from_millis(500);

/// The most records of a round, and the most memory that they may take: they are copied into the client's.
const ROUND_RECORDS: usize = 10_000;
const ROUND_BYTES: usize = 16 << 20;

/// How long after the deadline of a release the last commit may take.
pub(super) const COMMIT_GRACE: Duration = Duration::from_secs(1);

/// How long to wait after a round that failed; twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How long at most to wait before a topic is tried again that refuses records while others take them; and at least, where a
/// try takes long.
const LONGEST_REFUSAL: Duration = Duration::from_secs(60);
const LONG_TRY: Duration = Duration::from_secs(10);

/// How long to wait until it is worked out again whether a record has room beside the commit: that looks at all that is ahead.
const BLOCKED_PAUSE: Duration = Duration::from_millis(100);

/// The settle loop.
pub(super) struct Settle {
    writer: Arc<Writer>,
    member: Member,
    delivery: Delivery,
    metrics: Arc<StageMetrics>,
    inbox: mpsc::UnboundedReceiver<ToSettle>,
    books: HashMap<AssignmentId, Book>,
    round: Option<BoxFuture<'static, Ended>>,
    /// A commit of what was processed is due.
    commit_is_due: bool,
    /// After a round that failed: when the next one may start, and how long the pause was.
    pause: Option<(Instant, Duration)>,
    /// Topics that refused a record: each is tried again by itself, and the others go on.
    refusals: HashMap<Arc<str>, Refusal>,
    /// Whether a topic refused a record in the last round that wrote some.
    has_just_refused: bool,
}

/// When a topic that refused a record may be tried again, how long the pause was, and why it refused.
struct Refusal {
    until: Instant,
    pause: Duration,
    why: Refused,
}

/// What is to be settled of one partition.
struct Book {
    partition: i32,
    offsets: Arc<Mutex<Offsets>>,
    load: Arc<Load>,
    /// Records that are to be written, by offset.
    waiting: BTreeMap<i64, Waiting>,
    /// Records of it are in the round that is under way.
    in_round: bool,
    /// There is no room beside the commit for any record that waits, as far as was known a moment ago.
    blocked_until: Option<Instant>,
    /// What Kafka has, as far as it is known: offset and metadata.
    committed: Option<(i64, String)>,
    release: Option<Release>,
    /// Records were given up that wait to be written.
    has_given_up: bool,
}

struct Release {
    deadline: Instant,
    reply: oneshot::Sender<bool>,
}

/// A round that has ended.
struct Ended {
    commits: Vec<Commit>,
    outcome: Outcome,
}

enum Outcome {
    Committed(KafkaResult<()>),
    Written(Vec<(AssignmentId, Written)>),
}

impl Settle {
    pub fn new(
        writer: Writer,
        member: Member,
        delivery: Delivery,
        metrics: Arc<StageMetrics>,
        inbox: mpsc::UnboundedReceiver<ToSettle>,
    ) -> Self {
        let (writer, books) = (Arc::new(writer), HashMap::new());
        Self {
            writer,
            member,
            delivery,
            metrics,
            inbox,
            books,
            round: None,
            commit_is_due: false,
            pause: None,
            refusals: HashMap::new(),
            has_just_refused: false,
        }
    }

    /// Runs until everybody who could send something is gone.
    pub async fn run(mut self, _fail_on_panic: FailOnPanic) {
        let mut commit = tokio::time::interval(COMMIT_INTERVAL);
        commit.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let writer = self.writer.clone();
        let prepared = async move {
            writer.prepare().await;
            Ended { commits: vec![], outcome: Outcome::Written(vec![]) }
        };
        self.round = Some(prepared.boxed());
        loop {
            self.release();
            self.start_round();
            let wake = self.next_wake();
            tokio::select! {
                message = self.inbox.recv() => match message {
                    Some(message) => self.take(message),
                    None => return,
                },
                ended = async { self.round.as_mut().expect("only polled when there is one").await }, if self.round.is_some() => {
                    self.round = None;
                    self.end_round(ended);
                }
                _ = commit.tick() => self.commit_is_due = true,
                () = tokio::time::sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
        }
    }

    fn take(&mut self, message: ToSettle) {
        match message {
            ToSettle::Assigned { assignment, partition, offsets, load } => {
                self.books.insert(assignment, Book::new(partition, offsets, load));
            }
            ToSettle::Settled { assignment, finished, routes } => {
                let Some(book) = self.books.get_mut(&assignment) else { return };
                book.finish(finished);
                book.waiting.extend(routes.into_iter().map(|route| (route.work.record.offset, route.into())));
            }
            ToSettle::Release { assignment, deadline, reply } => match self.books.get_mut(&assignment) {
                Some(book) => {
                    book.release = Some(Release { deadline, reply });
                    self.pause = None;
                    let now = Instant::now();
                    self.refusals.values_mut().for_each(|refusal| refusal.until = now);
                }
                // Whoever asks may be gone by now.
                None => drop(reply.send(true)),
            },
            ToSettle::Lost { assignment } => drop(self.books.remove(&assignment)),
        }
    }

    /// Starts the next round, if none is under way and there is reason for one. A commit that is due comes first: it takes
    /// little, and might wait for ever where something is always to be written.
    fn start_round(&mut self) {
        let now = Instant::now();
        if self.round.is_some() {
            return;
        }
        let releasing = self.books.values().any(|book| book.release.is_some());
        if self.commit_is_due {
            self.start_to_commit(releasing);
        }
        if self.round.is_some() || self.pause.is_some_and(|(until, _)| now < until) {
            return;
        }
        self.start_to_write(releasing, now);
        if self.round.is_none() && releasing {
            self.start_to_commit(releasing);
        }
    }

    /// Writes what waits for the topics that take records or, when its time has come, for one that did not. As that may hold
    /// up the others, it does not come twice in a row while they have something to write.
    fn start_to_write(&mut self, releasing: bool, now: Instant) {
        let due = self.refusals.iter().find(|(_, refusal)| refusal.until <= now).map(|(topic, _)| topic.clone());
        if let Some(topic) = due.as_ref().filter(|_| !self.has_just_refused) {
            self.start_to_write_where(releasing, now, |to, _| to == topic);
        }
        if self.round.is_none() {
            self.start_to_write_where(releasing, now, |to, refusals| !refusals.contains_key(to));
        }
        if let Some(topic) = due.filter(|_| self.round.is_none()) {
            self.start_to_write_where(releasing, now, |to, _| *to == topic);
            if self.round.is_none() {
                // Nothing waits for it any more.
                self.refusals.remove(&topic);
            }
        }
    }

    fn start_to_write_where(
        &mut self,
        releasing: bool,
        now: Instant,
        is_chosen: impl Fn(&Arc<str>, &HashMap<Arc<str>, Refusal>) -> bool,
    ) {
        let (mut round, mut commits, mut bytes) = (vec![], vec![], 0);
        let mut without_room = HashSet::new();
        // One that has to be alone goes first, or it might wait for ever.
        for alone in [true, false] {
            let chosen = |book: &Book| (!releasing || book.release.is_some()) && book.wants_to_write(now);
            for (&assignment, book) in self.books.iter_mut().filter(|(_, book)| chosen(book)) {
                let room = (ROUND_RECORDS - round.len(), ROUND_BYTES.saturating_sub(bytes));
                let offsets = book
                    .next_to_write(alone, room, |waiting| is_chosen(self.writer.topic(&waiting.route), &self.refusals));
                let share = book.share(&offsets, self.delivery).filter(|share| share.routed > 0);
                let Some(share) = share.filter(|_| !offsets.is_empty()) else {
                    if !offsets.is_empty() {
                        without_room.insert(assignment);
                    }
                    if !alone && without_room.contains(&assignment) {
                        book.has_no_room(now);
                    }
                    continue;
                };
                for offset in &offsets[..share.routed] {
                    let waiting = book.waiting.remove(offset).expect("it is one of those");
                    bytes += waiting.route.work.record.footprint();
                    round.push((assignment, waiting));
                }
                book.in_round = true;
                commits.push(book.commit(assignment, share));
                if alone || round.len() >= ROUND_RECORDS || bytes >= ROUND_BYTES {
                    break;
                }
            }
            if !round.is_empty() {
                break;
            }
        }
        if round.is_empty() {
            return;
        }
        let writer = self.writer.clone();
        let write = async move {
            let (assignments, round): (Vec<_>, Vec<_>) = round.into_iter().unzip();
            let written = writer.write(round, &commits).await;
            Ended { commits, outcome: Outcome::Written(assignments.into_iter().zip(written).collect()) }
        };
        self.round = Some(write.boxed());
    }

    /// Commits what was processed, where Kafka does not have it.
    fn start_to_commit(&mut self, releasing: bool) {
        self.commit_is_due = false;
        let mut commits = vec![];
        for (&assignment, book) in self.books.iter_mut().filter(|(_, book)| !releasing || book.release.is_some()) {
            if let Some(share) = book.share(&[], self.delivery).filter(|share| !book.has_committed(share)) {
                commits.push(book.commit(assignment, share));
            }
        }
        if commits.is_empty() {
            return;
        }
        let member = self.member.clone();
        let commit = async move {
            let asked = commits.clone();
            let answer = tokio::task::spawn_blocking(move || member.commit(&asked)).await;
            // It fails when the runtime ends.
            Ended { commits, outcome: Outcome::Committed(answer.unwrap_or(Err(KafkaError::Canceled))) }
        };
        self.round = Some(commit.boxed());
    }

    fn end_round(&mut self, ended: Ended) {
        let failed = match ended.outcome {
            // What is written may still have reason to wait.
            Outcome::Committed(Ok(())) => return self.note_committed(ended.commits),
            Outcome::Committed(Err(error)) => {
                // The group is in a rebalance, or we are no longer in it: that is said elsewhere.
                let is_usual = match &error {
                    KafkaError::ConsumerCommit(code) => is_of_an_old_generation(*code),
                    error => *error == KafkaError::Canceled,
                };
                match is_usual {
                    true => debug!(%error, "could not commit now"),
                    false => warn!(%error, "commit failed, it is made again"),
                }
                // It may have come about all the same.
                self.forget_committed(&ended.commits);
                true
            }
            Outcome::Written(written) => self.end_write(written, ended.commits),
        };
        let pause = self.pause.map_or(FIRST_PAUSE, |(_, pause)| (pause * 2).min(LONGEST_PAUSE));
        self.pause = failed.then(|| (Instant::now() + pause, pause));
    }

    /// Finishes what was written, and puts back the rest. Returns whether there was some.
    fn end_write(&mut self, written: Vec<(AssignmentId, Written)>, commits: Vec<Commit>) -> bool {
        for commit in &commits {
            self.books.entry(commit.assignment).and_modify(|book| book.in_round = false);
        }
        let failed = written.iter().any(|(_, written)| written.is_err());
        let refused = self.note_refusals(written.iter().map(|(_, written)| written));
        for (assignment, written) in written {
            // Without a book the partition is somebody else's, and so is the record if it was not written.
            let book = self.books.get_mut(&assignment);
            match written {
                Ok(Waiting { route, .. }) => {
                    if let Some(book) = book {
                        let (mut offsets, offset) = (lock(&book.offsets), route.work.record.offset);
                        match self.delivery {
                            Delivery::ExactlyOnce => offsets.route(offset),
                            // Its commit comes later, and may be too late anyway.
                            Delivery::AtLeastOnce => offsets.finish(offset),
                        };
                    }
                    self.note_written(&route);
                }
                Err(waiting) => {
                    book.map(|book| book.waiting.insert(waiting.route.work.record.offset, waiting));
                }
            }
        }
        match self.delivery {
            Delivery::ExactlyOnce if !failed => self.note_committed(commits),
            Delivery::ExactlyOnce => self.forget_committed(&commits),
            Delivery::AtLeastOnce => {}
        }
        for book in self.books.values_mut().filter(|book| book.release.is_some()) {
            book.give_up_refused();
        }
        // The others go on at once where it is known whose fault it was.
        failed && !refused
    }

    /// Takes note of the topics that refused a record, and of those that took one. Returns whether some refused.
    fn note_refusals<'a>(&mut self, written: impl Iterator<Item = &'a Written>) -> bool {
        let (mut refused, mut any_written, now) = (BTreeMap::new(), false, Instant::now());
        for written in written {
            match written {
                Ok(waiting) => {
                    any_written = true;
                    self.refusals.remove(self.writer.topic(&waiting.route));
                }
                Err(waiting) => {
                    if let Some(why) = waiting.refused {
                        refused.insert(self.writer.topic(&waiting.route).clone(), why);
                    }
                }
            }
        }
        self.has_just_refused = !refused.is_empty();
        for (topic, why) in refused {
            let before = self.refusals.get(&topic).map(|refusal| refusal.pause);
            // Brokers that are away may be back any time.
            let is_short = why == Refused::Away && before.is_none_or(|pause| pause < LONG_TRY);
            let longest = if is_short { LONGEST_PAUSE } else { LONGEST_REFUSAL };
            let pause = before.map_or(FIRST_PAUSE, |pause| (pause * 2).min(longest));
            self.refusals.insert(topic, Refusal { until: now + pause, pause, why });
        }
        if any_written {
            // Where they take what goes elsewhere, they are not away; and each try holds up the others.
            let soon = |refusal: &&mut Refusal| refusal.why == Refused::Away && refusal.pause < LONG_TRY;
            for refusal in self.refusals.values_mut().filter(soon) {
                (refusal.pause, refusal.until) = (LONG_TRY, now + LONG_TRY);
            }
        }
        self.has_just_refused
    }

    fn note_written(&self, route: &Route) {
        match route.to {
            Destination::Retry { .. } => drop(self.metrics.retried.inc()),
            Destination::DeadLetter { reason } => self.metrics.dead_letter(&route.failure.error_type, reason),
        }
        log(route);
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

    fn next_wake(&self) -> Option<Instant> {
        let now = Instant::now();
        let releases = self.books.values().filter_map(|book| book.release.as_ref());
        let deadlines = releases.flat_map(|release| [release.deadline, release.deadline + COMMIT_GRACE]);
        let deadlines = deadlines.filter(|deadline| *deadline > now);
        let refused = self.refusals.values().map(|refusal| refusal.until);
        let blocked = self.books.values().filter(|book| !book.waiting.is_empty()).filter_map(|book| book.blocked_until);
        let pauses = self.pause.map(|(until, _)| until).into_iter().chain(blocked).chain(refused);
        let pauses = pauses.filter(|_| self.round.is_none());
        // A pause that is over is no reason to wake: what waits for something else then waits for a message.
        deadlines.chain(pauses.filter(|until| *until > now)).min()
    }

    /// Gives up the partitions that have nothing left to settle, or no time for it.
    fn release(&mut self) {
        let (now, delivery) = (Instant::now(), self.delivery);
        for book in self.books.values_mut() {
            if let Some(release) = &book.release
                && release.deadline <= now
                && !book.waiting.is_empty()
            {
                book.give_up_waiting("drain timeout");
            }
        }
        let is_over = |book: &mut Book| {
            let deadline = book.release.as_ref().map(|release| release.deadline);
            deadline.is_some_and(|deadline| deadline + COMMIT_GRACE <= now || book.is_settled(delivery))
        };
        for (_, book) in self.books.extract_if(|_, book| is_over(book)) {
            let is_committed = book.is_settled(delivery);
            if !is_committed {
                warn!(partition = book.partition, "could not commit on hand-over: records may be processed again");
            }
            if let Some(release) = book.release {
                // Whoever asked may not have waited.
                let _ = release.reply.send(is_committed && !book.has_given_up);
            }
        }
    }
}

impl Book {
    fn new(partition: i32, offsets: Arc<Mutex<Offsets>>, load: Arc<Load>) -> Self {
        let (waiting, blocked_until, committed) = (BTreeMap::new(), None, None);
        Self {
            partition,
            offsets,
            load,
            waiting,
            in_round: false,
            blocked_until,
            committed,
            release: None,
            has_given_up: false,
        }
    }

    fn finish(&self, finished: impl IntoIterator<Item = i64>) {
        let mut offsets = lock(&self.offsets);
        for offset in finished {
            offsets.finish(offset);
        }
    }

    /// Whether there is something to write that may have room.
    fn wants_to_write(&self, now: Instant) -> bool {
        !self.waiting.is_empty() && self.blocked_until.is_none_or(|until| until <= now)
    }

    /// Takes note that nothing that waits has room beside the commit. It is tried again in a moment; a partition that is given up
    /// has nothing in flight that could make room.
    fn has_no_room(&mut self, now: Instant) {
        if self.release.is_some() {
            self.give_up_waiting("no room beside the commit");
        } else {
            self.blocked_until = Some(now + BLOCKED_PAUSE);
        }
    }

    /// While a partition is given up all others wait: its next owner tries again what Kafka has refused.
    fn give_up_refused(&mut self) {
        let before = self.waiting.len();
        self.waiting.retain(|_, waiting| waiting.refused != Some(Refused::Refused));
        if self.waiting.len() < before {
            let (partition, records) = (self.partition, before - self.waiting.len());
            warn!(partition, records, "records that failed are refused by their topic, they are tried again");
            self.has_given_up = true;
        }
    }

    fn give_up_waiting(&mut self, why: &str) {
        let (partition, records) = (self.partition, self.waiting.len());
        warn!(partition, records, "{why}: records that failed could not be written, they are tried again");
        self.waiting.clear();
        self.has_given_up = true;
    }

    /// The lowest records that wait, as far as there is room for them: a number of records, and bytes. The first one
    /// always has room.
    fn next_to_write(
        &self,
        alone: bool,
        (records, mut bytes): (usize, usize),
        is_chosen: impl Fn(&Waiting) -> bool,
    ) -> Vec<i64> {
        let (records, mut taken) = (if alone { 1 } else { records }, vec![]);
        let is_next = |waiting: &Waiting| waiting.alone == alone && is_chosen(waiting);
        for (&offset, waiting) in self.waiting.iter().filter(|(_, waiting)| is_next(waiting)) {
            let size = waiting.route.work.record.footprint();
            if taken.len() >= records || (size > bytes && !taken.is_empty()) {
                break;
            }
            bytes = bytes.saturating_sub(size);
            taken.push(offset);
        }
        taken
    }

    /// What may be routed and committed, `None` when nothing may. Says how little room is left for more to be read.
    fn share(&self, waiting: &[i64], delivery: Delivery) -> Option<Share> {
        let (share, window, is_catching_up) = {
            let offsets = lock(&self.offsets);
            offsets.watermark()?;
            let share = match delivery {
                Delivery::ExactlyOnce => share(&offsets, waiting),
                // What is written is finished afterwards, and committed in a later round.
                Delivery::AtLeastOnce => share(&offsets, &[]).map(|share| Share { routed: waiting.len(), ..share }),
            };
            (share, offsets.window(), offsets.is_catching_up())
        };
        let metadata = match (&share, delivery) {
            // What has no room is processed or routed again after a restart, as this delivery allows.
            (_, Delivery::AtLeastOnce) => 0,
            // Only what lies between is read until there: the more of it, the less there is to say.
            _ if is_catching_up => 0,
            (share, Delivery::ExactlyOnce) => share.as_ref().map_or(MAX_BYTES, |share| share.bytes),
        };
        self.load.set_finished_ahead(window, metadata);
        share
    }

    fn commit(&self, assignment: AssignmentId, share: Share) -> Commit {
        Commit { assignment, partition: self.partition, offset: share.committed, metadata: share.metadata }
    }

    fn has_committed(&self, share: &Share) -> bool {
        self.committed
            .as_ref()
            .is_some_and(|(offset, metadata)| *offset == share.committed && *metadata == share.metadata)
    }

    /// Whether there is nothing to write, and Kafka has what may be committed.
    fn is_settled(&self, delivery: Delivery) -> bool {
        let open = self.in_round || !self.waiting.is_empty();
        !open && self.share(&[], delivery).is_none_or(|share| self.has_committed(&share))
    }
}

fn lock(offsets: &Mutex<Offsets>) -> MutexGuard<'_, Offsets> {
    offsets.lock().unwrap_or_else(PoisonError::into_inner)
}

fn log(route: &Route) {
    let origin = &route.work.past.origin;
    let (topic, partition, offset) = (&*origin.topic, origin.partition, origin.offset);
    let (attempt, error_type) = (route.work.past.attempts, &*route.failure.error_type);
    match route.to {
        Destination::Retry { due, max_attempts } => {
            info!(topic, partition, offset, attempt, max_attempts, error_type, %due, "attempt failed, Retry scheduled");
        }
        Destination::DeadLetter { reason } => {
            let dlt = &*route.dead_letter_topic;
            info!(topic, partition, offset, attempt, error_type, %reason, dlt, "attempt failed, record sent to DLT");
        }
    }
}
