//! `lazaret dlt` on Apache Kafka: dead letters are found, told apart and shown, and what is not there is said.

use std::process::{Command, Output};

use rdkafka::config::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use serde_json::Value;

use crate::support::{DEADLINE, kafka, topics, unique};

fn dlt(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lazaret")).arg("dlt").args(arguments).output().unwrap()
}

fn answer(arguments: &[&str]) -> String {
    let output = dlt(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&answer(&[arguments, &["-o", "json"]].concat())).unwrap()
}

/// How the command ended that could not do what it was asked, and what it said.
fn refusal(arguments: &[&str]) -> (Option<i32>, String) {
    let output = dlt(arguments);
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// A topic with ten dead letters in each of its three partitions, their values secret, in one transaction; each partition
/// ends with its marker.
async fn topic() -> String {
    let topic = unique("dlt");
    topics::create(kafka(), &topic, 3, &[("retention.ms", "-1")]).await;
    topics::has(kafka(), &topic, Some(3)).await;
    let producer: ThreadedProducer<DefaultProducerContext> =
        ClientConfig::new().set("bootstrap.servers", kafka()).set("transactional.id", unique("dlt")).create().unwrap();
    producer.init_transactions(DEADLINE).unwrap();
    producer.begin_transaction().unwrap();
    for n in 0..30 {
        let (key, value) = (format!("order-{n}"), format!("{{\"secret\":{n}}}"));
        let error_type = if n < 12 { "BusyException" } else { "ValidationException" };
        let headers = OwnedHeaders::new()
            .insert(Header { key: "lazaret-error-type", value: Some(error_type) })
            .insert(Header { key: "lazaret-error-message", value: Some("\u{1b}[31mno") })
            .insert(Header { key: "lazaret-reason", value: Some("Permanent") });
        let record = BaseRecord::to(&topic).partition(n % 3).key(&key).payload(&value).headers(headers);
        producer.send(record.timestamp(1_700_000_000_000 + i64::from(n))).unwrap();
    }
    producer.commit_transaction(DEADLINE).unwrap();
    topic
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_the_newest_first_and_only_those_that_are_asked_for() {
    let topic = topic().await;
    let place = ["list", "--topic", &topic, "--bootstrap-servers", kafka()];
    let of = |more: &[&str]| json(&[&place, more].concat());
    let all = of(&["--limit", "5"]);
    assert_eq!((&all["total"], &all["matching"]), (&30.into(), &30.into()));
    let keys: Vec<_> = all["items"].as_array().unwrap().iter().map(|item| item["key"]["text"].clone()).collect();
    assert_eq!(keys, ["order-29", "order-28", "order-27", "order-26", "order-25"]);
    assert!(!all.to_string().contains("secret"), "no value without --payload");
    assert!(of(&["--payload"])["items"][0]["value"]["text"] == "{\"secret\":29}");

    assert_eq!(of(&["--error-type", "BusyException"])["matching"], 12);
    assert_eq!(of(&["--reason", "Expired"])["matching"], 0);
    assert_eq!(of(&["--since", "2023-11-14T22:13:20.020Z"])["matching"], 10);
    let one = of(&["--key", "order-4"]);
    assert_eq!(
        (&one["matching"], &one["items"][0]["partition"], &one["items"][0]["offset"]),
        (&1.into(), &1.into(), &1.into())
    );

    let text = answer(&[&place[..], &["--limit", "2"]].concat());
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with("POSITION  AGE    ERROR TYPE           REASON     ATTEMPTS  KEY"), "{text}");
    assert_eq!((lines.len(), lines[3]), (4, "2 of 30: --limit shows more"));
    assert!(text.contains("\\u001b[31mno") && !text.contains('\u{1b}'), "a record does not steer the terminal: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_is_shown_by_its_position_and_where_there_is_none_that_is_said() {
    let topic = topic().await;
    let place = ["show", "--topic", &topic, "--bootstrap-servers", kafka()];
    let text = answer(&[&place[..], &["2:3"]].concat());
    assert!(text.contains(&format!("Dead letter:  {topic} 2:3\n")), "{text}");
    assert!(text.contains("lazaret-reason") && text.contains("order-11") && !text.contains("secret"), "{text}");
    let letter = json(&[&place[..], &["2:3", "--payload"]].concat());
    assert_eq!(letter["value"]["text"], "{\"secret\":11}");
    // A marker, the end, beyond it, and no such partition.
    for position in ["0:10", "0:11", "0:5000", "7:0"] {
        let (code, said) = refusal(&[&place[..], &[position]].concat());
        assert!(code == Some(2) && said.contains(&format!("there is no dead letter at {position}")), "{code:?} {said}");
    }
}

#[test]
fn a_topic_or_a_kafka_that_is_not_there_is_named() {
    let (code, said) = refusal(&["list", "--topic", "nobodys", "--bootstrap-servers", kafka()]);
    assert!(code == Some(2) && said.contains("there is no topic `nobodys` in this Kafka"), "{code:?} {said}");
    let (code, said) = refusal(&["list", "--topic", "orders.dlt", "--bootstrap-servers", "127.0.0.1:1"]);
    assert!(code == Some(1) && said.contains("Kafka at 127.0.0.1:1 could not be read"), "{code:?} {said}");
}
