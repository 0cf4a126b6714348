//! What of a partition may go into the next round, and what is committed with it.
//!
//! A round writes failed records to other topics and, in the same transaction, commits what that finishes. After a crash
//! the commit is all that is known: a record that was routed and that the commit does not show as finished would be
//! processed and routed once more. What Kafka keeps beside a commit is bounded, so a record may only be routed when there
//! is room to say so, and no later commit may drop it.

use super::commit_metadata::{self, MAX_BYTES};
use super::offsets::Offsets;

/// The intake of a partition stops when its finished offsets take more than this beside the committed one; the rest of
/// [`MAX_BYTES`] is for what is in flight already.
const FULL_BYTES: usize = MAX_BYTES * 3 / 4;

/// A partition's share in a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// How many of the waiting records may be routed: the lowest ones.
    pub routed: usize,
    /// The offset to commit with them.
    pub committed: i64,
    /// The finished offsets above it, as text.
    pub metadata: String,
    /// Whether so much is finished above the committed offset that no more should be read for now.
    pub is_full: bool,
}

/// Works out the share of a partition whose records at `waiting`, in ascending order, are to be routed. Every finished
/// offset below `keep` must be in the commit: a record below it was routed before.
///
/// `None` when nothing may be committed: nothing is known yet, or what must be kept does not fit. The lower a record the
/// more room its end makes, so what waits is taken from below; it goes on when the records below are finished.
pub fn share(offsets: &Offsets, waiting: &[i64], keep: i64) -> Option<Share> {
    let mut routed = waiting.len();
    loop {
        let position = offsets.position(&waiting[..routed])?;
        let encoded = commit_metadata::encode(position.committed, &position.finished);
        let keep = waiting[..routed].last().map_or(keep, |last| keep.max(last + 1));
        if encoded.covers(keep) {
            let is_full = encoded.cut.is_some() || encoded.text.len() > FULL_BYTES;
            return Some(Share { routed, committed: position.committed, metadata: encoded.text, is_full });
        }
        if routed == 0 {
            return None;
        }
        routed /= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::offsets::Begun;
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
        let share = share(&begun(5), &[0, 1, 3], 0).unwrap();
        assert_eq!((share.routed, share.committed, share.is_full), (3, 2, false));
        assert_eq!(commit_metadata::decode(2, &share.metadata).unwrap(), [3..4; 1]);
    }

    #[test]
    fn a_record_that_no_commit_could_show_as_finished_waits_until_one_can() {
        let mut offsets = begun(20_000);
        finish(&mut offsets, (1..9_999).step_by(2));
        assert_eq!(share(&offsets, &[15_000], 0).unwrap().routed, 0, "no room for it");
        assert!(share(&offsets, &[15_000], 0).unwrap().is_full);
        assert_eq!(share(&offsets, &[0, 2, 15_000, 15_002], 0).unwrap().routed, 2, "the lower ones make room");
        finish(&mut offsets, (0..9_999).step_by(2));
        assert_eq!(share(&offsets, &[15_000], 0).unwrap().routed, 1);
    }

    #[test]
    fn a_commit_that_would_drop_a_routed_record_is_not_made() {
        let mut offsets = begun(20_000);
        offsets.finish(15_000);
        assert!(share(&offsets, &[], 15_001).is_some());
        finish(&mut offsets, (1..9_999).step_by(2));
        assert_eq!(share(&offsets, &[], 15_001), None);
        assert!(share(&offsets, &[], 0).is_some(), "what was only processed may be forgotten");
    }

    proptest! {
        /// A model of one partition: records finish or are routed in any order, with crashes in between after which all
        /// that is known is the last commit.
        #[test]
        fn no_record_is_routed_twice(
            ranks in proptest::collection::vec(any::<u32>(), 1..3_000),
            crashes in proptest::collection::btree_set(0usize..40, 0..4),
        ) {
            let mut records: Vec<i64> = (0..ranks.len() as i64).collect();
            records.sort_by_key(|offset| ranks[*offset as usize]);
            let size = records.len().div_ceil(40);
            let mut ends = vec![0; records.len()];
            records.iter().enumerate().for_each(|(at, offset)| ends[*offset as usize] = at / size);
            let mut routed = BTreeSet::new();
            let (mut committed, mut metadata) = (0, String::new());
            let mut offsets = begun(ranks.len() as i64);
            let (mut waiting, mut keep) = (BTreeSet::new(), 0);
            for (step, chunk) in records.chunks(size).enumerate() {
                for offset in chunk {
                    if offset % 3 == 0 { waiting.insert(*offset); } else { offsets.finish(*offset); }
                }
                let list: Vec<_> = waiting.iter().copied().collect();
                if let Some(share) = share(&offsets, &list, keep) {
                    for offset in &list[..share.routed] {
                        prop_assert!(routed.insert(*offset), "{offset} is routed twice");
                        waiting.remove(offset);
                        offsets.finish(*offset);
                        keep = keep.max(offset + 1);
                    }
                    (committed, metadata) = (share.committed, share.metadata);
                }
                if crashes.contains(&step) {
                    let finished = commit_metadata::decode(committed, &metadata).unwrap();
                    keep = finished.last().map_or(0, |range| range.end);
                    offsets = Offsets::resume(committed, finished);
                    waiting.clear();
                    for offset in committed..ranks.len() as i64 {
                        let begun = offsets.begin(offset) == Begun::InFlight;
                        let seen_before = ends[offset as usize] <= step;
                        // It is processed again, with the same outcome.
                        if begun && seen_before && offset % 3 == 0 {
                            waiting.insert(offset);
                        } else if begun && seen_before {
                            offsets.finish(offset);
                        }
                    }
                }
            }
        }
    }
}
