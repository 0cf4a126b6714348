//! The kill test: the two stages of a pipeline run as processes of their own on Apache Kafka and are killed (`kill -9`)
//! again and again while records flow. Afterwards every record is accounted for.
//!
//! - `LAZARET_KILLS` (5), `LAZARET_KILL_RECORDS` (5000): how often, and over how many records.
//! - `LAZARET_KILL_SEED` (random): who is killed, and when. It repeats the choices; what they meet is up to the machine.

#[path = "kill/bed.rs"]
mod bed;
mod support;
#[path = "kill/verdict.rs"]
mod verdict;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::{Duration, Instant};

use bed::{Endpoint, Victim, lot, write_records};
use lazaret::domain::pipeline::Pipeline;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use support::pipeline::{pipeline, yaml};
use support::topics::{Seen as Record, committed, read_all};
use support::{Broker, DEADLINE, kafka, unique};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use verdict::{Letter, MAX_ATTEMPTS, Place, Reach, Retry, Seen, Sums, settled, verify};

/// What a kill waits for, in most cases: that its victim has made so many calls since it was started; main stage, retry
/// stage. A dead member's partitions come back after the session timeout of 6 s, so this takes longer than that.
const PROGRESS: [RangeInclusive<usize>; 2] = [1..=800, 1..=60];

/// After which the kill does not wait for that any longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// The pause between that and the kill, in milliseconds.
const PAUSE: RangeInclusive<u64> = 0..=600;

/// One kill in so many does not wait for any progress, so that a process also dies while it joins its group. It comes
/// so many milliseconds after the one before.
const HASTY: (u32, RangeInclusive<u64>) = (5, 0..=4_000);

/// The records of one kill come over this time, which is about the time between two kills.
const PERIOD: Duration = Duration::from_secs(4);

struct Plan {
    seed: u64,
    kills: usize,
    records: usize,
}

impl Plan {
    fn from_env() -> Self {
        let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
        let size = |name, default| number(name).map_or(default, |size| usize::try_from(size).unwrap());
        Self {
            seed: number("LAZARET_KILL_SEED").unwrap_or_else(rand::random),
            kills: size("LAZARET_KILLS", 5),
            records: size("LAZARET_KILL_RECORDS", 5_000),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_record_is_lost_when_workers_are_killed() {
    let (plan, began) = (Plan::from_env(), Instant::now());
    let Plan { seed, kills, records } = plan;
    let endpoint = Endpoint::start().await;
    let (name, spec) = (unique("kill"), spec(&endpoint.url));
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(&name);
    fs::create_dir_all(&directory).unwrap();
    println!(
        "LAZARET_KILL_SEED={seed} kills={kills} records={records}; logs, until it succeeds: {}",
        directory.display()
    );
    let pipeline = pipeline(&name, &spec);
    Broker::Kafka.create_topics(&pipeline).await;
    let file = directory.join("pipeline.yaml");
    fs::write(&file, yaml(&name, &spec)).unwrap();
    let start = |stage: &str| {
        let log = OpenOptions::new().create(true).append(true).open(directory.join(format!("{stage}.log")));
        let (file, listen) = (file.to_str().unwrap(), "127.0.0.1:0");
        let kafka = ["--bootstrap-servers", kafka()];
        let args = ["worker", "--stage", stage, "--file", file, "--listen", listen];
        Victim::start(&[&args[..], &kafka].concat(), log.unwrap())
    };
    let mut victims = [start("main"), start("retry")];

    let (allow, allowed) = watch::channel(0);
    let topic = pipeline.main.topic.to_string();
    let writer = tokio::spawn(write_records(topic, records, lot(records / kills.max(1), PERIOD), allowed));
    let idle = kill_again_and_again(&plan, &mut victims, &endpoint, &allow).await;
    allow.send_replace(records);
    let written = writer.await.unwrap();
    let killed = began.elapsed().as_secs();
    wait_until_settled(&pipeline, &endpoint, &written).await;
    for victim in victims {
        victim.stop().await;
    }

    let reach = reach(&pipeline, &written);
    let retries = read_retries(&pipeline);
    let seen = Seen { written, calls: endpoint.calls(), retries, letters: read_letters(&pipeline), reach };
    let (faults, seconds) = (verify(&seen), began.elapsed().as_secs());
    let Sums { calls, cut_off, repeated_calls, repeated_retries, dead_letters, repeated_dead_letters } =
        Sums::of(&seen);
    println!(
        "seed {seed}: {kills} kills ({idle} before any call) of {records} records in {seconds} s ({killed} s of kills): \
         {calls} calls, {cut_off} of them cut off; {dead_letters} dead letters; done twice: {repeated_calls} calls, \
         {repeated_retries} retry records, {repeated_dead_letters} dead letters; {} faults",
        faults.len()
    );
    assert!(faults.is_empty(), "seed {seed}: {:#?}", &faults[..faults.len().min(20)]);
    fs::remove_dir_all(directory).unwrap();
}

fn spec(url: &str) -> String {
    format!(
        "processor: {{http: {{url: '{url}'}}, maxInFlight: 64}}\nordering: Key\n\
         retry: {{strategy: Exponential, initialDelay: 100ms, maxDelay: 500ms, maxAttempts: {MAX_ATTEMPTS}}}"
    )
}

/// Kills one process after the other, and lets the records of each kill come. Returns how many kills came before their
/// victim had made a call.
async fn kill_again_and_again(
    plan: &Plan,
    victims: &mut [Victim; 2],
    endpoint: &Endpoint,
    allow: &watch::Sender<usize>,
) -> usize {
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let (mut calls, mut idle) = (endpoint.by_stage(), 0);
    // What each stage had called when its process was started.
    let mut start = [0; 2];
    for kill in 1..=plan.kills {
        allow.send_replace(plan.records * kill / plan.kills);
        let victim = rng.random_range(0..victims.len());
        let (progress, hasty) = (rng.random_range(PROGRESS[victim].clone()), rng.random_ratio(1, HASTY.0));
        let pause = Duration::from_millis(rng.random_range(if hasty { HASTY.1 } else { PAUSE }));
        if !hasty {
            // In vain at times: the other stage may be down, and with it what this one would do.
            let _ = timeout(PATIENCE, calls.wait_for(|calls| calls[victim] >= start[victim] + progress)).await;
        }
        // Not for something to happen: the moment of the kill is to be any moment.
        sleep(pause).await;
        victims[victim].kill_and_restart();
        let now = calls.borrow()[victim];
        idle += usize::from(now == start[victim]);
        start[victim] = now;
    }
    idle
}

/// Waits until every record is settled and committed, or nothing happens any more: what is then missing is for the
/// verdict to say.
async fn wait_until_settled(pipeline: &Pipeline, endpoint: &Endpoint, written: &[Place]) {
    let (mut last, mut changed) = (None, Instant::now());
    loop {
        let (calls, letters) = (endpoint.calls(), read_letters(pipeline));
        let open = settled(written.len(), &calls, &letters).iter().filter(|settled| !**settled).count();
        let reach = reach(pipeline, written);
        if open == 0 && reach.iter().all(Reach::is_at_end) {
            return;
        }
        let now = Some((calls.len(), letters.len(), reach));
        if now != last {
            (last, changed) = (now, Instant::now());
        }
        if changed.elapsed() > DEADLINE {
            return println!("nothing happens for {DEADLINE:?}, and {open} records are open");
        }
        sleep(Duration::from_millis(250)).await;
    }
}

/// How far both groups came. What is committed is read first: when it then reaches the end, nothing was under way.
fn reach(pipeline: &Pipeline, written: &[Place]) -> Vec<Reach> {
    let (main, retry) = (&pipeline.main, &pipeline.retry);
    let by_main = committed(kafka(), &main.group_id, &main.topic);
    let by_retry = committed(kafka(), &retry.group_id, &retry.topic);
    let retries = read_all(kafka(), &retry.topic);
    let retries = ends(retries.iter().map(|record| (record.partition, record.offset)));
    let mut reach = vec![];
    for (topic, ends, committed) in
        [(&main.topic, ends(written.iter().copied()), by_main), (&retry.topic, retries, by_retry)]
    {
        reach.extend(ends.into_iter().map(|(partition, end)| {
            let committed = committed.get(&partition).map(|(offset, _)| *offset);
            Reach { topic: topic.to_string(), partition, end, committed }
        }));
    }
    reach
}

/// The offset after the last record of each partition.
fn ends(places: impl Iterator<Item = Place>) -> BTreeMap<i32, i64> {
    let mut ends = BTreeMap::new();
    for (partition, offset) in places {
        let end = ends.entry(partition).or_insert(0);
        *end = (*end).max(offset + 1);
    }
    ends
}

fn read_retries(pipeline: &Pipeline) -> Vec<Retry> {
    let retry = |record: &Record| {
        let due = header(record, "lazaret-due");
        Retry { number: number(record.value.as_deref()), place: place(record), attempts: attempts(record), due }
    };
    read_all(kafka(), &pipeline.retry.topic).iter().map(retry).collect()
}

fn read_letters(pipeline: &Pipeline) -> Vec<Letter> {
    let letter = |record: &Record| {
        let envelope = record.json();
        let value = envelope["originalValue"].as_str().map(str::as_bytes);
        Letter { number: number(value), place: place(record), attempts: attempts(record) }
    };
    read_all(kafka(), &pipeline.policy.default.dead_letter_topic).iter().map(letter).collect()
}

fn number(value: Option<&[u8]>) -> usize {
    std::str::from_utf8(value.unwrap()).unwrap().parse().unwrap()
}

fn place(record: &Record) -> Place {
    (header(record, "lazaret-original-partition"), header(record, "lazaret-original-offset"))
}

fn attempts(record: &Record) -> u32 {
    header(record, "lazaret-attempts")
}

fn header<T: std::str::FromStr<Err: std::fmt::Debug>>(record: &Record, name: &str) -> T {
    record.header(name).unwrap_or_else(|| panic!("{name} is missing: {record:?}")).parse().unwrap()
}
