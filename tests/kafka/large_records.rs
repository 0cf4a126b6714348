//! Large records that fail: `lazaret dev` creates the retry topic and the dead letter topic with room for them, and warns of
//! topics that existed and have less.

use serde_json::json;

use crate::support::lazaret::{Lazaret, stats};
use crate::support::pipeline::yaml;
use crate::support::processor::Endpoint;
use crate::support::topics::{self, Seen, producer, read_all, write};
use crate::support::{HEAVY, eventually, kafka, unique};

/// Starts a pipeline on Apache Kafka, and returns the address of its HTTP API, too.
fn dev(name: &str, spec: &str) -> (Lazaret, String) {
    let file = format!("{}/{name}.yaml", env!("CARGO_TARGET_TMPDIR"));
    std::fs::write(&file, yaml(name, spec)).unwrap();
    let mut lazaret = Lazaret::start(&["dev", &file, "--listen", "127.0.0.1:0", "--bootstrap-servers", kafka()]);
    let api = lazaret.wait_for("HTTP API    ").split_whitespace().next().unwrap().to_owned();
    (lazaret, api)
}

/// JSON of this size that is twice as large in an envelope: quotes and backslashes are nearly all of it.
fn order(id: &str, answers: &[u16], bytes: usize) -> Vec<u8> {
    let of_padding = |padding: &str| json!({"answers": answers, "id": id, "padding": padding}).to_string().into_bytes();
    let empty = of_padding("").len();
    of_padding(&"\"".repeat((bytes - empty) / 2))
}

/// A main topic of a limit that the spec names, and two records that are hardly smaller: one fails once, one for good.
async fn two_records_that_fail_keep_their_values(limit: usize) {
    let _alone = HEAVY.acquire().await.unwrap();
    let (endpoint, topic) = (Endpoint::start().await, unique("large"));
    let spec = format!(
        "topic: {{name: {topic}, partitions: 1, config: {{max.message.bytes: {limit}}}}}\n\
         processor: {{http: {{url: '{}'}}}}\nretry: {{strategy: Fixed, initialDelay: 100ms}}",
        endpoint.url
    );
    let (_lazaret, api) = dev(&topic, &spec);
    let bytes = limit - 1_000;
    let (flaky, invalid) = (order("flaky", &[503, 200], bytes), order("invalid", &[422], bytes));
    let producer = producer(kafka());
    for value in [&flaky, &invalid] {
        write(&producer, &topic, Some(b"k"), Some(value), None).await;
    }
    eventually("both are settled", async || {
        let stats = stats(&api);
        (stats["processed"] == 1 && stats["deadLettered"] == 1).then_some(())
    })
    .await;
    let attempts: Vec<_> = endpoint.calls_of("flaky").iter().map(|call| (call.attempt(), call.body.len())).collect();
    assert_eq!(attempts, [(1, flaky.len()), (2, flaky.len())]);
    let retried = read_all(kafka(), &format!("{topic}.retry"));
    assert_eq!(retried.len(), 1);
    assert!(retried[0].value.as_ref() == Some(&flaky), "it is retried whole");
    let letters = read_all(kafka(), &format!("{topic}.dlt"));
    assert_eq!(letters.len(), 1);
    let letter = Seen::json(&letters[0]);
    assert_eq!((&letter["reason"], letter.get("valueOmitted")), (&json!("Permanent"), None));
    assert!(letter["originalValue"].as_str().map(str::as_bytes) == Some(&invalid), "the dead letter has its value");
    assert!(letters[0].value.as_ref().unwrap().len() > 2 * limit - 10_000, "the envelope has escaped it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_three_megabytes_is_retried_whole_and_its_dead_letter_has_its_value() {
    two_records_that_fail_keep_their_values(3_000_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_is_one_of_ten_megabytes_for_no_client_has_a_lower_limit_than_the_topics() {
    two_records_that_fail_keep_their_values(10_000_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_brokers_default_is_doubled_where_the_main_topic_has_no_limit_of_its_own() {
    let (of_new, of_old) = (unique("new"), unique("old"));
    topics::create(kafka(), &of_old, 1, &[("max.message.bytes", "2000000")]).await;
    topics::has(kafka(), &of_old, Some(1)).await;
    for (topic, limit) in [(of_new, "2162712"), (of_old, "4065536")] {
        let spec =
            format!("topic: {{name: {topic}, partitions: 1}}\nprocessor: {{rules: [{{when: 'false', error: E}}]}}");
        let (_lazaret, _) = dev(&topic, &spec);
        for of_failures in ["retry", "dlt"] {
            let config = topics::config(kafka(), &format!("{topic}.{of_failures}")).await;
            assert_eq!(config["max.message.bytes"], limit, "{topic}.{of_failures}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_existed_and_takes_less_than_the_main_topic_stays_as_it_is_and_is_warned_of() {
    let topic = unique("adopted");
    let dlt = format!("{topic}.dlt");
    topics::create(kafka(), &dlt, 3, &[("max.message.bytes", "1000000")]).await;
    topics::has(kafka(), &dlt, Some(3)).await;
    let spec = format!(
        "topic: {{name: {topic}, partitions: 1, config: {{max.message.bytes: 3000000}}}}\n\
         processor: {{rules: [{{when: 'false', error: E}}]}}"
    );
    let (lazaret, _) = dev(&topic, &spec);
    let warnings = lazaret.grep(&["WARN", "max.message.bytes"]);
    let [warning] = &warnings[..] else { panic!("one warning: {warnings:?}") };
    for part in [&format!("`{dlt}` has max.message.bytes 1000000"), &format!("`{topic}` has 3000000"), "to 6065536"] {
        assert!(warning.contains(part), "{warning}");
    }
    assert_eq!(topics::config(kafka(), &dlt).await["max.message.bytes"], "1000000");
}
