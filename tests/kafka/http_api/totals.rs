//! What several workers did, asked of one of them.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Redirect, Response};
use futures::future::join_all;
use lazaret::domain::record::dead_letter::Reason;
use lazaret::worker::serve::peers::Peers;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::bed::{Bed, CLOSED, OPEN};
use crate::support::eventually;
use crate::support::ports::closed_port;

const STATS: &str = "/api/v1/stats";
const OWN: &str = "/api/v1/stats?scope=worker";

type Answer = fn() -> Response;

/// Somebody who answers every request so, and notes it.
async fn peer(answer: impl Fn() -> Response + Clone + Send + Sync + 'static) -> (String, Arc<Mutex<Vec<String>>>) {
    let seen = Arc::<Mutex<Vec<_>>>::default();
    let noted = seen.clone();
    let note = async move |uri: Uri| {
        noted.lock().unwrap().push(uri.to_string());
        answer()
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(note)).await });
    (address, seen)
}

async fn among(names: impl IntoIterator<Item = String>) -> Bed {
    Bed::among(Some(Peers::new(names).unwrap()), CLOSED).await
}

fn unreachable(stats: &Value) -> Vec<(&str, &str)> {
    let of = stats["unreachable"].as_array().unwrap().iter();
    of.map(|of| (of["address"].as_str().unwrap(), of["reason"].as_str().unwrap())).collect()
}

#[tokio::test]
async fn a_worker_says_what_all_did_and_which_it_could_not_ask_within_two_seconds() {
    let other = Bed::without_broker(CLOSED).await;
    other.metrics[0].processed.inc_by(5);
    other.metrics[1].dead_letter("E", Reason::Permanent);
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (silent, closed) = (silent.local_addr().map(|address| (silent, address.to_string())).unwrap(), closed_port());
    let port = other.address.rsplit_once(':').unwrap().1;
    // One is named twice, and the names lead to what answers, hangs, is closed, and is not there.
    let same = format!("localhost:{port}");
    let names = [other.address.clone(), same, silent.1.clone(), closed.clone(), "nobody.invalid:1".into()];
    let bed = among(names).await;
    bed.metrics[0].processed.inc_by(2);
    let began = Instant::now();
    let stats = bed.get(STATS).await.is(200).body;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!((&stats["processed"], &stats["deadLettered"]), (&json!(7), &json!(1)), "{stats}");
    assert_eq!(stats["stages"].as_array().unwrap().len(), 2, "{stats}");
    let workers = stats["workers"].as_array().unwrap().iter().map(|worker| worker["processed"].as_u64().unwrap());
    let mut workers: Vec<_> = workers.collect();
    workers.sort_unstable();
    assert_eq!(workers, [2, 5], "{stats}");
    let unreachable: Vec<_> =
        unreachable(&stats).into_iter().filter(|(address, _)| !address.starts_with('[')).collect();
    assert_eq!(unreachable.len(), 3, "{stats}");
    for (address, why) in
        [(&*silent.1, "no answer within 1s"), (&closed, "refused"), ("nobody.invalid:1", "the name does not resolve")]
    {
        assert!(unreachable.iter().any(|(of, reason)| *of == address && reason.contains(why)), "{address}: {stats}");
    }

    let own = bed.get(OWN).await.is(200).body;
    assert_eq!((&own["processed"], own.get("workers")), (&json!(2), None));
    for query in ["?scope=", "?scope=all", "?scope=Worker", "?scope"] {
        bed.get(&format!("{STATS}{query}")).await.is(400).details("`?scope=worker`");
    }
    bed.get(&format!("{STATS}?scope=pipeline&other=1")).await.is(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn however_many_ask_the_peers_are_asked_once_a_second_and_who_is_asked_for_itself_asks_nobody() {
    let (address, seen) = peer(|| StatusCode::NOT_FOUND.into_response()).await;
    let bed = among([address]).await;
    for _ in 0..5 {
        bed.get(OWN).await.is(200);
    }
    assert_eq!(*seen.lock().unwrap(), Vec::<String>::new());
    let began = Instant::now();
    for _ in 0..5 {
        for answer in join_all((0..100).map(|_| bed.request("GET", STATS).send())).await {
            let answer: Value = answer.unwrap().json().await.unwrap();
            assert_eq!(unreachable(&answer)[0].1, "it answers with 404 Not Found");
        }
    }
    let seconds = began.elapsed().as_secs() as usize;
    let seen = seen.lock().unwrap();
    assert!(!seen.is_empty() && seen.len() <= 1 + seconds, "{} in {seconds} s", seen.len());
    assert!(seen.iter().all(|request| request == OWN), "{seen:?}");
}

#[tokio::test]
async fn what_a_worker_itself_did_is_never_a_second_old() {
    let (address, _) = peer(|| StatusCode::NOT_FOUND.into_response()).await;
    let bed = among([address]).await;
    for processed in 0..20 {
        assert_eq!(bed.get(STATS).await.is(200).body["processed"], json!(processed));
        bed.metrics[0].processed.inc();
    }
}

#[tokio::test]
async fn a_peer_of_a_release_that_knows_no_scope_is_counted() {
    let older = Bed::without_broker(CLOSED).await;
    older.metrics[1].processed.inc_by(3);
    let mut said = older.get(OWN).await.is(200).body;
    said.as_object_mut().unwrap().remove("instance").unwrap();
    said["worker"] = json!("older");
    let said = said.to_string();
    let (address, _) = peer(move || said.clone().into_response()).await;
    let bed = among([address]).await;
    bed.metrics[0].processed.inc_by(2);
    let stats = bed.get(STATS).await.is(200).body;
    assert_eq!((&stats["processed"], &stats["unreachable"]), (&json!(5), &json!([])));
    assert_eq!((&stats["workers"][0]["name"], &stats["workers"][0]["processed"]), (&json!("older"), &json!(3)));
}

#[tokio::test]
async fn a_peer_that_answers_with_anything_else_is_named_and_the_rest_is_answered() {
    let endless = || Body::from_stream(futures::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 1 << 16])));
    let peers: [(&str, Answer); 4] = [
        ("it answers with 500 Internal Server Error", || StatusCode::INTERNAL_SERVER_ERROR.into_response()),
        ("it answers with 307 Temporary Redirect", || Redirect::temporary(STATS).into_response()),
        ("expected value at line 1", || "<html>".into_response()),
        ("missing field `worker`", || "{}".into_response()),
    ];
    let mut expected = vec![];
    for (reason, answer) in peers {
        expected.push((peer(answer).await.0, reason));
    }
    expected.push((peer(move || Response::new(endless())).await.0, "its answer has more than"));
    let bed = among(expected.iter().map(|(address, _)| address.clone())).await;
    bed.metrics[0].processed.inc_by(2);
    let began = Instant::now();
    let stats = bed.get(STATS).await.is(200).body;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!((&stats["processed"], unreachable(&stats).len()), (&json!(2), expected.len()), "{stats}");
    for (address, why) in &expected {
        let found = unreachable(&stats).iter().any(|(of, reason)| of == address && reason.contains(why));
        assert!(found, "{address}: {why}: {stats}");
    }
}

#[tokio::test]
async fn of_more_addresses_than_can_be_asked_each_is_named() {
    // Nobody listens there.
    let bed = among((0..300).map(|n| format!("127.1.{}.{}:1", n / 200, n % 200 + 1))).await;
    let stats = bed.get(STATS).await.is(200).body;
    let unreachable = unreachable(&stats);
    let not_asked = unreachable.iter().filter(|(_, reason)| reason.contains("not asked: there are more than 256"));
    assert_eq!((unreachable.len(), not_asked.count()), (300, 44));
}

#[tokio::test]
async fn a_worker_that_ends_is_named_by_what_it_was_called() {
    let other = Bed::without_broker(CLOSED).await;
    let said = other.get(OWN).await.is(200).body.to_string();
    let times = Arc::new(AtomicU32::new(0));
    let answer = move || match times.fetch_add(1, Ordering::Relaxed) {
        0 => said.clone().into_response(),
        _ => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    };
    let (address, _) = peer(answer).await;
    let bed = among([address]).await;
    assert_eq!(bed.get(STATS).await.is(200).body["workers"].as_array().unwrap().len(), 2);
    let stats = eventually("it is missed", async || {
        let stats = bed.get(STATS).await.is(200).body;
        (stats["unreachable"] != json!([])).then_some(stats)
    })
    .await;
    assert_eq!(stats["unreachable"][0]["worker"], json!("worker-0"), "{stats}");
}

#[tokio::test]
async fn a_worker_is_ready_without_the_others_unless_it_could_be_told_to_fail() {
    let alone = || Some(Peers::new(["nobody.invalid:1".to_owned()]).unwrap());
    for (yaml, status) in [(CLOSED, 200), (OPEN, 503)] {
        let bed = Bed::among(alone(), yaml).await;
        bed.kafka.send_replace(lazaret::kafka::observer::Reachability::Reachable);
        bed.get("/readyz").await.is(status);
    }
}
