//! Spans of attempts, as a collector gets them, on the embedded broker and on Apache Kafka.

use std::collections::BTreeSet;
use std::time::Duration;

use lazaret::domain::pipeline::Pipeline;
use lazaret::domain::record::provenance::Stage;
use rdkafka::message::{Header, OwnedHeaders};
use serde_json::json;

use crate::support::collector::{Collector, Sent};
use crate::support::engine::Engine;
use crate::support::lazaret::Lazaret;
use crate::support::pipeline::pipeline;
use crate::support::ports::closed_port;
use crate::support::processor::Endpoint;
use crate::support::topics::{Seen, producer, read_all, write};
use crate::support::{Broker, unique};

/// The span of whoever produced a record.
const PRODUCED: (&str, &str) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");

/// A pipeline whose records fail at `endpoint` as they say, up to three times.
fn traced(endpoint: &Endpoint, tracing: &str) -> Pipeline {
    let spec = format!(
        "processor: {{http: {{url: '{}'}}}}\nretry: {{maxAttempts: 3, initialDelay: 50ms}}\ndlt: {{format: Raw}}\n{tracing}",
        endpoint.url
    );
    pipeline(&unique("traced"), &spec)
}

/// Writes a record that is answered with these statuses, and says that it was produced in a span.
async fn produce(broker: &Broker, pipeline: &Pipeline, id: &str, answers: &[u16], traceparent: Option<String>) {
    let value = json!({"id": id, "answers": answers}).to_string();
    let header = |value: &String| {
        let parent = Header { key: "traceparent", value: Some(value.as_str()) };
        OwnedHeaders::new().insert(parent).insert(Header { key: "tracestate", value: Some("shop=1") })
    };
    let headers = traceparent.as_ref().map(header);
    write(&producer(&broker.address()), &pipeline.main.topic, None, Some(value.as_bytes()), headers).await;
}

fn produced(flags: &str) -> Option<String> {
    Some(format!("00-{}-{}-{flags}", PRODUCED.0, PRODUCED.1))
}

fn dead_letters(broker: &Broker, pipeline: &Pipeline) -> Vec<Seen> {
    read_all(&broker.address(), &pipeline.policy.default.dead_letter_topic)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_attempt_goes_on_with_the_producers_trace_and_a_retry_has_a_link_to_it() {
    for broker in Broker::both() {
        let (collector, endpoint) = (Collector::start().await, Endpoint::start().await);
        let pipeline = traced(&endpoint, &format!("tracing: {{endpoint: '{}'}}", collector.endpoint));
        broker.create_topics(&pipeline).await;
        let engine = Engine::start(&broker.address(), &pipeline).await;
        produce(&broker, &pipeline, "1", &[503, 503, 503], produced("01")).await;
        engine.settled(1).await;
        engine.stop().await;
        let spans = collector.has(3).await;
        let [first, second, third] = &spans[..] else { panic!("{spans:?}") };

        assert_eq!((&*first.trace, &*first.parent), PRODUCED);
        assert!(first.links.is_empty());
        for retry in [second, third] {
            assert_eq!((&*retry.parent, &retry.links), ("", &vec![(first.trace.clone(), first.id.clone())]));
        }
        assert!(first.trace != second.trace && second.trace != third.trace && third.trace != first.trace);

        // The endpoint goes on with each.
        let calls = endpoint.calls_of("1");
        let seen: Vec<_> = calls.iter().map(|call| call.headers["traceparent"].clone()).collect();
        assert_eq!(seen, spans.iter().map(|span| span.traceparent()).collect::<Vec<_>>());
        assert_eq!((&calls[0].headers["tracestate"], calls[1].headers.get("tracestate")), (&"shop=1".to_owned(), None));

        let decisions: Vec<_> = spans.iter().map(|span| &*span.attributes["lazaret.decision"]).collect();
        assert_eq!(decisions, ["Retry", "Retry", "DeadLetter"]);
        assert_eq!(third.attributes["lazaret.reason"], "AttemptsExhausted");
        assert!(spans.iter().all(|span| span.failed && span.attributes["error.type"] == "HTTP 503"), "{spans:?}");
        let main = &pipeline.main.topic;
        assert_eq!((&*first.name, &*second.name), (&*format!("process {main}"), &*format!("process {main}.retry")));
        assert_eq!((&*first.service, &*second.service), (&*format!("{main}-consumer"), &*format!("{main}-retry")));
        let ids: Vec<_> = spans.iter().map(|span| &span.attributes["messaging.message.id"]).collect();
        assert!(ids[0].starts_with(&**main) && ids.iter().all(|id| *id == ids[0]), "{ids:?}");

        // The dead letter leads to the first attempt, and keeps what its producer wrote.
        let [letter] = &dead_letters(&broker, &pipeline)[..] else { panic!() };
        assert_eq!(letter.header("lazaret-traceparent"), Some(first.traceparent().as_str()));
        assert_eq!(letter.header("traceparent"), produced("01").as_deref());
        assert!(!format!("{spans:?}").contains("answers"), "a payload is in a span");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_without_a_trace_gets_one_and_its_retry_still_has_a_link() {
    let (broker, collector, endpoint) = (Broker::Kafka, Collector::start().await, Endpoint::start().await);
    let pipeline = traced(&endpoint, &format!("tracing: {{endpoint: '{}'}}", collector.endpoint));
    broker.create_topics(&pipeline).await;
    let engine = Engine::start(&broker.address(), &pipeline).await;
    for (id, traceparent) in [("none", None), ("nonsense", Some("00-nonsense-01".to_owned()))] {
        produce(&broker, &pipeline, id, &[503, 200], traceparent).await;
    }
    engine.settled(2).await;
    engine.stop().await;
    let spans = collector.has(4).await;
    for first in &spans[..2] {
        assert_eq!((first.attempt(), &*first.parent, first.links.len()), (1, "", 0));
        let link = vec![(first.trace.clone(), first.id.clone())];
        assert_eq!(spans[2..].iter().filter(|retry| retry.links == link && retry.trace != first.trace).count(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_attempts_at_a_record_are_sent_or_none() {
    let (broker, collector, endpoint) = (Broker::Kafka, Collector::start().await, Endpoint::start().await);
    let none = format!("tracing: {{endpoint: '{}', samplingRatio: 0}}", collector.endpoint);
    let pipeline = traced(&endpoint, &none);
    broker.create_topics(&pipeline).await;
    let engine = Engine::start(&broker.address(), &pipeline).await;
    produce(&broker, &pipeline, "not-chosen", &[503, 200], None).await;
    produce(&broker, &pipeline, "not-sent-by-its-producer", &[503, 200], produced("00")).await;
    produce(&broker, &pipeline, "sent-by-its-producer", &[503, 200], produced("01")).await;
    engine.settled(3).await;
    engine.stop().await;
    let spans = collector.has(2).await;
    let [first, retry] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!((&*first.trace, &retry.links), (PRODUCED.0, &vec![(first.trace.clone(), first.id.clone())]));
    assert_eq!((first.failed, retry.failed, &*retry.attributes["lazaret.decision"]), (true, false, "Done"));
    // Who is called is told that nothing is sent.
    let calls = endpoint.calls_of("not-chosen");
    assert!(calls.iter().all(|call| call.headers["traceparent"].ends_with("-00")), "{calls:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_or_silent_costs_spans_and_nothing_else() {
    let (broker, endpoint) = (Broker::Kafka, Endpoint::start().await);
    // Nobody listens at the one, and at the other connections are taken and no request is.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for collector in [closed_port(), silent.local_addr().unwrap().to_string()] {
        let pipeline = traced(&endpoint, &format!("tracing: {{endpoint: 'http://{collector}'}}"));
        broker.create_topics(&pipeline).await;
        let engine = Engine::start(&broker.address(), &pipeline).await;
        for n in 0..100 {
            produce(&broker, &pipeline, &n.to_string(), &[if n % 10 == 0 { 400 } else { 200 }], None).await;
        }
        engine.settled(100).await;
        // A request may take ten seconds, and a stage that stops waits for none of them.
        let stopped = tokio::time::timeout(Duration::from_secs(8), engine.stop()).await;
        assert!(stopped.expect("nobody waits for the collector").clean);
        assert_eq!(dead_letters(&broker, &pipeline).len(), 10);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_fails_is_a_first_attempt_that_does_not_count() {
    let (broker, collector, endpoint) = (Broker::Kafka, Collector::start().await, Endpoint::start().await);
    let breaker = "circuitBreaker: {minimumCalls: 1, openFor: 1s, halfOpenCalls: 1}";
    let pipeline = traced(&endpoint, &format!("{breaker}\ntracing: {{endpoint: '{}'}}", collector.endpoint));
    broker.create_topics(&pipeline).await;
    let engine = Engine::start_stages(&broker.address(), &pipeline, &[Stage::Main]).await;
    produce(&broker, &pipeline, "opens", &[400], None).await;
    engine.settled(1).await;
    produce(&broker, &pipeline, "probe", &[400], None).await;
    let spans = collector.has(4).await;
    engine.stop().await;
    let of = |id: &str| spans.iter().filter(|span| span.attributes["messaging.message.id"] == id).collect::<Vec<_>>();
    let ids: BTreeSet<_> = spans.iter().map(|span| span.attributes["messaging.message.id"].as_str()).collect();
    let probed = ids.into_iter().map(of).find(|spans| spans.len() > 1).expect("a record was tried more than once");
    let decisions: Vec<_> = probed.iter().map(|span| &*span.attributes["lazaret.decision"]).collect();
    let (first, later): (Vec<&Sent>, Vec<&Sent>) = probed.iter().partition(|span| span.links.is_empty());
    let [first] = first[..] else { panic!("{probed:?}") };
    let link = vec![(first.trace.clone(), first.id.clone())];
    assert!(later.iter().all(|span| span.links == link), "{probed:?}");
    assert!(probed.iter().all(|span| span.attempt() == 1) && decisions.contains(&"Probe"), "{decisions:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_turns_it_on_and_a_protocol_that_is_not_spoken_is_said() {
    let collector = Collector::start().await;
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint.as_str());
    let run = |protocol| {
        let environment = [endpoint, ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol), ("OTEL_SERVICE_NAME", "mine")];
        Lazaret::start_with(&["dev", "--listen", "127.0.0.1:0", "examples/orders.yaml"], &environment)
    };
    let mut refused = run("grpc");
    let line = refused.wait_for("attempts are not traced");
    assert!(line.contains("`OTEL_EXPORTER_OTLP_PROTOCOL` is `grpc`") && line.contains("http/protobuf"), "{line}");
    drop(refused);

    let mut traced = run("http/protobuf");
    traced.wait_for("Try next:");
    let api = traced.output().split_whitespace().find(|word| word.starts_with("http://")).unwrap().to_owned();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let post = client.post(format!("{api}/api/v1/orders")).header("traceparent", produced("01").unwrap());
    let answer = post.header("tracestate", "shop=1").body(r#"{"orderId": "ORD-1", "amount": 5}"#).send().await.unwrap();
    assert_eq!(answer.status(), 202);
    let spans = collector.has(1).await;
    assert_eq!((&*spans[0].service, &*spans[0].trace, &*spans[0].parent), ("mine", PRODUCED.0, PRODUCED.1));
}
