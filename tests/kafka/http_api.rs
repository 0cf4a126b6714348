//! The worker's HTTP API over a real socket, against a broker in this process.
//!
//! Every answer that a test gets is checked against the OpenAPI document that the API serves: its status must be
//! documented for that path, its content type and body must be what the document says.

mod bed;
mod totals;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use lazaret::domain::flow::load::Load;
use lazaret::domain::record::dead_letter::Reason;
use lazaret::domain::time::Timestamp;
use lazaret::kafka::connection::Connection;
use lazaret::kafka::embedded::EmbeddedBroker;
use lazaret::kafka::observer::Reachability;
use lazaret::worker::attempt::processor::FaultSwitch;
use lazaret::worker::clock;
use lazaret::worker::metrics::BreakerView;
use lazaret::worker::serve::peers::Peers;
use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::types::RDKafkaRespErr;
use serde_json::json;

use self::bed::{Bed, CLOSED, OPEN};
use crate::support::engine::Engine;
use crate::support::lazaret::Lazaret;
use crate::support::pipeline::pipeline;
use crate::support::ports::closed_port;
use crate::support::{eventually, eventually_within, topics};

const SWITCH: &str = "/api/v1/config/simulate-transient-error";

#[tokio::test]
async fn every_documented_answer_can_be_had() {
    let (bed, away) = (Bed::start(OPEN).await, Bed::without_broker(OPEN).await);
    bed.get("/health").await.is(200);
    bed.get("/healthz").await.is(200);
    bed.get("/readyz").await.is(200);
    bed.get("/metrics").await.is(200);
    bed.get("/api/v1/stats").await.is(200);
    bed.get("/api/v1/stats?scope=all").await.is(400);
    bed.get("/api/v1/dlt/count").await.is(200);
    bed.post("/api/v1/orders", r#"{"orderId": "a"}"#).await.is(202);
    bed.post("/api/v1/orders", "").await.is(400);
    bed.post("/api/v1/nothing", "{}").await.is(404);
    bed.post("/api/v1/small", " ".repeat(1025)).await.is(413);
    bed.post("/api/v1/orders", "{}").await.is(422);
    bed.post(&format!("{SWITCH}?enabled=true"), "").await.is(200);
    bed.post(SWITCH, "").await.is(400);
    bed.get(SWITCH).await.is(200);
    let closed = Bed::without_broker(CLOSED).await.merge_into(&bed);
    closed.post(SWITCH, "").await.is(404);
    closed.get(SWITCH).await.is(404);
    let away = away.merge_into(&bed);
    away.get("/health").await.is(503);
    away.get("/readyz").await.is(503);
    away.get("/api/v1/dlt/count").await.is(503);
    away.post("/api/v1/orders", r#"{"orderId": "a"}"#).await.is(503);
    assert_eq!(bed.documented().difference(&bed.seen()).collect::<Vec<_>>(), Vec::<&bed::Documented>::new());
}

#[tokio::test]
async fn a_posted_record_is_written_byte_for_byte_under_its_key() {
    let bed = Bed::start(OPEN).await;
    let body = "{ \"orderId\" : \"ORD-1\",\n \"amount\": 1.50, \"note\": \"é\" }\n";
    let answer = bed.post("/api/v1/orders", body).await.is(202);
    let record = bed.read_back(&answer).await;
    assert_eq!(record.value.as_deref(), Some(body.as_bytes()));
    assert_eq!(record.key.as_deref(), Some(b"ORD-1".as_slice()));
    assert!(record.headers.is_empty());
    let next = bed.post("/api/v1/orders", body).await.is(202);
    assert_eq!(next.body["partition"], answer.body["partition"], "same key, same partition");
    assert_eq!(next.body["offset"], answer.body["offset"].as_i64().unwrap() + 1);
}

#[tokio::test]
async fn without_a_key_expression_or_with_a_null_key_a_record_has_no_key() {
    let bed = Bed::start(OPEN).await;
    for (path, body) in [("/api/v1/small", "[1]"), ("/api/v1/orders", r#"{"orderId": null}"#)] {
        let answer = bed.post(path, body).await.is(202);
        assert_eq!(bed.read_back(&answer).await.key, None, "{path}");
    }
    for body in ["null", "7", "\"text\"", "true", "[]"] {
        bed.post("/api/v1/small", body).await.is(202);
    }
}

#[tokio::test]
async fn of_the_request_headers_only_the_trace_goes_on() {
    let bed = Bed::start(OPEN).await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let request = bed.request("POST", "/api/v1/small").body("1").header("x-other", "x").header("traceparent", trace);
    let answer = bed.send(request, "POST", "/api/v1/small").await.is(202);
    let headers = bed.read_back(&answer).await.headers;
    assert_eq!(headers.iter().map(|h| h.name.as_str()).collect::<Vec<_>>(), ["traceparent"]);
    assert_eq!(headers[0].value.as_deref(), Some(trace.as_bytes()));
    // Several lines of its state are one list, and without a trace they say nothing.
    let with_state = |request: reqwest::RequestBuilder| request.header("tracestate", "a=1").header("tracestate", "b=2");
    let request = bed.request("POST", "/api/v1/small").body("1");
    let answer = bed.send(with_state(request.header("traceparent", trace)), "POST", "/api/v1/small").await.is(202);
    let headers = bed.read_back(&answer).await.headers;
    assert_eq!(headers.iter().map(|h| h.name.as_str()).collect::<Vec<_>>(), ["traceparent", "tracestate"]);
    assert_eq!(headers[1].value.as_deref(), Some(b"a=1,b=2".as_slice()));
    let request = with_state(bed.request("POST", "/api/v1/small").body("1"));
    let answer = bed.send(request, "POST", "/api/v1/small").await.is(202);
    assert!(bed.read_back(&answer).await.headers.is_empty());
}

#[tokio::test]
async fn a_large_body_is_accepted_up_to_the_limit() {
    let bed = Bed::start(OPEN).await;
    let body = format!(r#"{{"orderId": "big", "text": "{}"}}"#, "x".repeat(900 * 1024));
    let answer = bed.post("/api/v1/orders", body.clone()).await.is(202);
    assert_eq!(bed.read_back(&answer).await.value.as_deref(), Some(body.as_bytes()));
    bed.post("/api/v1/small", format!("{:1024}", 1)).await.is(202);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_whether_or_not_it_says_its_length() {
    let bed = Bed::start(OPEN).await;
    for size in [(1 << 20) + 1, 3 << 20] {
        let answer = bed.post("/api/v1/orders", " ".repeat(size)).await.is(413);
        answer.details("1048576 bytes that `spec.ingress.maxBytes` allows");
    }
    let head = "POST /api/v1/small HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    let answer = bed.raw(&format!("{head}401\r\n{:1025}\r\n0\r\n\r\n", 1)).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("the 1024 bytes"), "{answer}");
    let head = "POST /api/v1/small HTTP/1.1\r\nhost: x\r\nconnection: close\r\nexpect: 100-continue\r\n";
    let answer = bed.raw(&format!("{head}content-length: 1025\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "nothing need be sent: {answer}");
}

#[tokio::test]
async fn a_body_that_is_not_json_is_refused_with_the_place_of_the_mistake() {
    let bed = Bed::start(OPEN).await;
    for (body, place) in [
        (b"{\"orderId\": \"a\",\n  amount}".as_slice(), "line 2 column 3"),
        (b"{\"orderId\": \"a\"} x", "line 1 column 18"),
        (b"{\"orderId\": \"a\",", "line 1 column 16"),
        (b"", "line 1 column 0"),
        (b"[1,\n \"\xff\xfe\"]", "not UTF-8 at line 2 column 3"),
        (b"\xff", "not UTF-8 at line 1 column 1"),
        (b"orderId=a&amount=1", "line 1 column 1"),
    ] {
        let answer = bed.post("/api/v1/orders", body).await.is(400);
        answer.details("the body is not JSON");
        answer.details(place);
    }
}

#[tokio::test]
async fn a_body_without_the_field_that_makes_the_key_is_refused() {
    let bed = Bed::start(OPEN).await;
    for body in [r#"{"amount": 1}"#, r#"{"orderId": [1]}"#] {
        bed.post("/api/v1/orders", body).await.is(422).details("`value.orderId`");
    }
}

#[tokio::test]
async fn only_the_main_topics_of_pipelines_with_ingress_are_open() {
    let bed = Bed::start(OPEN).await;
    for path in ["/api/v1/orders.retry", "/api/v1/orders.dlt", "/api/v1/dlt", "/api/v1/%FF", "/api/v1/a%2Fb"] {
        bed.post(path, "{}").await.is(404).details("topics that do: orders, small, stats");
    }
    bed.post("/api/v1/closed", "{}").await.is(404).details("pipeline `closed` takes no records over HTTP");
    let closed = Bed::without_broker(CLOSED).await;
    closed.post("/api/v1/other", "{}").await.is(404).details("none, `spec.ingress.enabled` is off");
}

#[tokio::test]
async fn a_topic_may_be_called_like_a_path_of_the_api() {
    let bed = Bed::start(OPEN).await;
    let answer = bed.post("/api/v1/stats", "{}").await.is(202);
    assert_eq!((&answer.body["topic"], &answer.body["offset"]), (&json!("stats"), &json!(0)));
}

#[tokio::test]
async fn while_kafka_is_away_a_record_is_refused_within_the_delivery_timeout() {
    let bed = Bed::without_broker(OPEN).await;
    let begin = Instant::now();
    let answer = bed.post("/api/v1/orders", r#"{"orderId": "a"}"#).await.is(503);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    answer.details(&format!("Kafka at {} cannot be reached: connection refused", bed.bootstrap_servers));
    assert_eq!(answer.header("retry-after"), "5");

    bed.kafka.send_replace(Reachability::Reachable); // not noticed yet
    let answer = bed.post("/api/v1/orders", r#"{"orderId": "a"}"#).await.is(503);
    answer.details(&format!("Kafka at {} did not acknowledge the record", bed.bootstrap_servers));
}

#[tokio::test]
async fn a_broker_that_goes_away_is_noticed_at_the_next_record() {
    let mut bed = Bed::start(OPEN).await;
    bed.post("/api/v1/small", "1").await.is(202);
    bed.broker.take();
    bed.post("/api/v1/small", "2").await.is(503);
    bed.get("/api/v1/dlt/count").await.is(503).details(&bed.bootstrap_servers);
    bed.get("/healthz").await.is(200);
}

#[tokio::test]
async fn a_topic_that_kafka_does_not_have_is_named() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.topic_error("small", RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART).unwrap();
    let bed = Bed::at(Connection::new(cluster.bootstrap_servers()), OPEN, |_| {}).await;
    bed.post("/api/v1/small", "1").await.is(503).details("topic `small` does not exist in Kafka at 127.0.0.1:");
}

#[tokio::test]
async fn a_record_that_is_too_large_for_kafka_is_the_clients_to_mend() {
    let broker = MockCluster::new(1).unwrap();
    let connection = Connection::new(broker.bootstrap_servers());
    let limited = |config: &mut ClientConfig| {
        config.set("message.max.bytes", "2000");
    };
    let bed = Bed::at(connection, OPEN, limited).await;
    let body = format!(r#"{{"orderId": "a", "text": "{}"}}"#, "x".repeat(4_000));
    bed.post("/api/v1/orders", body).await.is(413).details("topic `orders`");
}

#[tokio::test]
async fn clients_that_go_away_leave_the_api_as_it_was() {
    let bed = Bed::without_broker(OPEN).await;
    let head = "POST /api/v1/small HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n";
    bed.hang_up_after(&format!("{head}1234")).await;
    bed.hang_up_after(&format!("{head}1234567890")).await;
    let answer = bed.raw(&format!("{head}1234")).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    bed.get("/healthz").await.is(200);
    bed.post("/api/v1/small", "1").await.is(503);
}

#[tokio::test]
async fn a_worker_is_ready_from_when_kafka_is_reached_until_it_is_not() {
    let bed = Bed::start(OPEN).await;
    let servers = &bed.bootstrap_servers;
    bed.kafka.send_replace(Reachability::Unknown);
    let down = json!({"status": "DOWN", "kafka": "unknown", "bootstrapServers": servers});
    assert_eq!(bed.get("/health").await.is(503).body, down);
    bed.get("/readyz").await.is(503).details(&format!("Kafka at {servers} has not answered yet"));

    bed.kafka.send_replace(Reachability::Reachable);
    let up = json!({"status": "UP", "kafka": "reachable", "bootstrapServers": servers});
    assert_eq!(bed.get("/health").await.is(200).body, up);
    bed.get("/readyz").await.is(200);

    bed.kafka.send_replace(Reachability::Unreachable { error: "broken pipe".into() });
    let health = bed.get("/health").await.is(503).body;
    assert_eq!((&health["kafka"], &health["error"]), (&json!("unreachable"), &json!("broken pipe")));
    bed.get("/readyz").await.is(503).details(&format!("Kafka at {servers} cannot be reached: broken pipe"));
    bed.get("/healthz").await.is(200);
}

#[tokio::test]
async fn stats_are_those_of_the_stages_and_their_sums() {
    let bed = Bed::without_broker(OPEN).await;
    let empty = bed.get("/api/v1/stats").await.is(200).body;
    assert_eq!((&empty["processed"], &empty["nextDue"]), (&json!(0), &json!(null)));
    assert_eq!(empty["stages"][0]["latenessMs"], json!(null));
    let closed = json!({"state": "closed", "reason": null, "nextProbe": null});
    assert_eq!(empty["stages"][0]["circuitBreaker"], closed);
    let small = &empty["stages"][2];
    assert_eq!((&small["pipeline"], &small["circuitBreaker"]), (&json!("small"), &json!(null)), "it is not enabled");

    let (main, retry) = (&bed.metrics[0], &bed.metrics[1]);
    main.processed.inc_by(5);
    retry.processed.inc_by(2);
    main.retried.inc_by(3);
    main.dead_letter("E", Reason::Permanent);
    retry.dead_letter("E", Reason::AttemptsExhausted);
    retry.dead_letter("F", Reason::AttemptsExhausted);
    retry.in_flight.inc();
    retry.observe_lateness(Duration::from_millis(7));
    let loads = [Arc::new(Load::new(100)), Arc::new(Load::new(100))];
    loads[0].set_pending(1, 0, 0, Some(Timestamp(1_705_314_600_000)));
    loads[1].set_pending(2, 0, 0, Some(Timestamp(1_705_314_601_000)));
    loads[0].set_read(9);
    loads[0].set_at_end();
    let _charge = loads[1].charge(100);
    main.set_assigned(4, Some(loads[1].clone()));
    retry.set_assigned(0, Some(loads[0].clone()));
    retry.set_assigned(2, Some(loads[1].clone()));
    let reason = || "6 of 9 calls failed within 60s; the last: E".to_owned();
    main.set_breaker(BreakerView::Open { reason: reason(), next_probe: Timestamp(1_705_314_600_000) });
    retry.set_breaker(BreakerView::HalfOpen { reason: reason() });

    let stats = bed.get("/api/v1/stats").await.is(200).body;
    let (totals, retry) = (&stats, &stats["stages"][1]);
    assert_eq!((&totals["worker"], &totals["simulateTransientError"]), (&json!("worker-0"), &json!(false)));
    assert_eq!((&totals["processed"], &retry["processed"]), (&json!(7), &json!(2)));
    assert_eq!((&totals["deadLettered"], &retry["deadLettered"]), (&json!(3), &json!(2)));
    assert_eq!(totals["deadLetteredByErrorType"], json!({"E": 2, "F": 1}));
    assert_eq!((&totals["retried"], &totals["inFlight"], &totals["pending"]), (&json!(3), &json!(1), &json!(5)));
    assert_eq!(totals["nextDue"], json!("2024-01-15T10:30:00Z"));
    assert_eq!((&retry["pipeline"], &retry["stage"]), (&json!("orders"), &json!("retry")));
    assert_eq!((&retry["topic"], &retry["groupId"]), (&json!("orders.retry"), &json!("orders-retry-group")));
    assert_eq!(retry["buffered"], json!({"records": 4, "bytes": 100}));
    assert_eq!(retry["latenessMs"], json!({"p50": 7, "p99": 7, "max": 7}));
    let first = json!({"partition": 0, "nextOffset": 9, "atEnd": true, "records": 1, "pending": 1, "paused": null});
    let third = json!({"partition": 2, "nextOffset": null, "atEnd": false, "records": 3, "pending": 2, "paused": null});
    assert_eq!(retry["partitions"], json!([first, third]));
    let open = json!({"state": "open", "reason": reason(), "nextProbe": "2024-01-15T10:30:00Z"});
    assert_eq!(stats["stages"][0]["circuitBreaker"], open);
    assert_eq!(retry["circuitBreaker"], json!({"state": "halfOpen", "reason": reason(), "nextProbe": null}));
}

#[tokio::test]
async fn metrics_are_fresh_and_in_the_format_that_they_claim() {
    let bed = Bed::without_broker(OPEN).await;
    let load = Arc::new(Load::new(100));
    load.set_pending(9, 0, 0, None);
    bed.metrics[0].set_assigned(0, Some(load));
    let open = BreakerView::Open { reason: "6 of 9 calls failed".into(), next_probe: Timestamp(0) };
    bed.metrics[0].set_breaker(open);
    bed.metrics[0].set_breaker(BreakerView::HalfOpen { reason: "6 of 9 calls failed".into() });
    let answer = bed.get("/metrics").await.is(200);
    assert_eq!(answer.header("content-type"), "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let text = answer.body.as_str().unwrap();
    assert!(text.contains("lazaret_pending_records{pipeline=\"orders\",stage=\"main\"} 9\n"), "{text}");
    assert!(text.contains("lazaret_circuit_breaker_open{pipeline=\"orders\",stage=\"main\"} 1\n"), "{text}");
    assert!(text.contains("lazaret_circuit_breaker_open{pipeline=\"orders\",stage=\"retry\"} 0\n"), "{text}");
    assert!(text.contains("lazaret_circuit_breaker_openings_total{pipeline=\"orders\",stage=\"main\"} 1\n"), "{text}");
    assert!(text.ends_with("# EOF\n"), "{text}");
}

#[tokio::test]
async fn dead_letters_are_counted_in_each_topic_once() {
    let bed = Bed::start(OPEN).await;
    for _ in 0..3 {
        bed.produce("orders.dlt").await;
    }
    bed.produce("small.dlt").await;
    let topics = json!({"closed.dlt": 0, "orders.dlt": 3, "small.dlt": 1, "stats.dlt": 0});
    let before = clock::now();
    let answer = bed.get("/api/v1/dlt/count").await.is(200).body;
    assert_eq!((&answer["count"], &answer["topics"]), (&json!(4), &topics));
    let counted_at: jiff::Timestamp = answer["countedAt"].as_str().unwrap().parse().unwrap();
    assert!(counted_at.as_millisecond() >= before.0, "nobody had asked before: {answer}");
}

#[tokio::test]
async fn a_dead_letter_is_counted_a_second_after_it_was_written_whoever_asked_before() {
    let bed = Bed::start(OPEN).await;
    for count in 0..3 {
        let counted = eventually("it is counted", async || {
            let answer = bed.get("/api/v1/dlt/count").await.is(200).body;
            (answer["count"] == count).then_some(Instant::now())
        });
        let began = Instant::now();
        assert!(counted.await - began < Duration::from_secs(2));
        bed.produce("orders.dlt").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_kafka_hangs_six_hundred_who_ask_for_the_count_get_an_error_and_records_go_on_being_committed() {
    let broker = EmbeddedBroker::start().unwrap();
    let pipeline = pipeline("hangs", "processor: {rules: [{when: 'false', error: E}]}");
    pipeline.topics.iter().for_each(|plan| broker.create_topic(plan).unwrap());
    let kafka = broker.connection().bootstrap_servers().to_owned();
    let engine = Engine::start(&kafka, &pipeline).await;
    // It takes connections and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connection = Connection::new(silent.local_addr().unwrap().to_string());
    let bed = Bed::at(connection, OPEN, |_| {}).await;
    let began = Instant::now();
    let asking = async {
        let answers = join_all((0..600).map(|_| bed.request("GET", "/api/v1/dlt/count").send())).await;
        (answers, began.elapsed())
    };
    let processing = async {
        let producer = topics::producer(&kafka);
        for n in 1..=10 {
            topics::write(&producer, &pipeline.main.topic, None, Some(b"{}"), None).await;
            let began = Instant::now();
            engine.settled(n).await;
            assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        }
        let committed = async || {
            let committed = topics::committed(&kafka, &pipeline.main.group_id, &pipeline.main.topic);
            (committed.values().map(|(offset, _)| offset).sum::<i64>() == 10).then_some(())
        };
        eventually_within(Duration::from_secs(5), "all are committed", committed).await;
        began.elapsed()
    };
    let ((answers, answered_after), processed_after) = futures::join!(asking, processing);
    for answer in answers {
        assert_eq!(answer.unwrap().status(), 503);
    }
    // Kafka has five seconds for a question, and who asks is kept ten at most.
    assert!(answered_after < Duration::from_secs(12), "{answered_after:?}, and processed after {processed_after:?}");
    bed.get("/api/v1/dlt/count").await.is(503).details("does not answer");
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn six_hundred_who_ask_for_the_count_at_once_take_one_thread() {
    let mut demo = Lazaret::start(&["dev", "examples/orders.yaml", "--listen", "127.0.0.1:0"]);
    let api = demo.wait_for("HTTP API    ").split_whitespace().next().unwrap().to_owned();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let count = async || {
        let answer = client.get(format!("{api}/api/v1/dlt/count")).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    };
    let threads = || std::fs::read_dir(format!("/proc/{}/task", demo.pid())).unwrap().count();
    count().await;
    let before = threads();
    for _ in 0..3 {
        join_all((0..200).map(|_| count())).await;
    }
    join_all((0..600).map(|_| count())).await;
    // A thread that was needed stays for ten seconds.
    assert!(threads() <= before + 3, "{before} threads before, {} now", threads());
}

#[tokio::test]
async fn failures_are_switched_on_and_off_where_a_pipeline_allows_it() {
    let bed = Bed::without_broker(OPEN).await;
    for enabled in [true, false] {
        let answer = bed.post(&format!("{SWITCH}?enabled={enabled}"), "").await.is(200);
        assert_eq!(answer.body, json!({"simulateTransientError": enabled}));
        assert_eq!(bed.fault.is_on(), enabled);
        let stats = bed.get("/api/v1/stats").await.is(200).body;
        assert_eq!(stats["simulateTransientError"], json!(enabled));
    }
    for query in ["", "?enabled", "?enabled=", "?enabled=1", "?enabled=yes", "?other=true", "?enabled=true&at=now"] {
        let answer = bed.post(&format!("{SWITCH}{query}"), "").await.is(400);
        answer.details("`?enabled=true` or `?enabled=false`");
    }
    let closed = Bed::without_broker(CLOSED).await;
    closed.post(&format!("{SWITCH}?enabled=true"), "").await.is(404).details("spec.faultInjection.enabled");
    assert!(!closed.fault.is_on());
}

#[tokio::test]
async fn a_setting_that_names_its_time_holds_only_where_it_is_the_newest() {
    let bed = Bed::without_broker(OPEN).await;
    assert_eq!(bed.get(SWITCH).await.is(200).body, json!({"simulateTransientError": false, "at": 0}));
    bed.post(&format!("{SWITCH}?enabled=true"), "").await.is(200);
    let since = bed.get(SWITCH).await.is(200).body["at"].as_i64().unwrap();
    assert!(clock::now().since(Timestamp(since)) < Duration::from_secs(60), "{since}");
    for (at, enabled, held) in [(since - 1, false, true), (since, false, true), (since + 9, false, false)] {
        let answer = bed.post(&format!("{SWITCH}?enabled={enabled}&at={at}"), "").await.is(200);
        assert_eq!((answer.body, bed.fault.is_on()), (json!({"simulateTransientError": held}), held), "{at}");
    }
    let held = json!({"simulateTransientError": false, "at": since + 9});
    let ahead = |seconds| clock::now().after(Duration::from_secs(seconds)).0;
    for at in [ahead(90), i64::MAX] {
        let answer = bed.post(&format!("{SWITCH}?enabled=true&at={at}"), "").await.is(400);
        answer.details("more than a minute ahead");
        assert_eq!(bed.get(SWITCH).await.is(200).body, held, "{at}");
    }
    bed.post(&format!("{SWITCH}?enabled=true&at={}", ahead(30)), "").await.is(200);
    bed.post(&format!("{SWITCH}?enabled=false"), "").await.is(200);
    assert!(!bed.fault.is_on(), "a clock that is ahead somewhere keeps nobody from switching here");
}

#[tokio::test]
async fn whoever_is_told_of_a_setting_passes_it_on_unless_a_peer_told_it() {
    let other = Bed::without_broker(OPEN).await;
    let port = other.address.rsplit_once(':').unwrap().1;
    // The two names are the same worker: it is told once. Of the others one listens to nobody and one is unknown.
    let names = [other.address.clone(), format!("localhost:{port}"), closed_port(), "nobody.invalid:1".into()];
    let bed = Bed::among(Some(Peers::new(names).unwrap()), OPEN).await;
    let answer = bed.post(&format!("{SWITCH}?enabled=true"), "").await.is(200);
    assert_eq!(answer.body, json!({"simulateTransientError": true, "peers": 1, "peersMissed": 1}));
    assert!(other.fault.is_on());
    assert_eq!(other.fault.setting(), bed.fault.setting());

    let at = bed.fault.setting().at.0 + 1;
    let answer = bed.post(&format!("{SWITCH}?enabled=false&at={at}"), "").await.is(200);
    assert_eq!(answer.body, json!({"simulateTransientError": false}));
    assert!(other.fault.is_on(), "what a peer says is not passed on");
}

#[tokio::test]
async fn a_peer_that_does_as_it_likes_or_nothing_at_all_is_not_waited_for_and_counts_as_missed() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (closed, contrary) = (Bed::without_broker(CLOSED).await, Bed::without_broker(OPEN).await);
    contrary.fault.set(false, clock::now().after(Duration::from_secs(30)));
    let names = [silent.local_addr().unwrap().to_string(), closed.address.clone(), contrary.address.clone()];
    let bed = Bed::among(Some(Peers::new(names).unwrap()), OPEN).await;
    let begin = Instant::now();
    let answer = bed.post(&format!("{SWITCH}?enabled=true"), "").await.is(200);
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
    assert_eq!(answer.body, json!({"simulateTransientError": true, "peers": 0, "peersMissed": 3}));
    assert!(bed.fault.is_on() && !contrary.fault.is_on());
}

#[tokio::test]
async fn of_what_the_peers_say_the_newest_is_taken_over_but_nothing_from_the_future() {
    let now = clock::now();
    let (first, second, ahead) =
        (Bed::without_broker(OPEN).await, Bed::without_broker(OPEN).await, Bed::without_broker(OPEN).await);
    first.fault.set(false, Timestamp(now.0 - 5));
    let newest = second.fault.set(true, now);
    ahead.fault.set(false, now.after(Duration::from_secs(3_600)));
    let names = [&first, &second, &ahead].map(|bed| bed.address.clone()).into_iter().chain([closed_port()]);
    let (peers, fault) = (Peers::new(names).unwrap(), FaultSwitch::default());
    peers.ask(&fault).await;
    assert_eq!(fault.setting(), newest);
    let own = fault.set(false, now);
    peers.ask(&fault).await;
    assert_eq!(fault.setting(), own, "what was set here since is newer");
}

#[tokio::test]
async fn what_does_not_exist_is_a_problem_too() {
    let bed = Bed::without_broker(OPEN).await;
    for path in ["/", "/api/v1", "/api/v1/", "/api/v1/orders/", "/api/v2/stats", "/health/", "/favicon.ico"] {
        bed.get(path).await.is(404).details(path);
    }
    for (method, path, allow) in [
        ("POST", "/health", "GET,HEAD"),
        ("DELETE", "/api/v1/stats", "GET,HEAD,POST"),
        ("DELETE", SWITCH, "GET,HEAD,POST"),
        ("GET", "/api/v1/orders", "POST"),
    ] {
        let answer = bed.send(bed.request(method, path), method, path).await.is(405);
        assert_eq!(answer.header("allow"), allow, "{method} {path}");
        answer.details(method);
    }
}

#[tokio::test]
async fn the_document_is_served_as_it_is_built() {
    let bed = Bed::without_broker(OPEN).await;
    assert_eq!(bed.document, serde_json::to_value(lazaret::worker::serve::http::openapi()).unwrap());
    let paths: BTreeSet<_> = bed.documented().into_iter().map(|(_, path, _)| path).collect();
    assert_eq!(paths.len(), 8, "{paths:?}");
}
