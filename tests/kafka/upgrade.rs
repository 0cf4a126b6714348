//! Workers of an older version and of this one take turns, and work beside each other: `make upgrade-test` builds the older one.

use std::collections::BTreeMap;
use std::time::Duration;

use lazaret::domain::commit::commit_metadata::encode;
use lazaret::domain::commit::offsets::{Ahead, Run};
use rdkafka::producer::FutureProducer;
use serde_json::json;

use crate::support::lazaret::Lazaret;
use crate::support::pipeline::{pipeline, yaml};
use crate::support::processor::Endpoint;
use crate::support::topics::{Seen, commit, committed, producer, read_all, write, write_to};
use crate::support::{Broker, eventually_within, kafka, unique};

/// How long all that was written may take to be settled.
const SETTLED: Duration = Duration::from_secs(60);

/// Records of each round, and what the endpoint answers to every tenth of them, attempt by attempt.
const ROUND: usize = 300;
const ANSWERS: [&[u16]; 10] =
    [&[200], &[200], &[200], &[200], &[503, 200], &[200], &[503, 503, 200], &[422], &[503], &[503, 422]];
const MAX_ATTEMPTS: usize = 3;

fn older() -> String {
    std::env::var("LAZARET_OLDER").expect("LAZARET_OLDER is the path of an older binary: run `make upgrade-test`")
}

/// How often a record is called.
fn attempts_of(answers: &[u16]) -> usize {
    if answers.last() == Some(&503) { MAX_ATTEMPTS } else { answers.len() }
}

struct Scene {
    topic: String,
    yaml: String,
    producer: FutureProducer,
    written: usize,
}

impl Scene {
    /// A worker for each stage.
    fn start(&self, program: &str) -> [Lazaret; 2] {
        ["main", "retry"].map(|stage| {
            let mut worker = Lazaret::worker_of(program, kafka(), stage, &self.yaml, "127.0.0.1:0", &[]);
            worker.wait_for("partitions assigned");
            worker
        })
    }

    async fn write_round(&mut self) {
        for n in self.written..self.written + ROUND {
            let (id, answers) = (format!("r{n}"), ANSWERS[n % ANSWERS.len()]);
            let value = json!({"id": id, "answers": answers, "pauseMs": n % 7}).to_string();
            write(&self.producer, &self.topic, Some(id.as_bytes()), Some(value.as_bytes()), None).await;
        }
        self.written += ROUND;
    }
}

fn stop(workers: [Lazaret; 2]) {
    for mut worker in workers {
        assert!(worker.stop().success(), "{}", worker.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "it needs an older binary: make upgrade-test"]
async fn an_upgrade_worker_by_worker_and_the_way_back_lose_nothing_and_route_and_call_once() {
    let (older, newer) = (older(), env!("CARGO_BIN_EXE_lazaret"));
    let (endpoint, topic) = (Endpoint::start().await, unique("upgrade"));
    let spec = format!(
        "topic: {{name: {topic}, partitions: 4}}\nprocessor: {{http: {{url: '{}'}}}}\n\
         retry: {{maxAttempts: {MAX_ATTEMPTS}, strategy: Fixed, initialDelay: 300ms}}\ncircuitBreaker: {{enabled: false}}",
        endpoint.url
    );
    let pipeline = pipeline(&topic, &spec);
    Broker::Kafka.create_topics(&pipeline).await;
    let mut scene = Scene { producer: producer(kafka()), yaml: yaml(&topic, &spec), topic, written: 0 };

    // One after the other is replaced while records flow; then all the way back, and forth again.
    let (mut first, mut second) = (scene.start(&older), scene.start(&older));
    for program in [newer, &older, newer] {
        scene.write_round().await;
        stop(first);
        first = scene.start(program);
        scene.write_round().await;
        stop(second);
        second = scene.start(program);
    }
    scene.write_round().await;

    let ends = |sources: &[&str; 2]| {
        let committed = committed(kafka(), sources[1], sources[0]);
        committed.into_values().map(|(offset, metadata)| (offset, metadata.is_empty())).collect::<Vec<_>>()
    };
    let letters = || read_all(kafka(), &pipeline.policy.default.dead_letter_topic);
    let dead = scene.written / ANSWERS.len() * ANSWERS.iter().filter(|answers| answers.last() != Some(&200)).count();
    let called = scene.written / ANSWERS.len() * ANSWERS.iter().map(|answers| attempts_of(answers)).sum::<usize>();
    let is_settled = async || (letters().len() >= dead && endpoint.count() >= called).then_some(());
    eventually_within(SETTLED, "all is settled", is_settled).await;
    stop(first);
    stop(second);
    for source in [&pipeline.main, &pipeline.retry] {
        let committed = ends(&[&source.topic, &source.group_id]);
        assert!(committed.iter().all(|(_, is_whole)| *is_whole), "nothing is left in between: {committed:?}");
    }
    let mut by_id: BTreeMap<String, usize> = BTreeMap::new();
    for letter in letters().iter().map(Seen::json) {
        *by_id.entry(letter["originalKey"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    let calls = endpoint.calls();
    let mut attempts: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    calls.iter().for_each(|call| attempts.entry(call.id()).or_default().push(call.attempt()));
    for n in 0..scene.written {
        let (id, answers) = (format!("r{n}"), ANSWERS[n % ANSWERS.len()]);
        let is_dead = answers.last() != Some(&200);
        assert_eq!(by_id.get(&id).copied(), is_dead.then_some(1), "{id}: {:?}", attempts.get(&id));
        assert_eq!(attempts[&id], (1..=attempts_of(answers) as u32).collect::<Vec<_>>(), "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "it needs an older binary: make upgrade-test"]
async fn what_an_older_worker_cannot_read_beside_a_commit_it_says_and_processes_again() {
    let (endpoint, topic) = (Endpoint::start().await, unique("older"));
    let spec = format!("topic: {{name: {topic}, partitions: 1}}\nprocessor: {{http: {{url: '{}'}}}}", endpoint.url);
    let pipeline = pipeline(&topic, &spec);
    Broker::Kafka.create_topics(&pipeline).await;
    let producer = producer(kafka());
    let writes = (0..8_000).map(|n| {
        let (producer, topic, value) = (&producer, &topic, json!({"id": n.to_string()}).to_string());
        async move { write_to(producer, topic, 0, value.as_bytes()).await }
    });
    futures::future::join_all(writes).await;
    // Every other record: more holes than the first form has room for.
    let runs = (1..4_000).map(|n| Run { offsets: 2 * n..2 * n + 1, routed: None }).collect();
    let metadata = encode(&Ahead { committed: 0, runs }).unwrap().text;
    commit(kafka(), &pipeline.main.group_id, &topic, 0, 0, &metadata);
    let mut worker = Lazaret::worker_of(&older(), kafka(), "main", &yaml(&topic, &spec), "127.0.0.1:0", &[]);
    worker.wait_for("ignoring commit metadata");
    eventually_within(SETTLED, "all are processed", async || (endpoint.count() == 8_000).then_some(())).await;
    assert!(worker.stop().success());
}
