//! Which of several replicas acts: the one that holds a `coordination.k8s.io/v1` Lease.
//!
//! The rules are those of client-go's leader election. A holder renews every two seconds; when it could not for ten, it
//! stops by itself. The others take over when they have seen no renewal for fifteen, by their own clocks: the times in the
//! Lease are for people. A holder that ends gives the Lease back, and the next one takes it within two seconds.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease as Object, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, ResourceExt};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tracing::warn;

/// How long a holder that gives no sign of life is still taken for alive.
const DURATION: Duration = Duration::from_secs(15);

/// How long a holder that cannot renew goes on.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);

/// The pause between two looks at the Lease.
const PERIOD: Duration = Duration::from_secs(2);

/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The claim of this replica to a Lease.
pub struct Lease {
    api: Api<Object>,
    name: String,
    identity: String,
    held: Mutex<Option<Held>>,
}

/// A Lease that is this replica's.
#[derive(Clone)]
struct Held {
    /// Until when this replica may act.
    until: Instant,
    /// The Lease as this replica wrote it last.
    object: Object,
}

/// What was last seen of the Lease, and since when it has looked like that.
struct Seen {
    resource_version: Option<String>,
    since: Instant,
}

impl Lease {
    /// A claim to the Lease of that name in the client's own namespace.
    pub fn new(client: Client, name: String, identity: String) -> Self {
        Self { api: Api::default_namespaced(client), name, identity, held: Mutex::default() }
    }

    /// Whether this replica may act now.
    pub fn is_held(&self) -> bool {
        self.held().is_some_and(|held| Instant::now() < held.until)
    }

    /// Waits until the Lease is this replica's.
    pub async fn acquire(&self) {
        let mut seen = Seen { resource_version: None, since: Instant::now() };
        loop {
            let asked = Instant::now();
            match timeout(REQUEST_TIMEOUT, self.try_acquire(&mut seen)).await {
                Ok(Ok(Some(object))) => return self.hold(Some(Held { until: asked + RENEW_DEADLINE, object })),
                Ok(Ok(None)) => {}
                Ok(Err(error)) => warn!(lease = self.name, %error, "the lease could not be asked for"),
                Err(_) => warn!(lease = self.name, "the API server did not answer about the lease"),
            }
            sleep(PERIOD).await;
        }
    }

    /// Renews the Lease for as long as that works, and returns when it is no longer this replica's.
    pub async fn lost(&self) {
        loop {
            let Some(Held { until, object }) = self.held() else { return };
            tokio::select! {
                biased;
                () = sleep_until(until) => return self.hold(None),
                () = sleep(PERIOD) => {}
            }
            let asked = Instant::now();
            match timeout_at(until.min(asked + REQUEST_TIMEOUT), self.renew(object)).await {
                Ok(Ok(Some(object))) => self.hold(Some(Held { until: asked + RENEW_DEADLINE, object })),
                Ok(Ok(None)) => return self.hold(None),
                Ok(Err(error)) => warn!(lease = self.name, %error, "the lease could not be renewed"),
                Err(_) => warn!(lease = self.name, "the API server did not answer about the lease"),
            }
        }
    }

    /// Gives the Lease back, if it is this replica's.
    pub async fn release(&self) {
        let Some(Held { object, .. }) = self.held() else { return };
        self.hold(None);
        if !matches!(timeout(REQUEST_TIMEOUT, self.write(object, None)).await, Ok(Ok(_))) {
            warn!(lease = self.name, "the lease could not be given back: the next replica waits until it expires");
        }
    }

    /// Takes the Lease if it is free.
    async fn try_acquire(&self, seen: &mut Seen) -> Result<Option<Object>, kube::Error> {
        let Some(lease) = self.api.get_opt(&self.name).await? else {
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            let lease = Object { metadata, spec: None };
            return won(self.api.create(&PostParams::default(), &self.filled(lease, Some(&self.identity))).await);
        };
        if lease.resource_version() != seen.resource_version {
            *seen = Seen { resource_version: lease.resource_version(), since: Instant::now() };
        }
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
        if !holder.is_empty() && holder != self.identity && seen.since.elapsed() < DURATION {
            return Ok(None);
        }
        won(self.write(lease, Some(&self.identity)).await)
    }

    /// Renews the Lease, if nobody else has it.
    async fn renew(&self, known: Object) -> Result<Option<Object>, kube::Error> {
        if let Some(renewed) = won(self.write(known, Some(&self.identity)).await)? {
            return Ok(Some(renewed));
        }
        // Somebody wrote it since: its next holder, or one who changed a label; or it was deleted.
        let lease = self.api.get(&self.name).await?;
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_ref());
        if holder != Some(&self.identity) {
            return Ok(None);
        }
        self.write(lease, Some(&self.identity)).await.map(Some)
    }

    /// Replaces the Lease that was read; the API server refuses if somebody else was faster.
    async fn write(&self, lease: Object, holder: Option<&str>) -> Result<Object, kube::Error> {
        self.api.replace(&self.name, &PostParams::default(), &self.filled(lease, holder)).await
    }

    fn filled(&self, mut lease: Object, holder: Option<&str>) -> Object {
        let now = MicroTime(Timestamp::now());
        let before = lease.spec.take().unwrap_or_default();
        let changes = before.holder_identity.as_deref().unwrap_or_default() != holder.unwrap_or_default();
        lease.spec = Some(LeaseSpec {
            holder_identity: holder.map(str::to_owned),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: if changes { Some(now.clone()) } else { before.acquire_time },
            lease_transitions: Some(before.lease_transitions.unwrap_or(0) + i32::from(changes && holder.is_some())),
            renew_time: Some(now),
            ..before
        });
        lease
    }

    fn held(&self) -> Option<Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn hold(&self, held: Option<Held>) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = held;
    }
}

/// What was written, if it was; another replica may have been faster.
fn won(written: Result<Object, kube::Error>) -> Result<Option<Object>, kube::Error> {
    match written {
        Ok(object) => Ok(Some(object)),
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => Ok(None),
        Err(error) => Err(error),
    }
}
