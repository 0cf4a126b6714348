//! Partitions that change hands, and stages that stop.

use std::time::Duration;

use lazaret::domain::pipeline::Pipeline;
use lazaret::domain::record::provenance::Stage;
use lazaret::kafka::embedded::EmbeddedBroker;
use rdkafka::producer::FutureRecord;
use serde_json::{Value, json};

use crate::support::engine::Engine;
use crate::support::pipeline::pipeline;
use crate::support::processor::{Endpoint, now};
use crate::support::topics::{producer, read_all, write, write_to};
use crate::support::{Broker, HEAVY, eventually, kafka, unique};

const RULES: &str = "processor: {rules: [{when: value.amount < 0, error: 'E: bad'}]}";

/// The most calls that a stage has under way.
const AT_ONCE: usize = 16;

fn calling(endpoint: &Endpoint, more: &str) -> String {
    format!("processor: {{http: {{url: '{}'}}, maxInFlight: {AT_ONCE}}}\n{more}", endpoint.url)
}

async fn write_json(broker: &Broker, pipeline: &Pipeline, value: &Value) {
    let producer = producer(&broker.address());
    write(&producer, &pipeline.main.topic, None, Some(value.to_string().as_bytes()), None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_what_runs_and_starts_nothing_more() {
    for broker in Broker::both() {
        let endpoint = Endpoint::start().await;
        let pipeline = pipeline(&unique("drain"), &calling(&endpoint, "ordering: Partition"));
        broker.create_topics(&pipeline).await;
        for n in 0..30 {
            write_json(&broker, &pipeline, &json!({"id": n.to_string(), "pauseMs": 300})).await;
        }
        let engine = Engine::start(&broker.address(), &pipeline).await;
        let running = async || (engine.metrics(Stage::Main).in_flight.get() > 0).then_some(());
        eventually("a call is under way", running).await;
        let first = engine.stop().await.processed;
        assert!((1..30).contains(&first), "{first}");
        assert_eq!(endpoint.count() as u64, first, "no call was cut off and none is unaccounted for");
        let engine = Engine::start(&broker.address(), &pipeline).await;
        engine.settled(30 - first).await;
        engine.stop().await;
        assert_eq!(endpoint.count(), 30, "each record was processed once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_that_is_stopped_while_it_joins_its_group_ends_cleanly() {
    let broker = EmbeddedBroker::start().unwrap();
    broker.answer_after(Duration::from_millis(200)).unwrap();
    let (address, broker) = (broker.connection().bootstrap_servers().to_owned(), Broker::Embedded(broker));
    // Somewhere between the first request to the coordinator and the first record.
    for delay in (100..1_200).step_by(200) {
        let pipeline = pipeline(&unique("joins"), &format!("{RULES}\nconsumer: {{drainTimeout: 20s}}"));
        broker.create_topics(&pipeline).await;
        let engine = Engine::begin(&address, &pipeline, &[Stage::Main]).await;
        tokio::time::sleep(Duration::from_millis(delay)).await;
        assert!(engine.stop().await.clean, "stopped after {delay} ms");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_finished_during_a_long_drain_is_not_processed_again() {
    for broker in Broker::both() {
        let endpoint = Endpoint::start().await;
        let topic = unique("long-drain");
        let spec = format!("topic: {{name: {topic}, partitions: 2}}\nordering: Partition\n");
        let pipeline = pipeline(&unique("long-drain"), &(spec + &calling(&endpoint, "")));
        broker.create_topics(&pipeline).await;
        let engine = Engine::start(&broker.address(), &pipeline).await;
        let producer = producer(&broker.address());
        // Partition 0 keeps the drain waiting past two commit intervals; partition 1 has long been done by then.
        write_to(&producer, &topic, 0, json!({"id": "slow", "pauseMs": 2_000}).to_string().as_bytes()).await;
        write_to(&producer, &topic, 1, json!({"id": "quick"}).to_string().as_bytes()).await;
        engine.settled(1).await;
        let running = async || (engine.metrics(Stage::Main).in_flight.get() > 0).then_some(());
        eventually("the slow call is under way", running).await;
        assert!(engine.stop().await.clean);
        let engine = Engine::start(&broker.address(), &pipeline).await;
        write_to(&producer, &topic, 0, json!({"id": "after"}).to_string().as_bytes()).await;
        write_to(&producer, &topic, 1, json!({"id": "after"}).to_string().as_bytes()).await;
        engine.settled(2).await;
        for (id, calls) in [("slow", 1), ("quick", 1), ("after", 2)] {
            assert_eq!(endpoint.calls_of(id).len(), calls, "{id}");
        }
        engine.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_was_paused_when_it_was_taken_away_is_read_on_when_it_comes_back() {
    let _alone = HEAVY.acquire().await.unwrap();
    let broker = Broker::Kafka; // the embedded broker keeps too little for a backlog
    let endpoint = Endpoint::start().await;
    let topic = unique("paused");
    let spec = format!("topic: {{name: {topic}, partitions: 2}}\nordering: Unordered\n");
    let more = "consumer: {sessionTimeout: 6s, drainTimeout: 200ms}";
    let pipeline = pipeline(&unique("paused"), &(spec + &calling(&endpoint, more)));
    broker.create_topics(&pipeline).await;
    let producer = producer(&broker.address());
    let padding = "x".repeat(100_000);
    let writes = (0..1_000).map(|n| {
        let value = json!({"id": n.to_string(), "hold": true, "padding": padding}).to_string();
        let (producer, topic) = (&producer, &topic);
        async move { write_to(producer, topic, n % 2, value.as_bytes()).await }
    });
    futures::future::join_all(writes).await;
    let first = Engine::start(&broker.address(), &pipeline).await;
    let held = || {
        let assignment = first.metrics(Stage::Main).assignment();
        assignment.values().map(|load| load.bytes()).sum::<usize>()
    };
    let cap = lazaret::domain::flow::load::STAGE_BYTES;
    eventually("both partitions are full", async || (held() > cap * 9 / 10).then_some(())).await;
    let second = Engine::start_stages(&broker.address(), &pipeline, &[Stage::Main]).await;
    assert_eq!(second.stop().await.processed, 0, "what it had begun was held, too");
    let both = async || (first.metrics(Stage::Main).assignment().len() == 2).then_some(());
    eventually("both partitions are back", both).await;
    endpoint.let_go();
    first.settled(1_000).await;
    let summary = first.stop().await;
    assert_eq!((summary.clean, summary.processed), (true, 1_000), "no record is processed twice");
    let calls: Vec<_> = endpoint.calls().iter().map(|call| call.id()).collect();
    let ids: std::collections::BTreeSet<_> = calls.iter().collect();
    // What ran when a partition was taken away, from the one and then from the other, was cut off and is called again.
    assert_eq!(ids.len(), 1_000);
    assert!(calls.len() <= 1_000 + 2 * AT_ONCE, "{} calls", calls.len());
}

/// However a group deals out its partitions, each record is processed once and a rebalance counts once.
async fn each_record_is_processed_once_and_a_rebalance_counts_once(way: &str) {
    let endpoint = Endpoint::start().await;
    let topic = unique("dealt");
    let spec =
        format!("topic: {{name: {topic}, partitions: 4}}\nconsumer: {{sessionTimeout: 6s, drainTimeout: 4s, {way}}}\n");
    let pipeline = pipeline(&topic, &(spec + &calling(&endpoint, "ordering: Key")));
    Broker::Kafka.create_topics(&pipeline).await;
    let producer = producer(kafka());
    let write_some = async |from: i32| {
        for n in from..from + 100 {
            let value = json!({"id": n.to_string(), "pauseMs": 20, "answers": [if n % 10 == 0 { 422 } else { 200 }]});
            write_to(&producer, &topic, n % 4, value.to_string().as_bytes()).await;
        }
    };
    let start = async || Engine::start_stages(kafka(), &pipeline, &[Stage::Main]).await;
    let assigned = |engine: &Engine| engine.metrics(Stage::Main).assignment().len();
    let first = start().await;
    write_some(0).await;
    let second = start().await;
    write_some(100).await;
    let shared = async || (assigned(&first) == 2 && assigned(&second) == 2).then_some(());
    eventually("the partitions are shared", shared).await;
    write_some(200).await;
    assert!(second.stop().await.clean, "{way}");
    write_some(300).await;
    eventually("the first one has all of them again", async || (assigned(&first) == 4).then_some(())).await;
    let all = async || {
        let letters = read_all(kafka(), &pipeline.policy.default.dead_letter_topic).len();
        (endpoint.count() + letters >= 440).then_some(())
    };
    eventually("all records are settled", all).await;
    assert_eq!(first.metrics(Stage::Main).rebalances.get(), 3, "{way}: joined, gave up two, got them back");
    assert!(first.stop().await.clean, "{way}");
    let mut ids: Vec<_> = endpoint.calls().iter().map(|call| call.id()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((ids.len(), endpoint.count()), (400, 400), "{way}");
    assert_eq!(read_all(kafka(), &pipeline.policy.default.dead_letter_topic).len(), 40, "{way}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_record_is_processed_once_where_cooperative_sticky_deals_out_partitions() {
    each_record_is_processed_once_and_a_rebalance_counts_once("assignor: CooperativeSticky").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_record_is_processed_once_where_range_deals_out_partitions() {
    each_record_is_processed_once_and_a_rebalance_counts_once("assignor: Range").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_record_is_processed_once_where_round_robin_deals_out_partitions() {
    each_record_is_processed_once_and_a_rebalance_counts_once("assignor: RoundRobin").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_record_is_processed_once_where_the_broker_deals_out_partitions() {
    each_record_is_processed_once_and_a_rebalance_counts_once("groupProtocol: Consumer").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_record_is_processed_once_where_members_are_static() {
    each_record_is_processed_once_and_a_rebalance_counts_once("staticMembership: true").await;
}

/// How long the call takes that a rebalance waits for.
const LONG_CALL: Duration = Duration::from_secs(8);

/// The longest time in which nothing was called of the partitions that a worker keeps, while it waits for a call in each of those
/// that it gives up.
async fn longest_gap_of_kept_partitions(way: &str) -> Duration {
    let endpoint = Endpoint::start().await;
    let topic = unique("kept");
    let spec = format!("topic: {{name: {topic}, partitions: 4}}\nconsumer: {{drainTimeout: 20s, {way}}}\n");
    let pipeline = pipeline(&topic, &(spec + &calling(&endpoint, "ordering: Key")));
    Broker::Kafka.create_topics(&pipeline).await;
    let producer = producer(kafka());
    let first = Engine::start_stages(kafka(), &pipeline, &[Stage::Main]).await;
    for partition in 0..4 {
        let slow = json!({"id": format!("slow {partition}"), "hold": true}).to_string();
        let record = FutureRecord::to(&topic).partition(partition).key("slow").payload(&slow);
        producer.send(record, Duration::from_secs(10)).await.map_err(|(error, _)| error).unwrap();
    }
    eventually("a call is under way in each partition", async || (endpoint.running() == 4).then_some(())).await;
    // As long as this goes on, each partition has something to do.
    let stream = async || {
        for n in 0.. {
            for partition in 0..4 {
                let value = json!({"id": format!("quick {partition} {n}")}).to_string();
                write_to(&producer, &topic, partition, value.as_bytes()).await;
            }
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
    };
    let assigned = |engine: &Engine| engine.metrics(Stage::Main).assignment();
    let rebalance = async {
        let second = Engine::begin(kafka(), &pipeline, &[Stage::Main]).await;
        eventually("the first one gives up two", async || (assigned(&first).len() == 2).then_some(())).await;
        tokio::time::sleep(LONG_CALL).await;
        endpoint.let_go();
        eventually("the second one has two", async || (assigned(&second).len() == 2).then_some(())).await;
        second
    };
    let begin = now();
    let second = tokio::select! {
        second = rebalance => second,
        () = stream() => unreachable!("it never ends"),
    };
    let end = now();
    let gap = |partition: &i32| {
        let begun = endpoint.calls().into_iter().filter(|call| call.id().starts_with(&format!("quick {partition} ")));
        let mut times: Vec<_> = begun.map(|call| call.began).filter(|at| (begin..end).contains(at)).collect();
        times.extend([begin, end]);
        times.sort_unstable();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    };
    let longest = assigned(&first).keys().map(gap).max().unwrap();
    assert!(first.stop().await.clean && second.stop().await.clean, "{way}");
    println!("{way}: {longest} ms");
    Duration::from_millis(longest as u64)
}

/// Three times of what is promised.
const KEPT: Duration = Duration::from_millis(1_500);

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_are_kept_are_served_while_a_rebalance_waits_for_a_long_call() {
    let gap = longest_gap_of_kept_partitions("assignor: CooperativeSticky").await;
    assert!(gap < KEPT, "{gap:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_are_kept_are_served_while_the_brokers_rebalance_waits_for_a_long_call() {
    let gap = longest_gap_of_kept_partitions("groupProtocol: Consumer").await;
    assert!(gap < KEPT, "{gap:?}");
}
