//! Puts what was seen of records into a status, and says whether that is worth writing. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff;

use super::conditions::{self, COUNTS_CURRENT, Verdict};
use crate::api::v1alpha1::{
    CauseStatus, DeadLettersStatus, ErrorHandlingPipelineStatus, GroupStatus, GroupsStatus, MemberStatus,
    RebalanceStatus, RebalancesStatus,
};
use crate::domain::observe::dead_letters::{HOUR, Summary};
use crate::domain::observe::group::{MemberView, Rebalance};
use crate::domain::time::Timestamp;
use crate::operator::status::{condition, find};
use crate::operator::view::{StageView, View};

/// How many causes, members and rebalances are listed.
const CAUSES: usize = 20;
const MEMBERS: usize = 50;
const REBALANCES: usize = 10;

/// The part of a status that tells of records.
pub fn own(status: &ErrorHandlingPipelineStatus) -> ErrorHandlingPipelineStatus {
    let ErrorHandlingPipelineStatus { lag, retrying, next_due, dead_letters, groups, rebalances, conditions, .. } =
        status.clone();
    let mut own =
        ErrorHandlingPipelineStatus { lag, retrying, next_due, dead_letters, groups, rebalances, ..Default::default() };
    own.conditions = conditions;
    own.conditions.retain(|condition| conditions::ALL.contains(&condition.type_.as_str()));
    in_order(own)
}

/// The rest of it.
pub fn others(status: &ErrorHandlingPipelineStatus) -> ErrorHandlingPipelineStatus {
    let mut others = ErrorHandlingPipelineStatus {
        lag: None,
        retrying: None,
        next_due: None,
        dead_letters: None,
        groups: None,
        rebalances: None,
        ..status.clone()
    };
    others.conditions.retain(|condition| !conditions::ALL.contains(&condition.type_.as_str()));
    in_order(others)
}

/// Where two write, the order of the conditions is nobody's.
fn in_order(mut status: ErrorHandlingPipelineStatus) -> ErrorHandlingPipelineStatus {
    status.conditions.sort_by(|one, other| one.type_.cmp(&other.type_));
    status
}

/// What is written: nothing of what others write, not even that it is empty.
pub fn fields(own: &ErrorHandlingPipelineStatus) -> serde_json::Value {
    let mut fields = serde_json::to_value(own).unwrap_or_default();
    if let Some(fields) = fields.as_object_mut() {
        fields.retain(|name, _| !["topics", "consumer", "retry", "observedGeneration"].contains(&name.as_str()));
    }
    fields
}

/// The status that says what was seen, where it was `before`. What is not known yet is as it was.
pub fn status(
    before: &ErrorHandlingPipelineStatus,
    view: &View,
    rebalances: &RebalancesStatus,
    generation: Option<i64>,
    now: Timestamp,
) -> ErrorHandlingPipelineStatus {
    let verdicts = conditions::verdicts(view, rebalances, now);
    let next_due = view.retry.as_ref().filter(|retry| retry.unprocessed() > 0).and_then(|retry| retry.next_due);
    in_order(ErrorHandlingPipelineStatus {
        lag: Some(count(view.ready())),
        retrying: view.retry.as_ref().map(|retry| count(retry.unprocessed())),
        next_due: next_due.and_then(time),
        dead_letters: view.dead_letters.as_ref().map(dead_letters).or_else(|| before.dead_letters.clone()),
        groups: Some(GroupsStatus { main: group(&view.main), retry: view.retry.as_ref().map(group) }),
        rebalances: Some(rebalances.clone()),
        conditions: with_times(before, generation, verdicts, now),
        ..Default::default()
    })
}

/// The status while Kafka does not answer: the last counts, said to be so.
pub fn stale(
    before: &ErrorHandlingPipelineStatus,
    error: &str,
    generation: Option<i64>,
    now: Timestamp,
) -> ErrorHandlingPipelineStatus {
    let known = find(before, COUNTS_CURRENT).filter(|condition| condition.status == "False");
    // The time is that of the first look without an answer.
    let since = known.map_or(now, |condition| Timestamp(condition.last_transition_time.0.as_millisecond()));
    let message = format!(
        "Kafka does not answer: {error}. The counts are those of {}. See {}.",
        conditions::to_the_second(since),
        conditions::page(COUNTS_CURRENT)
    );
    let verdict = Verdict { of_type: COUNTS_CURRENT, holds: false, reason: "KafkaUnreachable".to_owned(), message };
    let mut stale = own(before);
    let others = stale.conditions.iter().filter(|condition| condition.type_ != COUNTS_CURRENT).cloned();
    stale.conditions = with_times(before, generation, vec![verdict], now).into_iter().chain(others).collect();
    in_order(stale)
}

/// Whether a person would notice the difference. Numbers that only move a little do not count.
pub fn is_noticeable(before: &ErrorHandlingPipelineStatus, after: &ErrorHandlingPipelineStatus) -> bool {
    let is_far = |before: Option<i64>, after: Option<i64>| match (before, after) {
        (Some(before), Some(after)) => {
            before != after && (before.min(after) == 0 || 10 * before.abs_diff(after) > before.unsigned_abs())
        }
        (before, after) => before != after,
    };
    let words = |status: &ErrorHandlingPipelineStatus| {
        status.conditions.iter().map(|c| (c.type_.clone(), c.status.clone(), c.reason.clone())).collect::<BTreeSet<_>>()
    };
    let letters = |status: &ErrorHandlingPipelineStatus| {
        status
            .dead_letters
            .as_ref()
            .map(|letters| (letters.total, letters.causes.iter().map(|c| c.count).collect::<Vec<_>>()))
    };
    let members = |status: &ErrorHandlingPipelineStatus| {
        let groups = status.groups.clone().unwrap_or_default();
        let of_group = |group: GroupStatus| (group.state, group.members);
        (of_group(groups.main), groups.retry.map(of_group))
    };
    is_far(before.lag, after.lag)
        || is_far(before.retrying, after.retrying)
        || words(before) != words(after)
        || letters(before) != letters(after)
        || members(before) != members(after)
        || before.rebalances.as_ref().map(|r| r.count) != after.rebalances.as_ref().map(|r| r.count)
}

/// What records died of by now and did not before, a sentence for each error type. Of the dead letters that were there when
/// they were first counted nothing is said.
pub fn new_error_types(before: &ErrorHandlingPipelineStatus, after: &ErrorHandlingPipelineStatus) -> Vec<String> {
    let (Some(before), Some(after)) = (&before.dead_letters, &after.dead_letters) else { return vec![] };
    let known: BTreeSet<_> = before.causes.iter().map(|cause| &cause.error_type).collect();
    let new = after.causes.iter().filter(|cause| !known.contains(&cause.error_type));
    let note = |cause: &CauseStatus| match &cause.reason {
        Some(reason) => format!("the first dead letters of {} ({reason})", cause.error_type),
        None => format!("the first dead letters of {}", cause.error_type),
    };
    new.map(note).collect()
}

/// The conditions that begin to hold and of which an event is written, each with what it says.
pub fn alarms(
    before: &ErrorHandlingPipelineStatus,
    after: &ErrorHandlingPipelineStatus,
) -> Vec<(&'static str, String)> {
    let begun = |of_type: &'static str| {
        let held = |status| find(status, of_type).filter(|condition| condition.status == "True");
        held(after).filter(|_| held(before).is_none()).map(|condition| (of_type, condition.message.clone()))
    };
    conditions::ALARMS.into_iter().filter_map(begun).collect()
}

/// Adds a rebalance that was seen now, and lets go of what is too old to be counted.
pub fn add_rebalance(
    status: &mut RebalancesStatus,
    group_id: &str,
    rebalance: &Rebalance,
    seconds: i64,
    now: Timestamp,
) {
    let Some(time) = time(now) else { return };
    let number = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    let entry = RebalanceStatus {
        time: time.clone(),
        group_id: group_id.to_owned(),
        reason: rebalance.reason.to_string(),
        members: rebalance.who.iter().take(MEMBERS).cloned().collect(),
        members_before: number(rebalance.members_before),
        members_after: number(rebalance.members_after),
        partitions_moved: number(rebalance.partitions_moved),
        seconds,
    };
    status.recent.insert(0, entry);
    status.recent.truncate(REBALANCES);
    (status.count, status.last) = (status.count + 1, Some(time));
}

/// How many of the rebalances that were seen at these times were within the last hour.
pub fn per_hour(seen: &[Timestamp], now: Timestamp) -> i64 {
    count(seen.iter().filter(|at| now.since(**at) < HOUR).count() as u64)
}

/// What did not change keeps its time. What was never so is not mentioned, but for what everybody asks.
fn with_times(
    before: &ErrorHandlingPipelineStatus,
    generation: Option<i64>,
    verdicts: Vec<Verdict>,
    now: Timestamp,
) -> Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition> {
    let always = [COUNTS_CURRENT, conditions::DEAD_LETTERS_PRESENT];
    let is_said = |verdict: &Verdict| {
        verdict.holds || always.contains(&verdict.of_type) || find(before, verdict.of_type).is_some()
    };
    let now = jiff::Timestamp::from_millisecond(now.0).unwrap_or_default();
    let said = verdicts.into_iter().filter(is_said);
    said.map(|Verdict { of_type, holds, reason, message }| {
        condition(generation, &before.conditions, of_type, (holds, reason, message), now)
    })
    .collect()
}

fn dead_letters(summary: &Summary) -> DeadLettersStatus {
    let cause = |cause: &crate::domain::observe::dead_letters::CauseSummary| CauseStatus {
        error_type: cause.cause.error_type.clone(),
        reason: cause.cause.reason.clone(),
        count: count(cause.count),
        first: time(cause.first),
        newest: time(cause.newest),
    };
    let causes: Vec<_> = summary.causes.iter().take(CAUSES).map(cause).collect();
    let listed: i64 = causes.iter().map(|cause| cause.count).sum();
    DeadLettersStatus {
        total: count(summary.total),
        last_hour: count(summary.last_hour),
        oldest: summary.oldest.and_then(time),
        newest: summary.newest.and_then(time),
        causes,
        of_other_causes: count(summary.total) - listed,
    }
}

fn group(stage: &StageView) -> GroupStatus {
    let group = stage.group.clone().unwrap_or_default();
    let mut members: Vec<_> = group.members.values().map(|member| member_status(member, &stage.topic)).collect();
    members.sort_by(|one, other| (&one.client, &one.partitions).cmp(&(&other.client, &other.partitions)));
    members.truncate(MEMBERS);
    GroupStatus {
        group_id: stage.group_id.clone(),
        state: group.state,
        committed_lag: count(stage.committed_lag()),
        members,
    }
}

fn member_status(member: &MemberView, topic: &str) -> MemberStatus {
    let partitions = member.partitions.iter().filter(|(of, _)| of == topic).map(|(_, partition)| *partition);
    MemberStatus {
        client: member.client.clone(),
        host: member.host.trim_start_matches('/').to_owned(),
        partitions: ranges(partitions),
    }
}

/// Numbers in ascending order as `0-2,5`.
fn ranges(numbers: impl Iterator<Item = i32>) -> String {
    let mut ranges: BTreeMap<i32, i32> = BTreeMap::new();
    for number in numbers {
        match ranges.last_entry() {
            Some(mut last) if *last.get() + 1 == number => drop(last.insert(number)),
            _ => drop(ranges.insert(number, number)),
        }
    }
    let text = |(first, last): (i32, i32)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    ranges.into_iter().map(text).collect::<Vec<_>>().join(",")
}

fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// To the second, as everywhere in Kubernetes.
fn time(at: Timestamp) -> Option<Time> {
    jiff::Timestamp::from_second(at.0.div_euclid(1_000)).ok().map(Time)
}
