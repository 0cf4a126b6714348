//! How many rebalances there were.
//!
//! A member of a group learns of one rebalance in several steps. In an eager one all partitions are revoked, and in the
//! next generation of the group they are dealt out anew. In a cooperative one (KIP-429) those that move are revoked first,
//! and come to their new member in the generation after. Of a partition that was lost nobody is told in time: whoever lost
//! it joins again later.

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
    /// The generation in which partitions went last, `None` before the first time. It is 0 or less where the member was
    /// expelled, and that is then forgotten when it is back.
    revoked_in: Option<i32>,
}

impl Rebalances {
    /// Whether this step begins another rebalance. A revocation always does; what is gained by the next generation is the
    /// rest of the same.
    pub fn is_another(&mut self, moved: Moved, generation: i32) -> bool {
        match (moved, self.revoked_in) {
            (Moved::Revoked, _) => {
                self.revoked_in = Some(generation);
                true
            }
            (Moved::Gained, None) => true,
            (Moved::Gained, Some(expelled)) if expelled <= 0 => {
                self.revoked_in = None;
                false
            }
            (Moved::Gained, Some(revoked_in)) => generation > revoked_in.saturating_add(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rebalance_counts_once_however_many_steps_it_takes() {
        let mut rebalances = Rebalances::default();
        let mut count = |steps: &[(Moved, i32)]| {
            let mut another = |(moved, generation): &(Moved, i32)| rebalances.is_another(*moved, *generation);
            steps.iter().filter(|step| another(step)).count()
        };
        assert_eq!(count(&[(Moved::Gained, 1)]), 1, "joining");
        assert_eq!(count(&[(Moved::Gained, 2)]), 1, "more, without giving up any");
        assert_eq!(count(&[(Moved::Revoked, 3), (Moved::Gained, 3), (Moved::Gained, 4)]), 1, "cooperative");
        assert_eq!(count(&[(Moved::Gained, 5)]), 1, "somebody left, however soon after");
        assert_eq!(count(&[(Moved::Revoked, 5), (Moved::Gained, 6)]), 1, "eager");
        assert_eq!(count(&[(Moved::Revoked, 6), (Moved::Gained, 7)]), 1, "eager, at once again");
        assert_eq!(count(&[(Moved::Revoked, -1), (Moved::Gained, 12)]), 1, "expelled, and back");
        assert_eq!(count(&[(Moved::Gained, 13)]), 1);
    }
}
