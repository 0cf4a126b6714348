//! The plugin before an API server that only has what a test gave it, and on which only reading is possible.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::http::{Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::dlt::Worker;
use super::error::PluginError;
use super::explain::explain;
use super::explain::read::{Asked, file, in_namespace, look, plan, rivals};
use crate::operator::dereference::TopicFound;

const PIPELINES: &str = "/apis/lazaret.dev/v1alpha1/namespaces/kafka/errorhandlingpipelines";

/// What the API server has, by path: an object or a list, or the code of an error.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<BTreeMap<String, Value>>>);

impl Server {
    fn has(&self, path: &str, answer: Value) {
        self.0.lock().unwrap().insert(path.to_owned(), answer);
    }

    fn list(&self, path: &str, items: Vec<Value>) {
        self.has(path, json!({"metadata": {}, "items": items}));
    }

    /// A cluster with Strimzi, a Kafka `main`, and this pipeline.
    fn with(pipeline: &Value) -> Self {
        let server = Self::default();
        let group =
            json!({"name": "kafka.strimzi.io", "versions": [{"groupVersion": "kafka.strimzi.io/v1", "version": "v1"}]});
        server.has("/apis", json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [group]}));
        server.has(
            "/apis/kafka.strimzi.io/v1/namespaces/kafka/kafkas/main",
            json!({
                "apiVersion": "kafka.strimzi.io/v1", "kind": "Kafka", "metadata": {"name": "main", "namespace": "kafka"},
                "status": {"listeners": [{"name": "plain", "bootstrapServers": "main:9092"}]},
            }),
        );
        server.list(PIPELINES, vec![pipeline.clone()]);
        server.list("/apis/lazaret.dev/v1alpha1/errorhandlingpipelines", vec![pipeline.clone()]);
        server.has(&format!("{PIPELINES}/orders"), pipeline.clone());
        server.list("/api/v1/namespaces/kafka/services", vec![]);
        server.list("/apis/autoscaling/v2/namespaces/kafka/horizontalpodautoscalers", vec![]);
        server.list("/apis/kafka.strimzi.io/v1/namespaces/kafka/kafkatopics", vec![]);
        for name in ["orders", "orders.retry", "orders.dlt"] {
            server.topic(name, &json!({"partitions": 3, "config": {}}));
        }
        server
    }

    fn topic(&self, name: &str, spec: &Value) {
        let labels = json!({"strimzi.io/cluster": "main", "lazaret.dev/pipeline": "orders"});
        self.has(
            &format!("/apis/kafka.strimzi.io/v1/namespaces/kafka/kafkatopics/{name}"),
            json!({
                "apiVersion": "kafka.strimzi.io/v1", "kind": "KafkaTopic",
                "metadata": {"name": name, "namespace": "kafka", "labels": labels}, "spec": spec,
            }),
        );
    }

    fn cluster(&self) -> Cluster {
        let answers = self.0.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            assert_eq!(request.method(), "GET", "the plugin only reads");
            let path = request.uri().path().trim_end_matches('?');
            let answer = answers.lock().unwrap().get(path).cloned().unwrap_or_else(|| 404.into());
            async move {
                let (code, body) = match answer.as_u64() {
                    Some(code) => {
                        let reason = if code == 404 { "NotFound" } else { "Forbidden" };
                        (
                            code,
                            json!({"kind": "Status", "code": code, "reason": reason, "message": format!("error {code}")}),
                        )
                    }
                    None => (200, answer),
                };
                let response = Response::builder().status(u16::try_from(code).unwrap());
                Ok::<_, std::convert::Infallible>(response.body(Body::from(body.to_string().into_bytes())).unwrap())
            }
        });
        let url = "https://cluster:6443".to_owned();
        Cluster { client: Client::new(service, "kafka"), namespace: "kafka".into(), url }
    }
}

fn pipeline(spec: Value) -> Value {
    let mut pipeline = json!({
        "apiVersion": "lazaret.dev/v1alpha1", "kind": "ErrorHandlingPipeline",
        "metadata": {
            "name": "orders", "namespace": "kafka", "uid": "u-1", "generation": 1, "creationTimestamp": "2020-01-01T00:00:00Z",
        },
        "spec": {
            "kafka": {"cluster": "main"}, "topic": {"name": "orders", "partitions": 3},
            "processor": {"rules": [{"when": "false", "error": "E"}]},
        },
    });
    if let Value::Object(spec) = spec {
        pipeline["spec"].as_object_mut().unwrap().extend(spec);
    }
    pipeline
}

async fn explained(server: &Server, image: Option<&str>) -> Result<String, PluginError> {
    let cluster = server.cluster();
    let object = cluster.pipeline("kafka", "orders").await?;
    Ok(explain(&plan(&cluster, look(&cluster, Asked::There(object)).await?, image).await?))
}

fn comments(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.strip_prefix("# ")).collect()
}

#[tokio::test]
async fn what_the_operator_would_do_is_said_for_each_object() {
    let server = Server::with(&pipeline(json!({"consumer": {"replicas": 3}})));
    let owner = json!([{"kind": "ErrorHandlingPipeline", "name": "orders", "uid": "u-1"}]);
    server.has(
        "/apis/apps/v1/namespaces/kafka/deployments/orders-consumer",
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "orders-consumer", "ownerReferences": owner},
            "spec": {
                "replicas": 1, "selector": {},
                "template": {"spec": {"containers": [{"name": "worker", "image": "lazaret:7", "imagePullPolicy": "Always"}]}},
            },
        }),
    );
    server.has(
        "/api/v1/namespaces/kafka/serviceaccounts/orders-worker",
        json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "orders-worker", "ownerReferences": []},
        }),
    );
    server.list(
        "/apis/autoscaling/v2/namespaces/kafka/horizontalpodautoscalers",
        vec![
            json!({"metadata": {"name": "orders-retry", "ownerReferences": owner}}),
            json!({"metadata": {"name": "somebody-elses"}}),
        ],
    );
    let text = explained(&server, None).await.unwrap();
    let said = comments(&text);
    for line in [
        "image of the workers: lazaret:7",
        "objects: 6 to create, 4 to change, 0 to leave, 1 in the way",
        "topic `orders.dlt`: by the KafkaTopic `orders.dlt` below",
        "HorizontalPodAutoscaler `orders-retry` would be deleted: nothing asks for it any more",
        "KafkaTopic `orders` would be changed:",
        "  metadata.labels[app.kubernetes.io/managed-by]: (not set) → \"lazaret\"",
        "  spec.config[cleanup.policy]: (not set) → \"delete\"",
        "Deployment `orders-consumer` would be changed:",
        "  spec.replicas: 1 → 3",
        "Deployment `orders-retry` would be created",
    ] {
        assert!(said.contains(&line), "{line}\n{text}");
    }
    assert!(!text.contains("somebody-elses") && !text.contains("image: \"lazaret:7\" →"), "{text}");
    assert!(said.iter().any(|line| line.starts_with("ServiceAccount `orders-worker` exists already")), "{text}");
    for document in text.split("---\n").skip(1) {
        let object: Value = serde_saphyr::from_str(document).unwrap();
        assert!(object["kind"].is_string() && object["metadata"]["namespace"] == "kafka", "{document}");
    }
}

#[tokio::test]
async fn what_is_as_it_would_be_applied_stays() {
    let server = Server::with(&pipeline(json!({})));
    let config = json!({
        "cleanup.policy": "delete", "retention.ms": "2592000000", "min.insync.replicas": "2",
        "max.message.bytes": "2162712",
    });
    let labels = json!({
        "strimzi.io/cluster": "main", "lazaret.dev/pipeline": "orders", "app.kubernetes.io/managed-by": "lazaret",
    });
    let name = "orders.dlt";
    server.has(
        &format!("/apis/kafka.strimzi.io/v1/namespaces/kafka/kafkatopics/{name}"),
        json!({
            "apiVersion": "kafka.strimzi.io/v1", "kind": "KafkaTopic", "status": {"observedGeneration": 1},
            "metadata": {"name": name, "namespace": "kafka", "labels": labels, "generation": 1},
            "spec": {"partitions": 3, "config": config},
        }),
    );
    let text = explained(&server, Some("lazaret:1")).await.unwrap();
    assert!(comments(&text).contains(&"KafkaTopic `orders.dlt` would stay as it is"), "{text}");
    assert!(!text.contains("All but the topics"), "no topic is missing\n{text}");
}

#[tokio::test]
async fn a_topic_that_would_be_let_go_is_named() {
    let server = Server::with(&pipeline(json!({})));
    let labels = json!({"strimzi.io/cluster": "main", "lazaret.dev/pipeline": "orders"});
    let old = json!({"metadata": {"name": "old.dlt", "namespace": "kafka", "labels": labels}});
    server.list("/apis/kafka.strimzi.io/v1/namespaces/kafka/kafkatopics", vec![old]);
    let text = explained(&server, Some("lazaret:1")).await.unwrap();
    assert!(comments(&text).iter().any(|line| line.starts_with("KafkaTopic `old.dlt` would be let go")), "{text}");
}

#[tokio::test]
async fn topics_that_cannot_be_seen_from_here_do_not_hide_the_rest() {
    let server = Server::with(&pipeline(json!({})));
    let cluster = server.cluster();
    let object = cluster.pipeline("kafka", "orders").await.unwrap();
    let mut seen = look(&cluster, Asked::There(object)).await.unwrap();
    seen.found.topics.insert("orders".into(), TopicFound::Unknown("KafkaUnreachable", "no answer".into()));
    let text = explain(&plan(&cluster, seen, Some("lazaret:1")).await.unwrap());
    let said = comments(&text);
    assert!(
        said.iter().any(|line| line.starts_with("topic `orders`: whether it exists cannot be seen from here")),
        "{text}"
    );
    assert!(said.contains(&"topic `orders.dlt`: by the KafkaTopic `orders.dlt` below"), "{text}");
    assert!(said.contains(&"Deployment `orders-retry` would be created"), "{text}");
    assert!(said.iter().any(|line| line.starts_with("All but the topics would wait")), "{text}");
}

#[tokio::test]
async fn a_pipeline_that_cannot_run_says_why() {
    let server = Server::with(&pipeline(json!({"kafka": {"cluster": "main", "listener": "tls"}})));
    let error = explained(&server, None).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the pipeline `orders` cannot run: ListenerNotFound: Kafka `main` has no listener `tls`: set spec.kafka.listener to \
         one of `plain`"
    );
    assert!(!error.is_refusal());
}

#[tokio::test]
async fn an_image_that_nobody_says_is_asked_for() {
    let error = explained(&Server::with(&pipeline(json!({}))), None).await.unwrap_err();
    assert!(error.is_refusal() && error.to_string().contains("--worker-image"), "{error}");
}

/// Explains what a file holds.
async fn of_file(server: &Server, text: &str, namespace: Option<&str>) -> Result<String, PluginError> {
    let path = std::env::temp_dir().join(format!("lazaret-{:x}.yaml", rand::random::<u64>()));
    std::fs::write(&path, text).unwrap();
    let written = file(&path);
    std::fs::remove_file(&path).unwrap();
    let cluster = server.cluster();
    let mut asked = in_namespace(&cluster, written?, namespace).await?;
    Ok(explain(&plan(&cluster, look(&cluster, asked.remove(0)).await?, Some("lazaret:1")).await?))
}

const FILE: &str = "\
apiVersion: lazaret.dev/v1alpha1
kind: ErrorHandlingPipeline
metadata: {name: orders}
spec:
  kafka: {cluster: main}
  topic: {name: orders, partitions: 6}
  processor: {rules: [{when: 'false', error: E}]}
";

#[tokio::test]
async fn a_file_is_explained_as_the_change_that_it_would_be() {
    let server = Server::with(&pipeline(json!({})));
    let text = of_file(&server, FILE, None).await.unwrap();
    assert!(comments(&text).contains(&"  spec.partitions: 3 → 6"), "{text}");
    assert!(text.contains("uid: u-1"), "what is there has an owner\n{text}");
    let fewer = FILE.replace("partitions: 6", "partitions: 2");
    let error = of_file(&server, &fewer, None).await.unwrap_err();
    assert!(error.is_refusal() && error.to_string().contains("topic.partitions"), "{error}");
}

#[tokio::test]
async fn a_new_pipeline_in_a_file_does_not_win_over_one_that_is_there() {
    let server = Server::with(&pipeline(json!({})));
    let error = of_file(&server, &FILE.replace("name: orders}", "name: again}"), None).await.unwrap_err();
    assert!(error.to_string().starts_with("the pipeline `again` cannot run: Conflict: "), "{error}");
    let other = FILE.replace("name: orders", "name: bills");
    for name in ["bills", "bills.retry", "bills.dlt"] {
        server.topic(name, &json!({"partitions": 6}));
    }
    let text = of_file(&server, &other, None).await.unwrap();
    assert!(text.contains("It is not in the cluster yet") && !text.contains("ownerReferences:"), "{text}");
}

#[tokio::test]
async fn a_file_and_a_flag_that_contradict_each_other_are_refused() {
    let server = Server::with(&pipeline(json!({})));
    let placed = FILE.replace("{name: orders}\nspec", "{name: orders, namespace: kafka}\nspec");
    let error = of_file(&server, &placed, Some("shop")).await.unwrap_err();
    assert!(error.is_refusal() && error.to_string().contains("`kafka` by its file, and -n says `shop`"), "{error}");
    assert!(of_file(&server, &placed, Some("kafka")).await.is_ok());
}

#[tokio::test]
async fn a_pipeline_that_is_not_there_is_told_from_a_cluster_without_lazaret() {
    let server = Server::with(&pipeline(json!({})));
    let error = server.cluster().pipeline("kafka", "order").await.unwrap_err();
    assert_eq!(error.to_string(), "there is no pipeline `order` in the namespace `kafka`: did you mean `orders`?");
    let error = Server::default().cluster().pipeline("kafka", "orders").await.unwrap_err();
    assert!(error.to_string().starts_with("Lazaret is not installed in this cluster"), "{error}");
}

#[tokio::test]
async fn a_right_that_is_missing_is_named() {
    let server = Server::with(&pipeline(json!({})));
    server.has("/apis/lazaret.dev/v1alpha1/errorhandlingpipelines", 403.into());
    server.has("/apis/apps/v1/namespaces/kafka/deployments/orders-consumer", 403.into());
    server.has("/api/v1/namespaces/kafka/events", 403.into());
    let cluster = server.cluster();
    let error = cluster.pipelines(None).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "you may not do that: error 403; ask for a role that may, or name with -n a namespace where you have one"
    );
    // What is only an addition is left out.
    let object = cluster.pipeline("kafka", "orders").await.unwrap();
    assert!(cluster.stages(&object).await.unwrap().is_none());
    assert!(cluster.events(&object).await.unwrap().is_none());
    // The rivals of a pipeline on a Kafka of its own may be in namespaces that may not be looked at.
    assert!(rivals(&cluster, &object).await.unwrap().1);
    let given = pipeline(json!({"kafka": {"bootstrapServers": "somewhere:9092"}}));
    let (seen, all) = rivals(&cluster, &serde_json::from_value(given).unwrap()).await.unwrap();
    assert_eq!((seen.len(), all), (1, false));
}

#[tokio::test]
async fn who_may_not_run_a_command_in_a_pod_is_told_so_and_so_is_that_no_pod_runs() {
    let server = Server::with(&pipeline(json!({})));
    let object = server.cluster().pipeline("kafka", "orders").await.unwrap();
    let dead_letters = async || {
        let worker = Worker::of(server.cluster(), &object).await?;
        worker.ask::<Value>(vec!["dlt".to_owned()]).await
    };
    let waits = json!({"name": "worker", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": {"waiting": {}}});
    let mut pod = json!({
        "metadata": {"name": "orders-consumer-1", "namespace": "kafka"},
        "spec": {"containers": [{"name": "worker", "args": ["worker", "--bootstrap-servers", "k:9092"]}]},
        "status": {"containerStatuses": [waits]},
    });
    server.list("/api/v1/namespaces/kafka/pods", vec![pod.clone()]);
    let nobody = dead_letters().await.unwrap_err().to_string();
    assert!(nobody.starts_with("no worker of `orders` runs"), "{nobody}");
    pod["status"]["containerStatuses"][0]["state"] = json!({"running": {}});
    server.list("/api/v1/namespaces/kafka/pods", vec![pod]);
    server.has("/api/v1/namespaces/kafka/pods/orders-consumer-1/exec", 403.into());
    let refused = dead_letters().await.unwrap_err().to_string();
    assert!(refused.starts_with("you may not do that: error 403"), "{refused}");
}
