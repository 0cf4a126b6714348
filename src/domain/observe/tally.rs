//! How many records there are in a partition.
//!
//! The distance between its first and its last offset does not tell: transaction markers take offsets, aborted records and
//! compaction leave gaps, retention takes records away from below. So the offset of each record that was read is
//! remembered, one bit for each; a million records that lie close together take some hundred kilobytes.

use std::collections::BTreeMap;

/// The records of a partition that were read and are still there.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// One bit for each record, by its offset: the key counts blocks of 64.
    blocks: BTreeMap<i64, u64>,
    count: u64,
    next: i64,
}

const BLOCK: i64 = u64::BITS as i64;

impl Tally {
    /// Takes note of a record. One that is noted again does not count again.
    pub fn note(&mut self, offset: i64) {
        let block = self.blocks.entry(offset.div_euclid(BLOCK)).or_default();
        let bit = 1 << offset.rem_euclid(BLOCK);
        self.count += u64::from(*block & bit == 0);
        *block |= bit;
        self.next = self.next.max(offset + 1);
    }

    /// Takes note that everything below this offset is gone.
    pub fn forget_below(&mut self, low: i64) {
        let (first, bits) = (low.div_euclid(BLOCK), low.rem_euclid(BLOCK));
        let kept = self.blocks.split_off(&first);
        let gone = std::mem::replace(&mut self.blocks, kept);
        self.count -= gone.values().map(|block| u64::from(block.count_ones())).sum::<u64>();
        if let Some(block) = self.blocks.get_mut(&first) {
            let gone = *block & !(u64::MAX << bits);
            self.count -= u64::from(gone.count_ones());
            *block &= u64::MAX << bits;
        }
        self.next = self.next.max(low);
    }

    /// Takes note that there is nothing more below this offset.
    pub fn read_up_to(&mut self, end: i64) {
        self.next = self.next.max(end);
    }

    /// Where to read on.
    pub fn next(&self) -> i64 {
        self.next
    }

    /// How many records there are.
    pub fn count(&self) -> u64 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn gaps_do_not_count_and_neither_does_what_is_gone() {
        let mut tally = Tally::default();
        [0, 1, 2, 64, 1_000_000].into_iter().for_each(|offset| tally.note(offset));
        tally.note(64);
        assert_eq!((tally.count(), tally.next()), (5, 1_000_001));
        tally.forget_below(2);
        assert_eq!(tally.count(), 3);
        tally.forget_below(2_000_000);
        assert_eq!((tally.count(), tally.next()), (0, 2_000_000));
    }

    proptest! {
        #[test]
        fn it_counts_what_was_noted_and_is_not_below_the_start(
            steps in proptest::collection::vec((any::<bool>(), 0i64..500), 0..200),
        ) {
            let (mut tally, mut model, mut low) = (Tally::default(), BTreeSet::new(), 0);
            for (is_record, offset) in steps {
                if is_record && offset >= low {
                    tally.note(offset);
                    model.insert(offset);
                } else if !is_record {
                    low = low.max(offset);
                    tally.forget_below(low);
                    model = model.split_off(&low);
                }
                prop_assert_eq!(tally.count(), model.len() as u64);
                prop_assert!(model.iter().all(|offset| *offset < tally.next()));
            }
        }
    }
}
