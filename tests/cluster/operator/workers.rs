//! What becomes of workers.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use kube::api::{Api, ListParams, LogParams, Patch, PatchParams};
use serde_json::json;

use crate::site::{Site, in_site, in_site_where};
use crate::support::cluster::{here, image, kafka_from_here, wait_for, wait_until_gone};
use crate::support::processor::Endpoint;
use crate::support::{eventually, topics};

fn api<K>(site: &Site) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    Api::namespaced(site.client.clone(), &site.namespace)
}

async fn pods(site: &Site, stage: &str) -> Vec<Pod> {
    let labels = format!("lazaret.dev/pipeline=orders,lazaret.dev/stage={stage}");
    api::<Pod>(site).list(&ListParams::default().labels(&labels)).await.unwrap().items
}

async fn scale(site: &Site, deployment: &str, replicas: i32) {
    let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    site.deployments.patch_scale(deployment, &PatchParams::default(), &patch).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_processed_and_dead_lettered_by_restricted_pods_without_a_token() {
    in_site("works", async |site| {
        let _operator = site.operator();
        site.apply(&site.pipeline("orders", "ingress: {enabled: true}")).await;
        site.reason("orders", "Ready").await;
        let kafka = kafka_from_here();
        let producer = topics::producer(&kafka);
        topics::write(&producer, &site.named("orders"), Some(b"a"), Some(br#"{"amount": -1}"#), None).await;
        let letter =
            eventually("a dead letter", async || topics::read_all(&kafka, &site.named("orders.dlt")).pop()).await;
        let [pod] = &pods(site, "main").await[..] else { panic!("one pod") };
        assert_eq!(letter.json()["worker"], pod.name_any());
        // The namespace refuses what is not restricted; what it does not ask for is looked at here.
        let spec = pod.spec.as_ref().unwrap();
        assert_eq!(spec.automount_service_account_token, Some(false));
        let security = spec.containers[0].security_context.as_ref().unwrap();
        assert_eq!((security.read_only_root_filesystem, security.run_as_user), (Some(true), None));
        assert!(spec.volumes.iter().flatten().all(|volume| volume.projected.is_none() && volume.secret.is_none()));
        assert_eq!(spec.termination_grace_period_seconds, Some(35));
        let account = api::<ServiceAccount>(site).get("orders-worker").await.unwrap();
        assert_eq!(account.automount_service_account_token, Some(false));
        let budget = api::<PodDisruptionBudget>(site).get("orders-consumer").await.unwrap();
        assert!(budget.spec.unwrap().max_unavailable.is_some());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_scales_a_deployment_is_left_alone_and_the_scale_subresource_works() {
    in_site("scale", async |site| {
        let _operator = site.operator();
        site.apply(&site.pipeline("orders", "")).await;
        site.reason("orders", "Ready").await;
        scale(site, "orders-consumer", 2).await;
        let both = |deployment: &Deployment| (deployment.status.as_ref()?.ready_replicas == Some(2)).then_some(());
        wait_for(&site.deployments, "orders-consumer", "has two workers", both).await;
        wait_for(&site.pipelines, "orders", "counts two workers", |pipeline| {
            (pipeline.status.as_ref()?.consumer.ready_replicas == 2).then_some(())
        })
        .await;
        // Another change reconciles the pipeline; the number stays.
        site.merge("orders", json!({"spec": {"retry": {"maxAttempts": 3}}})).await;
        site.reason("orders", "Ready").await;
        assert_eq!(site.deployments.get("orders-consumer").await.unwrap().spec.replicas, Some(2));

        let one = Patch::Merge(json!({"spec": {"replicas": 1}}));
        site.pipelines.patch_scale("orders", &PatchParams::default(), &one).await.unwrap();
        wait_for(&site.deployments, "orders-consumer", "has one worker", |deployment| {
            (deployment.spec.replicas == Some(1)).then_some(())
        })
        .await;
        let scaled = site.pipelines.get_scale("orders").await.unwrap();
        let selector = scaled.status.unwrap().selector.unwrap();
        assert_eq!(selector, "lazaret.dev/pipeline=orders,lazaret.dev/stage=main");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_of_workers_that_the_spec_no_longer_names_stays_until_somebody_scales() {
    in_site("handed", async |site| {
        let _operator = site.operator();
        site.apply(&site.pipeline("orders", "consumer: {replicas: 2}\nretry: {replicas: 0}")).await;
        site.reason("orders", "Ready").await;
        let none = json!({"spec": {"consumer": {"replicas": null, "drainTimeout": "7s"}}});
        site.merge("orders", none).await;
        wait_for(&site.deployments, "orders-consumer", "is as asked for now", |deployment| {
            let grace = deployment.spec.template.spec.as_ref()?.termination_grace_period_seconds?;
            (grace == 37).then_some(())
        })
        .await;
        assert_eq!(site.deployments.get("orders-consumer").await.unwrap().spec.replicas, Some(2));
        scale(site, "orders-consumer", 1).await;
        site.merge("orders", json!({"spec": {"consumer": {"drainTimeout": "8s"}}})).await;
        site.reason("orders", "Ready").await;
        assert_eq!(site.deployments.get("orders-consumer").await.unwrap().spec.replicas, Some(1));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_changes_or_deletes_is_as_asked_for_again() {
    in_site("drift", async |site| {
        let _operator = site.operator();
        site.apply(&site.pipeline("orders", "ingress: {enabled: true}")).await;
        site.reason("orders", "Ready").await;
        let edited = json!({"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1,
            "containers": [{"name": "worker", "image": "other"}]}}}});
        let edited = Patch::Strategic(edited);
        site.deployments.patch("orders-retry", &PatchParams::default(), &edited).await.unwrap();
        wait_for(&site.deployments, "orders-retry", "has its image again", |deployment| {
            let pod = deployment.spec.template.spec.as_ref()?;
            let is_ours = pod.containers[0].image.as_ref() == Some(&image());
            (is_ours && pod.termination_grace_period_seconds == Some(35)).then_some(())
        })
        .await;
        async fn comes_back<K>(api: Api<K>, name: &str)
        where
            K: kube::Resource<DynamicType = ()>
                + Clone
                + std::fmt::Debug
                + serde::de::DeserializeOwned
                + serde::Serialize
                + Send
                + 'static,
        {
            let uid = api.get(name).await.unwrap().meta().uid.clone();
            api.delete(name, &Default::default()).await.unwrap();
            wait_for(&api, name, "is another one", |object| (object.meta().uid != uid).then_some(())).await;
        }
        comes_back(api::<Service>(site), "orders-consumer").await;
        comes_back(api::<Service>(site), "orders-workers").await;
        comes_back(api::<ConfigMap>(site), "orders-worker").await;
        comes_back(api::<PodDisruptionBudget>(site), "orders-retry").await;
        comes_back(site.deployments.clone(), "orders-consumer").await;
        site.reason("orders", "Ready").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_spec_asked_for_is_removed() {
    in_site("unwanted", async |site| {
        let _operator = site.operator();
        site.apply(&site.pipeline("orders", "retry: {autoscaling: {maxReplicas: 2}}")).await;
        site.reason("orders", "Ready").await;
        let autoscalers = api::<HorizontalPodAutoscaler>(site);
        assert!(autoscalers.get_opt("orders-retry").await.unwrap().is_some());
        site.merge("orders", json!({"spec": {"retry": {"autoscaling": null}}})).await;
        wait_until_gone(&autoscalers, "orders-retry").await;
        assert!(api::<Service>(site).get_opt("orders-workers").await.unwrap().is_some());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn templates_reach_the_pods_and_only_what_concerns_workers_restarts_them() {
    in_site("template", async |site| {
        let _operator = site.operator();
        let template = "template: {pod: {metadata: {labels: {team: shop, lazaret.dev/stage: mine}, annotations: {a: b}}, \
             tolerations: [{key: spot, operator: Exists}], nodeSelector: {kubernetes.io/os: linux}}, container: {env: \
             [{name: RUST_LOG, value: debug}], resources: {requests: {memory: 64Mi}}}}";
        let retry = format!("retry: {{groupId: {}, {template}}}", site.named("retry"));
        site.apply(&site.pipeline("orders", &retry)).await;
        site.reason("orders", "Ready").await;
        let [pod] = &pods(site, "retry").await[..] else { panic!("one pod") };
        assert_eq!((&*pod.labels()["team"], &*pod.labels()["lazaret.dev/stage"]), ("shop", "retry"));
        assert_eq!(pod.annotations()["a"], "b");
        let spec = pod.spec.as_ref().unwrap();
        assert_eq!(spec.containers[0].env.as_ref().unwrap()[0].name, "RUST_LOG");
        assert!(spec.tolerations.iter().flatten().any(|toleration| toleration.key.as_deref() == Some("spot")));
        let requests = spec.containers[0].resources.as_ref().unwrap().requests.as_ref().unwrap();
        assert_eq!(requests.keys().collect::<Vec<_>>(), ["memory"]);

        let names = |pods: Vec<Pod>| pods.iter().map(ResourceExt::name_any).collect::<Vec<_>>();
        let before = [names(pods(site, "main").await), names(pods(site, "retry").await)];
        let unrelated = json!({"spec": {"topic": {"partitions": 4}, "consumer": {"replicas": 1},
            "ingress": {"nodePort": 31_099}, "dlt": {"topic": {"partitions": 5}}}});
        site.merge("orders", unrelated).await;
        topics::has(&kafka_from_here(), &site.named("orders.dlt"), Some(5)).await;
        site.reason("orders", "Ready").await;
        assert_eq!(before, [names(pods(site, "main").await), names(pods(site, "retry").await)]);
        site.merge("orders", json!({"spec": {"retry": {"maxAttempts": 2}}})).await;
        eventually("other pods", async || {
            let now = names(pods(site, "main").await);
            now.iter().all(|name| !before[0].contains(name)).then_some(())
        })
        .await;
    })
    .await;
}

/// Waits until a worker's trouble has one of these reasons, and returns the message.
async fn trouble(site: &Site, reasons: &[&str], words: &[&str]) {
    site.says("orders", &format!("tells of workers {reasons:?} with {words:?}"), |status| {
        let workers = status.conditions.iter().find(|condition| condition.type_ == "WorkersReady")?;
        let is_so = reasons.contains(&&*workers.reason) && words.iter().all(|word| workers.message.contains(word));
        is_so.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn why_a_pod_does_not_run_is_said_in_its_own_words() {
    in_site_where("trouble", &["orders-"], async |site| {
        let _operator = site.operator();
        let group = site.named("retry");
        let template = |template: &str| format!("retry: {{groupId: {group}, template: {{{template}}}}}");
        site.apply(&site.pipeline("orders", &template("pod: {nodeSelector: {moon: far-side}}"))).await;
        trouble(site, &["Unschedulable"], &["orders-retry-", "node"]).await;
        let too_little = template("container: {resources: {limits: {memory: 12Mi}}}");
        site.apply(&site.pipeline("orders", &too_little)).await;
        // An idle worker would do with that.
        let producer = topics::producer(&kafka_from_here());
        for _ in 0..40 {
            topics::write(&producer, &site.named("orders.retry"), None, Some(&[b'x'; 900_000]), None).await;
        }
        trouble(site, &["CrashLoopBackOff", "OOMKilled"], &["orders-retry-", "OOMKilled"]).await;
        // A worker that trusts nobody cannot call its processor: it says so and ends.
        let secure = |more: &str| template(more) + "\nprocessor: {http: {url: 'https://orders.example'}}";
        let nobody = "container: {env: [{name: SSL_CERT_FILE, value: /nobody}, {name: SSL_CERT_DIR, value: /nobody}]}";
        site.apply(&site.pipeline("orders", &secure(nobody))).await;
        trouble(site, &["CrashLoopBackOff"], &["Error, exit code 2"]).await;
        // The image has the certificates of those that everybody trusts.
        site.apply(&site.pipeline("orders", &secure(""))).await;
        site.reason("orders", "Ready").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_be_had_is_named() {
    in_site("image", async |site| {
        let _operator = site.operator();
        site.apply(&site.pipeline("orders", "processor: {container: {image: 'registry.invalid/orders:1'}}")).await;
        trouble(site, &["ErrImagePull", "ImagePullBackOff"], &["registry.invalid/orders:1"]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_beside_the_worker_is_called_with_each_record() {
    in_site("called", async |site| {
        let _operator = site.operator();
        let container = "processor: {container: {image: 'lazaret.dev/bed/processor:1', path: /orders, env: [{name: \
             START_DELAY, value: 2s}]}}";
        site.apply(&site.pipeline("orders", container)).await;
        site.reason("orders", "Ready").await;
        let (kafka, topic) = (kafka_from_here(), site.named("orders"));
        let producer = topics::producer(&kafka);
        for (key, value) in [("a", r#"{"amount": 1}"#), ("b", r#"{"amount": -1}"#), ("c", r#"{"amount": 2}"#)] {
            topics::write(&producer, &topic, Some(key.as_bytes()), Some(value.as_bytes()), None).await;
        }
        let dlt = site.named("orders.dlt");
        let letter = eventually("a dead letter", async || topics::read_all(&kafka, &dlt).pop()).await.json();
        assert_eq!((&letter["originalKey"], &letter["errorType"]), (&json!("b"), &json!("InvalidOrder")));
        // The worker began when it was there: no call failed for want of it.
        let [pod] = &pods(site, "main").await[..] else { panic!("one pod") };
        let worker = LogParams { container: Some("worker".into()), ..LogParams::default() };
        let log = api::<Pod>(site).logs(&pod.name_any(), &worker).await.unwrap();
        assert!(!log.contains("Retry scheduled"), "{log}");
        assert!(topics::read_all(&kafka, &site.named("orders.retry")).is_empty());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_waits_for_the_container_beside_it() {
    in_site_where("beside", &["orders-"], async |site| {
        let _operator = site.operator();
        // It ends at once, as it has nothing to run.
        let container = format!("processor: {{container: {{image: '{}', args: [worker]}}}}", image());
        site.apply(&site.pipeline("orders", &container)).await;
        trouble(site, &["CrashLoopBackOff"], &["exit code 2"]).await;
        let pods = pods(site, "main").await;
        let workers =
            pods.iter().flat_map(|pod| pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten()));
        assert!(workers.into_iter().all(|worker| worker.started != Some(true)), "the worker waits");
    })
    .await;
}

/// Every dead letter, by its original place, and how often it is there.
fn letters(kafka: &str, topic: &str) -> BTreeMap<(i64, i64), usize> {
    let mut found = BTreeMap::new();
    for letter in topics::read_all(kafka, topic) {
        let letter = letter.json();
        let place = (letter["originalPartition"].as_i64().unwrap(), letter["originalOffset"].as_i64().unwrap());
        *found.entry(place).or_default() += 1;
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_update_loses_nothing_and_does_nothing_twice() {
    in_site("rolling", async |site| {
        let _operator = site.operator();
        let endpoint = Endpoint::start_at(&here()).await;
        let processor = format!("processor: {{http: {{url: '{}'}}}}\ncircuitBreaker: {{enabled: false}}", endpoint.url);
        site.apply(&site.pipeline("orders", &processor)).await;
        site.reason("orders", "Ready").await;
        scale(site, "orders-consumer", 2).await;
        let (kafka, topic) = (kafka_from_here(), site.named("orders"));
        let writes = tokio::spawn({
            let (kafka, topic) = (kafka.clone(), topic.clone());
            async move {
                let producer = topics::producer(&kafka);
                let mut every = tokio::time::interval(Duration::from_millis(10));
                for n in 0..1_000 {
                    every.tick().await;
                    // One in ten is called for a while: some are under way when a pod is told to end.
                    let answers = [if n == 0 { 200 } else { 422 }];
                    let value = json!({"id": n.to_string(), "answers": answers, "pauseMs": 200 * (n % 10 / 9)});
                    let (key, value) = (n.to_string(), value.to_string());
                    topics::write(&producer, &topic, Some(key.as_bytes()), Some(value.as_bytes()), None).await;
                }
            }
        });
        // Two rolls while records flow.
        for attempts in [3, 4] {
            site.merge("orders", json!({"spec": {"retry": {"maxAttempts": attempts}}})).await;
            site.reason("orders", "Ready").await;
        }
        writes.await.unwrap();
        // Record 0 is fine.
        let dlt = site.named("orders.dlt");
        eventually("999 dead letters", async || (letters(&kafka, &dlt).len() == 999).then_some(())).await;
        let twice: Vec<_> = letters(&kafka, &dlt).into_iter().filter(|(_, times)| *times > 1).collect();
        assert_eq!(twice, vec![]);
        // What a pod had begun it has finished and committed before it ended.
        let mut calls: BTreeMap<_, usize> = BTreeMap::new();
        endpoint.calls().iter().for_each(|call| *calls.entry(call.id()).or_default() += 1);
        let again: Vec<_> = calls.iter().filter(|(_, times)| **times > 1).collect();
        assert_eq!((calls.len(), again), (1_000, vec![]), "each record is called once");
    })
    .await;
}
