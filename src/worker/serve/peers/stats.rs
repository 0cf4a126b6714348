//! What the other workers did, as they say themselves.
//!
//! All are asked side by side, each for itself alone: who is asked by a peer asks nobody. One that hangs is named, and not
//! waited for longer than [`PATIENCE`]. However many want to know, the peers are asked once in [`FRESH_FOR`].

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, timeout};

use super::{PeerError, Peers, read, root};
use crate::domain::observe::stats::WorkerStats;
use crate::domain::observe::stats::total::Unreachable;

/// How old the question may be whose answers are shared.
pub(super) const FRESH_FOR: Duration = Duration::from_secs(1);

/// How long the names of the peers may take to resolve, before any is asked.
const LOOKUP_PATIENCE: Duration = Duration::from_millis(500);

/// How long a peer may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// How many addresses are asked. Each is a connection, and a part of the answer.
const MAX_ASKED: usize = 256;

/// How much of all answers together is read.
const ANSWERS_MAX_BYTES: usize = 16 << 20;

/// What all peers did, as far as they could be asked.
#[derive(Debug, Default)]
pub struct Asked {
    /// What each of them says of itself. One with two addresses says it twice.
    pub answers: Vec<WorkerStats>,
    /// Those of whom nothing is known.
    pub unreachable: Vec<Unreachable>,
}

impl Peers {
    /// What all of them did, as of a second ago at most.
    pub async fn stats(&self) -> Arc<Asked> {
        let peers = self.clone();
        let asked = self.stats.ask(async move { Arc::new(peers.ask_for_stats().await) }).await;
        asked.unwrap_or_default()
    }

    async fn ask_for_stats(&self) -> Asked {
        let addresses = self.addresses(Instant::now() + LOOKUP_PATIENCE).await;
        let max_bytes = ANSWERS_MAX_BYTES / addresses.found.len().clamp(1, MAX_ASKED);
        let ask = async |address| (address, self.stats_of(address, max_bytes).await);
        let answers = join_all(addresses.found.iter().take(MAX_ASKED).map(|address| ask(*address))).await;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !addresses.found.is_empty() {
            known.retain(|address, _| addresses.found.contains(address));
        }
        let mut asked = Asked::default();
        let unreachable =
            |address: String, worker: Option<&String>, reason| Unreachable { address, worker: worker.cloned(), reason };
        for (address, answer) in answers {
            match answer {
                Ok(stats) => {
                    known.insert(address, stats.worker.clone());
                    asked.answers.push(stats);
                }
                Err(error) => {
                    asked.unreachable.push(unreachable(address.to_string(), known.get(&address), root(&error)));
                }
            }
        }
        for address in addresses.found.iter().skip(MAX_ASKED) {
            let reason = format!("not asked: there are more than {MAX_ASKED} addresses");
            asked.unreachable.push(unreachable(address.to_string(), known.get(address), reason));
        }
        for (name, reason) in addresses.failed {
            asked.unreachable.push(unreachable(name, None, reason));
        }
        asked
    }

    /// What the worker at this address did. A worker of a release that knows no scope says the same without.
    async fn stats_of(&self, address: SocketAddr, max_bytes: usize) -> Result<WorkerStats, PeerError> {
        let request = self.client.get(format!("http://{address}/api/v1/stats?scope=worker")).send();
        let answer = async { Ok(serde_json::from_slice(&read(request.await?, max_bytes).await?)?) };
        timeout(PATIENCE, answer).await.unwrap_or(Err(PeerError::TooLate(PATIENCE)))
    }
}
