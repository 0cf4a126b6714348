//! What a worker takes of memory, as the kernel counts it.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use serde_json::{Value, json};

use crate::support::lazaret::{Lazaret, stats};
use crate::support::pipeline::{pipeline, yaml};
use crate::support::processor::Endpoint;
use crate::support::{Broker, DEADLINE, HEAVY, eventually, kafka, stays, unique};

/// MiB of records that a stage holds, of those that librdkafka fetches ahead, and what all else may take on top: allocators
/// round up, and calls that are under way have copies.
const HELD: u64 = 64;
const AHEAD: u64 = 16;
const SLACK: u64 = 32;

/// A worker whose calls are held.
struct Scene {
    endpoint: Endpoint,
    worker: Lazaret,
    api: String,
    topic: String,
    /// The most memory that it took before there was a record, in MiB.
    idle: u64,
}

impl Scene {
    async fn set(name: &str, more: &str) -> Self {
        let (endpoint, topic) = (Endpoint::start().await, unique(name));
        let spec = format!(
            "topic: {{name: {topic}, partitions: 2}}\nprocessor: {{http: {{url: '{}'}}, maxInFlight: 16}}\n{more}",
            endpoint.url
        );
        Broker::Kafka.create_topics(&pipeline(&topic, &spec)).await;
        let mut worker = Lazaret::worker(kafka(), "main", &yaml(&topic, &spec), "127.0.0.1:0", &[]);
        let api = worker.wait_for("listening address=");
        let mut scene = Self { endpoint, worker, api, topic, idle: 0 };
        eventually("both partitions are assigned", async || (scene.partitions().len() == 2).then_some(())).await;
        scene.idle = scene.worker.peak_memory();
        scene
    }

    /// Writes records, each with a key of its own, in turn to both partitions.
    fn write(&self, records: usize, padding: usize) {
        let padding = "x".repeat(padding);
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", kafka()).set("queue.buffering.max.messages", "1000000");
        let producer: ThreadedProducer<DefaultProducerContext> = config.create().unwrap();
        for n in 0..records {
            let (key, value) =
                (n.to_string(), json!({"id": n.to_string(), "hold": true, "padding": padding}).to_string());
            let record = BaseRecord::to(&self.topic).partition(n as i32 % 2).key(&key).payload(&value);
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(DEADLINE).unwrap();
    }

    fn stage(&self) -> Value {
        stats(&self.api)["stages"][0].clone()
    }

    fn partitions(&self) -> Vec<Value> {
        self.stage()["partitions"].as_array().unwrap().clone()
    }

    /// MiB of records that it says it holds.
    fn held(&self) -> u64 {
        self.stage()["buffered"]["bytes"].as_u64().unwrap() >> 20
    }

    /// What it has taken at most beyond what it took before there was a record, in MiB.
    fn took(&self) -> u64 {
        let peak = self.worker.peak_memory();
        println!("{} MiB idle, {peak} MiB at the peak, {} MiB held", self.idle, self.held());
        peak - self.idle
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_three_times_the_cap_takes_no_more_memory_than_is_promised() {
    const RECORDS: usize = 2_000;
    let _alone = HEAVY.acquire().await.unwrap();
    let mut scene = Scene::set("memory", "ordering: Unordered").await;
    scene.write(RECORDS, 100_000);
    let paused = async || scene.partitions().iter().all(|partition| partition["paused"] == "Memory").then_some(());
    eventually("it has read up to the cap, and both partitions are paused", paused).await;
    // As much again would have come by now, were it read.
    let within = async || (HELD * 9 / 10..=HELD + 8).contains(&scene.held());
    assert!(stays(Duration::from_secs(2), "it takes in no more", within).await);
    let full = scene.took();
    assert!(full >= HELD * 9 / 10, "what it holds is seen in what is resident: {full} MiB");
    scene.endpoint.let_go();
    let all = async || (scene.stage()["processed"].as_u64()? >= RECORDS as u64).then_some(());
    eventually("all are processed", all).await;
    let took = scene.took();
    assert!(took <= HELD + AHEAD + SLACK, "{took} MiB; {HELD} and {AHEAD} are promised");
    assert_eq!(scene.endpoint.count(), RECORDS, "each record is processed once");
    assert!(scene.worker.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_many_small_records_is_bounded_as_well() {
    let _alone = HEAVY.acquire().await.unwrap();
    // Each key has a lane of its own.
    let mut scene = Scene::set("small", "ordering: Key").await;
    scene.write(500_000, 100);
    let paused = async || scene.partitions().iter().all(|partition| !partition["paused"].is_null()).then_some(());
    eventually("it reads no more", paused).await;
    let took = scene.took();
    scene.endpoint.let_go();
    assert!(scene.worker.stop().success());
    // A record of a hundred bytes takes twice of what is counted of it: what knows its key's order, and what librdkafka notes
    // of each that it has fetched, come on top.
    assert!(took <= 2 * (HELD + AHEAD) + SLACK, "{took} MiB; {HELD} and {AHEAD} are promised");
}
