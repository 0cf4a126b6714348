//! Whether partitions change hands cleanly, while nothing happens that makes a worker miss that they do.
//!
//! A worker that is paused, or cut off from its group, goes on for a while with what is no longer its own; nobody can
//! prevent that. So these rules hold only for what lies within a quiet time. Workers that come, go and are killed are no
//! excuse: a dead one calls nobody.

use std::collections::{BTreeMap, HashMap};

use super::order::{Lane, calls_in_lanes, lane};
use super::verdict::{Call, Fault, Seen};

pub fn check(seen: &Seen, faults: &mut Vec<Fault>) {
    for &quiet in &seen.quiet {
        check_lanes(seen, quiet, faults);
        check_stops(seen, quiet, faults);
    }
}

fn calls_within(seen: &Seen, (from, until): (i64, i64)) -> impl Iterator<Item = &Call> {
    calls_in_lanes(seen).filter(move |call| from <= call.began && call.began < until)
}

/// Two workers that call records of one lane at the same time.
fn check_lanes(seen: &Seen, quiet: (i64, i64), faults: &mut Vec<Fault>) {
    let mut lanes: BTreeMap<Lane<'_>, Vec<(&Call, i64)>> = BTreeMap::new();
    for call in calls_within(seen, quiet) {
        // A call that was cut off ended at a time that nobody noted.
        if let Some((lane, (ended, _))) = lane(seen, call.place).zip(call.answered) {
            lanes.entry(lane).or_default().push((call, ended));
        }
    }
    for mut calls in lanes.into_values() {
        calls.sort_unstable_by_key(|(call, _)| call.began);
        for pair in calls.windows(2) {
            let ((one, ended), (other, _)) = (pair[0], pair[1]);
            if other.began < ended && one.caller != other.caller {
                let callers = [one.caller.clone(), other.caller.clone()];
                faults.push(Fault::SideBySide { callers, places: [one.place, other.place] });
            }
        }
    }
}

/// Exit code 0 says that what was started is finished, and committed.
fn check_stops(seen: &Seen, quiet: (i64, i64), faults: &mut Vec<Fault>) {
    let clean = seen.stops.iter().filter(|stop| stop.code == Some(0) && quiet.0 <= stop.from && stop.until < quiet.1);
    let clean: HashMap<_, _> = clean.map(|stop| (&*stop.worker, stop.until)).collect();
    let mut finished: HashMap<_, &Call> = HashMap::new();
    for call in calls_within(seen, quiet).filter(|call| clean.contains_key(&*call.caller)) {
        match call.answered {
            None => faults.push(Fault::CutOff { caller: call.caller.clone(), place: call.place }),
            // What waits in its lane is not finished, and its attempts begin anew with the next owner.
            Some((_, status)) if seen.terms.keeps_order && status == 503 => {}
            Some(_) => drop(finished.insert((call.place, call.attempt), call)),
        }
    }
    for again in calls_within(seen, quiet) {
        if let Some(call) = finished.get(&(again.place, again.attempt))
            && clean[&*call.caller] < again.began
        {
            faults.push(Fault::CalledAgain { caller: call.caller.clone(), place: call.place });
        }
    }
}
