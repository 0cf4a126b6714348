//! The stand-in's loop: every KafkaTopic is looked at when it changes, and all of them at each resync. Nothing else makes
//! it look, no matter how a look ended.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use futures::StreamExt;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Client, ResourceExt, discovery};
use serde_json::{Value, json};
use tracing::{info, warn};

use super::admin::Admin;
use super::contract::{self, FINALIZER, Verdict};

/// What it looks after.
#[derive(Clone)]
pub struct Settings {
    pub namespace: String,
    /// The value of the label `strimzi.io/cluster`.
    pub cluster: String,
    pub bootstrap_servers: String,
    pub resync: Duration,
    /// How long Kafka is asked before the answer is that it is away.
    pub kafka_timeout: Duration,
}

/// What makes it look again. Its own writes change none of it.
type Cause = (Option<i64>, BTreeMap<String, String>, BTreeMap<String, String>, bool);

fn cause(object: &DynamicObject) -> Cause {
    let deleted = object.metadata.deletion_timestamp.is_some();
    (object.metadata.generation, object.labels().clone(), object.annotations().clone(), deleted)
}

struct Operator {
    api: Api<DynamicObject>,
    admin: Admin,
    known: HashMap<String, DynamicObject>,
    seen: HashMap<String, Cause>,
    listed: HashSet<String>,
}

/// KafkaTopics in the newest version that the cluster serves.
pub async fn served(client: &Client) -> Result<ApiResource, kube::Error> {
    let group = discovery::group(client, "kafka.strimzi.io").await?;
    let found = group.recommended_kind("KafkaTopic");
    Ok(found.ok_or(kube::Error::Discovery(kube::error::DiscoveryError::MissingKind("KafkaTopic".into())))?.0)
}

/// Looks after the topics until it cannot go on.
pub async fn run(client: Client, settings: Settings) -> Result<(), kube::Error> {
    let resource = served(&client).await?;
    info!(version = resource.api_version, namespace = settings.namespace, "looking after KafkaTopics");
    let api = Api::namespaced_with(client, &settings.namespace, &resource);
    let ours = watcher::Config::default().labels(&format!("strimzi.io/cluster={}", settings.cluster));
    let mut events = Box::pin(watcher::watcher(api.clone(), ours).default_backoff());
    let admin = Admin::new(settings.bootstrap_servers, settings.kafka_timeout);
    let mut operator = Operator { api, admin, known: HashMap::new(), seen: HashMap::new(), listed: HashSet::new() };
    let mut resync = tokio::time::interval(settings.resync);
    resync.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(event)) => operator.note(event).await,
                Some(Err(error)) => warn!(%error, "the watch broke"),
                None => return Ok(()),
            },
            _ = resync.tick() => {
                let uids: Vec<_> = operator.known.keys().cloned().collect();
                for uid in uids {
                    operator.look(&uid).await;
                }
            }
        }
    }
}

impl Operator {
    async fn note(&mut self, event: Event<DynamicObject>) {
        match event {
            Event::Apply(object) | Event::InitApply(object) => {
                let uid = object.uid().unwrap_or_default();
                self.listed.insert(uid.clone());
                let changed = self.seen.get(&uid) != Some(&cause(&object));
                self.known.insert(uid.clone(), object);
                if changed {
                    self.look(&uid).await;
                }
            }
            Event::Delete(object) => {
                let uid = object.uid().unwrap_or_default();
                self.known.remove(&uid);
                self.seen.remove(&uid);
            }
            // A list from the beginning: what is not in it was deleted while nobody watched.
            Event::Init => self.listed.clear(),
            Event::InitDone => {
                self.known.retain(|uid, _| self.listed.contains(uid));
                self.seen.retain(|uid, _| self.listed.contains(uid));
            }
        }
    }

    async fn look(&mut self, uid: &str) {
        let Some(object) = self.known.get(uid).cloned() else { return };
        match self.reconcile(&object).await {
            Ok(()) => {
                self.seen.insert(uid.to_owned(), cause(&object));
            }
            // What it read was old: the object as it is now is on its way here.
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => {}
            Err(error) => warn!(topic = object.name_any(), %error, "could not be reconciled"),
        }
    }

    async fn reconcile(&mut self, object: &DynamicObject) -> Result<(), kube::Error> {
        if object.metadata.deletion_timestamp.is_some() {
            return self.remove(object).await;
        }
        if contract::is_unmanaged(object) {
            return self.say(object, &Verdict::Unmanaged, None).await;
        }
        if contract::is_paused(object) {
            return self.say(object, &Verdict::Paused, None).await;
        }
        if contract::is_renamed(object) {
            let verdict = Verdict::not_supported("Changing spec.topicName is not supported");
            return self.say(object, &verdict, None).await;
        }
        if let Some(owner) = self.older_owner(object) {
            let verdict = Verdict::conflict(&owner.namespace().unwrap_or_default(), &owner.name_any());
            return self.say(object, &verdict, None).await;
        }
        let object = &self.with_finalizer(object).await?;
        let (verdict, id) = self.make(&contract::wanted(object)).await;
        info!(topic = object.name_any(), ?verdict, "reconciled");
        self.say(object, &verdict, id.as_deref()).await
    }

    /// Has Kafka agree with what is wanted, as far as that can be.
    async fn make(&mut self, wanted: &contract::Wanted) -> (Verdict, Option<String>) {
        let topic = match self.admin.describe(&wanted.name).await {
            Ok(Some(topic)) => topic,
            Ok(None) => {
                return match self.admin.create(wanted).await {
                    Ok(id) => (Verdict::Ready, Some(id)),
                    Err(error) => (Verdict::kafka_error(error), None),
                };
            }
            Err(error) => return (Verdict::kafka_error(error), None),
        };
        let verdict = match contract::unsupported(wanted, &topic) {
            Some(verdict) => verdict,
            None => match self.change(wanted, &topic).await {
                Ok(()) => Verdict::Ready,
                Err(error) => Verdict::kafka_error(error),
            },
        };
        (verdict, Some(topic.id))
    }

    async fn change(
        &mut self,
        wanted: &contract::Wanted,
        topic: &contract::Topic,
    ) -> Result<(), super::admin::AdminError> {
        let changes = contract::config_changes(wanted, topic);
        if !changes.is_empty() {
            self.admin.alter(&wanted.name, &changes).await?;
        }
        match wanted.partitions {
            Some(count) if count > topic.partitions() => self.admin.add_partitions(&wanted.name, count).await,
            _ => Ok(()),
        }
    }

    async fn remove(&mut self, object: &DynamicObject) -> Result<(), kube::Error> {
        let kept: Vec<_> = object.finalizers().iter().filter(|name| *name != FINALIZER).collect();
        if kept.len() == object.finalizers().len() {
            return Ok(());
        }
        if !contract::is_unmanaged(object) {
            if contract::is_renamed(object) {
                return Ok(());
            }
            if self.older_owner(object).is_none()
                && let Err(error) = self.admin.delete(&contract::topic_name(object)).await
            {
                return self.say(object, &Verdict::kafka_error(error), None).await;
            }
        }
        info!(topic = object.name_any(), "removed");
        self.set_finalizers(object, json!(kept)).await.map(drop)
    }

    /// Another object that has the same topic and was there first.
    fn older_owner(&self, object: &DynamicObject) -> Option<&DynamicObject> {
        // Kubernetes counts in seconds: of two in one second, the one that has the finalizer was there first.
        let age = |object: &DynamicObject| {
            let unmarked = !object.finalizers().iter().any(|name| name == FINALIZER);
            (object.metadata.creation_timestamp.clone(), unmarked, object.name_any())
        };
        let topic = contract::topic_name(object);
        self.known.values().find(|other| {
            other.uid() != object.uid()
                && !contract::is_unmanaged(other)
                && contract::topic_name(other) == topic
                && age(other) < age(object)
        })
    }

    async fn with_finalizer(&self, object: &DynamicObject) -> Result<DynamicObject, kube::Error> {
        if object.finalizers().iter().any(|name| name == FINALIZER) {
            return Ok(object.clone());
        }
        let finalizers: Vec<_> = object.finalizers().iter().map(String::as_str).chain([FINALIZER]).collect();
        self.set_finalizers(object, json!(finalizers)).await
    }

    async fn set_finalizers(&self, object: &DynamicObject, finalizers: Value) -> Result<DynamicObject, kube::Error> {
        let patch = json!({"metadata": {"finalizers": finalizers, "resourceVersion": object.resource_version()}});
        self.api.patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await
    }

    async fn say(&self, object: &DynamicObject, verdict: &Verdict, id: Option<&str>) -> Result<(), kube::Error> {
        let now = format!("{:.9}", jiff::Timestamp::now());
        let Some(status) = contract::status(object, verdict, id, &now) else { return Ok(()) };
        let patch = Patch::Merge(json!({"status": status}));
        self.api.patch_status(&object.name_any(), &PatchParams::default(), &patch).await.map(drop)
    }
}
