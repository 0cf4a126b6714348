//! The engine's promises, on the embedded broker and on Apache Kafka.

use std::collections::BTreeMap;
use std::time::Duration;

use lazaret::domain::flow::load::{Pause, STAGE_BYTES};
use lazaret::domain::pipeline::Pipeline;
use lazaret::domain::record::provenance::Stage;
use lazaret::kafka::connection::Connection;
use lazaret::kafka::counter::Counter;
use rdkafka::message::{Header, OwnedHeaders};
use serde_json::{Value, json};

use crate::support::engine::Engine;
use crate::support::pipeline::pipeline;
use crate::support::processor::Endpoint;
use crate::support::topics::{self, Seen, commit, committed, producer, read_all, write, write_to};
use crate::support::{Broker, HEAVY, eventually, kafka, stays, unique};

const RULES: &str = "
processor: {rules: [{when: value.amount < 0, error: 'ValidationException: Invalid amount'}]}
retry: {initialDelay: 100ms, maxDelay: 1s}";

fn calling(endpoint: &Endpoint, more: &str) -> String {
    format!("processor: {{http: {{url: '{}'}}, maxInFlight: 16}}\n{more}", endpoint.url)
}

async fn write_json(broker: &Broker, pipeline: &Pipeline, key: Option<&str>, value: &Value) -> (i32, i64) {
    let producer = producer(&broker.address());
    let value = value.to_string();
    write(&producer, &pipeline.main.topic, key.map(str::as_bytes), Some(value.as_bytes()), None).await
}

fn dead_letters(broker: &Broker, pipeline: &Pipeline) -> Vec<Seen> {
    read_all(&broker.address(), &pipeline.policy.default.dead_letter_topic)
}

/// The committed offset and the end of each partition that holds records agree.
fn everything_is_committed(address: &str, group: &str, topic: &str) -> bool {
    let mut ends = BTreeMap::new();
    for record in read_all(address, topic) {
        ends.insert(record.partition, record.offset + 1);
    }
    let committed = committed(address, group, topic);
    ends.iter().all(|(partition, end)| committed.get(partition).is_some_and(|(offset, _)| offset == end))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_record_is_processed_retried_or_dead_lettered_as_its_answers_say() {
    for broker in Broker::both() {
        let endpoint = Endpoint::start().await;
        let spec = calling(&endpoint, "retry: {maxAttempts: 3, strategy: Fixed, initialDelay: 300ms}");
        let pipeline = pipeline(&unique("answers"), &spec);
        broker.create_topics(&pipeline).await;
        let engine = Engine::start(&broker.address(), &pipeline).await;
        for order in [
            json!({"id": "good"}),
            json!({"id": "flaky", "answers": [503, 429, 200]}),
            json!({"id": "invalid", "answers": [422]}),
            json!({"id": "hopeless", "answers": [500]}),
        ] {
            write_json(&broker, &pipeline, order["id"].as_str(), &order).await;
        }
        engine.settled(4).await;
        assert_eq!((engine.processed(), engine.dead_lettered()), (2, 2));
        for (id, attempts) in [("good", 1), ("flaky", 3), ("invalid", 1), ("hopeless", 3)] {
            let calls = endpoint.calls_of(id);
            assert_eq!(calls.iter().map(|c| c.attempt()).collect::<Vec<_>>(), (1..=attempts).collect::<Vec<_>>());
            let keys: Vec<_> = calls.iter().map(|call| &call.headers["idempotency-key"]).collect();
            assert!(keys.windows(2).all(|pair| pair[0] == pair[1]), "{id}: the key is the same over attempts");
            for pair in calls.windows(2) {
                assert!(pair[1].began - pair[0].ended >= 300, "{id}: no attempt before its delay");
            }
        }
        let mut letters: Vec<_> = dead_letters(&broker, &pipeline).iter().map(Seen::json).collect();
        letters.sort_by_key(|letter| letter["originalKey"].to_string());
        assert_eq!(letters.len(), 2);
        assert_eq!((&letters[0]["originalKey"], &letters[0]["retryCount"]), (&json!("hopeless"), &json!(2)));
        assert_eq!((&letters[0]["reason"], &letters[0]["stage"]), (&json!("AttemptsExhausted"), &json!("retry")));
        assert_eq!((&letters[1]["reason"], &letters[1]["retryCount"]), (&json!("Permanent"), &json!(0)));
        assert_eq!(letters[1]["originalTopic"], &*pipeline.main.topic);
        engine.stop().await;
        let address = broker.address();
        assert!(everything_is_committed(&address, &pipeline.main.group_id, &pipeline.main.topic));
        assert!(everything_is_committed(&address, &pipeline.retry.group_id, &pipeline.retry.topic));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_record_stops_its_partition_whatever_its_bytes() {
    let large = vec![b' '; 900_000];
    type Bytes<'a> = Option<&'a [u8]>;
    let odd: [(Bytes, Bytes); 7] = [
        (None, None),
        (Some(b"k"), None),
        (Some(b"\xff\xfe"), Some(b"\xff\xfe")),
        (Some(b""), Some(b"")),
        (Some(b"k"), Some(b"not json")),
        (None, Some(b"{\"amount\": \"text\"}")),
        (Some(b"k"), Some(&large)),
    ];
    for broker in Broker::both() {
        let pipeline = pipeline(&unique("odd"), &format!("topic: {{name: {}, partitions: 1}}{RULES}", unique("odd")));
        broker.create_topics(&pipeline).await;
        let producer = producer(&broker.address());
        for (key, value) in odd {
            write(&producer, &pipeline.main.topic, key, value, None).await;
        }
        write(&producer, &pipeline.main.topic, None, Some(b"{\"amount\": 1}"), None).await;
        let engine = Engine::start(&broker.address(), &pipeline).await;
        engine.settled(8).await;
        assert_eq!((engine.processed(), engine.dead_lettered()), (1, 7));
        let mut letters = dead_letters(&broker, &pipeline);
        letters.sort_by_key(|letter| letter.json()["originalOffset"].as_i64());
        for (letter, (key, value)) in letters.iter().zip(odd) {
            assert_eq!(letter.header("lazaret-reason"), Some("Unreadable"));
            assert_eq!(letter.key.as_deref(), key);
            let envelope = letter.json();
            assert_eq!(envelope["originalValue"].is_null(), value.is_none());
            if let Some(text) = value.and_then(|value| std::str::from_utf8(value).ok()) {
                assert_eq!(envelope["originalValue"], text);
            }
        }
        assert_eq!(letters[2].json()["originalValue"], "//4=");
        engine.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_too_large_for_the_topic_keeps_its_place_and_its_error() {
    let broker = Broker::Kafka; // the embedded broker takes records of any size
    let spec = format!("topic: {{name: {}, partitions: 1}}{RULES}", unique("large"));
    let pipeline = pipeline(&unique("large"), &spec);
    broker.create_topics(&pipeline).await;
    let producer = producer(&broker.address());
    // As base64 it is a third larger than the million bytes that the broker takes.
    write(&producer, &pipeline.main.topic, Some(b"k"), Some(&vec![0xff; 900_000]), None).await;
    let headers = OwnedHeaders::new().insert(Header { key: "h", value: Some(&vec![b'x'; 1_000_000]) });
    write(&producer, &pipeline.main.topic, Some(b"k"), Some(b"x"), Some(headers)).await;
    let engine = Engine::start(&broker.address(), &pipeline).await;
    engine.settled(2).await;
    let mut letters = dead_letters(&broker, &pipeline);
    letters.sort_by_key(|letter| letter.json()["originalOffset"].as_i64());
    for letter in &letters {
        assert_eq!(letter.json()["valueOmitted"], true);
        assert_eq!(letter.json()["reason"], "Unreadable");
        assert_eq!(letter.key.as_deref(), Some(b"k".as_slice()));
    }
    assert_eq!(letters[0].header("lazaret-omitted"), Some("value"));
    assert_eq!(letters[1].header("lazaret-omitted"), Some("value,headers"));
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_stay_bytes_through_the_retry_topic_and_a_producers_own_marks_do_not_count() {
    for broker in Broker::both() {
        let endpoint = Endpoint::start().await;
        let spec = calling(&endpoint, "retry: {maxAttempts: 2, initialDelay: 10ms}\ndlt: {format: Raw}");
        let pipeline = pipeline(&unique("bytes"), &spec);
        broker.create_topics(&pipeline).await;
        let value: &[u8] = b"{\"answers\": [500], \"id\": \"b\"}";
        let headers = OwnedHeaders::new()
            .insert(Header { key: "tenant", value: Some("blue") })
            .insert(Header::<&str> { key: "empty", value: None })
            .insert(Header { key: "tenant", value: Some(&b"\xff\x00"[..]) })
            .insert(Header { key: "lazaret-attempts", value: Some("4000000000") })
            .insert(Header { key: "lazaret-due", value: Some("99999999999999") });
        let producer = producer(&broker.address());
        write(&producer, &pipeline.main.topic, Some(b"\x00\xff"), Some(value), Some(headers)).await;
        let engine = Engine::start(&broker.address(), &pipeline).await;
        engine.settled(1).await;
        assert_eq!(endpoint.calls_of("b").len(), 2);
        let retry = read_all(&broker.address(), &pipeline.retry.topic);
        let letters = dead_letters(&broker, &pipeline);
        assert_eq!((retry.len(), letters.len()), (1, 1));
        for record in [&retry[0], &letters[0]] {
            assert_eq!((record.key.as_deref(), record.value.as_deref()), (Some(&b"\x00\xff"[..]), Some(value)));
            let expected = [("tenant", Some(&b"blue"[..])), ("empty", None), ("tenant", Some(&b"\xff\x00"[..]))];
            for (have, (name, value)) in record.headers.iter().zip(expected) {
                assert_eq!((have.0.as_str(), have.1.as_deref()), (name, value));
            }
        }
        assert_eq!(
            (retry[0].header("lazaret-attempts"), letters[0].header("lazaret-attempts")),
            (Some("1"), Some("2"))
        );
        engine.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_a_key_are_processed_one_at_a_time_in_order_and_keys_side_by_side() {
    for broker in Broker::both() {
        let endpoint = Endpoint::start().await;
        let pipeline = pipeline(&unique("order"), &calling(&endpoint, "ordering: Key"));
        broker.create_topics(&pipeline).await;
        for n in 0..60 {
            let key = format!("k{}", n % 6);
            let order = json!({"id": format!("{n:03}"), "key": key, "pauseMs": (n * 7) % 20});
            write_json(&broker, &pipeline, Some(&key), &order).await;
        }
        let engine = Engine::start(&broker.address(), &pipeline).await;
        engine.settled(60).await;
        let calls = endpoint.calls();
        assert_eq!(calls.len(), 60);
        assert!(calls.iter().all(|call| call.beside == 0), "no two records of a key at once");
        for key in 0..6 {
            let of_key = calls.iter().filter(|call| call.json()["key"] == format!("k{key}"));
            assert!(of_key.map(|call| call.id()).is_sorted());
        }
        let overlaps = calls.windows(2).filter(|pair| pair[1].began < pair[0].ended).count();
        assert!(overlaps > 0, "keys run side by side");
        engine.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_due_later_does_not_hold_back_one_due_sooner() {
    for broker in Broker::both() {
        let endpoint = Endpoint::start().await;
        let retry = "retry: {strategy: Fixed, initialDelay: 50ms, topic: {partitions: 1}, rules: [\
            {when: value.slow, initialDelay: 30s, maxDelay: 30s}]}";
        let topic = format!("topic: {{name: {}}}\n", unique("sooner"));
        let pipeline = pipeline(&unique("sooner"), &(topic + &calling(&endpoint, retry)));
        broker.create_topics(&pipeline).await;
        let engine = Engine::start(&broker.address(), &pipeline).await;
        for (id, slow) in [("slow", true), ("quick", false)] {
            let order = json!({"id": id, "slow": slow, "answers": [503, 200]});
            write_json(&broker, &pipeline, None, &order).await;
            let routed = async || (engine.metrics(Stage::Main).retried.get() > u64::from(!slow)).then_some(());
            eventually("the record is in the retry topic", routed).await;
        }
        engine.settled(1).await;
        assert_eq!((endpoint.calls_of("quick").len(), endpoint.calls_of("slow").len()), (2, 1));
        let load = engine.metrics(Stage::Retry).assignment();
        assert_eq!(load.values().map(|load| load.pending()).sum::<usize>(), 1);
        engine.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_finished_above_the_committed_offset_is_not_processed_again_after_a_restart() {
    for broker in Broker::both() {
        let endpoint = Endpoint::start().await;
        let spec = calling(&endpoint, "consumer: {sessionTimeout: 6s, drainTimeout: 200ms}");
        let pipeline =
            pipeline(&unique("skip"), &format!("topic: {{name: {}, partitions: 1}}\n{spec}", unique("skip")));
        broker.create_topics(&pipeline).await;
        let engine = Engine::start(&broker.address(), &pipeline).await;
        write_json(&broker, &pipeline, Some("a"), &json!({"id": "held", "hold": true})).await;
        for n in 0..20 {
            let key = format!("k{n}");
            write_json(&broker, &pipeline, Some(&key), &json!({"id": key})).await;
        }
        engine.settled(20).await;
        engine.stop().await;
        let (offset, metadata) =
            committed(&broker.address(), &pipeline.main.group_id, &pipeline.main.topic)[&0].clone();
        assert_eq!(offset, 0, "the held record is not finished");
        assert!(!metadata.is_empty());
        endpoint.let_go();
        let calls = endpoint.count();
        let engine = Engine::start(&broker.address(), &pipeline).await;
        engine.settled(1).await;
        let skipped = async || (engine.metrics(Stage::Main).skipped.get() == 20).then_some(());
        eventually("the finished records are skipped", skipped).await;
        assert_eq!(engine.processed(), 1);
        assert!(endpoint.count() <= calls + 2, "at most the held record's two calls are new");
        assert!((0..20).all(|n| endpoint.calls_of(&format!("k{n}")).len() == 1));
        engine.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commit_metadata_that_is_not_ours_never_makes_a_record_count_as_finished() {
    for broker in Broker::both() {
        for metadata in ["written by something else", "1AAAAAAAAAAAA", "2AAAA"] {
            let pipeline =
                pipeline(&unique("foreign"), &format!("topic: {{name: {}, partitions: 1}}{RULES}", unique("foreign")));
            broker.create_topics(&pipeline).await;
            for amount in 0..5 {
                write_json(&broker, &pipeline, None, &json!({"amount": amount})).await;
            }
            commit(&broker.address(), &pipeline.main.group_id, &pipeline.main.topic, 0, 2, metadata);
            let engine = Engine::start(&broker.address(), &pipeline).await;
            engine.settled(3).await;
            assert_eq!(engine.stop().await.processed, 3, "the committed offset counts, what stands beside it does not");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gaps_of_transactions_and_their_aborted_records_stop_nothing() {
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
    let address = Broker::Kafka.address(); // the embedded broker knows no transactions
    let pipeline = pipeline(&unique("gaps"), &format!("topic: {{name: {}, partitions: 1}}{RULES}", unique("gaps")));
    Broker::Kafka.create_topics(&pipeline).await;
    let topic = pipeline.main.topic.to_string();
    let written = topic.clone();
    let transactional = tokio::task::spawn_blocking(move || {
        let mut config = rdkafka::ClientConfig::new();
        config.set("bootstrap.servers", crate::support::kafka()).set("transactional.id", &written);
        let producer: BaseProducer = config.create().unwrap();
        let timeout = Duration::from_secs(20);
        producer.init_transactions(timeout).unwrap();
        for round in 0..10 {
            producer.begin_transaction().unwrap();
            for _ in 0..5 {
                producer.send(BaseRecord::<(), _>::to(&written).payload("{\"amount\": 1}")).unwrap();
            }
            match round % 2 {
                0 => producer.commit_transaction(timeout).unwrap(),
                _ => {
                    producer.flush(timeout).unwrap();
                    producer.abort_transaction(timeout).unwrap();
                }
            }
        }
    });
    transactional.await.unwrap();
    let engine = Engine::start(&address, &pipeline).await;
    write_json(&Broker::Kafka, &pipeline, None, &json!({"amount": -1})).await;
    engine.settled(26).await;
    assert_eq!((engine.processed(), engine.dead_lettered()), (25, 1));
    engine.stop().await;
    assert!(everything_is_committed(&address, &pipeline.main.group_id, &topic));
    let counter = Counter::new(&Connection::new(&address)).unwrap();
    let dlt = pipeline.policy.default.dead_letter_topic.clone();
    let count = async || counter.count(vec![pipeline.main.topic.clone(), dlt.clone()]).await.unwrap().unwrap();
    assert_eq!(count().await, [(topic.clone(), 26), (dlt.to_string(), 1)].into(), "markers are no records");
    write_json(&Broker::Kafka, &pipeline, None, &json!({"amount": 1})).await;
    crate::support::topics::delete_records(&address, &topic, 0, 8).await;
    assert_eq!(count().await[&topic], 27 - 5, "of the first eight offsets one has a marker and two an aborted record");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_whose_offsets_went_back_is_read_anew_and_nothing_is_skipped() {
    let broker = Broker::Kafka;
    let pipeline = pipeline(&unique("back"), &format!("topic: {{name: {}, partitions: 1}}{RULES}", unique("back")));
    broker.create_topics(&pipeline).await;
    for _ in 0..3 {
        write_json(&broker, &pipeline, None, &json!({"amount": 1})).await;
    }
    // As after a topic was deleted and made again: what is committed lies beyond the end of the log.
    commit(&broker.address(), &pipeline.main.group_id, &pipeline.main.topic, 0, 1_000, "");
    let engine = Engine::start(&broker.address(), &pipeline).await;
    engine.settled(3).await;
    engine.stop().await;
    assert_eq!(committed(&broker.address(), &pipeline.main.group_id, &pipeline.main.topic)[&0].0, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_made_again_under_a_running_stage_is_read_from_its_begin_and_no_key_repeats() {
    let (broker, endpoint) = (Broker::Kafka, Endpoint::start().await);
    let spec = format!("topic: {{name: {}, partitions: 1}}\n", unique("anew"));
    let retry = "retry: {maxAttempts: 2, initialDelay: 10ms}";
    let pipeline = pipeline(&unique("anew"), &(spec + &calling(&endpoint, retry)));
    broker.create_topics(&pipeline).await;
    let engine = Engine::start(&broker.address(), &pipeline).await;
    for n in 0..3 {
        write_json(&broker, &pipeline, None, &json!({"id": format!("old-{n}")})).await;
    }
    engine.settled(3).await;
    topics::delete(kafka(), &pipeline.main.topic).await;
    topics::has(kafka(), &pipeline.main.topic, None).await;
    broker.create_topics(&pipeline).await;
    topics::has(kafka(), &pipeline.main.topic, Some(1)).await;
    for id in ["new-0", "new-1"] {
        write_json(&broker, &pipeline, None, &json!({"id": id, "answers": [503, 200]})).await;
    }
    engine.settled(5).await;
    engine.stop().await;
    let keys = |id: &str| -> Vec<_> {
        let calls = endpoint.calls_of(id).into_iter();
        calls.map(|call| call.headers["idempotency-key"].trim_matches('"').to_owned()).collect()
    };
    for (offset, (old, new)) in [("old-0", "new-0"), ("old-1", "new-1")].into_iter().enumerate() {
        let ([old], [new, again]) = (&keys(old)[..], &keys(new)[..]) else { panic!("{:?} {:?}", keys(old), keys(new)) };
        let place = format!("{}:0:{offset}:", pipeline.main.topic);
        assert!(old.starts_with(&place) && new.starts_with(&place) && old != new, "{old} {new}");
        assert_eq!(new, again, "the key is the same over attempts and stages");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_beyond_the_memory_cap_waits_in_kafka_and_then_flows_without_a_duplicate() {
    let _alone = HEAVY.acquire().await.unwrap();
    let broker = Broker::Kafka; // the embedded broker keeps too little for a backlog
    let endpoint = Endpoint::start().await;
    let topic = unique("backlog");
    let spec = format!("topic: {{name: {topic}, partitions: 2}}\nordering: Unordered\n");
    let pipeline = pipeline(&unique("backlog"), &(spec + &calling(&endpoint, "")));
    broker.create_topics(&pipeline).await;
    let producer = producer(&broker.address());
    let padding = "x".repeat(100_000);
    let writes = (0..1_200).map(|n| {
        let (producer, topic) = (&producer, &pipeline.main.topic);
        let value = json!({"id": n.to_string(), "hold": true, "padding": padding}).to_string();
        // In turn: a producer that may choose stays with one partition for a while, and the other may get too little to
        // fill its share of the cap.
        async move { write_to(producer, topic, n % 2, value.as_bytes()).await }
    });
    futures::future::join_all(writes).await;
    let engine = Engine::start(&broker.address(), &pipeline).await;
    let held = || {
        let assignment = engine.metrics(Stage::Main).assignment();
        assignment.values().map(|load| load.bytes()).sum::<usize>()
    };
    let cap = STAGE_BYTES;
    eventually("the cap is reached", async || (held() > cap * 9 / 10).then_some(())).await;
    let is_paused = async || {
        let assignment = engine.metrics(Stage::Main).assignment();
        assignment.values().all(|load| load.paused() == Some(Pause::Memory)).then_some(())
    };
    eventually("both partitions are paused", is_paused).await;
    // As much again would have come in meanwhile, were they not.
    let within = async || held() < cap + (8 << 20);
    assert!(stays(Duration::from_secs(1), "no more is held than the cap allows", within).await);
    endpoint.let_go();
    engine.settled(1_200).await;
    assert_eq!(endpoint.count(), 1_200, "a pause neither loses a record nor brings it twice");
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_dead_letters_into_a_topic_of_small_records_keeps_every_value() {
    let broker = Broker::Kafka; // the embedded broker takes records of any size
    let spec = format!(
        "topic: {{name: {}, partitions: 1}}\nprocessor: {{rules: [{{when: value.amount < 0, error: 'E: bad'}}, \
         {{when: value.amount == 0, error: 'E: later', retryable: true}}]}}\n\
         retry: {{maxAttempts: 2, initialDelay: 10ms, topic: {{config: {{max.message.bytes: 20000}}}}}}\n\
         dlt: {{topic: {{partitions: 1, config: {{max.message.bytes: 20000}}}}}}\ncircuitBreaker: {{enabled: false}}",
        unique("burst")
    );
    let pipeline = pipeline(&unique("burst"), &spec);
    broker.create_topics(&pipeline).await;
    let producer = producer(&broker.address());
    let writes = (0..300).map(|n| {
        let (producer, topic) = (&producer, &pipeline.main.topic);
        let value = json!({"amount": if n % 2 == 0 { -1 } else { 0 }, "padding": "x".repeat(500)}).to_string();
        async move { write(producer, topic, None, Some(value.as_bytes()), None).await }
    });
    futures::future::join_all(writes).await;
    let engine = Engine::start(&broker.address(), &pipeline).await;
    engine.settled(300).await;
    let letters = dead_letters(&broker, &pipeline);
    assert_eq!(letters.len(), 300);
    for letter in letters.iter().map(Seen::json) {
        assert!(letter.get("valueOmitted").is_none(), "{letter}");
        assert_eq!(letter["errorType"], "E");
    }
    engine.stop().await;
}
