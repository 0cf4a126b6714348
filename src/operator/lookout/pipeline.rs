//! What is known of one pipeline's records, and how that is kept up to date.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::api::{Api, Patch, PatchParams};
use kube::runtime::events::EventType;
use kube::{Resource, ResourceExt};
use serde_json::json;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::clients::Kafka;
use super::pace::Pace;
use super::stage::StageLookout;
use super::workers::Workers;
use super::{FIELD_MANAGER, conditions, status};
use crate::api::v1alpha1::{ErrorHandlingPipeline, ErrorHandlingPipelineStatus, RebalancesStatus};
use crate::domain::observe::dead_letters::{DeadLetters, HOUR, Summary};
use crate::domain::pipeline::Pipeline;
use crate::domain::record::provenance::Stage;
use crate::domain::time::Timestamp;
use crate::domain::topic::{Purpose, dangers, too_small};
use crate::kafka::log_reader::Logs;
use crate::operator::context::Context;
use crate::operator::dereference::Sight;
use crate::operator::events;
use crate::operator::view::View;
use crate::operator::watched::Watched;

/// How long a pipeline in which nothing moves is left alone.
const IDLE_INTERVAL: Duration = Duration::from_secs(30);

/// How long one is looked at every time after something moved.
const ACTIVE: Duration = Duration::from_secs(15);

/// How long dead letters are read before others have their turn.
const READ_PATIENCE: Duration = Duration::from_secs(2);

/// How often it is looked at how the dead letter topics are set up.
const TOPICS_INTERVAL: Duration = Duration::from_secs(300);

/// How many rebalances are remembered to be counted.
const REBALANCES: usize = 1_000;

/// One pipeline.
pub struct PipelineLookout {
    context: Arc<Context>,
    workers: Workers,
    watched: Arc<Watched>,
    /// How far its topics reached at the last look.
    logs: Logs,
    letters: DeadLetters,
    counted: Option<Summary>,
    /// Whether all dead letters of the last look were read.
    complete: bool,
    stages: Vec<StageLookout>,
    rebalances: Option<RebalancesStatus>,
    /// When the rebalances of the last hour were seen.
    rebalanced: Vec<Timestamp>,
    unsafe_topics: Vec<String>,
    topics_seen: Option<Instant>,
    looked: Option<Instant>,
    active_until: Instant,
    pace: Pace,
}

impl PipelineLookout {
    pub fn new(context: Arc<Context>, workers: Workers, watched: Arc<Watched>) -> Self {
        let stages = stages(&watched.pipeline);
        Self {
            context,
            workers,
            watched,
            logs: Logs::new(),
            letters: DeadLetters::default(),
            counted: None,
            complete: false,
            stages,
            rebalances: None,
            rebalanced: vec![],
            unsafe_topics: vec![],
            topics_seen: None,
            looked: None,
            active_until: Instant::now(),
            pace: Pace::new(Instant::now()),
        }
    }

    /// Takes note that the pipeline was reconciled. What it is about may be something else now.
    pub fn set_watched(&mut self, watched: Arc<Watched>) {
        if self.watched.generation != watched.generation {
            let sources = |of: &Pipeline| of.stages().iter().map(|stage| of.source(*stage).clone()).collect::<Vec<_>>();
            if sources(&self.watched.pipeline) != sources(&watched.pipeline) {
                self.stages = stages(&watched.pipeline);
            }
            let letters = |watched: &Watched| watched.pipeline.policy.dead_letter_topics();
            if letters(&self.watched) != letters(&watched) {
                (self.letters, self.complete) = (DeadLetters::default(), false);
            }
            self.topics_seen = None;
        }
        self.watched = watched;
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.watched.name
    }

    /// The topics that it is about.
    pub fn topics(&self) -> impl Iterator<Item = &str> {
        self.watched.pipeline.topics.iter().map(|topic| &*topic.name)
    }

    /// When it was last looked at.
    pub fn looked(&self) -> Option<Instant> {
        self.looked
    }

    /// Whether there is something to look at: records came or went, it was reconciled, something is under way, or it was not
    /// looked at for long.
    pub fn is_due(&self, logs: &Logs, now: Instant) -> bool {
        let Some(looked) = self.looked else { return true };
        now < self.active_until
            || self.watched.stirred > looked
            || now - looked > IDLE_INTERVAL
            || self.logs != self.logs_of(logs)
    }

    /// Looks, and writes down what is worth it.
    pub async fn look(&mut self, kafka: &Kafka, logs: &Logs) {
        let (now, at) = (Timestamp(k8s_openapi::jiff::Timestamp::now().as_millisecond()), Instant::now());
        let Some(object) = self.context.pipeline(&self.watched.uid) else { return };
        let before = object.status.clone().unwrap_or_default();
        let mine = self.logs_of(logs);
        let moved = mine != self.logs || self.watched.stirred > self.looked.unwrap_or(at);
        self.looked = Some(at);
        self.logs = mine;
        self.count_letters(kafka, now).await;
        self.look_at_topics(kafka).await;
        // Not taken: a look may be given up at any time.
        let mut rebalances = self.rebalances.clone().unwrap_or_else(|| {
            let told = before.rebalances.clone().unwrap_or_default();
            let times = told.recent.iter().rev().map(|rebalance| rebalance.time.0.as_millisecond());
            self.rebalanced = times.map(Timestamp).collect();
            told
        });
        let mut seen = vec![];
        for stage in &mut self.stages {
            let pods = self.workers.of(&self.watched, stage.stage());
            let rebalance = stage.look(kafka, &self.logs, &pods, &self.workers, now).await;
            seen.extend(rebalance.map(|(rebalance, seconds)| (stage.group_id().to_owned(), rebalance, seconds)));
        }
        for (group_id, rebalance, seconds) in &seen {
            status::add_rebalance(&mut rebalances, group_id, rebalance, *seconds, now);
            self.rebalanced.push(now);
        }
        self.rebalanced.retain(|at| now.since(*at) < HOUR);
        self.rebalanced.drain(..self.rebalanced.len().saturating_sub(REBALANCES));
        rebalances.per_hour = status::per_hour(&self.rebalanced, now);
        let view = self.view();
        self.rebalances = Some(rebalances.clone());
        let is_busy = view.ready() > 0 || !self.complete || self.stages.iter().any(StageLookout::is_unsettled);
        if moved || is_busy || !seen.is_empty() {
            self.active_until = at + ACTIVE;
        }
        let after = status::status(&before, &view, &rebalances, self.watched.generation, now);
        self.context.metrics.seen.set(&self.watched, view, rebalances.count);
        self.write(&object, &before, after).await;
        for (group_id, rebalance, _) in &seen {
            events::rebalanced(&self.context, &object, group_id, rebalance).await;
        }
    }

    /// Says that the counts are no longer of now.
    pub async fn kafka_is_silent(&mut self, error: &str) {
        let now = Timestamp(k8s_openapi::jiff::Timestamp::now().as_millisecond());
        let Some(object) = self.context.pipeline(&self.watched.uid) else { return };
        let before = object.status.clone().unwrap_or_default();
        let stale = status::stale(&before, error, self.watched.generation, now);
        self.write(&object, &before, stale).await;
        self.active_until = Instant::now() + ACTIVE;
    }

    fn logs_of(&self, logs: &Logs) -> Logs {
        let of = |name: &str| {
            let name: Arc<str> = Arc::from(name);
            logs.range((name.clone(), 0)..=(name, i32::MAX))
                .map(|(place, log)| (place.clone(), log.clone()))
                .collect::<Vec<_>>()
        };
        self.topics().flat_map(of).collect()
    }

    async fn count_letters(&mut self, kafka: &Kafka, now: Timestamp) {
        let topics = self.watched.pipeline.policy.dead_letter_topics();
        let mut logs = self.logs.clone();
        logs.retain(|(topic, _), _| topics.contains(topic));
        let (letters, result) = kafka.reader.catch_up(std::mem::take(&mut self.letters), logs, READ_PATIENCE).await;
        self.letters = letters;
        match result {
            Ok(complete) => self.complete = complete,
            Err(error) => {
                self.complete = false;
                debug!(pipeline = self.watched.name, %error, "dead letters could not be read");
            }
        }
        self.letters.tidy(now);
        // What is half read would be less than there is.
        if self.complete {
            self.counted = Some(self.letters.summary(now));
        }
    }

    async fn look_at_topics(&mut self, kafka: &Kafka) {
        if self.topics_seen.is_some_and(|seen| seen.elapsed() < TOPICS_INTERVAL) {
            return;
        }
        let Ok(topics) = self.context.topics(&self.watched.bootstrap_servers) else { return };
        let Ok(brokers) = kafka.observer.brokers().await else { return };
        let (mut shapes, mut all_there) = (BTreeMap::new(), true);
        for topic in self.topics() {
            match topics.describe(topic).await {
                Ok(Some(shape)) => _ = shapes.insert(topic, shape),
                Ok(None) => all_there = false,
                // What may not be seen is said elsewhere.
                Err(_) => {}
            }
        }
        let Pipeline { main, retry, policy, .. } = &self.watched.pipeline;
        let too_small = |topic: &str, purpose| {
            too_small((topic, purpose), shapes.get(topic)?, (&main.topic, shapes.get(&*main.topic)?))
        };
        let mut found: Vec<_> = too_small(&retry.topic, Purpose::Retry).into_iter().collect();
        for topic in policy.dead_letter_topics() {
            let Some(shape) = shapes.get(&*topic) else { continue };
            found.extend(dangers(&topic, shape, policy.longest_delay(), brokers));
            found.extend(too_small(&topic, Purpose::DeadLetters));
        }
        // Topics that are only being created are looked at again.
        (self.unsafe_topics, self.topics_seen) = (found, all_there.then(Instant::now));
    }

    fn view(&self) -> View {
        let of = |stage| self.stages.iter().find(|of| of.stage() == stage).map(|stage| stage.view().clone());
        View {
            main: of(Stage::Main).unwrap_or_default(),
            retry: of(Stage::Retry),
            dead_letters: self.counted.clone(),
            dead_letter_topics: self.watched.pipeline.policy.dead_letter_topics(),
            unsafe_topics: self.unsafe_topics.clone(),
        }
    }

    /// Writes what is new, unless it was only just written: it is written at a later look then.
    async fn write(
        &mut self,
        object: &ErrorHandlingPipeline,
        before: &ErrorHandlingPipelineStatus,
        after: ErrorHandlingPipelineStatus,
    ) {
        let known = status::own(before);
        if known == after {
            return;
        }
        let (now, is_noticeable) = (Instant::now(), status::is_noticeable(&known, &after));
        if !self.pace.allows(is_noticeable, now) {
            if is_noticeable {
                self.active_until = now + ACTIVE;
            }
            return;
        }
        if self.context.may_write().is_err() {
            return;
        }
        self.pace.wrote(now);
        let api: Api<ErrorHandlingPipeline> = Api::namespaced(self.context.client.clone(), &self.watched.namespace);
        let patch = json!({
            "apiVersion": ErrorHandlingPipeline::api_version(&()), "kind": ErrorHandlingPipeline::kind(&()),
            "metadata": {"uid": object.uid()}, "status": status::fields(&after),
        });
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        match api.patch_status(&self.watched.name, &parameters, &Patch::Apply(patch)).await {
            Ok(_) => {}
            Err(kube::Error::Api(refused)) if refused.is_not_found() || refused.is_conflict() => return,
            Err(error) => {
                warn!(pipeline = self.watched.name, %error, "what was counted could not be written into the status");
                return;
            }
        }
        let about = object.object_ref(&());
        let new_types =
            status::new_error_types(before, &after).into_iter().map(|note| (conditions::NEW_ERROR_TYPE, note));
        let alarms = status::alarms(before, &after);
        for (reason, note) in new_types.chain(alarms) {
            events::publish(&self.context, &about, EventType::Warning, reason, &note).await;
        }
    }
}

fn stages(pipeline: &Pipeline) -> Vec<StageLookout> {
    pipeline.stages().iter().map(|stage| StageLookout::new(pipeline, *stage)).collect()
}
