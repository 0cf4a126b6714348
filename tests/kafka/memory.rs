//! What a worker takes of memory, as the kernel counts it.

use std::time::Duration;

use serde_json::json;

use crate::support::lazaret::{Lazaret, stats};
use crate::support::pipeline::{pipeline, yaml};
use crate::support::processor::Endpoint;
use crate::support::topics::{producer, write_to};
use crate::support::{Broker, HEAVY, eventually, kafka, stays, unique};

/// MiB of records that a stage holds, of those that librdkafka fetches ahead, and what all else may take on top: allocators
/// round up, and calls that are under way have copies.
const HELD: u64 = 64;
const AHEAD: u64 = 16;
const SLACK: u64 = 32;

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_three_times_the_cap_takes_no_more_memory_than_is_promised() {
    const RECORDS: usize = 2_000;
    const SIZE: usize = 100_000;
    let _alone = HEAVY.acquire().await.unwrap();
    let endpoint = Endpoint::start().await;
    let topic = unique("memory");
    let spec = format!(
        "topic: {{name: {topic}, partitions: 2}}\nordering: Unordered\nprocessor: {{http: {{url: '{}'}}, maxInFlight: 16}}",
        endpoint.url
    );
    Broker::Kafka.create_topics(&pipeline(&topic, &spec)).await;
    let mut worker = Lazaret::worker(kafka(), "main", &yaml(&topic, &spec), "127.0.0.1:0", &[]);
    let api = worker.wait_for("listening address=");
    let stage = || stats(&api)["stages"][0].clone();
    let assigned = async || (stage()["partitions"].as_array()?.len() == 2).then_some(());
    eventually("both partitions are assigned", assigned).await;
    let idle = worker.peak_memory();

    let (producer, padding) = (producer(kafka()), "x".repeat(SIZE));
    let writes = (0..RECORDS).map(|n| {
        let value = json!({"id": n.to_string(), "hold": true, "padding": padding}).to_string();
        let (producer, topic) = (&producer, &topic);
        async move { write_to(producer, topic, n as i32 % 2, value.as_bytes()).await }
    });
    futures::future::join_all(writes).await;
    let held = || stage()["buffered"]["bytes"].as_u64().unwrap() >> 20;
    eventually("it has read up to the cap", async || (held() >= HELD * 9 / 10).then_some(())).await;
    let paused = async || {
        let stage = stage();
        stage["partitions"].as_array()?.iter().all(|partition| partition["paused"] == "Memory").then_some(())
    };
    eventually("both partitions are paused", paused).await;
    // As much again would have come by now, were it read.
    assert!(stays(Duration::from_secs(2), "it takes in no more", async || held() <= HELD + 8).await);
    let full = worker.peak_memory();
    endpoint.let_go();
    let all = async || (stage()["processed"].as_u64()? >= RECORDS as u64).then_some(());
    eventually("all are processed", all).await;
    let peak = worker.peak_memory();
    println!("resident: {idle} MiB idle, {full} MiB when full, {peak} MiB at the peak");
    assert!(full >= idle + HELD * 9 / 10, "what it holds is seen in what is resident: {idle} and {full} MiB");
    let bound = idle + HELD + AHEAD + SLACK;
    assert!(peak <= bound, "{peak} MiB at the peak, {bound} MiB are promised; {full} MiB when full, {idle} MiB idle");
    assert_eq!(endpoint.calls().len(), RECORDS, "each record is processed once");
    assert!(worker.stop().success());
}
