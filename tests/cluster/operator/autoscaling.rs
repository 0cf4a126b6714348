//! How many workers there are, where an autoscaler decides.

use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscaler, HorizontalPodAutoscalerStatus};
use kube::api::{Api, ListParams};
use serde_json::{Value, json};

use crate::prometheus::ExternalMetrics;
use crate::site::{Site, in_site};
use crate::support::cluster::{kafka_from_here, wait_for, wait_until_gone};
use crate::support::topics;

fn autoscalers(site: &Site) -> Api<HorizontalPodAutoscaler> {
    Api::namespaced(site.client.clone(), &site.namespace)
}

/// What an autoscaler says of its metric, as soon as it has looked.
fn active(status: &HorizontalPodAutoscalerStatus) -> Option<(bool, String)> {
    let active = status.conditions.as_ref()?.iter().find(|condition| condition.type_ == "ScalingActive")?;
    Some((active.status == "True", active.message.clone()?))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_autoscaler_comes_and_goes_with_the_spec_and_decides_how_many_workers_there_are() {
    in_site("autoscaled", async |site| {
        let _operator = site.operator();
        let autoscalers = autoscalers(site);
        site.apply(&site.pipeline("orders", "")).await;
        site.reason("orders", "Ready").await;
        assert_eq!(autoscalers.list(&ListParams::default()).await.unwrap().items.len(), 0);
        let asked_for = |autoscaling: Value| json!({"spec": {"consumer": {"autoscaling": autoscaling}}});
        site.merge("orders", asked_for(json!({"maxReplicas": 9}))).await;
        // Nobody serves the metric here: the controller says which one it asked for, and leaves the number alone.
        let (most, said) = wait_for(&autoscalers, "orders-consumer", "has looked", |autoscaler| {
            Some((autoscaler.spec.max_replicas, active(autoscaler.status.as_ref()?)?.1))
        })
        .await;
        assert_eq!(most, 2, "as many as there are partitions");
        assert!(said.contains("lazaret_ready_records"), "{said}");
        site.merge("orders", asked_for(Value::Null)).await;
        wait_until_gone(&autoscalers, "orders-consumer").await;
        let consumer = site.deployments.get("orders-consumer").await.unwrap();
        assert_eq!(consumer.spec.replicas, Some(1));
    })
    .await;
}

/// With a real Prometheus, and the adapter with the rule that the documentation gives.
#[tokio::test(flavor = "multi_thread")]
async fn ready_records_bring_workers_and_records_that_wait_for_their_time_bring_none() {
    in_site("scaled", async |site| {
        let mut operator = site.operator();
        let address = operator.wait_for("listening address=").trim().to_owned();
        let _metrics = ExternalMetrics::start(&site.client, &site.namespace, &address, &documented_rules()).await;
        let result = AssertUnwindSafe(scales(site)).catch_unwind().await;
        // A cluster with an API that does not answer cannot clear up any namespace.
        ExternalMetrics::end(&site.client).await;
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    })
    .await;
}

async fn scales(site: &Site) {
    let (topic, main, retry) = (site.named("orders"), site.named("orders-main"), site.named("orders-retry"));
    let spec = format!(
        "topic: {{name: {topic}, partitions: 3}}\n\
         processor: {{rules: [{{when: value.amount < 0, error: 'E: later', retryable: true}}], recordsPerSecond: 1}}\n\
         consumer: {{groupId: {main}, sessionTimeout: 6s, drainTimeout: 5s, autoscaling: {{maxReplicas: 9, readyRecords: 5}}}}\n\
         retry: {{groupId: {retry}, initialDelay: 1h, maxDelay: 1h, autoscaling: {{maxReplicas: 9, readyRecords: 5}}}}\n\
         circuitBreaker: {{enabled: false}}"
    );
    site.apply(&site.pipeline("orders", &spec)).await;
    site.reason("orders", "Ready").await;
    write(&topic, -1, 12).await;
    site.says("orders", "twelve wait", |status| (status.retrying == Some(12)).then_some(())).await;
    write(&topic, 1, 600).await;

    let autoscalers = autoscalers(site);
    let scaled = wait_for(&autoscalers, "orders-consumer", "wants three workers", |autoscaler| {
        let status = autoscaler.status.as_ref()?;
        (status.desired_replicas >= 3 && active(status)?.0)
            .then_some((autoscaler.spec.max_replicas, status.desired_replicas))
    })
    .await;
    assert_eq!(scaled, (3, 3), "as many as there are partitions, and no more");
    wait_for(&site.deployments, "orders-consumer", "has three ready workers", |deployment| {
        (deployment.status.as_ref()?.ready_replicas == Some(3)).then_some(())
    })
    .await;
    let waiting = wait_for(&autoscalers, "orders-retry", "has looked", |autoscaler| {
        let status = autoscaler.status.as_ref()?;
        let external = status.current_metrics.as_ref()?.iter().find_map(|metric| metric.external.as_ref())?;
        active(status)?.0.then_some((external.current.average_value.clone()?.0, status.desired_replicas))
    })
    .await;
    assert_eq!(waiting, ("0".to_owned(), 1), "twelve records wait there, and none is due");
}

async fn write(topic: &str, amount: i64, records: usize) {
    let producer = topics::producer(&kafka_from_here());
    let value = json!({"amount": amount}).to_string();
    let write = |_| topics::write(&producer, topic, None, Some(value.as_bytes()), None);
    futures::future::join_all((0..records).map(write)).await;
}

/// The adapter's rules in the documentation.
fn documented_rules() -> String {
    let text = include_str!("../../../docs/autoscaling.md");
    let (_, rest) =
        text.split_once("```yaml\nrules:\n  external:\n").expect("docs/autoscaling.md has the adapter's rules");
    let (rules, _) = rest.split_once("```").expect("the block ends");
    // What the adapter's chart calls `rules.external` is `externalRules` in the adapter's own file.
    format!("externalRules:\n{rules}")
}
