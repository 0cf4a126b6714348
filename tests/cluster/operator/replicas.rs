//! Several operators, operators that are killed, and what an operator does when there is nothing to do.

use std::time::{Duration, Instant};

use axum::http::Method;
use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt;
use kube::api::Api;
use serde_json::json;
use tokio::sync::watch;

use crate::site::{Site, in_site, metric};
use crate::support::api_proxy::ApiProxy;
use crate::support::cluster::wait_for;
use crate::support::comes_to_rest;
use crate::support::lazaret::Lazaret;

async fn holder(site: &Site) -> Option<String> {
    let leases: Api<Lease> = Api::namespaced(site.client.clone(), &site.namespace);
    leases.get_opt(&site.namespace).await.unwrap()?.spec?.holder_identity
}

fn acts(operator: &Lazaret) -> bool {
    !operator.grep(&["this replica acts now"]).is_empty()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_operators_one_acts_and_the_other_takes_over_when_it_ends() {
    in_site("two", async |site| {
        let mut first = site.operator();
        first.wait_for("this replica acts now");
        let mut second = site.operator();
        second.wait_for("listening address=");
        site.apply(&site.pipeline("orders", "")).await;
        site.reason("orders", "Ready").await;
        assert!(!acts(&second));
        assert_eq!(metric(&mut second, "lazaret_operator_is_leader"), 0);
        assert_eq!(metric(&mut second, "lazaret_operator_reconciles_total"), 0);

        // At once: it looks at the lease every two seconds.
        assert!(first.stop().success());
        second.wait_within(Duration::from_secs(6), "this replica acts now");
        site.merge("orders", json!({"spec": {"retry": {"maxAttempts": 3}}})).await;
        site.reason("orders", "Ready").await;

        // One that is killed gives nothing back: the next waits until the lease has expired.
        let mut third = site.operator();
        third.wait_for("listening address=");
        second.signal("KILL");
        let killed = Instant::now();
        third.wait_within(Duration::from_secs(30), "this replica acts now");
        // It was renewed two seconds before at the earliest, or three on a busy machine, and is valid for 15.
        assert!(killed.elapsed() > Duration::from_secs(10), "the lease was still valid: {:?}", killed.elapsed());
        site.merge("orders", json!({"spec": {"retry": {"maxAttempts": 4}}})).await;
        site.reason("orders", "Ready").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_slept_through_its_lease_finds_out_before_it_acts() {
    in_site("slept", async |site| {
        let mut first = site.operator();
        first.wait_for("this replica acts now");
        site.apply(&site.pipeline("orders", "consumer: {replicas: 0}\nretry: {replicas: 0}")).await;
        site.reason("orders", "Ready").await;
        first.signal("STOP");
        let mut second = site.operator();
        second.wait_within(Duration::from_secs(30), "this replica acts now");
        site.merge("orders", json!({"spec": {"retry": {"maxAttempts": 3}}})).await;
        site.reason("orders", "Ready").await;
        let patches = "lazaret_operator_api_requests_total{method=\"PATCH\"";
        let (by_second, by) = (metric(&mut second, patches), holder(site).await);
        first.signal("CONT");
        first.wait_for("the lease is lost");
        let by_first = metric(&mut first, patches);
        // It stands by from now on, and the other one goes on.
        site.merge("orders", json!({"spec": {"retry": {"maxAttempts": 4}}})).await;
        site.reason("orders", "Ready").await;
        assert!(metric(&mut second, patches) > by_second);
        // Neither then nor since has it written anything: what it did before it slept is all.
        assert_eq!(metric(&mut first, patches), by_first);
        assert_eq!(holder(site).await, by);
        assert_eq!(metric(&mut first, "lazaret_operator_is_leader"), 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_is_killed_after_each_write_of_a_first_apply_ends_in_the_same_state() {
    in_site("killed", async |site| {
        let proxy = ApiProxy::start(&site.kubeconfig, &site.namespace).await;
        site.apply(&site.pipeline("orders", "")).await;
        // Every operator gets one write further than the one before: it is killed as soon as it has sent it.
        let (sent, mut writes) = watch::channel(0);
        let mut kills = 0;
        for step in 1.. {
            sent.send_replace(0);
            let sent = sent.clone();
            proxy.disturb(move |method, path| {
                let is_write = method != Method::GET && !path.contains("/leases");
                sent.send_if_modified(|count| {
                    *count += i32::from(is_write);
                    is_write
                });
                None
            });
            let mut operator = site.operator_with(&site.namespace, &proxy.kubeconfig);
            let is_ready = tokio::select! {
                _ = writes.wait_for(|count| *count >= step) => false,
                _ = site.reason("orders", "Ready") => true,
            };
            operator.signal("KILL");
            operator.ended();
            // One that is killed gives nothing back, and the next would wait until the lease has expired.
            let leases: Api<Lease> = Api::namespaced(site.client.clone(), &site.namespace);
            let _ = leases.delete(&site.namespace, &Default::default()).await;
            if is_ready {
                break;
            }
            kills += 1;
        }
        assert!(kills >= 10, "only {kills} operators were killed on the way");
        let mut operator = site.operator();
        operator.wait_for("this replica acts now");
        site.reason("orders", "Ready").await;
        let topics = site.topics.list(&Default::default()).await.unwrap().items;
        let mut topics: Vec<_> = topics.iter().map(ResourceExt::name_any).collect();
        topics.sort();
        assert_eq!(topics, ["orders", "orders.dlt", "orders.retry"].map(|topic| site.named(topic)));
        let deployments = site.deployments.list(&Default::default()).await.unwrap().items;
        let deployments: Vec<_> = deployments.iter().map(ResourceExt::name_any).collect();
        assert_eq!(deployments, ["orders-consumer", "orders-retry"]);
        assert!(operator.grep(&["could not be reconciled"]).is_empty());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_and_nobody_reconciled_without_a_cause() {
    in_site("idle", async |site| {
        let mut operator = site.operator();
        for name in ["one", "other"] {
            site.apply(&site.pipeline(name, "consumer: {replicas: 0}\nretry: {replicas: 0}")).await;
            site.reason(name, "Ready").await;
        }
        let versions = async || {
            let other = site.pipelines.get("other").await.unwrap().resource_version();
            let deployment = site.deployments.get("other-consumer").await.unwrap().resource_version();
            (other, deployment)
        };
        // What follows a change takes a moment to come to rest: the last write is seen, and reconciled once more.
        let before = comes_to_rest(Duration::from_secs(2), "nothing is reconciled any more", async || {
            (metric(&mut operator, "lazaret_operator_reconciles_total"), versions().await)
        })
        .await;
        site.merge("one", json!({"spec": {"retry": {"maxAttempts": 3}}})).await;
        site.reason("one", "Ready").await;
        assert_eq!(versions().await, before.1, "the other one is left alone");
        let reconciles = metric(&mut operator, "lazaret_operator_reconciles_total") - before.0;
        assert!((1..=6).contains(&reconciles), "{reconciles} reconciles for one change");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_changes_in_a_second_end_with_the_last() {
    in_site("flurry", async |site| {
        let mut operator = site.operator();
        site.apply(&site.pipeline("orders", "consumer: {replicas: 0}\nretry: {replicas: 0}")).await;
        site.reason("orders", "Ready").await;
        let before = metric(&mut operator, "lazaret_operator_reconciles_total");
        for grace in 1..=10 {
            let change = json!({"spec": {"consumer": {"drainTimeout": format!("{grace}s")}}});
            site.merge("orders", change).await;
        }
        wait_for(&site.deployments, "orders-consumer", "is as asked for last", |deployment| {
            let grace = deployment.spec.template.spec.as_ref()?.termination_grace_period_seconds?;
            (grace == 40).then_some(())
        })
        .await;
        site.reason("orders", "Ready").await;
        let reconciles = metric(&mut operator, "lazaret_operator_reconciles_total") - before;
        assert!(reconciles <= 15, "{reconciles} reconciles for ten changes");
    })
    .await;
}
