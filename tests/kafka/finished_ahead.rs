//! More finished records above one that is not than Kafka keeps beside a commit.

use std::time::Duration;

use lazaret::domain::commit::commit_metadata::MAX_BYTES;
use lazaret::domain::record::provenance::Stage;
use serde_json::{Value, json};

use crate::support::engine::Engine;
use crate::support::pipeline::pipeline;
use crate::support::processor::Endpoint;
use crate::support::topics::{committed, producer, read_all, write};
use crate::support::{Broker, eventually, kafka, stays, unique};

/// Every other record is finished: a finished and an unfinished record take a bit each, and of the 4,096 bytes three quarters of
/// three quarters are there for those, as text.
const RECORDS: usize = 18_400;
const MORE: usize = 100;

#[tokio::test(flavor = "multi_thread")]
async fn when_a_commit_is_full_reading_pauses_and_what_has_failed_is_routed_all_the_same() {
    let endpoint = Endpoint::start().await;
    let topic = unique("ahead");
    let spec = format!(
        "topic: {{name: {topic}, partitions: 1}}\nordering: Key\nprocessor: {{http: {{url: '{}'}}, maxInFlight: 16}}",
        endpoint.url
    );
    let pipeline = pipeline(&topic, &spec);
    Broker::Kafka.create_topics(&pipeline).await;
    let producer = producer(kafka());
    let write = async |key: &str, value: Value| {
        write(&producer, &topic, Some(key.as_bytes()), Some(value.to_string().as_bytes()), None).await
    };
    // One key has every other record, and its first call is held: the others wait behind it.
    let writes = (0..RECORDS).map(|n| {
        let (write, id) = (&write, n.to_string());
        async move {
            match n {
                0 => write("slow", json!({"id": id, "hold": "slow"})).await,
                _ if n == RECORDS - 1 => write(&id, json!({"id": "failed", "hold": "others", "answers": [422]})).await,
                _ if n % 2 == 0 => write("slow", json!({"id": id})).await,
                _ => write(&id, json!({"id": id, "hold": "others"})).await,
            }
        }
    });
    futures::future::join_all(writes).await;
    let engine = Engine::start_stages(kafka(), &pipeline, &[Stage::Main]).await;
    let partition = async || {
        let (_, stats) = engine.get("/api/v1/stats").await;
        stats["stages"][0]["partitions"][0].clone()
    };
    let letters = || read_all(kafka(), &pipeline.policy.default.dead_letter_topic);
    let has_read = async |records: usize| (partition().await["nextOffset"] == records).then_some(());
    eventually("all of them are read", async || has_read(RECORDS).await).await;
    endpoint.let_go_of("others");
    let others = async || (endpoint.count() == RECORDS / 2).then_some(());
    eventually("all but those of the slow key are called, and the last one has failed", others).await;
    assert_eq!(endpoint.calls_of("failed").len(), 1);
    let is_full = async || (partition().await["paused"] == "FinishedAhead").then_some(());
    eventually("reading pauses, and the stats say why", is_full).await;
    let writes = (0..MORE).map(|n| write("later", json!({"id": format!("later-{n}")})));
    futures::future::join_all(writes).await;
    // Three rounds of commits would have come by now.
    let waits = async || (partition().await["nextOffset"].clone(), endpoint.count());
    let seen = stays(Duration::from_secs(2), "nothing more is read or called", waits).await;
    assert_eq!(seen, (json!(RECORDS), RECORDS / 2));
    eventually("the failed record is routed", async || (letters().len() == 1).then_some(())).await;
    let (offset, metadata) = committed(kafka(), &pipeline.main.group_id, &topic)[&0].clone();
    assert_eq!(offset, 0);
    assert!((MAX_BYTES * 3 / 4..=MAX_BYTES).contains(&metadata.len()), "{}", metadata.len());

    endpoint.let_go();
    engine.settled((RECORDS + MORE) as u64).await;
    eventually("all of them are read", async || has_read(RECORDS + MORE).await).await;
    assert!(engine.stop().await.clean);
    assert_eq!(endpoint.count(), RECORDS + MORE, "each record is processed once");
    assert_eq!(letters().len(), 1);
    let (offset, metadata) = committed(kafka(), &pipeline.main.group_id, &topic)[&0].clone();
    assert_eq!((offset, &*metadata), ((RECORDS + MORE) as i64, ""));
}
