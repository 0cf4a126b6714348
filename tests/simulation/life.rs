//! One life: what is in it, and how it goes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;

use lazaret::domain::pipeline::Delivery;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::kafka::{Ended, Kafka, Refuses};
use super::worker::Worker;

/// Virtual time in milliseconds.
pub type Millis = u64;

/// What is drawn of a life; the rest follows from the seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    pub seed: u64,
    pub exactly_once: bool,
    pub workers: usize,
    pub partitions: usize,
    pub records: usize,
    /// Of a thousand records, how many fail.
    pub failing: u32,
    /// Of a thousand records, how many wait until they are due.
    pub waiting: u32,
    /// The largest record, in bytes.
    pub bytes: usize,
    /// Over how many milliseconds after they are written records become due.
    pub spread: Millis,
    /// Topics that failed records go to.
    pub topics: usize,
    /// How often a topic is in trouble, and how often a worker.
    pub troubles: usize,
    pub crashes: usize,
    pub hand_overs: usize,
}

/// What came of lives.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    pub events: u64,
    pub calls: u64,
    pub routed: u64,
    pub refused: u64,
    pub crashes: u64,
    pub hand_overs: u64,
}

impl Outcome {
    pub fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.calls += other.calls;
        self.routed += other.routed;
        self.refused += other.refused;
        self.crashes += other.crashes;
        self.hand_overs += other.hand_overs;
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { events, calls, routed, refused, crashes, hand_overs } = self;
        write!(f, "{events} events, {calls} calls, {routed} records routed, {refused} refusals, ")?;
        write!(f, "{crashes} crashes, {hand_overs} hand-overs")
    }
}

/// What happens at a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// A worker of this life has something to do.
    Wake(usize, u32),
    /// A step of a worker's settlement has ended.
    Step(usize, u32, u64),
    /// A call has ended.
    Call(usize, u32, u64, i64),
    /// Records that were asked for again have come.
    Again(usize, u32, u64),
    /// A worker dies, and is there again a little later.
    Crash(usize),
    Start(usize),
    /// A partition goes to another worker.
    HandOver(usize, usize),
    /// A topic refuses, or does no more.
    Trouble(usize, Refuses),
}

/// After this all troubles are over.
pub const TROUBLED: Millis = 60_000;

/// How many lives have a retry partition with as much in it as it may hold.
const BURSTS: f64 = 0.004;

/// And after this everything has to be settled, or something has to be settled again and again.
const END: Millis = 260_000;
const STANDSTILL: Millis = 30_000;

/// The queue of what is to happen.
#[derive(Default)]
pub struct Queue {
    heap: BinaryHeap<Reverse<(Millis, u64, Event)>>,
    count: u64,
    pub now: Millis,
}

impl Queue {
    pub fn push(&mut self, at: Millis, event: Event) {
        self.count += 1;
        self.heap.push(Reverse((at.max(self.now), self.count, event)));
    }

    fn pop(&mut self) -> Option<Event> {
        let Reverse((at, _, event)) = self.heap.pop()?;
        self.now = at;
        Some(event)
    }
}

impl Life {
    pub fn drawn(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let is_long = rng.random_bool(0.1);
        let life = Self {
            seed,
            exactly_once: rng.random_bool(0.8),
            workers: rng.random_range(1..=3),
            partitions: rng.random_range(1..=5),
            records: if is_long { rng.random_range(500..3_000) } else { rng.random_range(10..250) },
            failing: *[10, 200, 500, 900].get(rng.random_range(0..4)).expect("there are four"),
            waiting: *[0, 0, 500, 1_000].get(rng.random_range(0..4)).expect("there are four"),
            bytes: *[2_000, 20_000, 2_000_000].get(rng.random_range(0..3)).expect("there are three"),
            spread: 20_000,
            topics: rng.random_range(1..=4),
            troubles: rng.random_range(0..=4),
            crashes: rng.random_range(0..=3),
            hand_overs: rng.random_range(0..=4),
        };
        if !rng.random_bool(BURSTS) {
            return life;
        }
        // Most of what waits is in one partition, and much of it fails again.
        let (records, failing) = (rng.random_range(6_000..16_000), rng.random_range(300..500));
        Self { partitions: 1, records, failing, waiting: 1_000, bytes: 20_000, spread: 60_000, ..life }
    }

    /// Lives with a little less in them.
    pub fn smaller(&self) -> Vec<Self> {
        let less = |change: &dyn Fn(&mut Self)| {
            let mut less = self.clone();
            change(&mut less);
            less
        };
        let all = [
            less(&|life| life.records /= 2),
            less(&|life| life.records = (life.records - 1).max(1)),
            less(&|life| life.partitions = (life.partitions - 1).max(1)),
            less(&|life| life.workers = (life.workers - 1).max(1)),
            less(&|life| life.topics = (life.topics - 1).max(1)),
            less(&|life| life.troubles = life.troubles.saturating_sub(1)),
            less(&|life| life.crashes = life.crashes.saturating_sub(1)),
            less(&|life| life.hand_overs = life.hand_overs.saturating_sub(1)),
            less(&|life| life.waiting = 0),
            less(&|life| life.bytes = 2_000),
        ];
        all.into_iter().filter(|less| less != self && less.records > 0).collect()
    }

    pub fn delivery(&self) -> Delivery {
        if self.exactly_once { Delivery::ExactlyOnce } else { Delivery::AtLeastOnce }
    }

    /// Lives it, and says what came of it or which promise was broken.
    pub fn live(&self) -> Result<Outcome, String> {
        let mut rng = StdRng::seed_from_u64(self.seed ^ 0x5eed);
        let mut queue = Queue::default();
        let mut kafka = Kafka::new(self, &mut rng);
        let mut workers: Vec<_> = (0..self.workers).map(|index| Worker::new(index, self)).collect();
        self.plan(&mut queue, &mut rng);
        let (mut outcome, mut end, mut settled) = (Outcome::default(), END, 0);
        for partition in 0..self.partitions {
            workers[partition % self.workers].take(partition, &mut kafka, &mut queue);
        }
        while let Some(event) = queue.pop() {
            outcome.events += 1;
            if queue.now > end && kafka.settled > settled {
                (end, settled) = (queue.now + STANDSTILL, kafka.settled);
            }
            if queue.now > end || outcome.events > 3_000_000 {
                return Err(format!("stuck: {}", kafka.unsettled()));
            }
            match event {
                Event::Trouble(topic, refuses) => kafka.set(topic, refuses, queue.now),
                Event::Crash(index) => {
                    outcome.crashes += 1;
                    workers[index].crash(&mut kafka, &mut queue);
                    queue.push(queue.now + rng.random_range(100..8_000), Event::Start(index));
                }
                Event::Start(index) => workers[index].start(&mut kafka, &mut queue),
                Event::HandOver(partition, to) => {
                    outcome.hand_overs += 1;
                    workers.iter_mut().for_each(|worker| worker.release(partition, &mut queue));
                    kafka.wanted[partition] = to % self.workers;
                }
                Event::Wake(index, life)
                | Event::Step(index, life, _)
                | Event::Call(index, life, ..)
                | Event::Again(index, life, _) => {
                    let worker = &mut workers[index];
                    if worker.life == life {
                        worker.handle(&event, &mut kafka, &mut queue, &mut rng)?;
                    }
                }
            }
            for (partition, to) in kafka.free() {
                workers[to].take(partition, &mut kafka, &mut queue);
            }
            kafka.check_others(queue.now)?;
            if queue.now > TROUBLED && kafka.is_done() {
                break;
            }
        }
        let Ended { routed, refused, calls } = kafka.ended()?;
        Ok(Outcome { routed, refused, calls, ..outcome })
    }

    fn plan(&self, queue: &mut Queue, rng: &mut StdRng) {
        for _ in 0..self.troubles {
            let (topic, from) = (rng.random_range(0..self.topics), rng.random_range(0..TROUBLED * 3 / 4));
            let refuses = if rng.random_bool(0.5) { Refuses::All } else { Refuses::Away };
            queue.push(from, Event::Trouble(topic, refuses));
            let until = from + rng.random_range(1_000..TROUBLED / 2);
            queue.push(until.min(TROUBLED), Event::Trouble(topic, Refuses::None));
        }
        for _ in 0..self.crashes {
            queue.push(rng.random_range(0..TROUBLED * 3 / 4), Event::Crash(rng.random_range(0..self.workers)));
        }
        for _ in 0..self.hand_overs {
            let (partition, to) = (rng.random_range(0..self.partitions), rng.random_range(0..self.workers));
            queue.push(rng.random_range(0..TROUBLED), Event::HandOver(partition, to));
        }
    }
}
