//! Partitions without a leader: of a topic that nothing is committed of yet, and of a dead letter topic.

use std::time::{Duration, Instant};

use lazaret::domain::record::provenance::Stage;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;

use super::brokers::Cluster;
use super::support::engine::Engine;
use super::support::pipeline::pipeline;
use super::support::topics::{committed, producer, read_all, write_to};
use super::support::{eventually_within, unique};

const RECORDS: usize = 200;
const LETTERS: usize = 20;

/// How soon the others are served, whatever is in trouble: three times of what is promised, and the time in which Kafka notices
/// that a broker is gone.
const SOON: Duration = Duration::from_secs(20);

/// The third broker has partition 2 of the topic, and all of one dead letter topic.
const LOST: usize = 2;

async fn create(address: &str, topic: &str, brokers: &[i32]) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", address).create().unwrap();
    let replicas: Vec<[i32; 1]> = brokers.iter().map(|broker| [*broker]).collect();
    let assignment: Vec<&[i32]> = replicas.iter().map(|replicas| &replicas[..]).collect();
    let topic = NewTopic::new(topic, brokers.len() as i32, TopicReplication::Variable(&assignment))
        .set("min.insync.replicas", "1");
    let made = admin.create_topics([&topic], &AdminOptions::new()).await.unwrap();
    made.into_iter().for_each(|made| drop(made.unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_without_a_leader_holds_up_no_other_and_is_served_when_it_has_one() {
    let _alone = super::ALONE.lock().await;
    let directory = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique("leaderless"));
    let mut cluster = Cluster::start(&directory).await;
    let (address, topic) = (cluster.address.clone(), unique("leaderless"));
    let odd = format!("{topic}.odd");
    let spec = format!(
        "topic: {{name: {topic}, partitions: 3}}\n\
         processor: {{rules: [{{when: value.odd, error: 'Odd: it is'}}, {{when: value.bad, error: 'Bad: it is'}}]}}\n\
         retry: {{rules: [{{when: errorType == 'Odd', dlt: {odd}}}]}}"
    );
    let pipeline = pipeline(&topic, &spec);
    let (dlt, group) = (&*pipeline.policy.default.dead_letter_topic, &*pipeline.main.group_id);
    create(&address, &topic, &[1, 2, 3]).await;
    create(&address, &pipeline.retry.topic, &[1, 2]).await;
    create(&address, dlt, &[1, 2]).await;
    create(&address, &odd, &[3]).await;
    let producer = producer(&address);
    let write = async |partition: i32, of: &str| {
        let value = serde_json::json!({"odd": of == "odd", "bad": of == "bad"}).to_string();
        write_to(&producer, &topic, partition, value.as_bytes()).await;
    };
    let write_some = async |partition: i32| {
        futures::future::join_all((0..RECORDS).map(|_| write(partition, "good"))).await;
        futures::future::join_all((0..LETTERS).map(|_| write(partition, "bad"))).await;
    };
    write_some(2).await;
    cluster.kill(LOST);

    // Nothing is committed of any partition, and one of them does not even say where it begins.
    let began = Instant::now();
    let engine = Engine::start_stages(&address, &pipeline, &[Stage::Main]).await;
    write(0, "odd").await;
    write_some(0).await;
    write_some(1).await;
    let served = async || (engine.dead_lettered() as usize == 2 * LETTERS).then_some(());
    eventually_within(SOON, "the dead letters of the others are written", served).await;
    let is_committed = async || {
        let (committed, end) = (committed(&address, group, &topic), (RECORDS + LETTERS) as i64);
        committed.get(&1).is_some_and(|(offset, _)| *offset == end).then_some(())
    };
    eventually_within(SOON, "the partition of which nothing is refused is committed to its end", is_committed).await;
    assert!(began.elapsed() < SOON, "it took {:?}", began.elapsed());
    let waits = committed(&address, group, &topic)[&0].0;
    assert_eq!(waits, 0, "what is not written is not committed");

    cluster.start_broker(LOST);
    let all = 3 * LETTERS as u64 + 1;
    let is_all = async || (engine.dead_lettered() == all).then_some(());
    eventually_within(Duration::from_secs(90), "what was without a leader is served", is_all).await;
    assert_eq!(engine.processed(), 3 * RECORDS as u64);
    assert!(engine.stop().await.clean);
    assert_eq!((read_all(&address, dlt).len(), read_all(&address, &odd).len()), (3 * LETTERS, 1), "each once");
    let ends: Vec<_> = committed(&address, group, &topic).into_values().map(|(offset, _)| offset).collect();
    assert_eq!(ends, [RECORDS + LETTERS + 1, RECORDS + LETTERS, RECORDS + LETTERS].map(|end| end as i64));
    drop(cluster);
    std::fs::remove_dir_all(directory).unwrap();
}
