//! What the processor is asked to bear: the circuit breaker and the pace, on the embedded broker and on Apache Kafka.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use lazaret::domain::flow::load::Pause;
use lazaret::domain::pipeline::Pipeline;
use lazaret::domain::record::provenance::Stage;
use lazaret::worker::metrics::BreakerView;
use serde_json::{Value, json};

use crate::support::engine::Engine;
use crate::support::pipeline::pipeline;
use crate::support::processor::Endpoint;
use crate::support::topics::{Seen, committed, producer, read_all, write, write_to};
use crate::support::{Broker, eventually, kafka, stays, unique};

/// Calls at once, and so how many may end after the one that opened the breaker.
const AT_ONCE: usize = 8;

const BREAKER: &str = "circuitBreaker: {minimumCalls: 20, openFor: 6s, halfOpenCalls: 3}";

fn calling(endpoint: &Endpoint, more: &str) -> String {
    format!("processor: {{http: {{url: '{}'}}, maxInFlight: {AT_ONCE}}}\n{more}", endpoint.url)
}

/// Writes records without a key, with ids from 0 on.
async fn write_orders(broker: &Broker, pipeline: &Pipeline, ids: std::ops::Range<usize>) {
    let producer = producer(&broker.address());
    let writes = ids.map(|n| {
        let (producer, topic, value) = (&producer, &pipeline.main.topic, json!({"id": n.to_string()}).to_string());
        async move { write(producer, topic, None, Some(value.as_bytes()), None).await }
    });
    futures::future::join_all(writes).await;
}

fn dead_letters(broker: &Broker, pipeline: &Pipeline) -> Vec<Seen> {
    read_all(&broker.address(), &pipeline.policy.default.dead_letter_topic)
}

/// The ids of the records that a topic holds. A dead letter is to have the record's own value: `dlt: {format: Raw}`.
fn ids(records: &[Seen]) -> BTreeSet<String> {
    records.iter().map(|record| record.json()["id"].as_str().unwrap().to_owned()).collect()
}

fn all(records: usize) -> BTreeSet<String> {
    (0..records).map(|n| n.to_string()).collect()
}

async fn opened(engine: &Engine, times: u64) {
    let opened = async || (engine.metrics(Stage::Main).breaker_openings.get() >= times).then_some(());
    eventually(&format!("the breaker has opened {times} times"), opened).await;
}

async fn closed(engine: &Engine) {
    let closed = async || (engine.metrics(Stage::Main).breaker() == BreakerView::Closed).then_some(());
    eventually("the breaker is closed", closed).await;
}

/// Everything that was read is committed: the sum of the offsets is the number of records.
fn is_committed(broker: &Broker, pipeline: &Pipeline, records: i64) -> bool {
    let committed = committed(&broker.address(), &pipeline.main.group_id, &pipeline.main.topic);
    committed.values().map(|(offset, _)| offset).sum::<i64>() == records
}

#[tokio::test(flavor = "multi_thread")]
async fn while_most_calls_fail_nothing_is_called_routed_or_read_and_then_every_record_is_settled_once() {
    for broker in Broker::both() {
        let endpoint = Endpoint::start().await;
        let more = format!("retry: {{maxAttempts: 3, initialDelay: 10ms}}\n{BREAKER}");
        let pipeline = pipeline(&unique("outage"), &calling(&endpoint, &more));
        broker.create_topics(&pipeline).await;
        endpoint.fail_all(Some(503));
        write_orders(&broker, &pipeline, 0..200).await;
        let main = Engine::start_stages(&broker.address(), &pipeline, &[Stage::Main]).await;
        opened(&main, 1).await;
        let (_, stats) = main.get("/api/v1/stats").await;
        let breaker = &stats["stages"][0]["circuitBreaker"];
        let reason = breaker["reason"].as_str().unwrap();
        assert!(reason.ends_with("calls failed within 60s; the last: HTTP 503"), "{reason}");
        assert_eq!((&breaker["state"], breaker["nextProbe"].is_string()), (&json!("open"), true));

        // What ran when it opened comes to its end; nothing else happens, whatever is written.
        let settled = async || (main.metrics(Stage::Main).in_flight.get() == 0).then_some(());
        eventually("what ran has ended", settled).await;
        let routed = async || (main.metrics(Stage::Main).retried.get() == endpoint.count() as u64).then_some(());
        eventually("what failed is in the retry topic", routed).await;
        let held = || main.metrics(Stage::Main).assignment().values().map(|load| load.records()).sum::<usize>();
        let is_paused = async || {
            let assignment = main.metrics(Stage::Main).assignment();
            assignment.values().all(|load| load.paused() == Some(Pause::CircuitOpen)).then_some(())
        };
        eventually("reading pauses", is_paused).await;
        write_orders(&broker, &pipeline, 200..300).await;
        let seen = async || (endpoint.count(), held(), main.metrics(Stage::Main).assignment().len());
        let (calls, ..) = stays(Duration::from_millis(1_500), "nothing is called, read or moved", seen).await;
        assert!((20..20 + AT_ONCE).contains(&calls), "{calls} calls");
        assert_eq!(main.get("/readyz").await.0, 200);

        opened(&main, 2).await;
        assert_eq!(endpoint.count(), calls + 3, "three probes, which failed");
        assert_eq!(main.metrics(Stage::Main).retried.get(), calls as u64, "and were not settled");
        endpoint.fail_all(None);
        closed(&main).await;
        main.settled(300 - calls as u64).await;
        let retry = Engine::start_stages(&broker.address(), &pipeline, &[Stage::Retry]).await;
        retry.settled(calls as u64).await;

        let retried = read_all(&broker.address(), &pipeline.retry.topic);
        assert_eq!((retried.len(), ids(&retried).len()), (calls, calls));
        for id in all(300) {
            let calls = endpoint.calls_of(&id);
            let attempts: Vec<_> = calls.iter().map(|call| (call.attempt(), call.status)).collect();
            let Some((last, failed)) = attempts.split_last() else { panic!("{id} was never called") };
            let settled = if ids(&retried).contains(&id) { (2, 200) } else { (1, 200) };
            assert_eq!(*last, settled, "{id}: a probe that failed is not counted");
            assert!(failed.iter().all(|call| *call == (1, 503)), "{id}: {attempts:?}");
        }
        assert_eq!(dead_letters(&broker, &pipeline), vec![]);
        assert!(main.stop().await.clean && retry.stop().await.clean);
        assert!(is_committed(&broker, &pipeline, 300));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_permanent_failures_does_not_pour_into_the_dead_letter_topic() {
    for broker in Broker::both() {
        let endpoint = Endpoint::start().await;
        let more = format!("dlt: {{format: Raw}}\n{BREAKER}");
        let pipeline = pipeline(&unique("flood"), &calling(&endpoint, &more));
        broker.create_topics(&pipeline).await;
        endpoint.fail_all(Some(401)); // a token has expired
        write_orders(&broker, &pipeline, 0..200).await;
        let engine = Engine::start(&broker.address(), &pipeline).await;
        opened(&engine, 2).await;
        let flooded = dead_letters(&broker, &pipeline);
        assert!((20..20 + AT_ONCE).contains(&flooded.len()), "{} dead letters", flooded.len());
        endpoint.fail_all(None);
        engine.settled(200).await;
        let letters = ids(&dead_letters(&broker, &pipeline));
        assert_eq!((letters.len(), letters), (flooded.len(), ids(&flooded)));
        let done: BTreeSet<_> =
            endpoint.calls().iter().filter(|call| call.status == 200).map(|call| call.id()).collect();
        assert_eq!(done, all(200).difference(&ids(&flooded)).cloned().collect());
        engine.stop().await;
        assert!(is_committed(&broker, &pipeline, 200));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_that_fail_most_records_open_it_at_the_very_call() {
    for broker in Broker::both() {
        let topic = unique("rules");
        let spec = format!(
            "topic: {{name: {topic}, partitions: 1}}\n\
             processor: {{rules: [{{when: int(value.id) >= 50, error: 'ValidationException: x'}}]}}\n{BREAKER}"
        );
        let pipeline = pipeline(&topic, &spec);
        broker.create_topics(&pipeline).await;
        write_orders(&broker, &pipeline, 0..50).await;
        write_orders(&broker, &pipeline, 50..300).await;
        let engine = Engine::start(&broker.address(), &pipeline).await;
        opened(&engine, 1).await;
        // Half of the calls failed when as many had failed as had not.
        engine.settled(100).await;
        assert_eq!((engine.processed(), engine.dead_lettered()), (50, 50));
        // While it is open nothing is settled, and the failed probes of a processor that does not change never count.
        opened(&engine, 2).await;
        assert_eq!((engine.processed(), engine.dead_lettered()), (50, 50));
        engine.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stops_while_the_breaker_is_open_leaves_the_records_to_the_next() {
    for broker in Broker::both() {
        let endpoint = Endpoint::start().await;
        let more = "dlt: {format: Raw}\ncircuitBreaker: {minimumCalls: 20, openFor: 1h}";
        let pipeline = pipeline(&unique("stop"), &calling(&endpoint, more));
        broker.create_topics(&pipeline).await;
        endpoint.fail_all(Some(422));
        write_orders(&broker, &pipeline, 0..100).await;
        let engine = Engine::start(&broker.address(), &pipeline).await;
        opened(&engine, 1).await;
        assert!(engine.stop().await.clean, "those who wait do not keep it");
        let letters = ids(&dead_letters(&broker, &pipeline));
        endpoint.fail_all(None);
        let engine = Engine::start(&broker.address(), &pipeline).await;
        engine.settled(100 - letters.len() as u64).await;
        engine.stop().await;
        let done: BTreeSet<_> =
            endpoint.calls().iter().filter(|call| call.status == 200).map(|call| call.id()).collect();
        assert_eq!(done, all(100).difference(&letters).cloned().collect());
        assert_eq!(ids(&dead_letters(&broker, &pipeline)), letters);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_calls_start_than_the_rate_allows() {
    const RATE: usize = 50;
    for broker in Broker::both() {
        let endpoint = Endpoint::start().await;
        let spec = format!(
            "ordering: Unordered\n\
             processor: {{http: {{url: '{}'}}, maxInFlight: {AT_ONCE}, recordsPerSecond: {RATE}}}",
            endpoint.url
        );
        let pipeline = pipeline(&unique("pace"), &spec);
        broker.create_topics(&pipeline).await;
        write_orders(&broker, &pipeline, 0..200).await;
        let engine = Engine::start(&broker.address(), &pipeline).await;
        engine.settled(200).await;
        engine.stop().await;
        let mut began: Vec<_> = endpoint.calls().iter().map(|call| call.began).collect();
        began.sort_unstable();
        assert_eq!(began.len(), 200);
        // What had started before the first of a stretch may arrive in it, and that is never more than may be under way.
        let most = AT_ONCE + 1 + RATE / 10;
        for (first, from) in began.iter().enumerate() {
            for (last, to) in began.iter().enumerate().skip(first) {
                let (calls, millis) = (last - first + 1, usize::try_from(to - from).unwrap() + 1);
                assert!(calls <= most + (RATE * millis).div_ceil(1_000), "{calls} calls in {millis} ms");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_are_paced_as_well() {
    for broker in Broker::both() {
        let rules = "processor: {rules: [{when: 'false', error: E}], recordsPerSecond: 100}";
        let pipeline = pipeline(&unique("pace-rules"), rules);
        broker.create_topics(&pipeline).await;
        write_orders(&broker, &pipeline, 0..300).await;
        let began = Instant::now();
        let engine = Engine::start(&broker.address(), &pipeline).await;
        engine.settled(300).await;
        assert!(began.elapsed() >= Duration::from_millis(2_800), "{:?}", began.elapsed());
        engine.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_hangs_for_one_partition_leaves_calls_to_the_others() {
    let endpoint = Endpoint::start().await;
    let topic = unique("hangs");
    let spec = format!(
        "topic: {{name: {topic}, partitions: 2}}\nordering: Unordered\n\
         processor: {{http: {{url: '{}'}}, maxInFlight: 4}}",
        endpoint.url
    );
    let pipeline = pipeline(&topic, &spec);
    Broker::Kafka.create_topics(&pipeline).await;
    let producer = producer(kafka());
    let engine = Engine::start_stages(kafka(), &pipeline, &[Stage::Main]).await;
    let write = async |partition: i32, value: Value| {
        write_to(&producer, &topic, partition, value.to_string().as_bytes()).await;
    };
    for n in 0..20 {
        write(0, json!({"id": format!("hangs {n}"), "hold": true})).await;
    }
    eventually("it hangs", async || (endpoint.running() > 1).then_some(())).await;
    for n in 0..20 {
        write(1, json!({"id": format!("goes on {n}")})).await;
    }
    engine.settled(20).await;
    assert!(endpoint.running() <= 3, "{} calls hang", endpoint.running());
    endpoint.let_go();
    engine.settled(40).await;
    assert!(engine.stop().await.clean);
}
