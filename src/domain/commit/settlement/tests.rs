//! The order in which a stage settles, what it sets apart, and what it gives up.

use super::*;
use crate::domain::commit::offsets::{Begun, Offsets};

/// A record that goes to a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Letter {
    offset: i64,
    topic: Arc<str>,
}

impl Outbound for Letter {
    fn offset(&self) -> i64 {
        self.offset
    }

    fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    fn bytes(&self) -> usize {
        100
    }
}

fn letter(offset: i64, topic: &str) -> Letter {
    Letter { offset, topic: topic.into() }
}

const FIRST: AssignmentId = AssignmentId(1);
const SECOND: AssignmentId = AssignmentId(2);

/// A settlement of two partitions that have read ten records each, and a clock.
struct Stage {
    settlement: Settlement<Letter>,
    states: [Arc<PartitionState>; 2],
    now: Instant,
}

impl Stage {
    fn new(delivery: Delivery) -> Self {
        let now = Instant::now();
        let state = || {
            let mut offsets = Offsets::resume(0, vec![]);
            (0..10).for_each(|offset| assert_eq!(offsets.begin(offset), Begun::InFlight));
            Arc::new(PartitionState::new(offsets, 100))
        };
        let (states, mut settlement) = ([state(), state()], Settlement::new(delivery, now));
        settlement.assign(FIRST, 0, states[0].clone());
        settlement.assign(SECOND, 1, states[1].clone());
        settlement.begin_rounds();
        settlement.begin_deliveries();
        Self { settlement, states, now }
    }

    fn settle(&mut self, assignment: AssignmentId, finished: &[i64], letters: &[Letter]) {
        self.settlement.settle(assignment, finished.to_vec(), letters.to_vec());
    }

    fn next(&mut self) -> Option<Step<Letter>> {
        self.settlement.next(self.now)
    }

    fn wait(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
    }

    /// What is written next, if it is by a round.
    fn writes(&mut self) -> Vec<i64> {
        match self.next() {
            Some(Step::Write(letters, _)) => letters.iter().map(|letter| letter.offset).collect(),
            other => panic!("{other:?}"),
        }
    }

    /// What the second producer writes next.
    fn delivers(&mut self) -> (Vec<i64>, Choice) {
        match self.next() {
            Some(Step::Deliver(letters, choice)) => (letters.iter().map(|letter| letter.offset).collect(), choice),
            other => panic!("{other:?}"),
        }
    }

    /// Ends a round in which this topic has refused what goes there.
    fn end_write(&mut self, letters: &[Letter], refusing: &str, refusal: Refusal) -> Vec<Letter> {
        let written = self.outcome(letters, refusing, refusal);
        self.settlement.end_write(written, self.now)
    }

    fn outcome(&self, letters: &[Letter], refusing: &str, refusal: Refusal) -> Vec<Written<Letter>> {
        let is_refused = |letter: &Letter| &*letter.topic == refusing;
        let why = |letter: &Letter| is_refused(letter).then_some(refusal);
        let outcome = |letter: &Letter| match self.settlement.delivery {
            Delivery::AtLeastOnce if !is_refused(letter) => Ok(letter.clone()),
            _ => Err(Unwritten { record: letter.clone(), refusal: why(letter) }),
        };
        letters.iter().map(outcome).collect()
    }
}

fn commits(step: Option<Step<Letter>>) -> Vec<(i32, i64)> {
    match step {
        Some(Step::Commit(commits) | Step::CommitDelivered(commits)) => {
            commits.iter().map(|commit| (commit.partition, commit.offset)).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_was_processed_is_committed_twice_a_second_and_what_failed_is_written_at_once() {
    let mut stage = Stage::new(Delivery::ExactlyOnce);
    stage.settle(FIRST, &[0, 1], &[]);
    assert!(stage.next().is_none(), "no commit is due yet");
    stage.settle(FIRST, &[], &[letter(2, "dlt")]);
    assert_eq!(stage.writes(), [2]);
    assert!(stage.next().is_none(), "one round after the other");
    assert_eq!(stage.settlement.end_write(vec![Ok(letter(2, "dlt"))], stage.now), [letter(2, "dlt")]);
    stage.settle(SECOND, &[0], &[]);
    stage.wait(500);
    assert_eq!(commits(stage.next()), [(1, 1)], "that of the first partition came with its record");
    stage.settlement.end_commit(true, stage.now);
    stage.wait(500);
    assert!(stage.next().is_none(), "Kafka has it all");
}

#[test]
fn a_commit_that_is_due_comes_before_what_is_to_be_written() {
    let mut stage = Stage::new(Delivery::ExactlyOnce);
    stage.settle(FIRST, &[], &[letter(0, "dlt")]);
    stage.settle(SECOND, &[0], &[]);
    stage.wait(500);
    assert_eq!(commits(stage.next()), [(0, 0), (1, 1)]);
}

#[test]
fn a_topic_that_refuses_is_tried_beside_the_rounds_and_holds_up_nothing() {
    let mut stage = Stage::new(Delivery::ExactlyOnce);
    let letters = [letter(0, "odd"), letter(1, "dlt")];
    stage.settle(FIRST, &[], &letters);
    assert_eq!(stage.writes(), [0, 1]);
    assert_eq!(stage.end_write(&letters, "odd", Refusal::Refused), []);
    assert_eq!(stage.settlement.notes(), [Note::SetApart("odd".into())]);
    assert_eq!(stage.writes(), [1], "at once");
    stage.settlement.end_write(vec![Ok(letter(1, "dlt"))], stage.now);
    assert!(stage.next().is_none(), "not at once");
    stage.wait(100);
    assert_eq!(stage.delivers(), (vec![0], Choice::Again));
    stage.settle(SECOND, &[0], &[letter(1, "dlt"), letter(2, "odd")]);
    assert_eq!(stage.writes(), [1], "what goes to the topic is no part of a round");
    stage.settlement.end_write(vec![Ok(letter(1, "dlt"))], stage.now);
    let refused = stage.outcome(&letters[..1], "odd", Refusal::Refused);
    stage.settlement.end_delivery(refused, stage.now);
    assert_eq!(stage.delivers(), (vec![2], Choice::Fresh), "it may be another matter with this one");
    stage.settlement.end_delivery(vec![Ok(letter(2, "odd"))], stage.now);
    assert_eq!(commits(stage.next()), [(1, 3)], "in its turn");
    assert_eq!(stage.settlement.end_delivered(true, stage.now), [letter(2, "odd")]);
    stage.wait(200);
    assert_eq!(stage.delivers(), (vec![0], Choice::Again));
    stage.settlement.end_delivery(vec![Ok(letter(0, "odd"))], stage.now);
    assert_eq!(commits(stage.next()), [(0, 2)]);
    stage.settlement.end_delivered(true, stage.now);
    stage.wait(10_000);
    stage.settle(FIRST, &[], &[letter(2, "odd")]);
    assert_eq!(stage.writes(), [2], "it is trusted again");
    assert_eq!(stage.settlement.notes(), [Note::TakenBack("odd".into())]);
}

#[test]
fn a_topic_is_tried_less_and_less_often() {
    let mut stage = Stage::new(Delivery::AtLeastOnce);
    stage.settle(FIRST, &[], &[letter(0, "odd")]);
    assert_eq!(stage.writes(), [0]);
    let refused = || vec![Err(Unwritten { record: letter(0, "odd"), refusal: Some(Refusal::Refused) })];
    stage.settlement.end_write(refused(), stage.now);
    let mut pauses = vec![];
    for _ in 0..12 {
        let before = stage.now;
        while !matches!(stage.next(), Some(Step::Deliver(..))) {
            stage.now = stage.settlement.wake(stage.now).unwrap();
        }
        stage.settlement.end_delivery(refused(), stage.now);
        pauses.push((stage.now - before).as_millis());
    }
    assert_eq!(pauses[..4], [100, 200, 400, 800]);
    assert_eq!(pauses[9..], [51_200, 60_000, 60_000]);
}

#[test]
fn one_that_is_too_large_is_tried_alone_and_its_topic_is_not_set_apart() {
    let mut stage = Stage::new(Delivery::ExactlyOnce);
    let letters = [letter(0, "dlt"), letter(1, "dlt")];
    stage.settle(FIRST, &[], &letters);
    assert_eq!(stage.writes(), [0, 1]);
    let too_large = Err(Unwritten { record: letter(0, "dlt"), refusal: Some(Refusal::TooLarge) });
    let undone = Err(Unwritten { record: letter(1, "dlt"), refusal: None });
    stage.settlement.end_write(vec![too_large, undone], stage.now);
    assert_eq!(stage.writes(), [1]);
    stage.wait(100);
    assert_eq!(stage.delivers(), (vec![0], Choice::Again));
    assert_eq!(stage.settlement.notes(), []);
}

#[test]
fn a_bad_record_does_not_undo_the_good_ones_beside_it_again_and_again() {
    let mut stage = Stage::new(Delivery::ExactlyOnce);
    stage.settle(FIRST, &[], &[letter(0, "odd")]);
    assert_eq!(stage.writes(), [0]);
    let refused = |offset| Err(Unwritten { record: letter(offset, "odd"), refusal: Some(Refusal::Away) });
    stage.settlement.end_write(vec![refused(0)], stage.now);
    stage.settle(FIRST, &[], &[letter(1, "odd"), letter(2, "odd")]);
    stage.wait(100);
    assert_eq!(stage.delivers(), (vec![1, 2], Choice::Fresh));
    let undone = |offset| Err(Unwritten { record: letter(offset, "odd"), refusal: None });
    stage.settlement.end_delivery(vec![refused(1), undone(2)], stage.now);
    assert_eq!(stage.delivers(), (vec![0, 1], Choice::Again));
    stage.settlement.end_delivery(vec![refused(0), undone(1)], stage.now);
    stage.settle(FIRST, &[], &[letter(3, "odd")]);
    stage.wait(200);
    assert_eq!(stage.delivers(), (vec![2], Choice::Fresh), "the one that was fine, without others");
}

#[test]
fn what_a_topic_refuses_is_left_to_the_next_owner_and_the_rest_is_given_up_in_order() {
    let mut stage = Stage::new(Delivery::ExactlyOnce);
    let letters = [letter(0, "odd"), letter(1, "dlt")];
    stage.settle(FIRST, &[2, 3], &letters);
    stage.writes();
    stage.end_write(&letters, "odd", Refusal::Refused);
    assert_eq!(stage.writes(), [1]);
    let deadline = stage.now + Duration::from_secs(25);
    assert!(stage.settlement.release(FIRST, deadline, stage.now));
    assert_eq!(stage.delivers(), (vec![0], Choice::Again), "once more, at once");
    stage.settlement.end_write(vec![Ok(letter(1, "dlt"))], stage.now);
    stage.settlement.end_delivery(stage.outcome(&letters[..1], "odd", Refusal::Refused), stage.now);
    let gave_up = Note::GaveUp { partition: 0, records: 1, why: "they are refused by their topic" };
    assert!(stage.settlement.notes().contains(&gave_up));
    assert!(matches!(
        stage.next(),
        Some(Step::Release { assignment: FIRST, partition: 0, is_committed: true, is_clean: false })
    ));
    assert!(!stage.settlement.release(FIRST, deadline, stage.now), "it is gone");
    assert_eq!(stage.states[0].offsets().watermark(), Some(0));
}

#[test]
fn what_a_topic_refused_of_a_partition_that_is_kept_is_tried_while_another_one_is_given_up() {
    let mut stage = Stage::new(Delivery::AtLeastOnce);
    let letters = [letter(0, "odd"), letter(1, "odd")];
    stage.settle(FIRST, &[], &letters[..1]);
    stage.settle(SECOND, &[], &letters[1..]);
    stage.writes();
    stage.end_write(&letters, "odd", Refusal::Refused);
    stage.settle(FIRST, &[], &[letter(2, "dlt")]);
    assert_eq!(stage.writes(), [2], "a round that takes long keeps it from being given up");
    stage.settlement.release(FIRST, stage.now + Duration::from_secs(25), stage.now);
    assert_eq!(stage.delivers(), (vec![0], Choice::Again), "what is given up comes first");
    stage.settlement.end_delivery(stage.outcome(&letters[..1], "odd", Refusal::Refused), stage.now);
    stage.wait(400);
    assert_eq!(stage.delivers(), (vec![1], Choice::Again));
}

#[test]
fn what_is_given_up_is_tried_though_older_records_of_a_kept_partition_wait_for_the_same_topic() {
    let mut stage = Stage::new(Delivery::ExactlyOnce);
    let letters = [letter(0, "odd"), letter(1, "odd")];
    stage.settle(FIRST, &[], &letters);
    stage.writes();
    // The second one is not to blame, and goes before all that come later.
    let refused = Err(Unwritten { record: letters[0].clone(), refusal: Some(Refusal::Refused) });
    let undone = Err(Unwritten { record: letters[1].clone(), refusal: None });
    stage.settlement.end_write(vec![refused, undone], stage.now);
    stage.settle(SECOND, &[], &[letter(0, "odd")]);
    stage.settlement.release(SECOND, stage.now + Duration::from_secs(25), stage.now);
    assert_eq!(commits(stage.next()), [(1, 0)], "where it begins");
    stage.settlement.end_commit(true, stage.now);
    assert_eq!(stage.delivers(), (vec![0], Choice::Fresh), "what is given up");
    assert_eq!(stage.settlement.end_delivery(vec![Ok(letter(0, "odd"))], stage.now), []);
    assert_eq!(commits(stage.next()), [(1, 1)]);
    stage.settlement.end_delivered(true, stage.now);
    assert!(matches!(stage.next(), Some(Step::Release { assignment: SECOND, is_clean: true, .. })));
}

#[test]
fn of_a_partition_that_was_lost_nothing_is_committed_nor_of_the_transaction_that_it_is_in() {
    let mut stage = Stage::new(Delivery::ExactlyOnce);
    let letters = [letter(0, "odd"), letter(0, "odd")];
    stage.settle(FIRST, &[], &letters[..1]);
    stage.settle(SECOND, &[], &letters[1..]);
    stage.writes();
    stage.end_write(&letters, "odd", Refusal::Away);
    stage.wait(100);
    assert_eq!(stage.delivers(), (vec![0, 0], Choice::Again));
    stage.settlement.lose(FIRST);
    stage.settlement.end_delivery(letters.iter().cloned().map(Ok).collect(), stage.now);
    assert!(matches!(stage.next(), Some(Step::AbortDelivered)));
    stage.wait(2_000);
    assert_eq!(commits(stage.next()), [(1, 0)], "where it begins");
    assert_eq!(stage.delivers(), (vec![0], Choice::Again));
    stage.settlement.end_commit(true, stage.now);
    stage.settlement.end_delivery(vec![Ok(letter(0, "odd"))], stage.now);
    assert_eq!(commits(stage.next()), [(1, 1)]);
}

#[test]
fn a_partition_with_much_to_write_leaves_room_for_the_others() {
    let mut stage = Stage::new(Delivery::AtLeastOnce);
    let flood = |from: i64| (from..from + 30_000).map(|offset| letter(offset, "dlt")).collect::<Vec<_>>();
    stage.settlement.settle(FIRST, vec![], flood(0));
    stage.settlement.settle(SECOND, vec![], vec![letter(40_000, "dlt")]);
    assert!(stage.writes().contains(&40_000));
}
