//! What of a partition may go into the next round, and what is committed with it.
//!
//! A round writes failed records to other topics and, in the same transaction, commits what that finishes. After a crash
//! the commit is all that is known: a record that was routed and that the commit does not show as finished would be
//! processed and routed once more. What Kafka keeps beside a commit is bounded, so a record may only be routed when there
//! is room to say so, and no later commit may drop it.

use super::commit_metadata::{self, Encoded};
use super::offsets::Offsets;

/// A partition's share in a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// How many of the waiting records may be routed: the lowest ones.
    pub routed: usize,
    /// The offset to commit with them.
    pub committed: i64,
    /// The finished offsets above it, as text.
    pub metadata: String,
    /// How much of what there is room for they take; all of it where some were left out.
    pub bytes: usize,
}

/// Works out the share of a partition whose records at `waiting`, in ascending order, are to be routed. `None` when nothing
/// is known of the partition yet.
///
/// There is always room for the lowest record that is not finished: once it is routed, fewer are ahead. So what waits is taken
/// from below, and goes on when the records below it are finished. There is always something to commit: what was processed may
/// be forgotten, and the more records are finished between two that were routed, the less there is to say of the two.
pub fn share(offsets: &Offsets, waiting: &[i64]) -> Option<Share> {
    let mut routed = waiting.len();
    let ahead = loop {
        let ahead = offsets.ahead(&waiting[..routed])?;
        if routed == 0 || commit_metadata::has_room(&ahead) {
            break ahead;
        }
        routed /= 2;
    };
    let Encoded { text: metadata, bytes } = commit_metadata::encode(&ahead)?;
    Some(Share { routed, committed: ahead.committed, metadata, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::commit::offsets::Begun;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn begun(count: i64) -> Offsets {
        let mut offsets = Offsets::resume(0, vec![]);
        for offset in 0..count {
            offsets.begin(offset);
        }
        offsets
    }

    fn finish(offsets: &mut Offsets, finished: impl IntoIterator<Item = i64>) {
        for offset in finished {
            offsets.finish(offset);
        }
    }

    #[test]
    fn what_fits_is_routed_at_once_and_committed_with_it() {
        let share = share(&begun(5), &[0, 1, 3]).unwrap();
        assert_eq!((share.routed, share.committed), (3, 2));
        assert_eq!(commit_metadata::decode(2, &share.metadata).unwrap(), [3..4; 1]);
    }

    #[test]
    fn a_record_that_no_commit_could_show_as_routed_waits_until_one_can() {
        let mut offsets = begun(60_000);
        (1..20_000).step_by(2).for_each(|offset| assert!(offsets.route(offset)));
        let all: Vec<_> = (20_001..60_000).step_by(2).collect();
        let first = share(&offsets, &all).unwrap();
        assert!((1..all.len()).contains(&first.routed), "some have room: {}", first.routed);
        all[..first.routed].iter().for_each(|offset| assert!(offsets.route(*offset)));
        let mut rest = all[first.routed..].to_vec();
        while let Some(share) = share(&offsets, &rest).filter(|share| share.routed > 0) {
            rest.drain(..share.routed).for_each(|offset| assert!(offsets.route(offset)));
        }
        assert!(!rest.is_empty(), "the room is used up");
        finish(&mut offsets, (0..20_000).step_by(2));
        assert!(share(&offsets, &rest).unwrap().routed > 0, "what is finished below makes room");
    }

    #[test]
    fn what_was_only_processed_is_forgotten_before_a_record_is_kept_from_being_routed() {
        let mut offsets = begun(60_000);
        finish(&mut offsets, (1..50_000).step_by(2));
        let share = share(&offsets, &[55_000]).unwrap();
        assert_eq!((share.routed, share.committed, share.bytes), (1, 0, commit_metadata::MAX_BYTES));
        assert_eq!(commit_metadata::decode(0, &share.metadata).unwrap().last(), Some(&(55_000..55_001)));
    }

    /// A burst in one partition, where a marker of a transaction follows on every few records: records are due at random, and
    /// some of them fail again. Half way the worker is restarted, and knows what it has committed.
    fn burst(ranks: &[u32], every: usize, fails: impl Fn(usize) -> bool) {
        let place = |at: usize| (at + at / every) as i64;
        let begun = |mut offsets: Offsets| {
            let known = |offsets: &mut Offsets, at: usize| offsets.begin(place(at)) == Begun::Known;
            let known: Vec<bool> = (0..ranks.len()).map(|at| known(&mut offsets, at)).collect();
            (offsets, known)
        };
        let mut order: Vec<usize> = (0..ranks.len()).collect();
        order.sort_by_key(|at| ranks[*at]);
        let (mut offsets, _) = begun(Offsets::resume(0, vec![]));
        let (mut waiting, mut routed) = (BTreeSet::new(), BTreeSet::new());
        for (nth, at) in order.iter().enumerate() {
            if nth == ranks.len() / 2 {
                let share = round(&mut offsets, &mut waiting, &mut routed);
                let finished = commit_metadata::decode(share.committed, &share.metadata).unwrap();
                let known;
                (offsets, known) = begun(Offsets::resume(share.committed, finished));
                waiting = order[..nth].iter().filter(|at| !known[**at] && fails(**at)).map(|at| place(*at)).collect();
                let processed = order[..nth].iter().filter(|at| !known[**at] && !fails(**at));
                for at in processed {
                    offsets.finish(place(*at));
                }
            }
            if fails(*at) {
                waiting.insert(place(*at));
            } else {
                offsets.finish(place(*at));
            }
            if nth % 997 == 0 {
                round(&mut offsets, &mut waiting, &mut routed);
            }
        }
        let mut rounds = 0;
        while !waiting.is_empty() {
            round(&mut offsets, &mut waiting, &mut routed);
            rounds += 1;
            assert!(rounds < 200, "{} records are never routed", waiting.len());
        }
        assert_eq!(routed.len(), (0..ranks.len()).filter(|at| fails(*at)).count());
        let share = share(&offsets, &[]).unwrap();
        assert_eq!((share.committed, &*share.metadata), (place(ranks.len() - 1) + 1, ""));
    }

    /// A round takes no more than this.
    fn round(offsets: &mut Offsets, waiting: &mut BTreeSet<i64>, routed: &mut BTreeSet<i64>) -> Share {
        let list: Vec<_> = waiting.iter().copied().take(1_600).collect();
        let share = share(offsets, &list).expect("there is always something to commit");
        assert!(share.metadata.len() <= commit_metadata::MAX_BYTES);
        for offset in &list[..share.routed] {
            assert!(routed.insert(*offset), "{offset} is routed twice");
            waiting.remove(offset);
            offsets.route(*offset);
        }
        share
    }

    #[test]
    fn a_burst_of_retries_of_which_some_fail_again_is_routed_to_the_last() {
        use rand::{Rng, SeedableRng};
        let mut random = rand::rngs::StdRng::seed_from_u64(1);
        let bursts = [(16_000, 30, 100), (16_000, 20, 2), (45_000, 30, 3), (30_000, 80, 10), (8_000, 45, 1_000)];
        for (records, percent, every) in bursts {
            let ranks: Vec<u32> = (0..records).map(|_| random.random()).collect();
            let fails: Vec<bool> = (0..records).map(|_| random.random_bool(f64::from(percent) / 100.0)).collect();
            burst(&ranks, every, |at| fails[at]);
        }
    }

    proptest! {
        /// A model of one partition: records finish or are routed in any order, with crashes in between after which all
        /// that is known is the last commit.
        #[test]
        fn no_record_is_routed_twice_and_all_are_routed_in_the_end(
            ranks in proptest::collection::vec(any::<u32>(), 1..3_000),
            crashes in proptest::collection::btree_set(0usize..40, 0..4),
            (scale, every) in (1i64..200, 1usize..12),
        ) {
            // Offsets without a record, as compaction and transactions leave them, make much to say of few.
            let place = |at: usize| at as i64 * scale + (at / every) as i64;
            let is_routed = |at: usize| at.is_multiple_of(3);
            let mut order: Vec<usize> = (0..ranks.len()).collect();
            order.sort_by_key(|at| ranks[*at]);
            let size = order.len().div_ceil(40);
            let mut ended_at = vec![0; order.len()];
            order.iter().enumerate().for_each(|(nth, at)| ended_at[*at] = nth / size);
            let mut routed = BTreeSet::new();
            let mut offsets = Offsets::resume(0, vec![]);
            for at in 0..ranks.len() {
                offsets.begin(place(at));
            }
            let mut waiting = BTreeSet::new();
            for (step, chunk) in order.chunks(size).enumerate() {
                for at in chunk {
                    if is_routed(*at) { waiting.insert(place(*at)); } else { offsets.finish(place(*at)); }
                }
                let list: Vec<_> = waiting.iter().copied().collect();
                let share = share(&offsets, &list).expect("there is always something to commit");
                for offset in &list[..share.routed] {
                    prop_assert!(routed.insert(*offset), "{offset} is routed twice");
                    waiting.remove(offset);
                    offsets.route(*offset);
                }
                if crashes.contains(&step) {
                    let finished = commit_metadata::decode(share.committed, &share.metadata).unwrap();
                    offsets = Offsets::resume(share.committed, finished);
                    waiting.clear();
                    for at in (0..ranks.len()).filter(|at| place(*at) >= share.committed) {
                        // It is processed again, with the same outcome.
                        if offsets.begin(place(at)) == Begun::InFlight && ended_at[at] <= step {
                            if is_routed(at) { waiting.insert(place(at)); } else { offsets.finish(place(at)); }
                        }
                    }
                }
            }
            // Nothing is in flight any more.
            while !waiting.is_empty() {
                let list: Vec<_> = waiting.iter().copied().collect();
                let share = share(&offsets, &list).unwrap();
                prop_assert!(share.routed > 0, "{} wait for ever", waiting.len());
                for offset in &list[..share.routed] {
                    prop_assert!(routed.insert(*offset), "{offset} is routed twice");
                    waiting.remove(offset);
                    offsets.route(*offset);
                }
            }
            prop_assert_eq!(routed.len(), ranks.len().div_ceil(3));
        }
    }
}
