//! A user's endpoint that answers each record as its number says, and remembers every call.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::records::{Records, is_in_burst, number};
use super::support::processor::now;
use super::verdict::Place;

/// A call, as it came in. Times are epoch milliseconds.
#[derive(Clone, Debug)]
pub struct Heard {
    /// Which of the pipelines.
    pub pipeline: usize,
    /// The caller's name and life.
    pub caller: String,
    /// What its idempotency key says.
    pub place: Place,
    pub number: Option<usize>,
    pub attempt: u32,
    /// Whether the body is the value of the record of that number.
    pub intact: bool,
    pub began: i64,
    /// How long the answer takes, in milliseconds.
    pub pause: u64,
    /// When and with which status; `None` when the caller was gone before.
    pub answered: Option<(i64, u16)>,
    /// When the caller was gone, where it was before it had an answer.
    pub gone: Option<i64>,
}

/// An answer that takes so many milliseconds is still to come when a worker that waits for it hears a signal.
const LONG: u64 = 100;

/// How far back a call is looked for that has no answer yet: some seconds.
const RECENT: usize = 1_000;

/// What is wrong with some calls and not with others. A pipeline is named by its place among all.
#[derive(Clone, Debug)]
pub enum Trouble {
    /// Records with the key of the first one that comes are not answered while it lasts: a key that is chosen beforehand may
    /// not come at all.
    KeyUnanswered {
        pipeline: usize,
        key: Option<Vec<u8>>,
    },
    PipelineUnanswered {
        pipeline: usize,
    },
    PartitionFails {
        pipeline: usize,
        partition: i32,
    },
}

pub struct Endpoint {
    pub url: String,
    shared: Arc<Shared>,
}

struct Shared {
    records: Vec<Records>,
    calls: Mutex<Vec<Heard>>,
    outage: AtomicBool,
    /// When what fails in a burst is to be tried again, in epoch milliseconds.
    burst_due: AtomicI64,
    trouble: watch::Sender<Option<Trouble>>,
}

impl Shared {
    /// Waits as long as a call is one of those that get no answer.
    async fn hold(&self, pipeline: usize, key: Option<Vec<u8>>) {
        let mut is_held = false;
        self.trouble.send_if_modified(|trouble| {
            is_held = match trouble {
                Some(Trouble::PipelineUnanswered { pipeline: hit }) => *hit == pipeline,
                Some(Trouble::KeyUnanswered { pipeline: hit, key: silent }) if *hit == pipeline && key.is_some() => {
                    silent.get_or_insert_with(|| key.clone().unwrap_or_default()) == key.as_ref().unwrap()
                }
                _ => false,
            };
            false
        });
        if is_held {
            let _ = self.trouble.subscribe().wait_for(Option::is_none).await;
        }
    }

    fn fails(&self, of: usize, place: Place) -> bool {
        let trouble = self.trouble.borrow();
        matches!(*trouble, Some(Trouble::PartitionFails { pipeline, partition }) if (pipeline, partition) == (of, place.0))
    }
}

impl Endpoint {
    /// Starts it for pipelines with these records.
    pub async fn start(records: Vec<Records>) -> Self {
        let shared = Arc::new(Shared {
            records,
            calls: Mutex::default(),
            outage: AtomicBool::new(false),
            burst_due: AtomicI64::new(0),
            trouble: watch::Sender::new(None),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(shared.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, shared }
    }

    pub fn calls(&self) -> Vec<Heard> {
        self.shared.calls.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.shared.calls.lock().unwrap().len()
    }

    /// Whether this worker has called.
    pub fn has_heard(&self, caller: &str) -> bool {
        self.shared.calls.lock().unwrap().iter().any(|call| call.caller == caller)
    }

    /// Whether this worker waits for an answer that takes its time.
    pub fn keeps_waiting(&self, caller: &str) -> bool {
        let calls = self.shared.calls.lock().unwrap();
        let mut newest = calls.iter().rev().take(RECENT);
        newest.any(|call| call.answered.is_none() && call.pause >= LONG && call.caller == caller)
    }

    /// Whether it answers 503 to everything. It does answer: a failure that nobody has seen could not be judged.
    pub fn set_outage(&self, outage: bool) {
        self.shared.outage.store(outage, Ordering::Relaxed);
    }

    /// When a worker is to try again what fails in a burst, in epoch milliseconds.
    pub fn set_burst_due(&self, due: i64) {
        self.shared.burst_due.store(due, Ordering::Relaxed);
    }

    /// What is wrong with some calls, from now on.
    pub fn set_trouble(&self, trouble: Option<Trouble>) {
        self.shared.trouble.send_replace(trouble);
    }
}

/// A call is noted before its answer, and the answer when it is given: a caller that is killed in between cuts this off.
async fn answer(State(shared): State<Arc<Shared>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let mut path = uri.path().trim_start_matches('/').splitn(2, '/');
    let pipeline: usize = path.next().and_then(|index| index.parse().ok()).unwrap_or_default();
    let caller = path.next().unwrap_or_default().to_owned();
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let attempt = text("lazaret-attempt").parse().unwrap_or_default();
    let records = shared.records[pipeline];
    let beside = headers.get("ce-number").map(|value| value.as_bytes());
    let number = number(&body, beside);
    let intact = number.is_some_and(|number| records.content(number).value.unwrap_or_default() == body);
    let place = place(text("idempotency-key"));
    let outage = shared.outage.load(Ordering::Relaxed);
    let pause = number.map_or(0, |number| records.pause(number, attempt));
    // Who is out of order says so at once.
    let pause = if outage { pause % 20 } else { pause };
    let index = {
        let mut calls = shared.calls.lock().unwrap();
        let began = now();
        calls.push(Heard {
            pipeline,
            caller,
            place,
            number,
            attempt,
            intact,
            began,
            pause,
            answered: None,
            gone: None,
        });
        calls.len() - 1
    };
    let waits = Waits { shared: &shared, index };
    tokio::time::sleep(Duration::from_millis(pause)).await;
    shared.hold(pipeline, number.and_then(|number| records.key(number))).await;
    let status = match number {
        _ if outage || shared.fails(pipeline, place) => 503,
        Some(number) => records.fate(number).answer(attempt),
        None => 200,
    };
    shared.calls.lock().unwrap()[index].answered = Some((now(), status));
    drop(waits);
    let status = StatusCode::from_u16(status).unwrap();
    let left = (shared.burst_due.load(Ordering::Relaxed) - now()) / 1_000;
    if number.is_some_and(is_in_burst) && attempt == 1 && left > 0 {
        return (status, [(RETRY_AFTER, left.to_string())]).into_response();
    }
    status.into_response()
}

/// A caller that waits. The server drops this with the rest of the call when the caller hangs up.
struct Waits<'a> {
    shared: &'a Shared,
    index: usize,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let mut calls = self.shared.calls.lock().unwrap();
        if calls[self.index].answered.is_none() {
            calls[self.index].gone = Some(now());
        }
    }
}

/// The place in `"topic:partition:offset:id"`, quotes included.
fn place(key: &str) -> Place {
    let mut parts = key.trim_matches('"').split(':').skip(1);
    let partition = parts.next().and_then(|partition| partition.parse().ok());
    let offset = parts.next().and_then(|offset| offset.parse().ok());
    partition.zip(offset).unwrap_or((-1, -1))
}
