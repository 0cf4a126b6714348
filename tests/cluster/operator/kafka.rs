//! Where Kafka is, and what is said when it is not there.

use std::time::Duration;

use kube::api::{Patch, PatchParams};
use lazaret::api::v1alpha1::ErrorHandlingPipelineStatus;
use serde_json::json;

use crate::site::in_site;
use crate::support::cluster::kafka_from_here;
use crate::support::own_kafka::OwnKafka;
use crate::support::{stays, topics};

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_waits_for_its_kafka_and_goes_on_by_itself() {
    in_site("waits", async |site| {
        let _operator = site.operator();
        site.apply(&site.pipeline("orders", "kafka: {cluster: later}")).await;
        let message = site.reason("orders", "KafkaNotFound").await;
        assert!(message.contains("`later`") && message.contains(&site.namespace), "{message}");
        site.apply(&site.kafka("later")).await;
        let message = site.reason("orders", "KafkaNotReady").await;
        assert!(message.contains("`later`"), "{message}");
        site.add_kafka("later").await;
        // The stand-in looks after the topics of another Kafka.
        let message = site.reason("orders", "TopicPending").await;
        assert!(message.contains("has not answered yet"), "{message}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_the_kafka_does_not_have_is_named_with_those_that_it_has() {
    in_site("listener", async |site| {
        let _operator = site.operator();
        site.apply(&site.pipeline("orders", "kafka: {cluster: site, listener: secure}")).await;
        let message = site.reason("orders", "ListenerNotFound").await;
        assert!(message.contains("`secure`") && message.contains("`plain`"), "{message}");
        // By its type it is found, too.
        site.merge("orders", json!({"spec": {"kafka": {"listener": "internal"}}})).await;
        site.reason("orders", "Ready").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_follow_the_address_of_their_kafka() {
    in_site("moved", async |site| {
        let _operator = site.operator();
        site.apply(&site.pipeline("orders", "")).await;
        site.reason("orders", "Ready").await;
        let address = format!("{},localhost:9092", kafka_from_here());
        let status = json!({"status": {"listeners": [{"name": "plain", "bootstrapServers": address}]}});
        site.kafkas().patch_status("site", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
        for deployment in ["orders-consumer", "orders-retry"] {
            crate::support::cluster::wait_for(&site.deployments, deployment, "has the new address", |deployment| {
                let args = deployment.spec.template.spec.as_ref()?.containers[0].args.as_ref()?;
                args.contains(&address).then_some(())
            })
            .await;
        }
        site.reason("orders", "Ready").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kafka_that_strimzi_does_not_run_gets_its_topics_by_the_same_rules() {
    in_site("plain", async |site| {
        let _operator = site.operator();
        let kafka = kafka_from_here();
        let (name, dlt) = (site.named("orders"), site.named("orders.dlt"));
        topics::create(&kafka, &dlt, 3, &[("cleanup.policy", "compact")]).await;
        site.apply(&site.pipeline("orders", &format!("kafka: {{bootstrapServers: '{kafka}'}}"))).await;
        let message = site.reason("orders", "TopicDiffers").await;
        assert!(message.contains("cleanup.policy is compact, asked for is delete"), "{message}");
        topics::has(&kafka, &name, Some(2)).await;
        assert_eq!(topics::config(&kafka, &dlt).await["cleanup.policy"], "compact");

        site.merge("orders", json!({"spec": {"dlt": {"topic": {"adopt": "Force"}}}})).await;
        site.reason("orders", "Ready").await;
        topics::is_set(&kafka, &dlt, "cleanup.policy", Some("delete")).await;
        assert!(site.topics.list(&Default::default()).await.unwrap().items.is_empty());
        let status = site.pipelines.get("orders").await.unwrap().status.unwrap();
        assert!(status.topics.iter().all(|topic| topic.ready && topic.kafka_topic.is_none()), "{status:?}");

        // Nothing in Kafka says whose a topic is, so every change has to be asked for.
        let more = json!({"spec": {"topic": {"partitions": 4, "config": {"segment.ms": 60_000}}}});
        site.merge("orders", more).await;
        site.reason("orders", "TopicDiffers").await;
        assert_eq!(topics::partitions(&kafka, &name), Some(2));
        site.merge("orders", json!({"spec": {"topic": {"adopt": "Force"}}})).await;
        topics::has(&kafka, &name, Some(4)).await;
        site.reason("orders", "Ready").await;
        topics::is_set(&kafka, &name, "segment.ms", Some("60000")).await;
        for topic in [name, dlt, site.named("orders.retry")] {
            topics::delete(&kafka, &topic).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kafka_that_does_not_answer_is_named() {
    in_site("silent", async |site| {
        let _operator = site.operator();
        site.apply(&site.pipeline("orders", "kafka: {bootstrapServers: '127.0.0.1:1'}")).await;
        let message = site.reason("orders", "KafkaUnreachable").await;
        assert!(message.contains("127.0.0.1:1"), "{message}");
        assert!(site.deployments.get_opt("orders-consumer").await.unwrap().is_none());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kafka_refuses_is_said_with_the_topic_and_tried_again_when_it_is_mended() {
    in_site("refused", async |site| {
        let _operator = site.operator();
        let (kafka, name) = (kafka_from_here(), site.named("orders"));
        let retention = |retention: &str| {
            let topic = format!("topic: {{name: {name}, partitions: 2, config: {{retention.ms: {retention}}}}}");
            site.pipeline("orders", &format!("{topic}\nkafka: {{bootstrapServers: '{kafka}'}}"))
        };
        site.apply(&retention("soon")).await;
        let message = site.reason("orders", "KafkaRefused").await;
        assert!(message.contains(&format!("topic {name}")), "{message}");
        assert!(site.deployments.list(&Default::default()).await.unwrap().items.is_empty());
        site.apply(&retention("86400000")).await;
        site.reason("orders", "Ready").await;
        assert_eq!(topics::config(&kafka, &name).await["retention.ms"], "86400000");
        for topic in [name.clone(), site.named("orders.dlt"), site.named("orders.retry")] {
            topics::delete(&kafka, &topic).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_kafka_does_not_answer_the_last_counts_stay_and_are_said_to_be_old() {
    in_site("counts", async |site| {
        // Only the operator reaches it. Workers would, and there are none.
        let kafka = OwnKafka::start();
        let _operator = site.operator();
        let more = format!(
            "kafka: {{bootstrapServers: '{}'}}\nconsumer: {{replicas: 0}}\nretry: {{replicas: 0}}",
            kafka.address
        );
        site.apply(&site.pipeline("orders", &more)).await;
        site.reason("orders", "Ready").await;
        let write = async |topic: &str, records: usize| {
            let producer = topics::producer(&kafka.address);
            for _ in 0..records {
                topics::write(&producer, &site.named(topic), None, Some(b"{}"), None).await;
            }
        };
        write("orders", 7).await;
        write("orders.dlt", 2).await;
        let counts = |status: &ErrorHandlingPipelineStatus| {
            let current = status.conditions.iter().find(|condition| condition.type_ == "CountsCurrent")?;
            Some((current.status.clone(), status.lag?, status.dead_letters.as_ref()?.total))
        };
        let are = |is_current: &str, lag, letters| Some((is_current.to_owned(), lag, letters));
        let count = async |wanted: Option<(String, i64, i64)>| {
            let what = format!("counts {wanted:?}");
            site.says("orders", &what, |status| (counts(status) == wanted).then_some(())).await;
        };
        count(are("True", 7, 2)).await;

        kafka.pause();
        let message = site.condition("orders", "CountsCurrent", "KafkaUnreachable").await;
        assert!(message.contains("The counts are those of "), "{message}");
        let status = async || site.pipelines.get("orders").await.unwrap().status.unwrap();
        let seen = async || counts(&status().await);
        let stayed = stays(Duration::from_secs(6), "the last counts stay", seen).await;
        assert_eq!(stayed, are("False", 7, 2));

        kafka.go_on();
        write("orders", 1).await;
        count(are("True", 8, 2)).await;
    })
    .await;
}
