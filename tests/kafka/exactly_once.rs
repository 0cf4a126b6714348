//! Each failed attempt is routed once, on Apache Kafka: what chaos does not bring about by itself.

use std::collections::BTreeMap;
use std::time::Duration;

use lazaret::domain::pipeline::Pipeline;
use lazaret::domain::record::provenance::Stage;
use lazaret::kafka::connection::Connection;
use rdkafka::producer::Producer;
use serde_json::json;

use crate::support::engine::Engine;
use crate::support::pipeline::pipeline;
use crate::support::topics::{committed, producer, read_all, write};
use crate::support::{Broker, eventually, kafka, unique};

const RULES: &str = "
processor: {rules: [
  {when: value.amount < 0, error: 'ValidationException: Invalid amount'},
  {when: value.amount > 100, error: 'BusyException: later', retryable: true}]}
retry: {strategy: Fixed, initialDelay: 100ms, maxAttempts: 3}";

async fn bed(name: &str) -> Pipeline {
    let topic = unique(name);
    let pipeline = pipeline(&topic, &format!("topic: {{name: {topic}, partitions: 2}}{RULES}"));
    Broker::Kafka.create_topics(&pipeline).await;
    pipeline
}

async fn write_amounts(pipeline: &Pipeline, amounts: std::ops::Range<i64>) {
    let producer = producer(kafka());
    for amount in amounts {
        let (key, value) = (format!("k{amount}"), json!({"amount": amount}).to_string());
        write(&producer, &pipeline.main.topic, Some(key.as_bytes()), Some(value.as_bytes()), None).await;
    }
}

/// How often each failed attempt is in a topic: by original place and attempts.
fn routed(topic: &str) -> BTreeMap<(String, String, String), usize> {
    let mut routed = BTreeMap::new();
    for record in read_all(kafka(), topic) {
        let header = |name| record.header(name).unwrap().to_owned();
        let at = (header("lazaret-original-partition"), header("lazaret-original-offset"), header("lazaret-attempts"));
        *routed.entry(at).or_default() += 1;
    }
    routed
}

fn dead_letters(pipeline: &Pipeline) -> BTreeMap<(String, String, String), usize> {
    routed(&pipeline.policy.default.dead_letter_topic)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_producer_is_shut_out_makes_a_new_one_and_writes_nothing_twice() {
    let pipeline = bed("fenced").await;
    let engine = Engine::start(kafka(), &pipeline).await;
    for round in 0..5 {
        write_amounts(&pipeline, -10 * (round + 1)..-10 * round).await;
        // Whoever comes with the same name shuts the producer out, at any moment of a transaction.
        let id = engine.transactional_id(Stage::Main);
        let shut_out = tokio::task::spawn_blocking(move || {
            let rival = Connection::new(kafka()).transactional_producer(&id, Duration::from_secs(5)).unwrap();
            rival.init_transactions(Duration::from_secs(20)).unwrap();
        });
        shut_out.await.unwrap();
    }
    engine.settled(50).await;
    assert!(engine.stop().await.clean);
    let letters = dead_letters(&pipeline);
    assert_eq!((letters.len(), letters.values().max()), (50, Some(&1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_routed_and_what_is_committed_are_one() {
    let pipeline = bed("one").await;
    let engine = Engine::start(kafka(), &pipeline).await;
    write_amounts(&pipeline, -20..0).await;
    write_amounts(&pipeline, 101..121).await;
    engine.settled(40).await;
    let summary = engine.stop().await;
    assert_eq!((summary.clean, summary.retried, summary.dead_lettered), (true, 40, 40));
    let (retries, letters) = (routed(&pipeline.retry.topic), dead_letters(&pipeline));
    assert_eq!((retries.len(), retries.values().max()), (40, Some(&1)));
    assert_eq!((letters.len(), letters.values().max()), (40, Some(&1)));
    // Another worker has nothing to do.
    let engine = Engine::start(kafka(), &pipeline).await;
    write_amounts(&pipeline, 0..1).await;
    engine.settled(1).await;
    let summary = engine.stop().await;
    assert_eq!((summary.processed, summary.retried, summary.dead_lettered), (1, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_has_committed_nothing_commits_where_it_starts() {
    let pipeline = bed("start").await;
    let (topic, group) = (&*pipeline.main.topic, &*pipeline.main.group_id);
    write_amounts(&pipeline, 0..20).await;
    for partition in 0..2 {
        crate::support::topics::delete_records(kafka(), topic, partition, 3).await;
    }
    let engine = Engine::start(kafka(), &pipeline).await;
    let (retry_topic, retry_group) = (&*pipeline.retry.topic, &*pipeline.retry.group_id);
    let of_empty_topic = async || {
        let committed = committed(kafka(), retry_group, retry_topic);
        (committed.into_values().map(|(offset, _)| offset).collect::<Vec<_>>() == [0; 3]).then_some(())
    };
    eventually("the start of an empty topic is committed", of_empty_topic).await;
    engine.settled(14).await;
    assert!(engine.stop().await.clean);
    let at: i64 = committed(kafka(), group, topic).values().map(|(offset, _)| offset).sum();
    assert_eq!(at, 20);
}
