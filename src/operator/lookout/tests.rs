//! What is said of what was seen.

use std::path::Path;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff;

use super::conditions::{self, STUCK_AFTER, Verdict, verdicts};
use super::status::{add_rebalance, is_noticeable, new_error_types, own, stale, status};
use crate::api::v1alpha1::{ErrorHandlingPipelineStatus, RebalancesStatus};
use crate::domain::commit::offsets::Position;
use crate::domain::observe::dead_letters::{CauseSummary, HOUR, Summary};
use crate::domain::observe::group::{GroupView, MemberView, Rebalance, RebalanceReason};
use crate::domain::observe::lag::{HeldView, PartitionView};
use crate::domain::record::dead_letter::Cause;
use crate::domain::time::Timestamp;
use crate::operator::view::{StageView, View};

/// 2030-01-01T00:00:00Z.
const NOW: Timestamp = Timestamp(1_893_456_000_000);

fn ago(seconds: i64) -> Timestamp {
    Timestamp(NOW.0 - seconds * 1_000)
}

fn stage(topic: &str) -> StageView {
    let member = MemberView {
        client: "orders-consumer-1".into(),
        host: "/10.0.0.7".into(),
        partitions: [0, 1, 2, 5].map(|partition| (topic.to_owned(), partition)).into(),
    };
    let group = GroupView { state: "Stable".into(), members: [("id".to_owned(), member)].into() };
    let committed = Some(Position { committed: 10, finished: vec![] });
    let held = Some(HeldView { read_up_to: 10, records: 0, pending: 0 });
    StageView {
        topic: topic.into(),
        group_id: format!("{topic}-group"),
        partitions: [(0, PartitionView { log: 0..10, committed, held, is_blank: false })].into(),
        group: Some(group),
        ..StageView::default()
    }
}

fn cause(error_type: &str, count: u64, first: Timestamp) -> CauseSummary {
    let cause = Cause { error_type: error_type.into(), reason: Some("Permanent".into()) };
    CauseSummary { cause, count, first, newest: ago(30) }
}

/// A pipeline with nothing to tell of.
fn quiet() -> View {
    View {
        main: stage("orders"),
        retry: Some(stage("orders.retry")),
        dead_letters: Some(Summary::default()),
        dead_letter_topics: vec!["orders.dlt".into()],
        unsafe_topics: vec![],
    }
}

fn letters(causes: Vec<CauseSummary>) -> Option<Summary> {
    let total = causes.iter().map(|cause| cause.count).sum();
    Some(Summary { total, last_hour: 1, oldest: Some(ago(7_200)), newest: Some(ago(30)), causes })
}

/// The conditions that hold but for the current counts, each as its reason and its message.
fn held(view: &View, rebalances: &RebalancesStatus) -> Vec<(&'static str, String, String)> {
    let holds = |verdict: &Verdict| verdict.holds && verdict.of_type != conditions::COUNTS_CURRENT;
    let said = verdicts(view, rebalances, NOW).into_iter().filter(holds);
    said.map(|Verdict { of_type, reason, message, .. }| (of_type, reason, message)).collect()
}

fn alone(view: &View) -> (&'static str, String, String) {
    let mut held = held(view, &RebalancesStatus::default());
    assert_eq!(held.len(), 1, "{held:?}");
    held.remove(0)
}

fn rebalances(reason: RebalanceReason, count: usize, seconds_apart: i64) -> RebalancesStatus {
    let rebalance = Rebalance {
        reason,
        who: vec!["orders-consumer-1".into()],
        members_before: 2,
        members_after: 1,
        partitions_moved: 3,
    };
    let mut status = RebalancesStatus::default();
    for index in (0..count).rev() {
        add_rebalance(&mut status, "orders-group", &rebalance, 2, ago(index as i64 * seconds_apart));
    }
    status
}

#[test]
fn nothing_holds_of_a_pipeline_with_nothing_to_tell_of() {
    assert_eq!(held(&quiet(), &RebalancesStatus::default()), []);
}

#[test]
fn dead_letters_say_where_they_are_and_what_most_died_of() {
    let causes = vec![cause("ValidationException", 9, ago(7_200)), cause("BusyException", 3, ago(7_200))];
    let view = View { dead_letters: letters(causes), ..quiet() };
    let (of_type, _, message) = alone(&view);
    assert_eq!(of_type, conditions::DEAD_LETTERS_PRESENT);
    insta::assert_snapshot!(message, @"12 dead letters in orders.dlt, 9 of them of ValidationException (Permanent), the newest of 2029-12-31T23:59:30Z. See docs/conditions/dead-letters-present.md.");
}

#[test]
fn an_error_type_is_new_for_an_hour_even_if_it_has_another_reason_now() {
    let said = |first: Timestamp, more: Vec<CauseSummary>| {
        let causes = std::iter::once(cause("ValidationException", 9, first)).chain(more).collect();
        let held = held(&View { dead_letters: letters(causes), ..quiet() }, &RebalancesStatus::default());
        held.iter().any(|(of_type, ..)| *of_type == conditions::NEW_ERROR_TYPE)
    };
    let hour = HOUR.as_secs() as i64;
    assert!(said(ago(hour - 1), vec![]) && !said(ago(hour), vec![]));
    let mut known = cause("ValidationException", 1, ago(2 * hour));
    known.cause.reason = None;
    assert!(!said(ago(5), vec![known]), "the type is not new");
}

#[test]
fn a_consumer_is_stuck_when_nothing_was_finished_for_long_enough_and_the_breaker_is_not_why() {
    let after = i64::try_from(STUCK_AFTER.as_secs()).unwrap();
    let mut view = quiet();
    view.main.partitions.get_mut(&0).unwrap().log = 0..17;
    view.main.stuck = [(0, (ago(after - 1), 10))].into();
    assert_eq!(held(&view, &RebalancesStatus::default()), [], "not for long enough");
    view.main.stuck = [(0, (ago(after), 10)), (3, (ago(5), 70))].into();
    let (_, reason, message) = alone(&view);
    assert_eq!(reason, "NoProgress");
    insta::assert_snapshot!(message, @"7 records are ready and nothing was finished for 60 s; the lowest that is not is orders, partition 0, offset 10. Either the processor does not answer, or that record is what it cannot bear. See docs/conditions/consumer-stuck.md.");
    view.main.circuit_open = Some(("80 of 120 calls failed".into(), Some(NOW)));
    assert_eq!(alone(&view).0, conditions::CIRCUIT_OPEN);
    view.main.circuit_open = None;
    view.main.group = Some(GroupView { state: "Empty".into(), ..GroupView::default() });
    assert_eq!(alone(&view).1, "NoMembers");
}

#[test]
fn five_rebalances_within_ten_minutes_are_a_storm_whose_likely_cause_is_named() {
    use RebalanceReason::*;
    let reason = |rebalances: &RebalancesStatus, restarts| {
        let mut view = quiet();
        view.main.restarts = restarts;
        held(&view, rebalances).pop().map(|(_, reason, _)| reason)
    };
    assert_eq!(reason(&rebalances(MemberLeft, 4, 10), 0), None);
    assert_eq!(reason(&rebalances(MemberLeft, 9, 200), 0), None, "not within ten minutes");
    assert_eq!(reason(&rebalances(MemberLeft, 5, 10), 0).as_deref(), Some("MembersComeAndGo"));
    assert_eq!(reason(&rebalances(MemberLeft, 5, 10), 3).as_deref(), Some("WorkersRestart"));
    assert_eq!(reason(&rebalances(MemberTimedOut, 5, 10), 3).as_deref(), Some("WorkersRestart"));
    assert_eq!(reason(&rebalances(MemberTimedOut, 5, 10), 2).as_deref(), Some("MembersTimeOut"), "not that often");
}

#[test]
fn of_an_external_consumer_there_is_no_retry_stage_and_what_to_do_is_said_of_the_application() {
    let mut view = View { retry: None, ..quiet() };
    let status = written(&view);
    assert_eq!((status.lag, status.retrying, status.groups.unwrap().retry), (Some(0), None, None));
    view.main.partitions.get_mut(&0).unwrap().log = 0..17;
    view.main.stuck = [(0, (ago(359), 10))].into();
    assert_eq!(held(&view, &RebalancesStatus::default()), [], "it may be about a batch");
    view.main.stuck = [(0, (ago(360), 10))].into();
    assert!(alone(&view).2.contains("Either the consumer commits nothing, or that record is what it cannot bear."));
    view.main.group = Some(GroupView { state: "Empty".into(), ..GroupView::default() });
    assert!(alone(&view).2.contains("Does the application run, and with this group id?"));
    view.main.stuck.clear();
    let storm = held(&view, &rebalances(RebalanceReason::MemberTimedOut, 5, 10)).pop().unwrap();
    assert!(storm.2.contains("raise the consumer's max.poll.interval.ms if calls take long"), "{}", storm.2);
}

#[test]
fn what_else_is_wrong_is_said_with_what_to_do() {
    let mut view = quiet();
    view.retry.as_mut().unwrap().saturated = [(2, "Records".to_owned())].into();
    view.unsafe_topics = vec!["`orders.dlt` is compacted".into()];
    view.main.circuit_open =
        Some(("80 of 120 calls failed within 60s; the last: E".into(), Some(Timestamp(NOW.0 + 1_500))));
    let said: Vec<_> = held(&view, &RebalancesStatus::default()).into_iter().map(|(_, _, message)| message).collect();
    insta::assert_snapshot!(said.join("\n"), @"
    the processor is not called by the main stage: 80 of 120 calls failed within 60s; the last: E; it is tried again at 2030-01-01T00:00:01Z. No record is given up meanwhile. See docs/conditions/circuit-open.md.
    the retry stage holds as much as it may (Records) in 1 of its partitions, partition 2 of orders.retry among them: what comes due behind that is late. Mend what fails, or raise retry.pendingRecords. See docs/conditions/retry-backlog-saturated.md.
    `orders.dlt` is compacted. See docs/conditions/dead-letter-topic-unsafe.md.
    ");
}

#[test]
fn every_condition_has_a_page() {
    for of_type in conditions::ALL {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join(conditions::page(of_type));
        let text = std::fs::read_to_string(&page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
        assert!(text.starts_with(&format!("# {of_type}\n")), "{}", page.display());
        assert!(text.contains("**Cause.**") && text.contains("**Do.**"), "{}", page.display());
    }
}

fn written(view: &View) -> ErrorHandlingPipelineStatus {
    status(&ErrorHandlingPipelineStatus::default(), view, &RebalancesStatus::default(), Some(3), NOW)
}

#[test]
fn a_status_has_the_counts_and_says_who_reads_what() {
    let mut view = quiet();
    view.main.partitions.get_mut(&0).unwrap().log = 0..17;
    let retry = view.retry.as_mut().unwrap().partitions.get_mut(&0).unwrap();
    retry.log = 0..30;
    retry.held = Some(HeldView { read_up_to: 30, records: 12, pending: 10 });
    view.retry.as_mut().unwrap().next_due = Some(Timestamp(NOW.0 + 61_700));
    view.dead_letters = letters((0..25).map(|n| cause(&format!("E{n:02}"), 2, ago(7_200))).collect());
    let status = written(&view);
    assert_eq!((status.lag, status.retrying), (Some(7 + 2), Some(12)));
    assert_eq!(status.next_due.unwrap().0.to_string(), "2030-01-01T00:01:01Z");
    let letters = status.dead_letters.unwrap();
    assert_eq!((letters.total, letters.causes.len(), letters.of_other_causes), (50, 20, 10));
    let groups = status.groups.unwrap();
    assert_eq!((groups.main.committed_lag, groups.retry.unwrap().committed_lag), (7, 20));
    let member = &groups.main.members[0];
    assert_eq!((&*member.client, &*member.host, &*member.partitions), ("orders-consumer-1", "10.0.0.7", "0-2,5"));
    let types: Vec<_> = status.conditions.iter().map(|condition| &*condition.type_).collect();
    assert_eq!(types, ["CountsCurrent", "DeadLettersPresent"], "what was never so is not mentioned");
}

#[test]
fn dead_letters_that_are_not_counted_yet_are_as_they_were() {
    let before = written(&View { dead_letters: letters(vec![cause("E", 4, ago(9_000))]), ..quiet() });
    let after = status(&before, &View { dead_letters: None, ..quiet() }, &RebalancesStatus::default(), Some(3), NOW);
    assert_eq!(after.dead_letters, before.dead_letters);
}

#[test]
fn while_kafka_is_away_the_counts_stay_and_say_since_when_they_are_old() {
    let before = written(&View { dead_letters: letters(vec![cause("E", 4, ago(9_000))]), ..quiet() });
    let silent = stale(&before, "timed out", Some(3), NOW);
    assert_eq!((&silent.dead_letters, silent.lag, &silent.groups), (&before.dead_letters, before.lag, &before.groups));
    let message = |status: &ErrorHandlingPipelineStatus| {
        let current = status.conditions.iter().find(|condition| condition.type_ == conditions::COUNTS_CURRENT).unwrap();
        assert_eq!((&*current.status, &*current.reason), ("False", "KafkaUnreachable"));
        current.message.clone()
    };
    assert!(message(&silent).contains("The counts are those of 2030-01-01T00:00:00Z."), "{}", message(&silent));
    let later = stale(&silent, "timed out", Some(3), Timestamp(NOW.0 + 600_000));
    assert_eq!(later, silent, "nothing new is said, and nothing written");
    assert_eq!(own(&silent), silent);
}

#[test]
fn only_what_a_person_would_notice_is_worth_writing_at_once() {
    let with = |lag: i64| ErrorHandlingPipelineStatus { lag: Some(lag), retrying: Some(0), ..written(&quiet()) };
    assert!(!is_noticeable(&with(1_000), &with(1_000)));
    assert!(!is_noticeable(&with(1_000), &with(1_100)), "a tenth");
    assert!(is_noticeable(&with(1_000), &with(1_101)));
    assert!(is_noticeable(&with(1_000), &with(0)) && is_noticeable(&with(0), &with(1)));
    let lettered = |count| written(&View { dead_letters: letters(vec![cause("E", count, ago(9_000))]), ..quiet() });
    assert!(is_noticeable(&lettered(1_000), &lettered(1_001)), "a dead letter counts");
    let mut later = lettered(1_000);
    let newest = jiff::Timestamp::from_second(NOW.0 / 1_000).unwrap();
    later.dead_letters.as_mut().unwrap().newest = Some(Time(newest));
    assert!(!is_noticeable(&lettered(1_000), &later));
}

#[test]
fn an_event_tells_of_an_error_type_that_was_not_there_and_of_none_at_the_first_count() {
    let with = |types: &[&str]| {
        let causes = types.iter().map(|error_type| cause(error_type, 1, ago(60))).collect();
        written(&View { dead_letters: letters(causes), ..quiet() })
    };
    assert_eq!(new_error_types(&with(&["A"]), &with(&["A", "B"])), ["the first dead letters of B (Permanent)"]);
    assert_eq!(new_error_types(&with(&["A", "B"]), &with(&["A"])), Vec::<String>::new());
    assert_eq!(new_error_types(&ErrorHandlingPipelineStatus::default(), &with(&["A"])), Vec::<String>::new());
}

#[test]
fn what_may_wait_is_no_lag_while_no_worker_says_what_is_due_and_that_is_said() {
    let mut view = quiet();
    view.retry.as_mut().unwrap().is_unheard = true;
    let partition = view.retry.as_mut().unwrap().partitions.get_mut(&0).unwrap();
    (partition.log, partition.held) = (0..30, None);
    let status = written(&view);
    assert_eq!((status.lag, status.retrying), (Some(0), Some(20)));
    let current = &status.conditions[0];
    assert_eq!((&*current.type_, &*current.status, &*current.reason), ("CountsCurrent", "False", "WorkersUnheard"));
}

#[test]
fn the_last_ten_rebalances_are_listed_the_newest_first() {
    let status = rebalances(RebalanceReason::MemberLeft, 12, 1);
    assert_eq!((status.count, status.recent.len()), (12, 10));
    assert!(status.recent.windows(2).all(|pair| pair[0].time >= pair[1].time));
    assert_eq!(status.last, Some(status.recent[0].time.clone()));
}
