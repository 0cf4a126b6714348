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
        })
    }
}

impl Kind {
    pub fn is_of_brokers(self) -> bool {
        matches!(self, Self::BrokerKill | Self::BrokerTerm | Self::BrokerPause)
    }

    /// How long it lasts, in milliseconds.
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

/// How long nothing happens before those.
const CALM: Duration = Duration::from_secs(18);

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
    /// Which worker or broker, from 0.
    pub victim: usize,
    pub length: Duration,
}

impl Planned {
    pub fn end(&self) -> Duration {
        self.at + self.length
    }
}

/// Draws faults that begin within `period`. At no time is more than one broker disturbed, nor a worker by two faults.
pub fn plan(seed: u64, period: Duration, workers: usize, brokers: usize) -> Vec<Planned> {
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut planned, mut deck, mut at, mut gentle) = (vec![], GENTLE[..2].to_vec(), Duration::ZERO, true);
    let mut free = vec![Duration::ZERO; workers];
    let (mut whole, mut well) = (Duration::ZERO, Duration::ZERO);
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
                at = at.max(ends + CALM);
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

mod tests {
    use super::*;

    const SMALL: Duration = Duration::from_secs(75);

    #[test]
    fn a_seed_gives_the_same_faults_again_and_another_one_others() {
        assert_eq!(plan(1, SMALL, 5, 3), plan(1, SMALL, 5, 3));
        assert_ne!(plan(1, SMALL, 5, 3), plan(2, SMALL, 5, 3));
    }

    #[test]
    fn no_two_brokers_are_disturbed_at_once_and_no_worker_twice() {
        for seed in 0..200 {
            let planned = plan(seed, Duration::from_secs(300), 5, 3);
            for (index, one) in planned.iter().enumerate() {
                let later = planned[index + 1..].iter().filter(|other| other.at < one.end());
                for other in later {
                    assert!(!(one.kind.is_of_brokers() && other.kind.is_of_brokers()), "{one:?} {other:?}");
                    let on_worker = |fault: &Planned| !fault.kind.is_of_brokers() && fault.kind != Kind::Outage;
                    assert!(!(on_worker(one) && on_worker(other) && one.victim == other.victim));
                }
            }
        }
    }

    #[test]
    fn a_small_run_has_kills_pauses_and_broker_faults() {
        for seed in 0..200 {
            let planned = plan(seed, SMALL, 5, 3);
            let count = |wanted: fn(Kind) -> bool| planned.iter().filter(|fault| wanted(fault.kind)).count();
            assert!(count(|kind| kind == Kind::WorkerKill) >= 2, "{planned:?}");
            assert!(count(Kind::is_of_brokers) >= 1, "{planned:?}");
        }
    }
}
