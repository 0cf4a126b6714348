//! The questions that people ask when something is wrong, each as the situation that makes them ask, and the condition that
//! answers: "the consumer is blocked", "the DLT is empty although there are errors", "it rebalances too often".

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use lazaret::api::v1alpha1::ErrorHandlingPipelineStatus;
use serde_json::json;

use super::application::Application;
use crate::site::{SOON, Site, in_site};
use crate::support::cluster::kafka_from_here;
use crate::support::{eventually, eventually_within, topics};

/// What takes a minute to be said, and longer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(150);

async fn status(site: &Site) -> ErrorHandlingPipelineStatus {
    site.pipelines.get("orders").await.unwrap().status.unwrap_or_default()
}

/// Waits for a condition to hold.
async fn holds(site: &Site, of_type: &str) -> Condition {
    eventually_within(PATIENCE, &format!("{of_type} holds"), async || {
        let conditions = status(site).await.conditions;
        conditions.into_iter().find(|condition| condition.type_ == of_type && condition.status == "True")
    })
    .await
}

async fn write(site: &Site, value: serde_json::Value) -> (i32, i64) {
    let producer = topics::producer(&kafka_from_here());
    let (key, value) = (b"always the same".as_slice(), value.to_string());
    topics::write(&producer, &site.named("orders"), Some(key), Some(value.as_bytes()), None).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_consumer_is_blocked_by_a_record_whose_processor_does_not_answer_and_that_record_is_named() {
    in_site("blocked", async |site| {
        let _operator = site.operator();
        let container = "processor: {container: {image: 'lazaret.dev/bed/processor:1', path: /orders, timeout: 10m, env: [{name: \
                         START_DELAY, value: 0s}]}}";
        site.apply(&site.pipeline("orders", container)).await;
        site.reason("orders", "Ready").await;
        write(site, json!({"amount": 1})).await;
        let (partition, offset) = write(site, json!({"amount": 1, "minutes": 30})).await;
        for _ in 0..3 {
            write(site, json!({"amount": 1})).await;
        }
        let stuck = holds(site, "ConsumerStuck").await;
        assert_eq!(stuck.reason, "NoProgress");
        let place = format!("{}, partition {partition}, offset {offset}", site.named("orders"));
        assert!(stuck.message.contains(&place), "{place}: {}", stuck.message);
        assert!(stuck.message.starts_with("4 records are ready"), "{}", stuck.message);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dlt_is_empty_although_there_are_errors_because_they_are_tried_again_or_the_breaker_is_open() {
    in_site("empty", async |site| {
        let _operator = site.operator();
        let more = format!(
            "processor: {{rules: [{{when: value.amount < 0, error: 'Busy: later', retryable: true}}]}}\nordering: Unordered\n\
             circuitBreaker: {{minimumCalls: 20, openFor: 10m}}\n\
             retry: {{groupId: {}, strategy: Fixed, initialDelay: 1h, maxDelay: 1h}}",
            site.named("retry")
        );
        site.apply(&site.pipeline("orders", &more)).await;
        site.reason("orders", "Ready").await;
        for _ in 0..5 {
            write(site, json!({"amount": -1})).await;
        }
        let (kafka, retry) = (kafka_from_here(), site.named("orders.retry"));
        let are_there = async || (topics::read_all(&kafka, &retry).len() == 5).then_some(());
        eventually("five are in the retry topic", are_there).await;
        let next = site
            .says_within(SOON, "orders", "five are tried again, later", |status| {
                status.next_due.clone().filter(|_| status.retrying == Some(5))
            })
            .await;
        assert!(next.0 > k8s_openapi::jiff::Timestamp::now());
        let is_empty = async || status(site).await.dead_letters.is_some_and(|letters| letters.total == 0);
        assert!(is_empty().await);
        // So many fail that it must be the processor.
        for _ in 0..60 {
            write(site, json!({"amount": -1})).await;
        }
        let open = holds(site, "CircuitOpen").await;
        assert!(open.message.contains("calls failed") && open.message.contains("No record is given up meanwhile"), "{}", open.message);
        assert!(is_empty().await);
        eventually("an event tells of it", async || {
            site.events("orders").await.into_iter().find(|(reason, _)| reason == "CircuitOpen")
        })
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_rebalances_too_often_and_it_is_said_that_members_come_and_go() {
    in_site("storm", async |site| {
        let _operator = site.operator();
        let group = site.named("shop");
        let more = format!("processor: {{external: {{groupId: {group}}}}}\nconsumer: {{}}\nretry: {{}}");
        site.apply(&site.pipeline("orders", &more)).await;
        site.reason("orders", "Ready").await;
        let _stays = Application::start("shop-1", &group, &site.named("orders"));
        let members = async |count: usize| {
            eventually(&format!("{count} members are seen"), async || {
                let groups = status(site).await.groups?;
                (groups.main.members.len() == count && groups.main.state == "Stable").then_some(())
            })
            .await;
        };
        members(1).await;
        for _ in 0..3 {
            let comes = Application::start("shop-2", &group, &site.named("orders"));
            members(2).await;
            drop(comes);
            members(1).await;
        }
        let storm = holds(site, "RebalanceStorm").await;
        assert_eq!(storm.reason, "MembersComeAndGo");
        let rebalances = status(site).await.rebalances.unwrap();
        assert!(rebalances.count >= 5 && rebalances.per_hour == rebalances.count, "{rebalances:?}");
    })
    .await;
}
