//! The image of this tree on a real Kubernetes with a real Kafka and Strimzi's resources.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DynamicObject, ListParams, LogParams};
use kube::{Client, ResourceExt, discovery};

use crate::support::cluster::{
    self, KAFKA, KAFKA_NAMESPACE, apply, deployment, in_namespace, in_namespace_where, kafka_from_here, wait_for,
    worker,
};
use crate::support::{eventually, eventually_ok, topics, unique};

/// The log of the only pod that a Deployment has, once it satisfies the test.
async fn log_with(client: &Client, namespace: &str, deployment: &str, text: &str) -> String {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let labelled = ListParams::default().labels(&format!("app={deployment}"));
    eventually_ok(&format!("the log of {deployment} has {text:?}"), async || {
        let Some(pod) = pods.list(&labelled).await?.items.pop() else { return Ok(None) };
        let log = async |previous| pods.logs(&pod.name_any(), &LogParams { previous, ..LogParams::default() }).await;
        let logs = [log(false).await, log(true).await];
        match logs.iter().flatten().find(|log| log.contains(text)) {
            Some(log) => Ok(Some(log.clone())),
            // Before its first restart there is no log of an earlier one.
            None => logs.into_iter().next().unwrap_or(Ok(String::new())).map(|_| None),
        }
    })
    .await
}

/// KafkaTopics in the namespace of the tests' Kafka.
async fn kafka_topics(client: &Client) -> Api<DynamicObject> {
    let group = discovery::group(client, "kafka.strimzi.io").await.unwrap();
    let (resource, _) = group.recommended_kind("KafkaTopic").expect("Strimzi's CRDs are there");
    Api::namespaced_with(client.clone(), KAFKA_NAMESPACE, &resource)
}

async fn kafka_topic(client: &Client, name: &str, spec: &str) -> Api<DynamicObject> {
    let api = kafka_topics(client).await;
    let version = discovery::group(client, "kafka.strimzi.io").await.unwrap().preferred_version_or_latest().to_owned();
    let object = format!(
        "apiVersion: kafka.strimzi.io/{version}\nkind: KafkaTopic\nmetadata: {{name: {name}, labels: \
         {{strimzi.io/cluster: {KAFKA}}}}}\nspec: {spec}\n"
    );
    apply(client, KAFKA_NAMESPACE, &object).await;
    wait_for(&api, name, "is Ready", |topic| (cluster::condition(topic, "Ready")?.0 == "True").then_some(())).await;
    api
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_of_the_image_runs_and_says_its_version() {
    // A Deployment starts it again and again.
    in_namespace_where("version", &["says-"], async |client, namespace| {
        apply(&client, namespace, &deployment("says", "[--version]", "")).await;
        let log = log_with(&client, namespace, "says", "lazaret ").await;
        assert_eq!(log, concat!("lazaret ", env!("CARGO_PKG_VERSION"), "\n"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_consumes_from_kafka_by_the_name_of_its_bootstrap_service() {
    in_namespace("consumes", async |client, namespace| {
        let topic = unique("consumes");
        for name in [topic.clone(), format!("{topic}.retry"), format!("{topic}.dlt")] {
            kafka_topic(&client, &name, "{partitions: 1}").await;
        }
        apply(&client, namespace, &worker("worker", &topic)).await;
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
        wait_for(&deployments, "worker", "is available", |d| d.status.as_ref()?.available_replicas).await;

        let address = kafka_from_here();
        let producer = topics::producer(&address);
        topics::write(&producer, &topic, Some(b"a"), Some(br#"{"amount": 1}"#), None).await;
        topics::write(&producer, &topic, Some(b"b"), Some(br#"{"amount": -1}"#), None).await;
        let dead = eventually("the record that fails is dead-lettered", async || {
            topics::read_all(&address, &format!("{topic}.dlt")).pop()
        })
        .await;
        assert_eq!(dead.json()["originalKey"], "b");
        let worker = dead.json()["worker"].as_str().unwrap().to_owned();
        assert!(worker.starts_with("worker-"), "the pod is named, not {worker}");

        let api = kafka_topics(&client).await;
        for name in [topic.clone(), format!("{topic}.retry"), format!("{topic}.dlt")] {
            api.delete(&name, &Default::default()).await.unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kafkatopic_makes_the_topic_and_its_deletion_removes_it() {
    let client = cluster::client().await;
    let (name, address) = (unique("made"), kafka_from_here());
    let api = kafka_topic(&client, &name, "{partitions: 3, config: {retention.ms: 3600000}}").await;
    let has = |partitions| topics::has(&address, &name, partitions);
    has(Some(3)).await;
    api.delete(&name, &Default::default()).await.unwrap();
    cluster::wait_until_gone(&api, &name).await;
    has(None).await;
}

/// Asks one of the tests below to fail, in a process of its own.
const FAIL: &str = "LAZARET_FAIL";

/// Runs a test of this file in a process of its own, asks it to fail, and returns what it says then.
fn fail(test: &str) -> String {
    let this = std::env::current_exe().unwrap();
    let name = format!("e2e::{test}");
    let run = std::process::Command::new(this).args(["--exact", &name]).env(FAIL, "1").output().unwrap();
    let said = String::from_utf8_lossy(&run.stdout) + String::from_utf8_lossy(&run.stderr);
    assert!(!run.status.success() && said.contains("1 failed"), "{said}");
    said.into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_that_fails_prints_events_logs_and_objects_of_its_namespace() {
    if std::env::var_os(FAIL).is_some() {
        return in_namespace("fails", async |client, namespace| {
            apply(&client, namespace, &deployment("cannot-start", "[worker, --stage, neither]", "")).await;
            log_with(&client, namespace, "cannot-start", "invalid value 'neither'").await;
            panic!("on purpose");
        })
        .await;
    }
    let said = fail("a_test_that_fails_prints_events_logs_and_objects_of_its_namespace");
    assert!(said.contains("on purpose"), "{said}");
    assert!(said.contains("ReplicaSet/cannot-start-") && said.contains(": SuccessfulCreate: "), "events\n{said}");
    assert!(said.contains("error: invalid value 'neither' for '--stage <STAGE>'"), "logs\n{said}");
    assert!(said.contains("# Deployment cannot-start"), "objects\n{said}");
    assert!(!said.contains("managedFields"), "what nobody reads is left out\n{said}");
}

/// The one container of the one pod of a namespace, as its number in containerd and how often it was restarted.
async fn container(client: &Client, namespace: &str) -> Option<(String, i32)> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let status = pods.list(&Default::default()).await.ok()?.items.pop()?.status?.container_statuses?.pop()?;
    status.state?.running?;
    Some((status.container_id?.trim_start_matches("containerd://").to_owned(), status.restart_count))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_killed_fails_the_test_that_it_happens_in_with_its_exit_code_and_its_log() {
    if std::env::var_os(FAIL).is_some() {
        return in_namespace("killed", async |client, namespace| {
            apply(&client, namespace, &worker("worker", "nobodys")).await;
            let running = async || container(&client, namespace).await;
            let (id, _) = eventually("it runs", running).await;
            log_with(&client, namespace, "worker", "listening").await;
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bed/in.sh");
            let kill = ["ctr", "-n", "k8s.io", "task", "kill", "-s", "SIGKILL", &id];
            assert!(std::process::Command::new(script).args(kill).status().unwrap().success());
            // It is back at once, and nothing else of the test would tell.
            eventually("it runs again", async || (running().await?.1 == 1).then_some(())).await;
        })
        .await;
    }
    let said = fail("a_pod_that_is_killed_fails_the_test_that_it_happens_in_with_its_exit_code_and_its_log");
    let told =
        said.lines().find(|line| line.contains("container lazaret of pod worker-")).unwrap_or_else(|| panic!("{said}"));
    assert!(told.contains("ended with exit code 137"), "{told}");
    let (_, log) = said.split_once(told).unwrap();
    assert!(log.lines().nth(1).is_some_and(|line| line.contains("listening") || line.contains("\"level\"")), "{said}");
}
