//! Retries that keep their record's place, on the embedded broker and on Apache Kafka.

use lazaret::domain::pipeline::Pipeline;
use lazaret::domain::policy::Mode;
use lazaret::domain::record::provenance::Stage;
use serde_json::{Value, json};

use crate::support::engine::Engine;
use crate::support::pipeline::pipeline;
use crate::support::processor::{Call, Endpoint};
use crate::support::topics::{Seen, committed, producer, read_all, write};
use crate::support::{Broker, eventually, unique};

/// One partition, so that only keys keep records apart.
fn keeping_order(name: &str, endpoint: &Endpoint, at_once: usize, retry: &str) -> Pipeline {
    let name = unique(name);
    let spec = format!(
        "topic: {{name: {name}, partitions: 1}}\nprocessor: {{http: {{url: '{}'}}, maxInFlight: {at_once}}}\n\
         retry: {{mode: KeepOrder, strategy: Fixed, {retry}}}\ndlt: {{format: Raw}}",
        endpoint.url
    );
    pipeline(&name, &spec)
}

/// Writes records one after the other, each with the key that it names.
async fn write_in_order(broker: &Broker, pipeline: &Pipeline, orders: &[Value]) {
    let producer = producer(&broker.address());
    for order in orders {
        let (key, value) = (order["key"].as_str().unwrap().as_bytes(), order.to_string());
        write(&producer, &pipeline.main.topic, Some(key), Some(value.as_bytes()), None).await;
    }
}

fn pending(engine: &Engine) -> usize {
    engine.metrics(Stage::Main).assignment().values().map(|load| load.pending()).sum()
}

fn attempts(calls: &[Call]) -> Vec<(u32, u16)> {
    calls.iter().map(|call| (call.attempt(), call.status)).collect()
}

fn retried(broker: &Broker, pipeline: &Pipeline) -> Vec<Seen> {
    read_all(&broker.address(), &pipeline.retry.topic)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_keeps_its_order_through_failures_and_however_many_wait_the_others_go_on() {
    for broker in Broker::both() {
        let endpoint = Endpoint::start().await;
        let pipeline = keeping_order("order", &endpoint, 4, "initialDelay: 3s, maxAttempts: 3");
        broker.create_topics(&pipeline).await;
        // Twice as many keys fail as calls may be under way.
        let keys: Vec<_> = (0..8).map(|n| format!("k{n}")).collect();
        let first = keys.iter().map(|key| json!({"id": format!("{key}-a"), "key": key, "answers": [503, 200]}));
        let second = keys.iter().map(|key| json!({"id": format!("{key}-b"), "key": key}));
        let others = (0..20).map(|n| json!({"id": format!("other-{n}"), "key": format!("o{n}")}));
        write_in_order(&broker, &pipeline, &first.chain(second).chain(others).collect::<Vec<_>>()).await;
        let engine = Engine::start(&broker.address(), &pipeline).await;
        engine.settled(36).await;
        assert_eq!(engine.processed(), 36);
        let mut done_before_a_retry = 0;
        let second_attempt = keys.iter().map(|key| endpoint.calls_of(&format!("{key}-a"))[1].began).min().unwrap();
        for n in 0..20 {
            let calls = endpoint.calls_of(&format!("other-{n}"));
            assert_eq!(attempts(&calls), [(1, 200)]);
            done_before_a_retry += usize::from(calls[0].ended < second_attempt);
        }
        assert_eq!(done_before_a_retry, 20, "the others did not wait");
        for key in keys {
            let (a, b) = (endpoint.calls_of(&format!("{key}-a")), endpoint.calls_of(&format!("{key}-b")));
            assert_eq!((attempts(&a), attempts(&b)), (vec![(1, 503), (2, 200)], vec![(1, 200)]));
            assert!(a[1].began - a[0].ended >= 3_000, "never early");
            assert!(b[0].began >= a[1].ended, "{key}: the second waits for the first");
        }
        assert!(engine.stop().await.clean);
        assert_eq!(retried(&broker, &pipeline), vec![]);
        assert_eq!(committed(&broker.address(), &pipeline.main.group_id, &pipeline.main.topic)[&0].0, 36);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_given_up_goes_to_the_dead_letter_topic_and_makes_way() {
    for broker in Broker::both() {
        let endpoint = Endpoint::start().await;
        let pipeline = keeping_order("given-up", &endpoint, 4, "initialDelay: 100ms, maxAttempts: 3");
        broker.create_topics(&pipeline).await;
        let orders = [
            json!({"id": "hopeless", "key": "k", "answers": [503]}),
            json!({"id": "invalid", "key": "k", "answers": [422]}),
            json!({"id": "good", "key": "k"}),
        ];
        write_in_order(&broker, &pipeline, &orders).await;
        let engine = Engine::start(&broker.address(), &pipeline).await;
        engine.settled(3).await;
        let seen: Vec<_> = endpoint.calls().iter().map(|call| (call.id(), call.attempt())).collect();
        let expected = [("hopeless", 1), ("hopeless", 2), ("hopeless", 3), ("invalid", 1), ("good", 1)];
        assert_eq!(seen, expected.map(|(id, attempt)| (id.to_owned(), attempt)));
        let letters = read_all(&broker.address(), &pipeline.policy.default.dead_letter_topic);
        let mut letters: Vec<_> = letters
            .iter()
            .map(|letter| (letter.header("lazaret-reason").unwrap(), letter.header("lazaret-attempts").unwrap()))
            .collect();
        letters.sort_unstable();
        assert_eq!(letters, [("AttemptsExhausted", "3"), ("Permanent", "1")]);
        engine.stop().await;
        assert_eq!(retried(&broker, &pipeline), vec![]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_when_a_worker_stops_is_read_again_and_nothing_is_lost() {
    for broker in Broker::both() {
        let endpoint = Endpoint::start().await;
        let pipeline = keeping_order("stop", &endpoint, 4, "initialDelay: 5m");
        broker.create_topics(&pipeline).await;
        let order = |n: usize| json!({"id": n.to_string(), "key": format!("k{}", n % 10)});
        endpoint.fail_all(Some(503));
        write_in_order(&broker, &pipeline, &(0..10).map(order).collect::<Vec<_>>()).await;
        let engine = Engine::start(&broker.address(), &pipeline).await;
        let all_wait = async || (pending(&engine) == 10).then_some(());
        eventually("all wait in their lanes", all_wait).await;
        assert_eq!(engine.metrics(Stage::Main).in_flight.get(), 0);
        write_in_order(&broker, &pipeline, &(10..20).map(order).collect::<Vec<_>>()).await;
        let stopped = engine.stop().await;
        assert!(stopped.clean && stopped.processed == 0, "what waits does not keep the worker");
        assert_eq!(endpoint.count(), 10, "each key's second record waited behind its first");

        endpoint.fail_all(None);
        let engine = Engine::start(&broker.address(), &pipeline).await;
        engine.settled(20).await;
        engine.stop().await;
        for n in 0..10 {
            let (first, second) = (endpoint.calls_of(&n.to_string()), endpoint.calls_of(&(n + 10).to_string()));
            assert_eq!(attempts(&first), [(1, 503), (1, 200)], "its attempts are counted anew");
            assert_eq!(attempts(&second), [(1, 200)]);
            assert!(second[0].began >= first[1].ended);
        }
        assert_eq!(retried(&broker, &pipeline), vec![]);
        assert_eq!(committed(&broker.address(), &pipeline.main.group_id, &pipeline.main.topic)[&0].0, 20);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_went_to_the_retry_topic_before_the_mode_was_changed_is_still_processed_from_there() {
    for broker in Broker::both() {
        let endpoint = Endpoint::start().await;
        let mut pipeline = keeping_order("change", &endpoint, 4, "initialDelay: 300ms, maxAttempts: 4");
        broker.create_topics(&pipeline).await;
        pipeline.policy.mode = Mode::NonBlocking;
        write_in_order(&broker, &pipeline, &[json!({"id": "a", "key": "k", "answers": [503, 503, 200]})]).await;
        let engine = Engine::start_stages(&broker.address(), &pipeline, &[Stage::Main]).await;
        let routed = async || (engine.metrics(Stage::Main).retried.get() == 1).then_some(());
        eventually("the record is in the retry topic", routed).await;
        engine.stop().await;
        pipeline.policy.mode = Mode::KeepOrder;
        let engine = Engine::start(&broker.address(), &pipeline).await;
        engine.settled(1).await;
        assert_eq!(attempts(&endpoint.calls_of("a")), [(1, 503), (2, 503), (3, 200)]);
        assert!(engine.metrics(Stage::Retry).lateness().is_some(), "it is measured in this mode, too");
        engine.stop().await;
        assert_eq!(retried(&broker, &pipeline).len(), 1, "the retry stage keeps the order of its records, too");
    }
}
