//! Records that wait in the retry stage, on Apache Kafka: more of them than memory has room for.

use std::collections::{BTreeMap, BTreeSet};

use lazaret::domain::pipeline::Pipeline;
use lazaret::domain::record::provenance::Stage;
use rdkafka::message::{Header, OwnedHeaders};
use serde_json::json;

use crate::support::engine::Engine;
use crate::support::pipeline::pipeline;
use crate::support::processor::{Endpoint, now};
use crate::support::topics::{delete_records, producer, write};
use crate::support::{Broker, eventually, kafka, unique};

async fn bed(name: &str, endpoint: &Endpoint, retry: &str) -> Pipeline {
    bed_of(name, &format!("http: {{url: '{}'}}", endpoint.url), retry).await
}

async fn bed_of(name: &str, processor: &str, retry: &str) -> Pipeline {
    let topic = unique(name);
    let spec = format!(
        "topic: {{name: {topic}, partitions: 1}}\nprocessor: {{{processor}}}\n\
         retry: {{topic: {{partitions: 1}}, maxDelay: 10m, {retry}}}"
    );
    let pipeline = pipeline(&topic, &spec);
    Broker::Kafka.create_topics(&pipeline).await;
    pipeline
}

/// Writes retry records, each with the time from now at which it is due, in milliseconds.
async fn write_retries(
    pipeline: &Pipeline,
    padding: usize,
    delays: impl IntoIterator<Item = i64>,
) -> Vec<(String, i64)> {
    let producer = producer(kafka());
    let began = now();
    let writes = delays.into_iter().enumerate().map(|(n, delay)| {
        let (due, id) = (began + delay, n.to_string());
        let value = json!({"id": id, "n": n, "padding": "x".repeat(padding)}).to_string();
        let (producer, topic) = (&producer, &pipeline.retry.topic);
        async move {
            let text = due.to_string();
            let headers = OwnedHeaders::new()
                .insert(Header { key: "lazaret-due", value: Some(&text) })
                .insert(Header { key: "lazaret-attempts", value: Some("1") });
            write(producer, topic, None, Some(value.as_bytes()), Some(headers)).await;
            (id, due)
        }
    });
    futures::future::join_all(writes).await
}

#[tokio::test(flavor = "multi_thread")]
async fn more_records_than_memory_has_room_for_wait_and_each_starts_once_and_not_early() {
    let endpoint = Endpoint::start().await;
    let pipeline = bed("shed", &endpoint, "pendingBytes: 1Mi").await;
    // Neighbours in the log are due at very different times; in all they take twenty times the memory.
    let delays = (0..2_000).map(|n| 4_000 + (n * 7_919) % 12_000);
    let written = write_retries(&pipeline, 10_000, delays).await;
    let engine = Engine::start_stages(kafka(), &pipeline, &[Stage::Retry]).await;
    let load = || engine.metrics(Stage::Retry).assignment()[&0].clone();
    let all_wait = async || (load().pending() + endpoint.count() >= 2_000).then_some(());
    eventually("all of them wait", all_wait).await;
    assert!(load().bytes() < 2 << 20, "{} bytes", load().bytes());
    engine.settled(2_000).await;
    let began: BTreeMap<String, i64> = endpoint.calls().iter().map(|call| (call.id(), call.began)).collect();
    assert_eq!((began.len(), endpoint.count()), (2_000, 2_000), "each once");
    for (id, due) in written {
        assert!(began[&id] >= due, "{id} started {} ms early", due - began[&id]);
    }
    assert_eq!((load().pending(), load().next_due()), (0, None));
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_deleted_while_it_waits_stops_nothing() {
    let endpoint = Endpoint::start().await;
    let pipeline = bed("gone", &endpoint, "pendingBytes: 1Mi").await;
    // The last to be due are let go of first, and they lie at the start of the log.
    let delays = (0..100).map(|_| 20_000).chain((0..100).map(|_| 8_000));
    write_retries(&pipeline, 20_000, delays).await;
    let engine = Engine::start_stages(kafka(), &pipeline, &[Stage::Retry]).await;
    let load = || engine.metrics(Stage::Retry).assignment()[&0].clone();
    eventually("all of them wait", async || (load().pending() == 200).then_some(())).await;
    delete_records(kafka(), &pipeline.retry.topic, 0, 90).await;
    eventually("nothing waits any more", async || (load().pending() == 0).then_some(())).await;
    engine.settled(110).await;
    assert!(engine.stop().await.clean);
    let ids: BTreeSet<String> = endpoint.calls().iter().map(|call| call.id()).collect();
    assert!((90..200).all(|n| ids.contains(&n.to_string())), "those that are there are processed");
    assert!(ids.len() < 200, "nobody can process those that are gone");
    assert!(crate::support::topics::committed(kafka(), &pipeline.retry.group_id, &pipeline.retry.topic)[&0].0 >= 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_window_the_partition_is_paused_and_the_stats_say_why() {
    let endpoint = Endpoint::start().await;
    let pipeline = bed("window", &endpoint, "pendingRecords: 1000").await;
    write_retries(&pipeline, 10, (0..4_000).map(|n| 6_000 + n)).await;
    let engine = Engine::start_stages(kafka(), &pipeline, &[Stage::Retry]).await;
    let paused = async || {
        let (_, stats) = engine.get("/api/v1/stats").await;
        (stats["stages"][0]["partitions"][0]["paused"] == "Records").then_some(())
    };
    eventually("the stats say that the window is full", paused).await;
    let (_, metrics) = engine.get("/metrics").await;
    let line = r#"stage="retry",reason="Records"} 1"#;
    assert!(metrics.as_str().unwrap().contains(line), "{metrics}");
    engine.settled(4_000).await;
    assert_eq!(endpoint.count(), 4_000);
    engine.stop().await;
}

/// What is finished at random above a record that is not due yet is more than a commit tells of in full, and more than a round
/// takes at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_large_retries_of_which_some_fail_again_is_routed_to_the_last_while_it_lasts() {
    const RECORDS: i64 = 16_000;
    let rules = "rules: [{when: value.n % 10 < 3, error: 'E: again'}]";
    let pipeline = bed_of("burst", rules, "maxAttempts: 5").await;
    let delays = (0..RECORDS).map(|n| 15_000 + (n * 7_919) % 15_000);
    let written = write_retries(&pipeline, 10_000, delays).await;
    let (first, last) = (written[0].1, written.iter().map(|(_, due)| *due).max().unwrap());
    let engine = Engine::start_stages(kafka(), &pipeline, &[Stage::Retry]).await;
    let letters = || engine.dead_lettered() as i64;
    eventually("some are routed while others are not due yet", async || (letters() > RECORDS / 30).then_some(())).await;
    assert!(now() < last, "the first one was due {} ms ago", now() - first);
    engine.settled(RECORDS as u64).await;
    assert_eq!(letters(), RECORDS * 3 / 10);
    assert!(engine.stop().await.clean);
    let dead = crate::support::topics::read_all(kafka(), &pipeline.policy.default.dead_letter_topic);
    assert_eq!(dead.len() as i64, RECORDS * 3 / 10, "each once");
    let commits = crate::support::topics::committed(kafka(), &pipeline.retry.group_id, &pipeline.retry.topic);
    assert_eq!(commits[&0].1, "", "nothing is left behind");
}
