//! A user's HTTP endpoint that does what each record tells it to, and remembers every call.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// One call, as the endpoint saw it.
#[derive(Clone, Debug)]
pub struct Call {
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
    /// Epoch milliseconds.
    pub began: i64,
    pub ended: i64,
    /// Calls of the same `key` that were under way when this one began.
    pub beside: usize,
    /// What was answered.
    pub status: u16,
}

impl Call {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    pub fn id(&self) -> String {
        self.json()["id"].as_str().unwrap_or_default().to_owned()
    }

    pub fn attempt(&self) -> u32 {
        self.headers["lazaret-attempt"].parse().unwrap()
    }
}

/// A running endpoint. A record is a JSON object:
/// `id`, `key` (for `Call::beside`), `answers` (a status for each attempt, the last one from then on; 200 by default),
/// `pauseMs` (before the answer), `hold` (no answer before [`Endpoint::let_go`]; where it is a name, [`Endpoint::let_go_of`]
/// that name will do). While [`Endpoint::fail_all`] holds, the answer is another one.
pub struct Endpoint {
    pub url: String,
    shared: Arc<Shared>,
}

struct Shared {
    calls: Mutex<Vec<Call>>,
    running: Mutex<HashMap<String, usize>>,
    let_go: watch::Sender<LetGo>,
    /// Answered to every call, 0 for what its record asks for.
    outage: AtomicU16,
}

/// Which calls are held no more.
#[derive(Default)]
struct LetGo {
    all: bool,
    names: BTreeSet<String>,
}

impl Endpoint {
    pub async fn start() -> Self {
        Self::start_at("127.0.0.1").await
    }

    /// Starts one at another address of this machine.
    pub async fn start_at(address: &str) -> Self {
        let (let_go, _) = watch::channel(LetGo::default());
        let (calls, running, outage) = Default::default();
        let shared = Arc::new(Shared { calls, running, let_go, outage });
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let url = format!("http://{}/orders", listener.local_addr().unwrap());
        // A record may be larger than the two megabytes that axum takes by default.
        let router = Router::new().fallback(answer).layer(DefaultBodyLimit::disable()).with_state(shared.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, shared }
    }

    /// How many calls there were. To wait for a number of them, this is the one: all of them take long to copy.
    pub fn count(&self) -> usize {
        self.shared.calls.lock().unwrap().len()
    }

    pub fn calls(&self) -> Vec<Call> {
        self.shared.calls.lock().unwrap().clone()
    }

    pub fn calls_of(&self, id: &str) -> Vec<Call> {
        self.calls().into_iter().filter(|call| call.id() == id).collect()
    }

    /// Answers every call with this status, `None` for what its record asks for.
    pub fn fail_all(&self, status: Option<u16>) {
        self.shared.outage.store(status.unwrap_or(0), Ordering::SeqCst);
    }

    /// How many calls are under way.
    pub fn running(&self) -> usize {
        self.shared.running.lock().unwrap().values().sum()
    }

    /// Answers every call that is held, and all later ones.
    pub fn let_go(&self) {
        self.shared.let_go.send_modify(|let_go| let_go.all = true);
    }

    /// Answers the calls that are held by this name, and all later ones.
    pub fn let_go_of(&self, name: &str) {
        self.shared.let_go.send_modify(|let_go| _ = let_go.names.insert(name.to_owned()));
    }
}

async fn answer(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let began = now();
    let order: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let text = |name: &str| order[name].as_str().unwrap_or_default().to_owned();
    let headers: HashMap<_, _> =
        headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().to_owned())).collect();
    let attempt: usize = headers.get("lazaret-attempt").and_then(|text| text.parse().ok()).unwrap_or(1);
    let beside = {
        let mut running = shared.running.lock().unwrap();
        let count = running.entry(text("key")).or_default();
        *count += 1;
        *count - 1
    };
    tokio::time::sleep(Duration::from_millis(order["pauseMs"].as_u64().unwrap_or(0))).await;
    if order["hold"].is_string() || order["hold"] == true {
        let name = order["hold"].as_str().unwrap_or_default();
        let _ = shared.let_go.subscribe().wait_for(|let_go| let_go.all || let_go.names.contains(name)).await;
    }
    *shared.running.lock().unwrap().entry(text("key")).or_default() -= 1;
    let answers = order["answers"].as_array().cloned().unwrap_or_default();
    let status = answers.get(attempt - 1).or(answers.last()).and_then(Value::as_u64).unwrap_or(200);
    let status = match shared.outage.load(Ordering::SeqCst) {
        0 => u16::try_from(status).unwrap(),
        outage => outage,
    };
    let call = Call { headers, body: body.to_vec(), began, ended: now(), beside, status };
    shared.calls.lock().unwrap().push(call);
    StatusCode::from_u16(status).unwrap()
}

pub fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}
