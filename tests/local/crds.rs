//! The CRD as it is published: it is the one of the code, and every rule refuses what it should with words that help.
//!
//! Needs no cluster: the rules run as the API server would run them, by kube's own evaluator.

use std::{collections::BTreeSet, fs};

use kube::{CustomResourceExt, core::cel};
use lazaret::api::{self, file, v1alpha1::ErrorHandlingPipeline};
use lazaret::domain::policy::expression;
use serde_json::{Value, json};

const PUBLISHED: &str = "crds/errorhandlingpipelines.lazaret.dev.yaml";

/// What each rule refuses: a change to `examples/minimal.yaml`, and the one complaint it brings.
const REFUSED: [(&str, &str); 35] = [
    (
        "metadata: {name: Orders}",
        ": metadata.name must begin with a letter, hold only lower case letters, digits and '-', and have at most 50 \
         characters: other objects are named after it",
    ),
    (
        "spec: {kafka: {bootstrapServers: 'kafka:9092'}}",
        "spec.kafka: set exactly one of cluster (a Strimzi Kafka) and bootstrapServers (any other Kafka)",
    ),
    (
        "spec: {kafka: {cluster: null}}",
        "spec.kafka: set exactly one of cluster (a Strimzi Kafka) and bootstrapServers (any other Kafka)",
    ),
    (
        "spec: {processor: {rules: [{when: 'true', error: 'E: e'}]}}",
        "spec.processor: set exactly one of http (a service to call), container (an image to run beside the worker), rules \
         (CEL expressions) and external (a consumer of your own)",
    ),
    (
        "spec: {processor: {http: null}}",
        "spec.processor: set exactly one of http (a service to call), container (an image to run beside the worker), rules \
         (CEL expressions) and external (a consumer of your own)",
    ),
    (
        "spec: {processor: {http: {url: 'ftp://orders'}}}",
        "spec.processor.http.url: must begin with http:// or https://, followed by a host",
    ),
    (
        "spec: {processor: {http: null, container: {image: i, path: 'orders'}}}",
        "spec.processor.container.path: must begin with a / and have no blank",
    ),
    (
        "spec: {kafka: {cluster: null, bootstrapServers: 'k:9092'}, deletionPolicy: Delete}",
        "spec.deletionPolicy: only the topics of a Strimzi Kafka can be deleted with this object: set Retain, or \
         kafka.cluster",
    ),
    ("spec: {processor: {http: {timeout: 0s}}}", "spec.processor.http.timeout: must be longer than 0s"),
    (
        "spec: {topic: {name: my orders}}",
        "spec.topic.name: must be a topic name: only letters, digits, '.', '_' and '-', and neither '.' nor '..'",
    ),
    (
        "spec: {dlt: {topic: {name: ..}}}",
        "spec.dlt.topic.name: must be a topic name: only letters, digits, '.', '_' and '-', and neither '.' nor '..'",
    ),
    ("spec: {topic: {replicas: 0}}", "spec.topic.replicas: must be at least 1, or -1 for the default"),
    (
        "spec: {tracing: {endpoint: 'otel-collector:4317'}}",
        "spec.tracing.endpoint: must begin with http:// or https://, followed by a host",
    ),
    ("spec: {circuitBreaker: {window: 500ms}}", "spec.circuitBreaker.window: must be 1s to 1h"),
    ("spec: {circuitBreaker: {openFor: 61m}}", "spec.circuitBreaker.openFor: must be 1s to 1h"),
    ("spec: {consumer: {sessionTimeout: 31m}}", "spec.consumer.sessionTimeout: must be 6s to 30m"),
    (
        "spec: {consumer: {staticMembership: true, groupProtocol: Consumer}}",
        "spec.consumer.staticMembership: takes groupProtocol: Classic: with the other one a worker that crashed is refused \
         until its session ends",
    ),
    ("spec: {consumer: {maxPollInterval: 25h}}", "spec.consumer.maxPollInterval: must be 6s to 24h"),
    (
        "spec: {consumer: {drainTimeout: 45s}}",
        "spec.consumer.drainTimeout: must be shorter than sessionTimeout: otherwise Kafka gives the partitions away \
         before they are drained",
    ),
    (
        "spec: {retry: {initialDelay: 10m}}",
        "spec.retry.maxDelay: must not be shorter than initialDelay: raise maxDelay or lower initialDelay",
    ),
    (
        "spec: {retry: {rules: [{when: 'true', initialDelay: 10m}]}}",
        "spec.retry.rules: a rule's maxDelay must not be shorter than its initialDelay; what a rule leaves out is \
         taken from retry",
    ),
    (
        "spec: {retry: {rules: [{when: 'true'}]}}",
        "spec.retry.rules[0]: a rule must say what to do: set retryable, dlt, or one of the retry settings",
    ),
    (
        "spec: {retry: {rules: [{when: 'true', dlt: orders.retry}]}}",
        "spec.retry.rules: dlt must name a topic of its own, not the topic itself nor the retry topic",
    ),
    (
        "spec: {retry: {topic: {config: {cleanup.policy: compact}}}}",
        "spec.retry.topic.config: cleanup.policy must be delete: compaction would lose failed records that share a key",
    ),
    (
        "spec: {dlt: {topic: {config: {retention.ms: 1000}}}}",
        "spec.dlt.topic.config: set retention instead of retention.ms in config, so that there is one truth",
    ),
    (
        "spec: {retry: {topic: {name: orders}}}",
        "spec.retry.topic.name: the retry topic must not be the topic itself: give it another name or leave the name \
         out",
    ),
    (
        "spec: {dlt: {topic: {name: orders}}}",
        "spec.dlt.topic.name: the dead letter topic must not be the topic itself: give it another name or leave the \
         name out",
    ),
    (
        "spec: {dlt: {topic: {name: orders.retry}}}",
        "spec.dlt.topic.name: the dead letter topic must not be the retry topic: give it another name or leave the \
         name out",
    ),
    (
        "spec: {topic: {name: LONG}}",
        "spec.topic.name: too long for '.retry' and '.dlt' to be added (Kafka allows 249 characters): set \
         retry.topic.name and dlt.topic.name, or shorten it",
    ),
    (
        "spec: {consumer: {groupId: orders}, retry: {groupId: orders}}",
        "spec.retry.groupId: the retry stage needs a consumer group of its own: give it another groupId than \
         consumer.groupId",
    ),
    (
        "spec: {processor: {http: null, external: {groupId: shop}}, consumer: {groupId: shop}}",
        "spec.consumer.groupId: leave it out: the group is that of processor.external.groupId",
    ),
    (
        "spec: {processor: {http: null, external: {groupId: shop}}, retry: {topic: {name: orders-retry}}}",
        "spec.retry.topic.name: leave it out: retries are the external consumer's own, in topics of its own",
    ),
    (
        "spec: {processor: {http: null, external: {groupId: shop}}, ingress: {enabled: true}}",
        "spec: ingress, faultInjection, tracing, consumer.replicas and autoscaling, and retry's groupId, replicas, autoscaling and \
         rules are for workers, and an external processor has none: leave them out",
    ),
    (
        "spec: {retry: {replicas: 2, autoscaling: {maxReplicas: 3}}}",
        "spec.retry.replicas: leave it out, or autoscaling: only one of them can say how many workers there are",
    ),
    (
        "spec: {consumer: {autoscaling: {minReplicas: 4, maxReplicas: 3}}}",
        "spec.consumer.autoscaling.minReplicas: must not be more than maxReplicas",
    ),
];

/// Reads `examples/minimal.yaml` with a change laid over it; the complaints come without file and line.
fn minimal_with(change: &str) -> Result<ErrorHandlingPipeline, Vec<String>> {
    let object = changed(change).to_string();
    file::parse("minimal.yaml", &object)
        .map(|mut pipelines| pipelines.remove(0))
        .map_err(|error| error.problems.iter().map(|found| format!("{}: {}", found.path, found.fault)).collect())
}

fn changed(change: &str) -> Value {
    let minimal = fs::read_to_string("examples/minimal.yaml").unwrap();
    let mut object: Value = serde_saphyr::from_str(&minimal).unwrap();
    merge(&mut object, serde_saphyr::from_str(&change.replace("LONG", &"o".repeat(244))).unwrap());
    object
}

/// Lays a JSON merge patch (RFC 7396) over a value.
fn merge(value: &mut Value, patch: Value) {
    match patch {
        Value::Object(fields) => {
            if !value.is_object() {
                *value = json!({});
            }
            for (name, field) in fields {
                merge(&mut value[name], field);
            }
        }
        other => *value = other,
    }
}

fn schema() -> Value {
    json!(ErrorHandlingPipeline::crd())["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// Collects the messages of all rules in a schema.
fn messages(schema: &Value, found: &mut BTreeSet<String>) {
    match schema {
        Value::Object(fields) => {
            for rule in fields.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
                found.insert(rule["message"].as_str().expect("every rule has a message").to_owned());
            }
            fields.values().for_each(|field| messages(field, found));
        }
        Value::Array(items) => items.iter().for_each(|item| messages(item, found)),
        _ => {}
    }
}

#[test]
fn the_published_crd_is_the_one_of_the_code() {
    let published = fs::read_to_string(PUBLISHED).unwrap_or_default();
    assert!(published == api::crds(), "{PUBLISHED} differs from the code: run `make crds` and commit the result");
}

#[test]
fn every_example_can_be_applied() {
    for example in fs::read_dir("examples").unwrap() {
        let path = example.unwrap().path();
        let name = path.display().to_string();
        if let Err(error) = file::parse(&name, &fs::read_to_string(&path).unwrap()) {
            panic!("{error}");
        }
    }
}

#[test]
fn each_mistake_brings_the_one_message_that_helps() {
    for (change, complaint) in REFUSED {
        assert_eq!(minimal_with(change), Err(vec![complaint.to_owned()]), "{change}");
    }
}

#[test]
fn no_rule_goes_without_a_test() {
    let mut untested = BTreeSet::new();
    messages(&schema(), &mut untested);
    untested.retain(|message| !REFUSED.iter().any(|(_, complaint)| complaint.ends_with(message.as_str())));
    assert_eq!(
        untested,
        BTreeSet::from([
            "partitions cannot be lowered: Kafka keeps them for the life of a topic".into(),
            "external cannot take the place of another processor: delete this object (its topics stay with \
             deletionPolicy: Retain) and make it anew"
                .into(),
            "say as which group the workers go on: with that of the application, which has to be stopped first, they go \
             on where it was; with another one they begin at the start of the topic"
                .into()
        ])
    );
}

#[test]
fn a_consumer_of_ones_own_cannot_take_the_place_of_workers_but_workers_its() {
    let called = minimal_with("{}").unwrap();
    let external = minimal_with("spec: {processor: {http: null, external: {groupId: shop}}}").unwrap();
    let beginning = called.validate_cel_update(&external).unwrap_err();
    assert!(beginning[0].to_string().contains("say as which group the workers go on"), "{beginning:?}");
    let going_on = minimal_with("spec: {consumer: {groupId: shop}}").unwrap();
    assert_eq!(going_on.validate_cel_update(&external), Ok(()));
    let long = format!(
        "spec: {{topic: {{name: {}}}, processor: {{http: null, external: {{groupId: shop}}}}}}",
        "o".repeat(245)
    );
    assert!(minimal_with(&long).is_ok(), "no retry topic has to be named after it");
    let refused = external.validate_cel_update(&called).unwrap_err();
    assert!(refused[0].to_string().contains("external cannot take the place of another processor"), "{refused:?}");
    assert_eq!(external.validate_cel_update(&external), Ok(()));
}

#[test]
fn partitions_can_be_added_but_not_taken_away() {
    for topic in ["topic", "retry.topic", "dlt.topic"] {
        let of = |count: i32| {
            let patch = topic.split('.').rev().fold(json!({"partitions": count}), |inner, name| json!({name: inner}));
            minimal_with(&json!({"spec": patch}).to_string()).unwrap()
        };
        assert_eq!(of(7).validate_cel_update(&of(6)), Ok(()));
        let refused = of(6).validate_cel_update(&of(7)).unwrap_err();
        let refused: Vec<_> = refused.iter().map(ToString::to_string).collect();
        assert_eq!(
            refused,
            [format!(
                "spec.{topic}.partitions: partitions cannot be lowered: Kafka keeps them for the life of a topic"
            )]
        );
    }
}

#[test]
fn names_that_were_left_out_follow_from_the_others() {
    let pipeline = minimal_with("{metadata: {name: shop}}").unwrap();
    assert_eq!(pipeline.retry_topic(), "orders.retry");
    assert_eq!(pipeline.dead_letter_topic(), "orders.dlt");
    assert_eq!(pipeline.consumer_group(), "shop-consumer-group");
    assert_eq!(pipeline.retry_group(), "shop-retry-group");
}

#[test]
fn the_api_server_and_the_code_fill_in_the_same_defaults() {
    for change in ["{}", "{spec: {retry: {maxAttempts: 3}, dlt: {topic: {partitions: 1}}, ingress: {enabled: true}}}"] {
        let stored = cel::apply_defaults(&schema(), &changed(change));
        let read = serde_json::to_value(minimal_with(change).unwrap()).unwrap();
        assert_eq!(stored, read);
    }
}

#[test]
fn no_field_of_the_spec_takes_null_for_a_value() {
    fn nullable(schema: &Value, name: &str, found: &mut Vec<String>) {
        if schema["nullable"] == true {
            found.push(name.to_owned());
        }
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            nullable(field, name, found);
        }
        for within in ["items", "additionalProperties"].into_iter().filter_map(|within| schema.get(within)) {
            nullable(within, name, found);
        }
    }
    let mut found = vec![];
    nullable(&schema()["properties"]["spec"], "spec", &mut found);
    // Kubernetes' own, in the environment of a container.
    found.retain(|name| name != "divisor");
    assert_eq!(found, Vec::<String>::new());
}

/// Characters and not bytes: what is longer has more bytes, too, and is refused before the operator sees it.
#[test]
fn no_expression_may_have_more_characters_than_it_may_have_bytes() {
    fn lengths(schema: &Value, found: &mut Vec<Value>) {
        if schema["description"].as_str().is_some_and(|text| text.starts_with("A CEL expression")) {
            assert!(schema["description"].to_string().contains("At most 2,048 bytes."), "{schema}");
            found.push(schema["maxLength"].clone());
        }
        let parts: Vec<_> = schema.as_object().into_iter().flatten().map(|(_, part)| part).collect();
        parts.into_iter().chain(schema.as_array().into_iter().flatten()).for_each(|part| lengths(part, found));
    }
    let crd: Value = serde_saphyr::from_str(&fs::read_to_string(PUBLISHED).unwrap()).unwrap();
    let mut found = vec![];
    lengths(&crd, &mut found);
    assert_eq!(found, [expression::MAX_BYTES; 3].map(Value::from));
}
