//! What becomes of topics.

use kube::ResourceExt;
use kube::api::{DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};

use axum::http::{Method, StatusCode};

use crate::site::{KAFKA, Site, in_site};
use crate::support::api_proxy::ApiProxy;
use crate::support::cluster::{kafka_from_here, wait_for, wait_until_gone};
use crate::support::{eventually, topics};

/// A KafkaTopic that somebody else made.
fn kafka_topic(site: &Site, name: &str, spec: &Value) -> String {
    let object = json!({
        "apiVersion": site.strimzi, "kind": "KafkaTopic", "spec": spec,
        "metadata": {"name": name, "labels": {"strimzi.io/cluster": KAFKA}},
    });
    object.to_string()
}

fn config<'a>(topic: &'a DynamicObject, name: &str) -> &'a Value {
    &topic.data["spec"]["config"][name]
}

#[tokio::test(flavor = "multi_thread")]
async fn three_topics_are_made_with_settings_that_keep_what_failed() {
    in_site("made", async |site| {
        let _operator = site.operator();
        let dlt = format!("topic: {{name: {}}}", site.named("orders.DLT"));
        site.apply(&site.pipeline("orders", &format!("dlt: {{{dlt}}}"))).await;
        site.reason("orders", "Ready").await;

        let main = site.topics.get(&site.named("orders")).await.unwrap();
        assert_eq!(main.data["spec"], json!({"partitions": 2, "config": {}}));
        assert_eq!(main.labels()["strimzi.io/cluster"], KAFKA);
        assert!(main.owner_references().is_empty(), "it outlives the pipeline");
        let retry = site.topics.get(&site.named("orders.retry")).await.unwrap();
        assert_eq!(retry.data["spec"]["partitions"], 3);
        assert_eq!(config(&retry, "cleanup.policy"), "delete");
        assert_eq!(config(&retry, "retention.ms"), &(7 * 86_400_000 + 360_000).to_string());
        assert_eq!(config(&retry, "max.message.bytes"), "2162712", "records of the brokers' default size fit twice");
        // What is no Kubernetes name is told apart from the topic's.
        let dlt = site.topics.get(&site.named("orders.dlt")).await.unwrap();
        assert_eq!(dlt.data["spec"]["topicName"], site.named("orders.DLT"));
        topics::has(&kafka_from_here(), &site.named("orders.DLT"), Some(3)).await;

        let status = site.pipelines.get("orders").await.unwrap().status.unwrap();
        assert!(status.topics.iter().all(|topic| topic.ready), "{status:?}");
        assert_eq!(status.topics[2].name, site.named("orders.DLT"));
        assert_eq!(status.topics[2].kafka_topic, Some(site.named("orders.dlt")));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_partitions_are_passed_on_and_fewer_are_refused() {
    in_site("partitions", async |site| {
        let _operator = site.operator();
        site.apply(&site.pipeline("orders", "")).await;
        site.reason("orders", "Ready").await;
        site.merge("orders", json!({"spec": {"topic": {"partitions": 5}}})).await;
        topics::has(&kafka_from_here(), &site.named("orders"), Some(5)).await;
        site.reason("orders", "Ready").await;
        let fewer = json!({"spec": {"topic": {"partitions": 1}}});
        let refused = site.pipelines.patch("orders", &PatchParams::default(), &Patch::Merge(fewer)).await;
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("partitions cannot be lowered"), "{refused}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kafka_topic_that_differs_is_left_alone_until_its_user_says_force() {
    in_site("differs", async |site| {
        let _operator = site.operator();
        let dlt = site.named("orders.dlt");
        let theirs = json!({"partitions": 3, "config": {"cleanup.policy": "compact", "segment.ms": 60_000}});
        site.apply(&kafka_topic(site, &dlt, &theirs)).await;
        site.apply(&site.pipeline("orders", "")).await;
        let message = site.reason("orders", "TopicDiffers").await;
        for word in [
            &*dlt,
            "cleanup.policy is compact, asked for is delete",
            "retention.ms is not set, asked for is 2592000000",
            "spec.dlt.topic.adopt: Force",
        ] {
            assert!(message.contains(word), "{word:?} is not in {message}");
        }
        let untouched = site.topics.get(&dlt).await.unwrap();
        assert_eq!(untouched.data["spec"], theirs);
        assert_eq!(site.deployments.get_opt("orders-consumer").await.unwrap().map(|d| d.name_any()), None);

        site.merge("orders", json!({"spec": {"dlt": {"topic": {"adopt": "Force"}}}})).await;
        site.reason("orders", "Ready").await;
        let taken = site.topics.get(&dlt).await.unwrap();
        assert_eq!(config(&taken, "cleanup.policy"), "delete");
        assert_eq!(config(&taken, "segment.ms"), 60_000, "what is not asked for stays");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kafka_topic_that_agrees_is_taken_over() {
    in_site("agrees", async |site| {
        let _operator = site.operator();
        let name = site.named("orders");
        site.apply(&kafka_topic(site, &name, &json!({"partitions": 2, "config": {"segment.ms": 60_000}}))).await;
        site.apply(&site.pipeline("orders", "")).await;
        site.reason("orders", "Ready").await;
        let taken = site.topics.get(&name).await.unwrap();
        assert_eq!(taken.labels()["lazaret.dev/pipeline"], "orders");
        assert_eq!(config(&taken, "segment.ms"), 60_000);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_topic_that_takes_less_than_the_main_topic_stays_as_it_is_and_is_told() {
    in_site("small", async |site| {
        let _operator = site.operator();
        let (dlt, limit) = (site.named("orders.dlt"), "max.message.bytes");
        let theirs = json!({"cleanup.policy": "delete", "retention.ms": "2592000000", limit: "20000"});
        site.apply(&kafka_topic(site, &dlt, &json!({"partitions": 3, "config": theirs}))).await;
        topics::has(&kafka_from_here(), &dlt, Some(3)).await;
        site.apply(&site.pipeline("orders", "")).await;
        site.reason("orders", "Ready").await;
        let message = site.condition("orders", "DeadLetterTopicUnsafe", "Unsafe").await;
        assert!(message.contains(&format!("`{dlt}` has max.message.bytes 20000")), "{message}");
        assert_eq!(config(&site.topics.get(&dlt).await.unwrap(), limit), "20000");
        // Once it is raised there is nothing to say, and it keeps what others have set.
        let raised = json!({"spec": {"config": {limit: "3000000"}}});
        site.topics.patch(&dlt, &PatchParams::default(), &Patch::Merge(raised)).await.unwrap();
        topics::is_set(&kafka_from_here(), &dlt, limit, Some("3000000")).await;
        site.merge("orders", json!({"spec": {"retry": {"maxAttempts": 3}}})).await;
        site.condition("orders", "DeadLetterTopicUnsafe", "AsItShouldBe").await;
        assert_eq!(config(&site.topics.get(&dlt).await.unwrap(), limit), "3000000");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_without_a_kafka_topic_keeps_the_settings_that_it_has() {
    in_site("carried", async |site| {
        let _operator = site.operator();
        let (name, kafka) = (site.named("orders"), kafka_from_here());
        topics::create(&kafka, &name, 2, &[("segment.ms", "60000"), ("max.message.bytes", "2000000")]).await;
        let more = format!("topic: {{name: {name}, partitions: 2, config: {{min.insync.replicas: 1}}}}");
        site.apply(&site.pipeline("orders", &more)).await;
        let message = site.reason("orders", "TopicDiffers").await;
        assert!(message.contains("min.insync.replicas is not set, asked for is 1"), "{message}");
        assert!(site.topics.get_opt(&name).await.unwrap().is_none(), "Strimzi has not been told of it");

        site.merge("orders", json!({"spec": {"topic": {"adopt": "Force"}}})).await;
        site.reason("orders", "Ready").await;
        for (setting, value) in
            [("min.insync.replicas", "1"), ("segment.ms", "60000"), ("max.message.bytes", "2000000")]
        {
            topics::is_set(&kafka, &name, setting, Some(value)).await;
        }
        // They stay when something else is changed.
        site.merge("orders", json!({"spec": {"topic": {"partitions": 3}}})).await;
        topics::has(&kafka, &name, Some(3)).await;
        site.reason("orders", "Ready").await;
        assert_eq!(topics::config(&kafka, &name).await["segment.ms"], "60000");
        // And may be taken out by whoever owns the object.
        let none = json!({"spec": {"config": {"segment.ms": null}}});
        site.topics.patch(&name, &PatchParams::default(), &Patch::Merge(none)).await.unwrap();
        topics::is_set(&kafka, &name, "segment.ms", None).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_take_over_that_is_interrupted_is_finished_later() {
    in_site("interrupted", async |site| {
        let (name, kafka) = (site.named("orders"), kafka_from_here());
        topics::create(&kafka, &name, 2, &[("segment.ms", "60000")]).await;
        let proxy = ApiProxy::start(&site.kubeconfig, &site.namespace).await;
        // It makes the KafkaTopic with all settings, and then comes no further.
        let (path, mut patches) = (format!("/kafkatopics/{name}"), 0);
        proxy.disturb(move |method, at| {
            patches += usize::from(method == Method::PATCH && at.ends_with(&path));
            (method == Method::PATCH && at.ends_with(&path) && patches > 1).then_some(StatusCode::INTERNAL_SERVER_ERROR)
        });
        let mut operator = site.operator_with(&site.namespace, &proxy.kubeconfig);
        site.apply(&site.pipeline("orders", "deletionPolicy: Delete")).await;
        operator.wait_for("could not be reconciled");
        let half = site.topics.get(&name).await.unwrap();
        assert!(half.owner_references().is_empty(), "an owner would be the second manager's, and stay");
        proxy.disturb(|_, _| None);
        site.reason("orders", "Ready").await;
        let whole = site.topics.get(&name).await.unwrap();
        let of_second = whole.managed_fields().iter().find(|f| f.manager.as_deref() == Some("lazaret-carried-over"));
        let owned = &of_second.unwrap().fields_v1.as_ref().unwrap().0;
        assert_eq!(owned, &json!({"f:spec": {"f:config": {"f:segment.ms": {}}}}));
        assert_eq!(topics::config(&kafka, &name).await["segment.ms"], "60000");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kafka_topic_that_stands_for_the_topic_under_another_name_is_named() {
    in_site("alias", async |site| {
        let _operator = site.operator();
        let alias = json!({"topicName": site.named("orders"), "partitions": 2, "config": {}});
        site.apply(&kafka_topic(site, "my-orders", &alias)).await;
        site.apply(&site.pipeline("orders", "")).await;
        let message = site.reason("orders", "TopicConflict").await;
        assert!(message.contains("`my-orders`"), "{message}");
        assert!(site.topics.get_opt(&site.named("orders")).await.unwrap().is_none());
        // It is read all the same, when the pipeline does not want to manage it.
        site.merge("orders", json!({"spec": {"topic": {"manage": false}}})).await;
        site.reason("orders", "Ready").await;
        let status = site.pipelines.get("orders").await.unwrap().status.unwrap();
        assert_eq!(status.topics[0].kafka_topic.as_deref(), Some("my-orders"));
        // When the other one goes, the pipeline makes its own.
        site.merge("orders", json!({"spec": {"topic": {"manage": true}}})).await;
        site.reason("orders", "TopicConflict").await;
        site.topics.delete("my-orders", &Default::default()).await.unwrap();
        site.reason("orders", "Ready").await;
        assert!(site.topics.get_opt(&site.named("orders")).await.unwrap().is_some());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_that_cannot_run_does_not_take_what_others_share_or_what_is_elsewhere_with_it() {
    in_site("broken", async |site| {
        let _operator = site.operator();
        let dlt = site.named("all.dlt");
        let shared = format!("dlt: {{topic: {{name: {dlt}}}}}\ndeletionPolicy: Delete");
        site.apply(&site.pipeline("first", &shared)).await;
        site.reason("first", "Ready").await;
        let owners = async |topic: &str| site.topics.get(topic).await.unwrap().owner_references().len();
        assert_eq!([owners(&dlt).await, owners(&site.named("first")).await], [1, 1]);
        // Its topics are on a Kafka that it no longer names, and the new one has no address.
        site.apply(&site.kafka("elsewhere")).await;
        site.merge("first", json!({"spec": {"kafka": {"cluster": "elsewhere"}}})).await;
        site.reason("first", "KafkaNotReady").await;
        assert_eq!([owners(&dlt).await, owners(&site.named("first")).await], [0, 0]);

        site.apply(&site.pipeline("second", &shared)).await;
        site.reason("second", "Ready").await;
        let rules = json!({"spec": {"processor": {"rules": [{"when": "value.amount <", "error": "E"}]}}});
        site.merge("second", rules).await;
        site.reason("second", "InvalidSpec").await;
        site.apply(&site.pipeline("third", &shared)).await;
        wait_for(&site.topics, &dlt, "goes with nobody", |topic| topic.owner_references().is_empty().then_some(()))
            .await;
        site.pipelines.delete("second", &Default::default()).await.unwrap();
        wait_until_gone(&site.topics, &site.named("second")).await;
        site.reason("third", "Ready").await;
        assert!(topics::partitions(&kafka_from_here(), &dlt).is_some());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_topics_may_be_spared_even_while_the_pipeline_cannot_run() {
    in_site("spared", async |site| {
        let _operator = site.operator();
        site.apply(&site.pipeline("orders", "deletionPolicy: Delete")).await;
        site.reason("orders", "Ready").await;
        let broken = json!({"spec": {"kafka": {"cluster": "gone"}, "deletionPolicy": "Retain"}});
        site.merge("orders", broken).await;
        site.reason("orders", "KafkaNotFound").await;
        site.pipelines.delete("orders", &Default::default()).await.unwrap();
        wait_until_gone(&site.deployments, "orders-consumer").await;
        for topic in ["orders", "orders.retry", "orders.dlt"].map(|topic| site.named(topic)) {
            let stays = site.topics.get(&topic).await.unwrap();
            assert_eq!((stays.metadata.deletion_timestamp, stays.metadata.owner_references), (None, None));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_strimzi_says_of_a_topic_is_what_the_pipeline_says() {
    in_site("refused", async |site| {
        let _operator = site.operator();
        let more = format!("topic: {{name: {}, config: {{retention.ms: soon}}}}", site.named("orders"));
        site.apply(&site.pipeline("orders", &more)).await;
        let message = site.condition("orders", "TopicsReady", "TopicNotReady").await;
        for word in ["KafkaError", "InvalidConfigurationException", "retention.ms", "two minutes"] {
            assert!(message.contains(word), "{word:?} is not in {message}");
        }
        assert_eq!(site.reason("orders", "TopicNotReady").await, message);
        // The user mends it, and everything goes on by itself.
        site.merge("orders", json!({"spec": {"topic": {"config": {"retention.ms": 1_000_000}}}})).await;
        site.reason("orders", "Ready").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_others_own_is_only_read() {
    in_site("foreign", async |site| {
        let _operator = site.operator();
        let name = site.named("orders");
        site.apply(&site.pipeline("orders", &format!("topic: {{name: {name}, manage: false}}"))).await;
        let message = site.reason("orders", "TopicNotFound").await;
        assert!(message.contains(&name) && message.contains("manage"), "{message}");
        topics::create(&kafka_from_here(), &name, 4, &[]).await;
        site.reason("orders", "Ready").await;
        assert!(site.topics.get_opt(&name).await.unwrap().is_none());
        assert_eq!(topics::partitions(&kafka_from_here(), &name), Some(4));
        topics::delete(&kafka_from_here(), &name).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kafka_topic_deleted_by_hand_comes_back_with_a_warning() {
    in_site("deleted", async |site| {
        let _operator = site.operator();
        site.apply(&site.pipeline("orders", "")).await;
        site.reason("orders", "Ready").await;
        let name = site.named("orders.dlt");
        // The operator has to have seen the status that it wrote itself: a change that it answers comes after that.
        let replicas = json!({"spec": {"consumer": {"replicas": 2}}});
        site.pipelines.patch("orders", &PatchParams::default(), &Patch::Merge(replicas)).await.unwrap();
        eventually("the change is answered", async || {
            let orders = site.pipelines.get("orders").await.unwrap();
            let answered = orders.status.as_ref().and_then(|status| status.observed_generation);
            (answered == orders.metadata.generation).then_some(())
        })
        .await;
        let uid = site.topics.get(&name).await.unwrap().uid();
        site.topics.delete(&name, &Default::default()).await.unwrap();
        wait_for(&site.topics, &name, "is another one, and Ready", |topic| {
            let ready = topic.data["status"]["conditions"]
                .as_array()?
                .iter()
                .any(|c| c["type"] == "Ready" && c["status"] == "True");
            (topic.uid() != uid && ready).then_some(())
        })
        .await;
        site.reason("orders", "Ready").await;
        let warned = async || site.events("orders").await.into_iter().find(|(reason, _)| reason == "TopicDeleted");
        let (_, note) = eventually("a warning", warned).await;
        assert!(note.contains(&name), "{note}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kafka_topic_that_takes_its_time_to_go_is_waited_for() {
    in_site("going", async |site| {
        let _operator = site.operator();
        site.apply(&site.pipeline("orders", "")).await;
        site.reason("orders", "Ready").await;
        let name = site.named("orders.dlt");
        let uid = site.topics.get(&name).await.unwrap().uid();
        // Somebody else has something to do before it goes.
        let finalizers = async |wanted: Value| {
            let patch = Patch::Merge(json!({"metadata": {"finalizers": wanted}}));
            site.topics.patch(&name, &PatchParams::default(), &patch).await.unwrap();
        };
        finalizers(json!([crate::topic_operator::FINALIZER, "tests.lazaret.dev/later"])).await;
        site.topics.delete(&name, &Default::default()).await.unwrap();
        let message = site.reason("orders", "TopicDeleting").await;
        assert!(message.contains(&format!("KafkaTopic `{name}` is being deleted")), "{message}");
        assert_eq!(site.topics.get(&name).await.unwrap().uid(), uid);
        wait_for(&site.topics, &name, "is let go of by the topic operator", |topic| {
            (!topic.finalizers().iter().any(|of| of == crate::topic_operator::FINALIZER)).then_some(())
        })
        .await;
        finalizers(Value::Null).await;
        wait_for(&site.topics, &name, "is another one", |topic| (topic.uid() != uid).then_some(())).await;
        site.reason("orders", "Ready").await;
        topics::has(&kafka_from_here(), &name, Some(3)).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_that_a_pipeline_no_longer_names_or_manages_stay_when_it_goes() {
    in_site("let-go", async |site| {
        let _operator = site.operator();
        site.apply(&site.pipeline("orders", "deletionPolicy: Delete")).await;
        site.reason("orders", "Ready").await;
        let (main, old) = (site.named("orders"), site.named("orders.dlt"));
        let other = json!({"topic": {"name": site.named("orders.failed")}});
        site.merge("orders", json!({"spec": {"topic": {"manage": false}, "dlt": other}})).await;
        for topic in [&main, &old] {
            wait_for(&site.topics, topic, "is nobody's", |topic| {
                let free = topic.owner_references().is_empty() && !topic.labels().contains_key("lazaret.dev/pipeline");
                free.then_some(())
            })
            .await;
        }
        site.reason("orders", "Ready").await;
        site.pipelines.delete("orders", &Default::default()).await.unwrap();
        wait_until_gone(&site.topics, &site.named("orders.failed")).await;
        wait_until_gone(&site.topics, &site.named("orders.retry")).await;
        for topic in [&main, &old] {
            assert_eq!(site.topics.get(topic).await.unwrap().metadata.deletion_timestamp, None);
            assert!(topics::partitions(&kafka_from_here(), topic).is_some(), "{topic}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_topic_that_pipelines_share_outlives_the_one_that_made_it() {
    in_site("shared", async |site| {
        let _operator = site.operator();
        let dlt = site.named("all.dlt");
        let shared = format!("dlt: {{topic: {{name: {dlt}}}}}\ndeletionPolicy: Delete");
        site.apply(&site.pipeline("first", &shared)).await;
        site.reason("first", "Ready").await;
        assert_eq!(site.topics.get(&dlt).await.unwrap().owner_references().len(), 1);
        site.apply(&site.pipeline("second", &shared)).await;
        site.reason("second", "Ready").await;
        wait_for(&site.topics, &dlt, "goes with nobody", |topic| topic.owner_references().is_empty().then_some(()))
            .await;
        site.pipelines.delete("first", &Default::default()).await.unwrap();
        wait_until_gone(&site.topics, &site.named("first")).await;
        // The second one looks after it from now on.
        wait_for(&site.topics, &dlt, "is the second's", |topic| {
            (topic.labels().get("lazaret.dev/pipeline")? == "second").then_some(())
        })
        .await;
        assert!(topics::partitions(&kafka_from_here(), &dlt).is_some());
        site.reason("second", "Ready").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_outlive_a_pipeline_unless_it_says_otherwise() {
    in_site("policy", async |site| {
        let _operator = site.operator();
        site.apply(&site.pipeline("kept", "")).await;
        site.apply(&site.pipeline("gone", "deletionPolicy: Delete")).await;
        // One that was asked to be deleted at first, and then to stay.
        site.apply(&site.pipeline("spared", "deletionPolicy: Delete")).await;
        for name in ["kept", "gone", "spared"] {
            site.reason(name, "Ready").await;
        }
        site.merge("spared", json!({"spec": {"deletionPolicy": "Retain"}})).await;
        site.reason("spared", "Ready").await;
        for name in ["kept", "gone", "spared"] {
            site.pipelines.delete(name, &Default::default()).await.unwrap();
            wait_until_gone(&site.deployments, &format!("{name}-consumer")).await;
        }
        for topic in ["gone", "gone.retry", "gone.dlt"].map(|topic| site.named(topic)) {
            wait_until_gone(&site.topics, &topic).await;
            topics::has(&kafka_from_here(), &topic, None).await;
        }
        for topic in ["kept", "kept.dlt", "spared", "spared.dlt"].map(|topic| site.named(topic)) {
            let stays = site.topics.get(&topic).await.unwrap();
            assert_eq!(stays.metadata.deletion_timestamp, None);
            assert!(topics::partitions(&kafka_from_here(), &topic).is_some(), "{topic}");
        }
        // Made again, the pipeline has its topics again.
        site.apply(&site.pipeline("kept", "")).await;
        site.reason("kept", "Ready").await;
    })
    .await;
}
