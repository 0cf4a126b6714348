//! The other workers of the pipelines: who they are, and how they agree on injected failures.
//!
//! Who the others are is what their names resolve to, asked anew each time: workers come and go. A worker's own address may
//! be among them; it is told and asked like any other. What they did is asked in `peers/stats.rs`.
//!
//! Whoever sets the switch sets it at one worker. That worker tells all others at once; what one could not be told it
//! learns by asking, at its start and every few seconds from then on. Nobody passes on what it was told. Which setting
//! holds is the rule of [`crate::domain::switch`].
//!
//! Nothing here can keep a worker from its work: nobody is waited for longer than [`PATIENCE`], and a peer that does not
//! answer is tried again the next time.

mod stats;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::join_all;
use reqwest::{Client, Method, Response, StatusCode};
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, info, warn};

use super::latest::Latest;
use crate::domain::switch::Setting;
use crate::domain::time::Timestamp;
use crate::worker::attempt::processor::FaultSwitch;
use crate::worker::client::client;
use crate::worker::clock;

pub use stats::Asked;

/// How long all peers together may take to be found and to answer. Whoever sets the switch waits for it.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// The time between two questions. DNS learns of a worker late, so one that starts may not be told; it asks soon.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// How much of an answer is read; one that is understood is far shorter.
const ANSWER_MAX_BYTES: usize = 4 << 10;

/// All workers of the pipelines.
#[derive(Clone, Debug)]
pub struct Peers {
    names: Arc<[Name]>,
    client: Client,
    /// Whether their names have ever resolved.
    found: Arc<AtomicBool>,
    /// What they did, as they said when they were last asked.
    stats: Arc<Latest<Arc<Asked>>>,
    /// Who answered last at each address.
    known: Arc<Mutex<BTreeMap<SocketAddr, String>>>,
}

/// A name that resolves to some of them.
#[derive(Debug)]
struct Name {
    /// `host:port`.
    name: String,
    /// A lookup takes a thread until the resolver is done with it, which can be a minute: one at a time.
    lookups: Arc<Semaphore>,
}

/// Where the peers are, and the names that do not say so, with the reason.
#[derive(Debug, Default)]
struct Addresses {
    found: BTreeSet<SocketAddr>,
    failed: Vec<(String, String)>,
}

/// How many addresses were told of a setting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Those where it holds now.
    pub told: usize,
    /// Those where it may not: they gave no answer, or another than was hoped for.
    pub missed: usize,
}

/// Why a peer is of no use for now.
#[derive(Debug, thiserror::Error)]
enum PeerError {
    #[error("no answer within {0:?}")]
    TooLate(Duration),
    #[error(transparent)]
    NoAnswer(#[from] reqwest::Error),
    #[error("it answers with {0}")]
    Refused(StatusCode),
    #[error("its answer has more than {0} bytes")]
    TooLarge(usize),
    #[error("its answer cannot be understood")]
    Answer(#[from] serde_json::Error),
    #[error("it holds a setting that seems newer: are the clocks right?")]
    Disagrees,
}

/// What is read of an answer. Only the one to a question has the time.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    simulate_transient_error: bool,
    #[serde(default)]
    at: i64,
}

impl Peers {
    /// The workers that these names resolve to, each `host:port`.
    pub fn new(names: impl IntoIterator<Item = String>) -> Result<Self, reqwest::Error> {
        // By the next time the address may be another worker's.
        let client = client(true).pool_max_idle_per_host(0).build()?;
        let name = |name| Name { name, lookups: Arc::new(Semaphore::new(1)) };
        Ok(Self {
            names: names.into_iter().map(name).collect(),
            client,
            found: Arc::default(),
            stats: Arc::new(Latest::new(stats::FRESH_FOR)),
            known: Arc::default(),
        })
    }

    /// Whether they could be found yet. Until then a switch that is set here reaches nobody.
    pub fn were_found(&self) -> bool {
        self.found.load(Ordering::Relaxed)
    }

    /// Tells all of them that the switch was set.
    pub async fn tell(&self, setting: Setting) -> Told {
        let Setting { at, enabled } = setting;
        let mut told = Told::default();
        for (address, answer) in self.request(Method::POST, &format!("?enabled={enabled}&at={}", at.0)).await {
            match answer.and_then(|answer| agrees(&answer, setting)) {
                Ok(()) => told.told += 1,
                Err(error) => {
                    let error = root(&error);
                    warn!(%address, enabled, error, "a peer could not be told to switch simulated transient errors");
                    told.missed += 1;
                }
            }
        }
        told
    }

    /// Asks all of them how the switch is set, and takes over what is newer than what `fault` holds.
    pub async fn ask(&self, fault: &FaultSwitch) {
        for (address, answer) in self.request(Method::GET, "").await {
            let setting = match answer {
                Ok(Answer { simulate_transient_error: enabled, at }) => Setting { at: Timestamp(at), enabled },
                Err(error) => {
                    debug!(%address, error = root(&error), "a peer cannot be asked");
                    continue;
                }
            };
            if !setting.is_credible(clock::now()) {
                debug!(%address, at = %setting.at, "a peer's setting is from the future, and ignored");
            } else if fault.take(setting) {
                info!(%address, enabled = setting.enabled, "simulated transient errors switched, as a peer says");
            }
        }
    }

    /// Asks them at intervals, without end.
    pub async fn keep_asking(self, fault: FaultSwitch) {
        loop {
            tokio::time::sleep(ASK_INTERVAL).await;
            self.ask(&fault).await;
        }
    }

    /// Sends all of them the same request at once, and returns when the last has answered or may take no longer.
    async fn request(&self, method: Method, query: &str) -> Vec<(SocketAddr, Result<Answer, PeerError>)> {
        let deadline = Instant::now() + PATIENCE;
        let ask = async |address| {
            let url = format!("http://{address}/api/v1/config/simulate-transient-error{query}");
            let request = self.client.request(method.clone(), url).send();
            let read = async { Ok(serde_json::from_slice(&read(request.await?, ANSWER_MAX_BYTES).await?)?) };
            (address, timeout_at(deadline, read).await.unwrap_or(Err(PeerError::TooLate(PATIENCE))))
        };
        join_all(self.addresses(deadline).await.found.into_iter().map(ask)).await
    }

    /// Where they are. That a name does not resolve is no error: the first worker may not be known to DNS yet.
    async fn addresses(&self, deadline: Instant) -> Addresses {
        let resolve = async |name: &Name| match timeout_at(deadline, name.resolve()).await {
            Ok(Ok(addresses)) => Ok(addresses),
            Ok(Err(error)) => {
                debug!(name.name, %error, "the name of the peers does not resolve");
                Err((name.name.clone(), format!("the name does not resolve: {error}")))
            }
            Err(_) => {
                debug!(name.name, "the name of the peers does not resolve in time");
                Err((name.name.clone(), "the name does not resolve in time".to_owned()))
            }
        };
        let mut addresses = Addresses::default();
        for resolved in join_all(self.names.iter().map(resolve)).await {
            match resolved {
                Ok(found) => addresses.found.extend(found),
                Err(failed) => addresses.failed.push(failed),
            }
        }
        self.found.fetch_or(!addresses.found.is_empty(), Ordering::Relaxed);
        addresses
    }
}

impl Name {
    async fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        let lookup = self.lookups.clone().acquire_owned().await.map_err(io::Error::other)?;
        let name = self.name.clone();
        // Whoever waits may go; the lookup holds its place until it is over.
        let resolving = tokio::spawn(async move {
            let addresses = tokio::net::lookup_host(name).await.map(Vec::from_iter);
            drop(lookup);
            addresses
        });
        resolving.await.map_err(io::Error::other)?
    }
}

/// The body of an answer, of which never much more than `max_bytes` is held.
async fn read(mut response: Response, max_bytes: usize) -> Result<Bytes, PeerError> {
    if response.status() != StatusCode::OK {
        return Err(PeerError::Refused(response.status()));
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > max_bytes {
            return Err(PeerError::TooLarge(max_bytes));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// Whether a peer that was told of `setting` now does as it says.
fn agrees(answer: &Answer, setting: Setting) -> Result<(), PeerError> {
    if answer.simulate_transient_error == setting.enabled { Ok(()) } else { Err(PeerError::Disagrees) }
}

/// The text of the root cause: what the HTTP client wraps around it only says that a request failed.
fn root(error: &PeerError) -> String {
    let mut root: &dyn std::error::Error = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root.to_string()
}
