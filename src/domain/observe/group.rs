//! What changed between two looks at a consumer group, and why.
//!
//! A coordinator does not tell of rebalances; it says who is a member and what each one reads. Two looks at a group at rest
//! that differ are one rebalance, whatever steps it took.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

/// A consumer group, as its coordinator describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupView {
    /// `Stable`, `PreparingRebalance`, `CompletingRebalance`, `Empty`, `Dead`; of the new protocol `Assigning` and
    /// `Reconciling`.
    pub state: String,
    /// Its members, by the name that the coordinator gave each.
    pub members: BTreeMap<String, MemberView>,
}

/// A member of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberView {
    /// The name that it gives itself (`client.id`); a worker's is that of its pod.
    pub client: String,
    /// Its address.
    pub host: String,
    /// What it reads: topic and partition.
    pub partitions: BTreeSet<(String, i32)>,
}

impl GroupView {
    /// Whether its members have what they are to have.
    pub fn is_at_rest(&self) -> bool {
        ["Stable", "Empty", "Dead"].contains(&self.state.as_str())
    }

    /// Who reads each partition.
    fn owners(&self) -> BTreeMap<&(String, i32), &str> {
        self.members.iter().flat_map(|(id, member)| member.partitions.iter().map(move |p| (p, id.as_str()))).collect()
    }
}

/// Why partitions moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RebalanceReason {
    /// A member was silent for longer than the session timeout, or did not poll for longer than `maxPollInterval`.
    MemberTimedOut,
    /// A member left.
    MemberLeft,
    /// A member joined.
    MemberJoined,
    /// The topic has more partitions, or they were dealt out anew among the same members.
    PartitionsChanged,
}

impl fmt::Display for RebalanceReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What changed between two looks at a group at rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebalance {
    /// Why. Of several reasons the one that says most: who timed out, then who left, then who joined.
    pub reason: RebalanceReason,
    /// The members that came or went, by the names that they give themselves.
    pub who: Vec<String>,
    /// How many members there were.
    pub members_before: usize,
    /// How many there are.
    pub members_after: usize,
    /// How many partitions have another reader than before.
    pub partitions_moved: usize,
}

/// What changed, `None` when nothing did. `is_alive` says whether the process of a client that is no member any more still
/// runs: it was then taken for dead, and did not leave.
pub fn compare(before: &GroupView, after: &GroupView, is_alive: impl Fn(&str) -> bool) -> Option<Rebalance> {
    let gone: Vec<_> = before.members.iter().filter(|(id, _)| !after.members.contains_key(*id)).collect();
    let new: Vec<_> = after.members.iter().filter(|(id, _)| !before.members.contains_key(*id)).collect();
    let (was, is) = (before.owners(), after.owners());
    let moved = is.iter().filter(|(partition, owner)| was.get(*partition) != Some(*owner)).count();
    // One that is back under another name was shut out in between.
    let is_back = |member: &MemberView| {
        new.iter().any(|(_, other)| (&other.client, &other.host) == (&member.client, &member.host))
    };
    let names = |members: &[(&String, &MemberView)]| {
        members.iter().map(|(_, member)| member.client.clone()).collect::<Vec<_>>()
    };
    let timed_out: Vec<_> =
        gone.iter().filter(|(_, member)| is_back(member) || is_alive(&member.client)).copied().collect();
    let (reason, who) = match (&timed_out[..], &gone[..], &new[..]) {
        ([_, ..], _, _) => (RebalanceReason::MemberTimedOut, names(&timed_out)),
        ([], [_, ..], _) => (RebalanceReason::MemberLeft, names(&gone)),
        ([], [], [_, ..]) => (RebalanceReason::MemberJoined, names(&new)),
        ([], [], []) if moved > 0 => (RebalanceReason::PartitionsChanged, vec![]),
        ([], [], []) => return None,
    };
    let (members_before, members_after) = (before.members.len(), after.members.len());
    Some(Rebalance { reason, who, members_before, members_after, partitions_moved: moved })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(members: &[(&str, &str, &[i32])]) -> GroupView {
        let member = |(id, client, partitions): &(&str, &str, &[i32])| {
            let partitions = partitions.iter().map(|partition| ("orders".to_owned(), *partition)).collect();
            ((*id).to_owned(), MemberView { client: (*client).to_owned(), host: "/10.0.0.1".to_owned(), partitions })
        };
        GroupView { state: "Stable".to_owned(), members: members.iter().map(member).collect() }
    }

    fn reason(before: &GroupView, after: &GroupView, alive: &[&str]) -> Option<(RebalanceReason, usize)> {
        let rebalance = compare(before, after, |client| alive.contains(&client))?;
        Some((rebalance.reason, rebalance.partitions_moved))
    }

    #[test]
    fn each_rebalance_has_its_reason() {
        use RebalanceReason::*;
        let one = group(&[("a", "pod-1", &[0, 1])]);
        let two = group(&[("a", "pod-1", &[0]), ("b", "pod-2", &[1])]);
        assert_eq!(reason(&one, &two, &["pod-1", "pod-2"]), Some((MemberJoined, 1)));
        assert_eq!(reason(&two, &one, &["pod-1"]), Some((MemberLeft, 1)));
        assert_eq!(reason(&two, &one, &["pod-1", "pod-2"]), Some((MemberTimedOut, 1)), "its process still runs");
        let back = group(&[("a", "pod-1", &[0]), ("c", "pod-2", &[1])]);
        assert_eq!(reason(&two, &back, &[]), Some((MemberTimedOut, 1)), "it is back under another name");
        let more = group(&[("a", "pod-1", &[0, 2]), ("b", "pod-2", &[1, 3])]);
        assert_eq!(reason(&two, &more, &[]), Some((PartitionsChanged, 2)));
        assert_eq!(reason(&two, &two, &[]), None);
        let rolled = group(&[("d", "pod-3", &[0, 1])]);
        let rebalance = compare(&one, &rolled, |_| false).unwrap();
        assert_eq!((rebalance.reason, &rebalance.who[..]), (MemberLeft, &["pod-1".to_owned()][..]));
        assert_eq!((rebalance.members_before, rebalance.members_after, rebalance.partitions_moved), (1, 1, 2));
    }

    #[test]
    fn a_group_is_at_rest_when_nothing_is_on_its_way() {
        let at_rest = |state: &str| GroupView { state: state.to_owned(), ..GroupView::default() }.is_at_rest();
        assert!(at_rest("Stable") && at_rest("Empty"));
        assert!(!at_rest("PreparingRebalance") && !at_rest("Reconciling"));
    }
}
