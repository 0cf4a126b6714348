//! A worker of a life: what `src/worker` does with partitions, calls and steps, without Kafka and without waiting.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use lazaret::domain::commit::offsets::Begun;
use lazaret::domain::commit::partition_state::PartitionState;
use lazaret::domain::commit::settlement::{
    AssignmentId, Choice, Commit, Outbound, Refusal, Settlement, Step, Unwritten, Written,
};
use lazaret::domain::flow::delay_queue::{DelayQueue, Due};
use lazaret::domain::flow::lane::{Lanes, Ordering};
use lazaret::domain::flow::load::{Charge, DUE_BYTES, Intake, Pause, STAGE_BYTES};
use lazaret::domain::pipeline::Delivery;
use lazaret::domain::time::Timestamp;
use rand::Rng;
use rand::rngs::StdRng;

use super::kafka::Kafka;
use super::life::{Event, Life, Millis, Queue};

/// The memory of all that waits in a worker.
const WAITING: usize = 64 << 20;

/// What is read at once, before it is looked at what all hold.
const BATCH: usize = 1 << 20;

/// What is finished ahead has room beside the commit where it is no more than this, whatever it looks like.
const FINISHED_AHEAD: usize = 8_000;

const IN_FLIGHT: usize = 8;
const DRAIN: Millis = 25_000;

/// How long it takes until librdkafka gives up a record whose partition does not answer.
const DELIVERY_TIMEOUT: Millis = 5_000;

/// A record that failed.
#[derive(Debug)]
pub struct Letter {
    partition: usize,
    offset: i64,
    bytes: usize,
    topic: Arc<str>,
    _charge: Option<Charge>,
}

impl Outbound for Letter {
    fn offset(&self) -> i64 {
        self.offset
    }

    fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

struct Partition {
    id: AssignmentId,
    state: Arc<PartitionState>,
    /// The next record of the log to read.
    next: usize,
    delayed: DelayQueue<i64>,
    lanes: Lanes<i64>,
    charges: BTreeMap<i64, Charge>,
    calls: usize,
    is_paused: bool,
    /// Since when it is to be given up, and whether the settlement knows.
    stopping: Option<(Millis, bool)>,
}

enum Doing {
    Prepare,
    PrepareSecond,
    Commit(Vec<Commit>),
    Write(Vec<Letter>, Vec<Commit>),
    Deliver(Vec<Letter>, Choice),
    CommitDelivered(Vec<Commit>),
}

pub struct Worker {
    index: usize,
    /// Counts its lives: what was begun in an earlier one means nothing.
    pub life: u32,
    settlement: Settlement<Letter>,
    delivery: Delivery,
    partitions: BTreeMap<usize, Partition>,
    doing: BTreeMap<u64, Doing>,
    begun: u64,
    /// What is written in a transaction that is open.
    open: Vec<(usize, i64)>,
    asked: BTreeMap<u64, (usize, AssignmentId, Vec<i64>)>,
    wake: Option<Millis>,
    /// The largest record of this life.
    largest: usize,
}

fn at(now: Millis) -> Instant {
    static BEGIN: OnceLock<Instant> = OnceLock::new();
    *BEGIN.get_or_init(Instant::now) + Duration::from_millis(now)
}

fn lane(key: u8) -> Option<lazaret::domain::flow::lane::LaneId> {
    Ordering::Key.lane_of(Some(&[key]))
}

impl Worker {
    pub fn new(index: usize, life: &Life) -> Self {
        let delivery = life.delivery();
        let mut worker = Self {
            index,
            life: 0,
            settlement: Settlement::new(delivery, at(0)),
            delivery,
            partitions: BTreeMap::new(),
            doing: BTreeMap::new(),
            begun: 0,
            open: vec![],
            asked: BTreeMap::new(),
            wake: None,
            largest: life.bytes,
        };
        worker.settlement.begin_rounds();
        worker.settlement.begin_deliveries();
        worker
    }

    pub fn take(&mut self, partition: usize, kafka: &mut Kafka, queue: &mut Queue) {
        let (id, offsets, from) = kafka.assign(partition, self.index, queue.now);
        let state = Arc::new(PartitionState::new(offsets, 100_000));
        self.settlement.assign(id, partition as i32, state.clone());
        let next = kafka.logs[partition].partition_point(|source| source.offset < from);
        let (delayed, lanes, charges) = (DelayQueue::default(), Lanes::default(), BTreeMap::new());
        let (calls, is_paused, stopping) = (0, false, None);
        let part = Partition { id, state, next, delayed, lanes, charges, calls, is_paused, stopping };
        self.partitions.insert(partition, part);
        queue.push(queue.now, Event::Wake(self.index, self.life));
    }

    pub fn release(&mut self, partition: usize, queue: &mut Queue) {
        let Some(part) = self.partitions.get_mut(&partition).filter(|part| part.stopping.is_none()) else { return };
        part.stopping = Some((queue.now, false));
        part.delayed = DelayQueue::default();
        part.lanes.clear();
        part.charges.clear();
        queue.push(queue.now, Event::Wake(self.index, self.life));
    }

    /// It dies. What it has begun may still come about, or not: nobody hears of it.
    pub fn crash(&mut self, kafka: &mut Kafka, queue: &mut Queue) {
        if !kafka.is_alive(self.index) {
            return;
        }
        for (nth, doing) in std::mem::take(&mut self.doing) {
            let comes_about = nth % 2 == 0;
            match doing {
                Doing::Commit(commits) if comes_about && kafka.accepts(self.index, &commits) => {
                    let _ = kafka.commit(&commits);
                }
                Doing::Write(letters, commits) if comes_about && self.delivery == Delivery::ExactlyOnce => {
                    let is_taken =
                        letters.iter().all(|letter| kafka.refusal(letter.partition, letter.offset).is_none());
                    if is_taken && kafka.accepts(self.index, &commits) {
                        letters.iter().for_each(|letter| drop(kafka.write(letter.partition, letter.offset, queue.now)));
                        let _ = kafka.commit(&commits);
                    }
                }
                _ => {}
            }
        }
        self.life += 1;
        self.partitions.clear();
        self.asked.clear();
        (self.open, self.wake) = (vec![], None);
        kafka.set_alive(self.index, false);
        for partition in 0..kafka.logs.len() {
            if kafka.is_owner(partition, self.index) {
                kafka.give_up(partition, queue.now);
            }
        }
    }

    pub fn start(&mut self, kafka: &mut Kafka, queue: &mut Queue) {
        if kafka.is_alive(self.index) {
            return;
        }
        kafka.set_alive(self.index, true);
        self.settlement = Settlement::new(self.delivery, at(queue.now));
        self.begin(queue, 100, Doing::Prepare);
        self.begin(queue, 300, Doing::PrepareSecond);
    }

    fn begin(&mut self, queue: &mut Queue, takes: Millis, doing: Doing) {
        self.begun += 1;
        self.doing.insert(self.begun, doing);
        queue.push(queue.now + takes, Event::Step(self.index, self.life, self.begun));
    }

    pub fn handle(
        &mut self,
        event: &Event,
        kafka: &mut Kafka,
        queue: &mut Queue,
        rng: &mut StdRng,
    ) -> Result<(), String> {
        match event {
            Event::Wake(..) => self.wake = None,
            Event::Step(_, _, nth) => {
                if let Some(doing) = self.doing.remove(nth) {
                    self.end(doing, kafka, queue.now, rng)?;
                }
            }
            Event::Call(_, _, id, offset) => self.end_call(*id, *offset, kafka, queue.now),
            Event::Again(_, _, nth) => self.take_back(*nth, kafka, rng),
            other => unreachable!("{other:?} is not for a worker"),
        }
        self.turn(kafka, queue, rng)
    }

    fn end_call(&mut self, id: u64, offset: i64, kafka: &mut Kafka, now: Millis) {
        let Some((&partition, part)) = self.partitions.iter_mut().find(|(_, part)| part.id.0 == id) else { return };
        part.calls -= 1;
        kafka.note_processed(partition, offset, now);
        let source = kafka.source(partition, offset);
        let charge = part.charges.remove(&offset);
        match source.goes_to {
            None => self.settlement.settle(part.id, vec![offset], vec![]),
            Some(topic) => {
                let topic = kafka.topics[topic].name.clone();
                let letter = Letter { partition, offset, bytes: source.bytes, topic, _charge: charge };
                self.settlement.settle(part.id, vec![], vec![letter]);
            }
        }
        part.lanes.release(lane(source.key));
    }

    fn take_back(&mut self, nth: u64, kafka: &Kafka, rng: &mut StdRng) {
        let Some((partition, id, offsets)) = self.asked.remove(&nth) else { return };
        let waiting = self.waiting();
        let part = self.partitions.get_mut(&partition).filter(|part| part.id == id && part.stopping.is_none());
        let Some(part) = part else { return };
        let come = if rng.random_bool(0.1) { offsets.len() / 2 } else { offsets.len() };
        for offset in &offsets[..come] {
            let source = kafka.source(partition, *offset);
            // What is read again says another due time: it must not move.
            part.delayed.wait(Timestamp(source.due as i64 + 500_000), *offset, source.bytes, *offset, waiting);
        }
        part.delayed.give_up_asking();
    }

    /// The memory that what waits of a partition may take.
    fn waiting(&self) -> usize {
        WAITING / self.partitions.len().max(1)
    }

    /// Pauses partitions that hold too much, and resumes them when they have room, as the source does.
    fn balance(&mut self, kafka: &Kafka) -> Result<(), String> {
        let intake = Intake::of(self.partitions.values().map(|part| &*part.state.load));
        for (partition, part) in &mut self.partitions {
            let load = &part.state.load;
            if part.is_paused {
                part.is_paused = !intake.has_room(load);
                continue;
            }
            let why = intake.is_over(load);
            part.is_paused = why.is_some();
            // Those that were finished before a restart are not in flight, and take room beside the commit just the same.
            let log = &kafka.logs[*partition];
            let first = part.state.offsets().watermark().unwrap_or_default();
            // Before anything is read again, all that is committed lies before the first that will be.
            let ahead = part.next.saturating_sub(log.partition_point(|source| source.offset < first));
            if why == Some(Pause::FinishedAhead) && ahead <= FINISHED_AHEAD {
                return Err(format!("paused: {partition} has {ahead} records from the first that is not finished"));
            }
        }
        Ok(())
    }

    fn check_memory(&self) -> Result<(), String> {
        let sum = |of: &dyn Fn(&Partition) -> usize| self.partitions.values().map(of).sum::<usize>();
        let (charged, waiting) = (sum(&|part| part.state.load.charged()), sum(&|part| part.delayed.sizes().2));
        let over = self.partitions.len() * self.largest;
        if charged > STAGE_BYTES + DUE_BYTES + 2 * over || waiting > WAITING + over {
            return Err(format!("memory: {charged} bytes in lanes, {waiting} bytes wait"));
        }
        Ok(())
    }

    fn turn(&mut self, kafka: &mut Kafka, queue: &mut Queue, rng: &mut StdRng) -> Result<(), String> {
        let now = queue.now;
        let mut wake = vec![];
        self.balance(kafka)?;
        let intake = Intake::of(self.partitions.values().map(|part| &*part.state.load));
        let (waiting, room) = (self.waiting(), DUE_BYTES / self.partitions.len().max(1));
        if self.partitions.values().any(|part| part.stopping.is_some()) {
            kafka.disturb(self.index, now);
        }
        for (&partition, part) in &mut self.partitions {
            if let Some((since, told)) = &mut part.stopping {
                if !*told && (part.calls == 0 || now >= *since + DRAIN) {
                    *told = true;
                    self.settlement.release(part.id, at(*since + DRAIN), at(now));
                }
                wake.push(*since + DRAIN);
                continue;
            }
            wake.extend(part.read(&kafka.logs[partition], now, (intake.share(), waiting)));
            let again = part.delayed.ask(Timestamp(now as i64), waiting);
            if !again.is_empty() {
                self.begun += 1;
                self.asked.insert(self.begun, (partition, part.id, again));
                queue.push(now + rng.random_range(1..200), Event::Again(self.index, self.life, self.begun));
            }
            part.admit_due(&kafka.logs[partition], now, room);
            while part.calls < IN_FLIGHT
                && let Some((_, offset)) = part.lanes.take_ready()
            {
                kafka.note_call(partition, offset, now)?;
                part.calls += 1;
                let ends = now + kafka.source(partition, offset).takes;
                queue.push(ends, Event::Call(self.index, self.life, part.id.0, offset));
            }
            wake.extend(part.delayed.next().map(|due| due.0.max(0) as Millis));
            wake.extend(part.delayed.is_stuck().then_some(now + 50));
        }
        self.check_memory()?;
        while let Some(step) = self.settlement.next(at(now)) {
            self.start_step(step, kafka, queue, rng);
        }
        self.settlement.notes();
        wake.extend(self.settlement.wake(at(now)).map(|until| until.duration_since(at(0)).as_millis() as Millis));
        let wake = wake.into_iter().map(|at| at.max(now + 1)).min();
        if let Some(wake) = wake.filter(|at| self.wake.is_none_or(|known| *at < known)) {
            self.wake = Some(wake);
            queue.push(wake, Event::Wake(self.index, self.life));
        }
        Ok(())
    }

    fn start_step(&mut self, step: Step<Letter>, kafka: &mut Kafka, queue: &mut Queue, rng: &mut StdRng) {
        let short = rng.random_range(3..150);
        let waits = |letters: &[Letter], kafka: &mut Kafka| {
            let mut is_away = |letter: &Letter| kafka.refusal(letter.partition, letter.offset) == Some(Refusal::Away);
            if letters.iter().any(&mut is_away) { DELIVERY_TIMEOUT } else { short }
        };
        match step {
            Step::Commit(commits) => self.begin(queue, short, Doing::Commit(commits)),
            Step::Write(letters, commits) => {
                let takes = waits(&letters, kafka);
                self.begin(queue, takes, Doing::Write(letters, commits));
            }
            Step::Deliver(letters, choice) => {
                let takes = waits(&letters, kafka);
                self.begin(queue, takes, Doing::Deliver(letters, choice));
            }
            Step::CommitDelivered(commits) => self.begin(queue, short, Doing::CommitDelivered(commits)),
            Step::AbortDelivered => self.open.clear(),
            Step::Release { partition, .. } => {
                self.partitions.remove(&(partition as usize));
                kafka.disturb(self.index, queue.now);
                kafka.give_up(partition as usize, queue.now);
            }
        }
    }

    fn end(&mut self, doing: Doing, kafka: &mut Kafka, now: Millis, rng: &mut StdRng) -> Result<(), String> {
        let is_well = rng.random_bool(0.97);
        let exactly_once = self.delivery == Delivery::ExactlyOnce;
        match doing {
            Doing::Prepare => self.settlement.begin_rounds(),
            Doing::PrepareSecond => self.settlement.begin_deliveries(),
            Doing::Commit(commits) => {
                let is_committed = is_well && kafka.accepts(self.index, &commits);
                if is_committed {
                    kafka.commit(&commits)?;
                }
                self.settlement.end_commit(is_committed, at(now));
            }
            Doing::Write(letters, commits) => {
                let mut sent = send(letters, kafka, false);
                let all = sent.iter().all(Result::is_ok);
                if exactly_once && !(all && is_well && kafka.accepts(self.index, &commits)) {
                    let undone = |record| Unwritten { record, refusal: None };
                    sent = sent.into_iter().map(|sent| Err(sent.map_or_else(|it| it, undone))).collect();
                }
                write(&sent, kafka, now)?;
                if exactly_once && sent.iter().all(Result::is_ok) {
                    kafka.commit(&commits)?;
                }
                self.settlement.end_write(sent, at(now));
            }
            Doing::Deliver(letters, choice) => {
                let sent = send(letters, kafka, choice == Choice::Again);
                if !exactly_once {
                    write(&sent, kafka, now)?;
                } else if sent.iter().all(Result::is_ok) {
                    self.open = sent.iter().flatten().map(|letter| (letter.partition, letter.offset)).collect();
                }
                self.settlement.end_delivery(sent, at(now));
            }
            Doing::CommitDelivered(commits) => {
                let open = std::mem::take(&mut self.open);
                let is_committed = is_well && kafka.accepts(self.index, &commits);
                if is_committed {
                    open.into_iter().try_for_each(|(partition, offset)| kafka.write(partition, offset, now))?;
                    kafka.commit(&commits)?;
                }
                self.settlement.end_delivered(is_committed, at(now));
            }
        }
        Ok(())
    }
}

impl Partition {
    /// Reads what is there, up to the share that it may hold. Returns when there is more.
    fn read(&mut self, log: &[super::kafka::Source], now: Millis, (share, waiting): (usize, usize)) -> Option<Millis> {
        let mut batch = 0;
        while let Some(source) = log.get(self.next) {
            if source.written > now {
                return Some(source.written);
            }
            if batch >= BATCH {
                return Some(now);
            }
            batch += source.bytes;
            if self.is_paused || self.state.load.is_over(share).is_some() {
                return Some(now + 50);
            }
            self.next += 1;
            if self.state.offsets().begin(source.offset) == Begun::Known {
                continue;
            }
            if source.due > 0 {
                let due = Timestamp(source.due as i64);
                self.delayed.wait(due, source.offset, source.bytes, source.offset, waiting);
            } else {
                self.charges.insert(source.offset, self.state.load.charge(source.bytes));
                self.lanes.admit(lane(source.key), source.offset);
            }
            let (pending, in_lane, bytes) = self.delayed.sizes();
            self.state.load.set_pending(pending, in_lane, bytes, None);
        }
        None
    }

    fn admit_due(&mut self, log: &[super::kafka::Source], now: Millis, room: usize) {
        while let Some(due) = self.delayed.take_due(Timestamp(now as i64), self.state.load.charged() < room) {
            let Due::New(offset) = due else { unreachable!("none waits in its lane") };
            let source = &log[log.partition_point(|source| source.offset < offset)];
            self.charges.insert(offset, self.state.load.charge(source.bytes));
            self.lanes.admit(lane(source.key), offset);
        }
    }
}

/// What the topics say to each, of those that come one by one after the first that is refused nothing.
fn send(letters: Vec<Letter>, kafka: &mut Kafka, one_by_one: bool) -> Vec<Written<Letter>> {
    let mut has_failed = false;
    let one = |record: Letter| {
        if one_by_one && has_failed {
            return Err(Unwritten { record, refusal: None });
        }
        match kafka.refusal(record.partition, record.offset) {
            None => Ok(record),
            refusal => {
                has_failed = true;
                Err(Unwritten { record, refusal })
            }
        }
    };
    letters.into_iter().map(one).collect()
}

fn write(sent: &[Written<Letter>], kafka: &mut Kafka, now: Millis) -> Result<(), String> {
    sent.iter().flatten().try_for_each(|letter| kafka.write(letter.partition, letter.offset, now))
}
