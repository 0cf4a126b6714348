//! What Kafka refuses is told apart from a Kafka that does not answer, said with its topic, and holds up nothing else.

use std::time::{Duration, Instant};

use lazaret::domain::pipeline::TopicPlan;
use lazaret::domain::record::provenance::Stage;
use lazaret::kafka::connection::Connection;
use lazaret::kafka::topics::{TopicError, Topics};
use serde_json::json;

use crate::support::engine::Engine;
use crate::support::pipeline::pipeline;
use crate::support::ports::closed_port;
use crate::support::topics::{self, committed, producer, read_all, write_to};
use crate::support::{Broker, eventually, kafka, unique};

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_that_kafka_does_not_take_is_refused_and_a_kafka_that_is_not_there_is_unreachable() {
    let topic = unique("refused");
    let spec = format!(
        "topic: {{name: {topic}, partitions: 1, config: {{retention.ms: soon}}}}\nprocessor: {{rules: [{{when: 'false', error: E}}]}}"
    );
    let plans = pipeline(&topic, &spec).topics;
    let made =
        async |address: &str| Topics::new(&Connection::new(address)).unwrap().create_missing(&plans).await.unwrap_err();
    let refused = made(kafka()).await;
    assert!(matches!(&refused, TopicError::Refused { topic: of, .. } if *of == topic), "{refused}");
    assert_eq!(refused.reason(), "KafkaRefused");
    assert!(refused.to_string().contains(&topic), "{refused}");
    let nobody = closed_port();
    let unreachable = made(&nobody).await;
    assert_eq!(unreachable.reason(), "KafkaUnreachable");
    assert!(unreachable.to_string().contains(&nobody), "{unreachable}");
}

const LETTERS: usize = 50;
const GOOD: usize = 500;

/// How soon dead letters are there and commits move, whatever else is in trouble; three times of what is promised.
const SOON: Duration = Duration::from_secs(9);

/// Dead letters of one error go to a topic that takes one, and then no more; `refuse` sees to that, and `accept` ends it. So many
/// are `kept` of what it has taken.
async fn one_topic_that_takes_nothing_holds_up_no_other(
    name: &str,
    delivery: &str,
    kept: usize,
    refuse: impl AsyncFn(&str),
    accept: impl AsyncFn(&str),
) {
    let topic = unique(name);
    let odd = format!("{topic}.odd");
    let spec = format!(
        "topic: {{name: {topic}, partitions: 3}}\ndelivery: {delivery}\n\
         processor: {{rules: [{{when: value.odd, error: 'Odd: it is'}}, {{when: value.bad, error: 'Bad: it is'}}]}}\n\
         retry: {{rules: [{{when: errorType == 'Odd', dlt: {odd}}}]}}"
    );
    let pipeline = pipeline(&topic, &spec);
    Broker::Kafka.create_topics(&pipeline).await;
    let producer = producer(kafka());
    let write = async |partition: i32, odd: bool, bad: bool| {
        write_to(&producer, &topic, partition, json!({"odd": odd, "bad": bad}).to_string().as_bytes()).await;
    };
    let letters = |of: &str| read_all(kafka(), of).len();
    let dlt = &*pipeline.policy.default.dead_letter_topic;
    let engine = Engine::start_stages(kafka(), &pipeline, &[Stage::Main]).await;
    write(0, true, false).await;
    let is_taken = async || {
        (letters(&odd) == 1
            && committed(kafka(), &pipeline.main.group_id, &topic).get(&0).is_some_and(|(offset, _)| *offset == 1))
        .then_some(())
    };
    eventually("the first one is taken", is_taken).await;
    refuse(&odd).await;
    write(0, true, false).await;
    for round in 1..=3 {
        // Each time more is refused beside what is well.
        let began = Instant::now();
        write(0, true, false).await;
        futures::future::join_all((0..LETTERS).map(|n| write(n as i32 % 3, false, true))).await;
        futures::future::join_all((0..GOOD).map(|_| write(1, false, false))).await;
        let arrived = async || (letters(dlt) == LETTERS * round).then_some(());
        eventually("the other dead letters are there", arrived).await;
        // Those of partition 2, and those of partition 1 among what was processed.
        let ends = [(1, GOOD * round + 17 * round), (2, 16 * round)];
        let is_committed = async || {
            let committed = committed(kafka(), &pipeline.main.group_id, &topic);
            let at_end =
                |(partition, end): &(i32, usize)| committed.get(partition).is_some_and(|(o, _)| *o == *end as i64);
            ends.iter().all(at_end).then_some(())
        };
        eventually("the other partitions are committed to their ends", is_committed).await;
        assert!(began.elapsed() < SOON, "round {round} took {:?}", began.elapsed());
    }
    let waits = committed(kafka(), &pipeline.main.group_id, &topic)[&0].0;
    assert_eq!(waits, 1, "what is not written is not committed");
    accept(&odd).await;
    eventually("what was refused is there", async || (letters(&odd) == kept + 4).then_some(())).await;
    assert!(engine.stop().await.clean);
    assert_eq!((letters(&odd), letters(dlt)), (kept + 4, LETTERS * 3), "each once");
    assert_eq!(committed(kafka(), &pipeline.main.group_id, &topic)[&0].0, 5 + 17 * 3);
}

async fn delete(topic: &str) {
    topics::delete(kafka(), topic).await;
    topics::has(kafka(), topic, None).await;
}

async fn make(topic: &str) {
    topics::create(kafka(), topic, 1, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_topic_that_is_deleted_and_made_again_holds_up_no_other_records() {
    one_topic_that_takes_nothing_holds_up_no_other("missing", "ExactlyOnce", 0, delete, make).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_topic_that_is_deleted_and_made_again_holds_up_no_other_records_of_at_least_once() {
    one_topic_that_takes_nothing_holds_up_no_other("missing-at-least", "AtLeastOnce", 0, delete, make).await;
}

async fn set_policy(topic: &str, policy: &str) {
    let topics = Topics::new(&Connection::new(kafka())).unwrap();
    let found = topics.describe(topic).await.unwrap().unwrap();
    let config = [("cleanup.policy".to_owned(), policy.to_owned())].into();
    let (partitions, name) = (found.partitions.unwrap(), topic.into());
    let plan = TopicPlan { name, partitions, replicas: -1, config, manage: true, force: false };
    topics.alter(&plan, &found).await.unwrap();
}

/// Kafka refuses each record that has no key, with INVALID_RECORD.
async fn compact(topic: &str) {
    set_policy(topic, "compact").await;
}

async fn delete_old(topic: &str) {
    set_policy(topic, "delete").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_topic_that_refuses_records_holds_up_no_others() {
    one_topic_that_takes_nothing_holds_up_no_other("refuses", "ExactlyOnce", 1, compact, delete_old).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_topic_that_refuses_records_holds_up_no_others_of_at_least_once() {
    one_topic_that_takes_nothing_holds_up_no_other("refuses-at-least", "AtLeastOnce", 1, compact, delete_old).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_left_to_another_worker_in_a_rebalance_is_no_reason_to_stop_uncleanly_later() {
    let topic = unique("left");
    let spec = format!(
        "topic: {{name: {topic}, partitions: 2}}\nprocessor: {{rules: [{{when: value.bad, error: 'Bad: it is'}}]}}"
    );
    let pipeline = pipeline(&topic, &spec);
    Broker::Kafka.create_topics(&pipeline).await;
    let dlt = &*pipeline.policy.default.dead_letter_topic;
    compact(dlt).await;
    let producer = producer(kafka());
    let first = Engine::start_stages(kafka(), &pipeline, &[Stage::Main]).await;
    for partition in [0, 1] {
        write_to(&producer, &topic, partition, json!({"bad": true}).to_string().as_bytes()).await;
    }
    let failed = async || (first.metrics(Stage::Main).failed_attempts.get() == 2).then_some(());
    eventually("both records have failed", failed).await;

    // The first worker gives a partition up with its dead letter unwritten.
    let second = Engine::start_stages(kafka(), &pipeline, &[Stage::Main]).await;
    delete_old(dlt).await;
    eventually("both dead letters are there", async || (read_all(kafka(), dlt).len() == 2).then_some(())).await;
    let is_committed = async || {
        let committed = committed(kafka(), &pipeline.main.group_id, &topic);
        [0, 1].iter().all(|p| committed.get(p).is_some_and(|(offset, _)| *offset == 1)).then_some(())
    };
    eventually("both are committed", is_committed).await;
    assert!(first.stop().await.clean, "it has finished all that it had then");
    assert!(second.stop().await.clean);
    assert_eq!(read_all(kafka(), dlt).len(), 2, "each once");
}
