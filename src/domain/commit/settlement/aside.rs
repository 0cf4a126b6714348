//! Records that their topic has refused, and those that go there since: they are tried by themselves.
//!
//! A record that was refused is tried again after those that were refused less often, and one that was not refused yet does
//! not wait for it: one bad record holds up no good one, in its own topic either.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::step::{AssignmentId, Choice, Refusal};

/// How long to wait before a topic is tried again; twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// How long at most to wait for a topic that says no, and for one that could not be reached: it may be back any time.
const LONGEST_REFUSAL: Duration = Duration::from_secs(60);
const LONGEST_ABSENCE: Duration = Duration::from_secs(2);

/// How long after its last refusal a topic is trusted again.
const PROBATION: Duration = Duration::from_secs(10);

/// The most records that are tried one after the other.
const ONE_BY_ONE: usize = 100;

/// The order of a record that was not refused when others were beside it: it is tried before those of which nothing is known,
/// or it might be undone with them again and again.
const SURVIVED: u32 = 0;
const NEW: u32 = 1;

/// The records of one topic that are written apart from those of others.
#[derive(Debug)]
pub(super) struct Aside<R> {
    fresh: BTreeMap<(u32, AssignmentId, i64), R>,
    again: BTreeMap<(u32, AssignmentId, i64), Refused<R>>,
    tries: [Try; 2],
    /// When the topic refused a record that it had not refused before, for another reason than its size. `None` when it did not, or
    /// has taken others since then.
    refused: Option<Instant>,
    /// Whether it has taken records since then.
    has_taken: bool,
}

/// A record that is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tried {
    pub assignment: AssignmentId,
    pub offset: i64,
    /// Lower ones are tried first: how often it was refused or, of one that was not, [`SURVIVED`] or [`NEW`].
    pub order: u32,
    /// Why it was refused the last time.
    pub why: Option<Refusal>,
}

#[derive(Debug)]
struct Refused<R> {
    record: R,
    why: Refusal,
}

/// When the next try is due, and how long the pause before it is.
#[derive(Clone, Copy, Debug)]
struct Try {
    at: Instant,
    pause: Option<Duration>,
}

impl Try {
    fn fail(&mut self, why: Refusal, now: Instant) {
        let longest = if why == Refusal::Away { LONGEST_ABSENCE } else { LONGEST_REFUSAL };
        let pause = self.pause.map_or(FIRST_PAUSE, |pause| (pause * 2).min(longest));
        *self = Self { at: now + pause, pause: Some(pause) };
    }
}

impl<R> Aside<R> {
    pub fn new(now: Instant) -> Self {
        let never = Try { at: now, pause: None };
        Self { fresh: BTreeMap::new(), again: BTreeMap::new(), tries: [never; 2], refused: None, has_taken: false }
    }

    /// Whether all records that go to the topic are written apart, not only those that were too large.
    pub fn is_refusing(&self) -> bool {
        self.refused.is_some()
    }

    /// Whether nothing speaks against writing what goes to the topic together with the others, but for what it has refused.
    pub fn is_trusted(&self, now: Instant) -> bool {
        let is_long_ago = self.refused.is_none_or(|at| at + PROBATION <= now);
        is_long_ago && (self.has_taken || self.again.is_empty())
    }

    /// Trusts it again, and hands out what was not refused.
    pub fn trust(&mut self) -> impl Iterator<Item = (AssignmentId, R)> {
        self.refused = None;
        std::mem::take(&mut self.fresh).into_iter().map(|((_, assignment, _), record)| (assignment, record))
    }

    /// Whether nothing is left to try.
    pub fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.again.is_empty()
    }

    /// Adds a record of which nothing is known.
    pub fn add(&mut self, assignment: AssignmentId, offset: i64, record: R) {
        self.fresh.insert((NEW, assignment, offset), record);
    }

    /// Adds a record that was refused.
    pub fn add_refused(&mut self, tried: Tried, record: R, why: Refusal) {
        let order = if tried.why.is_some() { tried.order + 1 } else { 1 };
        self.again.insert((order, tried.assignment, tried.offset), Refused { record, why });
    }

    /// Puts back a record that was not refused this time.
    pub fn put_back(&mut self, tried: Tried, record: R) {
        let Tried { assignment, offset, order, why } = tried;
        match why {
            None => drop(self.fresh.insert((SURVIVED, assignment, offset), record)),
            Some(why) => drop(self.again.insert((order, assignment, offset), Refused { record, why })),
        }
    }

    /// Takes note of a refusal, of what was chosen or of a record in a round.
    pub fn note_refusal(&mut self, choice: Option<Choice>, why: Refusal, now: Instant) {
        // That a bad record is refused once more says nothing about the topic.
        if why != Refusal::TooLarge && choice != Some(Choice::Again) {
            (self.refused, self.has_taken) = (Some(now), false);
        }
        let tries = choice.map_or(0..self.tries.len(), |choice| choice as usize..choice as usize + 1);
        self.tries[tries].iter_mut().for_each(|next| next.fail(why, now));
    }

    /// Takes note that the topic took what was tried. What it refused before may be fine now, too, but for what was too large.
    pub fn note_success(&mut self, choice: Choice, now: Instant) {
        self.tries[choice as usize] = Try { at: now, pause: None };
        self.has_taken = true;
        if choice == Choice::Again {
            let fine = take_where(&mut self.again, |_, refused| refused.why != Refusal::TooLarge).into_iter();
            self.fresh
                .extend(fine.map(|((_, assignment, offset), refused)| ((NEW, assignment, offset), refused.record)));
        }
    }

    /// Has everything be tried at once, or as soon as something else has changed.
    pub fn try_at(&mut self, at: Instant) {
        self.tries.iter_mut().for_each(|next| next.at = at);
    }

    /// Has a try wait for a moment.
    pub fn postpone(&mut self, choice: Choice, until: Instant) {
        self.tries[choice as usize].at = until;
    }

    /// When what there is of these assignments may be tried next.
    pub fn tries(&self, is_chosen: impl Fn(AssignmentId) -> bool) -> impl Iterator<Item = (Instant, Choice)> {
        let fresh = self.fresh.keys().any(|(_, assignment, _)| is_chosen(*assignment)).then_some(Choice::Fresh);
        let again = self.again.keys().any(|(_, assignment, _)| is_chosen(*assignment)).then_some(Choice::Again);
        fresh.into_iter().chain(again).map(|choice| (self.tries[choice as usize].at, choice))
    }

    /// What is tried next of these assignments, at most so many records and bytes. The first one always has room.
    pub fn candidates(
        &self,
        choice: Choice,
        (records, mut bytes): (usize, usize),
        is_chosen: impl Fn(AssignmentId) -> bool,
        size: impl Fn(&R) -> usize,
    ) -> Vec<Tried> {
        let first = self.fresh.keys().find(|(_, assignment, _)| is_chosen(*assignment)).map(|(order, ..)| *order);
        let fresh = self.fresh.iter().filter(|((order, ..), _)| choice == Choice::Fresh && Some(*order) == first);
        let fresh = fresh.map(|(&(order, assignment, offset), record)| {
            (Tried { assignment, offset, order, why: None }, size(record))
        });
        let again = self.again.iter().filter(|_| choice == Choice::Again);
        let again = again.map(|(&(order, assignment, offset), Refused { record, why })| {
            (Tried { assignment, offset, order, why: Some(*why) }, size(record))
        });
        let records = if choice == Choice::Again { records.min(ONE_BY_ONE) } else { records };
        let mut taken = vec![];
        for (tried, size) in fresh.chain(again).filter(|(tried, _)| is_chosen(tried.assignment)) {
            if taken.len() >= records || (size > bytes && !taken.is_empty()) {
                break;
            }
            bytes = bytes.saturating_sub(size);
            taken.push(tried);
        }
        taken
    }

    /// Takes a record that is one of the [`candidates`](Self::candidates).
    pub fn take(&mut self, tried: &Tried) -> Option<R> {
        let key = (tried.order, tried.assignment, tried.offset);
        match tried.why {
            None => self.fresh.remove(&key),
            Some(_) => self.again.remove(&key).map(|refused| refused.record),
        }
    }

    /// Removes what was refused of an assignment while its topic refuses all, and says how many records that are.
    pub fn remove_refused(&mut self, assignment: AssignmentId) -> usize {
        let is_refused = |refused: &Refused<R>| refused.why == Refusal::Refused;
        take_where(&mut self.again, |key, refused| key.1 == assignment && is_refused(refused)).len()
    }

    /// Removes everything of an assignment, and says how many records that are.
    pub fn remove_all(&mut self, assignment: AssignmentId) -> usize {
        let fresh = take_where(&mut self.fresh, |key, _| key.1 == assignment).len();
        fresh + take_where(&mut self.again, |key, _| key.1 == assignment).len()
    }
}

/// Takes what a predicate is true of.
pub(super) fn take_where<K: Ord + Copy, V>(map: &mut BTreeMap<K, V>, is_taken: impl Fn(&K, &V) -> bool) -> Vec<(K, V)> {
    let keys: Vec<K> = map.iter().filter(|(key, value)| is_taken(key, value)).map(|(key, _)| *key).collect();
    keys.into_iter().filter_map(|key| map.remove_entry(&key)).collect()
}
