//! The five exercises of the README, as a reader types them: the acceptance test of the whole.
//!
//! On the embedded broker they run on `examples/orders.yaml` as it is. On Apache Kafka, which the tests share, the same
//! file gets topic and group names of its own.

use serde_json::{Value, json};

use crate::support::lazaret::{Lazaret, bash, stats};
use crate::support::topics::{Seen, read_all};
use crate::support::{eventually, kafka, unique};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/orders.yaml");

/// A running `lazaret dev`, and what the reader of the exercises knows of it.
struct Demo {
    lazaret: Lazaret,
    /// `http://127.0.0.1:18082` in the exercises.
    api: String,
    kafka: String,
    /// `orders` in the exercises.
    topic: String,
    dlt: String,
    file: String,
}

impl Demo {
    fn embedded() -> Self {
        Self::start(EXAMPLE.into(), "orders", "orders.dlt", &[])
    }

    /// On Apache Kafka, with names of its own and the dead letter topic in Spring's spelling.
    fn on_kafka() -> Self {
        let topic = unique("orders");
        let example = std::fs::read_to_string(EXAMPLE).unwrap();
        let dlt = format!("{topic}.DLT");
        let yaml = example.replace("name: orders.dlt", &format!("name: {dlt}"));
        let yaml = yaml.replace("name: orders\n", &format!("name: {topic}\n"));
        let file = std::env::temp_dir().join(format!("{topic}.yaml")).display().to_string();
        std::fs::write(&file, yaml).unwrap();
        Self::start(file, &topic, &dlt, &["--bootstrap-servers", kafka()])
    }

    fn start(file: String, topic: &str, dlt: &str, more: &[&str]) -> Self {
        let mut lazaret = Lazaret::start(&[&["dev", &file, "--listen", "127.0.0.1:0"], more].concat());
        let api = lazaret.wait_for("HTTP API    ").split_whitespace().next().unwrap().to_owned();
        let kafka = lazaret.wait_for("Kafka       ").split_whitespace().next().unwrap().to_owned();
        Self { lazaret, api, kafka, topic: topic.into(), dlt: dlt.into(), file }
    }

    fn post(&self, order: &str) -> Value {
        let Self { api, topic, .. } = self;
        let header = "Content-Type: application/json";
        let answer = bash(&format!("curl -sf -X POST '{api}/api/v1/{topic}' -H '{header}' -d '{order}'"));
        serde_json::from_str(&answer).unwrap()
    }

    fn simulate_transient_error(&self, enabled: bool) {
        let Self { api, .. } = self;
        bash(&format!("curl -sf -X POST '{api}/api/v1/config/simulate-transient-error?enabled={enabled}'"));
    }

    async fn stat(&self, name: &str, value: u64) {
        eventually(&format!("{name} is {value}"), async || (stats(&self.api)[name] == value).then_some(())).await;
    }

    fn dead_letters(&self) -> Vec<Seen> {
        read_all(&self.kafka, &self.dlt)
    }

    /// How many attempts have failed, by the log, for the record at this place.
    fn attempts(&self, place: &Value) -> usize {
        let (partition, offset) = (&place["partition"], &place["offset"]);
        self.lazaret.grep(&["attempt failed", &format!(" partition={partition} offset={offset} ")]).len()
    }
}

async fn lab_1_valid_records_are_processed_and_none_is_retried(demo: &Demo) {
    let Demo { api, topic, kafka, .. } = demo;
    bash(&format!(
        r#"for i in {{1..5}}; do curl -sf -X POST "{api}/api/v1/{topic}" -H "Content-Type: application/json" -d "{{\"orderId\": \"ORD-$i\", \"amount\": $((i * 100)), \"status\": \"PENDING\"}}"; done"#
    ));
    demo.stat("processed", 5).await;
    assert_eq!(stats(api)["retried"], 0);
    let outside = bash(&format!("kcat -b {kafka} -t {topic} -C -o beginning -e -q -f '%k %s\\n' | sort"));
    let expected = (1..=5).map(|i| {
        let amount = i * 100;
        format!("ORD-{i} {{\"orderId\": \"ORD-{i}\", \"amount\": {amount}, \"status\": \"PENDING\"}}\n")
    });
    assert_eq!(outside, expected.collect::<String>());
}

async fn lab_2_an_invalid_record_is_dead_lettered_at_once(demo: &Demo) {
    let order = r#"{"orderId": "ORD-INVALID", "amount": -50, "status": "PENDING"}"#;
    let place = demo.post(order);
    demo.stat("deadLettered", 1).await;
    let letters = demo.dead_letters();
    assert_eq!(letters.len(), 1);
    let letter = letters[0].json();
    let expected = json!({
        "originalTopic": demo.topic, "originalPartition": place["partition"], "originalOffset": place["offset"],
        "originalKey": "ORD-INVALID", "originalValue": order, "errorMessage": "ValidationException: Invalid amount",
        "retryCount": 0, "reason": "Permanent",
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&letter[name], value, "{name}");
    }
    letter["errorTimestamp"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert!(letter["stackTrace"].is_string());
    assert_eq!(stats(&demo.api)["deadLetteredByErrorType"], json!({"ValidationException": 1}));
    assert_eq!(demo.lazaret.grep(&["DLT", "ValidationException"]).len(), 1);
    assert!(read_all(&demo.kafka, &format!("{}.retry", demo.topic)).is_empty(), "it was not retried");
}

async fn lab_3_a_transient_error_is_retried_until_it_passes_or_no_attempt_is_left(demo: &Demo) {
    let order = r#"{"orderId": "ORD-RETRY", "amount": 200, "status": "PENDING"}"#;
    demo.simulate_transient_error(true);
    let place = demo.post(order);
    eventually("four attempts failed", async || (demo.attempts(&place) >= 4).then_some(())).await;
    demo.simulate_transient_error(false);
    demo.stat("processed", 6).await;
    assert_eq!(demo.dead_letters().len(), 1, "nothing new in the DLT");
    let waits: Vec<f64> = retry_waits(demo);
    assert_eq!(waits.len(), 4);
    for (wait, seconds) in waits.iter().zip([1.0, 2.0, 4.0, 8.0]) {
        assert!((seconds * 0.79..=seconds * 1.21).contains(wait), "{waits:?}");
    }

    demo.simulate_transient_error(true);
    let place = demo.post(order);
    demo.stat("deadLettered", 2).await;
    demo.simulate_transient_error(false);
    assert_eq!(demo.attempts(&place), 5);
    let letters = demo.dead_letters();
    let exhausted: Vec<_> = letters.iter().map(Seen::json).filter(|l| l["reason"] == "AttemptsExhausted").collect();
    assert_eq!(exhausted.len(), 1);
    assert_eq!((&exhausted[0]["retryCount"], &exhausted[0]["originalValue"]), (&json!(4), &json!(order)));
    assert_eq!(exhausted[0]["originalOffset"], place["offset"]);
}

/// For each retry record, the seconds from the failure to the due time, by its own headers.
fn retry_waits(demo: &Demo) -> Vec<f64> {
    let mut records = read_all(&demo.kafka, &format!("{}.retry", demo.topic));
    records.sort_by_key(|record| record.header("lazaret-attempts").map(str::to_owned));
    let due = |record: &Seen| record.header("lazaret-due").unwrap().parse::<i64>().unwrap();
    records.iter().map(|record| (due(record) - record.timestamp) as f64 / 1000.0).collect()
}

async fn lab_4_a_second_worker_shares_the_partitions_and_gives_them_back(demo: &mut Demo) {
    let before = stats(&demo.api)["processed"].as_u64().unwrap();
    let file = demo.file.clone();
    let servers = demo.kafka.clone();
    let listen = ["--listen", "127.0.0.1:0"];
    let worker = ["worker", "--stage", "main", "--file", &file, "--bootstrap-servers", &servers];
    let mut second = Lazaret::start(&[worker.as_slice(), &listen].concat());
    let gained = second.wait_for("gained=");
    assert!(second.grep(&["rebalance", "partitions assigned"]).len() == 1, "{gained}");
    demo.lazaret.wait_for("revoked=[");
    for n in 1..=10 {
        demo.post(&format!(r#"{{"orderId": "ORD-REBAL-{n}", "amount": 100, "status": "PENDING"}}"#));
    }
    let address = second.wait_for("listening address=");
    let second_api = format!("http://{}", address.trim());
    let both = async || {
        let processed = |api: &str| stats(api)["processed"].as_u64().unwrap();
        (processed(&demo.api) - before + processed(&second_api) == 10).then_some(())
    };
    eventually("the ten records are processed", both).await;
    let shared = stats(&second_api)["processed"].as_u64().unwrap();
    assert!(second.stop().success());
    assert!(second.output().contains(&format!("stopped: {shared} processed")), "{}", second.output());
    let all = async || (stats(&demo.api)["stages"][0]["partitions"].as_array()?.len() == 6).then_some(());
    eventually("the first worker has all partitions again", all).await;
    assert!(demo.lazaret.grep(&["rebalance", "orders", "gained="]).len() >= 3, "{}", demo.lazaret.log());
    assert_eq!(stats(&demo.api)["processed"], before + 10 - shared, "no duplicate");
}

async fn lab_5_the_counts_are_there_to_read(demo: &Demo) {
    let Demo { api, .. } = demo;
    let answer = stats(api);
    for name in ["processed", "retried", "deadLetteredByErrorType", "inFlight", "pending", "nextDue", "rebalances"] {
        assert!(!answer[name].is_null() || name == "nextDue", "{name} is missing");
    }
    assert_eq!(answer["stages"][1]["stage"], "retry");
    assert!(answer["stages"][1]["latenessMs"]["p99"].is_u64());
    let count: Value = serde_json::from_str(&bash(&format!("curl -sf {api}/api/v1/dlt/count"))).unwrap();
    assert_eq!(count["count"], 2);
    let health: Value = serde_json::from_str(&bash(&format!("curl -sf {api}/health"))).unwrap();
    assert_eq!(health["status"], "UP");
}

async fn all_labs(mut demo: Demo) {
    lab_1_valid_records_are_processed_and_none_is_retried(&demo).await;
    lab_2_an_invalid_record_is_dead_lettered_at_once(&demo).await;
    lab_3_a_transient_error_is_retried_until_it_passes_or_no_attempt_is_left(&demo).await;
    lab_4_a_second_worker_shares_the_partitions_and_gives_them_back(&mut demo).await;
    lab_5_the_counts_are_there_to_read(&demo).await;
    demo.lazaret.signal("INT");
    assert!(demo.lazaret.ended().success());
    assert!(demo.lazaret.output().contains("2 sent to the DLT"), "{}", demo.lazaret.output());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exercises_work_on_the_embedded_broker() {
    all_labs(Demo::embedded()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exercises_work_on_apache_kafka() {
    all_labs(Demo::on_kafka()).await;
}
