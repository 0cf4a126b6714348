//! How dead letters are found among others, and how they look.

use std::sync::Arc;

use clap::Parser;
use insta::assert_snapshot;

use super::*;
use crate::domain::record::{Header, Record};
use crate::domain::time;
use letter::Content;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn record(offset: i64, key: &[u8], value: &str, headers: Vec<Header>) -> Record {
    Record {
        topic: Arc::from("orders.dlt"),
        partition: 1,
        offset,
        timestamp: Some(time::Timestamp(at(0).as_millisecond())),
        key: Some(bytes::Bytes::copy_from_slice(key)),
        value: Some(value.to_owned().into()),
        headers,
    }
}

fn negative_amount() -> Record {
    let headers = vec![
        Header::new("lazaret-reason", "Permanent"),
        Header::new("lazaret-attempts", "1"),
        Header::new("lazaret-error-type", "ValidationException"),
        Header::new("lazaret-error-message", "Invalid amount"),
        Header::new("lazaret-original-topic", "orders"),
        Header::new("lazaret-original-partition", "2"),
        Header::new("lazaret-original-offset", "7"),
        Header { name: "trace".to_owned(), value: None },
    ];
    record(4, b"order-7", r#"{"amount":-3,"customer":"ada"}"#, headers)
}

#[test]
fn dead_letters_are_listed_without_their_values() {
    let items = [Letter::in_list(&negative_amount(), false), Letter::in_list(&record(3, &[0xff], "x", vec![]), false)];
    let found = Found { total: 9, matching: 5, items: items.into() };
    assert_snapshot!(shown::table(&found, at(90)), @r"
    POSITION  AGE  ERROR TYPE           REASON     ATTEMPTS  KEY          MESSAGE
    1:4       90s  ValidationException  Permanent  1         order-7      Invalid amount
    1:3       90s  unknown              -          -         base64:/w==  -
    2 of 5: --limit shows more
    ");
    assert!(!json(&found).contains("amount\\\""));
}

#[test]
fn that_there_is_none_is_said() {
    let found = |total| Found { total, matching: 0, items: vec![] };
    assert_eq!(shown::table(&found(0), at(0)), "There is no dead letter.\n");
    assert_eq!(shown::table(&found(3), at(0)), "None of 3 dead letters is like that.\n");
}

#[test]
fn one_is_shown_whole_and_its_value_on_request() {
    let page = |payload| shown::page(&Letter::whole(&negative_amount(), payload), at(90));
    assert_snapshot!(page(true), @r#"
    Dead letter:  orders.dlt 1:4
    Written:      2027-01-15T08:00:00Z, 90s ago
    Error type:   ValidationException
    Message:      Invalid amount
    Reason:       Permanent
    Attempts:     1
    Came from:    orders 2:7
    Key:          order-7

    Headers
      lazaret-reason              Permanent
      lazaret-attempts            1
      lazaret-error-type          ValidationException
      lazaret-error-message       Invalid amount
      lazaret-original-topic      orders
      lazaret-original-partition  2
      lazaret-original-offset     7
      trace                       -

    Value
      {
        "amount": -3,
        "customer": "ada"
      }
    "#);
    assert!(!page(false).contains("ada"));
}

#[test]
fn what_a_record_says_of_itself_cannot_pass_for_something_else() {
    let headers = vec![
        Header::new("lazaret-error-type", "E\n0:9  1s  Fine"),
        Header::new("kafka_dlt-original-partition", 2i32.to_be_bytes().to_vec()),
        Header::new("trace", "a\nReason: none"),
        Header::new("long", "x".repeat(100_000)),
    ];
    let record = record(4, b"a\nKey: b", "", headers);
    let found = Found { total: 1, matching: 1, items: vec![Letter::in_list(&record, false)] };
    assert_eq!(shown::table(&found, at(0)).lines().count(), 2);
    let page = shown::page(&Letter::whole(&record, false), at(0));
    assert!(page.contains("\n      Key: b\n") && page.contains("\n      Reason: none\n"), "{page}");
    assert!(page.contains("base64:AAAAAg=="), "{page}");
}

#[test]
fn only_those_that_are_asked_for_are_taken() {
    let record = negative_amount();
    let letter = Letter::in_list(&record, false);
    let takes = |filter: Filter| filter.takes(&letter, record.key.as_deref());
    let some = |text: &str| Some(text.to_owned());
    assert!(takes(Filter::default()));
    assert!(takes(Filter { error_type: some("ValidationException"), reason: some("Permanent"), ..Filter::default() }));
    assert!(!takes(Filter { error_type: some("Validation"), ..Filter::default() }));
    assert!(!takes(Filter { reason: some("Expired"), ..Filter::default() }));
    assert!(takes(Filter { key: some("order-7"), since: Some(at(0)), ..Filter::default() }));
    assert!(!takes(Filter { key: some("order-8"), ..Filter::default() }));
    assert!(!takes(Filter { since: Some(at(1)), ..Filter::default() }));
}

#[test]
fn what_a_worker_answers_is_what_was_found() {
    let found = Found { total: 2, matching: 1, items: vec![Letter::in_list(&negative_amount(), true)] };
    assert_eq!(serde_json::from_str::<Found>(&json(&found)).unwrap(), found);
    let letter = Letter::whole(&record(0, &[0xff, 0], "x", vec![Header::new("a", vec![0xfe])]), true);
    assert_eq!(serde_json::from_str::<Letter>(&json(&letter)).unwrap(), letter);
    assert_eq!(letter.key, Some(Content::Base64("/wA=".to_owned())));
}

#[derive(Debug, Parser)]
struct Line {
    #[command(subcommand)]
    command: DltCommand,
}

#[test]
fn what_a_worker_is_asked_is_a_command_that_it_knows() {
    let topics = ["orders.dlt", "invalid.dlt"].map(str::to_owned);
    let mut list = arguments("list", &topics, "k:9092", true);
    list.extend(["--limit=3", "--key=-a b", "--since=2026-05-01T10:00:00Z"].map(str::to_owned));
    let DltCommand::List(list) = Line::try_parse_from(list).unwrap().command else { panic!("list") };
    assert_eq!((list.name, list.limit, list.key.as_deref()), (None, 3, Some("-a b")));
    assert_eq!((list.place.topics, list.how.output), (topics.to_vec(), Output::Json));
    let mut show = arguments("show", &topics[..1], "k:9092", false);
    show.push("0:5".to_owned());
    let DltCommand::Show(show) = Line::try_parse_from(show).unwrap().command else { panic!("show") };
    assert_eq!((show.name, show.position), (None, Position { partition: 0, offset: 5 }));
}

#[test]
fn a_command_line_that_says_too_little_or_nonsense_is_refused() {
    let refused = |line: &str| Line::try_parse_from(line.split(' ')).unwrap_err().to_string();
    assert!(refused("dlt list").contains("required arguments were not provided:\n  <NAME>"), "{}", refused("dlt list"));
    assert!(refused("dlt list orders --limit 0").contains("0 is not in 1..=1000"));
    assert!(refused("dlt show orders 5").contains("must be PARTITION:OFFSET, such as 0:41"));
    assert!(refused("dlt show orders -1:5").contains("unexpected argument"));
    assert!(refused("dlt list orders --since yesterday").contains("is no duration (90m) and no time"));
    assert!(refused("dlt list orders --bootstrap-servers kafka").contains("must be HOST:PORT"));
    assert!(one_of(vec!["a".into(), "b".into()]).unwrap_err().to_string().ends_with("Say --topic: a, b"));
}

#[test]
fn so_long_ago_is_counted_from_now() {
    let since = |text: &str| text.parse::<Since>().unwrap().time(at(0));
    assert_eq!((since("90m"), since("2027-01-15T07:00:00Z")), (at(-5_400), at(-3_600)));
    assert_eq!(since("9999999999h"), Timestamp::MIN);
}

#[tokio::test]
async fn without_a_kafka_and_without_a_pipeline_it_is_said_what_is_missing() {
    let command = Line::try_parse_from(["dlt", "list", "--topic", "orders.dlt"]).unwrap().command;
    let error = run(command).await.unwrap_err();
    assert!(error.is_refusal() && error.to_string().contains("Say --bootstrap-servers"), "{error}");
}
