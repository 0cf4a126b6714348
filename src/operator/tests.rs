//! The pure rooms, from the YAML of a user to objects and status, without a cluster.

use std::sync::Arc;

use insta::assert_snapshot;
use k8s_openapi::jiff::Timestamp;
use kube::core::DeserializeGuard;
use rdkafka::types::RDKafkaErrorCode;
use serde_json::{Value, json};

use super::build::{build_kafka_topics, build_workers};
use super::dereference::{Found, KafkaFound, TopicFound};
use super::error::{Error, Said, with_causes};
use super::observe::{StageState, TopicState};
use super::status::{self, Outcome};
use super::strimzi::Strimzi;
use super::validate::{Invalid, TopicStep, ValidatedPipeline, validate};
use crate::api::file;
use crate::api::v1alpha1::ErrorHandlingPipeline;
use crate::domain::topic::TopicShape;
use crate::kafka::topics::TopicError;

/// A pipeline as the API server has it, a day old.
fn pipeline(name: &str, spec: &str) -> ErrorHandlingPipeline {
    let text = format!(
        "apiVersion: lazaret.dev/v1alpha1\nkind: ErrorHandlingPipeline\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec:\n  {}\n",
        spec.trim().replace('\n', "\n  ")
    );
    let mut object = file::parse("test.yaml", &text).unwrap_or_else(|error| panic!("{error}\n{text}")).remove(0);
    object.metadata.uid = Some(format!("uid-of-{name}"));
    object.metadata.generation = Some(1);
    object.metadata.creation_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(0)));
    object
}

const SMALL: &str = "kafka: {cluster: main}
topic: {name: orders, partitions: 6, replicas: 3}
processor: {http: {url: 'http://orders.shop.svc:8080/orders'}}";

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

fn object(value: Value) -> Box<kube::api::DynamicObject> {
    Box::new(serde_json::from_value(value).unwrap())
}

/// A Kafka, and no topic.
fn found() -> Found {
    let kafka = object(json!({
        "apiVersion": "kafka.strimzi.io/v1", "kind": "Kafka", "metadata": {"name": "main", "namespace": "shop"},
        "spec": {"kafka": {"listeners": [{"name": "plain", "type": "internal"}]}},
        "status": {"listeners": [{"name": "plain", "bootstrapServers": "main-kafka-bootstrap.shop.svc:9092"}]},
    }));
    Found { kafka: KafkaFound::Object(kafka), ..Found::default() }
}

fn with_topic(name: &str, topic: TopicFound) -> Found {
    let mut found = found();
    found.topics =
        ["orders", "orders.retry", "orders.dlt", "orders.DLT"].map(|name| (name.to_owned(), TopicFound::Absent)).into();
    found.topics.insert(name.to_owned(), topic);
    found
}

fn valid(spec: &str, found: &Found) -> ValidatedPipeline {
    validate(&Arc::new(pipeline("orders", spec)), found).unwrap_or_else(|error| panic!("{error}"))
}

/// What becomes of a topic, by its place: main, retry, DLT.
fn step(spec: &str, found: &Found, at: usize) -> TopicStep {
    valid(spec, found).topics.remove(at).1
}

fn refusal(step: &TopicStep) -> (&'static str, &str) {
    match step {
        TopicStep::Refuse { reason, message } => (reason, message),
        other => panic!("it is not refused: {other:?}"),
    }
}

/// A KafkaTopic of the dead letter topic.
fn kafka_topic(labels: Value, spec: Value) -> TopicFound {
    let metadata = json!({"name": "orders.dlt", "namespace": "shop", "labels": labels});
    TopicFound::Object(object(json!({"apiVersion": "v", "kind": "KafkaTopic", "metadata": metadata, "spec": spec})))
}

fn built(spec: &str) -> String {
    let validated = valid(spec, &with_topic("orders", TopicFound::Absent));
    let topics = build_kafka_topics(&validated, &Strimzi::in_version("v1").kafka_topic);
    let objects = topics.into_iter().map(|wanted| wanted.object).chain(build_workers(&validated, "lazaret:1"));
    objects.map(|object| format!("---\n{}", serde_saphyr::to_string(&object).unwrap())).collect()
}

#[test]
fn the_smallest_pipeline_gives_these_objects() {
    assert_snapshot!(built(SMALL));
}

#[test]
fn everything_that_can_be_asked_for_gives_these_objects() {
    assert_snapshot!(built(
        "kafka: {cluster: main}
deletionPolicy: Delete
topic: {name: orders, replicas: 3, config: {max.message.bytes: 2000000}}
retry: {topic: {config: {segment.ms: 1}}, replicas: 2}
dlt: {topic: {name: orders.DLT, replicas: 1}}
consumer:
  replicas: 3
  drainTimeout: 10s
  template:
    pod:
      metadata: {labels: {team: shop}, annotations: {a: b}}
      nodeSelector: {disk: fast}
      tolerations: [{key: spot, operator: Exists}]
      affinity: {nodeAffinity: {}}
      imagePullSecrets: [{name: registry}]
      priorityClassName: high
    container: {env: [{name: RUST_LOG, value: debug}], resources: {limits: {memory: 1Gi}}}
processor:
  container:
    image: registry.example/orders:1
    path: /orders
    args: [serve]
    env: [{name: A, value: b}]
    envFrom: [{secretRef: {name: orders}}]
    resources: {requests: {cpu: 50m}}
    readinessProbe: {httpGet: {path: /ready, port: 8080}}
ingress: {enabled: true, nodePort: 31082}
faultInjection: {enabled: true}"
    ));
}

#[test]
fn an_autoscaler_chooses_by_what_is_ready_and_never_more_workers_than_partitions() {
    let autoscaler = |more: &str| {
        let validated = valid(&format!("{SMALL}\n{more}"), &with_topic("orders", TopicFound::Absent));
        let is_one = |object: &kube::api::DynamicObject| {
            object.types.as_ref().is_some_and(|types| types.kind == "HorizontalPodAutoscaler")
        };
        build_workers(&validated, "lazaret:1").into_iter().find(is_one).map(|object| object.data["spec"].clone())
    };
    assert_eq!(autoscaler(""), None);
    let of_main = autoscaler("consumer: {autoscaling: {minReplicas: 2, maxReplicas: 50, readyRecords: 200}}").unwrap();
    assert_eq!((&of_main["minReplicas"], &of_main["maxReplicas"]), (&json!(2), &json!(6)));
    assert_eq!(of_main["scaleTargetRef"]["name"], "orders-consumer");
    assert_eq!(
        of_main["metrics"][0]["external"],
        json!({
            "metric": {
                "name": "lazaret_ready_records", "selector": {"matchLabels": {"pipeline": "orders", "stage": "main"}},
            },
            "target": {"type": "AverageValue", "averageValue": "200"},
        })
    );
    let of_retry = autoscaler("retry: {autoscaling: {minReplicas: 5, maxReplicas: 9}}").unwrap();
    assert_eq!((&of_retry["minReplicas"], &of_retry["maxReplicas"]), (&json!(3), &json!(3)));
    assert_eq!(of_retry["scaleTargetRef"]["name"], "orders-retry");
}

#[test]
fn what_does_not_concern_workers_does_not_restart_them() {
    let hash = |spec: &str| {
        let built = built(spec);
        let (_, rest) = built.split_once("config-hash: ").unwrap();
        rest.lines().next().unwrap().to_owned()
    };
    let unrelated = "kafka: {cluster: main}
topic: {name: orders, partitions: 9, replicas: 1, config: {segment.ms: 1}, adopt: Force}
retry: {topic: {partitions: 7}, replicas: 2, template: {pod: {priorityClassName: high}}}
dlt: {topic: {partitions: 7, retention: 1d}}
consumer: {replicas: 2}
ingress: {nodePort: 31082}
deletionPolicy: Delete
processor: {http: {url: 'http://orders.shop.svc:8080/orders'}}";
    assert_eq!(hash(SMALL), hash(unrelated));
    assert_ne!(hash(SMALL), hash(&format!("{SMALL}\nretry: {{maxAttempts: 3}}")));
    assert_ne!(hash(SMALL), hash(&format!("{SMALL}\ndlt: {{format: Raw}}")));
}

#[test]
fn a_topic_that_exists_is_taken_over_only_when_it_is_as_asked_for() {
    let config = [("cleanup.policy", "delete"), ("retention.ms", "2592000000"), ("segment.ms", "1")];
    let shape = TopicShape {
        partitions: Some(3),
        replicas: Some(3),
        config: config.map(|(name, value)| (name.into(), value.into())).into(),
        max_message_bytes: None,
    };
    let kept = [("segment.ms".to_owned(), "1".to_owned())].into();
    let agrees = with_topic("orders.dlt", TopicFound::InKafka(shape.clone()));
    assert_eq!(step(SMALL, &agrees, 2), TopicStep::Apply { carried_over: kept });

    let compacted = |partitions| {
        let config = [("cleanup.policy".to_owned(), "compact".to_owned())].into();
        with_topic(
            "orders.dlt",
            TopicFound::InKafka(TopicShape { partitions: Some(partitions), config, ..shape.clone() }),
        )
    };
    let (reason, message) = (step(SMALL, &compacted(3), 2), "cleanup.policy is compact, asked for is delete");
    assert_eq!(refusal(&reason).0, "TopicDiffers");
    assert!(refusal(&reason).1.contains(message) && refusal(&reason).1.contains("spec.dlt.topic.adopt: Force"));
    let force = format!("{SMALL}\ndlt: {{topic: {{adopt: Force}}}}");
    assert!(matches!(step(&force, &compacted(3), 2), TopicStep::Apply { .. }));
    // What Kafka cannot do is not promised.
    let more = step(&force, &compacted(4), 2);
    assert!(refusal(&more).1.contains("Kafka cannot take partitions away"), "{more:?}");
}

#[test]
fn a_kafka_topic_of_somebody_else_is_told_apart() {
    let spec = json!({"partitions": 3, "config": {"cleanup.policy": "delete", "retention.ms": 2_592_000_000_i64}});
    let labels = |more: Value| {
        let mut labels = json!({"strimzi.io/cluster": "main"});
        labels.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        labels
    };
    let dlt = |labels, spec| step(SMALL, &with_topic("orders.dlt", kafka_topic(labels, spec)), 2);
    assert!(matches!(dlt(labels(json!({})), spec.clone()), TopicStep::Apply { .. }));
    let other_kafka = dlt(json!({"strimzi.io/cluster": "other"}), spec.clone());
    assert_eq!(refusal(&other_kafka).0, "TopicConflict");
    let other_topic = dlt(labels(json!({})), json!({"topicName": "bills.dlt"}));
    assert!(refusal(&other_topic).1.contains("`bills.dlt`"));

    // Another pipeline's: shared while that one is there, and taken over when it is gone.
    let of_bills = labels(json!({"lazaret.dev/pipeline": "bills"}));
    let mut shared = with_topic("orders.dlt", kafka_topic(of_bills.clone(), spec.clone()));
    assert!(matches!(step(SMALL, &shared, 2), TopicStep::Apply { .. }));
    let bills = SMALL.replace("name: orders", "name: bills");
    let bills = pipeline("bills", &format!("{bills}\ndlt: {{topic: {{name: orders.dlt}}}}"));
    shared.others = vec![Arc::new(DeserializeGuard(Ok(bills)))];
    assert_eq!(step(SMALL, &shared, 2), TopicStep::Leave);
    // Ours is as the spec says now, whatever it was.
    let ours = labels(json!({"lazaret.dev/pipeline": "orders"}));
    assert!(matches!(dlt(ours, json!({"partitions": 1})), TopicStep::Apply { .. }));
}

#[test]
fn how_long_retry_records_are_kept_is_never_shortened_by_itself() {
    let retention = |more: &str, live: &str| {
        let config = [("cleanup.policy", "delete"), ("retention.ms", live)];
        let config = config.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let shape = TopicShape { partitions: Some(3), config, ..TopicShape::default() };
        let found = with_topic("orders.retry", TopicFound::InKafka(shape));
        let validated = valid(&format!("{SMALL}\n{more}"), &found);
        assert!(more.contains("config") || matches!(validated.topics[1].1, TopicStep::Apply { .. }));
        validated.topics[1].0.config["retention.ms"].clone()
    };
    assert_eq!(retention("", "9999999999"), "9999999999");
    assert_eq!(retention("", "-1"), "-1");
    assert_eq!(retention("retry: {topic: {config: {retention.ms: 1000000}}}", "9999999999"), "1000000");
    let validated = valid(SMALL, &found());
    assert_eq!(validated.topics[1].0.config["retention.ms"], (7 * 86_400_000 + 360_000).to_string());
}

/// What one of the topics is to have: its replicas, and a setting.
fn planned(spec: &str, found: &Found, at: usize, setting: &str) -> (i32, Option<String>) {
    let (plan, _) = valid(spec, found).topics.remove(at);
    (plan.replicas, plan.config.get(setting).cloned())
}

const LIMIT: &str = "max.message.bytes";

#[test]
fn topics_for_failed_records_take_twice_what_the_main_topic_takes_and_more() {
    let limits = |spec: &str, found: &Found| [0, 1, 2].map(|at| planned(spec, found, at, LIMIT).1);
    let twice = |limit: &str| [None, Some(limit.to_owned()), Some(limit.to_owned())];
    let mut found = with_topic("orders", TopicFound::Absent);
    assert_eq!(limits(SMALL, &found), twice("2162712"), "Kafka's default");
    let main = |spec| {
        let metadata = json!({"name": "orders", "namespace": "shop", "labels": {"strimzi.io/cluster": "main"}});
        let topic = json!({"apiVersion": "v", "kind": "KafkaTopic", "metadata": metadata, "spec": spec});
        with_topic("orders", TopicFound::Object(object(topic)))
    };
    let has = main(json!({"partitions": 6, "replicas": 3, "config": {"max.message.bytes": 3_000_000}}));
    assert_eq!(limits(SMALL, &has), twice("6065536"));
    let shape = TopicShape { max_message_bytes: Some(4_000_000), ..TopicShape::default() };
    assert_eq!(limits(SMALL, &with_topic("orders", TopicFound::InKafka(shape))), twice("8065536"), "as Kafka says");
    let KafkaFound::Object(kafka) = &mut found.kafka else { unreachable!() };
    kafka.data["spec"]["kafka"]["config"] = json!({"message.max.bytes": "10485760"});
    assert_eq!(limits(SMALL, &found), twice("21037056"), "the brokers' default");
    let named = SMALL.replace("replicas: 3", "replicas: 3, config: {max.message.bytes: 3000000}");
    let named = format!("{named}\ndlt: {{topic: {{config: {{max.message.bytes: 5000000}}}}}}");
    let [main, retry, dlt] = limits(&named, &found).map(Option::unwrap);
    assert_eq!([&*main, &*retry, &*dlt], ["3000000", "6065536", "5000000"], "what the spec says stays");
}

#[test]
fn where_the_main_topics_limit_is_not_known_no_topic_gets_one_that_may_be_lower() {
    let spec = SMALL.replace("cluster: main", "bootstrapServers: 'kafka:9092'");
    let mut found = Found { kafka: KafkaFound::Given, ..with_topic("orders", TopicFound::Absent) };
    assert_eq!(planned(&spec, &found, 2, LIMIT), (3, None));
    found.default_max_message_bytes = Some(2_000_000);
    assert_eq!(planned(&spec, &found, 2, LIMIT), (3, Some("4065536".into())));
    // One that exists there is somebody's: it does not differ by what nobody asked for.
    let config = [("cleanup.policy", "delete"), ("retention.ms", "2592000000")];
    let config = config.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let shape = TopicShape { partitions: Some(3), replicas: Some(1), config, ..TopicShape::default() };
    found.topics.insert("orders.dlt".into(), TopicFound::InKafka(shape));
    assert_eq!((step(&spec, &found, 2), planned(&spec, &found, 2, LIMIT)), (TopicStep::Leave, (-1, None)));
}

#[test]
fn replicas_are_taken_from_the_main_topic_by_topics_that_are_to_be_created_and_by_no_others() {
    let replicas = |spec: &str, found: &Found| planned(spec, found, 2, "min.insync.replicas");
    let absent = with_topic("orders", TopicFound::Absent);
    assert_eq!(replicas(SMALL, &absent), (3, Some("2".into())));
    let own = format!("{SMALL}\ndlt: {{topic: {{replicas: 1}}}}");
    assert_eq!(replicas(&own, &absent), (1, None), "its own spec comes first");
    let silent = SMALL.replace(", replicas: 3", "");
    assert_eq!(replicas(&silent, &absent), (-1, None));
    let shape = TopicShape { replicas: Some(2), ..TopicShape::default() };
    assert_eq!(replicas(&silent, &with_topic("orders", TopicFound::InKafka(shape.clone()))), (2, None));
    // Strimzi refuses another number for a topic that exists.
    let labels = json!({"strimzi.io/cluster": "main", "lazaret.dev/pipeline": "orders"});
    let exists = with_topic("orders.dlt", kafka_topic(labels, json!({"partitions": 3, "config": {}})));
    assert!(matches!(step(SMALL, &exists, 2), TopicStep::Apply { .. }));
    assert_eq!(replicas(SMALL, &exists), (-1, None));
    let config = [("cleanup.policy", "delete"), ("retention.ms", "2592000000")];
    let config = config.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let exists = TopicFound::InKafka(TopicShape { partitions: Some(3), config, ..shape });
    assert_eq!(replicas(SMALL, &with_topic("orders.dlt", exists)), (-1, None));
}

#[test]
fn what_was_taken_over_stays_on_a_topic_that_exists_and_its_limit_is_only_raised() {
    let labels = json!({"strimzi.io/cluster": "main", "lazaret.dev/pipeline": "orders"});
    let with = |manager: &str, limit: Option<i32>| {
        let spec = json!({"partitions": 3, "replicas": 3, "config": {"max.message.bytes": limit}});
        let mut found = kafka_topic(labels.clone(), spec);
        let TopicFound::Object(topic) = &mut found else { unreachable!() };
        let config = topic.data["spec"]["config"].as_object_mut().unwrap();
        config.retain(|_, value| !value.is_null());
        let fields = json!({"f:spec": {"f:replicas": {}, "f:config": {"f:max.message.bytes": {}}}});
        let entry = json!({"manager": manager, "operation": "Apply", "fieldsV1": fields});
        topic.metadata.managed_fields = Some(vec![serde_json::from_value(entry).unwrap()]);
        let (replicas, limit) = planned(SMALL, &with_topic("orders.dlt", found), 2, LIMIT);
        (replicas, limit.map(|limit| limit.parse::<i32>().unwrap()))
    };
    assert_eq!(with("lazaret", Some(1_000_000)), (3, Some(2_162_712)));
    assert_eq!(with("lazaret", Some(9_000_000)), (3, Some(9_000_000)), "larger dead letters may be in it");
    assert_eq!(with("kubectl", Some(1_000_000)), (-1, None), "somebody has set it on the KafkaTopic");
    assert_eq!(with("kubectl", None), (-1, Some(2_162_712)));
    let exists = with_topic("orders.dlt", kafka_topic(labels.clone(), json!({"partitions": 3, "config": {}})));
    let small = SMALL.replace("replicas: 3", "replicas: 3, config: {max.message.bytes: 100000}");
    assert_eq!(planned(&small, &exists, 2, LIMIT).1, None, "the brokers' default, which it has, is higher");
}

#[test]
fn of_two_pipelines_the_older_one_does_not_know_of_the_younger() {
    let orders = Arc::new(pipeline("orders", SMALL));
    let mut other = pipeline("other", SMALL);
    let with = |other: &ErrorHandlingPipeline| Found {
        others: vec![Arc::new(DeserializeGuard(Ok(other.clone())))],
        ..found()
    };
    other.metadata.creation_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(-1)));
    let refused = validate(&orders, &with(&other)).unwrap_err();
    assert!(matches!(refused, Invalid::Conflict(_)));
    assert!(refused.to_string().contains("`shop/other`"), "{refused}");
    other.metadata.deletion_timestamp = other.metadata.creation_timestamp.clone();
    assert!(validate(&orders, &with(&other)).is_ok(), "one that goes is no rival");
    other.metadata.deletion_timestamp = None;
    other.metadata.creation_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(1)));
    assert!(validate(&orders, &with(&other)).is_ok());
    other.metadata.creation_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(-1)));
    other.metadata.namespace = Some("elsewhere".into());
    assert!(validate(&orders, &with(&other)).is_ok(), "it is another Kafka");
}

#[test]
fn topics_are_released_when_they_are_to_outlive_their_pipeline_and_only_then() {
    let labels = |cluster: &str| json!({"strimzi.io/cluster": cluster, "lazaret.dev/pipeline": "orders"});
    let owner = json!([{"apiVersion": "v", "kind": "ErrorHandlingPipeline", "name": "orders", "uid": "uid-of-orders"}]);
    let topic = |name: &str, cluster: &str, owners: &Value| -> kube::api::PartialObjectMeta<kube::api::DynamicObject> {
        let metadata = json!({"name": name, "namespace": "shop", "labels": labels(cluster), "ownerReferences": owners});
        serde_json::from_value(json!({"metadata": metadata})).unwrap()
    };
    let released =
        |more: &str, others: &[Arc<super::dereference::Stored>], name: &str, cluster: &str, owners: &Value| {
            let object = pipeline("orders", &format!("{SMALL}\n{more}"));
            let releases = super::release::releases(&object, others, &[topic(name, cluster, owners)]);
            releases.first().map(|release| release.is_managed)
        };
    let (delete, none) = ("deletionPolicy: Delete", json!([]));
    assert_eq!(released(delete, &[], "orders", "main", &owner), None);
    assert_eq!(released("", &[], "orders", "main", &none), None);
    assert_eq!(released("", &[], "orders", "main", &owner), Some(true), "the policy has changed");
    assert_eq!(released(delete, &[], "orders", "other", &owner), Some(false), "it is on another Kafka");
    assert_eq!(released(delete, &[], "old.dlt", "main", &owner), Some(false), "the spec no longer names it");
    let other = SMALL.replace("name: orders", "name: bills");
    let other = pipeline("bills", &format!("{other}\ndlt: {{topic: {{name: orders.dlt}}}}"));
    let sharing = [Arc::new(DeserializeGuard(Ok(other)))];
    assert_eq!(released(delete, &sharing, "orders.dlt", "main", &owner), Some(true), "another one needs it");
    assert_eq!(released(delete, &sharing, "orders.retry", "main", &owner), None);
}

fn applied(ready: i32, trouble: Option<&str>) -> Outcome {
    let topic = TopicState {
        name: "orders".into(),
        kafka_topic: Some("orders".into()),
        trouble: trouble.map(|message| ("TopicNotReady".to_owned(), message.to_owned())),
    };
    let stage = |deployment: &str| {
        Some(StageState { deployment: deployment.into(), wanted: 2, replicas: 2, ready, trouble: None })
    };
    Outcome::Applied { topics: vec![topic], stages: [stage("orders-consumer"), stage("orders-retry")], warning: None }
}

#[test]
fn a_condition_that_does_not_change_keeps_its_time() {
    let mut object = pipeline("orders", SMALL);
    let mut next = |outcome: &Outcome, seconds| {
        let status = status::status(&object, outcome, at(seconds));
        object.status = Some(status.clone());
        let ready = status::find(&status, status::READY).unwrap().clone();
        (ready.status, ready.reason, ready.last_transition_time.0, status)
    };
    let first = next(&applied(0, None), 1);
    assert_eq!((&*first.0, &*first.1, first.2), ("False", "WorkersStarting", at(1)));
    // Another reason is no transition.
    let second = next(&applied(0, Some("no")), 2);
    assert_eq!((&*second.0, &*second.1, second.2), ("False", "TopicNotReady", at(1)));
    let third = next(&applied(2, None), 3);
    assert_eq!((&*third.0, &*third.1, third.2), ("True", "Ready", at(3)));
    let fourth = next(&applied(2, None), 4);
    assert_eq!(third.3, fourth.3, "nothing is written");
    // What could not be looked at is as it was last seen.
    let fifth = next(&Outcome::Failed("Forbidden", "no".into()), 5);
    assert_eq!((&*fifth.0, &*fifth.1), ("False", "Forbidden"));
    assert_eq!(fifth.3.consumer.ready_replicas, 2);
    assert_eq!(status::find(&fifth.3, "WorkersReady").unwrap().status, "True");
}

#[test]
fn what_failed_on_the_way_does_not_count_as_seen() {
    let mut object = pipeline("orders", SMALL);
    object.status = Some(status::status(&object, &applied(2, None), at(1)));
    object.metadata.generation = Some(2);
    let failed = status::status(&object, &Outcome::Failed("Forbidden", "no".into()), at(2));
    assert_eq!(failed.observed_generation, Some(1), "whoever waits for the change must not take it for done");
    assert_eq!(status::find(&failed, status::READY).unwrap().observed_generation, Some(2));
    let invalid = status::status(&object, &Outcome::Invalid("InvalidSpec", "no".into()), at(2));
    assert_eq!(invalid.observed_generation, Some(2));
}

#[test]
fn what_needs_nobody_is_progress_and_what_does_is_not() {
    let object = pipeline("orders", SMALL);
    let progressing = |outcome: &Outcome| {
        let status = status::status(&object, outcome, at(1));
        status::find(&status, status::PROGRESSING).unwrap().status.clone()
    };
    assert_eq!(progressing(&applied(1, None)), "True");
    assert_eq!(progressing(&applied(2, None)), "False");
    assert_eq!(progressing(&applied(2, Some("no"))), "False");
    assert_eq!(progressing(&Outcome::Invalid("InvalidSpec", "no".into())), "False");
}

#[test]
fn a_consumer_that_is_scaled_to_nothing_is_not_said_to_process_records() {
    let mut none = applied(0, None);
    let Outcome::Applied { stages, .. } = &mut none else { unreachable!() };
    stages.iter_mut().flatten().for_each(|stage| stage.wanted = 0);
    let status = status::status(&pipeline("orders", SMALL), &none, at(1));
    let ready = status::find(&status, status::READY).unwrap();
    assert_eq!(ready.status, "True");
    assert!(ready.message.contains("scaled to 0"), "{}", ready.message);
}

#[test]
fn a_kafka_that_is_not_ready_is_a_warning_while_its_address_is_known() {
    let mut found = found();
    let KafkaFound::Object(kafka) = &mut found.kafka else { unreachable!() };
    kafka.data["status"]["conditions"] =
        json!([{"type": "Ready", "status": "False", "reason": "RollingUpdate", "message": "wait"}]);
    let (reason, message) = super::validate::warning(&found).unwrap();
    assert_eq!(reason, "KafkaNotReady");
    assert!(message.contains("RollingUpdate: wait"), "{message}");
    assert!(validate(&Arc::new(pipeline("orders", SMALL)), &found).is_ok());
}

#[test]
fn a_warning_is_there_only_while_there_is_something_to_say() {
    let mut object = pipeline("orders", SMALL);
    let mut warned = applied(2, None);
    let Outcome::Applied { warning, .. } = &mut warned else { unreachable!() };
    *warning = Some(("ServiceNotFound", "none".into()));
    let status = status::status(&object, &warned, at(1));
    assert_eq!(status::find(&status, status::WARNING).unwrap().reason, "ServiceNotFound");
    assert_eq!(status::find(&status, status::READY).unwrap().status, "True");
    object.status = Some(status);
    let status = status::status(&object, &applied(2, None), at(2));
    assert_eq!(status::find(&status, status::WARNING), None);
}

#[test]
fn a_topic_that_is_being_deleted_is_waited_for() {
    let spec = json!({"partitions": 3, "config": {"cleanup.policy": "delete"}});
    let mut going = kafka_topic(json!({"strimzi.io/cluster": "main", "lazaret.dev/pipeline": "orders"}), spec);
    let TopicFound::Object(topic) = &mut going else { unreachable!() };
    topic.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(1)));
    let waiting = step(SMALL, &with_topic("orders.dlt", going), 2);
    let (reason, message) = refusal(&waiting);
    assert_eq!(reason, "TopicDeleting");
    assert!(message.contains("KafkaTopic `orders.dlt` is being deleted"), "{message}");
    let mut outcome = applied(2, Some(message));
    let Outcome::Applied { topics, .. } = &mut outcome else { unreachable!() };
    topics[0].trouble = Some((reason.to_owned(), message.to_owned()));
    let status = status::status(&pipeline("orders", SMALL), &outcome, at(2));
    let (ready, progressing) = (status::find(&status, status::READY).unwrap(), status::PROGRESSING);
    assert_eq!((&*ready.status, &*ready.reason), ("False", "TopicDeleting"));
    assert_eq!(status::find(&status, progressing).unwrap().status, "True", "nobody has to do anything");
}

#[test]
fn what_kafka_refuses_is_said_with_the_topic() {
    let refused = TopicError::Refused { topic: "orders.dlt".into(), code: RDKafkaErrorCode::TopicAuthorizationFailed };
    // Whether it is there could not be seen.
    let unseen = with_topic("orders.dlt", TopicFound::Unknown(refused.reason(), with_causes(&refused)));
    let unseen = step(SMALL, &unseen, 2);
    assert_eq!(refusal(&unseen).0, "KafkaRefused");
    assert!(refusal(&unseen).1.contains("the cluster refused topic orders.dlt"), "{unseen:?}");
    // Nor could it be made.
    let error = Error::Topics(refused);
    assert_eq!((error.reason(), error.said()), ("KafkaRefused", Said::AtOnce));
    assert!(error.in_words().contains("orders.dlt"), "{}", error.in_words());
    let failed = Outcome::Failed(error.reason(), error.in_words());
    let status = status::status(&pipeline("orders", SMALL), &failed, at(1));
    let ready = status::find(&status, status::READY).unwrap();
    assert_eq!((&*ready.status, &*ready.reason, &*ready.message), ("False", "KafkaRefused", &*error.in_words()));
}

#[test]
fn what_the_api_server_does_not_do_is_said_in_its_words_when_it_goes_on() {
    let answer = |code, message: &str| {
        let status = json!({"status": "Failure", "code": code, "reason": "InternalError", "message": message});
        Error::Api(kube::Error::Api(serde_json::from_value(status).unwrap()))
    };
    let error = answer(500, "etcd has no space");
    assert_eq!((error.reason(), error.said()), ("ApiServerError", Said::AfterSome));
    assert_eq!(error.in_words(), "the API server refused: etcd has no space");
    assert_eq!((Error::Timeout.reason(), Error::Timeout.said()), ("ApiServerError", Said::AfterSome));
    assert_eq!(Error::Timeout.in_words(), "the API server did not answer in time");
    let invalid = answer(422, "no such field");
    assert_eq!((invalid.reason(), invalid.said()), ("ApiServerError", Said::AtOnce), "to wait does not help");
}
