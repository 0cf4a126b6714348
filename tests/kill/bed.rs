//! What the kill test runs on: an endpoint that remembers calls by number, records that keep coming, and a worker that
//! can be killed.

use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use futures::future::join_all;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::support::processor::now;
use super::support::topics::{producer, write};
use super::support::{eventually, kafka};
use super::verdict::{Call, Fate, Place};

/// The keys of the records. Three records in a row have the same one.
const KEYS: usize = 2_000;

/// The time between two lots of records.
const TICK: Duration = Duration::from_millis(40);

/// The time to an answer, in milliseconds: from call to call it goes through all of them. They are long enough for a
/// kill to meet calls under way, and for the records behind a dead worker to take the next one a second or more.
const ANSWER: usize = 100;

/// A user's endpoint. It answers each record as its number says.
pub struct Endpoint {
    pub url: String,
    calls: Arc<Calls>,
}

struct Calls {
    all: Mutex<Vec<Call>>,
    /// Calls by the main stage (first attempts) and by the retry stage (all others).
    by_stage: watch::Sender<[usize; 2]>,
}

impl Endpoint {
    pub async fn start() -> Self {
        let calls = Arc::new(Calls { all: Mutex::default(), by_stage: watch::channel([0; 2]).0 });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(calls.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, calls }
    }

    pub fn calls(&self) -> Vec<Call> {
        self.calls.all.lock().unwrap().clone()
    }

    /// Calls by each stage, and those to come.
    pub fn by_stage(&self) -> watch::Receiver<[usize; 2]> {
        self.calls.by_stage.subscribe()
    }
}

/// A call is noted before its answer, and the answer when it is given: a caller that is killed in between cuts this off.
async fn answer(State(calls): State<Arc<Calls>>, headers: HeaderMap, body: String) -> StatusCode {
    let number: usize = body.parse().unwrap_or(usize::MAX);
    let attempt: u32 = headers["lazaret-attempt"].to_str().unwrap().parse().unwrap();
    let place = place(headers["idempotency-key"].to_str().unwrap());
    let index = {
        let mut all = calls.all.lock().unwrap();
        all.push(Call { number, place, attempt, began: now(), answered: None });
        all.len() - 1
    };
    calls.by_stage.send_modify(|by_stage| by_stage[usize::from(attempt > 1)] += 1);
    tokio::time::sleep(Duration::from_millis((index % ANSWER) as u64)).await;
    let status = Fate::of(number).answer(attempt);
    calls.all.lock().unwrap()[index].answered = Some((now(), status));
    StatusCode::from_u16(status).unwrap()
}

/// The place in `"topic:partition:offset"`, quotes included.
fn place(key: &str) -> Place {
    let mut parts = key.trim_matches('"').rsplit(':');
    let offset = parts.next().and_then(|offset| offset.parse().ok());
    let partition = parts.next().and_then(|partition| partition.parse().ok());
    partition.zip(offset).unwrap_or((-1, -1))
}

/// Writes records, no more than `allowed` says at any time and at most `lot` at once, until there are `records`.
pub async fn write_records(
    topic: String,
    records: usize,
    lot: usize,
    mut allowed: watch::Receiver<usize>,
) -> Vec<Place> {
    let producer = producer(kafka());
    let mut written = Vec::with_capacity(records);
    let mut tick = tokio::time::interval(TICK);
    while written.len() < records {
        tick.tick().await;
        let allowed = *allowed.wait_for(|allowed| *allowed > written.len()).await.unwrap();
        let numbers = written.len()..(written.len() + lot).min(allowed);
        let writes = numbers.map(async |number| {
            let (key, value) = (format!("k{}", number / 3 % KEYS), number.to_string());
            write(&producer, &topic, Some(key.as_bytes()), Some(value.as_bytes()), None).await
        });
        written.extend(join_all(writes).await);
    }
    written
}

/// How many records at a time spread `records` over `period`.
pub fn lot(records: usize, period: Duration) -> usize {
    records.div_ceil((period.as_millis() / TICK.as_millis()) as usize)
}

/// A stage in a process of its own. What it logs goes to a file, over all its lives.
pub struct Victim {
    args: Vec<String>,
    log: File,
    child: Child,
}

impl Victim {
    pub fn start(args: &[&str], log: File) -> Self {
        let args: Vec<_> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let child = spawn(&args, &log);
        Self { args, log, child }
    }

    /// Kills it with a signal that it cannot see, and starts it again.
    pub fn kill_and_restart(&mut self) {
        let ended = self.child.try_wait().unwrap();
        assert!(ended.is_none(), "it ended by itself with {ended:?}");
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(&self.args, &self.log);
    }

    /// Asks it to stop, and waits until it has.
    pub async fn stop(mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let status = eventually("the worker stops", async || self.child.try_wait().unwrap()).await;
        assert!(status.success(), "{status}");
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(args: &[String], log: &File) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lazaret"));
    command.args(args).env_remove("RUST_LOG").stdin(Stdio::null());
    command.stdout(log.try_clone().unwrap()).stderr(log.try_clone().unwrap()).spawn().unwrap()
}
