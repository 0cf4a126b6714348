//! Whether the others go on: trouble with one record, key, partition, topic or pipeline must not hold up the rest.
//!
//! These rules hold within calm times only: a group that is in a rebalance, or a broker that is away, holds up everybody.
//! A lopsided fault is no excuse but for what it hits, which the rules see by themselves: a record that gets no answer
//! keeps its lane and holds back the commit, and a dead letter that is refused waits until it is not.

use std::collections::{BTreeMap, HashMap};

use super::order::{Lane, calls_in_lanes, lane, lane_in, lets_the_next_begin};
use super::spans::{Span, outside};
use super::variant::{DELAYS, MAX_ATTEMPTS};
use super::verdict::{Call, Commits, Fault, Place, Retry, Seen, Standing};

/// How long a partition may stand still that has something to do, in milliseconds. A transaction of a producer may stay open
/// for two seconds, during which nobody can read what is behind it.
pub const STALLED: i64 = 5_000;

/// The same of a committed offset. It is looked at twice a second, and a commit waits for the transactions of what failed in other
/// partitions.
pub const STALLED_COMMITS: i64 = 7_000;

/// How late an attempt may be, or a record that a failed one leads to, in milliseconds.
pub const LATE: i64 = 3_000;

/// How long what may take, in milliseconds, before it is a fault.
#[derive(Clone, Copy, Debug)]
struct Limits {
    calls: i64,
    commits: i64,
    late: i64,
}

pub fn check(seen: &Seen, faults: &mut Vec<Fault>) {
    check_within(seen, Limits { calls: STALLED, commits: STALLED_COMMITS, late: LATE }, faults);
}

/// The longest that anything took that is judged here, in milliseconds, where that was a second or more.
pub fn longest(seen: &Seen) -> BTreeMap<&'static str, i64> {
    let (mut found, mut longest) = (vec![], BTreeMap::new());
    check_within(seen, Limits { calls: 1_000, commits: 1_000, late: 1_000 }, &mut found);
    for fault in found {
        let (what, millis) = match fault {
            Fault::Stalled { what, from, until, .. } => (what, until - from),
            Fault::Late { what, millis, .. } => (what, millis),
            other => unreachable!("{other:?} is not about liveness"),
        };
        let most = longest.entry(what).or_default();
        *most = millis.max(*most);
    }
    longest
}

fn check_within(seen: &Seen, limits: Limits, faults: &mut Vec<Fault>) {
    let stages = [Stage::main(seen), Stage::retry(seen)];
    for stage in &stages {
        check_calls(stage, seen, limits, faults);
        check_commits(stage, seen, limits, faults);
        check_due(stage, seen, limits, faults);
    }
    check_due_in_order(seen, limits, faults);
    check_routes(seen, &stages, limits, faults);
}

/// What a stage made of the records of its topic.
struct Stage<'a> {
    topic: &'a str,
    /// By partition and offset in that topic.
    records: BTreeMap<Place, Record<'a>>,
    /// When calls of each partition began, in order.
    begins: BTreeMap<i32, Vec<i64>>,
    /// The calls of each lane: when they began, in order, and when they and all before them were answered
    /// or given up.
    lanes: HashMap<Lane<'a>, Vec<Span>>,
    /// From when to when each partition was busy with a burst, which is no excuse for any other.
    busy: BTreeMap<i32, Vec<Span>>,
}

/// A record of the main topic or the retry topic.
struct Record<'a> {
    place: Place,
    attempt: u32,
    /// Since when it may be called, if its lane is free.
    ready: i64,
    lane: Option<Lane<'a>>,
    /// Whether it could be read at all times.
    is_readable: bool,
    begun: Option<i64>,
    /// The answer after which the stage has no more to do with it than to settle it.
    answered: Option<i64>,
    /// Whether it then was to become a dead letter.
    is_dead: bool,
}

impl<'a> Stage<'a> {
    fn main(seen: &'a Seen) -> Self {
        let mut calls: HashMap<Place, Vec<&Call>> = HashMap::new();
        calls_in_lanes(seen).for_each(|call| calls.entry(call.place).or_default().push(call));
        let mut stage = Self::new(&seen.topics[0]);
        for (&place, original) in &seen.originals {
            let is_readable = original.standing == Standing::Readable;
            let record = Record::new(place, 1, original.written, lane(seen, place), is_readable);
            stage.add(seen, place, record, calls.get(&place).map_or(&[], Vec::as_slice));
        }
        stage.in_order()
    }

    fn retry(seen: &'a Seen) -> Self {
        let mut calls: HashMap<(Place, u32), Vec<&Call>> = HashMap::new();
        seen.calls.iter().for_each(|call| calls.entry((call.place, call.attempt)).or_default().push(call));
        let mut stage = Self::new(&seen.topics[1]);
        for &Retry { place, at, attempts, due, written, .. } in &seen.retries {
            let attempt = attempts.saturating_add(1);
            let record = Record::new(place, attempt, due.max(written), lane_in(seen, at.0, place), true);
            stage.add(seen, at, record, calls.get(&(place, attempt)).map_or(&[], Vec::as_slice));
        }
        stage.in_order()
    }

    fn new(topic: &'a str) -> Self {
        Self { topic, records: BTreeMap::new(), begins: BTreeMap::new(), lanes: HashMap::new(), busy: BTreeMap::new() }
    }

    fn add(&mut self, seen: &Seen, at: Place, mut record: Record<'a>, calls: &[&Call]) {
        let ends = |call: &&&Call| {
            call.answered.is_some_and(|(_, status)| lets_the_next_begin(seen.terms, call.attempt, status))
        };
        let ended = calls.iter().filter(ends).filter_map(|call| Some((call.answered?, call.attempt))).min();
        record.answered = ended.map(|((at, _), _)| at);
        record.is_dead =
            ended.is_some_and(|((_, status), attempt)| status == 422 || status == 503 && attempt >= MAX_ATTEMPTS);
        record.begun = calls.iter().map(|call| call.began).min();
        self.begins.entry(at.0).or_default().extend(calls.iter().map(|call| call.began));
        if let Some(lane) = record.lane {
            let ended = |call: &Call| call.answered.map(|(at, _)| at).or(call.gone).unwrap_or(call.began);
            let spans = calls.iter().map(|call| (call.began, ended(call)));
            self.lanes.entry(lane).or_default().extend(spans);
        }
        if seen.originals.get(&record.place).is_some_and(|original| original.is_in_burst) {
            let until = record.answered.unwrap_or(i64::MAX - LATE) + LATE;
            self.busy.entry(at.0).or_default().push((record.ready, until));
        }
        self.records.insert(at, record);
    }

    fn in_order(mut self) -> Self {
        self.begins.values_mut().for_each(|begins| begins.sort_unstable());
        for spans in self.lanes.values_mut() {
            spans.sort_unstable();
            let mut last = i64::MIN;
            for (_, answered) in spans {
                last = last.max(*answered);
                *answered = last;
            }
        }
        for spans in self.busy.values_mut() {
            spans.sort_unstable();
            spans.dedup_by(|next, before| {
                let meets = next.0 <= before.1;
                before.1 = if meets { before.1.max(next.1) } else { before.1 };
                meets
            });
        }
        self
    }

    /// The calm times in which a partition was not busy with a burst.
    fn calm(&self, seen: &Seen, partition: i32) -> Vec<Span> {
        outside(&seen.calm, self.busy.get(&partition).map_or(&[], Vec::as_slice))
    }

    /// Since when a record might have been called that had not been called at a time.
    fn free(&self, record: &Record<'_>, at: i64) -> i64 {
        let before = record.lane.and_then(|lane| self.lanes.get(&lane)).and_then(|spans| {
            let count = spans.partition_point(|(began, _)| *began < at);
            spans[..count].last().map(|(_, answered)| *answered)
        });
        before.map_or(record.ready, |answered| answered.max(record.ready))
    }

    fn records_of(&self, partition: i32, from: i64) -> impl Iterator<Item = &Record<'a>> {
        self.records.range((partition, from)..(partition, i64::MAX)).map(|(_, record)| record)
    }
}

impl<'a> Record<'a> {
    fn new(place: Place, attempt: u32, ready: i64, lane: Option<Lane<'a>>, is_readable: bool) -> Self {
        Self { place, attempt, ready, lane, is_readable, begun: None, answered: None, is_dead: false }
    }
}

/// A partition that has a record which nothing holds back, and of which nothing is called while others are.
fn check_calls(stage: &Stage<'_>, seen: &Seen, limits: Limits, faults: &mut Vec<Fault>) {
    for (&partition, begins) in &stage.begins {
        let others: Vec<_> = stage.begins.iter().filter(|(other, _)| **other != partition).collect();
        let calm = stage.calm(seen, partition);
        for (from, until) in calm.iter().flat_map(|calm| pauses(begins, *calm, limits.calls)) {
            let waits = |record: &&Record<'_>| record.is_readable && record.begun.is_none_or(|begun| begun > from);
            let free = stage.records_of(partition, 0).filter(waits).map(|record| stage.free(record, until)).min();
            let Some(from) = free.map(|free| free.max(from)) else { continue };
            let go_on = others.iter().any(|(_, begins)| begins.iter().any(|began| (from..until).contains(began)));
            if until - from >= limits.calls && go_on {
                faults.push(Fault::Stalled { topic: stage.topic.into(), partition, what: "calls", from, until });
            }
        }
    }
}

/// The times within a span in which nothing began, those that are too short to matter aside.
fn pauses(begins: &[i64], (from, until): Span, least: i64) -> Vec<Span> {
    let within = begins.iter().copied().filter(|began| (from..until).contains(began));
    let begins: Vec<_> = [from].into_iter().chain(within).chain([until]).collect();
    begins.windows(2).map(|pair| (pair[0], pair[1])).filter(|(from, until)| until - from >= least).collect()
}

/// A committed offset that stays at a record with which its stage has no more to do.
fn check_commits(stage: &Stage<'_>, seen: &Seen, limits: Limits, faults: &mut Vec<Fault>) {
    for Commits { partition, looks, .. } in seen.commits.iter().filter(|commits| commits.topic == stage.topic) {
        let calm = stage.calm(seen, *partition);
        for same in looks.chunk_by(|one, next| one.1 == next.1) {
            let ((first, offset), (last, _)) = (same[0], same[same.len() - 1]);
            // One that compaction took away before it was called holds up nobody.
            let mut records = stage.records_of(*partition, offset.unwrap_or_default());
            let next = records.find(|record| record.is_readable || record.begun.is_some());
            let Some((next, answered)) = next.and_then(|next| Some((next, next.answered?))) else { continue };
            let since = if next.is_dead { accepted(seen, answered) } else { answered };
            for &(from, until) in &calm {
                let (from, until) = (from.max(first).max(since), until.min(last));
                if until - from >= limits.commits {
                    let (topic, partition) = (stage.topic.into(), *partition);
                    faults.push(Fault::Stalled { topic, partition, what: "commits", from, until });
                }
            }
        }
    }
}

/// Since when the dead letter of a record that failed for good then could be written.
pub fn accepted(seen: &Seen, failed: i64) -> i64 {
    // What fails when the topic has just begun to take records again still waits for the next try.
    let refused = seen.refusals.iter().find(|(from, until)| (from - LATE..until + LATE).contains(&failed));
    // It is tried again after as long as it was refused, at most.
    refused.map_or(failed, |(from, until)| failed.max(until + (until - from)))
}

/// A retry that begins later than it might.
fn check_due(stage: &Stage<'_>, seen: &Seen, limits: Limits, faults: &mut Vec<Fault>) {
    // In the main stage nothing is due: how long a record may wait is up to the load.
    let calm: BTreeMap<_, _> = stage.begins.keys().map(|&partition| (partition, stage.calm(seen, partition))).collect();
    for (&(partition, _), record) in stage.records.iter().filter(|(_, record)| record.attempt > 1) {
        let begun = record.begun.unwrap_or(i64::MAX);
        let (place, attempt) = (record.place, record.attempt);
        faults.extend(late(&calm[&partition], stage.free(record, begun), begun, limits, (place, attempt, "call")));
    }
}

/// A retry that waited in its lane for longer than its delay, the jitter included.
fn check_due_in_order(seen: &Seen, limits: Limits, faults: &mut Vec<Fault>) {
    let mut calls: BTreeMap<(Place, u32), Vec<&Call>> = BTreeMap::new();
    for call in seen.calls.iter().filter(|_| seen.terms.keeps_order) {
        calls.entry((call.place, call.attempt)).or_default().push(call);
    }
    for (&(place, attempt), again) in &calls {
        let before = attempt.checked_sub(1).and_then(|before| calls.get(&(place, before)));
        let delay = attempt.checked_sub(2).and_then(|index| DELAYS.get(index as usize));
        let (Some(before), Some(delay)) = (before, delay) else { continue };
        let begun = again.iter().map(|call| call.began).min().expect("there is one");
        let answers = before.iter().filter_map(|call| Some(call.answered?.0)).filter(|answered| *answered <= begun);
        let due = answers.max().map(|answered| answered + delay * 3 / 2);
        faults.extend(due.and_then(|due| late(&seen.calm, due, begun, limits, (place, attempt, "call"))));
    }
}

/// A retry record or a dead letter that was written long after the answer that led to it.
fn check_routes(seen: &Seen, [main, retry]: &[Stage<'_>; 2], limits: Limits, faults: &mut Vec<Fault>) {
    let mut answers: HashMap<(Place, u32), Vec<i64>> = HashMap::new();
    for call in &seen.calls {
        answers.entry((call.place, call.attempt)).or_default().extend(call.answered.map(|(at, _)| at));
    }
    let answered = |place, attempts, written| {
        let answers = answers.get(&(place, attempts))?.iter().filter(|at| **at <= written);
        answers.max().copied()
    };
    let main = main.begins.keys().map(|&partition| ((false, partition), main.calm(seen, partition)));
    let calm: HashMap<_, _> =
        main.chain(retry.begins.keys().map(|&partition| ((true, partition), retry.calm(seen, partition)))).collect();
    let retried: HashMap<_, _> =
        seen.retries.iter().map(|retry| ((retry.place, retry.attempts + 1), retry.at.0)).collect();
    // The partition in which the attempt was made.
    let calm = |place: Place, attempts: u32| {
        let partition = retried.get(&(place, attempts)).map_or((false, place.0), |partition| (true, *partition));
        calm.get(&partition).map_or(&[][..], Vec::as_slice)
    };
    let retries = seen.retries.iter().filter(|retry| !retry.unanswered).filter_map(|retry| {
        let due = answered(retry.place, retry.attempts, retry.written)?;
        Some((due, retry.written, (retry.place, retry.attempts, "retry record")))
    });
    let letters = seen.letters.iter().filter(|letter| !letter.unanswered).filter_map(|letter| {
        let due = accepted(seen, answered(letter.place, letter.attempts, letter.written)?);
        Some((due, letter.written, (letter.place, letter.attempts, "dead letter")))
    });
    let found =
        retries.chain(letters).filter_map(|(due, written, of)| late(calm(of.0, of.1), due, written, limits, of));
    faults.extend(found);
}

/// What was due within a calm time, and came too late or not before its end.
fn late(calm: &[Span], due: i64, came: i64, limits: Limits, of: (Place, u32, &'static str)) -> Option<Fault> {
    let (_, until) = calm.iter().find(|(from, until)| (*from..*until).contains(&due))?;
    let (millis, (place, attempt, what)) = (came.min(*until) - due, of);
    (millis > limits.late).then_some(Fault::Late { place, attempt, what, due, millis })
}

mod tests;
