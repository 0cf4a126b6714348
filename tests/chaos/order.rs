//! Whether records that had to wait for each other did.
//!
//! Both rules hold however often a call is repeated after a crash, and for workers that wake up after their partitions went
//! to others: only the *first* call of a record is compared with the *first* answer to the one before it, and only the
//! calls of one life of one worker are compared as to whether they ran side by side.

use std::collections::{BTreeMap, HashMap};

use super::variant::{MAX_ATTEMPTS, Ordering};
use super::verdict::{Call, Fault, Place, Seen, Standing, Terms};

/// What records share that wait for each other: a partition, and where keys have lanes of their own, a key.
pub type Lane<'a> = (i32, Option<&'a [u8]>);

/// The begin of a call, its end, and the record.
type Span = (i64, i64, Place);

pub fn lane(seen: &Seen, place: Place) -> Option<Lane<'_>> {
    lane_in(seen, place.0, place)
}

/// The lane of a record in a partition, which is another one in the retry topic than in the main topic.
pub fn lane_in(seen: &Seen, partition: i32, place: Place) -> Option<Lane<'_>> {
    let key = seen.originals.get(&place)?.key.as_deref();
    match seen.terms.ordering {
        Ordering::Key => Some((partition, Some(key?))),
        Ordering::Partition => Some((partition, None)),
        Ordering::Unordered => None,
    }
}

pub fn check(seen: &Seen, faults: &mut Vec<Fault>) {
    check_order(seen, faults);
    check_side_by_side(seen, faults);
}

/// A record that is called before the one before it in its lane has been answered is out of order. Where the lane waits for
/// retries, the answer is the one that ended it.
fn check_order(seen: &Seen, faults: &mut Vec<Fault>) {
    let (mut began, mut ended) = (HashMap::new(), HashMap::new());
    for call in calls_in_lanes(seen) {
        let first = began.entry(call.place).or_insert(call.began);
        *first = call.began.min(*first);
        if let Some((at, status)) = call.answered
            && lets_the_next_begin(seen.terms, call.attempt, status)
        {
            let first = ended.entry(call.place).or_insert(at);
            *first = at.min(*first);
        }
    }
    let mut unanswered: Vec<Place> = vec![];
    unanswered.extend(seen.retries.iter().filter(|retry| retry.unanswered).map(|retry| retry.place));
    unanswered.extend(seen.letters.iter().filter(|letter| letter.unanswered).map(|letter| letter.place));
    let mut last: BTreeMap<Lane<'_>, Place> = BTreeMap::new();
    // What compaction has removed may have been taken away from a worker between two tries.
    let readable = seen.originals.iter().filter(|(_, original)| original.standing == Standing::Readable);
    for (&second, _) in readable {
        // The end of an attempt without an answer is not known.
        let Some(lane) = lane(seen, second).filter(|_| !unanswered.contains(&second)) else { continue };
        if let Some(first) = last.insert(lane, second)
            && let Some(began) = began.get(&second)
            && ended.get(&first).is_none_or(|ended| began < ended)
        {
            faults.push(Fault::OutOfOrder { first, second });
        }
    }
}

/// The calls that lanes hold to an order: the retry stage reads records in the order in which they failed.
pub fn calls_in_lanes(seen: &Seen) -> impl Iterator<Item = &Call> {
    seen.calls.iter().filter(|call| seen.terms.keeps_order || call.attempt == 1)
}

pub fn lets_the_next_begin(terms: Terms, attempt: u32, status: u16) -> bool {
    !terms.keeps_order || status != 503 || attempt >= MAX_ATTEMPTS
}

/// Two calls of one life of a worker that had to wait for each other and ran at the same time. Records of a key share a
/// lane in the retry stage, too, since they share a partition of the retry topic.
fn check_side_by_side(seen: &Seen, faults: &mut Vec<Fault>) {
    let mut lanes: BTreeMap<(&str, Lane<'_>), Vec<Span>> = BTreeMap::new();
    for call in &seen.calls {
        // A call that was cut off ended at a time that nobody noted.
        let Some((ended, _)) = call.answered else { continue };
        if seen.terms.ordering == Ordering::Partition && call.attempt > 1 && !seen.terms.keeps_order {
            continue;
        }
        let Some(lane) = lane(seen, call.place) else { continue };
        lanes.entry((&call.caller, lane)).or_default().push((call.began, ended, call.place));
    }
    for ((caller, _), mut calls) in lanes {
        calls.sort_unstable();
        let mut running: Option<(i64, Place)> = None;
        for (began, ended, place) in calls {
            match running {
                Some((until, other)) if began < until => {
                    let callers = [caller.to_owned(), caller.to_owned()];
                    faults.push(Fault::SideBySide { callers, places: [other, place] });
                }
                _ => {}
            }
            if running.is_none_or(|(until, _)| until < ended) {
                running = Some((ended, place));
            }
        }
    }
}
