//! How many rebalances there were.
//!
//! A group's members learn of one rebalance in several steps. In a cooperative one (KIP-429) partitions are revoked first
//! and dealt out in a second and third round; in an eager one all are revoked and then assigned anew.

use std::time::Duration;

use super::time::Timestamp;

/// How long after a revocation partitions may come that belong to the same rebalance.
const ROUNDS: Duration = Duration::from_secs(10);

/// What moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// Partitions came.
    Gained,
    /// Partitions went.
    Revoked,
}

/// Counts a member's rebalances.
#[derive(Debug, Default)]
pub struct Rebalances {
    last_revocation: Option<Timestamp>,
}

impl Rebalances {
    /// Whether this step begins another rebalance. A revocation always does; what is gained soon after one is the rest of
    /// the same.
    pub fn is_another(&mut self, moved: Moved, now: Timestamp) -> bool {
        match moved {
            Moved::Revoked => {
                self.last_revocation = Some(now);
                true
            }
            Moved::Gained => self.last_revocation.is_none_or(|revocation| now.since(revocation) > ROUNDS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rebalance_counts_once_however_many_rounds_it_takes() {
        let mut rebalances = Rebalances::default();
        let mut count = |steps: &[(Moved, i64)]| {
            let mut another = |(moved, at): &(Moved, i64)| rebalances.is_another(*moved, Timestamp(*at));
            steps.iter().filter(|step| another(step)).count()
        };
        assert_eq!(count(&[(Moved::Gained, 0)]), 1, "joining");
        assert_eq!(count(&[(Moved::Gained, 60_000)]), 1, "more, without giving up any");
        assert_eq!(count(&[(Moved::Revoked, 120_000), (Moved::Gained, 120_100), (Moved::Gained, 123_000)]), 1);
        assert_eq!(count(&[(Moved::Revoked, 124_000), (Moved::Gained, 124_100)]), 1, "the next one, soon after");
        assert_eq!(count(&[(Moved::Gained, 200_000)]), 1);
    }
}
