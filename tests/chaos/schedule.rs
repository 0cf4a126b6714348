//! Which faults a run has, and when. It follows from the seed alone.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

/// What is done to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `kill -9`, and a start soon after.
    WorkerKill,
    /// SIGTERM, and a start soon after.
    WorkerTerm,
    /// SIGSTOP for longer than the session timeout, then SIGCONT: it wakes up and does not know yet what it lost.
    WorkerPause,
    /// It leaves, and comes back later.
    WorkerAway,
    BrokerKill,
    BrokerTerm,
    BrokerPause,
    /// The endpoint answers 503 to everything.
    Outage,
    /// One key of a pipeline gets no answer.
    KeyUnanswered,
    /// One partition of a pipeline's topic gets nothing but 503.
    PartitionFails,
    /// The dead letter topic of a pipeline refuses what is written to it.
    DeadLettersRefused,
    /// One pipeline gets no answer.
    PipelineUnanswered,
    /// One partition of a pipeline's topic is written ten times as much as any other.
    PartitionFlooded,
    /// The dead letter topic of a pipeline is deleted, and made again.
    DeadLettersDeleted,
    /// Thousands of large records of one pipeline fail, all in one partition of its retry topic, and are due together. Three in
    /// ten fail again.
    RetriesBurst,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WorkerKill => "worker killed",
            Self::WorkerTerm => "worker restarted",
            Self::WorkerPause => "worker paused",
            Self::WorkerAway => "worker away",
            Self::BrokerKill => "broker killed",
            Self::BrokerTerm => "broker restarted",
            Self::BrokerPause => "broker paused",
            Self::Outage => "processor outage",
            Self::KeyUnanswered => "key unanswered",
            Self::PartitionFails => "partition fails",
            Self::DeadLettersRefused => "dead letters refused",
            Self::PipelineUnanswered => "pipeline unanswered",
            Self::PartitionFlooded => "partition flooded",
            Self::DeadLettersDeleted => "dead letters deleted",
            Self::RetriesBurst => "burst of retries",
        })
    }
}

impl Kind {
    pub fn is_of_brokers(self) -> bool {
        matches!(self, Self::BrokerKill | Self::BrokerTerm | Self::BrokerPause)
    }

    /// Whether it hits one key, partition, topic or pipeline, and the others have to go on.
    pub fn is_lopsided(self) -> bool {
        LOPSIDED.contains(&self)
    }

    fn is_of_workers(self) -> bool {
        !self.is_of_brokers() && !self.is_lopsided() && self != Self::Outage
    }

    /// How long it lasts, in milliseconds. What is lopsided lasts longer than what it does to others may take, and less than
    /// the processor's timeout.
    fn length(self) -> RangeInclusive<u64> {
        match self {
            Self::WorkerKill => 0..=3_000,
            Self::WorkerTerm => 500..=3_000,
            Self::WorkerPause => 6_500..=10_000,
            Self::WorkerAway => 5_000..=10_000,
            Self::BrokerKill => 1_000..=7_000,
            Self::BrokerTerm => 500..=3_000,
            Self::BrokerPause => 1_000..=7_000,
            Self::Outage => 500..=3_500,
            Self::KeyUnanswered
            | Self::PartitionFails
            | Self::DeadLettersRefused
            | Self::PipelineUnanswered
            | Self::PartitionFlooded
            | Self::RetriesBurst => 6_500..=8_500,
            Self::DeadLettersDeleted => 14_000..=16_000,
        }
    }
}

/// Every so many faults, each kind comes as often as it stands here.
const DECK: [Kind; 14] = [
    Kind::WorkerKill,
    Kind::WorkerKill,
    Kind::WorkerKill,
    Kind::WorkerKill,
    Kind::WorkerKill,
    Kind::WorkerTerm,
    Kind::WorkerTerm,
    Kind::WorkerPause,
    Kind::WorkerPause,
    Kind::WorkerAway,
    Kind::BrokerKill,
    Kind::BrokerTerm,
    Kind::BrokerPause,
    Kind::Outage,
];

/// And then, when all is well again, come some after which no worker has an excuse.
const GENTLE: [Kind; 6] =
    [Kind::WorkerTerm, Kind::WorkerTerm, Kind::WorkerTerm, Kind::WorkerAway, Kind::WorkerAway, Kind::WorkerKill];

/// And before those, one after the other and while all else is well, some that hit one and must spare the others.
pub const LOPSIDED: [Kind; 7] = [
    Kind::KeyUnanswered,
    Kind::PartitionFails,
    Kind::DeadLettersRefused,
    Kind::PipelineUnanswered,
    Kind::PartitionFlooded,
    Kind::DeadLettersDeleted,
    Kind::RetriesBurst,
];

/// How many of them come at a time, in runs shorter than two minutes and in others.
const LOPSIDED_AT_A_TIME: [usize; 2] = [2, 4];
pub const SHORT_RUN: Duration = Duration::from_secs(120);

/// In runs of this length a key gets no answer for a minute or two once and at times, far longer than the processor's timeout, and a burst
/// is as large as one may be.
pub const LONG_RUN: Duration = Duration::from_secs(600);
const LONG_SILENCE: RangeInclusive<u64> = 60_000..=120_000;
const LONG_SILENCES: f64 = 0.4;
const LARGE_BURST: RangeInclusive<u64> = 30_000..=35_000;

/// The time between two of them, in milliseconds: what the first one did to others is seen by then.
const LOPSIDED_PAUSE: RangeInclusive<u64> = 3_500..=4_500;

/// How long nothing happens after the last worker has joined its groups: they are in a rebalance still.
pub const JOINING: Duration = Duration::from_secs(5);

/// How long nothing happens between other faults and lopsided ones: a broker's take the engine that long.
const CALM: Duration = Duration::from_secs(30);

/// The time from the begin of a fault to that of the next, in milliseconds.
const PAUSE: RangeInclusive<u64> = 300..=6_000;

/// What a broker needs to be a full member again, before the next one may go.
const HEALING: Duration = Duration::from_secs(8);

/// What a worker needs to start, before the next fault hits it. Short: some are to be hit while they join.
const STARTING: Duration = Duration::from_millis(200);

/// A fault to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    pub at: Duration,
    pub kind: Kind,
    /// Which worker or broker, from 0; of what is lopsided a number that says which pipeline, key or partition.
    pub victim: usize,
    pub length: Duration,
}

impl Planned {
    pub fn end(&self) -> Duration {
        self.at + self.length
    }
}

/// Draws faults that begin within `period`, those that are lopsided from `kinds`. At no time is more than one broker disturbed,
/// nor a worker by two faults.
pub fn plan(seed: u64, period: Duration, workers: usize, brokers: usize, kinds: &[Kind]) -> Vec<Planned> {
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut planned, mut deck, mut at, mut gentle) = (vec![], GENTLE[..2].to_vec(), JOINING, true);
    let mut lopsided = vec![];
    let mut free = vec![Duration::ZERO; workers];
    let (mut whole, mut well) = (Duration::ZERO, Duration::ZERO);
    at = plan_lopsided(&mut rng, at, period, kinds, &mut lopsided, &mut planned);
    loop {
        at += Duration::from_millis(rng.random_range(PAUSE));
        if at >= period {
            return planned;
        }
        if deck.is_empty() {
            gentle = !gentle;
            deck = if gentle { GENTLE.to_vec() } else { DECK.to_vec() };
            deck.shuffle(&mut rng);
            let ends = planned.iter().map(Planned::end).max().unwrap_or_default();
            if gentle {
                at = plan_lopsided(&mut rng, at.max(ends + CALM), period, kinds, &mut lopsided, &mut planned);
                continue;
            }
        }
        let may = |kind: &Kind| match kind {
            kind if kind.is_of_brokers() => whole <= at,
            Kind::Outage => well <= at,
            _ => free.iter().any(|free| *free <= at),
        };
        // What cannot happen yet waits in the deck for its turn.
        let Some(card) = deck.iter().position(may) else { continue };
        let kind = deck.remove(card);
        let length = Duration::from_millis(rng.random_range(kind.length()));
        let victim = match kind {
            kind if kind.is_of_brokers() => {
                whole = at + length + HEALING;
                rng.random_range(0..brokers)
            }
            Kind::Outage => {
                well = at + length;
                0
            }
            _ => {
                let able: Vec<_> = (0..workers).filter(|worker| free[*worker] <= at).collect();
                let victim = able[rng.random_range(0..able.len())];
                free[victim] = at + length + STARTING;
                victim
            }
        };
        planned.push(Planned { at, kind, victim, length });
    }
}

/// Draws some that are lopsided, none of which begins before the one before it has ended. Returns when all have.
fn plan_lopsided(
    rng: &mut StdRng,
    mut at: Duration,
    period: Duration,
    kinds: &[Kind],
    deck: &mut Vec<Kind>,
    planned: &mut Vec<Planned>,
) -> Duration {
    for _ in 0..LOPSIDED_AT_A_TIME[usize::from(period >= SHORT_RUN)] {
        if deck.is_empty() {
            *deck = kinds.to_vec();
            deck.shuffle(rng);
        }
        let (Some(kind), true) = (deck.pop(), at < period) else { return at };
        let is_first = planned.iter().all(|fault| fault.kind != kind);
        let length = match kind {
            Kind::KeyUnanswered if period >= LONG_RUN && (is_first || rng.random_bool(LONG_SILENCES)) => LONG_SILENCE,
            Kind::RetriesBurst if period >= LONG_RUN => LARGE_BURST,
            kind => kind.length(),
        };
        let length = Duration::from_millis(rng.random_range(length));
        planned.push(Planned { at, kind, victim: rng.random_range(0..1_000), length });
        at += length + Duration::from_millis(rng.random_range(LOPSIDED_PAUSE));
    }
    at
}

mod tests {
    use super::super::SMALL;
    use super::*;

    #[test]
    fn a_seed_gives_the_same_faults_again_and_another_one_others() {
        assert_eq!(plan(1, SMALL, 5, 3, &LOPSIDED), plan(1, SMALL, 5, 3, &LOPSIDED));
        assert_ne!(plan(1, SMALL, 5, 3, &LOPSIDED), plan(2, SMALL, 5, 3, &LOPSIDED));
    }

    #[test]
    fn no_two_brokers_are_disturbed_at_once_and_no_worker_twice() {
        for seed in 0..200 {
            let planned = plan(seed, Duration::from_secs(300), 5, 3, &LOPSIDED);
            for (index, one) in planned.iter().enumerate() {
                let later = planned[index + 1..].iter().filter(|other| other.at < one.end());
                for other in later {
                    assert!(!(one.kind.is_of_brokers() && other.kind.is_of_brokers()), "{one:?} {other:?}");
                    let on_workers = one.kind.is_of_workers() && other.kind.is_of_workers();
                    assert!(!(on_workers && one.victim == other.victim));
                    assert!(!one.kind.is_lopsided() && !other.kind.is_lopsided(), "{one:?} {other:?}");
                }
            }
        }
    }

    #[test]
    fn a_small_run_has_kills_pauses_broker_faults_and_lopsided_ones() {
        for seed in 0..200 {
            let planned = plan(seed, SMALL, 5, 3, &LOPSIDED);
            let count = |wanted: fn(Kind) -> bool| planned.iter().filter(|fault| wanted(fault.kind)).count();
            assert!(count(|kind| kind == Kind::WorkerKill) >= 2, "{planned:?}");
            assert!(count(|kind| kind == Kind::WorkerPause) >= 1, "{planned:?}");
            assert!(count(Kind::is_of_brokers) >= 1, "{planned:?}");
            assert_eq!(count(Kind::is_lopsided), LOPSIDED_AT_A_TIME[0], "{planned:?}");
        }
    }

    #[test]
    fn in_half_an_hour_a_key_is_silent_for_longer_than_any_call_may_take() {
        let planned = plan(1, Duration::from_secs(1_800), 5, 3, &LOPSIDED);
        assert!(planned.iter().any(|fault| fault.length >= Duration::from_secs(60)), "{planned:?}");
    }

    #[test]
    fn five_minutes_have_every_lopsided_fault() {
        for seed in 0..200 {
            let planned = plan(seed, Duration::from_secs(300), 5, 3, &LOPSIDED);
            assert!(LOPSIDED.iter().all(|kind| planned.iter().any(|fault| fault.kind == *kind)), "{planned:?}");
        }
    }
}
