//! From nothing to dead letters on a cluster, as the docs say it: the chart is installed, the example applied, and the
//! five exercises are typed; Strimzi is upgraded under the running operator; the chart is upgraded and removed.
//!
//! The box is started anew for this, with three brokers.
//!
//! - `LAZARET_FRESH_CLUSTERS` (2, one of each flavour): how many clusters Lazaret is installed in; what comes on top only sees
//!   that no pod is restarted.
//! - `LAZARET_BROKER_RESTARTS` (3): how often a broker is restarted under the operator.

use std::process::Command;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use kube::api::Api;
use lazaret::api::v1alpha1::ErrorHandlingPipeline;
use serde_json::{Value, json};

use crate::support::cluster::{bed_up, client_of, kafka_from_here, wait_for};
use crate::support::eventually;
use crate::support::lazaret::bash;
use crate::support::pods::PodWatch;
use crate::support::topics::{Seen, delete_records, read_all, write_in_transactions};

const NAMESPACE: &str = "kafka";

/// The box, and what is typed at it.
struct Node {
    client: Client,
    /// Settings of the shell of who types.
    shell: String,
    /// Of the namespaces in which pods of ours are, and of DNS.
    pods: [PodWatch; 3],
}

impl Node {
    /// A box that was not there before.
    async fn new(flavour: &str) -> Self {
        assert!(script("down.sh").status().unwrap().success());
        let kubeconfig = bed_up(&[("BED_STRIMZI", flavour), ("BED_BROKERS", "3")]);
        let helm = bash(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bed/helm.sh"));
        let tools = std::path::Path::new(helm.trim()).parent().unwrap().display().to_string();
        let root = env!("CARGO_MANIFEST_DIR");
        let shell = format!("cd {root}; export KUBECONFIG={kubeconfig} PATH=$PATH:{tools}; set -o pipefail; ");
        let client = client_of(&kubeconfig).await;
        let pods = ["lazaret", NAMESPACE, "kube-system"].map(|namespace| PodWatch::start(&client, namespace));
        Self { client, shell, pods }
    }

    /// A Deployment heals what ends badly before anybody sees it.
    async fn no_pod_has_ended_badly(&self) {
        for watch in &self.pods {
            let bad: Vec<_> = watch.bad_ends(&[]).await.iter().map(ToString::to_string).collect();
            assert!(bad.is_empty(), "{}", bad.join("\n"));
        }
    }

    /// The same, once the pods of ours were asked to end and are gone.
    async fn all_pods_end_well(&self) {
        for (namespace, watch, prefix) in [("lazaret", &self.pods[0], "lazaret"), (NAMESPACE, &self.pods[1], "orders")]
        {
            self.types(&format!("kubectl delete deployments -n {namespace} --all --wait=false"));
            watch.all_gone(prefix).await;
        }
        self.no_pod_has_ended_badly().await;
    }

    /// What a platform engineer types.
    fn types(&self, line: &str) -> String {
        bash(&format!("{}{line}", self.shell))
    }

    /// What somebody types who is logged in to the node: the exercises, word for word.
    fn types_on_node(&self, line: &str) -> String {
        let output = script("in.sh").args(["bash", "-c", line]).output().unwrap();
        assert!(output.status.success(), "{line}\n{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    async fn ready(&self) {
        let pipelines: Api<ErrorHandlingPipeline> = Api::namespaced(self.client.clone(), NAMESPACE);
        wait_for(&pipelines, "orders", "is Ready", |pipeline| {
            let status = pipeline.status.as_ref()?;
            let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready")?;
            (ready.status == "True" && ready.observed_generation == pipeline.metadata.generation).then_some(())
        })
        .await;
    }

    /// Waits until the worker can be reached from the node: kube-proxy learns of a pod that is ready a moment after the others.
    async fn answers(&self) {
        eventually("the worker answers at the node's port", async || {
            let health = ["curl", "-sf", "http://localhost:31082/health"];
            script("in.sh").args(health).output().unwrap().status.success().then_some(())
        })
        .await;
    }

    /// The log of all workers, as the exercises ask for it.
    fn log(&self, lines: u32) -> String {
        self.types(&format!("kubectl logs -n kafka -l lazaret.dev/pipeline=orders --tail {lines}"))
    }

    fn stats(&self) -> Value {
        serde_json::from_str(&self.types_on_node("curl -s http://localhost:31082/api/v1/stats")).unwrap()
    }

    fn dead_letters(&self) -> Vec<Seen> {
        read_all(&kafka_from_here(), "orders.dlt")
    }

    /// Waits until a column of `kubectl get pipelines` has a value, and says how long that took.
    async fn column(&self, title: &str, value: &str) {
        let began = std::time::Instant::now();
        eventually(&format!("{title} is {value}"), async || {
            let table = self.types("kubectl get pipelines -n kafka");
            let (titles, line) = table.split_once('\n')?;
            let place = titles.split_whitespace().position(|known| known == title)?;
            (line.split_whitespace().nth(place)? == value).then_some(())
        })
        .await;
        eprintln!("{title} is {value} after {} ms", began.elapsed().as_millis());
    }

    /// How many dead letters Kafka's own console consumer sees, which reads only what was committed.
    fn seen_by_the_console_consumer(&self) -> String {
        let said = self.types(&format!(
            "java -cp \"$(tests/bed/kafka/jars.sh)/*\" org.apache.kafka.tools.consumer.ConsoleConsumer --bootstrap-server {} \
             --topic orders.dlt --from-beginning --isolation-level read_committed --timeout-ms 4000 2>&1 >/dev/null",
            kafka_from_here()
        ));
        let count = said.lines().find_map(|line| line.strip_prefix("Processed a total of ")?.strip_suffix(" messages"));
        count.unwrap_or_else(|| panic!("{said}")).to_owned()
    }
}

fn script(name: &str) -> Command {
    Command::new(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bed").join(name))
}

/// Whoever installs Lazaret before Strimzi is told so, and has to do nothing more when Strimzi comes.
async fn strimzi_may_come_later(node: &Node, flavour: &str) {
    let pipelines: Api<ErrorHandlingPipeline> = Api::namespaced(node.client.clone(), NAMESPACE);
    wait_for(&pipelines, "orders", "misses Strimzi", |pipeline| {
        let conditions = &pipeline.status.as_ref()?.conditions;
        conditions.iter().any(|condition| condition.reason == "StrimziNotInstalled").then_some(())
    })
    .await;
    bed_up(&[("BED_STRIMZI", flavour), ("BED_BROKERS", "3")]);
    node.ready().await;
}

fn the_example_has_its_topics_and_a_line_of_its_own(node: &Node) {
    let topics = node.types("kubectl get kafkatopics -n kafka | grep orders");
    let names: Vec<_> =
        topics.lines().map(|line| line.split_whitespace().take(3).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(names, ["orders bhf-kafka 6", "orders.dlt bhf-kafka 3", "orders.retry bhf-kafka 3"], "{topics}");
    let line = node.types("kubectl get pipelines -n kafka --no-headers");
    assert_eq!(line.split_whitespace().take(3).collect::<Vec<_>>(), ["orders", "True", "Ready"]);
}

async fn lab_1_valid_records_are_processed_and_none_is_retried(node: &Node) {
    node.types_on_node(
        r#"for i in {1..5}; do
             curl -sf -X POST "http://localhost:31082/api/v1/orders" -H "Content-Type: application/json" \
               -d "{\"orderId\": \"ORD-$i\", \"amount\": $((i * 100)), \"status\": \"PENDING\"}"
           done"#,
    );
    eventually("five are processed", async || (node.stats()["processed"] == 5).then_some(())).await;
    assert_eq!(node.stats()["retried"], 0);
}

async fn lab_2_an_invalid_record_is_dead_lettered_at_once(node: &Node) {
    node.types_on_node(
        r#"curl -sf -X POST "http://localhost:31082/api/v1/orders" -H "Content-Type: application/json" \
             -d '{"orderId": "ORD-INVALID", "amount": -50, "status": "PENDING"}'"#,
    );
    let letter = eventually("a dead letter", async || node.dead_letters().pop()).await.json();
    node.column("DLT", "1").await;
    let expected = json!({"originalKey": "ORD-INVALID", "errorMessage": "ValidationException: Invalid amount", "retryCount": 0,
        "pipeline": "orders"});
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&letter[name], value, "{name}");
    }
    let counted: Value =
        serde_json::from_str(&node.types_on_node("curl -s http://localhost:31082/api/v1/dlt/count")).unwrap();
    assert_eq!(counted["count"], 1, "{counted}");
}

/// The switch reaches both stages: a record that fails in the main stage fails in the retry stage, too.
async fn lab_3_a_transient_error_is_retried_until_it_passes_or_no_attempt_is_left(node: &Node) {
    let switch = |on: bool| {
        let url = format!("http://localhost:31082/api/v1/config/simulate-transient-error?enabled={on}");
        let answer: Value = serde_json::from_str(&node.types_on_node(&format!("curl -sf -X POST '{url}'"))).unwrap();
        assert_eq!(answer["simulateTransientError"], on);
        assert_eq!(answer.get("peersMissed"), None, "{answer}");
    };
    let order = r#"curl -sf -X POST "http://localhost:31082/api/v1/orders" -H "Content-Type: application/json" \
        -d '{"orderId": "ORD-RETRY", "amount": 200, "status": "PENDING"}'"#;
    switch(true);
    node.types_on_node(order);
    let seen = r#"kubectl logs -n kafka -l lazaret.dev/pipeline=orders --tail 50 | grep -E "(Retry|attempt|DLT)""#;
    eventually("three attempts failed", async || {
        let failed = node.types(&format!("{seen} || true")).matches("attempt failed").count();
        (failed >= 3).then_some(())
    })
    .await;
    node.column("RETRYING", "1").await;
    switch(false);
    eventually("it passed", async || node.log(50).contains("attempt succeeded after Retry").then_some(())).await;
    // Another Deployment processed it than the one that answers at this port.
    eventually("it shows in the stats of all workers", async || {
        let stats = node.stats();
        (stats["processed"] == 6 && stats["unreachable"] == json!([])).then_some(())
    })
    .await;
    assert_eq!(node.dead_letters().len(), 1, "nothing new in the DLT");
    node.column("RETRYING", "0").await;
    switch(true);
    node.types_on_node(order);
    let exhausted = eventually("another dead letter", async || {
        node.dead_letters().iter().map(Seen::json).find(|letter| letter["reason"] == "AttemptsExhausted")
    })
    .await;
    assert_eq!((&exhausted["retryCount"], &exhausted["stage"]), (&json!(4), &json!("retry")));
    node.column("DLT", "2").await;
    switch(false);
}

async fn lab_4_a_second_worker_shares_the_partitions_and_gives_them_back(node: &Node) {
    let deployments: Api<Deployment> = Api::namespaced(node.client.clone(), NAMESPACE);
    let scaled = async |replicas: i32| {
        node.types(&format!("kubectl scale deployment orders-consumer -n kafka --replicas={replicas}"));
        wait_for(&deployments, "orders-consumer", &format!("has {replicas} workers"), |deployment| {
            let status = deployment.status.as_ref()?;
            let all = status.ready_replicas == Some(replicas) && status.replicas == Some(replicas);
            all.then_some(())
        })
        .await;
    };
    let before = read_all(&kafka_from_here(), "orders.dlt").len();
    scaled(2).await;
    eventually("the status and an event tell of who joined", async || {
        let status = node.types("kubectl get pipeline orders -n kafka -o yaml");
        let events = node.types("kubectl describe pipeline orders -n kafka");
        let is_told = status.contains("membersAfter: 2") && status.contains("reason: MemberJoined");
        (is_told && events.contains("MemberJoined")).then_some(())
    })
    .await;
    eventually("a rebalance is logged", async || {
        let log = node.types(r#"kubectl logs -n kafka -l lazaret.dev/pipeline=orders,lazaret.dev/stage=main --tail 20 | grep -i rebalance || true"#);
        (log.contains("revoked") && log.matches("partitions assigned").count() >= 2).then_some(())
    })
    .await;
    node.types_on_node(
        r#"for i in {1..10}; do
             curl -sf -X POST "http://localhost:31082/api/v1/orders" -H "Content-Type: application/json" \
               -d "{\"orderId\": \"ORD-REBAL-$i\", \"amount\": -$i, \"status\": \"PENDING\"}"
           done"#,
    );
    scaled(1).await;
    node.ready().await;
    // Each of the ten is a dead letter: none is lost, and none is there twice.
    eventually("ten more dead letters", async || (node.dead_letters().len() == before + 10).then_some(())).await;
    let mut keys: Vec<_> = node.dead_letters().iter().map(|letter| letter.json()["originalKey"].to_string()).collect();
    keys.retain(|key| key.contains("REBAL"));
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 10);
}

/// Markers of transactions take offsets, and so does what was given up; retention takes records.
async fn the_dlt_column_is_what_the_console_consumer_counts(node: &Node) {
    let counted = async |what: &str| {
        let seen = node.seen_by_the_console_consumer();
        eprintln!("{what}: the console consumer sees {seen} dead letters");
        node.column("DLT", &seen).await;
        seen.parse::<usize>().unwrap()
    };
    let before = counted("after the exercises").await;
    let written = write_in_transactions(&kafka_from_here(), "orders.dlt", 140, 100);
    assert_eq!(counted("after many in transactions").await, before + written);
    assert!(written > 10_000, "{written}");
    for partition in 0..3 {
        let of_partition = node.dead_letters().into_iter().filter(|letter| letter.partition == partition);
        let offsets: Vec<_> = of_partition.map(|letter| letter.offset).collect();
        delete_records(&kafka_from_here(), "orders.dlt", partition, offsets[offsets.len() / 2]).await;
    }
    let left = counted("after retention took half").await;
    assert!(left < before + written && left > written / 3, "{left}");
    node.types(
        "kubectl rollout restart deployment/lazaret -n lazaret && kubectl rollout status deployment/lazaret -n lazaret",
    );
    assert_eq!(counted("after the operator began anew").await, left);
    let listed = node.types(concat!(
        env!("CARGO_BIN_EXE_lazaret"),
        " dlt list orders -n kafka --error-type BusyException --limit 3 -o json"
    ));
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((&listed["total"], listed["items"].as_array().map(Vec::len)), (&json!(left), Some(3)), "{listed}");
}

/// `processed` is of all workers that run, each of which counts from its own start.
fn lab_5_the_counts_are_there_to_read(node: &Node, dead_letters: usize) {
    assert_eq!(node.types_on_node("curl -s http://localhost:31082/health | jq -r .status"), "UP\n");
    let stats = node.stats();
    assert_eq!(stats["worker"].as_str().unwrap().split('-').next(), Some("orders"));
    assert!(stats["processed"].as_u64().unwrap() >= 1, "{stats}");
    let counted: Value =
        serde_json::from_str(&node.types_on_node("curl -s http://localhost:31082/api/v1/dlt/count")).unwrap();
    assert_eq!(counted["count"], dead_letters, "{counted}");
}

/// Coordinators of groups move with each restart.
async fn brokers_are_restarted_under_the_looking_operator(node: &Node) {
    let state = std::path::PathBuf::from(bed_up(&[])).ancestors().nth(2).unwrap().to_owned();
    for restart in 0..number("LAZARET_BROKER_RESTARTS", 3) {
        let broker = format!("kafka-{}", restart % 3 + 1);
        let pid = std::fs::read_to_string(state.join("run").join(&broker)).unwrap();
        let in_box = |arguments: &[&str]| script("in.sh").args(arguments).output().unwrap().status.success();
        assert!(in_box(&["kill", "-TERM", pid.trim()]));
        eventually(&format!("{broker} has ended"), async || (!in_box(&["kill", "-0", pid.trim()])).then_some(())).await;
        bed_up(&[]);
        // It was no death.
        std::fs::remove_file(state.join("died")).unwrap();
        node.no_pod_has_ended_badly().await;
    }
    let counted = node.dead_letters().len();
    node.types_on_node(
        r#"curl -sf -X POST "http://localhost:31082/api/v1/orders" -H "Content-Type: application/json" \
             -d '{"orderId": "ORD-AFTER", "amount": -1, "status": "PENDING"}'"#,
    );
    node.column("DLT", &(counted + 1).to_string()).await;
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Strimzi's new release serves another version of its API; its objects are made anew in it.
async fn strimzi_is_upgraded_under_the_running_operator(node: &Node) {
    bed_up(&[("BED_STRIMZI", "v1"), ("BED_BROKERS", "3")]);
    eventually("the topics are there in the new version", async || {
        let said = node.types("kubectl get kafkatopics.v1.kafka.strimzi.io -n kafka --no-headers 2>/dev/null || true");
        let ready = said.lines().filter(|line| line.starts_with("orders") && line.ends_with("True")).count();
        (ready == 3).then_some(())
    })
    .await;
    // It was Ready before; what it says of a change is of now.
    node.types(r#"kubectl patch ehp orders -n kafka --type=merge -p '{"spec": {"retry": {"maxAttempts": 4}}}'"#);
    node.ready().await;
}

async fn the_chart_is_upgraded_and_removed_and_pipelines_stay(node: &Node) {
    node.types("tests/bed/install.sh --set replicas=1 >/dev/null");
    let asked_for = node.types("kubectl get deployment lazaret -n lazaret -o jsonpath={.spec.replicas}");
    assert_eq!(asked_for, "1");
    node.ready().await;
    node.types("helm uninstall lazaret -n lazaret --wait");
    let crds: Api<CustomResourceDefinition> = Api::all(node.client.clone());
    crds.get("errorhandlingpipelines.lazaret.dev").await.unwrap();
    let pipelines: Api<ErrorHandlingPipeline> = Api::namespaced(node.client.clone(), NAMESPACE);
    pipelines.get("orders").await.unwrap();
    eventually("nothing of the operator is left", async || {
        node.types("kubectl get all -n lazaret --no-headers 2>/dev/null").trim().is_empty().then_some(())
    })
    .await;
    // Workers go on without an operator.
    lab_5_the_counts_are_there_to_read(node, node.dead_letters().len());
    // And whoever installs it again finds everything as it was.
    node.types("tests/bed/install.sh >/dev/null");
    node.types("kubectl delete ehp/orders -n kafka");
    let deployments: Api<Deployment> = Api::namespaced(node.client.clone(), NAMESPACE);
    crate::support::cluster::wait_until_gone(&deployments, "orders-consumer").await;
    let kept = node.types("kubectl get kafkatopics -n kafka --no-headers | grep -c orders");
    assert_eq!(kept.trim(), "3", "topics outlive their pipeline");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exercises_pass_on_kubernetes_in_both_flavours_of_strimzi() {
    let _alone = crate::BOX.lock().await;
    for flavour in ["v1beta2", "v1"] {
        let node = Node::new(flavour).await;
        node.types("tests/bed/install.sh >/dev/null");
        if flavour == "v1beta2" {
            node.types("kubectl rollout status deployment/lazaret -n lazaret");
            node.types("kubectl delete crd {kafkas,kafkatopics,kafkausers}.kafka.strimzi.io");
            node.types("kubectl rollout restart deployment/lazaret -n lazaret");
            node.types("kubectl apply -f examples/orders.yaml");
            strimzi_may_come_later(&node, flavour).await;
        } else {
            node.types("kubectl apply -f examples/orders.yaml");
            node.ready().await;
        }
        the_example_has_its_topics_and_a_line_of_its_own(&node);
        node.answers().await;
        lab_1_valid_records_are_processed_and_none_is_retried(&node).await;
        lab_2_an_invalid_record_is_dead_lettered_at_once(&node).await;
        lab_3_a_transient_error_is_retried_until_it_passes_or_no_attempt_is_left(&node).await;
        lab_4_a_second_worker_shares_the_partitions_and_gives_them_back(&node).await;
        lab_5_the_counts_are_there_to_read(&node, 12);
        if flavour == "v1beta2" {
            strimzi_is_upgraded_under_the_running_operator(&node).await;
        } else {
            // Which version of its API Strimzi serves has no part in this.
            the_dlt_column_is_what_the_console_consumer_counts(&node).await;
            brokers_are_restarted_under_the_looking_operator(&node).await;
            the_chart_is_upgraded_and_removed_and_pipelines_stay(&node).await;
        }
        node.all_pods_end_well().await;
    }
    for cluster in 2..number("LAZARET_FRESH_CLUSTERS", 2) {
        let node = Node::new("v1").await;
        node.types("tests/bed/install.sh >/dev/null && kubectl apply -f examples/orders.yaml");
        node.ready().await;
        node.answers().await;
        lab_2_an_invalid_record_is_dead_lettered_at_once(&node).await;
        node.all_pods_end_well().await;
        eprintln!("no pod was restarted in cluster {}", cluster + 1);
    }
    // What comes next wants a box of the usual kind.
    assert!(script("down.sh").status().unwrap().success());
}
