//! The producers of a run: one writes record after record, the other one in transactions of which some are aborted.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::future_producer::Delivery;
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord, Producer};

use super::records::{RETRY_PARTITIONS, Records, first_in_burst, mixed};
use super::verdict::Place;

/// What became of a record that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It is acknowledged, and so is its transaction.
    Committed,
    /// Its transaction was aborted.
    Aborted,
    /// Nobody said.
    Unsure,
}

#[derive(Clone, Copy, Debug)]
pub struct Written {
    pub number: usize,
    /// Where it went, if that was said: a broker that finds that it has a record already does not say where.
    pub place: Option<Place>,
    pub sent: Sent,
}

/// The numbers of records in transactions begin here.
const IN_TRANSACTIONS: usize = 100_000_000;

/// The time between two lots of records.
const TICK: Duration = Duration::from_millis(40);

/// How long a call of the transactional producer may wait before it is made again.
const PATIENCE: Duration = Duration::from_secs(10);

fn settings(address: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", address).set("partitioner", "murmur2_random").set("linger.ms", "5");
    config.set("enable.idempotence", "true").set("message.timeout.ms", "120000");
    config.set("reconnect.backoff.max.ms", "1000").set("log_level", "2");
    config
}

/// Sends a record where its key belongs, or to a partition.
fn send(
    producer: &FutureProducer,
    topic: &str,
    records: &Records,
    number: usize,
    partition: Option<i32>,
) -> Option<DeliveryFuture> {
    let content = records.content(number);
    let mut record: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(topic);
    record.partition = partition;
    (record.key, record.payload) = (content.key.as_deref(), content.value.as_deref());
    if !content.headers.is_empty() {
        let add = |headers: OwnedHeaders, (key, value): &(String, Option<Vec<u8>>)| {
            headers.insert(Header { key, value: value.as_deref() })
        };
        record.headers = Some(content.headers.iter().fold(OwnedHeaders::new(), add));
    }
    // A full queue is no reason to wait: what a run writes is not a fixed amount.
    producer.send_result(record).ok()
}

/// How many times as much as any other the partition is written that is flooded.
const FLOOD: usize = 10;

/// How many records of a burst are written a second.
const BURST_RATE: usize = 1_500;

/// What a topic is written beyond its steady pace.
#[derive(Debug, Default)]
pub struct Extra {
    /// The partition that is flooded, if one is.
    flooded: Mutex<Option<i32>>,
    /// The numbers of a burst that are still to be written.
    burst: Mutex<Range<usize>>,
    /// How many records bursts have had so far in each partition of the retry topic.
    in_bursts: Mutex<[usize; RETRY_PARTITIONS]>,
}

impl Extra {
    pub fn flood(&self, partition: Option<i32>) {
        *self.flooded.lock().unwrap() = partition;
    }

    /// Has records of a burst written that all fail in one partition of the retry topic.
    pub fn burst(&self, partition: usize, records: usize) {
        let so_far = &mut self.in_bursts.lock().unwrap()[partition];
        let begin = first_in_burst(partition) + *so_far;
        *so_far += records;
        *self.burst.lock().unwrap() = begin..begin + records;
    }

    /// The numbers of up to so many records that are to be written now.
    fn next_of_burst(&self, most: usize) -> Range<usize> {
        let mut burst = self.burst.lock().unwrap();
        let next = burst.start..burst.end.min(burst.start + most);
        burst.start = next.end;
        next
    }
}

/// Writes records at a steady pace until it is told to end, and waits for none before the next.
pub async fn write_plainly(
    address: String,
    topic: String,
    records: Records,
    [per_second, partitions]: [usize; 2],
    extra: Arc<Extra>,
    end: Arc<AtomicBool>,
) -> Vec<Written> {
    let producer: FutureProducer = settings(&address).create().unwrap();
    let mut tick = tokio::time::interval(TICK);
    let (mut under_way, mut ticks, mut floods, mut next) = (vec![], 0, 0, 0);
    let mut send = |number, partition| {
        under_way.extend(send(&producer, &topic, &records, number, partition).map(|delivery| (number, delivery)));
    };
    let of_seconds = |per_second: usize, ticks: usize| ticks * per_second * TICK.as_millis() as usize / 1_000;
    let due = |ticks| of_seconds(per_second, ticks);
    while !end.load(Ordering::Relaxed) {
        tick.tick().await;
        let mut new = |count: usize, partition| {
            (next..next + count).for_each(|number| send(number, partition));
            next += count;
        };
        new(due(ticks + 1) - due(ticks), None);
        ticks += 1;
        let flooded = *extra.flooded.lock().unwrap();
        if flooded.is_some() {
            let share = |floods| due(floods) * (FLOOD - 1) / partitions;
            new(share(floods + 1) - share(floods), flooded);
            floods += 1;
        }
        extra.next_of_burst(of_seconds(BURST_RATE, 1)).for_each(|number| send(number, None));
    }
    let mut written = vec![];
    for (number, delivery) in under_way {
        written.push(match delivery.await {
            Ok(Ok(to)) => Written { number, place: place(to), sent: Sent::Committed },
            _ => Written { number, place: None, sent: Sent::Unsure },
        });
    }
    written
}

/// Writes records in transactions until it is told to end. One transaction in four is aborted, and one in twenty stays open
/// for two seconds, during which a read_committed reader sees nothing behind it. Blocks.
pub fn write_in_transactions(address: &str, topic: &str, records: Records, end: &AtomicBool) -> Vec<Written> {
    let open = || {
        let mut config = settings(address);
        config.set("transactional.id", format!("{topic}-source")).set("transaction.timeout.ms", "30000");
        let producer: FutureProducer = config.set("message.timeout.ms", "20000").create().unwrap();
        // Nothing is written while the coordinator is away.
        while producer.init_transactions(PATIENCE).is_err() && !end.load(Ordering::Relaxed) {}
        producer
    };
    let (mut producer, mut written, mut next) = (open(), vec![], IN_TRANSACTIONS);
    let runtime = tokio::runtime::Handle::current();
    let mut number_of_transaction = 0;
    while !end.load(Ordering::Relaxed) {
        number_of_transaction += 1;
        let draw = mixed(records.seed ^ number_of_transaction);
        if producer.begin_transaction().is_err() {
            producer = open();
            continue;
        }
        let (size, aborts, lingers) = (3 + draw % 10, (draw >> 8).is_multiple_of(4), (draw >> 16).is_multiple_of(20));
        let numbers = next..next + size as usize;
        next = numbers.end;
        let sent: Vec<_> = numbers.map(|number| (number, send(&producer, topic, &records, number, None))).collect();
        std::thread::sleep(Duration::from_millis(if lingers { 2_000 } else { 20 + (draw >> 24) % 300 }));
        let outcome = match aborts {
            // An abort throws away what is not sent yet; what it is to leave in the log must be there.
            true => {
                let _ = producer.flush(PATIENCE);
                abort(&producer)
            }
            false => commit(&producer),
        };
        if outcome == Sent::Unsure {
            producer = open();
        }
        for (number, delivery) in sent {
            let place = delivery.and_then(|delivery| runtime.block_on(delivery).ok()?.ok()).and_then(place);
            written.push(Written { number, place, sent: outcome });
        }
    }
    written
}

fn place(to: Delivery) -> Option<Place> {
    (to.offset >= 0).then_some((to.partition, to.offset))
}

fn commit(producer: &FutureProducer) -> Sent {
    loop {
        match producer.commit_transaction(PATIENCE) {
            Ok(()) => return Sent::Committed,
            Err(KafkaError::Transaction(error)) if error.is_retriable() => {}
            Err(KafkaError::Transaction(error)) if error.txn_requires_abort() => return abort(producer),
            Err(_) => return Sent::Unsure,
        }
    }
}

fn abort(producer: &FutureProducer) -> Sent {
    loop {
        match producer.abort_transaction(PATIENCE) {
            Ok(()) => return Sent::Aborted,
            Err(KafkaError::Transaction(error)) if error.is_retriable() => {}
            Err(_) => return Sent::Unsure,
        }
    }
}
