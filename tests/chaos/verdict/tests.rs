//! That the verdict finds each fault, and takes nothing else for one.

use super::super::variant::Ordering;
use super::super::workers::Stop;
use super::*;

const GOOD: Place = (0, 1);
const SAME_KEY: Place = (0, 2);
const FAILS_ONCE: Place = (0, 4);
const HOPELESS: Place = (1, 0);
const INVALID: Place = (1, 7);
const ABORTED: Place = (1, 8);
const SUPERSEDED: Place = (0, 5);

/// A run in which nothing happened.
fn faultless() -> Seen {
    let mut seen = Seen { terms: Terms { exactly_once: true, ..Terms::default() }, ..Seen::default() };
    let records = [
        (GOOD, "a", &[200][..]),
        (SAME_KEY, "a", &[200]),
        (FAILS_ONCE, "b", &[503, 200]),
        (HOPELESS, "c", &[503; MAX_ATTEMPTS as usize]),
        (INVALID, "d", &[422]),
    ];
    let mut now = 1_000;
    for (place, key, statuses) in records {
        let original =
            Original { key: Some(key.into()), standing: Standing::Readable, written: now, is_in_burst: false };
        seen.originals.insert(place, original);
        for (attempt, &status) in (1..).zip(statuses) {
            let caller = if attempt == 1 { "main-1/1" } else { "retry-1/1" }.to_owned();
            let answered = Some((now + 5, status));
            seen.calls.push(Call { place, attempt, caller, intact: true, began: now, answered, gone: None });
            now += 5;
            if status == 503 && attempt < MAX_ATTEMPTS {
                now += DELAYS[attempt as usize - 1];
                seen.retries.push(retry_record(place, attempt, now));
            }
            let reason = if status == 422 { Reason::Permanent } else { Reason::AttemptsExhausted };
            if status == 422 || attempt == MAX_ATTEMPTS {
                with_a_dead_letter_for(&mut seen, place, attempt, reason);
            }
        }
    }
    for (place, standing) in [(ABORTED, Standing::Aborted), (SUPERSEDED, Standing::Superseded)] {
        seen.originals.insert(place, Original { key: Some("a".into()), standing, written: now, is_in_burst: false });
    }
    let topic = "orders".to_owned();
    seen.reach = vec![Reach { topic, partition: 0, end: 5, log_end: 7, committed: Some(6) }];
    seen
}

fn faults_after(change: impl FnOnce(&mut Seen)) -> Vec<Fault> {
    let mut seen = faultless();
    change(&mut seen);
    verify(&seen)
}

fn call(seen: &mut Seen, place: Place, attempt: u32) -> &mut Call {
    seen.calls.iter_mut().find(|call| (call.place, call.attempt) == (place, attempt)).unwrap()
}

fn retry_record(place: Place, attempts: u32, due: i64) -> Retry {
    let (at, written) = ((0, due), due - DELAYS[0]);
    Retry { place, at, written, attempts, due, intact: true, unanswered: false }
}

fn retry(seen: &mut Seen, place: Place) -> &mut Retry {
    seen.retries.iter_mut().find(|retry| retry.place == place).unwrap()
}

/// A run in which every attempt of these failed for want of an answer that helps, as in an outage.
fn with_a_dead_letter_for(seen: &mut Seen, place: Place, attempts: u32, reason: Reason) {
    let written = call(seen, place, attempts).answered.map_or(0, |(at, _)| at + 1);
    seen.letters.push(Letter { place, written, attempts, reason, intact: true, unanswered: false });
}

#[test]
fn a_dead_letter_that_went_with_its_topic_is_not_lost_and_any_other_is() {
    let answered = |seen: &mut Seen| call(seen, INVALID, 1).answered.unwrap().0;
    let deleted = |after: i64| {
        faults_after(|seen| {
            seen.letters.retain(|letter| letter.place != INVALID);
            let at = answered(seen);
            seen.deletions = vec![(at + after, at + after + 100)];
        })
    };
    assert_eq!(deleted(0), []);
    assert_eq!(deleted(liveness::LATE), []);
    assert_eq!(deleted(liveness::LATE + 1), [Fault::Lost { place: INVALID }]);
    assert_eq!(deleted(-101), [Fault::Lost { place: INVALID }]);
}

#[test]
fn a_run_without_faults_has_none_and_nothing_twice() {
    let seen = faultless();
    assert_eq!(verify(&seen), []);
    let sums = Sums::of(&seen);
    assert_eq!((sums.records, sums.superseded, sums.aborted), (5, 1, 1));
    assert_eq!((sums.calls, sums.retries, sums.dead_letters), (9, 4, 2));
    assert_eq!((sums.cut_off, sums.repeated_calls, sums.repeated_routes, sums.unanswered), (0, 0, 0, 0));
}

#[test]
fn calls_that_were_made_twice_are_counted_and_no_fault() {
    let mut seen = faultless();
    for place in [GOOD, HOPELESS] {
        let twice = call(&mut seen, place, 1).clone();
        seen.calls.push(Call { began: 9_000, answered: None, caller: "main-2/1".into(), ..twice });
    }
    assert_eq!(verify(&seen), []);
    assert_eq!((Sums::of(&seen).cut_off, Sums::of(&seen).repeated_calls), (2, 2));
}

#[test]
fn a_lost_record_is_found_whether_it_was_good_or_a_dead_letter() {
    assert_eq!(faults_after(|seen| seen.calls.retain(|c| c.place != SAME_KEY)), [Fault::Lost { place: SAME_KEY }]);
    assert_eq!(faults_after(|seen| seen.letters.retain(|l| l.place != INVALID)), [Fault::Lost { place: INVALID }]);
    let unanswered = |seen: &mut Seen| call(seen, SAME_KEY, 1).answered = None;
    assert_eq!(faults_after(unanswered), [Fault::Lost { place: SAME_KEY }]);
}

#[test]
fn a_retry_record_that_led_to_nothing_is_found_also_when_another_one_did() {
    let lost = Fault::RetryLost { place: FAILS_ONCE, attempts: 1 };
    let not_called = |seen: &mut Seen| seen.calls.retain(|c| c.attempt == 1 || c.place != FAILS_ONCE);
    assert_eq!(faults_after(not_called), [Fault::Lost { place: FAILS_ONCE }, lost.clone()]);
    let two_for_one = |seen: &mut Seen| {
        seen.terms.exactly_once = false;
        let twice = *retry(seen, FAILS_ONCE);
        seen.retries.push(twice);
    };
    assert_eq!(faults_after(two_for_one), [lost]);
}

#[test]
fn what_was_routed_twice_is_a_fault_only_where_once_is_promised() {
    let twice = |seen: &mut Seen| {
        let (again, letter) = (*retry(seen, FAILS_ONCE), seen.letters[0]);
        let call = call(seen, FAILS_ONCE, 2).clone();
        seen.retries.push(again);
        seen.calls.push(call);
        seen.letters.push(letter);
    };
    let found = |place, attempts| Fault::RoutedTwice { place, attempts, times: 2 };
    // The second call of that attempt by the same worker, at the same time, is a fault of its own.
    let faults: Vec<_> =
        faults_after(twice).into_iter().filter(|fault| fault.promise() == "routed exactly once").collect();
    assert_eq!(faults, [found(FAILS_ONCE, 1), found(HOPELESS, MAX_ATTEMPTS)]);
    let mut seen = faultless();
    twice(&mut seen);
    seen.terms.exactly_once = false;
    assert!(verify(&seen).iter().all(|fault| fault.promise() != "routed exactly once"));
    assert_eq!(Sums::of(&seen).repeated_routes, 2);
}

#[test]
fn an_attempt_that_went_both_ways_was_routed_twice() {
    let both = |seen: &mut Seen| {
        let again = call(seen, FAILS_ONCE, 1).clone();
        seen.calls.push(Call { began: 2_000, answered: Some((2_001, 422)), ..again });
        with_a_dead_letter_for(seen, FAILS_ONCE, 1, Reason::Permanent);
    };
    assert_eq!(faults_after(both), [Fault::RoutedTwice { place: FAILS_ONCE, attempts: 1, times: 2 }]);
}

#[test]
fn a_route_that_no_answer_led_to_is_found() {
    let unfounded = |place, attempts| [Fault::Unfounded { place, attempts }];
    let wrongly = |seen: &mut Seen| with_a_dead_letter_for(seen, GOOD, 1, Reason::Permanent);
    assert_eq!(faults_after(wrongly), unfounded(GOOD, 1));
    let too_soon = |seen: &mut Seen| seen.letters[0].attempts = MAX_ATTEMPTS - 1;
    let faults = faults_after(|seen| {
        too_soon(seen);
        seen.terms.exactly_once = false;
    });
    assert_eq!(faults, unfounded(HOPELESS, MAX_ATTEMPTS - 1));
    let rejected = |seen: &mut Seen| seen.letters[1].reason = Reason::Other;
    assert_eq!(faults_after(rejected), unfounded(INVALID, 1));
    let miscounted = |seen: &mut Seen| retry(seen, FAILS_ONCE).attempts = 2;
    let faults = faults_after(miscounted);
    assert!(faults.contains(&Fault::Unfounded { place: FAILS_ONCE, attempts: 2 }), "{faults:?}");
    assert!(faults.contains(&Fault::Unasked { place: FAILS_ONCE, attempt: 2 }), "{faults:?}");
}

#[test]
fn a_route_that_says_that_there_was_no_answer_needs_none() {
    let mut seen = faultless();
    call(&mut seen, FAILS_ONCE, 1).answered = None;
    retry(&mut seen, FAILS_ONCE).unanswered = true;
    assert_eq!(verify(&seen), []);
    assert_eq!(Sums::of(&seen).unanswered, 1);
}

#[test]
fn an_outage_makes_dead_letters_that_are_no_fault() {
    let mut seen = faultless();
    let statuses = seen.calls.iter_mut().filter(|call| call.place == HOPELESS);
    statuses.for_each(|call| call.answered = call.answered.map(|(at, _)| (at, 503)));
    let first = call(&mut seen, GOOD, 1).clone();
    seen.calls.push(Call { began: 8_000, answered: Some((8_001, 503)), caller: "main-2/1".into(), ..first.clone() });
    seen.retries.push(retry_record(GOOD, 1, 8_300));
    let caller = "retry-1/1".to_owned();
    seen.calls.push(Call { attempt: 2, began: 8_300, answered: Some((8_310, 200)), caller, ..first });
    assert_eq!(verify(&seen), []);
}

#[test]
fn an_attempt_too_many_is_found_in_a_call_and_in_a_retry_record() {
    let asked = |seen: &mut Seen| {
        let last = call(seen, HOPELESS, MAX_ATTEMPTS).clone();
        seen.calls.push(Call { attempt: MAX_ATTEMPTS + 1, began: 9_000, answered: Some((9_001, 503)), ..last });
        let (place, attempts) = (HOPELESS, MAX_ATTEMPTS);
        seen.terms.exactly_once = false;
        seen.retries.push(retry_record(place, attempts, 8_000));
    };
    let too_many = |attempts| Fault::TooManyAttempts { place: HOPELESS, attempts };
    assert_eq!(faults_after(asked), [too_many(MAX_ATTEMPTS), too_many(MAX_ATTEMPTS + 1)]);
}

#[test]
fn an_early_retry_is_found_and_so_is_one_that_nobody_asked_for() {
    let early = |seen: &mut Seen| call(seen, FAILS_ONCE, 2).began -= 7;
    assert_eq!(faults_after(early), [Fault::Early { place: FAILS_ONCE, attempt: 2, millis: 7 }]);
    let short = |seen: &mut Seen| retry(seen, FAILS_ONCE).due -= 9;
    assert_eq!(faults_after(short), [Fault::DueTooSoon { place: FAILS_ONCE, attempts: 1, millis: 9 }]);
    let unasked = |seen: &mut Seen| seen.retries.retain(|retry| retry.place != FAILS_ONCE);
    assert_eq!(faults_after(unasked), [Fault::Unasked { place: FAILS_ONCE, attempt: 2 }]);
}

#[test]
fn a_record_that_overtakes_the_one_before_it_in_its_lane_is_found() {
    let overtaking = [Fault::OutOfOrder { first: GOOD, second: SAME_KEY }];
    let overtake = |seen: &mut Seen| {
        let caller = "main-2/1".into();
        let again = call(seen, SAME_KEY, 1).clone();
        seen.calls.push(Call { began: 900, answered: Some((901, 200)), caller, ..again });
    };
    assert_eq!(faults_after(overtake), overtaking);
    let unordered = |seen: &mut Seen| {
        overtake(seen);
        seen.terms.ordering = Ordering::Unordered;
    };
    assert_eq!(faults_after(unordered), []);
    let other_key = |seen: &mut Seen| {
        overtake(seen);
        seen.originals.get_mut(&GOOD).unwrap().key = None;
    };
    assert_eq!(faults_after(other_key), []);
    let by_partition = |seen: &mut Seen| {
        other_key(seen);
        seen.terms.ordering = Ordering::Partition;
    };
    assert_eq!(faults_after(by_partition), overtaking);
}

#[test]
fn a_repeated_call_is_not_out_of_order() {
    let repeated = |seen: &mut Seen| {
        let again = call(seen, GOOD, 1).clone();
        seen.calls.push(Call { began: 9_000, answered: Some((9_005, 200)), caller: "main-2/1".into(), ..again });
    };
    assert_eq!(faults_after(repeated), []);
}

#[test]
fn a_lane_that_waits_for_retries_is_held_to_the_end_of_them() {
    let kept = |until: i64| {
        let mut seen = faultless();
        seen.terms.keeps_order = true;
        seen.retries.clear();
        call(&mut seen, FAILS_ONCE, 2).caller = "main-1/1".into();
        // The last record of the lane of one that fails once.
        let ended = call(&mut seen, FAILS_ONCE, 2).answered.unwrap().0;
        let (place, caller, began) = ((0, 6), "main-2/1".to_owned(), ended + until);
        let original =
            Original { key: Some("b".into()), standing: Standing::Readable, written: began, is_in_burst: false };
        seen.originals.insert(place, original);
        seen.calls.push(Call {
            place,
            attempt: 1,
            caller,
            intact: true,
            began,
            answered: Some((began + 1, 200)),
            gone: None,
        });
        verify(&seen)
    };
    assert_eq!(kept(0), []);
    assert_eq!(kept(-1), [Fault::OutOfOrder { first: FAILS_ONCE, second: (0, 6) }]);
}

#[test]
fn two_calls_of_a_lane_at_once_are_found_when_one_worker_made_them() {
    let at_once = |caller: &'static str| {
        move |seen: &mut Seen| {
            let first = call(seen, GOOD, 1).clone();
            let (began, caller) = (first.began + 2, caller.to_owned());
            seen.calls.push(Call { began, answered: Some((began + 9, 200)), caller, ..first });
        }
    };
    let callers = ["main-1/1".to_owned(), "main-1/1".to_owned()];
    let found = Fault::SideBySide { callers, places: [GOOD, GOOD] };
    assert!(faults_after(at_once("main-1/1")).contains(&found));
    // One that was paused does not know yet that another one has its partitions.
    assert_eq!(faults_after(at_once("main-2/1")), []);
}

#[test]
fn two_workers_that_call_a_lane_at_once_are_found_while_none_can_have_missed_a_rebalance() {
    let at_once = |quiet: (i64, i64)| {
        faults_after(|seen| {
            let first = call(seen, GOOD, 1).clone();
            let began = first.began + 2;
            let caller = "main-2/1".to_owned();
            seen.calls.push(Call { began, answered: Some((began + 1, 200)), caller, ..first });
            seen.quiet = vec![quiet];
        })
    };
    let callers = ["main-1/1".to_owned(), "main-2/1".to_owned()];
    assert_eq!(at_once((0, 9_000)), [Fault::SideBySide { callers, places: [GOOD, GOOD] }]);
    assert_eq!(at_once((1_001, 9_000)), []);
}

/// A worker that said that it had finished.
fn stopped_cleanly(seen: &mut Seen) {
    seen.quiet = vec![(0, 90_000)];
    seen.stops = vec![Stop { worker: "main-1/1".into(), from: 7_000, until: 8_000, code: Some(0) }];
}

#[test]
fn what_a_clean_stop_cut_off_or_did_not_commit_is_found() {
    assert_eq!(faults_after(stopped_cleanly), []);
    let cut_off = |seen: &mut Seen| {
        stopped_cleanly(seen);
        let first = call(seen, GOOD, 1).clone();
        seen.calls.push(Call { began: 7_500, answered: None, ..first });
    };
    assert_eq!(faults_after(cut_off), [Fault::CutOff { caller: "main-1/1".into(), place: GOOD }]);
    let again = |seen: &mut Seen| {
        stopped_cleanly(seen);
        let first = call(seen, GOOD, 1).clone();
        seen.calls.push(Call { began: 9_500, answered: Some((9_501, 200)), caller: "main-2/1".into(), ..first });
    };
    assert_eq!(faults_after(again), [Fault::CalledAgain { caller: "main-1/1".into(), place: GOOD }]);
    for excuse in [|seen: &mut Seen| seen.stops[0].code = Some(1), |seen: &mut Seen| seen.quiet.clear()] {
        let excused = faults_after(|seen| {
            again(seen);
            excuse(seen);
        });
        assert_eq!(excused, []);
    }
}

#[test]
fn changed_bytes_are_found_wherever_they_come_out() {
    let found = |place, what| [Fault::Changed { place, what }];
    assert_eq!(faults_after(|seen| call(seen, GOOD, 1).intact = false), found(GOOD, "call"));
    assert_eq!(faults_after(|seen| retry(seen, FAILS_ONCE).intact = false), found(FAILS_ONCE, "retry record"));
    assert_eq!(faults_after(|seen| seen.letters[1].intact = false), found(INVALID, "dead letter"));
}

#[test]
fn a_record_under_another_ones_name_or_from_an_aborted_transaction_is_found() {
    let add = |place| {
        move |seen: &mut Seen| {
            let call = call(seen, GOOD, 1).clone();
            seen.calls.push(Call { place, ..call });
        }
    };
    let what = "call";
    assert!(faults_after(add((0, 3))).contains(&Fault::UnknownPlace { place: (0, 3), what }));
    assert!(faults_after(add(ABORTED)).contains(&Fault::AbortedSeen { place: ABORTED, what }));
    let retried = |seen: &mut Seen| retry(seen, FAILS_ONCE).place = ABORTED;
    assert!(faults_after(retried).contains(&Fault::AbortedSeen { place: ABORTED, what: "retry record" }));
}

#[test]
fn a_record_that_was_compacted_away_may_have_been_seen_or_not() {
    let seen_once = |seen: &mut Seen| {
        let (caller, answered) = ("main-3/1".to_owned(), Some((501, 200)));
        seen.calls.push(Call { place: SUPERSEDED, attempt: 1, caller, intact: true, began: 500, answered, gone: None });
    };
    assert_eq!(faults_after(seen_once), []);
    let readable = |seen: &mut Seen| seen.originals.get_mut(&SUPERSEDED).unwrap().standing = Standing::Readable;
    assert_eq!(faults_after(readable), [Fault::Lost { place: SUPERSEDED }]);
}

#[test]
fn offsets_short_of_the_end_or_beyond_it_are_found() {
    for committed in [None, Some(4)] {
        let faults = faults_after(|seen| seen.reach[0].committed = committed);
        assert!(matches!(&faults[..], [Fault::Uncommitted(reach)] if reach.committed == committed));
    }
    assert_eq!(faults_after(|seen| seen.reach[0].committed = Some(7)), []);
    let faults = faults_after(|seen| seen.reach[0].committed = Some(8));
    assert!(matches!(&faults[..], [Fault::CommittedTooFar(_)]));
}

#[test]
fn every_fault_breaks_a_promise_that_the_summary_lists() {
    let stop = Stop { worker: "main-1".into(), from: 0, until: 1, code: None };
    let by_hand = [Fault::UncleanStop(stop), Fault::Died { worker: "main-1".into(), status: "1".into() }];
    let found = faults_after(|seen| {
        seen.reach[0].committed = None;
        seen.calls.clear();
    });
    for fault in found.iter().chain(&by_hand) {
        assert!(Fault::PROMISES.contains(&fault.promise()), "{fault:?}");
    }
}
