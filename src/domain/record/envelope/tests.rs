//! What retry records and dead letters look like, and that bytes stay bytes in them.

use super::*;
use crate::domain::record::failure::FailureKind;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::time::Duration;

const ID: &str = "_tzumHZUMhEAAAAAAAAAKg";
const FAILED_AT: Timestamp = Timestamp(1_705_314_600_000);

fn record() -> Record {
    Record {
        topic: "orders".into(),
        partition: 2,
        offset: 12_345,
        timestamp: Some(Timestamp(1_705_314_500_000)),
        key: Some(Bytes::from_static(b"order-123")),
        value: Some(Bytes::from_static(br#"{"amount": -50}"#)),
        headers: vec![
            Header::new("tenant", "blue"),
            Header { name: "tenant".into(), value: None },
            Header::new("lazaret-attempts", "77"),
        ],
    }
}

fn failure() -> Failure {
    let mut failure = Failure::from_text(FailureKind::Permanent, "ValidationException: Invalid amount");
    failure.stack_trace = Some("at Orders.java:7 ".repeat(1000));
    failure
}

fn scribe(format: DeadLetterFormat) -> Scribe {
    Scribe {
        pipeline: "orders".into(),
        stage: Stage::Main,
        worker: "worker-1".into(),
        format,
        stack_trace_max_bytes: 16,
    }
}

fn dead_letter(record: &Record, format: DeadLetterFormat, extent: Extent) -> Outgoing {
    let provenance = Provenance::fresh(record, ID.parse().ok()).after_failure(FAILED_AT);
    let failure = failure();
    let failed = FailedRecord { record, provenance: &provenance, failure: &failure, failed_at: FAILED_AT };
    scribe(format).dead_letter(failed, Reason::Permanent, &"orders.dlt".into(), extent)
}

fn retry(record: &Record, provenance: &Provenance) -> Outgoing {
    let failure = failure();
    let failed = FailedRecord { record, provenance, failure: &failure, failed_at: FAILED_AT };
    scribe(DeadLetterFormat::Envelope).retry(failed, Timestamp(7), &"orders.retry".into())
}

fn envelope(letter: &Outgoing) -> Value {
    serde_json::from_slice(letter.value.as_ref().unwrap()).unwrap()
}

fn header_text<'a>(outgoing: &'a Outgoing, name: &str) -> Vec<&'a str> {
    let named = outgoing.headers.iter().filter(|h| h.name == name);
    named.map(|h| std::str::from_utf8(h.value.as_ref().unwrap()).unwrap()).collect()
}

/// The record as the other side would read it.
fn reread(outgoing: Outgoing) -> Record {
    let Outgoing { topic, key, value, headers } = outgoing;
    Record { topic, partition: 0, offset: 3, timestamp: Some(FAILED_AT), key, value, headers }
}

#[test]
fn an_envelope_says_what_was_read_and_what_happened() {
    let letter = dead_letter(&record(), DeadLetterFormat::Envelope, Extent::Whole);
    assert_eq!(letter.key, record().key);
    assert_eq!(
        envelope(&letter),
        json!({
            "originalTopic": "orders", "originalPartition": 2, "originalOffset": 12345,
            "originalTimestamp": "2024-01-15T10:28:20Z",
            "originalKey": "order-123", "originalValue": "{\"amount\": -50}",
            "originalHeaders": [{"name": "tenant", "value": "blue"}, {"name": "tenant", "value": null}],
            "errorType": "ValidationException", "errorMessage": "ValidationException: Invalid amount",
            "errorTimestamp": "2024-01-15T10:30:00Z", "firstFailure": "2024-01-15T10:30:00Z",
            "reason": "Permanent", "retryCount": 0, "stackTrace": "at Orders.jav…",
            "pipeline": "orders", "stage": "main", "worker": "worker-1",
        })
    );
    assert_eq!(header_text(&letter, "lazaret-reason"), ["Permanent"]);
    assert_eq!(header_text(&letter, "lazaret-attempts"), ["1"], "a producer's own is not kept");
}

#[test]
fn bytes_that_are_no_text_are_base64_and_null_is_null() {
    let binary = Record { key: None, value: Some(Bytes::from_static(b"\xff\x00")), ..record() };
    let envelope = envelope(&dead_letter(&binary, DeadLetterFormat::Envelope, Extent::Whole));
    assert_eq!(envelope["originalKey"], Value::Null);
    assert_eq!(envelope["originalValue"], "/wA=");
    assert_eq!(envelope["originalValueEncoding"], "base64");
    assert!(envelope.get("originalKeyEncoding").is_none());
}

#[test]
fn a_raw_dead_letter_is_the_record_itself() {
    let letter = dead_letter(&record(), DeadLetterFormat::Raw, Extent::Whole);
    assert_eq!((&letter.key, &letter.value), (&record().key, &record().value));
    assert_eq!(header_text(&letter, "lazaret-error-message"), ["ValidationException: Invalid amount"]);
    assert_eq!(header_text(&letter, "lazaret-original-offset"), ["12345"]);
    assert!(header_text(&letter, "lazaret-due").is_empty());
}

#[test]
fn what_is_too_large_leaves_its_place_behind() {
    let extents = std::iter::successors(Some(Extent::Whole), |extent| extent.smaller());
    let letters: Vec<_> = extents.map(|e| dead_letter(&record(), DeadLetterFormat::Envelope, e)).collect();
    assert_eq!(letters.len(), 4);
    for letter in &letters[1..] {
        let envelope = envelope(letter);
        assert_eq!((&envelope["valueOmitted"], &envelope["originalValue"]), (&json!(true), &Value::Null));
        assert_eq!(envelope["originalOffset"], 12345);
    }
    assert_eq!(letters[1].headers[0].name, "tenant");
    assert_eq!(header_text(&letters[2], "lazaret-omitted"), ["value,headers"]);
    assert_eq!((&letters[2].key, &letters[3].key), (&record().key, &None));
}

#[test]
fn a_second_failure_replaces_what_the_first_one_wrote() {
    let first = retry(&record(), &Provenance::fresh(&record(), ID.parse().ok()).after_failure(FAILED_AT));
    let once = reread(first.clone());
    let past = Provenance::of_retry(&once, None, Duration::from_secs(60), FAILED_AT).after_failure(FAILED_AT);
    let second = retry(&once, &past);
    assert_eq!(first.headers.len(), second.headers.len());
    assert_eq!(header_text(&second, "lazaret-attempts"), ["2"]);
    assert_eq!(header_text(&second, "lazaret-original-topic"), ["orders"]);
    assert_eq!(header_text(&second, "lazaret-due"), ["7"]);
}

fn any_bytes() -> impl Strategy<Value = Option<Bytes>> {
    proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from))
}

proptest! {
    #[test]
    fn bytes_stay_bytes_over_any_number_of_hops(
        key in any_bytes(),
        value in any_bytes(),
        headers in proptest::collection::vec(("[a-c]{1,3}", any_bytes()), 0..5),
        hops in 1usize..5,
    ) {
        let headers: Vec<_> = headers.into_iter().map(|(name, value)| Header { name, value }).collect();
        let original = Record { key, value, headers, ..record() };
        let (mut hop, mut past) = (original.clone(), Provenance::fresh(&original, ID.parse().ok()));
        for _ in 0..hops {
            hop = reread(retry(&hop, &past.after_failure(FAILED_AT)));
            past = Provenance::of_retry(&hop, None, Duration::from_secs(60), FAILED_AT);
        }
        prop_assert_eq!(&hop.key, &original.key);
        prop_assert_eq!(&hop.value, &original.value);
        let forwarded: Vec<_> = forwarded_headers(&hop).cloned().collect();
        prop_assert_eq!(&forwarded, &original.headers);
        prop_assert_eq!(past.attempts as usize, hops);
        prop_assert_eq!(past.origin, Provenance::fresh(&original, ID.parse().ok()).origin);
    }
}
