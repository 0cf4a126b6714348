//! What a person reads of pipelines in every state.

use k8s_openapi::api::core::v1::Event;
use kube::core::DeserializeGuard;
use serde_json::{Value, json};

use super::*;

/// A pipeline called `orders` with this status, seven minutes after it was made.
fn pipeline(status: &Value) -> ErrorHandlingPipeline {
    serde_json::from_value(json!({
        "apiVersion": "lazaret.dev/v1alpha1", "kind": "ErrorHandlingPipeline",
        "metadata": {
            "name": "orders", "namespace": "kafka", "generation": 2, "creationTimestamp": "2030-01-01T00:00:00Z",
        },
        "spec": {
            "kafka": {"cluster": "main"}, "topic": {"name": "orders"}, "consumer": {"replicas": 3},
            "processor": {"http": {"url": "http://orders.shop.svc:8080"}},
        },
        "status": status,
    }))
    .unwrap()
}

fn now() -> Timestamp {
    "2030-01-01T00:07:00Z".parse().unwrap()
}

fn condition(of_type: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({
        "type": of_type, "status": status, "reason": reason, "message": message, "observedGeneration": 2,
        "lastTransitionTime": "2030-01-01T00:03:00Z",
    })
}

fn status(conditions: &[Value]) -> Value {
    let topic = |name: &str, ready: bool| json!({"name": name, "kafkaTopic": name, "ready": ready});
    json!({
        "observedGeneration": 2, "conditions": conditions,
        "topics": [topic("orders", true), topic("orders.retry", false), topic("orders.dlt", false)],
        "consumer": {"replicas": 3, "readyReplicas": 1}, "retry": {"replicas": 1, "readyReplicas": 1},
        "lag": 7, "retrying": 2, "deadLetters": {"total": 0},
    })
}

fn ready_status() -> Value {
    status(&[condition("Ready", "True", "Ready", "records are processed")])
}

fn state(stage: Stage, ready: i32, wanted: i32, trouble: Option<(&str, &str)>) -> Option<StageState> {
    let trouble = trouble.map(|(reason, message)| (reason.to_owned(), message.to_owned()));
    Some(StageState { deployment: workers_name("orders", stage), wanted, replicas: wanted, ready, trouble })
}

fn shown(status: &Value, stages: [Option<StageState>; 2]) -> String {
    page(&Page { object: pipeline(status), stages: Some(stages), events: Some(vec![]) }, now())
}

fn next(status: &Value, stages: [Option<StageState>; 2]) -> Vec<String> {
    let page = shown(status, stages);
    let (_, next) = page.split_once("What to do next\n").unwrap_or_default();
    next.lines().map(|line| line.trim().to_owned()).collect()
}

#[test]
fn workers_that_crash_are_a_page_that_ends_with_their_log() {
    let message = "pod `orders-consumer-1`: back-off 40s restarting failed container";
    let status = status(&[
        condition("Ready", "False", "CrashLoopBackOff", message),
        condition("TopicsReady", "True", "TopicsReady", "3 topics are as asked for"),
        condition("WorkersReady", "False", "CrashLoopBackOff", message),
        condition("Warning", "True", "ServiceNotFound", "there is no Service `orders` in the namespace `shop`"),
    ]);
    let stages = [
        state(Stage::Main, 1, 3, Some(("CrashLoopBackOff", message))),
        state(Stage::Retry, 0, 1, Some(("ImagePullBackOff", "pod `orders-retry-1`: no such image"))),
    ];
    let event = |reason: &str, seconds: u32, count: Option<i32>| -> Event {
        serde_json::from_value(json!({
            "metadata": {}, "involvedObject": {}, "type": "Warning", "reason": reason, "message": "one\ntwo",
            "eventTime": format!("2030-01-01T00:00:{seconds:02}.000000Z"),
            "series": count.map(|count| json!({"count": count, "lastObservedTime": "2030-01-01T00:06:00.000000Z"})),
        }))
        .unwrap()
    };
    let events = vec![event("TopicPending", 1, None), event("CrashLoopBackOff", 30, Some(4)), event("Ready", 20, None)];
    let text = page(&Page { object: pipeline(&status), stages: Some(stages), events: Some(events) }, now());
    insta::assert_snapshot!(text, @r"
    orders in kafka: not ready for 4m, CrashLoopBackOff
      pod `orders-consumer-1`: back-off 40s restarting failed container

    Conditions
      WorkersReady is False for 4m, CrashLoopBackOff
      Warning is True for 4m, ServiceNotFound
        there is no Service `orders` in the namespace `shop`

    Records
      7 ready and not processed; 2 in the retry topic
      no dead letters

    Topics
      NAME          KAFKATOPIC    READY
      orders        orders        yes
      orders.retry  orders.retry  no
      orders.dlt    orders.dlt    no

    Workers
      STAGE  DEPLOYMENT       READY
      main   orders-consumer  1/3
      retry  orders-retry     0/1
      ImagePullBackOff: pod `orders-retry-1`: no such image

    Events
      60s    Warning  CrashLoopBackOff (4 times)  one two
      6m40s  Warning  Ready                       one two
      6m59s  Warning  TopicPending                one two

    What to do next
      kubectl logs -n kafka -l lazaret.dev/pipeline=orders,lazaret.dev/stage=main --all-containers --tail 50
      kubectl describe pods -n kafka -l lazaret.dev/pipeline=orders,lazaret.dev/stage=retry
    ");
}

#[test]
fn a_pipeline_that_is_ready_is_a_short_page_with_nothing_to_do() {
    let text = shown(&ready_status(), [state(Stage::Main, 3, 3, None), state(Stage::Retry, 1, 1, None)]);
    assert!(text.starts_with("orders in kafka: ready for 4m, Ready\n  records are processed\n"), "{text}");
    for word in ["Conditions", "Events", "What to do next"] {
        assert!(!text.contains(word), "{text}");
    }
}

#[test]
fn what_the_records_are_up_to_is_a_part_of_the_page() {
    let mut status = ready_status();
    let at = |seconds: u32| format!("2030-01-01T00:06:{seconds:02}Z");
    let cause = |error_type: &str, reason: Option<&str>, count: u32| json!({"errorType": error_type, "reason": reason, "count": count, "newest": at(30)});
    let member =
        |client: &str, partitions: &str| json!({"client": client, "host": "10.0.0.7", "partitions": partitions});
    status["nextDue"] = "2030-01-01T00:08:05Z".into();
    status["deadLetters"] = json!({
        "total": 14, "lastHour": 3, "oldest": at(0), "newest": at(30), "ofOtherCauses": 2,
        "causes": [cause("ValidationException", Some("Permanent"), 9), cause("java.io.IOException", None, 3)],
    });
    status["groups"] = json!({
        "main": {"groupId": "orders-consumer-group", "state": "Stable", "committedLag": 7,
            "members": [member("orders-consumer-1", "0-2"), member("orders-consumer-2", "")]},
        "retry": {"groupId": "orders-retry-group", "state": "Empty", "committedLag": 40, "members": []},
    });
    status["rebalances"] = json!({"count": 5, "perHour": 1, "last": at(10), "recent": [{
        "time": at(10), "groupId": "orders-consumer-group", "reason": "MemberJoined", "members": ["orders-consumer-2"],
        "membersBefore": 1, "membersAfter": 2, "partitionsMoved": 3, "seconds": 2,
    }]});
    status["conditions"].as_array_mut().unwrap().extend([
        condition("DeadLettersPresent", "True", "DeadLetters", "14 dead letters"),
        condition("ConsumerStuck", "True", "NoProgress", "nothing was finished"),
        condition("RebalanceStorm", "False", "AsItShouldBe", ""),
        condition("CountsCurrent", "False", "KafkaUnreachable", "Kafka does not answer"),
    ]);
    let text = shown(&status, [state(Stage::Main, 3, 3, None), state(Stage::Retry, 1, 1, None)]);
    insta::assert_snapshot!(text, @r"
    orders in kafka: ready for 4m, Ready
      records are processed

    Conditions
      ConsumerStuck is True for 4m, NoProgress
        nothing was finished
      CountsCurrent is False for 4m, KafkaUnreachable
        Kafka does not answer

    Records
      7 ready and not processed; 2 in the retry topic, the next one in 65s
      14 dead letters, 3 of the last hour; the oldest 60s old, the newest 30s
        ERROR TYPE           REASON     COUNT  NEWEST
        ValidationException  Permanent  9      30s
        java.io.IOException  -          3      30s
        and 2 of other causes

    Topics
      NAME          KAFKATOPIC    READY
      orders        orders        yes
      orders.retry  orders.retry  no
      orders.dlt    orders.dlt    no

    Workers
      STAGE  DEPLOYMENT       READY
      main   orders-consumer  3/3
      retry  orders-retry     1/1

    Groups
      GROUP                  STATE   LAG (COMMITTED)  MEMBER             PARTITIONS
      orders-consumer-group  Stable  7                orders-consumer-1  0-2
                                                      orders-consumer-2  -
      orders-retry-group     Empty   40               no member

    Rebalances
      5 seen, 1 within the last hour
      50s  MemberJoined  1 -> 2 members, 3 partitions moved  orders-consumer-group  orders-consumer-2
    ");
}

#[test]
fn a_pipeline_that_nobody_has_looked_at_says_so() {
    for status in [json!(null), json!({})] {
        let text = shown(&status, [None, None]);
        assert!(text.starts_with("orders in kafka: the operator has not looked at it yet. Is it running?\n"), "{text}");
        assert!(text.contains("main   orders-consumer  none yet"), "{text}");
        assert_eq!(next(&status, [None, None]), [OPERATOR_PODS]);
    }
}

#[test]
fn a_change_that_nobody_has_looked_at_is_not_taken_for_ready() {
    let mut status = ready_status();
    status["observedGeneration"] = 1.into();
    let text = shown(&status, [None, None]);
    assert!(text.contains("has not looked at its last change yet"), "{text}");
    assert!(!text.contains(": ready"), "{text}");
    assert_eq!(next(&status, [None, None]), [OPERATOR_PODS]);
}

#[test]
fn trouble_with_topics_leads_to_their_objects() {
    let with = |reason: &str| status(&[condition("Ready", "False", reason, "why")]);
    let describe = "kubectl describe kafkatopic -n kafka orders.retry orders.dlt";
    assert_eq!(next(&with("TopicNotReady"), [None, None]), [describe]);
    assert_eq!(next(&with("TopicDiffers"), [None, None]), [describe, "kubectl edit ehp -n kafka orders"]);
    let pods = "kubectl get pods -n kafka -l strimzi.io/cluster=main";
    assert_eq!(next(&with("TopicPending"), [None, None]), [describe, pods]);
    assert_eq!(next(&with("KafkaUnreachable"), [None, None]), [pods]);
    assert_eq!(next(&with("KafkaNotReady"), [None, None]), ["kubectl describe kafka -n kafka main"]);
    assert_eq!(next(&with("NameTaken"), [None, None]), ["kubectl lazaret explain -n kafka orders"]);
}

#[test]
fn a_ready_pipeline_without_its_service_leads_to_the_services() {
    let warning = condition("Warning", "True", "ServiceNotFound", "there is no Service");
    let status = status(&[condition("Ready", "True", "Ready", "records are processed"), warning]);
    assert_eq!(next(&status, [None, None]), ["kubectl get services -n shop"]);
}

#[test]
fn where_workers_may_not_be_looked_at_the_status_is_taken() {
    let object = pipeline(&status(&[condition("Ready", "False", "Unschedulable", "why")]));
    let text = page(&Page { object, stages: None, events: None }, now());
    assert!(text.contains("main   orders-consumer  1/3"), "{text}");
    assert!(text.contains("as last reported"), "{text}");
    assert!(text.contains("you may not look at events"), "{text}");
    assert!(text.ends_with("kubectl describe pods -n kafka -l lazaret.dev/pipeline=orders,lazaret.dev/stage=main\n"));
}

#[test]
fn a_list_has_a_line_for_each_and_names_what_needs_a_look() {
    let named = |name: &str, status: &Value| {
        let mut object = pipeline(status);
        object.metadata.name = Some(name.into());
        DeserializeGuard(Ok(object))
    };
    let unreadable = json!({
        "apiVersion": "lazaret.dev/v1alpha1", "kind": "ErrorHandlingPipeline",
        "metadata": {"name": "old", "namespace": "shop"}, "spec": {},
    });
    let pipelines = [
        named("fine", &ready_status()),
        named("bad", &status(&[condition("Ready", "False", "TopicDiffers", "why")])),
        named("new", &json!(null)),
        serde_json::from_value(unreadable).unwrap(),
    ];
    insta::assert_snapshot!(list(&pipelines, None, now()), @r"
    NAMESPACE  NAME  READY    REASON        LAG  RETRYING  DLT  CONSUMERS  RETRY  AGE
    kafka      fine  True     Ready         7    2         0    1/3        1/1    7m
    kafka      bad   False    TopicDiffers  7    2         0    1/3        1/1    7m
    kafka      new   Unknown  NotSeenYet    -    -         -    -          -      7m
    shop       old   False    Unreadable    -    -         -    -          -

    shop/old cannot be read: Missing field kafka; apply it anew
    The operator has not looked at kafka/new yet. Is it running?
      kubectl get pods -A -l app.kubernetes.io/part-of=lazaret,app.kubernetes.io/component=operator
    What is wrong says, for instance:
      kubectl lazaret status -n kafka bad
    ");
    let of_one = list(&pipelines[..1], Some("kafka"), now());
    assert_eq!(
        of_one,
        "NAME  READY  REASON  LAG  RETRYING  DLT  CONSUMERS  RETRY  AGE\nfine  True   Ready   7    2         0    1/3        1/1    7m\n"
    );
}

#[test]
fn a_list_of_nothing_says_where_it_looked() {
    assert!(list(&[], Some("kafka"), now()).contains("no pipeline in the namespace `kafka`"));
    assert_eq!(list(&[], None, now()), "There is no pipeline.\n");
}
