//! The transaction that a worker leaves open when it dies.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use lazaret::domain::pipeline::Pipeline;
use lazaret::kafka::connection::{Connection, LogContext};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use serde_json::json;

use crate::support::lazaret::Lazaret;
use crate::support::pipeline::{pipeline, yaml};
use crate::support::ports::free_port;
use crate::support::topics::{producer, read_all, write};
use crate::support::{Broker, eventually_within, kafka, stays, unique};

const RULES: &str = "processor: {rules: [{when: value.amount < 0, error: 'E: bad'}]}";

/// A pipeline, and the address and the transactions' name of a worker that has died while it wrote a dead letter.
struct Scene {
    pipeline: Pipeline,
    yaml: String,
    listen: String,
    /// Says nothing more, as a process that was killed. Dropped, it would wait for what it has under way.
    _dead: std::mem::ManuallyDrop<FutureProducer<LogContext>>,
    died: Instant,
}

/// The name of the worker, as a pod has one.
const NAME: &str = "orders-consumer-1";

impl Scene {
    async fn set(name: &str) -> Self {
        let topic = unique(name);
        let spec = format!("topic: {{name: {topic}, partitions: 1}}\ndlt: {{topic: {{partitions: 1}}}}\n{RULES}");
        let pipeline = pipeline(&topic, &spec);
        Broker::Kafka.create_topics(&pipeline).await;
        let port = free_port(Ipv4Addr::LOCALHOST.into());
        let id = format!("{}-{NAME}-{port}", pipeline.main.group_id);
        let dead = Connection::new(kafka()).transactional_producer(&id, Duration::from_secs(10)).unwrap();
        let dlt = pipeline.policy.default.dead_letter_topic.to_string();
        let (dead, died) = tokio::task::spawn_blocking(move || {
            dead.init_transactions(Duration::from_secs(20)).unwrap();
            dead.begin_transaction().unwrap();
            let letter: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(&dlt).payload(b"of the dead");
            drop(dead.send_result(letter).map_err(|(error, _)| error).unwrap());
            dead.flush(Duration::from_secs(10)).unwrap();
            (dead, Instant::now())
        })
        .await
        .unwrap();
        let _dead = std::mem::ManuallyDrop::new(dead);
        let scene = Self { pipeline, yaml: yaml(&topic, &spec), listen: format!("127.0.0.1:{port}"), _dead, died };
        // Somebody writes on behind it.
        write(&producer(kafka()), scene.dlt(), None, Some(b"newer"), None).await;
        scene
    }

    fn dlt(&self) -> &str {
        &self.pipeline.policy.default.dead_letter_topic
    }

    /// What a read_committed reader sees of the dead letter topic.
    fn seen(&self) -> Vec<Vec<u8>> {
        read_all(kafka(), self.dlt()).into_iter().map(|record| record.value.unwrap()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_that_starts_in_place_of_a_dead_one_ends_its_transaction_at_once() {
    let scene = Scene::set("in-place").await;
    assert!(stays(Duration::from_secs(2), "readers see nothing newer", async || scene.seen().is_empty()).await);
    let began = Instant::now();
    let mut worker = Lazaret::worker(kafka(), "main", &scene.yaml, &scene.listen, &[("HOSTNAME", NAME)]);
    eventually_within(Duration::from_secs(10), "readers see what is newer", async || {
        (scene.seen() == [b"newer"]).then_some(())
    })
    .await;
    assert!(scene.died.elapsed() < Duration::from_secs(25), "Kafka would end it by itself: {:?}", scene.died.elapsed());
    println!("ended {:?} after the worker was started", began.elapsed());
    // It goes on from there.
    let value = json!({"amount": -1}).to_string();
    write(&producer(kafka()), &scene.pipeline.main.topic, None, Some(value.as_bytes()), None).await;
    eventually_within(Duration::from_secs(10), "its own dead letter", async || (scene.seen().len() == 2).then_some(()))
        .await;
    assert!(worker.stop().success(), "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_worker_starts_in_place_of_a_dead_one_kafka_ends_its_transaction_after_30_seconds() {
    let scene = Scene::set("alone").await;
    let waits = Duration::from_secs(20).saturating_sub(scene.died.elapsed());
    assert!(stays(waits, "readers see nothing newer", async || scene.seen().is_empty()).await);
    // Kafka looks for transactions that are open for too long every ten seconds.
    let rest = Duration::from_secs(60).saturating_sub(scene.died.elapsed());
    eventually_within(rest, "readers see what is newer", async || (!scene.seen().is_empty()).then_some(())).await;
    println!("ended {:?} after the worker died", scene.died.elapsed());
    assert_eq!(scene.seen(), [b"newer"], "what the dead worker wrote does not count");
}
