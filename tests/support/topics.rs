//! Records into topics and out of them, with clients that know nothing of Lazaret.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, ConfigSource, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, FutureProducer, FutureRecord, Producer, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};

use super::DEADLINE;

/// A record as somebody else reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub partition: i32,
    pub offset: i64,
    pub timestamp: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().rfind(|(n, _)| n == name)?;
        std::str::from_utf8(value.as_deref()?).ok()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(self.value.as_deref().unwrap()).unwrap()
    }
}

/// A producer as others use them. Of the tests' Kafka there is one, however often it is asked for: a client costs threads,
/// connections and the time in which it learns of the cluster.
pub fn producer(address: &str) -> FutureProducer {
    static OF_KAFKA: OnceLock<FutureProducer> = OnceLock::new();
    let is_shared = std::env::var("LAZARET_TEST_KAFKA").is_ok_and(|shared| shared == address);
    if is_shared { OF_KAFKA.get_or_init(|| new_producer(address)).clone() } else { new_producer(address) }
}

fn new_producer(address: &str) -> FutureProducer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", address).set("partitioner", "murmur2_random").set("linger.ms", "5");
    config.set("message.max.bytes", "10000000").set("acks", "all");
    config.create().unwrap()
}

/// Writes one record and returns where it went.
pub async fn write(
    producer: &FutureProducer,
    topic: &str,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: Option<OwnedHeaders>,
) -> (i32, i64) {
    let mut record: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(topic);
    (record.key, record.payload, record.headers) = (key, value, headers);
    let delivery = producer.send(record, Duration::from_secs(10)).await.map_err(|(error, _)| error).unwrap();
    (delivery.partition, delivery.offset)
}

/// Writes rounds of dead letters, each in a transaction: of ten, seven are of one error type and three of another. Every fourth
/// round is given up again. Returns how many there are then.
pub fn write_in_transactions(address: &str, topic: &str, rounds: usize, letters: usize) -> usize {
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", address)
        .set("transactional.id", super::unique("transactions"))
        .create()
        .unwrap();
    producer.init_transactions(DEADLINE).unwrap();
    let is_given_up = |round: &usize| round % 4 == 3;
    for round in 0..rounds {
        producer.begin_transaction().unwrap();
        for n in 0..letters {
            let error_type = if n % 10 < 7 { "ValidationException" } else { "BusyException" };
            let headers = OwnedHeaders::new()
                .insert(Header { key: "lazaret-error-type", value: Some(error_type) })
                .insert(Header { key: "lazaret-reason", value: Some("Permanent") });
            let key = format!("{round}-{n}");
            producer.send(BaseRecord::to(topic).key(&key).payload("x").headers(headers)).unwrap();
        }
        // What is given up has to be in the log first, to take offsets there. An abort would drop what still waits, and
        // librdkafka cannot end a transaction that the coordinator has not yet heard of (librdkafka#4849).
        producer.flush(DEADLINE).unwrap();
        match is_given_up(&round) {
            true => producer.abort_transaction(DEADLINE).unwrap(),
            false => producer.commit_transaction(DEADLINE).unwrap(),
        }
    }
    letters * (0..rounds).filter(|round| !is_given_up(round)).count()
}

/// Writes a value to one partition.
pub async fn write_to(producer: &FutureProducer, topic: &str, partition: i32, value: &[u8]) {
    let record: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(topic).partition(partition).payload(value);
    producer.send(record, Duration::from_secs(10)).await.map_err(|(error, _)| error).unwrap();
}

/// Every record that a topic holds now, in the order of its partitions, as a read_committed reader sees it.
pub fn read_all(address: &str, topic: &str) -> Vec<Seen> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", address)
        .set("group.id", "the-tests-read-without-committing")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .create()
        .unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), DEADLINE).unwrap();
    let partitions: Vec<i32> = metadata.topics()[0].partitions().iter().map(|p| p.id()).collect();
    let mut list = TopicPartitionList::new();
    for partition in &partitions {
        list.add_partition_offset(topic, *partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&list).unwrap();
    let (mut seen, mut ended, began) = (BTreeMap::new(), 0, Instant::now());
    while ended < partitions.len() {
        assert!(began.elapsed() < DEADLINE, "could not read {topic} to its end");
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(message)) => {
                let record = copy(&message);
                seen.insert((record.partition, record.offset), record);
            }
            Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => ended += 1,
            Some(Err(_)) | None => {}
        }
    }
    seen.into_values().collect()
}

fn copy(message: &impl Message) -> Seen {
    let headers = message.headers().map_or_else(Vec::new, |headers| {
        let copy = |h: rdkafka::message::Header<'_, &[u8]>| (h.key.to_owned(), h.value.map(<[u8]>::to_vec));
        // Not `iter()`: it ends at the first null value.
        (0..headers.count()).map(|index| copy(headers.get(index))).collect()
    });
    Seen {
        partition: message.partition(),
        offset: message.offset(),
        timestamp: message.timestamp().to_millis().unwrap_or(-1),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers,
    }
}

/// How many partitions a topic has, if it is there.
pub fn partitions(address: &str, topic: &str) -> Option<usize> {
    let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", address).create().unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), DEADLINE).unwrap();
    let topic = &metadata.topics()[0];
    topic.error().is_none().then(|| topic.partitions().len())
}

/// Waits until the topic has so many partitions, or is there no more: a broker learns of both a moment later.
pub async fn has(address: &str, topic: &str, wanted: Option<usize>) {
    let what = format!("topic {topic} has {wanted:?} partitions");
    super::eventually(&what, async || (partitions(address, topic) == wanted).then_some(())).await;
}

/// How many brokers the cluster has.
pub fn brokers(address: &str) -> usize {
    let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", address).create().unwrap();
    consumer.fetch_metadata(Some("__consumer_offsets"), DEADLINE).unwrap().brokers().len()
}

fn admin(address: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", address).create().unwrap()
}

/// Makes a topic that has settings of its own.
pub async fn create(address: &str, topic: &str, partitions: i32, config: &[(&str, &str)]) {
    let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    new.config = config.to_vec();
    let made = admin(address).create_topics([&new], &AdminOptions::new()).await.unwrap();
    made[0].as_ref().unwrap();
}

/// Deletes a topic.
pub async fn delete(address: &str, topic: &str) {
    let deleted = admin(address).delete_topics(&[topic], &AdminOptions::new()).await.unwrap();
    deleted[0].as_ref().unwrap();
}

/// Deletes the records of a partition below an offset, as retention does.
pub async fn delete_records(address: &str, topic: &str, partition: i32, below: i64) {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(below)).unwrap();
    admin(address).delete_records(&list, &AdminOptions::new()).await.unwrap();
}

/// What is set on a topic itself.
pub async fn config(address: &str, topic: &str) -> BTreeMap<String, String> {
    let resource = ResourceSpecifier::Topic(topic);
    let described =
        admin(address).describe_configs([&resource], &AdminOptions::new()).await.unwrap().remove(0).unwrap();
    let own = described.entries.into_iter().filter(|entry| entry.source == ConfigSource::DynamicTopic);
    own.map(|entry| (entry.name, entry.value.unwrap_or_default())).collect()
}

/// Waits until a setting of a topic itself is this, or is not set: a broker learns of a change a moment after it is made.
pub async fn is_set(address: &str, topic: &str, setting: &str, value: Option<&str>) {
    super::eventually(&format!("{setting} of {topic} is {value:?}"), async || {
        (config(address, topic).await.get(setting).map(String::as_str) == value).then_some(())
    })
    .await;
}

/// What a group has committed, with its metadata, for each partition of a topic.
pub fn committed(address: &str, group: &str, topic: &str) -> BTreeMap<i32, (i64, String)> {
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", address).set("group.id", group).create().unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), DEADLINE).unwrap();
    let mut list = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        list.add_partition(topic, partition.id());
    }
    let committed = consumer.committed_offsets(list, DEADLINE).unwrap();
    let known = committed.elements().into_iter().filter_map(|element| match element.offset() {
        Offset::Offset(offset) => Some((element.partition(), (offset, element.metadata().to_owned()))),
        _ => None,
    });
    known.collect()
}

/// Commits offsets for a group that nobody is a member of.
pub fn commit(address: &str, group: &str, topic: &str, partition: i32, offset: i64, metadata: &str) {
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", address).set("group.id", group).create().unwrap();
    let mut list = TopicPartitionList::new();
    let mut element = list.add_partition(topic, partition);
    element.set_offset(Offset::Offset(offset)).unwrap();
    element.set_metadata(metadata);
    consumer.commit(&list, rdkafka::consumer::CommitMode::Sync).unwrap();
}
