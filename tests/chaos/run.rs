//! The course of a run: faults begin and end as planned, and the history says when.

use std::collections::BTreeMap;
use std::time::Duration;

use lazaret::kafka::connection::Connection;
use lazaret::kafka::topics::Topics;
use tokio::time::{Instant, sleep_until};

use super::brokers::Cluster;
use super::endpoint::Endpoint;
use super::lopsided::{self, Deleted};
use super::schedule::{JOINING, Kind, Planned};
use super::spans::{Span, without};
use super::support::eventually_within;
use super::support::processor::now;
use super::verdict::Fault;
use super::watch::Standstills;
use super::workers::{Site, Stop, Worker};

/// A worker may say that it could not finish when it stops at most so many milliseconds after a broker was disturbed: its
/// coordinator may have been that one, or wait for it.
const AFTERMATH: i64 = 20_000;

/// How long after a disturbance workers may still do what they would not without it, in milliseconds: longer than the session
/// timeout, and than the slowest call.
const SETTLING: i64 = 10_000;

/// How long after a fault that is not lopsided the engine may be busy with it, in milliseconds: the session of a worker that was
/// killed has ended by then, and what has gathered is done.
const HEALING: i64 = 10_000;

/// How long it takes until it is found out that a topic is gone, in milliseconds: librdkafka tries for five seconds, and a round
/// that was under way is tried again.
const NOTICING: i64 = 10_000;

/// How long after a broker was disturbed: librdkafka loses a step of a transaction at times, and the engine waits fifteen
/// seconds for it before it makes a new producer.
const BROKER_HEALING: i64 = 28_000;

/// How long after a standstill of the machine what was held up by it may still be late, in milliseconds.
const CATCHING_UP: i64 = 3_000;

/// The time between two looks at whether brokers are whole again.
const LOOK: Duration = Duration::from_millis(500);

/// What workers may take to start and to join their groups.
const JOIN: Duration = Duration::from_secs(60);

/// How long a worker that is to stop may take to have something under way.
const PATIENCE: Duration = Duration::from_secs(4);

pub struct Run {
    pub site: Site,
    pub cluster: Cluster,
    pub endpoint: Endpoint,
    pub workers: Vec<Worker>,
    pub history: Vec<Happened>,
    pub faults: Vec<Fault>,
    pub stops: Vec<Stop>,
    pub standstills: Standstills,
    /// The dead letter topics that were deleted.
    pub deleted: Vec<Deleted>,
    /// How many records a burst has.
    burst: usize,
    topics: Topics,
    began: i64,
    /// When all workers had joined their groups.
    joined: i64,
    /// When all workers were asked to stop.
    stopped: Option<i64>,
}

/// A fault that came. Times are epoch milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Happened {
    pub kind: Kind,
    pub victim: usize,
    pub from: i64,
    /// When what was disturbed was whole again; the end of time as long as it is not.
    pub until: i64,
    /// Whether a broker that was disturbed has been left alone since, and gets well.
    is_over: bool,
}

impl Happened {
    /// Whether a broker gets well, and is not yet.
    fn is_healing(&self) -> bool {
        self.is_over && self.until == i64::MAX
    }
}

impl Run {
    pub fn start(site: Site, cluster: Cluster, endpoint: Endpoint, burst: usize) -> Self {
        let mut workers = site.workers();
        workers.iter_mut().for_each(|worker| worker.start(&site));
        let standstills = Standstills::default();
        standstills.watch();
        Self {
            topics: Topics::new(&Connection::new(&*cluster.address)).unwrap(),
            site,
            cluster,
            endpoint,
            workers,
            history: vec![],
            faults: vec![],
            stops: vec![],
            standstills,
            deleted: vec![],
            burst,
            began: now(),
            joined: i64::MAX,
            stopped: None,
        }
    }

    /// Waits until each worker has partitions with something to do in them. By then brokers have begun to serve transactions,
    /// too: nothing is called in the retry stage before. Where the main stage tries again itself, that stage has nothing to do.
    pub async fn join(&mut self) {
        let keeps_order = self.site.variant.keeps_order;
        for worker in self.workers.iter().filter(|worker| worker.stage == "main" || !keeps_order) {
            let what = format!("{} calls the endpoint", worker.name);
            eventually_within(JOIN, &what, async || self.endpoint.has_heard(&worker.caller()).then_some(())).await;
        }
        self.joined = now();
    }

    /// Lets all faults come and go.
    pub async fn suffer(&mut self, planned: &[Planned]) {
        let begins = planned.iter().map(|fault| (fault.at, true, fault));
        let ends = planned.iter().map(|fault| (fault.end(), false, fault));
        let mut events: Vec<_> = begins.chain(ends).collect();
        events.sort_by_key(|(at, _, fault)| (*at, fault.at));
        let (began, mut late) = (Instant::now(), Duration::ZERO);
        for (at, begins, fault) in events {
            self.wait_until(began + at + late).await;
            match begins {
                true => self.begin(*fault).await,
                false => self.end(*fault).await,
            }
            // What had to be waited for moves all that comes after it.
            late = late.max(began.elapsed().saturating_sub(at));
        }
    }

    /// Waits until then, and sees meanwhile when brokers are whole again.
    async fn wait_until(&mut self, then: Instant) {
        while self.history.iter().any(Happened::is_healing) && Instant::now() + LOOK < then {
            tokio::time::sleep(LOOK).await;
            if self.cluster.is_whole() {
                self.end_broker_faults();
            }
        }
        sleep_until(then).await;
    }

    async fn begin(&mut self, Planned { kind, victim, .. }: Planned) {
        if kind.is_of_brokers() {
            // The plan leaves time for it, but not on every machine enough.
            self.heal_brokers().await;
        }
        self.look_for_the_dead();
        if matches!(kind, Kind::WorkerTerm | Kind::WorkerAway) {
            self.wait_for_a_call_of(victim).await;
        }
        println!("{} {kind} {victim}", now());
        self.history.push(Happened { kind, victim, from: now(), until: i64::MAX, is_over: false });
        match kind {
            Kind::WorkerKill => {
                let ended = self.workers[victim].kill();
                self.faults.extend(ended.and_then(|status| self.workers[victim].ended_by_itself(status)));
            }
            Kind::WorkerTerm | Kind::WorkerAway => self.workers[victim].ask_to_stop(),
            Kind::WorkerPause => self.workers[victim].signal("STOP"),
            Kind::BrokerKill => self.cluster.kill(victim),
            Kind::BrokerTerm => self.cluster.signal(victim, "TERM"),
            Kind::BrokerPause => self.cluster.signal(victim, "STOP"),
            Kind::Outage => self.endpoint.set_outage(true),
            kind => self.set_lopsided(kind, victim, true).await,
        }
    }

    async fn set_lopsided(&mut self, kind: Kind, victim: usize, on: bool) {
        let (pipelines, endpoint, topics) = (&self.site.pipelines, &self.endpoint, &self.topics);
        match kind {
            Kind::DeadLettersDeleted if on => {
                let deleted = lopsided::delete_dead_letters(victim, &self.cluster.address, pipelines, topics).await;
                self.deleted.push(deleted);
            }
            Kind::DeadLettersDeleted => {
                let plans = &pipelines[lopsided::pipeline(kind, victim, pipelines.len())].topics;
                let made = async || topics.create_missing(plans).await.ok();
                eventually_within(JOIN, "a topic is made again", made).await;
            }
            kind => {
                let site = lopsided::Site { pipelines, endpoint, topics, burst: self.burst };
                lopsided::set(kind, victim, on, site).await;
            }
        }
    }

    /// Waits, not for long, until a worker has something under way: one that has nothing to finish stops cleanly anyhow.
    async fn wait_for_a_call_of(&self, victim: usize) {
        let (caller, began) = (self.workers[victim].caller(), Instant::now());
        while !self.endpoint.keeps_waiting(&caller) && began.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn end(&mut self, Planned { kind, victim, .. }: Planned) {
        match kind {
            Kind::WorkerKill => self.workers[victim].start(&self.site),
            Kind::WorkerTerm | Kind::WorkerAway => {
                self.stops.push(self.workers[victim].stopped().await);
                self.workers[victim].start(&self.site);
            }
            Kind::WorkerPause => self.workers[victim].signal("CONT"),
            Kind::BrokerKill => self.cluster.start_broker(victim),
            Kind::BrokerTerm => {
                self.cluster.ended(victim).await;
                self.cluster.start_broker(victim);
            }
            Kind::BrokerPause => self.cluster.signal(victim, "CONT"),
            Kind::Outage => self.endpoint.set_outage(false),
            kind => self.set_lopsided(kind, victim, false).await,
        }
        // A broker is whole only when the others have its replicas in sync again.
        if kind.is_of_brokers() {
            self.history.iter_mut().rfind(|past| past.kind == kind).into_iter().for_each(|past| past.is_over = true);
        } else {
            let open = self.history.iter_mut().find(|happened| happened.kind == kind && happened.until == i64::MAX);
            open.into_iter().for_each(|happened| happened.until = now());
        }
    }

    async fn heal_brokers(&mut self) {
        self.cluster.heal().await;
        self.end_broker_faults();
    }

    fn end_broker_faults(&mut self) {
        let open = self.history.iter_mut().filter(|past| past.kind.is_of_brokers() && past.until == i64::MAX);
        open.for_each(|happened| happened.until = now());
    }

    /// Waits until the cluster is whole again.
    pub async fn heal(&mut self) {
        self.heal_brokers().await;
        self.look_for_the_dead();
    }

    fn look_for_the_dead(&mut self) {
        for worker in &mut self.workers {
            if let Some(status) = worker.died() {
                self.faults.extend(worker.ended_by_itself(status));
                worker.start(&self.site);
            }
        }
    }

    /// Stops all workers, and judges how they stopped over the whole run.
    pub async fn stop(&mut self) {
        self.look_for_the_dead();
        self.stopped = Some(now());
        self.workers.iter_mut().for_each(Worker::ask_to_stop);
        for worker in &mut self.workers {
            self.stops.push(worker.stopped().await);
        }
        // A dead letter that is refused is left to the next owner, and that is said.
        let refuses = |kind: Kind| matches!(kind, Kind::DeadLettersRefused | Kind::DeadLettersDeleted);
        let disturbs = |kind: Kind| kind.is_of_brokers() || refuses(kind);
        let disturbed: Vec<_> = self.history.iter().filter(|past| disturbs(past.kind)).collect();
        for stop in &self.stops {
            let excused = disturbed
                .iter()
                .any(|past| past.from <= stop.until && stop.from <= past.until.saturating_add(AFTERMATH));
            match stop.code {
                Some(0) => {}
                Some(1) if excused => {}
                _ => self.faults.push(Fault::UncleanStop(stop.clone())),
            }
        }
    }

    /// From when to when no worker was paused, none lost partitions, and no broker was disturbed, with some time after each.
    pub fn quiet_times(&self) -> Vec<Span> {
        let rough = |kind: Kind| kind.is_of_brokers() || kind == Kind::WorkerPause;
        let disturbed = self.history.iter().filter(|past| rough(past.kind));
        let mut loud: Vec<_> = disturbed.map(|past| (past.from, past.until.saturating_add(SETTLING))).collect();
        // A loss is noticed some time after it has happened.
        let losses = self.workers.iter().flat_map(Worker::losses);
        loud.extend(losses.map(|at| (at - SETTLING, at + SETTLING)));
        loud.push((now(), i64::MAX));
        without(self.began, loud)
    }

    /// From when to when nothing happened after which a pipeline may stand still: lopsided faults only, but for one that hits
    /// all of it, and for the time until it is noticed that a topic is gone.
    pub fn calm_times(&self, pipeline: usize) -> Vec<Span> {
        let spares = |past: &&Happened| {
            past.kind.is_lopsided() && (past.kind != Kind::PipelineUnanswered || self.pipeline_of(past) != pipeline)
        };
        let disturbed = self.history.iter().filter(|past| !spares(past));
        let mut loud: Vec<_> =
            disturbed.map(|past| (past.from, past.until.saturating_add(healing(past.kind)))).collect();
        let deletions = self.deleted.iter().filter(|deleted| deleted.pipeline == pipeline);
        loud.extend(deletions.map(|deleted| (deleted.from, deleted.until + NOTICING)));
        loud.extend(self.standstills.all().iter().map(|(from, until)| (*from, until + CATCHING_UP)));
        loud.push((self.stopped.unwrap_or_else(now), i64::MAX));
        without(self.joined + JOINING.as_millis() as i64, loud)
    }

    /// The lopsided faults that hit a pipeline.
    pub fn hits(&self, pipeline: usize) -> Vec<Happened> {
        let hits = self.history.iter().filter(|past| past.kind.is_lopsided() && self.pipeline_of(past) == pipeline);
        hits.copied().collect()
    }

    fn pipeline_of(&self, past: &Happened) -> usize {
        lopsided::pipeline(past.kind, past.victim, self.site.pipelines.len())
    }

    /// How often workers said that they could not finish when they stopped.
    pub fn unfinished_stops(&self) -> usize {
        self.stops.iter().filter(|stop| stop.code != Some(0)).count()
    }

    /// How often each kind of fault came.
    pub fn counts(&self) -> BTreeMap<Kind, usize> {
        let mut counts = BTreeMap::new();
        for happened in &self.history {
            *counts.entry(happened.kind).or_default() += 1;
        }
        counts
    }
}

fn healing(kind: Kind) -> i64 {
    if kind.is_of_brokers() { BROKER_HEALING } else { HEALING }
}
