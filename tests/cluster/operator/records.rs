//! What the status says of records: dead letters, lag, what waits, who reads, and what moved.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams};
use lazaret::api::v1alpha1::{ErrorHandlingPipelineStatus, RebalanceStatus};
use serde_json::{Value, json};

use crate::site::{SOON, Site, in_site, metric};
use crate::support::cluster::{kafka_from_here, kubeconfig};
use crate::support::lazaret::{Lazaret, bash};
use crate::support::{eventually, eventually_ok_within, topics};

/// Writes records with these amounts.
async fn write(site: &Site, amounts: impl IntoIterator<Item = i64>) {
    let producer = topics::producer(&kafka_from_here());
    for amount in amounts {
        let (key, value) = (amount.to_string(), json!({"amount": amount}).to_string());
        topics::write(&producer, &site.named("orders"), Some(key.as_bytes()), Some(value.as_bytes()), None).await;
    }
}

/// Waits until a topic of the site holds so many records: from then on the status has to say so, and soon.
async fn holds_records(site: &Site, topic: &str, count: usize) {
    let (kafka, topic) = (kafka_from_here(), site.named(topic));
    let is_so = async || (topics::read_all(&kafka, &topic).len() == count).then_some(());
    eventually(&format!("{count} records are in {topic}"), is_so).await;
}

async fn scale(site: &Site, deployment: &str, replicas: i32) {
    let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    site.deployments.patch_scale(deployment, &PatchParams::default(), &patch).await.unwrap();
}

async fn pods(site: &Site) -> Vec<String> {
    let labels = ListParams::default().labels("lazaret.dev/pipeline=orders,lazaret.dev/stage=main");
    let pods: Api<Pod> = Api::namespaced(site.client.clone(), &site.namespace);
    pods.list(&labels).await.unwrap().items.iter().map(ResourceExt::name_any).collect()
}

fn holds(status: &ErrorHandlingPipelineStatus, of_type: &str) -> Option<bool> {
    let condition = status.conditions.iter().find(|condition| condition.type_ == of_type)?;
    Some(condition.status == "True")
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_in_the_status_by_what_they_died_of_and_stay_right_through_retention_and_a_restart() {
    in_site("letters", async |site| {
        let mut operator = site.operator();
        site.apply(&site.pipeline("orders", "")).await;
        site.reason("orders", "Ready").await;
        site.says("orders", "counts nothing", |status| {
            let known = (status.lag?, status.retrying?, status.dead_letters.as_ref()?.total);
            (known == (0, 0, 0) && holds(status, "DeadLettersPresent") == Some(false)).then_some(())
        })
        .await;
        write(site, -20..20).await;
        holds_records(site, "orders.dlt", 20).await;
        let letters = site
            .says_within(SOON, "orders", "counts twenty dead letters", |status| {
                let letters = status.dead_letters.clone()?;
                (letters.total == 20 && status.lag == Some(0)).then_some(letters)
            })
            .await;
        let [cause] = &letters.causes[..] else { panic!("one cause: {letters:?}") };
        assert_eq!((&*cause.error_type, cause.reason.as_deref(), cause.count), ("E", Some("Permanent"), 20));
        assert_eq!((letters.last_hour, letters.of_other_causes), (20, 0));
        assert!(letters.oldest.is_some() && letters.oldest <= letters.newest, "{letters:?}");
        let message = site.condition_within(SOON, "orders", "DeadLettersPresent", "DeadLetters").await;
        assert!(message.starts_with(&format!("20 dead letters in {}", site.named("orders.dlt"))), "{message}");
        site.condition_within(SOON, "orders", "NewErrorType", "NewErrorType").await;
        eventually("an event tells of the new error type", async || {
            site.events("orders").await.into_iter().find(|(reason, _)| reason == "NewErrorType")
        })
        .await;
        assert_eq!(metric(&mut operator, "lazaret_dead_letters{"), 20);
        every_metric_that_is_asked_for_is_there(site, &mut operator).await;
        a_worker_reads_them_for_who_is_not_in_the_cluster(site);
        the_plugin_says_how_it_is_and_what_the_operator_would_apply(site).await;

        // Retention takes what is below.
        for partition in 0..3 {
            let of_partition = topics::read_all(&kafka_from_here(), &site.named("orders.dlt"));
            let middle = of_partition.iter().filter(|record| record.partition == partition).nth(2);
            let Some(middle) = middle else { continue };
            topics::delete_records(&kafka_from_here(), &site.named("orders.dlt"), partition, middle.offset).await;
        }
        let left = topics::read_all(&kafka_from_here(), &site.named("orders.dlt")).len() as i64;
        assert!(left < 20, "{left}");
        site.says("orders", "counts what is left", |status| {
            (status.dead_letters.as_ref()?.total == left).then_some(())
        })
        .await;

        assert!(operator.stop().success());
        write(site, [-100]).await;
        let _again = site.operator();
        site.says("orders", "counts one more", |status| {
            (status.dead_letters.as_ref()?.total == left + 1).then_some(())
        })
        .await;
    })
    .await;
}

/// The alerts read what the operator says, the dashboard also what workers say.
async fn every_metric_that_is_asked_for_is_there(site: &Site, operator: &mut Lazaret) {
    let address = operator.wait_for("listening address=");
    let of_operator = bash(&format!("curl -sf http://{address}/metrics"));
    let pods: Api<Pod> = Api::namespaced(site.client.clone(), &site.namespace);
    let mut of_all = of_operator.clone();
    for pod in pods.list(&ListParams::default()).await.unwrap().items {
        let address = pod.status.unwrap().pod_ip.unwrap();
        of_all.push_str(&bash(&format!("curl -sf http://{address}:8080/metrics")));
    }
    for (file, metrics) in [("alerts.yaml", &of_operator), ("dashboard.json", &of_all)] {
        let text = std::fs::read_to_string(format!("charts/lazaret/files/{file}")).unwrap();
        let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        let asked_for: BTreeSet<_> = words.filter(|word| word.starts_with("lazaret_")).collect();
        assert!(asked_for.len() >= 4, "{asked_for:?}");
        for name in asked_for {
            let is_there =
                metrics.lines().any(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
            assert!(is_there, "{file}: {name} is not in\n{metrics}");
        }
    }
}

fn a_worker_reads_them_for_who_is_not_in_the_cluster(site: &Site) {
    let dlt = |arguments: &str| {
        let (binary, namespace) = (env!("CARGO_BIN_EXE_lazaret"), &site.namespace);
        bash(&format!("KUBECONFIG={} {binary} dlt {arguments} -n {namespace} -o json", kubeconfig()))
    };
    let listed: Value = serde_json::from_str(&dlt("list orders --error-type E --limit 3")).unwrap();
    assert_eq!((&listed["total"], &listed["matching"]), (&json!(20), &json!(20)));
    let newest = &listed["items"][0];
    assert_eq!((newest["value"].clone(), &newest["original"]["topic"]), (Value::Null, &json!(site.named("orders"))));
    let position = format!("{}:{}", newest["partition"], newest["offset"]);
    let shown: Value = serde_json::from_str(&dlt(&format!("show orders {position} --payload"))).unwrap();
    let envelope: Value = serde_json::from_str(shown["value"]["text"].as_str().unwrap()).unwrap();
    assert_eq!(envelope["originalKey"], newest["key"]["text"]);
    // What the worker complains of is said here.
    let refused = bash(&format!(
        "KUBECONFIG={} {} dlt show orders 0:99999 -n {} 2>&1 || true",
        kubeconfig(),
        env!("CARGO_BIN_EXE_lazaret"),
        site.namespace
    ));
    assert!(refused.contains("there is no dead letter at 0:99999"), "{refused}");
}

/// What `kubectl lazaret` answers, which ends with 0.
fn plugin(site: &Site, arguments: &str) -> String {
    let (binary, namespace) = (env!("CARGO_BIN_EXE_lazaret"), &site.namespace);
    bash(&format!("KUBECONFIG={} {binary} {arguments} -n {namespace}", kubeconfig()))
}

#[track_caller]
fn has_all(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in\n{text}");
    }
}

async fn the_plugin_says_how_it_is_and_what_the_operator_would_apply(site: &Site) {
    let versions = async || {
        let pipeline = site.pipelines.get("orders").await.unwrap().metadata.generation;
        let consumer = site.deployments.get("orders-consumer").await.unwrap();
        (pipeline, consumer.metadata.generation, consumer.metadata.managed_fields.map(|fields| fields.len()))
    };
    let before = versions().await;
    // One that is not ready, too.
    site.apply(&site.pipeline("other", "kafka: {cluster: nowhere}")).await;
    site.reason("other", "KafkaNotFound").await;
    let list = plugin(site, "status");
    let rows: Vec<Vec<_>> = list.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0][..6], ["NAME", "READY", "REASON", "LAG", "RETRYING", "DLT"], "{list}");
    let row =
        |name| rows.iter().find(|row| row.first() == Some(&name)).unwrap_or_else(|| panic!("no {name} in {list}"));
    assert_eq!(row("orders")[1..8], ["True", "Ready", "0", "0", "20", "1/1", "1/1"], "{list}");
    assert_eq!(row("other")[1..3], ["False", "KafkaNotFound"], "{list}");

    // What its records died of, and who reads which partitions.
    let page = plugin(site, "status orders");
    let [pod] = &pods(site).await[..] else { panic!("one pod") };
    let (heading, group) = (format!("orders in {}: ready for ", site.namespace), site.named("orders-main"));
    has_all(&page, &[&heading, "20 dead letters, 20 of the last hour", &group, pod, "0-1"]);
    let of_cause = |line: &&str| line.split_whitespace().take(3).eq(["E", "Permanent", "20"]);
    assert_eq!(page.lines().filter(of_cause).count(), 1, "{page}");
    assert!(!page.contains("What to do next"), "{page}");
    // Why one is not ready and what to type next.
    let page = plugin(site, "status other");
    let heading = format!("other in {}: not ready for ", site.namespace);
    has_all(&page, &[&heading, "KafkaNotFound", "`nowhere`", "What to do next", "kubectl get kafka -A"]);
    site.pipelines.delete("other", &Default::default()).await.unwrap();

    let plan = plugin(site, "explain orders");
    has_all(&plan, &["0 to create, 0 to change, ", " to leave\n"]);
    let topics = ["orders", "orders.retry", "orders.dlt"].map(|topic| ("KafkaTopic", site.named(topic)));
    let others = [
        ("ConfigMap", "orders-worker"),
        ("ServiceAccount", "orders-worker"),
        ("Deployment", "orders-consumer"),
        ("Deployment", "orders-retry"),
        ("PodDisruptionBudget", "orders-consumer"),
        ("PodDisruptionBudget", "orders-retry"),
    ];
    for (kind, name) in topics.into_iter().chain(others.map(|(kind, name)| (kind, name.to_owned()))) {
        has_all(&plan, &[&format!("# {kind} `{name}` would stay as it is\n"), &format!("kind: {kind}\n")]);
    }
    assert!(!plan.contains("would be changed") && !plan.contains("would be created"), "{plan}");
    // As it is to be, before it is applied.
    let file = format!("{}/{}-explained.yaml", env!("CARGO_TARGET_TMPDIR"), site.namespace);
    let more = format!("retry: {{groupId: {}, maxAttempts: 7}}", site.named("orders-retry"));
    std::fs::write(&file, site.pipeline("orders", &more)).unwrap();
    let plan = plugin(site, &format!("explain -f {file}"));
    has_all(&plan, &["ConfigMap `orders-worker` would be changed:", "Deployment `orders-retry` would be changed:"]);
    assert_eq!(versions().await, before, "it only reads");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_its_next_attempt_is_retrying_and_no_lag() {
    in_site("waits", async |site| {
        let _operator = site.operator();
        let more = format!(
            "processor: {{rules: [{{when: value.amount < 0, error: 'E: later', retryable: true}}]}}\n\
             retry: {{groupId: {}, strategy: Fixed, initialDelay: 1h, maxDelay: 1h}}",
            site.named("retry")
        );
        site.apply(&site.pipeline("orders", &more)).await;
        site.reason("orders", "Ready").await;
        write(site, -5..5).await;
        holds_records(site, "orders.retry", 5).await;
        let due = site
            .says_within(SOON, "orders", "has five that wait", |status| {
                let due = status.next_due.as_ref()?.0;
                (status.retrying == Some(5) && status.lag == Some(0)).then_some(due)
            })
            .await;
        let ahead = due.duration_since(k8s_openapi::jiff::Timestamp::now()).as_secs();
        assert!((3_000..=3_600).contains(&ahead), "{ahead} s");
        // Without a worker nobody says when they are due; they are all there still.
        scale(site, "orders-retry", 0).await;
        site.says("orders", "has no member", |status| {
            status.groups.as_ref()?.retry.as_ref()?.members.is_empty().then_some(())
        })
        .await;
        site.says("orders", "still has them", |status| (status.retrying? >= 5).then_some(())).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_and_what_moved_is_in_the_status_and_in_an_event() {
    in_site("moves", async |site| {
        let _operator = site.operator();
        site.apply(&site.pipeline("orders", "")).await;
        site.reason("orders", "Ready").await;
        let first = pods(site).await.remove(0);
        site.says("orders", "has one member", |status| {
            let group = &status.groups.as_ref()?.main;
            let [member] = &group.members[..] else { return None };
            (group.state == "Stable" && member.client == first && member.partitions == "0-1").then_some(())
        })
        .await;
        scale(site, "orders-consumer", 2).await;
        let joined = site
            .says("orders", "tells of a rebalance", |status| {
                let rebalances = status.rebalances.as_ref()?;
                // The first workers joined, too.
                let joined =
                    |rebalance: &&RebalanceStatus| rebalance.reason == "MemberJoined" && rebalance.members_before == 1;
                rebalances.recent.iter().find(joined).cloned()
            })
            .await;
        assert_eq!((joined.members_before, joined.members_after, joined.partitions_moved), (1, 2, 1));
        assert_eq!(joined.group_id, site.named("orders-main"));
        let second = pods(site).await.into_iter().find(|pod| *pod != first).unwrap();
        assert_eq!(joined.members, std::slice::from_ref(&second));
        // Events of one reason are counted, not repeated: the note is that of the first.
        let event = |wanted: &'static str| {
            eventually(wanted, async move || {
                site.events("orders").await.into_iter().find(|(reason, _)| reason == wanted)
            })
        };
        event("MemberJoined").await;
        has_all(&plugin(site, "status orders"), &["MemberJoined", &second]);
        let count = site.says("orders", "counts it", |status| Some(status.rebalances.as_ref()?.count)).await;

        scale(site, "orders-consumer", 1).await;
        let rebalances = site
            .says("orders", "tells of who left", |status| {
                let rebalances = status.rebalances.clone()?;
                (rebalances.recent.first()?.reason != "MemberJoined").then_some(rebalances)
            })
            .await;
        let (_, note) = event("MemberLeft").await;
        assert!(note.contains("2 members before, 1 after"), "{note}");
        assert!(rebalances.count > count, "{rebalances:?}");
        assert_eq!(rebalances.recent.len() as i64, rebalances.count.min(10));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_nobody_reads_are_lag_and_after_a_minute_the_consumer_is_stuck() {
    in_site("stuck", async |site| {
        let _operator = site.operator();
        site.apply(&site.pipeline("orders", "")).await;
        site.reason("orders", "Ready").await;
        let has_member = |status: &ErrorHandlingPipelineStatus| {
            let group = &status.groups.as_ref()?.main;
            (group.members.len() == 1 && group.state == "Stable").then_some(())
        };
        site.says("orders", "has a member", has_member).await;
        scale(site, "orders-consumer", 0).await;
        site.says("orders", "has no member", |status| status.groups.as_ref()?.main.members.is_empty().then_some(()))
            .await;
        write(site, 0..7).await;
        site.says_within(SOON, "orders", "has seven records that nobody reads", |status| {
            let committed = status.groups.as_ref()?.main.committed_lag;
            (status.lag == Some(7) && committed == 7 && holds(status, "ConsumerStuck") != Some(true)).then_some(())
        })
        .await;
        // After a minute without progress, which begins with the first look.
        let is_stuck = async || {
            let status = site.pipelines.get("orders").await?.status.unwrap_or_default();
            let is_it = |condition: &Condition| condition.type_ == "ConsumerStuck" && condition.status == "True";
            Ok::<_, kube::Error>(status.conditions.into_iter().find(is_it))
        };
        let stuck = eventually_ok_within(Duration::from_secs(150), "it is said to be stuck", is_stuck).await;
        assert_eq!(stuck.reason, "NoMembers");
        assert!(stuck.message.contains("7 records are ready"), "{}", stuck.message);
        assert!(stuck.message.ends_with("See docs/conditions/consumer-stuck.md."), "{}", stuck.message);
        scale(site, "orders-consumer", 1).await;
        site.says("orders", "is at work again", |status| {
            (status.lag == Some(0) && holds(status, "ConsumerStuck") == Some(false)).then_some(())
        })
        .await;
    })
    .await;
}
