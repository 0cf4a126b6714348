//! Several worker processes that know each other: injected failures, and what they did together.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use lazaret::domain::pipeline::Pipeline;
use serde_json::{Value, json};

use crate::support::lazaret::{Lazaret, bash, own_stats, stats};
use crate::support::pipeline::{pipeline, yaml};
use crate::support::ports::free_port;
use crate::support::processor::Endpoint;
use crate::support::topics::{producer, write};
use crate::support::{Broker, eventually, kafka, unique};

/// A pipeline that workers run, and where its file is.
struct Bed {
    pipeline: Pipeline,
    file: String,
    endpoint: Endpoint,
}

/// A worker, and its API.
struct Worker {
    lazaret: Lazaret,
    address: String,
    api: String,
}

impl Bed {
    async fn new(name: &str, more: &str) -> Self {
        let endpoint = Endpoint::start().await;
        let http = format!("processor: {{http: {{url: '{}'}}}}\n", endpoint.url);
        let (name, http) = (unique(name), if more.contains("processor: ") { "" } else { &*http });
        let spec = format!("{http}{more}");
        let file = std::env::temp_dir().join(format!("{name}.yaml")).display().to_string();
        std::fs::write(&file, yaml(&name, &spec)).unwrap();
        let pipeline = pipeline(&name, &spec);
        Broker::Kafka.create_topics(&pipeline).await;
        Self { pipeline, file, endpoint }
    }

    fn start(&self, stage: &str, address: &str, peers: &[String]) -> Worker {
        let (file, peers) = (&*self.file, peers.join(","));
        let args = ["worker", "--stage", stage, "--file", file, "--bootstrap-servers", kafka(), "--listen", address];
        let peers = if peers.is_empty() { vec![] } else { vec!["--peers", &peers] };
        let mut lazaret = Lazaret::start(&[&args[..], &peers].concat());
        let address = lazaret.wait_for("listening address=");
        let api = format!("http://{address}");
        Worker { lazaret, address, api }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

impl Worker {
    fn switch(&self, enabled: bool) -> Value {
        let query = format!("config/simulate-transient-error?enabled={enabled}");
        serde_json::from_str(&bash(&format!("curl -sf -X POST '{}/api/v1/{query}'", self.api))).unwrap()
    }

    fn held(&self) -> Value {
        serde_json::from_str(&bash(&format!("curl -sf {}/api/v1/config/simulate-transient-error", self.api))).unwrap()
    }

    fn is_on(&self) -> bool {
        own_stats(&self.api)["simulateTransientError"].as_bool().unwrap()
    }
}

/// Addresses where nobody listens yet. Each has a host of its own, as pods do.
fn addresses<const N: usize>() -> [String; N] {
    std::array::from_fn(|n| {
        let host = Ipv4Addr::new(127, 0, 0, u8::try_from(n + 1).unwrap());
        SocketAddr::from((host, free_port(host.into()))).to_string()
    })
}

/// Somebody who takes part in nothing and notes what is asked of them.
async fn witness() -> (String, Arc<Mutex<Vec<String>>>) {
    async fn note(State(seen): State<Arc<Mutex<Vec<String>>>>, method: Method, uri: Uri) -> StatusCode {
        seen.lock().unwrap().push(format!("{method} {uri}"));
        StatusCode::NOT_FOUND
    }
    let seen = Arc::<Mutex<Vec<_>>>::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let router = Router::new().fallback(note).with_state(seen.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, seen)
}

/// Injected failures, and attempts enough for as long as a slow machine leaves them on, without a pause.
const ALLOWED: &str = "
faultInjection: {enabled: true}
retry: {strategy: Fixed, initialDelay: 1s, maxDelay: 1s, maxAttempts: 100}
circuitBreaker: {enabled: false}";

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_at_one_worker_has_reached_all_when_it_answers() {
    let bed = Bed::new("peers", ALLOWED).await;
    let peers = addresses::<3>();
    let stages = ["main", "main", "retry"].into_iter().zip(&peers);
    let workers: Vec<_> = stages.map(|(stage, address)| bed.start(stage, address, &peers)).collect();
    for (at, enabled) in [(0, true), (2, false), (1, true), (1, false), (2, true), (0, false)] {
        let answer = workers[at].switch(enabled);
        assert_eq!(answer, json!({"simulateTransientError": enabled, "peers": 3}));
        assert_eq!(workers.iter().map(Worker::is_on).collect::<Vec<_>>(), [enabled; 3]);
        let held = workers[at].held();
        assert_eq!(held["simulateTransientError"], enabled);
        assert!(workers.iter().all(|worker| worker.held() == held), "they hold one setting, of one time");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_starts_later_fails_from_its_first_call_on() {
    let bed = Bed::new("later", ALLOWED).await;
    let peers = addresses::<2>();
    let mut early = bed.start("retry", &peers[0], &peers);
    assert_eq!(early.switch(true), json!({"simulateTransientError": true, "peers": 1, "peersMissed": 1}));
    early.lazaret.wait_for("a peer could not be told");
    assert_eq!(early.lazaret.grep(&["WARN", "a peer could not be told", &peers[1]]).len(), 1);

    let producer = producer(kafka());
    for n in 0..20 {
        let value = json!({"id": n.to_string()}).to_string();
        write(&producer, &bed.pipeline.main.topic, None, Some(value.as_bytes()), None).await;
    }
    let late = bed.start("main", &peers[1], &peers);
    let retried = async || (own_stats(&late.api)["retried"] == 20).then_some(());
    eventually("the first attempt at each record failed", retried).await;
    assert_eq!(bed.endpoint.count(), 0, "nobody was called: the failures were injected, in both stages");

    assert_eq!(late.switch(false), json!({"simulateTransientError": false, "peers": 2}));
    assert!(!early.is_on() && !late.is_on());
    let all = async || (bed.endpoint.count() == 20).then_some(());
    eventually("all are processed by the other stage", all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_could_not_be_told_learns_of_it_by_asking() {
    let bed = Bed::new("healed", ALLOWED).await;
    let alone = bed.start("main", "127.0.0.1:0", &[]);
    let (witness, seen) = witness().await;
    let asking = bed.start("retry", "127.0.0.1:0", &[alone.address.clone(), witness.clone()]);
    for enabled in [true, false] {
        assert_eq!(alone.switch(enabled), json!({"simulateTransientError": enabled}), "it knows of nobody to tell");
        eventually("the other does the same", async || (asking.is_on() == enabled).then_some(())).await;
    }
    assert_eq!(asking.held(), alone.held());

    let path = "/api/v1/config/simulate-transient-error";
    assert!(seen.lock().unwrap().iter().all(|request| *request == format!("GET {path}")), "{seen:?}");
    let at = asking.held()["at"].as_i64().unwrap() + 1;
    bash(&format!("curl -sf -X POST '{}{path}?enabled=true&at={at}'", asking.api));
    assert!(asking.is_on() && !alone.is_on());
    asking.switch(false);
    let told: Vec<_> = seen.lock().unwrap().iter().filter(|request| request.starts_with("POST")).cloned().collect();
    let at = asking.held()["at"].as_i64().unwrap();
    assert_eq!(told, [format!("POST {path}?enabled=false&at={at}")], "what a peer says is not passed on");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_pipeline_allows_it_nobody_is_told_or_asked() {
    let bed = Bed::new("forbidden", "").await;
    let (witness, seen) = witness().await;
    let mut worker = bed.start("main", "127.0.0.1:0", &[witness]);
    let url = format!("{}/api/v1/config/simulate-transient-error", worker.api);
    for request in ["-X POST", "-X GET"] {
        let status = bash(&format!("curl -s -o /dev/null -w '%{{http_code}}' {request} '{url}?enabled=true'"));
        assert_eq!(status, "404", "{request}");
    }
    worker.lazaret.wait_for("Kafka answers");
    assert!(worker.lazaret.stop().success());
    assert!(seen.lock().unwrap().is_empty(), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whichever_worker_is_asked_says_what_all_did_and_names_one_that_has_ended() {
    let rules = "processor: {rules: [{when: value.amount < 0, error: 'E: negative'}, \
                 {when: 'value.amount == 0', error: 'B: zero', retryable: true}]}";
    let bed = Bed::new("together", &format!("{rules}\nretry: {{strategy: Immediate, maxAttempts: 3}}")).await;
    let peers = addresses::<2>();
    let main = bed.start("main", &peers[0], &peers);
    let mut retry = bed.start("retry", &peers[1], &peers);
    let producer = producer(kafka());
    for amount in [1, 1, 1, 1, -1, 0] {
        let value = json!({"amount": amount}).to_string();
        write(&producer, &bed.pipeline.main.topic, None, Some(value.as_bytes()), None).await;
    }
    let numbers = |stats: &Value| {
        let numbers = ["processed", "retried", "deadLettered", "deadLetteredByErrorType", "failedAttempts", "stages"];
        numbers.map(|name| stats[name].clone())
    };
    let workers = |stats: &Value| -> Vec<(String, u64)> {
        let workers = stats["workers"].as_array().unwrap().iter();
        let stage = |worker: &Value| worker["stages"][0]["stage"].as_str().unwrap().to_owned();
        let mut workers: Vec<_> =
            workers.map(|worker| (stage(worker), worker["deadLettered"].as_u64().unwrap())).collect();
        workers.sort();
        workers
    };
    for worker in [&main, &retry] {
        let all = async || (stats(&worker.api)["deadLettered"] == 2).then_some(());
        eventually("the dead letters of both stages are counted", all).await;
    }
    // While nothing happens both say the same.
    let (of_main, of_retry) = eventually("both have the same totals", async || {
        let answers = (stats(&main.api), stats(&retry.api));
        (numbers(&answers.0) == numbers(&answers.1)).then_some(answers)
    })
    .await;
    assert_eq!((&of_main["processed"], &of_main["retried"]), (&json!(4), &json!(2)), "{of_main}");
    assert_eq!(of_main["deadLetteredByErrorType"], json!({"B": 1, "E": 1}));
    for answer in [&of_main, &of_retry] {
        assert_eq!(workers(answer), [("main".to_owned(), 1), ("retry".to_owned(), 1)], "{answer}");
        assert_eq!(answer["unreachable"], json!([]));
        assert_eq!((&answer["stages"][0]["stage"], &answer["stages"][1]["stage"]), (&json!("main"), &json!("retry")));
    }
    let own = own_stats(&main.api);
    assert_eq!((&own["deadLettered"], own["stages"].as_array().unwrap().len()), (&json!(1), 1), "{own}");
    assert_eq!((own.get("workers"), own.get("unreachable")), (None, None), "{own}");

    assert!(retry.lazaret.stop().success());
    let missing = eventually("the other is missed", async || {
        let began = Instant::now();
        let answer = stats(&main.api);
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        (answer["unreachable"] != json!([])).then_some(answer)
    })
    .await;
    let [unreachable] = &missing["unreachable"].as_array().unwrap()[..] else { panic!("{missing}") };
    assert_eq!((&unreachable["address"], &unreachable["worker"]), (&json!(peers[1]), &of_retry["worker"]));
    assert!(unreachable["reason"].as_str().unwrap().contains("refused"), "{unreachable}");
    assert_eq!(workers(&missing), [("main".to_owned(), 1)]);
    assert_eq!((&missing["processed"], &missing["deadLettered"]), (&json!(4), &json!(1)), "the rest is there");
}
