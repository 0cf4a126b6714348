//! The stand-in for Strimzi's topic operator answers as the real one did: `bed/topic_operator/observed.txt` has what
//! release 1.2.0 wrote, step by step, and each step is taken again here.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use crate::support::cluster::{condition, in_namespace, kafka_from_here, wait_for, wait_until_gone};
use crate::support::topics;
use crate::topic_operator;

const OBSERVED: &str = include_str!("../bed/topic_operator/observed.txt");

/// No test waits that long.
const NEVER: Duration = Duration::from_secs(86_400);

/// A stand-in of the test's own, for the topics of its namespace, and what the test does to them.
struct Replay {
    api: Api<DynamicObject>,
    namespace: String,
    version: String,
    /// The ids of topics, by those of the real run.
    ids: Mutex<HashMap<String, String>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Replay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Replay {
    async fn start(client: Client, namespace: &str, kafka: &str, resync: Duration, kafka_timeout: Duration) -> Self {
        let resource = topic_operator::served(&client).await.unwrap();
        let settings = topic_operator::Settings {
            namespace: namespace.to_owned(),
            cluster: "replayed".to_owned(),
            bootstrap_servers: kafka.to_owned(),
            resync,
            kafka_timeout,
        };
        let api = Api::namespaced_with(client.clone(), namespace, &resource);
        let task = tokio::spawn(async move { topic_operator::run(client, settings).await.unwrap() });
        let (namespace, version) = (namespace.to_owned(), resource.api_version);
        Self { api, namespace, version, ids: Mutex::default(), task }
    }

    /// The topic, and the object of the same name, that stand for one of the real run.
    fn named(&self, name: &str) -> String {
        format!("{}.{name}", self.namespace)
    }

    async fn create(&self, name: &str, annotations: Value, spec: Value) {
        self.create_for("replayed", name, annotations, spec).await;
    }

    async fn create_for(&self, cluster: &str, name: &str, annotations: Value, mut spec: Value) {
        if let Some(topic) = spec.get("topicName").and_then(Value::as_str).filter(|topic| !topic.contains(' ')) {
            spec["topicName"] = self.named(topic).into();
        }
        let object = json!({
            "apiVersion": self.version, "kind": "KafkaTopic", "spec": spec,
            "metadata": {"name": self.named(name), "annotations": annotations, "labels": {"strimzi.io/cluster": cluster}},
        });
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        self.api.create(&Default::default(), &object).await.unwrap();
    }

    async fn merge(&self, name: &str, patch: Value) {
        self.api.patch(&self.named(name), &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    async fn spec(&self, name: &str, spec: Value) {
        self.merge(name, json!({"spec": spec})).await;
    }

    async fn annotate(&self, name: &str, annotation: &str, value: Value) {
        self.merge(name, json!({"metadata": {"annotations": {annotation: value}}})).await;
    }

    async fn delete(&self, name: &str) {
        self.api.delete(&self.named(name), &Default::default()).await.unwrap();
        wait_until_gone(&self.api, &self.named(name)).await;
    }

    /// Waits until Kafka has the topic with so many partitions, or has it no more: brokers learn of both a moment later.
    async fn has(&self, name: &str, partitions: Option<usize>) {
        topics::has(&kafka_from_here(), &self.named(name), partitions).await;
    }

    fn partitions(&self, name: &str) -> Option<usize> {
        topics::partitions(&kafka_from_here(), &self.named(name))
    }

    /// Waits until an object has the finalizer and the status that the real operator gave it in a step.
    async fn as_observed(&self, step: &str, name: &str) {
        let (finalizers, mut status) = observed(step, name);
        let text = |name: &Value| name.as_str().filter(|name| !name.contains(' ')).map(|name| self.named(name));
        if let Some(topic) = text(&status["topicName"]) {
            status["topicName"] = topic.into();
        }
        let owner = |message: &Value| {
            let owner = message.as_str()?.strip_prefix("Managed by Ref{namespace='default', name='")?;
            Some(self.named(owner.trim_end_matches("'}")))
        };
        if let Some(owner) = owner(&status["conditions"][0]["message"]) {
            let message = format!("Managed by Ref{{namespace='{}', name='{owner}'}}", self.namespace);
            status["conditions"][0]["message"] = message.into();
        }
        let what = format!("step {step}: finalizers {finalizers}, status {status}");
        wait_for(&self.api, &self.named(name), &what, |object| {
            let mut is = object.data["status"].clone();
            for condition in is["conditions"].as_array_mut()? {
                condition.as_object_mut()?.remove("lastTransitionTime").expect("a condition says since when");
            }
            if let Some(id) = status["topicId"].as_str() {
                let known =
                    self.ids.lock().unwrap().entry(id.to_owned()).or_insert(is["topicId"].as_str()?.to_owned()).clone();
                assert_eq!(is["topicId"], known, "a topic keeps its id");
                is["topicId"] = id.into();
            }
            (is == status && json!(object.finalizers()) == finalizers).then_some(())
        })
        .await;
    }
}

/// The finalizers and the status of an object at the end of a step.
fn observed(step: &str, name: &str) -> (Value, Value) {
    let mut lines = OBSERVED.lines().skip_while(|line| line.split(' ').next() != Some(step));
    let prefix = format!("   {name}: gen=");
    let line =
        lines.find(|line| line.starts_with(&prefix)).unwrap_or_else(|| panic!("step {step} says nothing of {name}"));
    let (_, rest) = line.split_once(" fin=").unwrap();
    let (finalizers, status) = rest.split_once(" status=").unwrap();
    let json = |text: &str| if text.is_empty() { json!([]) } else { serde_json::from_str(text).unwrap() };
    (json(finalizers), json(status))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_the_real_operator_is_answered_alike() {
    in_namespace("replay", async |client, namespace| {
        let replay = Replay::start(client, namespace, &kafka_from_here(), NEVER, NEVER).await;
        let (managed, paused) = ("strimzi.io/managed", "strimzi.io/pause-reconciliation");
        let plain = || json!({});
        let one = || json!({"partitions": 1, "replicas": 1});

        replay.create("a1", plain(), json!({"partitions": 3, "replicas": 1})).await;
        replay.has("a1", Some(3)).await;
        replay.spec("a1", json!({"partitions": 5})).await;
        replay.as_observed("1", "a1").await;
        replay.has("a1", Some(5)).await;
        replay.spec("a1", json!({"partitions": 2})).await;
        replay.as_observed("2", "a1").await;
        replay.spec("a1", json!({"partitions": 5, "config": {"retention.ms": 1000}})).await;
        replay.as_observed("2b", "a1").await;
        replay.spec("a1", json!({"config": {"retention.ms": "soon"}})).await;
        replay.as_observed("3", "a1").await;
        replay.spec("a1", json!({"config": {"retention.ms": null, "retention.mss": 1}})).await;
        replay.as_observed("4", "a1").await;
        replay.spec("a1", json!({"config": null, "replicas": 2})).await;
        replay.as_observed("5", "a1").await;
        replay.spec("a1", json!({"replicas": 1})).await;
        replay.as_observed("5b", "a1").await;
        replay.spec("a1", json!({"topicName": replay.named("other")})).await;
        replay.as_observed("6", "a1").await;
        assert_eq!(replay.partitions("other"), None);

        let brokers = topics::brokers(&kafka_from_here());
        if brokers == 1 {
            replay.create("b1", plain(), json!({"partitions": 1, "replicas": 3})).await;
            replay.as_observed("7", "b1").await;
        }
        replay.create("b2", plain(), json!({"partitions": 1, "config": {"retention.ms": "soon"}})).await;
        replay.as_observed("8", "b2").await;
        replay.create("b2b", plain(), json!({"partitions": 1, "config": {"nosuch.key": 1}})).await;
        replay.as_observed("8b", "b2b").await;
        replay.create("b3", plain(), json!({"partitions": 1, "topicName": "bad name!"})).await;
        replay.as_observed("9", "b3").await;

        replay.create("c1", plain(), json!({"topicName": "shared"})).await;
        replay.as_observed("10", "c1").await;
        replay.create("c2", plain(), json!({"topicName": "shared"})).await;
        replay.as_observed("10", "c2").await;
        replay.as_observed("10", "c1").await;
        replay.create("d1", plain(), json!({})).await;
        replay.as_observed("11", "d1").await;
        replay.has("d1", Some(1)).await;
        replay.create("e1", json!({managed: "false"}), one()).await;
        replay.as_observed("12", "e1").await;
        assert_eq!(replay.partitions("e1"), None);
        replay.create("f1", json!({paused: "true"}), one()).await;
        replay.as_observed("13", "f1").await;
        assert_eq!(replay.partitions("f1"), None);
        replay.annotate("f1", paused, Value::Null).await;
        replay.as_observed("13b", "f1").await;
        replay.annotate("f1", paused, json!("true")).await;
        replay.spec("f1", json!({"partitions": 4})).await;
        replay.as_observed("13c", "f1").await;
        replay.has("f1", Some(1)).await;
        replay.create_for("another", "g1", plain(), one()).await;

        topics::create(
            &kafka_from_here(),
            &replay.named("adopt"),
            7,
            &[("min.insync.replicas", "1"), ("retention.ms", "9")],
        )
        .await;
        replay.has("adopt", Some(7)).await;
        replay.create("adopt", plain(), json!({"config": {"min.insync.replicas": 1}})).await;
        replay.as_observed("15", "adopt").await;
        for (setting, value) in [("min.insync.replicas", Some("1")), ("retention.ms", None)] {
            topics::is_set(&kafka_from_here(), &replay.named("adopt"), setting, value).await;
        }
        let ignored = replay.api.get(&replay.named("g1")).await.unwrap();
        assert!(ignored.data["status"].is_null(), "step 14: another cluster's topic is not looked at");
        assert_eq!((ignored.finalizers().len(), replay.partitions("g1")), (0, None));

        replay.spec("a1", json!({"topicName": null})).await;
        replay.annotate("a1", managed, json!("false")).await;
        replay.as_observed("16", "a1").await;
        replay.delete("a1").await;
        assert_eq!(replay.partitions("a1"), Some(5), "step 16: an unmanaged topic stays");
        replay.create("h1", plain(), one()).await;
        replay.as_observed("17", "h1").await;
        replay.delete("h1").await;
        replay.has("h1", None).await;
        replay.delete("c2").await;
        assert_eq!(replay.partitions("shared"), Some(1), "step 18: the topic of the older one stays");
        replay.as_observed("18", "c1").await;

        for name in ["b2", "b2b", "b3", "c1", "d1", "e1", "f1", "g1", "adopt"] {
            replay.delete(name).await;
        }
        replay.has("f1", None).await; // a topic that is paused is deleted all the same
        if brokers == 1 {
            replay.delete("b1").await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_to_a_topic_behind_its_back_is_seen_at_the_resync_and_not_before() {
    in_namespace("resync", async |client, namespace| {
        let kafka = kafka_from_here();
        let replay = Replay::start(client.clone(), namespace, &kafka, NEVER, NEVER).await;
        replay.create("gone", json!({}), json!({"partitions": 1})).await;
        wait_for(&replay.api, &replay.named("gone"), "is Ready", ready).await;
        topics::delete(&kafka, &replay.named("gone")).await;
        replay.has("gone", None).await;
        replay.create("later", json!({}), json!({"partitions": 1})).await;
        wait_for(&replay.api, &replay.named("later"), "is Ready", ready).await;
        assert_eq!(replay.partitions("gone"), None);
        drop(replay);

        let replay = Replay::start(client, namespace, &kafka, Duration::from_secs(1), NEVER).await;
        replay.has("gone", Some(1)).await;
        let id = |topic: &DynamicObject| topic.data["status"]["topicId"].as_str().map(str::to_owned);
        let first = wait_for(&replay.api, &replay.named("gone"), "has an id", id).await;
        topics::delete(&kafka, &replay.named("gone")).await;
        let another = |topic: &DynamicObject| id(topic).filter(|id| *id != first);
        wait_for(&replay.api, &replay.named("gone"), "is made again", another).await;
        replay.delete("gone").await;
        replay.delete("later").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_renamed_is_not_deleted_before_it_has_its_name_again() {
    in_namespace("renamed", async |client, namespace| {
        let replay = Replay::start(client, namespace, &kafka_from_here(), NEVER, NEVER).await;
        replay.create("kept", json!({}), json!({"partitions": 1})).await;
        wait_for(&replay.api, &replay.named("kept"), "is Ready", ready).await;
        replay.spec("kept", json!({"topicName": replay.named("other")})).await;
        replay.api.delete(&replay.named("kept"), &Default::default()).await.unwrap();
        replay.create("later", json!({}), json!({"partitions": 1})).await;
        wait_for(&replay.api, &replay.named("later"), "is Ready", ready).await;
        assert!(
            replay
                .api
                .get(&replay.named("kept"))
                .await
                .unwrap()
                .finalizers()
                .contains(&topic_operator::FINALIZER.to_owned())
        );
        assert_eq!(replay.partitions("kept"), Some(1));
        replay.spec("kept", json!({"topicName": null})).await;
        wait_until_gone(&replay.api, &replay.named("kept")).await;
        replay.has("kept", None).await;
        replay.delete("later").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_kafka_is_away_a_ready_topic_says_so_and_is_well_again_at_the_next_resync() {
    in_namespace("away", async |client, namespace| {
        let link = crate::support::link::Link::to(&kafka_from_here()).await;
        let (resync, timeout) = (Duration::from_secs(1), Duration::from_secs(2));
        let replay = Replay::start(client, namespace, &link.address, resync, timeout).await;
        replay.create("up", json!({}), json!({"partitions": 1})).await;
        wait_for(&replay.api, &replay.named("up"), "is Ready", ready).await;
        link.cut();
        let failed = "org.apache.kafka.common.errors.TimeoutException: Timed out waiting for a node assignment. Call: describeConfigs";
        assert!(OBSERVED.contains(failed));
        wait_for(&replay.api, &replay.named("up"), "says that Kafka is away", |topic| {
            let (status, reason, message) = condition(topic, "Ready")?;
            (status == "False" && reason == "KafkaError" && message == failed).then_some(())
        })
        .await;
        link.mend();
        wait_for(&replay.api, &replay.named("up"), "is Ready again", ready).await;
        replay.delete("up").await;
    })
    .await;
}

fn ready(topic: &DynamicObject) -> Option<()> {
    (condition(topic, "Ready")?.0 == "True").then_some(())
}
