//! That the rules of liveness find what stands still or comes late, and take nothing else for it.

use super::super::variant::Ordering;
use super::super::verdict::{Letter, Original, Reason, Terms};
use super::*;

/// A record that is written every second to each of two partitions, each with a key of its own, is called at once, answered
/// soon, and committed a second later. Of partition 0, the fifth one fails for good, and the tenth one once.
fn lively() -> Seen {
    let topics = ["orders", "orders.retry"].map(str::to_owned);
    let mut seen = Seen { topics, calm: vec![(0, 60_000)], ..Seen::default() };
    for place in (0..40).flat_map(|offset| [(0, offset), (1, offset)]) {
        let written = at(place);
        let key = Some(format!("{place:?}").into_bytes());
        seen.originals.insert(place, Original { key, standing: Standing::Readable, written, is_in_burst: false });
        let status = match place {
            DEAD => 422,
            RETRIED => 503,
            _ => 200,
        };
        seen.calls.push(call(place, 1, written + 20, status));
    }
    for (topic, partition) in [(0, 0), (0, 1), (1, 0)] {
        let committed = |second: i64| if topic == 0 { Some(second - 1) } else { Some(i64::from(second > 13)) };
        let looks = (1..42).map(|second| (second * 1_000 + 500, committed(second).map(|offset| offset.min(40))));
        seen.commits.push(Commits { topic: seen.topics[topic].clone(), partition, looks: looks.collect() });
    }
    let (place, attempts, due) = (RETRIED, 1, at(RETRIED) + 500);
    let written = at(RETRIED) + 300;
    seen.retries.push(Retry { place, at: (0, 0), written, attempts, due, intact: true, unanswered: false });
    seen.calls.push(call(RETRIED, 2, due + 10, 200));
    let (place, reason, written) = (DEAD, Reason::Permanent, at(DEAD) + 300);
    seen.letters.push(Letter { place, written, attempts, reason, intact: true, unanswered: false });
    seen
}

const DEAD: Place = (0, 5);
const RETRIED: Place = (0, 10);

/// When a record is written.
fn at(place: Place) -> i64 {
    1_000 + place.1 * 1_000
}

fn call(place: Place, attempt: u32, began: i64, status: u16) -> Call {
    let answered = Some((began + 50, status));
    Call { place, attempt, caller: "main-1/1".into(), intact: true, began, answered, gone: None }
}

fn found_after(change: impl FnOnce(&mut Seen)) -> Vec<Fault> {
    let (mut seen, mut faults) = (lively(), vec![]);
    change(&mut seen);
    check(&seen, &mut faults);
    faults
}

fn stalled(topic: &str, partition: i32, what: &'static str, from: i64, until: i64) -> Fault {
    Fault::Stalled { topic: topic.into(), partition, what, from, until }
}

/// Records of a partition that are written from one second to another are called at the end of that time only.
fn hold_calls(seen: &mut Seen, partition: i32, seconds: std::ops::Range<i64>) {
    for call in seen.calls.iter_mut().filter(|call| call.place.0 == partition) {
        if seconds.contains(&(call.began / 1_000)) {
            call.began = seconds.end * 1_000;
            call.answered = call.answered.map(|(_, status)| (call.began + 50, status));
        }
    }
}

/// What is committed in a partition stays as it is for so many seconds.
fn hold_commits(seen: &mut Seen, index: usize, seconds: std::ops::Range<i64>) {
    let looks = &mut seen.commits[index].looks;
    let offset = looks[seconds.start as usize].1;
    looks[seconds.start as usize..seconds.end as usize].iter_mut().for_each(|look| look.1 = offset);
}

#[test]
fn where_everything_goes_on_nothing_is_found() {
    assert_eq!(found_after(|_| {}), []);
    assert_eq!(found_after(|seen| hold_calls(seen, 0, 20..24)), []);
    assert_eq!(found_after(|seen| hold_commits(seen, 0, 20..25)), []);
}

#[test]
fn a_partition_of_which_nothing_is_called_while_others_are_is_found() {
    let held = |seen: &mut Seen| hold_calls(seen, 1, 20..27);
    assert_eq!(found_after(held), [stalled("orders", 1, "calls", 20_000, 27_000)]);
    let not_calm = |seen: &mut Seen| {
        held(seen);
        seen.calm = vec![(0, 21_000), (23_000, 60_000)];
    };
    assert_eq!(found_after(not_calm), []);
    let nothing_there = |seen: &mut Seen| {
        held(seen);
        let late = seen.originals.iter_mut().filter(|(place, _)| place.0 == 1 && (19..26).contains(&place.1));
        late.for_each(|(_, original)| original.written = 25_000);
    };
    assert_eq!(found_after(nothing_there), []);
    let not_readable = |seen: &mut Seen| {
        held(seen);
        let gone = seen.originals.iter_mut().filter(|(place, _)| place.0 == 1 && (19..26).contains(&place.1));
        gone.for_each(|(_, original)| original.standing = Standing::Superseded);
    };
    assert_eq!(found_after(not_readable), []);
    let all = |seen: &mut Seen| {
        held(seen);
        hold_calls(seen, 0, 20..27);
    };
    assert_eq!(found_after(all), [], "when nothing is called at all, others did not go on");
}

#[test]
fn a_lane_that_waits_for_an_answer_is_not_stalled() {
    let unanswered = |ordering| {
        found_after(|seen| {
            seen.terms = Terms { ordering, ..Terms::default() };
            hold_calls(seen, 1, 20..27);
            hold_commits(seen, 1, 20..27);
            let first = seen.calls.iter_mut().find(|call| call.place == (1, 18)).unwrap();
            first.answered = Some((26_900, 200));
        })
    };
    assert_eq!(unanswered(Ordering::Partition), []);
    assert_eq!(unanswered(Ordering::Key), [stalled("orders", 1, "calls", 20_000, 27_000)]);
}

#[test]
fn a_committed_offset_that_stays_at_a_finished_record_is_found() {
    let held = |seen: &mut Seen| hold_commits(seen, 1, 20..29);
    assert_eq!(found_after(held), [stalled("orders", 1, "commits", 21_500, 29_500)]);
    let unanswered = |seen: &mut Seen| {
        held(seen);
        let first = seen.calls.iter_mut().find(|call| call.place == (1, 20)).unwrap();
        first.answered = Some((26_000, 200));
    };
    assert_eq!(found_after(unanswered), []);
    let never = |seen: &mut Seen| seen.commits[2].looks.iter_mut().for_each(|look| look.1 = None);
    assert_eq!(found_after(never), [stalled("orders.retry", 0, "commits", at(RETRIED) + 560, 41_500)]);
}

#[test]
fn a_dead_letter_that_is_refused_holds_back_its_own_offset_and_nothing_else() {
    let refused = |seen: &mut Seen| {
        // The look that finds the offset of the dead letter comes half a second after it has failed.
        seen.refusals = vec![(at(DEAD) - 500, 14_000)];
        seen.letters[0].written = 14_500;
        hold_commits(seen, 0, 5..13);
    };
    assert_eq!(found_after(refused), []);
    let others = |seen: &mut Seen| {
        refused(seen);
        hold_commits(seen, 1, 5..13);
    };
    assert_eq!(found_after(others), [stalled("orders", 1, "commits", 6_500, 13_500)]);
    let accepted = |seen: &mut Seen| {
        refused(seen);
        seen.refusals.clear();
    };
    let (place, what, due) = (DEAD, "dead letter", at(DEAD) + 70);
    let late = Fault::Late { place, attempt: 1, what, due, millis: 14_500 - due };
    assert_eq!(found_after(accepted), [stalled("orders", 0, "commits", 6_500, 13_500), late]);
}

#[test]
fn a_retry_that_begins_late_is_found_unless_its_lane_was_busy() {
    let late = |seen: &mut Seen| {
        let retry = seen.calls.last_mut().unwrap();
        retry.began += 3_000;
        retry.answered = None;
    };
    let due = at(RETRIED) + 500;
    let found = [Fault::Late { place: RETRIED, attempt: 2, what: "call", due, millis: 3_010 }];
    assert_eq!(found_after(late), found);
    let never = |seen: &mut Seen| drop(seen.calls.pop());
    let found = [Fault::Late { place: RETRIED, attempt: 2, what: "call", due, millis: 60_000 - due }];
    assert_eq!(found_after(never), found);
    let busy = |answered, gone| {
        move |seen: &mut Seen| {
            late(seen);
            // Another record of the retry topic whose lane is the same.
            let place = (1, 9);
            let other = Retry { place, at: (0, 1), due: 10_000, written: 10_000, ..seen.retries[0] };
            seen.retries.push(other);
            seen.commits.clear();
            seen.originals.get_mut(&place).unwrap().key = seen.originals[&RETRIED].key.clone();
            seen.calls.push(Call { answered, gone, ..call(place, 2, 10_010, 200) });
        }
    };
    assert_eq!(found_after(busy(Some((12_500, 200)), None)), []);
    assert_eq!(found_after(busy(None, Some(12_500))), [], "until it was given up");
    assert_ne!(found_after(busy(None, None)), []);
    let not_calm = |seen: &mut Seen| {
        late(seen);
        seen.calm = vec![(0, 13_000)];
    };
    assert_eq!(found_after(not_calm), []);
}

#[test]
fn what_waits_behind_a_burst_is_not_late_and_what_is_elsewhere_is() {
    let late = |seen: &mut Seen| seen.calls.last_mut().unwrap().began += 3_000;
    let burst_in = |retry_partition| {
        move |seen: &mut Seen| {
            late(seen);
            let place = (1, 9);
            seen.originals.get_mut(&place).unwrap().is_in_burst = true;
            let burst = Retry { place, at: (retry_partition, 1), due: 9_000, written: 9_000, ..seen.retries[0] };
            seen.retries.push(burst);
            seen.commits.clear();
            seen.calls.push(call(place, 2, 12_500, 200));
        }
    };
    assert_eq!(found_after(burst_in(0)), []);
    let found = found_after(burst_in(1));
    assert!(matches!(found[..], [Fault::Late { place: RETRIED, .. }]), "{found:?}");
}

#[test]
fn how_long_things_took_at_the_longest_is_told() {
    let mut seen = lively();
    seen.letters[0].written = at(DEAD) + 70 + 2_000;
    assert_eq!(longest(&seen)["dead letter"], 2_000);
}

#[test]
fn a_retry_that_keeps_its_lane_is_late_when_its_delay_has_long_passed() {
    let begins = |after: i64| {
        found_after(|seen| {
            seen.terms.keeps_order = true;
            seen.retries.clear();
            seen.calls.last_mut().unwrap().began = at(RETRIED) + 70 + after;
        })
    };
    assert_eq!(begins(DELAYS[0] * 3 / 2 + LATE), []);
    let due = at(RETRIED) + 70 + DELAYS[0] * 3 / 2;
    let late = Fault::Late { place: RETRIED, attempt: 2, what: "call", due, millis: LATE + 1 };
    assert_eq!(begins(DELAYS[0] * 3 / 2 + LATE + 1), [late]);
}

#[test]
fn a_record_that_is_written_long_after_its_answer_is_found() {
    let late = |place: Place, what| {
        let due = at(place) + 70;
        [Fault::Late { place, attempt: 1, what, due, millis: 3_001 }]
    };
    let written = at(DEAD) + 70 + 3_001;
    assert_eq!(found_after(|seen| seen.letters[0].written = written), late(DEAD, "dead letter"));
    let written = at(RETRIED) + 70 + 3_001;
    let retry = |seen: &mut Seen| {
        seen.retries[0].written = written;
        seen.calls.last_mut().unwrap().began = written;
    };
    assert_eq!(found_after(retry), late(RETRIED, "retry record"));
    let unanswered = |seen: &mut Seen| {
        retry(seen);
        seen.retries[0].unanswered = true;
    };
    assert_eq!(found_after(unanswered), []);
}
