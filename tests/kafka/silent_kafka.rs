//! A Kafka that does not answer any more.

use std::time::{Duration, Instant};

use lazaret::kafka::connection::Connection;
use lazaret::kafka::topics::Topics;
use serde_json::json;

use crate::support::lazaret::Lazaret;
use crate::support::own_kafka::OwnKafka;
use crate::support::pipeline::{pipeline, yaml};
use crate::support::processor::Endpoint;
use crate::support::topics::{committed, producer, write};
use crate::support::{eventually, unique};

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_kafka_does_not_answer_ends_with_exit_code_1_and_its_work_is_done_again() {
    let kafka = OwnKafka::start();
    let endpoint = Endpoint::start().await;
    let topic = unique("silent");
    let spec = format!("topic: {{name: {topic}, partitions: 1}}\nprocessor: {{http: {{url: '{}'}}}}", endpoint.url);
    let pipeline = pipeline(&topic, &spec);
    Topics::new(&Connection::new(&kafka.address)).unwrap().create_missing(&pipeline.topics).await.unwrap();
    let start = || Lazaret::worker(&kafka.address, "main", &yaml(&topic, &spec), "127.0.0.1:0", &[]);
    let mut first = start();
    let value = json!({"id": "a", "hold": true}).to_string();
    write(&producer(&kafka.address), &topic, None, Some(value.as_bytes()), None).await;
    eventually("the call is under way", async || (endpoint.running() == 1).then_some(())).await;
    kafka.pause();
    endpoint.let_go();
    eventually("the call is answered", async || (endpoint.count() == 1).then_some(())).await;
    let began = Instant::now();
    let status = first.stop();
    assert_eq!(status.code(), Some(1), "{}", first.log());
    // The drain timeout is 3 s, and its grace one; no answer is waited for longer than 10 s, of which there may be two.
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert!(!first.grep(&["some records are processed again at the next start"]).is_empty(), "{}", first.log());

    // Nobody was told that it is done: a node that goes on might read the last commit after all.
    kafka.kill_and_start().await;
    let mut second = start();
    eventually("the record is processed again", async || (endpoint.count() == 2).then_some(())).await;
    assert!(second.stop().success(), "{}", second.log());
    assert_eq!(committed(&kafka.address, &pipeline.main.group_id, &topic)[&0].0, 1);
}
