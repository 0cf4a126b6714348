//! What becomes of a pipeline's records: lag, dead letters, groups, rebalances, as its status has them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::{columns, since};
use crate::api::v1alpha1::{DeadLettersStatus, ErrorHandlingPipeline, GroupStatus, RebalanceStatus, RebalancesStatus};

/// How many rebalances are shown, the newest ones.
const REBALANCES: usize = 3;

/// What is not processed, and what was given up.
pub(super) fn records(object: &ErrorHandlingPipeline, now: Timestamp) -> Vec<String> {
    let Some(status) = &object.status else { return vec![] };
    let mut lines = vec![];
    if let Some(lag) = status.lag {
        let next = status.next_due.as_ref().map_or_else(String::new, |due| match due.0 > now {
            true => format!(", the next one in {}", since(now, due.0)),
            false => ", the next one now".to_owned(),
        });
        let retrying =
            status.retrying.map_or_else(String::new, |retrying| format!("; {retrying} in the retry topic{next}"));
        lines.push(format!("{lag} ready and not processed{retrying}"));
    }
    lines.extend(status.dead_letters.iter().flat_map(|letters| dead_letters(letters, now)));
    lines
}

fn dead_letters(letters: &DeadLettersStatus, now: Timestamp) -> Vec<String> {
    let ago = |time: &Option<Time>| time.as_ref().map_or_else(|| "-".to_owned(), |time| since(time.0, now));
    if letters.total == 0 {
        return vec!["no dead letters".to_owned()];
    }
    let mut lines = vec![format!(
        "{} dead letters, {} of the last hour; the oldest {} old, the newest {}",
        letters.total,
        letters.last_hour,
        ago(&letters.oldest),
        ago(&letters.newest)
    )];
    let titles = ["ERROR TYPE", "REASON", "COUNT", "NEWEST"].map(str::to_owned).to_vec();
    let rows = letters.causes.iter().map(|cause| {
        let reason = cause.reason.clone().unwrap_or_else(|| "-".to_owned());
        vec![cause.error_type.clone(), reason, cause.count.to_string(), ago(&cause.newest)]
    });
    lines.extend(
        columns(&std::iter::once(titles).chain(rows).collect::<Vec<_>>()).into_iter().map(|line| format!("  {line}")),
    );
    if letters.of_other_causes > 0 {
        lines.push(format!("  and {} of other causes", letters.of_other_causes));
    }
    lines
}

/// Who reads what.
pub(super) fn groups(object: &ErrorHandlingPipeline) -> Vec<String> {
    let Some(groups) = object.status.as_ref().and_then(|status| status.groups.as_ref()) else { return vec![] };
    let titles = ["GROUP", "STATE", "LAG (COMMITTED)", "MEMBER", "PARTITIONS"].map(str::to_owned).to_vec();
    let rows = std::iter::once(&groups.main).chain(&groups.retry).flat_map(rows);
    columns(&std::iter::once(titles).chain(rows).collect::<Vec<_>>())
}

fn rows(group: &GroupStatus) -> Vec<Vec<String>> {
    let dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let first = [group.group_id.clone(), dash(&group.state), group.committed_lag.to_string()];
    if group.members.is_empty() {
        return vec![first.into_iter().chain(["no member".to_owned()]).collect()];
    }
    let blank = [const { String::new() }; 3];
    let row = |(index, member): (usize, &crate::api::v1alpha1::MemberStatus)| {
        let left = if index == 0 { first.clone() } else { blank.clone() };
        left.into_iter().chain([member.client.clone(), dash(&member.partitions)]).collect()
    };
    group.members.iter().enumerate().map(row).collect()
}

/// When partitions moved last, and why.
pub(super) fn rebalances(object: &ErrorHandlingPipeline, now: Timestamp) -> Vec<String> {
    let Some(rebalances) = object.status.as_ref().and_then(|status| status.rebalances.as_ref()) else { return vec![] };
    let RebalancesStatus { count, per_hour, recent, .. } = rebalances;
    if *count == 0 {
        return vec![];
    }
    let row = |rebalance: &RebalanceStatus| {
        let RebalanceStatus {
            time, group_id, reason, members, members_before, members_after, partitions_moved, ..
        } = rebalance;
        vec![
            since(time.0, now),
            reason.clone(),
            format!("{members_before} -> {members_after} members, {partitions_moved} partitions moved"),
            group_id.clone(),
            members.join(" "),
        ]
    };
    let rows: Vec<_> = recent.iter().take(REBALANCES).map(row).collect();
    std::iter::once(format!("{count} seen, {per_hour} within the last hour")).chain(columns(&rows)).collect()
}
