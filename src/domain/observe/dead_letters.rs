//! The dead letters that there are, by what they died of.
//!
//! Somebody reads each of them once and notes it here. Because retention takes them away from below, and says only up to
//! which offset, each letter's offset, time and cause are remembered: 16 bytes a letter, the causes themselves once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::domain::record::dead_letter::Cause;
use crate::domain::time::Timestamp;

/// Causes that are told apart. Error types come from users' code, and may be without end.
const CAUSES: usize = 1_000;

/// The error type under which the others are counted.
pub const OTHER: &str = "other";

/// How far back [`Summary::last_hour`] looks.
pub const HOUR: Duration = Duration::from_secs(3_600);

const MINUTE: i64 = 60_000;

/// The dead letters of one or more topics that were read and are still there.
#[derive(Debug, Default)]
pub struct DeadLetters {
    partitions: BTreeMap<(Arc<str>, i32), Partition>,
    causes: Vec<Counted>,
    index: BTreeMap<Cause, u16>,
    /// Letters by the minute of their time; only the last hour is asked for.
    by_minute: BTreeMap<i64, u64>,
    newest: Option<Timestamp>,
}

#[derive(Debug, Default)]
struct Partition {
    letters: VecDeque<Letter>,
    next: i64,
}

/// One dead letter. Its time is kept in seconds.
#[derive(Clone, Copy, Debug)]
struct Letter {
    offset: i64,
    seconds: u32,
    cause: u16,
}

#[derive(Debug)]
struct Counted {
    cause: Cause,
    count: u64,
    first: Timestamp,
    newest: Timestamp,
}

/// How many dead letters there are, and of which kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// All of them.
    pub total: u64,
    /// Those that were written within the last hour.
    pub last_hour: u64,
    /// When the oldest was written, to the second.
    pub oldest: Option<Timestamp>,
    /// When the newest was written that was ever seen.
    pub newest: Option<Timestamp>,
    /// By what they died of, the most frequent first.
    pub causes: Vec<CauseSummary>,
}

/// The dead letters of one cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CauseSummary {
    /// The cause.
    pub cause: Cause,
    /// How many there are.
    pub count: u64,
    /// When the first one was written that was seen.
    pub first: Timestamp,
    /// When the newest one was written.
    pub newest: Timestamp,
}

impl DeadLetters {
    /// Takes note of a dead letter. Letters of a partition come in ascending order; one that is noted again does not count.
    pub fn note(&mut self, topic: &Arc<str>, partition: i32, offset: i64, at: Timestamp, cause: Cause) {
        let known = self.partitions.entry((topic.clone(), partition)).or_default();
        if offset < known.next {
            return;
        }
        known.next = offset.saturating_add(1);
        let cause = index_of(&mut self.index, &mut self.causes, cause, at);
        let seconds = u32::try_from(at.0.max(0) / 1_000).unwrap_or(u32::MAX);
        known.letters.push_back(Letter { offset, seconds, cause });
        let counted = &mut self.causes[usize::from(cause)];
        counted.count += 1;
        counted.first = counted.first.min(at);
        counted.newest = counted.newest.max(at);
        self.newest = self.newest.max(Some(at));
        *self.by_minute.entry(at.0.div_euclid(MINUTE)).or_default() += 1;
    }

    /// Takes note that everything below this offset is gone.
    pub fn forget_below(&mut self, topic: &Arc<str>, partition: i32, low: i64) {
        let known = self.partitions.entry((topic.clone(), partition)).or_default();
        known.next = known.next.max(low);
        while let Some(letter) = known.letters.front().filter(|letter| letter.offset < low).copied() {
            known.letters.pop_front();
            self.causes[usize::from(letter.cause)].count -= 1;
        }
        if known.letters.capacity() > 4 * known.letters.len() + 1_024 {
            known.letters.shrink_to(2 * known.letters.len());
        }
    }

    /// Takes note that there is nothing more below this offset.
    pub fn read_up_to(&mut self, topic: &Arc<str>, partition: i32, end: i64) {
        let known = self.partitions.entry((topic.clone(), partition)).or_default();
        known.next = known.next.max(end);
    }

    /// Takes note that a partition begins anew: its topic was deleted and made again.
    pub fn restart(&mut self, topic: &Arc<str>, partition: i32) {
        self.forget_below(topic, partition, i64::MAX);
        self.partitions.remove(&(topic.clone(), partition));
    }

    /// Where to read a partition on.
    pub fn next(&self, topic: &Arc<str>, partition: i32) -> i64 {
        self.partitions.get(&(topic.clone(), partition)).map_or(0, |known| known.next)
    }

    /// How many there are, and of which kinds.
    pub fn summary(&self, now: Timestamp) -> Summary {
        let hour_ago = now.0.saturating_sub(HOUR.as_millis() as i64).div_euclid(MINUTE);
        let oldest =
            self.partitions.values().filter_map(|known| known.letters.front()).map(|letter| letter.seconds).min();
        let present = self.causes.iter().filter(|counted| counted.count > 0);
        let summary = |counted: &Counted| CauseSummary {
            cause: counted.cause.clone(),
            count: counted.count,
            first: counted.first,
            newest: counted.newest,
        };
        let mut causes: Vec<_> = present.map(summary).collect();
        causes.sort_by(|one, other| other.count.cmp(&one.count).then_with(|| one.cause.cmp(&other.cause)));
        let total = causes.iter().map(|cause| cause.count).sum();
        Summary {
            total,
            // Retention may have taken some of them away already.
            last_hour: self.by_minute.range(hour_ago..).map(|(_, count)| count).sum::<u64>().min(total),
            oldest: oldest.map(|seconds| Timestamp(i64::from(seconds) * 1_000)),
            newest: self.newest.filter(|_| total > 0),
            causes,
        }
    }

    /// Forgets what no [`summary`](Self::summary) will ask for any more.
    pub fn tidy(&mut self, now: Timestamp) {
        let hour_ago = now.0.saturating_sub(HOUR.as_millis() as i64).div_euclid(MINUTE);
        self.by_minute = self.by_minute.split_off(&hour_ago);
    }
}

/// The index of a cause, [`OTHER`]'s when there are too many.
fn index_of(index: &mut BTreeMap<Cause, u16>, causes: &mut Vec<Counted>, cause: Cause, at: Timestamp) -> u16 {
    let cause = match index.get(&cause) {
        Some(known) => return *known,
        None if causes.len() < CAUSES => cause,
        None => Cause { error_type: OTHER.to_owned(), reason: None },
    };
    *index.entry(cause.clone()).or_insert_with(|| {
        causes.push(Counted { cause, count: 0, first: at, newest: at });
        u16::try_from(causes.len() - 1).expect("there are fewer causes than that")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cause(error_type: impl ToString) -> Cause {
        Cause { error_type: error_type.to_string(), reason: Some("Permanent".to_owned()) }
    }

    fn topic() -> Arc<str> {
        "orders.dlt".into()
    }

    #[test]
    fn the_most_frequent_cause_comes_first_and_the_last_hour_is_told_apart() {
        let (mut letters, now) = (DeadLetters::default(), Timestamp(100 * 3_600_000));
        let ago = |minutes: i64| Timestamp(now.0 - minutes * MINUTE);
        for (offset, (minutes, kind)) in [(300, "A"), (200, "B"), (10, "B"), (5, "C")].into_iter().enumerate() {
            letters.note(&topic(), 0, offset as i64 * 2, ago(minutes), cause(kind));
        }
        let summary = letters.summary(now);
        assert_eq!((summary.total, summary.last_hour), (4, 2));
        assert_eq!((summary.oldest, summary.newest), (Some(ago(300)), Some(ago(5))));
        let kinds: Vec<_> = summary.causes.iter().map(|c| (&*c.cause.error_type, c.count)).collect();
        assert_eq!(kinds, [("B", 2), ("A", 1), ("C", 1)]);
        letters.forget_below(&topic(), 0, 3);
        let summary = letters.summary(now);
        assert_eq!((summary.total, summary.oldest), (2, Some(ago(10))));
        assert_eq!(summary.causes.len(), 2, "nobody died of A any more");
        letters.restart(&topic(), 0);
        assert_eq!((letters.summary(now).total, letters.next(&topic(), 0)), (0, 0));
    }

    #[test]
    fn causes_without_end_are_counted_as_other() {
        let mut letters = DeadLetters::default();
        for n in 0..CAUSES as i64 + 5 {
            letters.note(&topic(), 0, n, Timestamp(n), cause(n));
        }
        let summary = letters.summary(Timestamp(0));
        assert_eq!((summary.causes.len(), summary.total), (CAUSES + 1, CAUSES as u64 + 5));
        assert_eq!((&*summary.causes[0].cause.error_type, summary.causes[0].count), (OTHER, 5));
    }

    proptest! {
        #[test]
        fn it_holds_what_was_noted_once_and_is_not_below_the_start(
            steps in proptest::collection::vec((any::<bool>(), 0i32..3, 0i64..60, 0u8..4), 0..200),
        ) {
            let (mut letters, mut model, mut next) = (DeadLetters::default(), BTreeMap::new(), [0i64; 3]);
            for (is_letter, partition, by, kind) in steps {
                let at = &mut next[partition as usize];
                *at += by;
                if is_letter {
                    letters.note(&topic(), partition, *at, Timestamp(*at), cause(kind));
                    letters.note(&topic(), partition, *at, Timestamp(*at), cause(kind));
                    model.insert((partition, *at), kind);
                    *at += 1;
                } else {
                    letters.forget_below(&topic(), partition, *at);
                    model.retain(|(of, offset), _| *of != partition || *offset >= *at);
                }
                let summary = letters.summary(Timestamp(1_000));
                prop_assert_eq!(summary.total, model.len() as u64);
                for kind in 0u8..4 {
                    let count = summary.causes.iter().find(|c| c.cause == cause(kind)).map_or(0, |c| c.count);
                    prop_assert_eq!(count, model.values().filter(|of| **of == kind).count() as u64);
                }
            }
        }
    }
}
