//! The chaos test: both stages of two pipelines run as several processes each on three brokers of Apache Kafka, and
//! workers, brokers and the endpoint fail again and again while records flow. Afterwards every record is accounted for.
//!
//! - `LAZARET_CHAOS_MINUTES` (a bit more than one): how long faults come.
//! - `LAZARET_CHAOS_SEED` (random): which faults come, and when; what records are, what becomes of them and how long it
//!   takes. It repeats all that; what the faults meet is up to the machine.
//! - `LAZARET_CHAOS_VARIANT` (none): ways of the engine that differ from its defaults, as words of the spec:
//!   `Partition,Range`.

mod brokers;
mod children;
mod endpoint;
mod hand_over;
mod leaderless;
mod liveness;
mod lopsided;
mod order;
mod read;
mod records;
mod run;
mod schedule;
mod source;
mod spans;
mod summary;
#[path = "../support/mod.rs"]
mod support;
mod variant;
mod verdict;
mod watch;
mod workers;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use brokers::Cluster;
use endpoint::{Endpoint, Heard};
use lazaret::kafka::connection::Connection;
use lazaret::kafka::topics::Topics;
use read::Course;
use records::Records;
use run::Run;
use schedule::{Kind, LONG_RUN, LOPSIDED, SHORT_RUN};
use source::{Extra, Written, write_in_transactions, write_plainly};
use support::pipeline::pipeline;
use support::unique;
use tokio::task::{JoinHandle, block_in_place, spawn_blocking};
use variant::Variant;
use verdict::{Fault, Terms, verify};
use watch::watch_commits;
use workers::{Site, Told};

/// How long faults come in a small run.
const SMALL: Duration = Duration::from_secs(85);

/// After this time without a call or a commit, nothing more is expected to happen.
const QUIET: Duration = Duration::from_secs(30);

/// The records a second that the plain producer writes to each topic: the first and the compacted one.
const RATE: [usize; 2] = [150, 50];

/// How many records a burst has in a long run, and in another one.
const BURST: [usize; 2] = [16_000, 2_000];

/// Each of the tests that start brokers takes the machine for itself.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

struct Plan {
    seed: u64,
    period: Duration,
    variant: Variant,
}

impl Plan {
    fn from_env() -> Self {
        let text = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let minutes = text("LAZARET_CHAOS_MINUTES").map(|text| text.parse::<f64>().expect("a number of minutes"));
        Self {
            seed: text("LAZARET_CHAOS_SEED").map_or_else(rand::random, |text| text.parse().expect("a number")),
            period: minutes.map_or(SMALL, |minutes| Duration::from_secs_f64(minutes * 60.0)),
            variant: text("LAZARET_CHAOS_VARIANT").unwrap_or_default().parse().expect("words of a variant"),
        }
    }

    fn burst(&self) -> usize {
        BURST[usize::from(self.period < LONG_RUN)]
    }

    /// The lopsided faults that it may have: those that take long only where there is time for them. In the order in which records came, thousands that wait for each other say nothing.
    fn lopsided(&self) -> Vec<Kind> {
        let is_short = self.period < SHORT_RUN;
        let fits = |kind: &Kind| match kind {
            Kind::DeadLettersDeleted => !is_short,
            Kind::RetriesBurst => !is_short && !self.variant.keeps_order,
            _ => true,
        };
        LOPSIDED.into_iter().filter(fits).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_promise_holds_while_workers_and_brokers_fail() {
    let _alone = ALONE.lock().await;
    let (plan, began) = (Plan::from_env(), Instant::now());
    let name = unique("chaos");
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(&name);
    fs::create_dir_all(&directory).unwrap();
    println!(
        "LAZARET_CHAOS_SEED={} LAZARET_CHAOS_VARIANT={} for {:?}; logs, until it succeeds: {}",
        plan.seed,
        plan.variant,
        plan.period,
        directory.display()
    );
    let cluster = Cluster::start(&directory).await;
    let address = cluster.address.clone();
    let courses = courses(&name, &plan);
    let topics = Topics::new(&Connection::new(&*address)).unwrap();
    for course in &courses {
        topics.create_missing(&course.pipeline.topics).await.unwrap();
    }
    let endpoint = Endpoint::start(courses.iter().map(|course| course.records).collect()).await;
    let told = |course: &Course| Told {
        name: course.pipeline.name.clone(),
        topic: course.pipeline.main.topic.to_string(),
        dead_letter_topic: course.pipeline.policy.default.dead_letter_topic.to_string(),
        partitions: course.partitions(&course.pipeline.main.topic) as usize,
        compacted: course.compacted,
        topics: course.pipeline.topics.clone(),
        extra: Arc::new(Extra::default()),
    };
    let site = Site {
        directory: directory.clone(),
        bootstrap_servers: address.clone(),
        endpoint: endpoint.url.clone(),
        variant: plan.variant.clone(),
        pipelines: courses.iter().map(told).collect(),
    };
    let end = Arc::new(AtomicBool::new(false));
    let ends = EndOnDrop(end.clone());
    let writes = courses.iter().zip(&site.pipelines).zip(RATE);
    let writers: Vec<_> = writes.map(|((course, told), rate)| write(&address, course, told, rate, &end)).collect();
    let settled = Arc::new(AtomicBool::new(false));
    let ends_watch = EndOnDrop(settled.clone());
    let commits = watch_commits(&address, courses.iter().flat_map(Course::groups).collect(), settled);

    let mut run = Run::start(site, cluster, endpoint, plan.burst());
    run.join().await;
    run.suffer(&schedule::plan(plan.seed, plan.period, run.workers.len(), brokers::BROKERS, &plan.lopsided())).await;
    run.heal().await;
    drop(ends);
    let mut written = vec![];
    for (plain, in_transactions) in writers {
        written.push([plain.await.unwrap(), in_transactions.await.unwrap()].concat());
    }
    let faults_took = began.elapsed();
    let uncommitted = wait_until_settled(&courses, &address, &run.endpoint).await;
    run.faults.extend(uncommitted);
    drop(ends_watch);
    let commits = commits.await.unwrap();
    run.stop().await;

    let heard = run.endpoint.calls();
    let mut faults = std::mem::take(&mut run.faults);
    let mut seen = vec![];
    for (index, (course, written)) in courses.iter().zip(&written).enumerate() {
        let heard: Vec<Heard> = heard.iter().filter(|heard| heard.pipeline == index).cloned().collect();
        let deleted = run.deleted.iter().filter(|deleted| deleted.pipeline == index);
        let letters: Vec<_> = deleted.clone().flat_map(|deleted| deleted.letters.iter().cloned()).collect();
        let mut of_course = block_in_place(|| course.seen(&address, written, &heard, letters));
        of_course.deletions = deleted.map(|deleted| (deleted.from, deleted.until)).collect();
        of_course.quiet = run.quiet_times();
        of_course.stops = run.stops.clone();
        of_course.commits = commits.clone();
        of_course.calm = run.calm_times(index);
        let hits = run.hits(index);
        let refuses = |kind: Kind| matches!(kind, Kind::DeadLettersRefused | Kind::DeadLettersDeleted);
        let refusals = hits.iter().filter(|hit| refuses(hit.kind));
        of_course.refusals = refusals.map(|refusal| (refusal.from, refusal.until)).collect();
        faults.extend(verify(&of_course));
        seen.push(of_course);
    }
    let took = [faults_took, began.elapsed()];
    println!("{}", summary::of(&plan.seed, &plan.variant, &run, &seen, &faults, took));
    assert!(
        faults.is_empty(),
        "LAZARET_CHAOS_SEED={} LAZARET_CHAOS_VARIANT={}: {} faults, logs in {}: {:#?}",
        plan.seed,
        plan.variant,
        faults.len(),
        directory.display(),
        some_of_each(&faults)
    );
    drop(run);
    fs::remove_dir_all(directory).unwrap();
}

/// A pipeline on a topic that keeps everything, and one on a compacted topic.
fn courses(name: &str, plan: &Plan) -> Vec<Course> {
    let course = |compacted| {
        let name = format!("{name}-{}", if compacted { "compacted" } else { "all" });
        let terms = Terms {
            exactly_once: plan.variant.is_exactly_once(),
            ordering: plan.variant.ordering,
            keeps_order: plan.variant.keeps_order,
        };
        let records = Records { seed: plan.seed, keys: if compacted { 40 } else { 500 }, keyless: !compacted };
        let pipeline = pipeline(&name, &plan.variant.spec(&name, "http://127.0.0.1:9/", compacted));
        Course { pipeline, records, compacted, terms }
    };
    vec![course(false), course(true)]
}

/// Has writers end, also when the run fails: the runtime waits for the one that blocks.
struct EndOnDrop(Arc<AtomicBool>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

type Writer = JoinHandle<Vec<Written>>;

fn write(address: &str, course: &Course, told: &Told, rate: usize, end: &Arc<AtomicBool>) -> (Writer, Writer) {
    let (address, topic, records) = (address.to_owned(), told.topic.clone(), course.records);
    let shape = [rate, told.partitions];
    let plain =
        tokio::spawn(write_plainly(address.clone(), topic.clone(), records, shape, told.extra.clone(), end.clone()));
    let end = end.clone();
    (plain, spawn_blocking(move || write_in_transactions(&address, &topic, records, &end)))
}

/// Waits until everything is committed, or nothing happens any more: what is then missing is a fault. It may not take a stop
/// or a rebalance to have it committed.
async fn wait_until_settled(courses: &[Course], address: &str, endpoint: &Endpoint) -> Vec<Fault> {
    let (mut last, mut changed) = (None, Instant::now());
    loop {
        let reach: Vec<_> = block_in_place(|| courses.iter().flat_map(|course| course.reach(address)).collect());
        let missing: Vec<_> = reach.iter().filter(|reach| !reach.is_at_end()).cloned().collect();
        let now = Some((endpoint.count(), reach));
        if now != last {
            (last, changed) = (now, Instant::now());
        }
        if missing.is_empty() || changed.elapsed() > QUIET {
            return missing.into_iter().map(Fault::Uncommitted).collect();
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// A few faults of each kind: many of one must not hide another.
fn some_of_each(faults: &[Fault]) -> Vec<&Fault> {
    let of = |promise| faults.iter().filter(move |fault| fault.promise() == promise).take(8);
    Fault::PROMISES.into_iter().flat_map(of).collect()
}
